/* Any readable model to a directory in the Hugging Face layout: config.json, model.safetensors,
 * tokenizer.json. One tensor is in memory at a time. */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/half.h"
#include "base/status.h"
#include "tenon/infer.h"

/* Rotary pairs (2i, 2i+1) of every head become halves (i, i + Q/2): Hugging Face's order. */
static void part_pairs(float *rows, float *copy, int64_t heads, int64_t head_width, int64_t width)
{
    int64_t half = head_width / 2;
    size_t row = (size_t)width * sizeof *rows;
    for (int64_t h = 0; h < heads; h++) {
        float *head = rows + h * head_width * width;
        memcpy(copy, head, (size_t)head_width * row);
        for (int64_t i = 0; i < half; i++) {
            memcpy(head + i * width, copy + 2 * i * width, row);
            memcpy(head + (half + i) * width, copy + (2 * i + 1) * width, row);
        }
    }
}

/* Whether the tensor is a projection whose rows are turned by rotary positions, and its heads. */
static int64_t turned_heads(const tn_infer_config *c, const char *name)
{
    if (c->family != TN_INFER_LLAMA || !c->rope_interleaved) return 0;
    if (strstr(name, "self_attn.q_proj.")) return c->heads;
    return strstr(name, "self_attn.k_proj.") ? c->kv_heads : 0;
}

/* In place: `count` floats become elements of `dtype` at the front. */
static void narrow(void *values, int64_t count, tn_dtype dtype)
{
    const float *from = values;
    uint16_t *to = values;
    for (int64_t i = 0; i < count && dtype != TN_F32; i++)
        to[i] = dtype == TN_BF16 ? tn_bf16_from_f32(from[i]) : tn_f16_from_f32(from[i]);
}

static tn_status write_tensor(const tn_weights *weights, const tn_infer_config *c,
                              const tn_weight *w, tn_dtype dtype, tn_weights_writer *writer)
{
    int64_t count = tn_shape_size(w->shape), heads = turned_heads(c, w->name),
            last = w->shape.rank > 1 ? w->shape.dim[w->shape.rank - 1] : 1;
    if (!tn_dtype_is_float(w->dtype)) return tn_weights_append(writer, w->bytes, w->size);
    float *values = malloc((size_t)(count > 0 ? count : 1) * sizeof *values),
          *copy = heads ? malloc((size_t)(c->head_width * last) * sizeof *copy) : NULL;
    tn_status status = values && (!heads || copy)
                           ? tn_weights_read_f32(weights, w->name, values, count)
                           : tn_fail(TN_MEMORY, "out of memory for tensor %s", w->name);
    if (status == TN_OK && heads) part_pairs(values, copy, heads, c->head_width, last);
    if (status == TN_OK) {
        narrow(values, count, dtype);
        status = tn_weights_append(writer, values, (size_t)count * tn_dtype_size(dtype));
    }
    free(values);
    free(copy);
    return status;
}

static tn_status write_tensors(const tn_weights *weights, const tn_infer_config *c, tn_dtype dtype,
                               const char *path)
{
    int count = tn_weights_count(weights);
    tn_weight *list = calloc((size_t)count + 1, sizeof *list);
    if (!list) return tn_fail(TN_MEMORY, "%s: out of memory", path);
    for (int i = 0; i < count; i++) {
        list[i] = *tn_weights_at(weights, i);
        list[i].coding = TN_CODING_PLAIN;
        if (tn_dtype_is_float(list[i].dtype)) list[i].dtype = dtype;
    }
    static const tn_weights_text text[] = {{"format", "pt"}};
    tn_weights_writer *writer = NULL;
    tn_status status = tn_weights_begin(path, list, count, text, 1, &writer);
    for (int i = 0; i < count && status == TN_OK; i++)
        status = write_tensor(weights, c, tn_weights_at(weights, i), dtype, writer);
    free(list);
    if (status == TN_OK) return tn_weights_commit(writer);
    tn_weights_abort(writer);
    return status;
}

tn_status tn_infer_convert(const tn_weights *weights, const tn_tokenizer *tokenizer, tn_dtype dtype,
                           const char *directory)
{
    tn_infer_config config;
    if (dtype != TN_F32 && dtype != TN_BF16 && dtype != TN_F16)
        return tn_fail(TN_INVALID, "weights cannot be written as %s; use f32, bf16 or f16",
                       tn_dtype_name(dtype));
    TN_TRY(tn_infer_config_of(weights, &config));
    TN_TRY(tn_make_directories(directory));
    tn_arena arena = {0};
    const char *tensors = tn_arena_format(&arena, "%s/model.safetensors", directory),
               *about = tn_arena_format(&arena, "%s/config.json", directory),
               *words = tn_arena_format(&arena, "%s/tokenizer.json", directory);
    tn_status status = tensors && about && words ? TN_OK : TN_MEMORY;
    if (status == TN_OK) status = write_tensors(weights, &config, dtype, tensors);
    if (config.family == TN_INFER_LLAMA) config.rope_interleaved = false;
    if (status == TN_OK) status = tn_infer_config_save(&config, about);
    if (status == TN_OK && tokenizer) status = tn_tokenizer_save(tokenizer, words);
    tn_arena_free(&arena);
    return status;
}
