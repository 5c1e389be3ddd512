/* Unslice, pad, flip and roll: every dimension of the output reads the input through a map of its
 * own. And padding's adjoint. Any dtype by the size of its elements, but for the adjoint, which
 * adds. */
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/status.h"
#include "base/threads.h"
#include "cpu/simd/copy.h"

#define PARALLEL_BYTES (1 << 18)

typedef uint8_t word1 __attribute__((may_alias));
typedef uint16_t word2 __attribute__((may_alias));
typedef uint32_t word4 __attribute__((may_alias));
typedef uint64_t word8 __attribute__((may_alias));

static tn_status out_of_memory(const tn_step *step)
{
    return tn_fail(TN_MEMORY, "%s: out of memory", step->op->name);
}

static void release(tn_step *step)
{
    free(step->prepared);
    step->prepared = NULL;
}

/* Any strides in; out channels-last if the input lies so, else row-major. */
static void as_it_lies(const tn_step *step, tn_layout *in, tn_layout *out)
{
    in[0] = TN_ANY;
    out[0] = tn_prefers_channels_last(&step->in[0]) ? TN_CHANNELS_LAST : TN_ROWS;
}

/* ---- maps ------------------------------------------------------------------------------------ */

/* A run of elements of the innermost dimension. Bytes, but for count. */
typedef struct piece {
    int64_t to, from, count, step;
    bool constant;
} piece;

/* out[i, j, ..] = in[map0(i), map1(j), ..], or the constant where a map says so. Outer dimensions
 * have tables of byte offsets (-1: the constant; NULL: read straight through), the innermost one
 * has pieces. Strides in bytes. */
typedef struct mapped {
    int outer;
    int64_t dim[TN_MAX_RANK], from[TN_MAX_RANK], to[TN_MAX_RANK];
    const int64_t *map[TN_MAX_RANK];
    int64_t rows, pieces, size, grain;
    uint64_t constant; /* its bits */
    const piece *piece;
    int64_t table[]; /* the maps, then the pieces */
} mapped;

/* Index in the input's dimension d of the output's index i; -1: the constant. */
static int64_t source(const tn_step *step, int d, int64_t i)
{
    int64_t n = step->in[0].dim[d];
    switch (step->op->id) {
    case TN_OP_FLIP: return d == ((const tn_axis_attribute *)step->attribute)->axis ? n - 1 - i : i;
    case TN_OP_ROLL: {
        const tn_roll_attribute *a = step->attribute;
        return d == a->axis ? (i - a->shift % n + n) % n : i;
    }
    case TN_OP_UNSLICE: {
        const tn_slice_attribute *a = step->attribute;
        if (d != a->axis) return i;
        i -= a->start;
        return i >= 0 && i % a->step == 0 && i / a->step < n ? i / a->step : -1;
    }
    case TN_OP_PAD: {
        const tn_pad_attribute *a = step->attribute;
        i -= a->before[d];
        if (i >= 0 && i < n) return i;
        if (a->mode == TN_PAD_EDGE) return i < 0 ? 0 : n - 1;
        if (a->mode == TN_PAD_REFLECT) return i < 0 ? -i : 2 * (n - 1) - i;
        return -1;
    }
    default:
        return i + ((const tn_pad_attribute *)step->attribute)
                       ->before[d]; /* PAD_GRAD of constant padding: a slice */
    }
}

static bool is_identity(const tn_step *step, int d)
{
    if (step->in[0].dim[d] != step->out[0].dim[d]) return false;
    for (int64_t i = 0; i < step->out[0].dim[d]; i++)
        if (source(step, d, i) != i) return false;
    return true;
}

static uint64_t bits_of(tn_dtype dtype, double value)
{
    uint64_t bits = 0;
    float single = (float)value;
    switch (dtype) {
    case TN_F64: memcpy(&bits, &value, sizeof value); return bits;
    case TN_F32: memcpy(&bits, &single, sizeof single); return bits;
    case TN_BF16: return tn_bf16_from_f32(single);
    case TN_F16: return tn_f16_from_f32(single);
    case TN_BOOL: return value != 0;
    default: return (uint64_t)(int64_t)value;
    }
}

/* Dimensions in the output's memory order; those that are read straight through and lie alike on
 * both sides become one. */
typedef struct merged_dimension {
    int d;                  /* whose map; -1: identity */
    int64_t size, from, to; /* strides in bytes */
} merged_dimension;

static int merge_dimensions(const tn_step *step, merged_dimension *merged)
{
    const tn_operand *x = &step->in[0], *y = &step->out[0];
    int64_t size = (int64_t)tn_dtype_size(y->dtype);
    int order[TN_MAX_RANK], count = 0;
    for (int i = 0; i < y->rank; i++) {
        int at = i;
        for (; at > 0 && y->stride[order[at - 1]] < y->stride[i]; at--) order[at] = order[at - 1];
        order[at] = i;
    }
    for (int k = 0; k < y->rank; k++) {
        int d = order[k];
        bool identity = is_identity(step, d);
        if (identity && y->dim[d] == 1) continue;
        merged_dimension next = {identity ? -1 : d, y->dim[d], x->stride[d] * size,
                                 y->stride[d] * size};
        merged_dimension *last = count ? &merged[count - 1] : NULL;
        if (last && identity && last->d < 0 && last->from == next.from * next.size &&
            last->to == next.to * next.size) {
            next.size *= last->size;
            *last = next;
        } else {
            merged[count++] = next;
        }
    }
    if (count == 0) merged[count++] = (merged_dimension){-1, 1, size, size};
    return count;
}

static int64_t source_offset(const tn_step *step, const merged_dimension *m, int64_t i)
{
    int64_t from = m->d < 0 ? i : source(step, m->d, i);
    return from < 0 ? -1 : from * m->from;
}

/* Runs of the innermost dimension: constant, or with a fixed stride, and short enough to be shared
 * between cores. Returns how many; writes them unless `out` is NULL. */
static int64_t cut_pieces(const tn_step *step, const merged_dimension *m, int64_t size, piece *out)
{
    int64_t count = 0, most = 65536 / size;
    for (int64_t i = 0; i < m->size;) {
        int64_t limit = m->size - i < most ? m->size : i + most, end = i + 1,
                first = source_offset(step, m, i), stride = m->from;
        if (m->d < 0) {
            end = limit;
        } else if (first < 0) {
            while (end < limit && source_offset(step, m, end) < 0) end++;
        } else {
            int64_t second = end < limit ? source_offset(step, m, end) : -1;
            if (second >= 0 && (second == first || second == first - m->from))
                stride = second - first;
            while (end < limit && source_offset(step, m, end) == first + (end - i) * stride) end++;
        }
        if (out) out[count] = (piece){i * size, first, end - i, stride, first < 0};
        count++;
        i = end;
    }
    return count;
}

static tn_status mapped_prepare(tn_step *step)
{
    const tn_operand *y = &step->out[0];
    if (tn_operand_size(y) == 0) {
        step->prepared = calloc(1, sizeof(mapped));
        return step->prepared ? TN_OK : out_of_memory(step);
    }
    merged_dimension dimension[TN_MAX_RANK];
    int count = merge_dimensions(step, dimension);
    const merged_dimension *inner = &dimension[count - 1];
    int64_t entries = 0, size = (int64_t)tn_dtype_size(y->dtype),
            pieces = cut_pieces(step, inner, size, NULL);
    for (int i = 0; i < count - 1; i++) entries += dimension[i].d < 0 ? 0 : dimension[i].size;
    mapped *m = calloc(1, sizeof *m + (size_t)entries * sizeof(int64_t) +
                              (size_t)pieces * sizeof(piece));
    if (!m) return out_of_memory(step);
    step->prepared = m;
    m->outer = count - 1;
    m->size = size;
    m->rows = 1;
    int64_t *table = m->table;
    for (int i = 0; i < m->outer; i++) {
        const merged_dimension *d = &dimension[i];
        m->dim[i] = d->size;
        m->from[i] = d->from;
        m->to[i] = d->to;
        m->rows *= d->size;
        if (d->d < 0) continue;
        m->map[i] = table;
        for (int64_t k = 0; k < d->size; k++) *table++ = source_offset(step, d, k);
    }
    m->piece = (piece *)(void *)table;
    m->pieces = cut_pieces(step, inner, size, (piece *)(void *)table);
    m->grain = PARALLEL_BYTES / (inner->size * size / pieces + 1) + 1;
    if (step->op->id == TN_OP_PAD)
        m->constant = bits_of(y->dtype, ((const tn_pad_attribute *)step->attribute)->value);
    return TN_OK;
}

#define DEFINE_PIECE(bytes)                                                                        \
    static void fill##bytes(unsigned char *to, uint64_t bits, int64_t count)                       \
    {                                                                                              \
        word##bytes *out = (word##bytes *)to, value = (word##bytes)bits;                           \
        for (int64_t i = 0; i < count; i++) out[i] = value;                                        \
    }                                                                                              \
    static void strided##bytes(unsigned char *to, const unsigned char *from, int64_t stride,       \
                               int64_t count)                                                      \
    {                                                                                              \
        word##bytes *out = (word##bytes *)to;                                                      \
        if (stride == -bytes)                                                                      \
            for (int64_t i = 0; i < count; i++) out[i] = ((const word##bytes *)from)[-i];          \
        else                                                                                       \
            for (int64_t i = 0; i < count; i++)                                                    \
                out[i] = *(const word##bytes *)(from + i * stride);                                \
    }
DEFINE_PIECE(1)
DEFINE_PIECE(2)
DEFINE_PIECE(4)
DEFINE_PIECE(8)

static void fill(unsigned char *to, uint64_t bits, int64_t count, int64_t size)
{
    if (size == 1) fill1(to, bits, count);
    if (size == 2) fill2(to, bits, count);
    if (size == 4) fill4(to, bits, count);
    if (size == 8) fill8(to, bits, count);
}

static void strided(unsigned char *to, const unsigned char *from, int64_t stride, int64_t count,
                    int64_t size)
{
    if (size == 1) strided1(to, from, stride, count);
    if (size == 2) strided2(to, from, stride, count);
    if (size == 4) strided4(to, from, stride, count);
    if (size == 8) strided8(to, from, stride, count);
}

typedef struct mapped_run_context {
    const mapped *m;
    const unsigned char *in;
    unsigned char *out;
} mapped_run_context;

static void mapped_items(void *context, int64_t begin, int64_t end)
{
    const mapped_run_context *c = context;
    const mapped *m = c->m;
    int64_t row = begin / m->pieces, k = begin % m->pieces, index[TN_MAX_RANK] = {0};
    for (int64_t d = m->outer - 1, rest = row; d >= 0; d--) {
        index[d] = rest % m->dim[d];
        rest /= m->dim[d];
    }
    for (int64_t item = begin; item < end; row++, k = 0) {
        int64_t from = 0, to = 0;
        bool constant = false;
        for (int d = 0; d < m->outer; d++) {
            int64_t offset = m->map[d] ? m->map[d][index[d]] : index[d] * m->from[d];
            constant = constant || offset < 0;
            from += offset;
            to += index[d] * m->to[d];
        }
        for (; k < m->pieces && item < end; k++, item++) {
            const piece *p = &m->piece[k];
            unsigned char *out = c->out + to + p->to;
            if (constant || p->constant) fill(out, m->constant, p->count, m->size);
            else if (p->step == m->size)
                tn_copy_bytes(out, c->in + from + p->from, p->count * m->size);
            else strided(out, c->in + from + p->from, p->step, p->count, m->size);
        }
        for (int d = m->outer - 1; d >= 0; d--) {
            if (++index[d] < m->dim[d]) break;
            index[d] = 0;
        }
    }
}

static tn_status mapped_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const mapped *m = step->prepared;
    mapped_run_context c = {m, in[0], out[0]};
    tn_parallel(m->rows * m->pieces, m->grain, mapped_items, &c);
    return TN_OK;
}

/* ---- the adjoint of reflecting and edge padding ---------------------------------------------- */

/* Which elements of d_out add up in one element of d_in, dimension by dimension: all combinations
 * of the dimensions' lists. Constant padding is the case of one element each, and is a slice
 * (above). Dimensions in d_in's memory order. */
typedef struct fold {
    int rank;
    int64_t dim[TN_MAX_RANK], from[TN_MAX_RANK], to[TN_MAX_RANK]; /* strides in elements */
    const int64_t *start[TN_MAX_RANK],
        *list[TN_MAX_RANK]; /* list[start[i]] .. : elements of d_out, ascending */
    int64_t rows, chunks, grain;
    int64_t table[];
} fold;

#define CHUNK 256

/* The element of n that padded element i copies. */
static int64_t copied_element(const tn_pad_attribute *a, int d, int64_t n, int64_t i)
{
    i -= a->before[d];
    if (a->mode == TN_PAD_EDGE) return i < 0 ? 0 : i < n ? i : n - 1;
    return i < 0 ? -i : i < n ? i : 2 * (n - 1) - i;
}

/* A counting sort of a dimension's padded elements by the element that they copy. start: n + 1
 * zeros. */
static void invert(const tn_pad_attribute *a, int d, int64_t n, int64_t padded, int64_t *start,
                   int64_t *list)
{
    for (int64_t i = 0; i < padded; i++) start[copied_element(a, d, n, i) + 1]++;
    for (int64_t k = 0; k < n; k++) start[k + 1] += start[k];
    for (int64_t i = 0; i < padded; i++) list[start[copied_element(a, d, n, i)]++] = i;
    for (int64_t k = n; k > 0; k--)
        start[k] = start[k - 1]; /* each had moved on to the next one's beginning */
    start[0] = 0;
}

static tn_status fold_prepare(tn_step *step)
{
    const tn_pad_attribute *a = step->attribute;
    if (a->mode == TN_PAD_CONSTANT) return mapped_prepare(step);
    const tn_operand *x = &step->in[0], *y = &step->out[0];
    if (!tn_dtype_is_float(y->dtype))
        return tn_fail(TN_UNSUPPORTED, "pad_grad of %s; cast to a floating-point type",
                       tn_dtype_name(y->dtype));
    size_t entries = 0;
    for (int i = 0; i < y->rank; i++) entries += (size_t)(y->dim[i] + 1 + x->dim[i]);
    fold *f = calloc(1, sizeof *f + entries * sizeof(int64_t));
    if (!f) return out_of_memory(step);
    step->prepared = f;
    if (tn_operand_size(y) == 0) return TN_OK;
    int order[TN_MAX_RANK];
    for (int i = 0; i < y->rank; i++) {
        int at = i;
        for (; at > 0 && y->stride[order[at - 1]] < y->stride[i]; at--) order[at] = order[at - 1];
        order[at] = i;
    }
    int64_t *table = f->table;
    f->rank = y->rank;
    f->rows = 1;
    for (int i = 0; i < y->rank; i++) {
        int d = order[i];
        f->dim[i] = y->dim[d], f->from[i] = x->stride[d], f->to[i] = y->stride[d];
        invert(a, d, y->dim[d], x->dim[d], table, table + y->dim[d] + 1);
        f->start[i] = table;
        f->list[i] = table + y->dim[d] + 1;
        table += y->dim[d] + 1 + x->dim[d];
        if (i < y->rank - 1) f->rows *= y->dim[d];
    }
    f->chunks = (f->dim[f->rank - 1] + CHUNK - 1) / CHUNK;
    f->grain = PARALLEL_BYTES / 8 / (f->dim[f->rank - 1] / f->chunks + 1) + 1;
    return TN_OK;
}

static double load(const void *in, int64_t i, tn_dtype dtype)
{
    switch (dtype) {
    case TN_F32: return (double)((const float *)in)[i];
    case TN_F64: return ((const double *)in)[i];
    case TN_BF16: return (double)tn_f32_from_bf16(((const uint16_t *)in)[i]);
    default: return (double)tn_f32_from_f16(((const uint16_t *)in)[i]);
    }
}

static void store(void *out, int64_t i, double value, tn_dtype dtype)
{
    switch (dtype) {
    case TN_F32: ((float *)out)[i] = (float)value; break;
    case TN_F64: ((double *)out)[i] = value; break;
    case TN_BF16: ((uint16_t *)out)[i] = tn_bf16_from_f32((float)value); break;
    default: ((uint16_t *)out)[i] = tn_f16_from_f32((float)value);
    }
}

typedef struct fold_run_context {
    const fold *f;
    const void *in;
    void *out;
    tn_dtype dtype;
} fold_run_context;

/* sum[j] += all of row `offset` that belongs to elements first .. first+count-1 of the innermost
 * dimension. */
static inline __attribute__((always_inline)) void add_row(const fold_run_context *c, int64_t offset,
                                                          int64_t first, int64_t count, double *sum,
                                                          tn_dtype dtype)
{
    const fold *f = c->f;
    int last = f->rank - 1;
    const int64_t *start = f->start[last] + first, *list = f->list[last];
    int64_t stride = f->from[last], begin = start[0];
    if (start[count] - begin == count &&
        list[begin + count - 1] - list[begin] == count - 1) { /* nothing folds here */
        for (int64_t j = 0; j < count; j++)
            sum[j] += load(c->in, offset + (list[begin] + j) * stride, dtype);
        return;
    }
    for (int64_t j = 0; j < count; j++)
        for (int64_t e = start[j]; e < start[j + 1]; e++)
            sum[j] += load(c->in, offset + list[e] * stride, dtype);
}

static void fold_items(void *context, int64_t begin, int64_t end)
{
    const fold_run_context *c = context;
    const fold *f = c->f;
    int outer = f->rank - 1;
    for (int64_t item = begin; item < end; item++) {
        int64_t rest = item / f->chunks, first = item % f->chunks * CHUNK, index[TN_MAX_RANK] = {0},
                at[TN_MAX_RANK] = {0}, to = first * f->to[outer];
        int64_t count = f->dim[outer] - first < CHUNK ? f->dim[outer] - first : CHUNK;
        for (int d = outer - 1; d >= 0; d--) {
            index[d] = rest % f->dim[d];
            rest /= f->dim[d];
            to += index[d] * f->to[d];
            at[d] = f->start[d][index[d]];
        }
        double sum[CHUNK] = {0};
        for (int d = 0; d >= 0;) { /* all combinations of the outer lists */
            int64_t offset = 0;
            for (int i = 0; i < outer; i++) offset += f->list[i][at[i]] * f->from[i];
            switch (c->dtype) {
            case TN_F32: add_row(c, offset, first, count, sum, TN_F32); break;
            case TN_F64: add_row(c, offset, first, count, sum, TN_F64); break;
            case TN_BF16: add_row(c, offset, first, count, sum, TN_BF16); break;
            default: add_row(c, offset, first, count, sum, TN_F16);
            }
            for (d = outer - 1; d >= 0 && ++at[d] == f->start[d][index[d] + 1]; d--)
                at[d] = f->start[d][index[d]];
        }
        for (int64_t j = 0; j < count; j++) store(c->out, to + j * f->to[outer], sum[j], c->dtype);
    }
}

static tn_status fold_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    if (((const tn_pad_attribute *)step->attribute)->mode == TN_PAD_CONSTANT)
        return mapped_run(step, in, out, workspace);
    const fold *f = step->prepared;
    fold_run_context c = {f, in[0], out[0], step->out[0].dtype};
    tn_parallel(f->rows * f->chunks, f->grain, fold_items, &c);
    return TN_OK;
}

void TN_ISA(tn_cpu_mapped)(tn_kernel_table *table);
void TN_ISA(tn_cpu_mapped)(tn_kernel_table *table)
{
    static const tn_kernel mapped_kernel = {
        .layouts = as_it_lies, .prepare = mapped_prepare, .run = mapped_run, .release = release};
    static const tn_kernel fold_kernel = {
        .layouts = as_it_lies, .prepare = fold_prepare, .run = fold_run, .release = release};
    table->kernel[TN_OP_UNSLICE] = &mapped_kernel;
    table->kernel[TN_OP_PAD] = &mapped_kernel;
    table->kernel[TN_OP_FLIP] = &mapped_kernel;
    table->kernel[TN_OP_ROLL] = &mapped_kernel;
    table->kernel[TN_OP_PAD_GRAD] = &fold_kernel;
}
