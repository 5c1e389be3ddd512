/* From a FUSED attribute to a program of the tile engine: classes, casts, scalars, registers, and what may be written at once. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/tile_space.h"

#define MOST_VALUES (TN_FUSED_MOST_VALUES + TN_FUSED_MOST_INSTRUCTIONS) /* multiply_add brings constants of its own */
#define MOST_CALLS (2 * TN_FUSED_MOST_INSTRUCTIONS)
#define AT_END INT32_MAX

/* One call before registers are chosen. */
typedef struct pending {
    tn_tile_function *const *form;          /* by scalar operands */
    tn_tile_function *alone[TN_TILE_FORMS]; /* a form table of its own, for casts */
    tn_tile_function *chosen;
    int16_t out, in[3];
    int in_count;
    tn_tile_scalars scalars;
} pending;

typedef struct builder {
    const tn_step *step;
    const tn_fused_attribute *a;
    const tn_fused_instruction *instruction;
    const tn_fused_output *output;
    const tn_tile_set *set;
    tn_tile_program *p;
    tile_space space;
    int input_count, first_result, value_count;
    tn_tile_class class[MOST_VALUES];
    int16_t root[MOST_VALUES];   /* the value that holds it: casts without effect share one */
    int inner_uses[MOST_VALUES]; /* by instructions and reductions */
    int stores[MOST_VALUES];
    bool is_constant[MOST_VALUES];
    double constant[MOST_VALUES];
    bool scalar[MOST_VALUES];    /* one element for a whole tile ... */
    bool vector[MOST_VALUES];    /* ... which somebody needs spread nevertheless */
    int16_t merged[MOST_VALUES]; /* by result of an addition: the multiplication that it does too, or -1 */
    bool skipped[MOST_VALUES];   /* such a multiplication */
    pending *call;
    int call_count;
    int last_use[MOST_VALUES], written_at[MOST_VALUES], last_read[MOST_VALUES]; /* by call; last_read: of an input's memory */
    int slot[MOST_VALUES], free_slot[MOST_VALUES], free_count, slot_count;
    bool own_slot[MOST_VALUES]; /* kept over tiles */
} builder;

static tn_status out_of_memory(void)
{
    return tn_fail(TN_MEMORY, "out of memory while preparing an element-wise kernel");
}

/* ---- dtypes and classes -------------------------------------------------------------------------------- */

static tn_tile_class class_of(tn_dtype dtype)
{
    if (dtype == TN_F64) return TN_TILE_F64;
    return tn_dtype_is_float(dtype) || dtype == TN_BOOL ? TN_TILE_F32 : TN_TILE_I64;
}

static size_t class_size(tn_tile_class class)
{
    return class == TN_TILE_F32 ? 4 : 8;
}

/* Memory of this dtype can be read as a register of the class. */
static bool is_native(tn_dtype dtype, tn_tile_class class)
{
    static const tn_dtype native[TN_TILE_CLASSES] = {TN_F32, TN_F64, TN_I64};
    return dtype == native[class];
}

static void integer_range(tn_dtype dtype, int64_t range[2])
{
    range[0] = dtype == TN_I64 ? INT64_MIN : dtype == TN_I32 ? INT32_MIN : dtype == TN_I8 ? INT8_MIN : 0;
    range[1] = dtype == TN_I64 ? INT64_MAX : dtype == TN_I32 ? INT32_MAX : dtype == TN_I8 ? INT8_MAX : UINT8_MAX;
}

static int64_t saturated(double x)
{
    if (isnan(x)) return 0;
    return x <= -0x1p63 ? INT64_MIN : x >= 0x1p63 ? INT64_MAX : (int64_t)x;
}

static tn_tile_scalars scalars_of(double x, double y)
{
    return (tn_tile_scalars){.f = {(float)x, (float)y}, .d = {x, y}, .i = {saturated(x), saturated(y)}};
}

/* ---- values and their uses ------------------------------------------------------------------------------- */

static void count_uses(builder *b)
{
    for (int k = 0; k < b->a->instruction_count; k++)
        for (int i = 0; i < 3; i++)
            if (b->instruction[k].operand[i] >= 0) b->inner_uses[b->instruction[k].operand[i]]++;
    for (int r = 0; r < b->a->output_count; r++) {
        int v = b->output[r].value;
        if (b->output[r].reduction)
            b->inner_uses[v]++;
        else
            b->stores[v]++;
    }
}

/* An integer input of which only the conversion to a float is wanted is converted while it is loaded. */
static bool only_cast_to_float(const builder *b, int input)
{
    if (b->stores[input]) return false;
    int casts = 0;
    for (int k = 0; k < b->a->instruction_count; k++)
        casts += b->instruction[k].op == TN_OP_CAST && b->instruction[k].operand[0] == input && b->instruction[k].dtype != TN_BOOL &&
                 class_of((tn_dtype)b->instruction[k].dtype) == TN_TILE_F32;
    return casts == b->inner_uses[input];
}

static bool box_is_scalar(const tile_box *box)
{
    return box->rank == 1 && box->stride[0] == 0;
}

static void classify_values(builder *b)
{
    for (int v = 0; v < MOST_VALUES; v++) b->root[v] = (int16_t)v, b->merged[v] = -1;
    for (int i = 0; i < b->input_count; i++) {
        b->class[i] = class_of(b->step->in[i].dtype);
        if (b->class[i] == TN_TILE_I64 && only_cast_to_float(b, i)) b->class[i] = TN_TILE_F32;
        tile_box box = tile_space_box(&b->space, i, b->p);
        b->scalar[i] = b->p->most > 1 && box_is_scalar(&box);
    }
    for (int i = 0; i < b->a->constant_count; i++) {
        int v = b->input_count + i;
        b->constant[v] = tn_fused_constants(b->a)[i].value;
        b->class[v] = class_of((tn_dtype)tn_fused_constants(b->a)[i].dtype);
        b->is_constant[v] = b->scalar[v] = true;
    }
    for (int k = 0; k < b->a->instruction_count; k++) b->class[b->first_result + k] = class_of((tn_dtype)b->instruction[k].dtype);
}

/* ---- calls -------------------------------------------------------------------------------------------------- */

static pending *add_call(builder *b, int out, tn_tile_function *const *form, int in_count)
{
    pending *c = &b->call[b->call_count++];
    *c = (pending){.form = form, .out = (int16_t)out, .in = {-1, -1, -1}, .in_count = in_count};
    return c;
}

static pending *add_cast(builder *b, int out, int in, tn_tile_cast cast)
{
    pending *c = add_call(b, out, NULL, 1);
    c->alone[0] = b->set->cast[cast];
    c->in[0] = b->root[in];
    return c;
}

static void round_to(builder *b, int v, tn_dtype dtype)
{
    if (dtype == TN_BF16 || dtype == TN_F16) add_cast(b, v, v, dtype == TN_BF16 ? TN_CAST_ROUND_BF16 : TN_CAST_ROUND_F16);
}

static bool integers_fit(tn_dtype from, tn_dtype to)
{
    int64_t inside[2], outside[2];
    integer_range(from, inside);
    integer_range(to, outside);
    return inside[0] >= outside[0] && inside[1] <= outside[1];
}

static void add_cast_calls(builder *b, const tn_fused_instruction *f, int v)
{
    tn_dtype from = (tn_dtype)f->operand_dtype, to = (tn_dtype)f->dtype;
    int x = b->root[f->operand[0]];
    tn_tile_class source = b->class[x], target = b->class[v];
    bool seen = b->inner_uses[v] > 0; /* else the store rounds */
    if (target == TN_TILE_F32 && to == TN_BOOL && from != TN_BOOL) {
        add_cast(b, v, x, source == TN_TILE_F32 ? TN_CAST_F32_BOOL : source == TN_TILE_F64 ? TN_CAST_F64_BOOL : TN_CAST_I64_BOOL);
    } else if (target == TN_TILE_F32 && source == TN_TILE_F32) {
        bool exact = to == TN_F32 || to == from || from == TN_BOOL || !seen;
        if (exact)
            b->root[v] = (int16_t)x;
        else
            add_cast(b, v, x, to == TN_BF16 ? TN_CAST_ROUND_BF16 : TN_CAST_ROUND_F16);
    } else if (target == TN_TILE_F32) {
        add_cast(b, v, x, source == TN_TILE_F64 ? TN_CAST_F64_F32 : TN_CAST_I64_F32);
        if (seen) round_to(b, v, to);
    } else if (target == TN_TILE_F64) {
        if (source == TN_TILE_F64)
            b->root[v] = (int16_t)x;
        else
            add_cast(b, v, x, source == TN_TILE_F32 ? TN_CAST_F32_F64 : TN_CAST_I64_F64);
    } else if (source == TN_TILE_I64 && integers_fit(from, to)) {
        b->root[v] = (int16_t)x;
    } else {
        pending *c = add_cast(b, v, x, source == TN_TILE_F32 ? TN_CAST_F32_I64 : source == TN_TILE_F64 ? TN_CAST_F64_I64 : TN_CAST_I64_I64);
        integer_range(to, c->scalars.i);
        c->scalars.d[0] = (double)c->scalars.i[0];
        c->scalars.d[1] = (double)c->scalars.i[1];
    }
}

static const tn_tile_row *find_row(const tn_tile_set *set, tn_tile_class class, tn_op_id op)
{
    for (int i = 0; i < set->row_count[class]; i++)
        if (set->row[class][i].op == op) return &set->row[class][i];
    return NULL;
}

static bool may_overflow(tn_op_id op)
{
    return op == TN_OP_NEG || op == TN_OP_ABS || op == TN_OP_SQUARE || op == TN_OP_ADD || op == TN_OP_SUBTRACT || op == TN_OP_MULTIPLY ||
           op == TN_OP_DIVIDE;
}

static tn_status add_row_call(builder *b, const tn_fused_instruction *f, int v)
{
    tn_op_id op = (tn_op_id)f->op;
    tn_tile_class class = class_of((tn_dtype)(op == TN_OP_WHERE ? f->dtype : f->operand_dtype));
    const tn_tile_row *row = find_row(b->set, class, op);
    if (!row)
        return tn_fail(TN_UNSUPPORTED, "%s has no kernel for %s on the CPU", tn_op_find(op)->name, tn_dtype_name((tn_dtype)f->operand_dtype));
    int count = 0;
    while (count < 3 && f->operand[count] >= 0) count++;
    pending *c = add_call(b, v, row->form, count);
    for (int i = 0; i < count; i++) c->in[i] = b->root[f->operand[i]];
    c->scalars = scalars_of(f->a, f->b);
    if (b->class[v] == TN_TILE_I64 && b->inner_uses[v] > 0 && may_overflow(op)) {
        if (f->dtype == TN_I32) add_cast(b, v, v, TN_CAST_WRAP_I32);
        if (f->dtype == TN_I8) add_cast(b, v, v, TN_CAST_WRAP_I8);
        if (f->dtype == TN_U8) add_cast(b, v, v, TN_CAST_WRAP_U8);
    }
    return TN_OK;
}

/* x * y + z in one call where the product has no other use: operand i of addition f is product `t`. */
static bool is_product(const builder *b, const tn_fused_instruction *f, int i)
{
    int t = f->operand[i];
    if (t < b->first_result || b->class[t] != TN_TILE_F32 || b->inner_uses[t] != 1 || b->stores[t] || b->skipped[t]) return false;
    const tn_fused_instruction *g = &b->instruction[t - b->first_result];
    bool scaled = g->op == TN_OP_AFFINE && g->b == 0;
    return f->op == TN_OP_ADD ? scaled || g->op == TN_OP_MULTIPLY : f->op == TN_OP_SUBTRACT && i == 1 && scaled;
}

static void find_products(builder *b)
{
    for (int k = 0; k < b->a->instruction_count; k++) {
        const tn_fused_instruction *f = &b->instruction[k];
        if (class_of((tn_dtype)f->dtype) != TN_TILE_F32 || (f->op != TN_OP_ADD && f->op != TN_OP_SUBTRACT)) continue;
        int i = is_product(b, f, 1) ? 1 : is_product(b, f, 0) ? 0 : -1;
        if (i < 0) continue;
        b->merged[b->first_result + k] = (int16_t)f->operand[i];
        b->skipped[f->operand[i]] = true;
    }
}

static int new_constant(builder *b, double x)
{
    int v = b->value_count++;
    b->class[v] = TN_TILE_F32;
    b->constant[v] = x;
    b->is_constant[v] = b->scalar[v] = true;
    return v;
}

static void add_multiply_add(builder *b, const tn_fused_instruction *f, int v)
{
    int t = b->merged[v], other = f->operand[0] == t ? f->operand[1] : f->operand[0];
    const tn_fused_instruction *g = &b->instruction[t - b->first_result];
    int x = b->root[g->operand[0]], y;
    if (g->op == TN_OP_AFFINE)
        y = new_constant(b, f->op == TN_OP_SUBTRACT ? -g->a : g->a);
    else
        y = b->root[g->operand[1]];
    if (b->scalar[x] && !b->scalar[y]) {
        int swap = x;
        x = y, y = swap;
    }
    pending *c = add_call(b, v, b->set->multiply_add, 3);
    c->in[0] = (int16_t)x, c->in[1] = (int16_t)y, c->in[2] = b->root[other];
}

static tn_status build_calls(builder *b)
{
    find_products(b);
    for (int k = 0; k < b->a->instruction_count; k++) {
        const tn_fused_instruction *f = &b->instruction[k];
        int v = b->first_result + k;
        if (b->skipped[v]) continue;
        if (f->op == TN_OP_CAST)
            add_cast_calls(b, f, v);
        else if (b->merged[v] >= 0)
            add_multiply_add(b, f, v);
        else
            TN_TRY(add_row_call(b, f, v));
    }
    return TN_OK;
}

/* ---- which operands are scalars -------------------------------------------------------------------------------- */

static tn_tile_function *const *forms(const pending *c)
{
    return c->form ? c->form : c->alone;
}

static int bits_in(unsigned x)
{
    return __builtin_popcount(x);
}

/* The form with the most scalar operands among those that are. */
static unsigned best_form(const pending *c, unsigned scalars)
{
    unsigned best = 0;
    for (unsigned form = 1; form < TN_TILE_FORMS; form++)
        if ((form & ~scalars) == 0 && forms(c)[form] && bits_in(form) > bits_in(best)) best = form;
    return best;
}

/* A scalar that one call needs as a vector is a vector for all, which may change other calls' forms: until nothing changes. */
static void choose_forms(builder *b)
{
    for (int r = 0; r < b->a->output_count; r++) b->vector[b->root[b->output[r].value]] = true;
    for (bool changed = true; changed;) {
        changed = false;
        for (int k = 0; k < b->call_count; k++) {
            pending *c = &b->call[k];
            unsigned scalars = 0;
            for (int i = 0; i < c->in_count; i++)
                if (b->scalar[c->in[i]] && !b->vector[c->in[i]]) scalars |= 1u << i;
            unsigned form = best_form(c, scalars);
            c->chosen = forms(c)[form];
            for (int i = 0; i < c->in_count; i++)
                if (scalars & ~form & 1u << i) b->vector[c->in[i]] = changed = true;
        }
    }
}

/* ---- registers ------------------------------------------------------------------------------------------------- */

static void find_last_uses(builder *b)
{
    for (int v = 0; v < MOST_VALUES; v++) b->last_use[v] = b->written_at[v] = b->last_read[v] = b->slot[v] = -1;
    for (int k = 0; k < b->call_count; k++) {
        for (int i = 0; i < b->call[k].in_count; i++) b->last_use[b->call[k].in[i]] = k;
        if (b->written_at[b->call[k].out] < 0) b->written_at[b->call[k].out] = k;
    }
    for (int r = 0; r < b->a->output_count; r++) b->last_use[b->root[b->output[r].value]] = AT_END;
}

static int take_slot(builder *b)
{
    return b->free_count ? b->free_slot[--b->free_count] : b->slot_count++;
}

static void leave_slot(builder *b, int v)
{
    if (b->slot[v] >= 0 && !b->own_slot[v]) b->free_slot[b->free_count++] = b->slot[v];
}

/* Reads where it is, if it can; else says how it is loaded. */
static void plan_input(builder *b, int i)
{
    tn_tile_program *p = b->p;
    tn_dtype dtype = b->step->in[i].dtype;
    tile_box box = tile_space_box(&b->space, i, p);
    bool scalar = b->scalar[i] && !b->vector[i], native = is_native(dtype, b->class[i]);
    bool contiguous = box.rank == 1 && (box.stride[0] == 1 || p->most == 1);
    if (native && (scalar || contiguous)) {
        p->direct[p->direct_count++] = (int16_t)i;
        b->last_read[i] = b->last_use[i];
        return;
    }
    if (scalar) box = (tile_box){.rank = 1, .count = {1}};
    bool still = p->loop_count > 0 && p->move[p->loop_count - 1][i] == 0;
    p->source[i] = (tile_source){.load = b->set->load[dtype][b->class[i]], .box = box, .from_size = tn_dtype_size(dtype),
                                 .to_size = class_size(b->class[i]), .cached = still};
    b->own_slot[i] = still || scalar;
    if (b->own_slot[i]) b->slot[i] = b->slot_count++;
}

static void plan_constant(builder *b, int v, double *memory)
{
    tn_tile_class class = b->class[v];
    if (class == TN_TILE_F32)
        *(float *)memory = (float)b->constant[v];
    else if (class == TN_TILE_F64)
        *memory = b->constant[v];
    else
        *(int64_t *)memory = saturated(b->constant[v]);
    if (!b->vector[v]) {
        b->p->place[v].constant = memory;
        return;
    }
    static const tn_dtype native[TN_TILE_CLASSES] = {TN_F32, TN_F64, TN_I64};
    b->own_slot[v] = true;
    b->slot[v] = b->slot_count++;
    b->p->spread[b->p->spread_count++] = (struct tile_spread){.offset = b->slot[v], .load = b->set->load[native[class]][class], .from = memory};
}

static void load_before(builder *b, int v, int at)
{
    tn_tile_program *p = b->p;
    if (v >= b->input_count || !p->source[v].load || b->last_read[v] >= 0) return;
    if (b->slot[v] < 0) b->slot[v] = take_slot(b);
    b->last_read[v] = at;
    p->action[p->action_count++] = (tile_action){.out = (int16_t)v, .a = (int16_t)v, .b = -1, .c = -1};
}

/* The result may take an operand's register if that is its last use and both are of one class. */
static int result_slot(builder *b, const pending *c, int k)
{
    if (b->slot[c->out] >= 0) return b->slot[c->out];
    for (int i = 0; i < c->in_count; i++) {
        int v = c->in[i];
        if (b->last_use[v] != k || b->slot[v] < 0 || b->own_slot[v] || b->class[v] != b->class[c->out]) continue;
        int slot = b->slot[v];
        b->slot[v] = -1; /* given away */
        return slot;
    }
    return take_slot(b);
}

static tn_status assign_registers(builder *b)
{
    tn_tile_program *p = b->p;
    for (int k = 0; k < b->call_count; k++) {
        pending *c = &b->call[k];
        int16_t from[3] = {c->in[0], c->in[1], c->in[2]};
        for (int i = 0; i < c->in_count; i++) load_before(b, c->in[i], k);
        /* Places are looked up by value at run time, so the operand keeps its own place although the slot moves on. */
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
        tn_tile_scalars *scalars = tn_arena_copy(&p->arena, &c->scalars, sizeof c->scalars);
        if (!scalars) return TN_MEMORY;
        p->action[p->action_count++] = (tile_action){c->chosen, scalars, c->out, from[0], from[1], from[2]};
    }
    for (int r = 0; r < b->a->output_count; r++) {
        int v = b->root[b->output[r].value];
        load_before(b, v, AT_END);
        if (b->slot[v] >= 0) p->place[v].offset = b->slot[v];
    }
    return TN_OK;
}

/* ---- outputs ------------------------------------------------------------------------------------------------------ */

static bool same_look(const tn_operand *a, const tn_operand *b)
{
    if (a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i]) return false;
    return true;
}

static tn_status plan_targets(builder *b)
{
    tn_tile_program *p = b->p;
    bool claimed[MOST_VALUES] = {false};
    /* Two rounds: stores that read an input's memory come first, before others may write over it. */
    for (int round = 0; round < 2; round++)
        for (int r = 0; r < b->a->output_count; r++) {
            int v = b->root[b->output[r].value];
            bool is_result = b->written_at[v] >= 0;
            if (b->output[r].reduction || is_result != (round == 1)) continue;
            tn_dtype dtype = b->step->out[r].dtype;
            tile_box box = tile_space_box(&b->space, b->input_count + r, p);
            if (box.rank != 1 || (box.stride[0] != 1 && p->most > 1))
                return tn_fail(TN_UNSUPPORTED, "output %d of an element-wise kernel is not dense in the order of its loops", r);
            tile_target *t = &p->target[p->target_count];
            *t = (tile_target){.value = (int16_t)v, .operand = (int16_t)(b->input_count + r), .store = b->set->store[dtype][b->class[v]]};
            if (!t->store) return tn_fail(TN_UNSUPPORTED, "an element-wise kernel cannot store %s", tn_dtype_name(dtype));
            t->may_be_direct = is_result && is_native(dtype, b->class[v]) && !claimed[v];
            claimed[v] = true;
            for (int i = 0; i < b->input_count && t->may_be_direct; i++)
                if (b->last_read[i] > b->written_at[v] && same_look(&b->step->in[i], &b->step->out[r]))
                    p->hazard[p->hazard_count++] = (tile_hazard){(int16_t)p->target_count, (int16_t)i};
            p->target_count++;
        }
    return TN_OK;
}

static void plan_folds(builder *b)
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
        tn_tile_fold kind = id == TN_OP_MAX ? TN_FOLD_MAX : id == TN_OP_MIN ? TN_FOLD_MIN : TN_FOLD_SUM;
        tile_fold *f = &p->fold[p->fold_count++];
        *f = (tile_fold){.value = (int16_t)v, .operand = (int16_t)operand, .class = b->class[v], .dtype = b->step->out[r].dtype,
                         .scale = id == TN_OP_MEAN ? 1 / count : 1, .accumulate = b->set->accumulate[kind][b->class[v]],
                         .widen = b->class[v] == TN_TILE_F32 ? b->set->widen[kind] : b->set->accumulate[kind][b->class[v]],
                         .combine = b->set->accumulate[kind][b->class[v] == TN_TILE_F32 ? TN_TILE_F64 : b->class[v]],
                         .reduce = b->set->reduce[kind][b->class[v]], .box = tile_space_kept_box(&b->space, operand, p)};
        for (int i = 0; i < b->input_count; i++) p->combine = p->combine || same_look(&b->step->in[i], &b->step->out[r]);
    }
    bool last_is_kept = !p->groups.reduced[p->groups.count - 1] || !inside;
    p->by_element = p->fold_count && p->run_length > 1 && (last_is_kept || p->most_kept * 8 > p->most);
}

/* ---- the area ------------------------------------------------------------------------------------------------------ */

static int64_t rounded(int64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static void lay_out_area(builder *b)
{
    tn_tile_program *p = b->p;
    size_t widest = 4;
    for (int v = 0; v < b->value_count; v++)
        if (b->class[v] != TN_TILE_F32) widest = 8;
    /* Not a power of two apart, so that the same element of all registers does not fall into one set of the cache. */
    int64_t register_size = rounded(p->most * (int64_t)widest) + (p->most > 64 ? 64 : 0);
    for (int v = 0; v < b->value_count; v++)
        if (p->place[v].offset >= 0) p->place[v].offset *= register_size;
    for (int i = 0; i < p->spread_count; i++) p->spread[i].offset *= register_size;
    p->area = b->slot_count * register_size;
    bool wide = false;
    for (int i = 0; i < p->fold_count; i++) {
        tile_fold *f = &p->fold[i];
        f->sum_offset = p->area;
        if (p->by_element) p->area += rounded(p->most * (int64_t)class_size(f->class));
        f->wide_offset = p->area;
        p->area += rounded(p->most_kept * 8);
        wide = wide || f->class != TN_TILE_F32;
    }
    for (int i = 0; i < 2 && p->fold_count; i++) {
        p->temporary[i] = p->area;
        p->area += rounded(p->most * (wide ? 8 : 4));
    }
}

/* ---- work ------------------------------------------------------------------------------------------------------------ */

/* Rough nanoseconds for one element. */
static double cost_of(tn_op_id op, tn_dtype dtype)
{
    double each;
    switch (op) {
    case TN_OP_EXP: case TN_OP_LOG: case TN_OP_LOG1P: case TN_OP_EXPM1: case TN_OP_SIN: case TN_OP_COS: case TN_OP_TANH: case TN_OP_ERF:
    case TN_OP_SIGMOID: case TN_OP_SOFTPLUS: case TN_OP_GELU: case TN_OP_GELU_TANH: case TN_OP_SILU: case TN_OP_GELU_GRAD:
    case TN_OP_GELU_TANH_GRAD: case TN_OP_SILU_GRAD: each = 0.5; break;
    case TN_OP_POW: case TN_OP_POWER: each = 2; break;
    case TN_OP_MOD: each = 10; break;
    default: each = 0.05; break;
    }
    return class_of(dtype) == TN_TILE_F32 ? each : 4 * each;
}

#define SERIAL_NANOSECONDS 12000 /* below, waking the other threads costs more than they save */
#define MANY_RUNS 64

static void divide_work(builder *b, double elements)
{
    tn_tile_program *p = b->p;
    double each = 0.05 * (b->input_count + b->a->output_count);
    for (int k = 0; k < b->a->instruction_count; k++) each += cost_of((tn_op_id)b->instruction[k].op, (tn_dtype)b->instruction[k].operand_dtype);
    p->serial = p->tiles < 2 || elements * each < SERIAL_NANOSECONDS;
    p->segments = 1;
    p->segment_length = p->run_length;
    p->items = p->tiles;
    if (!p->fold_count) return;
    int64_t runs = p->tiles / p->run_length;
    if (!p->serial && runs < MANY_RUNS) {
        int64_t wanted = (MANY_RUNS + runs - 1) / runs;
        p->segment_length = (p->run_length + wanted - 1) / wanted;
        if (p->segment_length < 4) p->segment_length = p->run_length < 4 ? p->run_length : 4;
        p->segments = (p->run_length + p->segment_length - 1) / p->segment_length;
    }
    p->combine = p->combine || p->segments > 1;
    p->at_once = p->run_length == 1 && !p->combine;
    p->items = runs * p->segments;
}

/* ---- all of it ---------------------------------------------------------------------------------------------------------- */

static tn_status allocate(builder *b)
{
    tn_tile_program *p = b->p;
    size_t operands = (size_t)p->operand_count + 1, calls = MOST_CALLS + operands;
    p->place = tn_arena_array(&p->arena, MOST_VALUES, sizeof *p->place);
    p->move = tn_arena_array(&p->arena, TN_TILE_MOST_LOOPS, sizeof *p->move);
    p->advance = tn_arena_array(&p->arena, TN_TILE_MOST_LOOPS, sizeof *p->advance);
    p->direct = tn_arena_array(&p->arena, operands, sizeof *p->direct);
    p->source = tn_arena_array(&p->arena, operands, sizeof *p->source);
    p->spread = tn_arena_array(&p->arena, MOST_VALUES, sizeof *p->spread);
    p->action = tn_arena_array(&p->arena, calls, sizeof *p->action);
    p->hazard = tn_arena_array(&p->arena, operands * TN_MAX_RESULTS, sizeof *p->hazard);
    if (!p->place || !p->move || !p->advance || !p->direct || !p->source || !p->spread || !p->action || !p->hazard) return TN_MEMORY;
    for (int v = 0; v < MOST_VALUES; v++) p->place[v].offset = -1;
    return TN_OK;
}

static tn_status build(builder *b, int64_t most, double elements)
{
    tn_tile_program *p = b->p;
    TN_TRY(allocate(b));
    tile_space_cut(&b->space, most, p);
    count_uses(b);
    classify_values(b);
    TN_TRY(build_calls(b));
    choose_forms(b);
    find_last_uses(b);
    double *constants = tn_arena_array(&p->arena, MOST_VALUES, sizeof *constants);
    if (!constants) return TN_MEMORY;
    for (int v = 0; v < b->value_count; v++) {
        if (v < b->input_count && b->last_use[v] >= 0) plan_input(b, v);
        if (b->is_constant[v]) plan_constant(b, v, &constants[v]);
    }
    TN_TRY(assign_registers(b));
    TN_TRY(plan_targets(b));
    plan_folds(b);
    p->value_count = b->value_count;
    lay_out_area(b);
    divide_work(b, elements);
    return TN_OK;
}

/* Sums are 0, means not a number, maxima and minima the ends of the line. */
static void plan_empty(builder *b)
{
    for (int r = 0; r < b->a->output_count; r++) {
        tn_op_id id = (tn_op_id)b->output[r].reduction;
        double value = id == TN_OP_MEAN ? (double)NAN : id == TN_OP_MAX ? -HUGE_VAL : id == TN_OP_MIN ? HUGE_VAL : 0;
        if (id)
            b->p->fold[b->p->fold_count++] = (tile_fold){.operand = (int16_t)(b->input_count + r), .dtype = b->step->out[r].dtype, .scale = value,
                                                         .class = class_of(b->step->out[r].dtype)};
    }
}

static void free_program(tn_tile_program *p)
{
    if (!p) return;
    tn_arena_free(&p->arena);
    free(p);
}

static tn_status start(builder *b, const tn_step *step, const tn_fused_attribute *a, const tn_tile_set *set)
{
    *b = (builder){.step = step, .a = a, .instruction = tn_fused_instructions(a), .output = tn_fused_outputs(a), .set = set,
                   .input_count = a->input_count, .first_result = a->input_count + a->constant_count};
    b->value_count = b->first_result + a->instruction_count;
    b->p = calloc(1, sizeof *b->p);
    b->call = calloc(MOST_CALLS, sizeof *b->call);
    if (!b->p || !b->call) return out_of_memory();
    b->p->input_count = a->input_count;
    b->p->operand_count = a->input_count + a->output_count;
    return TN_OK;
}

static bool within_limits(const tn_fused_attribute *a)
{
    return a->input_count <= TN_FUSED_MOST_INPUTS && a->constant_count <= TN_FUSED_MOST_CONSTANTS &&
           a->instruction_count <= TN_FUSED_MOST_INSTRUCTIONS && a->output_count <= TN_MAX_RESULTS;
}

tn_status tn_tile_prepare(tn_step *step, const tn_fused_attribute *a, const tn_tile_set *set)
{
    if (!within_limits(a)) return tn_fail(TN_UNSUPPORTED, "an element-wise program of %d instructions is too long", a->instruction_count);
    double elements = 1;
    for (int d = 0; d < a->rank; d++) elements *= (double)a->dim[d];
    builder *b = malloc(sizeof *b);
    if (!b) return out_of_memory();
    tn_status status = TN_OK;
    /* A thousand elements spread the cost of a call thin, and about eight registers of them still fit in L1. */
    for (int64_t most = 1024; most >= 32; most /= 2) {
        status = start(b, step, a, set);
        if (status == TN_OK) {
            tile_space_describe(&b->space, step, a);
            b->p->empty = elements == 0;
            if (b->p->empty)
                plan_empty(b);
            else
                status = build(b, most, elements);
        }
        free(b->call);
        bool fits = b->p && b->p->area <= (most > 512 ? 40 * 1024 : TN_TILE_LARGE_AREA);
        if (status != TN_OK || fits) break;
        free_program(b->p);
        b->p = NULL;
    }
    tn_tile_program *p = b->p;
    free(b);
    if (status == TN_OK && !p) status = tn_fail(TN_UNSUPPORTED, "an element-wise program needs too many registers");
    if (status != TN_OK) {
        free_program(p);
        return status == TN_MEMORY ? out_of_memory() : status;
    }
    if (p->combine) step->workspace = (size_t)(p->items * p->fold_count * p->most_kept) * 8;
    step->prepared = p;
    return TN_OK;
}

void tn_tile_release(tn_step *step)
{
    free_program(step->prepared);
    step->prepared = NULL;
}

tn_status tn_tile_prepare_op(tn_step *step, const tn_tile_set *set)
{
    _Alignas(8) unsigned char memory[sizeof(tn_fused_attribute) + sizeof(tn_fused_instruction) + sizeof(tn_fused_output)] = {0};
    tn_fused_attribute *a = (void *)memory;
    tn_op_id op = step->op->id;
    bool reduces = tn_is_reduction(op);
    const tn_operand *space = reduces ? &step->in[0] : &step->out[0];
    a->rank = space->rank;
    for (int d = 0; d < a->rank; d++) a->dim[d] = space->dim[d];
    a->input_count = step->in_count;
    a->output_count = 1;
    tn_dtype from = step->in[0].dtype, to = step->out[0].dtype;
    tn_fused_instruction f = {.op = (int32_t)op, .dtype = (int32_t)to, .operand_dtype = (int32_t)from, .operand = {0, -1, -1}};
    if (!reduces) {
        const tn_scalar_attribute *scalars = op == TN_OP_CAST ? NULL : step->attribute;
        for (int i = 1; i < step->in_count; i++) f.operand[i] = i;
        if (scalars) f.a = scalars->a, f.b = scalars->b;
        a->instruction_count = 1;
    } else {
        a->axes = ((const tn_reduce_attribute *)step->attribute)->axes;
        a->instruction_count = from != to; /* sums of integers and bools are i64 */
        f.op = TN_OP_CAST;
    }
    if (a->instruction_count) memcpy((void *)(uintptr_t)tn_fused_instructions(a), &f, sizeof f);
    tn_fused_output output = {.value = a->instruction_count ? a->input_count : 0, .reduction = reduces ? (int32_t)op : 0};
    memcpy((void *)(uintptr_t)tn_fused_outputs(a), &output, sizeof output);
    return tn_tile_prepare(step, a, set);
}

/* ---- layouts -------------------------------------------------------------------------------------------------------------- */

static bool is_channels_last(const tn_operand *x)
{
    if (x->rank < 3 || x->dim[1] == 1) return false;
    int64_t stride = x->dim[1];
    if (x->stride[1] != 1) return false;
    for (int i = x->rank - 1; i >= 0; i--) {
        if (i == 1) continue;
        if (x->dim[i] != 1 && x->stride[i] != stride) return false;
        stride *= x->dim[i];
    }
    return stride > x->dim[1]; /* with one position both orders are the same */
}

void tn_tile_layouts(const tn_step *step, tn_layout *in, tn_layout *out)
{
    const tn_fused_attribute *a = step->op->id == TN_OP_FUSED ? step->attribute : NULL;
    tn_shape space = {.rank = step->out[0].rank};
    for (int d = 0; d < space.rank; d++) space.dim[d] = a ? 0 : step->out[0].dim[d];
    if (a) {
        space.rank = a->rank;
        for (int d = 0; d < a->rank; d++) space.dim[d] = a->dim[d];
    }
    int64_t last = 0, rows = 0; /* bytes of full-size inputs in each order */
    for (int i = 0; i < step->in_count; i++) {
        const tn_operand *x = &step->in[i];
        in[i] = TN_ANY;
        bool full = x->rank == space.rank;
        for (int d = 0; d < space.rank && full; d++) full = x->dim[d] == space.dim[d] && (x->dim[d] == 1 || x->stride[d] != 0);
        if (full) *(is_channels_last(x) ? &last : &rows) += (int64_t)tn_dtype_size(x->dtype);
    }
    for (int r = 0; r < step->out_count; r++) {
        bool whole = a ? !tn_fused_outputs(a)[r].reduction : !tn_is_reduction(step->op->id);
        out[r] = whole && last > rows ? TN_CHANNELS_LAST : TN_ROWS;
    }
}
