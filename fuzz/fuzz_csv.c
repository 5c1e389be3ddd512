/* Any bytes as a table: parsed, and every cell asked for. */
#include <stddef.h>
#include <stdint.h>

#include "base/csv.h"
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tn_csv csv;
    if (tn_csv_parse("fuzz.csv", (const char *)data, size, &csv) != TN_OK) return 0;
    for (int row = 0; row < csv.rows; row++)
        for (int i = 0; i < csv.columns && i < 8; i++) {
            const char *text;
            double x;
            if (tn_csv_text(&csv, row, csv.cell[i], &text) != TN_OK) __builtin_trap();
            tn_csv_number(&csv, row, csv.cell[i], -1e9, 1e9, &x);
        }
    tn_csv_free(&csv);
    return 0;
}
