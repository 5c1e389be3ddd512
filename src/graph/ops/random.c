/* Random nodes: pure functions of (seed, stream, step, element). What they draw exactly:
 * graph/random.h. */
#include "graph/random.h"

#include <string.h>

#include "graph/graph.h"

tn_random_key tn_key(tn_scope scope)
{
    return (tn_random_key){
        scope.seed, scope.graph ? tn_graph_next_stream(scope.graph, scope.path) : 0, scope.step};
}

/* A random node over x (TN_NONE: it has no operand) and the key's step. */
static tn_node draw(tn_op_id id, tn_graph *graph, tn_node x, tn_random_key key, tn_dtype dtype,
                    tn_shape shape, double rate)
{
    if (!graph) return TN_NONE;
    const char *name = tn_op_find(id)->name;
    if (!tn_is_none(key.step)) {
        tn_dtype step = tn_dtype_of(key.step);
        if ((step != TN_I64 && step != TN_I32) || tn_rank(key.step) != 0)
            return tn_graph_fail(graph, "%s: the key's step is %s %s; it must be one i64 number",
                                 name, tn_dtype_name(step), tn_shape_text(tn_shape_of(key.step)));
        if (step == TN_I32) key.step = tn_cast(key.step, TN_I64);
    }
    tn_random_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.seed = key.seed;
    attribute.stream = key.stream;
    attribute.rate = rate;
    tn_node in[2];
    int count = 0;
    if (!tn_is_none(x)) in[count++] = x;
    if (!tn_is_none(key.step)) in[count++] = key.step;
    return tn_node_new(graph, &(tn_new_node){.id = id,
                                             .dtype = dtype,
                                             .shape = shape,
                                             .in = in,
                                             .in_count = count,
                                             .attribute = &attribute,
                                             .attribute_size = sizeof attribute});
}

tn_node tn_random_uniform_node(tn_random_key key, tn_graph *graph, tn_shape shape)
{
    return draw(TN_OP_RANDOM_UNIFORM, graph, TN_NONE, key, TN_F32, shape, 0);
}

tn_node tn_random_normal_node(tn_random_key key, tn_graph *graph, tn_shape shape)
{
    return draw(TN_OP_RANDOM_NORMAL, graph, TN_NONE, key, TN_F32, shape, 0);
}

tn_node tn_permutation_node(tn_random_key key, tn_graph *graph, int64_t count)
{
    if (count < 0) return tn_graph_fail(graph, "permutation of %lld elements", (long long)count);
    return draw(TN_OP_PERMUTATION, graph, TN_NONE, key, TN_I64, TN_SHAPE(count), 0);
}

tn_node tn_dropout_node(tn_node x, double rate, tn_random_key key)
{
    if (tn_is_none(x)) return x;
    if (!(rate >= 0 && rate < 1))
        return tn_graph_fail(x.graph, "dropout at rate %g; it must be in [0, 1)", rate);
    if (!tn_dtype_is_float(tn_dtype_of(x)))
        return tn_graph_fail(x.graph, "dropout of %s: it needs a floating-point type",
                             tn_dtype_name(tn_dtype_of(x)));
    if (tn_dropout_threshold(rate) == 0) return x;
    return draw(TN_OP_DROPOUT, x.graph, x, key, tn_dtype_of(x), tn_shape_of(x), rate);
}

/* Linear, and the same elements drop out of the gradient. */
static void dropout_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    const tn_value *self = tn_value_of(out[0]);
    const tn_random_attribute *attribute = self->attribute;
    tn_random_key key = {attribute->seed, attribute->stream, self->in_count > 1 ? in[1] : TN_NONE};
    d_in[0] = tn_dropout_node(d_out[0], attribute->rate, key);
}

tn_node tn_categorical_node(tn_node logits, tn_random_key key)
{
    if (tn_is_none(logits)) return logits;
    tn_shape shape = tn_shape_of(logits);
    if (shape.rank != 2 || shape.dim[1] < 1 || !tn_dtype_is_float(tn_dtype_of(logits)))
        return tn_graph_fail(
            logits.graph,
            "categorical over %s %s: it wants floating-point logits [N, V] with V > 0",
            tn_dtype_name(tn_dtype_of(logits)), tn_shape_text(shape));
    return draw(TN_OP_CATEGORICAL, logits.graph, logits, key, TN_I64, TN_SHAPE(shape.dim[0]), 0);
}

const tn_op tn_random_ops[] = {
    {.id = TN_OP_RANDOM_UNIFORM, .name = "random_uniform", .flags = TN_NO_GRADIENT},
    {.id = TN_OP_RANDOM_NORMAL, .name = "random_normal", .flags = TN_NO_GRADIENT},
    {.id = TN_OP_DROPOUT, .name = "dropout", .flags = TN_LINEAR, .vjp = dropout_vjp},
    {.id = TN_OP_PERMUTATION, .name = "permutation", .flags = TN_NO_GRADIENT},
    {.id = TN_OP_CATEGORICAL, .name = "categorical", .flags = TN_NO_GRADIENT},
};
const int tn_random_op_count = sizeof tn_random_ops / sizeof *tn_random_ops;
