/* One sequence: prompts in chunks, then a token at a time, over a cache that is state. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "tenon/infer.h"
#include "tenon/plan.h"

/* Token counts that have a plan of their own; a prompt is cut into the largest that fit. Plans are compiled when first needed. */
static const int64_t chunk[] = {256, 64, 16, 4, 1};
enum { CHUNKS = sizeof chunk / sizeof *chunk };

struct tn_generator {
    tn_state *state;
    tn_infer_config config;
    tn_dtype compute;
    int64_t capacity, position;
    tn_plan *plan[CHUNKS];
    float *logits;
};

static tn_status compile_chunk(tn_generator *g, int which)
{
    tn_graph *graph = tn_graph_create(g->state);
    if (!graph) return TN_MEMORY;
    tn_scope root = tn_root(graph);
    root.compute = g->compute;
    tn_infer_pass pass = {.tokens = tn_input(graph, "tokens", TN_I32, TN_SHAPE(1, chunk[which])),
                          .start = tn_input(graph, "start", TN_I32, TN_SHAPE(1)),
                          .capacity = g->capacity,
                          .last_only = true};
    tn_node logits = tn_infer_logits(root, &g->config, &pass);
    tn_status status = tn_compile(&g->plan[which], .graph = graph,
                                  .feeds = TN_NODES(pass.tokens, pass.start),
                                  .fetches = TN_NODES(logits), .updates = pass.updates);
    tn_graph_free(graph);
    return status;
}

tn_status tn_generator_create(tn_generator **out, tn_state *state, const tn_infer_config *config,
                              tn_generator_options options)
{
    *out = NULL;
    tn_generator *g = calloc(1, sizeof *g);
    if (!g) return tn_fail(TN_MEMORY, "out of memory for a generator");
    *g = (tn_generator){.state = state,
                        .config = *config,
                        .compute = options.compute,
                        .capacity = options.context ? options.context : config->context};
    tn_status status = TN_OK;
    if (g->capacity < 1 || (config->family == TN_INFER_GPT2 && g->capacity > config->context))
        status = tn_fail(TN_INVALID, "a context of %lld positions; the model has %lld",
                         (long long)g->capacity, (long long)config->context);
    g->logits = malloc((size_t)config->vocabulary * sizeof *g->logits);
    if (status == TN_OK && !g->logits) status = tn_fail(TN_MEMORY, "out of memory for a generator");
    if (status == TN_OK)
        status = compile_chunk(g,
                               CHUNKS - 1); /* finds missing weights now, not at the first token */
    if (status != TN_OK) {
        tn_generator_free(g);
        return status;
    }
    *out = g;
    return TN_OK;
}

void tn_generator_free(tn_generator *g)
{
    if (!g) return;
    for (int i = 0; i < CHUNKS; i++) tn_plan_free(g->plan[i]);
    free(g->logits);
    free(g);
}

void tn_generator_reset(tn_generator *g)
{
    g->position = 0; /* what lies behind the position is never read */
}

int64_t tn_generator_position(const tn_generator *g) { return g->position; }

size_t tn_generator_bytes(const tn_generator *g)
{
    const tn_infer_config *c = &g->config;
    size_t bytes = 2 * (size_t)(c->layers * g->capacity * c->kv_heads * c->head_width) *
                   tn_dtype_size(g->compute);
    for (int i = 0; i < CHUNKS; i++) bytes += g->plan[i] ? tn_plan_bytes(g->plan[i]) : 0;
    return bytes;
}

tn_status tn_generator_feed(tn_generator *g, const int32_t *tokens, int64_t count,
                            const float **logits)
{
    if (count < 1)
        return tn_fail(
            TN_INVALID,
            "nothing to feed: the prompt is empty; give at least a beginning-of-text token");
    if (count > g->capacity - g->position)
        return tn_fail(TN_INVALID,
                       "%lld tokens after %lld do not fit in a context of %lld; shorten the prompt "
                       "or raise --context",
                       (long long)count, (long long)g->position, (long long)g->capacity);
    for (int64_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= g->config.vocabulary)
            return tn_fail(TN_INVALID,
                           "token %lld is id %d, but the vocabulary has %lld; do tokenizer and "
                           "model belong together?",
                           (long long)i, tokens[i], (long long)g->config.vocabulary);
    for (int64_t done = 0; done < count;) {
        int which = 0;
        while (chunk[which] > count - done) which++;
        if (!g->plan[which]) TN_TRY(compile_chunk(g, which));
        int32_t start = (int32_t)g->position;
        TN_TRY(
            tn_run(g->plan[which], (const void *[]){tokens + done, &start}, (void *[]){g->logits}));
        done += chunk[which];
        g->position += chunk[which];
    }
    for (int64_t i = 0; i < g->config.vocabulary; i++)
        if (!isfinite(g->logits[i]))
            return tn_fail(TN_INVALID,
                           "the model's logit for token %lld at position %lld is %g; its weights "
                           "overflow or hold NaN",
                           (long long)i, (long long)g->position - 1, (double)g->logits[i]);
    *logits = g->logits;
    return TN_OK;
}
