/* Philox against the known answers of Random123, and what is drawn from it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "tenon/random.h"

/* Random123's kat_vectors, lines "philox4x32 10". */
static void test_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint64_t seed, stream, index;
        uint32_t word[4];
    } known[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {UINT64_C(0x299f31d0a4093822),
         UINT64_C(0x0370734413198a2e),
         UINT64_C(0x85a308d3243f6a88),
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t word[4];
        tn_philox(known[i].seed, known[i].stream, known[i].index, word);
        for (int j = 0; j < 4; j++) assert_int_equal(word[j], known[i].word[j]);
    }
}

static void test_words_of_a_stream(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 64; i++) {
        uint32_t word[4];
        tn_philox(7, 9, i / 4, word);
        assert_int_equal(tn_random_u32(7, 9, i), word[i % 4]);
        assert_true(tn_random_uniform(7, 9, i) == (float)(word[i % 4] >> 8) * 0x1p-24F);
    }
    /* the last index of a stream */
    uint32_t word[4];
    tn_philox(7, 9, UINT64_MAX / 4, word);
    assert_int_equal(tn_random_u32(7, 9, UINT64_MAX), word[3]);
}

static void test_uniform_moments(void **state)
{
    (void)state;
    enum { N = 200000 };
    double sum = 0, squares = 0;
    for (uint64_t i = 0; i < N; i++) {
        double u = (double)tn_random_uniform(1, 2, i);
        assert_true(u >= 0 && u < 1);
        sum += u, squares += u * u;
    }
    assert_true(fabs(sum / N - 0.5) < 4 * sqrt(1.0 / 12 / N));
    assert_true(fabs(squares / N - 1.0 / 3) < 0.003);
}

/* Four moments and the quantiles of a normal; neighbours (they share a Philox block) are
 * uncorrelated. */
static void test_normal_moments(void **state)
{
    (void)state;
    enum { N = 200000 };
    double m1 = 0, m2 = 0, m3 = 0, m4 = 0, neighbours = 0, before = 0;
    int beyond_one = 0, beyond_two = 0;
    for (uint64_t i = 0; i < N; i++) {
        double x = tn_random_normal(3, 4, i);
        assert_true(isfinite(x) && fabs(x) < 6.7);
        m1 += x, m2 += x * x, m3 += x * x * x, m4 += x * x * x * x;
        neighbours += x * before;
        before = x;
        beyond_one += fabs(x) > 1, beyond_two += fabs(x) > 2;
    }
    assert_true(fabs(m1 / N) < 4 / sqrt(N));
    assert_true(fabs(m2 / N - 1) < 4 * sqrt(2.0 / N));
    assert_true(fabs(m3 / N) < 4 * sqrt(15.0 / N));
    assert_true(fabs(m4 / N - 3) < 4 * sqrt(96.0 / N));
    assert_true(fabs(neighbours / N) < 4 / sqrt(N));
    assert_true(fabs(beyond_one / (double)N - 0.317311) < 0.005);
    assert_true(fabs(beyond_two / (double)N - 0.045500) < 0.002);
}

/* Box-Muller over words 2i and 2i+1, as the header promises. */
static void test_normal_is_box_muller(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 50; i++) {
        double a = (tn_random_u32(5, 6, 2 * i) + 1.0) / 4294967296.0;
        double b = tn_random_u32(5, 6, 2 * i + 1) / 4294967296.0;
        double expected = sqrt(-2 * log(a)) * cos(2 * acos(-1) * b);
        assert_true(fabs(tn_random_normal(5, 6, i) - expected) < 1e-12);
    }
}

static void test_below(void **state)
{
    (void)state;
    int seen[7] = {0};
    for (uint64_t i = 0; i < 70000; i++) {
        uint64_t x = tn_random_below(11, 12, i, 7);
        assert_true(x < 7);
        seen[x]++;
    }
    for (int i = 0; i < 7; i++) assert_true(abs(seen[i] - 10000) < 400);
    assert_int_equal(tn_random_below(11, 12, 5, 1), 0);
    /* bound 2^63: exactly the 64 drawn bits, shifted; checks the wide product */
    for (uint64_t i = 0; i < 100; i++) {
        uint64_t bits = tn_random_u32(1, 1, 2 * i) | (uint64_t)tn_random_u32(1, 1, 2 * i + 1) << 32;
        assert_true(tn_random_below(1, 1, i, UINT64_C(1) << 63) == bits >> 1);
        assert_true(tn_random_below(1, 1, i, UINT64_C(1) << 20) == bits >> 44);
        /* bound 2^64-1: high half of bits*(2^64-1) = bits-1, or 0 for 0 */
        assert_true(tn_random_below(1, 1, i, UINT64_MAX) == (bits ? bits - 1 : 0));
    }
}

static void test_permutation(void **state)
{
    (void)state;
    enum { N = 1000 };
    int64_t order[N], again[N];
    bool seen[N] = {false};
    tn_random_permutation(1, 2, N, order);
    tn_random_permutation(1, 2, N, again);
    int fixed = 0;
    for (int i = 0; i < N; i++) {
        assert_true(order[i] >= 0 && order[i] < N && !seen[order[i]]);
        seen[order[i]] = true;
        assert_int_equal(order[i], again[i]);
        fixed += order[i] == i;
    }
    assert_true(fixed < 10);
    tn_random_permutation(1, 2, 0, order);
    int64_t one = 5;
    tn_random_permutation(1, 2, 1, &one);
    assert_int_equal(one, 0);

    /* every order of three equally often */
    int count[27] = {0};
    for (uint64_t s = 0; s < 60000; s++) {
        int64_t p[3];
        tn_random_permutation(9, s, 3, p);
        count[p[0] * 9 + p[1] * 3 + p[2]]++;
    }
    static const int orders[6] = {0 * 9 + 1 * 3 + 2, 0 * 9 + 2 * 3 + 1, 1 * 9 + 0 * 3 + 2,
                                  1 * 9 + 2 * 3 + 0, 2 * 9 + 0 * 3 + 1, 2 * 9 + 1 * 3 + 0};
    for (int i = 0; i < 6; i++) assert_true(abs(count[orders[i]] - 10000) < 400);
}

static void test_categorical(void **state)
{
    (void)state;
    const float weight[5] = {0, 1, 0, 3, 0};
    int count[5] = {0};
    for (uint64_t i = 0; i < 40000; i++) {
        int64_t drawn = tn_random_categorical(1, 1, i, weight, 5);
        assert_true(drawn >= 0 && drawn < 5);
        count[drawn]++;
    }
    assert_int_equal(count[0] + count[2] + count[4], 0);
    assert_true(abs(count[1] - 10000) < 400);
    const float none[3] = {0, 0, 0};
    assert_int_equal(tn_random_categorical(1, 1, 0, none, 3), -1);
}

static void test_stream_names(void **state)
{
    (void)state;
    assert_true(tn_random_stream("") == UINT64_C(0xcbf29ce484222325));
    assert_true(tn_random_stream("a") == UINT64_C(0xaf63dc4c8601ec8c));
    assert_true(tn_random_stream("foobar") == UINT64_C(0x85944171f73967e8));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),        cmocka_unit_test(test_words_of_a_stream),
        cmocka_unit_test(test_uniform_moments),      cmocka_unit_test(test_normal_moments),
        cmocka_unit_test(test_normal_is_box_muller), cmocka_unit_test(test_below),
        cmocka_unit_test(test_permutation),          cmocka_unit_test(test_categorical),
        cmocka_unit_test(test_stream_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
