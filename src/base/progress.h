/* A progress line for long work: how far, how fast, how long still, and what the caller adds.
 *
 *     train  [=========>          ]  46%  4600/10000  812 step/s  0:07 min left  loss 1.234
 *
 * Drawn on a terminal only; otherwise every call does nothing. The library makes none by itself: a
 * command passes one down. Not thread-safe. */
#ifndef TN_BASE_PROGRESS_H
#define TN_BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

typedef struct tn_progress tn_progress;

/* Begins a line on stderr if that is a terminal. `total` 0: unknown. `unit`: what is counted
 * ("step", "token"). NULL when there is no terminal or no memory: the other functions accept it. */
tn_progress *tn_progress_begin(const char *title, const char *unit, int64_t total);
/* The same on any stream, terminal or not, `columns` wide: for tests. */
tn_progress *tn_progress_begin_on(FILE *out, int columns, const char *title, const char *unit,
                                  int64_t total);
/* `done` items of the total are done. Draws at most ten times a second. */
void tn_progress_update(tn_progress *progress, int64_t done);
/* Text behind the numbers, such as the present loss. */
void tn_progress_note(tn_progress *progress, const char *format, ...) TN_PRINTF(2, 3);
/* Wipes the line, so that something else can be printed; the next update draws it again. */
void tn_progress_clear(tn_progress *progress);
/* Wipes the line and frees. */
void tn_progress_end(tn_progress *progress);

/* The line for a moment, without control characters: what is drawn. `text` gets at most `columns`
 * bytes of it and a NUL (room: columns + 1). `rate`: items a second, or 0 for unknown. */
void tn_progress_text(char *text, int columns, const char *title, const char *unit, int64_t done,
                      int64_t total, double rate, const char *note);

#endif
