/* Cross-entropy, the long way round: see graph/ops/loss.c for the formulas and the edges. */
#include "graph/norm.h"

#include <math.h>

static tn_status check_label(double label, int64_t row, int64_t classes)
{
    if (label == TN_IGNORED_LABEL || (label >= 0 && label < (double)classes)) return TN_OK;
    return tn_fail(TN_INVALID,
                   "cross_entropy: label %.0f in row %lld is outside 0..%lld (%d is ignored)",
                   label, (long long)row, (long long)classes - 1, TN_IGNORED_LABEL);
}

static double logsumexp(const double *x, int64_t count)
{
    double highest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < count; j++) highest = fmax(highest, x[j]);
    if (highest == -INFINITY) highest = 0;
    for (int64_t j = 0; j < count; j++) sum += exp(x[j] - highest);
    return highest + log(sum);
}

static tn_status run_cross_entropy(const tn_step *step, void *const *in, void *const *out,
                                   void *workspace)
{
    (void)workspace;
    double smoothing = ((const tn_cross_entropy_attribute *)step->attribute)->smoothing,
           *loss = out[0], *lse = out[1];
    const double *label = in[1];
    int64_t rows = step->in[0].dim[0], classes = step->in[0].dim[1];
    for (int64_t n = 0; n < rows; n++) {
        const double *x = (const double *)in[0] + n * classes;
        TN_TRY(check_label(label[n], n, classes));
        lse[n] = logsumexp(x, classes);
        loss[n] = 0;
        if (label[n] == TN_IGNORED_LABEL) continue;
        double sum = 0;
        for (int64_t j = 0; j < classes; j++) sum += x[j];
        loss[n] = (1 - smoothing) * (lse[n] - x[(int64_t)label[n]]);
        if (smoothing > 0) loss[n] += smoothing * (lse[n] - sum / (double)classes);
        if (lse[n] == -INFINITY) loss[n] = INFINITY;
    }
    return TN_OK;
}

static tn_status run_cross_entropy_grad(const tn_step *step, void *const *in, void *const *out,
                                        void *workspace)
{
    (void)workspace;
    double smoothing = ((const tn_cross_entropy_attribute *)step->attribute)->smoothing;
    const double *label = in[1], *lse = in[2], *d_loss = in[3];
    int64_t rows = step->in[0].dim[0], classes = step->in[0].dim[1];
    for (int64_t n = 0; n < rows; n++) {
        const double *x = (const double *)in[0] + n * classes;
        double *d_x = (double *)out[0] + n * classes;
        TN_TRY(check_label(label[n], n, classes));
        bool counted = label[n] != TN_IGNORED_LABEL && lse[n] != -INFINITY;
        for (int64_t j = 0; j < classes; j++) {
            double target = (label[n] == (double)j ? 1 - smoothing : 0) +
                            smoothing / (double)classes;
            d_x[j] = counted ? d_loss[n] * (exp(x[j] - lse[n]) - target) : 0;
        }
    }
    return TN_OK;
}

void tn_ref_loss(tn_kernel_table *table);
void tn_ref_loss(tn_kernel_table *table)
{
    static const tn_kernel cross_entropy = {.run = run_cross_entropy},
                           cross_entropy_grad = {.run = run_cross_entropy_grad};
    table->kernel[TN_OP_CROSS_ENTROPY] = &cross_entropy;
    table->kernel[TN_OP_CROSS_ENTROPY_GRAD] = &cross_entropy_grad;
}
