/* GGUF files as they are: typed values by key, tensors by place. */
#ifndef TN_DATA_GGUF_H
#define TN_DATA_GGUF_H

#include "base/arena.h"
#include "base/status.h"
#include "tenon/graph.h"

/* The format's own numbers. */
typedef enum tn_gguf_type {
    TN_GGUF_U8 = 0,
    TN_GGUF_I8,
    TN_GGUF_U16,
    TN_GGUF_I16,
    TN_GGUF_U32,
    TN_GGUF_I32,
    TN_GGUF_F32,
    TN_GGUF_BOOL,
    TN_GGUF_STRING,
    TN_GGUF_ARRAY,
    TN_GGUF_U64,
    TN_GGUF_I64,
    TN_GGUF_F64,
    TN_GGUF_TYPES
} tn_gguf_type;

typedef struct tn_gguf_value {
    const char *key;
    tn_gguf_type type;
    tn_gguf_type element; /* of an array */
    uint64_t count;       /* elements of an array, else 1 */
    const uint8_t *bytes; /* unaligned; strings are a u64 length and their bytes */
    size_t size;
} tn_gguf_value;

typedef struct tn_gguf_tensor {
    const char *name;
    tn_shape shape; /* row-major: the file's order reversed */
    uint32_t type;
    uint64_t offset; /* from the beginning of the data */
} tn_gguf_tensor;

typedef struct tn_gguf {
    tn_arena arena;
    const char *name; /* of the file, in messages */
    uint32_t version;
    tn_gguf_value *value;
    size_t value_count;
    tn_gguf_tensor *tensor;
    size_t tensor_count;
    size_t data; /* where the data begin; at most the file's size */
} tn_gguf;

/* Reads all of a file but the data. Everything is bounded by `size`; keys are unique; names have no
 * NUL. The result points into the bytes. Free it also after a failure. Errors: TN_FORMAT,
 * TN_UNSUPPORTED (version), TN_MEMORY. */
tn_status tn_gguf_parse(const uint8_t *bytes, size_t size, const char *name, tn_gguf *gguf);
void tn_gguf_free(tn_gguf *gguf);

/* NULL if there is none. */
const tn_gguf_value *tn_gguf_find(const tn_gguf *gguf, const char *key);

/* Typed getters: a missing key leaves *out alone and is no error; a value of another type or out of
 * range is TN_FORMAT. Every integer type will do for an integer; f32 and f64 for a number. Strings
 * are copied and must not contain a NUL. */
tn_status tn_gguf_integer(tn_gguf *gguf, const char *key, int64_t low, int64_t high, int64_t *out);
tn_status tn_gguf_number(tn_gguf *gguf, const char *key, double *out);
tn_status tn_gguf_boolean(tn_gguf *gguf, const char *key, bool *out);
tn_status tn_gguf_string(tn_gguf *gguf, const char *key, const char **out);
/* An array of `element`; *out is NULL if the key is missing. */
tn_status tn_gguf_array(tn_gguf *gguf, const char *key, tn_gguf_type element,
                        const tn_gguf_value **out);

/* A scalar or string as text in the arena; NULL for arrays, strings with a NUL, and when out of
 * memory. */
const char *tn_gguf_print(tn_gguf *gguf, const tn_gguf_value *value);

#endif
