/* The progress line. */
#include "base/progress.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/string.h"

enum { BAR_WIDTH = 24, WIDEST = 400 };
static const double INTERVAL = 0.1;
static const double MEMORY = 10; /* seconds over which the rate forgets */

struct tn_progress {
    FILE *out;
    int columns;
    char *title, *unit;
    int64_t total, done;
    double last_draw, last_time;
    int64_t last_done;
    double rate;
    bool drawn;
    char note[128];
};

tn_progress *tn_progress_begin_on(FILE *out, int columns, const char *title, const char *unit,
                                  int64_t total)
{
    tn_progress *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    *p = (tn_progress){.out = out, .total = total, .title = strdup(title), .unit = strdup(unit)};
    p->columns = columns < 20 ? 20 : columns > WIDEST ? WIDEST : columns;
    p->last_time = tn_clock_seconds();
    p->last_draw = p->last_time - INTERVAL;
    if (!p->title || !p->unit) {
        tn_progress_end(p);
        return NULL;
    }
    return p;
}

tn_progress *tn_progress_begin(const char *title, const char *unit, int64_t total)
{
    if (!isatty(STDERR_FILENO)) return NULL;
    struct winsize size = {0};
    int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col
                                                                                  : 80;
    return tn_progress_begin_on(stderr, columns - 1, title, unit,
                                total); /* the last column would wrap */
}

void tn_progress_text(char *text, int columns, const char *title, const char *unit, int64_t done,
                      int64_t total, double rate, const char *note)
{
    tn_string line = {0};
    tn_string_format(&line, "%s  ", title);
    if (total > 0) {
        double part = (double)(done < 0 ? 0 : done > total ? total : done) / (double)total;
        int filled = (int)(part * BAR_WIDTH);
        tn_string_add_char(&line, '[');
        for (int i = 0; i < BAR_WIDTH; i++)
            tn_string_add_char(&line, i < filled ? '=' : i == filled && done > 0 ? '>' : ' ');
        tn_string_format(&line, "] %3d%%  %" PRId64 "/%" PRId64, (int)(part * 100), done, total);
    } else {
        tn_string_format(&line, "%" PRId64 " %s", done, unit);
    }
    if (rate > 0) {
        const char *scale = rate >= 1e9 ? "G" : rate >= 1e6 ? "M" : rate >= 1e4 ? "k" : "";
        double shown = rate / (rate >= 1e9 ? 1e9 : rate >= 1e6 ? 1e6 : rate >= 1e4 ? 1e3 : 1);
        tn_string_format(&line, "  %.3g%s %s/s", shown, scale, unit);
        char duration[32];
        if (total > done)
            tn_string_format(&line, "  %s left",
                             tn_duration_text((double)(total - done) / rate, duration));
    }
    if (note && *note) tn_string_format(&line, "  %s", note);
    size_t length = line.length < (size_t)columns ? line.length : (size_t)columns;
    memcpy(text, tn_string_text(&line), length);
    text[length] = '\0';
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    tn_string_free(&line);
}

static void draw(tn_progress *p, double now)
{
    double span = now - p->last_time;
    if (span > 0 && p->done >= p->last_done) {
        double recent = (double)(p->done - p->last_done) / span;
        double weight = p->rate > 0 ? span / (span + MEMORY) : 1;
        p->rate += (recent - p->rate) * weight;
        p->last_time = now;
        p->last_done = p->done;
    }
    char text[WIDEST + 1];
    tn_progress_text(text, p->columns, p->title, p->unit, p->done, p->total, p->rate, p->note);
    fprintf(p->out, "\r%s\x1b[K", text);
    fflush(p->out);
    p->last_draw = now;
    p->drawn = true;
}

void tn_progress_update(tn_progress *p, int64_t done)
{
    if (!p) return;
    p->done = done;
    double now = tn_clock_seconds();
    if (now - p->last_draw >= INTERVAL) draw(p, now);
}

void tn_progress_note(tn_progress *p, const char *format, ...)
{
    if (!p) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(p->note, sizeof p->note, format, arguments);
    va_end(arguments);
}

void tn_progress_clear(tn_progress *p)
{
    if (!p || !p->drawn) return;
    fputs("\r\x1b[K", p->out);
    fflush(p->out);
    p->drawn = false;
}

void tn_progress_end(tn_progress *p)
{
    if (!p) return;
    tn_progress_clear(p);
    free(p->title);
    free(p->unit);
    free(p);
}
