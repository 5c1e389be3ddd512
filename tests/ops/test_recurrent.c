/* LSTM and GRU sequences: gradients to second order, kernels against the reference and the unrolled
 * form, lengths, clients. */
#include "graph_check.h" /* first: with the macros that record places */

#include "ops/decompositions.h"

typedef struct sequence_case {
    bool gru;
    int64_t P, L, B, I, N; /* P 0: no clients */
    bool no_bias, no_start, length;
    enum { ALL = 0, ONLY_Y, ONLY_STATES, ONLY_C } read; /* which results are outputs */
} sequence_case;

/* Inputs: x, w_input, w_hidden, then b_input, b_hidden, then h0, c0, then length, as far as there
 * are. */
static int build_sequence(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const sequence_case *c = option;
    tn_node bias[2] = {TN_NONE, TN_NONE}, start[2] = {TN_NONE, TN_NONE}, length = TN_NONE;
    int next = 3, count = 0;
    if (!c->no_bias) bias[0] = in[next++], bias[1] = in[next++];
    if (!c->no_start) start[0] = in[next++];
    if (!c->no_start && !c->gru) start[1] = in[next++];
    if (c->length) length = in[next++];
    tn_recurrent_result r =
        c->gru
            ? tn_gru_sequence(in[0], in[1], in[2], bias[0], bias[1], start[0], length)
            : tn_lstm_sequence(in[0], in[1], in[2], bias[0], bias[1], start[0], start[1], length);
    if (c->read == ALL || c->read == ONLY_Y) out[count++] = r.y;
    if (c->read == ALL || c->read == ONLY_STATES) out[count++] = r.h;
    if (!c->gru && c->read != ONLY_Y) out[count++] = r.c;
    return count;
}

static tn_shape of_clients(const sequence_case *c, tn_shape shape)
{
    if (c->P == 0) return shape;
    tn_shape wide = {.rank = shape.rank + 1, .dim = {c->P}};
    memcpy(wide.dim + 1, shape.dim, (size_t)shape.rank * sizeof *shape.dim);
    return wide;
}

static check_case case_of(const sequence_case *s, const char *name)
{
    check_case c = {.name = name, .build = build_sequence, .option = s};
    int64_t width = (s->gru ? 3 : 4) * s->N;
    tn_shape shape[8] = {TN_SHAPE(s->L, s->B, s->I), TN_SHAPE(width, s->I), TN_SHAPE(width, s->N)};
    int count = 3;
    if (!s->no_bias) shape[count++] = TN_SHAPE(width), shape[count++] = TN_SHAPE(width);
    if (!s->no_start) shape[count++] = TN_SHAPE(s->B, s->N);
    if (!s->no_start && !s->gru) shape[count++] = TN_SHAPE(s->B, s->N);
    for (int i = 0; i < count; i++) c.in[i].shape = of_clients(s, shape[i]);
    double size = s->N > 4 ? 2 / sqrt((double)s->N) : 1;
    c.in[2].low = -size, c.in[2].high = size;
    if (s->length)
        c.in[count++] = (check_input){.dtype = TN_I32,
                                      .shape = of_clients(s, TN_SHAPE(s->B)),
                                      .low = 0,
                                      .high = (double)s->L + 2};
    c.in_count = count;
    return c;
}

static void test_small(void **state)
{
    (void)state;
    static const sequence_case cases[] = {
        {.L = 3, .B = 2, .I = 2, .N = 3},
        {.L = 4, .B = 3, .I = 2, .N = 2, .length = true},
        {.L = 3, .B = 2, .I = 1, .N = 2, .no_bias = true, .read = ONLY_Y},
        {.L = 3, .B = 2, .I = 3, .N = 1, .no_start = true, .read = ONLY_STATES},
        {.L = 2, .B = 2, .I = 2, .N = 2, .read = ONLY_C},
        {.L = 1, .B = 1, .I = 1, .N = 1},
        {.P = 2, .L = 3, .B = 2, .I = 2, .N = 2},
        {.P = 3, .L = 2, .B = 2, .I = 1, .N = 2, .length = true, .no_start = true},
        {.P = 1, .L = 2, .B = 1, .I = 2, .N = 3, .no_bias = true},
    };
    for (size_t i = 0; i < 2 * (sizeof cases / sizeof *cases); i++) {
        sequence_case s = cases[i / 2];
        s.gru = i & 1;
        if (s.gru && s.read == ONLY_C) continue;
        char name[48];
        snprintf(name, sizeof name, "%s %zu", s.gru ? "gru" : "lstm", i / 2);
        check_case c = case_of(&s, name);
        c.second_order = true;
        c.bf16 = true;
        check_run(&c, 10 + i);
    }
}

/* Blocks of rows, units that fill vectors and that do not, several tasks. */
static void test_large(void **state)
{
    (void)state;
    static const sequence_case cases[] = {
        {.L = 4, .B = 32, .I = 8, .N = 16},
        {.L = 6, .B = 40, .I = 5, .N = 48, .length = true},
        {.L = 5, .B = 17, .I = 20, .N = 65},
        {.L = 20, .B = 3, .I = 7, .N = 100, .read = ONLY_STATES},
        {.L = 3, .B = 130, .I = 4, .N = 40, .no_start = true, .read = ONLY_Y},
        {.P = 5, .L = 4, .B = 9, .I = 3, .N = 17, .length = true},
        {.P = 40, .L = 4, .B = 8, .I = 8, .N = 16},
    };
    for (size_t i = 0; i < 2 * (sizeof cases / sizeof *cases); i++) {
        sequence_case s = cases[i / 2];
        s.gru = i & 1;
        char name[48];
        snprintf(name, sizeof name, "large %s %zu", s.gru ? "gru" : "lstm", i / 2);
        check_case c = case_of(&s, name);
        check_backend(&c, TN_F32, 50 + i, 2e-5);
        check_backend(&c, TN_BF16, 50 + i, 3e-2);
    }
}

static void test_random_shapes(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 30; seed++) {
        sequence_case s = {.gru = seed & 1};
        s.P = (int64_t)tn_random_below(seed, 3, 0, 3);
        s.L = 1 + (int64_t)tn_random_below(seed, 3, 1, 6);
        s.B = 1 + (int64_t)tn_random_below(seed, 3, 2, 20);
        s.I = 1 + (int64_t)tn_random_below(seed, 3, 3, 9);
        s.N = 1 + (int64_t)tn_random_below(seed, 3, 4, 40);
        s.no_bias = tn_random_below(seed, 3, 5, 4) == 0;
        s.no_start = tn_random_below(seed, 3, 6, 2) == 0;
        s.length = tn_random_below(seed, 3, 7, 2) == 0;
        s.read = tn_random_below(seed, 3, 8, 3) == 0 ? ONLY_STATES : ALL;
        char name[48];
        snprintf(name, sizeof name, "random sequence %d", (int)seed);
        check_case c = case_of(&s, name);
        check_backend(&c, TN_F32, seed, 2e-5);
    }
}

static void test_empty(void **state)
{
    (void)state;
    static const sequence_case cases[] = {
        {.L = 0, .B = 2, .I = 2, .N = 3},
        {.L = 2, .B = 0, .I = 2, .N = 3},
        {.L = 2, .B = 2, .I = 0, .N = 3, .no_bias = true},
        {.L = 2, .B = 2, .I = 2, .N = 3, .P = 0},
        {.L = 0, .B = 2, .I = 2, .N = 3, .length = true, .P = 2},
    };
    for (size_t i = 0; i < 2 * (sizeof cases / sizeof *cases); i++) {
        sequence_case s = cases[i / 2];
        s.gru = i & 1;
        check_case c = case_of(&s, "empty sequence");
        check_backend(&c, TN_F32, 1, 2e-5);
    }
}

/* ---- lengths --------------------------------------------------------------------------------- */

/* A row with a length gives what the shorter sequence gives: outputs, zeros behind them, and the
 * last state. */
static void test_lengths(void **state)
{
    (void)state;
    enum { L = 5, B = 4, I = 3, N = 6 };
    static const int32_t length[B] = {3, 0, 5, 9};
    for (int gru = 0; gru < 2; gru++) {
        int64_t width = (gru ? 3 : 4) * N;
        float *value[6];
        const int64_t size[6] = {L * B * I, width * I, width * N, width, width, B * N};
        for (int i = 0; i < 6; i++) {
            value[i] = calloc((size_t)size[i], sizeof(float));
            for (int64_t k = 0; k < size[i]; k++)
                value[i][k] = 2 * tn_random_uniform(8, (uint64_t)i, (uint64_t)k) - 1;
        }
        tn_graph *graph = tn_graph_create(NULL);
        tn_node x = tn_constant(graph, TN_F32, TN_SHAPE(L, B, I), value[0]),
                w = tn_constant(graph, TN_F32, TN_SHAPE(width, I), value[1]);
        tn_node u = tn_constant(graph, TN_F32, TN_SHAPE(width, N), value[2]),
                a = tn_constant(graph, TN_F32, TN_SHAPE(width), value[3]);
        tn_node b = tn_constant(graph, TN_F32, TN_SHAPE(width), value[4]),
                h = tn_constant(graph, TN_F32, TN_SHAPE(B, N), value[5]);
        tn_node limit = tn_constant(graph, TN_I32, TN_SHAPE(B), length), fetch[4 + 2 * L];
        tn_recurrent_result r = gru ? tn_gru_sequence(x, w, u, a, b, h, limit)
                                    : tn_lstm_sequence(x, w, u, a, b, h, h, limit);
        int count = 0;
        fetch[count++] = r.y;
        fetch[count++] = r.h;
        tn_recurrent_result shorter[L + 1];
        for (int t = 1; t <= L; t++) {
            tn_node head = tn_slice(x, 0, 0, t, 1);
            shorter[t] = gru ? tn_gru_sequence(head, w, u, a, b, h, TN_NONE)
                             : tn_lstm_sequence(head, w, u, a, b, h, h, TN_NONE);
            fetch[count++] = shorter[t].h;
        }
        fetch[count++] = shorter[L].y;
        tn_plan *plan;
        tn_compile_options options = {.graph = graph, .fetches = {fetch, count}};
        if (tn_compile_with(&plan, &options) != TN_OK) fail_msg("%s", tn_message());
        static float y[L][B][N], last[B][N], by_length[L][B][N], all[L][B][N];
        void *to[4 + 2 * L] = {y, last};
        for (int t = 0; t < L; t++) to[2 + t] = by_length[t];
        to[2 + L] = all;
        if (tn_run(plan, NULL, to) != TN_OK) fail_msg("%s", tn_message());
        for (int k = 0; k < B; k++) {
            int steps = length[k] < L ? length[k] : L;
            for (int n = 0; n < N; n++) {
                for (int t = 0; t < L; t++)
                    assert_near(y[t][k][n], t < steps ? all[t][k][n] : 0, 1e-6);
                assert_near(last[k][n],
                                   steps ? by_length[steps - 1][k][n] : value[5][k * N + n], 1e-6);
            }
        }
        tn_plan_free(plan);
        tn_graph_free(graph);
        for (int i = 0; i < 6; i++) free(value[i]);
    }
}

/* Saturated gates: no NaN from e^x that overflows, values at their limits; a NaN stays. */
static void test_saturation(void **state)
{
    (void)state;
    for (int gru = 0; gru < 2; gru++)
        for (int k = 0; k < 3; k++) {
            float x[1][1][1] = {{{k == 0 ? 1e30F : k == 1 ? -1e30F : NAN}}};
            int64_t gates = gru ? 3 : 4;
            tn_graph *graph = tn_graph_create(NULL);
            tn_node input = tn_constant(graph, TN_F32, TN_SHAPE(1, 1, 1), x),
                    w = tn_fill(graph, TN_F32, TN_SHAPE(gates, 1), 1);
            tn_node u = tn_fill(graph, TN_F32, TN_SHAPE(gates, 1), 0);
            tn_recurrent_result r =
                gru ? tn_gru_sequence(input, w, u, TN_NONE, TN_NONE, TN_NONE, TN_NONE)
                    : tn_lstm_sequence(input, w, u, TN_NONE, TN_NONE, TN_NONE, TN_NONE, TN_NONE);
            tn_plan *plan;
            assert_int_equal(tn_compile(&plan, .graph = graph, .fetches = TN_NODES(r.h)), TN_OK);
            float h;
            assert_int_equal(tn_run(plan, NULL, (void *[]){&h}), TN_OK);
            /* z = 1 keeps h0 = 0; z = 0 takes n = -1. i = o = 1 and g = 1 give tanh(1); i = 0 gives
             * 0. */
            if (k == 2) assert_true(isnan(h));
            else
                assert_near(h, gru ? (k == 0 ? 0 : -1) : (k == 0 ? (float)tanh(1) : 0),
                                   1e-6f);
            tn_plan_free(plan);
            tn_graph_free(graph);
        }
}

/* ---- decompositions -------------------------------------------------------------------------- */

static void test_decompositions(void **state)
{
    (void)state;
    static const tn_op_id ops[] = {TN_OP_LSTM, TN_OP_LSTM_GRAD, TN_OP_GRU, TN_OP_GRU_GRAD};
    for (int i = 0; i < 16; i++) {
        sequence_case s = {.gru = i & 1,
                           .P = i & 2 ? 2 : 0,
                           .L = 4,
                           .B = 3,
                           .I = 2,
                           .N = 3,
                           .length = i & 4,
                           .read = i & 8 ? ONLY_STATES : ALL};
        check_case c = case_of(&s, s.gru ? "gru" : "lstm");
        check_decompositions(&c, 90 + (uint64_t)i, ops, 4, 2);
    }
}

/* ---- messages -------------------------------------------------------------------------------- */

static void test_messages(void **state)
{
    (void)state;
#define REFUSED(expression, part)                                                                  \
    do {                                                                                           \
        tn_graph *graph = tn_graph_create(NULL);                                                   \
        tn_node x = tn_input(graph, "x", TN_F32, TN_SHAPE(5, 2, 3)),                               \
                w = tn_input(graph, "w", TN_F32, TN_SHAPE(16, 3));                                 \
        tn_node u = tn_input(graph, "u", TN_F32, TN_SHAPE(16, 4)),                                 \
                b = tn_input(graph, "b", TN_F32, TN_SHAPE(16));                                    \
        tn_node h = tn_input(graph, "h", TN_F32, TN_SHAPE(2, 4)), none = TN_NONE;                  \
        (void)x, (void)w, (void)u, (void)b, (void)h, (void)none;                                   \
        assert_true(tn_is_none((expression).y));                                                   \
        check_refused(graph, part);                                                                \
        tn_graph_free(graph);                                                                      \
    } while (0)
    REFUSED(tn_lstm_sequence(b, w, u, b, b, h, h, none), "x [L, B, I] wants [4N, N]");
    REFUSED(tn_lstm_sequence(tn_cast(x, TN_I32), w, u, b, b, h, h, none), "x is i32");
    REFUSED(tn_lstm_sequence(x, u, u, b, b, h, h, none),
            "lstm_sequence: w_input is f32 [16, 4]; it must be floating-point [16, 3] here");
    REFUSED(tn_gru_sequence(x, w, u, b, b, h, none),
            "gru_sequence: w_input is f32 [16, 3]; it must be floating-point [12, 3]");
    REFUSED(tn_lstm_sequence(x, w, tn_slice(u, 0, 0, 8, 1), b, b, h, h, none),
            "w_hidden is f32 [8, 4]");
    REFUSED(tn_lstm_sequence(x, w, u, h, b, h, h, none), "b_input is f32 [2, 4]");
    REFUSED(tn_lstm_sequence(x, w, u, b, h, h, h, none), "b_hidden is");
    REFUSED(tn_lstm_sequence(x, w, u, b, b, b, h, none),
            "h0 is f32 [16]; it must be floating-point [2, 4] here");
    REFUSED(tn_lstm_sequence(x, w, u, b, b, h, b, none), "c0 is");
    REFUSED(tn_lstm_sequence(x, w, u, b, b, h, h, b),
            "length is f32 [16]; it must be i32 [2], one a row");
    tn_graph *graph = tn_graph_create(NULL);
    tn_node x = tn_input(graph, "x", TN_F64, TN_SHAPE(2, 1, 1)),
            w = tn_fill(graph, TN_F64, TN_SHAPE(4, 1), 1);
    tn_node y = tn_lstm_sequence(x, w, w, TN_NONE, TN_NONE, TN_NONE, TN_NONE, TN_NONE).y;
    tn_plan *plan;
    assert_int_equal(
        tn_compile(&plan, .graph = graph, .feeds = TN_NODES(x), .fetches = TN_NODES(y)),
        TN_UNSUPPORTED);
    if (!strstr(tn_message(), "does not take f64")) fail_msg("%s", tn_message());
    tn_graph_free(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small),          cmocka_unit_test(test_large),
        cmocka_unit_test(test_random_shapes),  cmocka_unit_test(test_empty),
        cmocka_unit_test(test_lengths),        cmocka_unit_test(test_saturation),
        cmocka_unit_test(test_decompositions), cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
