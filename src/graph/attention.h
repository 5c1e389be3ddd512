/* What attention's rules and kernels must agree on: attributes, where optional operands stand,
 * sizes. */
#ifndef TN_GRAPH_ATTENTION_H
#define TN_GRAPH_ATTENTION_H

#include "graph/kernel.h"

/* Of ATTENTION (q, k, v, optional ...) -> (y, lse), ATTENTION_GRAD and ATTENTION_BIAS_GRAD (q, k,
 * v, y, lse, d_y, optional ...) -> (d_q, d_k, d_v) and (d_bias). The optional operands follow in
 * the order bias, key_mask, offsets, length, as far as present. lse [B, H, L] (packed [H, T]) f32
 * (f64 beside f64 queries) is the logarithm of the softmax's denominator; +inf for a query that
 * reads nothing, so that exp(score - lse) is 0. */
typedef struct tn_attention_attribute {
    double scale;    /* resolved: never a default */
    int64_t window;  /* 0: none */
    int64_t longest; /* packed: bound on a segment's length, for counting FLOP; 0: unknown */
    bool causal, has_bias, has_key_mask, has_offsets, has_length;
} tn_attention_attribute;

/* Of ROPE (x, position). inverse: turns backwards, which is the adjoint. */
typedef struct tn_rope_attribute {
    double base;
    int64_t rotary; /* resolved, even */
    bool interleaved, inverse;
} tn_rope_attribute;

/* Operand numbers of the optional operands, -1 where absent. `first`: 3 for ATTENTION, 6 for its
 * gradients. */
typedef struct tn_attention_optional {
    int bias, key_mask, offsets, length;
} tn_attention_optional;

static inline tn_attention_optional tn_attention_find(const tn_attention_attribute *attribute,
                                                      int first)
{
    tn_attention_optional at;
    at.bias = attribute->has_bias ? first++ : -1;
    at.key_mask = attribute->has_key_mask ? first++ : -1;
    at.offsets = attribute->has_offsets ? first++ : -1;
    at.length = attribute->has_length ? first++ : -1;
    return at;
}

/* B sequences of L queries and M keys; H heads read K key/value heads, G = H/K each; width Q.
 * Packed: B = 1, L = M = T. */
typedef struct tn_attention_sizes {
    int64_t B, L, M, H, K, G, Q;
} tn_attention_sizes;

static inline tn_attention_sizes tn_attention_sizes_of(const int64_t *q, const int64_t *k,
                                                       bool packed)
{
    tn_attention_sizes s;
    s.B = packed ? 1 : q[0];
    s.L = packed ? q[0] : q[1];
    s.M = packed ? k[0] : k[1];
    s.H = packed ? q[1] : q[2];
    s.K = packed ? k[1] : k[2];
    s.G = s.K ? s.H / s.K : 0;
    s.Q = packed ? q[2] : q[3];
    return s;
}

#endif
