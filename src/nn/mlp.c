/* The multilayer perceptron. */
#include "graph/op.h"
#include "tenon/nn.h"

tn_node tn_mlp_with(tn_scope scope, tn_node x, const int64_t *width, int count, tn_mlp_options o)
{
    for (int i = 0; i < count; i++) {
        x = tn_linear_with(tn_in(scope, "%d", 2 * i), x, width[i],
                           (tn_linear_options){.bias = !o.no_bias});
        if (i + 1 == count) break;
        x = o.activation ? o.activation(x) : tn_relu(x);
        x = tn_dropout(tn_in(scope, "%d", 2 * i + 1), x, o.dropout);
    }
    return x;
}
