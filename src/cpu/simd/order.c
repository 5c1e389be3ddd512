/* Sorting and the k largest, along the last dimension.
 *
 * Every dtype is turned into an unsigned key that sorts as the dtype does (-0 like 0, all NaN alike
 * and above infinity), so there is one sort: insertion for short rows, else radix by bytes, which
 * is stable and skips bytes that are the same everywhere. */
#include <string.h>

#include "base/half.h"
#include "base/status.h"
#include "base/threads.h"
#include "graph/index.h"

typedef struct item {
    uint64_t key;
    int64_t index;
} item;

#define SHORT_ROW 48
#define MOST_PARTS                                                                                 \
    16 /* rows are dealt out to at most so many threads, each with a workspace of its own */

/* ---- keys ------------------------------------------------------------------------------------ */

static inline uint64_t key_of_f32(float x)
{
    uint32_t bits = tn_f32_bits(x + 0.0F); /* -0 + 0 is 0 */
    if (x != x) return UINT32_MAX;
    return bits >> 31 ? ~bits : bits | 0x80000000U;
}

static inline uint64_t key_of_f64(double x)
{
    uint64_t bits;
    x += 0.0;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return UINT64_MAX;
    return bits >> 63 ? ~bits : bits | UINT64_C(1) << 63;
}

static inline uint64_t key_of(const void *x, int64_t i, tn_dtype dtype)
{
    switch (dtype) {
    case TN_F32: return key_of_f32(((const float *)x)[i]);
    case TN_F64: return key_of_f64(((const double *)x)[i]);
    case TN_BF16: return key_of_f32(tn_f32_from_bf16(((const uint16_t *)x)[i]));
    case TN_F16: return key_of_f32(tn_f32_from_f16(((const uint16_t *)x)[i]));
    case TN_I64: return (uint64_t)((const int64_t *)x)[i] ^ UINT64_C(1) << 63;
    case TN_I32: return (uint32_t)((const int32_t *)x)[i] ^ 0x80000000U;
    case TN_I8: return (uint8_t)(((const int8_t *)x)[i] ^ 0x80);
    default: return ((const uint8_t *)x)[i];
    }
}

static inline __attribute__((always_inline)) void fill_keys(const void *x, int64_t n,
                                                            tn_dtype dtype, uint64_t flip,
                                                            item *out)
{
    for (int64_t i = 0; i < n; i++) out[i] = (item){key_of(x, i, dtype) ^ flip, i};
}

/* Keys of a row, ascending; descending order is that of the complements, which keeps it stable. */
static void make_items(const void *x, int64_t n, tn_dtype dtype, bool descending, item *out)
{
    bool wide = dtype == TN_F64 || dtype == TN_I64,
         narrow = dtype == TN_I8 || dtype == TN_U8 || dtype == TN_BOOL;
    uint64_t flip = !descending ? 0 : wide ? UINT64_MAX : narrow ? 0xff : UINT32_MAX;
    switch (dtype) {
    case TN_F32: fill_keys(x, n, TN_F32, flip, out); break;
    case TN_F64: fill_keys(x, n, TN_F64, flip, out); break;
    case TN_BF16: fill_keys(x, n, TN_BF16, flip, out); break;
    case TN_F16: fill_keys(x, n, TN_F16, flip, out); break;
    case TN_I64: fill_keys(x, n, TN_I64, flip, out); break;
    case TN_I32: fill_keys(x, n, TN_I32, flip, out); break;
    case TN_I8: fill_keys(x, n, TN_I8, flip, out); break;
    default: fill_keys(x, n, TN_U8, flip, out);
    }
}

/* ---- sorting --------------------------------------------------------------------------------- */

static void insertion_sort(item *x, int64_t n)
{
    for (int64_t i = 1; i < n; i++) {
        item moving = x[i];
        int64_t at = i;
        for (; at > 0 && x[at - 1].key > moving.key; at--) x[at] = x[at - 1];
        x[at] = moving;
    }
}

/* Sorts x with `other` as scratch; returns which of the two holds the result. */
static item *sort_items(item *x, item *other, int64_t n)
{
    if (n <= SHORT_ROW) {
        insertion_sort(x, n);
        return x;
    }
    uint32_t count[8][256];
    memset(count, 0, sizeof count);
    for (int64_t i = 0; i < n; i++)
        for (int b = 0; b < 8; b++) count[b][x[i].key >> 8 * b & 255]++;
    for (int b = 0; b < 8; b++) {
        if (count[b][x[0].key >> 8 * b & 255] == n) continue;
        uint32_t start = 0;
        for (int v = 0; v < 256; v++) {
            uint32_t c = count[b][v];
            count[b][v] = start;
            start += c;
        }
        for (int64_t i = 0; i < n; i++) other[count[b][x[i].key >> 8 * b & 255]++] = x[i];
        item *swap = x;
        x = other;
        other = swap;
    }
    return x;
}

/* ---- the k largest --------------------------------------------------------------------------- */

/* a stands behind b in the result. */
static inline bool behind(item a, item b)
{
    return a.key != b.key ? a.key < b.key : a.index > b.index;
}

/* The heap's root is the item that would go first. */
static void sift_down(item *heap, int64_t k, int64_t at)
{
    item moving = heap[at];
    for (int64_t child; (child = 2 * at + 1) < k; at = child) {
        if (child + 1 < k && behind(heap[child + 1], heap[child])) child++;
        if (!behind(heap[child], moving)) break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

static void offer(item *heap, int64_t k, item candidate)
{
    if (behind(candidate, heap[0])) return;
    heap[0] = candidate;
    sift_down(heap, k, 0);
}

/* Most of a long row is smaller than the smallest of the heap: blocks are compared as a whole. */
static void scan_f32(const float *x, int64_t begin, int64_t n, item *heap, int64_t k)
{
    int64_t i = begin;
    for (; i + 32 <= n; i += 32) {
        float threshold = x[heap[0].index];
        int any = 0;
        for (int b = 0; b < 32; b++) any |= !(x[i + b] <= threshold);
        if (!any) continue;
        for (int b = 0; b < 32; b++) offer(heap, k, (item){key_of_f32(x[i + b]), i + b});
    }
    for (; i < n; i++) offer(heap, k, (item){key_of_f32(x[i]), i});
}

/* Leaves the k largest in heap, best first. */
static void select_largest(const void *x, int64_t n, tn_dtype dtype, item *heap, int64_t k)
{
    for (int64_t i = 0; i < k; i++) heap[i] = (item){key_of(x, i, dtype), i};
    for (int64_t i = k / 2 - 1; i >= 0; i--) sift_down(heap, k, i);
    if (dtype == TN_F32) scan_f32(x, k, n, heap, k);
    else
        for (int64_t i = k; i < n; i++) offer(heap, k, (item){key_of(x, i, dtype), i});
    for (int64_t left = k - 1; left > 0; left--) { /* the root goes to the end, and so on */
        item root = heap[0];
        heap[0] = heap[left];
        heap[left] = root;
        sift_down(heap, left, 0);
    }
}

/* ---- kernels --------------------------------------------------------------------------------- */

typedef struct job {
    const tn_step *step;
    const unsigned char *in;
    unsigned char *values;
    int64_t *indices;
    item *workspace;
    int64_t rows, n, k, parts, items, size; /* items of workspace for each part */
    bool descending, sorts;
} job;

static job job_of(const tn_step *step)
{
    const tn_operand *x = &step->in[0];
    job j = {.step = step,
             .n = x->dim[x->rank - 1],
             .k = step->out[0].dim[x->rank - 1],
             .rows = 1,
             .size = (int64_t)tn_dtype_size(x->dtype)};
    for (int i = 0; i < x->rank - 1; i++) j.rows *= x->dim[i];
    j.descending = ((const tn_axis_attribute *)step->attribute)->reverse;
    j.sorts = step->op->id == TN_OP_SORT ||
              j.k > j.n / 8; /* so many that sorting is cheaper than a heap */
    j.parts = j.rows < MOST_PARTS ? j.rows : MOST_PARTS;
    j.items = j.sorts ? (j.n > SHORT_ROW ? 2 : 1) * j.n : j.k;
    return j;
}

static void order_parts(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    tn_dtype dtype = j->step->in[0].dtype;
    item *scratch = j->workspace + begin * j->items;
    for (int64_t row = begin * j->rows / j->parts; row < end * j->rows / j->parts; row++) {
        const unsigned char *in = j->in + row * j->n * j->size;
        const item *result = scratch;
        if (j->sorts) {
            make_items(in, j->n, dtype, j->descending, scratch);
            result = sort_items(scratch, scratch + j->n, j->n);
        } else {
            select_largest(in, j->n, dtype, scratch, j->k);
        }
        unsigned char *values = j->values + row * j->k * j->size;
        for (int64_t i = 0; i < j->k; i++) {
            j->indices[row * j->k + i] = result[i].index;
            memcpy(values + i * j->size, in + result[i].index * j->size, (size_t)j->size);
        }
    }
}

static tn_status order_prepare(tn_step *step)
{
    job j = job_of(step);
    if (j.n > UINT32_MAX)
        return tn_fail(TN_UNSUPPORTED, "%s of rows of more than 2^32 elements", step->op->name);
    step->workspace = (size_t)(j.parts * j.items) * sizeof(item);
    return TN_OK;
}

static tn_status order_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    job j = job_of(step);
    if (j.k == 0 || j.rows == 0) return TN_OK;
    j.in = in[0];
    j.values = out[0];
    j.indices = out[1];
    j.workspace = workspace;
    int64_t work = j.rows * j.n * (j.sorts ? 16 : 1) / j.parts; /* nanoseconds or so */
    tn_parallel(j.parts, 30000 / (work + 1) + 1, order_parts, &j);
    return TN_OK;
}

void TN_ISA(tn_cpu_order)(tn_kernel_table *table);
void TN_ISA(tn_cpu_order)(tn_kernel_table *table)
{
    static const tn_kernel order_kernel = {.prepare = order_prepare, .run = order_run};
    table->kernel[TN_OP_TOP_K] = &order_kernel;
    table->kernel[TN_OP_SORT] = &order_kernel;
}
