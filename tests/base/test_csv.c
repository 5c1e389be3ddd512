/* Tables: quotes, line ends, typed cells, and what must be refused with a place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* after the headers it needs */
#include <cmocka.h>

#include "base/csv.h"

static tn_status parse(const char *text, tn_csv *csv)
{
    return tn_csv_parse("t.csv", text, strlen(text), csv);
}

static void test_reading(void **state)
{
    (void)state;
    tn_csv csv;
    const char *text;
    double x;
    assert_int_equal(parse("\xef\xbb\xbfname,n\r\n\"a, \"\"b\"\"\nc\",1.5\r\n\n,-2", &csv), TN_OK);
    assert_int_equal(csv.rows, 2);
    assert_int_equal(csv.columns, 2);
    assert_int_equal(tn_csv_text(&csv, 0, "name", &text), TN_OK);
    assert_string_equal(text, "a, \"b\"\nc");
    assert_int_equal(tn_csv_number(&csv, 0, "n", 0, 2, &x), TN_OK);
    assert_true(x == 1.5);
    assert_int_equal(tn_csv_text(&csv, 1, "name", &text), TN_OK);
    assert_string_equal(text, "");
    assert_int_equal(tn_csv_number(&csv, 1, "n", 0, 2, &x), TN_FORMAT);
    assert_string_equal(tn_message(),
                        "t.csv:5: column \"n\" must be a number from 0 to 2, not \"-2\"");
    assert_int_equal(tn_csv_text(&csv, 1, "other", &text), TN_FORMAT);
    assert_int_equal(tn_csv_column(&csv, "n"), 1);
    tn_csv_free(&csv);
    tn_csv_free(&csv);
}

static void refused(const char *text, const char *message)
{
    tn_csv csv;
    assert_int_equal(parse(text, &csv), TN_FORMAT);
    if (!strstr(tn_message(), message)) fail_msg("%s", tn_message());
    tn_csv_free(&csv);
}

static void test_refusals(void **state)
{
    (void)state;
    refused("", "t.csv: empty");
    refused("\n\r\n", "t.csv: empty");
    refused("a,b\n1\n", "t.csv:2: 1 cells, but the header has 2");
    refused("a,b\n\n1,2,3\n", "t.csv:3: 3 cells");
    refused("a,a\n", "t.csv:1: column \"a\" stands twice");
    refused("a\n\"x\ny", "t.csv:2: a quote is opened and not closed");
    refused("a\n\"x\"y\n", "t.csv:2: text behind a closing quote");
    tn_csv csv;
    assert_int_equal(tn_csv_parse("t.csv", "a\n\0b", 4, &csv), TN_FORMAT);
    assert_int_equal(tn_csv_load("/nonexistent.csv", 100, &csv), TN_IO);
}

static void test_not_numbers(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "x", "1x", "nan", "inf", "1e999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[32] = "n,m\n";
        strcat(strcat(text, bad[i]), ",0\n");
        tn_csv csv;
        double x = 7;
        assert_int_equal(parse(text, &csv), TN_OK);
        assert_int_equal(tn_csv_number(&csv, 0, "n", -1e300, 1e300, &x), TN_FORMAT);
        assert_true(x == 7);
        tn_csv_free(&csv);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reading),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_not_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
