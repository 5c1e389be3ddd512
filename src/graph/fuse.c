/* fuse: element-wise operations over the same shape, and the reductions behind them, become FUSED nodes.
 *
 * Nodes are visited once, in order, and gathered into groups; a node joins the groups of its operands, and that of others that read
 * the same large operand. What may not happen is a path from a group through a node outside back into it. To see that without
 * searching, every group has an order number, larger than that of all groups that its outside operands depend on, and every node
 * knows the largest order number among the groups that it depends on (its reach). So what depends on a group has a reach not below
 * the group's order, and two groups may merge if no outside operand of either reaches the order of one that others already read. A
 * group that nobody has read yet may be given a new, larger number. Cost is linear in the number of nodes. */
#include "graph/fuse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "graph/pass.h"

#define MOST_MEMBERS 56
#define MOST_OUTSIDE 40
#define MOST_IMMEDIATES 44
#define NEAR 2 /* this many products, norms, ... between two nodes still count as close together */

typedef struct group {
    int32_t parent; /* the group that it was merged into, or -1 */
    tn_shape shape;
    uint32_t axes; /* of its reductions; 0: none */
    uint32_t generation;
    int32_t member_count, immediate_count;
    int32_t outside_count;
    int32_t *outside; /* values that it reads */
    int64_t order;
    bool read;          /* by a node outside */
    int32_t work_before; /* heavy nodes before its last member */
} group;

typedef struct fusion {
    tn_program *program;
    tn_rewrite rewrite;
    const tn_graph *graph;
    int32_t *same;        /* by id: the value that an identity stands for, or the id itself */
    int32_t *group_of;    /* by id: index, or -1 */
    int64_t *reach;       /* by id */
    int32_t *last_reader; /* by id: the latest group that reads it whole, or -1 */
    group *groups;
    int32_t group_count, group_capacity;
    int64_t orders;
    int32_t heavy; /* visited so far */
    /* units: what is emitted together */
    int32_t *unit;   /* by id: id of the unit's first node */
    int32_t *number; /* by id: place in the member list, then value number in the program that is being written */
    bool *needed;    /* by id: read outside of its unit */
    int32_t *member, *group_first; /* members of group g: member[group_first[g]] .. [group_first[g + 1] - 1] */
} fusion;

/* ---- what nodes are -------------------------------------------------------------------------------------- */

static bool is_identity(tn_op_id id)
{
    return id == TN_OP_STOP_GRADIENT || id == TN_OP_CHECKPOINT;
}

static bool is_fold(const tn_value *v)
{
    return tn_is_reduction(v->op->id) && ((const tn_reduce_attribute *)v->attribute)->axes != 0;
}

static bool is_member(const tn_value *v)
{
    return tn_is_elementwise(v->op->id) || is_fold(v);
}

/* Takes time of its own: not a leaf, a view, or part of a group. */
static bool is_heavy(const tn_value *v)
{
    return v->in_count > 0 && !(v->op->flags & (TN_VIEW | TN_EFFECT)) && v->op->id != TN_OP_RESULT && !is_member(v);
}

/* The value whose memory an operand of a member is read from: broadcasting happens while reading. */
static int32_t source(const fusion *f, int32_t id)
{
    id = f->same[id];
    while (f->graph->value[id]->op->id == TN_OP_BROADCAST) id = f->same[f->graph->value[id]->in[0]];
    return id;
}

static tn_shape space_of(const fusion *f, int32_t id)
{
    const tn_value *v = f->graph->value[id];
    return is_fold(v) ? f->graph->value[v->in[0]]->shape : v->shape;
}

/* The value as its dtype holds it. */
static double as_held(tn_dtype dtype, double x)
{
    switch (dtype) {
    case TN_F32: return (double)(float)x;
    case TN_BF16: return (double)tn_f32_from_bf16(tn_bf16_from_f32((float)x));
    case TN_F16: return (double)tn_f32_from_f16(tn_f16_from_f32((float)x));
    case TN_BOOL: return x != 0;
    default: return x;
    }
}

static bool scalar_constant(const tn_value *v, double *x)
{
    const void *bytes = ((const tn_constant_attribute *)v->attribute)->bytes;
    switch (v->dtype) {
    case TN_F32: *x = (double)*(const float *)bytes; return true;
    case TN_F64: *x = *(const double *)bytes; return true;
    case TN_BF16: *x = (double)tn_f32_from_bf16(*(const uint16_t *)bytes); return true;
    case TN_F16: *x = (double)tn_f32_from_f16(*(const uint16_t *)bytes); return true;
    case TN_I32: *x = *(const int32_t *)bytes; return true;
    case TN_I8: *x = *(const int8_t *)bytes; return true;
    case TN_I64: *x = (double)*(const int64_t *)bytes; return llabs(*(const int64_t *)bytes) < 1ll << 53;
    default: *x = *(const uint8_t *)bytes; return true;
    }
}

/* A value that is one number, known now. */
static bool is_immediate(const fusion *f, int32_t id, double *x)
{
    const tn_value *v = f->graph->value[id];
    if (v->op->id == TN_OP_FILL) {
        *x = as_held(v->dtype, ((const tn_fill_attribute *)v->attribute)->value);
        return true;
    }
    return v->op->id == TN_OP_CONSTANT && tn_shape_size(v->shape) == 1 && scalar_constant(v, x);
}

/* ---- groups ------------------------------------------------------------------------------------------------- */

static int32_t find(fusion *f, int32_t g)
{
    while (g >= 0 && f->groups[g].parent >= 0) {
        int32_t up = f->groups[g].parent;
        if (f->groups[up].parent >= 0) f->groups[g].parent = f->groups[up].parent;
        g = up;
    }
    return g;
}

static int32_t group_at(fusion *f, int32_t id)
{
    return find(f, f->group_of[id]);
}

static int64_t reach_of(fusion *f, int32_t id)
{
    int32_t g = group_at(f, id);
    return g >= 0 ? f->groups[g].order : f->reach[id];
}

static bool reads(const group *g, int32_t id)
{
    for (int32_t i = 0; i < g->outside_count; i++)
        if (g->outside[i] == id) return true;
    return false;
}

/* A group of the one node `id`; -1 when out of memory. */
static int32_t new_group(fusion *f, int32_t id)
{
    const tn_value *v = f->graph->value[id];
    if (!tn_grow((void **)&f->groups, f->group_count, &f->group_capacity, sizeof *f->groups)) return -1;
    group *g = &f->groups[f->group_count];
    *g = (group){.parent = -1, .shape = space_of(f, id), .generation = v->generation, .member_count = 1, .work_before = f->heavy};
    g->axes = is_fold(v) ? ((const tn_reduce_attribute *)v->attribute)->axes : 0;
    g->outside = malloc(MOST_OUTSIDE * sizeof *g->outside);
    if (!g->outside) {
        tn_fail(TN_MEMORY, "out of memory for fusing");
        return -1;
    }
    for (int i = 0; i < v->in_count; i++) {
        int32_t from = source(f, v->in[i]);
        double x;
        if (is_immediate(f, from, &x))
            g->immediate_count++;
        else if (!reads(g, from))
            g->outside[g->outside_count++] = from;
    }
    g->order = ++f->orders;
    return f->group_count++;
}

/* True if `id` is a member of `g` whose value members of the group can use. */
static bool is_inside(fusion *f, int32_t id, int32_t g)
{
    return group_at(f, id) == g && tn_is_elementwise(f->graph->value[id]->op->id);
}

/* Puts what `from` reads outside of both groups into `out`; false if that is too much, or if it is a reduction of `other`. */
static bool gather_outside(fusion *f, int32_t from, int32_t other, int32_t *out, int32_t *count, int64_t *reach)
{
    for (int32_t i = 0; i < f->groups[from].outside_count; i++) {
        int32_t id = f->groups[from].outside[i];
        if (is_inside(f, id, other)) continue;
        if (group_at(f, id) == other) return false;
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
static bool merge(fusion *f, int32_t a, int32_t b)
{
    group *x = &f->groups[a], *y = &f->groups[b];
    if (!tn_shape_equal(x->shape, y->shape) || (x->axes && y->axes && x->axes != y->axes)) return false;
    if (x->member_count + y->member_count > MOST_MEMBERS || x->immediate_count + y->immediate_count > MOST_IMMEDIATES) return false;
    int32_t outside[MOST_OUTSIDE], count = 0;
    int64_t reach = 0, bound = INT64_MAX;
    if (!gather_outside(f, a, b, outside, &count, &reach) || !gather_outside(f, b, a, outside, &count, &reach)) return false;
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

/* ---- which merges are worth it ---------------------------------------------------------------------------------- */

static bool is_whole(const fusion *f, int32_t id, const group *g)
{
    return tn_shape_equal(f->graph->value[id]->shape, g->shape);
}

/* A small result may be computed at any time. A large one had better not be computed long before it is used; and operands had
 * better not be kept long for a result that takes their place. */
static bool is_near(const fusion *f, const group *g, int32_t id)
{
    const tn_value *v = f->graph->value[id];
    if (f->heavy - g->work_before <= NEAR) return true;
    if (is_fold(v) && 4 * tn_shape_size(v->shape) <= tn_shape_size(g->shape)) return true;
    if (g->read) return false;
    int whole = 0;
    for (int32_t i = 0; i < g->outside_count; i++) whole += is_whole(f, g->outside[i], g);
    return whole <= 1;
}

static tn_status visit_member(fusion *f, int32_t id)
{
    int32_t mine = new_group(f, id);
    if (mine < 0) return TN_MEMORY;
    f->group_of[id] = mine;
    const tn_value *v = f->graph->value[id];
    for (int i = 0; i < v->in_count; i++) { /* groups that it continues */
        int32_t from = source(f, v->in[i]), g = group_at(f, from);
        if (g < 0 || g == find(f, mine) || !is_inside(f, from, g) || !is_near(f, &f->groups[g], id)) continue;
        if (merge(f, g, find(f, mine))) mine = g;
    }
    mine = find(f, mine);
    for (int i = 0; i < v->in_count; i++) { /* groups that read the same */
        int32_t from = source(f, v->in[i]);
        if (!is_whole(f, from, &f->groups[mine]) || is_inside(f, from, mine)) continue;
        int32_t g = find(f, f->last_reader[from]);
        if (g >= 0 && g != mine && f->groups[g].generation == v->generation && f->heavy - f->groups[g].work_before <= NEAR && merge(f, g, mine))
            mine = g;
        f->last_reader[from] = mine;
    }
    for (int i = 0; i < v->in_count; i++) {
        int32_t g = group_at(f, source(f, v->in[i]));
        if (g >= 0 && g != mine) f->groups[g].read = true;
    }
    return TN_OK;
}

static tn_status form_groups(fusion *f)
{
    for (int32_t id = 1; id < f->graph->count; id++) {
        const tn_value *v = f->graph->value[id];
        f->same[id] = is_identity(v->op->id) ? f->same[v->in[0]] : id;
        f->group_of[id] = f->last_reader[id] = -1;
        if (is_member(v)) {
            TN_TRY(visit_member(f, id));
            continue;
        }
        if (is_heavy(v)) f->heavy++;
        for (int i = 0; i < v->in_count; i++) {
            int32_t from = f->same[v->in[i]], g = group_at(f, from);
            int64_t reach = reach_of(f, from);
            if (reach > f->reach[id]) f->reach[id] = reach;
            if (g >= 0 && !is_identity(v->op->id)) f->groups[g].read = true;
        }
    }
    return TN_OK;
}

/* ---- units -------------------------------------------------------------------------------------------------------- */

static tn_status list_members(fusion *f)
{
    int32_t n = f->graph->count;
    f->group_first = calloc((size_t)f->group_count + 2, sizeof *f->group_first);
    f->member = calloc((size_t)n + 1, sizeof *f->member);
    if (!f->group_first || !f->member) return tn_fail(TN_MEMORY, "out of memory for fusing");
    for (int32_t id = 1; id < n; id++)
        if (f->group_of[id] >= 0) f->group_first[(f->group_of[id] = group_at(f, id)) + 2]++;
    for (int32_t g = 0; g < f->group_count; g++) f->group_first[g + 2] += f->group_first[g + 1];
    for (int32_t id = 1; id < n; id++)
        if (f->group_of[id] >= 0) {
            int32_t at = f->group_first[f->group_of[id] + 1]++;
            f->member[at] = id;
            f->number[id] = at;
        }
    return TN_OK;
}

/* last[k]: place of the last member of the group that reads member k; `outside`: somebody else does. */
static int outputs_between(const fusion *f, const int32_t *last, int32_t from, int32_t to)
{
    int count = 0;
    for (int32_t k = from; k < to; k++) count += f->needed[f->member[k]] || last[k] >= to;
    return count;
}

/* Members from .. to-1 (in order, so that no cycle can arise) become one unit, or several if they have too many results. */
static void cut_group(fusion *f, const int32_t *last, int32_t from, int32_t to)
{
    if (to - from > 1 && outputs_between(f, last, from, to) > TN_MAX_RESULTS) {
        int32_t middle = (from + to) / 2;
        cut_group(f, last, from, middle);
        cut_group(f, last, middle, to);
        return;
    }
    for (int32_t k = from; k < to; k++) {
        f->unit[f->member[k]] = f->member[from];
        if (last[k] >= to) f->needed[f->member[k]] = true;
    }
}

static tn_status form_units(fusion *f)
{
    int32_t *last = calloc((size_t)f->graph->count + 1, sizeof *last);
    if (!last) return tn_fail(TN_MEMORY, "out of memory for fusing");
    for (int32_t id = 1; id < f->graph->count; id++) {
        const tn_value *v = f->graph->value[id];
        f->unit[id] = v->op->id == TN_OP_RESULT ? v->in[0] : id;
        if (is_identity(v->op->id)) continue;
        bool member = f->group_of[id] >= 0;
        for (int i = 0; i < v->in_count; i++) {
            int32_t from = member ? source(f, v->in[i]) : f->same[v->in[i]];
            if (member && f->group_of[from] == f->group_of[id])
                last[f->number[from]] = f->number[id];
            else
                f->needed[from] = true;
        }
    }
    for (int i = 0; i < f->program->root_count; i++)
        if (f->program->root[i]) f->needed[f->same[f->program->root[i]]] = true;
    for (int32_t g = 0; g < f->group_count; g++) cut_group(f, last, f->group_first[g], f->group_first[g + 1]);
    for (int32_t id = 1; id < f->graph->count; id++)
        if (f->same[id] != id) f->unit[id] = f->unit[f->same[id]];
    free(last);
    return TN_OK;
}

/* ---- writing a unit -------------------------------------------------------------------------------------------------- */

typedef struct writer {
    int32_t input[TN_FUSED_MOST_INPUTS]; /* ids */
    tn_fused_constant constant[TN_FUSED_MOST_CONSTANTS];
    tn_fused_instruction instruction[TN_FUSED_MOST_INSTRUCTIONS];
    tn_fused_output output[TN_MAX_RESULTS];
    int32_t output_id[TN_MAX_RESULTS];
    tn_fused_attribute head;
} writer;

static int32_t input_number(writer *w, int32_t id)
{
    for (int32_t i = 0; i < w->head.input_count; i++)
        if (w->input[i] == id) return i;
    w->input[w->head.input_count] = id;
    return w->head.input_count++;
}

static int32_t constant_number(writer *w, tn_dtype dtype, double x)
{
    for (int32_t i = 0; i < w->head.constant_count; i++)
        if (w->constant[i].dtype == (int32_t)dtype && !memcmp(&w->constant[i].value, &x, sizeof x)) return i;
    w->constant[w->head.constant_count] = (tn_fused_constant){.value = x, .dtype = (int32_t)dtype};
    return w->head.constant_count++;
}

/* Operands carry their kind until all inputs and constants are counted. */
enum { INPUT = 0, CONSTANT = 1 << 16, RESULT = 2 << 16, NUMBER = (1 << 16) - 1 };

static int32_t operand_of(fusion *f, writer *w, int32_t id, int32_t unit)
{
    double x;
    int32_t from = source(f, id);
    if (f->unit[from] == unit && f->group_of[from] >= 0) return RESULT | f->number[from];
    if (is_immediate(f, from, &x)) return CONSTANT | constant_number(w, f->graph->value[from]->dtype, x);
    return INPUT | input_number(w, from);
}

static int32_t final_number(const writer *w, int32_t operand)
{
    if (operand < 0) return operand;
    int32_t number = operand & NUMBER;
    if (operand & CONSTANT) return w->head.input_count + number;
    return operand & RESULT ? w->head.input_count + w->head.constant_count + number : number;
}

static void write_member(fusion *f, writer *w, int32_t id, int32_t unit)
{
    const tn_value *v = f->graph->value[id];
    const tn_value *first = f->graph->value[v->in[0]];
    bool fold = is_fold(v), casts = fold && first->dtype != v->dtype; /* sums of integers and bools are i64 */
    int32_t operand[3] = {-1, -1, -1};
    for (int i = 0; i < v->in_count; i++) operand[i] = operand_of(f, w, v->in[i], unit);
    int32_t value = operand[0];
    if (!fold || casts) {
        tn_fused_instruction *to = &w->instruction[w->head.instruction_count];
        *to = (tn_fused_instruction){.op = (int32_t)(fold ? TN_OP_CAST : v->op->id), .dtype = (int32_t)v->dtype,
                                     .operand_dtype = (int32_t)first->dtype, .operand = {operand[0], operand[1], operand[2]}};
        if (!fold && v->attribute_size == sizeof(tn_scalar_attribute)) {
            const tn_scalar_attribute *s = v->attribute;
            to->a = s->a, to->b = s->b;
        }
        value = RESULT | w->head.instruction_count;
        f->number[id] = w->head.instruction_count++;
    }
    if (fold) w->head.axes = ((const tn_reduce_attribute *)v->attribute)->axes;
    if (f->needed[id]) {
        w->output_id[w->head.output_count] = id;
        w->output[w->head.output_count++] = (tn_fused_output){.value = value, .reduction = fold ? (int32_t)v->op->id : 0};
    }
}

/* The attribute in the memory of the user's graph, which outlives compiling. */
static const tn_fused_attribute *write_attribute(fusion *f, writer *w)
{
    size_t size = tn_fused_size(&w->head);
    tn_fused_attribute *a = tn_arena_alloc(&f->program->user->arena, size);
    if (!a) return NULL;
    for (int k = 0; k < w->head.instruction_count; k++)
        for (int i = 0; i < 3; i++) w->instruction[k].operand[i] = final_number(w, w->instruction[k].operand[i]);
    for (int r = 0; r < w->head.output_count; r++) w->output[r].value = final_number(w, w->output[r].value);
    *a = w->head;
    memcpy((void *)(uintptr_t)tn_fused_constants(a), w->constant, (size_t)w->head.constant_count * sizeof *w->constant);
    memcpy((void *)(uintptr_t)tn_fused_instructions(a), w->instruction, (size_t)w->head.instruction_count * sizeof *w->instruction);
    memcpy((void *)(uintptr_t)tn_fused_outputs(a), w->output, (size_t)w->head.output_count * sizeof *w->output);
    return a;
}

static tn_status emit_fused(fusion *f, writer *w, const int32_t *member, int32_t count)
{
    memset(w, 0, sizeof *w);
    tn_shape space = space_of(f, member[0]);
    w->head.rank = space.rank;
    memcpy(w->head.dim, space.dim, sizeof w->head.dim);
    for (int32_t k = 0; k < count; k++) write_member(f, w, member[k], member[0]);
    const tn_fused_attribute *attribute = write_attribute(f, w);
    if (!attribute) return TN_MEMORY;
    tn_node in[TN_FUSED_MOST_INPUTS];
    tn_dtype dtype[TN_MAX_RESULTS];
    tn_shape shape[TN_MAX_RESULTS];
    for (int i = 0; i < w->head.input_count; i++) in[i] = (tn_node){f->rewrite.to, f->rewrite.map[w->input[i]]};
    for (int r = 0; r < w->head.output_count; r++) {
        dtype[r] = f->graph->value[w->output_id[r]]->dtype;
        shape[r] = f->graph->value[w->output_id[r]]->shape;
    }
    const tn_value *last = f->graph->value[member[count - 1]];
    tn_here(last->file, last->line);
    tn_node node = tn_node_new(f->rewrite.to, &(tn_new_node){.id = TN_OP_FUSED, .dtype = dtype[0], .shape = shape[0], .in = in,
                                                             .in_count = w->head.input_count, .more = w->head.output_count - 1,
                                                             .more_dtype = dtype + 1, .more_shape = shape + 1});
    if (tn_is_none(node)) return tn_graph_status(f->rewrite.to);
    tn_value *value = f->rewrite.to->value[node.id];
    value->attribute = attribute;
    value->attribute_size = (int32_t)tn_fused_size(attribute);
    for (int r = 0; r < w->head.output_count; r++) tn_rewrite_replace(&f->rewrite, w->output_id[r], tn_result(node, r));
    return TN_OK;
}

static void emit_plain(fusion *f, int32_t id)
{
    const tn_value *v = f->graph->value[id];
    for (int i = 0; i < v->in_count; i++) f->rewrite.map[v->in[i]] = f->rewrite.map[f->same[v->in[i]]];
    tn_rewrite_copy(&f->rewrite, id);
}

static tn_status emit(fusion *f, writer *w, int32_t unit)
{
    int32_t g = f->group_of[unit], from = 0, to = 0;
    if (g >= 0) {
        while (f->member[f->group_first[g] + from] != unit) from++;
        from += f->group_first[g];
        for (to = from; to < f->group_first[g + 1] && f->unit[f->member[to]] == unit;) to++;
    }
    if (to - from > 1) return emit_fused(f, w, f->member + from, to - from);
    emit_plain(f, unit);
    return TN_OK;
}

/* ---- the order of units ------------------------------------------------------------------------------------------------ */

typedef struct schedule {
    int32_t *missing;           /* by unit: operands that are not there yet */
    int32_t *first, *next, *to; /* lists of readers: edges by unit */
    int32_t edge_count;
    int32_t *heap, heap_count;  /* ready units, lowest id first */
} schedule;

static void heap_push(schedule *s, int32_t id)
{
    int32_t at = s->heap_count++;
    for (; at > 0 && s->heap[(at - 1) / 2] > id; at = (at - 1) / 2) s->heap[at] = s->heap[(at - 1) / 2];
    s->heap[at] = id;
}

static int32_t heap_pop(schedule *s)
{
    int32_t top = s->heap[0], last = s->heap[--s->heap_count], at = 0;
    for (int32_t child; (child = 2 * at + 1) < s->heap_count; at = child) {
        if (child + 1 < s->heap_count && s->heap[child + 1] < s->heap[child]) child++;
        if (s->heap[child] >= last) break;
        s->heap[at] = s->heap[child];
    }
    s->heap[at] = last;
    return top;
}

static void add_edges(const fusion *f, schedule *s)
{
    for (int32_t id = 1; id < f->graph->count; id++) {
        const tn_value *v = f->graph->value[id];
        if (is_identity(v->op->id) || v->op->id == TN_OP_RESULT) continue;
        for (int i = 0; i < v->in_count; i++) {
            int32_t from = f->unit[f->group_of[id] >= 0 ? source(f, v->in[i]) : f->same[v->in[i]]], to = f->unit[id];
            /* A member that stays alone is copied as it is, with its broadcast operands. */
            int32_t direct = f->unit[f->same[v->in[i]]];
            for (int both = 0; both < 2; both++, from = direct) {
                if (from == to || (both && direct == f->unit[source(f, v->in[i])])) continue;
                s->to[s->edge_count] = to;
                s->next[s->edge_count] = s->first[from];
                s->first[from] = s->edge_count++;
                s->missing[to]++;
            }
        }
    }
}

static tn_status emit_all(fusion *f)
{
    size_t n = (size_t)f->graph->count, edges = 1;
    for (int32_t id = 1; id < f->graph->count; id++) edges += 2 * (size_t)f->graph->value[id]->in_count;
    tn_arena arena = {0};
    schedule s = {.edge_count = 1};
    s.missing = tn_arena_array(&arena, n, sizeof(int32_t));
    s.first = tn_arena_array(&arena, n, sizeof(int32_t));
    s.heap = tn_arena_array(&arena, n, sizeof(int32_t));
    s.next = tn_arena_array(&arena, edges, sizeof(int32_t));
    s.to = tn_arena_array(&arena, edges, sizeof(int32_t));
    writer *w = tn_arena_alloc(&arena, sizeof *w);
    tn_status status = s.missing && s.first && s.heap && s.next && s.to && w ? TN_OK : tn_fail(TN_MEMORY, "out of memory for fusing");
    if (status == TN_OK) {
        add_edges(f, &s);
        for (int32_t id = 1; id < f->graph->count; id++)
            if (f->unit[id] == id && s.missing[id] == 0) heap_push(&s, id);
    }
    while (s.heap_count && status == TN_OK && f->rewrite.to->status == TN_OK) {
        int32_t unit = heap_pop(&s);
        status = emit(f, w, unit);
        for (int32_t e = s.first[unit]; e; e = s.next[e])
            if (--s.missing[s.to[e]] == 0) heap_push(&s, s.to[e]);
    }
    for (int32_t id = 1; id < f->graph->count; id++) f->rewrite.map[id] = f->rewrite.map[f->same[id]];
    tn_arena_free(&arena);
    return status;
}

/* ---- the pass ------------------------------------------------------------------------------------------------------------ */

tn_status tn_pass_fuse(tn_program *program)
{
    fusion f = {.program = program, .graph = program->graph};
    TN_TRY(tn_rewrite_begin(&f.rewrite, program));
    size_t n = (size_t)f.graph->count;
    tn_arena arena = {0};
    f.same = tn_arena_array(&arena, n, sizeof *f.same);
    f.group_of = tn_arena_array(&arena, n, sizeof *f.group_of);
    f.reach = tn_arena_array(&arena, n, sizeof *f.reach);
    f.last_reader = tn_arena_array(&arena, n, sizeof *f.last_reader);
    f.unit = tn_arena_array(&arena, n, sizeof *f.unit);
    f.number = tn_arena_array(&arena, n, sizeof *f.number);
    f.needed = tn_arena_array(&arena, n, sizeof *f.needed);
    bool allocated = f.same && f.group_of && f.reach && f.last_reader && f.unit && f.number && f.needed;
    tn_status status = allocated ? form_groups(&f) : TN_MEMORY;
    if (status == TN_OK) status = list_members(&f);
    if (status == TN_OK) status = form_units(&f);
    if (status == TN_OK) status = emit_all(&f);
    for (int32_t g = 0; g < f.group_count; g++) free(f.groups[g].outside);
    free(f.groups);
    free(f.member);
    free(f.group_first);
    tn_arena_free(&arena);
    return tn_rewrite_end(&f.rewrite, program, status);
}

double tn_fused_flop(const tn_value *self, const tn_value *const *in);
double tn_fused_flop(const tn_value *self, const tn_value *const *in)
{
    (void)in;
    const tn_fused_attribute *a = self->attribute;
    double elements = 1, each = a->instruction_count;
    for (int d = 0; d < a->rank; d++) elements *= (double)a->dim[d];
    for (int r = 0; r < a->output_count; r++) each += tn_fused_outputs(a)[r].reduction != 0;
    return elements * each;
}
