/* The operations. Each takes nodes and gives a node; shapes are checked here, and an error stays in the graph.
 *
 * Broadcasting is NumPy's: shapes align at the last dimension, and 1 stretches. Binary operations want equal dtypes
 * (cast explicitly); options are designated initialisers in which zero is the sensible default. bf16/f16 values
 * are computed in f32 and rounded once at the store. */
#ifndef TENON_OPS_H
#define TENON_OPS_H

#include "tenon/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- element-wise, one operand -------------------------------------------------------------------------------------- */
tn_node tn_neg(tn_node x);
tn_node tn_abs(tn_node x);  /* derivative 0 at 0 */
tn_node tn_sign(tn_node x); /* -1, 0, 1; no gradient */
tn_node tn_exp(tn_node x);
tn_node tn_log(tn_node x);
tn_node tn_log1p(tn_node x);
tn_node tn_expm1(tn_node x);
tn_node tn_sqrt(tn_node x);
tn_node tn_rsqrt(tn_node x);
tn_node tn_reciprocal(tn_node x);
tn_node tn_square(tn_node x);
tn_node tn_sin(tn_node x);
tn_node tn_cos(tn_node x);
tn_node tn_tanh(tn_node x);
tn_node tn_erf(tn_node x);
tn_node tn_sigmoid(tn_node x);
tn_node tn_softplus(tn_node x);
tn_node tn_relu(tn_node x);      /* derivative 0 at 0 */
tn_node tn_gelu(tn_node x);      /* x * Phi(x), by erf */
tn_node tn_gelu_tanh(tn_node x); /* the tanh approximation: GPT-2, minGPT */
tn_node tn_silu(tn_node x);      /* x * sigmoid(x) */
tn_node tn_floor(tn_node x);
tn_node tn_ceil(tn_node x);
tn_node tn_round(tn_node x);     /* to even */
tn_node tn_not(tn_node x);       /* bool */
tn_node tn_is_finite(tn_node x); /* bool */
tn_node tn_leaky_relu(tn_node x, double slope);
tn_node tn_clamp(tn_node x, double low,
                 double high); /* derivative 1 inside and at the ends, 0 outside; NaN stays */
tn_node tn_cast(
    tn_node x,
    tn_dtype dtype); /* float to integer truncates and saturates; gradient is cast back */
/* x * scale + offset with constants. */
tn_node tn_affine(tn_node x, double scale, double offset);
/* x to a constant power (x > 0 unless the exponent is a small integer). */
tn_node tn_power(tn_node x, double exponent);

/* ---- element-wise, two and three operands --------------------------------------------------------------------------- */
tn_node tn_add(tn_node a, tn_node b);
tn_node tn_subtract(tn_node a, tn_node b);
tn_node tn_multiply(tn_node a, tn_node b);
tn_node tn_divide(tn_node a, tn_node b);
tn_node tn_maximum(tn_node a, tn_node b); /* gradient to a on ties; NaN if either is */
tn_node tn_minimum(tn_node a, tn_node b);
tn_node tn_pow(tn_node a, tn_node b);   /* a > 0 */
tn_node tn_mod(tn_node a, tn_node b);   /* sign of b, as in Python; no gradient to b */
tn_node tn_equal(tn_node a, tn_node b); /* comparisons give bool */
tn_node tn_not_equal(tn_node a, tn_node b);
tn_node tn_less(tn_node a, tn_node b);
tn_node tn_less_equal(tn_node a, tn_node b);
tn_node tn_greater(tn_node a, tn_node b);
tn_node tn_greater_equal(tn_node a, tn_node b);
tn_node tn_and(tn_node a, tn_node b);
tn_node tn_or(tn_node a, tn_node b);
/* condition (bool) ? a : b, all three broadcast; gradients only through the chosen side. */
tn_node tn_where(tn_node condition, tn_node a, tn_node b);

/* ---- reductions -------------------------------------------------------------------------------------------------------- */
/* Over the listed axes (negative count from the end); no axes: over all. keep leaves dimensions of size 1. Sums of
 * bf16/f16 accumulate in f32, of f32 in f32 over fixed-size blocks and pairwise above; same result at any thread count. */
typedef struct tn_axes {
    int count;
    int axis[TN_MAX_RANK];
    bool keep;
} tn_axes;
#define TN_AXES(...)                                                                               \
    ((tn_axes){.count = (int)(sizeof((int[]){__VA_ARGS__}) / sizeof(int)), .axis = {__VA_ARGS__}})
#define TN_AXES_KEEP(...)                                                                          \
    ((tn_axes){.count = (int)(sizeof((int[]){__VA_ARGS__}) / sizeof(int)),                         \
               .axis = {__VA_ARGS__},                                                              \
               .keep = true})
#define TN_ALL_AXES ((tn_axes){0})
tn_node tn_sum(tn_node x, tn_axes axes);
tn_node tn_mean(tn_node x, tn_axes axes);
tn_node tn_max(tn_node x, tn_axes axes); /* gradient shared equally among ties; NaN wins */
tn_node tn_min(tn_node x, tn_axes axes);
tn_node tn_logsumexp(tn_node x, tn_axes axes);
/* i64, lowest index on ties; along one axis, which disappears. */
tn_node tn_argmax(tn_node x, int axis);
tn_node tn_argmin(tn_node x, int axis);
/* Running sum / product along an axis. exclusive: element i leaves itself out. reverse: from the end. */
tn_node tn_cumsum(tn_node x, int axis, bool exclusive, bool reverse);
tn_node tn_cumprod(tn_node x, int axis, bool exclusive);
/* out[i] = a[i] + b[i] * out[i-1] along an axis (reverse: out[i+1]); a and b of one shape. */
tn_node tn_linear_scan(tn_node a, tn_node b, int axis, bool reverse);
/* Sums x down to `like`'s shape: the adjoint of broadcasting. */
tn_node tn_sum_to(tn_node x, tn_node like);

/* ---- shape: views where the strides allow -------------------------------------------------------------------------------- */
tn_node tn_reshape(tn_node x, tn_shape shape); /* one dimension may be -1 */
tn_node tn_transpose(tn_node x, const int *permutation);
#define TN_PERMUTE(...) ((const int[]){__VA_ARGS__})
tn_node tn_swap_axes(tn_node x, int a, int b);
tn_node tn_broadcast(tn_node x, tn_shape shape);
tn_node tn_expand_dims(tn_node x, int axis);
tn_node tn_squeeze(tn_node x, int axis);
/* [start, stop) with a positive step along one axis; negative indices count from the end; stop INT64_MAX: to the end. */
tn_node tn_slice(tn_node x, int axis, int64_t start, int64_t stop, int64_t step);
tn_node tn_concat(const tn_node *x, int count, int axis);
/* count equal pieces along axis into out[]. */
void tn_split(tn_node x, int count, int axis, tn_node *out);
tn_node tn_stack(const tn_node *x, int count, int axis);
typedef enum tn_pad_mode { TN_PAD_CONSTANT = 0, TN_PAD_REFLECT, TN_PAD_EDGE } tn_pad_mode;
/* before[i], after[i] elements added at dimension i (rank entries each). reflect does not repeat the edge. */
tn_node tn_pad(tn_node x, const int64_t *before, const int64_t *after, tn_pad_mode mode,
               double value);
tn_node tn_flip(tn_node x, int axis);
tn_node tn_roll(tn_node x, int axis, int64_t shift);

/* ---- products --------------------------------------------------------------------------------------------------------------- */
/* [..., M, K] x [..., K, N] -> [..., M, N]; leading dimensions broadcast (weights with a leading batch dimension are the
 * same call). transpose_a: a is [..., K, M]; transpose_b: b is [..., N, K]. bias [N] (or broadcastable to the result)
 * is added. i8 x i8 gives i32. Accumulates in f32 (f64 in ref). out: result dtype, default a's. */
typedef struct tn_matmul_options {
    bool transpose_a, transpose_b;
    tn_node bias;
    bool out_f32; /* bf16 operands, f32 result */
} tn_matmul_options;
tn_node tn_matmul_with(tn_node a, tn_node b, tn_matmul_options options);

/* Convolution, 1 to 3 spatial dimensions (from x's rank). x [B, C, S...], weight [F, C/groups, k...] -> [B, F, S'...],
 * S' = (S + before + after - dilation*(k-1) - 1)/stride + 1. Zero padding; reflect by tn_pad first. */
#define TN_MAX_SPACE 3
typedef struct tn_conv_geometry {
    int64_t stride[TN_MAX_SPACE]; /* 0 means 1 */
    int64_t pad_before[TN_MAX_SPACE];
    int64_t pad_after[TN_MAX_SPACE];
    int64_t dilation[TN_MAX_SPACE]; /* 0 means 1 */
    int64_t groups;                 /* 0 means 1 */
} tn_conv_geometry;
tn_node tn_convolution(tn_node x, tn_node weight, tn_node bias, tn_conv_geometry geometry);
/* The adjoint in x: d_out [B, F, S'...], weight [F, C/groups, k...] -> [B, C, S...] with the given S. This is also
 * "transposed convolution" (torch's ConvTranspose weight [C_in, C_out/groups, k...] is this weight). */
tn_node tn_convolution_input(tn_node d_out, tn_node weight, const int64_t *space,
                             tn_conv_geometry geometry);
/* The adjoint in weight: -> [F, C/groups, k...] with the given k. */
tn_node tn_convolution_weight(tn_node x, tn_node d_out, const int64_t *kernel,
                              tn_conv_geometry geometry);

typedef struct tn_pool_geometry {
    int64_t kernel[TN_MAX_SPACE];
    int64_t stride[TN_MAX_SPACE]; /* 0 means kernel */
    int64_t pad_before[TN_MAX_SPACE];
    int64_t pad_after[TN_MAX_SPACE];
    bool count_padding; /* average: divide by the whole kernel even where it covers padding */
} tn_pool_geometry;
tn_node tn_max_pool(tn_node x, tn_pool_geometry geometry);
tn_node tn_average_pool(tn_node x, tn_pool_geometry geometry);

/* ---- norms and softmax (fused kernels; each has a decomposition) ----------------------------------------------------------------- */
tn_node tn_softmax(tn_node x, int axis); /* a row of all -inf gives zeros, not NaN */
tn_node tn_log_softmax(tn_node x, int axis);
/* Over the last dimension(s) that `scale` has. scale, shift may be TN_NONE. */
tn_node tn_layer_norm(tn_node x, tn_node scale, tn_node shift, double epsilon);
/* x / rms(x) * scale over the last dimension. */
tn_node tn_rms_norm(tn_node x, tn_node scale, double epsilon);
/* Batch norm with this batch's statistics: x [B, C, S...], scale/shift [C]; mean and (biased) variance [C] f32 come back
 * too. Gradient flows through the statistics. */
typedef struct tn_batch_norm_result {
    tn_node y, mean, variance;
} tn_batch_norm_result;
tn_batch_norm_result tn_batch_norm_train(tn_node x, tn_node scale, tn_node shift, double epsilon);
/* With given statistics [C] (evaluation): an affine map per channel. */
tn_node tn_batch_norm_apply(tn_node x, tn_node mean, tn_node variance, tn_node scale, tn_node shift,
                            double epsilon);
/* x [B, C, S...]; statistics per sample and group of C/groups channels; groups == C: instance norm.
 * scale/shift [C] or, for conditional norms, one row a sample [B, C]; or TN_NONE. */
tn_node tn_group_norm(tn_node x, int64_t groups, tn_node scale, tn_node shift, double epsilon);
/* x / max(|x|_2, epsilon) along axis. */
tn_node tn_normalize(tn_node x, int axis, double epsilon);

/* ---- losses (per row where it says so; reduce with tn_mean) ---------------------------------------------------------------------- */
/* Softmax cross-entropy: logits [N, V] (any float), labels [N] i32/i64 -> [N] f32. Rows whose label is `ignore` (default -1,
 * 0 means -1) give 0. smoothing in [0, 1). */
typedef struct tn_cross_entropy_options {
    double smoothing;
} tn_cross_entropy_options;
tn_node tn_cross_entropy_with(tn_node logits, tn_node labels, tn_cross_entropy_options options);
/* The same against distributions [N, V]. */
tn_node tn_cross_entropy_soft(tn_node logits, tn_node target);
tn_node tn_bce_with_logits(tn_node logits, tn_node target); /* element-wise, stable */
tn_node tn_kl_divergence(tn_node log_p, tn_node log_q,
                         int axis);            /* sum p (log p - log q) along axis */
tn_node tn_huber(tn_node error, double delta); /* element-wise */
/* 1 - (2 sum(p t) + s)/(sum p + sum t + s) over all axes but the first: [B]. */
tn_node tn_dice_loss(tn_node probability, tn_node target, double smooth);
/* Tversky index loss (1 - TI)^gamma over all axes but the first, mean over the batch before the power. Scalar. */
tn_node tn_focal_tversky(tn_node probability, tn_node target, double alpha, double beta,
                         double gamma, double smooth);
tn_node tn_cosine_similarity(tn_node a, tn_node b, int axis, double epsilon);
/* Of two lists of tensors taken as one long vector each: scalar (gradient matching). */
tn_node tn_cosine_similarity_list(const tn_node *a, const tn_node *b, int count, double epsilon);
/* InfoNCE: query [N, E], key [M, E]; row i's positive is key i; temperature > 0 -> [N]. */
tn_node tn_info_nce(tn_node query, tn_node key, double temperature);

/* ---- attention ------------------------------------------------------------------------------------------------------------------- */
/* softmax(q k^T * scale + bias) v, heads grouped: query head h reads key/value head h/(H/K).
 *   dense   q [B, L, H, Q], k and v [B, M, K, Q]
 *   packed  q [T, H, Q], k and v [T, K, Q], offsets [S+1] i32: segment s is tokens offsets[s] .. offsets[s+1]-1; attention
 *           stays inside segments
 *   cache   dense, with length [B] i32: keys at positions >= length[b] are never read, and the queries are positions
 *           length[b]-L .. length[b]-1 (for causal)
 * causal: query position i sees key positions <= i (dense without length: i + M - L). window > 0: only the last `window`.
 * bias: broadcastable to [B, H, L, M], added to the scaled scores. key_mask: [B, M] (packed: [T]) bool, false is not read.
 * A query that may read nothing gives 0. scale 0 means 1/sqrt(Q). dropout on the probabilities: rate with `step` as key.
 * Result has q's shape and dtype. Cost 4*B*H*L*M*Q FLOP (half when causal); never stores the L x M scores.
 * Source: Dao et al. 2022 (tiles, online softmax); Shazeer 2019 (multiquery). */
typedef struct tn_attention_options {
    bool causal;
    int64_t window;
    double scale;
    tn_node bias;
    tn_node key_mask;
    tn_node offsets;
    tn_node length;
    int64_t longest; /* packed: upper bound on a segment's length (0: T) */
} tn_attention_options;
tn_node tn_attention_with(tn_node q, tn_node k, tn_node v, tn_attention_options options);
/* Rotary positions on the last dimension Q (even): x [..., L, H, Q] or packed [T, H, Q], position [L], [B, L] or [T] i32.
 * interleaved: pairs (2i, 2i+1) as llama2.c and GPT-J; else halves (i, i + rotary/2) as GPT-NeoX, HF Llama and PaLM.
 * rotary: the first so many elements turn (0: all). Angles in f32 (f64 in ref) whatever x is: position * base^(-2i/rotary). */
typedef struct tn_rope_options {
    double base; /* 0 means 10000 */
    bool interleaved;
    int64_t rotary;
} tn_rope_options;
tn_node tn_rope_with(tn_node x, tn_node position, tn_rope_options options);

/* ---- recurrent --------------------------------------------------------------------------------------------------------------------- */
/* A whole sequence in one node. x [L, B, I] time-major; w_input [G*N, I], w_hidden [G*N, N], b_input, b_hidden [G*N] (torch's order:
 * LSTM i,f,g,o, G=4; GRU r,z,n, G=3), h0 [B, N], c0 [B, N] (LSTM). length [B] i32 or TN_NONE: steps >= length[b] leave the
 * state as it is and output 0. Clients: a leading dimension on every argument ([P, L, B, I], [P, G*N, I], ...) runs P small models
 * as one batched product. Returns outputs [L, B, N] and the last states. */
typedef struct tn_recurrent_result {
    tn_node y, h, c;
} tn_recurrent_result;
tn_recurrent_result tn_lstm_sequence(tn_node x, tn_node w_input, tn_node w_hidden, tn_node b_input,
                                     tn_node b_hidden, tn_node h0, tn_node c0, tn_node length);
tn_recurrent_result tn_gru_sequence(tn_node x, tn_node w_input, tn_node w_hidden, tn_node b_input,
                                    tn_node b_hidden, tn_node h0, tn_node length);

/* ---- index -------------------------------------------------------------------------------------------------------------------------- */
/* Slices of x along `axis` at integer `index` (any shape): result is x's shape with that axis replaced by index's shape.
 * An index outside [0, n) makes the run fail with its value and place. Embedding lookup is axis 0. */
tn_node tn_gather(tn_node x, tn_node index, int axis);
/* The adjoint: zeros of `shape` plus values added at index along axis, in a fixed order. */
tn_node tn_scatter_add(tn_shape shape, tn_node index, tn_node values, int axis);
/* out[..., i, ...] = x[..., index[..., i, ...], ...]: index has x's rank. And its adjoint: zeros of `shape` to which values are added
 * (where indices meet, all of them, in a fixed order). */
tn_node tn_take_along(tn_node x, tn_node index, int axis);
tn_node tn_put_along(tn_shape shape, tn_node index, tn_node values, int axis);
/* x [T, ...] with offsets [S+1] i32 -> [S, ...]; an empty segment gives 0 (max: 0, no gradient). */
tn_node tn_segment_sum(tn_node x, tn_node offsets);
tn_node tn_segment_mean(tn_node x, tn_node offsets);
tn_node tn_segment_max(tn_node x, tn_node offsets);
/* Row s of x [S, ...] repeated offsets[s+1]-offsets[s] times: [total, ...]. */
tn_node tn_segment_broadcast(tn_node x, tn_node offsets, int64_t total);
typedef struct tn_sort_result {
    tn_node values, indices; /* indices i64 */
} tn_sort_result;
/* The k largest along the last axis, descending; lowest index first on ties; NaN counts as largest. */
tn_sort_result tn_top_k(tn_node x, int64_t k);
/* Stable along the last axis. */
tn_sort_result tn_sort(tn_node x, bool descending);
tn_node tn_one_hot(tn_node index, int64_t classes,
                   tn_dtype dtype); /* out-of-range gives a row of zeros */
/* base with `values` written at run-time positions along axis: base [B, M, ...], values [B, L, ...], start [B] i32: row b's values
 * land at start[b] ... (axis 1). The KV cache's update; in place when base is state that is assigned the result. */
tn_node tn_cache_write(tn_node base, tn_node values, tn_node start);

/* ---- geometry ------------------------------------------------------------------------------------------------------------------------- */
typedef enum tn_border { TN_BORDER_ZERO = 0, TN_BORDER_CLAMP } tn_border;
/* Bilinear samples of image [B, C, H, W] at grid [B, h, w, 2] of (x, y) in pixels (pixel centres at integers): [B, C, h, w].
 * A NaN coordinate counts as minus infinity. */
tn_node tn_grid_sample(tn_node image, tn_node grid, tn_border border);
typedef enum tn_resize_kind {
    TN_RESIZE_NEAREST = 0,
    TN_RESIZE_BILINEAR,
    TN_RESIZE_AREA,
    TN_RESIZE_CUBIC
} tn_resize_kind;
/* Last 1..3 dimensions after [B, C]; half-pixel centres (align_corners: corners map to corners). PyTorch's definitions; nearest is its
 * "nearest-exact". Formulas: src/graph/geometry.h. */
tn_node tn_resize(tn_node x, const int64_t *space, tn_resize_kind kind, bool align_corners);
/* Grid for tn_grid_sample from matrices [B, 2, 3] acting on pixel coordinates of the output. */
tn_node tn_affine_grid(tn_node matrix, int64_t height, int64_t width);

/* ---- random: pure functions of (seed, stream, step, element) ----------------------------------------------------------------------------- */
/* `step`: an i64 scalar node (a run counter), or TN_NONE for the same numbers at every run. */
typedef struct tn_random_key {
    uint64_t seed, stream;
    tn_node step;
} tn_random_key;
/* A key for the next random node of this scope; streams are numbered by scope path and order. */
tn_random_key tn_key(tn_scope scope);
tn_node tn_random_uniform_node(tn_random_key key, tn_graph *graph, tn_shape shape);
tn_node tn_random_normal_node(tn_random_key key, tn_graph *graph, tn_shape shape);
/* x with elements zeroed at `rate`, rounded to a multiple of 2^-16, and the rest scaled by 1/(1-rate). */
tn_node tn_dropout_node(tn_node x, double rate, tn_random_key key);
/* A uniform permutation of 0..count-1, i64. */
tn_node tn_permutation_node(tn_random_key key, tn_graph *graph, int64_t count);
/* logits [N, V] -> [N] i64, one draw a row (Gumbel maximum). A NaN logit is never drawn; a row without a finite one gives 0. */
tn_node tn_categorical_node(tn_node logits, tn_random_key key);

/* ---- where each was built ------------------------------------------------------------------------------------------------------------------- */
#ifndef TN_NO_PLACES /* the library's own rules: their nodes keep the place of the node they belong to */
#define tn_neg(...) TN_AT(tn_neg, __VA_ARGS__)
#define tn_abs(...) TN_AT(tn_abs, __VA_ARGS__)
#define tn_sign(...) TN_AT(tn_sign, __VA_ARGS__)
#define tn_exp(...) TN_AT(tn_exp, __VA_ARGS__)
#define tn_log(...) TN_AT(tn_log, __VA_ARGS__)
#define tn_log1p(...) TN_AT(tn_log1p, __VA_ARGS__)
#define tn_expm1(...) TN_AT(tn_expm1, __VA_ARGS__)
#define tn_sqrt(...) TN_AT(tn_sqrt, __VA_ARGS__)
#define tn_rsqrt(...) TN_AT(tn_rsqrt, __VA_ARGS__)
#define tn_reciprocal(...) TN_AT(tn_reciprocal, __VA_ARGS__)
#define tn_square(...) TN_AT(tn_square, __VA_ARGS__)
#define tn_sin(...) TN_AT(tn_sin, __VA_ARGS__)
#define tn_cos(...) TN_AT(tn_cos, __VA_ARGS__)
#define tn_tanh(...) TN_AT(tn_tanh, __VA_ARGS__)
#define tn_erf(...) TN_AT(tn_erf, __VA_ARGS__)
#define tn_sigmoid(...) TN_AT(tn_sigmoid, __VA_ARGS__)
#define tn_softplus(...) TN_AT(tn_softplus, __VA_ARGS__)
#define tn_relu(...) TN_AT(tn_relu, __VA_ARGS__)
#define tn_gelu(...) TN_AT(tn_gelu, __VA_ARGS__)
#define tn_gelu_tanh(...) TN_AT(tn_gelu_tanh, __VA_ARGS__)
#define tn_silu(...) TN_AT(tn_silu, __VA_ARGS__)
#define tn_floor(...) TN_AT(tn_floor, __VA_ARGS__)
#define tn_ceil(...) TN_AT(tn_ceil, __VA_ARGS__)
#define tn_round(...) TN_AT(tn_round, __VA_ARGS__)
#define tn_not(...) TN_AT(tn_not, __VA_ARGS__)
#define tn_is_finite(...) TN_AT(tn_is_finite, __VA_ARGS__)
#define tn_leaky_relu(...) TN_AT(tn_leaky_relu, __VA_ARGS__)
#define tn_clamp(...) TN_AT(tn_clamp, __VA_ARGS__)
#define tn_cast(...) TN_AT(tn_cast, __VA_ARGS__)
#define tn_affine(...) TN_AT(tn_affine, __VA_ARGS__)
#define tn_power(...) TN_AT(tn_power, __VA_ARGS__)
#define tn_add(...) TN_AT(tn_add, __VA_ARGS__)
#define tn_subtract(...) TN_AT(tn_subtract, __VA_ARGS__)
#define tn_multiply(...) TN_AT(tn_multiply, __VA_ARGS__)
#define tn_divide(...) TN_AT(tn_divide, __VA_ARGS__)
#define tn_maximum(...) TN_AT(tn_maximum, __VA_ARGS__)
#define tn_minimum(...) TN_AT(tn_minimum, __VA_ARGS__)
#define tn_pow(...) TN_AT(tn_pow, __VA_ARGS__)
#define tn_mod(...) TN_AT(tn_mod, __VA_ARGS__)
#define tn_equal(...) TN_AT(tn_equal, __VA_ARGS__)
#define tn_not_equal(...) TN_AT(tn_not_equal, __VA_ARGS__)
#define tn_less(...) TN_AT(tn_less, __VA_ARGS__)
#define tn_less_equal(...) TN_AT(tn_less_equal, __VA_ARGS__)
#define tn_greater(...) TN_AT(tn_greater, __VA_ARGS__)
#define tn_greater_equal(...) TN_AT(tn_greater_equal, __VA_ARGS__)
#define tn_and(...) TN_AT(tn_and, __VA_ARGS__)
#define tn_or(...) TN_AT(tn_or, __VA_ARGS__)
#define tn_where(...) TN_AT(tn_where, __VA_ARGS__)
#define tn_sum(...) TN_AT(tn_sum, __VA_ARGS__)
#define tn_mean(...) TN_AT(tn_mean, __VA_ARGS__)
#define tn_max(...) TN_AT(tn_max, __VA_ARGS__)
#define tn_min(...) TN_AT(tn_min, __VA_ARGS__)
#define tn_logsumexp(...) TN_AT(tn_logsumexp, __VA_ARGS__)
#define tn_argmax(...) TN_AT(tn_argmax, __VA_ARGS__)
#define tn_argmin(...) TN_AT(tn_argmin, __VA_ARGS__)
#define tn_cumsum(...) TN_AT(tn_cumsum, __VA_ARGS__)
#define tn_cumprod(...) TN_AT(tn_cumprod, __VA_ARGS__)
#define tn_linear_scan(...) TN_AT(tn_linear_scan, __VA_ARGS__)
#define tn_sum_to(...) TN_AT(tn_sum_to, __VA_ARGS__)
#define tn_reshape(...) TN_AT(tn_reshape, __VA_ARGS__)
#define tn_transpose(...) TN_AT(tn_transpose, __VA_ARGS__)
#define tn_swap_axes(...) TN_AT(tn_swap_axes, __VA_ARGS__)
#define tn_broadcast(...) TN_AT(tn_broadcast, __VA_ARGS__)
#define tn_expand_dims(...) TN_AT(tn_expand_dims, __VA_ARGS__)
#define tn_squeeze(...) TN_AT(tn_squeeze, __VA_ARGS__)
#define tn_slice(...) TN_AT(tn_slice, __VA_ARGS__)
#define tn_concat(...) TN_AT(tn_concat, __VA_ARGS__)
#define tn_split(...) TN_AT(tn_split, __VA_ARGS__)
#define tn_stack(...) TN_AT(tn_stack, __VA_ARGS__)
#define tn_pad(...) TN_AT(tn_pad, __VA_ARGS__)
#define tn_flip(...) TN_AT(tn_flip, __VA_ARGS__)
#define tn_roll(...) TN_AT(tn_roll, __VA_ARGS__)
#define tn_convolution(...) TN_AT(tn_convolution, __VA_ARGS__)
#define tn_convolution_input(...) TN_AT(tn_convolution_input, __VA_ARGS__)
#define tn_convolution_weight(...) TN_AT(tn_convolution_weight, __VA_ARGS__)
#define tn_max_pool(...) TN_AT(tn_max_pool, __VA_ARGS__)
#define tn_average_pool(...) TN_AT(tn_average_pool, __VA_ARGS__)
#define tn_softmax(...) TN_AT(tn_softmax, __VA_ARGS__)
#define tn_log_softmax(...) TN_AT(tn_log_softmax, __VA_ARGS__)
#define tn_layer_norm(...) TN_AT(tn_layer_norm, __VA_ARGS__)
#define tn_rms_norm(...) TN_AT(tn_rms_norm, __VA_ARGS__)
#define tn_batch_norm_train(...) TN_AT(tn_batch_norm_train, __VA_ARGS__)
#define tn_batch_norm_apply(...) TN_AT(tn_batch_norm_apply, __VA_ARGS__)
#define tn_group_norm(...) TN_AT(tn_group_norm, __VA_ARGS__)
#define tn_normalize(...) TN_AT(tn_normalize, __VA_ARGS__)
#define tn_cross_entropy_soft(...) TN_AT(tn_cross_entropy_soft, __VA_ARGS__)
#define tn_bce_with_logits(...) TN_AT(tn_bce_with_logits, __VA_ARGS__)
#define tn_kl_divergence(...) TN_AT(tn_kl_divergence, __VA_ARGS__)
#define tn_huber(...) TN_AT(tn_huber, __VA_ARGS__)
#define tn_dice_loss(...) TN_AT(tn_dice_loss, __VA_ARGS__)
#define tn_focal_tversky(...) TN_AT(tn_focal_tversky, __VA_ARGS__)
#define tn_cosine_similarity(...) TN_AT(tn_cosine_similarity, __VA_ARGS__)
#define tn_cosine_similarity_list(...) TN_AT(tn_cosine_similarity_list, __VA_ARGS__)
#define tn_info_nce(...) TN_AT(tn_info_nce, __VA_ARGS__)
#define tn_lstm_sequence(...) TN_AT(tn_lstm_sequence, __VA_ARGS__)
#define tn_gru_sequence(...) TN_AT(tn_gru_sequence, __VA_ARGS__)
#define tn_gather(...) TN_AT(tn_gather, __VA_ARGS__)
#define tn_scatter_add(...) TN_AT(tn_scatter_add, __VA_ARGS__)
#define tn_take_along(...) TN_AT(tn_take_along, __VA_ARGS__)
#define tn_put_along(...) TN_AT(tn_put_along, __VA_ARGS__)
#define tn_segment_sum(...) TN_AT(tn_segment_sum, __VA_ARGS__)
#define tn_segment_mean(...) TN_AT(tn_segment_mean, __VA_ARGS__)
#define tn_segment_max(...) TN_AT(tn_segment_max, __VA_ARGS__)
#define tn_segment_broadcast(...) TN_AT(tn_segment_broadcast, __VA_ARGS__)
#define tn_top_k(...) TN_AT(tn_top_k, __VA_ARGS__)
#define tn_sort(...) TN_AT(tn_sort, __VA_ARGS__)
#define tn_one_hot(...) TN_AT(tn_one_hot, __VA_ARGS__)
#define tn_cache_write(...) TN_AT(tn_cache_write, __VA_ARGS__)
#define tn_grid_sample(...) TN_AT(tn_grid_sample, __VA_ARGS__)
#define tn_resize(...) TN_AT(tn_resize, __VA_ARGS__)
#define tn_affine_grid(...) TN_AT(tn_affine_grid, __VA_ARGS__)
#define tn_random_uniform_node(...) TN_AT(tn_random_uniform_node, __VA_ARGS__)
#define tn_random_normal_node(...) TN_AT(tn_random_normal_node, __VA_ARGS__)
#define tn_dropout_node(...) TN_AT(tn_dropout_node, __VA_ARGS__)
#define tn_permutation_node(...) TN_AT(tn_permutation_node, __VA_ARGS__)
#define tn_categorical_node(...) TN_AT(tn_categorical_node, __VA_ARGS__)
#endif
#define tn_matmul(a, b, ...) TN_AT(tn_matmul_with, a, b, (tn_matmul_options){__VA_ARGS__})
#define tn_attention(q, k, v, ...)                                                                 \
    TN_AT(tn_attention_with, q, k, v, (tn_attention_options){__VA_ARGS__})
#define tn_rope(x, position, ...) TN_AT(tn_rope_with, x, position, (tn_rope_options){__VA_ARGS__})
#define tn_cross_entropy(logits, labels, ...)                                                      \
    TN_AT(tn_cross_entropy_with, logits, labels, (tn_cross_entropy_options){__VA_ARGS__})

#ifdef __cplusplus
}
#endif
#endif
