/* bf16 and f16: every value there and back, and rounding against exact arithmetic in f64. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdbool.h>

#include "base/half.h"
#include "tenon/random.h"

/* The value of a small float from its parts: sign, exponent (bias and width given), mantissa. */
static double value_of(uint16_t bits, int exponent_bits, int mantissa_bits)
{
    int bias = (1 << (exponent_bits - 1)) - 1, largest = (1 << exponent_bits) - 1;
    int exponent = bits >> mantissa_bits & largest, mantissa = bits & ((1 << mantissa_bits) - 1);
    double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == largest) return mantissa ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

static void test_every_value(void **state)
{
    (void)state;
    for (int i = 0; i < 65536; i++) {
        uint16_t bits = (uint16_t)i;
        double half = value_of(bits, 5, 10), brain = value_of(bits, 8, 7);
        if (isnan(half)) {
            assert_true(isnan(tn_f32_from_f16(bits)));
            assert_true((tn_f16_from_f32(tn_f32_from_f16(bits)) & 0x7fff) > 0x7c00);
            assert_int_equal(tn_f16_from_f32(tn_f32_from_f16(bits)) & 0x8000, bits & 0x8000);
        } else {
            assert_true((double)tn_f32_from_f16(bits) == half);
            assert_int_equal(tn_f16_from_f32((float)half), bits); /* the sign of zero too */
        }
        if (isnan(brain)) {
            assert_true(isnan(tn_f32_from_bf16(bits)));
            assert_int_equal(tn_bf16_from_f32(tn_f32_from_bf16(bits)), bits | 0x40);
        } else {
            assert_true((double)tn_f32_from_bf16(bits) == brain);
            assert_int_equal(tn_bf16_from_f32((float)brain), bits);
        }
    }
}

/* Nearest, ties to even: `bits` is right for x if no neighbour is nearer and on a tie its last bit
 * is 0. Beyond the largest finite value infinity counts as the next power of two. */
static bool nearest(double x, uint16_t bits, int exponent_bits, int mantissa_bits)
{
    int infinity = ((1 << exponent_bits) - 1) << mantissa_bits;
    int magnitude = bits & 0x7fff;
    if (magnitude > infinity || (x != 0 && signbit(x) != (bits >> 15))) return false;
    double next_power = ldexp(1, 1 << (exponent_bits - 1));
    double mine = magnitude == infinity
                      ? next_power
                      : fabs(value_of((uint16_t)magnitude, exponent_bits, mantissa_bits));
    double error = fabs(fabs(x) - mine);
    if (magnitude == infinity && fabs(x) >= next_power) return true;
    for (int step = -1; step <= 1; step += 2) {
        int other = magnitude + step;
        if (other < 0 || other > infinity) continue;
        double theirs = other == infinity ? next_power
                                          : value_of((uint16_t)other, exponent_bits, mantissa_bits);
        double its_error = fabs(fabs(x) - theirs);
        if (its_error < error || (its_error == error && (magnitude & 1))) return false;
    }
    return true;
}

static void check(float x)
{
    if (!nearest((double)x, tn_f16_from_f32(x), 5, 10))
        fail_msg("f16 of %a is %04x", (double)x, tn_f16_from_f32(x));
    if (!nearest((double)x, tn_bf16_from_f32(x), 8, 7))
        fail_msg("bf16 of %a is %04x", (double)x, tn_bf16_from_f32(x));
}

static void test_rounding(void **state)
{
    (void)state;
    /* between any two neighbours: the middle, and just beside it */
    for (int i = 0; i < 0x7c00; i++) {
        double middle = (value_of((uint16_t)i, 5, 10) +
                         (i == 0x7bff ? 65536 : value_of((uint16_t)(i + 1), 5, 10))) /
                        2;
        check((float)middle);
        check(-(float)middle);
        check(nextafterf((float)middle, 0));
        check(nextafterf((float)middle, INFINITY));
    }
    for (int i = 0; i < 0x7f80; i++) {
        uint32_t middle = (uint32_t)i << 16 | 0x8000;
        for (uint32_t d = 0; d < 3; d++) check(tn_f32_from_bits(middle - 1 + d));
    }
    for (uint64_t i = 0; i < 300000; i++) {
        float x = tn_f32_from_bits(tn_random_u32(1, 1, i));
        if (!isnan(x) && !isinf(x)) check(x);
    }
}

static void test_specials(void **state)
{
    (void)state;
    assert_int_equal(tn_f16_from_f32(INFINITY), 0x7c00);
    assert_int_equal(tn_f16_from_f32(-INFINITY), 0xfc00);
    assert_int_equal(tn_bf16_from_f32(INFINITY), 0x7f80);
    assert_int_equal(tn_bf16_from_f32(-INFINITY), 0xff80);
    assert_int_equal(tn_f16_from_f32(-0.0F), 0x8000);
    assert_int_equal(tn_bf16_from_f32(-0.0F), 0x8000);
    assert_int_equal(tn_f16_from_f32(65519.99F), 0x7bff);
    assert_int_equal(tn_f16_from_f32(65520.0F), 0x7c00);
    /* NaNs whose payload lies below the kept bits, or whose rounding would carry */
    static const uint32_t nans[] = {0x7f800001, 0x7fc00000, 0x7fffffff,
                                    0xff800001, 0xffffffff, 0x7fbfffff};
    for (size_t i = 0; i < sizeof nans / sizeof *nans; i++) {
        float x = tn_f32_from_bits(nans[i]);
        assert_true(isnan(tn_f32_from_bf16(tn_bf16_from_f32(x))));
        assert_true(isnan(tn_f32_from_f16(tn_f16_from_f32(x))));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_value),
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_specials),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
