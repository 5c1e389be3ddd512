/* Running a plan: a walk over its steps with pointers that were resolved beforehand. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "exec/plan.h"

static void *address(const tn_context *context, tn_location location)
{
    const tn_plan *plan = context->plan;
    switch (location.home) {
    case TN_IN_SCRATCH:
        return context->block + plan->buffer[location.index].offset + location.offset;
    case TN_IN_CONSTANT: return plan->constants + 64 * (int64_t)location.index + location.offset;
    case TN_IN_STATE: return (unsigned char *)plan->entry[location.index]->data + location.offset;
    default: return NULL;
    }
}

static bool changes_between_runs(tn_home home)
{
    return home == TN_IN_FEED || home == TN_IN_FETCH || home == TN_IN_STATE;
}

/* A large block of zero pages: what a plan does not touch costs nothing, and huge pages spare the TLB. */
static unsigned char *new_block(size_t bytes)
{
    size_t rounded = (bytes + 64 + (2u << 20) - 1) / (2u << 20) * (2u << 20);
    if (bytes < 1u << 20) return aligned_alloc(64, (bytes + 127) / 64 * 64);
    unsigned char *block = aligned_alloc(2u << 20, rounded);
#ifdef MADV_HUGEPAGE
    if (block) madvise(block, rounded, MADV_HUGEPAGE);
#endif
    return block;
}

tn_status tn_context_create(tn_context **out, const tn_plan *plan)
{
    *out = NULL;
    size_t pointers = 0;
    for (int32_t i = 0; i < plan->step_count; i++)
        pointers += (size_t)(plan->step[i].step.in_count + plan->step[i].step.out_count);
    tn_context *context = calloc(1, sizeof *context);
    if (!context) return tn_fail(TN_MEMORY, "out of memory for a context");
    context->plan = plan;
    context->pointer = calloc(pointers + 1, sizeof *context->pointer);
    context->patch = calloc(pointers + 1, sizeof *context->patch);
    context->in = calloc((size_t)plan->step_count + 1, sizeof *context->in);
    context->out = calloc((size_t)plan->step_count + 1, sizeof *context->out);
    context->block = new_block(plan->scratch);
    if (!context->pointer || !context->patch || !context->in || !context->out || !context->block ||
        (plan->profile && tn_profile_begin(&context->timing, plan) != TN_OK)) {
        tn_context_free(context);
        return tn_fail(TN_MEMORY, "out of memory: the plan needs %zu bytes of scratch",
                       plan->scratch);
    }
    void **next = context->pointer;
    for (int32_t i = 0; i < plan->step_count; i++) {
        const tn_plan_step *s = &plan->step[i];
        context->in[i] = next;
        context->out[i] = next + s->step.in_count;
        for (int k = 0; k < s->step.in_count + s->step.out_count; k++, next++) {
            tn_location location = k < s->step.in_count ? s->in[k] : s->out[k - s->step.in_count];
            if (changes_between_runs(location.home))
                context->patch[context->patch_count++] = (struct tn_patch){next, location};
            else *next = address(context, location);
        }
    }
    *out = context;
    return TN_OK;
}

void tn_context_free(tn_context *context)
{
    if (!context) return;
    free(context->block);
    free(context->pointer);
    free(context->in);
    free(context->out);
    free(context->patch);
    free(context->timing.seconds);
    free(context);
}

static void resolve(tn_context *context, const void *const *feeds, void *const *fetches)
{
    for (int32_t i = 0; i < context->patch_count; i++) {
        struct tn_patch *patch = &context->patch[i];
        tn_location at = patch->location;
        if (at.home == TN_IN_FEED)
            *patch->slot = (unsigned char *)(uintptr_t)feeds[at.index] + at.offset;
        else if (at.home == TN_IN_FETCH) *patch->slot = fetches ? fetches[at.index] : NULL;
        else *patch->slot = (unsigned char *)context->plan->entry[at.index]->data + at.offset;
    }
}

static tn_status run_step(tn_context *context, int32_t i)
{
    const tn_plan_step *s = &context->plan->step[i];
    if (s->step.out_count && !context->out[i][0]) return TN_OK; /* a fetch that nobody wants */
    void *workspace = s->workspace >= 0
                          ? context->block + context->plan->buffer[s->workspace].offset
                          : NULL;
    return s->step.kernel->run(&s->step, context->in[i], context->out[i], workspace);
}

tn_status tn_run_in(tn_context *context, const void *const *feeds, void *const *fetches)
{
    const tn_plan *plan = context->plan;
    if (plan->backend == TN_REF) return tn_ref_run(plan, feeds, fetches);
    for (int i = 0; i < plan->feed_count; i++)
        if (!feeds || !feeds[i]) return tn_fail(TN_INVALID, "run: feed %d is NULL", i);
    resolve(context, feeds, fetches);
    for (int32_t i = 0; i < plan->step_count; i++) {
        double start = plan->profile ? tn_clock_seconds() : 0;
        tn_status status = run_step(context, i);
        if (status != TN_OK) {
            const tn_step *step = &plan->step[i].step;
            return tn_fail_in(status, "%s:%d", step->file ? step->file : step->op->name,
                              step->line);
        }
        if (plan->profile) context->timing.seconds[i] += tn_clock_seconds() - start;
    }
    context->timing.runs++;
    for (int32_t i = 0; i < plan->entry_count; i++)
        if (plan->written[i]) plan->entry[i]->version++;
    return TN_OK;
}

tn_status tn_run(tn_plan *plan, const void *const *feeds, void *const *fetches)
{
    if (!plan->own) TN_TRY(tn_context_create(&plan->own, plan));
    return tn_run_in(plan->own, feeds, fetches);
}
