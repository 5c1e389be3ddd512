/* Pooling: gradients to second order, the CPU kernels against the reference, ties, NaN, padding,
 * layouts, messages. */
#include "graph_check.h"

typedef struct pool_case {
    int space;
    int64_t B, C, S[3];
    tn_pool_geometry g;
    bool mean;
} pool_case;

static int build_pool(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const pool_case *o = option;
    out[0] = o->mean ? tn_average_pool(in[0], o->g) : tn_max_pool(in[0], o->g);
    return 1;
}

/* The pooled map feeds a product, so that second derivatives do not vanish. */
static int build_squared(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    build_pool(graph, in, out, option);
    out[0] = tn_multiply(tn_square(out[0]), out[0]);
    return 1;
}

/* Through a transposed view: neither row-major nor channels-last. */
static int build_turned(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    tn_node turned = tn_swap_axes(in[0], -1, -2);
    return build_pool(graph, &turned, out, option);
}

static check_case case_of(const pool_case *o, const char *name)
{
    check_case c = {.name = name, .in_count = 1, .build = build_pool, .option = o, .bf16 = true};
    c.in[0] = (check_input){.dtype = TN_F32, .shape = {.rank = 2 + o->space, .dim = {o->B, o->C}}};
    for (int i = 0; i < o->space; i++) c.in[0].shape.dim[2 + i] = o->S[i];
    return c;
}

/* Numbers that differ from one another (at a tie, differences see half a derivative) and that
 * bf16 holds exactly: up to 512 of them. */
static double *distinct(tn_shape shape, uint64_t seed)
{
    int64_t count = tn_shape_size(shape);
    double *value = calloc((size_t)count + 1, sizeof *value);
    for (int64_t i = 0; i < count; i++) value[i] = (double)(i - count / 2) / 128;
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t other = (int64_t)tn_random_below(9, seed, (uint64_t)i, (uint64_t)i + 1);
        double moved = value[i];
        value[i] = value[other];
        value[other] = moved;
    }
    return value;
}

static const pool_case cases[] = {
    {1, 2, 3, {10}, {.kernel = {2}}, false},
    {1, 2, 3, {11}, {.kernel = {3}, .stride = {2}, .pad_before = {1}, .pad_after = {2}}, false},
    {1, 1, 1, {1}, {.kernel = {1}}, false},
    {2, 2, 3, {6, 4}, {.kernel = {2, 2}}, false},
    {2,
     1,
     5,
     {7, 8},
     {.kernel = {3, 3}, .stride = {2, 2}, .pad_before = {1, 1}, .pad_after = {1, 1}},
     false},
    {2, 1, 17, {5, 6}, {.kernel = {3, 2}, .stride = {1, 1}}, false},
    {2, 1, 2, {9, 9}, {.kernel = {2, 3}, .stride = {3, 4}}, false},
    {2, 1, 2, {6, 13}, {.kernel = {1, 13}}, false},
    {2,
     1,
     2,
     {16, 14},
     {.kernel = {13, 12}, .stride = {1, 2}, .pad_before = {3, 0}, .pad_after = {0, 5}},
     false},
    {3, 1, 3, {4, 5, 6}, {.kernel = {2, 2, 2}}, false},
    {3,
     2,
     2,
     {5, 4, 5},
     {.kernel = {3, 2, 3}, .stride = {2, 1, 1}, .pad_before = {1, 0, 2}, .pad_after = {1, 1, 0}},
     false},
};

static void test_pools(void **unused)
{
    (void)unused;
    for (int kind = 0; kind < 3; kind++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            pool_case o = cases[i];
            o.mean = kind > 0;
            o.g.count_padding = kind == 2;
            char name[40];
            snprintf(name, sizeof name, "%s %zu",
                     kind == 0   ? "max_pool"
                     : kind == 1 ? "average_pool"
                                 : "average_pool with padding",
                     i);
            check_case c = case_of(&o, name);
            double *values = distinct(c.in[0].shape, i);
            c.in[0].values = values;
            check_run(&c, 10 * i);
            c.build = build_squared;
            c.second_order = true;
            c.bf16 = false;
            check_run(&c, 10 * i + 1);
            if (o.space > 1) {
                c.build = build_turned;
                c.second_order = false;
                int64_t last = c.in[0].shape.dim[1 + o.space];
                c.in[0].shape.dim[1 + o.space] = c.in[0].shape.dim[o.space];
                c.in[0].shape.dim[o.space] = last;
                check_backend(&c, TN_F32, i, 1e-5);
            }
            free(values);
        }
}

/* Large enough for two threads. */
static void test_large(void **unused)
{
    (void)unused;
    for (int mean = 0; mean < 2; mean++) {
        pool_case o = {
            2,
            3,
            35,
            {40, 37},
            {.kernel = {3, 3}, .stride = {2, 2}, .pad_before = {1, 1}, .pad_after = {1, 1}},
            mean};
        check_case c = case_of(&o, "large pool");
        check_backend(&c, TN_F32, 1, 1e-5);
        check_backend(&c, TN_BF16, 1, 1e-2);
    }
}

/* Ties: the gradient goes to the first maximum; NaN wins, the first one; -inf everywhere is a
 * maximum too. */
static void test_max_choice(void **unused)
{
    (void)unused;
    static const double tie[] = {1, 2, 2, 0, 2, 2, 1, 1},
                        missing[] = {1, NAN, 3, NAN, 5, 2, NAN, 0},
                        low[] = {-INFINITY, -INFINITY, -INFINITY, -1};
    static const float at_tie[] = {0, 1, 1, 0, 1, 0, 1, 0};
    pool_case o = {1, 1, 1, {8}, {.kernel = {2}}, false};
    check_case c = case_of(&o, "max_pool ties");
    c.in[0].values = tie;
    check_backend(&c, TN_F32, 1, 1e-6);
    c.name = "max_pool NaN";
    c.in[0].values = missing;
    check_backend(&c, TN_F32, 1, 1e-6);
    pool_case narrow = {1, 1, 1, {4}, {.kernel = {2}, .stride = {1}, .pad_before = {1}}, false};
    c = case_of(&narrow, "max_pool -inf");
    c.in[0].values = low;
    check_backend(&c, TN_F32, 1, 1e-6);

    tn_graph *graph = tn_graph_create(NULL);
    tn_node x = tn_input(graph, "x", TN_F32, TN_SHAPE(1, 1, 8)), d;
    tn_node y = tn_sum(tn_max_pool(x, o.g), TN_ALL_AXES);
    tn_gradients(y, &x, 1, &d);
    float value[8], got[8];
    for (int i = 0; i < 8; i++) value[i] = (float)tie[i];
    for (int backend = 0; backend < 2; backend++) {
        tn_plan *plan;
        assert_int_equal(tn_compile(&plan, .graph = graph, .feeds = TN_NODES(x),
                                    .fetches = TN_NODES(d), .backend = (tn_backend)backend),
                         TN_OK);
        assert_int_equal(tn_run(plan, (const void *[]){value}, (void *[]){got}), TN_OK);
        for (int i = 0; i < 8; i++) assert_true(got[i] == at_tie[i]);
        tn_plan_free(plan);
    }
    tn_graph_free(graph);
}

static void test_empty(void **unused)
{
    (void)unused;
    for (int mean = 0; mean < 2; mean++) {
        pool_case no_batch = {2, 0, 3, {4, 4}, {.kernel = {2, 2}}, mean},
                  no_channels = {2, 2, 0, {4, 4}, {.kernel = {2, 2}}, mean};
        check_case c = case_of(&no_batch, "pool without a batch");
        check_run(&c, 1);
        c = case_of(&no_channels, "pool without channels");
        check_run(&c, 1);
    }
}

static void test_f64(void **unused)
{
    (void)unused;
    for (int mean = 0; mean < 2; mean++) {
        pool_case o = {
            2,
            2,
            3,
            {5, 5},
            {.kernel = {3, 3}, .stride = {2, 2}, .pad_before = {1, 1}, .pad_after = {1, 1}},
            mean};
        check_case c = case_of(&o, "pool f64");
        check_backend(&c, TN_F64, 1, 1e-12);
    }
}

static void refuse(tn_shape shape, tn_dtype dtype, tn_pool_geometry g, bool mean, const char *part)
{
    tn_graph *graph = tn_graph_create(NULL);
    tn_node x = tn_input(graph, "x", dtype, shape);
    assert_true(tn_is_none(mean ? tn_average_pool(x, g) : tn_max_pool(x, g)));
    check_refused(graph, part);
    tn_graph_free(graph);
}

static void test_messages(void **unused)
{
    (void)unused;
    tn_pool_geometry two = {.kernel = {2, 2}};
    for (int mean = 0; mean < 2; mean++) {
        refuse(TN_SHAPE(2, 3), TN_F32, two, mean, "3 to 5 dimensions");
        refuse(TN_SHAPE(2, 3, 4, 4), TN_I32, two, mean, "floating-point");
        refuse(TN_SHAPE(2, 3, 4, 1), TN_F32, two, mean, "spatial dimension 1 of size 1");
        refuse(TN_SHAPE(2, 3, 4, 4), TN_F32, (tn_pool_geometry){.kernel = {2, 0}}, mean,
               "kernel 0");
        refuse(TN_SHAPE(2, 3, 4, 4), TN_F32,
               (tn_pool_geometry){.kernel = {2, 2}, .pad_before = {2, 0}}, mean,
               "padding be smaller");
        refuse(TN_SHAPE(2, 3, 4, 4), TN_F32,
               (tn_pool_geometry){.kernel = {2, 2}, .stride = {-1, 1}}, mean, "stride -1");
    }
    refuse(TN_SHAPE(1, 1, 1, 1), TN_F32, (tn_pool_geometry){.kernel = {INT32_MAX / 2, 3}}, false,
           "do not go with");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pools),      cmocka_unit_test(test_large),
        cmocka_unit_test(test_max_choice), cmocka_unit_test(test_empty),
        cmocka_unit_test(test_f64),        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
