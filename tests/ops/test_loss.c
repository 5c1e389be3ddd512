/* Losses: gradients to second order, the CPU kernels against the reference, values against
 * formulas written out, edges, messages. */
#include "graph_check.h"

#define TN_NO_PLACES
#include "graph/norm.h"

typedef struct loss_options {
    double smoothing, a, b, c, d;
    int axis;
} loss_options;

#define BUILDER(name, expression)                                                                  \
    static int name(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)          \
    {                                                                                              \
        const loss_options *o = option;                                                            \
        (void)graph, (void)o;                                                                      \
        out[0] = (expression);                                                                     \
        return 1;                                                                                  \
    }

BUILDER(build_cross_entropy,
        tn_cross_entropy_with(in[0], in[1], (tn_cross_entropy_options){.smoothing = o->smoothing}))
BUILDER(build_soft, tn_cross_entropy_soft(in[0], in[1]))
BUILDER(build_bce, tn_bce_with_logits(in[0], in[1]))
BUILDER(build_kl,
        tn_kl_divergence(tn_log_softmax(in[0], o->axis), tn_log_softmax(in[1], o->axis), o->axis))
BUILDER(build_kl_plain, tn_kl_divergence(in[0], in[1], o->axis))
BUILDER(build_huber, tn_huber(in[0], o->a))
BUILDER(build_dice, tn_dice_loss(in[0], in[1], o->a))
BUILDER(build_tversky, tn_focal_tversky(in[0], in[1], o->a, o->b, o->c, o->d))
BUILDER(build_cosine, tn_cosine_similarity(in[0], in[1], o->axis, o->a))
BUILDER(build_cosine_list, tn_cosine_similarity_list(in, in + 3, 3, o->a))
BUILDER(build_info_nce, tn_info_nce(in[0], in[1], o->a))
BUILDER(build_normalize, tn_normalize(in[0], o->axis, o->a))

/* The logsumexp is an output too, and differentiated. */
static int build_cross_entropy_lse(tn_graph *graph, const tn_node *in, tn_node *out,
                                   const void *option)
{
    build_cross_entropy(graph, in, out, option);
    out[1] = tn_result(out[0], 1);
    return 2;
}

/* ---- cross-entropy --------------------------------------------------------------------------- */

static void test_cross_entropy(void **state)
{
    (void)state;
    static const tn_shape shapes[] = {{2, {5, 7}}, {2, {3, 64}}, {2, {9, 33}},
                                      {2, {1, 1}}, {2, {0, 5}},  {2, {40, 18}}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int form = 0; form < 4; form++) {
            loss_options o = {.smoothing = form & 1 ? 0.1 : 0};
            check_case c = {.name = "cross_entropy",
                            .in = {{.shape = shapes[i], .low = -4, .high = 4},
                                   {.dtype = form & 2 ? TN_I64 : TN_I32,
                                    .shape = TN_SHAPE(shapes[i].dim[0]),
                                    .low = -1,
                                    .high = (double)shapes[i].dim[1]}},
                            .in_count = 2,
                            .build = build_cross_entropy,
                            .option = &o,
                            .second_order = true,
                            .bf16 = true};
            check_run(&c, 10 + i);
            c.build = build_cross_entropy_lse;
            check_run(&c, 10 + i);
        }
}

/* More classes than one block, more elements than one thread's share. */
static void test_cross_entropy_large(void **state)
{
    (void)state;
    loss_options o = {.smoothing = 0.05};
    check_case c = {.name = "cross_entropy of many classes",
                    .in = {{.shape = TN_SHAPE(11, 5003), .low = -30, .high = 30},
                           {.dtype = TN_I32, .shape = TN_SHAPE(11), .low = -1, .high = 5003}},
                    .in_count = 2,
                    .build = build_cross_entropy,
                    .option = &o};
    check_backend(&c, TN_F32, 5, 2e-5);
    check_backend(&c, TN_BF16, 5, 3e-2);
}

static void test_decompositions(void **state)
{
    (void)state;
    static const double labels[] = {2, -1, 0, 5};
    loss_options o = {.smoothing = 0.1};
    check_case c = {.name = "cross_entropy",
                    .in = {{.shape = TN_SHAPE(4, 6)},
                           {.dtype = TN_I32, .shape = TN_SHAPE(4), .values = labels}},
                    .in_count = 2,
                    .build = build_cross_entropy,
                    .option = &o};
    check_graph g;
    check_build(&c, TN_F64, 9, &g);
    for (int k = 0; k < 2; k++) {
        tn_node node = k ? g.gradient[0] : g.out[0], simpler[TN_MAX_RESULTS];
        assert_int_equal(tn_value_of(node)->op->id,
                         k ? TN_OP_CROSS_ENTROPY_GRAD : TN_OP_CROSS_ENTROPY);
        tn_decompose(node, simpler);
        tn_node fetch[4] = {node, simpler[0], k ? node : tn_result(node, 1),
                            k ? simpler[0] : simpler[1]};
        void *out[4];
        check_fetch(&c, &g, fetch, 4, (tn_compile_options){.backend = TN_REF}, out);
        for (int r = 0; r < 2; r++)
            check_close(&c, "decomposition", r, out[2 * r + 1], out[2 * r],
                        tn_shape_size(tn_shape_of(fetch[2 * r])), 1e-12);
        for (int i = 0; i < 4; i++) free(out[i]);
    }
    check_free(&c, &g);
}

/* ---- compositions ---------------------------------------------------------------------------- */

static void test_distributions(void **state)
{
    (void)state;
    loss_options o = {.axis = 1};
    tn_shape x = TN_SHAPE(4, 9);
    check_run(&(check_case){.name = "cross_entropy_soft",
                            .in = {{.shape = x, .low = -3, .high = 3},
                                   {.shape = x, .low = 0.01, .high = 0.3}},
                            .in_count = 2,
                            .build = build_soft,
                            .option = &o,
                            .second_order = true,
                            .bf16 = true},
              1);
    check_run(
        &(check_case){.name = "bce_with_logits",
                      .in = {{.shape = x, .low = -6, .high = 6}, {.shape = x, .low = 0, .high = 1}},
                      .in_count = 2,
                      .build = build_bce,
                      .option = &o,
                      .second_order = true,
                      .bf16 = true},
        2);
    for (o.axis = 0; o.axis < 2; o.axis++)
        check_run(&(check_case){.name = "kl_divergence",
                                .in = {{.shape = x, .low = -3, .high = 3},
                                       {.shape = x, .low = -3, .high = 3}},
                                .in_count = 2,
                                .build = build_kl,
                                .option = &o,
                                .second_order = true,
                                .tolerance = 5e-5,
                                .bf16 = true,
                                .bf16_tolerance = 0.1},
                  3);
    o.axis = -1;
    check_run(&(check_case){.name = "kl_divergence of any numbers",
                            .in = {{.shape = x, .low = -3, .high = 0},
                                   {.shape = x, .low = -3, .high = 0}},
                            .in_count = 2,
                            .build = build_kl_plain,
                            .option = &o,
                            .second_order = true},
              4);
}

static void test_regression_and_overlap(void **state)
{
    (void)state;
    tn_shape x = TN_SHAPE(3, 4, 5), row = TN_SHAPE(6);
    loss_options o = {.a = 0.7};
    check_run(&(check_case){.name = "huber",
                            .in = {{.shape = x, .low = -2, .high = 2}},
                            .in_count = 1,
                            .build = build_huber,
                            .option = &o,
                            .second_order = true,
                            .bf16 = true},
              1);
    for (int smooth = 0; smooth < 2; smooth++) {
        o = (loss_options){.a = smooth};
        check_run(&(check_case){.name = "dice_loss",
                                .in = {{.shape = x, .low = 0, .high = 1},
                                       {.shape = x, .low = 0, .high = 1}},
                                .in_count = 2,
                                .build = build_dice,
                                .option = &o,
                                .second_order = true,
                                .bf16 = true},
                  2);
        check_run(&(check_case){.name = "dice_loss of numbers",
                                .in = {{.shape = row, .low = 0.1, .high = 1},
                                       {.shape = row, .low = 0.1, .high = 1}},
                                .in_count = 2,
                                .build = build_dice,
                                .option = &o,
                                .second_order = true},
                  3);
        o = (loss_options){.a = 0.3, .b = 0.7, .c = 0.75, .d = smooth};
        check_run(&(check_case){.name = "focal_tversky",
                                .in = {{.shape = x, .low = 0, .high = 1},
                                       {.shape = x, .low = 0, .high = 1}},
                                .in_count = 2,
                                .build = build_tversky,
                                .option = &o,
                                .second_order = true,
                                .bf16 = true},
                  4);
    }
}

static void test_angles(void **state)
{
    (void)state;
    tn_shape x = TN_SHAPE(3, 4, 5);
    loss_options o = {.a = 1e-8};
    for (o.axis = 0; o.axis < 3; o.axis++) {
        check_run(&(check_case){.name = "cosine_similarity",
                                .in = {{.shape = x}, {.shape = x}},
                                .in_count = 2,
                                .build = build_cosine,
                                .option = &o,
                                .second_order = true,
                                .bf16 = true},
                  1);
        check_run(&(check_case){.name = "normalize",
                                .in = {{.shape = x}},
                                .in_count = 1,
                                .build = build_normalize,
                                .option = &o,
                                .second_order = true,
                                .bf16 = true},
                  2);
    }
    tn_shape p = TN_SHAPE(3, 4), q = TN_SHAPE(5);
    check_run(&(check_case){.name = "cosine_similarity_list",
                            .in = {{.shape = p},
                                   {.shape = q},
                                   {.shape = TN_SCALAR},
                                   {.shape = p},
                                   {.shape = q},
                                   {.shape = TN_SCALAR}},
                            .in_count = 6,
                            .build = build_cosine_list,
                            .option = &o,
                            .second_order = true,
                            .bf16 = true},
              3);
    o.a = 0.2;
    check_run(&(check_case){.name = "info_nce",
                            .in = {{.shape = TN_SHAPE(4, 6)}, {.shape = TN_SHAPE(7, 6)}},
                            .in_count = 2,
                            .build = build_info_nce,
                            .option = &o,
                            .second_order = true,
                            .tolerance = 5e-5,
                            .bf16 = true,
                            .bf16_tolerance = 0.1},
              4);
}

/* ---- values and edges, on both backends ------------------------------------------------------ */

enum { MOST = 16 };

/* Runs out[] (f32) of a graph with up to two f32 inputs; NaN in `expected` stands for "finite,
 * whatever it is". */
static void expect(tn_graph *graph, const tn_node *in, const float *const *value, int in_count,
                   const tn_node *out, const float *const *expected, int out_count)
{
    for (int backend = 0; backend < 2; backend++) {
        tn_plan *plan;
        tn_compile_options options = {.graph = graph,
                                      .feeds = {in, in_count},
                                      .fetches = {out, out_count},
                                      .backend = backend ? TN_CPU : TN_REF};
        if (tn_compile_with(&plan, &options) != TN_OK) fail_msg("%s", tn_message());
        float got[4][MOST];
        void *to[4] = {got[0], got[1], got[2], got[3]};
        if (tn_run(plan, (const void *const *)value, to) != TN_OK) fail_msg("%s", tn_message());
        for (int k = 0; k < out_count; k++)
            for (int64_t i = 0; i < tn_shape_size(tn_shape_of(out[k])); i++) {
                float e = expected[k][i], g = got[k][i];
                bool same = isnan(e) ? isfinite(g)
                                     : g == e || fabsf(g - e) <= 2e-5F * fmaxf(1, fabsf(e));
                if (!same)
                    fail_msg("%s: output %d, element %d is %.9g, expected %.9g",
                             backend ? "cpu" : "ref", k, (int)i, (double)g, (double)e);
            }
        tn_plan_free(plan);
    }
    tn_graph_free(graph);
}

static tn_node total(tn_node x) { return tn_sum(x, TN_ALL_AXES); }

static void test_cross_entropy_edges(void **state)
{
    (void)state;
    /* rows: plain; ignored; extreme logits; all -inf; label's own logit -inf */
    const float x[5][3] = {{1, 2, 3},
                           {1, 2, 3},
                           {1e4F, -1e4F, 0},
                           {-INFINITY, -INFINITY, -INFINITY},
                           {-INFINITY, 0, 0}};
    const int32_t label[5] = {2, -1, 1, 0, 0};
    float p0 = 0.09003057F, p1 = 0.24472847F, p2 = 0.66524096F;
    const float loss[5] = {0.40760596F, 0, 2e4F, INFINITY, INFINITY};
    const float gradient[15] = {p0, p1, p2 - 1, 0, 0, 0, 1, -1, 0, 0, 0, 0, -1, 0.5F, 0.5F};
    tn_graph *graph = tn_graph_create(NULL);
    tn_node logits = tn_input(graph, "x", TN_F32, TN_SHAPE(5, 3)), d;
    tn_node y = tn_cross_entropy_with(logits, tn_constant(graph, TN_I32, TN_SHAPE(5), label),
                                      (tn_cross_entropy_options){0});
    tn_gradients(total(y), &logits, 1, &d);
    expect(graph, &logits, (const float *const[]){x[0]}, 1, (tn_node[]){y, d},
           (const float *const[]){loss, gradient}, 2);
}

static void test_soft_edges(void **state)
{
    (void)state;
    /* a masked class with target 0 adds nothing; its gradients are finite */
    const float x[2][2] = {{0, -INFINITY}, {0, 0}}, target[2][2] = {{1, 0}, {0.5F, 0.5F}};
    const float loss[2] = {0, 0.69314718F}, d_x[4] = {0, 0, 0, 0},
                d_target[4] = {0, 0, 0.69314718F, 0.69314718F};
    tn_graph *graph = tn_graph_create(NULL);
    tn_node in[2] = {tn_input(graph, "x", TN_F32, TN_SHAPE(2, 2)),
                     tn_input(graph, "t", TN_F32, TN_SHAPE(2, 2))},
            d[2];
    tn_node y = tn_cross_entropy_soft(in[0], in[1]);
    tn_gradients(total(y), in, 2, d);
    expect(graph, in, (const float *const[]){x[0], target[0]}, 2, (tn_node[]){y, d[0], d[1]},
           (const float *const[]){loss, d_x, d_target}, 3);
}

static void test_bce_edges(void **state)
{
    (void)state;
    /* small losses keep their digits on both sides; the derivative at 0 is sigmoid(0) - t */
    const float x[6] = {80, -80, 0, 0, 1e4F, -1e4F}, target[6] = {1, 0, 0, 1, 0, 1};
    const float loss[6] = {0, 0, 0.69314718F, 0.69314718F, 1e4F, 1e4F},
                d[6] = {0, 0, 0.5F, -0.5F, 1, -1}, one[2] = {1, 1};
    tn_graph *graph = tn_graph_create(NULL);
    tn_node in[2] = {tn_input(graph, "x", TN_F32, TN_SHAPE(6)),
                     tn_input(graph, "t", TN_F32, TN_SHAPE(6))},
            gradient;
    tn_node y = tn_bce_with_logits(in[0], in[1]);
    tn_gradients(total(y), in, 1, &gradient);
    tn_node small = tn_affine(tn_slice(y, 0, 0, 2, 1), exp(80), 0);
    expect(graph, in, (const float *const[]){x, target}, 2, (tn_node[]){y, gradient, small},
           (const float *const[]){loss, d, one}, 3);
}

static void test_kl_edges(void **state)
{
    (void)state;
    /* p = (1, 0) against q = (1/2, 1/2), against q = (1, 0), and with mass where q has none */
    const float none = -INFINITY, half = -0.69314718F;
    const float p[3][2] = {{0, none}, {0, none}, {half, half}},
                q[3][2] = {{half, half}, {0, none}, {0, none}}, kl[3] = {0.69314718F, 0, INFINITY};
    const float d_p[6] = {1.69314718F, 0, 1, 0, 0, INFINITY};
    tn_graph *graph = tn_graph_create(NULL);
    tn_node in[2] = {tn_input(graph, "p", TN_F32, TN_SHAPE(3, 2)),
                     tn_input(graph, "q", TN_F32, TN_SHAPE(3, 2))},
            d;
    tn_node y = tn_kl_divergence(in[0], in[1], 1);
    tn_gradients(total(tn_slice(y, 0, 0, 2, 1)), in, 1, &d);
    const float d_first[6] = {d_p[0], 0, d_p[2], 0, 0, 0};
    tn_node finite = tn_slice(d, 0, 0, 2, 1);
    expect(graph, in, (const float *const[]){p[0], q[0]}, 2, (tn_node[]){y, finite},
           (const float *const[]){kl, d_first}, 2);
}

static void test_overlap_values(void **state)
{
    (void)state;
    /* samples: half right; empty against empty (smooth 0: perfect) */
    const float p[2][4] = {{1, 1, 0, 0}, {0, 0, 0, 0}}, target[2][4] = {{1, 0, 1, 0}, {0, 0, 0, 0}};
    const float dice[2] = {0.5F, 0}, some[8] = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
    /* TP = FP = FN = 1: TI = 2/(2 + 0.3 + 0.7) with smooth 1; the mean of 1 - TI over the
     * samples is 1/6 */
    const float tversky[1] = {powf(1.0F / 6, 0.75F)}, perfect[1] = {powf(1e-7F, 0.75F)};
    tn_graph *graph = tn_graph_create(NULL);
    tn_node in[2] = {tn_input(graph, "p", TN_F32, TN_SHAPE(2, 4)),
                     tn_input(graph, "t", TN_F32, TN_SHAPE(2, 4))},
            d;
    tn_node y = tn_dice_loss(in[0], in[1], 0),
            t = tn_focal_tversky(in[0], in[1], 0.3, 0.7, 0.75, 1);
    tn_node none_p = tn_slice(in[0], 0, 1, 2, 1), none_t = tn_slice(in[1], 0, 1, 2, 1);
    tn_node none = tn_focal_tversky(none_p, none_t, 0.3, 0.7, 0.75, 0);
    tn_gradients(tn_add(total(y), tn_add(t, none)), in, 1, &d);
    expect(graph, in, (const float *const[]){p[0], target[0]}, 2, (tn_node[]){y, t, none, d},
           (const float *const[]){dice, tversky, perfect, some}, 4);
}

/* alpha weighs false positives and beta false negatives, not the other way round. */
static void test_tversky_sides(void **state)
{
    (void)state;
    const float p[2] = {1, 1}, target[2] = {1, 0}; /* one hit, one false positive */
    const float loss[1] = {1 - 1 / 1.2F};
    tn_graph *graph = tn_graph_create(NULL);
    tn_node in[2] = {tn_input(graph, "p", TN_F32, TN_SHAPE(1, 2)),
                     tn_input(graph, "t", TN_F32, TN_SHAPE(1, 2))};
    tn_node y = tn_focal_tversky(in[0], in[1], 0.2, 0.8, 1, 0);
    expect(graph, in, (const float *const[]){p, target}, 2, &y, (const float *const[]){loss}, 1);
}

static void test_zero_vectors(void **state)
{
    (void)state;
    const float a[3][2] = {{0, 0}, {3, 4}, {0, 0}}, b[3][2] = {{1, 0}, {4, 3}, {0, 0}};
    const float cosine[3] = {0, 0.96F, 0}, unit[6] = {0, 0, 0.6F, 0.8F, 0, 0},
                some[6] = {NAN, NAN, NAN, NAN, NAN, NAN};
    for (int zero_epsilon = 0; zero_epsilon < 2; zero_epsilon++) {
        double epsilon = zero_epsilon ? 0 : 1e-8;
        tn_graph *graph = tn_graph_create(NULL);
        tn_node in[2] = {tn_input(graph, "a", TN_F32, TN_SHAPE(3, 2)),
                         tn_input(graph, "b", TN_F32, TN_SHAPE(3, 2))},
                d[2];
        tn_node y = tn_cosine_similarity(in[0], in[1], 1, epsilon),
                n = tn_normalize(in[0], 1, epsilon);
        tn_gradients(tn_add(total(y), total(n)), in, 2, d);
        expect(graph, in, (const float *const[]){a[0], b[0]}, 2,
               (tn_node[]){y, n, tn_clamp(d[0], -1e30, 1e30), d[1]},
               (const float *const[]){cosine, unit, some, some}, 4);
    }
}

static void test_huber_values(void **state)
{
    (void)state;
    const float e[5] = {0.25F, -0.5F, 2, -3, 0}, loss[5] = {0.03125F, 0.125F, 0.875F, 1.375F, 0},
                d_e[5] = {0.25F, -0.5F, 0.5F, -0.5F, 0};
    tn_graph *graph = tn_graph_create(NULL);
    tn_node in = tn_input(graph, "e", TN_F32, TN_SHAPE(5)), y = tn_huber(in, 0.5), d;
    tn_gradients(total(y), &in, 1, &d);
    expect(graph, &in, (const float *const[]){e}, 1, (tn_node[]){y, d},
           (const float *const[]){loss, d_e}, 2);
}

/* ---- messages -------------------------------------------------------------------------------- */

static void test_bad_labels(void **state)
{
    (void)state;
    for (int k = 0; k < 8; k++) {
        tn_backend backend = k & 1 ? TN_CPU : TN_REF;
        tn_dtype dtype = k & 2 ? TN_I64 : TN_I32, real = k & 4 ? TN_F64 : TN_F32;
        tn_graph *graph = tn_graph_create(NULL);
        tn_node labels = tn_input(graph, "labels", dtype, TN_SHAPE(3));
        tn_node loss = tn_cross_entropy_with(tn_fill(graph, real, TN_SHAPE(3, 4), 0), labels,
                                             (tn_cross_entropy_options){0});
        tn_plan *plan;
        assert_int_equal(tn_compile(&plan, .graph = graph, .feeds = TN_NODES(labels),
                                    .fetches = TN_NODES(loss), .backend = backend),
                         TN_OK);
        double out[3];
        for (int bad = 0; bad < 2; bad++) {
            const int64_t wide[3] = {3, 0, bad ? -2 : 4};
            const int32_t narrow[3] = {3, 0, bad ? -2 : 4};
            assert_int_equal(tn_run(plan,
                                    (const void *[]){dtype == TN_I64 ? (const void *)wide : narrow},
                                    (void *[]){out}),
                             TN_INVALID);
            if (!strstr(tn_message(), bad ? "label -2 in row 2 is outside 0..3"
                                          : "label 4 in row 2 is outside 0..3"))
                fail_msg("%s", tn_message());
        }
        tn_plan_free(plan);
        tn_graph_free(graph);
    }
}

static void test_messages(void **state)
{
    (void)state;
#define REFUSED(expression, part)                                                                  \
    do {                                                                                           \
        tn_graph *graph = tn_graph_create(NULL);                                                   \
        tn_node x = tn_input(graph, "x", TN_F32, TN_SHAPE(4, 3)),                                  \
                other = tn_input(graph, "other", TN_F32, TN_SHAPE(5, 2));                          \
        tn_node i = tn_input(graph, "i", TN_I32, TN_SHAPE(4)),                                     \
                scalar = tn_input(graph, "s", TN_F32, TN_SCALAR);                                  \
        (void)x, (void)other, (void)i, (void)scalar;                                               \
        assert_true(tn_is_none(expression));                                                       \
        check_refused(graph, part);                                                                \
        tn_graph_free(graph);                                                                      \
    } while (0)
    tn_cross_entropy_options plain = {0};
    REFUSED(tn_cross_entropy_with(tn_reshape(x, TN_SHAPE(2, 2, 3)), i, plain),
            "reshape [B, L, V] first");
    REFUSED(tn_cross_entropy_with(x, tn_cast(i, TN_F32), plain), "want i32 or i64 [4]");
    REFUSED(tn_cross_entropy_with(other, i, plain), "logits [5, 2] want i32 or i64 [5]");
    REFUSED(tn_cross_entropy_with(x, i, (tn_cross_entropy_options){.smoothing = 1}),
            "smoothing is 1; it must lie in [0, 1)");
    REFUSED(tn_cross_entropy_soft(x, other), "shapes [4, 3] and [5, 2] differ");
    REFUSED(tn_cross_entropy_soft(scalar, scalar), "[N, V]");
    REFUSED(tn_bce_with_logits(x, i), "bce_with_logits of f32 and i32");
    REFUSED(tn_kl_divergence(x, other, 1), "differ");
    REFUSED(tn_kl_divergence(x, x, 2), "axis 2");
    REFUSED(tn_huber(x, 0), "delta is 0");
    REFUSED(tn_dice_loss(x, other, 0), "dice_loss: shapes");
    REFUSED(tn_dice_loss(x, x, -1), "smooth is -1");
    REFUSED(tn_dice_loss(scalar, scalar, 0), "the first dimension must be the batch");
    REFUSED(tn_focal_tversky(x, x, 0.5, 0.5, 0, 1), "gamma 0");
    REFUSED(tn_cosine_similarity(x, other, 0, 0), "cosine_similarity: shapes");
    REFUSED(tn_cosine_similarity(x, x, 0, -1), "epsilon is -1");
    REFUSED(tn_cosine_similarity_list((tn_node[]){x}, (tn_node[]){other}, 1, 0),
            "cosine_similarity_list: shapes");
    REFUSED(tn_normalize(tn_cast(x, TN_I32), 0, 0), "normalize of i32");
    REFUSED(tn_normalize(x, 5, 0), "axis 5");
    REFUSED(tn_info_nce(x, other, 1), "query [N, E], key [M, E]");
    REFUSED(tn_info_nce(x, x, 0), "temperature is 0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cross_entropy),
        cmocka_unit_test(test_cross_entropy_large),
        cmocka_unit_test(test_decompositions),
        cmocka_unit_test(test_distributions),
        cmocka_unit_test(test_regression_and_overlap),
        cmocka_unit_test(test_angles),
        cmocka_unit_test(test_cross_entropy_edges),
        cmocka_unit_test(test_soft_edges),
        cmocka_unit_test(test_bce_edges),
        cmocka_unit_test(test_kl_edges),
        cmocka_unit_test(test_overlap_values),
        cmocka_unit_test(test_tversky_sides),
        cmocka_unit_test(test_zero_vectors),
        cmocka_unit_test(test_huber_values),
        cmocka_unit_test(test_bad_labels),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
