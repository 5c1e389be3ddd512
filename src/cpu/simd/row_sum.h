/* Sums and maxima of rows, a chunk of columns at a time, by dtype: what scatter_add and the segment
 * operations are made of. */
#ifndef TN_CPU_SIMD_ROW_SUM_H
#define TN_CPU_SIMD_ROW_SUM_H

#include <string.h>

#include "base/half.h"
#include "base/status.h"
#include "graph/kernel.h"

#define TN_CHUNK 256 /* columns that are summed at a time */

/* Whether a kernel that adds or compares works on this dtype; else says so. */
static inline tn_status tn_needs_numbers(const tn_step *step, tn_dtype dtype)
{
    if (dtype == TN_F32 || dtype == TN_F64 || dtype == TN_BF16 || dtype == TN_F16 ||
        dtype == TN_I32 || dtype == TN_I64)
        return TN_OK;
    return tn_fail(TN_UNSUPPORTED, "%s of %s; cast to i32 or f32 first", step->op->name,
                   tn_dtype_name(dtype));
}

/* Accumulators of a chunk of columns: f32 for floats up to 32 bits, else the dtype itself. */
typedef union tn_accumulator {
    float f32[TN_CHUNK];
    double f64[TN_CHUNK];
    int64_t i64[TN_CHUNK];
} tn_accumulator;

static inline void tn_row_clear(tn_accumulator *sum, int64_t count, tn_dtype dtype)
{
    memset(sum, 0, (size_t)count * (dtype == TN_F64 || dtype == TN_I32 || dtype == TN_I64 ? 8 : 4));
}

static inline void tn_row_add(tn_accumulator *restrict sum, const void *restrict row, int64_t count,
                              tn_dtype dtype)
{
    switch (dtype) {
    case TN_F32:
        for (int64_t i = 0; i < count; i++) sum->f32[i] += ((const float *)row)[i];
        break;
    case TN_BF16:
        for (int64_t i = 0; i < count; i++)
            sum->f32[i] += tn_f32_from_bf16(((const uint16_t *)row)[i]);
        break;
    case TN_F16:
        for (int64_t i = 0; i < count; i++)
            sum->f32[i] += tn_f32_from_f16(((const uint16_t *)row)[i]);
        break;
    case TN_F64:
        for (int64_t i = 0; i < count; i++) sum->f64[i] += ((const double *)row)[i];
        break;
    case TN_I32: /* wraps like the hardware does */
        for (int64_t i = 0; i < count; i++) sum->i64[i] += ((const int32_t *)row)[i];
        break;
    default:
        for (int64_t i = 0; i < count; i++)
            sum->i64[i] = (int64_t)((uint64_t)sum->i64[i] + ((const uint64_t *)row)[i]);
    }
}

/* NaN wins. */
static inline void tn_row_max(tn_accumulator *restrict best, const void *restrict row,
                              int64_t count, tn_dtype dtype)
{
    switch (dtype) {
    case TN_F32:
    case TN_BF16:
    case TN_F16:
        for (int64_t i = 0; i < count; i++) {
            float x = dtype == TN_F32    ? ((const float *)row)[i]
                      : dtype == TN_BF16 ? tn_f32_from_bf16(((const uint16_t *)row)[i])
                                         : tn_f32_from_f16(((const uint16_t *)row)[i]);
            best->f32[i] = best->f32[i] >= x || best->f32[i] != best->f32[i] ? best->f32[i] : x;
        }
        break;
    case TN_F64:
        for (int64_t i = 0; i < count; i++) {
            double x = ((const double *)row)[i];
            best->f64[i] = best->f64[i] >= x || best->f64[i] != best->f64[i] ? best->f64[i] : x;
        }
        break;
    default:
        for (int64_t i = 0; i < count; i++) {
            int64_t x = dtype == TN_I32 ? ((const int32_t *)row)[i] : ((const int64_t *)row)[i];
            best->i64[i] = best->i64[i] > x ? best->i64[i] : x;
        }
    }
}

static inline void tn_row_store(void *restrict out, const tn_accumulator *restrict sum,
                                int64_t count, tn_dtype dtype)
{
    switch (dtype) {
    case TN_F32: memcpy(out, sum->f32, (size_t)count * 4); break;
    case TN_BF16:
        for (int64_t i = 0; i < count; i++) ((uint16_t *)out)[i] = tn_bf16_from_f32(sum->f32[i]);
        break;
    case TN_F16:
        for (int64_t i = 0; i < count; i++) ((uint16_t *)out)[i] = tn_f16_from_f32(sum->f32[i]);
        break;
    case TN_F64: memcpy(out, sum->f64, (size_t)count * 8); break;
    case TN_I32:
        for (int64_t i = 0; i < count; i++) ((int32_t *)out)[i] = (int32_t)sum->i64[i];
        break;
    default: memcpy(out, sum->i64, (size_t)count * 8);
    }
}

/* Sum of the chunk of columns at `in` of the rows order[first] .. order[last-1] (order NULL: first
 * .. last-1), in blocks of 128 that are then added: the rounding error grows with the block and the
 * number of blocks, not with the number of rows. */
static inline void tn_row_sum(const unsigned char *in, int64_t row_bytes, tn_dtype dtype,
                              const uint32_t *order, int64_t first, int64_t last, int64_t width,
                              tn_accumulator *total)
{
    bool blocked = last - first > 128 && (dtype == TN_F32 || dtype == TN_BF16 || dtype == TN_F16);
    tn_accumulator block, *sum = blocked ? &block : total;
    tn_row_clear(total, width, dtype);
    for (int64_t t = first; t < last;) {
        int64_t stop = blocked && last - t > 128 ? t + 128 : last;
        if (blocked) tn_row_clear(&block, width, dtype);
        for (; t < stop; t++)
            tn_row_add(sum, in + (order ? order[t] : t) * row_bytes, width, dtype);
        if (blocked) tn_row_add(total, block.f32, width, TN_F32);
    }
}

#endif
