/* Products of any size on own kernels: b is packed into panels that lie in the second-level
 * cache. Compiled once per instruction set. */
#ifndef TN_CPU_SIMD_PRODUCT_BLOCKED_H
#define TN_CPU_SIMD_PRODUCT_BLOCKED_H

#include "cpu/product.h"

/* How a product is cut, by its shape alone. */
typedef struct tn_blocking {
    int64_t rows, columns, depth;             /* of a block of c; of a packed part of b */
    int64_t row_blocks, column_blocks, units; /* units: blocks of all entries of the batch */
    bool pairs;                               /* bf16 pairs; else everything is widened to f32 */
    bool copy_a;                              /* a is transposed, or must be widened */
    bool sums_apart;                          /* more than one depth, and c is not f32 */
    size_t b_bytes, a_bytes, scratch;         /* of one unit at work */
} tn_blocking;

/* False if the product is not for this path (f64, i8). */
bool TN_ISA(tn_blocking_make)(tn_blocking *g, const tn_product *p);
/* Block `unit` of the result. `scratch`: g->scratch bytes, 64-byte aligned. */
void TN_ISA(tn_blocking_run)(const tn_blocking *g, const tn_product *p, int64_t unit, const void *a,
                             const void *b, const void *bias, void *c, void *scratch);

#endif
