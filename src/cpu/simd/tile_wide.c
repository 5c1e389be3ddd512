/* Tile instructions in f64 and in i64, and casts between the classes. Correctness comes first
 * here; loops are plain. */
#include <math.h>

#include "base/half.h"
#include "cpu/simd/tile_set.h"

#define PI 3.14159265358979323846

/* out, operands and scalars in `type`; the result in `result`. */
#define INSTRUCTION(name, type, result, member, expression)                                        \
    static void name(void *out, const void *a, const void *b, const void *c, int64_t n,            \
                     const tn_tile_scalars *s)                                                     \
    {                                                                                              \
        result *to = out;                                                                          \
        const type *u = a, *v = b, p = s->member[0], q = s->member[1];                             \
        (void)c, (void)v, (void)p, (void)q;                                                        \
        for (int64_t i = 0; i < n; i++) to[i] = (result)(expression);                              \
    }

#define ONE(id, function)                                                                          \
    {                                                                                              \
        TN_OP_##id, { [0] = function }                                                             \
    }

/* ---- f64 --------------------------------------------------------------------------------- */

static double sigmoid_of(double x) { return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)); }
static double sign_of(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; }
static double softplus_of(double x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }
static double gelu_slope(double x)
{
    return 0.5 * (1 + erf(x * sqrt(0.5))) + x * exp(-0.5 * x * x) / sqrt(2 * PI);
}
static double silu_slope(double x) { return sigmoid_of(x) * (1 + x * (1 - sigmoid_of(x))); }
static double gelu_tanh_of(double x)
{
    return x * sigmoid_of(2 * sqrt(2 / PI) * (x + 0.044715 * x * x * x));
}

static double gelu_tanh_slope(double x)
{
    double s = sigmoid_of(2 * sqrt(2 / PI) * (x + 0.044715 * x * x * x));
    return s + x * 2 * sqrt(2 / PI) * (1 + 3 * 0.044715 * x * x) * s * (1 - s);
}

static double modulo_of(double x, double y)
{
    double r = fmod(x, y);
    return r != 0 && (r < 0) != (y < 0) ? r + y : r;
}

#define F64(name, expression) INSTRUCTION(name##_f64, double, double, d, expression)
#define F64_BOOL(name, expression) INSTRUCTION(name##_f64, double, float, d, expression)

F64(neg, -u[i])
F64(abs, fabs(u[i]))
F64(sign, sign_of(u[i]))
F64(exp, exp(u[i]))
F64(log, log(u[i]))
F64(log1p, log1p(u[i]))
F64(expm1, expm1(u[i]))
F64(sqrt, sqrt(u[i]))
F64(rsqrt, 1 / sqrt(u[i]))
F64(reciprocal, 1 / u[i])
F64(square, u[i] * u[i])
F64(sin, sin(u[i]))
F64(cos, cos(u[i]))
F64(tanh, tanh(u[i]))
F64(erf, erf(u[i]))
F64(sigmoid, sigmoid_of(u[i]))
F64(softplus, softplus_of(u[i]))
F64(relu, u[i] < 0 ? 0 : u[i])
F64(gelu, 0.5 * u[i] * (1 + erf(u[i] * sqrt(0.5))))
F64(gelu_tanh, gelu_tanh_of(u[i]))
F64(silu, u[i] * sigmoid_of(u[i]))
F64(floor, floor(u[i]))
F64(ceil, ceil(u[i]))
F64(round, rint(u[i]))
F64_BOOL(is_finite, isfinite(u[i]))
F64(leaky_relu, u[i] > 0 ? u[i] : u[i] * p)
F64(clamp, u[i]<p ? p : u[i]> q ? q : u[i])
F64(affine, u[i] * p + q)
F64(power, pow(u[i], p))
F64(relu_grad, u[i] > 0 ? v[i] : 0)
F64(gelu_grad, v[i] * gelu_slope(u[i]))
F64(gelu_tanh_grad, v[i] * gelu_tanh_slope(u[i]))
F64(silu_grad, v[i] * silu_slope(u[i]))
F64(add, u[i] + v[i])
F64(subtract, u[i] - v[i])
F64(multiply, u[i] * v[i])
F64(divide, u[i] / v[i])
F64(maximum, u[i] > v[i] || isnan(u[i]) ? u[i] : v[i])
F64(minimum, u[i] < v[i] || isnan(u[i]) ? u[i] : v[i])
F64(pow, pow(u[i], v[i]))
F64(mod, modulo_of(u[i], v[i]))
F64_BOOL(equal, u[i] == v[i])
F64_BOOL(not_equal, u[i] != v[i])
F64_BOOL(less, u[i] < v[i])
F64_BOOL(less_equal, u[i] <= v[i])
F64_BOOL(greater, u[i] > v[i])
F64_BOOL(greater_equal, u[i] >= v[i])

/* The condition is a bool, which is f32. */
#define WHERE(name, type)                                                                          \
    static void name(void *out, const void *a, const void *b, const void *c, int64_t n,            \
                     const tn_tile_scalars *s)                                                     \
    {                                                                                              \
        type *to = out;                                                                            \
        const float *condition = a;                                                                \
        const type *u = b, *v = c;                                                                 \
        (void)s;                                                                                   \
        for (int64_t i = 0; i < n; i++) to[i] = condition[i] != 0.0F ? u[i] : v[i];                \
    }
WHERE(where_f64, double)
WHERE(where_i64, int64_t)

static const tn_tile_row rows_f64[] = {
    ONE(NEG, neg_f64),
    ONE(ABS, abs_f64),
    ONE(SIGN, sign_f64),
    ONE(EXP, exp_f64),
    ONE(LOG, log_f64),
    ONE(LOG1P, log1p_f64),
    ONE(EXPM1, expm1_f64),
    ONE(SQRT, sqrt_f64),
    ONE(RSQRT, rsqrt_f64),
    ONE(RECIPROCAL, reciprocal_f64),
    ONE(SQUARE, square_f64),
    ONE(SIN, sin_f64),
    ONE(COS, cos_f64),
    ONE(TANH, tanh_f64),
    ONE(ERF, erf_f64),
    ONE(SIGMOID, sigmoid_f64),
    ONE(SOFTPLUS, softplus_f64),
    ONE(RELU, relu_f64),
    ONE(GELU, gelu_f64),
    ONE(GELU_TANH, gelu_tanh_f64),
    ONE(SILU, silu_f64),
    ONE(FLOOR, floor_f64),
    ONE(CEIL, ceil_f64),
    ONE(ROUND, round_f64),
    ONE(IS_FINITE, is_finite_f64),
    ONE(LEAKY_RELU, leaky_relu_f64),
    ONE(CLAMP, clamp_f64),
    ONE(AFFINE, affine_f64),
    ONE(POWER, power_f64),
    ONE(RELU_GRAD, relu_grad_f64),
    ONE(GELU_GRAD, gelu_grad_f64),
    ONE(GELU_TANH_GRAD, gelu_tanh_grad_f64),
    ONE(SILU_GRAD, silu_grad_f64),
    ONE(ADD, add_f64),
    ONE(SUBTRACT, subtract_f64),
    ONE(MULTIPLY, multiply_f64),
    ONE(DIVIDE, divide_f64),
    ONE(MAXIMUM, maximum_f64),
    ONE(MINIMUM, minimum_f64),
    ONE(POW, pow_f64),
    ONE(MOD, mod_f64),
    ONE(EQUAL, equal_f64),
    ONE(NOT_EQUAL, not_equal_f64),
    ONE(LESS, less_f64),
    ONE(LESS_EQUAL, less_equal_f64),
    ONE(GREATER, greater_f64),
    ONE(GREATER_EQUAL, greater_equal_f64),
    ONE(WHERE, where_f64),
};

/* ---- i64: wraps around on overflow, and division by zero gives zero ---------------------- */

static int64_t wrapped(uint64_t x) { return (int64_t)x; }
static uint64_t raw(int64_t x) { return (uint64_t)x; }

static int64_t quotient(int64_t x, int64_t y)
{
    return y == 0 ? 0 : y == -1 ? wrapped(0 - raw(x)) : x / y;
}

static int64_t remainder_of(int64_t x, int64_t y)
{
    int64_t r = y == 0 || y == -1 ? 0 : x % y;
    return r != 0 && (r < 0) != (y < 0) ? r + y : r;
}

#define I64(name, expression) INSTRUCTION(name##_i64, int64_t, int64_t, i, expression)
#define I64_BOOL(name, expression) INSTRUCTION(name##_i64, int64_t, float, i, expression)

I64(neg, wrapped(0 - raw(u[i])))
I64(abs, u[i] < 0 ? wrapped(0 - raw(u[i])) : u[i])
I64(sign, (u[i] > 0) - (u[i] < 0))
I64(square, wrapped(raw(u[i]) * raw(u[i])))
I64(relu, u[i] < 0 ? 0 : u[i])
I64(clamp, u[i]<p ? p : u[i]> q ? q : u[i])
I64(add, wrapped(raw(u[i]) + raw(v[i])))
I64(subtract, wrapped(raw(u[i]) - raw(v[i])))
I64(multiply, wrapped(raw(u[i]) * raw(v[i])))
I64(divide, quotient(u[i], v[i]))
I64(mod, remainder_of(u[i], v[i]))
I64(maximum, u[i] > v[i] ? u[i] : v[i])
I64(minimum, u[i] < v[i] ? u[i] : v[i])
I64_BOOL(equal, u[i] == v[i])
I64_BOOL(not_equal, u[i] != v[i])
I64_BOOL(less, u[i] < v[i])
I64_BOOL(less_equal, u[i] <= v[i])
I64_BOOL(greater, u[i] > v[i])
I64_BOOL(greater_equal, u[i] >= v[i])

static const tn_tile_row rows_i64[] = {
    ONE(NEG, neg_i64),
    ONE(ABS, abs_i64),
    ONE(SIGN, sign_i64),
    ONE(SQUARE, square_i64),
    ONE(RELU, relu_i64),
    ONE(CLAMP, clamp_i64),
    ONE(ADD, add_i64),
    ONE(SUBTRACT, subtract_i64),
    ONE(MULTIPLY, multiply_i64),
    ONE(DIVIDE, divide_i64),
    ONE(MOD, mod_i64),
    ONE(MAXIMUM, maximum_i64),
    ONE(MINIMUM, minimum_i64),
    ONE(EQUAL, equal_i64),
    ONE(NOT_EQUAL, not_equal_i64),
    ONE(LESS, less_i64),
    ONE(LESS_EQUAL, less_equal_i64),
    ONE(GREATER, greater_i64),
    ONE(GREATER_EQUAL, greater_equal_i64),
    ONE(WHERE, where_i64),
};

/* ---- casts ------------------------------------------------------------------------------- */

#define CAST(name, from, result, expression)                                                       \
    static void name(void *out, const void *a, const void *b, const void *c, int64_t n,            \
                     const tn_tile_scalars *s)                                                     \
    {                                                                                              \
        result *to = out;                                                                          \
        const from *u = a;                                                                         \
        (void)b, (void)c, (void)s;                                                                 \
        TN_SIMD for (int64_t i = 0; i < n; i++) to[i] = (result)(expression);                      \
    }

static float rounded_bf16(float x) { return tn_f32_from_bf16(tn_bf16_from_f32(x)); }
static float rounded_f16(float x) { return tn_f32_from_f16(tn_f16_from_f32(x)); }

CAST(round_bf16, float, float, rounded_bf16(u[i]))
CAST(round_f16, float, float, rounded_f16(u[i]))
CAST(f32_bool, float, float, u[i] != 0.0F)
CAST(f64_bool, double, float, u[i] != 0.0)
CAST(i64_bool, int64_t, float, u[i] != 0)
CAST(f32_f64, float, double, u[i])
CAST(f64_f32, double, float, u[i])
CAST(i64_f32, int64_t, float, u[i])
CAST(i64_f64, int64_t, double, u[i])

/* Saturates; d[1] is the first value that is too large, or the last that is not. NaN gives 0. */
static int64_t saturated(double x, const tn_tile_scalars *s)
{
    if (!(x == x)) return 0;
    return x <= s->d[0] ? s->i[0] : x >= s->d[1] ? s->i[1] : (int64_t)x;
}
CAST(f32_i64, float, int64_t, saturated((double)u[i], s))
CAST(f64_i64, double, int64_t, saturated(u[i], s))
CAST(i64_i64, int64_t, int64_t, u[i]<s->i[0] ? s->i[0] : u[i]> s->i[1] ? s->i[1] : u[i])
CAST(wrap_i32, int64_t, int64_t, (int32_t)u[i])
CAST(wrap_i8, int64_t, int64_t, (int8_t)u[i])
CAST(wrap_u8, int64_t, int64_t, (uint8_t)u[i])

void TN_ISA(tn_tile_add_wide)(tn_tile_set *set)
{
    set->row[TN_TILE_F64] = rows_f64;
    set->row_count[TN_TILE_F64] = sizeof rows_f64 / sizeof *rows_f64;
    set->row[TN_TILE_I64] = rows_i64;
    set->row_count[TN_TILE_I64] = sizeof rows_i64 / sizeof *rows_i64;
    set->cast[TN_CAST_ROUND_BF16] = round_bf16;
    set->cast[TN_CAST_ROUND_F16] = round_f16;
    set->cast[TN_CAST_F32_BOOL] = f32_bool;
    set->cast[TN_CAST_F64_BOOL] = f64_bool;
    set->cast[TN_CAST_I64_BOOL] = i64_bool;
    set->cast[TN_CAST_F32_F64] = f32_f64;
    set->cast[TN_CAST_F64_F32] = f64_f32;
    set->cast[TN_CAST_I64_F32] = i64_f32;
    set->cast[TN_CAST_I64_F64] = i64_f64;
    set->cast[TN_CAST_F32_I64] = f32_i64;
    set->cast[TN_CAST_F64_I64] = f64_i64;
    set->cast[TN_CAST_I64_I64] = i64_i64;
    set->cast[TN_CAST_WRAP_I32] = wrap_i32;
    set->cast[TN_CAST_WRAP_I8] = wrap_i8;
    set->cast[TN_CAST_WRAP_U8] = wrap_u8;
}
