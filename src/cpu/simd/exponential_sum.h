/* The maximum of a slice and the sum of its exponentials: the first half of softmax and of
 * cross-entropy. */
#ifndef TN_CPU_SIMD_EXPONENTIAL_SUM_H
#define TN_CPU_SIMD_EXPONENTIAL_SUM_H

#include <math.h>

#include "cpu/simd/float_lanes.h"

enum { TN_EXP_BLOCK = 2048 }; /* elements of a slice that are handled in L1 */

/* Maximum of elements from .. to-1; NaN is passed over. */
TN_VEC_INLINE float tn_highest_of(const void *x, int64_t from, int64_t to, tn_dtype dtype)
{
    tn_vec highest[4];
    for (int v = 0; v < 4; v++) highest[v] = tn_vec_all(-INFINITY);
    int64_t i = from;
    for (; i + 4 * TN_VEC <= to; i += 4 * TN_VEC)
        for (int v = 0; v < 4; v++)
            highest[v] = tn_vec_max(tn_vec_load(dtype, x, i + v * TN_VEC), highest[v]);
    for (; i + TN_VEC <= to; i += TN_VEC)
        highest[0] = tn_vec_max(tn_vec_load(dtype, x, i), highest[0]);
    if (i < to) {
        int rest = (int)(to - i);
        tn_vec part = tn_vec_select(tn_vec_first(rest), tn_vec_load_part(dtype, x, i, rest),
                                    tn_vec_all(-INFINITY));
        highest[1] = tn_vec_max(part, highest[1]);
    }
    return tn_vec_highest(
        tn_vec_max(tn_vec_max(highest[0], highest[1]), tn_vec_max(highest[2], highest[3])));
}

/* Sum of exp(x - shift); the exponentials go to `keep` unless it is NULL. */
TN_VEC_INLINE float tn_block_of_exp(const void *x, int64_t from, int64_t to, float shift,
                                    float *keep, tn_dtype dtype)
{
    tn_vec sum[2] = {{0}};
    int64_t i = from;
    for (; i + 2 * TN_VEC <= to; i += 2 * TN_VEC)
        for (int v = 0; v < 2; v++) {
            tn_vec e = tn_vec_exp(tn_vec_load(dtype, x, i + v * TN_VEC) - shift);
            if (keep) tn_vec_store(TN_F32, keep, i + v * TN_VEC, e);
            sum[v] += e;
        }
    for (; i < to; i += TN_VEC) {
        int rest = to - i < TN_VEC ? (int)(to - i) : TN_VEC;
        tn_vec e = tn_vec_exp(tn_vec_load_part(dtype, x, i, rest) - shift);
        if (keep) tn_vec_store_part(TN_F32, keep, i, e, rest);
        sum[0] += tn_vec_keep(tn_vec_first(rest), e);
    }
    return tn_vec_sum(sum[0] + sum[1]);
}

/* Maximum (0 if all are -inf) and sum of exp(x - maximum) of a long slice, read from memory
 * once: block by block, the sum so far rescaled whenever the maximum rises. */
TN_VEC_INLINE void tn_sum_of_exp(const void *x, int64_t count, float *highest, float *sum,
                                 tn_dtype dtype)
{
    float most = -INFINITY, total = 0;
    for (int64_t i = 0; i < count; i += TN_EXP_BLOCK) {
        int64_t to = i + TN_EXP_BLOCK < count ? i + TN_EXP_BLOCK : count;
        float block = tn_highest_of(x, i, to, dtype);
        if (block > most) {
            total *= expf(most - block); /* 0 exp(-inf) the first time */
            most = block;
        }
        total += tn_block_of_exp(x, i, to, most == -INFINITY ? 0 : most, NULL, dtype);
    }
    *highest = most == -INFINITY ? 0 : most;
    *sum = total;
}

#endif
