/* HTML reports. */
#include "report/page.h"

#include <math.h>
#include <png.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

struct tn_page {
    char *text;
    size_t size;
    FILE *out; /* grows `text` */
    tn_status status;
};

static const char head[] =
    "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><meta name=\"viewport\" "
    "content=\"width=device-width\">\n"
    "<style>\nbody{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:60rem;margin:2rem "
    "auto;padding:0 1rem}\n"
    "h1{font-size:1.7rem}h2{font-size:1.25rem;margin-top:2.5rem;border-bottom:1px solid #ccc}\n"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .75rem;border-bottom:1px "
    "solid #ddd;text-align:left}\n"
    "th{background:#f4f4f4}pre{background:#f7f7f5;padding:.75rem;white-space:pre-wrap;overflow-"
    "wrap:anywhere;font-size:.85rem}\n"
    "figure{display:inline-block;margin:.3rem;text-align:center}figcaption{font-size:.75rem;color:#"
    "555;max-width:9rem}\n"
    "img{image-rendering:pixelated;display:block}svg{max-width:100%;height:auto}\n</style>\n";

static void put_escaped(tn_page *page, const char *text)
{
    for (; *text; text++) switch (*text) {
        case '<': fputs("&lt;", page->out); break;
        case '>': fputs("&gt;", page->out); break;
        case '&': fputs("&amp;", page->out); break;
        case '"': fputs("&quot;", page->out); break;
        default: fputc(*text, page->out); break;
        }
}

tn_page *tn_page_create(const char *title)
{
    tn_page *page = calloc(1, sizeof *page);
    if (page) page->out = open_memstream(&page->text, &page->size);
    if (!page || !page->out) {
        free(page);
        tn_fail(TN_MEMORY, "out of memory for a report");
        return NULL;
    }
    fputs(head, page->out);
    fputs("<title>", page->out);
    put_escaped(page, title);
    fputs("</title></head>\n<body>\n<h1>", page->out);
    put_escaped(page, title);
    fputs("</h1>\n", page->out);
    return page;
}

void tn_page_free(tn_page *page)
{
    if (!page) return;
    fclose(page->out);
    free(page->text);
    free(page);
}

void tn_page_section(tn_page *page, const char *title)
{
    fputs("<h2>", page->out);
    put_escaped(page, title);
    fputs("</h2>\n", page->out);
}

void tn_page_text(tn_page *page, const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (length < 0) {
        page->status = TN_MEMORY;
        return;
    }
    fputs("<p>", page->out);
    put_escaped(page, text);
    fputs("</p>\n", page->out);
    free(text);
}

void tn_page_sample(tn_page *page, const char *text)
{
    fputs("<pre>", page->out);
    put_escaped(page, text);
    fputs("</pre>\n", page->out);
}

void tn_page_table(tn_page *page, const char *const *cell, int rows, int columns)
{
    fputs("<table>\n", page->out);
    for (int r = 0; r < rows; r++) {
        fputs("<tr>", page->out);
        for (int c = 0; c < columns; c++) {
            fputs(r ? "<td>" : "<th>", page->out);
            put_escaped(page, cell[r * columns + c]);
            fputs(r ? "</td>" : "</th>", page->out);
        }
        fputs("</tr>\n", page->out);
    }
    fputs("</table>\n", page->out);
}

/* ---- plots -------------------------------------------------------------------------------------- */

/* Inside gnuplot's double quotes. */
static void put_quoted(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\' || *text == '`') continue;
        fputc(*text == '\n' ? ' ' : *text, out);
    }
    fputc('"', out);
}

static void write_plot(FILE *script, const char *path, const char *title, const char *x_label,
                       const char *y_label, tn_plot_axes axes, const tn_series *series, int count)
{
    bool logarithmic = axes == TN_AXES_LOGARITHMIC;
    fprintf(script, "set terminal svg size 800,420 dynamic background rgb 'white' font "
                    "'sans-serif,13' noenhanced\nset output ");
    put_quoted(script, path);
    fputs("\nset key outside right top\nset grid lc rgb '#dddddd'\nset border 3\nset tics "
          "nomirror\nset title ",
          script);
    put_quoted(script, title);
    fputs("\nset xlabel ", script);
    put_quoted(script, x_label);
    fputs("\nset ylabel ", script);
    put_quoted(script, y_label);
    fputs(logarithmic ? "\nset logscale xy\nplot " : "\nplot ", script);
    for (int i = 0; i < count; i++) {
        fprintf(script, "%s'-' using 1:2 with %s lw 2 title ", i ? ", " : "",
                logarithmic ? "linespoints pt 7 ps 0.5" : "lines");
        put_quoted(script, series[i].name);
    }
    fputc('\n', script);
    for (int i = 0; i < count; i++) {
        for (int64_t k = 0; k < series[i].count; k++)
            if (isfinite(series[i].x[k]) && isfinite(series[i].y[k]) &&
                (!logarithmic || (series[i].x[k] > 0 && series[i].y[k] > 0)))
                fprintf(script, "%.9g %.9g\n", series[i].x[k], series[i].y[k]);
        fputs("e\n", script);
    }
}

/* The SVG that gnuplot draws, or NULL where there is no gnuplot. */
static char *draw(const char *title, const char *x_label, const char *y_label, tn_plot_axes axes,
                  const tn_series *series, int count)
{
    char path[] = "/tmp/tenon-plot-XXXXXX";
    int file = mkstemp(path);
    if (file < 0) return NULL;
    FILE *check = fdopen(file, "r");
    FILE *gnuplot = popen("gnuplot 2>/dev/null", "w");
    char *svg = NULL;
    size_t size;
    if (gnuplot) {
        write_plot(gnuplot, path, title, x_label, y_label, axes, series, count);
        if (pclose(gnuplot) == 0 && tn_file_read(path, 16u << 20, &svg, &size) == TN_OK &&
            !strstr(svg, "<svg")) {
            free(svg);
            svg = NULL;
        }
    }
    if (check) fclose(check);
    remove(path);
    return svg;
}

void tn_page_plot(tn_page *page, const char *title, const char *x_label, const char *y_label,
                  tn_plot_axes axes, const tn_series *series, int count)
{
    int64_t points = 0;
    for (int i = 0; i < count; i++) points += series[i].count;
    char *svg = points ? draw(title, x_label, y_label, axes, series, count) : NULL;
    if (svg) {
        fputs(strstr(svg, "<svg"), page->out); /* without the XML declaration */
        fputc('\n', page->out);
        free(svg);
        return;
    }
    tn_page_text(page, "%s (last values; gnuplot draws the plot where it is installed)", title);
    for (int i = 0; i < count; i++)
        if (series[i].count)
            tn_page_text(page, "%s: %g at %s %g", series[i].name, series[i].y[series[i].count - 1],
                         x_label, series[i].x[series[i].count - 1]);
}

/* ---- pictures ------------------------------------------------------------------------------------- */

static void put_base64(FILE *out, const unsigned char *bytes, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < size; i += 3) {
        unsigned group = (unsigned)bytes[i] << 16 |
                         (i + 1 < size ? (unsigned)bytes[i + 1] << 8 : 0) |
                         (i + 2 < size ? bytes[i + 2] : 0);
        fputc(digits[group >> 18], out);
        fputc(digits[group >> 12 & 63], out);
        fputc(i + 1 < size ? digits[group >> 6 & 63] : '=', out);
        fputc(i + 2 < size ? digits[group & 63] : '=', out);
    }
}

/* [3, height, width] in [0, 1] as a PNG; NULL when out of memory. */
static unsigned char *encode_png(const float *pixels, int64_t height, int64_t width, size_t *size)
{
    unsigned char *rows = malloc((size_t)(3 * height * width)), *png = NULL;
    if (!rows) return NULL;
    for (int64_t i = 0; i < height * width; i++)
        for (int k = 0; k < 3; k++)
            rows[3 * i + k] = (unsigned char)lrintf(
                255 * fminf(fmaxf(pixels[k * height * width + i], 0), 1));
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)width,
                       .height = (png_uint_32)height,
                       .format = PNG_FORMAT_RGB};
    png_alloc_size_t bytes = 0;
    if (png_image_write_get_memory_size(image, bytes, 0, rows, 0, NULL) && (png = malloc(bytes)) &&
        !png_image_write_to_memory(&image, png, &bytes, 0, rows, 0, NULL)) {
        free(png);
        png = NULL;
    }
    free(rows);
    *size = bytes;
    return png;
}

void tn_page_pictures(tn_page *page, const float *pixels, int64_t count, int64_t height,
                      int64_t width, const char *const *caption, int zoom)
{
    fputs("<div>\n", page->out);
    for (int64_t i = 0; i < count; i++) {
        size_t size;
        unsigned char *png = encode_png(pixels + i * 3 * height * width, height, width, &size);
        if (!png) {
            page->status = TN_MEMORY;
            break;
        }
        fprintf(page->out,
                "<figure><img width=\"%lld\" height=\"%lld\" alt=\"\" src=\"data:image/png;base64,",
                (long long)(width * zoom), (long long)(height * zoom));
        put_base64(page->out, png, size);
        fputs("\">", page->out);
        if (caption) {
            fputs("<figcaption>", page->out);
            put_escaped(page, caption[i]);
            fputs("</figcaption>", page->out);
        }
        fputs("</figure>\n", page->out);
        free(png);
    }
    fputs("</div>\n", page->out);
}

tn_status tn_page_save(const tn_page *page, const char *path)
{
    if (page->status != TN_OK || fflush(page->out) || ferror(page->out))
        return tn_fail(TN_MEMORY, "%s: out of memory for the report", path);
    tn_file_writer *writer;
    TN_TRY(tn_file_begin(path, &writer));
    tn_file_write(writer, page->text, page->size);
    tn_file_write(writer, "</body>\n</html>\n", 16);
    return tn_file_commit(writer);
}
