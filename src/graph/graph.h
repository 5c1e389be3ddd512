/* The graph's inside, for graph/ and exec/ only. */
#ifndef TN_GRAPH_GRAPH_H
#define TN_GRAPH_GRAPH_H

#include "graph/op.h"

struct tn_graph {
    tn_arena arena;
    tn_value **value; /* by id; id 0 is unused so that a zeroed id is never a node */
    int32_t count, capacity;
    int32_t *named; /* ids of INPUT and STATE nodes */
    int32_t named_count, named_capacity;
    int32_t *deferred; /* ids of tokens waiting for tn_take_deferred */
    int32_t deferred_count, deferred_capacity;
    struct tn_stream {
        const char *path;
        uint64_t next;
    } * stream; /* random streams handed out per scope path */
    int32_t stream_count, stream_capacity;
    tn_state *state;
    uint32_t generation;  /* given to new nodes; > 0 while a recomputation is being built */
    uint32_t generations; /* how many there were */
    tn_status status;
    char *message;
};

typedef struct tn_state_attribute {
    tn_init init;
    bool parameter;
} tn_state_attribute;

/* A fresh stream number for a random node in scope `path`: FNV(path) + how many before it there. */
uint64_t tn_graph_next_stream(tn_graph *graph, const char *path);

/* Parameter nodes (STATE nodes declared with tn_parameter) of a graph in order of building; returns their number, writes at
 * most `capacity`. */
int tn_graph_parameters(const tn_graph *graph, tn_node *out, int capacity);

/* Grows an array to hold count+1 elements; false (with message) when out of memory. */
bool tn_grow(void **array, int32_t count, int32_t *capacity, size_t size);

/* Where nodes are being built, per thread. */
typedef struct tn_place {
    const char *file;
    int line;
} tn_place;
tn_place tn_place_now(void);

/* A copy of node `self` of any graph with other inputs (already in `graph`): used by passes and recomputation. */
tn_node tn_node_copy(tn_graph *graph, const tn_value *self, const int32_t *in);

#endif
