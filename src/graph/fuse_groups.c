/* The groups of the fuse pass.
 *
 * Nodes are visited once, in order, and gathered into groups; a node joins the groups of its
 * operands, and that of others that read the same large operand. What may not happen is a path
 * from a group through a node outside back into it. To see that without searching, every group
 * has an order number, larger than that of all groups that its outside operands depend on, and
 * every node knows the largest order number among the groups that it depends on (its reach). So
 * what depends on a group has a reach not below the group's order, and two groups may merge if
 * no outside operand of either reaches the order of one that others already read. A group that
 * nobody has read yet may be given a new, larger number. Cost is linear in the number of nodes. */
#include <stdlib.h>
#include <string.h>

#include "graph/fusion.h"

#define MOST_MEMBERS 56
#define MOST_OUTSIDE 40
#define MOST_IMMEDIATES 44
#define NEAR 2 /* this many products, norms, ... between two nodes still count as close together */

/* Takes time of its own: not a leaf, a view, or part of a group. */
static bool is_heavy(const tn_value *v)
{
    return v->in_count > 0 && !(v->op->flags & (TN_VIEW | TN_EFFECT)) &&
           v->op->id != TN_OP_RESULT && !tn_fusion_is_member(v);
}

/* ---- groups ------------------------------------------------------------------------------ */

static int64_t reach_of(tn_fusion *f, int32_t id)
{
    int32_t g = tn_fusion_group_of(f, id);
    return g >= 0 ? f->groups[g].order : f->reach[id];
}

static bool reads(const tn_fusion_group *g, int32_t id)
{
    for (int32_t i = 0; i < g->outside_count; i++)
        if (g->outside[i] == id) return true;
    return false;
}

/* A group of the one node `id`; -1 when out of memory. */
static int32_t new_group(tn_fusion *f, int32_t id)
{
    const tn_value *v = f->graph->value[id];
    if (!tn_grow((void **)&f->groups, f->group_count, &f->group_capacity, sizeof *f->groups))
        return -1;
    tn_fusion_group *g = &f->groups[f->group_count];
    *g = (tn_fusion_group){.parent = -1,
                           .shape = tn_fusion_space(f, id),
                           .generation = v->generation,
                           .member_count = 1,
                           .work_before = f->heavy};
    g->axes = tn_fusion_is_fold(v) ? ((const tn_reduce_attribute *)v->attribute)->axes : 0;
    g->outside = malloc(MOST_OUTSIDE * sizeof *g->outside);
    if (!g->outside) {
        tn_fail(TN_MEMORY, "out of memory for fusing");
        return -1;
    }
    for (int i = 0; i < v->in_count; i++) {
        int32_t from = tn_fusion_source(f, v->in[i]);
        double x;
        g->member_count += f->transparent[f->same[v->in[i]]]; /* an instruction more */
        if (tn_fusion_is_immediate(f, from, &x)) g->immediate_count++;
        else if (!reads(g, from)) g->outside[g->outside_count++] = from;
    }
    g->order = ++f->orders;
    return f->group_count++;
}

/* True if `id` is a member of `g` whose value members of the group can use. */
static bool is_inside(tn_fusion *f, int32_t id, int32_t g)
{
    return tn_fusion_group_of(f, id) == g && tn_is_elementwise(f->graph->value[id]->op->id);
}

/* Puts what `from` reads outside of both groups into `out`; false if that is too much, or if it
 * is a reduction of `other`. */
static bool gather_outside(tn_fusion *f, int32_t from, int32_t other, int32_t *out, int32_t *count,
                           int64_t *reach)
{
    for (int32_t i = 0; i < f->groups[from].outside_count; i++) {
        int32_t id = f->groups[from].outside[i];
        if (is_inside(f, id, other)) continue;
        if (tn_fusion_group_of(f, id) == other) return false;
        int32_t k = 0;
        while (k < *count && out[k] != id) k++;
        if (k < *count) continue;
        if (*count == MOST_OUTSIDE) return false;
        out[(*count)++] = id;
        int64_t r = reach_of(f, id);
        if (r > *reach) *reach = r;
    }
    return true;
}

/* Merges group b into a, if that makes no cycle and fits. */
static bool merge(tn_fusion *f, int32_t a, int32_t b)
{
    tn_fusion_group *x = &f->groups[a], *y = &f->groups[b];
    if (!tn_shape_equal(x->shape, y->shape) || (x->axes && y->axes && x->axes != y->axes))
        return false;
    if (x->member_count + y->member_count > MOST_MEMBERS ||
        x->immediate_count + y->immediate_count > MOST_IMMEDIATES)
        return false;
    int32_t outside[MOST_OUTSIDE], count = 0;
    int64_t reach = 0, bound = INT64_MAX;
    if (!gather_outside(f, a, b, outside, &count, &reach) ||
        !gather_outside(f, b, a, outside, &count, &reach))
        return false;
    if (x->read) bound = x->order;
    if (y->read && y->order < bound) bound = y->order;
    if (reach >= bound) return false;
    x->order = bound == INT64_MAX ? ++f->orders : bound;
    x->read = x->read || y->read;
    x->axes |= y->axes;
    x->member_count += y->member_count;
    x->immediate_count += y->immediate_count;
    if (y->work_before > x->work_before) x->work_before = y->work_before;
    memcpy(x->outside, outside, (size_t)count * sizeof *outside);
    x->outside_count = count;
    free(y->outside);
    y->outside = NULL;
    y->parent = a;
    return true;
}

/* ---- which merges are worth it ----------------------------------------------------------- */

static bool is_whole(const tn_fusion *f, int32_t id, const tn_fusion_group *g)
{
    return tn_shape_equal(f->graph->value[id]->shape, g->shape);
}

/* A small result may be computed at any time. A large one had better not be computed long before
 * it is used; and operands had better not be kept long for a result that takes their place. */
static bool is_near(const tn_fusion *f, const tn_fusion_group *g, int32_t id)
{
    const tn_value *v = f->graph->value[id];
    if (f->heavy - g->work_before <= NEAR) return true;
    if (tn_fusion_is_fold(v) && 4 * tn_shape_size(v->shape) <= tn_shape_size(g->shape)) return true;
    if (g->read) return false;
    int whole = 0;
    for (int32_t i = 0; i < g->outside_count; i++) whole += is_whole(f, g->outside[i], g);
    return whole <= 1;
}

static tn_status visit_member(tn_fusion *f, int32_t id)
{
    int32_t mine = new_group(f, id);
    if (mine < 0) return TN_MEMORY;
    f->group_of[id] = mine;
    const tn_value *v = f->graph->value[id];
    for (int i = 0; i < v->in_count; i++) { /* groups that it continues */
        int32_t from = tn_fusion_source(f, v->in[i]), g = tn_fusion_group_of(f, from);
        if (g < 0 || g == tn_fusion_find(f, mine) || !is_inside(f, from, g) ||
            !is_near(f, &f->groups[g], id))
            continue;
        if (merge(f, g, tn_fusion_find(f, mine))) mine = g;
    }
    mine = tn_fusion_find(f, mine);
    for (int i = 0; i < v->in_count; i++) { /* groups that read the same */
        int32_t from = tn_fusion_source(f, v->in[i]);
        if (!is_whole(f, from, &f->groups[mine]) || is_inside(f, from, mine)) continue;
        int32_t g = tn_fusion_find(f, f->last_reader[from]);
        if (g >= 0 && g != mine && f->groups[g].generation == v->generation &&
            f->heavy - f->groups[g].work_before <= NEAR && merge(f, g, mine))
            mine = g;
        f->last_reader[from] = mine;
    }
    for (int i = 0; i < v->in_count; i++) {
        int32_t g = tn_fusion_group_of(f, tn_fusion_source(f, v->in[i]));
        if (g >= 0 && g != mine) f->groups[g].read = true;
    }
    return TN_OK;
}

tn_status tn_fusion_form_groups(tn_fusion *f)
{
    for (int32_t id = 1; id < f->graph->count; id++) {
        const tn_value *v = f->graph->value[id];
        f->group_of[id] = f->last_reader[id] = -1;
        if (f->transparent[id]) continue;
        if (tn_fusion_is_member(v)) {
            TN_TRY(visit_member(f, id));
            continue;
        }
        if (is_heavy(v)) f->heavy++;
        for (int i = 0; i < v->in_count; i++) {
            int32_t from = f->same[v->in[i]], g = tn_fusion_group_of(f, from);
            int64_t reach = reach_of(f, from);
            if (reach > f->reach[id]) f->reach[id] = reach;
            if (g >= 0 && !tn_fusion_is_identity(v->op->id)) f->groups[g].read = true;
        }
    }
    return TN_OK;
}
