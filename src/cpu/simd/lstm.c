/* LSTM over whole sequences, forward and backward: in f32, or with bf16 gates, weights and outputs
 * and an f32 cell. The scheme: recurrent.h. */
#include "cpu/simd/recurrent.h"

/* ---- products of bf16 pairs ------------------------------------------------------------------ */

#ifdef TN_HAS_PAIRS
/* to[rows][vectors][TN_VEC], rows of to_row = h [rows][2 pairs] w [pairs][vectors][TN_VEC][2].
 * rows and vectors are constants where this is inlined. */
TN_PAIRS TN_VEC_INLINE void pair_tile(int rows, int vectors, int64_t pairs, const uint16_t *h,
                                      int64_t h_row, const uint16_t *w, float *to, int64_t to_row)
{
    __m512 sum[MOST_ROWS][MOST_VECTORS];
    TN_UNROLL
    for (int i = 0; i < rows; i++) {
        TN_UNROLL
        for (int v = 0; v < vectors; v++) sum[i][v] = _mm512_setzero_ps();
    }
    for (int64_t k = 0; k < pairs; k++) {
        __m512bh right[MOST_VECTORS];
        TN_UNROLL
        for (int v = 0; v < vectors; v++)
            right[v] = (__m512bh)_mm512_loadu_si512(w + (k * vectors + v) * 2 * TN_VEC);
        TN_UNROLL
        for (int i = 0; i < rows; i++) {
            int32_t pair;
            memcpy(&pair, h + i * h_row + 2 * k, sizeof pair);
            __m512bh left = (__m512bh)_mm512_set1_epi32(pair);
            TN_UNROLL
            for (int v = 0; v < vectors; v++)
                sum[i][v] = _mm512_dpbf16_ps(sum[i][v], left, right[v]);
        }
    }
    TN_UNROLL
    for (int i = 0; i < rows; i++) {
        TN_UNROLL
        for (int v = 0; v < vectors; v++) _mm512_storeu_ps(to + i * to_row + v * TN_VEC, sum[i][v]);
    }
}

TN_PAIRS TN_VEC_INLINE void pair_rows(int64_t rows, int vectors, int64_t pairs, const uint16_t *h,
                                      int64_t h_row, const uint16_t *w, float *to, int64_t to_row)
{
    switch (rows) {
    case 6: pair_tile(6, vectors, pairs, h, h_row, w, to, to_row); break;
    case 5: pair_tile(5, vectors, pairs, h, h_row, w, to, to_row); break;
    case 4: pair_tile(4, vectors, pairs, h, h_row, w, to, to_row); break;
    case 3: pair_tile(3, vectors, pairs, h, h_row, w, to, to_row); break;
    case 2: pair_tile(2, vectors, pairs, h, h_row, w, to, to_row); break;
    default: pair_tile(1, vectors, pairs, h, h_row, w, to, to_row); break;
    }
}

TN_PAIRS static __attribute__((noinline)) void gates_by_pairs(int64_t rows, int64_t N,
                                                              const uint16_t *h, const uint16_t *w,
                                                              float *to)
{
    pair_rows(rows, LSTM_GATES, N / 2, h, N, w, to, LSTM_GATES * TN_VEC);
}

/* d_h[rows][padded] = d_gates[rows][depth] w. */
TN_PAIRS static __attribute__((noinline)) void through_pairs(int64_t rows, int64_t depth,
                                                             int64_t padded,
                                                             const uint16_t *d_gates,
                                                             const uint16_t *packed, float *d_h)
{
    for (int64_t column = 0, width; column < padded; column += width, packed += depth * width) {
        width = padded - column < COLUMNS ? padded - column : COLUMNS;
        for (int64_t r = 0; r < rows; r += LSTM_ROWS) {
            int64_t count = rows - r < LSTM_ROWS ? rows - r : LSTM_ROWS;
            const uint16_t *d = d_gates + r * depth;
            float *to = d_h + r * padded + column;
            if (width == COLUMNS) pair_rows(count, 2, depth / 2, d, depth, packed, to, padded);
            else pair_rows(count, 1, depth / 2, d, depth, packed, to, padded);
        }
    }
}
#else
static void gates_by_pairs(int64_t rows, int64_t N, const uint16_t *h, const uint16_t *w, float *to)
{
    (void)rows, (void)N, (void)h, (void)w, (void)to;
}
static void through_pairs(int64_t rows, int64_t depth, int64_t padded, const uint16_t *d_gates,
                          const uint16_t *packed, float *d_h)
{
    (void)rows, (void)depth, (void)padded, (void)d_gates, (void)packed, (void)d_h;
}
#endif

/* w [4N][N] -> [panels][N / 2][4][TN_VEC][2], zeros behind unit N. */
static void pack_gate_pairs(uint16_t *restrict to, const uint16_t *restrict w, int64_t N)
{
    for (int64_t unit = 0; unit < N; unit += TN_VEC, to += N * LSTM_GATES * TN_VEC)
        for (int64_t g = 0; g < LSTM_GATES; g++)
            for (int64_t lane = 0; lane < TN_VEC; lane++)
                for (int64_t k = 0; k < N; k += 2) {
                    uint16_t *pair = to + ((k / 2 * LSTM_GATES + g) * TN_VEC + lane) * 2;
                    if (unit + lane < N) memcpy(pair, w + (g * N + unit + lane) * N + k, 4);
                    else memset(pair, 0, 4);
                }
}

/* w [depth][N] -> panels [depth / 2][COLUMNS][2], the last one perhaps one vector wide. */
static void pack_column_pairs(uint16_t *restrict to, const uint16_t *restrict w, int64_t depth,
                              int64_t N)
{
    for (int64_t column = 0, width; column < N; column += width, to += depth * width) {
        int64_t left = tn_round_up(N - column, TN_VEC);
        width = left < COLUMNS ? left : COLUMNS;
        for (int64_t k = 0; k < depth; k++)
            for (int64_t j = 0; j < width; j++)
                to[(k / 2 * width + j) * 2 + k % 2] = column + j < N ? w[k * N + column + j] : 0;
    }
}

/* ---- forward --------------------------------------------------------------------------------- */

static __attribute__((noinline)) void gates_by_vectors(int64_t rows, int64_t N, const float *h,
                                                       const float *w, float *to)
{
    gate_rows(rows, LSTM_GATES, N, h, N, w, to);
}

/* `units` units of one row: sums (h w) and the input's share x to gates, cell and output. x and
 * gates may be the same. */
TN_VEC_INLINE void lstm_units(int units, const float *sum, const void *x, void *gates, int64_t N,
                              const float *before, float *cell, void *y, tn_dtype type)
{
    tn_vec i = tn_vec_sigmoid(tn_vec_get(type, x, 0, units) + tn_load(sum)),
           f = tn_vec_sigmoid(tn_vec_get(type, x, N, units) + tn_load(sum + TN_VEC));
    tn_vec g = tn_vec_tanh(tn_vec_get(type, x, 2 * N, units) + tn_load(sum + 2 * TN_VEC));
    tn_vec o = tn_vec_sigmoid(tn_vec_get(type, x, 3 * N, units) + tn_load(sum + 3 * TN_VEC));
    tn_vec c = f * get(before, units) + i * g;
    tn_vec_put(type, gates, 0, i, units);
    tn_vec_put(type, gates, N, f, units);
    tn_vec_put(type, gates, 2 * N, g, units);
    tn_vec_put(type, gates, 3 * N, o, units);
    put(cell, c, units);
    tn_vec_put(type, y, 0, o * tn_vec_tanh(c), units);
}

/* One step of a block of rows. Everything is at its first row. */
typedef struct lstm_step {
    int64_t N, rows, ahead; /* ahead: rows to the next step, 0 at the last */
    const void *x, *h;
    void *gates, *y;
    const float *before;
    float *cells;
} lstm_step;

TN_VEC_INLINE void lstm_tile(const lstm_step *s, int64_t r, int64_t rows, int64_t unit,
                             const float *sums, tn_dtype type)
{
    int64_t N = s->N, size = (int64_t)size_of(type);
    for (int64_t i = 0; i < rows; i++) {
        int64_t narrow = (r + i) * N + unit, wide = (r + i) * LSTM_GATES * N + unit;
        const char *x = (const char *)s->x + wide * size;
        char *gates = (char *)s->gates + wide * size, *y = (char *)s->y + narrow * size;
        float *cells = s->cells + narrow;
        if (s->ahead)
            ask_for_units(LSTM_GATES, N * size, x + s->ahead * LSTM_GATES * N * size,
                          gates + s->ahead * LSTM_GATES * N * size, cells + s->ahead * N,
                          y + s->ahead * N * size);
        const float *sum = sums + i * LSTM_GATES * TN_VEC;
        if (N - unit >= TN_VEC)
            lstm_units(TN_VEC, sum, x, gates, N, s->before + narrow, cells, y, type);
        else lstm_units((int)(N - unit), sum, x, gates, N, s->before + narrow, cells, y, type);
    }
}

TN_VEC_INLINE void lstm_forward(const recurrent_call *call, int64_t model, int64_t first,
                                int64_t rows, float *scratch, tn_dtype type)
{
    const tn_recurrent_sizes *s = &call->plan->s;
    int64_t N = s->N, B = s->B, at = model * B + first; /* row among all models */
    bool pairs = call->plan->pairs;
    const void *weights = from_element(type, call->in[1], model * LSTM_GATES * N * N);
    const uint16_t *packed = (const uint16_t *)scratch;
    float sums[LSTM_ROWS * LSTM_GATES * TN_VEC],
        *wide = scratch + LSTM_GATES * N * tn_round_up(N, TN_VEC);
    if (pairs) pack_gate_pairs((uint16_t *)scratch, weights, N);
    else pack_gates(scratch, weights, LSTM_GATES, N, type);
    lstm_step p = {.N = N, .rows = rows, .h = from_element(type, call->in[2], at * N)};
    p.before = (const float *)call->in[3] + at * N;
    for (int64_t t = 0; t < s->L; t++) {
        int64_t step = model * s->L * B + t * B + first; /* row among all steps */
        p.x = from_element(type, call->in[0], step * LSTM_GATES * N);
        p.gates = to_element(type, call->out[0], step * LSTM_GATES * N);
        p.y = to_element(type, call->out[1], step * N);
        p.cells = (float *)call->out[2] + step * N;
        p.ahead = t + 1 < s->L ? B : 0;
        const float *h = p.h;
        if (type != TN_F32 && !pairs) carry_in(wide, p.h, rows, N, N, type), h = wide;
        for (int64_t unit = 0, panel = 0; unit < N;
             unit += TN_VEC, panel += N * LSTM_GATES * TN_VEC)
            for (int64_t r = 0; r < rows; r += LSTM_ROWS) {
                int64_t count = rows - r < LSTM_ROWS ? rows - r : LSTM_ROWS;
                if (pairs)
                    gates_by_pairs(count, N, (const uint16_t *)p.h + r * N, packed + panel, sums);
                else gates_by_vectors(count, N, h + r * N, scratch + panel, sums);
                lstm_tile(&p, r, count, unit, sums, type);
            }
        for (int64_t r = 0; r < rows && call->length; r++)
            if (!is_on(call, at + r, t)) {
                memset(to_element(type, p.gates, r * LSTM_GATES * N), 0,
                       (size_t)(LSTM_GATES * N) * size_of(type));
                memset(to_element(type, p.y, r * N), 0, (size_t)N * size_of(type));
                memcpy(p.cells + r * N, p.before + r * N, (size_t)N * sizeof(float));
            }
        p.h = p.y;
        p.before = p.cells;
    }
}

static void lstm_forward_f32(const recurrent_call *call, int64_t model, int64_t first, int64_t rows,
                             float *scratch)
{
    lstm_forward(call, model, first, rows, scratch, TN_F32);
}

static void lstm_forward_bf16(const recurrent_call *call, int64_t model, int64_t first,
                              int64_t rows, float *scratch)
{
    lstm_forward(call, model, first, rows, scratch, TN_BF16);
}

static tn_status lstm_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    tn_dtype type = step->in[0].dtype;
    recurrent_call call = {.body = type == TN_F32 ? lstm_forward_f32 : lstm_forward_bf16};
    run_tasks(&call, step, in, out, workspace, 4);
    last_output(&call, out[1], in[2], out[3], type);
    const tn_recurrent_sizes *s = &call.plan->s;
    size_t row_bytes = (size_t)(s->B * s->N) * sizeof(float);
    for (int64_t p = 0; p < s->P; p++) {
        const float *from = s->L ? (const float *)out[2] + (p * s->L + s->L - 1) * s->B * s->N
                                 : (const float *)in[3] + p * s->B * s->N;
        memcpy((float *)out[4] + p * s->B * s->N, from, row_bytes);
    }
    return TN_OK;
}

/* ---- backward -------------------------------------------------------------------------------- */

/* `units` units of one row: d_h and d_c come in as what arrives from later steps; d_c goes out.
 * gates and d_gates may be the same. d_h and d_c are padded; d_y may be absent. */
TN_VEC_INLINE void lstm_units_backward(int units, int64_t N, const void *gates, void *d_gates,
                                       const float *cell, const float *before, const float *d_h,
                                       const void *d_y, float *d_c, tn_dtype type)
{
    tn_vec i = tn_vec_get(type, gates, 0, units), f = tn_vec_get(type, gates, N, units),
           g = tn_vec_get(type, gates, 2 * N, units), o = tn_vec_get(type, gates, 3 * N, units);
    tn_vec bent = tn_vec_tanh(get(cell, units)), here = tn_load(d_h);
    if (d_y) here += tn_vec_get(type, d_y, 0, units);
    tn_vec through = tn_load(d_c) + here * o * (1 - bent * bent);
    tn_vec_put(type, d_gates, 0, through * g * i * (1 - i), units);
    tn_vec_put(type, d_gates, N, through * get(before, units) * f * (1 - f), units);
    tn_vec_put(type, d_gates, 2 * N, through * i * (1 - g * g), units);
    tn_vec_put(type, d_gates, 3 * N, here * bent * o * (1 - o), units);
    tn_store(d_c, through * f);
}

TN_VEC_INLINE void lstm_row_backward(int64_t N, const void *gates, void *d_gates, const float *cell,
                                     const float *before, const float *d_h, const void *d_y,
                                     float *d_c, tn_dtype type)
{
    for (int64_t j = 0; j < N; j += TN_VEC) {
        const void *gate = from_element(type, gates, j), *arrived = from_element(type, d_y, j);
        void *d_gate = to_element(type, d_gates, j);
        if (N - j >= TN_VEC)
            lstm_units_backward(TN_VEC, N, gate, d_gate, cell + j, before + j, d_h + j, arrived,
                                d_c + j, type);
        else
            lstm_units_backward((int)(N - j), N, gate, d_gate, cell + j, before + j, d_h + j,
                                arrived, d_c + j, type);
    }
}

TN_VEC_INLINE void lstm_backward(const recurrent_call *call, int64_t model, int64_t first,
                                 int64_t rows, float *scratch, tn_dtype type)
{
    const tn_recurrent_sizes *s = &call->plan->s;
    tn_recurrent_optional where = tn_recurrent_find(call->attribute, 4);
    int64_t N = s->N, B = s->B, at = model * B + first, wide = LSTM_GATES * N,
            padded = tn_round_up(N, TN_VEC);
    bool pairs = call->plan->pairs;
    const void *weights = from_element(type, call->in[1], model * wide * N);
    float *packed = scratch, *d_h = packed + wide * padded, *d_c = d_h + rows * padded,
          *next = d_c + rows * padded, *widened = next + rows * padded;
    if (pairs) pack_column_pairs((uint16_t *)packed, weights, wide, N);
    else pack_columns(packed, weights, wide, N, type);
    carry_in(d_h, from_element(type, optional(call, where.d_h), at * N), rows, N, padded, type);
    carry_in(d_c, from_element(TN_F32, optional(call, where.d_c), at * N), rows, N, padded, TN_F32);
    for (int64_t t = s->L - 1; t >= 0; t--) {
        int64_t step = model * s->L * B + t * B + first;
        const void *gates = from_element(type, call->in[0], step * wide),
                   *d_y = from_element(type, optional(call, where.d_y), step * N);
        const float *cells = (const float *)call->in[2] + step * N;
        const float *before = t ? cells - B * N : (const float *)call->in[3] + at * N;
        void *d_gates = to_element(type, call->out[0], step * wide);
        for (int64_t r = 0; r < rows; r++) {
            void *d_row = to_element(type, d_gates, r * wide);
            if (is_on(call, at + r, t))
                lstm_row_backward(N, from_element(type, gates, r * wide), d_row, cells + r * N,
                                  before + r * N, d_h + r * padded, from_element(type, d_y, r * N),
                                  d_c + r * padded, type);
            else memset(d_row, 0, (size_t)wide * size_of(type));
        }
        float *to = call->length ? next : d_h;
        if (pairs) {
            through_pairs(rows, wide, padded, d_gates, (const uint16_t *)packed, to);
        } else {
            if (type != TN_F32) carry_in(widened, d_gates, rows, wide, wide, type);
            through_weights(rows, wide, padded, type == TN_F32 ? d_gates : widened, packed, to,
                            false);
        }
        for (int64_t r = 0; r < rows && call->length; r++)
            if (is_on(call, at + r, t))
                memcpy(d_h + r * padded, next + r * padded, (size_t)padded * sizeof(float));
    }
    carry_out(to_element(type, call->out[1], at * N), d_h, rows, N, padded, type);
    carry_out((float *)call->out[2] + at * N, d_c, rows, N, padded, TN_F32);
}

static void lstm_backward_f32(const recurrent_call *call, int64_t model, int64_t first,
                              int64_t rows, float *scratch)
{
    lstm_backward(call, model, first, rows, scratch, TN_F32);
}

static void lstm_backward_bf16(const recurrent_call *call, int64_t model, int64_t first,
                               int64_t rows, float *scratch)
{
    lstm_backward(call, model, first, rows, scratch, TN_BF16);
}

static tn_status lstm_grad_run(const tn_step *step, void *const *in, void *const *out,
                               void *workspace)
{
    recurrent_call call = {.body = step->in[0].dtype == TN_F32 ? lstm_backward_f32
                                                               : lstm_backward_bf16};
    run_tasks(&call, step, in, out, workspace, tn_recurrent_find(step->attribute, 4).length);
    return TN_OK;
}

static tn_status lstm_prepare(tn_step *step) { return recurrent_prepare(step, LSTM_GATES, false); }

static tn_status lstm_grad_prepare(tn_step *step)
{
    return recurrent_prepare(step, LSTM_GATES, true);
}

void TN_ISA(tn_cpu_lstm)(tn_kernel_table *table);
void TN_ISA(tn_cpu_lstm)(tn_kernel_table *table)
{
    static const tn_kernel lstm = {
        .in_place = 1, .prepare = lstm_prepare, .run = lstm_run, .release = recurrent_release};
    static const tn_kernel lstm_grad = {.in_place = 1,
                                        .prepare = lstm_grad_prepare,
                                        .run = lstm_grad_run,
                                        .release = recurrent_release};
    table->kernel[TN_OP_LSTM] = &lstm;
    table->kernel[TN_OP_LSTM_GRAD] = &lstm_grad;
}
