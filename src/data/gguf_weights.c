/* The tensors of a GGUF file as weights, with the names that Hugging Face gives them if they are a
 * Llama's. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/checked.h"
#include "data/gguf.h"
#include "data/weight_set.h"

/* ---- element types: ggml's numbers --------------------------------------------------- */

static const struct {
    uint32_t type;
    tn_dtype dtype;
    tn_weight_coding coding;
} known[] = {
    {0, TN_F32, TN_CODING_PLAIN},  {1, TN_F16, TN_CODING_PLAIN},  {2, TN_F32, TN_CODING_Q4_0},
    {8, TN_F32, TN_CODING_Q8_0},   {24, TN_I8, TN_CODING_PLAIN},  {26, TN_I32, TN_CODING_PLAIN},
    {27, TN_I64, TN_CODING_PLAIN}, {28, TN_F64, TN_CODING_PLAIN}, {30, TN_BF16, TN_CODING_PLAIN},
};
enum { KNOWN = sizeof known / sizeof *known };

/* For messages: what people call them. */
static const char *const type_name[] = {
    [0] = "F32",     [1] = "F16",      [2] = "Q4_0",   [3] = "Q4_1",    [6] = "Q5_0",
    [7] = "Q5_1",    [8] = "Q8_0",     [9] = "Q8_1",   [10] = "Q2_K",   [11] = "Q3_K",
    [12] = "Q4_K",   [13] = "Q5_K",    [14] = "Q6_K",  [15] = "Q8_K",   [16] = "IQ2_XXS",
    [17] = "IQ2_XS", [18] = "IQ3_XXS", [19] = "IQ1_S", [20] = "IQ4_NL", [21] = "IQ3_S",
    [22] = "IQ2_S",  [23] = "IQ4_XS",  [24] = "I8",    [25] = "I16",    [26] = "I32",
    [27] = "I64",    [28] = "F64",     [29] = "IQ1_M", [30] = "BF16",
};

static tn_status find_type(const tn_gguf *gguf, const tn_gguf_tensor *tensor, tn_weight *weight)
{
    for (int i = 0; i < KNOWN; i++) {
        if (known[i].type != tensor->type) continue;
        weight->dtype = known[i].dtype;
        weight->coding = known[i].coding;
        return TN_OK;
    }
    const char *name = tensor->type < sizeof type_name / sizeof *type_name ? type_name[tensor->type]
                                                                           : NULL;
    return tn_fail(
        TN_UNSUPPORTED,
        "%s: tensor \"%s\" has type %s (%" PRIu32
        "); F32, F16, BF16, Q8_0 and Q4_0 can be read: quantise the model to one of these",
        gguf->name, tensor->name, name ? name : "unknown", tensor->type);
}

/* ---- names --------------------------------------------------------------------------- */

static const struct {
    const char *gguf, *ours;
} outside[] = {{"token_embd", "model.embed_tokens"},
               {"output_norm", "model.norm"},
               {"output", "lm_head"}},
  inside[] = {
      {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
      {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
      {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
      {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
      {"ffn_down", "mlp.down_proj"},
};

/* "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; what is unknown stays. */
static void rename_llama(const char *name, char *out, size_t room)
{
    const char *rest = name, *dot;
    unsigned layer = 0;
    int used = 0;
    bool block = sscanf(name, "blk.%6u.%n", &layer, &used) == 1 && used > 0;
    if (block) rest += used;
    snprintf(out, room, "%s", name);
    dot = strchr(rest, '.');
    if (!dot) return;
    size_t length = (size_t)(dot - rest);
    for (size_t i = 0; block && i < sizeof inside / sizeof *inside; i++)
        if (strlen(inside[i].gguf) == length && memcmp(inside[i].gguf, rest, length) == 0)
            snprintf(out, room, "model.layers.%u.%s%s", layer, inside[i].ours, dot);
    for (size_t i = 0; !block && i < sizeof outside / sizeof *outside; i++)
        if (strlen(outside[i].gguf) == length && memcmp(outside[i].gguf, rest, length) == 0)
            snprintf(out, room, "%s%s", outside[i].ours, dot);
}

/* ---- tensors ------------------------------------------------------------------------- */

static tn_status check_overlaps(const tn_weights *weights, const char *name)
{
    tn_weight *order = tn_weights_in_place_order(weights, 0);
    if (!order) return TN_MEMORY;
    tn_status status = TN_OK;
    for (int i = 1; status == TN_OK && i < weights->count; i++)
        if ((const uint8_t *)order[i - 1].bytes + order[i - 1].size >
            (const uint8_t *)order[i].bytes)
            status = tn_fail(TN_FORMAT, "%s: tensors \"%s\" and \"%s\" overlap", name,
                             order[i - 1].name, order[i].name);
    free(order);
    return status;
}

static tn_status add_tensor(tn_weights *weights, const tn_gguf *gguf, const tn_gguf_tensor *tensor,
                            const uint8_t *bytes, size_t size, bool llama)
{
    char name[2048];
    tn_weight weight = {.name = tensor->name, .shape = tensor->shape};
    TN_TRY(find_type(gguf, tensor, &weight));
    if (!tn_weight_extent(weight.dtype, weight.coding, weight.shape, &weight.size))
        return tn_fail(TN_FORMAT, "%s: tensor \"%s\": its shape is impossible%s", gguf->name,
                       tensor->name,
                       weight.coding == TN_CODING_PLAIN
                           ? ""
                           : " (rows of a block format have a multiple of 32 elements)");
    size_t left = size - gguf->data;
    if (tensor->offset > left || weight.size > left - tensor->offset)
        return tn_fail(
            TN_FORMAT,
            "%s: tensor \"%s\" (%zu bytes at %" PRIu64
            ") reaches beyond the file's data (%zu bytes): the file is cut off or damaged",
            gguf->name, tensor->name, weight.size, tensor->offset, left);
    weight.bytes = bytes + gguf->data + tensor->offset;
    if (llama) {
        rename_llama(tensor->name, name, sizeof name);
        weight.name = name;
    }
    return tn_weights_add(weights, weight);
}

/* ---- configuration ------------------------------------------------------------------- */

/* config.json of a Llama from the llama.* keys; none if a necessary one is missing. */
static tn_status make_config(tn_weights *weights, tn_gguf *gguf)
{
    enum { MOST = 1 << 24 };
    static const struct {
        const char *key, *field;
        bool necessary;
    } sizes[] = {
        {"llama.embedding_length", "hidden_size", true},
        {"llama.feed_forward_length", "intermediate_size", true},
        {"llama.block_count", "num_hidden_layers", true},
        {"llama.attention.head_count", "num_attention_heads", true},
        {"llama.context_length", "max_position_embeddings", true},
        {"llama.attention.head_count_kv", "num_key_value_heads", false},
        {"llama.attention.key_length", "head_dim", false},
        {"tokenizer.ggml.bos_token_id", "bos_token_id", false},
        {"tokenizer.ggml.eos_token_id", "eos_token_id", false},
    };
    const tn_weight *embedding = tn_weights_find(weights, "model.embed_tokens.weight");
    double epsilon = 1e-5, base = 10000;
    int64_t vocabulary = embedding && embedding->shape.rank == 2 ? embedding->shape.dim[0] : 0;
    bool complete = true;
    tn_status status = TN_OK;
    json_t *root = json_pack("{s:s, s:b, s:b}", "model_type", "llama", "rope_interleaved", 1,
                             "tie_word_embeddings",
                             tn_weights_find(weights, "lm_head.weight") == NULL);
    for (size_t i = 0; status == TN_OK && i < sizeof sizes / sizeof *sizes; i++) {
        int64_t value = -1;
        status = tn_gguf_integer(gguf, sizes[i].key, 0, MOST, &value);
        if (value >= 0) json_object_set_new(root, sizes[i].field, json_integer(value));
        else if (sizes[i].necessary) complete = false;
    }
    if (status == TN_OK)
        status = tn_gguf_number(gguf, "llama.attention.layer_norm_rms_epsilon", &epsilon);
    if (status == TN_OK) status = tn_gguf_number(gguf, "llama.rope.freq_base", &base);
    if (status == TN_OK && vocabulary == 0)
        status = tn_gguf_integer(gguf, "llama.vocab_size", 1, MOST, &vocabulary);
    json_object_set_new(root, "vocab_size", json_integer(vocabulary));
    json_object_set_new(root, "rms_norm_eps", json_real(epsilon));
    json_object_set_new(root, "rope_theta", json_real(base));
    if (status == TN_OK && complete && vocabulary > 0) {
        char *text = json_dumps(root, JSON_INDENT(2));
        weights->config = text ? tn_arena_string(&weights->arena, text) : NULL;
        free(text);
        if (!weights->config) status = tn_fail(TN_MEMORY, "%s: out of memory", gguf->name);
    }
    json_decref(root);
    return status;
}

/* Other kinds of rotary positions would be run wrongly without anybody noticing. */
static tn_status check_rotary(tn_gguf *gguf)
{
    const char *scaling = "none";
    int64_t width = 0, heads = 1, head_width = 0, turned = 0;
    TN_TRY(tn_gguf_string(gguf, "llama.rope.scaling.type", &scaling));
    if (strcmp(scaling, "none") != 0)
        return tn_fail(
            TN_UNSUPPORTED,
            "%s: llama.rope.scaling.type is \"%s\"; only plain rotary positions can be run",
            gguf->name, scaling);
    TN_TRY(tn_gguf_integer(gguf, "llama.embedding_length", 0, INT32_MAX, &width));
    TN_TRY(tn_gguf_integer(gguf, "llama.attention.head_count", 1, INT32_MAX, &heads));
    head_width = width / heads;
    TN_TRY(tn_gguf_integer(gguf, "llama.attention.key_length", 0, INT32_MAX, &head_width));
    TN_TRY(tn_gguf_integer(gguf, "llama.rope.dimension_count", 0, INT32_MAX, &turned));
    if (turned > 0 && turned != head_width)
        return tn_fail(TN_UNSUPPORTED,
                       "%s: llama.rope.dimension_count is %" PRId64 ", but heads are %" PRId64
                       " wide; only whole heads can be turned",
                       gguf->name, turned, head_width);
    return TN_OK;
}

static tn_status fill(tn_weights *weights, tn_gguf *gguf, const uint8_t *bytes, size_t size)
{
    const char *architecture = "";
    TN_TRY(tn_gguf_string(gguf, "general.architecture", &architecture));
    bool llama = strcmp(architecture, "llama") == 0;
    if (llama) TN_TRY(check_rotary(gguf));
    for (size_t i = 0; i < gguf->value_count; i++) {
        const char *text = tn_gguf_print(gguf, &gguf->value[i]);
        if (text) TN_TRY(tn_weights_add_text(weights, gguf->value[i].key, text));
    }
    for (size_t i = 0; i < gguf->tensor_count; i++)
        TN_TRY(add_tensor(weights, gguf, &gguf->tensor[i], bytes, size, llama));
    TN_TRY(check_overlaps(weights, gguf->name));
    return llama ? make_config(weights, gguf) : TN_OK;
}

tn_status tn_read_gguf(tn_weights *weights, const uint8_t *bytes, size_t size, const char *name)
{
    tn_gguf gguf;
    tn_status status = tn_gguf_parse(bytes, size, name, &gguf);
    if (status == TN_OK) status = fill(weights, &gguf, bytes, size);
    tn_gguf_free(&gguf);
    return status;
}
