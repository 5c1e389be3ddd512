/* Matrix product and convolution: gradients to second order, the CPU kernels against the
 * reference over random shapes, layouts, threads and instruction sets, empty dimensions, types,
 * messages. */
#include "graph_check.h"

#define TN_NO_PLACES
#include "graph/op.h"

/* ---- matrix product -------------------------------------------------------------------------- */

typedef struct matmul_case {
    bool transpose_a, transpose_b, bias, out_f32;
    int swap_a, swap_b; /* hand the operand over as a view with its last two dimensions swapped */
} matmul_case;

static int build_matmul(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const matmul_case *o = option;
    tn_node a = o->swap_a ? tn_swap_axes(in[0], -1, -2) : in[0],
            b = o->swap_b ? tn_swap_axes(in[1], -1, -2) : in[1];
    out[0] = tn_matmul(a, b, .transpose_a = o->transpose_a, .transpose_b = o->transpose_b,
                       .bias = o->bias ? in[2] : TN_NONE, .out_f32 = o->out_f32);
    return 1;
}

static tn_shape matrix(tn_shape leading, int64_t rows, int64_t columns, bool turned)
{
    leading.dim[leading.rank++] = turned ? columns : rows;
    leading.dim[leading.rank++] = turned ? rows : columns;
    return leading;
}

/* [M, K] x [K, N] with every pair of flags, each also through a transposed view. */
static void run_matmul(const char *name, tn_shape a, tn_shape b, int64_t M, int64_t N, int64_t K,
                       bool second, uint64_t seed)
{
    for (int flags = 0; flags < 4; flags++)
        for (int views = 0; views < 4; views++) {
            matmul_case o = {.transpose_a = flags & 1,
                             .transpose_b = flags & 2,
                             .swap_a = views & 1,
                             .swap_b = views & 2,
                             .bias = flags == views};
            check_case c = {.name = name,
                            .in_count = o.bias ? 3 : 2,
                            .build = build_matmul,
                            .option = &o,
                            .second_order = second,
                            .bf16 = true};
            c.in[0] = (check_input){
                TN_F32, matrix(a, M, K, o.transpose_a != (o.swap_a != 0)), 0, 0, NULL, false,
                false};
            c.in[1] = (check_input){
                TN_F32, matrix(b, K, N, o.transpose_b != (o.swap_b != 0)), 0, 0, NULL, false,
                false};
            c.in[2] = (check_input){TN_F32, TN_SHAPE(N), 0, 0, NULL, false, false};
            check_run(&c, seed + (uint64_t)(flags * 4 + views));
        }
}

static void test_matmul_small(void **unused)
{
    (void)unused;
    run_matmul("matmul 3x4x5", TN_SCALAR, TN_SCALAR, 3, 4, 5, true, 1);
    run_matmul("matmul 1x1x1", TN_SCALAR, TN_SCALAR, 1, 1, 1, true, 2);
    run_matmul("matmul row", TN_SCALAR, TN_SCALAR, 1, 37, 19, true, 3);
    run_matmul("matmul column", TN_SCALAR, TN_SCALAR, 23, 1, 7, true, 4);
    run_matmul("matmul depth 1", TN_SCALAR, TN_SCALAR, 9, 11, 1, true, 5);
}

static void test_matmul_batches(void **unused)
{
    (void)unused;
    run_matmul("matmul batch", TN_SHAPE(3), TN_SHAPE(3), 2, 3, 4, true, 10);
    run_matmul("matmul one b", TN_SHAPE(2, 3), TN_SCALAR, 4, 3, 5, true, 11);
    run_matmul("matmul one a", TN_SCALAR, TN_SHAPE(2, 2), 3, 4, 2, true, 12);
    run_matmul("matmul broadcast both", TN_SHAPE(1, 3), TN_SHAPE(2, 1), 2, 5, 3, true, 13);
    run_matmul("matmul broadcast b", TN_SHAPE(2, 3), TN_SHAPE(3), 3, 2, 4, true, 14);
    run_matmul("matmul batch of rows", TN_SHAPE(4, 3), TN_SCALAR, 1, 6, 5, true, 15);
}

/* Past the sizes at which the way of multiplying changes. Their gradients are products of other
 * shapes, so little is left out. */
static void test_matmul_large(void **unused)
{
    (void)unused;
    static const struct {
        int64_t batch, M, N, K;
    } shape[] = {{1, 64, 65, 66},   {1, 130, 100, 71}, {1, 5, 200, 300},
                 {1, 200, 10, 100}, {1, 33, 49, 1601}, {3, 50, 60, 70},
                 {40, 9, 10, 11},   {1, 2, 700, 300},  {1, 300, 300, 40}};
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int flags = 0; flags < 4; flags++) {
            matmul_case o = {
                .transpose_a = flags & 1, .transpose_b = flags & 2, .bias = flags == 0};
            tn_shape leading = shape[i].batch > 1 ? TN_SHAPE(shape[i].batch) : TN_SCALAR;
            check_case c = {.name = "matmul large",
                            .in_count = o.bias ? 3 : 2,
                            .build = build_matmul,
                            .option = &o,
                            .bf16 = true};
            c.in[0] = (check_input){
                TN_F32, matrix(leading, shape[i].M, shape[i].K, o.transpose_a), 0, 0, NULL, false,
                false};
            c.in[1] = (check_input){
                TN_F32, matrix(leading, shape[i].K, shape[i].N, o.transpose_b), 0, 0, NULL, false,
                false};
            c.in[2] = (check_input){TN_F32, TN_SHAPE(shape[i].N), 0, 0, NULL, false, false};
            check_backend(&c, TN_F32, 20 + i, 2e-5);
            check_backend(&c, TN_BF16, 20 + i, 3e-2);
        }
}

static void test_matmul_random_shapes(void **unused)
{
    (void)unused;
    for (uint64_t seed = 0; seed < 60; seed++) {
        int64_t d[5];
        for (uint64_t i = 0; i < 5; i++)
            d[i] = 1 + (int64_t)tn_random_below(7, seed, i, seed % 3 == 0 ? 70 : 18);
        int64_t batch = 1 + (int64_t)tn_random_below(7, seed, 9, 4);
        matmul_case o = {.transpose_a = seed & 1,
                         .transpose_b = seed & 2,
                         .bias = seed & 4,
                         .swap_a = seed & 8,
                         .swap_b = seed & 16};
        tn_shape a = seed % 5 ? TN_SHAPE(batch) : TN_SCALAR,
                 b = seed % 7 < 4 ? TN_SHAPE(seed % 7 < 2 && seed % 5 ? batch : 1) : TN_SCALAR;
        check_case c = {.name = "matmul random",
                        .in_count = o.bias ? 3 : 2,
                        .build = build_matmul,
                        .option = &o,
                        .bf16 = true};
        c.in[0] = (check_input){
            TN_F32, matrix(a, d[0], d[1], o.transpose_a != (o.swap_a != 0)), 0, 0, NULL, false,
            false};
        c.in[1] = (check_input){
            TN_F32, matrix(b, d[1], d[2], o.transpose_b != (o.swap_b != 0)), 0, 0, NULL, false,
            false};
        c.in[2] = (check_input){TN_F32, TN_SHAPE(d[2]), 0, 0, NULL, false, false};
        check_backend(&c, TN_F32, seed, 2e-5);
        check_backend(&c, TN_BF16, seed, 3e-2);
    }
}

/* A bias that is not one row of N is added behind the product. */
static void test_matmul_broadcast_bias(void **unused)
{
    (void)unused;
    matmul_case o = {.bias = true};
    check_case c = {.name = "matmul bias per client",
                    .in_count = 3,
                    .build = build_matmul,
                    .option = &o,
                    .second_order = true,
                    .bf16 = true,
                    .in = {{TN_F32, TN_SHAPE(2, 3, 4), 0, 0, NULL, false, false},
                           {TN_F32, TN_SHAPE(2, 4, 5), 0, 0, NULL, false, false},
                           {TN_F32, TN_SHAPE(2, 1, 5), 0, 0, NULL, false, false}}};
    check_run(&c, 1);
    c.in[2].shape = TN_SHAPE(1, 1, 5);
    check_run(&c, 2);
    c.in[2].shape = TN_SCALAR;
    check_run(&c, 3);
}

static void test_matmul_out_f32(void **unused)
{
    (void)unused;
    for (int bias = 0; bias < 2; bias++) {
        matmul_case o = {.out_f32 = true, .bias = bias, .transpose_b = true};
        check_case c = {.name = "matmul out f32",
                        .in_count = 2 + bias,
                        .build = build_matmul,
                        .option = &o,
                        .bf16 = true,
                        .in = {{TN_F32, TN_SHAPE(6, 40), 0, 0, NULL, false, false},
                               {TN_F32, TN_SHAPE(50, 40), 0, 0, NULL, false, false},
                               {TN_F32, TN_SHAPE(50), 0, 0, NULL, false, true}}};
        check_run(&c, 1);
        /* the values are representable, the sum is not rounded: so bf16 operands give f32's
         * accuracy */
        c.no_first_order = true;
        check_backend(&c, TN_BF16, 2, 1e-5);
        c.in[0].shape = TN_SHAPE(70, 1700), c.in[1].shape = TN_SHAPE(50, 1700);
        check_backend(&c, TN_BF16, 3, 1e-5);
    }
}

/* Types that check_run does not vary over. */
static void test_matmul_types(void **unused)
{
    (void)unused;
    static const tn_dtype type[] = {TN_F64, TN_F16, TN_F32, TN_I8};
    for (size_t i = 0; i < sizeof type / sizeof *type; i++)
        for (int64_t M = 2; M <= 34; M += 32)
            for (int turned = 0; turned < 2; turned++) {
                tn_dtype out_type = type[i] == TN_I8 ? TN_I32 : type[i];
                int64_t K = 45, N = 51;
                tn_graph *graph = tn_graph_create(NULL);
                tn_node a = tn_input(graph, "a", type[i], TN_SHAPE(M, K)),
                        b = tn_input(graph, "b", type[i], turned ? TN_SHAPE(N, K) : TN_SHAPE(K, N));
                tn_node y = tn_matmul(a, b, .transpose_b = turned);
                assert_int_equal(tn_dtype_of(y), out_type);
                check_input in = {.dtype = type[i],
                                  .low = type[i] == TN_I8 ? -128 : -1,
                                  .high = type[i] == TN_I8 ? 128 : 1};
                in.shape = tn_shape_of(a);
                double *va = check_values(&in, 3, 0);
                in.shape = tn_shape_of(b);
                double *vb = check_values(&in, 3, 1);
                void *feed[2] = {check_typed(type[i], va, M * K), check_typed(type[i], vb, N * K)},
                     *got = calloc((size_t)(M * N), 8);
                tn_plan *plan;
                if (tn_compile(&plan, .graph = graph, .feeds = TN_NODES(a, b),
                               .fetches = TN_NODES(y)) != TN_OK)
                    fail_msg("%s", tn_message());
                assert_int_equal(tn_run(plan, (const void *const *)feed, &got), TN_OK);
                double *y_got = check_doubles(out_type, got, M * N),
                       tolerance = type[i] == TN_F64   ? 1e-13
                                   : type[i] == TN_F32 ? 1e-5
                                                       : 1e-2;
                for (int64_t m = 0; m < M; m++)
                    for (int64_t n = 0; n < N; n++) {
                        double sum = 0;
                        for (int64_t k = 0; k < K; k++)
                            sum += va[m * K + k] * vb[turned ? n * K + k : k * N + n];
                        if (type[i] == TN_I8) assert_true(sum == y_got[m * N + n]);
                        else assert_true(fabs(sum - y_got[m * N + n]) <= tolerance);
                    }
                tn_plan_free(plan);
                tn_graph_free(graph);
                free(va), free(vb), free(feed[0]), free(feed[1]), free(got), free(y_got);
            }
}

static void test_matmul_empty(void **unused)
{
    (void)unused;
    matmul_case plain = {0}, with_bias = {.bias = true};
    static const int64_t size[][3] = {{0, 3, 4}, {3, 0, 4}, {3, 4, 0}, {0, 0, 0}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (int batched = 0; batched < 3; batched++) {
            tn_shape leading = batched ? TN_SHAPE(batched == 1 ? 2 : 0) : TN_SCALAR;
            check_case c = {.name = "matmul empty",
                            .in_count = 2,
                            .build = build_matmul,
                            .option = &plain,
                            .bf16 = true,
                            .in = {{TN_F32, matrix(leading, size[i][0], size[i][2], false), 0, 0,
                                    NULL, false, false},
                                   {TN_F32, matrix(leading, size[i][2], size[i][1], false), 0, 0,
                                    NULL, false, false},
                                   {TN_F32, TN_SHAPE(size[i][1]), 0, 0, NULL, false, false}}};
            check_run(&c, i);
            c.in_count = 3;
            c.option = &with_bias;
            check_run(&c, i);
        }
}

/* 0 * inf and NaN reach exactly the elements whose sums they are in. */
static void test_matmul_not_finite(void **unused)
{
    (void)unused;
    for (int64_t n = 8; n <= 72; n += 64) {
        double *a = calloc((size_t)(n * n), sizeof *a), *b = calloc((size_t)(n * n), sizeof *b);
        for (int64_t i = 0; i < n * n; i++) a[i] = b[i] = 1;
        a[3 * n + 2] = NAN;
        b[5 * n + 1] = INFINITY;
        matmul_case o = {0};
        check_case c = {.name = "matmul not finite",
                        .in_count = 2,
                        .build = build_matmul,
                        .option = &o,
                        .no_first_order = true,
                        .bf16 = true,
                        .in = {{TN_F32, TN_SHAPE(n, n), 0, 0, a, false, false},
                               {TN_F32, TN_SHAPE(n, n), 0, 0, b, false, false}}};
        check_run(&c, 1);
        free(a);
        free(b);
    }
}

static void refuse_matmul(tn_dtype a_type, tn_shape a, tn_dtype b_type, tn_shape b, tn_shape bias,
                          const char *part)
{
    tn_graph *graph = tn_graph_create(NULL);
    tn_node x = tn_input(graph, "a", a_type, a), y = tn_input(graph, "b", b_type, b),
            z = bias.rank ? tn_input(graph, "bias", TN_F32, bias) : TN_NONE;
    assert_true(tn_is_none(tn_matmul(x, y, .bias = z)));
    check_refused(graph, part);
    tn_graph_free(graph);
}

static void test_matmul_messages(void **unused)
{
    (void)unused;
    refuse_matmul(TN_F32, TN_SHAPE(4), TN_F32, TN_SHAPE(4, 2), TN_SCALAR, "two dimensions or more");
    refuse_matmul(TN_F32, TN_SHAPE(3, 4), TN_F32, TN_SHAPE(5, 2), TN_SCALAR,
                  "the inner dimensions are 4 and 5");
    refuse_matmul(TN_F32, TN_SHAPE(2, 3, 4), TN_F32, TN_SHAPE(3, 4, 2), TN_SCALAR,
                  "do not broadcast");
    refuse_matmul(TN_F32, TN_SHAPE(3, 4), TN_BF16, TN_SHAPE(4, 2), TN_SCALAR, "f32 and bf16");
    refuse_matmul(TN_I32, TN_SHAPE(3, 4), TN_I32, TN_SHAPE(4, 2), TN_SCALAR, "i32 and i32");
    refuse_matmul(TN_F32, TN_SHAPE(3, 4), TN_F32, TN_SHAPE(4, 2), TN_SHAPE(3), "bias f32 [3]");
}

/* Epilogues that a later pass asks for: the node with .activation against the nodes one by one. */
static int build_with_activation(tn_graph *graph, const tn_node *in, tn_node *out,
                                 const void *option)
{
    (void)graph;
    tn_matmul_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.has_bias = true;
    attribute.activation = *(const int32_t *)option;
    out[0] = tn_node_new(NULL, &(tn_new_node){.id = TN_OP_MATMUL,
                                              .dtype = tn_dtype_of(in[0]),
                                              .shape = TN_SHAPE(tn_dim(in[0], 0), tn_dim(in[1], 1)),
                                              .in = in,
                                              .in_count = 3,
                                              .attribute = &attribute,
                                              .attribute_size = sizeof attribute});
    return 1;
}

static void test_matmul_activation(void **unused)
{
    (void)unused;
    static const int32_t activation[] = {TN_OP_RELU, TN_OP_GELU, TN_OP_GELU_TANH, TN_OP_SILU};
    static const int64_t size[][3] = {{3, 5, 4}, {64, 100, 90}, {2, 40, 900}, {70, 50, 1700}};
    for (size_t k = 0; k < sizeof activation / sizeof *activation; k++)
        for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
            check_case c = {
                .name = "matmul activation",
                .in_count = 3,
                .build = build_with_activation,
                .option = &activation[k],
                .bf16 = true,
                .in = {{TN_F32, TN_SHAPE(size[i][0], size[i][2]), -0.3, 0.3, NULL, false, false},
                       {TN_F32, TN_SHAPE(size[i][2], size[i][1]), -0.3, 0.3, NULL, false, false},
                       {TN_F32, TN_SHAPE(size[i][1]), 0, 0, NULL, false, false}}};
            if (i == 0) check_run(&c, k);
            else check_backend(&c, TN_F32, k, 2e-5);
            c.no_first_order = true; /* rounding moves sums across RELU's edge */
            check_backend(&c, TN_BF16, k, 3e-2);
        }
}

/* ---- convolution ----------------------------------------------------------------------------- */

typedef struct conv_case {
    int space;
    int64_t B, C, F, S[3], k[3];
    tn_conv_geometry g;
    bool bias;
} conv_case;

static int build_convolution(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const conv_case *o = option;
    out[0] = tn_convolution(in[0], in[1], o->bias ? in[2] : TN_NONE, o->g);
    return 1;
}

static int build_transposed(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const conv_case *o = option;
    out[0] = tn_convolution_input(in[0], in[1], o->S, o->g);
    return 1;
}

static int build_weight(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const conv_case *o = option;
    out[0] = tn_convolution_weight(in[0], in[1], o->k, o->g);
    return 1;
}

static tn_shape with_space(int64_t a, int64_t b, int space, const int64_t *size)
{
    tn_shape shape = {.rank = 2 + space, .dim = {a, b}};
    for (int i = 0; i < space; i++) shape.dim[2 + i] = size[i];
    return shape;
}

static check_case case_of(const conv_case *o, const char *name)
{
    int64_t groups = o->g.groups ? o->g.groups : 1;
    check_case c = {.name = name,
                    .in_count = o->bias ? 3 : 2,
                    .build = build_convolution,
                    .option = o,
                    .bf16 = true};
    c.in[0] = (check_input){TN_F32, with_space(o->B, o->C, o->space, o->S), 0, 0, NULL, false,
                            false};
    c.in[1] = (check_input){
        TN_F32, with_space(o->F, o->C / groups, o->space, o->k), 0, 0, NULL, false, false};
    c.in[2] = (check_input){TN_F32, TN_SHAPE(o->F), 0, 0, NULL, false, false};
    return c;
}

static int64_t positions(const conv_case *o, int i)
{
    int64_t dilation = o->g.dilation[i] ? o->g.dilation[i] : 1,
            stride = o->g.stride[i] ? o->g.stride[i] : 1;
    return (o->S[i] + o->g.pad_before[i] + o->g.pad_after[i] - dilation * (o->k[i] - 1) - 1) /
               stride +
           1;
}

static const conv_case small_convolutions[] = {
    {1, 2, 3, 4, {9}, {3}, {.pad_before = {1}, .pad_after = {1}}, true},
    {1, 1, 2, 3, {12}, {4}, {.stride = {2}, .pad_before = {3}}, false},
    {1, 2, 1, 1, {7}, {1}, {.groups = 1}, true},
    {2, 2, 2, 3, {5, 6}, {3, 3}, {.pad_before = {1, 1}, .pad_after = {1, 1}}, true},
    {2,
     1,
     3,
     2,
     {7, 6},
     {3, 2},
     {.stride = {2, 1}, .pad_before = {1, 0}, .pad_after = {0, 1}},
     false},
    {2, 2, 4, 6, {6, 5}, {3, 3}, {.groups = 2, .pad_before = {1, 1}, .pad_after = {1, 1}}, true},
    {2, 1, 5, 5, {6, 6}, {3, 3}, {.groups = 5, .pad_before = {1, 1}, .pad_after = {1, 1}}, true},
    {2,
     1,
     2,
     2,
     {9, 9},
     {3, 3},
     {.dilation = {2, 3}, .pad_before = {2, 3}, .pad_after = {2, 3}},
     false},
    {2, 2, 3, 4, {4, 4}, {1, 1}, {.groups = 1}, true},
    {2, 2, 3, 4, {5, 5}, {1, 1}, {.stride = {2, 2}}, false},
    {2, 1, 2, 3, {8, 8}, {2, 2}, {.stride = {2, 2}}, false},
    {2,
     1,
     2,
     3,
     {8, 6},
     {4, 4},
     {.stride = {2, 2}, .pad_before = {1, 1}, .pad_after = {1, 1}},
     false},
    {2, 1, 2, 2, {5, 4}, {1, 3}, {.pad_before = {0, 1}, .pad_after = {0, 1}}, false},
    {2, 1, 1, 2, {3, 3}, {3, 3}, {.pad_before = {2, 2}, .pad_after = {2, 2}}, false},
    {2, 1, 1, 1, {8, 8}, {2, 2}, {.stride = {3, 3}}, false},
    {2, 1, 1, 1, {4, 4}, {2, 2}, {.pad_before = {3, 3}, .pad_after = {2, 2}}, false},
    {3, 1, 2, 2, {4, 3, 5}, {3, 2, 3}, {.pad_before = {1, 0, 1}, .pad_after = {1, 1, 1}}, true},
    {3,
     1,
     2,
     2,
     {5, 5, 4},
     {3, 3, 2},
     {.stride = {2, 2, 1}, .pad_before = {1, 1, 0}, .pad_after = {1, 0, 0}, .groups = 2},
     false},
};

static void test_convolution_small(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof small_convolutions / sizeof *small_convolutions; i++) {
        char name[40];
        snprintf(name, sizeof name, "convolution %zu", i);
        check_case c = case_of(&small_convolutions[i], name);
        c.second_order = true;
        check_run(&c, i);
    }
}

/* The two adjoints as operations of their own, differentiated twice. */
static void test_convolution_adjoints(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof small_convolutions / sizeof *small_convolutions; i++) {
        const conv_case *o = &small_convolutions[i];
        int64_t out[3];
        for (int d = 0; d < o->space; d++) out[d] = positions(o, d);
        char name[48];
        snprintf(name, sizeof name, "convolution_input %zu", i);
        check_case c = case_of(o, name);
        c.in_count = 2;
        c.second_order = true;
        c.build = build_transposed;
        c.in[0].shape = with_space(o->B, o->F, o->space, out);
        check_run(&c, i);
        snprintf(name, sizeof name, "convolution_weight %zu", i);
        c = case_of(o, name);
        c.in_count = 2;
        c.second_order = true;
        c.build = build_weight;
        c.in[1].shape = with_space(o->B, o->F, o->space, out);
        check_run(&c, i);
    }
}

/* Sizes that are cut into pieces: images, rows of one image, filters of the weight's gradient. */
static void test_convolution_pieces(void **unused)
{
    (void)unused;
    static const conv_case cases[] = {
        {2, 7, 16, 24, {17, 19}, {3, 3}, {.pad_before = {1, 1}, .pad_after = {1, 1}}, true},
        {2, 1, 16, 16, {61, 40}, {3, 3}, {.pad_before = {1, 1}, .pad_after = {1, 1}}, true},
        {2,
         1,
         20,
         12,
         {64, 37},
         {4, 4},
         {.stride = {2, 2}, .pad_before = {1, 1}, .pad_after = {1, 1}},
         false},
        {2, 2, 16, 16, {50, 33}, {1, 1}, {.stride = {2, 2}}, false},
        {2, 1, 16, 16, {60, 30}, {2, 2}, {.stride = {2, 2}}, false},
        {2,
         1,
         8,
         16,
         {63, 20},
         {3, 3},
         {.dilation = {2, 1}, .pad_before = {3, 0}, .pad_after = {2, 1}},
         false},
        {2,
         1,
         32,
         32,
         {40, 30},
         {5, 5},
         {.groups = 32, .pad_before = {2, 2}, .pad_after = {2, 2}},
         true},
        {2, 8, 64, 200, {4, 4}, {3, 3}, {.pad_before = {1, 1}, .pad_after = {1, 1}}, false},
        {2, 3, 3, 64, {40, 41}, {3, 3}, {.pad_before = {1, 1}, .pad_after = {1, 1}}, true},
        {2, 3, 64, 3, {40, 41}, {3, 3}, {.pad_before = {1, 1}, .pad_after = {1, 1}}, true},
        {2, 1, 64, 1, {40, 41}, {1, 1}, {.groups = 1}, true},
        {1, 1, 40, 30, {700}, {5}, {.stride = {2}, .pad_before = {2}, .pad_after = {2}}, true},
        {3,
         1,
         8,
         16,
         {24, 12, 13},
         {3, 3, 3},
         {.pad_before = {1, 1, 1}, .pad_after = {1, 1, 1}},
         true},
        {3,
         1,
         1,
         16,
         {24, 12, 13},
         {3, 3, 3},
         {.pad_before = {1, 1, 1}, .pad_after = {1, 1, 1}},
         false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[40];
        snprintf(name, sizeof name, "convolution in pieces %zu", i);
        check_case c = case_of(&cases[i], name);
        check_backend(&c, TN_F32, i, 3e-5);
        check_backend(&c, TN_BF16, i, 3e-2);
    }
}

static void test_convolution_random_shapes(void **unused)
{
    (void)unused;
    for (uint64_t seed = 0; seed < 40; seed++) {
#define DRAW(stream, low, high)                                                                    \
    ((low) + (int64_t)tn_random_below(8, seed, stream, (uint64_t)((high) - (low) + 1)))
        conv_case o = {.space = (int)DRAW(0, 1, 3), .B = DRAW(1, 1, 3), .bias = DRAW(2, 0, 1) == 1};
        o.g.groups = DRAW(3, 0, 3);
        int64_t groups = o.g.groups ? o.g.groups : 1;
        o.C = groups * DRAW(4, 1, 6);
        o.F = groups * DRAW(5, 1, 6);
        for (int d = 0; d < o.space; d++) {
            uint64_t s = 10 + 10 * (uint64_t)d;
            o.k[d] = DRAW(s, 1, 4);
            o.g.stride[d] = DRAW(s + 1, 1, 3);
            o.g.dilation[d] = DRAW(s + 2, 1, 2);
            o.g.pad_before[d] = DRAW(s + 3, 0, o.k[d] - 1);
            o.g.pad_after[d] = DRAW(s + 4, 0, o.k[d] - 1);
            o.S[d] = DRAW(s + 5, 7, 12);
        }
#undef DRAW
        char name[40];
        snprintf(name, sizeof name, "convolution random %d", (int)seed);
        check_case c = case_of(&o, name);
        check_backend(&c, TN_F32, seed, 2e-5);
        check_backend(&c, TN_BF16, seed, 3e-2);
    }
}

static void test_convolution_empty(void **unused)
{
    (void)unused;
    static const conv_case cases[] = {
        {2, 0, 3, 4, {5, 5}, {3, 3}, {.groups = 1}, true},
        {2, 2, 0, 4, {5, 5}, {3, 3}, {.groups = 1}, true},
        {2, 2, 3, 0, {5, 5}, {3, 3}, {.groups = 1}, false},
        {2, 2, 3, 4, {0, 5}, {3, 3}, {.pad_before = {2, 1}, .pad_after = {2, 1}}, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_case c = case_of(&cases[i], "convolution empty");
        check_run(&c, i);
    }
}

static void test_convolution_f64(void **unused)
{
    (void)unused;
    conv_case o = {2, 2, 3, 4, {6, 5}, {3, 3}, {.pad_before = {1, 1}, .pad_after = {1, 1}}, true};
    check_case c = case_of(&o, "convolution f64");
    check_backend(&c, TN_F64, 1, 1e-12);
}

static void refuse_convolution(tn_shape x, tn_shape weight, tn_shape bias, tn_conv_geometry g,
                               const char *part)
{
    tn_graph *graph = tn_graph_create(NULL);
    tn_node a = tn_input(graph, "x", TN_F32, x), b = tn_input(graph, "w", TN_F32, weight),
            c = bias.rank ? tn_input(graph, "bias", TN_F32, bias) : TN_NONE;
    assert_true(tn_is_none(tn_convolution(a, b, c, g)));
    check_refused(graph, part);
    tn_graph_free(graph);
}

static void test_convolution_messages(void **unused)
{
    (void)unused;
    tn_shape x = TN_SHAPE(2, 4, 6, 6), w = TN_SHAPE(8, 4, 3, 3);
    refuse_convolution(TN_SHAPE(2, 4), w, TN_SCALAR, (tn_conv_geometry){0}, "3 to 5 dimensions");
    refuse_convolution(x, TN_SHAPE(8, 4, 3), TN_SCALAR, (tn_conv_geometry){0}, "3 to 5 dimensions");
    refuse_convolution(x, TN_SHAPE(8, 3, 3, 3), TN_SCALAR, (tn_conv_geometry){0},
                       "4 channels in 1 groups");
    refuse_convolution(x, w, TN_SCALAR, (tn_conv_geometry){.groups = 3}, "4 channels in 3 groups");
    refuse_convolution(x, w, TN_SCALAR, (tn_conv_geometry){.stride = {-1, 1}}, "stride -1");
    refuse_convolution(x, TN_SHAPE(8, 4, 7, 3), TN_SCALAR, (tn_conv_geometry){0},
                       "too small for a kernel of 7");
    refuse_convolution(x, w, TN_SHAPE(4), (tn_conv_geometry){0}, "bias is f32 [4]");
    tn_graph *graph = tn_graph_create(NULL);
    tn_node d = tn_input(graph, "d", TN_F32, TN_SHAPE(2, 8, 4, 4)),
            weight = tn_input(graph, "w", TN_F32, w);
    tn_convolution_input(d, weight, (const int64_t[]){6, 7}, (tn_conv_geometry){0});
    check_refused(graph, "gives 5 positions, not 4");
    tn_graph_free(graph);
    graph = tn_graph_create(NULL);
    d = tn_input(graph, "d", TN_F32, TN_SHAPE(3, 8, 4, 4));
    tn_convolution_weight(tn_input(graph, "x", TN_F32, x), d, (const int64_t[]){3, 3},
                          (tn_conv_geometry){0});
    check_refused(graph, "different batches");
    tn_graph_free(graph);
}

/* ---- more than one caller -------------------------------------------------------------------- */

typedef struct caller {
    tn_plan *plan;
    const void *const *feed;
    float *out;
} caller;

static void run_often(void *context, int64_t begin, int64_t end)
{
    caller *callers = context;
    for (int64_t i = begin; i < end; i++) {
        tn_context *own = NULL;
        if (tn_context_create(&own, callers[i].plan) != TN_OK) return;
        for (int k = 0; k < 20; k++) tn_run_in(own, callers[i].feed, (void *[]){callers[i].out});
        tn_context_free(own);
    }
}

/* One plan, two contexts at once: the primitives' memory objects must not be shared. */
static void test_two_contexts(void **unused)
{
    (void)unused;
    enum { SIZE = 2 * 16 * 12 * 12 };
    tn_graph *graph = tn_graph_create(NULL);
    tn_node x = tn_input(graph, "x", TN_F32, TN_SHAPE(2, 16, 12, 12)),
            w = tn_input(graph, "w", TN_F32, TN_SHAPE(16, 16, 3, 3));
    tn_conv_geometry g = {.pad_before = {1, 1}, .pad_after = {1, 1}};
    tn_node y = tn_convolution(x, w, TN_NONE, g);
    y = tn_add(y, tn_convolution_input(y, w, (const int64_t[]){12, 12}, g));
    check_input in = {.dtype = TN_F32};
    float *feed[2][2], *out[2], *expected[2];
    tn_plan *plan;
    assert_int_equal(
        tn_compile(&plan, .graph = graph, .feeds = TN_NODES(x, w), .fetches = TN_NODES(y)), TN_OK);
    for (int c = 0; c < 2; c++) {
        for (int i = 0; i < 2; i++) {
            in.shape = tn_shape_of(i ? w : x);
            double *value = check_values(&in, (uint64_t)c, i);
            feed[c][i] = check_typed(TN_F32, value, tn_shape_size(in.shape));
            free(value);
        }
        out[c] = calloc(SIZE, sizeof(float));
        expected[c] = calloc(SIZE, sizeof(float));
        assert_int_equal(tn_run(plan, (const void *const *)feed[c], (void *[]){expected[c]}),
                         TN_OK);
    }
    caller callers[2] = {{plan, (const void *const *)feed[0], out[0]},
                         {plan, (const void *const *)feed[1], out[1]}};
    tn_set_thread_count(2);
    tn_parallel(2, 1, run_often, callers);
    tn_set_thread_count(0);
    for (int c = 0; c < 2; c++) {
        assert_memory_equal(out[c], expected[c], SIZE * sizeof(float));
        free(feed[c][0]), free(feed[c][1]), free(out[c]), free(expected[c]);
    }
    tn_plan_free(plan);
    tn_graph_free(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matmul_small),
        cmocka_unit_test(test_matmul_batches),
        cmocka_unit_test(test_matmul_large),
        cmocka_unit_test(test_matmul_random_shapes),
        cmocka_unit_test(test_matmul_broadcast_bias),
        cmocka_unit_test(test_matmul_out_f32),
        cmocka_unit_test(test_matmul_types),
        cmocka_unit_test(test_matmul_empty),
        cmocka_unit_test(test_matmul_not_finite),
        cmocka_unit_test(test_matmul_messages),
        cmocka_unit_test(test_matmul_activation),
        cmocka_unit_test(test_convolution_small),
        cmocka_unit_test(test_convolution_adjoints),
        cmocka_unit_test(test_convolution_pieces),
        cmocka_unit_test(test_convolution_random_shapes),
        cmocka_unit_test(test_convolution_empty),
        cmocka_unit_test(test_convolution_f64),
        cmocka_unit_test(test_convolution_messages),
        cmocka_unit_test(test_two_contexts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
