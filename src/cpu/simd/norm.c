/* Layer and RMS norm over rows of E: each row is read from memory once and worked on in L1.
 *
 * The backward pass takes four rows at a time, so that the running sums of the parameters'
 * gradients are loaded and stored once for the four. Those sums are kept per chunk of rows (cut
 * from the shape) and added up in the order of the chunks. */
#include <math.h>

#include "base/threads.h"
#include "cpu/simd/float_lanes.h"
#include "graph/norm.h"

enum {
    SMALL = 32768, /* elements below which one thread does it all: a fork costs about as much */
    BLOCK = 4096,  /* elements whose statistics are taken in two passes in L1 */
    MOST_CHUNKS = 32,
    MOST_ROWS = 512 /* of a chunk: bounds the error of the plain sums over its rows */
};

typedef struct job {
    const tn_norm_attribute *attribute;
    tn_dtype dtype;
    bool centre;
    int64_t rows, width, chunk_rows, chunks;
    const void *x, *d_y;
    void *y; /* forward y, backward d_x */
    const float *scale, *shift;
    float *mean, *rstd; /* [rows]; mean is NULL for RMS */
    float *partial;     /* [chunks][2][width]: d_scale, d_shift */
    float *d_scale, *d_shift;
} job;

static void shape_of(const tn_step *step, job *j)
{
    const tn_operand *x = &step->in[0];
    j->attribute = step->attribute;
    j->dtype = x->dtype;
    j->centre = step->op->id == TN_OP_LAYER_NORM || step->op->id == TN_OP_LAYER_NORM_GRAD;
    j->rows = j->width = 1;
    for (int i = 0; i < x->rank; i++)
        *(i < x->rank - j->attribute->axes ? &j->rows : &j->width) *= x->dim[i];
    int64_t least = 8192 / (j->width > 0 ? j->width : 1) + 1,
            even = (j->rows + MOST_CHUNKS - 1) / MOST_CHUNKS;
    j->chunk_rows = even > least ? even : least;
    if (j->chunk_rows > MOST_ROWS) j->chunk_rows = MOST_ROWS;
    j->chunks = (j->rows + j->chunk_rows - 1) / j->chunk_rows;
}

/* ---- statistics of a row --------------------------------------------------------------------- */

/* Mean, by the differences from the first element: accurate however far it lies from 0. */
TN_VEC_INLINE float mean_of(const void *x, int64_t count, tn_dtype dtype)
{
    tn_vec sum[4] = {{0}};
    float first = tn_vec_load_part(dtype, x, 0, 1)[0];
    int64_t i = 0;
    for (; i + 4 * TN_VEC <= count; i += 4 * TN_VEC)
        for (int v = 0; v < 4; v++) sum[v] += tn_vec_load(dtype, x, i + v * TN_VEC) - first;
    for (; i + TN_VEC <= count; i += TN_VEC) sum[0] += tn_vec_load(dtype, x, i) - first;
    if (i < count) {
        int rest = (int)(count - i);
        sum[1] += tn_vec_keep(tn_vec_first(rest), tn_vec_load_part(dtype, x, i, rest) - first);
    }
    return first + tn_vec_sum((sum[0] + sum[1]) + (sum[2] + sum[3])) / (float)count;
}

TN_VEC_INLINE float square_of(const void *x, int64_t count, float mean, tn_dtype dtype)
{
    tn_vec sum[4] = {{0}};
    int64_t i = 0;
    for (; i + 4 * TN_VEC <= count; i += 4 * TN_VEC)
        for (int v = 0; v < 4; v++) {
            tn_vec centred = tn_vec_load(dtype, x, i + v * TN_VEC) - mean;
            sum[v] += centred * centred;
        }
    for (; i + TN_VEC <= count; i += TN_VEC) {
        tn_vec centred = tn_vec_load(dtype, x, i) - mean;
        sum[0] += centred * centred;
    }
    if (i < count) {
        int rest = (int)(count - i);
        tn_vec centred = tn_vec_keep(tn_vec_first(rest),
                                     tn_vec_load_part(dtype, x, i, rest) - mean);
        sum[1] += centred * centred;
    }
    return tn_vec_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/* Mean (left at 0 unless centre) and mean square deviation. Long rows go block by block, joined
 * by the rule of Chan et al. 1979, so that a mean far from 0 costs no accuracy and memory is
 * read once. */
TN_VEC_INLINE void statistics(const void *x, int64_t count, bool centre, float *mean,
                              float *variance, tn_dtype dtype)
{
    if (count <= BLOCK) {
        *mean = centre && count ? mean_of(x, count, dtype) : 0;
        *variance = count ? square_of(x, count, *mean, dtype) / (float)count : 0;
        return;
    }
    double all_mean = 0, all_square = 0;
    size_t size = dtype == TN_F32 ? 4 : 2;
    for (int64_t i = 0; i < count; i += BLOCK) {
        int64_t n = count - i < BLOCK ? count - i : BLOCK;
        const void *block = (const unsigned char *)x + (size_t)i * size;
        float block_mean = centre ? mean_of(block, n, dtype) : 0;
        double square = (double)square_of(block, n, block_mean, dtype),
               delta = (double)block_mean - all_mean;
        all_square += square + delta * delta * (double)i * (double)n / (double)(i + n);
        all_mean += delta * (double)n / (double)(i + n);
    }
    *mean = (float)all_mean;
    *variance = (float)(all_square / (double)count);
}

/* ---- forward --------------------------------------------------------------------------------- */

TN_VEC_INLINE void normalise_vector(const job *j, const void *x, void *y, int64_t i, int count,
                                    float mean, float rstd, tn_dtype dtype)
{
    tn_vec v = (tn_vec_get(dtype, x, i, count) - mean) * rstd;
    if (j->scale) v *= tn_vec_get(TN_F32, j->scale, i, count);
    if (j->shift) v += tn_vec_get(TN_F32, j->shift, i, count);
    tn_vec_put(dtype, y, i, v, count);
}

TN_VEC_INLINE void forward_rows(const job *j, int64_t begin, int64_t end, tn_dtype dtype)
{
    size_t row_bytes = (size_t)j->width * (dtype == TN_F32 ? 4 : 2);
    float epsilon = (float)j->attribute->epsilon;
    for (int64_t n = begin; n < end; n++) {
        const void *x = (const unsigned char *)j->x + (size_t)n * row_bytes;
        void *y = (unsigned char *)j->y + (size_t)n * row_bytes;
        float mean, variance;
        statistics(x, j->width, j->centre, &mean, &variance, dtype);
        float rstd = 1 / sqrtf(variance + epsilon);
        int64_t i = 0;
        for (; i + TN_VEC <= j->width; i += TN_VEC)
            normalise_vector(j, x, y, i, TN_VEC, mean, rstd, dtype);
        if (i < j->width) normalise_vector(j, x, y, i, (int)(j->width - i), mean, rstd, dtype);
        if (j->mean) j->mean[n] = mean;
        j->rstd[n] = rstd;
    }
}

static void forward_body(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    TN_FOR_FLOAT(j->dtype, forward_rows, j, begin, end);
}

static tn_status reference(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    return tn_ref_kernels()->kernel[step->op->id]->run(step, in, out, workspace);
}

static tn_status run_forward(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    if (step->in[0].dtype == TN_F64) return reference(step, in, out, workspace);
    job j = {0};
    shape_of(step, &j);
    j.x = in[0];
    j.y = out[0];
    if (j.attribute->has_scale) j.scale = in[1];
    if (j.attribute->has_shift) j.shift = in[1 + j.attribute->has_scale];
    if (j.centre) j.mean = out[1];
    j.rstd = out[j.centre ? 2 : 1];
    tn_parallel(j.rows, SMALL / (j.width + 1) + 1, forward_body, &j);
    return TN_OK;
}

/* ---- backward -------------------------------------------------------------------------------- */

/* Sums over the row of g and g xhat, and over the rows of d_y xhat and d_y. */
TN_VEC_INLINE void sum_vector(int rows, const job *j, const void *const *x, const void *const *d_y,
                              const float *mean, const float *rstd, int64_t i, int count,
                              tn_vec *sum, tn_vec *product, float *d_scale, float *d_shift,
                              tn_dtype dtype)
{
    tn_vec scale = j->scale ? tn_vec_get(TN_F32, j->scale, i, count) : tn_vec_all(1),
           for_scale = {0}, for_shift = {0};
    for (int r = 0; r < rows; r++) {
        tn_vec d = tn_vec_get(dtype, d_y[r], i, count);
        tn_vec xhat = (tn_vec_get(dtype, x[r], i, count) - mean[r]) * rstd[r], g = d * scale;
        if (count < TN_VEC)
            xhat = tn_vec_keep(tn_vec_first(count),
                               xhat); /* an infinite mean times 0 would spread */
        sum[r] += g;
        product[r] += g * xhat;
        for_scale += d * xhat;
        for_shift += d;
    }
    if (!d_scale) return;
    tn_vec_put(TN_F32, d_scale, i, tn_vec_get(TN_F32, d_scale, i, count) + for_scale, count);
    tn_vec_put(TN_F32, d_shift, i, tn_vec_get(TN_F32, d_shift, i, count) + for_shift, count);
}

TN_VEC_INLINE void input_vector(const job *j, const void *x, const void *d_y, void *d_x, float mean,
                                float rstd, float sum, float product, int64_t i, int count,
                                tn_dtype dtype)
{
    tn_vec g = tn_vec_get(dtype, d_y, i, count),
           xhat = (tn_vec_get(dtype, x, i, count) - mean) * rstd;
    if (j->scale) g *= tn_vec_get(TN_F32, j->scale, i, count);
    tn_vec_put(dtype, d_x, i, rstd * (g - sum - xhat * product), count);
}

TN_VEC_INLINE void backward_rows(int rows, const job *j, int64_t n, float *d_scale, float *d_shift,
                                 tn_dtype dtype)
{
    size_t row_bytes = (size_t)j->width * (dtype == TN_F32 ? 4 : 2);
    const void *x[4], *d_y[4];
    float mean[4], rstd[4];
    tn_vec sum[4] = {{0}}, product[4] = {{0}};
    for (int r = 0; r < rows; r++) {
        x[r] = (const unsigned char *)j->x + (size_t)(n + r) * row_bytes;
        d_y[r] = (const unsigned char *)j->d_y + (size_t)(n + r) * row_bytes;
        mean[r] = j->mean ? j->mean[n + r] : 0;
        rstd[r] = j->rstd[n + r];
    }
    int64_t i = 0;
    for (; i + TN_VEC <= j->width; i += TN_VEC)
        sum_vector(rows, j, x, d_y, mean, rstd, i, TN_VEC, sum, product, d_scale, d_shift, dtype);
    if (i < j->width)
        sum_vector(rows, j, x, d_y, mean, rstd, i, (int)(j->width - i), sum, product, d_scale,
                   d_shift, dtype);
    for (int r = 0; r < rows; r++) {
        void *d_x = (unsigned char *)j->y + (size_t)(n + r) * row_bytes;
        float mean_g = j->centre ? tn_vec_sum(sum[r]) / (float)j->width : 0,
              mean_product = tn_vec_sum(product[r]) / (float)j->width;
        for (i = 0; i + TN_VEC <= j->width; i += TN_VEC)
            input_vector(j, x[r], d_y[r], d_x, mean[r], rstd[r], mean_g, mean_product, i, TN_VEC,
                         dtype);
        if (i < j->width)
            input_vector(j, x[r], d_y[r], d_x, mean[r], rstd[r], mean_g, mean_product, i,
                         (int)(j->width - i), dtype);
    }
}

TN_VEC_INLINE void backward_chunk(const job *j, int64_t chunk, tn_dtype dtype)
{
    int64_t n = chunk * j->chunk_rows,
            end = n + j->chunk_rows < j->rows ? n + j->chunk_rows : j->rows;
    float *d_scale = j->attribute->affine ? j->partial + 2 * chunk * j->width : NULL,
          *d_shift = d_scale ? d_scale + j->width : NULL;
    if (d_scale) memset(d_scale, 0, (size_t)j->width * 2 * sizeof *d_scale);
    if (j->width <= 1024) /* four rows of x and of d_y stay in L1 or nearly so */
        for (; n + 4 <= end; n += 4) backward_rows(4, j, n, d_scale, d_shift, dtype);
    for (; n < end; n++) backward_rows(1, j, n, d_scale, d_shift, dtype);
}

static void backward_body(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    for (int64_t chunk = begin; chunk < end; chunk++)
        TN_FOR_FLOAT(j->dtype, backward_chunk, j, chunk);
}

/* Columns of the parameters' gradients, 64 to an item. */
static void combine_body(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    for (int64_t item = begin; item < end; item++) {
        int64_t first = item * 64, count = j->width - first < 64 ? j->width - first : 64;
        for (int part = 0; part < (j->d_shift ? 2 : 1); part++) {
            double sum[64] = {0};
            const float *from = j->partial + part * j->width + first;
            for (int64_t chunk = 0; chunk < j->chunks; chunk++, from += 2 * j->width)
                for (int64_t i = 0; i < count; i++) sum[i] += (double)from[i];
            float *to = (part ? j->d_shift : j->d_scale) + first;
            for (int64_t i = 0; i < count; i++) to[i] = (float)sum[i];
        }
    }
}

static tn_status run_backward(const tn_step *step, void *const *in, void *const *out,
                              void *workspace)
{
    if (step->in[0].dtype == TN_F64) return reference(step, in, out, workspace);
    job j = {0};
    shape_of(step, &j);
    j.x = in[0];
    j.d_y = in[1];
    j.y = out[0];
    if (j.centre) j.mean = in[2];
    j.rstd = in[j.centre ? 3 : 2];
    if (j.attribute->has_scale) j.scale = in[j.centre ? 4 : 3];
    if (j.attribute->affine) {
        j.partial = workspace;
        j.d_scale = out[1];
        if (j.centre) j.d_shift = out[2];
    }
    bool small = j.rows * j.width < SMALL;
    tn_parallel(j.chunks, small ? INT64_MAX : 0, backward_body, &j);
    if (j.attribute->affine)
        tn_parallel((j.width + 63) / 64, small ? INT64_MAX : 0, combine_body, &j);
    return TN_OK;
}

static tn_status prepare(tn_step *step)
{
    tn_dtype dtype = step->in[0].dtype;
    if (dtype != TN_F64 && !tn_vec_has(dtype))
        return tn_fail(TN_UNSUPPORTED, "%s of %s", step->op->name, tn_dtype_name(dtype));
    job j;
    shape_of(step, &j);
    if (j.attribute->affine && dtype != TN_F64)
        step->workspace = (size_t)(2 * j.chunks * j.width) * sizeof(float);
    return TN_OK;
}

void TN_ISA(tn_cpu_norm)(tn_kernel_table *table);
void TN_ISA(tn_cpu_norm)(tn_kernel_table *table)
{
    static const tn_kernel forward = {.in_place = 1, .prepare = prepare, .run = run_forward};
    static const tn_kernel backward = {.in_place = 1 | 2, .prepare = prepare, .run = run_backward};
    table->kernel[TN_OP_LAYER_NORM] = table->kernel[TN_OP_RMS_NORM] = &forward;
    table->kernel[TN_OP_LAYER_NORM_GRAD] = table->kernel[TN_OP_RMS_NORM_GRAD] = &backward;
}
