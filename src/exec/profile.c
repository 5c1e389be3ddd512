/* Printing plans, and what a profiled run measured. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "exec/plan.h"

tn_status tn_profile_begin(tn_profile *profile, const tn_plan *plan)
{
    profile->seconds = calloc((size_t)plan->step_count + 1, sizeof *profile->seconds);
    return profile->seconds ? TN_OK : tn_fail(TN_MEMORY, "out of memory for a profile");
}

static size_t operand_bytes(const tn_operand *x)
{
    int64_t count = 1; /* a broadcast dimension is read once */
    for (int i = 0; i < x->rank; i++) count *= x->stride[i] ? x->dim[i] : 1;
    return (size_t)count * tn_dtype_size(x->dtype);
}

static size_t step_bytes(const tn_step *step)
{
    size_t bytes = 0;
    for (int i = 0; i < step->in_count; i++) bytes += operand_bytes(&step->in[i]);
    for (int i = 0; i < step->out_count; i++) bytes += operand_bytes(&step->out[i]);
    return bytes;
}

static const char *operand_text(const tn_operand *x)
{
    tn_shape shape = {.rank = x->rank};
    memcpy(shape.dim, x->dim, sizeof shape.dim);
    return tn_shape_text(shape);
}

static void print_location(tn_location location, const tn_plan *plan, FILE *out)
{
    static const char *const home[] = {"nowhere", "scratch", "feed", "state", "constant", "fetch"};
    if (location.home == TN_IN_SCRATCH)
        fprintf(out, "@%zu", plan->buffer[location.index].offset + (size_t)location.offset);
    else fprintf(out, "@%s %d", home[location.home], location.index);
}

void tn_plan_print(const tn_plan *plan, FILE *out)
{
    for (int32_t i = 0; i < plan->step_count; i++) {
        const tn_plan_step *s = &plan->step[i];
        fprintf(out, "%5d %-24s", i, s->step.op->name);
        for (int k = 0; k < s->step.in_count; k++) {
            const tn_operand *x = &s->step.in[k];
            fprintf(out, " %s%s%s", tn_dtype_name(x->dtype), operand_text(x),
                    tn_operand_is_rows(x)            ? ""
                    : tn_operand_is_channels_last(x) ? "c"
                                                     : "~");
            print_location(s->in[k], plan, out);
        }
        fprintf(out, " ->");
        for (int k = 0; k < s->step.out_count; k++) {
            const tn_operand *x = &s->step.out[k];
            fprintf(out, " %s%s%s", tn_dtype_name(x->dtype), operand_text(x),
                    tn_operand_is_rows(x) ? "" : "c");
            print_location(s->out[k], plan, out);
        }
        fprintf(out, "  # %s:%d\n", s->step.file ? s->step.file : "?", s->step.line);
    }
    fprintf(out, "%d steps, %.1f MB scratch, %.1f MB state, %.3f GFLOP a run\n", plan->step_count,
            (double)plan->scratch / 1e6, (double)tn_plan_state_bytes(plan) / 1e6,
            tn_plan_flop(plan) * 1e-9);
}

/* ---- the machine's limits, measured once ------------------------------------------------------------ */

typedef struct family {
    const char *name;
    double seconds, flop, bytes;
    int count;
} family;

static int slower_first(const void *a, const void *b)
{
    double x = ((const family *)a)->seconds, y = ((const family *)b)->seconds;
    return x < y ? 1 : x > y ? -1 : 0;
}

void tn_plan_print_profile(const tn_plan *plan, FILE *out)
{
    const tn_context *context = plan->own;
    if (!plan->profile || !context || context->timing.runs == 0) {
        fprintf(out, "no profile: compile with .profile and run first\n");
        return;
    }
    double runs = (double)context->timing.runs, total = 0;
    family families[TN_OP_COUNT + 1] = {0};
    int count = 0;
    fprintf(out, "%5s %-22s %9s %9s %8s %8s  %s\n", "step", "op", "us", "MB", "GFLOP/s", "GB/s",
            "built at");
    for (int32_t i = 0; i < plan->step_count; i++) {
        const tn_plan_step *s = &plan->step[i];
        double seconds = context->timing.seconds[i] / runs, bytes = (double)step_bytes(&s->step);
        int k = 0;
        while (k < count && strcmp(families[k].name, s->step.op->name)) k++;
        if (k == TN_OP_COUNT) k--;
        if (k == count) families[count++].name = s->step.op->name;
        families[k].seconds += seconds;
        families[k].flop += s->flop;
        families[k].bytes += bytes;
        families[k].count++;
        total += seconds;
        fprintf(out, "%5d %-22s %9.1f %9.3f %8.1f %8.1f  %s:%d\n", i, s->step.op->name,
                seconds * 1e6, bytes / 1e6, s->flop / seconds * 1e-9, bytes / seconds * 1e-9,
                s->step.file ? s->step.file : "?", s->step.line);
    }
    qsort(families, (size_t)count, sizeof *families, slower_first);
    fprintf(out, "\n%-22s %6s %9s %6s %9s %8s\n", "op", "steps", "us", "share", "GFLOP/s", "GB/s");
    for (int k = 0; k < count; k++)
        fprintf(out, "%-22s %6d %9.1f %5.1f%% %9.1f %8.1f\n", families[k].name, families[k].count,
                families[k].seconds * 1e6, 100 * families[k].seconds / total,
                families[k].flop / families[k].seconds * 1e-9,
                families[k].bytes / families[k].seconds * 1e-9);
    fprintf(out, "%-22s %6d %9.1f\n", "sum", plan->step_count, total * 1e6);
}
