/* Rotary positions and the cache write: gradients, kernels against the reference, angles,
 * messages. */
#include "graph_check.h" /* first: with the macros that record places */

#include "ops/decompositions.h"

/* ---- rotary positions ------------------------------------------------------------------------ */

typedef struct rope_case {
    tn_rope_options options;
} rope_case;

static int build_rope(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    out[0] = tn_rope_with(in[0], in[1], ((const rope_case *)option)->options);
    return 1;
}

static void test_rope(void **state)
{
    (void)state;
    static const struct {
        tn_shape x, position;
        tn_rope_options options;
        double furthest;
    } cases[] = {
        {{4, {2, 3, 2, 6}}, {1, {3}}, {.base = 0}, 10},
        {{4, {2, 3, 2, 6}}, {2, {2, 3}}, {.interleaved = true}, 1e6},
        {{3, {5, 2, 8}}, {1, {5}}, {.rotary = 4, .base = 500000}, 1e6},
        {{3, {5, 1, 10}}, {1, {5}}, {.rotary = 6, .interleaved = true}, 300},
        {{4, {2, 40, 4, 64}}, {1, {40}}, {.base = 0}, 1e6},
        {{5, {2, 2, 3, 2, 4}}, {3, {2, 2, 3}}, {.base = 0}, 100},
        {{5, {2, 2, 3, 2, 4}}, {1, {3}}, {.interleaved = true}, 100},
        {{3, {2, 1, 1030}}, {1, {2}}, {.base = 0}, 1000}, /* longer than the table on the stack */
        {{3, {2, 3, 7}}, {1, {2}}, {.rotary = 6}, 1000},
        {{3, {0, 3, 8}}, {1, {0}}, {.base = 0}, 1000},
        {{3, {2, 0, 8}}, {1, {2}}, {.base = 0}, 1000},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rope_case option = {cases[i].options};
        check_case c = {.name = "rope",
                        .in = {{.shape = cases[i].x},
                               {.dtype = TN_I32,
                                .shape = cases[i].position,
                                .low = 0,
                                .high = cases[i].furthest}},
                        .in_count = 2,
                        .build = build_rope,
                        .option = &option,
                        .second_order = tn_shape_size(cases[i].x) < 200,
                        .bf16 = true,
                        .tolerance = 3e-7,
                        .bf16_tolerance = 5e-3};
        check_run(&c, 20 + i);
    }
}

/* Position 10^6 + 3 and, in bf16, 257 (which bf16 itself cannot hold), against the formula. */
static void test_rope_angles(void **state)
{
    (void)state;
    enum { Q = 8 };
    static const int32_t position[2] = {1000003, 257};
    for (int k = 0; k < 4; k++) {
        bool interleaved = k & 1, narrow = k & 2;
        tn_graph *graph = tn_graph_create(NULL);
        tn_node at = tn_input(graph, "at", TN_I32, TN_SHAPE(2));
        tn_node x = tn_fill(graph, narrow ? TN_BF16 : TN_F32, TN_SHAPE(2, 1, Q), 1),
                y = tn_cast(tn_rope(x, at, .interleaved = interleaved), TN_F32);
        tn_plan *plan;
        assert_int_equal(
            tn_compile(&plan, .graph = graph, .feeds = TN_NODES(at), .fetches = TN_NODES(y)),
            TN_OK);
        float out[2][Q];
        assert_int_equal(tn_run(plan, (const void *[]){position}, (void *[]){out}), TN_OK);
        for (int t = 0; t < 2; t++)
            for (int i = 0; i < Q / 2; i++) {
                double angle = position[t] * pow(10000, -2.0 * i / Q);
                int one = interleaved ? 2 * i : i, two = interleaved ? 2 * i + 1 : i + Q / 2;
                double tolerance = narrow ? 8e-3 : 3e-7;
                assert_near(out[t][one], (float)(cos(angle) - sin(angle)), (float)tolerance);
                assert_near(out[t][two], (float)(cos(angle) + sin(angle)), (float)tolerance);
            }
        tn_plan_free(plan);
        tn_graph_free(graph);
    }
}

/* ---- cache write ----------------------------------------------------------------------------- */

static int build_cache_write(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    out[0] = tn_cache_write(in[0], in[1], in[2]);
    return 1;
}

static int build_cache_write_view(tn_graph *graph, const tn_node *in, tn_node *out,
                                  const void *option)
{
    (void)graph, (void)option;
    tn_node values = tn_transpose(tn_slice(in[1], 2, 1, 3, 1), TN_PERMUTE(1, 0, 2, 3));
    out[0] = tn_cache_write(in[0], values, in[2]);
    return 1;
}

static void test_cache_write(void **state)
{
    (void)state;
    check_case c = {.name = "cache_write",
                    .in = {{.shape = TN_SHAPE(3, 7, 2, 3)},
                           {.shape = TN_SHAPE(3, 2, 2, 3)},
                           {.dtype = TN_I32, .shape = TN_SHAPE(3), .low = 0, .high = 6}},
                    .in_count = 3,
                    .build = build_cache_write,
                    .second_order = true,
                    .bf16 = true};
    check_run(&c, 30);
    check_case plain = {.name = "cache_write of rank 2",
                        .in = {{.shape = TN_SHAPE(2, 5)},
                               {.shape = TN_SHAPE(2, 5)},
                               {.dtype = TN_I32, .shape = TN_SHAPE(2), .low = 0, .high = 1}},
                        .in_count = 3,
                        .build = build_cache_write};
    check_run(&plain, 31);
    check_case view = {.name = "cache_write of a view",
                       .in = {{.shape = TN_SHAPE(3, 7, 2, 3)},
                              {.shape = TN_SHAPE(2, 3, 4, 3)},
                              {.dtype = TN_I32, .shape = TN_SHAPE(3), .low = 0, .high = 6}},
                       .in_count = 3,
                       .build = build_cache_write_view,
                       .bf16 = true};
    check_run(&view, 32);
    check_case nothing = {.name = "cache_write of nothing",
                          .in = {{.shape = TN_SHAPE(3, 7, 2)},
                                 {.shape = TN_SHAPE(3, 0, 2)},
                                 {.dtype = TN_I32, .shape = TN_SHAPE(3), .low = 0, .high = 8}},
                          .in_count = 3,
                          .build = build_cache_write,
                          .no_first_order = true};
    check_run(&nothing, 33);
}

/* ---- decompositions -------------------------------------------------------------------------- */

static void test_decompositions(void **state)
{
    (void)state;
    static const tn_op_id ops[] = {TN_OP_ROPE, TN_OP_CACHE_WRITE};
    for (int i = 0; i < 6; i++) {
        rope_case o = {{.interleaved = i & 1,
                        .rotary = i < 2   ? 0
                                  : i < 4 ? 4
                                          : 2,
                        .base = i & 1 ? 500 : 0}};
        check_case c = {.name = "rope",
                        .in = {{.shape = TN_SHAPE(2, 3, 2, 6)},
                               {.dtype = TN_I32,
                                .shape = i & 1 ? TN_SHAPE(3) : TN_SHAPE(2, 3),
                                .low = 0,
                                .high = 500}},
                        .in_count = 2,
                        .build = build_rope,
                        .option = &o};
        check_decompositions(&c, 60 + (uint64_t)i, ops, 2, 2);
    }
    check_case c = {.name = "cache_write",
                    .in = {{.shape = TN_SHAPE(3, 7, 2, 3)},
                           {.shape = TN_SHAPE(3, 2, 2, 3)},
                           {.dtype = TN_I32, .shape = TN_SHAPE(3), .low = 0, .high = 6}},
                    .in_count = 3,
                    .build = build_cache_write};
    check_decompositions(&c, 70, ops, 2, 2);
}

/* ---- messages -------------------------------------------------------------------------------- */

static void test_bad_starts(void **state)
{
    (void)state;
    tn_graph *graph = tn_graph_create(NULL);
    tn_node x = tn_fill(graph, TN_F32, TN_SHAPE(2, 4, 1, 2), 1),
            two = tn_input(graph, "two", TN_I32, TN_SHAPE(2));
    tn_node written = tn_cache_write(x, tn_fill(graph, TN_F32, TN_SHAPE(2, 3, 1, 2), 1), two);
    check_refused_run(graph, two, written, (int32_t[]){1, 2},
                      "test_rope.c:", "start[1] is 2, but 3 rows must fit into 4");
    check_refused_run(graph, two, written, (int32_t[]){-1, 0}, "test_rope.c:", "start[0] is -1");
    tn_graph_free(graph);
}

/* A refused write leaves the state as it was. */
static void test_refused_write_keeps_state(void **state)
{
    (void)state;
    tn_state *store = tn_state_create(1);
    tn_graph *graph = tn_graph_create(store);
    tn_node at = tn_input(graph, "at", TN_I32, TN_SHAPE(2));
    tn_node cache = tn_state_node(graph, "cache", TN_F32, TN_SHAPE(2, 3),
                                  (tn_init){.kind = TN_INIT_CONSTANT, .a = 5});
    tn_node token = tn_assign(cache,
                              tn_cache_write(cache, tn_fill(graph, TN_F32, TN_SHAPE(2, 1), 7), at));
    tn_plan *plan;
    assert_int_equal(tn_compile(&plan, .graph = graph, .feeds = TN_NODES(at), .updates = token),
                     TN_OK);
    assert_int_equal(tn_run(plan, (const void *[]){(int32_t[]){0, 3}}, NULL), TN_INVALID);
    const float *data = tn_state_find(store, "cache")->data;
    for (int i = 0; i < 6; i++) assert_true(data[i] == 5);
    assert_int_equal(tn_run(plan, (const void *[]){(int32_t[]){0, 2}}, NULL), TN_OK);
    data = tn_state_find(store, "cache")->data;
    for (int i = 0; i < 6; i++) assert_true(data[i] == (i == 0 || i == 5 ? 7 : 5));
    tn_plan_free(plan);
    tn_graph_free(graph);
    tn_state_free(store);
}

static void test_messages(void **state)
{
    (void)state;
#define REFUSED(expression, part)                                                                  \
    do {                                                                                           \
        tn_graph *graph = tn_graph_create(NULL);                                                   \
        tn_node q = tn_input(graph, "q", TN_F32, TN_SHAPE(2, 3, 4, 6)),                            \
                k = tn_input(graph, "k", TN_F32, TN_SHAPE(2, 5, 2, 6));                            \
        tn_node packed = tn_input(graph, "packed", TN_F32, TN_SHAPE(7, 2, 6)),                     \
                i = tn_input(graph, "i", TN_I32, TN_SHAPE(2));                                     \
        tn_node mask = tn_input(graph, "mask", TN_BOOL, TN_SHAPE(2, 5));                           \
        (void)q, (void)k, (void)packed, (void)i, (void)mask;                                       \
        assert_true(tn_is_none(expression));                                                       \
        check_refused(graph, part);                                                                \
        tn_graph_free(graph);                                                                      \
    } while (0)
    REFUSED(tn_rope(q, i), "x [..., L, H, Q] wants [L] or [..., L]");
    REFUSED(tn_rope(i, i), "must be floating-point and i32");
    REFUSED(tn_rope(tn_slice(q, 1, 0, 2, 1), i, .rotary = 3), "3 of 6 elements are to turn");
    REFUSED(tn_rope(tn_slice(q, 1, 0, 2, 1), i, .rotary = 8), "an even number up to 6");
    REFUSED(tn_rope(tn_slice(q, 1, 0, 2, 1), i, .base = -1), "base -1 is not positive");
    REFUSED(tn_cache_write(k, q, i), "do not fit into base");
    REFUSED(tn_cache_write(k, tn_cast(k, TN_BF16), i), "do not fit into base");
    REFUSED(tn_cache_write(k, k, tn_slice(i, 0, 0, 1, 1)), "it must be i32 [2]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rope),        cmocka_unit_test(test_rope_angles),
        cmocka_unit_test(test_cache_write), cmocka_unit_test(test_decompositions),
        cmocka_unit_test(test_bad_starts),  cmocka_unit_test(test_refused_write_keeps_state),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
