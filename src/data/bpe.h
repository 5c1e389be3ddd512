/* Byte-pair merging of one word after the other, for both kinds of BPE. */
#ifndef TN_DATA_BPE_H
#define TN_DATA_BPE_H

#include "data/tokenizer.h"

/* A stretch of the word that is one token so far; a doubly linked list in text order. */
typedef struct tn_symbol {
    int32_t start, size;    /* bytes; size 0: merged into its left neighbour */
    int32_t previous, next; /* -1 at the ends */
    int32_t id;             /* -1: no piece has this text */
} tn_symbol;

/* The working memory of one encoding. */
typedef struct tn_bpe {
    const tn_tokenizer *tokenizer;
    tn_symbol *symbol;
    struct tn_bpe_pair *heap;
    size_t symbol_capacity, heap_count, heap_capacity;
    struct tn_bpe_seen *seen; /* words met before; NULL: not worth it */
    size_t seen_mask;
    int32_t *ids; /* the result */
    size_t count, capacity;
} tn_bpe;

/* `expected` bytes of text are to come. */
tn_status tn_bpe_begin(tn_bpe *bpe, const tn_tokenizer *tokenizer, size_t expected);
tn_status tn_bpe_push(tn_bpe *bpe, int32_t id);
/* Appends the ids of one word. Cost O(n log n) for n bytes; O(n) if it was met before. */
tn_status tn_bpe_word(tn_bpe *bpe, const uint8_t *word, size_t size);
/* Frees all but the ids. */
void tn_bpe_end(tn_bpe *bpe);

/* The kinds: encode a stretch of plain text. `first`: it begins the text. */
tn_status tn_sentencepiece_encode(tn_bpe *bpe, const uint8_t *text, size_t size, bool prefix);
tn_status tn_byte_bpe_encode(tn_bpe *bpe, const uint8_t *text, size_t size);
/* May two neighbours merge, into what, and how soon (higher first)? */
bool tn_sentencepiece_pair(const tn_tokenizer *tokenizer, const uint8_t *word,
                           const tn_symbol *left, const tn_symbol *right, float *priority,
                           int32_t *id);
bool tn_byte_bpe_pair(const tn_tokenizer *tokenizer, const tn_symbol *left, const tn_symbol *right,
                      float *priority, int32_t *id);

#endif
