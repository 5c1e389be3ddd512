/* Training data: texts as tokens, and batches prepared by worker threads. Both are reproducible:
 * what a step sees depends on the seed and the step's number, never on threads or time, so a
 * resumed run goes on as if it had not stopped. */
#ifndef TENON_DATA_H
#define TENON_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tenon/status.h"
#include "tenon/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- text corpora -------------------------------------------------------------------- */

typedef struct tn_corpus tn_corpus;

typedef enum tn_corpus_part { TN_CORPUS_TRAIN = 0, TN_CORPUS_HELD_OUT } tn_corpus_part;

typedef struct tn_corpus_options {
    double held_out;      /* fraction of the bytes, at the end; 0: 0.05; negative: none */
    const char *pattern;  /* of a directory only files whose name fits ("*.c"); NULL: all */
    int64_t least_tokens; /* in each part: a window and its last target; 0: 2 */
} tn_corpus_options;

/* Reads a file, or the files of a directory and its subdirectories in order of their names, and
 * encodes them. Of a directory, hidden files, links, empty files and those with NUL bytes near the
 * beginning (no text) are left out. A file is a document: the tokenizer's begin id stands before it
 * if the tokenizer wants that, its end id behind it if there is one. The held-out part begins where
 * a line or document ends, at its place by bytes or the next such border behind it.
 * Errors: TN_IO; TN_FORMAT if there is no text, or too little for `least_tokens` (says how much
 * there is and how much is needed); TN_MEMORY.
 * Tokens take 2 bytes each if the vocabulary has at most 65536 ids, else 4. `tokenizer` is not
 * needed afterwards. */
tn_status tn_corpus_open(const char *path, const tn_tokenizer *tokenizer, tn_corpus_options options,
                         tn_corpus **corpus);
/* The same of one text in memory. */
tn_status tn_corpus_open_memory(const char *text, size_t size, const char *name,
                                const tn_tokenizer *tokenizer, tn_corpus_options options,
                                tn_corpus **corpus);
void tn_corpus_free(tn_corpus *corpus); /* NULL is allowed */

int64_t tn_corpus_documents(const tn_corpus *corpus);
int64_t tn_corpus_tokens(const tn_corpus *corpus, tn_corpus_part part);
/* Bytes of text: what bits per byte are counted on. */
int64_t tn_corpus_bytes(const tn_corpus *corpus, tn_corpus_part part);
/* Copies tokens [start, start+count) of a part. Error if they are not there. */
tn_status tn_corpus_read(const tn_corpus *corpus, tn_corpus_part part, int64_t start, int64_t count,
                         int32_t *out);

/* The batch of step `step`: windows of `length` tokens, and the tokens one further. Places are
 * drawn uniformly; window b depends on (seed, step, b) alone. tokens  [batch, length] i32 targets
 * [batch, length] i32   (either may be NULL) Error if the part has less than length + 1 tokens. */
tn_status tn_corpus_batch(const tn_corpus *corpus, tn_corpus_part part, uint64_t seed, int64_t step,
                          int64_t batch, int64_t length, int32_t *tokens, int32_t *targets);

/* ---- loader -------------------------------------------------------------------------- */

#define TN_LOADER_FIELDS 8

/* One item of a batch that is to be filled in. */
typedef struct tn_loader_item {
    int64_t sample; /* which of the data set's samples */
    int64_t draw;   /* number of the item in the whole sequence: keys its random numbers */
    void *field[TN_LOADER_FIELDS]; /* where its bytes go, option.item_bytes[i] each */
} tn_loader_item;

typedef struct tn_loader_options {
    int64_t samples;                     /* of the data set */
    int64_t batch;                       /* items a batch */
    size_t item_bytes[TN_LOADER_FIELDS]; /* bytes of one item in each field; 0 ends the list */
    bool shuffle;                        /* a new permutation each epoch; else in order */
    uint64_t seed;
    int workers; /* threads that call `fill`; 0: the caller's own, nothing ahead */
    int ahead;   /* batches prepared in advance; 0: 2 (with workers) */
    /* Fills one item. Called by several threads at once for different items. Must depend on the
     * item alone. On failure it returns the status with its message set, and that batch fails with
     * it. */
    tn_status (*fill)(void *context, const tn_loader_item *item);
    void *context;
} tn_loader_options;

typedef struct tn_batch {
    int64_t step, epoch; /* from 0 */
    int64_t count;       /* items: option.batch; an epoch's last ones that fill no batch stay out */
    void *field[TN_LOADER_FIELDS]; /* [count, item] each, aligned to 64 bytes */
} tn_batch;

typedef struct tn_loader tn_loader;

/* Errors: TN_INVALID for options that cannot be right (fewer samples than a batch, no field, no
 * fill), TN_MEMORY. */
tn_status tn_loader_create(tn_loader_options options, tn_loader **out);
/* Waits for the workers, at most one item each. NULL is allowed. */
void tn_loader_free(tn_loader *loader);
/* The next batch; its bytes are valid until the next call. Endless. On failure: the status and
 * message of the first item that failed, and the next call goes on behind it. */
tn_status tn_loader_next(tn_loader *loader, tn_batch *batch);
/* The batch that comes next is that of `step` >= 0: how a resumed run goes on. */
tn_status tn_loader_seek(tn_loader *loader, int64_t step);
int64_t tn_loader_batches(const tn_loader *loader); /* an epoch */

#ifdef __cplusplus
}
#endif
#endif
