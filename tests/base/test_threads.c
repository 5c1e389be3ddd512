/* tn_parallel covers every item once, whatever the number of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "base/threads.h"

enum { MOST = 5000, MOST_THREADS = 8 };

typedef struct tally {
    atomic_int count[MOST];
    atomic_int calls;
    atomic_bool bad_index;
} tally;

static void add_up(void *context, int64_t begin, int64_t end)
{
    tally *t = context;
    atomic_fetch_add(&t->calls, 1);
    if (tn_thread_index() < 0 || tn_thread_index() >= tn_thread_count())
        atomic_store(&t->bad_index, true);
    for (int64_t i = begin; i < end; i++) atomic_fetch_add(&t->count[i], 1);
}

static void test_every_item_once(void **state)
{
    (void)state;
    static const int64_t sizes[] = {0, 1, 2, 3, 7, 8, 9, 100, 4999};
    for (int threads = 1; threads <= MOST_THREADS; threads++) {
        tn_set_thread_count(threads);
        assert_int_equal(tn_thread_count(), threads);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            static tally t;
            memset((void *)&t, 0, sizeof t);
            tn_parallel(sizes[s], 0, add_up, &t);
            for (int64_t i = 0; i < MOST; i++)
                assert_int_equal(atomic_load(&t.count[i]), i < sizes[s]);
            assert_false(atomic_load(&t.bad_index));
        }
    }
    tn_set_thread_count(0);
}

static void test_grain(void **state)
{
    (void)state;
    static tally t;
    tn_set_thread_count(4);
    tn_parallel(99, 100, add_up, &t);
    assert_int_equal(atomic_load(&t.calls), 1);
    tn_parallel(100, 100, add_up, &t);
    assert_in_range(atomic_load(&t.calls), 3,
                    5); /* the pool, of however many threads the system gave */
    tn_set_thread_count(0);
}

static void nested(void *context, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) tn_parallel(10, 0, add_up, context);
}

static void test_nested_runs_on_the_caller(void **state)
{
    (void)state;
    static tally t;
    tn_set_thread_count(3);
    tn_parallel(20, 0, nested, &t);
    assert_int_equal(atomic_load(&t.calls), 20);
    for (int i = 0; i < 10; i++) assert_int_equal(atomic_load(&t.count[i]), 20);
    tn_set_thread_count(0);
}

static void *from_a_thread(void *context)
{
    for (int i = 0; i < 50; i++) tn_parallel(1000, 0, add_up, context);
    return NULL;
}

static void test_callers_on_several_threads(void **state)
{
    (void)state;
    static tally t;
    pthread_t thread[3];
    tn_set_thread_count(2);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, from_a_thread, &t), 0);
    for (int i = 0; i < 3; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < 1000; i++) assert_int_equal(atomic_load(&t.count[i]), 150);
    tn_set_thread_count(0);
}

/* Plain, unsynchronised writes by the body are seen by the caller: checked by ThreadSanitizer too.
 */
static void square(void *context, int64_t begin, int64_t end)
{
    int64_t *x = context;
    for (int64_t i = begin; i < end; i++) x[i] = i * i;
}

static void test_results_are_visible(void **state)
{
    (void)state;
    static int64_t x[MOST];
    tn_set_thread_count(4);
    for (int round = 0; round < 20; round++) {
        memset(x, 0, sizeof x);
        tn_parallel(MOST, 0, square, x);
        for (int64_t i = 0; i < MOST; i++) assert_true(x[i] == i * i);
    }
    tn_set_thread_count(0);
}

static void test_default(void **state)
{
    (void)state;
    tn_set_thread_count(0);
    int usual = tn_thread_count();
    assert_in_range(usual, 1, 100000);
    tn_set_thread_count(usual + 3);
    assert_int_equal(tn_thread_count(), usual + 3);
    tn_set_thread_count(-1);
    assert_int_equal(tn_thread_count(), usual);
    assert_int_equal(tn_thread_index(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default),
        cmocka_unit_test(test_every_item_once),
        cmocka_unit_test(test_grain),
        cmocka_unit_test(test_nested_runs_on_the_caller),
        cmocka_unit_test(test_callers_on_several_threads),
        cmocka_unit_test(test_results_are_visible),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
