/* Batch and group norm: moments of every channel, joined over samples (batch) or over the
 * channels of a group (group), then one pass that writes y. Backward: two sums of every channel,
 * joined the same way, then one pass that writes d_x.
 *
 * x is read twice forward, x and d_y twice backward. A ReLU behind a batch norm costs no pass:
 * forward it is part of the store, backward its sign is found again from x. */
#include <math.h>

#include "cpu/simd/channel_passes.h"
#include "cpu/simd/dense_layout.h"
#include "graph/norm.h"

/* ---- layouts, workspace, reference ----------------------------------------------------------- */

static void batch_norm_layouts(const tn_step *step, tn_layout *in, tn_layout *out)
{
    in[0] = out[0] = tn_dense_layout(&step->in[0]);
    if (((const tn_batch_norm_attribute *)step->attribute)->has_residual) in[3] = in[0];
}

static void group_norm_layouts(const tn_step *step, tn_layout *in, tn_layout *out)
{
    in[0] = out[0] = tn_dense_layout(&step->in[0]);
}

static void gradient_layouts(const tn_step *step, tn_layout *in, tn_layout *out)
{
    in[0] = in[1] = out[0] = tn_dense_layout(&step->in[0]);
}

static tn_status reference(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    return tn_ref_kernels()->kernel[step->op->id]->run(step, in, out, workspace);
}

/* Arrays of floats, laid one behind the other in the workspace; counts alone when there is none
 * yet. */
typedef struct stack {
    float *base;
    int64_t used;
} stack;

static float *take(stack *s, int64_t count)
{
    float *out = s->base ? s->base + s->used : NULL;
    s->used += (count + 15) / 16 * 16;
    return out;
}

/* Partial results, then values per channel, then coefficients spread from them. */
typedef struct scratch {
    float *first, *second; /* [partials] */
    float *value[4];       /* [values] */
    float *spread[5];      /* [storage] */
} scratch;

static scratch cut(stack *s, const tn_channels *g, int64_t values)
{
    scratch out;
    out.first = take(s, tn_channels_partials(g));
    out.second = take(s, tn_channels_partials(g));
    for (int i = 0; i < 4; i++) out.value[i] = take(s, values);
    for (int i = 0; i < 5; i++) out.spread[i] = take(s, tn_channels_storage(g));
    return out;
}

static tn_status prepare(tn_step *step)
{
    const tn_operand *x = &step->in[0];
    if (x->dtype == TN_F64) return TN_OK;
    if (!tn_vec_has(x->dtype))
        return tn_fail(TN_UNSUPPORTED, "%s of %s", step->op->name, tn_dtype_name(x->dtype));
    bool batch = step->op->id == TN_OP_BATCH_NORM || step->op->id == TN_OP_BATCH_NORM_GRAD;
    tn_channels g = tn_channels_of(x, batch);
    stack sizes = {NULL, 0};
    cut(&sizes, &g, batch ? x->dim[1] : x->dim[0] * x->dim[1]);
    step->workspace = (size_t)sizes.used * sizeof(float);
    return TN_OK;
}

/* ---- batch norm ------------------------------------------------------------------------------ */

/* Forward and backward must come to the same bits, or a ReLU's sign could differ. */
static inline float inverse_deviation(float variance, double epsilon)
{
    return 1 / sqrtf(variance + (float)epsilon);
}

static tn_status run_batch_norm(const tn_step *step, void *const *in, void *const *out,
                                void *workspace)
{
    const tn_operand *x = &step->in[0];
    if (x->dtype == TN_F64) return reference(step, in, out, workspace);
    const tn_batch_norm_attribute *a = step->attribute;
    const float *scale = in[1], *shift = in[2];
    float *mean = out[1], *variance = out[2];
    tn_channels g = tn_channels_of(x, true);
    stack memory = {workspace, 0};
    scratch s = cut(&memory, &g, x->dim[1]);

    tn_moments_pass moments = {.g = &g, .x = in[0], .mean = s.first, .square = s.second};
    tn_moments_run(&moments);
    int64_t count = g.flat ? x->dim[0] * g.rows : g.rows;
    if (g.flat && count > 0)
        tn_moments_join(x->dim[0], g.rows, count, x->dim[1], s.first, s.second, s.first, s.second);
    for (int64_t c = 0; c < x->dim[1]; c++) {
        mean[c] = count > 0 ? s.first[c] : 0;
        variance[c] = count > 0 ? s.second[c] / (float)count : 0;
        s.value[0][c] = scale[c] * inverse_deviation(variance[c], a->epsilon);
    }
    tn_apply_pass apply = {.g = &g,
                           .x = in[0],
                           .y = out[0],
                           .residual = a->has_residual ? in[3] : NULL,
                           .relu = a->activation == TN_OP_RELU};
    apply.mean = tn_channels_spread(&g, mean, s.spread[0]);
    apply.factor = tn_channels_spread(&g, s.value[0], s.spread[1]);
    apply.shift = tn_channels_spread(&g, shift, s.spread[2]);
    tn_apply_run(&apply);
    return TN_OK;
}

static tn_status run_batch_norm_grad(const tn_step *step, void *const *in, void *const *out,
                                     void *workspace)
{
    const tn_operand *x = &step->in[0];
    if (x->dtype == TN_F64) return reference(step, in, out, workspace);
    const tn_batch_norm_attribute *a = step->attribute;
    const float *scale = in[2], *shift = in[3], *mean = in[4], *variance = in[5];
    float *d_scale = out[1], *d_shift = out[2];
    tn_channels g = tn_channels_of(x, true);
    stack memory = {workspace, 0};
    scratch s = cut(&memory, &g, x->dim[1]);

    for (int64_t c = 0; c < x->dim[1]; c++)
        s.value[0][c] = scale[c] * inverse_deviation(variance[c], a->epsilon);
    tn_gradient_pass pass = {.g = &g,
                             .x = in[0],
                             .d_y = in[1],
                             .d_x = out[0],
                             .relu = a->activation == TN_OP_RELU,
                             .sum = s.first,
                             .product = s.second};
    pass.mean = tn_channels_spread(&g, mean, s.spread[0]);
    pass.factor = tn_channels_spread(&g, s.value[0], s.spread[1]);
    pass.shift = tn_channels_spread(&g, shift, s.spread[2]);
    tn_sums_run(&pass);
    if (g.flat && g.samples > 0) {
        tn_sums_join(x->dim[0], x->dim[1], s.first, s.first);
        tn_sums_join(x->dim[0], x->dim[1], s.second, s.second);
    }
    float count = (float)(g.flat ? x->dim[0] * g.rows : g.rows);
    for (int64_t c = 0; c < x->dim[1]; c++) {
        float rstd = inverse_deviation(variance[c], a->epsilon);
        d_shift[c] = g.samples > 0 ? s.first[c] : 0;
        d_scale[c] = g.samples > 0 ? s.second[c] * rstd : 0;
        s.value[1][c] = s.value[0][c] * d_shift[c] / count;
        s.value[2][c] = s.value[0][c] * rstd * d_scale[c] / count;
    }
    pass.offset = tn_channels_spread(&g, s.value[1], s.spread[3]);
    pass.slope = tn_channels_spread(&g, s.value[2], s.spread[4]);
    tn_input_run(&pass);
    return TN_OK;
}

/* ---- group norm: values are [B, C] ----------------------------------------------------------- */

typedef struct groups {
    int64_t batch, channels, groups, each; /* each: channels of a group */
    double count;                          /* elements of a group */
    bool per_sample;
} groups;

static groups groups_of(const tn_step *step, const tn_channels *g)
{
    const tn_norm_attribute *a = step->attribute;
    groups n = {.batch = step->in[0].dim[0],
                .channels = step->in[0].dim[1],
                .groups = a->groups,
                .per_sample = a->per_sample};
    n.each = n.channels / n.groups;
    n.count = (double)n.each * (double)g->rows;
    return n;
}

/* Statistics of the `each` channels whose moments these are, S elements a channel. */
static void group_statistics(const groups *n, int64_t space, const float *mean, const float *square,
                             double epsilon, float *to_mean, float *to_rstd)
{
    double sum = 0, deviation = 0;
    for (int64_t c = 0; c < n->each; c++) sum += (double)mean[c];
    double all = n->each ? sum / (double)n->each : 0;
    for (int64_t c = 0; c < n->each; c++) {
        double delta = (double)mean[c] - all;
        deviation += (double)square[c] + (double)space * delta * delta;
    }
    *to_mean = (float)all;
    *to_rstd = inverse_deviation(n->count > 0 ? (float)(deviation / n->count) : 0, epsilon);
}

/* Where the parameters of the group's channels lie. */
static int64_t group_parameter(const groups *n, int64_t group)
{
    return n->per_sample ? group * n->each : group % n->groups * n->each;
}

static tn_status run_group_norm(const tn_step *step, void *const *in, void *const *out,
                                void *workspace)
{
    const tn_operand *x = &step->in[0];
    if (x->dtype == TN_F64) return reference(step, in, out, workspace);
    const tn_norm_attribute *a = step->attribute;
    const float *scale = a->has_scale ? in[1] : NULL,
                *shift = a->has_shift ? in[1 + a->has_scale] : NULL;
    float *mean = out[1], *rstd = out[2];
    tn_channels g = tn_channels_of(x, false);
    groups n = groups_of(step, &g);
    stack memory = {workspace, 0};
    scratch s = cut(&memory, &g, n.batch * n.channels);

    tn_moments_pass moments = {.g = &g, .x = in[0], .mean = s.first, .square = s.second};
    tn_moments_run(&moments);
    for (int64_t group = 0; group < n.batch * n.groups; group++) {
        int64_t first = group * n.each, parameter = group_parameter(&n, group);
        group_statistics(&n, g.rows, s.first + first, s.second + first, a->epsilon, &mean[group],
                         &rstd[group]);
        float *to_mean = s.value[0] + first, *factor = s.value[1] + first,
              *offset = s.value[2] + first;
        for (int64_t c = 0; c < n.each; c++) {
            to_mean[c] = mean[group];
            factor[c] = scale ? scale[parameter + c] * rstd[group] : rstd[group];
            offset[c] = shift ? shift[parameter + c] : 0;
        }
    }
    tn_apply_pass apply = {.g = &g, .x = in[0], .y = out[0]};
    apply.mean = tn_channels_spread(&g, s.value[0], s.spread[0]);
    apply.factor = tn_channels_spread(&g, s.value[1], s.spread[1]);
    apply.shift = tn_channels_spread(&g, s.value[2], s.spread[2]);
    tn_apply_run(&apply);
    return TN_OK;
}

/* d_scale and d_shift from the sums [B, C]; product is overwritten by product rstd. */
static void group_parameters(const groups *n, const float *sum, float *product, const float *rstd,
                             float *d_scale, float *d_shift)
{
    for (int64_t group = 0; group < n->batch * n->groups; group++)
        for (int64_t i = group * n->each; i < (group + 1) * n->each; i++) product[i] *= rstd[group];
    if (n->per_sample) {
        memcpy(d_scale, product, (size_t)(n->batch * n->channels) * sizeof *d_scale);
        memcpy(d_shift, sum, (size_t)(n->batch * n->channels) * sizeof *d_shift);
        return;
    }
    tn_sums_join(n->batch, n->channels, product, d_scale);
    tn_sums_join(n->batch, n->channels, sum, d_shift);
}

static tn_status run_group_norm_grad(const tn_step *step, void *const *in, void *const *out,
                                     void *workspace)
{
    const tn_operand *x = &step->in[0];
    if (x->dtype == TN_F64) return reference(step, in, out, workspace);
    const tn_norm_attribute *a = step->attribute;
    const float *mean = in[2], *rstd = in[3], *scale = a->has_scale ? in[4] : NULL;
    tn_channels g = tn_channels_of(x, false);
    groups n = groups_of(step, &g);
    stack memory = {workspace, 0};
    scratch s = cut(&memory, &g, n.batch * n.channels);

    for (int64_t group = 0; group < n.batch * n.groups; group++) {
        int64_t parameter = group_parameter(&n, group);
        float *to_mean = s.value[0] + group * n.each, *factor = s.value[1] + group * n.each;
        for (int64_t c = 0; c < n.each; c++) {
            to_mean[c] = mean[group];
            factor[c] = scale ? scale[parameter + c] * rstd[group] : rstd[group];
        }
    }
    tn_gradient_pass pass = {
        .g = &g, .x = in[0], .d_y = in[1], .d_x = out[0], .sum = s.first, .product = s.second};
    pass.mean = tn_channels_spread(&g, s.value[0], s.spread[0]);
    pass.factor = tn_channels_spread(&g, s.value[1], s.spread[1]);
    tn_sums_run(&pass);
    for (int64_t group = 0; group < n.batch * n.groups; group++) {
        double sum = 0, product = 0; /* of rstd g and rstd g (x - mean), which is g xhat */
        for (int64_t i = group * n.each; i < (group + 1) * n.each; i++) {
            sum += (double)(s.value[1][i] * s.first[i]);
            product += (double)(s.value[1][i] * s.second[i]);
        }
        float offset = (float)(sum / n.count),
              slope = (float)(product / n.count * (double)rstd[group] * (double)rstd[group]);
        for (int64_t i = group * n.each; i < (group + 1) * n.each; i++) {
            s.value[2][i] = offset;
            s.value[3][i] = slope;
        }
    }
    if (a->affine) group_parameters(&n, s.first, s.second, rstd, out[1], out[2]);
    pass.offset = tn_channels_spread(&g, s.value[2], s.spread[3]);
    pass.slope = tn_channels_spread(&g, s.value[3], s.spread[4]);
    tn_input_run(&pass);
    return TN_OK;
}

void TN_ISA(tn_cpu_batch_norm)(tn_kernel_table *table);
void TN_ISA(tn_cpu_batch_norm)(tn_kernel_table *table)
{
    static const tn_kernel batch = {.layouts = batch_norm_layouts,
                                    .in_place = 1 | 8,
                                    .prepare = prepare,
                                    .run = run_batch_norm};
    static const tn_kernel group = {
        .layouts = group_norm_layouts, .in_place = 1, .prepare = prepare, .run = run_group_norm};
    static const tn_kernel batch_grad = {.layouts = gradient_layouts,
                                         .in_place = 1 | 2,
                                         .prepare = prepare,
                                         .run = run_batch_norm_grad};
    static const tn_kernel group_grad = {.layouts = gradient_layouts,
                                         .in_place = 1 | 2,
                                         .prepare = prepare,
                                         .run = run_group_norm_grad};
    table->kernel[TN_OP_BATCH_NORM] = &batch;
    table->kernel[TN_OP_BATCH_NORM_GRAD] = &batch_grad;
    table->kernel[TN_OP_GROUP_NORM] = &group;
    table->kernel[TN_OP_GROUP_NORM_GRAD] = &group_grad;
}
