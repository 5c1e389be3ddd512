/* From ordered nodes to steps.
 *
 * Every value gets strides and a location. Views cost nothing. A kernel that wants another layout gets a copy, made once per value
 * and layout. A value that a state entry is assigned is written straight into it when nobody reads the old contents any more. */
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "exec/plan.h"

typedef struct assembly {
    tn_plan *plan;
    const tn_program *program;
    const tn_graph *graph;
    tn_operand *operand;   /* by id */
    tn_location *location; /* by id */
    int32_t *rows_copy;    /* by id: index + 1 into copies */
    int32_t *last_copy;    /* the same for channels-last */
    struct made_copy {
        tn_operand operand;
        tn_location location;
    } * copy;
    int32_t copy_count, copy_capacity;
    int32_t *entry_of; /* by STATE id: index in plan->entry */
    int32_t *state_of; /* by id: STATE node behind views, or 0 */
    int32_t *
        last_read; /* by STATE id: position in the order of its last reader (INT32_MAX: at the end) */
    int32_t *assigned; /* by value id: STATE id it is assigned to, or 0 */
    bool *written;     /* by STATE id: written in place already */
    bool no_layouts;
} assembly;

static tn_status out_of_memory(void)
{
    return tn_fail(TN_MEMORY, "out of memory while compiling a plan");
}

/* ---- buffers, constants, steps -------------------------------------------------------------------- */

static tn_status new_buffer(tn_plan *plan, size_t size, tn_location *out)
{
    if (!tn_grow((void **)&plan->buffer, plan->buffer_count, &plan->buffer_capacity,
                 sizeof *plan->buffer))
        return TN_MEMORY;
    plan->buffer[plan->buffer_count] = (tn_buffer){
        .size = (size + 63) / 64 * 64, .first = INT32_MAX, .last = -1, .same_as = -1};
    *out = (tn_location){TN_IN_SCRATCH, plan->buffer_count++, 0};
    return TN_OK;
}

static tn_status new_constant(tn_plan *plan, const void *bytes, size_t size, tn_location *out)
{
    size_t start = plan->constant_bytes, end = start + (size + 63) / 64 * 64;
    if (end > plan->constant_capacity) {
        size_t capacity = end * 2;
        unsigned char *bigger = aligned_alloc(64, capacity);
        if (!bigger) return out_of_memory();
        if (start) memcpy(bigger, plan->constants, start);
        free(plan->constants);
        plan->constants = bigger;
        plan->constant_capacity = capacity;
    }
    if (size) memcpy(plan->constants + start, bytes, size);
    plan->constant_bytes = end;
    *out = (tn_location){TN_IN_CONSTANT, (int32_t)(start / 64), 0};
    return TN_OK;
}

static void touch(tn_plan *plan, tn_location location, int32_t step)
{
    if (location.home != TN_IN_SCRATCH) return;
    tn_buffer *buffer = &plan->buffer[location.index];
    if (step < buffer->first) buffer->first = step;
    if (step > buffer->last) buffer->last = step;
}

static tn_plan_step *new_step(tn_plan *plan, const tn_value *node, const tn_kernel *kernel,
                              int in_count, int out_count)
{
    if (!tn_grow((void **)&plan->step, plan->step_count, &plan->step_capacity, sizeof *plan->step))
        return NULL;
    tn_plan_step *s = &plan->step[plan->step_count];
    *s = (tn_plan_step){.workspace = -1};
    s->step = (tn_step){.op = node->op,
                        .kernel = kernel,
                        .in_count = in_count,
                        .out_count = out_count,
                        .name = node->name,
                        .file = node->file,
                        .line = node->line};
    s->step.in = tn_arena_array(&plan->arena, (size_t)in_count, sizeof *s->step.in);
    s->step.out = tn_arena_array(&plan->arena, (size_t)out_count, sizeof *s->step.out);
    s->in = tn_arena_array(&plan->arena, (size_t)in_count, sizeof *s->in);
    s->out = tn_arena_array(&plan->arena, (size_t)out_count, sizeof *s->out);
    if (node->attribute_size)
        s->step.attribute = tn_arena_copy(&plan->arena, node->attribute,
                                          (size_t)node->attribute_size);
    if (!s->step.in || !s->step.out || !s->in || !s->out ||
        (node->attribute_size && !s->step.attribute))
        return NULL;
    return s;
}

/* The step is complete: chooses its primitive, and counts it in. */
static tn_status finish_step(tn_plan *plan, tn_plan_step *s)
{
    int32_t index = plan->step_count;
    if (s->step.kernel->prepare) {
        tn_status status = s->step.kernel->prepare(&s->step);
        if (status != TN_OK)
            return tn_fail_in(status, "%s:%d: %s", s->step.file ? s->step.file : "?", s->step.line,
                              s->step.op->name);
    }
    plan->step_count++; /* from here on tn_plan_free releases it */
    for (int i = 0; i < s->step.in_count; i++) touch(plan, s->in[i], index);
    for (int i = 0; i < s->step.out_count; i++) touch(plan, s->out[i], index);
    if (s->step.workspace) {
        tn_location location;
        TN_TRY(new_buffer(plan, s->step.workspace, &location));
        s->workspace = location.index;
        touch(plan, location, index);
    }
    return TN_OK;
}

/* A copy of any strides to any strides; used for layouts, fetches and late assignments. */
static tn_status add_copy(assembly *a, const tn_operand *from, tn_location in, const tn_operand *to,
                          tn_location out, const tn_value *for_node)
{
    tn_value copy = *for_node;
    copy.op = tn_op_find(TN_OP_BROADCAST);
    copy.attribute_size = 0;
    const tn_kernel *kernel = tn_kernel_for(a->program->kernels, copy.op);
    if (!kernel) return tn_fail(TN_UNSUPPORTED, "this backend has no copy kernel");
    tn_plan_step *s = new_step(a->plan, &copy, kernel, 1, 1);
    if (!s) return out_of_memory();
    s->step.in[0] = *from;
    s->step.out[0] = *to;
    s->in[0] = in;
    s->out[0] = out;
    return finish_step(a->plan, s);
}

/* ---- operands in the layout a kernel wants ------------------------------------------------------------- */

static size_t operand_bytes(const tn_operand *x)
{
    return (size_t)tn_operand_size(x) * tn_dtype_size(x->dtype);
}

/* Value `id` as `layout`: as it lies, or a copy. Strides of dimensions of size 1 are made regular for the kernels' sake. */
static tn_status operand_as(assembly *a, int32_t id, tn_layout layout, tn_operand *operand,
                            tn_location *location)
{
    *operand = a->operand[id];
    *location = a->location[id];
    if (tn_operand_fits(operand, layout)) {
        if (layout == TN_ROWS || (layout == TN_DENSE && tn_operand_is_rows(operand)))
            tn_operand_rows(operand);
        else if (layout == TN_CHANNELS_LAST || layout == TN_DENSE)
            tn_operand_channels_last(operand);
        return TN_OK;
    }
    int32_t *slot = layout == TN_CHANNELS_LAST ? &a->last_copy[id] : &a->rows_copy[id];
    if (!*slot) {
        tn_operand to = *operand;
        tn_location out;
        if (layout == TN_CHANNELS_LAST) tn_operand_channels_last(&to);
        else tn_operand_rows(&to);
        TN_TRY(new_buffer(a->plan, operand_bytes(&to), &out));
        TN_TRY(add_copy(a, operand, *location, &to, out, a->graph->value[id]));
        if (!tn_grow((void **)&a->copy, a->copy_count, &a->copy_capacity, sizeof *a->copy))
            return TN_MEMORY;
        a->copy[a->copy_count++] = (struct made_copy){to, out};
        *slot = a->copy_count;
    }
    *operand = a->copy[*slot - 1].operand;
    *location = a->copy[*slot - 1].location;
    return TN_OK;
}

/* ---- leaves and views -------------------------------------------------------------------------------------- */

static tn_status place_fill(assembly *a, int32_t id)
{
    const tn_value *node = a->graph->value[id];
    double value = ((const tn_fill_attribute *)node->attribute)->value;
    unsigned char bytes[8];
    tn_from_double(node->dtype, &value, bytes, 1);
    for (int i = 0; i < a->operand[id].rank; i++) a->operand[id].stride[i] = 0;
    return new_constant(a->plan, bytes, tn_dtype_size(node->dtype), &a->location[id]);
}

static tn_status place_iota(assembly *a, int32_t id)
{
    const tn_value *node = a->graph->value[id];
    int axis = ((const tn_iota_attribute *)node->attribute)->axis;
    int64_t n = node->shape.dim[axis];
    size_t size = tn_dtype_size(node->dtype);
    unsigned char *bytes = malloc((size_t)n * size + 1);
    if (!bytes) return out_of_memory();
    for (int64_t i = 0; i < n; i++) {
        double value = (double)i;
        tn_from_double(node->dtype, &value, bytes + (size_t)i * size, 1);
    }
    for (int i = 0; i < node->shape.rank; i++) a->operand[id].stride[i] = i == axis;
    tn_status status = new_constant(a->plan, bytes, (size_t)n * size, &a->location[id]);
    free(bytes);
    return status;
}

static tn_status place_state(assembly *a, int32_t id)
{
    tn_plan *plan = a->plan;
    tn_state_entry *entry;
    TN_TRY(tn_state_entry_for(plan->state, a->graph->value[id], &entry));
    int32_t index = 0;
    while (index < plan->entry_count && plan->entry[index] != entry) index++;
    if (index == plan->entry_count) plan->entry[plan->entry_count++] = entry;
    a->entry_of[id] = index;
    a->location[id] = (tn_location){TN_IN_STATE, index, 0};
    return TN_OK;
}

static tn_status place_view(assembly *a, int32_t id)
{
    const tn_value *node = a->graph->value[id];
    int32_t from = node->in[0];
    tn_operand in = a->operand[from];
    a->location[id] = a->location[from];
    int64_t offset;
    if (!tn_view_of(node, &in, &a->operand[id], &offset)) {
        TN_TRY(operand_as(a, from, TN_ROWS, &in, &a->location[id]));
        tn_view_of(node, &in, &a->operand[id], &offset);
    }
    a->location[id].offset += offset * (int64_t)tn_dtype_size(node->dtype);
    return TN_OK;
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */

/* Result r of step s may be written into the state it is assigned to: nobody reads the old contents later, and the kernel does not
 * read them elsewhere than where it writes. */
static bool may_write_state(const assembly *a, int32_t id, int32_t position, const tn_plan_step *s,
                            int r)
{
    int32_t state = a->assigned[id];
    if (!state || a->written[state] || a->last_read[state] > position ||
        !tn_operand_is_rows(&s->step.out[r]))
        return false;
    for (int i = 0; i < s->step.in_count; i++) {
        if (s->in[i].home != TN_IN_STATE || s->in[i].index != a->entry_of[state]) continue;
        bool may = s->step.op->id == TN_OP_FUSED || r == 0;
        may = may && i < 64 && s->step.kernel->in_place >> i & 1u && s->in[i].offset == 0;
        if (!may || memcmp(&s->step.in[i].dim, &s->step.out[r].dim, sizeof s->step.in[i].dim) ||
            s->step.in[i].rank != s->step.out[r].rank || !tn_operand_is_rows(&s->step.in[i]))
            return false;
    }
    return true;
}

static tn_status place_results(assembly *a, int32_t id, int32_t position, tn_plan_step *s,
                               const tn_layout *layout)
{
    const tn_value *node = a->graph->value[id];
    for (int r = 0; r < node->result_count; r++) {
        tn_operand *out = &s->step.out[r];
        *out = tn_operand_of(a->graph->value[id + r]);
        bool last = layout[r] == TN_CHANNELS_LAST || (layout[r] == TN_DENSE && s->step.in_count &&
                                                      !tn_operand_is_rows(&s->step.in[0]) &&
                                                      tn_operand_is_channels_last(&s->step.in[0]));
        if (last) tn_operand_channels_last(out);
        if (may_write_state(a, id + r, position, s, r)) {
            s->out[r] = (tn_location){TN_IN_STATE, a->entry_of[a->assigned[id + r]], 0};
            a->written[a->assigned[id + r]] = true;
        } else {
            TN_TRY(new_buffer(a->plan, operand_bytes(out), &s->out[r]));
        }
        a->operand[id + r] = *out;
        a->location[id + r] = s->out[r];
    }
    return TN_OK;
}

static tn_status place_step(assembly *a, int32_t id, int32_t position)
{
    const tn_value *node = a->graph->value[id];
    const tn_kernel *kernel = tn_kernel_for(a->program->kernels, node->op);
    if (!kernel)
        return tn_fail(TN_UNSUPPORTED, "%s:%d: %s has no kernel", node->file ? node->file : "?",
                       node->line, node->op->name);
    size_t in_count = (size_t)node->in_count;
    /* Copies are steps too, and come first. */
    tn_operand *operand = calloc(in_count + 1, sizeof *operand);
    tn_location *location = calloc(in_count + 1, sizeof *location);
    tn_layout *in_layout = calloc(in_count + 1, sizeof *in_layout),
              out_layout[TN_MAX_RESULTS] = {TN_ROWS};
    tn_operand results[TN_MAX_RESULTS];
    tn_status status = operand && location && in_layout ? TN_OK : out_of_memory();
    if (status == TN_OK) {
        for (size_t i = 0; i < in_count; i++) operand[i] = a->operand[node->in[i]];
        for (int r = 0; r < node->result_count; r++)
            results[r] = tn_operand_of(a->graph->value[id + r]);
        tn_step look = {.op = node->op,
                        .kernel = kernel,
                        .attribute = node->attribute,
                        .in_count = node->in_count,
                        .out_count = node->result_count,
                        .in = operand,
                        .out = results};
        if (kernel->layouts) kernel->layouts(&look, in_layout, out_layout);
    }
    for (size_t i = 0; i < in_count && status == TN_OK; i++)
        status = operand_as(a, node->in[i], in_layout[i], &operand[i], &location[i]);
    tn_plan_step *s = status == TN_OK
                          ? new_step(a->plan, node, kernel, node->in_count, node->result_count)
                          : NULL;
    if (status == TN_OK && !s) status = out_of_memory();
    if (s) {
        if (in_count) {
            memcpy(s->step.in, operand, in_count * sizeof *operand);
            memcpy(s->in, location, in_count * sizeof *location);
            const tn_value *in_value[TN_MAX_IN] = {0};
            for (size_t i = 0; i < in_count && i < TN_MAX_IN; i++)
                in_value[i] = a->graph->value[node->in[i]];
            s->flop = node->op->flop ? node->op->flop(node, in_value)
                                     : (double)tn_shape_size(node->shape);
        }
        status = place_results(a, id, position, s, out_layout);
        if (status == TN_OK) status = finish_step(a->plan, s);
    }
    free(operand);
    free(location);
    free(in_layout);
    for (int r = 0; r < node->result_count && status == TN_OK && a->no_layouts; r++)
        if (!tn_operand_is_rows(&a->operand[id + r]))
            status = operand_as(a, id + r, TN_ROWS, &a->operand[id + r], &a->location[id + r]);
    return status;
}

static tn_status place_node(assembly *a, int32_t id, int32_t position)
{
    const tn_value *node = a->graph->value[id];
    switch (node->op->id) {
    case TN_OP_INPUT: /* feeds that are known were placed already */
        if (a->location[id].home == TN_IN_FEED) return TN_OK;
        return tn_fail(TN_INVALID, "input '%s' is needed but not among the feeds", node->name);
    case TN_OP_STATE: return place_state(a, id);
    case TN_OP_CONSTANT: {
        const tn_constant_attribute *constant = node->attribute;
        return new_constant(a->plan, constant->bytes, constant->size, &a->location[id]);
    }
    case TN_OP_FILL: return place_fill(a, id);
    case TN_OP_IOTA: return place_iota(a, id);
    case TN_OP_RESULT:
    case TN_OP_ASSIGN:
    case TN_OP_GROUP: return TN_OK;
    default: return node->op->flags & TN_VIEW ? place_view(a, id) : place_step(a, id, position);
    }
}

/* ---- before and after -------------------------------------------------------------------------------------------------- */

static void find_readers(assembly *a, const int32_t *order)
{
    const tn_graph *graph = a->graph;
    for (int32_t id = 1; id < graph->count; id++) {
        const tn_value *node = graph->value[id];
        if (node->op->id == TN_OP_STATE) a->state_of[id] = id;
        if (node->op->flags & TN_VIEW) a->state_of[id] = a->state_of[node->in[0]];
    }
    for (int32_t position = 0; position < graph->count - 1; position++) {
        const tn_value *node = graph->value[order[position]];
        if (node->op->id == TN_OP_ASSIGN) {
            if (!a->assigned[node->in[1]]) a->assigned[node->in[1]] = node->in[0];
            int32_t other = a->state_of[node->in[1]];
            if (other) a->last_read[other] = INT32_MAX; /* copied at the end */
            continue;
        }
        for (int i = 0; i < node->in_count; i++) {
            int32_t state = a->state_of[node->in[i]];
            if (state && a->last_read[state] < position) a->last_read[state] = position;
        }
    }
    const tn_program *p = a->program;
    for (int i = 0; i < p->fetch_count; i++)
        if (a->state_of[p->root[p->feed_count + i]])
            a->last_read[a->state_of[p->root[p->feed_count + i]]] = INT32_MAX;
}

/* Fetches before late assignments, because they may look at old state. */
static tn_status add_fetches(assembly *a)
{
    const tn_program *p = a->program;
    for (int i = 0; i < p->fetch_count; i++) {
        int32_t id = p->root[p->feed_count + i];
        tn_operand rows = tn_operand_of(a->graph->value[id]);
        TN_TRY(add_copy(a, &a->operand[id], a->location[id], &rows,
                        (tn_location){TN_IN_FETCH, i, 0}, a->graph->value[id]));
    }
    return TN_OK;
}

static tn_status add_assignments(assembly *a)
{
    const tn_graph *graph = a->graph;
    /* Values that are other entries' old contents move aside first: two entries may swap. */
    for (int32_t id = 1; id < graph->count; id++) {
        const tn_value *node = graph->value[id];
        if (node->op->id != TN_OP_ASSIGN || !a->state_of[node->in[1]]) continue;
        int32_t value = node->in[1];
        tn_operand rows = tn_operand_of(graph->value[value]);
        tn_location aside;
        TN_TRY(new_buffer(a->plan, operand_bytes(&rows), &aside));
        TN_TRY(
            add_copy(a, &a->operand[value], a->location[value], &rows, aside, graph->value[value]));
        a->operand[value] = rows;
        a->location[value] = aside;
        a->state_of[value] = 0;
    }
    memset(a->plan->written, 0, (size_t)a->plan->entry_count);
    bool *seen = calloc((size_t)a->plan->entry_count + 1, 1);
    if (!seen) return out_of_memory();
    tn_status status = TN_OK;
    for (int32_t id = 1; id < graph->count && status == TN_OK; id++) {
        const tn_value *node = graph->value[id];
        if (node->op->id != TN_OP_ASSIGN) continue;
        tn_location target = {TN_IN_STATE, a->entry_of[node->in[0]], 0};
        if (seen[target.index]) {
            status = tn_fail(TN_INVALID, "%s:%d: state '%s' is assigned twice in one plan",
                             node->file ? node->file : "?", node->line,
                             graph->value[node->in[0]]->name);
            break;
        }
        seen[target.index] = a->plan->written[target.index] = true;
        if (a->written[node->in[0]] && a->assigned[node->in[1]] == node->in[0]) continue;
        tn_operand rows = tn_operand_of(graph->value[node->in[0]]);
        status = add_copy(a, &a->operand[node->in[1]], a->location[node->in[1]], &rows, target,
                          node);
    }
    free(seen);
    return status;
}

tn_status tn_assemble(tn_plan *plan, const tn_program *program, const int32_t *order,
                      const tn_compile_options *options)
{
    const tn_graph *graph = program->graph;
    size_t n = (size_t)graph->count;
    tn_arena arena = {0};
    assembly a = {
        .plan = plan, .program = program, .graph = graph, .no_layouts = options->no_layouts};
    a.operand = tn_arena_array(&arena, n, sizeof *a.operand);
    a.location = tn_arena_array(&arena, n, sizeof *a.location);
    a.rows_copy = tn_arena_array(&arena, n, sizeof *a.rows_copy);
    a.last_copy = tn_arena_array(&arena, n, sizeof *a.last_copy);
    a.entry_of = tn_arena_array(&arena, n, sizeof *a.entry_of);
    a.state_of = tn_arena_array(&arena, n, sizeof *a.state_of);
    a.last_read = tn_arena_array(&arena, n, sizeof *a.last_read);
    a.assigned = tn_arena_array(&arena, n, sizeof *a.assigned);
    a.written = tn_arena_array(&arena, n, sizeof *a.written);
    plan->entry = tn_arena_array(&plan->arena, (size_t)graph->named_count + 1, sizeof *plan->entry);
    plan->written = tn_arena_array(&plan->arena, (size_t)graph->named_count + 1,
                                   sizeof *plan->written);
    tn_status status = TN_OK;
    if (!a.operand || !a.location || !a.rows_copy || !a.last_copy || !a.entry_of || !a.state_of ||
        !a.last_read || !a.assigned || !a.written || !plan->entry || !plan->written)
        status = out_of_memory();
    if (status == TN_OK) {
        for (int32_t id = 1; id < graph->count; id++)
            a.operand[id] = tn_operand_of(graph->value[id]);
        for (int i = 0; i < program->feed_count; i++)
            if (program->root[i]) a.location[program->root[i]] = (tn_location){TN_IN_FEED, i, 0};
        find_readers(&a, order);
        /* Every entry is placed first: in-place writing compares locations. */
        for (int32_t id = 1; id < graph->count && status == TN_OK; id++)
            if (graph->value[id]->op->id == TN_OP_STATE) status = place_state(&a, id);
    }
    for (int32_t i = 0; i < graph->count - 1 && status == TN_OK; i++)
        status = place_node(&a, order[i], i);
    if (status == TN_OK) status = add_fetches(&a);
    if (status == TN_OK) status = add_assignments(&a);
    free(a.copy);
    tn_arena_free(&arena);
    return status;
}
