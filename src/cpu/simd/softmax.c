/* Softmax and its logarithm along one axis, and their gradients.
 *
 * Slices that lie contiguously are worked on one by one in L1; others many side by side, a
 * vector lane a slice. A sum of 0 (a slice of all -inf) is taken as 1, which makes the slice 0;
 * NaN spreads over its slice. */
#include <math.h>

#include "base/threads.h"
#include "cpu/simd/dense_layout.h"
#include "cpu/simd/exponential_sum.h"

enum {
    SMALL = 16384, /* elements below which one thread does it all */
    TILE = 1024,   /* slices side by side, at most */
    STRIP = 16     /* elements of each that share one maximum */
};

typedef struct job {
    tn_dtype dtype;
    int64_t outer, count, inner; /* x seen as [outer, count, inner] around the axis */
    int64_t tile;                /* slices side by side */
    bool logarithm;
    const void *x, *d_y; /* gradients: x is y */
    void *y;
} job;

/* Dimensions are taken in the order in which they lie. */
static job job_of(const tn_step *step)
{
    const tn_operand *x = &step->in[0];
    int axis = ((const tn_axis_attribute *)step->attribute)->axis;
    job j = {.dtype = x->dtype, .outer = 1, .count = x->dim[axis], .inner = 1};
    bool channels_last = x->rank > 2 && !tn_lies(x, false);
    for (int i = 0; i < x->rank; i++) {
        if (i == axis) continue;
        bool before = channels_last && i == 1      ? false
                      : channels_last && axis == 1 ? true
                                                   : i < axis;
        *(before ? &j.outer : &j.inner) *= x->dim[i];
    }
    /* Wide tiles read memory in order; narrower ones where there would be too few to share among
     * threads. */
    j.tile = j.outer * ((j.inner + TILE - 1) / TILE) >= 8 ? TILE : TILE / 4;
    j.logarithm = step->op->id == TN_OP_LOG_SOFTMAX || step->op->id == TN_OP_LOG_SOFTMAX_GRAD;
    return j;
}

static size_t element_size(tn_dtype dtype) { return dtype == TN_F32 ? 4 : 2; }

/* ---- contiguous slices ----------------------------------------------------------------------- */

TN_VEC_INLINE void write_slice(const void *x, void *y, int64_t count, float shift, float sum,
                               bool logarithm, tn_dtype dtype)
{
    float inverse = 1 / sum, log_sum = logf(sum);
    for (int64_t i = 0; i < count; i += TN_VEC) {
        int rest = count - i < TN_VEC ? (int)(count - i) : TN_VEC;
        tn_vec shifted = tn_vec_load_part(dtype, x, i, rest) - shift;
        tn_vec_store_part(dtype, y, i,
                          logarithm ? shifted - log_sum : tn_vec_exp(shifted) * inverse, rest);
    }
}

TN_VEC_INLINE void scale_slice(const float *from, void *y, int64_t count, float factor,
                               tn_dtype dtype)
{
    int64_t i = 0;
    for (; i + TN_VEC <= count; i += TN_VEC)
        tn_vec_store(dtype, y, i, tn_vec_load(TN_F32, from, i) * factor);
    if (i < count)
        tn_vec_store_part(dtype, y, i, tn_vec_load_part(TN_F32, from, i, (int)(count - i)) * factor,
                          (int)(count - i));
}

TN_VEC_INLINE void forward_slice(const void *x, void *y, int64_t count, bool logarithm,
                                 tn_dtype dtype)
{
    float shift, sum, local[TN_EXP_BLOCK];
    if (count > TN_EXP_BLOCK) {
        tn_sum_of_exp(x, count, &shift, &sum, dtype);
        write_slice(x, y, count, shift, sum == 0 ? 1 : sum, logarithm, dtype);
        return;
    }
    shift = tn_highest_of(x, 0, count, dtype);
    if (shift == -INFINITY) shift = 0;
    float *keep = logarithm ? NULL : dtype == TN_F32 ? y : local;
    sum = tn_block_of_exp(x, 0, count, shift, keep, dtype);
    if (sum == 0) sum = 1;
    if (logarithm) write_slice(x, y, count, shift, sum, true, dtype);
    else scale_slice(keep, y, count, 1 / sum, dtype);
}

TN_VEC_INLINE void forward_slices(const job *j, int64_t begin, int64_t end, tn_dtype dtype)
{
    size_t bytes = (size_t)j->count * element_size(dtype);
    for (int64_t n = begin; n < end; n++) {
        const void *x = (const unsigned char *)j->x + (size_t)n * bytes;
        void *y = (unsigned char *)j->y + (size_t)n * bytes;
        if (j->logarithm) forward_slice(x, y, j->count, true, dtype);
        else forward_slice(x, y, j->count, false, dtype);
    }
}

/* softmax: y (d - sum(y d)); its logarithm: d - exp(y) sum(d) */
TN_VEC_INLINE void gradient_slice(const void *y, const void *d_y, void *d_x, int64_t count,
                                  bool logarithm, tn_dtype dtype)
{
    tn_vec sum[4] = {{0}};
    int64_t i = 0;
    for (; i + 4 * TN_VEC <= count; i += 4 * TN_VEC)
        for (int v = 0; v < 4; v++) {
            tn_vec d = tn_vec_load(dtype, d_y, i + v * TN_VEC);
            sum[v] += logarithm ? d : d * tn_vec_load(dtype, y, i + v * TN_VEC);
        }
    for (; i < count; i += TN_VEC) {
        int rest = count - i < TN_VEC ? (int)(count - i) : TN_VEC;
        tn_vec d = tn_vec_load_part(dtype, d_y, i, rest);
        sum[0] += logarithm ? d : d * tn_vec_load_part(dtype, y, i, rest);
    }
    float total = tn_vec_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
    for (i = 0; i < count; i += TN_VEC) {
        int rest = count - i < TN_VEC ? (int)(count - i) : TN_VEC;
        tn_vec d = tn_vec_load_part(dtype, d_y, i, rest),
               from = tn_vec_load_part(dtype, y, i, rest);
        tn_vec_store_part(dtype, d_x, i,
                          logarithm ? d - tn_vec_exp(from) * total : from * (d - total), rest);
    }
}

TN_VEC_INLINE void gradient_slices(const job *j, int64_t begin, int64_t end, tn_dtype dtype)
{
    size_t bytes = (size_t)j->count * element_size(dtype);
    for (int64_t n = begin; n < end; n++) {
        const void *y = (const unsigned char *)j->x + (size_t)n * bytes,
                   *d_y = (const unsigned char *)j->d_y + (size_t)n * bytes;
        void *d_x = (unsigned char *)j->y + (size_t)n * bytes;
        if (j->logarithm) gradient_slice(y, d_y, d_x, j->count, true, dtype);
        else gradient_slice(y, d_y, d_x, j->count, false, dtype);
    }
}

/* ---- slices side by side: element k of slice (o, i) is at (o * count + k) * inner + i -------- */

/* A tile is `lanes` slices, whose maxima and sums stay in L1 while x is read along its rows. */
typedef struct tile {
    int64_t first; /* element 0 of its first slice */
    int lanes;
    float shift[TILE], sum[TILE];
} tile;

/* Maximum and sum of exponentials, STRIP elements of every slice at a time; the sum so far is
 * rescaled when the maximum rises. */
TN_VEC_INLINE void sum_strip(const job *j, tile *t, int64_t from, int strip, int lane, int count,
                             tn_dtype dtype)
{
    tn_vec old = tn_vec_get(TN_F32, t->shift, lane, count), highest = old, sum = {0};
    int64_t at = t->first + from * j->inner + lane;
    for (int k = 0; k < strip; k++)
        highest = tn_vec_max(tn_vec_get(dtype, j->x, at + k * j->inner, count), highest);
    tn_vec shift = tn_vec_keep(highest != -INFINITY, highest);
    for (int k = 0; k < strip; k++)
        sum += tn_vec_exp(tn_vec_get(dtype, j->x, at + k * j->inner, count) - shift);
    if (from) sum += tn_vec_get(TN_F32, t->sum, lane, count) * tn_vec_exp(old - shift);
    tn_vec_put(TN_F32, t->shift, lane, highest, count);
    tn_vec_put(TN_F32, t->sum, lane, sum, count);
}

TN_VEC_INLINE void forward_tile(const job *j, tile *t, bool logarithm, tn_dtype dtype)
{
    for (int i = 0; i < t->lanes; i++) t->shift[i] = -INFINITY;
    for (int64_t from = 0; from < j->count; from += STRIP) {
        int strip = j->count - from < STRIP ? (int)(j->count - from) : STRIP;
        for (int lane = 0; lane < t->lanes; lane += TN_VEC)
            sum_strip(j, t, from, strip, lane, t->lanes - lane < TN_VEC ? t->lanes - lane : TN_VEC,
                      dtype);
    }
    for (int i = 0; i < t->lanes; i++) {
        float sum = t->sum[i] == 0 ? 1 : t->sum[i];
        t->shift[i] = t->shift[i] == -INFINITY ? 0 : t->shift[i];
        t->sum[i] = logarithm ? tn_log_f32(sum) : 1 / sum;
    }
    for (int64_t k = 0, at = t->first; k < j->count; k++, at += j->inner)
        for (int lane = 0; lane < t->lanes; lane += TN_VEC) {
            int count = t->lanes - lane < TN_VEC ? t->lanes - lane : TN_VEC;
            tn_vec shifted = tn_vec_get(dtype, j->x, at + lane, count) -
                             tn_vec_get(TN_F32, t->shift, lane, count);
            tn_vec sum = tn_vec_get(TN_F32, t->sum, lane, count);
            tn_vec_put(dtype, j->y, at + lane,
                       logarithm ? shifted - sum : tn_vec_exp(shifted) * sum, count);
        }
}

TN_VEC_INLINE void gradient_tile(const job *j, tile *t, bool logarithm, tn_dtype dtype)
{
    memset(t->sum, 0, (size_t)(t->lanes + TN_VEC - 1) / TN_VEC * TN_VEC * sizeof *t->sum);
    for (int64_t k = 0, at = t->first; k < j->count; k++, at += j->inner)
        for (int lane = 0; lane < t->lanes; lane += TN_VEC) {
            int count = t->lanes - lane < TN_VEC ? t->lanes - lane : TN_VEC;
            tn_vec d = tn_vec_get(dtype, j->d_y, at + lane, count);
            if (!logarithm) d *= tn_vec_get(dtype, j->x, at + lane, count);
            tn_vec_store(TN_F32, t->sum, lane, tn_vec_load(TN_F32, t->sum, lane) + d);
        }
    for (int64_t k = 0, at = t->first; k < j->count; k++, at += j->inner)
        for (int lane = 0; lane < t->lanes; lane += TN_VEC) {
            int count = t->lanes - lane < TN_VEC ? t->lanes - lane : TN_VEC;
            tn_vec d = tn_vec_get(dtype, j->d_y, at + lane, count),
                   y = tn_vec_get(dtype, j->x, at + lane, count);
            tn_vec sum = tn_vec_load(TN_F32, t->sum, lane);
            tn_vec_put(dtype, j->y, at + lane, logarithm ? d - tn_vec_exp(y) * sum : y * (d - sum),
                       count);
        }
}

static int64_t tiles_of(const job *j) { return (j->inner + j->tile - 1) / j->tile; }

TN_VEC_INLINE void tiles(const job *j, int64_t begin, int64_t end, bool gradient, tn_dtype dtype)
{
    int64_t per_outer = tiles_of(j);
    tile t;
    for (int64_t n = begin; n < end; n++) {
        int64_t start = n % per_outer * j->tile, rest = j->inner - start;
        t.first = n / per_outer * j->count * j->inner + start;
        t.lanes = (int)(rest < j->tile ? rest : j->tile);
        if (gradient && j->logarithm) gradient_tile(j, &t, true, dtype);
        else if (gradient) gradient_tile(j, &t, false, dtype);
        else if (j->logarithm) forward_tile(j, &t, true, dtype);
        else forward_tile(j, &t, false, dtype);
    }
}

/* ---- kernels --------------------------------------------------------------------------------- */

static void forward_body(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    if (j->inner == 1) TN_FOR_FLOAT(j->dtype, forward_slices, j, begin, end);
    else TN_FOR_FLOAT(j->dtype, tiles, j, begin, end, false);
}

static void gradient_body(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    if (j->inner == 1) TN_FOR_FLOAT(j->dtype, gradient_slices, j, begin, end);
    else TN_FOR_FLOAT(j->dtype, tiles, j, begin, end, true);
}

static void run_job(job *j, void (*body)(void *, int64_t, int64_t))
{
    int64_t items = j->inner == 1 ? j->outer : j->outer * tiles_of(j);
    if (j->count > 0)
        tn_parallel(items, j->outer * j->count * j->inner < SMALL ? INT64_MAX : 0, body, j);
}

static tn_status run_softmax(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    if (step->in[0].dtype == TN_F64)
        return tn_ref_kernels()->kernel[step->op->id]->run(step, in, out, workspace);
    job j = job_of(step);
    j.x = in[0];
    j.y = out[0];
    run_job(&j, forward_body);
    return TN_OK;
}

static tn_status run_softmax_grad(const tn_step *step, void *const *in, void *const *out,
                                  void *workspace)
{
    if (step->in[0].dtype == TN_F64)
        return tn_ref_kernels()->kernel[step->op->id]->run(step, in, out, workspace);
    job j = job_of(step);
    j.x = in[0];
    j.d_y = in[1];
    j.y = out[0];
    run_job(&j, gradient_body);
    return TN_OK;
}

static void forward_layouts(const tn_step *step, tn_layout *in, tn_layout *out)
{
    in[0] = out[0] = tn_dense_layout(&step->in[0]);
}

static void gradient_layouts(const tn_step *step, tn_layout *in, tn_layout *out)
{
    in[0] = in[1] = out[0] = tn_dense_layout(&step->in[0]);
}

static tn_status prepare(tn_step *step)
{
    tn_dtype dtype = step->in[0].dtype;
    if (dtype == TN_F64 || tn_vec_has(dtype)) return TN_OK;
    return tn_fail(TN_UNSUPPORTED, "%s of %s", step->op->name, tn_dtype_name(dtype));
}

void TN_ISA(tn_cpu_softmax)(tn_kernel_table *table);
void TN_ISA(tn_cpu_softmax)(tn_kernel_table *table)
{
    static const tn_kernel forward = {
        .layouts = forward_layouts, .in_place = 1, .prepare = prepare, .run = run_softmax};
    static const tn_kernel gradient = {.layouts = gradient_layouts,
                                       .in_place = 1 | 2,
                                       .prepare = prepare,
                                       .run = run_softmax_grad};
    table->kernel[TN_OP_SOFTMAX] = table->kernel[TN_OP_LOG_SOFTMAX] = &forward;
    table->kernel[TN_OP_SOFTMAX_GRAD] = table->kernel[TN_OP_LOG_SOFTMAX_GRAD] = &gradient;
}
