/* Losses. Cross-entropy against labels is an operation of its own, because it meets logits of
 * 256k classes and must pass over them once; the others are compositions, which element-wise
 * fusion runs in one pass.
 *
 * bf16 and f16 operands are widened first: a loss is f32 (f64 for f64). Everything is
 * differentiable to second order, also at the edges that are named beside each. */
#include <math.h>
#include <string.h>

#include "graph/norm.h"

/* ---- cross-entropy --------------------------------------------------------------------------- */

static bool is_label(tn_node labels)
{
    return tn_dtype_of(labels) == TN_I32 || tn_dtype_of(labels) == TN_I64;
}

tn_node tn_cross_entropy_with(tn_node logits, tn_node labels, tn_cross_entropy_options options)
{
    if (tn_is_none(logits) || tn_is_none(labels)) return TN_NONE;
    tn_shape shape = tn_shape_of(logits);
    if (shape.rank != 2 || !tn_dtype_is_float(tn_dtype_of(logits)))
        return tn_graph_fail(logits.graph,
                             "cross_entropy: logits are %s %s; they must be floating-point [N, V] "
                             "(reshape [B, L, V] first)",
                             tn_dtype_name(tn_dtype_of(logits)), tn_shape_text(shape));
    if (!is_label(labels) || !tn_shape_equal(tn_shape_of(labels), TN_SHAPE(shape.dim[0])))
        return tn_graph_fail(logits.graph,
                             "cross_entropy: labels are %s %s; logits %s want i32 or i64 [%lld]",
                             tn_dtype_name(tn_dtype_of(labels)), tn_shape_text(tn_shape_of(labels)),
                             tn_shape_text(shape), (long long)shape.dim[0]);
    if (!(options.smoothing >= 0 && options.smoothing < 1))
        return tn_graph_fail(logits.graph, "cross_entropy: smoothing is %g; it must lie in [0, 1)",
                             options.smoothing);
    tn_cross_entropy_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.smoothing = options.smoothing;
    tn_dtype wide = tn_statistics_dtype(tn_dtype_of(logits));
    tn_shape rows = TN_SHAPE(shape.dim[0]);
    return tn_node_new(NULL, &(tn_new_node){.id = TN_OP_CROSS_ENTROPY,
                                            .dtype = wide,
                                            .shape = rows,
                                            .in = (tn_node[]){logits, labels},
                                            .in_count = 2,
                                            .attribute = &attribute,
                                            .attribute_size = sizeof attribute,
                                            .more = 1,
                                            .more_dtype = &wide,
                                            .more_shape = &rows});
}

static void cross_entropy_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                              tn_node *d_in)
{
    if (!tn_is_none(d_out[1])) { /* somebody differentiates the logsumexp */
        tn_vjp_decomposed(out[0], in, d_out, d_in);
        return;
    }
    const tn_value *self = tn_value_of(out[0]);
    d_in[0] = tn_node_new(NULL, &(tn_new_node){.id = TN_OP_CROSS_ENTROPY_GRAD,
                                               .dtype = tn_dtype_of(in[0]),
                                               .shape = tn_shape_of(in[0]),
                                               .in = (tn_node[]){in[0], in[1], out[1], d_out[0]},
                                               .in_count = 4,
                                               .attribute = self->attribute,
                                               .attribute_size = (size_t)self->attribute_size});
}

/* Rows that count, as bool [N]: not ignored, and not all -inf. */
static tn_node counted_rows(tn_node labels, tn_node lse)
{
    tn_node kept = tn_not_equal(labels, tn_like(labels, TN_IGNORED_LABEL));
    return tn_and(kept, tn_not_equal(lse, tn_like(lse, -INFINITY)));
}

/* (1 - s) (lse - x[label]) + s (lse - mean(x)); ignored rows 0, rows of all -inf +inf. */
static void cross_entropy_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    double smoothing =
        ((const tn_cross_entropy_attribute *)tn_value_of(self)->attribute)->smoothing;
    tn_node x = tn_widen(in[0]), labels = in[1];
    tn_node ignored = tn_equal(labels, tn_like(labels, TN_IGNORED_LABEL));
    tn_node label = tn_where(ignored, tn_like(labels, 0), labels);
    tn_node lse = tn_logsumexp(x, TN_AXES(1));
    tn_node picked = tn_squeeze(tn_take_along(x, tn_expand_dims(label, 1), 1), 1);
    tn_node loss = tn_subtract(lse, picked);
    if (smoothing > 0) {
        tn_node even = tn_subtract(lse, tn_mean(x, TN_AXES(1)));
        loss = tn_add(tn_affine(loss, 1 - smoothing, 0), tn_affine(even, smoothing, 0));
    }
    tn_node otherwise = tn_where(ignored, tn_like(loss, 0), tn_like(loss, INFINITY));
    out[0] = tn_where(counted_rows(labels, lse), loss, otherwise);
    out[1] = lse;
}

/* d_loss (softmax(x) - (1 - s) onehot - s/V) */
static void cross_entropy_grad_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    double smoothing =
        ((const tn_cross_entropy_attribute *)tn_value_of(self)->attribute)->smoothing;
    tn_node x = tn_widen(in[0]);
    int64_t classes = tn_dim(x, 1);
    tn_node target = tn_affine(tn_one_hot(in[1], classes, tn_dtype_of(x)), 1 - smoothing,
                               classes ? smoothing / (double)classes : 0);
    tn_node d = tn_where(counted_rows(in[1], in[2]), in[3], tn_like(in[3], 0));
    out[0] = tn_narrow(tn_multiply(tn_expand_dims(d, 1), tn_subtract(tn_softmax(x, 1), target)),
                       in[0]);
}

static double cross_entropy_flop(const tn_value *self, const tn_value *const *in)
{
    (void)self;
    return 5 * (double)tn_shape_size(in[0]->shape);
}

static double cross_entropy_grad_flop(const tn_value *self, const tn_value *const *in)
{
    (void)in;
    return 4 * (double)tn_shape_size(self->shape);
}

/* ---- operands of the compositions ------------------------------------------------------------ */

/* Both operands in one wide type. False if one is missing or no float. */
static bool widen_both(const char *name, tn_node *a, tn_node *b)
{
    if (tn_is_none(*a) || tn_is_none(*b)) return false;
    if (!tn_dtype_is_float(tn_dtype_of(*a)) || !tn_dtype_is_float(tn_dtype_of(*b))) {
        tn_graph_fail(a->graph, "%s of %s and %s; cast both to a floating-point type", name,
                      tn_dtype_name(tn_dtype_of(*a)), tn_dtype_name(tn_dtype_of(*b)));
        return false;
    }
    tn_dtype wide = tn_dtype_of(*a) == TN_F64 || tn_dtype_of(*b) == TN_F64 ? TN_F64 : TN_F32;
    if (tn_dtype_of(*a) != wide) *a = tn_cast(*a, wide);
    if (tn_dtype_of(*b) != wide) *b = tn_cast(*b, wide);
    return !tn_is_none(*a) && !tn_is_none(*b);
}

static bool same_shape(const char *name, tn_node a, tn_node b)
{
    if (tn_shape_equal(tn_shape_of(a), tn_shape_of(b))) return true;
    tn_graph_fail(a.graph, "%s: shapes %s and %s differ", name, tn_shape_text(tn_shape_of(a)),
                  tn_shape_text(tn_shape_of(b)));
    return false;
}

static tn_node scalar(tn_node like, double value)
{
    return tn_fill(like.graph, tn_dtype_of(like), TN_SCALAR, value);
}

/* Sum over all dimensions but the first: [B]. */
static tn_node sum_per_sample(tn_node x)
{
    if (tn_rank(x) == 1) return x;
    tn_axes axes = {.count = tn_rank(x) - 1};
    for (int i = 0; i < axes.count; i++) axes.axis[i] = i + 1;
    return tn_sum(x, axes);
}

/* ---- distributions --------------------------------------------------------------------------- */

/* A class with target 0 and logit -inf (masked out) adds nothing: 0 log 0 = 0. A target > 0
 * there gives +inf. */
tn_node tn_cross_entropy_soft(tn_node logits, tn_node target)
{
    if (!widen_both("cross_entropy_soft", &logits, &target) ||
        !same_shape("cross_entropy_soft", logits, target))
        return TN_NONE;
    if (tn_rank(logits) != 2)
        return tn_graph_fail(logits.graph, "cross_entropy_soft: logits are %s; they must be [N, V]",
                             tn_shape_text(tn_shape_of(logits)));
    tn_node log_p = tn_log_softmax(logits, 1);
    tn_node absent = tn_and(tn_equal(target, scalar(target, 0)),
                            tn_equal(log_p, scalar(log_p, -INFINITY)));
    return tn_neg(
        tn_sum(tn_multiply(target, tn_where(absent, scalar(log_p, 0), log_p)), TN_AXES(1)));
}

/* t softplus(-x) + (1 - t) softplus(x): exact where the loss is small, on either side, and with
 * the derivative sigmoid(x) - t everywhere, also at x = 0, where forms with |x| lose it. */
tn_node tn_bce_with_logits(tn_node logits, tn_node target)
{
    if (!widen_both("bce_with_logits", &logits, &target)) return TN_NONE;
    return tn_add(tn_multiply(target, tn_softplus(tn_neg(logits))),
                  tn_multiply(tn_affine(target, -1, 1), tn_softplus(logits)));
}

/* Terms with p = 0 (log_p = -inf) are 0, whatever q; p > 0 with q = 0 gives +inf. */
tn_node tn_kl_divergence(tn_node log_p, tn_node log_q, int axis)
{
    if (!widen_both("kl_divergence", &log_p, &log_q) || !same_shape("kl_divergence", log_p, log_q))
        return TN_NONE;
    axis = tn_axis(log_p, axis);
    if (axis < 0) return TN_NONE;
    tn_node absent = tn_equal(log_p, scalar(log_p, -INFINITY)), zero = scalar(log_p, 0);
    tn_node ratio = tn_subtract(tn_where(absent, zero, log_p), tn_where(absent, zero, log_q));
    return tn_sum(tn_multiply(tn_exp(log_p), ratio), TN_AXES(axis));
}

/* ---- regression ------------------------------------------------------------------------------ */

/* With c = clamp(e, -delta, delta): c (e - c/2), which is e^2/2 inside and delta (|e| - delta/2)
 * outside. */
tn_node tn_huber(tn_node error, double delta)
{
    if (tn_is_none(error)) return error;
    if (!(delta > 0) || isinf(delta))
        return tn_graph_fail(error.graph, "huber: delta is %g; it must be positive", delta);
    error = tn_widen(error);
    tn_node inner = tn_clamp(error, -delta, delta);
    return tn_multiply(inner, tn_subtract(error, tn_affine(inner, 0.5, 0)));
}

/* ---- overlap --------------------------------------------------------------------------------- */

/* numerator / denominator, and 1 where the denominator is 0: nothing predicted where there is
 * nothing is a perfect overlap. */
static tn_node overlap(tn_node numerator, tn_node denominator)
{
    tn_node empty = tn_equal(denominator, scalar(denominator, 0)), one = scalar(denominator, 1);
    return tn_divide(tn_where(empty, one, numerator), tn_where(empty, one, denominator));
}

static bool sane_overlap(const char *name, tn_node *probability, tn_node *target, double smooth)
{
    if (!widen_both(name, probability, target) || !same_shape(name, *probability, *target))
        return false;
    if (tn_rank(*probability) < 1)
        tn_graph_fail(probability->graph, "%s of scalars; the first dimension must be the batch",
                      name);
    else if (!(smooth >= 0))
        tn_graph_fail(probability->graph, "%s: smooth is %g; it must be >= 0", name, smooth);
    return tn_graph_status(probability->graph) == TN_OK;
}

tn_node tn_dice_loss(tn_node probability, tn_node target, double smooth)
{
    if (!sane_overlap("dice_loss", &probability, &target, smooth)) return TN_NONE;
    tn_node both = sum_per_sample(tn_multiply(probability, target));
    tn_node either = tn_add(sum_per_sample(probability), sum_per_sample(target));
    return tn_affine(overlap(tn_affine(both, 2, smooth), tn_affine(either, 1, smooth)), -1, 1);
}

/* TI = (TP + s)/(TP + alpha FP + beta FN + s), TP = sum p t, FP = sum p (1 - t), FN = sum (1 -
 * p) t. The batch mean of 1 - TI is kept at 1e-7 or more, where the power's derivative is still
 * finite; below, the gradient is 0. Source: Salehi et al. 2017, equation 3; Abraham and Khan
 * 2018, equation 4. */
tn_node tn_focal_tversky(tn_node probability, tn_node target, double alpha, double beta,
                         double gamma, double smooth)
{
    if (!sane_overlap("focal_tversky", &probability, &target, smooth)) return TN_NONE;
    if (!(alpha >= 0) || !(beta >= 0) || !(gamma > 0))
        return tn_graph_fail(
            probability.graph,
            "focal_tversky: alpha %g, beta %g, gamma %g; alpha and beta must be >= 0, gamma > 0",
            alpha, beta, gamma);
    tn_node both = tn_multiply(probability, target);
    tn_node hit = sum_per_sample(both);
    tn_node false_positive = sum_per_sample(tn_subtract(probability, both));
    tn_node false_negative = sum_per_sample(tn_subtract(target, both));
    tn_node wrong = tn_add(tn_affine(false_positive, alpha, 0), tn_affine(false_negative, beta, 0));
    tn_node index = overlap(tn_affine(hit, 1, smooth), tn_affine(tn_add(hit, wrong), 1, smooth));
    tn_node missed = tn_affine(tn_mean(index, TN_ALL_AXES), -1, 1);
    return tn_power(tn_maximum(missed, scalar(missed, 1e-7)), gamma);
}

/* ---- angles ---------------------------------------------------------------------------------- */

/* 1 / max(sqrt(square), epsilon). At least `epsilon`, no derivative below: a zero vector has
 * gradient 0 through its length. */
static tn_node inverse_length(tn_node square, double epsilon)
{
    double least = epsilon * epsilon, tiny = tn_dtype_of(square) == TN_F64 ? 1e-300 : 1e-37;
    return tn_rsqrt(tn_maximum(square, scalar(square, least > tiny ? least : tiny)));
}

static bool sane_epsilon(const char *name, tn_node x, double epsilon)
{
    if (epsilon >= 0 && !isinf(epsilon)) return true;
    tn_graph_fail(x.graph, "%s: epsilon is %g; it must be a small number >= 0", name, epsilon);
    return false;
}

tn_node tn_normalize(tn_node x, int axis, double epsilon)
{
    if (tn_is_none(x)) return x;
    if (!tn_dtype_is_float(tn_dtype_of(x)))
        return tn_graph_fail(x.graph, "normalize of %s; cast it to a floating-point type first",
                             tn_dtype_name(tn_dtype_of(x)));
    axis = tn_axis(x, axis);
    if (axis < 0 || !sane_epsilon("normalize", x, epsilon)) return TN_NONE;
    tn_node wide = tn_widen(x);
    tn_node square = tn_sum(tn_square(wide), TN_AXES_KEEP(axis));
    return tn_narrow(tn_multiply(wide, inverse_length(square, epsilon)), x);
}

/* a.b / (max(|a|, epsilon) max(|b|, epsilon)): 0 for a zero vector. */
tn_node tn_cosine_similarity(tn_node a, tn_node b, int axis, double epsilon)
{
    if (!widen_both("cosine_similarity", &a, &b) || !same_shape("cosine_similarity", a, b) ||
        !sane_epsilon("cosine_similarity", a, epsilon))
        return TN_NONE;
    axis = tn_axis(a, axis);
    if (axis < 0) return TN_NONE;
    tn_axes axes = TN_AXES(axis);
    tn_node lengths = tn_multiply(inverse_length(tn_sum(tn_square(a), axes), epsilon),
                                  inverse_length(tn_sum(tn_square(b), axes), epsilon));
    return tn_multiply(tn_sum(tn_multiply(a, b), axes), lengths);
}

tn_node tn_cosine_similarity_list(const tn_node *a, const tn_node *b, int count, double epsilon)
{
    tn_node product = TN_NONE, square_a = TN_NONE, square_b = TN_NONE;
    if (count < 1 || !sane_epsilon("cosine_similarity_list", a[0], epsilon)) return TN_NONE;
    for (int i = 0; i < count; i++) {
        tn_node x = a[i], y = b[i];
        if (!widen_both("cosine_similarity_list", &x, &y) ||
            !same_shape("cosine_similarity_list", x, y))
            return TN_NONE;
        tn_node xy = tn_sum(tn_multiply(x, y), TN_ALL_AXES), xx = tn_sum(tn_square(x), TN_ALL_AXES),
                yy = tn_sum(tn_square(y), TN_ALL_AXES);
        product = i ? tn_add(product, xy) : xy;
        square_a = i ? tn_add(square_a, xx) : xx;
        square_b = i ? tn_add(square_b, yy) : yy;
    }
    return tn_multiply(
        product, tn_multiply(inverse_length(square_a, epsilon), inverse_length(square_b, epsilon)));
}

/* Cross-entropy of query i's scores over all keys against key i.  Source: van den Oord et al.
 * 2018, equation 4. */
tn_node tn_info_nce(tn_node query, tn_node key, double temperature)
{
    if (tn_is_none(query) || tn_is_none(key)) return TN_NONE;
    if (tn_dtype_of(query) != tn_dtype_of(key) || !tn_dtype_is_float(tn_dtype_of(query)) ||
        tn_rank(query) != 2 || tn_rank(key) != 2 || tn_dim(query, 1) != tn_dim(key, 1) ||
        tn_dim(key, 0) < tn_dim(query, 0))
        return tn_graph_fail(query.graph,
                             "info_nce: query %s %s, key %s %s; one floating-point type, query [N, "
                             "E], key [M, E] with M >= N",
                             tn_dtype_name(tn_dtype_of(query)), tn_shape_text(tn_shape_of(query)),
                             tn_dtype_name(tn_dtype_of(key)), tn_shape_text(tn_shape_of(key)));
    if (!(temperature > 0))
        return tn_graph_fail(query.graph, "info_nce: temperature is %g; it must be positive",
                             temperature);
    tn_node score = tn_matmul_with(
        query, key,
        (tn_matmul_options){.transpose_b = true, .out_f32 = tn_dtype_of(query) == TN_BF16});
    score = tn_affine(tn_widen(score), 1 / temperature, 0);
    tn_node own = tn_iota(query.graph, TN_I32, TN_SHAPE(tn_dim(query, 0)), 0);
    return tn_cross_entropy_with(score, own, (tn_cross_entropy_options){0});
}

const tn_op tn_loss_ops[] = {
    {.id = TN_OP_CROSS_ENTROPY,
     .name = "cross_entropy",
     .vjp = cross_entropy_vjp,
     .decompose = cross_entropy_decompose,
     .flop = cross_entropy_flop},
    {.id = TN_OP_CROSS_ENTROPY_GRAD,
     .name = "cross_entropy_grad",
     .decompose = cross_entropy_grad_decompose,
     .flop = cross_entropy_grad_flop},
};
const int tn_loss_op_count = sizeof tn_loss_ops / sizeof *tn_loss_ops;
