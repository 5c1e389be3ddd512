/* fuse: element-wise operations over the same shape, and the reductions behind them, become
 * FUSED nodes. */
#include <math.h>
#include <stdlib.h>

#include "base/half.h"
#include "graph/fusion.h"

/* ---- what nodes are ---------------------------------------------------------------------- */

int32_t tn_fusion_source(const tn_fusion *f, int32_t id)
{
    for (;;) {
        id = f->same[id];
        if (f->graph->value[id]->op->id != TN_OP_BROADCAST && !f->transparent[id]) return id;
        id = f->graph->value[id]->in[0];
    }
}

tn_shape tn_fusion_space(const tn_fusion *f, int32_t id)
{
    const tn_value *v = f->graph->value[id];
    return tn_fusion_is_fold(v) ? f->graph->value[v->in[0]]->shape : v->shape;
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
    case TN_I64:
        *x = (double)*(const int64_t *)bytes;
        return *(const int64_t *)bytes < 1ll << 53 && *(const int64_t *)bytes > -(1ll << 53);
    default: *x = *(const uint8_t *)bytes; return true;
    }
}

/* A value that is one number, known now. */
bool tn_fusion_is_immediate(const tn_fusion *f, int32_t id, double *x)
{
    const tn_value *v = f->graph->value[id];
    if (v->op->id == TN_OP_FILL) {
        *x = as_held(v->dtype, ((const tn_fill_attribute *)v->attribute)->value);
        return true;
    }
    return v->op->id == TN_OP_CONSTANT && tn_shape_size(v->shape) == 1 && scalar_constant(v, x);
}

int32_t tn_fusion_find(tn_fusion *f, int32_t g)
{
    while (g >= 0 && f->groups[g].parent >= 0) {
        int32_t up = f->groups[g].parent;
        if (f->groups[up].parent >= 0) f->groups[g].parent = f->groups[up].parent;
        g = up;
    }
    return g;
}

int32_t tn_fusion_group_of(tn_fusion *f, int32_t id) { return tn_fusion_find(f, f->group_of[id]); }

/* ---- what is looked through ------------------------------------------------------------ */

static bool is_widening(const tn_fusion *f, int32_t id)
{
    const tn_value *v = f->graph->value[id];
    return v->op->id == TN_OP_CAST && tn_dtype_is_float(v->dtype) &&
           tn_dtype_size(f->graph->value[v->in[0]]->dtype) < tn_dtype_size(v->dtype);
}

/* A widening cast is cheaper done again by each reader than stored once and read by all, if they
 * are all members over its shape. */
static void find_transparent(tn_fusion *f)
{
    for (int32_t id = 1; id < f->graph->count; id++) {
        const tn_value *v = f->graph->value[id];
        f->same[id] = tn_fusion_is_identity(v->op->id) ? f->same[v->in[0]] : id;
        f->transparent[id] = is_widening(f, id);
    }
    for (int32_t id = 1; id < f->graph->count; id++) {
        const tn_value *v = f->graph->value[id];
        if (tn_fusion_is_identity(v->op->id)) continue;
        for (int i = 0; i < v->in_count; i++) {
            int32_t from = f->same[v->in[i]];
            if (!tn_fusion_is_member(v) ||
                !tn_shape_equal(tn_fusion_space(f, id), f->graph->value[from]->shape))
                f->transparent[from] = false;
        }
    }
    for (int i = 0; i < f->program->root_count; i++)
        if (f->program->root[i]) f->transparent[f->same[f->program->root[i]]] = false;
}

/* ---- the pass ---------------------------------------------------------------------------- */

tn_status tn_pass_fuse(tn_program *program)
{
    tn_fusion f = {.program = program, .graph = program->graph};
    TN_TRY(tn_rewrite_begin(&f.rewrite, program));
    size_t n = (size_t)f.graph->count;
    tn_arena arena = {0};
    f.same = tn_arena_array(&arena, n, sizeof *f.same);
    f.transparent = tn_arena_array(&arena, n, sizeof *f.transparent);
    f.group_of = tn_arena_array(&arena, n, sizeof *f.group_of);
    f.reach = tn_arena_array(&arena, n, sizeof *f.reach);
    f.last_reader = tn_arena_array(&arena, n, sizeof *f.last_reader);
    f.unit = tn_arena_array(&arena, n, sizeof *f.unit);
    f.number = tn_arena_array(&arena, n, sizeof *f.number);
    f.cast_in = tn_arena_array(&arena, n, sizeof *f.cast_in);
    f.fused = tn_arena_array(&arena, n, sizeof *f.fused);
    f.needed = tn_arena_array(&arena, n, sizeof *f.needed);
    bool allocated = f.same && f.transparent && f.group_of && f.reach && f.last_reader && f.unit &&
                     f.number && f.cast_in && f.fused && f.needed;
    if (allocated) find_transparent(&f);
    tn_status status = allocated ? tn_fusion_form_groups(&f) : TN_MEMORY;
    if (status == TN_OK) status = tn_fusion_write(&f);
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
