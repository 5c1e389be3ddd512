/* Vectors of f32 that are loaded from and stored to f32, bf16 and f16 arrays: what norms,
 * softmax and losses are written in.
 *
 * A file that includes it is compiled once per instruction set. The dtype is a constant wherever
 * these functions are inlined, so that a loop over one body serves all three types; arithmetic
 * is always f32, rounded once at the store. */
#ifndef TN_CPU_SIMD_FLOAT_LANES_H
#define TN_CPU_SIMD_FLOAT_LANES_H

#include <string.h>

#include "base/half.h"
#include "cpu/simd/vector_math.h"
#include "tenon/graph.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define TN_VEC 16
#elif defined(__AVX2__)
#define TN_VEC 8
#else
#define TN_VEC 4
#endif

/* Products of bf16 pairs (vdpbf16ps): compiled in, used where the machine has the instruction. */
#if TN_VEC == 16 && (defined(__GNUC__) || defined(__clang__))
#define TN_HAS_PAIRS 1
#define TN_PAIRS __attribute__((target("avx512bf16")))
#endif

static inline bool tn_machine_has_pairs(void)
{
#ifdef TN_HAS_PAIRS
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

#define TN_VEC_INLINE static inline __attribute__((always_inline, unused))

typedef float tn_vec __attribute__((vector_size(4 * TN_VEC)));
typedef int32_t tn_vec_bits
    __attribute__((vector_size(4 * TN_VEC))); /* -1 or 0 in a lane: the result of a comparison */
typedef uint32_t tn_vec_word __attribute__((vector_size(4 * TN_VEC)));
typedef uint16_t tn_vec_half __attribute__((vector_size(2 * TN_VEC)));

TN_VEC_INLINE tn_vec tn_vec_all(float x) { return x - (tn_vec){0}; }

TN_VEC_INLINE tn_vec tn_vec_select(tn_vec_bits mask, tn_vec yes, tn_vec no)
{
    return (tn_vec)((mask & (tn_vec_bits)yes) | (~mask & (tn_vec_bits)no));
}

/* yes where the mask holds, else 0. */
TN_VEC_INLINE tn_vec tn_vec_keep(tn_vec_bits mask, tn_vec yes)
{
    return (tn_vec)(mask & (tn_vec_bits)yes);
}

/* The larger; b where either is NaN. */
TN_VEC_INLINE tn_vec tn_vec_max(tn_vec a, tn_vec b)
{
#if TN_VEC == 16
    return (tn_vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif TN_VEC == 8
    return (tn_vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE__)
    return (tn_vec)_mm_max_ps((__m128)a, (__m128)b);
#else
    return tn_vec_select(a > b, a, b);
#endif
}

/* The smaller; b where either is NaN. */
TN_VEC_INLINE tn_vec tn_vec_min(tn_vec a, tn_vec b)
{
#if TN_VEC == 16
    return (tn_vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif TN_VEC == 8
    return (tn_vec)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE__)
    return (tn_vec)_mm_min_ps((__m128)a, (__m128)b);
#else
    return tn_vec_select(a < b, a, b);
#endif
}

/* Lanes 0 .. count-1. */
TN_VEC_INLINE tn_vec_bits tn_vec_first(int count)
{
#if TN_VEC == 16
    return (tn_vec_bits)_mm512_movm_epi32((__mmask16)((1u << count) - 1));
#endif
    tn_vec_bits lane;
    for (int i = 0; i < TN_VEC; i++) lane[i] = i;
    return lane < count;
}

/* d where z > 0, else 0. */
TN_VEC_INLINE tn_vec tn_vec_where_positive(tn_vec z, tn_vec d)
{
#if TN_VEC == 16
    return (tn_vec)_mm512_maskz_mov_ps(
        _mm512_cmp_ps_mask((__m512)z, _mm512_setzero_ps(), _CMP_GT_OQ), (__m512)d);
#else
    return tn_vec_keep(z > 0, d);
#endif
}

/* Sum, halves onto halves; and the largest lane, NaN passed over where it can be. */
#if defined(__SSE__)
TN_VEC_INLINE float tn_vec_sum(tn_vec x)
{
#if TN_VEC == 16
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256((__m512)x),
                             _mm512_extractf32x8_ps((__m512)x, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
#elif TN_VEC == 8
    __m128 q = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
#else
    __m128 q = (__m128)x;
#endif
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}

TN_VEC_INLINE float tn_vec_highest(tn_vec x)
{
#if TN_VEC == 16
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256((__m512)x),
                             _mm512_extractf32x8_ps((__m512)x, 1));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
#elif TN_VEC == 8
    __m128 q = _mm_max_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
#else
    __m128 q = (__m128)x;
#endif
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}
#else
TN_VEC_INLINE float tn_vec_sum(tn_vec x) { return (x[0] + x[2]) + (x[1] + x[3]); }

TN_VEC_INLINE float tn_vec_highest(tn_vec x)
{
    float a = x[0] > x[2] ? x[0] : x[2], b = x[1] > x[3] ? x[1] : x[3];
    return a > b ? a : b;
}
#endif

/* tn_exp_f32 lane by lane, with its polynomial. */
TN_VEC_INLINE tn_vec tn_vec_exp(tn_vec x)
{
    x = tn_vec_max(tn_vec_all(-104.0F),
                   tn_vec_min(tn_vec_all(89.0F), x)); /* in this order NaN passes through */
    tn_vec shifted = x * TN_LOG2_E + TN_ROUNDER, n = shifted - TN_ROUNDER;
    tn_vec r = (x - n * TN_LN2_HIGH) - n * TN_LN2_LOW;
    tn_vec p = r * 0.00138145487F + 0.00836874545F;
    p = p * r + 0.041668389F;
    p = p * r + 0.166665211F;
    p = p * r + 0.49999994F;
    p = r * r * p + r + 1.0F;
#if TN_VEC == 16
    return (tn_vec)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    tn_vec_bits power = (tn_vec_bits)shifted - 0x4b400000,
                half = power >> 1; /* in two factors, for subnormal results */
    return p * (tn_vec)((half + 127) << 23) * (tn_vec)((power - half + 127) << 23);
#endif
}

/* ---- 16-bit floats --------------------------------------------------------------------------- */

/* To bf16: to nearest, ties to even; a NaN stays one. The intrinsics stand for what compilers
 * make of the plain form in twice as many instructions. */
#if TN_VEC == 16
TN_VEC_INLINE tn_vec tn_vec_from_bf16(tn_vec_half x)
{
    return (tn_vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)x), 16);
}
TN_VEC_INLINE tn_vec_half tn_vec_to_bf16(tn_vec x)
{
    __m512i bits = (__m512i)x,
            odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    return (tn_vec_half)_mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
#else
TN_VEC_INLINE tn_vec_word tn_vec_round_bf16(tn_vec x) /* in the low halves */
{
    tn_vec_word bits = (tn_vec_word)x, nan = (tn_vec_word)(x != x);
    tn_vec_word rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (rounded & ~nan) | ((bits >> 16 | 0x40) & nan);
}
#if TN_VEC == 8
TN_VEC_INLINE tn_vec tn_vec_from_bf16(tn_vec_half x)
{
    return (tn_vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)x), 16);
}
TN_VEC_INLINE tn_vec_half tn_vec_to_bf16(tn_vec x)
{
    __m256i r = (__m256i)tn_vec_round_bf16(x);
    return (tn_vec_half)_mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}
#else
TN_VEC_INLINE tn_vec tn_vec_from_bf16(tn_vec_half x)
{
    return (tn_vec)(__builtin_convertvector(x, tn_vec_word) << 16);
}
TN_VEC_INLINE tn_vec_half tn_vec_to_bf16(tn_vec x)
{
    return __builtin_convertvector(tn_vec_round_bf16(x), tn_vec_half);
}
#endif
#endif

#if TN_VEC == 16
TN_VEC_INLINE tn_vec tn_vec_from_f16(tn_vec_half x) { return (tn_vec)_mm512_cvtph_ps((__m256i)x); }
TN_VEC_INLINE tn_vec_half tn_vec_to_f16(tn_vec x)
{
    return (tn_vec_half)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif TN_VEC == 8 && defined(__F16C__)
TN_VEC_INLINE tn_vec tn_vec_from_f16(tn_vec_half x) { return (tn_vec)_mm256_cvtph_ps((__m128i)x); }
TN_VEC_INLINE tn_vec_half tn_vec_to_f16(tn_vec x)
{
    return (tn_vec_half)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#else /* lane by lane, and not inlined: it is long */
static __attribute__((noinline, unused)) tn_vec tn_vec_from_f16(tn_vec_half x)
{
    tn_vec out;
    for (int i = 0; i < TN_VEC; i++) out[i] = tn_f32_from_f16(x[i]);
    return out;
}
static __attribute__((noinline, unused)) tn_vec_half tn_vec_to_f16(tn_vec x)
{
    tn_vec_half out;
    for (int i = 0; i < TN_VEC; i++) out[i] = tn_f16_from_f32(x[i]);
    return out;
}
#endif

/* ---- loads and stores: element i of an array of f32, bf16 or f16 ----------------------------- */

TN_VEC_INLINE tn_vec tn_vec_load(tn_dtype dtype, const void *x, int64_t i)
{
    if (dtype == TN_F32) {
        tn_vec out;
        memcpy(&out, (const float *)x + i, sizeof out);
        return out;
    }
    tn_vec_half half;
    memcpy(&half, (const uint16_t *)x + i, sizeof half);
    return dtype == TN_BF16 ? tn_vec_from_bf16(half) : tn_vec_from_f16(half);
}

TN_VEC_INLINE void tn_vec_store(tn_dtype dtype, void *y, int64_t i, tn_vec x)
{
    if (dtype == TN_F32) {
        memcpy((float *)y + i, &x, sizeof x);
        return;
    }
    tn_vec_half half = dtype == TN_BF16 ? tn_vec_to_bf16(x) : tn_vec_to_f16(x);
    memcpy((uint16_t *)y + i, &half, sizeof half);
}

/* The first `count` lanes, 0 <= count <= TN_VEC; zeros in the others. */
TN_VEC_INLINE tn_vec tn_vec_load_part(tn_dtype dtype, const void *x, int64_t i, int count)
{
#if TN_VEC == 16
    __mmask16 mask = (__mmask16)((1u << count) - 1);
    if (dtype == TN_F32) return (tn_vec)_mm512_maskz_loadu_ps(mask, (const float *)x + i);
    tn_vec_half half = (tn_vec_half)_mm256_maskz_loadu_epi16(mask, (const uint16_t *)x + i);
#else
    if (dtype == TN_F32) {
        tn_vec out = {0};
        for (int k = 0; k < count; k++) out[k] = ((const float *)x)[i + k];
        return out;
    }
    tn_vec_half half = {0};
    for (int k = 0; k < count; k++) half[k] = ((const uint16_t *)x)[i + k];
#endif
    return dtype == TN_BF16 ? tn_vec_from_bf16(half) : tn_vec_from_f16(half);
}

TN_VEC_INLINE void tn_vec_store_part(tn_dtype dtype, void *y, int64_t i, tn_vec x, int count)
{
#if TN_VEC == 16
    __mmask16 mask = (__mmask16)((1u << count) - 1);
    if (dtype == TN_F32) {
        _mm512_mask_storeu_ps((float *)y + i, mask, (__m512)x);
        return;
    }
    tn_vec_half half = dtype == TN_BF16 ? tn_vec_to_bf16(x) : tn_vec_to_f16(x);
    _mm256_mask_storeu_epi16((uint16_t *)y + i, mask, (__m256i)half);
#else
    if (dtype == TN_F32) {
        for (int k = 0; k < count; k++) ((float *)y)[i + k] = x[k];
        return;
    }
    tn_vec_half half = dtype == TN_BF16 ? tn_vec_to_bf16(x) : tn_vec_to_f16(x);
    for (int k = 0; k < count; k++) ((uint16_t *)y)[i + k] = half[k];
#endif
}

/* `count` lanes, whole vectors without a mask when count is the constant TN_VEC. */
TN_VEC_INLINE tn_vec tn_vec_get(tn_dtype dtype, const void *x, int64_t i, int count)
{
    return count == TN_VEC ? tn_vec_load(dtype, x, i) : tn_vec_load_part(dtype, x, i, count);
}

TN_VEC_INLINE void tn_vec_put(tn_dtype dtype, void *y, int64_t i, tn_vec x, int count)
{
    if (count == TN_VEC) tn_vec_store(dtype, y, i, x);
    else tn_vec_store_part(dtype, y, i, x, count);
}

/* ---- dispatch -------------------------------------------------------------------------------- */

/* Calls function(..., dtype) with the dtype as a constant, for a type that tn_vec_has. */
#define TN_FOR_FLOAT(dtype_, function, ...)                                                        \
    do {                                                                                           \
        if ((dtype_) == TN_F32) function(__VA_ARGS__, TN_F32);                                     \
        else if ((dtype_) == TN_BF16) function(__VA_ARGS__, TN_BF16);                              \
        else function(__VA_ARGS__, TN_F16);                                                        \
    } while (0)

TN_VEC_INLINE bool tn_vec_has(tn_dtype dtype)
{
    return dtype == TN_F32 || dtype == TN_BF16 || dtype == TN_F16;
}

#endif
