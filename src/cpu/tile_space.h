/* The iteration space of a program: its dimensions in the order of memory, joined where that is
 * possible, and cut into tiles. */
#ifndef TN_CPU_TILE_SPACE_H
#define TN_CPU_TILE_SPACE_H

#include "cpu/tile_program.h"

/* Operands are the inputs, then the outputs. */
typedef struct tile_space {
    int operand_count;
    int rank;
    int64_t dim[TN_MAX_RANK];
    bool reduced[TN_MAX_RANK];
    int64_t stride[TN_TILE_MOST_OPERANDS][TN_MAX_RANK]; /* elements */
    size_t size[TN_TILE_MOST_OPERANDS];                 /* bytes of an element */
    int split; /* a tile is a piece of this dimension with all that lies inside of it */
} tile_space;

/* Reads dimensions and strides from the step, drops dimensions of size 1, orders and joins the
 * others. */
void tile_space_describe(tile_space *space, const tn_step *step,
                         const tn_fused_attribute *attribute);
/* Cuts it into tiles of at most about `most` elements, and writes the loops over them. */
void tile_space_cut(tile_space *space, int64_t most, tn_tile_program *program);
/* A tile's dimensions as operand `o` sees them. */
tile_box tile_space_box(const tile_space *space, int o, const tn_tile_program *program);
/* The same, only kept dimensions (for results of reductions). */
tile_box tile_space_kept_box(const tile_space *space, int o, const tn_tile_program *program);
tile_groups tile_space_groups(const tile_space *space);

#endif
