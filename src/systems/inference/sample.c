/* Drawing a token from logits. Nothing sorts the vocabulary: the k best stand in a heap, and the
 * most likely tokens that hold a probability are found by a histogram of their logits, of which
 * only the head is sorted. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "cpu/simd/vector_math.h"
#include "tenon/infer.h"
#include "tenon/random.h"

typedef struct candidate {
    float logit;
    int32_t token;
} candidate;

static tn_status check(const tn_sampling *s, int64_t vocabulary)
{
    if (!(s->temperature >= 0) || !isfinite(s->temperature))
        return tn_fail(TN_INVALID, "temperature is %g; it must be 0 or more", s->temperature);
    if (s->top_k < 0)
        return tn_fail(TN_INVALID, "top-k is %lld; use 0 for all tokens", (long long)s->top_k);
    if (!(s->top_p >= 0 && s->top_p <= 1))
        return tn_fail(TN_INVALID, "top-p is %g; it must lie in [0, 1]", s->top_p);
    if (!(s->min_p >= 0 && s->min_p <= 1))
        return tn_fail(TN_INVALID, "min-p is %g; it must lie in [0, 1]", s->min_p);
    if (!(s->repetition >= 0) || !isfinite(s->repetition))
        return tn_fail(TN_INVALID, "repetition penalty is %g; it must be positive", s->repetition);
    for (int64_t i = 0; i < s->bias_count; i++)
        if (s->bias[i].token < 0 || s->bias[i].token >= vocabulary || isnan(s->bias[i].bias))
            return tn_fail(TN_INVALID, "logit bias %g of token %d; the vocabulary has %lld",
                           s->bias[i].bias, s->bias[i].token, (long long)vocabulary);
    return TN_OK;
}

/* ---- logits ---------------------------------------------------------------------------------- */

static void penalise(float *logits, bool *done, int64_t vocabulary, double penalty,
                     const int32_t *seen, int64_t seen_count)
{
    for (int64_t i = 0; i < seen_count; i++) {
        if (seen[i] < 0 || seen[i] >= vocabulary || done[seen[i]]) continue;
        done[seen[i]] = true;
        float *logit = &logits[seen[i]];
        *logit = *logit > 0 ? (float)(*logit / penalty) : (float)(*logit * penalty);
    }
}

/* The logits with penalties and biases: a copy to be freed, or NULL if there are none. */
static tn_status adjust(const float *logits, int64_t vocabulary, const tn_sampling *s,
                        const int32_t *seen, int64_t seen_count, float **out)
{
    bool penalty = s->repetition > 0 && s->repetition != 1 && seen_count > 0;
    *out = NULL;
    if (!penalty && s->bias_count == 0) return TN_OK;
    float *copy = malloc((size_t)vocabulary * sizeof *copy);
    bool *done = penalty ? calloc((size_t)vocabulary, 1) : NULL;
    if (!copy || (penalty && !done)) {
        free(copy);
        free(done);
        return tn_fail(TN_MEMORY, "out of memory for %lld logits", (long long)vocabulary);
    }
    memcpy(copy, logits, (size_t)vocabulary * sizeof *copy);
    if (penalty) penalise(copy, done, vocabulary, s->repetition, seen, seen_count);
    for (int64_t i = 0; i < s->bias_count; i++) copy[s->bias[i].token] += (float)s->bias[i].bias;
    free(done);
    *out = copy;
    return TN_OK;
}

/* The highest logit, the first of equals; an error where a logit is NaN or all are -infinity. */
static tn_status find_best(const float *logits, int64_t vocabulary, uint64_t position,
                           int32_t *best)
{
    float top = -INFINITY;
    int bad = 0;
#pragma omp simd reduction(max : top) reduction(| : bad)
    for (int64_t i = 0; i < vocabulary; i++) {
        top = logits[i] > top ? logits[i] : top;
        bad |= logits[i] != logits[i];
    }
    int64_t at = 0;
    while (bad && at < vocabulary && !isnan(logits[at])) at++;
    if (bad)
        return tn_fail(TN_INVALID, "the logit of token %lld at position %llu is not a number",
                       (long long)at, (unsigned long long)position);
    if (top == -INFINITY)
        return tn_fail(TN_INVALID, "no token is possible at position %llu: all logits are -inf",
                       (unsigned long long)position);
    while (logits[at] != top) at++;
    *best = (int32_t)at;
    return TN_OK;
}

/* ---- cutting --------------------------------------------------------------------------------- */

/* Better logits first; lower ids first on ties. */
static int better_first(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return x->token < y->token ? -1 : x->token > y->token;
}

static bool is_worse(candidate a, candidate b)
{
    return a.logit != b.logit ? a.logit < b.logit : a.token > b.token;
}

/* The worst of the heap's `count` stands first; restores that below place i. */
static void sift(candidate *heap, int64_t count, int64_t i)
{
    for (int64_t child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && is_worse(heap[child + 1], heap[child])) child++;
        if (!is_worse(heap[child], heap[i])) return;
        candidate swap = heap[i];
        heap[i] = heap[child];
        heap[child] = swap;
    }
}

/* The k best, best first. Cost: a look at every logit, and log k for each that enters. */
static void take_best(const float *logits, int64_t vocabulary, int64_t k, candidate *out)
{
    for (int64_t i = 0; i < k; i++) out[i] = (candidate){logits[i], (int32_t)i};
    for (int64_t i = k / 2 - 1; i >= 0; i--) sift(out, k, i);
    for (int64_t i = k; i < vocabulary; i++) {
        if (!(logits[i] > out[0].logit)) continue; /* an equal one has the higher id */
        out[0] = (candidate){logits[i], (int32_t)i};
        sift(out, k, 0);
    }
    qsort(out, (size_t)k, sizeof *out, better_first);
}

enum { BINS = 256, BINS_A_UNIT = 8 }; /* of (top - logit) / temperature; the last takes the rest */

static int bin_of(float logit, float top, float scale)
{
    float d = (top - logit) * scale * BINS_A_UNIT;
    return d < BINS - 1 ? (int)d : BINS - 1;
}

/* The smallest set of tokens, best first, that holds `wanted`; `weight` by token. Whole bins come in
 * the order of ids, and only the last one is sorted. */
static int64_t take_head(const float *logits, const float *weight, int64_t vocabulary, float top,
                         float scale, double wanted, candidate *out)
{
    double mass[BINS] = {0}, before = 0;
    int last = 0;
    for (int64_t i = 0; i < vocabulary; i++)
        mass[bin_of(logits[i], top, scale)] += (double)weight[i];
    for (; last < BINS - 1 && before + mass[last] < wanted; last++) before += mass[last];
    int64_t whole = 0;
    for (int64_t i = 0; i < vocabulary; i++)
        if (bin_of(logits[i], top, scale) < last) out[whole++] = (candidate){logits[i], (int32_t)i};
    int64_t count = whole;
    for (int64_t i = 0; i < vocabulary; i++)
        if (bin_of(logits[i], top, scale) == last)
            out[count++] = (candidate){logits[i], (int32_t)i};
    qsort(out + whole, (size_t)(count - whole), sizeof *out, better_first);
    int64_t keep = whole;
    for (; keep < count && before < wanted; keep++) before += (double)weight[out[keep].token];
    return keep > 0 ? keep : 1;
}

/* The same of candidates that are sorted already. */
static int64_t shortest(const candidate *c, int64_t count, float top, float scale, double wanted)
{
    int64_t keep = 0;
    for (double kept = 0; keep < count && kept < wanted; keep++)
        kept += (double)tn_exp_f32((c[keep].logit - top) * scale);
    return keep > 0 ? keep : 1;
}

/* ---- drawing --------------------------------------------------------------------------------- */

/* Uniform in [0, 1) with 53 bits, of this sample at this position. */
static double uniform(const tn_sampling *s, uint64_t position)
{
    uint64_t stream = tn_random_stream("sample") + s->sample,
             high = tn_random_u32(s->seed, stream, 2 * position),
             low = tn_random_u32(s->seed, stream, 2 * position + 1);
    return (double)((high << 32 | low) >> 11) * 0x1p-53;
}

static int32_t draw_candidate(const candidate *c, int64_t count, float top, float scale, double u)
{
    double total = 0;
    for (int64_t i = 0; i < count; i++) total += (double)tn_exp_f32((c[i].logit - top) * scale);
    u *= total;
    for (int64_t i = 0; i + 1 < count; i++) {
        u -= (double)tn_exp_f32((c[i].logit - top) * scale);
        if (u < 0) return c[i].token;
    }
    return c[count - 1].token;
}

static int32_t draw_any(const float *weight, int64_t vocabulary, double total, double u)
{
    int64_t last = 0;
    u *= total;
    for (int64_t i = 0; i < vocabulary; i++) {
        if (!(weight[i] > 0)) continue;
        last = i;
        u -= (double)weight[i];
        if (u < 0) break;
    }
    return (int32_t)last;
}

static tn_status draw(const float *logits, int64_t vocabulary, const tn_sampling *s, float top,
                      double u, int32_t *token)
{
    float scale = (float)(1 / s->temperature);
    bool by_k = s->top_k > 0 && s->top_k<vocabulary, by_p = s->top_p> 0 && s->top_p < 1;
    int64_t count = by_k ? s->top_k : vocabulary;
    candidate *c = malloc((size_t)count * sizeof *c);
    float *weight = by_k ? NULL : malloc((size_t)vocabulary * sizeof *weight);
    if (!c || (!by_k && !weight)) {
        free(c);
        free(weight);
        return tn_fail(TN_MEMORY, "out of memory for %lld logits", (long long)vocabulary);
    }
    double total = 0;
    if (by_k) {
        take_best(logits, vocabulary, count, c);
        for (int64_t i = 0; i < count; i++) total += (double)tn_exp_f32((c[i].logit - top) * scale);
    } else {
#pragma omp simd
        for (int64_t i = 0; i < vocabulary; i++) weight[i] = tn_exp_f32((logits[i] - top) * scale);
        for (int64_t i = 0; i < vocabulary; i++) total += (double)weight[i];
    }
    if (by_p)
        count = by_k ? shortest(c, count, top, scale, s->top_p * total)
                     : take_head(logits, weight, vocabulary, top, scale, s->top_p * total, c);
    if (s->min_p > 0 && (by_k || by_p)) {
        int64_t keep = 0; /* at least the best one, whose weight is 1 */
        for (int64_t i = 0; i < count; i++)
            if ((double)tn_exp_f32((c[i].logit - top) * scale) >= s->min_p) c[keep++] = c[i];
        count = keep;
    } else if (s->min_p > 0) {
        total = 0;
        for (int64_t i = 0; i < vocabulary; i++) {
            if ((double)weight[i] < s->min_p) weight[i] = 0;
            total += (double)weight[i];
        }
    }
    *token = by_k || by_p ? draw_candidate(c, count, top, scale, u)
                          : draw_any(weight, vocabulary, total, u);
    free(c);
    free(weight);
    return TN_OK;
}

tn_status tn_sample(const float *logits, int64_t vocabulary, const tn_sampling *s,
                    uint64_t position, const int32_t *seen, int64_t seen_count, int32_t *token)
{
    float *adjusted;
    TN_TRY(check(s, vocabulary));
    TN_TRY(adjust(logits, vocabulary, s, seen, seen_count, &adjusted));
    if (adjusted) logits = adjusted;
    tn_status status = find_best(logits, vocabulary, position, token);
    /* Below this temperature the second best would need a logit less than 1e-4 lower to be seen. */
    bool greedy = s->temperature < 1e-6;
    if (status == TN_OK && !greedy && isfinite(logits[*token]))
        status = draw(logits, vocabulary, s, logits[*token], uniform(s, position), token);
    free(adjusted);
    return status;
}
