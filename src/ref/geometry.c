/* Sampling and resizing on the reference backend: the definitions of graph/geometry.h, element by
 * element. */
#include "graph/geometry.h"

#include <math.h>

/* ---- grid sample ----------------------------------------------------------------------------- */

/* A coordinate on an axis of `size` pixels: the two pixels around it (-1: counts as 0), their
 * weights, and the weights' derivatives. */
typedef struct around {
    int64_t pixel[2];
    double weight[2], slope[2];
} around;

static around locate(double x, int64_t size, int32_t border)
{
    double last = (double)(size - 1), moves = 1;
    if (isnan(x)) x = -INFINITY;
    if (border == TN_BORDER_CLAMP) {
        if (x < 0 || x > last) moves = 0;
        x = fmin(fmax(x, 0), last);
    } else {
        x = fmin(fmax(x, -2), last + 2); /* all the same out there, but finite */
    }
    double before = floor(x);
    around a = {.weight = {1 - (x - before), x - before}, .slope = {-moves, moves}};
    for (int k = 0; k < 2; k++) {
        double p = before + k;
        if (border == TN_BORDER_CLAMP) p = fmin(p, last);
        a.pixel[k] = p < 0 || p > last ? -1 : (int64_t)p;
    }
    return a;
}

typedef struct sampling {
    int64_t B, C, H, W, P; /* P: points of an image */
    const double *image, *grid;
    int32_t border;
} sampling;

static sampling sampling_of(const tn_step *step, void *const *in)
{
    const tn_operand *image = &step->in[0], *grid = &step->in[1];
    return (sampling){image->dim[0],
                      image->dim[1],
                      image->dim[2],
                      image->dim[3],
                      grid->dim[1] * grid->dim[2],
                      in[0],
                      in[1],
                      ((const tn_grid_sample_attribute *)step->attribute)->border};
}

/* Position in the image of a corner, or -1. */
static int64_t corner(const sampling *s, int64_t b, int64_t c, int64_t row, int64_t column)
{
    return row < 0 || column < 0 ? -1 : ((b * s->C + c) * s->H + row) * s->W + column;
}

static tn_status grid_sample(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    (void)workspace;
    sampling s = sampling_of(step, in);
    double *y = out[0];
    for (int64_t b = 0; b < s.B; b++)
        for (int64_t c = 0; c < s.C; c++)
            for (int64_t p = 0; p < s.P; p++) {
                const double *point = s.grid + (b * s.P + p) * 2;
                around column = locate(point[0], s.W, s.border),
                       row = locate(point[1], s.H, s.border);
                double sum = 0;
                for (int k = 0; k < 4; k++) {
                    int64_t at = corner(&s, b, c, row.pixel[k / 2], column.pixel[k % 2]);
                    if (at >= 0) sum += s.image[at] * row.weight[k / 2] * column.weight[k % 2];
                }
                y[(b * s.C + c) * s.P + p] = sum;
            }
    return TN_OK;
}

static tn_status grid_sample_grad(const tn_step *step, void *const *in, void *const *out,
                                  void *workspace)
{
    (void)workspace;
    sampling s = sampling_of(step, in);
    const double *d_y = in[2];
    double *d_image = out[0], *d_grid = out[1];
    for (int64_t i = 0; i < s.B * s.C * s.H * s.W; i++) d_image[i] = 0;
    for (int64_t i = 0; i < s.B * s.P * 2; i++) d_grid[i] = 0;
    for (int64_t b = 0; b < s.B; b++)
        for (int64_t c = 0; c < s.C; c++)
            for (int64_t p = 0; p < s.P; p++) {
                const double *point = s.grid + (b * s.P + p) * 2;
                double d = d_y[(b * s.C + c) * s.P + p], *d_point = d_grid + (b * s.P + p) * 2;
                around column = locate(point[0], s.W, s.border),
                       row = locate(point[1], s.H, s.border);
                for (int k = 0; k < 4; k++) {
                    int64_t at = corner(&s, b, c, row.pixel[k / 2], column.pixel[k % 2]);
                    if (at < 0) continue;
                    d_image[at] += d * row.weight[k / 2] * column.weight[k % 2];
                    d_point[0] += d * s.image[at] * row.weight[k / 2] * column.slope[k % 2];
                    d_point[1] += d * s.image[at] * row.slope[k / 2] * column.weight[k % 2];
                }
            }
    return TN_OK;
}

/* ---- resize ---------------------------------------------------------------------------------- */

static double keys(double t)
{
    const double a = -0.75;
    t = fabs(t);
    if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
    if (t < 2) return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a;
    return 0;
}

/* Weight of element j of N in element i of n. */
static double resize_weight(const tn_resize_attribute *a, int64_t N, int64_t n, int64_t i,
                            int64_t j)
{
    double centre = a->align_corners ? (n > 1 ? (double)i * (double)(N - 1) / (double)(n - 1) : 0)
                                     : ((double)i + 0.5) * (double)N / (double)n - 0.5;
    switch (a->kind) {
    case TN_RESIZE_NEAREST: return j == (2 * i + 1) * N / (2 * n);
    case TN_RESIZE_BILINEAR:
        centre = fmin(fmax(centre, 0), (double)(N - 1));
        return fmax(0, 1 - fabs((double)j - centre));
    case TN_RESIZE_AREA: {
        int64_t first = i * N / n, end = ((i + 1) * N + n - 1) / n;
        return j >= first && j < end ? 1 / (double)(end - first) : 0;
    }
    default: { /* cubic: what lies beyond an end counts for the end */
        double sum = 0;
        for (int64_t k = (int64_t)floor(centre) - 1; k <= (int64_t)floor(centre) + 2; k++)
            if ((k < 0 ? 0 : k > N - 1 ? N - 1 : k) == j) sum += keys(centre - (double)k);
        return sum;
    }
    }
}

/* An axis: its sizes, and the elements [first, end) that have a weight in element i. */
typedef struct axis {
    int64_t N, n, i, first, end;
} axis;

static void look_at(const tn_resize_attribute *a, axis *x, int64_t i)
{
    x->i = i;
    x->first = 0;
    x->end = x->N;
    while (x->first < x->N && resize_weight(a, x->N, x->n, i, x->first) == 0) x->first++;
    while (x->end > x->first && resize_weight(a, x->N, x->n, i, x->end - 1) == 0) x->end--;
}

/* target[to] += source[from] * weight over all pairs of elements; backwards: target[from] +=
 * source[to] * weight. */
static void resize_pairs(const tn_step *step, const tn_operand *from, const tn_operand *to,
                         bool backwards, const double *source, double *target)
{
    const tn_resize_attribute *a = step->attribute;
    axis d[3] = {
        {.N = 1, .n = 1}, {.N = 1, .n = 1}, {.N = 1, .n = 1}}; /* missing axes have one element */
    for (int k = 2; k < from->rank; k++) {
        d[k + 3 - from->rank].N = from->dim[k];
        d[k + 3 - from->rank].n = to->dim[k];
    }
    int64_t planes = from->dim[0] * from->dim[1], from_size = d[0].N * d[1].N * d[2].N,
            to_size = d[0].n * d[1].n * d[2].n;
    for (int64_t i = 0; i < planes * (backwards ? from_size : to_size); i++) target[i] = 0;
    for (int64_t i = 0; i < to_size; i++) {
        look_at(a, &d[0], i / (d[1].n * d[2].n));
        look_at(a, &d[1], i / d[2].n % d[1].n);
        look_at(a, &d[2], i % d[2].n);
        for (int64_t j0 = d[0].first; j0 < d[0].end; j0++)
            for (int64_t j1 = d[1].first; j1 < d[1].end; j1++)
                for (int64_t j2 = d[2].first; j2 < d[2].end; j2++) {
                    double weight = 1;
                    const int64_t of[3] = {j0, j1, j2};
                    for (int k = 0; k < 3; k++)
                        weight *= resize_weight(a, d[k].N, d[k].n, d[k].i, of[k]);
                    int64_t j = (j0 * d[1].N + j1) * d[2].N + j2;
                    for (int64_t p = 0; p < planes; p++) {
                        if (backwards)
                            target[p * from_size + j] += source[p * to_size + i] * weight;
                        else target[p * to_size + i] += source[p * from_size + j] * weight;
                    }
                }
    }
}

static tn_status resize(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    resize_pairs(step, &step->in[0], &step->out[0], false, in[0], out[0]);
    return TN_OK;
}

static tn_status resize_grad(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    (void)workspace;
    resize_pairs(step, &step->out[0], &step->in[0], true, in[0], out[0]);
    return TN_OK;
}

void tn_ref_geometry(tn_kernel_table *table);
void tn_ref_geometry(tn_kernel_table *table)
{
    static const tn_kernel grid_sample_kernel = {.run = grid_sample},
                           grid_sample_grad_kernel = {.run = grid_sample_grad},
                           resize_kernel = {.run = resize},
                           resize_grad_kernel = {.run = resize_grad};
    table->kernel[TN_OP_GRID_SAMPLE] = &grid_sample_kernel;
    table->kernel[TN_OP_GRID_SAMPLE_GRAD] = &grid_sample_grad_kernel;
    table->kernel[TN_OP_RESIZE] = &resize_kernel;
    table->kernel[TN_OP_RESIZE_GRAD] = &resize_grad_kernel;
}
