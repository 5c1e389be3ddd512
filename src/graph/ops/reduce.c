/* Reductions over axes, and scans along one. */
#include <math.h>
#include <string.h>

#include "graph/op.h"

/* ---- reductions -------------------------------------------------------------------------- */

/* The reduced axes as bits; false (and a graph error) if one is out of range or listed twice. */
static bool axes_of(tn_op_id id, tn_node x, tn_axes axes, uint32_t *bits)
{
    int rank = tn_rank(x);
    *bits = axes.count == 0 ? (1u << rank) - 1 : 0;
    if (axes.count < 0 || axes.count > TN_MAX_RANK) {
        tn_graph_fail(x.graph, "%s: a list of %d axes", tn_op_find(id)->name, axes.count);
        return false;
    }
    for (int i = 0; i < axes.count; i++) {
        int axis = tn_axis(x, axes.axis[i]);
        if (axis < 0) return false;
        if (*bits >> axis & 1u) {
            tn_graph_fail(x.graph, "%s of %s: axis %d is listed twice", tn_op_find(id)->name,
                          tn_shape_text(tn_shape_of(x)), axes.axis[i]);
            return false;
        }
        *bits |= 1u << axis;
    }
    return true;
}

static tn_shape reduced_shape(tn_shape from, uint32_t bits, bool keep)
{
    tn_shape to = {0};
    for (int i = 0; i < from.rank; i++) {
        bool gone = bits >> i & 1u;
        if (!gone) to.dim[to.rank++] = from.dim[i];
        else if (keep) to.dim[to.rank++] = 1;
    }
    return to;
}

static int64_t reduced_count(tn_node x, uint32_t bits)
{
    int64_t count = 1;
    for (int i = 0; i < tn_rank(x); i++)
        if (bits >> i & 1u) count *= tn_dim(x, i);
    return count;
}

static tn_node reduce(tn_op_id id, tn_node x, uint32_t bits, bool keep, tn_dtype dtype)
{
    tn_reduce_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.axes = bits;
    attribute.keep = keep;
    return tn_node_new(NULL, &(tn_new_node){.id = id,
                                            .dtype = dtype,
                                            .shape = reduced_shape(tn_shape_of(x), bits, keep),
                                            .in = &x,
                                            .in_count = 1,
                                            .attribute = &attribute,
                                            .attribute_size = sizeof attribute});
}

tn_node tn_sum(tn_node x, tn_axes axes)
{
    uint32_t bits;
    if (tn_is_none(x) || !axes_of(TN_OP_SUM, x, axes, &bits)) return TN_NONE;
    return reduce(TN_OP_SUM, x, bits, axes.keep,
                  tn_dtype_is_float(tn_dtype_of(x)) ? tn_dtype_of(x) : TN_I64);
}

tn_node tn_mean(tn_node x, tn_axes axes)
{
    uint32_t bits;
    if (tn_is_none(x) || !axes_of(TN_OP_MEAN, x, axes, &bits)) return TN_NONE;
    if (!tn_dtype_is_float(tn_dtype_of(x)))
        return tn_graph_fail(x.graph,
                             "mean of %s %s: it takes floating-point operands; cast with tn_cast",
                             tn_dtype_name(tn_dtype_of(x)), tn_shape_text(tn_shape_of(x)));
    return reduce(TN_OP_MEAN, x, bits, axes.keep, tn_dtype_of(x));
}

static tn_node extreme(tn_op_id id, tn_node x, tn_axes axes)
{
    uint32_t bits;
    if (tn_is_none(x) || !axes_of(id, x, axes, &bits)) return TN_NONE;
    if (reduced_count(x, bits) == 0)
        return tn_graph_fail(x.graph, "%s over no elements of %s", tn_op_find(id)->name,
                             tn_shape_text(tn_shape_of(x)));
    return reduce(id, x, bits, axes.keep, tn_dtype_of(x));
}

tn_node tn_max(tn_node x, tn_axes axes) { return extreme(TN_OP_MAX, x, axes); }
tn_node tn_min(tn_node x, tn_axes axes) { return extreme(TN_OP_MIN, x, axes); }

static tn_node arg_extreme(tn_op_id id, tn_node x, int axis)
{
    axis = tn_axis(x, axis);
    if (axis < 0) return TN_NONE;
    if (tn_dim(x, axis) == 0)
        return tn_graph_fail(x.graph, "%s over no elements: axis %d of %s", tn_op_find(id)->name,
                             axis, tn_shape_text(tn_shape_of(x)));
    tn_axis_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.axis = axis;
    return tn_node_new(NULL,
                       &(tn_new_node){.id = id,
                                      .dtype = TN_I64,
                                      .shape = reduced_shape(tn_shape_of(x), 1u << axis, false),
                                      .in = &x,
                                      .in_count = 1,
                                      .attribute = &attribute,
                                      .attribute_size = sizeof attribute});
}

tn_node tn_argmax(tn_node x, int axis) { return arg_extreme(TN_OP_ARGMAX, x, axis); }
tn_node tn_argmin(tn_node x, int axis) { return arg_extreme(TN_OP_ARGMIN, x, axis); }

/* With the maximum taken out, so that exp does not overflow; a row of nothing but -inf gives
 * -inf, and gradient 0. 16-bit floats are summed in f32. */
tn_node tn_logsumexp(tn_node x, tn_axes axes)
{
    if (tn_is_none(x)) return x;
    tn_dtype dtype = tn_dtype_of(x);
    if (!tn_dtype_is_float(dtype))
        return tn_graph_fail(
            x.graph, "logsumexp of %s %s: it takes floating-point operands; cast with tn_cast",
            tn_dtype_name(dtype), tn_shape_text(tn_shape_of(x)));
    if (dtype == TN_BF16 || dtype == TN_F16)
        return tn_cast(tn_logsumexp(tn_cast(x, TN_F32), axes), dtype);
    bool keep = axes.keep;
    axes.keep = true;
    tn_node largest = tn_stop_gradient(tn_max(x, axes));
    if (tn_is_none(largest)) return TN_NONE;
    largest = tn_where(tn_is_finite(largest), largest, tn_like(largest, 0));
    tn_node sum = tn_sum(tn_exp(tn_subtract(x, largest)), axes),
            empty = tn_equal(sum, tn_like(sum, 0));
    tn_node logarithm = tn_log(tn_where(empty, tn_like(sum, 1), sum));
    tn_node result = tn_add(tn_where(empty, tn_like(sum, -INFINITY), logarithm), largest);
    if (keep) return result;
    uint32_t bits;
    axes_of(TN_OP_SUM, x, axes, &bits);
    return tn_reshape(result, reduced_shape(tn_shape_of(x), bits, false));
}

tn_node tn_sum_to(tn_node x, tn_node like)
{
    if (tn_is_none(x) || tn_is_none(like)) return TN_NONE;
    tn_shape from = tn_shape_of(x), to = tn_shape_of(like), both;
    if (tn_shape_equal(from, to)) return x;
    if (!tn_shape_broadcast(to, from, &both) || !tn_shape_equal(both, from))
        return tn_graph_fail(x.graph, "sum_to: %s is not a broadcast of %s", tn_shape_text(from),
                             tn_shape_text(to));
    uint32_t bits = 0;
    int extra = from.rank - to.rank;
    for (int i = 0; i < from.rank; i++)
        if (i < extra || (to.dim[i - extra] == 1 && from.dim[i] != 1)) bits |= 1u << i;
    return tn_reshape(reduce(TN_OP_SUM, x, bits, false, tn_dtype_of(x)), to);
}

/* A reduction's result or cotangent `d`, stretched again over the axes that were reduced. */
static tn_node stretched(tn_node d, tn_node x, uint32_t bits)
{
    return tn_broadcast(tn_reshape(d, reduced_shape(tn_shape_of(x), bits, true)), tn_shape_of(x));
}

static uint32_t bits_of(tn_node node)
{
    return ((const tn_reduce_attribute *)tn_value_of(node)->attribute)->axes;
}

static void sum_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    if (tn_dtype_of(in[0]) == tn_dtype_of(out[0]))
        d_in[0] = stretched(d_out[0], in[0], bits_of(out[0]));
}

static void mean_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    uint32_t bits = bits_of(out[0]);
    d_in[0] = stretched(tn_affine(d_out[0], 1 / (double)reduced_count(in[0], bits), 0), in[0],
                        bits);
}

/* Elements equal to the extreme share its cotangent. */
static void extreme_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    uint32_t bits = bits_of(out[0]);
    tn_node x = in[0], d = d_out[0];
    tn_node hit = tn_cast(tn_equal(x, stretched(out[0], x, bits)), tn_dtype_of(x));
    tn_node count = tn_reshape(reduce(TN_OP_SUM, hit, bits, false, tn_dtype_of(x)), tn_shape_of(d));
    tn_node share = tn_divide(d, tn_maximum(count, tn_like(count, 1))); /* none is equal to NaN */
    d_in[0] = tn_multiply(hit, stretched(share, x, bits));
}

/* ---- scans ------------------------------------------------------------------------------- */

static tn_node scan(tn_op_id id, const tn_node *in, int count, int axis, bool exclusive,
                    bool reverse)
{
    tn_axis_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.axis = axis;
    attribute.exclusive = exclusive;
    attribute.reverse = reverse;
    return tn_node_new(NULL, &(tn_new_node){.id = id,
                                            .dtype = tn_dtype_of(in[0]),
                                            .shape = tn_shape_of(in[0]),
                                            .in = in,
                                            .in_count = count,
                                            .attribute = &attribute,
                                            .attribute_size = sizeof attribute});
}

static tn_node checked_scan(tn_op_id id, tn_node x, int axis, bool exclusive, bool reverse)
{
    axis = tn_axis(x, axis);
    if (axis < 0) return TN_NONE;
    if (tn_dtype_of(x) == TN_BOOL)
        return tn_graph_fail(x.graph, "%s of bool %s: cast with tn_cast", tn_op_find(id)->name,
                             tn_shape_text(tn_shape_of(x)));
    return scan(id, &x, 1, axis, exclusive, reverse);
}

tn_node tn_cumsum(tn_node x, int axis, bool exclusive, bool reverse)
{
    return checked_scan(TN_OP_CUMSUM, x, axis, exclusive, reverse);
}

tn_node tn_cumprod(tn_node x, int axis, bool exclusive)
{
    return checked_scan(TN_OP_CUMPROD, x, axis, exclusive, false);
}

tn_node tn_linear_scan(tn_node a, tn_node b, int axis, bool reverse)
{
    axis = tn_axis(a, axis);
    if (axis < 0 || tn_is_none(b)) return TN_NONE;
    if (tn_dtype_of(a) != tn_dtype_of(b) || !tn_shape_equal(tn_shape_of(a), tn_shape_of(b)) ||
        !tn_dtype_is_float(tn_dtype_of(a)))
        return tn_graph_fail(a.graph,
                             "linear_scan: %s %s and %s %s; both operands must have the same shape "
                             "and floating-point dtype",
                             tn_dtype_name(tn_dtype_of(a)), tn_shape_text(tn_shape_of(a)),
                             tn_dtype_name(tn_dtype_of(b)), tn_shape_text(tn_shape_of(b)));
    return scan(TN_OP_LINEAR_SCAN, (tn_node[]){a, b}, 2, axis, false, reverse);
}

/* x moved by one along axis: result[i] = x[i + 1] (forward) or x[i - 1], and 0 where that does
 * not exist. */
static tn_node moved(tn_node x, int axis, bool forward)
{
    int64_t n = tn_dim(x, axis), before[TN_MAX_RANK] = {0}, after[TN_MAX_RANK] = {0};
    if (n == 0) return x;
    *(forward ? &after[axis] : &before[axis]) = 1;
    return tn_pad(tn_slice(x, axis, forward ? 1 : 0, forward ? n : n - 1, 1), before, after,
                  TN_PAD_CONSTANT, 0);
}

static const tn_axis_attribute *along(tn_node node) { return tn_value_of(node)->attribute; }

static void cumsum_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    (void)in;
    d_in[0] = scan(TN_OP_CUMSUM, d_out, 1, along(out[0])->axis, along(out[0])->exclusive,
                   !along(out[0])->reverse);
}

/* y[i] = prod_{k <= i} x[k], so dL/dx[j] = P[j] S[j] with the product P[j] before j and S[j] =
 * sum_{i >= j} d[i] prod_{j < k <= i} x[k], which is S[j] = d[j] + x[j+1] S[j+1]: no division,
 * so zeros do no harm. Exclusive: the same with d[j+1] for d[j]. */
static void cumprod_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    int axis = along(out[0])->axis;
    bool exclusive = along(out[0])->exclusive;
    tn_node before = exclusive ? out[0] : tn_cumprod(in[0], axis, true);
    tn_node d = exclusive ? moved(d_out[0], axis, true) : d_out[0];
    d_in[0] = tn_multiply(before, tn_linear_scan(d, moved(in[0], axis, true), axis, true));
}

/* s[i] = a[i] + b[i] s[i-1]: cotangents t[i] = d[i] + b[i+1] t[i+1]; da = t, db[i] = t[i]
 * s[i-1]. In reverse all turns round. */
static void linear_scan_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                            tn_node *d_in)
{
    int axis = along(out[0])->axis;
    bool reverse = along(out[0])->reverse;
    d_in[0] = tn_linear_scan(d_out[0], moved(in[1], axis, !reverse), axis, !reverse);
    d_in[1] = tn_multiply(d_in[0], moved(out[0], axis, reverse));
}

/* ---- rows -------------------------------------------------------------------------------- */

static double flop_per_operand_element(const tn_value *self, const tn_value *const *in)
{
    (void)self;
    return (double)tn_shape_size(in[0]->shape);
}

static double linear_scan_flop(const tn_value *self, const tn_value *const *in)
{
    (void)in;
    return 2 * (double)tn_shape_size(self->shape);
}

const tn_op tn_reduce_ops[] = {
    {.id = TN_OP_SUM,
     .name = "sum",
     .flags = TN_LINEAR,
     .vjp = sum_vjp,
     .flop = flop_per_operand_element},
    {.id = TN_OP_MEAN,
     .name = "mean",
     .flags = TN_LINEAR,
     .vjp = mean_vjp,
     .flop = flop_per_operand_element},
    {.id = TN_OP_MAX, .name = "max", .vjp = extreme_vjp, .flop = flop_per_operand_element},
    {.id = TN_OP_MIN, .name = "min", .vjp = extreme_vjp, .flop = flop_per_operand_element},
    {.id = TN_OP_ARGMAX,
     .name = "argmax",
     .flags = TN_NO_GRADIENT,
     .flop = flop_per_operand_element},
    {.id = TN_OP_ARGMIN,
     .name = "argmin",
     .flags = TN_NO_GRADIENT,
     .flop = flop_per_operand_element},
    {.id = TN_OP_CUMSUM, .name = "cumsum", .flags = TN_LINEAR, .vjp = cumsum_vjp},
    {.id = TN_OP_CUMPROD, .name = "cumprod", .vjp = cumprod_vjp},
    {.id = TN_OP_LINEAR_SCAN,
     .name = "linear_scan",
     .vjp = linear_scan_vjp,
     .flop = linear_scan_flop},
};
const int tn_reduce_op_count = sizeof tn_reduce_ops / sizeof *tn_reduce_ops;
