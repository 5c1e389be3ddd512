/* Byte-level BPE as in GPT-2: the text is cut into words by a regular expression, each word's bytes
 * are merged by rank. Source: Radford et al. 2019; the expression, and the printable stand-ins for
 * bytes, as in OpenAI's encoder.py. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "data/bpe.h"
#include "data/unicode.h"

/* ---- bytes as letters ----------------------------------------------------------------
 * Vocabularies are stored as text: a byte that prints stands for itself (as the Latin-1 character),
 * the other 68 get the code points from U+0100 up, in order. */

static bool prints(unsigned byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

enum {
    CONTROLS = '!',
    DELETE = 0x7f,
    MIDDLE = 0xa1 - DELETE,
    SOFT_HYPHEN = 0xad
}; /* the others: 0-32, 127-160, 173 */

uint32_t tn_byte_bpe_letter(uint8_t byte)
{
    if (prints(byte)) return byte;
    if (byte < CONTROLS) return 256U + byte;
    return byte == SOFT_HYPHEN ? 256 + CONTROLS + MIDDLE : 256U + CONTROLS + byte - DELETE;
}

/* The byte that a code point stands for, or -1. */
static int byte_of(uint32_t point)
{
    if (point < 256) return prints(point) ? (int)point : -1;
    uint32_t rank = point - 256;
    if (rank < CONTROLS) return (int)rank;
    if (rank < CONTROLS + MIDDLE) return (int)(DELETE + rank - CONTROLS);
    return rank == CONTROLS + MIDDLE ? SOFT_HYPHEN : -1;
}

bool tn_byte_bpe_unmap(const char *text, size_t size, char *bytes, size_t *count)
{
    *count = 0;
    for (size_t at = 0; at < size;) {
        uint32_t point;
        int length = tn_utf8_decode((const uint8_t *)text + at, size - at, &point);
        int byte = length > 0 ? byte_of(point) : -1;
        if (byte < 0) return false;
        bytes[(*count)++] = (char)byte;
        at += (size_t)length;
    }
    return true;
}

/* ---- merges -------------------------------------------------------------------------- */

static size_t find_merge(const tn_tokenizer *t, int32_t left, int32_t right)
{
    uint64_t hash = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) *
                    UINT64_C(0x9e3779b97f4a7c15);
    size_t i = (size_t)(hash >> 32) & t->merge_mask;
    while (t->merge[i].rank >= 0 && (t->merge[i].left != left || t->merge[i].right != right))
        i = (i + 1) & t->merge_mask;
    return i;
}

static tn_status add_merge(tn_tokenizer *t, const tn_merge_text *text, int32_t rank)
{
    char joined[1024];
    size_t size = text->left_size + text->right_size;
    int32_t left = tn_tokenizer_lookup(t, text->left, text->left_size),
            right = tn_tokenizer_lookup(t, text->right, text->right_size), id = -1;
    if (size <= sizeof joined) {
        memcpy(joined, text->left, text->left_size);
        memcpy(joined + text->left_size, text->right, text->right_size);
        id = tn_tokenizer_lookup(t, joined, size);
    }
    if (left < 0 || right < 0 || id < 0)
        return tn_fail(TN_FORMAT, "%s: merge %" PRId32 ": %s is not in the vocabulary", t->name,
                       rank,
                       left < 0    ? "its left part"
                       : right < 0 ? "its right part"
                                   : "what it makes");
    size_t i = find_merge(t, left, right);
    if (t->merge[i].rank < 0)
        t->merge[i] = (tn_merge){left, right, rank, id}; /* of two equal ones the first counts */
    return TN_OK;
}

tn_status tn_byte_bpe_finish(tn_tokenizer *t, const tn_merge_text *merge, int64_t count)
{
    enum { MOST = 1 << 24 }; /* ranks are exact as floats up to here */
    if (count > MOST) return tn_fail(TN_FORMAT, "%s: more than %d merges", t->name, MOST);
    TN_TRY(tn_tokenizer_index_pieces(t));
    for (int byte = 0; byte < 256; byte++) {
        char text = (char)byte;
        t->byte_id[byte] = tn_tokenizer_lookup(t, &text, 1);
        if (t->byte_id[byte] < 0)
            return tn_fail(TN_FORMAT, "%s: the vocabulary has no token for byte 0x%02X", t->name,
                           (unsigned)byte);
    }
    size_t slots = 16;
    while (slots < (size_t)count * 2) slots *= 2;
    t->merge = tn_arena_array(&t->arena, slots, sizeof *t->merge);
    if (!t->merge) return TN_MEMORY;
    t->merge_mask = slots - 1;
    t->merge_count = (int32_t)count;
    for (size_t i = 0; i < slots; i++) t->merge[i].rank = -1;
    for (int64_t i = 0; i < count; i++) TN_TRY(add_merge(t, &merge[i], (int32_t)i));
    return tn_tokenizer_index_special(t);
}

bool tn_byte_bpe_pair(const tn_tokenizer *t, const tn_symbol *left, const tn_symbol *right,
                      float *priority, int32_t *id)
{
    const tn_merge *merge = &t->merge[find_merge(t, left->id, right->id)];
    if (merge->rank < 0) return false;
    *priority = -(float)merge->rank;
    *id = merge->id;
    return true;
}

/* ---- words ---------------------------------------------------------------------------
 * GPT-2's expression, by hand:   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+|
 * ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ What is not UTF-8 counts, byte by byte, as neither letter nor
 * number nor space. */

typedef struct scan {
    const uint8_t *text;
    size_t size;
} scan;

/* Class and length (>= 1) of the character at `at`, which must be inside. */
static tn_character character_at(const scan *s, size_t at, size_t *length)
{
    uint32_t point;
    int bytes = tn_utf8_decode(s->text + at, s->size - at, &point);
    *length = bytes > 0 ? (size_t)bytes : 1;
    return bytes > 0 ? tn_character_of(point) : TN_CHARACTER_OTHER;
}

static size_t contraction(const scan *s, size_t at)
{
    static const char *const endings[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t length = strlen(endings[i]);
        if (s->size - at > length && memcmp(s->text + at + 1, endings[i], length) == 0)
            return length + 1;
    }
    return 0;
}

/* End of the run of characters of class `wanted` from `at` on; *last receives where its last
 * character begins. */
static size_t run_end(const scan *s, size_t at, tn_character wanted, size_t *last)
{
    size_t length;
    while (at < s->size && character_at(s, at, &length) == wanted) {
        *last = at;
        at += length;
    }
    return at;
}

/* The end of the word that begins at `at` < size. */
static size_t word_end(const scan *s, size_t at)
{
    size_t length, last = at, word = at + (s->text[at] == ' ');
    if (s->text[at] == '\'' && contraction(s, at)) return at + contraction(s, at);
    if (word < s->size) {
        tn_character class = character_at(s, word, &length);
        if (class != TN_CHARACTER_SPACE) return run_end(s, word, class, &last);
    }
    size_t end = run_end(s, at, TN_CHARACTER_SPACE, &last);
    return end < s->size && last > at
               ? last
               : end; /* the last space before a word belongs to it, unless it is the only one */
}

tn_status tn_byte_bpe_encode(tn_bpe *bpe, const uint8_t *text, size_t size)
{
    scan s = {text, size};
    for (size_t at = 0, end; at < size; at = end) {
        end = word_end(&s, at);
        TN_TRY(tn_bpe_word(bpe, text + at, end - at));
    }
    return TN_OK;
}
