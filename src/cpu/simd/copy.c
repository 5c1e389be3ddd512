/* Copies between any two layouts, at the speed of memory: contiguous rows, fills, 2-D transposes in
 * blocks, and what is left. */
#include "cpu/simd/copy.h"

#include <stdlib.h>

#include "base/status.h"
#include "base/threads.h"

enum { ROWS, FILL, REVERSED, TRANSPOSED, STRIDED };

#define PIECE_BYTES 32768        /* a piece of work: fits L1 or nearly so */
#define PARALLEL_BYTES (1 << 18) /* below this, waking the other core costs more than it saves */

typedef uint8_t word1 __attribute__((may_alias));
typedef uint16_t word2 __attribute__((may_alias));
typedef uint32_t word4 __attribute__((may_alias));
typedef uint64_t word8 __attribute__((may_alias));

/* ---- making ready ---------------------------------------------------------------------------- */

static void swap(tn_copy *c, int a, int b)
{
    int64_t dim = c->dim[a], from = c->from[a], to = c->to[a];
    c->dim[a] = c->dim[b], c->from[a] = c->from[b], c->to[a] = c->to[b];
    c->dim[b] = dim, c->from[b] = from, c->to[b] = to;
}

/* Dimensions of size 1 drop out; the target's innermost comes last. */
static void sort_dimensions(tn_copy *c, const tn_operand *from, const tn_operand *to)
{
    for (int i = 0; i < to->rank; i++) {
        if (to->dim[i] == 1) continue;
        int at = c->rank++;
        c->dim[at] = to->dim[i];
        c->from[at] = from->stride[i] * c->size;
        c->to[at] = to->stride[i] * c->size;
        for (; at > 0 && c->to[at - 1] < c->to[at]; at--) swap(c, at - 1, at);
    }
}

static void merge_dimensions(tn_copy *c)
{
    int kept = 0;
    for (int i = 1; i < c->rank; i++) {
        if (c->from[kept] == c->from[i] * c->dim[i] && c->to[kept] == c->to[i] * c->dim[i]) {
            c->dim[kept] *= c->dim[i];
        } else {
            kept++;
            c->dim[kept] = c->dim[i];
        }
        c->from[kept] = c->from[i];
        c->to[kept] = c->to[i];
    }
    c->rank = c->rank ? kept + 1 : 0;
}

static void choose_kind(tn_copy *c)
{
    int last = c->rank - 1;
    c->kind = STRIDED;
    if (c->to[last] != c->size) return;
    if (c->from[last] == c->size) c->kind = ROWS;
    if (c->from[last] == 0) c->kind = FILL;
    if (c->from[last] == -c->size) c->kind = REVERSED;
    for (int i = 0; i < last && c->kind == STRIDED; i++) {
        if (c->from[i] != c->size) continue;
        c->kind = TRANSPOSED;
        for (; i < last - 1; i++)
            swap(c, i, i + 1); /* the source's innermost dimension becomes the panel's rows */
    }
}

static int64_t at_most(int64_t x, int64_t limit) { return x < limit ? x : limit; }

static void cut(tn_copy *c)
{
    int64_t rows = c->dim[c->rank - 2], columns = c->dim[c->rank - 1],
            elements = PIECE_BYTES / c->size;
    if (c->kind == TRANSPOSED) {
        /* square tiles; one side longer when the other is short */
        int64_t side = c->size == 8 ? 32 : 64;
        c->row_block = at_most(rows, columns < side ? elements / columns / 2 / 8 * 8 : side);
        c->column_block = at_most(columns, rows < side ? elements / rows / 2 / 8 * 8 : side);
    } else {
        c->column_block = at_most(columns, elements);
        c->row_block = at_most(rows, columns > elements ? 1 : elements / columns);
    }
    if (c->row_block < 1) c->row_block = 1;
    if (c->column_block < 1) c->column_block = 1;
    c->row_blocks = (rows + c->row_block - 1) / c->row_block;
    c->column_blocks = (columns + c->column_block - 1) / c->column_block;
    c->items = c->row_blocks * c->column_blocks;
    for (int i = 0; i < c->rank - 2; i++) c->items *= c->dim[i];
    c->grain = PARALLEL_BYTES / (c->row_block * c->column_block * c->size) + 1;
}

void TN_ISA(tn_copy_make)(tn_copy *c, const tn_operand *from, const tn_operand *to)
{
    *c = (tn_copy){.size = (int64_t)tn_dtype_size(to->dtype)};
    if (tn_operand_size(to) == 0) return; /* no items */
    sort_dimensions(c, from, to);
    merge_dimensions(c);
    while (c->rank < 2) { /* a panel has two dimensions */
        for (int i = c->rank++; i > 0; i--) swap(c, i, i - 1);
        c->dim[0] = 1;
        c->from[0] = c->to[0] = c->size;
    }
    if (c->dim[1] == 1) c->from[1] = c->to[1] = c->size;
    choose_kind(c);
    cut(c);
}

/* ---- pieces of a panel ----------------------------------------------------------------------- */

typedef struct panel {
    const unsigned char *in;
    unsigned char *out;
    int64_t rows, columns;
    int64_t from_row, from_column, to_row, to_column; /* bytes */
} panel;

#define EACH_SIZE(X) X(1) X(2) X(4) X(8)

#define DEFINE_LOOPS(bytes)                                                                        \
    static void fill##bytes(const panel *p)                                                        \
    {                                                                                              \
        for (int64_t i = 0; i < p->rows; i++) {                                                    \
            word##bytes value = *(const word##bytes *)(p->in + i * p->from_row);                   \
            word##bytes *out = (word##bytes *)(p->out + i * p->to_row);                            \
            for (int64_t j = 0; j < p->columns; j++) out[j] = value;                               \
        }                                                                                          \
    }                                                                                              \
    static void reversed##bytes(const panel *p)                                                    \
    {                                                                                              \
        for (int64_t i = 0; i < p->rows; i++) {                                                    \
            const word##bytes *restrict in = (const word##bytes *)(p->in + i * p->from_row);       \
            word##bytes *restrict out = (word##bytes *)(p->out + i * p->to_row);                   \
            for (int64_t j = 0; j < p->columns; j++) out[j] = in[-j];                              \
        }                                                                                          \
    }                                                                                              \
    static void strided##bytes(const panel *p)                                                     \
    {                                                                                              \
        for (int64_t i = 0; i < p->rows; i++) {                                                    \
            const unsigned char *in = p->in + i * p->from_row;                                     \
            unsigned char *out = p->out + i * p->to_row;                                           \
            for (int64_t j = 0; j < p->columns; j++, in += p->from_column, out += p->to_column)    \
                *(word##bytes *)out = *(const word##bytes *)in;                                    \
        }                                                                                          \
    }
EACH_SIZE(DEFINE_LOOPS)

static void copy_rows(const panel *p, int64_t size)
{
    for (int64_t i = 0; i < p->rows; i++)
        tn_copy_bytes(p->out + i * p->to_row, p->in + i * p->from_row, p->columns * size);
}

/* The strided loop with the longer dimension inside. */
static void strided(const panel *p, int64_t size)
{
    panel turned = *p;
    if (p->rows > p->columns)
        turned = (panel){p->in,          p->out,      p->columns,   p->rows,
                         p->from_column, p->from_row, p->to_column, p->to_row};
    if (size == 1) strided1(&turned);
    if (size == 2) strided2(&turned);
    if (size == 4) strided4(&turned);
    if (size == 8) strided8(&turned);
}

typedef uint16_t half_row __attribute__((vector_size(16)));
typedef uint32_t word_row __attribute__((vector_size(32)));
#define SHUFFLE __builtin_shufflevector

/* 8 x 8 elements of 4 bytes: exchange neighbours, then pairs, then halves. */
static inline void transpose_tile4(const unsigned char *in, int64_t from, unsigned char *out,
                                   int64_t to)
{
    word_row r[8], t[8], u[8];
    for (int i = 0; i < 8; i++) __builtin_memcpy(&r[i], in + i * from, 32);
    for (int i = 0; i < 8; i += 2) {
        t[i] = SHUFFLE(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        t[i + 1] = SHUFFLE(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int k = 0; k < 2; k++) {
            u[i + 2 * k] = SHUFFLE(t[i + k], t[i + k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            u[i + 2 * k + 1] = SHUFFLE(t[i + k], t[i + k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int i = 0; i < 4; i++) {
        r[i] = SHUFFLE(u[i], u[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        r[i + 4] = SHUFFLE(u[i], u[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    for (int i = 0; i < 8; i++) __builtin_memcpy(out + i * to, &r[i], 32);
}

/* The same for 2 bytes. */
static inline void transpose_tile2(const unsigned char *in, int64_t from, unsigned char *out,
                                   int64_t to)
{
    half_row r[8], t[8], u[8];
    for (int i = 0; i < 8; i++) __builtin_memcpy(&r[i], in + i * from, 16);
    for (int i = 0; i < 8; i += 2) {
        t[i] = SHUFFLE(r[i], r[i + 1], 0, 8, 1, 9, 2, 10, 3, 11);
        t[i + 1] = SHUFFLE(r[i], r[i + 1], 4, 12, 5, 13, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int k = 0; k < 2; k++) {
            u[i + 2 * k] = SHUFFLE(t[i + k], t[i + k + 2], 0, 1, 8, 9, 2, 3, 10, 11);
            u[i + 2 * k + 1] = SHUFFLE(t[i + k], t[i + k + 2], 4, 5, 12, 13, 6, 7, 14, 15);
        }
    for (int i = 0; i < 4; i++) {
        r[2 * i] = SHUFFLE(u[i], u[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        r[2 * i + 1] = SHUFFLE(u[i], u[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    for (int i = 0; i < 8; i++) __builtin_memcpy(out + i * to, &r[i], 16);
}

/* in has unit stride along the rows of the panel, out along its columns. */
static void transposed(const panel *p, int64_t size)
{
    int64_t rows = size == 2 || size == 4 ? p->rows / 8 * 8 : 0, columns = p->columns / 8 * 8;
    if (rows == 0 || columns == 0) {
        strided(p, size);
        return;
    }
    for (int64_t i = 0; i < rows; i += 8)
        for (int64_t j = 0; j < columns; j += 8) {
            const unsigned char *in = p->in + i * size + j * p->from_column;
            unsigned char *out = p->out + i * p->to_row + j * size;
            if (size == 4) transpose_tile4(in, p->from_column, out, p->to_row);
            else transpose_tile2(in, p->from_column, out, p->to_row);
        }
    panel edge = *p; /* columns that are left, then rows */
    edge.in += columns * p->from_column;
    edge.out += columns * size;
    edge.rows = rows;
    edge.columns -= columns;
    if (edge.columns) strided(&edge, size);
    edge = *p;
    edge.in += rows * size;
    edge.out += rows * p->to_row;
    edge.rows -= rows;
    if (edge.rows) strided(&edge, size);
}

static void copy_panel(const tn_copy *c, const panel *p)
{
    switch (c->kind) {
    case ROWS: copy_rows(p, c->size); break;
    case TRANSPOSED: transposed(p, c->size); break;
    case STRIDED: strided(p, c->size); break;
    case FILL:
        if (c->size == 1) fill1(p);
        if (c->size == 2) fill2(p);
        if (c->size == 4) fill4(p);
        if (c->size == 8) fill8(p);
        break;
    default:
        if (c->size == 1) reversed1(p);
        if (c->size == 2) reversed2(p);
        if (c->size == 4) reversed4(p);
        if (c->size == 8) reversed8(p);
    }
}

/* ---- running --------------------------------------------------------------------------------- */

typedef struct run {
    const tn_copy *copy;
    const unsigned char *in;
    unsigned char *out;
} run;

static void copy_items(void *context, int64_t begin, int64_t end)
{
    const run *r = context;
    const tn_copy *c = r->copy;
    int outer = c->rank - 2;
    int64_t index[TN_MAX_RANK + 2] = {0}, pieces = c->row_blocks * c->column_blocks,
                                rest = begin / pieces, piece = begin % pieces;
    const unsigned char *in = r->in;
    unsigned char *out = r->out;
    for (int d = outer - 1; d >= 0; d--) {
        index[d] = rest % c->dim[d];
        rest /= c->dim[d];
        in += index[d] * c->from[d];
        out += index[d] * c->to[d];
    }
    panel p = {.from_row = c->from[outer],
               .from_column = c->from[outer + 1],
               .to_row = c->to[outer],
               .to_column = c->to[outer + 1]};
    for (int64_t item = begin; item < end; item++) {
        int64_t row = piece / c->column_blocks * c->row_block,
                column = piece % c->column_blocks * c->column_block;
        p.in = in + row * p.from_row + column * p.from_column;
        p.out = out + row * p.to_row + column * p.to_column;
        p.rows = at_most(c->dim[outer] - row, c->row_block);
        p.columns = at_most(c->dim[outer + 1] - column, c->column_block);
        copy_panel(c, &p);
        if (++piece < pieces) continue;
        piece = 0;
        for (int d = outer - 1; d >= 0; d--) {
            in += c->from[d];
            out += c->to[d];
            if (++index[d] < c->dim[d]) break;
            in -= c->dim[d] * c->from[d];
            out -= c->dim[d] * c->to[d];
            index[d] = 0;
        }
    }
}

void TN_ISA(tn_copy_run)(const tn_copy *copy, const void *in, void *out)
{
    run r = {copy, in, out};
    tn_parallel(copy->items, copy->grain, copy_items, &r);
}

void TN_ISA(tn_copy_strided)(const tn_operand *from, const void *in, const tn_operand *to,
                             void *out)
{
    tn_copy copy;
    TN_ISA(tn_copy_make)(&copy, from, to);
    TN_ISA(tn_copy_run)(&copy, in, out);
}

/* ---- the kernel ------------------------------------------------------------------------------ */

static void any_to_rows(const tn_step *step, tn_layout *in, tn_layout *out)
{
    (void)step;
    in[0] = TN_ANY;
    out[0] = TN_ROWS;
}

static tn_status prepare(tn_step *step)
{
    tn_copy *copy = malloc(sizeof *copy);
    if (!copy) return tn_fail(TN_MEMORY, "out of memory for a copy");
    tn_operand from = step->out[0];
    int missing = from.rank - step->in[0].rank;
    for (int i = 0; i < from.rank; i++)
        from.stride[i] = i >= missing && step->in[0].dim[i - missing] == from.dim[i]
                             ? step->in[0].stride[i - missing]
                             : 0;
    TN_ISA(tn_copy_make)(copy, &from, &step->out[0]);
    step->prepared = copy;
    return TN_OK;
}

static tn_status copy_all(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    TN_ISA(tn_copy_run)(step->prepared, in[0], out[0]);
    return TN_OK;
}

static void release(tn_step *step)
{
    free(step->prepared);
    step->prepared = NULL;
}

const tn_kernel TN_ISA(tn_copy_kernel) = {
    .layouts = any_to_rows, .prepare = prepare, .run = copy_all, .release = release};
