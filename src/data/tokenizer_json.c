/* tokenizer.json: our own form for bytes and SentencePiece, Hugging Face's for byte-level BPE.
 *
 * Ours:   {"type": "byte"}
 *         {"type": "sentencepiece", "begin": 1, "end": 2, "unknown": 0, "wants_begin": true,
 * "prefix_space": true, "pieces": [[text, score, kind], ...]} (Hugging Face's form cannot hold
 * SentencePiece's scores, and its merges do not always make the same ids.) Source of theirs: the
 * tokenizers library, as its serialised GPT-2 has it. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/string.h"
#include "data/tokenizer.h"
#include "data/unicode.h"

static const char *const kind_names[] = {"normal", "unknown", "control",
                                         "user",   "unused",  "byte"}; /* of TN_PIECE_NORMAL + i */
enum { KINDS = sizeof kind_names / sizeof *kind_names };

/* ---- reading ours -------------------------------------------------------------------- */

static tn_status read_piece(const tn_json *json, const json_t *row, tn_tokenizer *t, int32_t id)
{
    const json_t *text = json_array_get(row, 0), *score = json_array_get(row, 1);
    const char *kind = json_string_value(json_array_get(row, 2));
    int found = 0;
    while (kind && found < KINDS && strcmp(kind, kind_names[found]) != 0) found++;
    if (json_array_size(row) != 3 || !json_is_string(text) || !json_is_number(score) || !kind ||
        found == KINDS)
        return tn_json_fail(json, row, NULL,
                            "piece %" PRId32 " must be [text, score, kind], the kind one of "
                            "normal, unknown, control, user, unused, byte",
                            id);
    return tn_tokenizer_set(t, id, json_string_value(text), json_string_length(text),
                            (float)json_number_value(score),
                            (tn_piece_kind)(TN_PIECE_NORMAL + found));
}

static tn_status read_sentencepiece(const tn_json *json, tn_tokenizer **out)
{
    const json_t *root = json->root;
    json_t *pieces = NULL;
    TN_TRY(tn_json_array(json, root, "pieces", TN_JSON_REQUIRED, &pieces));
    TN_TRY(tn_tokenizer_make(TN_TOKENIZER_SENTENCEPIECE, json->name,
                             (int64_t)json_array_size(pieces), out));
    tn_tokenizer *t = *out;
    int64_t begin = -1, end = -1, unknown = -1;
    TN_TRY(tn_json_integer(json, root, "begin", TN_JSON_OPTIONAL, -1, t->count - 1, &begin));
    TN_TRY(tn_json_integer(json, root, "end", TN_JSON_OPTIONAL, -1, t->count - 1, &end));
    TN_TRY(tn_json_integer(json, root, "unknown", TN_JSON_OPTIONAL, -1, t->count - 1, &unknown));
    TN_TRY(tn_json_boolean(json, root, "wants_begin", TN_JSON_OPTIONAL, &t->wants_begin));
    TN_TRY(tn_json_boolean(json, root, "prefix_space", TN_JSON_OPTIONAL, &t->prefix_space));
    t->begin = (int32_t)begin;
    t->end = (int32_t)end;
    t->unknown = (int32_t)unknown;
    for (int32_t id = 0; id < t->count; id++)
        TN_TRY(read_piece(json, json_array_get(pieces, (size_t)id), t, id));
    return tn_sentencepiece_finish(t);
}

/* ---- reading Hugging Face's ---------------------------------------------------------- */

static tn_status unlike(const tn_json *json, const char *what)
{
    return tn_fail(
        TN_UNSUPPORTED,
        "%s: a Hugging Face tokenizer %s; only byte-level BPE as in GPT-2 can be read in this form",
        json->name, what);
}

/* What would make other ids than the plain scheme must not be there. */
static tn_status check_scheme(const tn_json *json, const json_t *model)
{
    const json_t *root = json->root, *pre = json_object_get(root, "pre_tokenizer"),
                 *normalizer = json_object_get(root, "normalizer");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const char *type = json_string_value(json_object_get(pre, "type")),
               *model_type = json_string_value(json_object_get(model, "type"));
    if (model_type && strcmp(model_type, "BPE") != 0) return unlike(json, "that is not BPE");
    if (!type || strcmp(type, "ByteLevel") != 0)
        return unlike(json, "whose pre_tokenizer is not ByteLevel");
    if (json_is_true(json_object_get(pre, "add_prefix_space")))
        return unlike(json, "with add_prefix_space");
    if (json_is_false(json_object_get(pre, "use_regex"))) return unlike(json, "without use_regex");
    if (normalizer && !json_is_null(normalizer)) return unlike(json, "with a normalizer");
    if (json_is_true(json_object_get(model, "byte_fallback")))
        return unlike(json, "with byte_fallback");
    if (json_is_true(json_object_get(model, "ignore_merges")))
        return unlike(json, "with ignore_merges");
    for (size_t i = 0; i < 2; i++) {
        const char *affix = json_string_value(json_object_get(model, affixes[i]));
        if (affix && *affix) return unlike(json, "with affixes of words");
    }
    return TN_OK;
}

static tn_status bad_id(const tn_json *json, const char *text, const json_t *id, int64_t count)
{
    return tn_fail(TN_FORMAT, "%s: token \"%s\" must have an id of its own from 0 to %" PRId64 "%s",
                   json->name, text, count - 1,
                   json_is_integer(id) ? "; ids must be without gaps or repetitions" : "");
}

/* Vocabulary: {text: id}. */
static tn_status read_vocabulary(const tn_json *json, const json_t *vocabulary, tn_tokenizer *t,
                                 bool *set)
{
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)(uintptr_t)vocabulary, text, id)
    {
        json_int_t number = json_integer_value(id);
        size_t size = strlen(text);
        if (!json_is_integer(id) || number < 0 || number >= t->count || set[number])
            return bad_id(json, text, id, t->count);
        set[number] = true;
        TN_TRY(tn_tokenizer_set(t, (int32_t)number, text, size, 0, TN_PIECE_NORMAL));
    }
    return TN_OK;
}

/* Added tokens: [{id, content, special}, ...]; they may repeat entries of the vocabulary. */
static tn_status read_added(const tn_json *json, const json_t *added, tn_tokenizer *t, bool *set)
{
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *entry = json_array_get(added, i);
        const char *text = NULL;
        bool special = false;
        int64_t id = 0;
        TN_TRY(tn_json_string(json, entry, "content", TN_JSON_REQUIRED, &text));
        TN_TRY(tn_json_integer(json, entry, "id", TN_JSON_REQUIRED, 0, t->count - 1, &id));
        TN_TRY(tn_json_boolean(json, entry, "special", TN_JSON_OPTIONAL, &special));
        if (set[id] && strcmp(t->piece[id].text, text) != 0)
            return tn_json_fail(json, entry, "id",
                                "is %" PRId64 ", which is another token (\"%s\") in the vocabulary",
                                id, t->piece[id].text);
        set[id] = true;
        TN_TRY(tn_tokenizer_set(t, (int32_t)id, text, strlen(text), 0,
                                special ? TN_PIECE_CONTROL : TN_PIECE_USER));
    }
    return TN_OK;
}

/* Texts of the vocabulary become bytes. */
static tn_status unmap_vocabulary(const tn_json *json, tn_tokenizer *t, const bool *set)
{
    for (int32_t id = 0; id < t->count; id++) {
        tn_piece *piece = &t->piece[id];
        size_t size;
        if (!set[id])
            return tn_fail(TN_FORMAT,
                           "%s: no token has id %" PRId32 ", though there are higher ones",
                           json->name, id);
        if (piece->kind != TN_PIECE_NORMAL) continue;
        char *own = (char *)(uintptr_t)piece->text;
        if (!tn_byte_bpe_unmap(own, piece->size, own, &size))
            return tn_fail(TN_FORMAT,
                           "%s: token %" PRId32 " has a character that stands for no byte",
                           json->name, id);
        piece->size = (uint32_t)size;
    }
    return TN_OK;
}

/* A merge is "left right" or ["left", "right"]. */
static bool read_merge(const json_t *value, tn_arena *arena, tn_merge_text *merge)
{
    const char *left = json_string_value(json_is_array(value) ? json_array_get(value, 0) : value),
               *right = NULL;
    if (!left) return false;
    size_t left_size = strlen(left);
    if (json_is_array(value)) {
        right = json_array_size(value) == 2 ? json_string_value(json_array_get(value, 1)) : NULL;
    } else {
        const char *space = strchr(left, ' ');
        right = space ? space + 1 : NULL;
        left_size = space ? (size_t)(space - left) : 0;
    }
    if (!right) return false;
    char *own_left = tn_arena_copy(arena, left, left_size + 1),
         *own_right = tn_arena_string(arena, right);
    if (!own_left || !own_right) return false;
    merge->left = own_left;
    merge->right = own_right;
    return tn_byte_bpe_unmap(own_left, left_size, own_left, &merge->left_size) &&
           tn_byte_bpe_unmap(own_right, strlen(right), own_right, &merge->right_size);
}

static tn_status read_merges(const tn_json *json, const json_t *merges, tn_tokenizer *t,
                             tn_arena *arena)
{
    size_t count = json_array_size(merges);
    tn_merge_text *list = tn_arena_array(arena, count, sizeof *list);
    if (!list) return TN_MEMORY;
    for (size_t i = 0; i < count; i++)
        if (!read_merge(json_array_get(merges, i), arena, &list[i]))
            return tn_fail(TN_FORMAT, "%s: merge %zu is not two tokens with a space between",
                           json->name, i);
    return tn_byte_bpe_finish(t, list, (int64_t)count);
}

/* Hugging Face's file does not say which token begins and ends a text. Ours adds it to "model",
 * where their reader overlooks it; for files of others these are the customs. */
static tn_status read_ends(const tn_json *json, const json_t *model, tn_tokenizer *t)
{
    json_t *ours = NULL;
    int64_t begin = -1, end = -1;
    TN_TRY(tn_json_object(json, model, "tenon", TN_JSON_OPTIONAL, &ours));
    if (ours) {
        TN_TRY(tn_json_integer(json, ours, "begin", TN_JSON_OPTIONAL, -1, t->count - 1, &begin));
        TN_TRY(tn_json_integer(json, ours, "end", TN_JSON_OPTIONAL, -1, t->count - 1, &end));
        t->begin = (int32_t)begin;
        t->end = (int32_t)end;
        return tn_json_boolean(json, ours, "wants_begin", TN_JSON_OPTIONAL, &t->wants_begin);
    }
    static const char *const begins[] = {"<|endoftext|>", "<s>", "<|begin_of_text|>"},
                             *const ends[] = {"<|endoftext|>", "</s>", "<|end_of_text|>"};
    for (int32_t i = 0; i < t->special_count; i++) {
        const tn_piece *piece = &t->piece[t->special[i]];
        for (int k = 0; k < 3; k++) {
            if (t->begin < 0 && strcmp(piece->text, begins[k]) == 0) t->begin = t->special[i];
            if (t->end < 0 && strcmp(piece->text, ends[k]) == 0) t->end = t->special[i];
        }
    }
    return TN_OK;
}

/* One more than the highest id. */
static int64_t count_ids(const json_t *vocabulary, const json_t *added)
{
    int64_t count = (int64_t)json_object_size(vocabulary),
            most = count + (int64_t)json_array_size(added);
    for (size_t i = 0; i < json_array_size(added); i++) {
        int64_t id = json_integer_value(json_object_get(json_array_get(added, i), "id"));
        if (id >= count && id < most) count = id + 1;
    }
    return count;
}

static tn_status read_hugging_face(const tn_json *json, tn_arena *arena, tn_tokenizer **out)
{
    json_t *model = NULL, *vocabulary = NULL, *merges = NULL, *added = NULL;
    TN_TRY(tn_json_object(json, json->root, "model", TN_JSON_REQUIRED, &model));
    TN_TRY(check_scheme(json, model));
    TN_TRY(tn_json_object(json, model, "vocab", TN_JSON_REQUIRED, &vocabulary));
    TN_TRY(tn_json_array(json, model, "merges", TN_JSON_REQUIRED, &merges));
    TN_TRY(tn_json_array(json, json->root, "added_tokens", TN_JSON_OPTIONAL, &added));
    TN_TRY(tn_tokenizer_make(TN_TOKENIZER_BYTE_BPE, json->name, count_ids(vocabulary, added), out));
    bool *set = tn_arena_array(arena, (size_t)(*out)->count, sizeof *set);
    if (!set) return TN_MEMORY;
    TN_TRY(read_vocabulary(json, vocabulary, *out, set));
    TN_TRY(read_added(json, added, *out, set));
    TN_TRY(unmap_vocabulary(json, *out, set));
    TN_TRY(read_merges(json, merges, *out, arena));
    return read_ends(json, model, *out);
}

tn_status tn_read_json_tokenizer(const uint8_t *bytes, size_t size, const char *name,
                                 tn_tokenizer **out)
{
    static const char *const types[] = {"byte", "sentencepiece"};
    tn_json json;
    tn_arena arena = {0};
    int type = -1;
    TN_TRY(tn_json_parse(name, (const char *)bytes, size, &json));
    tn_status status = TN_OK;
    if (json_object_get(json.root, "model")) {
        status = read_hugging_face(&json, &arena, out);
    } else {
        status = tn_json_choice(&json, json.root, "type", TN_JSON_REQUIRED, types, 2, &type);
        if (status == TN_OK)
            status = type == 0 ? tn_tokenizer_create_bytes(out) : read_sentencepiece(&json, out);
    }
    tn_json_free(&json);
    tn_arena_free(&arena);
    return status;
}

/* ---- writing ------------------------------------------------------------------------- */

static json_t *sentencepiece_json(const tn_tokenizer *t)
{
    json_t *pieces = json_array();
    for (int32_t id = 0; id < t->count; id++) {
        const tn_piece *piece = &t->piece[id];
        json_array_append_new(pieces, json_pack("[s%, f, s]", piece->text, (size_t)piece->size,
                                                (double)piece->score,
                                                kind_names[piece->kind - TN_PIECE_NORMAL]));
    }
    return json_pack("{s:s, s:i, s:i, s:i, s:b, s:b, s:o}", "type", "sentencepiece", "begin",
                     t->begin, "end", t->end, "unknown", t->unknown, "wants_begin",
                     (int)t->wants_begin, "prefix_space", (int)t->prefix_space, "pieces", pieces);
}

/* Bytes as their printable stand-ins, in UTF-8. */
static void add_mapped(tn_string *out, const tn_piece *piece)
{
    for (uint32_t i = 0; i < piece->size; i++) {
        uint32_t letter = tn_byte_bpe_letter((uint8_t)piece->text[i]); /* below U+0144 */
        if (letter >= 0x80) tn_string_add_char(out, (char)(0xc0 | letter >> 6));
        tn_string_add_char(out, (char)(letter < 0x80 ? letter : 0x80 | (letter & 0x3f)));
    }
}

static int by_rank(const void *a, const void *b)
{
    return ((const tn_merge *)a)->rank - ((const tn_merge *)b)->rank;
}

static json_t *merges_json(const tn_tokenizer *t)
{
    size_t slots = t->merge_mask + 1, count = 0;
    tn_merge *order = malloc(slots * sizeof *order);
    json_t *list = order ? json_array() : NULL;
    tn_string text = {0};
    for (size_t i = 0; order && i < slots; i++)
        if (t->merge[i].rank >= 0) order[count++] = t->merge[i];
    if (order) qsort(order, count, sizeof *order, by_rank);
    for (size_t i = 0; i < count; i++) {
        tn_string_clear(&text);
        add_mapped(&text, &t->piece[order[i].left]);
        tn_string_add_char(&text, ' ');
        add_mapped(&text, &t->piece[order[i].right]);
        json_array_append_new(list, json_string(tn_string_text(&text)));
    }
    tn_string_free(&text);
    free(order);
    return list;
}

static json_t *byte_bpe_json(const tn_tokenizer *t)
{
    json_t *vocabulary = json_object(), *added = json_array();
    tn_string text = {0};
    for (int32_t id = 0; id < t->count; id++) {
        const tn_piece *piece = &t->piece[id];
        bool special = piece->kind == TN_PIECE_CONTROL;
        tn_string_clear(&text);
        if (special || piece->kind == TN_PIECE_USER)
            tn_string_add_bytes(&text, piece->text, piece->size);
        else add_mapped(&text, piece);
        json_object_set_new(vocabulary, tn_string_text(&text), json_integer(id));
        if (!special && piece->kind != TN_PIECE_USER) continue;
        json_array_append_new(added,
                              json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content",
                                        tn_string_text(&text), "single_word", 0, "lstrip", 0,
                                        "rstrip", 0, "normalized", 0, "special", (int)special));
    }
    tn_string_free(&text);
    if (json_object_size(vocabulary) != (size_t)t->count) { /* two tokens of the same text */
        json_decref(vocabulary);
        json_decref(added);
        return NULL;
    }
    return json_pack("{s:s, s:n, s:n, s:o, s:n, s:{s:s, s:b, s:b, s:b}, s:n, s:{s:s, s:b, s:b, "
                     "s:b}, s:{s:s, s:n, s:n, s:s, s:s, s:b, s:o, s:o, s:{s:i, s:i, s:b}}}",
                     "version", "1.0", "truncation", "padding", "added_tokens", added, "normalizer",
                     "pre_tokenizer", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1,
                     "use_regex", 1, "post_processor", "decoder", "type", "ByteLevel",
                     "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1, "model", "type",
                     "BPE", "dropout", "unk_token", "continuing_subword_prefix", "",
                     "end_of_word_suffix", "", "fuse_unk", 0, "vocab", vocabulary, "merges",
                     merges_json(t), "tenon", "begin", t->begin, "end", t->end, "wants_begin",
                     (int)t->wants_begin);
}

tn_status tn_tokenizer_save(const tn_tokenizer *t, const char *path)
{
    json_t *root = NULL;
    switch (t->kind) {
    case TN_TOKENIZER_BYTES: root = json_pack("{s:s}", "type", "byte"); break;
    case TN_TOKENIZER_SENTENCEPIECE: root = sentencepiece_json(t); break;
    case TN_TOKENIZER_BYTE_BPE: root = byte_bpe_json(t); break;
    }
    if (!root)
        return tn_fail(TN_INVALID,
                       "%s: the tokenizer of %s has pieces that JSON cannot hold, or memory is out",
                       path, t->name);
    tn_status status = tn_json_save(path, root);
    json_decref(root);
    return status;
}
