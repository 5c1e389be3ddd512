/* How operations are tested: one `check_case` says how to build an op from random inputs; check_run holds everything about it
 * against everything else.
 *
 *   1. gradients on the reference backend (f64) against central differences of a random projection of the outputs
 *   2. second order the same way: the gradient of <gradient, random direction>
 *   3. the CPU backend (f32, bf16 if asked) against the reference: values and gradients
 *   4. the decomposition against the kernel, where the op has both (all nodes of the built graph are decomposed one level)
 *   5. without fusion, without layouts; with one thread and with two: the last two must agree bit for bit
 *
 * Include in a cmocka test file; failures are cmocka failures that name the case, the seed and the element. */
#ifndef TN_TESTS_GRAPH_CHECK_H
#define TN_TESTS_GRAPH_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "near.h"

#include "base/half.h"
#include "base/threads.h"
#include "tenon/graph.h"
#include "tenon/ops.h"
#include "tenon/plan.h"
#include "tenon/random.h"
#include "tenon/state.h"

#define CHECK_MOST_INPUTS 12
#define CHECK_MOST_OUTPUTS 8

/* dtype TN_F32 inputs become f64 in the reference graph and bf16 in the bf16 graph; other dtypes stay. */
typedef struct check_input {
    tn_dtype dtype;
    tn_shape shape;
    double low,
        high; /* floats: uniform in [low, high) (both 0: [-1, 1)); integers: low .. high-1 */
    const double *values; /* or exactly these, row-major */
    bool no_gradient;     /* a float input that gets none */
    bool stays_f32;       /* keeps f32 in the bf16 graph (a norm's scale, say) */
} check_input;

typedef struct check_case {
    const char *name;
    check_input in[CHECK_MOST_INPUTS];
    int in_count;
    /* Builds the op; writes its float outputs (any number >= 1; others may be fetched by separate tests) and returns how many. */
    int (*build)(tn_graph *graph, const tn_node *in, tn_node *out, const void *option);
    const void *option;
    bool second_order;   /* check 2 */
    bool no_first_order; /* skip 1 and gradient comparison in 3 */
    bool bf16;           /* also run the bf16 graph */
    double
        tolerance; /* f32 against f64, relative to the largest magnitude of the tensor (0: 2e-5) */
    double bf16_tolerance;       /* (0: 3e-2) */
    double difference_tolerance; /* finite differences (0: 1e-6 relative) */
} check_case;

typedef struct check_graph {
    tn_state *state;
    tn_graph *graph;
    tn_node in[CHECK_MOST_INPUTS], out[CHECK_MOST_OUTPUTS], gradient[CHECK_MOST_INPUTS],
        second[CHECK_MOST_INPUTS];
    tn_node projected, projected_gradient;
    int out_count;
    void *feed[CHECK_MOST_INPUTS];
} check_graph;

static inline double *check_values(const check_input *in, uint64_t seed, int index)
{
    int64_t count = tn_shape_size(in->shape);
    double *value = calloc((size_t)count + 1, sizeof *value), low = in->low, high = in->high;
    if (low == 0 && high == 0) low = -1, high = tn_dtype_is_float(in->dtype) ? 1 : 2;
    for (int64_t i = 0; i < count; i++) {
        double u = tn_random_uniform(seed, 1000 + (uint64_t)index, (uint64_t)i);
        value[i] = in->values ? in->values[i] : low + (high - low) * u;
        if (!tn_dtype_is_float(in->dtype)) value[i] = floor(value[i]);
        else
            value[i] = (double)tn_f32_from_bf16(
                tn_bf16_from_f32((float)value[i])); /* representable everywhere */
    }
    return value;
}

static inline void *check_typed(tn_dtype dtype, const double *value, int64_t count)
{
    void *out = aligned_alloc(64, ((size_t)count * tn_dtype_size(dtype) + 127) / 64 * 64);
    for (int64_t i = 0; i < count; i++) switch (dtype) {
        case TN_F32: ((float *)out)[i] = (float)value[i]; break;
        case TN_F64: ((double *)out)[i] = value[i]; break;
        case TN_BF16: ((uint16_t *)out)[i] = tn_bf16_from_f32((float)value[i]); break;
        case TN_F16: ((uint16_t *)out)[i] = tn_f16_from_f32((float)value[i]); break;
        case TN_I64: ((int64_t *)out)[i] = (int64_t)value[i]; break;
        case TN_I32: ((int32_t *)out)[i] = (int32_t)value[i]; break;
        case TN_I8: ((int8_t *)out)[i] = (int8_t)value[i]; break;
        default: ((uint8_t *)out)[i] = (uint8_t)value[i]; break;
        }
    return out;
}

static inline double *check_doubles(tn_dtype dtype, const void *in, int64_t count)
{
    double *out = calloc((size_t)count + 1, sizeof *out);
    for (int64_t i = 0; i < count; i++) switch (dtype) {
        case TN_F32: out[i] = ((const float *)in)[i]; break;
        case TN_F64: out[i] = ((const double *)in)[i]; break;
        case TN_BF16: out[i] = tn_f32_from_bf16(((const uint16_t *)in)[i]); break;
        case TN_F16: out[i] = tn_f32_from_f16(((const uint16_t *)in)[i]); break;
        case TN_I64: out[i] = (double)((const int64_t *)in)[i]; break;
        case TN_I32: out[i] = ((const int32_t *)in)[i]; break;
        case TN_I8: out[i] = ((const int8_t *)in)[i]; break;
        default: out[i] = ((const uint8_t *)in)[i]; break;
        }
    return out;
}

/* A constant of fixed random numbers in [-1, 1), for projections. */
static inline tn_node check_direction(tn_graph *graph, tn_dtype dtype, tn_shape shape,
                                      uint64_t stream)
{
    int64_t count = tn_shape_size(shape);
    double *value = calloc((size_t)count + 1, sizeof *value);
    for (int64_t i = 0; i < count; i++)
        value[i] = (double)tn_f32_from_bf16(
            tn_bf16_from_f32(2 * tn_random_uniform(77, stream, (uint64_t)i) - 1));
    void *bytes = check_typed(dtype, value, count);
    tn_node node = tn_constant(graph, dtype, shape, bytes);
    free(bytes);
    free(value);
    return node;
}

static inline tn_node check_project(tn_graph *graph, const tn_node *out, int count, uint64_t stream)
{
    tn_node sum = TN_NONE;
    for (int i = 0; i < count; i++) {
        tn_node wide = tn_dtype_of(out[i]) == TN_BF16 ? tn_cast(out[i], TN_F32) : out[i];
        tn_node term = tn_sum(
            tn_multiply(wide, check_direction(graph, tn_dtype_of(wide), tn_shape_of(wide),
                                              stream + (uint64_t)i)),
            TN_ALL_AXES);
        sum = tn_is_none(sum) ? term : tn_add(sum, tn_cast(term, tn_dtype_of(sum)));
    }
    return sum;
}

static inline bool check_differentiable(const check_case *c, int i)
{
    return tn_dtype_is_float(c->in[i].dtype) && !c->in[i].no_gradient;
}

/* The case's graph with float inputs of dtype `real`. */
static inline void check_build(const check_case *c, tn_dtype real, uint64_t seed, check_graph *g)
{
    memset(g, 0, sizeof *g);
    g->state = tn_state_create(1);
    g->graph = tn_graph_create(g->state);
    tn_node wrt[CHECK_MOST_INPUTS], d[CHECK_MOST_INPUTS];
    int wrt_count = 0;
    for (int i = 0; i < c->in_count; i++) {
        char name[16];
        snprintf(name, sizeof name, "in%d", i);
        tn_dtype dtype = tn_dtype_is_float(c->in[i].dtype)
                             ? (real == TN_BF16 && c->in[i].stays_f32 ? TN_F32 : real)
                             : c->in[i].dtype;
        g->in[i] = tn_input(g->graph, name, dtype, c->in[i].shape);
        double *value = check_values(&c->in[i], seed, i);
        g->feed[i] = check_typed(dtype, value, tn_shape_size(c->in[i].shape));
        free(value);
        if (check_differentiable(c, i)) wrt[wrt_count++] = g->in[i];
    }
    g->out_count = c->build(g->graph, g->in, g->out, c->option);
    if (tn_graph_status(g->graph) != TN_OK)
        fail_msg("%s: building failed: %s", c->name, tn_message());
    if (c->no_first_order || wrt_count == 0) return;
    g->projected = check_project(g->graph, g->out, g->out_count, 1);
    tn_gradients(g->projected, wrt, wrt_count, d);
    for (int i = 0, k = 0; i < c->in_count; i++)
        if (check_differentiable(c, i)) g->gradient[i] = d[k++];
    if (c->second_order) {
        g->projected_gradient = check_project(g->graph, d, wrt_count, 50);
        tn_gradients(g->projected_gradient, wrt, wrt_count, d);
        for (int i = 0, k = 0; i < c->in_count; i++)
            if (check_differentiable(c, i)) g->second[i] = d[k++];
    }
    if (tn_graph_status(g->graph) != TN_OK)
        fail_msg("%s: differentiating failed: %s", c->name, tn_message());
}

static inline void check_free(const check_case *c, check_graph *g)
{
    for (int i = 0; i < c->in_count; i++) free(g->feed[i]);
    tn_graph_free(g->graph);
    tn_state_free(g->state);
}

/* Compiles and runs `fetch` once; returns the raw bytes of each (free them). */
static inline void check_fetch(const check_case *c, const check_graph *g, const tn_node *fetch,
                               int count, tn_compile_options options, void **out)
{
    options.graph = g->graph;
    options.feeds = (tn_node_list){g->in, c->in_count};
    options.fetches = (tn_node_list){fetch, count};
    tn_plan *plan;
    if (tn_compile_with(&plan, &options) != TN_OK)
        fail_msg("%s: compiling failed: %s", c->name, tn_message());
    for (int i = 0; i < count; i++)
        out[i] = calloc(1, (size_t)tn_shape_size(tn_shape_of(fetch[i])) *
                                   tn_dtype_size(tn_dtype_of(fetch[i])) +
                               64);
    /* Twice: scratch that is not written anew would show. */
    for (int run = 0; run < (options.backend == TN_CPU ? 2 : 1); run++)
        if (tn_run(plan, (const void *const *)g->feed, out) != TN_OK)
            fail_msg("%s: running failed: %s", c->name, tn_message());
    tn_plan_free(plan);
}

static inline void check_close(const check_case *c, const char *what, int which, const double *got,
                               const double *expected, int64_t count, double tolerance)
{
    double largest = 0;
    for (int64_t i = 0; i < count; i++)
        if (isfinite(expected[i])) largest = fmax(largest, fabs(expected[i]));
    for (int64_t i = 0; i < count; i++) {
        bool same = got[i] == expected[i] || (isnan(got[i]) && isnan(expected[i])) ||
                    fabs(got[i] - expected[i]) <= tolerance * fmax(largest, 1e-2);
        if (!same)
            fail_msg("%s: %s %d differs at element %lld: %.9g, expected %.9g (largest %.3g, "
                     "tolerance %.1e)",
                     c->name, what, which, (long long)i, got[i], expected[i], largest, tolerance);
    }
}

/* d projected / d in[i] by central differences on the reference backend. At most 24 elements of each input are tried. */
static inline void check_differences(const check_case *c, check_graph *g, tn_node value,
                                     const tn_node *gradient, const char *what)
{
    double tolerance = c->difference_tolerance > 0 ? c->difference_tolerance : 1e-6;
    tn_node fetch[CHECK_MOST_INPUTS + 1] = {value};
    int at[CHECK_MOST_INPUTS], count = 1;
    for (int i = 0; i < c->in_count; i++)
        if (check_differentiable(c, i)) at[i] = count, fetch[count++] = gradient[i];
    void *out[CHECK_MOST_INPUTS + 1];
    check_fetch(c, g, fetch, count, (tn_compile_options){.backend = TN_REF}, out);
    tn_plan *plan;
    tn_compile_options options = {.graph = g->graph,
                                  .feeds = {g->in, c->in_count},
                                  .fetches = {&value, 1},
                                  .backend = TN_REF};
    if (tn_compile_with(&plan, &options) != TN_OK)
        fail_msg("%s: compiling failed: %s", c->name, tn_message());
    for (int i = 0; i < c->in_count; i++) {
        if (!check_differentiable(c, i)) continue;
        int64_t size = tn_shape_size(c->in[i].shape), tries = size < 24 ? size : 24;
        const double *d = out[at[i]];
        double largest = 0;
        for (int64_t k = 0; k < size; k++) largest = fmax(largest, fabs(d[k]));
        for (int64_t t = 0; t < tries; t++) {
            int64_t k = size <= 24
                            ? t
                            : (int64_t)tn_random_below(5, (uint64_t)i, (uint64_t)t, (uint64_t)size);
            double *x = (double *)g->feed[i] + k, saved = *x, h = 1e-5 * fmax(1, fabs(saved)),
                   side[2];
            for (int s = 0; s < 2; s++) {
                *x = saved + (s ? h : -h);
                void *result = &side[s];
                if (tn_run(plan, (const void *const *)g->feed, &result) != TN_OK)
                    fail_msg("%s: running failed: %s", c->name, tn_message());
            }
            *x = saved;
            double numeric = (side[1] - side[0]) / (2 * h),
                   noise = 1e-10 * (fabs(side[0]) + 1) / h * 1e-1;
            if (!(fabs(numeric - d[k]) <= tolerance * fmax(largest, 1) + noise))
                fail_msg("%s: %s of input %d at element %lld is %.10g, but differences give %.10g",
                         c->name, what, i, (long long)k, d[k], numeric);
        }
    }
    tn_plan_free(plan);
    for (int i = 0; i < count; i++) free(out[i]);
}

/* Values and gradients of `real` on the CPU against the reference. */
static inline void check_backend(const check_case *c, tn_dtype real, uint64_t seed,
                                 double tolerance)
{
    check_graph g, r;
    check_build(c, real, seed, &g);
    check_build(c, TN_F64, seed, &r);
    tn_node fetch[CHECK_MOST_OUTPUTS + 2 * CHECK_MOST_INPUTS],
        expected[CHECK_MOST_OUTPUTS + 2 * CHECK_MOST_INPUTS];
    int count = 0;
    for (int i = 0; i < g.out_count; i++) fetch[count] = g.out[i], expected[count++] = r.out[i];
    for (int i = 0; i < c->in_count; i++)
        if (!tn_is_none(g.gradient[i]))
            fetch[count] = g.gradient[i], expected[count++] = r.gradient[i];
    for (int i = 0; i < c->in_count && real == TN_F32; i++)
        if (!tn_is_none(g.second[i])) fetch[count] = g.second[i], expected[count++] = r.second[i];
    enum { VARIANTS = 4 };
    static const char *const what[VARIANTS] = {"output", "output without fusion",
                                               "output without layouts", "output with one thread"};
    void *got[VARIANTS][CHECK_MOST_OUTPUTS + 2 * CHECK_MOST_INPUTS],
        *want[CHECK_MOST_OUTPUTS + 2 * CHECK_MOST_INPUTS];
    tn_set_thread_count(2);
    check_fetch(c, &g, fetch, count, (tn_compile_options){.backend = TN_CPU}, got[0]);
    check_fetch(c, &g, fetch, count, (tn_compile_options){.backend = TN_CPU, .no_fusion = true},
                got[1]);
    check_fetch(c, &g, fetch, count, (tn_compile_options){.backend = TN_CPU, .no_layouts = true},
                got[2]);
    tn_set_thread_count(1);
    check_fetch(c, &g, fetch, count, (tn_compile_options){.backend = TN_CPU}, got[3]);
    tn_set_thread_count(0);
    check_fetch(c, &r, expected, count, (tn_compile_options){.backend = TN_REF}, want);
    for (int i = 0; i < count; i++) {
        int64_t size = tn_shape_size(tn_shape_of(fetch[i]));
        double *e = check_doubles(tn_dtype_of(expected[i]), want[i], size);
        for (int v = 0; v < VARIANTS; v++) {
            double *o = check_doubles(tn_dtype_of(fetch[i]), got[v][i], size);
            check_close(c, what[v], i, o, e, size, tolerance);
            free(o);
        }
        if (memcmp(got[0][i], got[3][i], (size_t)size * tn_dtype_size(tn_dtype_of(fetch[i]))))
            fail_msg("%s: output %d depends on the number of threads", c->name, i);
        free(e);
        for (int v = 0; v < VARIANTS; v++) free(got[v][i]);
        free(want[i]);
    }
    check_free(c, &g);
    check_free(c, &r);
}

static inline void check_run(const check_case *c, uint64_t seed)
{
    check_graph g;
    check_build(c, TN_F64, seed, &g);
    if (!tn_is_none(g.projected)) check_differences(c, &g, g.projected, g.gradient, "gradient");
    if (!tn_is_none(g.projected_gradient))
        check_differences(c, &g, g.projected_gradient, g.second, "second-order gradient");
    check_free(c, &g);
    check_backend(c, TN_F32, seed, c->tolerance > 0 ? c->tolerance : 2e-5);
    if (c->bf16) check_backend(c, TN_BF16, seed, c->bf16_tolerance > 0 ? c->bf16_tolerance : 3e-2);
}

/* That building fails, and with a message holding `part`. */
static inline void check_refused(tn_graph *graph, const char *part)
{
    if (tn_graph_status(graph) == TN_OK)
        fail_msg("building succeeded, but should have failed with '%s'", part);
    if (!strstr(tn_message(), part))
        fail_msg("message '%s' does not hold '%s'", tn_message(), part);
}

/* Runs a graph of one i32 input on both backends and wants the message, which names the place. */
static inline void check_refused_run(tn_graph *graph, tn_node bad, tn_node out,
                                     const int32_t *value, const char *place, const char *part)
{
    for (int k = 0; k < 2; k++) {
        tn_plan *plan;
        if (tn_compile(&plan, .graph = graph, .feeds = TN_NODES(bad), .fetches = TN_NODES(out),
                       .backend = k ? TN_REF : TN_CPU) != TN_OK)
            fail_msg("%s", tn_message());
        float to[256];
        assert_int_equal(tn_run(plan, (const void *[]){value}, (void *[]){to}), TN_INVALID);
        if (!strstr(tn_message(), part))
            fail_msg("message '%s' does not hold '%s'", tn_message(), part);
        if (!strstr(tn_message(), place))
            fail_msg("message '%s' does not name the place", tn_message());
        tn_plan_free(plan);
    }
}

#endif
