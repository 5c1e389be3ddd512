/* The inside of a tokenizer: pieces, tables, and what the kinds must provide. */
#ifndef TN_DATA_TOKENIZER_H
#define TN_DATA_TOKENIZER_H

#include "base/arena.h"
#include "tenon/tokenizer.h"

/* What a piece is for; GGUF's (and SentencePiece's) numbers. */
typedef enum tn_piece_kind {
    TN_PIECE_NORMAL = 1,
    TN_PIECE_UNKNOWN,
    TN_PIECE_CONTROL, /* no text of its own: begins or ends a text */
    TN_PIECE_USER,    /* always one token where its text stands */
    TN_PIECE_UNUSED,  /* never made by encoding */
    TN_PIECE_BYTE,    /* "<0x0A>": a byte that belongs to no piece */
    TN_PIECE_KINDS
} tn_piece_kind;

typedef struct tn_piece {
    const char *text; /* its bytes: spaces as spaces, bytes as themselves (but those of
                         TN_PIECE_BYTE as "<0x0A>") */
    uint32_t size;
    float score; /* SentencePiece: the pair with the highest merges first */
    tn_piece_kind kind;
    uint8_t byte; /* of TN_PIECE_BYTE */
} tn_piece;

/* A place in the table of pieces: the hash beside the id spares a look at the piece in nearly all
 * misses. */
typedef struct tn_piece_slot {
    uint32_t hash;
    int32_t id; /* + 1; 0: empty */
} tn_piece_slot;

/* Byte-level BPE: `left` beside `right` become `id`; lower ranks first. */
typedef struct tn_merge {
    int32_t left, right, rank, id;
} tn_merge;

struct tn_tokenizer {
    tn_tokenizer_kind kind;
    tn_arena arena;
    const char *name; /* the file's, in messages */
    tn_piece *piece;
    int32_t count;
    int32_t begin, end, unknown; /* or -1 */
    bool wants_begin;
    bool prefix_space;    /* a space is put before the first word */
    int32_t byte_id[256]; /* the id of each single byte, or -1 */
    uint8_t single[256];  /* 0, 1, ... 255: what decoding a byte points to */

    tn_piece_slot *slot; /* open addressing by text of the pieces that merging can make */
    size_t slot_mask;
    uint32_t longest;         /* bytes of the longest of them */
    uint8_t joined[256 * 32]; /* bit (a, b): bytes a, b stand side by side in one of them */
    tn_merge *merge;          /* open addressing by pair; rank -1: empty */
    size_t merge_mask;
    int32_t merge_count;

    int32_t
        *special; /* pieces that are found as a whole (user-defined and control), longest first */
    int32_t special_count;
    bool has_user;             /* some are user-defined: looked for always */
    uint8_t special_first[32]; /* bit b: one begins with byte b */
};

/* ---- making -------------------------------------------------------------------------- */

/* A tokenizer with `count` empty pieces of kind NORMAL and no special ids. */
tn_status tn_tokenizer_make(tn_tokenizer_kind kind, const char *name, int64_t count,
                            tn_tokenizer **out);
/* Copies a piece's text. */
tn_status tn_tokenizer_set(tn_tokenizer *tokenizer, int32_t id, const char *text, size_t size,
                           float score, tn_piece_kind kind);
/* Called when all pieces are set: check them and build the tables. */
tn_status tn_sentencepiece_finish(tn_tokenizer *tokenizer);
/* SentencePiece marks spaces by U+2581; here they are spaces. Shrinks `text` in place. */
size_t tn_sentencepiece_spaces(char *text, size_t size);
/* The pieces are bytes already. `merge`: `count` pairs of texts in order of rank. */
typedef struct tn_merge_text {
    const char *left, *right;
    size_t left_size, right_size;
} tn_merge_text;
tn_status tn_byte_bpe_finish(tn_tokenizer *tokenizer, const tn_merge_text *merge, int64_t count);
/* The table of `special`; called by both. */
tn_status tn_tokenizer_index_special(tn_tokenizer *tokenizer);
/* The table of `slot`: of two pieces with the same text the lower id counts. */
tn_status tn_tokenizer_index_pieces(tn_tokenizer *tokenizer);
/* -1 if merging makes no such piece. */
int32_t tn_tokenizer_lookup(const tn_tokenizer *tokenizer, const void *text, size_t size);

/* GPT-2's printable stand-ins for bytes: text of tokenizer.json and GGUF <-> bytes. `bytes` has
 * room for `size`. False if a character stands for no byte. */
bool tn_byte_bpe_unmap(const char *text, size_t size, char *bytes, size_t *count);
/* The code point that stands for a byte. */
uint32_t tn_byte_bpe_letter(uint8_t byte);

/* ---- readers of formats -------------------------------------------------------------- */

tn_status tn_read_llama2c_tokenizer(const uint8_t *bytes, size_t size, const char *name,
                                    tn_tokenizer **out);
/* Whether a file begins like a SentencePiece model: a piece, and no llama2.c header. */
static inline bool tn_is_sentencepiece_model(const uint8_t *bytes, size_t size)
{
    return size >= 2 && bytes[0] == 0x0a && bytes[1] != 0;
}
tn_status tn_read_sentencepiece_model(const uint8_t *bytes, size_t size, const char *name,
                                      tn_tokenizer **out);
tn_status tn_read_gguf_tokenizer(const uint8_t *bytes, size_t size, const char *name,
                                 tn_tokenizer **out);
tn_status tn_read_json_tokenizer(const uint8_t *bytes, size_t size, const char *name,
                                 tn_tokenizer **out);

#endif
