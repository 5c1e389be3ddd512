/* merge_common: local simplifications, then one node for every set of identical ones. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "graph/pass.h"

/* ---- simplifications --------------------------------------------------------------------------- */

static bool fill_value(tn_node x, double *value)
{
    while (!tn_is_none(x)) {
        tn_op_id id = tn_value_of(x)->op->id;
        if (id == TN_OP_FILL) return tn_is_fill(x, value);
        if (id != TN_OP_RESHAPE && id != TN_OP_BROADCAST && id != TN_OP_TRANSPOSE &&
            id != TN_OP_SLICE)
            return false;
        x = tn_input_of(x, 0);
    }
    return false;
}

static bool is(tn_node x, double wanted)
{
    double value;
    return fill_value(x, &value) && value == wanted;
}

/* x in the shape of `like` when only broadcasting lies between; never changes dtype. */
static tn_node shaped(tn_node x, tn_node like) { return tn_broadcast(x, tn_shape_of(like)); }

/* A simpler node equal to `node` (already in the new graph), or `node`. */
static tn_node simplify(tn_node node)
{
    const tn_value *value = tn_value_of(node);
    if (value->in_count == 0) return node;
    tn_node a = tn_input_of(node, 0), b = value->in_count > 1 ? tn_input_of(node, 1) : TN_NONE;
    double x = 0, y = 0;
    bool fa = fill_value(a, &x), fb = !tn_is_none(b) && fill_value(b, &y),
         real = tn_dtype_is_float(value->dtype);
    switch (value->op->id) {
    case TN_OP_ADD:
        if (fa && fb && real) return tn_like(node, x + y);
        if (is(b, 0)) return shaped(a, node);
        if (is(a, 0)) return shaped(b, node);
        break;
    case TN_OP_SUBTRACT:
        if (fa && fb && real) return tn_like(node, x - y);
        if (is(b, 0)) return shaped(a, node);
        break;
    case TN_OP_MULTIPLY:
        if (fa && fb && real) return tn_like(node, x * y);
        if (is(b, 1)) return shaped(a, node);
        if (is(a, 1)) return shaped(b, node);
        if (fb && real) return shaped(tn_affine(a, y, 0), node);
        if (fa && real) return shaped(tn_affine(b, x, 0), node);
        break;
    case TN_OP_DIVIDE:
        if (fa && fb && real) return tn_like(node, x / y);
        if (is(b, 1)) return shaped(a, node);
        break;
    case TN_OP_AFFINE: {
        const tn_scalar_attribute *f = value->attribute;
        if (f->a == 1 && f->b == 0) return a;
        if (fa && real) return tn_like(node, x * f->a + f->b);
        const tn_value *inner = tn_value_of(a);
        if (inner->op->id == TN_OP_AFFINE && f->b == 0 &&
            ((const tn_scalar_attribute *)inner->attribute)->b == 0)
            return tn_affine(tn_input_of(a, 0),
                             ((const tn_scalar_attribute *)inner->attribute)->a * f->a, 0);
        break;
    }
    case TN_OP_NEG:
        if (fa) return tn_like(node, -x);
        if (tn_value_of(a)->op->id == TN_OP_NEG) return tn_input_of(a, 0);
        break;
    case TN_OP_CAST:
        if (tn_dtype_of(a) == value->dtype) return a;
        if (fa && real && tn_dtype_is_float(tn_dtype_of(a)) &&
            (value->dtype == TN_F32 || value->dtype == TN_F64))
            return tn_like(node, x);
        break;
    case TN_OP_RESHAPE:
        if (fa) return tn_like(node, x);
        if (tn_value_of(a)->op->id == TN_OP_RESHAPE)
            return tn_reshape(tn_input_of(a, 0), value->shape);
        break;
    case TN_OP_TRANSPOSE:
    case TN_OP_SLICE:
        if (fa) return tn_like(node, x);
        break;
    case TN_OP_BROADCAST:
        if (fa) return tn_like(node, x);
        if (tn_value_of(a)->op->id == TN_OP_BROADCAST)
            return tn_broadcast(tn_input_of(a, 0), value->shape);
        break;
    case TN_OP_SUM:
    case TN_OP_MEAN: {
        /* Nothing to add up: only axes of size 1. */
        uint32_t axes = ((const tn_reduce_attribute *)value->attribute)->axes;
        bool ones = value->dtype == tn_dtype_of(a);
        for (int i = 0; i < tn_rank(a) && ones; i++) ones = !(axes >> i & 1u) || tn_dim(a, i) == 1;
        if (ones) return tn_reshape(a, value->shape);
        break;
    }
    default: break;
    }
    return node;
}

/* ---- merging --------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash ^= word + 0x9e3779b97f4a7c15ull + (hash << 6) + (hash >> 2);
    return hash * 0xff51afd7ed558ccdull;
}

static uint64_t hash_node(const tn_value *v)
{
    uint64_t hash = mix(mix(mix((uint64_t)(uintptr_t)v->op, (uint64_t)v->dtype), v->generation),
                        (uint64_t)v->shape.rank);
    for (int i = 0; i < v->shape.rank; i++) hash = mix(hash, (uint64_t)v->shape.dim[i]);
    for (int i = 0; i < v->in_count; i++) hash = mix(hash, (uint64_t)v->in[i]);
    const unsigned char *byte = v->attribute;
    for (int i = 0; i < v->attribute_size; i++) hash = mix(hash, byte[i]);
    return hash ^ hash >> 29;
}

static bool equal_node(const tn_value *a, const tn_value *b)
{
    return a->op == b->op && a->dtype == b->dtype && a->generation == b->generation &&
           tn_shape_equal(a->shape, b->shape) && a->in_count == b->in_count &&
           a->attribute_size == b->attribute_size && a->result_count == b->result_count &&
           (a->in_count == 0 || !memcmp(a->in, b->in, (size_t)a->in_count * sizeof *a->in)) &&
           (a->attribute_size == 0 ||
            !memcmp(a->attribute, b->attribute, (size_t)a->attribute_size));
}

static bool may_merge(const tn_value *v)
{
    tn_op_id id = v->op->id;
    return id != TN_OP_INPUT && id != TN_OP_STATE && id != TN_OP_RESULT &&
           !(v->op->flags & TN_EFFECT);
}

typedef struct seen {
    int32_t *slot; /* node ids, open addressing */
    size_t mask;
} seen;

/* The first node equal to `node`, entering it if there is none. */
static tn_node merged(seen *table, tn_node node)
{
    const tn_value *value = tn_value_of(node);
    if (!may_merge(value)) return node;
    size_t at = (size_t)hash_node(value) & table->mask;
    for (; table->slot[at]; at = (at + 1) & table->mask)
        if (table->slot[at] == node.id || equal_node(node.graph->value[table->slot[at]], value))
            return (tn_node){node.graph, table->slot[at]};
    table->slot[at] = node.id;
    return node;
}

tn_status tn_pass_merge_common(tn_program *program)
{
    tn_rewrite rewrite;
    TN_TRY(tn_rewrite_begin(&rewrite, program));
    const tn_graph *graph = program->graph;
    seen table = {.mask = 1};
    while (table.mask < 4 * (size_t)graph->count) table.mask = table.mask * 2 + 1;
    table.slot = calloc(table.mask + 1, sizeof *table.slot);
    if (!table.slot)
        return tn_rewrite_end(&rewrite, program, tn_fail(TN_MEMORY, "out of memory for a pass"));
    for (int32_t id = 1; id < graph->count && rewrite.to->status == TN_OK; id++) {
        const tn_value *value = graph->value[id];
        if (value->op->id == TN_OP_RESULT) continue;
        tn_here(value->file, value->line);
        tn_rewrite_copy(&rewrite, id);
        tn_node copy = tn_rewrite_get(&rewrite, id);
        if (tn_is_none(copy)) break;
        if (value->result_count > 1) { /* results lie right behind their node, in both graphs */
            tn_node first = merged(&table, copy);
            for (int r = 0; r < value->result_count; r++)
                tn_rewrite_replace(&rewrite, id + r, (tn_node){first.graph, first.id + r});
        } else {
            tn_node simpler = simplify(copy);
            if (tn_is_none(simpler)) break;
            tn_rewrite_replace(&rewrite, id, merged(&table, simpler));
        }
    }
    free(table.slot);
    return tn_rewrite_end(&rewrite, program, TN_OK);
}
