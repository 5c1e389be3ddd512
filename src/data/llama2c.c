/* llama2.c's .bin: seven numbers, then every tensor of a Llama in a fixed order, f32, without
 * names. Source: karpathy/llama2.c, export.py (legacy export) and run.c (memory_map_weights). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/checked.h"
#include "data/cursor.h"
#include "data/weight_set.h"

/* The header: E, F, D, H, K, V (negative: the classifier is stored apart), positions. */
typedef struct header {
    int32_t width, feed_forward, layers, heads, kv_heads, vocabulary, positions;
} header;

typedef struct reader {
    tn_weights *weights;
    tn_cursor cursor;
    const char *file;
} reader;

static tn_status check_header(const header *h, const char *name, size_t size)
{
    enum { MOST = 1 << 24, MAGIC = 0x616b3432 };
    if (h->width == MAGIC)
        return tn_fail(TN_UNSUPPORTED,
                       "%s: a llama2.c file of version %" PRId32
                       "; version 0 can be read: export it with --version 0",
                       name, h->feed_forward);
    const struct {
        const char *what;
        int32_t value;
    } field[] = {
        {"width", h->width},         {"feed-forward width", h->feed_forward},
        {"layers", h->layers},       {"heads", h->heads},
        {"kv heads", h->kv_heads},   {"vocabulary", h->vocabulary},
        {"positions", h->positions},
    };
    for (size_t i = 0; i < sizeof field / sizeof *field; i++)
        if (field[i].value < 1 || field[i].value > MOST)
            return tn_fail(
                TN_FORMAT,
                "%s: not a llama2.c model: its header (%zu bytes in the file) says %s = %" PRId32,
                name, size, field[i].what, field[i].value);
    if (h->width % h->heads || h->heads % h->kv_heads || h->width / h->heads % 2)
        return tn_fail(TN_FORMAT,
                       "%s: not a llama2.c model: width %" PRId32 ", %" PRId32 " heads and %" PRId32
                       " kv heads do not divide evenly",
                       name, h->width, h->heads, h->kv_heads);
    return TN_OK;
}

/* All tensors of one kind lie together, layer by layer. `pattern` has one %d if layers > 0. */
static tn_status take(reader *r, const char *pattern, int layers, int rank, int64_t rows,
                      int64_t columns)
{
    for (int layer = 0; layer < (layers > 0 ? layers : 1); layer++) {
        char name[96];
        tn_weight weight = {.name = name, .dtype = TN_F32, .shape = {rank, {rows, columns}}};
        const char *split = strstr(pattern, "%d");
        if (split)
            snprintf(name, sizeof name, "%.*s%d%s", (int)(split - pattern), pattern, layer,
                     split + 2);
        else snprintf(name, sizeof name, "%s", pattern);
        if (rank == 1) weight.shape.dim[1] = 0;
        if (!tn_weight_extent(TN_F32, TN_CODING_PLAIN, weight.shape, &weight.size))
            return tn_fail(TN_FORMAT, "%s: tensor %s is larger than any memory", r->file, name);
        weight.bytes = tn_cursor_take(&r->cursor, weight.size);
        if (!weight.bytes)
            return tn_fail(TN_FORMAT,
                           "%s: the file ends (%zu bytes) inside tensor %s: it is cut off, or its "
                           "header is damaged",
                           r->file, r->cursor.size, name);
        TN_TRY(tn_weights_add(r->weights, weight));
    }
    return TN_OK;
}

static tn_status make_config(tn_weights *weights, const header *h, bool tied)
{
    json_t *root = json_pack(
        "{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:b, s:b, s:i, s:i}", "model_type",
        "llama", "hidden_size", h->width, "intermediate_size", h->feed_forward, "num_hidden_layers",
        h->layers, "num_attention_heads", h->heads, "num_key_value_heads", h->kv_heads,
        "vocab_size", h->vocabulary, "max_position_embeddings", h->positions, "rms_norm_eps", 1e-5,
        "rope_theta", 10000.0, "rope_interleaved", 1, "tie_word_embeddings", (int)tied,
        "bos_token_id", 1, "eos_token_id", 2);
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    weights->config = text ? tn_arena_string(&weights->arena, text) : NULL;
    free(text);
    json_decref(root);
    return weights->config ? TN_OK : tn_fail(TN_MEMORY, "%s: out of memory", weights->path);
}

tn_status tn_read_llama2c(tn_weights *weights, const uint8_t *bytes, size_t size, const char *name)
{
    reader r = {weights, {bytes, size, 0}, name};
    header h;
    if (!tn_cursor_read(&r.cursor, &h, sizeof h))
        return tn_fail(TN_FORMAT, "%s: %zu bytes are too few for a llama2.c model", name, size);
    bool tied = h.vocabulary > 0;
    if (!tied && h.vocabulary != INT32_MIN) h.vocabulary = -h.vocabulary;
    TN_TRY(check_header(&h, name, size));
    const int64_t head = h.width / h.heads, keys = head * h.kv_heads, width = h.width,
                  feed_forward = h.feed_forward;
    TN_TRY(take(&r, "model.embed_tokens.weight", 0, 2, h.vocabulary, width));
    TN_TRY(take(&r, "model.layers.%d.input_layernorm.weight", h.layers, 1, width, 0));
    TN_TRY(take(&r, "model.layers.%d.self_attn.q_proj.weight", h.layers, 2, width, width));
    TN_TRY(take(&r, "model.layers.%d.self_attn.k_proj.weight", h.layers, 2, keys, width));
    TN_TRY(take(&r, "model.layers.%d.self_attn.v_proj.weight", h.layers, 2, keys, width));
    TN_TRY(take(&r, "model.layers.%d.self_attn.o_proj.weight", h.layers, 2, width, width));
    TN_TRY(take(&r, "model.layers.%d.post_attention_layernorm.weight", h.layers, 1, width, 0));
    TN_TRY(take(&r, "model.layers.%d.mlp.gate_proj.weight", h.layers, 2, feed_forward, width));
    TN_TRY(take(&r, "model.layers.%d.mlp.down_proj.weight", h.layers, 2, width, feed_forward));
    TN_TRY(take(&r, "model.layers.%d.mlp.up_proj.weight", h.layers, 2, feed_forward, width));
    TN_TRY(take(&r, "model.norm.weight", 0, 1, width, 0));
    /* Two tables of rotary angles, [positions, head/2] each, which can be computed. */
    if (!tn_cursor_take(&r.cursor, (size_t)h.positions * (size_t)head * sizeof(float)))
        return tn_fail(TN_FORMAT,
                       "%s: the file ends (%zu bytes) inside the rotary tables: it is cut off",
                       name, size);
    if (!tied) TN_TRY(take(&r, "lm_head.weight", 0, 2, h.vocabulary, width));
    if (tn_cursor_left(&r.cursor) > 0)
        return tn_fail(
            TN_FORMAT,
            "%s: %zu bytes follow the last tensor: not a llama2.c model, or its header is damaged",
            name, tn_cursor_left(&r.cursor));
    return make_config(weights, &h, tied);
}
