/* SentencePiece's own files (tokenizer.model): a protobuf of pieces, and how they were trained. BPE
 * models can be read; Unigram models and those that rewrite texts first are refused.
 *
 * Source: sentencepiece_model.proto of google/sentencepiece; wire format of Protocol Buffers. */
#include <inttypes.h>
#include <string.h>

#include "data/cursor.h"
#include "data/tokenizer.h"

/* ---- wire format ----------------------------------------------------------------------------- */

typedef struct field {
    uint64_t number;
    int wire;        /* 0 varint, 1 fixed64, 2 bytes, 5 fixed32 */
    uint64_t value;  /* varint, or the bits of a fixed one */
    tn_cursor bytes; /* of wire 2 */
} field;

static bool read_varint(tn_cursor *cursor, uint64_t *out)
{
    *out = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        uint8_t byte;
        if (!tn_cursor_read(cursor, &byte, 1)) return false;
        *out |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) return true;
    }
    return false;
}

/* The next field; false where the bytes are no protobuf. */
static bool next_field(tn_cursor *cursor, field *out)
{
    uint64_t key, size;
    *out = (field){0};
    if (!read_varint(cursor, &key)) return false;
    out->number = key >> 3;
    out->wire = (int)(key & 7);
    switch (out->wire) {
    case 0: return read_varint(cursor, &out->value);
    case 1: return tn_cursor_read(cursor, &out->value, 8);
    case 5: return tn_cursor_read(cursor, &out->value, 4);
    case 2: {
        if (!read_varint(cursor, &size) || size > tn_cursor_left(cursor)) return false;
        const uint8_t *bytes = tn_cursor_take(cursor, (size_t)size);
        out->bytes = (tn_cursor){bytes, (size_t)size, 0};
        return bytes != NULL;
    }
    default: return false;
    }
}

/* ---- the model ------------------------------------------------------------------------------- */

enum { UNIGRAM = 1, BPE = 2 };

typedef struct model {
    const char *name;
    int64_t pieces;
    uint64_t type;               /* of the training; UNIGRAM where nothing is said */
    int32_t unknown, begin, end; /* -1: none */
    bool prefix_space, strips, rewrites;
} model;

static tn_status damaged(const char *name, const char *what)
{
    return tn_fail(TN_FORMAT, "%s: %s is cut off or damaged", name, what);
}

static tn_status read_training(model *m, tn_cursor cursor)
{
    field f;
    while (tn_cursor_left(&cursor)) {
        if (!next_field(&cursor, &f)) return damaged(m->name, "the trainer's part");
        if (f.wire != 0) continue;
        if (f.number == 3) m->type = f.value;
        if (f.number == 40) m->unknown = (int32_t)f.value;
        if (f.number == 41) m->begin = (int32_t)f.value;
        if (f.number == 42) m->end = (int32_t)f.value;
    }
    return TN_OK;
}

static tn_status read_normaliser(model *m, tn_cursor cursor)
{
    field f;
    while (tn_cursor_left(&cursor)) {
        if (!next_field(&cursor, &f)) return damaged(m->name, "the normaliser's part");
        if (f.number == 2 && f.wire == 2) m->rewrites = f.bytes.size > 0;
        if (f.number == 3 && f.wire == 0) m->prefix_space = f.value != 0;
        if (f.number == 4 && f.wire == 0) m->strips = f.value != 0;
    }
    return TN_OK;
}

/* Counts the pieces and reads what is said about all of them. */
static tn_status read_about(model *m, tn_cursor cursor)
{
    field f;
    while (tn_cursor_left(&cursor)) {
        if (!next_field(&cursor, &f)) return damaged(m->name, "the file");
        if (f.wire != 2) continue;
        if (f.number == 1) m->pieces++;
        if (f.number == 2) TN_TRY(read_training(m, f.bytes));
        if (f.number == 3) TN_TRY(read_normaliser(m, f.bytes));
    }
    return TN_OK;
}

static tn_status check(const model *m)
{
    if (m->pieces < 1)
        return tn_fail(TN_FORMAT, "%s: no pieces in this SentencePiece model", m->name);
    if (m->type != BPE)
        return tn_fail(TN_UNSUPPORTED,
                       "%s: a SentencePiece model of type %s; only BPE models can be read", m->name,
                       m->type == UNIGRAM ? "Unigram" : "Word or Char");
    if (m->rewrites || m->strips)
        return tn_fail(TN_UNSUPPORTED,
                       "%s: this SentencePiece model %s; only models that leave texts as they are "
                       "can be read",
                       m->name,
                       m->rewrites ? "normalises texts by a table of characters"
                                   : "removes repeated spaces");
    return TN_OK;
}

static tn_status read_piece(tn_tokenizer *t, int32_t id, tn_cursor cursor)
{
    field f;
    tn_cursor text = {(const uint8_t *)"", 0, 0};
    float score = 0;
    uint64_t kind = TN_PIECE_NORMAL;
    while (tn_cursor_left(&cursor)) {
        if (!next_field(&cursor, &f))
            return tn_fail(TN_FORMAT, "%s: piece %" PRId32 " is cut off or damaged", t->name, id);
        if (f.number == 1 && f.wire == 2) text = f.bytes;
        if (f.number == 2 && f.wire == 5) memcpy(&score, &f.value, sizeof score);
        if (f.number == 3 && f.wire == 0) kind = f.value;
    }
    if (kind < TN_PIECE_NORMAL || kind >= TN_PIECE_KINDS)
        return tn_fail(TN_FORMAT, "%s: piece %" PRId32 " has the unknown type %" PRIu64, t->name,
                       id, kind);
    TN_TRY(
        tn_tokenizer_set(t, id, (const char *)text.bytes, text.size, score, (tn_piece_kind)kind));
    tn_piece *piece = &t->piece[id];
    piece->size = (uint32_t)tn_sentencepiece_spaces((char *)(uintptr_t)piece->text, text.size);
    return TN_OK;
}

static int32_t id_or_none(int32_t id, int32_t count) { return id >= 0 && id < count ? id : -1; }

tn_status tn_read_sentencepiece_model(const uint8_t *bytes, size_t size, const char *name,
                                      tn_tokenizer **out)
{
    /* the format's defaults */
    model m = {.name = name,
               .type = UNIGRAM,
               .unknown = 0,
               .begin = 1,
               .end = 2,
               .prefix_space = true,
               .strips = true};
    tn_cursor cursor = {bytes, size, 0};
    field f;
    TN_TRY(read_about(&m, cursor));
    TN_TRY(check(&m));
    TN_TRY(tn_tokenizer_make(TN_TOKENIZER_SENTENCEPIECE, name, m.pieces, out));
    tn_tokenizer *t = *out;
    for (int32_t id = 0; tn_cursor_left(&cursor) && next_field(&cursor, &f);)
        if (f.number == 1 && f.wire == 2) TN_TRY(read_piece(t, id++, f.bytes));
    t->unknown = id_or_none(m.unknown, t->count);
    t->begin = id_or_none(m.begin, t->count);
    t->end = id_or_none(m.end, t->count);
    t->wants_begin = true;
    t->prefix_space = m.prefix_space;
    return tn_sentencepiece_finish(t);
}
