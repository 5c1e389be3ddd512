/* GGUF: typed values, tensors in plain and block codings, and the message for each thing that can
 * be wrong. */
#include "data/byte_builder.h"

#include "data/gguf.h"
#include "tenon/weights.h"

static builder made;

static int clean_up(void **state)
{
    (void)state;
    builder_free(&made);
    return 0;
}

/* ---- making files -------------------------------------------------------------------- */

static void begin(uint32_t version, uint64_t tensors, uint64_t values)
{
    builder_free(&made);
    put_text(&made, "GGUF");
    put_u32(&made, version);
    put_u64(&made, tensors);
    put_u64(&made, values);
}

static void put_string(const char *text)
{
    put_u64(&made, strlen(text));
    put_text(&made, text);
}

static void put_key(const char *key, uint32_t type)
{
    put_string(key);
    put_u32(&made, type);
}

static void put_key_u32(const char *key, uint32_t value)
{
    put_key(key, TN_GGUF_U32);
    put_u32(&made, value);
}

static void put_key_string(const char *key, const char *value)
{
    put_key(key, TN_GGUF_STRING);
    put_string(value);
}

/* `rank` dimensions in the file's order, the fastest first. */
static void put_tensor(const char *name, uint32_t rank, const uint64_t *dims, uint32_t type,
                       uint64_t offset)
{
    put_string(name);
    put_u32(&made, rank);
    for (uint32_t i = 0; i < rank; i++) put_u64(&made, dims[i]);
    put_u32(&made, type);
    put_u64(&made, offset);
}

static void align(size_t alignment)
{
    while (made.size % alignment) put_u8(&made, 0);
}

static tn_status open_made(size_t size, tn_weights **weights)
{
    uint8_t *bytes = exact(&made, size);
    tn_status status = tn_weights_open_memory(bytes, size, "x.gguf", weights);
    if (status == TN_OK) tn_weights_free(*weights);
    free(bytes);
    return status;
}

static void refuse(tn_status status, const char *message)
{
    tn_weights *weights;
    assert_fails(open_made(made.size, &weights), status, message);
    if (strncmp(tn_message(), "x.gguf: ", 8) != 0)
        fail_msg("the file is not named: %s", tn_message());
}

/* ---- values -------------------------------------------------------------------------- */

static void test_values(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        begin(version, 0, 15);
        put_key("u8", TN_GGUF_U8), put_u8(&made, 200);
        put_key("i8", TN_GGUF_I8), put_u8(&made, (uint8_t)-3);
        put_key("u16", TN_GGUF_U16), put_u16(&made, 60000);
        put_key("i16", TN_GGUF_I16), put_u16(&made, (uint16_t)-300);
        put_key("u32", TN_GGUF_U32), put_u32(&made, 4000000000);
        put_key("i32", TN_GGUF_I32), put_i32(&made, -70000);
        put_key("f32", TN_GGUF_F32), put_f32(&made, 0.25F);
        put_key("bool", TN_GGUF_BOOL), put_u8(&made, 1);
        put_key_string("string", "gr\xc3\xbc\xc3\x9f");
        put_key("u64", TN_GGUF_U64), put_u64(&made, INT64_MAX);
        put_key("huge", TN_GGUF_U64), put_u64(&made, UINT64_MAX);
        put_key("i64", TN_GGUF_I64), put_u64(&made, (uint64_t)-5);
        double number = 1e300;
        put_key("f64", TN_GGUF_F64), put(&made, &number, 8);
        put_key("list", TN_GGUF_ARRAY), put_u32(&made, TN_GGUF_I16), put_u64(&made, 2);
        put_u16(&made, 1), put_u16(&made, 2);
        put_key("words", TN_GGUF_ARRAY), put_u32(&made, TN_GGUF_STRING), put_u64(&made, 2);
        put_string("a"), put_string("");
        uint8_t *bytes = exact(&made, made.size);
        tn_gguf gguf;
        assert_ok(tn_gguf_parse(bytes, made.size, "x.gguf", &gguf));
        static const struct {
            const char *key;
            int64_t value;
        } integers[] = {{"u8", 200},         {"i8", -3},      {"u16", 60000},     {"i16", -300},
                        {"u32", 4000000000}, {"i32", -70000}, {"u64", INT64_MAX}, {"i64", -5}};
        int64_t integer;
        for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
            assert_ok(tn_gguf_integer(&gguf, integers[i].key, INT64_MIN, INT64_MAX, &integer));
            assert_true(integer == integers[i].value);
        }
        const char *text = NULL;
        bool truth = false;
        assert_ok(tn_gguf_number(&gguf, "f32", &number));
        assert_true(number == 0.25);
        assert_ok(tn_gguf_number(&gguf, "f64", &number));
        assert_true(number == 1e300);
        assert_ok(tn_gguf_boolean(&gguf, "bool", &truth));
        assert_true(truth);
        assert_ok(tn_gguf_string(&gguf, "string", &text));
        assert_string_equal(text, "gr\xc3\xbc\xc3\x9f");
        const tn_gguf_value *array;
        assert_ok(tn_gguf_array(&gguf, "words", TN_GGUF_STRING, &array));
        assert_int_equal(array->count, 2);
        assert_int_equal(array->size, 17);
        /* missing keys leave all alone */
        integer = 7;
        assert_ok(tn_gguf_integer(&gguf, "none", 0, 1, &integer));
        assert_ok(tn_gguf_number(&gguf, "none", &number));
        assert_ok(tn_gguf_boolean(&gguf, "none", &truth));
        assert_ok(tn_gguf_string(&gguf, "none", &text));
        assert_ok(tn_gguf_array(&gguf, "none", TN_GGUF_U8, &array));
        assert_true(integer == 7 && number == 1e300 && truth && text && !array);
        assert_fails(tn_gguf_integer(&gguf, "f32", 0, 1, &integer), TN_FORMAT,
                     "x.gguf: key \"f32\" must be an integer, not a f32");
        assert_fails(tn_gguf_integer(&gguf, "huge", 0, INT64_MAX, &integer), TN_FORMAT,
                     "must be an integer");
        assert_fails(tn_gguf_integer(&gguf, "u8", 0, 100, &integer), TN_FORMAT,
                     "key \"u8\" is 200, outside 0 to 100");
        assert_fails(tn_gguf_integer(&gguf, "i8", 0, 100, &integer), TN_FORMAT, "is -3, outside");
        assert_fails(tn_gguf_number(&gguf, "u8", &number), TN_FORMAT, "must be a float, not a u8");
        assert_fails(tn_gguf_boolean(&gguf, "list", &truth), TN_FORMAT,
                     "must be a bool, not an array of i16");
        assert_fails(tn_gguf_string(&gguf, "u8", &text), TN_FORMAT, "must be a string");
        assert_fails(tn_gguf_array(&gguf, "u8", TN_GGUF_U8, &array), TN_FORMAT, "must be an array");
        assert_fails(tn_gguf_array(&gguf, "list", TN_GGUF_F32, &array), TN_FORMAT,
                     "must be an array of f32, not of i16");
        assert_null(array);
        static const struct {
            const char *key, *text;
        } printed[] = {{"i32", "-70000"}, {"f32", "0.25"},
                       {"bool", "true"},  {"string", "gr\xc3\xbc\xc3\x9f"},
                       {"list", NULL},    {"huge", NULL}};
        for (size_t i = 0; i < sizeof printed / sizeof *printed; i++) {
            const char *is = tn_gguf_print(&gguf, tn_gguf_find(&gguf, printed[i].key));
            if (printed[i].text) assert_string_equal(is, printed[i].text);
            else assert_null(is);
        }
        tn_gguf_free(&gguf);
        free(bytes);
    }
}

static void test_bad_values(void **state)
{
    (void)state;
    begin(1, 0, 0);
    refuse(TN_UNSUPPORTED, "GGUF version 1; 2 and 3 can be read: convert it again");
    begin(0x03000000, 0, 0);
    refuse(TN_UNSUPPORTED, "(big-endian)");
    begin(3, 0, UINT64_MAX);
    refuse(TN_FORMAT, "18446744073709551615 keys cannot be in a file of 24 bytes");
    begin(3, UINT64_MAX / 2, 0);
    refuse(TN_FORMAT, "tensors cannot be in a file of 24 bytes");
    begin(3, 0, 1);
    put_key_string("", "x");
    refuse(TN_FORMAT, "a name in a key (byte 32) is empty or contains a NUL");
    begin(3, 0, 1);
    put_u64(&made, 3), put(&made, "a\0b", 3), put_u32(&made, TN_GGUF_U8), put_u8(&made, 1);
    refuse(TN_FORMAT, "is empty or contains a NUL");
    begin(3, 0, 1);
    put_u64(&made, 65536), put_zeros(&made, 65536);
    refuse(TN_FORMAT, "a name of 65536 bytes in a key");
    begin(3, 0, 1);
    put_key("k", 13), put_zeros(&made, 8);
    refuse(TN_FORMAT, "key \"k\": unknown type 13");
    begin(3, 0, 1);
    put_key("k", TN_GGUF_ARRAY), put_u32(&made, 99), put_u64(&made, 0);
    refuse(TN_FORMAT, "key \"k\": unknown element type 99");
    begin(3, 0, 1);
    put_key("k", TN_GGUF_ARRAY), put_u32(&made, TN_GGUF_U64), put_u64(&made, UINT64_MAX / 4);
    refuse(TN_FORMAT, "inside k: it is cut off or damaged");
    begin(3, 0, 1);
    put_key("k", TN_GGUF_ARRAY), put_u32(&made, TN_GGUF_STRING), put_u64(&made, UINT64_MAX);
    refuse(TN_FORMAT, "inside k");
    begin(3, 0, 1);
    put_key("k", TN_GGUF_STRING), put_u64(&made, UINT64_MAX), put_text(&made, "abc");
    refuse(TN_FORMAT, "inside k");
    begin(3, 0, 1);
    put_key("k", TN_GGUF_ARRAY);
    for (int i = 0; i < 6; i++) put_u32(&made, TN_GGUF_ARRAY), put_u64(&made, 1);
    refuse(TN_FORMAT, "key \"k\": arrays nested too deeply");
    begin(3, 0, 2);
    put_key_u32("k", 1), put_key_u32("k", 1);
    refuse(TN_FORMAT, "key \"k\" is there twice");
    begin(3, 0, 1);
    put_key_u32("general.alignment", 48);
    refuse(TN_FORMAT, "general.alignment is 48, not a power of two");
    begin(3, 0, 1);
    put_key_u32("general.alignment", 0);
    refuse(TN_FORMAT, "key \"general.alignment\" is 0, outside 1 to");
    begin(3, 0, 1);
    put_key("general.architecture", TN_GGUF_STRING), put_u64(&made, 2), put(&made, "a\0", 2);
    refuse(TN_FORMAT, "key \"general.architecture\" contains a NUL");
    tn_weights *weights;
    assert_fails(tn_weights_open_memory("GGUX\3\0\0\0", 8, "x.gguf", &weights), TN_FORMAT,
                 "does not begin with \"GGUF\"");
}

/* ---- tensors ------------------------------------------------------------------------- */

/* Two blocks of each coding, one row each of [2, 32]. */
static void test_block_codings(void **state)
{
    (void)state;
    begin(3, 2, 0);
    put_tensor("q8", 2, (uint64_t[]){32, 2}, 8, 0);
    put_tensor("q4", 2, (uint64_t[]){32, 2}, 2, 96);
    align(32);
    size_t data = made.size;
    for (int b = 0; b < 2; b++) {
        put_u16(&made, b ? 0xb800 : 0x4000); /* -0.5, 2 */
        for (int i = 0; i < 32; i++) put_u8(&made, (uint8_t)(int8_t)(i * 8 - 128));
    }
    put_zeros(&made, data + 96 - made.size);
    for (int b = 0; b < 2; b++) {
        put_u16(&made, b ? 0x3400 : 0xbc00); /* 0.25, -1 */
        for (int i = 0; i < 16; i++) put_u8(&made, (uint8_t)(i | (15 - i) << 4));
    }
    uint8_t *bytes = exact(&made, made.size);
    tn_weights *weights;
    float out[64];
    assert_ok(tn_weights_open_memory(bytes, made.size, "x.gguf", &weights));
    assert_string_equal(tn_weights_format(weights), "gguf");
    const tn_weight *q8 = tn_weights_find(weights, "q8");
    assert_int_equal(q8->coding, TN_CODING_Q8_0);
    assert_int_equal(q8->dtype, TN_F32);
    assert_int_equal(q8->size, 68);
    assert_true(tn_shape_equal(q8->shape, TN_SHAPE(2, 32)));
    assert_ok(tn_weights_read_f32(weights, "q8", out, 64));
    for (int i = 0; i < 64; i++)
        assert_true(out[i] == (i < 32 ? 2.0F : -0.5F) * (float)(i % 32 * 8 - 128));
    assert_ok(tn_weights_read_f32(weights, "q4", out, 64));
    for (int i = 0; i < 64; i++) {
        int level = i % 32 < 16 ? i % 32 : 15 - i % 16;
        assert_true(out[i] == (i < 32 ? -1.0F : 0.25F) * (float)(level - 8));
    }
    assert_ok(tn_weights_check_finite(weights));
    tn_weights_free(weights);
    bytes[data + 34 + 1] = 0x7e; /* the second scale of q8 becomes NaN */
    assert_ok(tn_weights_open_memory(bytes, made.size, "x.gguf", &weights));
    assert_fails(tn_weights_check_finite(weights), TN_FORMAT,
                 "x.gguf: tensor \"q8\": element 32 of 64 is NaN or infinite");
    tn_weights_free(weights);
    free(bytes);
}

static void test_bad_tensors(void **state)
{
    (void)state;
    const uint64_t dims[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    begin(3, 1, 0);
    put_tensor("t", 9, dims, 0, 0);
    refuse(TN_FORMAT, "tensor \"t\" has 9 dimensions; at most 8 are possible");
    begin(3, 1, 0);
    put_tensor("t", 2, (uint64_t[]){UINT64_MAX, 1}, 0, 0);
    refuse(TN_FORMAT, "tensor \"t\": dimension 0 is impossible");
    begin(3, 1, 0);
    put_tensor("t", 2, (uint64_t[]){UINT64_C(1) << 40, UINT64_C(1) << 40}, 0, 0);
    refuse(TN_FORMAT, "tensor \"t\": its shape is impossible");
    begin(3, 1, 0);
    put_tensor("t", 1, (uint64_t[]){33}, 8, 0);
    align(32), put_zeros(&made, 64);
    refuse(TN_FORMAT, "rows of a block format have a multiple of 32 elements");
    begin(3, 1, 0);
    put_tensor("t", 0, dims, 2, 0);
    refuse(TN_FORMAT, "rows of a block format");
    begin(3, 1, 0);
    put_tensor("t", 1, (uint64_t[]){4}, 0, 8);
    refuse(TN_FORMAT, "tensor \"t\" begins at 8, not a multiple of 32");
    static const struct {
        uint32_t type;
        const char *message;
    } types[] = {{12, "tensor \"t\" has type Q4_K (12); F32, F16, BF16, Q8_0 and Q4_0 can be read"},
                 {25, "type I16 (25)"},
                 {5, "type unknown (5)"},
                 {4000000000, "type unknown (4000000000)"}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        begin(3, 1, 0);
        put_tensor("t", 1, (uint64_t[]){256}, types[i].type, 0);
        align(32), put_zeros(&made, 4096);
        refuse(TN_UNSUPPORTED, types[i].message);
    }
    begin(3, 1, 0);
    put_tensor("t", 1, (uint64_t[]){4}, 0, 0);
    align(32), put_zeros(&made, 15);
    refuse(TN_FORMAT, "tensor \"t\" (16 bytes at 0) reaches beyond the file's data (15 bytes)");
    begin(3, 1, 0);
    put_tensor("t", 1, (uint64_t[]){4}, 0, UINT64_MAX - 31);
    align(32), put_zeros(&made, 16);
    refuse(TN_FORMAT, "reaches beyond the file's data");
    begin(3, 1, 0);
    put_tensor("t", 1, (uint64_t[]){4}, 0, 0); /* and no data, not even the padding */
    refuse(TN_FORMAT, "reaches beyond the file's data (0 bytes)");
    begin(3, 2, 0);
    put_tensor("a", 1, (uint64_t[]){16}, 0, 0);
    put_tensor("b", 1, (uint64_t[]){16}, 0, 32);
    align(32), put_zeros(&made, 128);
    refuse(TN_FORMAT, "tensors \"a\" and \"b\" overlap");
    begin(3, 2, 0);
    put_tensor("a", 1, (uint64_t[]){4}, 0, 0);
    put_tensor("a", 1, (uint64_t[]){4}, 0, 32);
    align(32), put_zeros(&made, 128);
    refuse(TN_FORMAT, "tensor \"a\" is there twice");
    begin(3, 1, 0);
    put_u64(&made, 1025), put_zeros(&made, 1100);
    refuse(TN_FORMAT, "a name of 1025 bytes in the list of tensors");
}

/* ---- Llama --------------------------------------------------------------------------- */

static void put_llama(uint32_t heads)
{
    put_key_string("general.architecture", "llama");
    put_key_u32("llama.embedding_length", 8);
    put_key_u32("llama.feed_forward_length", 24);
    put_key_u32("llama.block_count", 2);
    put_key_u32("llama.attention.head_count", heads);
    put_key_u32("llama.context_length", 64);
}
enum { LLAMA_KEYS = 6 };

static void test_llama(void **state)
{
    (void)state;
    static const struct {
        const char *gguf, *ours;
    } names[] = {
        {"token_embd.weight", "model.embed_tokens.weight"},
        {"blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"},
        {"blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"},
        {"blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight"},
        {"blk.0.attn_v.bias", "model.layers.0.self_attn.v_proj.bias"},
        {"blk.12.attn_output.weight", "model.layers.12.self_attn.o_proj.weight"},
        {"blk.1.ffn_norm.weight", "model.layers.1.post_attention_layernorm.weight"},
        {"blk.1.ffn_gate.weight", "model.layers.1.mlp.gate_proj.weight"},
        {"blk.1.ffn_up.weight", "model.layers.1.mlp.up_proj.weight"},
        {"blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"},
        {"output_norm.weight", "model.norm.weight"},
        {"output.weight", "lm_head.weight"},
        {"blk.0.mystery.weight", "blk.0.mystery.weight"},
        {"blk.x", "blk.x"},
        {"blk.0.", "blk.0."},
        {"plain", "plain"},
        {"attn_q.weight", "attn_q.weight"},
    };
    enum { COUNT = sizeof names / sizeof *names };
    begin(3, COUNT, LLAMA_KEYS + 2);
    put_llama(2);
    put_key("llama.rope.freq_base", TN_GGUF_F32), put_f32(&made, 500000);
    put_key_u32("tokenizer.ggml.bos_token_id", 1);
    for (int i = 0; i < COUNT; i++)
        put_tensor(names[i].gguf, 2, (uint64_t[]){2, 5}, 0, (uint64_t)i * 64);
    align(32);
    put_zeros(&made, COUNT * 64);
    tn_weights *weights;
    assert_ok(tn_weights_open_memory(made.bytes, made.size, "x.gguf", &weights));
    for (int i = 0; i < COUNT; i++)
        assert_string_equal(tn_weights_at(weights, i)->name, names[i].ours);
    assert_true(tn_shape_equal(tn_weights_at(weights, 0)->shape, TN_SHAPE(5, 2)));
    const char *config = tn_weights_config(weights);
    static const char *const lines[] = {"\"model_type\": \"llama\"",
                                        "\"hidden_size\": 8",
                                        "\"intermediate_size\": 24",
                                        "\"num_hidden_layers\": 2",
                                        "\"num_attention_heads\": 2",
                                        "\"vocab_size\": 5",
                                        "\"max_position_embeddings\": 64",
                                        "\"rope_theta\": 500000.0",
                                        "\"bos_token_id\": 1",
                                        "\"rope_interleaved\": true",
                                        "\"tie_word_embeddings\": false"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(config, lines[i])) fail_msg("%s is not in %s", lines[i], config);
    assert_string_equal(tn_weights_metadata(weights, "llama.block_count"), "2");
    tn_weights_free(weights);
}

static void test_bad_llama(void **state)
{
    (void)state;
    begin(3, 0, LLAMA_KEYS + 1);
    put_llama(2);
    put_key_u32("llama.rope.dimension_count", 2);
    refuse(TN_UNSUPPORTED, "llama.rope.dimension_count is 2, but heads are 4 wide");
    begin(3, 0, LLAMA_KEYS + 1);
    put_llama(2);
    put_key_string("llama.rope.scaling.type", "yarn");
    refuse(TN_UNSUPPORTED, "llama.rope.scaling.type is \"yarn\"");
    begin(3, 0, LLAMA_KEYS);
    put_llama(0);
    refuse(TN_FORMAT, "key \"llama.attention.head_count\" is 0, outside 1 to");
    begin(3, 0, LLAMA_KEYS + 1);
    put_llama(2);
    put_key_string("llama.rope.freq_base", "x");
    refuse(TN_FORMAT, "key \"llama.rope.freq_base\" must be a float, not a string");
    begin(3, 0, LLAMA_KEYS + 1);
    put_llama(2);
    put_key("llama.rope.freq_base", TN_GGUF_F32), put_u32(&made, 0x7f800000);
    refuse(TN_FORMAT, "key \"llama.rope.freq_base\" is NaN or infinite");
    /* what is missing makes no configuration, and no error: a vocabulary may stand alone */
    begin(3, 0, 2);
    put_key_string("general.architecture", "llama");
    put_key_u32("llama.block_count", 2);
    tn_weights *weights;
    assert_ok(tn_weights_open_memory(made.bytes, made.size, "x.gguf", &weights));
    assert_null(tn_weights_config(weights));
    tn_weights_free(weights);
}

/* Whatever length a file is cut to: a message, and no read behind the end. */
static void test_every_cut(void **state)
{
    (void)state;
    begin(3, 2, LLAMA_KEYS + 1);
    put_llama(2);
    put_key("words", TN_GGUF_ARRAY), put_u32(&made, TN_GGUF_STRING), put_u64(&made, 2);
    put_string("a"), put_string("bc");
    put_tensor("token_embd.weight", 2, (uint64_t[]){2, 5}, 0, 0);
    put_tensor("output.weight", 2, (uint64_t[]){2, 5}, 1, 64);
    align(32);
    put_zeros(&made, 84);
    tn_weights *weights;
    for (size_t size = 0; size < made.size; size++) {
        assert_int_equal(open_made(size, &weights), TN_FORMAT);
        assert_non_null(strstr(tn_message(), "x.gguf: "));
    }
    assert_ok(open_made(made.size, &weights));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_values, clean_up),
        cmocka_unit_test_teardown(test_bad_values, clean_up),
        cmocka_unit_test_teardown(test_block_codings, clean_up),
        cmocka_unit_test_teardown(test_bad_tensors, clean_up),
        cmocka_unit_test_teardown(test_llama, clean_up),
        cmocka_unit_test_teardown(test_bad_llama, clean_up),
        cmocka_unit_test_teardown(test_every_cut, clean_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
