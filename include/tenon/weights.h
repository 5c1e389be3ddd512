/* Weights: a set of named tensors in a file, whatever the format.
 *
 * Opened files are mapped, not read: a tensor is a pointer into the file, and bytes that nobody
 * touches cost nothing. Everything that a format promises is checked at opening (extents, shapes,
 * overlaps, names), so that a tensor that was found may be used without further checks. Only the
 * values are not looked at until tn_weights_check_finite.
 *
 * Formats: safetensors (one file, or shards with model.safetensors.index.json, or a directory with
 * either), GGUF 2 and 3, llama2.c .bin, minGPT's JSON. Llama tensors of GGUF and llama2.c get the
 * names of Hugging Face, in the row order of their file: rotary pairs are interleaved there, and
 * tn_weights_config says so ("rope_interleaved": true). */
#ifndef TENON_WEIGHTS_H
#define TENON_WEIGHTS_H

#include "tenon/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How the bytes of a tensor stand for its elements. Block codings cut the last dimension into
 * blocks of 32. */
typedef enum tn_weight_coding {
    TN_CODING_PLAIN = 0, /* an array of dtype, little-endian */
    TN_CODING_Q8_0,      /* f16 scale, 32 x i8 */
    TN_CODING_Q4_0,      /* f16 scale, 32 x 4 bits less 8: low nibbles first, then high ones */
} tn_weight_coding;

typedef struct tn_weight {
    const char *name;
    tn_dtype dtype; /* of an element; TN_F32 with a block coding, which reading expands */
    tn_weight_coding coding;
    tn_shape shape;    /* row-major */
    const void *bytes; /* in the mapped file: perhaps not aligned to the element */
    size_t size;       /* of bytes */
} tn_weight;

typedef struct tn_weights tn_weights;

/* ---- opening ------------------------------------------------------------------------- */

/* Opens a file or a directory (model.safetensors, else model.safetensors.index.json) and checks it
 * whole. The format is told by the extension (.safetensors, .gguf), else by the content.
 * Errors, *out is NULL then: TN_IO; TN_FORMAT naming file, tensor and what contradicts what;
 * TN_UNSUPPORTED for types that have no tn_dtype. */
tn_status tn_weights_open(const char *path, tn_weights **out);
/* The same from memory, which must live and stay unchanged as long as the weights; `name` stands
 * for the path in messages. Shards cannot be opened this way. */
tn_status tn_weights_open_memory(const void *bytes, size_t size, const char *name,
                                 tn_weights **out);
/* NULL is allowed. Tensors and texts of the set are gone then. */
void tn_weights_free(tn_weights *weights);

/* ---- looking ------------------------------------------------------------------------- */

const char *tn_weights_path(const tn_weights *weights);
/* "safetensors", "gguf", "llama2.c", "minGPT". */
const char *tn_weights_format(const tn_weights *weights);
int tn_weights_count(const tn_weights *weights);
/* Tensors in the order of the file (shards in the order of their names). */
const tn_weight *tn_weights_at(const tn_weights *weights, int index);
/* NULL if there is none. */
const tn_weight *tn_weights_find(const tn_weights *weights, const char *name);
/* The same, but TN_FORMAT with the file and the nearest name if it is missing, or if its shape is
 * not `shape`. */
tn_status tn_weights_require(const tn_weights *weights, const char *name, tn_shape shape,
                             const tn_weight **out);

/* The model's configuration as JSON text in the manner of Hugging Face's config.json: the file
 * beside the tensors, or made from what the format itself holds (llama2.c's header, GGUF's llama.*
 * keys, minGPT's config). NULL if there is none. */
const char *tn_weights_config(const tn_weights *weights);
/* Text stored with the tensors (safetensors' __metadata__; GGUF's scalars and strings, printed);
 * NULL if there is none. */
const char *tn_weights_metadata(const tn_weights *weights, const char *key);
int tn_weights_metadata_count(const tn_weights *weights);
void tn_weights_metadata_at(const tn_weights *weights, int index, const char **key,
                            const char **value);

/* ---- reading ------------------------------------------------------------------------- */

/* Expands a tensor to f32 [count], on all threads. Errors: no such tensor (with the nearest name),
 * or it has not `count` elements. */
tn_status tn_weights_read_f32(const tn_weights *weights, const char *name, float *out,
                              int64_t count);
/* Looks at every floating-point element: TN_FORMAT naming file, tensor and index of the first that
 * is NaN or infinite. One pass over the bytes. */
tn_status tn_weights_check_finite(const tn_weights *weights);

/* ---- writing safetensors ------------------------------------------------------------- */

typedef struct tn_weights_text {
    const char *key, *value;
} tn_weights_text;

/* Writes `tensors` (plain coding) in their order, and `text` (may be NULL) as metadata. The file
 * appears whole or not at all; data begin at a multiple of 64 bytes; tensors are streamed from
 * where they lie, without a copy. If every size is a multiple of 64, so is every tensor's place:
 * put odd ones last.
 * Errors: TN_INVALID for a name that is empty, double or not UTF-8, or a size
 * that is not shape x dtype; TN_IO (the old file is intact). */
tn_status tn_weights_save(const char *path, const tn_weight *tensors, int count,
                          const tn_weights_text *text, int text_count);

/* The same for tensors whose bytes do not exist all at once: begin with their names, dtypes and
 * shapes (`bytes` and `size` are not looked at), append their bytes in the same order in pieces of
 * any size, commit. */
typedef struct tn_weights_writer tn_weights_writer;

tn_status tn_weights_begin(const char *path, const tn_weight *tensors, int count,
                           const tn_weights_text *text, int text_count, tn_weights_writer **out);
tn_status tn_weights_append(tn_weights_writer *writer, const void *bytes, size_t size);
/* Makes it the file; TN_INVALID if bytes are missing. Frees the writer either way. */
tn_status tn_weights_commit(tn_weights_writer *writer);
void tn_weights_abort(tn_weights_writer *writer); /* NULL is allowed */

#ifdef __cplusplus
}
#endif
#endif
