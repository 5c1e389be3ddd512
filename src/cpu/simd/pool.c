/* Pooling over channels-last tensors: a vector is neighbouring channels of one position.
 * Compiled once per instruction set.
 *
 * The gradients gather instead of scattering: a position of x adds up the windows that cover it,
 * in order. So nothing is cleared first, nothing is written twice, and threads share the
 * positions. f64 runs on the reference kernels. */
#include <stdlib.h>

#include "base/status.h"
#include "base/threads.h"
#include "cpu/simd/float_lanes.h"
#include "graph/kernel.h"

void TN_ISA(tn_cpu_pool)(tn_kernel_table *table);

typedef tn_vec_bits places; /* of maxima in their windows */
typedef int8_t narrow_places __attribute__((vector_size(TN_VEC)));

/* x [B, S, C] and y [B, O, C]; spatial dimensions that do not exist are 1. */
typedef struct pool_plan {
    int64_t B, C, S[3], O[3], k[3], stride[3], before[3];
    bool count_padding;
    tn_dtype type, place_type;
} pool_plan;

typedef struct pool_run {
    const pool_plan *p;
    void *x, *y, *place; /* inputs and outputs alike */
} pool_run;

/* Positions [first, stop) of one dimension. */
typedef struct range {
    int64_t first, stop;
} range;

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Cells of window `o` that lie inside x. */
static range cells_of(const pool_plan *p, int d, int64_t o)
{
    int64_t start = o * p->stride[d] - p->before[d];
    return (range){larger(0, -start), smaller(p->k[d], p->S[d] - start)};
}

/* Windows that cover position `s`. */
static range windows_of(const pool_plan *p, int d, int64_t s)
{
    int64_t lowest = s + p->before[d] - p->k[d] + 1;
    return (range){lowest > 0 ? (lowest + p->stride[d] - 1) / p->stride[d] : 0,
                   smaller(p->O[d], (s + p->before[d]) / p->stride[d] + 1)};
}

/* The number that a window's sum is divided by. */
static float divisor(const pool_plan *p, const int64_t *o)
{
    int64_t count = 1;
    for (int d = 0; d < 3; d++) {
        range c = cells_of(p, d, o[d]);
        count *= p->count_padding ? p->k[d] : c.stop - c.first;
    }
    return (float)count;
}

TN_VEC_INLINE places load_places(const pool_plan *p, const void *place, int64_t at, int count)
{
    places out = {0};
    if (p->place_type == TN_I8) {
        narrow_places narrow = {0};
        if (count == TN_VEC) memcpy(&narrow, (const int8_t *)place + at, sizeof narrow);
        else
            for (int i = 0; i < count; i++) narrow[i] = ((const int8_t *)place)[at + i];
        out = __builtin_convertvector(narrow, places);
    } else if (count == TN_VEC) {
        memcpy(&out, (const int32_t *)place + at, sizeof out);
    } else {
        for (int i = 0; i < count; i++) out[i] = ((const int32_t *)place)[at + i];
    }
    return out;
}

TN_VEC_INLINE void store_places(const pool_plan *p, void *place, int64_t at, places x, int count)
{
    if (p->place_type == TN_I8) {
        narrow_places narrow = __builtin_convertvector(x, narrow_places);
        if (count == TN_VEC) memcpy((int8_t *)place + at, &narrow, sizeof narrow);
        else
            for (int i = 0; i < count; i++) ((int8_t *)place)[at + i] = narrow[i];
    } else if (count == TN_VEC) {
        memcpy((int32_t *)place + at, &x, sizeof x);
    } else {
        for (int i = 0; i < count; i++) ((int32_t *)place)[at + i] = x[i];
    }
}

/* ---- one vector of one output position ------------------------------------------------------- */

/* The window of y's position o, channels c ..: x's cells are visited in row-major order.
 * `image`: first element of the image in x. `count` lanes, a constant where all. */
#define FOR_CELLS(p, o, image, c)                                                                  \
    range r0_ = cells_of(p, 0, (o)[0]), r1_ = cells_of(p, 1, (o)[1]),                              \
          r2_ = cells_of(p, 2, (o)[2]);                                                            \
    for (int64_t k0 = r0_.first; k0 < r0_.stop; k0++)                                              \
        for (int64_t k1 = r1_.first; k1 < r1_.stop; k1++)                                          \
            for (int64_t k2 = r2_.first,                                                           \
                         cell = (image) +                                                          \
                                ((((o)[0] * (p)->stride[0] - (p)->before[0] + k0) * (p)->S[1] +    \
                                  (o)[1] * (p)->stride[1] - (p)->before[1] + k1) *                 \
                                     (p)->S[2] +                                                   \
                                 (o)[2] * (p)->stride[2] - (p)->before[2] + k2) *                  \
                                    (p)->C +                                                       \
                                (c),                                                               \
                         flat = (k0 * (p)->k[1] + k1) * (p)->k[2] + k2;                            \
                 k2 < r2_.stop; k2++, cell += (p)->C, flat++)

/* The windows that cover x's position s, in order. */
#define FOR_WINDOWS(p, s, image, c)                                                                \
    range r0_ = windows_of(p, 0, (s)[0]), r1_ = windows_of(p, 1, (s)[1]),                          \
          r2_ = windows_of(p, 2, (s)[2]);                                                          \
    for (int64_t o0 = r0_.first; o0 < r0_.stop; o0++)                                              \
        for (int64_t o1 = r1_.first; o1 < r1_.stop; o1++)                                          \
            for (int64_t                                                                           \
                     o2 = r2_.first,                                                               \
                     window = (image) + ((o0 * (p)->O[1] + o1) * (p)->O[2] + o2) * (p)->C + (c);   \
                 o2 < r2_.stop; o2++, window += (p)->C)

TN_VEC_INLINE void max_vector(const pool_run *r, const int64_t *o, int64_t image, int64_t at,
                              int64_t c, int count, tn_dtype type)
{
    tn_vec best = {0};
    places place = {0};
    bool any = false;
    FOR_CELLS(r->p, o, image, c)
    {
        tn_vec v = tn_vec_get(type, r->x, cell, count);
        if (any) {
            tn_vec_bits better = ~(v <= best) & (best == best); /* greater, or the first NaN */
            best = tn_vec_select(better, v, best);
            place = (better & (int32_t)flat) | (~better & place);
        } else {
            best = v;
            place = place + (int32_t)flat;
            any = true;
        }
    }
    tn_vec_put(type, r->y, at, best, count);
    store_places(r->p, r->place, at, place, count);
}

TN_VEC_INLINE void take_vector(const pool_run *r, const int64_t *o, int64_t image, int64_t at,
                               int64_t c, int count, tn_dtype type)
{
    places place = load_places(r->p, r->place, at, count);
    tn_vec y = {0};
    FOR_CELLS(r->p, o, image, c)
    y = tn_vec_select(place == (int32_t)flat, tn_vec_get(type, r->x, cell, count), y);
    tn_vec_put(type, r->y, at, y, count);
}

TN_VEC_INLINE void mean_vector(const pool_run *r, const int64_t *o, int64_t image, int64_t at,
                               int64_t c, int count, tn_dtype type)
{
    tn_vec sum = {0};
    FOR_CELLS(r->p, o, image, c)
    {
        (void)flat;
        sum += tn_vec_get(type, r->x, cell, count);
    }
    tn_vec_put(type, r->y, at, sum / divisor(r->p, o), count);
}

TN_VEC_INLINE void max_grad_vector(const pool_run *r, const int64_t *s, int64_t image, int64_t at,
                                   int64_t c, int count, tn_dtype type)
{
    const pool_plan *p = r->p;
    tn_vec sum = {0};
    FOR_WINDOWS(p, s, image, c)
    {
        int64_t flat = ((s[0] + p->before[0] - o0 * p->stride[0]) * p->k[1] + s[1] + p->before[1] -
                        o1 * p->stride[1]) *
                           p->k[2] +
                       s[2] + p->before[2] - o2 * p->stride[2];
        places place = load_places(p, r->place, window, count);
        sum += tn_vec_keep(place == (int32_t)flat, tn_vec_get(type, r->y, window, count));
    }
    tn_vec_put(type, r->x, at, sum, count);
}

TN_VEC_INLINE void mean_grad_vector(const pool_run *r, const int64_t *s, int64_t image, int64_t at,
                                    int64_t c, int count, tn_dtype type)
{
    tn_vec sum = {0};
    FOR_WINDOWS(r->p, s, image, c)
    {
        float by = divisor(r->p, (const int64_t[]){o0, o1, o2});
        sum += tn_vec_get(type, r->y, window, count) / by;
    }
    tn_vec_put(type, r->x, at, sum, count);
}

/* ---- all positions --------------------------------------------------------------------------- */

/* Rows [begin, end) of positions of `to`, whose other side has `from` positions; vector(r,
 * position, image in the other, element, c, ...). */
#define FOR_ROWS(vector, to, from)                                                                 \
    do {                                                                                           \
        const pool_plan *p = r->p;                                                                 \
        int64_t image_size = p->from[0] * p->from[1] * p->from[2] * p->C;                          \
        for (int64_t row = begin; row < end; row++) {                                              \
            int64_t position[3] = {row / p->to[1] % p->to[0], row % p->to[1], 0};                  \
            int64_t image = row / (p->to[0] * p->to[1]) * image_size, at = row * p->to[2] * p->C;  \
            for (; position[2] < p->to[2]; position[2]++, at += p->C) {                            \
                int64_t c = 0;                                                                     \
                for (; c + TN_VEC <= p->C; c += TN_VEC)                                            \
                    vector(r, position, image, at + c, c, TN_VEC, type);                           \
                if (c < p->C) vector(r, position, image, at + c, c, (int)(p->C - c), type);        \
            }                                                                                      \
        }                                                                                          \
    } while (0)

#define KERNEL(name, vector, to, from)                                                             \
    TN_VEC_INLINE void name##_typed(const pool_run *r, int64_t begin, int64_t end, tn_dtype type)  \
    {                                                                                              \
        FOR_ROWS(vector, to, from);                                                                \
    }                                                                                              \
    static void name##_rows(void *context, int64_t begin, int64_t end)                             \
    {                                                                                              \
        const pool_run *r = context;                                                               \
        TN_FOR_FLOAT(r->p->type, name##_typed, r, begin, end);                                     \
    }

KERNEL(max, max_vector, O, S)
KERNEL(take, take_vector, O, S)
KERNEL(mean, mean_vector, O, S)
KERNEL(max_grad, max_grad_vector, S, O)
KERNEL(mean_grad, mean_grad_vector, S, O)

static void go(const pool_run *r, const int64_t *to,
               void (*rows)(void *context, int64_t begin, int64_t end))
{
    const pool_plan *p = r->p;
    int64_t work = to[2] * p->C * p->k[0] * p->k[1] * p->k[2];
    tn_parallel(p->B * to[0] * to[1], 1 + 100000 / (work + 1), rows, (void *)(uintptr_t)r);
}

static tn_status run_all(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const pool_plan *p = step->prepared;
    pool_run r = {.p = p};
    switch (step->op->id) {
    case TN_OP_MAX_POOL:
        r.x = in[0], r.y = out[0], r.place = out[1];
        go(&r, p->O, max_rows);
        break;
    case TN_OP_MAX_POOL_TAKE:
        r.x = in[0], r.place = in[1], r.y = out[0];
        go(&r, p->O, take_rows);
        break;
    case TN_OP_AVERAGE_POOL:
        r.x = in[0], r.y = out[0];
        go(&r, p->O, mean_rows);
        break;
    case TN_OP_MAX_POOL_GRAD:
        r.y = in[0], r.place = in[1], r.x = out[0];
        go(&r, p->S, max_grad_rows);
        break;
    default:
        r.y = in[0], r.x = out[0];
        go(&r, p->S, mean_grad_rows);
        break;
    }
    return TN_OK;
}

/* ---- f64: the reference kernels, whose places are doubles too -------------------------------- */

static const tn_operand *places_of(const tn_step *step)
{
    return step->op->id == TN_OP_MAX_POOL ? &step->out[1]
           : step->in_count > 1           ? &step->in[1]
                                          : NULL;
}

static tn_status f64_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    const tn_kernel *reference = tn_ref_kernels()->kernel[step->op->id];
    const tn_operand *operand = places_of(step);
    if (!operand) return reference->run(step, in, out, workspace);
    bool made = step->op->id == TN_OP_MAX_POOL, narrow = operand->dtype == TN_I8;
    void *place = made ? out[1] : in[1];
    double *wide = workspace;
    int64_t count = tn_operand_size(operand);
    for (int64_t i = 0; i < count && !made; i++)
        wide[i] = narrow ? ((int8_t *)place)[i] : ((int32_t *)place)[i];
    void *inputs[] = {in[0], wide}, *outputs[] = {out[0], wide};
    tn_status status = reference->run(step, inputs, outputs, wide + count);
    for (int64_t i = 0; i < count && made; i++) {
        if (narrow) ((int8_t *)place)[i] = (int8_t)wide[i];
        else ((int32_t *)place)[i] = (int32_t)wide[i];
    }
    return status;
}

static tn_status f64_prepare(tn_step *step)
{
    static const tn_kernel kernel = {.run = f64_run};
    TN_TRY(tn_ref_kernels()->kernel[step->op->id]->prepare(step));
    if (places_of(step))
        step->workspace += (size_t)tn_operand_size(places_of(step)) * sizeof(double);
    step->kernel = &kernel;
    return TN_OK;
}

/* ---- plan ------------------------------------------------------------------------------------ */

static void layouts(const tn_step *step, tn_layout *in, tn_layout *out)
{
    tn_layout layout = step->in[0].dtype == TN_F64 ? TN_ROWS : TN_CHANNELS_LAST;
    for (int i = 0; i < step->in_count; i++) in[i] = layout;
    for (int i = 0; i < step->out_count; i++) out[i] = layout;
}

static tn_status prepare(tn_step *step)
{
    if (step->in[0].dtype == TN_F64) return f64_prepare(step);
    const tn_pool_geometry *g = &((const tn_pool_attribute *)step->attribute)->geometry;
    bool grad = step->op->id == TN_OP_MAX_POOL_GRAD || step->op->id == TN_OP_AVERAGE_POOL_GRAD;
    const tn_operand *x = grad ? &step->out[0] : &step->in[0],
                     *y = grad ? &step->in[0] : &step->out[0];
    pool_plan *p = calloc(1, sizeof *p);
    if (!p) return tn_fail(TN_MEMORY, "out of memory");
    step->prepared = p;
    *p = (pool_plan){
        .B = x->dim[0], .C = x->dim[1], .count_padding = g->count_padding, .type = x->dtype};
    /* Absent dimensions come first, so that the last one is the row that the inner loop walks
     * along. */
    for (int d = 0; d < 3; d++) {
        int from = d - (3 - (x->rank - 2));
        p->S[d] = from >= 0 ? x->dim[from + 2] : 1;
        p->O[d] = from >= 0 ? y->dim[from + 2] : 1;
        p->k[d] = from >= 0 ? g->kernel[from] : 1;
        p->stride[d] = from >= 0 ? g->stride[from] : 1;
        p->before[d] = from >= 0 ? g->pad_before[from] : 0;
    }
    if (step->op->id == TN_OP_MAX_POOL) p->place_type = step->out[1].dtype;
    else if (step->in_count > 1) p->place_type = step->in[1].dtype;
    return TN_OK;
}

static void release(tn_step *step)
{
    free(step->prepared);
    step->prepared = NULL;
}

void TN_ISA(tn_cpu_pool)(tn_kernel_table *table)
{
    static const tn_kernel kernel = {
        .layouts = layouts, .prepare = prepare, .run = run_all, .release = release};
    static const tn_op_id ids[] = {TN_OP_MAX_POOL, TN_OP_MAX_POOL_GRAD, TN_OP_MAX_POOL_TAKE,
                                   TN_OP_AVERAGE_POOL, TN_OP_AVERAGE_POOL_GRAD};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) table->kernel[ids[i]] = &kernel;
}
