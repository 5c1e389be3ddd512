/* First values of parameters, as functions of the weight's shape. */
#include <math.h>

#include "graph/op.h"
#include "tenon/nn.h"

/* Elements that feed one output, and that one input feeds: PyTorch's convention for [out, in,
 * k...]. */
static void fans(tn_shape weight, double *in, double *out)
{
    double receptive = 1;
    for (int i = 2; i < weight.rank; i++) receptive *= (double)weight.dim[i];
    double first = weight.rank > 0 ? (double)weight.dim[0] : 1;
    *out = first * receptive;
    *in = weight.rank > 1 ? (double)weight.dim[1] * receptive : first;
    if (*in < 1) *in = 1; /* an empty weight has nothing to fill */
    if (*out < 1) *out = 1;
}

tn_init tn_init_constant(double value) { return (tn_init){TN_INIT_CONSTANT, value, 0}; }

tn_init tn_init_uniform(double low, double high) { return (tn_init){TN_INIT_UNIFORM, low, high}; }

tn_init tn_init_normal(double mean, double deviation)
{
    return (tn_init){TN_INIT_NORMAL, mean, deviation};
}

tn_init tn_init_truncated_normal(double mean, double deviation)
{
    return (tn_init){TN_INIT_TRUNCATED_NORMAL, mean, deviation};
}

tn_init tn_init_kaiming_uniform(tn_shape weight, double slope)
{
    double in, out;
    fans(weight, &in, &out);
    double bound = sqrt(6 / ((1 + slope * slope) * in));
    return tn_init_uniform(-bound, bound);
}

tn_init tn_init_kaiming_normal_out(tn_shape weight)
{
    double in, out;
    fans(weight, &in, &out);
    return tn_init_normal(0, sqrt(2 / out));
}

tn_init tn_init_xavier_uniform(tn_shape weight, double gain)
{
    double in, out;
    fans(weight, &in, &out);
    double bound = gain * sqrt(6 / (in + out));
    return tn_init_uniform(-bound, bound);
}

tn_init tn_init_xavier_normal(tn_shape weight, double gain)
{
    double in, out;
    fans(weight, &in, &out);
    return tn_init_normal(0, gain * sqrt(2 / (in + out)));
}
