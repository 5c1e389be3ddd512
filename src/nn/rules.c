/* The update rules, each a row and a formula. They are PyTorch's to the order of operations, where
 * PyTorch has them. */
#include "nn/rules.h"

#include <math.h>

static tn_node scale(tn_node x, double factor) { return tn_affine(x, factor, 0); }

/* beta x + (1 - beta) y */
static tn_node blend(tn_node x, tn_node y, double beta)
{
    return tn_add(scale(x, beta), scale(y, 1 - beta));
}

tn_node tn_bias_correction(double beta, tn_node t) { return tn_neg(tn_expm1(scale(t, log(beta)))); }

/* Source: PyTorch's SGD; Sutskever et al. 2013 for Nesterov's form. */
static tn_node sgd(tn_update *u, tn_node p, tn_node g)
{
    return tn_subtract(p, tn_multiply(g, u->rate));
}

static tn_node sgd_momentum(tn_update *u, tn_node p, tn_node g)
{
    tn_node b = tn_add(tn_multiply(u->moment[0], u->momentum), g);
    u->new_moment[0] = b;
    if (u->optimizer->nesterov) b = tn_add(g, tn_multiply(b, u->momentum));
    return tn_subtract(p, tn_multiply(b, u->rate));
}

/* p - rate m^ / (sqrt v^ + epsilon), with the corrections pulled into scalars. */
static tn_node along_mean(const tn_update *u, tn_node p, double epsilon)
{
    tn_node rate = u->rate, root = tn_sqrt(u->new_moment[1]);
    if (!u->optimizer->no_bias_correction) {
        rate = tn_divide(rate, u->correction1);
        root = tn_multiply(root, tn_rsqrt(u->correction2));
    }
    return tn_subtract(p,
                       tn_multiply(tn_divide(u->new_moment[0], tn_affine(root, 1, epsilon)), rate));
}

/* Source: Kingma and Ba 2015, algorithm 1. */
static tn_node adam(tn_update *u, tn_node p, tn_node g)
{
    u->new_moment[0] = blend(u->moment[0], g, tn_beta1(u->optimizer));
    u->new_moment[1] = blend(u->moment[1], tn_square(g), tn_beta2(u->optimizer));
    return along_mean(u, p, u->optimizer->epsilon > 0 ? u->optimizer->epsilon : 1e-8);
}

static tn_node sign_adam(tn_update *u, tn_node p, tn_node g) { return adam(u, p, tn_sign(g)); }

/* Source: Zaheer et al. 2018, algorithm 2. */
static tn_node yogi(tn_update *u, tn_node p, tn_node g)
{
    tn_node square = tn_square(g), v = u->moment[1];
    u->new_moment[0] = blend(u->moment[0], g, tn_beta1(u->optimizer));
    u->new_moment[1] = tn_subtract(
        v, scale(tn_multiply(tn_sign(tn_subtract(v, square)), square), 1 - tn_beta2(u->optimizer)));
    return along_mean(u, p, u->optimizer->epsilon > 0 ? u->optimizer->epsilon : 1e-3);
}

static const tn_rule_row plain_sgd = {.name = "SGD", .step = sgd};
static const tn_rule_row rows[] = {
    [TN_SGD] = {"SGD", 1, {"momentum"}, {0}, false, sgd_momentum},
    [TN_ADAM] = {"Adam", 2, {"m", "v"}, {0, 0}, false, adam},
    [TN_ADAMW] = {"AdamW", 2, {"m", "v"}, {0, 0}, true, adam},
    [TN_SIGN_ADAM] = {"sign-Adam", 2, {"m", "v"}, {0, 0}, false, sign_adam},
    [TN_YOGI] = {"Yogi", 2, {"m", "v"}, {0, 1e-6}, false, yogi},
};

/* A number that must lie in [low, high); false with an error. */
static bool within(tn_graph *graph, const tn_rule_row *row, const char *option, double value,
                   double low, double high)
{
    if (value >= low && value < high) return true;
    tn_graph_fail(graph, "optimizer %s: .%s is %g, but must be at least %g and less than %g",
                  row->name, option, value, low, high);
    return false;
}

const tn_rule_row *tn_rule_for(tn_graph *graph, const tn_optimizer *o)
{
    if ((unsigned)o->rule >= sizeof rows / sizeof *rows) {
        tn_graph_fail(graph, "optimizer: there is no rule number %d", (int)o->rule);
        return NULL;
    }
    const tn_rule_row *row = o->rule == TN_SGD && o->momentum == 0 ? &plain_sgd : &rows[o->rule];
    if (!(o->learning_rate > 0) || isinf(o->learning_rate)) {
        tn_graph_fail(graph, "optimizer %s: .learning_rate is %g; it must be a positive number",
                      row->name, o->learning_rate);
        return NULL;
    }
    if (o->nesterov && (o->rule != TN_SGD || o->momentum == 0)) {
        tn_graph_fail(graph, "optimizer %s: .nesterov goes with SGD and a .momentum", row->name);
        return NULL;
    }
    if (o->momentum != 0 && o->rule != TN_SGD) {
        tn_graph_fail(graph, "optimizer %s: .momentum is SGD's; here it is .beta1", row->name);
        return NULL;
    }
    bool fine = within(graph, row, "momentum", o->momentum, 0, 1) &&
                within(graph, row, "beta1", o->beta1, 0, 1) &&
                within(graph, row, "beta2", o->beta2, 0, 1) &&
                within(graph, row, "epsilon", o->epsilon, 0, INFINITY) &&
                within(graph, row, "weight_decay", o->weight_decay, 0, INFINITY) &&
                within(graph, row, "clip_norm", o->clip_norm, 0, INFINITY) &&
                within(graph, row, "average.decay", o->average.decay, 0, 1);
    return fine ? row : NULL;
}
