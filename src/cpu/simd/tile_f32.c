/* Tile instructions in f32: one loop each, which the compiler turns into vector code. */
#include <math.h>

#include "cpu/simd/tile_set.h"
#include "cpu/simd/vector_math.h"

/* ---- one operand ------------------------------------------------------------------------- */

#define UNARY(name, expression)                                                                    \
    static void name(void *out, const void *a, const void *b, const void *c, int64_t n,            \
                     const tn_tile_scalars *s)                                                     \
    {                                                                                              \
        float *y = out;                                                                            \
        const float *u = a, p = s->f[0], q = s->f[1];                                              \
        (void)b, (void)c, (void)p, (void)q;                                                        \
        TN_SIMD for (int64_t i = 0; i < n; i++)                                                    \
        {                                                                                          \
            float x = u[i];                                                                        \
            y[i] = expression;                                                                     \
        }                                                                                          \
    }

UNARY(neg, -x)
UNARY(absolute, tn_abs_f32(x))
UNARY(sign, x > 0.0F ? 1.0F : x < 0.0F ? -1.0F : x)
UNARY(exponential, tn_exp_f32(x))
UNARY(logarithm, tn_log_f32(x))
UNARY(log1p_, tn_log1p_f32(x))
UNARY(expm1_, tn_expm1_f32(x))
UNARY(square_root, sqrtf(x))
UNARY(reciprocal_root, 1.0F / sqrtf(x))
UNARY(reciprocal, 1.0F / x)
UNARY(square, x *x)
UNARY(sine_small, tn_sin_f32(x))
UNARY(cosine_small, tn_cos_f32(x))
UNARY(tangent, tn_tanh_f32(x))
UNARY(error_function, tn_erf_f32(x))
UNARY(sigmoid, tn_sigmoid_f32(x))
UNARY(softplus, tn_softplus_f32(x))
UNARY(relu, x < 0.0F ? 0.0F : x)
UNARY(gelu, tn_gelu_f32(x))
UNARY(gelu_tanh, tn_gelu_tanh_f32(x))
UNARY(silu, tn_silu_f32(x))
UNARY(round_down, floorf(x))
UNARY(round_up, ceilf(x))
UNARY(round_even, rintf(x))
UNARY(negation, x == 0.0F ? 1.0F : 0.0F)
UNARY(is_finite, tn_abs_f32(x) < INFINITY ? 1.0F : 0.0F)
UNARY(leaky_relu, x > 0.0F ? x : x * p)
UNARY(clamp, x<p ? p : x> q ? q : x)
UNARY(affine, x *p + q)
UNARY(cube, x *x *x)
UNARY(fourth, (x * x) * (x * x))
UNARY(general_power, tn_pow_f32(x, p))

/* The vector code holds for |x| < 2^23; the few values beyond are done one by one. */
static bool any_large(const float *x, int64_t n)
{
    int large = 0;
    TN_SIMD_SUM(large)
    for (int64_t i = 0; i < n; i++)
        large += tn_abs_f32(x[i]) >= 0x1p23F && tn_abs_f32(x[i]) < INFINITY;
    return large != 0;
}

#define TRIGONOMETRIC(name, small, exact)                                                          \
    static void name(void *out, const void *a, const void *b, const void *c, int64_t n,            \
                     const tn_tile_scalars *s)                                                     \
    {                                                                                              \
        const float *x = a;                                                                        \
        float *y = out;                                                                            \
        if (!any_large(x, n)) small(out, a, b, c, n, s);                                           \
        else                                                                                       \
            for (int64_t i = 0; i < n; i++) y[i] = exact(x[i]);                                    \
    }
TRIGONOMETRIC(sine, sine_small, sinf)
TRIGONOMETRIC(cosine, cosine_small, cosf)

static void power(void *out, const void *a, const void *b, const void *c, int64_t n,
                  const tn_tile_scalars *s)
{
    (s->f[0] == 3.0F ? cube : s->f[0] == 4.0F ? fourth : general_power)(out, a, b, c, n, s);
}

/* ---- two operands ------------------------------------------------------------------------ */

/* Three forms: vector with vector, scalar with vector, vector with scalar. */
#define BINARY_FORM(name, index_a, index_b, expression)                                            \
    static void name(void *out, const void *a, const void *b, const void *c, int64_t n,            \
                     const tn_tile_scalars *s)                                                     \
    {                                                                                              \
        float *z = out;                                                                            \
        const float *u = a, *v = b;                                                                \
        (void)c, (void)s;                                                                          \
        TN_SIMD for (int64_t i = 0; i < n; i++)                                                    \
        {                                                                                          \
            float x = u[index_a], y = v[index_b];                                                  \
            z[i] = expression;                                                                     \
        }                                                                                          \
    }
/* A scalar is read before the loop, since the compiler cannot know that it is not overwritten. */
#define BINARY_SCALAR_FORM(name, declare, index_a, index_b, expression)                            \
    static void name(void *out, const void *a, const void *b, const void *c, int64_t n,            \
                     const tn_tile_scalars *s)                                                     \
    {                                                                                              \
        float *z = out;                                                                            \
        const float *u = a, *v = b;                                                                \
        (void)c, (void)s;                                                                          \
        declare;                                                                                   \
        TN_SIMD for (int64_t i = 0; i < n; i++)                                                    \
        {                                                                                          \
            float x = index_a, y = index_b;                                                        \
            z[i] = expression;                                                                     \
        }                                                                                          \
    }
#define BINARY(name, expression)                                                                   \
    BINARY_FORM(name##_vv, i, i, expression)                                                       \
    BINARY_SCALAR_FORM(name##_sv, const float scalar = u[0], scalar, v[i], expression)             \
    BINARY_SCALAR_FORM(name##_vs, const float scalar = v[0], u[i], scalar, expression)

BINARY(add, x + y)
BINARY(subtract, x - y)
BINARY(multiply, x *y)
BINARY(divide, x / y)
BINARY(maximum, x > y || x != x ? x : y)
BINARY(minimum, x < y || x != x ? x : y)
BINARY(power_of, tn_pow_f32(x, y))
BINARY(equal, x == y ? 1.0F : 0.0F)
BINARY(not_equal, x != y ? 1.0F : 0.0F)
BINARY(less, x < y ? 1.0F : 0.0F)
BINARY(less_equal, x <= y ? 1.0F : 0.0F)
BINARY(both, x != 0.0F && y != 0.0F ? 1.0F : 0.0F)
BINARY(either, x != 0.0F || y != 0.0F ? 1.0F : 0.0F)
BINARY(greater, x > y ? 1.0F : 0.0F)
BINARY(greater_equal, x >= y ? 1.0F : 0.0F)
BINARY(relu_grad, x > 0.0F ? y : 0.0F)
BINARY_FORM(gelu_grad, i, i, y *tn_gelu_grad_f32(x))
BINARY_FORM(gelu_tanh_grad, i, i, y *tn_gelu_tanh_grad_f32(x))
BINARY_FORM(silu_grad, i, i, y *tn_silu_grad_f32(x))

static float modulo_of(float x, float y)
{
    float r = fmodf(x, y);
    return r != 0.0F && (r < 0.0F) != (y < 0.0F) ? r + y : r;
}
BINARY_FORM(modulo, i, i, modulo_of(x, y))

/* ---- three operands ---------------------------------------------------------------------- */

#define TERNARY_FORM(name, declare, first, second, third, expression)                              \
    static void name(void *out, const void *a, const void *b, const void *c, int64_t n,            \
                     const tn_tile_scalars *s)                                                     \
    {                                                                                              \
        float *w = out;                                                                            \
        const float *t = a, *u = b, *v = c;                                                        \
        (void)s, (void)t, (void)u, (void)v;                                                        \
        declare;                                                                                   \
        TN_SIMD for (int64_t i = 0; i < n; i++)                                                    \
        {                                                                                          \
            float x = first, y = second, z = third;                                                \
            w[i] = expression;                                                                     \
        }                                                                                          \
    }

#define NOTHING (void)0
TERNARY_FORM(where_vvv, NOTHING, t[i], u[i], v[i], x != 0.0F ? y : z)
TERNARY_FORM(where_vsv, const float p = u[0], t[i], p, v[i], x != 0.0F ? y : z)
TERNARY_FORM(where_vvs, const float q = v[0], t[i], u[i], q, x != 0.0F ? y : z)
static void where_vss(void *out, const void *a, const void *b, const void *c, int64_t n,
                      const tn_tile_scalars *s)
{
    (void)s;
    float *w = out;
    const float *t = a, p = *(const float *)b, q = *(const float *)c;
    TN_SIMD for (int64_t i = 0; i < n; i++) w[i] = t[i] != 0.0F ? p : q;
}

TERNARY_FORM(multiply_add_vvv, NOTHING, t[i], u[i], v[i], x *y + z)
TERNARY_FORM(multiply_add_vsv, const float p = u[0], t[i], p, v[i], x *y + z)
TERNARY_FORM(multiply_add_vvs, const float q = v[0], t[i], u[i], q, x *y + z)
static void multiply_add_vss(void *out, const void *a, const void *b, const void *c, int64_t n,
                             const tn_tile_scalars *s)
{
    (void)s;
    float *w = out;
    const float *t = a, p = *(const float *)b, q = *(const float *)c;
    TN_SIMD for (int64_t i = 0; i < n; i++) w[i] = t[i] * p + q;
}

/* ---- table ------------------------------------------------------------------------------- */

#define ONE(id, function)                                                                          \
    {                                                                                              \
        TN_OP_##id, { [0] = function }                                                             \
    }
#define TWO(id, name)                                                                              \
    {                                                                                              \
        TN_OP_##id,                                                                                \
        {                                                                                          \
            [0] = name##_vv, [TN_TILE_SCALAR_A] = name##_sv, [TN_TILE_SCALAR_B] = name##_vs        \
        }                                                                                          \
    }

static const tn_tile_row rows[] = {
    ONE(NEG, neg),
    ONE(ABS, absolute),
    ONE(SIGN, sign),
    ONE(EXP, exponential),
    ONE(LOG, logarithm),
    ONE(LOG1P, log1p_),
    ONE(EXPM1, expm1_),
    ONE(SQRT, square_root),
    ONE(RSQRT, reciprocal_root),
    ONE(RECIPROCAL, reciprocal),
    ONE(SQUARE, square),
    ONE(SIN, sine),
    ONE(COS, cosine),
    ONE(TANH, tangent),
    ONE(ERF, error_function),
    ONE(SIGMOID, sigmoid),
    ONE(SOFTPLUS, softplus),
    ONE(RELU, relu),
    ONE(GELU, gelu),
    ONE(GELU_TANH, gelu_tanh),
    ONE(SILU, silu),
    ONE(FLOOR, round_down),
    ONE(CEIL, round_up),
    ONE(ROUND, round_even),
    ONE(NOT, negation),
    ONE(IS_FINITE, is_finite),
    ONE(LEAKY_RELU, leaky_relu),
    ONE(CLAMP, clamp),
    ONE(AFFINE, affine),
    ONE(POWER, power),
    ONE(GELU_GRAD, gelu_grad),
    ONE(GELU_TANH_GRAD, gelu_tanh_grad),
    ONE(SILU_GRAD, silu_grad),
    ONE(MOD, modulo),
    TWO(RELU_GRAD, relu_grad),
    TWO(ADD, add),
    TWO(SUBTRACT, subtract),
    TWO(MULTIPLY, multiply),
    TWO(DIVIDE, divide),
    TWO(MAXIMUM, maximum),
    TWO(MINIMUM, minimum),
    TWO(POW, power_of),
    TWO(EQUAL, equal),
    TWO(NOT_EQUAL, not_equal),
    TWO(LESS, less),
    TWO(LESS_EQUAL, less_equal),
    TWO(GREATER, greater),
    TWO(GREATER_EQUAL, greater_equal),
    TWO(AND, both),
    TWO(OR, either),
    {TN_OP_WHERE,
     {[0] = where_vvv,
      [TN_TILE_SCALAR_B] = where_vsv,
      [TN_TILE_SCALAR_C] = where_vvs,
      [TN_TILE_SCALAR_B | TN_TILE_SCALAR_C] = where_vss}},
};

void TN_ISA(tn_tile_add_f32)(tn_tile_set *set)
{
    set->row[TN_TILE_F32] = rows;
    set->row_count[TN_TILE_F32] = sizeof rows / sizeof *rows;
    set->multiply_add[0] = multiply_add_vvv;
    set->multiply_add[TN_TILE_SCALAR_B] = multiply_add_vsv;
    set->multiply_add[TN_TILE_SCALAR_C] = multiply_add_vvs;
    set->multiply_add[TN_TILE_SCALAR_B | TN_TILE_SCALAR_C] = multiply_add_vss;
}
