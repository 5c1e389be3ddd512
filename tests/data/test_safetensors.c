/* safetensors: what may not be in a file and the message for it; shards; writing. */
#include "data/byte_builder.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>

#include "base/file.h"
#include "tenon/weights.h"

/* ---- reading ------------------------------------------------------------------------- */

static builder made;

/* A file of this header and so many bytes of data (0, 1, 2, ...). */
static void make(const char *header, size_t data_size)
{
    builder_free(&made);
    put_u64(&made, strlen(header));
    put_text(&made, header);
    for (size_t i = 0; i < data_size; i++) put_u8(&made, (uint8_t)i);
}

static int clean_up(void **state)
{
    (void)state;
    builder_free(&made);
    return 0;
}

static tn_status open_made(size_t size, tn_weights **weights)
{
    uint8_t *bytes = exact(&made, size);
    tn_status status = tn_weights_open_memory(bytes, size, "x.safetensors", weights);
    if (status != TN_OK) {
        assert_null(*weights);
        free(bytes);
    }
    return status;
}

static void refuse(const char *header, size_t data_size, tn_status status, const char *message)
{
    tn_weights *weights;
    make(header, data_size);
    assert_fails(open_made(made.size, &weights), status, message);
    if (strncmp(tn_message(), "x.safetensors", 13) != 0)
        fail_msg("the file is not named: %s", tn_message());
}

static void test_good_file(void **state)
{
    (void)state;
    make("{\"__metadata__\":{\"format\":\"pt\",\"empty\":\"\"},"
         "\"second\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[3,11]},"
         "\"first\":{\"dtype\":\"U8\",\"shape\":[3,1],\"data_offsets\":[0,3]},"
         "\"none\":{\"dtype\":\"I64\",\"shape\":[4,0],\"data_offsets\":[3,3]},"
         "\"scalar\":{\"data_offsets\":[11,12],\"dtype\":\"BOOL\",\"shape\":[]}}   \n ",
         12);
    uint8_t *bytes = exact(&made, made.size);
    tn_weights *weights;
    assert_ok(tn_weights_open_memory(bytes, made.size, "x.safetensors", &weights));
    assert_int_equal(tn_weights_count(weights), 4);
    assert_string_equal(tn_weights_format(weights), "safetensors");
    assert_string_equal(tn_weights_path(weights), "x.safetensors");
    assert_string_equal(tn_weights_at(weights, 0)->name, "second");
    assert_string_equal(tn_weights_metadata(weights, "format"), "pt");
    assert_string_equal(tn_weights_metadata(weights, "empty"), "");
    assert_null(tn_weights_metadata(weights, "Format"));
    assert_int_equal(tn_weights_metadata_count(weights), 2);
    assert_null(tn_weights_config(weights));
    const tn_weight *first = tn_weights_find(weights, "first");
    assert_non_null(first);
    assert_int_equal(first->dtype, TN_U8);
    assert_true(tn_shape_equal(first->shape, TN_SHAPE(3, 1)));
    assert_int_equal(first->size, 3);
    assert_memory_equal(first->bytes, "\0\1\2", 3);
    assert_int_equal(tn_weights_find(weights, "none")->size, 0);
    assert_int_equal(tn_weights_find(weights, "scalar")->shape.rank, 0);
    assert_null(tn_weights_find(weights, ""));
    float out[3];
    assert_ok(tn_weights_read_f32(weights, "first", out, 3));
    assert_true(out[0] == 0 && out[1] == 1 && out[2] == 2);
    assert_ok(tn_weights_read_f32(weights, "none", NULL, 0));
    assert_fails(tn_weights_read_f32(weights, "first", out, 2), TN_FORMAT,
                 "x.safetensors: tensor \"first\" has 3 elements, but 2 are wanted");
    assert_fails(tn_weights_read_f32(weights, "firts", out, 3), TN_FORMAT,
                 "x.safetensors: tensor \"firts\" is missing (the nearest name of 4 is \"first\")");
    const tn_weight *found;
    assert_ok(tn_weights_require(weights, "first", TN_SHAPE(3, 1), &found));
    assert_ptr_equal(found, first);
    assert_fails(tn_weights_require(weights, "first", TN_SHAPE(1, 3), &found), TN_FORMAT,
                 "tensor \"first\" has shape [3, 1], but [1, 3] is wanted");
    assert_fails(tn_weights_require(weights, "quite different", TN_SCALAR, &found), TN_FORMAT,
                 "tensor \"quite different\" is missing (there are 4 others)");
    tn_weights_free(weights);
    tn_weights_free(NULL);
    free(bytes);
}

#define TENSOR(name, dtype, shape, offsets)                                                        \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define ONE(dtype, shape, offsets) "{" TENSOR("t", dtype, shape, offsets) "}"

static void test_bad_headers(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        tn_status status;
        const char *message;
    } bad[] = {
        {"[1]", 0, TN_FORMAT, "the header does not begin with '{'"},
        {"", 0, TN_FORMAT, "the header does not begin with '{'"},
        {"{", 0, TN_FORMAT, ":1: not valid JSON"},
        {"{}x", 0, TN_FORMAT, "not valid JSON"},
        {"{\"t\":1}", 0, TN_FORMAT, "tensor \"t\" is not described by an object"},
        {"{\"t\":{}}", 0, TN_FORMAT, "must have exactly the fields dtype, shape, data_offsets"},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4],\"x\":1}}", 4, TN_FORMAT,
         "must have exactly the fields"},
        {"{\"t\":{\"type\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, TN_FORMAT,
         "tensor \"t\": \"dtype\" is missing or not a string"},
        {ONE("F32", "[1]", "[0,4]") "{}", 4, TN_FORMAT, "not valid JSON"},
        {"{" TENSOR("t", "F32", "[1]", "[0,4]") "," TENSOR("t", "F32", "[1]", "[0,4]") "}", 4,
         TN_FORMAT, "duplicate"},
        {ONE("F8_E4M3", "[1]", "[0,1]"), 1, TN_UNSUPPORTED,
         "tensor \"t\" has dtype F8_E4M3; known"},
        {ONE("f32", "[1]", "[0,4]"), 4, TN_UNSUPPORTED, "tensor \"t\" has dtype f32"},
        {ONE("F32", "1", "[0,4]"), 4, TN_FORMAT, "\"shape\" is missing or not a list"},
        {ONE("F32", "[1,\"2\"]", "[0,4]"), 4, TN_FORMAT, "dimension 1 is not a whole number"},
        {ONE("F32", "[1.0]", "[0,4]"), 4, TN_FORMAT, "dimension 0 is not a whole number"},
        {ONE("F32", "[-1]", "[0,4]"), 4, TN_FORMAT, "dimension 0 is not a whole number"},
        {ONE("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, TN_UNSUPPORTED,
         "tensor \"t\" has 9 dimensions; at most 8"},
        {ONE("F32", "[4611686018427387904]", "[0,4]"), 4, TN_FORMAT, "larger than any memory"},
        {ONE("F32", "[4294967296,4294967296]", "[0,4]"), 4, TN_FORMAT, "larger than any memory"},
        {ONE("F32", "[99999999999999999999]", "[0,4]"), 4, TN_FORMAT, "not valid JSON"},
        {ONE("F32", "[1]", "[0]"), 4, TN_FORMAT, "\"data_offsets\" is not a list of two"},
        {ONE("F32", "[1]", "[0,4,8]"), 8, TN_FORMAT, "\"data_offsets\" is not a list of two"},
        {ONE("F32", "[1]", "[-4,0]"), 4, TN_FORMAT, "\"data_offsets\" is not a list of two"},
        {ONE("F32", "[1]", "[0,\"4\"]"), 4, TN_FORMAT, "\"data_offsets\" is not a list of two"},
        {ONE("F32", "[0]", "[4,0]"), 4, TN_FORMAT, "tensor \"t\" ends (0) before it begins (4)"},
        {ONE("F32", "[1]", "[0,4]"), 3, TN_FORMAT,
         "tensor \"t\" ends at byte 4 of the data, but there are only 3: the file is cut off"},
        {ONE("F32", "[1]", "[0,9223372036854775807]"), 4, TN_FORMAT, "the file is cut off"},
        {ONE("F32", "[1]", "[0,3]"), 3, TN_FORMAT,
         "shape and dtype make 4 bytes, but its extent has 3"},
        {ONE("F32", "[1]", "[0,8]"), 8, TN_FORMAT,
         "shape and dtype make 4 bytes, but its extent has 8"},
        {ONE("F32", "[1]", "[0,4]"), 5, TN_FORMAT, "1 bytes after the last tensor belong to none"},
        {"{}", 1, TN_FORMAT, "1 bytes after the last tensor belong to none"},
        {ONE("F32", "[1]", "[4,8]"), 8, TN_FORMAT,
         "bytes 0 to 4 of the data, before tensor \"t\", belong to no tensor"},
        {"{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("b", "F32", "[2]", "[4,12]") "}", 12,
         TN_FORMAT, "tensors \"a\" and \"b\" overlap at byte 4"},
        {"{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("b", "F32", "[2]", "[0,8]") "}", 8,
         TN_FORMAT, "overlap at byte 0"},
        {"{" TENSOR("a", "U8", "[4]", "[0,4]") "," TENSOR("b", "U8", "[4]", "[3,7]") "}", 7,
         TN_FORMAT, "overlap at byte 3"},
        {"{" TENSOR("a", "U8", "[4]", "[0,4]") "," TENSOR("b", "U8", "[4]", "[8,12]") "}", 12,
         TN_FORMAT, "bytes 4 to 8 of the data, before tensor \"b\""},
        {"{" TENSOR("", "U8", "[4]", "[0,4]") "}", 4, TN_FORMAT, "a tensor has no name"},
        {"{\"__metadata__\":[]}", 0, TN_FORMAT, "\"__metadata__\" must be an object"},
        {"{\"__metadata__\":{\"a\":1}}", 0, TN_FORMAT, "\"__metadata__\": \"a\" must be a string"},
        {"{\"a\\u0000b\":{}}", 0, TN_FORMAT, "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refuse(bad[i].header, bad[i].data, bad[i].status, bad[i].message);
}

static void test_deep_header(void **state)
{
    (void)state;
    char header[512] = "{\"t\":";
    memset(header + 5, '[', 300);
    refuse(header, 0, TN_FORMAT, "nested deeper");
}

/* Whatever length a file is cut to, it is refused with a message, and nothing behind it is read. */
static void test_every_cut(void **state)
{
    (void)state;
    tn_weights *weights;
    make("{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("b", "U8", "[3]", "[8,11]") "}", 11);
    for (size_t size = 0; size < made.size; size++) {
        assert_int_equal(open_made(size, &weights), TN_FORMAT);
        assert_non_null(strstr(tn_message(), "x.safetensors"));
    }
    assert_int_equal(open_made(0, &weights), TN_FORMAT);
    assert_string_equal(tn_message(), "x.safetensors: the file is empty");
    assert_int_equal(open_made(5, &weights), TN_FORMAT);
    assert_string_equal(tn_message(), "x.safetensors: 5 bytes are too few for a safetensors file");
}

static void test_header_length(void **state)
{
    (void)state;
    tn_weights *weights;
    static const struct {
        uint64_t length;
        const char *message;
    } bad[] = {
        {100, "the header has 100 bytes, but the file only 40: it is cut off"},
        {(UINT64_C(100) << 20) + 1, "headers have at most 100 MB"},
        {UINT64_MAX, "a header of 18446744073709551615 bytes: not a safetensors file"},
        {UINT64_MAX - 7, "headers have at most 100 MB"},
        {0, "does not begin with '{'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        builder_free(&made);
        put_u64(&made, bad[i].length);
        put_text(&made, "{                              }");
        assert_fails(open_made(made.size, &weights), TN_FORMAT, bad[i].message);
    }
}

static void test_unknown_files(void **state)
{
    (void)state;
    tn_weights *weights;
    assert_fails(tn_weights_open_memory("hello world", 11, "x.txt", &weights), TN_FORMAT,
                 "x.txt: not a weights file that is known here");
    assert_fails(tn_weights_open_memory("PK\3\4 and so on", 14, "pytorch_model.bin", &weights),
                 TN_UNSUPPORTED, "pytorch_model.bin: a ZIP archive, such as PyTorch writes");
    assert_fails(tn_weights_open_memory("", 0, "x.bin", &weights), TN_FORMAT,
                 "x.bin: the file is empty");
    assert_fails(tn_weights_open("/nowhere/x.safetensors", &weights), TN_IO,
                 "/nowhere/x.safetensors");
    assert_null(weights);
}

/* ---- values -------------------------------------------------------------------------- */

/* Every dtype, over a border of the chunks that threads get, from an odd address. */
static void test_conversion(void **state)
{
    (void)state;
    enum { COUNT = 70001 };
    static const struct {
        const char *dtype;
        size_t size;
    } dtypes[] = {{"F64", 8}, {"F32", 4}, {"BF16", 2}, {"F16", 2}, {"I64", 8},
                  {"I32", 4}, {"I8", 1},  {"U8", 1},   {"BOOL", 1}};
    float *out = malloc(COUNT * sizeof *out);
    assert_non_null(out);
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        char header[256];
        size_t size = COUNT * dtypes[d].size;
        snprintf(header, sizeof header,
                 "{\"pad\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                 "\"t\":{\"dtype\":\"%s\",\"shape\":[%d],\"data_offsets\":[1,%zu]}}",
                 dtypes[d].dtype, COUNT, size + 1);
        builder_free(&made);
        put_u64(&made, strlen(header));
        put_text(&made, header);
        put_u8(&made, 0);
        for (int i = 0; i < COUNT; i++) {
            double value = i % 100 - 50;
            float single = (float)value;
            int64_t whole = i % 100 - 50;
            uint32_t bits;
            memcpy(&bits, &single, sizeof bits);
            switch (d) {
            case 0: put(&made, &value, 8); break;
            case 1: put_f32(&made, single); break;
            case 2: put_u16(&made, (uint16_t)(bits >> 16)); break; /* exact: few digits */
            case 3: {
                int exponent;
                double mantissa = frexp(fabs(value), &exponent); /* in [0.5, 1) */
                uint16_t half = (uint16_t)(value == 0 ? 0
                                                      : (exponent - 1 + 15) << 10 |
                                                            (int)((mantissa * 2 - 1) * 1024));
                put_u16(&made, (uint16_t)(half | (value < 0 ? 0x8000 : 0)));
                break;
            }
            case 4: put(&made, &whole, 8); break;
            case 5: put_i32(&made, (int32_t)whole); break;
            case 6: put_u8(&made, (uint8_t)(int8_t)whole); break;
            case 7: put_u8(&made, (uint8_t)(i % 100)); break;
            default: put_u8(&made, (uint8_t)(i % 2)); break;
            }
        }
        tn_weights *weights;
        assert_ok(tn_weights_open_memory(made.bytes, made.size, "x", &weights));
        assert_ok(tn_weights_read_f32(weights, "t", out, COUNT));
        for (int i = 0; i < COUNT; i++) {
            double wanted = d == 8 ? i % 2 : d == 7 ? i % 100 : i % 100 - 50;
            if ((double)out[i] != wanted)
                fail_msg("%s: element %d is %g, not %g", dtypes[d].dtype, i, (double)out[i],
                         wanted);
        }
        assert_ok(tn_weights_check_finite(weights));
        tn_weights_free(weights);
    }
    free(out);
}

static void test_not_finite(void **state)
{
    (void)state;
    enum { COUNT = 200003 };
    static const struct {
        const char *dtype;
        size_t size;
        uint64_t bits;
    } bad[] = {
        {"F32", 4, 0x7fc00000},
        {"F32", 4, 0xff800000},
        {"F64", 8, 0x7ff8000000000000},
        {"F64", 8, 0xfff0000000000000},
        {"BF16", 2, 0x7f80},
        {"BF16", 2, 0xffc1},
        {"F16", 2, 0x7c00},
        {"F16", 2, 0xfe00},
    };
    static const int places[] = {0, 65535, 65536, COUNT - 1};
    for (size_t b = 0; b < sizeof bad / sizeof *bad; b++) {
        char header[128], message[128];
        size_t size = COUNT * bad[b].size;
        snprintf(header, sizeof header,
                 "{\"good\":{\"dtype\":\"%s\",\"shape\":[0],\"data_offsets\":[0,0]},"
                 "\"t\":{\"dtype\":\"%s\",\"shape\":[%d],\"data_offsets\":[0,%zu]}}",
                 bad[b].dtype, bad[b].dtype, COUNT, size);
        make(header, 0);
        put_zeros(&made, size);
        uint8_t *data = made.bytes + made.size - size;
        for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
            tn_weights *weights;
            memcpy(data + (size_t)places[p] * bad[b].size, &bad[b].bits, bad[b].size);
            assert_ok(tn_weights_open_memory(made.bytes, made.size, "x.safetensors", &weights));
            snprintf(message, sizeof message,
                     "x.safetensors: tensor \"t\": element %d of %d is NaN or infinite", places[p],
                     COUNT);
            assert_fails(tn_weights_check_finite(weights), TN_FORMAT, message);
            memset(data + (size_t)places[p] * bad[b].size, 0x7f, 1); /* finite again */
            memset(data + (size_t)places[p] * bad[b].size, 0, bad[b].size);
            assert_ok(tn_weights_check_finite(weights));
            tn_weights_free(weights);
        }
    }
}

/* ---- shards -------------------------------------------------------------------------- */

static void write_one(const char *path, const char *name, float value)
{
    tn_weight t = {name, TN_F32, TN_CODING_PLAIN, TN_SHAPE(1), &value, sizeof value};
    assert_ok(tn_weights_save(path, &t, 1, NULL, 0));
}

static void refuse_index(const char *directory, const char *index, tn_status status,
                         const char *message)
{
    tn_weights *weights;
    write_file(join(directory, "model.safetensors.index.json"), index, strlen(index));
    assert_fails(tn_weights_open(directory, &weights), status, message);
}

static void test_shards(void **state)
{
    (void)state;
    char *directory = make_directory();
    tn_weights *weights;
    float value;
    write_one(join(directory, "b.safetensors"), "two", 2);
    write_one(join(directory, "a.safetensors"), "one", 1);
    const char *good = "{\"metadata\":{\"total_size\":8},\n\"weight_map\":{\"two\":"
                       "\"b.safetensors\",\"one\":\"a.safetensors\"}}";
    const char *path = join(directory, "model.safetensors.index.json");
    write_file(path, good, strlen(good));
    write_file(join(directory, "config.json"), "{\"a\": 1}", 8);
    const char *both[] = {directory, path};
    for (int i = 0; i < 2; i++) {
        assert_ok(tn_weights_open(both[i], &weights));
        assert_int_equal(tn_weights_count(weights), 2);
        assert_string_equal(tn_weights_at(weights, 0)->name, "one"); /* in order of shards */
        assert_ok(tn_weights_read_f32(weights, "two", &value, 1));
        assert_true(value == 2);
        assert_string_equal(tn_weights_config(weights), "{\"a\": 1}");
        tn_weights_free(weights);
    }
    refuse_index(directory, "{}", TN_FORMAT, ":1: field \"weight_map\" is missing");
    refuse_index(directory, "{\"weight_map\":{}}", TN_FORMAT, "\"weight_map\" is empty");
    refuse_index(directory, "{\"weight_map\":{\"x\":1}}", TN_FORMAT,
                 "tensor \"x\": a shard must be the name of a .safetensors file in the same "
                 "directory, not something else");
    static const char *const names[] = {
        "../a.safetensors",   "/a.safetensors", "d/a.safetensors", ".safetensors", "..", "a.bin",
        "a\\\\b.safetensors", ".a.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char index[128];
        snprintf(index, sizeof index, "{\"weight_map\":{\"x\":\"%s\"}}", names[i]);
        refuse_index(directory, index, TN_FORMAT, "a shard must be the name of a .safetensors");
    }
    refuse_index(directory, "{\"weight_map\":{\"x\":\"c.safetensors\"}}", TN_IO,
                 "c.safetensors is missing: fetch it again");
    refuse_index(directory, "{\"weight_map\":{\"one\":\"a.safetensors\",\"x\":\"a.safetensors\"}}",
                 TN_FORMAT, "tensor \"x\" is not in shard a.safetensors");
    write_one(join(directory, "c.safetensors"), "one", 3);
    refuse_index(directory, "{\"weight_map\":{\"one\":\"a.safetensors\",\"x\":\"c.safetensors\"}}",
                 TN_FORMAT, "tensor \"one\" is there twice");
    refuse_index(directory,
                 "{\"weight_map\":{\"one\":\"b.safetensors\",\"two\":\"a.safetensors\"}}",
                 TN_FORMAT, "should be in shard b.safetensors, but is in a.safetensors");
    refuse_index(directory, "{\"weight_map\":{\"two\":\"b.safetensors\"}", TN_FORMAT,
                 "not valid JSON");
    float pair[2] = {1, 2};
    tn_weight tensors[] = {{"one", TN_F32, TN_CODING_PLAIN, TN_SHAPE(1), &pair[0], 4},
                           {"extra", TN_F32, TN_CODING_PLAIN, TN_SHAPE(1), &pair[1], 4}};
    assert_ok(tn_weights_save(join(directory, "a.safetensors"), tensors, 2, NULL, 0));
    refuse_index(directory, "{\"weight_map\":{\"one\":\"a.safetensors\"}}", TN_FORMAT,
                 "tensor \"extra\" of shard a.safetensors is not in the index");
    remove_directory(directory);
}

static void test_directory(void **state)
{
    (void)state;
    char *directory = make_directory();
    tn_weights *weights;
    assert_fails(tn_weights_open(directory, &weights), TN_IO,
                 "neither model.safetensors nor model.safetensors.index.json");
    write_one(join(directory, "model.safetensors"), "t", 5);
    assert_ok(tn_weights_open(directory, &weights));
    assert_null(tn_weights_config(weights));
    tn_weights_free(weights);
    write_file(join(directory, "config.json"), "{", 1);
    assert_fails(tn_weights_open(directory, &weights), TN_FORMAT, "config.json:1: not valid JSON");
    remove_directory(directory);
}

/* ---- writing ------------------------------------------------------------------------- */

static void test_round_trip(void **state)
{
    (void)state;
    char *directory = make_directory();
    const char *path = join(directory, "x.safetensors");
    static const uint8_t data[64] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    static const tn_dtype dtypes[] = {TN_F32, TN_F64, TN_BF16, TN_F16, TN_I64,
                                      TN_I32, TN_I8,  TN_U8,   TN_BOOL};
    enum { COUNT = sizeof dtypes / sizeof *dtypes };
    tn_weight tensors[COUNT + 2];
    char names[COUNT][32];
    for (int i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof names[i], "t%d \"\xc3\xbc\"", i); /* quotes and an umlaut */
        tensors[i] = (tn_weight){names[i],          dtypes[i], TN_CODING_PLAIN,
                                 TN_SHAPE(1, 3, 1), data,      3 * tn_dtype_size(dtypes[i])};
    }
    tensors[COUNT] = (tn_weight){"scalar", TN_F32, TN_CODING_PLAIN, TN_SCALAR, data, 4};
    tensors[COUNT + 1] = (tn_weight){"none", TN_F32, TN_CODING_PLAIN, TN_SHAPE(2, 0), NULL, 0};
    tn_weights_text text[] = {{"format", "pt"}, {"note", "line\nbreak"}};
    assert_ok(tn_weights_save(path, tensors, COUNT + 2, text, 2));
    tn_weights *weights;
    assert_ok(tn_weights_open(path, &weights));
    assert_int_equal(tn_weights_count(weights), COUNT + 2);
    for (int i = 0; i < COUNT + 2; i++) {
        const tn_weight *t = tn_weights_at(weights, i); /* the order is kept */
        assert_string_equal(t->name, tensors[i].name);
        assert_int_equal(t->dtype, tensors[i].dtype);
        assert_true(tn_shape_equal(t->shape, tensors[i].shape));
        assert_int_equal(t->size, tensors[i].size);
        if (t->size) assert_memory_equal(t->bytes, data, t->size);
    }
    assert_int_equal((uintptr_t)tn_weights_at(weights, 0)->bytes % 64, 0);
    const char *key, *value;
    tn_weights_metadata_at(weights, 1, &key, &value);
    assert_string_equal(key, "note");
    assert_string_equal(value, "line\nbreak");
    tn_weights_free(weights);
    assert_ok(tn_weights_save(path, NULL, 0, NULL, 0)); /* nothing at all */
    assert_ok(tn_weights_open(path, &weights));
    assert_int_equal(tn_weights_count(weights), 0);
    tn_weights_free(weights);
    remove_directory(directory);
}

static void test_streaming(void **state)
{
    (void)state;
    char *directory = make_directory();
    const char *path = join(directory, "x.safetensors");
    tn_weight tensors[] = {{.name = "a", .dtype = TN_U8, .shape = TN_SHAPE(5)},
                           {.name = "b", .dtype = TN_F32, .shape = TN_SHAPE(2)}};
    tn_weights_writer *writer;
    write_one(path, "old", 7);
    assert_ok(tn_weights_begin(path, tensors, 2, NULL, 0, &writer));
    assert_ok(tn_weights_append(writer, "01", 2));
    assert_ok(tn_weights_append(writer, "234\0\0\0", 6));
    tn_weights *weights; /* nobody sees it yet */
    assert_ok(tn_weights_open(path, &weights));
    assert_non_null(tn_weights_find(weights, "old"));
    tn_weights_free(weights);
    assert_fails(tn_weights_append(writer, "0123456789", 10), TN_INVALID,
                 "10 bytes are appended, but only 5 are missing");
    assert_ok(tn_weights_append(writer, "\0\0\0\0\0", 5));
    assert_ok(tn_weights_commit(writer));
    assert_ok(tn_weights_open(path, &weights));
    assert_memory_equal(tn_weights_find(weights, "a")->bytes, "01234", 5);
    tn_weights_free(weights);

    assert_ok(tn_weights_begin(path, tensors, 2, NULL, 0, &writer));
    assert_ok(tn_weights_append(writer, "0123456789ab", 12));
    assert_fails(tn_weights_commit(writer), TN_INVALID, "1 bytes of the tensors were not appended");
    assert_ok(tn_weights_begin(path, tensors, 2, NULL, 0, &writer));
    tn_weights_abort(writer);
    tn_weights_abort(NULL);
    assert_ok(tn_weights_open(path, &weights)); /* still the one before */
    assert_memory_equal(tn_weights_find(weights, "a")->bytes, "01234", 5);
    tn_weights_free(weights);
    remove_directory(directory);
}

static void test_bad_writes(void **state)
{
    (void)state;
    char *directory = make_directory();
    const char *path = join(directory, "x.safetensors");
    float value[2] = {1, 2};
    const tn_weight good = {"t", TN_F32, TN_CODING_PLAIN, TN_SHAPE(1), value, 4};
    const struct {
        tn_weight tensor;
        const char *message;
    } bad[] = {
        {{"", TN_F32, TN_CODING_PLAIN, TN_SHAPE(1), value, 4}, "a tensor cannot be named \"\""},
        {{NULL, TN_F32, TN_CODING_PLAIN, TN_SHAPE(1), value, 4}, "a tensor cannot be named"},
        {{"__metadata__", TN_F32, TN_CODING_PLAIN, TN_SHAPE(1), value, 4}, "cannot be named"},
        {{"t", TN_F32, TN_CODING_PLAIN, TN_SHAPE(1), value, 4}, "tensor \"t\" is there twice"},
        {{"\xff", TN_F32, TN_CODING_PLAIN, TN_SHAPE(1), value, 4}, "is not UTF-8"},
        {{"u", TN_DTYPE_COUNT, TN_CODING_PLAIN, TN_SHAPE(1), value, 4}, "not of a plain dtype"},
        {{"u", TN_F32, TN_CODING_Q8_0, TN_SHAPE(32), value, 34}, "not of a plain dtype"},
        {{"u", TN_F32, TN_CODING_PLAIN, {.rank = 9}, value, 4}, "its shape cannot be right"},
        {{"u", TN_F32, TN_CODING_PLAIN, TN_SHAPE(INT64_MAX / 2, 4), value, 4}, "its shape cannot"},
        {{"u", TN_F32, TN_CODING_PLAIN, TN_SHAPE(1), value, 8},
         "tensor \"u\" has 8 bytes, but shape and dtype make 4"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tn_weight both[] = {good, bad[i].tensor};
        assert_fails(tn_weights_save(path, both, 2, NULL, 0), TN_INVALID, bad[i].message);
        assert_false(tn_file_exists(path));
    }
    tn_weights_text text = {"note", "\xc3"};
    assert_fails(tn_weights_save(path, &good, 1, &text, 1), TN_INVALID,
                 "metadata \"note\" is not UTF-8");
    assert_fails(tn_weights_save(join(directory, "no/x.safetensors"), &good, 1, NULL, 0), TN_IO,
                 "no/x.safetensors");
    remove_directory(directory);
}

/* A disk that takes no more: an error, and the file before is still there, whole. */
static void test_full_disk(void **state)
{
    (void)state;
    enum { COUNT = 100000 };
    char *directory = make_directory();
    const char *path = join(directory, "x.safetensors");
    float *values = calloc(COUNT, sizeof *values);
    assert_non_null(values);
    write_one(path, "old", 7);
    tn_weight big = {"big",           TN_F32, TN_CODING_PLAIN,
                     TN_SHAPE(COUNT), values, COUNT * sizeof *values};
    struct rlimit before, small = {1 << 16, 0};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    tn_status status = tn_weights_save(path, &big, 1, NULL, 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_fails(status, TN_IO, "x.safetensors");
    tn_weights *weights;
    assert_ok(tn_weights_open(path, &weights));
    assert_non_null(tn_weights_find(weights, "old"));
    tn_weights_free(weights);
    free(values);
    remove_directory(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_good_file, clean_up),
        cmocka_unit_test_teardown(test_bad_headers, clean_up),
        cmocka_unit_test_teardown(test_deep_header, clean_up),
        cmocka_unit_test_teardown(test_every_cut, clean_up),
        cmocka_unit_test_teardown(test_header_length, clean_up),
        cmocka_unit_test(test_unknown_files),
        cmocka_unit_test_teardown(test_conversion, clean_up),
        cmocka_unit_test_teardown(test_not_finite, clean_up),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_directory),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_streaming),
        cmocka_unit_test(test_bad_writes),
        cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
