/* The state store: named, typed, 64-byte aligned tensors that outlive plans. */
#include "exec/state.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/half.h"
#include "base/hash.h"
#include "base/threads.h"
#include "tenon/random.h"

struct tn_state {
    uint64_t seed;
    tn_state_entry **entry; /* in order of creation */
    int count, capacity;
    int *slot; /* hash table of entry index + 1, open addressing */
    size_t slots;
    pthread_mutex_t lock;
};

tn_state *tn_state_create(uint64_t seed)
{
    tn_state *state = calloc(1, sizeof *state);
    if (!state) {
        tn_fail(TN_MEMORY, "out of memory for a state store");
        return NULL;
    }
    state->seed = seed;
    pthread_mutex_init(&state->lock, NULL);
    return state;
}

static void entry_free(tn_state_entry *entry)
{
    if (!entry) return;
    if (!entry->borrowed) free(entry->data);
    free((char *)entry->name);
    free(entry);
}

void tn_state_free(tn_state *state)
{
    if (!state) return;
    for (int i = 0; i < state->count; i++) entry_free(state->entry[i]);
    free(state->entry);
    free(state->slot);
    pthread_mutex_destroy(&state->lock);
    free(state);
}

int tn_state_count(const tn_state *state) { return state->count; }

tn_state_entry *tn_state_at(const tn_state *state, int index)
{
    return index >= 0 && index < state->count ? state->entry[index] : NULL;
}

static size_t slot_of(const tn_state *state, const char *name)
{
    size_t at = (size_t)tn_random_stream(name) & (state->slots - 1);
    while (state->slot[at] && strcmp(state->entry[state->slot[at] - 1]->name, name))
        at = (at + 1) & (state->slots - 1);
    return at;
}

tn_state_entry *tn_state_find(const tn_state *state, const char *name)
{
    if (!state->slots) return NULL;
    int index = state->slot[slot_of(state, name)];
    return index ? state->entry[index - 1] : NULL;
}

static tn_status rehash(tn_state *state)
{
    size_t slots = state->slots ? state->slots * 2 : 256;
    int *slot = calloc(slots, sizeof *slot);
    if (!slot) return tn_fail(TN_MEMORY, "out of memory for %d state entries", state->count);
    free(state->slot);
    state->slot = slot;
    state->slots = slots;
    for (int i = 0; i < state->count; i++) slot[slot_of(state, state->entry[i]->name)] = i + 1;
    return TN_OK;
}

static void *aligned(size_t bytes)
{
    void *data = aligned_alloc(64, (bytes + 127) / 64 * 64);
    return data;
}

static tn_status add_entry(tn_state *state, const char *name, tn_dtype dtype, tn_shape shape,
                           bool allocate, tn_state_entry **out)
{
    int64_t count = tn_shape_size(shape);
    size_t bytes = 0;
    if (count < 0 || !tn_mul_size((size_t)count, tn_dtype_size(dtype), &bytes))
        return tn_fail(TN_MEMORY, "state '%s': shape %s is too large", name, tn_shape_text(shape));
    if ((size_t)state->count * 2 >= state->slots) TN_TRY(rehash(state));
    if (state->count == state->capacity) {
        int capacity = state->capacity ? 2 * state->capacity : 64;
        tn_state_entry **bigger = realloc(state->entry, (size_t)capacity * sizeof *bigger);
        if (!bigger) return tn_fail(TN_MEMORY, "out of memory for %d state entries", capacity);
        state->entry = bigger;
        state->capacity = capacity;
    }
    tn_state_entry *entry = calloc(1, sizeof *entry);
    char *own_name = strdup(name);
    void *data = allocate ? aligned(bytes) : NULL;
    if (!entry || !own_name || (allocate && !data)) {
        free(entry);
        free(own_name);
        free(data);
        return tn_fail(TN_MEMORY, "out of memory: state '%s' needs %zu bytes", name, bytes);
    }
    *entry = (tn_state_entry){.name = own_name,
                              .dtype = dtype,
                              .shape = shape,
                              .data = data,
                              .bytes = bytes,
                              .borrowed = !allocate,
                              .version = 1};
    state->slot[slot_of(state, name)] = state->count + 1;
    state->entry[state->count++] = entry;
    *out = entry;
    return TN_OK;
}

static tn_status check_same(const tn_state_entry *entry, tn_dtype dtype, tn_shape shape)
{
    if (entry->dtype == dtype && tn_shape_equal(entry->shape, shape)) return TN_OK;
    return tn_fail(
        TN_INVALID,
        "state '%s' holds %s %s, but %s %s is wanted; is this the right model for these weights?",
        entry->name, tn_dtype_name(entry->dtype), tn_shape_text(entry->shape), tn_dtype_name(dtype),
        tn_shape_text(shape));
}

tn_status tn_state_touch(tn_state *state, tn_state_entry *entry)
{
    (void)state;
    entry->version++;
    if (!entry->borrowed) return TN_OK;
    void *data = aligned(entry->bytes);
    if (!data)
        return tn_fail(TN_MEMORY, "out of memory: a writable copy of '%s' needs %zu bytes",
                       entry->name, entry->bytes);
    memcpy(data, entry->data, entry->bytes);
    entry->data = data;
    entry->borrowed = false;
    return TN_OK;
}

tn_status tn_state_put(tn_state *state, const char *name, tn_dtype dtype, tn_shape shape,
                       const void *bytes)
{
    tn_state_entry *entry = tn_state_find(state, name);
    if (entry) {
        TN_TRY(check_same(entry, dtype, shape));
        TN_TRY(tn_state_touch(state, entry));
    } else {
        TN_TRY(add_entry(state, name, dtype, shape, true, &entry));
    }
    if (entry->bytes == 0) return TN_OK;
    if (bytes) memcpy(entry->data, bytes, entry->bytes);
    else memset(entry->data, 0, entry->bytes);
    return TN_OK;
}

tn_status tn_state_borrow(tn_state *state, const char *name, tn_dtype dtype, tn_shape shape,
                          const void *bytes)
{
    tn_state_entry *entry = tn_state_find(state, name);
    if (entry) {
        TN_TRY(check_same(entry, dtype, shape));
        if (!entry->borrowed) free(entry->data);
        entry->borrowed = true;
        entry->version++;
    } else {
        TN_TRY(add_entry(state, name, dtype, shape, false, &entry));
    }
    entry->data = (void *)bytes;
    return TN_OK;
}

size_t tn_state_bytes(const tn_state *state)
{
    size_t bytes = 0;
    for (int i = 0; i < state->count; i++) bytes += state->entry[i]->bytes;
    return bytes;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(tn_state_entry *const *)a)->name, (*(tn_state_entry *const *)b)->name);
}

void tn_state_digest(const tn_state *state, char digest[65])
{
    tn_sha256 hash;
    tn_sha256_begin(&hash);
    tn_state_entry **sorted = calloc((size_t)state->count + 1, sizeof *sorted);
    digest[0] = 0;
    if (!sorted) return;
    if (state->count) memcpy(sorted, state->entry, (size_t)state->count * sizeof *sorted);
    qsort(sorted, (size_t)state->count, sizeof *sorted, by_name);
    for (int i = 0; i < state->count; i++) {
        const tn_state_entry *entry = sorted[i];
        char head[512];
        int length = snprintf(head, sizeof head, "%s %s %s\n", entry->name,
                              tn_dtype_name(entry->dtype), tn_shape_text(entry->shape));
        tn_sha256_add(&hash, head,
                      (size_t)(length < (int)sizeof head ? length : (int)sizeof head - 1));
        tn_sha256_add(&hash, entry->data, entry->bytes);
    }
    free(sorted);
    unsigned char bytes[32];
    tn_sha256_end(&hash, bytes);
    for (int i = 0; i < 32; i++) snprintf(digest + 2 * i, 3, "%02x", bytes[i]);
}

/* ---- first values ---------------------------------------------------------------------------------- */

typedef struct fill_job {
    tn_state_entry *entry;
    tn_init init;
    uint64_t seed, stream;
} fill_job;

static double draw(const fill_job *job, int64_t i)
{
    switch (job->init.kind) {
    case TN_INIT_ZERO: return 0;
    case TN_INIT_CONSTANT: return job->init.a;
    case TN_INIT_UNIFORM:
        return job->init.a + (job->init.b - job->init.a) *
                                 (double)tn_random_uniform(job->seed, job->stream, (uint64_t)i);
    case TN_INIT_NORMAL:
        return job->init.a + job->init.b * tn_random_normal(job->seed, job->stream, (uint64_t)i);
    case TN_INIT_TRUNCATED_NORMAL:
        for (uint64_t redraw = 0; redraw < 64; redraw++) {
            double z = tn_random_normal(job->seed, job->stream, (uint64_t)i + (redraw << 40));
            if (z >= -2 && z <= 2) return job->init.a + job->init.b * z;
        }
        return job->init.a;
    }
    return 0;
}

static void fill_range(void *context, int64_t begin, int64_t end)
{
    const fill_job *job = context;
    void *data = job->entry->data;
    for (int64_t i = begin; i < end; i++) {
        double value = draw(job, i);
        switch (job->entry->dtype) {
        case TN_F32: ((float *)data)[i] = (float)value; break;
        case TN_F64: ((double *)data)[i] = value; break;
        case TN_BF16: ((uint16_t *)data)[i] = tn_bf16_from_f32((float)value); break;
        case TN_F16: ((uint16_t *)data)[i] = tn_f16_from_f32((float)value); break;
        case TN_I64: ((int64_t *)data)[i] = (int64_t)value; break;
        case TN_I32: ((int32_t *)data)[i] = (int32_t)value; break;
        case TN_I8: ((int8_t *)data)[i] = (int8_t)value; break;
        default: ((uint8_t *)data)[i] = (uint8_t)value; break;
        }
    }
}

tn_status tn_state_entry_for(tn_state *state, const tn_value *node, tn_state_entry **entry)
{
    const tn_state_attribute *attribute = node->attribute;
    pthread_mutex_lock(&state->lock);
    *entry = tn_state_find(state, node->name);
    tn_status status = TN_OK;
    if (*entry) {
        status = check_same(*entry, node->dtype, node->shape);
        if (status == TN_OK && attribute->parameter) (*entry)->parameter = true;
    } else {
        status = add_entry(state, node->name, node->dtype, node->shape, true, entry);
        if (status == TN_OK) {
            (*entry)->parameter = attribute->parameter;
            fill_job job = {*entry, attribute->init, state->seed, tn_random_stream(node->name)};
            if (attribute->init.kind == TN_INIT_ZERO) memset((*entry)->data, 0, (*entry)->bytes);
            else tn_parallel(tn_shape_size(node->shape), 16384, fill_range, &job);
        }
    }
    pthread_mutex_unlock(&state->lock);
    return status;
}
