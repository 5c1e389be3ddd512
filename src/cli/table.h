/* Tables that grow cell by cell and come out aligned for eyes, or as CSV. */
#ifndef TN_CLI_TABLE_H
#define TN_CLI_TABLE_H

#include <stdbool.h>
#include <stdio.h>

#include "base/status.h"
#include "report/page.h"

enum { CLI_TABLE_MOST_COLUMNS = 24 };

/* A zeroed table is empty and ready; its first row is the head. Out of memory is sticky and comes
 * out as an empty table. */
typedef struct cli_table {
    char **cell;
    int count, capacity, columns; /* columns: cells of the first row */
    int in_row;                   /* cells of the present row */
} cli_table;

/* Adds a cell to the present row; the head decides how many a row has. */
void cli_table_add(cli_table *table, const char *format, ...) TN_PRINTF(2, 3);
/* Ends the row: missing cells are empty. */
void cli_table_end(cli_table *table);
/* Numbers to the right, words to the left. */
void cli_table_print(const cli_table *table, FILE *out);
void cli_table_csv(const cli_table *table, FILE *out);
void cli_table_page(const cli_table *table, tn_page *page);
void cli_table_free(cli_table *table);

#endif
