/* How well a model predicts a text: the negative log-likelihood of every token, in windows over a
 * text of any length. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "tenon/infer.h"
#include "tenon/ops.h"
#include "tenon/plan.h"

/* Losses [W] of a window's predictions: tokens [1, W] i32 and what follows each, [W] i32. */
static tn_status compile_window(tn_state *state, const tn_infer_config *config, tn_dtype compute,
                                int64_t window, tn_plan **plan)
{
    tn_graph *graph = tn_graph_create(state);
    if (!graph) return TN_MEMORY;
    tn_scope root = tn_root(graph);
    root.compute = compute;
    tn_infer_pass pass = {.tokens = tn_input(graph, "tokens", TN_I32, TN_SHAPE(1, window)),
                          .start = TN_NONE};
    tn_node next = tn_input(graph, "next", TN_I32, TN_SHAPE(window)),
            logits = tn_infer_logits(root, config, &pass);
    tn_node loss = tn_cross_entropy(tn_reshape(logits, TN_SHAPE(window, config->vocabulary)), next);
    tn_status status = tn_compile(plan, .graph = graph, .feeds = TN_NODES(pass.tokens, next),
                                  .fetches = TN_NODES(loss));
    tn_graph_free(graph);
    return status;
}

static tn_status check(const tn_infer_config *config, const int32_t *tokens, int64_t count,
                       const tn_score_options *o)
{
    if (count < 2)
        return tn_fail(TN_INVALID, "%lld tokens; a score needs at least two, one to predict",
                       (long long)count);
    if (o->window < 0 || o->window > config->context)
        return tn_fail(TN_INVALID, "a window of %lld tokens; the model has a context of %lld",
                       (long long)o->window, (long long)config->context);
    if (o->stride < 0 || (o->window && o->stride > o->window))
        return tn_fail(TN_INVALID, "a stride of %lld tokens over a window of %lld",
                       (long long)o->stride, (long long)o->window);
    for (int64_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= config->vocabulary)
            return tn_fail(TN_INVALID,
                           "token %lld is id %d, but the vocabulary has %lld; do tokenizer and "
                           "model belong together?",
                           (long long)i, tokens[i], (long long)config->vocabulary);
    return TN_OK;
}

tn_status tn_infer_score(tn_state *state, const tn_infer_config *config, const int32_t *tokens,
                         int64_t count, const tn_score_options *options, float *loss)
{
    TN_TRY(check(config, tokens, count, options));
    int64_t all = count - 1, window = options->window ? options->window : config->context;
    if (window > all) window = all;
    int64_t stride = options->stride ? options->stride : (window + 1) / 2;
    if (stride > window) stride = window;
    tn_plan *plan = NULL;
    float *here = malloc((size_t)window * sizeof *here);
    if (!here) return tn_fail(TN_MEMORY, "out of memory for a window of %lld", (long long)window);
    tn_status status = compile_window(state, config, options->compute ? options->compute : TN_F32,
                                      window, &plan);
    /* The first window counts whole, each later one for what is new in it; the last one ends with
     * the text. */
    for (int64_t known = 0, first = 0; status == TN_OK && known < all;) {
        status = tn_run(plan, (const void *[]){tokens + first, tokens + first + 1},
                        (void *[]){here});
        int64_t skip = known - first;
        memcpy(loss + known, here + skip, (size_t)(window - skip) * sizeof *loss);
        for (int64_t i = known; status == TN_OK && i < first + window; i++)
            if (!isfinite(loss[i]))
                status = tn_fail(TN_INVALID,
                                 "the loss of token %lld is %g; the model's weights overflow or "
                                 "hold NaN",
                                 (long long)i + 1, (double)loss[i]);
        known = first + window;
        first = first + stride + window > all ? all - window : first + stride;
    }
    tn_plan_free(plan);
    free(here);
    return status;
}
