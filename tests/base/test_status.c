/* The thread-local message, and overflow-checked sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "tenon/version.h"

static void test_message(void **state)
{
    (void)state;
    assert_int_equal(tn_fail(TN_FORMAT, "%s:%d: bad", "file.bin", 7), TN_FORMAT);
    assert_string_equal(tn_message(), "file.bin:7: bad");
    /* the message may be an argument of the next one */
    assert_int_equal(tn_fail(TN_IO, "while loading: %s", tn_message()), TN_IO);
    assert_string_equal(tn_message(), "while loading: file.bin:7: bad");
}

static void test_prefix(void **state)
{
    (void)state;
    tn_fail(TN_INVALID, "7 is odd");
    assert_int_equal(tn_fail_in(TN_INVALID, "layer %d", 3), TN_INVALID);
    assert_string_equal(tn_message(), "layer 3: 7 is odd");
    tn_fail_in(TN_INVALID, "model");
    assert_string_equal(tn_message(), "model: layer 3: 7 is odd");
}

static void test_long_messages_are_cut(void **state)
{
    (void)state;
    char text[5000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    tn_fail(TN_INVALID, "%s", text);
    size_t length = strlen(tn_message());
    assert_in_range(length, 1000, sizeof text - 2);
    assert_string_equal(tn_message() + length - 3, "...");
    tn_fail_in(TN_INVALID, "%s", "place");
    assert_int_equal(strncmp(tn_message(), "place: xxx", 10), 0);
    length = strlen(tn_message());
    assert_string_equal(tn_message() + length - 3, "...");
    tn_fail(TN_INVALID, "short");
    tn_fail_in(TN_INVALID, "%s", text); /* a prefix that leaves no room */
    assert_true(strlen(tn_message()) > 1000);
}

static void test_control_characters_are_disarmed(void **state)
{
    (void)state;
    tn_fail(TN_FORMAT, "tensor \"%s\"", "a\x1b[2J\nb\x7f");
    assert_string_equal(tn_message(), "tensor \"a?[2J?b?\"");
    tn_fail(TN_FORMAT, "%s", "größe"); /* UTF-8 passes */
    assert_string_equal(tn_message(), "größe");
}

static void *in_another_thread(void *result)
{
    *(int *)result = (int)strlen(tn_message());
    tn_fail(TN_INVALID, "elsewhere");
    return NULL;
}

static void test_threads_have_their_own(void **state)
{
    (void)state;
    tn_fail(TN_INVALID, "here");
    int length = -1;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, in_another_thread, &length), 0);
    pthread_join(thread, NULL);
    assert_int_equal(length, 0);
    assert_string_equal(tn_message(), "here");
}

static tn_status tries(tn_status inner)
{
    TN_TRY(inner);
    return TN_UNSUPPORTED;
}

static void test_try(void **state)
{
    (void)state;
    assert_int_equal(tries(TN_IO), TN_IO);
    assert_int_equal(tries(TN_OK), TN_UNSUPPORTED);
}

static void test_names(void **state)
{
    (void)state;
    static const char *const name[] = {"ok",     "invalid",     "format",     "io",
                                       "memory", "unsupported", "interrupted"};
    for (int i = TN_OK; i <= TN_INTERRUPTED; i++)
        assert_string_equal(tn_status_name((tn_status)i), name[i]);
    assert_string_equal(tn_status_name((tn_status)99), "unknown");
    assert_string_equal(tn_version(), TN_VERSION);
}

static void test_checked_sizes(void **state)
{
    (void)state;
    size_t size = 7;
    assert_true(tn_mul_size(1000, 1000, &size));
    assert_int_equal(size, 1000000);
    assert_false(tn_mul_size(SIZE_MAX / 2, 3, &size));
    assert_false(tn_add_size(SIZE_MAX, 1, &size));
    assert_true(tn_add_size(SIZE_MAX, 0, &size));
    int64_t i;
    assert_false(tn_mul_i64(INT64_MIN, -1, &i));
    assert_false(tn_add_i64(INT64_MAX, 1, &i));
    assert_true(tn_mul_i64(-3, 5, &i));
    assert_int_equal(i, -15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_message),
        cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_long_messages_are_cut),
        cmocka_unit_test(test_control_characters_are_disarmed),
        cmocka_unit_test(test_threads_have_their_own),
        cmocka_unit_test(test_try),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_checked_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
