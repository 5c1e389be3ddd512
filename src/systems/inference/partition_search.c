/* All layouts: the best one, where the cheapest changes, and constants from measurements. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "tenon/partition.h"

/* ---- search ---------------------------------------------------------------------------------- */

typedef struct candidates {
    tn_partition_estimate *list;
    int count, capacity;
} candidates;

static bool add(candidates *c, const tn_partition_estimate *e)
{
    if (c->count == c->capacity) {
        int capacity = c->capacity ? 2 * c->capacity : 64;
        tn_partition_estimate *list = realloc(c->list, (size_t)capacity * sizeof *list);
        if (!list) return false;
        c->list = list;
        c->capacity = capacity;
    }
    c->list[c->count++] = *e;
    return true;
}

/* Another name of a layout that was listed already: on an axis of one chip nothing is split. */
static bool is_repeated(const int64_t *mesh, tn_partition_ff ff, tn_partition_attention attention)
{
    if (ff == TN_WS1D && mesh[0] > 1) return true; /* ws1d is listed on the mesh 1 x Y x Z */
    if (ff == TN_WS2D && mesh[0] == 1) return true;
    if (ff == TN_WG_X && mesh[0] == 1) return true;
    if (ff == TN_WG_XY && mesh[1] == 1) return true;
    if (ff == TN_WG_XYZ && mesh[2] == 1) return true;
    if (ff >= TN_WG_X) return attention != TN_BY_HEADS;
    if (attention == TN_BY_BATCH_Z) return mesh[2] == 1;
    if (attention == TN_BY_BATCH_YZ) return mesh[1] == 1;
    if (attention == TN_BY_BATCH_YZX) return mesh[0] == 1;
    return false;
}

static bool try_mesh(candidates *c, const tn_partition_model *model,
                     const tn_partition_hardware *hardware, const tn_partition_job *job,
                     const int64_t *mesh, bool only_mesh)
{
    for (int ff = 0; ff < TN_PARTITION_FFS; ff++)
        for (int attention = 0; attention < TN_PARTITION_ATTENTIONS; attention++) {
            tn_partition_layout l = {.ff = (tn_partition_ff)ff,
                                     .attention = (tn_partition_attention)attention};
            memcpy(l.mesh, mesh, sizeof l.mesh);
            bool one_dimension = only_mesh && ff == TN_WS1D && attention == TN_BY_HEADS;
            if (!one_dimension && is_repeated(mesh, l.ff, l.attention)) continue;
            tn_partition_estimate e;
            tn_partition_estimate_layout(model, hardware, job, l, &e);
            if (!add(c, &e)) return false;
        }
    return true;
}

static int class_of(const tn_partition_estimate *e) { return e->fits ? 0 : e->possible ? 1 : 2; }

static int by_latency(const void *a, const void *b)
{
    const tn_partition_estimate *x = a, *y = b;
    if (class_of(x) != class_of(y)) return class_of(x) - class_of(y);
    if (x->latency != y->latency) return x->latency < y->latency ? -1 : 1;
    if (x->bytes_sum != y->bytes_sum) return x->bytes_sum < y->bytes_sum ? -1 : 1;
    return memcmp(&x->layout, &y->layout, sizeof x->layout);
}

tn_status tn_partition_search(const tn_partition_model *model,
                              const tn_partition_hardware *hardware, const tn_partition_job *job,
                              int64_t chips, const int64_t *mesh, tn_partition_estimate **list,
                              int *count)
{
    candidates c = {0};
    bool good = true;
    *list = NULL;
    *count = 0;
    if (chips < 1)
        return tn_fail(TN_INVALID, "%lld chips; there must be at least 1", (long long)chips);
    if (mesh) {
        good = try_mesh(&c, model, hardware, job, mesh, true);
    } else {
        for (int64_t x = 1; x <= chips && good; x++)
            for (int64_t y = 1; chips % x == 0 && y <= chips / x && good; y++)
                if (chips / x % y == 0)
                    good = try_mesh(&c, model, hardware, job, (int64_t[]){x, y, chips / x / y},
                                    false);
    }
    if (!good) {
        free(c.list);
        return tn_fail(TN_MEMORY, "out of memory for %d candidates", c.count);
    }
    qsort(c.list, (size_t)c.count, sizeof *c.list, by_latency);
    *list = c.list;
    *count = c.count;
    return TN_OK;
}

/* ---- crossovers ------------------------------------------------------------------------------ */

/* Bytes of a layout are a line over the tokens. */
typedef struct line {
    double start, slope;
    tn_partition_ff ff;
} line;

int tn_partition_crossovers(const tn_partition_model *model, const tn_partition_job *job,
                            const int64_t *mesh, tn_partition_crossover *out)
{
    static const tn_partition_hardware any = {"", 1, 1, 1, 1, 1, 0, 1, {1, 1, 1, 0}};
    line lines[TN_PARTITION_FFS];
    int count = 0, entries = 0;
    for (int ff = 0; ff < TN_PARTITION_FFS; ff++) {
        double bytes[2];
        for (int i = 0; i < 2; i++) {
            tn_partition_job at = *job;
            at.batch = mesh[0] * mesh[1] * mesh[2]; /* so that every layout exists */
            at.tokens = i + 1;
            tn_partition_estimate e;
            tn_partition_layout l = {.ff = (tn_partition_ff)ff, .attention = TN_BY_BATCH_YZX};
            memcpy(l.mesh, mesh, sizeof l.mesh);
            tn_partition_estimate_layout(model, &any, &at, l, &e);
            bytes[i] = e.bytes_sum;
        }
        double step = (double)(mesh[0] * mesh[1] * mesh[2]), slope = (bytes[1] - bytes[0]) / step;
        lines[count++] = (line){bytes[0] - slope * step, slope, (tn_partition_ff)ff};
    }
    int best = 0;
    for (int i = 1; i < count; i++)
        if (lines[i].start < lines[best].start * (1 - 1e-12) ||
            (fabs(lines[i].start - lines[best].start) <= 1e-9 * fabs(lines[i].start) + 1e-6 &&
             lines[i].slope < lines[best].slope))
            best = i;
    double from = 0;
    for (;;) {
        out[entries++] = (tn_partition_crossover){from, lines[best].ff};
        int next = -1;
        double at = INFINITY;
        for (int i = 0; i < count; i++) {
            if (lines[i].slope >= lines[best].slope * (1 - 1e-12)) continue;
            double t = (lines[i].start - lines[best].start) / (lines[best].slope - lines[i].slope);
            if (t < at || (t == at && lines[i].slope < lines[next].slope)) at = t, next = i;
        }
        if (next < 0) return entries;
        from = at;
        best = next;
    }
}

/* ---- calibration ----------------------------------------------------------------------------- */

double tn_partition_predict(const tn_partition_hardware *hardware, const tn_partition_point *point)
{
    tn_partition_estimate e;
    tn_partition_estimate_layout(&point->model, hardware, &point->job, point->layout, &e);
    return e.latency;
}

double tn_partition_error(const tn_partition_hardware *hardware, const tn_partition_point *point,
                          int count)
{
    double sum = 0;
    for (int i = 0; i < count; i++)
        sum += fabs(tn_partition_predict(hardware, &point[i]) / point[i].seconds - 1);
    return count ? sum / count : 0;
}

static double square_error(const tn_partition_hardware *hardware, const tn_partition_point *point,
                           int count, const char *skip)
{
    double sum = 0;
    for (int i = 0; i < count; i++) {
        if (skip && !strcmp(point[i].model.name, skip)) continue;
        double x = log(tn_partition_predict(hardware, &point[i]) / point[i].seconds);
        sum += x * x;
    }
    return sum;
}

/* Search along one constant after the other with shrinking steps: the maximum of two times is not
 * smooth, and four numbers are few. */
void tn_partition_fit(tn_partition_hardware *hardware, const tn_partition_point *point, int count,
                      const char *skip)
{
    enum { CONSTANTS = 4 };
    double best_error = INFINITY;
    tn_partition_constants best = hardware->constants;
    static const double starts[][CONSTANTS] = {
        {0.65, 0.7, 0.2, 90e-6}, {0.8, 0.8, 0.5, 50e-6}, {0.5, 0.5, 0.3, 20e-6}};
    for (size_t s = 0; s < sizeof starts / sizeof *starts; s++) {
        double x[CONSTANTS], error;
        memcpy(x, starts[s], sizeof x);
        tn_partition_hardware h = *hardware;
        h.constants = (tn_partition_constants){x[0], x[1], x[2], x[3]};
        error = square_error(&h, point, count, skip);
        for (double step = 0.3; step > 1e-4;) {
            bool better = false;
            for (int k = 0; k < 2 * CONSTANTS; k++) {
                double old = x[k / 2], trial = old * (k % 2 ? 1 + step : 1 / (1 + step));
                if (k / 2 < 3 && trial > 1) trial = 1;
                x[k / 2] = trial;
                h.constants = (tn_partition_constants){x[0], x[1], x[2], x[3]};
                double e = square_error(&h, point, count, skip);
                if (e < error) error = e, better = true;
                else x[k / 2] = old;
            }
            if (!better) step *= 0.6;
        }
        if (error < best_error) {
            best_error = error;
            best = (tn_partition_constants){x[0], x[1], x[2], x[3]};
        }
    }
    hardware->constants = best;
}
