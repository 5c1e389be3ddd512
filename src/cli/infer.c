/* tenon infer: generate and train; planning is in infer_plan.c. */
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/string.h"
#include "cli/command.h"
#include "cli/infer_plan.h"
#include "cli/infer_tools.h"
#include "tenon/infer.h"

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

/* ---- generate --------------------------------------------------------------------------------------- */

typedef struct generate_options {
    const char *model, *tokenizer, *prompt, *prompt_file;
    tn_sampling sampling;
    int64_t tokens, context, samples;
    bool bf16, json, statistics, echo;
    const char *stop[16];
    int stop_count;
    int64_t logprobs; /* -1: none */
} generate_options;

enum {
    KEY_TOKENIZER = 256,
    KEY_PROMPT_FILE,
    KEY_TOP_K,
    KEY_TOP_P,
    KEY_MIN_P,
    KEY_REPETITION,
    KEY_SEED,
    KEY_CONTEXT,
    KEY_DTYPE,
    KEY_JSON,
    KEY_SAMPLES,
    KEY_STOP,
    KEY_ECHO,
    KEY_LOGPROBS,
    KEY_STATISTICS
};

static error_t parse_generate(int key, char *text, struct argp_state *state)
{
    generate_options *o = state->input;
    switch (key) {
    case 'm': o->model = text; break;
    case KEY_TOKENIZER: o->tokenizer = text; break;
    case 'p': o->prompt = text; break;
    case KEY_PROMPT_FILE: o->prompt_file = text; break;
    case 'n': o->tokens = cli_integer(state, "--tokens", text, 1, 1 << 24); break;
    case 't': o->sampling.temperature = cli_number(state, "--temperature", text, 0, 1e6); break;
    case KEY_TOP_K: o->sampling.top_k = cli_integer(state, "--top-k", text, 1, 1 << 30); break;
    case KEY_TOP_P:
        o->sampling.top_p = cli_number(state, "--top-p", text, 0, 1);
        if (o->sampling.top_p == 0) o->sampling.top_k = 1; /* the best one alone */
        break;
    case KEY_MIN_P: o->sampling.min_p = cli_number(state, "--min-p", text, 0, 1); break;
    case KEY_REPETITION:
        o->sampling.repetition = cli_number(state, "--repetition-penalty", text, 0.01, 100);
        break;
    case KEY_SEED:
        o->sampling.seed = (uint64_t)cli_integer(state, "--seed", text, 0, INT64_MAX);
        break;
    case KEY_STOP:
        if (!*text) argp_error(state, "--stop must not be empty");
        if (o->stop_count == sizeof o->stop / sizeof *o->stop)
            argp_error(state, "more than %zu times --stop", sizeof o->stop / sizeof *o->stop);
        o->stop[o->stop_count++] = text;
        break;
    case KEY_ECHO: o->echo = true; break;
    case KEY_LOGPROBS: o->logprobs = cli_integer(state, "--logprobs", text, 0, 100); break;
    case KEY_SAMPLES: o->samples = cli_integer(state, "--samples", text, 1, 1 << 20); break;
    case KEY_CONTEXT: o->context = cli_integer(state, "--context", text, 1, 1 << 24); break;
    case KEY_DTYPE:
        if (strcmp(text, "f32") && strcmp(text, "bf16"))
            argp_error(state, "--dtype must be f32 or bf16, not \"%s\"", text);
        o->bf16 = !strcmp(text, "bf16");
        break;
    case KEY_JSON: o->json = true; break;
    case KEY_STATISTICS: o->statistics = true; break;
    case ARGP_KEY_ARG:
        argp_error(state,
                   "no argument is expected, but \"%s\" is given; a prompt goes behind --prompt",
                   text);
        break;
    case ARGP_KEY_END:
        if (!o->model) argp_error(state, "--model is missing");
        if (o->prompt && o->prompt_file)
            argp_error(state, "--prompt and --prompt-file exclude each other");
        if (o->logprobs >= 0 && !o->json) argp_error(state, "--logprobs needs --json");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp_option generate_rows[] = {
    {"model", 'm', "PATH", 0,
     "Model: a directory (config.json, model.safetensors), .gguf, llama2.c .bin", 0},
    {"tokenizer", KEY_TOKENIZER, "PATH", 0,
     "Tokenizer: tokenizer.json, tokenizer.bin or .gguf (default: the model's own)", 0},
    {"prompt", 'p', "TEXT", 0, "Text to go on from (default: the beginning of a text)", 0},
    {"prompt-file", KEY_PROMPT_FILE, "FILE", 0, "The same from a file", 0},
    {"tokens", 'n', "N", 0, "Tokens in all, prompt included (default 256, at most the context)", 0},
    {"temperature", 't', "T", 0,
     "0: always the most likely token; 1: the model's own distribution (default 0.8)", 0},
    {"top-k", KEY_TOP_K, "K", 0, "Draw from the K most likely tokens only", 0},
    {"top-p", KEY_TOP_P, "P", 0,
     "Draw from the most likely tokens that hold probability P (default 0.95)", 0},
    {"min-p", KEY_MIN_P, "P", 0,
     "Draw only tokens with at least P times the best one's probability", 0},
    {"repetition-penalty", KEY_REPETITION, "R", 0, "Divide the logits of tokens seen before by R",
     0},
    {"seed", KEY_SEED, "N", 0,
     "Seed: a token depends on seed, sample and position alone (default 0)", 0},
    {"stop", KEY_STOP, "TEXT", 0, "End before this text; may stand several times", 0},
    {"echo", KEY_ECHO, NULL, 0, "Print the prompt too", 0},
    {"samples", KEY_SAMPLES, "N", 0, "So many texts (default 1)", 0},
    {"context", KEY_CONTEXT, "N", 0, "Cache positions (default: the model's)", 0},
    {"dtype", KEY_DTYPE, "TYPE", 0, "Multiply in f32 (default) or bf16", 0},
    {"json", KEY_JSON, NULL, 0, "Print one JSON object per sample", 0},
    {"logprobs", KEY_LOGPROBS, "K", 0,
     "With --json: each token's log-probability, and the K most likely ones", 0},
    {"statistics", KEY_STATISTICS, NULL, 0, "Print speed and memory to stderr", 0},
    {0},
};

static const struct argp generate_parser = {
    generate_rows,
    parse_generate,
    NULL,
    "Generate text from a language model.\v"
    "Examples:\n"
    "  tenon infer generate --model stories260K.bin --tokenizer tok512.bin --temperature 0\n"
    "  tenon infer generate --model run/model --prompt \"The tree\" --echo --stop \".\" --seed 7\n",
    NULL,
    NULL,
    NULL};

typedef struct session {
    tn_weights *weights;
    tn_infer_config config;
    tn_state *state;
    tn_tokenizer *tokenizer;
    tn_generator *generator;
} session;

static void close_session(session *s)
{
    tn_generator_free(s->generator);
    tn_tokenizer_free(s->tokenizer);
    tn_state_free(s->state);
    tn_weights_free(s->weights);
}

static tn_status open_session(session *s, const generate_options *o)
{
    tn_status status = tn_weights_open(o->model, &s->weights);
    if (status == TN_OK) status = tn_infer_config_of(s->weights, &s->config);
    if (status == TN_OK && !(s->state = tn_state_create(0))) status = TN_MEMORY;
    if (status == TN_OK) status = tn_infer_load(s->state, &s->config, s->weights);
    if (status == TN_OK)
        status = tn_tokenizer_open(o->tokenizer ? o->tokenizer : o->model, &s->tokenizer);
    if (status == TN_OK)
        status = tn_generator_create(
            &s->generator, s->state, &s->config,
            (tn_generator_options){.compute = o->bf16 ? TN_BF16 : TN_F32, .context = o->context});
    return status;
}

static tn_status encode_prompt(const session *s, const generate_options *o, int32_t **ids,
                               int64_t *count)
{
    char *from_file = NULL;
    size_t size = o->prompt ? strlen(o->prompt) : 0;
    const char *text = o->prompt;
    if (o->prompt_file) {
        tn_status status = tn_file_read(o->prompt_file, 64u << 20, &from_file, &size);
        if (status != TN_OK) return status;
        text = from_file;
    }
    bool begin = !text || tn_tokenizer_wants_begin(s->tokenizer);
    tn_status status = tn_tokenizer_encode(s->tokenizer, text ? text : "", size,
                                           (tn_encode_options){.begin = begin}, ids, count);
    free(from_file);
    return status;
}

/* A model says that a text is over by its end token, or (llama2.c) by beginning another one. */
static bool ends_text(const session *s, int32_t token)
{
    return token >= 0 &&
           (token == tn_tokenizer_end(s->tokenizer) || token == tn_tokenizer_begin(s->tokenizer));
}

/* ---- printing while it comes: whole characters, and nothing that may become a stop text ------- */

typedef struct stream {
    tn_string text; /* generated, or with the prompt */
    size_t printed;
    bool stopped;
} stream;

/* Bytes at the end of a text that are the beginning of an unfinished UTF-8 character. */
static size_t unfinished(const char *text, size_t length)
{
    for (size_t back = 1; back <= 3 && back <= length; back++) {
        unsigned char c = (unsigned char)text[length - back];
        if ((c & 0xc0) == 0x80) continue;
        size_t needed = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        return needed > back ? back : 0;
    }
    return 0;
}

/* How much may be printed; *found: a stop text begins there. */
static size_t printable(const char *text, size_t length, const generate_options *o, bool *found)
{
    size_t safe = length - unfinished(text, length);
    *found = false;
    for (int i = 0; i < o->stop_count; i++) {
        size_t stop = strlen(o->stop[i]);
        const char *at = length >= stop ? memmem(text, length, o->stop[i], stop) : NULL;
        if (at && (!*found || (size_t)(at - text) < safe))
            safe = (size_t)(at - text), *found = true;
    }
    for (int i = 0; i < o->stop_count && !*found; i++) {
        size_t most = strlen(o->stop[i]) - 1;
        for (size_t part = most < length ? most : length; part > 0; part--)
            if (!memcmp(text + length - part, o->stop[i], part)) {
                if (length - part < safe) safe = length - part;
                break;
            }
    }
    return safe;
}

static void print_to(stream *out, size_t end)
{
    if (end <= out->printed) return;
    fwrite(tn_string_text(&out->text) + out->printed, 1, end - out->printed, stdout);
    fflush(stdout);
    out->printed = end;
}

static void emit(const session *s, const generate_options *o, stream *out, int32_t previous,
                 int32_t token)
{
    const char *bytes;
    size_t size;
    if (tn_tokenizer_decode(s->tokenizer, previous, token, &bytes, &size) != TN_OK) return;
    tn_string_add_bytes(&out->text, bytes, size);
    size_t end = printable(tn_string_text(&out->text), out->text.length, o, &out->stopped);
    if (out->stopped) { /* what comes behind is forgotten */
        out->text.text[end] = 0;
        out->text.length = end;
    }
    if (!o->json) print_to(out, end);
}

/* The log-probability of `token` among natural logits, before any sampling option, and of the k most
 * likely tokens. */
static json_t *log_probabilities(const float *logits, int64_t vocabulary, int32_t token, int64_t k)
{
    double top = -INFINITY, sum = 0;
    int32_t best[100];
    int64_t count = 0;
    if (k > vocabulary) k = vocabulary;
    for (int64_t i = 0; i < vocabulary; i++) top = fmax(top, (double)logits[i]);
    for (int64_t i = 0; i < vocabulary; i++) {
        sum += exp((double)logits[i] - top);
        if (count == k && (k == 0 || !(logits[i] > logits[best[count - 1]]))) continue;
        int64_t at = count < k ? count++ : count - 1; /* insert, best first */
        for (; at > 0 && logits[i] > logits[best[at - 1]]; at--) best[at] = best[at - 1];
        best[at] = (int32_t)i;
    }
    double all = top + log(sum);
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++)
        json_array_append_new(
            list, json_pack("{s:i, s:f}", "id", best[i], "logprob", (double)logits[best[i]] - all));
    return json_pack("{s:i, s:f, s:o}", "id", token, "logprob", (double)logits[token] - all, "top",
                     list);
}

static void print_json(const stream *out, json_t *logprobs, const int32_t *ids, int64_t count,
                       int64_t prompt, double prompt_seconds, double seconds)
{
    json_t *list = json_array(),
           *string = json_stringn(tn_string_text(&out->text), out->text.length);
    for (int64_t i = 0; i < count; i++) json_array_append_new(list, json_integer(ids[i]));
    /* Bytes that are not UTF-8 cannot stand in JSON; the ids always can. */
    json_t *all = json_pack("{s:o, s:o, s:I, s:I, s:f, s:f}", "text", string ? string : json_null(),
                            "ids", list, "prompt_tokens", (json_int_t)prompt, "tokens",
                            (json_int_t)count, "prompt_seconds", prompt_seconds, "seconds",
                            seconds);
    if (logprobs) json_object_set(all, "logprobs", logprobs);
    char *line = json_dumps(all, JSON_COMPACT);
    if (line) puts(line);
    free(line);
    json_decref(all);
}

static tn_status generate_one(session *s, const generate_options *o, const int32_t *prompt,
                              int64_t prompt_count)
{
    int64_t capacity = o->context ? o->context : s->config.context,
            wanted = o->tokens ? o->tokens : 256, count = prompt_count;
    if (wanted > capacity) wanted = capacity;
    int64_t room = (wanted > prompt_count ? wanted : prompt_count) + 1;
    int32_t *ids = malloc((size_t)room * sizeof *ids);
    if (!ids) {
        fprintf(stderr, "tenon: out of memory for %lld tokens\n", (long long)room);
        return TN_MEMORY;
    }
    memcpy(ids, prompt, (size_t)prompt_count * sizeof *ids);
    stream out = {0};
    generate_options plain = *o; /* the prompt may hold a stop text */
    plain.stop_count = 0;
    for (int64_t i = 0; i < prompt_count && o->echo; i++)
        emit(s, &plain, &out, i ? ids[i - 1] : -1, ids[i]);
    const float *logits;
    json_t *logprobs = o->logprobs >= 0 ? json_array() : NULL;
    double start = tn_clock_seconds(), prompt_done = start;
    tn_generator_reset(s->generator);
    tn_status status = tn_generator_feed(s->generator, ids, count, &logits);
    prompt_done = tn_clock_seconds();
    while (status == TN_OK && count <= wanted && !interrupted) {
        int32_t next;
        status = tn_sample(logits, s->config.vocabulary, &o->sampling, (uint64_t)count, ids, count,
                           &next);
        if (status != TN_OK || ends_text(s, next)) break;
        ids[count++] = next;
        if (logprobs)
            json_array_append_new(
                logprobs, log_probabilities(logits, s->config.vocabulary, next, o->logprobs));
        emit(s, o, &out, ids[count - 2], next);
        if (out.stopped) break;
        if (count > wanted || tn_generator_position(s->generator) == capacity) break;
        status = tn_generator_feed(s->generator, &next, 1, &logits);
    }
    double end = tn_clock_seconds();
    if (o->json && status == TN_OK)
        print_json(&out, logprobs, ids, count, prompt_count, prompt_done - start, end - start);
    json_decref(logprobs);
    if (!o->json && (status == TN_OK || out.printed)) {
        print_to(&out, out.text.length); /* what was held back and came to nothing */
        printf("\n");
    }
    if (o->statistics)
        fprintf(stderr,
                "prompt %lld tokens in %.3f s; %lld tokens in %.3f s, %.1f a second; scratch and "
                "cache %.1f MB\n",
                (long long)prompt_count, prompt_done - start, (long long)(count - prompt_count),
                end - prompt_done, (double)(count - prompt_count) / (end - prompt_done),
                (double)tn_generator_bytes(s->generator) / 1e6);
    tn_string_free(&out.text);
    free(ids);
    return status;
}

static int run_generate(int argc, char **argv)
{
    generate_options o = {
        .sampling = {.temperature = 0.8, .top_p = 0.95}, .samples = 1, .logprobs = -1};
    cli_parse(&generate_parser, argc, argv, &o);
    signal(SIGINT, on_signal);
    session s = {0};
    int32_t *ids = NULL;
    int64_t count = 0;
    tn_status status = open_session(&s, &o);
    if (status == TN_OK) status = encode_prompt(&s, &o, &ids, &count);
    for (int64_t i = 0; i < o.samples && status == TN_OK && !interrupted; i++) {
        o.sampling.sample = (uint64_t)i;
        status = generate_one(&s, &o, ids, count);
    }
    free(ids);
    close_session(&s);
    return status == TN_OK ? CLI_OK : cli_fail();
}

/* ---- train --------------------------------------------------------------------------------------------- */

typedef struct train_options {
    tn_infer_train_options train;
    bool json;
} train_options;

enum {
    KEY_RUN = 300,
    KEY_BATCH,
    KEY_LENGTH,
    KEY_STEPS,
    KEY_RATE,
    KEY_WARMUP,
    KEY_DECAY,
    KEY_CLIP,
    KEY_HELD_OUT,
    KEY_EVALUATE,
    KEY_CHECKPOINT,
    KEY_SAMPLE,
    KEY_RESUME,
    KEY_SECONDS
};

static error_t parse_train(int key, char *text, struct argp_state *state)
{
    train_options *all = state->input;
    tn_infer_train_options *o = &all->train;
    switch (key) {
    case 'c': o->config = text; break;
    case 'x': o->text = text; break;
    case KEY_RUN: o->run = text; break;
    case KEY_TOKENIZER: o->tokenizer = text; break;
    case KEY_BATCH: o->batch = cli_integer(state, "--batch", text, 1, 1 << 20); break;
    case KEY_LENGTH: o->length = cli_integer(state, "--length", text, 1, 1 << 20); break;
    case KEY_STEPS: o->steps = cli_integer(state, "--steps", text, 1, INT64_C(1) << 40); break;
    case KEY_RATE: o->learning_rate = cli_number(state, "--learning-rate", text, 0, 1e3); break;
    case KEY_WARMUP: o->warmup = cli_integer(state, "--warmup", text, 1, INT64_C(1) << 40); break;
    case KEY_DECAY: o->weight_decay = cli_number(state, "--weight-decay", text, 0, 10); break;
    case KEY_CLIP: o->clip = cli_number(state, "--clip", text, 0, 1e6); break;
    case KEY_HELD_OUT: o->held_out = cli_number(state, "--held-out", text, 0.0001, 0.9); break;
    case KEY_EVALUATE:
        o->evaluate_every = cli_integer(state, "--evaluate-every", text, 1, INT64_C(1) << 40);
        break;
    case KEY_CHECKPOINT:
        o->checkpoint_every = cli_integer(state, "--checkpoint-every", text, 1, INT64_C(1) << 40);
        break;
    case KEY_SAMPLE:
        o->sample_every = cli_integer(state, "--sample-every", text, 1, INT64_C(1) << 40);
        break;
    case 'p': o->prompt = text; break;
    case KEY_DTYPE:
        if (strcmp(text, "f32") && strcmp(text, "bf16"))
            argp_error(state, "--dtype must be f32 or bf16, not \"%s\"", text);
        o->bf16 = !strcmp(text, "bf16");
        break;
    case KEY_SEED: o->seed = (uint64_t)cli_integer(state, "--seed", text, 0, INT64_MAX); break;
    case KEY_RESUME: o->resume = true; break;
    case KEY_SECONDS: o->seconds = cli_number(state, "--seconds", text, 0, INFINITY); break;
    case KEY_JSON: all->json = true; break;
    case ARGP_KEY_ARG:
        argp_error(state, "no argument is expected, but \"%s\" is given", text);
        break;
    case ARGP_KEY_END:
        if (!o->config) argp_error(state, "--config is missing");
        if (!o->text) argp_error(state, "--text is missing");
        if (!o->run) argp_error(state, "--run is missing");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp_option train_rows[] = {
    {"config", 'c', "FILE", 0,
     "Model sizes as JSON (as config.json), and under \"training\" any option below", 0},
    {"text", 'x', "PATH", 0, "Text to learn: a file, or a directory of files", 0},
    {"run", KEY_RUN, "DIR", 0, "Run folder: config.json, metrics.jsonl, checkpoint/, model/", 0},
    {"resume", KEY_RESUME, NULL, 0,
     "Go on with the run that stands there, to the same bits as without the interruption", 0},
    {"tokenizer", KEY_TOKENIZER, "PATH", 0, "Tokenizer (default: bytes)", 0},
    {"steps", KEY_STEPS, "N", 0, "Steps in all (default 1000)", 0},
    {"seconds", KEY_SECONDS, "S", 0, "Stop after so many seconds", 0},
    {"batch", KEY_BATCH, "N", 0, "Sequences a step (default 8)", 0},
    {"length", KEY_LENGTH, "N", 0, "Tokens a sequence (default 128)", 0},
    {"learning-rate", KEY_RATE, "R", 0,
     "Highest learning rate (default 0.003; linear warm-up, then cosine to a tenth)", 0},
    {"warmup", KEY_WARMUP, "N", 0, "Steps of warm-up (default: a twentieth of all)", 0},
    {"weight-decay", KEY_DECAY, "W", 0, "AdamW's decay of matrices (default 0.1)", 0},
    {"clip", KEY_CLIP, "N", 0, "Largest joint norm of the gradients (default 1)", 0},
    {"held-out", KEY_HELD_OUT, "F", 0,
     "Fraction of the text that is kept for evaluation (default 0.05)", 0},
    {"evaluate-every", KEY_EVALUATE, "N", 0, "Steps between evaluations (default: a tenth of all)",
     0},
    {"checkpoint-every", KEY_CHECKPOINT, "N", 0,
     "Steps between checkpoints (default: as evaluations)", 0},
    {"sample-every", KEY_SAMPLE, "N", 0, "Steps between sample texts (default: as evaluations)", 0},
    {"prompt", 'p', "TEXT", 0, "Beginning of the samples (default \"The \")", 0},
    {"dtype", KEY_DTYPE, "TYPE", 0, "Multiply in f32 (default) or bf16; parameters stay f32", 0},
    {"seed", KEY_SEED, "N", 0, "Seed of parameters and batches (default 0)", 0},
    {"json", KEY_JSON, NULL, 0, "Print the result as one JSON object", 0},
    {0},
};

static const struct argp train_parser = {
    train_rows,
    parse_train,
    NULL,
    "Train a transformer language model from a text.\v"
    "Examples:\n"
    "  tenon infer train --config examples/palm-small.json --text book.txt --run runs/book\n"
    "  tenon infer train --config examples/palm-small.json --text book.txt --run runs/book "
    "--resume\n"
    "  tenon infer generate --model runs/book/model --prompt \"It was \"\n",
    NULL,
    NULL,
    NULL};

static void print_line(void *context, const char *line)
{
    FILE *out = context;
    fprintf(out, "%s\n", line);
    fflush(out);
}

static int run_train(int argc, char **argv)
{
    train_options o = {0};
    cli_parse(&train_parser, argc, argv, &o);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    o.train.stop = &interrupted;
    o.train.report = print_line;
    o.train.context = o.json ? stderr : stdout;
    tn_infer_train_result r;
    tn_status status = tn_infer_train(&o.train, &r);
    if (status == TN_INTERRUPTED) {
        fprintf(stderr, "tenon: stopped at step %lld; go on with --resume\n", (long long)r.steps);
        return CLI_FAILED;
    }
    if (status != TN_OK) return cli_fail();
    if (o.json)
        printf("{\"steps\": %lld, \"parameters\": %lld, \"loss\": %.6f, \"held_out_loss\": %.6f, "
               "\"bits_per_byte\": %.6f, \"seconds\": %.3f, "
               "\"tokens_per_second\": %.1f, \"scratch_bytes\": %zu, \"state_bytes\": %zu}\n",
               (long long)r.steps, (long long)r.parameters, isnan(r.loss) ? 0 : r.loss,
               r.held_out_loss, r.bits_per_byte, r.seconds, r.tokens_per_second, r.scratch_bytes,
               r.state_bytes);
    else
        printf("%lld parameters, %lld steps: held-out loss %.4f, %.3f bits per byte; %.1f s here, "
               "%.0f tokens a second; %.1f MB scratch, %.1f MB state\n",
               (long long)r.parameters, (long long)r.steps, r.held_out_loss, r.bits_per_byte,
               r.seconds, r.tokens_per_second, (double)r.scratch_bytes / 1e6,
               (double)r.state_bytes / 1e6);
    return CLI_OK;
}

const cli_command cli_infer_verbs[] = {
    {"generate", "generate text from a language model", .run = run_generate},
    {"train", "train a language model from a text", .run = run_train},
    {"score", "tell how well a model predicts a text", .run = cli_infer_score},
    {"tokenize", "turn a text into token ids", .run = cli_infer_tokenize},
    {"detokenize", "turn token ids into text", .run = cli_infer_detokenize},
    {"inspect", "list a model's tensors and configuration", .run = cli_infer_inspect},
    {"convert", "write a model in the Hugging Face layout", .run = cli_infer_convert},
    {"plan", "choose how to cut a model over chips", .run = cli_infer_plan},
    {"explain", "every term of a plan's sum", .run = cli_infer_explain},
    {"sweep", "plan over chip counts, batches and weight types", .run = cli_infer_sweep},
    {"calibrate", "fit a hardware profile to measured steps", .run = cli_infer_calibrate},
    {"evaluate", "the paper's tables beside the planner's", .run = cli_infer_evaluate},
    {.name = NULL},
};
