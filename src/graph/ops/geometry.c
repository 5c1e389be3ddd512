/* Sampling images at points and resizing them. What they compute exactly: graph/geometry.h. */
#include "graph/geometry.h"

#include <math.h>
#include <string.h>

#include "graph/graph.h"

/* ---- grid sample ----------------------------------------------------------------------------- */

static tn_dtype compute_dtype(tn_node image)
{
    return tn_dtype_of(image) == TN_F64 ? TN_F64 : TN_F32;
}

tn_node tn_grid_sample(tn_node image, tn_node grid, tn_border border)
{
    if (tn_is_none(image)) return image;
    if (tn_is_none(grid)) return tn_graph_fail(image.graph, "grid_sample: the grid is empty");
    tn_shape from = tn_shape_of(image), points = tn_shape_of(grid);
    if (!tn_dtype_is_float(tn_dtype_of(image)) || !tn_dtype_is_float(tn_dtype_of(grid)))
        return tn_graph_fail(
            image.graph,
            "grid_sample: the image is %s and the grid %s; both must be floating-point (tn_cast)",
            tn_dtype_name(tn_dtype_of(image)), tn_dtype_name(tn_dtype_of(grid)));
    if (from.rank != 4 || points.rank != 4 || points.dim[3] != 2 || points.dim[0] != from.dim[0])
        return tn_graph_fail(image.graph,
                             "grid_sample of %s at %s: it wants an image [B, C, H, W] and a grid "
                             "[B, h, w, 2] of (x, y)",
                             tn_shape_text(from), tn_shape_text(points));
    if (from.dim[2] < 1 || from.dim[3] < 1 || from.dim[2] > INT32_MAX / from.dim[3])
        return tn_graph_fail(image.graph, "grid_sample: an image of %lld x %lld pixels",
                             (long long)from.dim[2], (long long)from.dim[3]);
    tn_grid_sample_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.border = (int32_t)border;
    tn_node in[2] = {image, tn_cast(grid, compute_dtype(image))};
    return tn_node_new(NULL, &(tn_new_node){.id = TN_OP_GRID_SAMPLE,
                                            .dtype = tn_dtype_of(image),
                                            .shape = TN_SHAPE(from.dim[0], from.dim[1],
                                                              points.dim[1], points.dim[2]),
                                            .in = in,
                                            .in_count = 2,
                                            .attribute = &attribute,
                                            .attribute_size = sizeof attribute});
}

static void grid_sample_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                            tn_node *d_in)
{
    tn_dtype grid_dtype = tn_dtype_of(in[1]);
    tn_shape grid_shape = tn_shape_of(in[1]);
    d_in[0] = tn_node_new(NULL, &(tn_new_node){.id = TN_OP_GRID_SAMPLE_GRAD,
                                               .dtype = tn_dtype_of(in[0]),
                                               .shape = tn_shape_of(in[0]),
                                               .in = (tn_node[]){in[0], in[1], d_out[0]},
                                               .in_count = 3,
                                               .attribute = tn_value_of(out[0])->attribute,
                                               .attribute_size = sizeof(tn_grid_sample_attribute),
                                               .more = 1,
                                               .more_dtype = &grid_dtype,
                                               .more_shape = &grid_shape});
    d_in[1] = tn_result(d_in[0], 1);
}

/* One coordinate of the grid: the pixel before it, how far behind that it lies, and which of the
 * two pixels around exist. */
typedef struct coordinate {
    tn_node cell;      /* i64 [B, P]: index of the pixel before; may lie outside */
    tn_node weight[2]; /* [B, P]: of the pixel before and the one behind */
    tn_node index[2];  /* i64 [B, P], made valid */
    tn_node inside[2]; /* bool [B, P]; empty: always */
} coordinate;

static coordinate locate(tn_node grid, int which, int64_t size, bool clamp)
{
    tn_graph *graph = grid.graph;
    tn_dtype dtype = tn_dtype_of(grid);
    int64_t batch = tn_dim(grid, 0);
    tn_node x = tn_reshape(tn_slice(grid, 3, which, which + 1, 1),
                           TN_SHAPE(batch, tn_dim(grid, 1) * tn_dim(grid, 2)));
    double last = (double)(size - 1), low = clamp ? 0 : -2, high = clamp ? last : last + 2;
    x = tn_where(tn_equal(x, x), x, tn_fill(graph, dtype, TN_SCALAR, -INFINITY)); /* NaN */
    /* Beyond the ends nothing changes any more; integers must be able to hold it. */
    x = tn_clamp(x, low, high);
    tn_node floor = tn_stop_gradient(tn_floor(x)), fraction = tn_subtract(x, floor);
    coordinate c = {.cell = tn_cast(floor, TN_I64)};
    c.weight[0] = tn_affine(fraction, -1, 1);
    c.weight[1] = fraction;
    tn_node zero = tn_fill(graph, TN_I64, TN_SCALAR, 0),
            end = tn_fill(graph, TN_I64, TN_SCALAR, last);
    for (int k = 0; k < 2; k++) {
        tn_node at = tn_add(c.cell, tn_fill(graph, TN_I64, TN_SCALAR, k));
        c.index[k] = tn_minimum(tn_maximum(at, zero), end);
        c.inside[k] = clamp ? TN_NONE : tn_equal(at, c.index[k]);
    }
    return c;
}

/* [B, P] -> [B, C, P] */
static tn_node over_channels(tn_node x, int64_t channels)
{
    tn_node row = tn_expand_dims(x, 1);
    return tn_broadcast(row, TN_SHAPE(tn_dim(x, 0), channels, tn_dim(x, 1)));
}

static void grid_sample_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    const tn_grid_sample_attribute *attribute = tn_value_of(self)->attribute;
    bool clamp = attribute->border == TN_BORDER_CLAMP;
    tn_shape from = tn_shape_of(in[0]);
    int64_t channels = from.dim[1], height = from.dim[2], width = from.dim[3];
    tn_dtype wide = compute_dtype(in[0]);
    tn_node image = tn_reshape(tn_cast(in[0], wide),
                               TN_SHAPE(from.dim[0], channels, height * width));
    coordinate x = locate(in[1], 0, width, clamp), y = locate(in[1], 1, height, clamp);
    tn_node sum = TN_NONE, zero = tn_fill(image.graph, wide, TN_SCALAR, 0);
    for (int corner = 0; corner < 4; corner++) {
        int right = corner & 1, below = corner >> 1;
        tn_node row = tn_multiply(y.index[below],
                                  tn_fill(image.graph, TN_I64, TN_SCALAR, (double)width));
        tn_node pixel = tn_take_along(image, over_channels(tn_add(row, x.index[right]), channels),
                                      2);
        if (!clamp)
            pixel = tn_where(tn_expand_dims(tn_and(x.inside[right], y.inside[below]), 1), pixel,
                             zero);
        tn_node term = tn_multiply(
            pixel, tn_expand_dims(tn_multiply(x.weight[right], y.weight[below]), 1));
        sum = tn_is_none(sum) ? term : tn_add(sum, term);
    }
    out[0] = tn_reshape(tn_cast(sum, tn_dtype_of(self)), tn_shape_of(self));
}

/* The gradient of the decomposition of a sample of its own. */
static void grid_sample_grad_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    const tn_grid_sample_attribute *attribute = tn_value_of(self)->attribute;
    tn_node sample = tn_grid_sample(in[0], in[1], (tn_border)attribute->border);
    if (tn_is_none(sample)) return;
    tn_vjp_decomposed(sample, in, &in[2], out);
    for (int i = 0; i < 2; i++)
        if (tn_is_none(out[i])) out[i] = tn_like(in[i], 0);
}

static double grid_sample_flop(const tn_value *self, const tn_value *const *in)
{
    (void)in;
    return 8 * (double)tn_shape_size(self->shape);
}

static double grid_sample_grad_flop(const tn_value *self, const tn_value *const *in)
{
    (void)self;
    return 24 * (double)tn_shape_size(in[2]->shape);
}

/* ---- resize ---------------------------------------------------------------------------------- */

static tn_node resize(tn_op_id id, tn_node x, tn_shape shape, const tn_resize_attribute *attribute)
{
    return tn_node_new(NULL, &(tn_new_node){.id = id,
                                            .dtype = tn_dtype_of(x),
                                            .shape = shape,
                                            .in = &x,
                                            .in_count = 1,
                                            .attribute = attribute,
                                            .attribute_size = sizeof *attribute});
}

tn_node tn_resize(tn_node x, const int64_t *space, tn_resize_kind kind, bool align_corners)
{
    if (tn_is_none(x)) return x;
    tn_shape from = tn_shape_of(x), to = from;
    if (from.rank < 3 || from.rank > 5)
        return tn_graph_fail(x.graph,
                             "resize of %s: it wants [B, C, ...] with 1 to 3 spatial dimensions",
                             tn_shape_text(from));
    if (!tn_dtype_is_float(tn_dtype_of(x)))
        return tn_graph_fail(x.graph, "resize of %s: cast to a floating-point type first",
                             tn_dtype_name(tn_dtype_of(x)));
    if (align_corners && (kind == TN_RESIZE_NEAREST || kind == TN_RESIZE_AREA))
        return tn_graph_fail(x.graph, "resize: align_corners is for bilinear and cubic only");
    for (int i = 2; i < from.rank; i++) to.dim[i] = space[i - 2];
    for (int i = 2; i < from.rank; i++)
        if (from.dim[i] < 1 || to.dim[i] < 1 || from.dim[i] > INT32_MAX || to.dim[i] > INT32_MAX)
            return tn_graph_fail(x.graph, "resize of %s to %s: no spatial dimension may be empty",
                                 tn_shape_text(from), tn_shape_text(to));
    if (tn_shape_equal(from, to)) return x;
    tn_resize_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.kind = (int32_t)kind;
    attribute.align_corners = align_corners;
    return resize(TN_OP_RESIZE, x, to, &attribute);
}

static void resize_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    d_in[0] = resize(TN_OP_RESIZE_GRAD, d_out[0], tn_shape_of(in[0]),
                     tn_value_of(out[0])->attribute);
}

static void resize_grad_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                            tn_node *d_in)
{
    d_in[0] = resize(TN_OP_RESIZE, d_out[0], tn_shape_of(in[0]), tn_value_of(out[0])->attribute);
}

/* Taps of one output element, times two: separable passes over the larger of both tensors. */
static double resize_flop(const tn_value *self, const tn_value *const *in)
{
    const tn_resize_attribute *attribute = self->attribute;
    double larger = (double)tn_shape_size(self->shape), other = (double)tn_shape_size(in[0]->shape);
    if (other > larger) larger = other;
    double taps = attribute->kind == TN_RESIZE_CUBIC      ? 4
                  : attribute->kind == TN_RESIZE_BILINEAR ? 2
                                                          : 1;
    return attribute->kind == TN_RESIZE_NEAREST ? 0 : 2 * taps * (self->shape.rank - 2) * larger;
}

/* ---- affine grid ----------------------------------------------------------------------------- */

tn_node tn_affine_grid(tn_node matrix, int64_t height, int64_t width)
{
    if (tn_is_none(matrix)) return matrix;
    tn_shape shape = tn_shape_of(matrix);
    if (shape.rank != 3 || shape.dim[1] != 2 || shape.dim[2] != 3 || height < 0 || width < 0)
        return tn_graph_fail(
            matrix.graph, "affine_grid of %s for %lld x %lld pixels: it wants matrices [B, 2, 3]",
            tn_shape_text(shape), (long long)height, (long long)width);
    tn_node column[3]; /* of the matrices, [B, 1, 1, 2] */
    for (int i = 0; i < 3; i++)
        column[i] = tn_reshape(tn_slice(matrix, 2, i, i + 1, 1), TN_SHAPE(shape.dim[0], 1, 1, 2));
    tn_node x = tn_iota(matrix.graph, tn_dtype_of(matrix), TN_SHAPE(1, width, 1), 1);
    tn_node y = tn_iota(matrix.graph, tn_dtype_of(matrix), TN_SHAPE(height, 1, 1), 0);
    return tn_add(tn_add(tn_multiply(column[0], x), tn_multiply(column[1], y)), column[2]);
}

const tn_op tn_geometry_ops[] = {
    {.id = TN_OP_GRID_SAMPLE,
     .name = "grid_sample",
     .vjp = grid_sample_vjp,
     .decompose = grid_sample_decompose,
     .flop = grid_sample_flop},
    {.id = TN_OP_GRID_SAMPLE_GRAD,
     .name = "grid_sample_grad",
     .decompose = grid_sample_grad_decompose,
     .flop = grid_sample_grad_flop},
    {.id = TN_OP_RESIZE,
     .name = "resize",
     .flags = TN_LINEAR,
     .vjp = resize_vjp,
     .flop = resize_flop},
    {.id = TN_OP_RESIZE_GRAD,
     .name = "resize_grad",
     .flags = TN_LINEAR,
     .vjp = resize_grad_vjp,
     .flop = resize_flop},
};
const int tn_geometry_op_count = sizeof tn_geometry_ops / sizeof *tn_geometry_ops;
