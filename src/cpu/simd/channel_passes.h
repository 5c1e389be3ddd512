/* Passes over x [B, C, S...] that treat every channel on its own: what batch and group norm are
 * made of.
 *
 * x is seen as P samples of N rows of C channels. Channels-last: batch norm is one sample of B*S
 * rows, group norm B samples of S rows. Row-major ("flat"): every plane of S elements is a
 * sample with one channel. Few channels are repeated side by side R times, so that a row of W =
 * R*C fills whole vectors; the R copies of a channel are folded at the end.
 *
 * Work is cut into `chunks` per sample, from the shape alone; each leaves one row of partial
 * results, and these are joined in their order. Coefficients per channel come in `sets` of W
 * (flat: of 1): sample p uses set p % sets. */
#ifndef TN_CPU_SIMD_CHANNEL_PASSES_H
#define TN_CPU_SIMD_CHANNEL_PASSES_H

#include "base/threads.h"
#include "cpu/simd/float_lanes.h"
#include "graph/kernel.h"

enum {
    TN_CHANNELS_SMALL = 32768, /* elements below which one thread does it all */
    TN_WIDEST_REPEAT = 128     /* W at most, where R > 1 */
};

typedef struct tn_channels {
    tn_dtype dtype;
    bool flat, small;
    int64_t samples, rows, channels; /* P, N, C */
    int64_t repeat, width;           /* R, W */
    int64_t chunks, chunk_rows;      /* per sample; chunk_rows is a multiple of R */
    int64_t block_rows;              /* rows of W that are read twice in L1 */
    int64_t sets;
} tn_channels;

static inline tn_channels tn_channels_of(const tn_operand *x, bool one_sample)
{
    tn_channels g = {.dtype = x->dtype, .flat = x->rank > 2 && x->stride[1] != 1};
    int64_t batch = x->dim[0], channels = x->dim[1], space = 1;
    for (int i = 2; i < x->rank; i++) space *= x->dim[i];
    g.samples = g.flat ? batch * channels : one_sample ? 1 : batch;
    g.rows = g.flat || !one_sample ? space : batch * space;
    g.channels = g.flat ? 1 : channels;
    g.sets = !one_sample ? g.samples : g.flat ? channels : 1;
    int64_t even = 1;
    while (g.channels * even % 16) even *= 2; /* whole vectors */
    g.repeat = 1;
    if (g.channels > 0 && g.channels * even <= TN_WIDEST_REPEAT)
        g.repeat = g.channels * even < 64 ? even * (64 / (g.channels * even)) : even;
    g.width = g.channels * g.repeat;
    int64_t elements = g.rows * g.channels, most = g.samples > 0 ? 64 / g.samples : 1,
            wanted = elements / 16384 + 1;
    g.chunks = wanted < most ? wanted : most > 1 ? most : 1;
    int64_t wide_rows = (g.rows + g.repeat - 1) / g.repeat,
            each = (wide_rows + g.chunks - 1) / g.chunks;
    g.chunk_rows = (each > 0 ? each : 1) * g.repeat;
    g.chunks = g.rows > 0 ? (g.rows + g.chunk_rows - 1) / g.chunk_rows : 1;
    g.block_rows = g.width > 0 ? 16384 / g.width : 64;
    g.block_rows = g.block_rows > 64 ? 64 : g.block_rows < 8 ? 8 : g.block_rows;
    g.small = g.samples * elements < TN_CHANNELS_SMALL;
    return g;
}

/* Floats of storage that one array of coefficients needs when it is spread. */
static inline int64_t tn_channels_storage(const tn_channels *g)
{
    return g->flat || g->repeat == 1 ? 0 : g->sets * g->width;
}

/* Partial results: [P * chunks][C], in each of two arrays. */
static inline int64_t tn_channels_partials(const tn_channels *g)
{
    return g->samples * g->chunks * g->channels;
}

static inline int64_t tn_chunk_size(int64_t chunk, int64_t each, int64_t all)
{
    int64_t rest = all - chunk * each;
    return rest < each ? rest : each;
}

/* Values per channel [sets][C] as coefficients [sets][W]: the same array, or `storage` with
 * every row repeated R times. */
static inline const float *tn_channels_spread(const tn_channels *g, const float *value,
                                              float *storage)
{
    if (g->flat || g->repeat == 1) return value;
    for (int64_t row = 0; row < g->sets * g->repeat; row++)
        memcpy(storage + row * g->channels, value + row / g->repeat * g->channels,
               (size_t)g->channels * sizeof *storage);
    return storage;
}

/* A chunk as blocks of rows of W; the last may be one row of fewer columns. */
typedef struct tn_walk {
    int64_t sample, set, first; /* element of the chunk's first row */
    int64_t wide, extra;        /* whole rows of W, columns of the row behind them */
    int64_t row, rows, columns; /* the present block */
} tn_walk;

static inline tn_walk tn_walk_begin(const tn_channels *g, int64_t task)
{
    int64_t sample = task / g->chunks, chunk = task % g->chunks,
            rows = tn_chunk_size(chunk, g->chunk_rows, g->rows);
    return (tn_walk){.sample = sample,
                     .set = sample % g->sets,
                     .first = (sample * g->rows + chunk * g->chunk_rows) * g->channels,
                     .wide = rows / g->repeat,
                     .extra = rows % g->repeat * g->channels};
}

static inline bool tn_walk_next(const tn_channels *g, tn_walk *w)
{
    w->row += w->rows;
    w->columns = w->row < w->wide ? g->width : w->extra;
    w->rows = w->row >= w->wide                  ? 1
              : w->wide - w->row < g->block_rows ? w->wide - w->row
                                                 : g->block_rows;
    return w->row < w->wide + (w->extra > 0);
}

/* Where the present block begins in an array. */
static inline void *tn_walk_at(const tn_channels *g, const tn_walk *w, tn_dtype dtype,
                               const void *x)
{
    return (unsigned char *)(uintptr_t)x +
           (size_t)(w->first + w->row * g->width) * (dtype == TN_F32 ? 4 : 2);
}

/* Calls function(count, first, ...) for columns 0 .. columns-1: four vectors at a time, then
 * one, then a part of one. */
#define TN_EACH_COLUMN_GROUP(columns, function, ...)                                               \
    do {                                                                                           \
        int64_t at_ = 0, columns_ = (columns);                                                     \
        for (; at_ + 4 * TN_VEC <= columns_; at_ += 4 * TN_VEC)                                    \
            function(4, TN_VEC, at_, __VA_ARGS__);                                                 \
        for (; at_ + TN_VEC <= columns_; at_ += TN_VEC) function(1, TN_VEC, at_, __VA_ARGS__);     \
        if (at_ < columns_) function(1, (int)(columns_ - at_), at_, __VA_ARGS__);                  \
    } while (0)

/* ---- moments: mean and sum of squared deviations --------------------------------------------- */

typedef struct tn_moments_pass {
    const tn_channels *g;
    const void *x;
    float *mean, *square; /* [P * chunks][C] */
} tn_moments_pass;

/* A block of rows is summed (as differences from its first row), then its deviations from its
 * own mean are (it is in L1 by then), and the result joins what `before` rows gave (Chan et al.
 * 1979): accurate however far the mean lies from 0. */
TN_VEC_INLINE void tn_moments_columns(int vectors, int count, int64_t at, const void *x,
                                      int64_t rows, int64_t stride, int64_t before, float *mean,
                                      float *square, tn_dtype dtype)
{
    tn_vec first[4], sum[4] = {{0}}, deviation[4] = {{0}};
    for (int v = 0; v < vectors; v++) first[v] = tn_vec_get(dtype, x, at + v * TN_VEC, count);
    for (int64_t r = 1; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[v] += tn_vec_get(dtype, x, r * stride + at + v * TN_VEC, count) - first[v];
    for (int v = 0; v < vectors; v++) sum[v] = first[v] + sum[v] * (1 / (float)rows);
    for (int64_t r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            tn_vec centred = tn_vec_get(dtype, x, r * stride + at + v * TN_VEC, count) - sum[v];
            deviation[v] += centred * centred;
        }
    for (int v = 0; v < vectors; v++) {
        if (before) {
            tn_vec old = tn_vec_get(TN_F32, mean, at + v * TN_VEC, count), delta = sum[v] - old;
            float weight = (float)rows / (float)(before + rows);
            deviation[v] += tn_vec_get(TN_F32, square, at + v * TN_VEC, count) +
                            delta * delta * ((float)before * weight);
            sum[v] = old + delta * weight;
        }
        tn_vec_put(TN_F32, mean, at + v * TN_VEC, sum[v], count);
        tn_vec_put(TN_F32, square, at + v * TN_VEC, deviation[v], count);
    }
}

/* The same for one channel (a flat sample), whose W columns are whole vectors: their moments
 * side by side in lanes. */
TN_VEC_INLINE void tn_moments_fold_flat(const tn_channels *g, int64_t wide, int64_t extra,
                                        const float *mean, const float *square, float *to_mean,
                                        float *to_square)
{
    float count = (float)(wide * g->width + extra), first = mean[0];
    tn_vec sum = {0}, deviation = {0};
    for (int64_t w = 0; w < g->width; w += TN_VEC) {
        tn_vec one_more = tn_vec_keep(tn_vec_first(extra <= w           ? 0
                                                   : extra - w < TN_VEC ? (int)(extra - w)
                                                                        : TN_VEC),
                                      tn_vec_all(1));
        sum += (one_more + (float)wide) * (tn_vec_load(TN_F32, mean, w) - first);
    }
    float all = first + tn_vec_sum(sum) / count;
    for (int64_t w = 0; w < g->width; w += TN_VEC) {
        tn_vec one_more = tn_vec_keep(tn_vec_first(extra <= w           ? 0
                                                   : extra - w < TN_VEC ? (int)(extra - w)
                                                                        : TN_VEC),
                                      tn_vec_all(1));
        tn_vec delta = tn_vec_load(TN_F32, mean, w) - all;
        deviation += tn_vec_load(TN_F32, square, w) + (one_more + (float)wide) * (delta * delta);
    }
    *to_mean = all;
    *to_square = tn_vec_sum(deviation);
}

/* W columns, of which column w has seen `wide` rows and one more where w < extra, to C channels. */
static __attribute__((noinline, unused)) void tn_moments_fold(const tn_channels *g, int64_t wide,
                                                              int64_t extra, const float *mean,
                                                              const float *square, float *to_mean,
                                                              float *to_square)
{
    float sum[TN_WIDEST_REPEAT] = {0}, deviation[TN_WIDEST_REPEAT] = {0};
    float count = (float)(wide * g->repeat + extra / g->channels);
    for (int64_t w = 0; w < g->width;
         w += g->channels) /* extra is a whole number of rows of channels */
        for (int64_t c = 0; c < g->channels; c++)
            sum[c] += (float)(wide + (w < extra)) * (mean[w + c] - mean[c]);
    for (int64_t c = 0; c < g->channels; c++) to_mean[c] = mean[c] + sum[c] / count;
    for (int64_t w = 0; w < g->width; w += g->channels)
        for (int64_t c = 0; c < g->channels; c++) {
            float delta = mean[w + c] - to_mean[c];
            deviation[c] += square[w + c] + (float)(wide + (w < extra)) * (delta * delta);
        }
    for (int64_t c = 0; c < g->channels; c++) to_square[c] = deviation[c];
}

TN_VEC_INLINE void tn_moments_chunk(const tn_moments_pass *pass, int64_t task, tn_dtype dtype)
{
    const tn_channels *g = pass->g;
    float local_mean[TN_WIDEST_REPEAT] = {0}, local_square[TN_WIDEST_REPEAT] = {0};
    float *to_mean = pass->mean + task * g->channels,
          *to_square = pass->square + task * g->channels;
    float *mean = g->repeat > 1 ? local_mean : to_mean,
          *square = g->repeat > 1 ? local_square : to_square;
    tn_walk w = tn_walk_begin(g, task);
    while (tn_walk_next(g, &w)) {
        const void *x = tn_walk_at(g, &w, dtype, pass->x);
        TN_EACH_COLUMN_GROUP(w.columns, tn_moments_columns, x, w.rows, g->width, w.row, mean,
                             square, dtype);
    }
    if (g->channels == 1)
        tn_moments_fold_flat(g, w.wide, w.extra, mean, square, to_mean, to_square);
    else if (g->repeat > 1) tn_moments_fold(g, w.wide, w.extra, mean, square, to_mean, to_square);
}

static void tn_moments_body(void *context, int64_t begin, int64_t end)
{
    const tn_moments_pass *pass = context;
    for (int64_t task = begin; task < end; task++)
        TN_FOR_FLOAT(pass->g->dtype, tn_moments_chunk, pass, task);
}

/* `parts` rows of moments [parts][columns], of each, each, ..., the rest of `all` elements, to
 * one. May lie over the first part. */
static __attribute__((noinline, unused)) void tn_moments_join(int64_t parts, int64_t each,
                                                              int64_t all, int64_t columns,
                                                              const float *mean,
                                                              const float *square, float *to_mean,
                                                              float *to_square)
{
    for (int64_t first = 0; first < columns; first += 64) {
        double sum[64] = {0}, deviation[64] = {0};
        int64_t count = columns - first < 64 ? columns - first : 64;
        for (int64_t k = 0; k < parts; k++) {
            double n = (double)tn_chunk_size(k, each, all);
            for (int64_t i = 0; i < count; i++) sum[i] += n * (double)mean[k * columns + first + i];
        }
        for (int64_t i = 0; i < count; i++) sum[i] /= (double)all;
        for (int64_t k = 0; k < parts; k++) {
            double n = (double)tn_chunk_size(k, each, all);
            for (int64_t i = 0; i < count; i++) {
                double delta = (double)mean[k * columns + first + i] - sum[i];
                deviation[i] += (double)square[k * columns + first + i] + n * delta * delta;
            }
        }
        for (int64_t i = 0; i < count; i++) {
            to_mean[first + i] = (float)sum[i];
            to_square[first + i] = (float)deviation[i];
        }
    }
}

/* Moments of every channel of every sample, [P][C], at the front of pass's arrays. */
static inline void tn_moments_run(tn_moments_pass *pass)
{
    const tn_channels *g = pass->g;
    if (g->rows == 0) {
        memset(pass->mean, 0, (size_t)tn_channels_partials(g) * sizeof(float));
        memset(pass->square, 0, (size_t)tn_channels_partials(g) * sizeof(float));
        return;
    }
    tn_parallel(g->samples * g->chunks, g->small ? INT64_MAX : 0, tn_moments_body, pass);
    if (g->chunks == 1) return;
    for (int64_t p = 0; p < g->samples; p++) {
        int64_t from = p * g->chunks * g->channels, to = p * g->channels;
        tn_moments_join(g->chunks, g->chunk_rows, g->rows, g->channels, pass->mean + from,
                        pass->square + from, pass->mean + to, pass->square + to);
    }
}

/* ---- y = activation((x - mean) factor + shift + residual) ------------------------------------ */

typedef struct tn_apply_pass {
    const tn_channels *g;
    const void *x, *residual;
    void *y;
    const float *mean, *factor, *shift; /* coefficients */
    bool relu;
} tn_apply_pass;

/* Set `set` of a coefficient for the columns at `at`. */
TN_VEC_INLINE tn_vec tn_coefficient(const tn_channels *g, const float *value, int64_t set,
                                    int64_t at, int count)
{
    return g->flat ? tn_vec_all(value[set]) : tn_vec_get(TN_F32, value + set * g->width, at, count);
}

TN_VEC_INLINE void tn_apply_columns(int vectors, int count, int64_t at, const tn_apply_pass *pass,
                                    bool residual, bool relu, int64_t set, const void *x,
                                    const void *beside, void *y, int64_t rows, tn_dtype dtype)
{
    const tn_channels *g = pass->g;
    tn_vec mean[4], factor[4], shift[4];
    for (int v = 0; v < vectors; v++) {
        mean[v] = tn_coefficient(g, pass->mean, set, at + v * TN_VEC, count);
        factor[v] = tn_coefficient(g, pass->factor, set, at + v * TN_VEC, count);
        shift[v] = tn_coefficient(g, pass->shift, set, at + v * TN_VEC, count);
    }
    for (int64_t r = 0, stride = g->width; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            int64_t i = r * stride + at + v * TN_VEC;
            tn_vec z = (tn_vec_get(dtype, x, i, count) - mean[v]) * factor[v] + shift[v];
            if (residual) z += tn_vec_get(dtype, beside, i, count);
            if (relu) z = tn_vec_max((tn_vec){0}, z); /* NaN stays */
            tn_vec_put(dtype, y, i, z, count);
        }
}

TN_VEC_INLINE void tn_apply_rows(const tn_apply_pass *pass, int64_t task, bool residual, bool relu,
                                 tn_dtype dtype)
{
    const tn_channels *g = pass->g;
    tn_walk w = tn_walk_begin(g, task);
    while (tn_walk_next(g, &w)) {
        const void *x = tn_walk_at(g, &w, dtype, pass->x),
                   *beside = residual ? tn_walk_at(g, &w, dtype, pass->residual) : NULL;
        void *y = tn_walk_at(g, &w, dtype, pass->y);
        TN_EACH_COLUMN_GROUP(w.columns, tn_apply_columns, pass, residual, relu, w.set, x, beside, y,
                             w.rows, dtype);
    }
}

TN_VEC_INLINE void tn_apply_chunk(const tn_apply_pass *pass, int64_t task, tn_dtype dtype)
{
    if (pass->residual && pass->relu) tn_apply_rows(pass, task, true, true, dtype);
    else if (pass->residual) tn_apply_rows(pass, task, true, false, dtype);
    else if (pass->relu) tn_apply_rows(pass, task, false, true, dtype);
    else tn_apply_rows(pass, task, false, false, dtype);
}

static void tn_apply_body(void *context, int64_t begin, int64_t end)
{
    const tn_apply_pass *pass = context;
    for (int64_t task = begin; task < end; task++)
        TN_FOR_FLOAT(pass->g->dtype, tn_apply_chunk, pass, task);
}

static inline void tn_apply_run(tn_apply_pass *pass)
{
    const tn_channels *g = pass->g;
    if (g->rows > 0)
        tn_parallel(g->samples * g->chunks, g->small ? INT64_MAX : 0, tn_apply_body, pass);
}

/* ---- sums of d and d (x - mean), d being d_y where the activation let it through ------------- */

typedef struct tn_gradient_pass {
    const tn_channels *g;
    const void *x, *d_y;
    const float *mean, *factor,
        *shift; /* coefficients; factor and shift for the activation's sign and, factor, for d_x */
    bool relu;
    float *sum, *product; /* [P * chunks][C] */
    /* the second pass: d_x = factor d - offset - (x - mean) slope */
    void *d_x;
    const float *offset, *slope;
} tn_gradient_pass;

TN_VEC_INLINE tn_vec tn_masked(bool relu, tn_vec d, tn_vec centred, tn_vec factor, tn_vec shift)
{
    return relu ? tn_vec_where_positive(centred * factor + shift, d) : d;
}

TN_VEC_INLINE void tn_sums_columns(int vectors, int count, int64_t at, const tn_gradient_pass *pass,
                                   bool relu, int64_t set, const void *x, const void *d_y,
                                   int64_t rows, float *sum, float *product, tn_dtype dtype)
{
    const tn_channels *g = pass->g;
    tn_vec mean[4], factor[4] = {{0}}, shift[4] = {{0}}, s[4] = {{0}}, p[4] = {{0}};
    for (int v = 0; v < vectors; v++) {
        mean[v] = tn_coefficient(g, pass->mean, set, at + v * TN_VEC, count);
        if (!relu) continue;
        factor[v] = tn_coefficient(g, pass->factor, set, at + v * TN_VEC, count);
        shift[v] = tn_coefficient(g, pass->shift, set, at + v * TN_VEC, count);
    }
    for (int64_t r = 0, stride = g->width; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            int64_t i = r * stride + at + v * TN_VEC;
            tn_vec centred = tn_vec_get(dtype, x, i, count) - mean[v];
            tn_vec d = tn_masked(relu, tn_vec_get(dtype, d_y, i, count), centred, factor[v],
                                 shift[v]);
            s[v] += d;
            p[v] += d * centred;
        }
    for (int v = 0; v < vectors; v++) { /* the block's sums onto the chunk's */
        tn_vec_put(TN_F32, sum, at + v * TN_VEC,
                   s[v] + tn_vec_get(TN_F32, sum, at + v * TN_VEC, count), count);
        tn_vec_put(TN_F32, product, at + v * TN_VEC,
                   p[v] + tn_vec_get(TN_F32, product, at + v * TN_VEC, count), count);
    }
}

TN_VEC_INLINE void tn_sums_rows(const tn_gradient_pass *pass, int64_t task, bool relu,
                                tn_dtype dtype)
{
    const tn_channels *g = pass->g;
    float local_sum[TN_WIDEST_REPEAT] = {0}, local_product[TN_WIDEST_REPEAT] = {0};
    float *to_sum = pass->sum + task * g->channels,
          *to_product = pass->product + task * g->channels;
    float *sum = g->repeat > 1 ? local_sum : to_sum,
          *product = g->repeat > 1 ? local_product : to_product;
    memset(to_sum, 0, (size_t)g->channels * sizeof *to_sum);
    memset(to_product, 0, (size_t)g->channels * sizeof *to_product);
    tn_walk w = tn_walk_begin(g, task);
    while (tn_walk_next(g, &w)) {
        const void *x = tn_walk_at(g, &w, dtype, pass->x),
                   *d_y = tn_walk_at(g, &w, dtype, pass->d_y);
        TN_EACH_COLUMN_GROUP(w.columns, tn_sums_columns, pass, relu, w.set, x, d_y, w.rows, sum,
                             product, dtype);
    }
    if (g->channels == 1) {
        tn_vec s = {0}, p = {0};
        for (int64_t i = 0; i < g->width; i += TN_VEC)
            s += tn_vec_load(TN_F32, sum, i), p += tn_vec_load(TN_F32, product, i);
        *to_sum = tn_vec_sum(s);
        *to_product = tn_vec_sum(p);
        return;
    }
    for (int64_t i = 0; g->repeat > 1 && i < g->width; i += g->channels)
        for (int64_t c = 0; c < g->channels; c++) {
            to_sum[c] += sum[i + c];
            to_product[c] += product[i + c];
        }
}

TN_VEC_INLINE void tn_sums_chunk(const tn_gradient_pass *pass, int64_t task, tn_dtype dtype)
{
    if (pass->relu) tn_sums_rows(pass, task, true, dtype);
    else tn_sums_rows(pass, task, false, dtype);
}

static void tn_sums_body(void *context, int64_t begin, int64_t end)
{
    const tn_gradient_pass *pass = context;
    for (int64_t task = begin; task < end; task++)
        TN_FOR_FLOAT(pass->g->dtype, tn_sums_chunk, pass, task);
}

/* [parts][columns] added up in order to one row. May lie over the first part. */
static __attribute__((noinline, unused)) void tn_sums_join(int64_t parts, int64_t columns,
                                                           const float *from, float *to)
{
    for (int64_t first = 0; first < columns; first += 64) {
        double sum[64] = {0};
        int64_t count = columns - first < 64 ? columns - first : 64;
        for (int64_t k = 0; k < parts; k++)
            for (int64_t i = 0; i < count; i++) sum[i] += (double)from[k * columns + first + i];
        for (int64_t i = 0; i < count; i++) to[first + i] = (float)sum[i];
    }
}

/* Sums of every channel of every sample, [P][C], at the front of pass's arrays. */
static inline void tn_sums_run(tn_gradient_pass *pass)
{
    const tn_channels *g = pass->g;
    if (g->rows == 0) {
        memset(pass->sum, 0, (size_t)tn_channels_partials(g) * sizeof(float));
        memset(pass->product, 0, (size_t)tn_channels_partials(g) * sizeof(float));
        return;
    }
    tn_parallel(g->samples * g->chunks, g->small ? INT64_MAX : 0, tn_sums_body, pass);
    for (int64_t p = 0; g->chunks > 1 && p < g->samples; p++) {
        int64_t from = p * g->chunks * g->channels, to = p * g->channels;
        tn_sums_join(g->chunks, g->channels, pass->sum + from, pass->sum + to);
        tn_sums_join(g->chunks, g->channels, pass->product + from, pass->product + to);
    }
}

/* ---- d_x = factor d - offset - (x - mean) slope ---------------------------------------------- */

TN_VEC_INLINE void tn_input_columns(int vectors, int count, int64_t at,
                                    const tn_gradient_pass *pass, bool relu, int64_t set,
                                    const void *x, const void *d_y, void *d_x, int64_t rows,
                                    tn_dtype dtype)
{
    const tn_channels *g = pass->g;
    tn_vec mean[4], factor[4], offset[4], slope[4], shift[4] = {{0}};
    for (int v = 0; v < vectors; v++) {
        mean[v] = tn_coefficient(g, pass->mean, set, at + v * TN_VEC, count);
        factor[v] = tn_coefficient(g, pass->factor, set, at + v * TN_VEC, count);
        offset[v] = tn_coefficient(g, pass->offset, set, at + v * TN_VEC, count);
        slope[v] = tn_coefficient(g, pass->slope, set, at + v * TN_VEC, count);
        if (relu) shift[v] = tn_coefficient(g, pass->shift, set, at + v * TN_VEC, count);
    }
    for (int64_t r = 0, stride = g->width; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            int64_t i = r * stride + at + v * TN_VEC;
            tn_vec centred = tn_vec_get(dtype, x, i, count) - mean[v];
            tn_vec d = tn_masked(relu, tn_vec_get(dtype, d_y, i, count), centred, factor[v],
                                 shift[v]);
            tn_vec_put(dtype, d_x, i, factor[v] * d - offset[v] - centred * slope[v], count);
        }
}

TN_VEC_INLINE void tn_input_rows(const tn_gradient_pass *pass, int64_t task, bool relu,
                                 tn_dtype dtype)
{
    const tn_channels *g = pass->g;
    tn_walk w = tn_walk_begin(g, task);
    while (tn_walk_next(g, &w)) {
        const void *x = tn_walk_at(g, &w, dtype, pass->x),
                   *d_y = tn_walk_at(g, &w, dtype, pass->d_y);
        void *d_x = tn_walk_at(g, &w, dtype, pass->d_x);
        TN_EACH_COLUMN_GROUP(w.columns, tn_input_columns, pass, relu, w.set, x, d_y, d_x, w.rows,
                             dtype);
    }
}

TN_VEC_INLINE void tn_input_chunk(const tn_gradient_pass *pass, int64_t task, tn_dtype dtype)
{
    if (pass->relu) tn_input_rows(pass, task, true, dtype);
    else tn_input_rows(pass, task, false, dtype);
}

static void tn_input_body(void *context, int64_t begin, int64_t end)
{
    const tn_gradient_pass *pass = context;
    for (int64_t task = begin; task < end; task++)
        TN_FOR_FLOAT(pass->g->dtype, tn_input_chunk, pass, task);
}

static inline void tn_input_run(tn_gradient_pass *pass)
{
    const tn_channels *g = pass->g;
    if (g->rows > 0)
        tn_parallel(g->samples * g->chunks, g->small ? INT64_MAX : 0, tn_input_body, pass);
}

#endif
