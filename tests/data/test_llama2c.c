/* llama2.c models: hand-made ones, the damage that can befall them, and the published stories260K.
 */
#include "data/byte_builder.h"

#include "tenon/weights.h"

static builder made;

static int clean_up(void **state)
{
    (void)state;
    builder_free(&made);
    return 0;
}

enum { E = 8, F = 12, D = 2, H = 2, K = 1, Q = E / H, V = 10, L = 6 };

/* Floats 0, 1, 2, ... in file order. */
static void make(int32_t vocabulary)
{
    const int32_t header[7] = {E, F, D, H, K, vocabulary, L};
    size_t floats = V * E + D * (2 * E + 2 * E * E + 2 * E * K * Q + 3 * E * F) + E + L * Q +
                    (vocabulary < 0 ? V * E : 0);
    builder_free(&made);
    put(&made, header, sizeof header);
    for (size_t i = 0; i < floats; i++) put_f32(&made, (float)i);
}

static tn_status open_made(size_t size, tn_weights **weights)
{
    uint8_t *bytes = exact(&made, size);
    tn_status status = tn_weights_open_memory(bytes, size, "x.bin", weights);
    if (status == TN_OK) tn_weights_free(*weights);
    free(bytes);
    return status;
}

static void test_order(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int rows, columns; /* columns 0: a vector */
    } order[] = {
        {"model.embed_tokens.weight", V, E},
        {"model.layers.0.input_layernorm.weight", E, 0},
        {"model.layers.1.input_layernorm.weight", E, 0},
        {"model.layers.0.self_attn.q_proj.weight", E, E},
        {"model.layers.1.self_attn.q_proj.weight", E, E},
        {"model.layers.0.self_attn.k_proj.weight", K * Q, E},
        {"model.layers.1.self_attn.k_proj.weight", K * Q, E},
        {"model.layers.0.self_attn.v_proj.weight", K * Q, E},
        {"model.layers.1.self_attn.v_proj.weight", K * Q, E},
        {"model.layers.0.self_attn.o_proj.weight", E, E},
        {"model.layers.1.self_attn.o_proj.weight", E, E},
        {"model.layers.0.post_attention_layernorm.weight", E, 0},
        {"model.layers.1.post_attention_layernorm.weight", E, 0},
        {"model.layers.0.mlp.gate_proj.weight", F, E},
        {"model.layers.1.mlp.gate_proj.weight", F, E},
        {"model.layers.0.mlp.down_proj.weight", E, F},
        {"model.layers.1.mlp.down_proj.weight", E, F},
        {"model.layers.0.mlp.up_proj.weight", F, E},
        {"model.layers.1.mlp.up_proj.weight", F, E},
        {"model.norm.weight", E, 0},
    };
    enum { COUNT = sizeof order / sizeof *order };
    for (int apart = 0; apart < 2; apart++) {
        tn_weights *weights;
        make(apart ? -V : V);
        assert_ok(tn_weights_open_memory(made.bytes, made.size, "x.bin", &weights));
        assert_string_equal(tn_weights_format(weights), "llama2.c");
        assert_int_equal(tn_weights_count(weights), COUNT + apart);
        float first = 0, value[F * E];
        for (int i = 0; i < COUNT; i++) {
            const tn_weight *t = tn_weights_at(weights, i);
            int columns = order[i].columns, size = order[i].rows * (columns ? columns : 1);
            assert_string_equal(t->name, order[i].name);
            assert_true(tn_shape_equal(t->shape, columns ? TN_SHAPE(order[i].rows, columns)
                                                         : TN_SHAPE(order[i].rows)));
            memcpy(value, t->bytes, (size_t)size * sizeof(float));
            assert_true(value[0] == first);
            first += (float)size;
        }
        if (apart) {
            assert_ok(tn_weights_read_f32(weights, "lm_head.weight", value, V * E));
            assert_true(value[0] == first + L * Q);
        }
        const char *config = tn_weights_config(weights);
        static const char *const lines[] = {
            "\"hidden_size\": 8",         "\"intermediate_size\": 12",
            "\"num_hidden_layers\": 2",   "\"num_attention_heads\": 2",
            "\"num_key_value_heads\": 1", "\"vocab_size\": 10",
            "\"rope_interleaved\": true", "\"max_position_embeddings\": 6",
            "\"bos_token_id\": 1"};
        for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
            if (!strstr(config, lines[i])) fail_msg("%s is not in %s", lines[i], config);
        assert_non_null(strstr(config, apart ? "\"tie_word_embeddings\": false"
                                             : "\"tie_word_embeddings\": true"));
        tn_weights_free(weights);
    }
}

static void test_every_cut(void **state)
{
    (void)state;
    tn_weights *weights;
    make(-V);
    for (size_t size = 0; size < made.size; size++) {
        assert_int_equal(open_made(size, &weights), TN_FORMAT);
        assert_non_null(strstr(tn_message(), "x.bin: "));
    }
    assert_fails(open_made(20, &weights), TN_FORMAT, "20 bytes are too few for a llama2.c model");
    assert_fails(open_made(40, &weights), TN_FORMAT,
                 "the file ends (40 bytes) inside tensor model.embed_tokens.weight: it is cut off");
    assert_fails(open_made(made.size - V * E * 4 - 1, &weights), TN_FORMAT,
                 "inside the rotary tables");
    assert_fails(open_made(made.size - 1, &weights), TN_FORMAT, "inside tensor lm_head.weight");
    put_u8(&made, 0);
    assert_fails(open_made(made.size, &weights), TN_FORMAT, "1 bytes follow the last tensor");
}

static void test_bad_headers(void **state)
{
    (void)state;
    static const struct {
        int field;
        int32_t value;
        tn_status status;
        const char *message;
    } bad[] = {
        {0, 0, TN_FORMAT, "its header (4764 bytes in the file) says width = 0"},
        {0, -8, TN_FORMAT, "says width = -8"},
        {1, INT32_MAX, TN_FORMAT, "says feed-forward width = 2147483647"},
        {2, 0, TN_FORMAT, "says layers = 0"},
        {2, 1 << 24, TN_FORMAT, "the file ends (4764 bytes) inside tensor"},
        {3, 0, TN_FORMAT, "says heads = 0"},
        {3, 3, TN_FORMAT, "width 8, 3 heads and 1 kv heads do not divide evenly"},
        {3, 8, TN_FORMAT, "do not divide evenly"}, /* heads of width 1 cannot be turned */
        {4, 0, TN_FORMAT, "says kv heads = 0"},
        {4, 3, TN_FORMAT, "do not divide evenly"},
        {5, 0, TN_FORMAT, "says vocabulary = 0"},
        {5, INT32_MIN, TN_FORMAT, "says vocabulary = -2147483648"},
        {6, -1, TN_FORMAT, "says positions = -1"},
        {6, 1 << 24, TN_FORMAT, "inside the rotary tables"},
        {0, 0x616b3432, TN_UNSUPPORTED, "a llama2.c file of version 12; version 0 can be read"},
    };
    make(-V);
    assert_int_equal(made.size, 4764);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tn_weights *weights;
        int32_t before;
        uint8_t *field = made.bytes + 4 * bad[i].field;
        memcpy(&before, field, 4);
        memcpy(field, &bad[i].value, 4);
        assert_fails(open_made(made.size, &weights), bad[i].status, bad[i].message);
        memcpy(field, &before, 4);
    }
}

static void test_stories(void **state)
{
    (void)state;
    tn_weights *weights;
    assert_ok(tn_weights_open(shared_data("inference/stories260K.bin"), &weights));
    assert_int_equal(tn_weights_count(weights), 47);
    assert_ok(tn_weights_check_finite(weights));
    int64_t parameters = 0;
    for (int i = 0; i < tn_weights_count(weights); i++)
        parameters += tn_shape_size(tn_weights_at(weights, i)->shape);
    assert_int_equal(parameters, 260032);
    const tn_weight *found;
    assert_ok(tn_weights_require(weights, "model.layers.4.mlp.down_proj.weight", TN_SHAPE(64, 172),
                                 &found));
    assert_ok(tn_weights_require(weights, "model.layers.0.self_attn.k_proj.weight",
                                 TN_SHAPE(32, 64), &found));
    tn_weights_free(weights);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_order, clean_up),
        cmocka_unit_test_teardown(test_every_cut, clean_up),
        cmocka_unit_test_teardown(test_bad_headers, clean_up),
        cmocka_unit_test(test_stories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
