/* What must hold of any bytes that are opened as weights, for the targets of all formats. */
#ifndef FUZZ_WEIGHTS_CHECK_H
#define FUZZ_WEIGHTS_CHECK_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/threads.h"
#include "tenon/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A refusal has a message that names the file. */
static inline void must_explain(tn_status status, const char *name)
{
    if (status != TN_OK && !strstr(tn_message(), name)) __builtin_trap();
}

/* A tensor that was accepted can be read from its first byte to its last, lies in the data (unless
 * it was decoded from text), and is found by its name. */
static inline void check_tensor(const tn_weights *weights, const tn_weight *t, const uint8_t *data,
                                size_t size)
{
    bool inside = strcmp(tn_weights_format(weights), "minGPT") != 0;
    const uint8_t *bytes = t->bytes;
    int64_t count = tn_shape_size(t->shape);
    if (count < 0 || t->shape.rank > TN_MAX_RANK || tn_weights_find(weights, t->name) != t)
        __builtin_trap();
    if (inside && (bytes < data || bytes > data + size || t->size > (size_t)(data + size - bytes)))
        __builtin_trap();
    float *out = malloc((size_t)count * sizeof *out + 1);
    if (!out || tn_weights_read_f32(weights, t->name, out, count) != TN_OK) __builtin_trap();
    free(out);
}

/* Opens `data` under a name that selects the format. */
static inline int check_weights(const uint8_t *data, size_t size, const char *name)
{
    tn_weights *weights;
    tn_set_thread_count(1);
    tn_status status = tn_weights_open_memory(data, size, name, &weights);
    must_explain(status, name);
    if (status != TN_OK) return 0;
    for (int i = 0; i < tn_weights_count(weights); i++)
        check_tensor(weights, tn_weights_at(weights, i), data, size);
    must_explain(tn_weights_check_finite(weights), name);
    for (int i = 0; i < tn_weights_metadata_count(weights); i++) {
        const char *key, *value;
        tn_weights_metadata_at(weights, i, &key, &value);
        if (!tn_weights_metadata(weights, key) || strlen(value) > size) __builtin_trap();
    }
    tn_weights_free(weights);
    return 0;
}

#endif
