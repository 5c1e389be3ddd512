/* The reference interpreter: every value a dense array of doubles, every node run in building order, nothing shared, nothing clever.
 * It is the oracle of the other backends and of all gradient checks. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "exec/plan.h"

void tn_to_double(tn_dtype dtype, const void *from, double *to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) switch (dtype) {
        case TN_F32: to[i] = ((const float *)from)[i]; break;
        case TN_F64: to[i] = ((const double *)from)[i]; break;
        case TN_BF16: to[i] = tn_f32_from_bf16(((const uint16_t *)from)[i]); break;
        case TN_F16: to[i] = tn_f32_from_f16(((const uint16_t *)from)[i]); break;
        case TN_I64: to[i] = (double)((const int64_t *)from)[i]; break;
        case TN_I32: to[i] = ((const int32_t *)from)[i]; break;
        case TN_I8: to[i] = ((const int8_t *)from)[i]; break;
        default: to[i] = ((const uint8_t *)from)[i]; break;
        }
}

void tn_from_double(tn_dtype dtype, const double *from, void *to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) switch (dtype) {
        case TN_F32: ((float *)to)[i] = (float)from[i]; break;
        case TN_F64: ((double *)to)[i] = from[i]; break;
        case TN_BF16: ((uint16_t *)to)[i] = tn_bf16_from_f32((float)from[i]); break;
        case TN_F16: ((uint16_t *)to)[i] = tn_f16_from_f32((float)from[i]); break;
        case TN_I64: ((int64_t *)to)[i] = (int64_t)from[i]; break;
        case TN_I32: ((int32_t *)to)[i] = (int32_t)from[i]; break;
        case TN_I8: ((int8_t *)to)[i] = (int8_t)from[i]; break;
        case TN_BOOL: ((uint8_t *)to)[i] = from[i] != 0; break;
        default: ((uint8_t *)to)[i] = (uint8_t)from[i]; break;
        }
}

typedef struct interpreter {
    const tn_plan *plan;
    const tn_graph *graph;
    double **value; /* by id */
} interpreter;

static tn_status run_kernel(interpreter *it, int32_t id)
{
    const tn_value *node = it->graph->value[id];
    const tn_kernel *kernel = tn_kernel_for(it->plan->program.kernels, node->op);
    if (!kernel) return tn_fail(TN_UNSUPPORTED, "%s has no reference kernel", node->op->name);
    size_t in_count = (size_t)node->in_count, out_count = (size_t)node->result_count;
    tn_step step = {.op = node->op,
                    .kernel = kernel,
                    .attribute = node->attribute,
                    .in_count = node->in_count,
                    .out_count = node->result_count,
                    .name = node->name,
                    .file = node->file,
                    .line = node->line};
    step.in = calloc(in_count + 1, sizeof *step.in);
    step.out = calloc(out_count, sizeof *step.out);
    void **pointer = calloc(in_count + out_count, sizeof *pointer), *workspace = NULL;
    tn_status status = step.in && step.out && pointer
                           ? TN_OK
                           : tn_fail(TN_MEMORY, "out of memory in the reference interpreter");
    for (size_t i = 0; i < in_count && status == TN_OK; i++) {
        step.in[i] = tn_operand_of(it->graph->value[node->in[i]]);
        pointer[i] = it->value[node->in[i]];
    }
    for (size_t r = 0; r < out_count && status == TN_OK; r++) {
        step.out[r] = tn_operand_of(it->graph->value[id + (int32_t)r]);
        pointer[in_count + r] = it->value[id + (int32_t)r];
    }
    if (status == TN_OK && kernel->prepare) status = kernel->prepare(&step);
    if (status == TN_OK && step.workspace && !(workspace = malloc(step.workspace)))
        status = tn_fail(TN_MEMORY, "out of memory in the reference interpreter");
    if (status == TN_OK) status = kernel->run(&step, pointer, pointer + in_count, workspace);
    if (kernel->release) kernel->release(&step);
    free(workspace);
    free(pointer);
    free(step.in);
    free(step.out);
    return status == TN_OK
               ? TN_OK
               : tn_fail_in(status, "%s:%d", node->file ? node->file : node->op->name, node->line);
}

static tn_status evaluate(interpreter *it, int32_t id, const void *const *feeds)
{
    const tn_value *node = it->graph->value[id];
    const tn_program *program = &it->plan->program;
    int64_t count = tn_shape_size(node->shape);
    double *out = it->value[id];
    switch (node->op->id) {
    case TN_OP_INPUT:
        for (int i = 0; i < program->feed_count; i++)
            if (program->root[i] == id) tn_to_double(node->dtype, feeds[i], out, count);
        return TN_OK;
    case TN_OP_STATE:
        tn_to_double(node->dtype, tn_state_find(it->plan->state, node->name)->data, out, count);
        return TN_OK;
    case TN_OP_CONSTANT:
        tn_to_double(node->dtype, ((const tn_constant_attribute *)node->attribute)->bytes, out,
                     count);
        return TN_OK;
    case TN_OP_FILL:
        for (int64_t i = 0; i < count; i++)
            out[i] = ((const tn_fill_attribute *)node->attribute)->value;
        return TN_OK;
    case TN_OP_IOTA: {
        int axis = ((const tn_iota_attribute *)node->attribute)->axis;
        int64_t inner = 1;
        for (int i = axis + 1; i < node->shape.rank; i++) inner *= node->shape.dim[i];
        for (int64_t i = 0; i < count; i++) out[i] = (double)(i / inner % node->shape.dim[axis]);
        return TN_OK;
    }
    case TN_OP_STOP_GRADIENT:
    case TN_OP_CHECKPOINT:
    case TN_OP_AFTER:
        memcpy(out, it->value[node->in[0]], (size_t)count * sizeof *out);
        return TN_OK;
    case TN_OP_RESULT:
    case TN_OP_ASSIGN:
    case TN_OP_GROUP: return TN_OK;
    default: return run_kernel(it, id);
    }
}

static tn_status assign_all(interpreter *it)
{
    for (int32_t id = 1; id < it->graph->count; id++) {
        const tn_value *node = it->graph->value[id];
        if (node->op->id != TN_OP_ASSIGN) continue;
        tn_state_entry *entry = tn_state_find(it->plan->state, it->graph->value[node->in[0]]->name);
        TN_TRY(tn_state_touch(it->plan->state, entry));
        tn_from_double(entry->dtype, it->value[node->in[1]], entry->data,
                       tn_shape_size(entry->shape));
    }
    return TN_OK;
}

tn_status tn_ref_run(const tn_plan *plan, const void *const *feeds, void *const *fetches)
{
    const tn_program *program = &plan->program;
    interpreter it = {.plan = plan, .graph = program->graph};
    it.value = calloc((size_t)it.graph->count, sizeof *it.value);
    tn_status status = it.value ? TN_OK
                                : tn_fail(TN_MEMORY, "out of memory in the reference interpreter");
    for (int32_t id = 1; id < it.graph->count && status == TN_OK; id++) {
        it.value[id] = calloc((size_t)tn_shape_size(it.graph->value[id]->shape) + 1,
                              sizeof(double));
        if (!it.value[id])
            status = tn_fail(TN_MEMORY, "out of memory in the reference interpreter");
    }
    for (int32_t id = 1; id < it.graph->count && status == TN_OK; id++)
        status = evaluate(&it, id, feeds);
    for (int i = 0; i < program->fetch_count && status == TN_OK; i++) {
        int32_t id = program->root[program->feed_count + i];
        if (fetches[i])
            tn_from_double(it.graph->value[id]->dtype, it.value[id], fetches[i],
                           tn_shape_size(it.graph->value[id]->shape));
    }
    if (status == TN_OK) status = assign_all(&it);
    for (int32_t id = 1; it.value && id < it.graph->count; id++) free(it.value[id]);
    free(it.value);
    return status;
}
