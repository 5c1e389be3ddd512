/* Model configurations: config.json in the Hugging Face fashion, read strictly. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "tenon/infer.h"

static const char *const families[] = {"llama", "gpt2", "palm"};
/* Model types that are Llama in all that matters here. */
static const char *const types[] = {"llama", "gpt2", "palm", "mistral"};
static const tn_infer_family family_of_type[] = {TN_INFER_LLAMA, TN_INFER_GPT2, TN_INFER_PALM,
                                                 TN_INFER_LLAMA};

#define MOST 1048576 /* no dimension of a model on one machine is larger */

static tn_status integer(const tn_json *json, const json_t *root, const char *key,
                         const char *other, tn_json_need need, int64_t *out)
{
    if (other && !json_object_get(root, key))
        key = other; /* GPT-2 calls them n_embd, n_head, ... */
    return tn_json_integer(json, root, key, need, 1, MOST, out);
}

static tn_status check_heads(const tn_json *json, const json_t *root, const tn_infer_config *c)
{
    if (c->heads % c->kv_heads) {
        char divisors[128] = "";
        size_t used = 0;
        for (int64_t k = 1; k <= c->heads && used < sizeof divisors - 16; k++)
            if (c->heads % k == 0)
                used += (size_t)snprintf(divisors + used, sizeof divisors - used, "%s%lld",
                                         used ? ", " : "", (long long)k);
        return tn_json_fail(json, root, "num_key_value_heads",
                            "is %lld, but num_attention_heads is %lld; use one of %s",
                            (long long)c->kv_heads, (long long)c->heads, divisors);
    }
    if (c->family != TN_INFER_GPT2 && c->head_width % 2)
        return tn_json_fail(json, root, "head_dim",
                            "is %lld; rotary positions turn pairs, so it must be even",
                            (long long)c->head_width);
    return TN_OK;
}

static tn_status read_config(const tn_json *json, const json_t *root, tn_infer_config *c)
{
    *c = (tn_infer_config){.norm_epsilon = 1e-6, .rope_base = 10000, .bos = -1, .eos = -1};
    if (!json_is_object(root))
        return tn_json_fail(json, root, NULL, "a configuration must be a JSON object");
    int type = 0;
    TN_TRY(tn_json_choice(json, root, "model_type", TN_JSON_OPTIONAL, types,
                          sizeof types / sizeof *types, &type));
    c->family = family_of_type[type];
    bool gpt2 = c->family == TN_INFER_GPT2;
    TN_TRY(integer(json, root, "num_hidden_layers", gpt2 ? "n_layer" : NULL, TN_JSON_REQUIRED,
                   &c->layers));
    TN_TRY(integer(json, root, "hidden_size", gpt2 ? "n_embd" : NULL, TN_JSON_REQUIRED, &c->width));
    TN_TRY(integer(json, root, "num_attention_heads", gpt2 ? "n_head" : NULL, TN_JSON_REQUIRED,
                   &c->heads));
    TN_TRY(integer(json, root, "vocab_size", NULL, TN_JSON_REQUIRED, &c->vocabulary));
    c->feed_forward = 4 * c->width;
    TN_TRY(integer(json, root, "intermediate_size", gpt2 ? "n_inner" : NULL,
                   gpt2 ? TN_JSON_OPTIONAL : TN_JSON_REQUIRED, &c->feed_forward));
    c->context = 1024;
    TN_TRY(integer(json, root, "max_position_embeddings", gpt2 ? "n_positions" : NULL,
                   TN_JSON_OPTIONAL, &c->context));
    c->kv_heads = c->family == TN_INFER_PALM ? 1 : c->heads;
    TN_TRY(integer(json, root, "num_key_value_heads", NULL, TN_JSON_OPTIONAL, &c->kv_heads));
    if (!json_object_get(root, "head_dim") && c->width % c->heads)
        return tn_json_fail(json, root, "hidden_size",
                            "is %lld, which %lld heads do not divide; give head_dim",
                            (long long)c->width, (long long)c->heads);
    c->head_width = c->width / c->heads;
    TN_TRY(integer(json, root, "head_dim", NULL, TN_JSON_OPTIONAL, &c->head_width));
    TN_TRY(tn_json_number(json, root, gpt2 ? "layer_norm_epsilon" : "rms_norm_eps",
                          TN_JSON_OPTIONAL, 0, 1, &c->norm_epsilon));
    TN_TRY(tn_json_number(json, root, "rope_theta", TN_JSON_OPTIONAL, 1, 1e12, &c->rope_base));
    TN_TRY(tn_json_boolean(json, root, "rope_interleaved", TN_JSON_OPTIONAL, &c->rope_interleaved));
    c->tied = c->family != TN_INFER_LLAMA;
    TN_TRY(tn_json_boolean(json, root, "tie_word_embeddings", TN_JSON_OPTIONAL, &c->tied));
    TN_TRY(tn_json_integer(json, root, "bos_token_id", TN_JSON_OPTIONAL, -1, c->vocabulary - 1,
                           &c->bos));
    TN_TRY(tn_json_integer(json, root, "eos_token_id", TN_JSON_OPTIONAL, -1, c->vocabulary - 1,
                           &c->eos));
    return check_heads(json, root, c);
}

tn_status tn_infer_config_load(const char *path, tn_infer_config *config)
{
    tn_json json = {0};
    tn_status status = tn_json_load(path, 16u << 20, &json);
    if (status == TN_OK) status = read_config(&json, json.root, config);
    tn_json_free(&json);
    return status;
}

tn_status tn_infer_config_of(const tn_weights *weights, tn_infer_config *config)
{
    const char *text = tn_weights_config(weights);
    if (!text)
        return tn_fail(
            TN_FORMAT,
            "%s: no configuration stands with these weights; put a config.json beside them",
            tn_weights_path(weights));
    tn_json json = {0};
    tn_status status = tn_json_parse(tn_weights_path(weights), text, strlen(text), &json);
    if (status == TN_OK) status = read_config(&json, json.root, config);
    tn_json_free(&json);
    return status;
}

tn_status tn_infer_config_save(const tn_infer_config *c, const char *path)
{
    json_t *root = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:b, s:b, s:I, s:I}", "model_type",
        families[c->family], "num_hidden_layers", (json_int_t)c->layers, "hidden_size",
        (json_int_t)c->width, "intermediate_size", (json_int_t)c->feed_forward,
        "num_attention_heads", (json_int_t)c->heads, "num_key_value_heads", (json_int_t)c->kv_heads,
        "head_dim", (json_int_t)c->head_width, "vocab_size", (json_int_t)c->vocabulary,
        "max_position_embeddings", (json_int_t)c->context,
        c->family == TN_INFER_GPT2 ? "layer_norm_epsilon" : "rms_norm_eps", c->norm_epsilon,
        "rope_theta", c->rope_base, "rope_interleaved", (int)c->rope_interleaved,
        "tie_word_embeddings", (int)c->tied, "bos_token_id", (json_int_t)c->bos, "eos_token_id",
        (json_int_t)c->eos);
    if (!root) return tn_fail(TN_MEMORY, "%s: out of memory", path);
    tn_status status = tn_json_save(path, root);
    json_decref(root);
    return status;
}

int64_t tn_infer_parameter_count(const tn_infer_config *c)
{
    int64_t hq = c->heads * c->head_width, kq = c->kv_heads * c->head_width, e = c->width,
            f = c->feed_forward;
    int64_t block, outside = c->vocabulary * e * (c->tied ? 1 : 2);
    if (c->family == TN_INFER_GPT2) {
        block = 4 * e + (e + 1) * (hq + 2 * kq) + (hq + 1) * e + (e + 1) * f + (f + 1) * e;
        outside += c->context * e + 2 * e;
    } else {
        block = (c->family == TN_INFER_PALM ? 1 : 2) * e + e * (hq + 2 * kq) + hq * e + 3 * e * f;
        outside += e;
    }
    return c->layers * block + outside;
}
