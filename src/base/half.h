/* The two 16-bit floats, in plain C that compilers vectorise: bf16 and f16 from and to f32.
 * Rounding is to nearest, ties to even; NaN stays NaN (made quiet), infinity and the sign of zero
 * stay. */
#ifndef TN_BASE_HALF_H
#define TN_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t tn_f32_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float tn_f32_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float tn_f32_from_bf16(uint16_t x) { return tn_f32_from_bits((uint32_t)x << 16); }

static inline uint16_t tn_bf16_from_f32(float x)
{
    uint32_t bits = tn_f32_bits(x);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    uint32_t quiet = bits >> 16 | 0x40; /* rounding could carry a NaN's mantissa into infinity */
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
}

/* f16 has 5 bits of exponent (bias 15) and 10 of mantissa. Shifting them into f32's place leaves an
 * exponent that is 112 too small; one multiplication by 2^112 corrects it, subnormals included. */
static inline float tn_f32_from_f16(uint16_t x)
{
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, magnitude = x & 0x7fff;
    float scaled = tn_f32_from_bits(magnitude << 13) * 0x1p112F;
    uint32_t special = 0x7f800000 | magnitude << 13 | (magnitude > 0x7c00 ? 0x400000 : 0);
    return tn_f32_from_bits(sign | (magnitude >= 0x7c00 ? special : tn_f32_bits(scaled)));
}

static inline uint16_t tn_f16_from_f32(float x)
{
    uint32_t bits = tn_f32_bits(x);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    /* normal results: exponent less 112, mantissa rounded; a carry runs into the exponent as it
     * should (at 65520 into infinity) */
    uint32_t normal = (magnitude - (112U << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    /* subnormal results, multiples of 2^-24: adding 0.5, whose last bit is worth 2^-24, lets the
     * adder round */
    uint32_t subnormal = tn_f32_bits(tn_f32_from_bits(magnitude) + 0.5F) - 0x3f000000;
    uint32_t result = magnitude < (113U << 23) ? subnormal : normal;
    if (magnitude >= 0x47800000) result = 0x7c00; /* 65536 and up */
    if (magnitude > 0x7f800000) result = 0x7e00 | (magnitude >> 13 & 0x1ff);
    return (uint16_t)(sign | result);
}

#endif
