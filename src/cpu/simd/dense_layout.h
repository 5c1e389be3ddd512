/* Rows or channels-last: which of the two dense layouts an operand has, for kernels that take
 * either. */
#ifndef TN_CPU_SIMD_DENSE_LAYOUT_H
#define TN_CPU_SIMD_DENSE_LAYOUT_H

#include "graph/kernel.h"

static inline bool tn_lies(const tn_operand *x, bool channels_last)
{
    int64_t expected = 1;
    if (channels_last) {
        if (x->dim[1] != 1 && x->stride[1] != 1) return false;
        expected = x->dim[1];
    }
    for (int i = x->rank - 1; i >= 0; i--) {
        if (channels_last && i == 1) continue;
        if (x->dim[i] != 1 && x->stride[i] != expected) return false;
        expected *= x->dim[i];
    }
    return true;
}

/* As x lies; channels-last, to which it is copied, where it is neither. f64 is rows, because the
 * reference kernels do it. */
static inline tn_layout tn_dense_layout(const tn_operand *x)
{
    return x->dtype == TN_F64 || x->rank < 3 || tn_lies(x, false) ? TN_ROWS : TN_CHANNELS_LAST;
}

#endif
