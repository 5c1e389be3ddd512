/* Strides: which layouts an operand has, and which operations need no copy. */
#include "exec/plan.h"

#include <string.h>

tn_operand tn_operand_of(const tn_value *node)
{
    tn_operand x = {.dtype = node->dtype, .rank = node->shape.rank};
    for (int i = 0; i < x.rank; i++) x.dim[i] = node->shape.dim[i];
    tn_operand_rows(&x);
    return x;
}

void tn_operand_rows(tn_operand *x)
{
    int64_t stride = 1;
    for (int i = x->rank - 1; i >= 0; i--) {
        x->stride[i] = stride;
        stride *= x->dim[i];
    }
}

void tn_operand_channels_last(tn_operand *x)
{
    if (x->rank < 3) {
        tn_operand_rows(x);
        return;
    }
    int64_t stride = x->dim[1];
    x->stride[1] = 1;
    for (int i = x->rank - 1; i >= 0; i--) {
        if (i == 1) continue;
        x->stride[i] = stride;
        stride *= x->dim[i];
    }
}

static bool same_strides(const tn_operand *x, const tn_operand *wanted)
{
    for (int i = 0; i < x->rank; i++)
        if (x->dim[i] != 1 && x->stride[i] != wanted->stride[i]) return false;
    return true;
}

bool tn_operand_is_rows(const tn_operand *x)
{
    tn_operand rows = *x;
    tn_operand_rows(&rows);
    return tn_operand_size(x) == 0 || same_strides(x, &rows);
}

bool tn_operand_is_channels_last(const tn_operand *x)
{
    tn_operand last = *x;
    tn_operand_channels_last(&last);
    return tn_operand_size(x) == 0 || same_strides(x, &last);
}

/* The last two dimensions span a matrix with one unit stride; nothing is broadcast. */
static bool is_matrix(const tn_operand *x)
{
    if (x->rank < 2) return tn_operand_is_rows(x);
    for (int i = 0; i < x->rank; i++)
        if (x->dim[i] > 1 && x->stride[i] <= 0) return false;
    int m = x->rank - 2, n = x->rank - 1;
    bool unit_n = x->dim[n] == 1 || x->stride[n] == 1, unit_m = x->dim[m] == 1 || x->stride[m] == 1;
    if (unit_n && (x->dim[m] == 1 || x->stride[m] >= x->dim[n])) return true;
    return unit_m && (x->dim[n] == 1 || x->stride[n] >= x->dim[m]);
}

bool tn_operand_fits(const tn_operand *x, tn_layout layout)
{
    switch (layout) {
    case TN_ROWS: return tn_operand_is_rows(x);
    case TN_ANY: return true;
    case TN_CHANNELS_LAST: return tn_operand_is_channels_last(x);
    case TN_DENSE: return tn_operand_is_rows(x) || tn_operand_is_channels_last(x);
    case TN_ANY_MATRIX: return is_matrix(x);
    }
    return false;
}

/* ---- views --------------------------------------------------------------------------------------- */

/* Groups of old dimensions are matched with groups of new ones of the same product; inside a group the old ones must be
 * contiguous with one another. */
static bool view_reshape(const tn_operand *in, tn_operand *out)
{
    if (tn_operand_size(in) == 0 || tn_operand_is_rows(in)) {
        tn_operand_rows(out);
        return true;
    }
    int64_t dim[TN_MAX_RANK], stride[TN_MAX_RANK];
    int old_rank = 0;
    for (int i = 0; i < in->rank; i++)
        if (in->dim[i] != 1) dim[old_rank] = in->dim[i], stride[old_rank++] = in->stride[i];
    int old = 0, fresh = 0;
    while (old < old_rank && fresh < out->rank) {
        int old_end = old + 1, fresh_end = fresh + 1;
        int64_t old_size = dim[old], fresh_size = out->dim[fresh];
        while (old_size != fresh_size) {
            if (old_size < fresh_size) {
                if (old_end == old_rank) return false;
                old_size *= dim[old_end++];
            } else {
                if (fresh_end == out->rank) return false;
                fresh_size *= out->dim[fresh_end++];
            }
        }
        for (int i = old; i + 1 < old_end; i++)
            if (stride[i] != dim[i + 1] * stride[i + 1]) return false;
        int64_t step = stride[old_end - 1];
        for (int i = fresh_end - 1; i >= fresh; i--) {
            out->stride[i] = step;
            step *= out->dim[i];
        }
        old = old_end;
        fresh = fresh_end;
    }
    for (; fresh < out->rank; fresh++) out->stride[fresh] = 1; /* only ones are left */
    return true;
}

bool tn_view_of(const tn_value *node, const tn_operand *in, tn_operand *out, int64_t *offset)
{
    *out = tn_operand_of(node);
    *offset = 0;
    switch (node->op->id) {
    case TN_OP_STOP_GRADIENT:
    case TN_OP_CHECKPOINT:
    case TN_OP_AFTER: memcpy(out->stride, in->stride, sizeof out->stride); return true;
    case TN_OP_TRANSPOSE: {
        const tn_transpose_attribute *a = node->attribute;
        for (int i = 0; i < out->rank; i++) out->stride[i] = in->stride[a->permutation[i]];
        return true;
    }
    case TN_OP_BROADCAST:
        for (int i = 0; i < out->rank; i++) {
            int from = i - (out->rank - in->rank);
            out->stride[i] = from >= 0 && in->dim[from] == out->dim[i] ? in->stride[from] : 0;
        }
        return true;
    case TN_OP_SLICE: {
        const tn_slice_attribute *a = node->attribute;
        memcpy(out->stride, in->stride, sizeof out->stride);
        *offset = tn_operand_size(out) ? a->start * in->stride[a->axis] : 0;
        out->stride[a->axis] *= a->step;
        return true;
    }
    case TN_OP_RESHAPE: return view_reshape(in, out);
    default: return false;
    }
}
