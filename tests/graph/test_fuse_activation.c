/* Which activations products take in, which they leave, and that the values stay the same. */
#include "graph_check.h"

#include "graph/pass.h"

/* Compiles and runs with and without fusion; the number of steps saved. Both results must agree to
 * `tolerance`; a NaN must stay one. */
static int steps_saved(tn_graph *graph, tn_node *feed, int feeds, void *const *in, tn_node *fetch,
                       int fetches, int64_t count, double tolerance)
{
    float *value[2][4];
    void *data[16];
    int steps[2];
    for (int fused = 0; fused < 2; fused++) {
        tn_compile_options o = {.graph = graph,
                                .feeds = {feed, feeds},
                                .fetches = {fetch, fetches},
                                .no_fusion = !fused};
        tn_plan *plan;
        if (tn_compile_with(&plan, &o) != TN_OK) fail_msg("%s", tn_message());
        for (int i = 0; i < fetches; i++)
            data[i] = value[fused][i] = calloc((size_t)count, sizeof(float));
        if (tn_run(plan, (const void *const *)in, data) != TN_OK) fail_msg("%s", tn_message());
        steps[fused] = tn_plan_step_count(plan);
        tn_plan_free(plan);
    }
    for (int i = 0; i < fetches; i++)
        for (int64_t k = 0; k < count; k++) {
            float a = value[0][i][k], b = value[1][i][k];
            if (isnan(a) != isnan(b) || fabs((double)a - (double)b) > tolerance)
                fail_msg("fetch %d, value %d: %g without fusion, %g with it", i, (int)k, (double)a,
                         (double)b);
        }
    for (int i = 0; i < fetches; i++) free(value[0][i]), free(value[1][i]);
    return steps[0] - steps[1];
}

enum { ROWS = 5, DEPTH = 7, COLUMNS = 6 };

static void fill(float *x, int64_t count, uint64_t seed)
{
    for (int64_t i = 0; i < count; i++) x[i] = 2 * tn_random_uniform(seed, 0, (uint64_t)i) - 1;
}

static tn_node activation(int which, tn_node x)
{
    return which == 0   ? tn_relu(x)
           : which == 1 ? tn_gelu(x)
           : which == 2 ? tn_gelu_tanh(x)
                        : tn_silu(x);
}

static void test_matmul(void **state)
{
    (void)state;
    float a[ROWS * DEPTH], b[DEPTH * COLUMNS];
    fill(a, ROWS * DEPTH, 1), fill(b, DEPTH * COLUMNS, 2);
    a[3] = NAN;
    for (int which = 0; which < 4; which++) {
        tn_graph *graph = tn_graph_create(NULL);
        tn_node feed[2] = {tn_input(graph, "a", TN_F32, TN_SHAPE(ROWS, DEPTH)),
                           tn_input(graph, "b", TN_F32, TN_SHAPE(DEPTH, COLUMNS))};
        tn_node y = activation(which, tn_matmul(feed[0], feed[1]));
        assert_int_equal(steps_saved(graph, feed, 2, (void *[]){a, b}, &y, 1, ROWS * COLUMNS, 1e-6),
                         1);
        tn_graph_free(graph);
    }
}

/* oneDNN would lose the NaN. */
static void test_convolution(void **state)
{
    (void)state;
    enum { C = 3, F = 4, S = 6 };
    float x[C * S * S], w[F * C * 9];
    fill(x, C * S * S, 3), fill(w, F * C * 9, 4);
    x[8] = NAN;
    for (int which = 0; which < 4; which++) {
        tn_graph *graph = tn_graph_create(NULL);
        tn_node feed[2] = {tn_input(graph, "x", TN_F32, TN_SHAPE(1, C, S, S)),
                           tn_input(graph, "w", TN_F32, TN_SHAPE(F, C, 3, 3))};
        tn_node y = activation(
            which, tn_convolution(feed[0], feed[1], TN_NONE,
                                  (tn_conv_geometry){.pad_before = {1, 1}, .pad_after = {1, 1}}));
        steps_saved(graph, feed, 2, (void *[]){x, w}, &y, 1, F * S * S, 1e-5);
        tn_graph_free(graph);
    }
}

/* What somebody else reads must exist: a fetched product, and what a gradient reads. */
static void test_left_alone(void **state)
{
    (void)state;
    float a[ROWS * DEPTH], b[DEPTH * COLUMNS];
    fill(a, ROWS * DEPTH, 1), fill(b, DEPTH * COLUMNS, 2);
    for (int form = 0; form < 2; form++) {
        tn_graph *graph = tn_graph_create(NULL);
        tn_node feed[2] = {tn_input(graph, "a", TN_F32, TN_SHAPE(ROWS, DEPTH)),
                           tn_input(graph, "b", TN_F32, TN_SHAPE(DEPTH, COLUMNS))};
        tn_node product = tn_matmul(feed[0], feed[1]), y = tn_relu(product);
        tn_node other = form ? tn_relu(tn_cast(product, TN_F64)) : product, fetch[2] = {y, other};
        if (form) fetch[1] = tn_cast(other, TN_F32);
        steps_saved(graph, feed, 2, (void *[]){a, b}, fetch, 2, ROWS * COLUMNS, 1e-6);
        tn_graph_free(graph);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_convolution),
        cmocka_unit_test(test_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
