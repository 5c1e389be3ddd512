/* What a FUSED node computes: a short program over one iteration space, in its attribute.
 *
 * Values are numbered: first the node's inputs, then the constants, then the results of the
 * instructions in order. Every input is broadcast to the iteration space by NumPy's rule. An
 * output is either a value, stored whole, or a reduction of a value over `axes` (the same for
 * all reductions of a program). The attribute is flat and without pointers, so it can be copied
 * and compared. */
#ifndef TN_GRAPH_FUSE_H
#define TN_GRAPH_FUSE_H

#include "graph/op.h"

#define TN_FUSED_MOST_INPUTS 48
#define TN_FUSED_MOST_CONSTANTS 48
#define TN_FUSED_MOST_INSTRUCTIONS 64
#define TN_FUSED_MOST_VALUES                                                                       \
    (TN_FUSED_MOST_INPUTS + TN_FUSED_MOST_CONSTANTS + TN_FUSED_MOST_INSTRUCTIONS)

typedef struct tn_fused_constant {
    double value; /* exactly a value of dtype */
    int32_t dtype, unused;
} tn_fused_constant;

typedef struct tn_fused_instruction {
    int32_t op;            /* tn_op_id of an element-wise operation */
    int32_t dtype;         /* of the result */
    int32_t operand_dtype; /* of the first operand */
    int32_t operand[3];    /* value numbers; -1 behind the last */
    double a, b;           /* the operation's scalars (tn_scalar_attribute) */
} tn_fused_instruction;

typedef struct tn_fused_output {
    int32_t value;
    int32_t reduction; /* 0: stored whole; else TN_OP_SUM, TN_OP_MEAN, TN_OP_MAX or TN_OP_MIN */
} tn_fused_output;

/* Followed in memory by the constants, the instructions and the outputs. */
typedef struct tn_fused_attribute {
    int32_t rank;
    uint32_t axes; /* reduced axes of the iteration space, as bits */
    int64_t dim[TN_MAX_RANK];
    int32_t input_count, constant_count, instruction_count, output_count;
} tn_fused_attribute;

static inline size_t tn_fused_size(const tn_fused_attribute *a)
{
    return sizeof *a + (size_t)a->constant_count * sizeof(tn_fused_constant) +
           (size_t)a->instruction_count * sizeof(tn_fused_instruction) +
           (size_t)a->output_count * sizeof(tn_fused_output);
}

static inline const tn_fused_constant *tn_fused_constants(const tn_fused_attribute *a)
{
    return (const tn_fused_constant *)(a + 1);
}

static inline const tn_fused_instruction *tn_fused_instructions(const tn_fused_attribute *a)
{
    return (const tn_fused_instruction *)(tn_fused_constants(a) + a->constant_count);
}

static inline const tn_fused_output *tn_fused_outputs(const tn_fused_attribute *a)
{
    return (const tn_fused_output *)(tn_fused_instructions(a) + a->instruction_count);
}

/* True for the operations that programs are made of. */
static inline bool tn_is_elementwise(tn_op_id id) { return id >= TN_OP_NEG && id <= TN_OP_WHERE; }

static inline bool tn_is_reduction(tn_op_id id)
{
    return id == TN_OP_SUM || id == TN_OP_MEAN || id == TN_OP_MAX || id == TN_OP_MIN;
}

#endif
