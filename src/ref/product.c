/* Matrix product and convolution, by their definitions. */
#include <math.h>
#include <string.h>

#include "graph/kernel.h"

void tn_ref_product(tn_kernel_table *table);

static double activate(double x, int32_t activation)
{
    switch (activation) {
    case TN_OP_RELU: return x > 0 || isnan(x) ? x : 0;
    case TN_OP_GELU: return x * 0.5 * (1 + erf(x * sqrt(0.5)));
    case TN_OP_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
    case TN_OP_SILU: return x / (1 + exp(-x));
    default: return x;
    }
}

/* ---- matrix product -------------------------------------------------------------------------- */

/* Where the matrix of `x` begins that batch entry `flat` of the result uses. */
static int64_t matrix_start(const tn_operand *x, const tn_operand *out, int64_t flat)
{
    int64_t start = 0;
    for (int i = out->rank - 3; i >= 0; i--) {
        int64_t at = flat % out->dim[i];
        flat /= out->dim[i];
        int k = i - (out->rank - x->rank);
        if (k >= 0 && x->dim[k] != 1) start += at * x->stride[k];
    }
    return start;
}

static tn_status matmul_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const tn_matmul_attribute *t = step->attribute;
    const tn_operand *a = &step->in[0], *b = &step->in[1], *c = &step->out[0];
    const double *x = in[0], *y = in[1], *bias = t->has_bias ? in[2] : NULL;
    double *z = out[0];
    int64_t M = c->dim[c->rank - 2], N = c->dim[c->rank - 1],
            K = a->dim[a->rank - (t->transpose_a ? 2 : 1)];
    int64_t a_m = a->stride[a->rank - (t->transpose_a ? 1 : 2)],
            a_k = a->stride[a->rank - (t->transpose_a ? 2 : 1)];
    int64_t b_k = b->stride[b->rank - (t->transpose_b ? 1 : 2)],
            b_n = b->stride[b->rank - (t->transpose_b ? 2 : 1)];
    int64_t batch = M && N ? tn_operand_size(c) / (M * N) : 0;
    for (int64_t i = 0; i < batch; i++) {
        const double *left = x + matrix_start(a, c, i), *right = y + matrix_start(b, c, i);
        for (int64_t m = 0; m < M; m++)
            for (int64_t n = 0; n < N; n++) {
                double sum = 0;
                for (int64_t k = 0; k < K; k++)
                    sum += left[m * a_m + k * a_k] * right[k * b_k + n * b_n];
                z[(i * M + m) * N + n] = activate(sum + (bias ? bias[n] : 0), t->activation);
            }
    }
    return TN_OK;
}

/* ---- convolution ----------------------------------------------------------------------------- */

/* Sizes with absent spatial dimensions as 1. */
typedef struct sizes {
    const tn_conv_geometry *g;
    int64_t B, C, F, S[3], O[3], k[3];
} sizes;

static void spatial(int64_t *to, const tn_operand *x)
{
    for (int i = 0; i < 3; i++) to[i] = i + 2 < x->rank ? x->dim[i + 2] : 1;
}

static sizes sizes_of(const tn_step *step, const tn_operand *x, const tn_operand *weight,
                      const tn_operand *y)
{
    sizes s = {.g = &((const tn_conv_attribute *)step->attribute)->geometry,
               .B = x->dim[0],
               .C = x->dim[1],
               .F = y->dim[1]};
    spatial(s.S, x);
    spatial(s.O, y);
    spatial(s.k, weight);
    return s;
}

typedef void term(double *x, double *weight, double *y);

/* Calls `each` with the elements of every product x[b, c, o*stride - pad + k*dilation] *
 * weight[f, c, k] that belongs to y[b, f, o]. */
static void for_each_term(const sizes *s, double *x, double *weight, double *y, term *each)
{
    int64_t c_group = s->C / s->g->groups, f_group = s->F / s->g->groups;
    for (int64_t b = 0; b < s->B; b++)
        for (int64_t f = 0; f < s->F; f++)
            for (int64_t o0 = 0; o0 < s->O[0]; o0++)
                for (int64_t o1 = 0; o1 < s->O[1]; o1++)
                    for (int64_t o2 = 0; o2 < s->O[2]; o2++)
                        for (int64_t c = 0; c < c_group; c++)
                            for (int64_t k0 = 0; k0 < s->k[0]; k0++)
                                for (int64_t k1 = 0; k1 < s->k[1]; k1++)
                                    for (int64_t k2 = 0; k2 < s->k[2]; k2++) {
                                        int64_t i0 = o0 * s->g->stride[0] - s->g->pad_before[0] +
                                                     k0 * s->g->dilation[0];
                                        int64_t i1 = o1 * s->g->stride[1] - s->g->pad_before[1] +
                                                     k1 * s->g->dilation[1];
                                        int64_t i2 = o2 * s->g->stride[2] - s->g->pad_before[2] +
                                                     k2 * s->g->dilation[2];
                                        if (i0 < 0 || i0 >= s->S[0] || i1 < 0 || i1 >= s->S[1] ||
                                            i2 < 0 || i2 >= s->S[2])
                                            continue;
                                        int64_t channel = b * s->C + f / f_group * c_group + c;
                                        each(
                                            &x[((channel * s->S[0] + i0) * s->S[1] + i1) * s->S[2] +
                                               i2],
                                            &weight[(((f * c_group + c) * s->k[0] + k0) * s->k[1] +
                                                     k1) *
                                                        s->k[2] +
                                                    k2],
                                            &y[(((b * s->F + f) * s->O[0] + o0) * s->O[1] + o1) *
                                                   s->O[2] +
                                               o2]);
                                    }
}

static void zero(double *x, const tn_operand *like)
{
    int64_t size = tn_operand_size(like);
    if (size > 0) memset(x, 0, (size_t)size * sizeof *x);
}

static void forward(double *x, double *weight, double *y) { *y += *x * *weight; }
static void to_input(double *x, double *weight, double *y) { *x += *y * *weight; }
static void to_weight(double *x, double *weight, double *y) { *weight += *x * *y; }

static tn_status convolution_run(const tn_step *step, void *const *in, void *const *out,
                                 void *workspace)
{
    (void)workspace;
    const tn_conv_attribute *t = step->attribute;
    sizes s = sizes_of(step, &step->in[0], &step->in[1], &step->out[0]);
    double *y = out[0];
    zero(y, &step->out[0]);
    for_each_term(&s, in[0], in[1], y, forward);
    int64_t positions = s.O[0] * s.O[1] * s.O[2];
    for (int64_t i = 0; i < s.B * s.F * positions; i++)
        y[i] += t->has_bias ? ((const double *)in[2])[i / positions % s.F] : 0;
    return TN_OK;
}

static tn_status convolution_input_run(const tn_step *step, void *const *in, void *const *out,
                                       void *workspace)
{
    (void)workspace;
    sizes s = sizes_of(step, &step->out[0], &step->in[1], &step->in[0]);
    zero(out[0], &step->out[0]);
    for_each_term(&s, out[0], in[1], in[0], to_input);
    return TN_OK;
}

static tn_status convolution_weight_run(const tn_step *step, void *const *in, void *const *out,
                                        void *workspace)
{
    (void)workspace;
    sizes s = sizes_of(step, &step->in[0], &step->out[0], &step->in[1]);
    zero(out[0], &step->out[0]);
    for_each_term(&s, in[0], out[0], in[1], to_weight);
    return TN_OK;
}

void tn_ref_product(tn_kernel_table *table)
{
    static const tn_kernel matmul = {.run = matmul_run}, convolution = {.run = convolution_run},
                           convolution_input = {.run = convolution_input_run},
                           convolution_weight = {.run = convolution_weight_run};
    table->kernel[TN_OP_MATMUL] = &matmul;
    table->kernel[TN_OP_CONVOLUTION] = &convolution;
    table->kernel[TN_OP_CONVOLUTION_INPUT] = &convolution_input;
    table->kernel[TN_OP_CONVOLUTION_WEIGHT] = &convolution_weight;
}
