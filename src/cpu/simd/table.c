/* All own kernels of one instruction set. This file, like every file beside it, is compiled once per instruction set. */
#include "graph/kernel.h"

#define FAMILIES(X)                                                                                \
    X(elementwise)                                                                                 \
    X(fused)                                                                                       \
    X(reduce)                                                                                      \
    X(scan)                                                                                        \
    X(shape) X(product) X(norm) X(batch_norm) X(softmax) X(loss) X(attention) X(lstm) X(gru)       \
        X(index) X(geometry) X(random) X(pool) X(narrow_convolution)

#define DECLARE(family) void TN_ISA(tn_cpu_##family)(tn_kernel_table * table);
FAMILIES(DECLARE)

void TN_ISA(tn_cpu_all)(tn_kernel_table *table);
void TN_ISA(tn_cpu_all)(tn_kernel_table *table)
{
#define COLLECT(family) TN_ISA(tn_cpu_##family)(table);
    FAMILIES(COLLECT)
}
