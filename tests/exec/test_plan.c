/* Plans: views, layouts, state in place, updates, contexts, limits, and memory plans over random graphs. */
#include <pthread.h>

#include "graph_check.h" /* first: with the macros that record places */

#include "exec/plan.h"

static tn_plan *compile(tn_compile_options options)
{
    tn_plan *plan = NULL;
    if (tn_compile_with(&plan, &options) != TN_OK) fail_msg("compiling failed: %s", tn_message());
    return plan;
}

static void test_views_cost_no_step(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = tn_input(g, "x", TN_F32, TN_SHAPE(2, 3, 4));
    tn_node y = tn_reshape(tn_transpose(tn_slice(x, 2, 1, 4, 2), TN_PERMUTE(1, 0, 2)),
                           TN_SHAPE(3, 4));
    tn_plan *plan = compile(
        (tn_compile_options){.graph = g, .feeds = TN_NODES(x), .fetches = TN_NODES(y)});
    /* The reshape joins dimensions that are not contiguous: one copy, and one for the fetch. */
    assert_int_equal(tn_plan_step_count(plan), 2);
    float in[24], out[12];
    for (int i = 0; i < 24; i++) in[i] = (float)i;
    assert_int_equal(tn_run(plan, (const void *[]){in}, (void *[]){out}), TN_OK);
    for (int c = 0; c < 3; c++)
        for (int b = 0; b < 2; b++)
            for (int k = 0; k < 2; k++)
                assert_near(out[c * 4 + b * 2 + k], in[b * 12 + c * 4 + 1 + 2 * k], 0);
    tn_plan_free(plan);
    tn_graph_free(g);
}

static void test_update_is_in_place_and_reads_see_old(void **unused)
{
    (void)unused;
    tn_state *state = tn_state_create(1);
    tn_graph *g = tn_graph_create(state);
    tn_node p = tn_state_node(g, "p", TN_F32, TN_SHAPE(1000), (tn_init){TN_INIT_CONSTANT, 1, 0});
    tn_node x = tn_input(g, "x", TN_F32, TN_SHAPE(1000));
    tn_node loss = tn_sum(tn_multiply(p, tn_multiply(p, x)), TN_ALL_AXES), d;
    tn_gradients(loss, &p, 1, &d);
    tn_node step = tn_assign(p, tn_subtract(p, tn_affine(d, 0.25, 0)));
    tn_plan *plan = compile((tn_compile_options){
        .graph = g, .feeds = TN_NODES(x), .fetches = TN_NODES(loss), .updates = step});
    float in[1000], value;
    for (int i = 0; i < 1000; i++) in[i] = 1;
    float expected = 1;
    for (int run = 0; run < 3; run++) {
        assert_int_equal(tn_run(plan, (const void *[]){in}, (void *[]){&value}), TN_OK);
        assert_near(value, 1000 * expected * expected, 1e-3);
        expected -= 0.25f * 2 * expected;
    }
    assert_near(((float *)tn_state_find(state, "p")->data)[999], expected, 1e-6);
    /* In place: nothing of the parameter's size lies in scratch but the gradient at most. */
    assert_true(tn_plan_bytes(plan) <= 2 * 4096 + 1024);
    tn_plan_free(plan);
    tn_graph_free(g);
    tn_state_free(state);
}

static void test_swap(void **unused)
{
    (void)unused;
    tn_state *state = tn_state_create(1);
    tn_graph *g = tn_graph_create(state);
    tn_node a = tn_state_node(g, "a", TN_F32, TN_SHAPE(3), (tn_init){TN_INIT_CONSTANT, 1, 0});
    tn_node b = tn_state_node(g, "b", TN_F32, TN_SHAPE(3), (tn_init){TN_INIT_CONSTANT, 2, 0});
    tn_node both = tn_group(g, (tn_node[]){tn_assign(a, b), tn_assign(b, a)}, 2);
    tn_plan *plan = compile(
        (tn_compile_options){.graph = g, .fetches = TN_NODES(a), .updates = both});
    float seen[3];
    assert_int_equal(tn_run(plan, NULL, (void *[]){seen}), TN_OK);
    assert_near(seen[0], 1, 0);
    assert_near(*(float *)tn_state_find(state, "a")->data, 2, 0);
    assert_near(*(float *)tn_state_find(state, "b")->data, 1, 0);
    tn_plan_free(plan);
    tn_graph_free(g);
    tn_state_free(state);
}

/* The new value is read by what decides another entry's new value from the old one: no order lets both write in place. */
static void test_updates_that_depend_on_each_other(void **unused)
{
    (void)unused;
    tn_state *state = tn_state_create(1);
    tn_graph *g = tn_graph_create(state);
    tn_node a = tn_state_node(g, "a", TN_F32, TN_SHAPE(4), (tn_init){TN_INIT_CONSTANT, 3, 0});
    tn_node b = tn_state_node(g, "b", TN_F32, TN_SHAPE(4), (tn_init){TN_INIT_CONSTANT, 5, 0});
    tn_node next_a = tn_add(a, b), next_b = tn_multiply(next_a, tn_add(a, b));
    tn_node both = tn_group(g, (tn_node[]){tn_assign(a, next_a), tn_assign(b, next_b)}, 2);
    for (int fusion = 0; fusion < 2; fusion++) {
        tn_plan *plan = compile(
            (tn_compile_options){.graph = g, .updates = both, .no_fusion = fusion == 0});
        assert_int_equal(tn_state_put(state, "a", TN_F32, TN_SHAPE(4), (float[]){3, 3, 3, 3}),
                         TN_OK);
        assert_int_equal(tn_state_put(state, "b", TN_F32, TN_SHAPE(4), (float[]){5, 5, 5, 5}),
                         TN_OK);
        assert_int_equal(tn_run(plan, NULL, NULL), TN_OK);
        assert_near(*(float *)tn_state_find(state, "a")->data, 8, 0);
        assert_near(*(float *)tn_state_find(state, "b")->data, 64, 0);
        tn_plan_free(plan);
    }
    tn_graph_free(g);
    tn_state_free(state);
}

static void test_borrowed_state_is_copied_at_the_first_write(void **unused)
{
    (void)unused;
    static const float weights[4] = {1, 2, 3, 4};
    tn_state *state = tn_state_create(1);
    assert_int_equal(tn_state_borrow(state, "w", TN_F32, TN_SHAPE(4), weights), TN_OK);
    tn_graph *g = tn_graph_create(state);
    tn_node w = tn_state_node(g, "w", TN_F32, TN_SHAPE(4), (tn_init){0});
    tn_plan *read = compile((tn_compile_options){.graph = g, .fetches = TN_NODES(w)});
    float out[4];
    assert_int_equal(tn_run(read, NULL, (void *[]){out}), TN_OK);
    assert_ptr_equal(tn_state_find(state, "w")->data, weights);
    tn_plan *write = compile(
        (tn_compile_options){.graph = g, .updates = tn_assign(w, tn_affine(w, 2, 0))});
    assert_int_equal(tn_run(write, NULL, NULL), TN_OK);
    assert_int_equal(tn_run(read, NULL, (void *[]){out}), TN_OK);
    assert_near(out[3], 8, 0);
    assert_near(weights[3], 4, 0);
    tn_plan_free(read);
    tn_plan_free(write);
    tn_graph_free(g);
    tn_state_free(state);
}

typedef struct worker {
    const tn_plan *plan;
    int number;
    bool right;
} worker;

static void *work(void *argument)
{
    worker *w = argument;
    tn_context *context;
    w->right = tn_context_create(&context, w->plan) == TN_OK;
    for (int run = 0; run < 50 && w->right; run++) {
        float x[256], y[256];
        for (int i = 0; i < 256; i++) x[i] = (float)(w->number + run);
        w->right = tn_run_in(context, (const void *[]){x}, (void *[]){y}) == TN_OK;
        for (int i = 0; i < 256; i++) w->right = w->right && y[i] == x[i] * x[i] + 1;
    }
    tn_context_free(context);
    return NULL;
}

static void test_many_threads_run_one_plan(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = tn_input(g, "x", TN_F32, TN_SHAPE(256));
    tn_plan *plan = compile((tn_compile_options){
        .graph = g, .feeds = TN_NODES(x), .fetches = TN_NODES(tn_affine(tn_multiply(x, x), 1, 1))});
    tn_graph_free(g);
    worker w[4];
    pthread_t thread[4];
    for (int i = 0; i < 4; i++) {
        w[i] = (worker){plan, i, false};
        assert_int_equal(pthread_create(&thread[i], NULL, work, &w[i]), 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < 4; i++) assert_true(w[i].right);
    tn_plan_free(plan);
}

static void refuse(tn_compile_options options, const char *part)
{
    tn_plan *plan;
    assert_int_not_equal(tn_compile_with(&plan, &options), TN_OK);
    assert_null(plan);
    if (!strstr(tn_message(), part)) fail_msg("'%s' does not hold '%s'", tn_message(), part);
}

static void test_messages(void **unused)
{
    (void)unused;
    tn_state *state = tn_state_create(1);
    tn_graph *g = tn_graph_create(state);
    tn_node x = tn_input(g, "x", TN_F32, TN_SHAPE(64, 64)), y = tn_multiply(x, x);
    refuse((tn_compile_options){.graph = g, .fetches = TN_NODES(y)},
           "input 'x' is needed but not among the feeds");
    refuse((tn_compile_options){.graph = g, .feeds = TN_NODES(y), .fetches = TN_NODES(y)},
           "feed 0 is not an input");
    refuse((tn_compile_options){.graph = g, .feeds = TN_NODES(x), .fetches = TN_NODES(TN_NONE)},
           "fetch 0 is empty");
    refuse(
        (tn_compile_options){
            .graph = g, .feeds = TN_NODES(x), .fetches = TN_NODES(y), .memory_limit = 1000},
        "but the limit is");
    tn_node w = tn_state_node(g, "w", TN_F32, TN_SHAPE(2), (tn_init){0});
    tn_node twice = tn_group(g,
                             (tn_node[]){tn_assign(w, tn_fill(g, TN_F32, TN_SHAPE(2), 1)),
                                         tn_assign(w, tn_fill(g, TN_F32, TN_SHAPE(2), 2))},
                             2);
    refuse((tn_compile_options){.graph = g, .updates = twice}, "assigned twice");
    assert_int_equal(tn_state_put(state, "other", TN_F32, TN_SHAPE(5), NULL), TN_OK);
    tn_node other = tn_state_node(g, "other", TN_F32, TN_SHAPE(6), (tn_init){0});
    refuse((tn_compile_options){.graph = g, .fetches = TN_NODES(other)},
           "state 'other' holds f32 [5], but f32 [6] is wanted");
    tn_node bad = tn_add(x, w);
    assert_true(tn_is_none(bad));
    refuse((tn_compile_options){.graph = g, .feeds = TN_NODES(x), .fetches = TN_NODES(y)},
           "test_plan.c:");
    tn_graph_free(g);
    tn_state_free(state);
}

/* ---- memory plans over random graphs ------------------------------------------------------------------- */

static tn_node random_node(const tn_node *pool, int count, uint64_t seed, uint64_t draw)
{
    return pool[tn_random_below(seed, 1, draw, (uint64_t)count)];
}

static void test_memory_plans_of_random_graphs(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        tn_graph *g = tn_graph_create(NULL);
        tn_node pool[80];
        int count = 0, nodes = 10 + (int)tn_random_below(seed, 0, 0, 60);
        int64_t n = 3 + (int64_t)tn_random_below(seed, 0, 1, 20);
        tn_node x = pool[count++] = tn_input(g, "x", TN_F32, TN_SHAPE(n, n));
        for (uint64_t d = 0; count < nodes; d += 4) {
            tn_node a = random_node(pool, count, seed, d),
                    b = random_node(pool, count, seed, d + 1);
            switch (tn_random_below(seed, 2, d, 6)) {
            case 0: pool[count++] = tn_add(a, b); break;
            case 1: pool[count++] = tn_tanh(a); break;
            case 2: pool[count++] = tn_transpose(a, TN_PERMUTE(1, 0)); break;
            case 3: pool[count++] = tn_affine(tn_matmul(a, b), 0.1, 0); break;
            case 4:
                pool[count++] = tn_multiply(
                    a, tn_broadcast(tn_sum(b, TN_AXES_KEEP(1)), TN_SHAPE(n, n)));
                break;
            default:
                pool[count++] = tn_tanh(
                    tn_concat((tn_node[]){tn_slice(a, 0, 0, 1, 1), tn_slice(b, 0, 1, n, 1)}, 2, 0));
                break;
            }
            pool[count - 1] = tn_tanh(pool[count - 1]);
        }
        tn_node loss = tn_mean(pool[count - 1], TN_ALL_AXES), d;
        tn_gradients(loss, &x, 1, &d);
        float *in = calloc((size_t)(n * n), sizeof *in), *out[3];
        for (int64_t i = 0; i < n * n; i++) in[i] = tn_random_uniform(seed, 9, (uint64_t)i) - 0.5f;
        for (int variant = 0; variant < 3; variant++) {
            tn_plan *plan = compile((tn_compile_options){.graph = g,
                                                         .feeds = TN_NODES(x),
                                                         .fetches = TN_NODES(d),
                                                         .backend = variant == 2 ? TN_REF : TN_CPU,
                                                         .no_fusion = variant == 1});
            if (variant < 2) assert_true(tn_buffers_are_disjoint(plan));
            out[variant] = calloc((size_t)(n * n), sizeof *out[variant]);
            assert_int_equal(tn_run(plan, (const void *[]){in}, (void *[]){out[variant]}), TN_OK);
            tn_plan_free(plan);
        }
        float largest = 1e-3f;
        for (int64_t i = 0; i < n * n; i++) largest = fmaxf(largest, fabsf(out[2][i]));
        for (int64_t i = 0; i < n * n; i++)
            for (int variant = 0; variant < 2; variant++)
                if (!(fabsf(out[variant][i] - out[2][i]) <= 1e-4f * largest))
                    fail_msg("seed %d, variant %d, element %d: %g instead of %g", (int)seed,
                             variant, (int)i, (double)out[variant][i], (double)out[2][i]);
        for (int variant = 0; variant < 3; variant++) free(out[variant]);
        free(in);
        tn_graph_free(g);
    }
}

static void test_long_plans(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = tn_input(g, "x", TN_F32, TN_SHAPE(8)), y = x;
    for (int i = 0; i < 20000; i++) y = tn_affine(tn_cumsum(tn_tanh(y), 0, false, false), 0.2, 0.1);
    tn_node loss = tn_sum(y, TN_ALL_AXES), d;
    tn_gradients(loss, &x, 1, &d);
    tn_plan *plan = compile(
        (tn_compile_options){.graph = g, .feeds = TN_NODES(x), .fetches = TN_NODES(d)});
    assert_true(tn_plan_step_count(plan) > 40000);
    float in[8] = {0.1f, 0.2f, 0.3f}, out[8];
    assert_int_equal(tn_run(plan, (const void *[]){in}, (void *[]){out}), TN_OK);
    tn_plan_free(plan);
    tn_graph_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_views_cost_no_step),
        cmocka_unit_test(test_update_is_in_place_and_reads_see_old),
        cmocka_unit_test(test_swap),
        cmocka_unit_test(test_updates_that_depend_on_each_other),
        cmocka_unit_test(test_borrowed_state_is_copied_at_the_first_write),
        cmocka_unit_test(test_many_threads_run_one_plan),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_memory_plans_of_random_graphs),
        cmocka_unit_test(test_long_plans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
