/* Checkpoints of a run: the whole state in a safetensors file a step, with a record of the loop in
 * its metadata. */
#ifndef TN_NN_CHECKPOINT_H
#define TN_NN_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "tenon/state.h"

/* Writes FOLDER/step-NNNNNNNN.safetensors with `record` (JSON text) beside the tensors; when it is
 * on disk, all others but the newest before it are removed. Refuses (TN_INVALID) a state whose
 * parameters are not finite. On any error the earlier ones are intact. */
tn_status tn_checkpoint_write(const char *folder, const tn_state *state, int64_t step,
                              const char *record);

/* Loads the newest checkpoint that is whole (size, structure and checksum) into the state. *record
 * is the caller's (free()), NULL when the folder holds none. Damaged ones are passed over with a
 * warning; TN_FORMAT if all are. TN_INVALID if the state wants a parameter or an optimiser's memory
 * that the checkpoint does not have. */
tn_status tn_checkpoint_read(const char *folder, tn_state *state, int64_t *step, char **record);

#endif
