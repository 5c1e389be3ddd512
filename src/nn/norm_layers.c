/* Norms with their parameters, and batch norm with its running statistics. */
#include "graph/graph.h"
#include "tenon/nn.h"

static double epsilon_of(double given, double usual) { return given > 0 ? given : usual; }

/* weight [n] and bias [n], or what the options leave of them. */
static void affine_parameters(tn_scope scope, int64_t n, bool weight, bool bias, tn_node *scale,
                              tn_node *shift)
{
    *scale = weight ? tn_parameter(scope, "weight", TN_SHAPE(n), tn_init_constant(1)) : TN_NONE;
    *shift = bias ? tn_parameter(scope, "bias", TN_SHAPE(n), tn_init_constant(0)) : TN_NONE;
}

tn_node tn_layer_norm_layer_with(tn_scope scope, tn_node x, tn_norm_options o)
{
    if (tn_is_none(x)) return x;
    if (tn_rank(x) < 1) return tn_graph_fail(x.graph, "layer norm '%s': x is a scalar", scope.path);
    tn_node scale, shift;
    affine_parameters(scope, tn_dim(x, -1), !o.no_affine, !o.no_affine && !o.no_bias, &scale,
                      &shift);
    return tn_layer_norm(x, scale, shift, epsilon_of(o.epsilon, 1e-5));
}

tn_node tn_rms_norm_layer_with(tn_scope scope, tn_node x, tn_norm_options o)
{
    if (tn_is_none(x)) return x;
    if (tn_rank(x) < 1) return tn_graph_fail(x.graph, "RMS norm '%s': x is a scalar", scope.path);
    tn_node scale, none;
    affine_parameters(scope, tn_dim(x, -1), !o.no_affine, false, &scale, &none);
    return tn_rms_norm(x, scale, epsilon_of(o.epsilon, 1e-6));
}

tn_node tn_group_norm_layer_with(tn_scope scope, tn_node x, int64_t groups, tn_norm_options o)
{
    if (tn_is_none(x)) return x;
    tn_node scale, shift;
    affine_parameters(scope, tn_dim(x, 1), !o.no_affine, !o.no_affine && !o.no_bias, &scale,
                      &shift);
    return tn_group_norm(x, groups, scale, shift, epsilon_of(o.epsilon, 1e-5));
}

/* ---- batch norm ------------------------------------------------------------------------------ */

static tn_node statistic(tn_scope scope, const char *name, int64_t n, double first)
{
    tn_scope full = tn_in(scope, "%s", name);
    return tn_state_node(full.graph, full.path, TN_F32, TN_SHAPE(n), tn_init_constant(first));
}

/* Where the layer is used twice in one step (two towers, real and generated images), the second
 * update goes on from the first: takes back an update of `statistic` that was put off, and returns
 * the value it would have written; else the statistic itself. */
static tn_node take_back(tn_node statistic)
{
    tn_graph *graph = statistic.graph;
    if (tn_is_none(statistic)) return statistic;
    for (int32_t i = 0; i < graph->deferred_count; i++) {
        const tn_value *token = graph->value[graph->deferred[i]];
        if (token->op->id != TN_OP_ASSIGN || token->in[0] != statistic.id) continue;
        for (int32_t k = i + 1; k < graph->deferred_count; k++)
            graph->deferred[k - 1] = graph->deferred[k];
        graph->deferred_count--;
        return (tn_node){graph, token->in[1]};
    }
    return statistic;
}

static void put_off_mean(tn_node running, tn_node batch, double momentum)
{
    tn_node before = take_back(running);
    tn_defer(tn_assign(running,
                       tn_add(tn_affine(before, 1 - momentum, 0), tn_affine(batch, momentum, 0))));
}

tn_node tn_batch_norm_with(tn_scope scope, tn_node x, tn_batch_norm_options o)
{
    if (tn_is_none(x)) return x;
    if (tn_rank(x) < 2)
        return tn_graph_fail(x.graph, "batch norm '%s': x is %s, but must be [B, C, S...]",
                             scope.path, tn_shape_text(tn_shape_of(x)));
    int64_t channels = tn_dim(x, 1);
    double epsilon = epsilon_of(o.epsilon, 1e-5), momentum = o.momentum > 0 ? o.momentum : 0.1;
    if (momentum > 1)
        return tn_graph_fail(x.graph,
                             "batch norm '%s': .momentum is %g, but is the share of the new "
                             "batch and at most 1",
                             scope.path, momentum);
    tn_node scale, shift;
    affine_parameters(scope, channels, !o.no_affine, !o.no_affine, &scale, &shift);
    tn_node mean = statistic(scope, "running_mean", channels, 0);
    tn_node variance = statistic(scope, "running_var", channels, 1);
    if (!scope.training) return tn_batch_norm_apply(x, mean, variance, scale, shift, epsilon);

    int64_t values = channels ? tn_shape_size(tn_shape_of(x)) / channels : 0;
    if (values < 2)
        return tn_graph_fail(x.graph,
                             "batch norm '%s': x is %s, which has one value a channel and so no "
                             "variance to train with; use a larger batch",
                             scope.path, tn_shape_text(tn_shape_of(x)));
    tn_batch_norm_result r = tn_batch_norm_train(x, scale, shift, epsilon);
    double unbiased = (double)values / (double)(values - 1);
    tn_scope full = tn_in(scope, "num_batches_tracked");
    tn_node count = tn_state_node(full.graph, full.path, TN_I64, TN_SCALAR, tn_init_constant(0));
    put_off_mean(mean, r.mean, momentum);
    put_off_mean(variance, tn_affine(r.variance, unbiased, 0), momentum);
    tn_defer(tn_assign(count, tn_add(take_back(count), tn_fill(x.graph, TN_I64, TN_SCALAR, 1))));
    return r.y;
}
