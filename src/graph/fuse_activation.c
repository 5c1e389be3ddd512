/* fuse_activations: a product does the activation behind it while its sums are in
 * registers.
 *
 *     relu(matmul(a, b))  ->  matmul(a, b, relu)           also gelu, gelu_tanh and silu
 *
 * where nobody else reads what lies between. In training that is only so for a ReLU, whose
 * gradient reads its result. Convolutions are left alone: they are oneDNN's, whose ReLU makes 0 of
 * a NaN. */
#include <stdlib.h>

#include "graph/pass.h"

static bool is_activation(tn_op_id id)
{
    return id == TN_OP_RELU || id == TN_OP_GELU || id == TN_OP_GELU_TANH || id == TN_OP_SILU;
}

/* A product that can take in an activation: one of f32, bf16 or f16 without one so far. */
static bool is_plain_product(const tn_value *value)
{
    return value->op->id == TN_OP_MATMUL &&
           (value->dtype == TN_F32 || value->dtype == TN_BF16 || value->dtype == TN_F16) &&
           !((const tn_matmul_attribute *)value->attribute)->activation;
}

/* Into the new graph: product `id` with the activation. */
static tn_node with_activation(const tn_rewrite *rewrite, int32_t id, tn_op_id activation)
{
    const tn_value *value = rewrite->from->value[id];
    tn_value changed = *value;
    int32_t in[3];
    for (int i = 0; i < value->in_count; i++) in[i] = rewrite->map[value->in[i]];
    tn_matmul_attribute attribute = *(const tn_matmul_attribute *)value->attribute;
    attribute.activation = (int32_t)activation;
    changed.attribute = &attribute;
    return tn_node_copy(rewrite->to, &changed, in);
}

tn_status tn_pass_fuse_activations(tn_program *program)
{
    const tn_graph *graph = program->graph;
    size_t count = (size_t)graph->count;
    int32_t *memory = calloc(2 * count, sizeof *memory);
    if (!memory) return tn_fail(TN_MEMORY, "out of memory for a pass over %zu nodes", count);
    int32_t *readers = memory, *taken = memory + count; /* taken: by product id, the activation */
    tn_count_readers(program, readers);
    for (int32_t id = 1; id < graph->count; id++) {
        const tn_value *value = graph->value[id];
        if (is_activation(value->op->id) && readers[value->in[0]] == 1 &&
            is_plain_product(graph->value[value->in[0]]))
            taken[value->in[0]] = id;
    }
    tn_rewrite rewrite;
    tn_status status = tn_rewrite_begin(&rewrite, program);
    for (int32_t id = 1; status == TN_OK && id < graph->count; id++) {
        const tn_value *value = graph->value[id];
        bool behind = is_activation(value->op->id) && taken[value->in[0]] == id;
        if (taken[id])
            tn_rewrite_replace(&rewrite, id,
                               with_activation(&rewrite, id, graph->value[taken[id]]->op->id));
        else if (behind) rewrite.map[id] = rewrite.map[value->in[0]];
        else tn_rewrite_copy(&rewrite, id);
    }
    if (status == TN_OK) status = tn_rewrite_end(&rewrite, program, TN_OK);
    free(memory);
    return status;
}
