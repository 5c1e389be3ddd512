/* Scores of texts: against double precision on a trained model, against token-by-token generation,
 * and windows over texts longer than the context. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the headers it needs */
#include <cmocka.h>

#include "base/file.h"
#include "systems/data_path.h"
#include "tenon/infer.h"
#include "tenon/random.h"

static void require(tn_status status)
{
    if (status != TN_OK) fail_msg("%s", tn_message());
}

/* The sums over the first 256 tokens in double precision. */
static void test_trained_model(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double sum;
    } known[] = {{"text/frankenstein.txt", 1008.582787623},
                 {"text/tanaka-train.en", 1151.317391577},
                 {"stories260K-greedy.txt", 116.225844977}};
    const char *weights_path = data_path("stories260K.bin"),
               *tokenizer_path = data_path("tok512.bin");
    if (!weights_path || !tokenizer_path) skip();
    tn_weights *weights;
    tn_tokenizer *tokenizer;
    tn_infer_config config;
    require(tn_weights_open(weights_path, &weights));
    require(tn_tokenizer_open(tokenizer_path, &tokenizer));
    require(tn_infer_config_of(weights, &config));
    tn_state *parameters = tn_state_create(0);
    require(tn_infer_load(parameters, &config, weights));
    for (int i = 0; i < 3; i++) {
        char *text;
        size_t size;
        int32_t *ids;
        int64_t count;
        float loss[256];
        double sum = 0;
        require(tn_file_read(data_path(known[i].text), 1 << 24, &text, &size));
        require(tn_tokenizer_encode(tokenizer, text, size, (tn_encode_options){.begin = true}, &ids,
                                    &count));
        if (count > 256) count = 256;
        require(tn_infer_score(parameters, &config, ids, count, &(tn_score_options){0}, loss));
        for (int64_t k = 0; k + 1 < count; k++) sum += (double)loss[k];
        if (!(fabs(sum / known[i].sum - 1) < 1e-5))
            fail_msg("%s: %.6f, but %.6f in double precision", known[i].text, sum, known[i].sum);
        free(ids);
        free(text);
    }
    tn_state_free(parameters);
    tn_tokenizer_free(tokenizer);
    tn_weights_free(weights);
}

enum { VOCABULARY = 11, CONTEXT = 16, COUNT = 45 };

/* A small model with random weights, and a random text. */
static tn_state *small_model(tn_infer_config *config, int32_t *ids)
{
    *config = (tn_infer_config){.family = TN_INFER_PALM,
                                .layers = 2,
                                .width = 8,
                                .feed_forward = 16,
                                .heads = 2,
                                .kv_heads = 1,
                                .head_width = 4,
                                .vocabulary = VOCABULARY,
                                .context = CONTEXT,
                                .norm_epsilon = 1e-6,
                                .rope_base = 10000,
                                .tied = true,
                                .bos = -1,
                                .eos = -1};
    for (int64_t i = 0; i < COUNT; i++)
        ids[i] = (int32_t)tn_random_below(3, 0, (uint64_t)i, VOCABULARY);
    return tn_state_create(5);
}

/* -log p(next) by feeding tokens [first, at] one after the other. */
static double generated_loss(tn_generator *generator, const int32_t *ids, int64_t first, int64_t at)
{
    const float *logits;
    double sum = 0;
    tn_generator_reset(generator);
    require(tn_generator_feed(generator, ids + first, at - first + 1, &logits));
    double top = -INFINITY;
    for (int i = 0; i < VOCABULARY; i++) top = fmax(top, (double)logits[i]);
    for (int i = 0; i < VOCABULARY; i++) sum += exp((double)logits[i] - top);
    return log(sum) + top - (double)logits[ids[at + 1]];
}

static void test_windows(void **state)
{
    (void)state;
    tn_infer_config config;
    int32_t ids[COUNT];
    float loss[COUNT];
    tn_state *parameters = small_model(&config, ids);
    tn_generator *generator;
    require(tn_generator_create(&generator, parameters, &config, (tn_generator_options){0}));
    static const tn_score_options options[] = {{0},
                                               {.window = 7, .stride = 3},
                                               {.window = 16, .stride = 16},
                                               {.window = 1},
                                               {.window = 5}};
    for (size_t o = 0; o < sizeof options / sizeof *options; o++)
        for (int64_t count = 2; count <= COUNT; count += 7) {
            require(tn_infer_score(parameters, &config, ids, count, &options[o], loss));
            int64_t all = count - 1, window = options[o].window ? options[o].window : CONTEXT;
            if (window > all) window = all;
            int64_t stride = options[o].stride ? options[o].stride : (window + 1) / 2;
            if (stride > window) stride = window;
            for (int64_t known = 0, first = 0; known < all;) {
                for (int64_t i = known; i < first + window; i++) {
                    double wanted = generated_loss(generator, ids, first, i);
                    if (!(fabs((double)loss[i] - wanted) < 1e-4))
                        fail_msg("options %zu, %d tokens: token %d has %g, not %g", o, (int)count,
                                 (int)i, (double)loss[i], wanted);
                }
                known = first + window;
                first = first + stride + window > all ? all - window : first + stride;
            }
        }
    tn_generator_free(generator);
    tn_state_free(parameters);
}

static void test_messages(void **state)
{
    (void)state;
    tn_infer_config config;
    int32_t ids[COUNT];
    float loss[COUNT];
    tn_state *parameters = small_model(&config, ids);
#define REFUSED(count, options, part)                                                              \
    do {                                                                                           \
        tn_score_options o_ = options;                                                             \
        assert_int_equal(tn_infer_score(parameters, &config, ids, count, &o_, loss), TN_INVALID);  \
        if (!strstr(tn_message(), part)) fail_msg("%s", tn_message());                             \
    } while (0)
    REFUSED(1, {0}, "at least two");
    REFUSED(5, {.window = 17}, "context of 16");
    ids[2] = VOCABULARY;
    REFUSED(5, {0}, "token 2 is id 11");
    ids[2] = -1;
    REFUSED(5, {0}, "token 2 is id -1");
    tn_state_free(parameters);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trained_model),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
