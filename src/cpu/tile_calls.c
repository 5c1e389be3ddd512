/* From instructions to calls: classes, casts, multiply_add, and which operands are scalars. */
#include "cpu/tile_builder.h"

#include <math.h>

static void integer_range(tn_dtype dtype, int64_t range[2])
{
    range[0] = dtype == TN_I64   ? INT64_MIN
               : dtype == TN_I32 ? INT32_MIN
               : dtype == TN_I8  ? INT8_MIN
                                 : 0;
    range[1] = dtype == TN_I64   ? INT64_MAX
               : dtype == TN_I32 ? INT32_MAX
               : dtype == TN_I8  ? INT8_MAX
                                 : UINT8_MAX;
}

static tn_tile_scalars scalars_of(double x, double y)
{
    return (tn_tile_scalars){
        .f = {(float)x, (float)y}, .d = {x, y}, .i = {tile_saturated(x), tile_saturated(y)}};
}

/* ---- values and their uses --------------------------------------------------------------- */

static void count_uses(tile_builder *b)
{
    for (int k = 0; k < b->a->instruction_count; k++)
        for (int i = 0; i < 3; i++)
            if (b->instruction[k].operand[i] >= 0) b->inner_uses[b->instruction[k].operand[i]]++;
    for (int r = 0; r < b->a->output_count; r++) {
        int v = b->output[r].value;
        if (b->output[r].reduction) b->inner_uses[v]++;
        else b->stores[v]++;
    }
}

/* An integer input of which only the conversion to a float is wanted is converted while it is
 * loaded. */
static bool only_cast_to_float(const tile_builder *b, int input)
{
    if (b->stores[input]) return false;
    int casts = 0;
    for (int k = 0; k < b->a->instruction_count; k++)
        casts += b->instruction[k].op == TN_OP_CAST && b->instruction[k].operand[0] == input &&
                 b->instruction[k].dtype != TN_BOOL &&
                 tile_class_of((tn_dtype)b->instruction[k].dtype) == TN_TILE_F32;
    return casts == b->inner_uses[input];
}

static bool box_is_scalar(const tile_box *box) { return box->rank == 1 && box->stride[0] == 0; }

static void classify_values(tile_builder *b)
{
    for (int v = 0; v < TN_TILE_MOST_VALUES; v++) b->root[v] = (int16_t)v, b->merged[v] = -1;
    for (int i = 0; i < b->input_count; i++) {
        b->class[i] = tile_class_of(b->step->in[i].dtype);
        if (b->class[i] == TN_TILE_I64 && only_cast_to_float(b, i)) b->class[i] = TN_TILE_F32;
        tile_box box = tile_space_box(&b->space, i, b->p);
        b->scalar[i] = b->p->most > 1 && box_is_scalar(&box);
    }
    for (int i = 0; i < b->a->constant_count; i++) {
        int v = b->input_count + i;
        b->constant[v] = tn_fused_constants(b->a)[i].value;
        b->class[v] = tile_class_of((tn_dtype)tn_fused_constants(b->a)[i].dtype);
        b->is_constant[v] = b->scalar[v] = true;
    }
    for (int k = 0; k < b->a->instruction_count; k++)
        b->class[b->first_result + k] = tile_class_of((tn_dtype)b->instruction[k].dtype);
}

/* ---- calls ------------------------------------------------------------------------------- */

static tile_call *add_call(tile_builder *b, int out, tn_tile_function *const *form, int in_count)
{
    tile_call *c = &b->call[b->call_count++];
    *c = (tile_call){.form = form, .out = (int16_t)out, .in = {-1, -1, -1}, .in_count = in_count};
    return c;
}

static tile_call *add_cast(tile_builder *b, int out, int in, tn_tile_cast cast)
{
    tile_call *c = add_call(b, out, NULL, 1);
    c->alone[0] = b->set->cast[cast];
    c->in[0] = b->root[in];
    return c;
}

static void round_to(tile_builder *b, int v, tn_dtype dtype)
{
    if (dtype == TN_BF16 || dtype == TN_F16)
        add_cast(b, v, v, dtype == TN_BF16 ? TN_CAST_ROUND_BF16 : TN_CAST_ROUND_F16);
}

static bool integers_fit(tn_dtype from, tn_dtype to)
{
    int64_t inside[2], outside[2];
    integer_range(from, inside);
    integer_range(to, outside);
    return inside[0] >= outside[0] && inside[1] <= outside[1];
}

static void add_cast_calls(tile_builder *b, const tn_fused_instruction *f, int v)
{
    tn_dtype from = (tn_dtype)f->operand_dtype, to = (tn_dtype)f->dtype;
    int x = b->root[f->operand[0]];
    tn_tile_class source = b->class[x], target = b->class[v];
    bool seen = b->inner_uses[v] > 0; /* else the store rounds */
    if (target == TN_TILE_F32 && to == TN_BOOL && from != TN_BOOL) {
        add_cast(b, v, x,
                 source == TN_TILE_F32   ? TN_CAST_F32_BOOL
                 : source == TN_TILE_F64 ? TN_CAST_F64_BOOL
                                         : TN_CAST_I64_BOOL);
    } else if (target == TN_TILE_F32 && source == TN_TILE_F32) {
        bool exact = to == TN_F32 || to == from || from == TN_BOOL || !seen;
        if (exact) b->root[v] = (int16_t)x;
        else add_cast(b, v, x, to == TN_BF16 ? TN_CAST_ROUND_BF16 : TN_CAST_ROUND_F16);
    } else if (target == TN_TILE_F32) {
        add_cast(b, v, x, source == TN_TILE_F64 ? TN_CAST_F64_F32 : TN_CAST_I64_F32);
        if (seen) round_to(b, v, to);
    } else if (target == TN_TILE_F64) {
        if (source == TN_TILE_F64) b->root[v] = (int16_t)x;
        else add_cast(b, v, x, source == TN_TILE_F32 ? TN_CAST_F32_F64 : TN_CAST_I64_F64);
    } else if (source == TN_TILE_I64 && integers_fit(from, to)) {
        b->root[v] = (int16_t)x;
    } else {
        tile_call *c = add_cast(b, v, x,
                                source == TN_TILE_F32   ? TN_CAST_F32_I64
                                : source == TN_TILE_F64 ? TN_CAST_F64_I64
                                                        : TN_CAST_I64_I64);
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
    return op == TN_OP_NEG || op == TN_OP_ABS || op == TN_OP_SQUARE || op == TN_OP_ADD ||
           op == TN_OP_SUBTRACT || op == TN_OP_MULTIPLY || op == TN_OP_DIVIDE;
}

static tn_status add_row_call(tile_builder *b, const tn_fused_instruction *f, int v)
{
    tn_op_id op = (tn_op_id)f->op;
    tn_tile_class class = tile_class_of(
        (tn_dtype)(op == TN_OP_WHERE ? f->dtype : f->operand_dtype));
    const tn_tile_row *row = find_row(b->set, class, op);
    if (!row)
        return tn_fail(TN_UNSUPPORTED, "%s has no kernel for %s on the CPU", tn_op_find(op)->name,
                       tn_dtype_name((tn_dtype)f->operand_dtype));
    int count = 0;
    while (count < 3 && f->operand[count] >= 0) count++;
    tile_call *c = add_call(b, v, row->form, count);
    for (int i = 0; i < count; i++) c->in[i] = b->root[f->operand[i]];
    c->scalars = scalars_of(f->a, f->b);
    if (b->class[v] == TN_TILE_I64 && b->inner_uses[v] > 0 && may_overflow(op)) {
        if (f->dtype == TN_I32) add_cast(b, v, v, TN_CAST_WRAP_I32);
        if (f->dtype == TN_I8) add_cast(b, v, v, TN_CAST_WRAP_I8);
        if (f->dtype == TN_U8) add_cast(b, v, v, TN_CAST_WRAP_U8);
    }
    return TN_OK;
}

/* x * y + z in one call where the product has no other use: operand i of addition f is product
 * `t`. */
static bool is_product(const tile_builder *b, const tn_fused_instruction *f, int i)
{
    int t = f->operand[i];
    if (t < b->first_result || b->class[t] != TN_TILE_F32 || b->inner_uses[t] != 1 ||
        b->stores[t] || b->skipped[t])
        return false;
    const tn_fused_instruction *g = &b->instruction[t - b->first_result];
    bool scaled = g->op == TN_OP_AFFINE && g->b == 0;
    return f->op == TN_OP_ADD ? scaled || g->op == TN_OP_MULTIPLY
                              : f->op == TN_OP_SUBTRACT && i == 1 && scaled;
}

static void find_products(tile_builder *b)
{
    for (int k = 0; k < b->a->instruction_count; k++) {
        const tn_fused_instruction *f = &b->instruction[k];
        if (tile_class_of((tn_dtype)f->dtype) != TN_TILE_F32 ||
            (f->op != TN_OP_ADD && f->op != TN_OP_SUBTRACT))
            continue;
        int i = is_product(b, f, 1) ? 1 : is_product(b, f, 0) ? 0 : -1;
        if (i < 0) continue;
        b->merged[b->first_result + k] = (int16_t)f->operand[i];
        b->skipped[f->operand[i]] = true;
    }
}

static int new_constant(tile_builder *b, double x)
{
    int v = b->value_count++;
    b->class[v] = TN_TILE_F32;
    b->constant[v] = x;
    b->is_constant[v] = b->scalar[v] = true;
    return v;
}

static void add_multiply_add(tile_builder *b, const tn_fused_instruction *f, int v)
{
    int t = b->merged[v], other = f->operand[0] == t ? f->operand[1] : f->operand[0];
    const tn_fused_instruction *g = &b->instruction[t - b->first_result];
    int x = b->root[g->operand[0]], y;
    if (g->op == TN_OP_AFFINE) y = new_constant(b, f->op == TN_OP_SUBTRACT ? -g->a : g->a);
    else y = b->root[g->operand[1]];
    if (b->scalar[x] && !b->scalar[y]) {
        int swap = x;
        x = y, y = swap;
    }
    tile_call *c = add_call(b, v, b->set->multiply_add, 3);
    c->in[0] = (int16_t)x, c->in[1] = (int16_t)y, c->in[2] = b->root[other];
}

static tn_status build_calls(tile_builder *b)
{
    find_products(b);
    for (int k = 0; k < b->a->instruction_count; k++) {
        const tn_fused_instruction *f = &b->instruction[k];
        int v = b->first_result + k;
        if (b->skipped[v]) continue;
        if (f->op == TN_OP_CAST) add_cast_calls(b, f, v);
        else if (b->merged[v] >= 0) add_multiply_add(b, f, v);
        else TN_TRY(add_row_call(b, f, v));
    }
    return TN_OK;
}

/* ---- which operands are scalars ---------------------------------------------------------- */

static tn_tile_function *const *forms(const tile_call *c) { return c->form ? c->form : c->alone; }

static int bits_in(unsigned x) { return __builtin_popcount(x); }

/* The form with the most scalar operands among those that are. */
static unsigned best_form(const tile_call *c, unsigned scalars)
{
    unsigned best = 0;
    for (unsigned form = 1; form < TN_TILE_FORMS; form++)
        if ((form & ~scalars) == 0 && forms(c)[form] && bits_in(form) > bits_in(best)) best = form;
    return best;
}

/* A scalar that one call needs as a vector is a vector for all, which may change other calls'
 * forms: until nothing changes. */
static void choose_forms(tile_builder *b)
{
    for (int r = 0; r < b->a->output_count; r++) b->vector[b->root[b->output[r].value]] = true;
    for (bool changed = true; changed;) {
        changed = false;
        for (int k = 0; k < b->call_count; k++) {
            tile_call *c = &b->call[k];
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

tn_status tile_plan_calls(tile_builder *b)
{
    count_uses(b);
    classify_values(b);
    TN_TRY(build_calls(b));
    choose_forms(b);
    return TN_OK;
}
