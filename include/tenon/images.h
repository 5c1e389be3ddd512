/* Labelled images: generated ones, which need no file, and CIFAR's binary form. */
#ifndef TENON_IMAGES_H
#define TENON_IMAGES_H

#include <stdint.h>

#include "tenon/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TN_SHAPES_CLASSES = 10, TN_SHAPES_SIDE = 32 };

/* "disc", "ring", "square", ... */
extern const char *const tn_shapes_class[TN_SHAPES_CLASSES];

/* Image `index` of an endless set: one shape of random class, place, size, turn and colour on a noisy gradient. A pure function of
 * (seed, index).   pixels [3, 32, 32] in [0, 1]; *label 0..9. */
void tn_shapes_image(uint64_t seed, int64_t index, float *pixels, int32_t *label);

typedef struct tn_cifar {
    int64_t count;
    const uint8_t *
        record; /* `count` records of 3,073 bytes: label, then red, green and blue planes of 32x32 */
} tn_cifar;

/* Looks at CIFAR-10's binary form in memory (not copied). TN_FORMAT naming `name` if the size is not a multiple of 3,073 or a label is
 * above 9.  Source: Krizhevsky 2009, section "binary version" of the data's page. */
tn_status tn_cifar_view(const void *bytes, int64_t size, const char *name, tn_cifar *cifar);
/* pixels [3, 32, 32] in [0, 1]. */
void tn_cifar_image(const tn_cifar *cifar, int64_t index, float *pixels, int32_t *label);

#ifdef __cplusplus
}
#endif
#endif
