/* What a reader of one format fills. */
#ifndef TN_DATA_WEIGHT_SET_H
#define TN_DATA_WEIGHT_SET_H

#include "base/arena.h"
#include "base/file.h"
#include "tenon/weights.h"

struct tn_weights {
    tn_arena arena; /* names, texts, decoded bytes */
    const char *path;
    const char *format;
    tn_file *file; /* mapped ones, freed with the set */
    int file_count;
    tn_weight *tensor;
    int count, capacity;
    int32_t *slot; /* open addressing by name: index + 1, or 0 */
    size_t slot_count;
    tn_weights_text *text;
    int text_count, text_capacity;
    const char *config;
};

/* Appends a tensor; its name is copied. TN_FORMAT with the set's path if the name is empty or there
 * already. */
tn_status tn_weights_add(tn_weights *weights, tn_weight weight);
/* Appends a text; both are copied. */
tn_status tn_weights_add_text(tn_weights *weights, const char *key, const char *value);
/* Fails with the set's path and the nearest name to one that is not there. */
tn_status tn_weights_missing(const tn_weights *weights, const char *name);
/* Copies of the tensors from `first` on, in order of their bytes' place; free it. NULL, and a
 * message, when out of memory. */
tn_weight *tn_weights_in_place_order(const tn_weights *weights, int first);

/* The block codings: elements of a block, and bytes. */
enum { TN_BLOCK = 32, TN_Q8_0_BYTES = 2 + TN_BLOCK, TN_Q4_0_BYTES = 2 + TN_BLOCK / 2 };

/* Bytes that a tensor of this coding has; false if the shape is impossible: larger than any memory,
 * or rows that are no whole blocks. */
bool tn_weight_extent(tn_dtype dtype, tn_weight_coding coding, tn_shape shape, size_t *size);

/* The formats. Each reads `size` bytes, called `name` in messages, into an empty set, whose tensors
 * then point into the bytes. */
tn_status tn_read_safetensors(tn_weights *weights, const uint8_t *bytes, size_t size,
                              const char *name);
tn_status tn_read_gguf(tn_weights *weights, const uint8_t *bytes, size_t size, const char *name);
tn_status tn_read_llama2c(tn_weights *weights, const uint8_t *bytes, size_t size, const char *name);
tn_status tn_read_mingpt(tn_weights *weights, const uint8_t *bytes, size_t size, const char *name);

/* model.safetensors.index.json at `path`: maps the shards beside it and reads them all. */
tn_status tn_read_safetensors_shards(tn_weights *weights, const char *path);
/* Maps one more file of the set. */
tn_status tn_weights_map(tn_weights *weights, const char *path, tn_file *file);

#endif
