/* Softmax and norms, the long way round; formulas as in graph/ops/{softmax,norm,batch_norm}.c.
 * An element is written only after everything that is read at its place, because the CPU backend
 * runs these kernels for f64, in place. */
#include "graph/norm.h"

#include <math.h>

/* ---- softmax --------------------------------------------------------------------------------- */

/* x seen as [outer, count, inner] around the axis. */
typedef struct slices {
    int64_t outer, count, inner;
} slices;

static slices slices_of(const tn_step *step)
{
    int axis = ((const tn_axis_attribute *)step->attribute)->axis;
    slices s = {1, step->in[0].dim[axis], 1};
    for (int i = 0; i < axis; i++) s.outer *= step->in[0].dim[i];
    for (int i = axis + 1; i < step->in[0].rank; i++) s.inner *= step->in[0].dim[i];
    return s;
}

/* One slice: elements first, first + inner, ... */
static void softmax_slice(const double *x, double *y, slices s, int64_t first, bool logarithm)
{
    double highest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < s.count; j++) highest = fmax(highest, x[first + j * s.inner]);
    if (highest == -INFINITY) highest = 0;
    for (int64_t j = 0; j < s.count; j++) sum += exp(x[first + j * s.inner] - highest);
    if (sum == 0) sum = 1;
    for (int64_t j = 0; j < s.count; j++) {
        double shifted = x[first + j * s.inner] - highest;
        y[first + j * s.inner] = logarithm ? shifted - log(sum) : exp(shifted) / sum;
    }
}

static tn_status run_softmax(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    (void)workspace;
    slices s = slices_of(step);
    for (int64_t o = 0; o < s.outer; o++)
        for (int64_t i = 0; i < s.inner; i++)
            softmax_slice(in[0], out[0], s, o * s.count * s.inner + i,
                          step->op->id == TN_OP_LOG_SOFTMAX);
    return TN_OK;
}

static tn_status run_softmax_grad(const tn_step *step, void *const *in, void *const *out,
                                  void *workspace)
{
    (void)workspace;
    slices s = slices_of(step);
    const double *y = in[0], *d_y = in[1];
    double *d_x = out[0];
    bool logarithm = step->op->id == TN_OP_LOG_SOFTMAX_GRAD;
    for (int64_t o = 0; o < s.outer; o++)
        for (int64_t i = 0; i < s.inner; i++) {
            int64_t first = o * s.count * s.inner + i;
            double sum = 0;
            for (int64_t j = 0, k = first; j < s.count; j++, k += s.inner)
                sum += logarithm ? d_y[k] : y[k] * d_y[k];
            for (int64_t j = 0, k = first; j < s.count; j++, k += s.inner)
                d_x[k] = logarithm ? d_y[k] - exp(y[k]) * sum : y[k] * (d_y[k] - sum);
        }
    return TN_OK;
}

/* ---- layer and RMS norm: N rows of E --------------------------------------------------------- */

static void rows_of(const tn_step *step, int64_t *rows, int64_t *width)
{
    int axes = ((const tn_norm_attribute *)step->attribute)->axes;
    const tn_operand *x = &step->in[0];
    *rows = *width = 1;
    for (int i = 0; i < x->rank; i++) *(i < x->rank - axes ? rows : width) *= x->dim[i];
}

static double mean_of(const double *x, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += x[i];
    return count ? sum / (double)count : 0;
}

static double variance_of(const double *x, int64_t count, double mean)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += (x[i] - mean) * (x[i] - mean);
    return count ? sum / (double)count : 0;
}

static tn_status run_last_norm(const tn_step *step, void *const *in, void *const *out,
                               void *workspace)
{
    (void)workspace;
    const tn_norm_attribute *a = step->attribute;
    bool centre = step->op->id == TN_OP_LAYER_NORM;
    int64_t rows, width;
    rows_of(step, &rows, &width);
    const double *scale = a->has_scale ? in[1] : NULL,
                 *shift = a->has_shift ? in[1 + a->has_scale] : NULL;
    for (int64_t n = 0; n < rows; n++) {
        const double *x = (const double *)in[0] + n * width;
        double *y = (double *)out[0] + n * width;
        double mean = centre ? mean_of(x, width) : 0,
               rstd = 1 / sqrt(variance_of(x, width, mean) + a->epsilon);
        for (int64_t e = 0; e < width; e++)
            y[e] = (x[e] - mean) * rstd * (scale ? scale[e] : 1) + (shift ? shift[e] : 0);
        if (centre) ((double *)out[1])[n] = mean;
        ((double *)out[centre ? 2 : 1])[n] = rstd;
    }
    return TN_OK;
}

static tn_status run_last_norm_grad(const tn_step *step, void *const *in, void *const *out,
                                    void *workspace)
{
    (void)workspace;
    const tn_norm_attribute *a = step->attribute;
    bool centre = step->op->id == TN_OP_LAYER_NORM_GRAD;
    int64_t rows, width;
    rows_of(step, &rows, &width);
    const double *means = centre ? in[2] : NULL, *rstds = in[centre ? 3 : 2],
                 *scale = a->has_scale ? in[centre ? 4 : 3] : NULL;
    double *d_scale = a->affine ? out[1] : NULL, *d_shift = a->affine && centre ? out[2] : NULL;
    for (int64_t e = 0; e < width; e++) {
        if (d_scale) d_scale[e] = 0;
        if (d_shift) d_shift[e] = 0;
    }
    for (int64_t n = 0; n < rows; n++) {
        const double *x = (const double *)in[0] + n * width,
                     *d_y = (const double *)in[1] + n * width;
        double *d_x = (double *)out[0] + n * width, mean = centre ? means[n] : 0, rstd = rstds[n],
               sum = 0, product = 0;
        for (int64_t e = 0; e < width; e++) {
            double g = d_y[e] * (scale ? scale[e] : 1), xhat = (x[e] - mean) * rstd;
            sum += g;
            product += g * xhat;
            if (d_scale) d_scale[e] += d_y[e] * xhat;
            if (d_shift) d_shift[e] += d_y[e];
        }
        for (int64_t e = 0; e < width; e++) {
            double g = d_y[e] * (scale ? scale[e] : 1), xhat = (x[e] - mean) * rstd;
            d_x[e] = rstd *
                     (g - (centre ? sum / (double)width : 0) - xhat * product / (double)width);
        }
    }
    return TN_OK;
}

/* ---- batch norm: channel c of [B, C, S] ------------------------------------------------------ */

typedef struct channels {
    int64_t B, C, S;
} channels;

static channels channels_of(const tn_operand *x)
{
    channels n = {x->dim[0], x->dim[1], 1};
    for (int i = 2; i < x->rank; i++) n.S *= x->dim[i];
    return n;
}

#define EACH_OF_CHANNEL(n, c, k)                                                                   \
    for (int64_t b_ = 0; b_ < (n).B; b_++)                                                         \
        for (int64_t k = (b_ * (n).C + (c)) * (n).S; k < (b_ * (n).C + (c) + 1) * (n).S; k++)

static tn_status run_batch_norm(const tn_step *step, void *const *in, void *const *out,
                                void *workspace)
{
    (void)workspace;
    const tn_batch_norm_attribute *a = step->attribute;
    channels n = channels_of(&step->in[0]);
    const double *x = in[0], *scale = in[1], *shift = in[2],
                 *residual = a->has_residual ? in[3] : NULL;
    double *y = out[0], *mean = out[1], *variance = out[2], count = (double)(n.B * n.S);
    for (int64_t c = 0; c < n.C; c++) {
        double sum = 0, square = 0;
        EACH_OF_CHANNEL(n, c, k) sum += x[k];
        mean[c] = count > 0 ? sum / count : 0;
        EACH_OF_CHANNEL(n, c, k) square += (x[k] - mean[c]) * (x[k] - mean[c]);
        variance[c] = count > 0 ? square / count : 0;
        EACH_OF_CHANNEL(n, c, k)
        {
            y[k] = (x[k] - mean[c]) / sqrt(variance[c] + a->epsilon) * scale[c] + shift[c] +
                   (residual ? residual[k] : 0);
            if (a->activation == TN_OP_RELU && y[k] < 0) y[k] = 0;
        }
    }
    return TN_OK;
}

static tn_status run_batch_norm_grad(const tn_step *step, void *const *in, void *const *out,
                                     void *workspace)
{
    (void)workspace;
    const tn_batch_norm_attribute *a = step->attribute;
    channels n = channels_of(&step->in[0]);
    const double *x = in[0], *d_y = in[1], *scale = in[2], *shift = in[3], *mean = in[4],
                 *variance = in[5];
    double *d_x = out[0], *d_scale = out[1], *d_shift = out[2], count = (double)(n.B * n.S);
    for (int64_t c = 0; c < n.C; c++) {
        double rstd = 1 / sqrt(variance[c] + a->epsilon), sum = 0, product = 0;
        for (int pass = 0; pass < 2; pass++) EACH_OF_CHANNEL(n, c, k)
            {
                double xhat = (x[k] - mean[c]) * rstd;
                double d = a->activation == TN_OP_RELU && !(xhat * scale[c] + shift[c] > 0)
                               ? 0
                               : d_y[k];
                if (pass == 0) sum += d, product += d * xhat;
                else d_x[k] = scale[c] * rstd * (d - sum / count - xhat * product / count);
            }
        d_scale[c] = product;
        d_shift[c] = sum;
    }
    return TN_OK;
}

/* ---- group norm: group g of sample b is C/G * S elements in a row ---------------------------- */

static tn_status run_group_norm(const tn_step *step, void *const *in, void *const *out,
                                void *workspace)
{
    (void)workspace;
    const tn_norm_attribute *a = step->attribute;
    channels n = channels_of(&step->in[0]);
    int64_t width = n.C / a->groups * n.S;
    const double *scale = a->has_scale ? in[1] : NULL,
                 *shift = a->has_shift ? in[1 + a->has_scale] : NULL;
    for (int64_t part = 0; part < n.B * a->groups; part++) {
        const double *x = (const double *)in[0] + part * width;
        double *y = (double *)out[0] + part * width;
        double mean = mean_of(x, width), rstd = 1 / sqrt(variance_of(x, width, mean) + a->epsilon);
        ((double *)out[1])[part] = mean;
        ((double *)out[2])[part] = rstd;
        for (int64_t e = 0; e < width; e++) {
            int64_t plane = (part * width + e) / n.S,
                    parameter = a->per_sample ? plane : plane % n.C;
            y[e] = (x[e] - mean) * rstd * (scale ? scale[parameter] : 1) +
                   (shift ? shift[parameter] : 0);
        }
    }
    return TN_OK;
}

static tn_status run_group_norm_grad(const tn_step *step, void *const *in, void *const *out,
                                     void *workspace)
{
    (void)workspace;
    const tn_norm_attribute *a = step->attribute;
    channels n = channels_of(&step->in[0]);
    int64_t width = n.C / a->groups * n.S;
    const double *means = in[2], *rstds = in[3], *scale = a->has_scale ? in[4] : NULL;
    double *d_scale = a->affine ? out[1] : NULL, *d_shift = a->affine ? out[2] : NULL;
    for (int64_t c = 0; a->affine && c < (a->per_sample ? n.B * n.C : n.C); c++)
        d_scale[c] = d_shift[c] = 0;
    for (int64_t part = 0; part < n.B * a->groups; part++) {
        const double *x = (const double *)in[0] + part * width,
                     *d_y = (const double *)in[1] + part * width;
        double *d_x = (double *)out[0] + part * width, sum = 0, product = 0;
        for (int pass = 0; pass < 2; pass++)
            for (int64_t e = 0; e < width; e++) {
                int64_t plane = (part * width + e) / n.S,
                        parameter = a->per_sample ? plane : plane % n.C;
                double xhat = (x[e] - means[part]) * rstds[part],
                       g = d_y[e] * (scale ? scale[parameter] : 1);
                if (pass == 1) {
                    d_x[e] = rstds[part] *
                             (g - sum / (double)width - xhat * product / (double)width);
                    continue;
                }
                sum += g;
                product += g * xhat;
                if (a->affine) d_scale[parameter] += d_y[e] * xhat, d_shift[parameter] += d_y[e];
            }
    }
    return TN_OK;
}

void tn_ref_norm(tn_kernel_table *table);
void tn_ref_norm(tn_kernel_table *table)
{
    static const tn_kernel softmax = {.run = run_softmax}, softmax_grad = {.run = run_softmax_grad},
                           last_norm = {.run = run_last_norm},
                           last_norm_grad = {.run = run_last_norm_grad},
                           batch_norm = {.run = run_batch_norm},
                           batch_norm_grad = {.run = run_batch_norm_grad},
                           group_norm = {.run = run_group_norm},
                           group_norm_grad = {.run = run_group_norm_grad};
    table->kernel[TN_OP_SOFTMAX] = table->kernel[TN_OP_LOG_SOFTMAX] = &softmax;
    table->kernel[TN_OP_SOFTMAX_GRAD] = table->kernel[TN_OP_LOG_SOFTMAX_GRAD] = &softmax_grad;
    table->kernel[TN_OP_LAYER_NORM] = table->kernel[TN_OP_RMS_NORM] = &last_norm;
    table->kernel[TN_OP_LAYER_NORM_GRAD] = table->kernel[TN_OP_RMS_NORM_GRAD] = &last_norm_grad;
    table->kernel[TN_OP_BATCH_NORM] = &batch_norm;
    table->kernel[TN_OP_BATCH_NORM_GRAD] = &batch_norm_grad;
    table->kernel[TN_OP_GROUP_NORM] = &group_norm;
    table->kernel[TN_OP_GROUP_NORM_GRAD] = &group_norm_grad;
}
