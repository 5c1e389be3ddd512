/* Passes: each takes a program (a graph with its roots) and gives a program. compile.c lists them in order.
 *
 * A pass visits the nodes in id order (topological), copies what it keeps into a new graph through a map from old to new ids, and remaps
 * the roots. Cost is linear. */
#ifndef TN_GRAPH_PASS_H
#define TN_GRAPH_PASS_H

#include "graph/graph.h"
#include "graph/kernel.h"

typedef struct tn_program {
    tn_graph *graph;
    tn_graph *
        user; /* the caller's graph: outlives compiling, so what passes add and plans copy may live in its arena */
    bool owned; /* graph was made by a pass, and is freed by the next */
    int32_t *
        root; /* ids: feeds, then fetches, then the updates token (0 if none); 0 for a feed that nobody needs */
    int32_t feed_count, fetch_count, root_count;
    const tn_kernel_table *kernels; /* of the backend the program is compiled for */
} tn_program;

typedef tn_status (*tn_pass)(tn_program *program);

/* One rewriting in progress. */
typedef struct tn_rewrite {
    const tn_graph *from;
    tn_graph *to;
    int32_t *map; /* old id -> new id; 0: dropped or not yet visited */
    int32_t *in;  /* scratch for mapped inputs */
    int32_t in_capacity;
} tn_rewrite;

tn_status tn_rewrite_begin(tn_rewrite *rewrite, const tn_program *program);
/* Copies node `id` (with its RESULT nodes) with mapped inputs and enters it into the map. Visiting a RESULT node itself does nothing. */
void tn_rewrite_copy(tn_rewrite *rewrite, int32_t id);
/* Enters `node` of the new graph as the new form of old result `id`. */
void tn_rewrite_replace(tn_rewrite *rewrite, int32_t id, tn_node node);
static inline tn_node tn_rewrite_get(const tn_rewrite *rewrite, int32_t old)
{
    return rewrite->map[old] ? (tn_node){rewrite->to, rewrite->map[old]} : TN_NONE;
}
/* Remaps the roots, hands the new graph to the program and frees the old one if a pass had made it. On failure (of `status` or of the new
 * graph) frees the new graph and leaves the program as it was. */
tn_status tn_rewrite_end(tn_rewrite *rewrite, tn_program *program, tn_status status);

/* Adds to readers[id] (by id, from 0) how many nodes read each value; RESULT nodes do not count, and a root counts as two: it must exist,
 * whoever else reads it. */
void tn_count_readers(const tn_program *program, int32_t *readers);

/* A kernel for this node, or NULL. */
const tn_kernel *tn_kernel_for(const tn_kernel_table *kernels, const tn_op *op);

/* The passes of this floor. */
tn_status tn_pass_drop_dead(tn_program *program); /* what no root needs */
tn_status tn_pass_lower(tn_program *program);     /* decomposes ops without a kernel */
tn_status tn_pass_merge_common(
    tn_program *program); /* simplifies (x+0, reshape of reshape, ...) and merges identical nodes */
tn_status tn_pass_fuse_norms(
    tn_program *program); /* batch norm takes in the addition and ReLU behind it */
tn_status tn_pass_fuse_activations(
    tn_program *program); /* products do the activation behind them */
tn_status tn_pass_fuse(
    tn_program *program); /* element-wise chains and their reductions into FUSED nodes */

#endif
