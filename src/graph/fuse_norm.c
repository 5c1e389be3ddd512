/* fuse_norms: a batch norm takes in the residual addition and the ReLU behind it, and its
 * gradient takes in the ReLU's.
 *
 *     relu(batch_norm(x))                  -> batch_norm(x, relu)              saves a pass
 *     relu(add(batch_norm(x), r))          -> batch_norm(x, residual r, relu)  saves two
 *     batch_norm_grad(x, relu_grad(y, d))  -> batch_norm_grad(x, d, relu)      saves one
 *
 * where nobody else reads what lies between, and r is there before the batch norm is. The fused
 * node stands where the batch norm stood, because its mean and variance may have readers before
 * the ReLU. */
#include <stdlib.h>

#include "graph/norm.h"
#include "graph/pass.h"

typedef struct norm_fusion {
    const tn_graph *graph;
    int32_t *readers;  /* by id: how many, roots included */
    int32_t *relu_of;  /* by BATCH_NORM id: the RELU that it takes in, or 0 */
    int32_t *residual; /* by BATCH_NORM id: the value that it adds before, or 0 */
    int32_t *taken_by; /* by RELU id: the BATCH_NORM, or 0 */
} norm_fusion;

static bool is_plain_norm(const norm_fusion *f, int32_t id)
{
    const tn_value *value = f->graph->value[id];
    if (value->op->id != TN_OP_BATCH_NORM || f->readers[id] != 1 || f->relu_of[id]) return false;
    const tn_batch_norm_attribute *attribute = value->attribute;
    return !attribute->activation && !attribute->has_residual;
}

/* The batch norm that RELU `id` follows, with the residual between them (or 0); 0 if there is
 * none to fuse. */
static int32_t norm_before(const norm_fusion *f, int32_t id, int32_t *residual)
{
    int32_t before = f->graph->value[id]->in[0];
    *residual = 0;
    if (is_plain_norm(f, before)) return before;
    const tn_value *sum = f->graph->value[before];
    if (sum->op->id != TN_OP_ADD || f->readers[before] != 1) return 0;
    /* the later operand is the one that can wait for the other */
    int32_t later = sum->in[0] > sum->in[1] ? sum->in[0] : sum->in[1];
    *residual = sum->in[0] > sum->in[1] ? sum->in[1] : sum->in[0];
    const tn_value *r = f->graph->value[*residual];
    bool same = tn_shape_equal(r->shape, sum->shape) &&
                tn_shape_equal(f->graph->value[later]->shape, sum->shape) && r->dtype == sum->dtype;
    return later != *residual && same && is_plain_norm(f, later) ? later : 0;
}

static void find(norm_fusion *f)
{
    for (int32_t id = 1; id < f->graph->count; id++) {
        int32_t residual,
            norm = f->graph->value[id]->op->id == TN_OP_RELU ? norm_before(f, id, &residual) : 0;
        if (!norm) continue;
        f->relu_of[norm] = id;
        f->residual[norm] = residual;
        f->taken_by[id] = norm;
    }
}

static void emit_norm(norm_fusion *f, tn_rewrite *rewrite, int32_t id)
{
    const tn_value *value = f->graph->value[id];
    tn_rewrite_copy(rewrite, id); /* without readers: drop_dead removes it */
    tn_node plain = tn_rewrite_get(rewrite, id);
    if (tn_is_none(plain)) return;
    tn_here(value->file, value->line);
    rewrite->to->generation = value->generation;
    tn_node fused = tn_batch_norm_fused(
        plain, f->residual[id] ? tn_rewrite_get(rewrite, f->residual[id]) : TN_NONE, TN_OP_RELU);
    rewrite->to->generation = 0;
    if (tn_is_none(fused)) return;
    rewrite->to->value[fused.id]->name = rewrite->to->value[plain.id]->name;
    for (int r = 1; r < value->result_count; r++)
        tn_rewrite_replace(rewrite, id + r, tn_result(fused, r));
    tn_rewrite_replace(rewrite, f->relu_of[id], fused);
}

/* BATCH_NORM_GRAD whose d_y is the RELU_GRAD of the ReLU that its batch norm took in, without a
 * residual between: the RELU_GRAD, or 0. */
static int32_t relu_gradient_before(const norm_fusion *f, int32_t id)
{
    const tn_value *value = f->graph->value[id];
    if (value->op->id != TN_OP_BATCH_NORM_GRAD ||
        ((const tn_batch_norm_attribute *)value->attribute)->activation)
        return 0;
    int32_t d = value->in[1], mean = value->in[4];
    const tn_value *gradient = f->graph->value[d], *result = f->graph->value[mean];
    if (gradient->op->id != TN_OP_RELU_GRAD || f->readers[d] != 1 || result->op->id != TN_OP_RESULT)
        return 0;
    int32_t norm = result->in[0];
    return f->relu_of[norm] && f->relu_of[norm] == gradient->in[0] && !f->residual[norm] ? d : 0;
}

static void emit_gradient(norm_fusion *f, tn_rewrite *rewrite, int32_t id, int32_t relu_gradient)
{
    const tn_value *value = f->graph->value[id];
    tn_batch_norm_attribute attribute = *(const tn_batch_norm_attribute *)value->attribute;
    attribute.activation = TN_OP_RELU;
    int32_t in[6];
    for (int i = 0; i < 6; i++)
        in[i] = rewrite->map[i == 1 ? f->graph->value[relu_gradient]->in[1] : value->in[i]];
    tn_value changed = *value;
    changed.attribute = &attribute;
    tn_node copy = tn_node_copy(rewrite->to, &changed, in);
    tn_rewrite_replace(rewrite, id, copy);
    for (int r = 1; r < value->result_count; r++)
        tn_rewrite_replace(rewrite, id + r,
                           tn_node_copy(rewrite->to, f->graph->value[id + r], &copy.id));
}

static void rewrite_all(norm_fusion *f, tn_rewrite *rewrite)
{
    for (int32_t id = 1; id < f->graph->count && rewrite->to->status == TN_OK; id++) {
        int32_t relu_gradient = relu_gradient_before(f, id);
        if (f->relu_of[id]) emit_norm(f, rewrite, id);
        else if (relu_gradient) emit_gradient(f, rewrite, id, relu_gradient);
        else if (!f->taken_by[id]) tn_rewrite_copy(rewrite, id);
    }
}

tn_status tn_pass_fuse_norms(tn_program *program)
{
    norm_fusion f = {.graph = program->graph};
    size_t count = (size_t)program->graph->count;
    int32_t *memory = calloc(4 * count, sizeof *memory);
    if (!memory) return tn_fail(TN_MEMORY, "out of memory for a pass over %zu nodes", count);
    f.readers = memory, f.relu_of = memory + count, f.residual = memory + 2 * count,
    f.taken_by = memory + 3 * count;
    tn_count_readers(program, f.readers);
    find(&f);
    tn_rewrite rewrite;
    tn_status status = tn_rewrite_begin(&rewrite, program);
    if (status == TN_OK) {
        rewrite_all(&f, &rewrite);
        status = tn_rewrite_end(&rewrite, program, TN_OK);
    }
    free(memory);
    return status;
}
