/* Drawing a token from logits. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "tenon/infer.h"
#include "tenon/random.h"

static tn_status check(const tn_sampling *s)
{
    if (!(s->temperature >= 0) || !isfinite(s->temperature))
        return tn_fail(TN_INVALID, "temperature is %g; it must be 0 or more", s->temperature);
    if (s->top_k < 0)
        return tn_fail(TN_INVALID, "top-k is %lld; use 0 for all tokens", (long long)s->top_k);
    if (!(s->top_p >= 0 && s->top_p <= 1))
        return tn_fail(TN_INVALID, "top-p is %g; it must lie in [0, 1]", s->top_p);
    if (!(s->repetition >= 0) || !isfinite(s->repetition))
        return tn_fail(TN_INVALID, "repetition penalty is %g; it must be positive", s->repetition);
    return TN_OK;
}

typedef struct candidate {
    float logit;
    int32_t token;
} candidate;

/* Better logits first; lower ids first on ties. */
static int better_first(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return x->token < y->token ? -1 : x->token > y->token;
}

static void penalise(candidate *candidates, int64_t vocabulary, double penalty, const int32_t *seen,
                     int64_t seen_count)
{
    bool *done = calloc((size_t)vocabulary, 1);
    if (!done) return;
    for (int64_t i = 0; i < seen_count; i++) {
        if (seen[i] < 0 || seen[i] >= vocabulary || done[seen[i]]) continue;
        done[seen[i]] = true;
        float *logit = &candidates[seen[i]].logit;
        *logit = *logit > 0 ? (float)(*logit / penalty) : (float)(*logit * penalty);
    }
    free(done);
}

tn_status tn_sample(const float *logits, int64_t vocabulary, const tn_sampling *s,
                    uint64_t position, const int32_t *seen, int64_t seen_count, int32_t *token)
{
    TN_TRY(check(s));
    for (int64_t i = 0; i < vocabulary; i++)
        if (isnan(logits[i]))
            return tn_fail(TN_INVALID, "the logit of token %lld at position %llu is not a number",
                           (long long)i, (unsigned long long)position);
    candidate *candidates = malloc((size_t)vocabulary * sizeof *candidates);
    if (!candidates)
        return tn_fail(TN_MEMORY, "out of memory for %lld logits", (long long)vocabulary);
    for (int64_t i = 0; i < vocabulary; i++) candidates[i] = (candidate){logits[i], (int32_t)i};
    if (s->repetition > 0 && s->repetition != 1)
        penalise(candidates, vocabulary, s->repetition, seen, seen_count);
    int64_t count = vocabulary, best = 0;
    for (int64_t i = 1; i < vocabulary; i++)
        if (candidates[i].logit > candidates[best].logit) best = i;
    *token = (int32_t)best;
    if (s->temperature > 0) {
        double top = candidates[best].logit, total = 0, kept = 0;
        bool cut = (s->top_k > 0 && s->top_k < count) || (s->top_p > 0 && s->top_p < 1);
        if (cut) qsort(candidates, (size_t)count, sizeof *candidates, better_first);
        if (s->top_k > 0 && s->top_k < count) count = s->top_k;
        for (int64_t i = 0; i < count; i++)
            total += exp((candidates[i].logit - top) / s->temperature);
        if (s->top_p > 0 && s->top_p < 1) {
            int64_t keep = 0;
            for (; keep < count && kept < s->top_p * total; keep++)
                kept += exp((candidates[keep].logit - top) / s->temperature);
            count = keep;
            total = kept;
        }
        double u = (double)tn_random_uniform(s->seed, tn_random_stream("sample") + s->sample,
                                             position) *
                   total;
        *token = candidates[count - 1].token;
        for (int64_t i = 0; i < count; i++) {
            u -= exp((candidates[i].logit - top) / s->temperature);
            if (u < 0) {
                *token = candidates[i].token;
                break;
            }
        }
    }
    free(candidates);
    return TN_OK;
}
