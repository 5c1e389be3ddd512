/* Which random numbers a random node draws: one definition for all backends.
 *
 * A node has a seed and a stream; at run-time value t of its `step` operand (none: t = 0) it draws
 * from Philox stream tn_stream_at(stream, t) (tenon/random.h says what word i, uniform i and normal
 * i of a stream are):
 *   RANDOM_UNIFORM  element i is uniform i
 *   RANDOM_NORMAL   element i is normal i
 *   DROPOUT         element i (row-major) is dropped when tn_dropout_bits(i) <
 *                   tn_dropout_threshold(rate), and else scaled by 2^16 / (2^16 - threshold): the
 *                   rate is rounded to a multiple of 2^-16, and the mean is kept exactly
 *   PERMUTATION     the permutation of the stream
 *   CATEGORICAL     row n is argmax over v of logit[n, v] - log(-log u(n V + v)), lowest index
 *                   first, where u(i) = ((word i >> 9) + 1/2) 2^-23. A NaN logit is never drawn; a
 *                   row of only NaN and -inf gives 0. */
#ifndef TN_GRAPH_RANDOM_H
#define TN_GRAPH_RANDOM_H

#include "graph/kernel.h"
#include "tenon/random.h"

typedef struct tn_random_attribute {
    uint64_t seed, stream;
    double rate; /* DROPOUT */
} tn_random_attribute;

/* The stream at a step: the distance to the stream at step 0 is MurmurHash3's 64-bit finaliser, a
 * bijection with 0 -> 0, so that no small difference of names, counters or steps leads from one
 * stream to another. */
static inline uint64_t tn_stream_at(uint64_t stream, int64_t step)
{
    uint64_t h = (uint64_t)step;
    h = (h ^ h >> 33) * UINT64_C(0xff51afd7ed558ccd);
    h = (h ^ h >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return stream + (h ^ h >> 33);
}

/* Dropout takes 16 bits an element, dealt out so that a vector of 16 Philox blocks needs no
 * shuffling: elements come in groups of 128; of group g, element 16 k + lane (k < 8) takes half k %
 * 2 (0: low) of word k / 2 of block 16 g + lane. */
static inline uint32_t tn_dropout_bits(uint64_t seed, uint64_t stream, uint64_t element)
{
    uint32_t word[4];
    tn_philox(seed, stream, element / 128 * 16 + element % 16, word);
    uint64_t k = element / 16 % 8;
    return word[k / 2] >> k % 2 * 16 & 0xffff;
}

static inline uint32_t tn_dropout_threshold(double rate)
{
    uint32_t threshold = (uint32_t)(rate * 65536 + 0.5);
    return threshold > 65535 ? 65535 : threshold;
}

static inline double tn_dropout_scale(double rate)
{
    return 65536.0 / (65536.0 - tn_dropout_threshold(rate));
}

#endif
