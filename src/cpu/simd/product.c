/* Matrix products: which way each goes, and the ways for small and narrow ones.
 *
 *   tiles    small, b's rows contiguous (or turned around first): no packing. The steps of small
 *            networks, and one small product for each of many clients.
 *   dots     few rows, b's columns contiguous: decoding, where a matrix of weights is read once
 *   blocked  the rest (product_blocked.c)
 *   f64      plain loops
 *
 * Compiled once per instruction set. i8 is oneDNN's (cpu/onednn_product.c). */
#include <stdlib.h>

#include "base/threads.h"
#include "cpu/product.h"
#include "cpu/simd/product_blocked.h"
#include "cpu/simd/product_tile.h"

void TN_ISA(tn_cpu_product)(tn_kernel_table *table);

/* ---- tiles ----------------------------------------------------------------------------------- */

TN_VEC_INLINE void column_of_tiles(const tn_block *x, int64_t j, int vectors, bool whole,
                                   int64_t columns, tn_dtype type)
{
    int64_t i = 0;
#define TILE(rows) tn_tile(x, i, j, j, rows, vectors, whole, columns, false, type)
    TN_ALL_ROWS(x->M, i, TILE);
#undef TILE
}

TN_VEC_INLINE void tiles(const tn_block *x, tn_dtype type)
{
    int64_t j = 0;
    for (; j + TN_PANEL <= x->N; j += TN_PANEL)
        column_of_tiles(x, j, TN_TILE_WIDTH, true, TN_PANEL, type);
    int64_t rest = x->N - j;
#if TN_VEC == 16 /* a masked vector costs as much as a whole one */
    if (rest > 2 * TN_VEC) column_of_tiles(x, j, 3, false, rest, type);
    else if (rest == 2 * TN_VEC) column_of_tiles(x, j, 2, true, rest, type);
    else if (rest > TN_VEC) column_of_tiles(x, j, 2, false, rest, type);
    else if (rest == TN_VEC) column_of_tiles(x, j, 1, true, rest, type);
    else if (rest) column_of_tiles(x, j, 1, false, rest, type);
#else
    if (rest >= TN_VEC) {
        column_of_tiles(x, j, 1, true, TN_VEC, type);
        j += TN_VEC;
    }
    if (j < x->N) column_of_tiles(x, j, 1, false, x->N - j, type);
#endif
}

/* ---- dots ------------------------------------------------------------------------------------ */

/* Not inlined: there are many tiles. */
static __attribute__((noinline)) void finish_dots(const tn_block *x, int64_t i, int64_t j,
                                                  int columns, tn_four sums)
{
    for (int n = 0; x->bias && n < columns; n++)
        sums[n] += tn_get_value(x->bias_type, x->bias, j + n);
    if (x->activation) tn_activate((float *)&sums, 4, x->activation);
    for (int n = 0; n < columns; n++) tn_put_value(x->c_type, x->c, i * x->c_row + j + n, sums[n]);
}

/* rows, columns <= 4 and type are constants wherever this is inlined. x->b_row is the stride
 * from column to column of b. */
TN_VEC_INLINE void dot_tile(const tn_block *x, int64_t i, int64_t j, int rows, int columns,
                            tn_dtype type)
{
    tn_vec sum[4][4] = {{{0}}};
    const float *a = (const float *)x->a + i * x->a_m;
    int64_t a_m = x->a_m, b_row = x->b_row, at = j * b_row, whole = x->K / TN_VEC * TN_VEC;
    int rest = (int)(x->K - whole);
    for (int64_t k = 0; k < whole; k += TN_VEC) {
        tn_vec left[4];
        TN_UNROLLED
        for (int r = 0; r < rows; r++) left[r] = tn_vec_load(TN_F32, a, r * a_m + k);
        TN_UNROLLED
        for (int n = 0; n < columns; n++) {
            tn_vec right = tn_vec_load(type, x->b, at + n * b_row + k);
            TN_UNROLLED
            for (int r = 0; r < rows; r++) sum[r][n] += left[r] * right;
        }
    }
    if (rest) {
        TN_UNROLLED
        for (int n = 0; n < columns; n++) {
            tn_vec right = tn_vec_load_part(type, x->b, at + n * b_row + whole, rest);
            TN_UNROLLED
            for (int r = 0; r < rows; r++)
                sum[r][n] += tn_vec_load_part(TN_F32, a, r * a_m + whole, rest) * right;
        }
    }
    bool plain = columns == 4 && tn_block_is_plain(x);
    TN_UNROLLED
    for (int r = 0; r < rows; r++) {
        tn_four s = tn_sum_each(sum[r]);
        if (plain) memcpy((float *)x->c + (i + r) * x->c_row + j, &s, sizeof s);
        else finish_dots(x, i + r, j, columns, s);
    }
}

TN_VEC_INLINE void dot_columns(const tn_block *x, int64_t j, int columns, tn_dtype type)
{
    int64_t i = 0;
    for (; i + 4 <= x->M; i += 4) dot_tile(x, i, j, 4, columns, type);
    for (; i + 2 <= x->M; i += 2) dot_tile(x, i, j, 2, columns, type);
    for (; i < x->M; i++) dot_tile(x, i, j, 1, columns, type);
}

TN_VEC_INLINE void dots(const tn_block *x, tn_dtype type)
{
    int64_t j = 0;
    for (; j + 4 <= x->N; j += 4) dot_columns(x, j, 4, type);
    for (; j < x->N; j++) dot_columns(x, j, 1, type);
}

#ifdef TN_HAS_PAIRS
/* Both operands bf16: 32 products an instruction. */
TN_PAIRS TN_VEC_INLINE void dot_tile_pairs(const tn_block *x, int64_t i, int64_t j, int rows,
                                           int columns)
{
    __m512 total[4][4];
    TN_UNROLLED
    for (int r = 0; r < 4; r++) {
        TN_UNROLLED
        for (int n = 0; n < 4; n++) total[r][n] = _mm512_setzero_ps();
    }
    const uint16_t *a = (const uint16_t *)x->a + i * x->a_m,
                   *b = (const uint16_t *)x->b + j * x->b_row;
    int64_t a_m = x->a_m, b_row = x->b_row;
    for (int64_t k = 0; k < x->K; k += 2 * TN_VEC) {
        __mmask32 mask = x->K - k >= 2 * TN_VEC ? ~0u : (1u << (x->K - k)) - 1;
        __m512bh left[4];
        TN_UNROLLED
        for (int r = 0; r < rows; r++)
            left[r] = (__m512bh)_mm512_maskz_loadu_epi16(mask, a + r * a_m + k);
        TN_UNROLLED
        for (int n = 0; n < columns; n++) {
            __m512bh right = (__m512bh)_mm512_maskz_loadu_epi16(mask, b + n * b_row + k);
            TN_UNROLLED
            for (int r = 0; r < rows; r++)
                total[r][n] = _mm512_dpbf16_ps(total[r][n], left[r], right);
        }
    }
    TN_UNROLLED
    for (int r = 0; r < rows; r++) {
        tn_vec sum[4] = {(tn_vec)total[r][0], (tn_vec)total[r][1], (tn_vec)total[r][2],
                         (tn_vec)total[r][3]};
        finish_dots(x, i + r, j, columns, tn_sum_each(sum));
    }
}

TN_PAIRS static void dots_pairs(const tn_block *x)
{
    for (int64_t j = 0; j < x->N; j += 4) {
        int64_t i = 0;
        if (x->N - j >= 4) {
            for (; i + 4 <= x->M; i += 4) dot_tile_pairs(x, i, j, 4, 4);
            for (; i < x->M; i++) dot_tile_pairs(x, i, j, 1, 4);
        } else {
            for (int64_t n = j; n < x->N; n++)
                for (i = 0; i < x->M; i++) dot_tile_pairs(x, i, n, 1, 1);
        }
    }
}
#endif

/* ---- plan ------------------------------------------------------------------------------------ */

typedef enum way { TILES, DOTS, BLOCKED } way;

typedef struct plan {
    tn_product p;
    way way;
    tn_blocking blocking;                                         /* BLOCKED */
    bool pairs, turn_b, widen_a;                                  /* widen: to dense f32 */
    int64_t row_blocks, column_blocks, block_rows, block_columns; /* of the result */
    int64_t units;
    int lanes;                 /* threads that share the units; each has scratch of its own */
    size_t shared, lane_bytes; /* shared: a widened, when there is one product */
} plan;

typedef struct run {
    const plan *w;
    const unsigned char *a, *b, *bias;
    unsigned char *c, *workspace;
} run;

static size_t a_bytes(const tn_product *p)
{
    return ((size_t)(p->M * p->K) * sizeof(float) + 63) / 64 * 64;
}

/* a as dense f32 [M, K]. */
static void widen(const tn_product *p, const void *a, float *to)
{
    int64_t whole = p->a_k == 1 && p->in == TN_BF16 ? p->K / TN_VEC * TN_VEC : 0;
    for (int64_t i = 0; i < p->M; i++, to += p->K) {
        for (int64_t k = 0; k < whole; k += TN_VEC)
            tn_vec_store(TN_F32, to, k, tn_vec_load(TN_BF16, a, i * p->a_m + k));
        for (int64_t k = whole; k < p->K; k++)
            to[k] = tn_get_value(p->in, a, i * p->a_m + k * p->a_k);
    }
}

/* b stored [N, K], elements of `size` bytes -> [K, N]. */
static void turn(int64_t N, int64_t K, int64_t b_n, size_t size, const void *b, void *to)
{
    if (size == 4) {
        for (int64_t n = 0; n < N; n++)
            for (int64_t k = 0; k < K; k++)
                ((float *)to)[k * N + n] = ((const float *)b)[n * b_n + k];
    } else {
        for (int64_t n = 0; n < N; n++)
            for (int64_t k = 0; k < K; k++)
                ((uint16_t *)to)[k * N + n] = ((const uint16_t *)b)[n * b_n + k];
    }
}

static void run_small(const run *r, int64_t unit, unsigned char *scratch)
{
    const plan *w = r->w;
    const tn_product *p = &w->p;
    size_t size = tn_dtype_size(p->in);
    int64_t entry = unit / (w->row_blocks * w->column_blocks),
            row = unit % w->row_blocks * w->block_rows;
    int64_t first = unit / w->row_blocks % w->column_blocks * w->block_columns, a_at, b_at;
    tn_product_offsets(p, entry, &a_at, &b_at);
    a_at += row * p->a_m;
    tn_block x = {.M = tn_least(w->block_rows, p->M - row),
                  .N = tn_least(w->block_columns, p->N - first),
                  .K = p->K,
                  .a_m = p->a_m,
                  .a_k = p->a_k,
                  .c_row = p->N,
                  .b_type = p->in,
                  .bias_type = p->bias,
                  .c_type = p->out,
                  .activation = p->activation};
    x.bias = r->bias ? r->bias + (size_t)first * tn_dtype_size(p->bias) : NULL;
    x.c = r->c + (size_t)((entry * p->M + row) * p->N + first) * tn_dtype_size(p->out);
    x.a = r->a + (size_t)a_at * size;
    x.a_strip = p->a_m;
    if (w->widen_a) {
        float *wide = (float *)(void *)(p->batch == 1 ? r->workspace : scratch);
        if (p->batch > 1) widen(p, x.a, wide);
        x.a = wide + (p->batch == 1 ? row * p->K : 0);
        x.a_m = x.a_strip = p->K;
        x.a_k = 1;
    }
    x.b = r->b + (size_t)(b_at + first * p->b_n) * size;
    x.b_row = w->way == DOTS ? p->b_n : p->b_k;
    if (w->turn_b) {
        unsigned char *turned = scratch + (p->batch > 1 && w->widen_a ? a_bytes(p) : 0);
        turn(x.N, p->K, p->b_n, size, x.b, turned);
        x.b = turned;
        x.b_row = x.N;
    }
#ifdef TN_HAS_PAIRS
    if (w->pairs) {
        dots_pairs(&x);
        return;
    }
#endif
    if (w->way == DOTS) TN_FOR_FLOAT(x.b_type, dots, &x);
    else TN_FOR_FLOAT(x.b_type, tiles, &x);
}

static void run_lanes(void *context, int64_t begin, int64_t end)
{
    const run *r = context;
    const plan *w = r->w;
    for (int64_t lane = begin; lane < end; lane++) {
        unsigned char *scratch = r->workspace + w->shared + (size_t)lane * w->lane_bytes;
        for (int64_t i = lane * w->units / w->lanes; i < (lane + 1) * w->units / w->lanes; i++) {
            if (w->way == BLOCKED)
                TN_ISA(tn_blocking_run)(&w->blocking, &w->p, i, r->a, r->b, r->bias, r->c, scratch);
            else run_small(r, i, scratch);
        }
    }
}

static tn_status run_all(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    const plan *w = step->prepared;
    run r = {w, in[0], in[1], tn_product_has_bias(&w->p) ? in[2] : NULL, out[0], workspace};
    if (w->shared) widen(&w->p, in[0], workspace);
    tn_parallel(w->lanes, 1, run_lanes, &r);
    return TN_OK;
}

static void release(tn_step *step)
{
    free(step->prepared);
    step->prepared = NULL;
}

/* ---- f64 ------------------------------------------------------------------------------------- */

typedef struct f64_run {
    const tn_product *p;
    const double *a, *b, *bias;
    double *c;
} f64_run;

static void f64_rows(void *context, int64_t begin, int64_t end)
{
    const f64_run *r = context;
    const tn_product *p = r->p;
    for (int64_t row = begin; row < end; row++) {
        int64_t a_at, b_at;
        tn_product_offsets(p, row / p->M, &a_at, &b_at);
        const double *a = r->a + a_at + row % p->M * p->a_m, *b = r->b + b_at;
        double *c = r->c + row * p->N;
        for (int64_t n = 0; n < p->N; n++) c[n] = 0;
        if (p->b_n == 1) {
            for (int64_t k = 0; k < p->K; k++)
                for (int64_t n = 0; n < p->N; n++) c[n] += a[k * p->a_k] * b[k * p->b_k + n];
        } else {
            for (int64_t n = 0; n < p->N; n++)
                for (int64_t k = 0; k < p->K; k++)
                    c[n] += a[k * p->a_k] * b[k * p->b_k + n * p->b_n];
        }
        for (int64_t n = 0; n < p->N; n++) {
            if (r->bias) c[n] += r->bias[n];
            if (p->activation == TN_OP_RELU && c[n] < 0) c[n] = 0;
        }
    }
}

static tn_status f64_run_all(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    (void)workspace;
    const plan *w = step->prepared;
    f64_run r = {&w->p, in[0], in[1], tn_product_has_bias(&w->p) ? in[2] : NULL, out[0]};
    tn_parallel(w->p.batch * w->p.M, 1 + 100000 / (w->p.N * w->p.K + 1), f64_rows, &r);
    return TN_OK;
}

static const tn_kernel f64_kernel = {.run = f64_run_all, .release = release};

/* ---- choosing -------------------------------------------------------------------------------- */

/* Measured on Zen 4 with AVX-512: up to these sizes packing costs more than it brings. */
static way choose(const tn_product *p)
{
    bool rows_of_b = p->b_n == 1;
    double multiply_adds = (double)p->M * (double)p->N * (double)p->K;
    if (p->K == 0) return TILES;
    if (!rows_of_b && p->M <= 8 && (p->a_k == 1 || p->in != TN_F32)) return DOTS;
    if (p->M <= (p->in == TN_F32 ? TN_TILE_HEIGHT : 4) && rows_of_b) return TILES;
    if (p->in != TN_F32) return multiply_adds <= 6e3 ? TILES : BLOCKED;
    if (p->N <= 32 && p->N * p->K <= 32768) return TILES; /* a panel would be mostly empty */
    return multiply_adds <= (rows_of_b ? 260e3 : 40e3) ? TILES : BLOCKED;
}

static void cut_small(plan *w)
{
    const tn_product *p = &w->p;
    w->pairs = w->way == DOTS && p->in == TN_BF16 && p->a_k == 1 && tn_machine_has_pairs();
    w->widen_a = p->in != TN_F32 && !w->pairs;
    w->turn_b = w->way == TILES && p->b_n != 1 && p->K > 0;
    /* What takes longer than about 10 us is worth a second core; one product is then cut into
     * blocks of columns. */
    size_t size = tn_dtype_size(p->in);
    double each = (double)p->N * (double)p->K * (double)p->batch;
    bool large = (double)p->M * each / 50e9 + (double)size * each / 25e9 > 10e-6;
    w->block_columns = large && p->batch == 1 ? tn_least(p->N, 4 * TN_PANEL) : p->N;
    w->block_rows = large && p->batch == 1 && p->N <= w->block_columns ? tn_least(p->M, 64) : p->M;
    w->column_blocks = (p->N + w->block_columns - 1) / w->block_columns;
    w->row_blocks = (p->M + w->block_rows - 1) / w->block_rows;
    w->units = p->batch * w->row_blocks * w->column_blocks;
    w->lanes = large ? (int)tn_least(w->units, tn_thread_count()) : 1;
    w->shared = w->widen_a && p->batch == 1 ? a_bytes(p) : 0;
    w->lane_bytes = (w->turn_b ? ((size_t)(w->block_columns * p->K) * size + 63) / 64 * 64 : 0) +
                    (w->widen_a && p->batch > 1 ? a_bytes(p) : 0);
}

/* TN_UNSUPPORTED for what is not an own kernel's. */
static tn_status prepare(tn_step *step)
{
    tn_product p = tn_product_of(step);
    if (!tn_dtype_is_float(p.in)) return TN_UNSUPPORTED;
    if (p.in == TN_F64 && p.activation && p.activation != TN_OP_RELU)
        return tn_fail(TN_INVALID, "matmul of f64 with a fused activation is not implemented");
    plan *w = calloc(1, sizeof *w);
    if (!w) return tn_fail(TN_MEMORY, "out of memory");
    step->prepared = w;
    w->p = p;
    if (p.in == TN_F64) {
        step->kernel = &f64_kernel;
        return TN_OK;
    }
    w->way = choose(&p);
    if (w->way == BLOCKED) {
        TN_ISA(tn_blocking_make)(&w->blocking, &p);
        double multiply_adds = (double)p.M * (double)p.N * (double)p.K * (double)p.batch;
        w->units = w->blocking.units;
        w->lanes = multiply_adds > 1e6 ? (int)tn_least(w->units, tn_thread_count()) : 1;
        w->lane_bytes = w->blocking.scratch;
    } else {
        cut_small(w);
    }
    step->workspace = w->shared + (size_t)w->lanes * w->lane_bytes;
    return TN_OK;
}

void TN_ISA(tn_cpu_product)(tn_kernel_table *table)
{
    static const tn_kernel kernel = {.prepare = prepare, .run = run_all, .release = release};
    table->kernel[TN_OP_MATMUL] = &kernel;
}
