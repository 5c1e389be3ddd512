/* GRU over whole sequences, forward and backward, in f32. The scheme: recurrent.h. */
#include "cpu/simd/recurrent.h"

/* ---- forward --------------------------------------------------------------------------------- */

static __attribute__((noinline)) void gru_product(int64_t rows, int64_t depth, const float *h,
                                                  const float *w, float *to)
{
    gate_rows(rows, GRU_GATES, depth, h, depth, w, to);
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

static void gru_forward(const recurrent_call *call, int64_t model, int64_t first, int64_t rows,
                        float *scratch)
{
    const tn_recurrent_sizes *s = &call->plan->s;
    int64_t N = s->N, B = s->B, at = model * B + first;
    const float *bias = (const float *)call->in[2] + model * GRU_GATES * N,
                *h0 = (const float *)call->in[3] + at * N;
    float sums[GRU_ROWS * GRU_GATES * TN_VEC];
    pack_gates(scratch, (const float *)call->in[1] + model * GRU_GATES * N * N, GRU_GATES, N,
               TN_F32);
    for (int64_t t = 0; t < s->L; t++) {
        int64_t step = model * s->L * B + t * B + first;
        const float *x = (const float *)call->in[0] + step * GRU_GATES * N;
        float *gates = (float *)call->out[0] + step * GRU_GATES * N,
              *y = (float *)call->out[1] + step * N, *hidden = (float *)call->out[2] + step * N;
        const float *h = t ? y - B * N : h0, *w = scratch;
        for (int64_t unit = 0; unit < N; unit += TN_VEC, w += N * GRU_GATES * TN_VEC)
            for (int64_t r = 0; r < rows; r += GRU_ROWS) {
                int64_t count = rows - r < GRU_ROWS ? rows - r : GRU_ROWS;
                gru_product(count, N, h + r * N, w, sums);
                for (int64_t i = 0; i < count; i++) {
                    int64_t narrow = (r + i) * N + unit, wide = (r + i) * GRU_GATES * N + unit;
                    if (t + 1 < s->L)
                        ask_for_units(GRU_GATES, N * (int64_t)sizeof(float),
                                      x + B * GRU_GATES * N + wide,
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

static tn_status gru_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    recurrent_call call = {.body = gru_forward};
    run_tasks(&call, step, in, out, workspace, 4);
    last_output(&call, out[1], in[3], out[3], TN_F32);
    return TN_OK;
}

/* ---- backward -------------------------------------------------------------------------------- */

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

static void gru_backward(const recurrent_call *call, int64_t model, int64_t first, int64_t rows,
                         float *scratch)
{
    const tn_recurrent_sizes *s = &call->plan->s;
    tn_recurrent_optional where = tn_recurrent_find(call->attribute, 5);
    int64_t N = s->N, B = s->B, at = model * B + first, wide = GRU_GATES * N,
            padded = tn_round_up(N, TN_VEC);
    float *packed = scratch, *d_h = packed + wide * padded, *none = d_h + rows * padded;
    pack_columns(packed, (const float *)call->in[1] + model * wide * N, wide, N, TN_F32);
    carry_in(d_h, from_element(TN_F32, optional(call, where.d_h), at * N), rows, N, padded, TN_F32);
    memset(none, 0, (size_t)padded * sizeof(float));
    for (int64_t t = s->L - 1; t >= 0; t--) {
        int64_t step = model * s->L * B + t * B + first;
        const float *gates = (const float *)call->in[0] + step * wide,
                    *hidden = (const float *)call->in[3] + step * N,
                    *d_y = from_element(TN_F32, optional(call, where.d_y), step * N);
        const float *before = t ? (const float *)call->in[2] + (step - B) * N
                                : (const float *)call->in[4] + at * N;
        float *d_gates = (float *)call->out[0] + step * wide,
              *d_hidden = (float *)call->out[1] + step * wide;
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
    carry_out((float *)call->out[2] + at * N, d_h, rows, N, padded, TN_F32);
}

static tn_status gru_grad_run(const tn_step *step, void *const *in, void *const *out,
                              void *workspace)
{
    recurrent_call call = {.body = gru_backward};
    run_tasks(&call, step, in, out, workspace, tn_recurrent_find(step->attribute, 5).length);
    return TN_OK;
}

static tn_status gru_prepare(tn_step *step) { return recurrent_prepare(step, GRU_GATES, false); }

static tn_status gru_grad_prepare(tn_step *step)
{
    return recurrent_prepare(step, GRU_GATES, true);
}

void TN_ISA(tn_cpu_gru)(tn_kernel_table *table);
void TN_ISA(tn_cpu_gru)(tn_kernel_table *table)
{
    static const tn_kernel gru = {
        .in_place = 1, .prepare = gru_prepare, .run = gru_run, .release = recurrent_release};
    static const tn_kernel gru_grad = {.in_place = 1,
                                       .prepare = gru_grad_prepare,
                                       .run = gru_grad_run,
                                       .release = recurrent_release};
    table->kernel[TN_OP_GRU] = &gru;
    table->kernel[TN_OP_GRU_GRAD] = &gru_grad;
}
