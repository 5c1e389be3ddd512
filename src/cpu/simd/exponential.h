/* Powers of two and what is made of them, for the inner loops of attention and the recurrent
 * networks: cheaper than the functions of vector_math.h, because arguments that these loops cannot
 * have are left out. */
#ifndef TN_CPU_SIMD_EXPONENTIAL_H
#define TN_CPU_SIMD_EXPONENTIAL_H

#include "cpu/simd/float_lanes.h"

/* 2^x for x <= 126: below -126 it is 0 (or, on AVX-512, subnormal), for -inf too; NaN stays NaN.
 * Error below 2 ulp. 2^f on [-1/2, 1/2] by 1 + f times the interpolation of (2^f - 1)/f at
 * Chebyshev nodes (relative error 1e-8). */
TN_VEC_INLINE tn_vec tn_vec_exp2(tn_vec x)
{
    x = tn_vec_max(tn_vec_all(-200.0F), x);
    tn_vec shifted = x + TN_ROUNDER, n = shifted - TN_ROUNDER, f = x - n;
    tn_vec p = f * 1.545316294e-4F + 1.339086336e-3F;
    p = p * f + 9.618082557e-3F;
    p = p * f + 5.550357114e-2F;
    p = p * f + 2.402265076e-1F;
    p = p * f + 6.931471880e-1F;
    p = p * f + 1.0F;
#if TN_VEC == 16
    return (tn_vec)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    return tn_vec_keep(~(x < -126.0F), (tn_vec)((tn_vec_bits)p + ((tn_vec_bits)shifted << 23)));
#endif
}

/* The same for one number. */
static inline float tn_exp2_f32(float x) { return tn_vec_exp2(tn_vec_all(x))[0]; }

/* 1/x for 2^-126 < x < 2^126, to about 1 ulp. */
TN_VEC_INLINE tn_vec tn_vec_reciprocal(tn_vec x)
{
#if TN_VEC == 16
    tn_vec r = (tn_vec)_mm512_rcp14_ps(
        (__m512)x); /* a division keeps the unit busy for 10 cycles, this for 2 */
    return r + r * (1 - x * r);
#else
    return 1 / x;
#endif
}

TN_VEC_INLINE tn_vec tn_vec_sigmoid(tn_vec x)
{
    tn_vec power = -tn_vec_max(tn_vec_all(-125.0F),
                               x * TN_LOG2_E); /* in this order NaN passes through */
    return tn_vec_reciprocal(1 + tn_vec_exp2(power));
}

/* 1 - 2/(e^2x + 1), and near 0, where that cancels, an odd polynomial. Source: Moshier's Cephes,
 * tanhf. */
TN_VEC_INLINE tn_vec tn_vec_tanh(tn_vec x)
{
    tn_vec power = -tn_vec_max(tn_vec_all(-125.0F), x * (-2 * TN_LOG2_E)), square = x * x;
    tn_vec far = 1 - 2 * tn_vec_reciprocal(1 + tn_vec_exp2(power));
    tn_vec p = square * -5.70498872745e-3F + 2.06390887954e-2F;
    p = p * square - 5.37397155531e-2F;
    p = p * square + 1.33314422036e-1F;
    p = p * square - 3.33332819422e-1F;
    return tn_vec_select(square < 0.390625F, x + x * square * p, far);
}

#endif
