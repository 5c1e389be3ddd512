/* Vocabularies of llama2.c and GGUF. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "data/cursor.h"
#include "data/gguf.h"
#include "data/tokenizer.h"

/* ---- llama2.c ------------------------------------------------------------------------
 * i32 longest piece, then per piece: f32 score, i32 length, bytes, until the file ends. Ids 0-2 are
 * unknown, begin and end; 3-258 the bytes. Source: karpathy/llama2.c, tokenizer.py (export) and
 * run.c (build_tokenizer). */

enum { UNKNOWN = 0, BEGIN = 1, END = 2, FIRST_BYTE = 3, LONGEST_MOST = 65535 };

static tn_status not_llama2c(const char *name)
{
    return tn_fail(TN_FORMAT,
                   "%s: not a tokenizer that is known here (tokenizer.json, tokenizer.model, "
                   "llama2.c's tokenizer.bin, or a GGUF file); for a model, give its tokenizer too",
                   name);
}

/* Counts the pieces and checks that they fill the file. */
static tn_status count_pieces(tn_cursor cursor, const char *name, int64_t *count)
{
    int32_t longest, length;
    float score;
    *count = 0;
    if (!tn_cursor_read(&cursor, &longest, sizeof longest) || longest < 1 || longest > LONGEST_MOST)
        return not_llama2c(name);
    while (tn_cursor_left(&cursor) > 0) {
        bool read = tn_cursor_read(&cursor, &score, sizeof score) &&
                    tn_cursor_read(&cursor, &length, sizeof length);
        if (read && *count < FIRST_BYTE + 256 && (length < 0 || length > longest))
            return not_llama2c(name);
        if (read && (length < 0 || length > longest))
            return tn_fail(TN_FORMAT,
                           "%s: piece %" PRId64 " has length %" PRId32
                           ", but the longest should have %" PRId32 ": the file is damaged",
                           name, *count, length, longest);
        if (!read || !tn_cursor_take(&cursor, (size_t)length))
            return tn_fail(TN_FORMAT,
                           "%s: the file ends (%zu bytes) inside piece %" PRId64 ": it is cut off",
                           name, cursor.size, *count);
        ++*count;
    }
    if (*count < FIRST_BYTE + 256)
        return tn_fail(
            TN_FORMAT,
            "%s: %" PRId64
            " pieces are too few: a llama2.c tokenizer has 3 special ones and 256 bytes at least",
            name, *count);
    return TN_OK;
}

static tn_status fill_llama2c(tn_tokenizer *t, tn_cursor cursor)
{
    tn_cursor_take(&cursor, sizeof(int32_t));
    for (int32_t id = 0; id < t->count; id++) {
        int32_t length = 0;
        float score = 0;
        tn_cursor_read(&cursor, &score, sizeof score);
        tn_cursor_read(&cursor, &length, sizeof length);
        const char *text = (const char *)tn_cursor_take(&cursor, (size_t)length);
        tn_piece_kind kind = id == UNKNOWN           ? TN_PIECE_UNKNOWN
                             : id < FIRST_BYTE       ? TN_PIECE_CONTROL
                             : id < FIRST_BYTE + 256 ? TN_PIECE_BYTE
                                                     : TN_PIECE_NORMAL;
        size_t size = (size_t)length;
        if (kind == TN_PIECE_CONTROL && size > 2 && text[0] == '\n' && text[size - 1] == '\n')
            text++, size -= 2; /* the export puts lines around them */
        TN_TRY(tn_tokenizer_set(t, id, text, size, score, kind));
    }
    t->unknown = UNKNOWN;
    t->begin = BEGIN;
    t->end = END;
    t->wants_begin = t->prefix_space = true;
    return tn_sentencepiece_finish(t);
}

tn_status tn_read_llama2c_tokenizer(const uint8_t *bytes, size_t size, const char *name,
                                    tn_tokenizer **out)
{
    int64_t count;
    tn_cursor cursor = {bytes, size, 0};
    if (size == 0) return tn_fail(TN_FORMAT, "%s: the file is empty", name);
    TN_TRY(count_pieces(cursor, name, &count));
    TN_TRY(tn_tokenizer_make(TN_TOKENIZER_SENTENCEPIECE, name, count, out));
    return fill_llama2c(*out, cursor);
}

/* ---- GGUF ----------------------------------------------------------------------------
 * Source: ggml's docs/gguf.md, keys tokenizer.ggml.*; what they mean as llama.cpp reads them. */

/* An array of strings, walked from the front. */
static bool next_string(tn_cursor *cursor, const char **text, size_t *size)
{
    uint64_t length;
    if (!tn_cursor_read(cursor, &length, sizeof length)) return false;
    *text = (const char *)tn_cursor_take(cursor, (size_t)length);
    *size = (size_t)length;
    return *text != NULL;
}

static tn_status read_ids(tn_gguf *gguf, tn_tokenizer *t)
{
    const struct {
        const char *key;
        int32_t *id;
    } ids[] = {{"tokenizer.ggml.bos_token_id", &t->begin},
               {"tokenizer.ggml.eos_token_id", &t->end},
               {"tokenizer.ggml.unknown_token_id", &t->unknown}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        int64_t id = *ids[i].id;
        TN_TRY(tn_gguf_integer(gguf, ids[i].key, 0, t->count - 1, &id));
        *ids[i].id = (int32_t)id;
    }
    return tn_gguf_boolean(gguf, "tokenizer.ggml.add_bos_token", &t->wants_begin);
}

/* Kinds (optional) and scores, as many as tokens. */
static tn_status read_columns(tn_gguf *gguf, const tn_tokenizer *t, const tn_gguf_value **kinds,
                              const tn_gguf_value **scores)
{
    TN_TRY(tn_gguf_array(gguf, "tokenizer.ggml.token_type", TN_GGUF_I32, kinds));
    TN_TRY(tn_gguf_array(gguf, "tokenizer.ggml.scores", TN_GGUF_F32, scores));
    const tn_gguf_value *column[] = {*kinds, *scores};
    for (int i = 0; i < 2; i++)
        if (column[i] && column[i]->count != (uint64_t)t->count)
            return tn_fail(TN_FORMAT,
                           "%s: \"%s\" has %" PRIu64 " entries, but there are %" PRId32 " tokens",
                           gguf->name, column[i]->key, column[i]->count, t->count);
    if (t->kind == TN_TOKENIZER_SENTENCEPIECE && !*scores)
        return tn_fail(TN_FORMAT, "%s: \"tokenizer.ggml.scores\" is missing", gguf->name);
    return TN_OK;
}

size_t tn_sentencepiece_spaces(char *text, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < size; i++) {
        bool mark = size - i >= 3 && memcmp(text + i, "\xe2\x96\x81", 3) == 0;
        text[used++] = mark ? ' ' : text[i];
        if (mark) i += 2;
    }
    return used;
}

static tn_status read_tokens(tn_gguf *gguf, const tn_gguf_value *tokens, tn_tokenizer *t)
{
    const tn_gguf_value *kinds, *scores;
    tn_cursor cursor = {tokens->bytes, tokens->size, 0};
    TN_TRY(read_columns(gguf, t, &kinds, &scores));
    for (int32_t id = 0; id < t->count; id++) {
        int32_t kind = TN_PIECE_NORMAL;
        float score = 0;
        const char *text = NULL;
        size_t size = 0;
        if (!next_string(&cursor, &text, &size))
            return tn_fail(TN_FORMAT, "%s: \"tokenizer.ggml.tokens\" is cut off", gguf->name);
        if (!kinds && (id == t->begin || id == t->end)) kind = TN_PIECE_CONTROL;
        if (kinds) memcpy(&kind, kinds->bytes + (size_t)id * sizeof kind, sizeof kind);
        if (scores) memcpy(&score, scores->bytes + (size_t)id * sizeof score, sizeof score);
        if (kind < TN_PIECE_NORMAL || kind >= TN_PIECE_KINDS)
            return tn_fail(TN_FORMAT, "%s: token %" PRId32 " has the unknown type %" PRId32,
                           gguf->name, id, kind);
        TN_TRY(tn_tokenizer_set(t, id, text, size, score, (tn_piece_kind)kind));
        tn_piece *piece = &t->piece[id];
        char *own = (char *)(uintptr_t)piece->text;
        if (t->kind == TN_TOKENIZER_SENTENCEPIECE) {
            piece->size = (uint32_t)tn_sentencepiece_spaces(own, size);
        } else if (kind == TN_PIECE_NORMAL || kind == TN_PIECE_UNUSED) {
            if (!tn_byte_bpe_unmap(own, size, own, &size))
                return tn_fail(TN_FORMAT,
                               "%s: token %" PRId32 " has a character that stands for no byte",
                               gguf->name, id);
            piece->size = (uint32_t)size;
        }
    }
    return TN_OK;
}

/* "left right": the first space behind the first character parts them. */
static bool cut_merge(char *text, size_t size, tn_merge_text *merge)
{
    char *space = size > 1 ? memchr(text + 1, ' ', size - 1) : NULL;
    if (!space) return false;
    char *right = space + 1;
    merge->left = text;
    merge->right = right;
    return tn_byte_bpe_unmap(text, (size_t)(space - text), text, &merge->left_size) &&
           tn_byte_bpe_unmap(right, size - (size_t)(right - text), right, &merge->right_size);
}

static tn_status read_merges(tn_gguf *gguf, tn_tokenizer *t)
{
    const tn_gguf_value *merges;
    const char *pre = "gpt-2", *text;
    size_t size;
    TN_TRY(tn_gguf_string(gguf, "tokenizer.ggml.pre", &pre));
    if (strcmp(pre, "gpt-2") != 0 && strcmp(pre, "default") != 0)
        return tn_fail(
            TN_UNSUPPORTED,
            "%s: tokenizer.ggml.pre is \"%s\"; only GPT-2's way of cutting words is known here",
            gguf->name, pre);
    TN_TRY(tn_gguf_array(gguf, "tokenizer.ggml.merges", TN_GGUF_STRING, &merges));
    if (!merges) return tn_fail(TN_FORMAT, "%s: \"tokenizer.ggml.merges\" is missing", gguf->name);
    tn_cursor cursor = {merges->bytes, merges->size, 0};
    tn_merge_text *list = tn_arena_array(&gguf->arena, (size_t)merges->count, sizeof *list);
    if (!list) return TN_MEMORY;
    for (uint64_t i = 0; i < merges->count; i++) {
        if (!next_string(&cursor, &text, &size))
            return tn_fail(TN_FORMAT, "%s: \"tokenizer.ggml.merges\" is cut off", gguf->name);
        char *own = tn_arena_copy(&gguf->arena, text, size);
        if (!own) return TN_MEMORY;
        if (!cut_merge(own, size, &list[i]))
            return tn_fail(TN_FORMAT,
                           "%s: merge %" PRIu64 " is not two tokens with a space between",
                           gguf->name, i);
    }
    return tn_byte_bpe_finish(t, list, (int64_t)merges->count);
}

static tn_status fill_gguf(tn_gguf *gguf, tn_tokenizer **out)
{
    const char *model = NULL;
    const tn_gguf_value *tokens;
    TN_TRY(tn_gguf_string(gguf, "tokenizer.ggml.model", &model));
    if (!model)
        return tn_fail(TN_FORMAT, "%s: no vocabulary in it (key \"tokenizer.ggml.model\")",
                       gguf->name);
    bool llama = strcmp(model, "llama") == 0;
    if (!llama && strcmp(model, "gpt2") != 0)
        return tn_fail(TN_UNSUPPORTED,
                       "%s: tokenizer.ggml.model is \"%s\"; \"llama\" and \"gpt2\" can be read",
                       gguf->name, model);
    TN_TRY(tn_gguf_array(gguf, "tokenizer.ggml.tokens", TN_GGUF_STRING, &tokens));
    if (!tokens) return tn_fail(TN_FORMAT, "%s: \"tokenizer.ggml.tokens\" is missing", gguf->name);
    int64_t count = tokens->count > INT64_MAX ? -1 : (int64_t)tokens->count;
    TN_TRY(tn_tokenizer_make(llama ? TN_TOKENIZER_SENTENCEPIECE : TN_TOKENIZER_BYTE_BPE, gguf->name,
                             count, out));
    tn_tokenizer *t = *out;
    t->wants_begin = t->prefix_space = llama;
    TN_TRY(read_ids(gguf, t));
    TN_TRY(tn_gguf_boolean(gguf, "tokenizer.ggml.add_space_prefix", &t->prefix_space));
    if (!llama) t->prefix_space = false;
    TN_TRY(read_tokens(gguf, tokens, t));
    return llama ? tn_sentencepiece_finish(t) : read_merges(gguf, t);
}

tn_status tn_read_gguf_tokenizer(const uint8_t *bytes, size_t size, const char *name,
                                 tn_tokenizer **out)
{
    tn_gguf gguf;
    tn_status status = tn_gguf_parse(bytes, size, name, &gguf);
    if (status == TN_OK) status = fill_gguf(&gguf, out);
    tn_gguf_free(&gguf);
    return status;
}
