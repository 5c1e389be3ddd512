/* Plans: a graph compiled for one backend, with every buffer's place known before the first run.
 *
 *     tn_plan *step = NULL;
 *     tn_compile(&step, .graph = graph, .feeds = TN_NODES(images, labels), .fetches = TN_NODES(loss), .updates = update);
 *     tn_run(step, (const void *[]){pixels, classes}, (void *[]){&loss_value});
 *
 * A plan is immutable; several threads run it at once, each with a context of its own. */
#ifndef TENON_PLAN_H
#define TENON_PLAN_H

#include "tenon/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tn_plan tn_plan;
typedef struct tn_context tn_context;

typedef enum tn_backend {
    TN_CPU = 0,
    TN_REF /* plain f64 C, slow and obviously right; feeds and fetches keep their declared dtypes */
} tn_backend;

typedef struct tn_node_list {
    const tn_node *node;
    int count;
} tn_node_list;

#define TN_NODES(...)                                                                              \
    ((tn_node_list){(const tn_node[]){__VA_ARGS__},                                                \
                    (int)(sizeof((tn_node[]){__VA_ARGS__}) / sizeof(tn_node))})

typedef struct tn_compile_options {
    tn_graph *graph;
    tn_node_list
        feeds; /* inputs, in the order tn_run takes them; every input that the fetches need must be here */
    tn_node_list fetches; /* values, in the order tn_run writes them (row-major, densely) */
    tn_node updates;      /* tokens of tn_assign / tn_group to carry out, or TN_NONE */
    tn_backend backend;
    bool no_fusion;  /* for tests: run the plain graph */
    bool no_layouts; /* for tests: everything row-major */
    bool profile;    /* measure each node; see tn_plan_print_profile */
    size_t
        memory_limit; /* bytes of scratch and new state; 0: no limit. Above it compiling fails with the sum by kind */
} tn_compile_options;

/* Compiles. On success *plan is the caller's (tn_plan_free). The graph's first building error is reported here. */
tn_status tn_compile_with(tn_plan **plan, const tn_compile_options *options);
#define tn_compile(plan, ...) tn_compile_with(plan, &(tn_compile_options){__VA_ARGS__})
void tn_plan_free(tn_plan *plan);

/* Runs with the plan's own context: one thread at a time. feeds[i]/fetches[i] as declared; a NULL fetch is skipped.
 * Fails on nothing but bad indices met while running (an embedding id out of range, say). */
tn_status tn_run(tn_plan *plan, const void *const *feeds, void *const *fetches);

/* A context of one's own: scratch memory for one thread's runs. Free before the plan. */
tn_status tn_context_create(tn_context **context, const tn_plan *plan);
void tn_context_free(tn_context *context);
tn_status tn_run_in(tn_context *context, const void *const *feeds, void *const *fetches);

/* Bytes of scratch that one context holds: known here, before anything runs. */
size_t tn_plan_bytes(const tn_plan *plan);
/* Bytes of state that the plan reads or writes. */
size_t tn_plan_state_bytes(const tn_plan *plan);
int tn_plan_step_count(const tn_plan *plan);
/* FLOP of one run, by the ops' own counts. */
double tn_plan_flop(const tn_plan *plan);

/* The steps in order, with shapes, places and bytes. */
void tn_plan_print(const tn_plan *plan, FILE *out);
/* After runs with .profile: time, FLOP, bytes per node and per op, and the fraction of the machine's measured limits. */
void tn_plan_print_profile(const tn_plan *plan, FILE *out);

#ifdef __cplusplus
}
#endif
#endif
