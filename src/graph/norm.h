/* What the rules and kernels of softmax, norms and losses must agree on.
 *
 * Statistics (mean, rstd, variance, logsumexp) and the parameters scale and shift are f32, and f64
 * where x is: builders cast parameters of another type.
 *
 *     SOFTMAX, LOG_SOFTMAX (x) -> y
 *     SOFTMAX_GRAD, LOG_SOFTMAX_GRAD (y, d_y) -> d_x
 *     LAYER_NORM (x, scale?, shift?) -> y, mean, rstd
 *     LAYER_NORM_GRAD (x, d_y, mean, rstd, scale?) -> d_x, d_scale?, d_shift?
 *     RMS_NORM (x, scale?) -> y, rstd
 *     RMS_NORM_GRAD (x, d_y, rstd, scale?) -> d_x, d_scale?
 *     BATCH_NORM (x, scale, shift, residual?) -> y, mean [C], variance [C]
 *     BATCH_NORM_GRAD (x, d_y, scale, shift, mean, variance) -> d_x, d_scale, d_shift
 *     GROUP_NORM (x, scale?, shift?) -> y, mean [B, G], rstd [B, G]
 *     GROUP_NORM_GRAD (x, d_y, mean, rstd, scale?) -> d_x, d_scale?, d_shift?
 *     CROSS_ENTROPY (logits [N, V], labels [N]) -> loss [N], logsumexp [N]
 *     CROSS_ENTROPY_GRAD (logits, labels, logsumexp, d_loss [N]) -> d_logits
 *
 * The parameters' gradients are there when `affine` is set. A GRAD's decomposition computes the
 * statistics from x anew, so that differentiating it gives the whole second derivative; only the
 * kernels read the stored ones. */
#ifndef TN_GRAPH_NORM_H
#define TN_GRAPH_NORM_H

#include "graph/kernel.h"

typedef struct tn_norm_attribute {
    double epsilon;
    int32_t
        axes; /* LAYER_NORM, RMS_NORM: how many of the last dimensions are normalised together */
    int32_t groups; /* GROUP_NORM */
    bool has_scale, has_shift;
    bool affine;     /* GRAD: gradients of scale and shift are results */
    bool per_sample; /* GROUP_NORM: scale and shift are [B, C] */
} tn_norm_attribute;

/* y = activation(norm(x) + residual). The gradient with an activation is that without a
 * residual: it finds the activation's sign again from x. */
typedef struct tn_batch_norm_attribute {
    double epsilon;
    int32_t activation; /* 0 or TN_OP_RELU */
    bool has_residual;
} tn_batch_norm_attribute;

typedef struct tn_cross_entropy_attribute {
    double smoothing;
} tn_cross_entropy_attribute;

#define TN_IGNORED_LABEL (-1)

/* f32, or f64 for f64: the type in which sums run and statistics are kept. */
static inline tn_dtype tn_statistics_dtype(tn_dtype x) { return x == TN_F64 ? TN_F64 : TN_F32; }

/* x in that type; the same node when it has it already. */
static inline tn_node tn_widen(tn_node x)
{
    tn_dtype wide = tn_statistics_dtype(tn_dtype_of(x));
    return tn_is_none(x) || tn_dtype_of(x) == wide ? x : tn_cast(x, wide);
}

/* Back to the type that a result has. */
static inline tn_node tn_narrow(tn_node x, tn_node like)
{
    return tn_is_none(x) || tn_dtype_of(x) == tn_dtype_of(like) ? x : tn_cast(x, tn_dtype_of(like));
}

/* BATCH_NORM on the way to a fused one: y (node of a BATCH_NORM without activation) with a
 * residual (or none) and an activation (0 or TN_OP_RELU) taken in. */
tn_node tn_batch_norm_fused(tn_node y, tn_node residual, int32_t activation);

#endif
