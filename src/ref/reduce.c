/* Reductions and scans on the reference backend. */
#include <math.h>

#include "graph/kernel.h"

/* Row-major position in the result that element `flat` of x is reduced into. */
static int64_t target(const tn_operand *x, uint32_t axes, int64_t flat)
{
    int64_t at = 0, stride = 1;
    for (int i = x->rank - 1; i >= 0; i--) {
        int64_t index = flat % x->dim[i];
        flat /= x->dim[i];
        if (axes >> i & 1u) continue;
        at += index * stride;
        stride *= x->dim[i];
    }
    return at;
}

static tn_status reduce(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const tn_operand *from = &step->in[0];
    uint32_t axes = ((const tn_reduce_attribute *)step->attribute)->axes;
    tn_op_id id = step->op->id;
    const double *x = in[0];
    double *y = out[0], first = id == TN_OP_MAX ? -INFINITY : id == TN_OP_MIN ? INFINITY : 0;
    int64_t size = tn_operand_size(from), results = tn_operand_size(&step->out[0]), count = 1;
    for (int i = 0; i < from->rank; i++)
        if (axes >> i & 1u) count *= from->dim[i];
    for (int64_t i = 0; i < results; i++) y[i] = first;
    for (int64_t i = 0; i < size; i++) {
        double *to = &y[target(from, axes, i)];
        if (id == TN_OP_MAX) *to = x[i] > *to || isnan(x[i]) ? x[i] : *to;
        else if (id == TN_OP_MIN) *to = x[i] < *to || isnan(x[i]) ? x[i] : *to;
        else *to += x[i];
    }
    for (int64_t i = 0; i < results && id == TN_OP_MEAN; i++) y[i] /= (double)count;
    return TN_OK;
}

/* An axis with what lies outside and inside of it: element (o, i, k) is at (o * n + i) * inner +
 * k. */
typedef struct lines {
    int64_t outer, n, inner;
} lines;

static lines lines_of(const tn_operand *x, int axis)
{
    lines l = {1, x->dim[axis], 1};
    for (int i = 0; i < axis; i++) l.outer *= x->dim[i];
    for (int i = axis + 1; i < x->rank; i++) l.inner *= x->dim[i];
    return l;
}

/* The lowest index of the extreme; the first NaN if there is one. */
static tn_status arg_extreme(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    (void)workspace;
    lines l = lines_of(&step->in[0], ((const tn_axis_attribute *)step->attribute)->axis);
    double sign = step->op->id == TN_OP_ARGMAX ? 1 : -1, *y = out[0];
    for (int64_t o = 0; o < l.outer; o++)
        for (int64_t k = 0; k < l.inner; k++) {
            const double *x = (const double *)in[0] + o * l.n * l.inner + k;
            int64_t best = 0;
            for (int64_t i = 1; i < l.n; i++) {
                double now = sign * x[i * l.inner], then = sign * x[best * l.inner];
                if (!isnan(then) && (now > then || isnan(now))) best = i;
            }
            y[o * l.inner + k] = (double)best;
        }
    return TN_OK;
}

/* CUMSUM, CUMPROD and LINEAR_SCAN: state <- combine(state, element), written before (exclusive)
 * or after. */
static tn_status scan(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const tn_axis_attribute *a = step->attribute;
    lines l = lines_of(&step->in[0], a->axis);
    tn_op_id id = step->op->id;
    for (int64_t o = 0; o < l.outer; o++)
        for (int64_t k = 0; k < l.inner; k++) {
            double state = id == TN_OP_CUMPROD;
            for (int64_t i = 0; i < l.n; i++) {
                int64_t at = (o * l.n + (a->reverse ? l.n - 1 - i : i)) * l.inner + k;
                double x = ((const double *)in[0])[at], before = state;
                if (id == TN_OP_CUMSUM) state += x;
                else if (id == TN_OP_CUMPROD) state *= x;
                else state = x + ((const double *)in[1])[at] * state;
                ((double *)out[0])[at] = a->exclusive ? before : state;
            }
        }
    return TN_OK;
}

void tn_ref_reduce(tn_kernel_table *table);
void tn_ref_reduce(tn_kernel_table *table)
{
    static const tn_kernel reduce_kernel = {.run = reduce}, arg_kernel = {.run = arg_extreme},
                           scan_kernel = {.run = scan};
    table->kernel[TN_OP_SUM] = table->kernel[TN_OP_MEAN] = table->kernel[TN_OP_MAX] =
        table->kernel[TN_OP_MIN] = &reduce_kernel;
    table->kernel[TN_OP_ARGMAX] = table->kernel[TN_OP_ARGMIN] = &arg_kernel;
    table->kernel[TN_OP_CUMSUM] = table->kernel[TN_OP_CUMPROD] = table->kernel[TN_OP_LINEAR_SCAN] =
        &scan_kernel;
}
