/* Reading and writing at run-time positions: gather and scatter, segments of packed rows, sorting.
 *
 * Every reading operation is linear in its first operand and has a writing one as its adjoint, and
 * the other way round, so the rules are closed under differentiation. */
#include <string.h>

#include "graph/graph.h"
#include "graph/index.h"

static double no_flop(const tn_value *self, const tn_value *const *in)
{
    (void)self, (void)in;
    return 0;
}

/* A row is read for each addition: what counts is the operand. */
static double flop_per_operand(const tn_value *self, const tn_value *const *in)
{
    (void)self;
    return (double)tn_shape_size(in[0]->shape);
}

/* `index` as i32 or i64; an empty node and a graph error if it is no integer tensor. `x`: any node
 * of the graph. */
static tn_node integer(tn_node x, tn_node index, const char *op)
{
    if (tn_is_none(index)) return tn_graph_fail(x.graph, "%s: the index is empty", op);
    tn_dtype dtype = tn_dtype_of(index);
    if (dtype == TN_I32 || dtype == TN_I64) return index;
    if (dtype == TN_I8 || dtype == TN_U8) return tn_cast(index, TN_I32);
    return tn_graph_fail(x.graph,
                         "%s: the index is %s %s; it must hold integers (tn_cast to i32 or i64)",
                         op, tn_dtype_name(dtype), tn_shape_text(tn_shape_of(index)));
}

static tn_node along(tn_op_id id, tn_node x, tn_node index, int axis, tn_shape shape)
{
    tn_axis_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.axis = axis;
    return tn_node_new(NULL, &(tn_new_node){.id = id,
                                            .dtype = tn_dtype_of(x),
                                            .shape = shape,
                                            .in = (tn_node[]){x, index},
                                            .in_count = 2,
                                            .attribute = &attribute,
                                            .attribute_size = sizeof attribute});
}

static int axis_of(tn_node node)
{
    return ((const tn_axis_attribute *)tn_value_of(node)->attribute)->axis;
}

/* Axis of a shape that no node has yet; -1 and a graph error if it is out of range. */
static int axis_in(tn_node x, tn_shape shape, int axis, const char *op)
{
    int index = axis < 0 ? axis + shape.rank : axis;
    if (index >= 0 && index < shape.rank) return index;
    tn_graph_fail(x.graph, "%s: axis %d of shape %s", op, axis, tn_shape_text(shape));
    return -1;
}

/* ---- gather, scatter ------------------------------------------------------------------------- */

/* shape with its axis replaced by index's dimensions; false if there are too many. */
static bool gathered_shape(tn_shape shape, tn_shape index, int axis, tn_shape *out)
{
    *out = (tn_shape){.rank = shape.rank - 1 + index.rank};
    if (out->rank > TN_MAX_RANK) return false;
    int at = 0;
    for (int i = 0; i < axis; i++) out->dim[at++] = shape.dim[i];
    for (int i = 0; i < index.rank; i++) out->dim[at++] = index.dim[i];
    for (int i = axis + 1; i < shape.rank; i++) out->dim[at++] = shape.dim[i];
    return true;
}

tn_node tn_gather(tn_node x, tn_node index, int axis)
{
    if (tn_is_none(x)) return x;
    index = integer(x, index, "gather");
    axis = tn_axis(x, axis);
    tn_shape shape;
    if (axis < 0 || tn_is_none(index)) return TN_NONE;
    if (!gathered_shape(tn_shape_of(x), tn_shape_of(index), axis, &shape))
        return tn_graph_fail(
            x.graph,
            "gather from %s at index %s: the result would have %d dimensions, more than %d",
            tn_shape_text(tn_shape_of(x)), tn_shape_text(tn_shape_of(index)), shape.rank,
            TN_MAX_RANK);
    return along(TN_OP_GATHER, x, index, axis, shape);
}

static void gather_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    d_in[0] = tn_scatter_add(tn_shape_of(in[0]), in[1], d_out[0], axis_of(out[0]));
}

tn_node tn_scatter_add(tn_shape shape, tn_node index, tn_node values, int axis)
{
    if (tn_is_none(values)) return values;
    index = integer(values, index, "scatter_add");
    if (tn_is_none(index) || (axis = axis_in(values, shape, axis, "scatter_add")) < 0)
        return TN_NONE;
    tn_shape expected;
    if (!gathered_shape(shape, tn_shape_of(index), axis, &expected) ||
        !tn_shape_equal(expected, tn_shape_of(values)))
        return tn_graph_fail(
            values.graph,
            "scatter_add into %s along axis %d at index %s: the values are %s, but must be %s",
            tn_shape_text(shape), axis, tn_shape_text(tn_shape_of(index)),
            tn_shape_text(tn_shape_of(values)), tn_shape_text(expected));
    return along(TN_OP_SCATTER_ADD, values, index, axis, shape);
}

static void scatter_add_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                            tn_node *d_in)
{
    d_in[0] = tn_gather(d_out[0], in[1], axis_of(out[0]));
}

/* ---- take along, put along ------------------------------------------------------------------- */

/* index has shape's dimensions except along axis. */
static bool fits_along(tn_shape shape, tn_shape index, int axis)
{
    if (index.rank != shape.rank) return false;
    shape.dim[axis] = index.dim[axis];
    return tn_shape_equal(shape, index);
}

tn_node tn_take_along(tn_node x, tn_node index, int axis)
{
    if (tn_is_none(x)) return x;
    index = integer(x, index, "take_along");
    axis = tn_axis(x, axis);
    if (axis < 0 || tn_is_none(index)) return TN_NONE;
    if (!fits_along(tn_shape_of(x), tn_shape_of(index), axis))
        return tn_graph_fail(x.graph,
                             "take_along axis %d of %s with index %s: the other dimensions must be "
                             "equal (tn_broadcast)",
                             axis, tn_shape_text(tn_shape_of(x)),
                             tn_shape_text(tn_shape_of(index)));
    return along(TN_OP_TAKE_ALONG, x, index, axis, tn_shape_of(index));
}

static void take_along_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                           tn_node *d_in)
{
    d_in[0] = tn_put_along(tn_shape_of(in[0]), in[1], d_out[0], axis_of(out[0]));
}

tn_node tn_put_along(tn_shape shape, tn_node index, tn_node values, int axis)
{
    if (tn_is_none(values)) return values;
    index = integer(values, index, "put_along");
    if (tn_is_none(index) || (axis = axis_in(values, shape, axis, "put_along")) < 0) return TN_NONE;
    if (!fits_along(shape, tn_shape_of(index), axis) ||
        !tn_shape_equal(tn_shape_of(index), tn_shape_of(values)))
        return tn_graph_fail(values.graph,
                             "put_along axis %d of %s: index %s and values %s must be equal, and "
                             "differ from it along the "
                             "axis alone",
                             axis, tn_shape_text(shape), tn_shape_text(tn_shape_of(index)),
                             tn_shape_text(tn_shape_of(values)));
    return along(TN_OP_PUT_ALONG, values, index, axis, shape);
}

static void put_along_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                          tn_node *d_in)
{
    d_in[0] = tn_take_along(d_out[0], in[1], axis_of(out[0]));
}

/* ---- segments -------------------------------------------------------------------------------- */

/* Node over x [T or S, ...] and offsets [S+1] whose first dimension is `rows` (-1: S). */
static tn_node segments(tn_op_id id, tn_node x, tn_node offsets, int64_t rows)
{
    if (tn_is_none(x)) return x;
    const char *name = tn_op_find(id)->name;
    offsets = integer(x, offsets, name);
    if (tn_is_none(offsets)) return TN_NONE;
    offsets = tn_dtype_of(offsets) == TN_I32 ? offsets : tn_cast(offsets, TN_I32);
    tn_shape shape = tn_shape_of(x);
    int64_t count = tn_dim(offsets, 0) - 1;
    if (tn_rank(offsets) != 1 || count < 0 || shape.rank < 1)
        return tn_graph_fail(
            x.graph,
            "%s of %s: the offsets are %s; they must be [segments + 1], and x must have rows", name,
            tn_shape_text(shape), tn_shape_text(tn_shape_of(offsets)));
    if (id == TN_OP_SEGMENT_BROADCAST && (shape.dim[0] != count || rows < 0))
        return tn_graph_fail(
            x.graph,
            "segment_broadcast of %s to %lld rows: the offsets %s are those of %lld segments",
            tn_shape_text(shape), (long long)rows, tn_shape_text(tn_shape_of(offsets)),
            (long long)count);
    shape.dim[0] = rows >= 0 ? rows : count;
    return tn_node_new(NULL, &(tn_new_node){.id = id,
                                            .dtype = tn_dtype_of(x),
                                            .shape = shape,
                                            .in = (tn_node[]){x, offsets},
                                            .in_count = 2});
}

tn_node tn_segment_sum(tn_node x, tn_node offsets)
{
    return segments(TN_OP_SEGMENT_SUM, x, offsets, -1);
}

tn_node tn_segment_max(tn_node x, tn_node offsets)
{
    return segments(TN_OP_SEGMENT_MAX, x, offsets, -1);
}

tn_node tn_segment_broadcast(tn_node x, tn_node offsets, int64_t total)
{
    return segments(TN_OP_SEGMENT_BROADCAST, x, offsets, total);
}

tn_node tn_segment_mean(tn_node x, tn_node offsets)
{
    tn_node sum = tn_segment_sum(x, offsets);
    if (tn_is_none(sum)) return sum;
    if (!tn_dtype_is_float(tn_dtype_of(x)))
        return tn_graph_fail(x.graph, "segment_mean of %s: the mean needs a floating-point type",
                             tn_dtype_name(tn_dtype_of(x)));
    tn_shape rows = {.rank = tn_rank(sum), .dim = {tn_dim(sum, 0)}};
    for (int i = 1; i < rows.rank; i++) rows.dim[i] = 1;
    tn_node count = tn_subtract(tn_slice(offsets, 0, 1, INT64_MAX, 1),
                                tn_slice(offsets, 0, 0, -1, 1));
    /* Counted in f32 and wider: bf16 has only 8 bits for the number of rows. */
    tn_dtype wide = tn_dtype_of(x) == TN_F64 ? TN_F64 : TN_F32;
    count = tn_reshape(tn_cast(count, wide), rows);
    count = tn_maximum(count, tn_fill(x.graph, wide, TN_SCALAR, 1));
    return tn_cast(tn_divide(tn_cast(sum, wide), count), tn_dtype_of(x));
}

static void segment_sum_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                            tn_node *d_in)
{
    (void)out;
    d_in[0] = tn_segment_broadcast(d_out[0], in[1], tn_dim(in[0], 0));
}

static void segment_broadcast_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                                  tn_node *d_in)
{
    (void)out;
    d_in[0] = tn_segment_sum(d_out[0], in[1]);
}

/* Shared equally among ties. A segment whose maximum is NaN equals nothing: its count of 0 is made
 * 1. */
static void segment_max_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                            tn_node *d_in)
{
    int64_t total = tn_dim(in[0], 0);
    tn_node is_max = tn_cast(tn_equal(in[0], tn_segment_broadcast(out[0], in[1], total)),
                             tn_dtype_of(in[0]));
    tn_node ties = tn_segment_sum(is_max, in[1]);
    tn_node share = tn_divide(
        d_out[0], tn_maximum(ties, tn_fill(ties.graph, tn_dtype_of(ties), TN_SCALAR, 1)));
    d_in[0] = tn_multiply(is_max, tn_segment_broadcast(share, in[1], total));
}

/* ---- order ----------------------------------------------------------------------------------- */

static tn_sort_result ordered(tn_op_id id, tn_node x, int64_t k, bool descending)
{
    tn_axis_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.axis = tn_axis(x, -1);
    attribute.reverse = descending;
    if (attribute.axis < 0) return (tn_sort_result){TN_NONE, TN_NONE};
    tn_shape shape = tn_shape_of(x);
    shape.dim[attribute.axis] = k;
    tn_dtype index = TN_I64;
    tn_node node = tn_node_new(NULL, &(tn_new_node){.id = id,
                                                    .dtype = tn_dtype_of(x),
                                                    .shape = shape,
                                                    .in = &x,
                                                    .in_count = 1,
                                                    .attribute = &attribute,
                                                    .attribute_size = sizeof attribute,
                                                    .more = 1,
                                                    .more_dtype = &index,
                                                    .more_shape = &shape});
    return (tn_sort_result){node, tn_result(node, 1)};
}

tn_sort_result tn_top_k(tn_node x, int64_t k)
{
    if (!tn_is_none(x) && tn_rank(x) > 0 && (k < 0 || k > tn_dim(x, -1))) {
        tn_graph_fail(x.graph, "top_k of %s: %lld of the %lld elements in a row",
                      tn_shape_text(tn_shape_of(x)), (long long)k, (long long)tn_dim(x, -1));
        return (tn_sort_result){TN_NONE, TN_NONE};
    }
    return ordered(TN_OP_TOP_K, x, k, true);
}

tn_sort_result tn_sort(tn_node x, bool descending)
{
    return ordered(TN_OP_SORT, x, tn_dim(x, -1), descending);
}

static void ordered_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    if (!tn_is_none(d_out[0])) d_in[0] = tn_put_along(tn_shape_of(in[0]), out[1], d_out[0], -1);
}

static double sort_flop(const tn_value *self, const tn_value *const *in)
{
    (void)self;
    double n = (double)tn_shape_size(in[0]->shape),
           row = (double)in[0]->shape.dim[in[0]->shape.rank - 1], comparisons = 1;
    while (row > 2) row /= 2, comparisons++;
    return n * comparisons;
}

tn_node tn_one_hot(tn_node index, int64_t classes, tn_dtype dtype)
{
    if (tn_is_none(index)) return index;
    tn_shape shape = tn_shape_of(index);
    index = integer(index, index, "one_hot");
    if (tn_is_none(index)) return TN_NONE;
    if (classes < 0 || shape.rank == TN_MAX_RANK)
        return tn_graph_fail(index.graph, "one_hot of %s with %lld classes", tn_shape_text(shape),
                             (long long)classes);
    shape.dim[shape.rank++] = classes;
    return tn_node_new(
        NULL,
        &(tn_new_node){
            .id = TN_OP_ONE_HOT, .dtype = dtype, .shape = shape, .in = &index, .in_count = 1});
}

const tn_op tn_index_ops[] = {
    {.id = TN_OP_GATHER, .name = "gather", .flags = TN_LINEAR, .vjp = gather_vjp, .flop = no_flop},
    {.id = TN_OP_SCATTER_ADD,
     .name = "scatter_add",
     .flags = TN_LINEAR,
     .vjp = scatter_add_vjp,
     .flop = flop_per_operand},
    {.id = TN_OP_TAKE_ALONG,
     .name = "take_along",
     .flags = TN_LINEAR,
     .vjp = take_along_vjp,
     .flop = no_flop},
    {.id = TN_OP_PUT_ALONG,
     .name = "put_along",
     .flags = TN_LINEAR,
     .vjp = put_along_vjp,
     .flop = flop_per_operand},
    {.id = TN_OP_SEGMENT_SUM,
     .name = "segment_sum",
     .flags = TN_LINEAR,
     .vjp = segment_sum_vjp,
     .flop = flop_per_operand},
    {.id = TN_OP_SEGMENT_MAX,
     .name = "segment_max",
     .vjp = segment_max_vjp,
     .flop = flop_per_operand},
    {.id = TN_OP_SEGMENT_BROADCAST,
     .name = "segment_broadcast",
     .flags = TN_LINEAR,
     .vjp = segment_broadcast_vjp,
     .flop = no_flop},
    {.id = TN_OP_TOP_K, .name = "top_k", .vjp = ordered_vjp, .flop = flop_per_operand},
    {.id = TN_OP_SORT, .name = "sort", .vjp = ordered_vjp, .flop = sort_flop},
    {.id = TN_OP_ONE_HOT, .name = "one_hot", .flags = TN_NO_GRADIENT, .flop = no_flop},
};
const int tn_index_op_count = sizeof tn_index_ops / sizeof *tn_index_ops;
