/* A plan's inside: steps with resolved places, and the buffers behind them. For exec/ only. */
#ifndef TN_EXEC_PLAN_H
#define TN_EXEC_PLAN_H

#include "exec/state.h"
#include "graph/kernel.h"
#include "graph/pass.h"
#include "tenon/plan.h"

/* Where a value's bytes are. */
typedef enum tn_home {
    TN_NOWHERE = 0,
    TN_IN_SCRATCH,  /* index: buffer */
    TN_IN_FEED,     /* index: feed */
    TN_IN_STATE,    /* index: plan->state */
    TN_IN_CONSTANT, /* index: byte offset / 64 into plan->constants */
    TN_IN_FETCH,    /* index: fetch; outputs only */
} tn_home;

typedef struct tn_location {
    tn_home home;
    int32_t index;
    int64_t offset; /* bytes */
} tn_location;

/* One piece of the scratch block, alive from step `first` to step `last`. */
typedef struct tn_buffer {
    size_t size, offset;
    int32_t first, last;
    int32_t same_as; /* shares the bytes of another buffer (in place), or -1 */
} tn_buffer;

typedef struct tn_plan_step {
    tn_step step;
    tn_location *in, *out;
    int32_t workspace; /* buffer, or -1 */
    double flop;
} tn_plan_step;

typedef struct tn_profile {
    double *seconds; /* by step */
    int64_t runs;
} tn_profile;

struct tn_plan {
    tn_arena arena;
    tn_backend backend;
    bool profile;
    tn_state *state;

    tn_plan_step *step;
    int32_t step_count, step_capacity;
    tn_buffer *buffer;
    int32_t buffer_count, buffer_capacity;
    size_t scratch; /* bytes of the block */

    tn_state_entry **entry; /* state it touches */
    bool *written;
    int32_t entry_count;
    unsigned char *constants; /* 64-byte aligned */
    size_t constant_bytes, constant_capacity;

    int32_t feed_count, fetch_count;

    tn_program program; /* TN_REF only: the graph that is interpreted */
    tn_context *own;    /* tn_run's context */
};

struct tn_context {
    const tn_plan *plan;
    unsigned char *block;
    void **pointer;     /* all steps' in and out pointers, one after the other */
    void ***in, ***out; /* by step, into `pointer` */
    struct tn_patch {   /* pointers that depend on feeds, fetches or state */
        void **slot;
        tn_location location;
    } * patch;
    int32_t patch_count;
    tn_profile timing;
};

/* ---- stages of compiling a CPU plan, each in its own file ---------------------------------------------- */

/* order.c: ids of the program's nodes in the order of running. Updates run as soon as nobody needs the old state any more, so
 * that gradients die early. *order is malloc'ed; n = graph->count - 1 entries. */
tn_status tn_order(const tn_program *program, int32_t **order);
/* assemble.c: turns ordered nodes into steps: views, copies where a kernel wants another layout, state written in place. */
tn_status tn_assemble(tn_plan *plan, const tn_program *program, const int32_t *order,
                      const tn_compile_options *options);
/* memory.c: lets outputs overwrite dying inputs, and gives every buffer its offset. */
tn_status tn_place_buffers(tn_plan *plan);
/* True if no two buffers that are alive together overlap (a test's question). */
bool tn_buffers_are_disjoint(const tn_plan *plan);

/* view.c: strides. */
void tn_operand_rows(tn_operand *x);          /* sets row-major strides from dims */
void tn_operand_channels_last(tn_operand *x); /* rank < 3: rows */
bool tn_operand_is_rows(const tn_operand *x); /* dimensions of size 1 do not matter */
bool tn_operand_is_channels_last(const tn_operand *x);
bool tn_operand_fits(const tn_operand *x, tn_layout layout);
/* The result of view `node` over `in` as strides and an element offset; false where it needs a copy first. */
bool tn_view_of(const tn_value *node, const tn_operand *in, tn_operand *out, int64_t *offset);
tn_operand tn_operand_of(const tn_value *node); /* rows */

/* fold.c: constant folding (a pass; lives here because it runs ref/). */
tn_status tn_pass_fold_constants(tn_program *program);

/* ref_run.c: the interpreter behind TN_REF. */
tn_status tn_ref_run(const tn_plan *plan, const void *const *feeds, void *const *fetches);
/* Conversion between a dtype's row-major array and doubles. */
void tn_to_double(tn_dtype dtype, const void *from, double *to, int64_t count);
void tn_from_double(tn_dtype dtype, const double *from, void *to, int64_t count);

/* profile.c */
tn_status tn_profile_begin(tn_profile *profile, const tn_plan *plan);

#endif
