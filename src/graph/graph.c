/* Graphs and nodes: creation, errors that stay, scopes and names. */
#include "graph/graph.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "tenon/random.h"

/* ---- element types and shapes ---------------------------------------------------------------- */

static const struct {
    const char *name;
    size_t size;
    bool is_float;
} dtypes[TN_DTYPE_COUNT] = {
    [TN_F32] = {"f32", 4, true}, [TN_F64] = {"f64", 8, true},  [TN_BF16] = {"bf16", 2, true},
    [TN_F16] = {"f16", 2, true}, [TN_I64] = {"i64", 8, false}, [TN_I32] = {"i32", 4, false},
    [TN_I8] = {"i8", 1, false},  [TN_U8] = {"u8", 1, false},   [TN_BOOL] = {"bool", 1, false},
};

static bool dtype_known(tn_dtype dtype) { return (unsigned)dtype < TN_DTYPE_COUNT; }

size_t tn_dtype_size(tn_dtype dtype) { return dtype_known(dtype) ? dtypes[dtype].size : 0; }

const char *tn_dtype_name(tn_dtype dtype) { return dtype_known(dtype) ? dtypes[dtype].name : "?"; }

bool tn_dtype_is_float(tn_dtype dtype) { return dtype_known(dtype) && dtypes[dtype].is_float; }

int64_t tn_shape_size(tn_shape shape)
{
    int64_t size = 1;
    for (int i = 0; i < shape.rank; i++)
        if (!tn_mul_i64(size, shape.dim[i], &size)) return -1;
    return size;
}

bool tn_shape_equal(tn_shape a, tn_shape b)
{
    if (a.rank != b.rank) return false;
    for (int i = 0; i < a.rank; i++)
        if (a.dim[i] != b.dim[i]) return false;
    return true;
}

bool tn_shape_broadcast(tn_shape a, tn_shape b, tn_shape *out)
{
    tn_shape result = {.rank = a.rank > b.rank ? a.rank : b.rank};
    for (int i = 1; i <= result.rank; i++) {
        int64_t da = i <= a.rank ? a.dim[a.rank - i] : 1, db = i <= b.rank ? b.dim[b.rank - i] : 1;
        if (da != db && da != 1 && db != 1) return false;
        result.dim[result.rank - i] = da == 1 ? db : da;
    }
    *out = result;
    return true;
}

const char *tn_shape_text(tn_shape shape)
{
    static _Thread_local char text[8][192];
    static _Thread_local unsigned turn;
    char *out = text[turn++ % 8];
    size_t used = 1;
    out[0] = '[';
    for (int i = 0; i < shape.rank && i < TN_MAX_RANK; i++)
        used += (size_t)snprintf(out + used, 192 - used, "%s%lld", i ? ", " : "",
                                 (long long)shape.dim[i]);
    snprintf(out + used, 192 - used, "]");
    return out;
}

/* ---- where nodes are built -------------------------------------------------------------------- */

static _Thread_local tn_place place_now;

void tn_here(const char *file, int line) { place_now = (tn_place){file, line}; }

tn_place tn_place_now(void) { return place_now; }

/* ---- graphs -------------------------------------------------------------------------------------- */

bool tn_grow(void **array, int32_t count, int32_t *capacity, size_t size)
{
    if (count < *capacity) return true;
    int32_t wanted = *capacity ? *capacity * 2 : 64;
    void *bigger = wanted > *capacity ? realloc(*array, (size_t)wanted * size) : NULL;
    if (!bigger) {
        tn_fail(TN_MEMORY, "out of memory for %d graph entries", (int)wanted);
        return false;
    }
    *array = bigger;
    *capacity = wanted;
    return true;
}

tn_graph *tn_graph_create(tn_state *state)
{
    tn_graph *graph = calloc(1, sizeof *graph);
    if (!graph) {
        tn_fail(TN_MEMORY, "out of memory for a graph");
        return NULL;
    }
    graph->state = state;
    graph->count = 1;
    if (!tn_grow((void **)&graph->value, 1, &graph->capacity, sizeof *graph->value)) {
        free(graph);
        return NULL;
    }
    graph->value[0] = NULL;
    return graph;
}

void tn_graph_free(tn_graph *graph)
{
    if (!graph) return;
    tn_arena_free(&graph->arena);
    free(graph->value);
    free(graph->named);
    free(graph->deferred);
    free(graph->stream);
    free(graph);
}

tn_status tn_graph_status(const tn_graph *graph)
{
    if (!graph) return tn_fail(TN_INVALID, "no graph");
    if (graph->status != TN_OK)
        tn_fail(graph->status, "%s", graph->message ? graph->message : "out of memory");
    return graph->status;
}

int tn_graph_node_count(const tn_graph *graph) { return graph->count - 1; }

tn_node tn_graph_fail(tn_graph *graph, const char *format, ...)
{
    if (!graph || graph->status != TN_OK) return TN_NONE;
    va_list arguments;
    va_start(arguments, format);
    const char *text = tn_arena_vformat(&graph->arena, format, arguments);
    va_end(arguments);
    const char *file = place_now.file;
    graph->message = file && text
                         ? tn_arena_format(&graph->arena, "%s:%d: %s", file, place_now.line, text)
                         : (char *)text;
    graph->status = TN_INVALID;
    return TN_NONE;
}

/* ---- nodes ----------------------------------------------------------------------------------------- */

const tn_value *tn_value_at(const tn_graph *graph, int32_t id) { return graph->value[id]; }

const tn_value *tn_value_of(tn_node node) { return node.graph->value[node.id]; }

tn_shape tn_shape_of(tn_node node)
{
    return tn_is_none(node) ? TN_SCALAR : tn_value_of(node)->shape;
}

int tn_rank(tn_node node) { return tn_is_none(node) ? 0 : tn_value_of(node)->shape.rank; }

tn_dtype tn_dtype_of(tn_node node) { return tn_is_none(node) ? TN_F32 : tn_value_of(node)->dtype; }

int64_t tn_dim(tn_node node, int axis)
{
    if (tn_is_none(node)) return 0;
    tn_shape shape = tn_value_of(node)->shape;
    if (axis < 0) axis += shape.rank;
    return axis >= 0 && axis < shape.rank ? shape.dim[axis] : 0;
}

int tn_axis(tn_node x, int axis)
{
    int rank = tn_rank(x), index = axis < 0 ? axis + rank : axis;
    if (index >= 0 && index < rank) return index;
    if (!tn_is_none(x))
        tn_graph_fail(x.graph, "axis %d of a tensor of rank %d %s; use %d to %d", axis, rank,
                      tn_shape_text(tn_shape_of(x)), -rank, rank - 1);
    return -1;
}

static tn_value *append(tn_graph *graph, const tn_op *op, tn_dtype dtype, tn_shape shape)
{
    tn_value *value = tn_arena_alloc(&graph->arena, sizeof *value);
    if (!value ||
        !tn_grow((void **)&graph->value, graph->count, &graph->capacity, sizeof *graph->value)) {
        graph->status = TN_MEMORY;
        return NULL;
    }
    *value = (tn_value){.op = op,
                        .dtype = dtype,
                        .shape = shape,
                        .result_count = 1,
                        .generation = graph->generation,
                        .file = place_now.file,
                        .line = place_now.line};
    graph->value[graph->count++] = value;
    return value;
}

static bool shape_is_sane(tn_graph *graph, const tn_op *op, tn_dtype dtype, tn_shape shape)
{
    bool sane = shape.rank >= 0 && shape.rank <= TN_MAX_RANK && dtype_known(dtype);
    for (int i = 0; sane && i < shape.rank; i++) sane = shape.dim[i] >= 0;
    int64_t size = sane ? tn_shape_size(shape) : -1;
    if (sane && size >= 0 && size <= INT64_MAX / 16) return true;
    tn_graph_fail(graph, "%s: shape %s of %s is not possible", op->name, tn_shape_text(shape),
                  tn_dtype_name(dtype));
    return false;
}

tn_node tn_node_new(tn_graph *graph, const tn_new_node *d)
{
    const tn_op *op = d->op ? d->op : tn_op_find(d->id);
    if (d->in_count > 0 && !tn_is_none(d->in[0])) graph = d->in[0].graph;
    if (!graph) return TN_NONE;
    if (graph->status != TN_OK) return TN_NONE;
    if (!op) return tn_graph_fail(graph, "operation %d has no row in the op table", (int)d->id);
    for (int i = 0; i < d->in_count; i++) {
        if (tn_is_none(d->in[i]))
            return tn_graph_fail(graph, "%s: operand %d is empty", op->name, i);
        if (d->in[i].graph != graph)
            return tn_graph_fail(graph, "%s: operand %d belongs to another graph", op->name, i);
    }
    if (!shape_is_sane(graph, op, d->dtype, d->shape)) return TN_NONE;
    for (int i = 0; i < d->more; i++)
        if (!shape_is_sane(graph, op, d->more_dtype[i], d->more_shape[i])) return TN_NONE;

    int32_t *in = tn_arena_array(&graph->arena, (size_t)d->in_count, sizeof *in);
    const void *attribute = d->attribute_size
                                ? tn_arena_copy(&graph->arena, d->attribute, d->attribute_size)
                                : NULL;
    tn_value *value = in ? append(graph, op, d->dtype, d->shape) : NULL;
    if (!value) return TN_NONE;
    for (int i = 0; i < d->in_count; i++) in[i] = d->in[i].id;
    value->in = in;
    value->in_count = d->in_count;
    value->attribute = attribute;
    value->attribute_size = (int32_t)d->attribute_size;
    value->result_count = 1 + d->more;
    tn_node node = {graph, graph->count - 1};
    for (int i = 0; i < d->more; i++) {
        tn_result_attribute index = {i + 1};
        int32_t *from = tn_arena_copy(&graph->arena, &node.id, sizeof node.id);
        tn_value *result = append(graph, tn_op_find(TN_OP_RESULT), d->more_dtype[i],
                                  d->more_shape[i]);
        if (!from || !result) return TN_NONE;
        result->in = from;
        result->in_count = 1;
        result->attribute = tn_arena_copy(&graph->arena, &index, sizeof index);
        result->attribute_size = sizeof index;
    }
    return node;
}

tn_node tn_result(tn_node node, int r)
{
    if (tn_is_none(node) || r == 0) return node;
    return (tn_node){node.graph, node.id + r};
}

tn_node tn_node_copy(tn_graph *graph, const tn_value *self, const int32_t *in)
{
    int32_t *inputs = tn_arena_copy(&graph->arena, in, (size_t)self->in_count * sizeof *in);
    tn_value *value = inputs || self->in_count == 0
                          ? append(graph, self->op, self->dtype, self->shape)
                          : NULL;
    if (!value) return TN_NONE;
    uint32_t generation = graph->generation ? graph->generation : self->generation;
    *value = *self;
    value->in = inputs;
    value->generation = generation;
    value->attribute = self->attribute_size ? tn_arena_copy(&graph->arena, self->attribute,
                                                            (size_t)self->attribute_size)
                                            : NULL;
    value->name = self->name ? tn_arena_string(&graph->arena, self->name) : NULL;
    if ((self->attribute_size && !value->attribute) || (self->name && !value->name)) {
        graph->status = TN_MEMORY;
        return TN_NONE;
    }
    tn_node node = {graph, graph->count - 1};
    if (self->op->id == TN_OP_INPUT || self->op->id == TN_OP_STATE) {
        if (!tn_grow((void **)&graph->named, graph->named_count, &graph->named_capacity,
                     sizeof *graph->named))
            return TN_NONE;
        graph->named[graph->named_count++] = node.id;
    }
    return node;
}

void tn_decompose(tn_node node, tn_node *out)
{
    const tn_value *value = tn_value_of(node);
    tn_node small[TN_MAX_IN],
        *in = value->in_count <= TN_MAX_IN ? small : calloc((size_t)value->in_count, sizeof *in);
    for (int r = 0; r < value->result_count; r++) out[r] = TN_NONE;
    if (!in) {
        node.graph->status = TN_MEMORY;
        return;
    }
    for (int i = 0; i < value->in_count; i++) in[i] = tn_input_of(node, i);
    value->op->decompose(in, node, out);
    if (in != small) free(in);
}

/* ---- scopes -------------------------------------------------------------------------------------------- */

tn_scope tn_root(tn_graph *graph)
{
    return (tn_scope){.graph = graph, .path = "", .compute = TN_F32};
}

tn_scope tn_in(tn_scope scope, const char *name, ...)
{
    if (!scope.graph) return scope;
    va_list arguments;
    va_start(arguments, name);
    char *last = tn_arena_vformat(&scope.graph->arena, name, arguments);
    va_end(arguments);
    tn_scope inner = scope;
    if (last)
        inner.path = *scope.path ? tn_arena_format(&scope.graph->arena, "%s.%s", scope.path, last)
                                 : last;
    if (!last || !inner.path) scope.graph->status = TN_MEMORY;
    if (!inner.path) inner.path = "";
    return inner;
}

uint64_t tn_graph_next_stream(tn_graph *graph, const char *path)
{
    if (!path) path = "";
    for (int i = 0; i < graph->stream_count; i++)
        if (!strcmp(graph->stream[i].path, path))
            return tn_random_stream(path) + graph->stream[i].next++;
    if (tn_grow((void **)&graph->stream, graph->stream_count, &graph->stream_capacity,
                sizeof *graph->stream))
        graph->stream[graph->stream_count++] = (struct tn_stream){
            tn_arena_string(&graph->arena, path), 1};
    else graph->status = TN_MEMORY;
    return tn_random_stream(path);
}

/* ---- tokens that belong to a training step ---------------------------------------------------------------- */

void tn_defer(tn_node token)
{
    if (tn_is_none(token)) return;
    tn_graph *graph = token.graph;
    if (!tn_grow((void **)&graph->deferred, graph->deferred_count, &graph->deferred_capacity,
                 sizeof *graph->deferred))
        graph->status = TN_MEMORY;
    else graph->deferred[graph->deferred_count++] = token.id;
}

tn_node tn_take_deferred(tn_graph *graph)
{
    int count = graph->deferred_count;
    tn_node *token = calloc((size_t)count + 1, sizeof *token);
    if (!token) {
        graph->status = TN_MEMORY;
        return TN_NONE;
    }
    for (int i = 0; i < count; i++) token[i] = (tn_node){graph, graph->deferred[i]};
    graph->deferred_count = 0;
    tn_node group = tn_group(graph, token, count);
    free(token);
    return group;
}
