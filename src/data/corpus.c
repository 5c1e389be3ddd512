/* Texts as tokens: read, encoded, split into training and held-out parts, sampled in windows. */
#include <errno.h>
#include <fts.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/log.h"
#include "base/string.h"
#include "tenon/data.h"
#include "tenon/random.h"

enum { PARTS = 2, BINARY_LOOK = 8192 };
static const double DEFAULT_HELD_OUT = 0.05;
static const char *const part_names[PARTS] = {"training", "held-out"};

/* The tokens of one part, 2 or 4 bytes each. */
typedef struct token_list {
    void *data;
    size_t count, capacity;
    int64_t bytes; /* of text */
} token_list;

struct tn_corpus {
    token_list part[PARTS];
    int width; /* bytes of a token */
    int64_t documents;
    char *name;
};

/* ---- documents ----------------------------------------------------------------------- */

/* Texts mapped, in order. */
typedef struct document {
    tn_file file;
    bool mapped; /* to be unmapped */
} document;

typedef struct documents {
    document *list;
    size_t count, capacity;
    size_t bytes;
    size_t skipped; /* files that are no text */
} documents;

static tn_status add_document(documents *all, const char *name, tn_file file, bool mapped)
{
    if (all->count == all->capacity) {
        size_t capacity = all->capacity ? 2 * all->capacity : 16;
        document *list = realloc(all->list, capacity * sizeof *list);
        if (!list) return tn_fail(TN_MEMORY, "%s: out of memory", name);
        all->list = list;
        all->capacity = capacity;
    }
    if (!tn_add_size(all->bytes, file.size, &all->bytes))
        return tn_fail(TN_MEMORY, "%s: the texts are larger than any memory", name);
    all->list[all->count++] = (document){file, mapped};
    return TN_OK;
}

static void free_documents(documents *all)
{
    for (size_t i = 0; i < all->count; i++)
        if (all->list[i].mapped) tn_file_unmap(&all->list[i].file);
    free(all->list);
}

/* One file; of a directory's, those with a NUL near the beginning are no text (Git tells them apart
 * the same way). */
static tn_status add_file(documents *all, const char *path, bool look)
{
    tn_file file;
    TN_TRY(tn_file_map(path, &file));
    bool binary = look && memchr(file.bytes, 0, file.size < BINARY_LOOK ? file.size : BINARY_LOOK);
    if (binary) tn_log_line(TN_LOG_INFO, "%s: left out of the corpus: it is no text", path);
    all->skipped += binary;
    tn_status status = TN_OK;
    if (file.size > 0 && !binary) status = add_document(all, path, file, true);
    if (file.size == 0 || binary || status != TN_OK) tn_file_unmap(&file);
    return status;
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static tn_status walk(documents *all, FTS *tree, const char *pattern)
{
    FTSENT *entry;
    for (errno = 0; (entry = fts_read(tree)) != NULL; errno = 0) {
        bool hidden = entry->fts_level > 0 && entry->fts_name[0] == '.';
        switch (entry->fts_info) {
        case FTS_D:
            if (hidden) fts_set(tree, entry, FTS_SKIP);
            break;
        case FTS_F:
            if (!hidden && (!pattern || tn_glob_match(pattern, entry->fts_name)))
                TN_TRY(add_file(all, entry->fts_path, true));
            break;
        case FTS_DNR:
        case FTS_ERR:
        case FTS_NS:
            return tn_fail(TN_IO, "cannot read %s: %s", entry->fts_path,
                           strerror(entry->fts_errno));
        default: break; /* links, devices, a directory left */
        }
    }
    return errno ? tn_fail(TN_IO, "cannot walk through a directory: %s", strerror(errno)) : TN_OK;
}

static tn_status add_directory(documents *all, const char *path, const char *pattern)
{
    char *own = strdup(path), *roots[] = {own, NULL};
    FTS *tree = own ? fts_open(roots, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR, by_name) : NULL;
    tn_status status = tree ? walk(all, tree, pattern)
                            : tn_fail(TN_IO, "cannot read %s: %s", path, strerror(errno));
    if (tree) fts_close(tree);
    free(own);
    if (status == TN_OK && all->count == 0)
        return tn_fail(TN_FORMAT, "%s: no text in this directory%s%s%s", path,
                       pattern ? " fits " : "", pattern ? pattern : "",
                       all->skipped ? " (all files have NUL bytes)" : "");
    return status;
}

/* ---- tokens -------------------------------------------------------------------------- */

static tn_status append(tn_corpus *corpus, int part, const int32_t *ids, size_t count)
{
    token_list *to = &corpus->part[part];
    if (count > to->capacity - to->count) {
        size_t wanted = to->capacity ? to->capacity : 1024, bytes;
        while (wanted - to->count < count)
            if (!tn_mul_size(wanted, 2, &wanted))
                return tn_fail(TN_MEMORY, "%s: the texts are larger than any memory", corpus->name);
        void *grown = tn_mul_size(wanted, (size_t)corpus->width, &bytes) ? realloc(to->data, bytes)
                                                                         : NULL;
        if (!grown)
            return tn_fail(TN_MEMORY, "%s: out of memory for %zu tokens", corpus->name,
                           to->count + count);
        to->data = grown;
        to->capacity = wanted;
    }
    uint16_t *narrow = (uint16_t *)to->data + to->count;
    uint32_t *wide = (uint32_t *)to->data + to->count;
    if (corpus->width == 2)
        for (size_t i = 0; i < count; i++) narrow[i] = (uint16_t)ids[i];
    else
        for (size_t i = 0; i < count; i++) wide[i] = (uint32_t)ids[i];
    to->count += count;
    return TN_OK;
}

/* Encodes one stretch of a document. Bytes are taken in pieces, so that a large file needs no
 * second copy of itself. */
static tn_status encode(tn_corpus *corpus, int part, const tn_tokenizer *tokenizer,
                        const uint8_t *text, size_t size, bool begin, bool end)
{
    enum { PIECE = 1 << 20 };
    bool bytes = tn_tokenizer_kind_of(tokenizer) == TN_TOKENIZER_BYTES;
    size_t at = 0;
    corpus->part[part].bytes += (int64_t)size;
    do {
        size_t length = bytes && size - at > PIECE ? PIECE : size - at;
        tn_encode_options options = {.begin = begin && at == 0, .end = end && at + length == size};
        int32_t *ids;
        int64_t count;
        TN_TRY(
            tn_tokenizer_encode(tokenizer, (const char *)text + at, length, options, &ids, &count));
        tn_status status = append(corpus, part, ids, (size_t)count);
        free(ids);
        if (status != TN_OK) return status;
        at += length;
    } while (at < size);
    return TN_OK;
}

/* Where in a document the held-out part begins: behind the line that `at` falls into. */
static size_t line_border(const tn_file *file, size_t at)
{
    if (at == 0 || file->bytes[at - 1] == '\n') return at;
    const uint8_t *end = memchr(file->bytes + at, '\n', file->size - at);
    return end ? (size_t)(end - file->bytes) + 1 : file->size;
}

static tn_status fill(tn_corpus *corpus, const documents *all, const tn_tokenizer *tokenizer,
                      double held_out)
{
    size_t cut = all->bytes - (size_t)((double)all->bytes * held_out), before = 0;
    bool begin = tn_tokenizer_wants_begin(tokenizer);
    for (size_t i = 0; i < all->count; i++) {
        const tn_file *file = &all->list[i].file;
        size_t border = cut >= before + file->size ? file->size
                        : cut <= before            ? 0
                                                   : line_border(file, cut - before);
        if (held_out <= 0) border = file->size;
        if (border > 0)
            TN_TRY(encode(corpus, TN_CORPUS_TRAIN, tokenizer, file->bytes, border, begin,
                          border == file->size));
        if (border < file->size)
            TN_TRY(encode(corpus, TN_CORPUS_HELD_OUT, tokenizer, file->bytes + border,
                          file->size - border, begin && border == 0, true));
        before += file->size;
    }
    corpus->documents = (int64_t)all->count;
    return TN_OK;
}

static tn_status check_sizes(const tn_corpus *corpus, const tn_corpus_options *o)
{
    int64_t least = o->least_tokens > 0 ? o->least_tokens : 2;
    for (int part = 0; part < PARTS; part++) {
        if (part == TN_CORPUS_HELD_OUT && o->held_out < 0) continue;
        if ((int64_t)corpus->part[part].count < least)
            return tn_fail(
                TN_FORMAT,
                "%s: the %s part of the text has %zu tokens (%" PRId64 " bytes), but %" PRId64
                " are needed: give more text or a shorter length%s",
                corpus->name, part_names[part], corpus->part[part].count, corpus->part[part].bytes,
                least, part == TN_CORPUS_HELD_OUT ? ", or hold out more" : "");
    }
    return TN_OK;
}

static tn_status make(documents *all, const char *name, const tn_tokenizer *tokenizer,
                      tn_corpus_options o, tn_corpus **out)
{
    if (!(o.held_out < 1))
        return tn_fail(TN_INVALID,
                       "a held-out fraction of %g leaves nothing to train on; it must be below 1",
                       o.held_out);
    if (o.held_out == 0) o.held_out = DEFAULT_HELD_OUT;
    if (all->bytes == 0) return tn_fail(TN_FORMAT, "%s: the text is empty", name);
    tn_corpus *corpus = calloc(1, sizeof *corpus);
    if (corpus) corpus->name = strdup(name);
    if (!corpus || !corpus->name) {
        free(corpus);
        return tn_fail(TN_MEMORY, "%s: out of memory", name);
    }
    corpus->width = tn_tokenizer_size(tokenizer) <= 65536 ? 2 : 4;
    tn_status status = fill(corpus, all, tokenizer, o.held_out);
    if (status == TN_OK) status = check_sizes(corpus, &o);
    if (status == TN_OK) *out = corpus;
    else tn_corpus_free(corpus);
    return status;
}

/* ---- public -------------------------------------------------------------------------- */

tn_status tn_corpus_open(const char *path, const tn_tokenizer *tokenizer, tn_corpus_options options,
                         tn_corpus **corpus)
{
    documents all = {0};
    *corpus = NULL;
    tn_status status = tn_directory_exists(path) ? add_directory(&all, path, options.pattern)
                                                 : add_file(&all, path, false);
    if (status == TN_OK) status = make(&all, path, tokenizer, options, corpus);
    free_documents(&all);
    return status;
}

tn_status tn_corpus_open_memory(const char *text, size_t size, const char *name,
                                const tn_tokenizer *tokenizer, tn_corpus_options options,
                                tn_corpus **corpus)
{
    documents all = {0};
    *corpus = NULL;
    tn_status status = add_document(&all, name, (tn_file){(const uint8_t *)text, size}, false);
    if (status == TN_OK) status = make(&all, name, tokenizer, options, corpus);
    free_documents(&all);
    return status;
}

void tn_corpus_free(tn_corpus *corpus)
{
    if (!corpus) return;
    for (int part = 0; part < PARTS; part++) free(corpus->part[part].data);
    free(corpus->name);
    free(corpus);
}

int64_t tn_corpus_documents(const tn_corpus *corpus) { return corpus->documents; }
int64_t tn_corpus_tokens(const tn_corpus *corpus, tn_corpus_part part)
{
    return (int64_t)corpus->part[part].count;
}
int64_t tn_corpus_bytes(const tn_corpus *corpus, tn_corpus_part part)
{
    return corpus->part[part].bytes;
}

static void copy_tokens(const tn_corpus *corpus, tn_corpus_part part, int64_t start, int64_t count,
                        int32_t *out)
{
    const uint16_t *narrow = (const uint16_t *)corpus->part[part].data +
                             (corpus->width == 2 ? start : 0);
    const uint32_t *wide = (const uint32_t *)corpus->part[part].data +
                           (corpus->width == 2 ? 0 : start);
    for (int64_t i = 0; i < count; i++)
        out[i] = corpus->width == 2 ? (int32_t)narrow[i] : (int32_t)wide[i];
}

tn_status tn_corpus_read(const tn_corpus *corpus, tn_corpus_part part, int64_t start, int64_t count,
                         int32_t *out)
{
    int64_t there = tn_corpus_tokens(corpus, part);
    if (start < 0 || count < 0 || count > there || start > there - count)
        return tn_fail(TN_INVALID,
                       "%s: %" PRId64 " tokens from %" PRId64
                       " on of the %s part are wanted, but it has %" PRId64,
                       corpus->name, count, start, part_names[part], there);
    if (count > 0) copy_tokens(corpus, part, start, count, out);
    return TN_OK;
}

tn_status tn_corpus_batch(const tn_corpus *corpus, tn_corpus_part part, uint64_t seed, int64_t step,
                          int64_t batch, int64_t length, int32_t *tokens, int32_t *targets)
{
    int64_t there = tn_corpus_tokens(corpus, part);
    if (batch < 1 || length < 1)
        return tn_fail(TN_INVALID,
                       "a batch of %" PRId64 " windows of %" PRId64
                       " tokens; both must be 1 or more",
                       batch, length);
    if (length >= there)
        return tn_fail(TN_INVALID,
                       "%s: windows of %" PRId64
                       " tokens and a target, but the %s part has only %" PRId64
                       " tokens: give more text or a shorter length",
                       corpus->name, length, part_names[part], there);
    uint64_t stream = tn_random_stream(part == TN_CORPUS_TRAIN ? "corpus.train"
                                                               : "corpus.held_out") +
                      (uint64_t)step;
    for (int64_t b = 0; b < batch; b++) {
        int64_t start = (int64_t)tn_random_below(seed, stream, (uint64_t)b,
                                                 (uint64_t)(there - length));
        if (tokens) copy_tokens(corpus, part, start, length, tokens + b * length);
        if (targets) copy_tokens(corpus, part, start + 1, length, targets + b * length);
    }
    return TN_OK;
}
