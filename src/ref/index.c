/* Gather, scatter, segments and sorting on the reference backend. */
#include <math.h>
#include <stdlib.h>

#include "base/status.h"
#include "graph/index.h"
#include "graph/kernel.h"

static int axis_of(const tn_step *step)
{
    return ((const tn_axis_attribute *)step->attribute)->axis;
}

static tn_status check_index(const tn_step *step, const double *index, int64_t count, int64_t n)
{
    for (int64_t i = 0; i < count; i++)
        if (!(index[i] >= 0 && index[i] < (double)n))
            return tn_fail(TN_INVALID, "%s (%s): index %.0f at position %lld is outside 0..%lld",
                           step->op->name, step->name ? step->name : "", index[i], (long long)i,
                           (long long)n - 1);
    return TN_OK;
}

static tn_status check_offsets(const tn_step *step, const double *offset, int64_t segments,
                               int64_t rows)
{
    for (int64_t s = 0; s <= segments; s++)
        if (!(offset[s] >= (s ? offset[s - 1] : 0) && offset[s] <= (double)rows))
            return tn_fail(TN_INVALID,
                           "%s (%s): offset %.0f at position %lld is smaller than the one before "
                           "or outside 0..%lld",
                           step->op->name, step->name ? step->name : "", offset[s], (long long)s,
                           (long long)rows);
    return TN_OK;
}

/* x [outer, n, inner] at index [K] -> y [outer, K, inner] */
static tn_status gather(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const double *x = in[0], *index = in[1];
    double *y = out[0];
    tn_axis_view v = tn_axis_view_of(&step->in[0], axis_of(step));
    int64_t K = tn_operand_size(&step->in[1]);
    TN_TRY(check_index(step, index, K, v.n));
    for (int64_t o = 0; o < v.outer; o++)
        for (int64_t k = 0; k < K; k++)
            for (int64_t i = 0; i < v.inner; i++)
                y[(o * K + k) * v.inner + i] = x[(o * v.n + (int64_t)index[k]) * v.inner + i];
    return TN_OK;
}

static tn_status scatter_add(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    (void)workspace;
    const double *values = in[0], *index = in[1];
    double *y = out[0];
    tn_axis_view v = tn_axis_view_of(&step->out[0], axis_of(step));
    int64_t K = tn_operand_size(&step->in[1]);
    TN_TRY(check_index(step, index, K, v.n));
    for (int64_t i = 0; i < v.outer * v.n * v.inner; i++) y[i] = 0;
    for (int64_t o = 0; o < v.outer; o++)
        for (int64_t k = 0; k < K; k++)
            for (int64_t i = 0; i < v.inner; i++)
                y[(o * v.n + (int64_t)index[k]) * v.inner + i] += values[(o * K + k) * v.inner + i];
    return TN_OK;
}

/* x [outer, n, inner], index [outer, m, inner] -> y [outer, m, inner] */
static tn_status take_along(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const double *x = in[0], *index = in[1];
    double *y = out[0];
    tn_axis_view v = tn_axis_view_of(&step->in[0], axis_of(step));
    int64_t m = step->out[0].dim[axis_of(step)];
    TN_TRY(check_index(step, index, v.outer * m * v.inner, v.n));
    for (int64_t o = 0; o < v.outer; o++)
        for (int64_t k = 0; k < m; k++)
            for (int64_t i = 0; i < v.inner; i++) {
                int64_t at = (o * m + k) * v.inner + i;
                y[at] = x[(o * v.n + (int64_t)index[at]) * v.inner + i];
            }
    return TN_OK;
}

static tn_status put_along(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const double *values = in[0], *index = in[1];
    double *y = out[0];
    tn_axis_view v = tn_axis_view_of(&step->out[0], axis_of(step));
    int64_t m = step->in[0].dim[axis_of(step)];
    TN_TRY(check_index(step, index, v.outer * m * v.inner, v.n));
    for (int64_t i = 0; i < v.outer * v.n * v.inner; i++) y[i] = 0;
    for (int64_t o = 0; o < v.outer; o++)
        for (int64_t k = 0; k < m; k++)
            for (int64_t i = 0; i < v.inner; i++) {
                int64_t at = (o * m + k) * v.inner + i;
                y[(o * v.n + (int64_t)index[at]) * v.inner + i] += values[at];
            }
    return TN_OK;
}

/* x [T, width] and offsets [S+1] -> y [S, width] */
static tn_status segment_sum(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    (void)workspace;
    const double *x = in[0], *offset = in[1];
    double *y = out[0];
    int64_t T = step->in[0].dim[0], S = step->out[0].dim[0],
            width = tn_axis_view_of(&step->in[0], 0).inner;
    TN_TRY(check_offsets(step, offset, S, T));
    for (int64_t s = 0; s < S; s++)
        for (int64_t i = 0; i < width; i++) {
            double sum = 0;
            for (int64_t t = (int64_t)offset[s]; t < (int64_t)offset[s + 1]; t++)
                sum += x[t * width + i];
            y[s * width + i] = sum;
        }
    return TN_OK;
}

static tn_status segment_max(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    (void)workspace;
    const double *x = in[0], *offset = in[1];
    double *y = out[0];
    int64_t T = step->in[0].dim[0], S = step->out[0].dim[0],
            width = tn_axis_view_of(&step->in[0], 0).inner;
    TN_TRY(check_offsets(step, offset, S, T));
    for (int64_t s = 0; s < S; s++)
        for (int64_t i = 0; i < width; i++) {
            int64_t first = (int64_t)offset[s], end = (int64_t)offset[s + 1];
            double largest = first < end ? x[first * width + i] : 0;
            for (int64_t t = first; t < end; t++) {
                double value = x[t * width + i];
                if (value > largest || isnan(value)) largest = value;
                if (isnan(largest)) break;
            }
            y[s * width + i] = largest;
        }
    return TN_OK;
}

/* x [S, width] and offsets [S+1] -> y [T, width]; rows of no segment are 0 */
static tn_status segment_broadcast(const tn_step *step, void *const *in, void *const *out,
                                   void *workspace)
{
    (void)workspace;
    const double *x = in[0], *offset = in[1];
    double *y = out[0];
    int64_t S = step->in[0].dim[0], T = step->out[0].dim[0],
            width = tn_axis_view_of(&step->in[0], 0).inner;
    TN_TRY(check_offsets(step, offset, S, T));
    for (int64_t i = 0; i < T * width; i++) y[i] = 0;
    for (int64_t s = 0; s < S; s++)
        for (int64_t t = (int64_t)offset[s]; t < (int64_t)offset[s + 1]; t++)
            for (int64_t i = 0; i < width; i++) y[t * width + i] = x[s * width + i];
    return TN_OK;
}

/* a stands before b in descending order: larger first, NaN before all; equal values do not. */
static bool before_descending(double a, double b) { return isnan(a) ? !isnan(b) : a > b; }

/* The first k places of a stable sort of each row: insertion sort. */
static tn_status sort(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const double *x = in[0];
    double *values = out[0], *indices = out[1];
    int last = step->in[0].rank - 1;
    bool descending = ((const tn_axis_attribute *)step->attribute)->reverse;
    int64_t n = step->in[0].dim[last], k = step->out[0].dim[last], rows = 1;
    for (int i = 0; i < last; i++) rows *= step->in[0].dim[i];
    int64_t *order = malloc((size_t)(n + 1) * sizeof *order);
    if (!order) return tn_fail(TN_MEMORY, "%s: out of memory", step->op->name);
    for (int64_t r = 0; r < rows; r++, x += n) {
        for (int64_t i = 0; i < n; i++) {
            int64_t at = i;
            for (; at > 0; at--) {
                double other = x[order[at - 1]];
                if (!(descending ? before_descending(x[i], other) : before_descending(other, x[i])))
                    break;
                order[at] = order[at - 1];
            }
            order[at] = i;
        }
        for (int64_t i = 0; i < k; i++) {
            values[r * k + i] = x[order[i]];
            indices[r * k + i] = (double)order[i];
        }
    }
    free(order);
    return TN_OK;
}

static tn_status one_hot(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const double *index = in[0];
    double *y = out[0];
    int64_t classes = step->out[0].dim[step->out[0].rank - 1];
    for (int64_t i = 0; i < tn_operand_size(&step->in[0]); i++)
        for (int64_t c = 0; c < classes; c++) y[i * classes + c] = index[i] == (double)c;
    return TN_OK;
}

void tn_ref_index(tn_kernel_table *table);
void tn_ref_index(tn_kernel_table *table)
{
    static const tn_kernel gather_kernel = {.run = gather},
                           scatter_add_kernel = {.run = scatter_add},
                           take_along_kernel = {.run = take_along},
                           put_along_kernel = {.run = put_along},
                           segment_sum_kernel = {.run = segment_sum},
                           segment_max_kernel = {.run = segment_max},
                           segment_broadcast_kernel = {.run = segment_broadcast},
                           sort_kernel = {.run = sort}, one_hot_kernel = {.run = one_hot};
    table->kernel[TN_OP_GATHER] = &gather_kernel;
    table->kernel[TN_OP_SCATTER_ADD] = &scatter_add_kernel;
    table->kernel[TN_OP_TAKE_ALONG] = &take_along_kernel;
    table->kernel[TN_OP_PUT_ALONG] = &put_along_kernel;
    table->kernel[TN_OP_SEGMENT_SUM] = &segment_sum_kernel;
    table->kernel[TN_OP_SEGMENT_MAX] = &segment_max_kernel;
    table->kernel[TN_OP_SEGMENT_BROADCAST] = &segment_broadcast_kernel;
    table->kernel[TN_OP_TOP_K] = &sort_kernel;
    table->kernel[TN_OP_SORT] = &sort_kernel;
    table->kernel[TN_OP_ONE_HOT] = &one_hot_kernel;
}
