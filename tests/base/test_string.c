/* Growing text, edit distance, patterns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/string.h"

static void test_growing(void **state)
{
    (void)state;
    tn_string s = {0};
    assert_string_equal(tn_string_text(&s), "");
    tn_string_add(&s, "a");
    tn_string_add_char(&s, 'b');
    tn_string_add_bytes(&s, "cd\0e", 4);
    assert_int_equal(s.length, 6);
    tn_string_clear(&s);
    for (int i = 0; i < 1000; i++) tn_string_format(&s, "%03d,", i);
    assert_int_equal(s.length, 4000);
    assert_memory_equal(tn_string_text(&s) + 4 * 517, "517,", 4);
    assert_int_equal(tn_string_status(&s), TN_OK);
    char *taken = tn_string_take(&s);
    assert_int_equal(strlen(taken), 4000);
    assert_int_equal(s.length, 0);
    free(taken);
    taken = tn_string_take(&s);
    assert_string_equal(taken, "");
    free(taken);
    tn_string_free(&s);
}

static void test_out_of_memory_sticks(void **state)
{
    (void)state;
    tn_string s = {0};
    tn_string_add(&s, "kept");
    char c = 'x';
    tn_string_add_bytes(&s, &c, SIZE_MAX); /* the sum overflows: refused before anything is read */
    tn_string_add(&s, "dropped");
    assert_int_equal(tn_string_status(&s), TN_MEMORY);
    assert_string_equal(tn_string_text(&s), "kept");
    assert_null(tn_string_take(&s));
}

static void test_edit_distance(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        int distance;
    } known[] = {
        {"", "", 0},
        {"", "abc", 3},
        {"abc", "", 3},
        {"kitten", "sitting", 3},
        {"flaw", "lawn", 2},
        {"infer", "infer", 0},
        {"ifner", "infer", 1},
        {"train", "trian", 1},
        {"ab", "ba", 1},
        {"ca", "abc", 3},
        {"generate", "genrate", 1},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        assert_int_equal(tn_edit_distance(known[i].a, known[i].b), known[i].distance);
        assert_int_equal(tn_edit_distance(known[i].b, known[i].a), known[i].distance);
    }
    char longest[1000];
    memset(longest, 'a', 999);
    longest[999] = '\0';
    assert_int_equal(tn_edit_distance(longest, "a"), 254);
}

static void test_closest(void **state)
{
    (void)state;
    static const char *const verb[] = {"generate", "train", "info", "demo", "infer"};
    assert_string_equal(tn_closest("genrate", verb, 5), "generate");
    assert_string_equal(tn_closest("gen", verb, 5), "generate");
    assert_string_equal(tn_closest("infre", verb, 5), "infer");
    assert_string_equal(tn_closest("trian", verb, 5), "train");
    assert_string_equal(tn_closest("infos", verb, 5), "info");
    assert_null(tn_closest("segment", verb, 5));
    assert_null(tn_closest("xy", verb, 5));
    assert_null(tn_closest("", verb, 5));
    assert_null(tn_closest("a", NULL, 0));
}

static void test_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *text;
        bool fits;
    } known[] = {
        {"", "", true},
        {"", "a", false},
        {"*", "", true},
        {"*", "anything.at.all", true},
        {"a?c", "abc", true},
        {"a?c", "ac", false},
        {"*.weight", "layer.0.weight", true},
        {"*.weight", "layer.0.weights", false},
        {"layer.*.weight", "layer.0.attention.weight", true},
        {"layer.*", "layer", false},
        {"*a*b*c", "xxaxxbxxc", true},
        {"*a*b*c", "xxaxxcxxb", false},
        {"**", "x", true},
        {"*aab", "aaaab", true},
        {"a*", "a", true},
        {"?", "", false},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_int_equal(tn_glob_match(known[i].pattern, known[i].text), known[i].fits);
    /* no exponential time: a naive matcher would not come back from this */
    char text[2001];
    memset(text, 'a', 2000);
    text[2000] = '\0';
    assert_false(tn_glob_match("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", text));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_growing),       cmocka_unit_test(test_out_of_memory_sticks),
        cmocka_unit_test(test_edit_distance), cmocka_unit_test(test_closest),
        cmocka_unit_test(test_patterns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
