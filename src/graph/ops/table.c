/* The op table: every family's rows, by id. */
#include <pthread.h>

#include "graph/op.h"

#define FAMILIES(X)                                                                                \
    X(leaves)                                                                                      \
    X(elementwise)                                                                                 \
    X(reduce) X(shape) X(product) X(pool) X(norm) X(batch_norm) X(softmax) X(loss) X(attention)    \
        X(recurrent) X(index) X(geometry) X(random)

#define DECLARE(family)                                                                            \
    extern const tn_op tn_##family##_ops[];                                                        \
    extern const int tn_##family##_op_count;
FAMILIES(DECLARE)

static const tn_op *by_id[TN_OP_COUNT];

static void fill(void)
{
#define COLLECT(family)                                                                            \
    for (int i = 0; i < tn_##family##_op_count; i++)                                               \
        by_id[tn_##family##_ops[i].id] = &tn_##family##_ops[i];
    FAMILIES(COLLECT)
}

const tn_op *tn_op_find(tn_op_id id)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill);
    return (unsigned)id < TN_OP_COUNT ? by_id[id] : NULL;
}
