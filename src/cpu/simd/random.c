/* Random nodes: the definitions of graph/random.h, 16 Philox blocks at a time. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "base/status.h"
#include "base/threads.h"
#include "cpu/simd/philox.h"
#include "cpu/simd/vector_math.h"
#include "graph/random.h"

#define LANES TN_PHILOX_LANES
#define PARALLEL_ELEMENTS 65536

typedef struct job {
    const void *in;
    void *out;
    uint64_t seed, stream;
    tn_dtype dtype;
    int64_t count, width; /* elements; CATEGORICAL: rows and their width */
    uint32_t threshold;
    double scale;
} job;

/* `operand`: number of the step operand, if there is one. */
static job job_of(const tn_step *step, void *const *in, void *const *out, int operand)
{
    const tn_random_attribute *a = step->attribute;
    int64_t at = step->in_count > operand ? *(const int64_t *)in[operand] : 0;
    return (job){.in = operand ? in[0] : NULL,
                 .out = out[0],
                 .seed = a->seed,
                 .stream = tn_stream_at(a->stream, at),
                 .dtype = step->out[0].dtype,
                 .count = tn_operand_size(&step->out[0])};
}

static tn_status f32_only(tn_step *step)
{
    if (step->out[0].dtype == TN_F32) return TN_OK;
    return tn_fail(TN_UNSUPPORTED, "%s of %s; make it f32 and cast", step->op->name,
                   tn_dtype_name(step->out[0].dtype));
}

/* Writes `most` values of group `group` from `value`, or what is left of them at the end. */
static void put_group(const job *j, int64_t group, const float *value, int64_t most)
{
    int64_t first = group * most, count = j->count - first < most ? j->count - first : most;
    memcpy((float *)j->out + first, value, (size_t)count * sizeof *value);
}

/* ---- uniform --------------------------------------------------------------------------------- */

/* A group: the 64 elements of 16 blocks. */
static void uniform_groups(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    for (int64_t group = begin; group < end; group++) {
        uint32_t word[4][LANES];
        float value[4 * LANES];
        tn_philox_16(j->seed, j->stream, (uint64_t)group * LANES, word);
        for (int lane = 0; lane < LANES; lane++)
            for (int w = 0; w < 4; w++)
                value[4 * lane + w] = (float)(int32_t)(word[w][lane] >> 8) * 0x1p-24F;
        put_group(j, group, value, 4 * LANES);
    }
}

static tn_status uniform(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    job j = job_of(step, in, out, 0);
    tn_parallel((j.count + 4 * LANES - 1) / (4 * LANES), PARALLEL_ELEMENTS / (4 * LANES),
                uniform_groups, &j);
    return TN_OK;
}

/* ---- logarithm and cosine -------------------------------------------------------------------- */

/* y positive and normal: tn_log_f32 without its special cases. */
static inline float log_positive(float y)
{
    float m;
    int32_t e = tn_split_f32(y, &m);
    return tn_log_reduced(m - 1, (float)e);
}

/* Box-Muller: sqrt(-2 log((a + 1) 2^-32)) cos(2 pi b 2^-32). Relative error below 1e-6 everywhere:
 * where the logarithm or the cosine is near 0, its argument's distance from there is taken from the
 * integer, exactly. */
static inline float normal_of(uint32_t a, uint32_t b)
{
    /* a + 1 as a float, rounded once */
    uint32_t next = a + 1;
    float m, y = (float)(int32_t)(next >> 16) * 65536 + (float)(int32_t)(next & 0xffff);
    int32_t e = tn_split_f32(y, &m) - 32;
    int32_t near_one = a >= 0xb504f333U; /* above sqrt(1/2): 1 minus the argument is ~a 2^-32 */
    uint32_t rest = ~a;                  /* < 2^31 then */
    float exact = -(float)(int32_t)(rest & 0x7fffffff) * 0x1p-32F;
    float square = -2 * tn_log_reduced(near_one ? exact : m - 1, near_one ? 0 : (float)e);
    float radius = sqrtf(square > 0 ? square : 0);

    uint32_t quarter = (b + 0x20000000U) >> 30;
    float x = (float)(int32_t)(b - (quarter << 30)) *
              1.46291807926715968e-9F; /* 2 pi 2^-32, |x| <= pi/4 */
    float z = x * x;
    float sine = ((-1.9515295891e-4F * z + 8.3321608736e-3F) * z - 1.6666654611e-1F) * z * x + x;
    float cosine =
        ((2.443315711809948e-5F * z - 1.388731625493765e-3F) * z + 4.166664568298827e-2F) * z * z -
        0.5F * z + 1;
    float magnitude = quarter & 1 ? sine : cosine;
    /* cos, -sin, -cos, sin: quarters 1 and 2 turn the sign */
    float turned = tn_f32_from_bits(tn_f32_bits(magnitude) ^ ((quarter + 1) & 2) << 30);
    return radius * turned;
}

/* ---- normal ---------------------------------------------------------------------------------- */

/* A group: 32 elements, two a block. */
static void normal_groups(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    for (int64_t group = begin; group < end; group++) {
        uint32_t word[4][LANES];
        float even[LANES], odd[LANES], value[2 * LANES];
        tn_philox_16(j->seed, j->stream, (uint64_t)group * LANES, word);
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++)
            even[lane] = normal_of(word[0][lane], word[1][lane]);
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++)
            odd[lane] = normal_of(word[2][lane], word[3][lane]);
        for (int lane = 0; lane < LANES; lane++)
            value[2 * lane] = even[lane], value[2 * lane + 1] = odd[lane];
        put_group(j, group, value, 2 * LANES);
    }
}

static tn_status normal(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    job j = job_of(step, in, out, 0);
    tn_parallel((j.count + 2 * LANES - 1) / (2 * LANES), PARALLEL_ELEMENTS / 4 / (2 * LANES),
                normal_groups, &j);
    return TN_OK;
}

/* ---- dropout --------------------------------------------------------------------------------- */

#define GROUP (8 * LANES)

/* One group of 128 elements; keep and scale. */
#define DEFINE_DROPOUT(name, type, wide, load, store)                                              \
    static inline void dropout_##name(const job *j, const type *x, type *y,                        \
                                      const uint32_t word[4][LANES])                               \
    {                                                                                              \
        const wide scale = (wide)j->scale;                                                         \
        const uint32_t threshold = j->threshold;                                                   \
        for (int k = 0; k < 8; k++) {                                                              \
            const uint32_t *row = word[k / 2];                                                     \
            const int shift = k % 2 * 16;                                                          \
            _Pragma("omp simd") for (int lane = 0; lane < LANES; lane++)                           \
            {                                                                                      \
                wide kept = load(x[k * LANES + lane]) * scale;                                     \
                y[k * LANES + lane] = store((row[lane] >> shift & 0xffff) < threshold ? 0 : kept); \
            }                                                                                      \
        }                                                                                          \
    }
DEFINE_DROPOUT(f32, float, float, , )
DEFINE_DROPOUT(f64, double, double, , )
DEFINE_DROPOUT(bf16, uint16_t, float, tn_f32_from_bf16, tn_bf16_from_f32)
DEFINE_DROPOUT(f16, uint16_t, float, tn_f32_from_f16, tn_f16_from_f32)

static inline void dropout_any(const job *j, const void *x, void *y, const uint32_t word[4][LANES])
{
    if (j->dtype == TN_F32) dropout_f32(j, x, y, word);
    else if (j->dtype == TN_F64) dropout_f64(j, x, y, word);
    else if (j->dtype == TN_BF16) dropout_bf16(j, x, y, word);
    else dropout_f16(j, x, y, word);
}

static void dropout_groups(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    int64_t size = (int64_t)tn_dtype_size(j->dtype);
    for (int64_t group = begin; group < end; group++) {
        uint32_t word[4][LANES];
        const unsigned char *x = (const unsigned char *)j->in + group * GROUP * size;
        unsigned char *y = (unsigned char *)j->out + group * GROUP * size;
        int64_t left = j->count - group * GROUP;
        tn_philox_16(j->seed, j->stream, (uint64_t)group * LANES, word);
        if (left >= GROUP) {
            dropout_any(j, x, y, word);
        } else {
            _Alignas(64) unsigned char padded[GROUP * sizeof(double)] = {0};
            memcpy(padded, x, (size_t)(left * size));
            dropout_any(j, padded, padded, word);
            memcpy(y, padded, (size_t)(left * size));
        }
    }
}

static tn_status dropout(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    job j = job_of(step, in, out, 1);
    double rate = ((const tn_random_attribute *)step->attribute)->rate;
    j.threshold = tn_dropout_threshold(rate);
    j.scale = tn_dropout_scale(rate);
    tn_parallel((j.count + GROUP - 1) / GROUP, PARALLEL_ELEMENTS / GROUP, dropout_groups, &j);
    return TN_OK;
}

/* ---- permutation ----------------------------------------------------------------------------- */

static tn_status permutation(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    (void)workspace;
    job j = job_of(step, in, out, 0);
    tn_random_permutation(j.seed, j.stream, j.count, j.out);
    return TN_OK;
}

/* ---- categorical ----------------------------------------------------------------------------- */

static double exact_score(const job *j, int64_t element, float logit)
{
    double u = ((double)(tn_random_u32(j->seed, j->stream, (uint64_t)element) >> 9) + 0.5) *
               0x1p-23;
    return (double)logit - log(-log(u));
}

static inline float logit_at(const job *j, int64_t element)
{
    if (j->dtype == TN_F32) return ((const float *)j->in)[element];
    return j->dtype == TN_BF16 ? tn_f32_from_bf16(((const uint16_t *)j->in)[element])
                               : tn_f32_from_f16(((const uint16_t *)j->in)[element]);
}

/* Scores are estimated in f32; what comes near the best so far is computed again in f64, so that
 * the draw is the one of the definition and does not hang on rounding. The estimate's error is
 * below 1e-5 + 2e-7 |score|. */
static int64_t draw_row(const job *j, int64_t row)
{
    double best = -INFINITY;
    int64_t drawn = 0, begin = row * j->width, end = begin + j->width;
    for (int64_t group = begin / (4 * LANES); group * 4 * LANES < end; group++) {
        uint32_t word[4][LANES];
        float score[4 * LANES];
        int64_t base = group * 4 * LANES, low = base < begin ? begin - base : 0,
                high = end - base < 4 * LANES ? end - base : 4 * LANES;
        tn_philox_16(j->seed, j->stream, (uint64_t)group * LANES, word);
        float gumbel[4][LANES];
        for (int w = 0; w < 4; w++)
#pragma omp simd
            for (int lane = 0; lane < LANES; lane++)
                gumbel[w][lane] = -log_positive(
                    -log_positive((float)(int32_t)(word[w][lane] >> 9 << 1 | 1) * 0x1p-24F));
        for (int i = 0; i < 4 * LANES; i++) score[i] = gumbel[i & 3][i >> 2];
        for (int64_t i = low; i < high; i++) score[i] += logit_at(j, base + i);
        float largest = -INFINITY, near = (float)(best - (1e-5 + 1e-6 * fabs(best)));
        for (int64_t i = low; i < high; i++) largest = score[i] > largest ? score[i] : largest;
        if (!(largest >= near)) continue;
        for (int64_t i = low; i < high; i++) {
            if (!(score[i] >= near)) continue;
            double exact = exact_score(j, base + i, logit_at(j, base + i));
            if (exact > best) best = exact, drawn = base + i - begin;
        }
    }
    return drawn;
}

static void draw_rows(void *context, int64_t begin, int64_t end)
{
    const job *j = context;
    for (int64_t row = begin; row < end; row++) ((int64_t *)j->out)[row] = draw_row(j, row);
}

static tn_status categorical_prepare(tn_step *step)
{
    tn_dtype dtype = step->in[0].dtype;
    if (dtype == TN_F32 || dtype == TN_BF16 || dtype == TN_F16) return TN_OK;
    return tn_fail(TN_UNSUPPORTED, "categorical over %s; cast to f32", tn_dtype_name(dtype));
}

static tn_status categorical(const tn_step *step, void *const *in, void *const *out,
                             void *workspace)
{
    (void)workspace;
    job j = job_of(step, in, out, 1);
    j.dtype = step->in[0].dtype;
    j.width = step->in[0].dim[1];
    tn_parallel(j.count, PARALLEL_ELEMENTS / 4 / j.width + 1, draw_rows, &j);
    return TN_OK;
}

void TN_ISA(tn_cpu_random)(tn_kernel_table *table);
void TN_ISA(tn_cpu_random)(tn_kernel_table *table)
{
    static const tn_kernel uniform_kernel = {.prepare = f32_only, .run = uniform},
                           normal_kernel = {.prepare = f32_only, .run = normal},
                           dropout_kernel = {.in_place = 1, .run = dropout},
                           permutation_kernel = {.run = permutation},
                           categorical_kernel = {.prepare = categorical_prepare,
                                                 .run = categorical};
    table->kernel[TN_OP_RANDOM_UNIFORM] = &uniform_kernel;
    table->kernel[TN_OP_RANDOM_NORMAL] = &normal_kernel;
    table->kernel[TN_OP_DROPOUT] = &dropout_kernel;
    table->kernel[TN_OP_PERMUTATION] = &permutation_kernel;
    table->kernel[TN_OP_CATEGORICAL] = &categorical_kernel;
}
