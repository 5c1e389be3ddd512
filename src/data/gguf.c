/* GGUF, versions 2 and 3, little-endian.
 * Source: ggml's docs/gguf.md (the format's description). */
#include "data/gguf.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/hash.h"
#include "data/cursor.h"

enum { KEY_MOST = 65535, NAME_MOST = 1024, ARRAY_DEPTH = 4, ALIGNMENT_MOST = 1 << 20 };

static const struct {
    const char *name;
    size_t size; /* 0: not fixed */
} types[TN_GGUF_TYPES] = {
    [TN_GGUF_U8] = {"u8", 1},       [TN_GGUF_I8] = {"i8", 1},     [TN_GGUF_U16] = {"u16", 2},
    [TN_GGUF_I16] = {"i16", 2},     [TN_GGUF_U32] = {"u32", 4},   [TN_GGUF_I32] = {"i32", 4},
    [TN_GGUF_F32] = {"f32", 4},     [TN_GGUF_BOOL] = {"bool", 1}, [TN_GGUF_STRING] = {"string", 0},
    [TN_GGUF_ARRAY] = {"array", 0}, [TN_GGUF_U64] = {"u64", 8},   [TN_GGUF_I64] = {"i64", 8},
    [TN_GGUF_F64] = {"f64", 8},
};

/* ---- walking ------------------------------------------------------------------------- */

static tn_status cut_off(const tn_gguf *gguf, const tn_cursor *cursor, const char *where)
{
    return tn_fail(TN_FORMAT, "%s: the file ends (byte %zu) inside %s: it is cut off or damaged",
                   gguf->name, cursor->size, where);
}

/* A length and so many bytes, copied with a NUL behind; must have none inside. */
static tn_status read_name(tn_gguf *gguf, tn_cursor *cursor, size_t most, const char *where,
                           const char **out)
{
    uint64_t length;
    if (!tn_cursor_read(cursor, &length, sizeof length)) return cut_off(gguf, cursor, where);
    if (length > most)
        return tn_fail(TN_FORMAT, "%s: a name of %" PRIu64 " bytes in %s (byte %zu)", gguf->name,
                       length, where, cursor->at);
    const uint8_t *bytes = tn_cursor_take(cursor, (size_t)length);
    if (!bytes) return cut_off(gguf, cursor, where);
    if (length == 0 || memchr(bytes, 0, (size_t)length))
        return tn_fail(TN_FORMAT, "%s: a name in %s (byte %zu) is empty or contains a NUL",
                       gguf->name, where, cursor->at);
    char *name = tn_arena_alloc(&gguf->arena, (size_t)length + 1);
    if (!name) return TN_MEMORY;
    memcpy(name, bytes, (size_t)length);
    *out = name;
    return TN_OK;
}

static bool skip_string(tn_cursor *cursor)
{
    uint64_t length;
    return tn_cursor_read(cursor, &length, sizeof length) && length <= tn_cursor_left(cursor) &&
           tn_cursor_take(cursor, (size_t)length);
}

/* Passes over an array's head and elements. `left` levels of arrays may still be nested. */
static tn_status skip_array(tn_gguf *gguf, tn_cursor *cursor, tn_gguf_value *value, int left)
{
    uint32_t element;
    uint64_t count;
    if (left == 0)
        return tn_fail(TN_FORMAT, "%s: key \"%s\": arrays nested too deeply", gguf->name,
                       value->key);
    if (!tn_cursor_read(cursor, &element, sizeof element) ||
        !tn_cursor_read(cursor, &count, sizeof count))
        return cut_off(gguf, cursor, value->key);
    if (element >= TN_GGUF_TYPES)
        return tn_fail(TN_FORMAT, "%s: key \"%s\": unknown element type %" PRIu32, gguf->name,
                       value->key, element);
    value->element = (tn_gguf_type)element;
    value->count = count;
    value->bytes = cursor->bytes + cursor->at;
    size_t each = types[element].size;
    if (each > 0) {
        if (count > tn_cursor_left(cursor) / each) return cut_off(gguf, cursor, value->key);
        tn_cursor_take(cursor, (size_t)count * each);
    }
    for (uint64_t i = 0; each == 0 && i < count;
         i++) { /* ends with the file: each element takes bytes */
        tn_gguf_value inner = {.key = value->key};
        if (element == TN_GGUF_ARRAY) TN_TRY(skip_array(gguf, cursor, &inner, left - 1));
        else if (!skip_string(cursor)) return cut_off(gguf, cursor, value->key);
    }
    value->size = (size_t)(cursor->bytes + cursor->at - value->bytes);
    return TN_OK;
}

static tn_status read_value(tn_gguf *gguf, tn_cursor *cursor, tn_gguf_value *value)
{
    uint32_t type;
    *value = (tn_gguf_value){.count = 1};
    TN_TRY(read_name(gguf, cursor, KEY_MOST, "a key", &value->key));
    if (!tn_cursor_read(cursor, &type, sizeof type)) return cut_off(gguf, cursor, value->key);
    if (type >= TN_GGUF_TYPES)
        return tn_fail(TN_FORMAT, "%s: key \"%s\": unknown type %" PRIu32, gguf->name, value->key,
                       type);
    value->type = (tn_gguf_type)type;
    if (type == TN_GGUF_ARRAY) return skip_array(gguf, cursor, value, ARRAY_DEPTH);
    size_t from = cursor->at;
    if (type == TN_GGUF_STRING ? !skip_string(cursor) : !tn_cursor_take(cursor, types[type].size))
        return cut_off(gguf, cursor, value->key);
    value->bytes = cursor->bytes + from;
    value->size = cursor->at - from;
    return TN_OK;
}

static tn_status read_tensor(tn_gguf *gguf, tn_cursor *cursor, tn_gguf_tensor *tensor)
{
    uint32_t rank;
    TN_TRY(read_name(gguf, cursor, NAME_MOST, "the list of tensors", &tensor->name));
    if (!tn_cursor_read(cursor, &rank, sizeof rank)) return cut_off(gguf, cursor, tensor->name);
    if (rank > TN_MAX_RANK)
        return tn_fail(TN_FORMAT,
                       "%s: tensor \"%s\" has %" PRIu32 " dimensions; at most %d are possible",
                       gguf->name, tensor->name, rank, TN_MAX_RANK);
    tensor->shape.rank = (int)rank;
    for (uint32_t i = 0; i < rank; i++) {
        uint64_t dim;
        if (!tn_cursor_read(cursor, &dim, sizeof dim)) return cut_off(gguf, cursor, tensor->name);
        if (dim > INT64_MAX)
            return tn_fail(TN_FORMAT, "%s: tensor \"%s\": dimension %" PRIu32 " is impossible",
                           gguf->name, tensor->name, i);
        tensor->shape.dim[rank - 1 - i] = (int64_t)dim;
    }
    if (!tn_cursor_read(cursor, &tensor->type, sizeof tensor->type) ||
        !tn_cursor_read(cursor, &tensor->offset, sizeof tensor->offset))
        return cut_off(gguf, cursor, tensor->name);
    return TN_OK;
}

/* ---- the whole ----------------------------------------------------------------------- */

static int by_key(const void *a, const void *b)
{
    return strcmp(((const tn_gguf_value *)a)->key, ((const tn_gguf_value *)b)->key);
}

static tn_status read_values(tn_gguf *gguf, tn_cursor *cursor, uint64_t count)
{
    enum { LEAST = 8 + 1 + 4 + 1 }; /* bytes of the shortest entry */
    if (count > tn_cursor_left(cursor) / LEAST)
        return tn_fail(TN_FORMAT, "%s: %" PRIu64 " keys cannot be in a file of %zu bytes",
                       gguf->name, count, cursor->size);
    gguf->value = tn_arena_array(&gguf->arena, (size_t)count, sizeof *gguf->value);
    if (!gguf->value) return TN_MEMORY;
    for (uint64_t i = 0; i < count; i++) TN_TRY(read_value(gguf, cursor, &gguf->value[i]));
    gguf->value_count = (size_t)count;
    qsort(gguf->value, gguf->value_count, sizeof *gguf->value, by_key);
    for (size_t i = 1; i < gguf->value_count; i++)
        if (strcmp(gguf->value[i - 1].key, gguf->value[i].key) == 0)
            return tn_fail(TN_FORMAT, "%s: key \"%s\" is there twice", gguf->name,
                           gguf->value[i].key);
    return TN_OK;
}

static tn_status read_tensors(tn_gguf *gguf, tn_cursor *cursor, uint64_t count)
{
    enum { LEAST = 8 + 1 + 4 + 4 + 8 };
    if (count > tn_cursor_left(cursor) / LEAST)
        return tn_fail(TN_FORMAT, "%s: %" PRIu64 " tensors cannot be in a file of %zu bytes",
                       gguf->name, count, cursor->size);
    gguf->tensor = tn_arena_array(&gguf->arena, (size_t)count, sizeof *gguf->tensor);
    if (!gguf->tensor) return TN_MEMORY;
    for (uint64_t i = 0; i < count; i++) TN_TRY(read_tensor(gguf, cursor, &gguf->tensor[i]));
    gguf->tensor_count = (size_t)count;
    return TN_OK;
}

tn_status tn_gguf_parse(const uint8_t *bytes, size_t size, const char *name, tn_gguf *gguf)
{
    tn_cursor cursor = {bytes, size, 0};
    uint64_t tensor_count, value_count;
    const uint8_t *magic = tn_cursor_take(&cursor, 4);
    *gguf = (tn_gguf){.name = name};
    if (!magic || memcmp(magic, "GGUF", 4) != 0)
        return tn_fail(TN_FORMAT, "%s: does not begin with \"GGUF\": not a GGUF file", name);
    if (!tn_cursor_read(&cursor, &gguf->version, sizeof gguf->version))
        return cut_off(gguf, &cursor, "the header");
    if (gguf->version != 2 && gguf->version != 3) {
        bool swapped = gguf->version != 0 && (gguf->version & 0xffff) == 0;
        return tn_fail(TN_UNSUPPORTED,
                       "%s: GGUF version %" PRIu32 "%s; 2 and 3 can be read: convert it again",
                       name, gguf->version, swapped ? " (big-endian)" : "");
    }
    if (!tn_cursor_read(&cursor, &tensor_count, sizeof tensor_count) ||
        !tn_cursor_read(&cursor, &value_count, sizeof value_count))
        return cut_off(gguf, &cursor, "the header");
    TN_TRY(read_values(gguf, &cursor, value_count));
    TN_TRY(read_tensors(gguf, &cursor, tensor_count));
    int64_t alignment = 32;
    TN_TRY(tn_gguf_integer(gguf, "general.alignment", 1, ALIGNMENT_MOST, &alignment));
    if (alignment & (alignment - 1))
        return tn_fail(TN_FORMAT, "%s: general.alignment is %" PRId64 ", not a power of two", name,
                       alignment);
    size_t mask = (size_t)alignment - 1;
    gguf->data = cursor.at > SIZE_MAX - mask ? size : (cursor.at + mask) & ~mask;
    if (gguf->data > size) gguf->data = size; /* no tensors, no padding */
    for (size_t i = 0; i < gguf->tensor_count; i++)
        if (gguf->tensor[i].offset & mask)
            return tn_fail(TN_FORMAT,
                           "%s: tensor \"%s\" begins at %" PRIu64 ", not a multiple of %" PRId64,
                           name, gguf->tensor[i].name, gguf->tensor[i].offset, alignment);
    return TN_OK;
}

void tn_gguf_free(tn_gguf *gguf)
{
    tn_arena_free(&gguf->arena);
    *gguf = (tn_gguf){0};
}

/* ---- values -------------------------------------------------------------------------- */

const tn_gguf_value *tn_gguf_find(const tn_gguf *gguf, const char *key)
{
    tn_gguf_value wanted = {.key = key};
    return gguf->value_count
               ? bsearch(&wanted, gguf->value, gguf->value_count, sizeof wanted, by_key)
               : NULL;
}

static tn_status wrong_type(const tn_gguf *gguf, const tn_gguf_value *value, const char *wanted)
{
    bool array = value->type == TN_GGUF_ARRAY;
    return tn_fail(TN_FORMAT, "%s: key \"%s\" must be %s, not %s%s", gguf->name, value->key, wanted,
                   array ? "an array of " : "a ", types[array ? value->element : value->type].name);
}

/* False for u64 beyond int64 and for other types. */
static bool integer_of(const tn_gguf_value *value, int64_t *out)
{
    uint64_t bits = 0;
    switch (value->type) {
    case TN_GGUF_U8:
    case TN_GGUF_U16:
    case TN_GGUF_U32:
    case TN_GGUF_U64: memcpy(&bits, value->bytes, value->size); break;
    case TN_GGUF_I8: bits = (uint64_t)(int64_t)(int8_t)value->bytes[0]; break;
    case TN_GGUF_I16: {
        int16_t x;
        memcpy(&x, value->bytes, sizeof x);
        bits = (uint64_t)(int64_t)x;
        break;
    }
    case TN_GGUF_I32: {
        int32_t x;
        memcpy(&x, value->bytes, sizeof x);
        bits = (uint64_t)(int64_t)x;
        break;
    }
    case TN_GGUF_I64: memcpy(&bits, value->bytes, sizeof bits); break;
    default: return false;
    }
    if (value->type == TN_GGUF_U64 && bits > INT64_MAX) return false;
    *out = (int64_t)bits;
    return true;
}

static bool number_of(const tn_gguf_value *value, double *out)
{
    float single;
    if (value->type == TN_GGUF_F64) memcpy(out, value->bytes, sizeof *out);
    else if (value->type == TN_GGUF_F32)
        memcpy(&single, value->bytes, sizeof single), *out = (double)single;
    return value->type == TN_GGUF_F64 || value->type == TN_GGUF_F32;
}

tn_status tn_gguf_integer(tn_gguf *gguf, const char *key, int64_t low, int64_t high, int64_t *out)
{
    const tn_gguf_value *value = tn_gguf_find(gguf, key);
    int64_t number = 0;
    if (!value) return TN_OK;
    if (!integer_of(value, &number)) return wrong_type(gguf, value, "an integer");
    if (number < low || number > high)
        return tn_fail(TN_FORMAT, "%s: key \"%s\" is %" PRId64 ", outside %" PRId64 " to %" PRId64,
                       gguf->name, key, number, low, high);
    *out = number;
    return TN_OK;
}

tn_status tn_gguf_number(tn_gguf *gguf, const char *key, double *out)
{
    const tn_gguf_value *value = tn_gguf_find(gguf, key);
    double number;
    if (!value) return TN_OK;
    if (!number_of(value, &number)) return wrong_type(gguf, value, "a float");
    if (!isfinite(number))
        return tn_fail(TN_FORMAT, "%s: key \"%s\" is NaN or infinite", gguf->name, key);
    *out = number;
    return TN_OK;
}

tn_status tn_gguf_boolean(tn_gguf *gguf, const char *key, bool *out)
{
    const tn_gguf_value *value = tn_gguf_find(gguf, key);
    if (!value) return TN_OK;
    if (value->type != TN_GGUF_BOOL) return wrong_type(gguf, value, "a bool");
    *out = value->bytes[0] != 0;
    return TN_OK;
}

static const char *string_of(tn_gguf *gguf, const tn_gguf_value *value)
{
    const size_t prefix = sizeof(uint64_t), length = value->size - prefix;
    if (value->type != TN_GGUF_STRING || memchr(value->bytes + prefix, 0, length)) return NULL;
    char *text = tn_arena_alloc(&gguf->arena, length + 1);
    if (text) memcpy(text, value->bytes + prefix, length);
    return text;
}

tn_status tn_gguf_string(tn_gguf *gguf, const char *key, const char **out)
{
    const tn_gguf_value *value = tn_gguf_find(gguf, key);
    if (!value) return TN_OK;
    if (value->type != TN_GGUF_STRING) return wrong_type(gguf, value, "a string");
    const char *text = string_of(gguf, value);
    if (!text) return tn_fail(TN_FORMAT, "%s: key \"%s\" contains a NUL", gguf->name, key);
    *out = text;
    return TN_OK;
}

tn_status tn_gguf_array(tn_gguf *gguf, const char *key, tn_gguf_type element,
                        const tn_gguf_value **out)
{
    const tn_gguf_value *value = tn_gguf_find(gguf, key);
    *out = value;
    if (!value || (value->type == TN_GGUF_ARRAY && value->element == element)) return TN_OK;
    *out = NULL;
    if (value->type != TN_GGUF_ARRAY) return wrong_type(gguf, value, "an array");
    return tn_fail(TN_FORMAT, "%s: key \"%s\" must be an array of %s, not of %s", gguf->name, key,
                   types[element].name, types[value->element].name);
}

const char *tn_gguf_print(tn_gguf *gguf, const tn_gguf_value *value)
{
    int64_t integer = 0;
    double number;
    if (value->type == TN_GGUF_STRING) return string_of(gguf, value);
    if (value->type == TN_GGUF_BOOL) return value->bytes[0] ? "true" : "false";
    if (number_of(value, &number)) return tn_arena_format(&gguf->arena, "%.9g", number);
    if (integer_of(value, &integer)) return tn_arena_format(&gguf->arena, "%" PRId64, integer);
    return NULL;
}
