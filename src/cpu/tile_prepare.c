/* From a FUSED attribute, or one operation, to a program of the tile engine. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/tile_builder.h"

static tn_status out_of_memory(void)
{
    return tn_fail(TN_MEMORY, "out of memory while preparing an element-wise kernel");
}

/* ---- work -------------------------------------------------------------------------------- */

/* Rough nanoseconds for one element. */
static double cost_of(tn_op_id op, tn_dtype dtype)
{
    double each;
    switch (op) {
    case TN_OP_EXP:
    case TN_OP_LOG:
    case TN_OP_LOG1P:
    case TN_OP_EXPM1:
    case TN_OP_SIN:
    case TN_OP_COS:
    case TN_OP_TANH:
    case TN_OP_ERF:
    case TN_OP_SIGMOID:
    case TN_OP_SOFTPLUS:
    case TN_OP_GELU:
    case TN_OP_GELU_TANH:
    case TN_OP_SILU:
    case TN_OP_GELU_GRAD:
    case TN_OP_GELU_TANH_GRAD:
    case TN_OP_SILU_GRAD: each = 0.5; break;
    case TN_OP_POW:
    case TN_OP_POWER: each = 2; break;
    case TN_OP_MOD: each = 10; break;
    default: each = 0.05; break;
    }
    return tile_class_of(dtype) == TN_TILE_F32 ? each : 4 * each;
}

#define SERIAL_NANOSECONDS 12000 /* below, waking the other threads costs more than they save */
#define MANY_RUNS 32

static void divide_work(tile_builder *b, double elements)
{
    tn_tile_program *p = b->p;
    double each = 0.05 * (b->input_count + b->a->output_count);
    for (int k = 0; k < b->a->instruction_count; k++)
        each += cost_of((tn_op_id)b->instruction[k].op, (tn_dtype)b->instruction[k].operand_dtype);
    p->serial = p->tiles < 2 || elements * each < SERIAL_NANOSECONDS;
    p->segments = 1;
    p->segment_length = p->run_length;
    p->items = p->tiles;
    if (!p->fold_count) return;
    int64_t runs = p->tiles / p->run_length;
    if (!p->serial && runs < MANY_RUNS) {
        int64_t wanted = (MANY_RUNS + runs - 1) / runs;
        int64_t shortest = 4 + 16 * p->most_kept /
                                   p->most; /* or else partial results are most of the traffic */
        p->segment_length = (p->run_length + wanted - 1) / wanted;
        if (p->segment_length < shortest)
            p->segment_length = shortest < p->run_length ? shortest : p->run_length;
        p->segments = (p->run_length + p->segment_length - 1) / p->segment_length;
    }
    p->combine = p->combine || p->segments > 1;
    p->at_once = p->run_length == 1 && !p->combine;
    p->items = runs * p->segments;
}

/* ---- all of it --------------------------------------------------------------------------- */

static tn_status build(tile_builder *b, int64_t most, double elements)
{
    tile_space_cut(&b->space, most, b->p);
    TN_TRY(tile_plan_calls(b));
    TN_TRY(tile_plan_registers(b));
    divide_work(b, elements);
    return TN_OK;
}

/* Sums are 0, means not a number, maxima and minima the ends of the line. */
static void plan_empty(tile_builder *b)
{
    for (int r = 0; r < b->a->output_count; r++) {
        tn_op_id id = (tn_op_id)b->output[r].reduction;
        double value = id == TN_OP_MEAN  ? (double)NAN
                       : id == TN_OP_MAX ? -HUGE_VAL
                       : id == TN_OP_MIN ? HUGE_VAL
                                         : 0;
        if (id)
            b->p->fold[b->p->fold_count++] = (tile_fold){
                .operand = (int16_t)(b->input_count + r),
                .dtype = b->step->out[r].dtype,
                .scale = value,
                .class = tile_class_of(b->step->out[r].dtype)};
    }
}

static void start(tile_builder *b, const tn_step *step, const tn_fused_attribute *a,
                  const tn_tile_set *set)
{
    memset(b, 0, sizeof *b);
    b->step = step, b->a = a, b->set = set, b->p = &b->program;
    b->instruction = tn_fused_instructions(a);
    b->output = tn_fused_outputs(a);
    b->input_count = a->input_count;
    b->first_result = a->input_count + a->constant_count;
    b->value_count = b->first_result + a->instruction_count;
    for (int v = 0; v < TN_TILE_MOST_VALUES; v++) b->place[v].offset = -1;
    for (int i = 0; i < b->input_count; i++) b->source_of[i] = -1;
    b->program = (tn_tile_program){.input_count = a->input_count,
                                   .operand_count = a->input_count + a->output_count,
                                   .place = b->place,
                                   .constant = b->constants,
                                   .move = b->move,
                                   .advance = b->advance,
                                   .direct = b->direct,
                                   .source = b->source,
                                   .spread = b->spread,
                                   .action = b->action,
                                   .target = b->target,
                                   .hazard = b->hazard,
                                   .fold = b->fold};
}

/* Moves `count` elements to the end of the allocation, when there is one, and counts the bytes. */
static void *moved(const void *from, int count, size_t size, unsigned char *memory, size_t *used)
{
    size_t bytes = (size_t)count * size;
    void *to = memory ? memory + *used : NULL;
    if (to && bytes) memcpy(to, from, bytes);
    *used += (bytes + 15) / 16 * 16;
    return to;
}

/* The program in one allocation of just its size: long plans hold very many. Called twice, first
 * to count (`memory` NULL). */
static size_t compact(const tn_tile_program *p, unsigned char *memory)
{
    tn_tile_program q = *p;
    size_t used = (sizeof q + 15) / 16 * 16;
    int moves = p->loop_count * p->operand_count;
    q.place = moved(p->place, p->value_count, sizeof *p->place, memory, &used);
    q.constant = moved(p->constant, p->constant_count, sizeof *p->constant, memory, &used);
    q.move = moved(p->move, moves, sizeof *p->move, memory, &used);
    q.advance = moved(p->advance, moves, sizeof *p->advance, memory, &used);
    q.direct = moved(p->direct, p->direct_count, sizeof *p->direct, memory, &used);
    q.source = moved(p->source, p->source_count, sizeof *p->source, memory, &used);
    q.spread = moved(p->spread, p->spread_count, sizeof *p->spread, memory, &used);
    q.action = moved(p->action, p->action_count, sizeof *p->action, memory, &used);
    q.target = moved(p->target, p->target_count, sizeof *p->target, memory, &used);
    q.hazard = moved(p->hazard, p->hazard_count, sizeof *p->hazard, memory, &used);
    q.fold = moved(p->fold, p->fold_count, sizeof *p->fold, memory, &used);
    if (!memory) return used;
    for (int v = 0; v < p->value_count; v++)
        if (p->place[v].constant)
            q.place[v].constant = q.constant + ((const double *)p->place[v].constant - p->constant);
    for (int i = 0; i < p->spread_count; i++)
        q.spread[i].from = q.constant + ((const double *)p->spread[i].from - p->constant);
    memcpy(memory, &q, sizeof q);
    return used;
}

static bool within_limits(const tn_fused_attribute *a)
{
    return a->input_count <= TN_FUSED_MOST_INPUTS && a->constant_count <= TN_FUSED_MOST_CONSTANTS &&
           a->instruction_count <= TN_FUSED_MOST_INSTRUCTIONS && a->output_count <= TN_MAX_RESULTS;
}

/* A thousand elements spread the cost of a call thin, and about eight registers of them still
 * fit in L1. Fewer where more is needed. */
static tn_status build_to_fit(tile_builder *b, const tn_step *step, const tn_fused_attribute *a,
                              const tn_tile_set *set)
{
    double elements = 1;
    for (int d = 0; d < a->rank; d++) elements *= (double)a->dim[d];
    for (int64_t most = 1024; most >= 32; most /= 2) {
        start(b, step, a, set);
        tile_space_describe(&b->space, step, a);
        if (elements == 0) {
            b->p->empty = true;
            plan_empty(b);
            return TN_OK;
        }
        TN_TRY(build(b, most, elements));
        if (b->p->area <= (most > 512 ? 40 * 1024 : TN_TILE_LARGE_AREA)) return TN_OK;
    }
    return tn_fail(TN_UNSUPPORTED, "an element-wise program needs too many registers");
}

tn_status tn_tile_prepare(tn_step *step, const tn_fused_attribute *a, const tn_tile_set *set)
{
    if (!within_limits(a))
        return tn_fail(TN_UNSUPPORTED, "an element-wise program of %d instructions is too long",
                       a->instruction_count);
    tile_builder *b = malloc(sizeof *b);
    tn_status status = b ? build_to_fit(b, step, a, set) : out_of_memory();
    if (status == TN_OK) {
        step->prepared = malloc(compact(b->p, NULL));
        if (step->prepared) compact(b->p, step->prepared);
        else status = out_of_memory();
        if (b->p->combine)
            step->workspace = (size_t)(b->p->items * b->p->fold_count * b->p->most_kept) * 8;
    }
    free(b);
    return status;
}

void tn_tile_release(tn_step *step)
{
    free(step->prepared);
    step->prepared = NULL;
}

tn_status tn_tile_prepare_op(tn_step *step, const tn_tile_set *set)
{
    _Alignas(8) unsigned char memory[sizeof(tn_fused_attribute) + sizeof(tn_fused_instruction) +
                                     sizeof(tn_fused_output)] = {0};
    tn_fused_attribute *a = (void *)memory;
    tn_op_id op = step->op->id;
    bool reduces = tn_is_reduction(op);
    const tn_operand *space = reduces ? &step->in[0] : &step->out[0];
    a->rank = space->rank;
    for (int d = 0; d < a->rank; d++) a->dim[d] = space->dim[d];
    a->input_count = step->in_count;
    a->output_count = 1;
    tn_dtype from = step->in[0].dtype, to = step->out[0].dtype;
    tn_fused_instruction f = {.op = (int32_t)op,
                              .dtype = (int32_t)to,
                              .operand_dtype = (int32_t)from,
                              .operand = {0, -1, -1}};
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
    tn_fused_output output = {.value = a->instruction_count ? a->input_count : 0,
                              .reduction = reduces ? (int32_t)op : 0};
    memcpy((void *)(uintptr_t)tn_fused_outputs(a), &output, sizeof output);
    return tn_tile_prepare(step, a, set);
}

/* ---- layouts ----------------------------------------------------------------------------- */

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

static bool is_whole(const tn_operand *x, tn_shape space)
{
    bool whole = x->rank == space.rank;
    for (int d = 0; d < space.rank && whole; d++)
        whole = x->dim[d] == space.dim[d] && (x->dim[d] == 1 || x->stride[d] != 0);
    return whole;
}

/* Large, and every element read would be in another cache line than the one before: cheaper to
 * be copied first. */
static bool goes_across_lines(const tn_operand *x, bool last)
{
    size_t size = tn_dtype_size(x->dtype);
    int inner = last && x->dim[1] > 1 ? 1 : x->rank - 1;
    while (inner > 0 && x->dim[inner] == 1) inner--;
    return x->rank > 0 && x->stride[inner] * (int64_t)size >= 64 && x->dim[inner] > 4 &&
           tn_operand_size(x) * (int64_t)size > 1 << 17;
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
        if (is_whole(x, space))
            *(is_channels_last(x) ? &last : &rows) += (int64_t)tn_dtype_size(x->dtype);
    }
    bool stores = false, by_channels = last > rows;
    for (int r = 0; r < step->out_count; r++) {
        bool whole = a ? !tn_fused_outputs(a)[r].reduction : !tn_is_reduction(step->op->id);
        out[r] = whole && by_channels ? TN_CHANNELS_LAST : TN_ROWS;
        stores = stores || whole;
    }
    for (int i = 0; i < step->in_count; i++) {
        bool copied = stores && is_whole(&step->in[i], space) &&
                      goes_across_lines(&step->in[i], by_channels);
        in[i] = !copied ? TN_ANY : by_channels ? TN_CHANNELS_LAST : TN_ROWS;
    }
}
