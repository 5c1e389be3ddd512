/* Elementary functions of f32 for SIMD kernels.
 *
 * Each is a scalar function without branches, table look-ups or calls, so that a loop over it
 * marked `#pragma omp simd` becomes vector code on every instruction set. Errors against f64
 * (tests/cpu/test_vector_math.c, which tries all f32 on request): exp and log at most 2 ulp, the
 * others at most 4. NaN, infinities and subnormals are as in C's math library, except that sin and
 * cos want |x| < 2^23.
 *
 * The polynomials are minimax fits by Remez' algorithm (scripts/minimax.py), rounded to f32. */
#ifndef TN_CPU_SIMD_VECTOR_MATH_H
#define TN_CPU_SIMD_VECTOR_MATH_H

#include <math.h>
#include <stdint.h>

#include "base/half.h"

/* 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits. */
#define TN_ROUNDER 0x1.8p23F
#define TN_LOG2_E 1.44269504088896341F
/* ln 2 in two parts; the first has so few bits that its product with any exponent is exact. */
#define TN_LN2_HIGH 0.693359375F
#define TN_LN2_LOW (-2.12194440054690583e-4F)

/* 2^n for n in [-126, 127]. */
static inline float tn_power_of_two(int32_t n)
{
    return tn_f32_from_bits((uint32_t)(n + 127) << 23);
}

/* x = n ln 2 + r with |r| <= ln 2 / 2; n is returned as an integer and subtracted in two parts. */
static inline int32_t tn_reduce_exponent(float x, float *r)
{
    float shifted = x * TN_LOG2_E + TN_ROUNDER, n = shifted - TN_ROUNDER;
    *r = (x - n * TN_LN2_HIGH) - n * TN_LN2_LOW;
    return (int32_t)(tn_f32_bits(shifted) - tn_f32_bits(TN_ROUNDER));
}

/* e^r - 1 for |r| <= ln 2 / 2, with small relative error also near 0. */
static inline float tn_expm1_reduced(float r)
{
    float p = 0.00138145487F;
    p = p * r + 0.00836874545F;
    p = p * r + 0.041668389F;
    p = p * r + 0.166665211F;
    p = p * r + 0.49999994F;
    return r * r * p + r;
}

static inline float tn_exp_f32(float x)
{
    float r;
    x = x > 89.0F ? 89.0F : x; /* infinity from 88.73 on */
    x = x < -104.0F ? -104.0F : x;
    int32_t n = tn_reduce_exponent(x, &r), half = n >> 1;
    /* In two factors, so that subnormal and overflowing results come out right. */
    return (tn_expm1_reduced(r) + 1.0F) * tn_power_of_two(half) * tn_power_of_two(n - half);
}

static inline float tn_expm1_f32(float x)
{
    float r;
    x = x > 88.8F ? 88.8F : x;
    x = x < -30.0F ? -30.0F : x;
    int32_t n = tn_reduce_exponent(x, &r);
    float scale = tn_power_of_two(n - 1); /* half of 2^n, which itself would overflow at 128 */
    return 2.0F * (scale * tn_expm1_reduced(r) + (scale - 0.5F));
}

/* log(2^e (1 + f)) for f in [sqrt(1/2) - 1, sqrt(2) - 1]. */
static inline float tn_log_reduced(float f, float e)
{
    float z = f * f, p = 0.0674664229F;
    p = p * f - 0.116756521F;
    p = p * f + 0.11888162F;
    p = p * f - 0.124055885F;
    p = p * f + 0.142195523F;
    p = p * f - 0.166679963F;
    p = p * f + 0.200021192F;
    p = p * f - 0.250000089F;
    p = p * f + 0.333333135F;
    float y = f * z * p + e * TN_LN2_LOW;
    y = y - 0.5F * z;
    return (f + y) + e * TN_LN2_HIGH;
}

/* x = 2^e m with m in [sqrt(1/2), sqrt(2)); x positive and normal. */
static inline int32_t tn_split_f32(float x, float *m)
{
    uint32_t bits = tn_f32_bits(x) - 0x3f3504f3u; /* the bits of sqrt(1/2) */
    *m = tn_f32_from_bits((bits & 0x7fffffu) + 0x3f3504f3u);
    return (int32_t)bits >> 23;
}

static inline float tn_log_f32(float x)
{
    float m, subnormal = x < 0x1p-126F ? 1.0F : 0.0F;
    int32_t e = tn_split_f32(x < 0x1p-126F ? x * 0x1p23F : x, &m);
    float y = tn_log_reduced(m - 1.0F, (float)e - 23.0F * subnormal);
    y = x > 0.0F ? y : NAN;
    y = x == 0.0F ? -INFINITY : y;
    return x == INFINITY ? x : y;
}

static inline float tn_log1p_f32(float x)
{
    float u = 1.0F + x, lost = x - (u - 1.0F), m;
    int32_t e = tn_split_f32(u, &m);
    int32_t shift = e > 60 ? 60 : e; /* beyond, nothing was lost */
    float f = (m - 1.0F) + (x > 0x1p24F ? 0.0F : lost) * tn_power_of_two(-shift);
    _Bool near = x > -0.29F && x < 0.41F; /* no splitting: x itself is f, exactly */
    float y = tn_log_reduced(near ? x : f, near ? 0.0F : (float)e);
    y = u > 0.0F ? y : NAN;
    y = u == 0.0F ? -INFINITY : y;
    return x == INFINITY ? x : y;
}

static inline float tn_with_sign(float magnitude, float sign)
{
    return tn_f32_from_bits(tn_f32_bits(magnitude) | (tn_f32_bits(sign) & 0x80000000u));
}

static inline float tn_abs_f32(float x) { return tn_f32_from_bits(tn_f32_bits(x) & 0x7fffffffu); }

static inline float tn_tanh_f32(float x)
{
    float a = tn_abs_f32(x);
    a = a > 10.0F ? 10.0F : a;
    float e = tn_expm1_f32(2.0F * a);
    return tn_with_sign(e / (e + 2.0F), x);
}

static inline float tn_sigmoid_f32(float x)
{
    float e = tn_exp_f32(-tn_abs_f32(x)), r = 1.0F / (1.0F + e);
    return x >= 0.0F ? r : e * r;
}

static inline float tn_softplus_f32(float x)
{
    return (x > 0.0F ? x : 0.0F) + tn_log1p_f32(tn_exp_f32(-tn_abs_f32(x)));
}

/* Below 1 an odd polynomial, above 1 - exp(polynomial for log erfc). */
static inline float tn_erf_f32(float x)
{
    float a = tn_abs_f32(x), z = a * a;
    float p = 7.85386364e-05F;
    p = p * z - 0.000801019429F;
    p = p * z + 0.00518832775F;
    p = p * z - 0.0268538129F;
    p = p * z + 0.112835854F;
    p = p * z - 0.37612626F;
    p = p * z + 1.12837911F;
    float t = a > 4.0F ? 4.0F : a;
    float q = 0.000186378966F;
    q = q * t - 0.0029476562F;
    q = q * t + 0.0218380559F;
    q = q * t - 0.103106737F;
    q = q * t - 0.638144851F;
    q = q * t - 1.12708914F;
    q = q * t - 0.000341525243F;
    return tn_with_sign(a < 1.0F ? a * p : 1.0F - tn_exp_f32(q), x);
}

#define TN_SQRT_HALF 0.707106781186547524F
#define TN_GELU_SLOPE 0.797884560802865356F /* sqrt(2 / pi) */
#define TN_GELU_CUBIC 0.044715F

static inline float tn_gelu_f32(float x)
{
    return 0.5F * x * (1.0F + tn_erf_f32(x * TN_SQRT_HALF));
}

static inline float tn_gelu_grad_f32(float x)
{
    float density = 0.398942280401432678F * tn_exp_f32(-0.5F * x * x);
    return 0.5F * (1.0F + tn_erf_f32(x * TN_SQRT_HALF)) + x * density;
}

/* (1 + tanh u)/2 is the sigmoid of 2u. */
static inline float tn_gelu_tanh_f32(float x)
{
    return x * tn_sigmoid_f32(2.0F * TN_GELU_SLOPE * x * (1.0F + TN_GELU_CUBIC * x * x));
}

/* The sigmoid s of x and s (1 - s), both without cancellation. */
static inline float tn_sigmoid_slope_f32(float x, float *slope)
{
    float e = tn_exp_f32(-tn_abs_f32(x)), r = 1.0F / (1.0F + e);
    *slope = e * r * r;
    return x >= 0.0F ? r : e * r;
}

static inline float tn_gelu_tanh_grad_f32(float x)
{
    float square = x * x, steepness;
    float s = tn_sigmoid_slope_f32(2.0F * TN_GELU_SLOPE * x * (1.0F + TN_GELU_CUBIC * square),
                                   &steepness);
    return s + x * (2.0F * TN_GELU_SLOPE * (1.0F + 3.0F * TN_GELU_CUBIC * square)) * steepness;
}

static inline float tn_silu_f32(float x) { return x * tn_sigmoid_f32(x); }

static inline float tn_silu_grad_f32(float x)
{
    float steepness, s = tn_sigmoid_slope_f32(x, &steepness);
    return s + x * steepness;
}

/* sin(x + quarter pi/2) for |x| < 2^23. The multiple of pi/2 is taken off in f64. */
static inline float tn_sine_f32(float x, int32_t quarter)
{
    const double rounder = 0x1.8p52, high = 0x1.921fb54p0,
                 low = 0x1.10b4611a62633p-30; /* high + low = pi/2 */
    double wide = (double)x, shifted = wide * 0.63661977236758134308 + rounder,
           n = shifted - rounder;
    float r = (float)((wide - n * high) - n * low), z = r * r;
    float s = -0.000195146320F;
    s = s * z + 0.00833215564F;
    s = s * z - 0.166666552F;
    s = r + r * z * s;
    float c = 2.44324128e-05F;
    c = c * z - 0.00138873095F;
    c = c * z + 0.0416666456F;
    c = 1.0F + z * (z * c - 0.5F);
    int32_t turn = (int32_t)n + quarter;
    float y = turn & 1 ? c : s;
    return turn & 2 ? -y : y;
}

static inline float tn_sin_f32(float x) { return tn_sine_f32(x, 0); }

static inline float tn_cos_f32(float x) { return tn_sine_f32(x, 1); }

/* a^b through f64, because the logarithm's error is multiplied by up to 104. What is special is
 * put right afterwards, in f32: loops that mix comparisons of both widths do not become vector
 * code. */
static inline float tn_pow_f32(float a, float b)
{
    const double log2_e = 1.44269504088896340736, ln2 = 0.693147180559945309417;
    float x = tn_abs_f32(a), m, subnormal = x < 0x1p-126F ? 1.0F : 0.0F;
    float e = (float)tn_split_f32(x < 0x1p-126F ? x * 0x1p23F : x, &m) - 23.0F * subnormal;
    double wide = (double)m, s = (wide - 1.0) / (wide + 1.0), z = s * s, p = 0.19584065869965817;
    p = p * z + 0.22176193674654345;
    p = p * z + 0.28572109070986701;
    p = p * z + 0.39999995622360418;
    p = p * z + 0.66666666675800323;
    double y = (double)b * (s * (p * z + 2.0) + (double)e * ln2);
    y = y > 89.0 ? 89.0 : y;
    y = y < -105.0 ? -105.0 : y;
    double shifted = y * log2_e + 0x1.8p52, rounded = shifted - 0x1.8p52, r = y - rounded * ln2,
           q = 0.00019790340350607055;
    q = q * r + 0.0013944659610247499;
    q = q * r + 0.0083334970774805173;
    q = q * r + 0.041666294947975045;
    q = q * r + 0.16666665868921016;
    q = q * r + 0.5000000067681557;
    float power = (float)(1.0 + r + r * r * q);
    int32_t n = (int32_t)(tn_f32_bits((float)rounded + TN_ROUNDER) - tn_f32_bits(TN_ROUNDER)),
            half = n >> 1;
    power = power * tn_power_of_two(half) * tn_power_of_two(n - half);

    float at_zero = b > 0.0F ? 0.0F : INFINITY, at_infinity = b > 0.0F ? INFINITY : 0.0F;
    power = x == 0.0F ? at_zero : power;
    power = x == INFINITY ? at_infinity : power;
    power = x == 1.0F ? 1.0F : power; /* b may be infinite */
    float half_b = 0.5F * b, odd = floorf(half_b) != half_b ? -1.0F : 1.0F;
    float fraction = x == 0.0F ? 1.0F : x == INFINITY ? 1.0F : NAN;
    float factor = floorf(b) == b ? odd : fraction;
    power = tn_with_sign(1.0F, a) < 0.0F ? power * factor : power;
    power = b != b ? b : power;
    power = x != x ? x : power;
    power = b == 0.0F ? 1.0F : power;
    return a == 1.0F ? 1.0F : power;
}

#endif
