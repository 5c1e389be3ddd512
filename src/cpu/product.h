/* A matrix product as the CPU kernels see it: strides resolved, leading dimensions merged where
 * they can be. */
#ifndef TN_CPU_PRODUCT_H
#define TN_CPU_PRODUCT_H

#include <stdbool.h>

#include "graph/kernel.h"

/* c[i] [M, N] = activation(a[i] [M, K] b[i] [K, N] + bias [N]) for i < batch; c is dense.
 * Strides in elements. */
typedef struct tn_product {
    tn_dtype in, out, bias; /* bias: TN_BOOL stands for none */
    int32_t activation;
    int64_t batch, M, N, K;
    int64_t a_m, a_k, b_k, b_n;
    int batch_rank;
    int64_t batch_dim[TN_MAX_RANK], a_batch[TN_MAX_RANK], b_batch[TN_MAX_RANK];
} tn_product;

static inline bool tn_product_has_bias(const tn_product *p) { return p->bias != TN_BOOL; }

/* A matrix's strides where a dimension is 1 mean nothing; here they become what a dense matrix
 * would have. */
static inline void tn_regular_strides(int64_t rows, int64_t columns, int64_t *row, int64_t *column)
{
    if (columns == 1) *column = 1;
    if (rows == 1) *row = *column == 1 ? columns : 1;
    if (columns == 1 && *row < 1) *row = 1;
}

static inline int64_t tn_batch_stride(const tn_operand *x, const tn_operand *out, int i)
{
    int k = i - (out->rank - x->rank);
    return k >= 0 && x->dim[k] != 1 ? x->stride[k] : 0;
}

/* Neighbouring leading dimensions that lie one inside the other become one. */
static inline void tn_merge_batch(tn_product *p)
{
    int to = 0;
    for (int i = 0; i < p->batch_rank; i++) {
        if (p->batch_dim[i] == 1) continue;
        if (to && p->a_batch[to - 1] == p->a_batch[i] * p->batch_dim[i] &&
            p->b_batch[to - 1] == p->b_batch[i] * p->batch_dim[i]) {
            p->batch_dim[to - 1] *= p->batch_dim[i];
            p->a_batch[to - 1] = p->a_batch[i];
            p->b_batch[to - 1] = p->b_batch[i];
        } else {
            p->batch_dim[to] = p->batch_dim[i];
            p->a_batch[to] = p->a_batch[i];
            p->b_batch[to++] = p->b_batch[i];
        }
    }
    p->batch_rank = to;
}

/* The product that a MATMUL step asks for. Leading dimensions of a that b does not have become
 * rows where a's strides allow. */
static inline tn_product tn_product_of(const tn_step *step)
{
    const tn_matmul_attribute *t = (const tn_matmul_attribute *)step->attribute;
    const tn_operand *a = &step->in[0], *b = &step->in[1], *c = &step->out[0];
    tn_product p = {.in = a->dtype,
                    .out = c->dtype,
                    .bias = t->has_bias ? step->in[2].dtype : TN_BOOL,
                    .activation = t->activation};
    p.M = c->dim[c->rank - 2];
    p.N = c->dim[c->rank - 1];
    p.K = a->dim[a->rank - (t->transpose_a ? 2 : 1)];
    p.a_m = a->stride[a->rank - (t->transpose_a ? 1 : 2)];
    p.a_k = a->stride[a->rank - (t->transpose_a ? 2 : 1)];
    p.b_k = b->stride[b->rank - (t->transpose_b ? 1 : 2)];
    p.b_n = b->stride[b->rank - (t->transpose_b ? 2 : 1)];
    tn_regular_strides(p.M, p.K, &p.a_m, &p.a_k);
    tn_regular_strides(p.K, p.N, &p.b_k, &p.b_n);
    p.batch = 1;
    p.batch_rank = c->rank - 2;
    for (int i = 0; i < p.batch_rank; i++) {
        p.batch_dim[i] = c->dim[i];
        p.a_batch[i] = tn_batch_stride(a, c, i);
        p.b_batch[i] = tn_batch_stride(b, c, i);
        p.batch *= c->dim[i];
    }
    tn_merge_batch(&p);
    while (p.batch_rank && p.b_batch[p.batch_rank - 1] == 0 && p.a_k == 1 &&
           (p.M == 1 || p.a_batch[p.batch_rank - 1] == p.M * p.a_m)) {
        int last = --p.batch_rank;
        if (p.a_batch[last] <= 0) { /* a is shared too: nothing to fold into */
            p.batch_rank++;
            break;
        }
        if (p.M == 1) p.a_m = p.a_batch[last];
        p.M *= p.batch_dim[last];
        p.batch /= p.batch_dim[last] ? p.batch_dim[last] : 1;
    }
    return p;
}

/* Where entry `i`'s matrices begin. */
static inline void tn_product_offsets(const tn_product *p, int64_t i, int64_t *a, int64_t *b)
{
    *a = *b = 0;
    for (int d = p->batch_rank - 1; d > 0; d--) {
        int64_t at = i % p->batch_dim[d];
        i /= p->batch_dim[d];
        *a += at * p->a_batch[d];
        *b += at * p->b_batch[d];
    }
    if (p->batch_rank) {
        *a += i * p->a_batch[0];
        *b += i * p->b_batch[0];
    }
}

static inline int64_t tn_least(int64_t a, int64_t b) { return a < b ? a : b; }

#endif
