/* A mesh of X x Y x Z ranks, and the collectives over any of its axes.
 *
 * Rank r stands at (x, y, z) with r = (x Y + y) Z + z. A collective over a set of axes joins the
 * ranks that agree in all other coordinates; members are numbered in the same order as ranks. Every
 * member of a group must make the same calls in the same order.
 *
 * Sums are f32, in the order of members: the result has the same bits in every run and on every
 * transport. Bytes are counted where they arrive from another rank:
 *
 *     all_gather      (k - 1) part                 of a whole of k parts: whole (1 - 1/k)
 *     reduce_scatter  (k - 1) part                 the same
 *     all_reduce      twice that, of the padded array
 *     all_to_all      (k - 1) piece
 *
 * Pope et al. 2022 (arXiv:2211.05102) count the same way. */
#ifndef TN_MESH_MESH_H
#define TN_MESH_MESH_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { TN_AXIS_X = 1, TN_AXIS_Y = 2, TN_AXIS_Z = 4, TN_AXES_ALL = 7 };

typedef enum tn_collective {
    TN_ALL_GATHER,
    TN_REDUCE_SCATTER,
    TN_ALL_REDUCE,
    TN_MESH_ALL_TO_ALL,
    TN_COLLECTIVES
} tn_collective;

typedef struct tn_mesh tn_mesh;

/* How bytes get to other ranks. Both functions give a member's bytes to every member of its group;
 * they return when `to` is complete and `from` may change. */
typedef struct tn_transport {
    /* to[i] = member i's `from`, `each` bytes each */
    tn_status (*all_gather)(tn_mesh *mesh, int axes, const void *from, size_t each, void *to);
    /* to[i] = member i's from[me] */
    tn_status (*all_to_all)(tn_mesh *mesh, int axes, const void *from, size_t each, void *to);
} tn_transport;

/* One rank's view. Belongs to one thread. */
struct tn_mesh {
    int dim[3], at[3]; /* X, Y, Z; this rank's coordinates */
    const tn_transport *transport;
    void *shared;                      /* the transport's */
    uint64_t received[TN_COLLECTIVES]; /* bytes so far */
    void *scratch;
    size_t scratch_size;
};

int tn_mesh_size(const tn_mesh *mesh);
int tn_mesh_rank(const tn_mesh *mesh);
/* Members of a group, this rank's number in it, and the group's number among those of its axes. */
int tn_mesh_group_size(const tn_mesh *mesh, int axes);
int tn_mesh_group_rank(const tn_mesh *mesh, int axes);
int tn_mesh_group(const tn_mesh *mesh, int axes);

/* ---- collectives ----------------------------------------------------------------------------- */

/* whole[k][bytes] from every member's part[bytes]. part may be whole's own place in it. */
tn_status tn_mesh_all_gather(tn_mesh *mesh, int axes, const void *part, size_t bytes, void *whole);
/* part[count] = sum over members of their whole[me][count]. part may lie in whole. */
tn_status tn_mesh_reduce_scatter(tn_mesh *mesh, int axes, const float *whole, int64_t count,
                                 float *part);
/* x[count] = sum over members. */
tn_status tn_mesh_all_reduce(tn_mesh *mesh, int axes, float *x, int64_t count);
/* to[i][bytes] = member i's from[me][bytes]; to and from must not overlap. */
tn_status tn_mesh_all_to_all(tn_mesh *mesh, int axes, const void *from, size_t bytes, void *to);

/* ---- ranks in one process -------------------------------------------------------------------- */

/* Runs `body` once for every rank of the mesh, each in a thread of its own with its share of the
 * processors, and waits for all. When one fails, the others' collectives fail too, and the message
 * is the first one's, with its rank. Errors: TN_INVALID for sizes below 1 or more than 65536 ranks;
 * TN_MEMORY. */
tn_status tn_mesh_run_virtual(const int dim[3], tn_status (*body)(tn_mesh *mesh, void *context),
                              void *context);

#endif
