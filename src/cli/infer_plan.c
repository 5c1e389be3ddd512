/* tenon infer plan, explain, sweep, calibrate: which way to cut a model over chips. */
#include "cli/infer_plan.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/command.h"

/* ---- options --------------------------------------------------------------------------------- */

enum { MOST_LIST = 64 };

typedef struct number_list {
    int64_t value[MOST_LIST];
    int count;
} number_list;

typedef struct plan_options {
    const char *model_name, *hardware_name, *report, *csv, *output, *points;
    tn_partition_model model;
    tn_partition_hardware hardware;
    tn_partition_job job;
    number_list chips, batch;
    int64_t mesh[3], context, tokens;
    bool has_mesh, prefill, json, all, crossover, max_context, has_ff, has_attention, raw;
    bool both_weights; /* sweep: bf16 and int8 */
    tn_partition_ff ff;
    tn_partition_attention attention;
    double kv_fraction;
} plan_options;

enum {
    KEY_HARDWARE = 256,
    KEY_CHIPS,
    KEY_MESH,
    KEY_PHASE,
    KEY_TOKENS,
    KEY_CONTEXT,
    KEY_WEIGHTS,
    KEY_ACTIVATIONS,
    KEY_CACHE,
    KEY_VOLUMES,
    KEY_LINKS,
    KEY_PART,
    KEY_LAYOUT,
    KEY_ATTENTION,
    KEY_ALL,
    KEY_CROSSOVER,
    KEY_MAX_CONTEXT,
    KEY_JSON,
    KEY_CSV,
    KEY_REPORT,
    KEY_POINTS,
    KEY_RAW
};

static int choice(const struct argp_state *state, const char *option, const char *text,
                  const char *(*name)(int), int count)
{
    char list[256] = "";
    size_t used = 0;
    for (int i = 0; i < count; i++) {
        if (!strcmp(text, name(i))) return i;
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", name(i));
    }
    argp_error(state, "%s must be one of %s, not \"%s\"", option, list, text);
    return 0;
}

static const char *phase_name(int i) { return i ? "prefill" : "decode"; }
static const char *dtype_name(int i) { return i ? "int8" : "bf16"; }
static const char *weights_name(int i) { return i == 2 ? "both" : dtype_name(i); }
static const char *volumes_name(int i) { return i ? "paper" : "exact"; }
static const char *links_name(int i) { return i ? "axis" : "flat"; }
static const char *part_name(int i) { return i ? "ff" : "block"; }
/* "8", "1,2,4" or "1..256" (doubling). */
static void parse_list(const struct argp_state *state, const char *option, char *text,
                       number_list *list)
{
    char *range = strstr(text, "..");
    list->count = 0;
    if (range) {
        *range = 0;
        long long last = cli_integer(state, option, range + 2, 1, 1 << 24);
        for (long long x = cli_integer(state, option, text, 1, 1 << 24); x <= last; x *= 2)
            list->value[list->count++] = x; /* at most 25 */
        return;
    }
    for (char *next, *at = text; at; at = next) {
        next = strchr(at, ',');
        if (next) *next++ = 0;
        if (list->count == MOST_LIST)
            argp_error(state, "%s: more than %d numbers", option, MOST_LIST);
        list->value[list->count++] = cli_integer(state, option, at, 1, 1 << 24);
    }
}

static void parse_mesh(const struct argp_state *state, const char *text, int64_t mesh[3])
{
    long long x, y, z;
    char behind;
    if (sscanf(text, "%lldx%lldx%lld%c", &x, &y, &z, &behind) != 3 || x < 1 || y < 1 || z < 1 ||
        x > 65536 || y > 65536 || z > 65536)
        argp_error(state, "--mesh must be three sizes from 1, as 4x4x4, not \"%s\"", text);
    mesh[0] = x, mesh[1] = y, mesh[2] = z;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    plan_options *o = state->input;
    switch (key) {
    case 'm': o->model_name = text; break;
    case KEY_HARDWARE: o->hardware_name = text; break;
    case KEY_CHIPS: parse_list(state, "--chips", text, &o->chips); break;
    case KEY_MESH:
        parse_mesh(state, text, o->mesh);
        o->has_mesh = true;
        break;
    case KEY_PHASE: o->prefill = choice(state, "--phase", text, phase_name, 2); break;
    case 'b': parse_list(state, "--batch", text, &o->batch); break;
    case KEY_TOKENS: o->tokens = cli_integer(state, "--tokens", text, 1, 1 << 24); break;
    case KEY_CONTEXT: o->context = cli_integer(state, "--context", text, 1, 1 << 30); break;
    case KEY_WEIGHTS: {
        int type = choice(state, "--weights", text, weights_name, 3);
        o->job.weight_bytes = type == 1 ? 1 : 2;
        o->both_weights = type == 2;
        break;
    }
    case KEY_ACTIVATIONS:
        o->job.activation_bytes = choice(state, "--activations", text, dtype_name, 2) ? 1 : 2;
        break;
    case KEY_CACHE:
        o->job.cache_bytes = choice(state, "--cache", text, dtype_name, 2) ? 1 : 2;
        break;
    case KEY_VOLUMES:
        o->job.paper_volumes = choice(state, "--volumes", text, volumes_name, 2);
        break;
    case KEY_LINKS: o->job.axis_links = choice(state, "--links", text, links_name, 2); break;
    case KEY_PART: o->job.ff_only = choice(state, "--part", text, part_name, 2); break;
    case KEY_LAYOUT:
        o->ff = (tn_partition_ff)choice(state, "--layout", text, plan_ff_name, TN_PARTITION_FFS);
        o->has_ff = true;
        break;
    case KEY_ATTENTION:
        o->attention = (tn_partition_attention)choice(state, "--attention", text,
                                                      plan_attention_name, TN_PARTITION_ATTENTIONS);
        o->has_attention = true;
        break;
    case KEY_ALL: o->all = true; break;
    case KEY_CROSSOVER: o->crossover = true; break;
    case KEY_MAX_CONTEXT:
        o->max_context = true;
        o->kv_fraction = cli_number(state, "--max-context", text, 0.0001, 1);
        break;
    case KEY_RAW: o->raw = true; break;
    case KEY_JSON: o->json = true; break;
    case KEY_CSV: o->csv = text; break;
    case KEY_REPORT: o->report = text; break;
    case KEY_POINTS: o->points = text; break;
    case 'o': o->output = text; break;
    case ARGP_KEY_ARG:
        argp_error(state, "no argument is expected, but \"%s\" is given", text);
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

#define MODEL_ROW                                                                                  \
    {                                                                                              \
        "model", 'm', "NAME", 0,                                                                   \
            "palm-8b, palm-62b, palm-540b, mt-nlg-530b, a config.json or a model directory", 0     \
    }
#define HARDWARE_ROW                                                                               \
    {                                                                                              \
        "hardware", KEY_HARDWARE, "NAME", 0,                                                       \
            "tpu-v4 (default), a100-80g, h100, h200, or a JSON file (tenon infer calibrate)", 0    \
    }
#define CHIPS_ROW                                                                                  \
    {                                                                                              \
        "chips", KEY_CHIPS, "N", 0, "Number of chips (default 64)", 0                              \
    }
#define MESH_ROW                                                                                   \
    {                                                                                              \
        "mesh", KEY_MESH, "XxYxZ", 0, "This arrangement only (default: every factorisation)", 0    \
    }
#define JOB_ROWS                                                                                   \
    {"phase", KEY_PHASE, "PHASE", 0, "decode (default): one step; prefill: a whole prompt", 0},    \
        {"batch", 'b', "N", 0, "Sequences (default 64)", 0},                                       \
        {"tokens", KEY_TOKENS, "N", 0, "Tokens of a prompt (prefill; default 2048)", 0},           \
        {"context", KEY_CONTEXT, "N", 0, "Positions in the cache (default 2048)", 0},              \
        {"weights", KEY_WEIGHTS, "TYPE", 0, "bf16 (default) or int8", 0},                          \
        {"activations", KEY_ACTIVATIONS, "TYPE", 0, "bf16 (default) or int8", 0},                  \
        {"cache", KEY_CACHE, "TYPE", 0, "bf16 (default) or int8", 0},                              \
        {"volumes", KEY_VOLUMES, "WHICH", 0, "exact (default), or the paper's approximations", 0}, \
    {                                                                                              \
        "links", KEY_LINKS, "WHICH", 0,                                                            \
            "flat (default): bytes over all links; axis: over those of its axes, hops take time",  \
            0                                                                                      \
    }
#define RAW_ROW                                                                                    \
    {                                                                                              \
        "raw", KEY_RAW, NULL, 0, "The datasheet's roofline, without the profile's constants", 0    \
    }
#define JSON_ROW                                                                                   \
    {                                                                                              \
        "json", KEY_JSON, NULL, 0, "Print JSON", 0                                                 \
    }

static tn_status finish_options(plan_options *o)
{
    if (!o->hardware_name) o->hardware_name = "tpu-v4";
    if (!o->chips.count) o->chips = (number_list){{64}, 1};
    if (!o->batch.count) o->batch = (number_list){{64}, 1};
    if (o->has_mesh) o->chips = (number_list){{o->mesh[0] * o->mesh[1] * o->mesh[2]}, 1};
    if (!o->context) o->context = o->prefill && o->tokens ? o->tokens : 2048;
    if (!o->tokens) o->tokens = o->context < 2048 ? o->context : 2048;
    o->job.batch = o->batch.value[0];
    o->job.tokens = o->prefill ? o->tokens : 1;
    o->job.context = o->context;
    if (!o->model_name) return tn_fail(TN_INVALID, "--model is missing");
    if (o->prefill && o->tokens > o->context)
        return tn_fail(TN_INVALID, "--tokens is %lld, but --context only %lld",
                       (long long)o->tokens, (long long)o->context);
    TN_TRY(tn_partition_model_load(o->model_name, &o->model));
    TN_TRY(tn_partition_hardware_load(o->hardware_name, &o->hardware));
    if (o->raw) o->hardware.constants = (tn_partition_constants){1, 1, 1, 0};
    return TN_OK;
}

/* ---- plan ------------------------------------------------------------------------------------ */

json_t *plan_estimate_json(const tn_partition_estimate *e)
{
    json_t *volume = json_object(), *bytes = json_object();
    for (int term = 0; term < TN_PARTITION_TERMS; term++) {
        const char *name = tn_partition_term_name((tn_partition_term)term);
        if (!e->volume[term]) continue;
        json_object_set_new(volume, name, json_real(e->volume[term]));
        json_object_set_new(bytes, name, json_real(e->bytes[term]));
    }
    char mesh[64];
    snprintf(mesh, sizeof mesh, "%lldx%lldx%lld", (long long)e->layout.mesh[0],
             (long long)e->layout.mesh[1], (long long)e->layout.mesh[2]);
    bool gathered = e->layout.ff >= TN_WG_X;
    return json_pack(
        "{s:s, s:s, s:s, s:b, s:s, s:o, s:o, s:{s:f, s:f, s:f, s:f, s:f, s:f, s:f}, s:f, s:f, "
        "s:{s:f, s:f, s:f, s:f, s:f}}",
        "feedforward", tn_partition_ff_name(e->layout.ff), "attention",
        gathered ? "batch" : tn_partition_attention_name(e->layout.attention), "mesh", mesh, "fits",
        (int)e->fits, "reason", e->reason, "volume", volume, "bytes", bytes, "time_s", "compute",
        e->compute, "attention", e->attention, "weights", e->weights, "kv", e->kv, "communication",
        e->communication, "fixed", e->fixed, "total", e->latency, "mfu_percent", 100 * e->mfu,
        "chip_seconds_per_token", e->chip_seconds, "memory_bytes", "weights", e->weight_memory,
        "kv", e->kv_memory, "gathered_weights", e->gathered_memory, "activations",
        e->activation_memory, "total", e->memory);
}

static void add_head(cli_table *t)
{
    static const char *const head[] = {"layout",       "attention", "mesh",     "ms",
                                       "compute",      "memory",    "exchange", "MFU %",
                                       "chip-s/token", "MB/layer",  "GB/chip",  "remark"};
    for (size_t i = 0; i < sizeof head / sizeof *head; i++) cli_table_add(t, "%s", head[i]);
    cli_table_end(t);
}

static void add_estimate(cli_table *t, const tn_partition_hardware *h,
                         const tn_partition_estimate *e)
{
    const tn_partition_constants *c = &h->constants;
    bool gathered = e->layout.ff >= TN_WG_X;
    cli_table_add(t, "%s", tn_partition_ff_name(e->layout.ff));
    cli_table_add(t, "%s", gathered ? "batch" : tn_partition_attention_name(e->layout.attention));
    cli_table_add(t, "%lldx%lldx%lld", (long long)e->layout.mesh[0], (long long)e->layout.mesh[1],
                  (long long)e->layout.mesh[2]);
    if (e->possible) {
        cli_table_add(t, "%.4g", e->latency * 1e3);
        cli_table_add(t, "%.4g", (e->compute + e->attention) / c->compute * 1e3);
        cli_table_add(t, "%.4g", (e->weights + e->kv) / c->memory * 1e3);
        cli_table_add(t, "%.4g", e->communication / c->network * 1e3);
        cli_table_add(t, "%.1f", 100 * e->mfu);
        cli_table_add(t, "%.4g", e->chip_seconds);
        cli_table_add(t, "%.4g", e->bytes_sum / 1e6);
        cli_table_add(t, "%.1f", e->memory / 1e9);
    } else {
        for (int i = 0; i < 8; i++) cli_table_add(t, "%s", "");
    }
    cli_table_add(t, "%s", e->reason);
    cli_table_end(t);
}

static void print_constants(FILE *out, const tn_partition_hardware *h)
{
    const tn_partition_constants *c = &h->constants;
    if (c->compute == 1 && c->memory == 1 && c->network == 1 && c->layer_seconds == 0)
        fprintf(out,
                "%s: raw roofline, uncalibrated; measured steps take longer (tenon infer "
                "calibrate)\n",
                h->name);
    else
        fprintf(out,
                "%s, calibrated: compute at %.0f %%, memory at %.0f %%, network at %.0f %% of the "
                "datasheet, %.0f us a layer\n",
                h->name, 100 * c->compute, 100 * c->memory, 100 * c->network,
                1e6 * c->layer_seconds);
}

static void print_paper_rule(const plan_options *o, const tn_partition_estimate *best)
{
    double n = (double)(best->layout.mesh[0] * best->layout.mesh[1] * best->layout.mesh[2]),
           ratio = (double)o->model.feed_forward / (double)o->model.width;
    printf("The paper's rule (2D when sqrt(chips) > F/E): sqrt(%.0f) = %.1f, F/E = %.1f, so %s\n",
           n, sqrt(n), ratio, sqrt(n) > ratio ? "ws2d" : "ws1d");
}

static void print_crossovers(const plan_options *o, const int64_t *mesh)
{
    tn_partition_crossover part[TN_PARTITION_FFS];
    int count = tn_partition_crossovers(&o->model, &o->job, mesh, part);
    printf("\nFewest bytes on %lldx%lldx%lld (%s):", (long long)mesh[0], (long long)mesh[1],
           (long long)mesh[2], o->job.ff_only ? "feed-forward alone" : "whole block");
    for (int i = 0; i < count; i++)
        printf("%s%s", i ? ", " : " ", tn_partition_ff_name(part[i].ff)),
            i ? (void)printf(" from %.0f tokens", part[i].from) : (void)0;
    printf("\n");
}

static int64_t context_for(const plan_options *o, const tn_partition_estimate *e)
{
    return tn_partition_max_context(&o->model, &o->job, e->layout,
                                    o->kv_fraction * o->hardware.memory_bytes);
}

/* The smallest power of two chips on which something fits; 0 if there is none up to 65,536. */
static int64_t enough_chips(const plan_options *o)
{
    for (int64_t chips = 1; chips <= 65536; chips *= 2) {
        tn_partition_estimate *list;
        int count;
        if (tn_partition_search(&o->model, &o->hardware, &o->job, chips, NULL, &list, &count) !=
            TN_OK)
            return 0;
        bool fits = list[0].fits;
        free(list);
        if (fits) return chips;
    }
    return 0;
}

static void print_plan(const plan_options *o, const tn_partition_estimate *list, int count)
{
    const tn_partition_estimate *best = &list[0];
    printf("%s: %.4g parameters (%.4g with padding), %s of %lld sequences", o->model.name,
           tn_partition_parameters(&o->model), best->padded_parameters,
           o->prefill ? "prefill" : "a decode step", (long long)o->job.batch);
    if (o->prefill) printf(" of %lld tokens", (long long)o->job.tokens);
    printf(", context %lld, %s weights\n", (long long)o->job.context,
           o->job.weight_bytes == 1 ? "int8" : "bf16");
    print_constants(stdout, &o->hardware);
    if (!best->fits) {
        int64_t enough = o->has_mesh ? 0 : enough_chips(o);
        printf("\nNothing fits%s", enough ? "" : ". ");
        if (enough) printf("; %lld chips are enough. ", (long long)enough);
        printf("The nearest:\n");
    }
    printf("\n");
    cli_table t = {0};
    add_head(&t);
    int shown = o->all ? count : count < 10 ? count : 10;
    for (int i = 0; i < shown; i++) add_estimate(&t, &o->hardware, &list[i]);
    cli_table_print(&t, stdout);
    cli_table_free(&t);
    if (shown < count) printf("and %d more (--all)\n", count - shown);
    printf("\n");
    if (best->fits) print_paper_rule(o, best);
    if (o->crossover) print_crossovers(o, best->layout.mesh);
    if (o->max_context)
        printf("Largest context with %.0f %% of memory for the cache: %lld\n", 100 * o->kv_fraction,
               (long long)context_for(o, best));
}

static void print_plan_json(const plan_options *o, const tn_partition_estimate *list, int count)
{
    json_t *candidates = json_array();
    for (int i = 0; i < count; i++) json_array_append_new(candidates, plan_estimate_json(&list[i]));
    json_t *all = json_pack("{s:s, s:f, s:s, s:o}", "model", o->model.name, "parameters",
                            tn_partition_parameters(&o->model), "hardware", o->hardware.name,
                            "candidates", candidates);
    json_object_set_new(all, "choice", list[0].fits ? plan_estimate_json(&list[0]) : json_null());
    double n = (double)o->chips.value[0];
    json_object_set_new(all, "paper_rule",
                        json_string(sqrt(n) > (double)o->model.feed_forward / (double)o->model.width
                                        ? "ws2d"
                                        : "ws1d"));
    if (o->max_context)
        json_object_set_new(all, "max_context", json_integer(context_for(o, &list[0])));
    if (o->crossover) {
        tn_partition_crossover part[TN_PARTITION_FFS];
        int parts = tn_partition_crossovers(&o->model, &o->job, list[0].layout.mesh, part);
        json_t *array = json_array();
        for (int i = 0; i < parts; i++)
            json_array_append_new(array, json_pack("{s:s, s:f}", "feedforward",
                                                   tn_partition_ff_name(part[i].ff), "from_tokens",
                                                   part[i].from));
        json_object_set_new(all, "crossovers", array);
    }
    json_dumpf(all, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(all);
}

static bool is_wanted(const plan_options *o, const tn_partition_estimate *e)
{
    if (o->has_ff && e->layout.ff != o->ff) return false;
    return !o->has_attention || e->layout.ff >= TN_WG_X || e->layout.attention == o->attention;
}

/* Candidates that the options allow, best first; TN_INVALID if there are none. */
static tn_status search(const plan_options *o, int64_t chips, tn_partition_estimate **list,
                        int *count)
{
    int all, kept = 0;
    TN_TRY(tn_partition_search(&o->model, &o->hardware, &o->job, chips,
                               o->has_mesh ? o->mesh : NULL, list, &all));
    for (int i = 0; i < all; i++)
        if (is_wanted(o, &(*list)[i])) (*list)[kept++] = (*list)[i];
    *count = kept;
    if (kept) return TN_OK;
    free(*list);
    *list = NULL;
    return tn_fail(TN_INVALID, "no such layout on %lld chips; leave out --layout or --attention",
                   (long long)chips);
}

int cli_infer_plan(int argc, char **argv)
{
    static const struct argp_option rows[] = {
        MODEL_ROW,
        HARDWARE_ROW,
        CHIPS_ROW,
        MESH_ROW,
        JOB_ROWS,
        {"layout", KEY_LAYOUT, "NAME", 0, "Only ws1d, ws2d, wg-x, wg-xy or wg-xyz", 0},
        {"attention", KEY_ATTENTION, "NAME", 0, "Only heads, batch-z, batch-yz or batch-yzx", 0},
        {"all", KEY_ALL, NULL, 0, "Show every candidate, with the reason where it is impossible",
         0},
        {"crossover", KEY_CROSSOVER, NULL, 0,
         "Token counts where the layout that moves least changes", 0},
        {"part", KEY_PART, "PART", 0, "Volumes of the whole block (default) or of the ff alone", 0},
        {"max-context", KEY_MAX_CONTEXT, "F", 0,
         "Largest context when the fraction F of memory is for the cache", 0},
        RAW_ROW,
        JSON_ROW,
        {0}};
    static const struct argp parser = {
        rows,
        parse,
        NULL,
        "Choose how to cut a transformer over chips.\v"
        "Examples:\n"
        "  tenon infer plan --model palm-540b --chips 64 --batch 512 --weights int8\n"
        "  tenon infer plan --model palm-540b --phase prefill --batch 512 --crossover\n"
        "  tenon infer plan --model runs/book/model --hardware h200 --chips 2 --json\n",
        NULL,
        NULL,
        NULL};
    plan_options o = {0};
    cli_parse(&parser, argc, argv, &o);
    tn_partition_estimate *list;
    int count;
    if (finish_options(&o) != TN_OK || search(&o, o.chips.value[0], &list, &count) != TN_OK)
        return cli_fail();
    if (o.json) print_plan_json(&o, list, count);
    else print_plan(&o, list, count);
    free(list);
    return CLI_OK;
}

/* ---- explain --------------------------------------------------------------------------------- */

static const char *const stationary_formula[TN_PARTITION_TERMS] = {
    "residual gathered over y, z: T E/X (1 - 1/YZ), twice in a serial block",
    "one f32 a token, reduced over x: 2 T/Z (1 - 1/X)",
    "queries and ff inputs reduced over x: T (g F + H Q)/YZ (1 - 1/X)",
    "keys and values reduced over x: 2 (T/G) 2 K Q (1 - 1/X)",
    "queries to batch split and back: 2 T H Q/n (1 - 1/G)",
    "attention and ff result gathered over x: T (F + H Q)/YZ (1 - 1/X)",
    "output reduced over y, z: T E/X (1 - 1/YZ), twice in a serial block",
    "",
    ""};
static const char *const gathered_formula[TN_PARTITION_TERMS] = {
    "residual gathered over the rest: T/N E (1 - N/n)",
    "",
    "",
    "",
    "",
    "",
    "output reduced over the rest: T/N E (1 - N/n)",
    "matrices gathered over N chips: E P N/n (1 - 1/N), P = (g + 1) F + 2 H Q",
    "K/V matrices gathered over x: 2 E K Q (1 - 1/X)"};

static void explain(const plan_options *o, const tn_partition_estimate *e)
{
    const tn_partition_model *m = &o->model;
    const tn_partition_constants *c = &o->hardware.constants;
    bool gathered = e->layout.ff >= TN_WG_X;
    double n = (double)(e->layout.mesh[0] * e->layout.mesh[1] * e->layout.mesh[2]),
           T = (double)o->job.batch * (double)o->job.tokens;
    printf("%s on %lldx%lldx%lld chips of %s, %s, attention %s\n", m->name,
           (long long)e->layout.mesh[0], (long long)e->layout.mesh[1], (long long)e->layout.mesh[2],
           o->hardware.name, tn_partition_ff_name(e->layout.ff),
           gathered ? "by batch" : tn_partition_attention_name(e->layout.attention));
    printf("E %lld, F %lld, H %lld (%lld with padding), Q %lld, K %lld, D %lld, g %lld, T %.0f\n\n",
           (long long)m->width, (long long)m->feed_forward, (long long)m->heads,
           (long long)e->padded_heads, (long long)m->head_width, (long long)m->kv_heads,
           (long long)m->layers, (long long)m->input_matrices, T);
    cli_table t = {0};
    cli_table_add(&t, "moves"), cli_table_add(&t, "elements/layer"), cli_table_add(&t, "bytes");
    cli_table_add(&t, "how"), cli_table_end(&t);
    for (int term = 0; term < TN_PARTITION_TERMS; term++) {
        if (e->volume[term] <= 0) continue;
        cli_table_add(&t, "%s", tn_partition_term_name((tn_partition_term)term));
        cli_table_add(&t, "%.0f", e->volume[term]);
        cli_table_add(&t, "%.0f", e->bytes[term]);
        cli_table_add(&t, "%s", (gathered ? gathered_formula : stationary_formula)[term]);
        cli_table_end(&t);
    }
    cli_table_add(&t, "sum"), cli_table_add(&t, "%.0f", e->volume_sum);
    cli_table_add(&t, "%.0f", e->bytes_sum), cli_table_end(&t);
    cli_table_print(&t, stdout);
    cli_table_free(&t);
    printf("\ncompute    2 N T / (n peak) = 2 x %.4g x %.0f / (%.0f x %.4g) = %.4g ms\n",
           e->padded_parameters, T, n, o->hardware.peak_bf16, e->compute * 1e3);
    printf("attention  4 H Q context D T / (n peak) = %.4g ms\n", e->attention * 1e3);
    printf("weights    %.4g ms, cache %.4g ms at %.4g GB/s\n", e->weights * 1e3, e->kv * 1e3,
           o->hardware.memory_bandwidth / 1e9);
    printf("exchange   %.4g ms for %lld layers at %.4g GB/s\n", e->communication * 1e3,
           (long long)m->layers, o->hardware.link_bandwidth / 1e9);
    printf("latency    max((compute + attention)/%.2f, (weights + cache)/%.2f) + exchange/%.2f + "
           "%.4g ms = %.4g ms\n",
           c->compute, c->memory, c->network, e->fixed * 1e3, e->latency * 1e3);
    printf("MFU        %.1f %%, %.4g chip-seconds a token\n", 100 * e->mfu, e->chip_seconds);
    printf("memory     weights %.2f, cache %.2f, gathered weights %.2f, activations %.2f: %.2f of "
           "%.2f GB\n",
           e->weight_memory / 1e9, e->kv_memory / 1e9, e->gathered_memory / 1e9,
           e->activation_memory / 1e9, e->memory / 1e9, o->hardware.memory_bytes / 1e9);
    if (*e->reason) printf("remark     %s\n", e->reason);
}

int cli_infer_explain(int argc, char **argv)
{
    static const struct argp_option rows[] = {
        MODEL_ROW,
        HARDWARE_ROW,
        CHIPS_ROW,
        MESH_ROW,
        JOB_ROWS,
        {"layout", KEY_LAYOUT, "NAME", 0, "ws1d, ws2d, wg-x, wg-xy, wg-xyz (default: the best)", 0},
        {"attention", KEY_ATTENTION, "NAME", 0, "heads, batch-z, batch-yz, batch-yzx", 0},
        RAW_ROW,
        JSON_ROW,
        {0}};
    static const struct argp parser = {
        rows,
        parse,
        NULL,
        "Show every term of a plan's sum, with the formula and its numbers.\v"
        "Examples:\n"
        "  tenon infer explain --model palm-540b --mesh 4x4x4 --batch 512\n"
        "  tenon infer explain --model palm-540b --mesh 4x4x4 --batch 512 --phase prefill --layout "
        "wg-xyz\n",
        NULL,
        NULL,
        NULL};
    plan_options o = {0};
    cli_parse(&parser, argc, argv, &o);
    tn_partition_estimate *list;
    int count;
    if (finish_options(&o) != TN_OK || search(&o, o.chips.value[0], &list, &count) != TN_OK)
        return cli_fail();
    if (o.json) print_plan_json(&o, list, 1);
    else explain(&o, &list[0]);
    free(list);
    return CLI_OK;
}

/* ---- sweep ----------------------------------------------------------------------------------- */

typedef struct sweep_row {
    int64_t chips, batch;
    int weight_bytes;
    tn_partition_estimate best;
    bool pareto; /* nothing is both faster and cheaper */
} sweep_row;

static tn_status run_sweep(plan_options *o, sweep_row **rows, int *count)
{
    int most = o->chips.count * o->batch.count * 2;
    sweep_row *list = calloc((size_t)most, sizeof *list);
    if (!list) return tn_fail(TN_MEMORY, "out of memory for %d plans", most);
    *count = 0;
    for (int type = 0; type < (o->both_weights ? 2 : 1); type++)
        for (int i = 0; i < o->chips.count; i++)
            for (int j = 0; j < o->batch.count; j++) {
                tn_partition_estimate *found;
                int candidates;
                if (o->both_weights) o->job.weight_bytes = type ? 1 : 2;
                o->job.batch = o->batch.value[j];
                tn_status status = search(o, o->chips.value[i], &found, &candidates);
                if (status != TN_OK) {
                    free(list);
                    return status;
                }
                list[(*count)++] = (sweep_row){o->chips.value[i], o->job.batch,
                                               o->job.weight_bytes == 1 ? 1 : 2, found[0], false};
                free(found);
            }
    for (int i = 0; i < *count; i++) {
        list[i].pareto = list[i].best.fits;
        for (int j = 0; j < *count; j++) {
            const tn_partition_estimate *a = &list[j].best, *b = &list[i].best;
            if (a->fits && a->latency <= b->latency && a->chip_seconds <= b->chip_seconds &&
                (a->latency < b->latency || a->chip_seconds < b->chip_seconds))
                list[i].pareto = false;
        }
    }
    *rows = list;
    return TN_OK;
}

static void sweep_table(const plan_options *o, const sweep_row *rows, int count, bool all,
                        cli_table *t)
{
    static const char *const head[] = {"model",         "weights",   "chips",   "batch",
                                       "layout",        "attention", "mesh",    "ms",
                                       "chip-ms/token", "MFU %",     "GB/chip", "frontier"};
    for (size_t i = 0; i < sizeof head / sizeof *head; i++) cli_table_add(t, "%s", head[i]);
    cli_table_end(t);
    for (int i = 0; i < count; i++) {
        const tn_partition_estimate *e = &rows[i].best;
        if (!all && !rows[i].pareto) continue;
        cli_table_add(t, "%s", o->model.name);
        cli_table_add(t, "%s", rows[i].weight_bytes == 1 ? "int8" : "bf16");
        cli_table_add(t, "%lld", (long long)rows[i].chips);
        cli_table_add(t, "%lld", (long long)rows[i].batch);
        cli_table_add(t, "%s", tn_partition_ff_name(e->layout.ff));
        cli_table_add(t, "%s",
                      e->layout.ff >= TN_WG_X ? "batch"
                                              : tn_partition_attention_name(e->layout.attention));
        cli_table_add(t, "%lldx%lldx%lld", (long long)e->layout.mesh[0],
                      (long long)e->layout.mesh[1], (long long)e->layout.mesh[2]);
        cli_table_add(t, "%.4g", e->latency * 1e3);
        cli_table_add(t, "%.4g", e->chip_seconds * 1e3);
        cli_table_add(t, "%.1f", 100 * e->mfu);
        cli_table_add(t, "%.1f", e->memory / 1e9);
        cli_table_add(t, "%s", !e->fits ? e->reason : rows[i].pareto ? "yes" : "");
        cli_table_end(t);
    }
}

/* One line a weight type: cost over latency along the frontier. */
static void sweep_plot(tn_page *page, const sweep_row *rows, int count)
{
    double *x = calloc((size_t)count * 4, sizeof *x);
    tn_series series[2];
    int lines = 0, used = 0;
    for (int bytes = 2; bytes >= 1 && x; bytes--) {
        int first = used;
        for (int i = 0; i < count; i++)
            if (rows[i].best.fits && rows[i].weight_bytes == bytes) {
                bool dominated = false;
                for (int j = 0; j < count; j++)
                    dominated = dominated ||
                                (rows[j].best.fits && rows[j].weight_bytes == bytes &&
                                 rows[j].best.latency < rows[i].best.latency &&
                                 rows[j].best.chip_seconds < rows[i].best.chip_seconds);
                if (dominated) continue;
                int at = used++;
                for (; at > first && x[2 * (at - 1)] > rows[i].best.latency * 1e3; at--)
                    x[2 * at] = x[2 * (at - 1)], x[2 * at + 1] = x[2 * (at - 1) + 1];
                x[2 * at] = rows[i].best.latency * 1e3;
                x[2 * at + 1] = rows[i].best.chip_seconds * 1e3;
            }
        if (used == first) continue;
        double *flat = calloc((size_t)(used - first) * 2, sizeof *flat);
        if (!flat) break;
        for (int i = first; i < used; i++)
            flat[i - first] = x[2 * i], flat[used - first + i - first] = x[2 * i + 1];
        series[lines++] = (tn_series){bytes == 1 ? "int8" : "bf16", flat, flat + (used - first),
                                      used - first};
    }
    if (lines)
        tn_page_plot(page, "Cost against latency, best of all layouts", "ms", "chip-ms per token",
                     TN_AXES_LOGARITHMIC, series, lines);
    for (int i = 0; i < lines; i++) free((void *)(uintptr_t)series[i].x);
    free(x);
}

static tn_status save_csv(const cli_table *t, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    FILE *memory = open_memstream(&text, &size);
    if (!memory) return tn_fail(TN_MEMORY, "%s: out of memory", path);
    cli_table_csv(t, memory);
    fclose(memory);
    tn_status status = tn_file_save(path, text, size);
    free(text);
    return status;
}

static tn_status save_report(const plan_options *o, const sweep_row *rows, int count,
                             const cli_table *t)
{
    tn_page *page = tn_page_create("Partitioned inference: cost against latency");
    if (!page) return tn_fail(TN_MEMORY, "%s: out of memory", o->report);
    tn_page_section(page, o->model.name);
    const tn_partition_constants *c = &o->hardware.constants;
    tn_page_text(page,
                 "%s; compute at %.0f %%, memory at %.0f %%, network at %.0f %% of the datasheet, "
                 "%.0f us a layer. Context %lld.",
                 o->hardware.name, 100 * c->compute, 100 * c->memory, 100 * c->network,
                 1e6 * c->layer_seconds, (long long)o->job.context);
    sweep_plot(page, rows, count);
    cli_table_page(t, page);
    tn_status status = tn_page_save(page, o->report);
    tn_page_free(page);
    return status;
}

int cli_infer_sweep(int argc, char **argv)
{
    static const struct argp_option options[] = {
        MODEL_ROW,
        HARDWARE_ROW,
        {"chips", KEY_CHIPS, "LIST", 0, "Chips: 64, or 8,16,64, or 8..256 (default 8..256)", 0},
        JOB_ROWS,
        {"all", KEY_ALL, NULL, 0, "All rows, not only the frontier", 0},
        {"csv", KEY_CSV, "FILE", 0, "Write the rows as CSV", 0},
        {"report", KEY_REPORT, "FILE", 0, "Write an HTML page with the plot", 0},
        RAW_ROW,
        JSON_ROW,
        {0}};
    static const struct argp parser = {
        options,
        parse,
        NULL,
        "Plan over many chip counts, batches and weight types: what latency costs.\v"
        "Lists may stand for --chips and --batch; --weights both takes bf16 and int8.\n"
        "Examples:\n"
        "  tenon infer sweep --model palm-540b --batch 1..1024 --weights both --report cost.html\n"
        "  tenon infer sweep --model palm-62b --chips 8,16,32 --batch 32,512 --all --csv out.csv\n",
        NULL,
        NULL,
        NULL};
    plan_options o = {.chips = {{8, 16, 32, 64, 128, 256}, 6},
                      .batch = {{1, 4, 16, 64, 256, 1024}, 6}};
    cli_parse(&parser, argc, argv, &o);
    sweep_row *rows = NULL;
    int count = 0;
    tn_status status = finish_options(&o);
    if (status == TN_OK) status = run_sweep(&o, &rows, &count);
    if (status != TN_OK) return cli_fail();
    cli_table t = {0};
    sweep_table(&o, rows, count, o.all || o.csv, &t);
    if (o.csv) status = save_csv(&t, o.csv);
    if (status == TN_OK && o.report) status = save_report(&o, rows, count, &t);
    if (status == TN_OK && o.json) {
        json_t *array = json_array();
        for (int i = 0; i < count; i++) {
            json_t *row = plan_estimate_json(&rows[i].best);
            json_object_set_new(row, "chips", json_integer(rows[i].chips));
            json_object_set_new(row, "batch", json_integer(rows[i].batch));
            json_object_set_new(row, "weights",
                                json_string(rows[i].weight_bytes == 1 ? "int8" : "bf16"));
            json_object_set_new(row, "frontier", json_boolean(rows[i].pareto));
            json_array_append_new(array, row);
        }
        json_dumpf(array, stdout, JSON_INDENT(2));
        printf("\n");
        json_decref(array);
    } else if (status == TN_OK && !o.csv) {
        print_constants(stdout, &o.hardware);
        cli_table_print(&t, stdout);
    }
    cli_table_free(&t);
    free(rows);
    return status == TN_OK ? CLI_OK : cli_fail();
}

/* ---- calibrate ------------------------------------------------------------------------------- */

int cli_infer_calibrate(int argc, char **argv)
{
    static const struct argp_option rows[] = {
        HARDWARE_ROW,
        {"points", KEY_POINTS, "FILE", 0,
         "CSV: model, weights (bf16 or int8), chips, batch, ms_per_token, context", 0},
        {"output", 'o', "FILE", 0, "Write the profile with its constants", 0},
        {0}};
    static const struct argp parser = {
        rows,
        parse,
        NULL,
        "Fit a hardware profile's four constants to measured decode steps.\v"
        "A row \"left out\" is predicted with constants fitted to the other models alone.\n"
        "Example:\n"
        "  tenon infer calibrate --hardware tpu-v4 --points runs.csv --output my-tpu.json\n"
        "  tenon infer plan --model palm-62b --hardware my-tpu.json --chips 16\n",
        NULL,
        NULL,
        NULL};
    plan_options o = {.hardware_name = "tpu-v4"};
    cli_parse(&parser, argc, argv, &o);
    tn_partition_point *points = NULL;
    int count = 0;
    tn_status status = o.points ? tn_partition_hardware_load(o.hardware_name, &o.hardware)
                                : tn_fail(TN_INVALID, "--points is missing");
    if (status == TN_OK) status = plan_read_points(o.points, &points, &count);
    if (status != TN_OK) return cli_fail();
    cli_table t = {0};
    tn_partition_hardware fitted;
    plan_calibration_table(&o.hardware, points, count, &t, &fitted);
    cli_table_print(&t, stdout);
    cli_table_free(&t);
    free(points);
    if (o.output) status = tn_partition_hardware_save(&fitted, o.output);
    return status == TN_OK ? CLI_OK : cli_fail();
}
