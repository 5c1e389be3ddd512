/* LSTM and GRU layers: stacked, in one direction or both, over one recurrent node each. */
#include <math.h>

#include "graph/op.h"
#include "tenon/nn.h"

/* What LSTM and GRU differ in. */
typedef struct cell {
    const char *what;
    int64_t gates;
    bool has_c;
} cell;

static const cell lstm = {"lstm", 4, true}, gru = {"gru", 3, false};

/* Every sequence backwards from its own end; what lies behind the end stays where it is. Its own
 * inverse. */
static tn_node reversed(tn_node x, tn_node length)
{
    if (tn_is_none(length)) return tn_flip(x, 0);
    tn_shape shape = tn_shape_of(x), steps = TN_SHAPE(shape.dim[0], shape.dim[1]);
    tn_node t = tn_iota(x.graph, TN_I64, steps, 0);
    tn_node end = tn_broadcast(tn_cast(length, TN_I64), steps);
    tn_node mirror = tn_subtract(tn_subtract(end, tn_fill(x.graph, TN_I64, TN_SCALAR, 1)), t);
    tn_node index = tn_where(tn_less(t, end), mirror, t);
    return tn_take_along(x, tn_broadcast(tn_expand_dims(index, 2), shape), 0);
}

/* Slice `i` of a stack of first states, or none. */
static tn_node first_state(tn_node stack, int i)
{
    return tn_is_none(stack) ? stack : tn_squeeze(tn_slice(stack, 0, i, i + 1, 1), 0);
}

static tn_recurrent_result one_direction(tn_scope scope, const cell *kind, tn_node x,
                                         int64_t hidden, const tn_recurrent_options *o, int layer,
                                         bool backward)
{
    int64_t gates = kind->gates * hidden;
    double bound = 1 / sqrt((double)hidden);
    tn_init init = tn_init_uniform(-bound, bound);
    char name[64];
    const char *end = backward ? "_reverse" : "";
    snprintf(name, sizeof name, "weight_ih_l%d%s", layer, end);
    tn_node w_input = tn_parameter(scope, name, TN_SHAPE(gates, tn_dim(x, -1)), init);
    snprintf(name, sizeof name, "weight_hh_l%d%s", layer, end);
    tn_node w_hidden = tn_parameter(scope, name, TN_SHAPE(gates, hidden), init);
    tn_node b_input = TN_NONE, b_hidden = TN_NONE;
    if (!o->no_bias) {
        snprintf(name, sizeof name, "bias_ih_l%d%s", layer, end);
        b_input = tn_parameter(scope, name, TN_SHAPE(gates), init);
        snprintf(name, sizeof name, "bias_hh_l%d%s", layer, end);
        b_hidden = tn_parameter(scope, name, TN_SHAPE(gates), init);
    }
    int slot = layer * (o->bidirectional ? 2 : 1) + backward;
    tn_node h0 = first_state(o->h0, slot), c0 = first_state(o->c0, slot);
    if (backward) x = reversed(x, o->length);
    w_input = tn_to_compute(scope, w_input);
    if (kind->has_c) w_hidden = tn_to_compute(scope, w_hidden);
    tn_recurrent_result r =
        kind->has_c ? tn_lstm_sequence(x, w_input, w_hidden, b_input, b_hidden, h0, c0, o->length)
                    : tn_gru_sequence(x, w_input, w_hidden, b_input, b_hidden, h0, o->length);
    if (backward) r.y = reversed(r.y, o->length);
    return r;
}

/* [layers*directions, B, hidden] or none. */
static bool stack_fits(tn_node stack, const char *name, const char *what, tn_scope scope,
                       tn_shape wanted)
{
    if (tn_is_none(stack) || tn_shape_equal(tn_shape_of(stack), wanted)) return true;
    tn_graph_fail(scope.graph,
                  "%s '%s': %s is %s, but must be [layers * directions, B, hidden] = %s", what,
                  scope.path, name, tn_shape_text(tn_shape_of(stack)), tn_shape_text(wanted));
    return false;
}

static tn_recurrent_result layers(tn_scope scope, const cell *kind, tn_node x, int64_t hidden,
                                  tn_recurrent_options o)
{
    enum { MOST_LAYERS = 64 };
    tn_recurrent_result none = {TN_NONE, TN_NONE, TN_NONE};
    int count = o.layers ? o.layers : 1, directions = o.bidirectional ? 2 : 1;
    if (tn_is_none(x)) return none;
    if (tn_rank(x) != 3 || hidden < 1 || count < 1 || count > MOST_LAYERS) {
        tn_graph_fail(
            scope.graph,
            "%s '%s': x is %s with %d layers of %lld; x must have rank 3, and there must be "
            "1 to %d layers of at least 1",
            kind->what, scope.path, tn_shape_text(tn_shape_of(x)), count, (long long)hidden,
            MOST_LAYERS);
        return none;
    }
    if (o.batch_first) x = tn_swap_axes(x, 0, 1);
    tn_shape states = TN_SHAPE(count * directions, tn_dim(x, 1), hidden);
    if (!stack_fits(o.h0, "h0", kind->what, scope, states) ||
        !stack_fits(o.c0, "c0", kind->what, scope, states))
        return none;
    tn_node h[2 * MOST_LAYERS], c[2 * MOST_LAYERS];
    x = tn_to_compute(scope, x);
    for (int layer = 0, slot = 0; layer < count; layer++) {
        tn_node y[2];
        for (int d = 0; d < directions; d++, slot++) {
            tn_recurrent_result r = one_direction(scope, kind, x, hidden, &o, layer, d == 1);
            y[d] = r.y, h[slot] = r.h, c[slot] = r.c;
        }
        x = directions == 2 ? tn_concat(y, 2, 2) : y[0];
        if (layer + 1 < count) x = tn_dropout(scope, x, o.dropout);
    }
    return (tn_recurrent_result){
        .y = o.batch_first ? tn_swap_axes(x, 0, 1) : x,
        .h = tn_stack(h, count * directions, 0),
        .c = kind->has_c ? tn_stack(c, count * directions, 0) : TN_NONE,
    };
}

tn_recurrent_result tn_lstm_with(tn_scope scope, tn_node x, int64_t hidden, tn_recurrent_options o)
{
    return layers(scope, &lstm, x, hidden, o);
}

tn_recurrent_result tn_gru_with(tn_scope scope, tn_node x, int64_t hidden, tn_recurrent_options o)
{
    if (!tn_is_none(o.c0))
        tn_graph_fail(scope.graph, "gru '%s': a GRU has no cell state; .c0 is for tn_lstm",
                      scope.path);
    return layers(scope, &gru, x, hidden, o);
}
