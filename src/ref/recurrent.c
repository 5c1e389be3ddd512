/* LSTM and GRU, step by step and unit by unit, as the equations stand. Operands and results:
 * graph/recurrent.h. */
#include "graph/recurrent.h"

#include <math.h>

enum { LSTM_GATES = 4, GRU_GATES = 3 };

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

/* Operands of one model of the P: each advanced by p of its own size. */
static const double *part(const double *x, int64_t p, int64_t size)
{
    return x ? x + p * size : NULL;
}

static const double *optional(void *const *in, int at) { return at >= 0 ? in[at] : NULL; }

/* row k of w [*, n] times h[n] */
static double row_times(const double *w, int64_t k, const double *h, int64_t n)
{
    double sum = 0;
    for (int64_t j = 0; j < n; j++) sum += w[k * n + j] * h[j];
    return sum;
}

/* ---- forward --------------------------------------------------------------------------------- */

static tn_status lstm_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const tn_recurrent_attribute *a = step->attribute;
    tn_recurrent_sizes s = tn_recurrent_sizes_of(step->in[0].dim, a->clients, LSTM_GATES);
    int64_t L = s.L, B = s.B, N = s.N;
    for (int64_t p = 0; p < s.P; p++) {
        const double *x = part(in[0], p, L * B * 4 * N), *w = part(in[1], p, 4 * N * N),
                     *length = part(optional(in, a->has_length ? 4 : -1), p, B);
        double *gates = (double *)out[0] + p * L * B * 4 * N, *y = (double *)out[1] + p * L * B * N,
               *cells = (double *)out[2] + p * L * B * N;
        double *h = (double *)out[3] + p * B * N, *c = (double *)out[4] + p * B * N;
        for (int64_t i = 0; i < B * N; i++)
            h[i] = part(in[2], p, B * N)[i], c[i] = part(in[3], p, B * N)[i];
        for (int64_t t = 0; t < L; t++)
            for (int64_t b = 0; b < B; b++) {
                bool on = !length || (double)t < length[b];
                double *gate = gates + (t * B + b) * 4 * N, *y_row = y + (t * B + b) * N,
                       *c_row = cells + (t * B + b) * N;
                for (int64_t k = 0; k < 4 * N; k++) {
                    double sum = x[(t * B + b) * 4 * N + k] + row_times(w, k, h + b * N, N);
                    gate[k] = !on ? 0 : k / N == 2 ? tanh(sum) : sigmoid(sum);
                }
                for (int64_t j = 0; j < N; j++) {
                    if (on) {
                        c[b * N + j] = gate[N + j] * c[b * N + j] + gate[j] * gate[2 * N + j];
                        h[b * N + j] = gate[3 * N + j] * tanh(c[b * N + j]);
                    }
                    y_row[j] = on ? h[b * N + j] : 0;
                    c_row[j] = c[b * N + j];
                }
            }
    }
    return TN_OK;
}

static tn_status gru_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const tn_recurrent_attribute *a = step->attribute;
    tn_recurrent_sizes s = tn_recurrent_sizes_of(step->in[0].dim, a->clients, GRU_GATES);
    int64_t L = s.L, B = s.B, N = s.N;
    for (int64_t p = 0; p < s.P; p++) {
        const double *x = part(in[0], p, L * B * 3 * N), *w = part(in[1], p, 3 * N * N),
                     *bias = part(in[2], p, 3 * N);
        const double *h0 = part(in[3], p, B * N),
                     *length = part(optional(in, a->has_length ? 4 : -1), p, B);
        double *gates = (double *)out[0] + p * L * B * 3 * N, *y = (double *)out[1] + p * L * B * N,
               *hidden = (double *)out[2] + p * L * B * N;
        double *h = (double *)out[3] + p * B * N;
        for (int64_t i = 0; i < B * N; i++) h[i] = h0[i];
        for (int64_t t = 0; t < L; t++)
            for (int64_t b = 0; b < B; b++) {
                bool on = !length || (double)t < length[b];
                int64_t at = t * B + b;
                for (int64_t j = 0; j < N; j++) {
                    const double *h_row = h + b * N, *x_row = x + at * 3 * N;
                    double of_x[3], of_h[3];
                    for (int k = 0; k < 3; k++) {
                        of_x[k] = x_row[k * N + j];
                        of_h[k] = row_times(w, k * N + j, h_row, N) + bias[k * N + j];
                    }
                    double r = sigmoid(of_x[0] + of_h[0]), z = sigmoid(of_x[1] + of_h[1]),
                           n = tanh(of_x[2] + r * of_h[2]);
                    gates[at * 3 * N + j] = on ? r : 0;
                    gates[at * 3 * N + N + j] = on ? z : 0;
                    gates[at * 3 * N + 2 * N + j] = on ? n : 0;
                    hidden[at * N + j] = on ? of_h[2] : 0;
                    y[at * N + j] = on ? (1 - z) * n + z * h_row[j] : 0;
                }
                for (int64_t j = 0; j < N && on; j++) h[b * N + j] = y[at * N + j];
            }
    }
    return TN_OK;
}

/* ---- gradients ------------------------------------------------------------------------------- */

static tn_status lstm_grad_run(const tn_step *step, void *const *in, void *const *out,
                               void *workspace)
{
    (void)workspace;
    const tn_recurrent_attribute *a = step->attribute;
    tn_recurrent_optional at = tn_recurrent_find(a, 4);
    tn_recurrent_sizes s = tn_recurrent_sizes_of(step->in[0].dim, a->clients, LSTM_GATES);
    int64_t L = s.L, B = s.B, N = s.N;
    for (int64_t p = 0; p < s.P; p++) {
        const double *gates = part(in[0], p, L * B * 4 * N), *w = part(in[1], p, 4 * N * N),
                     *cells = part(in[2], p, L * B * N);
        const double *c0 = part(in[3], p, B * N), *d_y = part(optional(in, at.d_y), p, L * B * N);
        const double *d_h_last = part(optional(in, at.d_h), p, B * N),
                     *d_c_last = part(optional(in, at.d_c), p, B * N);
        const double *length = part(optional(in, at.length), p, B);
        double *d_gates = (double *)out[0] + p * L * B * 4 * N, *d_h = (double *)out[1] + p * B * N,
               *d_c = (double *)out[2] + p * B * N;
        for (int64_t i = 0; i < B * N; i++)
            d_h[i] = d_h_last ? d_h_last[i] : 0, d_c[i] = d_c_last ? d_c_last[i] : 0;
        for (int64_t t = L - 1; t >= 0; t--)
            for (int64_t b = 0; b < B; b++) {
                bool on = !length || (double)t < length[b];
                int64_t row = t * B + b;
                double *d = d_gates + row * 4 * N;
                for (int64_t k = 0; k < 4 * N && !on; k++) d[k] = 0;
                if (!on) continue;
                for (int64_t j = 0; j < N; j++) {
                    double i = gates[row * 4 * N + j], f = gates[row * 4 * N + N + j],
                           g = gates[row * 4 * N + 2 * N + j], o = gates[row * 4 * N + 3 * N + j];
                    double c_before = t > 0 ? cells[(row - B) * N + j] : c0[b * N + j],
                           bent = tanh(cells[row * N + j]);
                    double here = d_h[b * N + j] + (d_y ? d_y[row * N + j] : 0);
                    double through_c = d_c[b * N + j] + here * o * (1 - bent * bent);
                    d[j] = through_c * g * i * (1 - i);
                    d[N + j] = through_c * c_before * f * (1 - f);
                    d[2 * N + j] = through_c * i * (1 - g * g);
                    d[3 * N + j] = here * bent * o * (1 - o);
                    d_c[b * N + j] = through_c * f;
                }
                for (int64_t j = 0; j < N; j++) {
                    d_h[b * N + j] = 0;
                    for (int64_t k = 0; k < 4 * N; k++) d_h[b * N + j] += d[k] * w[k * N + j];
                }
            }
    }
    return TN_OK;
}

static tn_status gru_grad_run(const tn_step *step, void *const *in, void *const *out,
                              void *workspace)
{
    (void)workspace;
    const tn_recurrent_attribute *a = step->attribute;
    tn_recurrent_optional at = tn_recurrent_find(a, 5);
    tn_recurrent_sizes s = tn_recurrent_sizes_of(step->in[0].dim, a->clients, GRU_GATES);
    int64_t L = s.L, B = s.B, N = s.N;
    for (int64_t p = 0; p < s.P; p++) {
        const double *gates = part(in[0], p, L * B * 3 * N), *w = part(in[1], p, 3 * N * N),
                     *y = part(in[2], p, L * B * N);
        const double *hidden = part(in[3], p, L * B * N), *h0 = part(in[4], p, B * N),
                     *d_y = part(optional(in, at.d_y), p, L * B * N);
        const double *d_h_last = part(optional(in, at.d_h), p, B * N),
                     *length = part(optional(in, at.length), p, B);
        double *d_gates = (double *)out[0] + p * L * B * 3 * N,
               *d_hidden = (double *)out[1] + p * L * B * 3 * N,
               *d_h = (double *)out[2] + p * B * N;
        for (int64_t i = 0; i < B * N; i++) d_h[i] = d_h_last ? d_h_last[i] : 0;
        for (int64_t t = L - 1; t >= 0; t--)
            for (int64_t b = 0; b < B; b++) {
                bool on = !length || (double)t < length[b];
                int64_t row = t * B + b;
                double *to_x = d_gates + row * 3 * N, *to_h = d_hidden + row * 3 * N;
                for (int64_t k = 0; k < 3 * N && !on; k++) to_x[k] = to_h[k] = 0;
                if (!on) continue;
                for (int64_t j = 0; j < N; j++) {
                    double r = gates[row * 3 * N + j], z = gates[row * 3 * N + N + j],
                           n = gates[row * 3 * N + 2 * N + j];
                    double h_before = t > 0 ? y[(row - B) * N + j] : h0[b * N + j];
                    double here = d_h[b * N + j] + (d_y ? d_y[row * N + j] : 0);
                    double d_n = here * (1 - z) * (1 - n * n);
                    to_x[j] = to_h[j] = d_n * hidden[row * N + j] * r * (1 - r);
                    to_x[N + j] = to_h[N + j] = here * (h_before - n) * z * (1 - z);
                    to_x[2 * N + j] = d_n;
                    to_h[2 * N + j] = d_n * r;
                    d_h[b * N + j] = here * z;
                }
                for (int64_t j = 0; j < N; j++)
                    for (int64_t k = 0; k < 3 * N; k++) d_h[b * N + j] += to_h[k] * w[k * N + j];
            }
    }
    return TN_OK;
}

void tn_ref_recurrent(tn_kernel_table *table);
void tn_ref_recurrent(tn_kernel_table *table)
{
    static const tn_kernel lstm = {.run = lstm_run}, lstm_grad = {.run = lstm_grad_run},
                           gru = {.run = gru_run}, gru_grad = {.run = gru_grad_run};
    table->kernel[TN_OP_LSTM] = &lstm;
    table->kernel[TN_OP_LSTM_GRAD] = &lstm_grad;
    table->kernel[TN_OP_GRU] = &gru;
    table->kernel[TN_OP_GRU_GRAD] = &gru_grad;
}
