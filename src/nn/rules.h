/* Update rules and schedules: what optimizer.c puts together into a step. */
#ifndef TN_NN_RULES_H
#define TN_NN_RULES_H

#include "graph/graph.h"
#include "tenon/optimizer.h"

enum { TN_MOST_MOMENTS = 2 };

/* One parameter's step. Nodes are f32; scalars, or broadcast over the parameter's rows where those
 * have step counts of their own. */
typedef struct tn_update {
    const tn_optimizer *optimizer;
    tn_node rate;                     /* learning rate, factors included */
    tn_node momentum;                 /* SGD */
    tn_node correction1, correction2; /* 1 - beta^t of the two means */
    double weight_decay;
    tn_node moment[TN_MOST_MOMENTS];     /* as they are */
    tn_node new_moment[TN_MOST_MOMENTS]; /* written by the rule */
} tn_update;

/* A rule is a row. */
typedef struct tn_rule_row {
    const char *name;
    int moments;
    const char *moment[TN_MOST_MOMENTS]; /* names behind the parameter's */
    double first[TN_MOST_MOMENTS];       /* their first values */
    bool decay_apart;                    /* weight decay is not part of the gradient */
    tn_node (*step)(tn_update *update, tn_node parameter, tn_node gradient); /* the new parameter */
} tn_rule_row;

/* The row for these options; NULL with an error in the graph where they make no sense. */
const tn_rule_row *tn_rule_for(tn_graph *graph, const tn_optimizer *optimizer);

static inline double tn_beta1(const tn_optimizer *o) { return o->beta1 > 0 ? o->beta1 : 0.9; }
static inline double tn_beta2(const tn_optimizer *o) { return o->beta2 > 0 ? o->beta2 : 0.999; }
/* 1 - beta^t for t = 1, 2, ... (f32), without the cancellation that would cost 1e-5 at t = 1. */
tn_node tn_bias_correction(double beta, tn_node t);

/* False with an error in the graph where a schedule makes no sense. */
bool tn_schedule_check(tn_graph *graph, const tn_schedule *schedule, double momentum);
/* The factor on the learning rate; `s`: steps before this one, f32 scalar. */
tn_node tn_schedule_factor(const tn_schedule *schedule, tn_node s);
/* SGD's momentum, constant or cycled. */
tn_node tn_schedule_momentum(const tn_schedule *schedule, double momentum, tn_node s);

#endif
