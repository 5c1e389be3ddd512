/* Tables of text with a header line (RFC 4180): commas, quotes doubled inside quotes, lines ended by
 * LF or CRLF. Messages read
 *     points.csv:7: column "batch" must be a number from 1 to 1e9, not "many" */
#ifndef TN_BASE_CSV_H
#define TN_BASE_CSV_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct tn_csv {
    char *path, *text;
    const char **cell; /* [rows + 1][columns]; row 0 is the header */
    int *line;         /* by row, from 1 */
    int rows, columns; /* without the header */
} tn_csv;

/* Parses `size` bytes (copied) called `name` in messages. TN_FORMAT: no header, a header name twice,
 * a row with more or fewer cells than the header, a quote that is not closed, a NUL byte. Empty
 * lines are skipped. */
tn_status tn_csv_parse(const char *name, const char *text, size_t size, tn_csv *csv);
tn_status tn_csv_load(const char *path, size_t limit, tn_csv *csv);
/* A zeroed or freed table is left alone. */
void tn_csv_free(tn_csv *csv);

/* The column's number, or -1. */
int tn_csv_column(const tn_csv *csv, const char *name);
/* Cell of row 0 .. rows-1; TN_FORMAT when the column is missing. The text belongs to the table. */
tn_status tn_csv_text(const tn_csv *csv, int row, const char *column, const char **out);
/* A finite number in [low, high]. */
tn_status tn_csv_number(const tn_csv *csv, int row, const char *column, double low, double high,
                        double *out);

#endif
