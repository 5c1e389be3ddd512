/* CIFAR-10's binary form. */
#include "base/status.h"
#include "tenon/images.h"

enum { RECORD = 3073, CLASSES = 10 };

tn_status tn_cifar_view(const void *bytes, int64_t size, const char *name, tn_cifar *cifar)
{
    *cifar = (tn_cifar){0};
    if (size <= 0 || size % RECORD)
        return tn_fail(TN_FORMAT,
                       "%s: %lld bytes are not a whole number of records of %d bytes; is it "
                       "CIFAR-10's binary version?",
                       name, (long long)size, RECORD);
    const uint8_t *record = bytes;
    for (int64_t i = 0; i < size / RECORD; i++)
        if (record[i * RECORD] >= CLASSES)
            return tn_fail(
                TN_FORMAT,
                "%s: record %lld has label %d; labels are 0 to 9 (CIFAR-100 has two label bytes)",
                name, (long long)i, record[i * RECORD]);
    *cifar = (tn_cifar){size / RECORD, record};
    return TN_OK;
}

void tn_cifar_image(const tn_cifar *cifar, int64_t index, float *pixels, int32_t *label)
{
    const uint8_t *record = cifar->record + index * RECORD;
    *label = record[0];
    for (int i = 0; i < RECORD - 1; i++) pixels[i] = (float)record[1 + i] / 255;
}
