/* Softmax and its logarithm along one axis.
 *
 * A slice of all -inf (everything masked) has softmax 0 and log-softmax -inf, and passes no
 * gradient but finite ones. Both gradients are written in y, so that only y is kept for the
 * backward pass. */
#include <math.h>
#include <string.h>

#include "graph/norm.h"

static tn_node build(tn_op_id id, const tn_node *in, int count, int axis)
{
    tn_axis_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.axis = axis;
    return tn_node_new(NULL, &(tn_new_node){.id = id,
                                            .dtype = tn_dtype_of(in[0]),
                                            .shape = tn_shape_of(in[0]),
                                            .in = in,
                                            .in_count = count,
                                            .attribute = &attribute,
                                            .attribute_size = sizeof attribute});
}

static tn_node along(tn_op_id id, const char *name, tn_node x, int axis)
{
    if (tn_is_none(x)) return x;
    if (!tn_dtype_is_float(tn_dtype_of(x)))
        return tn_graph_fail(x.graph, "%s of %s %s; cast it to a floating-point type first", name,
                             tn_dtype_name(tn_dtype_of(x)), tn_shape_text(tn_shape_of(x)));
    axis = tn_axis(x, axis);
    return axis < 0 ? TN_NONE : build(id, &x, 1, axis);
}

tn_node tn_softmax(tn_node x, int axis) { return along(TN_OP_SOFTMAX, "softmax", x, axis); }

tn_node tn_log_softmax(tn_node x, int axis)
{
    return along(TN_OP_LOG_SOFTMAX, "log_softmax", x, axis);
}

static int axis_of(tn_node node)
{
    return ((const tn_axis_attribute *)tn_value_of(node)->attribute)->axis;
}

static void softmax_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    (void)in;
    d_in[0] = build(TN_OP_SOFTMAX_GRAD, (tn_node[]){out[0], d_out[0]}, 2, axis_of(out[0]));
}

static void log_softmax_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                            tn_node *d_in)
{
    (void)in;
    d_in[0] = build(TN_OP_LOG_SOFTMAX_GRAD, (tn_node[]){out[0], d_out[0]}, 2, axis_of(out[0]));
}

/* x - max, with the maximum of a slice of all -inf taken as 0, and the sum of its exponentials,
 * at least 1 elsewhere. */
static tn_node shifted_exp(tn_node x, int axis, tn_node *shifted, tn_node *sum)
{
    tn_node highest = tn_stop_gradient(tn_max(x, TN_AXES_KEEP(axis)));
    tn_node empty = tn_equal(highest, tn_like(highest, -INFINITY));
    *shifted = tn_subtract(x, tn_where(empty, tn_like(highest, 0), highest));
    tn_node e = tn_exp(*shifted);
    *sum = tn_sum(e, TN_AXES_KEEP(axis));
    return e;
}

static void softmax_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    tn_node shifted, sum, e = shifted_exp(tn_widen(in[0]), axis_of(self), &shifted, &sum);
    tn_node divisor = tn_where(tn_equal(sum, tn_like(sum, 0)), tn_like(sum, 1), sum);
    out[0] = tn_narrow(tn_divide(e, divisor), in[0]);
}

static void log_softmax_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    tn_node shifted, sum;
    shifted_exp(tn_widen(in[0]), axis_of(self), &shifted, &sum);
    tn_node divisor = tn_where(tn_equal(sum, tn_like(sum, 0)), tn_like(sum, 1), sum);
    out[0] = tn_narrow(tn_subtract(shifted, tn_log(divisor)), in[0]);
}

/* d_x = y (d - sum(y d)) */
static void softmax_grad_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    tn_node y = tn_widen(in[0]), d = tn_widen(in[1]);
    tn_node inner = tn_sum(tn_multiply(y, d), TN_AXES_KEEP(axis_of(self)));
    out[0] = tn_narrow(tn_multiply(y, tn_subtract(d, inner)), in[0]);
}

/* d_x = d - exp(y) sum(d) */
static void log_softmax_grad_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    tn_node y = tn_widen(in[0]), d = tn_widen(in[1]);
    tn_node sum = tn_sum(d, TN_AXES_KEEP(axis_of(self)));
    out[0] = tn_narrow(tn_subtract(d, tn_multiply(tn_exp(y), sum)), in[0]);
}

/* The usual count: maximum, subtraction, exponential, sum, division. */
static double five_per_element(const tn_value *self, const tn_value *const *in)
{
    (void)in;
    return 5 * (double)tn_shape_size(self->shape);
}

static double four_per_element(const tn_value *self, const tn_value *const *in)
{
    (void)in;
    return 4 * (double)tn_shape_size(self->shape);
}

const tn_op tn_softmax_ops[] = {
    {.id = TN_OP_SOFTMAX,
     .name = "softmax",
     .vjp = softmax_vjp,
     .decompose = softmax_decompose,
     .flop = five_per_element},
    {.id = TN_OP_SOFTMAX_GRAD,
     .name = "softmax_grad",
     .decompose = softmax_grad_decompose,
     .flop = four_per_element},
    {.id = TN_OP_LOG_SOFTMAX,
     .name = "log_softmax",
     .vjp = log_softmax_vjp,
     .decompose = log_softmax_decompose,
     .flop = five_per_element},
    {.id = TN_OP_LOG_SOFTMAX_GRAD,
     .name = "log_softmax_grad",
     .decompose = log_softmax_grad_decompose,
     .flop = four_per_element},
};
const int tn_softmax_op_count = sizeof tn_softmax_ops / sizeof *tn_softmax_ops;
