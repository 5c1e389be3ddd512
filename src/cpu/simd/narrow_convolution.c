/* Convolutions whose result has few channels: the last layer of a network, and the gradient of
 * its first layer's input.
 *
 * A matrix product would leave most lanes of its vectors empty. Here the lanes are the channels
 * that are summed over; the sums of TN_STRETCH neighbouring positions stay in registers, and are
 * added up across lanes at the end. Measured on Zen 4 for the input gradient of first layers
 * with 1 to 3 channels: 2.5 to 5 times oneDNN's speed. Compiled once per instruction set. */
#include <stdlib.h>

#include "base/status.h"
#include "base/threads.h"
#include "cpu/convolution.h"
#include "cpu/simd/product_tile.h"

void TN_ISA(tn_cpu_narrow_convolution)(tn_kernel_table *table);

enum { LEAST_WIDE = 16, STRETCH = 4, AT_ONCE = TN_VEC == 16 ? 4 : 2, MOST_ROWS = 64 };

/* `in` [B, I..., wide] and `out` [B, Q..., narrow], channels-last: x and y of a convolution, or
 * y and x of its adjoint.
 *
 * Along the last dimension the output positions fall into `phases` (the adjoint's stride; else
 * 1): position phase + j * phases reads, for the tap k of its phase, input position first[k] + j
 * * step. */
typedef struct narrow_plan {
    tn_conv_sizes s;
    tn_conv_geometry geometry;
    bool adjoint, has_bias;
    tn_dtype bias_type;
    int64_t wide, narrow, vectors,
        taps; /* vectors: of the wide channels, the last one perhaps partly empty */
    int64_t I[TN_MAX_SPACE], Q[TN_MAX_SPACE];
    int64_t phases, step;
    struct narrow_tap {
        int64_t k, first;
    } * tap;            /* [phases][k of the last dimension] */
    int64_t *tap_count; /* by phase */
} narrow_plan;

typedef struct narrow_run {
    const narrow_plan *w;
    const void *in, *bias;
    const float *weight; /* [taps][narrow][vectors * TN_VEC] */
    void *out;
} narrow_run;

/* ---- positions ------------------------------------------------------------------------------- */

/* Where kernel position k reads the input for output position q along dimension d, if the input
 * had no end; INT64_MIN where the adjoint's stride leaves a gap. */
static int64_t read_from(const narrow_plan *w, int d, int64_t q, int64_t k)
{
    const tn_conv_geometry *g = &w->geometry;
    if (!w->adjoint) return q * g->stride[d] - g->pad_before[d] + k * g->dilation[d];
    int64_t i = q + g->pad_before[d] - k * g->dilation[d],
            over = (i % g->stride[d] + g->stride[d]) % g->stride[d];
    return over ? INT64_MIN : i / g->stride[d];
}

/* A row of the input that a row of the output reads, and its row of the kernel. */
typedef struct source_row {
    int64_t in, tap;
} source_row;

static int source_rows(const narrow_plan *w, int64_t b, int64_t q0, int64_t q1, source_row *row)
{
    int count = 0;
    for (int64_t k0 = 0; k0 < w->s.k[0]; k0++) {
        int64_t i0 = read_from(w, 0, q0, k0);
        if (i0 < 0 || i0 >= w->I[0]) continue;
        for (int64_t k1 = 0; k1 < w->s.k[1]; k1++) {
            int64_t i1 = read_from(w, 1, q1, k1);
            if (i1 < 0 || i1 >= w->I[1]) continue;
            row[count++] = (source_row){((b * w->I[0] + i0) * w->I[1] + i1) * w->I[2] * w->wide,
                                        (k0 * w->s.k[1] + k1) * w->s.k[2]};
        }
    }
    return count;
}

/* Positions j of a phase that meet the input with all their taps: [*low, *high). */
static void inside(const narrow_plan *w, int64_t phase, int64_t *low, int64_t *high)
{
    *low = 0;
    *high = (w->Q[2] - phase + w->phases - 1) / w->phases;
    const struct narrow_tap *tap = w->tap + phase * w->s.k[2];
    for (int64_t t = 0; t < w->tap_count[phase]; t++) {
        int64_t first_good = tap[t].first < 0 ? (-tap[t].first + w->step - 1) / w->step : 0,
                room = w->I[2] - tap[t].first;
        int64_t first_bad = room > 0 ? (room + w->step - 1) / w->step : 0;
        if (first_good > *low) *low = first_good;
        if (first_bad < *high) *high = first_bad;
    }
    if (*high < *low) *high = *low;
}

/* ---- one stretch ----------------------------------------------------------------------------- */

/* Adds one tap: `stretch` positions whose inputs are `step` elements apart, `count` <= AT_ONCE
 * outputs. stretch, count and type are constants. */
TN_VEC_INLINE void add_tap(const narrow_plan *w, const void *in, int64_t from, int64_t step,
                           const float *weight, tn_vec sum[AT_ONCE][STRETCH], int stretch,
                           int count, tn_dtype type)
{
    int64_t row = w->vectors * TN_VEC, whole = w->wide / TN_VEC;
    for (int64_t v = 0; v < whole; v++) {
        tn_vec x[STRETCH];
        TN_UNROLLED
        for (int j = 0; j < stretch; j++)
            x[j] = tn_vec_load(type, in, from + j * step + v * TN_VEC);
        TN_UNROLLED
        for (int n = 0; n < count; n++) {
            tn_vec right = tn_vec_load(TN_F32, weight, n * row + v * TN_VEC);
            TN_UNROLLED
            for (int j = 0; j < stretch; j++) sum[n][j] += x[j] * right;
        }
    }
    int rest = (int)(w->wide - whole * TN_VEC);
    if (rest) {
        TN_UNROLLED
        for (int n = 0; n < count; n++) {
            tn_vec right = tn_vec_load(TN_F32, weight, n * row + whole * TN_VEC);
            TN_UNROLLED
            for (int j = 0; j < stretch; j++)
                sum[n][j] += tn_vec_load_part(type, in, from + j * step + whole * TN_VEC, rest) *
                             right;
        }
    }
}

typedef struct stretch {
    const source_row *row;
    int rows;
    int64_t phase, j, at; /* position j of the phase; its first element of the output */
} stretch;

/* Outputs n .. n+count-1 of `positions` positions. */
TN_VEC_INLINE void stretch_of(const narrow_run *r, const stretch *x, int64_t n, int positions,
                              int count, tn_dtype type)
{
    const narrow_plan *w = r->w;
    tn_vec sum[AT_ONCE][STRETCH];
    TN_UNROLLED
    for (int i = 0; i < count; i++) {
        TN_UNROLLED
        for (int j = 0; j < STRETCH; j++) sum[i][j] = (tn_vec){0};
    }
    const struct narrow_tap *tap = w->tap + x->phase * w->s.k[2];
    int64_t taps = w->tap_count[x->phase], step = w->step * w->wide;
    for (int i = 0; i < x->rows; i++)
        for (int64_t t = 0; t < taps; t++) {
            int64_t position = tap[t].first + x->j * w->step;
            if (positions == 1 && (position < 0 || position >= w->I[2])) continue;
            const float *weight = r->weight + ((x->row[i].tap + tap[t].k) * w->narrow + n) *
                                                  w->vectors * TN_VEC;
            add_tap(w, r->in, x->row[i].in + position * w->wide, step, weight, sum, positions,
                    count, type);
        }
    TN_UNROLLED
    for (int i = 0; i < count; i++) {
        tn_four y = tn_sum_each(sum[i]);
        if (r->bias) y = y + tn_get_value(w->bias_type, r->bias, n + i);
        for (int j = 0; j < positions; j++)
            tn_put_value(type, r->out, x->at + j * w->phases * w->narrow + n + i, y[j]);
    }
}

/* All outputs; the number at once is a constant. */
TN_VEC_INLINE void outputs_of(const narrow_run *r, const stretch *x, int positions, tn_dtype type)
{
    int64_t n = 0;
    for (; n + AT_ONCE <= r->w->narrow; n += AT_ONCE) stretch_of(r, x, n, positions, AT_ONCE, type);
    switch (r->w->narrow - n) {
#if TN_VEC == 16
    case 3: stretch_of(r, x, n, positions, 3, type); break;
    case 2: stretch_of(r, x, n, positions, 2, type); break;
#endif
    case 1: stretch_of(r, x, n, positions, 1, type); break;
    default: break;
    }
}

TN_VEC_INLINE void rows(const narrow_run *r, int64_t begin, int64_t end, tn_dtype type)
{
    const narrow_plan *w = r->w;
    source_row row[MOST_ROWS];
    for (int64_t i = begin; i < end; i++) {
        int64_t b = i / (w->Q[0] * w->Q[1]), q0 = i / w->Q[1] % w->Q[0], q1 = i % w->Q[1];
        stretch x = {.row = row, .rows = source_rows(w, b, q0, q1, row)};
        for (x.phase = 0; x.phase < w->phases && x.phase < w->Q[2]; x.phase++) {
            int64_t low, high, end_j = (w->Q[2] - x.phase + w->phases - 1) / w->phases;
            inside(w, x.phase, &low, &high);
            for (x.j = 0; x.j < end_j;) {
                x.at = (i * w->Q[2] + x.phase + x.j * w->phases) * w->narrow;
                if (x.j >= low && x.j + STRETCH <= high) {
                    outputs_of(r, &x, STRETCH, type);
                    x.j += STRETCH;
                } else {
                    outputs_of(r, &x, 1, type);
                    x.j++;
                }
            }
        }
    }
}

static void run_rows(void *context, int64_t begin, int64_t end)
{
    const narrow_run *r = context;
    if (r->w->s.dtype == TN_F32) rows(r, begin, end, TN_F32);
    else rows(r, begin, end, TN_BF16);
}

/* ---- plan ------------------------------------------------------------------------------------ */

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
    narrow_plan *w = step->prepared;
    if (w) {
        free(w->tap);
        free(w->tap_count);
    }
    free(w);
    step->prepared = NULL;
}

/* Absent dimensions come first, so that the last one is what is contiguous. */
static void shift_dimensions(narrow_plan *w)
{
    int by = TN_MAX_SPACE - w->s.space;
    for (int d = TN_MAX_SPACE - 1; d >= 0; d--) {
        bool present = d >= by;
        w->s.S[d] = present ? w->s.S[d - by] : 1;
        w->s.O[d] = present ? w->s.O[d - by] : 1;
        w->s.k[d] = present ? w->s.k[d - by] : 1;
        w->geometry.stride[d] = present ? w->geometry.stride[d - by] : 1;
        w->geometry.dilation[d] = present ? w->geometry.dilation[d - by] : 1;
        w->geometry.pad_before[d] = present ? w->geometry.pad_before[d - by] : 0;
        w->I[d] = w->adjoint ? w->s.O[d] : w->s.S[d];
        w->Q[d] = w->adjoint ? w->s.S[d] : w->s.O[d];
    }
}

static void list_taps(narrow_plan *w)
{
    for (int64_t phase = 0; phase < w->phases; phase++)
        for (int64_t k = 0; k < w->s.k[2]; k++) {
            int64_t first = read_from(w, 2, phase, k);
            if (first != INT64_MIN)
                w->tap[phase * w->s.k[2] + w->tap_count[phase]++] = (struct narrow_tap){k, first};
        }
}

/* Where it is faster than oneDNN, measured on Zen 4: oneDNN's speed grows with the number of
 * channels of the result, and is twice as high for bf16. */
static bool is_ours(const narrow_plan *w)
{
    if (w->s.groups != 1 || w->wide < LEAST_WIDE || w->s.k[0] * w->s.k[1] > MOST_ROWS) return false;
    if (w->s.dtype == TN_F32) return w->narrow <= 8 && w->taps * w->vectors >= 2;
    return w->s.dtype == TN_BF16 && w->narrow <= 4 && w->taps * w->vectors >= 4;
}

/* TN_UNSUPPORTED for what is not ours. */
static tn_status prepare(tn_step *step)
{
    const tn_conv_attribute *t = step->attribute;
    narrow_plan *w = calloc(1, sizeof *w);
    if (!w) return tn_fail(TN_MEMORY, "out of memory");
    *w = (narrow_plan){.s = tn_conv_sizes_of(step),
                       .adjoint = step->op->id == TN_OP_CONVOLUTION_INPUT,
                       .has_bias = t->has_bias,
                       .bias_type = t->has_bias ? step->in[2].dtype : TN_F32};
    w->geometry = *w->s.g;
    w->wide = w->adjoint ? w->s.F : w->s.C;
    w->narrow = w->adjoint ? w->s.C : w->s.F;
    w->vectors = (w->wide + TN_VEC - 1) / TN_VEC;
    shift_dimensions(w);
    w->taps = w->s.k[0] * w->s.k[1] * w->s.k[2];
    w->phases = w->adjoint ? w->geometry.stride[2] : 1;
    w->step = w->adjoint ? 1 : w->geometry.stride[2];
    if (!is_ours(w)) {
        free(w);
        return TN_UNSUPPORTED;
    }
    step->prepared = w;
    w->tap = calloc((size_t)(w->phases * w->s.k[2]), sizeof *w->tap);
    w->tap_count = calloc((size_t)w->phases, sizeof *w->tap_count);
    if (!w->tap || !w->tap_count) {
        release(step);
        return tn_fail(TN_MEMORY, "out of memory");
    }
    list_taps(w);
    step->workspace = (size_t)(w->taps * w->narrow * w->vectors * TN_VEC) * sizeof(float);
    return TN_OK;
}

void TN_ISA(tn_cpu_narrow_convolution)(tn_kernel_table *table)
{
    static const tn_kernel kernel = {.prepare = prepare, .run = run_all, .release = release};
    table->kernel[TN_OP_CONVOLUTION] = table->kernel[TN_OP_CONVOLUTION_INPUT] = &kernel;
}
