/* Layer, RMS and group norm. Batch norm has a file of its own.
 *
 * All three scale xhat = (x - mean) rstd (RMS: x rstd), rstd = 1/sqrt(variance + epsilon), and
 * have the gradient
 *     d_x = rstd (g - mean(g) - xhat mean(g xhat)),   g = d_y scale      (RMS: without mean(g))
 * where the means run over what is normalised together. Source: Ba et al. 2016 (layer), Zhang
 * and Sennrich 2019 (RMS), Wu and He 2018 (group). */
#include <math.h>
#include <string.h>

#include "graph/norm.h"

/* ---- building -------------------------------------------------------------------------------- */

/* False after an error. */
static bool sane(const char *name, tn_node x, double epsilon)
{
    if (!tn_dtype_is_float(tn_dtype_of(x)))
        tn_graph_fail(x.graph, "%s of %s %s; cast it to a floating-point type first", name,
                      tn_dtype_name(tn_dtype_of(x)), tn_shape_text(tn_shape_of(x)));
    else if (!(epsilon >= 0) || isinf(epsilon))
        tn_graph_fail(x.graph, "%s: epsilon is %g; it must be a small number >= 0", name, epsilon);
    return tn_graph_status(x.graph) == TN_OK;
}

static bool fits(const char *name, tn_node x, const char *what, tn_node parameter, tn_shape shape)
{
    if (tn_is_none(parameter) || (tn_shape_equal(tn_shape_of(parameter), shape) &&
                                  tn_dtype_is_float(tn_dtype_of(parameter))))
        return true;
    tn_graph_fail(x.graph, "%s: %s is %s %s, but x %s wants floating-point %s", name, what,
                  tn_dtype_name(tn_dtype_of(parameter)), tn_shape_text(tn_shape_of(parameter)),
                  tn_shape_text(tn_shape_of(x)), tn_shape_text(shape));
    return false;
}

/* The last `count` dimensions of a shape, or what comes before them. */
static tn_shape last_of(tn_shape shape, int count)
{
    tn_shape out = {.rank = count};
    for (int i = 0; i < count; i++) out.dim[i] = shape.dim[shape.rank - count + i];
    return out;
}

static tn_shape without_last(tn_shape shape, int count)
{
    for (int i = shape.rank - count; i < shape.rank; i++) shape.dim[i] = 0;
    shape.rank -= count;
    return shape;
}

/* x, then scale and shift where present, in the type of the statistics. */
static tn_node forward(tn_op_id id, tn_node x, tn_node scale, tn_node shift,
                       tn_norm_attribute *attribute, int statistics, tn_shape statistics_shape)
{
    tn_dtype wide = tn_statistics_dtype(tn_dtype_of(x)), more_dtype[2] = {wide, wide};
    tn_shape more_shape[2] = {statistics_shape, statistics_shape};
    tn_node in[3] = {x};
    int count = 1;
    attribute->has_scale = !tn_is_none(scale);
    attribute->has_shift = !tn_is_none(shift);
    if (attribute->has_scale)
        in[count++] = tn_dtype_of(scale) == wide ? scale : tn_cast(scale, wide);
    if (attribute->has_shift)
        in[count++] = tn_dtype_of(shift) == wide ? shift : tn_cast(shift, wide);
    return tn_node_new(NULL, &(tn_new_node){.id = id,
                                            .dtype = tn_dtype_of(x),
                                            .shape = tn_shape_of(x),
                                            .in = in,
                                            .in_count = count,
                                            .attribute = attribute,
                                            .attribute_size = sizeof *attribute,
                                            .more = statistics,
                                            .more_dtype = more_dtype,
                                            .more_shape = more_shape});
}

tn_node tn_layer_norm(tn_node x, tn_node scale, tn_node shift, double epsilon)
{
    if (tn_is_none(x) || !sane("layer_norm", x, epsilon)) return TN_NONE;
    tn_shape shape = tn_shape_of(x);
    int axes = !tn_is_none(scale) ? tn_rank(scale) : !tn_is_none(shift) ? tn_rank(shift) : 1;
    if (axes < 1 || axes > shape.rank)
        return tn_graph_fail(
            x.graph,
            "layer_norm: x %s with scale of rank %d; scale has x's last dimensions, at least one",
            tn_shape_text(shape), axes);
    tn_shape together = last_of(shape, axes);
    if (!fits("layer_norm", x, "scale", scale, together) ||
        !fits("layer_norm", x, "shift", shift, together))
        return TN_NONE;
    tn_norm_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.epsilon = epsilon;
    attribute.axes = axes;
    return forward(TN_OP_LAYER_NORM, x, scale, shift, &attribute, 2, without_last(shape, axes));
}

tn_node tn_rms_norm(tn_node x, tn_node scale, double epsilon)
{
    if (tn_is_none(x) || !sane("rms_norm", x, epsilon)) return TN_NONE;
    tn_shape shape = tn_shape_of(x);
    if (shape.rank < 1)
        return tn_graph_fail(x.graph,
                             "rms_norm of a scalar; x needs a dimension to normalise over");
    if (!fits("rms_norm", x, "scale", scale, last_of(shape, 1))) return TN_NONE;
    tn_norm_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.epsilon = epsilon;
    attribute.axes = 1;
    return forward(TN_OP_RMS_NORM, x, scale, TN_NONE, &attribute, 1, without_last(shape, 1));
}

tn_node tn_group_norm(tn_node x, int64_t groups, tn_node scale, tn_node shift, double epsilon)
{
    if (tn_is_none(x) || !sane("group_norm", x, epsilon)) return TN_NONE;
    tn_shape shape = tn_shape_of(x);
    if (shape.rank < 2)
        return tn_graph_fail(x.graph, "group_norm of %s; x must be [B, C, ...]",
                             tn_shape_text(shape));
    int64_t channels = shape.dim[1];
    if (groups < 1 || groups > INT32_MAX || channels % groups)
        return tn_graph_fail(x.graph, "group_norm: %lld channels do not divide into %lld groups",
                             (long long)channels, (long long)groups);
    bool per_sample = tn_rank(tn_is_none(scale) ? shift : scale) == 2;
    tn_shape wanted = per_sample ? TN_SHAPE(shape.dim[0], channels) : TN_SHAPE(channels);
    if (!fits("group_norm", x, "scale", scale, wanted) ||
        !fits("group_norm", x, "shift", shift, wanted))
        return TN_NONE;
    tn_norm_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.epsilon = epsilon;
    attribute.groups = (int32_t)groups;
    attribute.per_sample = per_sample;
    return forward(TN_OP_GROUP_NORM, x, scale, shift, &attribute, 2,
                   TN_SHAPE(shape.dim[0], groups));
}

/* ---- gradients as nodes ---------------------------------------------------------------------- */

static const tn_norm_attribute *attribute_of(tn_node node) { return tn_value_of(node)->attribute; }

/* The GRAD node of a forward node: its operands are x, d_y, the statistics, and scale; d_in gets
 * its results. */
static void backward(tn_op_id id, int statistics, const tn_node *in, const tn_node *out,
                     const tn_node *d_out, tn_node *d_in)
{
    for (int r = 1; r <= statistics; r++)
        if (!tn_is_none(d_out[r])) { /* somebody differentiates through the statistics themselves */
            tn_vjp_decomposed(out[0], in, d_out, d_in);
            return;
        }
    tn_norm_attribute attribute;
    memcpy(&attribute, attribute_of(out[0]), sizeof attribute);
    attribute.affine = attribute.has_scale || attribute.has_shift;
    tn_node operand[TN_MAX_IN] = {in[0], d_out[0]};
    int count = 2;
    for (int r = 1; r <= statistics; r++) operand[count++] = out[r];
    if (attribute.has_scale) operand[count++] = in[1];
    int more = !attribute.affine ? 0 : id == TN_OP_RMS_NORM_GRAD ? 1 : 2;
    tn_dtype wide = tn_statistics_dtype(tn_dtype_of(in[0])), more_dtype[2] = {wide, wide};
    tn_shape parameter = attribute.affine ? tn_shape_of(in[1]) : TN_SCALAR,
             more_shape[2] = {parameter, parameter};
    tn_node grad = tn_node_new(NULL, &(tn_new_node){.id = id,
                                                    .dtype = tn_dtype_of(in[0]),
                                                    .shape = tn_shape_of(in[0]),
                                                    .in = operand,
                                                    .in_count = count,
                                                    .attribute = &attribute,
                                                    .attribute_size = sizeof attribute,
                                                    .more = more,
                                                    .more_dtype = more_dtype,
                                                    .more_shape = more_shape});
    d_in[0] = grad;
    if (attribute.has_scale) d_in[1] = tn_result(grad, 1);
    if (attribute.has_shift) d_in[1 + attribute.has_scale] = tn_result(grad, 2);
}

static void layer_norm_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                           tn_node *d_in)
{
    backward(TN_OP_LAYER_NORM_GRAD, 2, in, out, d_out, d_in);
}

static void rms_norm_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    backward(TN_OP_RMS_NORM_GRAD, 1, in, out, d_out, d_in);
}

static void group_norm_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                           tn_node *d_in)
{
    backward(TN_OP_GROUP_NORM_GRAD, 2, in, out, d_out, d_in);
}

/* ---- in simpler operations ------------------------------------------------------------------- */

/* x in parts that are normalised alike: `axes` are those of `x` over which a part runs. */
typedef struct normalised {
    tn_node xhat, mean, rstd; /* mean and rstd with axes of size 1 kept; mean is empty for RMS */
    tn_axes axes;
} normalised;

static tn_axes last_axes(int rank, int count)
{
    tn_axes axes = {.count = count, .keep = true};
    for (int i = 0; i < count; i++) axes.axis[i] = rank - count + i;
    return axes;
}

static normalised normalise(tn_node x, int axes, double epsilon, bool centre)
{
    normalised n = {.axes = last_axes(tn_rank(x), axes)};
    tn_node centred = x;
    if (centre) {
        n.mean = tn_mean(x, n.axes);
        centred = tn_subtract(x, n.mean);
    }
    n.rstd = tn_rsqrt(tn_affine(tn_mean(tn_square(centred), n.axes), 1, epsilon));
    n.xhat = tn_multiply(centred, n.rstd);
    return n;
}

static tn_node input_gradient(const normalised *n, tn_node g)
{
    tn_node d = g;
    if (!tn_is_none(n->mean)) d = tn_subtract(d, tn_mean(g, n->axes));
    d = tn_subtract(d, tn_multiply(n->xhat, tn_mean(tn_multiply(g, n->xhat), n->axes)));
    return tn_multiply(n->rstd, d);
}

static tn_node scaled(tn_node x, tn_node scale)
{
    return tn_is_none(scale) ? x : tn_multiply(x, scale);
}

static void last_norm_decompose(const tn_node *in, const tn_node self, tn_node *out, bool centre)
{
    const tn_norm_attribute *a = attribute_of(self);
    normalised n = normalise(tn_widen(in[0]), a->axes, a->epsilon, centre);
    tn_node y = a->has_scale ? tn_multiply(n.xhat, in[1]) : n.xhat;
    if (a->has_shift) y = tn_add(y, in[1 + a->has_scale]);
    out[0] = tn_narrow(y, in[0]);
    int r = 1;
    if (centre) {
        out[r] = tn_reshape(n.mean, tn_shape_of(tn_result(self, r)));
        r++;
    }
    out[r] = tn_reshape(n.rstd, tn_shape_of(tn_result(self, r)));
}

static void layer_norm_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    last_norm_decompose(in, self, out, true);
}

static void rms_norm_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    last_norm_decompose(in, self, out, false);
}

static void last_norm_grad_decompose(const tn_node *in, const tn_node self, tn_node *out,
                                     bool centre)
{
    const tn_norm_attribute *a = attribute_of(self);
    normalised n = normalise(tn_widen(in[0]), a->axes, a->epsilon, centre);
    tn_node d_y = tn_widen(in[1]), scale = a->has_scale ? in[centre ? 4 : 3] : TN_NONE;
    out[0] = tn_narrow(input_gradient(&n, scaled(d_y, scale)), in[0]);
    if (!a->affine) return;
    out[1] = tn_sum_to(tn_multiply(d_y, n.xhat), tn_result(self, 1));
    if (centre) out[2] = tn_sum_to(d_y, tn_result(self, 2));
}

static void layer_norm_grad_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    last_norm_grad_decompose(in, self, out, true);
}

static void rms_norm_grad_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    last_norm_grad_decompose(in, self, out, false);
}

/* Group norm is the layer norm of [B, G, C/G, S] over its last two dimensions; scale and shift
 * are then [B or 1, G, C/G, 1]. */
static tn_node in_groups(tn_node x, int64_t groups)
{
    tn_shape shape = tn_shape_of(x);
    int64_t space = 1;
    for (int i = 2; i < shape.rank; i++) space *= shape.dim[i];
    return tn_reshape(x, TN_SHAPE(shape.dim[0], groups, shape.dim[1] / groups, space));
}

static tn_node parameter_in_groups(tn_node parameter, const tn_norm_attribute *a)
{
    if (tn_is_none(parameter)) return parameter;
    int64_t channels = tn_dim(parameter, -1);
    return tn_reshape(parameter, TN_SHAPE(a->per_sample ? tn_dim(parameter, 0) : 1, a->groups,
                                          channels / a->groups, 1));
}

static void group_norm_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    const tn_norm_attribute *a = attribute_of(self);
    normalised n = normalise(in_groups(tn_widen(in[0]), a->groups), 2, a->epsilon, true);
    tn_node y = n.xhat;
    if (a->has_scale) y = tn_multiply(y, parameter_in_groups(in[1], a));
    if (a->has_shift) y = tn_add(y, parameter_in_groups(in[1 + a->has_scale], a));
    out[0] = tn_narrow(tn_reshape(y, tn_shape_of(in[0])), in[0]);
    out[1] = tn_reshape(n.mean, tn_shape_of(tn_result(self, 1)));
    out[2] = tn_reshape(n.rstd, tn_shape_of(tn_result(self, 2)));
}

static void group_norm_grad_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    const tn_norm_attribute *a = attribute_of(self);
    normalised n = normalise(in_groups(tn_widen(in[0]), a->groups), 2, a->epsilon, true);
    tn_node d_y = in_groups(tn_widen(in[1]), a->groups);
    tn_node scale = a->has_scale ? parameter_in_groups(in[4], a) : TN_NONE;
    out[0] = tn_narrow(tn_reshape(input_gradient(&n, scaled(d_y, scale)), tn_shape_of(in[0])),
                       in[0]);
    if (!a->affine) return;
    tn_axes kept_in = a->per_sample ? TN_AXES(3) : TN_AXES(0, 3);
    out[1] = tn_reshape(tn_sum(tn_multiply(d_y, n.xhat), kept_in), tn_shape_of(tn_result(self, 1)));
    out[2] = tn_reshape(tn_sum(d_y, kept_in), tn_shape_of(tn_result(self, 2)));
}

/* ---- FLOP and rows --------------------------------------------------------------------------- */

static double forward_flop(const tn_value *self, const tn_value *const *in)
{
    (void)in;
    return (self->op->id == TN_OP_RMS_NORM ? 4 : 7) * (double)tn_shape_size(self->shape);
}

static double backward_flop(const tn_value *self, const tn_value *const *in)
{
    (void)in;
    return (self->op->id == TN_OP_RMS_NORM_GRAD ? 8 : 11) * (double)tn_shape_size(self->shape);
}

const tn_op tn_norm_ops[] = {
    {.id = TN_OP_LAYER_NORM,
     .name = "layer_norm",
     .vjp = layer_norm_vjp,
     .decompose = layer_norm_decompose,
     .flop = forward_flop},
    {.id = TN_OP_LAYER_NORM_GRAD,
     .name = "layer_norm_grad",
     .decompose = layer_norm_grad_decompose,
     .flop = backward_flop},
    {.id = TN_OP_RMS_NORM,
     .name = "rms_norm",
     .vjp = rms_norm_vjp,
     .decompose = rms_norm_decompose,
     .flop = forward_flop},
    {.id = TN_OP_RMS_NORM_GRAD,
     .name = "rms_norm_grad",
     .decompose = rms_norm_grad_decompose,
     .flop = backward_flop},
    {.id = TN_OP_GROUP_NORM,
     .name = "group_norm",
     .vjp = group_norm_vjp,
     .decompose = group_norm_decompose,
     .flop = forward_flop},
    {.id = TN_OP_GROUP_NORM_GRAD,
     .name = "group_norm_grad",
     .decompose = group_norm_grad_decompose,
     .flop = backward_flop},
};
const int tn_norm_op_count = sizeof tn_norm_ops / sizeof *tn_norm_ops;
