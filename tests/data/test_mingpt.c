/* minGPT's JSON: base64, shapes, the message for each mistake, and the published sorting network.
 */
#include "data/byte_builder.h"

#include <math.h>

#include "tenon/weights.h"

static tn_status open_text(const char *text, tn_weights **weights)
{
    return tn_weights_open_memory(text, strlen(text), "x.json", weights);
}

#define CONFIG                                                                                     \
    "\"config\": {\"n_layer\": 3, \"n_head\": 2, \"n_embd\": 4, \"vocab_size\": 5, "               \
    "\"block_size\": 6}"
#define TENSOR(shape, data)                                                                        \
    "{" CONFIG ",\n\"t\": {\"shape\": " shape ", \"dtype\": \"torch.float32\", \"data\": " data "}}"

static void test_good_file(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int count;
        float value[3];
    } good[] = {
        {TENSOR("[]", "\"AACAPw==\""), 1, {1}},
        {TENSOR("[2]", "\"AACAPwAAAMA=\""), 2, {1, -2}},
        {TENSOR("[3, 1]", "\"AACAPwAAAMAAAIB/\""), 3, {1, -2, INFINITY}},
        {TENSOR("[0]", "\"\""), 0, {0}},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        tn_weights *weights;
        float out[3];
        assert_ok(open_text(good[i].text, &weights));
        assert_string_equal(tn_weights_format(weights), "minGPT");
        assert_int_equal(tn_weights_count(weights), 1);
        assert_ok(tn_weights_read_f32(weights, "t", out, good[i].count));
        assert_memory_equal(out, good[i].value, (size_t)good[i].count * sizeof *out);
        const char *config = tn_weights_config(weights);
        assert_non_null(strstr(config, "\"model_type\": \"gpt2\""));
        assert_non_null(strstr(config, "\"n_positions\": 6"));
        assert_non_null(strstr(config, "\"n_layer\": 3"));
        assert_non_null(strstr(config, "\"tie_word_embeddings\": true"));
        tn_weights_free(weights);
    }
}

static void test_bad_files(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"{", "x.json:1: not valid JSON"},
        {"{\"t\": 1}", "x.json:1: field \"config\" is missing; it must be an object"},
        {"{" CONFIG "}", "x.json: no tensors in it"},
        {"{" CONFIG ",\n\"t\": 1}", "x.json:2: an object with field \"dtype\" must stand here"},
        {"{" CONFIG ",\n\"t\": {}}", "x.json:2: field \"dtype\" is missing"},
        {"{" CONFIG ",\n\"t\": {\"dtype\": \"torch.float16\"}}",
         "x.json:2: field \"dtype\" must be one of \"torch.float32\", not \"torch.float16\""},
        {TENSOR("1", "\"AACAPw==\""), "x.json:2: field \"shape\" must be an array"},
        {TENSOR("[1.5]", "\"AACAPw==\""), "must be a list of whole numbers from 0 up"},
        {TENSOR("[-1]", "\"AACAPw==\""), "must be a list of whole numbers from 0 up"},
        {TENSOR("[1,1,1,1,1,1,1,1,1]", "\"AACAPw==\""), "has 9 dimensions; at most 8"},
        {TENSOR("[1]", "17"), "x.json:2: field \"data\" must be a string"},
        {TENSOR("[1]", "\"\""),
         "field \"data\" is not base64 of the 4 bytes that tensor \"t\" has"},
        {TENSOR("[2]", "\"AACAPw==\""), "is not base64 of the 8 bytes"},
        {TENSOR("[100]", "\"AACAPw==\""),
         "has 8 characters, too few for the shape of tensor \"t\""},
        {TENSOR("[4611686018427387904]", "\"AACAPw==\""), "too few for the shape"},
        {TENSOR("[4294967296, 4294967296]", "\"AACAPw==\""), "too few for the shape"},
        {TENSOR("[1]", "\"AACAPw=\""), "is not base64"},  /* not padded */
        {TENSOR("[1]", "\"AACAPw\""), "is not base64"},   /* not at all */
        {TENSOR("[1]", "\"AACAPwAA\""), "is not base64"}, /* 6 bytes */
        {TENSOR("[1]", "\"AACAP===\""), "is not base64"},
        {TENSOR("[1]", "\"AACAPx==\""), "is not base64"}, /* bits behind the end */
        {TENSOR("[1]", "\"AAC-Pw==\""), "is not base64"}, /* the other alphabet */
        {TENSOR("[1]", "\"AA AAPw=\""), "is not base64"},
        {TENSOR("[1]", "\"AAC=Pw==\""), "is not base64"},
        {TENSOR("[0]", "\"AAAA\""), "is not base64"},
        {"{\"config\": {\"n_layer\": 3},\n\"t\": {\"shape\": [], \"dtype\": \"torch.float32\", "
         "\"data\": \"AACAPw==\"}}",
         "x.json:1: field \"n_head\" is missing"},
        {"{\"config\": {\"n_layer\": 0},\n\"t\": {\"shape\": [], \"dtype\": \"torch.float32\", "
         "\"data\": \"AACAPw==\"}}",
         "x.json:1: field \"n_layer\" must be a whole number from 1 to"},
        {"{" CONFIG ", \"\": {\"shape\": [], \"dtype\": \"torch.float32\", \"data\": "
         "\"AACAPw==\"}}",
         "x.json: a tensor has no name"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tn_weights *weights;
        assert_fails(open_text(bad[i].text, &weights), TN_FORMAT, bad[i].message);
        assert_null(weights);
    }
}

static void test_sorting_network(void **state)
{
    (void)state;
    tn_weights *weights;
    const tn_weight *found;
    assert_ok(tn_weights_open(shared_data("inference/gpt-nano-sort-model.json"), &weights));
    assert_int_equal(tn_weights_count(weights), 44);
    assert_ok(tn_weights_check_finite(weights));
    assert_ok(tn_weights_require(weights, "transformer.h.2.attn.c_attn.weight", TN_SHAPE(144, 48),
                                 &found));
    assert_non_null(strstr(tn_weights_config(weights), "\"tie_word_embeddings\": false"));
    /* the causal mask is kept among the weights: ones below and on the diagonal */
    float mask[121];
    assert_ok(tn_weights_read_f32(weights, "transformer.h.0.attn.bias", mask, 121));
    for (int i = 0; i < 121; i++) assert_true(mask[i] == (i % 11 <= i / 11 ? 1.0F : 0.0F));
    tn_weights_free(weights);
}

/* The file of intermediates holds together: x = token + position embedding, the probabilities sum
 * to 1, and the embedding of the input ids is the model's. */
static void test_partials(void **state)
{
    (void)state;
    enum { B = 3, L = 11, E = 48, V = 3 };
    static float idx[B * L], token[B * L * E], position[L * E], x[B * L * E], probs[B * L * V],
        table[V * E];
    tn_weights *weights, *model;
    assert_ok(tn_weights_open(shared_data("inference/gpt-nano-sort-partials.json"), &weights));
    assert_ok(tn_weights_open(shared_data("inference/gpt-nano-sort-model.json"), &model));
    assert_int_equal(tn_weights_count(weights), 25);
    assert_ok(tn_weights_read_f32(weights, "idx", idx, B * L));
    assert_ok(tn_weights_read_f32(weights, "tok_emb", token, B * L * E));
    assert_ok(tn_weights_read_f32(weights, "pos_emb", position, L * E));
    assert_ok(tn_weights_read_f32(weights, "x", x, B * L * E));
    assert_ok(tn_weights_read_f32(weights, "probs", probs, B * L * V));
    assert_ok(tn_weights_read_f32(model, "transformer.wte.weight", table, V * E));
    for (int i = 0; i < B * L * E; i++) {
        assert_true(fabsf(x[i] - token[i] - position[i % (L * E)]) < 1e-6F);
        assert_true(token[i] == table[(int)idx[i / E] * E + i % E]);
    }
    for (int i = 0; i < B * L; i++)
        assert_true(fabsf(probs[i * V] + probs[i * V + 1] + probs[i * V + 2] - 1) < 1e-5F);
    assert_fails(tn_weights_check_finite(weights), TN_FORMAT, "tensor \"att\": element 1 of 1089");
    tn_weights_free(weights);
    tn_weights_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_file),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_sorting_network),
        cmocka_unit_test(test_partials),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
