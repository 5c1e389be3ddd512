/* Cutting convolutions into pieces, by shape alone. */
#include "cpu/convolution.h"

#include <stdlib.h>

#include "base/status.h"

static void spatial(int64_t *to, const tn_operand *x)
{
    for (int i = 0; i < TN_MAX_SPACE; i++) to[i] = i + 2 < x->rank ? x->dim[i + 2] : 1;
}

tn_conv_sizes tn_conv_sizes_of(const tn_step *step)
{
    const tn_operand *x = &step->in[0], *weight = &step->in[1], *y = &step->out[0];
    if (step->op->id == TN_OP_CONVOLUTION_INPUT) x = &step->out[0], y = &step->in[0];
    if (step->op->id == TN_OP_CONVOLUTION_WEIGHT) weight = &step->out[0], y = &step->in[1];
    tn_conv_sizes s = {
        .dtype = x->dtype, .space = x->rank - 2, .B = x->dim[0], .C = x->dim[1], .F = y->dim[1]};
    s.g = &((const tn_conv_attribute *)step->attribute)->geometry;
    s.groups = s.g->groups;
    spatial(s.S, x);
    spatial(s.O, y);
    spatial(s.k, weight);
    return s;
}

static double product(const int64_t *x) { return (double)x[0] * (double)x[1] * (double)x[2]; }

double tn_conv_flop(const tn_conv_sizes *s)
{
    return 2 * (double)s->B * (double)s->C / (double)s->groups * (double)s->F * product(s->k) *
           product(s->O);
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- one piece ------------------------------------------------------------------------------- */

static bool add_piece(tn_conv_cut *cut, tn_conv_kind kind, int64_t x, int64_t y)
{
    int i = 0;
    while (i < cut->kinds &&
           !(cut->kind[i].images == kind.images && cut->kind[i].x_rows == kind.x_rows &&
             cut->kind[i].y_rows == kind.y_rows && cut->kind[i].before == kind.before &&
             cut->kind[i].after == kind.after))
        i++;
    if (i == TN_CONV_KINDS) return false;
    if (i == cut->kinds) cut->kind[cut->kinds++] = kind;
    cut->kind[i].count++;
    cut->piece[cut->pieces++] = (tn_conv_piece){i, x, y};
    return true;
}

/* Rows [first, stop) of y, and the rows of x under them. False where the window sees only
 * padding. */
static bool rows_of_y(const tn_conv_sizes *s, int64_t first, int64_t stop, tn_conv_kind *kind,
                      int64_t *x_first)
{
    int64_t reach = s->g->dilation[0] * (s->k[0] - 1) + 1;
    int64_t from = first * s->g->stride[0] - s->g->pad_before[0],
            to = (stop - 1) * s->g->stride[0] - s->g->pad_before[0] + reach;
    *x_first = most(from, 0);
    kind->x_rows = least(to, s->S[0]) - *x_first;
    kind->y_rows = stop - first;
    kind->before = *x_first - from;
    kind->after = most(to - s->S[0], 0);
    return kind->x_rows > 0;
}

/* Rows [first, stop) of x, and the rows of y that see them. */
static bool rows_of_x(const tn_conv_sizes *s, int64_t first, int64_t stop, tn_conv_kind *kind,
                      int64_t *y_first)
{
    int64_t stride = s->g->stride[0], before = s->g->pad_before[0],
            reach = s->g->dilation[0] * (s->k[0] - 1) + 1;
    int64_t lowest = first + before - (reach - 1); /* times 1/stride, rounded up */
    *y_first = lowest > 0 ? (lowest + stride - 1) / stride : 0;
    int64_t y_stop = least(s->O[0], (stop - 1 + before) / stride + 1);
    kind->x_rows = stop - first;
    kind->y_rows = y_stop - *y_first;
    kind->before = first + before - *y_first * stride;
    int64_t exact = (kind->y_rows - 1) * stride + reach - kind->x_rows - kind->before;
    kind->after = most(exact, 0); /* up to stride - 1 rows may be left over */
    return kind->y_rows > 0 && kind->before >= 0 && exact > -stride;
}

/* ---- all ------------------------------------------------------------------------------------- */

static bool cut_images(tn_conv_cut *cut, const tn_conv_sizes *s, int64_t images)
{
    int64_t x_image = s->C * s->S[0] * s->S[1] * s->S[2],
            y_image = s->F * s->O[0] * s->O[1] * s->O[2];
    for (int64_t b = 0; b < s->B; b += images) {
        tn_conv_kind kind = {.images = least(images, s->B - b),
                             .x_rows = s->S[0],
                             .y_rows = s->O[0],
                             .before = s->g->pad_before[0],
                             .after = s->g->pad_after[0]};
        if (!add_piece(cut, kind, b * x_image, b * y_image)) return false;
    }
    return true;
}

static bool cut_rows(tn_conv_cut *cut, const tn_conv_sizes *s, tn_conv_cut_of of, int64_t rows)
{
    int64_t x_row = s->C * s->S[1] * s->S[2], y_row = s->F * s->O[1] * s->O[2],
            total = of == TN_CUT_Y ? s->O[0] : s->S[0];
    /* rows of x are cut where they meet a window's beginning, so that the pieces in the middle
     * are alike */
    int64_t shift = of == TN_CUT_X ? s->g->pad_before[0] % s->g->stride[0] : 0;
    for (int64_t b = 0; b < s->B; b++)
        for (int64_t first = 0; first < total;) {
            int64_t stop = least((first + shift) / rows * rows + rows - shift, total), x = first,
                    y = first;
            tn_conv_kind kind = {.images = 1};
            bool good = of == TN_CUT_Y ? rows_of_y(s, first, stop, &kind, &x)
                                       : rows_of_x(s, first, stop, &kind, &y);
            if (!good ||
                !add_piece(cut, kind, (b * s->S[0] + x) * x_row, (b * s->O[0] + y) * y_row))
                return false;
            first = stop;
        }
    return true;
}

tn_status tn_conv_cut_make(tn_conv_cut *cut, const tn_conv_sizes *s, tn_conv_cut_of of,
                           int64_t wanted)
{
    *cut = (tn_conv_cut){0};
    wanted = most(wanted, 1);
    int64_t total = of == TN_CUT_Y ? s->O[0] : s->S[0], parts = (wanted + s->B - 1) / s->B;
    int64_t few = total / (s->space == 1 ? 32 : 3), even = 1;
    while (2 * even <= least(parts, few)) even *= 2; /* so that threads get equal shares */
    int64_t rows = (total + even - 1) / even, stride = s->g->stride[0];
    if (of == TN_CUT_X) rows = (rows + stride - 1) / stride * stride;
    bool by_rows = parts > 1 && rows < total;
    cut->piece = calloc((size_t)(s->B * (by_rows ? total / rows + 2 : 1)) + 1, sizeof *cut->piece);
    if (!cut->piece) return tn_fail(TN_MEMORY, "out of memory");
    if (!by_rows || !cut_rows(cut, s, of, rows)) {
        int64_t images = (s->B + wanted - 1) / wanted;
        cut->kinds = cut->pieces = 0;
        for (int i = 0; i < TN_CONV_KINDS; i++) cut->kind[i] = (tn_conv_kind){0};
        cut_images(cut, s, images);
    }
    for (int i = 1; i < cut->kinds; i++)
        if (cut->kind[i].count > cut->kind[cut->usual].count) cut->usual = i;
    return TN_OK;
}
