/* Learning-rate schedules as functions of the step counter, written into the graph: a resumed run
 * needs no memory of them. Scalars in f32 hold every step below 2^24 exactly. */
#include <math.h>

#include "nn/rules.h"

static tn_node number(tn_node like, double value) { return tn_like(like, value); }

/* (s - from)/(to - from) within [0, 1] */
static tn_node progress(tn_node s, double from, double to)
{
    return tn_clamp(tn_divide(tn_affine(s, 1, -from), number(s, to - from)), 0, 1);
}

/* From `a` to `b` along half a cosine as q goes from 0 to 1. */
static tn_node cosine(tn_node q, double a, double b)
{
    return tn_affine(tn_cos(tn_affine(q, 3.14159265358979323846, 0)), (a - b) / 2, (a + b) / 2);
}

static double decay_of(const tn_schedule *schedule)
{
    return schedule->decay > 0 ? schedule->decay : 0.1;
}

/* How often the factor has decayed. */
static tn_node decays(const tn_schedule *schedule, tn_node s)
{
    if (schedule->every > 0)
        return tn_floor(tn_divide(tn_affine(s, 1, -(double)schedule->warmup),
                                  number(s, (double)schedule->every)));
    tn_node count = number(s, 0);
    for (int i = 0; i < TN_MOST_MILESTONES && schedule->milestone[i] > 0; i++) {
        tn_node reached = tn_less_equal(number(s, (double)schedule->milestone[i]), s);
        count = tn_add(count, tn_cast(reached, TN_F32));
    }
    return count;
}

/* One way up to the peak at step warmup - 1, another down to the last step.  Source: Smith and
 * Topin 2018, as PyTorch's OneCycleLR has it. */
static tn_node one_cycle(const tn_schedule *schedule, tn_node s, double start, double peak,
                         double end)
{
    double top = (double)schedule->warmup - 1, last = (double)schedule->steps - 1;
    tn_node up = cosine(progress(s, 0, top), start, peak),
            down = cosine(progress(s, top, last), peak, end);
    return tn_where(tn_less_equal(s, number(s, top)), up, down);
}

bool tn_schedule_check(tn_graph *graph, const tn_schedule *schedule, double momentum)
{
    const char *wrong = NULL;
    bool needs_steps = schedule->kind == TN_COSINE || schedule->kind == TN_POLYNOMIAL ||
                       schedule->kind == TN_ONE_CYCLE;
    if ((unsigned)schedule->kind > TN_ONE_CYCLE) wrong = "there is no such kind";
    else if (schedule->warmup < 0) wrong = ".warmup is negative";
    else if (needs_steps && schedule->steps <= schedule->warmup)
        wrong = ".steps, of the whole training, must be given and more than .warmup";
    else if (schedule->kind == TN_STEPS && (schedule->every > 0) == (schedule->milestone[0] > 0))
        wrong = "either .every, steps between decays, or .milestone must be given";
    else if (schedule->kind == TN_INVERSE_ROOT && schedule->warmup < 1)
        wrong = "the inverse root needs a .warmup";
    else if (schedule->kind == TN_ONE_CYCLE && schedule->warmup < 2)
        wrong = "the one-cycle schedule needs a .warmup of 2 steps at least";
    else if (!(schedule->power >= 0) || !(schedule->decay >= 0) || !(schedule->start >= 0) ||
             !(schedule->end >= 0))
        wrong = ".power, .decay, .start and .end must not be negative";
    else if (schedule->momentum_low != 0 &&
             (schedule->kind != TN_ONE_CYCLE || !(schedule->momentum_low > 0) ||
              !(momentum >= schedule->momentum_low)))
        wrong = ".momentum_low goes with the one-cycle schedule and SGD, and lies between 0 and "
                ".momentum";
    if (wrong) tn_graph_fail(graph, "schedule: %s", wrong);
    return !wrong;
}

tn_node tn_schedule_factor(const tn_schedule *schedule, tn_node s)
{
    double warmup = (double)schedule->warmup, steps = (double)schedule->steps;
    tn_node factor = number(s, 1);
    switch (schedule->kind) {
    case TN_CONSTANT: break;
    case TN_COSINE: factor = cosine(progress(s, warmup, steps), 1, schedule->end); break;
    case TN_POLYNOMIAL: {
        tn_node left = tn_affine(progress(s, warmup, steps), -1, 1);
        double power = schedule->power > 0 ? schedule->power : 1;
        factor = tn_affine(power == 1 ? left : tn_power(left, power), 1 - schedule->end,
                           schedule->end);
        break;
    }
    case TN_STEPS: {
        factor = tn_pow(number(s, decay_of(schedule)),
                        tn_maximum(decays(schedule, s), number(s, 0)));
        break;
    }
    case TN_INVERSE_ROOT: factor = tn_sqrt(tn_divide(number(s, warmup), tn_affine(s, 1, 1))); break;
    case TN_ONE_CYCLE: return one_cycle(schedule, s, schedule->start, 1, schedule->end);
    }
    if (schedule->warmup == 0) return factor;
    tn_node rising = tn_divide(tn_affine(s, 1, 1), number(s, warmup));
    return tn_where(tn_less(s, number(s, warmup)), rising, factor);
}

tn_node tn_schedule_momentum(const tn_schedule *schedule, double momentum, tn_node s)
{
    if (schedule->momentum_low == 0) return number(s, momentum);
    return one_cycle(schedule, s, momentum, schedule->momentum_low, momentum);
}
