/* What the steps of preparing a tile program share: the program while it is being built. */
#ifndef TN_CPU_TILE_BUILDER_H
#define TN_CPU_TILE_BUILDER_H

#include "cpu/tile_space.h"

#define TN_TILE_MOST_VALUES                                                                        \
    (TN_FUSED_MOST_VALUES +                                                                        \
     TN_FUSED_MOST_INSTRUCTIONS) /* multiply_add brings constants of its own */
#define TN_TILE_MOST_CALLS (2 * TN_FUSED_MOST_INSTRUCTIONS)
#define TN_TILE_AT_END INT32_MAX

/* One call before registers are chosen. */
typedef struct tile_call {
    tn_tile_function *const *form;          /* by scalar operands */
    tn_tile_function *alone[TN_TILE_FORMS]; /* a form table of its own, for casts */
    tn_tile_function *chosen;
    int16_t out, in[3];
    int in_count;
    tn_tile_scalars scalars;
} tile_call;

/* Arrays of TN_TILE_MOST_VALUES go by value number. */
typedef struct tile_builder {
    const tn_step *step;
    const tn_fused_attribute *a;
    const tn_fused_instruction *instruction;
    const tn_fused_output *output;
    const tn_tile_set *set;
    tn_tile_program *p;
    tile_space space;
    int input_count, first_result, value_count;
    tn_tile_class class[TN_TILE_MOST_VALUES];
    int16_t root[TN_TILE_MOST_VALUES]; /* the value that holds it: casts without effect share one */
    int inner_uses[TN_TILE_MOST_VALUES]; /* by instructions and reductions */
    int stores[TN_TILE_MOST_VALUES];
    bool is_constant[TN_TILE_MOST_VALUES];
    double constant[TN_TILE_MOST_VALUES];
    bool scalar[TN_TILE_MOST_VALUES];    /* one element for a whole tile ... */
    bool vector[TN_TILE_MOST_VALUES];    /* ... which somebody needs spread nevertheless */
    int16_t merged[TN_TILE_MOST_VALUES]; /* by addition: the product that it computes too, or -1 */
    bool skipped[TN_TILE_MOST_VALUES];   /* such a product */
    int call_count;
    int last_use[TN_TILE_MOST_VALUES], written_at[TN_TILE_MOST_VALUES]; /* calls */
    int last_read[TN_TILE_MOST_VALUES]; /* the last call that reads an input's memory */
    int slot[TN_TILE_MOST_VALUES], free_slot[TN_TILE_MOST_VALUES], free_count, slot_count;
    bool own_slot[TN_TILE_MOST_VALUES];      /* kept over tiles */
    int16_t source_of[TN_FUSED_MOST_INPUTS]; /* -1: read where it is */
    /* the program's arrays at their largest */
    tn_tile_program program;
    tile_place place[TN_TILE_MOST_VALUES];
    double constants[TN_TILE_MOST_VALUES];
    int64_t move[TN_TILE_MOST_LOOPS * TN_TILE_MOST_OPERANDS];
    int64_t advance[TN_TILE_MOST_LOOPS * TN_TILE_MOST_OPERANDS];
    int16_t direct[TN_FUSED_MOST_INPUTS];
    tile_source source[TN_FUSED_MOST_INPUTS];
    tile_spread spread[TN_TILE_MOST_VALUES];
    tile_call call[TN_TILE_MOST_CALLS];
    tile_action action[TN_TILE_MOST_CALLS + TN_FUSED_MOST_INPUTS];
    tile_target target[TN_MAX_RESULTS];
    tile_hazard hazard[TN_MAX_RESULTS * TN_FUSED_MOST_INPUTS];
    tile_fold fold[TN_MAX_RESULTS];
} tile_builder;

/* ---- dtypes and classes ------------------------------------------------------------------ */

static inline tn_tile_class tile_class_of(tn_dtype dtype)
{
    if (dtype == TN_F64) return TN_TILE_F64;
    return tn_dtype_is_float(dtype) || dtype == TN_BOOL ? TN_TILE_F32 : TN_TILE_I64;
}

static inline size_t tile_class_size(tn_tile_class class) { return class == TN_TILE_F32 ? 4 : 8; }

/* Memory of this dtype can be read as a register of the class. */
static inline bool tile_is_native(tn_dtype dtype, tn_tile_class class)
{
    static const tn_dtype native[TN_TILE_CLASSES] = {TN_F32, TN_F64, TN_I64};
    return dtype == native[class];
}

/* Ends of the line and NaN as integers. */
static inline int64_t tile_saturated(double x)
{
    if (isnan(x)) return 0;
    return x <= -0x1p63 ? INT64_MIN : x >= 0x1p63 ? INT64_MAX : (int64_t)x;
}

/* ---- the steps --------------------------------------------------------------------------- */

/* tile_calls.c: instructions become calls; which casts and which operands need one, which are
 * scalars. */
tn_status tile_plan_calls(tile_builder *b);
/* tile_registers.c: where every value lives, what is loaded, what is stored when, and how
 * reductions are folded. */
tn_status tile_plan_registers(tile_builder *b);

#endif
