/* The convolution kernels on oneDNN: convolution, and its adjoints in the input and in the
 * weight. */
#ifndef TN_CPU_ONEDNN_CONVOLUTION_H
#define TN_CPU_ONEDNN_CONVOLUTION_H

#include "cpu/convolution.h"
#include "cpu/onednn.h"

void tn_cpu_onednn_convolution(tn_kernel_table *table);
void tn_cpu_onednn_convolution_weight(tn_kernel_table *table);

/* oneDNN's layouts of a piece's tensors: activations channels-last; weight row-major (`any`: as
 * oneDNN likes) and, with more than one group, one dimension longer. `filters`: of F, 0 for all. */
dnnl_status_t tn_conv_describe_x(dnnl_memory_desc_t *md, const tn_conv_sizes *s,
                                 const tn_conv_kind *kind);
dnnl_status_t tn_conv_describe_y(dnnl_memory_desc_t *md, const tn_conv_sizes *s,
                                 const tn_conv_kind *kind, int64_t filters);
dnnl_status_t tn_conv_describe_weight(dnnl_memory_desc_t *md, const tn_conv_sizes *s,
                                      tn_dtype dtype, bool any, int64_t filters);

/* Stride, dilation and padding of a piece as oneDNN counts them. */
typedef struct tn_conv_steps {
    dnnl_dims_t stride, dilation, before, after;
} tn_conv_steps;
tn_conv_steps tn_conv_steps_of(const tn_conv_sizes *s, const tn_conv_kind *kind);

/* How many pieces a convolution is worth. */
int64_t tn_conv_pieces_worth(const tn_conv_sizes *s);

/* True, with step->kernel set, when the result needs no products: it has no elements, or its
 * sums are empty. */
bool tn_conv_is_trivial(tn_step *step, const tn_conv_sizes *s);

/* Layouts of the three: channels-last activations, row-major weight and bias; f64 (which runs on
 * the reference kernels) row-major. */
void tn_conv_layouts(const tn_step *step, tn_layout *in, tn_layout *out);

#endif
