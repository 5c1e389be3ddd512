/* A register-tiled matrix product for operands that already lie in cache: what attention and the
 * recurrent networks multiply between two steps that are not products. Plain C over vector types; a
 * file that includes it is compiled once per instruction set.
 *
 * c[rows][columns] = or += a b. The right operand and the result are row-major, with columns padded
 * to a multiple of TN_VEC (padding is computed like the rest). The left operand is a[row * a_row +
 * k * a_depth]; one of the two strides must be 1. Tiles of TN_TILE_ROWS x 2 vectors stay in
 * registers over the whole depth: on AVX-512 8 x 32, which needs ten loads for sixteen
 * multiply-adds. Sums run in the order of k. */
#ifndef TN_CPU_SIMD_MICRO_GEMM_H
#define TN_CPU_SIMD_MICRO_GEMM_H

#include "cpu/simd/float_lanes.h"

#if TN_VEC == 16
#define TN_TILE_ROWS 8
#else
#define TN_TILE_ROWS 4
#endif

#if defined(__clang__)
#define TN_UNROLL _Pragma("clang loop unroll(full)")
#else
#define TN_UNROLL _Pragma("GCC unroll 16")
#endif

TN_VEC_INLINE tn_vec tn_load(const float *at) { return tn_vec_load(TN_F32, at, 0); }

TN_VEC_INLINE void tn_store(float *at, tn_vec x) { tn_vec_store(TN_F32, at, 0, x); }

static inline int64_t tn_round_up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* rows <= TN_TILE_ROWS and vectors <= 2 are constants wherever this is inlined. */
TN_VEC_INLINE void tn_micro_tile(int rows, int vectors, int64_t depth, const float *restrict a,
                                 int64_t a_row, int64_t a_depth, const float *restrict b,
                                 int64_t b_row, float *restrict c, int64_t c_row, bool add)
{
    tn_vec sum[TN_TILE_ROWS][2];
    TN_UNROLL
    for (int i = 0; i < rows; i++) {
        TN_UNROLL
        for (int v = 0; v < vectors; v++)
            sum[i][v] = add ? tn_load(c + i * c_row + v * TN_VEC) : (tn_vec){0};
    }
    for (int64_t k = 0; k < depth; k++) {
        tn_vec right[2];
        TN_UNROLL
        for (int v = 0; v < vectors; v++) right[v] = tn_load(b + k * b_row + v * TN_VEC);
        TN_UNROLL
        for (int i = 0; i < rows; i++) {
            float left = a[i * a_row + k * a_depth];
            TN_UNROLL
            for (int v = 0; v < vectors; v++) sum[i][v] += left * right[v];
        }
    }
    TN_UNROLL
    for (int i = 0; i < rows; i++) {
        TN_UNROLL
        for (int v = 0; v < vectors; v++) tn_store(c + i * c_row + v * TN_VEC, sum[i][v]);
    }
}

/* One column panel (1 or 2 vectors wide) of the product. */
TN_VEC_INLINE void tn_micro_panel(int vectors, int64_t rows, int64_t depth, const float *a,
                                  int64_t a_row, int64_t a_depth, const float *b, int64_t b_row,
                                  float *c, int64_t c_row, bool add)
{
    int64_t i = 0;
    for (; i + TN_TILE_ROWS <= rows; i += TN_TILE_ROWS)
        tn_micro_tile(TN_TILE_ROWS, vectors, depth, a + i * a_row, a_row, a_depth, b, b_row,
                      c + i * c_row, c_row, add);
    const float *left = a + i * a_row;
    float *to = c + i * c_row;
    switch (rows - i) {
#if TN_TILE_ROWS > 4
    case 7: tn_micro_tile(7, vectors, depth, left, a_row, a_depth, b, b_row, to, c_row, add); break;
    case 6: tn_micro_tile(6, vectors, depth, left, a_row, a_depth, b, b_row, to, c_row, add); break;
    case 5: tn_micro_tile(5, vectors, depth, left, a_row, a_depth, b, b_row, to, c_row, add); break;
    case 4: tn_micro_tile(4, vectors, depth, left, a_row, a_depth, b, b_row, to, c_row, add); break;
#endif
    case 3: tn_micro_tile(3, vectors, depth, left, a_row, a_depth, b, b_row, to, c_row, add); break;
    case 2: tn_micro_tile(2, vectors, depth, left, a_row, a_depth, b, b_row, to, c_row, add); break;
    case 1: tn_micro_tile(1, vectors, depth, left, a_row, a_depth, b, b_row, to, c_row, add); break;
    default: break;
    }
}

TN_VEC_INLINE void tn_micro_product(int64_t rows, int64_t columns, int64_t depth, const float *a,
                                    int64_t a_row, int64_t a_depth, const float *b, int64_t b_row,
                                    float *c, int64_t c_row, bool add)
{
    int64_t j = 0;
    for (; j + 2 * TN_VEC <= columns; j += 2 * TN_VEC)
        tn_micro_panel(2, rows, depth, a, a_row, a_depth, b + j, b_row, c + j, c_row, add);
    if (j < columns)
        tn_micro_panel(1, rows, depth, a, a_row, a_depth, b + j, b_row, c + j, c_row, add);
}

/* c (+)= a b with a row-major. */
static __attribute__((noinline, unused)) void tn_multiply_rows(int64_t rows, int64_t columns,
                                                               int64_t depth, const float *a,
                                                               int64_t a_row, const float *b,
                                                               int64_t b_row, float *c,
                                                               int64_t c_row, bool add)
{
    if (add) tn_micro_product(rows, columns, depth, a, a_row, 1, b, b_row, c, c_row, true);
    else tn_micro_product(rows, columns, depth, a, a_row, 1, b, b_row, c, c_row, false);
}

/* c (+)= a^T b with a [depth][rows] row-major. */
static __attribute__((noinline, unused)) void tn_multiply_columns(int64_t rows, int64_t columns,
                                                                  int64_t depth, const float *a,
                                                                  int64_t a_depth, const float *b,
                                                                  int64_t b_row, float *c,
                                                                  int64_t c_row, bool add)
{
    if (add) tn_micro_product(rows, columns, depth, a, 1, a_depth, b, b_row, c, c_row, true);
    else tn_micro_product(rows, columns, depth, a, 1, a_depth, b, b_row, c, c_row, false);
}

#endif
