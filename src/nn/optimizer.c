/* One training step as nodes: which parameters, their gradients, clipping, the rule, averages. */
#include <stdlib.h>
#include <string.h>

#include "base/string.h"
#include "nn/rules.h"
#include "tenon/state.h"

/* ---- names of what an optimiser remembers ---------------------------------------------------- */

static const char average_prefix[] = "average/";

static const char *prefix_of(const tn_optimizer *o) { return o->name ? o->name : "optimizer"; }

static tn_node memory(const tn_optimizer *o, tn_graph *graph, const char *of, const char *what,
                      tn_dtype dtype, tn_shape shape, double first)
{
    if (!graph) return TN_NONE;
    const char *name = of ? tn_arena_format(&graph->arena, "%s/%s.%s", prefix_of(o), of, what)
                          : tn_arena_format(&graph->arena, "%s/%s", prefix_of(o), what);
    if (!name) {
        graph->status = TN_MEMORY;
        return TN_NONE;
    }
    return tn_state_node(graph, name, dtype, shape, (tn_init){TN_INIT_CONSTANT, first, 0});
}

static const char *name_of(tn_node parameter) { return tn_value_of(parameter)->name; }

tn_node tn_step_node(tn_graph *graph)
{
    return memory(&(tn_optimizer){0}, graph, NULL, "step", TN_I64, TN_SCALAR, 0);
}

static tn_node plus_one(tn_node counter) { return tn_add(counter, tn_like(counter, 1)); }

/* ---- which parameters ------------------------------------------------------------------------ */

static const tn_parameter_group *group_of(const tn_optimizer *o, const char *name)
{
    static const tn_parameter_group none = {0};
    for (int i = 0; i < o->group_count; i++)
        if (tn_glob_match(o->group[i].pattern, name)) return &o->group[i];
    return &none;
}

/* Marks what a gradient of `loss` can reach: everything but what lies only behind operations that
 * pass none. */
static bool *reached_from(tn_node loss)
{
    tn_graph *graph = loss.graph;
    bool *reached = calloc((size_t)graph->count, sizeof *reached);
    if (!reached) {
        graph->status = TN_MEMORY;
        return NULL;
    }
    reached[loss.id] = true;
    for (int32_t id = loss.id; id > 0; id--) {
        const tn_value *value = graph->value[id];
        if (!reached[id] || value->op->flags & TN_NO_GRADIENT) continue;
        for (int i = 0; i < value->in_count; i++) reached[value->in[i]] = true;
    }
    return reached;
}

/* A pattern that fits nothing is a slip of the pen, and would train what was meant to be frozen. */
static bool groups_fit(const tn_optimizer *o, tn_graph *graph, const tn_node *parameter, int count)
{
    for (int i = 0; i < o->group_count; i++) {
        const char *pattern = o->group[i].pattern;
        if (!pattern) {
            tn_graph_fail(graph, "optimizer: group %d has no .pattern", i);
            return false;
        }
        bool fits = false;
        for (int k = 0; k < count && !fits; k++)
            fits = tn_glob_match(pattern, name_of(parameter[k]));
        if (fits) continue;
        tn_graph_fail(
            graph,
            "optimizer: the group '%s' fits none of the %d parameters; the first is called '%s'",
            pattern, count, count ? name_of(parameter[0]) : "");
        return false;
    }
    return true;
}

int tn_trainable(tn_node loss, const tn_optimizer *o, tn_node *parameter, int capacity)
{
    if (tn_is_none(loss)) return 0;
    int all_count = tn_graph_parameters(loss.graph, NULL, 0), count = 0;
    tn_node *all = calloc((size_t)all_count + 1, sizeof *all);
    bool *reached = all ? reached_from(loss) : NULL;
    if (!all) loss.graph->status = TN_MEMORY;
    if (reached) {
        tn_graph_parameters(loss.graph, all, all_count);
        if (!groups_fit(o, loss.graph, all, all_count)) all_count = 0;
        for (int i = 0; i < all_count; i++) {
            if (all[i].id > loss.id || !reached[all[i].id] || group_of(o, name_of(all[i]))->frozen)
                continue;
            if (count < capacity) parameter[count] = all[i];
            count++;
        }
    }
    free(all);
    free(reached);
    return count;
}

/* ---- lists of tokens ------------------------------------------------------------------------- */

typedef struct token_list {
    tn_graph *graph;
    tn_node *token;
    int32_t count, capacity;
} token_list;

static void add_token(token_list *list, tn_node token)
{
    if (tn_grow((void **)&list->token, list->count, &list->capacity, sizeof *list->token))
        list->token[list->count++] = token;
    else list->graph->status = TN_MEMORY;
}

static tn_node finish_tokens(token_list *list)
{
    tn_node group = tn_group(list->graph, list->token, list->count);
    free(list->token);
    return group;
}

/* ---- one step -------------------------------------------------------------------------------- */

/* What all parameters of a step share. */
typedef struct step_scalars {
    const tn_optimizer *optimizer;
    const tn_rule_row *row;
    tn_node done;          /* i64: steps before this one */
    tn_node before, after; /* the same in f32, and with this one */
    tn_node rate, momentum;
    tn_node correction1, correction2;
    tn_node shrink; /* clipping's factor, or none */
    tn_node share;  /* of the newest parameters in their averages, or none */
    token_list tokens;
} step_scalars;

static tn_node joint_norm(tn_graph *graph, const tn_node *gradient, int count)
{
    tn_node sum = TN_NONE;
    for (int i = 0; i < count; i++) {
        tn_node part = tn_sum(tn_square(gradient[i]), TN_ALL_AXES);
        sum = tn_is_none(sum) ? part : tn_add(sum, part);
    }
    return tn_is_none(sum) ? tn_fill(graph, TN_F32, TN_SCALAR, 0) : tn_sqrt(sum);
}

/* True for rows whose gradient has a value other than 0: [rows, 1, ...]. NaN counts, so that it is
 * seen. */
static tn_node touched_rows(tn_node gradient)
{
    tn_axes axes = {.keep = true};
    for (int i = 1; i < tn_rank(gradient); i++) axes.axis[axes.count++] = i;
    tn_node size = tn_abs(gradient);
    if (axes.count) size = tn_sum(size, axes);
    return tn_not_equal(size, tn_like(size, 0));
}

static bool decays(const tn_optimizer *o, tn_node parameter)
{
    bool matrices = o->decay_scope == TN_DECAY_MATRICES ||
                    (o->decay_scope == TN_DECAY_USUAL && o->rule == TN_ADAMW);
    return !matrices || tn_rank(parameter) >= 2;
}

static double decay_for(const tn_optimizer *o, const tn_parameter_group *group, tn_node parameter)
{
    if (group->no_decay) return 0;
    if (group->weight_decay > 0) return group->weight_decay;
    return decays(o, parameter) ? o->weight_decay : 0;
}

/* The weight of the newest parameters in their average: all of it up to the first averaged step.
 * None: no averages. */
static tn_node average_share(const tn_averaging *a, tn_node after)
{
    tn_node one = tn_like(after, 1), averaged = tn_affine(after, 1, -(double)a->from);
    if (a->equal) return tn_divide(one, tn_maximum(averaged, one));
    return a->decay > 0 ? tn_where(tn_less(one, averaged), tn_like(after, 1 - a->decay), one)
                        : TN_NONE;
}

static void update_average(step_scalars *s, tn_node p, tn_node p_new)
{
    if (tn_is_none(s->share)) return;
    const char *name = tn_arena_format(&p.graph->arena, "%s%s", average_prefix, name_of(p));
    if (!name) {
        p.graph->status = TN_MEMORY;
        return;
    }
    tn_node average = tn_state_node(p.graph, name, TN_F32, tn_shape_of(p), (tn_init){0});
    tn_node rest = tn_subtract(tn_like(s->share, 1), s->share);
    add_token(&s->tokens,
              tn_assign(average, tn_add(tn_multiply(average, rest), tn_multiply(p_new, s->share))));
}

static void update_parameter(step_scalars *s, tn_node p, tn_node g)
{
    const tn_optimizer *o = s->optimizer;
    const tn_rule_row *row = s->row;
    tn_graph *graph = p.graph;
    const tn_parameter_group *group = group_of(o, name_of(p));
    tn_update u = {.optimizer = o,
                   .rate = s->rate,
                   .momentum = s->momentum,
                   .correction1 = s->correction1,
                   .correction2 = s->correction2};
    if (group->rate_factor > 0) u.rate = tn_affine(u.rate, group->rate_factor, 0);
    u.weight_decay = decay_for(o, group, p);
    for (int i = 0; i < row->moments; i++)
        u.moment[i] = memory(o, graph, name_of(p), row->moment[i], TN_F32, tn_shape_of(p),
                             row->first[i]);

    bool lazy = group->lazy_rows && tn_rank(p) >= 1;
    tn_node touched = lazy ? touched_rows(g) : TN_NONE;
    if (lazy && row->moments == 2) { /* every row counts its own steps */
        tn_node count = memory(o, graph, name_of(p), "step", TN_I64, tn_shape_of(touched), 0);
        tn_node t = tn_cast(plus_one(count), TN_F32);
        u.correction1 = tn_bias_correction(tn_beta1(o), t);
        u.correction2 = tn_bias_correction(tn_beta2(o), t);
        add_token(&s->tokens, tn_assign(count, tn_add(count, tn_cast(touched, TN_I64))));
    }

    if (!tn_is_none(s->shrink)) g = tn_multiply(g, s->shrink);
    tn_node from = p;
    if (u.weight_decay > 0 && row->decay_apart)
        from = tn_multiply(p, tn_affine(u.rate, -u.weight_decay, 1));
    else if (u.weight_decay > 0) g = tn_add(g, tn_affine(p, u.weight_decay, 0));
    tn_node p_new = row->step(&u, from, g);
    if (lazy) p_new = tn_where(touched, p_new, p);
    for (int i = 0; i < row->moments; i++) {
        if (lazy) u.new_moment[i] = tn_where(touched, u.new_moment[i], u.moment[i]);
        add_token(&s->tokens, tn_assign(u.moment[i], u.new_moment[i]));
    }
    add_token(&s->tokens, tn_assign(p, p_new));
    update_average(s, p, p_new);
}

static bool can_descend(tn_graph *graph, const tn_node *parameter, const tn_node *gradient,
                        int count)
{
    for (int i = 0; i < count; i++) {
        if (tn_is_none(parameter[i]) || tn_is_none(gradient[i])) {
            tn_graph_fail(graph, "optimizer: parameter or gradient %d is empty", i);
            return false;
        }
        if (tn_value_of(parameter[i])->op->id == TN_OP_STATE &&
            tn_dtype_of(parameter[i]) == TN_F32 && tn_dtype_of(gradient[i]) == TN_F32 &&
            tn_shape_equal(tn_shape_of(parameter[i]), tn_shape_of(gradient[i])))
            continue;
        tn_graph_fail(
            graph,
            "optimizer: parameter %d is %s %s with a gradient %s %s; they must be f32 of one "
            "shape, and the parameter a state node",
            i, tn_dtype_name(tn_dtype_of(parameter[i])), tn_shape_text(tn_shape_of(parameter[i])),
            tn_dtype_name(tn_dtype_of(gradient[i])), tn_shape_text(tn_shape_of(gradient[i])));
        return false;
    }
    return true;
}

tn_training_step tn_descend(const tn_node *parameter, const tn_node *gradient, int count,
                            const tn_optimizer *o)
{
    tn_training_step none = {TN_NONE, TN_NONE, TN_NONE};
    if (count < 1 || tn_is_none(parameter[0])) return none;
    tn_graph *graph = parameter[0].graph;
    step_scalars s = {.optimizer = o, .row = tn_rule_for(graph, o), .tokens = {.graph = graph}};
    if (!s.row || !tn_schedule_check(graph, &o->schedule, o->momentum) ||
        !can_descend(graph, parameter, gradient, count))
        return none;
    s.done = memory(o, graph, NULL, "step", TN_I64, TN_SCALAR, 0);
    s.before = tn_cast(s.done, TN_F32);
    s.after = tn_affine(s.before, 1, 1);
    s.rate = tn_affine(tn_schedule_factor(&o->schedule, s.before), o->learning_rate, 0);
    s.momentum = tn_schedule_momentum(&o->schedule, o->momentum, s.before);
    s.correction1 = tn_bias_correction(tn_beta1(o), s.after);
    s.correction2 = tn_bias_correction(tn_beta2(o), s.after);
    s.share = average_share(&o->average, s.after);
    tn_node norm = joint_norm(graph, gradient, count);
    if (o->clip_norm > 0) { /* the 1e-6 is PyTorch's */
        tn_node most = tn_like(norm, o->clip_norm);
        s.shrink = tn_minimum(tn_divide(most, tn_affine(norm, 1, 1e-6)), tn_like(norm, 1));
    }
    for (int i = 0; i < count; i++) update_parameter(&s, parameter[i], gradient[i]);
    add_token(&s.tokens, tn_assign(s.done, plus_one(s.done)));
    return (tn_training_step){
        .updates = finish_tokens(&s.tokens), .learning_rate = s.rate, .gradient_norm = norm};
}

/* ---- from a loss ----------------------------------------------------------------------------- */

typedef struct trained {
    tn_node *parameter, *gradient;
    int count;
} trained;

static void forget(trained *t)
{
    free(t->parameter);
    free(t->gradient);
}

/* The parameters to train and their gradients. Fails in the graph when there are none.
 */
static bool find_trained(tn_node loss, const tn_optimizer *o, trained *t)
{
    *t = (trained){0};
    if (tn_is_none(loss) || loss.graph->status != TN_OK) return false;
    tn_graph *graph = loss.graph;
    int count = tn_trainable(loss, o, NULL, 0);
    t->parameter = calloc((size_t)count + 1, sizeof *t->parameter);
    t->gradient = calloc((size_t)count + 1, sizeof *t->gradient);
    if (!t->parameter || !t->gradient) {
        graph->status = TN_MEMORY;
        return false;
    }
    tn_trainable(loss, o, t->parameter, count);
    if (count) tn_gradients(loss, t->parameter, count, t->gradient);
    double value;
    for (int i = 0; i < count; i++) { /* what no gradient arrived at is left alone, its decay too */
        if (tn_is_fill(t->gradient[i], &value) && value == 0) continue;
        t->parameter[t->count] = t->parameter[i];
        t->gradient[t->count++] = t->gradient[i];
    }
    if (t->count == 0 && graph->status == TN_OK)
        tn_graph_fail(graph, "optimizer: there is nothing to train: the loss depends on no "
                             "parameter that is not frozen");
    return graph->status == TN_OK;
}

/* The step's own tokens with those that layers have put off. */
static tn_node with_deferred(tn_node token)
{
    if (tn_is_none(token)) return token;
    return tn_group(token.graph, (tn_node[]){token, tn_take_deferred(token.graph)}, 2);
}

tn_training_step tn_minimise_step(tn_node loss, const tn_optimizer *o)
{
    trained t;
    tn_training_step step = {TN_NONE, TN_NONE, TN_NONE};
    if (find_trained(loss, o, &t)) step = tn_descend(t.parameter, t.gradient, t.count, o);
    step.updates = with_deferred(step.updates);
    forget(&t);
    return step;
}

tn_node tn_minimise(tn_node loss, const tn_optimizer *o)
{
    return tn_minimise_step(loss, o).updates;
}

static tn_node accumulator(const tn_optimizer *o, tn_node p)
{
    return memory(o, p.graph, name_of(p), "gradient", TN_F32, tn_shape_of(p), 0);
}

static tn_node parts_count(const tn_optimizer *o, tn_graph *graph)
{
    return memory(o, graph, NULL, "parts", TN_I64, TN_SCALAR, 0);
}

tn_node tn_accumulate(tn_node loss, const tn_optimizer *o)
{
    trained t;
    tn_node token = TN_NONE;
    if (find_trained(loss, o, &t)) {
        token_list tokens = {.graph = loss.graph};
        for (int i = 0; i < t.count; i++) {
            tn_node sum = accumulator(o, t.parameter[i]);
            add_token(&tokens, tn_assign(sum, tn_add(sum, t.gradient[i])));
        }
        tn_node parts = parts_count(o, loss.graph);
        add_token(&tokens, tn_assign(parts, plus_one(parts)));
        token = with_deferred(finish_tokens(&tokens));
    }
    forget(&t);
    return token;
}

tn_training_step tn_apply_accumulated(tn_node loss, const tn_optimizer *o)
{
    trained t;
    tn_training_step step = {TN_NONE, TN_NONE, TN_NONE};
    if (find_trained(loss, o, &t)) { /* these gradients are dead code: the accumulated ones count */
        tn_node parts = parts_count(o, loss.graph);
        tn_node share = tn_reciprocal(
            tn_maximum(tn_cast(parts, TN_F32), tn_fill(loss.graph, TN_F32, TN_SCALAR, 1)));
        token_list tokens = {.graph = loss.graph};
        for (int i = 0; i < t.count; i++) {
            tn_node sum = accumulator(o, t.parameter[i]);
            t.gradient[i] = tn_multiply(sum, share);
            add_token(&tokens, tn_assign(sum, tn_like(sum, 0)));
        }
        add_token(&tokens, tn_assign(parts, tn_like(parts, 0)));
        step = tn_descend(t.parameter, t.gradient, t.count, o);
        add_token(&tokens, step.updates);
        step.updates = finish_tokens(&tokens);
    }
    forget(&t);
    return step;
}

/* ---- averages -------------------------------------------------------------------------------- */

int tn_average_swap(tn_state *state)
{
    int swapped = 0;
    size_t length = sizeof average_prefix - 1;
    for (int i = 0; i < tn_state_count(state); i++) {
        tn_state_entry *average = tn_state_at(state, i);
        if (strncmp(average->name, average_prefix, length) != 0) continue;
        tn_state_entry *p = tn_state_find(state, average->name + length);
        if (!p || p->dtype != average->dtype || !tn_shape_equal(p->shape, average->shape)) continue;
        void *data = p->data;
        bool borrowed = p->borrowed;
        p->data = average->data, p->borrowed = average->borrowed;
        average->data = data, average->borrowed = borrowed;
        p->version++, average->version++;
        swapped++;
    }
    return swapped;
}
