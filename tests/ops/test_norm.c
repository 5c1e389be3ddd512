/* Softmax and norms: gradients to second order, the CPU kernels against the reference,
 * decompositions, edges, messages. */
#include "graph_check.h"

#define TN_NO_PLACES
#include "graph/norm.h"

static tn_node maybe(const tn_node *in, int index, bool present)
{
    return present ? in[index] : TN_NONE;
}

/* ---- builders -------------------------------------------------------------------------------- */

typedef struct norm_options {
    int axis, groups;
    bool scale, shift, logarithm;
    double epsilon;
} norm_options;

static int build_softmax(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const norm_options *o = option;
    out[0] = o->logarithm ? tn_log_softmax(in[0], o->axis) : tn_softmax(in[0], o->axis);
    return 1;
}

static int build_layer_norm(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const norm_options *o = option;
    out[0] = tn_layer_norm(in[0], maybe(in, 1, o->scale), maybe(in, 1 + o->scale, o->shift),
                           o->epsilon);
    return 1;
}

static int build_rms_norm(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const norm_options *o = option;
    out[0] = tn_rms_norm(in[0], maybe(in, 1, o->scale), o->epsilon);
    return 1;
}

static int build_group_norm(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const norm_options *o = option;
    out[0] = tn_group_norm(in[0], o->groups, maybe(in, 1, o->scale),
                           maybe(in, 1 + o->scale, o->shift), o->epsilon);
    return 1;
}

static int build_batch_norm(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    tn_batch_norm_result r = tn_batch_norm_train(in[0], in[1], in[2],
                                                 ((const norm_options *)option)->epsilon);
    out[0] = r.y;
    return 1;
}

/* The statistics are outputs, and differentiated. */
static int build_batch_norm_statistics(tn_graph *graph, const tn_node *in, tn_node *out,
                                       const void *option)
{
    (void)graph;
    tn_batch_norm_result r = tn_batch_norm_train(in[0], in[1], in[2],
                                                 ((const norm_options *)option)->epsilon);
    out[0] = r.y, out[1] = r.mean, out[2] = r.variance;
    return 3;
}

static int build_batch_norm_relu(tn_graph *graph, const tn_node *in, tn_node *out,
                                 const void *option)
{
    (void)graph;
    tn_node y = tn_batch_norm_train(in[0], in[1], in[2], ((const norm_options *)option)->epsilon).y;
    out[0] = tn_relu(y);
    return 1;
}

static int build_batch_norm_residual(tn_graph *graph, const tn_node *in, tn_node *out,
                                     const void *option)
{
    (void)graph;
    tn_node y = tn_batch_norm_train(in[0], in[1], in[2], ((const norm_options *)option)->epsilon).y;
    out[0] = tn_relu(tn_add(in[3], y));
    return 1;
}

static int build_batch_norm_apply(tn_graph *graph, const tn_node *in, tn_node *out,
                                  const void *option)
{
    (void)graph;
    out[0] = tn_batch_norm_apply(in[0], in[1], in[2], in[3], in[4],
                                 ((const norm_options *)option)->epsilon);
    return 1;
}

/* The same norm with x transposed on the way in, so that it lies channels-last. */
static int build_channels_last(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    tn_node moved[CHECK_MOST_INPUTS];
    memcpy(moved, in, 5 * sizeof *in);
    moved[0] = tn_transpose(in[0], TN_PERMUTE(0, 3, 1, 2));
    const norm_options *o = option;
    if (o->groups) return build_group_norm(graph, moved, out, option);
    if (o->axis) return build_softmax(graph, moved, out, option);
    return build_batch_norm_relu(graph, moved, out, option);
}

/* The kernels against the reference in f32 and bf16; differences would take long here. */
static void check_large(const check_case *c, uint64_t seed)
{
    check_backend(c, TN_F32, seed, c->tolerance > 0 ? c->tolerance : 2e-5);
    check_backend(c, TN_BF16, seed, 3e-2);
}

/* ---- softmax --------------------------------------------------------------------------------- */

static void test_softmax(void **state)
{
    (void)state;
    static const struct {
        tn_shape shape;
        int axis;
    } shapes[] = {
        {{2, {5, 7}}, 1},     {{2, {3, 64}}, -1},   {{1, {33}}, 0},         {{3, {2, 5, 3}}, 1},
        {{3, {4, 3, 70}}, 1}, {{3, {17, 2, 3}}, 0}, {{4, {2, 3, 4, 5}}, 1}, {{4, {2, 3, 4, 5}}, 2},
        {{2, {6, 1}}, 1},     {{2, {1, 6}}, 0},     {{2, {0, 4}}, 1},       {{2, {4, 0}}, 0},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int logarithm = 0; logarithm < 2; logarithm++) {
            norm_options o = {.axis = shapes[i].axis, .logarithm = logarithm};
            char name[64];
            snprintf(name, sizeof name, "%ssoftmax %zu", logarithm ? "log_" : "", i);
            check_case c = {.name = name,
                            .in = {{.shape = shapes[i].shape, .low = -4, .high = 4}},
                            .in_count = 1,
                            .build = build_softmax,
                            .option = &o,
                            .second_order = true,
                            .bf16 = true};
            check_run(&c, 10 + i);
        }
}

static void test_softmax_channels_last(void **state)
{
    (void)state;
    for (int axis = 1; axis < 4; axis++) {
        norm_options o = {.axis = axis};
        check_case c = {.name = "softmax channels-last",
                        .in = {{.shape = TN_SHAPE(2, 5, 6, 7), .low = -4, .high = 4}},
                        .in_count = 1,
                        .build = build_channels_last,
                        .option = &o,
                        .second_order = true,
                        .bf16 = true};
        check_run(&c, (uint64_t)axis);
    }
}

/* Long rows go through another path. */
static void test_softmax_long(void **state)
{
    (void)state;
    for (int logarithm = 0; logarithm < 2; logarithm++) {
        norm_options o = {.axis = 1, .logarithm = logarithm};
        check_case c = {.name = "softmax of long rows",
                        .in = {{.shape = TN_SHAPE(3, 7001), .low = -20, .high = 20}},
                        .in_count = 1,
                        .build = build_softmax,
                        .option = &o};
        check_large(&c, 3);
    }
}

/* ---- layer and RMS norm ---------------------------------------------------------------------- */

static void test_layer_norm(void **state)
{
    (void)state;
    static const tn_shape shapes[] = {{2, {5, 7}}, {2, {9, 64}}, {3, {2, 3, 33}}, {1, {20}},
                                      {2, {3, 1}}, {2, {0, 5}},  {2, {1, 40}}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int parameters = 0; parameters < 4; parameters++) {
            norm_options o = {.scale = parameters & 1, .shift = parameters & 2, .epsilon = 1e-3};
            tn_shape last = TN_SHAPE(shapes[i].dim[shapes[i].rank - 1]);
            char name[64];
            snprintf(name, sizeof name, "layer_norm %zu, parameters %d", i, parameters);
            check_case c = {.name = name,
                            .in = {{.shape = shapes[i], .low = -2, .high = 3},
                                   {.shape = last},
                                   {.shape = last}},
                            .in_count = 1 + o.scale + o.shift,
                            .build = build_layer_norm,
                            .option = &o,
                            .second_order = true,
                            .bf16 = true};
            check_run(&c, 20 + i);
        }
}

static void test_layer_norm_two_axes(void **state)
{
    (void)state;
    norm_options o = {.scale = true, .shift = true, .epsilon = 1e-5};
    check_case c = {.name = "layer_norm over two axes",
                    .in = {{.shape = TN_SHAPE(3, 4, 5)},
                           {.shape = TN_SHAPE(4, 5)},
                           {.shape = TN_SHAPE(4, 5), .stays_f32 = true}},
                    .in_count = 3,
                    .build = build_layer_norm,
                    .option = &o,
                    .second_order = true,
                    .bf16 = true};
    check_run(&c, 1);
}

static void test_layer_norm_large(void **state)
{
    (void)state;
    static const tn_shape shapes[] = {{2, {700, 96}}, {2, {7, 10000}}, {2, {2000, 24}}};
    norm_options o = {.scale = true, .shift = true, .epsilon = 1e-5};
    for (size_t i = 0; i < 3; i++) {
        tn_shape last = TN_SHAPE(shapes[i].dim[1]);
        check_case c = {
            .name = "large layer_norm",
            .in = {{.shape = shapes[i], .low = -2, .high = 3}, {.shape = last}, {.shape = last}},
            .in_count = 3,
            .build = build_layer_norm,
            .option = &o};
        check_large(&c, i);
    }
}

static void test_rms_norm(void **state)
{
    (void)state;
    static const tn_shape shapes[] = {{2, {5, 7}}, {2, {9, 64}}, {3, {2, 3, 33}},
                                      {1, {20}},   {2, {0, 5}},  {2, {600, 100}}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int scale = 0; scale < 2; scale++) {
            norm_options o = {.scale = scale, .epsilon = 1e-5};
            tn_shape last = TN_SHAPE(shapes[i].dim[shapes[i].rank - 1]);
            check_case c = {.name = "rms_norm",
                            .in = {{.shape = shapes[i], .low = -2, .high = 3},
                                   {.shape = last, .stays_f32 = true}},
                            .in_count = 1 + scale,
                            .build = build_rms_norm,
                            .option = &o,
                            .second_order = true,
                            .bf16 = true};
            check_run(&c, 30 + i);
        }
}

/* ---- batch norm ------------------------------------------------------------------------------ */

static check_case batch_case(const char *name, tn_shape shape, const norm_options *o,
                             int (*build)(tn_graph *, const tn_node *, tn_node *, const void *))
{
    tn_shape channels = TN_SHAPE(shape.dim[1]);
    return (check_case){.name = name,
                        .in = {{.shape = shape, .low = -1, .high = 3},
                               {.shape = channels, .low = 0.5, .high = 2},
                               {.shape = channels}},
                        .in_count = 3,
                        .build = build,
                        .option = o,
                        .second_order = true,
                        .bf16 = true};
}

static const tn_shape image_shapes[] = {
    {2, {9, 5}},        {2, {40, 64}},       {3, {3, 4, 10}},    {4, {2, 3, 4, 5}},
    {4, {2, 1, 6, 6}},  {4, {3, 17, 2, 2}},  {4, {2, 64, 3, 3}}, {5, {2, 4, 3, 2, 4}},
    {4, {5, 40, 1, 1}}, {4, {1, 130, 3, 2}}, {4, {2, 6, 1, 5}},
};

static void test_batch_norm(void **state)
{
    (void)state;
    norm_options o = {.epsilon = 1e-2};
    for (size_t i = 0; i < sizeof image_shapes / sizeof *image_shapes; i++) {
        char name[64];
        snprintf(name, sizeof name, "batch_norm %zu", i);
        check_case c = batch_case(name, image_shapes[i], &o, build_batch_norm);
        c.tolerance = 5e-5;
        check_run(&c, 40 + i);
        snprintf(name, sizeof name, "batch_norm with statistics %zu", i);
        c.build = build_batch_norm_statistics;
        check_run(&c, 40 + i);
        snprintf(name, sizeof name, "batch_norm and relu %zu", i);
        c.build = build_batch_norm_relu;
        c.bf16 = false; /* a sign may turn */
        check_run(&c, 40 + i);
        snprintf(name, sizeof name, "batch_norm, residual and relu %zu", i);
        c.in[3] = c.in[0];
        c.in_count = 4;
        c.build = build_batch_norm_residual;
        c.second_order = i != 9; /* one of them is 0, and rounding all that is left of it */
        check_run(&c, 40 + i);
    }
}

/* No sample at all: statistics and gradients of 0, and nothing is divided by 0. */
static void test_empty_batch(void **state)
{
    (void)state;
    static const tn_shape shapes[] = {{4, {0, 3, 4, 4}}, {2, {0, 5}}, {3, {2, 3, 0}}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int groups = 0; groups < 2; groups++) {
            norm_options o = {.epsilon = 1e-3, .groups = groups, .scale = true, .shift = true};
            check_case c = batch_case("norm of nothing", shapes[i], &o,
                                      groups ? build_group_norm : build_batch_norm);
            c.second_order = false;
            check_run(&c, i);
        }
}

static void test_batch_norm_large(void **state)
{
    (void)state;
    static const tn_shape shapes[] = {
        {4, {8, 32, 32, 32}}, {4, {16, 5, 33, 31}}, {2, {5000, 24}}, {4, {3, 200, 20, 20}}};
    norm_options o = {.epsilon = 1e-5};
    for (size_t i = 0; i < 4; i++) {
        check_case c = batch_case("large batch_norm", shapes[i], &o, build_batch_norm_statistics);
        c.second_order = false;
        check_large(&c, i);
    }
}

static void test_channels_last(void **state)
{
    (void)state;
    static const tn_shape shapes[] = {{4, {2, 4, 5, 3}},
                                      {4, {2, 3, 3, 64}},
                                      {4, {3, 5, 4, 1}},
                                      {4, {4, 30, 30, 20}},
                                      {4, {2, 3, 5, 130}}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int groups = 0; groups < 2; groups++) {
            norm_options o = {.epsilon = 1e-2, .groups = groups, .scale = true, .shift = true};
            tn_shape channels = TN_SHAPE(shapes[i].dim[3]);
            check_case c = {.name = groups ? "channels-last group_norm"
                                           : "channels-last batch_norm",
                            .in = {{.shape = shapes[i], .low = -1, .high = 3},
                                   {.shape = channels, .low = 0.5, .high = 2},
                                   {.shape = channels}},
                            .in_count = 3,
                            .build = build_channels_last,
                            .option = &o,
                            .second_order = shapes[i].dim[1] < 30,
                            .tolerance = 5e-5};
            if (shapes[i].dim[1] < 30) check_run(&c, 50 + i);
            else check_large(&c, 50 + i);
        }
}

static void test_batch_norm_apply(void **state)
{
    (void)state;
    norm_options o = {.epsilon = 1e-3};
    for (size_t i = 0; i < 5; i++) {
        tn_shape channels = TN_SHAPE(image_shapes[i].dim[1]);
        check_case c = {.name = "batch_norm_apply",
                        .in = {{.shape = image_shapes[i]},
                               {.shape = channels},
                               {.shape = channels, .low = 0.3, .high = 2},
                               {.shape = channels},
                               {.shape = channels}},
                        .in_count = 5,
                        .build = build_batch_norm_apply,
                        .option = &o,
                        .second_order = true,
                        .bf16 = true};
        check_run(&c, i);
    }
}

/* ---- group norm ------------------------------------------------------------------------------ */

static void test_group_norm(void **state)
{
    (void)state;
    static const struct {
        tn_shape shape;
        int groups;
    } cases[] = {{{4, {2, 6, 3, 4}}, 3},  {{4, {3, 4, 5, 2}}, 4},  {{4, {2, 5, 3, 3}}, 1},
                 {{3, {2, 8, 9}}, 2},     {{2, {3, 8}}, 2},        {{5, {1, 4, 3, 2, 5}}, 2},
                 {{4, {2, 64, 2, 3}}, 8}, {{4, {3, 8, 40, 40}}, 8}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int form = 0; form < 6; form++) {
            bool per_sample = form >= 4;
            norm_options o = {.groups = cases[i].groups,
                              .epsilon = 1e-2,
                              .scale = form & 1 || per_sample,
                              .shift = form & 2 || per_sample};
            tn_shape parameter = per_sample ? TN_SHAPE(cases[i].shape.dim[0], cases[i].shape.dim[1])
                                            : TN_SHAPE(cases[i].shape.dim[1]);
            char name[64];
            snprintf(name, sizeof name, "group_norm %zu, form %d", i, form);
            check_case c = {.name = name,
                            .in = {{.shape = cases[i].shape, .low = -1, .high = 2},
                                   {.shape = parameter},
                                   {.shape = parameter, .stays_f32 = true}},
                            .in_count = 1 + o.scale + o.shift,
                            .build = build_group_norm,
                            .option = &o,
                            .second_order = i < 7,
                            .bf16 = true,
                            .tolerance = 5e-5};
            if (i < 7) check_run(&c, 60 + i);
            else check_large(&c, 60 + i);
        }
}

/* ---- decompositions -------------------------------------------------------------------------- */

/* Every node of the graph that has a decomposition against it, on the reference backend. */
static void check_decompositions(const check_case *c)
{
    check_graph g;
    check_build(c, TN_F64, 9, &g);
    int decomposed = 0;
    for (int id = 1, count = tn_graph_node_count(g.graph); id <= count; id++) {
        tn_node node = {g.graph, id}, simpler[TN_MAX_RESULTS], fetch[2 * TN_MAX_RESULTS];
        const tn_value *value = tn_value_of(node);
        if (!value->op->decompose || value->op->id < TN_OP_SOFTMAX ||
            value->op->id > TN_OP_CROSS_ENTROPY_GRAD)
            continue;
        tn_decompose(node, simpler);
        int results = value->result_count;
        for (int r = 0; r < results; r++)
            fetch[r] = tn_result(node, r), fetch[results + r] = simpler[r];
        void *out[2 * TN_MAX_RESULTS];
        check_fetch(c, &g, fetch, 2 * results, (tn_compile_options){.backend = TN_REF}, out);
        for (int r = 0; r < results; r++) {
            assert_true(tn_shape_equal(tn_shape_of(fetch[r]), tn_shape_of(simpler[r])));
            check_close(c, value->op->name, r, out[results + r], out[r],
                        tn_shape_size(tn_shape_of(fetch[r])), 1e-12);
            free(out[r]);
            free(out[results + r]);
        }
        decomposed++;
    }
    assert_true(decomposed >= 2);
    check_free(c, &g);
}

static void test_decompositions(void **state)
{
    (void)state;
    norm_options o = {.axis = 1, .groups = 2, .epsilon = 1e-3, .scale = true, .shift = true};
    norm_options logarithm = o;
    logarithm.logarithm = true;
    tn_shape x = TN_SHAPE(3, 4, 5), last = TN_SHAPE(5), channels = TN_SHAPE(4),
             rows = TN_SHAPE(3, 4);
    check_decompositions(&(check_case){.name = "softmax",
                                       .in = {{.shape = x}},
                                       .in_count = 1,
                                       .build = build_softmax,
                                       .option = &o});
    check_decompositions(&(check_case){.name = "log_softmax",
                                       .in = {{.shape = x}},
                                       .in_count = 1,
                                       .build = build_softmax,
                                       .option = &logarithm});
    check_decompositions(&(check_case){.name = "layer_norm",
                                       .in = {{.shape = x}, {.shape = last}, {.shape = last}},
                                       .in_count = 3,
                                       .build = build_layer_norm,
                                       .option = &o});
    check_decompositions(&(check_case){.name = "rms_norm",
                                       .in = {{.shape = x}, {.shape = last}},
                                       .in_count = 2,
                                       .build = build_rms_norm,
                                       .option = &o});
    check_decompositions(
        &(check_case){.name = "batch_norm",
                      .in = {{.shape = x}, {.shape = channels}, {.shape = channels}},
                      .in_count = 3,
                      .build = build_batch_norm,
                      .option = &o});
    check_decompositions(
        &(check_case){.name = "group_norm",
                      .in = {{.shape = x}, {.shape = channels}, {.shape = channels}},
                      .in_count = 3,
                      .build = build_group_norm,
                      .option = &o});
    check_decompositions(&(check_case){.name = "group_norm",
                                       .in = {{.shape = x}, {.shape = rows}, {.shape = rows}},
                                       .in_count = 3,
                                       .build = build_group_norm,
                                       .option = &o});
}

/* ---- edges ----------------------------------------------------------------------------------- */

/* Values of `out` (f32) of one input on both backends. */
static void on_both(tn_graph *graph, tn_node x, const float *value, tn_node out, float *ref,
                    float *cpu)
{
    for (int backend = 0; backend < 2; backend++) {
        tn_plan *plan;
        tn_status status = tn_compile(&plan, .graph = graph, .feeds = TN_NODES(x),
                                      .fetches = TN_NODES(out),
                                      .backend = backend ? TN_CPU : TN_REF);
        if (status != TN_OK) fail_msg("%s", tn_message());
        void *to = backend ? cpu : ref;
        assert_int_equal(tn_run(plan, (const void *[]){value}, &to), TN_OK);
        tn_plan_free(plan);
    }
}

static void same(const char *what, const float *got, const float *expected, int count)
{
    for (int i = 0; i < count; i++)
        if (!(got[i] == expected[i] || (isnan(got[i]) && isnan(expected[i])) ||
              fabsf(got[i] - expected[i]) <= 1e-6F * fmaxf(1, fabsf(expected[i]))))
            fail_msg("%s: element %d is %g, expected %g", what, i, (double)got[i],
                     (double)expected[i]);
}

static void test_softmax_edges(void **state)
{
    (void)state;
    /* rows: all masked; one open; large; NaN spreads over its own row only */
    const float x[4][3] = {{-INFINITY, -INFINITY, -INFINITY},
                           {-INFINITY, 5, -INFINITY},
                           {1e4F, -1e4F, 1e4F},
                           {0, NAN, 0}};
    const float soft[12] = {0, 0, 0, 0, 1, 0, 0.5F, 0, 0.5F, NAN, NAN, NAN};
    const float half = -0.69314718F,
                log_soft[12] = {-INFINITY, -INFINITY,    -INFINITY, -INFINITY, 0,   -INFINITY,
                                half,      -2e4F + half, half,      NAN,       NAN, NAN};
    for (int axis = 0; axis < 2; axis++)
        for (int logarithm = 0; logarithm < 2; logarithm++) {
            tn_graph *graph = tn_graph_create(NULL);
            tn_node in = tn_input(graph, "x", TN_F32, TN_SHAPE(4, 3)),
                    at = axis ? in : tn_swap_axes(in, 0, 1);
            tn_node y = logarithm ? tn_log_softmax(at, axis) : tn_softmax(at, axis), d;
            if (!axis) y = tn_swap_axes(y, 0, 1);
            float ref[12], cpu[12];
            on_both(graph, in, x[0], y, ref, cpu);
            same("softmax (ref)", ref, logarithm ? log_soft : soft, 12);
            same("softmax (cpu)", cpu, logarithm ? log_soft : soft, 12);
            /* gradients of the rows without NaN stay finite */
            tn_node top = tn_slice(y, 0, 0, 3, 1),
                    finite = tn_where(tn_is_finite(top), top, tn_like(top, 0));
            tn_gradients(tn_sum(tn_square(finite), TN_ALL_AXES), &in, 1, &d);
            on_both(graph, in, x[0], d, ref, cpu);
            for (int i = 0; i < 9; i++) assert_true(isfinite(ref[i]) && isfinite(cpu[i]));
            tn_graph_free(graph);
        }
}

/* A mean ten thousand deviations away from 0. */
static void test_batch_norm_far_mean(void **state)
{
    (void)state;
    enum { B = 6, S = 700, C = 3 };
    tn_graph *graph = tn_graph_create(NULL);
    tn_node x = tn_input(graph, "x", TN_F32, TN_SHAPE(B, C, S)),
            moved = tn_input(graph, "moved", TN_F32, TN_SHAPE(B, S, 1, C));
    tn_batch_norm_result r = tn_batch_norm_train(x, TN_NONE, TN_NONE, 0);
    tn_batch_norm_result last = tn_batch_norm_train(tn_transpose(moved, TN_PERMUTE(0, 3, 1, 2)),
                                                    TN_NONE, TN_NONE, 0);
    static float value[B][C][S], turned[B][S][C], variance[2][C];
    double exact[C] = {0}, mean[C] = {0};
    for (int pass = 0; pass < 2; pass++)
        for (int b = 0; b < B; b++)
            for (int c = 0; c < C; c++)
                for (int s = 0; s < S; s++) {
                    float v = (float)(1e4 * (c + 1) +
                                      2 * tn_random_uniform(3, (uint64_t)c, (uint64_t)(b * S + s)) -
                                      1);
                    value[b][c][s] = turned[b][s][c] = v;
                    if (pass) exact[c] += ((double)v - mean[c]) * ((double)v - mean[c]) / (B * S);
                    else mean[c] += (double)v / (B * S);
                }
    tn_plan *plan;
    assert_int_equal(tn_compile(&plan, .graph = graph, .feeds = TN_NODES(x, moved),
                                .fetches = TN_NODES(r.variance, last.variance)),
                     TN_OK);
    assert_int_equal(
        tn_run(plan, (const void *[]){value, turned}, (void *[]){variance[0], variance[1]}), TN_OK);
    for (int c = 0; c < C; c++)
        for (int k = 0; k < 2; k++) assert_true(fabs((double)variance[k][c] / exact[c] - 1) < 1e-4);
    tn_plan_free(plan);
    tn_graph_free(graph);
}

static tn_graph *fresh(tn_node *x, tn_shape shape)
{
    tn_graph *graph = tn_graph_create(NULL);
    *x = tn_input(graph, "x", TN_F32, shape);
    return graph;
}

static void test_messages(void **state)
{
    (void)state;
    tn_node x;
    tn_graph *graph;
#define REFUSED(shape, expression, part)                                                           \
    do {                                                                                           \
        graph = fresh(&x, shape);                                                                  \
        tn_node wrong = tn_input(graph, "wrong", TN_F32, TN_SHAPE(7));                             \
        assert_true(tn_is_none(expression));                                                       \
        (void)wrong;                                                                               \
        check_refused(graph, part);                                                                \
        tn_graph_free(graph);                                                                      \
    } while (0)
    REFUSED(TN_SHAPE(2, 3), tn_softmax(x, 2), "axis 2");
    REFUSED(TN_SHAPE(2, 3), tn_softmax(tn_cast(x, TN_I32), 1), "floating-point");
    REFUSED(TN_SHAPE(2, 3), tn_log_softmax(tn_cast(x, TN_I32), 1), "log_softmax of i32 [2, 3]");
    REFUSED(TN_SHAPE(2, 3), tn_layer_norm(x, wrong, TN_NONE, 1e-5),
            "scale is f32 [7], but x [2, 3] wants floating-point [3]");
    REFUSED(TN_SHAPE(2, 3), tn_layer_norm(x, TN_NONE, wrong, 1e-5), "shift is f32 [7]");
    REFUSED(TN_SHAPE(2, 3), tn_layer_norm(x, TN_NONE, TN_NONE, -1), "epsilon is -1");
    REFUSED(TN_SCALAR, tn_layer_norm(x, TN_NONE, TN_NONE, 1e-5), "at least one");
    REFUSED(TN_SHAPE(2, 3), tn_layer_norm(tn_cast(x, TN_I64), TN_NONE, TN_NONE, 1e-5), "cast it");
    REFUSED(TN_SHAPE(2, 3), tn_rms_norm(x, wrong, 1e-5), "rms_norm: scale is f32 [7]");
    REFUSED(TN_SCALAR, tn_rms_norm(x, TN_NONE, 1e-5), "scalar");
    REFUSED(TN_SHAPE(2, 3), tn_batch_norm_train(x, wrong, TN_NONE, 1e-5).y,
            "batch_norm: scale is f32 [7], but x [2, 3] wants floating-point [3]");
    REFUSED(TN_SHAPE(3), tn_batch_norm_train(x, TN_NONE, TN_NONE, 1e-5).y, "[B, C, ...]");
    REFUSED(TN_SHAPE(2, 3), tn_batch_norm_train(x, TN_NONE, TN_NONE, NAN).y, "epsilon is");
    REFUSED(TN_SHAPE(2, 3), tn_batch_norm_apply(x, wrong, wrong, TN_NONE, TN_NONE, 1e-5),
            "mean is f32 [7]");
    REFUSED(TN_SHAPE(2, 6, 4), tn_group_norm(x, 4, TN_NONE, TN_NONE, 1e-5),
            "6 channels do not divide into 4 groups");
    REFUSED(TN_SHAPE(2, 6, 4), tn_group_norm(x, 0, TN_NONE, TN_NONE, 1e-5), "0 groups");
    REFUSED(TN_SHAPE(2, 6, 4), tn_group_norm(x, 3, wrong, TN_NONE, 1e-5),
            "group_norm: scale is f32 [7]");
    REFUSED(TN_SHAPE(6), tn_group_norm(x, 3, TN_NONE, TN_NONE, 1e-5), "[B, C, ...]");
}

/* f16 takes the same kernels, f64 on the CPU the reference's. */
static void test_other_types(void **state)
{
    (void)state;
    tn_graph *graph = tn_graph_create(NULL);
    tn_node x = tn_input(graph, "x", TN_F32, TN_SHAPE(4, 6, 5)), out[2];
    for (int wide = 0; wide < 2; wide++) {
        tn_node y = tn_cast(x, wide ? TN_F64 : TN_F16), d;
        y = tn_batch_norm_train(y, TN_NONE, TN_NONE, 1e-5).y;
        y = tn_group_norm(tn_layer_norm(tn_softmax(y, 1), TN_NONE, TN_NONE, 1e-2), 2, TN_NONE,
                          TN_NONE, 1e-3);
        y = tn_cast(tn_log_softmax(tn_rms_norm(y, TN_NONE, 1e-5), 2), TN_F32);
        tn_gradients(tn_sum(tn_square(y), TN_ALL_AXES), &x, 1, &d);
        out[wide] = tn_concat((tn_node[]){y, d}, 2, 0);
    }
    enum { COUNT = 4 * 6 * 5 };
    float value[COUNT], half[2][2 * COUNT], wide[2][2 * COUNT], largest = 0;
    for (int i = 0; i < COUNT; i++) value[i] = (float)tn_random_uniform(1, 2, (uint64_t)i);
    on_both(graph, x, value, out[0], half[0], half[1]);
    on_both(graph, x, value, out[1], wide[0], wide[1]);
    same("f64 kernels", wide[1], wide[0], 2 * COUNT);
    for (int i = 0; i < 2 * COUNT; i++) largest = fmaxf(largest, fabsf(wide[0][i]));
    for (int i = 0; i < 2 * COUNT; i++)
        assert_true(fabsf(half[1][i] - half[0][i]) < 0.05F * largest);
    tn_graph_free(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_softmax),
        cmocka_unit_test(test_softmax_channels_last),
        cmocka_unit_test(test_softmax_long),
        cmocka_unit_test(test_layer_norm),
        cmocka_unit_test(test_layer_norm_two_axes),
        cmocka_unit_test(test_layer_norm_large),
        cmocka_unit_test(test_rms_norm),
        cmocka_unit_test(test_batch_norm),
        cmocka_unit_test(test_empty_batch),
        cmocka_unit_test(test_batch_norm_large),
        cmocka_unit_test(test_channels_last),
        cmocka_unit_test(test_batch_norm_apply),
        cmocka_unit_test(test_group_norm),
        cmocka_unit_test(test_decompositions),
        cmocka_unit_test(test_softmax_edges),
        cmocka_unit_test(test_batch_norm_far_mean),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_other_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
