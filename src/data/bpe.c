/* Merging the best adjacent pair again and again, with a heap of candidates and a list of what is
 * left: O(n log n), where searching all pairs each time would be O(n^2). Source: Sennrich, Haddow,
 * Birch 2016 (BPE); Kudo 2018 (SentencePiece, whose order of merging this is: best score, then
 * leftmost).
 *
 * Most words of a text have been met before, so their ids are copied from the result so far; the
 * table holds only where they stand. */
#include "data/bpe.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "data/unicode.h"

/* A candidate: merge the symbol at `left` with its right neighbour. Stale once one of the two has
 * changed, which `size` tells. */
typedef struct tn_bpe_pair {
    float priority;
    int32_t left;
    int32_t size; /* of both together */
    int32_t id;   /* what they become */
} pair;

enum { SEEN_WORD = 24, SEEN_FROM = 512, SEEN_SLOTS_MOST = 1 << 16 };

typedef struct tn_bpe_seen {
    uint8_t word[SEEN_WORD]; /* padded with zeros */
    uint32_t size;           /* 0: empty */
    uint32_t count;
    size_t at; /* in ids */
} seen;

static tn_status no_memory(const tn_bpe *bpe)
{
    return tn_fail(TN_MEMORY, "%s: out of memory while encoding a text", bpe->tokenizer->name);
}

/* Room for `count` elements in an array that grows by doubling. */
static bool reserve(void **array, size_t *capacity, size_t count, size_t size)
{
    size_t wanted = *capacity ? *capacity : 64, bytes;
    if (count <= *capacity) return true;
    while (wanted < count)
        if (!tn_mul_size(wanted, 2, &wanted)) return false;
    if (!tn_mul_size(wanted, size, &bytes)) return false;
    void *grown = realloc(*array, bytes);
    if (!grown) return false;
    *array = grown;
    *capacity = wanted;
    return true;
}

tn_status tn_bpe_begin(tn_bpe *bpe, const tn_tokenizer *tokenizer, size_t expected)
{
    *bpe = (tn_bpe){.tokenizer = tokenizer};
    if (expected >= SEEN_FROM && tokenizer->kind != TN_TOKENIZER_BYTES) {
        size_t slots = 64;
        while (slots < SEEN_SLOTS_MOST && slots < expected / 32) slots *= 2;
        bpe->seen_mask = slots - 1;
        bpe->seen = calloc(slots, sizeof *bpe->seen); /* NULL: slower */
    }
    size_t ids = tokenizer->kind == TN_TOKENIZER_BYTES ? expected + 2 : expected / 4 + 16;
    return reserve((void **)&bpe->ids, &bpe->capacity, ids, sizeof *bpe->ids) ? TN_OK
                                                                              : no_memory(bpe);
}

void tn_bpe_end(tn_bpe *bpe)
{
    free(bpe->symbol);
    free(bpe->heap);
    free(bpe->seen);
}

tn_status tn_bpe_push(tn_bpe *bpe, int32_t id)
{
    if (bpe->count == bpe->capacity &&
        !reserve((void **)&bpe->ids, &bpe->capacity, bpe->count + 1, sizeof *bpe->ids))
        return no_memory(bpe);
    bpe->ids[bpe->count++] = id;
    return TN_OK;
}

/* ---- the heap ------------------------------------------------------------------------ */

static bool before(const pair *a, const pair *b)
{
    return a->priority > b->priority || (a->priority == b->priority && a->left < b->left);
}

static tn_status heap_push(tn_bpe *bpe, pair item)
{
    if (bpe->heap_count == bpe->heap_capacity &&
        !reserve((void **)&bpe->heap, &bpe->heap_capacity, bpe->heap_count + 1, sizeof *bpe->heap))
        return no_memory(bpe);
    size_t i = bpe->heap_count++;
    for (; i > 0 && before(&item, &bpe->heap[(i - 1) / 2]); i = (i - 1) / 2)
        bpe->heap[i] = bpe->heap[(i - 1) / 2];
    bpe->heap[i] = item;
    return TN_OK;
}

static pair heap_pop(tn_bpe *bpe)
{
    pair top = bpe->heap[0], last = bpe->heap[--bpe->heap_count];
    size_t i = 0, n = bpe->heap_count;
    for (size_t child = 1; child < n; i = child, child = 2 * i + 1) {
        if (child + 1 < n && before(&bpe->heap[child + 1], &bpe->heap[child])) child++;
        if (!before(&bpe->heap[child], &last)) break;
        bpe->heap[i] = bpe->heap[child];
    }
    if (n > 0) bpe->heap[i] = last;
    return top;
}

/* ---- one word ------------------------------------------------------------------------ */

static tn_status consider(tn_bpe *bpe, const uint8_t *word, int32_t left, int32_t right)
{
    if (left < 0 || right < 0) return TN_OK;
    const tn_symbol *a = &bpe->symbol[left], *b = &bpe->symbol[right];
    pair item = {.left = left, .size = a->size + b->size};
    bool merges = bpe->tokenizer->kind == TN_TOKENIZER_SENTENCEPIECE
                      ? tn_sentencepiece_pair(bpe->tokenizer, word, a, b, &item.priority, &item.id)
                      : tn_byte_bpe_pair(bpe->tokenizer, a, b, &item.priority, &item.id);
    return merges ? heap_push(bpe, item) : TN_OK;
}

/* Symbols to begin with: characters for SentencePiece (bytes where there is no character), bytes
 * for byte-level BPE. */
static tn_status split(tn_bpe *bpe, const uint8_t *word, size_t size, int32_t *count)
{
    const tn_tokenizer *t = bpe->tokenizer;
    uint32_t point;
    *count = 0;
    if (!reserve((void **)&bpe->symbol, &bpe->symbol_capacity, size, sizeof *bpe->symbol))
        return no_memory(bpe);
    for (size_t at = 0; at < size;) {
        int length = t->kind == TN_TOKENIZER_BYTE_BPE
                         ? 1
                         : tn_utf8_decode(word + at, size - at, &point);
        bool character = length > 0;
        if (!character) length = 1;
        int32_t id = t->kind == TN_TOKENIZER_BYTE_BPE ? t->byte_id[word[at]]
                     : character ? tn_tokenizer_lookup(t, word + at, (size_t)length)
                                 : -1;
        bpe->symbol[*count] = (tn_symbol){(int32_t)at, length, *count - 1, *count + 1, id};
        (*count)++;
        at += (size_t)length;
    }
    bpe->symbol[*count - 1].next = -1;
    return TN_OK;
}

/* A symbol that is no piece: byte by byte, else the unknown id. */
static tn_status push_bytes(tn_bpe *bpe, const uint8_t *bytes, int32_t size)
{
    const tn_tokenizer *t = bpe->tokenizer;
    bool known = true;
    for (int32_t i = 0; i < size; i++) known = known && t->byte_id[bytes[i]] >= 0;
    if (!known && t->unknown < 0)
        return tn_fail(TN_FORMAT,
                       "%s: the vocabulary has no piece, byte or unknown id for a character that "
                       "begins with byte 0x%02X",
                       t->name, bytes[0]);
    if (!known) return tn_bpe_push(bpe, t->unknown);
    for (int32_t i = 0; i < size; i++) TN_TRY(tn_bpe_push(bpe, t->byte_id[bytes[i]]));
    return TN_OK;
}

static tn_status merge_word(tn_bpe *bpe, const uint8_t *word, size_t size)
{
    int32_t count;
    TN_TRY(split(bpe, word, size, &count));
    tn_symbol *symbol = bpe->symbol;
    bpe->heap_count = 0;
    for (int32_t i = 1; i < count; i++) TN_TRY(consider(bpe, word, i - 1, i));
    while (bpe->heap_count > 0) {
        pair best = heap_pop(bpe);
        tn_symbol *left = &symbol[best.left];
        if (left->size == 0 || left->next < 0 || left->size + symbol[left->next].size != best.size)
            continue; /* stale */
        tn_symbol *right = &symbol[left->next];
        left->size = best.size;
        left->id = best.id;
        left->next = right->next;
        right->size = 0;
        if (left->next >= 0) symbol[left->next].previous = best.left;
        TN_TRY(consider(bpe, word, left->previous, best.left));
        TN_TRY(consider(bpe, word, best.left, left->next));
    }
    for (int32_t i = 0; i >= 0; i = symbol[i].next)
        TN_TRY(symbol[i].id >= 0 ? tn_bpe_push(bpe, symbol[i].id)
                                 : push_bytes(bpe, word + symbol[i].start, symbol[i].size));
    return TN_OK;
}

/* The slot of a short word; `key` receives the word padded with zeros. */
static seen *find_seen(const tn_bpe *bpe, const uint8_t *word, size_t size, uint8_t key[SEEN_WORD])
{
    uint64_t part[SEEN_WORD / 8], hash = size;
    memset(key, 0, SEEN_WORD);
    memcpy(key, word, size);
    memcpy(part, key, sizeof part);
    for (int i = 0; i < SEEN_WORD / 8; i++) {
        hash = (hash ^ part[i]) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 32;
    }
    return &bpe->seen[hash & bpe->seen_mask];
}

tn_status tn_bpe_word(tn_bpe *bpe, const uint8_t *word, size_t size)
{
    if (size == 0) return TN_OK;
    if (size > INT_MAX)
        return tn_fail(TN_INVALID,
                       "%s: a word of more than 2 GB in the text: cut the text into lines",
                       bpe->tokenizer->name);
    if (!bpe->seen || size > SEEN_WORD) return merge_word(bpe, word, size);
    uint8_t key[SEEN_WORD];
    seen *slot = find_seen(bpe, word, size, key);
    size_t at = bpe->count;
    if (slot->size == size && memcmp(slot->word, key, SEEN_WORD) == 0) {
        if (!reserve((void **)&bpe->ids, &bpe->capacity, at + slot->count, sizeof *bpe->ids))
            return no_memory(bpe);
        for (uint32_t i = 0; i < slot->count; i++) bpe->ids[at + i] = bpe->ids[slot->at + i];
        bpe->count += slot->count;
        return TN_OK;
    }
    TN_TRY(merge_word(bpe, word, size));
    memcpy(slot->word, key, SEEN_WORD);
    slot->size = (uint32_t)size;
    slot->count = (uint32_t)(bpe->count - at);
    slot->at = at;
    return TN_OK;
}
