/* The weight's gradient of a convolution, on oneDNN.
 *
 * Every weight sums over all images and positions, so pieces of images give partial sums, which
 * are added in order; the number of pieces depends on the shape alone, and so does the result.
 * Where the weight is large beside the activations, partial sums would cost too much, and the
 * filters are cut instead: each piece then reads a dense copy of its filters' part of d_out. */
#include <stdlib.h>
#include <string.h>

#include "base/threads.h"
#include "cpu/onednn_convolution.h"

enum { MOST_PARTS = 4 };

typedef struct weight_plan {
    tn_conv_sizes s;
    size_t size;
    tn_conv_cut cut;        /* of images or rows */
    int64_t parts, filters; /* of the filters; filters in each part but perhaps the last */
    int pieces, lanes;      /* pieces: cut.pieces * parts */
    size_t partial, lane_scratch, copy_bytes;
    tn_primitive *primitive[2][TN_CONV_KINDS]; /* [last part] */
    tn_primitive *lay_out[2];
} weight_plan;

static int64_t filters_of(const weight_plan *w, int64_t part)
{
    return part + 1 < w->parts ? w->filters : w->s.F - (w->parts - 1) * w->filters;
}

/* ---- plan ------------------------------------------------------------------------------------ */

static tn_status make_primitive(const tn_step *step, weight_plan *w, bool last, int kind_index,
                                const dnnl_memory_desc_t *chosen)
{
    static const int argument[] = {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST};
    const tn_conv_sizes *s = &w->s;
    const tn_conv_kind *kind = &w->cut.kind[kind_index];
    dnnl_memory_desc_t x, weight, y;
    dnnl_convolution_desc_t descriptor;
    int64_t filters = filters_of(w, last ? w->parts - 1 : 0);
    tn_conv_steps at = tn_conv_steps_of(s, kind);
    dnnl_status_t status = tn_conv_describe_x(&x, s, kind);
    if (status == dnnl_success) status = tn_conv_describe_y(&y, s, kind, filters);
    if (status == dnnl_success) status = tn_conv_describe_weight(&weight, s, TN_F32, true, filters);
    if (chosen) weight = *chosen;
    if (status == dnnl_success)
        status = dnnl_dilated_convolution_backward_weights_desc_init(
            &descriptor, dnnl_convolution_direct, &x, &weight, NULL, &y, at.stride, at.dilation,
            at.before, at.after);
    if (status != dnnl_success) return tn_onednn_fail(step, "describe it", status);
    tn_primitive **primitive = &w->primitive[last][kind_index];
    TN_TRY(tn_primitive_create(primitive, step, &descriptor, argument, 3, w->lanes));
    size_t scratch = tn_primitive_scratch(*primitive),
           bytes = (tn_primitive_bytes(*primitive, DNNL_ARG_DIFF_WEIGHTS) + 63) / 64 * 64;
    if (scratch > w->lane_scratch) w->lane_scratch = scratch;
    if (bytes > w->partial) w->partial = bytes;
    return TN_OK;
}

static tn_status make_primitives(const tn_step *step, weight_plan *w, bool last)
{
    int usual = w->cut.usual;
    TN_TRY(make_primitive(step, w, last, usual, NULL));
    const dnnl_memory_desc_t *chosen = tn_primitive_layout(w->primitive[last][usual],
                                                           DNNL_ARG_DIFF_WEIGHTS);
    for (int i = 0; i < w->cut.kinds; i++)
        if (i != usual) TN_TRY(make_primitive(step, w, last, i, chosen));
    dnnl_memory_desc_t plain;
    dnnl_status_t status = tn_conv_describe_weight(&plain, &w->s, w->s.dtype, false,
                                                   filters_of(w, last ? w->parts - 1 : 0));
    if (status != dnnl_success) return tn_onednn_fail(step, "describe its weight", status);
    return tn_primitive_create_reorder(&w->lay_out[last], step, chosen, &plain,
                                       w->parts == 1 && w->partial > 1 << 18);
}

static void free_primitives(weight_plan *w)
{
    for (int last = 0; last < 2; last++) {
        for (int i = 0; i < TN_CONV_KINDS; i++) {
            tn_primitive_free(w->primitive[last][i]);
            w->primitive[last][i] = NULL;
        }
        tn_primitive_free(w->lay_out[last]);
        w->lay_out[last] = NULL;
    }
}

static void release(tn_step *step)
{
    weight_plan *w = step->prepared;
    if (w) {
        free_primitives(w);
        free(w->cut.piece);
    }
    free(w);
    step->prepared = NULL;
}

/* Images into so many pieces that the partial sums stay below a quarter of the activations; if
 * those are few, filters too, 64 or more in a part. Every part reads x anew (and for bf16 oneDNN
 * turns it first), so there are not more than needed. */
static tn_status cut(weight_plan *w, int64_t wanted)
{
    const tn_conv_sizes *s = &w->s;
    double x = (double)s->B * (double)s->C * (double)s->S[0] * (double)s->S[1] * (double)s->S[2];
    double y = (double)s->B * (double)s->F * (double)s->O[0] * (double)s->O[1] * (double)s->O[2];
    double weight = (double)s->F * (double)s->C / (double)s->groups * (double)s->k[0] *
                    (double)s->k[1] * (double)s->k[2];
    double affordable = (x + y) / 4 / weight;
    int64_t images = affordable < 1                ? 1
                     : affordable > (double)wanted ? wanted
                                                   : (int64_t)affordable;
    free(w->cut.piece);
    TN_TRY(tn_conv_cut_make(&w->cut, s, TN_CUT_Y, images));
    int64_t most = s->F / 64, parts = (wanted < MOST_PARTS ? wanted : MOST_PARTS) / w->cut.pieces;
    w->parts = s->groups > 1 || parts < 2 || most < 2 ? 1 : parts < most ? parts : most;
    w->filters = (s->F + w->parts - 1) / w->parts;
    if (w->parts > 1) w->filters = (w->filters + 15) / 16 * 16;
    w->parts = (s->F + w->filters - 1) / w->filters;
    w->pieces = w->cut.pieces * (int)w->parts;
    int threads = tn_thread_count();
    w->lanes = w->pieces < threads ? w->pieces : threads;
    w->copy_bytes = w->parts > 1 ? ((size_t)y * w->size + 63) / 64 * 64 : 0;
    w->partial = w->lane_scratch = 0;
    return TN_OK;
}

static tn_status cut_and_make(const tn_step *step, weight_plan *w, int64_t wanted)
{
    TN_TRY(cut(w, wanted));
    if (w->parts > 1) TN_TRY(make_primitives(step, w, false));
    return make_primitives(step, w, true);
}

static tn_status prepare(tn_step *step)
{
    tn_conv_sizes s = tn_conv_sizes_of(step);
    if (s.dtype == TN_F64) {
        step->kernel = tn_ref_kernels()->kernel[step->op->id];
        return TN_OK;
    }
    if (tn_conv_is_trivial(step, &s)) return TN_OK;
    dnnl_data_type_t type;
    if (!tn_onednn_dtype(s.dtype, &type))
        return tn_fail(TN_UNSUPPORTED, "%s of %s is not implemented; cast to f32 or bf16",
                       step->op->name, tn_dtype_name(s.dtype));
    weight_plan *w = calloc(1, sizeof *w);
    if (!w) return tn_fail(TN_MEMORY, "out of memory");
    step->prepared = w;
    w->s = s;
    w->size = tn_dtype_size(s.dtype);
    int64_t wanted = tn_conv_pieces_worth(&s);
    tn_status status = cut_and_make(step, w, wanted < 16 ? wanted : 16);
    if (status == TN_UNSUPPORTED && w->cut.kinds > 1) {
        free_primitives(w);
        status = cut_and_make(step, w, 1);
    }
    step->workspace = w->partial * (size_t)w->pieces + w->copy_bytes +
                      w->lane_scratch * (size_t)w->lanes;
    if (status != TN_OK) release(step);
    return status;
}

/* ---- running --------------------------------------------------------------------------------- */

typedef struct weight_run {
    const weight_plan *w;
    unsigned char *x, *y, *partial, *copy, *scratch, *out;
    bool failed[64];
} weight_run;

/* d_out's filters part by part: [parts][B * O][filters of the part]. */
static void copy_filters(void *context, int64_t begin, int64_t end)
{
    const weight_run *r = context;
    const weight_plan *w = r->w;
    const tn_conv_sizes *s = &w->s;
    int64_t rows = s->B * s->O[0] * s->O[1] * s->O[2];
    for (int64_t part = 0; part < w->parts; part++) {
        int64_t filters = filters_of(w, part);
        unsigned char *to = r->copy + (size_t)(part * w->filters * rows) * w->size;
        for (int64_t i = begin; i < end; i++)
            memcpy(to + (size_t)(i * filters) * w->size,
                   r->y + (size_t)(i * s->F + part * w->filters) * w->size,
                   (size_t)filters * w->size);
    }
}

static void run_lanes(void *context, int64_t begin, int64_t end)
{
    weight_run *r = context;
    const weight_plan *w = r->w;
    const tn_conv_sizes *s = &w->s;
    int64_t rows = s->B * s->O[0] * s->O[1] * s->O[2];
    for (int64_t lane = begin; lane < end; lane++)
        for (int64_t i = lane * w->pieces / w->lanes; i < (lane + 1) * w->pieces / w->lanes; i++) {
            int64_t part = i / w->cut.pieces;
            const tn_conv_piece *piece = &w->cut.piece[i % w->cut.pieces];
            unsigned char *x = r->x + (size_t)piece->x * w->size,
                          *y = r->y + (size_t)piece->y * w->size;
            if (w->parts > 1)
                y = r->copy +
                    (size_t)(part * w->filters * rows + piece->y / s->F * filters_of(w, part)) *
                        w->size;
            void *data[] = {x, r->partial + (size_t)i * w->partial, y};
            tn_primitive *primitive = w->primitive[part + 1 == w->parts][piece->kind];
            if (tn_primitive_run(primitive, (int)lane, data,
                                 r->scratch + (size_t)lane * w->lane_scratch) != TN_OK)
                r->failed[lane % 64] = true;
        }
}

typedef float sixteen __attribute__((vector_size(64)));

/* Vectors [begin, end) of the partial sums of every part, pieces in order. */
static void add_partials(void *context, int64_t begin, int64_t end)
{
    const weight_run *r = context;
    const weight_plan *w = r->w;
    for (int64_t part = 0; part < w->parts; part++) {
        unsigned char *first = r->partial + (size_t)(part * w->cut.pieces) * w->partial;
        for (int64_t v = begin; v < end; v++) {
            sixteen *at = (sixteen *)(void *)(first + 64 * v), sum = *at;
            for (int i = 1; i < w->cut.pieces; i++)
                sum += *(const sixteen *)(const void *)(first + (size_t)i * w->partial +
                                                        64 * (size_t)v);
            *at = sum;
        }
    }
}

static void lay_out_parts(void *context, int64_t begin, int64_t end)
{
    weight_run *r = context;
    const weight_plan *w = r->w;
    const tn_conv_sizes *s = &w->s;
    int64_t each = s->C / s->groups * s->k[0] * s->k[1] * s->k[2];
    for (int64_t part = begin; part < end; part++) {
        void *data[] = {r->partial + (size_t)(part * w->cut.pieces) * w->partial,
                        r->out + (size_t)(part * w->filters * each) * w->size};
        if (tn_primitive_run(w->lay_out[part + 1 == w->parts], (int)part, data, NULL) != TN_OK)
            r->failed[part % 64] = true;
    }
}

static tn_status run_all(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    const weight_plan *w = step->prepared;
    const tn_conv_sizes *s = &w->s;
    weight_run r = {.w = w, .x = in[0], .y = in[1], .out = out[0], .partial = workspace};
    r.copy = r.partial + w->partial * (size_t)w->pieces;
    r.scratch = r.copy + w->copy_bytes;
    if (w->parts > 1) tn_parallel(s->B * s->O[0] * s->O[1] * s->O[2], 64, copy_filters, &r);
    tn_parallel(w->lanes, 1, run_lanes, &r);
    if (w->cut.pieces > 1) tn_parallel((int64_t)(w->partial / 64), 256, add_partials, &r);
    tn_parallel(w->parts, 1, lay_out_parts, &r);
    for (int i = 0; i < 64; i++)
        if (r.failed[i]) return tn_fail(TN_UNSUPPORTED, "oneDNN failed while running");
    return TN_OK;
}

void tn_cpu_onednn_convolution_weight(tn_kernel_table *table)
{
    static const tn_kernel kernel = {
        .layouts = tn_conv_layouts, .prepare = prepare, .run = run_all, .release = release};
    table->kernel[TN_OP_CONVOLUTION_WEIGHT] = &kernel;
}
