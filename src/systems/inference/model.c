/* The transformer as a graph.
 *
 * B sequences, L tokens each in this pass, E model width, F feed-forward width, H query heads of width Q, K key/value heads, V
 * vocabulary, M cache positions. Parameter names are Hugging Face's of Llama. */
#include <math.h>

#include "tenon/infer.h"
#include "tenon/nn.h"
#include "tenon/ops.h"

typedef struct block {
    const tn_infer_config *config;
    tn_infer_pass *pass;
    tn_node position; /* [L] or [B, L] i32 */
    tn_node filled;   /* [B] i32: cache entries after this pass; TN_NONE without a cache */
    int layer;
} block;

static tn_node tap(const block *b, const char *name, tn_node x)
{
    if (b->pass->tap) b->pass->tap(b->pass->tap_context, b->layer, name, x);
    return x;
}

static bool has_bias(const tn_infer_config *c) { return c->family == TN_INFER_GPT2; }

static tn_node project(tn_scope s, const tn_infer_config *c, tn_node x, int64_t width)
{
    return tn_linear(s, x, width, .bias = has_bias(c), .init = tn_init_normal(0, 0.02));
}

/* Layer norm for GPT-2, RMS norm otherwise; PaLM stores its scale less one. */
static tn_node norm(tn_scope s, const tn_infer_config *c, tn_node x)
{
    tn_init one = {TN_INIT_CONSTANT, 1, 0}, zero = {TN_INIT_ZERO, 0, 0};
    if (c->family == TN_INFER_GPT2)
        return tn_layer_norm(x, tn_parameter(s, "weight", TN_SHAPE(c->width), one),
                             tn_parameter(s, "bias", TN_SHAPE(c->width), zero), c->norm_epsilon);
    tn_node scale = tn_parameter(s, "weight", TN_SHAPE(c->width),
                                 c->family == TN_INFER_PALM ? zero : one);
    return tn_rms_norm(x, c->family == TN_INFER_PALM ? tn_affine(scale, 1, 1) : scale,
                       c->norm_epsilon);
}

/* New keys or values [B, L, K, Q] appended to the layer's cache [B, M, K, Q]; the whole cache comes back. */
static tn_node remember(tn_scope s, block *b, const char *kind, tn_node fresh)
{
    char name[64];
    snprintf(name, sizeof name, "cache/%s.%d", kind, b->layer);
    const tn_infer_config *c = b->config;
    tn_shape shape = TN_SHAPE(tn_dim(fresh, 0), b->pass->capacity, c->kv_heads, c->head_width);
    tn_node cache = tn_state_node(s.graph, name, tn_dtype_of(fresh), shape, (tn_init){0});
    tn_node all = tn_cache_write(cache, fresh, b->pass->start);
    tn_defer(tn_assign(cache, all));
    return all;
}

/* x [B, L, E], already normalised -> [B, L, E]. */
static tn_node attention(tn_scope s, block *b, tn_node x)
{
    const tn_infer_config *c = b->config;
    int64_t B = tn_dim(x, 0), L = tn_dim(x, 1);
    tn_node q = tn_reshape(project(tn_in(s, "q_proj"), c, x, c->heads * c->head_width),
                           TN_SHAPE(B, L, c->heads, c->head_width));
    tn_node k = tn_reshape(project(tn_in(s, "k_proj"), c, x, c->kv_heads * c->head_width),
                           TN_SHAPE(B, L, c->kv_heads, c->head_width));
    tn_node v = tn_reshape(project(tn_in(s, "v_proj"), c, x, c->kv_heads * c->head_width),
                           TN_SHAPE(B, L, c->kv_heads, c->head_width));
    if (c->family != TN_INFER_GPT2) {
        q = tn_rope(q, b->position, .base = c->rope_base, .interleaved = c->rope_interleaved);
        k = tn_rope(k, b->position, .base = c->rope_base, .interleaved = c->rope_interleaved);
    }
    tap(b, "attention.q", q), tap(b, "attention.k", k), tap(b, "attention.v", v);
    if (!tn_is_none(b->pass->start)) {
        k = remember(s, b, "key", k);
        v = remember(s, b, "value", v);
    }
    tn_node y = tap(b, "attention.mixed",
                    tn_attention(q, k, v, .causal = true, .length = b->filled));
    return tap(b, "attention.out",
               project(tn_in(s, "o_proj"), c,
                       tn_reshape(y, TN_SHAPE(B, L, c->heads * c->head_width)), c->width));
}

/* x [B, L, E], already normalised -> [B, L, E]. */
static tn_node feed_forward(tn_scope s, block *b, tn_node x)
{
    const tn_infer_config *c = b->config;
    tn_node inner;
    if (c->family == TN_INFER_GPT2) {
        inner = tap(
            b, "mlp.activated",
            tn_gelu_tanh(tap(b, "mlp.in", project(tn_in(s, "up_proj"), c, x, c->feed_forward))));
    } else {
        tn_node gate = project(tn_in(s, "gate_proj"), c, x, c->feed_forward),
                up = project(tn_in(s, "up_proj"), c, x, c->feed_forward);
        inner = tn_multiply(tn_silu(gate), up);
    }
    return tap(b, "mlp.out", project(tn_in(s, "down_proj"), c, inner, c->width));
}

/* Parallel: x + attention(norm x) + mlp(norm x), one norm (PaLM). Serial: the two one after the other, each with its norm. */
static tn_node transformer_block(tn_scope s, block *b, tn_node x)
{
    const tn_infer_config *c = b->config;
    tn_node normed = tap(b, "input_norm", norm(tn_in(s, "input_layernorm"), c, x));
    tn_node y = attention(tn_in(s, "self_attn"), b, normed);
    if (c->family == TN_INFER_PALM)
        return tap(b, "block", tn_add(x, tn_add(y, feed_forward(tn_in(s, "mlp"), b, normed))));
    x = tap(b, "attention.residual", tn_add(x, y));
    normed = tap(b, "middle_norm", norm(tn_in(s, "post_attention_layernorm"), c, x));
    return tap(b, "block", tn_add(x, feed_forward(tn_in(s, "mlp"), b, normed)));
}

/* Positions of this pass's tokens: 0.. or start.. for each row. */
static tn_node positions(tn_scope s, const tn_infer_pass *pass)
{
    int64_t B = tn_dim(pass->tokens, 0), L = tn_dim(pass->tokens, 1);
    tn_node from_zero = tn_iota(s.graph, TN_I32, TN_SHAPE(L), 0);
    if (tn_is_none(pass->start)) return from_zero;
    return tn_add(tn_reshape(pass->start, TN_SHAPE(B, 1)), tn_reshape(from_zero, TN_SHAPE(1, L)));
}

tn_node tn_infer_logits(tn_scope root, const tn_infer_config *c, tn_infer_pass *pass)
{
    tn_scope s = tn_in(root, "model");
    block b = {.config = c, .pass = pass, .position = positions(s, pass), .layer = -1};
    int64_t L = tn_dim(pass->tokens, 1);
    if (!tn_is_none(pass->start))
        b.filled = tn_add(pass->start, tn_fill(s.graph, TN_I32, TN_SCALAR, (double)L));
    tn_node table = tn_parameter(tn_in(s, "embed_tokens"), "weight",
                                 TN_SHAPE(c->vocabulary, c->width),
                                 (tn_init){TN_INIT_NORMAL, 0, 0.02});
    tn_node x = tap(&b, "embedding", tn_gather(table, pass->tokens, 0));
    if (c->family == TN_INFER_GPT2) {
        tn_node places = tn_parameter(tn_in(s, "embed_positions"), "weight",
                                      TN_SHAPE(c->context, c->width),
                                      (tn_init){TN_INIT_NORMAL, 0, 0.02});
        x = tn_add(x, tap(&b, "position_embedding", tn_gather(places, b.position, 0)));
    }
    if (s.compute != TN_F32) x = tn_cast(x, s.compute);
    tap(&b, "input", x);
    for (b.layer = 0; b.layer < c->layers; b.layer++)
        x = transformer_block(tn_in(s, "layers.%d", b.layer), &b, x);
    b.layer = -1;
    if (pass->last_only) x = tn_squeeze(tn_slice(x, 1, L - 1, L, 1), 1);
    x = tap(&b, "final_norm", norm(tn_in(s, "norm"), c, x));
    /* PaLM scales its logits because it shares the table with an embedding of unit variance. */
    if (c->family == TN_INFER_PALM) x = tn_affine(x, 1 / sqrt((double)c->width), 0);
    tn_node head = c->tied ? table
                           : tn_parameter(tn_in(root, "lm_head"), "weight",
                                          TN_SHAPE(c->vocabulary, c->width),
                                          (tn_init){TN_INIT_NORMAL, 0, 0.02});
    tn_node logits = tn_matmul(x, tn_cast(head, tn_dtype_of(x)), .transpose_b = true,
                               .out_f32 = tn_dtype_of(x) != TN_F32);
    if (!tn_is_none(pass->start)) pass->updates = tn_take_deferred(root.graph);
    return tap(&b, "logits", logits);
}
