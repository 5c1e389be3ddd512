/* What the pass over batch norms takes in, and what it must leave alone. That the results stay
 * the same is checked with the operations (tests/ops/test_norm.c runs every graph with and
 * without fusion). */
#include "graph_check.h"

#include "graph/norm.h"
#include "graph/pass.h"

typedef struct counts {
    int norm, plain_norm, relu, relu_grad, add, grad, plain_grad;
} counts;

/* Drops what is dead, fuses, drops again, and counts what is left. */
static counts fused(tn_graph *graph, const tn_node *root, int root_count)
{
    tn_program program = {.graph = graph,
                          .user = graph,
                          .root_count = root_count,
                          .fetch_count = root_count,
                          .kernels = tn_cpu_kernels()};
    program.root = calloc((size_t)root_count, sizeof *program.root);
    for (int i = 0; i < root_count; i++) program.root[i] = root[i].id;
    assert_int_equal(tn_pass_drop_dead(&program), TN_OK);
    assert_int_equal(tn_pass_fuse_norms(&program), TN_OK);
    assert_int_equal(tn_pass_drop_dead(&program), TN_OK);
    counts n = {0};
    for (int32_t id = 1; id < program.graph->count; id++) {
        const tn_value *value = program.graph->value[id];
        const tn_batch_norm_attribute *attribute = value->attribute;
        switch (value->op->id) {
        case TN_OP_BATCH_NORM: n.norm++, n.plain_norm += attribute->activation == 0; break;
        case TN_OP_BATCH_NORM_GRAD: n.grad++, n.plain_grad += attribute->activation == 0; break;
        case TN_OP_RELU: n.relu++; break;
        case TN_OP_RELU_GRAD: n.relu_grad++; break;
        case TN_OP_ADD: n.add++; break;
        default: break;
        }
        for (int i = 0; i < value->in_count; i++)
            assert_true(value->in[i] > 0 && value->in[i] < id);
    }
    tn_graph_free(program.graph);
    free(program.root);
    return n;
}

typedef struct model {
    tn_graph *graph;
    tn_node x, other, scale, shift;
} model;

static model begin(void)
{
    model m = {.graph = tn_graph_create(NULL)};
    m.x = tn_input(m.graph, "x", TN_F32, TN_SHAPE(2, 3, 4, 4));
    m.other = tn_input(m.graph, "other", TN_F32, TN_SHAPE(2, 3, 4, 4));
    m.scale = tn_input(m.graph, "scale", TN_F32, TN_SHAPE(3));
    m.shift = tn_input(m.graph, "shift", TN_F32, TN_SHAPE(3));
    return m;
}

static tn_node norm(const model *m, tn_node x)
{
    return tn_batch_norm_train(x, m->scale, m->shift, 1e-5).y;
}

static void test_relu(void **state)
{
    (void)state;
    model m = begin();
    tn_batch_norm_result r = tn_batch_norm_train(m.x, m.scale, m.shift, 1e-5);
    tn_node early = tn_affine(r.mean, 2, 1), y = tn_relu(r.y),
            d[3]; /* the mean has a reader before the ReLU */
    tn_node wrt[3] = {m.x, m.scale, m.shift};
    tn_gradients(tn_sum(tn_square(y), TN_ALL_AXES), wrt, 3, d);
    counts n = fused(m.graph, (tn_node[]){y, early, d[0], d[1], d[2]}, 5);
    assert_int_equal(n.norm, 1);
    assert_int_equal(n.plain_norm, 0);
    assert_int_equal(n.relu, 0);
    assert_int_equal(n.grad, 1);
    assert_int_equal(n.plain_grad, 0);
    assert_int_equal(n.relu_grad, 0);
    tn_graph_free(m.graph);
}

static void test_residual(void **state)
{
    (void)state;
    for (int swapped = 0; swapped < 2; swapped++) {
        model m = begin();
        tn_node z = norm(&m, m.x), y = tn_relu(swapped ? tn_add(z, m.other) : tn_add(m.other, z)),
                d[2], wrt[2] = {m.x, m.other};
        tn_gradients(tn_sum(tn_square(y), TN_ALL_AXES), wrt, 2, d);
        counts n = fused(m.graph, (tn_node[]){y, d[0], d[1]}, 3);
        assert_int_equal(n.plain_norm, 0);
        assert_int_equal(n.norm, 1);
        assert_int_equal(n.relu + n.add, 0);
        assert_int_equal(n.plain_grad, 1); /* the residual's gradient reads the RELU_GRAD too */
        assert_int_equal(n.relu_grad, 1);
        tn_graph_free(m.graph);
    }
}

/* A block with a normalised shortcut: the second norm takes in the sum, the first stays. */
static void test_two_norms(void **state)
{
    (void)state;
    model m = begin();
    tn_node y = tn_relu(tn_add(norm(&m, m.x), norm(&m, m.other)));
    counts n = fused(m.graph, &y, 1);
    assert_int_equal(n.norm, 2);
    assert_int_equal(n.plain_norm, 1);
    assert_int_equal(n.relu + n.add, 0);
    tn_graph_free(m.graph);
}

static void test_left_alone(void **state)
{
    (void)state;
    for (int form = 0; form < 6; form++) {
        model m = begin();
        tn_node z = norm(&m, m.x), sum, root[2];
        int roots = 2;
        switch (form) {
        case 0: root[0] = tn_relu(z), root[1] = z; break;            /* fetched before the ReLU */
        case 1: root[0] = tn_relu(z), root[1] = tn_square(z); break; /* read beside it */
        case 2: sum = tn_add(z, m.other), root[0] = tn_relu(sum), root[1] = sum; break;
        case 3:
            sum = tn_add(z, z), root[0] = tn_relu(sum), roots = 1;
            break; /* both operands are the norm */
        case 4:
            sum = tn_add(z, tn_exp(m.other)), root[0] = tn_relu(sum), roots = 1;
            break; /* the residual comes later */
        default:
            sum = tn_add(z, m.scale.id ? tn_reshape(m.scale, TN_SHAPE(3, 1, 1)) : z),
            root[0] = tn_relu(sum), roots = 1;
            break;
        }
        counts n = fused(m.graph, root, roots);
        if (n.plain_norm != 1 || n.relu != 1) fail_msg("form %d: fused", form);
        tn_graph_free(m.graph);
    }
}

/* The gradient of another norm's ReLU is not this norm's. */
static void test_other_gradient(void **state)
{
    (void)state;
    model m = begin();
    tn_node z = norm(&m, m.x), y = tn_relu(tn_add(z, m.other)), wrt = m.x, d;
    tn_gradients(tn_sum(tn_square(y), TN_ALL_AXES), &wrt, 1,
                 &d); /* without the residual's gradient RELU_GRAD has one reader */
    counts n = fused(m.graph, &d, 1);
    assert_int_equal(n.plain_grad, 1);
    assert_int_equal(n.relu_grad, 1);
    tn_graph_free(m.graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_relu),           cmocka_unit_test(test_residual),
        cmocka_unit_test(test_two_norms),      cmocka_unit_test(test_left_alone),
        cmocka_unit_test(test_other_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
