/* Attention: gradients, kernels against the reference, edges, decoding, messages. */
#include "graph_check.h" /* first: with the macros that record places */

#include "ops/decompositions.h"

/* ---- cases ----------------------------------------------------------------------------------- */

/* Inputs of a case: q, k, v, then what is flagged, in the order bias, key_mask, offsets, length. */
typedef struct attention_case {
    int64_t B, L, M, K, G, Q;
    bool packed, bias, key_mask, length;
    tn_shape bias_shape;
    tn_attention_options options;
    bool no_gradient_of_bias;
} attention_case;

static int build_attention(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const attention_case *a = option;
    tn_attention_options o = a->options;
    int next = 3;
    if (a->bias) o.bias = in[next++];
    if (a->key_mask) o.key_mask = in[next++];
    if (a->packed) o.offsets = in[next++];
    if (a->length) o.length = in[next++];
    out[0] = tn_attention_with(in[0], in[1], in[2], o);
    return 1;
}

/* Offsets of packed cases: three segments, one of them empty, and tokens behind the last. */
static double offsets[4];

static check_case case_of(const attention_case *a, const char *name)
{
    check_case c = {.name = name, .build = build_attention, .option = a, .in_count = 3};
    tn_shape q = TN_SHAPE(a->B, a->L, a->K * a->G, a->Q), k = TN_SHAPE(a->B, a->M, a->K, a->Q);
    if (a->packed) q = TN_SHAPE(a->L, a->K * a->G, a->Q), k = TN_SHAPE(a->L, a->K, a->Q);
    c.in[0].shape = q;
    c.in[1].shape = c.in[2].shape = k;
    if (a->bias)
        c.in[c.in_count++] = (check_input){
            .shape = a->bias_shape, .stays_f32 = true, .no_gradient = a->no_gradient_of_bias};
    if (a->key_mask)
        c.in[c.in_count++] = (check_input){
            .dtype = TN_BOOL, .shape = a->packed ? TN_SHAPE(a->L) : TN_SHAPE(a->B, a->M)};
    if (a->packed) {
        int64_t third = a->L / 3;
        offsets[1] = offsets[2] = (double)third;
        offsets[3] = (double)(a->L - 1);
        c.in[c.in_count++] = (check_input){
            .dtype = TN_I32, .shape = TN_SHAPE(4), .values = offsets};
    }
    if (a->length)
        c.in[c.in_count++] = (check_input){
            .dtype = TN_I32, .shape = TN_SHAPE(a->B), .low = 0, .high = (double)a->M + 1};
    return c;
}

/* Cases small enough for differences of every kind, to second order. */
static void test_small(void **state)
{
    (void)state;
    static const attention_case cases[] = {
        {.B = 2, .L = 3, .M = 3, .K = 2, .G = 1, .Q = 4},
        {.B = 1, .L = 5, .M = 5, .K = 1, .G = 3, .Q = 3, .options = {.causal = true}},
        {.B = 2, .L = 2, .M = 5, .K = 2, .G = 2, .Q = 2, .options = {.causal = true, .scale = 0.7}},
        {.B = 1, .L = 6, .M = 4, .K = 1, .G = 2, .Q = 5, .options = {.window = 2}},
        {.B = 1, .L = 6, .M = 6, .K = 2, .G = 1, .Q = 3, .options = {.window = 3, .causal = true}},
        {.B = 2,
         .L = 3,
         .M = 4,
         .K = 2,
         .G = 2,
         .Q = 3,
         .bias = true,
         .bias_shape = {4, {2, 4, 3, 4}}},
        {.B = 2,
         .L = 3,
         .M = 4,
         .K = 2,
         .G = 2,
         .Q = 3,
         .bias = true,
         .bias_shape = {3, {4, 1, 4}}},
        {.B = 2,
         .L = 3,
         .M = 4,
         .K = 1,
         .G = 2,
         .Q = 3,
         .bias = true,
         .bias_shape = {2, {3, 1}},
         .no_gradient_of_bias = true},
        {.B = 2,
         .L = 3,
         .M = 4,
         .K = 1,
         .G = 2,
         .Q = 3,
         .bias = true,
         .bias_shape = {0, {0}},
         .no_gradient_of_bias = true},
        {.B = 3, .L = 3, .M = 4, .K = 1, .G = 2, .Q = 3, .key_mask = true},
        {.B = 3,
         .L = 2,
         .M = 6,
         .K = 1,
         .G = 2,
         .Q = 3,
         .length = true,
         .options = {.causal = true}},
        {.B = 3,
         .L = 2,
         .M = 6,
         .K = 2,
         .G = 1,
         .Q = 3,
         .length = true,
         .key_mask = true,
         .bias = true,
         .bias_shape = {4, {1, 2, 1, 6}},
         .options = {.window = 4}},
        {.L = 8, .K = 2, .G = 2, .Q = 3, .B = 1, .packed = true},
        {.L = 9, .K = 1, .G = 2, .Q = 4, .B = 1, .packed = true, .options = {.causal = true}},
        {.L = 9,
         .K = 1,
         .G = 1,
         .Q = 4,
         .B = 1,
         .packed = true,
         .key_mask = true,
         .options = {.window = 2, .longest = 5}},
        {.L = 3, .K = 1, .G = 1, .Q = 2, .B = 1, .packed = true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[32];
        snprintf(name, sizeof name, "attention %zu", i);
        check_case c = case_of(&cases[i], name);
        c.second_order = true;
        c.bf16 = true;
        check_run(&c, 100 + i);
    }
}

/* Sizes that fill and overflow tiles, that are cut into blocks and chunks, and that decode; kernels
 * against the reference. */
static void test_large(void **state)
{
    (void)state;
    static const attention_case cases[] = {
        {.B = 2, .L = 70, .M = 70, .K = 2, .G = 1, .Q = 32},
        {.B = 1, .L = 150, .M = 150, .K = 1, .G = 3, .Q = 16, .options = {.causal = true}},
        {.B = 1,
         .L = 33,
         .M = 290,
         .K = 1,
         .G = 2,
         .Q = 20,
         .options = {.causal = true, .window = 70}},
        {.B = 1, .L = 90, .M = 90, .K = 2, .G = 2, .Q = 8, .packed = true},
        {.B = 1,
         .L = 140,
         .M = 140,
         .K = 1,
         .G = 4,
         .Q = 64,
         .packed = true,
         .options = {.causal = true}},
        {.B = 2,
         .L = 40,
         .M = 65,
         .K = 2,
         .G = 1,
         .Q = 40,
         .bias = true,
         .bias_shape = {4, {1, 2, 40, 65}}},
        {.B = 3, .L = 20, .M = 80, .K = 1, .G = 2, .Q = 24, .key_mask = true, .length = true},
        {.B = 2,
         .L = 1,
         .M = 50,
         .K = 4,
         .G = 1,
         .Q = 8,
         .length = true,
         .options = {.causal = true}},
        {.B = 1, .L = 1, .M = 700, .K = 2, .G = 4, .Q = 32, .options = {.causal = true}},
        {.B = 2,
         .L = 3,
         .M = 300,
         .K = 3,
         .G = 2,
         .Q = 17,
         .length = true,
         .options = {.causal = true, .window = 200}},
        {.B = 1, .L = 2, .M = 520, .K = 1, .G = 12, .Q = 16, .options = {.causal = true}},
        {.B = 1, .L = 1, .M = 1, .K = 1, .G = 1, .Q = 1},
        {.B = 1, .L = 300, .M = 300, .K = 1, .G = 1, .Q = 128, .options = {.causal = true}},
        {.B = 1, .L = 40, .M = 40, .K = 1, .G = 1, .Q = 260},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[32];
        snprintf(name, sizeof name, "large attention %zu", i);
        check_case c = case_of(&cases[i], name);
        check_backend(&c, TN_F32, 200 + i, 2e-5);
        check_backend(&c, TN_BF16, 200 + i, 3e-2);
    }
}

static void test_random_shapes(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 40; seed++) {
#define DRAW(i, bound) ((int64_t)tn_random_below(seed, 9, i, bound))
        attention_case a = {.B = 1 + DRAW(0, 3),
                            .L = 2 + DRAW(1, 60),
                            .K = 1 + DRAW(3, 3),
                            .G = 1 + DRAW(4, 3),
                            .Q = 1 + DRAW(5, 40)};
        a.M = a.L + DRAW(2, 40);
        a.packed = DRAW(6, 4) == 0;
        if (a.packed) a.B = 1, a.M = a.L = a.L + 3;
        a.options.causal = DRAW(7, 2);
        if (DRAW(8, 3) == 0) a.options.window = 2 + DRAW(9, 20);
        a.key_mask = DRAW(10, 4) == 0;
        if (!a.packed && DRAW(11, 3) == 0) {
            a.bias = true;
            a.bias_shape = TN_SHAPE(DRAW(12, 2) ? a.B : 1, DRAW(13, 2) ? a.K * a.G : 1,
                                    DRAW(14, 2) ? a.L : 1, a.M);
        }
        a.length = !a.packed && DRAW(15, 3) == 0;
        char name[32];
        snprintf(name, sizeof name, "random attention %d", (int)seed);
        check_case c = case_of(&a, name);
        check_backend(&c, TN_F32, seed, 3e-5);
        if (DRAW(16, 3) == 0) check_backend(&c, TN_BF16, seed, 3e-2);
    }
}

/* f16 goes the way of bf16; ten bits of mantissa. */
static int build_half(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    tn_node half[3];
    for (int i = 0; i < 3; i++)
        half[i] = tn_cast(in[i], tn_dtype_of(in[i]) == TN_F64 ? TN_F64 : TN_F16);
    build_attention(graph, half, out, option);
    out[0] = tn_cast(out[0], tn_dtype_of(in[0]));
    return 1;
}

static void test_half(void **state)
{
    (void)state;
    static const attention_case cases[] = {
        {.B = 2, .L = 20, .M = 20, .K = 2, .G = 2, .Q = 20, .options = {.causal = true}},
        {.B = 2, .L = 2, .M = 70, .K = 2, .G = 2, .Q = 20, .options = {.causal = true}},
    };
    for (size_t i = 0; i < 2; i++) {
        check_case c = case_of(&cases[i], "attention of f16");
        c.build = build_half;
        check_backend(&c, TN_F32, 80 + i, 4e-3);
    }
}

static void test_empty(void **state)
{
    (void)state;
    static const attention_case cases[] = {
        {.B = 0, .L = 3, .M = 3, .K = 1, .G = 2, .Q = 4},
        {.B = 2, .L = 0, .M = 3, .K = 1, .G = 2, .Q = 4},
        {.B = 2, .L = 3, .M = 0, .K = 1, .G = 2, .Q = 4},
        {.B = 2, .L = 3, .M = 3, .K = 0, .G = 0, .Q = 4},
        {.B = 2, .L = 0, .M = 0, .K = 1, .G = 2, .Q = 4, .length = true, .key_mask = true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_case c = case_of(&cases[i], "empty attention");
        check_backend(&c, TN_F32, 1, 2e-5);
    }
}

/* ---- operands that are views ----------------------------------------------------------------- */

/* One product [B, L, (H + 2K) Q], cut into queries, keys and values. */
static int build_cut(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    int64_t B = tn_dim(in[0], 0), L = tn_dim(in[0], 1);
    tn_node rows = tn_reshape(in[0], TN_SHAPE(B, L, 8, 16));
    out[0] = tn_attention(tn_slice(rows, 2, 0, 4, 1), tn_slice(rows, 2, 4, 6, 1),
                          tn_slice(rows, 2, 6, 8, 1), .causal = true);
    return 1;
}

/* Heads before positions, as some models keep them, and widths that are not contiguous. */
static int build_transposed(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    tn_node q = tn_transpose(in[0], TN_PERMUTE(0, 2, 1, 3)),
            k = tn_transpose(in[1], TN_PERMUTE(0, 3, 1, 2));
    out[0] = tn_attention(q, k, k);
    return 1;
}

static void test_views(void **state)
{
    (void)state;
    check_case cut = {.name = "cut",
                      .in = {{.shape = TN_SHAPE(2, 19, 128)}},
                      .in_count = 1,
                      .build = build_cut,
                      .bf16 = true};
    check_run(&cut, 3);
    check_case transposed = {
        .name = "transposed",
        .in = {{.shape = TN_SHAPE(2, 4, 9, 6)}, {.shape = TN_SHAPE(2, 2, 6, 11)}},
        .in_count = 2,
        .build = build_transposed,
        .bf16 = true};
    check_run(&transposed, 4);
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Runs y and the gradients of sum(y * y) for k, v and the others fed as given. */
typedef struct outcome {
    float *y, *d[3];
} outcome;

static outcome attend(tn_shape q, tn_shape k, const float *const *value, tn_attention_options o,
                      const void *mask, const void *length)
{
    tn_graph *graph = tn_graph_create(NULL);
    tn_node in[5] = {tn_input(graph, "q", TN_F32, q), tn_input(graph, "k", TN_F32, k),
                     tn_input(graph, "v", TN_F32, k)};
    const void *feed[5] = {value[0], value[1], value[2]};
    int count = 3;
    if (mask) {
        feed[count] = mask;
        in[count] = o.key_mask = tn_input(graph, "mask", TN_BOOL, TN_SHAPE(k.dim[0], k.dim[1]));
        count++;
    }
    if (length) {
        feed[count] = length;
        in[count] = o.length = tn_input(graph, "length", TN_I32, TN_SHAPE(k.dim[0]));
        count++;
    }
    tn_node fetch[4] = {tn_attention_with(in[0], in[1], in[2], o)};
    tn_gradients(tn_sum(tn_square(fetch[0]), TN_ALL_AXES), in, 3, fetch + 1);
    tn_plan *plan;
    tn_compile_options options = {.graph = graph, .feeds = {in, count}, .fetches = {fetch, 4}};
    if (tn_compile_with(&plan, &options) != TN_OK) fail_msg("%s", tn_message());
    outcome out;
    void *to[4];
    for (int i = 0; i < 4; i++)
        to[i] = calloc((size_t)tn_shape_size(i < 2 ? q : k) + 1, sizeof(float));
    if (tn_run(plan, feed, to) != TN_OK) fail_msg("%s", tn_message());
    out.y = to[0];
    for (int i = 0; i < 3; i++) out.d[i] = to[i + 1];
    tn_plan_free(plan);
    tn_graph_free(graph);
    return out;
}

static void forget(outcome *out)
{
    free(out->y);
    for (int i = 0; i < 3; i++) free(out->d[i]);
}

static float *noise(int64_t count, uint64_t stream, float size)
{
    float *value = calloc((size_t)count + 1, sizeof *value);
    for (int64_t i = 0; i < count; i++)
        value[i] = size * (2 * tn_random_uniform(4, stream, (uint64_t)i) - 1);
    return value;
}

/* Scores of +-10^4: no overflow, and the largest score takes all. */
static void test_huge_scores(void **state)
{
    (void)state;
    for (int rows = 1; rows <= 20; rows += 19) { /* decoding and blocks */
        tn_shape q = TN_SHAPE(1, rows, 1, 16), k = TN_SHAPE(1, 40, 1, 16);
        float *value[3] = {noise(rows * 16, 1, 1), noise(40 * 16, 2, 1), noise(40 * 16, 3, 1)};
        outcome out = attend(q, k, (const float *const *)value,
                             (tn_attention_options){.scale = 10000}, NULL, NULL);
        for (int r = 0; r < rows; r++) {
            int best = 0;
            double largest = -1e30, second = -1e30;
            for (int j = 0; j < 40; j++) {
                double score = 0;
                for (int c = 0; c < 16; c++)
                    score += (double)value[0][r * 16 + c] * (double)value[1][j * 16 + c];
                if (score > largest) second = largest, largest = score, best = j;
                else if (score > second) second = score;
            }
            for (int c = 0; c < 16; c++) {
                assert_true(isfinite(out.y[r * 16 + c]) && isfinite(out.d[0][r * 16 + c]));
                if (largest - second > 0.01)
                    assert_near(out.y[r * 16 + c], value[2][best * 16 + c], 1e-6);
            }
        }
        for (int i = 0; i < 40 * 16; i++)
            assert_true(isfinite(out.d[1][i]) && isfinite(out.d[2][i]));
        forget(&out);
        for (int i = 0; i < 3; i++) free(value[i]);
    }
}

/* A query that may read nothing gives exactly 0 and passes no gradient; neither do the keys it may
 * not read. */
static void test_nothing_to_read(void **state)
{
    (void)state;
    for (int rows = 2; rows <= 20; rows += 18) {
        tn_shape q = TN_SHAPE(3, rows, 2, 5), k = TN_SHAPE(3, 24, 2, 5);
        float *value[3] = {noise(3 * rows * 10, 1, 1), noise(3 * 240, 2, 1), noise(3 * 240, 3, 1)};
        bool mask[3][24];
        memset(mask, 1, sizeof mask);
        memset(mask[0], 0, sizeof mask[0]); /* nothing by mask */
        const int32_t length[3] = {24, 0,
                                   1}; /* nothing by length; only the last query by causality */
        outcome out = attend(q, k, (const float *const *)value,
                             (tn_attention_options){.causal = true}, mask, length);
        for (int i = 0; i < 2 * rows * 10; i++) assert_true(out.y[i] == 0 && out.d[0][i] == 0);
        for (int i = 0; i < 2 * 240; i++) assert_true(out.d[1][i] == 0 && out.d[2][i] == 0);
        const float *last = out.y + 2 * rows * 10;
        for (int i = 0; i < (rows - 1) * 10; i++) assert_true(last[i] == 0);
        for (int i = 0; i < 10; i++)
            assert_near(last[(rows - 1) * 10 + i], value[2][480 + i], 1e-6);
        for (int i = 10; i < 240; i++) assert_true(out.d[2][480 + i] == 0);
        forget(&out);
        for (int i = 0; i < 3; i++) free(value[i]);
    }
}

/* What lies behind the length is not read: it may be NaN. What is read is not hidden when it is
 * NaN. */
static void test_not_a_number(void **state)
{
    (void)state;
    for (int rows = 1; rows <= 20; rows += 19)
        for (int read = 0; read < 2; read++) {
            tn_shape q = TN_SHAPE(1, rows, 1, 8), k = TN_SHAPE(1, 90, 1, 8);
            float *value[3] = {noise(rows * 8, 1, 1), noise(90 * 8, 2, 1), noise(90 * 8, 3, 1)};
            const int32_t length[1] = {61};
            for (int i = (read ? 60 : 61) * 8; i < 90 * 8; i++) value[1][i] = value[2][i] = NAN;
            outcome out = attend(q, k, (const float *const *)value,
                                 (tn_attention_options){.scale = 1}, NULL, length);
            for (int i = 0; i < rows * 8; i++) assert_int_equal(isnan(out.y[i]) != 0, read);
            for (int i = 0; i < rows * 8; i++) assert_int_equal(isnan(out.d[0][i]) != 0, read);
            for (int i = 61 * 8; i < 90 * 8; i++) assert_true(out.d[1][i] == 0 && out.d[2][i] == 0);
            forget(&out);
            for (int i = 0; i < 3; i++) free(value[i]);
        }
}

/* A bias of -inf is a mask. */
static int build_infinite_bias(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)option;
    static const float bias[2][1][3][4] = {{{{0, -INFINITY, 0, -INFINITY},
                                             {-INFINITY, -INFINITY, -INFINITY, -INFINITY},
                                             {1, 2, 3, -INFINITY}}},
                                           {{{0, 0, 0, 0},
                                             {-INFINITY, -INFINITY, -INFINITY, 2},
                                             {-INFINITY, -INFINITY, -INFINITY, -INFINITY}}}};
    tn_node mask = tn_cast(tn_constant(graph, TN_F32, TN_SHAPE(2, 1, 3, 4), bias),
                           tn_dtype_of(in[0]));
    out[0] = tn_attention(in[0], in[1], in[2], .bias = mask);
    return 1;
}

static void test_infinite_bias(void **state)
{
    (void)state;
    check_case c = {.name = "infinite bias",
                    .in = {{.shape = TN_SHAPE(2, 3, 2, 4)},
                           {.shape = TN_SHAPE(2, 4, 1, 4)},
                           {.shape = TN_SHAPE(2, 4, 1, 4)}},
                    .in_count = 3,
                    .build = build_infinite_bias,
                    .second_order = true};
    check_run(&c, 6);
}

/* Token by token through a cache gives what the whole sequence gives at once. */
static void test_decoding(void **state)
{
    (void)state;
    enum { L = 40, H = 4, K = 2, Q = 16 };
    float *value[3] = {noise(L * H * Q, 1, 2), noise(L * K * Q, 2, 1), noise(L * K * Q, 3, 1)};
    outcome all = attend(TN_SHAPE(1, L, H, Q), TN_SHAPE(1, L, K, Q), (const float *const *)value,
                         (tn_attention_options){.causal = true}, NULL, NULL);
    tn_state *store = tn_state_create(1);
    tn_graph *graph = tn_graph_create(store);
    tn_node q = tn_input(graph, "q", TN_F32, TN_SHAPE(1, 1, H, Q)),
            k = tn_input(graph, "k", TN_F32, TN_SHAPE(1, 1, K, Q));
    tn_node v = tn_input(graph, "v", TN_F32, TN_SHAPE(1, 1, K, Q)),
            at = tn_input(graph, "at", TN_I32, TN_SHAPE(1));
    tn_node cache[2], full[2], token[2];
    for (int i = 0; i < 2; i++) {
        cache[i] = tn_state_node(graph, i ? "values" : "keys", TN_F32, TN_SHAPE(1, L, K, Q),
                                 (tn_init){0});
        full[i] = tn_cache_write(cache[i], i ? v : k, at);
        token[i] = tn_assign(cache[i], full[i]);
    }
    tn_node length = tn_add(at, tn_fill(graph, TN_I32, TN_SCALAR, 1));
    tn_node y = tn_attention(q, full[0], full[1], .causal = true, .length = length);
    tn_plan *plan;
    if (tn_compile(&plan, .graph = graph, .feeds = TN_NODES(q, k, v, at), .fetches = TN_NODES(y),
                   .updates = tn_group(graph, token, 2)) != TN_OK)
        fail_msg("%s", tn_message());
    for (int32_t t = 0; t < L; t++) {
        float out[H * Q];
        if (tn_run(plan,
                   (const void *[]){value[0] + t * H * Q, value[1] + t * K * Q,
                                    value[2] + t * K * Q, &t},
                   (void *[]){out}) != TN_OK)
            fail_msg("%s", tn_message());
        for (int i = 0; i < H * Q; i++) assert_near(out[i], all.y[t * H * Q + i], 2e-6);
    }
    assert_memory_equal(tn_state_find(store, "keys")->data, value[1], L * K * Q * sizeof(float));
    tn_plan_free(plan);
    tn_graph_free(graph);
    tn_state_free(store);
    forget(&all);
    for (int i = 0; i < 3; i++) free(value[i]);
}

/* ---- decompositions -------------------------------------------------------------------------- */

static void test_decompositions(void **state)
{
    (void)state;
    static const tn_op_id ops[] = {TN_OP_ATTENTION, TN_OP_ATTENTION_GRAD,
                                   TN_OP_ATTENTION_BIAS_GRAD};
    for (int i = 0; i < 12; i++) {
        attention_case a = {.B = 2,
                            .L = 5,
                            .M = 7,
                            .K = 2,
                            .G = 2,
                            .Q = 3,
                            .options = {.causal = i & 1, .window = i % 3 == 2 ? 3 : 0}};
        a.key_mask = i % 4 == 1;
        a.packed = i >= 9;
        if (a.packed) a.B = 1, a.M = a.L = 11;
        a.length = !a.packed && i % 3 == 1;
        a.bias = !a.packed && i % 2;
        a.bias_shape = TN_SHAPE(1, 4, 5, 7);
        check_case c = case_of(&a, "attention");
        check_decompositions(&c, 40 + (uint64_t)i, ops, 3, a.bias ? 3 : 2);
    }
}

/* ---- messages -------------------------------------------------------------------------------- */

static void test_bad_values(void **state)
{
    (void)state;
    tn_graph *graph = tn_graph_create(NULL);
    tn_node x = tn_fill(graph, TN_F32, TN_SHAPE(2, 4, 1, 2), 1),
            packed = tn_fill(graph, TN_F32, TN_SHAPE(6, 1, 2), 1);
    tn_node two = tn_input(graph, "two", TN_I32, TN_SHAPE(2)),
            four = tn_input(graph, "four", TN_I32, TN_SHAPE(4));
    tn_node with_length = tn_attention(x, x, x, .length = two),
            with_offsets = tn_attention(packed, packed, packed, .offsets = four);
    check_refused_run(graph, two, with_length, (int32_t[]){4, 5},
                      "test_attention.c:", "length[1] is 5, but there are 4 keys");
    check_refused_run(graph, two, with_length, (int32_t[]){-1, 4},
                      "test_attention.c:", "length[0] is -1");
    check_refused_run(graph, four, with_offsets, (int32_t[]){0, 3, 2, 6}, "test_attention.c:",
                      "offsets[2] is 2; offsets must rise from 0 to at most 6");
    check_refused_run(graph, four, with_offsets, (int32_t[]){1, 3, 4, 6},
                      "test_attention.c:", "offsets[0] is 1");
    check_refused_run(graph, four, with_offsets, (int32_t[]){0, 3, 4, 7},
                      "test_attention.c:", "offsets[3] is 7");
    tn_graph_free(graph);
}

static void test_messages(void **state)
{
    (void)state;
#define REFUSED(expression, part)                                                                  \
    do {                                                                                           \
        tn_graph *graph = tn_graph_create(NULL);                                                   \
        tn_node q = tn_input(graph, "q", TN_F32, TN_SHAPE(2, 3, 4, 6)),                            \
                k = tn_input(graph, "k", TN_F32, TN_SHAPE(2, 5, 2, 6));                            \
        tn_node packed = tn_input(graph, "packed", TN_F32, TN_SHAPE(7, 2, 6)),                     \
                i = tn_input(graph, "i", TN_I32, TN_SHAPE(2));                                     \
        tn_node mask = tn_input(graph, "mask", TN_BOOL, TN_SHAPE(2, 5));                           \
        (void)q, (void)k, (void)packed, (void)i, (void)mask;                                       \
        assert_true(tn_is_none(expression));                                                       \
        check_refused(graph, part);                                                                \
        tn_graph_free(graph);                                                                      \
    } while (0)
    REFUSED(tn_attention(q, k, tn_cast(k, TN_BF16)), "cast them to one floating-point type");
    REFUSED(tn_attention(q, packed, packed),
            "the dense form wants q [B, L, H, Q], k and v [B, M, K, Q]");
    REFUSED(tn_attention(packed, packed, packed), "the dense form");
    REFUSED(tn_attention(q, k, k, .offsets = i), "the packed form wants q [T, H, Q]");
    REFUSED(tn_attention(k, q, q), "2 heads are not a multiple of 4 key/value heads");
    REFUSED(tn_attention(tn_slice(q, 2, 0, 3, 1), k, k),
            "3 heads are not a multiple of 2 key/value heads");
    REFUSED(tn_attention(q, k, k, .window = -1), "window -1");
    REFUSED(tn_attention(q, k, k, .scale = INFINITY), "scale inf");
    REFUSED(tn_attention(q, k, k, .bias = tn_cast(mask, TN_F32)),
            "bias [2, 5] does not broadcast to the scores [B, H, L, M] = [2, 4, 3, 5]");
    REFUSED(tn_attention(q, k, k, .key_mask = tn_slice(mask, 1, 0, 4, 1)),
            "key_mask is bool [2, 4]; it must be bool [2, 5] here");
    REFUSED(tn_attention(q, k, k, .key_mask = tn_cast(mask, TN_F32)), "key_mask is f32");
    REFUSED(tn_attention(q, k, k, .length = tn_slice(i, 0, 0, 1, 1)),
            "length is i32 [1]; it must be i32 [2] here");
    REFUSED(tn_attention(packed, packed, packed, .offsets = i, .length = i), "do not go together");
    REFUSED(tn_attention(packed, packed, packed, .offsets = tn_cast(i, TN_F32)), "offsets is f32");
    REFUSED(tn_attention(packed, packed, packed, .offsets = mask), "it must be [segments + 1]");
    /* f64 is for the reference backend */
    tn_graph *graph = tn_graph_create(NULL);
    tn_node x = tn_input(graph, "x", TN_F64, TN_SHAPE(1, 2, 1, 4)), y = tn_attention(x, x, x);
    tn_plan *plan;
    assert_int_equal(
        tn_compile(&plan, .graph = graph, .feeds = TN_NODES(x), .fetches = TN_NODES(y)),
        TN_UNSUPPORTED);
    assert_non_null(strstr(tn_message(), "does not take f64"));
    tn_graph_free(graph);
}

/* FLOP by the op's own count: 4 B H L M Q, half of it (and the diagonal) when causal. */
static void test_flop(void **state)
{
    (void)state;
    for (int causal = 0; causal < 2; causal++) {
        tn_graph *graph = tn_graph_create(NULL);
        tn_node x = tn_input(graph, "x", TN_F32, TN_SHAPE(2, 10, 4, 8)),
                y = tn_attention(x, x, x, .causal = causal);
        tn_plan *plan;
        assert_int_equal(
            tn_compile(&plan, .graph = graph, .feeds = TN_NODES(x), .fetches = TN_NODES(y)), TN_OK);
        double expected = 4.0 * 2 * 4 * 8 * (causal ? 55 : 100);
        assert_true(tn_plan_flop(plan) >= expected && tn_plan_flop(plan) < expected + 1000);
        tn_plan_free(plan);
        tn_graph_free(graph);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small),         cmocka_unit_test(test_large),
        cmocka_unit_test(test_random_shapes), cmocka_unit_test(test_half),
        cmocka_unit_test(test_empty),         cmocka_unit_test(test_views),
        cmocka_unit_test(test_huge_scores),   cmocka_unit_test(test_nothing_to_read),
        cmocka_unit_test(test_not_a_number),  cmocka_unit_test(test_infinite_bias),
        cmocka_unit_test(test_decoding),      cmocka_unit_test(test_decompositions),
        cmocka_unit_test(test_bad_values),    cmocka_unit_test(test_messages),
        cmocka_unit_test(test_flop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
