/* Reductions: sums, means, maxima and minima are programs of the tile engine without
 * instructions; argmax and argmin go along their axis for many neighbours at once. */
#include <string.h>

#include "base/half.h"
#include "base/threads.h"
#include "cpu/simd/tile_set.h"

static tn_status prepare(tn_step *step)
{
    return tn_tile_prepare_op(step, TN_ISA(tn_tile_functions)());
}

static void layouts(const tn_step *step, tn_layout *in, tn_layout *out)
{
    (void)step;
    in[0] = TN_ANY;
    out[0] = TN_ROWS;
}

/* ---- argmax, argmin ---------------------------------------------------------------------- */

#define BLOCK 256 /* lines worked on together: their best values and indices fit in L1 */

/* x is seen as [outer, n, inner], rows. */
typedef struct arg_plan {
    const tn_tile_set *set;
    int64_t outer, n, inner;
    bool largest;
} arg_plan;

typedef struct arg_run {
    arg_plan plan;
    tn_dtype dtype;
    const unsigned char *x;
    int64_t *y;
} arg_run;

/* Folds x[0 .. count-1], each at index `at`, into the best so far. A NaN wins and stays. */
#define TAKE_BETTER(name, type, is_nan)                                                            \
    static void name(const type *x, int64_t count, int64_t at, bool largest, type *best,           \
                     int64_t *index)                                                               \
    {                                                                                              \
        for (int64_t k = 0; k < count; k++) {                                                      \
            bool better = largest ? x[k] > best[k] : x[k] < best[k];                               \
            better = (better || is_nan(x[k])) && !is_nan(best[k]);                                 \
            best[k] = better ? x[k] : best[k];                                                     \
            index[k] = better ? at : index[k];                                                     \
        }                                                                                          \
    }
#define IS_NAN(v) ((v) != (v))
#define NEVER(v) ((void)(v), false)
TAKE_BETTER(take_better_f32, float, IS_NAN)
TAKE_BETTER(take_better_f64, double, IS_NAN)
TAKE_BETTER(take_better_i64, int64_t, NEVER)

/* The best of `n` neighbours, in f32 that was loaded piece by piece. */
#define BEST_OF_LINE(name, type, is_nan)                                                           \
    static void name(const type *x, int64_t n, int64_t first, bool largest, type *best,            \
                     int64_t *index)                                                               \
    {                                                                                              \
        type b = *best;                                                                            \
        int64_t at = *index;                                                                       \
        for (int64_t i = 0; i < n && !is_nan(b); i++)                                              \
            if ((largest ? x[i] > b : x[i] < b) || is_nan(x[i])) b = x[i], at = first + i;         \
        *best = b;                                                                                 \
        *index = at;                                                                               \
    }
BEST_OF_LINE(best_of_line_f32, float, IS_NAN)
BEST_OF_LINE(best_of_line_f64, double, IS_NAN)
BEST_OF_LINE(best_of_line_i64, int64_t, NEVER)

static tn_tile_class class_of(tn_dtype dtype)
{
    return dtype == TN_F64                                ? TN_TILE_F64
           : tn_dtype_is_float(dtype) || dtype == TN_BOOL ? TN_TILE_F32
                                                          : TN_TILE_I64;
}

static void along_lines(const arg_run *r, tn_tile_load *load, tn_tile_class class, int64_t begin,
                        int64_t end)
{
    const arg_plan *p = &r->plan;
    _Alignas(64) unsigned char piece[8 * BLOCK], best[8];
    size_t size = tn_dtype_size(r->dtype);
    for (int64_t line = begin; line < end; line++) {
        const unsigned char *x = r->x + (size_t)(line * p->n) * size;
        int64_t index = 0;
        load(best, x, 1, 1);
        for (int64_t i = 0; i < p->n; i += BLOCK) {
            int64_t count = p->n - i < BLOCK ? p->n - i : BLOCK;
            load(piece, x + (size_t)i * size, count, 1);
            if (class == TN_TILE_F32)
                best_of_line_f32((void *)piece, count, i, p->largest, (void *)best, &index);
            else if (class == TN_TILE_F64)
                best_of_line_f64((void *)piece, count, i, p->largest, (void *)best, &index);
            else best_of_line_i64((void *)piece, count, i, p->largest, (void *)best, &index);
        }
        r->y[line] = index;
    }
}

/* Items are blocks of neighbours inside of the axis. */
static void across_lines(const arg_run *r, tn_tile_load *load, tn_tile_class class, int64_t begin,
                         int64_t end)
{
    const arg_plan *p = &r->plan;
    _Alignas(64) unsigned char row[8 * BLOCK], best[8 * BLOCK];
    size_t size = tn_dtype_size(r->dtype);
    int64_t blocks = (p->inner + BLOCK - 1) / BLOCK;
    for (int64_t item = begin; item < end; item++) {
        int64_t o = item / blocks, k = item % blocks * BLOCK,
                count = p->inner - k < BLOCK ? p->inner - k : BLOCK;
        const unsigned char *x = r->x + (size_t)(o * p->n * p->inner + k) * size;
        int64_t *index = r->y + o * p->inner + k;
        load(best, x, count, 1);
        memset(index, 0, (size_t)count * sizeof *index);
        for (int64_t i = 1; i < p->n; i++) {
            load(row, x + (size_t)(i * p->inner) * size, count, 1);
            if (class == TN_TILE_F32)
                take_better_f32((void *)row, count, i, p->largest, (void *)best, index);
            else if (class == TN_TILE_F64)
                take_better_f64((void *)row, count, i, p->largest, (void *)best, index);
            else take_better_i64((void *)row, count, i, p->largest, (void *)best, index);
        }
    }
}

static void arg_items(void *context, int64_t begin, int64_t end)
{
    const arg_run *r = context;
    tn_tile_class class = class_of(r->dtype);
    tn_tile_load *load = r->plan.set->load[r->dtype][class];
    (r->plan.inner == 1 ? along_lines : across_lines)(r, load, class, begin, end);
}

static tn_status arg_run_kernel(const tn_step *step, void *const *in, void *const *out,
                                void *workspace)
{
    (void)workspace;
    const tn_operand *x = &step->in[0];
    int axis = ((const tn_axis_attribute *)step->attribute)->axis;
    arg_run r = {.plan = {.set = TN_ISA(tn_tile_functions)(),
                          .outer = 1,
                          .n = x->dim[axis],
                          .inner = 1,
                          .largest = step->op->id == TN_OP_ARGMAX},
                 .dtype = x->dtype,
                 .x = in[0],
                 .y = out[0]};
    for (int i = 0; i < axis; i++) r.plan.outer *= x->dim[i];
    for (int i = axis + 1; i < x->rank; i++) r.plan.inner *= x->dim[i];
    int64_t items = r.plan.outer * (r.plan.inner == 1 ? 1 : (r.plan.inner + BLOCK - 1) / BLOCK);
    bool large = tn_operand_size(x) > 1 << 15;
    tn_parallel(items, large ? 1 : items + 1, arg_items, &r);
    return TN_OK;
}

void TN_ISA(tn_cpu_reduce)(tn_kernel_table *table);
void TN_ISA(tn_cpu_reduce)(tn_kernel_table *table)
{
    static const tn_kernel fold = {
        .layouts = layouts, .prepare = prepare, .run = tn_tile_run, .release = tn_tile_release};
    static const tn_kernel arg = {.run = arg_run_kernel};
    table->kernel[TN_OP_SUM] = table->kernel[TN_OP_MEAN] = table->kernel[TN_OP_MAX] =
        table->kernel[TN_OP_MIN] = &fold;
    table->kernel[TN_OP_ARGMAX] = table->kernel[TN_OP_ARGMIN] = &arg;
}
