/* Sums, maxima and broadcasts over segments of packed rows.
 *
 * Every element of a result is made by one thread, in an order that depends on the offsets alone.
 * Sums of bf16 and f16 are kept in f32 and rounded once. */
#include <string.h>

#include "base/status.h"
#include "base/threads.h"
#include "cpu/simd/copy.h"
#include "cpu/simd/row_sum.h"
#include "graph/index.h"

#define PARALLEL_BYTES (1 << 18)

static int64_t at_most(int64_t x, int64_t limit) { return x < limit ? x : limit; }

/* 0 <= offset[s] <= offset[s+1] <= rows */
static tn_status check_offsets(const tn_step *step, const int32_t *offset, int64_t segments,
                               int64_t rows)
{
    int64_t before = 0;
    for (int64_t s = 0; s <= segments; s++) {
        if (offset[s] < before || offset[s] > rows)
            return tn_fail(TN_INVALID, "%s%s%s%s: offset %d at position %lld is %s", step->op->name,
                           step->name ? " (" : "", step->name ? step->name : "",
                           step->name ? ")" : "", (int)offset[s], (long long)s,
                           offset[s] < before ? (s ? "smaller than the one before" : "negative")
                                              : "beyond the last row");
        before = offset[s];
    }
    return TN_OK;
}

/* What the loops of one run need. Rows are `width` elements wide. */
typedef struct job {
    bool sums; /* or maxima */
    const unsigned char *in;
    const int32_t *offset;
    unsigned char *out;
    tn_dtype dtype;
    int64_t segments, rows, width, size;
} job;

/* `packed`: the operand with the rows of all segments. */
static job job_of(const tn_step *step, void *const *in, void *const *out, const tn_operand *packed)
{
    tn_axis_view v = tn_axis_view_of(packed, 0);
    return (job){.sums = step->op->id == TN_OP_SEGMENT_SUM,
                 .in = in[0],
                 .offset = in[1],
                 .out = out[0],
                 .dtype = packed->dtype,
                 .segments = step->in[1].dim[0] - 1,
                 .rows = v.n,
                 .width = v.inner,
                 .size = (int64_t)tn_dtype_size(packed->dtype)};
}

static tn_status number_prepare(tn_step *step)
{
    return tn_needs_numbers(step, step->out[0].dtype);
}

/* Items: chunks of columns, of all segments in turn. */
static void segment_items(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    const int32_t *offset = j->offset;
    int64_t row_bytes = j->width * j->size;
    tn_accumulator result;
    for (int64_t item = begin; item < end; item++) {
        int64_t s = item % j->segments, chunk = item / j->segments * TN_CHUNK,
                width = at_most(j->width - chunk, TN_CHUNK);
        int64_t first = offset[s], last = offset[s + 1];
        unsigned char *out = j->out + s * row_bytes + chunk * j->size;
        const unsigned char *in = j->in + chunk * j->size;
        if (first == last) {
            memset(out, 0, (size_t)(width * j->size));
        } else if (last - first == 1) {
            tn_copy_bytes(out, in + first * row_bytes, width * j->size);
        } else if (j->sums) {
            tn_row_sum(in, row_bytes, j->dtype, NULL, first, last, width, &result);
            tn_row_store(out, &result, width, j->dtype);
        } else {
            tn_row_clear(&result, width, j->dtype);
            tn_row_add(&result, in + first * row_bytes, width,
                       j->dtype); /* the first row itself (-0 becomes 0) */
            for (int64_t t = first + 1; t < last; t++)
                tn_row_max(&result, in + t * row_bytes, width, j->dtype);
            tn_row_store(out, &result, width, j->dtype);
        }
    }
}

/* SEGMENT_SUM, SEGMENT_MAX */
static tn_status segment_reduce(const tn_step *step, void *const *in, void *const *out,
                                void *workspace)
{
    (void)workspace;
    job j = job_of(step, in, out, &step->in[0]);
    TN_TRY(check_offsets(step, j.offset, j.segments, j.rows));
    if (tn_operand_size(&step->out[0]) == 0) return TN_OK;
    int64_t chunks = (j.width + TN_CHUNK - 1) / TN_CHUNK;
    int64_t bytes = at_most(j.width, TN_CHUNK) * j.size * (j.rows / j.segments + 1);
    tn_parallel(chunks * j.segments, PARALLEL_BYTES / bytes + 1, segment_items, &j);
    return TN_OK;
}

/* Items: rows of the result. */
static void broadcast_rows(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    const int32_t *offset = j->offset;
    int64_t row_bytes = j->width * j->size, low = 0, high = j->segments;
    while (low < high) { /* the last segment that begins at or before `begin` */
        int64_t middle = (low + high + 1) / 2;
        if (offset[middle] <= begin) low = middle;
        else high = middle - 1;
    }
    for (int64_t t = begin, s = low; t < end; t++) {
        while (s < j->segments && offset[s + 1] <= t) s++;
        if (s < j->segments && offset[s] <= t)
            tn_copy_bytes(j->out + t * row_bytes, j->in + s * row_bytes, row_bytes);
        else memset(j->out + t * row_bytes, 0, (size_t)row_bytes);
    }
}

static tn_status segment_broadcast(const tn_step *step, void *const *in, void *const *out,
                                   void *workspace)
{
    (void)workspace;
    job j = job_of(step, in, out, &step->out[0]);
    TN_TRY(check_offsets(step, j.offset, j.segments, j.rows));
    int64_t bytes = j.width * j.size;
    if (bytes) tn_parallel(j.rows, PARALLEL_BYTES / bytes + 1, broadcast_rows, &j);
    return TN_OK;
}

void TN_ISA(tn_cpu_segment)(tn_kernel_table *table);
void TN_ISA(tn_cpu_segment)(tn_kernel_table *table)
{
    static const tn_kernel reduce_kernel = {.prepare = number_prepare, .run = segment_reduce},
                           broadcast_kernel = {.run = segment_broadcast};
    table->kernel[TN_OP_SEGMENT_SUM] = &reduce_kernel;
    table->kernel[TN_OP_SEGMENT_MAX] = &reduce_kernel;
    table->kernel[TN_OP_SEGMENT_BROADCAST] = &broadcast_kernel;
}
