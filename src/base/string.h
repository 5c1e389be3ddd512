/* Growing text, and words compared: "did you mean" and name patterns. */
#ifndef TN_BASE_STRING_H
#define TN_BASE_STRING_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

/* A growing text, always closed by a NUL. A zeroed one is empty and ready. Out of memory is sticky:
 * later additions do nothing, and tn_string_status tells. */
typedef struct tn_string {
    char *text; /* NULL while nothing was added: use tn_string_text */
    size_t length, capacity;
    bool failed;
} tn_string;

void tn_string_add(tn_string *string, const char *text);
void tn_string_add_bytes(tn_string *string, const char *bytes, size_t size);
void tn_string_add_char(tn_string *string, char c);
void tn_string_format(tn_string *string, const char *format, ...) TN_PRINTF(2, 3);
void tn_string_vformat(tn_string *string, const char *format, va_list arguments);
/* Empty again; the memory is kept. */
void tn_string_clear(tn_string *string);
/* TN_OK, or TN_MEMORY with its message. */
tn_status tn_string_status(const tn_string *string);
/* The text so far, never NULL; valid until the next addition. */
const char *tn_string_text(const tn_string *string);
/* Hands the text to the caller (free with free()) and leaves the string empty; NULL if it failed.
 */
char *tn_string_take(tn_string *string);
void tn_string_free(tn_string *string);

/* Insertions, deletions, substitutions and swaps of neighbours that turn one word into the other.
 * Cost O(|a| |b|); words beyond 255 bytes are cut there.  Source: optimal string alignment
 * distance. */
int tn_edit_distance(const char *a, const char *b);
/* The candidate nearest to `word` if it is near enough to be meant (at most a third of the letters
 * wrong, or one begins with the other), else NULL. The first wins a tie. */
const char *tn_closest(const char *word, const char *const *candidate, size_t count);

/* Whether `text` fits `pattern`: * stands for any run of characters (dots and slashes too), ? for
 * any one, the rest for itself. Cost O(|pattern| |text|) at worst. */
bool tn_glob_match(const char *pattern, const char *text);

#endif
