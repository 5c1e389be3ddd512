/* Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011), keyed by (seed, stream, index).
 *
 * Number i of a stream is a pure function of (seed, stream, i): no state, so the numbers are the same at any
 * thread count, rank count and backend. */
#ifndef TENON_RANDOM_H
#define TENON_RANDOM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One Philox block: four 32-bit words for counter (index, stream) under key `seed`. */
void tn_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t word[4]);

/* Word number `index` of the stream: word index%4 of block index/4. */
uint32_t tn_random_u32(uint64_t seed, uint64_t stream, uint64_t index);
/* Uniform in [0, 1) with 24 bits: tn_random_u32 >> 8 times 2^-24 (exact in f32). */
float tn_random_uniform(uint64_t seed, uint64_t stream, uint64_t index);
/* Standard normal by Box-Muller over words (2*index, 2*index+1) of the stream, computed in f64. */
double tn_random_normal(uint64_t seed, uint64_t stream, uint64_t index);
/* Uniform integer in [0, bound), unbiased enough for bound < 2^32 (64-bit multiply-shift over two words). bound >= 1. */
uint64_t tn_random_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound);
/* A uniform permutation of 0..count-1 (Fisher-Yates; draw i uses index i). */
void tn_random_permutation(uint64_t seed, uint64_t stream, int64_t count, int64_t *permutation);
/* Index drawn with probability weight[i]/sum; weights >= 0, and finite; -1 when none is
 * above 0. Drawn with 53 bits: what is less likely than 2^-53 is never drawn. Cost O(count). */
int64_t tn_random_categorical(uint64_t seed, uint64_t stream, uint64_t index, const float *weight,
                              int64_t count);
/* A stream number for a name: the first 8 bytes of SHA-256 are overkill; this is FNV-1a 64. */
uint64_t tn_random_stream(const char *name);

#ifdef __cplusplus
}
#endif
#endif
