/* The blocked matrix product.
 *
 * A unit of work is a block of the result. For each part of the depth it packs the part of b it
 * needs into panels of TN_PANEL columns, so that tiles read b in one direction, and walks down
 * the rows of a with all panels. Measured on Zen 4: 95 to 98 % of the core's FMA peak, which
 * oneDNN also reaches, but from any strides, without generated code, and the same for any number
 * of threads. Source of the scheme: Goto and van de Geijn 2008. */
#include "cpu/simd/product_blocked.h"

#include "base/threads.h"
#include "cpu/simd/product_tile.h"

/* ---- cutting --------------------------------------------------------------------------------- */

/* Strips of copied rows are a cache line longer than they need be, so that they do not all begin
 * in the same cache set. */
enum { MOST_DEPTH = 768, A_COPY_ROWS = 8 * TN_TILE_HEIGHT, STRIP_GAP = 4 };

static int64_t up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/* Parts of `whole`, as equal as the multiple allows, none above `most`. */
static int64_t even_part(int64_t whole, int64_t most, int64_t multiple)
{
    int64_t parts = (whole + most - 1) / most;
    return parts > 1 ? up((whole + parts - 1) / parts, multiple) : whole;
}

bool TN_ISA(tn_blocking_make)(tn_blocking *g, const tn_product *p)
{
    if (p->in != TN_F32 && p->in != TN_BF16 && p->in != TN_F16) return false;
    *g = (tn_blocking){.pairs = p->in == TN_BF16 && tn_machine_has_pairs()};
    int64_t size = g->pairs ? 2 : 4;
    g->depth = even_part(p->K, MOST_DEPTH * 4 / size, 2);
    /* A transposed f32 a is read as it lies, unless every step along the depth would be to
     * another page. */
    bool far = p->a_k >= 256 && p->K > 256;
    g->copy_a = p->in == TN_F32 ? p->a_k != 1 && far : p->a_k != 1 || !g->pairs;
    g->sums_apart = p->K > g->depth && p->out != TN_F32;
    double flop = 2 * (double)p->M * (double)p->N * (double)p->K * (double)p->batch;
    int64_t wanted = flop < 2e6 ? 1 : 4 * tn_thread_count(), panels = g->copy_a ? 4 : 2, rows = 256;
    for (;;) {
        g->columns = even_part(p->N, panels * TN_PANEL, TN_PANEL);
        g->rows = even_part(p->M, rows, TN_TILE_HEIGHT);
        g->row_blocks = (p->M + g->rows - 1) / g->rows;
        g->column_blocks = (p->N + g->columns - 1) / g->columns;
        g->units = p->batch * g->row_blocks * g->column_blocks;
        if (g->units >= wanted || (panels == 1 && rows <= 32)) break;
        if (panels > 1 && (rows <= 64 || !g->copy_a)) panels /= 2;
        else rows /= 2;
    }
    g->b_bytes = (size_t)up(up(g->columns, TN_PANEL) * up(g->depth, 2) * size, 64);
    g->a_bytes = g->copy_a ? (size_t)(A_COPY_ROWS * (up(g->depth, 2) + STRIP_GAP) * size) : 0;
    g->scratch = g->b_bytes + g->a_bytes +
                 (g->sums_apart ? (size_t)up(g->rows * g->columns * 4, 64) : 0);
    return true;
}

/* ---- packing b: f32 panels [depth][TN_PANEL] ------------------------------------------------- */

/* Rows of b contiguous. `from`: element (0, 0); columns <= TN_PANEL exist, the others become 0. */
TN_VEC_INLINE void pack_rows(const void *b, int64_t from, int64_t b_row, int64_t depth,
                             int64_t columns, float *to, tn_dtype type)
{
    for (int64_t k = 0; k < depth; k++, from += b_row, to += TN_PANEL)
        for (int64_t v = 0; v < TN_PANEL; v += TN_VEC) {
            int count = (int)(columns - v);
            tn_vec x = count >= TN_VEC ? tn_vec_load(type, b, from + v)
                       : count > 0     ? tn_vec_load_part(type, b, from + v, count)
                                       : (tn_vec){0};
            tn_vec_store(TN_F32, to, v, x);
        }
}

/* Columns of b contiguous, f32: tn_four by tn_four values are turned at a time. */
static void pack_columns_f32(const float *b, int64_t b_n, int64_t depth, int64_t columns, float *to)
{
    int64_t n = 0;
    for (; n + 4 <= columns; n += 4) {
        const float *x = b + n * b_n;
        float *y = to + n;
        int64_t k = 0;
        for (; k + 4 <= depth; k += 4, y += 4 * TN_PANEL) {
            tn_four r0 = tn_load_four(x + k), r1 = tn_load_four(x + b_n + k),
                    r2 = tn_load_four(x + 2 * b_n + k), r3 = tn_load_four(x + 3 * b_n + k);
            tn_four a = __builtin_shufflevector(r0, r1, 0, 4, 1, 5),
                    c = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
            tn_four d = __builtin_shufflevector(r0, r1, 2, 6, 3, 7),
                    e = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
            tn_four o0 = __builtin_shufflevector(a, c, 0, 1, 4, 5),
                    o1 = __builtin_shufflevector(a, c, 2, 3, 6, 7);
            tn_four o2 = __builtin_shufflevector(d, e, 0, 1, 4, 5),
                    o3 = __builtin_shufflevector(d, e, 2, 3, 6, 7);
            memcpy(y, &o0, sizeof o0);
            memcpy(y + TN_PANEL, &o1, sizeof o1);
            memcpy(y + 2 * TN_PANEL, &o2, sizeof o2);
            memcpy(y + 3 * TN_PANEL, &o3, sizeof o3);
        }
        for (; k < depth; k++, y += TN_PANEL)
            for (int c = 0; c < 4; c++) y[c] = x[c * b_n + k];
    }
    for (; n < TN_PANEL; n++)
        for (int64_t k = 0; k < depth; k++) to[k * TN_PANEL + n] = n < columns ? b[n * b_n + k] : 0;
}

static void pack_columns(const void *b, int64_t from, int64_t b_k, int64_t b_n, int64_t depth,
                         int64_t columns, float *to, tn_dtype type)
{
    for (int64_t n = 0; n < TN_PANEL; n++)
        for (int64_t k = 0; k < depth; k++)
            to[k * TN_PANEL + n] = n < columns ? tn_get_value(type, b, from + n * b_n + k * b_k)
                                               : 0;
}

static void pack_f32(const tn_product *p, const void *b, int64_t from, int64_t depth,
                     int64_t columns, float *to)
{
    if (p->b_n == 1 && p->in == TN_F32) pack_rows(b, from, p->b_k, depth, columns, to, TN_F32);
    else if (p->b_n == 1 && p->in == TN_BF16)
        pack_rows(b, from, p->b_k, depth, columns, to, TN_BF16);
    else if (p->b_n == 1) pack_rows(b, from, p->b_k, depth, columns, to, TN_F16);
    else if (p->b_k == 1 && p->in == TN_F32)
        pack_columns_f32((const float *)b + from, p->b_n, depth, columns, to);
    else pack_columns(b, from, p->b_k, p->b_n, depth, columns, to, p->in);
}

/* ---- packing b: bf16 panels [depth / 2][TN_PANEL][2] ----------------------------------------- */

#ifdef TN_HAS_PAIRS
/* Two rows of b woven into one of pairs; `second` is false for the last row of an odd depth. */
static void weave_rows(const uint16_t *x, int64_t b_row, bool second, int64_t columns, uint16_t *to)
{
    __m512i spread = _mm512_set_epi32(0x001f000f, 0x001e000e, 0x001d000d, 0x001c000c, 0x001b000b,
                                      0x001a000a, 0x00190009, 0x00180008, 0x00170007, 0x00160006,
                                      0x00150005, 0x00140004, 0x00130003, 0x00120002, 0x00110001,
                                      0x00100000);
    for (int64_t v = 0; v < TN_PANEL; v += TN_VEC, to += 2 * TN_VEC) {
        int64_t count = columns - v;
        __mmask16 mask = (__mmask16)(count >= TN_VEC ? 0xffff : count > 0 ? (1u << count) - 1 : 0);
        __m256i low = _mm256_maskz_loadu_epi16(mask, x + v), high = _mm256_setzero_si256();
        if (second) high = _mm256_maskz_loadu_epi16(mask, x + b_row + v);
        __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
        _mm512_storeu_si512(to, _mm512_permutexvar_epi16(spread, both));
    }
}

/* Columns of b contiguous: a pair is 32 bits that lie together already, so packing is turning
 * 32-bit values. */
static void weave_columns(const uint16_t *b, int64_t b_n, int64_t depth, int64_t columns,
                          uint16_t *to)
{
    int64_t whole = depth / 2, n = 0;
    for (; n + 4 <= columns; n += 4) {
        const uint16_t *x = b + n * b_n;
        uint16_t *y = to + 2 * n;
        int64_t k = 0;
        for (; k + 4 <= whole; k += 4, y += 4 * 2 * TN_PANEL) {
            __m128i r0 = _mm_loadu_si128((const void *)(x + 2 * k)),
                    r1 = _mm_loadu_si128((const void *)(x + b_n + 2 * k));
            __m128i r2 = _mm_loadu_si128((const void *)(x + 2 * b_n + 2 * k)),
                    r3 = _mm_loadu_si128((const void *)(x + 3 * b_n + 2 * k));
            __m128i a = _mm_unpacklo_epi32(r0, r1), c = _mm_unpacklo_epi32(r2, r3),
                    d = _mm_unpackhi_epi32(r0, r1), e = _mm_unpackhi_epi32(r2, r3);
            _mm_storeu_si128((void *)y, _mm_unpacklo_epi64(a, c));
            _mm_storeu_si128((void *)(y + 2 * TN_PANEL), _mm_unpackhi_epi64(a, c));
            _mm_storeu_si128((void *)(y + 4 * TN_PANEL), _mm_unpacklo_epi64(d, e));
            _mm_storeu_si128((void *)(y + 6 * TN_PANEL), _mm_unpackhi_epi64(d, e));
        }
        for (; k < whole; k++, y += 2 * TN_PANEL)
            for (int c = 0; c < 4; c++) memcpy(y + 2 * c, x + c * b_n + 2 * k, 4);
    }
    for (; n < TN_PANEL; n++)
        for (int64_t k = 0; k < whole; k++) {
            uint32_t pair = 0;
            if (n < columns) memcpy(&pair, b + n * b_n + 2 * k, 4);
            memcpy(to + (k * TN_PANEL + n) * 2, &pair, 4);
        }
    for (n = 0; depth % 2 && n < TN_PANEL; n++) {
        to[(whole * TN_PANEL + n) * 2] = n < columns ? b[n * b_n + depth - 1] : 0;
        to[(whole * TN_PANEL + n) * 2 + 1] = 0;
    }
}

static void pack_pairs(const tn_product *p, const uint16_t *b, int64_t depth, int64_t columns,
                       uint16_t *to)
{
    if (p->b_n == 1) {
        for (int64_t k = 0; k < depth; k += 2, to += 2 * TN_PANEL)
            weave_rows(b + k * p->b_k, p->b_k, k + 1 < depth, columns, to);
    } else {
        weave_columns(b, p->b_n, depth, columns, to);
    }
}
#endif

/* ---- copying a ------------------------------------------------------------------------------- */

/* Up to A_COPY_ROWS rows of a, widened to f32: rows if they are contiguous, else strips
 * [depth][TN_TILE_HEIGHT]. */
static void copy_a_f32(const tn_product *p, const void *a, int64_t from, int64_t rows,
                       int64_t depth, float *to, tn_block *x)
{
    x->a = to;
    if (p->a_k == 1) {
        for (int64_t i = 0; i < rows; i++)
            for (int64_t k = 0; k < depth; k++)
                to[i * depth + k] = tn_get_value(p->in, a, from + i * p->a_m + k);
        x->a_m = x->a_strip = depth;
        x->a_k = 1;
        return;
    }
    for (int64_t k = 0; k < depth; k++, from += p->a_k) {
        float *y = to + k * TN_TILE_HEIGHT;
        int64_t i = 0, strip = depth + STRIP_GAP;
        if (p->in == TN_F32 && p->a_m == 1)
            for (; i + TN_TILE_HEIGHT <= rows; i += TN_TILE_HEIGHT)
                memcpy(y + i * strip, (const float *)a + from + i, TN_TILE_HEIGHT * sizeof(float));
        for (; i < rows; i++)
            y[(i - i % TN_TILE_HEIGHT) * strip + i % TN_TILE_HEIGHT] = tn_get_value(
                p->in, a, from + i * p->a_m);
    }
    x->a_m = 1;
    x->a_k = TN_TILE_HEIGHT;
    x->a_strip = depth + STRIP_GAP;
}

#ifdef TN_HAS_PAIRS
/* The same for bf16 that lies transposed: strips [depth / 2][TN_TILE_HEIGHT][2]. */
static void copy_a_pairs(const tn_product *p, const uint16_t *a, int64_t rows, int64_t depth,
                         uint16_t *to, tn_block *x)
{
    int64_t strip = up(depth, 2) + STRIP_GAP;
    for (int64_t k = 0; k < depth; k += 2) {
        uint16_t *y = to + k * TN_TILE_HEIGHT;
        const uint16_t *even = a + k * p->a_k, *odd = even + p->a_k;
        bool second = k + 1 < depth;
        int64_t i = 0;
        for (; p->a_m == 1 && i + 8 <= rows; i += 8) {
            __m128i low = _mm_loadu_si128((const void *)(even + i)),
                    high = second ? _mm_loadu_si128((const void *)(odd + i)) : _mm_setzero_si128();
            _mm_storeu_si128((void *)(y + i * strip), _mm_unpacklo_epi16(low, high));
            _mm_storeu_si128((void *)(y + i * strip + 8), _mm_unpackhi_epi16(low, high));
        }
        for (; i < rows; i++) {
            uint16_t *z = y + (i - i % TN_TILE_HEIGHT) * strip + i % TN_TILE_HEIGHT * 2;
            z[0] = even[i * p->a_m];
            z[1] = second ? odd[i * p->a_m] : 0;
        }
    }
    x->a = to;
    x->a_m = 2;
    x->a_k = 2 * TN_TILE_HEIGHT;
    x->a_strip = strip;
}
#endif

/* ---- tiles over panels ----------------------------------------------------------------------- */

/* Rows of a block against one panel of `columns` columns, of which vectors are a constant here. */
TN_VEC_INLINE void panel_f32(const tn_block *x, int64_t j, int vectors, int64_t columns, bool add)
{
    tn_block panel = *x;
    panel.b_row = TN_PANEL;
    int64_t i = 0;
    if (columns % TN_VEC == 0) {
#define WHOLE_TILE(rows) tn_tile(&panel, i, j, 0, rows, vectors, true, vectors *TN_VEC, add, TN_F32)
        TN_ALL_ROWS(x->M, i, WHOLE_TILE);
    } else {
#define PART_TILE(rows) tn_tile(&panel, i, j, 0, rows, vectors, false, columns, add, TN_F32)
        TN_ALL_ROWS(x->M, i, PART_TILE);
    }
}

static __attribute__((noinline)) void product_panel_f32(const tn_block *x, int64_t j,
                                                        int64_t columns, bool add)
{
#if TN_VEC == 16
    if (columns > 2 * TN_VEC) {
        panel_f32(x, j, 3, columns, add);
        return;
    }
#endif
    if (columns > TN_VEC) panel_f32(x, j, 2, columns, add);
    else panel_f32(x, j, 1, columns, add);
}

#ifdef TN_HAS_PAIRS
TN_PAIRS TN_VEC_INLINE __m512bh pair_of(const uint16_t *a)
{
    int32_t pair;
    memcpy(&pair, a, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
}

/* x->a_k is the step from pair to pair. A last single value, if a was not copied, meets a zero
 * in b. */
TN_PAIRS TN_VEC_INLINE void tile_pairs(const tn_block *x, int64_t i, int64_t j, int rows,
                                       int vectors, bool whole, int64_t columns, bool add,
                                       bool single)
{
    __m512 total[TN_TILE_HEIGHT][TN_TILE_WIDTH];
    TN_UNROLLED
    for (int r = 0; r < rows; r++) {
        TN_UNROLLED
        for (int v = 0; v < vectors; v++) total[r][v] = _mm512_setzero_ps();
    }
    const uint16_t *a = (const uint16_t *)x->a + tn_row_of_a(x, i), *b = x->b;
    int64_t a_m = x->a_m, a_k = x->a_k, ask_row;
    const char *ask = tn_ask(x->ahead, a, &ask_row);
    if (x->ahead) tn_ask_for_result(x, i, j, rows, vectors);
    for (int64_t k = 0; k < x->K / 2; k++, a += a_k, b += 2 * TN_PANEL, ask += ask_row) {
        __builtin_prefetch(ask, 0, 2);
        __m512bh right[TN_TILE_WIDTH];
        TN_UNROLLED
        for (int v = 0; v < vectors; v++)
            right[v] = (__m512bh)_mm512_loadu_si512(b + 2 * v * TN_VEC);
        TN_UNROLLED
        for (int r = 0; r < rows; r++) {
            __m512bh left = pair_of(a + r * a_m);
            TN_UNROLLED
            for (int v = 0; v < vectors; v++)
                total[r][v] = _mm512_dpbf16_ps(total[r][v], left, right[v]);
        }
    }
    if (single) {
        TN_UNROLLED
        for (int r = 0; r < rows; r++) {
            __m512bh left = (__m512bh)_mm512_set1_epi32(a[r * a_m]);
            TN_UNROLLED
            for (int v = 0; v < vectors; v++)
                total[r][v] = _mm512_dpbf16_ps(total[r][v], left,
                                               (__m512bh)_mm512_loadu_si512(b + 2 * v * TN_VEC));
        }
    }
    if (!add && x->c_type == TN_BF16 && !x->bias &&
        !x->activation) { /* the common case has an instruction of its own */
        TN_UNROLLED
        for (int r = 0; r < rows; r++) {
            TN_UNROLLED
            for (int v = 0; v < vectors; v++) {
                int64_t count = whole || v < vectors - 1 ? TN_VEC : columns - v * TN_VEC;
                uint16_t *to = (uint16_t *)x->c + (i + r) * x->c_row + j + v * TN_VEC;
                __m256i y = (__m256i)_mm512_cvtneps_pbh(total[r][v]);
                if (count == TN_VEC) _mm256_storeu_si256((void *)to, y);
                else _mm256_mask_storeu_epi16(to, (__mmask16)((1u << count) - 1), y);
            }
        }
        return;
    }
    tn_vec sum[TN_TILE_HEIGHT][TN_TILE_WIDTH];
    TN_UNROLLED
    for (int r = 0; r < rows; r++) {
        TN_UNROLLED
        for (int v = 0; v < vectors; v++) sum[r][v] = (tn_vec)total[r][v];
    }
    TN_STORE_TILE(x, i, j, rows, vectors, whole, columns, add, sum);
}

TN_PAIRS TN_VEC_INLINE void panel_pairs(const tn_block *x, int64_t j, int vectors, int64_t columns,
                                        bool add, bool single)
{
    int64_t i = 0;
    if (columns % TN_VEC == 0) {
#define WHOLE_PAIRS(rows) tile_pairs(x, i, j, rows, vectors, true, vectors *TN_VEC, add, single)
        TN_ALL_ROWS(x->M, i, WHOLE_PAIRS);
    } else {
#define PART_PAIRS(rows) tile_pairs(x, i, j, rows, vectors, false, columns, add, single)
        TN_ALL_ROWS(x->M, i, PART_PAIRS);
    }
}

TN_PAIRS static __attribute__((noinline)) void product_panel_pairs(const tn_block *x, int64_t j,
                                                                   int64_t columns, bool add,
                                                                   bool single)
{
    if (columns > 2 * TN_VEC) panel_pairs(x, j, 3, columns, add, single);
    else if (columns > TN_VEC) panel_pairs(x, j, 2, columns, add, single);
    else panel_pairs(x, j, 1, columns, add, single);
}
#endif

/* ---- one unit -------------------------------------------------------------------------------- */

static void pack(const tn_blocking *g, const tn_product *p, const void *b, int64_t from,
                 int64_t depth, int64_t columns, void *to)
{
#ifdef TN_HAS_PAIRS
    if (g->pairs) {
        pack_pairs(p, (const uint16_t *)b + from, depth, columns, to);
        return;
    }
#endif
    (void)g;
    pack_f32(p, b, from, depth, columns, to);
}

/* A strip of rows against all panels. */
static void strip(const tn_blocking *g, const tn_product *p, tn_block *x, const void *a,
                  int64_t from, unsigned char *a_copy, const unsigned char *packed, bool add)
{
    bool single = x->K % 2 && !g->copy_a;
#ifdef TN_HAS_PAIRS
    if (g->pairs && g->copy_a) {
        copy_a_pairs(p, (const uint16_t *)a + from, x->M, x->K, (uint16_t *)(void *)a_copy, x);
    } else if (g->pairs) {
        x->a = (const uint16_t *)a + from;
        x->a_m = x->a_strip = p->a_m;
        x->a_k = 2;
    } else
#endif
        if (g->copy_a) {
        copy_a_f32(p, a, from, x->M, x->K, (float *)(void *)a_copy, x);
    } else {
        x->a = (const float *)a + from;
        x->a_m = x->a_strip = p->a_m;
        x->a_k = p->a_k;
    }
    size_t panel_bytes = (size_t)(TN_PANEL * (g->pairs ? up(x->K, 2) * 2 : x->K * 4));
    for (int64_t j = 0; j < x->N; j += TN_PANEL, packed += panel_bytes) {
        x->b = packed;
        int64_t columns = tn_least(TN_PANEL, x->N - j);
#ifdef TN_HAS_PAIRS
        if (g->pairs) {
            tn_block even = *x;
            if (g->copy_a) even.K = up(x->K, 2);
            product_panel_pairs(&even, j, columns, add, single);
            continue;
        }
#endif
        (void)single;
        product_panel_f32(x, j, columns, add);
    }
}

/* Bias, activation and the type, where sums were collected over several depths. */
static void finish_block(const tn_block *x, const float *sums, int64_t sums_row)
{
    for (int64_t i = 0; i < x->M; i++)
        for (int64_t j = 0; j < x->N; j += TN_VEC) {
            int count = (int)tn_least(TN_VEC, x->N - j);
            tn_vec sum = tn_vec_load_part(TN_F32, sums, i * sums_row + j, count);
            tn_block here = *x;
            here.c = (unsigned char *)x->c + (size_t)(i * x->c_row + j) * tn_dtype_size(x->c_type);
            here.bias = x->bias ? (const unsigned char *)x->bias +
                                      (size_t)j * tn_dtype_size(x->bias_type)
                                : NULL;
            tn_finish_tile(&here, 0, 0, 1, count, &sum);
        }
}

/* What the strip of rows from i on asks for: the next strip of a that will be copied, here or at
 * the next depth, and its share of the rows of b that will be packed for the next depth. a and b
 * begin where the unit's rows and columns begin, at depth 0. */
static void plan_ahead(const tn_blocking *g, const tn_product *p, const char *a, const char *b,
                       int64_t M, int64_t N, int64_t i, int64_t k, int64_t step, tn_ahead *ahead)
{
    int64_t size = (int64_t)tn_dtype_size(p->in);
    *ahead = (tn_ahead){.rows_a_step = g->pairs ? 2 : 1};
    bool last = i + step >= M, deeper = k + g->depth < p->K;
    if (g->copy_a && p->a_m == 1 && (!last || deeper)) {
        int64_t next = last ? 0 : i + step;
        ahead->wish[0].at = a + ((last ? k + g->depth : k) * p->a_k + next) * size;
        ahead->wish[0].row = p->a_k * size;
        ahead->wish[0].lines = (tn_least(step, M - next) * size + 63) / 64;
    }
    if (p->b_n == 1 && deeper) {
        int64_t lines = (N * size + 63) / 64, strips = (M + step - 1) / step,
                first = lines * (i / step) / strips;
        ahead->wish[1].at = b + (k + g->depth) * p->b_k * size + first * 64;
        ahead->wish[1].row = p->b_k * size;
        ahead->wish[1].lines = lines * (i / step + 1) / strips - first;
    }
}

void TN_ISA(tn_blocking_run)(const tn_blocking *g, const tn_product *p, int64_t unit, const void *a,
                             const void *b, const void *bias, void *c, void *scratch)
{
    unsigned char *packed = scratch, *a_copy = packed + g->b_bytes;
    int64_t row = unit % g->row_blocks * g->rows,
            column = unit / g->row_blocks % g->column_blocks * g->columns;
    int64_t entry = unit / (g->row_blocks * g->column_blocks), a_at, b_at;
    tn_product_offsets(p, entry, &a_at, &b_at);
    int64_t M = tn_least(g->rows, p->M - row), N = tn_least(g->columns, p->N - column);
    tn_block result = {.M = M,
                       .N = N,
                       .c_row = p->N,
                       .c_type = p->out,
                       .bias_type = p->bias,
                       .activation = p->activation};
    result.c = (unsigned char *)c +
               (size_t)((entry * p->M + row) * p->N + column) * tn_dtype_size(p->out);
    result.bias = bias ? (const unsigned char *)bias + (size_t)column * tn_dtype_size(p->bias)
                       : NULL;
    bool parts = p->K > g->depth;
    int64_t size = (int64_t)tn_dtype_size(p->in);
    tn_block sums = result;
    if (parts) {
        sums.bias = NULL;
        sums.activation = 0;
        sums.c_type = TN_F32;
        if (g->sums_apart) {
            sums.c = a_copy + g->a_bytes;
            sums.c_row = N;
        }
    }
    for (int64_t k = 0; k < p->K; k += g->depth) {
        int64_t depth = tn_least(g->depth, p->K - k);
        unsigned char *to = packed;
        for (int64_t j = 0; j < N; j += TN_PANEL) {
            pack(g, p, b, b_at + k * p->b_k + (column + j) * p->b_n, depth,
                 tn_least(TN_PANEL, N - j), to);
            to += TN_PANEL * (g->pairs ? up(depth, 2) * 2 : depth * 4);
        }
        int64_t step = g->copy_a ? A_COPY_ROWS : M;
        for (int64_t i = 0; i < M; i += step) {
            tn_block rows = sums;
            tn_ahead ahead;
            plan_ahead(g, p, (const char *)a + (a_at + row * p->a_m) * size,
                       (const char *)b + (b_at + column * p->b_n) * size, M, N, i, k, step, &ahead);
            rows.ahead = &ahead;
            rows.M = tn_least(step, M - i);
            rows.K = depth;
            rows.c = (unsigned char *)sums.c +
                     (size_t)(i * sums.c_row) * tn_dtype_size(sums.c_type);
            strip(g, p, &rows, a, a_at + (row + i) * p->a_m + k * p->a_k, a_copy, packed, k > 0);
        }
    }
    if (parts && (g->sums_apart || result.bias || result.activation))
        finish_block(&result, sums.c, sums.c_row);
}
