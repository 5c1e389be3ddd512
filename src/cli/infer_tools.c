/* tenon infer score, tokenize, detokenize, inspect, convert. */
#include "cli/infer_tools.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/command.h"
#include "cli/table.h"
#include "tenon/infer.h"

typedef struct tool_options {
    const char *model, *tokenizer, *text, *file;
    int64_t tokens;
    tn_score_options score;
    bool json, per_token, no_begin, converts;
    const char *ids, *output;
} tool_options;

enum {
    KEY_TOKENIZER = 256,
    KEY_FILE,
    KEY_TOKENS,
    KEY_WINDOW,
    KEY_STRIDE,
    KEY_DTYPE,
    KEY_PER_TOKEN,
    KEY_NO_BEGIN,
    KEY_IDS,
    KEY_JSON
};

static error_t parse(int key, char *text, struct argp_state *state)
{
    tool_options *o = state->input;
    switch (key) {
    case 'm': o->model = text; break;
    case KEY_TOKENIZER: o->tokenizer = text; break;
    case 't': o->text = text; break;
    case KEY_FILE: o->file = text; break;
    case KEY_TOKENS: o->tokens = cli_integer(state, "--tokens", text, 2, INT64_C(1) << 40); break;
    case KEY_WINDOW: o->score.window = cli_integer(state, "--window", text, 1, 1 << 24); break;
    case KEY_STRIDE: o->score.stride = cli_integer(state, "--stride", text, 1, 1 << 24); break;
    case KEY_DTYPE:
        o->score.compute = !strcmp(text, "f32") ? TN_F32 : !strcmp(text, "bf16") ? TN_BF16 : TN_F16;
        if (o->score.compute == TN_F16 && (strcmp(text, "f16") || !o->converts))
            argp_error(state, "--dtype must be f32%s or bf16, not \"%s\"",
                       o->converts ? ", f16" : "", text);
        break;
    case KEY_PER_TOKEN: o->per_token = true; break;
    case KEY_NO_BEGIN: o->no_begin = true; break;
    case KEY_IDS: o->ids = text; break;
    case 'o': o->output = text; break;
    case KEY_JSON: o->json = true; break;
    case ARGP_KEY_ARG:
        argp_error(state, "no argument is expected, but \"%s\" is given", text);
        break;
    case ARGP_KEY_END:
        if (o->text && o->file) argp_error(state, "--text and --file exclude each other");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

#define TOKENIZER_ROW                                                                              \
    {                                                                                              \
        "tokenizer", KEY_TOKENIZER, "PATH", 0,                                                     \
            "Tokenizer: tokenizer.json, tokenizer.bin or .gguf (default: the model's own)", 0      \
    }
#define TEXT_ROWS                                                                                  \
    {"text", 't', "TEXT", 0, "The text", 0},                                                       \
    {                                                                                              \
        "file", KEY_FILE, "FILE", 0, "The same from a file (default: standard input)", 0           \
    }
#define JSON_ROW                                                                                   \
    {                                                                                              \
        "json", KEY_JSON, NULL, 0, "Print JSON", 0                                                 \
    }

enum { MOST_TEXT = 1 << 30 };

static tn_status read_text(const tool_options *o, char **text, size_t *size)
{
    *text = NULL;
    if (!o->text) return tn_file_read(o->file ? o->file : "/dev/stdin", MOST_TEXT, text, size);
    *size = strlen(o->text);
    *text = strdup(o->text);
    return *text ? TN_OK : tn_fail(TN_MEMORY, "out of memory for the text");
}

static tn_status open_tokenizer(const tool_options *o, tn_tokenizer **tokenizer)
{
    const char *path = o->tokenizer ? o->tokenizer : o->model;
    *tokenizer = NULL;
    if (!path) return tn_fail(TN_INVALID, "--tokenizer is missing");
    return tn_tokenizer_open(path, tokenizer);
}

/* ---- score ----------------------------------------------------------------------------------- */

typedef struct scoring {
    tn_weights *weights;
    tn_infer_config config;
    tn_state *state;
    tn_tokenizer *tokenizer;
    int32_t *ids;
    int64_t count;
    float *loss;
} scoring;

static void free_scoring(scoring *s)
{
    free(s->ids);
    free(s->loss);
    tn_tokenizer_free(s->tokenizer);
    tn_state_free(s->state);
    tn_weights_free(s->weights);
}

static tn_status load_scoring(scoring *s, const tool_options *o)
{
    char *text = NULL;
    size_t size = 0;
    if (!o->model) return tn_fail(TN_INVALID, "--model is missing");
    TN_TRY(tn_weights_open(o->model, &s->weights));
    TN_TRY(tn_infer_config_of(s->weights, &s->config));
    TN_TRY(open_tokenizer(o, &s->tokenizer));
    TN_TRY(read_text(o, &text, &size));
    tn_status status = tn_tokenizer_encode(
        s->tokenizer, text, size, (tn_encode_options){.begin = !o->no_begin}, &s->ids, &s->count);
    free(text);
    if (status != TN_OK) return status;
    if (o->tokens && o->tokens < s->count) s->count = o->tokens;
    s->loss = malloc((size_t)(s->count > 0 ? s->count : 1) * sizeof *s->loss);
    s->state = tn_state_create(0);
    if (!s->loss || !s->state) return tn_fail(TN_MEMORY, "out of memory for the scores");
    return tn_infer_load(s->state, &s->config, s->weights);
}

/* The bytes that the predicted tokens stand for. */
static size_t predicted_bytes(const scoring *s)
{
    size_t all = 0, size;
    const char *bytes;
    for (int64_t i = 1; i < s->count; i++)
        if (tn_tokenizer_decode(s->tokenizer, s->ids[i - 1], s->ids[i], &bytes, &size) == TN_OK)
            all += size;
    return all;
}

static void print_score(const scoring *s, const tool_options *o)
{
    double sum = 0;
    int64_t predicted = s->count - 1;
    for (int64_t i = 0; i < predicted; i++) sum += (double)s->loss[i];
    size_t bytes = predicted_bytes(s);
    double perplexity = exp(sum / (double)predicted),
           bits = bytes ? sum / log(2) / (double)bytes : NAN;
    if (!o->json) {
        printf("%lld tokens predicted, %zu bytes: negative log-likelihood %.6f, perplexity %.4f, "
               "%.4f bits per byte\n",
               (long long)predicted, bytes, sum, perplexity, bits);
        for (int64_t i = 0; i < predicted && o->per_token; i++) {
            size_t size;
            const char *piece = tn_tokenizer_piece(s->tokenizer, s->ids[i + 1], &size);
            printf("%lld\t%d\t%.6f\t%.*s\n", (long long)i + 1, s->ids[i + 1], (double)s->loss[i],
                   piece ? (int)size : 0, piece ? piece : "");
        }
        return;
    }
    json_t *all = json_pack("{s:I, s:I, s:f, s:f}", "tokens", (json_int_t)predicted, "bytes",
                            (json_int_t)bytes, "nll", sum, "perplexity", perplexity);
    json_object_set_new(all, "bits_per_byte", bytes ? json_real(bits) : json_null());
    if (o->per_token) {
        json_t *list = json_array();
        for (int64_t i = 0; i < predicted; i++)
            json_array_append_new(
                list, json_pack("{s:i, s:f}", "id", s->ids[i + 1], "nll", (double)s->loss[i]));
        json_object_set_new(all, "per_token", list);
    }
    json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    printf("\n");
    json_decref(all);
}

int cli_infer_score(int argc, char **argv)
{
    static const struct argp_option rows[] = {
        {"model", 'm', "PATH", 0, "Model: a directory, .gguf, llama2.c .bin", 0},
        TOKENIZER_ROW,
        TEXT_ROWS,
        {"tokens", KEY_TOKENS, "N", 0, "Only the first N tokens", 0},
        {"window", KEY_WINDOW, "N", 0, "Tokens that a pass sees (default: the model's context)", 0},
        {"stride", KEY_STRIDE, "N", 0, "Tokens that a later window adds (default: half a window)",
         0},
        {"dtype", KEY_DTYPE, "TYPE", 0, "Multiply in f32 (default) or bf16", 0},
        {"no-begin", KEY_NO_BEGIN, NULL, 0, "Do not put the beginning-of-text token first", 0},
        {"per-token", KEY_PER_TOKEN, NULL, 0, "Print every token with its loss", 0},
        JSON_ROW,
        {0}};
    static const struct argp parser = {
        rows,
        parse,
        NULL,
        "Tell how well a model predicts a text: perplexity and bits per byte.\v"
        "Examples:\n"
        "  tenon infer score --model run/model --file held-out.txt\n"
        "  tenon infer score --model stories260K.bin --tokenizer tok512.bin --file book.txt "
        "--tokens 256 --json\n",
        NULL,
        NULL,
        NULL};
    tool_options o = {0};
    cli_parse(&parser, argc, argv, &o);
    scoring s = {0};
    tn_status status = load_scoring(&s, &o);
    if (status == TN_OK)
        status = tn_infer_score(s.state, &s.config, s.ids, s.count, &o.score, s.loss);
    if (status == TN_OK) print_score(&s, &o);
    free_scoring(&s);
    return status == TN_OK ? CLI_OK : cli_fail();
}

/* ---- tokenize -------------------------------------------------------------------------------- */

static void print_tokens(const tn_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                         bool json)
{
    if (!json) {
        for (int64_t i = 0; i < count; i++) printf("%s%d", i ? " " : "", ids[i]);
        printf("\n");
        return;
    }
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++) {
        size_t size = 0;
        const char *piece = tn_tokenizer_piece(tokenizer, ids[i], &size);
        json_t *text = json_stringn(piece ? piece : "", size);
        json_array_append_new(
            list, json_pack("{s:i, s:o}", "id", ids[i], "piece", text ? text : json_null()));
    }
    json_dumpf(list, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(list);
}

int cli_infer_tokenize(int argc, char **argv)
{
    static const struct argp_option rows[] = {
        TOKENIZER_ROW,
        TEXT_ROWS,
        {"no-begin", KEY_NO_BEGIN, NULL, 0, "Do not put the beginning-of-text token first", 0},
        JSON_ROW,
        {0}};
    static const struct argp parser = {rows,
                                       parse,
                                       NULL,
                                       "Turn a text into token ids.\v"
                                       "Example:\n"
                                       "  tenon infer tokenize --tokenizer tok512.bin --text "
                                       "\"Once upon a time\"\n",
                                       NULL,
                                       NULL,
                                       NULL};
    tool_options o = {0};
    cli_parse(&parser, argc, argv, &o);
    tn_tokenizer *tokenizer;
    char *text = NULL;
    size_t size = 0;
    int32_t *ids = NULL;
    int64_t count = 0;
    tn_status status = open_tokenizer(&o, &tokenizer);
    if (status == TN_OK) status = read_text(&o, &text, &size);
    if (status == TN_OK)
        status = tn_tokenizer_encode(
            tokenizer, text, size,
            (tn_encode_options){.begin = !o.no_begin && tn_tokenizer_wants_begin(tokenizer)}, &ids,
            &count);
    if (status == TN_OK) print_tokens(tokenizer, ids, count, o.json);
    free(ids);
    free(text);
    tn_tokenizer_free(tokenizer);
    return status == TN_OK ? CLI_OK : cli_fail();
}

/* Ids from text, separated by anything but digits. */
static tn_status parse_ids(const char *text, int32_t limit, int32_t **ids, int64_t *count)
{
    size_t length = strlen(text);
    *count = 0;
    *ids = malloc((length / 2 + 1) * sizeof **ids);
    if (!*ids) return tn_fail(TN_MEMORY, "out of memory for the ids");
    for (const char *at = text; *at;) {
        if (*at == ' ' || *at == ',' || *at == '\n' || *at == '\t' || *at == '\r') {
            at++;
            continue;
        }
        char *end;
        long id = strtol(at, &end, 10);
        if (end == at || id < 0 || id >= limit || (*end && !strchr(" ,\n\t\r", *end)))
            return tn_fail(TN_INVALID,
                           "\"%.20s\" is not a token id; ids are whole numbers from 0 to %d", at,
                           limit - 1);
        (*ids)[(*count)++] = (int32_t)id;
        at = end;
    }
    return TN_OK;
}

int cli_infer_detokenize(int argc, char **argv)
{
    static const struct argp_option rows[] = {
        TOKENIZER_ROW,
        {"ids", KEY_IDS, "IDS", 0, "The ids, separated by spaces or commas", 0},
        {"file", KEY_FILE, "FILE", 0, "The same from a file (default: standard input)", 0},
        {0}};
    static const struct argp parser = {
        rows,
        parse,
        NULL,
        "Turn token ids into text.\v"
        "Example:\n"
        "  tenon infer detokenize --tokenizer tok512.bin --ids \"403 407 261 378\"\n",
        NULL,
        NULL,
        NULL};
    tool_options o = {0};
    cli_parse(&parser, argc, argv, &o);
    tn_tokenizer *tokenizer;
    char *given = NULL, *text = NULL;
    size_t size = 0;
    int32_t *ids = NULL;
    int64_t count = 0;
    o.text = o.ids;
    tn_status status = open_tokenizer(&o, &tokenizer);
    if (status == TN_OK) status = read_text(&o, &given, &size);
    if (status == TN_OK) status = parse_ids(given, tn_tokenizer_size(tokenizer), &ids, &count);
    if (status == TN_OK) status = tn_tokenizer_decode_all(tokenizer, ids, count, &text, &size);
    if (status == TN_OK) {
        fwrite(text, 1, size, stdout);
        printf("\n");
    }
    free(text);
    free(ids);
    free(given);
    tn_tokenizer_free(tokenizer);
    return status == TN_OK ? CLI_OK : cli_fail();
}

/* ---- inspect --------------------------------------------------------------------------------- */

static const char *coding_name(const tn_weight *w)
{
    return w->coding == TN_CODING_Q8_0   ? "q8_0"
           : w->coding == TN_CODING_Q4_0 ? "q4_0"
                                         : tn_dtype_name(w->dtype);
}

/* "[64, 172]", in the caller's memory. */
static const char *shape_text(tn_shape shape, char text[160])
{
    size_t used = (size_t)snprintf(text, 160, "[");
    for (int i = 0; i < shape.rank; i++)
        used += (size_t)snprintf(text + used, 160 - used, "%s%lld", i ? ", " : "",
                                 (long long)shape.dim[i]);
    snprintf(text + used, 160 - used, "]");
    return text;
}

static void inspect_text(const tn_weights *weights)
{
    double elements = 0, bytes = 0;
    cli_table t = {0};
    cli_table_add(&t, "tensor"), cli_table_add(&t, "type"), cli_table_add(&t, "shape");
    cli_table_add(&t, "bytes"), cli_table_end(&t);
    for (int i = 0; i < tn_weights_count(weights); i++) {
        const tn_weight *w = tn_weights_at(weights, i);
        cli_table_add(&t, "%s", w->name), cli_table_add(&t, "%s", coding_name(w));
        char shape[160];
        cli_table_add(&t, "%s", shape_text(w->shape, shape));
        cli_table_add(&t, "%zu", w->size), cli_table_end(&t);
        elements += (double)tn_shape_size(w->shape);
        bytes += (double)w->size;
    }
    cli_table_print(&t, stdout);
    cli_table_free(&t);
    printf("\n%s: %d tensors, %.0f elements, %.1f MB\n", tn_weights_format(weights),
           tn_weights_count(weights), elements, bytes / 1e6);
    const char *config = tn_weights_config(weights);
    if (config) printf("\n%s\n", config);
}

static void inspect_json(const tn_weights *weights)
{
    json_t *tensors = json_array(), *metadata = json_object();
    for (int i = 0; i < tn_weights_count(weights); i++) {
        const tn_weight *w = tn_weights_at(weights, i);
        json_t *shape = json_array();
        for (int d = 0; d < w->shape.rank; d++)
            json_array_append_new(shape, json_integer(w->shape.dim[d]));
        json_array_append_new(tensors, json_pack("{s:s, s:s, s:o, s:I}", "name", w->name, "type",
                                                 coding_name(w), "shape", shape, "bytes",
                                                 (json_int_t)w->size));
    }
    for (int i = 0; i < tn_weights_metadata_count(weights); i++) {
        const char *key, *value;
        tn_weights_metadata_at(weights, i, &key, &value);
        json_object_set_new(metadata, key, json_string(value));
    }
    const char *text = tn_weights_config(weights);
    json_t *config = text ? json_loads(text, 0, NULL) : NULL;
    json_t *all = json_pack("{s:s, s:o, s:o, s:o}", "format", tn_weights_format(weights), "tensors",
                            tensors, "metadata", metadata, "config", config ? config : json_null());
    json_dumpf(all, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(all);
}

int cli_infer_inspect(int argc, char **argv)
{
    static const struct argp_option rows[] = {
        {"model", 'm', "PATH", 0, "A directory, .safetensors, .gguf, llama2.c .bin or minGPT .json",
         0},
        JSON_ROW,
        {0}};
    static const struct argp parser = {rows,
                                       parse,
                                       NULL,
                                       "List a model's tensors and its configuration.\v"
                                       "Example:\n"
                                       "  tenon infer inspect --model stories260K.bin\n",
                                       NULL,
                                       NULL,
                                       NULL};
    tool_options o = {0};
    cli_parse(&parser, argc, argv, &o);
    tn_weights *weights = NULL;
    tn_status status = o.model ? tn_weights_open(o.model, &weights)
                               : tn_fail(TN_INVALID, "--model is missing");
    if (status != TN_OK) return cli_fail();
    if (o.json) inspect_json(weights);
    else inspect_text(weights);
    tn_weights_free(weights);
    return CLI_OK;
}

/* ---- convert --------------------------------------------------------------------------------- */

int cli_infer_convert(int argc, char **argv)
{
    static const struct argp_option rows[] = {
        {"model", 'm', "PATH", 0, "A directory, .safetensors, .gguf or llama2.c .bin", 0},
        TOKENIZER_ROW,
        {"output", 'o', "DIR", 0, "The new directory", 0},
        {"dtype", KEY_DTYPE, "TYPE", 0, "f32 (default), bf16 or f16", 0},
        {0}};
    static const struct argp parser = {
        rows,
        parse,
        NULL,
        "Write a model as config.json, model.safetensors and tokenizer.json.\v"
        "Example:\n"
        "  tenon infer convert --model stories260K.bin --tokenizer tok512.bin --output stories\n",
        NULL,
        NULL,
        NULL};
    tool_options o = {.converts = true};
    cli_parse(&parser, argc, argv, &o);
    tn_weights *weights = NULL;
    tn_tokenizer *tokenizer = NULL;
    tn_status status = !o.model    ? tn_fail(TN_INVALID, "--model is missing")
                       : !o.output ? tn_fail(TN_INVALID, "--output is missing")
                                   : tn_weights_open(o.model, &weights);
    if (status == TN_OK && o.tokenizer) status = tn_tokenizer_open(o.tokenizer, &tokenizer);
    /* a model without one of its own is converted without */
    if (status == TN_OK && !o.tokenizer && tn_tokenizer_open(o.model, &tokenizer) != TN_OK)
        tokenizer = NULL;
    if (status == TN_OK)
        status = tn_infer_convert(weights, tokenizer, o.score.compute ? o.score.compute : TN_F32,
                                  o.output);
    if (status == TN_OK)
        printf("%s: %d tensors%s\n", o.output, tn_weights_count(weights),
               tokenizer ? ", with a tokenizer" : "");
    tn_tokenizer_free(tokenizer);
    tn_weights_free(weights);
    return status == TN_OK ? CLI_OK : cli_fail();
}
