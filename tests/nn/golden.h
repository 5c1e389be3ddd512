/* Golden tensors (safetensors files in tests/golden) and comparing with them. */
#ifndef TN_TESTS_NN_GOLDEN_H
#define TN_TESTS_NN_GOLDEN_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tenon/state.h"
#include "tenon/weights.h"

static inline tn_weights *golden_open(const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/golden/%s", TN_SOURCE_DIR, name);
    tn_weights *weights;
    if (tn_weights_open(path, &weights) != TN_OK) fail_msg("golden tensors: %s", tn_message());
    return weights;
}

/* The tensor CASE/NAME; fails if there is none. */
static inline const tn_weight *golden_find(const tn_weights *weights, const char *group,
                                           const char *name)
{
    char full[256];
    snprintf(full, sizeof full, "%s/%s", group, name);
    const tn_weight *weight = tn_weights_find(weights, full);
    if (!weight) fail_msg("there is no golden tensor %s", full);
    return weight;
}

/* A copy, aligned (the file's bytes need not be). */
static inline void *golden_copy(const tn_weight *weight)
{
    void *bytes = calloc(1, weight->size + 64);
    memcpy(bytes, weight->bytes, weight->size);
    return bytes;
}

/* Fails unless |got - expected| <= tolerance * largest |expected| everywhere. */
static inline void golden_close(const char *what, const tn_weight *expected, const float *got,
                                double tolerance)
{
    int64_t count = tn_shape_size(expected->shape);
    float *wanted = golden_copy(expected);
    double largest = 1e-3;
    for (int64_t i = 0; i < count; i++) largest = fmax(largest, fabs((double)wanted[i]));
    for (int64_t i = 0; i < count; i++)
        if (!(fabs((double)got[i] - (double)wanted[i]) <= tolerance * largest))
            fail_msg("%s: %s, element %lld: %.8g instead of %.8g (largest %.3g)", what,
                     expected->name, (long long)i, (double)got[i], (double)wanted[i], largest);
    free(wanted);
}

/* Puts every CASE/p/NAME into the state as CASE.NAME; returns how many there were. */
static inline int golden_parameters(const tn_weights *weights, const char *group, tn_state *state)
{
    char prefix[128], name[256];
    size_t length = (size_t)snprintf(prefix, sizeof prefix, "%s/p/", group);
    int count = 0;
    for (int i = 0; i < tn_weights_count(weights); i++) {
        const tn_weight *w = tn_weights_at(weights, i);
        if (strncmp(w->name, prefix, length) != 0) continue;
        snprintf(name, sizeof name, "%s.%s", group, w->name + length);
        if (tn_state_put(state, name, w->dtype, w->shape, w->bytes) != TN_OK)
            fail_msg("%s", tn_message());
        count++;
    }
    return count;
}

#endif
