/* A convolution as the CPU kernels see it, and how it is cut into pieces: images, or rows of one
 * image.
 *
 * Activations lie channels-last, so images, and rows of an image, are contiguous: a piece is a
 * smaller convolution whose padding along the first spatial dimension may differ. */
#ifndef TN_CPU_CONVOLUTION_H
#define TN_CPU_CONVOLUTION_H

#include "graph/kernel.h"

/* x [B, C, S...] and weight [F, C/groups, k...] give y [B, F, O...]. Spatial dimensions that do
 * not exist are 1. */
typedef struct tn_conv_sizes {
    tn_dtype dtype;
    int space;
    int64_t B, C, F, groups;
    int64_t S[TN_MAX_SPACE], O[TN_MAX_SPACE], k[TN_MAX_SPACE];
    const tn_conv_geometry *g;
} tn_conv_sizes;

/* The sizes behind a CONVOLUTION, CONVOLUTION_INPUT or CONVOLUTION_WEIGHT step. */
tn_conv_sizes tn_conv_sizes_of(const tn_step *step);
double tn_conv_flop(const tn_conv_sizes *s);

/* Which tensor the pieces must not share a row of: y (convolution and the weight's gradient) or
 * x (the input's gradient). */
typedef enum tn_conv_cut_of { TN_CUT_Y, TN_CUT_X } tn_conv_cut_of;

/* Pieces of the same kind are the same convolution at other addresses. */
typedef struct tn_conv_kind {
    int64_t images, x_rows, y_rows, before, after;
    int count; /* pieces */
} tn_conv_kind;

typedef struct tn_conv_piece {
    int kind;
    int64_t x, y; /* first elements */
} tn_conv_piece;

enum { TN_CONV_KINDS = 12 };

typedef struct tn_conv_cut {
    int kinds, pieces, usual; /* usual: the most frequent kind */
    tn_conv_kind kind[TN_CONV_KINDS];
    tn_conv_piece *piece;
} tn_conv_cut;

/* Cuts into at most about `wanted` pieces. Free `piece`. */
tn_status tn_conv_cut_make(tn_conv_cut *cut, const tn_conv_sizes *s, tn_conv_cut_of of,
                           int64_t wanted);

#endif
