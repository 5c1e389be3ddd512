/* Optimisers: against PyTorch's trajectories (golden/optimizers.py), against scalar formulas
 * written here once more, and what groups, lazy rows, accumulation and averages promise. Everything
 * on both backends. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "near.h"

#include "tenon/nn.h"
#include "tenon/ops.h"
#include "tenon/optimizer.h"
#include "tenon/plan.h"
#include "tenon/state.h"

static const tn_backend backends[] = {TN_REF, TN_CPU};
enum { BACKENDS = 2, SIZE = 6, STEPS = 20 };

/* p [2, 3] with gradient c + 0.1 p, where c is fed: the golden script's problem. */
typedef struct problem {
    tn_state *state;
    tn_graph *graph;
    tn_node p, c, loss;
    tn_plan *plan;
} problem;

static void fill_p(float *p)
{
    for (int i = 0; i < SIZE; i++) p[i] = (float)(0.5 - 0.2 * i);
}

static void fill_c(int step, float *c)
{
    for (int i = 0; i < SIZE; i++) c[i] = (float)sin(1.3 * step + 0.7 * i);
}

static void begin(problem *q)
{
    q->state = tn_state_create(1);
    q->graph = tn_graph_create(q->state);
    float first[SIZE];
    fill_p(first);
    assert_int_equal(tn_state_put(q->state, "p", TN_F32, TN_SHAPE(2, 3), first), TN_OK);
    q->p = tn_parameter(tn_root(q->graph), "p", TN_SHAPE(2, 3), tn_init_constant(0));
    q->c = tn_input(q->graph, "c", TN_F32, TN_SHAPE(2, 3));
    q->loss = tn_add(tn_sum(tn_multiply(q->p, q->c), TN_ALL_AXES),
                     tn_affine(tn_sum(tn_square(q->p), TN_ALL_AXES), 0.05, 0));
    q->plan = NULL;
}

static void end(problem *q)
{
    tn_plan_free(q->plan);
    tn_graph_free(q->graph);
    tn_state_free(q->state);
}

static tn_plan *compile(tn_compile_options o)
{
    tn_plan *plan;
    if (tn_compile_with(&plan, &o) != TN_OK) fail_msg("compiling failed: %s", tn_message());
    return plan;
}

static void run(tn_plan *plan, const void *const *feeds, void *const *fetches)
{
    if (tn_run(plan, feeds, fetches) != TN_OK) fail_msg("running failed: %s", tn_message());
}

static float *values(tn_state *state, const char *name)
{
    tn_state_entry *entry = tn_state_find(state, name);
    if (!entry) fail_msg("there is no state '%s'", name);
    return entry->data;
}

static int64_t counter(tn_state *state, const char *name)
{
    return *(int64_t *)(void *)values(state, name);
}

static void close_to(const char *what, int step, int i, double got, double expected,
                     double tolerance)
{
    if (!(fabs(got - expected) <= tolerance * fmax(1, fabs(expected))))
        fail_msg("%s, step %d, element %d: %.9g instead of %.9g", what, step, i, got, expected);
}

/* ---- PyTorch's trajectories ------------------------------------------------------------------ */

static const struct {
    const char *name;
    tn_optimizer o;
} golden[] = {
    {"sgd", {.rule = TN_SGD, .learning_rate = 0.1}},
    {"sgd-momentum", {.rule = TN_SGD, .learning_rate = 0.1, .momentum = 0.9}},
    {"sgd-nesterov-decay",
     {.rule = TN_SGD,
      .learning_rate = 0.1,
      .momentum = 0.9,
      .nesterov = true,
      .weight_decay = 0.05}},
    {"adam", {.rule = TN_ADAM, .learning_rate = 0.05}},
    {"adam-betas-decay",
     {.rule = TN_ADAM,
      .learning_rate = 0.05,
      .beta1 = 0.8,
      .beta2 = 0.95,
      .epsilon = 1e-3,
      .weight_decay = 0.1}},
    {"adamw", {.rule = TN_ADAMW, .learning_rate = 0.05, .weight_decay = 0.1}},
    {"sign-adam", {.rule = TN_SIGN_ADAM, .learning_rate = 0.05}},
    {"clip", {.rule = TN_SGD, .learning_rate = 0.1, .momentum = 0.5, .clip_norm = 0.7}},
    {"cosine-warmup",
     {.rule = TN_SGD,
      .learning_rate = 0.1,
      .schedule = {TN_COSINE, .warmup = 4, .steps = STEPS, .end = 0.1}}},
    {"steps",
     {.rule = TN_SGD, .learning_rate = 0.1, .schedule = {TN_STEPS, .every = 6, .decay = 0.3}}},
    {"milestones",
     {.rule = TN_SGD,
      .learning_rate = 0.1,
      .schedule = {TN_STEPS, .milestone = {3, 7, 12}, .decay = 0.5}}},
    {"polynomial",
     {.rule = TN_SGD,
      .learning_rate = 0.1,
      .schedule = {TN_POLYNOMIAL, .steps = STEPS, .power = 2}}},
    {"one-cycle",
     {.rule = TN_SGD,
      .learning_rate = 0.1,
      .momentum = 0.95,
      .nesterov = true,
      .schedule = {TN_ONE_CYCLE, .warmup = 5, .steps = STEPS, .start = 0.04, .end = 4e-6,
                   .momentum_low = 0.85}}},
    {"average-exponential", {.rule = TN_SGD, .learning_rate = 0.1, .average = {.decay = 0.9}}},
    {"average-equal",
     {.rule = TN_SGD, .learning_rate = 0.1, .average = {.equal = true, .from = 5}}},
};
enum { GOLDEN = sizeof golden / sizeof *golden };

/* Checks one state of the run against the file's lines for this case and step; returns how many
 * there were. */
static int check_lines(const char *name, int step, double rate, const float *p)
{
    FILE *file = fopen(TN_SOURCE_DIR "/tests/golden/optimizers.tsv", "r");
    if (!file) fail_msg("tests/golden/optimizers.tsv cannot be opened");
    char line[1024], wanted[128];
    int found = 0, length = snprintf(wanted, sizeof wanted, "%s\t%d\t", name, step);
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, wanted, (size_t)length) != 0) continue;
        char *at = line + length;
        close_to(name, step, -1, rate, strtod(at, &at), 1e-6);
        for (int i = 0; i < SIZE; i++) close_to(name, step, i, p[i], strtod(at, &at), 3e-6);
        found++;
    }
    fclose(file);
    return found;
}

static void test_against_pytorch(void **unused)
{
    (void)unused;
    for (int b = 0; b < BACKENDS; b++)
        for (int k = 0; k < GOLDEN; k++) {
            problem q;
            begin(&q);
            tn_training_step step = tn_minimise_step(q.loss, &golden[k].o);
            q.plan = compile((tn_compile_options){.graph = q.graph,
                                                  .feeds = TN_NODES(q.c),
                                                  .fetches = TN_NODES(step.learning_rate),
                                                  .updates = step.updates,
                                                  .backend = backends[b]});
            bool averaged = golden[k].o.average.decay > 0 || golden[k].o.average.equal;
            int checked = 0;
            for (int s = 0; s < STEPS; s++) {
                float c[SIZE], rate;
                fill_c(s, c);
                run(q.plan, (const void *[]){c}, (void *[]){&rate});
                checked += check_lines(golden[k].name, s + 1, rate,
                                       values(q.state, averaged ? "average/p" : "p"));
            }
            assert_int_equal(checked, 6);
            assert_int_equal(counter(q.state, "optimizer/step"), STEPS);
            end(&q);
        }
}

/* ---- the formulas once more ------------------------------------------------------------------ */

typedef struct scalar {
    double p, m, v;
} scalar;

/* One step of Adam's family for one number; t counts from 1. */
static void adam_like(scalar *x, double g, double rate, int t, tn_rule rule, double b1, double b2,
                      double epsilon, bool correct)
{
    if (rule == TN_SIGN_ADAM) g = (g > 0) - (g < 0);
    x->m = b1 * x->m + (1 - b1) * g;
    if (rule == TN_YOGI) {
        double sign = (x->v > g * g) - (x->v < g * g);
        x->v -= (1 - b2) * sign * g * g;
    } else {
        x->v = b2 * x->v + (1 - b2) * g * g;
    }
    double m = correct ? x->m / (1 - pow(b1, t)) : x->m,
           v = correct ? x->v / (1 - pow(b2, t)) : x->v;
    x->p -= rate * m / (sqrt(v) + epsilon);
}

static void test_yogi_and_schedules(void **unused)
{
    (void)unused;
    for (int b = 0; b < BACKENDS; b++)
        for (int variant = 0; variant < 4; variant++) {
            tn_optimizer o = tn_yogi(.learning_rate = 0.03);
            if (variant == 1) o.no_bias_correction = true;
            if (variant == 2) o.schedule = (tn_schedule){TN_INVERSE_ROOT, .warmup = 5};
            if (variant == 3)
                o.schedule = (tn_schedule){TN_POLYNOMIAL, .warmup = 3, .steps = 12, .end = 0.2},
                o.beta1 = 0.5, o.beta2 = 0.9;
            problem q;
            begin(&q);
            q.plan = compile((tn_compile_options){.graph = q.graph,
                                                  .feeds = TN_NODES(q.c),
                                                  .updates = tn_minimise(q.loss, &o),
                                                  .backend = backends[b]});
            scalar x[SIZE];
            float first[SIZE];
            fill_p(first);
            for (int i = 0; i < SIZE; i++) x[i] = (scalar){first[i], 0, 1e-6};
            for (int s = 0; s < STEPS; s++) {
                float c[SIZE];
                fill_c(s, c);
                run(q.plan, (const void *[]){c}, NULL);
                double factor = 1;
                if (variant == 2) factor = s < 5 ? (s + 1) / 5.0 : sqrt(5.0 / (s + 1));
                if (variant == 3)
                    factor = s < 3 ? (s + 1) / 3.0 : s < 12 ? 0.2 + 0.8 * (1 - (s - 3) / 9.0) : 0.2;
                double b1 = variant == 3 ? 0.5 : 0.9, b2 = variant == 3 ? 0.9 : 0.999;
                for (int i = 0; i < SIZE; i++) {
                    adam_like(&x[i], c[i] + 0.1 * x[i].p, 0.03 * factor, s + 1, TN_YOGI, b1, b2,
                              1e-3, variant != 1);
                    close_to("yogi", s + 1, i, values(q.state, "p")[i], x[i].p, 1e-5);
                    close_to("yogi's v", s + 1, i, values(q.state, "optimizer/p.v")[i], x[i].v,
                             1e-5);
                }
            }
            end(&q);
        }
}

/* ---- groups ---------------------------------------------------------------------------------- */

/* Two layers: the first frozen, the second's bias slower; decay on matrices alone. */
static void test_groups(void **unused)
{
    (void)unused;
    for (int b = 0; b < BACKENDS; b++) {
        tn_state *state = tn_state_create(3);
        tn_graph *graph = tn_graph_create(state);
        tn_node x = tn_input(graph, "x", TN_F32, TN_SHAPE(4, 3));
        tn_scope root = tn_root(graph);
        tn_node y = tn_linear(tn_in(root, "base"), x, 5, .bias = true);
        y = tn_linear(tn_in(root, "head"), tn_tanh(y), 2, .bias = true);
        tn_node loss = tn_mean(tn_square(y), TN_ALL_AXES);
        tn_optimizer o = tn_adamw(.learning_rate = 0.01, .weight_decay = 0.5,
                                  TN_GROUPS({.pattern = "base.*", .frozen = true},
                                            {.pattern = "*.bias", .rate_factor = 0.1}));
        tn_node trainable[8];
        assert_int_equal(tn_trainable(loss, &o, trainable, 8), 2);
        tn_node d[2];
        tn_node update = tn_minimise(loss, &o);
        tn_gradients(loss, trainable, 2, d);
        tn_plan *plan = compile((tn_compile_options){.graph = graph,
                                                     .feeds = TN_NODES(x),
                                                     .fetches = TN_NODES(d[0], d[1]),
                                                     .updates = update,
                                                     .backend = backends[b]});
        float base[15], weight[10], bias[2], dw[10], db[2], in[12];
        memcpy(base, values(state, "base.weight"), sizeof base);
        memcpy(weight, values(state, "head.weight"), sizeof weight);
        memcpy(bias, values(state, "head.bias"), sizeof bias);
        for (int i = 0; i < 12; i++) in[i] = (float)sin(i);
        run(plan, (const void *[]){in}, (void *[]){dw, db});
        for (int i = 0; i < 10; i++) { /* the first Adam step is rate * g/(|g| + epsilon) */
            double expected = weight[i] * (1 - 0.01 * 0.5) - 0.01 * dw[i] / (fabs(dw[i]) + 1e-8);
            close_to("head.weight", 1, i, values(state, "head.weight")[i], expected, 1e-6);
        }
        for (int i = 0; i < 2; i++)
            close_to("head.bias", 1, i, values(state, "head.bias")[i],
                     bias[i] - 0.001 * db[i] / (fabs(db[i]) + 1e-8), 1e-6);
        assert_memory_equal(base, values(state, "base.weight"), sizeof base);
        assert_null(tn_state_find(state, "optimizer/base.weight.m"));
        assert_non_null(tn_state_find(state, "optimizer/head.weight.m"));
        tn_plan_free(plan);
        tn_graph_free(graph);
        tn_state_free(state);
    }
}

static void test_only_what_a_gradient_reaches(void **unused)
{
    (void)unused;
    tn_state *state = tn_state_create(3);
    tn_graph *graph = tn_graph_create(state);
    tn_scope root = tn_root(graph);
    tn_node a = tn_parameter(root, "a", TN_SHAPE(3), tn_init_constant(1)),
            b = tn_parameter(root, "b", TN_SHAPE(3), tn_init_constant(1));
    tn_parameter(root, "unused", TN_SHAPE(3), tn_init_constant(1));
    tn_node loss = tn_sum(tn_multiply(a, tn_stop_gradient(tn_exp(b))), TN_ALL_AXES), found[3];
    tn_optimizer o = tn_sgd(.learning_rate = 1, .weight_decay = 0.1);
    assert_int_equal(tn_trainable(loss, &o, found, 3), 1);
    assert_int_equal(found[0].id, a.id);
    tn_plan *plan = compile(
        (tn_compile_options){.graph = graph, .updates = tn_minimise(loss, &o), .backend = TN_REF});
    run(plan, NULL, NULL);
    assert_near(values(state, "a")[0], (float)(1 - (exp(1) + 0.1)), 1e-6);
    assert_near(values(state, "b")[0], 1, 0);
    assert_null(tn_state_find(state, "unused"));
    tn_plan_free(plan);
    tn_graph_free(graph);
    tn_state_free(state);
}

/* ---- lazy rows ------------------------------------------------------------------------------- */

static void test_lazy_rows(void **unused)
{
    (void)unused;
    enum { ROWS = 5, WIDTH = 3 };
    static const int32_t looked_up[4][2] = {{0, 2}, {2, 2}, {0, 4}, {2, 0}};
    for (int b = 0; b < BACKENDS; b++)
        for (int rule = 0; rule < 2; rule++) {
            tn_state *state = tn_state_create(5);
            tn_graph *graph = tn_graph_create(state);
            tn_node ids = tn_input(graph, "ids", TN_I32, TN_SHAPE(2));
            tn_node y = tn_embedding(tn_in(tn_root(graph), "table"), ids, ROWS, WIDTH);
            tn_node loss = tn_sum(tn_affine(tn_square(y), 0.5, 0),
                                  TN_ALL_AXES); /* gradient: the row, once for each look-up */
            tn_optimizer o = rule ? tn_adam(.learning_rate = 0.1, .weight_decay = 0.2,
                                            TN_GROUPS({.pattern = "table.*", .lazy_rows = true}))
                                  : tn_sgd(.learning_rate = 0.1, .momentum = 0.9,
                                           TN_GROUPS({.pattern = "table.*", .lazy_rows = true}));
            tn_plan *plan = compile((tn_compile_options){.graph = graph,
                                                         .feeds = TN_NODES(ids),
                                                         .updates = tn_minimise(loss, &o),
                                                         .backend = backends[b]});
            float *table = values(state, "table.weight"), before[ROWS * WIDTH];
            scalar x[ROWS * WIDTH];
            int steps[ROWS] = {0};
            for (int i = 0; i < ROWS * WIDTH; i++) x[i] = (scalar){table[i], 0, 0};
            for (int s = 0; s < 4; s++) {
                memcpy(before, table, sizeof before);
                run(plan, (const void *[]){looked_up[s]}, NULL);
                for (int r = 0; r < ROWS; r++) {
                    int times = (looked_up[s][0] == r) + (looked_up[s][1] == r);
                    if (times == 0) {
                        assert_memory_equal(before + r * WIDTH, table + r * WIDTH,
                                            WIDTH * sizeof *table);
                        continue;
                    }
                    steps[r]++;
                    for (int i = r * WIDTH; i < (r + 1) * WIDTH; i++) {
                        double g = times * x[i].p;
                        if (rule) {
                            adam_like(&x[i], g + 0.2 * x[i].p, 0.1, steps[r], TN_ADAM, 0.9, 0.999,
                                      1e-8, true);
                        } else {
                            x[i].m = 0.9 * x[i].m + g;
                            x[i].p -= 0.1 * x[i].m;
                        }
                        close_to("table", s + 1, i, table[i], x[i].p, 2e-6);
                    }
                }
            }
            if (rule)
                for (int r = 0; r < ROWS; r++)
                    assert_int_equal(
                        ((int64_t *)tn_state_find(state, "optimizer/table.weight.step")->data)[r],
                        steps[r]);
            tn_plan_free(plan);
            tn_graph_free(graph);
            tn_state_free(state);
        }
}

/* ---- accumulation, norms, averages ----------------------------------------------------------- */

static void test_accumulation(void **unused)
{
    (void)unused;
    for (int b = 0; b < BACKENDS; b++) {
        problem q, whole;
        tn_optimizer o = tn_adam(.learning_rate = 0.05, .clip_norm = 1);
        begin(&q);
        begin(&whole);
        tn_plan *add = compile((tn_compile_options){.graph = q.graph,
                                                    .feeds = TN_NODES(q.c),
                                                    .fetches = TN_NODES(q.loss),
                                                    .updates = tn_accumulate(q.loss, &o),
                                                    .backend = backends[b]});
        tn_training_step step = tn_apply_accumulated(q.loss, &o);
        q.plan = compile((tn_compile_options){.graph = q.graph,
                                              .fetches = TN_NODES(step.gradient_norm),
                                              .updates = step.updates,
                                              .backend = backends[b]});
        tn_training_step direct = tn_minimise_step(whole.loss, &o);
        whole.plan = compile((tn_compile_options){.graph = whole.graph,
                                                  .feeds = TN_NODES(whole.c),
                                                  .fetches = TN_NODES(direct.gradient_norm),
                                                  .updates = direct.updates,
                                                  .backend = backends[b]});
        for (int s = 0; s < 5; s++) {
            float part[2][SIZE], mean[SIZE], loss, norm, expected;
            fill_c(2 * s, part[0]);
            fill_c(2 * s + 1, part[1]);
            for (int i = 0; i < SIZE; i++) mean[i] = (part[0][i] + part[1][i]) / 2;
            for (int k = 0; k < 2; k++) run(add, (const void *[]){part[k]}, (void *[]){&loss});
            assert_int_equal(counter(q.state, "optimizer/parts"), 2);
            run(q.plan, NULL, (void *[]){&norm});
            run(whole.plan, (const void *[]){mean}, (void *[]){&expected});
            close_to("norm", s, 0, norm, expected, 1e-5);
            for (int i = 0; i < SIZE; i++)
                close_to("p", s, i, values(q.state, "p")[i], values(whole.state, "p")[i], 3e-6);
            assert_int_equal(counter(q.state, "optimizer/parts"), 0);
            assert_near(values(q.state, "optimizer/p.gradient")[0], 0, 0);
        }
        tn_plan_free(add);
        end(&q);
        end(&whole);
    }
}

/* The whole update of a tensor is one pass over it and its moments, in place, beside one step for
 * all scalars. */
static void test_one_pass_a_tensor(void **unused)
{
    (void)unused;
    tn_state *state = tn_state_create(1);
    tn_graph *graph = tn_graph_create(state);
    tn_node p[2], g[2];
    for (int i = 0; i < 2; i++) {
        p[i] = tn_parameter(tn_root(graph), i ? "b" : "a", TN_SHAPE(300, 100 + i),
                            tn_init_constant(1));
        g[i] = tn_input(graph, i ? "gb" : "ga", TN_F32, TN_SHAPE(300, 100 + i));
    }
    tn_optimizer o = tn_adamw(.learning_rate = 1, .weight_decay = 0.1,
                              .schedule = {TN_COSINE, .warmup = 5, .steps = 50});
    tn_plan *plan = compile((tn_compile_options){
        .graph = graph, .feeds = {g, 2}, .updates = tn_descend(p, g, 2, &o).updates});
    assert_in_range(tn_plan_step_count(plan), 1, 3);
    assert_in_range(tn_plan_bytes(plan), 0, 4096);
    tn_plan_free(plan);
    tn_graph_free(graph);
    tn_state_free(state);
}

static void test_norm_over_all(void **unused)
{
    (void)unused;
    tn_state *state = tn_state_create(1);
    tn_graph *graph = tn_graph_create(state);
    tn_node a = tn_parameter(tn_root(graph), "a", TN_SHAPE(2), tn_init_constant(0)),
            b = tn_parameter(tn_root(graph), "b", TN_SCALAR, tn_init_constant(0));
    tn_node loss = tn_add(tn_affine(tn_sum(a, TN_ALL_AXES), 2, 0),
                          tn_affine(b, -1, 0)); /* gradients (2, 2) and -1: norm 3 */
    tn_training_step step = tn_minimise_step(loss, &tn_sgd(.learning_rate = 1, .clip_norm = 0.3));
    tn_plan *plan = compile((tn_compile_options){
        .graph = graph, .fetches = TN_NODES(step.gradient_norm), .updates = step.updates});
    float norm;
    run(plan, NULL, (void *[]){&norm});
    assert_near(norm, 3, 1e-6);
    assert_near(values(state, "a")[1], -0.2, 1e-6);
    assert_near(values(state, "b")[0], 0.1, 1e-6);
    tn_plan_free(plan);
    tn_graph_free(graph);
    tn_state_free(state);
}

static void test_average_swap(void **unused)
{
    (void)unused;
    problem q;
    begin(&q);
    tn_node update = tn_minimise(q.loss, &tn_sgd(.learning_rate = 0.1, .average = {.decay = 0.5}));
    q.plan = compile(
        (tn_compile_options){.graph = q.graph, .feeds = TN_NODES(q.c), .updates = update});
    tn_plan *look = compile(
        (tn_compile_options){.graph = q.graph, .feeds = TN_NODES(q.c), .fetches = TN_NODES(q.p)});
    float c[SIZE], seen[SIZE], p[SIZE], average[SIZE];
    for (int s = 0; s < 3; s++) {
        fill_c(s, c);
        run(q.plan, (const void *[]){c}, NULL);
    }
    memcpy(p, values(q.state, "p"), sizeof p);
    memcpy(average, values(q.state, "average/p"), sizeof average);
    assert_memory_not_equal(p, average, sizeof p);
    assert_int_equal(tn_average_swap(q.state), 1);
    run(look, (const void *[]){c}, (void *[]){seen}); /* plans that exist see the exchange */
    assert_memory_equal(seen, average, sizeof seen);
    assert_int_equal(tn_average_swap(q.state), 1);
    run(look, (const void *[]){c}, (void *[]){seen});
    assert_memory_equal(seen, p, sizeof seen);
    tn_plan_free(look);
    end(&q);
}

/* An optimiser on a plain state node, with a gradient of the caller's own. */
static void test_descend(void **unused)
{
    (void)unused;
    tn_state *state = tn_state_create(1);
    tn_graph *graph = tn_graph_create(state);
    tn_node delta = tn_state_node(graph, "delta", TN_F32, TN_SHAPE(2), tn_init_constant(1)),
            g = tn_input(graph, "g", TN_F32, TN_SHAPE(2));
    tn_training_step step = tn_descend(&delta, &g, 1,
                                       &tn_sgd(.learning_rate = 0.5, .name = "craft"));
    tn_plan *plan = compile(
        (tn_compile_options){.graph = graph, .feeds = TN_NODES(g), .updates = step.updates});
    run(plan, (const void *[]){(float[]){1, -2}}, NULL);
    assert_near(values(state, "delta")[0], 0.5, 0);
    assert_near(values(state, "delta")[1], 2, 0);
    assert_int_equal(counter(state, "craft/step"), 1);
    tn_plan_free(plan);
    tn_graph_free(graph);
    tn_state_free(state);
}

/* ---- messages -------------------------------------------------------------------------------- */

static void refused(tn_optimizer o, const char *part)
{
    problem q;
    begin(&q);
    tn_minimise(q.loss, &o);
    if (tn_graph_status(q.graph) == TN_OK) fail_msg("was accepted, but '%s' was expected", part);
    if (!strstr(tn_message(), part))
        fail_msg("message '%s' does not hold '%s'", tn_message(), part);
    if (!strstr(tn_message(), "test_optimizer.c:"))
        fail_msg("message '%s' does not name the place", tn_message());
    end(&q);
}

static void test_messages(void **unused)
{
    (void)unused;
    refused(tn_sgd(0), "learning_rate is 0");
    refused(tn_sgd(.learning_rate = -1), "learning_rate is -1");
    refused(tn_sgd(.learning_rate = NAN), "learning_rate is nan");
    refused(tn_sgd(.learning_rate = 1, .nesterov = true), "nesterov goes with SGD and a .momentum");
    refused(tn_adam(.learning_rate = 1, .momentum = 0.9), "here it is .beta1");
    refused(tn_sgd(.learning_rate = 1, .momentum = 1), ".momentum is 1");
    refused(tn_adam(.learning_rate = 1, .beta2 = 1.5), ".beta2 is 1.5");
    refused(tn_adam(.learning_rate = 1, .weight_decay = -0.1), ".weight_decay is -0.1");
    refused((tn_optimizer){.rule = (tn_rule)99, .learning_rate = 1}, "no rule number 99");
    refused(tn_sgd(.learning_rate = 1, .schedule = {TN_COSINE, .warmup = 10, .steps = 10}),
            ".steps");
    refused(tn_sgd(.learning_rate = 1, .schedule = {.kind = TN_STEPS}),
            "either .every, steps between decays, or .milestone");
    refused(tn_sgd(.learning_rate = 1, .schedule = {.kind = TN_INVERSE_ROOT}), "needs a .warmup");
    refused(tn_adam(.learning_rate = 1,
                    .schedule = {TN_ONE_CYCLE, .warmup = 3, .steps = 9, .momentum_low = 0.8}),
            ".momentum_low");
    refused(tn_sgd(.learning_rate = 1, TN_GROUPS({.pattern = "layer.*"})),
            "the group 'layer.*' fits none of the 1 parameters; the first is called 'p'");
    refused(tn_sgd(.learning_rate = 1, TN_GROUPS({.pattern = "*", .frozen = true})),
            "nothing to train");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_pytorch), cmocka_unit_test(test_yogi_and_schedules),
        cmocka_unit_test(test_groups),          cmocka_unit_test(test_only_what_a_gradient_reaches),
        cmocka_unit_test(test_lazy_rows),       cmocka_unit_test(test_accumulation),
        cmocka_unit_test(test_norm_over_all),   cmocka_unit_test(test_one_pass_a_tensor),
        cmocka_unit_test(test_average_swap),    cmocka_unit_test(test_descend),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
