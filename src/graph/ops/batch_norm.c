/* Batch norm: training with the batch's own statistics, evaluation with given ones, and the node
 * that takes in what follows it.
 *
 * x [B, C, S...]; mean and biased variance per channel over B and S. y = (x - mean) rstd scale +
 * shift. Source: Ioffe and Szegedy 2015, algorithm 1; the gradient is their section 3,
 * rearranged:
 *     d_x = scale rstd (d_y - mean(d_y) - xhat mean(d_y xhat)) */
#include <math.h>
#include <string.h>

#include "graph/norm.h"

/* ---- building -------------------------------------------------------------------------------- */

static const tn_batch_norm_attribute *attribute_of(tn_node node)
{
    return tn_value_of(node)->attribute;
}

/* False after an error. `parameter` [C] of any floating-point type is cast to the statistics'
 * type; an empty one becomes `absent`. */
static bool per_channel(tn_node x, const char *what, tn_node *parameter, double absent)
{
    tn_dtype wide = tn_statistics_dtype(tn_dtype_of(x));
    tn_shape shape = TN_SHAPE(tn_dim(x, 1));
    if (tn_is_none(*parameter)) {
        *parameter = tn_fill(x.graph, wide, shape, absent);
    } else if (!tn_shape_equal(tn_shape_of(*parameter), shape) ||
               !tn_dtype_is_float(tn_dtype_of(*parameter))) {
        tn_graph_fail(
            x.graph, "batch_norm: %s is %s %s, but x %s wants floating-point %s, one a channel",
            what, tn_dtype_name(tn_dtype_of(*parameter)), tn_shape_text(tn_shape_of(*parameter)),
            tn_shape_text(tn_shape_of(x)), tn_shape_text(shape));
        return false;
    } else if (tn_dtype_of(*parameter) != wide) {
        *parameter = tn_cast(*parameter, wide);
    }
    return !tn_is_none(*parameter);
}

static bool sane(tn_node x, double epsilon)
{
    if (tn_rank(x) < 2 || !tn_dtype_is_float(tn_dtype_of(x)))
        tn_graph_fail(x.graph, "batch_norm of %s %s; x must be floating-point [B, C, ...]",
                      tn_dtype_name(tn_dtype_of(x)), tn_shape_text(tn_shape_of(x)));
    else if (!(epsilon >= 0) || isinf(epsilon))
        tn_graph_fail(x.graph, "batch_norm: epsilon is %g; it must be a small number >= 0",
                      epsilon);
    return tn_graph_status(x.graph) == TN_OK;
}

static tn_node build(tn_node x, tn_node scale, tn_node shift, tn_node residual, double epsilon,
                     int32_t activation)
{
    tn_batch_norm_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.epsilon = epsilon;
    attribute.activation = activation;
    attribute.has_residual = !tn_is_none(residual);
    tn_dtype wide = tn_statistics_dtype(tn_dtype_of(x));
    tn_shape channels = TN_SHAPE(tn_dim(x, 1));
    return tn_node_new(NULL, &(tn_new_node){.id = TN_OP_BATCH_NORM,
                                            .dtype = tn_dtype_of(x),
                                            .shape = tn_shape_of(x),
                                            .in = (tn_node[]){x, scale, shift, residual},
                                            .in_count = 3 + attribute.has_residual,
                                            .attribute = &attribute,
                                            .attribute_size = sizeof attribute,
                                            .more = 2,
                                            .more_dtype = (tn_dtype[]){wide, wide},
                                            .more_shape = (tn_shape[]){channels, channels}});
}

tn_batch_norm_result tn_batch_norm_train(tn_node x, tn_node scale, tn_node shift, double epsilon)
{
    tn_batch_norm_result result = {TN_NONE, TN_NONE, TN_NONE};
    if (tn_is_none(x) || !sane(x, epsilon) || !per_channel(x, "scale", &scale, 1) ||
        !per_channel(x, "shift", &shift, 0))
        return result;
    result.y = build(x, scale, shift, TN_NONE, epsilon, 0);
    result.mean = tn_result(result.y, 1);
    result.variance = tn_result(result.y, 2);
    return result;
}

tn_node tn_batch_norm_fused(tn_node y, tn_node residual, int32_t activation)
{
    return build(tn_input_of(y, 0), tn_input_of(y, 1), tn_input_of(y, 2), residual,
                 attribute_of(y)->epsilon, activation);
}

/* [C] to [C, 1, ...], which broadcasts against x. */
static tn_node beside(tn_node parameter, tn_node x)
{
    tn_shape shape = {.rank = tn_rank(x) - 1};
    shape.dim[0] = tn_dim(parameter, 0);
    for (int i = 1; i < shape.rank; i++) shape.dim[i] = 1;
    return tn_reshape(parameter, shape);
}

tn_node tn_batch_norm_apply(tn_node x, tn_node mean, tn_node variance, tn_node scale, tn_node shift,
                            double epsilon)
{
    if (tn_is_none(x) || tn_is_none(mean) || tn_is_none(variance) || !sane(x, epsilon) ||
        !per_channel(x, "mean", &mean, 0) || !per_channel(x, "variance", &variance, 1) ||
        !per_channel(x, "scale", &scale, 1) || !per_channel(x, "shift", &shift, 0))
        return TN_NONE;
    /* Two vectors of C, so that one multiplication and one addition an element are left. */
    tn_node factor = tn_multiply(scale, tn_rsqrt(tn_affine(variance, 1, epsilon)));
    tn_node offset = tn_subtract(shift, tn_multiply(mean, factor));
    tn_node wide = tn_widen(x);
    return tn_narrow(tn_add(tn_multiply(wide, beside(factor, x)), beside(offset, x)), x);
}

/* ---- gradient -------------------------------------------------------------------------------- */

static void batch_norm_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                           tn_node *d_in)
{
    const tn_batch_norm_attribute *a = attribute_of(out[0]);
    if (!tn_is_none(d_out[1]) || !tn_is_none(d_out[2]) ||
        a->has_residual) { /* the statistics' own gradients; fused nodes are rare here */
        tn_vjp_decomposed(out[0], in, d_out, d_in);
        return;
    }
    tn_batch_norm_attribute attribute;
    memcpy(&attribute, a, sizeof attribute);
    tn_dtype wide = tn_statistics_dtype(tn_dtype_of(in[0]));
    tn_shape channels = tn_shape_of(in[1]);
    tn_node operand[6] = {in[0], d_out[0], in[1], in[2], out[1], out[2]};
    tn_node grad = tn_node_new(NULL,
                               &(tn_new_node){.id = TN_OP_BATCH_NORM_GRAD,
                                              .dtype = tn_dtype_of(in[0]),
                                              .shape = tn_shape_of(in[0]),
                                              .in = operand,
                                              .in_count = 6,
                                              .attribute = &attribute,
                                              .attribute_size = sizeof attribute,
                                              .more = 2,
                                              .more_dtype = (tn_dtype[]){wide, wide},
                                              .more_shape = (tn_shape[]){channels, channels}});
    for (int i = 0; i < 3; i++) d_in[i] = tn_result(grad, i);
}

/* ---- in simpler operations ------------------------------------------------------------------- */

typedef struct normalised {
    tn_node xhat, mean, variance, rstd; /* all but xhat with dimensions of size 1 kept */
    tn_axes axes;                       /* all but the channels' */
} normalised;

static normalised normalise(tn_node x, double epsilon)
{
    normalised n = {.axes = {.count = tn_rank(x) - 1, .keep = true}};
    for (int i = 1; i < n.axes.count; i++) n.axes.axis[i] = i + 1;
    n.mean = tn_mean(x, n.axes);
    tn_node centred = tn_subtract(x, n.mean);
    n.variance = tn_mean(tn_square(centred), n.axes);
    n.rstd = tn_rsqrt(tn_affine(n.variance, 1, epsilon));
    n.xhat = tn_multiply(centred, n.rstd);
    return n;
}

static void batch_norm_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    const tn_batch_norm_attribute *a = attribute_of(self);
    normalised n = normalise(tn_widen(in[0]), a->epsilon);
    tn_node y = tn_add(tn_multiply(n.xhat, beside(in[1], in[0])), beside(in[2], in[0]));
    if (a->has_residual) y = tn_add(y, tn_widen(in[3]));
    if (a->activation == TN_OP_RELU) y = tn_relu(y);
    out[0] = tn_narrow(y, in[0]);
    out[1] = tn_reshape(n.mean, tn_shape_of(in[1]));
    out[2] = tn_reshape(n.variance, tn_shape_of(in[1]));
}

static void batch_norm_grad_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    const tn_batch_norm_attribute *a = attribute_of(self);
    normalised n = normalise(tn_widen(in[0]), a->epsilon);
    tn_node d = tn_widen(in[1]), scale = beside(in[2], in[0]);
    if (a->activation == TN_OP_RELU) {
        tn_node z = tn_add(tn_multiply(n.xhat, scale), beside(in[3], in[0]));
        d = tn_where(tn_greater(z, tn_like(z, 0)), d, tn_like(d, 0));
    }
    tn_node product = tn_multiply(d, n.xhat);
    tn_node d_xhat = tn_subtract(tn_subtract(d, tn_mean(d, n.axes)),
                                 tn_multiply(n.xhat, tn_mean(product, n.axes)));
    out[0] = tn_narrow(tn_multiply(tn_multiply(scale, n.rstd), d_xhat), in[0]);
    out[1] = tn_reshape(tn_sum(product, n.axes), tn_shape_of(in[2]));
    out[2] = tn_reshape(tn_sum(d, n.axes), tn_shape_of(in[2]));
}

/* ---- FLOP and rows --------------------------------------------------------------------------- */

static double forward_flop(const tn_value *self, const tn_value *const *in)
{
    (void)in;
    return 7 * (double)tn_shape_size(self->shape);
}

static double backward_flop(const tn_value *self, const tn_value *const *in)
{
    (void)in;
    return 10 * (double)tn_shape_size(self->shape);
}

const tn_op tn_batch_norm_ops[] = {
    {.id = TN_OP_BATCH_NORM,
     .name = "batch_norm",
     .vjp = batch_norm_vjp,
     .decompose = batch_norm_decompose,
     .flop = forward_flop},
    {.id = TN_OP_BATCH_NORM_GRAD,
     .name = "batch_norm_grad",
     .decompose = batch_norm_grad_decompose,
     .flop = backward_flop},
};
const int tn_batch_norm_op_count = sizeof tn_batch_norm_ops / sizeof *tn_batch_norm_ops;
