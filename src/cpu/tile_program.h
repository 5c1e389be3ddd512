/* A program of the tile engine, ready to run: what tn_tile_prepare makes and tn_tile_run reads. */
#ifndef TN_CPU_TILE_PROGRAM_H
#define TN_CPU_TILE_PROGRAM_H

#include <math.h>

#include "cpu/tile.h"

#define TN_TILE_MOST_LOOPS (TN_MAX_RANK + 1)
#define TN_TILE_MOST_OPERANDS (TN_FUSED_MOST_INPUTS + TN_MAX_RESULTS)
#define TN_TILE_SMALL_AREA 4096         /* registers of programs over small tensors */
#define TN_TILE_LARGE_AREA (112 * 1024) /* on each thread's stack */

/* Where a value is while a tile is worked on: a constant, a register (offset into the area), or,
 * where neither is set, memory: then the pointer is set for every tile. */
typedef struct tile_place {
    const void *constant;
    int64_t offset;
} tile_place;

/* One call: an instruction, or (run == NULL) a load. */
typedef struct tile_action {
    tn_tile_function *run;
    int16_t out, a, b, c; /* value numbers; load: a is the source */
    tn_tile_scalars scalars;
} tile_action;

/* Dimensions of a tile as one operand sees them, outermost first. The first one's count is a
 * multiple of the piece. */
typedef struct tile_box {
    int rank;
    int64_t count[TN_TILE_MOST_LOOPS];  /* [0]: per unit of the piece */
    int64_t stride[TN_TILE_MOST_LOOPS]; /* elements */
    bool varies;                        /* count[0] has to be multiplied by the piece's length */
} tile_box;

/* An input that is brought into a register: converted, spread, or gathered. */
typedef struct tile_source {
    int16_t input;
    tn_tile_load *load;
    tile_box box;
    size_t from_size, to_size; /* bytes of an element */
    bool cached; /* the register is its own: reloaded only when the place in memory changes */
} tile_source;

typedef struct tile_target {
    int16_t value;
    int16_t operand;    /* index among inputs followed by outputs */
    bool may_be_direct; /* its instruction can write to memory at once */
    tn_tile_store *store;
} tile_target;

/* Output `target` may lie over input `input`, which is read after the output's instruction: then
 * it is not written directly. */
typedef struct tile_hazard {
    int16_t target, input;
} tile_hazard;

/* What remains of a tile's dimensions: alternating groups of kept and reduced ones, outermost
 * first. */
typedef struct tile_groups {
    int count;
    int64_t size[TN_TILE_MOST_LOOPS]; /* [0]: per unit of the piece if `varies` */
    bool reduced[TN_TILE_MOST_LOOPS];
    bool varies;
} tile_groups;

typedef struct tile_fold {
    int16_t value, operand;
    tn_tile_class class;
    tn_dtype dtype;
    double scale; /* of a mean; of an empty space: the result */
    tn_tile_accumulate *accumulate, *widen,
        *combine; /* tiles, tile into wide results, wide results */
    tn_tile_reduce *reduce;
    tile_box box; /* kept dimensions of a tile in the result; strides in elements of the result */
    int64_t sum_offset, wide_offset; /* into the area */
} tile_fold;

typedef struct tile_spread {
    int64_t offset;
    tn_tile_load *load;
    const void *from;
} tile_spread;

/* One allocation: the arrays lie behind the struct. */
typedef struct tn_tile_program {
    int input_count, value_count, operand_count;
    tile_place *place; /* by value */
    double *constant;  /* 8 bytes each, in the class of the value */
    int constant_count;

    /* Loops over tiles, outermost first. The tile at indices i: operand o lies at its base +
     * sum_l i_l move[l * operand_count + o]. */
    int loop_count;
    int64_t loop[TN_TILE_MOST_LOOPS];
    int64_t *move;    /* bytes */
    int64_t *advance; /* the same, less what the loops inside have gone */
    int piece_loop;   /* the loop over pieces of the split dimension; -1: one piece */
    int64_t piece, extent,
        inner;           /* units of that dimension per tile, in all, and elements in each */
    int64_t tiles, most; /* tiles; elements of the largest */

    int direct_count, source_count, spread_count, action_count, target_count, hazard_count,
        fold_count;
    int16_t *direct; /* inputs that instructions read where they are */
    tile_source *source;
    tile_spread *spread; /* constants as whole registers */
    tile_action *action;
    tile_target *target;
    tile_hazard *hazard;
    tile_fold *fold;

    /* Reductions. The tiles of one run (all reduced loops, which are the inner ones) fold into
     * the same results; a run is cut into segments, and an item of work is one segment. */
    tile_groups groups;
    bool by_element;    /* tiles are added up element by element and folded at the end */
    int64_t run_length; /* tiles */
    int64_t segments, segment_length;
    int64_t most_kept; /* results of one tile */
    bool combine;      /* items leave partial results in the workspace */
    bool at_once;      /* each tile is a whole run */
    int64_t temporary[2], area;

    int64_t items;
    bool serial;
    bool empty; /* no elements: results of reductions are filled in */
} tn_tile_program;

#endif
