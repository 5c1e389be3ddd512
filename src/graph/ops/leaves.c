/* Leaves and structure: inputs, state, constants, assignments, several results, and the ends of gradients. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "graph/graph.h"

static tn_node find_named(tn_graph *graph, tn_op_id kind, const char *name)
{
    for (int i = 0; i < graph->named_count; i++) {
        const tn_value *value = graph->value[graph->named[i]];
        if (value->op->id == kind && !strcmp(value->name, name))
            return (tn_node){graph, graph->named[i]};
    }
    return TN_NONE;
}

static tn_node named_leaf(tn_graph *graph, tn_op_id kind, const char *name, tn_dtype dtype,
                          tn_shape shape, const void *attribute, size_t attribute_size)
{
    tn_node node = tn_node_new(graph, &(tn_new_node){.id = kind,
                                                     .dtype = dtype,
                                                     .shape = shape,
                                                     .attribute = attribute,
                                                     .attribute_size = attribute_size});
    if (tn_is_none(node)) return node;
    graph->value[node.id]->name = tn_arena_string(&graph->arena, name);
    if (!graph->value[node.id]->name || !tn_grow((void **)&graph->named, graph->named_count,
                                                 &graph->named_capacity, sizeof *graph->named)) {
        graph->status = TN_MEMORY;
        return TN_NONE;
    }
    graph->named[graph->named_count++] = node.id;
    return node;
}

tn_node tn_input(tn_graph *graph, const char *name, tn_dtype dtype, tn_shape shape)
{
    if (!graph || !name) return TN_NONE;
    if (!tn_is_none(find_named(graph, TN_OP_INPUT, name)))
        return tn_graph_fail(graph, "input '%s' exists already; choose another name", name);
    return named_leaf(graph, TN_OP_INPUT, name, dtype, shape, NULL, 0);
}

static tn_node state_leaf(tn_graph *graph, const char *name, tn_dtype dtype, tn_shape shape,
                          tn_init init, bool parameter)
{
    if (!graph || !name) return TN_NONE;
    if (!graph->state)
        return tn_graph_fail(
            graph, "state '%s' in a graph without a state store; pass one to tn_graph_create",
            name);
    tn_node known = find_named(graph, TN_OP_STATE, name);
    if (!tn_is_none(known)) {
        if (tn_dtype_of(known) != dtype || !tn_shape_equal(tn_shape_of(known), shape))
            return tn_graph_fail(graph, "state '%s' is %s %s here, but was declared as %s %s", name,
                                 tn_dtype_name(dtype), tn_shape_text(shape),
                                 tn_dtype_name(tn_dtype_of(known)),
                                 tn_shape_text(tn_shape_of(known)));
        return known;
    }
    tn_state_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.init.kind = init.kind;
    attribute.init.a = init.a;
    attribute.init.b = init.b;
    attribute.parameter = parameter;
    return named_leaf(graph, TN_OP_STATE, name, dtype, shape, &attribute, sizeof attribute);
}

tn_node tn_state_node(tn_graph *graph, const char *name, tn_dtype dtype, tn_shape shape,
                      tn_init init)
{
    return state_leaf(graph, name, dtype, shape, init, false);
}

tn_node tn_parameter(tn_scope scope, const char *name, tn_shape shape, tn_init init)
{
    tn_scope full = tn_in(scope, "%s", name);
    return state_leaf(full.graph, full.path, TN_F32, shape, init, true);
}

int tn_graph_parameters(const tn_graph *graph, tn_node *out, int capacity)
{
    int count = 0;
    for (int i = 0; i < graph->named_count; i++) {
        const tn_value *value = graph->value[graph->named[i]];
        if (value->op->id != TN_OP_STATE ||
            !((const tn_state_attribute *)value->attribute)->parameter)
            continue;
        if (count < capacity) out[count] = (tn_node){(tn_graph *)graph, graph->named[i]};
        count++;
    }
    return count;
}

tn_node tn_constant(tn_graph *graph, tn_dtype dtype, tn_shape shape, const void *bytes)
{
    if (!graph || graph->status != TN_OK) return TN_NONE;
    int64_t count = tn_shape_size(shape);
    if (count < 0 || !bytes)
        return tn_graph_fail(graph, "constant of shape %s without bytes", tn_shape_text(shape));
    tn_constant_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.size = (size_t)count * tn_dtype_size(dtype);
    attribute.bytes = tn_arena_copy(&graph->arena, bytes, attribute.size);
    return tn_node_new(graph, &(tn_new_node){.id = TN_OP_CONSTANT,
                                             .dtype = dtype,
                                             .shape = shape,
                                             .attribute = &attribute,
                                             .attribute_size = sizeof attribute});
}

tn_node tn_fill(tn_graph *graph, tn_dtype dtype, tn_shape shape, double value)
{
    tn_fill_attribute attribute = {value};
    return tn_node_new(graph, &(tn_new_node){.id = TN_OP_FILL,
                                             .dtype = dtype,
                                             .shape = shape,
                                             .attribute = &attribute,
                                             .attribute_size = sizeof attribute});
}

bool tn_is_fill(tn_node node, double *value)
{
    if (tn_is_none(node) || tn_value_of(node)->op->id != TN_OP_FILL) return false;
    *value = ((const tn_fill_attribute *)tn_value_of(node)->attribute)->value;
    return true;
}

tn_node tn_like(tn_node x, double value)
{
    return tn_fill(x.graph, tn_dtype_of(x), tn_shape_of(x), value);
}

tn_node tn_iota(tn_graph *graph, tn_dtype dtype, tn_shape shape, int axis)
{
    if (!graph) return TN_NONE;
    if (axis < 0) axis += shape.rank;
    if (axis < 0 || axis >= shape.rank)
        return tn_graph_fail(graph, "iota: axis %d of shape %s", axis, tn_shape_text(shape));
    tn_iota_attribute attribute = {axis};
    return tn_node_new(graph, &(tn_new_node){.id = TN_OP_IOTA,
                                             .dtype = dtype,
                                             .shape = shape,
                                             .attribute = &attribute,
                                             .attribute_size = sizeof attribute});
}

static tn_node same(tn_op_id id, const tn_node *in, int count)
{
    if (tn_is_none(in[0])) return TN_NONE;
    return tn_node_new(NULL, &(tn_new_node){.id = id,
                                            .dtype = tn_dtype_of(in[0]),
                                            .shape = tn_shape_of(in[0]),
                                            .in = in,
                                            .in_count = count});
}

tn_node tn_stop_gradient(tn_node x) { return same(TN_OP_STOP_GRADIENT, &x, 1); }

tn_node tn_assign(tn_node state_node, tn_node value)
{
    if (tn_is_none(state_node) || tn_is_none(value)) return TN_NONE;
    if (tn_value_of(state_node)->op->id != TN_OP_STATE)
        return tn_graph_fail(value.graph, "assign: the target is not a state node");
    if (tn_dtype_of(state_node) != tn_dtype_of(value) ||
        !tn_shape_equal(tn_shape_of(state_node), tn_shape_of(value)))
        return tn_graph_fail(value.graph, "assign to '%s': it is %s %s, the value %s %s",
                             tn_value_of(state_node)->name, tn_dtype_name(tn_dtype_of(state_node)),
                             tn_shape_text(tn_shape_of(state_node)),
                             tn_dtype_name(tn_dtype_of(value)), tn_shape_text(tn_shape_of(value)));
    return tn_node_new(NULL, &(tn_new_node){.id = TN_OP_ASSIGN,
                                            .dtype = TN_BOOL,
                                            .shape = {.rank = 1, .dim = {0}},
                                            .in = (tn_node[]){state_node, value},
                                            .in_count = 2});
}

tn_node tn_group(tn_graph *graph, const tn_node *tokens, int count)
{
    tn_node *kept = calloc((size_t)count + 1, sizeof *kept);
    int kept_count = 0;
    for (int i = 0; kept && i < count; i++)
        if (!tn_is_none(tokens[i])) kept[kept_count++] = tokens[i];
    tn_node group = kept ? tn_node_new(graph, &(tn_new_node){.id = TN_OP_GROUP,
                                                             .dtype = TN_BOOL,
                                                             .shape = {.rank = 1, .dim = {0}},
                                                             .in = kept,
                                                             .in_count = kept_count})
                         : TN_NONE;
    free(kept);
    return group;
}

static void no_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    (void)in, (void)out, (void)d_out, (void)d_in;
}

static void after_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    (void)in, (void)out;
    d_in[0] = d_out[0];
}

static double no_flop(const tn_value *self, const tn_value *const *in)
{
    (void)self, (void)in;
    return 0;
}

extern void tn_checkpoint_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                              tn_node *d_in);

const tn_op tn_leaves_ops[] = {
    {.id = TN_OP_INPUT, .name = "input", .vjp = no_vjp, .flop = no_flop},
    {.id = TN_OP_STATE, .name = "state", .vjp = no_vjp, .flop = no_flop},
    {.id = TN_OP_CONSTANT, .name = "constant", .vjp = no_vjp, .flop = no_flop},
    {.id = TN_OP_FILL, .name = "fill", .vjp = no_vjp, .flop = no_flop},
    {.id = TN_OP_IOTA, .name = "iota", .vjp = no_vjp, .flop = no_flop},
    {.id = TN_OP_RESULT, .name = "result", .vjp = no_vjp, .flop = no_flop},
    {.id = TN_OP_STOP_GRADIENT,
     .name = "stop_gradient",
     .flags = TN_VIEW | TN_NO_GRADIENT,
     .flop = no_flop},
    {.id = TN_OP_CHECKPOINT,
     .name = "checkpoint",
     .flags = TN_VIEW,
     .vjp = tn_checkpoint_vjp,
     .flop = no_flop},
    {.id = TN_OP_AFTER, .name = "after", .flags = TN_VIEW, .vjp = after_vjp, .flop = no_flop},
    {.id = TN_OP_ASSIGN, .name = "assign", .flags = TN_EFFECT | TN_NO_GRADIENT, .flop = no_flop},
    {.id = TN_OP_GROUP, .name = "group", .flags = TN_EFFECT | TN_NO_GRADIENT, .flop = no_flop},
};
const int tn_leaves_op_count = sizeof tn_leaves_ops / sizeof *tn_leaves_ops;
