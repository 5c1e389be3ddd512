/* Growing text; edit distance; glob patterns. */
#include "base/string.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

/* Room for `more` characters and the NUL. */
static bool reserve(tn_string *s, size_t more)
{
    size_t need;
    if (s->failed) return false;
    if (!tn_add_size(s->length, more, &need) || !tn_add_size(need, 1, &need)) {
        s->failed = true;
        return false;
    }
    if (need <= s->capacity) return true;
    size_t capacity = s->capacity < 64 ? 64 : s->capacity;
    while (capacity < need && capacity <= SIZE_MAX / 2) capacity *= 2;
    if (capacity < need) capacity = need;
    char *text = realloc(s->text, capacity);
    if (!text) {
        s->failed = true;
        return false;
    }
    s->text = text;
    s->capacity = capacity;
    return true;
}

void tn_string_add_bytes(tn_string *s, const char *bytes, size_t size)
{
    if (!reserve(s, size)) return;
    if (size) memcpy(s->text + s->length, bytes, size);
    s->length += size;
    s->text[s->length] = '\0';
}

void tn_string_add(tn_string *s, const char *text) { tn_string_add_bytes(s, text, strlen(text)); }

void tn_string_add_char(tn_string *s, char c) { tn_string_add_bytes(s, &c, 1); }

void tn_string_vformat(tn_string *s, const char *format, va_list arguments)
{
    va_list again;
    va_copy(again, arguments);
    int n = vsnprintf(NULL, 0, format, arguments);
    if (n < 0) s->failed = true;
    if (n >= 0 && reserve(s, (size_t)n)) {
        vsnprintf(s->text + s->length, (size_t)n + 1, format, again);
        s->length += (size_t)n;
    }
    va_end(again);
}

void tn_string_format(tn_string *s, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    tn_string_vformat(s, format, arguments);
    va_end(arguments);
}

void tn_string_clear(tn_string *s)
{
    s->length = 0;
    if (s->text) s->text[0] = '\0';
}

tn_status tn_string_status(const tn_string *s)
{
    return s->failed
               ? tn_fail(TN_MEMORY, "out of memory for a text of %zu bytes and more", s->length)
               : TN_OK;
}

const char *tn_string_text(const tn_string *s) { return s->text ? s->text : ""; }

char *tn_string_take(tn_string *s)
{
    if (!s->text) reserve(s, 0);
    char *text = NULL;
    if (s->failed || !s->text) {
        free(s->text);
    } else {
        text = s->text;
        text[s->length] = '\0';
    }
    *s = (tn_string){0};
    return text;
}

void tn_string_free(tn_string *s)
{
    free(s->text);
    *s = (tn_string){0};
}

/* ---- words -------------------------------------------------------------------------- */

static int least(int a, int b) { return a < b ? a : b; }

int tn_edit_distance(const char *a, const char *b)
{
    enum { LONGEST = 255 };
    int m = (int)strnlen(a, LONGEST), n = (int)strnlen(b, LONGEST);
    int row[3][LONGEST + 1]; /* distances of a's first i-2, i-1, i letters to b's first j */
    int *before = row[0], *last = row[1], *now = row[2];
    for (int j = 0; j <= n; j++) last[j] = j;
    for (int i = 1; i <= m; i++) {
        now[0] = i;
        for (int j = 1; j <= n; j++) {
            int change = last[j - 1] + (a[i - 1] != b[j - 1]);
            now[j] = least(change, least(last[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                now[j] = least(now[j], before[j - 2] + 1);
        }
        int *free_row = before;
        before = last, last = now, now = free_row;
    }
    return last[n];
}

const char *tn_closest(const char *word, const char *const *candidate, size_t count)
{
    const char *best = NULL;
    size_t length = strlen(word);
    int best_distance = 0;
    for (size_t i = 0; i < count; i++) {
        size_t other = strlen(candidate[i]);
        size_t longer = length > other ? length : other, shorter = length > other ? other : length;
        int distance = tn_edit_distance(word, candidate[i]);
        bool near_enough = distance <= (int)(longer < 3 ? 1 : (longer + 1) / 3) &&
                           distance < (int)longer;
        bool begins = shorter >= 3 && strncmp(word, candidate[i], shorter) == 0;
        if ((near_enough || begins) && (!best || distance < best_distance)) {
            best = candidate[i];
            best_distance = distance;
        }
    }
    return best;
}

/* Goes back only to the last star: what an earlier star took never needs to change. */
bool tn_glob_match(const char *pattern, const char *text)
{
    const char *star = NULL, *retry = NULL;
    while (*text) {
        if (*pattern == '*') {
            star = ++pattern;
            retry = text;
        } else if (*pattern == '?' || *pattern == *text) {
            pattern++, text++;
        } else if (star) {
            pattern = star;
            text = ++retry;
        } else {
            return false;
        }
    }
    while (*pattern == '*') pattern++;
    return *pattern == '\0';
}
