/* minGPT's JSON, as llm-viz ships it: one object of "config" and named tensors {shape, dtype,
 * data}, the data base64 of little-endian f32. A file of intermediate results (partials) has the
 * same form. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "data/weight_set.h"

/* ---- base64 (RFC 4648, section 4; strict: padded, nothing between) ------------------- */

static int digit(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes `length` characters into exactly `size` bytes; false if that is not what they are. */
static bool decode_base64(const char *text, size_t length, uint8_t *out, size_t size)
{
    if (length % 4 || length / 4 != size / 3 + (size % 3 != 0)) return false;
    for (size_t at = 0; at < size; at += 3, text += 4) {
        size_t bytes = size - at < 3 ? size - at : 3;
        uint32_t group = 0;
        for (size_t i = 0; i < 4; i++) {
            int value = i <= bytes ? digit(text[i]) : text[i] == '=' ? 0 : -1;
            if (value < 0) return false;
            group = group << 6 | (uint32_t)value;
        }
        for (size_t i = 0; i < 3; i++) {
            uint8_t byte = (uint8_t)(group >> (16 - 8 * i));
            if (i < bytes) out[at + i] = byte;
            else if (byte) return false;
        }
    }
    return true;
}

/* ---- tensors ------------------------------------------------------------------------- */

static tn_status read_shape(const tn_json *json, const json_t *value, tn_shape *shape)
{
    json_t *list = NULL;
    TN_TRY(tn_json_array(json, value, "shape", TN_JSON_REQUIRED, &list));
    if (json_array_size(list) > TN_MAX_RANK)
        return tn_json_fail(json, value, "shape", "has %zu dimensions; at most %d are possible",
                            json_array_size(list), TN_MAX_RANK);
    *shape = (tn_shape){.rank = (int)json_array_size(list)};
    for (int i = 0; i < shape->rank; i++) {
        const json_t *dim = json_array_get(list, (size_t)i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return tn_json_fail(json, value, "shape", "must be a list of whole numbers from 0 up");
        shape->dim[i] = json_integer_value(dim);
    }
    return TN_OK;
}

static tn_status read_tensor(tn_weights *weights, const tn_json *json, const char *name,
                             const json_t *value)
{
    static const char *const dtypes[] = {"torch.float32"};
    const char *data = NULL;
    int dtype;
    tn_weight weight = {.name = name, .dtype = TN_F32};
    TN_TRY(tn_json_choice(json, value, "dtype", TN_JSON_REQUIRED, dtypes, 1, &dtype));
    TN_TRY(read_shape(json, value, &weight.shape));
    TN_TRY(tn_json_string(json, value, "data", TN_JSON_REQUIRED, &data));
    size_t length = json_string_length(json_object_get(value, "data"));
    if (!tn_weight_extent(TN_F32, TN_CODING_PLAIN, weight.shape, &weight.size) ||
        weight.size / 3 > length / 4 + 1)
        return tn_json_fail(
            json, value, "data",
            "has %zu characters, too few for the shape of tensor \"%s\": the file is damaged",
            length, name);
    uint8_t *bytes = tn_arena_alloc(&weights->arena, weight.size);
    if (!bytes) return TN_MEMORY;
    if (!decode_base64(data, length, bytes, weight.size))
        return tn_json_fail(json, value, "data",
                            "is not base64 of the %zu bytes that tensor \"%s\" has by its shape",
                            weight.size, name);
    weight.bytes = bytes;
    return tn_weights_add(weights, weight);
}

/* minGPT's names of sizes as Hugging Face's GPT-2 has them. */
static tn_status make_config(tn_weights *weights, const tn_json *json, const json_t *config)
{
    enum { MOST = 1 << 24 };
    static const struct {
        const char *key, *field;
    } sizes[] = {{"n_layer", "n_layer"},
                 {"n_head", "n_head"},
                 {"n_embd", "n_embd"},
                 {"vocab_size", "vocab_size"},
                 {"block_size", "n_positions"}};
    const tn_weight *classifier = tn_weights_find(weights, "lm_head.weight");
    tn_status status = TN_OK;
    json_t *root = json_pack("{s:s, s:f, s:b}", "model_type", "gpt2", "layer_norm_epsilon", 1e-5,
                             "tie_word_embeddings", classifier == NULL);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && status == TN_OK; i++) {
        int64_t value = 0;
        status = tn_json_integer(json, config, sizes[i].key, TN_JSON_REQUIRED, 1, MOST, &value);
        json_object_set_new(root, sizes[i].field, json_integer(value));
    }
    char *text = status == TN_OK && root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    if (status == TN_OK) {
        weights->config = text ? tn_arena_string(&weights->arena, text) : NULL;
        if (!weights->config) status = tn_fail(TN_MEMORY, "%s: out of memory", weights->path);
    }
    free(text);
    json_decref(root);
    return status;
}

static tn_status fill(tn_weights *weights, const tn_json *json)
{
    json_t *config = NULL;
    const char *key;
    json_t *value;
    TN_TRY(tn_json_object(json, json->root, "config", TN_JSON_REQUIRED, &config));
    json_object_foreach(json->root, key, value)
    {
        if (value != config) TN_TRY(read_tensor(weights, json, key, value));
    }
    if (weights->count == 0) return tn_fail(TN_FORMAT, "%s: no tensors in it", json->name);
    return make_config(weights, json, config);
}

tn_status tn_read_mingpt(tn_weights *weights, const uint8_t *bytes, size_t size, const char *name)
{
    tn_json json;
    TN_TRY(tn_json_parse(name, (const char *)bytes, size, &json));
    tn_status status = fill(weights, &json);
    tn_json_free(&json);
    return status;
}
