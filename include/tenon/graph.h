/* Graphs: a computation written once, then differentiated, fused, planned and run.
 *
 * A node is a value with a fixed dtype and shape. Building never returns a status: the first error stays in the
 * graph with the source line that built the node, every later call quietly returns an empty node, and tn_compile
 * (or tn_graph_status) reports it. So a model reads like its paper, without a check per line.
 *
 * Dimension letters used in comments everywhere: B batch, L length, T tokens (packed), E model width, F feed-forward
 * width, H heads, K key/value heads, Q head width, V vocabulary, C,H,W / C,D,H,W channels and space, N anything. */
#ifndef TENON_GRAPH_H
#define TENON_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "tenon/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- element types and shapes -------------------------------------------------------------------------------- */

typedef enum tn_dtype {
    TN_F32 = 0, /* first, so that a zeroed option means f32 */
    TN_F64,
    TN_BF16,
    TN_F16,
    TN_I64,
    TN_I32,
    TN_I8,
    TN_U8,
    TN_BOOL, /* one byte, 0 or 1 */
    TN_DTYPE_COUNT
} tn_dtype;

size_t tn_dtype_size(tn_dtype dtype);      /* bytes of one element */
const char *tn_dtype_name(tn_dtype dtype); /* "f32", ... */
bool tn_dtype_is_float(tn_dtype dtype);    /* f64, f32, bf16, f16 */

#define TN_MAX_RANK 8

/* Row-major: the last dimension is contiguous. rank 0 is a scalar. Dimensions are >= 0. */
typedef struct tn_shape {
    int rank;
    int64_t dim[TN_MAX_RANK];
} tn_shape;

/* TN_SHAPE(batch, 3, 32, 32); TN_SCALAR for rank 0. */
#define TN_SHAPE(...)                                                                              \
    ((tn_shape){.rank = (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),                 \
                .dim = {__VA_ARGS__}})
#define TN_SCALAR ((tn_shape){0})

int64_t tn_shape_size(tn_shape shape); /* number of elements; -1 on overflow */
bool tn_shape_equal(tn_shape a, tn_shape b);

/* ---- graph and nodes ------------------------------------------------------------------------------------------ */

typedef struct tn_graph tn_graph;
typedef struct tn_state tn_state;

/* A handle, passed by value. {NULL, 0} is "no node": what failed calls return and what optional arguments accept. */
typedef struct tn_node {
    tn_graph *graph;
    int32_t id;
} tn_node;

#define TN_NONE ((tn_node){0})
static inline bool tn_is_none(tn_node node) { return node.graph == NULL; }

/* A new empty graph. `state`: where its parameters and other named state live; shared by any number of graphs and
 * plans, and outlives them. NULL for a graph without state. Free with tn_graph_free (compiled plans do not need
 * the graph any more). NULL only when out of memory. */
tn_graph *tn_graph_create(tn_state *state);
void tn_graph_free(tn_graph *graph);

/* The first error met while building, with its message set; TN_OK if none. */
tn_status tn_graph_status(const tn_graph *graph);
int tn_graph_node_count(const tn_graph *graph);

tn_shape tn_shape_of(tn_node node);
int64_t tn_dim(tn_node node, int axis); /* negative axes count from the end; 0 for an empty node */
int tn_rank(tn_node node);
tn_dtype tn_dtype_of(tn_node node);

/* One line a node (text) or Graphviz dot. */
void tn_graph_print(const tn_graph *graph, FILE *out);
void tn_graph_print_dot(const tn_graph *graph, FILE *out);

/* ---- leaves ---------------------------------------------------------------------------------------------------- */

/* A value fed at every run. `name` must be unique in the graph. */
tn_node tn_input(tn_graph *graph, const char *name, tn_dtype dtype, tn_shape shape);
/* A constant; the bytes (row-major) are copied. */
tn_node tn_constant(tn_graph *graph, tn_dtype dtype, tn_shape shape, const void *bytes);
/* Every element `value`. No memory until run; kernels see it as a broadcast scalar. */
tn_node tn_fill(tn_graph *graph, tn_dtype dtype, tn_shape shape, double value);
/* 0, 1, ... along `axis`. */
tn_node tn_iota(tn_graph *graph, tn_dtype dtype, tn_shape shape, int axis);

/* ---- named state ------------------------------------------------------------------------------------------------ */

/* How a missing state entry gets its first values; drawn from Philox keyed by (state seed, name), so it does not
 * depend on the order of building. */
typedef enum tn_init_kind {
    TN_INIT_ZERO = 0,
    TN_INIT_CONSTANT,        /* a */
    TN_INIT_UNIFORM,         /* [a, b) */
    TN_INIT_NORMAL,          /* mean a, standard deviation b */
    TN_INIT_TRUNCATED_NORMAL /* the same, redrawn outside two standard deviations */
} tn_init_kind;

typedef struct tn_init {
    tn_init_kind kind;
    double a, b;
} tn_init;

/* The value that the graph's state holds under `name` when a run begins. Declaring the same name again (in this or
 * another graph over the state) gives the same storage; dtype and shape must agree. The entry is made and
 * initialised at compile time unless it exists (e.g. was loaded). */
tn_node tn_state_node(tn_graph *graph, const char *name, tn_dtype dtype, tn_shape shape,
                      tn_init init);

/* From the end of a run on, the state behind `state_node` holds `value` (same dtype and shape). All reads in the same
 * run see the old value. Done in place where the plan can prove it safe. Returns a token for tn_compile's .updates
 * or tn_group. One assignment per entry and plan. */
tn_node tn_assign(tn_node state_node, tn_node value);
/* A token that stands for several. Empty nodes are skipped. */
tn_node tn_group(tn_graph *graph, const tn_node *tokens, int count);

/* Collects a token that belongs to "one training step of this graph" (running statistics of batch norm);
 * tn_take_deferred groups and forgets them. */
void tn_defer(tn_node token);
tn_node tn_take_deferred(tn_graph *graph);

/* ---- scopes: where parameter names come from -------------------------------------------------------------------- */

typedef struct tn_scope {
    tn_graph *graph;
    const char *path; /* "" at the root, else "layer.0.attention"; lives as long as the graph */
    tn_dtype compute; /* dtype in which layers multiply: TN_F32 or TN_BF16 (parameters stay f32) */
    bool training;    /* batch statistics, dropout on */
    tn_node
        step; /* i64 scalar that counts runs: part of the key of random nodes; TN_NONE if nothing is random */
    uint64_t seed;
} tn_scope;

tn_scope tn_root(tn_graph *graph);
/* The scope `name` (printf style) inside `scope`. */
tn_scope tn_in(tn_scope scope, const char *name, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;
/* State entry `path.name` marked as a parameter (f32, trainable unless an optimiser's group freezes it). */
tn_node tn_parameter(tn_scope scope, const char *name, tn_shape shape, tn_init init);

/* ---- derivatives -------------------------------------------------------------------------------------------------- */

/* d loss / d wrt[i] for i < count, written as nodes of the same graph: differentiate again for higher orders.
 * `loss` must be a scalar. A wrt that the loss does not depend on gives a zero fill. wrt may be any nodes: inputs,
 * states, intermediate values. */
void tn_gradients(tn_node loss, const tn_node *wrt, int count, tn_node *gradient);
/* The vector-Jacobian product: sum_i <seed[i], out[i]> differentiated. */
void tn_vjp(const tn_node *out, const tn_node *seed, int out_count, const tn_node *wrt, int count,
            tn_node *gradient);
/* The same value; no gradient passes. */
tn_node tn_stop_gradient(tn_node x);
/* Marks `y`, computed from `x` (any values behind which recomputation stops), so that the backward pass recomputes what lies
 * between instead of keeping it. */
tn_node tn_checkpoint(tn_node y, const tn_node *boundary, int count);

/* ---- where a node was built ---------------------------------------------------------------------------------------- */

/* Sets file:line for nodes built from here on (on this thread). The macros in tenon/ops.h and nn.h call it. */
void tn_here(const char *file, int line);
#ifndef TN_NO_PLACES
#define TN_AT(function, ...) (tn_here(__FILE__, __LINE__), function(__VA_ARGS__))
#define tn_input(...) TN_AT(tn_input, __VA_ARGS__)
#define tn_constant(...) TN_AT(tn_constant, __VA_ARGS__)
#define tn_assign(...) TN_AT(tn_assign, __VA_ARGS__)
#else
#define TN_AT(function, ...) function(__VA_ARGS__)
#endif

#ifdef __cplusplus
}
#endif
#endif
