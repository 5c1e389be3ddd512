/* The training loop: runs a plan step by step, writes what happens into a run folder, keeps
 * checkpoints there, and goes on from them to the same bits.
 *
 *     run/config.json       what was asked for; another configuration is refused
 *     run/metrics.jsonl     a line for every `log_every` steps and for every evaluation
 *     run/checkpoint/step-00001000.safetensors      the whole state; the two newest stay
 *
 * What makes resuming exact: all that a step depends on is named state (parameters, moments,
 * counters, running statistics) or a function of the step's number (batches, random nodes,
 * schedules). */
#ifndef TENON_TRAIN_H
#define TENON_TRAIN_H

#include <signal.h>

#include "tenon/plan.h"
#include "tenon/state.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- saving and loading state ---------------------------------------------------------------- */

typedef enum tn_state_part {
    TN_STATE_MODEL = 0, /* entries without a slash in their name: parameters, running statistics */
    TN_STATE_ALL        /* and what training adds: optimizer/..., average/... */
} tn_state_part;

/* Writes a safetensors file, atomically: until the last byte is on disk the old file stays. TN_IO
 * (a full disk, say), TN_MEMORY. */
tn_status tn_state_save(const tn_state *state, const char *path, tn_state_part part);

typedef struct tn_state_loaded {
    int read;    /* entries that were replaced or made */
    int made;    /* of these: made */
    int lacking; /* parameters of the state that the file does not have: they stay as they are */
    char first_lacking[192];
} tn_state_loaded;
/* Reads weights of any format that tn_weights_open knows into the state. Floats become f32 where
 * the entry is f32 or is made anew (f64 and integers are made as they are). All is checked before
 * anything changes. Errors: TN_IO, TN_FORMAT, and TN_INVALID for a tensor whose shape or type does
 * not suit the entry of its name. `loaded` may be NULL. Call between runs only. */
tn_status tn_state_load(tn_state *state, const char *path, tn_state_loaded *loaded);

/* ---- the loop -------------------------------------------------------------------------------- */

/* Named numbers for a line of metrics. */
typedef struct tn_metrics tn_metrics;
void tn_metrics_add(tn_metrics *metrics, const char *name, double value);

/* What after_step is told. */
typedef struct tn_training_event {
    int64_t step;        /* steps done */
    int64_t steps;       /* in all */
    const double *value; /* of the plan's metrics, this step */
    double seconds;      /* since this call of tn_train began */
    double items_per_second;
} tn_training_event;

typedef struct tn_training {
    tn_state *state;
    tn_plan *plan; /* one step; its fetches are f32 scalars, the loss first */
    /* Batches of several shapes, such as buckets of lengths: the plan for step number `step`, over
     * the same state and with as many feeds and fetches as `plan`. NULL: always `plan`. */
    tn_plan *(*choose)(void *context, int64_t step);
    /* Gradient accumulation: for parts > 1 a step runs `part` (tn_accumulate's plan) on the batches
     * step*parts, step*parts + 1, ..., then `plan` (tn_apply_accumulated's) without feeds. The
     * metrics are the means of part's fetches, then those of plan. */
    tn_plan *part;
    int parts;
    const char *const *metric; /* their names, metric_count of them; NULL: "loss" alone */
    int metric_count;
    int64_t steps;      /* to be done in all, those before a resume included */
    const char *folder; /* the run folder, made if missing; NULL: nothing is written */
    const char *config; /* JSON for config.json; NULL: none */

    /* Points feed[i] at the batch number `step` (0, 1, ...), a function of that number alone. The
     * bytes must stay until the next call. NULL: the plan has no feeds. */
    tn_status (*batch)(void *context, int64_t step, const void **feed);
    int feed_count;
    /* Every evaluate_every steps and after the last: adds what it measured. NULL: none. */
    tn_status (*evaluate)(void *context, int64_t step, tn_metrics *metrics);
    int64_t evaluate_every;
    /* After every step; a status other than TN_OK stops the loop with it. NULL: none. */
    tn_status (*after_step)(void *context, const tn_training_event *event);
    void *context; /* for all of them */

    int64_t log_every;         /* steps a line, whose values are means over them; 0: 1 */
    int64_t checkpoint_every;  /* steps; 0: only at the end and when stopped */
    double checkpoint_seconds; /* and so many seconds after the last one; 0: off */
    double items_per_step;     /* samples or tokens, for the rate; 0: 1 */
    const char *item;          /* their name; NULL: "step" */
    const char *title;         /* of a progress line on the terminal; NULL: no line */
    /* Set by a signal handler, say: the loop saves and returns TN_INTERRUPTED. */
    const volatile sig_atomic_t *stop;
} tn_training;

typedef struct tn_training_result {
    int64_t first_step; /* where this call began: 0, or what the checkpoint had */
    int64_t step;       /* steps done */
    double loss;        /* of the last step; NaN if none was run */
    double seconds;     /* of this call */
} tn_training_result;

/* Trains until `steps` are done, from the run folder's newest valid checkpoint if there is one
 * (metrics.jsonl is cut back to it). Returns TN_OK then; TN_INTERRUPTED when told to stop (a
 * checkpoint is written first); TN_INVALID for a folder begun with another configuration, for a
 * loss that is not finite (names the step; the last checkpoint stays as it was); TN_IO for a full
 * disk and the like, again with the previous checkpoint intact; and whatever a callback or the plan
 * returned. `result` may be NULL; it is filled in any case. */
tn_status tn_train(const tn_training *training, tn_training_result *result);

#ifdef __cplusplus
}
#endif
#endif
