/* Products: matrix product and convolution with its two adjoints.
 *
 * Matrix product and convolution are bilinear, and each of the three convolution operations has
 * the other two as its derivatives; so the rules below are closed, and derivatives of any order
 * stay products. Source of the algebra: Dumoulin and Visin 2016, sections 2 and 4. */
#include <string.h>

#include "graph/graph.h"

/* ---- matrix product -------------------------------------------------------------------------- */

typedef struct matrix_shapes {
    int64_t M, K, K_of_b, N;
    tn_shape out;
} matrix_shapes;

static tn_shape leading(tn_shape shape)
{
    shape.rank -= 2;
    return shape;
}

/* Sizes of a product; false if the leading dimensions do not broadcast. */
static bool matrix_sizes(tn_shape a, tn_shape b, bool transpose_a, bool transpose_b,
                         matrix_shapes *s)
{
    s->M = a.dim[a.rank - (transpose_a ? 1 : 2)];
    s->K = a.dim[a.rank - (transpose_a ? 2 : 1)];
    s->K_of_b = b.dim[b.rank - (transpose_b ? 1 : 2)];
    s->N = b.dim[b.rank - (transpose_b ? 2 : 1)];
    if (!tn_shape_broadcast(leading(a), leading(b), &s->out)) return false;
    s->out.dim[s->out.rank++] = s->M;
    s->out.dim[s->out.rank++] = s->N;
    return true;
}

static tn_node activated(tn_node x, int32_t activation)
{
    switch (activation) {
    case TN_OP_RELU: return tn_relu(x);
    case TN_OP_GELU: return tn_gelu(x);
    case TN_OP_GELU_TANH: return tn_gelu_tanh(x);
    case TN_OP_SILU: return tn_silu(x);
    default: return x;
    }
}

tn_node tn_matmul_with(tn_node a, tn_node b, tn_matmul_options o)
{
    if (tn_is_none(a) || tn_is_none(b)) return TN_NONE;
    tn_shape as = tn_shape_of(a), bs = tn_shape_of(b);
    tn_dtype dtype = tn_dtype_of(a);
    if (as.rank < 2 || bs.rank < 2)
        return tn_graph_fail(
            a.graph,
            "matmul: operands are %s and %s, but each needs two dimensions or more; "
            "tn_expand_dims makes a vector a row or a column",
            tn_shape_text(as), tn_shape_text(bs));
    if (tn_dtype_of(b) != dtype || (!tn_dtype_is_float(dtype) && dtype != TN_I8))
        return tn_graph_fail(
            a.graph,
            "matmul: operands are %s and %s; they must be of one floating-point type, or both i8 "
            "(cast one of them)",
            tn_dtype_name(dtype), tn_dtype_name(tn_dtype_of(b)));
    matrix_shapes s;
    if (!matrix_sizes(as, bs, o.transpose_a, o.transpose_b, &s))
        return tn_graph_fail(a.graph,
                             "matmul: the leading dimensions of %s and %s do not broadcast",
                             tn_shape_text(as), tn_shape_text(bs));
    if (s.K != s.K_of_b)
        return tn_graph_fail(
            a.graph, "matmul: %s%s times %s%s: the inner dimensions are %lld and %lld",
            tn_shape_text(as), o.transpose_a ? " transposed" : "", tn_shape_text(bs),
            o.transpose_b ? " transposed" : "", (long long)s.K, (long long)s.K_of_b);
    tn_matmul_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.transpose_a = o.transpose_a;
    attribute.transpose_b = o.transpose_b;
    tn_dtype out = dtype == TN_I8 ? TN_I32 : o.out_f32 && dtype != TN_F64 ? TN_F32 : dtype;
    tn_node bias = o.bias;
    if (!tn_is_none(bias)) {
        tn_shape wide, row = tn_shape_of(bias);
        if (!tn_shape_broadcast(row, s.out, &wide) || !tn_shape_equal(wide, s.out) ||
            !tn_dtype_is_float(tn_dtype_of(bias)) || dtype == TN_I8)
            return tn_graph_fail(a.graph, "matmul: bias %s %s cannot be added to the result %s %s",
                                 tn_dtype_name(tn_dtype_of(bias)), tn_shape_text(row),
                                 tn_dtype_name(out), tn_shape_text(s.out));
        if (tn_dtype_of(bias) != TN_F32 || dtype == TN_F64) bias = tn_cast(bias, out);
        attribute.has_bias = row.rank >= 1 && row.dim[row.rank - 1] == s.N &&
                             tn_shape_size(row) == s.N;
        if (attribute.has_bias) bias = tn_reshape(bias, TN_SHAPE(s.N));
    }
    tn_node product = tn_node_new(NULL, &(tn_new_node){.id = TN_OP_MATMUL,
                                                       .dtype = out,
                                                       .shape = s.out,
                                                       .in = (tn_node[]){a, b, bias},
                                                       .in_count = attribute.has_bias ? 3 : 2,
                                                       .attribute = &attribute,
                                                       .attribute_size = sizeof attribute});
    return tn_is_none(bias) || attribute.has_bias ? product : tn_add(product, tn_cast(bias, out));
}

/* [..., R, C] -> [everything before C, C]. */
static tn_node as_one_matrix(tn_node x)
{
    int64_t columns = tn_dim(x, -1), rows = 1;
    for (int i = 0; i + 1 < tn_rank(x); i++) rows *= tn_dim(x, i);
    return tn_reshape(x, TN_SHAPE(rows, columns));
}

/* d_b where b is one matrix used by all of a's leading dimensions: they fold into the rows, and
 * what would be a batch of products with a sum behind is one long product. */
static tn_node folded_right_gradient(tn_node a, tn_node d, const tn_matmul_attribute *t)
{
    a = as_one_matrix(a), d = as_one_matrix(d);
    return t->transpose_b ? tn_matmul(d, a, .transpose_a = true)
                          : tn_matmul(a, d, .transpose_a = true);
}

static void matmul_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    const tn_matmul_attribute *t = tn_value_of(out[0])->attribute;
    if (t->activation) {
        tn_vjp_decomposed(out[0], in, d_out, d_in);
        return;
    }
    if (t->has_bias) {
        tn_axes all_but_last = {.count = tn_rank(out[0]) - 1};
        for (int i = 0; i < all_but_last.count; i++) all_but_last.axis[i] = i;
        d_in[2] = tn_sum(tn_cast(d_out[0], tn_dtype_of(in[2])), all_but_last);
    }
    tn_node a = in[0], b = in[1], d = tn_cast(d_out[0], tn_dtype_of(a));
    /* d_a = d b^T, transposed as a is; b^T is b with its flag turned */
    tn_node d_a = t->transpose_a
                      ? tn_matmul(b, d, .transpose_a = t->transpose_b, .transpose_b = true)
                      : tn_matmul(d, b, .transpose_b = !t->transpose_b);
    d_in[0] = tn_sum_to(d_a, a);
    if (tn_rank(b) == 2 && tn_rank(a) > 2 && !t->transpose_a) {
        d_in[1] = folded_right_gradient(a, d, t);
        return;
    }
    tn_node d_b = t->transpose_b
                      ? tn_matmul(d, a, .transpose_a = true, .transpose_b = t->transpose_a)
                      : tn_matmul(a, d, .transpose_a = !t->transpose_a);
    d_in[1] = tn_sum_to(d_b, b);
}

/* Without epilogue: the product, then bias, then activation. */
static void matmul_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    const tn_value *value = tn_value_of(self);
    const tn_matmul_attribute *t = value->attribute;
    tn_node y = tn_matmul(in[0], in[1], .transpose_a = t->transpose_a,
                          .transpose_b = t->transpose_b, .out_f32 = value->dtype == TN_F32);
    if (t->has_bias) y = tn_add(y, tn_cast(in[2], value->dtype));
    out[0] = activated(y, t->activation);
}

static double matmul_flop(const tn_value *self, const tn_value *const *in)
{
    const tn_matmul_attribute *t = self->attribute;
    tn_shape a = in[0]->shape;
    return 2 * (double)tn_shape_size(self->shape) *
           (double)a.dim[a.rank - (t->transpose_a ? 2 : 1)];
}

/* ---- convolution ----------------------------------------------------------------------------- */

enum { X_RANK_LOW = 3, X_RANK_HIGH = 2 + TN_MAX_SPACE };

/* Zeros that stand for ones are filled in, and what lies behind the last spatial dimension is
 * made regular. */
static bool resolve_geometry(tn_graph *graph, const char *what, tn_conv_geometry *g, int space)
{
    if (g->groups == 0) g->groups = 1;
    bool good = g->groups >= 1;
    for (int i = 0; i < TN_MAX_SPACE; i++) {
        if (i >= space) g->stride[i] = g->dilation[i] = g->pad_before[i] = g->pad_after[i] = 0;
        if (g->stride[i] == 0) g->stride[i] = 1;
        if (g->dilation[i] == 0) g->dilation[i] = 1;
        good = good && g->stride[i] >= 1 && g->dilation[i] >= 1 && g->pad_before[i] >= 0 &&
               g->pad_after[i] >= 0 && g->stride[i] < INT32_MAX && g->dilation[i] < INT32_MAX &&
               g->pad_before[i] < INT32_MAX && g->pad_after[i] < INT32_MAX;
        if (!good) {
            tn_graph_fail(graph,
                          "%s: groups %lld, and along spatial dimension %d stride %lld, dilation "
                          "%lld, padding %lld and %lld; "
                          "none may be negative",
                          what, (long long)g->groups, i, (long long)g->stride[i],
                          (long long)g->dilation[i], (long long)g->pad_before[i],
                          (long long)g->pad_after[i]);
            return false;
        }
    }
    return true;
}

/* Positions of a window of `kernel` over `size` elements; -1 when it does not fit once. */
static int64_t positions(const tn_conv_geometry *g, int i, int64_t size, int64_t kernel)
{
    if (kernel < 1 || kernel > INT32_MAX) return -1;
    int64_t reach = g->dilation[i] * (kernel - 1) + 1,
            padded = size + g->pad_before[i] + g->pad_after[i];
    return padded < reach ? -1 : (padded - reach) / g->stride[i] + 1;
}

/* The three shapes belong together: x [B, C, S...], weight [F, C/groups, k...], y [B, F, S'...]. */
static bool shapes_agree(tn_graph *graph, const char *what, tn_shape x, tn_shape weight, tn_shape y,
                         const tn_conv_geometry *g)
{
    if (x.dim[1] % g->groups || weight.dim[0] % g->groups ||
        weight.dim[1] != x.dim[1] / g->groups) {
        tn_graph_fail(graph,
                      "%s: %lld channels in %lld groups do not fit weight %s; it must be [F, %lld, "
                      "...] with F a multiple of %lld",
                      what, (long long)x.dim[1], (long long)g->groups, tn_shape_text(weight),
                      (long long)(x.dim[1] / g->groups), (long long)g->groups);
        return false;
    }
    for (int i = 0; i < x.rank - 2; i++) {
        int64_t size = positions(g, i, x.dim[2 + i], weight.dim[2 + i]);
        if (size == y.dim[2 + i] && size >= 0) continue;
        if (size < 0)
            tn_graph_fail(graph,
                          "%s: spatial dimension %d is %lld with padding %lld and %lld, too small "
                          "for a kernel of %lld with dilation %lld",
                          what, i, (long long)x.dim[2 + i], (long long)g->pad_before[i],
                          (long long)g->pad_after[i], (long long)weight.dim[2 + i],
                          (long long)g->dilation[i]);
        else
            tn_graph_fail(
                graph, "%s: spatial dimension %d of size %lld gives %lld positions, not %lld", what,
                i, (long long)x.dim[2 + i], (long long)size, (long long)y.dim[2 + i]);
        return false;
    }
    return true;
}

/* Two floating-point operands of one dtype and rank 3..5. */
static bool operands_agree(const char *what, tn_node a, const char *a_name, tn_node b,
                           const char *b_name)
{
    int rank = tn_rank(a);
    tn_dtype dtype = tn_dtype_of(a);
    if (rank >= X_RANK_LOW && rank <= X_RANK_HIGH && rank == tn_rank(b) &&
        dtype == tn_dtype_of(b) && tn_dtype_is_float(dtype))
        return true;
    tn_graph_fail(a.graph,
                  "%s: %s is %s %s and %s is %s %s; both need 3 to 5 dimensions (1 to 3 of them "
                  "spatial) and one floating-point type",
                  what, a_name, tn_dtype_name(dtype), tn_shape_text(tn_shape_of(a)), b_name,
                  tn_dtype_name(tn_dtype_of(b)), tn_shape_text(tn_shape_of(b)));
    return false;
}

static tn_node convolve(tn_op_id id, const tn_node *in, int in_count, tn_shape shape,
                        const tn_conv_geometry *g)
{
    tn_conv_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    memcpy(&attribute.geometry, g, sizeof *g);
    attribute.has_bias = in_count == 3;
    return tn_node_new(NULL, &(tn_new_node){.id = id,
                                            .dtype = tn_dtype_of(in[0]),
                                            .shape = shape,
                                            .in = in,
                                            .in_count = in_count,
                                            .attribute = &attribute,
                                            .attribute_size = sizeof attribute});
}

tn_node tn_convolution(tn_node x, tn_node weight, tn_node bias, tn_conv_geometry g)
{
    if (tn_is_none(x) || tn_is_none(weight)) return TN_NONE;
    if (!operands_agree("convolution", x, "x", weight, "weight") ||
        !resolve_geometry(x.graph, "convolution", &g, tn_rank(x) - 2))
        return TN_NONE;
    tn_shape xs = tn_shape_of(x), ws = tn_shape_of(weight), ys = xs;
    ys.dim[1] = ws.dim[0];
    for (int i = 0; i < xs.rank - 2; i++)
        ys.dim[2 + i] = positions(&g, i, xs.dim[2 + i], ws.dim[2 + i]);
    if (!shapes_agree(x.graph, "convolution", xs, ws, ys, &g)) return TN_NONE;
    if (!tn_is_none(bias)) {
        if (!tn_shape_equal(tn_shape_of(bias), TN_SHAPE(ws.dim[0])) ||
            !tn_dtype_is_float(tn_dtype_of(bias)))
            return tn_graph_fail(
                x.graph,
                "convolution: bias is %s %s; it must be floating-point [%lld], one for each filter",
                tn_dtype_name(tn_dtype_of(bias)), tn_shape_text(tn_shape_of(bias)),
                (long long)ws.dim[0]);
        if (tn_dtype_of(bias) != TN_F32 || tn_dtype_of(x) == TN_F64)
            bias = tn_cast(bias, tn_dtype_of(x));
    }
    return convolve(TN_OP_CONVOLUTION, (tn_node[]){x, weight, bias}, tn_is_none(bias) ? 2 : 3, ys,
                    &g);
}

tn_node tn_convolution_input(tn_node d_out, tn_node weight, const int64_t *space,
                             tn_conv_geometry g)
{
    if (tn_is_none(d_out) || tn_is_none(weight)) return TN_NONE;
    const char *what = "convolution_input";
    if (!operands_agree(what, d_out, "d_out", weight, "weight") ||
        !resolve_geometry(d_out.graph, what, &g, tn_rank(d_out) - 2))
        return TN_NONE;
    tn_shape ys = tn_shape_of(d_out), ws = tn_shape_of(weight), xs = ys;
    xs.dim[1] = ws.dim[1] * g.groups;
    for (int i = 0; i < xs.rank - 2; i++) xs.dim[2 + i] = space[i];
    if (ys.dim[1] != ws.dim[0])
        return tn_graph_fail(d_out.graph,
                             "%s: d_out has %lld channels, but weight %s has %lld filters", what,
                             (long long)ys.dim[1], tn_shape_text(ws), (long long)ws.dim[0]);
    if (!shapes_agree(d_out.graph, what, xs, ws, ys, &g)) return TN_NONE;
    return convolve(TN_OP_CONVOLUTION_INPUT, (tn_node[]){d_out, weight}, 2, xs, &g);
}

tn_node tn_convolution_weight(tn_node x, tn_node d_out, const int64_t *kernel, tn_conv_geometry g)
{
    if (tn_is_none(x) || tn_is_none(d_out)) return TN_NONE;
    const char *what = "convolution_weight";
    if (!operands_agree(what, x, "x", d_out, "d_out") ||
        !resolve_geometry(x.graph, what, &g, tn_rank(x) - 2))
        return TN_NONE;
    tn_shape xs = tn_shape_of(x), ys = tn_shape_of(d_out),
             ws = {.rank = xs.rank, .dim = {ys.dim[1], xs.dim[1] / g.groups}};
    for (int i = 0; i < xs.rank - 2; i++) ws.dim[2 + i] = kernel[i];
    if (xs.dim[0] != ys.dim[0])
        return tn_graph_fail(x.graph, "%s: x %s and d_out %s have different batches", what,
                             tn_shape_text(xs), tn_shape_text(ys));
    if (!shapes_agree(x.graph, what, xs, ws, ys, &g)) return TN_NONE;
    return convolve(TN_OP_CONVOLUTION_WEIGHT, (tn_node[]){x, d_out}, 2, ws, &g);
}

static const tn_conv_geometry *geometry_of(tn_node self)
{
    return &((const tn_conv_attribute *)tn_value_of(self)->attribute)->geometry;
}

static tn_node input_gradient(tn_node d_out, tn_node weight, tn_node x, tn_node self)
{
    tn_shape shape = tn_shape_of(x);
    return tn_convolution_input(d_out, weight, shape.dim + 2, *geometry_of(self));
}

static tn_node weight_gradient(tn_node x, tn_node d_out, tn_node weight, tn_node self)
{
    tn_shape shape = tn_shape_of(weight);
    return tn_convolution_weight(x, d_out, shape.dim + 2, *geometry_of(self));
}

static void convolution_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                            tn_node *d_in)
{
    const tn_conv_attribute *t = tn_value_of(out[0])->attribute;
    d_in[0] = input_gradient(d_out[0], in[1], in[0], out[0]);
    d_in[1] = weight_gradient(in[0], d_out[0], in[1], out[0]);
    if (!t->has_bias) return;
    tn_axes all_but_channels = {.count = tn_rank(out[0]) - 1};
    for (int i = 0; i < all_but_channels.count; i++) all_but_channels.axis[i] = i ? i + 1 : 0;
    d_in[2] = tn_sum(tn_cast(d_out[0], tn_dtype_of(in[2])), all_but_channels);
}

static void convolution_input_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                                  tn_node *d_in)
{
    d_in[0] = tn_convolution(d_out[0], in[1], TN_NONE, *geometry_of(out[0]));
    d_in[1] = weight_gradient(d_out[0], in[0], in[1], out[0]);
}

static void convolution_weight_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                                   tn_node *d_in)
{
    d_in[0] = input_gradient(in[1], d_out[0], in[0], out[0]);
    d_in[1] = tn_convolution(in[0], d_out[0], TN_NONE, *geometry_of(out[0]));
}

static void convolution_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    const tn_value *value = tn_value_of(self);
    const tn_conv_attribute *t = value->attribute;
    tn_node y = tn_convolution(in[0], in[1], TN_NONE, t->geometry);
    if (t->has_bias) {
        tn_shape column = {.rank = value->shape.rank};
        for (int i = 0; i < column.rank; i++) column.dim[i] = i == 1 ? value->shape.dim[1] : 1;
        y = tn_add(y, tn_cast(tn_reshape(in[2], column), value->dtype));
    }
    out[0] = y;
}

/* Multiply-adds over all of y [B, F, S'...] for one position of the kernel and one input
 * channel, twice. */
static double flop_of(tn_shape y, tn_shape weight)
{
    double flop = 2 * (double)tn_shape_size(y);
    for (int i = 1; i < weight.rank; i++) flop *= (double)weight.dim[i];
    return flop;
}

static double convolution_flop(const tn_value *self, const tn_value *const *in)
{
    return flop_of(self->shape, in[1]->shape);
}

static double convolution_input_flop(const tn_value *self, const tn_value *const *in)
{
    (void)self;
    return flop_of(in[0]->shape, in[1]->shape);
}

static double convolution_weight_flop(const tn_value *self, const tn_value *const *in)
{
    return flop_of(in[1]->shape, self->shape);
}

const tn_op tn_product_ops[] = {
    {.id = TN_OP_MATMUL,
     .name = "matmul",
     .vjp = matmul_vjp,
     .decompose = matmul_decompose,
     .flop = matmul_flop},
    {.id = TN_OP_CONVOLUTION,
     .name = "convolution",
     .vjp = convolution_vjp,
     .decompose = convolution_decompose,
     .flop = convolution_flop},
    {.id = TN_OP_CONVOLUTION_INPUT,
     .name = "convolution_input",
     .vjp = convolution_input_vjp,
     .flop = convolution_input_flop},
    {.id = TN_OP_CONVOLUTION_WEIGHT,
     .name = "convolution_weight",
     .vjp = convolution_weight_vjp,
     .flop = convolution_weight_flop},
};
const int tn_product_op_count = sizeof tn_product_ops / sizeof *tn_product_ops;
