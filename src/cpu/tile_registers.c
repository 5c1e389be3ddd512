/* Where the values of a tile program live, and what is written when. */
#include "cpu/tile_builder.h"

#include <string.h>

/* ---- registers --------------------------------------------------------------------------- */

static void find_last_uses(tile_builder *b)
{
    for (int v = 0; v < TN_TILE_MOST_VALUES; v++)
        b->last_use[v] = b->written_at[v] = b->last_read[v] = b->slot[v] = -1;
    for (int k = 0; k < b->call_count; k++) {
        for (int i = 0; i < b->call[k].in_count; i++) b->last_use[b->call[k].in[i]] = k;
        if (b->written_at[b->call[k].out] < 0) b->written_at[b->call[k].out] = k;
    }
    for (int r = 0; r < b->a->output_count; r++)
        b->last_use[b->root[b->output[r].value]] = TN_TILE_AT_END;
}

static int take_slot(tile_builder *b)
{
    return b->free_count ? b->free_slot[--b->free_count] : b->slot_count++;
}

static void leave_slot(tile_builder *b, int v)
{
    if (b->slot[v] >= 0 && !b->own_slot[v]) b->free_slot[b->free_count++] = b->slot[v];
}

/* Reads where it is, if it can; else says how it is loaded. */
static void plan_input(tile_builder *b, int i)
{
    tn_tile_program *p = b->p;
    tn_dtype dtype = b->step->in[i].dtype;
    tile_box box = tile_space_box(&b->space, i, p);
    bool scalar = b->scalar[i] && !b->vector[i], native = tile_is_native(dtype, b->class[i]);
    bool contiguous = box.rank == 1 && (box.stride[0] == 1 || p->most == 1);
    if (native && (scalar || contiguous)) {
        p->direct[p->direct_count++] = (int16_t)i;
        b->last_read[i] = b->last_use[i];
        return;
    }
    if (scalar) box = (tile_box){.rank = 1, .count = {1}};
    bool still = p->loop_count > 0 && p->move[(p->loop_count - 1) * p->operand_count + i] == 0;
    b->source_of[i] = (int16_t)p->source_count;
    p->source[p->source_count++] = (tile_source){.input = (int16_t)i,
                                                 .load = b->set->load[dtype][b->class[i]],
                                                 .box = box,
                                                 .from_size = tn_dtype_size(dtype),
                                                 .to_size = tile_class_size(b->class[i]),
                                                 .cached = still};
    b->own_slot[i] = still || scalar;
    if (b->own_slot[i]) b->slot[i] = b->slot_count++;
}

static void plan_constant(tile_builder *b, int v, double *memory)
{
    tn_tile_class class = b->class[v];
    if (class == TN_TILE_F32) *(float *)memory = (float)b->constant[v];
    else if (class == TN_TILE_F64) *memory = b->constant[v];
    else *(int64_t *)memory = tile_saturated(b->constant[v]);
    if (!b->vector[v]) {
        b->p->place[v].constant = memory;
        return;
    }
    static const tn_dtype native[TN_TILE_CLASSES] = {TN_F32, TN_F64, TN_I64};
    b->own_slot[v] = true;
    b->slot[v] = b->slot_count++;
    b->p->spread[b->p->spread_count++] = (tile_spread){
        .offset = b->slot[v], .load = b->set->load[native[class]][class], .from = memory};
}

static void load_before(tile_builder *b, int v, int at)
{
    tn_tile_program *p = b->p;
    if (v >= b->input_count || b->source_of[v] < 0 || b->last_read[v] >= 0) return;
    if (b->slot[v] < 0) b->slot[v] = take_slot(b);
    b->last_read[v] = at;
    p->action[p->action_count++] = (tile_action){
        .out = (int16_t)v, .a = b->source_of[v], .b = -1, .c = -1};
}

/* The result may take an operand's register if that is its last use and both are of one class. */
static int result_slot(tile_builder *b, const tile_call *c, int k)
{
    if (b->slot[c->out] >= 0) return b->slot[c->out];
    for (int i = 0; i < c->in_count; i++) {
        int v = c->in[i];
        if (b->last_use[v] != k || b->slot[v] < 0 || b->own_slot[v] ||
            b->class[v] != b->class[c->out])
            continue;
        int slot = b->slot[v];
        b->slot[v] = -1; /* given away */
        return slot;
    }
    return take_slot(b);
}

static void assign_registers(tile_builder *b)
{
    tn_tile_program *p = b->p;
    for (int k = 0; k < b->call_count; k++) {
        tile_call *c = &b->call[k];
        int16_t from[3] = {c->in[0], c->in[1], c->in[2]};
        for (int i = 0; i < c->in_count; i++) load_before(b, c->in[i], k);
        /* Places are looked up by value at run time, so the operand keeps its own place although
         * the slot moves on. */
        for (int i = 0; i < c->in_count; i++)
            if (b->slot[c->in[i]] >= 0) p->place[c->in[i]].offset = b->slot[c->in[i]];
        int slot = result_slot(b, c, k);
        for (int i = 0; i < c->in_count; i++)
            if (b->last_use[c->in[i]] == k && c->in[i] != c->out) {
                leave_slot(b, c->in[i]);
                b->slot[c->in[i]] = -1;
            }
        b->slot[c->out] = slot;
        p->place[c->out].offset = slot;
        p->action[p->action_count++] = (tile_action){c->chosen, c->out,  from[0],
                                                     from[1],   from[2], c->scalars};
    }
    for (int r = 0; r < b->a->output_count; r++) {
        int v = b->root[b->output[r].value];
        load_before(b, v, TN_TILE_AT_END);
        if (b->slot[v] >= 0) p->place[v].offset = b->slot[v];
    }
}

/* ---- outputs ----------------------------------------------------------------------------- */

static bool same_look(const tn_operand *a, const tn_operand *b)
{
    if (a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i]) return false;
    return true;
}

static tn_status plan_targets(tile_builder *b)
{
    tn_tile_program *p = b->p;
    bool claimed[TN_TILE_MOST_VALUES] = {false};
    /* Two rounds: stores that read an input's memory come first, before others may write over
     * it. */
    for (int round = 0; round < 2; round++)
        for (int r = 0; r < b->a->output_count; r++) {
            int v = b->root[b->output[r].value];
            bool is_result = b->written_at[v] >= 0;
            if (b->output[r].reduction || is_result != (round == 1)) continue;
            tn_dtype dtype = b->step->out[r].dtype;
            tile_box box = tile_space_box(&b->space, b->input_count + r, p);
            if (box.rank != 1 || (box.stride[0] != 1 && p->most > 1))
                return tn_fail(
                    TN_UNSUPPORTED,
                    "output %d of an element-wise kernel is not dense in the order of its loops",
                    r);
            tile_target *t = &p->target[p->target_count];
            *t = (tile_target){.value = (int16_t)v,
                               .operand = (int16_t)(b->input_count + r),
                               .store = b->set->store[dtype][b->class[v]]};
            if (!t->store)
                return tn_fail(TN_UNSUPPORTED, "an element-wise kernel cannot store %s",
                               tn_dtype_name(dtype));
            t->may_be_direct = is_result && tile_is_native(dtype, b->class[v]) && !claimed[v];
            claimed[v] = true;
            for (int i = 0; i < b->input_count && t->may_be_direct; i++)
                if (b->last_read[i] > b->written_at[v] &&
                    same_look(&b->step->in[i], &b->step->out[r]))
                    p->hazard[p->hazard_count++] = (tile_hazard){(int16_t)p->target_count,
                                                                 (int16_t)i};
            p->target_count++;
        }
    return TN_OK;
}

static void plan_folds(tile_builder *b)
{
    tn_tile_program *p = b->p;
    p->groups = tile_space_groups(&b->space);
    p->most_kept = 1;
    bool inside = false; /* tiles hold reduced dimensions */
    for (int g = 0; g < p->groups.count; g++) {
        int64_t size = p->groups.size[g] * (g == 0 && p->groups.varies ? p->piece : 1);
        if (!p->groups.reduced[g]) p->most_kept *= size;
        inside = inside || (p->groups.reduced[g] && size > 1);
    }
    double count = 1;
    for (int d = 0; d < b->a->rank; d++)
        if (b->a->axes >> d & 1u) count *= (double)b->a->dim[d];
    for (int r = 0; r < b->a->output_count; r++) {
        tn_op_id id = (tn_op_id)b->output[r].reduction;
        if (!id) continue;
        int v = b->root[b->output[r].value], operand = b->input_count + r;
        tn_tile_fold kind = id == TN_OP_MAX   ? TN_FOLD_MAX
                            : id == TN_OP_MIN ? TN_FOLD_MIN
                                              : TN_FOLD_SUM;
        tile_fold *f = &p->fold[p->fold_count++];
        *f = (tile_fold){
            .value = (int16_t)v,
            .operand = (int16_t)operand,
            .class = b->class[v],
            .dtype = b->step->out[r].dtype,
            .scale = id == TN_OP_MEAN ? 1 / count : 1,
            .accumulate = b->set->accumulate[kind][b->class[v]],
            .widen = b->class[v] == TN_TILE_F32 ? b->set->widen[kind]
                                                : b->set->accumulate[kind][b->class[v]],
            .combine =
                b->set->accumulate[kind][b->class[v] == TN_TILE_F32 ? TN_TILE_F64 : b->class[v]],
            .reduce = b->set->reduce[kind][b->class[v]],
            .box = tile_space_kept_box(&b->space, operand, p)};
        for (int i = 0; i < b->input_count; i++)
            p->combine = p->combine || same_look(&b->step->in[i], &b->step->out[r]);
    }
    bool last_is_kept = !p->groups.reduced[p->groups.count - 1] || !inside;
    p->by_element = p->fold_count && p->run_length > 1 &&
                    (last_is_kept || p->most_kept * 8 > p->most);
}

/* ---- the area ---------------------------------------------------------------------------- */

static int64_t rounded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

static void lay_out_area(tile_builder *b)
{
    tn_tile_program *p = b->p;
    size_t widest = 4;
    for (int v = 0; v < b->value_count; v++)
        if (b->class[v] != TN_TILE_F32) widest = 8;
    /* Not a power of two apart, so that the same element of all registers does not fall into one
     * set of the cache. */
    int64_t register_size = rounded(p->most * (int64_t)widest) + (p->most > 64 ? 64 : 0);
    for (int v = 0; v < b->value_count; v++)
        p->place[v].offset = p->place[v].offset < 0 ? 0 : p->place[v].offset * register_size;
    for (int i = 0; i < p->spread_count; i++) p->spread[i].offset *= register_size;
    p->area = b->slot_count * register_size;
    bool wide = false;
    for (int i = 0; i < p->fold_count; i++) {
        tile_fold *f = &p->fold[i];
        f->sum_offset = p->area;
        if (p->by_element) p->area += rounded(p->most * (int64_t)tile_class_size(f->class));
        f->wide_offset = p->area;
        p->area += rounded(p->most_kept * 8);
        wide = wide || f->class != TN_TILE_F32;
    }
    for (int i = 0; i < 2 && p->fold_count; i++) {
        p->temporary[i] = p->area;
        p->area += rounded(p->most * (wide ? 8 : 4));
    }
}

tn_status tile_plan_registers(tile_builder *b)
{
    tn_tile_program *p = b->p;
    find_last_uses(b);
    for (int v = 0; v < b->value_count; v++) {
        if (v < b->input_count && b->last_use[v] >= 0) plan_input(b, v);
        if (b->is_constant[v]) plan_constant(b, v, &p->constant[p->constant_count++]);
    }
    assign_registers(b);
    TN_TRY(plan_targets(b));
    plan_folds(b);
    p->value_count = b->value_count;
    lay_out_area(b);
    return TN_OK;
}
