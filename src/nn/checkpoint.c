/* State to files and back: models, and the checkpoints of a run. */
#include "nn/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/string.h"
#include "graph/op.h"
#include "tenon/train.h"
#include "tenon/weights.h"

/* ---- saving ---------------------------------------------------------------------------------- */

static bool is_training_memory(const char *name) { return strchr(name, '/') != NULL; }

/* The wanted entries as tensors. Those whose size is a multiple of 64 come first, so that they lie
 * aligned in the file. */
static tn_status list_tensors(const tn_state *state, tn_state_part part, tn_weight **list,
                              int *count)
{
    int entries = tn_state_count(state);
    *count = 0;
    *list = calloc((size_t)entries + 1, sizeof **list);
    if (!*list) return tn_fail(TN_MEMORY, "out of memory for a list of %d tensors", entries);
    for (int odd = 0; odd < 2; odd++)
        for (int i = 0; i < entries; i++) {
            const tn_state_entry *e = tn_state_at(state, i);
            if ((e->bytes % 64 != 0) != odd ||
                (part == TN_STATE_MODEL && is_training_memory(e->name)))
                continue;
            (*list)[(*count)++] = (tn_weight){.name = e->name,
                                              .dtype = e->dtype,
                                              .shape = e->shape,
                                              .bytes = e->data,
                                              .size = e->bytes};
        }
    return TN_OK;
}

tn_status tn_state_save(const tn_state *state, const char *path, tn_state_part part)
{
    tn_weight *list;
    int count;
    TN_TRY(list_tensors(state, part, &list, &count));
    tn_status status = tn_weights_save(path, list, count, &(tn_weights_text){"format", "pt"}, 1);
    free(list);
    return status;
}

/* ---- loading --------------------------------------------------------------------------------- */

/* Whether `weight` can be read into `entry`: the same thing, or any float into f32. */
static tn_status suits(const char *path, const tn_weight *weight, const tn_state_entry *entry)
{
    bool converts = entry->dtype == TN_F32 && tn_dtype_is_float(weight->dtype);
    bool same = entry->dtype == weight->dtype && weight->coding == TN_CODING_PLAIN;
    if ((converts || same) && tn_shape_equal(weight->shape, entry->shape)) return TN_OK;
    return tn_fail(
        TN_INVALID,
        "%s: tensor '%s' is %s %s, but this model wants %s %s; are these weights of another model?",
        path, weight->name, tn_dtype_name(weight->dtype), tn_shape_text(weight->shape),
        tn_dtype_name(entry->dtype), tn_shape_text(entry->shape));
}

static tn_dtype dtype_to_make(const tn_weight *weight)
{
    bool narrow = tn_dtype_is_float(weight->dtype) && weight->dtype != TN_F64;
    return narrow ? TN_F32 : weight->dtype;
}

static tn_status read_tensor(tn_state *state, const tn_weights *weights, const tn_weight *weight)
{
    tn_state_entry *entry = tn_state_find(state, weight->name);
    tn_dtype dtype = entry ? entry->dtype : dtype_to_make(weight);
    if (dtype == weight->dtype && weight->coding == TN_CODING_PLAIN)
        return tn_state_put(state, weight->name, dtype, weight->shape, weight->bytes);
    TN_TRY(tn_state_put(state, weight->name, dtype, weight->shape, NULL));
    entry = tn_state_find(state, weight->name);
    return tn_weights_read_f32(weights, weight->name, entry->data, tn_shape_size(weight->shape));
}

static tn_status load(tn_state *state, const tn_weights *weights, tn_state_loaded *loaded)
{
    for (int i = 0; i < tn_weights_count(weights); i++) {
        const tn_weight *weight = tn_weights_at(weights, i);
        const tn_state_entry *entry = tn_state_find(state, weight->name);
        if (entry) TN_TRY(suits(tn_weights_path(weights), weight, entry));
    }
    for (int i = 0; i < tn_state_count(state); i++) {
        const tn_state_entry *entry = tn_state_at(state, i);
        if (!entry->parameter || tn_weights_find(weights, entry->name)) continue;
        if (loaded->lacking++ == 0)
            snprintf(loaded->first_lacking, sizeof loaded->first_lacking, "%s", entry->name);
    }
    for (int i = 0; i < tn_weights_count(weights); i++) {
        const tn_weight *weight = tn_weights_at(weights, i);
        loaded->made += tn_state_find(state, weight->name) == NULL;
        loaded->read++;
        TN_TRY(read_tensor(state, weights, weight));
    }
    return TN_OK;
}

tn_status tn_state_load(tn_state *state, const char *path, tn_state_loaded *loaded)
{
    tn_state_loaded unused;
    if (!loaded) loaded = &unused;
    *loaded = (tn_state_loaded){0};
    tn_weights *weights;
    TN_TRY(tn_weights_open(path, &weights));
    tn_status status = load(state, weights, loaded);
    tn_weights_free(weights);
    return status;
}

/* ---- checkpoints ----------------------------------------------------------------------------- */

static const char name_pattern[] = "step-*.safetensors";

static char *path_of(const char *folder, int64_t step)
{
    tn_string path = {0};
    tn_string_format(&path, "%s/step-%08" PRId64 ".safetensors", folder, step);
    return tn_string_take(&path);
}

/* The step of a file name, or -1. */
static int64_t step_of(const char *name)
{
    if (!tn_glob_match(name_pattern, name)) return -1;
    char *end;
    errno = 0;
    long long step = strtoll(name + strlen("step-"), &end, 10);
    return errno == 0 && step >= 0 && !strcmp(end, ".safetensors") ? step : -1;
}

static int newest_first(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* The steps that have a file, newest first. A folder that does not exist has none. */
static tn_status list_steps(const char *folder, int64_t **list, int *count)
{
    *list = NULL;
    *count = 0;
    DIR *directory = opendir(folder);
    if (!directory)
        return errno == ENOENT
                   ? TN_OK
                   : tn_fail(TN_IO, "%s: cannot read the folder: %s", folder, strerror(errno));
    int capacity = 0;
    tn_status status = TN_OK;
    for (struct dirent *item; (item = readdir(directory));) {
        int64_t step = step_of(item->d_name);
        if (step < 0) continue;
        if (*count == capacity) {
            capacity = capacity ? 2 * capacity : 16;
            int64_t *bigger = realloc(*list, (size_t)capacity * sizeof *bigger);
            if (!bigger) {
                status = tn_fail(TN_MEMORY, "out of memory for %d checkpoints", capacity);
                break;
            }
            *list = bigger;
        }
        (*list)[(*count)++] = step;
    }
    closedir(directory);
    if (*count) qsort(*list, (size_t)*count, sizeof **list, newest_first);
    return status;
}

/* Over the names and bytes of all tensors in their order. */
static uint32_t checksum(const tn_weight *list, int count)
{
    uint32_t crc = 0;
    for (int i = 0; i < count; i++) {
        crc = tn_crc32c(crc, list[i].name, strlen(list[i].name));
        crc = tn_crc32c(crc, list[i].bytes, list[i].size);
    }
    return crc;
}

static tn_status check_finite(const tn_state *state, int64_t step)
{
    for (int i = 0; i < tn_state_count(state); i++) {
        const tn_state_entry *e = tn_state_at(state, i);
        if (!e->parameter || e->dtype != TN_F32) continue;
        const float *x = e->data;
        size_t count = e->bytes / sizeof *x;
        float sum = 0; /* 0 * x is NaN exactly where x is not finite */
        for (size_t k = 0; k < count; k++) sum += 0 * x[k];
        if (sum != 0 || sum != sum)
            return tn_fail(TN_INVALID,
                           "step %" PRId64 ": parameter '%s' has become NaN or infinite, so no "
                           "checkpoint is written and the last one "
                           "stays; try a smaller learning rate, a warm-up or clipping",
                           step, e->name);
    }
    return TN_OK;
}

/* Leaves `step` and the newest before it. Failing to remove one is no reason to stop training. */
static void remove_others(const char *folder, int64_t step)
{
    int64_t *list;
    int count;
    bool kept_one = false;
    if (list_steps(folder, &list, &count) != TN_OK) count = 0;
    for (int i = 0; i < count; i++) {
        if (list[i] == step) continue;
        if (list[i] < step && !kept_one) {
            kept_one = true;
            continue;
        }
        char *path = path_of(folder, list[i]);
        if (path && unlink(path) != 0)
            tn_log_line(TN_LOG_WARNING, "%s: cannot remove this old checkpoint: %s", path,
                        strerror(errno));
        free(path);
    }
    free(list);
}

tn_status tn_checkpoint_write(const char *folder, const tn_state *state, int64_t step,
                              const char *record)
{
    TN_TRY(check_finite(state, step));
    tn_weight *list;
    int count;
    TN_TRY(list_tensors(state, TN_STATE_ALL, &list, &count));
    char crc[16], *path = path_of(folder, step);
    snprintf(crc, sizeof crc, "%08" PRIx32, checksum(list, count));
    tn_weights_text text[] = {{"format", "pt"}, {"tenon.record", record}, {"tenon.crc32c", crc}};
    tn_status status = path ? tn_weights_save(path, list, count, text, 3)
                            : tn_fail(TN_MEMORY, "out of memory for a path");
    free(path);
    free(list);
    if (status == TN_OK) remove_others(folder, step);
    return status;
}

/* TN_FORMAT if the tensors are not what was written. */
static tn_status check_whole(const tn_weights *weights)
{
    const char *path = tn_weights_path(weights),
               *wanted = tn_weights_metadata(weights, "tenon.crc32c");
    if (!wanted || !tn_weights_metadata(weights, "tenon.record"))
        return tn_fail(TN_FORMAT,
                       "%s: this is a file of weights, not a checkpoint: its metadata has no "
                       "tenon.record and tenon.crc32c",
                       path);
    uint32_t crc = 0;
    for (int i = 0; i < tn_weights_count(weights); i++) {
        const tn_weight *w = tn_weights_at(weights, i);
        crc = tn_crc32c(tn_crc32c(crc, w->name, strlen(w->name)), w->bytes, w->size);
    }
    char text[16];
    snprintf(text, sizeof text, "%08" PRIx32, crc);
    if (!strcmp(text, wanted)) return TN_OK;
    return tn_fail(TN_FORMAT, "%s: the checksum is %s, but %s was written; the file is damaged",
                   path, text, wanted);
}

/* Everything that training goes on from must be there; a cache or the like may be missing. */
static tn_status check_complete(const tn_state *state, const tn_weights *weights)
{
    for (int i = 0; i < tn_state_count(state); i++) {
        const tn_state_entry *e = tn_state_at(state, i);
        if (tn_weights_find(weights, e->name)) continue;
        if (e->parameter || is_training_memory(e->name))
            return tn_fail(TN_INVALID,
                           "%s: the checkpoint does not have '%s'; it was written by another model "
                           "or optimiser: use another run folder",
                           tn_weights_path(weights), e->name);
    }
    return TN_OK;
}

static tn_status read_one(const char *path, tn_state *state, char **record)
{
    tn_weights *weights;
    TN_TRY(tn_weights_open(path, &weights));
    tn_state_loaded loaded = {0};
    tn_status status = check_whole(weights);
    if (status == TN_OK) status = check_complete(state, weights);
    if (status == TN_OK) status = load(state, weights, &loaded);
    if (status == TN_OK) {
        *record = strdup(tn_weights_metadata(weights, "tenon.record"));
        if (!*record) status = tn_fail(TN_MEMORY, "out of memory for a checkpoint's record");
    }
    tn_weights_free(weights);
    return status;
}

tn_status tn_checkpoint_read(const char *folder, tn_state *state, int64_t *step, char **record)
{
    *record = NULL;
    int64_t *list;
    int count;
    tn_status status = list_steps(folder, &list, &count);
    for (int i = 0; i < count && status == TN_OK && !*record; i++) {
        char *path = path_of(folder, list[i]);
        status = path ? read_one(path, state, record)
                      : tn_fail(TN_MEMORY, "out of memory for a path");
        free(path);
        *step = list[i];
        if (status == TN_FORMAT && i + 1 < count) {
            tn_log_line(TN_LOG_WARNING, "%s; going back to the checkpoint before it", tn_message());
            status = TN_OK;
        } else if (status == TN_FORMAT) {
            tn_fail_in(status, "%s: no checkpoint can be read (remove the folder to begin anew)",
                       folder);
        }
    }
    free(list);
    return status;
}
