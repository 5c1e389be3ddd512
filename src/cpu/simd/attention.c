/* Attention, forward: tiles of keys pass by a block of queries, whose softmax is carried along
 * (running maximum and sum) and whose result is rescaled when the maximum grows. The scores exist
 * only as one tile.
 *
 * A task is a block of rows of one unit (see attention_tile.h) and, where there are few rows and
 * many keys (decoding), one chunk of its keys; chunks are joined afterwards in order. Tasks depend
 * on shapes and lengths only, each writes its own part, and whichever thread is free takes the
 * next: results do not depend on the number of threads.
 *
 * Everything is computed in f32, in powers of two: the queries are scaled by scale * log2(e) once.
 * Source: Dao et al. 2022 (tiles, online softmax); Dao 2023 (one normalisation at the end); Shazeer
 * 2019 (shared keys). */
#include "cpu/simd/attention_decode.h"

enum {
    KEYS = 128,       /* keys of a tile: 32 KB of keys and as much of values at Q = 64, in L2 */
    DECODE_KEYS = 16, /* when decoding: more rows a page apart would throw each other out of L1 */
    ROWS = 32, /* rows whose scores of one tile (16 KB) stay in L1 between the two products */
    BLOCK_FLOATS = 1 << 14, /* queries of a block: 64 KB, and as much for its results */
    AHEAD = 32,             /* keys between asking for a row and reading it */
    ENOUGH_TASKS = 16,
    SMALL_WORK = 400000, /* FLOP below which waking another thread costs more than it brings */
};

typedef struct forward_plan {
    tn_attention_sizes s;
    head_rows q, k, v, y;
    int64_t width;               /* Q rounded up to whole vectors */
    int64_t per_head;            /* rows of one key head */
    int64_t together;            /* key heads of a unit: 1, or when decoding more */
    int64_t rows, block, blocks; /* rows of a unit; of a block; blocks of a unit */
    int64_t chunks;              /* pieces of the context */
    int64_t tasks, keys;         /* keys of a tile */
    int64_t slots, slot_floats;  /* concurrent scratch areas */
} forward_plan;

/* One scratch area. */
typedef struct forward_scratch {
    float *q, *o;     /* [block][width] */
    float *m, *l;     /* [block] running maximum (base 2) and sum */
    float *kt;        /* [width][keys] */
    float *v;         /* [keys][width] */
    float *k;         /* [TN_VEC][width] */
    float *score;     /* [ROWS, or the block when decoding][keys] */
    key_range *range; /* [block] */
} forward_scratch;

typedef struct forward_call {
    const forward_plan *plan;
    attention_masks masks;
    const void *q, *k, *v;
    void *y;
    float *lse;
    float *scratch, *partial; /* partial: [tasks][block][width + 2] where the context is cut */
    atomic_llong next;
} forward_call;

static int64_t lay_out(const forward_plan *p, float *base, forward_scratch *out)
{
    int64_t block = tn_round_up(p->block, 16), width = p->width, keys = p->keys;
    bool decode = p->per_head <= DECODE_ROWS;
    int64_t tile = decode ? 0 : keys * width, scores = (decode ? block : ROWS) * keys;
    int64_t sizes[] = {block * width, block * width,  block,  block,    tile,
                       tile,          TN_VEC * width, scores, 3 * block};
    float *at[9];
    int64_t total = 0;
    for (int i = 0; i < 9; i++) {
        at[i] = base ? base + total : NULL;
        total += tn_round_up(sizes[i], 16);
    }
    if (out)
        *out = (forward_scratch){.q = at[0],
                                 .o = at[1],
                                 .m = at[2],
                                 .l = at[3],
                                 .kt = at[4],
                                 .v = at[5],
                                 .k = at[6],
                                 .score = at[7],
                                 .range = (key_range *)(void *)at[8]};
    return total;
}

/* Which query a row of a unit is. */
typedef struct row_place {
    int64_t b, position, head;
} row_place;

static row_place place_of(const forward_plan *p, int64_t unit, int64_t row)
{
    int64_t units = p->s.K / p->together, key_head = unit % units * p->together + row / p->per_head,
            rest = row % p->per_head;
    return (row_place){unit / units, rest / p->s.G, key_head * p->s.G + rest % p->s.G};
}

/* ---- one tile -------------------------------------------------------------------------------- */

/* Scores of up to TN_VEC rows to 2^(score - maximum), with the rows' sums and results brought to
 * the new maximum. One vector holds one number per row: the lanes of all rows' maxima and sums are
 * folded together, not row by row. */
static void soften_rows(const forward_scratch *x, int64_t r, int count, float *score, int64_t keys,
                        int64_t columns, int64_t width)
{
    tn_vec lanes[TN_VEC];
    float shrink[TN_VEC], base[TN_VEC];
    for (int i = 0; i < TN_VEC; i++) {
        const float *row = score + i * keys;
        tn_vec top = tn_vec_all(-INFINITY);
        for (int64_t j = 0; j < columns && i < count; j += TN_VEC)
            top = tn_vec_max(tn_load(row + j), top);
        lanes[i] = top;
    }
    tn_vec before = tn_vec_load_part(TN_F32, x->m, r, count),
           maximum = tn_vec_max(largest_of_each(lanes), before);
    tn_vec bases = tn_vec_keep(maximum != -INFINITY, maximum),
           shrinks = tn_vec_exp2(before - bases);
    tn_vec_store_part(TN_F32, x->m, r, maximum, count);
    tn_store(base, bases);
    tn_store(shrink, shrinks);
    for (int i = 0; i < TN_VEC; i++) {
        float *row = score + i * keys;
        tn_vec total = {0};
        for (int64_t j = 0; j < columns && i < count; j += TN_VEC) {
            tn_vec power = tn_vec_exp2(tn_load(row + j) - base[i]);
            tn_store(row + j, power);
            total += power;
        }
        lanes[i] = total;
    }
    tn_vec sum = tn_vec_load_part(TN_F32, x->l, r, count) * shrinks + sum_of_each(lanes);
    tn_vec_store_part(TN_F32, x->l, r, sum, count);
    for (int i = 0; i < count; i++) {
        float *result = x->o + (r + i) * width;
        for (int64_t c = 0; c < width && shrink[i] != 1; c += TN_VEC)
            tn_store(result + c, tn_load(result + c) * shrink[i]);
    }
}

/* Scores of rows r .. r+count-1 of the block, with keys from `start` on: masked and made
 * weights. */
static void weigh(const forward_call *call, const forward_scratch *x, int64_t unit,
                  int64_t first_row, int64_t r, int64_t count, int64_t start, int64_t columns)
{
    const forward_plan *p = call->plan;
    bool plain = !call->masks.bias && !call->masks.key_mask;
    for (int64_t i = 0; i < count; i++) {
        key_range range = x->range[r + i];
        if (plain && range.low <= start && range.high >= start + columns) continue;
        row_place at = place_of(p, unit, first_row + r + i);
        mask_row(&call->masks, x->score + i * p->keys, columns, start, range, at.b, at.head,
                 at.position);
    }
    for (int64_t i = 0; i < count; i += TN_VEC)
        soften_rows(x, r + i, (int)(count - i < TN_VEC ? count - i : TN_VEC),
                    x->score + i * p->keys, p->keys, columns, p->width);
}

/* Rows r .. r+count-1 of the block meet keys [tile, tile + tile_keys), which lie in kt and v. */
static void attend_tile(const forward_call *call, const forward_scratch *x, int64_t unit,
                        int64_t first_row, int64_t r, int64_t count, int64_t tile,
                        int64_t tile_keys)
{
    const forward_plan *p = call->plan;
    key_range all = keys_of(x->range + r, count);
    int64_t low = all.low > tile ? all.low - tile : 0,
            high = all.high - tile < tile_keys ? all.high - tile : tile_keys;
    if (high <= low) return;
    int64_t start = low - low % TN_VEC, columns = tn_round_up(high - start, TN_VEC);
    tn_multiply_rows(count, columns, p->s.Q, x->q + r * p->width, p->width, x->kt + start, p->keys,
                     x->score, p->keys, false);
    weigh(call, x, unit, first_row, r, count, tile + start, columns);
    tn_multiply_rows(count, p->width, high - low, x->score + (low - start), p->keys,
                     x->v + low * p->width, p->width, x->o + r * p->width, p->width, true);
}

/* The same for all rows of a unit of few rows, with keys and values where they lie. */
static void decode_tile(const forward_call *call, const forward_scratch *x, int64_t unit,
                        int64_t tile, int64_t count)
{
    const forward_plan *p = call->plan;
    row_place at = place_of(p, unit, 0);
    int64_t key_head = at.head / p->s.G, per = p->per_head, width = p->width, keys = p->keys;
    decode_rows k = {.stride = p->k.position, .count = count},
                v = {.stride = p->v.position, .count = count};
    for (int64_t n = 0; n < p->together; n++) {
        k.first = head_row(&p->k, call->k, at.b, tile, key_head + n);
        decode_scores(per, p->s.Q, x->q + n * per * width, width, &k, x->score + n * per * keys,
                      keys, p->k.dtype);
    }
    weigh(call, x, unit, 0, 0, p->rows, tile, tn_round_up(count, TN_VEC));
    for (int64_t n = 0; n < p->together; n++) {
        v.first = head_row(&p->v, call->v, at.b, tile, key_head + n);
        decode_values(per, p->s.Q, x->score + n * per * keys, keys, &v, x->o + n * per * width,
                      width, p->v.dtype);
    }
}

/* Keys [tile, tile + count) as kt [Q][keys] (columns padded with zeros) and v [count][width]. */
static void load_tile(const forward_call *call, const forward_scratch *x, int64_t b,
                      int64_t key_head, int64_t tile, int64_t count)
{
    const forward_plan *p = call->plan;
    int64_t width = p->width, bytes = p->s.Q * (p->k.dtype == TN_F32 ? 4 : 2), last = p->s.M - 1;
    bool direct = p->k.dtype == TN_F32 && width == p->s.Q;
    for (int64_t j = 0; j < count; j += TN_VEC) {
        int64_t some = count - j < TN_VEC ? count - j : TN_VEC,
                stride = direct ? p->k.position : width;
        for (int64_t i = j; i < j + some; i++) {
            int64_t ahead = tile + i + AHEAD < last ? tile + i + AHEAD : last;
            ask_for(head_row(&p->k, call->k, b, ahead, key_head), bytes);
            ask_for(head_row(&p->v, call->v, b, ahead, key_head), bytes);
            if (!direct)
                widen(x->k + (i - j) * width, head_row(&p->k, call->k, b, tile + i, key_head),
                      p->k.dtype, p->s.Q, width, 1);
            widen(x->v + i * width, head_row(&p->v, call->v, b, tile + i, key_head), p->v.dtype,
                  p->s.Q, width, 1);
        }
        transpose_tile(x->kt + j, p->keys,
                       direct ? head_row(&p->k, call->k, b, tile + j, key_head) : x->k, stride,
                       some, width);
    }
}

/* ---- one task -------------------------------------------------------------------------------- */

static void write_row(const forward_call *call, row_place at, const float *o, float maximum,
                      float sum)
{
    const forward_plan *p = call->plan;
    const tn_attention_sizes *s = &p->s;
    narrow(head_row_out(&p->y, call->y, at.b, at.position, at.head), o, p->y.dtype, s->Q,
           sum == 0 ? 0 : 1 / sum);
    call->lse[(at.b * s->H + at.head) * s->L + at.position] = sum == 0
                                                                  ? INFINITY
                                                                  : (maximum + log2f(sum)) * LN_2;
}

static void attend(const forward_call *call, int64_t task, float *scratch)
{
    const forward_plan *p = call->plan;
    const tn_attention_sizes *s = &p->s;
    forward_scratch x;
    lay_out(p, scratch, &x);
    int64_t chunk = task % p->chunks, unit = task / p->chunks / p->blocks,
            first = task / p->chunks % p->blocks * p->block;
    int64_t rows = p->rows - first < p->block ? p->rows - first : p->block, width = p->width;
    int64_t row_bytes = s->Q * (p->q.dtype == TN_F32 ? 4 : 2);
    float factor = (float)(call->masks.attribute->scale * LOG2_E);
    row_place at = place_of(p, unit, first);
    int64_t b = at.b, key_head = at.head / s->G;
    for (int64_t r = 0; r < rows; r++) {
        at = place_of(p, unit, first + r);
        int64_t ahead = at.position + AHEAD < s->L ? at.position + AHEAD : s->L - 1;
        ask_for(head_row(&p->q, call->q, b, ahead, at.head), row_bytes);
        ask_to_write(head_row_out(&p->y, call->y, b, at.position, at.head), row_bytes);
        widen(x.q + r * width, head_row(&p->q, call->q, b, at.position, at.head), p->q.dtype, s->Q,
              width, factor);
        x.m[r] = -INFINITY;
        x.l[r] = 0;
    }
    memset(x.o, 0, (size_t)(rows * width) * sizeof *x.o);
    key_ranges(&call->masks, b, first, rows < p->per_head ? rows : p->per_head, x.range);
    for (int64_t r = p->per_head; r < rows; r++) x.range[r] = x.range[r - p->per_head];
    key_range all = keys_of(x.range, rows);
    int64_t low = all.low, high = all.high;
    if (p->chunks > 1) {
        int64_t share = tn_round_up((high - low + p->chunks - 1) / p->chunks, 16);
        low += chunk * share;
        high = low + share < high ? low + share : high;
    }
    for (int64_t tile = low; tile < high; tile += p->keys) {
        int64_t count = high - tile < p->keys ? high - tile : p->keys;
        if (p->per_head <= DECODE_ROWS) {
            decode_tile(call, &x, unit, tile, count);
            continue;
        }
        load_tile(call, &x, b, key_head, tile, count);
        for (int64_t r = 0, together; r < rows; r += together) {
            together = rows_together(x.range + r, rows - r, ROWS);
            attend_tile(call, &x, unit, first, r, together, tile, count);
        }
    }
    for (int64_t r = 0; r < rows; r++) {
        const float *o = x.o + r * width;
        if (p->chunks == 1) {
            write_row(call, place_of(p, unit, first + r), o, x.m[r], x.l[r]);
            continue;
        }
        float *to = call->partial + (task * p->block + r) * (width + 2);
        memcpy(to, o, (size_t)width * sizeof *to);
        to[width] = x.m[r];
        to[width + 1] = x.l[r];
    }
}

static void work(void *context, int64_t begin, int64_t end)
{
    forward_call *call = context;
    for (int64_t slot = begin; slot < end; slot++)
        for (;;) { /* late blocks first: with causal masks they have the most keys */
            int64_t taken = atomic_fetch_add_explicit(&call->next, 1, memory_order_relaxed);
            if (taken >= call->plan->tasks) break;
            attend(call, call->plan->tasks - 1 - taken,
                   call->scratch + slot * call->plan->slot_floats);
        }
}

/* Joins the chunks of blocks [begin, end). */
static void join(void *context, int64_t begin, int64_t end)
{
    const forward_call *call = context;
    const forward_plan *p = call->plan;
    int64_t width = p->width, row_floats = width + 2;
    for (int64_t block = begin; block < end; block++) {
        int64_t unit = block / p->blocks, first = block % p->blocks * p->block;
        int64_t rows = p->rows - first < p->block ? p->rows - first : p->block;
        for (int64_t r = 0; r < rows; r++) {
            float *sum = call->partial + (block * p->chunks * p->block + r) * row_floats,
                  maximum = sum[width];
            for (int64_t c = 1; c < p->chunks; c++)
                maximum = fmaxf(maximum, sum[c * p->block * row_floats + width]);
            if (maximum == -INFINITY) maximum = 0;
            for (int64_t c = 0; c < p->chunks; c++) {
                const float *part = sum + c * p->block * row_floats;
                float shrink = tn_exp2_f32(part[width] - maximum);
                for (int64_t i = 0; i < width; i++) sum[i] = (c ? sum[i] : 0) + shrink * part[i];
                sum[width + 1] = (c ? sum[width + 1] : 0) + shrink * part[width + 1];
            }
            write_row(call, place_of(p, unit, first + r), sum, maximum, sum[width + 1]);
        }
    }
}

static tn_status attention_run(const tn_step *step, void *const *in, void *const *out,
                               void *workspace)
{
    const forward_plan *p = step->prepared;
    forward_call call = {.plan = p,
                         .q = in[0],
                         .k = in[1],
                         .v = in[2],
                         .y = out[0],
                         .lse = out[1],
                         .scratch = workspace};
    TN_TRY(attention_masks_of(&call.masks, step, in, 3));
    call.partial = call.scratch + p->slots * p->slot_floats;
    tn_parallel(p->slots, 1, work, &call);
    if (p->chunks > 1) tn_parallel(p->tasks / p->chunks, 4, join, &call);
    return TN_OK;
}

/* ---- planning -------------------------------------------------------------------------------- */

/* How the work is cut: from the shapes alone. */
static void plan_tasks(forward_plan *p)
{
    const tn_attention_sizes *s = &p->s;
    int64_t most = s->M, block = BLOCK_FLOATS / at_least_one(p->width);
    p->per_head = s->G * s->L;
    p->together = 1;
    if (p->per_head <= DECODE_ROWS) { /* heads side by side share pages: read them together */
        most = most < DECODE_KEYS ? most : DECODE_KEYS;
        for (int64_t n = 2; n <= s->K && n * p->per_head <= 8 * DECODE_ROWS; n++)
            if (s->K % n == 0) p->together = n;
    }
    if (most > KEYS) most = KEYS;
    p->keys = tn_round_up(at_least_one(most), TN_VEC);
    p->rows = p->together * p->per_head;
    int64_t units = s->B * s->K / p->together;
    if (block > 256) block = 256;
    while (block > 64 && units * (p->rows / block) < ENOUGH_TASKS) block /= 2;
    if (block < ROWS) block = ROWS;
    if (p->per_head <= DECODE_ROWS) block = at_least_one(p->rows);
    p->blocks = at_least_one((p->rows + block - 1) / block);
    p->block = (p->rows + p->blocks - 1) / p->blocks;
    int64_t tasks = p->rows > 0 ? units * p->blocks : 0;
    p->chunks = 1;
    if (tasks > 0 && tasks < ENOUGH_TASKS / 2 && s->M >= 256) {
        p->chunks = (ENOUGH_TASKS / 2 + tasks - 1) / tasks;
        if (p->chunks > s->M / 128) p->chunks = s->M / 128;
    }
    p->tasks = tasks * p->chunks;
}

static tn_status attention_prepare(tn_step *step)
{
    TN_TRY(attention_supports(step));
    const tn_attention_attribute *a = step->attribute;
    forward_plan *p = calloc(1, sizeof *p);
    if (!p) return tn_fail(TN_MEMORY, "out of memory");
    p->s = tn_attention_sizes_of(step->in[0].dim, step->in[1].dim, a->has_offsets);
    const tn_attention_sizes *s = &p->s;
    p->q = head_rows_of(&step->in[0], a->has_offsets);
    p->k = head_rows_of(&step->in[1], a->has_offsets);
    p->v = head_rows_of(&step->in[2], a->has_offsets);
    p->y = head_rows_of(&step->out[0], a->has_offsets);
    p->width = tn_round_up(s->Q, TN_VEC);
    plan_tasks(p);
    double flop = 4.0 * (double)s->B * (double)s->H * (double)s->L * (double)s->M * (double)s->Q;
    p->slots = flop < SMALL_WORK ? 1 : tn_thread_count();
    if (p->slots > p->tasks) p->slots = at_least_one(p->tasks);
    p->slot_floats = lay_out(p, NULL, NULL);
    int64_t partial = p->chunks > 1 ? p->tasks * p->block * (p->width + 2) : 0;
    step->workspace = (size_t)(p->slots * p->slot_floats + partial) * sizeof(float);
    step->prepared = p;
    return TN_OK;
}

static void release(tn_step *step)
{
    free(step->prepared);
    step->prepared = NULL;
}

static void attention_layouts(const tn_step *step, tn_layout *in, tn_layout *out)
{
    attention_layouts_from(step, in, 3, 3);
    out[0] = out[1] = TN_ROWS;
}

void TN_ISA(tn_cpu_attention_backward)(tn_kernel_table *table);
void TN_ISA(tn_cpu_rope)(tn_kernel_table *table);

void TN_ISA(tn_cpu_attention)(tn_kernel_table *table);
void TN_ISA(tn_cpu_attention)(tn_kernel_table *table)
{
    static const tn_kernel attention = {.layouts = attention_layouts,
                                        .prepare = attention_prepare,
                                        .run = attention_run,
                                        .release = release};
    table->kernel[TN_OP_ATTENTION] = &attention;
    TN_ISA(tn_cpu_attention_backward)(table);
    TN_ISA(tn_cpu_rope)(table);
}
