/* What a backend's kernel is to the planner: the contract between graph/, the backends and exec/. */
#ifndef TN_GRAPH_KERNEL_H
#define TN_GRAPH_KERNEL_H

#include "graph/op.h"

/* A tensor as a kernel sees it. Strides are in elements and belong to the dimension of the same index; a broadcast dimension has
 * stride 0. "Layout" in Tenon means nothing but strides: channels-last is [B, C, H, W] with C's stride 1. */
typedef struct tn_operand {
    tn_dtype dtype;
    int32_t rank;
    int64_t dim[TN_MAX_RANK];
    int64_t stride[TN_MAX_RANK];
} tn_operand;

static inline int64_t tn_operand_size(const tn_operand *x)
{
    int64_t n = 1;
    for (int i = 0; i < x->rank; i++) n *= x->dim[i];
    return n;
}

/* How a kernel wants an input, or makes an output, to lie. */
typedef enum tn_layout {
    TN_ROWS = 0,      /* dense, row-major */
    TN_ANY,           /* any strides, also 0 (broadcast); output: not allowed */
    TN_CHANNELS_LAST, /* dense, dimension 1 innermost, the rest row-major; rank < 3: row-major */
    TN_DENSE, /* dense in either of the two orders above (whichever it already is); output: as input 0 lies */
    TN_ANY_MATRIX, /* row-major batch, but the last two dimensions may have any strides one of which is 1 (matmul) */
} tn_layout;

typedef struct tn_step tn_step;

struct tn_kernel {
    /* Wanted layouts: in[i] for every input, out[r] for every result. NULL: all TN_ROWS. Called before prepare with in[].stride
     * as the producers left them. */
    void (*layouts)(const tn_step *step, tn_layout *in, tn_layout *out);
    /* bit i: result 0 may be written over input i when nobody else needs that (same bytes and strides). The kernel must then be right
     * with the pointers equal. */
    uint64_t in_place;
    /* Once, at compile time, with final strides: choose a primitive, precompute, set step->workspace (bytes of scratch for a run,
     * 64-byte aligned). NULL: nothing to do. */
    tn_status (*prepare)(tn_step *step);
    /* Reads in[i], writes out[r]; out pointers are 64-byte aligned and never overlap an input except by in_place. Must not allocate. May use
     * tn_parallel. Returns TN_OK, or TN_INVALID with a message (bad index). */
    tn_status (*run)(const tn_step *step, void *const *in, void *const *out, void *workspace);
    void (*release)(tn_step *step); /* frees step->prepared */
};

/* One step of a plan: a node with its kernel and the final look of its operands. */
struct tn_step {
    const tn_op *op;
    const tn_kernel *kernel;
    const void *attribute;
    int32_t in_count, out_count;
    tn_operand *in, *out;
    size_t workspace;
    void *prepared;
    const char *name; /* scope path, for messages; may be NULL */
    const char *file;
    int32_t line;
};

/* ---- for cpu/simd/: each file is compiled once per instruction set, and exports its kernels through one registrar ---------- */

/* The table a backend is: kernel by op. */
typedef struct tn_kernel_table {
    const tn_kernel *kernel[TN_OP_COUNT];
} tn_kernel_table;

#define TN_JOIN_(a, b) a##_##b
#define TN_JOIN(a, b) TN_JOIN_(a, b)
#ifdef TN_ISA_SUFFIX
#define TN_ISA(name) TN_JOIN(name, TN_ISA_SUFFIX)
#endif

/* The kernels of the running machine's instruction set (or TENON_ISA=v2|v3|v4); chosen once. */
const tn_kernel_table *tn_cpu_kernels(void);
/* The reference backend: every value a dense row-major array of double, whatever its dtype. */
const tn_kernel_table *tn_ref_kernels(void);

#endif
