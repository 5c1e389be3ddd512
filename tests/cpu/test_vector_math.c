/* The SIMD kernels' elementary functions against the C library's f64 ones, over samples of all f32
 * bit patterns.
 *
 * Here the header is compiled for one instruction set; tests/ops/test_elementwise.c covers the
 * others through TENON_ISA. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cpu/simd/vector_math.h"

#define PI 3.14159265358979323846

static double sigmoid(double x) { return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)); }
static double softplus(double x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }
static double silu(double x) { return x * sigmoid(x); }

typedef struct math_case {
    const char *name;
    float (*got)(float);
    double (*expected)(double);
    double ulps;
    double largest; /* |x| beyond is left out */
} math_case;

static const math_case cases[] = {
    {"exp", tn_exp_f32, exp, 2, INFINITY},
    {"log", tn_log_f32, log, 2, INFINITY},
    {"log1p", tn_log1p_f32, log1p, 4, INFINITY},
    {"expm1", tn_expm1_f32, expm1, 4, INFINITY},
    {"tanh", tn_tanh_f32, tanh, 4, INFINITY},
    {"erf", tn_erf_f32, erf, 4, INFINITY},
    {"sigmoid", tn_sigmoid_f32, sigmoid, 4, INFINITY},
    {"softplus", tn_softplus_f32, softplus, 4, INFINITY},
    {"sin", tn_sin_f32, sin, 4, 0x1p23},
    {"cos", tn_cos_f32, cos, 4, 0x1p23},
};

/* Distance in units of the last place of `expected` as an f32. */
static double ulps(float got, double expected)
{
    if (isnan(expected)) return isnan(got) ? 0 : INFINITY;
    if (isinf((float)expected)) {
        float largest = 0x1.fffffep127F; /* half a unit beyond is where rounding gives infinity */
        return got == (float)expected || (isfinite(expected) && fabsf(got) == largest) ? 0
                                                                                       : INFINITY;
    }
    if (!isfinite(got))
        return isinf(got) && fabs(expected) >= 0x1.fffffcp127 && (got > 0) == (expected > 0)
                   ? 1
                   : INFINITY;
    int exponent;
    frexp(expected, &exponent);
    double unit = ldexp(1, (exponent < -125 ? -125 : exponent) - 24);
    return fabs((double)got - expected) / unit;
}

static float from_bits(uint32_t bits) { return tn_f32_from_bits(bits); }

static void test_accuracy(void **unused)
{
    (void)unused;
    const char *all = getenv("TENON_TEST_ALL_F32");
    uint32_t stride = all ? 1 : 4999; /* a prime: all exponents and many mantissas */
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const math_case *c = &cases[k];
        double worst = 0, at = 0;
        for (uint64_t bits = 0; bits < 1ull << 32; bits += stride) {
            float x = from_bits((uint32_t)bits);
            if (fabsf(x) > c->largest && isfinite(x)) continue;
            double distance = ulps(c->got(x), c->expected((double)x));
            if (distance > worst) worst = distance, at = (double)x;
        }
        if (all || getenv("TENON_TEST_VERBOSE"))
            print_message("%-9s %.3f ulp at %.9g\n", c->name, worst, at);
        if (!(worst <= c->ulps))
            fail_msg("%s is off by %.3f ulp at %.9g; allowed are %.1f", c->name, worst, at,
                     c->ulps);
    }
}

static double largest_error(float (*got)(float), double (*expected)(double))
{
    double worst = 0;
    for (double x = -12; x <= 12; x += 1e-4) {
        double right = expected((double)(float)x);
        worst = fmax(worst, fabs((double)got((float)x) - right) / fmax(1, fabs(right)));
    }
    return worst;
}

static double gelu(double x) { return 0.5 * x * (1 + erf(x * sqrt(0.5))); }
static double gelu_grad(double x)
{
    return 0.5 * (1 + erf(x * sqrt(0.5))) + x * exp(-0.5 * x * x) / sqrt(2 * PI);
}
static double gelu_tanh(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / PI) * (x + 0.044715 * x * x * x)));
}
static double gelu_tanh_grad(double x)
{
    double k = sqrt(2 / PI), c = 0.044715, t = tanh(k * (x + c * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * c * x * x);
}
static double silu_grad(double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }

/* These cross zero: the error is small beside 1 or the result, whichever is larger. */
static void test_activations(void **unused)
{
    (void)unused;
    assert_true(largest_error(tn_gelu_f32, gelu) < 5e-7);
    assert_true(largest_error(tn_gelu_grad_f32, gelu_grad) < 5e-7);
    assert_true(largest_error(tn_gelu_tanh_f32, gelu_tanh) < 5e-7);
    assert_true(largest_error(tn_gelu_tanh_grad_f32, gelu_tanh_grad) < 5e-7);
    assert_true(largest_error(tn_silu_f32, silu) < 5e-7);
    assert_true(largest_error(tn_silu_grad_f32, silu_grad) < 5e-7);
    assert_true(isnan(tn_gelu_f32(NAN)) && isnan(tn_gelu_tanh_f32(NAN)) && isnan(tn_silu_f32(NAN)));
}

static void test_power(void **unused)
{
    (void)unused;
    static const float special[] = {0,     -0.0F, 1,        -1,       2,        -2,        3,
                                    -3,    0.5F,  -0.5F,    0.3F,     1e-40F,   -1e-40F,   1e-20F,
                                    1e20F, 3e38F, 16777215, 33554432, INFINITY, -INFINITY, NAN,
                                    7,     127,   -149,     2.5F};
    int count = sizeof special / sizeof *special;
    for (int i = 0; i < count; i++)
        for (int j = 0; j < count; j++) {
            float got = tn_pow_f32(special[i], special[j]);
            double expected = pow((double)special[i], (double)special[j]);
            if (!(ulps(got, expected) <= 4))
                fail_msg("pow(%g, %g) is %g, expected %g", (double)special[i], (double)special[j],
                         (double)got, expected);
        }
    double worst = 0;
    for (uint32_t i = 1; i < 400000; i++) {
        float a = from_bits(i * 5347u % 0x7f800000u),
              b = (float)((int)(i * 2654435761u >> 8) - (1 << 23)) * 0x1p-18F;
        worst = fmax(worst, ulps(tn_pow_f32(a, b), pow((double)a, (double)b)));
    }
    if (!(worst <= 4)) fail_msg("pow is off by %.3f ulp", worst);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accuracy),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_power),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
