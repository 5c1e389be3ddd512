/* Bilinear samples of an image at points, and their gradients. What is computed exactly:
 * graph/geometry.h.
 *
 * Points are taken in blocks of 64: where their four pixels lie and how much each counts is found
 * once for all channels. Channels-last images stay so: a pixel is then one contiguous run of
 * channels. f32 arithmetic for f32, bf16 and f16; f64 is left to the reference kernels. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "base/status.h"
#include "base/threads.h"
#include "cpu/simd/copy.h"
#include "graph/geometry.h"

#define BLOCK 64
#define PARALLEL_ELEMENTS 16384

#define INLINE static inline __attribute__((always_inline))

INLINE float load(const void *x, int64_t i, tn_dtype dtype)
{
    if (dtype == TN_F32) return ((const float *)x)[i];
    return dtype == TN_BF16 ? tn_f32_from_bf16(((const uint16_t *)x)[i])
                            : tn_f32_from_f16(((const uint16_t *)x)[i]);
}

INLINE void store(void *x, int64_t i, float value, tn_dtype dtype)
{
    if (dtype == TN_F32) ((float *)x)[i] = value;
    else ((uint16_t *)x)[i] = dtype == TN_BF16 ? tn_bf16_from_f32(value) : tn_f16_from_f32(value);
}

/* ---- where points lie ------------------------------------------------------------------------ */

/* Corner k of a point is pixel (y0 + k / 2, x0 + k % 2). */
typedef struct points {
    int32_t pixel[4][BLOCK]; /* row * W + column; -1: outside, counts as 0 */
    float weight[4][BLOCK];
    float slope_x[4][BLOCK], slope_y[4][BLOCK]; /* the weights' derivatives */
} points;

/* One coordinate: clamped, cut into pixel and rest. `moves`: 0 where the clamped coordinate does
 * not follow. */
INLINE int32_t cut(float x, float last, int clamp, float *rest, float *moves)
{
    float low = clamp ? 0 : -2, high = clamp ? last : last + 2;
    *moves = !clamp || (x >= 0 && x <= last) ? 1 : 0;
    x = x > low ? x : low; /* NaN too */
    x = x < high ? x : high;
    float whole = floorf(x);
    *rest = x - whole;
    return (int32_t)whole;
}

INLINE void locate_as(const float *grid, int64_t count, int32_t H, int32_t W, int clamp, points *p)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        float tx, ty, mx, my;
        int32_t x0 = cut(grid[2 * i], (float)(W - 1), clamp, &tx, &mx),
                y0 = cut(grid[2 * i + 1], (float)(H - 1), clamp, &ty, &my);
        int32_t x1 = clamp && x0 + 1 > W - 1 ? W - 1 : x0 + 1,
                y1 = clamp && y0 + 1 > H - 1 ? H - 1 : y0 + 1;
        int32_t left = (uint32_t)x0 < (uint32_t)W, right = (uint32_t)x1 < (uint32_t)W;
        int32_t above = (uint32_t)y0 < (uint32_t)H, below = (uint32_t)y1 < (uint32_t)H;
        p->pixel[0][i] = above & left ? y0 * W + x0 : -1;
        p->pixel[1][i] = above & right ? y0 * W + x1 : -1;
        p->pixel[2][i] = below & left ? y1 * W + x0 : -1;
        p->pixel[3][i] = below & right ? y1 * W + x1 : -1;
        p->weight[0][i] = (1 - ty) * (1 - tx);
        p->weight[1][i] = (1 - ty) * tx;
        p->weight[2][i] = ty * (1 - tx);
        p->weight[3][i] = ty * tx;
        p->slope_x[0][i] = -mx * (1 - ty);
        p->slope_x[1][i] = mx * (1 - ty);
        p->slope_x[2][i] = -mx * ty;
        p->slope_x[3][i] = mx * ty;
        p->slope_y[0][i] = -my * (1 - tx);
        p->slope_y[1][i] = -my * tx;
        p->slope_y[2][i] = my * (1 - tx);
        p->slope_y[3][i] = my * tx;
    }
}

/* ---- jobs ------------------------------------------------------------------------------------ */

typedef struct job {
    const void *image, *d_out;
    const float *grid;
    void *out, *d_grid; /* out: samples or d_image */
    float *sum;         /* f32 d_image of a 16-bit one; else out */
    tn_dtype dtype;
    int64_t B, C, H, W, P, blocks, group, groups;
    bool clamp, last; /* last: channels-last */
} job;

static job job_of(const tn_step *step, void *const *in, void *const *out)
{
    const tn_operand *image = &step->in[0], *grid = &step->in[1];
    job j = {.image = in[0],
             .grid = in[1],
             .out = out[0],
             .dtype = image->dtype,
             .B = image->dim[0],
             .C = image->dim[1],
             .H = image->dim[2],
             .W = image->dim[3],
             .P = grid->dim[1] * grid->dim[2]};
    j.clamp = ((const tn_grid_sample_attribute *)step->attribute)->border == TN_BORDER_CLAMP;
    j.last = tn_prefers_channels_last(image);
    j.blocks = (j.P + BLOCK - 1) / BLOCK;
    return j;
}

/* Block `item` of the B * blocks blocks: its image and points. Returns how many points. */
static int64_t locate(const job *j, int64_t item, int64_t *b, int64_t *first, points *p)
{
    *b = item / j->blocks;
    *first = item % j->blocks * BLOCK;
    int64_t count = j->P - *first < BLOCK ? j->P - *first : BLOCK;
    const float *grid = j->grid + (*b * j->P + *first) * 2;
    if (j->clamp) locate_as(grid, count, (int32_t)j->H, (int32_t)j->W, 1, p);
    else locate_as(grid, count, (int32_t)j->H, (int32_t)j->W, 0, p);
    return count;
}

/* Pixel `at` of a plane, 0 if at is -1. */
INLINE float pixel_at(const void *plane, int64_t base, int32_t at, tn_dtype dtype)
{
    float value = load(plane, base + (at & ~(at >> 31)), dtype);
    return at < 0 ? 0 : value;
}

/* ---- samples --------------------------------------------------------------------------------- */

INLINE void sample_as(const job *j, int64_t begin, int64_t end, tn_dtype dtype)
{
    points p;
    for (int64_t item = begin; item < end; item++) {
        int64_t b, first, count = locate(j, item, &b, &first, &p), pixels = j->H * j->W;
        if (j->last) {
            for (int64_t i = 0; i < count; i++) {
                int64_t to = (b * j->P + first + i) * j->C, from[4];
                float w[4];
                for (int k = 0; k < 4; k++) {
                    bool inside = p.pixel[k][i] >= 0;
                    from[k] = (b * pixels + (inside ? p.pixel[k][i] : 0)) * j->C;
                    w[k] = inside ? p.weight[k][i] : 0;
                }
                if (p.pixel[0][i] >= 0 && p.pixel[3][i] >= 0) { /* wholly inside */
                    for (int64_t c = 0; c < j->C; c++)
                        store(j->out, to + c,
                              w[0] * load(j->image, from[0] + c, dtype) +
                                  w[1] * load(j->image, from[1] + c, dtype) +
                                  w[2] * load(j->image, from[2] + c, dtype) +
                                  w[3] * load(j->image, from[3] + c, dtype),
                              dtype);
                } else {
                    for (int64_t c = 0; c < j->C; c++) {
                        float sum = 0;
                        for (int k = 0; k < 4; k++)
                            sum += p.pixel[k][i] < 0 ? 0
                                                     : w[k] * load(j->image, from[k] + c, dtype);
                        store(j->out, to + c, sum, dtype);
                    }
                }
            }
        } else {
            for (int64_t c = 0; c < j->C; c++) {
                int64_t from = (b * j->C + c) * pixels, to = (b * j->C + c) * j->P + first;
#pragma omp simd
                for (int64_t i = 0; i < count; i++)
                    store(j->out, to + i,
                          p.weight[0][i] * pixel_at(j->image, from, p.pixel[0][i], dtype) +
                              p.weight[1][i] * pixel_at(j->image, from, p.pixel[1][i], dtype) +
                              p.weight[2][i] * pixel_at(j->image, from, p.pixel[2][i], dtype) +
                              p.weight[3][i] * pixel_at(j->image, from, p.pixel[3][i], dtype),
                          dtype);
            }
        }
    }
}

static void sample_blocks(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    if (j->dtype == TN_F32) sample_as(j, begin, end, TN_F32);
    else if (j->dtype == TN_BF16) sample_as(j, begin, end, TN_BF16);
    else sample_as(j, begin, end, TN_F16);
}

static tn_status grid_sample(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    if (step->in[0].dtype == TN_F64)
        return tn_ref_kernels()->kernel[step->op->id]->run(step, in, out, workspace);
    job j = job_of(step, in, out);
    tn_parallel(j.B * j.blocks, PARALLEL_ELEMENTS / (BLOCK * (j.C + 2)) + 1, sample_blocks, &j);
    return TN_OK;
}

/* ---- gradients ------------------------------------------------------------------------------- */

/* d_grid of a block: the products of d_out with each corner, summed over the channels in order,
 * then times the slopes. */
INLINE void grid_gradient_as(const job *j, int64_t begin, int64_t end, tn_dtype dtype)
{
    points p;
    for (int64_t item = begin; item < end; item++) {
        int64_t b, first, count = locate(j, item, &b, &first, &p), pixels = j->H * j->W;
        float product[4][BLOCK] = {{0}};
        if (j->last) {
            for (int64_t i = 0; i < count; i++)
                for (int k = 0; k < 4; k++) {
                    if (p.pixel[k][i] < 0) continue;
                    int64_t from = (b * pixels + p.pixel[k][i]) * j->C,
                            d = (b * j->P + first + i) * j->C;
                    float lanes[16] = {0}, sum = 0;
                    int64_t c = 0;
                    for (; c + 16 <= j->C; c += 16)
                        for (int l = 0; l < 16; l++)
                            lanes[l] += load(j->d_out, d + c + l, dtype) *
                                        load(j->image, from + c + l, dtype);
                    for (; c < j->C; c++)
                        sum += load(j->d_out, d + c, dtype) * load(j->image, from + c, dtype);
                    for (int l = 0; l < 16; l++) sum += lanes[l];
                    product[k][i] = sum;
                }
        } else {
            for (int64_t c = 0; c < j->C; c++) {
                int64_t from = (b * j->C + c) * pixels, d = (b * j->C + c) * j->P + first;
                for (int k = 0; k < 4; k++)
#pragma omp simd
                    for (int64_t i = 0; i < count; i++)
                        product[k][i] += load(j->d_out, d + i, dtype) *
                                         pixel_at(j->image, from, p.pixel[k][i], dtype);
            }
        }
        float *out = (float *)j->d_grid + (b * j->P + first) * 2;
        for (int64_t i = 0; i < count; i++) {
            float x = 0, y = 0;
            for (int k = 0; k < 4; k++) {
                x += product[k][i] * p.slope_x[k][i];
                y += product[k][i] * p.slope_y[k][i];
            }
            out[2 * i] = x;
            out[2 * i + 1] = y;
        }
    }
}

static void grid_gradient_blocks(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    if (j->dtype == TN_F32) grid_gradient_as(j, begin, end, TN_F32);
    else if (j->dtype == TN_BF16) grid_gradient_as(j, begin, end, TN_BF16);
    else grid_gradient_as(j, begin, end, TN_F16);
}

/* d_image of a group of channels of an image: points in order, so that every pixel's sum has a
 * fixed order. */
INLINE void image_gradient_as(const job *j, int64_t begin, int64_t end, tn_dtype dtype)
{
    points p;
    for (int64_t item = begin; item < end; item++) {
        int64_t image = item / j->groups, c0 = item % j->groups * j->group,
                c1 = c0 + j->group < j->C ? c0 + j->group : j->C;
        int64_t pixels = j->H * j->W, width = c1 - c0;
        if (j->last) {
            for (int64_t i = 0; i < pixels; i++)
                memset(j->sum + (image * pixels + i) * j->C + c0, 0, (size_t)width * sizeof(float));
        } else {
            memset(j->sum + (image * j->C + c0) * pixels, 0,
                   (size_t)(width * pixels) * sizeof(float));
        }
        for (int64_t block = 0; block < j->blocks; block++) {
            int64_t b, first, count = locate(j, image * j->blocks + block, &b, &first, &p);
            for (int64_t c = c0; c < c1 && !j->last; c++) {
                float *plane = j->sum + (b * j->C + c) * pixels;
                int64_t d = (b * j->C + c) * j->P + first;
                for (int64_t i = 0; i < count; i++) {
                    float value = load(j->d_out, d + i, dtype);
                    for (int k = 0; k < 4; k++)
                        if (p.pixel[k][i] >= 0) plane[p.pixel[k][i]] += value * p.weight[k][i];
                }
            }
            for (int64_t i = 0; i < count && j->last; i++)
                for (int k = 0; k < 4; k++) {
                    if (p.pixel[k][i] < 0) continue;
                    float *restrict to = j->sum + (b * pixels + p.pixel[k][i]) * j->C + c0,
                                    w = p.weight[k][i];
                    int64_t d = (b * j->P + first + i) * j->C + c0;
                    for (int64_t c = 0; c < width; c++) to[c] += w * load(j->d_out, d + c, dtype);
                }
        }
        for (int64_t c = c0; c < c1 && dtype != TN_F32; c++)
            for (int64_t i = 0; i < pixels; i++) {
                int64_t at = j->last ? (image * pixels + i) * j->C + c
                                     : (image * j->C + c) * pixels + i;
                store(j->out, at, j->sum[at], dtype);
            }
    }
}

static void image_gradient_groups(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    if (j->dtype == TN_F32) image_gradient_as(j, begin, end, TN_F32);
    else if (j->dtype == TN_BF16) image_gradient_as(j, begin, end, TN_BF16);
    else image_gradient_as(j, begin, end, TN_F16);
}

static tn_status grid_sample_grad(const tn_step *step, void *const *in, void *const *out,
                                  void *workspace)
{
    if (step->in[0].dtype == TN_F64)
        return tn_ref_kernels()->kernel[step->op->id]->run(step, in, out, workspace);
    job j = job_of(step, in, out);
    j.d_out = in[2];
    j.d_grid = out[1];
    j.sum = j.dtype == TN_F32 ? (float *)out[0] : (float *)workspace;
    tn_parallel(j.B * j.blocks, PARALLEL_ELEMENTS / (BLOCK * (j.C + 2)) + 1, grid_gradient_blocks,
                &j);
    j.group = j.last ? 16 : 4;
    j.groups = (j.C + j.group - 1) / j.group;
    tn_parallel(j.B * j.groups, PARALLEL_ELEMENTS / (j.group * (j.P + j.H * j.W) + 1) + 1,
                image_gradient_groups, &j);
    return TN_OK;
}

/* ---- kernels --------------------------------------------------------------------------------- */

/* d_out is wanted as the image lies: then pixels and points are walked alike. */
static void layouts(const tn_step *step, tn_layout *in, tn_layout *out)
{
    bool last = step->in[0].dtype != TN_F64 && tn_prefers_channels_last(&step->in[0]);
    tn_layout image = last ? TN_CHANNELS_LAST : TN_ROWS;
    in[0] = out[0] = image;
    if (step->op->id == TN_OP_GRID_SAMPLE_GRAD) in[2] = image;
}

static tn_status prepare(tn_step *step)
{
    tn_dtype dtype = step->in[0].dtype;
    if (dtype == TN_F64 && step->in[1].dtype == TN_F64) return TN_OK;
    if ((dtype != TN_F32 && dtype != TN_BF16 && dtype != TN_F16) || step->in[1].dtype != TN_F32)
        return tn_fail(TN_UNSUPPORTED, "%s of an image of %s; use f32 or bf16", step->op->name,
                       tn_dtype_name(dtype));
    if (step->op->id == TN_OP_GRID_SAMPLE_GRAD && dtype != TN_F32)
        step->workspace = (size_t)tn_operand_size(&step->in[0]) * sizeof(float);
    return TN_OK;
}

void TN_ISA(tn_cpu_resize)(tn_kernel_table *table); /* resize.c */
void TN_ISA(tn_cpu_geometry)(tn_kernel_table *table);
void TN_ISA(tn_cpu_geometry)(tn_kernel_table *table)
{
    static const tn_kernel sample_kernel = {.layouts = layouts,
                                            .prepare = prepare,
                                            .run = grid_sample},
                           gradient_kernel = {
                               .layouts = layouts, .prepare = prepare, .run = grid_sample_grad};
    table->kernel[TN_OP_GRID_SAMPLE] = &sample_kernel;
    table->kernel[TN_OP_GRID_SAMPLE_GRAD] = &gradient_kernel;
    TN_ISA(tn_cpu_resize)(table);
}
