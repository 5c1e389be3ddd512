/* Log callback, clocks and the progress line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/progress.h"

typedef struct heard {
    int lines, inside, most_inside;
    tn_log_level level;
    char last[2000];
} heard;

static void hear(void *context, tn_log_level level, const char *line)
{
    heard *h = context;
    h->inside++;
    if (h->inside > h->most_inside) h->most_inside = h->inside;
    h->lines++;
    h->level = level;
    snprintf(h->last, sizeof h->last, "%s", line);
    h->inside--;
}

static void test_levels(void **state)
{
    (void)state;
    heard h = {0};
    tn_log_line(TN_LOG_ERROR, "nobody listens");
    assert_false(tn_log_wanted(TN_LOG_ERROR));
    tn_log_to(hear, &h, TN_LOG_INFO);
    assert_true(tn_log_wanted(TN_LOG_INFO));
    assert_false(tn_log_wanted(TN_LOG_DEBUG));
    errno = ENOENT;
    tn_fail(TN_IO, "kept");
    tn_log_line(TN_LOG_INFO, "resumed at step %d", 40);
    assert_int_equal(errno, ENOENT);
    assert_string_equal(tn_message(), "kept");
    assert_string_equal(h.last, "resumed at step 40");
    assert_int_equal(h.level, TN_LOG_INFO);
    tn_log_line(TN_LOG_DEBUG, "not this");
    assert_int_equal(h.lines, 1);
    tn_log_line(TN_LOG_ERROR, "%02000d", 1);
    assert_int_equal(strlen(h.last), 1023);
    tn_log_to(NULL, NULL, TN_LOG_DEBUG);
    tn_log_line(TN_LOG_ERROR, "nor this");
    assert_int_equal(h.lines, 2);
    assert_string_equal(tn_log_level_name(TN_LOG_WARNING), "warning");
}

static void *talk(void *unused)
{
    for (int i = 0; i < 1000; i++) tn_log_line(TN_LOG_INFO, "%d", i);
    return unused;
}

static void test_calls_never_overlap(void **state)
{
    (void)state;
    heard h = {0};
    tn_log_to(hear, &h, TN_LOG_INFO);
    pthread_t thread[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&thread[i], NULL, talk, NULL), 0);
    for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
    tn_log_to(NULL, NULL, TN_LOG_ERROR);
    assert_int_equal(h.lines, 4000);
    assert_int_equal(h.most_inside, 1);
}

static void test_clocks(void **state)
{
    (void)state;
    double start = tn_clock_seconds();
    usleep(2000);
    double span = tn_clock_seconds() - start;
    assert_true(span >= 0.002 && span < 30);
    assert_true(tn_wall_clock() > 1.7e9);
    assert_true(tn_cpu_clock() >= 0);
}

static void test_time_texts(void **state)
{
    (void)state;
    char text[32];
    assert_string_equal(tn_time_text(0, text), "1970-01-01T00:00:00Z");
    assert_string_equal(tn_time_text(1717158896.7, text), "2024-05-31T12:34:56Z");
    static const struct {
        double seconds;
        const char *text;
    } known[] = {
        {0, "0 ms"},           {0.85, "850 ms"},    {0.9996, "1.0 s"}, {12.34, "12.3 s"},
        {59.94, "59.9 s"},     {59.96, "1:00 min"}, {245, "4:05 min"}, {3599.4, "59:59 min"},
        {3599.6, "1:00:00 h"}, {7425, "2:03:45 h"}, {-1, "?"},         {NAN, "?"},
        {INFINITY, "?"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_string_equal(tn_duration_text(known[i].seconds, text), known[i].text);
}

static void test_progress_text(void **state)
{
    (void)state;
    char text[201];
    tn_progress_text(text, 200, "train", "step", 500, 1000, 250, "loss 1.5");
    assert_string_equal(
        text, "train  [============>           ]  50%  500/1000  250 step/s  2.0 s left  loss 1.5");
    tn_progress_text(text, 200, "train", "step", 0, 10, 0, NULL);
    assert_string_equal(text, "train  [                        ]   0%  0/10");
    tn_progress_text(text, 200, "train", "step", 10, 10, 12345678, "");
    assert_string_equal(text, "train  [========================] 100%  10/10  12.3M step/s");
    tn_progress_text(text, 200, "read", "byte", 7, 0, 20000, "a\x1b[0m\n");
    assert_string_equal(text, "read  7 byte  20k byte/s  a?[0m?");
    tn_progress_text(text, 10, "train", "step", 10, 10, 1, "");
    assert_string_equal(text, "train  [==");
    tn_progress_text(text, 200, "t", "step", 99, 10, 0, ""); /* beyond its total */
    assert_string_equal(text, "t  [========================] 100%  99/10");
}

static void test_progress_on_a_stream(void **state)
{
    (void)state;
    char *out;
    size_t size;
    FILE *stream = open_memstream(&out, &size);
    tn_progress *p = tn_progress_begin_on(stream, 60, "work", "item", 3);
    assert_non_null(p);
    tn_progress_note(p, "note %d", 1);
    for (int i = 1; i <= 3; i++)
        tn_progress_update(p, i); /* only the first is drawn: the others come too soon */
    fflush(stream);
    assert_int_equal(strncmp(out, "\rwork  [", 8), 0);
    assert_null(strstr(out, "2/3"));
    tn_progress_end(p);
    fclose(stream);
    assert_string_equal(out + size - 4, "\r\x1b[K"); /* wiped */
    free(out);
}

static void test_no_progress_without_terminal(void **state)
{
    (void)state;
    if (isatty(STDERR_FILENO)) skip();
    tn_progress *p = tn_progress_begin("work", "item", 3);
    assert_null(p);
    tn_progress_update(p, 1);
    tn_progress_note(p, "x");
    tn_progress_clear(p);
    tn_progress_end(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_calls_never_overlap),
        cmocka_unit_test(test_clocks),
        cmocka_unit_test(test_time_texts),
        cmocka_unit_test(test_progress_text),
        cmocka_unit_test(test_progress_on_a_stream),
        cmocka_unit_test(test_no_progress_without_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
