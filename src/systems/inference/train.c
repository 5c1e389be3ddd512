/* Training a decoder from a text. The mathematics is the model's; the loop is nn's. Here: options, batches, evaluation, samples. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "graph/graph.h"
#include "tenon/data.h"
#include "tenon/infer.h"
#include "tenon/nn.h"
#include "tenon/optimizer.h"
#include "tenon/train.h"

enum { EVALUATION_BATCHES = 8, SAMPLE_TOKENS = 160 };

typedef struct trainer {
    const tn_infer_train_options *options;
    tn_infer_train_options o; /* with the file's and the default values filled in */
    tn_infer_config model;
    tn_tokenizer *tokenizer;
    tn_corpus *corpus;
    tn_state *state;
    tn_plan *step, *test;
    tn_node_list feeds;
    int32_t *tokens, *targets; /* [B, L] */
    double started, held_out_loss;
    bool held_out_known;
    bool out_of_time;
} trainer;

/* ---- options --------------------------------------------------------------------------------------- */

/* The command's values win over the file's "training" object, which wins over the defaults. */
static tn_status read_training(const char *path, tn_infer_train_options *o)
{
    tn_json json = {0};
    TN_TRY(tn_json_load(path, 16u << 20, &json));
    json_t *t = NULL;
    tn_infer_train_options file = {.batch = 8,
                                   .length = 128,
                                   .steps = 1000,
                                   .learning_rate = 3e-3,
                                   .warmup = -1,
                                   .weight_decay = 0.1,
                                   .clip = 1,
                                   .held_out = 0.05,
                                   .evaluate_every = 0,
                                   .checkpoint_every = 0,
                                   .sample_every = 0};
    static const char *const known[] = {
        "batch",        "length", "steps",    "learning_rate",  "warmup",
        "weight_decay", "clip",   "held_out", "evaluate_every", "checkpoint_every",
        "sample_every", "bf16",   "seed",     "prompt"};
    tn_status status = tn_json_object(&json, json.root, "training", TN_JSON_OPTIONAL, &t);
    int64_t seed = 0;
    bool bf16 = false;
    if (status == TN_OK && t) {
        const int64_t most = INT64_C(1) << 40;
        status = tn_json_only(&json, t, known, sizeof known / sizeof *known);
        if (status == TN_OK)
            status = tn_json_integer(&json, t, "batch", TN_JSON_OPTIONAL, 1, 1 << 20, &file.batch);
        if (status == TN_OK)
            status = tn_json_integer(&json, t, "length", TN_JSON_OPTIONAL, 1, 1 << 20,
                                     &file.length);
        if (status == TN_OK)
            status = tn_json_integer(&json, t, "steps", TN_JSON_OPTIONAL, 1, most, &file.steps);
        if (status == TN_OK)
            status = tn_json_number(&json, t, "learning_rate", TN_JSON_OPTIONAL, 0, 1e3,
                                    &file.learning_rate);
        if (status == TN_OK)
            status = tn_json_integer(&json, t, "warmup", TN_JSON_OPTIONAL, 0, most, &file.warmup);
        if (status == TN_OK)
            status = tn_json_number(&json, t, "weight_decay", TN_JSON_OPTIONAL, 0, 10,
                                    &file.weight_decay);
        if (status == TN_OK)
            status = tn_json_number(&json, t, "clip", TN_JSON_OPTIONAL, 0, 1e6, &file.clip);
        if (status == TN_OK)
            status = tn_json_number(&json, t, "held_out", TN_JSON_OPTIONAL, 0.0001, 0.9,
                                    &file.held_out);
        if (status == TN_OK)
            status = tn_json_integer(&json, t, "evaluate_every", TN_JSON_OPTIONAL, 1, most,
                                     &file.evaluate_every);
        if (status == TN_OK)
            status = tn_json_integer(&json, t, "checkpoint_every", TN_JSON_OPTIONAL, 1, most,
                                     &file.checkpoint_every);
        if (status == TN_OK)
            status = tn_json_integer(&json, t, "sample_every", TN_JSON_OPTIONAL, 1, most,
                                     &file.sample_every);
        if (status == TN_OK) status = tn_json_boolean(&json, t, "bf16", TN_JSON_OPTIONAL, &bf16);
        if (status == TN_OK)
            status = tn_json_integer(&json, t, "seed", TN_JSON_OPTIONAL, 0, INT64_MAX, &seed);
    }
    tn_json_free(&json);
    if (status != TN_OK) return status;
#define FILL(field)                                                                                \
    if (o->field == 0) o->field = file.field
    FILL(batch);
    FILL(length);
    FILL(steps);
    FILL(learning_rate);
    FILL(weight_decay);
    FILL(clip);
    FILL(held_out);
    FILL(evaluate_every);
    FILL(checkpoint_every);
    FILL(sample_every);
#undef FILL
    if (!o->warmup) o->warmup = file.warmup >= 0 ? file.warmup : o->steps / 20;
    if (!o->seed) o->seed = (uint64_t)seed;
    o->bf16 = o->bf16 || bf16;
    if (!o->evaluate_every) o->evaluate_every = o->steps / 10 ? o->steps / 10 : 1;
    if (!o->checkpoint_every) o->checkpoint_every = o->evaluate_every;
    if (!o->sample_every) o->sample_every = o->evaluate_every;
    return TN_OK;
}

/* What a resumed run must agree with: everything that the result depends on. */
static char *describe(const trainer *t)
{
    const tn_infer_config *m = &t->model;
    const tn_infer_train_options *o = &t->o;
    json_t *json = json_pack(
        "{s:s, s:{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}, "
        "s:{s:s,s:I,s:I,s:I,s:f,s:I,s:f,s:f,s:f,s:b,s:I,s:I}}",
        "command", "infer train", "model", "layers", (json_int_t)m->layers, "width",
        (json_int_t)m->width, "feed_forward", (json_int_t)m->feed_forward, "heads",
        (json_int_t)m->heads, "kv_heads", (json_int_t)m->kv_heads, "head_width",
        (json_int_t)m->head_width, "vocabulary", (json_int_t)m->vocabulary, "family",
        (json_int_t)m->family, "training", "text", o->text, "batch", (json_int_t)o->batch, "length",
        (json_int_t)o->length, "steps", (json_int_t)o->steps, "learning_rate", o->learning_rate,
        "warmup", (json_int_t)o->warmup, "weight_decay", o->weight_decay, "clip", o->clip,
        "held_out", o->held_out, "bf16", (int)o->bf16, "seed", (json_int_t)o->seed, "text_tokens",
        (json_int_t)tn_corpus_tokens(t->corpus, TN_CORPUS_TRAIN));
    char *text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
    json_decref(json);
    return text;
}

/* ---- plans ------------------------------------------------------------------------------------------- */

static tn_status compile_plans(trainer *t)
{
    const tn_infer_train_options *o = &t->o;
    tn_graph *graph = tn_graph_create(t->state);
    if (!graph) return TN_MEMORY;
    tn_scope root = tn_root(graph);
    root.compute = o->bf16 ? TN_BF16 : TN_F32;
    root.training = true;
    root.seed = o->seed;
    tn_infer_pass pass = {
        .tokens = tn_input(graph, "tokens", TN_I32, TN_SHAPE(o->batch, o->length))};
    tn_node targets = tn_input(graph, "targets", TN_I32, TN_SHAPE(o->batch, o->length));
    tn_node logits = tn_infer_logits(root, &t->model, &pass);
    tn_node rows = tn_reshape(logits, TN_SHAPE(o->batch * o->length, t->model.vocabulary));
    tn_node loss = tn_mean(
        tn_cross_entropy(rows, tn_reshape(targets, TN_SHAPE(o->batch * o->length))), TN_ALL_AXES);
    tn_optimizer adamw =
        tn_adamw(.learning_rate = o->learning_rate, .beta2 = 0.99, .weight_decay = o->weight_decay,
                 .clip_norm = o->clip,
                 .schedule = {
                     .kind = TN_COSINE, .warmup = o->warmup, .steps = o->steps, .end = 0.1});
    tn_training_step update = tn_minimise_step(loss, &adamw);
    tn_status status = tn_compile(
        &t->step, .graph = graph, .feeds = TN_NODES(pass.tokens, targets),
        .fetches = TN_NODES(loss, update.learning_rate, update.gradient_norm),
        .updates = update.updates);
    if (status == TN_OK)
        status = tn_compile(&t->test, .graph = graph, .feeds = TN_NODES(pass.tokens, targets),
                            .fetches = TN_NODES(loss));
    tn_graph_free(graph);
    return status;
}

/* ---- what the loop asks for ------------------------------------------------------------------------------ */

static tn_status next_batch(void *context, int64_t step, const void **feed)
{
    trainer *t = context;
    feed[0] = t->tokens;
    feed[1] = t->targets;
    return tn_corpus_batch(t->corpus, TN_CORPUS_TRAIN, t->o.seed, step, t->o.batch, t->o.length,
                           t->tokens, t->targets);
}

static double bits_per_byte(const trainer *t, double loss)
{
    double tokens = (double)tn_corpus_tokens(t->corpus, TN_CORPUS_HELD_OUT),
           bytes = (double)tn_corpus_bytes(t->corpus, TN_CORPUS_HELD_OUT);
    return loss / log(2) * tokens / bytes;
}

static tn_status measure_held_out(trainer *t, double *loss)
{
    *loss = 0;
    for (int i = 0; i < EVALUATION_BATCHES; i++) {
        float one;
        TN_TRY(tn_corpus_batch(t->corpus, TN_CORPUS_HELD_OUT, 1, i, t->o.batch, t->o.length,
                               t->tokens, t->targets));
        TN_TRY(tn_run(t->test, (const void *[]){t->tokens, t->targets}, (void *[]){&one}));
        *loss += (double)one / EVALUATION_BATCHES;
    }
    return TN_OK;
}

static void say(const trainer *t, const char *line)
{
    if (t->o.report) t->o.report(t->o.context, line);
}

/* A text from the present parameters, which a state of its own borrows. */
static tn_status sample_text(const trainer *t, char **text)
{
    *text = NULL;
    tn_state *borrowed = tn_state_create(0);
    tn_generator *generator = NULL;
    int32_t *ids = NULL;
    int64_t count = 0;
    tn_status status = borrowed ? TN_OK : TN_MEMORY;
    for (int i = 0; i < tn_state_count(t->state) && status == TN_OK; i++) {
        const tn_state_entry *entry = tn_state_at(t->state, i);
        if (entry->parameter)
            status = tn_state_borrow(borrowed, entry->name, entry->dtype, entry->shape,
                                     entry->data);
    }
    const char *prompt = t->o.prompt ? t->o.prompt : "The ";
    if (status == TN_OK)
        status = tn_tokenizer_encode(
            t->tokenizer, prompt, strlen(prompt),
            (tn_encode_options){.begin = tn_tokenizer_wants_begin(t->tokenizer)}, &ids, &count);
    int64_t capacity = count + SAMPLE_TOKENS;
    if (t->model.family == TN_INFER_GPT2 && capacity > t->model.context)
        capacity = t->model.context;
    if (status == TN_OK)
        status = tn_generator_create(
            &generator, borrowed, &t->model,
            (tn_generator_options){.compute = t->o.bf16 ? TN_BF16 : TN_F32, .context = capacity});
    int32_t *more = realloc(ids, (size_t)(capacity + 1) * sizeof *ids);
    if (more) ids = more;
    if (status == TN_OK && !more) status = tn_fail(TN_MEMORY, "out of memory for a sample");
    const float *logits = NULL;
    if (status == TN_OK) status = tn_generator_feed(generator, ids, count, &logits);
    while (status == TN_OK && count < capacity) {
        tn_sampling sampling = {.temperature = 0.8, .top_p = 0.95, .seed = t->o.seed};
        status = tn_sample(logits, t->model.vocabulary, &sampling, (uint64_t)count, NULL, 0,
                           &ids[count]);
        if (status != TN_OK || ids[count] == tn_tokenizer_end(t->tokenizer)) break;
        status = tn_generator_feed(generator, &ids[count++], 1, &logits);
    }
    size_t size;
    if (status == TN_OK) status = tn_tokenizer_decode_all(t->tokenizer, ids, count, text, &size);
    free(ids);
    tn_generator_free(generator);
    tn_state_free(borrowed);
    return status;
}

static tn_status evaluate(void *context, int64_t step, tn_metrics *metrics)
{
    trainer *t = context;
    char line[160];
    TN_TRY(measure_held_out(t, &t->held_out_loss));
    t->held_out_known = true;
    tn_metrics_add(metrics, "held_out_loss", t->held_out_loss);
    tn_metrics_add(metrics, "bits_per_byte", bits_per_byte(t, t->held_out_loss));
    snprintf(line, sizeof line, "step %lld: held-out loss %.4f (%.3f bits per byte)",
             (long long)step, t->held_out_loss, bits_per_byte(t, t->held_out_loss));
    say(t, line);
    if (step % t->o.sample_every == 0 || step == t->o.steps) {
        char *text;
        TN_TRY(sample_text(t, &text));
        say(t, text);
        free(text);
    }
    return TN_OK;
}

static tn_status after_step(void *context, const tn_training_event *event)
{
    trainer *t = context;
    (void)event;
    if (t->o.seconds <= 0 || tn_clock_seconds() - t->started < t->o.seconds) return TN_OK;
    t->out_of_time = true;
    return tn_fail(TN_INTERRUPTED, "the time is up");
}

/* ---- the whole ------------------------------------------------------------------------------------------------ */

static tn_status prepare(trainer *t)
{
    const tn_infer_train_options *o = &t->o;
    if (!o->config || !o->text)
        return tn_fail(TN_INVALID, "training needs a configuration and a text");
    TN_TRY(tn_infer_config_load(o->config, &t->model));
    TN_TRY(read_training(o->config, &t->o));
    TN_TRY(o->tokenizer ? tn_tokenizer_open(o->tokenizer, &t->tokenizer)
                        : tn_tokenizer_create_bytes(&t->tokenizer));
    if (tn_tokenizer_size(t->tokenizer) > t->model.vocabulary)
        return tn_fail(
            TN_INVALID,
            "%s: vocab_size is %lld, but the tokenizer has %d ids; make it at least that",
            o->config, (long long)t->model.vocabulary, tn_tokenizer_size(t->tokenizer));
    if (t->model.family == TN_INFER_GPT2 && o->length > t->model.context)
        return tn_fail(TN_INVALID, "%s: length %lld exceeds the %lld learned positions", o->config,
                       (long long)o->length, (long long)t->model.context);
    t->model.bos = tn_tokenizer_begin(t->tokenizer);
    t->model.eos = tn_tokenizer_end(t->tokenizer);
    TN_TRY(tn_corpus_open(
        o->text, t->tokenizer,
        (tn_corpus_options){.held_out = o->held_out, .least_tokens = o->length + 1}, &t->corpus));
    t->state = tn_state_create(o->seed);
    t->tokens = calloc((size_t)(o->batch * o->length), sizeof *t->tokens);
    t->targets = calloc((size_t)(o->batch * o->length), sizeof *t->targets);
    if (!t->state || !t->tokens || !t->targets)
        return tn_fail(TN_MEMORY, "out of memory for batches of %lld x %lld tokens",
                       (long long)o->batch, (long long)o->length);
    return compile_plans(t);
}

static bool already_begun(const char *run)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/metrics.jsonl", run);
    return tn_file_exists(path);
}

/* The model as a directory that `tenon infer generate --model` takes. */
static tn_status save_model(const trainer *t)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/model", t->o.run);
    TN_TRY(tn_make_directories(path));
    snprintf(path, sizeof path, "%s/model/config.json", t->o.run);
    TN_TRY(tn_infer_config_save(&t->model, path));
    snprintf(path, sizeof path, "%s/model/tokenizer.json", t->o.run);
    TN_TRY(tn_tokenizer_save(t->tokenizer, path));
    snprintf(path, sizeof path, "%s/model/model.safetensors", t->o.run);
    return tn_state_save(t->state, path, TN_STATE_MODEL);
}

tn_status tn_infer_train(const tn_infer_train_options *options, tn_infer_train_result *result)
{
    trainer t = {.options = options, .o = *options};
    *result = (tn_infer_train_result){0};
    tn_status status = prepare(&t);
    char *config = NULL;
    if (status == TN_OK && t.o.run && !t.o.resume && already_begun(t.o.run))
        status = tn_fail(
            TN_INVALID,
            "%s: a run was begun there; give --resume to go on with it, or another folder",
            t.o.run);
    if (status == TN_OK && !(config = describe(&t)))
        status = tn_fail(TN_MEMORY, "out of memory, or the path of the text is not UTF-8");
    if (status == TN_OK) {
        static const char *const metric[] = {"loss", "learning_rate", "gradient_norm"};
        t.started = tn_clock_seconds();
        tn_training training = {.state = t.state,
                                .plan = t.step,
                                .metric = metric,
                                .metric_count = 3,
                                .steps = t.o.steps,
                                .folder = t.o.run,
                                .config = config,
                                .batch = next_batch,
                                .feed_count = 2,
                                .evaluate = evaluate,
                                .evaluate_every = t.o.evaluate_every,
                                .after_step = after_step,
                                .context = &t,
                                .log_every = 10,
                                .checkpoint_every = t.o.checkpoint_every,
                                .items_per_step = (double)(t.o.batch * t.o.length),
                                .item = "token",
                                .title = "training",
                                .stop = t.o.stop};
        tn_training_result trained = {0};
        status = tn_train(&training, &trained);
        int64_t ran = trained.step - trained.first_step;
        result->steps = trained.step;
        result->loss = trained.loss;
        result->tokens = ran * t.o.batch * t.o.length;
        result->seconds = trained.seconds;
        result->tokens_per_second = trained.seconds > 0 ? (double)result->tokens / trained.seconds
                                                        : 0;
        if (status == TN_INTERRUPTED && t.out_of_time) status = TN_OK;
    }
    if (status == TN_OK) {
        result->parameters = tn_infer_parameter_count(&t.model);
        result->scratch_bytes = tn_plan_bytes(t.step);
        result->state_bytes = tn_plan_state_bytes(t.step);
        status = measure_held_out(&t, &result->held_out_loss);
        result->bits_per_byte = bits_per_byte(&t, result->held_out_loss);
        if (status == TN_OK && t.o.run) status = save_model(&t);
    }
    free(config);
    free(t.tokens);
    free(t.targets);
    tn_plan_free(t.step);
    tn_plan_free(t.test);
    tn_state_free(t.state);
    tn_corpus_free(t.corpus);
    tn_tokenizer_free(t.tokenizer);
    return status;
}
