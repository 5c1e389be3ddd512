/* Gather, scatter, take, put, segments, sorting: values, gradients to second order, fixed order of
 * sums, and bad indices. */
#include "graph_check.h"

#include "graph/kernel.h"

/* ---- gradients and backends ------------------------------------------------------------------ */

static int build_gather(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    out[0] = tn_square(tn_gather(in[0], in[1], *(const int *)option));
    return 1;
}

static int build_scatter(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    int axis = *(const int *)option;
    tn_shape shape = tn_shape_of(in[0]), index = tn_shape_of(in[1]);
    tn_shape into = {.rank = shape.rank - index.rank + 1};
    for (int i = 0; i < into.rank; i++)
        into.dim[i] = i < axis ? shape.dim[i] : i == axis ? 6 : shape.dim[i + index.rank - 1];
    out[0] = tn_square(tn_scatter_add(into, in[1], in[0], axis));
    return 1;
}

static int build_take(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    out[0] = tn_square(tn_take_along(in[0], in[1], *(const int *)option));
    return 1;
}

static int build_put(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    int axis = *(const int *)option;
    tn_shape shape = tn_shape_of(in[0]);
    shape.dim[axis] = 6;
    out[0] = tn_square(tn_put_along(shape, in[1], in[0], axis));
    return 1;
}

static void index_case(const char *name,
                       int (*build)(tn_graph *, const tn_node *, tn_node *, const void *),
                       tn_shape x, tn_shape index, tn_dtype dtype, int64_t bound, int axis)
{
    check_case c = {
        .name = name,
        .in = {{.shape = x}, {.dtype = dtype, .shape = index, .low = 0, .high = (double)bound}},
        .in_count = 2,
        .build = build,
        .option = &axis,
        .second_order = true,
        .bf16 = true,
        .bf16_tolerance = 5e-2};
    check_run(&c, 5);
}

static void test_gather(void **state)
{
    (void)state;
    index_case("embedding", build_gather, TN_SHAPE(7, 5), TN_SHAPE(4, 3), TN_I32, 7, 0);
    index_case("embedding of one", build_gather, TN_SHAPE(7, 40), TN_SCALAR, TN_I64, 7, 0);
    index_case("gather middle", build_gather, TN_SHAPE(2, 6, 3), TN_SHAPE(9), TN_I64, 6, 1);
    index_case("gather last", build_gather, TN_SHAPE(3, 6), TN_SHAPE(2, 2), TN_U8, 6, 1);
    index_case("gather nothing", build_gather, TN_SHAPE(3, 6), TN_SHAPE(0, 2), TN_I32, 3, 0);
    index_case("gather from nothing", build_gather, TN_SHAPE(3, 0), TN_SHAPE(2), TN_I32, 3, 0);
}

static void test_scatter(void **state)
{
    (void)state;
    index_case("scatter rows", build_scatter, TN_SHAPE(9, 5), TN_SHAPE(9), TN_I32, 6, 0);
    index_case("scatter all to one row", build_scatter, TN_SHAPE(40, 3), TN_SHAPE(40), TN_I64, 1,
               0);
    index_case("scatter matrix of indices", build_scatter, TN_SHAPE(2, 4, 3, 5), TN_SHAPE(4, 3),
               TN_I32, 6, 1);
    index_case("scatter last", build_scatter, TN_SHAPE(3, 20), TN_SHAPE(20), TN_I32, 6, 1);
    index_case("scatter nothing", build_scatter, TN_SHAPE(0, 5), TN_SHAPE(0), TN_I32, 6, 0);
    index_case("scatter wide", build_scatter, TN_SHAPE(12, 600), TN_SHAPE(12), TN_I32, 6, 0);
}

static void test_take_and_put(void **state)
{
    (void)state;
    index_case("take last", build_take, TN_SHAPE(3, 8), TN_SHAPE(3, 4), TN_I64, 8, 1);
    index_case("take first", build_take, TN_SHAPE(6, 5), TN_SHAPE(9, 5), TN_I32, 6, 0);
    index_case("take middle", build_take, TN_SHAPE(2, 6, 70), TN_SHAPE(2, 3, 70), TN_I32, 6, 1);
    index_case("take nothing", build_take, TN_SHAPE(3, 8), TN_SHAPE(3, 0), TN_I64, 8, 1);
    index_case("put last", build_put, TN_SHAPE(3, 9), TN_SHAPE(3, 9), TN_I64, 6, 1);
    index_case("put first", build_put, TN_SHAPE(9, 5), TN_SHAPE(9, 5), TN_I32, 6, 0);
    index_case("put middle", build_put, TN_SHAPE(2, 4, 130), TN_SHAPE(2, 4, 130), TN_I32, 6, 1);
    index_case("put nothing", build_put, TN_SHAPE(0, 5), TN_SHAPE(0, 5), TN_I32, 6, 0);
}

static int build_segments(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    out[0] = tn_square(tn_segment_sum(in[0], in[1]));
    out[1] = tn_square(tn_segment_mean(in[0], in[1]));
    out[2] = tn_square(tn_segment_broadcast(tn_segment_sum(in[0], in[1]), in[1], tn_dim(in[0], 0)));
    return 3;
}

static int build_segment_max(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    out[0] = tn_square(tn_segment_max(in[0], in[1]));
    return 1;
}

static void test_segments(void **state)
{
    (void)state;
    static const struct {
        double offset[6];
        int64_t segments, rows;
        tn_shape shape;
    } cases[] = {
        {{0, 3, 3, 4, 9}, 4, 9, {2, {9, 5}}}, /* one is empty */
        {{2, 3, 8}, 2, 11, {3, {11, 2, 3}}},  /* rows before and behind belong to nobody */
        {{0, 0}, 1, 0, {2, {0, 4}}},
        {{0}, 0, 3, {2, {3, 4}}},
        {{0, 400}, 1, 400, {1, {400}}}, /* summed in blocks */
        {{0, 1, 300, 300, 301, 302}, 5, 302, {2, {302, 270}}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_case c = {.name = "segment sum, mean, broadcast",
                        .in = {{.shape = cases[i].shape},
                               {.dtype = TN_I32,
                                .shape = TN_SHAPE(cases[i].segments + 1),
                                .values = cases[i].offset}},
                        .in_count = 2,
                        .build = build_segments,
                        .second_order = true,
                        .bf16 = true,
                        .tolerance = 1e-4,
                        .bf16_tolerance = 6e-2,
                        .difference_tolerance = 1e-5};
        check_run(&c, 7 + i);
    }
}

/* No two values of a column are equal: differences across a tie mean nothing. */
static void test_segment_max(void **state)
{
    (void)state;
    static const struct {
        double offset[5];
        int64_t segments, rows;
    } cases[] = {{{0, 3, 3, 4, 9}, 4, 9}, {{2, 3, 8}, 2, 11}, {{0, 0}, 1, 0}, {{0}, 0, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double value[64];
        for (int k = 0; k < 64; k++)
            value[k] = (k / 5 * 7 + k % 5 * 3) % 16 / 16.0 - 0.5 + 0.0078125;
        check_case c = {.name = "segment max",
                        .in = {{.shape = TN_SHAPE(cases[i].rows, 5), .values = value},
                               {.dtype = TN_I32,
                                .shape = TN_SHAPE(cases[i].segments + 1),
                                .values = cases[i].offset}},
                        .in_count = 2,
                        .build = build_segment_max,
                        .second_order = true,
                        .bf16 = true};
        check_run(&c, 1);
    }
}

/* Ties share the gradient; NaN and empty segments get none. */
static void test_segment_max_ties(void **state)
{
    (void)state;
    for (int b = 0; b < 2; b++) {
        tn_graph *graph = tn_graph_create(NULL);
        tn_node x = tn_input(graph, "x", TN_F32, TN_SHAPE(6)),
                offsets = tn_input(graph, "offsets", TN_I32, TN_SHAPE(4)),
                y = tn_segment_max(x, offsets), d;
        tn_gradients(tn_sum(y, TN_ALL_AXES), &x, 1, &d);
        tn_plan *plan;
        assert_int_equal(tn_compile(&plan, .graph = graph, .feeds = TN_NODES(x, offsets),
                                    .fetches = TN_NODES(y, d), .backend = b ? TN_REF : TN_CPU),
                         TN_OK);
        float values[6] = {-1, -3, -1, 5, NAN, 2}, most[3], slope[6];
        int32_t split[4] = {0, 3, 3, 6};
        assert_int_equal(tn_run(plan, (const void *[]){values, split}, (void *[]){most, slope}),
                         TN_OK);
        assert_true(most[0] == -1 && most[1] == 0 && isnan(most[2]));
        assert_true(slope[0] == 0.5F && slope[1] == 0 && slope[2] == 0.5F && slope[3] == 0 &&
                    slope[4] == 0 && slope[5] == 0);
        tn_plan_free(plan);
        tn_graph_free(graph);
    }
}

static int build_top_k(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    out[0] = tn_square(tn_top_k(in[0], *(const int *)option).values);
    return 1;
}

static int build_sort(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    out[0] = tn_square(tn_sort(in[0], *(const int *)option).values);
    return 1;
}

static void test_order_gradients(void **state)
{
    (void)state;
    double value[21];
    for (int i = 0; i < 21; i++) value[i] = (i * 8 % 21) / 16.0 - 0.6;
    for (int k = 0; k <= 7; k++) {
        check_case c = {.name = "top k",
                        .in = {{.shape = TN_SHAPE(3, 7), .values = value}},
                        .in_count = 1,
                        .build = build_top_k,
                        .option = &k,
                        .second_order = true,
                        .bf16 = true};
        check_run(&c, 9);
        c.name = "sort";
        c.build = build_sort;
        check_run(&c, 9 + (uint64_t)k);
    }
}

/* ---- sorting against the reference ----------------------------------------------------------- */

/* Rows with ties, zeros of both signs, infinities and NaN; values and indices must be the very ones
 * of the reference. */
static void test_order(void **state)
{
    (void)state;
    static const tn_dtype dtypes[] = {TN_F32, TN_F64, TN_BF16, TN_F16, TN_I64,
                                      TN_I32, TN_I8,  TN_U8,   TN_BOOL};
    static const int64_t widths[] = {1, 2, 7, 48, 49, 300, 2000};
    for (size_t t = 0; t < sizeof dtypes / sizeof *dtypes; t++)
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
            int64_t n = widths[w], rows = n > 500 ? 2 : 19, k = n / 9;
            tn_graph *graph = tn_graph_create(NULL);
            tn_node x = tn_input(graph, "x", dtypes[t], TN_SHAPE(rows, n));
            tn_sort_result up = tn_sort(x, false), down = tn_sort(x, true), top = tn_top_k(x, k),
                           most = tn_top_k(x, n - n / 3);
            tn_node out[] = {up.values,  up.indices,  down.values, down.indices,
                             top.values, top.indices, most.values, most.indices};
            double *value = calloc((size_t)(rows * n), sizeof *value);
            for (int64_t i = 0; i < rows * n; i++) {
                uint64_t r = tn_random_below(3, w, (uint64_t)i, 60);
                value[i] = (double)r - (dtypes[t] == TN_U8 ? 0 : 30);
                if (dtypes[t] == TN_BOOL) value[i] = r > 30;
                if (!tn_dtype_is_float(dtypes[t])) continue;
                value[i] /= 8;
                if (r == 0) value[i] = NAN;
                if (r == 1) value[i] = INFINITY;
                if (r == 2) value[i] = -INFINITY;
                if (r == 30 && i % 2) value[i] = -0.0;
            }
            void *feed = check_typed(dtypes[t], value, rows * n), *result[2][8];
            for (int b = 0; b < 2; b++) {
                tn_plan *plan;
                tn_compile_options options = {.graph = graph,
                                              .feeds = {&x, 1},
                                              .fetches = {out, 8},
                                              .backend = b ? TN_REF : TN_CPU};
                if (tn_compile_with(&plan, &options) != TN_OK) fail_msg("%s", tn_message());
                for (int i = 0; i < 8; i++) result[b][i] = calloc((size_t)(rows * n) + 8, 8);
                if (tn_run(plan, (const void *[]){feed}, result[b]) != TN_OK)
                    fail_msg("%s", tn_message());
                tn_plan_free(plan);
            }
            for (int i = 0; i < 8; i++) {
                int64_t size = tn_shape_size(tn_shape_of(out[i]));
                if (memcmp(result[0][i], result[1][i],
                           (size_t)size * tn_dtype_size(tn_dtype_of(out[i]))) &&
                    !(i % 2 == 0 && tn_dtype_is_float(dtypes[t])))
                    fail_msg("%s rows of %lld: output %d differs", tn_dtype_name(dtypes[t]),
                             (long long)n, i);
                free(result[0][i]);
                free(result[1][i]);
            }
            free(feed);
            free(value);
            tn_graph_free(graph);
        }
}

static void test_order_by_hand(void **state)
{
    (void)state;
    tn_graph *graph = tn_graph_create(NULL);
    tn_node x = tn_input(graph, "x", TN_F32, TN_SHAPE(6));
    tn_sort_result up = tn_sort(x, false), down = tn_sort(x, true), top = tn_top_k(x, 3);
    tn_plan *plan;
    assert_int_equal(
        tn_compile(&plan, .graph = graph, .feeds = TN_NODES(x),
                   .fetches = TN_NODES(up.indices, down.indices, top.indices, top.values)),
        TN_OK);
    float row[6] = {2, -0.0F, NAN, 0, 2, -INFINITY}, values[3];
    int64_t a[6], d[6], t[3];
    assert_int_equal(tn_run(plan, (const void *[]){row}, (void *[]){a, d, t, values}), TN_OK);
    assert_memory_equal(a, ((int64_t[]){5, 1, 3, 0, 4, 2}), sizeof a);
    assert_memory_equal(d, ((int64_t[]){2, 0, 4, 1, 3, 5}), sizeof d);
    assert_memory_equal(t, ((int64_t[]){2, 0, 4}), sizeof t);
    assert_true(isnan(values[0]) && values[1] == 2 && values[2] == 2);
    tn_plan_free(plan);
    tn_graph_free(graph);
}

/* ---- plain values ---------------------------------------------------------------------------- */

static void test_one_hot(void **state)
{
    (void)state;
    static const tn_dtype dtypes[] = {TN_F32, TN_F64, TN_BF16, TN_F16, TN_I64,
                                      TN_I32, TN_I8,  TN_U8,   TN_BOOL};
    for (size_t t = 0; t < sizeof dtypes / sizeof *dtypes; t++) {
        tn_graph *graph = tn_graph_create(NULL);
        tn_node index = tn_input(graph, "index", TN_I64, TN_SHAPE(2, 3)),
                hot = tn_one_hot(index, 4, dtypes[t]);
        for (int b = 0; b < 2; b++) {
            tn_plan *plan;
            unsigned char out[24 * 8];
            int64_t at[6] = {0, 3, -1, 4, 2, INT64_MIN};
            assert_int_equal(tn_compile(&plan, .graph = graph, .feeds = TN_NODES(index),
                                        .fetches = TN_NODES(hot), .backend = b ? TN_REF : TN_CPU),
                             TN_OK);
            assert_int_equal(tn_run(plan, (const void *[]){at}, (void *[]){out}), TN_OK);
            double *value = check_doubles(dtypes[t], out, 24);
            for (int i = 0; i < 24; i++) assert_true(value[i] == (at[i / 4] == i % 4));
            free(value);
            tn_plan_free(plan);
        }
        tn_graph_free(graph);
    }
}

/* bf16 sums are kept in f32: 1 + 300 * 2^-9 would stay 1 otherwise. */
static void test_bf16_sums_are_wide(void **state)
{
    (void)state;
    tn_graph *graph = tn_graph_create(NULL);
    tn_node x = tn_input(graph, "x", TN_BF16, TN_SHAPE(301)),
            index = tn_input(graph, "index", TN_I32, TN_SHAPE(301));
    tn_node offsets = tn_input(graph, "offsets", TN_I32, TN_SHAPE(2));
    tn_plan *plan;
    assert_int_equal(tn_compile(&plan, .graph = graph, .feeds = TN_NODES(x, index, offsets),
                                .fetches = TN_NODES(tn_scatter_add(TN_SHAPE(1), index, x, 0),
                                                    tn_put_along(TN_SHAPE(1), index, x, 0),
                                                    tn_segment_sum(x, offsets))),
                     TN_OK);
    uint16_t values[301], sum[3];
    int32_t zeros[301] = {0}, all[2] = {0, 301};
    for (int i = 0; i < 301; i++) values[i] = tn_bf16_from_f32(i ? 0x1p-9F : 1);
    assert_int_equal(
        tn_run(plan, (const void *[]){values, zeros, all}, (void *[]){&sum[0], &sum[1], &sum[2]}),
        TN_OK);
    for (int i = 0; i < 3; i++)
        assert_near(tn_f32_from_bf16(sum[i]), 1 + 300 * 0x1p-9F, 0.01F);
    tn_plan_free(plan);
    tn_graph_free(graph);
}

/* Large tensors at one and at two threads: the same bits. Sums are compared with f64. */
static void test_large(void **state)
{
    (void)state;
    enum { V = 500, E = 300, T = 3000 };
    tn_graph *graph = tn_graph_create(NULL);
    tn_node table = tn_input(graph, "table", TN_F32, TN_SHAPE(V, E)),
            index = tn_input(graph, "index", TN_I32, TN_SHAPE(T));
    tn_node offsets = tn_input(graph, "offsets", TN_I32, TN_SHAPE(4));
    tn_node rows = tn_gather(table, index, 0);
    tn_node out[] = {rows,
                     tn_scatter_add(TN_SHAPE(V, E), index, rows, 0),
                     tn_segment_sum(rows, offsets),
                     tn_segment_max(rows, offsets),
                     tn_segment_broadcast(tn_segment_sum(rows, offsets), offsets, T),
                     tn_sort(rows, false).indices,
                     tn_put_along(TN_SHAPE(V, E),
                                  tn_broadcast(tn_reshape(index, TN_SHAPE(T, 1)), TN_SHAPE(T, E)),
                                  rows, 0)};
    enum { OUTPUTS = sizeof out / sizeof *out };
    float *x = calloc(V * E, sizeof *x);
    int32_t *at = calloc(T, sizeof *at), split[4] = {0, 10, 2100, T};
    for (int i = 0; i < V * E; i++) x[i] = tn_random_uniform(1, 1, (uint64_t)i) - 0.3F;
    for (int i = 0; i < T; i++) at[i] = i % 3 ? 7 : (int32_t)tn_random_below(1, 2, (uint64_t)i, V);
    void *result[2][OUTPUTS];
    for (int threads = 1; threads <= 2; threads++) {
        tn_plan *plan;
        tn_set_thread_count(threads);
        if (tn_compile(&plan, .graph = graph, .feeds = TN_NODES(table, index, offsets),
                       .fetches = {out, OUTPUTS}) != TN_OK)
            fail_msg("%s", tn_message());
        for (int i = 0; i < OUTPUTS; i++)
            result[threads - 1][i] = calloc((size_t)tn_shape_size(tn_shape_of(out[i])), 8);
        if (tn_run(plan, (const void *[]){x, at, split}, result[threads - 1]) != TN_OK)
            fail_msg("%s", tn_message());
        tn_plan_free(plan);
    }
    tn_set_thread_count(0);
    for (int i = 0; i < OUTPUTS; i++)
        assert_memory_equal(result[0][i], result[1][i],
                            (size_t)tn_shape_size(tn_shape_of(out[i])) *
                                tn_dtype_size(tn_dtype_of(out[i])));
    double *scattered = calloc(V * E, sizeof *scattered), segment[3] = {0};
    for (int t = 0; t < T; t++) {
        for (int e = 0; e < E; e++) scattered[at[t] * E + e] += (double)x[at[t] * E + e];
        segment[t < 10 ? 0 : t < 2100 ? 1 : 2] += (double)x[at[t] * E + 5];
    }
    for (int i = 0; i < V * E; i++) {
        assert_true(fabs((double)((float *)result[0][1])[i] - scattered[i]) <=
                    1e-5 * fabs(scattered[i]) + 1e-6);
        assert_true(fabs((double)((float *)result[0][6])[i] - scattered[i]) <=
                    1e-4 * fabs(scattered[i]) + 1e-6);
    }
    for (int s = 0; s < 3; s++)
        assert_true(fabs((double)((float *)result[0][2])[s * E + 5] - segment[s]) <=
                    2e-6 * fabs(segment[s]));
    for (int i = 0; i < OUTPUTS; i++) free(result[0][i]), free(result[1][i]);
    free(scattered);
    free(x);
    free(at);
    tn_graph_free(graph);
}

/* ---- bad indices ----------------------------------------------------------------------------- */

static void expect_failure(tn_graph *graph, tn_node_list feeds, tn_node out,
                           const void *const *values, const char *part)
{
    for (int b = 0; b < 2; b++) {
        tn_plan *plan;
        if (tn_compile(&plan, .graph = graph, .feeds = feeds, .fetches = TN_NODES(out),
                       .backend = b ? TN_REF : TN_CPU) != TN_OK)
            fail_msg("%s", tn_message());
        void *result = calloc((size_t)tn_shape_size(tn_shape_of(out)) + 1, 8);
        assert_int_equal(tn_run(plan, values, (void *[]){result}), TN_INVALID);
        if (!strstr(tn_message(), part)) fail_msg("'%s' does not hold '%s'", tn_message(), part);
        if (!strstr(tn_message(), "test_index.c:"))
            fail_msg("'%s' does not say where the node was built", tn_message());
        free(result);
        tn_plan_free(plan);
    }
}

static void test_bad_indices(void **state)
{
    (void)state;
    tn_graph *graph = tn_graph_create(NULL);
    tn_node x = tn_input(graph, "x", TN_F32, TN_SHAPE(10, 2)),
            i32 = tn_input(graph, "i32", TN_I32, TN_SHAPE(4)),
            i64 = tn_input(graph, "i64", TN_I64, TN_SHAPE(4, 2));
    tn_node v = tn_input(graph, "v", TN_F32, TN_SHAPE(4, 2)),
            empty = tn_input(graph, "empty", TN_F32, TN_SHAPE(0, 2));
    float values[20] = {0};
    int32_t narrow[4] = {0, 9, 3, 12};
    int64_t wide[8] = {0, 0, 0, 0, 0, -1, 0, 1};
    expect_failure(graph, TN_NODES(x, i32), tn_gather(x, i32, 0), (const void *[]){values, narrow},
                   "index 12 at position 3 is outside 0..9");
    expect_failure(graph, TN_NODES(v, i32), tn_scatter_add(TN_SHAPE(10, 2), i32, v, 0),
                   (const void *[]){values, narrow}, "index 12 at position 3 is outside 0..9");
    expect_failure(graph, TN_NODES(x, i64), tn_take_along(x, i64, 0),
                   (const void *[]){values, wide}, "index -1 at position 5 is outside 0..9");
    expect_failure(graph, TN_NODES(v, i64), tn_put_along(TN_SHAPE(10, 2), i64, v, 0),
                   (const void *[]){values, wide}, "index -1 at position 5 is outside 0..9");
    narrow[1] = INT32_MIN;
    expect_failure(graph, TN_NODES(x, i32), tn_gather(x, i32, 0), (const void *[]){values, narrow},
                   "index -2147483648 at position 1");
    tn_plan *plan;
    assert_int_equal(tn_compile(&plan, .graph = graph, .feeds = TN_NODES(empty, i32),
                                .fetches = TN_NODES(tn_gather(empty, i32, 0))),
                     TN_OK);
    assert_int_equal(tn_run(plan, (const void *[]){values, narrow}, (void *[]){values}),
                     TN_INVALID);
    assert_non_null(strstr(tn_message(), "the axis is empty"));
    tn_plan_free(plan);
    int32_t backwards[4] = {0, 5, 4, 10}, beyond[4] = {0, 5, 5, 11};
    expect_failure(graph, TN_NODES(x, i32), tn_segment_sum(x, i32),
                   (const void *[]){values, backwards}, "offset 4 at position 2");
    expect_failure(graph, TN_NODES(x, i32), tn_segment_max(x, i32),
                   (const void *[]){values, beyond}, "offset 11 at position 3");
    tn_node three = tn_slice(x, 0, 0, 3, 1);
    expect_failure(graph, TN_NODES(x, i32), tn_segment_broadcast(three, i32, 10),
                   (const void *[]){values, beyond}, "offset 11 at position 3");
    assert_int_equal(tn_graph_status(graph), TN_OK);
    tn_graph_free(graph);
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
    REFUSED("the index is f32 [3, 4]; it must hold integers", tn_gather(x, x, 0));
    REFUSED("gather: the index is empty", tn_gather(x, TN_NONE, 0));
    REFUSED("axis 2 of a tensor of rank 2", tn_gather(x, i, 2));
    REFUSED("more than 8", tn_gather(tn_reshape(x, TN_SHAPE(3, 1, 1, 1, 1, 1, 1, 4)),
                                     tn_reshape(i, TN_SHAPE(2, 1)), 0));
    REFUSED("the values are [3, 4], but must be [2, 4]", tn_scatter_add(TN_SHAPE(9, 4), i, x, 0));
    REFUSED("scatter_add: axis -3 of shape [9, 4]", tn_scatter_add(TN_SHAPE(9, 4), i, x, -3));
    REFUSED("the other dimensions must be equal", tn_take_along(x, i, 0));
    REFUSED("index [2] and values [3, 4] must be equal", tn_put_along(TN_SHAPE(9, 4), i, x, 0));
    REFUSED("they must be [segments + 1]", tn_segment_sum(x, tn_reshape(i, TN_SHAPE(1, 2))));
    REFUSED("segment_broadcast of [3, 4] to 7 rows", tn_segment_broadcast(x, i, 7));
    REFUSED("the mean needs a floating-point type", tn_segment_mean(i, i));
    REFUSED("5 of the 4 elements in a row", tn_top_k(x, 5).values);
    REFUSED("rank 0", tn_sort(tn_sum(x, TN_ALL_AXES), false).values);
    REFUSED("one_hot: the index is f32", tn_one_hot(x, 3, TN_F32));
    REFUSED("one_hot of [2] with -1 classes", tn_one_hot(i, -1, TN_F32));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gather),
        cmocka_unit_test(test_scatter),
        cmocka_unit_test(test_take_and_put),
        cmocka_unit_test(test_segments),
        cmocka_unit_test(test_segment_max),
        cmocka_unit_test(test_segment_max_ties),
        cmocka_unit_test(test_order_gradients),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_order_by_hand),
        cmocka_unit_test(test_one_hot),
        cmocka_unit_test(test_bf16_sums_are_wide),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_bad_indices),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
