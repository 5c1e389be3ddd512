/* Resizing and its adjoint: a linear map along each spatial axis. What is computed exactly:
 * graph/geometry.h.
 *
 * Each element of an axis is a weighted sum over a window of the other side's elements; the
 * adjoint's windows are those of the transposed map. An output row first sums its input rows into a
 * buffer, which stays in cache, and then resizes that. Row-major and channels-last tensors are
 * alike but for the width of a cell: 1, or C channels. f32 arithmetic for f32, bf16 and f16; f64 is
 * left to the reference kernels. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/status.h"
#include "base/threads.h"
#include "cpu/simd/copy.h"
#include "graph/geometry.h"

#define MOST_PARTS                                                                                 \
    16 /* rows are dealt out to at most so many threads, each with a buffer of its own */
#define PARALLEL_BYTES (1 << 18)

#define INLINE static inline __attribute__((always_inline))

/* ---- windows --------------------------------------------------------------------------------- */

/* Element i of the result is the sum over t < count[i] of weight[i * most + t] times element
 * first[i] + t. */
typedef struct windows {
    int64_t size; /* of the result */
    int32_t most;
    int32_t *first, *count;
    float *weight;
} windows;

static double keys(double t)
{
    const double a = -0.75;
    t = fabs(t);
    if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
    return t < 2 ? ((a * t - 5 * a) * t + 8 * a) * t - 4 * a : 0;
}

/* Window of element i when N elements are resized to n: weights of first .. first+count-1. weight:
 * room for window_room. */
static void window_of(const tn_resize_attribute *a, int64_t N, int64_t n, int64_t i, int64_t *first,
                      int64_t *count, double *weight)
{
    double centre = a->align_corners ? (n > 1 ? (double)i * (double)(N - 1) / (double)(n - 1) : 0)
                                     : ((double)i + 0.5) * (double)N / (double)n - 0.5;
    *count = 1;
    weight[0] = 1;
    if (a->kind == TN_RESIZE_NEAREST) {
        *first = (2 * i + 1) * N / (2 * n);
    } else if (a->kind == TN_RESIZE_BILINEAR) {
        double inside = fmin(fmax(centre, 0), (double)(N - 1)), rest = inside - floor(inside);
        *first = (int64_t)inside;
        if (rest > 0) {
            *count = 2;
            weight[0] = 1 - rest;
            weight[1] = rest;
        }
    } else if (a->kind == TN_RESIZE_AREA) {
        *first = i * N / n;
        *count = ((i + 1) * N + n - 1) / n - *first;
        for (int64_t t = 0; t < *count; t++) weight[t] = 1 / (double)*count;
    } else { /* cubic: what lies beyond an end counts for the end */
        int64_t before = (int64_t)floor(centre) - 1, low = before < 0 ? 0 : before,
                high = before + 3 > N - 1 ? N - 1 : before + 3;
        *first = low < N - 1 ? low : N - 1;
        *count = high - *first + 1;
        for (int64_t t = 0; t < *count; t++) weight[t] = 0;
        for (int64_t k = before; k < before + 4; k++) {
            int64_t at = k < *first ? *first : k > high ? high : k;
            weight[at - *first] += keys(centre - (double)k);
        }
    }
}

static int64_t window_room(int64_t N, int64_t n) { return 4 + N / n + 2; }

static tn_status make_windows(windows *w, int64_t size, int64_t most)
{
    w->size = size;
    w->most = (int32_t)most;
    w->first = calloc((size_t)size, sizeof *w->first);
    w->count = calloc((size_t)size, sizeof *w->count);
    w->weight = calloc((size_t)(size * most), sizeof *w->weight);
    return w->first && w->count && w->weight ? TN_OK
                                             : tn_fail(TN_MEMORY, "out of memory for resizing");
}

/* The windows of N -> n, or transposed those of its adjoint n -> N. */
static tn_status find_windows(const tn_resize_attribute *a, int64_t N, int64_t n, bool transposed,
                              windows *w)
{
    double *weight = calloc((size_t)window_room(N, n), sizeof *weight);
    int64_t most = 1, *low = transposed ? calloc((size_t)N * 2, sizeof *low) : NULL,
            *high = low ? low + N : NULL;
    tn_status status = weight && (low || !transposed)
                           ? TN_OK
                           : tn_fail(TN_MEMORY, "out of memory for resizing");
    /* first the widest window, then the weights */
    for (int pass = 0; pass < 2 && status == TN_OK; pass++) {
        if (pass) status = make_windows(w, transposed ? N : n, most);
        for (int64_t i = 0; i < n && status == TN_OK; i++) {
            int64_t first, count;
            window_of(a, N, n, i, &first, &count, weight);
            if (!transposed && !pass) most = count > most ? count : most;
            if (!transposed && pass) {
                w->first[i] = (int32_t)first;
                w->count[i] = (int32_t)count;
                for (int64_t t = 0; t < count; t++) w->weight[i * most + t] = (float)weight[t];
            }
            for (int64_t j = first; j < first + count && transposed;
                 j++) { /* high[j] = 0: nothing yet */
                if (!pass) {
                    if (high[j] == 0) low[j] = i;
                    high[j] = i + 1;
                    most = high[j] - low[j] > most ? high[j] - low[j] : most;
                } else {
                    w->first[j] = (int32_t)low[j];
                    w->count[j] = (int32_t)(high[j] - low[j]);
                    w->weight[j * most + i - low[j]] = (float)weight[j - first];
                }
            }
        }
    }
    free(weight);
    free(low);
    return status;
}

/* ---- making ready ---------------------------------------------------------------------------- */

typedef struct resize_plan {
    windows axis[3];
    int64_t from[3], to[3]; /* spatial sizes; missing axes in front have size 1 */
    int64_t planes, cell, rows, parts, grain, size;
    tn_dtype dtype;
    bool copies; /* every window is one element with weight 1 */
    /* cells of width 1: [most][to[2]] of the innermost axis, so that windows run across lanes */
    int32_t *index;
    float *weight;
} resize_plan;

static void release(tn_step *step)
{
    resize_plan *p = step->prepared;
    if (!p) return;
    for (int d = 0; d < 3; d++) {
        free(p->axis[d].first);
        free(p->axis[d].count);
        free(p->axis[d].weight);
    }
    free(p->index);
    free(p->weight);
    free(p);
    step->prepared = NULL;
}

static bool only_copies(const windows *w)
{
    for (int64_t i = 0; i < w->size; i++)
        if (w->count[i] != 1 || w->weight[i * w->most] != 1) return false;
    return true;
}

/* Windows shorter than the longest repeat their last element with weight 0. */
static tn_status turn_windows(resize_plan *p)
{
    const windows *w = &p->axis[2];
    p->index = calloc((size_t)(w->size * w->most), sizeof *p->index);
    p->weight = calloc((size_t)(w->size * w->most), sizeof *p->weight);
    if (!p->index || !p->weight) return tn_fail(TN_MEMORY, "out of memory for resizing");
    for (int64_t i = 0; i < w->size; i++)
        for (int32_t t = 0; t < w->most; t++) {
            int32_t last = w->count[i] > 0 ? w->count[i] - 1 : 0;
            p->index[t * w->size + i] = w->first[i] + (t < last ? t : last);
            p->weight[t * w->size + i] = t < w->count[i] ? w->weight[i * w->most + t] : 0;
        }
    return TN_OK;
}

static tn_status prepare_plan(tn_step *step, resize_plan *p)
{
    const tn_operand *x = &step->in[0], *y = &step->out[0];
    bool adjoint = step->op->id == TN_OP_RESIZE_GRAD, last = tn_prefers_channels_last(x);
    p->dtype = y->dtype;
    p->size = (int64_t)tn_dtype_size(y->dtype);
    p->copies = true;
    for (int d = 0; d < 3; d++) {
        int axis = d + y->rank - 3;
        p->from[d] = axis < 2 ? 1 : x->dim[axis];
        p->to[d] = axis < 2 ? 1 : y->dim[axis];
        TN_TRY(find_windows(step->attribute, adjoint ? p->to[d] : p->from[d],
                            adjoint ? p->from[d] : p->to[d], adjoint, &p->axis[d]));
        p->copies = p->copies && only_copies(&p->axis[d]);
    }
    if (!p->copies && p->dtype != TN_F32 && p->dtype != TN_BF16 && p->dtype != TN_F16)
        return tn_fail(TN_UNSUPPORTED, "%s of %s; use f32 or bf16", step->op->name,
                       tn_dtype_name(p->dtype));
    p->cell = last ? y->dim[1] : 1;
    p->planes = last ? y->dim[0] : y->dim[0] * y->dim[1];
    p->rows = p->planes * p->to[0] * p->to[1];
    p->parts = p->rows < MOST_PARTS ? p->rows : MOST_PARTS;
    int64_t bytes = (tn_operand_size(x) + tn_operand_size(y)) * p->size;
    p->grain = bytes < PARALLEL_BYTES ? p->parts + 1 : 2;
    if (p->cell == 1) TN_TRY(turn_windows(p));
    if (!p->copies) step->workspace = (size_t)(p->parts * p->from[2] * p->cell) * sizeof(float);
    return TN_OK;
}

static tn_status prepare(tn_step *step)
{
    step->prepared = calloc(1, sizeof(resize_plan));
    if (!step->prepared) return tn_fail(TN_MEMORY, "out of memory for resizing");
    if (step->out[0].dtype == TN_F64) return TN_OK;
    tn_status status = prepare_plan(step, step->prepared);
    if (status != TN_OK) release(step);
    return status;
}

/* ---- rows ------------------------------------------------------------------------------------ */

INLINE float load(const void *x, int64_t i, tn_dtype dtype)
{
    if (dtype == TN_F32) return ((const float *)x)[i];
    return dtype == TN_BF16 ? tn_f32_from_bf16(((const uint16_t *)x)[i])
                            : tn_f32_from_f16(((const uint16_t *)x)[i]);
}

INLINE void store(void *x, int64_t i, float value, tn_dtype dtype)
{
    if (dtype == TN_F32) ((float *)x)[i] = value;
    else ((uint16_t *)x)[i] = dtype == TN_BF16 ? tn_bf16_from_f32(value) : tn_f16_from_f32(value);
}

/* Input rows of one output row. */
typedef struct row_sum {
    const unsigned char *in;
    int64_t offset[64]; /* elements */
    float weight[64];
    int count;
} row_sum;

/* buffer (+)= up to four rows. */
INLINE void add_rows(const row_sum *s, int from, int count, bool fresh, float *restrict buffer,
                     int64_t width, tn_dtype dtype)
{
    for (int64_t i = 0; i < width; i++) {
        float sum = fresh ? 0 : buffer[i];
        for (int k = 0; k < count; k++)
            sum += s->weight[from + k] * load(s->in, s->offset[from + k] + i, dtype);
        buffer[i] = sum;
    }
}

INLINE void sum_rows_as(const row_sum *s, bool fresh, float *buffer, int64_t width, tn_dtype dtype)
{
    if (s->count == 0 && fresh) memset(buffer, 0, (size_t)width * sizeof *buffer);
    for (int k = 0; k < s->count;) {
        int left = s->count - k;
        bool first = fresh && k == 0;
        if (left >= 4) add_rows(s, k, 4, first, buffer, width, dtype), k += 4;
        else if (left >= 2) add_rows(s, k, 2, first, buffer, width, dtype), k += 2;
        else add_rows(s, k, 1, first, buffer, width, dtype), k += 1;
    }
}

static void sum_rows(const row_sum *s, bool fresh, float *buffer, int64_t width, tn_dtype dtype)
{
    if (dtype == TN_F32) sum_rows_as(s, fresh, buffer, width, TN_F32);
    else if (dtype == TN_BF16) sum_rows_as(s, fresh, buffer, width, TN_BF16);
    else sum_rows_as(s, fresh, buffer, width, TN_F16);
}

/* The row in f32: the buffer, or the input itself when there is nothing to sum. */
static const float *gather_rows(const resize_plan *p, const unsigned char *in, int64_t z, int64_t y,
                                float *buffer)
{
    const windows *wz = &p->axis[0], *wy = &p->axis[1];
    int64_t width = p->from[2] * p->cell;
    row_sum s = {.in = in};
    bool fresh = true;
    for (int32_t tz = 0; tz < wz->count[z]; tz++)
        for (int32_t ty = 0; ty < wy->count[y]; ty++) {
            if (s.count == 64) {
                sum_rows(&s, fresh, buffer, width, p->dtype);
                fresh = false;
                s.count = 0;
            }
            s.offset[s.count] = ((wz->first[z] + tz) * p->from[1] + wy->first[y] + ty) * width;
            s.weight[s.count++] = wz->weight[z * wz->most + tz] * wy->weight[y * wy->most + ty];
        }
    if (fresh && s.count == 1 && s.weight[0] == 1 && p->dtype == TN_F32)
        return (const float *)(const void *)in + s.offset[0];
    sum_rows(&s, fresh, buffer, width, p->dtype);
    return buffer;
}

/* Cells of width 1: windows run across lanes. `most` is a constant where it is small. */
INLINE void spread_lanes_of(const resize_plan *p, int32_t most, const float *restrict row,
                            void *restrict out, tn_dtype dtype)
{
    int64_t n = p->to[2];
    const int32_t *restrict index = p->index;
    const float *restrict weight = p->weight;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float sum = weight[i] * row[index[i]];
        for (int32_t t = 1; t < most; t++) sum += weight[t * n + i] * row[index[t * n + i]];
        store(out, i, sum, dtype);
    }
}

INLINE void spread_lanes_as(const resize_plan *p, const float *row, void *out, tn_dtype dtype)
{
    switch (p->axis[2].most) {
    case 1: spread_lanes_of(p, 1, row, out, dtype); break;
    case 2: spread_lanes_of(p, 2, row, out, dtype); break;
    case 4: spread_lanes_of(p, 4, row, out, dtype); break;
    default: spread_lanes_of(p, p->axis[2].most, row, out, dtype);
    }
}

/* A cell of C channels: the window's whole cells, weighted. */
INLINE void spread_cell_of(int32_t count, const float *restrict weight, const float *restrict from,
                           int64_t cell, void *restrict out, int64_t to, tn_dtype dtype)
{
#pragma omp simd
    for (int64_t c = 0; c < cell; c++) {
        float sum = 0;
        for (int32_t t = 0; t < count; t++) sum += weight[t] * from[t * cell + c];
        store(out, to + c, sum, dtype);
    }
}

INLINE void spread_cells_as(const resize_plan *p, const float *row, void *out, tn_dtype dtype)
{
    const windows *w = &p->axis[2];
    int64_t cell = p->cell;
    for (int64_t x = 0; x < p->to[2]; x++) {
        const float *from = row + w->first[x] * cell, *weight = w->weight + x * w->most;
        switch (w->count[x]) {
        case 1: spread_cell_of(1, weight, from, cell, out, x * cell, dtype); break;
        case 2: spread_cell_of(2, weight, from, cell, out, x * cell, dtype); break;
        case 3: spread_cell_of(3, weight, from, cell, out, x * cell, dtype); break;
        case 4: spread_cell_of(4, weight, from, cell, out, x * cell, dtype); break;
        default: spread_cell_of(w->count[x], weight, from, cell, out, x * cell, dtype);
        }
    }
}

INLINE void spread_as(const resize_plan *p, const float *row, void *out, tn_dtype dtype)
{
    if (p->cell == 1) spread_lanes_as(p, row, out, dtype);
    else spread_cells_as(p, row, out, dtype);
}

static void spread(const resize_plan *p, const float *row, void *out)
{
    if (p->dtype == TN_F32) spread_as(p, row, out, TN_F32);
    else if (p->dtype == TN_BF16) spread_as(p, row, out, TN_BF16);
    else spread_as(p, row, out, TN_F16);
}

/* A row that is nothing but copies of cells. */
static void copy_cells(const resize_plan *p, const unsigned char *in, unsigned char *out)
{
    int64_t n = p->to[2], bytes = p->cell * p->size;
    if (bytes == 4) {
        const uint32_t *from = (const uint32_t *)(const void *)in;
        uint32_t *to = (uint32_t *)(void *)out;
        for (int64_t i = 0; i < n; i++) to[i] = from[p->axis[2].first[i]];
    } else {
        for (int64_t i = 0; i < n; i++)
            tn_copy_bytes(out + i * bytes, in + p->axis[2].first[i] * bytes, bytes);
    }
}

/* ---- running --------------------------------------------------------------------------------- */

typedef struct run {
    const resize_plan *p;
    const unsigned char *in;
    unsigned char *out;
    float *buffer;
} run;

static void resize_parts(void *context, int64_t begin, int64_t end)
{
    const run *r = context;
    const resize_plan *p = r->p;
    int64_t in_plane = p->from[0] * p->from[1] * p->from[2] * p->cell * p->size,
            out_row = p->to[2] * p->cell * p->size;
    float *buffer = r->buffer + begin * p->from[2] * p->cell;
    for (int64_t row = begin * p->rows / p->parts; row < end * p->rows / p->parts; row++) {
        int64_t y = row % p->to[1], z = row / p->to[1] % p->to[0],
                plane = row / (p->to[1] * p->to[0]);
        const unsigned char *in = r->in + plane * in_plane;
        unsigned char *out = r->out + row * out_row;
        if (p->copies) {
            int64_t from = (p->axis[0].first[z] * p->from[1] + p->axis[1].first[y]) * p->from[2] *
                           p->cell * p->size;
            copy_cells(p, in + from, out);
        } else {
            spread(p, gather_rows(p, in, z, y, buffer), out);
        }
    }
}

static tn_status resize(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    const resize_plan *p = step->prepared;
    if (step->out[0].dtype == TN_F64)
        return tn_ref_kernels()->kernel[step->op->id]->run(step, in, out, workspace);
    run r = {p, in[0], out[0], workspace};
    tn_parallel(p->parts, p->grain, resize_parts, &r);
    return TN_OK;
}

static void layouts(const tn_step *step, tn_layout *in, tn_layout *out)
{
    bool last = step->in[0].dtype != TN_F64 && tn_prefers_channels_last(&step->in[0]);
    in[0] = out[0] = last ? TN_CHANNELS_LAST : TN_ROWS;
}

void TN_ISA(tn_cpu_resize)(tn_kernel_table *table);
void TN_ISA(tn_cpu_resize)(tn_kernel_table *table)
{
    static const tn_kernel kernel = {
        .layouts = layouts, .prepare = prepare, .run = resize, .release = release};
    table->kernel[TN_OP_RESIZE] = &kernel;
    table->kernel[TN_OP_RESIZE_GRAD] = &kernel;
}
