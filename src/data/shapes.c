/* Generated images: ten shapes by signed distance, drawn with soft edges. */
#include <math.h>
#include <stdbool.h>

#include "tenon/images.h"
#include "tenon/random.h"

const char *const tn_shapes_class[TN_SHAPES_CLASSES] = {"disc",      "ring",  "square", "frame",
                                                        "triangle",  "cross", "bar",    "two discs",
                                                        "half disc", "star"};

static double box(double x, double y, double w, double h)
{
    double dx = fabs(x) - w, dy = fabs(y) - h;
    return fmax(dx, dy) > 0 ? hypot(fmax(dx, 0), fmax(dy, 0)) : fmax(dx, dy);
}

static double triangle(double x, double y)
{
    return fmax(fmax(fabs(x) * 0.866 + y * 0.5, -y) - 0.5, -1);
}

static double star(double x, double y)
{
    double angle = atan2(y, x), radius = hypot(x, y);
    return radius - (0.62 + 0.34 * cos(5 * angle));
}

/* Distance to the shape's border in units of its size, negative inside. */
static double distance(int label, double x, double y)
{
    double r = hypot(x, y);
    switch (label) {
    case 0: return r - 0.9;
    case 1: return fabs(r - 0.75) - 0.2;
    case 2: return box(x, y, 0.75, 0.75);
    case 3: return fabs(box(x, y, 0.65, 0.65)) - 0.18;
    case 4: return triangle(x, y);
    case 5: return fmin(box(x, y, 0.9, 0.25), box(x, y, 0.25, 0.9));
    case 6: return box(x, y, 0.95, 0.25);
    case 7: return fmin(hypot(x - 0.5, y), hypot(x + 0.5, y)) - 0.38;
    case 8: return fmax(r - 0.9, -y);
    default: return star(x, y);
    }
}

void tn_shapes_image(uint64_t seed, int64_t index, float *pixels, int32_t *label)
{
    enum { N = TN_SHAPES_SIDE };
    uint64_t stream = tn_random_stream("shapes") + (uint64_t)index;
    double u[16];
    for (uint64_t i = 0; i < 16; i++) u[i] = (double)tn_random_uniform(seed, stream, i);
    *label = (int32_t)(u[0] * TN_SHAPES_CLASSES);
    double size = 9 + 4 * u[1], cx = 16 + (2 * u[2] - 1) * 3, cy = 16 + (2 * u[3] - 1) * 3,
           turn = (2 * u[4] - 1) * 0.35;
    double c = cos(turn), s = sin(turn), slope_x = u[5] - 0.5, slope_y = u[6] - 0.5, colour[3],
           ground[3];
    bool light_shape = u[13] < 0.5; /* on the dark, or dark on the light: never invisible */
    for (int k = 0; k < 3; k++) {
        ground[k] = 0.4 * u[7 + k] + (light_shape ? 0 : 0.6);
        colour[k] = 0.4 * u[10 + k] + (light_shape ? 0.6 : 0);
    }
    for (int y = 0; y < N; y++)
        for (int x = 0; x < N; x++) {
            double dx = (x - cx) / size, dy = (y - cy) / size;
            double d = distance(*label, c * dx + s * dy, c * dy - s * dx) * size,
                   cover = fmin(fmax(0.5 - d, 0), 1);
            double light = (slope_x * (x - 16) + slope_y * (y - 16)) / 40;
            for (int k = 0; k < 3; k++) {
                double noise = 0.12 * ((double)tn_random_uniform(
                                           seed, stream, (uint64_t)(16 + (k * N + y) * N + x)) -
                                       0.5);
                double value = cover * colour[k] + (1 - cover) * (ground[k] + light) + noise;
                pixels[(k * N + y) * N + x] = (float)fmin(fmax(value, 0), 1);
            }
        }
}
