/* The benchmark's eight networks, built with the public headers alone. peers/pytorch_cases.py has
 * the same ones, layer by layer. */
#ifndef BENCH_CASES_H
#define BENCH_CASES_H

#include "tenon/graph.h"
#include "tenon/optimizer.h"

typedef enum bench_content {
    BENCH_NORMAL, /* f32, standard normal */
    BENCH_COIN,   /* f32, 0 or 1 */
    BENCH_BELOW   /* i32, uniform in [0, bound) */
} bench_content;

/* What a plan is fed with: its look and what it holds. */
typedef struct bench_feed {
    tn_shape shape;
    bench_content content;
    int32_t bound;
} bench_feed;

typedef struct bench_case {
    const char *name, *what;
    bench_feed input, target;
    tn_node (*model)(tn_scope scope, tn_node input);
    tn_node (*loss)(tn_node output, tn_node target); /* f32 scalar */
    tn_optimizer optimizer;
} bench_case;

/* NULL if there is no such case. */
const bench_case *bench_find_case(const char *name);
/* Case `index`, in the order of the report; NULL behind the last. */
const bench_case *bench_case_at(int index);

typedef struct bench_nodes {
    tn_node input, target; /* target, loss and updates: empty for inference */
    tn_node output, loss;
    tn_node updates;
} bench_nodes;

/* Builds the case into `graph`: one training step, or inference. compute: TN_F32 or TN_BF16
 * (parameters stay f32). Errors stay in the graph. */
bench_nodes bench_build(const bench_case *c, tn_graph *graph, bool training, tn_dtype compute);
/* The same numbers at every call; free with free(). NULL when out of memory. */
void *bench_make_data(const bench_feed *feed, uint64_t stream);

#endif
