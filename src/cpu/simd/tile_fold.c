/* Reductions of tiles: along rows, along columns, and element by element into an accumulator. */
#include <math.h>
#include <string.h>

#include "cpu/simd/tile_set.h"

#define WIDTH 16 /* f32 of one vector; compilers split it where the machine's are shorter */
typedef float lanes __attribute__((vector_size(4 * WIDTH)));
typedef int32_t lane_mask __attribute__((vector_size(4 * WIDTH)));

static inline lanes read_lanes(const float *x)
{
    lanes v;
    memcpy(&v, x, sizeof v);
    return v;
}

static inline lanes select_lanes(lane_mask condition, lanes a, lanes b)
{
    return (lanes)(((lane_mask)a & condition) | ((lane_mask)b & ~condition));
}

static inline float plus(float a, float b) { return a + b; }
static inline float larger(float a, float b) { return a > b || a != a ? a : b; }
static inline float smaller(float a, float b) { return a < b || a != a ? a : b; }
static inline lanes plus_lanes(lanes a, lanes b) { return a + b; }
static inline lanes larger_lanes(lanes a, lanes b)
{
    return select_lanes((a > b) | (a != a), a, b);
}
static inline lanes smaller_lanes(lanes a, lanes b)
{
    return select_lanes((a < b) | (a != a), a, b);
}

/* One row of `n` (at least 1): four vectors at a time, then halves are folded together. */
#define ROW_FOLD(fold)                                                                             \
    static inline float row_##fold(const float *x, int64_t n)                                      \
    {                                                                                              \
        if (n < 2 * WIDTH) {                                                                       \
            float y = x[0];                                                                        \
            for (int64_t i = 1; i < n; i++) y = fold(y, x[i]);                                     \
            return y;                                                                              \
        }                                                                                          \
        lanes sum = read_lanes(x);                                                                 \
        int64_t i = WIDTH;                                                                         \
        if (n >= 4 * WIDTH) {                                                                      \
            lanes b = read_lanes(x + WIDTH), c = read_lanes(x + 2 * WIDTH),                        \
                  d = read_lanes(x + 3 * WIDTH);                                                   \
            for (i = 4 * WIDTH; i + 4 * WIDTH <= n; i += 4 * WIDTH) {                              \
                sum = fold##_lanes(sum, read_lanes(x + i));                                        \
                b = fold##_lanes(b, read_lanes(x + i + WIDTH));                                    \
                c = fold##_lanes(c, read_lanes(x + i + 2 * WIDTH));                                \
                d = fold##_lanes(d, read_lanes(x + i + 3 * WIDTH));                                \
            }                                                                                      \
            sum = fold##_lanes(fold##_lanes(sum, b), fold##_lanes(c, d));                          \
        }                                                                                          \
        for (; i + WIDTH <= n; i += WIDTH) sum = fold##_lanes(sum, read_lanes(x + i));             \
        float part[WIDTH];                                                                         \
        memcpy(part, &sum, sizeof part);                                                           \
        for (; i < n; i++) part[i % WIDTH] = fold(part[i % WIDTH], x[i]);                          \
        for (int half = WIDTH / 2; half > 0; half /= 2)                                            \
            for (int k = 0; k < half; k++) part[k] = fold(part[k], part[k + half]);                \
        return part[0];                                                                            \
    }
ROW_FOLD(plus)
ROW_FOLD(larger)
ROW_FOLD(smaller)

/* x [outer, count, inner] -> [outer, inner]; count >= 1. */
#define REDUCE_F32(fold)                                                                           \
    static void reduce_##fold(void *out, const void *from, int64_t outer, int64_t count,           \
                              int64_t inner)                                                       \
    {                                                                                              \
        const float *x = from;                                                                     \
        float *y = out;                                                                            \
        for (int64_t o = 0; o < outer; o++, x += count * inner, y += inner) {                      \
            if (inner == 1) {                                                                      \
                y[0] = row_##fold(x, count);                                                       \
                continue;                                                                          \
            }                                                                                      \
            int64_t k = 0;                                                                         \
            for (; k + WIDTH <= inner; k += WIDTH) {                                               \
                lanes sum = read_lanes(x + k);                                                     \
                for (int64_t i = 1; i < count; i++)                                                \
                    sum = fold##_lanes(sum, read_lanes(x + i * inner + k));                        \
                memcpy(y + k, &sum, sizeof sum);                                                   \
            }                                                                                      \
            for (; k < inner; k++) {                                                               \
                float sum = x[k];                                                                  \
                for (int64_t i = 1; i < count; i++) sum = fold(sum, x[i * inner + k]);             \
                y[k] = sum;                                                                        \
            }                                                                                      \
        }                                                                                          \
    }
REDUCE_F32(plus)
REDUCE_F32(larger)
REDUCE_F32(smaller)

#define REDUCE_WIDE(name, type, expression)                                                        \
    static void name(void *out, const void *from, int64_t outer, int64_t count, int64_t inner)     \
    {                                                                                              \
        const type *x = from;                                                                      \
        type *y = out;                                                                             \
        for (int64_t o = 0; o < outer; o++, x += count * inner, y += inner)                        \
            for (int64_t k = 0; k < inner; k++) {                                                  \
                type a = x[k];                                                                     \
                for (int64_t i = 1; i < count; i++) {                                              \
                    type b = x[i * inner + k];                                                     \
                    a = expression;                                                                \
                }                                                                                  \
                y[k] = a;                                                                          \
            }                                                                                      \
    }

#define ACCUMULATE(name, into_type, from_type, expression)                                         \
    static void name(void *into, const void *from, int64_t n)                                      \
    {                                                                                              \
        into_type *y = into;                                                                       \
        const from_type *x = from;                                                                 \
        TN_SIMD for (int64_t i = 0; i < n; i++)                                                    \
        {                                                                                          \
            into_type a = y[i], b = x[i];                                                          \
            y[i] = expression;                                                                     \
        }                                                                                          \
    }

#define PLUS a + b
#define WRAPPED_PLUS (int64_t)((uint64_t)a + (uint64_t)b)
#define LARGER a > b || a != a ? a : b
#define SMALLER a < b || a != a ? a : b

REDUCE_WIDE(reduce_sum_f64, double, PLUS)
REDUCE_WIDE(reduce_max_f64, double, LARGER)
REDUCE_WIDE(reduce_min_f64, double, SMALLER)
REDUCE_WIDE(reduce_sum_i64, int64_t, WRAPPED_PLUS)
REDUCE_WIDE(reduce_max_i64, int64_t, a > b ? a : b)
REDUCE_WIDE(reduce_min_i64, int64_t, a < b ? a : b)
ACCUMULATE(sum_f32, float, float, PLUS)
ACCUMULATE(max_f32, float, float, LARGER)
ACCUMULATE(min_f32, float, float, SMALLER)
ACCUMULATE(sum_f64, double, double, PLUS)
ACCUMULATE(max_f64, double, double, LARGER)
ACCUMULATE(min_f64, double, double, SMALLER)
ACCUMULATE(sum_i64, int64_t, int64_t, WRAPPED_PLUS)
ACCUMULATE(max_i64, int64_t, int64_t, a > b ? a : b)
ACCUMULATE(min_i64, int64_t, int64_t, a < b ? a : b)
ACCUMULATE(widen_sum, double, float, PLUS)
ACCUMULATE(widen_max, double, float, LARGER)
ACCUMULATE(widen_min, double, float, SMALLER)

void TN_ISA(tn_tile_add_folds)(tn_tile_set *set)
{
    set->reduce[TN_FOLD_SUM][TN_TILE_F32] = reduce_plus;
    set->reduce[TN_FOLD_MAX][TN_TILE_F32] = reduce_larger;
    set->reduce[TN_FOLD_MIN][TN_TILE_F32] = reduce_smaller;
    set->reduce[TN_FOLD_SUM][TN_TILE_F64] = reduce_sum_f64;
    set->reduce[TN_FOLD_MAX][TN_TILE_F64] = reduce_max_f64;
    set->reduce[TN_FOLD_MIN][TN_TILE_F64] = reduce_min_f64;
    set->reduce[TN_FOLD_SUM][TN_TILE_I64] = reduce_sum_i64;
    set->reduce[TN_FOLD_MAX][TN_TILE_I64] = reduce_max_i64;
    set->reduce[TN_FOLD_MIN][TN_TILE_I64] = reduce_min_i64;
    set->accumulate[TN_FOLD_SUM][TN_TILE_F32] = sum_f32;
    set->accumulate[TN_FOLD_MAX][TN_TILE_F32] = max_f32;
    set->accumulate[TN_FOLD_MIN][TN_TILE_F32] = min_f32;
    set->accumulate[TN_FOLD_SUM][TN_TILE_F64] = sum_f64;
    set->accumulate[TN_FOLD_MAX][TN_TILE_F64] = max_f64;
    set->accumulate[TN_FOLD_MIN][TN_TILE_F64] = min_f64;
    set->accumulate[TN_FOLD_SUM][TN_TILE_I64] = sum_i64;
    set->accumulate[TN_FOLD_MAX][TN_TILE_I64] = max_i64;
    set->accumulate[TN_FOLD_MIN][TN_TILE_I64] = min_i64;
    set->widen[TN_FOLD_SUM] = widen_sum;
    set->widen[TN_FOLD_MAX] = widen_max;
    set->widen[TN_FOLD_MIN] = widen_min;
}
