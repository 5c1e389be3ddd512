/* Shape operations. RESHAPE, TRANSPOSE, BROADCAST and SLICE are views wherever strides allow; the planner decides. */
#include <stdlib.h>
#include <string.h>

#include "graph/graph.h"

static double no_flop(const tn_value *self, const tn_value *const *in)
{
    (void)self, (void)in;
    return 0;
}

static tn_node make(tn_op_id id, tn_node x, tn_shape shape, const void *attribute, size_t size)
{
    return tn_node_new(NULL, &(tn_new_node){.id = id,
                                            .dtype = tn_dtype_of(x),
                                            .shape = shape,
                                            .in = &x,
                                            .in_count = 1,
                                            .attribute = attribute,
                                            .attribute_size = size});
}

/* ---- reshape ------------------------------------------------------------------------------------ */

tn_node tn_reshape(tn_node x, tn_shape shape)
{
    if (tn_is_none(x)) return x;
    int64_t known = 1;
    int open = -1;
    for (int i = 0; i < shape.rank; i++) {
        if (shape.dim[i] >= 0) known *= shape.dim[i];
        else if (open < 0) open = i;
        else
            return tn_graph_fail(x.graph, "reshape to %s: only one dimension may be -1",
                                 tn_shape_text(shape));
    }
    int64_t size = tn_shape_size(tn_shape_of(x));
    if (open >= 0) shape.dim[open] = known > 0 ? size / known : 0;
    if (tn_shape_size(shape) != size)
        return tn_graph_fail(x.graph, "reshape %s (%lld elements) to %s",
                             tn_shape_text(tn_shape_of(x)), (long long)size, tn_shape_text(shape));
    if (tn_shape_equal(shape, tn_shape_of(x))) return x;
    return make(TN_OP_RESHAPE, x, shape, NULL, 0);
}

static void reshape_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    (void)out;
    d_in[0] = tn_reshape(d_out[0], tn_shape_of(in[0]));
}

tn_node tn_expand_dims(tn_node x, int axis)
{
    if (tn_is_none(x)) return x;
    tn_shape from = tn_shape_of(x), to = {.rank = from.rank + 1};
    if (axis < 0) axis += to.rank;
    if (axis < 0 || axis >= to.rank || to.rank > TN_MAX_RANK)
        return tn_graph_fail(x.graph, "expand_dims of %s at axis %d", tn_shape_text(from), axis);
    for (int i = 0, j = 0; i < to.rank; i++) to.dim[i] = i == axis ? 1 : from.dim[j++];
    return tn_reshape(x, to);
}

tn_node tn_squeeze(tn_node x, int axis)
{
    axis = tn_axis(x, axis);
    if (axis < 0) return TN_NONE;
    tn_shape from = tn_shape_of(x), to = {.rank = from.rank - 1};
    if (from.dim[axis] != 1)
        return tn_graph_fail(x.graph, "squeeze: axis %d of %s is not 1", axis, tn_shape_text(from));
    for (int i = 0, j = 0; i < from.rank; i++)
        if (i != axis) to.dim[j++] = from.dim[i];
    return tn_reshape(x, to);
}

/* ---- transpose ------------------------------------------------------------------------------------ */

tn_node tn_transpose(tn_node x, const int *permutation)
{
    if (tn_is_none(x)) return x;
    tn_shape from = tn_shape_of(x), to = {.rank = from.rank};
    tn_transpose_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    unsigned seen = 0;
    bool same = true;
    for (int i = 0; i < from.rank; i++) {
        int p = permutation[i] < 0 ? permutation[i] + from.rank : permutation[i];
        if (p < 0 || p >= from.rank || seen & 1u << p)
            return tn_graph_fail(x.graph, "transpose of %s: entry %d of the permutation is %d",
                                 tn_shape_text(from), i, permutation[i]);
        seen |= 1u << p;
        same = same && p == i;
        attribute.permutation[i] = p;
        to.dim[i] = from.dim[p];
    }
    return same ? x : make(TN_OP_TRANSPOSE, x, to, &attribute, sizeof attribute);
}

static void transpose_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                          tn_node *d_in)
{
    const tn_transpose_attribute *attribute = tn_value_of(out[0])->attribute;
    int inverse[TN_MAX_RANK] = {0};
    for (int i = 0; i < tn_rank(in[0]); i++) inverse[attribute->permutation[i]] = i;
    d_in[0] = tn_transpose(d_out[0], inverse);
}

tn_node tn_swap_axes(tn_node x, int a, int b)
{
    a = tn_axis(x, a), b = tn_axis(x, b);
    if (a < 0 || b < 0) return TN_NONE;
    int permutation[TN_MAX_RANK];
    for (int i = 0; i < TN_MAX_RANK; i++) permutation[i] = i == a ? b : i == b ? a : i;
    return tn_transpose(x, permutation);
}

/* ---- broadcast -------------------------------------------------------------------------------------- */

tn_node tn_broadcast(tn_node x, tn_shape shape)
{
    if (tn_is_none(x)) return x;
    tn_shape both;
    if (!tn_shape_broadcast(tn_shape_of(x), shape, &both) || !tn_shape_equal(both, shape))
        return tn_graph_fail(x.graph, "broadcast %s to %s", tn_shape_text(tn_shape_of(x)),
                             tn_shape_text(shape));
    if (tn_shape_equal(tn_shape_of(x), shape)) return x;
    return make(TN_OP_BROADCAST, x, shape, NULL, 0);
}

static void broadcast_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                          tn_node *d_in)
{
    (void)out;
    d_in[0] = tn_sum_to(d_out[0], in[0]);
}

/* ---- slice ------------------------------------------------------------------------------------------- */

tn_node tn_slice(tn_node x, int axis, int64_t start, int64_t stop, int64_t step)
{
    axis = tn_axis(x, axis);
    if (axis < 0) return TN_NONE;
    tn_shape shape = tn_shape_of(x);
    int64_t size = shape.dim[axis], first = start < 0 ? start + size : start,
            last = stop < 0      ? stop + size
                   : stop > size ? size
                                 : stop;
    if (step < 1 || first < 0 || first > size || last < 0)
        return tn_graph_fail(x.graph, "slice [%lld, %lld) step %lld along axis %d of %s",
                             (long long)start, (long long)stop, (long long)step, axis,
                             tn_shape_text(shape));
    shape.dim[axis] = last > first ? (last - first + step - 1) / step : 0;
    if (shape.dim[axis] == size) return x;
    tn_slice_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.axis = axis;
    attribute.start = first;
    attribute.step = step;
    return make(TN_OP_SLICE, x, shape, &attribute, sizeof attribute);
}

static void slice_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    tn_slice_attribute attribute;
    memcpy(&attribute, tn_value_of(out[0])->attribute, sizeof attribute);
    attribute.size = tn_dim(in[0], attribute.axis);
    d_in[0] = make(TN_OP_UNSLICE, d_out[0], tn_shape_of(in[0]), &attribute, sizeof attribute);
}

static void unslice_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    const tn_slice_attribute *a = tn_value_of(out[0])->attribute;
    int64_t count = tn_dim(in[0], a->axis);
    d_in[0] = count ? tn_slice(d_out[0], a->axis, a->start, a->start + (count - 1) * a->step + 1,
                               a->step)
                    : TN_NONE;
}

void tn_split(tn_node x, int count, int axis, tn_node *out)
{
    for (int i = 0; i < count; i++) out[i] = TN_NONE;
    axis = tn_axis(x, axis);
    if (axis < 0) return;
    int64_t size = tn_dim(x, axis);
    if (count < 1 || size % count) {
        tn_graph_fail(x.graph, "split %s into %d equal pieces along axis %d",
                      tn_shape_text(tn_shape_of(x)), count, axis);
        return;
    }
    for (int i = 0; i < count; i++)
        out[i] = tn_slice(x, axis, i * (size / count), (i + 1) * (size / count), 1);
}

/* ---- concat -------------------------------------------------------------------------------------------- */

tn_node tn_concat(const tn_node *x, int count, int axis)
{
    if (count < 1 || tn_is_none(x[0])) return TN_NONE;
    if (count == 1) return x[0];
    axis = tn_axis(x[0], axis);
    if (axis < 0) return TN_NONE;
    tn_shape shape = tn_shape_of(x[0]);
    for (int i = 1; i < count; i++) {
        tn_shape next = tn_shape_of(x[i]), expected = shape;
        if (tn_is_none(x[i])) return tn_graph_fail(x[0].graph, "concat: operand %d is empty", i);
        if (next.rank == shape.rank) expected.dim[axis] = next.dim[axis];
        if (!tn_shape_equal(next, expected) || tn_dtype_of(x[i]) != tn_dtype_of(x[0]))
            return tn_graph_fail(
                x[0].graph, "concat along axis %d: operand 0 is %s %s, operand %d is %s %s", axis,
                tn_dtype_name(tn_dtype_of(x[0])), tn_shape_text(tn_shape_of(x[0])), i,
                tn_dtype_name(tn_dtype_of(x[i])), tn_shape_text(next));
        shape.dim[axis] += next.dim[axis];
    }
    tn_axis_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.axis = axis;
    return tn_node_new(NULL, &(tn_new_node){.id = TN_OP_CONCAT,
                                            .dtype = tn_dtype_of(x[0]),
                                            .shape = shape,
                                            .in = x,
                                            .in_count = count,
                                            .attribute = &attribute,
                                            .attribute_size = sizeof attribute});
}

static void concat_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    const tn_axis_attribute *attribute = tn_value_of(out[0])->attribute;
    int64_t start = 0;
    for (int i = 0; i < tn_value_of(out[0])->in_count; i++) {
        int64_t size = tn_dim(in[i], attribute->axis);
        d_in[i] = tn_slice(d_out[0], attribute->axis, start, start + size, 1);
        start += size;
    }
}

tn_node tn_stack(const tn_node *x, int count, int axis)
{
    if (count < 1 || tn_is_none(x[0])) return TN_NONE;
    tn_node *widened = calloc((size_t)count, sizeof *widened);
    if (!widened) return tn_graph_fail(x[0].graph, "stack: out of memory");
    if (axis < 0) axis += tn_rank(x[0]) + 1;
    for (int i = 0; i < count; i++) widened[i] = tn_expand_dims(x[i], axis);
    tn_node result = tn_concat(widened, count, axis);
    free(widened);
    return result;
}

/* ---- pad, flip, roll --------------------------------------------------------------------------------------- */

tn_node tn_pad(tn_node x, const int64_t *before, const int64_t *after, tn_pad_mode mode,
               double value)
{
    if (tn_is_none(x)) return x;
    tn_shape shape = tn_shape_of(x);
    tn_pad_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.mode = (int32_t)mode;
    attribute.value = mode == TN_PAD_CONSTANT ? value : 0;
    bool nothing = true;
    for (int i = 0; i < shape.rank; i++) {
        int64_t size = shape.dim[i], limit = mode == TN_PAD_REFLECT            ? size - 1
                                             : mode == TN_PAD_EDGE && size < 1 ? 0
                                                                               : INT64_MAX / 4;
        if (before[i] < 0 || after[i] < 0 || before[i] > limit || after[i] > limit)
            return tn_graph_fail(
                x.graph,
                "pad %s by %lld before and %lld after dimension %d; at most %lld fits here",
                tn_shape_text(tn_shape_of(x)), (long long)before[i], (long long)after[i], i,
                (long long)limit);
        attribute.before[i] = before[i];
        attribute.after[i] = after[i];
        shape.dim[i] += before[i] + after[i];
        nothing = nothing && before[i] == 0 && after[i] == 0;
    }
    return nothing ? x : make(TN_OP_PAD, x, shape, &attribute, sizeof attribute);
}

static void pad_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    d_in[0] = make(TN_OP_PAD_GRAD, d_out[0], tn_shape_of(in[0]), tn_value_of(out[0])->attribute,
                   sizeof(tn_pad_attribute));
}

static void pad_grad_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    tn_pad_attribute attribute;
    memcpy(&attribute, tn_value_of(out[0])->attribute, sizeof attribute);
    attribute.value = 0;
    d_in[0] = make(TN_OP_PAD, d_out[0], tn_shape_of(in[0]), &attribute, sizeof attribute);
}

tn_node tn_flip(tn_node x, int axis)
{
    tn_axis_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.axis = tn_axis(x, axis);
    return attribute.axis < 0 ? TN_NONE
                              : make(TN_OP_FLIP, x, tn_shape_of(x), &attribute, sizeof attribute);
}

static void flip_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    (void)in;
    d_in[0] = tn_flip(d_out[0], ((const tn_axis_attribute *)tn_value_of(out[0])->attribute)->axis);
}

tn_node tn_roll(tn_node x, int axis, int64_t shift)
{
    tn_roll_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.axis = tn_axis(x, axis);
    if (attribute.axis < 0) return TN_NONE;
    int64_t size = tn_dim(x, attribute.axis);
    attribute.shift = size ? (shift % size + size) % size : 0;
    return attribute.shift == 0 ? x
                                : make(TN_OP_ROLL, x, tn_shape_of(x), &attribute, sizeof attribute);
}

static void roll_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    (void)in;
    const tn_roll_attribute *attribute = tn_value_of(out[0])->attribute;
    d_in[0] = tn_roll(d_out[0], attribute->axis, -attribute->shift);
}

const tn_op tn_shape_ops[] = {
    {.id = TN_OP_RESHAPE,
     .name = "reshape",
     .flags = TN_VIEW | TN_LINEAR,
     .vjp = reshape_vjp,
     .flop = no_flop},
    {.id = TN_OP_TRANSPOSE,
     .name = "transpose",
     .flags = TN_VIEW | TN_LINEAR,
     .vjp = transpose_vjp,
     .flop = no_flop},
    {.id = TN_OP_BROADCAST,
     .name = "broadcast",
     .flags = TN_VIEW | TN_LINEAR,
     .vjp = broadcast_vjp,
     .flop = no_flop},
    {.id = TN_OP_SLICE,
     .name = "slice",
     .flags = TN_VIEW | TN_LINEAR,
     .vjp = slice_vjp,
     .flop = no_flop},
    {.id = TN_OP_UNSLICE,
     .name = "unslice",
     .flags = TN_LINEAR,
     .vjp = unslice_vjp,
     .flop = no_flop},
    {.id = TN_OP_CONCAT, .name = "concat", .vjp = concat_vjp, .flop = no_flop},
    {.id = TN_OP_PAD, .name = "pad", .vjp = pad_vjp, .flop = no_flop},
    {.id = TN_OP_PAD_GRAD, .name = "pad_grad", .flags = TN_LINEAR, .vjp = pad_grad_vjp},
    {.id = TN_OP_FLIP, .name = "flip", .flags = TN_LINEAR, .vjp = flip_vjp, .flop = no_flop},
    {.id = TN_OP_ROLL, .name = "roll", .flags = TN_LINEAR, .vjp = roll_vjp, .flop = no_flop},
};
const int tn_shape_op_count = sizeof tn_shape_ops / sizeof *tn_shape_ops;
