/* What the rules and kernels of sampling and resizing must agree on. */
#ifndef TN_GRAPH_GEOMETRY_H
#define TN_GRAPH_GEOMETRY_H

#include "graph/kernel.h"

/* GRID_SAMPLE (image [B, C, H, W], grid [B, h, w, 2]) -> [B, C, h, w], and GRID_SAMPLE_GRAD (image,
 * grid, d_out) -> (d_image, d_grid). The grid is f64 beside an f64 image, else f32.
 *
 * A sample at (x, y) is the sum over the four pixels around it, x0 = floor(x) and x0 + 1 and so for
 * y, of pixel times (1 - |x - its column|) (1 - |y - its row|).
 *   TN_BORDER_ZERO   a pixel outside the image counts as 0 (whatever finite or infinite coordinate
 *                    led there)
 *   TN_BORDER_CLAMP  coordinates are clamped to [0, W-1] and [0, H-1] first; outside, the gradient
 *                    to them is 0
 * A NaN coordinate counts as minus infinity: 0 with the zero border, the first column or row with
 * the clamped one, and no gradient to the grid. At integer coordinates the derivative is the one
 * from the right. */
typedef struct tn_grid_sample_attribute {
    int32_t border;
} tn_grid_sample_attribute;

/* RESIZE x [B, C, N...] -> [B, C, n...] with 1 to 3 spatial dimensions, and RESIZE_GRAD, its
 * adjoint. Along one axis of N elements resized to n, element i is (half-pixel centres; c = (i +
 * 1/2) N/n - 1/2, corners: c = i (N-1)/(n-1), 0 if n = 1)
 *   TN_RESIZE_NEAREST   x[floor((i + 1/2) N/n)]
 *   TN_RESIZE_BILINEAR  x[j] (1 - t) + x[j+1] t with j = floor(c), t = c - j; c is clamped to [0,
 *                       N-1]
 *   TN_RESIZE_AREA      mean of x[floor(i N/n)] .. x[ceil((i+1) N/n) - 1]
 *   TN_RESIZE_CUBIC     sum over k = -1 .. 2 of x[j+k] w(c - j - k), indices clamped to [0, N-1]; w
 *                       is Keys' kernel with a = -0.75
 * and several axes are resized one after the other. These are PyTorch's definitions (its
 * "nearest-exact"). Source of the kernel: Keys 1981, "Cubic convolution interpolation for digital
 * image processing", equation 4. */
typedef struct tn_resize_attribute {
    int32_t kind;
    bool align_corners;
} tn_resize_attribute;

#endif
