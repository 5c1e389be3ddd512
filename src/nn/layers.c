/* Layers that multiply: linear, convolution, embedding; and dropout. */
#include <math.h>

#include "graph/op.h"
#include "tenon/nn.h"

tn_node tn_to_compute(tn_scope scope, tn_node x)
{
    if (tn_is_none(x) || tn_dtype_of(x) == scope.compute || !tn_dtype_is_float(tn_dtype_of(x)))
        return x;
    return tn_cast(x, scope.compute);
}

/* PyTorch's default for a weight and its bias: uniform within 1/sqrt(fan_in). */
static tn_init usual(tn_init given, tn_shape weight)
{
    return tn_init_given(given) ? given : tn_init_kaiming_uniform(weight, sqrt(5));
}

static tn_node bias_of(tn_scope scope, int64_t width, tn_shape weight)
{
    return tn_parameter(scope, "bias", TN_SHAPE(width), tn_init_kaiming_uniform(weight, sqrt(5)));
}

static bool positive(tn_scope scope, const char *layer, const char *what, int64_t value)
{
    if (value > 0) return true;
    tn_graph_fail(scope.graph, "%s '%s': %s is %lld, but must be at least 1", layer, scope.path,
                  what, (long long)value);
    return false;
}

/* ---- linear ---------------------------------------------------------------------------------- */

tn_node tn_linear_with(tn_scope scope, tn_node x, int64_t width, tn_linear_options o)
{
    if (tn_is_none(x) || !positive(scope, "linear", "width", width)) return TN_NONE;
    if (tn_rank(x) < 1)
        return tn_graph_fail(scope.graph, "linear '%s': x is a scalar, but must be [..., in]",
                             scope.path);
    tn_shape weight_shape = TN_SHAPE(width, tn_dim(x, -1));
    tn_node weight = tn_parameter(scope, "weight", weight_shape, usual(o.init, weight_shape));
    tn_matmul_options options = {.transpose_b = true};
    if (o.bias) options.bias = tn_to_compute(scope, bias_of(scope, width, weight_shape));
    x = tn_to_compute(scope, x);
    bool row = tn_rank(x) == 1;
    if (row) x = tn_expand_dims(x, 0);
    tn_node y = tn_matmul_with(x, tn_to_compute(scope, weight), options);
    return row ? tn_squeeze(y, 0) : y;
}

/* ---- convolution ----------------------------------------------------------------------------- */

typedef struct conv_plan {
    int space; /* spatial dimensions */
    int64_t kernel[TN_MAX_SPACE];
    tn_conv_geometry geometry;
} conv_plan;

static int64_t either(int64_t own, int64_t all, int64_t otherwise)
{
    return own ? own : all ? all : otherwise;
}

/* Checks the options against x and fills in their defaults; false with an error in the graph. */
static bool plan_conv(tn_scope scope, const char *layer, tn_node x, int64_t width,
                      const tn_conv_options *o, conv_plan *plan)
{
    *plan = (conv_plan){.space = tn_rank(x) - 2};
    if (tn_is_none(x) || !positive(scope, layer, "width", width)) return false;
    if (plan->space < 1 || plan->space > TN_MAX_SPACE) {
        tn_graph_fail(scope.graph,
                      "%s '%s': x is %s, but must be [B, C, S...] with 1 to 3 spatial "
                      "dimensions",
                      layer, scope.path, tn_shape_text(tn_shape_of(x)));
        return false;
    }
    tn_conv_geometry *g = &plan->geometry;
    g->groups = either(0, o->groups, 1);
    if (g->groups < 1 || tn_dim(x, 1) % g->groups || width % g->groups) {
        tn_graph_fail(scope.graph,
                      "%s '%s': %lld groups do not divide %lld input and %lld output "
                      "channels",
                      layer, scope.path, (long long)g->groups, (long long)tn_dim(x, 1),
                      (long long)width);
        return false;
    }
    for (int i = 0; i < plan->space; i++) {
        plan->kernel[i] = either(o->kernel_axis[i], o->kernel, 1);
        g->stride[i] = either(o->stride_axis[i], o->stride, 1);
        g->dilation[i] = either(o->dilation_axis[i], o->dilation, 1);
        int64_t pad = either(o->pad_axis[i], o->pad, 0);
        if (!positive(scope, layer, "kernel", plan->kernel[i]) ||
            !positive(scope, layer, "stride", g->stride[i]) ||
            !positive(scope, layer, "dilation", g->dilation[i]))
            return false;
        if (o->same && (pad || plan->kernel[i] % 2 == 0)) {
            tn_graph_fail(scope.graph,
                          "%s '%s': .same needs an odd kernel and no .pad, but they are "
                          "%lld and %lld",
                          layer, scope.path, (long long)plan->kernel[i], (long long)pad);
            return false;
        }
        if (o->same) pad = g->dilation[i] * (plan->kernel[i] - 1) / 2;
        g->pad_before[i] = g->pad_after[i] = pad;
    }
    return true;
}

static tn_shape kernel_shape(int64_t first, int64_t second, const conv_plan *plan)
{
    tn_shape shape = TN_SHAPE(first, second);
    for (int i = 0; i < plan->space; i++) shape.dim[shape.rank++] = plan->kernel[i];
    return shape;
}

tn_node tn_conv_with(tn_scope scope, tn_node x, int64_t width, tn_conv_options o)
{
    conv_plan plan;
    if (!plan_conv(scope, "convolution", x, width, &o, &plan)) return TN_NONE;
    if (o.output_pad)
        return tn_graph_fail(scope.graph, "convolution '%s': .output_pad is for tn_conv_transpose",
                             scope.path);
    tn_shape shape = kernel_shape(width, tn_dim(x, 1) / plan.geometry.groups, &plan);
    tn_node weight = tn_parameter(scope, "weight", shape, usual(o.init, shape));
    tn_node bias = o.bias ? tn_to_compute(scope, bias_of(scope, width, shape)) : TN_NONE;
    return tn_convolution(tn_to_compute(scope, x), tn_to_compute(scope, weight), bias,
                          plan.geometry);
}

tn_node tn_conv_transpose_with(tn_scope scope, tn_node x, int64_t width, tn_conv_options o)
{
    conv_plan plan;
    if (!plan_conv(scope, "transposed convolution", x, width, &o, &plan)) return TN_NONE;
    tn_shape shape = kernel_shape(tn_dim(x, 1), width / plan.geometry.groups, &plan);
    tn_node weight = tn_parameter(scope, "weight", shape, usual(o.init, shape));
    tn_conv_geometry g = plan.geometry;
    int64_t space[TN_MAX_SPACE] = {0};
    for (int i = 0; i < plan.space; i++) {
        /* What is added at the end must be less than a stride, or the convolution this is the
         * adjoint of would not have S outputs. */
        if (o.output_pad < 0 || o.output_pad >= g.stride[i])
            return tn_graph_fail(scope.graph,
                                 "transposed convolution '%s': .output_pad is %lld, but "
                                 "must be from 0 to stride - 1 = %lld",
                                 scope.path, (long long)o.output_pad, (long long)g.stride[i] - 1);
        space[i] = (tn_dim(x, 2 + i) - 1) * g.stride[i] - g.pad_before[i] - g.pad_after[i] +
                   g.dilation[i] * (plan.kernel[i] - 1) + o.output_pad + 1;
    }
    tn_node y = tn_convolution_input(tn_to_compute(scope, x), tn_to_compute(scope, weight), space,
                                     g);
    if (!o.bias || tn_is_none(y)) return y;
    tn_shape channels = {.rank = tn_rank(y)};
    for (int i = 0; i < channels.rank; i++) channels.dim[i] = i == 1 ? width : 1;
    return tn_add(y, tn_reshape(tn_to_compute(scope, bias_of(scope, width, shape)), channels));
}

/* ---- embedding and dropout ------------------------------------------------------------------- */

tn_node tn_embedding_with(tn_scope scope, tn_node ids, int64_t rows, int64_t width,
                          tn_embedding_options o)
{
    if (tn_is_none(ids) || !positive(scope, "embedding", "rows", rows) ||
        !positive(scope, "embedding", "width", width))
        return TN_NONE;
    if (tn_dtype_is_float(tn_dtype_of(ids)) || tn_dtype_of(ids) == TN_BOOL)
        return tn_graph_fail(scope.graph, "embedding '%s': ids are %s, but must be integers",
                             scope.path, tn_dtype_name(tn_dtype_of(ids)));
    tn_init init = tn_init_given(o.init) ? o.init : tn_init_normal(0, 1);
    tn_node table = tn_parameter(scope, "weight", TN_SHAPE(rows, width), init);
    /* Cast behind the lookup: a few rows instead of the whole table. */
    return tn_to_compute(scope, tn_gather(table, ids, 0));
}

tn_node tn_dropout(tn_scope scope, tn_node x, double rate)
{
    if (tn_is_none(x)) return x;
    if (!(rate >= 0 && rate < 1))
        return tn_graph_fail(x.graph,
                             "dropout '%s': the rate is %g, but must be from 0 to less than 1",
                             scope.path, rate);
    if (!scope.training || rate == 0) return x;
    if (tn_is_none(scope.step))
        return tn_graph_fail(
            x.graph,
            "dropout '%s': a training scope needs a step counter, or every "
            "step would drop the same elements; set scope.step = tn_step_node(graph)",
            scope.path);
    return tn_dropout_node(x, rate, tn_key(scope));
}
