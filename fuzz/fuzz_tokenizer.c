/* Any bytes as a tokenizer, and then a text through it. The first two bytes say how many of the
 * last ones are the text, the third which options. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tenon/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ids are in the vocabulary and decode; together and one by one they give the same text. */
static void check_text(const tn_tokenizer *t, const char *text, size_t size, unsigned options)
{
    int32_t *ids;
    int64_t count;
    char *whole;
    size_t length, at = 0;
    tn_encode_options o = {
        .begin = options & 1, .end = options & 2, .special = options & 4, .no_prefix = options & 8};
    if (tn_tokenizer_encode(t, text, size, o, &ids, &count) != TN_OK) return;
    if (tn_tokenizer_decode_all(t, ids, count, &whole, &length) != TN_OK) __builtin_trap();
    for (int64_t i = 0; i < count; i++) {
        const char *bytes;
        size_t part;
        if (tn_tokenizer_decode(t, i ? ids[i - 1] : -1, ids[i], &bytes, &part) != TN_OK ||
            part > length - at || memcmp(whole + at, bytes, part) != 0)
            __builtin_trap();
        at += part;
    }
    if (at != length) __builtin_trap();
    bool lossless = tn_tokenizer_kind_of(t) == TN_TOKENIZER_BYTE_BPE && !(options & 4);
    if (lossless && (length != size || memcmp(whole, text, size) != 0)) __builtin_trap();
    free(ids);
    free(whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3) return 0;
    size_t text = (size_t)data[0] | (size_t)data[1] << 8, file = size - 3;
    if (text > file) text = file;
    file -= text;
    tn_tokenizer *t;
    if (tn_tokenizer_open_memory(data + 3, file, "fuzz.tokenizer", &t) != TN_OK) {
        if (!strstr(tn_message(), "fuzz.tokenizer")) __builtin_trap();
        return 0;
    }
    check_text(t, (const char *)data + 3 + file, text, data[2]);
    tn_tokenizer_free(t);
    return 0;
}
