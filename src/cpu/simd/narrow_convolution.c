/* Convolutions whose result has few channels: the last layer of a network, and the gradient of its first layer's input.
 *
 * A matrix product would leave most lanes of its vectors empty. Here the lanes are the channels that are summed over; the sums of
 * TN_STRETCH neighbouring positions stay in registers, and are added up across lanes at the end. Measured on Zen 4 for the input
 * gradient of 64 filters of 3 x 3 over 3 channels: 4 to 5 times oneDNN's speed. Compiled once per instruction set. */
#include <stdlib.h>

#include "base/status.h"
#include "base/threads.h"
#include "cpu/convolution.h"
#include "cpu/simd/product_tile.h"

void TN_ISA(tn_cpu_narrow_convolution)(tn_kernel_table *table);

enum { MOST_NARROW = 8, LEAST_WIDE = 16, STRETCH = TN_VEC == 16 ? 4 : 2, AT_ONCE = 4 };

/* `in` [B, I..., wide] and `out` [B, Q..., narrow], channels-last: x and y of a convolution, or y and x of its adjoint. */
typedef struct narrow_plan {
    tn_conv_sizes s;
    bool adjoint, has_bias;
    tn_dtype bias_type;
    int32_t activation;
    int64_t wide, narrow, vectors, taps; /* vectors: of the wide channels, the last one perhaps partly empty */
    int64_t I[TN_MAX_SPACE], Q[TN_MAX_SPACE];
    size_t bytes;
} narrow_plan;

typedef struct narrow_run {
    const narrow_plan *w;
    const void *in, *bias;
    const float *weight; /* [taps][narrow][vectors * TN_VEC] */
    void *out;
} narrow_run;

/* ---- positions ------------------------------------------------------------------------------------------ */

/* Where kernel position k reads the input for output position q along one dimension; -1 for padding or, in the adjoint, where the stride
 * leaves a gap. */
static inline int64_t read_from(const narrow_plan *w, int d, int64_t q, int64_t k)
{
    const tn_conv_geometry *g = w->s.g;
    int64_t i;
    if (!w->adjoint) {
        i = q * g->stride[d] - g->pad_before[d] + k * g->dilation[d];
    } else {
        i = q + g->pad_before[d] - k * g->dilation[d];
        if (i < 0 || i % g->stride[d]) return -1;
        i /= g->stride[d];
    }
    return i >= 0 && i < w->I[d] ? i : -1;
}

/* ---- one stretch ------------------------------------------------------------------------------------------- */

/* Adds one tap: `stretch` positions whose inputs are `step` elements apart, `count` <= AT_ONCE outputs. All but pointers are constants. */
TN_VEC_INLINE void add_tap(const narrow_plan *w, const void *in, int64_t from, int64_t step, const float *weight, tn_vec sum[STRETCH][AT_ONCE],
                           int stretch, int count, tn_dtype type)
{
    int64_t row = w->vectors * TN_VEC, whole = w->wide / TN_VEC;
    for (int64_t v = 0; v < whole; v++) {
        tn_vec x[STRETCH];
        TN_UNROLLED
        for (int j = 0; j < stretch; j++) x[j] = tn_vec_load(type, in, from + j * step + v * TN_VEC);
        TN_UNROLLED
        for (int n = 0; n < count; n++) {
            tn_vec right = tn_vec_load(TN_F32, weight, n * row + v * TN_VEC);
            TN_UNROLLED
            for (int j = 0; j < stretch; j++) sum[j][n] += x[j] * right;
        }
    }
    int rest = (int)(w->wide - whole * TN_VEC);
    if (rest) {
        TN_UNROLLED
        for (int n = 0; n < count; n++) {
            tn_vec right = tn_vec_load(TN_F32, weight, n * row + whole * TN_VEC);
            TN_UNROLLED
            for (int j = 0; j < stretch; j++) sum[j][n] += tn_vec_load_part(type, in, from + j * step + whole * TN_VEC, rest) * right;
        }
    }
}

/* Output positions q2 .. q2+stretch-1 of row (b, q0, q1), outputs n .. n+count-1. */
TN_VEC_INLINE void stretch_of(const narrow_run *r, int64_t b, int64_t q0, int64_t q1, int64_t q2, int64_t n, int stretch, int count, tn_dtype type)
{
    const narrow_plan *w = r->w;
    const tn_conv_sizes *s = &w->s;
    tn_vec sum[STRETCH][AT_ONCE];
    TN_UNROLLED
    for (int j = 0; j < stretch; j++) {
        TN_UNROLLED
        for (int i = 0; i < count; i++) sum[j][i] = (tn_vec){0};
    }
    int64_t tap = 0, step = w->adjoint ? w->wide : s->g->stride[s->space - 1] * w->wide;
    for (int64_t k0 = 0; k0 < s->k[0]; k0++) {
        int64_t i0 = read_from(w, 0, q0, k0);
        for (int64_t k1 = 0; k1 < s->k[1]; k1++) {
            int64_t i1 = read_from(w, 1, q1, k1);
            for (int64_t k2 = 0; k2 < s->k[2]; k2++, tap++) {
                int64_t i2 = read_from(w, 2, q2, k2);
                if (i0 < 0 || i1 < 0 || i2 < 0) continue;
                int64_t from = (((b * w->I[0] + i0) * w->I[1] + i1) * w->I[2] + i2) * w->wide;
                add_tap(w, r->in, from, step, r->weight + (tap * w->narrow + n) * w->vectors * TN_VEC, sum, stretch, count, type);
            }
        }
    }
    int64_t at = (((b * w->Q[0] + q0) * w->Q[1] + q1) * w->Q[2] + q2) * w->narrow + n;
    for (int j = 0; j < stretch; j++) {
        float y[4] = {0};
        for (int i = 0; i < count; i++) y[i] = tn_vec_sum(sum[j][i]) + (r->bias ? tn_get_value(w->bias_type, r->bias, n + i) : 0);
        if (w->activation) tn_activate(y, 4, w->activation);
        for (int i = 0; i < count; i++) tn_put_value(type, r->out, at + j * w->narrow + i, y[i]);
    }
}

/* All outputs of a stretch; the number at once is a constant. */
TN_VEC_INLINE void outputs_of(const narrow_run *r, int64_t b, int64_t q0, int64_t q1, int64_t q2, int stretch, tn_dtype type)
{
    int64_t n = 0;
    for (; n + 4 <= r->w->narrow; n += 4) stretch_of(r, b, q0, q1, q2, n, stretch, 4, type);
    switch (r->w->narrow - n) {
    case 3: stretch_of(r, b, q0, q1, q2, n, stretch, 3, type); break;
    case 2: stretch_of(r, b, q0, q1, q2, n, stretch, 2, type); break;
    case 1: stretch_of(r, b, q0, q1, q2, n, stretch, 1, type); break;
    default: break;
    }
}

/* Along the last dimension every tap of [q, q + STRETCH) reads input positions `step` apart, none of them padding. */
static bool is_inside(const narrow_plan *w, int64_t q)
{
    int last = TN_MAX_SPACE - 1;
    int64_t stride = w->s.g->stride[last];
    if (q + STRETCH > w->Q[last] || (w->adjoint && stride != 1)) return false;
    for (int64_t k = 0; k < w->s.k[last]; k += w->s.k[last] > 1 ? w->s.k[last] - 1 : 1)
        if (read_from(w, last, q, k) < 0 || read_from(w, last, q + STRETCH - 1, k) < 0) return false;
    return true;
}

TN_VEC_INLINE void rows(const narrow_run *r, int64_t begin, int64_t end, tn_dtype type)
{
    const narrow_plan *w = r->w;
    for (int64_t row = begin; row < end; row++) {
        int64_t b = row / (w->Q[0] * w->Q[1]), q0 = row / w->Q[1] % w->Q[0], q1 = row % w->Q[1];
        for (int64_t q2 = 0; q2 < w->Q[2];) {
            if (is_inside(w, q2)) {
                outputs_of(r, b, q0, q1, q2, STRETCH, type);
                q2 += STRETCH;
            } else {
                outputs_of(r, b, q0, q1, q2++, 1, type);
            }
        }
    }
}

static void run_rows(void *context, int64_t begin, int64_t end)
{
    const narrow_run *r = context;
    TN_FOR_FLOAT(r->w->s.dtype, rows, r, begin, end);
}

/* ---- plan ------------------------------------------------------------------------------------------------------- */

/* weight [F, C, taps] -> [taps][narrow][wide, padded with zeros]. */
static void lay_weight_out(const narrow_plan *w, const void *weight, float *to)
{
    int64_t row = w->vectors * TN_VEC;
    for (int64_t t = 0; t < w->taps; t++)
        for (int64_t n = 0; n < w->narrow; n++, to += row)
            for (int64_t c = 0; c < row; c++) {
                int64_t at = ((w->adjoint ? c : n) * w->s.C + (w->adjoint ? n : c)) * w->taps + t;
                to[c] = c < w->wide ? tn_get_value(w->s.dtype, weight, at) : 0;
            }
}

static tn_status run_all(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    const narrow_plan *w = step->prepared;
    narrow_run r = {w, in[0], w->has_bias ? in[2] : NULL, workspace, out[0]};
    lay_weight_out(w, in[1], workspace);
    int64_t work = w->Q[2] * w->narrow * w->wide * w->taps;
    tn_parallel(w->s.B * w->Q[0] * w->Q[1], 1 + 500000 / (work + 1), run_rows, &r);
    return TN_OK;
}

static void release(tn_step *step)
{
    free(step->prepared);
    step->prepared = NULL;
}

/* Moves absent dimensions to the front, so that the last one is what is contiguous. */
static void shift_dimensions(narrow_plan *w, tn_conv_geometry *g)
{
    int by = TN_MAX_SPACE - w->s.space;
    for (int d = TN_MAX_SPACE - 1; d >= 0; d--) {
        bool present = d >= by;
        w->s.S[d] = present ? w->s.S[d - by] : 1;
        w->s.O[d] = present ? w->s.O[d - by] : 1;
        w->s.k[d] = present ? w->s.k[d - by] : 1;
        g->stride[d] = present ? g->stride[d - by] : 1;
        g->dilation[d] = present ? g->dilation[d - by] : 1;
        g->pad_before[d] = present ? g->pad_before[d - by] : 0;
    }
    w->s.space = TN_MAX_SPACE;
}

/* What step->prepared points at. */
typedef struct narrow_prepared {
    narrow_plan plan;
    tn_conv_geometry geometry;
} narrow_prepared;

/* TN_UNSUPPORTED for what is not ours. */
static tn_status prepare(tn_step *step)
{
    const tn_conv_attribute *t = step->attribute;
    tn_conv_sizes s = tn_conv_sizes_of(step);
    bool adjoint = step->op->id == TN_OP_CONVOLUTION_INPUT;
    int64_t wide = adjoint ? s.F : s.C, narrow = adjoint ? s.C : s.F;
    if ((s.dtype != TN_F32 && s.dtype != TN_BF16) || s.groups != 1 || narrow > MOST_NARROW || wide < LEAST_WIDE) return TN_UNSUPPORTED;
    narrow_prepared *p = calloc(1, sizeof *p);
    if (!p) return tn_fail(TN_MEMORY, "out of memory");
    step->prepared = p;
    narrow_plan *w = &p->plan;
    *w = (narrow_plan){.s = s, .adjoint = adjoint, .has_bias = t->has_bias, .bias_type = t->has_bias ? step->in[2].dtype : TN_F32,
                       .activation = t->activation, .wide = wide, .narrow = narrow, .vectors = (wide + TN_VEC - 1) / TN_VEC};
    p->geometry = *s.g;
    shift_dimensions(w, &p->geometry);
    w->s.g = &p->geometry;
    for (int d = 0; d < TN_MAX_SPACE; d++) {
        w->I[d] = adjoint ? w->s.O[d] : w->s.S[d];
        w->Q[d] = adjoint ? w->s.S[d] : w->s.O[d];
    }
    w->taps = w->s.k[0] * w->s.k[1] * w->s.k[2];
    step->workspace = (size_t)(w->taps * narrow * w->vectors * TN_VEC) * sizeof(float);
    return TN_OK;
}

void TN_ISA(tn_cpu_narrow_convolution)(tn_kernel_table *table)
{
    static const tn_kernel kernel = {.prepare = prepare, .run = run_all, .release = release};
    table->kernel[TN_OP_CONVOLUTION] = table->kernel[TN_OP_CONVOLUTION_INPUT] = &kernel;
}
