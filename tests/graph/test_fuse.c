/* The fuse pass: what it joins, what it must not join, and that nothing changes but the number
 * of steps. */
#include <time.h>

#include "graph/fuse.h"
#include "graph/pass.h"
#undef TN_NO_PLACES
#include "graph_check.h"

/* ---- helpers of this file ---------------------------------------------------------------- */

static tn_node like(tn_node x, double value)
{
    return tn_fill(x.graph, tn_dtype_of(x), tn_shape_of(x), value);
}

/* The graph after the pass, with `fetch` (and `updates`) as roots. Free it. */
static tn_graph *fused(tn_graph *graph, const tn_node *fetch, int count, tn_node updates)
{
    tn_program program = {.graph = graph,
                          .user = graph,
                          .kernels = tn_cpu_kernels(),
                          .fetch_count = count,
                          .root_count = count + 1};
    program.root = calloc((size_t)count + 1, sizeof *program.root);
    for (int i = 0; i < count; i++) program.root[i] = fetch[i].id;
    program.root[count] = tn_is_none(updates) ? 0 : updates.id;
    assert_int_equal(tn_pass_drop_dead(&program), TN_OK);
    if (tn_pass_fuse(&program) != TN_OK) fail_msg("fusing failed: %s", tn_message());
    assert_int_equal(tn_pass_drop_dead(&program), TN_OK);
    free(program.root);
    return program.graph;
}

static int count_op(const tn_graph *graph, tn_op_id id)
{
    int count = 0;
    for (int32_t i = 1; i < graph->count; i++) count += graph->value[i]->op->id == id;
    return count;
}

/* Nodes that would be a step of a plan. */
static int count_steps(const tn_graph *graph)
{
    int count = 0;
    for (int32_t i = 1; i < graph->count; i++) {
        const tn_value *v = graph->value[i];
        count += v->in_count > 0 && !(v->op->flags & (TN_VIEW | TN_EFFECT)) &&
                 v->op->id != TN_OP_RESULT;
    }
    return count;
}

static void expect(tn_graph *graph, const tn_node *fetch, int count, int fused_nodes, int steps)
{
    tn_graph *after = fused(graph, fetch, count, TN_NONE);
    if (count_op(after, TN_OP_FUSED) != fused_nodes || count_steps(after) != steps) {
        tn_graph_print(after, stderr);
        fail_msg("%d fused nodes and %d steps, expected %d and %d", count_op(after, TN_OP_FUSED),
                 count_steps(after), fused_nodes, steps);
    }
    tn_graph_free(after);
}

static tn_node input(tn_graph *g, const char *name, tn_shape shape)
{
    return tn_input(g, name, TN_F32, shape);
}

/* ---- what is joined ---------------------------------------------------------------------- */

static void test_chain(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = input(g, "x", TN_SHAPE(4, 5)), bias = input(g, "b", TN_SHAPE(5));
    tn_node y = tn_tanh(tn_add(tn_multiply(x, tn_fill(g, TN_F32, TN_SCALAR, 3)),
                               tn_broadcast(bias, TN_SHAPE(4, 5))));
    expect(g, &y, 1, 1, 1);
    tn_graph_free(g);
}

static void test_diamond_is_computed_once(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = input(g, "x", TN_SHAPE(7)), e = tn_exp(x),
            out[2] = {tn_add(tn_square(e), tn_sin(e)), e};
    expect(g, out, 2, 1, 1);
    tn_graph *after = fused(g, out, 2, TN_NONE);
    for (int32_t i = 1; i < after->count; i++)
        if (after->value[i]->op->id == TN_OP_FUSED) {
            const tn_fused_attribute *a = after->value[i]->attribute;
            assert_int_equal(a->instruction_count, 4);
            assert_int_equal(a->output_count, 2);
            assert_int_equal(a->input_count, 1);
        }
    tn_graph_free(after);
    tn_graph_free(g);
}

static void test_siblings(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = input(g, "x", TN_SHAPE(100)), y = input(g, "y", TN_SHAPE(100));
    tn_node out[3] = {tn_exp(x), tn_multiply(x, y), tn_sin(y)};
    expect(g, out, 3, 1, 1);
    tn_graph_free(g);
}

/* A gradient, and its sum over rows (what a bias gets): one pass over memory. */
static void test_reduction_behind_a_chain(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = input(g, "x", TN_SHAPE(64, 8)), d = input(g, "d", TN_SHAPE(64, 8)), dx;
    tn_node y = tn_gelu(x);
    tn_vjp(&y, &d, 1, &x, 1, &dx);
    tn_node out[3] = {dx, tn_sum(dx, TN_AXES(0)), tn_mean(tn_square(dx), TN_AXES_KEEP(0))};
    expect(g, out, 3, 1, 1);
    tn_node other[2] = {tn_sum(dx, TN_AXES(0)),
                        tn_sum(dx, TN_AXES(1))}; /* different axes: not in one node */
    expect(g, other, 2, 1, 2);
    tn_graph_free(g);
}

static tn_node adam(tn_graph *g, const char *name, tn_shape shape, tn_node gradient, tn_node rate)
{
    char text[3][32];
    snprintf(text[0], 32, "%s", name), snprintf(text[1], 32, "%s.m", name),
        snprintf(text[2], 32, "%s.v", name);
    tn_node p = tn_state_node(g, text[0], TN_F32, shape, (tn_init){TN_INIT_NORMAL, 0, 1});
    tn_node m = tn_state_node(g, text[1], TN_F32, shape, (tn_init){0}),
            v = tn_state_node(g, text[2], TN_F32, shape, (tn_init){0});
    tn_node m2 = tn_add(tn_affine(m, 0.9, 0), tn_affine(gradient, 0.1, 0));
    tn_node v2 = tn_add(tn_affine(v, 0.99, 0), tn_affine(tn_square(gradient), 0.01, 0));
    tn_node p2 = tn_subtract(p, tn_multiply(rate, tn_divide(m2, tn_affine(tn_sqrt(v2), 1, 1e-8))));
    snprintf(text[1], 32, "%s.bf16", name);
    tn_node low = tn_state_node(g, text[1], TN_BF16, shape, (tn_init){0});
    return tn_group(g,
                    (tn_node[]){tn_assign(p, p2), tn_assign(m, m2), tn_assign(v, v2),
                                tn_assign(low, tn_cast(p2, TN_BF16))},
                    4);
}

/* The update of one tensor: one node, four results, all written in place, and right. */
static void test_optimiser_step(void **unused)
{
    (void)unused;
    enum { N = 5000 };
    float gradient[N], rate = 0.01F;
    for (int i = 0; i < N; i++) gradient[i] = (float)tn_random_uniform(1, 2, (uint64_t)i) - 0.5F;
    tn_state *states[2];
    for (int backend = 0; backend < 2; backend++) {
        states[backend] = tn_state_create(9);
        tn_graph *g = tn_graph_create(states[backend]);
        tn_node d = input(g, "d", TN_SHAPE(N)), lr = input(g, "lr", TN_SCALAR),
                update = adam(g, "p", TN_SHAPE(N), d, lr);
        tn_graph *after = fused(g, NULL, 0, update);
        assert_int_equal(count_op(after, TN_OP_FUSED), 1);
        assert_int_equal(count_steps(after), 1);
        tn_graph_free(after);
        tn_plan *plan;
        assert_int_equal(tn_compile(&plan, .graph = g, .feeds = TN_NODES(d, lr), .updates = update,
                                    .backend = backend ? TN_REF : TN_CPU),
                         TN_OK);
        if (!backend) {
            assert_int_equal(tn_plan_step_count(plan), 1);
            assert_int_equal(tn_plan_bytes(plan), 0);
        }
        for (int run = 0; run < 3; run++)
            assert_int_equal(tn_run(plan, (const void *[]){gradient, &rate}, NULL), TN_OK);
        tn_plan_free(plan);
        tn_graph_free(g);
    }
    static const char *const names[] = {"p", "p.m", "p.v"};
    for (int k = 0; k < 3; k++) {
        const float *got = tn_state_find(states[0], names[k])->data,
                    *right = tn_state_find(states[1], names[k])->data;
        for (int i = 0; i < N; i++)
            if (!(fabsf(got[i] - right[i]) <= 1e-5F * (1 + fabsf(right[i]))))
                fail_msg("%s[%d] is %g, expected %g", names[k], i, (double)got[i],
                         (double)right[i]);
    }
    const uint16_t *low = tn_state_find(states[0], "p.bf16")->data;
    const float *p = tn_state_find(states[0], "p")->data;
    for (int i = 0; i < N; i++) assert_int_equal(low[i], tn_bf16_from_f32(p[i]));
    tn_state_free(states[0]);
    tn_state_free(states[1]);
}

/* f32 values of a whole [64, 64], other than inputs. */
static int count_copies(const tn_graph *graph)
{
    int count = 0;
    for (int32_t i = 1; i < graph->count; i++) {
        const tn_value *v = graph->value[i];
        count += v->dtype == TN_F32 && tn_shape_size(v->shape) == 64 * 64 && v->in_count > 0;
    }
    return count;
}

/* A bf16 gradient is read as it is by its norm and by the update: no f32 copy of it is stored,
 * unless somebody else needs it. */
static void test_widening_casts_are_not_stored(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = tn_input(g, "x", TN_BF16, TN_SHAPE(64, 64)), p = input(g, "p", TN_SHAPE(64, 64));
    tn_node d = tn_cast(tn_cumsum(x, 0, false, false), TN_F32);
    tn_node norm = tn_sum(tn_square(d), TN_ALL_AXES);
    tn_node update = tn_subtract(p, tn_multiply(d, norm)), mean = tn_mean(d, TN_AXES(0));
    tn_node only_members[2] = {update, mean};
    tn_graph *after = fused(g, only_members, 2, TN_NONE);
    assert_int_equal(count_op(after, TN_OP_CAST), 0);
    assert_int_equal(count_copies(after), 1); /* the update */
    tn_graph_free(after);
    tn_node others_too[2] = {update, tn_cumsum(d, 1, false, false)};
    after = fused(g, others_too, 2, TN_NONE);
    assert_int_equal(count_copies(after), 3);
    tn_graph_free(after);
    tn_graph_free(g);
}

static void test_identities_are_seen_through(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = input(g, "x", TN_SHAPE(6)), y = tn_exp(x);
    tn_node out[2] = {tn_stop_gradient(tn_multiply(tn_stop_gradient(tn_checkpoint(y, &x, 1)), x)),
                      tn_stop_gradient(y)};
    expect(g, out, 2, 1, 1);
    tn_graph_free(g);
}

/* ---- what is not ------------------------------------------------------------------------- */

/* e feeds a scan, and both meet again: joining e with what comes after would be a cycle. */
static void test_no_cycles(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = input(g, "x", TN_SHAPE(6, 3)), e = tn_exp(tn_neg(x)),
            s = tn_cumsum(e, 0, false, false), out = tn_sin(tn_add(e, s));
    expect(g, &out, 1, 2, 3);
    /* The same through a reduction of the group itself. */
    tn_node y = tn_divide(tn_square(e), tn_sum(e, TN_AXES_KEEP(1)));
    expect(g, &y, 1, 1, 2);
    tn_graph_free(g);
}

static void test_different_shapes(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = input(g, "x", TN_SHAPE(6, 3)), v = input(g, "v", TN_SHAPE(3));
    tn_node scale = tn_reciprocal(tn_sqrt(tn_affine(v, 1, 1e-5))),
            out = tn_neg(tn_multiply(x, scale)); /* scale once, not six times */
    expect(g, &out, 1, 2, 2);
    tn_graph_free(g);
}

/* What only the backward pass uses is not computed in the forward pass, although its operand is
 * there already. */
static void test_nothing_large_is_computed_early(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = input(g, "x", TN_SHAPE(50, 50)), h = tn_tanh(x), y = h;
    for (int i = 0; i < 6; i++) y = tn_cumsum(y, i % 2, false, false);
    tn_node d, fetch[2] = {y};
    tn_gradients(tn_sum(y, TN_ALL_AXES), &x, 1, &d);
    fetch[1] = d;
    tn_graph *after = fused(g, fetch, 2, TN_NONE);
    for (int32_t i = 1; i < after->count; i++)
        if (after->value[i]->op->id == TN_OP_TANH) {
            tn_graph_free(after);
            tn_graph_free(g);
            return;
        }
    fail_msg("tanh was joined with its derivative, twelve scans later");
}

/* ---- limits ------------------------------------------------------------------------------ */

static void test_many_results_are_cut(void **unused)
{
    (void)unused;
    tn_graph *g = tn_graph_create(NULL);
    enum { N = 20 };
    tn_node x = input(g, "x", TN_SHAPE(3, 4)), out[N];
    for (int i = 0; i < N; i++) out[i] = tn_affine(i ? out[i - 1] : x, 1, 0.5);
    tn_graph *after = fused(g, out, N, TN_NONE);
    for (int32_t i = 1; i < after->count; i++)
        if (after->value[i]->op->id == TN_OP_FUSED)
            assert_true(after->value[i]->result_count <= TN_MAX_RESULTS);
    tn_graph_free(after);
    tn_plan *plan;
    assert_int_equal(tn_compile(&plan, .graph = g, .feeds = TN_NODES(x), .fetches = {out, N}),
                     TN_OK);
    float in[12] = {0}, result[N][12];
    void *fetch[N];
    for (int i = 0; i < N; i++) fetch[i] = result[i];
    assert_int_equal(tn_run(plan, (const void *[]){in}, fetch), TN_OK);
    for (int i = 0; i < N; i++) assert_near(result[i][7], 0.5F * (float)(i + 1), 0);
    tn_plan_free(plan);
    tn_graph_free(g);
}

static void test_many_operands(void **unused)
{
    (void)unused;
    enum { N = 150 };
    tn_graph *g = tn_graph_create(NULL);
    tn_node in[N], sum = TN_NONE;
    const void *feed[N];
    float value[N];
    for (int i = 0; i < N; i++) {
        char name[16];
        snprintf(name, sizeof name, "x%d", i);
        in[i] = input(g, name, TN_SHAPE(1));
        value[i] = (float)i;
        feed[i] = &value[i];
        sum = i ? tn_add(sum, tn_affine(in[i], i, 0)) : tn_affine(in[i], 1, 0);
    }
    tn_plan *plan;
    float out, expected = 0;
    for (int i = 0; i < N; i++) expected += (float)i * (float)i;
    assert_int_equal(tn_compile(&plan, .graph = g, .feeds = {in, N}, .fetches = TN_NODES(sum)),
                     TN_OK);
    assert_int_equal(tn_run(plan, feed, (void *[]){&out}), TN_OK);
    assert_near(out, expected, 0);
    tn_plan_free(plan);
    tn_graph_free(g);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* 10^5 nodes, with many groups open at once. */
static void test_cost_is_linear(void **unused)
{
    (void)unused;
    double took[2];
    for (int big = 0; big < 2; big++) {
        tn_graph *g = tn_graph_create(NULL);
        tn_node x = input(g, "x", TN_SHAPE(8)), y = x, z = x;
        int n = big ? 40000 : 10000;
        for (int i = 0; i < n; i++) {
            y = tn_add(tn_sin(y), x);
            if (i % 7 == 0) z = tn_cumsum(tn_multiply(z, y), 0, false, false);
        }
        tn_node out[2] = {y, z};
        double start = seconds();
        tn_graph *after = fused(g, out, 2, TN_NONE);
        took[big] = seconds() - start;
        tn_graph_free(after);
        tn_graph_free(g);
    }
    if (took[1] > 16 * took[0] + 0.2)
        fail_msg("four times the nodes take %.1f times as long", took[1] / took[0]);
}

/* ---- nothing changes: random graphs ------------------------------------------------------ */

enum { POOL = 60, FETCHES = 6 };

typedef struct random_graph {
    uint64_t seed, turn;
    tn_graph *graph;
    tn_node node[POOL + 16];
    int count;
} random_graph;

static int pick(random_graph *r, int below)
{
    return (int)tn_random_below(r->seed, 1, r->turn++, (uint64_t)below);
}

static tn_node some(random_graph *r)
{
    /* Mostly recent ones: chains. */
    int back = pick(r, 3) ? pick(r, r->count < 6 ? r->count : 6) : pick(r, r->count);
    return r->node[r->count - 1 - back];
}

/* Any node as [4, 6, 10], by broadcasting or by adding up. */
static tn_node random_node(random_graph *r)
{
    tn_node a = some(r), b = some(r);
    tn_shape both;
    switch (pick(r, 15)) {
    case 0: return tn_sin(a);
    case 1: return tn_sigmoid(a);
    case 2: return tn_affine(a, 0.5, 0.25);
    case 3: return tn_abs(tn_neg(a));
    case 4: return tn_relu(tn_affine(a, 1, 0.125));
    case 5:
    case 6:
    case 7:
        if (!tn_shape_broadcast(tn_shape_of(a), tn_shape_of(b), &both) || both.rank > 3)
            return tn_cos(a);
        return pick(r, 2)   ? tn_multiply(tn_tanh(a), b)
               : pick(r, 2) ? tn_maximum(a, b)
                            : tn_subtract(a, tn_affine(b, 0.5, 0));
    case 8:
        return tn_rank(a) ? tn_mean(a, (tn_axes){.count = 1,
                                                 .axis = {pick(r, tn_rank(a))},
                                                 .keep = pick(r, 2)})
                          : tn_square(a);
    case 9:
        return tn_rank(a)
                   ? tn_affine(
                         tn_sum(a,
                                (tn_axes){.count = 1, .axis = {pick(r, tn_rank(a))}, .keep = true}),
                         0.1, 0)
                   : tn_exp(tn_neg(tn_abs(a)));
    case 10:
        return tn_rank(a) ? tn_max(a, (tn_axes){.count = 1, .axis = {-1}, .keep = true})
                          : tn_square(tn_sin(a));
    case 11:
        return tn_rank(a)
                   ? tn_affine(tn_cumsum(a, pick(r, tn_rank(a)), pick(r, 2), pick(r, 2)), 0.2, 0)
                   : a;
    case 12:
        return tn_rank(a) >= 2 ? tn_cos(tn_swap_axes(tn_swap_axes(tn_sin(a), 0, 1), 0, 1))
                               : tn_stop_gradient(a);
    case 13: return tn_cast(tn_cast(tn_greater(a, like(a, 2)), TN_U8), TN_F32);
    default: return tn_cast(tn_cast(tn_affine(a, 1, 0), TN_F64), TN_F32);
    }
}

static void build_random(random_graph *r, uint64_t seed, tn_state *state)
{
    static const tn_shape sizes[] = {{.rank = 3, .dim = {4, 6, 10}},
                                     {.rank = 2, .dim = {6, 10}},
                                     {.rank = 1, .dim = {10}},
                                     {.rank = 3, .dim = {4, 1, 10}},
                                     {.rank = 0}};
    *r = (random_graph){.seed = seed, .graph = tn_graph_create(state)};
    for (int i = 0; i < 5; i++) {
        char name[16];
        snprintf(name, sizeof name, "x%d", i);
        r->node[r->count++] = input(r->graph, name, sizes[i]);
    }
    for (int i = 0; i < 4; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i);
        r->node[r->count++] = tn_state_node(r->graph, name, TN_F32, sizes[i / 2],
                                            (tn_init){TN_INIT_UNIFORM, -1, 1});
    }
    while (r->count < POOL) {
        r->node[r->count] = random_node(r);
        if (tn_graph_status(r->graph) != TN_OK) fail_msg("seed %d: %s", (int)seed, tn_message());
        r->count++;
    }
}

/* New values for the four states, each from a random node of its shape (or itself). */
static tn_node random_updates(random_graph *r)
{
    tn_node token[4];
    for (int i = 0; i < 4; i++) {
        tn_node state = r->node[5 + i], value = TN_NONE;
        for (int k = 0; k < 40 && tn_is_none(value); k++) {
            tn_node candidate = r->node[pick(r, r->count)];
            if (tn_shape_equal(tn_shape_of(candidate), tn_shape_of(state)) &&
                candidate.id != state.id)
                value = candidate;
        }
        token[i] = tn_assign(state, tn_is_none(value)
                                        ? tn_sin(state)
                                        : tn_affine(tn_add(tn_sin(value), state), 0.5, 0));
    }
    return tn_group(r->graph, token, 4);
}

static void run_random(random_graph *r, tn_state *state, const tn_node *fetch, tn_node updates,
                       tn_compile_options o, double **out)
{
    o.graph = r->graph;
    o.feeds = (tn_node_list){r->node, 5};
    o.fetches = (tn_node_list){fetch, FETCHES};
    o.updates = updates;
    tn_plan *plan;
    if (tn_compile_with(&plan, &o) != TN_OK) fail_msg("seed %d: %s", (int)r->seed, tn_message());
    const void *feed[5];
    float values[5][240];
    void *results[FETCHES];
    for (int i = 0; i < 5; i++) {
        for (int k = 0; k < 240; k++)
            values[i][k] = 2 * (float)tn_random_uniform(r->seed, 50 + (uint64_t)i, (uint64_t)k) - 1;
        feed[i] = values[i];
    }
    for (int i = 0; i < FETCHES; i++)
        results[i] = calloc((size_t)tn_shape_size(tn_shape_of(fetch[i])) + 1, sizeof(float));
    for (int run = 0; run < 2; run++)
        if (tn_run(plan, feed, results) != TN_OK)
            fail_msg("seed %d: %s", (int)r->seed, tn_message());
    tn_plan_free(plan);
    for (int i = 0; i < FETCHES; i++) {
        out[i] = check_doubles(TN_F32, results[i], tn_shape_size(tn_shape_of(fetch[i])));
        free(results[i]);
    }
    for (int i = 0; i < 4; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i);
        const tn_state_entry *entry = tn_state_find(state, name);
        out[FETCHES + i] = check_doubles(TN_F32, entry->data, tn_shape_size(entry->shape));
    }
}

static void test_random_graphs(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 120; seed++) {
        double *out[3][FETCHES + 4];
        int64_t size[FETCHES + 4] = {0};
        for (int way = 0; way < 3; way++) {
            tn_state *state = tn_state_create(seed);
            random_graph r;
            build_random(&r, seed, state);
            tn_node fetch[FETCHES];
            for (int i = 0; i < FETCHES; i++) fetch[i] = r.node[r.count - 1 - pick(&r, POOL - 10)];
            tn_node updates = random_updates(&r);
            if (tn_graph_status(r.graph) != TN_OK) fail_msg("seed %d: %s", (int)seed, tn_message());
            tn_compile_options o = {.backend = way == 2 ? TN_REF : TN_CPU, .no_fusion = way == 1};
            run_random(&r, state, fetch, updates, o, out[way]);
            for (int i = 0; i < FETCHES; i++) size[i] = tn_shape_size(tn_shape_of(fetch[i]));
            for (int i = 0; i < 4; i++)
                size[FETCHES + i] = tn_shape_size(tn_shape_of(r.node[5 + i]));
            tn_graph_free(r.graph);
            tn_state_free(state);
        }
        char name[32];
        snprintf(name, sizeof name, "seed %d", (int)seed);
        check_case c = {.name = name};
        for (int i = 0; i < FETCHES + 4; i++) {
            check_close(&c, "unfused against reference", i, out[1][i], out[2][i], size[i], 1e-4);
            check_close(&c, "fused against reference", i, out[0][i], out[2][i], size[i], 1e-4);
            for (int way = 0; way < 3; way++) free(out[way][i]);
        }
    }
}

/* ---- reductions inside of programs, over sizes where work is cut, with one thread and two  */

static int build_program(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const tn_axes *axes = option;
    tn_node d = tn_multiply(tn_sigmoid(tn_add(in[0], in[1])), in[2]);
    out[0] = d;
    out[1] = tn_sum(d, *axes);
    out[2] = tn_mean(tn_square(d), *axes);
    out[3] = tn_max(tn_where(tn_less(in[0], like(in[0], 0)), d, tn_neg(d)), *axes);
    return 4;
}

static void test_programs_with_reductions(void **unused)
{
    (void)unused;
    static const struct {
        tn_shape shape, bias;
        tn_axes axes;
    } cases[] = {
        {{.rank = 2, .dim = {700, 96}}, {.rank = 1, .dim = {96}}, {.count = 1, .axis = {0}}},
        {{.rank = 2, .dim = {96, 700}}, {.rank = 1, .dim = {700}}, {.count = 1, .axis = {1}}},
        {{.rank = 2, .dim = {60, 2100}}, {.rank = 2, .dim = {60, 1}}, {.count = 1, .axis = {0}}},
        {{.rank = 4, .dim = {4, 16, 30, 30}},
         {.rank = 3, .dim = {16, 1, 1}},
         {.count = 3, .axis = {0, 2, 3}}},
        {{.rank = 3, .dim = {30, 40, 50}}, {.rank = 3, .dim = {1, 40, 1}}, {.count = 0}},
        {{.rank = 3, .dim = {30, 40, 50}},
         {.rank = 3, .dim = {30, 1, 50}},
         {.count = 1, .axis = {1}, .keep = true}},
        {{.rank = 2, .dim = {33, 33}}, {.rank = 1, .dim = {33}}, {.count = 1, .axis = {1}}},
    };
    for (size_t s = 0; s < sizeof cases / sizeof *cases; s++) {
        check_case c = {.name = "program",
                        .in_count = 3,
                        .build = build_program,
                        .option = &cases[s].axes,
                        .no_first_order = true};
        c.in[0] = (check_input){.shape = cases[s].shape};
        c.in[1] = (check_input){.shape = cases[s].bias};
        c.in[2] = (check_input){.shape = cases[s].shape};
        check_backend(&c, TN_F32, 20 + s, 2e-6);
        c.in[0].shape.dim[0] = c.in[2].shape.dim[0] =
            cases[s].shape.dim[0]; /* the gradient's programs too, on the smaller ones */
        if (s == 6) {
            c.no_first_order = false;
            c.second_order = true;
            check_backend(&c, TN_F32, 20 + s, 2e-5);
        }
    }
}

/* A result of a reduction that looks like a broadcast operand must not be written over it before
 * all have read it. */
static void test_results_do_not_overwrite_operands(void **unused)
{
    (void)unused;
    enum { N = 1040 }; /* more than a tile: the vector is read again for every row */
    tn_graph *g = tn_graph_create(NULL);
    tn_node x = input(g, "x", TN_SHAPE(N, N)), w = input(g, "w", TN_SHAPE(N));
    tn_node v = tn_cumsum(w, 0, false, false); /* lies in scratch, and dies */
    tn_node out = tn_cumsum(tn_sum(tn_add(tn_multiply(x, v), v), TN_AXES(1)), 0, false, false);
    static float in[N * N], vector[N], got[N];
    for (int i = 0; i < N * N; i++) in[i] = (float)(i % 7);
    for (int i = 0; i < N; i++) vector[i] = 1;
    tn_plan *plan;
    assert_int_equal(
        tn_compile(&plan, .graph = g, .feeds = TN_NODES(x, w), .fetches = TN_NODES(out)), TN_OK);
    assert_int_equal(tn_run(plan, (const void *[]){in, vector}, (void *[]){got}), TN_OK);
    double sum = 0;
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < N; k++) sum += (double)(in[i * N + k] + 1) * (k + 1);
        if (!(fabs((double)got[i] - sum) <= 1e-6 * sum))
            fail_msg("row %d: %g, expected %g", i, (double)got[i], sum);
    }
    tn_plan_free(plan);
    tn_graph_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chain),
        cmocka_unit_test(test_diamond_is_computed_once),
        cmocka_unit_test(test_siblings),
        cmocka_unit_test(test_reduction_behind_a_chain),
        cmocka_unit_test(test_optimiser_step),
        cmocka_unit_test(test_widening_casts_are_not_stored),
        cmocka_unit_test(test_identities_are_seen_through),
        cmocka_unit_test(test_no_cycles),
        cmocka_unit_test(test_different_shapes),
        cmocka_unit_test(test_nothing_large_is_computed_early),
        cmocka_unit_test(test_many_results_are_cut),
        cmocka_unit_test(test_many_operands),
        cmocka_unit_test(test_cost_is_linear),
        cmocka_unit_test(test_random_graphs),
        cmocka_unit_test(test_programs_with_reductions),
        cmocka_unit_test(test_results_do_not_overwrite_operands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
