/* Tokenizers of every kind from hand-made files: ids, decoding, saving, and each message. */
#include "data/byte_builder.h"

#include "data/tokenizer.h"
#include "tenon/random.h"

static builder made;
static tn_tokenizer *opened;

static int clean_up(void **state)
{
    (void)state;
    builder_free(&made);
    tn_tokenizer_free(opened);
    opened = NULL;
    return 0;
}

static tn_status open_made(size_t size, const char *name)
{
    uint8_t *bytes = exact(&made, size);
    tn_tokenizer_free(opened);
    tn_status status = tn_tokenizer_open_memory(bytes, size, name, &opened);
    free(bytes); /* not needed afterwards */
    if (status != TN_OK) assert_null(opened);
    return status;
}

static tn_status open_text(const char *json)
{
    builder_free(&made);
    put_text(&made, json);
    return open_made(made.size, "tokenizer.json");
}

/* Encodes a text and compares with ids up to -1; decodes them again if it should come back. */
static void expect(const char *text, size_t size, tn_encode_options options, const int32_t *wanted,
                   bool back)
{
    int32_t *ids;
    int64_t count, i = 0;
    char *copy = malloc(size ? size : 1); /* no NUL behind it */
    assert_non_null(copy);
    if (size > 0) memcpy(copy, text, size);
    assert_ok(tn_tokenizer_encode(opened, copy, size, options, &ids, &count));
    for (; i < count && wanted[i] == ids[i]; i++) continue;
    if (i < count || wanted[i] != -1) {
        print_message("\"%.*s\" gives", (int)size, text);
        for (i = 0; i < count; i++) print_message(" %d", ids[i]);
        fail_msg("and should give others");
    }
    if (back) {
        char *decoded;
        size_t length;
        assert_ok(tn_tokenizer_decode_all(opened, ids, count, &decoded, &length));
        assert_int_equal(length, size);
        assert_memory_equal(decoded, text, size);
        assert_int_equal(decoded[length], 0);
        free(decoded);
    }
    free(ids);
    free(copy);
}

#define IDS(...) ((const int32_t[]){__VA_ARGS__, -1})
#define PLAIN ((tn_encode_options){0})

/* ---- bytes --------------------------------------------------------------------------- */

static void expect_bytes(void)
{
    assert_int_equal(tn_tokenizer_kind_of(opened), TN_TOKENIZER_BYTES);
    assert_int_equal(tn_tokenizer_size(opened), 258);
    assert_int_equal(tn_tokenizer_begin(opened), 256);
    assert_int_equal(tn_tokenizer_end(opened), 257);
    assert_false(tn_tokenizer_wants_begin(opened));
    expect("", 0, PLAIN, IDS(-1), true);
    expect("a\0\xff ", 4, PLAIN, IDS('a', 0, 255, ' '), true);
    expect("ab", 2, (tn_encode_options){.begin = true, .end = true}, IDS(256, 'a', 'b', 257), true);
    expect("", 0, (tn_encode_options){.begin = true, .end = true}, IDS(256, 257), true);
    expect("x</s><s>", 8, (tn_encode_options){.special = true}, IDS('x', 257, 256), false);
    expect("<s", 2, (tn_encode_options){.special = true}, IDS('<', 's'), true);
}

static void test_bytes(void **state)
{
    (void)state;
    assert_ok(tn_tokenizer_create_bytes(&opened));
    expect_bytes();
    const char *bytes;
    size_t size;
    for (int32_t id = 0; id < 256; id++) {
        assert_ok(tn_tokenizer_decode(opened, -1, id, &bytes, &size));
        assert_int_equal(size, 1);
        assert_int_equal((uint8_t)bytes[0], id);
    }
    assert_ok(tn_tokenizer_decode(opened, 5, 256, &bytes, &size));
    assert_int_equal(size, 0);
    static const int32_t outside[] = {-1, 258, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        assert_fails(tn_tokenizer_decode(opened, -1, outside[i], &bytes, &size), TN_INVALID,
                     "is outside the vocabulary of byte level (0 to 257): model and tokenizer do "
                     "not belong together");
    char *text;
    assert_fails(tn_tokenizer_decode_all(opened, IDS(1, 300), 2, &text, &size), TN_INVALID,
                 "token id 300");
    assert_null(text);
    assert_memory_equal(tn_tokenizer_piece(opened, 65, &size), "A", 1);
    assert_memory_equal(tn_tokenizer_piece(opened, 257, &size), "</s>", 4);
    assert_int_equal(size, 4);
    assert_null(tn_tokenizer_piece(opened, 258, &size));
    assert_null(tn_tokenizer_piece(opened, -1, &size));
}

/* ---- llama2.c ------------------------------------------------------------------------ */

static void put_piece(const char *text, float score)
{
    put_f32(&made, score);
    put_i32(&made, (int32_t)strlen(text));
    put_text(&made, text);
}

/* Special pieces, bytes, then those of the test from id 259 on. */
static void make_llama2c(int count, const char *const *text, const float *score)
{
    builder_free(&made);
    put_i32(&made, 16);
    put_piece("<unk>", 0);
    put_piece("\n<s>\n", 0);
    put_piece("\n</s>\n", 0);
    for (int byte = 0; byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)byte);
        put_piece(name, 0);
    }
    for (int i = 0; i < count; i++) put_piece(text[i], score[i]);
}

enum { SPACE = 259, A, B, C, AB, BC, ABC, SPACE_A, UE, TWO };
static const char *const pieces[] = {" ", "a", "b", "c", "ab", "bc", "abc", " a", "\xc3\xbc", "  "};
static const float scores[] = {-9, -9, -9, -9, -2, -1, -3, -4, -9, -8};
enum { PIECES = sizeof pieces / sizeof *pieces };

static int32_t byte_id(uint8_t byte) { return 3 + byte; }

static void expect_sentencepiece(void)
{
    assert_int_equal(tn_tokenizer_kind_of(opened), TN_TOKENIZER_SENTENCEPIECE);
    assert_int_equal(tn_tokenizer_size(opened), SPACE + PIECES);
    assert_int_equal(tn_tokenizer_begin(opened), 1);
    assert_int_equal(tn_tokenizer_end(opened), 2);
    assert_true(tn_tokenizer_wants_begin(opened));
    expect("", 0, PLAIN, IDS(-1), true);
    expect("a", 1, PLAIN, IDS(SPACE_A), true);
    expect(" a", 2, PLAIN, IDS(SPACE, SPACE_A), true);  /* " a" (-4) before "  " (-8) */
    expect("  ", 2, PLAIN, IDS(TWO, SPACE), true);      /* of two equal pairs the left one */
    expect("abc", 3, PLAIN, IDS(SPACE, ABC), true);     /* "bc", then "abc" (-3) before " a" (-4) */
    expect("cabc", 4, PLAIN, IDS(SPACE, C, ABC), true); /* a+bc = "abc" */
    expect("b c", 3, PLAIN, IDS(SPACE, B, SPACE, C), true);
    expect("c\n", 2, PLAIN, IDS(SPACE, C, byte_id('\n')), true);
    expect("\xc3\xbc\xc3\xb6", 4, PLAIN, IDS(SPACE, UE, byte_id(0xc3), byte_id(0xb6)), true);
    expect("\xff\xc3", 2, PLAIN, IDS(SPACE, byte_id(0xff), byte_id(0xc3)), true);
    expect("c\0", 2, PLAIN, IDS(SPACE, C, byte_id(0)), true);
    expect("c\xe2\x96\x81"
           "a",
           5, PLAIN, IDS(SPACE, C, SPACE_A), false); /* U+2581 is a space */
    expect("<s>", 3, PLAIN, IDS(SPACE, byte_id('<'), byte_id('s'), byte_id('>')), true);
    expect("a", 1, (tn_encode_options){.begin = true, .end = true}, IDS(1, SPACE_A, 2), true);
    expect("a", 1, (tn_encode_options){.no_prefix = true}, IDS(A), true);
    expect(" a", 2, (tn_encode_options){.no_prefix = true}, IDS(SPACE_A), false);
    expect("b<s>a</s>b", 10, (tn_encode_options){.special = true}, IDS(SPACE, B, 1, SPACE_A, 2, B),
           false);
}

static void test_llama2c(void **state)
{
    (void)state;
    make_llama2c(PIECES, pieces, scores);
    assert_ok(open_made(made.size, "tok.bin"));
    expect_sentencepiece();
    const char *bytes;
    size_t size;
    static const struct {
        int32_t previous, id;
        const char *text;
    } decoded[] = {
        {1, SPACE_A, "a"}, {-1, SPACE_A, "a"}, {A, SPACE_A, " a"},  {2, SPACE_A, " a"},
        {1, A, "a"},       {1, SPACE, ""},     {A, SPACE, " "},     {A, 1, ""},
        {A, 2, ""},        {A, 0, ""},         {1, 3 + '\n', "\n"}, {1, TWO, " "},
    };
    for (size_t i = 0; i < sizeof decoded / sizeof *decoded; i++) {
        assert_ok(tn_tokenizer_decode(opened, decoded[i].previous, decoded[i].id, &bytes, &size));
        assert_int_equal(size, strlen(decoded[i].text));
        assert_memory_equal(bytes, decoded[i].text, size);
    }
    assert_memory_equal(tn_tokenizer_piece(opened, 1, &size), "<s>", 3);
    assert_int_equal(size, 3);
    assert_memory_equal(tn_tokenizer_piece(opened, 13, &size), "<0x0A>", 6);
}

static void test_bad_llama2c(void **state)
{
    (void)state;
    make_llama2c(PIECES, pieces, scores);
    size_t whole = made.size, before_last = whole - 10;
    assert_fails(open_made(0, "tok.bin"), TN_FORMAT, "tok.bin: the file is empty");
    for (size_t size = 1; size < whole; size++) {
        tn_status status = open_made(size, "tok.bin"); /* fine at the end of a piece */
        if (status != TN_OK) assert_non_null(strstr(tn_message(), "tok.bin: "));
    }
    assert_ok(open_made(before_last, "tok.bin"));
    assert_fails(open_made(whole - 1, "tok.bin"), TN_FORMAT, "inside piece 268: it is cut off");
    assert_fails(open_made(13, "tok.bin"), TN_FORMAT, "the file ends (13 bytes) inside piece 0");
    assert_fails(open_made(17, "tok.bin"), TN_FORMAT, "tok.bin: 1 pieces are too few");
    assert_fails(open_made(3, "tok.bin"), TN_FORMAT, "not a tokenizer that is known here");
    static const struct {
        size_t at;
        int32_t value;
        const char *message;
    } bad[] = {
        {0, 0, "not a tokenizer that is known here"},
        {0, 65536, "not a tokenizer that is known here"},
        {8, -1, "not a tokenizer that is known here"},
        {21, 17, "for a model, give its tokenizer too"}, /* its numbers are no lengths of pieces */
        {3632, 17, "piece 259 has length 17, but the longest should have 16"},
        {3632, -1, "piece 259 has length -1"},
        {4, 0x7fc00000, "the score of piece 0 is NaN or infinite"},
        {52, 0x58583c, "piece 3 should be a byte, but does not look like \"<0x0A>\""},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        make_llama2c(PIECES, pieces, scores);
        memcpy(made.bytes + bad[i].at, &bad[i].value, 4);
        assert_fails(open_made(made.size, "tok.bin"), TN_FORMAT, bad[i].message);
    }
    make_llama2c(1, (const char *const[]){"\xff"}, scores);
    assert_fails(open_made(made.size, "tok.bin"), TN_FORMAT, "piece 259 is not UTF-8");
}

/* ---- JSON ---------------------------------------------------------------------------- */

static void test_json(void **state)
{
    (void)state;
    assert_ok(open_text(" {\"type\": \"byte\"}"));
    expect_bytes();
    /* no bytes: what has no piece is unknown; a user-defined piece is always one token */
    assert_ok(open_text("{\"type\": \"sentencepiece\", \"unknown\": 0, \"pieces\": "
                        "[[\"?\", 0, \"unknown\"], [\"a\", -1, \"normal\"], [\"aa\", -2.5, "
                        "\"normal\"], [\"aXa\", 0, \"user\"], [\"aa\", 5, \"normal\"], [\"aaa\", "
                        "9, \"unused\"], [\"aX\", 0, \"user\"]]}"));
    assert_int_equal(tn_tokenizer_begin(opened), -1);
    assert_false(tn_tokenizer_wants_begin(opened));
    expect("aaa", 3, (tn_encode_options){.begin = true}, IDS(2, 1), true); /* the lower id of two */
    expect("aaXaXa", 6, PLAIN, IDS(1, 3, 0, 1), false);
    expect("aXX", 3, PLAIN, IDS(6, 0), false);
    expect("a\xc3\xbc\xe2\x82\xac", 6, PLAIN, IDS(1, 0, 0), false); /* unknown by character */
    static const struct {
        const char *json;
        tn_status status;
        const char *message;
    } bad[] = {
        {"{", TN_FORMAT, "tokenizer.json:1: not valid JSON"},
        {"{}", TN_FORMAT, "field \"type\" is missing"},
        {"{\"type\": \"wordpiece\"}", TN_FORMAT,
         "field \"type\" must be one of \"byte\", \"sentencepiece\", not \"wordpiece\""},
        {"{\"type\": \"sentencepiece\"}", TN_FORMAT, "field \"pieces\" is missing"},
        {"{\"type\": \"sentencepiece\", \"pieces\": []}", TN_FORMAT,
         "a vocabulary of 0 pieces cannot be right"},
        {"{\"type\": \"sentencepiece\",\n\"pieces\": [\n[\"a\", 1]]}", TN_FORMAT,
         "tokenizer.json:3: piece 0 must be [text, score, kind]"},
        {"{\"type\": \"sentencepiece\", \"pieces\": [[\"a\", 1, \"x\"]]}", TN_FORMAT,
         "piece 0 must be"},
        {"{\"type\": \"sentencepiece\", \"pieces\": [[\"a\", 1e300, \"normal\"]]}", TN_FORMAT,
         "the score of piece 0 is NaN or infinite"},
        {"{\"type\": \"sentencepiece\", \"pieces\": [[\"a\", 1, \"byte\"]]}", TN_FORMAT,
         "piece 0 should be a byte"},
        {"{\"type\": \"sentencepiece\", \"pieces\": [[\"a\", 1, \"normal\"]], \"begin\": 1}",
         TN_FORMAT, "field \"begin\" must be a whole number from -1 to 0"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_fails(open_text(bad[i].json), bad[i].status, bad[i].message);
    static char longest[70000] = "{\"type\": \"sentencepiece\", \"pieces\": [[\"";
    memset(longest + strlen(longest), 'a', 65536);
    strcat(longest, "\", 0, \"normal\"]]}");
    assert_fails(open_text(longest), TN_FORMAT, "piece 0 has 65536 bytes; at most 65535");
    assert_ok(open_text("{\"type\": \"sentencepiece\", \"pieces\": [[\"a\", 1, \"normal\"]]}"));
    int32_t *ids;
    int64_t count;
    assert_fails(tn_tokenizer_encode(opened, "ab", 2, PLAIN, &ids, &count), TN_FORMAT,
                 "no piece, byte or unknown id for a character that begins with byte 0x62");
    assert_null(ids);
}

/* ---- byte-level BPE ------------------------------------------------------------------ */

/* A Hugging Face file: the 256 bytes, then these tokens and merges. */
static void make_hugging_face(const char *pre, const char *model, const char *tokens,
                              const char *merges, const char *added)
{
    builder_free(&made);
    put_text(&made, "{\"version\": \"1.0\", \"normalizer\": null, \"pre_tokenizer\": ");
    put_text(&made, pre);
    put_text(&made, ", \"added_tokens\": [");
    put_text(&made, added);
    put_text(&made, "], \"model\": {");
    put_text(&made, model);
    put_text(&made, "\"vocab\": {");
    for (int byte = 0; byte < 256; byte++) {
        char entry[32];
        snprintf(entry, sizeof entry, "%s\"\\u%04x\": %d", byte ? ", " : "",
                 (unsigned)tn_byte_bpe_letter((uint8_t)byte), byte);
        put_text(&made, entry);
    }
    put_text(&made, tokens);
    put_text(&made, "}, \"merges\": [");
    put_text(&made, merges);
    put_text(&made, "]}}");
}

#define BYTE_LEVEL "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": true}"
#define TOKENS ", \"th\": 256, \"the\": 257, \"\xc4\xa0th\": 258, \"\xc4\xa0the\": 259, \"er\": 260"
#define MERGES "\"t h\", \"th e\", \"\xc4\xa0 the\", \"e r\", [\"\xc4\xa0\", \"th\"]"
#define ADDED "{\"id\": 261, \"content\": \"<|endoftext|>\", \"special\": true}"

static void expect_byte_bpe(void)
{
    assert_int_equal(tn_tokenizer_kind_of(opened), TN_TOKENIZER_BYTE_BPE);
    assert_int_equal(tn_tokenizer_size(opened), 262);
    assert_int_equal(tn_tokenizer_begin(opened), 261);
    assert_int_equal(tn_tokenizer_end(opened), 261);
    assert_false(tn_tokenizer_wants_begin(opened));
    expect("", 0, PLAIN, IDS(-1), true);
    expect("the other", 9, PLAIN, IDS(257, ' ', 'o', 257, 'r'), true);
    expect("x the", 5, PLAIN, IDS('x', 259), true);
    expect("x  th", 5, PLAIN, IDS('x', ' ', 258), true); /* the last space goes with the word */
    expect("t\nh", 3, PLAIN, IDS('t', '\n', 'h'), true); /* no merge across words */
    expect("\xff\0\xc3\xbc", 4, PLAIN, IDS(255, 0, 0xc3, 0xbc), true);
    expect("the", 3, (tn_encode_options){.begin = true, .end = true}, IDS(261, 257, 261), true);
    expect("er<|endoftext|>er", 17, (tn_encode_options){.special = true}, IDS(260, 261, 260),
           false);
    expect("<|", 2, (tn_encode_options){.special = true}, IDS('<', '|'), true);
}

static void test_hugging_face(void **state)
{
    (void)state;
    make_hugging_face(BYTE_LEVEL, "\"type\": \"BPE\", ", TOKENS, MERGES, ADDED);
    assert_ok(open_made(made.size, "tokenizer.json"));
    expect_byte_bpe();
    static const struct {
        const char *pre, *model, *tokens, *merges, *added;
        tn_status status;
        const char *message;
    } bad[] = {
        {"null", "", "", "", "", TN_UNSUPPORTED, "whose pre_tokenizer is not ByteLevel"},
        {"{\"type\": \"Sequence\"}", "", "", "", "", TN_UNSUPPORTED, "is not ByteLevel"},
        {"{\"type\": \"ByteLevel\", \"add_prefix_space\": true}", "", "", "", "", TN_UNSUPPORTED,
         "with add_prefix_space"},
        {"{\"type\": \"ByteLevel\", \"use_regex\": false}", "", "", "", "", TN_UNSUPPORTED,
         "without use_regex"},
        {BYTE_LEVEL, "\"type\": \"WordPiece\", ", "", "", "", TN_UNSUPPORTED, "that is not BPE"},
        {BYTE_LEVEL, "\"byte_fallback\": true, ", "", "", "", TN_UNSUPPORTED, "byte_fallback"},
        {BYTE_LEVEL, "\"ignore_merges\": true, ", "", "", "", TN_UNSUPPORTED, "ignore_merges"},
        {BYTE_LEVEL, "\"end_of_word_suffix\": \"</w>\", ", "", "", "", TN_UNSUPPORTED, "affixes"},
        {BYTE_LEVEL, "", ", \"aa\": 257", "", "", TN_FORMAT,
         "token \"aa\" must have an id of its own from 0 to 256; ids must be without gaps"},
        {BYTE_LEVEL, "", ", \"aa\": 7", "", "", TN_FORMAT, "must have an id of its own"},
        {BYTE_LEVEL, "", ", \"aa\": \"x\"", "", "", TN_FORMAT, "must have an id of its own"},
        {BYTE_LEVEL, "", ", \"aa\": -1", "", "", TN_FORMAT, "must have an id of its own"},
        {BYTE_LEVEL, "", ", \"a b\": 256", "", "", TN_FORMAT,
         "token 256 has a character that stands for no byte"},
        {BYTE_LEVEL, "", "", "\"ab\"", "", TN_FORMAT, "merge 0 is not two tokens"},
        {BYTE_LEVEL, "", "", "[\"a\"]", "", TN_FORMAT, "merge 0 is not two tokens"},
        {BYTE_LEVEL, "", "", "17", "", TN_FORMAT, "merge 0 is not two tokens"},
        {BYTE_LEVEL, "", "", "\"aa b\"", "", TN_FORMAT,
         "merge 0: its left part is not in the vocabulary"},
        {BYTE_LEVEL, "", "", "\"a bb\"", "", TN_FORMAT, "merge 0: its right part is not in"},
        {BYTE_LEVEL, "", "", "\"a b\"", "", TN_FORMAT, "merge 0: what it makes is not in"},
        {BYTE_LEVEL, "", "", "", "{\"id\": 256}", TN_FORMAT, "field \"content\" is missing"},
        {BYTE_LEVEL, "", "", "", "{\"content\": \"x\"}", TN_FORMAT, "field \"id\" is missing"},
        {BYTE_LEVEL, "", "", "", "{\"id\": 7, \"content\": \"x\"}", TN_FORMAT,
         "field \"id\" is 7, which is another token"},
        {BYTE_LEVEL, "", "", "", "{\"id\": 999, \"content\": \"x\"}", TN_FORMAT,
         "field \"id\" must be a whole number from 0 to 255"},
        {BYTE_LEVEL, "\"tenon\": {\"begin\": 300}, ", "", "", "", TN_FORMAT,
         "field \"begin\" must be a whole number from -1 to 255"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        make_hugging_face(bad[i].pre, bad[i].model, bad[i].tokens, bad[i].merges, bad[i].added);
        assert_fails(open_made(made.size, "tokenizer.json"), bad[i].status, bad[i].message);
        assert_non_null(strstr(tn_message(), "tokenizer.json"));
    }
    assert_fails(
        open_text(
            "{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}, \"pre_tokenizer\": " BYTE_LEVEL
            "}"),
        TN_FORMAT, "the vocabulary has no token for byte 0x00");
    assert_fails(
        open_text("{\"model\": {\"vocab\": {}, \"merges\": []}, \"pre_tokenizer\": " BYTE_LEVEL
                  "}"),
        TN_FORMAT, "a vocabulary of 0 pieces");
    assert_fails(
        open_text("{\"normalizer\": {}, \"model\": {}, \"pre_tokenizer\": " BYTE_LEVEL "}"),
        TN_UNSUPPORTED, "with a normalizer");
}

static void test_letters(void **state)
{
    (void)state;
    bool used[512] = {false};
    for (int byte = 0; byte < 256; byte++) {
        uint32_t letter = tn_byte_bpe_letter((uint8_t)byte);
        assert_true(letter > 32 && letter < 324 && letter != 127 && letter != 173 && !used[letter]);
        used[letter] = true;
        char text[4], back[4];
        size_t count, length = letter < 0x80 ? 1 : 2;
        text[0] = (char)(letter < 0x80 ? letter : 0xc0 | letter >> 6);
        text[1] = (char)(0x80 | (letter & 0x3f));
        assert_true(tn_byte_bpe_unmap(text, length, back, &count));
        assert_int_equal(count, 1);
        assert_int_equal((uint8_t)back[0], byte);
    }
    assert_int_equal(tn_byte_bpe_letter(' '), 0x120); /* the famous one */
    assert_int_equal(tn_byte_bpe_letter('\n'), 0x10a);
    char back[4];
    size_t count;
    assert_false(tn_byte_bpe_unmap(" ", 1, back, &count));
    assert_false(tn_byte_bpe_unmap("\xc5\x84", 2, back, &count)); /* U+0144: one too far */
    assert_false(tn_byte_bpe_unmap("\xff", 1, back, &count));
}

/* ---- GGUF ---------------------------------------------------------------------------- */

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

static void put_text_key(const char *key, const char *value)
{
    put_key(key, 8);
    put_string(value);
}

static void put_strings(const char *key, int count, const char *const *text)
{
    put_key(key, 9), put_u32(&made, 8), put_u64(&made, (uint64_t)count);
    for (int i = 0; i < count; i++) put_string(text[i]);
}

static void begin_gguf(uint64_t keys)
{
    builder_free(&made);
    put_text(&made, "GGUF");
    put_u32(&made, 3);
    put_u64(&made, 0);
    put_u64(&made, keys);
}

static void put_kinds(int count, const int32_t *kind)
{
    put_key("tokenizer.ggml.token_type", 9), put_u32(&made, 5), put_u64(&made, (uint64_t)count);
    for (int i = 0; i < count; i++) put_i32(&made, kind[i]);
}

static void put_scores(int count, const float *score)
{
    put_key("tokenizer.ggml.scores", 9), put_u32(&made, 6), put_u64(&made, (uint64_t)count);
    for (int i = 0; i < count; i++) put_f32(&made, score[i]);
}

static void test_gguf(void **state)
{
    (void)state;
    static const char *const text[] = {"<unk>",        "<s>",           "<0x41>",
                                       "\xe2\x96\x81", "\xe2\x96\x81z", "z"};
    static const int32_t kind[] = {2, 3, 6, 1, 1, 1};
    static const float score[] = {0, 0, 0, -1, -2, -3};
    for (int prefix = 0; prefix < 2; prefix++) {
        begin_gguf(8);
        put_text_key("tokenizer.ggml.model", "llama");
        put_strings("tokenizer.ggml.tokens", 6, text);
        put_scores(6, score);
        put_kinds(6, kind);
        put_key("tokenizer.ggml.bos_token_id", 4), put_u32(&made, 1);
        put_key("tokenizer.ggml.unknown_token_id", 4), put_u32(&made, 0);
        put_key("tokenizer.ggml.add_bos_token", 7), put_u8(&made, 0);
        put_key("tokenizer.ggml.add_space_prefix", 7), put_u8(&made, (uint8_t)prefix);
        assert_ok(open_made(made.size, "x.gguf"));
        assert_int_equal(tn_tokenizer_begin(opened), 1);
        assert_int_equal(tn_tokenizer_end(opened), -1);
        assert_false(tn_tokenizer_wants_begin(opened));
        if (prefix) expect("z zA", 4, PLAIN, IDS(4, 4, 2), true);
        else expect("z zA", 4, PLAIN, IDS(5, 4, 2), true);
        expect("zq", 2, (tn_encode_options){.no_prefix = true}, IDS(5, 0), false);
        size_t size;
        assert_memory_equal(tn_tokenizer_piece(opened, 4, &size), " z", 2);
    }
}

static void test_bad_gguf(void **state)
{
    (void)state;
    static const char *const text[] = {"a", "b", "c"};
    static const float score[] = {1, 2, 3};
    begin_gguf(0);
    assert_fails(open_made(made.size, "x.gguf"), TN_FORMAT,
                 "x.gguf: no vocabulary in it (key \"tokenizer.ggml.model\")");
    begin_gguf(1);
    put_text_key("tokenizer.ggml.model", "bert");
    assert_fails(open_made(made.size, "x.gguf"), TN_UNSUPPORTED,
                 "tokenizer.ggml.model is \"bert\"; \"llama\" and \"gpt2\" can be read");
    begin_gguf(1);
    put_text_key("tokenizer.ggml.model", "llama");
    assert_fails(open_made(made.size, "x.gguf"), TN_FORMAT, "\"tokenizer.ggml.tokens\" is missing");
    begin_gguf(2);
    put_text_key("tokenizer.ggml.model", "llama");
    put_strings("tokenizer.ggml.tokens", 0, text);
    assert_fails(open_made(made.size, "x.gguf"), TN_FORMAT, "a vocabulary of 0 pieces");
    begin_gguf(2);
    put_text_key("tokenizer.ggml.model", "llama");
    put_strings("tokenizer.ggml.tokens", 3, text);
    assert_fails(open_made(made.size, "x.gguf"), TN_FORMAT, "\"tokenizer.ggml.scores\" is missing");
    begin_gguf(3);
    put_text_key("tokenizer.ggml.model", "llama");
    put_strings("tokenizer.ggml.tokens", 3, text);
    put_scores(2, score);
    assert_fails(open_made(made.size, "x.gguf"), TN_FORMAT,
                 "\"tokenizer.ggml.scores\" has 2 entries, but there are 3 tokens");
    begin_gguf(4);
    put_text_key("tokenizer.ggml.model", "llama");
    put_strings("tokenizer.ggml.tokens", 3, text);
    put_scores(3, score);
    put_kinds(3, (const int32_t[]){1, 7, 1});
    assert_fails(open_made(made.size, "x.gguf"), TN_FORMAT, "token 1 has the unknown type 7");
    begin_gguf(4);
    put_text_key("tokenizer.ggml.model", "llama");
    put_strings("tokenizer.ggml.tokens", 3, text);
    put_scores(3, score);
    put_key("tokenizer.ggml.eos_token_id", 4), put_u32(&made, 3);
    assert_fails(open_made(made.size, "x.gguf"), TN_FORMAT,
                 "key \"tokenizer.ggml.eos_token_id\" is 3, outside 0 to 2");
    begin_gguf(3);
    put_text_key("tokenizer.ggml.model", "gpt2");
    put_strings("tokenizer.ggml.tokens", 3, text);
    put_text_key("tokenizer.ggml.pre", "llama-bpe");
    assert_fails(open_made(made.size, "x.gguf"), TN_UNSUPPORTED,
                 "tokenizer.ggml.pre is \"llama-bpe\"");
    begin_gguf(2);
    put_text_key("tokenizer.ggml.model", "gpt2");
    put_strings("tokenizer.ggml.tokens", 3, text);
    assert_fails(open_made(made.size, "x.gguf"), TN_FORMAT, "\"tokenizer.ggml.merges\" is missing");
    static const char *const merges[] = {"ab", " b", "a "};
    for (int i = 0; i < 3; i++) {
        begin_gguf(3);
        put_text_key("tokenizer.ggml.model", "gpt2");
        put_strings("tokenizer.ggml.tokens", 3, text);
        put_strings("tokenizer.ggml.merges", 1, merges + i);
        assert_fails(open_made(made.size, "x.gguf"), TN_FORMAT,
                     i < 2 ? "merge 0 is not two tokens" : "no token for byte 0x00");
    }
    begin_gguf(3);
    put_text_key("tokenizer.ggml.model", "gpt2");
    put_strings("tokenizer.ggml.tokens", 1, (const char *const[]){" "});
    put_strings("tokenizer.ggml.merges", 0, text);
    assert_fails(open_made(made.size, "x.gguf"), TN_FORMAT,
                 "token 0 has a character that stands for no byte");
}

/* ---- SentencePiece models ------------------------------------------------------------- */

static void put_varint(builder *b, uint64_t x)
{
    for (; x >= 128; x >>= 7) put_u8(b, (uint8_t)(x | 128));
    put_u8(b, (uint8_t)x);
}

/* Field `number` holding what `part` has, which is emptied. */
static void put_message(builder *b, uint64_t number, builder *part)
{
    put_varint(b, number << 3 | 2);
    put_varint(b, part->size);
    put(b, part->bytes, part->size);
    part->size = 0;
}

static void put_model_piece(const char *text, float score, int kind)
{
    builder piece = {0}, marked = {0};
    for (const char *at = text; *at; at++) {
        if (*at == ' ') put_text(&marked, "\xe2\x96\x81");
        else put_u8(&marked, (uint8_t)*at);
    }
    put_message(&piece, 1, &marked);
    put_varint(&piece, 2 << 3 | 5);
    put_f32(&piece, score);
    if (kind != TN_PIECE_NORMAL) put_varint(&piece, 3 << 3), put_varint(&piece, (uint64_t)kind);
    put_message(&made, 1, &piece);
    builder_free(&piece);
    builder_free(&marked);
}

static void make_model(int type, int strips, const char *table)
{
    builder part = {0}, bytes = {0};
    builder_free(&made);
    put_model_piece("<unk>", 0, TN_PIECE_UNKNOWN);
    put_model_piece("<s>", 0, TN_PIECE_CONTROL);
    put_model_piece("</s>", 0, TN_PIECE_CONTROL);
    for (int byte = 0; byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)byte);
        put_model_piece(name, 0, TN_PIECE_BYTE);
    }
    for (int i = 0; i < PIECES; i++) put_model_piece(pieces[i], scores[i], TN_PIECE_NORMAL);
    put_varint(&part, 3 << 3), put_varint(&part, (uint64_t)type);
    put_varint(&part, 43 << 3), put_varint(&part, UINT64_MAX); /* no padding: -1 */
    put_message(&made, 2, &part);
    if (*table) put_text(&bytes, table), put_message(&part, 2, &bytes);
    put_varint(&part, 4 << 3), put_varint(&part, (uint64_t)strips);
    put_message(&made, 3, &part);
    builder_free(&part);
    builder_free(&bytes);
}

static void test_sentencepiece_model(void **state)
{
    (void)state;
    make_model(2, 0, "");
    assert_ok(open_made(made.size, "tokenizer.model"));
    expect_sentencepiece();
    for (size_t size = 0; size < made.size; size++) { /* cut anywhere */
        tn_tokenizer_free(opened);
        opened = NULL;
        if (open_made(size, "tokenizer.model") == TN_OK)
            fail_msg("%zu of %zu bytes were taken for a model", size, made.size);
    }
    make_model(1, 0, "");
    assert_fails(open_made(made.size, "x.model"), TN_UNSUPPORTED,
                 "x.model: a SentencePiece model of type Unigram");
    make_model(2, 1, "");
    assert_fails(open_made(made.size, "x.model"), TN_UNSUPPORTED, "removes repeated spaces");
    make_model(2, 0, "table");
    assert_fails(open_made(made.size, "x.model"), TN_UNSUPPORTED, "by a table of characters");
    make_model(2, 0, "");
    put_model_piece("x", 0, 9);
    assert_fails(open_made(made.size, "x.model"), TN_FORMAT, "has the unknown type 9");
}

/* ---- saving and directories ---------------------------------------------------------- */

static void reopen(const char *path)
{
    tn_tokenizer *again;
    assert_ok(tn_tokenizer_save(opened, path));
    assert_ok(tn_tokenizer_open(path, &again));
    tn_tokenizer_free(opened);
    opened = again;
}

static void test_saving(void **state)
{
    (void)state;
    char *directory = make_directory();
    const char *path = join(directory, "tokenizer.json");
    tn_tokenizer *none;
    assert_fails(tn_tokenizer_open(directory, &none), TN_IO,
                 "no tokenizer.json, tokenizer.model or tokenizer.bin is in this directory");
    assert_null(none);
    assert_fails(tn_tokenizer_open(path, &none), TN_IO, "tokenizer.json");
    make_llama2c(PIECES, pieces, scores);
    write_file(join(directory, "tokenizer.bin"), made.bytes, made.size);
    assert_ok(tn_tokenizer_open(directory, &opened));
    expect_sentencepiece();
    reopen(path);
    expect_sentencepiece();
    tn_tokenizer_free(opened);
    assert_ok(tn_tokenizer_open(directory, &opened)); /* now the .json */
    expect_sentencepiece();
    tn_tokenizer_free(opened);
    assert_ok(tn_tokenizer_create_bytes(&opened));
    reopen(path);
    expect_bytes();
    make_hugging_face(BYTE_LEVEL, "", TOKENS, MERGES, ADDED);
    assert_ok(open_made(made.size, "tokenizer.json"));
    reopen(path);
    expect_byte_bpe();
    opened->begin = 260; /* what their file cannot say is kept too */
    opened->wants_begin = true;
    reopen(path);
    assert_int_equal(tn_tokenizer_begin(opened), 260);
    assert_true(tn_tokenizer_wants_begin(opened));
    assert_ok(tn_tokenizer_set(opened, 256, "the", 3, 0, TN_PIECE_NORMAL)); /* now there twice */
    assert_fails(tn_tokenizer_save(opened, path), TN_INVALID, "has pieces that JSON cannot hold");
    assert_ok(tn_tokenizer_set(opened, 256, "th", 2, 0, TN_PIECE_NORMAL));
    assert_fails(tn_tokenizer_save(opened, join(directory, "no/tokenizer.json")), TN_IO,
                 "no/tokenizer.json");
    remove_directory(directory);
}

/* ---- merging against the plain definition -------------------------------------------- */

/* Repeats: of all adjacent pairs whose joined text is a piece, merge the best (of equal ones the
 * leftmost). Quadratic and obviously right. Returns the number of stretches; `size` holds them. */
static int merge_plainly(const tn_tokenizer *t, const uint8_t *text, int count, int *size)
{
    for (;;) {
        int best = -1, at = 0;
        float best_score = 0;
        for (int i = 0; i + 1 < count; at += size[i], i++) {
            int32_t id = tn_tokenizer_lookup(t, text + at, (size_t)(size[i] + size[i + 1]));
            if (id < 0 || (best >= 0 && t->piece[id].score <= best_score)) continue;
            best = i;
            best_score = t->piece[id].score;
        }
        if (best < 0) return count;
        size[best] += size[best + 1];
        memmove(size + best + 1, size + best + 2, (size_t)(count - best - 2) * sizeof *size);
        count--;
    }
}

static void test_merging(void **state)
{
    (void)state;
    enum { ROUNDS = 60, VOCABULARY = 40, LENGTH = 200 };
    static const char *const letters[] = {"a", "b", "c", " ", "\xc3\xa9"};
    uint64_t index = 0;
    for (int round = 0; round < ROUNDS; round++) {
        tn_tokenizer *t;
        assert_ok(tn_tokenizer_make(TN_TOKENIZER_SENTENCEPIECE, "random", VOCABULARY, &t));
        opened = t;
        for (int32_t id = 0; id < VOCABULARY; id++) {
            char text[64] = "";
            int parts = id < 5 ? 1 : 2 + (int)tn_random_below(1, 0, index++, 4);
            for (int p = 0; p < parts; p++)
                strcat(text, letters[id < 5 ? (uint64_t)id : tn_random_below(1, 0, index++, 5)]);
            float score = (float)tn_random_below(1, 0, index++, 8); /* many ties */
            assert_ok(tn_tokenizer_set(t, id, text, strlen(text), score, TN_PIECE_NORMAL));
        }
        assert_ok(tn_sentencepiece_finish(t));
        uint8_t text[LENGTH * 2];
        int size[LENGTH], used = 0, count = 0;
        for (; count < LENGTH; count++) {
            const char *letter = letters[tn_random_below(1, 0, index++, 5)];
            size[count] = (int)strlen(letter);
            memcpy(text + used, letter, strlen(letter));
            used += size[count];
        }
        /* ten times over, so that words are met again */
        builder longer = {0};
        for (int i = 0; i < 10; i++) put(&longer, text, (size_t)used);
        int sizes[LENGTH * 10], wanted_count = 0;
        for (int i = 0; i < 10; i++, wanted_count += count)
            memcpy(sizes + wanted_count, size, sizeof size);
        wanted_count = merge_plainly(t, longer.bytes, wanted_count, sizes);
        int32_t *ids;
        int64_t is_count;
        assert_ok(tn_tokenizer_encode(t, (const char *)longer.bytes, longer.size, PLAIN, &ids,
                                      &is_count));
        assert_int_equal(is_count, wanted_count);
        for (int i = 0, at = 0; i < wanted_count; at += sizes[i], i++)
            assert_int_equal(ids[i], tn_tokenizer_lookup(t, longer.bytes + at, (size_t)sizes[i]));
        free(ids);
        builder_free(&longer);
        tn_tokenizer_free(t);
        opened = NULL;
    }
}

/* Any bytes whatever come back, from a tokenizer that has all bytes. */
static void test_any_bytes(void **state)
{
    (void)state;
    char text[3000];
    for (uint64_t i = 0; i < sizeof text; i++)
        text[i] = (char)(tn_random_below(2, 0, 2 * i, 3) ? tn_random_below(2, 0, 2 * i + 1, 256)
                                                         : (uint64_t) "ab c\xc3\xbc"[i % 6]);
    for (int kind = 0; kind < 3; kind++) {
        if (kind == 0) assert_ok(tn_tokenizer_create_bytes(&opened));
        if (kind == 1) make_llama2c(PIECES, pieces, scores);
        if (kind == 2) make_hugging_face(BYTE_LEVEL, "", TOKENS, MERGES, ADDED);
        if (kind > 0) assert_ok(open_made(made.size, "x"));
        for (size_t size = 0; size <= sizeof text; size += 1 + size / 8) {
            int32_t *ids;
            int64_t count;
            char *back;
            size_t length;
            assert_ok(tn_tokenizer_encode(opened, text, size, PLAIN, &ids, &count));
            assert_ok(tn_tokenizer_decode_all(opened, ids, count, &back, &length));
            assert_int_equal(length, size);
            assert_memory_equal(back, text, size);
            free(ids);
            free(back);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_bytes, clean_up),
        cmocka_unit_test_teardown(test_llama2c, clean_up),
        cmocka_unit_test_teardown(test_bad_llama2c, clean_up),
        cmocka_unit_test_teardown(test_json, clean_up),
        cmocka_unit_test_teardown(test_hugging_face, clean_up),
        cmocka_unit_test(test_letters),
        cmocka_unit_test_teardown(test_gguf, clean_up),
        cmocka_unit_test_teardown(test_bad_gguf, clean_up),
        cmocka_unit_test_teardown(test_sentencepiece_model, clean_up),
        cmocka_unit_test_teardown(test_saving, clean_up),
        cmocka_unit_test_teardown(test_merging, clean_up),
        cmocka_unit_test_teardown(test_any_bytes, clean_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
