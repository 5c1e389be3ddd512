/* What the kernels of LSTM and GRU share. Included by files that are compiled once per instruction
 * set.
 *
 * A task is a block of rows of one model, taken through all steps by one thread: rows do not meet,
 * so there is nothing to wait for. The hidden weights are packed once per task and stay in cache;
 * the product of a step leaves its sums in registers, and the gates' activations, the cell and the
 * output follow while the row is in L1. The gradient of the weights is one product over all steps,
 * outside. Operands, results and lengths: graph/recurrent.h. */
#ifndef TN_CPU_SIMD_RECURRENT_H
#define TN_CPU_SIMD_RECURRENT_H

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
    MOST_VECTORS = 4, /* of a register tile */
    MOST_ROWS = 8,
    COLUMNS = 2 * TN_VEC, /* panel of the backward product */
    LEAST_BLOCK = 8,      /* rows for which packing the weights is worth it */
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
    bool pairs; /* products of bf16 pairs, not of f32 */
} recurrent_plan;

typedef struct recurrent_call {
    const recurrent_plan *plan;
    const tn_recurrent_attribute *attribute;
    const void *const *in;
    void *const *out;
    const int32_t *length;
    float *scratch;
    void (*body)(const struct recurrent_call *call, int64_t model, int64_t first, int64_t rows,
                 float *scratch);
    atomic_llong next;
} recurrent_call;

/* ---- values that may be bf16 ----------------------------------------------------------------- */

TN_VEC_INLINE size_t size_of(tn_dtype type) { return type == TN_F32 ? 4 : 2; }

/* Address of element i; NULL for an operand that is absent. */
TN_VEC_INLINE const void *from_element(tn_dtype type, const void *x, int64_t i)
{
    return x ? (const char *)x + i * (int64_t)size_of(type) : NULL;
}

TN_VEC_INLINE void *to_element(tn_dtype type, void *x, int64_t i)
{
    return (char *)x + i * (int64_t)size_of(type);
}

TN_VEC_INLINE float value_at(tn_dtype type, const void *x, int64_t i)
{
    return type == TN_F32 ? ((const float *)x)[i] : tn_f32_from_bf16(((const uint16_t *)x)[i]);
}

TN_VEC_INLINE const void *optional(const recurrent_call *call, int at)
{
    return at >= 0 ? call->in[at] : NULL;
}

/* Rows of N become f32 rows of `padded`, zeros behind N; all zeros without a source. */
TN_VEC_INLINE void carry_in(float *to, const void *from, int64_t rows, int64_t N, int64_t padded,
                            tn_dtype type)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < padded; j++)
            to[r * padded + j] = from && j < N ? value_at(type, from, r * N + j) : 0;
}

TN_VEC_INLINE void carry_out(void *to, const float *from, int64_t rows, int64_t N, int64_t padded,
                             tn_dtype type)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < N; j += TN_VEC) {
            int count = N - j < TN_VEC ? (int)(N - j) : TN_VEC;
            tn_vec_put(type, to, r * N + j, tn_load(from + r * padded + j), count);
        }
}

/* ---- products -------------------------------------------------------------------------------- */

/* w [gates*N][N] -> f32 [panels][N][gates][TN_VEC], zeros behind unit N. */
TN_VEC_INLINE void pack_gates(float *restrict to, const void *w, int64_t gates, int64_t N,
                              tn_dtype type)
{
    for (int64_t unit = 0; unit < N; unit += TN_VEC, to += N * gates * TN_VEC)
        for (int64_t g = 0; g < gates; g++)
            for (int64_t lane = 0; lane < TN_VEC; lane++) {
                int64_t from = (g * N + unit + lane) * N;
                float *column = to + g * TN_VEC + lane;
                bool inside = unit + lane < N;
                for (int64_t k = 0; k < N; k++)
                    column[k * gates * TN_VEC] = inside ? value_at(type, w, from + k) : 0;
            }
}

/* w [depth][N] -> f32 panels [depth][COLUMNS] (the last one vector wide where that is enough),
 * zeros behind column N. */
TN_VEC_INLINE void pack_columns(float *restrict to, const void *w, int64_t depth, int64_t N,
                                tn_dtype type)
{
    for (int64_t column = 0, width; column < N; column += width, to += depth * width) {
        int64_t left = tn_round_up(N - column, TN_VEC), count;
        width = left < COLUMNS ? left : COLUMNS;
        count = N - column < width ? N - column : width;
        for (int64_t k = 0; k < depth; k++)
            for (int64_t j = 0; j < width; j++)
                to[k * width + j] = j < count ? value_at(type, w, k * N + column + j) : 0;
    }
}

/* to[rows][gates][TN_VEC] = h w for one panel. rows and gates are constants where this is
 * inlined. */
TN_VEC_INLINE void gate_tile(int rows, int gates, int64_t depth, const float *restrict h,
                             int64_t h_row, const float *restrict w, float *restrict to)
{
    tn_vec sum[MOST_ROWS][MOST_VECTORS];
    TN_UNROLL
    for (int i = 0; i < rows; i++) {
        TN_UNROLL
        for (int g = 0; g < gates; g++) sum[i][g] = (tn_vec){0};
    }
    for (int64_t k = 0; k < depth; k++) {
        tn_vec right[MOST_VECTORS];
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

/* d_h[rows][padded] = or += d_gates[rows][depth] w. */
static inline void through_weights(int64_t rows, int64_t depth, int64_t padded,
                                   const float *d_gates, const float *packed, float *d_h, bool add)
{
    for (int64_t column = 0, width; column < padded; column += width, packed += depth * width) {
        width = padded - column < COLUMNS ? padded - column : COLUMNS;
        tn_multiply_rows(rows, width, depth, d_gates, depth, packed, width, d_h + column, padded,
                         add);
    }
}

/* ---- steps ----------------------------------------------------------------------------------- */

static inline bool is_on(const recurrent_call *call, int64_t row, int64_t t)
{
    return !call->length || t < call->length[row];
}

TN_VEC_INLINE tn_vec get(const float *x, int count) { return tn_vec_get(TN_F32, x, 0, count); }

TN_VEC_INLINE void put(float *y, tn_vec x, int count) { tn_vec_put(TN_F32, y, 0, x, count); }

/* Asks for one vector of units of one row of the next step: input, and what will be written. Steps
 * lie so far apart that the machine does not see them coming. `gate`: bytes between gates. */
TN_VEC_INLINE void ask_for_units(int gates, int64_t gate, const void *x, void *to, void *narrow,
                                 void *y)
{
    TN_UNROLL
    for (int g = 0; g < gates; g++) {
        __builtin_prefetch((const char *)x + g * gate);
        __builtin_prefetch((char *)to + g * gate, 1);
    }
    __builtin_prefetch(narrow, 1);
    __builtin_prefetch(y, 1);
}

/* The last state of every row: the output at its last step. */
static inline void last_output(const recurrent_call *call, const void *y, const void *h0, void *h,
                               tn_dtype type)
{
    const tn_recurrent_sizes *s = &call->plan->s;
    for (int64_t model = 0; model < s->P; model++)
        for (int64_t b = 0; b < s->B; b++) {
            int64_t row = model * s->B + b, steps = s->L;
            if (call->length && call->length[row] < steps)
                steps = call->length[row] > 0 ? call->length[row] : 0;
            int64_t last = model * s->L * s->B + (steps - 1) * s->B + b;
            memcpy(to_element(type, h, row * s->N),
                   steps ? from_element(type, y, last * s->N) : from_element(type, h0, row * s->N),
                   (size_t)s->N * size_of(type));
        }
}

/* ---- running and planning -------------------------------------------------------------------- */

static inline void recurrent_work(void *context, int64_t begin, int64_t end)
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

/* `length`: number of the operand, if the attribute says that there is one. */
static inline void run_tasks(recurrent_call *call, const tn_step *step, void *const *in,
                             void *const *out, void *workspace, int length)
{
    call->plan = step->prepared;
    call->attribute = step->attribute;
    call->in = (const void *const *)in;
    call->out = out;
    call->length = call->attribute->has_length ? in[length] : NULL;
    call->scratch = workspace;
    tn_parallel(call->plan->slots, 1, recurrent_work, call);
}

static inline tn_status recurrent_prepare(tn_step *step, int64_t gates, bool backward)
{
    const tn_recurrent_attribute *a = step->attribute;
    tn_dtype type = step->in[0].dtype;
    if (type != TN_F32 && !(type == TN_BF16 && gates == LSTM_GATES))
        return tn_fail(TN_UNSUPPORTED,
                       "the CPU kernel computes in f32 and does not take %s; cast, or use the "
                       "reference backend",
                       tn_dtype_name(type));
    recurrent_plan *p = calloc(1, sizeof *p);
    if (!p) return tn_fail(TN_MEMORY, "out of memory");
    p->s = tn_recurrent_sizes_of(step->in[0].dim, a->clients, gates);
    p->gates = gates;
    const tn_recurrent_sizes *s = &p->s;
    p->pairs = type == TN_BF16 && s->N % 2 == 0 && tn_machine_has_pairs();
    double work_of_all = (double)s->P * (double)s->L * (double)s->B * (double)gates * (double)s->N *
                         (double)s->N;
    int64_t threads = work_of_all < SMALL_WORK ? 1 : tn_thread_count(),
            parts = s->P > 0 ? (threads + s->P - 1) / s->P : 1;
    p->block = (s->B + parts - 1) / parts;
    if (p->block < LEAST_BLOCK) p->block = LEAST_BLOCK;
    p->blocks = (s->B + p->block - 1) / p->block;
    p->tasks = s->P * p->blocks;
    p->slots = threads < p->tasks ? threads : p->tasks > 0 ? p->tasks : 1;
    int64_t padded = tn_round_up(s->N, TN_VEC);
    p->slot_floats = gates * s->N * padded;
    if (backward) p->slot_floats += (3 * p->block + 1) * padded;
    if (type != TN_F32 && !p->pairs) p->slot_floats += p->block * (backward ? gates : 1) * s->N;
    p->slot_floats = tn_round_up(p->slot_floats, 16);
    step->workspace = (size_t)(p->slots * p->slot_floats) * sizeof(float);
    step->prepared = p;
    return TN_OK;
}

static inline void recurrent_release(tn_step *step)
{
    free(step->prepared);
    step->prepared = NULL;
}

#endif
