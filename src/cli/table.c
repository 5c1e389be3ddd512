#include "cli/table.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static void push(cli_table *table, char *text)
{
    if (table->count == table->capacity) {
        int capacity = table->capacity ? 2 * table->capacity : 64;
        char **cell = realloc(table->cell, (size_t)capacity * sizeof *cell);
        if (!cell) {
            free(text);
            return;
        }
        table->cell = cell;
        table->capacity = capacity;
    }
    table->cell[table->count++] = text;
    table->in_row++;
}

void cli_table_add(cli_table *table, const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (length >= 0) push(table, text);
}

void cli_table_end(cli_table *table)
{
    if (!table->columns) table->columns = table->in_row;
    while (table->in_row < table->columns) {
        char *empty = calloc(1, 1);
        if (!empty) break;
        push(table, empty);
    }
    table->in_row = 0;
}

static int rows_of(const cli_table *table)
{
    return table->columns ? table->count / table->columns : 0;
}

static bool is_number(const char *text)
{
    if (!*text) return true;
    if (*text == '-' || *text == '+') text++;
    return isdigit((unsigned char)*text) || !strcmp(text, "inf");
}

/* Characters of UTF-8 text, each as wide as one. */
static int width_of(const char *text)
{
    int width = 0;
    for (; *text; text++) width += (*text & 0xc0) != 0x80;
    return width;
}

void cli_table_print(const cli_table *table, FILE *out)
{
    int rows = rows_of(table), width[CLI_TABLE_MOST_COLUMNS] = {0};
    bool number[CLI_TABLE_MOST_COLUMNS];
    for (int j = 0; j < table->columns && j < CLI_TABLE_MOST_COLUMNS; j++) {
        number[j] = true;
        for (int i = 0; i < rows; i++) {
            const char *text = table->cell[i * table->columns + j];
            if (width_of(text) > width[j]) width[j] = width_of(text);
            if (i && !is_number(text)) number[j] = false;
        }
    }
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < table->columns && j < CLI_TABLE_MOST_COLUMNS; j++) {
            const char *text = table->cell[i * table->columns + j];
            int space = width[j] - width_of(text);
            bool last = j == table->columns - 1;
            if (number[j]) fprintf(out, "%*s%s", space, "", text);
            else fprintf(out, "%s%*s", text, last ? 0 : space, "");
            fputs(last ? "\n" : "  ", out);
        }
        if (i) continue;
        for (int j = 0; j < table->columns && j < CLI_TABLE_MOST_COLUMNS; j++) {
            for (int k = 0; k < width[j]; k++) fputc('-', out);
            fputs(j == table->columns - 1 ? "\n" : "  ", out);
        }
    }
}

void cli_table_csv(const cli_table *table, FILE *out)
{
    int rows = rows_of(table);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < table->columns; j++) {
            const char *text = table->cell[i * table->columns + j];
            bool quoted = strpbrk(text, ",\"\n\r") != NULL;
            if (quoted) fputc('"', out);
            for (; *text; text++) {
                if (*text == '"') fputc('"', out);
                fputc(*text, out);
            }
            if (quoted) fputc('"', out);
            fputc(j == table->columns - 1 ? '\n' : ',', out);
        }
}

void cli_table_page(const cli_table *table, tn_page *page)
{
    tn_page_table(page, (const char *const *)table->cell, rows_of(table), table->columns);
}

void cli_table_free(cli_table *table)
{
    for (int i = 0; i < table->count; i++) free(table->cell[i]);
    free(table->cell);
    *table = (cli_table){0};
}
