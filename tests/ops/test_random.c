/* Random nodes: the same numbers on every backend and instruction set, those of tenon/random.h;
 * dropout's gradient; distributions. */
#include "graph_check.h"

#include "graph/kernel.h"
#include "graph/random.h"

static const uint64_t seed = UINT64_C(0x9e3779b97f4a7c15), stream = UINT64_C(0xfedcba9876543210);

static tn_random_key key_with(tn_node step) { return (tn_random_key){seed, stream, step}; }

/* ---- numbers --------------------------------------------------------------------------------- */

typedef struct drawn {
    float *uniform, *normal;
    int64_t *permutation;
} drawn;

static void draw(tn_backend backend, int64_t count, int64_t step, drawn *d)
{
    tn_graph *graph = tn_graph_create(NULL);
    tn_node at = tn_input(graph, "step", TN_I64, TN_SCALAR);
    tn_node u = tn_random_uniform_node(key_with(at), graph, TN_SHAPE(count)),
            n = tn_random_normal_node(key_with(at), graph, TN_SHAPE(count));
    tn_node p = tn_permutation_node(key_with(at), graph, count);
    tn_plan *plan;
    if (tn_compile(&plan, .graph = graph, .feeds = TN_NODES(at), .fetches = TN_NODES(u, n, p),
                   .backend = backend) != TN_OK)
        fail_msg("%s", tn_message());
    d->uniform = calloc((size_t)count + 1, sizeof *d->uniform);
    d->normal = calloc((size_t)count + 1, sizeof *d->normal);
    d->permutation = calloc((size_t)count + 1, sizeof *d->permutation);
    if (tn_run(plan, (const void *[]){&step}, (void *[]){d->uniform, d->normal, d->permutation}) !=
        TN_OK)
        fail_msg("%s", tn_message());
    tn_plan_free(plan);
    tn_graph_free(graph);
}

static void drawn_free(drawn *d)
{
    free(d->uniform);
    free(d->normal);
    free(d->permutation);
}

static void test_numbers(void **state)
{
    (void)state;
    static const int64_t counts[] = {0, 1, 3, 31, 32, 63, 64, 65, 127, 300, 100003},
                         steps[] = {0, 1, -5, 123456789012};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
        for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
            int64_t count = counts[c];
            if (count > 1000 && s > 1) continue;
            uint64_t of = tn_stream_at(stream, steps[s]);
            drawn cpu, ref;
            draw(TN_CPU, count, steps[s], &cpu);
            draw(TN_REF, count, steps[s], &ref);
            int64_t *order = calloc((size_t)count + 1, sizeof *order);
            tn_random_permutation(seed, of, count, order);
            for (int64_t i = 0; i < count; i++) {
                float u = tn_random_uniform(seed, of, (uint64_t)i);
                double n = tn_random_normal(seed, of, (uint64_t)i);
                if (cpu.uniform[i] != u || ref.uniform[i] != u)
                    fail_msg("uniform %lld of %lld", (long long)i, (long long)count);
                if (fabs((double)cpu.normal[i] - n) > 1e-6 * fabs(n) || ref.normal[i] != (float)n)
                    fail_msg("normal %lld of %lld is %.9g, not %.9g", (long long)i,
                             (long long)count, (double)cpu.normal[i], n);
                if (cpu.permutation[i] != order[i] || ref.permutation[i] != order[i])
                    fail_msg("permutation of %lld", (long long)count);
            }
            free(order);
            drawn_free(&cpu);
            drawn_free(&ref);
        }
    assert_int_equal(tn_stream_at(stream, 0), stream);
}

/* Box-Muller where its logarithm or cosine is near 0, or the logarithm large: over many words the
 * error stays relative. */
static void test_normal_is_accurate(void **state)
{
    (void)state;
    enum { COUNT = 4000000 };
    drawn cpu;
    draw(TN_CPU, COUNT, 0, &cpu);
    double worst = 0, sum = 0, square = 0, fourth = 0;
    for (int64_t i = 0; i < COUNT; i++) {
        double x = (double)cpu.normal[i];
        sum += x, square += x * x, fourth += x * x * x * x;
        double n = tn_random_normal(seed, stream, (uint64_t)i), error = fabs(x - n) / fabs(n);
        if (n != 0) worst = fmax(worst, error);
    }
    if (!(worst < 1e-6)) fail_msg("largest relative error %.3g", worst);
    assert_true(fabs(sum / COUNT) < 5 / sqrt(COUNT));
    assert_true(fabs(square / COUNT - 1) < 5 * sqrt(2.0 / COUNT));
    assert_true(fabs(fourth / COUNT - 3) < 5 * sqrt(96.0 / COUNT));
    drawn_free(&cpu);
}

static void test_step_changes_numbers(void **state)
{
    (void)state;
    drawn a, b;
    draw(TN_CPU, 1000, 1, &a);
    draw(TN_CPU, 1000, 2, &b);
    int same = 0;
    for (int i = 0; i < 1000; i++) same += a.uniform[i] == b.uniform[i];
    assert_true(same < 3);
    drawn_free(&a);
    drawn_free(&b);
}

/* Streams of a scope differ by path and by order; the same model built twice draws the same. */
static void test_keys(void **state)
{
    (void)state;
    uint64_t of[2][4];
    for (int round = 0; round < 2; round++) {
        tn_graph *graph = tn_graph_create(NULL);
        tn_scope root = tn_root(graph), inner = tn_in(root, "layer.%d", 3);
        of[round][0] = tn_key(root).stream;
        of[round][1] = tn_key(inner).stream;
        of[round][2] = tn_key(inner).stream;
        of[round][3] = tn_key(root).stream;
        tn_graph_free(graph);
    }
    assert_memory_equal(of[0], of[1], sizeof of[0]);
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < i; k++) assert_true(of[0][i] != of[0][k]);
}

/* ---- dropout --------------------------------------------------------------------------------- */

static int build_dropout(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    tn_node step = tn_fill(graph, TN_I64, TN_SCALAR, 7);
    out[0] = tn_square(tn_dropout_node(in[0], *(const double *)option, key_with(step)));
    return 1;
}

static void test_dropout_gradient(void **state)
{
    (void)state;
    static const tn_shape shapes[] = {{2, {7, 9}}, {1, {1}}, {1, {0}}, {3, {3, 5, 60}}, {0, {0}}};
    static const double rates[] = {0, 0.1, 0.5, 0.99};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t r = 0; r < sizeof rates / sizeof *rates; r++) {
            check_case c = {.name = "dropout",
                            .in = {{.shape = shapes[s]}},
                            .in_count = 1,
                            .build = build_dropout,
                            .option = &rates[r],
                            .second_order = true,
                            .bf16 = true};
            check_run(&c, 4);
        }
}

static void test_dropout_elements(void **state)
{
    (void)state;
    enum { COUNT = 100001 };
    static const tn_dtype dtypes[] = {TN_F32, TN_BF16, TN_F16, TN_F64};
    double *ones = calloc(COUNT, sizeof *ones);
    for (int i = 0; i < COUNT; i++) ones[i] = i == 5 ? NAN : 1;
    for (size_t t = 0; t < 4; t++) {
        tn_graph *graph = tn_graph_create(NULL);
        tn_node x = tn_input(graph, "x", dtypes[t], TN_SHAPE(COUNT)),
                step = tn_input(graph, "step", TN_I64, TN_SCALAR);
        tn_node y = tn_dropout_node(x, 0.3, key_with(step));
        tn_plan *plan;
        assert_int_equal(
            tn_compile(&plan, .graph = graph, .feeds = TN_NODES(x, step), .fetches = TN_NODES(y)),
            TN_OK);
        void *in = check_typed(dtypes[t], ones, COUNT), *out = calloc(COUNT, 8);
        int64_t at = 11;
        int kept = 0;
        double scale = tn_dropout_scale(0.3);
        uint64_t of = tn_stream_at(stream, at);
        assert_int_equal(tn_run(plan, (const void *[]){in, &at}, (void *[]){out}), TN_OK);
        double *value = check_doubles(dtypes[t], out, COUNT);
        for (int i = 0; i < COUNT; i++) {
            bool dropped = tn_dropout_bits(seed, of, (uint64_t)i) < tn_dropout_threshold(0.3);
            kept += !dropped;
            if (i == 5 ? !(dropped ? value[i] == 0 : isnan(value[i]))
                       : fabs(value[i] - (dropped ? 0 : scale)) > 4e-3)
                fail_msg("%s: element %d is %g", tn_dtype_name(dtypes[t]), i, value[i]);
        }
        assert_true(fabs(kept / (double)COUNT - 0.7) < 5 * sqrt(0.21 / COUNT));
        free(value);
        free(in);
        free(out);
        tn_plan_free(plan);
        tn_graph_free(graph);
    }
    free(ones);
}

/* ---- categorical ----------------------------------------------------------------------------- */

static void test_categorical(void **state)
{
    (void)state;
    static const int64_t shapes[][2] = {{1, 1},    {3, 5},     {7, 64}, {5, 63},
                                        {4, 1000}, {2, 32000}, {0, 3}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int kind = 0; kind < 3; kind++) {
            int64_t N = shapes[s][0], V = shapes[s][1];
            tn_dtype dtype = kind == 2 ? TN_BF16 : TN_F32;
            tn_graph *graph = tn_graph_create(NULL);
            tn_node logits = tn_input(graph, "logits", dtype, TN_SHAPE(N, V)),
                    step = tn_input(graph, "step", TN_I64, TN_SCALAR);
            tn_node drawn_node = tn_categorical_node(logits, key_with(step));
            double *value = calloc((size_t)(N * V) + 1, sizeof *value);
            for (int64_t i = 0; i < N * V; i++) {
                value[i] = kind == 1 ? 0
                                     : (double)tn_random_uniform(2, s, (uint64_t)i) * 6 +
                                           (kind == 0 ? 1e4 : 0);
                if (kind == 2 && i % 3 == 0) value[i] = i % 2 ? NAN : -INFINITY;
            }
            void *feed = check_typed(dtype, value, N * V);
            for (int64_t at = 0; at < 20; at++) {
                int64_t got[2][8] = {{0}};
                for (int b = 0; b < 2; b++) {
                    tn_plan *plan;
                    assert_int_equal(
                        tn_compile(&plan, .graph = graph, .feeds = TN_NODES(logits, step),
                                   .fetches = TN_NODES(drawn_node), .backend = b ? TN_REF : TN_CPU),
                        TN_OK);
                    assert_int_equal(tn_run(plan, (const void *[]){feed, &at}, (void *[]){got[b]}),
                                     TN_OK);
                    tn_plan_free(plan);
                }
                assert_memory_equal(got[0], got[1], sizeof got[0]);
                for (int64_t n = 0; n < N; n++) assert_true(got[0][n] >= 0 && got[0][n] < V);
            }
            free(feed);
            free(value);
            tn_graph_free(graph);
        }
}

/* Draws follow the softmax: a chi-squared test over 40,000 draws and 6 categories (5 degrees of
 * freedom). */
static void test_categorical_distribution(void **state)
{
    (void)state;
    enum { N = 40000, V = 6 };
    static const double logit[V] = {0, 1, -1, 0.5, -INFINITY, 2};
    tn_graph *graph = tn_graph_create(NULL);
    tn_node logits = tn_input(graph, "logits", TN_F32, TN_SHAPE(N, V)),
            out = tn_categorical_node(logits, key_with(TN_NONE));
    tn_plan *plan;
    assert_int_equal(
        tn_compile(&plan, .graph = graph, .feeds = TN_NODES(logits), .fetches = TN_NODES(out)),
        TN_OK);
    float *x = calloc(N * V, sizeof *x);
    int64_t *at = calloc(N, sizeof *at);
    for (int i = 0; i < N * V; i++) x[i] = (float)logit[i % V];
    assert_int_equal(tn_run(plan, (const void *[]){x}, (void *[]){at}), TN_OK);
    double count[V] = {0}, total = 0, chi = 0;
    for (int i = 0; i < N; i++) count[at[i]]++;
    for (int v = 0; v < V; v++) total += exp(logit[v]);
    assert_true(count[4] == 0);
    for (int v = 0; v < V; v++) {
        double expected = N * exp(logit[v]) / total;
        if (v != 4) chi += (count[v] - expected) * (count[v] - expected) / expected;
    }
    if (!(chi < 20)) fail_msg("chi squared %.1f", chi); /* 4 degrees of freedom: p = 0.0005 */
    free(x);
    free(at);
    tn_plan_free(plan);
    tn_graph_free(graph);
}

/* Rows that leave no choice. */
static void test_categorical_corners(void **state)
{
    (void)state;
    for (int b = 0; b < 2; b++) {
        tn_graph *graph = tn_graph_create(NULL);
        tn_node logits = tn_input(graph, "logits", TN_F32, TN_SHAPE(4, 3)),
                out = tn_categorical_node(logits, key_with(TN_NONE));
        tn_plan *plan;
        assert_int_equal(tn_compile(&plan, .graph = graph, .feeds = TN_NODES(logits),
                                    .fetches = TN_NODES(out), .backend = b ? TN_REF : TN_CPU),
                         TN_OK);
        float x[12] = {-INFINITY, NAN,      -INFINITY, NAN,       NAN,       -1e30F,
                       0,         INFINITY, INFINITY,  -INFINITY, -INFINITY, 3};
        int64_t at[4];
        assert_int_equal(tn_run(plan, (const void *[]){x}, (void *[]){at}), TN_OK);
        assert_memory_equal(at, ((int64_t[]){0, 2, 1, 2}), sizeof at);
        tn_plan_free(plan);
        tn_graph_free(graph);
    }
}

/* ---- threads and messages -------------------------------------------------------------------- */

static void test_threads(void **state)
{
    (void)state;
    enum { COUNT = 300001 };
    drawn one, two;
    tn_set_thread_count(1);
    draw(TN_CPU, COUNT, 3, &one);
    tn_set_thread_count(2);
    draw(TN_CPU, COUNT, 3, &two);
    tn_set_thread_count(0);
    assert_memory_equal(one.uniform, two.uniform, COUNT * sizeof(float));
    assert_memory_equal(one.normal, two.normal, COUNT * sizeof(float));
    drawn_free(&one);
    drawn_free(&two);
}

#define REFUSED(part, expression)                                                                  \
    do {                                                                                           \
        tn_graph *graph = tn_graph_create(NULL);                                                   \
        tn_node x = tn_input(graph, "x", TN_F32, TN_SHAPE(3, 4)),                                  \
                i = tn_input(graph, "i", TN_I32, TN_SHAPE(2));                                     \
        (void)x, (void)i;                                                                          \
        (void)(expression);                                                                        \
        check_refused(graph, part);                                                                \
        tn_graph_free(graph);                                                                      \
    } while (0)

static void test_messages(void **state)
{
    (void)state;
    REFUSED("dropout at rate 1; it must be in [0, 1)", tn_dropout_node(x, 1, key_with(TN_NONE)));
    REFUSED("dropout at rate nan", tn_dropout_node(x, NAN, key_with(TN_NONE)));
    REFUSED("dropout of i32", tn_dropout_node(i, 0.1, key_with(TN_NONE)));
    REFUSED("the key's step is f32 [3, 4]; it must be one i64 number",
            tn_dropout_node(x, 0.1, key_with(x)));
    REFUSED("the key's step is i32 [2]", tn_random_uniform_node(key_with(i), graph, TN_SHAPE(3)));
    REFUSED("permutation of -1 elements", tn_permutation_node(key_with(TN_NONE), graph, -1));
    REFUSED("it wants floating-point logits [N, V]", tn_categorical_node(i, key_with(TN_NONE)));
    REFUSED("shape [-2] of f32 is not possible",
            tn_random_normal_node(key_with(TN_NONE), graph, TN_SHAPE(-2)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_normal_is_accurate),
        cmocka_unit_test(test_step_changes_numbers),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_dropout_gradient),
        cmocka_unit_test(test_dropout_elements),
        cmocka_unit_test(test_categorical),
        cmocka_unit_test(test_categorical_distribution),
        cmocka_unit_test(test_categorical_corners),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
