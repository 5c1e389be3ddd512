/* The published vocabularies of Llama 2 and GPT-2 against llama.cpp's test vectors and against the
 * ids that sentencepiece and Hugging Face tokenizers give for whole books (golden_ids.py). */
#include "data/byte_builder.h"

#include "base/file.h"
#include "base/hash.h"
#include "tenon/tokenizer.h"

#define TOKENIZERS "inference/tokenizers/"

static void open_shared(const char *name, tn_tokenizer **t)
{
    assert_ok(tn_tokenizer_open(shared_data(name), t));
}

/* ---- llama.cpp's vectors ------------------------------------------------------------- */

/* Cases are separated by a line; line i of the other file has the ids of case i. */
static void check_vectors(const char *tokenizer, const char *vectors)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    enum { MOST = 1 << 20, CASES = 46 };
    char name[256], *input, *output;
    size_t size;
    tn_tokenizer *t;
    open_shared(tokenizer, &t);
    snprintf(name, sizeof name, "%s.inp", vectors);
    assert_ok(tn_file_read(shared_data(name), MOST, &input, &size));
    snprintf(name, sizeof name, "%s.out", vectors);
    assert_ok(tn_file_read(shared_data(name), MOST, &output, &size));
    int cases = 0;
    for (char *at = input, *line = output, *end; (end = strstr(at, separator)) != NULL; cases++) {
        int32_t *ids;
        int64_t count, i = 0;
        assert_ok(
            tn_tokenizer_encode(t, at, (size_t)(end - at), (tn_encode_options){0}, &ids, &count));
        char *newline = strchr(line, '\n'), *rest;
        assert_non_null(newline);
        *newline = '\0';
        for (long id; id = strtol(line, &rest, 10), rest != line; line = rest, i++)
            if (i >= count || ids[i] != id)
                fail_msg("%s, case %d: id %d", tokenizer, cases, (int)i);
        assert_int_equal(i, count);
        free(ids);
        line = newline + 1;
        at = end + sizeof separator - 1;
    }
    assert_int_equal(cases, CASES);
    free(input);
    free(output);
    tn_tokenizer_free(t);
}

static void test_vectors(void **state)
{
    (void)state;
    check_vectors(TOKENIZERS "ggml-vocab-llama-spm.gguf", TOKENIZERS "ggml-vocab-llama-spm.gguf");
    check_vectors(TOKENIZERS "llama-2/tokenizer.bin", TOKENIZERS "ggml-vocab-llama-spm.gguf");
    check_vectors(TOKENIZERS "llama-2/tokenizer.model", TOKENIZERS "ggml-vocab-llama-spm.gguf");
    check_vectors(TOKENIZERS "ggml-vocab-gpt-2.gguf", TOKENIZERS "ggml-vocab-gpt-2.gguf");
    check_vectors(TOKENIZERS "gpt-2/tokenizer.json", TOKENIZERS "ggml-vocab-gpt-2.gguf");
}

/* ---- whole texts --------------------------------------------------------------------- */

typedef struct golden {
    int64_t count;
    uint64_t hash;
} golden;

static const struct {
    const char *text;
    golden gpt2, llama;
} texts[] = {
    {"botchan.txt", {73660, 0x5603a098542a6d7b}, {78912, 0xcc0e4e8c38abf9a6}},
    {"frankenstein.txt", {93562, 0xbaeacb6f5c7dc8a6}, {101630, 0x3acbfb16cdb82a99}},
    {"tanaka-train.en", {455077, 0x886676f9a02014f4}, {471233, 0xb92610437552a052}},
    {"wiki.test.raw", {286221, 0x71dab1e5b175239c}, {335687, 0x798df6a29ce15af4}},
    {"wiki.valid.raw", {249887, 0x83eacd62553d968e}, {295042, 0x47109993ffd0ca73}},
};
enum { TEXTS = sizeof texts / sizeof *texts };

/* Encodes a text, compares with the golden ids (if any), and decodes it again. */
static void check_text(const tn_tokenizer *t, int which, const golden *wanted)
{
    enum { MOST = 1 << 24 };
    char name[128], *text, *back;
    size_t size, length;
    int32_t *ids;
    int64_t count;
    snprintf(name, sizeof name, "inference/text/%s", texts[which].text);
    assert_ok(tn_file_read(shared_data(name), MOST, &text, &size));
    assert_ok(tn_tokenizer_encode(t, text, size, (tn_encode_options){0}, &ids, &count));
    if (wanted) {
        assert_int_equal(count, wanted->count);
        assert_true(tn_fnv1a(ids, (size_t)count * sizeof *ids) == wanted->hash);
    }
    assert_ok(tn_tokenizer_decode_all(t, ids, count, &back, &length));
    assert_int_equal(length, size);
    assert_memory_equal(back, text, size);
    free(ids);
    free(back);
    free(text);
}

static void check_texts(const char *tokenizer, bool gpt2)
{
    tn_tokenizer *t, *again;
    open_shared(tokenizer, &t);
    for (int i = 0; i < TEXTS; i++) check_text(t, i, gpt2 ? &texts[i].gpt2 : &texts[i].llama);
    char *directory = make_directory(); /* saved and opened again it gives the same */
    const char *path = join(directory, "tokenizer.json");
    assert_ok(tn_tokenizer_save(t, path));
    assert_ok(tn_tokenizer_open(directory, &again));
    assert_int_equal(tn_tokenizer_size(again), tn_tokenizer_size(t));
    assert_int_equal(tn_tokenizer_begin(again), tn_tokenizer_begin(t));
    assert_int_equal(tn_tokenizer_end(again), tn_tokenizer_end(t));
    check_text(again, 0, gpt2 ? &texts[0].gpt2 : &texts[0].llama);
    remove_directory(directory);
    tn_tokenizer_free(again);
    tn_tokenizer_free(t);
}

static void test_llama_gguf(void **state)
{
    (void)state;
    check_texts(TOKENIZERS "ggml-vocab-llama-spm.gguf", false);
}

static void test_llama2c(void **state)
{
    (void)state;
    check_texts(TOKENIZERS "llama-2/tokenizer.bin", false);
}

static void test_sentencepiece_model(void **state)
{
    (void)state;
    check_texts(TOKENIZERS "llama-2", false); /* the directory: finds tokenizer.model */
}

static void test_gpt2_gguf(void **state)
{
    (void)state;
    check_texts(TOKENIZERS "ggml-vocab-gpt-2.gguf", true);
}

static void test_gpt2_json(void **state)
{
    (void)state;
    check_texts(TOKENIZERS "gpt-2", true);
}

static void test_small_vocabulary(void **state)
{
    (void)state;
    tn_tokenizer *t;
    open_shared("inference/tok512.bin", &t);
    assert_int_equal(tn_tokenizer_size(t), 512);
    for (int i = 0; i < TEXTS; i++) check_text(t, i, NULL);
    tn_tokenizer_free(t);
}

/* What is no tokenizer says so, and a kind that is not known here too. */
static void test_other_files(void **state)
{
    (void)state;
    tn_tokenizer *t;
    assert_fails(tn_tokenizer_open(shared_data(TOKENIZERS "ggml-vocab-bert-bge.gguf"), &t),
                 TN_UNSUPPORTED, "tokenizer.ggml.model is \"bert\"");
    assert_fails(tn_tokenizer_open(shared_data(TOKENIZERS "sentencepiece/test_model.model"), &t),
                 TN_UNSUPPORTED, "of type Unigram");
    assert_fails(tn_tokenizer_open(shared_data(TOKENIZERS "llama-3/tokenizer.model"), &t),
                 TN_FORMAT, "not a tokenizer that is known here");
    assert_fails(tn_tokenizer_open(shared_data("inference/stories260K.bin"), &t), TN_FORMAT,
                 "stories260K.bin: not a tokenizer that is known here");
    assert_fails(tn_tokenizer_open(shared_data("inference/gpt-nano-sort-model.json"), &t),
                 TN_FORMAT, "field \"type\" is missing");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_llama_gguf),
        cmocka_unit_test(test_llama2c),
        cmocka_unit_test(test_gpt2_gguf),
        cmocka_unit_test(test_sentencepiece_model),
        cmocka_unit_test(test_gpt2_json),
        cmocka_unit_test(test_small_vocabulary),
        cmocka_unit_test(test_other_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
