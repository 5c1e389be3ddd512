/* The units of the fuse pass: groups cut to size, put in order, and written as FUSED nodes. */
#include <stdlib.h>
#include <string.h>

#include "graph/fusion.h"

/* ---- units ------------------------------------------------------------------------------- */

static tn_status list_members(tn_fusion *f)
{
    int32_t n = f->graph->count;
    f->group_first = calloc((size_t)f->group_count + 2, sizeof *f->group_first);
    f->member = calloc((size_t)n + 1, sizeof *f->member);
    if (!f->group_first || !f->member) return tn_fail(TN_MEMORY, "out of memory for fusing");
    for (int32_t id = 1; id < n; id++)
        if (f->group_of[id] >= 0)
            f->group_first[(f->group_of[id] = tn_fusion_group_of(f, id)) + 2]++;
    for (int32_t g = 0; g < f->group_count; g++) f->group_first[g + 2] += f->group_first[g + 1];
    for (int32_t id = 1; id < n; id++)
        if (f->group_of[id] >= 0) {
            int32_t at = f->group_first[f->group_of[id] + 1]++;
            f->member[at] = id;
            f->number[id] = at;
        }
    return TN_OK;
}

/* last[k]: place of the last member of the group that reads member k; `outside`: somebody else
 * does. */
static int outputs_between(const tn_fusion *f, const int32_t *last, int32_t from, int32_t to)
{
    int count = 0;
    for (int32_t k = from; k < to; k++) count += f->needed[f->member[k]] || last[k] >= to;
    return count;
}

/* Members from .. to-1 (in order, so that no cycle can arise) become one unit, or several if
 * they have too many results. */
static void cut_group(tn_fusion *f, const int32_t *last, int32_t from, int32_t to)
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

static tn_status form_units(tn_fusion *f)
{
    int32_t *last = calloc((size_t)f->graph->count + 1, sizeof *last);
    if (!last) return tn_fail(TN_MEMORY, "out of memory for fusing");
    for (int32_t id = 1; id < f->graph->count; id++) {
        const tn_value *v = f->graph->value[id];
        f->unit[id] = v->op->id == TN_OP_RESULT ? v->in[0] : id;
        if (tn_fusion_is_identity(v->op->id) || f->transparent[id]) continue;
        bool member = f->group_of[id] >= 0;
        for (int i = 0; i < v->in_count; i++) {
            int32_t from = member ? tn_fusion_source(f, v->in[i]) : f->same[v->in[i]];
            if (member && f->group_of[from] == f->group_of[id])
                last[f->number[from]] = f->number[id];
            else f->needed[from] = true;
        }
    }
    for (int i = 0; i < f->program->root_count; i++)
        if (f->program->root[i]) f->needed[f->same[f->program->root[i]]] = true;
    for (int32_t g = 0; g < f->group_count; g++)
        cut_group(f, last, f->group_first[g], f->group_first[g + 1]);
    for (int32_t id = 1; id < f->graph->count; id++) {
        const tn_value *v = f->graph->value[id];
        if (f->same[id] != id) f->unit[id] = f->unit[f->same[id]];
        if (f->group_of[id] < 0) continue;
        bool joined = f->unit[id] != id;
        for (int i = 0; i < v->in_count; i++) joined = joined || f->transparent[f->same[v->in[i]]];
        if (joined) f->fused[f->unit[id]] = true;
    }
    free(last);
    return TN_OK;
}

/* ---- writing a unit ---------------------------------------------------------------------- */

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
        if (w->constant[i].dtype == (int32_t)dtype && !memcmp(&w->constant[i].value, &x, sizeof x))
            return i;
    w->constant[w->head.constant_count] = (tn_fused_constant){.value = x, .dtype = (int32_t)dtype};
    return w->head.constant_count++;
}

/* Operands carry their kind until all inputs and constants are counted. */
enum { INPUT = 0, CONSTANT = 1 << 16, RESULT = 2 << 16, NUMBER = (1 << 16) - 1 };

static int32_t operand_of(tn_fusion *f, writer *w, int32_t id, int32_t unit);

/* A transparent cast: an instruction of this unit, written at its first use. */
static int32_t cast_operand(tn_fusion *f, writer *w, int32_t id, int32_t unit)
{
    const tn_value *v = f->graph->value[id];
    if (f->cast_in[id] != unit) {
        int32_t from = operand_of(f, w, v->in[0], unit);
        w->instruction[w->head.instruction_count] = (tn_fused_instruction){
            .op = TN_OP_CAST,
            .dtype = (int32_t)v->dtype,
            .operand_dtype = (int32_t)f->graph->value[v->in[0]]->dtype,
            .operand = {from, -1, -1}};
        f->number[id] = w->head.instruction_count++;
        f->cast_in[id] = unit;
    }
    return RESULT | f->number[id];
}

static int32_t operand_of(tn_fusion *f, writer *w, int32_t id, int32_t unit)
{
    double x;
    id = f->same[id];
    while (f->graph->value[id]->op->id == TN_OP_BROADCAST) id = f->same[f->graph->value[id]->in[0]];
    if (f->transparent[id]) return cast_operand(f, w, id, unit);
    if (f->unit[id] == unit && f->group_of[id] >= 0) return RESULT | f->number[id];
    if (tn_fusion_is_immediate(f, id, &x))
        return CONSTANT | constant_number(w, f->graph->value[id]->dtype, x);
    return INPUT | input_number(w, id);
}

static int32_t final_number(const writer *w, int32_t operand)
{
    if (operand < 0) return operand;
    int32_t number = operand & NUMBER;
    if (operand & CONSTANT) return w->head.input_count + number;
    return operand & RESULT ? w->head.input_count + w->head.constant_count + number : number;
}

static void write_member(tn_fusion *f, writer *w, int32_t id, int32_t unit)
{
    const tn_value *v = f->graph->value[id];
    const tn_value *first = f->graph->value[v->in[0]];
    bool fold = tn_fusion_is_fold(v),
         casts = fold && first->dtype != v->dtype; /* sums of integers and bools are i64 */
    int32_t operand[3] = {-1, -1, -1};
    for (int i = 0; i < v->in_count; i++) operand[i] = operand_of(f, w, v->in[i], unit);
    int32_t value = operand[0];
    if (!fold || casts) {
        tn_fused_instruction *to = &w->instruction[w->head.instruction_count];
        *to = (tn_fused_instruction){.op = (int32_t)(fold ? TN_OP_CAST : v->op->id),
                                     .dtype = (int32_t)v->dtype,
                                     .operand_dtype = (int32_t)first->dtype,
                                     .operand = {operand[0], operand[1], operand[2]}};
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
        w->output[w->head.output_count++] = (tn_fused_output){
            .value = value, .reduction = fold ? (int32_t)v->op->id : 0};
    }
}

/* The attribute in the memory of the user's graph, which outlives compiling. */
static const tn_fused_attribute *write_attribute(tn_fusion *f, writer *w)
{
    size_t size = tn_fused_size(&w->head);
    tn_fused_attribute *a = tn_arena_alloc(&f->program->user->arena, size);
    if (!a) return NULL;
    for (int k = 0; k < w->head.instruction_count; k++)
        for (int i = 0; i < 3; i++)
            w->instruction[k].operand[i] = final_number(w, w->instruction[k].operand[i]);
    for (int r = 0; r < w->head.output_count; r++)
        w->output[r].value = final_number(w, w->output[r].value);
    *a = w->head;
    memcpy((void *)(uintptr_t)tn_fused_constants(a), w->constant,
           (size_t)w->head.constant_count * sizeof *w->constant);
    memcpy((void *)(uintptr_t)tn_fused_instructions(a), w->instruction,
           (size_t)w->head.instruction_count * sizeof *w->instruction);
    memcpy((void *)(uintptr_t)tn_fused_outputs(a), w->output,
           (size_t)w->head.output_count * sizeof *w->output);
    return a;
}

static tn_status emit_fused(tn_fusion *f, writer *w, const int32_t *member, int32_t count)
{
    memset(w, 0, sizeof *w);
    tn_shape space = tn_fusion_space(f, member[0]);
    w->head.rank = space.rank;
    memcpy(w->head.dim, space.dim, sizeof w->head.dim);
    for (int32_t k = 0; k < count; k++) write_member(f, w, member[k], member[0]);
    const tn_fused_attribute *attribute = write_attribute(f, w);
    if (!attribute) return TN_MEMORY;
    tn_node in[TN_FUSED_MOST_INPUTS];
    tn_dtype dtype[TN_MAX_RESULTS];
    tn_shape shape[TN_MAX_RESULTS];
    for (int i = 0; i < w->head.input_count; i++)
        in[i] = (tn_node){f->rewrite.to, f->rewrite.map[w->input[i]]};
    for (int r = 0; r < w->head.output_count; r++) {
        dtype[r] = f->graph->value[w->output_id[r]]->dtype;
        shape[r] = f->graph->value[w->output_id[r]]->shape;
    }
    const tn_value *last = f->graph->value[member[count - 1]];
    tn_here(last->file, last->line);
    tn_node node = tn_node_new(f->rewrite.to, &(tn_new_node){.id = TN_OP_FUSED,
                                                             .dtype = dtype[0],
                                                             .shape = shape[0],
                                                             .in = in,
                                                             .in_count = w->head.input_count,
                                                             .more = w->head.output_count - 1,
                                                             .more_dtype = dtype + 1,
                                                             .more_shape = shape + 1});
    if (tn_is_none(node)) return tn_graph_status(f->rewrite.to);
    tn_value *value = f->rewrite.to->value[node.id];
    value->attribute = attribute;
    value->attribute_size = (int32_t)tn_fused_size(attribute);
    for (int r = 0; r < w->head.output_count; r++)
        tn_rewrite_replace(&f->rewrite, w->output_id[r], tn_result(node, r));
    return TN_OK;
}

static void emit_plain(tn_fusion *f, int32_t id)
{
    const tn_value *v = f->graph->value[id];
    for (int i = 0; i < v->in_count; i++)
        f->rewrite.map[v->in[i]] = f->rewrite.map[f->same[v->in[i]]];
    tn_rewrite_copy(&f->rewrite, id);
}

static tn_status emit(tn_fusion *f, writer *w, int32_t unit)
{
    if (!f->fused[unit]) {
        emit_plain(f, unit);
        return TN_OK;
    }
    const int32_t *member = f->member + f->group_first[f->group_of[unit]];
    const int32_t *end = f->member + f->group_first[f->group_of[unit] + 1];
    while (*member != unit) member++;
    int32_t count = 0;
    while (member + count < end && f->unit[member[count]] == unit) count++;
    return emit_fused(f, w, member, count);
}

/* ---- the order of units ------------------------------------------------------------------ */

typedef struct schedule {
    int32_t *missing;           /* by unit: operands that are not there yet */
    int32_t *first, *next, *to; /* lists of readers: edges by unit */
    int32_t edge_count;
    int32_t *heap, heap_count; /* ready units, lowest id first */
} schedule;

static void heap_push(schedule *s, int32_t id)
{
    int32_t at = s->heap_count++;
    for (; at > 0 && s->heap[(at - 1) / 2] > id; at = (at - 1) / 2)
        s->heap[at] = s->heap[(at - 1) / 2];
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

/* A node that is copied as it is waits for its operands; a fused one for what it reads itself. */
static void add_edges(const tn_fusion *f, schedule *s)
{
    for (int32_t id = 1; id < f->graph->count; id++) {
        const tn_value *v = f->graph->value[id];
        if (tn_fusion_is_identity(v->op->id) || v->op->id == TN_OP_RESULT || f->transparent[id])
            continue;
        int32_t to = f->unit[id];
        for (int i = 0; i < v->in_count; i++) {
            int32_t from =
                f->unit[f->fused[to] ? tn_fusion_source(f, v->in[i]) : f->same[v->in[i]]];
            if (from == to) continue;
            s->to[s->edge_count] = to;
            s->next[s->edge_count] = s->first[from];
            s->first[from] = s->edge_count++;
            s->missing[to]++;
        }
    }
}

static tn_status write_all(tn_fusion *f)
{
    size_t n = (size_t)f->graph->count, edges = 1;
    for (int32_t id = 1; id < f->graph->count; id++) edges += (size_t)f->graph->value[id]->in_count;
    tn_arena arena = {0};
    schedule s = {.edge_count = 1};
    s.missing = tn_arena_array(&arena, n, sizeof(int32_t));
    s.first = tn_arena_array(&arena, n, sizeof(int32_t));
    s.heap = tn_arena_array(&arena, n, sizeof(int32_t));
    s.next = tn_arena_array(&arena, edges, sizeof(int32_t));
    s.to = tn_arena_array(&arena, edges, sizeof(int32_t));
    writer *w = tn_arena_alloc(&arena, sizeof *w);
    tn_status status = s.missing && s.first && s.heap && s.next && s.to && w
                           ? TN_OK
                           : tn_fail(TN_MEMORY, "out of memory for fusing");
    if (status == TN_OK) {
        add_edges(f, &s);
        for (int32_t id = 1; id < f->graph->count; id++)
            if (f->unit[id] == id && s.missing[id] == 0 && !f->transparent[id]) heap_push(&s, id);
    }
    while (s.heap_count && status == TN_OK && f->rewrite.to->status == TN_OK) {
        int32_t unit = heap_pop(&s);
        status = emit(f, w, unit);
        for (int32_t e = s.first[unit]; e; e = s.next[e])
            if (--s.missing[s.to[e]] == 0) heap_push(&s, s.to[e]);
    }
    for (int32_t id = 1; id < f->graph->count; id++)
        f->rewrite.map[id] = f->rewrite.map[f->same[id]];
    tn_arena_free(&arena);
    return status;
}

tn_status tn_fusion_write(tn_fusion *f)
{
    TN_TRY(list_members(f));
    TN_TRY(form_units(f));
    return write_all(f);
}
