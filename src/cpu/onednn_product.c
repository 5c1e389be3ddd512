/* Matrix products on oneDNN: cut into pieces of the result by shape alone, one single-threaded
 * primitive for each.
 *
 * The own kernels of cpu/simd/small_product.c take what is so small, or has so few rows, that a
 * call costs more than the arithmetic; what remains comes here. */
#include <stdlib.h>

#include "base/threads.h"
#include "cpu/onednn.h"
#include "cpu/onednn_convolution.h"
#include "cpu/product.h"

void tn_cpu_onednn_product(tn_kernel_table *table);

/* The result is a grid of pieces; those in the last row and column may be smaller. */
typedef struct product_plan {
    tn_product p;
    int64_t piece_m, piece_n, rows, columns; /* rows * columns pieces for each entry of the batch */
    int64_t pieces;
    int lanes; /* threads that share the pieces; each has scratch of its own */
    size_t lane_scratch;
    size_t in_size, out_size;
    tn_primitive *primitive[2][2]; /* [last row][last column] */
} product_plan;

/* ---- cutting --------------------------------------------------------------------------------- */

static int64_t up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/* Pieces a product of so many FLOP is worth: below 2 MFLOP (10 to 20 us) a second core does not
 * pay; above, pieces of 8 MFLOP, and larger ones for large products. */
static int64_t pieces_worth(double flop)
{
    if (flop < 2e6) return 1;
    double pieces = flop < 128e6 ? flop / 8e6 : 16 + (flop - 128e6) / 64e6;
    return pieces < 2 ? 2 : pieces > 64 ? 64 : (int64_t)pieces;
}

/* oneDNN packs a piece of b for each piece of rows, and a piece of a, if that is transposed, for
 * each piece of columns. So columns are cut first, unless a is packed too; and no piece gets
 * smaller than what makes packing cheap. */
static void cut(product_plan *w)
{
    const tn_product *p = &w->p;
    double flop = 2 * (double)p->M * (double)p->N * (double)p->K;
    int64_t wanted = (pieces_worth(flop * (double)p->batch) + p->batch - 1) / p->batch, rows = 1,
            columns = 1;
    bool a_is_packed = p->a_k != 1;
    while (rows * columns < wanted) {
        int64_t m = p->M / rows, n = p->N / columns;
        bool cut_columns = n >= 256 && (!a_is_packed || n >= m);
        if (cut_columns || (m < 128 && n >= 128)) columns *= 2;
        else if (m >= 128 || (m >= 32 && n < 128)) rows *= 2;
        else break;
    }
    w->piece_m = tn_least(p->M, up((p->M + rows - 1) / rows, 8));
    w->piece_n = tn_least(p->N, up((p->N + columns - 1) / columns, p->N >= 256 ? 64 : 16));
    w->rows = (p->M + w->piece_m - 1) / w->piece_m;
    w->columns = (p->N + w->piece_n - 1) / w->piece_n;
    w->pieces = w->rows * w->columns * p->batch;
    int threads = tn_thread_count();
    w->lanes = flop * (double)p->batch < 2e6 ? 1 : (int)tn_least(w->pieces, threads);
}

static dnnl_status_t describe(dnnl_memory_desc_t *md, tn_dtype dtype, int64_t rows, int64_t columns,
                              int64_t row, int64_t column)
{
    dnnl_data_type_t type = dnnl_f32;
    tn_onednn_dtype(dtype, &type);
    return dnnl_memory_desc_init_by_strides(md, 2, (const dnnl_dims_t){rows, columns}, type,
                                            (const dnnl_dims_t){row, column});
}

static tn_status make_primitive(const tn_step *step, product_plan *w, bool last_row,
                                bool last_column)
{
    static const int argument[] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS};
    const tn_product *p = &w->p;
    int64_t m = last_row ? p->M - (w->rows - 1) * w->piece_m : w->piece_m,
            n = last_column ? p->N - (w->columns - 1) * w->piece_n : w->piece_n;
    tn_primitive **primitive = &w->primitive[last_row][last_column];
    dnnl_memory_desc_t a, b, c, bias;
    dnnl_matmul_desc_t descriptor;
    bool has_bias = tn_product_has_bias(p);
    dnnl_status_t status = describe(&a, p->in, m, p->K, p->a_m, p->a_k);
    if (status == dnnl_success) status = describe(&b, p->in, p->K, n, p->b_k, p->b_n);
    if (status == dnnl_success) status = describe(&c, p->out, m, n, p->N, 1);
    if (status == dnnl_success && has_bias) status = describe(&bias, p->bias, 1, n, n, 1);
    if (status == dnnl_success)
        status = dnnl_matmul_desc_init(&descriptor, &a, &b, has_bias ? &bias : NULL, &c);
    if (status != dnnl_success) return tn_onednn_fail(step, "describe it", status);
    TN_TRY(tn_primitive_create(primitive, step, &descriptor, argument, has_bias ? 4 : 3, w->lanes));
    size_t scratch = tn_primitive_scratch(*primitive);
    if (scratch > w->lane_scratch) w->lane_scratch = scratch;
    return TN_OK;
}

/* ---- running --------------------------------------------------------------------------------- */

typedef struct product_run {
    const product_plan *w;
    unsigned char *a, *b, *c, *bias, *scratch;
    tn_status *status; /* by lane */
} product_run;

static tn_status run_piece(const product_run *r, int lane, int64_t piece)
{
    const product_plan *w = r->w;
    const tn_product *p = &w->p;
    int64_t row = piece % w->rows, column = piece / w->rows % w->columns,
            entry = piece / (w->rows * w->columns), a, b;
    tn_product_offsets(p, entry, &a, &b);
    a += row * w->piece_m * p->a_m;
    b += column * w->piece_n * p->b_n;
    int64_t c = (entry * p->M + row * w->piece_m) * p->N + column * w->piece_n;
    unsigned char *bias = r->bias ? r->bias + (size_t)(column * w->piece_n) * tn_dtype_size(p->bias)
                                  : NULL;
    void *data[] = {r->a + a * (int64_t)w->in_size, r->b + b * (int64_t)w->in_size,
                    r->c + c * (int64_t)w->out_size, bias};
    return tn_primitive_run(w->primitive[row == w->rows - 1][column == w->columns - 1], lane, data,
                            r->scratch + (size_t)lane * w->lane_scratch);
}

static void run_lanes(void *context, int64_t begin, int64_t end)
{
    const product_run *r = context;
    for (int64_t lane = begin; lane < end; lane++) {
        int64_t first = lane * r->w->pieces / r->w->lanes,
                stop = (lane + 1) * r->w->pieces / r->w->lanes;
        for (int64_t i = first; i < stop && r->status[lane] == TN_OK; i++)
            r->status[lane] = run_piece(r, (int)lane, i);
    }
}

enum { MOST_LANES = 256 };

static tn_status product_run_all(const tn_step *step, void *const *in, void *const *out,
                                 void *workspace)
{
    const product_plan *w = step->prepared;
    tn_status status[MOST_LANES];
    for (int i = 0; i < w->lanes; i++) status[i] = TN_OK;
    product_run run = {w,         in[0], in[1], out[0], tn_product_has_bias(&w->p) ? in[2] : NULL,
                       workspace, status};
    tn_parallel(w->lanes, 1, run_lanes, &run);
    for (int i = 0; i < w->lanes; i++)
        if (status[i] != TN_OK)
            return tn_fail(status[i],
                           "oneDNN failed while running"); /* the message was another thread's */
    return TN_OK;
}

static void product_release(tn_step *step)
{
    product_plan *w = step->prepared;
    for (int i = 0; w && i < 4; i++) tn_primitive_free(w->primitive[i / 2][i % 2]);
    free(w);
    step->prepared = NULL;
}

/* ---- choosing -------------------------------------------------------------------------------- */

/* The result has no elements. */
static tn_status nothing_run(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    (void)step, (void)in, (void)out, (void)workspace;
    return TN_OK;
}

/* The own kernels for small and narrow products; their prepare answers TN_UNSUPPORTED for what
 * is not theirs. */
static const tn_kernel *small;

static const tn_kernel nothing = {.run = nothing_run};

static void matmul_layouts(const tn_step *step, tn_layout *in, tn_layout *out)
{
    in[0] = in[1] = TN_ANY_MATRIX;
    if (step->in_count > 2) in[2] = TN_ROWS;
    out[0] = TN_ROWS;
}

static tn_status matmul_prepare(tn_step *step)
{
    if (tn_operand_size(&step->out[0]) == 0) {
        step->kernel = &nothing;
        return TN_OK;
    }
    const tn_kernel *self = step->kernel;
    if (small) {
        step->kernel = small;
        tn_status status = small->prepare(step);
        if (status != TN_UNSUPPORTED) return status;
        step->kernel = self;
    }
    dnnl_data_type_t type;
    if (!tn_onednn_dtype(step->in[0].dtype, &type) || !tn_onednn_dtype(step->out[0].dtype, &type))
        return tn_fail(TN_UNSUPPORTED, "matmul of %s to %s is not implemented; cast to f32",
                       tn_dtype_name(step->in[0].dtype), tn_dtype_name(step->out[0].dtype));
    product_plan *w = calloc(1, sizeof *w);
    if (!w) return tn_fail(TN_MEMORY, "out of memory");
    step->prepared = w;
    w->p = tn_product_of(step);
    w->in_size = tn_dtype_size(w->p.in);
    w->out_size = tn_dtype_size(w->p.out);
    cut(w);
    if (w->lanes > MOST_LANES) w->lanes = MOST_LANES;
    tn_status status = TN_OK;
    for (int i = 0; i < 4 && status == TN_OK; i++) {
        bool last_row = i / 2, last_column = i % 2;
        if ((last_row || w->rows > 1) && (last_column || w->columns > 1))
            status = make_primitive(step, w, last_row, last_column);
    }
    step->workspace = w->lane_scratch * (size_t)w->lanes;
    if (status != TN_OK) product_release(step);
    return status;
}

void tn_cpu_onednn_product(tn_kernel_table *table)
{
    static const tn_kernel matmul = {.layouts = matmul_layouts,
                                     .prepare = matmul_prepare,
                                     .run = product_run_all,
                                     .release = product_release};
    small = table->kernel[TN_OP_MATMUL];
    table->kernel[TN_OP_MATMUL] = &matmul;
    tn_cpu_onednn_convolution(table);
}
