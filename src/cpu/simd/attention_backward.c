/* Attention, backward. The scores are computed again, tile by tile, from the saved logarithm of the
 * softmax's denominator:
 *
 *     p = exp(s - lse), d_s = p (d_y v^T - delta),
 *     d_v = p^T d_y, d_q = scale d_s k, d_k = scale d_s^T q
 *
 * with delta = d_y . y per query, which equals the sum over keys of p (d_y v^T). Empty queries have
 * lse = inf, so p is 0.
 *
 * A task is one unit (see attention_tile.h) and, where there are few units, one chunk of its keys.
 * It owns the gradients of its keys and values; the gradients of the queries are added up over its
 * key tiles in order, and over chunks in order at the end. So every sum has one order, whatever the
 * number of threads. Source: Dao et al. 2022, algorithm 4. */
#include "cpu/simd/attention_tile.h"

enum {
    TILE = 64, /* rows and keys of a tile: two score tiles of 16 KB */
    ENOUGH_TASKS = 8,
    SMALL_WORK = 400000,
};

typedef struct backward_plan {
    tn_attention_sizes s;
    head_rows q, k, v, y, d_y, d_q, d_k, d_v;
    int64_t width, rows;    /* Q rounded up; rows of a unit */
    int64_t chunks, tasks;  /* pieces of the keys of a unit; units * chunks */
    bool direct;            /* d_q is f32 and summed where it lies */
    bool of_bias;           /* the gradient of the bias instead */
    int64_t bias_stride[4]; /* of it: [B, H, L, M], 0 where it is summed */
    int64_t slots, slot_floats;
} backward_plan;

typedef struct backward_scratch {
    float *k, *v, *kt, *vt;           /* [TILE][width]; transposed [width][TILE] */
    float *d_k, *d_v, *q, *d_y, *d_q; /* [TILE][width] */
    float *p, *d_s;                   /* [TILE][TILE] */
    float *delta, *lse;               /* [rows] */
    key_range *range;                 /* [rows] */
    float *sum_q;                     /* [rows][width]; NULL where d_q is summed elsewhere */
} backward_scratch;

typedef struct backward_call {
    const backward_plan *plan;
    attention_masks masks;
    const void *q, *k, *v, *y, *d_y;
    const float *lse;
    void *d_q, *d_k, *d_v;
    float *d_bias;
    float *scratch, *partial; /* partial: [tasks][rows][width] where the keys are cut */
    atomic_llong next;
} backward_call;

static int64_t lay_out(const backward_plan *p, float *base, backward_scratch *out)
{
    int64_t tile = TILE * p->width, square = TILE * TILE, rows = p->rows;
    int64_t sum = p->direct || p->chunks > 1 ? 0 : rows * p->width;
    int64_t sizes[] = {tile, tile,   tile,   tile, tile, tile,     tile, tile,
                       tile, square, square, rows, rows, 3 * rows, sum};
    enum { PARTS = sizeof sizes / sizeof *sizes };
    float *at[PARTS];
    int64_t total = 0;
    for (int i = 0; i < PARTS; i++) {
        at[i] = base ? base + total : NULL;
        total += tn_round_up(sizes[i], 16);
    }
    if (out)
        *out = (backward_scratch){
            at[0], at[1], at[2], at[3],  at[4],  at[5],  at[6],
            at[7], at[8], at[9], at[10], at[11], at[12], (key_range *)(void *)at[13],
            at[14]};
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

/* ---- one tile -------------------------------------------------------------------------------- */

/* One row: scores to probabilities p, and d_y v^T to the scores' cotangent p (d_y v^T - delta). */
static void score_row(float *p, float *d_s, int64_t columns, float lse, float delta)
{
    for (int64_t j = 0; j < columns; j += TN_VEC) {
        tn_vec power = tn_vec_exp2(tn_load(p + j) - lse);
        tn_store(p + j, power);
        tn_store(d_s + j, power * (tn_load(d_s + j) - delta));
    }
}

/* The part of a key tile that a group of rows reads: keys [low, low + keys) of the tile. Scores
 * begin `skip` before. */
typedef struct tile_part {
    int64_t low, keys, skip;
} tile_part;

/* p and d_s of rows r .. r+count-1 of the unit with the key tile in scratch, beside their q and
 * d_y. False if no row reads of it. */
static bool score_tile(const backward_call *call, const backward_scratch *x, const unit_of_work *u,
                       int64_t r, int64_t count, int64_t tile, int64_t tile_keys, tile_part *part)
{
    const backward_plan *p = call->plan;
    int64_t width = p->width, depth = p->s.Q, G = p->s.G;
    key_range all = keys_of(x->range + r, count);
    int64_t low = all.low > tile ? all.low - tile : 0,
            high = all.high - tile < tile_keys ? all.high - tile : tile_keys;
    if (high <= low) return false;
    int64_t start = low - low % TN_VEC, columns = tn_round_up(high - start, TN_VEC);
    *part = (tile_part){low, high - low, low - start};
    for (int64_t i = 0; i < count; i++) {
        int64_t position = (r + i) / G, head = u->head + (r + i) % G;
        widen(x->q + i * width, head_row(&p->q, call->q, u->b, position, head), p->q.dtype, depth,
              width, (float)LOG2_E);
        widen(x->d_y + i * width, head_row(&p->d_y, call->d_y, u->b, position, head), p->d_y.dtype,
              depth, width, 1);
    }
    tn_multiply_rows(count, columns, depth, x->q, width, x->kt + start, TILE, x->p, TILE, false);
    tn_multiply_rows(count, columns, depth, x->d_y, width, x->vt + start, TILE, x->d_s, TILE,
                     false);
    bool plain = !call->masks.bias && !call->masks.key_mask;
    for (int64_t i = 0; i < count; i++) {
        float *score = x->p + i * TILE;
        key_range range = x->range[r + i];
        if (!plain || range.low > tile + start || range.high < tile + start + columns)
            mask_row(&call->masks, score, columns, tile + start, range, u->b, u->head + (r + i) % G,
                     (r + i) / G);
        score_row(score, x->d_s + i * TILE, columns, x->lse[r + i], x->delta[r + i]);
    }
    return true;
}

/* Rows r .. r+count-1 of the unit against the key tile in scratch. */
static void backward_tile(const backward_call *call, const backward_scratch *x,
                          const unit_of_work *u, int64_t r, int64_t count, int64_t tile,
                          int64_t tile_keys)
{
    int64_t width = call->plan->width, depth = call->plan->s.Q;
    tile_part part;
    if (!score_tile(call, x, u, r, count, tile, tile_keys, &part)) return;
    const float *p = x->p + part.skip, *d_s = x->d_s + part.skip;
    float *d_v = x->d_v + part.low * width, *d_k = x->d_k + part.low * width;
    tn_multiply_columns(part.keys, width, count, p, TILE, x->d_y, width, d_v, width, true);
    tn_multiply_columns(part.keys, width, count, d_s, TILE, x->q, width, d_k, width, true);
    tn_multiply_rows(count, width, part.keys, d_s, TILE, x->k + part.low * width, width, x->d_q,
                     width, false);
    for (int64_t i = 0; i < count; i++) {
        float *to = query_sum(call, u, r + i);
        const float *from = x->d_q + i * width;
        for (int64_t c = 0; c < depth; c++) to[c] += from[c];
    }
}

/* The same rows and keys to the gradient of the bias, which is d_s summed over what the bias is
 * broadcast over. */
static void bias_tile(const backward_call *call, const backward_scratch *x, const unit_of_work *u,
                      int64_t r, int64_t count, int64_t tile, int64_t tile_keys)
{
    const backward_plan *p = call->plan;
    const int64_t *stride = p->bias_stride;
    tile_part part;
    if (!score_tile(call, x, u, r, count, tile, tile_keys, &part)) return;
    for (int64_t i = 0; i < count; i++) {
        int64_t position = (r + i) / p->s.G, head = u->head + (r + i) % p->s.G;
        float *to = call->d_bias + u->b * stride[0] + head * stride[1] + position * stride[2] +
                    (tile + part.low) * stride[3];
        const float *from = x->d_s + i * TILE + part.skip;
        for (int64_t j = 0; j < part.keys; j++) to[j * stride[3]] += from[j];
    }
}

/* ---- one task -------------------------------------------------------------------------------- */

/* delta, lse in base 2, and which keys each row reads. */
static void prepare_rows(const backward_call *call, const backward_scratch *x,
                         const unit_of_work *u)
{
    const backward_plan *p = call->plan;
    const tn_attention_sizes *s = &p->s;
    for (int64_t r = 0; r < p->rows; r++) {
        int64_t position = r / s->G, head = u->head + r % s->G;
        widen(x->q, head_row(&p->y, call->y, u->b, position, head), p->y.dtype, s->Q, p->width, 1);
        widen(x->d_y, head_row(&p->d_y, call->d_y, u->b, position, head), p->d_y.dtype, s->Q,
              p->width, 1);
        tn_vec sum = {0};
        for (int64_t c = 0; c < p->width; c += TN_VEC)
            sum += tn_load(x->q + c) * tn_load(x->d_y + c);
        x->delta[r] = tn_vec_sum(sum);
        x->lse[r] = call->lse[(u->b * s->H + head) * s->L + position] * (float)LOG2_E;
    }
    key_ranges(&call->masks, u->b, 0, p->rows, x->range);
}

/* Keys [tile, tile + count) and their values, straight and transposed. */
static void load_keys(const backward_call *call, const backward_scratch *x, const unit_of_work *u,
                      int64_t tile, int64_t count)
{
    const backward_plan *p = call->plan;
    int64_t width = p->width;
    float scale = (float)call->masks.attribute->scale;
    for (int64_t j = 0; j < count; j++) {
        widen(x->k + j * width, head_row(&p->k, call->k, u->b, tile + j, u->key_head), p->k.dtype,
              p->s.Q, width, scale);
        widen(x->v + j * width, head_row(&p->v, call->v, u->b, tile + j, u->key_head), p->v.dtype,
              p->s.Q, width, 1);
    }
    transpose_tile(x->kt, TILE, x->k, width, count, width);
    transpose_tile(x->vt, TILE, x->v, width, count, width);
}

static void backward_keys(const backward_call *call, const backward_scratch *x,
                          const unit_of_work *u, int64_t tile, int64_t count)
{
    const backward_plan *p = call->plan;
    int64_t width = p->width;
    load_keys(call, x, u, tile, count);
    memset(x->d_k, 0, (size_t)(count * width) * sizeof(float));
    memset(x->d_v, 0, (size_t)(count * width) * sizeof(float));
    for (int64_t r = 0, together; r < p->rows; r += together) {
        together = rows_together(x->range + r, p->rows - r, TILE);
        backward_tile(call, x, u, r, together, tile, count);
    }
    for (int64_t j = 0; j < count; j++) { /* the queries were in units of 1/log2(e) */
        float factor = (float)call->masks.attribute->scale * LN_2;
        narrow(head_row_out(&p->d_k, call->d_k, u->b, tile + j, u->key_head), x->d_k + j * width,
               p->d_k.dtype, p->s.Q, factor);
        narrow(head_row_out(&p->d_v, call->d_v, u->b, tile + j, u->key_head), x->d_v + j * width,
               p->d_v.dtype, p->s.Q, 1);
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
    for (int64_t r = 0; r < p->rows; r++)
        memset(query_sum(call, &u, r), 0, (size_t)s->Q * sizeof(float));
    int64_t share = tn_round_up((s->M + p->chunks - 1) / p->chunks, TILE), low = chunk * share;
    int64_t high = low + share < s->M ? low + share : s->M;
    for (int64_t tile = low; tile < high; tile += TILE)
        backward_keys(call, &x, &u, tile, high - tile < TILE ? high - tile : TILE);
    for (int64_t r = 0; r < p->rows && p->chunks == 1 && !p->direct; r++)
        narrow(head_row_out(&p->d_q, call->d_q, u.b, r / s->G, u.head + r % s->G),
               query_sum(call, &u, r), p->d_q.dtype, s->Q, 1);
}

/* A task owns what the bias has for one sequence (if it tells them apart) and one group of heads
 * (likewise), and goes through all units that end there. */
static void bias_gradient(const backward_call *call, int64_t task, float *scratch)
{
    const backward_plan *p = call->plan;
    const tn_attention_sizes *s = &p->s;
    backward_scratch x;
    lay_out(p, scratch, &x);
    int64_t groups = p->bias_stride[1] ? s->K : 1, b = task / groups, key_head = task % groups;
    int64_t b_end = p->bias_stride[0] ? b + 1 : s->B,
            key_end = p->bias_stride[1] ? key_head + 1 : s->K;
    for (; b < b_end; b++)
        for (int64_t k = key_head; k < key_end; k++) {
            unit_of_work u = {.b = b, .key_head = k, .head = k * s->G};
            prepare_rows(call, &x, &u);
            for (int64_t tile = 0; tile < s->M; tile += TILE) {
                int64_t count = s->M - tile < TILE ? s->M - tile : TILE;
                load_keys(call, &x, &u, tile, count);
                for (int64_t r = 0; r < p->rows; r += TILE)
                    bias_tile(call, &x, &u, r, p->rows - r < TILE ? p->rows - r : TILE, tile,
                              count);
            }
        }
}

static void work(void *context, int64_t begin, int64_t end)
{
    backward_call *call = context;
    for (int64_t slot = begin; slot < end; slot++)
        for (;;) {
            int64_t task = atomic_fetch_add_explicit(&call->next, 1, memory_order_relaxed);
            if (task >= call->plan->tasks) break;
            float *scratch = call->scratch + slot * call->plan->slot_floats;
            if (call->plan->of_bias) bias_gradient(call, task, scratch);
            else backward(call, task, scratch);
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
        narrow(head_row_out(&p->d_q, call->d_q, unit / p->s.K, r / p->s.G, head), sum, p->d_q.dtype,
               p->s.Q, 1);
    }
}

/* What both gradients read. */
static tn_status begin_call(backward_call *call, const tn_step *step, void *const *in,
                            void *workspace)
{
    *call = (backward_call){.plan = step->prepared,
                            .q = in[0],
                            .k = in[1],
                            .v = in[2],
                            .y = in[3],
                            .lse = in[4],
                            .d_y = in[5],
                            .scratch = workspace};
    return attention_masks_of(&call->masks, step, in, 6);
}

static tn_status backward_run(const tn_step *step, void *const *in, void *const *out,
                              void *workspace)
{
    const backward_plan *p = step->prepared;
    backward_call call;
    TN_TRY(begin_call(&call, step, in, workspace));
    call.d_q = out[0], call.d_k = out[1], call.d_v = out[2];
    call.partial = call.scratch + p->slots * p->slot_floats;
    tn_parallel(p->slots, 1, work, &call);
    if (p->chunks > 1) tn_parallel(p->tasks / p->chunks * p->rows, 64, join, &call);
    return TN_OK;
}

static tn_status bias_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    const backward_plan *p = step->prepared;
    backward_call call;
    TN_TRY(begin_call(&call, step, in, workspace));
    call.d_bias = out[0];
    memset(out[0], 0, (size_t)tn_operand_size(&step->out[0]) * sizeof(float));
    tn_parallel(p->slots, 1, work, &call);
    return TN_OK;
}

/* ---- planning -------------------------------------------------------------------------------- */

/* The rest of a plan whose sizes, chunks and tasks are set. */
static tn_status plan_backward(tn_step *step, backward_plan plan)
{
    TN_TRY(attention_supports(step));
    bool packed = ((const tn_attention_attribute *)step->attribute)->has_offsets;
    head_rows *from[] = {&plan.q, &plan.k, &plan.v, &plan.y},
              *to[] = {&plan.d_q, &plan.d_k, &plan.d_v};
    for (int i = 0; i < 4; i++) *from[i] = head_rows_of(&step->in[i], packed);
    for (int i = 0; i < 3 && !plan.of_bias; i++) *to[i] = head_rows_of(&step->out[i], packed);
    plan.d_y = head_rows_of(&step->in[5], packed);
    plan.direct = plan.of_bias || (plan.chunks == 1 && plan.d_q.dtype == TN_F32);
    const tn_attention_sizes *s = &plan.s;
    double flop = 10.0 * (double)s->B * (double)s->H * (double)s->L * (double)s->M * (double)s->Q;
    plan.slots = flop < SMALL_WORK ? 1 : tn_thread_count();
    if (plan.slots > plan.tasks) plan.slots = at_least_one(plan.tasks);
    plan.slot_floats = lay_out(&plan, NULL, NULL);
    int64_t partial = plan.chunks > 1 ? plan.tasks * plan.rows * plan.width : 0;
    step->workspace = (size_t)(plan.slots * plan.slot_floats + partial) * sizeof(float);
    step->prepared = malloc(sizeof plan);
    if (!step->prepared) return tn_fail(TN_MEMORY, "out of memory");
    memcpy(step->prepared, &plan, sizeof plan);
    return TN_OK;
}

static backward_plan plan_sizes(const tn_step *step)
{
    const tn_attention_attribute *a = step->attribute;
    backward_plan plan = {
        .s = tn_attention_sizes_of(step->in[0].dim, step->in[1].dim, a->has_offsets), .chunks = 1};
    plan.width = tn_round_up(plan.s.Q, TN_VEC);
    plan.rows = plan.s.G * plan.s.L;
    return plan;
}

static tn_status backward_prepare(tn_step *step)
{
    backward_plan plan = plan_sizes(step);
    int64_t units = plan.s.B * plan.s.K;
    if (units > 0 && units < ENOUGH_TASKS) {
        int64_t most = at_least_one(plan.s.M / (2 * TILE));
        plan.chunks = (ENOUGH_TASKS + units - 1) / units;
        if (plan.chunks > most) plan.chunks = most;
    }
    plan.tasks = units * plan.chunks;
    return plan_backward(step, plan);
}

static tn_status bias_prepare(tn_step *step)
{
    backward_plan plan = plan_sizes(step);
    const tn_operand *bias = &step->out[0];
    for (int i = 0; i < bias->rank; i++)
        plan.bias_stride[4 - bias->rank + i] = bias->dim[i] == 1 ? 0 : bias->stride[i];
    plan.of_bias = true;
    plan.tasks = (plan.bias_stride[0] ? plan.s.B : 1) * (plan.bias_stride[1] ? plan.s.K : 1);
    return plan_backward(step, plan);
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
    for (int r = 0; r < step->out_count; r++) out[r] = TN_ROWS;
}

void TN_ISA(tn_cpu_attention_backward)(tn_kernel_table *table);
void TN_ISA(tn_cpu_attention_backward)(tn_kernel_table *table)
{
    static const tn_kernel backward_kernel = {.layouts = backward_layouts,
                                              .prepare = backward_prepare,
                                              .run = backward_run,
                                              .release = release};
    static const tn_kernel bias_kernel = {
        .layouts = backward_layouts, .prepare = bias_prepare, .run = bias_run, .release = release};
    table->kernel[TN_OP_ATTENTION_GRAD] = &backward_kernel;
    table->kernel[TN_OP_ATTENTION_BIAS_GRAD] = &bias_kernel;
}
