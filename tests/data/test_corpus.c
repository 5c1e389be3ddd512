/* Text corpora: what is read, where it is split, how it is sampled, and what is refused. */
#include "data/byte_builder.h"

#include <sys/stat.h>

#include "data/tokenizer.h"
#include "tenon/data.h"

static tn_tokenizer *bytes_tokenizer;
static tn_corpus *corpus;

static int set_up(void **state)
{
    (void)state;
    return tn_tokenizer_create_bytes(&bytes_tokenizer) == TN_OK ? 0 : -1;
}

static int clean_up(void **state)
{
    (void)state;
    tn_corpus_free(corpus);
    tn_tokenizer_free(bytes_tokenizer);
    corpus = NULL;
    bytes_tokenizer = NULL;
    return 0;
}

enum { BEGIN = 256, END = 257 };

/* A part's tokens as text, begin and end as < and >. */
static void expect_part(tn_corpus_part part, const char *text)
{
    int64_t count = tn_corpus_tokens(corpus, part);
    int32_t *ids = malloc(((size_t)count + 1) * sizeof *ids);
    assert_non_null(ids);
    assert_ok(tn_corpus_read(corpus, part, 0, count, ids));
    char *is = calloc((size_t)count + 1, 1);
    assert_non_null(is);
    int64_t plain = 0;
    for (int64_t i = 0; i < count; i++) {
        is[i] = ids[i] == BEGIN ? '<' : ids[i] == END ? '>' : (char)ids[i];
        plain += ids[i] < 256;
    }
    assert_string_equal(is, text);
    assert_int_equal(tn_corpus_bytes(corpus, part), plain);
    free(ids);
    free(is);
}

static void open_text(const char *text, double held_out)
{
    tn_corpus_free(corpus);
    assert_ok(tn_corpus_open_memory(text, strlen(text), "text", bytes_tokenizer,
                                    (tn_corpus_options){.held_out = held_out}, &corpus));
}

static void test_split(void **state)
{
    (void)state;
    open_text("aaa\nbbb\nccc\nddd\n", 0.5); /* at a border already */
    expect_part(TN_CORPUS_TRAIN, "aaa\nbbb\n");
    expect_part(TN_CORPUS_HELD_OUT, "ccc\nddd\n>");
    assert_int_equal(tn_corpus_documents(corpus), 1);
    open_text("aaa\nbbb\nccc\nddd\n", 0.6); /* inside "bbb": moves behind its line */
    expect_part(TN_CORPUS_TRAIN, "aaa\nbbb\n");
    open_text("aaa\nbbb\nccc\nddd\n", 0.4); /* inside "ccc" */
    expect_part(TN_CORPUS_TRAIN, "aaa\nbbb\nccc\n");
    expect_part(TN_CORPUS_HELD_OUT, "ddd\n>");
    open_text("aaa\nbbb\n", -1); /* nothing held out */
    expect_part(TN_CORPUS_TRAIN, "aaa\nbbb\n>");
    expect_part(TN_CORPUS_HELD_OUT, "");
    char lines[1001];
    for (int i = 0; i < 1000; i++) lines[i] = i % 10 == 9 ? '\n' : 'x';
    lines[1000] = '\0';
    open_text(lines, 0); /* the default, 1/20 */
    assert_int_equal(tn_corpus_bytes(corpus, TN_CORPUS_HELD_OUT), 50);
    assert_int_equal(tn_corpus_tokens(corpus, TN_CORPUS_HELD_OUT), 51);
}

static void test_directory(void **state)
{
    (void)state;
    char *directory = make_directory();
    write_file(join(directory, "b.txt"), "bb\n", 3);
    write_file(join(directory, "a.txt"), "a\na\n", 4);
    write_file(join(directory, "empty.txt"), "", 0);
    write_file(join(directory, "z.c"), "zz\n", 3);
    write_file(join(directory, ".hidden"), "hidden\n", 7);
    write_file(join(directory, "image.png"), "x\0y\n", 4);
    assert_int_equal(mkdir(join(directory, "c"), 0777), 0);
    assert_int_equal(mkdir(join(directory, ".git"), 0777), 0);
    write_file(join(directory, ".git/x.txt"), "git\n", 4);
    write_file(join(directory, "c/d.txt"), "d\n", 2);
    assert_int_equal(symlink("b.txt", join(directory, "link.txt")), 0);
    const tn_corpus_options whole = {.held_out = -1};
    assert_ok(tn_corpus_open(directory, bytes_tokenizer, whole, &corpus));
    expect_part(TN_CORPUS_TRAIN, "a\na\n>bb\n>d\n>zz\n>");
    assert_int_equal(tn_corpus_documents(corpus), 4);
    tn_corpus_free(corpus);
    tn_corpus_options some = {.held_out = -1, .pattern = "*.txt"};
    assert_ok(tn_corpus_open(directory, bytes_tokenizer, some, &corpus));
    expect_part(TN_CORPUS_TRAIN, "a\na\n>bb\n>d\n>");
    tn_corpus_free(corpus);
    /* 9 bytes: held out from byte 5 on, which is inside bb: so from d on */
    tn_corpus_options split = {.held_out = 0.45, .pattern = "*.txt"};
    assert_ok(tn_corpus_open(directory, bytes_tokenizer, split, &corpus));
    expect_part(TN_CORPUS_TRAIN, "a\na\n>bb\n>");
    expect_part(TN_CORPUS_HELD_OUT, "d\n>");
    tn_corpus_free(corpus);
    /* a file that is asked for by name is taken as it is */
    assert_ok(tn_corpus_open(join(directory, "image.png"), bytes_tokenizer, whole, &corpus));
    assert_int_equal(tn_corpus_tokens(corpus, TN_CORPUS_TRAIN), 5);
    tn_corpus_free(corpus);
    corpus = NULL;
    some.pattern = "*.md";
    assert_fails(tn_corpus_open(directory, bytes_tokenizer, some, &corpus), TN_FORMAT,
                 "no text in this directory fits *.md");
    some.pattern = "*.png";
    assert_fails(tn_corpus_open(directory, bytes_tokenizer, some, &corpus), TN_FORMAT,
                 "(all files have NUL bytes)");
    assert_fails(tn_corpus_open(join(directory, "empty.txt"), bytes_tokenizer, whole, &corpus),
                 TN_FORMAT, "empty.txt: the text is empty");
    assert_fails(tn_corpus_open(join(directory, "nothing"), bytes_tokenizer, whole, &corpus), TN_IO,
                 "nothing");
    assert_null(corpus);
    remove_directory(directory);
}

/* A tokenizer that wants its begin, and has more than 65536 ids, so that tokens take 4 bytes. */
static void test_wide_tokens(void **state)
{
    (void)state;
    enum { VOCABULARY = 70000, LAST = VOCABULARY - 1 };
    tn_tokenizer *t;
    assert_ok(tn_tokenizer_make(TN_TOKENIZER_SENTENCEPIECE, "wide", VOCABULARY, &t));
    assert_ok(tn_tokenizer_set(t, 5, "a", 1, 0, TN_PIECE_NORMAL));
    assert_ok(tn_tokenizer_set(t, LAST, "b", 1, 0, TN_PIECE_NORMAL));
    assert_ok(tn_tokenizer_set(t, 7, "\n", 1, 0, TN_PIECE_NORMAL));
    assert_ok(tn_tokenizer_set(t, 8, "<s>", 3, 0, TN_PIECE_CONTROL));
    t->begin = 8;
    t->wants_begin = true;
    assert_ok(tn_sentencepiece_finish(t));
    assert_ok(tn_corpus_open_memory("ab\nba\n", 6, "text", t, (tn_corpus_options){.held_out = 0.5},
                                    &corpus));
    static const int32_t wanted[] = {8, 5, LAST, 7};
    int32_t ids[4];
    assert_int_equal(tn_corpus_tokens(corpus, TN_CORPUS_TRAIN), 4);
    assert_ok(tn_corpus_read(corpus, TN_CORPUS_TRAIN, 0, 4, ids));
    assert_memory_equal(ids, wanted, sizeof wanted);
    assert_int_equal(tn_corpus_tokens(corpus, TN_CORPUS_HELD_OUT), 3); /* no begin inside a text */
    assert_ok(tn_corpus_read(corpus, TN_CORPUS_HELD_OUT, 0, 3, ids));
    assert_int_equal(ids[0], LAST);
    tn_tokenizer_free(t);
}

/* Longer than the pieces that bytes are encoded in. */
static void test_large(void **state)
{
    (void)state;
    enum { SIZE = (1 << 21) + 12345 };
    char *text = malloc(SIZE);
    int32_t *ids = malloc((SIZE + 1) * sizeof *ids);
    assert_true(text && ids);
    for (size_t i = 0; i < SIZE; i++) text[i] = (char)(i * 7 + i / 1000);
    assert_ok(tn_corpus_open_memory(text, SIZE, "text", bytes_tokenizer,
                                    (tn_corpus_options){.held_out = -1}, &corpus));
    assert_int_equal(tn_corpus_tokens(corpus, TN_CORPUS_TRAIN), SIZE + 1);
    assert_ok(tn_corpus_read(corpus, TN_CORPUS_TRAIN, 0, SIZE + 1, ids));
    for (size_t i = 0; i < SIZE; i++)
        if (ids[i] != (uint8_t)text[i]) fail_msg("token %zu", i);
    assert_int_equal(ids[SIZE], END);
    free(text);
    free(ids);
}

static void test_batches(void **state)
{
    (void)state;
    enum { B = 4, L = 6, STEPS = 200 };
    char text[101];
    for (int i = 0; i < 100; i++) text[i] = (char)(i + 1);
    text[100] = '\0';
    assert_ok(tn_corpus_open_memory(text, 100, "text", bytes_tokenizer,
                                    (tn_corpus_options){.held_out = -1}, &corpus));
    int32_t tokens[B * L], targets[B * L], again[2 * B * L];
    bool seen[128] = {false};
    int different = 0;
    for (int64_t step = 0; step < STEPS; step++) {
        assert_ok(tn_corpus_batch(corpus, TN_CORPUS_TRAIN, 3, step, B, L, tokens, targets));
        for (int b = 0; b < B; b++) {
            seen[tokens[b * L]] = true;
            for (int i = 0; i < L; i++) {
                int32_t next = tokens[b * L + i] == 100 ? END : tokens[b * L + i] + 1;
                assert_int_equal(targets[b * L + i], next);
                if (i > 0) assert_int_equal(tokens[b * L + i], targets[b * L + i - 1]);
            }
        }
        /* the same again, from a larger batch too: a window does not depend on the others */
        assert_ok(tn_corpus_batch(corpus, TN_CORPUS_TRAIN, 3, step, 2 * B, L, again, NULL));
        assert_memory_equal(again, tokens, sizeof tokens);
        assert_ok(tn_corpus_batch(corpus, TN_CORPUS_TRAIN, 3, step, B, L, NULL, again));
        assert_memory_equal(again, targets, sizeof targets);
        assert_ok(tn_corpus_batch(corpus, TN_CORPUS_TRAIN, 4, step, B, L, again, NULL));
        different += memcmp(again, tokens, sizeof tokens) != 0;
    }
    assert_true(different > STEPS * 9 / 10); /* another seed, other windows */
    for (int first = 1; first <= 95; first++)
        if (!seen[first]) fail_msg("no window begins at %d", first); /* 800 draws of 95 places */
    for (int first = 96; first < 128; first++) assert_false(seen[first]);
}

static void test_bad_use(void **state)
{
    (void)state;
    int32_t ids[16];
    open_text("abc\ndef\n", 0.5);
    assert_fails(tn_corpus_read(corpus, TN_CORPUS_TRAIN, 3, 2, ids), TN_INVALID,
                 "text: 2 tokens from 3 on of the training part are wanted, but it has 4");
    assert_fails(tn_corpus_read(corpus, TN_CORPUS_TRAIN, -1, 1, ids), TN_INVALID, "but it has 4");
    assert_fails(tn_corpus_read(corpus, TN_CORPUS_TRAIN, 1, INT64_MAX, ids), TN_INVALID, "has 4");
    assert_ok(tn_corpus_read(corpus, TN_CORPUS_TRAIN, 4, 0, NULL));
    assert_ok(
        tn_corpus_batch(corpus, TN_CORPUS_HELD_OUT, 0, 0, 1, 4, ids, NULL)); /* the only one */
    assert_fails(tn_corpus_batch(corpus, TN_CORPUS_HELD_OUT, 0, 0, 1, 5, ids, NULL), TN_INVALID,
                 "windows of 5 tokens and a target, but the held-out part has only 5 tokens");
    assert_fails(tn_corpus_batch(corpus, TN_CORPUS_TRAIN, 0, 0, 0, 2, ids, NULL), TN_INVALID,
                 "a batch of 0 windows of 2 tokens");
    assert_fails(tn_corpus_batch(corpus, TN_CORPUS_TRAIN, 0, 0, 1, 0, ids, NULL), TN_INVALID,
                 "a batch of 1 windows of 0 tokens");
    tn_corpus_free(corpus);
    corpus = NULL;
    static const struct {
        const char *text;
        tn_corpus_options options;
        tn_status status;
        const char *message;
    } bad[] = {
        {"", {.held_out = 0}, TN_FORMAT, "text: the text is empty"},
        {"abc", {.held_out = 1}, TN_INVALID, "a held-out fraction of 1 leaves nothing"},
        {"abc",
         {.held_out = -1, .least_tokens = 5},
         TN_FORMAT,
         "text: the training part of the text has 4 tokens (3 bytes), but 5 are needed: give more "
         "text or a shorter length"},
        {"abcdefgh",
         {.held_out = 0.5},
         TN_FORMAT,
         "the held-out part of the text has 0 tokens (0 bytes), but 2 are needed: give more text "
         "or a shorter length, or hold out more"},
        {"\nabcdefgh", {.held_out = 0.999}, TN_FORMAT, "the training part of the text has"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_fails(tn_corpus_open_memory(bad[i].text, strlen(bad[i].text), "text",
                                           bytes_tokenizer, bad[i].options, &corpus),
                     bad[i].status, bad[i].message);
        assert_null(corpus);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_split, set_up, clean_up),
        cmocka_unit_test_setup_teardown(test_directory, set_up, clean_up),
        cmocka_unit_test_setup_teardown(test_wide_tokens, set_up, clean_up),
        cmocka_unit_test_setup_teardown(test_large, set_up, clean_up),
        cmocka_unit_test_setup_teardown(test_batches, set_up, clean_up),
        cmocka_unit_test_setup_teardown(test_bad_use, set_up, clean_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
