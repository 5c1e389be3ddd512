/* Pooling: maxima and means over windows.
 *
 * The gradient of a maximum goes to the first one of its window in row-major order. MAX_POOL
 * therefore has a second result, the place of that maximum inside its window; MAX_POOL_GRAD
 * scatters to those places and MAX_POOL_TAKE gathers from them. The two are each other's
 * adjoint, so derivatives of any order exist. */
#include <string.h>

#include "graph/graph.h"

enum { X_RANK_LOW = 3, X_RANK_HIGH = 2 + TN_MAX_SPACE };

/* Fills in defaults and finds the pooled shape; false after an error. */
static bool resolve(const char *what, tn_node x, tn_pool_geometry *g, tn_shape *pooled)
{
    tn_shape shape = tn_shape_of(x);
    if (shape.rank < X_RANK_LOW || shape.rank > X_RANK_HIGH || !tn_dtype_is_float(tn_dtype_of(x))) {
        tn_graph_fail(x.graph,
                      "%s: x is %s %s; it must be floating-point with 3 to 5 dimensions (1 to 3 of "
                      "them spatial)",
                      what, tn_dtype_name(tn_dtype_of(x)), tn_shape_text(shape));
        return false;
    }
    *pooled = shape;
    for (int i = 0; i < TN_MAX_SPACE; i++) {
        if (i >= shape.rank - 2) {
            g->kernel[i] = g->stride[i] = 1;
            g->pad_before[i] = g->pad_after[i] = 0;
            continue;
        }
        int64_t k = g->kernel[i], size = shape.dim[2 + i], before = g->pad_before[i],
                after = g->pad_after[i];
        if (g->stride[i] == 0) g->stride[i] = k;
        /* A window that saw nothing but padding would have no maximum and no mean. */
        bool good = k >= 1 && k < INT32_MAX && g->stride[i] >= 1 && g->stride[i] < INT32_MAX &&
                    before >= 0 && before < k && after >= 0 && after < k;
        if (!good || size + before + after < k) {
            tn_graph_fail(x.graph,
                          "%s: kernel %lld, stride %lld and padding %lld and %lld do not go with "
                          "spatial dimension %d of size %lld; "
                          "the kernel must fit, and padding be smaller than it",
                          what, (long long)k, (long long)g->stride[i], (long long)before,
                          (long long)after, i, (long long)size);
            return false;
        }
        pooled->dim[2 + i] = (size + before + after - k) / g->stride[i] + 1;
    }
    return true;
}

static tn_pool_attribute attribute_of(const tn_pool_geometry *g)
{
    tn_pool_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    memcpy(attribute.geometry.kernel, g->kernel, sizeof g->kernel);
    memcpy(attribute.geometry.stride, g->stride, sizeof g->stride);
    memcpy(attribute.geometry.pad_before, g->pad_before, sizeof g->pad_before);
    memcpy(attribute.geometry.pad_after, g->pad_after, sizeof g->pad_after);
    attribute.geometry.count_padding = g->count_padding;
    return attribute;
}

static tn_node pool(tn_op_id id, const tn_node *in, int in_count, tn_shape shape,
                    const tn_pool_attribute *attribute)
{
    return tn_node_new(NULL, &(tn_new_node){.id = id,
                                            .dtype = tn_dtype_of(in[0]),
                                            .shape = shape,
                                            .in = in,
                                            .in_count = in_count,
                                            .attribute = attribute,
                                            .attribute_size = sizeof *attribute});
}

/* ---- maximum --------------------------------------------------------------------------------- */

tn_node tn_max_pool(tn_node x, tn_pool_geometry g)
{
    tn_shape pooled;
    if (tn_is_none(x)) return x;
    g.count_padding = false;
    if (!resolve("max_pool", x, &g, &pooled)) return TN_NONE;
    tn_pool_attribute attribute = attribute_of(&g);
    double cells = (double)g.kernel[0] * (double)g.kernel[1] * (double)g.kernel[2];
    if (cells > INT32_MAX)
        return tn_graph_fail(x.graph, "max_pool: a window of %.0f cells is too large; use tn_max",
                             cells);
    tn_dtype place = cells <= 127 ? TN_I8 : TN_I32;
    return tn_node_new(NULL, &(tn_new_node){.id = TN_OP_MAX_POOL,
                                            .dtype = tn_dtype_of(x),
                                            .shape = pooled,
                                            .in = &x,
                                            .in_count = 1,
                                            .attribute = &attribute,
                                            .attribute_size = sizeof attribute,
                                            .more = 1,
                                            .more_dtype = &place,
                                            .more_shape = &pooled});
}

static void max_pool_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    if (tn_is_none(d_out[0])) return;
    d_in[0] = pool(TN_OP_MAX_POOL_GRAD, (tn_node[]){d_out[0], out[1]}, 2, tn_shape_of(in[0]),
                   tn_value_of(out[0])->attribute);
}

static void max_pool_grad_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                              tn_node *d_in)
{
    d_in[0] = pool(TN_OP_MAX_POOL_TAKE, (tn_node[]){d_out[0], in[1]}, 2, tn_shape_of(in[0]),
                   tn_value_of(out[0])->attribute);
}

static void max_pool_take_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                              tn_node *d_in)
{
    d_in[0] = pool(TN_OP_MAX_POOL_GRAD, (tn_node[]){d_out[0], in[1]}, 2, tn_shape_of(in[0]),
                   tn_value_of(out[0])->attribute);
}

/* ---- mean ------------------------------------------------------------------------------------ */

tn_node tn_average_pool(tn_node x, tn_pool_geometry g)
{
    tn_shape pooled;
    if (tn_is_none(x)) return x;
    if (!resolve("average_pool", x, &g, &pooled)) return TN_NONE;
    tn_pool_attribute attribute = attribute_of(&g);
    return pool(TN_OP_AVERAGE_POOL, &x, 1, pooled, &attribute);
}

static void average_pool_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                             tn_node *d_in)
{
    d_in[0] = pool(TN_OP_AVERAGE_POOL_GRAD, d_out, 1, tn_shape_of(in[0]),
                   tn_value_of(out[0])->attribute);
}

static void average_pool_grad_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                                  tn_node *d_in)
{
    d_in[0] = pool(TN_OP_AVERAGE_POOL, d_out, 1, tn_shape_of(in[0]),
                   tn_value_of(out[0])->attribute);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static double flop_of(const tn_value *self, tn_shape pooled)
{
    const tn_pool_geometry *g = &((const tn_pool_attribute *)self->attribute)->geometry;
    return (double)tn_shape_size(pooled) * (double)g->kernel[0] * (double)g->kernel[1] *
           (double)g->kernel[2];
}

static double pool_flop(const tn_value *self, const tn_value *const *in)
{
    (void)in;
    return flop_of(self, self->shape);
}

static double pool_grad_flop(const tn_value *self, const tn_value *const *in)
{
    return flop_of(self, in[0]->shape);
}

const tn_op tn_pool_ops[] = {
    {.id = TN_OP_MAX_POOL, .name = "max_pool", .vjp = max_pool_vjp, .flop = pool_flop},
    {.id = TN_OP_MAX_POOL_GRAD,
     .name = "max_pool_grad",
     .flags = TN_LINEAR,
     .vjp = max_pool_grad_vjp,
     .flop = pool_grad_flop},
    {.id = TN_OP_MAX_POOL_TAKE,
     .name = "max_pool_take",
     .flags = TN_LINEAR,
     .vjp = max_pool_take_vjp,
     .flop = pool_flop},
    {.id = TN_OP_AVERAGE_POOL,
     .name = "average_pool",
     .flags = TN_LINEAR,
     .vjp = average_pool_vjp,
     .flop = pool_flop},
    {.id = TN_OP_AVERAGE_POOL_GRAD,
     .name = "average_pool_grad",
     .flags = TN_LINEAR,
     .vjp = average_pool_grad_vjp,
     .flop = pool_grad_flop},
};
const int tn_pool_op_count = sizeof tn_pool_ops / sizeof *tn_pool_ops;
