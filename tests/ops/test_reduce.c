/* Reductions and scans: values, derivatives to second order, accuracy of long sums, ties, empty
 * axes, dtypes, messages. */
#include "graph_check.h"

/* ---- sums, means, extremes --------------------------------------------------------------- */

typedef struct reduce_case {
    const char *name;
    tn_node (*op)(tn_node, tn_axes);
} reduce_case;

static const reduce_case reductions[] = {{"sum", tn_sum},
                                         {"mean", tn_mean},
                                         {"max", tn_max},
                                         {"min", tn_min},
                                         {"logsumexp", tn_logsumexp}};
enum { REDUCTIONS = sizeof reductions / sizeof *reductions };

typedef struct reduce_option {
    const reduce_case *reduction;
    tn_axes axes;
} reduce_option;

static int build_reduction(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const reduce_option *o = option;
    out[0] = o->reduction->op(in[0], o->axes);
    return 1;
}

/* Rows, columns, middles, everything, alternating axes; kept or not. */
static const struct {
    tn_shape shape;
    tn_axes axes;
} spaces[] = {
    {{.rank = 1, .dim = {13}}, {.count = 0}},
    {{.rank = 2, .dim = {5, 33}}, {.count = 1, .axis = {1}}},
    {{.rank = 2, .dim = {5, 33}}, {.count = 1, .axis = {0}, .keep = true}},
    {{.rank = 3, .dim = {4, 3, 5}}, {.count = 1, .axis = {1}}},
    {{.rank = 3, .dim = {4, 3, 5}}, {.count = 2, .axis = {0, -1}, .keep = true}},
    {{.rank = 5, .dim = {2, 3, 2, 3, 2}}, {.count = 3, .axis = {4, 0, 2}}},
    {{.rank = 5, .dim = {2, 3, 2, 3, 2}}, {.count = 2, .axis = {1, 3}}},
    {{.rank = 4, .dim = {1, 4, 1, 3}}, {.count = 2, .axis = {0, 2}}},
    {{.rank = 0}, {.count = 0}},
    {{.rank = 3, .dim = {3, 4, 2}}, {.count = 3, .axis = {0, 1, 2}, .keep = true}},
    {{.rank = 2, .dim = {0, 4}}, {.count = 1, .axis = {1}}},
};
enum { SPACES = sizeof spaces / sizeof *spaces };

static void test_reductions(void **unused)
{
    (void)unused;
    for (int k = 0; k < REDUCTIONS; k++)
        for (int s = 0; s < SPACES; s++) {
            reduce_option o = {&reductions[k], spaces[s].axes};
            check_case c = {.name = reductions[k].name,
                            .in_count = 1,
                            .build = build_reduction,
                            .option = &o,
                            .second_order = true,
                            .bf16 = true};
            /* All different, so that no step of a finite difference changes an extreme. */
            double values[200];
            int64_t size = tn_shape_size(spaces[s].shape);
            for (int64_t i = 0; i < size; i++)
                values[i] = 4 * (double)(i * 67 % size) / (double)size - 2;
            c.in[0] = (check_input){.shape = spaces[s].shape, .values = values};
            check_run(&c, 1);
        }
}

/* Where work is cut: long rows, many rows, wide and narrow columns, both ends reduced,
 * channels-last. */
static void test_large(void **unused)
{
    (void)unused;
    static const struct {
        tn_shape shape;
        tn_axes axes;
    } large[] = {
        {{.rank = 1, .dim = {300001}}, {.count = 0}},
        {{.rank = 2, .dim = {3, 70001}}, {.count = 1, .axis = {1}}},
        {{.rank = 2, .dim = {5000, 20}}, {.count = 1, .axis = {1}}},
        {{.rank = 2, .dim = {5000, 20}}, {.count = 1, .axis = {0}}},
        {{.rank = 2, .dim = {100, 2500}}, {.count = 1, .axis = {0}}},
        {{.rank = 2, .dim = {100, 2500}}, {.count = 1, .axis = {1}}},
        {{.rank = 4, .dim = {6, 16, 50, 21}}, {.count = 3, .axis = {0, 2, 3}}},
        {{.rank = 4, .dim = {60, 32, 5, 5}}, {.count = 3, .axis = {0, 2, 3}, .keep = true}},
        {{.rank = 4, .dim = {60, 32, 5, 5}}, {.count = 2, .axis = {2, 3}}},
        {{.rank = 3, .dim = {40, 70, 90}}, {.count = 1, .axis = {1}}},
        {{.rank = 3, .dim = {20000, 3, 3}}, {.count = 1, .axis = {1}}},
        {{.rank = 5, .dim = {7, 11, 13, 5, 17}}, {.count = 3, .axis = {0, 2, 4}}},
    };
    for (size_t s = 0; s < sizeof large / sizeof *large; s++)
        for (int k = 0; k < 4; k++) {
            reduce_option o = {&reductions[k], large[s].axes};
            check_case c = {.name = reductions[k].name,
                            .in_count = 1,
                            .build = build_reduction,
                            .option = &o,
                            .no_first_order = true};
            c.in[0] = (check_input){.shape = large[s].shape, .low = -1, .high = 2};
            check_backend(&c, TN_F32, 1000 + s, 1e-6);
            check_backend(&c, TN_BF16, 1000 + s, 5e-3);
        }
}

static int build_transposed(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    tn_node x = tn_transpose(in[0], TN_PERMUTE(0, 3, 1, 2)); /* channels-last */
    out[0] = tn_sum(x, TN_AXES(0, 2, 3));
    out[1] = tn_max(x, TN_AXES_KEEP(1));
    out[2] = tn_mean(x, TN_AXES(3));
    out[3] = tn_sum(tn_slice(x, 2, 0, 9, 3), TN_AXES(2));
    out[4] = tn_sum(tn_broadcast(tn_slice(x, 1, 0, 1, 1), tn_shape_of(x)), TN_AXES(1, 3));
    return 5;
}

static void test_views(void **unused)
{
    (void)unused;
    check_case c = {.name = "reductions of views",
                    .in_count = 1,
                    .build = build_transposed,
                    .second_order = true,
                    .bf16 = true};
    c.in[0] = (check_input){.shape = TN_SHAPE(3, 9, 7, 10)};
    check_run(&c, 1);
}

/* f32 sums stay accurate: blocks are summed apart and joined in f64. */
static void test_long_sums_are_accurate(void **unused)
{
    (void)unused;
    enum { N = 3000000 };
    float *x = aligned_alloc(64, N * sizeof *x), sum[2];
    double exact = 0;
    for (int i = 0; i < N; i++) {
        x[i] = 1000 + (float)tn_random_uniform(3, 4, (uint64_t)i);
        exact += (double)x[i];
    }
    for (int columns = 0; columns < 2; columns++) {
        tn_graph *g = tn_graph_create(NULL);
        tn_node in = tn_input(g, "x", TN_F32, columns ? TN_SHAPE(N / 2, 2) : TN_SHAPE(N));
        tn_node out = columns ? tn_sum(in, TN_AXES(0)) : tn_sum(in, TN_ALL_AXES);
        tn_plan *plan;
        assert_int_equal(
            tn_compile(&plan, .graph = g, .feeds = TN_NODES(in), .fetches = TN_NODES(out)), TN_OK);
        assert_int_equal(tn_run(plan, (const void *[]){x}, (void *[]){sum}), TN_OK);
        double got = columns ? (double)sum[0] + (double)sum[1] : (double)sum[0];
        if (!(fabs(got - exact) <= 1e-7 * exact))
            fail_msg("the sum is %.9g, but should be %.9g", got, exact);
        tn_plan_free(plan);
        tn_graph_free(g);
    }
    free(x);
}

static int build_special(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    out[0] = tn_max(in[0], TN_AXES(1));
    out[1] = tn_min(in[0], TN_AXES(1));
    out[2] = tn_logsumexp(in[0], TN_AXES(1));
    out[3] = tn_sum(in[0], TN_AXES(1));
    out[4] = tn_argmax(in[0], 1);
    out[5] = tn_argmin(in[0], 1);
    out[6] = tn_max(tn_transpose(in[0], TN_PERMUTE(1, 0)), TN_AXES(0));
    out[7] = tn_argmax(tn_transpose(in[0], TN_PERMUTE(1, 0)), 0);
    return 8;
}

static void test_special_values(void **unused)
{
    (void)unused;
    static const double rows[] = {
        1,         2,         NAN,       3,         -1,        -5,        /* */
        -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, /* */
        INFINITY,  2,         1,         0,         0,         0,         /* */
        -1,        -1,        -1,        -2,        -2,        -2,        /* ties */
        NAN,       NAN,       0,         1,         2,         NAN,
    };
    check_case c = {.name = "special",
                    .in_count = 1,
                    .build = build_special,
                    .no_first_order = true,
                    .bf16 = true};
    c.in[0] = (check_input){.shape = TN_SHAPE(5, 6), .values = rows};
    check_run(&c, 1);
}

/* Nothing but -inf: the value is -inf, the gradient 0 and not NaN. */
static void test_logsumexp_of_nothing(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = tn_input(g, "x", TN_F32, TN_SHAPE(2, 2)), y = tn_logsumexp(x, TN_AXES(1)), d;
    tn_gradients(tn_sum(y, TN_ALL_AXES), &x, 1, &d);
    tn_plan *plan;
    float in[4] = {-INFINITY, -INFINITY, 700, 700}, value[2], slope[4];
    assert_int_equal(tn_compile(&plan, .graph = g, .feeds = TN_NODES(x), .fetches = TN_NODES(y, d)),
                     TN_OK);
    assert_int_equal(tn_run(plan, (const void *[]){in}, (void *[]){value, slope}), TN_OK);
    assert_true(isinf(value[0]) && value[0] < 0);
    assert_true(fabsf(value[1] - 700.6931F) < 1e-3F);
    assert_true(slope[0] == 0 && slope[1] == 0 && slope[2] == 0.5F && slope[3] == 0.5F);
    tn_plan_free(plan);
    tn_graph_free(g);
}

static void test_ties_share_the_gradient(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = tn_input(g, "x", TN_F32, TN_SHAPE(2, 3)), d;
    tn_gradients(tn_sum(tn_max(x, TN_AXES(1)), TN_ALL_AXES), &x, 1, &d);
    tn_plan *plan;
    float in[6] = {1, 1, 0, 2, 1, 0}, out[6];
    const float expected[6] = {0.5F, 0.5F, 0, 1, 0, 0};
    assert_int_equal(tn_compile(&plan, .graph = g, .feeds = TN_NODES(x), .fetches = TN_NODES(d)),
                     TN_OK);
    assert_int_equal(tn_run(plan, (const void *[]){in}, (void *[]){out}), TN_OK);
    assert_memory_equal(out, expected, sizeof out);
    tn_plan_free(plan);
    tn_graph_free(g);
}

static int build_of_nothing(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    out[0] = tn_sum(in[0], TN_AXES(1));
    out[1] = tn_mean(in[0], TN_AXES(1));
    out[2] = tn_sum(tn_cast(in[0], TN_I32), TN_ALL_AXES);
    return 3;
}

static void test_sums_over_nothing(void **unused)
{
    (void)unused;
    check_case c = {.name = "nothing",
                    .in_count = 1,
                    .build = build_of_nothing,
                    .no_first_order = true,
                    .bf16 = true};
    c.in[0] = (check_input){.shape = TN_SHAPE(3, 0, 2)};
    check_run(&c, 1);
}

static int build_integers(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    bool number = tn_dtype_of(in[0]) != TN_BOOL;
    out[0] = tn_sum(in[0], TN_AXES(0));
    out[1] = tn_sum(in[0], TN_AXES(1));
    out[2] = tn_max(in[0], TN_AXES(1));
    out[3] = tn_min(in[0], TN_AXES(0));
    out[4] = tn_argmax(in[0], 1);
    out[5] = tn_argmin(in[0], 0);
    out[6] = number ? tn_cumsum(in[0], 1, false, true) : tn_sum(in[0], TN_ALL_AXES);
    return 7;
}

static void test_integers(void **unused)
{
    (void)unused;
    static const tn_dtype dtypes[] = {TN_I64, TN_I32, TN_U8, TN_BOOL, TN_I8};
    for (int i = 0; i < 5; i++) {
        check_case c = {.name = tn_dtype_name(dtypes[i]),
                        .in_count = 1,
                        .build = build_integers,
                        .no_first_order = true};
        c.in[0] = (check_input){.dtype = dtypes[i],
                                .shape = TN_SHAPE(37, 30),
                                .low = i < 2 ? -9 : 0,
                                .high = i == 3 ? 2 : 5};
        check_run(&c, 40 + (uint64_t)i);
    }
    tn_graph *g = tn_graph_create(NULL);
    assert_int_equal(tn_dtype_of(tn_sum(tn_input(g, "x", TN_BOOL, TN_SHAPE(3)), TN_ALL_AXES)),
                     TN_I64);
    tn_graph_free(g);
}

/* ---- arg extremes along every axis, also long ones --------------------------------------- */

static int build_arg(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    for (int axis = 0; axis < 3; axis++) {
        out[2 * axis] = tn_argmax(in[0], axis);
        out[2 * axis + 1] = tn_argmin(in[0], axis - 3);
    }
    return 6;
}

static void test_arg_extremes(void **unused)
{
    (void)unused;
    static const tn_shape sizes[] = {{.rank = 3, .dim = {3, 4, 5}},
                                     {.rank = 3, .dim = {2, 700, 3}},
                                     {.rank = 3, .dim = {40, 3, 900}},
                                     {.rank = 3, .dim = {1, 0, 0}}};
    for (int s = 0; s < 3; s++) {
        check_case c = {
            .name = "arg", .in_count = 1, .build = build_arg, .no_first_order = true, .bf16 = true};
        c.in[0] = (check_input){.shape = sizes[s]};
        check_run(&c, 50 + (uint64_t)s);
    }
}

/* ---- scans ------------------------------------------------------------------------------- */

typedef struct scan_option {
    int axis;
    bool exclusive, reverse;
} scan_option;

static int build_scans(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const scan_option *o = option;
    out[0] = tn_cumsum(in[0], o->axis, o->exclusive, o->reverse);
    out[1] = tn_cumprod(in[1], o->axis, o->exclusive);
    out[2] = tn_linear_scan(in[0], in[1], o->axis, o->reverse);
    return 3;
}

static void test_scans(void **unused)
{
    (void)unused;
    static const tn_shape sizes[] = {{.rank = 1, .dim = {9}},
                                     {.rank = 3, .dim = {2, 5, 3}},
                                     {.rank = 2, .dim = {1, 6}},
                                     {.rank = 3, .dim = {2, 0, 3}},
                                     {.rank = 2, .dim = {3, 1}}};
    for (int s = 0; s < 5; s++)
        for (int way = 0; way < 4; way++) {
            scan_option o = {
                .axis = s == 2 ? -1 : sizes[s].rank / 2, .exclusive = way & 1, .reverse = way >> 1};
            check_case c = {.name = "scan",
                            .in_count = 2,
                            .build = build_scans,
                            .option = &o,
                            .second_order = true,
                            .bf16 = true};
            c.in[0] = (check_input){.shape = sizes[s]};
            c.in[1] = (check_input){.shape = sizes[s], .low = 0.5, .high = 1.5};
            check_run(&c, 60 + 4 * (uint64_t)s + (uint64_t)way);
        }
    scan_option o = {.axis = 1};
    check_case c = {.name = "large scan",
                    .in_count = 2,
                    .build = build_scans,
                    .option = &o,
                    .no_first_order = true};
    c.in[0] = (check_input){.shape = TN_SHAPE(5, 300, 70)};
    c.in[1] = (check_input){.shape = TN_SHAPE(5, 300, 70), .low = 0.9, .high = 1.1};
    check_backend(&c, TN_F32, 1, 1e-6);
}

/* The derivative of a product does not divide: one zero, or two, are nothing special. */
static void test_products_with_zeros(void **unused)
{
    (void)unused;
    static const double rows[] = {2, 0, 3, 0.5, 1, /* */ 0, 3, 0, 2, 1, /* */ 1, 2, 3, 4, 0};
    for (int exclusive = 0; exclusive < 2; exclusive++) {
        scan_option o = {.axis = 1, .exclusive = exclusive};
        check_case c = {.name = "zeros",
                        .in_count = 2,
                        .build = build_scans,
                        .option = &o,
                        .second_order = true};
        c.in[0] = (check_input){.shape = TN_SHAPE(3, 5)};
        c.in[1] = (check_input){.shape = TN_SHAPE(3, 5), .values = rows};
        check_run(&c, 1);
    }
}

/* ---- sum_to ------------------------------------------------------------------------------ */

static int build_sum_to(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    out[0] = tn_sum_to(in[0], in[1]);
    out[1] = tn_sum_to(tn_square(in[0]), in[2]);
    out[2] = tn_sum_to(in[0], in[0]);
    return 3;
}

static void test_sum_to(void **unused)
{
    (void)unused;
    check_case c = {
        .name = "sum_to", .in_count = 3, .build = build_sum_to, .second_order = true, .bf16 = true};
    c.in[0] = (check_input){.shape = TN_SHAPE(4, 3, 1, 5)};
    c.in[1] = (check_input){.shape = TN_SHAPE(3, 1, 1), .no_gradient = true};
    c.in[2] = (check_input){.shape = TN_SCALAR, .no_gradient = true};
    check_run(&c, 1);
}

/* ---- what is refused --------------------------------------------------------------------- */

static tn_node x_of(tn_graph *g, tn_dtype dtype) { return tn_input(g, "x", dtype, TN_SHAPE(2, 3)); }
static tn_node refuse_axis(tn_graph *g) { return tn_sum(x_of(g, TN_F32), TN_AXES(2)); }
static tn_node refuse_twice(tn_graph *g) { return tn_sum(x_of(g, TN_F32), TN_AXES(1, -1)); }
static tn_node refuse_mean(tn_graph *g) { return tn_mean(x_of(g, TN_I32), TN_ALL_AXES); }
static tn_node refuse_logsumexp(tn_graph *g) { return tn_logsumexp(x_of(g, TN_I32), TN_ALL_AXES); }
static tn_node refuse_empty(tn_graph *g)
{
    return tn_max(tn_input(g, "x", TN_F32, TN_SHAPE(2, 0)), TN_AXES(1));
}
static tn_node refuse_empty_arg(tn_graph *g)
{
    return tn_argmax(tn_input(g, "x", TN_F32, TN_SHAPE(2, 0)), 1);
}
static tn_node refuse_bool_scan(tn_graph *g)
{
    return tn_cumsum(x_of(g, TN_BOOL), 0, false, false);
}
static tn_node refuse_scan_shapes(tn_graph *g)
{
    return tn_linear_scan(x_of(g, TN_F32), tn_input(g, "y", TN_F32, TN_SHAPE(3)), 0, false);
}
static tn_node refuse_sum_to(tn_graph *g)
{
    return tn_sum_to(x_of(g, TN_F32), tn_input(g, "y", TN_F32, TN_SHAPE(2)));
}
static tn_node refuse_many(tn_graph *g) { return tn_sum(x_of(g, TN_F32), (tn_axes){.count = 9}); }

static void test_messages(void **unused)
{
    (void)unused;
    static const struct {
        tn_node (*build)(tn_graph *);
        const char *part;
    } cases[] = {
        {refuse_axis, "axis 2 of a tensor of rank 2 [2, 3]; use -2 to 1"},
        {refuse_twice, "sum of [2, 3]: axis -1 is listed twice"},
        {refuse_mean, "mean of i32 [2, 3]: it takes floating-point operands"},
        {refuse_logsumexp, "logsumexp of i32 [2, 3]: it takes floating-point operands"},
        {refuse_empty, "max over no elements of [2, 0]"},
        {refuse_empty_arg, "argmax over no elements: axis 1 of [2, 0]"},
        {refuse_bool_scan, "cumsum of bool [2, 3]"},
        {refuse_scan_shapes, "linear_scan: f32 [2, 3] and f32 [3]"},
        {refuse_sum_to, "sum_to: [2, 3] is not a broadcast of [2]"},
        {refuse_many, "a list of 9 axes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_graph *g = tn_graph_create(NULL);
        assert_true(tn_is_none(cases[i].build(g)));
        check_refused(g, cases[i].part);
        tn_graph_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reductions),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_long_sums_are_accurate),
        cmocka_unit_test(test_special_values),
        cmocka_unit_test(test_logsumexp_of_nothing),
        cmocka_unit_test(test_ties_share_the_gradient),
        cmocka_unit_test(test_sums_over_nothing),
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_arg_extremes),
        cmocka_unit_test(test_scans),
        cmocka_unit_test(test_products_with_zeros),
        cmocka_unit_test(test_sum_to),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
