/* The inner loops of matrix products: tiles of the result that stay in registers over the whole
 * depth.
 *
 * On AVX-512 a tile is 8 rows by 3 vectors: 24 sums, and 11 loads for 24 multiply-adds. b is
 * read in rows; a is read one value at a time, from any strides. With vectors of bf16 pairs
 * (vdpbf16ps) the same tile does twice the work. Compiled once per instruction set. */
#ifndef TN_CPU_SIMD_PRODUCT_TILE_H
#define TN_CPU_SIMD_PRODUCT_TILE_H

#include "cpu/product.h"
#include "cpu/simd/float_lanes.h"
#include "cpu/simd/vector_math.h"

#if TN_VEC == 16
enum { TN_TILE_HEIGHT = 8, TN_TILE_WIDTH = 3 };
#elif TN_VEC == 8
enum { TN_TILE_HEIGHT = 6, TN_TILE_WIDTH = 2 };
#else
enum { TN_TILE_HEIGHT = 4, TN_TILE_WIDTH = 2 };
#endif
enum { TN_PANEL = TN_TILE_WIDTH * TN_VEC }; /* columns */

#if defined(__clang__)
#define TN_UNROLLED _Pragma("unroll")
#else
#define TN_UNROLLED _Pragma("GCC unroll 16")
#endif

/* c [M, N] = activation(a [M, K] b [K, N] + bias [N]). a is f32 (f32 or bf16 pairs in the
 * blocked product). */
typedef struct tn_block {
    const void *a, *b, *bias;
    void *c;
    int64_t M, N, K, a_m, a_k, b_row, c_row;
    int64_t a_strip; /* per row, to every TN_TILE_HEIGHT-th row; a_m, but for copied strips */
    tn_dtype b_type, bias_type, c_type;
    int32_t activation;
    struct tn_ahead *ahead; /* what tiles ask for while they work; NULL: nothing */
} tn_block;

/* Memory that will be read next, asked for cache line by cache line: one line of every row while a
 * tile goes down its depth. Copying and packing would otherwise wait for memory, because rows lie
 * too far apart for the machine to see them coming. */
typedef struct tn_ahead {
    struct {
        const char *at;     /* first row */
        int64_t row, lines; /* bytes from row to row, cache lines of a row */
    } wish[2];
    int64_t rows_a_step; /* 1, or 2 for pairs: then each line takes two tiles */
    int64_t next;        /* requests made so far, for both wishes */
} tn_ahead;

/* What a tile asks for at its first step along the depth, and how far it moves on with each;
 * `otherwise` and 0 if all was asked for. */
static inline const char *tn_ask(tn_ahead *ahead, const void *otherwise, int64_t *move)
{
    *move = 0;
    if (!ahead) return otherwise;
    int64_t request = ahead->next, each = ahead->rows_a_step;
    for (int i = 0; i < 2; i++) {
        int64_t requests = ahead->wish[i].lines * each, row = ahead->wish[i].row;
        if (request < requests) {
            ahead->next++;
            *move = row * each;
            return ahead->wish[i].at + request / each * 64 + request % each * row;
        }
        request -= requests;
    }
    return otherwise;
}

/* Element of a at which row i begins. */
static inline int64_t tn_row_of_a(const tn_block *x, int64_t i)
{
    int64_t within = i % TN_TILE_HEIGHT;
    return (i - within) * x->a_strip + within * x->a_m;
}

static inline bool tn_block_is_plain(const tn_block *x)
{
    return x->c_type == TN_F32 && !x->bias && !x->activation;
}

/* Asks for the part of c that a tile will write when its sums are done. */
TN_VEC_INLINE void tn_ask_for_result(const tn_block *x, int64_t i, int64_t j, int rows, int vectors)
{
    int64_t size = x->c_type == TN_F32 ? 4 : 2;
    TN_UNROLLED
    for (int r = 0; r < rows; r++) {
        const char *row = (const char *)x->c + ((i + r) * x->c_row + j) * size;
        TN_UNROLLED
        for (int v = 0; v < vectors; v++) __builtin_prefetch(row + v * TN_VEC * size, 1);
    }
}

static inline float tn_get_value(tn_dtype type, const void *x, int64_t i)
{
    if (type == TN_F32) return ((const float *)x)[i];
    uint16_t half = ((const uint16_t *)x)[i];
    return type == TN_BF16 ? tn_f32_from_bf16(half) : tn_f32_from_f16(half);
}

static inline void tn_put_value(tn_dtype type, void *x, int64_t i, float value)
{
    if (type == TN_F32) ((float *)x)[i] = value;
    else ((uint16_t *)x)[i] = type == TN_BF16 ? tn_bf16_from_f32(value) : tn_f16_from_f32(value);
}

typedef float tn_four __attribute__((vector_size(16)));

TN_VEC_INLINE tn_four tn_load_four(const float *x)
{
    tn_four out;
    memcpy(&out, x, sizeof out);
    return out;
}

TN_VEC_INLINE tn_four tn_fold_to_four(tn_vec x)
{
    tn_four part[TN_VEC / 4];
    memcpy(part, &x, sizeof x);
#if TN_VEC == 16
    return (part[0] + part[2]) + (part[1] + part[3]);
#elif TN_VEC == 8
    return part[0] + part[1];
#else
    return part[0];
#endif
}

/* The sums of four vectors. */
TN_VEC_INLINE tn_four tn_sum_each(const tn_vec *x)
{
    tn_four a = tn_fold_to_four(x[0]), b = tn_fold_to_four(x[1]), c = tn_fold_to_four(x[2]),
            d = tn_fold_to_four(x[3]);
    tn_four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) +
                 __builtin_shufflevector(a, b, 2, 6, 3, 7);
    tn_four cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) +
                 __builtin_shufflevector(c, d, 2, 6, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) +
           __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

#define TN_ACTIVATE(function)                                                                      \
    _Pragma("omp simd") for (int i = 0; i < count; i++) x[i] = function(x[i]);                     \
    break

static __attribute__((noinline, unused)) void tn_activate(float *x, int count, int32_t activation)
{
    switch (activation) {
    case TN_OP_RELU: /* NaN stays NaN */
        _Pragma("omp simd") for (int i = 0; i < count; i++) x[i] = x[i] <= 0 ? 0 : x[i];
        break;
    case TN_OP_GELU: TN_ACTIVATE(tn_gelu_f32);
    case TN_OP_GELU_TANH: TN_ACTIVATE(tn_gelu_tanh_f32);
    case TN_OP_SILU: TN_ACTIVATE(tn_silu_f32);
    default: break;
    }
}

/* Bias, activation and the result's type, for sums[row][TN_TILE_WIDTH] of a tile at (i, j) of
 * which `columns` columns exist. Not inlined: there are many tiles. */
static __attribute__((noinline, unused)) void tn_finish_tile(const tn_block *x, int64_t i,
                                                             int64_t j, int rows, int64_t columns,
                                                             tn_vec *sum)
{
    int vectors = (int)((columns + TN_VEC - 1) / TN_VEC);
    for (int v = 0; x->bias && v < vectors; v++) {
        tn_vec bias = tn_vec_load_part(x->bias_type, x->bias, j + v * TN_VEC,
                                       (int)tn_least(columns - v * TN_VEC, TN_VEC));
        for (int r = 0; r < rows; r++) sum[r * TN_TILE_WIDTH + v] += bias;
    }
    for (int r = 0; r < rows; r++) {
        if (x->activation)
            tn_activate((float *)&sum[r * TN_TILE_WIDTH], vectors * TN_VEC, x->activation);
        for (int v = 0; v < vectors; v++)
            tn_vec_store_part(x->c_type, x->c, (i + r) * x->c_row + j + v * TN_VEC,
                              sum[r * TN_TILE_WIDTH + v],
                              (int)tn_least(columns - v * TN_VEC, TN_VEC));
    }
}

/* What follows the loop over k, in every kind of tile; rows, vectors and whole are constants.
 * `add`: c is f32 and has a part already. */
#define TN_STORE_TILE(x, i, j, rows, vectors, whole, columns, add, sum)                            \
    do {                                                                                           \
        if ((add) || tn_block_is_plain(x)) {                                                       \
            TN_UNROLLED                                                                            \
            for (int r_ = 0; r_ < (rows); r_++) {                                                  \
                TN_UNROLLED                                                                        \
                for (int v_ = 0; v_ < (vectors); v_++) {                                           \
                    int64_t to_ = ((i) + r_) * (x)->c_row + (j) + v_ * TN_VEC;                     \
                    int count_ = (whole) || v_ < (vectors)-1 ? TN_VEC                              \
                                                             : (int)((columns)-v_ * TN_VEC);       \
                    tn_vec y_ = sum[r_][v_];                                                       \
                    if (add) y_ += tn_vec_get(TN_F32, (x)->c, to_, count_);                        \
                    tn_vec_put(TN_F32, (x)->c, to_, y_, count_);                                   \
                }                                                                                  \
            }                                                                                      \
        } else {                                                                                   \
            tn_vec copy_[TN_TILE_HEIGHT *                                                          \
                         TN_TILE_WIDTH]; /* so that sum has no address and stays in registers */   \
            TN_UNROLLED                                                                            \
            for (int r_ = 0; r_ < (rows); r_++) {                                                  \
                TN_UNROLLED                                                                        \
                for (int v_ = 0; v_ < (vectors); v_++)                                             \
                    copy_[r_ * TN_TILE_WIDTH + v_] = sum[r_][v_];                                  \
            }                                                                                      \
            tn_finish_tile(x, i, j, rows, columns, copy_);                                         \
        }                                                                                          \
    } while (0)

/* rows, vectors, whole and type are constants wherever this is inlined. The tile has `columns`
 * columns: whole vectors, or not. They begin at column j of c and at element b_at of b. */
TN_VEC_INLINE void tn_tile(const tn_block *x, int64_t i, int64_t j, int64_t b_at, int rows,
                           int vectors, bool whole, int64_t columns, bool add, tn_dtype type)
{
    tn_vec sum[TN_TILE_HEIGHT][TN_TILE_WIDTH];
    TN_UNROLLED
    for (int r = 0; r < rows; r++) {
        TN_UNROLLED
        for (int v = 0; v < vectors; v++) sum[r][v] = (tn_vec){0};
    }
    const float *a = (const float *)x->a + tn_row_of_a(x, i);
    int64_t a_m = x->a_m, a_k = x->a_k, at = b_at;
    int last = (int)(columns - (vectors - 1) * TN_VEC);
    int64_t ask_row;
    const char *ask = tn_ask(x->ahead, a, &ask_row);
    if (x->ahead) tn_ask_for_result(x, i, j, rows, vectors);
    for (int64_t k = 0; k < x->K; k++, at += x->b_row, a += a_k, ask += ask_row) {
        __builtin_prefetch(ask, 0, 2);
        tn_vec right[TN_TILE_WIDTH];
        TN_UNROLLED
        for (int v = 0; v < vectors; v++)
            right[v] = whole || v < vectors - 1
                           ? tn_vec_load(type, x->b, at + v * TN_VEC)
                           : tn_vec_load_part(type, x->b, at + v * TN_VEC, last);
        TN_UNROLLED
        for (int r = 0; r < rows; r++) {
            float left = a[r * a_m];
            TN_UNROLLED
            for (int v = 0; v < vectors; v++) sum[r][v] += left * right[v];
        }
    }
    TN_STORE_TILE(x, i, j, rows, vectors, whole, columns, add, sum);
}

/* All rows of a block for one column of tiles: TILE(rows) is a tile at row i. */
#if TN_VEC == 16
#define TN_ALL_ROWS(M, i, TILE)                                                                    \
    for (; i + 8 <= (M); i += 8) TILE(8);                                                          \
    for (; i + 4 <= (M); i += 4) TILE(4);                                                          \
    for (; i + 2 <= (M); i += 2) TILE(2);                                                          \
    for (; i < (M); i++) TILE(1)
#elif TN_VEC == 8
#define TN_ALL_ROWS(M, i, TILE)                                                                    \
    for (; i + 6 <= (M); i += 6) TILE(6);                                                          \
    for (; i + 4 <= (M); i += 4) TILE(4);                                                          \
    for (; i + 2 <= (M); i += 2) TILE(2);                                                          \
    for (; i < (M); i++) TILE(1)
#else
#define TN_ALL_ROWS(M, i, TILE)                                                                    \
    for (; i + 4 <= (M); i += 4) TILE(4);                                                          \
    for (; i + 2 <= (M); i += 2) TILE(2);                                                          \
    for (; i < (M); i++) TILE(1)
#endif

#endif
