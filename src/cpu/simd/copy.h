/* Copies between any two layouts: what the planner changes layouts with, and what the shape
 * operations are made of. Compiled once per instruction set. */
#ifndef TN_CPU_SIMD_COPY_H
#define TN_CPU_SIMD_COPY_H

#include "graph/kernel.h"

/* A copy made ready: dimensions sorted by the target's strides, merged where both sides are
 * contiguous, and cut into pieces. The last two dimensions are the panel that the inner loops walk.
 * Strides in bytes; the source's may be 0 or negative. */
typedef struct tn_copy {
    int kind, rank;
    int64_t size; /* of an element: 1, 2, 4 or 8 */
    int64_t dim[TN_MAX_RANK + 2], from[TN_MAX_RANK + 2], to[TN_MAX_RANK + 2];
    int64_t row_block, column_block, row_blocks, column_blocks; /* of the panel */
    int64_t items, grain;
} tn_copy;

/* `from` and `to` have the same dimensions and dtype size; `to` has no stride 0. */
void TN_ISA(tn_copy_make)(tn_copy *copy, const tn_operand *from, const tn_operand *to);
/* Uses both cores for large copies. */
void TN_ISA(tn_copy_run)(const tn_copy *copy, const void *in, void *out);
/* Both at once. */
void TN_ISA(tn_copy_strided)(const tn_operand *from, const void *in, const tn_operand *to,
                             void *out);

/* in[0], broadcast to out[0]'s dimensions, from any strides to any strides. */
extern const tn_kernel TN_ISA(tn_copy_kernel);

/* A few bytes, up to a few hundred: without memcpy's call and its dispatch. */
static inline void tn_copy_bytes(unsigned char *to, const unsigned char *from, int64_t bytes)
{
    if (bytes >= 512) {
        __builtin_memcpy(to, from, (size_t)bytes);
    } else if (bytes >= 32) {
        for (int64_t i = 0; i + 32 <= bytes; i += 32) __builtin_memcpy(to + i, from + i, 32);
        __builtin_memcpy(to + bytes - 32, from + bytes - 32, 32);
    } else if (bytes >= 16) {
        __builtin_memcpy(to, from, 16);
        __builtin_memcpy(to + bytes - 16, from + bytes - 16, 16);
    } else if (bytes >= 8) {
        __builtin_memcpy(to, from, 8);
        __builtin_memcpy(to + bytes - 8, from + bytes - 8, 8);
    } else if (bytes >= 4) {
        __builtin_memcpy(to, from, 4);
        __builtin_memcpy(to + bytes - 4, from + bytes - 4, 4);
    } else {
        for (int64_t i = 0; i < bytes; i++) to[i] = from[i];
    }
}

/* Lies as channels-last and not also as row-major: dimension 1 is innermost, whatever gaps there
 * are. */
static inline bool tn_prefers_channels_last(const tn_operand *x)
{
    if (x->rank < 3 || x->dim[1] < 2 || x->stride[1] != 1) return false;
    for (int i = 2; i < x->rank; i++)
        if (x->dim[i] > 1) return x->stride[i] >= x->dim[1];
    return false;
}

#endif
