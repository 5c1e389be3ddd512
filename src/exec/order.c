/* The order of running. Nodes run in building order, except that an update of state (an optimiser's step) runs as soon as its
 * inputs are there and nobody else will read the old state: then it can write in place, and its gradient's memory is free. */
#include <stdlib.h>
#include <string.h>

#include "exec/plan.h"

typedef struct scheduler {
    const tn_graph *graph;
    int32_t *missing;    /* by id: inputs that have not run, plus states that others still read */
    int32_t *first_user; /* by id: head of the list of users; edges below */
    int32_t *edge_user, *edge_next, edge_count;
    bool *update;      /* leads to nothing but assignments */
    int32_t *state_of; /* by id: the STATE node behind a chain of views, or 0 */
    int32_t *readers;  /* by STATE id: readers that have not run, the updating node not counted */
    int32_t *updater;  /* by STATE id: the node whose value it is assigned, or 0 */
    int32_t *heap, heap_count; /* ready nodes, smallest id first */
    int32_t *ready_update, ready_update_count;
    bool *done;
} scheduler;

static void heap_push(scheduler *s, int32_t id)
{
    int32_t at = s->heap_count++;
    for (; at > 0 && s->heap[(at - 1) / 2] > id; at = (at - 1) / 2)
        s->heap[at] = s->heap[(at - 1) / 2];
    s->heap[at] = id;
}

static int32_t heap_pop(scheduler *s)
{
    int32_t top = s->heap[0], last = s->heap[--s->heap_count], at = 0;
    for (;;) {
        int32_t child = 2 * at + 1;
        if (child >= s->heap_count) break;
        if (child + 1 < s->heap_count && s->heap[child + 1] < s->heap[child]) child++;
        if (s->heap[child] >= last) break;
        s->heap[at] = s->heap[child];
        at = child;
    }
    s->heap[at] = last;
    return top;
}

static void ready(scheduler *s, int32_t id)
{
    if (s->update[id]) s->ready_update[s->ready_update_count++] = id;
    else heap_push(s, id);
}

static void find_updates(scheduler *s)
{
    const tn_graph *graph = s->graph;
    for (int32_t id = graph->count - 1; id > 0; id--) {
        const tn_value *value = graph->value[id];
        tn_op_id op = value->op->id;
        bool only = s->first_user[id] != 0;
        for (int32_t e = s->first_user[id]; e && only; e = s->edge_next[e])
            only = s->update[s->edge_user[e]];
        s->update[id] = op == TN_OP_ASSIGN || op == TN_OP_GROUP || (only && value->in_count > 0);
        if (value->op->id == TN_OP_ASSIGN && !s->updater[value->in[0]]) {
            int32_t by = value->in[1];
            s->updater[value->in[0]] = graph->value[by]->op->id == TN_OP_RESULT
                                           ? graph->value[by]->in[0]
                                           : by;
        }
    }
}

static void count_readers(scheduler *s)
{
    const tn_graph *graph = s->graph;
    for (int32_t id = 1; id < graph->count; id++) {
        const tn_value *value = graph->value[id];
        if (value->op->id == TN_OP_STATE) s->state_of[id] = id;
        if (value->op->flags & TN_VIEW) s->state_of[id] = s->state_of[value->in[0]];
        if (value->op->id == TN_OP_ASSIGN) continue;
        for (int i = 0; i < value->in_count; i++) {
            int32_t state = s->state_of[value->in[i]];
            if (state && s->updater[state] != id) s->readers[state]++;
        }
    }
    for (int32_t id = 1; id < graph->count; id++)
        if (s->updater[id] && s->update[s->updater[id]] && s->readers[id] > 0)
            s->missing[s->updater[id]]++;
}

static void run(scheduler *s, int32_t id, int32_t *order, int32_t *count)
{
    const tn_value *value = s->graph->value[id];
    order[(*count)++] = id;
    s->done[id] = true;
    for (int32_t e = s->first_user[id]; e; e = s->edge_next[e])
        if (--s->missing[s->edge_user[e]] == 0) ready(s, s->edge_user[e]);
    if (value->op->id == TN_OP_ASSIGN) return;
    for (int i = 0; i < value->in_count; i++) {
        int32_t state = s->state_of[value->in[i]];
        if (!state || s->updater[state] == id || --s->readers[state] > 0) continue;
        int32_t waiting = s->updater[state];
        if (waiting && s->update[waiting] && !s->done[waiting] && --s->missing[waiting] == 0)
            ready(s, waiting);
    }
}

/* Nothing is ready: what is left waits for updates whose old state is read by what depends on them. Such an update cannot write
 * in place, so it need not wait. The oldest node has all its inputs (ids are a topological order), so it is one of them. */
static int32_t release_oldest(scheduler *s)
{
    int32_t id = 1;
    while (s->done[id]) id++;
    s->missing[id] = 0;
    return id;
}

tn_status tn_order(const tn_program *program, int32_t **order_out)
{
    const tn_graph *graph = program->graph;
    size_t n = (size_t)graph->count, edges = 1;
    for (int32_t id = 1; id < graph->count; id++) edges += (size_t)graph->value[id]->in_count;
    scheduler s = {.graph = graph};
    tn_arena arena = {0};
    s.missing = tn_arena_array(&arena, n, sizeof(int32_t));
    s.first_user = tn_arena_array(&arena, n, sizeof(int32_t));
    s.edge_user = tn_arena_array(&arena, edges, sizeof(int32_t));
    s.edge_next = tn_arena_array(&arena, edges, sizeof(int32_t));
    s.state_of = tn_arena_array(&arena, n, sizeof(int32_t));
    s.readers = tn_arena_array(&arena, n, sizeof(int32_t));
    s.updater = tn_arena_array(&arena, n, sizeof(int32_t));
    s.heap = tn_arena_array(&arena, n, sizeof(int32_t));
    s.ready_update = tn_arena_array(&arena, n, sizeof(int32_t));
    s.update = tn_arena_array(&arena, n, sizeof(bool));
    s.done = tn_arena_array(&arena, n, sizeof(bool));
    int32_t *order = malloc(n * sizeof *order), count = 0;
    if (!s.missing || !s.first_user || !s.edge_user || !s.edge_next || !s.state_of || !s.readers ||
        !s.updater || !s.heap || !s.ready_update || !s.update || !s.done || !order) {
        tn_arena_free(&arena);
        free(order);
        return tn_fail(TN_MEMORY, "out of memory for ordering %zu nodes", n);
    }
    s.edge_count = 1;
    for (int32_t id = graph->count - 1; id > 0; id--) {
        const tn_value *value = graph->value[id];
        s.missing[id] = value->in_count;
        for (int i = 0; i < value->in_count; i++) {
            s.edge_user[s.edge_count] = id;
            s.edge_next[s.edge_count] = s.first_user[value->in[i]];
            s.first_user[value->in[i]] = s.edge_count++;
        }
    }
    find_updates(&s);
    count_readers(&s);
    for (int32_t id = 1; id < graph->count; id++)
        if (s.missing[id] == 0) ready(&s, id);
    int32_t next_update = 0;
    while (count < graph->count - 1) {
        if (next_update < s.ready_update_count) {
            run(&s, s.ready_update[next_update++], order, &count);
        } else if (s.heap_count) {
            run(&s, heap_pop(&s), order, &count);
        } else {
            ready(&s, release_oldest(&s));
        }
    }
    tn_arena_free(&arena);
    *order_out = order;
    return TN_OK;
}
