/* Element-wise operations on the reference backend: one formula each, in f64. */
#include <math.h>

#include "graph/kernel.h"

#define PI 3.14159265358979323846

/* Float to integer truncates and saturates, NaN gives 0. The largest double below 2^63 stands
 * for the end of i64. */
static double to_integer(double x, tn_dtype dtype)
{
    static const struct {
        double low, high;
    } range[TN_DTYPE_COUNT] = {[TN_I64] = {-0x1p63, 0x1p63 - 1024},
                               [TN_I32] = {-0x1p31, 0x1p31 - 1},
                               [TN_I8] = {-128, 127},
                               [TN_U8] = {0, 255}};
    if (isnan(x)) return 0;
    x = trunc(x);
    return x < range[dtype].low ? range[dtype].low : x > range[dtype].high ? range[dtype].high : x;
}

static double cast(double x, tn_dtype dtype)
{
    if (tn_dtype_is_float(dtype)) return x; /* this backend never rounds floats */
    return dtype == TN_BOOL ? x != 0 : to_integer(x, dtype);
}

/* The sign of b, as in Python. */
static double modulo(double a, double b, bool integer)
{
    if (integer && b == 0) return 0;
    double r = fmod(a, b);
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

static double divide(double a, double b, bool integer)
{
    if (!integer) return a / b;
    return b == 0 ? 0 : trunc(a / b);
}

static double sigmoid(double x) { return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)); }

static double softplus(double x) { return isnan(x) ? x : fmax(x, 0) + log1p(exp(-fabs(x))); }

static double gelu_grad(double x)
{
    return 0.5 * (1 + erf(x * sqrt(0.5))) + x * exp(-0.5 * x * x) / sqrt(2 * PI);
}

static double gelu_tanh_grad(double x)
{
    double k = sqrt(2 / PI), c = 0.044715, t = tanh(k * (x + c * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * c * x * x);
}

static double silu_grad(double x)
{
    double s = sigmoid(x);
    return s * (1 + x * (1 - s));
}

/* One element of the result from one element of each operand; dtype is the first operand's,
 * result_dtype the result's. */
static double value(tn_op_id id, const tn_scalar_attribute *s, tn_dtype dtype,
                    tn_dtype result_dtype, double a, double b, double c)
{
    bool integer = !tn_dtype_is_float(dtype);
    switch (id) {
    case TN_OP_NEG: return -a;
    case TN_OP_ABS: return fabs(a);
    case TN_OP_SIGN: return isnan(a) ? a : (a > 0) - (a < 0);
    case TN_OP_EXP: return exp(a);
    case TN_OP_LOG: return log(a);
    case TN_OP_LOG1P: return log1p(a);
    case TN_OP_EXPM1: return expm1(a);
    case TN_OP_SQRT: return sqrt(a);
    case TN_OP_RSQRT: return 1 / sqrt(a);
    case TN_OP_RECIPROCAL: return 1 / a;
    case TN_OP_SQUARE: return a * a;
    case TN_OP_SIN: return sin(a);
    case TN_OP_COS: return cos(a);
    case TN_OP_TANH: return tanh(a);
    case TN_OP_ERF: return erf(a);
    case TN_OP_SIGMOID: return sigmoid(a);
    case TN_OP_SOFTPLUS: return softplus(a);
    case TN_OP_RELU: return a < 0 ? 0 : a;
    case TN_OP_GELU: return 0.5 * a * (1 + erf(a * sqrt(0.5)));
    case TN_OP_GELU_TANH: return 0.5 * a * (1 + tanh(sqrt(2 / PI) * (a + 0.044715 * a * a * a)));
    case TN_OP_SILU: return a * sigmoid(a);
    case TN_OP_FLOOR: return floor(a);
    case TN_OP_CEIL: return ceil(a);
    case TN_OP_ROUND: return rint(a);
    case TN_OP_NOT: return a == 0;
    case TN_OP_IS_FINITE: return isfinite(a) != 0;
    case TN_OP_LEAKY_RELU: return a > 0 ? a : a * s->a;
    case TN_OP_CLAMP: return a < s->a ? s->a : a > s->b ? s->b : a;
    case TN_OP_CAST: return cast(a, result_dtype);
    case TN_OP_AFFINE: return a * s->a + s->b;
    case TN_OP_POWER: return pow(a, s->a);
    case TN_OP_RELU_GRAD: return a > 0 ? b : 0;
    case TN_OP_GELU_GRAD: return b * gelu_grad(a);
    case TN_OP_GELU_TANH_GRAD: return b * gelu_tanh_grad(a);
    case TN_OP_SILU_GRAD: return b * silu_grad(a);
    case TN_OP_ADD: return a + b;
    case TN_OP_SUBTRACT: return a - b;
    case TN_OP_MULTIPLY: return a * b;
    case TN_OP_DIVIDE: return divide(a, b, integer);
    case TN_OP_MAXIMUM: return a > b || isnan(a) ? a : b;
    case TN_OP_MINIMUM: return a < b || isnan(a) ? a : b;
    case TN_OP_POW: return pow(a, b);
    case TN_OP_MOD: return modulo(a, b, integer);
    case TN_OP_EQUAL: return a == b;
    case TN_OP_NOT_EQUAL: return a != b;
    case TN_OP_LESS: return a < b;
    case TN_OP_LESS_EQUAL: return a <= b;
    case TN_OP_GREATER: return a > b;
    case TN_OP_GREATER_EQUAL: return a >= b;
    case TN_OP_AND: return a != 0 && b != 0;
    case TN_OP_OR: return a != 0 || b != 0;
    case TN_OP_WHERE: return a != 0 ? b : c;
    default: return NAN;
    }
}

/* Where in operand x the element lies that broadcasts to row-major position `flat` of `out`. */
static int64_t source(const tn_operand *x, const tn_operand *out, int64_t flat)
{
    int64_t at = 0, stride = 1;
    for (int i = out->rank - 1; i >= 0; i--) {
        int64_t index = flat % out->dim[i];
        int d = i - (out->rank - x->rank);
        flat /= out->dim[i];
        if (d < 0) continue;
        if (x->dim[d] != 1) at += index * stride;
        stride *= x->dim[d];
    }
    return at;
}

static tn_status run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const tn_operand *result = &step->out[0];
    double *y = out[0];
    for (int64_t i = 0; i < tn_operand_size(result); i++) {
        double x[3] = {0};
        for (int k = 0; k < step->in_count; k++)
            x[k] = ((const double *)in[k])[source(&step->in[k], result, i)];
        y[i] = value(step->op->id, step->attribute, step->in[0].dtype, result->dtype, x[0], x[1],
                     x[2]);
    }
    return TN_OK;
}

void tn_ref_elementwise(tn_kernel_table *table);
void tn_ref_elementwise(tn_kernel_table *table)
{
    static const tn_kernel kernel = {.run = run};
    for (int id = TN_OP_NEG; id <= TN_OP_WHERE; id++) table->kernel[id] = &kernel;
}
