/* Optimisers: one training step as nodes of the graph, so that it is fused, planned and resumed
 * like everything else.
 *
 *     tn_node update = tn_minimise(loss, &tn_sgd(.learning_rate = 0.1, .momentum = 0.9));
 *     tn_compile(&step, .graph = graph, .feeds = TN_NODES(x, label), .fetches = TN_NODES(loss),
 *                .updates = update);
 *
 * Everything that an optimiser remembers is named state: the step counter "optimizer/step" (i64,
 * steps done), moments "optimizer/<parameter>.m" and ".v", averages "average/<parameter>". A
 * schedule is a function of the step counter inside the graph. So a saved state resumes to the same
 * bits. */
#ifndef TENON_OPTIMIZER_H
#define TENON_OPTIMIZER_H

#include "tenon/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- what can be chosen ---------------------------------------------------------------------- */

/* p: parameter, g: gradient, r: learning rate now, w: weight decay, t: steps done, this one
 * included. */
typedef enum tn_rule {
    TN_SGD = 0, /* b = momentum b + g + w p;  p -= r b  (Nesterov: p -= r (g + w p + momentum b)) */
    TN_ADAM,    /* m, v: means of g + w p and its square;  p -= r m^ / (sqrt v^ + epsilon) */
    TN_ADAMW,   /* p -= r w p; then Adam on g alone.  Source: Loshchilov and Hutter 2019 */
    TN_SIGN_ADAM, /* Adam on sign(g).  Source: Geiping et al. 2021, its published code */
    TN_YOGI /* v -= (1 - beta2) sign(v - g^2) g^2, v begins at 1e-6.  Source: Zaheer et al. 2018 */
} tn_rule;

/* The factor on the learning rate at step s = 0, 1, ...; q = (s - warmup)/(steps - warmup) within
 * [0, 1]. All but the one-cycle schedule first rise linearly, (s + 1)/warmup, for `warmup` steps.
 */
typedef enum tn_schedule_kind {
    TN_CONSTANT = 0,
    TN_COSINE,       /* end + (1 - end) (1 + cos pi q)/2 */
    TN_POLYNOMIAL,   /* end + (1 - end) (1 - q)^power; power 0 means 1: linear */
    TN_STEPS,        /* decay^n, n: floor((s - warmup)/every), or how many milestones are <= s */
    TN_INVERSE_ROOT, /* sqrt(warmup/(s + 1)) behind the warm-up */
    TN_ONE_CYCLE /* cosine from `start` up to 1 at step warmup - 1, then down to `end` at the last;
                  * SGD's momentum goes the other way, to momentum_low and back */
} tn_schedule_kind;

#define TN_MOST_MILESTONES 6

typedef struct tn_schedule {
    tn_schedule_kind kind;
    int64_t warmup; /* steps */
    int64_t steps;  /* of the whole training: cosine, polynomial, one-cycle */
    int64_t every;  /* steps between decays, or: */
    int64_t milestone[TN_MOST_MILESTONES]; /* rising; 0 ends the list */
    double decay;                          /* 0: 0.1 */
    double power;
    double start, end;
    double momentum_low; /* 0: no momentum cycle */
} tn_schedule;

/* Settings for the parameters whose name fits `pattern` (* is any run of characters, dots too). */
typedef struct tn_parameter_group {
    const char *pattern;
    bool frozen;         /* not touched, no moments */
    double rate_factor;  /* on the learning rate; 0: 1 */
    double weight_decay; /* instead of the optimiser's; 0: the optimiser's */
    bool no_decay;
    bool lazy_rows; /* rows (along dimension 0) whose gradient is all zero take no part in a step:
                     * neither they nor their moments, decay or step count change */
} tn_parameter_group;

typedef enum tn_decay_scope {
    TN_DECAY_USUAL = 0, /* AdamW: matrices; the other rules: everything, as PyTorch does */
    TN_DECAY_MATRICES,  /* rank >= 2: neither biases nor norms */
    TN_DECAY_ALL
} tn_decay_scope;

/* Averages of the parameters over the steps, kept beside them as "average/<parameter>"; up to step
 * from + 1 the average is the parameter itself. */
typedef struct tn_averaging {
    double decay; /* a = decay a + (1 - decay) p; 0: none */
    bool equal;   /* the plain mean of the parameters after steps from + 1, from + 2, ... */
    int64_t from;
} tn_averaging;

typedef struct tn_optimizer {
    tn_rule rule;
    double learning_rate;
    double momentum; /* SGD */
    bool nesterov;
    double beta1, beta2;     /* 0: 0.9, 0.999 */
    double epsilon;          /* 0: 1e-8 (Yogi: 1e-3) */
    bool no_bias_correction; /* m and v as they are: federated servers, Reddi et al. 2021 */
    double weight_decay;
    tn_decay_scope decay_scope;
    double clip_norm; /* scales all gradients so that their joint norm is at most this; 0: off */
    tn_schedule schedule;
    const tn_parameter_group *group; /* the first that fits counts */
    int group_count;
    tn_averaging average;
    const char *name; /* prefix of its state; NULL: "optimizer". Two over one state need two */
} tn_optimizer;

#define tn_sgd(...) ((tn_optimizer){.rule = TN_SGD, __VA_ARGS__})
#define tn_adam(...) ((tn_optimizer){.rule = TN_ADAM, __VA_ARGS__})
#define tn_adamw(...) ((tn_optimizer){.rule = TN_ADAMW, __VA_ARGS__})
#define tn_sign_adam(...) ((tn_optimizer){.rule = TN_SIGN_ADAM, __VA_ARGS__})
#define tn_yogi(...) ((tn_optimizer){.rule = TN_YOGI, __VA_ARGS__})
/* .group and .group_count: TN_GROUPS({.pattern = "*.bias", .no_decay = true},
 *                                    {.pattern = "encoder.*", .frozen = true}) */
#define TN_GROUPS(...)                                                                             \
    .group = (const tn_parameter_group[]){__VA_ARGS__},                                            \
    .group_count = (int)(sizeof((const tn_parameter_group[]){__VA_ARGS__}) /                       \
                         sizeof(tn_parameter_group))

/* ---- steps ----------------------------------------------------------------------------------- */

typedef struct tn_training_step {
    tn_node updates;       /* for tn_compile's .updates */
    tn_node learning_rate; /* f32 scalar of this step */
    tn_node gradient_norm; /* f32 scalar: of all gradients jointly, before clipping */
} tn_training_step;

/* The number of steps done, i64 scalar: state "optimizer/step", for scope.step and dropout. */
tn_node tn_step_node(tn_graph *graph);

/* One step down `loss` (scalar f32) for every parameter that it depends on and that no group
 * freezes, with what the layers have put off (tn_take_deferred). An error in the graph if there is
 * nothing to train, a group's pattern fits no parameter of the graph, or an option makes no sense.
 * Cost: one pass over each parameter, its gradient and moments. */
tn_training_step tn_minimise_step(tn_node loss, const tn_optimizer *optimizer);
/* Its updates alone. */
tn_node tn_minimise(tn_node loss, const tn_optimizer *optimizer);

/* Gradient accumulation, as two plans over one state: the first, run for each part of a batch, adds
 * the gradients to "optimizer/<parameter>.gradient"; the second, without feeds, takes one step
 * along their mean and forgets them. `loss` tells the second which parameters there are. */
tn_node tn_accumulate(tn_node loss, const tn_optimizer *optimizer);
tn_training_step tn_apply_accumulated(tn_node loss, const tn_optimizer *optimizer);

/* The parameters that `loss` depends on and that no group freezes, in order of building; returns
 * their number and writes at most `capacity`. */
int tn_trainable(tn_node loss, const tn_optimizer *optimizer, tn_node *parameter, int capacity);
/* One step along gradients of the caller's own making (clipped per sample, averaged over ranks,
 * ...): parameter[i] is any f32 state node, gradient[i] has its shape. */
tn_training_step tn_descend(const tn_node *parameter, const tn_node *gradient, int count,
                            const tn_optimizer *optimizer);

/* Exchanges every "average/<parameter>" with its parameter: before evaluating or saving averaged
 * weights, and again afterwards. Call between runs only. Returns the number exchanged. Cost: no
 * copying. */
int tn_average_swap(tn_state *state);

#ifndef TN_NO_PLACES
#define tn_minimise_step(...) TN_AT(tn_minimise_step, __VA_ARGS__)
#define tn_minimise(...) TN_AT(tn_minimise, __VA_ARGS__)
#define tn_accumulate(...) TN_AT(tn_accumulate, __VA_ARGS__)
#define tn_apply_accumulated(...) TN_AT(tn_apply_accumulated, __VA_ARGS__)
#define tn_descend(...) TN_AT(tn_descend, __VA_ARGS__)
#endif

#ifdef __cplusplus
}
#endif
#endif
