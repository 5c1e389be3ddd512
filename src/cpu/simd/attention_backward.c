/* Attention, backward. The scores are computed again, tile by tile, from the saved logarithm of the softmax's denominator:
 *
 *     p = exp(s - lse), d_v = p^T d_y, d_s = p (d_y v^T - delta), d_q = scale d_s k, d_k = scale d_s^T q
 *
 * with delta = d_y . y per query, which equals the sum over keys of p (d_y v^T). Empty queries have lse = inf, so p is 0.
 *
 * A task is one unit (see attention_tile.h) and, where there are few units, one chunk of its keys. It owns the gradients
 * of its keys and values; the gradients of the queries are added up over its key tiles in order, and over chunks in order at
 * the end. So every sum has one order, whatever the number of threads.
 * Source: Dao et al. 2022, algorithm 4. */
#include "cpu/simd/attention_tile.h"

enum {
    TILE = 64, /* rows and keys of a tile: two score tiles of 16 KB */
    ENOUGH_TASKS = 8,
    SMALL_WORK = 400000,
};

typedef struct backward_plan {
    tn_attention_sizes s;
    head_rows q, k, v, y, d_y, d_q, d_k, d_v;
    int64_t width, rows;   /* Q rounded up; rows of a unit */
    int64_t chunks, tasks; /* pieces of the keys of a unit; units * chunks */
    bool direct;           /* d_q is f32 and summed where it lies */
    int64_t slots, slot_floats;
} backward_plan;

typedef struct backward_scratch {
    float *k, *v, *kt, *vt, *d_k, *d_v, *q, *d_y, *d_q; /* [TILE][width], transposed [width][TILE] */
    float *p, *d_s;                                     /* [TILE][TILE] */
    float *delta, *lse;                                 /* [rows] */
    key_range *range;                                   /* [rows] */
    float *sum_q;                                       /* [rows][width]; NULL where d_q is summed elsewhere */
} backward_scratch;

typedef struct backward_call {
    const backward_plan *plan;
    attention_masks masks;
    const void *q, *k, *v, *y, *d_y;
    const float *lse;
    void *d_q, *d_k, *d_v;
    float *scratch, *partial; /* partial: [tasks][rows][width] where the keys are cut */
    atomic_llong next;
} backward_call;

static int64_t lay_out(const backward_plan *p, float *base, backward_scratch *out)
{
    int64_t tile = TILE * p->width, square = TILE * TILE, rows = p->rows;
    int64_t sum = p->direct || p->chunks > 1 ? 0 : rows * p->width;
    int64_t sizes[] = {tile, tile, tile, tile, tile, tile, tile, tile, tile, square, square, rows, rows, 3 * rows, sum};
    enum { PARTS = sizeof sizes / sizeof *sizes };
    float *at[PARTS];
    int64_t total = 0;
    for (int i = 0; i < PARTS; i++) {
        at[i] = base ? base + total : NULL;
        total += tn_round_up(sizes[i], 16);
    }
    if (out)
        *out = (backward_scratch){.k = at[0], .v = at[1], .kt = at[2], .vt = at[3], .d_k = at[4], .d_v = at[5], .q = at[6], .d_y = at[7],
                                  .d_q = at[8], .p = at[9], .d_s = at[10], .delta = at[11], .lse = at[12],
                                  .range = (key_range *)(void *)at[13], .sum_q = at[14]};
    return total;
}

/* What a task is about. */
typedef struct unit_of_work {
    int64_t b, key_head, head; /* head: the first that reads this key head */
    float *sum_q;              /* [rows][width], or NULL: d_q itself */
} unit_of_work;

static float *query_sum(const backward_call *call, const unit_of_work *u, int64_t row)
{
    const backward_plan *p = call->plan;
    if (u->sum_q) return u->sum_q + row * p->width;
    return head_row_out(&p->d_q, call->d_q, u->b, row / p->s.G, u->head + row % p->s.G);
}

/* ---- one tile --------------------------------------------------------------------------------------------------- */

/* One row: scores to probabilities p, and d_y v^T to the scores' cotangent p (d_y v^T - delta). */
static void score_row(float *p, float *d_s, int64_t columns, float lse, float delta)
{
    for (int64_t j = 0; j < columns; j += TN_VEC) {
        tn_vec power = tn_vec_exp2(tn_load(p + j) - lse);
        tn_store(p + j, power);
        tn_store(d_s + j, power * (tn_load(d_s + j) - delta));
    }
}

/* Rows r .. r+count-1 of the unit against the key tile in scratch. */
static void backward_tile(const backward_call *call, const backward_scratch *x, const unit_of_work *u, int64_t r, int64_t count,
                          int64_t tile, int64_t tile_keys)
{
    const backward_plan *p = call->plan;
    int64_t width = p->width, depth = p->s.Q, G = p->s.G;
    key_range all = keys_of(x->range + r, count);
    int64_t low = all.low > tile ? all.low - tile : 0, high = all.high - tile < tile_keys ? all.high - tile : tile_keys;
    if (high <= low) return;
    int64_t keys = high - low, start = low - low % TN_VEC, skip = low - start, columns = tn_round_up(high - start, TN_VEC);
    for (int64_t i = 0; i < count; i++) {
        int64_t position = (r + i) / G, head = u->head + (r + i) % G;
        widen(x->q + i * width, head_row(&p->q, call->q, u->b, position, head), p->q.dtype, depth, width, (float)LOG2_E);
        widen(x->d_y + i * width, head_row(&p->d_y, call->d_y, u->b, position, head), p->d_y.dtype, depth, width, 1);
    }
    tn_multiply_rows(count, columns, depth, x->q, width, x->kt + start, TILE, x->p, TILE, false);
    tn_multiply_rows(count, columns, depth, x->d_y, width, x->vt + start, TILE, x->d_s, TILE, false);
    bool plain = !call->masks.bias && !call->masks.key_mask;
    for (int64_t i = 0; i < count; i++) {
        float *score = x->p + i * TILE;
        key_range range = x->range[r + i];
        if (!plain || range.low > tile + start || range.high < tile + start + columns)
            mask_row(&call->masks, score, columns, tile + start, range, u->b, u->head + (r + i) % G, (r + i) / G);
        score_row(score, x->d_s + i * TILE, columns, x->lse[r + i], x->delta[r + i]);
    }
    tn_multiply_columns(keys, width, count, x->p + skip, TILE, x->d_y, width, x->d_v + low * width, width, true);
    tn_multiply_columns(keys, width, count, x->d_s + skip, TILE, x->q, width, x->d_k + low * width, width, true);
    tn_multiply_rows(count, width, keys, x->d_s + skip, TILE, x->k + low * width, width, x->d_q, width, false);
    for (int64_t i = 0; i < count; i++) {
        float *to = query_sum(call, u, r + i);
        const float *from = x->d_q + i * width;
        for (int64_t c = 0; c < depth; c++) to[c] += from[c];
    }
}

/* ---- one task --------------------------------------------------------------------------------------------------- */

/* delta, lse in base 2, and which keys each row reads. */
static void prepare_rows(const backward_call *call, const backward_scratch *x, const unit_of_work *u)
{
    const backward_plan *p = call->plan;
    const tn_attention_sizes *s = &p->s;
    for (int64_t r = 0; r < p->rows; r++) {
        int64_t position = r / s->G, head = u->head + r % s->G;
        widen(x->q, head_row(&p->y, call->y, u->b, position, head), p->y.dtype, s->Q, p->width, 1);
        widen(x->d_y, head_row(&p->d_y, call->d_y, u->b, position, head), p->d_y.dtype, s->Q, p->width, 1);
        tn_vec sum = {0};
        for (int64_t c = 0; c < p->width; c += TN_VEC) sum += tn_load(x->q + c) * tn_load(x->d_y + c);
        x->delta[r] = tn_vec_sum(sum);
        x->lse[r] = call->lse[(u->b * s->H + head) * s->L + position] * (float)LOG2_E;
    }
    key_ranges(&call->masks, u->b, 0, p->rows, x->range);
}

static void backward_keys(const backward_call *call, const backward_scratch *x, const unit_of_work *u, int64_t tile, int64_t count)
{
    const backward_plan *p = call->plan;
    int64_t width = p->width;
    float scale = (float)call->masks.attribute->scale;
    for (int64_t j = 0; j < count; j++) {
        widen(x->k + j * width, head_row(&p->k, call->k, u->b, tile + j, u->key_head), p->k.dtype, p->s.Q, width, scale);
        widen(x->v + j * width, head_row(&p->v, call->v, u->b, tile + j, u->key_head), p->v.dtype, p->s.Q, width, 1);
    }
    transpose_tile(x->kt, TILE, x->k, width, count, width);
    transpose_tile(x->vt, TILE, x->v, width, count, width);
    memset(x->d_k, 0, (size_t)(count * width) * sizeof(float));
    memset(x->d_v, 0, (size_t)(count * width) * sizeof(float));
    for (int64_t r = 0, together; r < p->rows; r += together) {
        together = rows_together(x->range + r, p->rows - r, TILE);
        backward_tile(call, x, u, r, together, tile, count);
    }
    for (int64_t j = 0; j < count; j++) { /* the queries were in units of 1/log2(e) */
        narrow(head_row_out(&p->d_k, call->d_k, u->b, tile + j, u->key_head), x->d_k + j * width, p->d_k.dtype, p->s.Q, scale * LN_2);
        narrow(head_row_out(&p->d_v, call->d_v, u->b, tile + j, u->key_head), x->d_v + j * width, p->d_v.dtype, p->s.Q, 1);
    }
}

static void backward(const backward_call *call, int64_t task, float *scratch)
{
    const backward_plan *p = call->plan;
    const tn_attention_sizes *s = &p->s;
    backward_scratch x;
    lay_out(p, scratch, &x);
    int64_t unit = task / p->chunks, chunk = task % p->chunks;
    unit_of_work u = {.b = unit / s->K, .key_head = unit % s->K, .head = unit % s->K * s->G};
    if (p->chunks > 1) u.sum_q = call->partial + task * p->rows * p->width;
    else if (!p->direct) u.sum_q = x.sum_q;
    prepare_rows(call, &x, &u);
    for (int64_t r = 0; r < p->rows; r++) memset(query_sum(call, &u, r), 0, (size_t)s->Q * sizeof(float));
    int64_t share = tn_round_up((s->M + p->chunks - 1) / p->chunks, TILE), low = chunk * share;
    int64_t high = low + share < s->M ? low + share : s->M;
    for (int64_t tile = low; tile < high; tile += TILE)
        backward_keys(call, &x, &u, tile, high - tile < TILE ? high - tile : TILE);
    for (int64_t r = 0; r < p->rows && p->chunks == 1 && !p->direct; r++)
        narrow(head_row_out(&p->d_q, call->d_q, u.b, r / s->G, u.head + r % s->G), query_sum(call, &u, r), p->d_q.dtype, s->Q, 1);
}

static void work(void *context, int64_t begin, int64_t end)
{
    backward_call *call = context;
    for (int64_t slot = begin; slot < end; slot++)
        for (;;) {
            int64_t task = atomic_fetch_add_explicit(&call->next, 1, memory_order_relaxed);
            if (task >= call->plan->tasks) break;
            backward(call, task, call->scratch + slot * call->plan->slot_floats);
        }
}

/* Adds the chunks' query gradients for rows [begin, end) of all units. */
static void join(void *context, int64_t begin, int64_t end)
{
    const backward_call *call = context;
    const backward_plan *p = call->plan;
    for (int64_t i = begin; i < end; i++) {
        int64_t unit = i / p->rows, r = i % p->rows, head = unit % p->s.K * p->s.G + r % p->s.G;
        float *sum = call->partial + (unit * p->chunks * p->rows + r) * p->width;
        for (int64_t c = 1; c < p->chunks; c++) {
            const float *part = sum + c * p->rows * p->width;
            for (int64_t q = 0; q < p->s.Q; q++) sum[q] += part[q];
        }
        narrow(head_row_out(&p->d_q, call->d_q, unit / p->s.K, r / p->s.G, head), sum, p->d_q.dtype, p->s.Q, 1);
    }
}

static tn_status backward_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    const backward_plan *p = step->prepared;
    backward_call call = {.plan = p, .q = in[0], .k = in[1], .v = in[2], .y = in[3], .lse = in[4], .d_y = in[5],
                          .d_q = out[0], .d_k = out[1], .d_v = out[2], .scratch = workspace};
    TN_TRY(attention_masks_of(&call.masks, step, in, 6));
    call.partial = call.scratch + p->slots * p->slot_floats;
    tn_parallel(p->slots, 1, work, &call);
    if (p->chunks > 1) tn_parallel(p->tasks / p->chunks * p->rows, 64, join, &call);
    return TN_OK;
}

/* ---- planning --------------------------------------------------------------------------------------------------- */

static tn_status backward_prepare(tn_step *step)
{
    TN_TRY(attention_supports(step));
    bool packed = ((const tn_attention_attribute *)step->attribute)->has_offsets;
    backward_plan *p = calloc(1, sizeof *p);
    if (!p) return tn_fail(TN_MEMORY, "out of memory");
    p->s = tn_attention_sizes_of(step->in[0].dim, step->in[1].dim, packed);
    const tn_attention_sizes *s = &p->s;
    head_rows *from[] = {&p->q, &p->k, &p->v, &p->y}, *to[] = {&p->d_q, &p->d_k, &p->d_v};
    for (int i = 0; i < 4; i++) *from[i] = head_rows_of(&step->in[i], packed);
    for (int i = 0; i < 3; i++) *to[i] = head_rows_of(&step->out[i], packed);
    p->d_y = head_rows_of(&step->in[5], packed);
    p->width = tn_round_up(s->Q, TN_VEC);
    p->rows = s->G * s->L;
    int64_t units = s->B * s->K;
    p->chunks = 1;
    if (units > 0 && units < ENOUGH_TASKS) {
        p->chunks = (ENOUGH_TASKS + units - 1) / units;
        if (p->chunks > s->M / (2 * TILE)) p->chunks = at_least_one(s->M / (2 * TILE));
    }
    p->tasks = units * p->chunks;
    p->direct = p->chunks == 1 && p->d_q.dtype == TN_F32;
    double flop = 10.0 * (double)s->B * (double)s->H * (double)s->L * (double)s->M * (double)s->Q;
    p->slots = flop < SMALL_WORK ? 1 : tn_thread_count();
    if (p->slots > p->tasks) p->slots = at_least_one(p->tasks);
    p->slot_floats = lay_out(p, NULL, NULL);
    int64_t partial = p->chunks > 1 ? p->tasks * p->rows * p->width : 0;
    step->workspace = (size_t)(p->slots * p->slot_floats + partial) * sizeof(float);
    step->prepared = p;
    return TN_OK;
}

static void release(tn_step *step)
{
    free(step->prepared);
    step->prepared = NULL;
}

static void backward_layouts(const tn_step *step, tn_layout *in, tn_layout *out)
{
    attention_layouts_from(step, in, 4, 6);
    in[5] = head_rows_layout(&step->in[5]);
    for (int r = 0; r < 3; r++) out[r] = TN_ROWS;
}

void TN_ISA(tn_cpu_attention_backward)(tn_kernel_table *table);
void TN_ISA(tn_cpu_attention_backward)(tn_kernel_table *table)
{
    static const tn_kernel backward_kernel = {
        .layouts = backward_layouts, .prepare = backward_prepare, .run = backward_run, .release = release};
    table->kernel[TN_OP_ATTENTION_GRAD] = &backward_kernel;
}
