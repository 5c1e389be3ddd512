/* What the compiler knows of an operation: one row a family file, and the node that a row makes.
 *
 * Internal. Files of graph/ and below include it; it switches off the place-recording macros, so that nodes made by a
 * rule keep the place (file:line) of the node the rule works for. */
#ifndef TN_GRAPH_OP_H
#define TN_GRAPH_OP_H

#ifndef TN_NO_PLACES
#define TN_NO_PLACES
#endif

#include "base/arena.h"
#include "base/status.h"
#include "tenon/graph.h"
#include "tenon/ops.h"

/* Every built-in operation. Rows live in graph/ops/FAMILY.c, kernels in ref/FAMILY.c and cpu/. */
typedef enum tn_op_id {
    /* leaves and structure: graph/ops/leaves.c */
    TN_OP_INPUT = 1,
    TN_OP_STATE,
    TN_OP_CONSTANT,
    TN_OP_FILL,
    TN_OP_IOTA,
    TN_OP_RESULT, /* result number `index` of a node with several */
    TN_OP_STOP_GRADIENT,
    TN_OP_CHECKPOINT,
    TN_OP_AFTER, /* input 0's value, available only once input 1 is: orders recomputation */
    TN_OP_ASSIGN,
    TN_OP_GROUP,
    /* element-wise: graph/ops/elementwise.c */
    TN_OP_NEG,
    TN_OP_ABS,
    TN_OP_SIGN,
    TN_OP_EXP,
    TN_OP_LOG,
    TN_OP_LOG1P,
    TN_OP_EXPM1,
    TN_OP_SQRT,
    TN_OP_RSQRT,
    TN_OP_RECIPROCAL,
    TN_OP_SQUARE,
    TN_OP_SIN,
    TN_OP_COS,
    TN_OP_TANH,
    TN_OP_ERF,
    TN_OP_SIGMOID,
    TN_OP_SOFTPLUS,
    TN_OP_RELU,
    TN_OP_GELU,
    TN_OP_GELU_TANH,
    TN_OP_SILU,
    TN_OP_FLOOR,
    TN_OP_CEIL,
    TN_OP_ROUND,
    TN_OP_NOT,
    TN_OP_IS_FINITE,
    TN_OP_LEAKY_RELU,
    TN_OP_CLAMP,
    TN_OP_CAST,
    TN_OP_AFFINE,
    TN_OP_POWER,
    TN_OP_RELU_GRAD,
    TN_OP_GELU_GRAD,
    TN_OP_GELU_TANH_GRAD,
    TN_OP_SILU_GRAD, /* (x, d_out): one pass; decompose */
    TN_OP_ADD,
    TN_OP_SUBTRACT,
    TN_OP_MULTIPLY,
    TN_OP_DIVIDE,
    TN_OP_MAXIMUM,
    TN_OP_MINIMUM,
    TN_OP_POW,
    TN_OP_MOD,
    TN_OP_EQUAL,
    TN_OP_NOT_EQUAL,
    TN_OP_LESS,
    TN_OP_LESS_EQUAL,
    TN_OP_GREATER,
    TN_OP_GREATER_EQUAL,
    TN_OP_AND,
    TN_OP_OR,
    TN_OP_WHERE,
    TN_OP_FUSED, /* a program of element-wise operations and reductions, made by the fuse pass */
    /* reductions and scans: graph/ops/reduce.c */
    TN_OP_SUM,
    TN_OP_MEAN,
    TN_OP_MAX,
    TN_OP_MIN,
    TN_OP_ARGMAX,
    TN_OP_ARGMIN,
    TN_OP_CUMSUM,
    TN_OP_CUMPROD,
    TN_OP_LINEAR_SCAN, /* s[i] = a[i] + b[i] s[i-1] along an axis */
    /* shape: graph/ops/shape.c */
    TN_OP_RESHAPE,
    TN_OP_TRANSPOSE,
    TN_OP_BROADCAST,
    TN_OP_SLICE,
    TN_OP_UNSLICE, /* zeros with x written at a slice: the adjoint of SLICE */
    TN_OP_CONCAT,
    TN_OP_PAD,
    TN_OP_PAD_GRAD,
    TN_OP_FLIP,
    TN_OP_ROLL,
    /* products: graph/ops/product.c */
    TN_OP_MATMUL,
    TN_OP_CONVOLUTION,
    TN_OP_CONVOLUTION_INPUT,
    TN_OP_CONVOLUTION_WEIGHT,
    /* pooling: graph/ops/pool.c */
    TN_OP_MAX_POOL,
    TN_OP_MAX_POOL_GRAD,
    TN_OP_MAX_POOL_TAKE,
    TN_OP_AVERAGE_POOL,
    TN_OP_AVERAGE_POOL_GRAD,
    /* norms and softmax: graph/ops/norm.c */
    TN_OP_SOFTMAX,
    TN_OP_SOFTMAX_GRAD,
    TN_OP_LOG_SOFTMAX,
    TN_OP_LOG_SOFTMAX_GRAD,
    TN_OP_LAYER_NORM,
    TN_OP_LAYER_NORM_GRAD,
    TN_OP_RMS_NORM,
    TN_OP_RMS_NORM_GRAD,
    TN_OP_BATCH_NORM,
    TN_OP_BATCH_NORM_GRAD,
    TN_OP_GROUP_NORM,
    TN_OP_GROUP_NORM_GRAD,
    /* losses: graph/ops/loss.c */
    TN_OP_CROSS_ENTROPY,
    TN_OP_CROSS_ENTROPY_GRAD,
    /* attention: graph/ops/attention.c */
    TN_OP_ATTENTION,
    TN_OP_ATTENTION_GRAD,
    TN_OP_ATTENTION_BIAS_GRAD,
    TN_OP_ROPE,
    TN_OP_CACHE_WRITE,
    /* recurrent: graph/ops/recurrent.c */
    TN_OP_LSTM,
    TN_OP_LSTM_GRAD,
    TN_OP_GRU,
    TN_OP_GRU_GRAD,
    /* index: graph/ops/index.c */
    TN_OP_GATHER,
    TN_OP_SCATTER_ADD,
    TN_OP_TAKE_ALONG,
    TN_OP_PUT_ALONG,
    TN_OP_SEGMENT_SUM,
    TN_OP_SEGMENT_MAX,
    TN_OP_SEGMENT_BROADCAST,
    TN_OP_TOP_K,
    TN_OP_SORT,
    TN_OP_ONE_HOT,
    /* geometry: graph/ops/geometry.c */
    TN_OP_GRID_SAMPLE,
    TN_OP_GRID_SAMPLE_GRAD,
    TN_OP_RESIZE,
    TN_OP_RESIZE_GRAD,
    /* random: graph/ops/random.c */
    TN_OP_RANDOM_UNIFORM,
    TN_OP_RANDOM_NORMAL,
    TN_OP_DROPOUT,
    TN_OP_PERMUTATION,
    TN_OP_CATEGORICAL,
    TN_OP_COUNT
} tn_op_id;

#define TN_MAX_IN 12 /* inputs of an ordinary op; CONCAT and GROUP and FUSED take any number */
#define TN_MAX_RESULTS 8

enum {
    TN_ELEMENTWISE = 1, /* out[i] depends on the inputs' (broadcast) elements i: may be fused */
    TN_VIEW = 2,        /* may be a view of input 0 (the planner asks tn_view_of) */
    TN_LINEAR = 4,      /* linear in input 0 */
    TN_COMMUTATIVE = 8,
    TN_EFFECT = 16,      /* kept although nobody reads it: ASSIGN, GROUP */
    TN_NO_GRADIENT = 32, /* no gradient passes: comparisons, integer results, STOP_GRADIENT */
};

typedef struct tn_op tn_op;
typedef struct tn_value tn_value;
typedef struct tn_kernel tn_kernel;

/* One node. Immutable once built. */
struct tn_value {
    const tn_op *op;
    tn_dtype dtype;
    tn_shape shape;
    int32_t in_count;
    const int32_t *in; /* ids */
    const void
        *attribute; /* the op's own struct, no pointers inside except FUSED's; padding zeroed */
    int32_t attribute_size;
    int32_t
        result_count; /* 1; for nodes with several results the further ones are RESULT nodes right behind it */
    uint32_t
        generation;   /* nodes of a recomputation differ here, so that merging leaves them apart */
    const char *name; /* INPUT, STATE: the name; else the scope path or NULL */
    const char *file; /* where it was built */
    int32_t line;
};

/* One row of the op table. */
struct tn_op {
    tn_op_id id;
    const char *name;
    unsigned flags;
    /* Writes d_in[i] (may stay empty: no gradient) for each input from d_out[r] (empty where none arrived) for each
     * result r. Everything is written in ops, so the rule can be differentiated again. */
    void (*vjp)(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in);
    /* The same results in simpler ops: what a backend without a kernel runs, what is differentiated when there is no
     * vjp (that is: for second order), and what tests hold the kernel against. */
    void (*decompose)(const tn_node *in, const tn_node self, tn_node *out);
    /* FLOP of one evaluation; NULL: one per output element. */
    double (*flop)(const tn_value *self, const tn_value *const *in);
    /* Kernels of systems' own ops, per backend; built-in ops leave these NULL and are found in the backend's table. */
    const tn_kernel *kernel_ref, *kernel_cpu;
};

/* Adds a row of a system's own (id stays 0). The row must live for ever (static). Nothing needs to be called for it: a node
 * points at its row. */

const tn_op *tn_op_find(tn_op_id id);

/* ---- building nodes from a rule -------------------------------------------------------------------------------------- */

typedef struct tn_new_node {
    const tn_op *op; /* or .id */
    tn_op_id id;
    tn_dtype dtype;
    tn_shape shape;
    const tn_node *in;
    int in_count;
    const void *attribute; /* copied; make it with memset 0 first */
    size_t attribute_size;
    /* results behind the first */
    int more;
    const tn_dtype *more_dtype;
    const tn_shape *more_shape;
} tn_new_node;

/* Appends a node (and its RESULT nodes). The graph is that of in[0], or `graph` for leaves. Returns an empty node when the graph has an
 * error already or an input is empty (which makes an error). Identical nodes are NOT merged here (merge_common does). */
tn_node tn_node_new(tn_graph *graph, const tn_new_node *description);
/* Result r of a node (0: the node itself). */
tn_node tn_result(tn_node node, int r);

const tn_value *tn_value_of(tn_node node);
const tn_value *tn_value_at(const tn_graph *graph, int32_t id);
static inline tn_node tn_input_of(tn_node node, int i)
{
    return (tn_node){node.graph, tn_value_of(node)->in[i]};
}

/* Records the first error of a graph, with the building place in front of the message; returns an empty node. */
tn_node tn_graph_fail(tn_graph *graph, const char *format, ...) TN_PRINTF(2, 3);
/* "[2, 3, 4]" in a rotating thread-local buffer (8 of them). */
const char *tn_shape_text(tn_shape shape);
/* NumPy broadcasting; false if the shapes do not fit. */
bool tn_shape_broadcast(tn_shape a, tn_shape b, tn_shape *out);
/* Index of axis in [0, rank), negative from the end; -1 and a graph error if out of range. */
int tn_axis(tn_node x, int axis);

/* Decomposition of `node` (any op with .decompose) into out[result_count]. */
void tn_decompose(tn_node node, tn_node *out);
/* The vjp of `node` by differentiating its decomposition: for a rule that covers only the usual case itself. */
void tn_vjp_decomposed(tn_node node, const tn_node *in, const tn_node *d_out, tn_node *d_in);

/* A node that is a FILL with a known value; *value set. */
bool tn_is_fill(tn_node node, double *value);
tn_node tn_like(tn_node x, double value); /* fill of x's dtype and shape */

/* ---- attributes shared between families and kernels -------------------------------------------------------------------- */

typedef struct tn_result_attribute {
    int32_t index;
} tn_result_attribute;
typedef struct tn_fill_attribute {
    double value;
} tn_fill_attribute;
typedef struct tn_iota_attribute {
    int32_t axis;
} tn_iota_attribute;
typedef struct tn_constant_attribute {
    const void *bytes;
    size_t size;
} tn_constant_attribute; /* bytes in the graph's arena */
typedef struct tn_scalar_attribute {
    double a, b;
} tn_scalar_attribute; /* LEAKY_RELU slope, CLAMP low high, AFFINE scale offset, POWER exponent */
typedef struct tn_reduce_attribute {
    uint32_t axes;
    bool keep;
} tn_reduce_attribute; /* bit i: axis i */
typedef struct tn_axis_attribute {
    int32_t axis;
    bool exclusive, reverse;
} tn_axis_attribute; /* ARGMAX, CUMSUM, CONCAT, FLIP, GATHER, SORT (reverse = descending)... */
typedef struct tn_transpose_attribute {
    int32_t permutation[TN_MAX_RANK];
} tn_transpose_attribute;
typedef struct tn_slice_attribute {
    int32_t axis;
    int64_t start, step, size;
} tn_slice_attribute; /* size: UNSLICE's full extent; SLICE: 0 */
typedef struct tn_pad_attribute {
    int64_t before[TN_MAX_RANK], after[TN_MAX_RANK];
    double value;
    int32_t mode;
} tn_pad_attribute;
typedef struct tn_roll_attribute {
    int32_t axis;
    int64_t shift;
} tn_roll_attribute;
typedef struct tn_matmul_attribute {
    bool transpose_a, transpose_b, has_bias;
    int32_t activation; /* 0, or TN_OP_RELU..: fused epilogue */
} tn_matmul_attribute;
typedef struct tn_conv_attribute {
    tn_conv_geometry geometry;
    bool has_bias;
} tn_conv_attribute; /* defaults resolved: no zeros */
typedef struct tn_pool_attribute {
    tn_pool_geometry geometry;
} tn_pool_attribute;

#endif
