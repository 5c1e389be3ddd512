/* The pieces that attention's forward and backward kernels share: where operands lie, which keys a
 * query may read, tiles in f32, and the exponential.
 *
 * A unit is one sequence and one key/value head. Its rows are the queries of all heads that read
 * this key head, ordered by position first: row r is position r / G of head r % G. So rows that lie
 * together read nearly the same keys, and a key tile that is brought into cache serves all heads of
 * its group. */
#ifndef TN_CPU_SIMD_ATTENTION_TILE_H
#define TN_CPU_SIMD_ATTENTION_TILE_H

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/threads.h"
#include "cpu/simd/exponential.h"
#include "cpu/simd/micro_gemm.h"
#include "graph/attention.h"

#define LOG2_E 1.44269504088896340736 /* in f64: TN_LOG2_E is rounded */
#define LN_2 0.69314718055994530942F

static inline int64_t at_least_one(int64_t n) { return n > 0 ? n : 1; }

/* ---- operands -------------------------------------------------------------------------------- */

/* Where the head rows of a [B, L, H, Q] or packed [T, H, Q] operand lie; strides in elements. */
typedef struct head_rows {
    tn_dtype dtype;
    int64_t batch, position, head;
} head_rows;

static inline head_rows head_rows_of(const tn_operand *x, bool packed)
{
    if (packed) return (head_rows){x->dtype, 0, x->stride[0], x->stride[1]};
    return (head_rows){x->dtype, x->stride[0], x->stride[1], x->stride[2]};
}

static inline int64_t head_row_offset(const head_rows *x, int64_t b, int64_t position, int64_t head)
{
    return (b * x->batch + position * x->position + head * x->head) * (x->dtype == TN_F32 ? 4 : 2);
}

static inline const void *head_row(const head_rows *x, const void *base, int64_t b,
                                   int64_t position, int64_t head)
{
    return (const char *)base + head_row_offset(x, b, position, head);
}

static inline void *head_row_out(const head_rows *x, void *base, int64_t b, int64_t position,
                                 int64_t head)
{
    return (char *)base + head_row_offset(x, b, position, head);
}

/* The optional operands of one run. */
typedef struct attention_masks {
    const tn_attention_attribute *attribute;
    tn_attention_sizes s;
    const float *bias;
    int64_t bias_stride[4]; /* [B, H, L, M] */
    const uint8_t *key_mask;
    const int32_t *offsets, *length;
    int64_t segments;
} attention_masks;

/* Fills in the masks and checks what only the run knows. */
static inline tn_status attention_masks_of(attention_masks *m, const tn_step *step, void *const *in,
                                           int first)
{
    memset(m, 0, sizeof *m);
    m->attribute = step->attribute;
    m->s = tn_attention_sizes_of(step->in[0].dim, step->in[1].dim, m->attribute->has_offsets);
    tn_attention_optional at = tn_attention_find(m->attribute, first);
    if (at.key_mask >= 0) m->key_mask = in[at.key_mask];
    if (at.bias >= 0) {
        const tn_operand *bias = &step->in[at.bias];
        m->bias = in[at.bias];
        for (int i = 0; i < bias->rank; i++)
            m->bias_stride[4 - bias->rank + i] = bias->dim[i] == 1 ? 0 : bias->stride[i];
    }
    if (at.length >= 0) {
        m->length = in[at.length];
        for (int64_t b = 0; b < m->s.B; b++)
            if (m->length[b] < 0 || m->length[b] > m->s.M)
                return tn_fail(TN_INVALID, "attention: length[%lld] is %d, but there are %lld keys",
                               (long long)b, (int)m->length[b], (long long)m->s.M);
    }
    if (at.offsets >= 0) {
        m->offsets = in[at.offsets];
        m->segments = step->in[at.offsets].dim[0] - 1;
        for (int64_t i = 0; i <= m->segments; i++)
            if (m->offsets[i] < (i ? m->offsets[i - 1] : 0) || m->offsets[i] > m->s.M ||
                (i == 0 && m->offsets[0] != 0))
                return tn_fail(
                    TN_INVALID,
                    "attention: offsets[%lld] is %d; offsets must rise from 0 to at most %lld",
                    (long long)i, (int)m->offsets[i], (long long)m->s.M);
    }
    return TN_OK;
}

/* Queries, keys and values may lie anywhere as long as a head's row is contiguous: slices of one
 * product, transposed views. */
static inline tn_layout head_rows_layout(const tn_operand *x)
{
    int last = x->rank - 1;
    return x->dim[last] <= 1 || x->stride[last] == 1 ? TN_ANY : TN_ROWS;
}

static inline void attention_layouts_from(const tn_step *step, tn_layout *in, int rows, int first)
{
    const tn_attention_attribute *a = step->attribute;
    for (int i = 0; i < step->in_count; i++) in[i] = TN_ROWS;
    for (int i = 0; i < rows; i++) in[i] = head_rows_layout(&step->in[i]);
    if (a->has_bias) in[first] = TN_ANY;
}

static inline tn_status attention_supports(const tn_step *step)
{
    tn_dtype dtype = step->in[0].dtype;
    if (dtype == TN_F32 || dtype == TN_BF16 || dtype == TN_F16) return TN_OK;
    return tn_fail(
        TN_UNSUPPORTED,
        "the CPU kernel computes in f32 and does not take %s; cast, or use the reference backend",
        tn_dtype_name(dtype));
}

/* ---- which keys a row reads ------------------------------------------------------------------ */

/* Keys [low, high) and, for packed sequences, where the segment begins (so that tiles are cut
 * there). */
typedef struct key_range {
    int32_t low, high, segment;
} key_range;

/* Every rule but key_mask and bias is an interval. `hint`: a segment at or before the position's,
 * kept between calls. */
static inline key_range key_range_of(const attention_masks *m, int64_t b, int64_t position,
                                     int64_t *hint)
{
    const tn_attention_attribute *a = m->attribute;
    int64_t low = 0, high = m->s.M, at = position + m->s.M - m->s.L, segment = 0;
    if (m->length) {
        high = m->length[b];
        at = position + high - m->s.L;
    }
    if (m->offsets) {
        while (*hint < m->segments && m->offsets[*hint + 1] <= position) ++*hint;
        low = *hint < m->segments ? m->offsets[*hint] : position;
        high = *hint < m->segments ? m->offsets[*hint + 1] : position;
        segment = low;
    }
    if (a->causal && high > at + 1) high = at + 1;
    if (a->window > 0 && high > at + a->window) high = at + a->window;
    if (a->window > 0 && low < at - a->window + 1) low = at - a->window + 1;
    if (high < low) high = low;
    return (key_range){(int32_t)low, (int32_t)high, (int32_t)segment};
}

/* Segment at or before `position`, by bisection: where a block of rows starts looking. */
static inline int64_t segment_hint(const attention_masks *m, int64_t position)
{
    int64_t low = 0, high = m->segments;
    while (low + 1 < high) {
        int64_t middle = (low + high) / 2;
        if (m->offsets[middle] <= position) low = middle;
        else high = middle;
    }
    return low;
}

/* The ranges of rows [first, first + count) of a unit. */
static inline void key_ranges(const attention_masks *m, int64_t b, int64_t first, int64_t count,
                              key_range *range)
{
    int64_t hint = m->offsets ? segment_hint(m, first / m->s.G) : 0, done = -1;
    for (int64_t r = 0; r < count; r++) {
        int64_t position = (first + r) / m->s.G;
        range[r] = position == done ? range[r - 1] : key_range_of(m, b, position, &hint);
        done = position;
    }
}

/* Rows that are worked on together: up to `most`, of one segment. */
static inline int64_t rows_together(const key_range *range, int64_t rows, int64_t most)
{
    int64_t count = 1;
    while (count < rows && count < most && range[count].segment == range[0].segment) count++;
    return count;
}

/* The keys that any of the rows reads; empty rows do not count. */
static inline key_range keys_of(const key_range *range, int64_t rows)
{
    key_range all = {INT32_MAX, 0, 0};
    for (int64_t r = 0; r < rows; r++) {
        if (range[r].high <= range[r].low) continue;
        if (range[r].low < all.low) all.low = range[r].low;
        if (range[r].high > all.high) all.high = range[r].high;
    }
    if (all.high == 0) all.low = 0;
    return all;
}

/* ---- masks ----------------------------------------------------------------------------------- */

/* Adds bias and masks to the scores of keys first .. first+count-1 of one row; scores[] begins at
 * key `start`. */
static inline void mask_row(const attention_masks *m, float *score, int64_t columns, int64_t start,
                            key_range range, int64_t b, int64_t h, int64_t position)
{
    int64_t low = range.low > start ? range.low - start : 0, high = range.high - start;
    if (high > columns) high = columns;
    if (high < low) high = low = 0;
    if (m->bias) {
        const int64_t *stride = m->bias_stride;
        const float *bias = m->bias + b * stride[0] + h * stride[1] + position * stride[2] +
                            start * stride[3];
        for (int64_t j = low; j < high; j++) score[j] += (float)LOG2_E * bias[j * stride[3]];
    }
    if (m->key_mask) {
        const uint8_t *mask = m->key_mask + b * m->s.M + start;
        for (int64_t j = low; j < high; j++) score[j] = mask[j] ? score[j] : -INFINITY;
    }
    for (int64_t j = 0; j < low; j++) score[j] = -INFINITY;
    for (int64_t j = high; j < columns; j++) score[j] = -INFINITY;
}

/* ---- tiles ----------------------------------------------------------------------------------- */

TN_VEC_INLINE void widen_as(float *to, const void *from, int64_t count, int64_t padded,
                            float factor, tn_dtype dtype)
{
    int64_t i = 0;
    for (; i + TN_VEC <= count; i += TN_VEC) tn_store(to + i, tn_vec_load(dtype, from, i) * factor);
    if (i < count)
        tn_store(to + i, tn_vec_load_part(dtype, from, i, (int)(count - i)) * factor), i += TN_VEC;
    for (; i < padded; i += TN_VEC) tn_store(to + i, (tn_vec){0});
}

/* One row to f32 times `factor`, zeros up to `padded`, a multiple of TN_VEC. */
static inline void widen(float *to, const void *from, tn_dtype dtype, int64_t count, int64_t padded,
                         float factor)
{
    TN_FOR_FLOAT(dtype, widen_as, to, from, count, padded, factor);
}

TN_VEC_INLINE void narrow_as(void *to, const float *from, int64_t count, float factor,
                             tn_dtype dtype)
{
    int64_t i = 0;
    for (; i + TN_VEC <= count; i += TN_VEC) tn_vec_store(dtype, to, i, tn_load(from + i) * factor);
    if (i < count)
        tn_vec_store_part(dtype, to, i,
                          tn_vec_load_part(TN_F32, from, i, (int)(count - i)) * factor,
                          (int)(count - i));
}

/* The way back. */
static inline void narrow(void *to, const float *from, tn_dtype dtype, int64_t count, float factor)
{
    TN_FOR_FLOAT(dtype, narrow_as, to, from, count, factor);
}

/* Asks for a row that is wanted soon. Heads lie side by side, so the rows of one head are often
 * pages apart, where the machine does not guess by itself. */
static inline void ask_for(const void *row, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)row + i);
}

static inline void ask_to_write(void *row, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((char *)row + i, 1);
}

#define LOW(i, w) ((i) & (w) ? TN_VEC + (i) - (w) : (i))
#define HIGH(i, w) ((i) & (w) ? TN_VEC + (i) : (i) + (w))
#define FOUR(f, i, w) f(i, w), f(i + 1, w), f(i + 2, w), f(i + 3, w)
#if TN_VEC == 16
#define ALL(f, w) FOUR(f, 0, w), FOUR(f, 4, w), FOUR(f, 8, w), FOUR(f, 12, w)
#elif TN_VEC == 8
#define ALL(f, w) FOUR(f, 0, w), FOUR(f, 4, w)
#else
#define ALL(f, w) FOUR(f, 0, w)
#endif

/* Swaps the blocks of w x w off the diagonal of every 2w x 2w block: doing it for w = 1, 2, 4 ...
 * transposes. */
#define SWAP_BLOCKS(w)                                                                             \
    do {                                                                                           \
        TN_UNROLL                                                                                  \
        for (int i = 0; i < TN_VEC; i++)                                                           \
            if (!(i & (w))) {                                                                      \
                tn_vec above = x[i], below = x[i + (w)];                                           \
                x[i] = __builtin_shufflevector(above, below, ALL(LOW, w));                         \
                x[i + (w)] = __builtin_shufflevector(above, below, ALL(HIGH, w));                  \
            }                                                                                      \
    } while (0)

TN_VEC_INLINE void transpose_lanes(tn_vec x[TN_VEC])
{
    SWAP_BLOCKS(1);
    SWAP_BLOCKS(2);
#if TN_VEC > 4
    SWAP_BLOCKS(4);
#endif
#if TN_VEC > 8
    SWAP_BLOCKS(8);
#endif
}

/* One lane per vector: lane i of the result is the sum (the largest) of the lanes of x[i], which is
 * used up. Pairs of vectors are folded into one, then pairs of pairs. Sums have one order. */
#define FOLD(w, join)                                                                              \
    do {                                                                                           \
        TN_UNROLL                                                                                  \
        for (int i = 0; i < TN_VEC; i += 2 * (w))                                                  \
            x[i] = join(__builtin_shufflevector(x[i], x[i + (w)], ALL(LOW, w)),                    \
                        __builtin_shufflevector(x[i], x[i + (w)], ALL(HIGH, w)));                  \
    } while (0)
#if TN_VEC == 16
#define FOLD_ALL(join)                                                                             \
    FOLD(1, join);                                                                                 \
    FOLD(2, join);                                                                                 \
    FOLD(4, join);                                                                                 \
    FOLD(8, join)
#elif TN_VEC == 8
#define FOLD_ALL(join)                                                                             \
    FOLD(1, join);                                                                                 \
    FOLD(2, join);                                                                                 \
    FOLD(4, join)
#else
#define FOLD_ALL(join)                                                                             \
    FOLD(1, join);                                                                                 \
    FOLD(2, join)
#endif
#define ADD(a, b) ((a) + (b))

TN_VEC_INLINE tn_vec sum_of_each(tn_vec x[TN_VEC])
{
    FOLD_ALL(ADD);
    return x[0];
}

TN_VEC_INLINE tn_vec largest_of_each(tn_vec x[TN_VEC])
{
    FOLD_ALL(tn_vec_max);
    return x[0];
}

/* to[column][row] of from[row][column]: `rows` rows, padded with zeros to a multiple of TN_VEC;
 * `columns` columns, of which a multiple of TN_VEC can be read and written. */
static inline void transpose_tile(float *restrict to, int64_t to_row, const float *restrict from,
                                  int64_t from_row, int64_t rows, int64_t columns)
{
    for (int64_t r = 0; r < rows; r += TN_VEC)
        for (int64_t c = 0; c < columns; c += TN_VEC) {
            tn_vec x[TN_VEC];
            TN_UNROLL
            for (int i = 0; i < TN_VEC; i++)
                x[i] = r + i < rows ? tn_load(from + (r + i) * from_row + c) : (tn_vec){0};
            transpose_lanes(x);
            TN_UNROLL
            for (int i = 0; i < TN_VEC; i++) tn_store(to + (c + i) * to_row + r, x[i]);
        }
}

#endif
