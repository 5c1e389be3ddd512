/* The common part of passes: copying a graph while changing it; and the pass that only copies what is needed. */
#include <stdlib.h>
#include <string.h>

#include "graph/pass.h"

tn_status tn_rewrite_begin(tn_rewrite *rewrite, const tn_program *program)
{
    *rewrite = (tn_rewrite){.from = program->graph, .to = tn_graph_create(program->graph->state)};
    rewrite->map = calloc((size_t)program->graph->count, sizeof *rewrite->map);
    if (rewrite->to && rewrite->map) {
        rewrite->to->generations = program->graph->generations;
        return TN_OK;
    }
    tn_graph_free(rewrite->to);
    free(rewrite->map);
    return tn_fail(TN_MEMORY, "out of memory for a pass over %d nodes", program->graph->count);
}

void tn_rewrite_replace(tn_rewrite *rewrite, int32_t id, tn_node node)
{
    rewrite->map[id] = node.id;
}

void tn_rewrite_copy(tn_rewrite *rewrite, int32_t id)
{
    const tn_value *value = rewrite->from->value[id];
    if (value->op->id == TN_OP_RESULT) return;
    for (int32_t i = 0; i < value->in_count; i++) {
        if (!tn_grow((void **)&rewrite->in, i, &rewrite->in_capacity, sizeof *rewrite->in)) {
            rewrite->to->status = TN_MEMORY;
            return;
        }
        rewrite->in[i] = rewrite->map[value->in[i]];
    }
    tn_node copy = tn_node_copy(rewrite->to, value, rewrite->in);
    rewrite->map[id] = copy.id;
    for (int r = 1; r < value->result_count; r++)
        rewrite->map[id + r] = tn_node_copy(rewrite->to, rewrite->from->value[id + r], &copy.id).id;
}

tn_status tn_rewrite_end(tn_rewrite *rewrite, tn_program *program, tn_status status)
{
    if (status == TN_OK) status = tn_graph_status(rewrite->to);
    if (status == TN_OK) {
        for (int i = 0; i < program->root_count; i++)
            program->root[i] = rewrite->map[program->root[i]];
        if (program->owned) tn_graph_free(program->graph);
        program->graph = rewrite->to;
        program->owned = true;
    } else {
        tn_graph_free(rewrite->to);
    }
    free(rewrite->map);
    free(rewrite->in);
    return status;
}

void tn_count_readers(const tn_program *program, int32_t *readers)
{
    const tn_graph *graph = program->graph;
    for (int32_t id = 1; id < graph->count; id++) {
        const tn_value *value = graph->value[id];
        if (value->op->id == TN_OP_RESULT) continue;
        for (int i = 0; i < value->in_count; i++) readers[value->in[i]]++;
    }
    for (int i = 0; i < program->root_count; i++) readers[program->root[i]] += 2;
}

/* ---- drop_dead ------------------------------------------------------------------------------------ */

static void need(bool *needed, const tn_graph *graph, int32_t id)
{
    needed[id] = true;
    const tn_value *value = graph->value[id];
    if (value->op->id == TN_OP_RESULT) needed[value->in[0]] = true;
}

tn_status tn_pass_drop_dead(tn_program *program)
{
    tn_rewrite rewrite;
    TN_TRY(tn_rewrite_begin(&rewrite, program));
    const tn_graph *graph = program->graph;
    bool *needed = calloc((size_t)graph->count, 1);
    if (!needed)
        return tn_rewrite_end(&rewrite, program, tn_fail(TN_MEMORY, "out of memory for a pass"));
    for (int i = 0; i < program->root_count; i++)
        if (program->root[i]) need(needed, graph, program->root[i]);
    for (int32_t id = graph->count - 1; id > 0; id--) {
        const tn_value *value = graph->value[id];
        if (needed[id])
            for (int i = 0; i < value->in_count; i++) need(needed, graph, value->in[i]);
    }
    for (int32_t id = 1; id < graph->count; id++)
        if (needed[id]) tn_rewrite_copy(&rewrite, id);
    free(needed);
    return tn_rewrite_end(&rewrite, program, TN_OK);
}

/* ---- lower --------------------------------------------------------------------------------------------- */

const tn_kernel *tn_kernel_for(const tn_kernel_table *kernels, const tn_op *op)
{
    if (op->id) return kernels->kernel[op->id];
    return kernels == tn_cpu_kernels() ? op->kernel_cpu : op->kernel_ref;
}

static bool is_structure(tn_op_id id)
{
    return id == TN_OP_INPUT || id == TN_OP_STATE || id == TN_OP_CONSTANT || id == TN_OP_FILL ||
           id == TN_OP_IOTA || id == TN_OP_RESULT || id == TN_OP_STOP_GRADIENT ||
           id == TN_OP_CHECKPOINT || id == TN_OP_AFTER || id == TN_OP_ASSIGN || id == TN_OP_GROUP;
}

/* Decomposes node `id` into the new graph, and again what that made, until kernels exist. */
static tn_status lower_node(tn_rewrite *rewrite, const tn_program *program, int32_t id, bool *again)
{
    const tn_value *value = rewrite->from->value[id];
    if (is_structure(value->op->id) || tn_kernel_for(program->kernels, value->op)) {
        tn_rewrite_copy(rewrite, id);
        return TN_OK;
    }
    if (!value->op->decompose)
        return tn_fail(TN_UNSUPPORTED,
                       "%s:%d: %s has no kernel on this backend and no decomposition",
                       value->file ? value->file : "?", value->line, value->op->name);
    tn_rewrite_copy(rewrite, id); /* the rule reads the node itself; drop_dead removes it */
    tn_node copy = tn_rewrite_get(rewrite, id), out[TN_MAX_RESULTS];
    if (tn_is_none(copy)) return tn_graph_status(rewrite->to);
    tn_here(value->file, value->line);
    tn_decompose(copy, out);
    for (int r = 0; r < value->result_count; r++)
        if (!tn_is_none(out[r])) tn_rewrite_replace(rewrite, id + r, out[r]);
    *again = true;
    return TN_OK;
}

tn_status tn_pass_lower(tn_program *program)
{
    for (int depth = 0;; depth++) {
        tn_rewrite rewrite;
        bool again = false;
        tn_status status = tn_rewrite_begin(&rewrite, program);
        if (status != TN_OK) return status;
        for (int32_t id = 1; id < program->graph->count && status == TN_OK; id++)
            status = lower_node(&rewrite, program, id, &again);
        TN_TRY(tn_rewrite_end(&rewrite, program, status));
        if (!again) return TN_OK;
        TN_TRY(tn_pass_drop_dead(program));
        if (depth > 16) return tn_fail(TN_UNSUPPORTED, "decompositions do not end");
    }
}
