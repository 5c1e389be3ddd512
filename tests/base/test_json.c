/* JSON that is wrong in every way a file can be, and the message for each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"

static tn_json document;

static void parse(const char *text)
{
    tn_json_free(&document);
    if (tn_json_parse("config.json", text, strlen(text), &document) != TN_OK)
        fail_msg("%s", tn_message());
}

static int clean_up(void **state)
{
    (void)state;
    tn_json_free(&document);
    return 0;
}

static void refuse(const char *text, size_t size, const char *message)
{
    tn_json json;
    assert_int_equal(tn_json_parse("x.json", text, size, &json), TN_FORMAT);
    if (strncmp(tn_message(), message, strlen(message)) != 0)
        fail_msg("expected \"%s\", got \"%s\"", message, tn_message());
    assert_null(json.root);
}

static void test_bad_syntax(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"", "x.json:1: not valid JSON"},
        {"{\n\"a\": 1,\n}", "x.json:3: not valid JSON"},
        {"{\"a\": 1, \"a\": 2}", "x.json:1: not valid JSON: duplicate"},
        {"{\"a\": NaN}", "x.json:1: not valid JSON"},
        {"[1,\n2,\n3", "x.json:3: not valid JSON"},
        {"{} {}", "x.json:1: not valid JSON"},
        {"[99999999999999999999]", "x.json:1: not valid JSON: too big integer"},
        {"[1e999]", "x.json:1: not valid JSON: real number overflow"},
        {"[\"\xff\"]", "x.json:1: not valid JSON"},
        {"[\"a\\u0000\"]", "x.json:1: not valid JSON"},
        {"\"open", "x.json:1: not valid JSON"},
        {"\"\\", "x.json:1: not valid JSON"},
        {"]]]]", "x.json:1: not valid JSON"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refuse(bad[i].text, strlen(bad[i].text), bad[i].message);
    refuse("[1]\0", 4, "x.json:1: not valid JSON: a NUL byte");
    refuse("{\n\"a\": 1\0}", 11, "x.json:2: not valid JSON: a NUL byte");
}

static void test_depth(void **state)
{
    (void)state;
    static char text[100000];
    memset(text, '[', 50000);
    memset(text + 50000, ']', 50000);
    refuse(text, sizeof text, "x.json:1: JSON nested deeper than 64 levels");
    refuse(text, 50000, "x.json:1: JSON nested deeper than 64 levels");
    tn_json json;
    assert_int_equal(tn_json_parse("x", text + 50000 - 64, 128, &json), TN_OK);
    tn_json_free(&json);
    refuse(text + 50000 - 65, 130, "x.json:1: JSON nested");
    /* brackets inside strings do not count */
    memset(text, '[', 1000);
    memcpy(text, "\"\\\"", 3);
    text[999] = '"';
    assert_int_equal(tn_json_parse("x", text, 1000, &json), TN_OK);
    tn_json_free(&json);
}

static void test_getters(void **state)
{
    (void)state;
    parse("{\"s\": \"text\", \"i\": 12, \"w\": 3.0, \"r\": 0.5, \"t\": true, \"n\": null, \"o\": "
          "{}, \"a\": [1],"
          " \"c\": \"blue\"}");
    const json_t *root = document.root;
    const char *s = NULL;
    int64_t i = 0;
    double r = 0;
    bool t = false;
    json_t *o = NULL, *a = NULL;
    int c = -1;
    static const char *const colour[] = {"red", "blue"};
    assert_int_equal(tn_json_string(&document, root, "s", TN_JSON_REQUIRED, &s), TN_OK);
    assert_string_equal(s, "text");
    assert_int_equal(tn_json_integer(&document, root, "i", TN_JSON_REQUIRED, 0, 12, &i), TN_OK);
    assert_int_equal(i, 12);
    assert_int_equal(
        tn_json_integer(&document, root, "w", TN_JSON_REQUIRED, INT64_MIN, INT64_MAX, &i), TN_OK);
    assert_int_equal(i, 3);
    assert_int_equal(tn_json_number(&document, root, "r", TN_JSON_REQUIRED, 0, 1, &r), TN_OK);
    assert_true(r == 0.5);
    assert_int_equal(
        tn_json_number(&document, root, "i", TN_JSON_REQUIRED, -INFINITY, INFINITY, &r), TN_OK);
    assert_true(r == 12);
    assert_int_equal(tn_json_boolean(&document, root, "t", TN_JSON_REQUIRED, &t), TN_OK);
    assert_true(t);
    assert_int_equal(tn_json_object(&document, root, "o", TN_JSON_REQUIRED, &o), TN_OK);
    assert_true(json_is_object(o));
    assert_int_equal(tn_json_array(&document, root, "a", TN_JSON_REQUIRED, &a), TN_OK);
    assert_int_equal(json_array_size(a), 1);
    assert_int_equal(tn_json_choice(&document, root, "c", TN_JSON_REQUIRED, colour, 2, &c), TN_OK);
    assert_int_equal(c, 1);

    /* optional and missing, or null: left alone */
    i = 77;
    assert_int_equal(tn_json_integer(&document, root, "none", TN_JSON_OPTIONAL, 0, 1, &i), TN_OK);
    assert_int_equal(tn_json_integer(&document, root, "n", TN_JSON_OPTIONAL, 0, 1, &i), TN_OK);
    assert_int_equal(i, 77);
    assert_int_equal(tn_json_choice(&document, root, "none", TN_JSON_OPTIONAL, colour, 2, &c),
                     TN_OK);
    assert_int_equal(c, 1);
}

static void expect(tn_status status, const char *message)
{
    assert_int_equal(status, TN_FORMAT);
    assert_string_equal(tn_message(), message);
}

static void test_getter_messages(void **state)
{
    (void)state;
    parse("{\n"
          "  \"model\": {\n"
          "    \"heads\": \"eight\",\n"
          "    \"layers\": 0,\n"
          "    \"rate\": -1.5,\n"
          "    \"tie\": 1,\n"
          "    \"name\": null,\n"
          "    \"kind\": \"grene\"\n"
          "  },\n"
          "  \"list\": [{}, {\"heads\": 2.5}],\n"
          "  \"text\": 7\n"
          "}\n");
    const tn_json *d = &document;
    json_t *model = json_object_get(d->root, "model"), *list = json_object_get(d->root, "list");
    int64_t i;
    double r;
    bool b;
    const char *s;
    json_t *v;
    int c;
    static const char *const colour[] = {"red", "green"};
    const tn_json_need need = TN_JSON_REQUIRED;
    expect(tn_json_integer(d, model, "heads", need, 1, 64, &i),
           "config.json:3: field \"heads\" must be a whole number from 1 to 64, not \"eight\"");
    expect(tn_json_integer(d, model, "layers", need, 1, INT64_MAX, &i),
           "config.json:4: field \"layers\" must be a whole number, 1 or more, not 0");
    expect(tn_json_integer(d, json_array_get(list, 1), "heads", need, INT64_MIN, INT64_MAX, &i),
           "config.json:10: field \"heads\" must be a whole number, not 2.5");
    expect(tn_json_integer(d, json_array_get(list, 0), "heads", need, INT64_MIN, INT64_MAX, &i),
           "config.json:10: field \"heads\" is missing; it must be a whole number");
    expect(tn_json_number(d, model, "rate", need, 0, INFINITY, &r),
           "config.json:5: field \"rate\" must be a number, 0 or more, not -1.5");
    expect(tn_json_number(d, model, "rate", need, -INFINITY, -2, &r),
           "config.json:5: field \"rate\" must be a number, -2 or less, not -1.5");
    expect(tn_json_number(d, model, "rate", need, 0, 1, &r),
           "config.json:5: field \"rate\" must be a number from 0 to 1, not -1.5");
    expect(tn_json_number(d, model, "kind", need, -INFINITY, INFINITY, &r),
           "config.json:8: field \"kind\" must be a number, not \"grene\"");
    expect(tn_json_boolean(d, model, "tie", need, &b),
           "config.json:6: field \"tie\" must be true or false, not 1");
    expect(tn_json_string(d, model, "name", need, &s),
           "config.json:7: field \"name\" must be a string, not null");
    expect(tn_json_string(d, model, "gone", need, &s),
           "config.json:2: field \"gone\" is missing; it must be a string");
    expect(tn_json_string(d, d->root, "list", need, &s),
           "config.json:10: field \"list\" must be a string, not an array");
    expect(tn_json_object(d, d->root, "text", need, &v),
           "config.json:11: field \"text\" must be an object, not 7");
    expect(tn_json_array(d, d->root, "model", need, &v),
           "config.json:2: field \"model\" must be an array, not an object");
    expect(tn_json_choice(d, model, "kind", need, colour, 2, &c),
           "config.json:8: field \"kind\" must be one of \"red\", \"green\", not \"grene\"");
    expect(tn_json_string(d, list, "x", need, &s),
           "config.json:10: an object with field \"x\" must stand here");
    static const char *const known[] = {"heads", "layers", "rates", "tie", "name", "kind"};
    expect(tn_json_only(d, model, known, 6),
           "config.json:5: field \"rate\" is unknown; did you mean \"rates\"?");
    expect(tn_json_only(d, d->root, known, 1), "config.json:2: field \"model\" is unknown");
    expect(tn_json_fail(d, model, "heads", "(%d) is not a multiple of %d", 5, 8),
           "config.json:3: field \"heads\" (5) is not a multiple of 8");
}

/* Lines are found through strings with quotes, escapes and braces, and the right one of equal keys.
 */
static void test_lines(void **state)
{
    (void)state;
    parse("{\"a\\\"b{\": [ ],\n \"e\": {},\n\n \"a\": {\"k\": \"}\\\\\", \"x\": 1},\n"
          " \"b\": [1, \"]\", {\"k\": {\"x\": 2}},\n {\"x\": 3}], \"\\u00e9\": -1.5e3,\n\"last\": "
          "true}");
    const json_t *root = document.root;
    const json_t *b = json_object_get(root, "b");
    assert_int_equal(tn_json_line(&document, root, NULL), 1);
    assert_int_equal(tn_json_line(&document, root, "e"), 2);
    assert_int_equal(tn_json_line(&document, json_object_get(root, "a"), "x"), 4);
    assert_int_equal(tn_json_line(&document, json_array_get(b, 3), "x"), 6);
    assert_int_equal(tn_json_line(&document, json_array_get(b, 2), NULL), 5);
    assert_int_equal(tn_json_line(&document, json_object_get(json_array_get(b, 2), "k"), "x"), 5);
    assert_int_equal(tn_json_line(&document, root, "\xc3\xa9"), 6);
    assert_int_equal(tn_json_line(&document, root, "last"), 7);
    assert_int_equal(tn_json_line(&document, root, "not there"), 0);
    json_t *foreign = json_object();
    assert_int_equal(tn_json_line(&document, foreign, NULL), 0);
    json_decref(foreign);
}

static void test_long_values_are_cut(void **state)
{
    (void)state;
    parse("{\"a\": \"0123456789012345678901234567890123456789012345678901234567890123456789\"}");
    bool b;
    expect(tn_json_boolean(&document, document.root, "a", TN_JSON_REQUIRED, &b),
           "config.json:1: field \"a\" must be true or false, not "
           "\"012345678901234567890123456789012345678...");
}

static void test_files(void **state)
{
    (void)state;
    char path[] = "/tmp/tenon-test-json-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    json_t *value = json_pack("{s:i, s:[f, s]}", "z", 1, "a", 0.1, "text");
    assert_int_equal(tn_json_save(path, value), TN_OK);
    tn_json json;
    assert_int_equal(tn_json_load(path, 1000, &json), TN_OK);
    assert_true(json_equal(json.root, value));
    assert_string_equal(
        json.text, "{\n  \"z\": 1,\n  \"a\": [\n    0.10000000000000001,\n    \"text\"\n  ]\n}\n");
    tn_json_free(&json);
    tn_json_free(&json);
    assert_int_equal(tn_json_load(path, 10, &json), TN_FORMAT);
    assert_non_null(strstr(tn_message(), "larger than the 10 bytes"));
    assert_int_equal(tn_json_save("/no/such/place", value), TN_IO);
    unlink(path);
    assert_int_equal(tn_json_load(path, 1000, &json), TN_IO);
    assert_non_null(strstr(tn_message(), path));
    json_decref(value);
    assert_int_equal(tn_json_save(path, NULL), TN_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_syntax),
        cmocka_unit_test(test_depth),
        cmocka_unit_test_teardown(test_getters, clean_up),
        cmocka_unit_test_teardown(test_getter_messages, clean_up),
        cmocka_unit_test_teardown(test_lines, clean_up),
        cmocka_unit_test_teardown(test_long_values_are_cut, clean_up),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
