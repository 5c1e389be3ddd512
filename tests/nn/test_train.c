/* The training loop: going on from a checkpoint to the same bits after every kind of ending, what
 * lies in the run folder, and messages. */
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "near.h"
#include <jansson.h>

#include "base/threads.h"
#include "tenon/log.h"
#include "tenon/nn.h"
#include "tenon/ops.h"
#include "tenon/optimizer.h"
#include "tenon/random.h"
#include "tenon/train.h"
#include "tenon/weights.h"

static const tn_backend backend = TN_CPU;
enum { BATCH = 8, IN = 6, STEPS = 30 };

/* ---- a folder of one's own ------------------------------------------------------------------- */

static char folder[256];

static int make_folder(void **unused)
{
    (void)unused;
    snprintf(folder, sizeof folder, "%s/tenon-train-XXXXXX",
             getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

static void remove_all(const char *path)
{
    DIR *directory = opendir(path);
    for (struct dirent *item; directory && (item = readdir(directory));) {
        char inner[1024];
        if (!strcmp(item->d_name, ".") || !strcmp(item->d_name, "..")) continue;
        snprintf(inner, sizeof inner, "%s/%s", path, item->d_name);
        if (unlink(inner) != 0) remove_all(inner);
    }
    if (directory) closedir(directory);
    rmdir(path);
}

static int drop_folder(void **unused)
{
    (void)unused;
    remove_all(folder);
    return 0;
}

static char *inside(const char *name)
{
    static char path[4][600];
    static int turn;
    char *out = path[turn++ % 4];
    snprintf(out, sizeof path[0], "%s/%s", folder, name);
    return out;
}

static int count_files(const char *path, const char *suffix)
{
    DIR *directory = opendir(path);
    int count = 0;
    for (struct dirent *item; directory && (item = readdir(directory));) {
        size_t length = strlen(item->d_name), end = strlen(suffix);
        count += item->d_name[0] != '.' && length > end &&
                 !strcmp(item->d_name + length - end, suffix);
    }
    if (directory) closedir(directory);
    return count;
}

/* ---- a small network ------------------------------------------------------------------------- */
/* With everything that must be resumed: running statistics, dropout, moments, a schedule, an
 * average. */

typedef struct run {
    tn_state *state;
    tn_graph *graph, *test_graph;
    tn_plan *plan, *test;
    float x[BATCH * IN];
    int32_t label[BATCH];
    tn_training training;
    tn_training_result result;
    /* what a test wants to happen */
    int64_t nan_step, give_up_after, stop_after, spoil_at;
    const char *config_of_second;
    volatile sig_atomic_t stop;
    int steps_run;
} run;

static tn_status batch(void *context, int64_t step, const void **feed)
{
    run *r = context;
    r->steps_run++;
    for (int i = 0; i < BATCH * IN; i++)
        r->x[i] = 2 * tn_random_uniform(9, (uint64_t)step, (uint64_t)i) - 1;
    for (int b = 0; b < BATCH; b++)
        r->label[b] = r->x[b * IN] + r->x[b * IN + 1] * r->x[b * IN + 2] > 0;
    if (step == r->nan_step) r->x[3] = NAN;
    feed[0] = r->x;
    feed[1] = r->label;
    return TN_OK;
}

static tn_status after_step(void *context, const tn_training_event *event)
{
    run *r = context;
    assert_int_equal(event->steps, r->training.steps);
    assert_true(isfinite(event->value[0]));
    if (event->step == r->stop_after) r->stop = 1;
    if (event->step == r->spoil_at)
        ((float *)tn_state_find(r->state, "2.bias")->data)[0] = INFINITY;
    return event->step == r->give_up_after ? TN_UNSUPPORTED
                                           : TN_OK; /* leaves the disk as a kill would */
}

static tn_status evaluate(void *context, int64_t step, tn_metrics *metrics)
{
    run *r = context;
    const void *feed[2];
    batch(r, 1000000, feed);
    r->steps_run--;
    float loss;
    assert_int_equal(tn_run(r->test, feed, (void *[]){&loss}), TN_OK);
    tn_metrics_add(metrics, "held_out_loss", loss);
    tn_metrics_add(metrics, "step_again", (double)step);
    return TN_OK;
}

static tn_node network(tn_scope root, tn_node x)
{
    tn_node y = tn_linear(tn_in(root, "0"), x, 16, .bias = true);
    y = tn_dropout(root, tn_relu(tn_batch_norm(tn_in(root, "1"), y)), 0.2);
    return tn_linear(tn_in(root, "2"), y, 2, .bias = true);
}

static void begin(run *r)
{
    memset(r, 0, sizeof *r);
    r->nan_step = r->give_up_after = r->stop_after = r->spoil_at = -1;
    r->state = tn_state_create(4);
    r->graph = tn_graph_create(r->state);
    r->test_graph = tn_graph_create(r->state);
    tn_scope root = tn_root(r->graph);
    root.training = true;
    root.step = tn_step_node(r->graph);
    tn_node x = tn_input(r->graph, "x", TN_F32, TN_SHAPE(BATCH, IN)),
            label = tn_input(r->graph, "label", TN_I32, TN_SHAPE(BATCH));
    tn_node loss = tn_mean(tn_cross_entropy(network(root, x), label), TN_ALL_AXES);
    tn_optimizer o = tn_adamw(.learning_rate = 0.02, .weight_decay = 0.01, .clip_norm = 1,
                              .average = {.decay = 0.9},
                              .schedule = {TN_COSINE, .warmup = 3, .steps = STEPS});
    tn_training_step step = tn_minimise_step(loss, &o);
    tn_compile_options options = {.graph = r->graph,
                                  .feeds = TN_NODES(x, label),
                                  .fetches = TN_NODES(loss, step.learning_rate, step.gradient_norm),
                                  .updates = step.updates,
                                  .backend = backend};
    if (tn_compile_with(&r->plan, &options) != TN_OK)
        fail_msg("compiling failed: %s", tn_message());
    tn_node x2 = tn_input(r->test_graph, "x", TN_F32, TN_SHAPE(BATCH, IN)),
            label2 = tn_input(r->test_graph, "label", TN_I32, TN_SHAPE(BATCH));
    tn_node loss2 = tn_mean(tn_cross_entropy(network(tn_root(r->test_graph), x2), label2),
                            TN_ALL_AXES);
    options = (tn_compile_options){.graph = r->test_graph,
                                   .feeds = TN_NODES(x2, label2),
                                   .fetches = TN_NODES(loss2),
                                   .backend = backend};
    if (tn_compile_with(&r->test, &options) != TN_OK)
        fail_msg("compiling failed: %s", tn_message());
    static const char *const names[] = {"loss", "learning_rate", "gradient_norm"};
    r->training = (tn_training){.state = r->state,
                                .plan = r->plan,
                                .metric = names,
                                .metric_count = 3,
                                .steps = STEPS,
                                .folder = folder,
                                .config = "{\"width\": 16, \"optimizer\": {\"rate\": 0.02}}",
                                .batch = batch,
                                .feed_count = 2,
                                .evaluate = evaluate,
                                .evaluate_every = 12,
                                .after_step = after_step,
                                .context = r,
                                .log_every = 4,
                                .checkpoint_every = 10,
                                .items_per_step = BATCH,
                                .item = "sample",
                                .stop = &r->stop};
}

static void end(run *r)
{
    tn_plan_free(r->plan);
    tn_plan_free(r->test);
    tn_graph_free(r->graph);
    tn_graph_free(r->test_graph);
    tn_state_free(r->state);
}

static tn_status train(run *r) { return tn_train(&r->training, &r->result); }

static void train_whole(run *r)
{
    if (train(r) != TN_OK) fail_msg("training failed: %s", tn_message());
    assert_int_equal(r->result.step, STEPS);
}

/* metrics.jsonl without what depends on time. */
static char *metrics_text(void)
{
    FILE *file = fopen(inside("metrics.jsonl"), "r");
    if (!file) fail_msg("there is no metrics.jsonl");
    char line[1024], *all = calloc(1, 1 << 16);
    while (fgets(line, sizeof line, file)) {
        json_t *object = json_loads(line, 0, NULL);
        if (!object) fail_msg("not JSON: %s", line);
        assert_true(json_is_number(json_object_get(object, "seconds")));
        json_object_del(object, "seconds");
        json_object_del(object, "samples_per_second");
        char *text = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9));
        strcat(strcat(all, text), "\n");
        free(text);
        json_decref(object);
    }
    fclose(file);
    return all;
}

/* What an uninterrupted run ends with: computed once, in a folder of its own. */
static char whole_digest[65], *whole_metrics;

static int run_whole(void **state)
{
    make_folder(state);
    run r;
    begin(&r);
    train_whole(&r);
    assert_int_equal(r.result.first_step, 0);
    assert_int_equal(r.steps_run, STEPS);
    tn_state_digest(r.state, whole_digest);
    whole_metrics = metrics_text();
    end(&r);
    return drop_folder(state);
}

static int forget_whole(void **unused)
{
    (void)unused;
    free(whole_metrics);
    return 0;
}

/* Runs to the end in a fresh process image (so to speak) and expects the bits of the uninterrupted
 * run. */
static void finish_and_compare(int64_t first_step)
{
    run r;
    char digest[65];
    begin(&r);
    train_whole(&r);
    assert_int_equal(r.result.first_step, first_step);
    assert_int_equal(r.steps_run, STEPS - first_step);
    tn_state_digest(r.state, digest);
    assert_string_equal(digest, whole_digest);
    char *metrics = metrics_text();
    assert_string_equal(metrics, whole_metrics);
    free(metrics);
    end(&r);
}

/* ---- endings --------------------------------------------------------------------------------- */

static void test_the_folder(void **unused)
{
    (void)unused;
    run r;
    begin(&r);
    train_whole(&r);
    assert_true(r.result.loss > 0 && r.result.loss < 0.7);
    assert_true(r.result.seconds > 0);
    assert_int_equal(count_files(inside("checkpoint"), ".safetensors"), 2);
    assert_int_equal(access(inside("checkpoint/step-00000030.safetensors"), R_OK), 0);
    assert_int_equal(access(inside("checkpoint/step-00000020.safetensors"), R_OK), 0);
    json_t *config = json_load_file(inside("config.json"), 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(config, "width")), 16);
    json_decref(config);

    /* steps 4, 8, 12 and its evaluation, ..., 28, 30 and the last evaluation; the first line is a
     * mean over four steps */
    char *text = metrics_text(), *line = text;
    static const int expected[] = {4, 8, 12, 12, 16, 20, 24, 24, 28, 30, 30};
    int count = 0;
    double rate = 0;
    for (int step = 0; step < 4; step++) rate += 0.02 * (step < 3 ? (step + 1) / 3.0 : 1) / 4;
    for (; *line; line = strchr(line, '\n') + 1, count++) {
        json_t *object = json_loadb(line, strcspn(line, "\n"), 0, NULL);
        assert_true(count < 11);
        assert_int_equal(json_integer_value(json_object_get(object, "step")), expected[count]);
        bool evaluation = count == 3 || count == 7 || count == 10;
        assert_int_equal(json_object_get(object, "held_out_loss") != NULL, evaluation);
        assert_int_equal(json_object_get(object, "loss") != NULL, !evaluation);
        if (count == 0)
            assert_near((float)json_real_value(json_object_get(object, "learning_rate")),
                        (float)rate, 1e-7);
        json_decref(object);
    }
    assert_int_equal(count, 11);
    free(text);

    /* Done is done. */
    int steps = r.steps_run;
    assert_int_equal(train(&r), TN_OK);
    assert_int_equal(r.steps_run, steps);
    assert_int_equal(r.result.first_step, STEPS);
    end(&r);
}

static void test_ended_anywhere(void **unused)
{
    (void)unused;
    static const int64_t places[] = {1, 9, 10, 11, 13, 25, 29};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        run r;
        begin(&r);
        r.give_up_after = places[i];
        assert_int_equal(train(&r), TN_UNSUPPORTED);
        assert_int_equal(r.result.step, places[i]);
        end(&r);
        finish_and_compare((places[i] - 1) / 10 *
                           10); /* the checkpoint of a step comes behind its callback */
        remove_all(folder);
    }
}

static void test_killed(void **unused)
{
    (void)unused;
    for (int round = 0; round < 3; round++) {
        pid_t child = fork();
        if (child == 0) {
            tn_set_thread_count(1); /* this process's pool did not come along */
            run r;
            begin(&r);
            r.training.after_step = NULL;
            r.training.checkpoint_every = 1;
            r.training.steps = 1000000;
            r.training.config = NULL;
            tn_train(&r.training, NULL);
            _exit(1);
        }
        usleep(60000 + 37000 * (useconds_t)round); /* amidst steps and checkpoints */
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        assert_true(WIFSIGNALED(status));
        run r;
        begin(&r);
        r.training.config = NULL;
        r.training.steps = 0;
        if (tn_train(&r.training, &r.result) != TN_OK) fail_msg("after a kill: %s", tn_message());
        int64_t step = r.result.step;
        r.training.steps = step + 3;
        r.training.checkpoint_every = 0;
        r.training.log_every = 1;
        if (tn_train(&r.training, &r.result) != TN_OK) fail_msg("after a kill: %s", tn_message());
        assert_int_equal(r.result.first_step, step);
        assert_int_equal(count_files(inside("checkpoint"), ".safetensors"), step > 0 ? 2 : 1);
        end(&r);
        remove_all(folder);
    }
}

static void test_stopped(void **unused)
{
    (void)unused;
    run r;
    begin(&r);
    r.stop_after = 17;
    assert_int_equal(train(&r), TN_INTERRUPTED);
    assert_non_null(strstr(tn_message(), "stopped after step 17 of 30"));
    assert_int_equal(access(inside("checkpoint/step-00000017.safetensors"), R_OK), 0);
    end(&r);
    finish_and_compare(17);
}

static void damage(const char *path, bool shorten)
{
    struct stat known;
    assert_int_equal(stat(path, &known), 0);
    if (shorten) {
        assert_int_equal(truncate(path, known.st_size / 2), 0);
        return;
    }
    int file = open(path, O_RDWR);
    char byte;
    assert_int_equal(pread(file, &byte, 1, known.st_size - 5), 1);
    byte = (char)(byte ^ 16);
    assert_int_equal(pwrite(file, &byte, 1, known.st_size - 5), 1);
    close(file);
}

static int warnings;
static void count_warning(void *context, tn_log_level level, const char *line)
{
    (void)context;
    if (level == TN_LOG_WARNING && strstr(line, "step-00000020")) warnings++;
}

static void test_damaged(void **unused)
{
    (void)unused;
    for (int shorten = 0; shorten < 2; shorten++) {
        run r;
        begin(&r);
        r.give_up_after = 25;
        assert_int_equal(train(&r), TN_UNSUPPORTED);
        end(&r);
        damage(inside("checkpoint/step-00000020.safetensors"), shorten);
        warnings = 0;
        tn_log_to(count_warning, NULL, TN_LOG_WARNING);
        finish_and_compare(10); /* the one before */
        tn_log_to(NULL, NULL, TN_LOG_WARNING);
        assert_int_equal(warnings, 1);
        damage(inside("checkpoint/step-00000020.safetensors"), shorten);
        damage(inside("checkpoint/step-00000030.safetensors"), shorten);
        begin(&r);
        assert_int_equal(train(&r), TN_FORMAT);
        assert_non_null(
            strstr(tn_message(), "no checkpoint can be read (remove the folder to begin anew)"));
        assert_non_null(strstr(tn_message(), "step-00000020"));
        end(&r);
        remove_all(folder);
    }
}

static void test_full_disk(void **unused)
{
    (void)unused;
    struct rlimit usual, small;
    run r;
    begin(&r);
    r.give_up_after = 15;
    assert_int_equal(train(&r), TN_UNSUPPORTED);
    r.give_up_after = -1;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &usual);
    small = usual;
    small.rlim_cur = 3000; /* room for metrics, not for a checkpoint */
    setrlimit(RLIMIT_FSIZE, &small);
    tn_status status = train(&r);
    char message[512];
    snprintf(message, sizeof message, "%s", tn_message());
    setrlimit(RLIMIT_FSIZE, &usual);
    assert_int_equal(status, TN_IO);
    if (!strstr(message, "step-00000020.safetensors"))
        fail_msg("message '%s' does not name the file", message);
    assert_int_equal(count_files(inside("checkpoint"), ".safetensors"), 1);
    end(&r);
    finish_and_compare(10);
}

static void test_nan_loss(void **unused)
{
    (void)unused;
    run r;
    begin(&r);
    r.nan_step = 16;
    assert_int_equal(train(&r), TN_INVALID);
    if (!strstr(tn_message(), "step 17: loss is") ||
        !strstr(tn_message(), "the checkpoint of step 10 is intact"))
        fail_msg("message: %s", tn_message());
    end(&r);
    finish_and_compare(10);
}

static void test_spoilt_parameters(void **unused)
{
    (void)unused;
    run r;
    begin(&r);
    r.spoil_at = 20;
    assert_int_equal(train(&r), TN_INVALID);
    if (!strstr(tn_message(), "step 20: parameter '2.bias' has become NaN or infinite"))
        fail_msg("message: %s", tn_message());
    assert_int_equal(count_files(inside("checkpoint"), ".safetensors"), 1);
    end(&r);
    finish_and_compare(10);
}

static void test_by_the_clock(void **unused)
{
    (void)unused;
    run r;
    begin(&r);
    r.training.checkpoint_every = 0;
    r.training.checkpoint_seconds = 1e-9;
    r.give_up_after = 8;
    assert_int_equal(train(&r), TN_UNSUPPORTED);
    assert_int_equal(access(inside("checkpoint/step-00000007.safetensors"), R_OK), 0);
    assert_int_equal(count_files(inside("checkpoint"), ".safetensors"), 2);
    end(&r);
    finish_and_compare(7);
}

/* One number p, whose gradient is the number fed; `few` and `many` take 1 and 3 of them. */
typedef struct tiny {
    tn_state *state;
    tn_graph *graph;
    tn_node p, few, many;
    tn_plan *part, *apply, *step[2];
    float x[3];
    int64_t numbers[16];
    int count;
} tiny;

static tn_status tiny_batch(void *context, int64_t number, const void **feed)
{
    tiny *q = context;
    q->numbers[q->count++ % 16] = number;
    for (int i = 0; i < 3; i++) q->x[i] = (float)(number + 1);
    feed[0] = q->x;
    return TN_OK;
}

static tn_plan *tiny_choose(void *context, int64_t step)
{
    return ((tiny *)context)->step[step % 2];
}

static tn_plan *tiny_compile(tiny *q, tn_node feed, tn_node fetch, tn_node updates)
{
    tn_plan *plan;
    tn_compile_options o = {
        .graph = q->graph, .fetches = {&fetch, 1}, .updates = updates, .backend = backend};
    if (!tn_is_none(feed)) o.feeds = (tn_node_list){&feed, 1};
    if (tn_compile_with(&plan, &o) != TN_OK) fail_msg("compiling failed: %s", tn_message());
    return plan;
}

static void test_parts_and_buckets(void **unused)
{
    (void)unused;
    tiny q = {.state = tn_state_create(1)};
    q.graph = tn_graph_create(q.state);
    q.p = tn_parameter(tn_root(q.graph), "p", TN_SCALAR, tn_init_constant(0));
    q.few = tn_input(q.graph, "few", TN_F32, TN_SHAPE(1));
    q.many = tn_input(q.graph, "many", TN_F32, TN_SHAPE(3));
    tn_optimizer o = tn_sgd(.learning_rate = 1);
    tn_node loss[2] = {tn_multiply(q.p, tn_sum(q.few, TN_ALL_AXES)),
                       tn_multiply(q.p, tn_sum(q.many, TN_ALL_AXES))};
    q.part = tiny_compile(&q, q.few, loss[0], tn_accumulate(loss[0], &o));
    tn_training_step apply = tn_apply_accumulated(loss[0], &o);
    q.apply = tiny_compile(&q, TN_NONE, apply.gradient_norm, apply.updates);
    q.step[0] = tiny_compile(&q, q.few, loss[0], tn_minimise(loss[0], &o));
    q.step[1] = tiny_compile(&q, q.many, loss[1], tn_minimise(loss[1], &o));
    static const char *const names[] = {"loss", "norm"};
    tn_training t = {.state = q.state,
                     .plan = q.apply,
                     .part = q.part,
                     .parts = 4,
                     .metric = names,
                     .metric_count = 2,
                     .steps = 2,
                     .feed_count = 1,
                     .batch = tiny_batch,
                     .context = &q};
    tn_training_result result;
    if (tn_train(&t, &result) != TN_OK) fail_msg("%s", tn_message());
    assert_int_equal(q.count, 8);
    for (int i = 0; i < 8; i++) assert_int_equal(q.numbers[i], i);
    /* p: 0 - mean(1 2 3 4) = -2.5, then - mean(5 6 7 8) = -9; the last loss is the mean of -2.5 *
     * (5 6 7 8) */
    assert_near(*(float *)tn_state_find(q.state, "p")->data, -9, 0);
    assert_near((float)result.loss, -2.5f * 6.5f, 1e-5);
    t = (tn_training){.state = q.state,
                      .plan = q.step[0],
                      .choose = tiny_choose,
                      .steps = 3,
                      .feed_count = 1,
                      .batch = tiny_batch,
                      .context = &q};
    if (tn_train(&t, &result) != TN_OK) fail_msg("%s", tn_message());
    assert_near(*(float *)tn_state_find(q.state, "p")->data, -9 - 1 - 2 * 3 - 3, 0);
    t.parts = 2;
    assert_int_equal(tn_train(&t, NULL), TN_INVALID);
    assert_non_null(strstr(tn_message(), "with 2 parts a step, .part must be given"));
    for (int i = 0; i < 2; i++) tn_plan_free(q.step[i]);
    tn_plan_free(q.part);
    tn_plan_free(q.apply);
    tn_graph_free(q.graph);
    tn_state_free(q.state);
}

/* A convolutional network large enough to be split among threads: the same bits on one and on two.
 */
static void train_images(int threads, tn_dtype compute, char digest[65])
{
    enum { IMAGES = 16 };
    static float x[IMAGES * 3 * 16 * 16];
    static int32_t label[IMAGES];
    for (int i = 0; i < IMAGES * 768; i++) x[i] = tn_random_uniform(3, 0, (uint64_t)i);
    for (int i = 0; i < IMAGES; i++) label[i] = i % 10;
    tn_set_thread_count(threads);
    tn_state *state = tn_state_create(8);
    tn_graph *graph = tn_graph_create(state);
    tn_scope root = tn_root(graph);
    root.training = true;
    root.compute = compute;
    tn_node image = tn_input(graph, "image", TN_F32, TN_SHAPE(IMAGES, 3, 16, 16));
    tn_node wanted = tn_input(graph, "label", TN_I32, TN_SHAPE(IMAGES));
    tn_node logits = tn_resnet(root, image, .width = 16, .classes = 10);
    tn_node loss = tn_mean(tn_cross_entropy(logits, wanted), TN_ALL_AXES);
    tn_optimizer o = tn_sgd(.learning_rate = 0.05, .momentum = 0.9, .clip_norm = 1);
    tn_plan *plan;
    tn_compile_options options = {.graph = graph,
                                  .feeds = TN_NODES(image, wanted),
                                  .fetches = TN_NODES(loss),
                                  .updates = tn_minimise(loss, &o)};
    if (tn_compile_with(&plan, &options) != TN_OK) fail_msg("compiling failed: %s", tn_message());
    float first = 0, last = 0;
    for (int step = 0; step < 6; step++) {
        const void *feed[] = {x, label};
        assert_int_equal(tn_run(plan, feed, (void *[]){&last}), TN_OK);
        if (step == 0) first = last;
    }
    assert_true(last < 0.7f * first);
    tn_state_digest(state, digest);
    tn_plan_free(plan);
    tn_graph_free(graph);
    tn_state_free(state);
    tn_set_thread_count(0);
}

static void test_threads(void **unused)
{
    (void)unused;
    static const tn_dtype dtypes[] = {TN_F32, TN_BF16};
    for (int d = 0; d < 2; d++) {
        char one[65], two[65], again[65];
        train_images(1, dtypes[d], one);
        train_images(2, dtypes[d], two);
        train_images(2, dtypes[d], again);
        assert_string_equal(two, again);
        assert_string_equal(one, two);
    }
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void expect(tn_status status, tn_status wanted, const char *part)
{
    assert_int_equal(status, wanted);
    if (!strstr(tn_message(), part))
        fail_msg("message '%s' does not hold '%s'", tn_message(), part);
}

static tn_status train_inside(void *context, int64_t step, tn_metrics *metrics)
{
    (void)step, (void)metrics;
    run *r = context;
    return tn_train(&r->training, NULL);
}

static void test_refusals(void **unused)
{
    (void)unused;
    run r;
    begin(&r);
    r.give_up_after = 12;
    assert_int_equal(train(&r), TN_UNSUPPORTED);
    r.training.config = "{\"width\": 16, \"optimizer\": {\"rate\": 0.03}}";
    expect(train(&r), TN_INVALID,
           "field \"optimizer\" is not what is asked for now; this folder was begun with another "
           "configuration");
    r.training.config = "{\"width\": 16";
    expect(train(&r), TN_FORMAT, "the run's configuration:1:");
    r.training.config = NULL;
    r.training.evaluate = train_inside;
    r.training.evaluate_every = 1;
    expect(train(&r), TN_INVALID, "another process is training in this folder");
    r.training.evaluate = NULL;
    r.training.metric_count = 2;
    expect(train(&r), TN_INVALID, "the plan has 3 fetches, but there are names for 2 metrics");
    r.training.metric_count = 3;
    r.training.feed_count = 1;
    expect(train(&r), TN_INVALID, "the plan has 2 feeds, but .feed_count is 1");
    r.training.feed_count = 2;
    tn_state *other = tn_state_create(1);
    r.training.state = other;
    expect(train(&r), TN_INVALID, "another state than .state");
    tn_state_free(other);
    r.training.state = r.state;
    /* a model with one more parameter */
    tn_state_put(r.state, "3.weight", TN_F32, TN_SHAPE(2), NULL);
    tn_state_find(r.state, "3.weight")->parameter = true;
    expect(train(&r), TN_INVALID, "the checkpoint does not have '3.weight'");
    end(&r);
    begin(&r); /* and one whose parameter has another shape */
    r.training.config = NULL;
    tn_state_entry *entry = tn_state_find(r.state, "0.bias");
    entry->shape = TN_SHAPE(4, 4);
    expect(train(&r), TN_INVALID, "tensor '0.bias' is f32 [16], but this model wants f32 [4, 4]");
    end(&r);
    r.training.folder = inside("config.json/below");
    begin(&r);
    r.training.folder = inside("config.json/below");
    expect(train(&r), TN_IO, "config.json");
    end(&r);
}

static void test_without_a_folder(void **unused)
{
    (void)unused;
    run r;
    char digest[65];
    begin(&r);
    r.training.folder = NULL;
    train_whole(&r);
    tn_state_digest(r.state, digest);
    assert_string_equal(digest, whole_digest);
    end(&r);
}

/* ---- state in files -------------------------------------------------------------------------- */

static void test_model_files(void **unused)
{
    (void)unused;
    run r, fresh;
    begin(&r);
    r.training.folder = NULL;
    train_whole(&r);
    assert_int_equal(tn_state_save(r.state, inside("model.safetensors"), TN_STATE_MODEL), TN_OK);
    tn_weights *file;
    assert_int_equal(tn_weights_open(inside("model.safetensors"), &file), TN_OK);
    assert_int_equal(tn_weights_count(file), 9); /* two linear layers, four and three of the norm */
    assert_null(tn_weights_find(file, "optimizer/step"));
    assert_non_null(tn_weights_find(file, "1.running_var"));
    assert_true(tn_weights_find(file, "1.num_batches_tracked")->dtype == TN_I64);
    tn_weights_free(file);

    begin(&fresh);
    tn_state_loaded loaded;
    assert_int_equal(tn_state_load(fresh.state, inside("model.safetensors"), &loaded), TN_OK);
    assert_int_equal(loaded.read, 9);
    assert_int_equal(loaded.made + loaded.lacking, 0);
    const void *feed[2];
    float a, b;
    batch(&r, 77, feed);
    assert_int_equal(tn_run(r.test, feed, (void *[]){&a}), TN_OK);
    assert_int_equal(tn_run(fresh.test, feed, (void *[]){&b}), TN_OK);
    assert_memory_equal(&a, &b, sizeof a);

    /* half precision becomes f32; what the file lacks is told and stays; what the state lacks is
     * made */
    uint16_t half[16] = {0x3f80, 0xc000}; /* 1, -2 */
    int64_t number = 5;
    tn_weight some[] = {
        {.name = "0.bias",
         .dtype = TN_BF16,
         .shape = TN_SHAPE(16),
         .bytes = half,
         .size = sizeof half},
        {.name = "extra",
         .dtype = TN_I64,
         .shape = TN_SCALAR,
         .bytes = &number,
         .size = sizeof number},
        {.name = "half", .dtype = TN_BF16, .shape = TN_SHAPE(2), .bytes = half, .size = 4}};
    assert_int_equal(tn_weights_save(inside("some.safetensors"), some, 3, NULL, 0), TN_OK);
    assert_int_equal(tn_state_load(fresh.state, inside("some.safetensors"), &loaded), TN_OK);
    assert_int_equal(loaded.read, 3);
    assert_int_equal(loaded.made, 2);
    assert_int_equal(loaded.lacking, 5);
    assert_string_equal(loaded.first_lacking, tn_state_at(fresh.state, 0)->parameter
                                                  ? tn_state_at(fresh.state, 0)->name
                                                  : loaded.first_lacking);
    assert_near(((float *)tn_state_find(fresh.state, "0.bias")->data)[1], -2, 0);
    assert_int_equal(*(int64_t *)tn_state_find(fresh.state, "extra")->data, 5);
    assert_int_equal(tn_state_find(fresh.state, "half")->dtype, TN_F32);
    assert_near(((float *)tn_state_find(fresh.state, "half")->data)[0], 1, 0);

    /* nothing changes when one tensor does not suit */
    char before[65], after[65];
    tn_state_digest(fresh.state, before);
    float ones[16] = {1, 1};
    tn_weight wrong[] = {
        {.name = "0.bias",
         .dtype = TN_F32,
         .shape = TN_SHAPE(16),
         .bytes = ones,
         .size = sizeof ones},
        {.name = "2.bias", .dtype = TN_F32, .shape = TN_SHAPE(3), .bytes = ones, .size = 12}};
    assert_int_equal(tn_weights_save(inside("wrong.safetensors"), wrong, 2, NULL, 0), TN_OK);
    expect(tn_state_load(fresh.state, inside("wrong.safetensors"), NULL), TN_INVALID,
           "wrong.safetensors: tensor '2.bias' is f32 [3], but this model wants f32 [2]");
    tn_state_digest(fresh.state, after);
    assert_string_equal(before, after);
    expect(tn_state_load(fresh.state, inside("missing.safetensors"), NULL), TN_IO,
           "missing.safetensors");
    expect(tn_state_save(fresh.state, inside("no/such/folder"), TN_STATE_MODEL), TN_IO, "no/such");
    end(&fresh);
    end(&r);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, drop_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_the_folder),
        IN_FOLDER(test_ended_anywhere),
        IN_FOLDER(test_killed),
        IN_FOLDER(test_stopped),
        IN_FOLDER(test_damaged),
        IN_FOLDER(test_full_disk),
        IN_FOLDER(test_nan_loss),
        IN_FOLDER(test_spoilt_parameters),
        IN_FOLDER(test_by_the_clock),
        IN_FOLDER(test_refusals),
        IN_FOLDER(test_without_a_folder),
        IN_FOLDER(test_model_files),
        cmocka_unit_test(test_parts_and_buckets),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, run_whole, forget_whole);
}
