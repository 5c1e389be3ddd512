/* What exec/ needs of a state store beyond the public header. */
#ifndef TN_EXEC_STATE_H
#define TN_EXEC_STATE_H

#include "graph/graph.h"
#include "tenon/state.h"

/* The entry of a STATE node, made and initialised if it is missing. Error if it exists with another dtype or shape. */
tn_status tn_state_entry_for(tn_state *state, const tn_value *node, tn_state_entry **entry);

#endif
