/* Arenas: a list of blocks, each a bump allocator. */
#include "base/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

#if defined(__SANITIZE_ADDRESS__)
#define POISON 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POISON 1
#endif
#endif

/* Under AddressSanitizer everything not handed out is poisoned, and a gap follows every piece, so
 * that overruns inside a block are found as they are with malloc. */
#ifdef POISON
#include <sanitizer/asan_interface.h>
enum { GAP = 16 };
static void poison(void *p, size_t size) { __asan_poison_memory_region(p, size); }
static void unpoison(void *p, size_t size) { __asan_unpoison_memory_region(p, size); }
#else
enum { GAP = 0 };
static void poison(void *p, size_t size) { (void)p, (void)size; }
static void unpoison(void *p, size_t size) { (void)p, (void)size; }
#endif

enum { ALIGNMENT = 16, FIRST_BLOCK = 4096, LARGEST_BLOCK = 1 << 20 };

typedef struct tn_arena_block {
    struct tn_arena_block *next;
    size_t capacity, used;
    size_t unused; /* keeps bytes[] aligned to 16 */
    unsigned char bytes[];
} block;

_Static_assert(sizeof(block) % ALIGNMENT == 0, "a block's bytes start aligned");

static block *block_create(size_t capacity)
{
    size_t total;
    block *b = tn_add_size(capacity, sizeof(block), &total) ? calloc(1, total) : NULL;
    if (!b) {
        tn_fail(TN_MEMORY, "out of memory: %zu bytes wanted", capacity);
        return NULL;
    }
    b->capacity = capacity;
    poison(b->bytes, capacity);
    return b;
}

void *tn_arena_alloc(tn_arena *arena, size_t size)
{
    size_t need;
    if (!tn_add_size(size, ALIGNMENT - 1 + GAP, &need)) {
        tn_fail(TN_MEMORY, "out of memory: %zu bytes wanted", size);
        return NULL;
    }
    need &= ~(size_t)(ALIGNMENT - 1);
    if (need == 0) need = ALIGNMENT; /* distinct pointers for empty pieces */

    block *b = arena->head;
    if (!b || b->capacity - b->used < need) {
        size_t next = b ? b->capacity * 2 : FIRST_BLOCK;
        if (next > LARGEST_BLOCK) next = LARGEST_BLOCK;
        bool large = need > next / 2;
        block *fresh = block_create(large ? need : next);
        if (!fresh) return NULL;
        if (large && b) { /* a block of its own behind the head, whose rest stays in use */
            fresh->next = b->next;
            b->next = fresh;
        } else {
            fresh->next = b;
            arena->head = fresh;
        }
        b = fresh;
    }
    void *p = b->bytes + b->used;
    b->used += need;
    arena->used += size;
    unpoison(p, size);
    return p;
}

void *tn_arena_array(tn_arena *arena, size_t count, size_t size)
{
    size_t total;
    if (!tn_mul_size(count, size, &total)) {
        tn_fail(TN_MEMORY, "out of memory: %zu elements of %zu bytes wanted", count, size);
        return NULL;
    }
    return tn_arena_alloc(arena, total);
}

void *tn_arena_copy(tn_arena *arena, const void *bytes, size_t size)
{
    void *p = tn_arena_alloc(arena, size);
    if (p && size) memcpy(p, bytes, size);
    return p;
}

char *tn_arena_string(tn_arena *arena, const char *text)
{
    return tn_arena_copy(arena, text, strlen(text) + 1);
}

char *tn_arena_vformat(tn_arena *arena, const char *format, va_list arguments)
{
    va_list again;
    va_copy(again, arguments);
    int n = vsnprintf(NULL, 0, format, arguments);
    char *p = n < 0 ? NULL : tn_arena_alloc(arena, (size_t)n + 1);
    if (p) vsnprintf(p, (size_t)n + 1, format, again);
    va_end(again);
    if (n < 0) tn_fail(TN_INVALID, "text cannot be formatted: %s", format);
    return p;
}

char *tn_arena_format(tn_arena *arena, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *p = tn_arena_vformat(arena, format, arguments);
    va_end(arguments);
    return p;
}

void tn_arena_free(tn_arena *arena)
{
    for (block *b = arena->head, *next; b; b = next) {
        next = b->next;
        unpoison(b->bytes, b->capacity);
        free(b);
    }
    *arena = (tn_arena){0};
}
