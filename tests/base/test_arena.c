/* Arenas: alignment, zeroes, apartness, limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/arena.h"
#include "tenon/random.h"

/* Pieces of all sizes keep their bytes, are aligned and begin as zeroes. */
static void test_pieces_stay_apart(void **state)
{
    (void)state;
    enum { COUNT = 3000 };
    tn_arena arena = {0};
    unsigned char *piece[COUNT];
    size_t size[COUNT], total = 0;
    for (int i = 0; i < COUNT; i++) {
        size[i] = (size_t)tn_random_below(1, 1, (uint64_t)i, i % 100 == 0 ? 300000 : 200);
        piece[i] = tn_arena_alloc(&arena, size[i]);
        assert_non_null(piece[i]);
        assert_int_equal((uintptr_t)piece[i] % 16, 0);
        for (size_t k = 0; k < size[i]; k++) assert_int_equal(piece[i][k], 0);
        memset(piece[i], i & 255, size[i]);
        total += size[i];
    }
    assert_int_equal(arena.used, total);
    for (int i = 0; i < COUNT; i++)
        for (size_t k = 0; k < size[i]; k++) assert_int_equal(piece[i][k], i & 255);
    tn_arena_free(&arena);
    assert_int_equal(arena.used, 0);
    assert_non_null(tn_arena_alloc(&arena, 10)); /* usable again */
    tn_arena_free(&arena);
    tn_arena_free(&arena);
}

static void test_empty_pieces(void **state)
{
    (void)state;
    tn_arena arena = {0};
    void *a = tn_arena_alloc(&arena, 0), *b = tn_arena_alloc(&arena, 0);
    assert_non_null(a);
    assert_non_null(b);
    assert_ptr_not_equal(a, b);
    assert_non_null(tn_arena_copy(&arena, NULL, 0));
    assert_non_null(tn_arena_array(&arena, 0, SIZE_MAX));
    tn_arena_free(&arena);
}

static void test_too_much(void **state)
{
    (void)state;
    tn_arena arena = {0};
    assert_null(tn_arena_array(&arena, SIZE_MAX / 2, 4));
    assert_non_null(strstr(tn_message(), "out of memory"));
    assert_null(tn_arena_alloc(&arena, SIZE_MAX));
    assert_null(tn_arena_alloc(&arena, SIZE_MAX - 40));
    assert_non_null(strstr(tn_message(), "out of memory"));
    assert_non_null(tn_arena_alloc(&arena, 8)); /* still in order */
    tn_arena_free(&arena);
}

static void test_texts(void **state)
{
    (void)state;
    tn_arena arena = {0};
    assert_string_equal(tn_arena_string(&arena, "layer"), "layer");
    assert_string_equal(tn_arena_string(&arena, ""), "");
    assert_string_equal(tn_arena_format(&arena, "%s.%d", "layer", 12), "layer.12");
    char *filled = tn_arena_format(&arena, "%05000d", 7);
    assert_int_equal(strlen(filled), 5000);
    const int three[3] = {1, 2, 3};
    int *copy = tn_arena_copy(&arena, three, sizeof three);
    assert_memory_equal(copy, three, sizeof three);
    tn_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_stay_apart),
        cmocka_unit_test(test_empty_pieces),
        cmocka_unit_test(test_too_much),
        cmocka_unit_test(test_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
