/* For tests of readers: files made byte by byte, temporary directories, and messages looked at. */
#ifndef TESTS_DATA_BYTE_BUILDER_H
#define TESTS_DATA_BYTE_BUILDER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tenon/status.h"

/* ---- bytes --------------------------------------------------------------------------- */

typedef struct builder {
    uint8_t *bytes;
    size_t size, capacity;
} builder;

static inline void put(builder *b, const void *bytes, size_t size)
{
    if (size > b->capacity - b->size) {
        b->capacity = (b->size + size) * 2;
        b->bytes = realloc(b->bytes, b->capacity);
        assert_non_null(b->bytes);
    }
    if (size > 0) memcpy(b->bytes + b->size, bytes, size);
    b->size += size;
}

static inline void put_u8(builder *b, uint8_t x) { put(b, &x, sizeof x); }
static inline void put_u16(builder *b, uint16_t x) { put(b, &x, sizeof x); }
static inline void put_u32(builder *b, uint32_t x) { put(b, &x, sizeof x); }
static inline void put_i32(builder *b, int32_t x) { put(b, &x, sizeof x); }
static inline void put_u64(builder *b, uint64_t x) { put(b, &x, sizeof x); }
static inline void put_f32(builder *b, float x) { put(b, &x, sizeof x); }
static inline void put_text(builder *b, const char *text) { put(b, text, strlen(text)); }

static inline void put_zeros(builder *b, size_t count)
{
    for (size_t i = 0; i < count; i++) put_u8(b, 0);
}

/* The same bytes in a block of their very size, so that the sanitizer sees a read behind the end;
 * free it. */
static inline uint8_t *exact(const builder *b, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    if (size > 0) memcpy(copy, b->bytes, size);
    return copy;
}

static inline void builder_free(builder *b)
{
    free(b->bytes);
    *b = (builder){0};
}

/* ---- files --------------------------------------------------------------------------- */

/* A directory of this test's own; free the name. */
static inline char *make_directory(void)
{
    const char *base = getenv("TMPDIR");
    char *path = malloc(256);
    assert_non_null(path);
    snprintf(path, 256, "%s/tenon-test-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(path));
    return path;
}

static inline void remove_directory(char *path)
{
    char command[512];
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    assert_int_equal(system(command), 0);
    free(path);
}

/* directory/name; valid until four more calls. */
static inline const char *join(const char *directory, const char *name)
{
    static char text[4][512];
    static int next;
    next = (next + 1) % 4;
    snprintf(text[next], sizeof text[next], "%s/%s", directory, name);
    return text[next];
}

static inline void write_file(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* A file of the shared test data; the test is skipped, loudly, if it is not there. Valid as join's
 * text. */
static inline const char *shared_data(const char *name)
{
    const char *base = getenv("TENON_DATA");
    const char *path = join(base ? base : "../shared/data", name);
    if (access(path, R_OK) == 0) return path;
    print_message("SKIPPED: %s is not here (set TENON_DATA)\n", path);
    skip();
    return NULL;
}

/* ---- messages ------------------------------------------------------------------------ */

#define assert_ok(call)                                                                            \
    do {                                                                                           \
        if ((call) != TN_OK) fail_msg("%s", tn_message());                                         \
    } while (0)

/* The call fails with this status, and its message contains this text. */
#define assert_fails(call, wanted, text)                                                           \
    do {                                                                                           \
        tn_status is_ = (call);                                                                    \
        if (is_ != (wanted))                                                                       \
            fail_msg("status %s instead of %s: %s", tn_status_name(is_), tn_status_name(wanted),   \
                     is_ == TN_OK ? "" : tn_message());                                            \
        if (!strstr(tn_message(), text))                                                           \
            fail_msg("expected \"%s\", got \"%s\"", text, tn_message());                           \
    } while (0)

#endif
