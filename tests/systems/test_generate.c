/* Generation on real weights: the published text of stories260K, its double-precision logits, any cut of the prompt into chunks, and what a
 * user can get wrong. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/file.h"
#include "systems/data_path.h"
#include "tenon/infer.h"
#include "tenon/random.h"

typedef struct model {
    tn_weights *weights;
    tn_infer_config config;
    tn_state *state;
    tn_tokenizer *tokenizer;
    tn_generator *generator;
} model;

static void require(tn_status status)
{
    if (status != TN_OK) fail_msg("%s", tn_message());
}

static bool open_model(model *m)
{
    memset(m, 0, sizeof *m);
    const char *weights = data_path("stories260K.bin"), *tokenizer = data_path("tok512.bin");
    if (!weights || !tokenizer) return false;
    require(tn_weights_open(weights, &m->weights));
    require(tn_infer_config_of(m->weights, &m->config));
    m->state = tn_state_create(0);
    require(tn_infer_load(m->state, &m->config, m->weights));
    require(tn_tokenizer_open(tokenizer, &m->tokenizer));
    require(tn_generator_create(&m->generator, m->state, &m->config, (tn_generator_options){0}));
    return true;
}

static void close_model(model *m)
{
    tn_generator_free(m->generator);
    tn_tokenizer_free(m->tokenizer);
    tn_state_free(m->state);
    tn_weights_free(m->weights);
}

static int32_t best(const float *logits, int64_t count)
{
    int64_t at = 0;
    for (int64_t i = 1; i < count; i++)
        if (logits[i] > logits[at]) at = i;
    return (int32_t)at;
}

static void test_parameter_count(void **unused)
{
    (void)unused;
    model m;
    if (!open_model(&m)) skip();
    assert_int_equal(tn_infer_parameter_count(&m.config), 260032);
    close_model(&m);
}

/* What `tenon infer generate` prints for the trained model at temperature 0; skips without it. */
static size_t printed_text(const char *more, char *printed, size_t room)
{
    const char *program = getenv("TENON_PROGRAM"), *weights = data_path("stories260K.bin"),
               *tokenizer = data_path("tok512.bin");
    char command[9000];
    if (!weights || !tokenizer || !program || access(program, X_OK)) {
        printf("SKIPPED: needs TENON_PROGRAM and the data\n");
        skip();
    }
    snprintf(command, sizeof command,
             "'%s' infer generate --model '%s' --tokenizer '%s' --temperature 0 %s", program,
             weights, tokenizer, more);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t got = fread(printed, 1, room, pipe);
    assert_int_equal(pclose(pipe), 0);
    return got;
}

/* The program prints the published text, byte for byte. */
static void test_published_greedy_text(void **unused)
{
    (void)unused;
    static char printed[65536];
    char *expected;
    size_t size, got = printed_text("", printed, sizeof printed - 1);
    require(tn_file_read(data_path("stories260K-greedy.txt"), 1 << 20, &expected, &size));
    if (got != size || memcmp(printed, expected, size))
        fail_msg("printed %zu bytes:\n%s\nexpected %zu:\n%s", got, printed, size, expected);
    free(expected);
}

/* A text that crosses tokens ends the output before it; one that only begins does not. */
static void test_stop_texts(void **unused)
{
    (void)unused;
    static char printed[65536];
    char *whole, more[64], stop[8] = {0};
    size_t size;
    const char *path = data_path("stories260K-greedy.txt");
    if (!path) skip();
    require(tn_file_read(path, 1 << 20, &whole, &size));
    for (size_t at = 50; at < 300; at += 37) {
        memcpy(stop, whole + at, 6);
        if (strpbrk(stop, "'\"\n")) continue;
        snprintf(more, sizeof more, "--stop '%s' --stop '%.3s#'", stop, stop);
        size_t got = printed_text(more, printed, sizeof printed - 1),
               wanted = (size_t)(strstr(whole, stop) - whole);
        if (got != wanted + 1 || memcmp(printed, whole, wanted) || printed[wanted] != '\n')
            fail_msg("stopping at \"%s\" printed %zu bytes, not %zu:\n%.*s", stop, got, wanted + 1,
                     (int)got, printed);
    }
    free(whole);
}

/* Logits after each prompt within 2e-5 of double precision; 200 greedy tokens identical, fed one at a time and in chunks. */
static void test_double_precision_reference(void **unused)
{
    (void)unused;
    const char *reference = data_path("reference/stories260K-f64.json");
    model m;
    if (!reference || !open_model(&m)) skip();
    json_t *root = json_load_file(reference, 0, NULL), *prompts = json_object_get(root, "cases"),
           *prompt;
    size_t index;
    assert_int_equal(json_array_size(prompts), 4);
    json_array_foreach(prompts, index, prompt)
    {
        json_t *ids = json_object_get(prompt, "ids"),
               *logits = json_object_get(prompt, "logits_after_prompt"),
               *greedy = json_object_get(prompt, "greedy");
        int32_t token[512];
        int64_t count = (int64_t)json_array_size(ids);
        assert_true(count > 0 && json_array_size(logits) == 512 && json_array_size(greedy) == 200);
        for (int64_t i = 0; i < count; i++)
            token[i] = (int32_t)json_integer_value(json_array_get(ids, (size_t)i));
        for (int one_by_one = 0; one_by_one < 2; one_by_one++) {
            const float *got = NULL;
            tn_generator_reset(m.generator);
            for (int64_t i = 0; i < count; i += one_by_one ? 1 : count)
                require(tn_generator_feed(m.generator, token + i, one_by_one ? 1 : count, &got));
            for (int64_t v = 0; v < 512; v++) {
                double expected = json_number_value(json_array_get(logits, (size_t)v));
                if (fabs((double)got[v] - expected) > 2e-5)
                    fail_msg("prompt %zu, logit %d: %.8f instead of %.8f", index, (int)v,
                             (double)got[v], expected);
            }
            for (size_t i = 0; i < 200; i++) {
                int32_t next = best(got, 512);
                assert_int_equal(next, json_integer_value(json_array_get(greedy, i)));
                require(tn_generator_feed(m.generator, &next, 1, &got));
            }
        }
    }
    json_decref(root);
    close_model(&m);
}

static void refuse(tn_status status, const char *part)
{
    assert_int_not_equal(status, TN_OK);
    if (!strstr(tn_message(), part)) fail_msg("'%s' does not hold '%s'", tn_message(), part);
}

static void test_wrong_use(void **unused)
{
    (void)unused;
    model m;
    if (!open_model(&m)) skip();
    const float *logits;
    int32_t token[600] = {1};
    refuse(tn_generator_feed(m.generator, token, 0, &logits), "the prompt is empty");
    refuse(tn_generator_feed(m.generator, token, 600, &logits),
           "600 tokens after 0 do not fit in a context of 512");
    token[1] = 512;
    refuse(tn_generator_feed(m.generator, token, 2, &logits),
           "token 1 is id 512, but the vocabulary has 512");
    tn_state *state = tn_state_create(0);
    tn_infer_config wider = m.config;
    wider.feed_forward = 100;
    refuse(tn_infer_load(state, &wider, m.weights), "[100, 64]");
    tn_state_free(state);
    close_model(&m);
}

static void test_sampling(void **unused)
{
    (void)unused;
    enum { V = 5, DRAWS = 20000 };
    const float logits[V] = {0, 1, 2, -1, 2};
    int32_t token;
    require(tn_sample(logits, V, &(tn_sampling){.temperature = 0}, 0, NULL, 0, &token));
    assert_int_equal(token, 2); /* the lowest id of the two best */
    int count[V] = {0}, cut[V] = {0}, few[V] = {0};
    double total = 0;
    for (int i = 0; i < V; i++) total += exp((double)logits[i]);
    for (uint64_t position = 0; position < DRAWS; position++) {
        require(tn_sample(logits, V, &(tn_sampling){.temperature = 1, .seed = 3}, position, NULL, 0,
                          &token));
        count[token]++;
        require(tn_sample(logits, V, &(tn_sampling){.temperature = 1, .top_k = 3, .seed = 3},
                          position, NULL, 0, &token));
        few[token]++;
        require(tn_sample(logits, V, &(tn_sampling){.temperature = 1, .top_p = 0.7, .seed = 3},
                          position, NULL, 0, &token));
        cut[token]++;
    }
    for (int i = 0; i < V; i++) {
        double expected = exp((double)logits[i]) / total;
        assert_true(fabs(count[i] / (double)DRAWS - expected) < 5 * sqrt(expected / DRAWS));
    }
    assert_int_equal(few[0] + few[3], 0);
    assert_true(few[1] > 0);
    assert_int_equal(cut[0] + cut[1] + cut[3], 0);
    refuse(tn_sample(logits, V, &(tn_sampling){.temperature = -1}, 0, NULL, 0, &token),
           "temperature");
    refuse(tn_sample(logits, V, &(tn_sampling){.temperature = 1, .top_p = 1.5}, 0, NULL, 0, &token),
           "top-p");
    refuse(tn_sample((float[]){0, NAN}, 2, &(tn_sampling){.temperature = 1}, 9, NULL, 0, &token),
           "logit of token 1 at position 9 is not a number");
}

/* The plain definition: sort everything, cut, renormalise. Probabilities by token. */
static void sorted_reference(const float *logits, int count, const tn_sampling *s, double *p)
{
    int order[64];
    double weight[64], total = 0, kept = 0;
    for (int i = 0; i < count; i++) {
        int at = i;
        for (; at > 0 && logits[order[at - 1]] < logits[i]; at--) order[at] = order[at - 1];
        order[at] = i;
    }
    int keep = s->top_k > 0 && s->top_k < count ? (int)s->top_k : count, n = 0;
    for (int i = 0; i < keep; i++) {
        weight[i] = exp(((double)logits[order[i]] - (double)logits[order[0]]) / s->temperature);
        total += weight[i];
    }
    for (; n < keep && !(s->top_p > 0 && s->top_p < 1 && kept >= s->top_p * total); n++)
        kept += weight[n];
    while (n > 1 && weight[n - 1] < s->min_p) n--;
    for (int i = 0; i < count; i++) p[i] = 0;
    total = 0;
    for (int i = 0; i < n; i++) total += weight[i];
    for (int i = 0; i < n; i++) p[order[i]] = weight[i] / total;
}

static void test_sampling_against_sorting(void **unused)
{
    (void)unused;
    enum { V = 50, DRAWS = 4000 };
    for (uint64_t seed = 0; seed < 40; seed++) {
        float logits[V];
        double p[V];
        int drawn[V] = {0};
        for (int i = 0; i < V; i++) /* with ties, and some that are impossible */
            logits[i] = i % 11 == 10 ? -INFINITY
                                     : (float)(int)tn_random_below(seed, 1, (uint64_t)i, 9) * 0.7F;
        tn_sampling s = {.temperature = 0.3 + 0.2 * (double)(seed % 7),
                         .top_k = seed % 3 == 1   ? 7
                                  : seed % 3 == 2 ? V
                                                  : 0,
                         .top_p = seed % 4 == 1   ? 0.5
                                  : seed % 4 == 2 ? 0.95
                                                  : 0,
                         .min_p = seed % 5 == 3 ? 0.1 : 0,
                         .seed = seed};
        sorted_reference(logits, V, &s, p);
        for (uint64_t position = 0; position < DRAWS; position++) {
            int32_t token;
            require(tn_sample(logits, V, &s, position, NULL, 0, &token));
            drawn[token]++;
        }
        for (int i = 0; i < V; i++) {
            double error = fabs(drawn[i] / (double)DRAWS - p[i]);
            if ((p[i] == 0 && drawn[i]) || error > 6 * sqrt(p[i] / DRAWS))
                fail_msg("seed %d: token %d was drawn %d of %d times, but has probability %g",
                         (int)seed, i, drawn[i], DRAWS, p[i]);
        }
    }
}

static void test_bias(void **unused)
{
    (void)unused;
    const float logits[4] = {1, 5, 2, 3};
    int32_t token;
    tn_logit_bias bias[] = {{1, -INFINITY}, {0, 10}};
    tn_sampling s = {.bias = bias, .bias_count = 1};
    require(tn_sample(logits, 4, &s, 0, NULL, 0, &token));
    assert_int_equal(token, 3);
    s.bias_count = 2;
    require(tn_sample(logits, 4, &s, 0, NULL, 0, &token));
    assert_int_equal(token, 0);
    s = (tn_sampling){.repetition = 4};
    require(tn_sample(logits, 4, &s, 0, (int32_t[]){1, 1, 3}, 3, &token));
    assert_int_equal(token, 2);
    bias[0].token = 4;
    s = (tn_sampling){.bias = bias, .bias_count = 1};
    refuse(tn_sample(logits, 4, &s, 0, NULL, 0, &token), "the vocabulary has 4");
    refuse(tn_sample((float[]){-INFINITY, -INFINITY}, 2, &(tn_sampling){.temperature = 1}, 3, NULL,
                     0, &token),
           "no token is possible at position 3");
    refuse(tn_sample(logits, 4, &(tn_sampling){.temperature = 1, .min_p = 2}, 0, NULL, 0, &token),
           "min-p");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameter_count),
        cmocka_unit_test(test_published_greedy_text),
        cmocka_unit_test(test_stop_texts),
        cmocka_unit_test(test_double_precision_reference),
        cmocka_unit_test(test_wrong_use),
        cmocka_unit_test(test_sampling),
        cmocka_unit_test(test_sampling_against_sorting),
        cmocka_unit_test(test_bias),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
