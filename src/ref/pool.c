/* Pooling, by its definition: one window after the other. */
#include <math.h>
#include <string.h>

#include "graph/kernel.h"

void tn_ref_pool(tn_kernel_table *table);

/* Sizes with absent spatial dimensions as 1. `planes` is B * C. */
typedef struct sizes {
    const tn_pool_geometry *g;
    int64_t planes, S[3], O[3];
} sizes;

static sizes sizes_of(const tn_step *step, const tn_operand *x, const tn_operand *y)
{
    sizes s = {.g = &((const tn_pool_attribute *)step->attribute)->geometry,
               .planes = x->dim[0] * x->dim[1]};
    for (int i = 0; i < 3; i++) {
        s.S[i] = i + 2 < x->rank ? x->dim[i + 2] : 1;
        s.O[i] = i + 2 < y->rank ? y->dim[i + 2] : 1;
    }
    return s;
}

/* What is done with a window of one plane; `cell` maps a cell of the window to an element of the
 * plane, or -1 for padding. */
typedef struct window {
    int64_t cells, inside;
    const int64_t *cell;
} window;

typedef void visit(const window *w, double *x, double *y, double *place, bool count_padding);

static int64_t cell_of(const sizes *s, const int64_t *o, int64_t flat)
{
    const tn_pool_geometry *g = s->g;
    int64_t k[3] = {flat / g->kernel[2] / g->kernel[1], flat / g->kernel[2] % g->kernel[1],
                    flat % g->kernel[2]},
            at = 0;
    for (int i = 0; i < 3; i++) {
        int64_t p = o[i] * g->stride[i] - g->pad_before[i] + k[i];
        if (p < 0 || p >= s->S[i]) return -1;
        at = at * s->S[i] + p;
    }
    return at;
}

/* The window's cells are listed in `cell`, which has room for all of them. */
static void for_each_window(const sizes *s, double *x, double *y, double *place, int64_t *cell,
                            visit *each)
{
    int64_t cells = s->g->kernel[0] * s->g->kernel[1] * s->g->kernel[2],
            size = s->S[0] * s->S[1] * s->S[2], at = 0;
    for (int64_t p = 0; p < s->planes; p++)
        for (int64_t o0 = 0; o0 < s->O[0]; o0++)
            for (int64_t o1 = 0; o1 < s->O[1]; o1++)
                for (int64_t o2 = 0; o2 < s->O[2]; o2++, at++) {
                    window w = {.cells = cells, .cell = cell};
                    for (int64_t k = 0; k < cells; k++) {
                        cell[k] = cell_of(s, (const int64_t[]){o0, o1, o2}, k);
                        w.inside += cell[k] >= 0;
                    }
                    each(&w, x + p * size, y + at, place ? place + at : NULL, s->g->count_padding);
                }
}

static void zero(double *x, const tn_operand *like)
{
    int64_t size = tn_operand_size(like);
    if (size > 0) memset(x, 0, (size_t)size * sizeof *x);
}

static void maximum(const window *w, double *x, double *y, double *place, bool count_padding)
{
    (void)count_padding;
    *place = -1;
    for (int64_t k = 0; k < w->cells; k++) {
        if (w->cell[k] < 0) continue;
        double v = x[w->cell[k]];
        if (*place >= 0 && !(v > *y || (isnan(v) && !isnan(*y)))) continue;
        *y = v;
        *place = (double)k;
    }
}

static void scatter(const window *w, double *x, double *y, double *place, bool count_padding)
{
    (void)count_padding;
    x[w->cell[(int64_t)*place]] += *y;
}

static void take(const window *w, double *x, double *y, double *place, bool count_padding)
{
    (void)count_padding;
    *y = x[w->cell[(int64_t)*place]];
}

static void mean(const window *w, double *x, double *y, double *place, bool count_padding)
{
    (void)place;
    double sum = 0;
    for (int64_t k = 0; k < w->cells; k++)
        if (w->cell[k] >= 0) sum += x[w->cell[k]];
    *y = sum / (double)(count_padding ? w->cells : w->inside);
}

static void spread(const window *w, double *x, double *y, double *place, bool count_padding)
{
    (void)place;
    for (int64_t k = 0; k < w->cells; k++)
        if (w->cell[k] >= 0) x[w->cell[k]] += *y / (double)(count_padding ? w->cells : w->inside);
}

static tn_status prepare(tn_step *step)
{
    const tn_pool_geometry *g = &((const tn_pool_attribute *)step->attribute)->geometry;
    step->workspace = (size_t)(g->kernel[0] * g->kernel[1] * g->kernel[2]) * sizeof(int64_t);
    return TN_OK;
}

static tn_status max_pool_run(const tn_step *step, void *const *in, void *const *out,
                              void *workspace)
{
    sizes s = sizes_of(step, &step->in[0], &step->out[0]);
    for_each_window(&s, in[0], out[0], out[1], workspace, maximum);
    return TN_OK;
}

static tn_status max_pool_grad_run(const tn_step *step, void *const *in, void *const *out,
                                   void *workspace)
{
    sizes s = sizes_of(step, &step->out[0], &step->in[0]);
    zero(out[0], &step->out[0]);
    for_each_window(&s, out[0], in[0], in[1], workspace, scatter);
    return TN_OK;
}

static tn_status max_pool_take_run(const tn_step *step, void *const *in, void *const *out,
                                   void *workspace)
{
    sizes s = sizes_of(step, &step->in[0], &step->out[0]);
    for_each_window(&s, in[0], out[0], in[1], workspace, take);
    return TN_OK;
}

static tn_status average_pool_run(const tn_step *step, void *const *in, void *const *out,
                                  void *workspace)
{
    sizes s = sizes_of(step, &step->in[0], &step->out[0]);
    for_each_window(&s, in[0], out[0], NULL, workspace, mean);
    return TN_OK;
}

static tn_status average_pool_grad_run(const tn_step *step, void *const *in, void *const *out,
                                       void *workspace)
{
    sizes s = sizes_of(step, &step->out[0], &step->in[0]);
    zero(out[0], &step->out[0]);
    for_each_window(&s, out[0], in[0], NULL, workspace, spread);
    return TN_OK;
}

void tn_ref_pool(tn_kernel_table *table)
{
    static const tn_kernel max_pool = {.prepare = prepare, .run = max_pool_run},
                           max_pool_grad = {.prepare = prepare, .run = max_pool_grad_run},
                           max_pool_take = {.prepare = prepare, .run = max_pool_take_run},
                           average_pool = {.prepare = prepare, .run = average_pool_run},
                           average_pool_grad = {.prepare = prepare, .run = average_pool_grad_run};
    table->kernel[TN_OP_MAX_POOL] = &max_pool;
    table->kernel[TN_OP_MAX_POOL_GRAD] = &max_pool_grad;
    table->kernel[TN_OP_MAX_POOL_TAKE] = &max_pool_take;
    table->kernel[TN_OP_AVERAGE_POOL] = &average_pool;
    table->kernel[TN_OP_AVERAGE_POOL_GRAD] = &average_pool_grad;
}
