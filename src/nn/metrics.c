/* Lines of metrics. */
#include "nn/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/status.h"

static tn_status fail(const tn_metrics_file *file, const char *what)
{
    return tn_fail(TN_IO, "%s: cannot %s: %s", file->path, what, strerror(errno));
}

tn_status tn_metrics_open(const char *path, tn_metrics_file *file)
{
    *file = (tn_metrics_file){.descriptor = -1, .path = strdup(path)};
    if (!file->path) return tn_fail(TN_MEMORY, "out of memory for a path");
    file->descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    tn_status status = TN_OK;
    struct stat known;
    if (file->descriptor < 0) status = fail(file, "open the file");
    else if (flock(file->descriptor, LOCK_EX | LOCK_NB) != 0)
        status = errno == EWOULDBLOCK ? tn_fail(TN_INVALID,
                                                "%s: another process is training in this folder; "
                                                "wait for it or choose another folder",
                                                path)
                                      : fail(file, "lock the file");
    else if (fstat(file->descriptor, &known) != 0) status = fail(file, "look at the file");
    else file->size = known.st_size;
    if (status != TN_OK) tn_metrics_close(file);
    return status;
}

tn_status tn_metrics_cut(tn_metrics_file *file, int64_t size)
{
    if (file->descriptor < 0) return TN_OK;
    if (size < file->size) file->size = size;
    if (ftruncate(file->descriptor, file->size) != 0 ||
        lseek(file->descriptor, file->size, SEEK_SET) < 0)
        return fail(file, "cut the file");
    return TN_OK;
}

tn_metrics tn_metrics_begin(int64_t step)
{
    tn_metrics metrics = {.line = json_object()};
    if (!metrics.line || json_object_set_new(metrics.line, "step", json_integer(step)) != 0)
        metrics.status = TN_MEMORY;
    return metrics;
}

/* JSON has no NaN and no infinity: they become null. */
void tn_metrics_add(tn_metrics *metrics, const char *name, double value)
{
    if (metrics->status != TN_OK) return;
    json_t *number = isfinite(value) ? json_real(value) : json_null();
    if (json_object_set_new(metrics->line, name, number) != 0) metrics->status = TN_MEMORY;
}

tn_status tn_metrics_end(tn_metrics_file *file, tn_metrics *metrics)
{
    tn_status status = metrics->status;
    char *text = status == TN_OK && file->descriptor >= 0
                     ? json_dumps(metrics->line, JSON_COMPACT | JSON_REAL_PRECISION(9))
                     : NULL;
    if (status != TN_OK || (file->descriptor >= 0 && !text))
        status = tn_fail(TN_MEMORY,
                         "out of memory for a line of metrics, or a name that is not UTF-8");
    json_decref(metrics->line);
    metrics->line = NULL;
    if (!text) return status;
    size_t size = strlen(text), written = 0;
    text[size++] = '\n'; /* in place of the NUL */
    while (written < size) {
        ssize_t n = write(file->descriptor, text + written, size - written);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            status = fail(file, "write a line");
            break;
        }
        written += (size_t)n;
    }
    file->size += (int64_t)written;
    free(text);
    return status;
}

tn_status tn_metrics_sync(tn_metrics_file *file)
{
    if (file->descriptor >= 0 && fsync(file->descriptor) != 0)
        return fail(file, "write the file to disk");
    return TN_OK;
}

void tn_metrics_close(tn_metrics_file *file)
{
    if (file->descriptor >= 0) close(file->descriptor);
    free(file->path);
    *file = (tn_metrics_file){.descriptor = -1};
}
