/* Shape operations on the reference backend: each output element looks up the input element it
 * comes from. */
#include <string.h>

#include "graph/kernel.h"

/* Row-major position `flat` as one index per dimension. */
static void unravel(const tn_operand *x, int64_t flat, int64_t *index)
{
    for (int i = x->rank - 1; i >= 0; i--) {
        index[i] = flat % x->dim[i];
        flat /= x->dim[i];
    }
}

static int64_t ravel(const tn_operand *x, const int64_t *index)
{
    int64_t flat = 0;
    for (int i = 0; i < x->rank; i++) flat = flat * x->dim[i] + index[i];
    return flat;
}

static tn_status reshape(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    memcpy(out[0], in[0], (size_t)tn_operand_size(&step->out[0]) * sizeof(double));
    return TN_OK;
}

static tn_status transpose(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const tn_transpose_attribute *a = step->attribute;
    const double *x = in[0];
    double *y = out[0];
    for (int64_t i = 0; i < tn_operand_size(&step->out[0]); i++) {
        int64_t to[TN_MAX_RANK] = {0}, from[TN_MAX_RANK] = {0};
        unravel(&step->out[0], i, to);
        for (int d = 0; d < step->out[0].rank; d++) from[a->permutation[d]] = to[d];
        y[i] = x[ravel(&step->in[0], from)];
    }
    return TN_OK;
}

static tn_status broadcast(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const double *x = in[0];
    double *y = out[0];
    int missing = step->out[0].rank - step->in[0].rank;
    for (int64_t i = 0; i < tn_operand_size(&step->out[0]); i++) {
        int64_t to[TN_MAX_RANK] = {0}, from[TN_MAX_RANK] = {0};
        unravel(&step->out[0], i, to);
        for (int d = 0; d < step->in[0].rank; d++)
            from[d] = step->in[0].dim[d] == 1 ? 0 : to[d + missing];
        y[i] = x[ravel(&step->in[0], from)];
    }
    return TN_OK;
}

static tn_status slice(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const tn_slice_attribute *a = step->attribute;
    const double *x = in[0];
    double *y = out[0];
    for (int64_t i = 0; i < tn_operand_size(&step->out[0]); i++) {
        int64_t index[TN_MAX_RANK] = {0};
        unravel(&step->out[0], i, index);
        index[a->axis] = a->start + index[a->axis] * a->step;
        y[i] = x[ravel(&step->in[0], index)];
    }
    return TN_OK;
}

static tn_status unslice(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const tn_slice_attribute *a = step->attribute;
    const double *x = in[0];
    double *y = out[0];
    for (int64_t i = 0; i < tn_operand_size(&step->out[0]); i++) y[i] = 0;
    for (int64_t i = 0; i < tn_operand_size(&step->in[0]); i++) {
        int64_t index[TN_MAX_RANK] = {0};
        unravel(&step->in[0], i, index);
        index[a->axis] = a->start + index[a->axis] * a->step;
        y[ravel(&step->out[0], index)] = x[i];
    }
    return TN_OK;
}

static tn_status concat(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const tn_axis_attribute *a = step->attribute;
    double *y = out[0];
    int64_t start = 0;
    for (int k = 0; k < step->in_count; k++) {
        const double *x = in[k];
        for (int64_t i = 0; i < tn_operand_size(&step->in[k]); i++) {
            int64_t index[TN_MAX_RANK] = {0};
            unravel(&step->in[k], i, index);
            index[a->axis] += start;
            y[ravel(&step->out[0], index)] = x[i];
        }
        start += step->in[k].dim[a->axis];
    }
    return TN_OK;
}

/* Where element i of a padded row of `size` elements comes from; -1: from outside. */
static int64_t padded_source(int64_t i, int64_t before, int64_t size, int32_t mode)
{
    i -= before;
    if (i >= 0 && i < size) return i;
    if (mode == TN_PAD_EDGE) return i < 0 ? 0 : size - 1;
    if (mode == TN_PAD_REFLECT) return i < 0 ? -i : 2 * (size - 1) - i;
    return -1;
}

/* Source position in `inner` of position `flat` of the padded operand `outer`; -1: the constant. */
static int64_t pad_position(const tn_pad_attribute *a, const tn_operand *outer,
                            const tn_operand *inner, int64_t flat)
{
    int64_t index[TN_MAX_RANK] = {0};
    unravel(outer, flat, index);
    for (int d = 0; d < outer->rank; d++) {
        index[d] = padded_source(index[d], a->before[d], inner->dim[d], a->mode);
        if (index[d] < 0) return -1;
    }
    return ravel(inner, index);
}

static tn_status pad(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const tn_pad_attribute *a = step->attribute;
    const double *x = in[0];
    double *y = out[0];
    for (int64_t i = 0; i < tn_operand_size(&step->out[0]); i++) {
        int64_t from = pad_position(a, &step->out[0], &step->in[0], i);
        y[i] = from < 0 ? a->value : x[from];
    }
    return TN_OK;
}

static tn_status pad_grad(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const tn_pad_attribute *a = step->attribute;
    const double *d_y = in[0];
    double *d_x = out[0];
    for (int64_t i = 0; i < tn_operand_size(&step->out[0]); i++) d_x[i] = 0;
    for (int64_t i = 0; i < tn_operand_size(&step->in[0]); i++) {
        int64_t to = pad_position(a, &step->in[0], &step->out[0], i);
        if (to >= 0) d_x[to] += d_y[i];
    }
    return TN_OK;
}

static tn_status flip(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    int axis = ((const tn_axis_attribute *)step->attribute)->axis;
    const double *x = in[0];
    double *y = out[0];
    for (int64_t i = 0; i < tn_operand_size(&step->out[0]); i++) {
        int64_t index[TN_MAX_RANK] = {0};
        unravel(&step->out[0], i, index);
        index[axis] = step->out[0].dim[axis] - 1 - index[axis];
        y[i] = x[ravel(&step->in[0], index)];
    }
    return TN_OK;
}

static tn_status roll(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const tn_roll_attribute *a = step->attribute;
    const double *x = in[0];
    double *y = out[0];
    for (int64_t i = 0; i < tn_operand_size(&step->in[0]); i++) {
        int64_t index[TN_MAX_RANK] = {0};
        unravel(&step->in[0], i, index);
        index[a->axis] = (index[a->axis] + a->shift) % step->in[0].dim[a->axis];
        y[ravel(&step->out[0], index)] = x[i];
    }
    return TN_OK;
}

void tn_ref_shape(tn_kernel_table *table);
void tn_ref_shape(tn_kernel_table *table)
{
    static const tn_kernel reshape_kernel = {.run = reshape}, transpose_kernel = {.run = transpose},
                           broadcast_kernel = {.run = broadcast}, slice_kernel = {.run = slice},
                           unslice_kernel = {.run = unslice}, concat_kernel = {.run = concat},
                           pad_kernel = {.run = pad}, pad_grad_kernel = {.run = pad_grad},
                           flip_kernel = {.run = flip}, roll_kernel = {.run = roll};
    table->kernel[TN_OP_RESHAPE] = &reshape_kernel;
    table->kernel[TN_OP_TRANSPOSE] = &transpose_kernel;
    table->kernel[TN_OP_BROADCAST] = &broadcast_kernel;
    table->kernel[TN_OP_SLICE] = &slice_kernel;
    table->kernel[TN_OP_UNSLICE] = &unslice_kernel;
    table->kernel[TN_OP_CONCAT] = &concat_kernel;
    table->kernel[TN_OP_PAD] = &pad_kernel;
    table->kernel[TN_OP_PAD_GRAD] = &pad_grad_kernel;
    table->kernel[TN_OP_FLIP] = &flip_kernel;
    table->kernel[TN_OP_ROLL] = &roll_kernel;
}
