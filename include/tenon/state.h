/* Named state: parameters, optimiser moments, running statistics, caches. One store serves many graphs, plans and
 * threads; saving a model is a walk over its names. */
#ifndef TENON_STATE_H
#define TENON_STATE_H

#include "tenon/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* `seed` keys the initialisers. NULL only when out of memory. Must outlive graphs and plans over it. */
tn_state *tn_state_create(uint64_t seed);
void tn_state_free(tn_state *state);

typedef struct tn_state_entry {
    const char *name;
    tn_dtype dtype;
    tn_shape shape;
    void *data; /* row-major, 64-byte aligned */
    size_t bytes;
    bool
        parameter; /* declared with tn_parameter: what a model file holds and an optimiser trains */
    bool
        borrowed; /* data belongs to somebody else (a mapped weights file): read-only, copied at the first write */
    uint64_t version; /* grows with every write; kernels that keep a packed copy compare it */
} tn_state_entry;

int tn_state_count(const tn_state *state);
/* Entries in order of creation; stable pointers. */
tn_state_entry *tn_state_at(const tn_state *state, int index);
/* NULL if there is none. */
tn_state_entry *tn_state_find(const tn_state *state, const char *name);

/* Makes an entry (zeroed, or a copy of `bytes`). Error if the name exists with another dtype or shape; if it exists
 * with the same, its contents are replaced. Call between runs only. */
tn_status tn_state_put(tn_state *state, const char *name, tn_dtype dtype, tn_shape shape,
                       const void *bytes);
/* The same without a copy: the caller keeps `bytes` alive and unchanged until the state is freed. */
tn_status tn_state_borrow(tn_state *state, const char *name, tn_dtype dtype, tn_shape shape,
                          const void *bytes);
/* Makes the entry's bytes private and writable, and counts a version. */
tn_status tn_state_touch(tn_state *state, tn_state_entry *entry);
/* Sum of bytes of all entries (borrowed included). */
size_t tn_state_bytes(const tn_state *state);
/* SHA-256 over names, dtypes, shapes and bytes in order of name; hex digits in `digest`. */
void tn_state_digest(const tn_state *state, char digest[65]);

#ifdef __cplusplus
}
#endif
#endif
