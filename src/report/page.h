/* HTML reports: one self-contained file with text, tables, plots and pictures. Everything given as text is escaped. */
#ifndef TN_REPORT_PAGE_H
#define TN_REPORT_PAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct tn_page tn_page;

/* NULL only when out of memory. Later failures stay in the page and come out at tn_page_save. */
tn_page *tn_page_create(const char *title);
void tn_page_free(tn_page *page);
void tn_page_section(tn_page *page, const char *title);
void tn_page_text(tn_page *page, const char *format, ...) TN_PRINTF(2, 3);
/* Preformatted, wrapped: samples of text, listings. */
void tn_page_sample(tn_page *page, const char *text);
/* rows*columns texts, row by row; the first row is the head. */
void tn_page_table(tn_page *page, const char *const *cell, int rows, int columns);

typedef struct tn_series {
    const char *name;
    const double *x, *y;
    int64_t count;
} tn_series;
typedef enum tn_plot_axes { TN_AXES_LINEAR, TN_AXES_LOGARITHMIC } tn_plot_axes;
/* Lines in one plot, drawn by gnuplot as SVG; a table of the last values where gnuplot is missing. Logarithmic: both axes, points
 * marked; what is not above 0 is left out. */
void tn_page_plot(tn_page *page, const char *title, const char *x_label, const char *y_label,
                  tn_plot_axes axes, const tn_series *series, int count);

/* `count` pictures [3, height, width] in [0, 1], one after the other, each with a caption (caption may be NULL), in a grid; `zoom` screen pixels a
 * pixel. */
void tn_page_pictures(tn_page *page, const float *pixels, int64_t count, int64_t height,
                      int64_t width, const char *const *caption, int zoom);

/* Writes the page atomically. */
tn_status tn_page_save(const tn_page *page, const char *path);

#endif
