/* Nodes held against their decompositions on the reference backend, where both are computed in
 * f64. */
#ifndef TN_TESTS_OPS_DECOMPOSITIONS_H
#define TN_TESTS_OPS_DECOMPOSITIONS_H

#include "graph_check.h"

#include "graph/op.h"

/* Every node of one of the `op_count` ops in the case's graph with its gradient; there must be at
 * least `least`. */
static inline void check_decompositions(const check_case *c, uint64_t seed, const tn_op_id *op,
                                        int op_count, int least)
{
    check_graph g;
    check_build(c, TN_F64, seed, &g);
    int32_t count = tn_graph_node_count(g.graph), seen = 0;
    for (int32_t id = 1; id <= count; id++) {
        tn_node node = {g.graph, id}, both[2 * TN_MAX_RESULTS];
        const tn_value *value = tn_value_of(node);
        bool wanted = false;
        for (int i = 0; i < op_count; i++) wanted = wanted || value->op->id == op[i];
        if (!wanted) continue;
        int results = value->result_count;
        tn_decompose(node, both + results);
        if (tn_graph_status(g.graph) != TN_OK) fail_msg("%s: %s", c->name, tn_message());
        for (int r = 0; r < results; r++) both[r] = tn_result(node, r);
        void *out[2 * TN_MAX_RESULTS];
        check_fetch(c, &g, both, 2 * results, (tn_compile_options){.backend = TN_REF}, out);
        for (int r = 0; r < results; r++)
            check_close(c, "decomposition", r, out[results + r], out[r],
                        tn_shape_size(tn_shape_of(both[r])), 1e-11);
        for (int i = 0; i < 2 * results; i++) free(out[i]);
        seen++;
    }
    if (seen < least)
        fail_msg("%s: %d nodes to decompose, expected %d or more", c->name, (int)seen, least);
    check_free(c, &g);
}

#endif
