/* The training loop: steps, lines of metrics, evaluations, checkpoints, and going on from one. */
#include "tenon/train.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/string.h"
#include "exec/plan.h"
#include "nn/checkpoint.h"
#include "nn/metrics.h"

typedef struct loop {
    const tn_training *training;
    const char *const *metric;
    int metric_count;
    const void **feed;
    float *fetched;
    void **fetch;
    double *value, *sum; /* of this step; over the steps since the last line */
    int64_t summed;
    int64_t step; /* done */
    int64_t first_step, saved_step;
    double start, before; /* clock at the beginning of this call; seconds of the calls before */
    double saved_at;
    char *checkpoints; /* the folder, or NULL */
    tn_metrics_file metrics;
    tn_progress *progress;
} loop;

static double seconds(const loop *l) { return tn_clock_seconds() - l->start; }

static double rate(const loop *l)
{
    double per_step = l->training->items_per_step > 0 ? l->training->items_per_step : 1,
           time = seconds(l);
    return time > 0 ? (double)(l->step - l->first_step) * per_step / time : 0;
}

static const char *item(const loop *l) { return l->training->item ? l->training->item : "step"; }

/* ---- the run folder -------------------------------------------------------------------------- */

/* The first key whose value is not the same in both, by the order of `wanted`; NULL: only `old` has
 * more. */
static const char *first_difference(json_t *wanted, const json_t *old)
{
    for (void *i = json_object_iter(wanted); i; i = json_object_iter_next(wanted, i)) {
        const char *key = json_object_iter_key(i);
        if (!json_equal(json_object_iter_value(i), json_object_get(old, key))) return key;
    }
    return NULL;
}

static tn_status compare_config(const char *path, json_t *wanted)
{
    tn_json old;
    TN_TRY(tn_json_load(path, 16 << 20, &old));
    tn_status status = TN_OK;
    if (!json_equal(old.root, wanted)) {
        const char *key = first_difference(wanted, old.root);
        tn_json_fail(&old, old.root, key,
                     "%s; this folder was begun with another configuration: choose another "
                     "folder, or go on with the same one",
                     key ? "is not what is asked for now" : "something is not asked for now");
        status = TN_INVALID;
    }
    tn_json_free(&old);
    return status;
}

static tn_status settle_config(const char *folder, const char *config)
{
    tn_json wanted;
    TN_TRY(tn_json_parse("the run's configuration", config, strlen(config), &wanted));
    tn_string path = {0};
    tn_string_format(&path, "%s/config.json", folder);
    tn_status status = tn_string_status(&path);
    if (status == TN_OK)
        status = tn_file_exists(path.text) ? compare_config(path.text, wanted.root)
                                           : tn_json_save(path.text, wanted.root);
    tn_string_free(&path);
    tn_json_free(&wanted);
    return status;
}

static tn_status open_folder(loop *l)
{
    const tn_training *t = l->training;
    if (!t->folder) return TN_OK;
    tn_string path = {0};
    tn_string_format(&path, "%s/checkpoint", t->folder);
    TN_TRY(tn_string_status(&path));
    l->checkpoints = tn_string_take(&path);
    TN_TRY(tn_make_directories(l->checkpoints));
    tn_string_format(&path, "%s/metrics.jsonl", t->folder);
    tn_status status = tn_string_status(&path);
    if (status == TN_OK) status = tn_metrics_open(path.text, &l->metrics);
    tn_string_free(&path);
    if (status == TN_OK && t->config) status = settle_config(t->folder, t->config);
    return status;
}

/* ---- checkpoints ----------------------------------------------------------------------------- */

/* What the loop itself must remember, besides the state. */
static char *make_record(const loop *l)
{
    json_t *sums = json_array(), *record = json_object();
    for (int i = 0; i < l->metric_count; i++) json_array_append_new(sums, json_real(l->sum[i]));
    json_object_set_new(record, "step", json_integer(l->step));
    json_object_set_new(record, "metrics_bytes", json_integer(l->metrics.size));
    json_object_set_new(record, "seconds", json_real(l->before + seconds(l)));
    json_object_set_new(record, "summed", json_integer(l->summed));
    json_object_set_new(record, "sums", sums);
    char *text = json_dumps(record, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(record);
    return text;
}

static tn_status use_record(loop *l, const char *text, int64_t *metrics_size)
{
    tn_json record;
    json_t *sums = NULL;
    TN_TRY(tn_json_parse("the checkpoint's record", text, strlen(text), &record));
    tn_status status = tn_json_integer(&record, record.root, "step", TN_JSON_REQUIRED, 0, INT64_MAX,
                                       &l->step);
    if (status == TN_OK)
        status = tn_json_integer(&record, record.root, "metrics_bytes", TN_JSON_REQUIRED, 0,
                                 INT64_MAX, metrics_size);
    if (status == TN_OK)
        status = tn_json_number(&record, record.root, "seconds", TN_JSON_REQUIRED, 0, 1e15,
                                &l->before);
    if (status == TN_OK)
        status = tn_json_integer(&record, record.root, "summed", TN_JSON_REQUIRED, 0, INT64_MAX,
                                 &l->summed);
    if (status == TN_OK)
        status = tn_json_array(&record, record.root, "sums", TN_JSON_REQUIRED, &sums);
    if (status == TN_OK && json_array_size(sums) != (size_t)l->metric_count)
        status = tn_json_fail(
            &record, record.root, "sums",
            "has %zu numbers, but this plan gives %d metrics; it was written by another program",
            json_array_size(sums), l->metric_count);
    for (int i = 0; i < l->metric_count && status == TN_OK; i++)
        l->sum[i] = json_number_value(json_array_get(sums, (size_t)i));
    tn_json_free(&record);
    return status;
}

static tn_status resume(loop *l)
{
    if (!l->checkpoints) return TN_OK;
    char *record;
    int64_t step = 0, metrics_size = 0;
    TN_TRY(tn_checkpoint_read(l->checkpoints, l->training->state, &step, &record));
    if (record) {
        tn_status status = use_record(l, record, &metrics_size);
        free(record);
        TN_TRY(status);
        tn_log_line(TN_LOG_INFO, "%s: going on from step %" PRId64, l->training->folder, l->step);
    }
    l->first_step = l->saved_step = l->step;
    if (!record) l->saved_step = -1;
    return tn_metrics_cut(&l->metrics, metrics_size);
}

static tn_status save(loop *l)
{
    if (!l->checkpoints || l->saved_step == l->step) return TN_OK;
    TN_TRY(tn_metrics_sync(&l->metrics));
    char *record = make_record(l);
    if (!record) return tn_fail(TN_MEMORY, "out of memory for a checkpoint's record");
    tn_status status = tn_checkpoint_write(l->checkpoints, l->training->state, l->step, record);
    free(record);
    if (status != TN_OK) return status;
    l->saved_step = l->step;
    l->saved_at = tn_clock_seconds();
    return TN_OK;
}

static bool save_is_due(const loop *l)
{
    const tn_training *t = l->training;
    if (l->step == t->steps) return true;
    if (t->checkpoint_every > 0 && l->step % t->checkpoint_every == 0) return true;
    return t->checkpoint_seconds > 0 && tn_clock_seconds() - l->saved_at >= t->checkpoint_seconds;
}

/* ---- one step -------------------------------------------------------------------------------- */

static tn_status run_batch(loop *l, tn_plan *plan, int64_t number)
{
    const tn_training *t = l->training;
    if (t->batch) TN_TRY(t->batch(t->context, number, l->feed));
    return tn_run(plan, l->feed, l->fetch);
}

/* Writes this step's metrics to value[]. */
static tn_status run_plans(loop *l)
{
    const tn_training *t = l->training;
    int means = t->parts > 1 ? t->part->fetch_count : 0;
    for (int i = 0; i < means; i++) l->value[i] = 0;
    for (int k = 0; k < t->parts && t->parts > 1; k++) {
        TN_TRY(run_batch(l, t->part, l->step * t->parts + k));
        for (int i = 0; i < means; i++) l->value[i] += (double)l->fetched[i] / t->parts;
    }
    if (t->parts > 1) TN_TRY(tn_run(t->plan, NULL, l->fetch + means));
    else TN_TRY(run_batch(l, t->choose ? t->choose(t->context, l->step) : t->plan, l->step));
    for (int i = means; i < l->metric_count; i++) l->value[i] = l->fetched[i];
    return TN_OK;
}

static tn_status run_step(loop *l)
{
    TN_TRY(run_plans(l));
    l->step++;
    l->summed++;
    for (int i = 0; i < l->metric_count; i++) l->sum[i] += l->value[i];
    if (isfinite(l->value[0])) return TN_OK;
    char last[96] = "";
    if (l->saved_step >= 0)
        snprintf(last, sizeof last, "; the checkpoint of step %" PRId64 " is intact",
                 l->saved_step);
    return tn_fail(TN_INVALID,
                   "step %" PRId64 ": %s is %g%s; try a smaller learning rate, a warm-up or "
                   "clipping, and look for NaN in the data",
                   l->step, l->metric[0], l->value[0], last);
}

static tn_status log_line(loop *l)
{
    int64_t every = l->training->log_every > 0 ? l->training->log_every : 1;
    if (l->step % every != 0 && l->step != l->training->steps) return TN_OK;
    tn_metrics line = tn_metrics_begin(l->step);
    for (int i = 0; i < l->metric_count; i++) {
        tn_metrics_add(&line, l->metric[i], l->sum[i] / (double)l->summed);
        l->sum[i] = 0;
    }
    l->summed = 0;
    char name[64];
    snprintf(name, sizeof name, "%ss_per_second", item(l));
    tn_metrics_add(&line, name, rate(l));
    tn_metrics_add(&line, "seconds", l->before + seconds(l));
    return tn_metrics_end(&l->metrics, &line);
}

static tn_status evaluate(loop *l)
{
    const tn_training *t = l->training;
    bool due = l->step == t->steps || (t->evaluate_every > 0 && l->step % t->evaluate_every == 0);
    if (!t->evaluate || !due) return TN_OK;
    tn_metrics line = tn_metrics_begin(l->step);
    tn_progress_clear(l->progress);
    tn_status status = t->evaluate(t->context, l->step, &line);
    tn_metrics_add(&line, "seconds", l->before + seconds(l));
    tn_metrics_file nowhere = {.descriptor = -1};
    tn_status written = tn_metrics_end(status == TN_OK ? &l->metrics : &nowhere, &line);
    return status != TN_OK ? status : written;
}

static tn_status tell(loop *l)
{
    const tn_training *t = l->training;
    if (l->progress) {
        if (t->items_per_step > 0)
            tn_progress_note(l->progress, "%s %.4g  %.3g %s/s", l->metric[0], l->value[0], rate(l),
                             item(l));
        else tn_progress_note(l->progress, "%s %.4g", l->metric[0], l->value[0]);
        tn_progress_update(l->progress, l->step);
    }
    if (!t->after_step) return TN_OK;
    tn_training_event event = {.step = l->step,
                               .steps = t->steps,
                               .value = l->value,
                               .seconds = seconds(l),
                               .items_per_second = rate(l)};
    return t->after_step(t->context, &event);
}

static tn_status run(loop *l)
{
    const tn_training *t = l->training;
    while (l->step < t->steps) {
        if (t->stop && *t->stop) {
            TN_TRY(save(l));
            return tn_fail(TN_INTERRUPTED, "stopped after step %" PRId64 " of %" PRId64 "%s",
                           l->step, t->steps,
                           l->checkpoints ? "; run the same command again to go on" : "");
        }
        TN_TRY(run_step(l));
        TN_TRY(log_line(l));
        TN_TRY(evaluate(l));
        TN_TRY(tell(l));
        if (save_is_due(l)) TN_TRY(save(l));
    }
    return TN_OK;
}

/* ---- the call -------------------------------------------------------------------------------- */

static tn_status check(const tn_training *t)
{
    if (!t->plan || !t->state) return tn_fail(TN_INVALID, "train: .plan and .state must be given");
    bool in_parts = t->parts > 1;
    if (in_parts && (!t->part || t->choose || t->plan->feed_count != 0))
        return tn_fail(TN_INVALID,
                       "train: with %d parts a step, .part must be given, .plan have no feeds, and "
                       ".choose be left out",
                       t->parts);
    int metrics = t->metric ? t->metric_count : 1,
        fetches = t->plan->fetch_count + (in_parts ? t->part->fetch_count : 0);
    if (metrics < 1 || fetches != metrics || (in_parts && t->part->fetch_count < 1))
        return tn_fail(TN_INVALID,
                       "train: the plan has %d fetches, but there are names for %d metrics; each "
                       "fetch must be a named f32 scalar, the loss first",
                       fetches, metrics);
    int feeds = in_parts ? t->part->feed_count : t->plan->feed_count;
    if (t->feed_count != feeds || (feeds > 0 && !t->batch))
        return tn_fail(TN_INVALID,
                       "train: the plan has %d feeds, but .feed_count is %d and .batch is %s",
                       feeds, t->feed_count, t->batch ? "given" : "missing");
    if (t->plan->state != t->state || (in_parts && t->part->state != t->state))
        return tn_fail(TN_INVALID, "train: the plan works on another state than .state");
    if (t->steps < 0) return tn_fail(TN_INVALID, "train: .steps is %" PRId64, t->steps);
    return TN_OK;
}

static tn_status allocate(loop *l)
{
    size_t metrics = (size_t)l->metric_count, feeds = (size_t)l->training->feed_count;
    l->feed = calloc(feeds + 1, sizeof *l->feed);
    l->fetched = calloc(metrics, sizeof *l->fetched);
    l->fetch = calloc(metrics, sizeof *l->fetch);
    l->value = calloc(metrics, sizeof *l->value);
    l->sum = calloc(metrics, sizeof *l->sum);
    if (!l->feed || !l->fetched || !l->fetch || !l->value || !l->sum)
        return tn_fail(TN_MEMORY, "out of memory for a training loop");
    for (size_t i = 0; i < metrics; i++) l->fetch[i] = &l->fetched[i];
    l->value[0] = NAN;
    return TN_OK;
}

static void release(loop *l)
{
    tn_progress_end(l->progress);
    tn_metrics_close(&l->metrics);
    free(l->feed);
    free(l->fetched);
    free(l->fetch);
    free(l->value);
    free(l->sum);
    free(l->checkpoints);
}

tn_status tn_train(const tn_training *t, tn_training_result *result)
{
    static const char *const loss_alone[] = {"loss"};
    if (result) *result = (tn_training_result){.loss = NAN};
    TN_TRY(check(t));
    loop l = {.training = t,
              .metric = t->metric ? t->metric : loss_alone,
              .metric_count = t->metric ? t->metric_count : 1,
              .saved_step = -1,
              .metrics = {.descriptor = -1}};
    tn_status status = allocate(&l);
    if (status == TN_OK) status = open_folder(&l);
    if (status == TN_OK) status = resume(&l);
    if (status == TN_OK && t->title) l.progress = tn_progress_begin(t->title, "step", t->steps);
    l.start = l.saved_at = tn_clock_seconds();
    if (status == TN_OK) status = run(&l);
    if (result)
        *result = (tn_training_result){.first_step = l.first_step,
                                       .step = l.step,
                                       .loss = l.value ? l.value[0] : NAN,
                                       .seconds = seconds(&l)};
    release(&l);
    return status;
}
