/* A converted model is the same model: logits, tokens, and half the bytes in bf16. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* after the headers it needs */
#include <cmocka.h>

#include "systems/data_path.h"
#include "tenon/infer.h"

static void require(tn_status status)
{
    if (status != TN_OK) fail_msg("%s", tn_message());
}

/* Logits [512] behind some tokens. */
static void logits_of(const char *path, float *out)
{
    static const int32_t tokens[] = {1, 403, 407, 261, 378, 17, 300};
    tn_weights *weights;
    tn_infer_config config;
    tn_generator *generator;
    const float *logits;
    require(tn_weights_open(path, &weights));
    require(tn_infer_config_of(weights, &config));
    tn_state *state = tn_state_create(0);
    require(tn_infer_load(state, &config, weights));
    require(tn_generator_create(&generator, state, &config, (tn_generator_options){0}));
    require(tn_generator_feed(generator, tokens, sizeof tokens / sizeof *tokens, &logits));
    assert_int_equal(config.vocabulary, 512);
    memcpy(out, logits, 512 * sizeof *out);
    tn_generator_free(generator);
    tn_state_free(state);
    tn_weights_free(weights);
}

static void test_trained_model(void **state)
{
    (void)state;
    char folder[] = "/tmp/tenon-convert-XXXXXX", path[4096];
    const char *model = data_path("stories260K.bin"), *words = data_path("tok512.bin");
    if (!model || !words) skip();
    static const struct {
        tn_dtype dtype;
        double tolerance;
    } kinds[] = {{TN_F32, 2e-5}, {TN_F16, 0.05}, {TN_BF16, 0.3}};
    float original[512], converted[512];
    tn_weights *weights;
    tn_tokenizer *tokenizer, *again;
    assert_non_null(mkdtemp(folder));
    require(tn_weights_open(model, &weights));
    require(tn_tokenizer_open(words, &tokenizer));
    logits_of(model, original);
    for (int i = 0; i < 3; i++) {
        require(tn_infer_convert(weights, tokenizer, kinds[i].dtype, folder));
        logits_of(folder, converted);
        for (int k = 0; k < 512; k++)
            if (!(fabs((double)converted[k] - (double)original[k]) <= kinds[i].tolerance))
                fail_msg("%s: logit %d is %g, was %g", tn_dtype_name(kinds[i].dtype), k,
                         (double)converted[k], (double)original[k]);
    }
    require(tn_tokenizer_open(folder, &again));
    int32_t *a, *b;
    int64_t count, same;
    static const char text[] = "Once upon a time, \xc3\xbc";
    require(
        tn_tokenizer_encode(tokenizer, text, sizeof text - 1, (tn_encode_options){0}, &a, &count));
    require(tn_tokenizer_encode(again, text, sizeof text - 1, (tn_encode_options){0}, &b, &same));
    assert_int_equal(count, same);
    assert_memory_equal(a, b, (size_t)count * sizeof *a);
    assert_int_equal(tn_infer_convert(weights, NULL, TN_I8, folder), TN_INVALID);
    assert_int_equal(tn_infer_convert(weights, NULL, TN_F32, "/dev/null/x"), TN_IO);
    static const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(folder), 0);
    free(a);
    free(b);
    tn_tokenizer_free(again);
    tn_tokenizer_free(tokenizer);
    tn_weights_free(weights);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_trained_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
