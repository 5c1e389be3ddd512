/* The two products of attention for a handful of rows, as in decoding: keys and values are read
 * where they lie, once for all heads of their group, and nothing is transposed or copied. So a step
 * costs what reading the cache costs. */
#ifndef TN_CPU_SIMD_ATTENTION_DECODE_H
#define TN_CPU_SIMD_ATTENTION_DECODE_H

#include "cpu/simd/attention_tile.h"

enum {
    DECODE_ROWS = 8, /* up to so many this is cheaper than packing a tile of keys */
    DECODE_PANEL = TN_VEC == 16
                       ? 4
                       : 2, /* vectors of a result that stay in registers, times four rows */
};

/* Keys or values of one tile: rows `stride` elements apart. */
typedef struct decode_rows {
    const void *first;
    int64_t stride, count;
} decode_rows;

TN_VEC_INLINE const void *decode_row(const decode_rows *x, int64_t j, tn_dtype dtype)
{
    return (const char *)x->first + j * x->stride * (dtype == TN_F32 ? 4 : 2);
}

/* scores[r][j] = q[r] . k[j] for `rows` rows (a constant); scores are padded to whole vectors of
 * keys. */
TN_VEC_INLINE void decode_scores_of(int rows, int64_t Q, const float *q, int64_t width,
                                    const decode_rows *k, float *score, int64_t score_row,
                                    tn_dtype dtype)
{
    int tail = (int)(Q % TN_VEC);
    tn_vec lanes[4][TN_VEC];
    for (int64_t j = 0; j < k->count; j += TN_VEC) {
        for (int i = 0; i < TN_VEC; i++) {
            tn_vec sum[4] = {{0}, {0}, {0}, {0}};
            if (j + i < k->count) {
                const void *row = decode_row(k, j + i, dtype);
                int64_t c = 0;
                for (; c + TN_VEC <= Q; c += TN_VEC) {
                    tn_vec key = tn_vec_load(dtype, row, c);
                    TN_UNROLL
                    for (int r = 0; r < rows; r++) sum[r] += tn_load(q + r * width + c) * key;
                }
                if (tail) {
                    tn_vec key = tn_vec_load_part(dtype, row, c, tail);
                    TN_UNROLL
                    for (int r = 0; r < rows; r++) sum[r] += tn_load(q + r * width + c) * key;
                }
            }
            TN_UNROLL
            for (int r = 0; r < rows; r++) lanes[r][i] = sum[r];
        }
        TN_UNROLL
        for (int r = 0; r < rows; r++) tn_store(score + r * score_row + j, sum_of_each(lanes[r]));
    }
}

/* result[r] += sum over j of p[r][j] v[j], for `rows` rows and `vectors` vectors of columns (both
 * constants) from column c on. */
TN_VEC_INLINE void decode_values_of(int rows, int vectors, int count, int64_t c, const float *p,
                                    int64_t p_row, const decode_rows *v, float *result,
                                    int64_t width, tn_dtype dtype)
{
    tn_vec sum[4][DECODE_PANEL];
    TN_UNROLL
    for (int r = 0; r < rows; r++) {
        TN_UNROLL
        for (int n = 0; n < vectors; n++) sum[r][n] = tn_load(result + r * width + c + n * TN_VEC);
    }
    for (int64_t j = 0; j < v->count; j++) {
        const void *row = decode_row(v, j, dtype);
        TN_UNROLL
        for (int n = 0; n < vectors; n++) {
            tn_vec value = tn_vec_get(dtype, row, c + n * TN_VEC, count);
            TN_UNROLL
            for (int r = 0; r < rows; r++) sum[r][n] += p[r * p_row + j] * value;
        }
    }
    TN_UNROLL
    for (int r = 0; r < rows; r++) {
        TN_UNROLL
        for (int n = 0; n < vectors; n++) tn_store(result + r * width + c + n * TN_VEC, sum[r][n]);
    }
}

TN_VEC_INLINE void decode_values_rows(int rows, int64_t Q, const float *p, int64_t p_row,
                                      const decode_rows *v, float *result, int64_t width,
                                      tn_dtype dtype)
{
    int64_t c = 0;
    for (; c + DECODE_PANEL * TN_VEC <= Q; c += DECODE_PANEL * TN_VEC)
        decode_values_of(rows, DECODE_PANEL, TN_VEC, c, p, p_row, v, result, width, dtype);
    for (; c + TN_VEC <= Q; c += TN_VEC)
        decode_values_of(rows, 1, TN_VEC, c, p, p_row, v, result, width, dtype);
    if (c < Q) decode_values_of(rows, 1, (int)(Q - c), c, p, p_row, v, result, width, dtype);
}

/* Four rows at a time, then two, then one. */
TN_VEC_INLINE void decode_scores_as(int64_t rows, int64_t Q, const float *q, int64_t width,
                                    const decode_rows *k, float *score, int64_t score_row,
                                    tn_dtype dtype)
{
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4)
        decode_scores_of(4, Q, q + r * width, width, k, score + r * score_row, score_row, dtype);
    for (; r + 2 <= rows; r += 2)
        decode_scores_of(2, Q, q + r * width, width, k, score + r * score_row, score_row, dtype);
    for (; r < rows; r++)
        decode_scores_of(1, Q, q + r * width, width, k, score + r * score_row, score_row, dtype);
}

TN_VEC_INLINE void decode_values_as(int64_t rows, int64_t Q, const float *p, int64_t p_row,
                                    const decode_rows *v, float *result, int64_t width,
                                    tn_dtype dtype)
{
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4)
        decode_values_rows(4, Q, p + r * p_row, p_row, v, result + r * width, width, dtype);
    for (; r + 2 <= rows; r += 2)
        decode_values_rows(2, Q, p + r * p_row, p_row, v, result + r * width, width, dtype);
    for (; r < rows; r++)
        decode_values_rows(1, Q, p + r * p_row, p_row, v, result + r * width, width, dtype);
}

static __attribute__((noinline)) void decode_scores(int64_t rows, int64_t Q, const float *q,
                                                    int64_t width, const decode_rows *k,
                                                    float *score, int64_t score_row, tn_dtype dtype)
{
    TN_FOR_FLOAT(dtype, decode_scores_as, rows, Q, q, width, k, score, score_row);
}

static __attribute__((noinline)) void decode_values(int64_t rows, int64_t Q, const float *p,
                                                    int64_t p_row, const decode_rows *v,
                                                    float *result, int64_t width, tn_dtype dtype)
{
    TN_FOR_FLOAT(dtype, decode_values_as, rows, Q, p, p_row, v, result, width);
}

#endif
