/* LSTM and GRU over whole sequences, forward and backward.
 *
 * A task is a block of rows of one model, taken through all steps by one thread: rows do not meet,
 * so there is nothing to wait for. The hidden weights are packed once per task, in panels of one
 * vector of units with all their gates side by side, and stay in cache; the product of a step
 * leaves its sums in registers, and the gates' activations, the cell and the output follow while
 * the row is in L1. The gradient of the weights is one product over all steps, outside. Operands,
 * results and lengths: graph/recurrent.h. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/threads.h"
#include "cpu/simd/exponential.h"
#include "cpu/simd/micro_gemm.h"
#include "graph/recurrent.h"

enum {
    LSTM_GATES = 4,
    GRU_GATES = 3,
    MOST_GATES = 4,
    MOST_ROWS = 8,        /* of a register tile */
    COLUMNS = 2 * TN_VEC, /* panel of the backward product */
    SMALL_WORK =
        1000000, /* multiply-adds below which waking another thread costs more than it brings */
};

/* Rows of a register tile: gates x rows accumulators of the 32 (16) registers. */
#if TN_VEC == 16
enum { LSTM_ROWS = 6, GRU_ROWS = 8 };
#elif TN_VEC == 8
enum { LSTM_ROWS = 3, GRU_ROWS = 4 };
#else
enum { LSTM_ROWS = 2, GRU_ROWS = 4 };
#endif

typedef struct recurrent_plan {
    tn_recurrent_sizes s;
    int64_t gates;
    int64_t block, blocks, tasks; /* rows of a block; blocks of a model */
    int64_t slots, slot_floats;
} recurrent_plan;

typedef struct recurrent_call {
    const recurrent_plan *plan;
    const tn_recurrent_attribute *attribute;
    const float *const *in;
    float *const *out;
    const int32_t *length;
    float *scratch;
    void (*body)(const struct recurrent_call *call, int64_t model, int64_t first, int64_t rows,
                 float *scratch);
    atomic_llong next;
} recurrent_call;

/* ---- the product of one step ----------------------------------------------------------------- */

/* w [gates*N][N] -> [panels][N][gates][TN_VEC], zeros behind unit N. */
static void pack_gates(float *restrict to, const float *restrict w, int64_t gates, int64_t N)
{
    for (int64_t unit = 0; unit < N; unit += TN_VEC, to += N * gates * TN_VEC)
        for (int64_t g = 0; g < gates; g++)
            for (int64_t lane = 0; lane < TN_VEC; lane++) {
                const float *from = w + (g * N + unit + lane) * N;
                float *column = to + g * TN_VEC + lane;
                bool inside = unit + lane < N;
                for (int64_t k = 0; k < N; k++) column[k * gates * TN_VEC] = inside ? from[k] : 0;
            }
}

/* to[rows][gates][TN_VEC] = h w for one panel. rows and gates are constants where this is
 * inlined. */
TN_VEC_INLINE void gate_tile(int rows, int gates, int64_t depth, const float *restrict h,
                             int64_t h_row, const float *restrict w, float *restrict to)
{
    tn_vec sum[MOST_ROWS][MOST_GATES];
    TN_UNROLL
    for (int i = 0; i < rows; i++) {
        TN_UNROLL
        for (int g = 0; g < gates; g++) sum[i][g] = (tn_vec){0};
    }
    for (int64_t k = 0; k < depth; k++) {
        tn_vec right[MOST_GATES];
        TN_UNROLL
        for (int g = 0; g < gates; g++) right[g] = tn_load(w + (k * gates + g) * TN_VEC);
        TN_UNROLL
        for (int i = 0; i < rows; i++) {
            float left = h[i * h_row + k];
            TN_UNROLL
            for (int g = 0; g < gates; g++) sum[i][g] += left * right[g];
        }
    }
    TN_UNROLL
    for (int i = 0; i < rows; i++) {
        TN_UNROLL
        for (int g = 0; g < gates; g++) tn_store(to + (i * gates + g) * TN_VEC, sum[i][g]);
    }
}

TN_VEC_INLINE void gate_rows(int64_t rows, int gates, int64_t depth, const float *h, int64_t h_row,
                             const float *w, float *to)
{
    switch (rows) {
    case 8: gate_tile(8, gates, depth, h, h_row, w, to); break;
    case 7: gate_tile(7, gates, depth, h, h_row, w, to); break;
    case 6: gate_tile(6, gates, depth, h, h_row, w, to); break;
    case 5: gate_tile(5, gates, depth, h, h_row, w, to); break;
    case 4: gate_tile(4, gates, depth, h, h_row, w, to); break;
    case 3: gate_tile(3, gates, depth, h, h_row, w, to); break;
    case 2: gate_tile(2, gates, depth, h, h_row, w, to); break;
    default: gate_tile(1, gates, depth, h, h_row, w, to); break;
    }
}

static __attribute__((noinline)) void lstm_product(int64_t rows, int64_t depth, const float *h,
                                                   const float *w, float *to)
{
    gate_rows(rows, LSTM_GATES, depth, h, depth, w, to);
}

static __attribute__((noinline)) void gru_product(int64_t rows, int64_t depth, const float *h,
                                                  const float *w, float *to)
{
    gate_rows(rows, GRU_GATES, depth, h, depth, w, to);
}

/* ---- forward --------------------------------------------------------------------------------- */

static bool is_on(const recurrent_call *call, int64_t row, int64_t t)
{
    return !call->length || t < call->length[row];
}

TN_VEC_INLINE tn_vec get(const float *x, int count) { return tn_vec_get(TN_F32, x, 0, count); }

TN_VEC_INLINE void put(float *y, tn_vec x, int count) { tn_vec_put(TN_F32, y, 0, x, count); }

/* `units` units of one row: sums (h w) and the input's share x to gates, cell and output. x and
 * gates may be the same. */
TN_VEC_INLINE void lstm_units(int units, const float *sum, const float *x, float *gates, int64_t N,
                              const float *before, float *cell, float *y)
{
    tn_vec i = tn_vec_sigmoid(get(x, units) + tn_load(sum)),
           f = tn_vec_sigmoid(get(x + N, units) + tn_load(sum + TN_VEC));
    tn_vec g = tn_vec_tanh(get(x + 2 * N, units) + tn_load(sum + 2 * TN_VEC));
    tn_vec o = tn_vec_sigmoid(get(x + 3 * N, units) + tn_load(sum + 3 * TN_VEC));
    tn_vec c = f * get(before, units) + i * g;
    put(gates, i, units);
    put(gates + N, f, units);
    put(gates + 2 * N, g, units);
    put(gates + 3 * N, o, units);
    put(cell, c, units);
    put(y, o * tn_vec_tanh(c), units);
}

/* Asks for one vector of units of one row of the next step: input, and what will be written. Steps
 * lie so far apart that the machine does not see them coming. */
TN_VEC_INLINE void ask_for_units(int gates, int64_t N, const float *x, float *to, float *narrow,
                                 float *y)
{
    TN_UNROLL
    for (int g = 0; g < gates; g++) {
        __builtin_prefetch(x + g * N);
        __builtin_prefetch(to + g * N, 1);
    }
    __builtin_prefetch(narrow, 1);
    __builtin_prefetch(y, 1);
}

static void lstm_rows(const recurrent_call *call, int64_t model, int64_t first, int64_t rows,
                      float *scratch)
{
    const tn_recurrent_sizes *s = &call->plan->s;
    int64_t N = s->N, B = s->B, at = model * B + first; /* row among all models */
    const float *h0 = call->in[2] + at * N, *c0 = call->in[3] + at * N;
    float sums[LSTM_ROWS * LSTM_GATES * TN_VEC];
    pack_gates(scratch, call->in[1] + model * LSTM_GATES * N * N, LSTM_GATES, N);
    for (int64_t t = 0; t < s->L; t++) {
        int64_t step = model * s->L * B + t * B + first; /* row among all steps */
        const float *x = call->in[0] + step * LSTM_GATES * N;
        float *gates = call->out[0] + step * LSTM_GATES * N, *y = call->out[1] + step * N,
              *cells = call->out[2] + step * N;
        const float *h = t ? y - B * N : h0, *c = t ? cells - B * N : c0, *w = scratch;
        for (int64_t unit = 0; unit < N; unit += TN_VEC, w += N * LSTM_GATES * TN_VEC)
            for (int64_t r = 0; r < rows; r += LSTM_ROWS) {
                int64_t count = rows - r < LSTM_ROWS ? rows - r : LSTM_ROWS;
                lstm_product(count, N, h + r * N, w, sums);
                for (int64_t i = 0; i < count; i++) {
                    int64_t narrow = (r + i) * N + unit, wide = (r + i) * LSTM_GATES * N + unit;
                    if (t + 1 < s->L)
                        ask_for_units(LSTM_GATES, N, x + B * LSTM_GATES * N + wide,
                                      gates + B * LSTM_GATES * N + wide, cells + B * N + narrow,
                                      y + B * N + narrow);
                    const float *sum = sums + i * LSTM_GATES * TN_VEC;
                    if (N - unit >= TN_VEC)
                        lstm_units(TN_VEC, sum, x + wide, gates + wide, N, c + narrow,
                                   cells + narrow, y + narrow);
                    else
                        lstm_units((int)(N - unit), sum, x + wide, gates + wide, N, c + narrow,
                                   cells + narrow, y + narrow);
                }
            }
        for (int64_t r = 0; r < rows && call->length; r++)
            if (!is_on(call, at + r, t)) {
                memset(gates + r * LSTM_GATES * N, 0, (size_t)(LSTM_GATES * N) * sizeof(float));
                memset(y + r * N, 0, (size_t)N * sizeof(float));
                memcpy(cells + r * N, c + r * N, (size_t)N * sizeof(float));
            }
    }
}

TN_VEC_INLINE void gru_units(int units, const float *sum, const float *bias, const float *x,
                             float *gates, int64_t N, const float *before, float *hidden, float *y)
{
    tn_vec r = tn_vec_sigmoid(get(x, units) + tn_load(sum) + get(bias, units));
    tn_vec z = tn_vec_sigmoid(get(x + N, units) + tn_load(sum + TN_VEC) + get(bias + N, units));
    tn_vec m = tn_load(sum + 2 * TN_VEC) + get(bias + 2 * N, units),
           n = tn_vec_tanh(get(x + 2 * N, units) + r * m);
    put(gates, r, units);
    put(gates + N, z, units);
    put(gates + 2 * N, n, units);
    put(hidden, m, units);
    put(y, n + z * (get(before, units) - n), units);
}

static void gru_rows(const recurrent_call *call, int64_t model, int64_t first, int64_t rows,
                     float *scratch)
{
    const tn_recurrent_sizes *s = &call->plan->s;
    int64_t N = s->N, B = s->B, at = model * B + first;
    const float *bias = call->in[2] + model * GRU_GATES * N, *h0 = call->in[3] + at * N;
    float sums[GRU_ROWS * GRU_GATES * TN_VEC];
    pack_gates(scratch, call->in[1] + model * GRU_GATES * N * N, GRU_GATES, N);
    for (int64_t t = 0; t < s->L; t++) {
        int64_t step = model * s->L * B + t * B + first;
        const float *x = call->in[0] + step * GRU_GATES * N;
        float *gates = call->out[0] + step * GRU_GATES * N, *y = call->out[1] + step * N,
              *hidden = call->out[2] + step * N;
        const float *h = t ? y - B * N : h0, *w = scratch;
        for (int64_t unit = 0; unit < N; unit += TN_VEC, w += N * GRU_GATES * TN_VEC)
            for (int64_t r = 0; r < rows; r += GRU_ROWS) {
                int64_t count = rows - r < GRU_ROWS ? rows - r : GRU_ROWS;
                gru_product(count, N, h + r * N, w, sums);
                for (int64_t i = 0; i < count; i++) {
                    int64_t narrow = (r + i) * N + unit, wide = (r + i) * GRU_GATES * N + unit;
                    if (t + 1 < s->L)
                        ask_for_units(GRU_GATES, N, x + B * GRU_GATES * N + wide,
                                      gates + B * GRU_GATES * N + wide, hidden + B * N + narrow,
                                      y + B * N + narrow);
                    const float *sum = sums + i * GRU_GATES * TN_VEC;
                    if (N - unit >= TN_VEC)
                        gru_units(TN_VEC, sum, bias + unit, x + wide, gates + wide, N, h + narrow,
                                  hidden + narrow, y + narrow);
                    else
                        gru_units((int)(N - unit), sum, bias + unit, x + wide, gates + wide, N,
                                  h + narrow, hidden + narrow, y + narrow);
                }
            }
        for (int64_t r = 0; r < rows && call->length; r++)
            if (!is_on(call, at + r, t)) {
                memset(gates + r * GRU_GATES * N, 0, (size_t)(GRU_GATES * N) * sizeof(float));
                memset(y + r * N, 0, (size_t)N * sizeof(float));
                memset(hidden + r * N, 0, (size_t)N * sizeof(float));
            }
    }
}

/* The last state of every row: the output at its last step. */
static void last_output(const recurrent_call *call, const float *y, const float *h0, float *h)
{
    const tn_recurrent_sizes *s = &call->plan->s;
    for (int64_t model = 0; model < s->P; model++)
        for (int64_t b = 0; b < s->B; b++) {
            int64_t row = model * s->B + b, steps = s->L;
            if (call->length && call->length[row] < steps)
                steps = call->length[row] > 0 ? call->length[row] : 0;
            const float *from = steps ? y + (model * s->L * s->B + (steps - 1) * s->B + b) * s->N
                                      : h0 + row * s->N;
            memcpy(h + row * s->N, from, (size_t)s->N * sizeof(float));
        }
}

/* ---- backward -------------------------------------------------------------------------------- */

/* w [depth][N] -> panels [depth][COLUMNS] (the last one vector wide where that is enough), zeros
 * behind column N. */
static void pack_columns(float *restrict to, const float *restrict w, int64_t depth, int64_t N)
{
    for (int64_t column = 0, width; column < N; column += width, to += depth * width) {
        int64_t left = tn_round_up(N - column, TN_VEC), count;
        width = left < COLUMNS ? left : COLUMNS;
        count = N - column < width ? N - column : width;
        for (int64_t k = 0; k < depth; k++)
            for (int64_t j = 0; j < width; j++)
                to[k * width + j] = j < count ? w[k * N + column + j] : 0;
    }
}

/* d_h[rows][padded] = or += d_gates[rows][depth] w. */
static void through_weights(int64_t rows, int64_t depth, int64_t padded, const float *d_gates,
                            const float *packed, float *d_h, bool add)
{
    for (int64_t column = 0, width; column < padded; column += width, packed += depth * width) {
        width = padded - column < COLUMNS ? padded - column : COLUMNS;
        tn_multiply_rows(rows, width, depth, d_gates, depth, packed, width, d_h + column, padded,
                         add);
    }
}

/* `units` units of one row: d_h and d_c come in as what arrives from later steps; d_c goes out.
 * gates and d_gates may be the same. d_h and d_c are padded. */
TN_VEC_INLINE void lstm_units_backward(int units, int64_t N, const float *gates, float *d_gates,
                                       const float *cell, const float *before, const float *d_h,
                                       const float *d_y, float *d_c)
{
    tn_vec i = get(gates, units), f = get(gates + N, units), g = get(gates + 2 * N, units),
           o = get(gates + 3 * N, units);
    tn_vec bent = tn_vec_tanh(get(cell, units)), here = tn_load(d_h) + get(d_y, units);
    tn_vec through = tn_load(d_c) + here * o * (1 - bent * bent);
    put(d_gates, through * g * i * (1 - i), units);
    put(d_gates + N, through * get(before, units) * f * (1 - f), units);
    put(d_gates + 2 * N, through * i * (1 - g * g), units);
    put(d_gates + 3 * N, here * bent * o * (1 - o), units);
    tn_store(d_c, through * f);
}

static void lstm_row_backward(int64_t N, const float *gates, float *d_gates, const float *cell,
                              const float *before, const float *d_h, const float *d_y, float *d_c)
{
    int64_t j = 0;
    for (; j + TN_VEC <= N; j += TN_VEC)
        lstm_units_backward(TN_VEC, N, gates + j, d_gates + j, cell + j, before + j, d_h + j,
                            d_y + j, d_c + j);
    if (j < N)
        lstm_units_backward((int)(N - j), N, gates + j, d_gates + j, cell + j, before + j, d_h + j,
                            d_y + j, d_c + j);
}

/* Copies `rows` rows of N to rows of `padded`; zeros where there is no source. */
static void carry_in(float *to, const float *from, int64_t rows, int64_t N, int64_t padded)
{
    memset(to, 0, (size_t)(rows * padded) * sizeof(float));
    for (int64_t r = 0; r < rows && from; r++)
        memcpy(to + r * padded, from + r * N, (size_t)N * sizeof(float));
}

static void carry_out(float *to, const float *from, int64_t rows, int64_t N, int64_t padded)
{
    for (int64_t r = 0; r < rows; r++)
        memcpy(to + r * N, from + r * padded, (size_t)N * sizeof(float));
}

static const float *optional(const recurrent_call *call, int at, int64_t offset)
{
    return at >= 0 ? call->in[at] + offset : NULL;
}

static void lstm_rows_backward(const recurrent_call *call, int64_t model, int64_t first,
                               int64_t rows, float *scratch)
{
    const tn_recurrent_sizes *s = &call->plan->s;
    tn_recurrent_optional where = tn_recurrent_find(call->attribute, 4);
    int64_t N = s->N, B = s->B, at = model * B + first, wide = LSTM_GATES * N,
            padded = tn_round_up(N, TN_VEC);
    float *packed = scratch, *d_h = packed + wide * padded, *d_c = d_h + rows * padded,
          *next = d_c + rows * padded, *none = next + rows * padded;
    pack_columns(packed, call->in[1] + model * wide * N, wide, N);
    carry_in(d_h, optional(call, where.d_h, at * N), rows, N, padded);
    carry_in(d_c, optional(call, where.d_c, at * N), rows, N, padded);
    memset(none, 0, (size_t)padded * sizeof(float));
    for (int64_t t = s->L - 1; t >= 0; t--) {
        int64_t step = model * s->L * B + t * B + first;
        const float *gates = call->in[0] + step * wide, *cells = call->in[2] + step * N,
                    *d_y = optional(call, where.d_y, step * N);
        const float *before = t ? cells - B * N : call->in[3] + at * N;
        float *d_gates = call->out[0] + step * wide;
        for (int64_t r = 0; r < rows; r++) {
            if (is_on(call, at + r, t))
                lstm_row_backward(N, gates + r * wide, d_gates + r * wide, cells + r * N,
                                  before + r * N, d_h + r * padded, d_y ? d_y + r * N : none,
                                  d_c + r * padded);
            else memset(d_gates + r * wide, 0, (size_t)wide * sizeof(float));
        }
        through_weights(rows, wide, padded, d_gates, packed, call->length ? next : d_h, false);
        for (int64_t r = 0; r < rows && call->length; r++)
            if (is_on(call, at + r, t))
                memcpy(d_h + r * padded, next + r * padded, (size_t)padded * sizeof(float));
    }
    carry_out(call->out[1] + at * N, d_h, rows, N, padded);
    carry_out(call->out[2] + at * N, d_c, rows, N, padded);
}

/* d_h comes in as what arrives from later steps, and goes out as what passes by the gates (z h). */
TN_VEC_INLINE void gru_units_backward(int units, int64_t N, const float *gates, float *d_gates,
                                      float *d_hidden, const float *before, const float *hidden,
                                      const float *d_y, float *d_h)
{
    tn_vec r = get(gates, units), z = get(gates + N, units), n = get(gates + 2 * N, units),
           here = tn_load(d_h) + get(d_y, units);
    tn_vec d_n = here * (1 - z) * (1 - n * n), d_z = here * (get(before, units) - n) * z * (1 - z);
    tn_vec d_r = d_n * get(hidden, units) * r * (1 - r);
    put(d_gates, d_r, units);
    put(d_gates + N, d_z, units);
    put(d_gates + 2 * N, d_n, units);
    put(d_hidden, d_r, units);
    put(d_hidden + N, d_z, units);
    put(d_hidden + 2 * N, d_n * r, units);
    tn_store(d_h, here * z);
}

static void gru_row_backward(int64_t N, const float *gates, float *d_gates, float *d_hidden,
                             const float *before, const float *hidden, const float *d_y, float *d_h)
{
    int64_t j = 0;
    for (; j + TN_VEC <= N; j += TN_VEC)
        gru_units_backward(TN_VEC, N, gates + j, d_gates + j, d_hidden + j, before + j, hidden + j,
                           d_y + j, d_h + j);
    if (j < N)
        gru_units_backward((int)(N - j), N, gates + j, d_gates + j, d_hidden + j, before + j,
                           hidden + j, d_y + j, d_h + j);
}

static void gru_rows_backward(const recurrent_call *call, int64_t model, int64_t first,
                              int64_t rows, float *scratch)
{
    const tn_recurrent_sizes *s = &call->plan->s;
    tn_recurrent_optional where = tn_recurrent_find(call->attribute, 5);
    int64_t N = s->N, B = s->B, at = model * B + first, wide = GRU_GATES * N,
            padded = tn_round_up(N, TN_VEC);
    float *packed = scratch, *d_h = packed + wide * padded, *none = d_h + rows * padded;
    pack_columns(packed, call->in[1] + model * wide * N, wide, N);
    carry_in(d_h, optional(call, where.d_h, at * N), rows, N, padded);
    memset(none, 0, (size_t)padded * sizeof(float));
    for (int64_t t = s->L - 1; t >= 0; t--) {
        int64_t step = model * s->L * B + t * B + first;
        const float *gates = call->in[0] + step * wide, *hidden = call->in[3] + step * N,
                    *d_y = optional(call, where.d_y, step * N);
        const float *before = t ? call->in[2] + (step - B) * N : call->in[4] + at * N;
        float *d_gates = call->out[0] + step * wide, *d_hidden = call->out[1] + step * wide;
        for (int64_t r = 0; r < rows; r++) {
            if (is_on(call, at + r, t)) {
                gru_row_backward(N, gates + r * wide, d_gates + r * wide, d_hidden + r * wide,
                                 before + r * N, hidden + r * N, d_y ? d_y + r * N : none,
                                 d_h + r * padded);
            } else {
                memset(d_gates + r * wide, 0, (size_t)wide * sizeof(float));
                memset(d_hidden + r * wide, 0, (size_t)wide * sizeof(float));
            }
        }
        through_weights(rows, wide, padded, d_hidden, packed, d_h,
                        true); /* rows that are off add zeros */
    }
    carry_out(call->out[2] + at * N, d_h, rows, N, padded);
}

/* ---- running and planning -------------------------------------------------------------------- */

static void work(void *context, int64_t begin, int64_t end)
{
    recurrent_call *call = context;
    const recurrent_plan *p = call->plan;
    for (int64_t slot = begin; slot < end; slot++)
        for (;;) {
            int64_t task = atomic_fetch_add_explicit(&call->next, 1, memory_order_relaxed);
            if (task >= p->tasks) break;
            int64_t first = task % p->blocks * p->block,
                    rows = p->s.B - first < p->block ? p->s.B - first : p->block;
            call->body(call, task / p->blocks, first, rows, call->scratch + slot * p->slot_floats);
        }
}

static void run_tasks(recurrent_call *call, const tn_step *step, void *const *in, void *const *out,
                      void *workspace, int length)
{
    call->plan = step->prepared;
    call->attribute = step->attribute;
    call->in = (const float *const *)in;
    call->out = (float *const *)out;
    call->length = call->attribute->has_length ? in[length] : NULL;
    call->scratch = workspace;
    tn_parallel(call->plan->slots, 1, work, call);
}

static tn_status lstm_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    recurrent_call call = {.body = lstm_rows};
    run_tasks(&call, step, in, out, workspace, 4);
    const tn_recurrent_sizes *s = &call.plan->s;
    last_output(&call, out[1], in[2], out[3]);
    size_t row_bytes = (size_t)(s->B * s->N) * sizeof(float);
    for (int64_t p = 0; p < s->P; p++) {
        const float *from = s->L ? (const float *)out[2] + (p * s->L + s->L - 1) * s->B * s->N
                                 : (const float *)in[3] + p * s->B * s->N;
        memcpy((float *)out[4] + p * s->B * s->N, from, row_bytes);
    }
    return TN_OK;
}

static tn_status gru_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    recurrent_call call = {.body = gru_rows};
    run_tasks(&call, step, in, out, workspace, 4);
    last_output(&call, out[1], in[3], out[3]);
    return TN_OK;
}

static tn_status lstm_grad_run(const tn_step *step, void *const *in, void *const *out,
                               void *workspace)
{
    recurrent_call call = {.body = lstm_rows_backward};
    run_tasks(&call, step, in, out, workspace, tn_recurrent_find(step->attribute, 4).length);
    return TN_OK;
}

static tn_status gru_grad_run(const tn_step *step, void *const *in, void *const *out,
                              void *workspace)
{
    recurrent_call call = {.body = gru_rows_backward};
    run_tasks(&call, step, in, out, workspace, tn_recurrent_find(step->attribute, 5).length);
    return TN_OK;
}

static tn_status prepare(tn_step *step, int64_t gates, bool backward)
{
    const tn_recurrent_attribute *a = step->attribute;
    if (step->in[0].dtype != TN_F32)
        return tn_fail(TN_UNSUPPORTED,
                       "the CPU kernel computes in f32 and does not take %s; cast, or use the "
                       "reference backend",
                       tn_dtype_name(step->in[0].dtype));
    recurrent_plan *p = calloc(1, sizeof *p);
    if (!p) return tn_fail(TN_MEMORY, "out of memory");
    p->s = tn_recurrent_sizes_of(step->in[0].dim, a->clients, gates);
    p->gates = gates;
    const tn_recurrent_sizes *s = &p->s;
    double work_of_all = (double)s->P * (double)s->L * (double)s->B * (double)gates * (double)s->N *
                         (double)s->N;
    bool small = work_of_all < SMALL_WORK;
    int64_t share = tn_round_up((s->B + 7) / 8, 16);
    p->block = small ? s->B : s->B < 32 ? 8 : share;
    p->blocks = p->block > 0 ? (s->B + p->block - 1) / p->block : 0;
    p->tasks = s->P * p->blocks;
    p->slots = small ? 1 : tn_thread_count();
    if (p->slots > p->tasks) p->slots = p->tasks > 0 ? p->tasks : 1;
    int64_t padded = tn_round_up(s->N, TN_VEC);
    p->slot_floats = gates * s->N * padded;
    if (backward) p->slot_floats += (3 * p->block + 1) * padded;
    p->slot_floats = tn_round_up(p->slot_floats, 16);
    step->workspace = (size_t)(p->slots * p->slot_floats) * sizeof(float);
    step->prepared = p;
    return TN_OK;
}

static tn_status lstm_prepare(tn_step *step) { return prepare(step, LSTM_GATES, false); }

static tn_status lstm_grad_prepare(tn_step *step) { return prepare(step, LSTM_GATES, true); }

static tn_status gru_prepare(tn_step *step) { return prepare(step, GRU_GATES, false); }

static tn_status gru_grad_prepare(tn_step *step) { return prepare(step, GRU_GATES, true); }

static void release(tn_step *step)
{
    free(step->prepared);
    step->prepared = NULL;
}

void TN_ISA(tn_cpu_recurrent)(tn_kernel_table *table);
void TN_ISA(tn_cpu_recurrent)(tn_kernel_table *table)
{
    static const tn_kernel lstm = {
        .in_place = 1, .prepare = lstm_prepare, .run = lstm_run, .release = release};
    static const tn_kernel gru = {
        .in_place = 1, .prepare = gru_prepare, .run = gru_run, .release = release};
    static const tn_kernel lstm_grad = {
        .in_place = 1, .prepare = lstm_grad_prepare, .run = lstm_grad_run, .release = release};
    static const tn_kernel gru_grad = {
        .in_place = 1, .prepare = gru_grad_prepare, .run = gru_grad_run, .release = release};
    table->kernel[TN_OP_LSTM] = &lstm;
    table->kernel[TN_OP_GRU] = &gru;
    table->kernel[TN_OP_LSTM_GRAD] = &lstm_grad;
    table->kernel[TN_OP_GRU_GRAD] = &gru_grad;
}
