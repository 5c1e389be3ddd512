/* Compiling: the passes in order, then the plan. */
#include <stdlib.h>
#include <string.h>

#include "exec/plan.h"
#include "tenon/machine.h"

static const struct {
    tn_pass pass;
    bool fusion; /* left out with .no_fusion, and for the reference backend */
} pipeline[] = {
    {tn_pass_drop_dead, false},   {tn_pass_lower, false},         {tn_pass_drop_dead, false},
    {tn_pass_merge_common, true}, {tn_pass_fold_constants, true}, {tn_pass_merge_common, true},
    {tn_pass_fuse_norms, true},   {tn_pass_drop_dead, true},      {tn_pass_fuse_activations, true},
    {tn_pass_fuse, true},         {tn_pass_drop_dead, true},
};

static tn_status collect_roots(tn_program *program, const tn_compile_options *o)
{
    program->feed_count = o->feeds.count;
    program->fetch_count = o->fetches.count;
    program->root_count = o->feeds.count + o->fetches.count + 1;
    program->root = calloc((size_t)program->root_count, sizeof *program->root);
    if (!program->root) return tn_fail(TN_MEMORY, "out of memory while compiling a plan");
    int at = 0;
    for (int i = 0; i < o->feeds.count; i++) {
        tn_node feed = o->feeds.node[i];
        if (tn_is_none(feed) || feed.graph != o->graph || tn_value_of(feed)->op->id != TN_OP_INPUT)
            return tn_fail(TN_INVALID, "compile: feed %d is not an input of this graph", i);
        program->root[at++] = feed.id;
    }
    for (int i = 0; i < o->fetches.count; i++) {
        tn_node fetch = o->fetches.node[i];
        if (tn_is_none(fetch) || fetch.graph != o->graph)
            return tn_fail(TN_INVALID, "compile: fetch %d is empty or of another graph", i);
        if (tn_value_of(fetch)->op->flags & TN_EFFECT)
            return tn_fail(TN_INVALID, "compile: fetch %d is a token; give it as .updates", i);
        program->root[at++] = fetch.id;
    }
    if (!tn_is_none(o->updates)) {
        if (o->updates.graph != o->graph || !(tn_value_of(o->updates)->op->flags & TN_EFFECT))
            return tn_fail(
                TN_INVALID,
                "compile: .updates is not a token of tn_assign or tn_group of this graph");
        program->root[at] = o->updates.id;
    }
    return TN_OK;
}

static void free_program(tn_program *program)
{
    if (program->owned) tn_graph_free(program->graph);
    free(program->root);
    *program = (tn_program){0};
}

static tn_status run_passes(tn_program *program, const tn_compile_options *o)
{
    bool fusion = !o->no_fusion && o->backend == TN_CPU;
    for (size_t i = 0; i < sizeof pipeline / sizeof *pipeline; i++)
        if (!pipeline[i].fusion || fusion) TN_TRY(pipeline[i].pass(program));
    return TN_OK;
}

static tn_status assemble_cpu(tn_plan *plan, tn_program *program, const tn_compile_options *o)
{
    int32_t *order = NULL;
    TN_TRY(tn_order(program, &order));
    tn_status status = tn_assemble(plan, program, order, o);
    free(order);
    if (status == TN_OK) status = tn_place_buffers(plan);
    for (int i = 0; i < plan->entry_count && status == TN_OK; i++)
        if (plan->written[i] && plan->entry[i]->borrowed)
            status = tn_state_touch(plan->state, plan->entry[i]);
    return status;
}

/* The reference backend keeps the graph itself, with the user's constants copied in (drop_dead made a fresh graph). */
static tn_status keep_program(tn_plan *plan, tn_program *program)
{
    tn_graph *graph = program->graph;
    plan->entry = tn_arena_array(&plan->arena, (size_t)graph->named_count + 1, sizeof *plan->entry);
    plan->written = tn_arena_array(&plan->arena, (size_t)graph->named_count + 1,
                                   sizeof *plan->written);
    if (!plan->entry || !plan->written) return TN_MEMORY;
    for (int32_t id = 1; id < graph->count; id++) {
        tn_value *value = graph->value[id];
        if (value->op->id == TN_OP_INPUT) {
            bool fed = false;
            for (int i = 0; i < program->feed_count; i++) fed = fed || program->root[i] == id;
            if (!fed)
                return tn_fail(TN_INVALID, "input '%s' is needed but not among the feeds",
                               value->name);
        }
        if (value->op->id == TN_OP_CONSTANT) {
            tn_constant_attribute *constant = (void *)(uintptr_t)value->attribute;
            constant->bytes = tn_arena_copy(&graph->arena, constant->bytes, constant->size);
        }
        if (value->op->id == TN_OP_STATE)
            TN_TRY(tn_state_entry_for(plan->state, value, &plan->entry[plan->entry_count++]));
    }
    plan->program = *program;
    *program = (tn_program){0};
    return TN_OK;
}

static size_t state_bytes(const tn_plan *plan)
{
    size_t bytes = 0;
    for (int i = 0; i < plan->entry_count; i++) bytes += plan->entry[i]->bytes;
    return bytes;
}

tn_status tn_compile_with(tn_plan **out, const tn_compile_options *o)
{
    *out = NULL;
    tn_isa isa;
    TN_TRY(tn_graph_status(o->graph));
    if (o->backend == TN_CPU) TN_TRY(tn_isa_chosen(&isa));
    tn_program program = {.graph = o->graph,
                          .user = o->graph,
                          .kernels = o->backend == TN_REF ? tn_ref_kernels() : tn_cpu_kernels()};
    tn_plan *plan = calloc(1, sizeof *plan);
    if (!plan) return tn_fail(TN_MEMORY, "out of memory for a plan");
    plan->backend = o->backend;
    plan->profile = o->profile;
    plan->state = o->graph->state;
    plan->feed_count = o->feeds.count;
    plan->fetch_count = o->fetches.count;
    tn_status status = collect_roots(&program, o);
    if (status == TN_OK) status = run_passes(&program, o);
    if (status == TN_OK)
        status = o->backend == TN_REF ? keep_program(plan, &program)
                                      : assemble_cpu(plan, &program, o);
    if (status == TN_OK && o->memory_limit && plan->scratch + state_bytes(plan) > o->memory_limit)
        status = tn_fail(TN_MEMORY,
                         "the plan needs %.1f MB of scratch and %.1f MB of state (parameters, "
                         "moments, caches), but the limit is %.1f MB; "
                         "try a smaller batch, bf16, or tn_checkpoint",
                         (double)plan->scratch / 1e6, (double)state_bytes(plan) / 1e6,
                         (double)o->memory_limit / 1e6);
    free_program(&program);
    if (status != TN_OK) {
        tn_plan_free(plan);
        return status;
    }
    *out = plan;
    return TN_OK;
}

void tn_plan_free(tn_plan *plan)
{
    if (!plan) return;
    tn_context_free(plan->own);
    for (int32_t i = 0; i < plan->step_count; i++)
        if (plan->step[i].step.kernel->release)
            plan->step[i].step.kernel->release(&plan->step[i].step);
    free_program(&plan->program);
    free(plan->step);
    free(plan->buffer);
    free(plan->constants);
    tn_arena_free(&plan->arena);
    free(plan);
}

size_t tn_plan_bytes(const tn_plan *plan) { return plan->scratch; }

size_t tn_plan_state_bytes(const tn_plan *plan) { return state_bytes(plan); }

int tn_plan_step_count(const tn_plan *plan) { return plan->step_count; }

double tn_plan_flop(const tn_plan *plan)
{
    double flop = 0;
    for (int32_t i = 0; i < plan->step_count; i++) flop += plan->step[i].flop;
    return flop;
}
