/* Layers: functions on a scope, which names their parameters as PyTorch and Hugging Face do.
 *
 *     tn_node y = tn_conv(tn_in(s, "conv1"), x, 64, .kernel = 3, .pad = 1);
 *     y = tn_relu(tn_batch_norm(tn_in(s, "bn1"), y));
 *
 * An operation (tenon/ops.h) takes nodes; a layer takes a scope first and makes its own parameters
 * there. Where the two would have the same name the layer is called `..._layer`. Options are
 * designated initialisers in which zero is the sensible default; a layer without options is called
 * without them. Like operations, layers never fail on the spot: the error stays in the graph.
 *
 * Precision. Parameters are f32. Where scope.compute is TN_BF16 or TN_F16, what is multiplied
 * (products, convolutions, looked-up rows) is cast to it and the results stay in it; the parameters
 * and statistics of norms stay f32, what recurrent layers carry from step to step too, and losses
 * give f32. */
#ifndef TENON_NN_H
#define TENON_NN_H

#include "tenon/graph.h"
#include "tenon/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- first values ------------------------------------------------------------------------------
 * Fans of a weight [out, in, k...]: in * prod k and out * prod k; of a vector: its length. */

tn_init tn_init_constant(double value);
tn_init tn_init_uniform(double low, double high); /* [low, high) */
tn_init tn_init_normal(double mean, double deviation);
tn_init tn_init_truncated_normal(double mean, double deviation); /* redrawn beyond 2 deviations */
/* Uniform within sqrt(6 / ((1 + slope^2) fan_in)); slope is the leaky ReLU's that follows: 0 for a
 * ReLU; sqrt(5), PyTorch's default for linear layers and convolutions, gives 1/sqrt(fan_in).
 * Source: He et al. 2015, section 2.2. */
tn_init tn_init_kaiming_uniform(tn_shape weight, double slope);
/* Normal with deviation sqrt(2 / fan_out): torchvision's ResNets. */
tn_init tn_init_kaiming_normal_out(tn_shape weight);
/* Uniform within gain * sqrt(6 / (fan_in + fan_out)), or normal with deviation
 * gain * sqrt(2 / (fan_in + fan_out)). Source: Glorot and Bengio 2010. */
tn_init tn_init_xavier_uniform(tn_shape weight, double gain);
tn_init tn_init_xavier_normal(tn_shape weight, double gain);

/* Whether an option was given: a zeroed tn_init means "the layer's default"; for real zeros say
 * tn_init_constant(0). */
static inline bool tn_init_given(tn_init init) { return init.kind != TN_INIT_ZERO; }

/* x in the scope's compute dtype; x itself if it is already (integers and bool are left alone). */
tn_node tn_to_compute(tn_scope scope, tn_node x);

/* ---- products -------------------------------------------------------------------------------- */

typedef struct tn_linear_options {
    bool bias;
    tn_init init; /* of the weight; default PyTorch's, uniform within 1/sqrt(in) */
} tn_linear_options;
/* x [..., in] -> [..., width]: x weight^T + bias. Parameters weight [width, in], bias [width].
 * Cost 2*N*in*width FLOP for N rows. */
tn_node tn_linear_with(tn_scope scope, tn_node x, int64_t width, tn_linear_options options);

/* Of a convolution; each number for all axes alike, or an array for each of its own. */
typedef struct tn_conv_options {
    int64_t kernel, stride, pad, dilation;                        /* 0: 1, 1, 0, 1 */
    int64_t kernel_axis[TN_MAX_SPACE], stride_axis[TN_MAX_SPACE]; /* where not 0: instead */
    int64_t pad_axis[TN_MAX_SPACE], dilation_axis[TN_MAX_SPACE];
    int64_t output_pad; /* transposed only: rows added at the end of each axis */
    int64_t groups;     /* 0: 1; C for a depthwise convolution */
    bool same;          /* pads dilation*(k - 1)/2, which keeps the size at stride 1 (k odd) */
    bool bias;
    tn_init init; /* of the weight; default PyTorch's, uniform within 1/sqrt(fan_in) */
} tn_conv_options;
/* x [B, C, S...] -> [B, width, S'...], 1 to 3 spatial dimensions by x's rank, zero padding
 * (reflect: tn_pad before). Parameters weight [width, C/groups, k...], bias [width]. */
tn_node tn_conv_with(tn_scope scope, tn_node x, int64_t width, tn_conv_options options);
/* The transposed convolution: x [B, C, S...] -> [B, width, S'...] with
 * S' = (S - 1)*stride - 2*pad + dilation*(k - 1) + output_pad + 1. Parameters weight
 * [C, width/groups, k...] (PyTorch's order), bias [width]. */
tn_node tn_conv_transpose_with(tn_scope scope, tn_node x, int64_t width, tn_conv_options options);

typedef struct tn_embedding_options {
    tn_init init; /* default: normal(0, 1), as PyTorch */
} tn_embedding_options;
/* Rows of a table: ids (any integer shape) -> [ids..., width]. Parameter weight [rows, width]; an
 * id outside [0, rows) makes the run fail. Tied output weights: declare the same parameter again
 * and multiply by it,
 *     tn_matmul(x, tn_to_compute(s, tn_parameter(s, "weight", ...)), .transpose_b = true) */
tn_node tn_embedding_with(tn_scope scope, tn_node ids, int64_t rows, int64_t width,
                          tn_embedding_options options);

/* ---- norms --------------------------------------------------------------------------------------
 * Parameters weight (ones at first) and bias (zeros), in f32. */

typedef struct tn_norm_options {
    double epsilon; /* 0: 1e-5 (RMS norm: 1e-6) */
    bool no_affine; /* neither weight nor bias */
    bool no_bias;
} tn_norm_options;
/* Over the last dimension E: weight, bias [E]. */
tn_node tn_layer_norm_layer_with(tn_scope scope, tn_node x, tn_norm_options options);
/* x / rms(x) * weight over the last dimension; no bias. */
tn_node tn_rms_norm_layer_with(tn_scope scope, tn_node x, tn_norm_options options);
/* x [B, C, S...], statistics per sample and group; weight, bias [C]. groups = C: instance norm. */
tn_node tn_group_norm_layer_with(tn_scope scope, tn_node x, int64_t groups,
                                 tn_norm_options options);

typedef struct tn_batch_norm_options {
    double epsilon;  /* 0: 1e-5 */
    double momentum; /* share of the new batch in the running statistics; 0: 0.1 */
    bool no_affine;
} tn_batch_norm_options;
/* x [B, C, S...] or [B, C]; parameters weight, bias [C]; state running_mean, running_var [C] f32
 * and num_batches_tracked, i64, as PyTorch has them. In a training scope: this batch's statistics,
 * and the update of the running ones (variance unbiased) is put off by tn_defer, so that the
 * training plan alone carries it out (tn_minimise takes it along); a layer that is used twice
 * updates them twice, in order of building. Else: the running statistics. */
tn_node tn_batch_norm_with(tn_scope scope, tn_node x, tn_batch_norm_options options);

/* In a training scope zeroes elements at `rate` and scales the rest by 1/(1 - rate); else x. The
 * numbers change from step to step with scope.step, which must be set (tn_step_node(graph)). */
tn_node tn_dropout(tn_scope scope, tn_node x, double rate);

/* ---- recurrent ------------------------------------------------------------------------------- */

typedef struct tn_recurrent_options {
    int layers;         /* 0: 1 */
    bool bidirectional; /* y is [L, B, 2*hidden]: forward then backward */
    bool batch_first;   /* x [B, L, I] and y [B, L, ...] */
    bool no_bias;
    double dropout; /* between layers, in training */
    tn_node length; /* [B] i32 or TN_NONE: steps >= length[b] output 0 and leave the state alone;
                     * the backward direction starts at each sequence's own end */
    tn_node h0, c0; /* [layers*directions, B, hidden]; TN_NONE: zeros */
} tn_recurrent_options;
/* x [L, B, I] -> y [L, B, hidden], the last h (and c) [layers*directions, B, hidden].
 * Parameters weight_ih_l0 [4*hidden, I] (GRU: 3*hidden), weight_hh_l0, bias_ih_l0, bias_hh_l0,
 * ..._l0_reverse, ..._l1 as PyTorch, gates in its order; uniform within 1/sqrt(hidden).
 * Source: Hochreiter and Schmidhuber 1997; Cho et al. 2014 (the reset gate after the product). */
tn_recurrent_result tn_lstm_with(tn_scope scope, tn_node x, int64_t hidden,
                                 tn_recurrent_options options);
tn_recurrent_result tn_gru_with(tn_scope scope, tn_node x, int64_t hidden,
                                tn_recurrent_options options);

/* ---- two networks ---------------------------------------------------------------------------- */

typedef struct tn_mlp_options {
    tn_node (*activation)(tn_node); /* between layers; NULL: ReLU */
    double dropout;                 /* behind every activation */
    bool no_bias;
} tn_mlp_options;
/* x [..., in] -> [..., width[count-1]]; parameters 0.weight, 2.weight, ... as in PyTorch's
 * Sequential(Linear, ReLU, Linear, ...). */
tn_node tn_mlp_with(tn_scope scope, tn_node x, const int64_t *width, int count,
                    tn_mlp_options options);
#define TN_WIDTHS(...)                                                                             \
    (const int64_t[]){__VA_ARGS__}, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t))

typedef struct tn_resnet_options {
    int depth;         /* 18 or 34 (basic blocks), 50, 101 or 152 (bottlenecks); 0: 18 */
    int64_t width;     /* of the first stage; 0: 64 */
    int64_t classes;   /* 0: no head, the result is the pooled features [B, width*8 (*4)] */
    bool large_images; /* the 7x7 stem with stride 2 and max pooling for 224x224; else a 3x3 stem
                        * without pooling for 32x32 */
    bool zero_last;    /* the last norm of every block begins at 0: zero_init_residual */
} tn_resnet_options;
/* images [B, C, H, W] -> logits [B, classes]. Parameter names are torchvision's: conv1, bn1,
 * layer1.0.conv1, ..., fc. Source: He et al. 2016. */
tn_node tn_resnet_with(tn_scope scope, tn_node images, tn_resnet_options options);

/* ---- options and places ---------------------------------------------------------------------- */

#define tn_linear(scope, x, width, ...)                                                            \
    TN_AT(tn_linear_with, scope, x, width, (tn_linear_options){__VA_ARGS__})
#define tn_conv(scope, x, width, ...)                                                              \
    TN_AT(tn_conv_with, scope, x, width, (tn_conv_options){__VA_ARGS__})
#define tn_conv_transpose(scope, x, width, ...)                                                    \
    TN_AT(tn_conv_transpose_with, scope, x, width, (tn_conv_options){__VA_ARGS__})
#define tn_embedding(scope, ids, rows, width, ...)                                                 \
    TN_AT(tn_embedding_with, scope, ids, rows, width, (tn_embedding_options){__VA_ARGS__})
#define tn_layer_norm_layer(scope, x, ...)                                                         \
    TN_AT(tn_layer_norm_layer_with, scope, x, (tn_norm_options){__VA_ARGS__})
#define tn_rms_norm_layer(scope, x, ...)                                                           \
    TN_AT(tn_rms_norm_layer_with, scope, x, (tn_norm_options){__VA_ARGS__})
#define tn_group_norm_layer(scope, x, groups, ...)                                                 \
    TN_AT(tn_group_norm_layer_with, scope, x, groups, (tn_norm_options){__VA_ARGS__})
#define tn_batch_norm(scope, x, ...)                                                               \
    TN_AT(tn_batch_norm_with, scope, x, (tn_batch_norm_options){__VA_ARGS__})
#define tn_lstm(scope, x, hidden, ...)                                                             \
    TN_AT(tn_lstm_with, scope, x, hidden, (tn_recurrent_options){__VA_ARGS__})
#define tn_gru(scope, x, hidden, ...)                                                              \
    TN_AT(tn_gru_with, scope, x, hidden, (tn_recurrent_options){__VA_ARGS__})
/* widths: TN_WIDTHS(1024, 1024, 10) */
#define tn_mlp(scope, x, widths, ...)                                                              \
    TN_AT(tn_mlp_with, scope, x, widths, (tn_mlp_options){__VA_ARGS__})
#define tn_resnet(scope, images, ...)                                                              \
    TN_AT(tn_resnet_with, scope, images, (tn_resnet_options){__VA_ARGS__})
#ifndef TN_NO_PLACES
#define tn_dropout(...) TN_AT(tn_dropout, __VA_ARGS__)
#endif

#ifdef __cplusplus
}
#endif
#endif
