/* metrics.jsonl: one line of named numbers at a time, held by one process, cut back when a run goes
 * on from a checkpoint. */
#ifndef TN_NN_METRICS_H
#define TN_NN_METRICS_H

#include <stdint.h>

#include <jansson.h>

#include "tenon/train.h"

/* A line being made. */
struct tn_metrics {
    json_t *line;
    tn_status status;
};

typedef struct tn_metrics_file {
    int descriptor; /* -1: no file; writing then does nothing */
    char *path;
    int64_t size;
} tn_metrics_file;

/* Opens or makes the file and claims it for this process. TN_INVALID if another has it, TN_IO. */
tn_status tn_metrics_open(const char *path, tn_metrics_file *file);
/* Keeps the first `size` bytes. */
tn_status tn_metrics_cut(tn_metrics_file *file, int64_t size);
/* Begins a line with "step". */
tn_metrics tn_metrics_begin(int64_t step);
/* Writes the line and frees it. */
tn_status tn_metrics_end(tn_metrics_file *file, tn_metrics *metrics);
/* Waits until all lines are on disk. */
tn_status tn_metrics_sync(tn_metrics_file *file);
void tn_metrics_close(tn_metrics_file *file);

#endif
