/* The values of tensors: expansion to f32, and the search for NaN. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/threads.h"
#include "data/weight_set.h"

/* ---- conversion ----------------------------------------------------------------------
 * Elements [begin, end) of a tensor to f32. Sources may lie at any address, so elements are copied
 * out, which compiles to plain loads. */

#define EXPAND(type, expression)                                                                   \
    for (int64_t i = begin; i < end; i++) {                                                        \
        type x;                                                                                    \
        memcpy(&x, bytes + (size_t)i * sizeof x, sizeof x);                                        \
        out[i] = (expression);                                                                     \
    }

static void expand_plain(tn_dtype dtype, const uint8_t *bytes, int64_t begin, int64_t end,
                         float *out)
{
    switch (dtype) {
    case TN_F32:
        memcpy(out + begin, bytes + (size_t)begin * sizeof(float),
               (size_t)(end - begin) * sizeof(float));
        break;
    case TN_F64: EXPAND(double, (float)x) break;
    case TN_BF16: EXPAND(uint16_t, tn_f32_from_bf16(x)) break;
    case TN_F16: EXPAND(uint16_t, tn_f32_from_f16(x)) break;
    case TN_I64: EXPAND(int64_t, (float)x) break;
    case TN_I32: EXPAND(int32_t, (float)x) break;
    case TN_I8: EXPAND(int8_t, (float)x) break;
    case TN_U8: EXPAND(uint8_t, (float)x) break;
    case TN_BOOL: EXPAND(uint8_t, x != 0 ? 1.0F : 0.0F) break;
    case TN_DTYPE_COUNT: break;
    }
}

static float block_scale(const uint8_t *block)
{
    uint16_t half;
    memcpy(&half, block, sizeof half);
    return tn_f32_from_f16(half);
}

static void expand_q8_0(const uint8_t *bytes, int64_t begin, int64_t end, float *out)
{
    for (int64_t b = begin; b < end; b++) {
        const uint8_t *block = bytes + (size_t)b * TN_Q8_0_BYTES;
        float scale = block_scale(block);
        for (int i = 0; i < TN_BLOCK; i++)
            out[b * TN_BLOCK + i] = scale * (float)(int8_t)block[2 + i];
    }
}

static void expand_q4_0(const uint8_t *bytes, int64_t begin, int64_t end, float *out)
{
    for (int64_t b = begin; b < end; b++) {
        const uint8_t *block = bytes + (size_t)b * TN_Q4_0_BYTES;
        float scale = block_scale(block);
        for (int i = 0; i < TN_BLOCK / 2; i++) {
            out[b * TN_BLOCK + i] = scale * (float)((block[2 + i] & 15) - 8);
            out[b * TN_BLOCK + TN_BLOCK / 2 + i] = scale * (float)((block[2 + i] >> 4) - 8);
        }
    }
}

/* Work is cut into chunks of CHUNK elements, whatever the number of threads. */
enum { CHUNK = 1 << 16 };

typedef struct pass {
    const tn_weight *weight;
    int64_t count;
    float *out;
    int64_t *bad; /* of each chunk: the first element that is not finite, or -1 */
} pass;

static void expand_chunks(void *context, int64_t first, int64_t last)
{
    const pass *p = context;
    int64_t begin = first * CHUNK, end = last * CHUNK < p->count ? last * CHUNK : p->count;
    switch (p->weight->coding) {
    case TN_CODING_PLAIN:
        expand_plain(p->weight->dtype, p->weight->bytes, begin, end, p->out);
        break;
    case TN_CODING_Q8_0:
        expand_q8_0(p->weight->bytes, begin / TN_BLOCK, end / TN_BLOCK, p->out);
        break;
    case TN_CODING_Q4_0:
        expand_q4_0(p->weight->bytes, begin / TN_BLOCK, end / TN_BLOCK, p->out);
        break;
    }
}

tn_status tn_weights_read_f32(const tn_weights *weights, const char *name, float *out,
                              int64_t count)
{
    const tn_weight *weight = tn_weights_find(weights, name);
    if (!weight) return tn_weights_missing(weights, name);
    pass p = {.weight = weight, .count = tn_shape_size(weight->shape), .out = out};
    if (p.count != count)
        return tn_fail(TN_FORMAT,
                       "%s: tensor \"%s\" has %" PRId64 " elements, but %" PRId64 " are wanted",
                       weights->path, name, p.count, count);
    if (count > 0) tn_parallel((count + CHUNK - 1) / CHUNK, 2, expand_chunks, &p);
    return TN_OK;
}

/* ---- looking for NaN -----------------------------------------------------------------
 * A float is finite if its exponent bits are not all ones. A chunk is first reduced to one word
 * without branches (so that it runs at the speed of memory) and looked at closely only if there is
 * something. */

#define SCAN(type, exponent)                                                                       \
    do {                                                                                           \
        type found = 0, x;                                                                         \
        for (int64_t i = begin; i < end; i++) {                                                    \
            memcpy(&x, bytes + (size_t)i * sizeof x, sizeof x);                                    \
            found |= (type)((x & (exponent)) == (exponent));                                       \
        }                                                                                          \
        for (int64_t i = begin; found && i < end; i++) {                                           \
            memcpy(&x, bytes + (size_t)i * sizeof x, sizeof x);                                    \
            if ((x & (exponent)) == (exponent)) return i;                                          \
        }                                                                                          \
        return -1;                                                                                 \
    } while (0)

static int64_t first_bad(const tn_weight *weight, int64_t begin, int64_t end)
{
    const uint8_t *bytes = weight->bytes;
    if (weight->coding != TN_CODING_PLAIN) {
        size_t block = weight->coding == TN_CODING_Q8_0 ? TN_Q8_0_BYTES : TN_Q4_0_BYTES;
        for (int64_t b = begin / TN_BLOCK; b < end / TN_BLOCK; b++) {
            uint16_t scale;
            memcpy(&scale, bytes + (size_t)b * block, sizeof scale);
            if ((scale & 0x7c00) == 0x7c00) return b * TN_BLOCK;
        }
        return -1;
    }
    switch (weight->dtype) {
    case TN_F64: SCAN(uint64_t, UINT64_C(0x7ff0000000000000));
    case TN_F32: SCAN(uint32_t, UINT32_C(0x7f800000));
    case TN_BF16: SCAN(uint16_t, 0x7f80);
    case TN_F16: SCAN(uint16_t, 0x7c00);
    default: return -1;
    }
}

static void scan_chunks(void *context, int64_t first, int64_t last)
{
    const pass *p = context;
    for (int64_t c = first; c < last; c++)
        p->bad[c] = first_bad(p->weight, c * CHUNK,
                              (c + 1) * CHUNK < p->count ? (c + 1) * CHUNK : p->count);
}

tn_status tn_weights_check_finite(const tn_weights *weights)
{
    int64_t chunks = 1;
    for (int i = 0; i < weights->count; i++) {
        int64_t need = tn_shape_size(weights->tensor[i].shape) / CHUNK + 1;
        if (need > chunks) chunks = need;
    }
    int64_t *bad = malloc((size_t)chunks * sizeof *bad);
    if (!bad) return tn_fail(TN_MEMORY, "%s: out of memory", weights->path);
    tn_status status = TN_OK;
    for (int i = 0; status == TN_OK && i < weights->count; i++) {
        const tn_weight *weight = &weights->tensor[i];
        pass p = {.weight = weight, .count = tn_shape_size(weight->shape), .bad = bad};
        if (!tn_dtype_is_float(weight->dtype) || p.count == 0) continue;
        int64_t used = (p.count + CHUNK - 1) / CHUNK;
        tn_parallel(used, 2, scan_chunks, &p);
        for (int64_t c = 0; status == TN_OK && c < used; c++)
            if (bad[c] >= 0)
                status = tn_fail(
                    TN_FORMAT,
                    "%s: tensor \"%s\": element %" PRId64 " of %" PRId64
                    " is NaN or infinite: the file was damaged, or its training diverged",
                    weights->path, weight->name, bad[c], p.count);
    }
    free(bad);
    return status;
}
