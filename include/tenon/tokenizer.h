/* Tokenizers: text to token ids and back.
 *
 * Three kinds: bytes (256 ids, then begin and end of text); SentencePiece's BPE (pieces with
 * scores, bytes for what has no piece); byte-level BPE as in GPT-2 (ranked merges of bytes inside
 * words). A tokenizer never changes after opening: any number of threads may use one. */
#ifndef TENON_TOKENIZER_H
#define TENON_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tenon/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tn_tokenizer tn_tokenizer;

typedef enum tn_tokenizer_kind {
    TN_TOKENIZER_BYTES = 0,
    TN_TOKENIZER_SENTENCEPIECE,
    TN_TOKENIZER_BYTE_BPE,
} tn_tokenizer_kind;

/* ---- opening and saving -------------------------------------------------------------- */

/* Ids 0-255 are the bytes, 256 begins and 257 ends a text. */
tn_status tn_tokenizer_create_bytes(tn_tokenizer **out);
/* Opens a directory's tokenizer.json (else its tokenizer.model or .bin; none is an error), or one file:
 * tokenizer.json (ours, or Hugging Face's for byte-level BPE), SentencePiece's tokenizer.model (BPE
 * that leaves texts as they are), llama2.c's tokenizer.bin, or the vocabulary of a GGUF file
 * (tokenizer.ggml.model "llama" or "gpt2").
 * Errors: TN_IO, TN_FORMAT, TN_UNSUPPORTED (another kind of tokenizer); *out is NULL then. */
tn_status tn_tokenizer_open(const char *path, tn_tokenizer **out);
/* The same from a file's bytes, which are not needed afterwards. */
tn_status tn_tokenizer_open_memory(const void *bytes, size_t size, const char *name,
                                   tn_tokenizer **out);
void tn_tokenizer_free(tn_tokenizer *tokenizer); /* NULL is allowed */
/* Writes tokenizer.json, whole or not at all. Byte-level BPE in Hugging Face's form, the other
 * kinds in our own. Opening it gives the same ids. */
tn_status tn_tokenizer_save(const tn_tokenizer *tokenizer, const char *path);

/* ---- looking ------------------------------------------------------------------------- */

tn_tokenizer_kind tn_tokenizer_kind_of(const tn_tokenizer *tokenizer);
int32_t tn_tokenizer_size(const tn_tokenizer *tokenizer);  /* ids are 0 .. size-1 */
int32_t tn_tokenizer_begin(const tn_tokenizer *tokenizer); /* id that begins a text, or -1 */
int32_t tn_tokenizer_end(const tn_tokenizer *tokenizer);   /* id that ends a text, or -1 */
/* Whether its author wants texts to begin with tn_tokenizer_begin (GGUF says so; true for
 * llama2.c). */
bool tn_tokenizer_wants_begin(const tn_tokenizer *tokenizer);
/* The piece as stored ("<0x0A>", " the", "<s>"), for looking at; not closed by a NUL. NULL if the
 * id is out of range. */
const char *tn_tokenizer_piece(const tn_tokenizer *tokenizer, int32_t id, size_t *size);

/* ---- encoding ------------------------------------------------------------------------ */

typedef struct tn_encode_options {
    bool begin, end; /* put the special id there, if the tokenizer has one */
    bool special;    /* "<s>", "<|endoftext|>", ... become their id; else they are plain text */
    bool no_prefix;  /* SentencePiece: no space before the first word (of a text that goes on) */
} tn_encode_options;

/* Encodes `size` bytes, which may be anything: what is not UTF-8 is encoded byte by byte. *ids (to
 * be freed with free(); a valid pointer also when *count is 0) and *count are the result.
 * Errors: TN_MEMORY; TN_FORMAT if the vocabulary has nothing for a byte. Both results are 0 then.
 * Cost: O(n log n) at worst, about O(n) for words that come again. */
tn_status tn_tokenizer_encode(const tn_tokenizer *tokenizer, const char *text, size_t size,
                              tn_encode_options options, int32_t **ids, int64_t *count);

/* ---- decoding ------------------------------------------------------------------------ */

/* The bytes that `id` adds to a text after `previous` (-1: it is the first), for printing as they
 * come; *bytes belongs to the tokenizer. Special ids give none. The space that encoding put before
 * the first word goes again. A character of several bytes may come in several tokens.
 * Error: id out of range. */
tn_status tn_tokenizer_decode(const tn_tokenizer *tokenizer, int32_t previous, int32_t id,
                              const char **bytes, size_t *size);
/* All of them, closed by a NUL (free with free()). decode(encode(text)) is the text, but for what
 * SentencePiece itself loses: U+2581 comes back as a space, and a character that the vocabulary has
 * neither piece nor bytes for does not come back. */
tn_status tn_tokenizer_decode_all(const tn_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                                  char **text, size_t *size);

#ifdef __cplusplus
}
#endif
#endif
