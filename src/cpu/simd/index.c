/* Gather and scatter, take and put, one-hot rows.
 *
 * Every element of a result is made by one thread, in an order that depends on the shapes and
 * indices alone: so results do not depend on the number of threads. Sums of bf16 and f16 are kept
 * in f32 and rounded once. */
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/status.h"
#include "base/threads.h"
#include "cpu/simd/copy.h"
#include "cpu/simd/row_sum.h"
#include "graph/index.h"

#define PARALLEL_BYTES (1 << 18)

typedef uint8_t word1 __attribute__((may_alias));
typedef uint16_t word2 __attribute__((may_alias));
typedef uint32_t word4 __attribute__((may_alias));
typedef uint64_t word8 __attribute__((may_alias));

static int axis_of(const tn_step *step)
{
    return ((const tn_axis_attribute *)step->attribute)->axis;
}

static int64_t at_most(int64_t x, int64_t limit) { return x < limit ? x : limit; }

/* ---- indices --------------------------------------------------------------------------------- */

static inline int64_t index_at(const void *index, tn_dtype dtype, int64_t i)
{
    return dtype == TN_I32 ? ((const int32_t *)index)[i] : ((const int64_t *)index)[i];
}

/* "gather (decoder.embed): index 12 at position 3 is outside 0..9" */
static __attribute__((noinline)) tn_status bad_index(const tn_step *step, int64_t value,
                                                     int64_t position, int64_t n)
{
    const char *open = step->name ? " (" : "", *name = step->name ? step->name : "",
               *close = step->name ? ")" : "";
    if (n == 0)
        return tn_fail(TN_INVALID, "%s%s%s%s: index %lld at position %lld, but the axis is empty",
                       step->op->name, open, name, close, (long long)value, (long long)position);
    return tn_fail(TN_INVALID, "%s%s%s%s: index %lld at position %lld is outside 0..%lld",
                   step->op->name, open, name, close, (long long)value, (long long)position,
                   (long long)n - 1);
}

/* All of index[count] must lie in [0, n). */
static tn_status check_index(const tn_step *step, const void *index, tn_dtype dtype, int64_t count,
                             int64_t n)
{
    uint64_t bad = 0, limit = (uint64_t)n;
    if (dtype == TN_I32) {
        const int32_t *x = index;
        uint32_t limit32 = n > INT32_MAX ? (uint32_t)INT32_MAX + 1 : (uint32_t)n, bad32 = 0;
        for (int64_t i = 0; i < count; i++) bad32 |= (uint32_t)((uint32_t)x[i] >= limit32);
        bad = bad32;
    } else {
        const int64_t *x = index;
        for (int64_t i = 0; i < count; i++) bad |= (uint64_t)((uint64_t)x[i] >= limit);
    }
    if (!bad) return TN_OK;
    int64_t i = 0;
    while ((uint64_t)index_at(index, dtype, i) < limit) i++;
    return bad_index(step, index_at(index, dtype, i), i, n);
}

/* ---- gather ---------------------------------------------------------------------------------- */

/* What the loops of one run need. */
typedef struct job {
    const tn_step *step;
    const unsigned char *in;
    const void *index;
    unsigned char *out;
    tn_dtype dtype, index_dtype;
    tn_axis_view v; /* of the operand with the axis of n elements */
    int64_t count;  /* indices along the axis: K or m; segments: S */
    int64_t size, chunks;
    const uint32_t *start, *order; /* of scatter_add */
    float *wide;                   /* of put_along: sums of 16-bit floats */
} job;

static job job_of(const tn_step *step, void *const *in, void *const *out, const tn_operand *whole,
                  int axis)
{
    return (job){.step = step,
                 .in = in[0],
                 .index = in[1],
                 .out = out[0],
                 .dtype = step->out[0].dtype,
                 .index_dtype = step->in[1].dtype,
                 .v = tn_axis_view_of(whole, axis),
                 .size = (int64_t)tn_dtype_size(step->out[0].dtype)};
}

#define DEFINE_GATHER(bytes)                                                                       \
    static void gather##bytes(const job *j, int64_t begin, int64_t end)                            \
    {                                                                                              \
        word##bytes *out = (word##bytes *)j->out;                                                  \
        const word##bytes *in = (const word##bytes *)j->in;                                        \
        for (int64_t i = begin; i < end;) {                                                        \
            int64_t o = i / j->count, stop = at_most((o + 1) * j->count, end);                     \
            const word##bytes *row = in + o * j->v.n;                                              \
            if (j->index_dtype == TN_I32)                                                          \
                for (; i < stop; i++) out[i] = row[((const int32_t *)j->index)[i - o * j->count]]; \
            else                                                                                   \
                for (; i < stop; i++) out[i] = row[((const int64_t *)j->index)[i - o * j->count]]; \
        }                                                                                          \
    }
DEFINE_GATHER(1)
DEFINE_GATHER(2)
DEFINE_GATHER(4)
DEFINE_GATHER(8)

/* Items: rows (o, k) of the result. */
static void gather_rows(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    int64_t bytes = j->v.inner * j->size;
    if (j->v.inner == 1) {
        if (j->size == 1) gather1(j, begin, end);
        if (j->size == 2) gather2(j, begin, end);
        if (j->size == 4) gather4(j, begin, end);
        if (j->size == 8) gather8(j, begin, end);
        return;
    }
    int64_t o = begin / j->count, k = begin % j->count;
    for (int64_t i = begin; i < end; i++) {
        tn_copy_bytes(j->out + i * bytes,
                      j->in + (o * j->v.n + index_at(j->index, j->index_dtype, k)) * bytes, bytes);
        if (++k == j->count) k = 0, o++;
    }
}

static tn_status gather(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    job j = job_of(step, in, out, &step->in[0], axis_of(step));
    j.count = tn_operand_size(&step->in[1]);
    TN_TRY(check_index(step, j.index, j.index_dtype, j.count, j.v.n));
    int64_t bytes = j.v.inner * j.size;
    if (bytes) tn_parallel(j.v.outer * j.count, PARALLEL_BYTES / bytes + 1, gather_rows, &j);
    return TN_OK;
}

/* ---- scatter add ----------------------------------------------------------------------------- */

/* Sorts the positions 0..count-1 by their index: positions of index i are order[start[i]] ..
 * order[start[i+1]-1], ascending. */
static void sort_positions(const job *j, uint32_t *start, uint32_t *order)
{
    int64_t n = j->v.n;
    memset(start, 0, (size_t)(n + 2) * sizeof *start);
    for (int64_t k = 0; k < j->count; k++) start[index_at(j->index, j->index_dtype, k) + 2]++;
    for (int64_t i = 2; i < n + 2; i++) start[i] += start[i - 1];
    for (int64_t k = 0; k < j->count; k++)
        order[start[index_at(j->index, j->index_dtype, k) + 1]++] = (uint32_t)k;
}

/* Items: chunks of columns, of all rows in turn: a few popular rows do not keep one thread from its
 * share. */
static void scatter_items(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    int64_t row_bytes = j->v.inner * j->size;
    tn_accumulator sum;
    int64_t rows = j->v.outer * j->v.n, row = begin % rows, i = row % j->v.n, o = row / j->v.n,
            chunk = begin / rows * TN_CHUNK;
    for (int64_t item = begin; item < end; item++, row++, i++) {
        if (i == j->v.n) i = 0, o++;
        if (row == rows) row = 0, o = 0, chunk += TN_CHUNK;
        int64_t width = at_most(j->v.inner - chunk, TN_CHUNK);
        unsigned char *out = j->out + row * row_bytes + chunk * j->size;
        const unsigned char *in = j->in + o * j->count * row_bytes + chunk * j->size;
        uint32_t first = j->start[i], last = j->start[i + 1];
        if (first == last) {
            memset(out, 0, (size_t)(width * j->size));
        } else if (last - first == 1) {
            tn_copy_bytes(out, in + j->order[first] * row_bytes, width * j->size);
        } else {
            tn_row_sum(in, row_bytes, j->dtype, j->order, first, last, width, &sum);
            tn_row_store(out, &sum, width, j->dtype);
        }
    }
}

static tn_status scatter_prepare(tn_step *step)
{
    TN_TRY(tn_needs_numbers(step, step->out[0].dtype));
    int64_t n = step->out[0].dim[axis_of(step)], count = tn_operand_size(&step->in[1]);
    if (n > UINT32_MAX - 2 || count > UINT32_MAX)
        return tn_fail(TN_UNSUPPORTED, "scatter_add of more than 2^32 rows");
    step->workspace = (size_t)(n + 2 + count) * sizeof(uint32_t);
    return TN_OK;
}

static tn_status scatter_add(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    job j = job_of(step, in, out, &step->out[0], axis_of(step));
    j.count = tn_operand_size(&step->in[1]);
    TN_TRY(check_index(step, j.index, j.index_dtype, j.count, j.v.n));
    if (tn_operand_size(&step->out[0]) == 0) return TN_OK;
    uint32_t *start = workspace, *order = start + j.v.n + 2;
    sort_positions(&j, start, order);
    j.start = start;
    j.order = order;
    j.chunks = (j.v.inner + TN_CHUNK - 1) / TN_CHUNK;
    int64_t bytes = at_most(j.v.inner, TN_CHUNK) * j.size;
    tn_parallel(j.chunks * j.v.outer * j.v.n, PARALLEL_BYTES / bytes + 1, scatter_items, &j);
    return TN_OK;
}

/* ---- take along, put along ------------------------------------------------------------------- */

/* Items: rows (o, k) of the result. */
#define DEFINE_TAKE(bytes)                                                                         \
    static void take##bytes(void *context, int64_t begin, int64_t end)                             \
    {                                                                                              \
        const job *j = context;                                                                    \
        int64_t inner = j->v.inner;                                                                \
        for (int64_t row = begin; row < end; row++) {                                              \
            const word##bytes *in = (const word##bytes *)j->in + row / j->count * j->v.n * inner;  \
            word##bytes *out = (word##bytes *)j->out + row * inner;                                \
            if (j->index_dtype == TN_I32)                                                          \
                for (int64_t i = 0; i < inner; i++)                                                \
                    out[i] = in[((const int32_t *)j->index)[row * inner + i] * inner + i];         \
            else                                                                                   \
                for (int64_t i = 0; i < inner; i++)                                                \
                    out[i] = in[((const int64_t *)j->index)[row * inner + i] * inner + i];         \
        }                                                                                          \
    }
DEFINE_TAKE(1)
DEFINE_TAKE(2)
DEFINE_TAKE(4)
DEFINE_TAKE(8)

static tn_status take_along(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    int axis = axis_of(step);
    job j = job_of(step, in, out, &step->in[0], axis);
    j.count = step->out[0].dim[axis];
    TN_TRY(check_index(step, j.index, j.index_dtype, tn_operand_size(&step->in[1]), j.v.n));
    int64_t rows = j.v.outer * j.count, grain = PARALLEL_BYTES / (j.v.inner * j.size + 1) + 1;
    if (j.size == 1) tn_parallel(rows, grain, take1, &j);
    if (j.size == 2) tn_parallel(rows, grain, take2, &j);
    if (j.size == 4) tn_parallel(rows, grain, take4, &j);
    if (j.size == 8) tn_parallel(rows, grain, take8, &j);
    return TN_OK;
}

/* Items: (o, strip of columns). bf16 and f16 are added up in the workspace, one f32 for each
 * element of the result. */
#define STRIP 64

/* Adds value (o, k, i) to element (o, index, i), for the columns first .. first+width-1. */
#define DEFINE_PUT(name, sum_type, value_type, convert)                                            \
    static void put_##name(const job *j, sum_type *target, int64_t o, int64_t first,               \
                           int64_t width)                                                          \
    {                                                                                              \
        int64_t inner = j->v.inner, from = o * j->count * inner + first;                           \
        const value_type *value = (const value_type *)(const void *)j->in;                         \
        target += o * j->v.n * inner + first;                                                      \
        for (int64_t k = 0; k < j->count; k++, from += inner)                                      \
            for (int64_t i = 0; i < width; i++)                                                    \
                target[index_at(j->index, j->index_dtype, from + i) * inner + i] += convert(       \
                    value[from + i]);                                                              \
    }
DEFINE_PUT(f32, float, float, )
DEFINE_PUT(f64, double, double, )
DEFINE_PUT(i32, uint32_t, uint32_t, )
DEFINE_PUT(i64, uint64_t, uint64_t, )
DEFINE_PUT(bf16, float, uint16_t, tn_f32_from_bf16)
DEFINE_PUT(f16, float, uint16_t, tn_f32_from_f16)

static void put_strips(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    int64_t inner = j->v.inner, size = j->wide ? 4 : j->size;
    void *target = j->wide ? (void *)j->wide : j->out;
    for (int64_t item = begin; item < end; item++) {
        int64_t o = item / j->chunks, first = item % j->chunks * STRIP,
                width = at_most(inner - first, STRIP);
        unsigned char *zero = (unsigned char *)target + (o * j->v.n * inner + first) * size;
        if (width == inner) memset(zero, 0, (size_t)(j->v.n * inner * size));
        else
            for (int64_t r = 0; r < j->v.n; r++)
                memset(zero + r * inner * size, 0, (size_t)(width * size));
        switch (j->dtype) {
        case TN_F32: put_f32(j, target, o, first, width); break;
        case TN_F64: put_f64(j, target, o, first, width); break;
        case TN_BF16: put_bf16(j, target, o, first, width); break;
        case TN_F16: put_f16(j, target, o, first, width); break;
        case TN_I32: put_i32(j, target, o, first, width); break;
        default: put_i64(j, target, o, first, width);
        }
        for (int64_t r = 0; r < j->v.n && j->wide; r++)
            for (int64_t i = 0; i < width; i++) {
                int64_t cell = (o * j->v.n + r) * inner + first + i;
                uint16_t *out = (uint16_t *)(void *)j->out;
                out[cell] = j->dtype == TN_BF16 ? tn_bf16_from_f32(j->wide[cell])
                                                : tn_f16_from_f32(j->wide[cell]);
            }
    }
}

static tn_status put_prepare(tn_step *step)
{
    tn_dtype dtype = step->out[0].dtype;
    TN_TRY(tn_needs_numbers(step, dtype));
    if (dtype == TN_BF16 || dtype == TN_F16)
        step->workspace = (size_t)tn_operand_size(&step->out[0]) * sizeof(float);
    return TN_OK;
}

static tn_status put_along(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    int axis = axis_of(step);
    job j = job_of(step, in, out, &step->out[0], axis);
    j.count = step->in[0].dim[axis];
    TN_TRY(check_index(step, j.index, j.index_dtype, tn_operand_size(&step->in[1]), j.v.n));
    if (tn_operand_size(&step->out[0]) == 0) return TN_OK;
    j.wide = step->workspace ? workspace : NULL;
    j.chunks = (j.v.inner + STRIP - 1) / STRIP;
    int64_t bytes = at_most(j.v.inner, STRIP) * (j.v.n + j.count) * j.size;
    tn_parallel(j.v.outer * j.chunks, PARALLEL_BYTES / 4 / bytes + 1, put_strips, &j);
    return TN_OK;
}

/* ---- one hot --------------------------------------------------------------------------------- */

static void one_hot_rows(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    int64_t classes = j->count;
    static const double one64 = 1;
    static const float one32 = 1;
    static const uint16_t one_bf16 = 0x3f80, one_f16 = 0x3c00;
    static const uint64_t one_integer = 1; /* little-endian: any width */
    const void *one = j->dtype == TN_F32    ? (const void *)&one32
                      : j->dtype == TN_F64  ? (const void *)&one64
                      : j->dtype == TN_BF16 ? (const void *)&one_bf16
                      : j->dtype == TN_F16  ? (const void *)&one_f16
                                            : (const void *)&one_integer;
    memset(j->out + begin * classes * j->size, 0, (size_t)((end - begin) * classes * j->size));
    for (int64_t i = begin; i < end; i++) {
        int64_t at = index_at(j->index, j->index_dtype, i);
        if (at >= 0 && at < classes)
            memcpy(j->out + (i * classes + at) * j->size, one, (size_t)j->size);
    }
}

static tn_status one_hot(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const tn_operand *y = &step->out[0];
    job j = {.step = step,
             .index = in[0],
             .out = out[0],
             .dtype = y->dtype,
             .index_dtype = step->in[0].dtype,
             .count = y->dim[y->rank - 1],
             .size = (int64_t)tn_dtype_size(y->dtype)};
    if (j.count)
        tn_parallel(tn_operand_size(&step->in[0]), PARALLEL_BYTES / (j.count * j.size) + 1,
                    one_hot_rows, &j);
    return TN_OK;
}

void TN_ISA(tn_cpu_order)(tn_kernel_table *table);   /* order.c */
void TN_ISA(tn_cpu_segment)(tn_kernel_table *table); /* segment.c */
void TN_ISA(tn_cpu_index)(tn_kernel_table *table);
void TN_ISA(tn_cpu_index)(tn_kernel_table *table)
{
    static const tn_kernel gather_kernel = {.run = gather},
                           scatter_kernel = {.prepare = scatter_prepare, .run = scatter_add},
                           take_kernel = {.run = take_along},
                           put_kernel = {.prepare = put_prepare, .run = put_along},
                           one_hot_kernel = {.run = one_hot};
    table->kernel[TN_OP_GATHER] = &gather_kernel;
    table->kernel[TN_OP_SCATTER_ADD] = &scatter_kernel;
    table->kernel[TN_OP_TAKE_ALONG] = &take_kernel;
    table->kernel[TN_OP_PUT_ALONG] = &put_kernel;
    table->kernel[TN_OP_ONE_HOT] = &one_hot_kernel;
    TN_ISA(tn_cpu_order)(table);
    TN_ISA(tn_cpu_segment)(table);
}
