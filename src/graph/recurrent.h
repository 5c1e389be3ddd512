/* What the recurrent rules and kernels must agree on. G gates of width N: LSTM 4 (i, f, g, o), GRU
 * 3 (r, z, n), torch's order. P small models side by side: a leading dimension on every operand
 * (clients), else P = 1.
 *
 * LSTM  (gates_input [L, B, 4N], w_hidden [4N, N], h0 [B, N], c0 [B, N], length?)
 *       -> gates [L, B, 4N] activated, y [L, B, N], cells [L, B, N], h [B, N], c [B, N]
 * GRU   (gates_input [L, B, 3N], w_hidden [3N, N], b_hidden [3N], h0 [B, N], length?)
 *       -> gates [L, B, 3N] activated, y [L, B, N], hidden [L, B, N], h [B, N]
 * hidden is w_n h + b_n, before the reset gate. gates_input is x w_input^T with every bias that can
 * be added there; gates may lie over it. At a step >= length[b] a row's gates, hidden and y are 0,
 * and cells carries the cell on.
 *
 * All is f32 (f64 beside f64). Only an LSTM whose x and weights are bf16 has bf16 gates_input,
 * w_hidden, h0, gates, y and h, and so their gradients; its cell stays f32. A GRU's state is its
 * output, which would lose small steps in bf16.
 *
 * LSTM_GRAD (gates, w_hidden, cells, c0, d_y?, d_h?, d_c?, length?) -> d_gates_input, d_h0, d_c0
 * GRU_GRAD  (gates, w_hidden, y, hidden, h0, d_y?, d_h?, length?)
 *       -> d_gates_input, d_hidden [L, B, 3N], d_h0
 * d_hidden is the cotangent of w_hidden h + b_hidden. d_gates_input may lie over gates. */
#ifndef TN_GRAPH_RECURRENT_H
#define TN_GRAPH_RECURRENT_H

#include "graph/kernel.h"

typedef struct tn_recurrent_attribute {
    bool clients, has_length;
    bool has_d_y, has_d_h, has_d_c; /* the gradients' optional operands */
} tn_recurrent_attribute;

/* P models, L steps, B rows, N units. From the dimensions of gates [P?, L, B, G*N]. */
typedef struct tn_recurrent_sizes {
    int64_t P, L, B, N;
} tn_recurrent_sizes;

static inline tn_recurrent_sizes tn_recurrent_sizes_of(const int64_t *gates, bool clients,
                                                       int64_t gate_count)
{
    const int64_t *d = gates + clients;
    return (tn_recurrent_sizes){clients ? gates[0] : 1, d[0], d[1], d[2] / gate_count};
}

/* Operand numbers of the optional operands, -1 where absent; `first` is the number behind the fixed
 * ones. */
typedef struct tn_recurrent_optional {
    int d_y, d_h, d_c, length;
} tn_recurrent_optional;

static inline tn_recurrent_optional tn_recurrent_find(const tn_recurrent_attribute *attribute,
                                                      int first)
{
    tn_recurrent_optional at;
    at.d_y = attribute->has_d_y ? first++ : -1;
    at.d_h = attribute->has_d_h ? first++ : -1;
    at.d_c = attribute->has_d_c ? first++ : -1;
    at.length = attribute->has_length ? first++ : -1;
    return at;
}

#endif
