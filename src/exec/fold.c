/* Constant folding: nodes whose operands are all small constants are computed once, by the reference kernels. */
#include <stdlib.h>
#include <string.h>

#include "exec/plan.h"

#define MOST_ELEMENTS 65536

static bool is_constant(const tn_value *value)
{
    tn_op_id id = value->op->id;
    return id == TN_OP_CONSTANT || id == TN_OP_FILL || id == TN_OP_IOTA;
}

/* A fill of a fill is simplified elsewhere; bare leaves and views of fills stay symbolic because that is cheaper. */
static bool worth_folding(const tn_graph *graph, int32_t id)
{
    const tn_value *value = graph->value[id];
    tn_op_id op = value->op->id;
    if (value->in_count == 0 || value->result_count > 1 || op == TN_OP_RESULT ||
        value->op->flags & TN_EFFECT || value->dtype == TN_BF16 || value->dtype == TN_F16)
        return false;
    if (op == TN_OP_CHECKPOINT || op == TN_OP_AFTER || op == TN_OP_STOP_GRADIENT ||
        (op >= TN_OP_RANDOM_UNIFORM && op <= TN_OP_CATEGORICAL))
        return false;
    int64_t size = tn_shape_size(value->shape);
    bool folds = size <= MOST_ELEMENTS, only_fills = true;
    for (int i = 0; i < value->in_count && folds; i++) {
        const tn_value *in = graph->value[value->in[i]];
        folds = is_constant(in) && tn_shape_size(in->shape) <= MOST_ELEMENTS;
        only_fills = only_fills && in->op->id == TN_OP_FILL;
    }
    return folds && !(only_fills && value->op->flags & TN_VIEW);
}

static void leaf_value(const tn_value *value, double *out)
{
    int64_t count = tn_shape_size(value->shape);
    if (value->op->id == TN_OP_CONSTANT) {
        tn_to_double(value->dtype, ((const tn_constant_attribute *)value->attribute)->bytes, out,
                     count);
    } else if (value->op->id == TN_OP_FILL) {
        for (int64_t i = 0; i < count; i++)
            out[i] = ((const tn_fill_attribute *)value->attribute)->value;
    } else {
        int axis = ((const tn_iota_attribute *)value->attribute)->axis;
        int64_t inner = 1;
        for (int i = axis + 1; i < value->shape.rank; i++) inner *= value->shape.dim[i];
        for (int64_t i = 0; i < count; i++) out[i] = (double)(i / inner % value->shape.dim[axis]);
    }
}

/* The node as a CONSTANT of the new graph, or nothing when there is no reference kernel or memory. */
static tn_node fold(const tn_graph *graph, int32_t id, tn_graph *to)
{
    const tn_value *value = graph->value[id];
    const tn_kernel *kernel = tn_ref_kernels()->kernel[value->op->id];
    if (!value->op->id || !kernel || kernel->prepare) return TN_NONE;
    tn_operand in_operand[TN_MAX_IN], out_operand = tn_operand_of(value);
    void *in[TN_MAX_IN] = {0},
         *out = calloc((size_t)tn_shape_size(value->shape) + 1, sizeof(double));
    bool ok = out && value->in_count <= TN_MAX_IN;
    for (int i = 0; i < value->in_count && ok; i++) {
        const tn_value *from = graph->value[value->in[i]];
        in_operand[i] = tn_operand_of(from);
        in[i] = calloc((size_t)tn_shape_size(from->shape) + 1, sizeof(double));
        ok = in[i] != NULL;
        if (ok) leaf_value(from, in[i]);
    }
    tn_step step = {.op = value->op,
                    .kernel = kernel,
                    .attribute = value->attribute,
                    .in_count = value->in_count,
                    .out_count = 1,
                    .in = in_operand,
                    .out = &out_operand};
    ok = ok && kernel->run(&step, in, &out, NULL) == TN_OK;
    tn_node folded = TN_NONE;
    size_t bytes = (size_t)tn_shape_size(value->shape) * tn_dtype_size(value->dtype);
    void *typed = ok ? malloc(bytes + 1) : NULL;
    if (typed) {
        tn_from_double(value->dtype, out, typed, tn_shape_size(value->shape));
        folded = tn_constant(to, value->dtype, value->shape, typed);
    }
    free(typed);
    free(out);
    for (int i = 0; i < TN_MAX_IN; i++) free(in[i]);
    return folded;
}

/* A pass's graph is freed by the next pass: the bytes move into the user's graph, which outlives compiling. */
static void keep_bytes(tn_graph *user, tn_node constant)
{
    tn_constant_attribute *attribute = (void *)(uintptr_t)tn_value_of(constant)->attribute;
    attribute->bytes = tn_arena_copy(&user->arena, attribute->bytes, attribute->size);
    if (!attribute->bytes) constant.graph->status = TN_MEMORY;
}

tn_status tn_pass_fold_constants(tn_program *program)
{
    /* One constant may feed the next: repeated until nothing changes, which chains of constants keep short. */
    for (int round = 0; round < 8; round++) {
        tn_rewrite rewrite;
        bool changed = false;
        TN_TRY(tn_rewrite_begin(&rewrite, program));
        for (int32_t id = 1; id < program->graph->count && rewrite.to->status == TN_OK; id++) {
            const tn_value *value = program->graph->value[id];
            tn_here(value->file, value->line);
            tn_node folded = worth_folding(program->graph, id)
                                 ? fold(program->graph, id, rewrite.to)
                                 : TN_NONE;
            if (tn_is_none(folded)) {
                tn_rewrite_copy(&rewrite, id);
            } else {
                keep_bytes(program->user, folded);
                tn_rewrite_replace(&rewrite, id, folded);
                changed = true;
            }
        }
        TN_TRY(tn_rewrite_end(&rewrite, program, TN_OK));
        if (!changed) break;
    }
    return TN_OK;
}
