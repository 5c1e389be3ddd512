/* Arenas: memory for things that share a lifetime, freed all at once. Not thread-safe. */
#ifndef TN_BASE_ARENA_H
#define TN_BASE_ARENA_H

#include <stdarg.h>
#include <stddef.h>

#include "base/status.h"

typedef struct tn_arena {
    struct tn_arena_block *head; /* newest block */
    size_t used;                 /* bytes handed out, for statistics */
} tn_arena;

/* A zeroed tn_arena is an empty arena. */

/* `size` zeroed bytes aligned to 16. Never returns NULL for sizes that fit in memory; NULL (and a message)
 * when the system has no more. `size` 0 gives a valid pointer. */
void *tn_arena_alloc(tn_arena *arena, size_t size);
/* count*size with overflow check; NULL and a message on overflow. */
void *tn_arena_array(tn_arena *arena, size_t count, size_t size);
void *tn_arena_copy(tn_arena *arena, const void *bytes, size_t size);
char *tn_arena_string(tn_arena *arena, const char *text);
char *tn_arena_format(tn_arena *arena, const char *format, ...) TN_PRINTF(2, 3);
char *tn_arena_vformat(tn_arena *arena, const char *format, va_list arguments);
void tn_arena_free(
    tn_arena *arena); /* frees everything; the arena is empty again and may be used on */

#endif
