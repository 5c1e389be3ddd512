/* Rotary positions and the cache write: what attention needs beside itself.
 *
 * Source of the rotation: Su et al. 2021. Angles are position * base^(-2i/rotary), formed and
 * reduced in f64 (a position of 10^6 in f32 would leave 0.06 radians of doubt), their sines and
 * cosines rounded to f32 once per token for all heads. */
#include "cpu/simd/attention_tile.h"

/* ---- sines and cosines ----------------------------------------------------------------------- */

enum { PAIRS = 256 }; /* pairs turned at a time: a table on the stack */

/* Angle less a multiple of pi/2 (in two parts; exact up to 2^20 quarter turns, 1e-7 at 2^31), then
 * Taylor's series on [-pi/4, pi/4]: errors below 3e-9 there. */
static void sine_table(float *restrict cosine, float *restrict sine,
                       const double *restrict frequency, double position, int64_t count)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        double angle = position * frequency[i], shifted = angle * 0x1.45f306dc9c883p-1 + 0x1.8p52;
        double turns = shifted - 0x1.8p52;
        double r = angle - turns * 1.57079632673412561417 - turns * 6.07710050650619224932e-11,
               rr = r * r;
        double s =
            r * (1 + rr * (-1.0 / 6 + rr * (1.0 / 120 + rr * (-1.0 / 5040 + rr * (1.0 / 362880)))));
        double c = 1 + rr * (-0.5 +
                             rr * (1.0 / 24 +
                                   rr * (-1.0 / 720 + rr * (1.0 / 40320 + rr * (-1.0 / 3628800)))));
        uint64_t bits;
        memcpy(&bits, &shifted, sizeof bits); /* the quarter turns are its last bits */
        double across = bits & 1 ? c : s, along = bits & 1 ? s : c;
        sine[i] = (float)(bits & 2 ? -across : across);
        cosine[i] = (float)((bits + 1) & 2 ? -along : along);
    }
}

/* ---- turning --------------------------------------------------------------------------------- */

typedef struct rope_plan {
    double *frequency; /* [half], behind this struct */
    int64_t half, width, heads, tokens, places;
    bool interleaved, inverse;
} rope_plan;

typedef struct rope_call {
    const tn_step *step;
    const rope_plan *plan;
    const char *x;
    char *y;
    const int32_t *position;
} rope_call;

/* Pairs (x[i], x[i + apart]); the operands may be the same memory. */
static void turn_halves(const float *x, float *y, const float *cosine, const float *sine,
                        int64_t count, int64_t apart)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        float a = x[i], b = x[i + apart];
        y[i] = a * cosine[i] - b * sine[i];
        y[i + apart] = b * cosine[i] + a * sine[i];
    }
}

/* Pairs (x[2i], x[2i + 1]). */
static void turn_neighbours(const float *x, float *y, const float *cosine, const float *sine,
                            int64_t count)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        y[2 * i] = a * cosine[i] - b * sine[i];
        y[2 * i + 1] = b * cosine[i] + a * sine[i];
    }
}

/* Pairs first .. first+count-1 of one head's row. */
static void turn_row(const rope_plan *p, tn_dtype dtype, const char *x, char *y,
                     const float *cosine, const float *sine, int64_t first, int64_t count)
{
    int64_t start = p->interleaved ? 2 * first : first;
    if (dtype == TN_F32) {
        const float *from = (const float *)(const void *)x + start;
        float *to = (float *)(void *)y + start;
        if (p->interleaved) turn_neighbours(from, to, cosine, sine, count);
        else turn_halves(from, to, cosine, sine, count, p->half);
        return;
    }
    float wide[2 * PAIRS];
    const uint16_t *from = (const uint16_t *)(const void *)x + start;
    uint16_t *to = (uint16_t *)(void *)y + start;
    if (p->interleaved) {
        widen(wide, from, dtype, 2 * count, 2 * count, 1);
        turn_neighbours(wide, wide, cosine, sine, count);
        narrow(to, wide, dtype, 2 * count, 1);
    } else {
        widen(wide, from, dtype, count, count, 1);
        widen(wide + count, from + p->half, dtype, count, count, 1);
        turn_halves(wide, wide, cosine, sine, count, count);
        narrow(to, wide, dtype, count, 1);
        narrow(to + p->half, wide + count, dtype, count, 1);
    }
}

static void turn_row_f64(const rope_plan *p, const double *x, double *y, double position)
{
    for (int64_t i = 0; i < p->half; i++) {
        int64_t one = p->interleaved ? 2 * i : i, two = p->interleaved ? 2 * i + 1 : i + p->half;
        double angle = position * p->frequency[i], a = x[one], b = x[two];
        y[one] = a * cos(angle) - b * sin(angle);
        y[two] = b * cos(angle) + a * sin(angle);
    }
}

static void turn_tokens(void *context, int64_t begin, int64_t end)
{
    const rope_call *call = context;
    const rope_plan *p = call->plan;
    const tn_operand *x = &call->step->in[0];
    int64_t size = (int64_t)tn_dtype_size(x->dtype), turned = 2 * p->half;
    float cosine[PAIRS], sine[PAIRS];
    for (int64_t t = begin; t < end; t++) {
        int64_t offset = 0, rest = t, head_stride = x->stride[x->rank - 2];
        for (int i = x->rank - 3; i >= 0; i--) {
            offset += rest % x->dim[i] * x->stride[i];
            rest /= x->dim[i];
        }
        const char *from = call->x + offset * size;
        char *to = call->y + t * p->heads * p->width * size;
        double position = p->inverse ? -(double)call->position[t % p->places]
                                     : (double)call->position[t % p->places];
        for (int64_t h = 0; h < p->heads; h++) {
            const char *row = from + h * head_stride * size;
            char *out = to + h * p->width * size;
            if (turned < p->width && row != out)
                memcpy(out + turned * size, row + turned * size,
                       (size_t)((p->width - turned) * size));
            if (x->dtype == TN_F64)
                turn_row_f64(p, (const double *)(const void *)row, (double *)(void *)out, position);
        }
        for (int64_t first = 0; first < p->half && x->dtype != TN_F64; first += PAIRS) {
            int64_t count = p->half - first < PAIRS ? p->half - first : PAIRS;
            sine_table(cosine, sine, p->frequency + first, position, count);
            for (int64_t h = 0; h < p->heads; h++)
                turn_row(p, x->dtype, from + h * head_stride * size, to + h * p->width * size,
                         cosine, sine, first, count);
        }
    }
}

static tn_status rope_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const rope_plan *p = step->prepared;
    rope_call call = {step, p, in[0], out[0], in[1]};
    int64_t grain = 16384 / at_least_one(p->heads * p->width);
    tn_parallel(p->tokens, grain + 2, turn_tokens, &call);
    return TN_OK;
}

static tn_status rope_prepare(tn_step *step)
{
    const tn_rope_attribute *a = step->attribute;
    const tn_operand *x = &step->in[0];
    int64_t half = a->rotary / 2;
    rope_plan *p = calloc(1, sizeof *p + (size_t)half * sizeof(double));
    if (!p) return tn_fail(TN_MEMORY, "out of memory");
    p->frequency = (double *)(void *)(p + 1);
    p->half = half;
    p->width = x->dim[x->rank - 1];
    p->heads = x->dim[x->rank - 2];
    int64_t size = tn_operand_size(x);
    p->tokens = size > 0 ? size / (p->heads * p->width) : 0;
    p->places = at_least_one(tn_operand_size(&step->in[1]));
    p->interleaved = a->interleaved;
    p->inverse = a->inverse;
    for (int64_t i = 0; i < half; i++)
        p->frequency[i] = pow(a->base, -2.0 * (double)i / (double)a->rotary);
    step->prepared = p;
    return TN_OK;
}

static void rope_release(tn_step *step)
{
    free(step->prepared);
    step->prepared = NULL;
}

static void rope_layouts(const tn_step *step, tn_layout *in, tn_layout *out)
{
    in[0] = head_rows_layout(&step->in[0]);
    in[1] = out[0] = TN_ROWS;
}

/* ---- cache ----------------------------------------------------------------------------------- */

typedef struct copy_call {
    const char *from;
    char *to;
    int64_t bytes;
} copy_call;

static void copy_piece(void *context, int64_t begin, int64_t end)
{
    const copy_call *call = context;
    for (int64_t i = begin; i < end; i++)
        memcpy(call->to + i * call->bytes, call->from + i * call->bytes, (size_t)call->bytes);
}

/* Elements of what follows [B, L]. */
static int64_t row_elements(const tn_operand *x)
{
    int64_t n = 1;
    for (int i = 2; i < x->rank; i++) n *= x->dim[i];
    return n;
}

static tn_status cache_write_run(const tn_step *step, void *const *in, void *const *out,
                                 void *workspace)
{
    (void)workspace;
    const tn_operand *base = &step->in[0], *values = &step->in[1];
    int64_t sequences = base->dim[0], room = base->dim[1], length = values->dim[1];
    int64_t size = (int64_t)tn_dtype_size(base->dtype), row = row_elements(base) * size;
    const int32_t *start = in[2];
    for (int64_t b = 0; b < sequences;
         b++) /* before anything is written: base may be somebody's state */
        if (start[b] < 0 || start[b] > room - length)
            return tn_fail(TN_INVALID,
                           "cache_write: start[%lld] is %d, but %lld rows must fit into %lld",
                           (long long)b, (int)start[b], (long long)length, (long long)room);
    char *to = out[0];
    const char *from = in[1];
    if (to != (const char *)in[0] && row > 0) {
        copy_call call = {in[0], to, room * row};
        tn_parallel(sequences, call.bytes > 100000 ? 2 : 1 + 100000 / at_least_one(call.bytes),
                    copy_piece, &call);
    }
    for (int64_t b = 0; b < sequences && row > 0; b++)
        for (int64_t i = 0; i < length; i++)
            memcpy(to + (b * room + start[b] + i) * row,
                   from + (b * values->stride[0] + i * values->stride[1]) * size, (size_t)row);
    return TN_OK;
}

/* Values may be a slice of a bigger product, as long as each [B, L] entry is dense. */
static void cache_write_layouts(const tn_step *step, tn_layout *in, tn_layout *out)
{
    const tn_operand *values = &step->in[1];
    bool dense = true;
    int64_t expected = 1;
    for (int i = values->rank - 1; i >= 2; i--) {
        dense = dense && (values->dim[i] <= 1 || values->stride[i] == expected);
        expected *= values->dim[i];
    }
    in[0] = in[2] = out[0] = TN_ROWS;
    in[1] = dense ? TN_ANY : TN_ROWS;
}

void TN_ISA(tn_cpu_rope)(tn_kernel_table *table);
void TN_ISA(tn_cpu_rope)(tn_kernel_table *table)
{
    static const tn_kernel rope = {.layouts = rope_layouts,
                                   .in_place = 1,
                                   .prepare = rope_prepare,
                                   .run = rope_run,
                                   .release = rope_release};
    static const tn_kernel cache_write = {
        .layouts = cache_write_layouts, .in_place = 1, .run = cache_write_run};
    table->kernel[TN_OP_ROPE] = &rope;
    table->kernel[TN_OP_CACHE_WRITE] = &cache_write;
}
