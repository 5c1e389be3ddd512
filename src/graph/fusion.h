/* The fuse pass inside: groups of nodes, and the units that they are written as. */
#ifndef TN_GRAPH_FUSION_H
#define TN_GRAPH_FUSION_H

#include "graph/fuse.h"
#include "graph/pass.h"

typedef struct tn_fusion_group {
    int32_t parent; /* the group that it was merged into, or -1 */
    tn_shape shape;
    uint32_t axes; /* of its reductions; 0: none */
    uint32_t generation;
    int32_t member_count, immediate_count;
    int32_t outside_count;
    int32_t *outside; /* values that it reads */
    int64_t order;
    bool read;           /* by a node outside */
    int32_t work_before; /* heavy nodes before its last member */
} tn_fusion_group;

typedef struct tn_fusion {
    tn_program *program;
    tn_rewrite rewrite;
    const tn_graph *graph;
    int32_t *same;        /* by id: the value that an identity stands for, or the id itself */
    bool *transparent;    /* by id: a cast that its readers, all of them members, do themselves */
    int32_t *group_of;    /* by id: index, or -1 */
    int64_t *reach;       /* by id: see fuse_groups.c */
    int32_t *last_reader; /* by id: the latest group that reads it whole, or -1 */
    tn_fusion_group *groups;
    int32_t group_count, group_capacity;
    int64_t orders; /* numbers given out */
    int32_t heavy;  /* nodes that take time of their own, visited so far */
    /* units: what is written together */
    int32_t *unit;    /* by id: id of the unit's first node */
    int32_t *number;  /* by id: place in the member list; while its unit is written, value number */
    int32_t *cast_in; /* by id of a transparent cast: the unit in which number[] is its value */
    bool *fused;      /* by unit: becomes a FUSED node */
    bool *needed;     /* by id: read outside of its unit */
    int32_t *member;  /* ids, group by group, in order */
    int32_t *group_first; /* members of g: member[group_first[g]] .. [group_first[g + 1] - 1] */
} tn_fusion;

static inline bool tn_fusion_is_identity(tn_op_id id)
{
    return id == TN_OP_STOP_GRADIENT || id == TN_OP_CHECKPOINT;
}

static inline bool tn_fusion_is_fold(const tn_value *v)
{
    return tn_is_reduction(v->op->id) && ((const tn_reduce_attribute *)v->attribute)->axes != 0;
}

static inline bool tn_fusion_is_member(const tn_value *v)
{
    return tn_is_elementwise(v->op->id) || tn_fusion_is_fold(v);
}

/* The value whose memory an operand of a member is read from: broadcasting and transparent casts
 * happen while reading. */
int32_t tn_fusion_source(const tn_fusion *f, int32_t id);
/* The iteration space of a member: what a reduction reduces, else the result's shape. */
tn_shape tn_fusion_space(const tn_fusion *f, int32_t id);
/* True for a value that is one number, known now. */
bool tn_fusion_is_immediate(const tn_fusion *f, int32_t id, double *x);
/* The group of a node after all merges, or -1. */
int32_t tn_fusion_group_of(tn_fusion *f, int32_t id);
int32_t tn_fusion_find(tn_fusion *f, int32_t group);

/* fuse_groups.c: sets group_of. */
tn_status tn_fusion_form_groups(tn_fusion *f);
/* fuse_units.c: cuts groups into units, orders them, and writes the new graph. */
tn_status tn_fusion_write(tn_fusion *f);

#endif
