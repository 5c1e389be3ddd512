/* Opened sets of named tensors: which format, finding by name, conversion to f32. */
#include "tenon/weights.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/half.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/string.h"
#include "base/threads.h"
#include "data/weight_set.h"

enum { BLOCK = 32, Q8_0_BYTES = 2 + BLOCK, Q4_0_BYTES = 2 + BLOCK / 2 };

/* ---- building a set ------------------------------------------------------------------ */

bool tn_weight_extent(tn_dtype dtype, tn_weight_coding coding, tn_shape shape, size_t *size)
{
    int64_t count = tn_shape_size(shape);
    if (count < 0) return false;
    if (coding == TN_CODING_PLAIN) return tn_mul_size((size_t)count, tn_dtype_size(dtype), size);
    if (shape.rank < 1 || shape.dim[shape.rank - 1] % BLOCK) return false;
    return tn_mul_size((size_t)count / BLOCK, coding == TN_CODING_Q8_0 ? Q8_0_BYTES : Q4_0_BYTES,
                       size);
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
    if (size >= 2 && memcmp(bytes, "PK", 2) == 0)
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
    tn_status status = tn_json_parse(path, text, size,
                                     &json); /* so that it is valid and has no NUL inside */
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
    tn_file file;
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
        tn_file file;
        TN_TRY(tn_weights_map(weights, path, &file));
        TN_TRY(read_bytes(weights, file.bytes, file.size, path));
    }
    return strcmp(weights->format, "safetensors") == 0
               ? read_config(weights, slash ? directory : ".")
               : TN_OK;
}

static tn_status create(const char *path, tn_weights **out)
{
    *out = NULL;
    tn_weights *weights = calloc(1, sizeof *weights);
    if (!weights) return tn_fail(TN_MEMORY, "%s: out of memory", path);
    weights->path = tn_arena_string(&weights->arena, path);
    *out = weights;
    return weights->path ? make_room(weights) : TN_MEMORY;
}

tn_status tn_weights_open(const char *path, tn_weights **out)
{
    tn_weights *weights;
    tn_status status = create(path, &weights);
    if (status == TN_OK)
        status = tn_directory_exists(path) ? open_directory(weights, path)
                                           : open_file(weights, path);
    if (status != TN_OK) tn_weights_free(weights);
    *out = status == TN_OK ? weights : NULL;
    return status;
}

tn_status tn_weights_open_memory(const void *bytes, size_t size, const char *name, tn_weights **out)
{
    tn_weights *weights;
    tn_status status = create(name, &weights);
    if (status == TN_OK) status = read_bytes(weights, bytes, size, name);
    if (status != TN_OK) tn_weights_free(weights);
    *out = status == TN_OK ? weights : NULL;
    return status;
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

static tn_status fail_missing(const tn_weights *weights, const char *name)
{
    const char **names = malloc(((size_t)weights->count + 1) * sizeof *names);
    const char *nearest = NULL;
    for (int i = 0; names && i < weights->count; i++) names[i] = weights->tensor[i].name;
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
    if (!*out) return fail_missing(weights, name);
    if (!tn_shape_equal((*out)->shape, shape))
        return tn_fail(TN_FORMAT, "%s: tensor \"%s\" has shape %s, but %s is wanted", weights->path,
                       name, shape_text((*out)->shape, is), shape_text(shape, wanted));
    return TN_OK;
}

/* ---- conversion ----------------------------------------------------------------------
 * Elements [begin, end) of a tensor to f32. Sources may lie at any address, so elements are copied
 * out, which compiles to plain loads. */

#define EXPAND(type, expression)                                                                   \
    for (int64_t i = begin; i < end; i++) {                                                        \
        type x;                                                                                    \
        memcpy(&x, bytes + (size_t)i * sizeof x, sizeof x);                                        \
        out[i] = (expression);                                                                     \
    }

static void expand_plain(tn_dtype dtype, const uint8_t *bytes, int64_t begin, int64_t end,
                         float *out)
{
    switch (dtype) {
    case TN_F32:
        memcpy(out + begin, bytes + (size_t)begin * sizeof(float),
               (size_t)(end - begin) * sizeof(float));
        break;
    case TN_F64: EXPAND(double, (float)x) break;
    case TN_BF16: EXPAND(uint16_t, tn_f32_from_bf16(x)) break;
    case TN_F16: EXPAND(uint16_t, tn_f32_from_f16(x)) break;
    case TN_I64: EXPAND(int64_t, (float)x) break;
    case TN_I32: EXPAND(int32_t, (float)x) break;
    case TN_I8: EXPAND(int8_t, (float)x) break;
    case TN_U8: EXPAND(uint8_t, (float)x) break;
    case TN_BOOL: EXPAND(uint8_t, x != 0 ? 1.0F : 0.0F) break;
    case TN_DTYPE_COUNT: break;
    }
}

static float block_scale(const uint8_t *block)
{
    uint16_t half;
    memcpy(&half, block, sizeof half);
    return tn_f32_from_f16(half);
}

static void expand_q8_0(const uint8_t *bytes, int64_t begin, int64_t end, float *out)
{
    for (int64_t b = begin; b < end; b++) {
        const uint8_t *block = bytes + (size_t)b * Q8_0_BYTES;
        float scale = block_scale(block);
        for (int i = 0; i < BLOCK; i++) out[b * BLOCK + i] = scale * (float)(int8_t)block[2 + i];
    }
}

static void expand_q4_0(const uint8_t *bytes, int64_t begin, int64_t end, float *out)
{
    for (int64_t b = begin; b < end; b++) {
        const uint8_t *block = bytes + (size_t)b * Q4_0_BYTES;
        float scale = block_scale(block);
        for (int i = 0; i < BLOCK / 2; i++) {
            out[b * BLOCK + i] = scale * (float)((block[2 + i] & 15) - 8);
            out[b * BLOCK + BLOCK / 2 + i] = scale * (float)((block[2 + i] >> 4) - 8);
        }
    }
}

/* Work is cut into chunks of CHUNK elements, whatever the number of threads. */
enum { CHUNK = 1 << 16 };

typedef struct pass {
    const tn_weight *weight;
    int64_t count;
    float *out;
    int64_t *bad; /* of each chunk: the first element that is not finite, or -1 */
} pass;

static void expand_chunks(void *context, int64_t first, int64_t last)
{
    const pass *p = context;
    int64_t begin = first * CHUNK, end = last * CHUNK < p->count ? last * CHUNK : p->count;
    switch (p->weight->coding) {
    case TN_CODING_PLAIN:
        expand_plain(p->weight->dtype, p->weight->bytes, begin, end, p->out);
        break;
    case TN_CODING_Q8_0: expand_q8_0(p->weight->bytes, begin / BLOCK, end / BLOCK, p->out); break;
    case TN_CODING_Q4_0: expand_q4_0(p->weight->bytes, begin / BLOCK, end / BLOCK, p->out); break;
    }
}

tn_status tn_weights_read_f32(const tn_weights *weights, const char *name, float *out,
                              int64_t count)
{
    const tn_weight *weight = tn_weights_find(weights, name);
    if (!weight) return fail_missing(weights, name);
    pass p = {.weight = weight, .count = tn_shape_size(weight->shape), .out = out};
    if (p.count != count)
        return tn_fail(TN_FORMAT,
                       "%s: tensor \"%s\" has %" PRId64 " elements, but %" PRId64 " are wanted",
                       weights->path, name, p.count, count);
    if (count > 0) tn_parallel((count + CHUNK - 1) / CHUNK, 2, expand_chunks, &p);
    return TN_OK;
}

/* ---- looking for NaN -----------------------------------------------------------------
 * A float is finite if its exponent bits are not all ones. A chunk is first reduced to one word
 * without branches (so that it runs at the speed of memory) and looked at closely only if there is
 * something. */

#define SCAN(type, exponent)                                                                       \
    do {                                                                                           \
        type found = 0, x;                                                                         \
        for (int64_t i = begin; i < end; i++) {                                                    \
            memcpy(&x, bytes + (size_t)i * sizeof x, sizeof x);                                    \
            found |= (type)((x & (exponent)) == (exponent));                                       \
        }                                                                                          \
        for (int64_t i = begin; found && i < end; i++) {                                           \
            memcpy(&x, bytes + (size_t)i * sizeof x, sizeof x);                                    \
            if ((x & (exponent)) == (exponent)) return i;                                          \
        }                                                                                          \
        return -1;                                                                                 \
    } while (0)

static int64_t first_bad(const tn_weight *weight, int64_t begin, int64_t end)
{
    const uint8_t *bytes = weight->bytes;
    if (weight->coding != TN_CODING_PLAIN) {
        size_t block = weight->coding == TN_CODING_Q8_0 ? Q8_0_BYTES : Q4_0_BYTES;
        for (int64_t b = begin / BLOCK; b < end / BLOCK; b++) {
            uint16_t scale;
            memcpy(&scale, bytes + (size_t)b * block, sizeof scale);
            if ((scale & 0x7c00) == 0x7c00) return b * BLOCK;
        }
        return -1;
    }
    switch (weight->dtype) {
    case TN_F64: SCAN(uint64_t, UINT64_C(0x7ff0000000000000));
    case TN_F32: SCAN(uint32_t, UINT32_C(0x7f800000));
    case TN_BF16: SCAN(uint16_t, 0x7f80);
    case TN_F16: SCAN(uint16_t, 0x7c00);
    default: return -1;
    }
}

static void scan_chunks(void *context, int64_t first, int64_t last)
{
    const pass *p = context;
    for (int64_t c = first; c < last; c++)
        p->bad[c] = first_bad(p->weight, c * CHUNK,
                              (c + 1) * CHUNK < p->count ? (c + 1) * CHUNK : p->count);
}

tn_status tn_weights_check_finite(const tn_weights *weights)
{
    int64_t chunks = 1;
    for (int i = 0; i < weights->count; i++) {
        int64_t need = tn_shape_size(weights->tensor[i].shape) / CHUNK + 1;
        if (need > chunks) chunks = need;
    }
    int64_t *bad = malloc((size_t)chunks * sizeof *bad);
    if (!bad) return tn_fail(TN_MEMORY, "%s: out of memory", weights->path);
    tn_status status = TN_OK;
    for (int i = 0; status == TN_OK && i < weights->count; i++) {
        const tn_weight *weight = &weights->tensor[i];
        pass p = {.weight = weight, .count = tn_shape_size(weight->shape), .bad = bad};
        if (!tn_dtype_is_float(weight->dtype) || p.count == 0) continue;
        int64_t used = (p.count + CHUNK - 1) / CHUNK;
        tn_parallel(used, 2, scan_chunks, &p);
        for (int64_t c = 0; status == TN_OK && c < used; c++)
            if (bad[c] >= 0)
                status = tn_fail(
                    TN_FORMAT,
                    "%s: tensor \"%s\": element %" PRId64 " of %" PRId64
                    " is NaN or infinite: the file was damaged, or its training diverged",
                    weights->path, weight->name, bad[c], p.count);
    }
    free(bad);
    return status;
}
