/* safetensors: 8 bytes of header length, a JSON header, the tensors' bytes.
 * Source: https://github.com/huggingface/safetensors (the format's description); the rules below
 * are those of its reference reader, without exception: extents fill the data exactly, without
 * holes or overlaps. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/json.h"
#include "base/string.h"
#include "data/cursor.h"
#include "data/weight_set.h"

enum { HEADER_MOST = 100 << 20, HEADER_LENGTH = 8, ALIGNMENT = 64, SHARDS_MOST = 4096 };

static const struct {
    const char *name;
    tn_dtype dtype;
} dtypes[] = {
    {"F32", TN_F32}, {"F64", TN_F64}, {"BF16", TN_BF16}, {"F16", TN_F16},   {"I64", TN_I64},
    {"I32", TN_I32}, {"I8", TN_I8},   {"U8", TN_U8},     {"BOOL", TN_BOOL},
};
enum { DTYPES = sizeof dtypes / sizeof *dtypes };

/* ---- reading ------------------------------------------------------------------------- */

/* One tensor's entry while it is read; messages begin with file and tensor. */
typedef struct entry {
    const char *file, *name;
    const uint8_t *data; /* what the offsets count from */
    size_t data_size;
} entry;

static tn_status read_dtype(const entry *e, const json_t *value, tn_dtype *dtype)
{
    const char *text = json_string_value(json_object_get(value, "dtype"));
    if (!text)
        return tn_fail(TN_FORMAT, "%s: tensor \"%s\": \"dtype\" is missing or not a string",
                       e->file, e->name);
    for (int i = 0; i < DTYPES; i++) {
        if (strcmp(text, dtypes[i].name) != 0) continue;
        *dtype = dtypes[i].dtype;
        return TN_OK;
    }
    return tn_fail(TN_UNSUPPORTED,
                   "%s: tensor \"%s\" has dtype %s; known here are F64, F32, BF16, F16, I64, I32, "
                   "I8, U8, BOOL",
                   e->file, e->name, text);
}

static tn_status read_shape(const entry *e, const json_t *value, tn_shape *shape)
{
    const json_t *list = json_object_get(value, "shape");
    size_t rank = json_array_size(list);
    if (!json_is_array(list))
        return tn_fail(TN_FORMAT, "%s: tensor \"%s\": \"shape\" is missing or not a list", e->file,
                       e->name);
    if (rank > TN_MAX_RANK)
        return tn_fail(TN_UNSUPPORTED,
                       "%s: tensor \"%s\" has %zu dimensions; at most %d are possible", e->file,
                       e->name, rank, TN_MAX_RANK);
    *shape = (tn_shape){.rank = (int)rank};
    for (size_t i = 0; i < rank; i++) {
        const json_t *dim = json_array_get(list, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return tn_fail(TN_FORMAT,
                           "%s: tensor \"%s\": dimension %zu is not a whole number from 0 up",
                           e->file, e->name, i);
        shape->dim[i] = json_integer_value(dim);
    }
    return TN_OK;
}

static tn_status read_extent(const entry *e, const json_t *value, size_t *begin, size_t *end)
{
    const json_t *list = json_object_get(value, "data_offsets");
    const json_t *from = json_array_get(list, 0), *to = json_array_get(list, 1);
    if (json_array_size(list) != 2 || !json_is_integer(from) || !json_is_integer(to) ||
        json_integer_value(from) < 0)
        return tn_fail(
            TN_FORMAT,
            "%s: tensor \"%s\": \"data_offsets\" is not a list of two whole numbers from 0 up",
            e->file, e->name);
    if (json_integer_value(to) < json_integer_value(from))
        return tn_fail(TN_FORMAT, "%s: tensor \"%s\" ends (%lld) before it begins (%lld)", e->file,
                       e->name, (long long)json_integer_value(to),
                       (long long)json_integer_value(from));
    *begin = (size_t)json_integer_value(from);
    *end = (size_t)json_integer_value(to);
    if (*end > e->data_size)
        return tn_fail(TN_FORMAT,
                       "%s: tensor \"%s\" ends at byte %zu of the data, but there are only %zu: "
                       "the file is cut off or damaged",
                       e->file, e->name, *end, e->data_size);
    return TN_OK;
}

static tn_status read_tensor(const entry *e, const json_t *value, tn_weight *weight)
{
    size_t begin = 0, end = 0, size = 0;
    *weight = (tn_weight){.name = e->name};
    if (!json_is_object(value))
        return tn_fail(TN_FORMAT, "%s: tensor \"%s\" is not described by an object", e->file,
                       e->name);
    if (json_object_size(value) != 3)
        return tn_fail(TN_FORMAT,
                       "%s: tensor \"%s\" must have exactly the fields dtype, shape, data_offsets",
                       e->file, e->name);
    TN_TRY(read_dtype(e, value, &weight->dtype));
    TN_TRY(read_shape(e, value, &weight->shape));
    TN_TRY(read_extent(e, value, &begin, &end));
    if (!tn_weight_extent(weight->dtype, TN_CODING_PLAIN, weight->shape, &size))
        return tn_fail(TN_FORMAT, "%s: tensor \"%s\": its shape is larger than any memory", e->file,
                       e->name);
    if (size != end - begin)
        return tn_fail(TN_FORMAT,
                       "%s: tensor \"%s\": shape and dtype make %zu bytes, but its extent has %zu",
                       e->file, e->name, size, end - begin);
    weight->bytes = e->data + begin;
    weight->size = size;
    return TN_OK;
}

/* The extents, in order of place, must meet end to end from the first byte of the data on. */
static tn_status check_cover(const entry *e, const tn_weights *weights, int first)
{
    int count = weights->count - first;
    tn_weight *order = tn_weights_in_place_order(weights, first);
    if (!order) return TN_MEMORY;
    tn_status status = TN_OK;
    size_t covered = 0;
    for (int i = 0; status == TN_OK && i < count; i++) {
        size_t begin = (size_t)((const uint8_t *)order[i].bytes - e->data);
        if (begin < covered)
            status = tn_fail(TN_FORMAT,
                             "%s: tensors \"%s\" and \"%s\" overlap at byte %zu of the data",
                             e->file, order[i - 1].name, order[i].name, begin);
        else if (begin > covered)
            status = tn_fail(
                TN_FORMAT,
                "%s: bytes %zu to %zu of the data, before tensor \"%s\", belong to no tensor",
                e->file, covered, begin, order[i].name);
        covered = begin + order[i].size;
    }
    if (status == TN_OK && covered != e->data_size)
        status = tn_fail(TN_FORMAT, "%s: %zu bytes after the last tensor belong to none", e->file,
                         e->data_size - covered);
    free(order);
    return status;
}

static tn_status read_metadata(tn_weights *weights, const char *name, const json_t *map)
{
    if (!json_is_object(map))
        return tn_fail(TN_FORMAT, "%s: \"__metadata__\" must be an object of strings", name);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, key, value)
    {
        if (!json_is_string(value))
            return tn_fail(TN_FORMAT, "%s: \"__metadata__\": \"%s\" must be a string", name, key);
        TN_TRY(tn_weights_add_text(weights, key, json_string_value(value)));
    }
    return TN_OK;
}

static tn_status read_header(tn_weights *weights, const json_t *root, entry e)
{
    int first = weights->count;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)root, key, value)
    {
        tn_weight weight;
        if (strcmp(key, "__metadata__") == 0) {
            TN_TRY(read_metadata(weights, e.file, value));
            continue;
        }
        e.name = key;
        TN_TRY(read_tensor(&e, value, &weight));
        TN_TRY(tn_weights_add(weights, weight));
    }
    return check_cover(&e, weights, first);
}

tn_status tn_read_safetensors(tn_weights *weights, const uint8_t *bytes, size_t size,
                              const char *name)
{
    tn_cursor cursor = {bytes, size, 0};
    uint64_t length;
    if (!tn_cursor_read(&cursor, &length, sizeof length))
        return tn_fail(TN_FORMAT, "%s: %zu bytes are too few for a safetensors file", name, size);
    if (length > HEADER_MOST)
        return tn_fail(TN_FORMAT,
                       "%s: a header of %" PRIu64
                       " bytes: not a safetensors file (headers have at most 100 MB)",
                       name, length);
    const uint8_t *header = tn_cursor_take(&cursor, (size_t)length);
    if (!header)
        return tn_fail(TN_FORMAT,
                       "%s: the header has %" PRIu64
                       " bytes, but the file only %zu: it is cut off, or not a safetensors file",
                       name, length, size);
    if (length == 0 || header[0] != '{')
        return tn_fail(TN_FORMAT, "%s: the header does not begin with '{': not a safetensors file",
                       name);
    tn_json json;
    TN_TRY(tn_json_parse(name, (const char *)header, (size_t)length, &json));
    entry e = {.file = name, .data = bytes + cursor.at, .data_size = tn_cursor_left(&cursor)};
    tn_status status = read_header(weights, json.root, e);
    tn_json_free(&json);
    return status;
}

/* ---- shards -------------------------------------------------------------------------- */

/* A shard lies beside its index: a name with a path in it could lead anywhere. */
static bool plain_file_name(const char *name)
{
    size_t length = strlen(name);
    const char *end = ".safetensors";
    return length > strlen(end) && name[0] != '.' && !strchr(name, '/') && !strchr(name, '\\') &&
           strcmp(name + length - strlen(end), end) == 0;
}

typedef struct shard {
    const char *name; /* from the index */
    int first, last;  /* its tensors: [first, last) */
} shard;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const shard *)a)->name, ((const shard *)b)->name);
}

static tn_status add_shard(const char *path, const char *tensor, const json_t *value, json_t *seen,
                           shard *shards, int *count)
{
    const char *name = json_string_value(value);
    if (!name || !plain_file_name(name))
        return tn_fail(TN_FORMAT,
                       "%s: tensor \"%s\": a shard must be the name of a .safetensors file in the "
                       "same directory, not %s%s%s",
                       path, tensor, name ? "\"" : "", name ? name : "something else",
                       name ? "\"" : "");
    if (json_object_get(seen, name)) return TN_OK;
    if (*count == SHARDS_MOST)
        return tn_fail(TN_FORMAT, "%s: more than %d shards", path, SHARDS_MOST);
    shards[(*count)++] = (shard){.name = name};
    return json_object_set_new(seen, name, json_true()) == 0
               ? TN_OK
               : tn_fail(TN_MEMORY, "%s: out of memory", path);
}

/* The distinct shards of the weight map in order of name. */
static tn_status list_shards(const char *path, const json_t *map, shard *shards, int *count)
{
    tn_status status = TN_OK;
    json_t *seen = json_object();
    for (void *i = json_object_iter((json_t *)(uintptr_t)map); i && status == TN_OK;
         i = json_object_iter_next((json_t *)(uintptr_t)map, i))
        status = add_shard(path, json_object_iter_key(i), json_object_iter_value(i), seen, shards,
                           count);
    json_decref(seen);
    if (status == TN_OK && *count == 0)
        status = tn_fail(TN_FORMAT, "%s: \"weight_map\" is empty", path);
    if (status == TN_OK) qsort(shards, (size_t)*count, sizeof *shards, by_name);
    return status;
}

static tn_status read_shard(tn_weights *weights, const char *index, shard *s)
{
    const char *slash = strrchr(index, '/');
    char *path = tn_arena_format(&weights->arena, "%.*s%s", slash ? (int)(slash + 1 - index) : 0,
                                 index, s->name);
    tn_file file = {0};
    if (!path) return TN_MEMORY;
    if (!tn_file_exists(path))
        return tn_fail(TN_IO, "%s: shard %s is missing: fetch it again", index, path);
    TN_TRY(tn_weights_map(weights, path, &file));
    s->first = weights->count;
    TN_TRY(tn_read_safetensors(weights, file.bytes, file.size, path));
    s->last = weights->count;
    return TN_OK;
}

/* Index and shards must tell the same: each tensor in the shard where the index says it is. */
static tn_status check_map(const tn_weights *weights, const char *path, const json_t *map,
                           const shard *shards, int count)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, key, value)
    {
        if (!tn_weights_find(weights, key))
            return tn_fail(TN_FORMAT, "%s: tensor \"%s\" is not in shard %s", path, key,
                           json_string_value(value));
    }
    for (int s = 0; s < count; s++) {
        for (int i = shards[s].first; i < shards[s].last; i++) {
            const char *name = weights->tensor[i].name,
                       *said = json_string_value(json_object_get(map, name));
            if (!said)
                return tn_fail(TN_FORMAT, "%s: tensor \"%s\" of shard %s is not in the index", path,
                               name, shards[s].name);
            if (strcmp(said, shards[s].name) != 0)
                return tn_fail(TN_FORMAT, "%s: tensor \"%s\" should be in shard %s, but is in %s",
                               path, name, said, shards[s].name);
        }
    }
    return TN_OK;
}

tn_status tn_read_safetensors_shards(tn_weights *weights, const char *path)
{
    tn_json json = {0};
    json_t *map = NULL;
    int count = 0;
    shard *shards = calloc(SHARDS_MOST, sizeof *shards);
    if (!shards) return tn_fail(TN_MEMORY, "%s: out of memory", path);
    tn_status status = tn_json_load(path, HEADER_MOST, &json);
    if (status == TN_OK)
        status = tn_json_object(&json, json.root, "weight_map", TN_JSON_REQUIRED, &map);
    if (status == TN_OK) status = list_shards(path, map, shards, &count);
    for (int i = 0; status == TN_OK && i < count; i++)
        status = read_shard(weights, path, &shards[i]);
    if (status == TN_OK) status = check_map(weights, path, map, shards, count);
    tn_json_free(&json);
    free(shards);
    return status;
}

/* ---- writing ------------------------------------------------------------------------- */

struct tn_weights_writer {
    tn_file_writer *file;
    char *path;
    uint64_t missing; /* bytes that still have to come */
};

static const char *dtype_name(tn_dtype dtype)
{
    for (int i = 0; i < DTYPES; i++)
        if (dtypes[i].dtype == dtype) return dtypes[i].name;
    return NULL;
}

static tn_status describe(const char *path, const tn_weight *tensor, size_t *at, json_t *root)
{
    size_t size, end;
    const char *dtype = dtype_name(tensor->dtype), *name = tensor->name;
    if (!name || !*name || strcmp(name, "__metadata__") == 0)
        return tn_fail(TN_INVALID, "%s: a tensor cannot be named \"%s\"", path, name ? name : "");
    if (!dtype || tensor->coding != TN_CODING_PLAIN)
        return tn_fail(TN_INVALID, "%s: tensor \"%s\" is not of a plain dtype", path, name);
    if (tensor->shape.rank < 0 || tensor->shape.rank > TN_MAX_RANK ||
        !tn_weight_extent(tensor->dtype, TN_CODING_PLAIN, tensor->shape, &size) ||
        !tn_add_size(*at, size, &end) || end > INT64_MAX)
        return tn_fail(TN_INVALID, "%s: tensor \"%s\": its shape cannot be right", path, name);
    if (json_object_get(root, name))
        return tn_fail(TN_INVALID, "%s: tensor \"%s\" is there twice", path, name);
    json_t *shape = json_array();
    for (int i = 0; i < tensor->shape.rank; i++)
        json_array_append_new(shape, json_integer(tensor->shape.dim[i]));
    json_t *value = json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype, "shape", shape,
                              "data_offsets", (json_int_t)*at, (json_int_t)end);
    if (!value || json_object_set_new(root, name, value) != 0)
        return tn_fail(TN_INVALID, "%s: the name of tensor \"%s\" is not UTF-8", path, name);
    *at = end;
    return TN_OK;
}

/* The header as text, padded with spaces so that the data begin at a multiple of ALIGNMENT. */
static tn_status make_header(const char *path, const tn_weight *tensors, int count,
                             const tn_weights_text *text, int text_count, tn_string *header,
                             size_t *data_size)
{
    tn_status status = TN_OK;
    json_t *root = json_object();
    if (text_count > 0) {
        json_t *map = json_object();
        for (int i = 0; i < text_count && status == TN_OK; i++)
            if (json_object_set_new(map, text[i].key, json_string(text[i].value)) != 0)
                status = tn_fail(TN_INVALID, "%s: metadata \"%s\" is not UTF-8", path, text[i].key);
        json_object_set_new(root, "__metadata__", map);
    }
    *data_size = 0;
    for (int i = 0; i < count && status == TN_OK; i++)
        status = describe(path, &tensors[i], data_size, root);
    char *dump = status == TN_OK ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (status != TN_OK) return status;
    if (!dump) return tn_fail(TN_MEMORY, "%s: out of memory", path);
    tn_string_add(header, dump);
    free(dump);
    while ((header->length + HEADER_LENGTH) % ALIGNMENT != 0 && !header->failed)
        tn_string_add_char(header, ' ');
    if (header->length > HEADER_MOST)
        return tn_fail(TN_INVALID, "%s: too many tensors for one file", path);
    return tn_string_status(header);
}

tn_status tn_weights_begin(const char *path, const tn_weight *tensors, int count,
                           const tn_weights_text *text, int text_count, tn_weights_writer **out)
{
    tn_string header = {0};
    size_t data_size = 0;
    *out = NULL;
    tn_weights_writer *writer = calloc(1, sizeof *writer);
    if (!writer || !(writer->path = strdup(path))) {
        free(writer);
        tn_fail(TN_MEMORY, "%s: out of memory", path);
        return TN_MEMORY;
    }
    tn_status status = make_header(path, tensors, count, text, text_count, &header, &data_size);
    if (status == TN_OK) status = tn_file_begin(path, &writer->file);
    if (status == TN_OK) {
        uint64_t length = header.length;
        writer->missing = data_size;
        tn_file_write(writer->file, &length, sizeof length);
        status = tn_file_write(writer->file, tn_string_text(&header), header.length);
    }
    tn_string_free(&header);
    if (status == TN_OK) *out = writer;
    else tn_weights_abort(writer);
    return status;
}

tn_status tn_weights_append(tn_weights_writer *writer, const void *bytes, size_t size)
{
    if (size > writer->missing)
        return tn_fail(TN_INVALID, "%s: %zu bytes are appended, but only %" PRIu64 " are missing",
                       writer->path, size, writer->missing);
    writer->missing -= size;
    return tn_file_write(writer->file, bytes, size);
}

tn_status tn_weights_commit(tn_weights_writer *writer)
{
    tn_status status = TN_OK;
    if (writer->missing > 0) {
        status = tn_fail(TN_INVALID, "%s: %" PRIu64 " bytes of the tensors were not appended",
                         writer->path, writer->missing);
    } else {
        status = tn_file_commit(writer->file);
        writer->file = NULL;
    }
    tn_weights_abort(writer);
    return status;
}

void tn_weights_abort(tn_weights_writer *writer)
{
    if (!writer) return;
    tn_file_abort(writer->file);
    free(writer->path);
    free(writer);
}

tn_status tn_weights_save(const char *path, const tn_weight *tensors, int count,
                          const tn_weights_text *text, int text_count)
{
    tn_weights_writer *writer;
    TN_TRY(tn_weights_begin(path, tensors, count, text, text_count, &writer));
    tn_status status = TN_OK;
    for (int i = 0; status == TN_OK && i < count; i++) {
        size_t size = 0;
        tn_weight_extent(tensors[i].dtype, TN_CODING_PLAIN, tensors[i].shape, &size);
        if (size != tensors[i].size)
            status = tn_fail(TN_INVALID,
                             "%s: tensor \"%s\" has %zu bytes, but shape and dtype make %zu", path,
                             tensors[i].name, tensors[i].size, size);
        else status = tn_weights_append(writer, tensors[i].bytes, size);
    }
    if (status == TN_OK) return tn_weights_commit(writer);
    tn_weights_abort(writer);
    return status;
}
