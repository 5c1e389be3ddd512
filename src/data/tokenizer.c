/* The public face of all kinds of tokenizers. */
#include "data/tokenizer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "data/bpe.h"

enum { BYTES_BEGIN = 256, BYTES_END = 257, BYTES_SIZE = 258, TEXT_MOST = 65535 };

/* ---- making -------------------------------------------------------------------------- */

tn_status tn_tokenizer_make(tn_tokenizer_kind kind, const char *name, int64_t count,
                            tn_tokenizer **out)
{
    enum { MOST = 1 << 28 };
    *out = NULL;
    if (count < 1 || count > MOST)
        return tn_fail(TN_FORMAT, "%s: a vocabulary of %" PRId64 " pieces cannot be right", name,
                       count);
    tn_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return tn_fail(TN_MEMORY, "%s: out of memory", name);
    t->kind = kind;
    t->count = (int32_t)count;
    t->begin = t->end = t->unknown = -1;
    t->name = tn_arena_string(&t->arena, name);
    t->piece = tn_arena_array(&t->arena, (size_t)count, sizeof *t->piece);
    if (!t->name || !t->piece) {
        tn_tokenizer_free(t);
        return TN_MEMORY;
    }
    for (int64_t i = 0; i < count; i++)
        t->piece[i] = (tn_piece){.text = "", .kind = TN_PIECE_NORMAL};
    for (int i = 0; i < 256; i++) {
        t->byte_id[i] = -1;
        t->single[i] = (uint8_t)i;
    }
    *out = t;
    return TN_OK;
}

tn_status tn_tokenizer_set(tn_tokenizer *t, int32_t id, const char *text, size_t size, float score,
                           tn_piece_kind kind)
{
    if (size > TEXT_MOST)
        return tn_fail(TN_FORMAT, "%s: piece %" PRId32 " has %zu bytes; at most %d are possible",
                       t->name, id, size, TEXT_MOST);
    char *copy = tn_arena_alloc(&t->arena, size + 1);
    if (!copy) return TN_MEMORY;
    if (size > 0) memcpy(copy, text, size);
    t->piece[id] = (tn_piece){copy, (uint32_t)size, score, kind, 0};
    return TN_OK;
}

/* The place of a text: where it is, or the empty one where it would be. */
static tn_piece_slot *find_slot(const tn_tokenizer *t, const void *text, size_t size, uint32_t hash)
{
    size_t i = hash & t->slot_mask;
    for (; t->slot[i].id; i = (i + 1) & t->slot_mask) {
        if (t->slot[i].hash != hash) continue;
        const tn_piece *piece = &t->piece[t->slot[i].id - 1];
        if (piece->size == size && memcmp(piece->text, text, size) == 0) break;
    }
    return &t->slot[i];
}

static uint32_t hash_of(const void *text, size_t size)
{
    uint64_t hash = tn_fnv1a(text, size);
    return (uint32_t)(hash ^ hash >> 32);
}

tn_status tn_tokenizer_index_pieces(tn_tokenizer *t)
{
    size_t slots = 16;
    while (slots < (size_t)t->count * 2) slots *= 2;
    t->slot = tn_arena_array(&t->arena, slots, sizeof *t->slot);
    if (!t->slot) return TN_MEMORY;
    t->slot_mask = slots - 1;
    for (int32_t id = 0; id < t->count; id++) {
        const tn_piece *piece = &t->piece[id];
        if ((piece->kind != TN_PIECE_NORMAL && piece->kind != TN_PIECE_USER) || piece->size == 0)
            continue;
        uint32_t hash = hash_of(piece->text, piece->size);
        tn_piece_slot *slot = find_slot(t, piece->text, piece->size, hash);
        if (!slot->id) *slot = (tn_piece_slot){hash, id + 1};
        if (piece->size > t->longest) t->longest = piece->size;
    }
    return TN_OK;
}

int32_t tn_tokenizer_lookup(const tn_tokenizer *t, const void *text, size_t size)
{
    return find_slot(t, text, size, hash_of(text, size))->id - 1;
}

/* Longest first; of equal ones the lower id. */
typedef struct special {
    uint32_t size;
    int32_t id;
} special;

static int longest_first(const void *a, const void *b)
{
    const special *x = a, *y = b;
    if (x->size != y->size) return x->size > y->size ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

tn_status tn_tokenizer_index_special(tn_tokenizer *t)
{
    int32_t count = 0;
    for (int32_t id = 0; id < t->count; id++)
        count += (t->piece[id].kind == TN_PIECE_USER || t->piece[id].kind == TN_PIECE_CONTROL) &&
                 t->piece[id].size > 0;
    special *list = malloc(((size_t)count + 1) * sizeof *list);
    t->special = tn_arena_array(&t->arena, (size_t)count, sizeof *t->special);
    if (!list || !t->special) {
        free(list);
        return tn_fail(TN_MEMORY, "%s: out of memory", t->name);
    }
    for (int32_t id = 0; id < t->count; id++) {
        const tn_piece *piece = &t->piece[id];
        if ((piece->kind != TN_PIECE_USER && piece->kind != TN_PIECE_CONTROL) || piece->size == 0)
            continue;
        list[t->special_count++] = (special){piece->size, id};
        uint8_t first = (uint8_t)piece->text[0];
        t->special_first[first / 8] |= (uint8_t)(1 << first % 8);
        t->has_user = t->has_user || piece->kind == TN_PIECE_USER;
    }
    qsort(list, (size_t)count, sizeof *list, longest_first);
    for (int32_t i = 0; i < count; i++) t->special[i] = list[i].id;
    free(list);
    return TN_OK;
}

tn_status tn_tokenizer_create_bytes(tn_tokenizer **out)
{
    TN_TRY(tn_tokenizer_make(TN_TOKENIZER_BYTES, "byte level", BYTES_SIZE, out));
    tn_tokenizer *t = *out;
    if (!t) return TN_MEMORY;
    for (int32_t byte = 0; byte < 256; byte++) {
        t->byte_id[byte] = byte;
        t->piece[byte] = (tn_piece){
            .text = (const char *)&t->single[byte], .size = 1, .kind = TN_PIECE_NORMAL};
    }
    t->begin = BYTES_BEGIN;
    t->end = BYTES_END;
    tn_status status = tn_tokenizer_set(t, BYTES_BEGIN, "<s>", 3, 0, TN_PIECE_CONTROL);
    if (status == TN_OK) status = tn_tokenizer_set(t, BYTES_END, "</s>", 4, 0, TN_PIECE_CONTROL);
    if (status == TN_OK) status = tn_tokenizer_index_special(t);
    if (status == TN_OK) return TN_OK;
    tn_tokenizer_free(t);
    *out = NULL;
    return status;
}

void tn_tokenizer_free(tn_tokenizer *t)
{
    if (!t) return;
    tn_arena_free(&t->arena);
    free(t);
}

/* ---- opening ------------------------------------------------------------------------- */

static bool begins_like_json(const uint8_t *bytes, size_t size)
{
    size_t i = 0;
    while (i < size &&
           (bytes[i] == ' ' || bytes[i] == '\t' || bytes[i] == '\r' || bytes[i] == '\n'))
        i++;
    return i < size && bytes[i] == '{';
}

tn_status tn_tokenizer_open_memory(const void *bytes, size_t size, const char *name,
                                   tn_tokenizer **out)
{
    tn_status status;
    *out = NULL;
    if (size >= 4 && memcmp(bytes, "GGUF", 4) == 0)
        status = tn_read_gguf_tokenizer(bytes, size, name, out);
    else if (begins_like_json(bytes, size)) status = tn_read_json_tokenizer(bytes, size, name, out);
    else if (tn_is_sentencepiece_model(bytes, size))
        status = tn_read_sentencepiece_model(bytes, size, name, out);
    else status = tn_read_llama2c_tokenizer(bytes, size, name, out);
    if (status == TN_OK) return TN_OK;
    tn_tokenizer_free(*out);
    *out = NULL;
    return status;
}

static tn_status open_file(const char *path, tn_tokenizer **out)
{
    tn_file file;
    *out = NULL;
    TN_TRY(tn_file_map(path, &file));
    tn_status status = tn_tokenizer_open_memory(file.bytes, file.size, path, out);
    tn_file_unmap(&file);
    return status;
}

tn_status tn_tokenizer_open(const char *path, tn_tokenizer **out)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model", "tokenizer.bin"};
    *out = NULL;
    if (!tn_directory_exists(path)) return open_file(path, out);
    tn_arena arena = {0};
    tn_status status = tn_fail(
        TN_IO, "%s: no tokenizer.json, tokenizer.model or tokenizer.bin is in this directory",
        path);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *file = tn_arena_format(&arena, "%s/%s", path, names[i]);
        if (!file) status = TN_MEMORY;
        if (!file || !tn_file_exists(file)) continue;
        status = open_file(file, out);
        break;
    }
    tn_arena_free(&arena);
    return status;
}

/* ---- looking ------------------------------------------------------------------------- */

tn_tokenizer_kind tn_tokenizer_kind_of(const tn_tokenizer *t) { return t->kind; }
int32_t tn_tokenizer_size(const tn_tokenizer *t) { return t->count; }
int32_t tn_tokenizer_begin(const tn_tokenizer *t) { return t->begin; }
int32_t tn_tokenizer_end(const tn_tokenizer *t) { return t->end; }
bool tn_tokenizer_wants_begin(const tn_tokenizer *t) { return t->wants_begin && t->begin >= 0; }

const char *tn_tokenizer_piece(const tn_tokenizer *t, int32_t id, size_t *size)
{
    if (id < 0 || id >= t->count) return NULL;
    *size = t->piece[id].size;
    return t->piece[id].text;
}

/* ---- encoding ------------------------------------------------------------------------ */

/* The first special piece in the text from `at` on: its id, and *at moves to its place; -1, and *at
 * to the end, if there is none. */
static int32_t next_special(const tn_tokenizer *t, const uint8_t *text, size_t size, bool control,
                            size_t *at)
{
    bool any = t->special_count > 0 && (control || t->has_user);
    for (; any && *at < size; (*at)++) {
        uint8_t first = text[*at];
        if (!(t->special_first[first / 8] >> first % 8 & 1)) continue;
        for (int32_t i = 0; i < t->special_count; i++) {
            const tn_piece *piece = &t->piece[t->special[i]];
            if (!control && piece->kind == TN_PIECE_CONTROL) continue;
            if (piece->size <= size - *at && memcmp(piece->text, text + *at, piece->size) == 0)
                return t->special[i];
        }
    }
    *at = size;
    return -1;
}

static tn_status encode_plain(tn_bpe *bpe, const uint8_t *text, size_t size, bool prefix)
{
    switch (bpe->tokenizer->kind) {
    case TN_TOKENIZER_SENTENCEPIECE: return tn_sentencepiece_encode(bpe, text, size, prefix);
    case TN_TOKENIZER_BYTE_BPE: return tn_byte_bpe_encode(bpe, text, size);
    case TN_TOKENIZER_BYTES: break;
    }
    for (size_t i = 0; i < size; i++) TN_TRY(tn_bpe_push(bpe, text[i]));
    return TN_OK;
}

static tn_status encode(tn_bpe *bpe, const uint8_t *text, size_t size, tn_encode_options options)
{
    const tn_tokenizer *t = bpe->tokenizer;
    bool first =
        !options.no_prefix; /* a text begins here: at the very front, and behind a begin id */
    if (options.begin && t->begin >= 0) TN_TRY(tn_bpe_push(bpe, t->begin));
    for (size_t start = 0, at = 0; start < size; start = at) {
        int32_t id = next_special(t, text, size, options.special, &at);
        TN_TRY(encode_plain(bpe, text + start, at - start, first));
        first = false;
        if (id < 0) continue;
        TN_TRY(tn_bpe_push(bpe, id));
        first = id == t->begin;
        at += t->piece[id].size;
    }
    if (options.end && t->end >= 0) TN_TRY(tn_bpe_push(bpe, t->end));
    return TN_OK;
}

tn_status tn_tokenizer_encode(const tn_tokenizer *t, const char *text, size_t size,
                              tn_encode_options options, int32_t **ids, int64_t *count)
{
    tn_bpe bpe;
    *ids = NULL;
    *count = 0;
    tn_status status = tn_bpe_begin(&bpe, t, size);
    if (status == TN_OK) status = encode(&bpe, (const uint8_t *)text, size, options);
    tn_bpe_end(&bpe);
    if (status != TN_OK) {
        free(bpe.ids);
        return status;
    }
    *ids = bpe.ids;
    *count = (int64_t)bpe.count;
    return TN_OK;
}

/* ---- decoding ------------------------------------------------------------------------ */

tn_status tn_tokenizer_decode(const tn_tokenizer *t, int32_t previous, int32_t id,
                              const char **bytes, size_t *size)
{
    *bytes = "";
    *size = 0;
    if (id < 0 || id >= t->count)
        return tn_fail(TN_INVALID,
                       "token id %" PRId32 " is outside the vocabulary of %s (0 to %" PRId32
                       "): model and tokenizer do not belong together",
                       id, t->name, t->count - 1);
    const tn_piece *piece = &t->piece[id];
    switch (piece->kind) {
    case TN_PIECE_BYTE:
        *bytes = (const char *)&t->single[piece->byte];
        *size = 1;
        break;
    case TN_PIECE_NORMAL:
    case TN_PIECE_USER:
    case TN_PIECE_UNUSED: {
        bool first = previous < 0 || previous == t->begin;
        size_t skip = t->prefix_space && first && piece->size > 0 && piece->text[0] == ' ';
        *bytes = piece->text + skip;
        *size = piece->size - skip;
        break;
    }
    default: break;
    }
    return TN_OK;
}

tn_status tn_tokenizer_decode_all(const tn_tokenizer *t, const int32_t *ids, int64_t count,
                                  char **text, size_t *size)
{
    const char *bytes;
    size_t length = 0, part;
    *text = NULL;
    *size = 0;
    for (int64_t i = 0; i < count; i++) {
        TN_TRY(tn_tokenizer_decode(t, i > 0 ? ids[i - 1] : -1, ids[i], &bytes, &part));
        length += part;
    }
    char *out = malloc(length + 1);
    if (!out) return tn_fail(TN_MEMORY, "%s: out of memory while decoding", t->name);
    for (int64_t i = 0, at = 0; i < count; i++, at += (int64_t)part) {
        tn_tokenizer_decode(t, i > 0 ? ids[i - 1] : -1, ids[i], &bytes, &part);
        memcpy(out + at, bytes, part);
    }
    out[length] = '\0';
    *text = out;
    *size = length;
    return TN_OK;
}
