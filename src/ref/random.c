/* Random nodes on the reference backend: the definitions of graph/random.h, element by element. */
#include "graph/random.h"

#include <math.h>
#include <stdlib.h>

#include "base/status.h"

/* Stream of this run; `operand`: number of the step operand if there is one. */
static uint64_t stream_of(const tn_step *step, void *const *in, int operand)
{
    const tn_random_attribute *a = step->attribute;
    return tn_stream_at(a->stream,
                        step->in_count > operand ? (int64_t)((const double *)in[operand])[0] : 0);
}

static tn_status uniform(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    uint64_t seed = ((const tn_random_attribute *)step->attribute)->seed,
             stream = stream_of(step, in, 0);
    double *y = out[0];
    for (int64_t i = 0; i < tn_operand_size(&step->out[0]); i++)
        y[i] = tn_random_uniform(seed, stream, (uint64_t)i);
    return TN_OK;
}

static tn_status normal(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    uint64_t seed = ((const tn_random_attribute *)step->attribute)->seed,
             stream = stream_of(step, in, 0);
    double *y = out[0];
    for (int64_t i = 0; i < tn_operand_size(&step->out[0]); i++)
        y[i] = tn_random_normal(seed, stream, (uint64_t)i);
    return TN_OK;
}

static tn_status dropout(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const tn_random_attribute *a = step->attribute;
    uint64_t stream = stream_of(step, in, 1);
    const double *x = in[0];
    double *y = out[0];
    for (int64_t i = 0; i < tn_operand_size(&step->out[0]); i++) {
        bool dropped = tn_dropout_bits(a->seed, stream, (uint64_t)i) <
                       tn_dropout_threshold(a->rate);
        y[i] = dropped ? 0 : x[i] * tn_dropout_scale(a->rate);
    }
    return TN_OK;
}

static tn_status permutation(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    (void)workspace;
    uint64_t seed = ((const tn_random_attribute *)step->attribute)->seed,
             stream = stream_of(step, in, 0);
    int64_t count = tn_operand_size(&step->out[0]),
            *order = malloc((size_t)(count + 1) * sizeof *order);
    if (!order) return tn_fail(TN_MEMORY, "permutation: out of memory");
    tn_random_permutation(seed, stream, count, order);
    for (int64_t i = 0; i < count; i++) ((double *)out[0])[i] = (double)order[i];
    free(order);
    return TN_OK;
}

static tn_status categorical(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    (void)workspace;
    uint64_t seed = ((const tn_random_attribute *)step->attribute)->seed,
             stream = stream_of(step, in, 1);
    const double *logit = in[0];
    double *y = out[0];
    int64_t N = step->in[0].dim[0], V = step->in[0].dim[1];
    for (int64_t n = 0; n < N; n++) {
        double best = -INFINITY;
        int64_t drawn = 0;
        for (int64_t v = 0; v < V; v++) {
            double u = ((double)(tn_random_u32(seed, stream, (uint64_t)(n * V + v)) >> 9) + 0.5) *
                       0x1p-23;
            double score = logit[n * V + v] - log(-log(u));
            if (score > best) best = score, drawn = v;
        }
        y[n] = (double)drawn;
    }
    return TN_OK;
}

void tn_ref_random(tn_kernel_table *table);
void tn_ref_random(tn_kernel_table *table)
{
    static const tn_kernel uniform_kernel = {.run = uniform}, normal_kernel = {.run = normal},
                           dropout_kernel = {.run = dropout},
                           permutation_kernel = {.run = permutation},
                           categorical_kernel = {.run = categorical};
    table->kernel[TN_OP_RANDOM_UNIFORM] = &uniform_kernel;
    table->kernel[TN_OP_RANDOM_NORMAL] = &normal_kernel;
    table->kernel[TN_OP_DROPOUT] = &dropout_kernel;
    table->kernel[TN_OP_PERMUTATION] = &permutation_kernel;
    table->kernel[TN_OP_CATEGORICAL] = &categorical_kernel;
}
