/* Reshape, transpose, broadcast, slice and concat: copies between strides (copy.c). Any dtype, by
 * the size of its elements. */
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "base/threads.h"
#include "cpu/simd/copy.h"

#define PARALLEL_BYTES (1 << 18)

static tn_status out_of_memory(const tn_step *step)
{
    return tn_fail(TN_MEMORY, "%s: out of memory", step->op->name);
}

static void release(tn_step *step)
{
    free(step->prepared);
    step->prepared = NULL;
}

/* ---- views made dense ------------------------------------------------------------------------ */

typedef struct view_copy {
    tn_copy copy;
    int64_t offset; /* bytes into the input */
} view_copy;

static void any_to_rows(const tn_step *step, tn_layout *in, tn_layout *out)
{
    (void)step;
    in[0] = TN_ANY;
    out[0] = TN_ROWS;
}

static tn_status view_prepare(tn_step *step)
{
    view_copy *v = calloc(1, sizeof *v);
    if (!v) return out_of_memory(step);
    step->prepared = v;
    const tn_operand *x = &step->in[0];
    tn_operand from = step->out[0];
    if (step->op->id == TN_OP_TRANSPOSE) {
        const tn_transpose_attribute *a = step->attribute;
        for (int i = 0; i < from.rank; i++) from.stride[i] = x->stride[a->permutation[i]];
    } else {
        const tn_slice_attribute *a = step->attribute;
        memcpy(from.stride, x->stride, sizeof from.stride);
        v->offset = a->start * x->stride[a->axis] * (int64_t)tn_dtype_size(x->dtype);
        from.stride[a->axis] *= a->step;
    }
    TN_ISA(tn_copy_make)(&v->copy, &from, &step->out[0]);
    return TN_OK;
}

static tn_status view_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const view_copy *v = step->prepared;
    if (v->copy.items)
        TN_ISA(tn_copy_run)(&v->copy, (const unsigned char *)in[0] + v->offset, out[0]);
    return TN_OK;
}

static tn_status reshape_prepare(tn_step *step)
{
    tn_copy *copy = malloc(sizeof *copy);
    if (!copy) return out_of_memory(step);
    TN_ISA(tn_copy_make)(copy, &step->out[0], &step->out[0]); /* both lie in rows */
    step->prepared = copy;
    return TN_OK;
}

static tn_status reshape_run(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    (void)workspace;
    TN_ISA(tn_copy_run)(step->prepared, in[0], out[0]);
    return TN_OK;
}

/* ---- concat ---------------------------------------------------------------------------------- */

typedef struct concat_plan {
    bool interleaved; /* all inputs are short contiguous rows: the output is written in one go */
    int64_t rows, grain;
    struct part {
        tn_copy copy;
        int64_t offset;
    } part[];
} concat_plan;

/* The largest input decides: a skip connection in channels-last stays so. */
static void concat_layouts(const tn_step *step, tn_layout *in, tn_layout *out)
{
    int largest = 0;
    for (int i = 0; i < step->in_count; i++) {
        in[i] = TN_ANY;
        if (tn_operand_size(&step->in[i]) > tn_operand_size(&step->in[largest])) largest = i;
    }
    out[0] = tn_prefers_channels_last(&step->in[largest]) ? TN_CHANNELS_LAST : TN_ROWS;
}

static tn_status concat_prepare(tn_step *step)
{
    int axis = ((const tn_axis_attribute *)step->attribute)->axis;
    concat_plan *plan = calloc(1, sizeof *plan + (size_t)step->in_count * sizeof plan->part[0]);
    if (!plan) return out_of_memory(step);
    step->prepared = plan;
    int64_t start = 0, row_bytes = 0;
    plan->interleaved = true;
    for (int i = 0; i < step->in_count; i++) {
        tn_operand to = step->in[i];
        memcpy(to.stride, step->out[0].stride, sizeof to.stride);
        tn_copy *copy = &plan->part[i].copy;
        TN_ISA(tn_copy_make)(copy, &step->in[i], &to);
        plan->part[i].offset = start * to.stride[axis] * (int64_t)tn_dtype_size(to.dtype);
        start += to.dim[axis];
        if (copy->items == 0) continue;
        int64_t bytes = copy->dim[1] * copy->size;
        bool short_rows = copy->rank == 2 && copy->from[1] == copy->size &&
                          copy->to[1] == copy->size && bytes <= 8192;
        plan->interleaved = plan->interleaved && short_rows && copy->dim[0] > 1 &&
                            (plan->rows == 0 || plan->rows == copy->dim[0]);
        plan->rows = copy->dim[0];
        row_bytes += bytes;
    }
    plan->grain = PARALLEL_BYTES / (row_bytes + 1) + 1;
    return TN_OK;
}

typedef struct concat_run_context {
    const tn_step *step;
    void *const *in;
    unsigned char *out;
} concat_run_context;

static void concat_rows(void *context, int64_t begin, int64_t end)
{
    const concat_run_context *c = context;
    const concat_plan *plan = c->step->prepared;
    for (int64_t row = begin; row < end; row++)
        for (int i = 0; i < c->step->in_count; i++) {
            const struct part *part = &plan->part[i];
            if (part->copy.items == 0) continue;
            tn_copy_bytes(c->out + part->offset + row * part->copy.to[0],
                          (const unsigned char *)c->in[i] + row * part->copy.from[0],
                          part->copy.dim[1] * part->copy.size);
        }
}

static tn_status concat_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const concat_plan *plan = step->prepared;
    if (plan->interleaved) {
        concat_run_context c = {step, in, out[0]};
        tn_parallel(plan->rows, plan->grain, concat_rows, &c);
        return TN_OK;
    }
    for (int i = 0; i < step->in_count; i++)
        if (plan->part[i].copy.items) TN_ISA(tn_copy_run)
    (&plan->part[i].copy, in[i], (unsigned char *)out[0] + plan->part[i].offset);
    return TN_OK;
}

void TN_ISA(tn_cpu_mapped)(tn_kernel_table *table); /* mapped.c */
void TN_ISA(tn_cpu_shape)(tn_kernel_table *table);
void TN_ISA(tn_cpu_shape)(tn_kernel_table *table)
{
    static const tn_kernel view = {
        .layouts = any_to_rows, .prepare = view_prepare, .run = view_run, .release = release};
    static const tn_kernel reshape = {
        .prepare = reshape_prepare, .run = reshape_run, .release = release};
    static const tn_kernel concat = {.layouts = concat_layouts,
                                     .prepare = concat_prepare,
                                     .run = concat_run,
                                     .release = release};
    table->kernel[TN_OP_RESHAPE] = &reshape;
    table->kernel[TN_OP_TRANSPOSE] = &view;
    table->kernel[TN_OP_SLICE] = &view;
    table->kernel[TN_OP_BROADCAST] = &TN_ISA(tn_copy_kernel);
    table->kernel[TN_OP_CONCAT] = &concat;
    TN_ISA(tn_cpu_mapped)(table);
}
