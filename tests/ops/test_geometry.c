/* Grid sampling and resizing: values against PyTorch's, gradients to second order, both borders,
 * coordinates that are no numbers, adjoints, channels-last, every kind in one to three
 * dimensions. */
#include "graph_check.h"

#include "golden/geometry.h"
#include "graph/geometry.h"
#include "graph/kernel.h"

/* The input of the golden values. */
static void golden_numbers(double *x, int64_t count, int period, double scale, double offset)
{
    for (int64_t i = 0; i < count; i++)
        x[i] = ((double)(i * 37 % period) / 16 - 2) * scale + offset;
}

/* Runs one output on f64 feeds on a backend; f32 on the CPU. */
static void evaluate(tn_backend backend, tn_node *in, const double *const *values, int in_count,
                     tn_node *out, int out_count, double **result)
{
    tn_plan *plan;
    tn_compile_options options = {.graph = out[0].graph,
                                  .feeds = {in, in_count},
                                  .fetches = {out, out_count},
                                  .backend = backend};
    if (tn_compile_with(&plan, &options) != TN_OK) fail_msg("%s", tn_message());
    void *feed[4], *fetch[4];
    for (int i = 0; i < in_count; i++)
        feed[i] = check_typed(tn_dtype_of(in[i]), values[i], tn_shape_size(tn_shape_of(in[i])));
    for (int i = 0; i < out_count; i++)
        fetch[i] = calloc((size_t)tn_shape_size(tn_shape_of(out[i])) + 1, 8);
    if (tn_run(plan, (const void *const *)feed, fetch) != TN_OK) fail_msg("%s", tn_message());
    for (int i = 0; i < out_count; i++) {
        result[i] = check_doubles(tn_dtype_of(out[i]), fetch[i],
                                  tn_shape_size(tn_shape_of(out[i])));
        free(fetch[i]);
    }
    for (int i = 0; i < in_count; i++) free(feed[i]);
    tn_plan_free(plan);
}

static void expect_close(const char *what, size_t which, const double *got, const double *expected,
                         int64_t count, double tolerance)
{
    for (int64_t i = 0; i < count; i++)
        if (!(fabs(got[i] - expected[i]) <= tolerance))
            fail_msg("%s %zu: element %lld is %.9g, not %.9g", what, which, (long long)i, got[i],
                     expected[i]);
}

/* ---- against PyTorch ------------------------------------------------------------------------- */

static const struct {
    tn_backend backend;
    tn_dtype dtype;
    double tolerance;
} ways[] = {{TN_REF, TN_F64, 1e-9},
            {TN_CPU, TN_F64, 1e-9},
            {TN_CPU, TN_F32, 2e-6},
            {TN_CPU, TN_BF16, 2e-2}};

static void test_golden_resize(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof golden_resizes / sizeof *golden_resizes; k++)
        for (size_t way = 0; way < sizeof ways / sizeof *ways; way++) {
            const struct golden_resize *g = &golden_resizes[k];
            tn_shape shape = {.rank = g->rank + 2, .dim = {1, 2}};
            for (int i = 0; i < g->rank; i++) shape.dim[i + 2] = g->from[i];
            tn_graph *graph = tn_graph_create(NULL);
            tn_node x = tn_input(graph, "x", ways[way].dtype, shape),
                    y = tn_resize(x, g->to, g->kind, g->corners);
            double *value = calloc((size_t)tn_shape_size(shape), sizeof *value), *got;
            golden_numbers(value, tn_shape_size(shape), 61, 1, 0);
            evaluate(ways[way].backend, &x, (const double *const[]){value}, 1, &y, 1, &got);
            expect_close("resize", k, got, g->y, tn_shape_size(tn_shape_of(y)),
                         ways[way].tolerance);
            free(value);
            free(got);
            tn_graph_free(graph);
        }
}

static void test_golden_sample(void **state)
{
    (void)state;
    double image[80], grid[168], d[168];
    golden_numbers(image, 80, 61, 1, 0);
    golden_numbers(grid, 168, 101, 1.7, 0.31);
    golden_numbers(d, 168, 53, 1, 0);
    for (size_t k = 0; k < sizeof golden_samples / sizeof *golden_samples; k++)
        for (size_t way = 0; way < 3; way++) {
            tn_graph *graph = tn_graph_create(NULL);
            tn_dtype dtype = ways[way].dtype;
            tn_node in[3] = {tn_input(graph, "image", dtype, TN_SHAPE(2, 2, 4, 5)),
                             tn_input(graph, "grid", dtype, TN_SHAPE(2, 6, 7, 2)),
                             tn_input(graph, "d", dtype, TN_SHAPE(2, 2, 6, 7))};
            tn_node out[3] = {tn_grid_sample(in[0], in[1], golden_samples[k].border)};
            tn_vjp(&out[0], &in[2], 1, in, 2, &out[1]);
            double *got[3];
            evaluate(ways[way].backend, in, (const double *const[]){image, grid, d}, 3, out, 3,
                     got);
            expect_close("sample", k, got[0], golden_samples[k].y, 168, ways[way].tolerance);
            expect_close("image gradient", k, got[1], golden_samples[k].d_image, 80,
                         10 * ways[way].tolerance);
            expect_close("grid gradient", k, got[2], golden_samples[k].d_grid, 168,
                         10 * ways[way].tolerance);
            for (int i = 0; i < 3; i++) free(got[i]);
            tn_graph_free(graph);
        }
}

/* ---- gradients and backends ------------------------------------------------------------------ */

typedef struct resize_option {
    int64_t to[3];
    tn_resize_kind kind;
    bool corners, turned; /* turned: the input lies as channels-last */
} resize_option;

static int build_resize(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const resize_option *o = option;
    tn_node x = in[0];
    if (o->turned) { /* [B, H, W, C] seen as [B, C, H, W] */
        int rank = tn_rank(x), permutation[TN_MAX_RANK] = {0, rank - 1};
        for (int i = 2; i < rank; i++) permutation[i] = i - 1;
        x = tn_transpose(x, permutation);
    }
    out[0] = tn_square(tn_resize(x, o->to, o->kind, o->corners));
    return 1;
}

static void test_resize(void **state)
{
    (void)state;
    static const struct {
        tn_shape shape;
        int64_t to[3];
        bool turned;
    } cases[] = {
        {{3, {2, 3, 5}}, {9}, false},
        {{3, {1, 2, 700}}, {300}, false},
        {{3, {2, 6, 3}}, {7}, true},
        {{4, {2, 3, 4, 5}}, {8, 10}, false},
        {{4, {1, 2, 9, 6}}, {4, 3}, false},
        {{4, {2, 4, 5, 3}}, {8, 10}, true},
        {{4, {1, 6, 5, 300}}, {3, 4}, true},
        {{4, {2, 3, 4, 5}}, {1, 1}, false},
        {{4, {2, 4, 5, 3}}, {1, 1}, true},
        {{4, {2, 1, 1, 3}}, {3, 2}, true},
        {{5, {1, 2, 3, 4, 2}}, {5, 4, 3}, false},
        {{5, {2, 3, 2, 4, 5}}, {2, 5, 2}, true},
        {{4, {0, 3, 4, 5}}, {8, 10}, false},
        {{4, {1, 1, 40, 40}}, {3, 2}, false},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        for (int kind = 0; kind < 6; kind++) { /* the last two: with corners */
            resize_option option = {.kind = kind < 4    ? (tn_resize_kind)kind
                                            : kind == 4 ? TN_RESIZE_BILINEAR
                                                        : TN_RESIZE_CUBIC,
                                    .corners = kind >= 4,
                                    .turned = cases[k].turned};
            memcpy(option.to, cases[k].to, sizeof option.to);
            char name[64];
            snprintf(name, sizeof name, "resize case %zu kind %d", k, kind);
            check_case c = {.name = name,
                            .in = {{.shape = cases[k].shape}},
                            .in_count = 1,
                            .build = build_resize,
                            .option = &option,
                            .second_order = true,
                            .bf16 = true};
            check_run(&c, 31);
        }
}

typedef struct sample_option {
    tn_border border;
    bool turned;
} sample_option;

static int build_sample(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const sample_option *o = option;
    tn_node image = o->turned ? tn_transpose(in[0], TN_PERMUTE(0, 3, 1, 2)) : in[0];
    out[0] = tn_square(tn_grid_sample(image, in[1], o->border));
    return 1;
}

/* Coordinates in and out of the image, at least 1/64 from where the derivative jumps. */
static void test_grid_sample(void **state)
{
    (void)state;
    static const struct {
        tn_shape image, grid;
        bool turned;
    } cases[] = {
        {{4, {2, 3, 4, 5}}, {4, {2, 3, 4, 2}}, false},
        {{4, {1, 1, 1, 1}}, {4, {1, 2, 3, 2}}, false},
        {{4, {1, 4, 6, 19}}, {4, {1, 9, 13, 2}}, true},
        {{4, {2, 5, 6, 7}}, {4, {2, 12, 11, 2}}, false},
        {{4, {1, 3, 3, 35}}, {4, {1, 3, 3, 2}}, true},
        {{4, {2, 3, 4, 5}}, {4, {2, 0, 4, 2}}, false},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        for (int border = 0; border < 2; border++) {
            int64_t count = tn_shape_size(cases[k].grid);
            double *points = calloc((size_t)count + 1, sizeof *points);
            for (int64_t i = 0; i < count; i++)
                points[i] = floor((double)tn_random_uniform(8, k, (uint64_t)i) * 9 - 2) + 0.0625 +
                            0.875 * floor(16 * (double)tn_random_uniform(9, k, (uint64_t)i)) / 16;
            sample_option option = {.border = (tn_border)border, .turned = cases[k].turned};
            check_case c = {.name = border ? "grid sample, clamped" : "grid sample",
                            .in = {{.shape = cases[k].image},
                                   {.shape = cases[k].grid, .values = points, .stays_f32 = true}},
                            .in_count = 2,
                            .build = build_sample,
                            .option = &option,
                            .second_order = true,
                            .bf16 = true,
                            .tolerance = 1e-4,
                            .bf16_tolerance = 4e-2,
                            .difference_tolerance = 1e-5};
            check_run(&c, 41 + k);
            free(points);
        }
}

/* The kernels' values and gradients against those of the decomposition, strange coordinates
 * included. */
static void test_sample_decomposition(void **state)
{
    (void)state;
    for (int border = 0; border < 2; border++) {
        tn_graph *graph = tn_graph_create(NULL);
        tn_node in[3] = {tn_input(graph, "image", TN_F64, TN_SHAPE(2, 3, 4, 5)),
                         tn_input(graph, "grid", TN_F64, TN_SHAPE(2, 6, 7, 2)),
                         tn_input(graph, "d", TN_F64, TN_SHAPE(2, 3, 6, 7))};
        tn_node y = tn_grid_sample(in[0], in[1], (tn_border)border), out[6] = {y},
                simpler[TN_MAX_RESULTS];
        tn_vjp(&y, &in[2], 1, in, 2, &out[1]);
        tn_decompose(y, simpler);
        out[3] = simpler[0];
        tn_vjp(&out[3], &in[2], 1, in, 2, &out[4]);
        assert_int_equal(tn_graph_status(graph), TN_OK);
        double image[120], grid[168], d[252], *got[3], *expected[3];
        golden_numbers(image, 120, 61, 1, 0);
        golden_numbers(grid, 168, 101, 2.3, 1);
        golden_numbers(d, 252, 53, 1, 0);
        grid[0] = NAN, grid[1] = 1, grid[2] = 2, grid[3] = NAN, grid[4] = INFINITY, grid[5] = 1,
        grid[6] = 1, grid[7] = -INFINITY, grid[8] = 1e30, grid[9] = -1e30;
        const double *values[3] = {image, grid, d};
        for (int b = 0; b < 2; b++) {
            evaluate(b ? TN_REF : TN_CPU, in, values, 3, out, 3, got);
            evaluate(b ? TN_REF : TN_CPU, in, values, 3, out + 3, 3, expected);
            for (int i = 0; i < 3; i++) {
                expect_close("result", (size_t)i, got[i], expected[i],
                             tn_shape_size(tn_shape_of(out[i])), 1e-9);
                free(got[i]);
                free(expected[i]);
            }
        }
        tn_graph_free(graph);
    }
}

/* No numbers and far away: defined values, and no gradient to the grid. */
static void test_strange_coordinates(void **state)
{
    (void)state;
    for (int turned = 0; turned < 2; turned++)
        for (int way = 0; way < 2; way++)
            for (int border = 0; border < 2; border++) {
                tn_graph *graph = tn_graph_create(NULL);
                tn_node image = tn_input(graph, "image", TN_F32,
                                         turned ? TN_SHAPE(1, 2, 3, 2) : TN_SHAPE(1, 2, 2, 3));
                tn_node seen = turned ? tn_transpose(image, TN_PERMUTE(0, 3, 1, 2)) : image;
                tn_node in[2] = {image, tn_input(graph, "grid", TN_F32, TN_SHAPE(1, 1, 6, 2))},
                        d[2];
                tn_node out[3] = {tn_grid_sample(seen, in[1], (tn_border)border)};
                tn_gradients(tn_sum(out[0], TN_ALL_AXES), in, 2, d);
                out[1] = d[1];
                const double pixels[12] = {1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6},
                             last[12] = {1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6};
                const double grid[12] = {NAN,       0, 1,    NAN,   INFINITY, 1,
                                         -INFINITY, 1, 3e38, -3e38, 1,        1},
                             *values[2] = {turned ? last : pixels, grid};
                double *got[2];
                evaluate(way ? TN_REF : TN_CPU, in, values, 2, out, 2, got);
                static const double expected[2][6] = {{0, 0, 0, 0, 0, 5}, {1, 2, 6, 4, 3, 5}};
                for (int c = 0; c < 2; c++)
                    expect_close("sample", (size_t)border, got[0] + 6 * c, expected[border], 6, 0);
                static const int strange[] = {0, 3, 4, 6, 8, 9};
                for (size_t i = 0; i < sizeof strange / sizeof *strange; i++)
                    assert_true(got[1][strange[i]] == 0);
                for (int i = 0; i < 12; i++) assert_true(isfinite(got[1][i]));
                free(got[0]);
                free(got[1]);
                tn_graph_free(graph);
            }
}

/* A pixel that is no number spoils only the samples that touch it, not those outside the image. */
static void test_bad_pixels_stay_local(void **state)
{
    (void)state;
    tn_graph *graph = tn_graph_create(NULL);
    tn_node in[2] = {tn_input(graph, "image", TN_F32, TN_SHAPE(1, 1, 2, 2)),
                     tn_input(graph, "grid", TN_F32, TN_SHAPE(1, 1, 3, 2))};
    tn_node y = tn_grid_sample(in[0], in[1], TN_BORDER_ZERO);
    const double image[4] = {NAN, 2, INFINITY, 4}, grid[6] = {-3, -3, 1.5, 1, -1.5, 0},
                 *values[2] = {image, grid};
    double *got;
    evaluate(TN_CPU, in, values, 2, &y, 1, &got);
    assert_true(got[0] == 0 && got[1] == 2 && got[2] == 0);
    free(got);
    tn_graph_free(graph);
}

static int build_affine(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    out[0] = tn_square(tn_affine_grid(in[0], 3, 4));
    return 1;
}

static void test_affine_grid(void **state)
{
    (void)state;
    check_case c = {.name = "affine grid",
                    .in = {{.shape = TN_SHAPE(2, 2, 3)}},
                    .in_count = 1,
                    .build = build_affine,
                    .second_order = true};
    check_run(&c, 2);
    tn_graph *graph = tn_graph_create(NULL);
    tn_node matrix = tn_input(graph, "matrix", TN_F32, TN_SHAPE(1, 2, 3)),
            grid = tn_affine_grid(matrix, 3, 4);
    const double m[6] = {2, 3, 5, 7, 11, 13}, *values[1] = {m};
    double *got;
    evaluate(TN_CPU, &matrix, values, 1, &grid, 1, &got);
    for (int y = 0; y < 3; y++)
        for (int x = 0; x < 4; x++) {
            assert_true(got[(y * 4 + x) * 2] == 2 * x + 3 * y + 5);
            assert_true(got[(y * 4 + x) * 2 + 1] == 7 * x + 11 * y + 13);
        }
    free(got);
    tn_graph_free(graph);
}

/* Channels-last inputs keep their layout. */
static void test_layouts(void **state)
{
    (void)state;
    tn_operand in[3] = {
        {.dtype = TN_F32, .rank = 4, .dim = {2, 8, 5, 6}, .stride = {240, 1, 48, 8}},
        {.dtype = TN_F32, .rank = 4},
        {.dtype = TN_F32, .rank = 4}};
    static const tn_op_id ids[] = {TN_OP_RESIZE, TN_OP_RESIZE_GRAD, TN_OP_GRID_SAMPLE,
                                   TN_OP_GRID_SAMPLE_GRAD};
    for (size_t i = 0; i < 4; i++) {
        tn_layout wanted[3] = {TN_ROWS, TN_ROWS, TN_ROWS}, out[2] = {TN_ROWS, TN_ROWS};
        tn_step step = {.op = tn_op_find(ids[i]),
                        .in_count = ids[i] == TN_OP_GRID_SAMPLE_GRAD ? 3
                                    : ids[i] == TN_OP_GRID_SAMPLE    ? 2
                                                                     : 1,
                        .in = in};
        tn_cpu_kernels()->kernel[ids[i]]->layouts(&step, wanted, out);
        assert_int_equal(wanted[0], TN_CHANNELS_LAST);
        assert_int_equal(out[0], TN_CHANNELS_LAST);
        assert_int_equal(wanted[1], TN_ROWS);
        assert_int_equal(wanted[2], step.in_count == 3 ? TN_CHANNELS_LAST : TN_ROWS);
    }
}

/* <resize(x), y> = <x, adjoint(y)> on large tensors, at one and two threads with the same bits. */
static void test_large_adjoints(void **state)
{
    (void)state;
    for (int kind = 0; kind < 4; kind++)
        for (int turned = 0; turned < 2; turned++) {
            tn_graph *graph = tn_graph_create(NULL);
            tn_shape shape = turned ? TN_SHAPE(2, 40, 50, 24) : TN_SHAPE(2, 24, 40, 50),
                     to = TN_SHAPE(2, 24, 80, 75);
            tn_node x = tn_input(graph, "x", TN_F32, shape), d = tn_input(graph, "d", TN_F32, to),
                    seen = turned ? tn_transpose(x, TN_PERMUTE(0, 3, 1, 2)) : x;
            tn_node y = tn_resize(seen, (int64_t[]){80, 75}, (tn_resize_kind)kind, false), d_x;
            tn_vjp(&y, &d, 1, &x, 1, &d_x);
            int64_t n = tn_shape_size(shape), m = tn_shape_size(to);
            float *in = calloc((size_t)n, sizeof *in), *d_out = calloc((size_t)m, sizeof *d_out),
                  *out[2], *d_in[2];
            for (int64_t i = 0; i < n; i++) in[i] = tn_random_uniform(1, 1, (uint64_t)i) - 0.5F;
            for (int64_t i = 0; i < m; i++) d_out[i] = tn_random_uniform(1, 2, (uint64_t)i) - 0.5F;
            for (int t = 0; t < 2; t++) {
                tn_plan *plan;
                tn_set_thread_count(t + 1);
                out[t] = calloc((size_t)m, sizeof(float));
                d_in[t] = calloc((size_t)n, sizeof(float));
                if (tn_compile(&plan, .graph = graph, .feeds = TN_NODES(x, d),
                               .fetches = TN_NODES(y, d_x)) != TN_OK)
                    fail_msg("%s", tn_message());
                assert_int_equal(
                    tn_run(plan, (const void *[]){in, d_out}, (void *[]){out[t], d_in[t]}), TN_OK);
                tn_plan_free(plan);
            }
            tn_set_thread_count(0);
            assert_memory_equal(out[0], out[1], (size_t)m * sizeof(float));
            assert_memory_equal(d_in[0], d_in[1], (size_t)n * sizeof(float));
            double left = 0, right = 0, size = 0;
            for (int64_t i = 0; i < m; i++)
                left += (double)out[0][i] * (double)d_out[i],
                    size += fabs((double)out[0][i] * (double)d_out[i]);
            for (int64_t i = 0; i < n; i++) right += (double)in[i] * (double)d_in[0][i];
            if (!(fabs(left - right) <= 1e-6 * size))
                fail_msg("kind %d: %.9g and %.9g", kind, left, right);
            for (int t = 0; t < 2; t++) free(out[t]), free(d_in[t]);
            free(in);
            free(d_out);
            tn_graph_free(graph);
        }
}

#define REFUSED(part, expression)                                                                  \
    do {                                                                                           \
        tn_graph *graph = tn_graph_create(NULL);                                                   \
        tn_node x = tn_input(graph, "x", TN_F32, TN_SHAPE(1, 2, 4, 5)),                            \
                i = tn_input(graph, "i", TN_I32, TN_SHAPE(1, 2, 4, 5));                            \
        tn_node g = tn_input(graph, "g", TN_F32, TN_SHAPE(1, 3, 3, 2));                            \
        (void)x, (void)i, (void)g;                                                                 \
        (void)(expression);                                                                        \
        check_refused(graph, part);                                                                \
        tn_graph_free(graph);                                                                      \
    } while (0)

static void test_messages(void **state)
{
    (void)state;
    const int64_t to[3] = {3, 3, 3}, none[2] = {3, 0};
    REFUSED("with 1 to 3 spatial dimensions",
            tn_resize(tn_reshape(x, TN_SHAPE(8, 5)), to, TN_RESIZE_AREA, false));
    REFUSED("resize of i32: cast to a floating-point type",
            tn_resize(i, to, TN_RESIZE_NEAREST, false));
    REFUSED("align_corners is for bilinear and cubic only",
            tn_resize(x, to, TN_RESIZE_NEAREST, true));
    REFUSED("no spatial dimension may be empty", tn_resize(x, none, TN_RESIZE_BILINEAR, false));
    REFUSED("grid_sample: the grid is empty", tn_grid_sample(x, TN_NONE, TN_BORDER_ZERO));
    REFUSED("the image is i32 and the grid f32", tn_grid_sample(i, g, TN_BORDER_ZERO));
    REFUSED("it wants an image [B, C, H, W] and a grid [B, h, w, 2]",
            tn_grid_sample(x, x, TN_BORDER_ZERO));
    REFUSED("an image of 0 x 5 pixels", tn_grid_sample(tn_slice(x, 2, 1, 1, 1), g, TN_BORDER_ZERO));
    REFUSED("it wants matrices [B, 2, 3]", tn_affine_grid(g, 3, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_resize),
        cmocka_unit_test(test_golden_sample),
        cmocka_unit_test(test_resize),
        cmocka_unit_test(test_grid_sample),
        cmocka_unit_test(test_sample_decomposition),
        cmocka_unit_test(test_strange_coordinates),
        cmocka_unit_test(test_bad_pixels_stay_local),
        cmocka_unit_test(test_affine_grid),
        cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_large_adjoints),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
