/* Convolution and its adjoint in the input, on oneDNN.
 *
 * Activations stay channels-last: measured, oneDNN's channels-last kernels are as fast as its
 * blocked ones, and every other kernel can read that. The weight, row-major in the state, is
 * laid out anew at every run, which costs 1 to 2 % of the arithmetic. */
#include "cpu/onednn_convolution.h"

#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/threads.h"

/* ---- descriptions ---------------------------------------------------------------------------- */

static dnnl_data_type_t type_of(tn_dtype dtype)
{
    dnnl_data_type_t type = dnnl_f32;
    tn_onednn_dtype(dtype, &type);
    return type;
}

static dnnl_status_t describe_activation(dnnl_memory_desc_t *md, const tn_conv_sizes *s,
                                         int64_t images, int64_t channels, int64_t rows,
                                         const int64_t *space)
{
    static const dnnl_format_tag_t tag[] = {dnnl_nwc, dnnl_nhwc, dnnl_ndhwc};
    dnnl_dims_t dims = {images, channels, rows, space[1], space[2]};
    return dnnl_memory_desc_init_by_tag(md, s->space + 2, dims, type_of(s->dtype),
                                        tag[s->space - 1]);
}

dnnl_status_t tn_conv_describe_x(dnnl_memory_desc_t *md, const tn_conv_sizes *s,
                                 const tn_conv_kind *kind)
{
    return describe_activation(md, s, kind->images, s->C, kind->x_rows, s->S);
}

dnnl_status_t tn_conv_describe_y(dnnl_memory_desc_t *md, const tn_conv_sizes *s,
                                 const tn_conv_kind *kind, int64_t filters)
{
    return describe_activation(md, s, kind->images, filters ? filters : s->F, kind->y_rows, s->O);
}

dnnl_status_t tn_conv_describe_weight(dnnl_memory_desc_t *md, const tn_conv_sizes *s,
                                      tn_dtype dtype, bool any, int64_t filters)
{
    static const dnnl_format_tag_t tag[2][TN_MAX_SPACE] = {{dnnl_oiw, dnnl_oihw, dnnl_oidhw},
                                                           {dnnl_goiw, dnnl_goihw, dnnl_goidhw}};
    bool groups = s->groups > 1;
    filters = filters ? filters : s->F;
    dnnl_dims_t dims;
    int n = 0;
    if (groups) dims[n++] = s->groups;
    dims[n++] = filters / s->groups;
    dims[n++] = s->C / s->groups;
    for (int i = 0; i < s->space; i++) dims[n++] = s->k[i];
    return dnnl_memory_desc_init_by_tag(md, n, dims, type_of(dtype),
                                        any ? dnnl_format_tag_any : tag[groups][s->space - 1]);
}

tn_conv_steps tn_conv_steps_of(const tn_conv_sizes *s, const tn_conv_kind *kind)
{
    tn_conv_steps steps = {{0}, {0}, {0}, {0}};
    for (int i = 0; i < s->space; i++) {
        steps.stride[i] = s->g->stride[i];
        steps.dilation[i] = s->g->dilation[i] - 1;
        steps.before[i] = i ? s->g->pad_before[i] : kind->before;
        steps.after[i] = i ? s->g->pad_after[i] : kind->after;
    }
    return steps;
}

int64_t tn_conv_pieces_worth(const tn_conv_sizes *s)
{
    double flop = tn_conv_flop(s);
    if (flop < 2e6) return 1;
    double pieces = flop / 8e6;
    return pieces < 2 ? 2 : pieces > 32 ? 32 : (int64_t)pieces;
}

void tn_conv_layouts(const tn_step *step, tn_layout *in, tn_layout *out)
{
    if (step->in[0].dtype == TN_F64) return;
    tn_op_id id = step->op->id;
    in[0] = TN_CHANNELS_LAST;
    if (id == TN_OP_CONVOLUTION_WEIGHT) in[1] = TN_CHANNELS_LAST;
    else out[0] = TN_CHANNELS_LAST;
}

/* ---- results without products ---------------------------------------------------------------- */

static tn_status nothing_run(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    (void)step, (void)in, (void)out, (void)workspace;
    return TN_OK;
}

static float value_at(tn_dtype dtype, const void *x, int64_t i)
{
    if (dtype == TN_F32) return ((const float *)x)[i];
    uint16_t half = ((const uint16_t *)x)[i];
    return dtype == TN_BF16 ? tn_f32_from_bf16(half) : tn_f32_from_f16(half);
}

/* All sums are empty: zeros, or the bias. */
static tn_status empty_sums_run(const tn_step *step, void *const *in, void *const *out,
                                void *workspace)
{
    (void)workspace;
    const tn_conv_attribute *t = step->attribute;
    const tn_operand *y = &step->out[0];
    int64_t size = tn_operand_size(y);
    memset(out[0], 0, (size_t)size * tn_dtype_size(y->dtype));
    for (int64_t i = 0; t->has_bias && i < size; i++) { /* channels are innermost */
        float x = value_at(step->in[2].dtype, in[2], i % y->dim[1]);
        if (y->dtype == TN_F32) ((float *)out[0])[i] = x;
        else
            ((uint16_t *)out[0])[i] = y->dtype == TN_BF16 ? tn_bf16_from_f32(x)
                                                          : tn_f16_from_f32(x);
    }
    return TN_OK;
}

bool tn_conv_is_trivial(tn_step *step, const tn_conv_sizes *s)
{
    static const tn_kernel nothing = {.run = nothing_run}, empty_sums = {.run = empty_sums_run};
    bool empty = s->B == 0 || s->C == 0 || s->F == 0;
    for (int i = 0; i < TN_MAX_SPACE; i++) empty = empty || s->S[i] == 0 || s->O[i] == 0;
    if (tn_operand_size(&step->out[0]) == 0) step->kernel = &nothing;
    else if (empty) step->kernel = &empty_sums;
    else return false;
    return true;
}

/* ---- plan ------------------------------------------------------------------------------------ */

typedef struct conv_plan {
    tn_conv_sizes s;
    bool backward; /* CONVOLUTION_INPUT */
    size_t size, weight_bytes, lane_scratch;
    int lanes;
    tn_conv_cut cut;
    tn_primitive *primitive[TN_CONV_KINDS];
    tn_primitive *lay_out; /* of the weight; NULL if row-major is what oneDNN wants */
} conv_plan;

/* `weight`: its layout, or NULL to let oneDNN choose. */
static tn_status make_primitive(const tn_step *step, conv_plan *w, int kind_index,
                                const dnnl_memory_desc_t *chosen)
{
    static const int forward_argument[] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST,
                                           DNNL_ARG_BIAS};
    static const int backward_argument[] = {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST};
    const tn_conv_attribute *t = step->attribute;
    const tn_conv_sizes *s = &w->s;
    const tn_conv_kind *kind = &w->cut.kind[kind_index];
    dnnl_memory_desc_t x, weight, y, bias;
    dnnl_convolution_desc_t descriptor;
    tn_conv_steps at = tn_conv_steps_of(s, kind);
    dnnl_status_t status = tn_conv_describe_x(&x, s, kind);
    if (status == dnnl_success) status = tn_conv_describe_y(&y, s, kind, 0);
    if (status == dnnl_success) status = tn_conv_describe_weight(&weight, s, s->dtype, true, 0);
    if (chosen) weight = *chosen;
    if (status == dnnl_success && t->has_bias)
        status = dnnl_memory_desc_init_by_tag(&bias, 1, (const dnnl_dims_t){s->F},
                                              type_of(step->in[2].dtype), dnnl_x);
    if (status == dnnl_success && !w->backward)
        status = dnnl_dilated_convolution_forward_desc_init(
            &descriptor, dnnl_forward_inference, dnnl_convolution_direct, &x, &weight,
            t->has_bias ? &bias : NULL, &y, at.stride, at.dilation, at.before, at.after);
    if (status == dnnl_success && w->backward)
        status = dnnl_dilated_convolution_backward_data_desc_init(
            &descriptor, dnnl_convolution_direct, &x, &weight, &y, at.stride, at.dilation,
            at.before, at.after);
    if (status != dnnl_success) return tn_onednn_fail(step, "describe it", status);
    tn_primitive **primitive = &w->primitive[kind_index];
    TN_TRY(tn_primitive_create(primitive, step, &descriptor,
                               w->backward ? backward_argument : forward_argument,
                               t->has_bias ? 4 : 3, w->lanes));
    size_t scratch = tn_primitive_scratch(*primitive);
    if (scratch > w->lane_scratch) w->lane_scratch = scratch;
    return TN_OK;
}

/* The usual kind of piece chooses the weight's layout, the others follow. */
static tn_status make_primitives(tn_step *step, conv_plan *w)
{
    dnnl_memory_desc_t plain;
    int usual = w->cut.usual;
    TN_TRY(make_primitive(step, w, usual, NULL));
    const dnnl_memory_desc_t *chosen = tn_primitive_layout(w->primitive[usual], DNNL_ARG_WEIGHTS);
    for (int i = 0; i < w->cut.kinds; i++)
        if (i != usual) TN_TRY(make_primitive(step, w, i, chosen));
    dnnl_status_t status = tn_conv_describe_weight(&plain, &w->s, w->s.dtype, false, 0);
    if (status != dnnl_success) return tn_onednn_fail(step, "describe its weight", status);
    if (!dnnl_memory_desc_equal(&plain, chosen)) {
        w->weight_bytes = (tn_primitive_bytes(w->primitive[usual], DNNL_ARG_WEIGHTS) + 63) / 64 *
                          64;
        TN_TRY(tn_primitive_create_reorder(&w->lay_out, step, &plain, chosen,
                                           w->weight_bytes > 1 << 18));
    }
    return TN_OK;
}

static void free_primitives(conv_plan *w)
{
    for (int i = 0; i < TN_CONV_KINDS; i++) {
        tn_primitive_free(w->primitive[i]);
        w->primitive[i] = NULL;
    }
    tn_primitive_free(w->lay_out);
    w->lay_out = NULL;
}

static void release(tn_step *step)
{
    conv_plan *w = step->prepared;
    if (w) {
        free_primitives(w);
        free(w->cut.piece);
    }
    free(w);
    step->prepared = NULL;
}

/* Own kernels for results of few channels; their prepare answers TN_UNSUPPORTED for what is not
 * theirs. */
static const tn_kernel *narrow;

static tn_status cut_and_make(tn_step *step, conv_plan *w, int64_t pieces)
{
    free(w->cut.piece);
    TN_TRY(tn_conv_cut_make(&w->cut, &w->s, w->backward ? TN_CUT_X : TN_CUT_Y, pieces));
    int threads = tn_thread_count();
    w->lanes = w->cut.pieces < threads ? w->cut.pieces : threads;
    w->weight_bytes = w->lane_scratch = 0;
    return make_primitives(step, w);
}

static tn_status prepare(tn_step *step)
{
    tn_conv_sizes s = tn_conv_sizes_of(step);
    if (s.dtype == TN_F64) { /* rare; the reference's arrays are f64 */
        step->kernel = tn_ref_kernels()->kernel[step->op->id];
        return TN_OK;
    }
    if (tn_conv_is_trivial(step, &s)) return TN_OK;
    if (narrow) {
        const tn_kernel *self = step->kernel;
        step->kernel = narrow;
        tn_status status = narrow->prepare(step);
        if (status != TN_UNSUPPORTED) return status;
        step->kernel = self;
    }
    dnnl_data_type_t type;
    if (!tn_onednn_dtype(s.dtype, &type))
        return tn_fail(TN_UNSUPPORTED, "%s of %s is not implemented; cast to f32 or bf16",
                       step->op->name, tn_dtype_name(s.dtype));
    conv_plan *w = calloc(1, sizeof *w);
    if (!w) return tn_fail(TN_MEMORY, "out of memory");
    step->prepared = w;
    w->s = s;
    w->size = tn_dtype_size(s.dtype);
    w->backward = step->op->id == TN_OP_CONVOLUTION_INPUT;
    tn_status status = cut_and_make(step, w, tn_conv_pieces_worth(&s));
    if (status == TN_UNSUPPORTED &&
        w->cut.kinds > 1) { /* not every kind can have the usual one's layout */
        free_primitives(w);
        status = cut_and_make(step, w, 1);
    }
    step->workspace = w->weight_bytes + (size_t)w->lanes * w->lane_scratch;
    if (status != TN_OK) release(step);
    return status;
}

/* ---- running --------------------------------------------------------------------------------- */

typedef struct conv_run {
    const conv_plan *w;
    unsigned char *x, *y, *weight, *bias, *scratch;
    bool failed[64];
} conv_run;

static void run_lanes(void *context, int64_t begin, int64_t end)
{
    conv_run *r = context;
    const conv_plan *w = r->w;
    for (int64_t lane = begin; lane < end; lane++) {
        int64_t first = lane * w->cut.pieces / w->lanes,
                stop = (lane + 1) * w->cut.pieces / w->lanes;
        for (int64_t i = first; i < stop; i++) {
            const tn_conv_piece *piece = &w->cut.piece[i];
            unsigned char *x = r->x + (size_t)piece->x * w->size,
                          *y = r->y + (size_t)piece->y * w->size;
            void *data[] = {x, r->weight, y, r->bias};
            tn_status status = tn_primitive_run(w->primitive[piece->kind], (int)lane, data,
                                                r->scratch + (size_t)lane * w->lane_scratch);
            if (status != TN_OK) r->failed[lane % 64] = true;
        }
    }
}

static tn_status run_all(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    const conv_plan *w = step->prepared;
    const tn_conv_attribute *t = step->attribute;
    conv_run r = {.w = w, .weight = in[1], .bias = t->has_bias ? in[2] : NULL};
    r.x = w->backward ? out[0] : in[0];
    r.y = w->backward ? in[0] : out[0];
    r.scratch = (unsigned char *)workspace + w->weight_bytes;
    if (w->lay_out) {
        r.weight = workspace;
        TN_TRY(tn_primitive_run(w->lay_out, 0, (void *[]){in[1], workspace}, NULL));
    }
    tn_parallel(w->lanes, 1, run_lanes, &r);
    for (int i = 0; i < 64; i++)
        if (r.failed[i]) return tn_fail(TN_UNSUPPORTED, "oneDNN failed while running");
    return TN_OK;
}

void tn_cpu_onednn_convolution(tn_kernel_table *table)
{
    static const tn_kernel kernel = {
        .layouts = tn_conv_layouts, .prepare = prepare, .run = run_all, .release = release};
    narrow = table->kernel[TN_OP_CONVOLUTION];
    table->kernel[TN_OP_CONVOLUTION] = table->kernel[TN_OP_CONVOLUTION_INPUT] = &kernel;
    tn_cpu_onednn_convolution_weight(table);
}
