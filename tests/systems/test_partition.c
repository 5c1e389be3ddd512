/* The planner: volumes against the sums of the specification and against counting, layouts that are
 * the same, the paper's crossovers and contexts, and properties that every estimate has. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
/* after the headers it needs */
#include <cmocka.h>

#include "tenon/partition.h"
#include "tenon/random.h"

static tn_partition_model named(const char *name)
{
    tn_partition_model m;
    assert_int_equal(tn_partition_model_named(name, &m), TN_OK);
    return m;
}

static tn_partition_hardware tpu(void)
{
    tn_partition_hardware h;
    assert_int_equal(tn_partition_hardware_named("tpu-v4", &h), TN_OK);
    return h;
}

static tn_partition_estimate estimate(const tn_partition_model *m, const tn_partition_job *job,
                                      tn_partition_ff ff, tn_partition_attention attention,
                                      int64_t x, int64_t y, int64_t z)
{
    tn_partition_hardware h = tpu();
    tn_partition_estimate e;
    tn_partition_layout l = {.mesh = {x, y, z}, .ff = ff, .attention = attention};
    tn_partition_estimate_layout(m, &h, job, l, &e);
    return e;
}

static void near(double a, double b, double relative)
{
    if (!(fabs(a - b) <= relative * fabs(b))) fail_msg("%.17g, but %.17g is right", a, b);
}

static void test_parameters(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double count;
    } known[] = {{"palm-8b", 8632401920.0},
                 {"palm-62b", 62496178176.0},
                 {"palm-540b", 540356640768.0},
                 {"mt-nlg-530b", 529530880000.0}};
    for (int i = 0; i < 4; i++) {
        tn_partition_model m = named(known[i].name);
        assert_true(tn_partition_parameters(&m) == known[i].count);
    }
    tn_partition_model palm = named("palm-540b");
    tn_partition_job job = {.batch = 512, .tokens = 1, .context = 1};
    tn_partition_estimate e = estimate(&palm, &job, TN_WS2D, TN_BY_BATCH_YZX, 4, 4, 4);
    assert_true(e.padded_parameters == 558174044160.0);
    assert_int_equal(e.padded_heads, 64);
}

/* The big terms of a parallel block of PaLM 540B on 64 chips, elements per token. */
static void test_block_sum(void **state)
{
    (void)state;
    static const struct {
        int64_t x;
        double sum;
    } known[] = {{1, 36288}, {2, 21824}, {4, 20544}, {8, 31808}};
    tn_partition_model palm = named("palm-540b");
    tn_partition_job job = {.batch = 64, .tokens = 1, .context = 1};
    for (int i = 0; i < 4; i++) {
        tn_partition_estimate e = estimate(&palm, &job, TN_WS2D, TN_BY_HEADS, known[i].x, 1,
                                           64 / known[i].x);
        double sum = e.volume[TN_GATHER_INPUT] + e.volume[TN_SCATTER_Q_WI] +
                     e.volume[TN_GATHER_ATT_MLP] + e.volume[TN_SCATTER_OUTPUT];
        near(sum / 64, known[i].sum, 1e-12);
    }
}

/* Elements in millions of the paper's Figure 3. */
static void test_figure3(void **state)
{
    (void)state;
    static const double tokens[] = {2048, 16384, 65536, 262144, 1048576};
    static const double known[5][5] = {{66.06, 528.5, 2114, 8456, 33823},
                                       {28.31, 226.5, 906.0, 3624, 14496},
                                       {116.4, 226.5, 604.0, 2114, 8154},
                                       {506.5, 528.5, 604.0, 906.0, 2114},
                                       {2114, 2114, 2114, 2114, 2114}};
    tn_partition_model m = {"figure 3", 1, 16384, 65536, 64, 256, 1, 1, 1, true, false, 0};
    for (int ff = 0; ff < 5; ff++)
        for (int i = 0; i < 5; i++) {
            tn_partition_job job = {
                .batch = 64, .tokens = (int64_t)tokens[i] / 64, .ff_only = true};
            tn_partition_estimate e = estimate(&m, &job, (tn_partition_ff)ff, TN_BY_HEADS, 4, 4, 4);
            near(e.volume_sum / 1e6, known[ff][i], 6e-4);
        }
    static const double from[2][4] = {{0, 16384, 65536, 1048576}, {0, 16384, 65536, 786432}};
    static const tn_partition_ff order[] = {TN_WS2D, TN_WG_X, TN_WG_XY, TN_WG_XYZ};
    for (int paper = 0; paper < 2; paper++) {
        tn_partition_crossover part[TN_PARTITION_FFS];
        tn_partition_job job = {.ff_only = true, .paper_volumes = paper};
        assert_int_equal(tn_partition_crossovers(&m, &job, (int64_t[]){4, 4, 4}, part), 4);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(part[i].ff, order[i]);
            near(part[i].from, from[paper][i], 1e-9);
        }
    }
    /* int8 weights halve the tokens */
    tn_partition_crossover part[TN_PARTITION_FFS];
    tn_partition_job job = {.ff_only = true, .weight_bytes = 1};
    assert_int_equal(tn_partition_crossovers(&m, &job, (int64_t[]){4, 4, 4}, part), 4);
    near(part[1].from, 8192, 1e-9);
}

/* 1D is 2D with X = 1, and a gathering over an axis of one chip. */
static void test_same_layouts(void **state)
{
    (void)state;
    tn_partition_model m = named("mt-nlg-530b");
    tn_partition_job job = {.batch = 32, .tokens = 5, .context = 100};
    tn_partition_estimate a = estimate(&m, &job, TN_WS1D, TN_BY_HEADS, 4, 2, 2),
                          b = estimate(&m, &job, TN_WS2D, TN_BY_HEADS, 1, 4, 4),
                          c = estimate(&m, &job, TN_WG_X, TN_BY_HEADS, 1, 4, 4);
    near(a.volume_sum, b.volume_sum, 1e-12);
    near(a.volume_sum, c.volume_sum, 1e-12);
    near(a.memory, b.memory, 1e-12);
}

/* Counts what an all-gather and a reduce-scatter of a serial feed-forward move, rank by rank. */
static void test_counted(void **state)
{
    (void)state;
    enum { T = 24, E = 48, F = 96 };
    tn_partition_model m = {"small", 1, E, F, 8, 4, 1, 1, 1, true, false, 0};
    for (int64_t x = 1; x <= 4; x *= 2)
        for (int64_t yz = 1; yz <= 4; yz *= 2) {
            tn_partition_job job = {.batch = T, .tokens = 1, .ff_only = true};
            tn_partition_estimate e = estimate(&m, &job, TN_WS2D, TN_BY_HEADS, x, yz, 1);
            int64_t gather_in = 0, scatter_f = 0, gather_f = 0, scatter_out = 0;
            for (int64_t chip = 1; chip < yz; chip++) gather_in += T * E / (x * yz);
            for (int64_t chip = 1; chip < x; chip++) scatter_f += T * F / (x * yz);
            for (int64_t chip = 1; chip < x; chip++) gather_f += T * F / (x * yz);
            for (int64_t chip = 1; chip < yz; chip++) scatter_out += T * E / (x * yz);
            near(e.volume_sum, (double)(gather_in + scatter_f + gather_f + scatter_out), 1e-12);
        }
}

static void test_table1(void **state)
{
    (void)state;
    static const struct {
        bool multihead;
        tn_partition_attention attention;
        int64_t batch;
        double printed;
    } known[] = {{true, TN_BY_HEADS, 128, 1320},       {true, TN_BY_HEADS, 512, 330},
                 {false, TN_BY_HEADS, 128, 660},       {false, TN_BY_HEADS, 512, 165},
                 {false, TN_BY_BATCH_YZX, 128, 43000}, {false, TN_BY_BATCH_YZX, 512, 10700}};
    for (int i = 0; i < 6; i++) {
        tn_partition_model m = named("palm-540b");
        if (known[i].multihead) m.kv_heads = m.heads, m.head_width = 128;
        tn_partition_layout l = {{4, 4, 4}, TN_WS2D, known[i].attention};
        tn_partition_job job = {.batch = known[i].batch, .tokens = 1};
        double ours = (double)tn_partition_max_context(&m, &job, l, 0.3 * tpu().memory_bytes);
        near(ours, known[i].printed, 0.015);
    }
}

static void test_search(void **state)
{
    (void)state;
    tn_partition_model m = named("palm-540b");
    tn_partition_hardware h = tpu();
    tn_partition_job job = {.batch = 512, .tokens = 1, .context = 2048};
    tn_partition_estimate *list;
    int count;
    assert_int_equal(tn_partition_search(&m, &h, &job, 0, NULL, &list, &count), TN_INVALID);
    assert_int_equal(tn_partition_search(&m, &h, &job, 64, NULL, &list, &count), TN_OK);
    assert_true(count > 50);
    assert_true(list[0].fits);
    for (int i = 1; i < count && list[i].fits; i++)
        assert_true(list[i].latency >= list[i - 1].latency);
    for (int i = 0; i < count; i++) {
        int64_t n = list[i].layout.mesh[0] * list[i].layout.mesh[1] * list[i].layout.mesh[2];
        assert_int_equal(n, 64);
        if (!list[i].fits) assert_true(*list[i].reason);
    }
    free(list);
    /* one chip cannot hold it; a prime number of chips can be planned */
    assert_int_equal(tn_partition_search(&m, &h, &job, 1, NULL, &list, &count), TN_OK);
    assert_false(list[0].fits);
    assert_non_null(strstr(list[0].reason, "needs"));
    free(list);
    assert_int_equal(tn_partition_search(&m, &h, &job, 127, NULL, &list, &count), TN_OK);
    assert_true(list[0].fits);
    assert_int_equal(list[0].padded_heads, 127);
    free(list);
}

/* More bandwidth is never slower, more memory never a smaller context, MFU times cost is constant. */
static void test_properties(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 300; seed++) {
        uint64_t k = 0;
#define PICK(low, high)                                                                            \
    ((int64_t)tn_random_below(seed, 1, k++, (uint64_t)((high) - (low) + 1)) + (low))
        int64_t kv = PICK(1, 4), heads = kv * PICK(1, 16);
        tn_partition_model m = {"random",
                                PICK(1, 100),
                                8 * PICK(1, 2000),
                                8 * PICK(1, 4000),
                                heads,
                                PICK(8, 256),
                                kv,
                                PICK(100, 300000),
                                (int)PICK(1, 2),
                                PICK(0, 1) == 1,
                                PICK(0, 1) == 1,
                                0};
        tn_partition_job job = {.batch = PICK(1, 1000),
                                .tokens = PICK(1, 100),
                                .weight_bytes = (int)PICK(1, 2),
                                .cache_bytes = (int)PICK(1, 2),
                                .axis_links = PICK(0, 1) == 1};
        job.context = job.tokens + PICK(0, 4000);
        tn_partition_layout l = {{PICK(1, 6), PICK(1, 6), PICK(1, 6)},
                                 (tn_partition_ff)PICK(0, TN_PARTITION_FFS - 1),
                                 (tn_partition_attention)PICK(0, TN_PARTITION_ATTENTIONS - 1)};
#undef PICK
        tn_partition_hardware h = tpu(), better = h;
        tn_partition_estimate a, b;
        tn_partition_estimate_layout(&m, &h, &job, l, &a);
        better.memory_bandwidth *= 2, better.link_bandwidth *= 2;
        tn_partition_estimate_layout(&m, &better, &job, l, &b);
        assert_true(b.latency <= a.latency);
        assert_true(a.latency > 0 && isfinite(a.latency) && a.memory > 0);
        near(a.mfu * a.chip_seconds,
             2 * tn_partition_parameters(&m) /
                 (job.weight_bytes == 1 && job.activation_bytes == 1 ? h.peak_int8 : h.peak_bf16),
             1e-9);
        assert_true(tn_partition_max_context(&m, &job, l, 2e9) >=
                    tn_partition_max_context(&m, &job, l, 1e9));
        for (int term = 0; term < TN_PARTITION_TERMS; term++) assert_true(a.volume[term] >= 0);
        tn_partition_job paper = job;
        paper.paper_volumes = true;
        tn_partition_estimate_layout(&m, &h, &paper, l, &b);
        assert_true(b.volume_sum >= a.volume_sum); /* the factors (1 - 1/k) are at most 1 */
    }
}

/* Constants that made the points are found again. */
static void test_fit(void **state)
{
    (void)state;
    static const char *const names[] = {"palm-8b", "palm-62b", "palm-540b"};
    tn_partition_hardware truth = tpu(), found = tpu();
    truth.constants = (tn_partition_constants){0.6, 0.75, 0.3, 60e-6};
    tn_partition_point point[24];
    for (int i = 0; i < 24; i++) {
        point[i] = (tn_partition_point){
            .model = named(names[i % 3]),
            .job = {.batch = INT64_C(16) << (i / 3), .tokens = 1, .context = 2048},
            .layout = {{2, 2, i % 3 == 2 ? 16 : 4}, TN_WS2D, TN_BY_BATCH_YZ}};
        point[i].seconds = tn_partition_predict(&truth, &point[i]);
    }
    tn_partition_fit(&found, point, 24, NULL);
    assert_true(tn_partition_error(&found, point, 24) < 0.01);
    tn_partition_fit(&found, point, 24, "palm-62b");
    assert_true(tn_partition_error(&found, point, 24) < 0.02);
}

static void test_unknown_names(void **state)
{
    (void)state;
    tn_partition_model m;
    tn_partition_hardware h;
    assert_int_equal(tn_partition_model_load("no-such-model", &m), TN_INVALID);
    assert_non_null(strstr(tn_message(), "palm-540b"));
    assert_int_equal(tn_partition_hardware_load("no-such-chip", &h), TN_INVALID);
    assert_non_null(strstr(tn_message(), "h200"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameters), cmocka_unit_test(test_block_sum),
        cmocka_unit_test(test_figure3),    cmocka_unit_test(test_same_layouts),
        cmocka_unit_test(test_counted),    cmocka_unit_test(test_table1),
        cmocka_unit_test(test_search),     cmocka_unit_test(test_properties),
        cmocka_unit_test(test_fit),        cmocka_unit_test(test_unknown_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
