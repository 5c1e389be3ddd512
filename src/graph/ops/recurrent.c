/* LSTM and GRU over whole sequences: shapes, gradients and the unrolled forms.
 *
 * The input's share of the gates is one matrix product over all steps, outside the recurrent node;
 * so is the gradient of every weight. The node itself is only what must go step by step. Operands
 * and results: graph/recurrent.h. */
#include "graph/recurrent.h"

#include <stdlib.h>
#include <string.h>

enum { LSTM_GATES = 4, GRU_GATES = 3 };

/* ---- building -------------------------------------------------------------------------------- */

typedef struct sequence {
    const char *what;
    int64_t gates; /* G */
    tn_recurrent_attribute attribute;
    int64_t P, L, B, I, N;
    tn_dtype dtype; /* of computation: f32, f64 beside f64 */
    tn_dtype outer; /* of what the products read and of the output: dtype, or bf16 */
} sequence;

/* dims behind a leading [P] when there are clients. */
static tn_shape with_clients(const sequence *s, tn_shape shape)
{
    if (!s->attribute.clients) return shape;
    tn_shape out = {.rank = shape.rank + 1, .dim = {s->P}};
    for (int i = 0; i < shape.rank; i++) out.dim[i + 1] = shape.dim[i];
    return out;
}

/* Checks one argument's shape and brings it to `dtype`. Absent: zeros if `optional`, else an
 * error. */
static bool fit(const sequence *s, tn_graph *graph, tn_node *argument, const char *name,
                bool optional, tn_dtype dtype, tn_shape shape)
{
    shape = with_clients(s, shape);
    if (tn_is_none(*argument)) {
        if (optional) *argument = tn_fill(graph, dtype, shape, 0);
        return optional;
    }
    if (!tn_shape_equal(tn_shape_of(*argument), shape) ||
        !tn_dtype_is_float(tn_dtype_of(*argument))) {
        tn_graph_fail(graph, "%s: %s is %s %s; it must be floating-point %s here", s->what, name,
                      tn_dtype_name(tn_dtype_of(*argument)), tn_shape_text(tn_shape_of(*argument)),
                      tn_shape_text(shape));
        return false;
    }
    *argument = tn_cast(*argument, dtype);
    return true;
}

/* x w_input^T + bias -> [P?, L, B, G*N]: one product for all steps. */
static tn_node input_share(const sequence *s, tn_node x, tn_node w_input, tn_node bias)
{
    int64_t width = s->gates * s->N;
    bool narrow = tn_dtype_of(x) == tn_dtype_of(w_input) &&
                  (tn_dtype_of(x) == TN_BF16 || tn_dtype_of(x) == TN_F16);
    if (!narrow) x = tn_cast(x, s->dtype), w_input = tn_cast(w_input, s->dtype);
    x = tn_reshape(x, with_clients(s, TN_SHAPE(s->L * s->B, s->I)));
    if (s->attribute.clients && !tn_is_none(bias))
        bias = tn_reshape(bias, TN_SHAPE(s->P, 1, width));
    tn_node share;
    if (narrow && s->outer == s->dtype) {
        share = tn_matmul(x, w_input, .transpose_b = true, .out_f32 = true);
        if (!tn_is_none(bias)) share = tn_add(share, bias);
    } else {
        share = tn_matmul(x, w_input, .transpose_b = true, .bias = bias);
    }
    return tn_reshape(share, with_clients(s, TN_SHAPE(s->L, s->B, width)));
}

/* Fills in `s` and checks what LSTM and GRU share. */
static bool begin(sequence *s, tn_node x, tn_node *w_input, tn_node *w_hidden, tn_node *b_input,
                  tn_node *b_hidden, tn_node *h0, tn_node *length)
{
    if (tn_is_none(x) || tn_is_none(*w_input) || tn_is_none(*w_hidden)) return false;
    int rank = tn_rank(x);
    if ((rank != 3 && rank != 4) || tn_rank(*w_hidden) != rank - 1 ||
        !tn_dtype_is_float(tn_dtype_of(x))) {
        tn_graph_fail(x.graph,
                      "%s: x is %s %s and w_hidden %s; x [L, B, I] wants [%lldN, N], x [P, L, B, "
                      "I] wants [P, %lldN, N]",
                      s->what, tn_dtype_name(tn_dtype_of(x)), tn_shape_text(tn_shape_of(x)),
                      tn_shape_text(tn_shape_of(*w_hidden)), (long long)s->gates,
                      (long long)s->gates);
        return false;
    }
    memset(&s->attribute, 0, sizeof s->attribute);
    s->attribute.clients = rank == 4;
    s->P = rank == 4 ? tn_dim(x, 0) : 1;
    s->L = tn_dim(x, -3), s->B = tn_dim(x, -2), s->I = tn_dim(x, -1);
    s->N = tn_dim(*w_hidden, -1);
    s->dtype = tn_dtype_of(x) == TN_F64 ? TN_F64 : TN_F32;
    s->outer = s->gates == LSTM_GATES && tn_dtype_of(x) == TN_BF16 &&
                       tn_dtype_of(*w_input) == TN_BF16 && tn_dtype_of(*w_hidden) == TN_BF16
                   ? TN_BF16
                   : s->dtype;
    tn_dtype dtype = s->dtype;
    int64_t width = s->gates * s->N;
    tn_node w = *w_input; /* cast only where the product is made: bf16 stays bf16 */
    if (!fit(s, x.graph, &w, "w_input", false, dtype, TN_SHAPE(width, s->I)) ||
        !fit(s, x.graph, w_hidden, "w_hidden", false, s->outer, TN_SHAPE(width, s->N)) ||
        (!tn_is_none(*b_input) &&
         !fit(s, x.graph, b_input, "b_input", false, dtype, TN_SHAPE(width))) ||
        (!tn_is_none(*b_hidden) &&
         !fit(s, x.graph, b_hidden, "b_hidden", false, dtype, TN_SHAPE(width))) ||
        !fit(s, x.graph, h0, "h0", true, s->outer, TN_SHAPE(s->B, s->N)))
        return false;
    if (tn_is_none(*length)) return true;
    if (tn_dtype_of(*length) == TN_I64) *length = tn_cast(*length, TN_I32);
    tn_shape lengths = with_clients(s, TN_SHAPE(s->B));
    if (tn_dtype_of(*length) != TN_I32 || !tn_shape_equal(tn_shape_of(*length), lengths)) {
        tn_graph_fail(x.graph, "%s: length is %s %s; it must be i32 %s, one a row", s->what,
                      tn_dtype_name(tn_dtype_of(*length)), tn_shape_text(tn_shape_of(*length)),
                      tn_shape_text(lengths));
        return false;
    }
    s->attribute.has_length = true;
    return true;
}

tn_recurrent_result tn_lstm_sequence(tn_node x, tn_node w_input, tn_node w_hidden, tn_node b_input,
                                     tn_node b_hidden, tn_node h0, tn_node c0, tn_node length)
{
    sequence s = {.what = "lstm_sequence", .gates = LSTM_GATES};
    tn_recurrent_result none = {TN_NONE, TN_NONE, TN_NONE};
    tn_dtype outside = tn_dtype_of(x);
    if (!begin(&s, x, &w_input, &w_hidden, &b_input, &b_hidden, &h0, &length) ||
        !fit(&s, x.graph, &c0, "c0", true, s.dtype, TN_SHAPE(s.B, s.N)))
        return none;
    tn_node bias = tn_is_none(b_input)    ? b_hidden
                   : tn_is_none(b_hidden) ? b_input
                                          : tn_add(b_input, b_hidden);
    tn_node in[] = {input_share(&s, x, w_input, bias), w_hidden, h0, c0, length};
    tn_shape steps = with_clients(&s, TN_SHAPE(s.L, s.B, s.N)),
             one = with_clients(&s, TN_SHAPE(s.B, s.N));
    tn_node node = tn_node_new(
        NULL, &(tn_new_node){.id = TN_OP_LSTM,
                             .dtype = s.outer,
                             .shape = with_clients(&s, TN_SHAPE(s.L, s.B, LSTM_GATES * s.N)),
                             .in = in,
                             .in_count = 4 + s.attribute.has_length,
                             .attribute = &s.attribute,
                             .attribute_size = sizeof s.attribute,
                             .more = 4,
                             .more_dtype = (tn_dtype[]){s.outer, s.dtype, s.outer, s.dtype},
                             .more_shape = (tn_shape[]){steps, steps, one, one}});
    if (tn_is_none(node)) return none;
    return (tn_recurrent_result){.y = tn_cast(tn_result(node, 1), outside),
                                 .h = tn_cast(tn_result(node, 3), outside),
                                 .c = tn_cast(tn_result(node, 4), outside)};
}

tn_recurrent_result tn_gru_sequence(tn_node x, tn_node w_input, tn_node w_hidden, tn_node b_input,
                                    tn_node b_hidden, tn_node h0, tn_node length)
{
    sequence s = {.what = "gru_sequence", .gates = GRU_GATES};
    tn_recurrent_result none = {TN_NONE, TN_NONE, TN_NONE};
    tn_dtype outside = tn_dtype_of(x);
    if (!begin(&s, x, &w_input, &w_hidden, &b_input, &b_hidden, &h0, &length) ||
        !fit(&s, x.graph, &b_hidden, "b_hidden", true, s.dtype, TN_SHAPE(GRU_GATES * s.N)))
        return none;
    tn_node in[] = {input_share(&s, x, w_input, b_input), w_hidden, b_hidden, h0, length};
    tn_shape steps = with_clients(&s, TN_SHAPE(s.L, s.B, s.N)),
             one = with_clients(&s, TN_SHAPE(s.B, s.N));
    tn_node node = tn_node_new(
        NULL, &(tn_new_node){.id = TN_OP_GRU,
                             .dtype = s.dtype,
                             .shape = with_clients(&s, TN_SHAPE(s.L, s.B, GRU_GATES * s.N)),
                             .in = in,
                             .in_count = 4 + s.attribute.has_length,
                             .attribute = &s.attribute,
                             .attribute_size = sizeof s.attribute,
                             .more = 3,
                             .more_dtype = (tn_dtype[]){s.dtype, s.dtype, s.dtype},
                             .more_shape = (tn_shape[]){steps, steps, one}});
    if (tn_is_none(node)) return none;
    return (tn_recurrent_result){.y = tn_cast(tn_result(node, 1), outside),
                                 .h = tn_cast(tn_result(node, 3), outside)};
}

/* ---- gradients ------------------------------------------------------------------------------- */

static int time_axis(const tn_recurrent_attribute *a) { return a->clients ? 1 : 0; }

/* [P?, L, B, n] -> [P?, L*B, n] */
static tn_node flat(tn_node x, const tn_recurrent_attribute *a)
{
    int64_t n = tn_dim(x, -1), rows = tn_dim(x, -2) * tn_dim(x, -3);
    return tn_reshape(x, a->clients ? TN_SHAPE(tn_dim(x, 0), rows, n) : TN_SHAPE(rows, n));
}

/* Gradient of w_hidden: sum over steps of d[t]^T h[t-1], where h[-1] is h0 and h[t] is y[t]. Rows
 * behind their length have d = 0, so it does not matter that y is 0 there. */
static tn_node weight_gradient(tn_node d, tn_node y, tn_node h0, const tn_recurrent_attribute *a)
{
    int t = time_axis(a);
    int64_t steps = tn_dim(d, t);
    double value;
    tn_node sum = TN_NONE;
    if (steps > 1)
        sum = tn_matmul(flat(tn_slice(d, t, 1, INT64_MAX, 1), a),
                        flat(tn_slice(y, t, 0, steps - 1, 1), a), .transpose_a = true);
    if (steps > 0 && !(steps > 1 && tn_is_fill(h0, &value) && value == 0)) {
        tn_node first = tn_matmul(flat(tn_slice(d, t, 0, 1, 1), a), h0, .transpose_a = true);
        sum = tn_is_none(sum) ? first : tn_add(sum, first);
    }
    return sum;
}

/* Appends the cotangents that arrived and the length. */
static void append_optional(tn_recurrent_attribute *a, tn_node *in, int *count, tn_node d_y,
                            tn_node d_h, tn_node d_c, tn_node length)
{
    a->has_d_y = !tn_is_none(d_y), a->has_d_h = !tn_is_none(d_h), a->has_d_c = !tn_is_none(d_c);
    tn_node all[] = {d_y, d_h, d_c, length};
    for (int i = 0; i < 4; i++)
        if (!tn_is_none(all[i])) in[(*count)++] = all[i];
}

static void lstm_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    if (!tn_is_none(d_out[0]) ||
        !tn_is_none(d_out[2])) { /* what was saved is read too: by a second derivative */
        tn_vjp_decomposed(out[0], in, d_out, d_in);
        return;
    }
    tn_recurrent_attribute a;
    memcpy(&a, tn_value_of(out[0])->attribute, sizeof a);
    tn_node all[8] = {out[0], in[1], out[2], in[3]};
    int count = 4;
    append_optional(&a, all, &count, d_out[1], d_out[3], d_out[4], a.has_length ? in[4] : TN_NONE);
    tn_node gradient = tn_node_new(
        NULL, &(tn_new_node){.id = TN_OP_LSTM_GRAD,
                             .dtype = tn_dtype_of(in[0]),
                             .shape = tn_shape_of(in[0]),
                             .in = all,
                             .in_count = count,
                             .attribute = &a,
                             .attribute_size = sizeof a,
                             .more = 2,
                             .more_dtype = (tn_dtype[]){tn_dtype_of(in[2]), tn_dtype_of(in[3])},
                             .more_shape = (tn_shape[]){tn_shape_of(in[2]), tn_shape_of(in[3])}});
    if (tn_is_none(gradient)) return;
    d_in[0] = gradient;
    d_in[1] = weight_gradient(gradient, out[1], in[2], &a);
    d_in[2] = tn_result(gradient, 1);
    d_in[3] = tn_result(gradient, 2);
}

static void gru_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    if (!tn_is_none(d_out[0]) || !tn_is_none(d_out[2])) {
        tn_vjp_decomposed(out[0], in, d_out, d_in);
        return;
    }
    tn_recurrent_attribute a;
    memcpy(&a, tn_value_of(out[0])->attribute, sizeof a);
    tn_node all[8] = {out[0], in[1], out[1], out[2], in[3]};
    int count = 5;
    append_optional(&a, all, &count, d_out[1], d_out[3], TN_NONE, a.has_length ? in[4] : TN_NONE);
    tn_dtype dtype = tn_dtype_of(in[0]);
    tn_node gradient = tn_node_new(
        NULL, &(tn_new_node){.id = TN_OP_GRU_GRAD,
                             .dtype = dtype,
                             .shape = tn_shape_of(in[0]),
                             .in = all,
                             .in_count = count,
                             .attribute = &a,
                             .attribute_size = sizeof a,
                             .more = 2,
                             .more_dtype = (tn_dtype[]){dtype, dtype},
                             .more_shape = (tn_shape[]){tn_shape_of(in[0]), tn_shape_of(in[3])}});
    if (tn_is_none(gradient)) return;
    tn_node d_hidden = tn_result(gradient, 1);
    int t = time_axis(&a);
    d_in[0] = gradient;
    d_in[1] = weight_gradient(d_hidden, out[1], in[3], &a);
    d_in[2] = tn_sum(d_hidden, TN_AXES(t, t + 1));
    d_in[3] = tn_result(gradient, 2);
}

/* ---- unrolled forms -------------------------------------------------------------------------- */

/* Step t of a [P?, L, B, n] -> [P?, B, n]. */
static tn_node step_of(tn_node x, int axis, int64_t t)
{
    return tn_squeeze(tn_slice(x, axis, t, t + 1, 1), axis);
}

static tn_node stack_steps(tn_node *step, int64_t count, int axis, tn_node like)
{
    if (count == 0) return tn_like(like, 0);
    return tn_stack(step, (int)count, axis);
}

/* Rows still running at step t: bool [P?, B, 1]; empty without lengths. */
static tn_node running(tn_node length, int64_t t)
{
    if (tn_is_none(length)) return TN_NONE;
    return tn_expand_dims(tn_greater(length, tn_fill(length.graph, TN_I32, TN_SCALAR, (double)t)),
                          -1);
}

static tn_node choose(tn_node condition, tn_node a, tn_node b)
{
    return tn_is_none(condition) ? a : tn_where(condition, a, b);
}

static tn_node one_minus(tn_node x) { return tn_affine(x, -1, 1); }

/* d * s(1 - s): through a sigmoid with value s. */
static tn_node through_sigmoid(tn_node d, tn_node s)
{
    return tn_multiply(d, tn_multiply(s, one_minus(s)));
}

/* d * (1 - y^2): through a tanh with value y. */
static tn_node through_tanh(tn_node d, tn_node y)
{
    return tn_multiply(d, one_minus(tn_square(y)));
}

static tn_node by_hidden(tn_node h, tn_node w_hidden)
{
    return tn_matmul(h, w_hidden, .transpose_b = true, .out_f32 = tn_dtype_of(h) == TN_BF16);
}

/* Room for the nodes of each step, `kinds` arrays of `steps` each; NULL after an error in the
 * graph. */
static tn_node *step_nodes(tn_graph *graph, int64_t kinds, int64_t steps)
{
    tn_node *nodes = calloc((size_t)(kinds * steps) + 1, sizeof *nodes);
    if (!nodes) tn_graph_fail(graph, "recurrent: out of memory for %lld steps", (long long)steps);
    return nodes;
}

static void lstm_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    const tn_recurrent_attribute *a = tn_value_of(self)->attribute;
    int axis = time_axis(a);
    int64_t steps = tn_dim(in[0], axis);
    tn_node w_hidden = in[1], h = in[2], c = in[3], length = a->has_length ? in[4] : TN_NONE;
    tn_dtype outer = tn_dtype_of(h), dtype = tn_dtype_of(c);
    tn_node *gates = step_nodes(h.graph, 3, steps), *y = gates + steps, *cells = y + steps;
    if (!gates) return;
    for (int64_t t = 0; t < steps; t++) {
        tn_node gate[LSTM_GATES];
        tn_node x = tn_cast(step_of(in[0], axis, t), dtype);
        tn_split(tn_add(x, by_hidden(h, w_hidden)), LSTM_GATES, -1, gate);
        for (int k = 0; k < LSTM_GATES; k++)
            gate[k] = k == 2 ? tn_tanh(gate[k]) : tn_sigmoid(gate[k]);
        tn_node next_c = tn_add(tn_multiply(gate[1], c), tn_multiply(gate[0], gate[2]));
        tn_node next_h = tn_cast(tn_multiply(gate[3], tn_tanh(next_c)), outer),
                zero = tn_like(h, 0), on = running(length, t);
        gates[t] = tn_cast(tn_concat(gate, LSTM_GATES, -1), outer);
        gates[t] = choose(on, gates[t], tn_like(gates[t], 0));
        y[t] = choose(on, next_h, zero);
        cells[t] = c = choose(on, next_c, c);
        h = choose(on, next_h, h);
    }
    out[0] = stack_steps(gates, steps, axis, self);
    out[1] = stack_steps(y, steps, axis, tn_result(self, 1));
    out[2] = stack_steps(cells, steps, axis, tn_result(self, 2));
    out[3] = h;
    out[4] = c;
    free(gates);
}

static void lstm_grad_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    const tn_recurrent_attribute *a = tn_value_of(self)->attribute;
    tn_recurrent_optional at = tn_recurrent_find(a, 4);
    int axis = time_axis(a);
    int64_t steps = tn_dim(in[0], axis);
    tn_node w_hidden = in[1], cells = in[2], c0 = in[3],
            length = at.length >= 0 ? in[at.length] : TN_NONE;
    tn_dtype outer = tn_dtype_of(in[0]), dtype = tn_dtype_of(c0);
    tn_node d_h = at.d_h >= 0 ? tn_cast(in[at.d_h], dtype) : tn_like(c0, 0),
            d_c = at.d_c >= 0 ? in[at.d_c] : tn_like(c0, 0);
    tn_node *d_gates = step_nodes(c0.graph, 1, steps);
    if (!d_gates) return;
    for (int64_t t = steps - 1; t >= 0; t--) {
        tn_node gate[LSTM_GATES], c = step_of(cells, axis, t),
                                  c_before = t > 0 ? step_of(cells, axis, t - 1) : c0;
        tn_split(tn_cast(step_of(in[0], axis, t), dtype), LSTM_GATES, -1, gate);
        tn_node here = at.d_y >= 0 ? tn_add(d_h, tn_cast(step_of(in[at.d_y], axis, t), dtype))
                                   : d_h;
        tn_node bent = tn_tanh(c),
                through_c = tn_add(d_c, through_tanh(tn_multiply(here, gate[3]), bent));
        tn_node d[LSTM_GATES] = {
            through_sigmoid(tn_multiply(through_c, gate[2]), gate[0]),
            through_sigmoid(tn_multiply(through_c, c_before), gate[1]),
            through_tanh(tn_multiply(through_c, gate[0]), gate[2]),
            through_sigmoid(tn_multiply(here, bent), gate[3]),
        };
        tn_node all = tn_cast(tn_concat(d, LSTM_GATES, -1), outer), on = running(length, t);
        d_gates[t] = choose(on, all, tn_like(all, 0));
        d_h = choose(on, tn_matmul(all, w_hidden, .out_f32 = outer == TN_BF16), d_h);
        d_c = choose(on, tn_multiply(through_c, gate[1]), d_c);
    }
    out[0] = stack_steps(d_gates, steps, axis, self);
    out[1] = tn_cast(d_h, outer);
    out[2] = d_c;
    free(d_gates);
}

/* The bias of clients [P, G*N] beside rows [P, B, G*N]. */
static tn_node bias_of_rows(tn_node bias, const tn_recurrent_attribute *a)
{
    return a->clients ? tn_expand_dims(bias, 1) : bias;
}

static void gru_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    const tn_recurrent_attribute *a = tn_value_of(self)->attribute;
    int axis = time_axis(a);
    int64_t steps = tn_dim(in[0], axis);
    tn_node w_hidden = in[1], bias = bias_of_rows(in[2], a), h = in[3],
            length = a->has_length ? in[4] : TN_NONE;
    tn_node *gates = step_nodes(h.graph, 3, steps), *y = gates + steps, *hidden = y + steps;
    if (!gates) return;
    for (int64_t t = 0; t < steps; t++) {
        tn_node x[GRU_GATES], share[GRU_GATES], gate[GRU_GATES];
        tn_split(step_of(in[0], axis, t), GRU_GATES, -1, x);
        tn_split(tn_add(by_hidden(h, w_hidden), bias), GRU_GATES, -1, share);
        for (int k = 0; k < 2; k++) gate[k] = tn_sigmoid(tn_add(x[k], share[k]));
        gate[2] = tn_tanh(tn_add(x[2], tn_multiply(gate[0], share[2])));
        tn_node next = tn_add(gate[2], tn_multiply(gate[1], tn_subtract(h, gate[2]))),
                on = running(length, t), zero = tn_like(h, 0);
        gates[t] = tn_concat(gate, GRU_GATES, -1);
        gates[t] = choose(on, gates[t], tn_like(gates[t], 0));
        hidden[t] = choose(on, share[2], zero);
        y[t] = choose(on, next, zero);
        h = choose(on, next, h);
    }
    out[0] = stack_steps(gates, steps, axis, self);
    out[1] = stack_steps(y, steps, axis, tn_result(self, 1));
    out[2] = stack_steps(hidden, steps, axis, tn_result(self, 2));
    out[3] = h;
    free(gates);
}

static void gru_grad_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    const tn_recurrent_attribute *a = tn_value_of(self)->attribute;
    tn_recurrent_optional at = tn_recurrent_find(a, 5);
    int axis = time_axis(a);
    int64_t steps = tn_dim(in[0], axis);
    tn_node w_hidden = in[1], y = in[2], hidden = in[3], h0 = in[4],
            length = at.length >= 0 ? in[at.length] : TN_NONE;
    tn_node d_h = at.d_h >= 0 ? in[at.d_h] : tn_like(h0, 0);
    tn_node *d_gates = step_nodes(h0.graph, 2, steps), *d_hidden = d_gates + steps;
    if (!d_gates) return;
    for (int64_t t = steps - 1; t >= 0; t--) {
        tn_node gate[GRU_GATES], h_before = t > 0 ? step_of(y, axis, t - 1) : h0;
        tn_split(step_of(in[0], axis, t), GRU_GATES, -1, gate);
        tn_node here = at.d_y >= 0 ? tn_add(d_h, step_of(in[at.d_y], axis, t)) : d_h;
        tn_node d_n = through_tanh(tn_multiply(here, one_minus(gate[1])), gate[2]);
        tn_node d_z = through_sigmoid(tn_multiply(here, tn_subtract(h_before, gate[2])), gate[1]);
        tn_node d_r = through_sigmoid(tn_multiply(d_n, step_of(hidden, axis, t)), gate[0]);
        tn_node to_x = tn_concat((tn_node[]){d_r, d_z, d_n}, GRU_GATES, -1);
        tn_node to_h = tn_concat((tn_node[]){d_r, d_z, tn_multiply(d_n, gate[0])}, GRU_GATES, -1);
        tn_node on = running(length, t);
        d_gates[t] = choose(on, to_x, tn_like(to_x, 0));
        d_hidden[t] = choose(on, to_h, tn_like(to_h, 0));
        d_h = choose(on, tn_add(tn_multiply(here, gate[1]), tn_matmul(to_h, w_hidden)), d_h);
    }
    out[0] = stack_steps(d_gates, steps, axis, self);
    out[1] = stack_steps(d_hidden, steps, axis, tn_result(self, 1));
    out[2] = d_h;
    free(d_gates);
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* One product of the gates with w_hidden a step, and about 25 for the rest of a unit. */
static double recurrent_flop(const tn_value *self, const tn_value *const *in)
{
    double units = (double)in[1]->shape.dim[in[1]->shape.rank - 1];
    return (double)tn_shape_size(self->shape) * (2 * units + 6);
}

const tn_op tn_recurrent_ops[] = {
    {.id = TN_OP_LSTM,
     .name = "lstm",
     .vjp = lstm_vjp,
     .decompose = lstm_decompose,
     .flop = recurrent_flop},
    {.id = TN_OP_LSTM_GRAD,
     .name = "lstm_grad",
     .decompose = lstm_grad_decompose,
     .flop = recurrent_flop},
    {.id = TN_OP_GRU,
     .name = "gru",
     .vjp = gru_vjp,
     .decompose = gru_decompose,
     .flop = recurrent_flop},
    {.id = TN_OP_GRU_GRAD,
     .name = "gru_grad",
     .decompose = gru_grad_decompose,
     .flop = recurrent_flop},
};
const int tn_recurrent_op_count = sizeof tn_recurrent_ops / sizeof *tn_recurrent_ops;
