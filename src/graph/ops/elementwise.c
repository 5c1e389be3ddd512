/* Element-wise operations: builders with their shape and dtype checks, and the derivative of each
 * as one small rule.
 *
 * Rules read the result instead of the operand where either will do: the operand's memory is
 * then free as soon as the result is there. */
#include <math.h>
#include <string.h>

#include "graph/op.h"

#define PI 3.14159265358979323846

/* ---- building ---------------------------------------------------------------------------- */

enum { FLOATS = 1, INTEGERS = 2, BOOLS = 4, NUMBERS = FLOATS | INTEGERS, ALL = NUMBERS | BOOLS };

static int kind_of(tn_dtype dtype)
{
    return dtype == TN_BOOL ? BOOLS : tn_dtype_is_float(dtype) ? FLOATS : INTEGERS;
}

static const char *kind_text(int kinds)
{
    switch (kinds) {
    case FLOATS: return "floating-point";
    case NUMBERS: return "numeric";
    default: return "bool";
    }
}

static bool accepts(tn_op_id id, tn_node x, int kinds)
{
    if (kind_of(tn_dtype_of(x)) & kinds) return true;
    tn_graph_fail(x.graph, "%s of %s %s: it takes %s operands; cast with tn_cast",
                  tn_op_find(id)->name, tn_dtype_name(tn_dtype_of(x)),
                  tn_shape_text(tn_shape_of(x)), kind_text(kinds));
    return false;
}

static tn_node unary_as(tn_op_id id, tn_node x, int kinds, tn_dtype dtype,
                        const tn_scalar_attribute *attribute)
{
    if (tn_is_none(x) || !accepts(id, x, kinds)) return TN_NONE;
    return tn_node_new(NULL, &(tn_new_node){.id = id,
                                            .dtype = dtype,
                                            .shape = tn_shape_of(x),
                                            .in = &x,
                                            .in_count = 1,
                                            .attribute = attribute,
                                            .attribute_size = attribute ? sizeof *attribute : 0});
}

static tn_node unary(tn_op_id id, tn_node x, int kinds)
{
    return unary_as(id, x, kinds, tn_dtype_of(x), NULL);
}

static tn_node with_scalars(tn_op_id id, tn_node x, int kinds, double a, double b)
{
    tn_scalar_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.a = a, attribute.b = b;
    return unary_as(id, x, kinds, tn_dtype_of(x), &attribute);
}

static const tn_scalar_attribute *scalars(tn_node node) { return tn_value_of(node)->attribute; }

static tn_node binary_as(tn_op_id id, tn_node a, tn_node b, int kinds, tn_dtype dtype)
{
    if (tn_is_none(a) || tn_is_none(b)) return TN_NONE;
    const char *name = tn_op_find(id)->name;
    if (tn_dtype_of(a) != tn_dtype_of(b))
        return tn_graph_fail(
            a.graph,
            "%s: %s %s and %s %s: both operands must have one dtype; cast one with tn_cast", name,
            tn_dtype_name(tn_dtype_of(a)), tn_shape_text(tn_shape_of(a)),
            tn_dtype_name(tn_dtype_of(b)), tn_shape_text(tn_shape_of(b)));
    tn_shape shape;
    if (!accepts(id, a, kinds)) return TN_NONE;
    if (!tn_shape_broadcast(tn_shape_of(a), tn_shape_of(b), &shape))
        return tn_graph_fail(a.graph,
                             "%s: shapes %s and %s do not broadcast: aligned at the last "
                             "dimension, each pair must be equal or hold a 1",
                             name, tn_shape_text(tn_shape_of(a)), tn_shape_text(tn_shape_of(b)));
    return tn_node_new(
        NULL,
        &(tn_new_node){
            .id = id, .dtype = dtype, .shape = shape, .in = (tn_node[]){a, b}, .in_count = 2});
}

static tn_node binary(tn_op_id id, tn_node a, tn_node b, int kinds)
{
    return binary_as(id, a, b, kinds, tn_dtype_of(a));
}

tn_node tn_neg(tn_node x) { return unary(TN_OP_NEG, x, NUMBERS); }
tn_node tn_abs(tn_node x) { return unary(TN_OP_ABS, x, NUMBERS); }
tn_node tn_sign(tn_node x) { return unary(TN_OP_SIGN, x, NUMBERS); }
tn_node tn_exp(tn_node x) { return unary(TN_OP_EXP, x, FLOATS); }
tn_node tn_log(tn_node x) { return unary(TN_OP_LOG, x, FLOATS); }
tn_node tn_log1p(tn_node x) { return unary(TN_OP_LOG1P, x, FLOATS); }
tn_node tn_expm1(tn_node x) { return unary(TN_OP_EXPM1, x, FLOATS); }
tn_node tn_sqrt(tn_node x) { return unary(TN_OP_SQRT, x, FLOATS); }
tn_node tn_rsqrt(tn_node x) { return unary(TN_OP_RSQRT, x, FLOATS); }
tn_node tn_reciprocal(tn_node x) { return unary(TN_OP_RECIPROCAL, x, FLOATS); }
tn_node tn_square(tn_node x) { return unary(TN_OP_SQUARE, x, NUMBERS); }
tn_node tn_sin(tn_node x) { return unary(TN_OP_SIN, x, FLOATS); }
tn_node tn_cos(tn_node x) { return unary(TN_OP_COS, x, FLOATS); }
tn_node tn_tanh(tn_node x) { return unary(TN_OP_TANH, x, FLOATS); }
tn_node tn_erf(tn_node x) { return unary(TN_OP_ERF, x, FLOATS); }
tn_node tn_sigmoid(tn_node x) { return unary(TN_OP_SIGMOID, x, FLOATS); }
tn_node tn_softplus(tn_node x) { return unary(TN_OP_SOFTPLUS, x, FLOATS); }
tn_node tn_relu(tn_node x) { return unary(TN_OP_RELU, x, NUMBERS); }
tn_node tn_gelu(tn_node x) { return unary(TN_OP_GELU, x, FLOATS); }
tn_node tn_gelu_tanh(tn_node x) { return unary(TN_OP_GELU_TANH, x, FLOATS); }
tn_node tn_silu(tn_node x) { return unary(TN_OP_SILU, x, FLOATS); }
tn_node tn_floor(tn_node x) { return unary(TN_OP_FLOOR, x, FLOATS); }
tn_node tn_ceil(tn_node x) { return unary(TN_OP_CEIL, x, FLOATS); }
tn_node tn_round(tn_node x) { return unary(TN_OP_ROUND, x, FLOATS); }
tn_node tn_not(tn_node x) { return unary(TN_OP_NOT, x, BOOLS); }
tn_node tn_is_finite(tn_node x) { return unary_as(TN_OP_IS_FINITE, x, FLOATS, TN_BOOL, NULL); }
tn_node tn_leaky_relu(tn_node x, double slope)
{
    return with_scalars(TN_OP_LEAKY_RELU, x, FLOATS, slope, 0);
}
tn_node tn_affine(tn_node x, double scale, double offset)
{
    return with_scalars(TN_OP_AFFINE, x, FLOATS, scale, offset);
}

tn_node tn_clamp(tn_node x, double low, double high)
{
    if (tn_is_none(x)) return x;
    if (!(low <= high))
        return tn_graph_fail(
            x.graph, "clamp to [%g, %g]: the lower end must not lie above the upper", low, high);
    return with_scalars(TN_OP_CLAMP, x, NUMBERS, low, high);
}

tn_node tn_cast(tn_node x, tn_dtype dtype)
{
    if (tn_is_none(x) || tn_dtype_of(x) == dtype) return x;
    return unary_as(TN_OP_CAST, x, ALL, dtype, NULL);
}

tn_node tn_power(tn_node x, double exponent)
{
    if (tn_is_none(x)) return x;
    if (exponent == 1) return x;
    if (exponent == 2) return tn_square(x);
    if (!accepts(TN_OP_POWER, x, FLOATS)) return TN_NONE;
    if (exponent == 0) return tn_like(x, 1);
    if (exponent == 0.5) return tn_sqrt(x);
    if (exponent == -0.5) return tn_rsqrt(x);
    if (exponent == -1) return tn_reciprocal(x);
    return with_scalars(TN_OP_POWER, x, FLOATS, exponent, 0);
}

tn_node tn_add(tn_node a, tn_node b) { return binary(TN_OP_ADD, a, b, NUMBERS); }
tn_node tn_subtract(tn_node a, tn_node b) { return binary(TN_OP_SUBTRACT, a, b, NUMBERS); }
tn_node tn_multiply(tn_node a, tn_node b) { return binary(TN_OP_MULTIPLY, a, b, NUMBERS); }
tn_node tn_divide(tn_node a, tn_node b) { return binary(TN_OP_DIVIDE, a, b, NUMBERS); }
tn_node tn_maximum(tn_node a, tn_node b) { return binary(TN_OP_MAXIMUM, a, b, NUMBERS); }
tn_node tn_minimum(tn_node a, tn_node b) { return binary(TN_OP_MINIMUM, a, b, NUMBERS); }
tn_node tn_pow(tn_node a, tn_node b) { return binary(TN_OP_POW, a, b, FLOATS); }
tn_node tn_mod(tn_node a, tn_node b) { return binary(TN_OP_MOD, a, b, NUMBERS); }
tn_node tn_equal(tn_node a, tn_node b) { return binary_as(TN_OP_EQUAL, a, b, ALL, TN_BOOL); }
tn_node tn_not_equal(tn_node a, tn_node b)
{
    return binary_as(TN_OP_NOT_EQUAL, a, b, ALL, TN_BOOL);
}
tn_node tn_less(tn_node a, tn_node b) { return binary_as(TN_OP_LESS, a, b, NUMBERS, TN_BOOL); }
tn_node tn_less_equal(tn_node a, tn_node b)
{
    return binary_as(TN_OP_LESS_EQUAL, a, b, NUMBERS, TN_BOOL);
}
tn_node tn_greater(tn_node a, tn_node b)
{
    return binary_as(TN_OP_GREATER, a, b, NUMBERS, TN_BOOL);
}
tn_node tn_greater_equal(tn_node a, tn_node b)
{
    return binary_as(TN_OP_GREATER_EQUAL, a, b, NUMBERS, TN_BOOL);
}
tn_node tn_and(tn_node a, tn_node b) { return binary(TN_OP_AND, a, b, BOOLS); }
tn_node tn_or(tn_node a, tn_node b) { return binary(TN_OP_OR, a, b, BOOLS); }

tn_node tn_where(tn_node condition, tn_node a, tn_node b)
{
    if (tn_is_none(condition) || tn_is_none(a) || tn_is_none(b)) return TN_NONE;
    if (tn_dtype_of(condition) != TN_BOOL)
        return tn_graph_fail(
            a.graph,
            "where: the condition is %s %s; it must be bool (compare with tn_not_equal, say)",
            tn_dtype_name(tn_dtype_of(condition)), tn_shape_text(tn_shape_of(condition)));
    if (tn_dtype_of(a) != tn_dtype_of(b))
        return tn_graph_fail(
            a.graph,
            "where: %s %s and %s %s: both sides must have one dtype; cast one with tn_cast",
            tn_dtype_name(tn_dtype_of(a)), tn_shape_text(tn_shape_of(a)),
            tn_dtype_name(tn_dtype_of(b)), tn_shape_text(tn_shape_of(b)));
    tn_shape sides, shape;
    if (!tn_shape_broadcast(tn_shape_of(a), tn_shape_of(b), &sides) ||
        !tn_shape_broadcast(sides, tn_shape_of(condition), &shape))
        return tn_graph_fail(a.graph, "where: shapes %s, %s and %s do not broadcast",
                             tn_shape_text(tn_shape_of(condition)), tn_shape_text(tn_shape_of(a)),
                             tn_shape_text(tn_shape_of(b)));
    return tn_node_new(NULL, &(tn_new_node){.id = TN_OP_WHERE,
                                            .dtype = tn_dtype_of(a),
                                            .shape = shape,
                                            .in = (tn_node[]){condition, a, b},
                                            .in_count = 3});
}

/* ---- derivatives, one operand ------------------------------------------------------------ */

/* x: operand, y: result, d: cotangent of the result. */
#define UNARY_RULE(name, derivative)                                                               \
    static void name##_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,            \
                           tn_node *d_in)                                                          \
    {                                                                                              \
        tn_node x = in[0], y = out[0], d = d_out[0];                                               \
        (void)x, (void)y;                                                                          \
        d_in[0] = derivative;                                                                      \
    }

UNARY_RULE(neg, tn_neg(d))
UNARY_RULE(abs, tn_multiply(d, tn_sign(x)))
UNARY_RULE(exp, tn_multiply(d, y))
UNARY_RULE(log, tn_divide(d, x))
UNARY_RULE(log1p, tn_divide(d, tn_affine(x, 1, 1)))
UNARY_RULE(expm1, tn_multiply(d, tn_affine(y, 1, 1)))
UNARY_RULE(sqrt, tn_divide(tn_affine(d, 0.5, 0), y))
UNARY_RULE(rsqrt, tn_multiply(tn_affine(d, -0.5, 0), tn_multiply(y, tn_square(y))))
UNARY_RULE(reciprocal, tn_multiply(tn_neg(d), tn_square(y)))
UNARY_RULE(square, tn_multiply(tn_affine(d, 2, 0), x))
UNARY_RULE(sin, tn_multiply(d, tn_cos(x)))
UNARY_RULE(cos, tn_multiply(d, tn_neg(tn_sin(x))))
UNARY_RULE(tanh, tn_multiply(d, tn_affine(tn_square(y), -1, 1)))
UNARY_RULE(erf, tn_multiply(d, tn_affine(tn_exp(tn_neg(tn_square(x))), 2 / sqrt(PI), 0)))
UNARY_RULE(sigmoid, tn_multiply(d, tn_multiply(y, tn_affine(y, -1, 1))))
UNARY_RULE(softplus, tn_multiply(d, tn_sigmoid(x)))
UNARY_RULE(relu, binary(TN_OP_RELU_GRAD, y, d, FLOATS))
UNARY_RULE(gelu, binary(TN_OP_GELU_GRAD, x, d, FLOATS))
UNARY_RULE(gelu_tanh, binary(TN_OP_GELU_TANH_GRAD, x, d, FLOATS))
UNARY_RULE(silu, binary(TN_OP_SILU_GRAD, x, d, FLOATS))
UNARY_RULE(leaky_relu, tn_where(tn_greater(x, tn_like(x, 0)), d, tn_affine(d, scalars(y)->a, 0)))
UNARY_RULE(clamp, tn_where(tn_and(tn_greater_equal(x, tn_like(x, scalars(y)->a)),
                                  tn_less_equal(x, tn_like(x, scalars(y)->b))),
                           d, tn_like(d, 0)))
UNARY_RULE(cast, tn_dtype_is_float(tn_dtype_of(x)) && tn_dtype_is_float(tn_dtype_of(y))
                     ? tn_cast(d, tn_dtype_of(x))
                     : TN_NONE)
UNARY_RULE(affine, tn_affine(d, scalars(y)->a, 0))
UNARY_RULE(power, tn_multiply(tn_affine(d, scalars(y)->a, 0), tn_power(x, scalars(y)->a - 1)))

/* ---- the gradients that are operations of their own: (x, d) in one pass ------------------ */

static void relu_grad_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                          tn_node *d_in)
{
    (void)out;
    d_in[1] = binary(TN_OP_RELU_GRAD, in[0], d_out[0],
                     FLOATS); /* piecewise linear: nothing for in[0] */
}

static void relu_grad_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    (void)self;
    out[0] = tn_where(tn_greater(in[0], tn_like(in[0], 0)), in[1], tn_like(in[1], 0));
}

/* d (Phi(x) + x phi(x)) */
static void gelu_grad_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    (void)self;
    tn_node x = in[0], cumulative = tn_affine(tn_erf(tn_affine(x, sqrt(0.5), 0)), 0.5, 0.5);
    tn_node density = tn_affine(tn_exp(tn_affine(tn_square(x), -0.5, 0)), 1 / sqrt(2 * PI), 0);
    out[0] = tn_multiply(in[1], tn_add(cumulative, tn_multiply(x, density)));
}

/* y = x s(2u) with u = k (x + c x^3) and the sigmoid s:  dy/dx = s + x s (1 - s) 2 u' */
static void gelu_tanh_grad_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    (void)self;
    const double k = sqrt(2 / PI), c = 0.044715;
    tn_node x = in[0], square = tn_square(x);
    tn_node s = tn_sigmoid(tn_multiply(x, tn_affine(square, 2 * k * c, 2 * k)));
    tn_node slope = tn_affine(square, 6 * k * c, 2 * k);
    out[0] = tn_multiply(
        in[1], tn_add(s, tn_multiply(tn_multiply(x, slope), tn_multiply(s, tn_affine(s, -1, 1)))));
}

static void silu_grad_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    (void)self;
    tn_node x = in[0], s = tn_sigmoid(x);
    out[0] = tn_multiply(in[1],
                         tn_multiply(s, tn_affine(tn_multiply(x, tn_affine(s, -1, 1)), 1, 1)));
}

/* ---- derivatives, two and three operands ------------------------------------------------- */

#define BINARY_RULE(name, derivative_a, derivative_b)                                              \
    static void name##_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,            \
                           tn_node *d_in)                                                          \
    {                                                                                              \
        tn_node a = in[0], b = in[1], y = out[0], d = d_out[0];                                    \
        (void)y;                                                                                   \
        d_in[0] = tn_sum_to(derivative_a, a);                                                      \
        d_in[1] = tn_sum_to(derivative_b, b);                                                      \
    }

static tn_node where_else_zero(tn_node condition, tn_node d)
{
    return tn_where(condition, d, tn_like(d, 0));
}

static tn_node zero_where(tn_node condition, tn_node d)
{
    return tn_where(condition, tn_like(d, 0), d);
}

BINARY_RULE(add, d, d)
BINARY_RULE(subtract, d, tn_neg(d))
BINARY_RULE(multiply, tn_multiply(d, b), tn_multiply(d, a))
BINARY_RULE(divide, tn_divide(d, b), tn_neg(tn_divide(tn_multiply(d, y), b)))
BINARY_RULE(maximum, where_else_zero(tn_greater_equal(a, b), d),
            zero_where(tn_greater_equal(a, b), d))
BINARY_RULE(minimum, where_else_zero(tn_less_equal(a, b), d), zero_where(tn_less_equal(a, b), d))
BINARY_RULE(pow, tn_multiply(d, tn_multiply(b, tn_pow(a, tn_affine(b, 1, -1)))),
            tn_multiply(d, tn_multiply(y, tn_log(a))))

static void mod_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    (void)out;
    d_in[0] = tn_sum_to(d_out[0], in[0]);
}

static void where_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    (void)out;
    d_in[1] = tn_sum_to(where_else_zero(in[0], d_out[0]), in[1]);
    d_in[2] = tn_sum_to(zero_where(in[0], d_out[0]), in[2]);
}

/* ---- rows -------------------------------------------------------------------------------- */

#define ROW(id_, name_, ...)                                                                       \
    {                                                                                              \
        .id = TN_OP_##id_, .name = #name_, .flags = TN_ELEMENTWISE, .vjp = name_##_vjp,            \
        __VA_ARGS__                                                                                \
    }
#define FLAT(id_, name_)                                                                           \
    {                                                                                              \
        .id = TN_OP_##id_, .name = #name_, .flags = TN_ELEMENTWISE | TN_NO_GRADIENT                \
    }
#define LINEAR(id_, name_)                                                                         \
    {                                                                                              \
        .id = TN_OP_##id_, .name = #name_, .flags = TN_ELEMENTWISE | TN_LINEAR, .vjp = name_##_vjp \
    }
#define COMMUTES(id_, name_)                                                                       \
    {                                                                                              \
        .id = TN_OP_##id_, .name = #name_, .flags = TN_ELEMENTWISE | TN_COMMUTATIVE,               \
        .vjp = name_##_vjp                                                                         \
    }
#define FLAT_COMMUTES(id_, name_)                                                                  \
    {                                                                                              \
        .id = TN_OP_##id_, .name = #name_,                                                         \
        .flags = TN_ELEMENTWISE | TN_COMMUTATIVE | TN_NO_GRADIENT                                  \
    }

double tn_fused_flop(const tn_value *self, const tn_value *const *in);

const tn_op tn_elementwise_ops[] = {
    LINEAR(NEG, neg),
    ROW(ABS, abs),
    FLAT(SIGN, sign),
    ROW(EXP, exp),
    ROW(LOG, log),
    ROW(LOG1P, log1p),
    ROW(EXPM1, expm1),
    ROW(SQRT, sqrt),
    ROW(RSQRT, rsqrt),
    ROW(RECIPROCAL, reciprocal),
    ROW(SQUARE, square),
    ROW(SIN, sin),
    ROW(COS, cos),
    ROW(TANH, tanh),
    ROW(ERF, erf),
    ROW(SIGMOID, sigmoid),
    ROW(SOFTPLUS, softplus),
    ROW(RELU, relu),
    ROW(GELU, gelu),
    ROW(GELU_TANH, gelu_tanh),
    ROW(SILU, silu),
    FLAT(FLOOR, floor),
    FLAT(CEIL, ceil),
    FLAT(ROUND, round),
    FLAT(NOT, not ),
    FLAT(IS_FINITE, is_finite),
    ROW(LEAKY_RELU, leaky_relu),
    ROW(CLAMP, clamp),
    ROW(CAST, cast),
    ROW(AFFINE, affine),
    ROW(POWER, power),
    ROW(RELU_GRAD, relu_grad, .decompose = relu_grad_decompose),
    {.id = TN_OP_GELU_GRAD,
     .name = "gelu_grad",
     .flags = TN_ELEMENTWISE,
     .decompose = gelu_grad_decompose},
    {.id = TN_OP_GELU_TANH_GRAD,
     .name = "gelu_tanh_grad",
     .flags = TN_ELEMENTWISE,
     .decompose = gelu_tanh_grad_decompose},
    {.id = TN_OP_SILU_GRAD,
     .name = "silu_grad",
     .flags = TN_ELEMENTWISE,
     .decompose = silu_grad_decompose},
    COMMUTES(ADD, add),
    ROW(SUBTRACT, subtract),
    COMMUTES(MULTIPLY, multiply),
    ROW(DIVIDE, divide),
    ROW(MAXIMUM, maximum),
    ROW(MINIMUM, minimum),
    ROW(POW, pow),
    ROW(MOD, mod),
    FLAT_COMMUTES(EQUAL, equal),
    FLAT_COMMUTES(NOT_EQUAL, not_equal),
    FLAT(LESS, less),
    FLAT(LESS_EQUAL, less_equal),
    FLAT(GREATER, greater),
    FLAT(GREATER_EQUAL, greater_equal),
    FLAT_COMMUTES(AND, and),
    FLAT_COMMUTES(OR, or),
    ROW(WHERE, where),
    {.id = TN_OP_FUSED, .name = "fused", .flags = TN_NO_GRADIENT, .flop = tn_fused_flop},
};
const int tn_elementwise_op_count = sizeof tn_elementwise_ops / sizeof *tn_elementwise_ops;
