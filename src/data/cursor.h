/* Walking over foreign bytes that may end anywhere: every step is checked against what is left. All
 * formats read here are little-endian, and so are the machines this library runs on. */
#ifndef TN_DATA_CURSOR_H
#define TN_DATA_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "weights and tokenizers are read in place and need a little-endian machine"
#endif

typedef struct tn_cursor {
    const uint8_t *bytes;
    size_t size;
    size_t at; /* <= size */
} tn_cursor;

static inline size_t tn_cursor_left(const tn_cursor *cursor) { return cursor->size - cursor->at; }

/* The next `size` bytes, passed over; NULL if there are not so many. */
static inline const uint8_t *tn_cursor_take(tn_cursor *cursor, size_t size)
{
    if (size > tn_cursor_left(cursor)) return NULL;
    const uint8_t *bytes = cursor->bytes + cursor->at;
    cursor->at += size;
    return bytes;
}

/* Copies the next `size` bytes; false, and nothing moves, if there are not so many. */
static inline bool tn_cursor_read(tn_cursor *cursor, void *out, size_t size)
{
    const uint8_t *bytes = tn_cursor_take(cursor, size);
    if (bytes) memcpy(out, bytes, size);
    return bytes != NULL;
}

#endif
