/* A trained GPT-2-type network reproduces every intermediate tensor that its authors published (three inputs of eleven tokens). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "systems/data_path.h"
#include "tenon/infer.h"
#include "tenon/ops.h"
#include "tenon/plan.h"

enum { MOST = 64 };

typedef struct taps {
    int count, layer[MOST];
    const char *name[MOST];
    tn_node node[MOST];
} taps;

static void collect(void *context, int layer, const char *name, tn_node value)
{
    taps *t = context;
    assert_true(t->count < MOST);
    t->layer[t->count] = layer;
    t->name[t->count] = name;
    t->node[t->count++] = value;
}

static tn_node tapped(const taps *t, int layer, const char *name)
{
    for (int i = 0; i < t->count; i++)
        if (t->layer[i] == layer && !strcmp(t->name[i], name)) return t->node[i];
    fail_msg("nothing is called %s in layer %d", name, layer);
    return TN_NONE;
}

static void require(tn_status status)
{
    if (status != TN_OK) fail_msg("%s", tn_message());
}

/* [B, L, H, Q] -> [B, H, L, Q], the order of the published tensors. */
static tn_node by_head(tn_node x) { return tn_transpose(x, TN_PERMUTE(0, 2, 1, 3)); }

static void test_every_published_intermediate(void **unused)
{
    (void)unused;
    const char *model = data_path("gpt-nano-sort-model.json"),
               *partials = data_path("gpt-nano-sort-partials.json");
    if (!model || !partials) skip();
    tn_weights *weights, *published;
    tn_infer_config config;
    require(tn_weights_open(model, &weights));
    require(tn_weights_open(partials, &published));
    require(tn_infer_config_of(weights, &config));
    tn_state *state = tn_state_create(0);
    require(tn_infer_load(state, &config, weights));

    tn_graph *g = tn_graph_create(state);
    taps t = {0};
    tn_infer_pass pass = {.tokens = tn_input(g, "tokens", TN_I32, TN_SHAPE(3, 11)),
                          .tap = collect,
                          .tap_context = &t};
    tn_node logits = tn_infer_logits(tn_root(g), &config, &pass);
    tn_node q = by_head(tapped(&t, 0, "attention.q")), k = by_head(tapped(&t, 0, "attention.k")),
            v = by_head(tapped(&t, 0, "attention.v"));
    /* The engine's attention never stores the scores: here they are made from its q and k. */
    tn_node query = tn_iota(g, TN_I32, TN_SHAPE(11, 11), 0),
            key = tn_iota(g, TN_I32, TN_SHAPE(11, 11), 1);
    tn_node minus_infinity = tn_fill(g, TN_F32, TN_SCALAR, -INFINITY);
    tn_node att = tn_where(tn_less_equal(key, query),
                           tn_affine(tn_matmul(q, k, .transpose_b = true), 0.25, 0),
                           minus_infinity);
    tn_node flat[3];
    for (int i = 0; i < 3; i++)
        flat[i] = tn_reshape(
            tapped(&t, 0, (const char *[]){"attention.q", "attention.k", "attention.v"}[i]),
            TN_SHAPE(3, 11, 48));
    const struct {
        const char *name;
        tn_node node;
    } wanted[] = {
        {"tok_emb", tapped(&t, -1, "embedding")},
        {"pos_emb", tapped(&t, -1, "position_embedding")},
        {"x", tapped(&t, -1, "input")},
        {"ln1", tapped(&t, 0, "input_norm")},
        {"q", q},
        {"k", k},
        {"v", v},
        {"qkv", tn_concat(flat, 3, 2)},
        {"att", att},
        {"attSm", tn_softmax(att, -1)},
        {"y", tapped(&t, 0, "attention.mixed")},
        {"yProj", tapped(&t, 0, "attention.out")},
        {"attnResid", tapped(&t, 0, "attention.residual")},
        {"ln2", tapped(&t, 0, "middle_norm")},
        {"fc", tapped(&t, 0, "mlp.in")},
        {"gelu", tapped(&t, 0, "mlp.activated")},
        {"mlp", tapped(&t, 0, "mlp.out")},
        {"mlpResid", tapped(&t, 0, "block")},
        {"block0", tapped(&t, 0, "block")},
        {"block1", tapped(&t, 1, "block")},
        {"block2", tapped(&t, 2, "block")},
        {"ln_f", tapped(&t, -1, "final_norm")},
        {"lm_head", logits},
        {"probs", tn_softmax(logits, -1)},
    };
    enum { COUNT = sizeof wanted / sizeof *wanted };
    tn_node fetch[COUNT];
    void *got[COUNT];
    for (int i = 0; i < COUNT; i++) {
        fetch[i] = wanted[i].node;
        got[i] = calloc((size_t)tn_shape_size(tn_shape_of(fetch[i])) + 1, sizeof(float));
    }
    tn_plan *plan;
    require(
        tn_compile(&plan, .graph = g, .feeds = TN_NODES(pass.tokens), .fetches = {fetch, COUNT}));
    float index[33];
    int32_t tokens[33];
    require(tn_weights_read_f32(published, "idx", index, 33));
    for (int i = 0; i < 33; i++) tokens[i] = (int32_t)index[i];
    require(tn_run(plan, (const void *[]){tokens}, got));

    double worst = 0;
    for (int i = 0; i < COUNT; i++) {
        const tn_weight *w = tn_weights_find(published, wanted[i].name);
        if (!w) fail_msg("%s is not among the published tensors", wanted[i].name);
        int64_t count = tn_shape_size(w->shape);
        assert_int_equal(count, tn_shape_size(tn_shape_of(fetch[i])));
        float *expected = calloc((size_t)count, sizeof *expected);
        require(tn_weights_read_f32(published, wanted[i].name, expected, count));
        for (int64_t e = 0; e < count; e++) {
            float value = ((float *)got[i])[e];
            if (value == expected[e]) continue; /* also -inf */
            double difference = fabs((double)value - (double)expected[e]);
            if (!(difference <= 1e-5))
                fail_msg("%s[%d] is %.8f instead of %.8f", wanted[i].name, (int)e, (double)value,
                         (double)expected[e]);
            worst = fmax(worst, difference);
        }
        free(expected);
        free(got[i]);
    }
    printf("largest difference over %d tensors: %.2e\n", COUNT, worst);
    tn_plan_free(plan);
    tn_graph_free(g);
    tn_state_free(state);
    tn_weights_free(weights);
    tn_weights_free(published);
}

/* The network does what it was trained for. */
static void test_it_sorts(void **unused)
{
    (void)unused;
    const char *model = data_path("gpt-nano-sort-model.json");
    if (!model) skip();
    tn_weights *weights;
    tn_infer_config config;
    tn_generator *generator;
    tn_state *state = tn_state_create(0);
    require(tn_weights_open(model, &weights));
    require(tn_infer_config_of(weights, &config));
    require(tn_infer_load(state, &config, weights));
    require(tn_generator_create(&generator, state, &config, (tn_generator_options){0}));
    const int32_t mixed[6] = {2, 1, 0, 1, 2, 0}, sorted[6] = {0, 0, 1, 1, 2, 2};
    const float *logits;
    require(tn_generator_feed(generator, mixed, 6, &logits));
    for (int i = 0; i < 6; i++) {
        int32_t next;
        require(tn_sample(logits, 3, &(tn_sampling){0}, 0, NULL, 0, &next));
        assert_int_equal(next, sorted[i]);
        if (i < 5) require(tn_generator_feed(generator, &next, 1, &logits));
    }
    tn_generator_free(generator);
    tn_state_free(state);
    tn_weights_free(weights);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_published_intermediate),
                                       cmocka_unit_test(test_it_sorts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
