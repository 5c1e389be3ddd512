/* The gradient, written as nodes of the same graph.
 *
 * One reverse sweep: a node's cotangent is complete when all its readers have been visited, and ids are a topological order, so
 * the sweep simply counts down. A node without a rule of its own is differentiated through its decomposition by a sweep over
 * just the nodes that the decomposition added: that is how fused operations have second derivatives. */
#include <stdlib.h>
#include <string.h>

#include "graph/graph.h"

/* The nodes with ids in [low, high) take part; wrt nodes may also lie below low. */
typedef struct sweep {
    tn_graph *graph;
    int32_t low, high;
    bool *depends;      /* by id - low: reaches a wrt node */
    tn_node *cotangent; /* by id - low */
    const tn_node *wrt;
    tn_node *gradient; /* accumulated for wrt nodes below low */
    int count;
} sweep;

static int outside_wrt(const sweep *s, int32_t id)
{
    for (int i = 0; i < s->count; i++)
        if (s->wrt[i].id == id) return i;
    return -1;
}

static bool depends(const sweep *s, int32_t id)
{
    return id >= s->low ? id < s->high && s->depends[id - s->low] : outside_wrt(s, id) >= 0;
}

static void accumulate(sweep *s, int32_t id, tn_node d)
{
    if (tn_is_none(d)) return;
    tn_node self = {s->graph, id}, *slot;
    if (!tn_shape_equal(tn_shape_of(d), tn_shape_of(self)) || tn_dtype_of(d) != tn_dtype_of(self)) {
        tn_graph_fail(s->graph, "gradient of %s is %s %s, but the value is %s %s",
                      tn_value_of(self)->op->name, tn_dtype_name(tn_dtype_of(d)),
                      tn_shape_text(tn_shape_of(d)), tn_dtype_name(tn_dtype_of(self)),
                      tn_shape_text(tn_shape_of(self)));
        return;
    }
    if (id >= s->low) slot = &s->cotangent[id - s->low];
    else slot = &s->gradient[outside_wrt(s, id)];
    *slot = tn_is_none(*slot) ? d : tn_add(*slot, d);
}

static void local_vjp(tn_graph *graph, int32_t low, const tn_node *out, const tn_node *seed,
                      int out_count, const tn_node *wrt, int count, tn_node *gradient);

void tn_vjp_decomposed(tn_node node, const tn_node *in, const tn_node *d_out, tn_node *d_in)
{
    const tn_value *value = tn_value_of(node);
    tn_node simpler[TN_MAX_RESULTS];
    int32_t low = node.graph->count;
    tn_decompose(node, simpler);
    local_vjp(node.graph, low, simpler, d_out, value->result_count, in, value->in_count, d_in);
}

static void visit(sweep *s, int32_t id)
{
    tn_graph *graph = s->graph;
    tn_node node = {graph, id};
    const tn_value *value = tn_value_of(node);
    if (value->op->id == TN_OP_RESULT || value->op->flags & TN_NO_GRADIENT || !depends(s, id))
        return;
    tn_node out[TN_MAX_RESULTS], d_out[TN_MAX_RESULTS];
    bool any = false;
    for (int r = 0; r < value->result_count; r++) {
        out[r] = tn_result(node, r);
        d_out[r] = out[r].id < s->high ? s->cotangent[out[r].id - s->low] : TN_NONE;
        any = any || !tn_is_none(d_out[r]);
    }
    if (!any || value->in_count == 0) return;
    tn_node small[2 * TN_MAX_IN] = {0}, *in = value->in_count <= TN_MAX_IN
                                                  ? small
                                                  : calloc(2 * (size_t)value->in_count, sizeof *in);
    if (!in) {
        graph->status = TN_MEMORY;
        return;
    }
    tn_node *d_in = in + value->in_count;
    for (int i = 0; i < value->in_count; i++) in[i] = tn_input_of(node, i);
    tn_here(value->file, value->line);
    if (value->op->vjp) value->op->vjp(in, out, d_out, d_in);
    else if (value->op->decompose) tn_vjp_decomposed(node, in, d_out, d_in);
    else tn_graph_fail(graph, "%s has no gradient", value->op->name);
    value = tn_value_of(node);
    for (int i = 0; i < value->in_count; i++)
        if (depends(s, in[i].id) && !tn_is_none(d_in[i])) accumulate(s, in[i].id, d_in[i]);
    if (in != small) free(in);
}

/* Differentiates the nodes from `low` on. gradient[] entries stay empty where nothing arrives. */
static void local_vjp(tn_graph *graph, int32_t low, const tn_node *out, const tn_node *seed,
                      int out_count, const tn_node *wrt, int count, tn_node *gradient)
{
    for (int i = 0; i < count; i++) gradient[i] = TN_NONE;
    if (graph->status != TN_OK) return;
    sweep s = {.graph = graph,
               .low = low,
               .high = graph->count,
               .wrt = wrt,
               .gradient = gradient,
               .count = count};
    size_t size = (size_t)(s.high - low);
    s.depends = calloc(size + 1, sizeof *s.depends);
    s.cotangent = calloc(size + 1, sizeof *s.cotangent);
    if (!s.depends || !s.cotangent) {
        tn_fail(TN_MEMORY, "out of memory for a gradient over %zu nodes", size);
        graph->status = TN_MEMORY;
        goto done;
    }
    for (int i = 0; i < count; i++)
        if (wrt[i].id >= low) s.depends[wrt[i].id - low] = true;
    for (int32_t id = low; id < s.high; id++) {
        const tn_value *value = graph->value[id];
        for (int i = 0; i < value->in_count && !s.depends[id - low]; i++)
            s.depends[id - low] = depends(&s, value->in[i]);
    }
    for (int i = 0; i < out_count; i++)
        if (!tn_is_none(out[i]) && !tn_is_none(seed[i]) && depends(&s, out[i].id))
            accumulate(&s, out[i].id, seed[i]);
    for (int32_t id = s.high - 1; id >= low && graph->status == TN_OK; id--) visit(&s, id);
    for (int i = 0; i < count; i++)
        if (wrt[i].id >= low) gradient[i] = s.cotangent[wrt[i].id - low];
    /* The same node may be listed twice: below `low` only its first place collected. */
    for (int i = 0; i < count; i++)
        if (wrt[i].id < low) gradient[i] = gradient[outside_wrt(&s, wrt[i].id)];
done:
    free(s.depends);
    free(s.cotangent);
}

static bool all_nodes(tn_graph *graph, const tn_node *node, int count, const char *what)
{
    for (int i = 0; i < count; i++) {
        if (!tn_is_none(node[i]) && node[i].graph == graph) continue;
        tn_graph_fail(graph, "gradient: %s %d is empty or of another graph", what, i);
        return false;
    }
    return true;
}

void tn_vjp(const tn_node *out, const tn_node *seed, int out_count, const tn_node *wrt, int count,
            tn_node *gradient)
{
    for (int i = 0; i < count; i++) gradient[i] = TN_NONE;
    if (out_count < 1 || tn_is_none(out[0]) || count < 1) return;
    tn_graph *graph = out[0].graph;
    tn_place place = tn_place_now();
    if (graph->status != TN_OK || !all_nodes(graph, out, out_count, "output") ||
        !all_nodes(graph, wrt, count, "variable"))
        return;
    int32_t low = graph->count;
    for (int i = 0; i < count; i++) low = wrt[i].id < low ? wrt[i].id : low;
    local_vjp(graph, low, out, seed, out_count, wrt, count, gradient);
    tn_here(place.file, place.line);
    for (int i = 0; i < count; i++)
        if (tn_is_none(gradient[i])) gradient[i] = tn_like(wrt[i], 0);
}

void tn_gradients(tn_node loss, const tn_node *wrt, int count, tn_node *gradient)
{
    for (int i = 0; i < count; i++) gradient[i] = TN_NONE;
    if (tn_is_none(loss)) return;
    if (tn_rank(loss) != 0 || !tn_dtype_is_float(tn_dtype_of(loss))) {
        tn_graph_fail(loss.graph,
                      "gradient of a %s %s; the loss must be one floating-point number (use "
                      "tn_mean or tn_sum)",
                      tn_dtype_name(tn_dtype_of(loss)), tn_shape_text(tn_shape_of(loss)));
        return;
    }
    tn_node one = tn_like(loss, 1);
    tn_vjp(&loss, &one, 1, wrt, count, gradient);
}

/* ---- recomputation ------------------------------------------------------------------------------------------ */

/* CHECKPOINT's inputs: y, then everything outside that the region between the boundary and y reads. */

static bool is_leaf(const tn_value *value) { return value->in_count == 0; }

tn_node tn_checkpoint(tn_node y, const tn_node *boundary, int count)
{
    if (tn_is_none(y) || !all_nodes(y.graph, boundary, count, "boundary")) return TN_NONE;
    tn_graph *graph = y.graph;
    enum { UNSEEN = 0, INSIDE, OUTSIDE };
    char *mark = calloc((size_t)y.id + 1, 1);
    tn_node *in = calloc((size_t)y.id + 2, sizeof *in);
    tn_node result = TN_NONE;
    int in_count = 0;
    if (!mark || !in) {
        graph->status = TN_MEMORY;
        goto done;
    }
    for (int i = 0; i < count; i++)
        if (boundary[i].id <= y.id) mark[boundary[i].id] = OUTSIDE;
    in[in_count++] = y;
    if (mark[y.id] == UNSEEN) mark[y.id] = INSIDE;
    for (int32_t id = y.id; id > 0; id--) {
        if (mark[id] == OUTSIDE) in[in_count++] = (tn_node){graph, id};
        if (mark[id] != INSIDE) continue;
        const tn_value *value = graph->value[id];
        for (int i = 0; i < value->in_count; i++) {
            char *child = &mark[value->in[i]];
            if (*child == UNSEEN) *child = is_leaf(graph->value[value->in[i]]) ? OUTSIDE : INSIDE;
        }
    }
    result = tn_node_new(NULL, &(tn_new_node){.id = TN_OP_CHECKPOINT,
                                              .dtype = tn_dtype_of(y),
                                              .shape = tn_shape_of(y),
                                              .in = in,
                                              .in_count = in_count});
done:
    free(mark);
    free(in);
    return result;
}

/* Builds the region again, reading its outside values only after d_out is known, and differentiates the copy. */
void tn_checkpoint_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in);
void tn_checkpoint_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    tn_graph *graph = out[0].graph;
    int count = tn_value_of(out[0])->in_count, outside = count - 1;
    int32_t lowest = in[0].id, y = in[0].id;
    for (int i = 1; i < count; i++) lowest = in[i].id < lowest ? in[i].id : lowest;
    int32_t *map = calloc((size_t)(y - lowest) + 1, sizeof *map);
    tn_node *late = calloc((size_t)outside + 1, sizeof *late);
    int32_t *copied_in = NULL, copied_capacity = 0;
    if (!map || !late) {
        graph->status = TN_MEMORY;
        goto done;
    }
    graph->generation = ++graph->generations;
    for (int i = 0; i < outside; i++) {
        bool leaf = is_leaf(tn_value_of(in[1 + i]));
        late[i] = leaf ? in[1 + i]
                       : tn_node_new(NULL, &(tn_new_node){.id = TN_OP_AFTER,
                                                          .dtype = tn_dtype_of(in[1 + i]),
                                                          .shape = tn_shape_of(in[1 + i]),
                                                          .in = (tn_node[]){in[1 + i], d_out[0]},
                                                          .in_count = 2});
        if (in[1 + i].id <= y) map[in[1 + i].id - lowest] = late[i].id;
    }
    int32_t low = graph->count;
    for (int32_t id = lowest; id <= y && graph->status == TN_OK; id++) {
        const tn_value *value = graph->value[id];
        bool inside = map[id - lowest] == 0 && value->in_count > 0;
        for (int i = 0; i < value->in_count && inside; i++)
            inside = value->in[i] >= lowest && map[value->in[i] - lowest] != 0;
        if (!inside) continue;
        for (int32_t i = 0; i < value->in_count; i++) {
            if (!tn_grow((void **)&copied_in, i, &copied_capacity, sizeof *copied_in)) {
                graph->status = TN_MEMORY;
                goto done;
            }
            copied_in[i] = map[value->in[i] - lowest];
        }
        map[id - lowest] = tn_node_copy(graph, value, copied_in).id;
    }
    graph->generation = 0;
    tn_node copy = {graph, map[y - lowest]};
    if (graph->status == TN_OK && copy.id)
        local_vjp(graph, low, &copy, d_out, 1, late, outside, d_in + 1);
    for (int i = 0; i < outside; i++) /* the copy hands its gradients to the values themselves */
        if (tn_is_none(late[i])) d_in[1 + i] = TN_NONE;
done:
    graph->generation = 0;
    free(map);
    free(late);
    free(copied_in);
}
