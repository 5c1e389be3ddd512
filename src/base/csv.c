#include "base/csv.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

typedef struct parser {
    tn_csv *csv;
    char *at, *end;
    int line;
    int cells, cell_capacity, lines, line_capacity;
} parser;

/* Room for one more of `count` items. */
static bool grow(void **array, int count, int *capacity, size_t size)
{
    if (count < *capacity) return true;
    if (count > INT_MAX / 2) return false;
    int more = *capacity ? 2 * *capacity : 64;
    void *new = realloc(*array, (size_t)more * size);
    if (!new) return false;
    *array = new;
    *capacity = more;
    return true;
}

static bool push_cell(parser *p, const char *text)
{
    if (!grow((void **)&p->csv->cell, p->cells, &p->cell_capacity, sizeof *p->csv->cell))
        return false;
    p->csv->cell[p->cells++] = text;
    return true;
}

/* Reads one cell in place; *last: it ended its line. */
static tn_status read_cell(parser *p, bool *last)
{
    char *begin = p->at, *to = p->at;
    bool quoted = p->at < p->end && *p->at == '"';
    if (quoted) {
        int first = p->line;
        for (p->at++;; p->at++) {
            if (p->at == p->end)
                return tn_fail(TN_FORMAT, "%s:%d: a quote is opened and not closed", p->csv->path,
                               first);
            if (*p->at == '"' && (p->at + 1 == p->end || p->at[1] != '"')) break;
            if (*p->at == '"') p->at++;
            p->line += *p->at == '\n';
            *to++ = *p->at;
        }
        p->at++;
        if (p->at < p->end && *p->at != ',' && *p->at != '\n' && *p->at != '\r')
            return tn_fail(TN_FORMAT, "%s:%d: text behind a closing quote", p->csv->path, p->line);
    } else {
        while (p->at < p->end && *p->at != ',' && *p->at != '\n') p->at++;
        to = p->at;
        if (to > begin && to[-1] == '\r') to--;
    }
    if (p->at < p->end && *p->at == '\r') p->at++;
    *last = p->at >= p->end || *p->at == '\n';
    p->line += p->at < p->end && *p->at == '\n';
    if (p->at < p->end) p->at++;
    *to = 0;
    return push_cell(p, begin) ? TN_OK : tn_fail(TN_MEMORY, "%s: out of memory", p->csv->path);
}

static void skip_empty_lines(parser *p)
{
    while (p->at < p->end && (*p->at == '\n' || (*p->at == '\r' && p->at[1] == '\n')))
        p->line += *p->at++ == '\n';
}

static tn_status read_row(parser *p)
{
    int before = p->cells, line = p->line;
    bool last = false;
    while (!last) TN_TRY(read_cell(p, &last));
    int count = p->cells - before;
    if (p->lines == 0) p->csv->columns = count;
    if (count != p->csv->columns)
        return tn_fail(TN_FORMAT, "%s:%d: %d cells, but the header has %d", p->csv->path, line,
                       count, p->csv->columns);
    if (!grow((void **)&p->csv->line, p->lines, &p->line_capacity, sizeof *p->csv->line))
        return tn_fail(TN_MEMORY, "%s: out of memory", p->csv->path);
    p->csv->line[p->lines++] = line;
    return TN_OK;
}

static tn_status check_header(const tn_csv *csv)
{
    for (int i = 0; i < csv->columns; i++)
        for (int j = 0; j < i; j++)
            if (!strcmp(csv->cell[i], csv->cell[j]))
                return tn_fail(TN_FORMAT, "%s:%d: column \"%s\" stands twice in the header",
                               csv->path, csv->line[0], csv->cell[i]);
    return TN_OK;
}

static tn_status parse(parser *p, size_t size)
{
    tn_csv *csv = p->csv;
    if (memchr(csv->text, 0, size))
        return tn_fail(TN_FORMAT, "%s: a NUL byte; this is not text", csv->path);
    if (size >= 3 && !memcmp(csv->text, "\xef\xbb\xbf", 3)) p->at += 3;
    for (skip_empty_lines(p); p->at < p->end; skip_empty_lines(p)) TN_TRY(read_row(p));
    if (p->lines == 0)
        return tn_fail(TN_FORMAT, "%s: empty; a line with the columns' names is expected",
                       csv->path);
    csv->rows = p->lines - 1;
    return check_header(csv);
}

tn_status tn_csv_parse(const char *name, const char *text, size_t size, tn_csv *csv)
{
    *csv = (tn_csv){.path = strdup(name), .text = malloc(size + 2)};
    tn_status status = TN_OK;
    if (!csv->path || !csv->text) status = tn_fail(TN_MEMORY, "%s: out of memory", name);
    if (status == TN_OK) {
        memcpy(csv->text, text, size);
        csv->text[size] = csv->text[size + 1] = 0;
        parser p = {.csv = csv, .at = csv->text, .end = csv->text + size, .line = 1};
        status = parse(&p, size);
    }
    if (status != TN_OK) tn_csv_free(csv);
    return status;
}

tn_status tn_csv_load(const char *path, size_t limit, tn_csv *csv)
{
    char *text = NULL;
    size_t size = 0;
    *csv = (tn_csv){0};
    TN_TRY(tn_file_read(path, limit, &text, &size));
    tn_status status = tn_csv_parse(path, text, size, csv);
    free(text);
    return status;
}

void tn_csv_free(tn_csv *csv)
{
    free(csv->path);
    free(csv->text);
    free(csv->cell);
    free(csv->line);
    *csv = (tn_csv){0};
}

int tn_csv_column(const tn_csv *csv, const char *name)
{
    for (int i = 0; i < csv->columns; i++)
        if (!strcmp(csv->cell[i], name)) return i;
    return -1;
}

tn_status tn_csv_text(const tn_csv *csv, int row, const char *column, const char **out)
{
    int i = tn_csv_column(csv, column);
    if (i < 0)
        return tn_fail(TN_FORMAT, "%s:%d: column \"%s\" is missing", csv->path, csv->line[0],
                       column);
    *out = csv->cell[(row + 1) * csv->columns + i];
    return TN_OK;
}

tn_status tn_csv_number(const tn_csv *csv, int row, const char *column, double low, double high,
                        double *out)
{
    const char *text;
    TN_TRY(tn_csv_text(csv, row, column, &text));
    char *end;
    double x = strtod(text, &end);
    if (end == text || *end || !isfinite(x) || x < low || x > high)
        return tn_fail(TN_FORMAT, "%s:%d: column \"%s\" must be a number from %g to %g, not \"%s\"",
                       csv->path, csv->line[row + 1], column, low, high, text);
    *out = x;
    return TN_OK;
}
