/* The reference backend's kernels, family by family. */
#include <pthread.h>

#include "graph/kernel.h"

#define FAMILIES(X)                                                                                \
    X(elementwise)                                                                                 \
    X(reduce)                                                                                      \
    X(shape) X(product) X(pool) X(norm) X(loss) X(attention) X(recurrent) X(index) X(geometry)     \
        X(random)

#define DECLARE(family) void tn_ref_##family(tn_kernel_table *table);
FAMILIES(DECLARE)

static tn_kernel_table table;

static void fill(void)
{
#define COLLECT(family) tn_ref_##family(&table);
    FAMILIES(COLLECT)
}

const tn_kernel_table *tn_ref_kernels(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill);
    return &table;
}
