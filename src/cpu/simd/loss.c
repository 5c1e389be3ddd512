/* Cross-entropy over rows of V logits: forward reads them once (a row of any length goes block
 * by block through L1), backward reads them once and writes once, over the logits if it may.
 * Labels are checked before anything else is done. */
#include <math.h>

#include "base/threads.h"
#include "cpu/simd/exponential_sum.h"
#include "graph/norm.h"

enum { SMALL = 16384 }; /* elements below which one thread does it all */

typedef struct job {
    tn_dtype dtype, label_dtype;
    int64_t rows, classes;
    float smoothing;
    const void *logits, *labels;
    const float *d_loss;
    float *loss, *lse;
    void *d_logits;
} job;

static job job_of(const tn_step *step, void *const *in)
{
    const tn_operand *x = &step->in[0];
    return (job){
        .dtype = x->dtype,
        .label_dtype = step->in[1].dtype,
        .rows = x->dim[0],
        .classes = x->dim[1],
        .logits = in[0],
        .labels = in[1],
        .smoothing = (float)((const tn_cross_entropy_attribute *)step->attribute)->smoothing};
}

static int64_t label_of(const job *j, int64_t row)
{
    return j->label_dtype == TN_I64 ? ((const int64_t *)j->labels)[row]
                                    : ((const int32_t *)j->labels)[row];
}

static tn_status check_labels(const job *j)
{
    for (int64_t n = 0; n < j->rows; n++) {
        int64_t label = label_of(j, n);
        if (label != TN_IGNORED_LABEL && (label < 0 || label >= j->classes))
            return tn_fail(
                TN_INVALID,
                "cross_entropy: label %lld in row %lld is outside 0..%lld (%d is ignored)",
                (long long)label, (long long)n, (long long)j->classes - 1, TN_IGNORED_LABEL);
    }
    return TN_OK;
}

static const void *row_of(const job *j, const void *x, int64_t row)
{
    return (const unsigned char *)x + (size_t)(row * j->classes) * (j->dtype == TN_F32 ? 4 : 2);
}

static float element(tn_dtype dtype, const void *x, int64_t i)
{
    if (dtype == TN_F32) return ((const float *)x)[i];
    uint16_t half = ((const uint16_t *)x)[i];
    return dtype == TN_BF16 ? tn_f32_from_bf16(half) : tn_f32_from_f16(half);
}

/* ---- forward --------------------------------------------------------------------------------- */

TN_VEC_INLINE float mean_of_shifted(const void *x, int64_t count, float shift, tn_dtype dtype)
{
    tn_vec sum[2] = {{0}};
    double total = 0;
    for (int64_t i = 0; i < count; i += TN_VEC) {
        int rest = count - i < TN_VEC ? (int)(count - i) : TN_VEC;
        sum[i / TN_VEC % 2] += tn_vec_keep(tn_vec_first(rest),
                                           tn_vec_load_part(dtype, x, i, rest) - shift);
        if (i / TN_VEC % 256 != 255) continue;
        total += (double)tn_vec_sum(sum[0] + sum[1]);
        sum[0] = sum[1] = (tn_vec){0};
    }
    return (float)((total + (double)tn_vec_sum(sum[0] + sum[1])) / (double)count);
}

/* loss = (1 - s) (log sum - (x[label] - shift)) + s (log sum - mean(x - shift)); shift is the
 * row's maximum. */
TN_VEC_INLINE void loss_rows(const job *j, int64_t begin, int64_t end, tn_dtype dtype)
{
    for (int64_t n = begin; n < end; n++) {
        const void *x = row_of(j, j->logits, n);
        int64_t label = label_of(j, n);
        float shift, sum;
        tn_sum_of_exp(x, j->classes, &shift, &sum, dtype);
        float log_sum = logf(sum);
        j->lse[n] = shift + log_sum;
        j->loss[n] = 0;
        if (label == TN_IGNORED_LABEL) continue;
        float loss = log_sum - (element(dtype, x, label) - shift);
        if (j->smoothing > 0)
            loss = (1 - j->smoothing) * loss +
                   j->smoothing * (log_sum - mean_of_shifted(x, j->classes, shift, dtype));
        j->loss[n] = sum == 0 ? INFINITY : loss;
    }
}

static void loss_body(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    TN_FOR_FLOAT(j->dtype, loss_rows, j, begin, end);
}

/* The reference kernels want labels as doubles too. */
static tn_status reference(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    job j = job_of(step, in);
    double *labels = workspace;
    for (int64_t n = 0; n < j.rows; n++) labels[n] = (double)label_of(&j, n);
    void *operand[4] = {in[0], labels};
    for (int i = 2; i < step->in_count; i++) operand[i] = in[i];
    return tn_ref_kernels()->kernel[step->op->id]->run(step, operand, out, NULL);
}

static tn_status run_loss(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    if (step->in[0].dtype == TN_F64) return reference(step, in, out, workspace);
    job j = job_of(step, in);
    j.loss = out[0];
    j.lse = out[1];
    TN_TRY(check_labels(&j));
    tn_parallel(j.rows, j.rows * j.classes < SMALL ? INT64_MAX : 0, loss_body, &j);
    return TN_OK;
}

/* ---- backward -------------------------------------------------------------------------------- */

TN_VEC_INLINE void gradient_rows(const job *j, int64_t begin, int64_t end, tn_dtype dtype)
{
    float even = j->smoothing / (float)j->classes;
    for (int64_t n = begin; n < end; n++) {
        const void *x = row_of(j, j->logits, n);
        void *d_x = (void *)(uintptr_t)row_of(j, j->d_logits, n);
        int64_t label = label_of(j, n), i = 0;
        float lse = j->lse[n], d = j->d_loss[n];
        if (label == TN_IGNORED_LABEL || lse == -INFINITY) {
            memset(d_x, 0, (size_t)j->classes * (dtype == TN_F32 ? 4 : 2));
            continue;
        }
        float own = tn_exp_f32(element(dtype, x, label) - lse) - even -
                    (1 - j->smoothing); /* read before it is overwritten */
        for (; i + TN_VEC <= j->classes; i += TN_VEC)
            tn_vec_store(dtype, d_x, i, d * (tn_vec_exp(tn_vec_load(dtype, x, i) - lse) - even));
        if (i < j->classes) {
            int rest = (int)(j->classes - i);
            tn_vec_store_part(dtype, d_x, i,
                              d * (tn_vec_exp(tn_vec_load_part(dtype, x, i, rest) - lse) - even),
                              rest);
        }
        tn_vec_store_part(dtype, d_x, label, tn_vec_all(d * own), 1);
    }
}

static void gradient_body(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    TN_FOR_FLOAT(j->dtype, gradient_rows, j, begin, end);
}

static tn_status run_gradient(const tn_step *step, void *const *in, void *const *out,
                              void *workspace)
{
    if (step->in[0].dtype == TN_F64) return reference(step, in, out, workspace);
    job j = job_of(step, in);
    j.lse = in[2];
    j.d_loss = in[3];
    j.d_logits = out[0];
    TN_TRY(check_labels(&j));
    tn_parallel(j.rows, j.rows * j.classes < SMALL ? INT64_MAX : 0, gradient_body, &j);
    return TN_OK;
}

static tn_status prepare(tn_step *step)
{
    tn_dtype dtype = step->in[0].dtype;
    if (dtype == TN_F64)
        step->workspace = (size_t)step->in[0].dim[0] * sizeof(double) + sizeof(double);
    if (dtype == TN_F64 || tn_vec_has(dtype)) return TN_OK;
    return tn_fail(TN_UNSUPPORTED, "%s of %s", step->op->name, tn_dtype_name(dtype));
}

void TN_ISA(tn_cpu_loss)(tn_kernel_table *table);
void TN_ISA(tn_cpu_loss)(tn_kernel_table *table)
{
    static const tn_kernel loss = {.prepare = prepare, .run = run_loss},
                           gradient = {.in_place = 1, .prepare = prepare, .run = run_gradient};
    table->kernel[TN_OP_CROSS_ENTROPY] = &loss;
    table->kernel[TN_OP_CROSS_ENTROPY_GRAD] = &gradient;
}
