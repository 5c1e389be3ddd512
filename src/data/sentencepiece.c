/* SentencePiece's BPE: pieces with scores over characters, spaces as part of words, bytes for what
 * no piece covers. Source: Kudo and Richardson 2018; sentencepiece's bpe_model.cc for the order of
 * merging. Differences: the text is not normalised (Llama's models do not either, but for the space
 * in front), and unused pieces are left out rather than merged and split again. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/bpe.h"
#include "data/unicode.h"

static bool mergeable(const tn_piece *piece)
{
    return piece->kind == TN_PIECE_NORMAL || piece->kind == TN_PIECE_USER;
}

static tn_status check_piece(const tn_tokenizer *t, int32_t id)
{
    const tn_piece *piece = &t->piece[id];
    uint32_t point;
    if (!isfinite(piece->score))
        return tn_fail(TN_FORMAT, "%s: the score of piece %" PRId32 " is NaN or infinite", t->name,
                       id);
    for (uint32_t at = 0; at < piece->size && mergeable(piece);) {
        int length = tn_utf8_decode((const uint8_t *)piece->text + at, piece->size - at, &point);
        if (length == 0)
            return tn_fail(TN_FORMAT, "%s: piece %" PRId32 " is not UTF-8", t->name, id);
        at += (uint32_t)length;
    }
    return TN_OK;
}

/* "<0x0A>" -> 10; -1 for anything else. */
static int byte_of(const tn_piece *piece)
{
    int value = 0;
    if (piece->size != 6 || memcmp(piece->text, "<0x", 3) != 0 || piece->text[5] != '>') return -1;
    for (int i = 3; i < 5; i++) {
        char c = piece->text[i];
        if (c >= '0' && c <= '9') value = value * 16 + c - '0';
        else if (c >= 'A' && c <= 'F') value = value * 16 + c - 'A' + 10;
        else return -1;
    }
    return value;
}

tn_status tn_sentencepiece_finish(tn_tokenizer *t)
{
    for (int32_t id = 0; id < t->count; id++) {
        tn_piece *piece = &t->piece[id];
        TN_TRY(check_piece(t, id));
        if (piece->kind == TN_PIECE_BYTE) {
            int byte = byte_of(piece);
            if (byte < 0)
                return tn_fail(TN_FORMAT,
                               "%s: piece %" PRId32
                               " should be a byte, but does not look like \"<0x0A>\"",
                               t->name, id);
            piece->byte = (uint8_t)byte;
            if (t->byte_id[byte] < 0) t->byte_id[byte] = id;
        }
        if (!mergeable(piece)) continue;
        for (uint32_t i = 1; i < piece->size; i++) {
            uint8_t a = (uint8_t)piece->text[i - 1], b = (uint8_t)piece->text[i];
            t->joined[a * 32 + b / 8] |= (uint8_t)(1 << b % 8);
        }
    }
    TN_TRY(tn_tokenizer_index_pieces(t));
    return tn_tokenizer_index_special(t);
}

bool tn_sentencepiece_pair(const tn_tokenizer *t, const uint8_t *word, const tn_symbol *left,
                           const tn_symbol *right, float *priority, int32_t *id)
{
    size_t size = (size_t)left->size + (size_t)right->size;
    if (size > t->longest) return false;
    *id = tn_tokenizer_lookup(t, word + left->start, size);
    if (*id >= 0) *priority = t->piece[*id].score;
    return *id >= 0;
}

/* The text with a space in front if wanted, and SentencePiece's mark for a space (U+2581) as the
 * space it stands for. */
static size_t normalise(const uint8_t *text, size_t size, bool prefix, uint8_t *out)
{
    static const uint8_t mark[3] = {0xe2, 0x96, 0x81};
    size_t used = 0;
    if (prefix) out[used++] = ' ';
    while (size > 0) {
        const uint8_t *found = memmem(text, size, mark, sizeof mark);
        size_t plain = found ? (size_t)(found - text) : size;
        memcpy(out + used, text, plain);
        used += plain;
        if (found) out[used++] = ' ';
        text += plain + (found ? sizeof mark : 0);
        size -= plain + (found ? sizeof mark : 0);
    }
    return used;
}

/* Where two bytes meet that stand side by side in no piece, no merge can ever cross: so the text
 * falls into words that are merged each for itself, and mostly are old acquaintances. (In the usual
 * vocabularies: before each space that follows something else.) */
tn_status tn_sentencepiece_encode(tn_bpe *bpe, const uint8_t *text, size_t size, bool prefix)
{
    const tn_tokenizer *t = bpe->tokenizer;
    if (size == 0) return TN_OK;
    uint8_t *plain = size < SIZE_MAX ? malloc(size + 1) : NULL;
    if (!plain) return tn_fail(TN_MEMORY, "%s: out of memory while encoding a text", t->name);
    size_t length = normalise(text, size, prefix && t->prefix_space, plain), start = 0;
    tn_status status = TN_OK;
    for (size_t i = 1; i <= length && status == TN_OK; i++) {
        if (i < length) {
            uint8_t a = plain[i - 1], b = plain[i];
            if ((b & 0xc0) == 0x80 || t->joined[a * 32 + b / 8] >> b % 8 & 1) continue;
        }
        status = tn_bpe_word(bpe, plain + start, i - start);
        start = i;
    }
    free(plain);
    return status;
}
