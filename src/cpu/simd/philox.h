/* Philox4x32-10, 16 blocks at a time: the same bits as tn_philox. */
#ifndef TN_CPU_SIMD_PHILOX_H
#define TN_CPU_SIMD_PHILOX_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define TN_PHILOX_LANES 16

#if defined(__AVX512F__)
#define TN_PHILOX_BYTES 64
#elif defined(__AVX2__)
#define TN_PHILOX_BYTES 32
#else
#define TN_PHILOX_BYTES 16
#endif

/* A 64-bit lane for each block. Only the low halves count: the multiplication reads no more, and
 * its result is shifted when the high half is wanted. */
typedef uint64_t tn_philox_row __attribute__((vector_size(TN_PHILOX_BYTES)));
typedef uint32_t tn_philox_half __attribute__((vector_size(TN_PHILOX_BYTES / 2)));

static inline tn_philox_row tn_philox_multiply(tn_philox_row a, tn_philox_row b)
{
#if defined(__AVX512F__)
    return (tn_philox_row)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (tn_philox_row)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (tn_philox_row)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
    return (a & 0xffffffff) * (b & 0xffffffff);
#endif
}

/* word[w][lane]: word w of block first + lane. */
static inline void tn_philox_16(uint64_t seed, uint64_t stream, uint64_t first,
                                uint32_t word[4][TN_PHILOX_LANES])
{
    static const uint64_t lanes[TN_PHILOX_LANES] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                    8, 9, 10, 11, 12, 13, 14, 15};
    enum { WIDTH = TN_PHILOX_BYTES / 8, SETS = TN_PHILOX_LANES / WIDTH };
    const tn_philox_row zero = {0}, m0 = UINT64_C(0xD2511F53) - zero,
                        m1 = UINT64_C(0xCD9E8D57) - zero;
    tn_philox_row c0[SETS], c1[SETS], c2[SETS], c3[SETS];
    for (int s = 0; s < SETS; s++) {
        memcpy(&c0[s], lanes + s * WIDTH, sizeof c0[s]);
        c0[s] += first;
        c1[s] = c0[s] >> 32;
        c2[s] = stream - zero;
        c3[s] = c2[s] >> 32;
    }
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        for (int s = 0; s < SETS; s++) {
            tn_philox_row p0 = tn_philox_multiply(c0[s], m0), p1 = tn_philox_multiply(c2[s], m1);
            c0[s] = (p1 >> 32) ^ c1[s] ^ ((uint64_t)k0 - zero);
            c1[s] = p1;
            c2[s] = (p0 >> 32) ^ c3[s] ^ ((uint64_t)k1 - zero);
            c3[s] = p0;
        }
        k0 += UINT32_C(0x9E3779B9);
        k1 += UINT32_C(0xBB67AE85);
    }
    for (int s = 0; s < SETS; s++) {
        tn_philox_half half[4] = {__builtin_convertvector(c0[s], tn_philox_half),
                                  __builtin_convertvector(c1[s], tn_philox_half),
                                  __builtin_convertvector(c2[s], tn_philox_half),
                                  __builtin_convertvector(c3[s], tn_philox_half)};
        for (int w = 0; w < 4; w++) memcpy(&word[w][s * WIDTH], &half[w], sizeof half[w]);
    }
}

#endif
