/* Opened sets of named tensors: which format, where, finding by name. */
#include "tenon/weights.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/string.h"
#include "data/weight_set.h"

/* ---- building a set ------------------------------------------------------------------ */

bool tn_weight_extent(tn_dtype dtype, tn_weight_coding coding, tn_shape shape, size_t *size)
{
    int64_t count = tn_shape_size(shape);
    if (count < 0) return false;
    if (coding == TN_CODING_PLAIN) return tn_mul_size((size_t)count, tn_dtype_size(dtype), size);
    if (shape.rank < 1 || shape.dim[shape.rank - 1] % TN_BLOCK) return false;
    size_t block = coding == TN_CODING_Q8_0 ? TN_Q8_0_BYTES : TN_Q4_0_BYTES;
    return tn_mul_size((size_t)count / TN_BLOCK, block, size);
}

/* The slot where `name` is or would be. */
static size_t find_slot(const tn_weights *weights, const char *name)
{
    size_t mask = weights->slot_count - 1, i = tn_fnv1a(name, strlen(name)) & mask;
    while (weights->slot[i] && strcmp(weights->tensor[weights->slot[i] - 1].name, name) != 0)
        i = (i + 1) & mask;
    return i;
}

static tn_status make_room(tn_weights *weights)
{
    if (weights->count < weights->capacity) return TN_OK;
    if (weights->capacity > INT_MAX / 4)
        return tn_fail(TN_FORMAT, "%s: too many tensors", weights->path);
    int capacity = weights->capacity ? 2 * weights->capacity : 64;
    tn_weight *tensor = realloc(weights->tensor, (size_t)capacity * sizeof *tensor);
    if (!tensor) return tn_fail(TN_MEMORY, "%s: out of memory", weights->path);
    weights->tensor = tensor;
    size_t slot_count = (size_t)capacity * 2;
    int32_t *slot = calloc(slot_count, sizeof *slot);
    if (!slot) return tn_fail(TN_MEMORY, "%s: out of memory", weights->path);
    free(weights->slot);
    weights->slot = slot;
    weights->slot_count = slot_count;
    weights->capacity = capacity;
    for (int i = 0; i < weights->count; i++) slot[find_slot(weights, tensor[i].name)] = i + 1;
    return TN_OK;
}

tn_status tn_weights_add(tn_weights *weights, tn_weight weight)
{
    if (weight.name[0] == '\0')
        return tn_fail(TN_FORMAT, "%s: a tensor has no name", weights->path);
    TN_TRY(make_room(weights));
    size_t i = find_slot(weights, weight.name);
    if (weights->slot[i])
        return tn_fail(TN_FORMAT, "%s: tensor \"%s\" is there twice", weights->path, weight.name);
    weight.name = tn_arena_string(&weights->arena, weight.name);
    if (!weight.name) return TN_MEMORY;
    weights->tensor[weights->count++] = weight;
    weights->slot[i] = weights->count;
    return TN_OK;
}

tn_status tn_weights_add_text(tn_weights *weights, const char *key, const char *value)
{
    if (weights->text_count == weights->text_capacity) {
        int capacity = weights->text_capacity ? 2 * weights->text_capacity : 16;
        tn_weights_text *text = realloc(weights->text, (size_t)capacity * sizeof *text);
        if (!text) return tn_fail(TN_MEMORY, "%s: out of memory", weights->path);
        weights->text = text;
        weights->text_capacity = capacity;
    }
    tn_weights_text entry = {tn_arena_string(&weights->arena, key),
                             tn_arena_string(&weights->arena, value)};
    if (!entry.key || !entry.value) return TN_MEMORY;
    weights->text[weights->text_count++] = entry;
    return TN_OK;
}

tn_status tn_weights_map(tn_weights *weights, const char *path, tn_file *file)
{
    tn_file *grown = realloc(weights->file, (size_t)(weights->file_count + 1) * sizeof *grown);
    if (!grown) return tn_fail(TN_MEMORY, "%s: out of memory", path);
    weights->file = grown;
    TN_TRY(tn_file_map(path, file));
    grown[weights->file_count++] = *file;
    return TN_OK;
}

static int by_place(const void *a, const void *b)
{
    const tn_weight *x = a, *y = b;
    if (x->bytes != y->bytes) return (const uint8_t *)x->bytes < (const uint8_t *)y->bytes ? -1 : 1;
    return x->size < y->size ? -1 : x->size > y->size;
}

tn_weight *tn_weights_in_place_order(const tn_weights *weights, int first)
{
    size_t count = (size_t)(weights->count - first);
    tn_weight *order = malloc((count + 1) * sizeof *order);
    if (!order) {
        tn_fail(TN_MEMORY, "%s: out of memory", weights->path);
        return NULL;
    }
    if (count > 0) memcpy(order, weights->tensor + first, count * sizeof *order);
    qsort(order, count, sizeof *order, by_place);
    return order;
}

/* ---- opening ------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

static bool looks_like_gguf(const uint8_t *bytes, size_t size)
{
    return size >= 4 && memcmp(bytes, "GGUF", 4) == 0;
}

static bool looks_like_safetensors(const uint8_t *bytes, size_t size)
{
    return size > 8 && bytes[8] == '{' && bytes[7] == 0 && bytes[6] == 0;
}

static bool looks_like_json(const uint8_t *bytes, size_t size)
{
    size_t i = 0;
    while (i < size && i < 4096 && strchr(" \t\r\n", bytes[i]) && bytes[i]) i++;
    return i < size && bytes[i] == '{';
}

/* Nothing marks a llama2.c file; its reader checks that seven numbers and the file's size agree to
 * the byte. */
static bool looks_like_llama2c(const uint8_t *bytes, size_t size)
{
    int32_t field[7];
    if (size < sizeof field) return false;
    memcpy(field, bytes, sizeof field);
    for (int i = 0; i < 7; i++)
        if ((field[i] <= 0 && i != 5) || field[i] > 1 << 24) return false;
    return true;
}

static const struct {
    const char *name, *extension;
    bool (*fits)(const uint8_t *bytes, size_t size);
    tn_status (*read)(tn_weights *weights, const uint8_t *bytes, size_t size, const char *name);
} formats[] = {
    {"gguf", ".gguf", looks_like_gguf, tn_read_gguf},
    {"safetensors", ".safetensors", looks_like_safetensors, tn_read_safetensors},
    {"minGPT", ".json", looks_like_json, tn_read_mingpt},
    {"llama2.c", ".bin", looks_like_llama2c, tn_read_llama2c},
};
enum { FORMATS = sizeof formats / sizeof *formats, MARKED = 2 };

/* A known extension decides, but .bin and .json can be many things: there, and elsewhere, it is the
 * content, as far as formats have a mark. -1: none fits. */
static int choose_format(const uint8_t *bytes, size_t size, const char *name)
{
    int by_name = 0, by_content = 0;
    while (by_name < FORMATS && !ends_with(name, formats[by_name].extension)) by_name++;
    while (by_content < FORMATS && !formats[by_content].fits(bytes, size)) by_content++;
    if (by_name < MARKED) return by_name;
    if (by_content < FORMATS) return by_content;
    return by_name < FORMATS ? by_name : -1;
}

static tn_status read_bytes(tn_weights *weights, const uint8_t *bytes, size_t size,
                            const char *name)
{
    int format = choose_format(bytes, size, name);
    if (size >= 4 && memcmp(bytes, "PK\3\4", 4) == 0)
        return tn_fail(TN_UNSUPPORTED,
                       "%s: a ZIP archive, such as PyTorch writes: convert it to safetensors",
                       name);
    if (size == 0) return tn_fail(TN_FORMAT, "%s: the file is empty", name);
    if (format < 0)
        return tn_fail(TN_FORMAT,
                       "%s: not a weights file that is known here (safetensors, GGUF, llama2.c "
                       ".bin, minGPT .json)",
                       name);
    weights->format = formats[format].name;
    return formats[format].read(weights, bytes, size, name);
}

/* config.json beside the tensors, if it is there. */
static tn_status read_config(tn_weights *weights, const char *directory)
{
    enum { MOST = 16 << 20 };
    char *path = tn_arena_format(&weights->arena, "%s/config.json", directory), *text;
    size_t size;
    if (!path) return TN_MEMORY;
    if (weights->config || !tn_file_exists(path)) return TN_OK;
    TN_TRY(tn_file_read(path, MOST, &text, &size));
    tn_json json;
    tn_status status = tn_json_parse(path, text, size, &json); /* valid then, without a NUL */
    if (status == TN_OK) {
        weights->config = tn_arena_string(&weights->arena, text);
        if (!weights->config) status = TN_MEMORY;
        tn_json_free(&json);
    }
    free(text);
    return status;
}

static tn_status open_directory(tn_weights *weights, const char *path)
{
    char *single = tn_arena_format(&weights->arena, "%s/model.safetensors", path);
    char *index = tn_arena_format(&weights->arena, "%s/model.safetensors.index.json", path);
    if (!single || !index) return TN_MEMORY;
    tn_file file = {0};
    weights->format = "safetensors";
    if (tn_file_exists(single)) {
        TN_TRY(tn_weights_map(weights, single, &file));
        TN_TRY(tn_read_safetensors(weights, file.bytes, file.size, single));
    } else if (tn_file_exists(index)) {
        TN_TRY(tn_read_safetensors_shards(weights, index));
    } else {
        return tn_fail(
            TN_IO,
            "%s: neither model.safetensors nor model.safetensors.index.json is in this directory",
            path);
    }
    return read_config(weights, path);
}

static tn_status open_file(tn_weights *weights, const char *path)
{
    char *directory = tn_arena_string(&weights->arena, path);
    if (!directory) return TN_MEMORY;
    char *slash = strrchr(directory, '/');
    if (slash) slash[slash == directory] = '\0';
    if (ends_with(path, ".safetensors.index.json")) {
        weights->format = "safetensors";
        TN_TRY(tn_read_safetensors_shards(weights, path));
    } else {
        tn_file file = {0};
        TN_TRY(tn_weights_map(weights, path, &file));
        TN_TRY(read_bytes(weights, file.bytes, file.size, path));
    }
    return strcmp(weights->format, "safetensors") == 0
               ? read_config(weights, slash ? directory : ".")
               : TN_OK;
}

/* NULL, and a message, when out of memory. */
static tn_weights *create(const char *path)
{
    tn_weights *weights = calloc(1, sizeof *weights);
    if (!weights) {
        tn_fail(TN_MEMORY, "%s: out of memory", path);
        return NULL;
    }
    weights->path = tn_arena_string(&weights->arena, path);
    if (weights->path && make_room(weights) == TN_OK) return weights;
    tn_weights_free(weights);
    return NULL;
}

/* Hands the set over, or frees it and says why not. */
static tn_status finish(tn_status status, tn_weights *weights, tn_weights **out)
{
    if (status == TN_OK) *out = weights;
    else tn_weights_free(weights);
    return status;
}

tn_status tn_weights_open(const char *path, tn_weights **out)
{
    *out = NULL;
    tn_weights *weights = create(path);
    if (!weights) return TN_MEMORY;
    bool directory = tn_directory_exists(path);
    return finish(directory ? open_directory(weights, path) : open_file(weights, path), weights,
                  out);
}

tn_status tn_weights_open_memory(const void *bytes, size_t size, const char *name, tn_weights **out)
{
    *out = NULL;
    tn_weights *weights = create(name);
    if (!weights) return TN_MEMORY;
    return finish(read_bytes(weights, bytes, size, name), weights, out);
}

void tn_weights_free(tn_weights *weights)
{
    if (!weights) return;
    for (int i = 0; i < weights->file_count; i++) tn_file_unmap(&weights->file[i]);
    free(weights->file);
    free(weights->tensor);
    free(weights->slot);
    free(weights->text);
    tn_arena_free(&weights->arena);
    free(weights);
}

/* ---- looking ------------------------------------------------------------------------- */

const char *tn_weights_path(const tn_weights *weights) { return weights->path; }
const char *tn_weights_format(const tn_weights *weights) { return weights->format; }
int tn_weights_count(const tn_weights *weights) { return weights->count; }
const tn_weight *tn_weights_at(const tn_weights *weights, int index)
{
    return &weights->tensor[index];
}
const char *tn_weights_config(const tn_weights *weights) { return weights->config; }
int tn_weights_metadata_count(const tn_weights *weights) { return weights->text_count; }

void tn_weights_metadata_at(const tn_weights *weights, int index, const char **key,
                            const char **value)
{
    *key = weights->text[index].key;
    *value = weights->text[index].value;
}

const char *tn_weights_metadata(const tn_weights *weights, const char *key)
{
    for (int i = 0; i < weights->text_count; i++)
        if (strcmp(weights->text[i].key, key) == 0) return weights->text[i].value;
    return NULL;
}

const tn_weight *tn_weights_find(const tn_weights *weights, const char *name)
{
    int32_t index = weights->slot[find_slot(weights, name)];
    return index ? &weights->tensor[index - 1] : NULL;
}

tn_status tn_weights_missing(const tn_weights *weights, const char *name)
{
    const char **names = malloc(((size_t)weights->count + 1) * sizeof *names);
    const char *nearest = NULL;
    const tn_weight *tensor = weights->tensor;
    for (int i = 0; names && tensor && i < weights->count; i++) names[i] = tensor[i].name;
    if (names) nearest = tn_closest(name, names, (size_t)weights->count);
    free(names);
    if (nearest)
        return tn_fail(TN_FORMAT, "%s: tensor \"%s\" is missing (the nearest name of %d is \"%s\")",
                       weights->path, name, weights->count, nearest);
    return tn_fail(TN_FORMAT, "%s: tensor \"%s\" is missing (there are %d others)", weights->path,
                   name, weights->count);
}

static const char *shape_text(tn_shape shape, char text[192])
{
    size_t used = (size_t)snprintf(text, 192, "[");
    for (int i = 0; i < shape.rank; i++)
        used += (size_t)snprintf(text + used, 192 - used, "%s%" PRId64, i ? ", " : "",
                                 shape.dim[i]);
    snprintf(text + used, 192 - used, "]");
    return text;
}

tn_status tn_weights_require(const tn_weights *weights, const char *name, tn_shape shape,
                             const tn_weight **out)
{
    char is[192], wanted[192];
    *out = tn_weights_find(weights, name);
    if (!*out) return tn_weights_missing(weights, name);
    if (!tn_shape_equal((*out)->shape, shape))
        return tn_fail(TN_FORMAT, "%s: tensor \"%s\" has shape %s, but %s is wanted", weights->path,
                       name, shape_text((*out)->shape, is), shape_text(shape, wanted));
    return TN_OK;
}
