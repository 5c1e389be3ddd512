/* Element-wise operations: values, derivatives to second order, broadcasting, dtypes, special
 * values, messages. */
#include "graph_check.h"

static tn_node like(tn_node x, double value)
{
    return tn_fill(x.graph, tn_dtype_of(x), tn_shape_of(x), value);
}

/* ---- one operand ------------------------------------------------------------------------- */

typedef struct unary_case {
    const char *name;
    tn_node (*op)(tn_node);
    double low, high;
    bool flat; /* no gradient */
} unary_case;

static const unary_case unary_cases[] = {
    {"neg", tn_neg, 0, 0, false},
    {"abs", tn_abs, 0, 0, false},
    {"sign", tn_sign, 0, 0, true},
    {"exp", tn_exp, -3, 3, false},
    {"log", tn_log, 0.2, 4, false},
    {"log1p", tn_log1p, -0.8, 4, false},
    {"expm1", tn_expm1, -3, 3, false},
    {"sqrt", tn_sqrt, 0.2, 4, false},
    {"rsqrt", tn_rsqrt, 0.2, 4, false},
    {"reciprocal", tn_reciprocal, 0.3, 4, false},
    {"square", tn_square, -3, 3, false},
    {"sin", tn_sin, -9, 9, false},
    {"cos", tn_cos, -9, 9, false},
    {"tanh", tn_tanh, -1.5, 1.5, false},
    {"erf", tn_erf, -3, 3, false},
    {"sigmoid", tn_sigmoid, -8, 8, false},
    {"softplus", tn_softplus, -8, 8, false},
    {"relu", tn_relu, -2, 2, false},
    {"gelu", tn_gelu, -5, 5, false},
    {"gelu_tanh", tn_gelu_tanh, -5, 5, false},
    {"silu", tn_silu, -8, 8, false},
    {"floor", tn_floor, -4, 4, true},
    {"ceil", tn_ceil, -4, 4, true},
    {"round", tn_round, -4, 4, true},
};

static int build_unary(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    out[0] = ((const unary_case *)option)->op(in[0]);
    return 1;
}

/* Odd sizes, sizes 1 and 0, ranks 0 to 5. */
static const tn_shape shapes[] = {
    {.rank = 0},
    {.rank = 1, .dim = {7}},
    {.rank = 2, .dim = {1, 1}},
    {.rank = 2, .dim = {3, 33}},
    {.rank = 3, .dim = {2, 0, 3}},
    {.rank = 3, .dim = {5, 1, 17}},
    {.rank = 4, .dim = {2, 3, 2, 5}},
    {.rank = 5, .dim = {2, 1, 3, 1, 4}},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void test_unary(void **unused)
{
    (void)unused;
    for (size_t k = 0; k < sizeof unary_cases / sizeof *unary_cases; k++) {
        const unary_case *u = &unary_cases[k];
        for (int s = 0; s < 2; s++) {
            check_case c = {.name = u->name,
                            .in_count = 1,
                            .build = build_unary,
                            .option = u,
                            .no_first_order = u->flat,
                            .second_order = !u->flat,
                            .bf16 = true};
            c.in[0] = (check_input){
                .shape = shapes[(k + 3 * (size_t)s) % SHAPES], .low = u->low, .high = u->high};
            check_run(&c, 100 + k);
        }
    }
}

/* NaN, infinities, zeros and ends of the line come out as in f64. */
static void test_special_values(void **unused)
{
    (void)unused;
    static const double special[] = {NAN, INFINITY, -INFINITY, 0,   -0.0,  1,      -1, 0.5, -0.5,
                                     2,   -2,       30,        -30, 1e-30, -1e-30, 8,  1.5};
    int64_t count = sizeof special / sizeof *special;
    for (size_t k = 0; k < sizeof unary_cases / sizeof *unary_cases; k++) {
        const unary_case *u = &unary_cases[k];
        check_case c = {.name = u->name,
                        .in_count = 1,
                        .build = build_unary,
                        .option = u,
                        .no_first_order = true,
                        .bf16 = true,
                        .tolerance = 1e-6};
        c.in[0] = (check_input){.shape = {.rank = 1, .dim = {count}}, .values = special};
        check_run(&c, 1);
    }
}

/* ---- one operand with constants ---------------------------------------------------------- */

static int build_with_constants(tn_graph *graph, const tn_node *in, tn_node *out,
                                const void *option)
{
    (void)graph, (void)option;
    int n = 0;
    out[n++] = tn_leaky_relu(in[0], 0.125);
    out[n++] = tn_clamp(in[0], -0.75, 0.5);
    out[n++] = tn_affine(in[0], -2.5, 0.25);
    out[n++] = tn_power(tn_affine(in[0], 0.5, 1.5), 2.5);
    out[n++] = tn_power(in[0], 3);
    out[n++] = tn_power(in[0], 4);
    out[n++] = tn_power(tn_affine(in[0], 0.5, 1.5), -2);
    return n;
}

static void test_constants(void **unused)
{
    (void)unused;
    for (int s = 0; s < SHAPES; s++) {
        check_case c = {.name = "with constants",
                        .in_count = 1,
                        .build = build_with_constants,
                        .second_order = true,
                        .bf16 = true};
        c.in[0] = (check_input){.shape = shapes[s], .low = -2, .high = 2};
        check_run(&c, 200 + (uint64_t)s);
    }
}

static void test_powers_that_are_other_operations(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = tn_input(g, "x", TN_F32, TN_SHAPE(3));
    assert_int_equal(tn_power(x, 1).id, x.id);
    assert_int_equal(tn_cast(x, TN_F32).id, x.id);
    int before = tn_graph_node_count(g);
    tn_power(x, 0);
    tn_power(x, 2);
    tn_power(x, 0.5);
    tn_power(x, -0.5);
    tn_power(x, -1);
    assert_int_equal(tn_graph_node_count(g), before + 5);
    assert_int_equal(tn_graph_status(g), TN_OK);
    tn_graph_free(g);
}

/* ---- two operands ------------------------------------------------------------------------ */

typedef struct binary_case {
    const char *name;
    tn_node (*op)(tn_node, tn_node);
    double low, high;
} binary_case;

static const binary_case binary_cases[] = {
    {"add", tn_add, 0, 0},         {"subtract", tn_subtract, 0, 0}, {"multiply", tn_multiply, 0, 0},
    {"divide", tn_divide, 0.5, 3}, {"maximum", tn_maximum, 0, 0},   {"minimum", tn_minimum, 0, 0},
    {"pow", tn_pow, 0.3, 2.5},
};

static int build_binary(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    out[0] = ((const binary_case *)option)->op(in[0], in[1]);
    return 1;
}

/* Pairs that broadcast. */
static const tn_shape pairs[][2] = {
    {{.rank = 1, .dim = {9}}, {.rank = 1, .dim = {9}}},
    {{.rank = 2, .dim = {4, 5}}, {.rank = 1, .dim = {5}}},
    {{.rank = 2, .dim = {4, 1}}, {.rank = 2, .dim = {1, 6}}},
    {{.rank = 0}, {.rank = 3, .dim = {2, 3, 4}}},
    {{.rank = 3, .dim = {2, 3, 4}}, {.rank = 0}},
    {{.rank = 4, .dim = {2, 1, 3, 1}}, {.rank = 3, .dim = {5, 1, 2}}},
    {{.rank = 4, .dim = {2, 6, 3, 5}}, {.rank = 3, .dim = {6, 1, 1}}},
    {{.rank = 2, .dim = {0, 3}}, {.rank = 2, .dim = {1, 3}}},
    {{.rank = 0}, {.rank = 0}},
};
enum { PAIRS = sizeof pairs / sizeof *pairs };

static void test_binary(void **unused)
{
    (void)unused;
    for (size_t k = 0; k < sizeof binary_cases / sizeof *binary_cases; k++)
        for (int s = 0; s < PAIRS; s += k < 4 ? 1 : 2) {
            const binary_case *b = &binary_cases[k];
            check_case c = {.name = b->name,
                            .in_count = 2,
                            .build = build_binary,
                            .option = b,
                            .second_order = true,
                            .bf16 = true};
            c.in[0] = (check_input){.shape = pairs[s][0], .low = b->low, .high = b->high};
            c.in[1] = (check_input){.shape = pairs[s][1], .low = b->low, .high = b->high};
            check_run(&c, 300 + 10 * k + (uint64_t)s);
        }
}

static int build_mod(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    out[0] = tn_mod(in[0], in[1]);
    return 1;
}

static void test_mod(void **unused)
{
    (void)unused;
    static const double a[] = {7, -7, 7, -7, 0.5, -0.5, 6, -6, 0},
                        b[] = {3, 3, -3, -3, 2, 2, 3, 3, 5};
    check_case c = {.name = "mod", .in_count = 2, .build = build_mod, .no_first_order = true};
    c.in[0] = (check_input){.shape = TN_SHAPE(9), .values = a};
    c.in[1] = (check_input){.shape = TN_SHAPE(9), .values = b};
    check_run(&c, 1);
    c.in[0] = (check_input){.shape = TN_SHAPE(3, 4), .low = 0.1, .high = 0.9};
    c.in[1] = (check_input){.shape = TN_SHAPE(4), .low = 2, .high = 3, .no_gradient = true};
    c.no_first_order = false;
    check_run(&c, 2);
}

static int build_extremes(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    out[0] = tn_maximum(in[0], in[1]);
    out[1] = tn_minimum(in[0], in[1]);
    out[2] = tn_pow(tn_abs(in[0]), in[1]);
    return 3;
}

static void test_extremes_of_nan(void **unused)
{
    (void)unused;
    static const double a[] = {NAN, 1, NAN, INFINITY, -INFINITY, 0, 1, 4},
                        b[] = {1, NAN, NAN, 3, 2, 2, -INFINITY, 0};
    check_case c = {
        .name = "extremes", .in_count = 2, .build = build_extremes, .no_first_order = true};
    c.in[0] = (check_input){.shape = TN_SHAPE(8), .values = a};
    c.in[1] = (check_input){.shape = TN_SHAPE(8), .values = b};
    check_run(&c, 1);
}

/* Ties: all of the gradient goes to the first operand. */
static void test_gradient_of_ties(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node a = tn_input(g, "a", TN_F32, TN_SHAPE(3)), b = tn_input(g, "b", TN_F32, TN_SHAPE(3)),
            d[2];
    tn_node loss = tn_sum(tn_add(tn_maximum(a, b), tn_minimum(a, b)), TN_ALL_AXES);
    tn_gradients(loss, (tn_node[]){a, b}, 2, d);
    tn_plan *plan;
    float x[3] = {1, 1, 1}, da[3], db[3];
    assert_int_equal(
        tn_compile(&plan, .graph = g, .feeds = TN_NODES(a, b), .fetches = TN_NODES(d[0], d[1])),
        TN_OK);
    assert_int_equal(tn_run(plan, (const void *[]){x, x}, (void *[]){da, db}), TN_OK);
    for (int i = 0; i < 3; i++) assert_true(da[i] == 2 && db[i] == 0);
    tn_plan_free(plan);
    tn_graph_free(g);
}

/* ---- comparisons, logic, where ----------------------------------------------------------- */

static int build_comparisons(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    tn_node a = in[0], b = in[1];
    tn_node less = tn_less(a, b), equal = tn_equal(a, b);
    out[0] = less;
    out[1] = tn_less_equal(a, b);
    out[2] = tn_greater(a, b);
    out[3] = tn_greater_equal(a, b);
    out[4] = equal;
    out[5] = tn_not_equal(a, b);
    out[6] = tn_or(tn_not(less), equal);
    out[7] = tn_and(tn_not(equal), tn_not(less));
    return 8;
}

static void test_comparisons(void **unused)
{
    (void)unused;
    static const double a[] = {1, 2, NAN, INFINITY, 0, -3}, b[] = {2, 2, 1, INFINITY, -0.0, NAN};
    check_case c = {.name = "comparisons",
                    .in_count = 2,
                    .build = build_comparisons,
                    .no_first_order = true,
                    .bf16 = true};
    c.in[0] = (check_input){.shape = TN_SHAPE(6), .values = a};
    c.in[1] = (check_input){.shape = TN_SHAPE(6), .values = b};
    check_run(&c, 1);
    static const tn_dtype integers[] = {TN_I32, TN_I64, TN_I8, TN_U8};
    for (int i = 0; i < 4; i++) {
        c.in[0] = (check_input){
            .dtype = integers[i], .shape = TN_SHAPE(5, 40), .low = 0, .high = 4};
        c.in[1] = (check_input){.dtype = integers[i], .shape = TN_SHAPE(40), .low = 0, .high = 4};
        check_run(&c, 2 + (uint64_t)i);
    }
}

static int build_where(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    out[0] = tn_where(in[0], in[1], in[2]);
    out[1] = tn_where(in[0], tn_square(in[1]), like(in[1], 0.5));
    out[2] = tn_where(tn_not(in[0]), like(in[2], -1), in[2]);
    return 3;
}

static void test_where(void **unused)
{
    (void)unused;
    static const tn_shape triples[][3] = {
        {{.rank = 2, .dim = {3, 4}}, {.rank = 2, .dim = {3, 4}}, {.rank = 2, .dim = {3, 4}}},
        {{.rank = 2, .dim = {3, 1}}, {.rank = 1, .dim = {4}}, {.rank = 0}},
        {{.rank = 0}, {.rank = 3, .dim = {2, 1, 3}}, {.rank = 2, .dim = {5, 1}}},
        {{.rank = 3, .dim = {2, 5, 1}},
         {.rank = 3, .dim = {1, 1, 7}},
         {.rank = 3, .dim = {2, 1, 7}}},
    };
    for (size_t s = 0; s < sizeof triples / sizeof *triples; s++) {
        check_case c = {.name = "where",
                        .in_count = 3,
                        .build = build_where,
                        .second_order = true,
                        .bf16 = true};
        c.in[0] = (check_input){.dtype = TN_BOOL, .shape = triples[s][0]};
        c.in[1] = (check_input){.shape = triples[s][1]};
        c.in[2] = (check_input){.shape = triples[s][2]};
        check_run(&c, 400 + s);
    }
}

/* The side that is not chosen may be NaN; neither value nor gradient sees it. */
static void test_where_hides_nan(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = tn_input(g, "x", TN_F32, TN_SHAPE(2)), bad = tn_less(x, like(x, 0)), d;
    tn_node y = tn_where(bad, like(x, 0), tn_sqrt(tn_where(bad, like(x, 1), x)));
    tn_gradients(tn_sum(y, TN_ALL_AXES), &x, 1, &d);
    tn_plan *plan;
    float in[2] = {-4, 4}, value[2], slope[2];
    assert_int_equal(tn_compile(&plan, .graph = g, .feeds = TN_NODES(x), .fetches = TN_NODES(y, d)),
                     TN_OK);
    assert_int_equal(tn_run(plan, (const void *[]){in}, (void *[]){value, slope}), TN_OK);
    assert_true(value[0] == 0 && value[1] == 2 && slope[0] == 0 && slope[1] == 0.25F);
    tn_plan_free(plan);
    tn_graph_free(g);
}

/* ---- integers and casts ------------------------------------------------------------------ */

static int build_integers(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    tn_node a = in[0], b = in[1];
    out[0] = tn_add(tn_multiply(a, b), tn_neg(a));
    out[1] = tn_divide(a, b);
    out[2] = tn_mod(a, b);
    out[3] = tn_maximum(tn_abs(a), tn_square(b));
    out[4] = tn_minimum(tn_subtract(a, b), tn_sign(a));
    out[5] = tn_where(tn_less(a, b), a, tn_relu(b));
    out[6] = tn_clamp(a, -2, 3);
    out[7] = tn_cast(tn_add(a, b), TN_F32);
    return 8;
}

static void test_integers(void **unused)
{
    (void)unused;
    static const tn_dtype dtypes[] = {TN_I64, TN_I32, TN_I8};
    for (int i = 0; i < 3; i++) {
        check_case c = {
            .name = "integers", .in_count = 2, .build = build_integers, .no_first_order = true};
        c.in[0] = (check_input){
            .dtype = dtypes[i], .shape = TN_SHAPE(3, 1, 50), .low = -7, .high = 8};
        c.in[1] = (check_input){
            .dtype = dtypes[i], .shape = TN_SHAPE(4, 1), .low = -4, .high = 5}; /* also 0 */
        check_run(&c, 500 + (uint64_t)i);
    }
}

/* Arithmetic in a narrow type wraps around the same way whether it is fused or not. */
static void test_integers_wrap(void **unused)
{
    (void)unused;
    for (int fused = 0; fused < 2; fused++) {
        tn_graph *g = tn_graph_create(NULL);
        tn_node a = tn_input(g, "a", TN_U8, TN_SHAPE(3)), b = tn_input(g, "b", TN_I32, TN_SHAPE(2));
        tn_node large = tn_greater(tn_add(a, a), a),
                product = tn_divide(tn_multiply(b, b), tn_fill(g, TN_I32, TN_SHAPE(1), 2));
        tn_plan *plan;
        unsigned char in[3] = {100, 200, 255};
        bool out[3];
        int32_t wide[2] = {65536, -3}, half[2];
        assert_int_equal(tn_compile(&plan, .graph = g, .feeds = TN_NODES(a, b),
                                    .fetches = TN_NODES(large, product), .no_fusion = !fused),
                         TN_OK);
        assert_int_equal(tn_run(plan, (const void *[]){in, wide}, (void *[]){out, half}), TN_OK);
        assert_true(out[0] && !out[1] && !out[2]); /* 200, 144, 254 */
        assert_true(half[0] == 0 && half[1] == 4);
        tn_plan_free(plan);
        tn_graph_free(g);
    }
}

static int build_casts(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const tn_dtype *to = option;
    for (int i = 0; i < 8; i++) out[i] = tn_cast(in[0], to[i]);
    return 8;
}

static void test_casts(void **unused)
{
    (void)unused;
    static const tn_dtype to[] = {TN_F64, TN_F32, TN_I64, TN_I32, TN_I8, TN_U8, TN_BOOL, TN_F16};
    static const double special[] = {NAN,   INFINITY, -INFINITY, 0,    -0.0,  0.99,
                                     -0.99, 2.5,      -2.5,      127,  128,   -128,
                                     -129,  255,      256,       1000, -1000, 16384};
    check_case c = {.name = "casts of floats",
                    .in_count = 1,
                    .build = build_casts,
                    .option = to,
                    .no_first_order = true,
                    .bf16 = true};
    c.in[0] = (check_input){.shape = TN_SHAPE(18), .values = special};
    for (int i = 0; i < 8; i++) {
        check_run(&c, 1);
        if (i < 3)
            c.in[0].values = NULL, c.in[0].low = -300, c.in[0].high = 300,
            c.in[0].shape = TN_SHAPE(30 * (i + 1), 7);
    }
    static const tn_dtype from[] = {TN_I64, TN_I32, TN_I8, TN_U8, TN_BOOL};
    for (int i = 0; i < 5; i++) {
        c.in[0] = (check_input){.dtype = from[i],
                                .shape = TN_SHAPE(300),
                                .low = from[i] < TN_I8 ? -300 : 0,
                                .high = from[i] < TN_I8 ? 300 : 2};
        check_run(&c, 2);
    }
}

/* The ends of the integers, which doubles do not reach exactly. */
static void test_casts_saturate(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = tn_input(g, "x", TN_F32, TN_SHAPE(5));
    tn_plan *plan;
    assert_int_equal(tn_compile(&plan, .graph = g, .feeds = TN_NODES(x),
                                .fetches = TN_NODES(tn_cast(x, TN_I64), tn_cast(x, TN_I32))),
                     TN_OK);
    float in[5] = {1e30F, -1e30F, NAN, 2147483648.0F, -9223372036854775808.0F};
    int64_t wide[5];
    int32_t narrow[5];
    assert_int_equal(tn_run(plan, (const void *[]){in}, (void *[]){wide, narrow}), TN_OK);
    assert_true(wide[0] == INT64_MAX && wide[1] == INT64_MIN && wide[2] == 0 &&
                wide[3] == 2147483648ll && wide[4] == INT64_MIN);
    assert_true(narrow[0] == INT32_MAX && narrow[1] == INT32_MIN && narrow[2] == 0 &&
                narrow[3] == INT32_MAX && narrow[4] == INT32_MIN);
    tn_plan_free(plan);
    tn_graph_free(g);
}

static int build_cast_gradient(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    out[0] = tn_cast(tn_square(tn_cast(in[0], TN_F64)), tn_dtype_of(in[0]));
    return 1;
}

static void test_gradient_passes_casts(void **unused)
{
    (void)unused;
    check_case c = {.name = "cast",
                    .in_count = 1,
                    .build = build_cast_gradient,
                    .second_order = true,
                    .bf16 = true};
    c.in[0] = (check_input){.shape = TN_SHAPE(4, 3)};
    check_run(&c, 3);
}

/* ---- f64 and f16 on the CPU -------------------------------------------------------------- */

static void test_other_floats(void **unused)
{
    (void)unused;
    static const tn_dtype dtypes[] = {TN_F64, TN_F16};
    for (int t = 0; t < 2; t++)
        for (size_t k = 0; k < sizeof unary_cases / sizeof *unary_cases; k++) {
            const unary_case *u = &unary_cases[k];
            tn_graph *g = tn_graph_create(NULL);
            tn_node x = tn_input(g, "x", dtypes[t], TN_SHAPE(70)), y = tn_add(u->op(x), x);
            check_input in = {
                .dtype = TN_F32, .shape = TN_SHAPE(70), .low = u->low, .high = u->high};
            double *value = check_values(&in, 7, 0);
            void *feed = check_typed(dtypes[t], value, 70), *out[2];
            for (int backend = 0; backend < 2; backend++) {
                tn_plan *plan;
                out[backend] = calloc(70, 8);
                assert_int_equal(tn_compile(&plan, .graph = g, .feeds = TN_NODES(x),
                                            .fetches = TN_NODES(y),
                                            .backend = backend ? TN_REF : TN_CPU),
                                 TN_OK);
                assert_int_equal(tn_run(plan, (const void *[]){feed}, &out[backend]), TN_OK);
                tn_plan_free(plan);
            }
            double *got = check_doubles(dtypes[t], out[0], 70),
                   *expected = check_doubles(dtypes[t], out[1], 70);
            check_close(&(check_case){.name = u->name}, tn_dtype_name(dtypes[t]), 0, got, expected,
                        70, t ? 2e-3 : 1e-14);
            free(got), free(expected), free(out[0]), free(out[1]), free(feed), free(value);
            tn_graph_free(g);
        }
}

/* ---- sizes where work is cut, and layouts ------------------------------------------------ */

static int build_mixed(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    out[0] = tn_tanh(tn_add(tn_multiply(in[0], in[1]), in[2]));
    out[1] = tn_subtract(in[2], tn_exp(in[0]));
    return 2;
}

static void test_large(void **unused)
{
    (void)unused;
    static const tn_shape sizes[][3] = {
        {{.rank = 1, .dim = {100003}}, {.rank = 1, .dim = {1}}, {.rank = 1, .dim = {100003}}},
        {{.rank = 2, .dim = {300, 1100}}, {.rank = 1, .dim = {1100}}, {.rank = 2, .dim = {300, 1}}},
        {{.rank = 3, .dim = {7, 130, 33}},
         {.rank = 2, .dim = {130, 1}},
         {.rank = 3, .dim = {7, 1, 33}}},
        {{.rank = 4, .dim = {3, 16, 40, 40}},
         {.rank = 3, .dim = {16, 1, 1}},
         {.rank = 4, .dim = {3, 16, 1, 1}}},
        {{.rank = 2, .dim = {40000, 3}}, {.rank = 1, .dim = {3}}, {.rank = 2, .dim = {40000, 1}}},
    };
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        check_case c = {.name = "large", .in_count = 3, .build = build_mixed};
        for (int i = 0; i < 3; i++) c.in[i] = (check_input){.shape = sizes[s][i]};
        check_backend(&c, TN_F32, 600 + s, 5e-5);
        c.no_first_order = true; /* long sums of values rounded to bf16 */
        check_backend(&c, TN_BF16, 600 + s, 3e-2);
    }
}

/* Large transposed operands are copied first, small ones read as they lie; both are right. */
static int build_transposed(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    out[0] = tn_tanh(tn_add(in[0], tn_swap_axes(in[1], 0, 1)));
    out[1] = tn_sum(tn_multiply(in[0], tn_swap_axes(in[1], 0, 1)), TN_AXES(1));
    return 2;
}

static void test_transposed(void **unused)
{
    (void)unused;
    for (int large = 0; large < 2; large++) {
        check_case c = {.name = "transposed",
                        .in_count = 2,
                        .build = build_transposed,
                        .no_first_order = large};
        c.in[0] = (check_input){.shape = large ? TN_SHAPE(310, 400) : TN_SHAPE(5, 70)};
        c.in[1] = (check_input){.shape = large ? TN_SHAPE(400, 310) : TN_SHAPE(70, 5)};
        check_run(&c, 650);
    }
}

/* Operands that are views: transposed, sliced with a step, channels-last. */
static int build_views(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    tn_node x = tn_transpose(in[0], TN_PERMUTE(0, 3, 1, 2)); /* [2, 6, 9, 8] channels-last */
    tn_node y = tn_slice(in[1], 3, 1, 16, 2);                /* every second of 16 */
    tn_node z = tn_swap_axes(in[2], 0, 1);                   /* [8, 9] -> [9, 8] */
    out[0] = tn_multiply(tn_sigmoid(x), tn_add(y, z));
    out[1] = tn_add(x, x);
    out[2] = tn_subtract(tn_transpose(x, TN_PERMUTE(0, 2, 3, 1)), in[0]);
    return 3;
}

static void test_views(void **unused)
{
    (void)unused;
    check_case c = {.name = "views",
                    .in_count = 3,
                    .build = build_views,
                    .second_order = true,
                    .bf16 = true,
                    .difference_tolerance = 1e-5};
    c.in[0] = (check_input){.shape = TN_SHAPE(2, 9, 8, 6)};
    c.in[1] = (check_input){.shape = TN_SHAPE(2, 6, 9, 16)};
    c.in[2] = (check_input){.shape = TN_SHAPE(8, 9)};
    check_run(&c, 700);
}

/* ---- what is refused --------------------------------------------------------------------- */

static tn_node refuse_dtype(tn_graph *g) { return tn_exp(tn_input(g, "x", TN_I32, TN_SHAPE(3))); }
static tn_node refuse_bool(tn_graph *g) { return tn_neg(tn_input(g, "x", TN_BOOL, TN_SHAPE(3))); }
static tn_node refuse_not(tn_graph *g) { return tn_not(tn_input(g, "x", TN_F32, TN_SHAPE(3))); }
static tn_node refuse_mixed(tn_graph *g)
{
    return tn_add(tn_input(g, "x", TN_F32, TN_SHAPE(3)), tn_input(g, "y", TN_BF16, TN_SHAPE(3)));
}
static tn_node refuse_shapes(tn_graph *g)
{
    return tn_multiply(tn_input(g, "x", TN_F32, TN_SHAPE(2, 3)),
                       tn_input(g, "y", TN_F32, TN_SHAPE(4)));
}
static tn_node refuse_clamp(tn_graph *g)
{
    return tn_clamp(tn_input(g, "x", TN_F32, TN_SHAPE(3)), 2, 1);
}
static tn_node refuse_condition(tn_graph *g)
{
    tn_node x = tn_input(g, "x", TN_F32, TN_SHAPE(3));
    return tn_where(x, x, x);
}
static tn_node refuse_sides(tn_graph *g)
{
    tn_node x = tn_input(g, "x", TN_F32, TN_SHAPE(3));
    return tn_where(tn_less(x, x), x, tn_cast(x, TN_F64));
}
static tn_node refuse_where_shapes(tn_graph *g)
{
    tn_node x = tn_input(g, "x", TN_F32, TN_SHAPE(3));
    return tn_where(tn_input(g, "c", TN_BOOL, TN_SHAPE(2)), x, x);
}
static tn_node refuse_power(tn_graph *g)
{
    return tn_power(tn_input(g, "x", TN_I64, TN_SHAPE(3)), 1.5);
}

static void test_messages(void **unused)
{
    (void)unused;
    static const struct {
        tn_node (*build)(tn_graph *);
        const char *part;
    } cases[] = {
        {refuse_dtype, "exp of i32 [3]: it takes floating-point operands; cast with tn_cast"},
        {refuse_bool, "neg of bool [3]: it takes numeric operands"},
        {refuse_not, "not of f32 [3]: it takes bool operands"},
        {refuse_mixed, "add: f32 [3] and bf16 [3]: both operands must have one dtype"},
        {refuse_shapes, "multiply: shapes [2, 3] and [4] do not broadcast"},
        {refuse_clamp, "clamp to [2, 1]"},
        {refuse_condition, "where: the condition is f32 [3]; it must be bool"},
        {refuse_sides, "where: f32 [3] and f64 [3]: both sides must have one dtype"},
        {refuse_where_shapes, "where: shapes [2], [3] and [3] do not broadcast"},
        {refuse_power, "power of i64 [3]: it takes floating-point operands"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_graph *g = tn_graph_create(NULL);
        assert_true(tn_is_none(cases[i].build(g)));
        check_refused(g, cases[i].part);
        if (!strstr(tn_message(), "test_elementwise.c:"))
            fail_msg("'%s' does not say where", tn_message());
        tn_graph_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unary),
        cmocka_unit_test(test_special_values),
        cmocka_unit_test(test_constants),
        cmocka_unit_test(test_powers_that_are_other_operations),
        cmocka_unit_test(test_binary),
        cmocka_unit_test(test_mod),
        cmocka_unit_test(test_extremes_of_nan),
        cmocka_unit_test(test_gradient_of_ties),
        cmocka_unit_test(test_comparisons),
        cmocka_unit_test(test_where),
        cmocka_unit_test(test_where_hides_nan),
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_integers_wrap),
        cmocka_unit_test(test_casts),
        cmocka_unit_test(test_casts_saturate),
        cmocka_unit_test(test_gradient_passes_casts),
        cmocka_unit_test(test_other_floats),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_transposed),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
