/* Attention, rotary positions and the cache write, the long way round: one query at a time, every
 * formula as it is written. */
#include "graph/attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- attention ------------------------------------------------------------------------------- */

/* One call's operands. */
typedef struct problem {
    const tn_attention_attribute *a;
    tn_attention_sizes s;
    const double *q, *k, *v, *bias, *key_mask, *offsets, *length;
    int64_t bias_stride[4];
    int64_t segments;
} problem;

static tn_status set_up(problem *p, const tn_step *step, void *const *in, int first)
{
    memset(p, 0, sizeof *p);
    p->a = step->attribute;
    p->s = tn_attention_sizes_of(step->in[0].dim, step->in[1].dim, p->a->has_offsets);
    tn_attention_optional at = tn_attention_find(p->a, first);
    p->q = in[0], p->k = in[1], p->v = in[2];
    if (at.key_mask >= 0) p->key_mask = in[at.key_mask];
    if (at.bias >= 0) {
        const tn_operand *bias = &step->in[at.bias];
        p->bias = in[at.bias];
        for (int i = 0; i < bias->rank; i++)
            p->bias_stride[4 - bias->rank + i] = bias->dim[i] == 1 ? 0 : bias->stride[i];
    }
    if (at.length >= 0) {
        p->length = in[at.length];
        for (int64_t b = 0; b < p->s.B; b++)
            if (p->length[b] < 0 || p->length[b] > (double)p->s.M)
                return tn_fail(TN_INVALID,
                               "attention: length[%lld] is %.0f, but there are %lld keys",
                               (long long)b, p->length[b], (long long)p->s.M);
    }
    if (at.offsets >= 0) {
        p->offsets = in[at.offsets];
        p->segments = step->in[at.offsets].dim[0] - 1;
        for (int64_t i = 0; i <= p->segments; i++)
            if (p->offsets[i] < (i ? p->offsets[i - 1] : 0) || p->offsets[i] > (double)p->s.M ||
                (i == 0 && p->offsets[0] != 0))
                return tn_fail(
                    TN_INVALID,
                    "attention: offsets[%lld] is %.0f; offsets must rise from 0 to at most %lld",
                    (long long)i, p->offsets[i], (long long)p->s.M);
    }
    return TN_OK;
}

static int64_t segment_of(const problem *p, int64_t token)
{
    int64_t segment = 0;
    while (segment < p->segments && p->offsets[segment + 1] <= (double)token) segment++;
    return segment;
}

/* May query i of sequence b read key j? */
static bool allowed(const problem *p, int64_t b, int64_t i, int64_t j)
{
    int64_t position = i + p->s.M - p->s.L;
    if (p->length) {
        if (j >= (int64_t)p->length[b]) return false;
        position = i + (int64_t)p->length[b] - p->s.L;
    }
    if (p->offsets) {
        int64_t segment = segment_of(p, i);
        if (segment == p->segments || segment != segment_of(p, j)) return false;
    }
    if (p->a->causal && j > position) return false;
    if (p->a->window > 0 && llabs(position - j) >= p->a->window) return false;
    return !p->key_mask || p->key_mask[b * p->s.M + j] != 0;
}

/* Row of q, y (heads H) or k, v (heads K). */
static int64_t row(const problem *p, int64_t b, int64_t i, int64_t h, int64_t length, int64_t heads)
{
    return ((b * length + i) * heads + h) * p->s.Q;
}

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static double score(const problem *p, int64_t b, int64_t h, int64_t i, int64_t j)
{
    const tn_attention_sizes *s = &p->s;
    double value = p->a->scale * dot(p->q + row(p, b, i, h, s->L, s->H),
                                     p->k + row(p, b, j, h / s->G, s->M, s->K), s->Q);
    const int64_t *stride = p->bias_stride;
    if (p->bias) value += p->bias[b * stride[0] + h * stride[1] + i * stride[2] + j * stride[3]];
    return value;
}

/* log of the softmax's denominator for one query; +inf if it reads nothing. */
static double log_sum(const problem *p, int64_t b, int64_t h, int64_t i)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < p->s.M; j++)
        if (allowed(p, b, i, j)) largest = fmax(largest, score(p, b, h, i, j));
    if (largest == -INFINITY) return INFINITY;
    for (int64_t j = 0; j < p->s.M; j++)
        if (allowed(p, b, i, j)) sum += exp(score(p, b, h, i, j) - largest);
    return largest + log(sum);
}

static tn_status attention_run(const tn_step *step, void *const *in, void *const *out,
                               void *workspace)
{
    (void)workspace;
    problem p;
    TN_TRY(set_up(&p, step, in, 3));
    const tn_attention_sizes *s = &p.s;
    double *y = out[0], *lse = out[1];
    for (int64_t b = 0; b < s->B; b++)
        for (int64_t h = 0; h < s->H; h++)
            for (int64_t i = 0; i < s->L; i++) {
                double *to = y + row(&p, b, i, h, s->L, s->H), denominator = log_sum(&p, b, h, i);
                lse[(b * s->H + h) * s->L + i] = denominator;
                for (int64_t c = 0; c < s->Q; c++) to[c] = 0;
                for (int64_t j = 0; j < s->M; j++) {
                    if (!allowed(&p, b, i, j)) continue;
                    double weight = exp(score(&p, b, h, i, j) - denominator);
                    const double *v = p.v + row(&p, b, j, h / s->G, s->M, s->K);
                    for (int64_t c = 0; c < s->Q; c++) to[c] += weight * v[c];
                }
            }
    return TN_OK;
}

/* With p = softmax(score): d_score = p (d_y.v - sum p d_y.v), and sum p d_y.v = d_y.y.
 * Calls visit for every pair that meets. */
static void each_pair(const problem *p, void *const *in,
                      void (*visit)(const problem *, void *, int64_t, int64_t, int64_t, int64_t,
                                    double, double),
                      void *context)
{
    const tn_attention_sizes *s = &p->s;
    const double *y = in[3], *lse = in[4], *d_y = in[5];
    for (int64_t b = 0; b < s->B; b++)
        for (int64_t h = 0; h < s->H; h++)
            for (int64_t i = 0; i < s->L; i++) {
                int64_t at = row(p, b, i, h, s->L, s->H);
                double delta = dot(d_y + at, y + at, s->Q);
                for (int64_t j = 0; j < s->M; j++) {
                    if (!allowed(p, b, i, j)) continue;
                    double weight = exp(score(p, b, h, i, j) - lse[(b * s->H + h) * s->L + i]);
                    double d_weight = dot(d_y + at, p->v + row(p, b, j, h / s->G, s->M, s->K),
                                          s->Q);
                    visit(p, context, b, h, i, j, weight, weight * (d_weight - delta));
                }
            }
}

typedef struct gradients {
    const double *d_y;
    double *d_q, *d_k, *d_v;
} gradients;

static void add_gradients(const problem *p, void *context, int64_t b, int64_t h, int64_t i,
                          int64_t j, double weight, double d_score)
{
    gradients *g = context;
    const tn_attention_sizes *s = &p->s;
    int64_t at_q = row(p, b, i, h, s->L, s->H), at_k = row(p, b, j, h / s->G, s->M, s->K);
    for (int64_t c = 0; c < s->Q; c++) {
        g->d_q[at_q + c] += p->a->scale * d_score * p->k[at_k + c];
        g->d_k[at_k + c] += p->a->scale * d_score * p->q[at_q + c];
        g->d_v[at_k + c] += weight * g->d_y[at_q + c];
    }
}

static void clear(const tn_operand *x, double *value)
{
    int64_t size = tn_operand_size(x);
    for (int64_t i = 0; i < size; i++) value[i] = 0;
}

static tn_status attention_grad_run(const tn_step *step, void *const *in, void *const *out,
                                    void *workspace)
{
    (void)workspace;
    problem p;
    TN_TRY(set_up(&p, step, in, 6));
    gradients g = {in[5], out[0], out[1], out[2]};
    for (int r = 0; r < 3; r++) clear(&step->out[r], out[r]);
    each_pair(&p, in, add_gradients, &g);
    return TN_OK;
}

static void add_bias_gradient(const problem *p, void *context, int64_t b, int64_t h, int64_t i,
                              int64_t j, double weight, double d_score)
{
    (void)weight;
    const int64_t *stride = p->bias_stride;
    ((double *)context)[b * stride[0] + h * stride[1] + i * stride[2] + j * stride[3]] += d_score;
}

static tn_status attention_bias_grad_run(const tn_step *step, void *const *in, void *const *out,
                                         void *workspace)
{
    (void)workspace;
    problem p;
    TN_TRY(set_up(&p, step, in, 6));
    clear(&step->out[0], out[0]);
    each_pair(&p, in, add_bias_gradient, out[0]);
    return TN_OK;
}

/* ---- rotary positions ------------------------------------------------------------------------ */

static tn_status rope_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    const tn_rope_attribute *a = step->attribute;
    const tn_operand *x = &step->in[0];
    int64_t width = x->dim[x->rank - 1], heads = x->dim[x->rank - 2], half = a->rotary / 2;
    int64_t places = tn_operand_size(&step->in[1]), size = tn_operand_size(x);
    int64_t tokens = size > 0 ? size / (width * heads) : 0;
    const double *from = in[0], *position = in[1];
    double *to = out[0];
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t h = 0; h < heads; h++, from += width, to += width) {
            for (int64_t c = a->rotary; c < width; c++) to[c] = from[c];
            for (int64_t i = 0; i < half; i++) {
                double angle = position[t % places] *
                               pow(a->base, -2.0 * (double)i / (double)a->rotary);
                double cosine = cos(angle), sine = a->inverse ? -sin(angle) : sin(angle);
                int64_t one = a->interleaved ? 2 * i : i,
                        two = a->interleaved ? 2 * i + 1 : i + half;
                double first = from[one], second = from[two];
                to[one] = first * cosine - second * sine;
                to[two] = second * cosine + first * sine;
            }
        }
    return TN_OK;
}

/* ---- cache ----------------------------------------------------------------------------------- */

static tn_status cache_write_run(const tn_step *step, void *const *in, void *const *out,
                                 void *workspace)
{
    (void)workspace;
    const tn_operand *base = &step->in[0], *values = &step->in[1];
    int64_t sequences = base->dim[0], room = base->dim[1], length = values->dim[1], row_size = 1;
    for (int i = 2; i < base->rank; i++) row_size *= base->dim[i];
    const double *from = in[1], *start = in[2];
    double *to = out[0];
    if (to != in[0]) memcpy(to, in[0], (size_t)(sequences * room * row_size) * sizeof *to);
    for (int64_t b = 0; b < sequences; b++) {
        if (start[b] < 0 || start[b] + (double)length > (double)room)
            return tn_fail(TN_INVALID,
                           "cache_write: start[%lld] is %.0f, but %lld rows must fit into %lld",
                           (long long)b, start[b], (long long)length, (long long)room);
        for (int64_t i = 0; i < length * row_size; i++)
            to[(b * room + (int64_t)start[b]) * row_size + i] = from[b * length * row_size + i];
    }
    return TN_OK;
}

void tn_ref_attention(tn_kernel_table *table);
void tn_ref_attention(tn_kernel_table *table)
{
    static const tn_kernel attention = {.run = attention_run};
    static const tn_kernel attention_grad = {.run = attention_grad_run};
    static const tn_kernel attention_bias_grad = {.run = attention_bias_grad_run};
    static const tn_kernel rope = {.run = rope_run};
    static const tn_kernel cache_write = {.in_place = 1, .run = cache_write_run};
    table->kernel[TN_OP_ATTENTION] = &attention;
    table->kernel[TN_OP_ATTENTION_GRAD] = &attention_grad;
    table->kernel[TN_OP_ATTENTION_BIAS_GRAD] = &attention_bias_grad;
    table->kernel[TN_OP_ROPE] = &rope;
    table->kernel[TN_OP_CACHE_WRITE] = &cache_write;
}
