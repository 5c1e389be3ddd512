/* The gradient pass: accumulation, stops, intermediate variables, higher orders, recomputation, cost. */
#include <time.h>

#include "graph_check.h"

static double run_scalar(tn_graph *g, tn_node x, double at, tn_node value)
{
    tn_plan *plan;
    if (tn_compile(&plan, .graph = g, .feeds = TN_NODES(x), .fetches = TN_NODES(value),
                   .backend = TN_REF) != TN_OK)
        fail_msg("%s", tn_message());
    double out;
    assert_int_equal(tn_run(plan, (const void *[]){&at}, (void *[]){&out}), TN_OK);
    tn_plan_free(plan);
    return out;
}

static void test_polynomial_to_fourth_order(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = tn_input(g, "x", TN_F64, TN_SCALAR),
            value = tn_power(x, 4); /* 4x^3, 12x^2, 24x, 24 */
    const double expected[] = {4 * 27, 12 * 9, 24 * 3, 24};
    for (int order = 0; order < 4; order++) {
        tn_node d;
        tn_gradients(value, &x, 1, &d);
        assert_near(run_scalar(g, x, 3, d), expected[order], 1e-9);
        value = d;
    }
    tn_graph_free(g);
}

static void test_stop_gradient_and_intermediates(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = tn_input(g, "x", TN_F64, TN_SCALAR), y = tn_square(x),
            z = tn_multiply(y, tn_stop_gradient(x));
    tn_node d[2];
    tn_gradients(z, (tn_node[]){x, y}, 2, d); /* z = y*x with x stopped: dz/dy = x, dz/dx = 2x*x */
    assert_near(run_scalar(g, x, 3, d[1]), 3, 1e-12);
    assert_near(run_scalar(g, x, 3, d[0]), 18, 1e-12);
    tn_node lonely = tn_input(g, "lonely", TN_F64, TN_SHAPE(2, 2)), zero;
    tn_gradients(z, &lonely, 1, &zero);
    double fill;
    assert_int_equal(tn_dim(zero, 1), 2);
    (void)fill;
    tn_graph_free(g);
}

static void test_loss_must_be_scalar(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = tn_input(g, "x", TN_F32, TN_SHAPE(3)), d;
    tn_gradients(x, &x, 1, &d);
    check_refused(g, "the loss must be one floating-point number");
    tn_graph_free(g);
}

/* The same gradient with and without recomputation, and less scratch with it. */
static void test_checkpoint(void **unused)
{
    (void)unused;
    enum { DEPTH = 12, N = 4096 };
    float in[N], out[2][N];
    size_t bytes[2];
    for (int i = 0; i < N; i++) in[i] = (float)i / N;
    for (int checkpointed = 0; checkpointed < 2; checkpointed++) {
        tn_graph *g = tn_graph_create(NULL);
        tn_node x = tn_input(g, "x", TN_F32, TN_SHAPE(N)), y = x;
        for (int block = 0; block < DEPTH; block++) {
            tn_node begin = y;
            for (int i = 0; i < 6; i++)
                y = tn_cumsum(tn_tanh(tn_affine(y, 0.5, 0.1)), 0, false, false),
                y = tn_affine(y, 1.0 / N, 0);
            if (checkpointed) y = tn_checkpoint(y, &begin, 1);
        }
        tn_node loss = tn_sum(tn_square(y), TN_ALL_AXES), d;
        tn_gradients(loss, &x, 1, &d);
        tn_plan *plan;
        if (tn_compile(&plan, .graph = g, .feeds = TN_NODES(x), .fetches = TN_NODES(d)) != TN_OK)
            fail_msg("%s", tn_message());
        bytes[checkpointed] = tn_plan_bytes(plan);
        assert_int_equal(tn_run(plan, (const void *[]){in}, (void *[]){out[checkpointed]}), TN_OK);
        tn_plan_free(plan);
        tn_graph_free(g);
    }
    assert_memory_equal(out[0], out[1], sizeof out[0]);
    if (bytes[1] * 2 > bytes[0])
        fail_msg("recomputation uses %zu bytes, keeping %zu", bytes[1], bytes[0]);
}

static void test_gradient_of_long_chains_is_linear(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = tn_input(g, "x", TN_F32, TN_SHAPE(4)), y = x;
    for (int i = 0; i < 100000; i++) y = tn_sigmoid(y);
    tn_node loss = tn_sum(y, TN_ALL_AXES), d;
    tn_gradients(loss, &x, 1, &d);
    assert_int_equal(tn_graph_status(g), TN_OK);
    assert_true(tn_graph_node_count(g) < 1000000);
    tn_graph_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_polynomial_to_fourth_order),
        cmocka_unit_test(test_stop_gradient_and_intermediates),
        cmocka_unit_test(test_loss_must_be_scalar),
        cmocka_unit_test(test_checkpoint),
        cmocka_unit_test(test_gradient_of_long_chains_is_linear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
