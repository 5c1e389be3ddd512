/* Attributes of the index operations whose kernels need more than an axis. */
#ifndef TN_GRAPH_INDEX_H
#define TN_GRAPH_INDEX_H

#include "graph/kernel.h"

/* GATHER (x, index), SCATTER_ADD (values, index), TAKE_ALONG (x, index), PUT_ALONG (values, index):
 * tn_axis_attribute. SEGMENT_SUM, SEGMENT_MAX (x, offsets), SEGMENT_BROADCAST (x, offsets), ONE_HOT
 * (index): none. TOP_K, SORT (x) -> (values, indices): tn_axis_attribute; axis is the last;
 * reverse: descending. k is the last dimension of the results. An index is i32 or i64 [...],
 * offsets are i32 [S+1]: 0 <= offsets[s] <= offsets[s+1] <= T. */

/* x seen along `axis` as [outer, n, inner]. */
typedef struct tn_axis_view {
    int64_t outer, n, inner;
} tn_axis_view;

static inline tn_axis_view tn_axis_view_of(const tn_operand *x, int axis)
{
    tn_axis_view view = {1, x->dim[axis], 1};
    for (int i = 0; i < axis; i++) view.outer *= x->dim[i];
    for (int i = axis + 1; i < x->rank; i++) view.inner *= x->dim[i];
    return view;
}

#endif
