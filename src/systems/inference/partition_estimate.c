/* One layout: what it moves, holds and costs. The terms are derived and named in the header; T, E,
 * F, H, Q, K, D, n, g and P as there. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tenon/partition.h"

static const char *const ff_names[] = {"ws1d", "ws2d", "wg-x", "wg-xy", "wg-xyz"};
static const char *const attention_names[] = {"heads", "batch-z", "batch-yz", "batch-yzx"};
static const char *const term_names[] = {
    "gather_input",   "norm_statistics", "scatter_q_wi",     "kv", "all_to_all", "gather_att_mlp",
    "scatter_output", "gather_weights",  "gather_kv_weights"};

const char *tn_partition_ff_name(tn_partition_ff ff) { return ff_names[ff]; }

const char *tn_partition_attention_name(tn_partition_attention a) { return attention_names[a]; }

const char *tn_partition_term_name(tn_partition_term term) { return term_names[term]; }

/* ---- how a layout cuts ----------------------------------------------------------------------- */

/* Padded sizes, and over how many chips things are split. */
typedef struct cut {
    double E, F, H, Q, K, g, P; /* P = (g + 1) F + 2 H Q */
    double n, X, YZ;
    double N, rest;  /* weights gathered over N of the n = N rest chips; N = 1: stationary */
    double G;        /* attention split over so many batch parts */
    double kv_parts; /* K/V heads split over so many chips besides */
} cut;

static int64_t up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

static double least(double a, double b) { return a < b ? a : b; }

static cut cut_of(const tn_partition_model *m, tn_partition_layout l)
{
    int64_t X = l.mesh[0], Y = l.mesh[1], Z = l.mesh[2], n = X * Y * Z, N = 1;
    if (l.ff == TN_WG_X) N = X;
    if (l.ff == TN_WG_XY) N = X * Y;
    if (l.ff == TN_WG_XYZ) N = n;
    if (l.ff == TN_WS1D) X = 1;
    int64_t rest = n / N, parts = N > 1 ? rest : n; /* heads and F are split over these */
    int64_t G = 1;
    if (l.attention >= TN_BY_BATCH_Z) G *= Z;
    if (l.attention >= TN_BY_BATCH_YZ) G *= Y;
    if (l.attention >= TN_BY_BATCH_YZX) G *= l.mesh[0];
    if (N > 1) G = N;
    int64_t H = up(m->heads, parts), K = m->kv_heads == m->heads ? H : m->kv_heads;
    cut c = {.E = (double)up(m->width, parts),
             .F = (double)up(m->feed_forward, parts),
             .H = (double)H,
             .Q = (double)m->head_width,
             .K = (double)K,
             .g = (double)m->input_matrices,
             .n = (double)n,
             .X = (double)X,
             .YZ = (double)(n / X),
             .N = (double)N,
             .rest = (double)rest,
             .G = (double)G};
    c.P = (c.g + 1) * c.F + 2 * c.H * c.Q;
    c.kv_parts = least(c.K, N > 1 ? c.rest : c.n / c.G);
    return c;
}

static double padded_parameters(const tn_partition_model *m, const cut *c)
{
    return (double)m->layers * c->E * (c->P + 2 * c->K * c->Q) +
           (double)m->vocabulary * c->E * (m->untied ? 2 : 1);
}

/* ---- volumes --------------------------------------------------------------------------------- */

/* The share of a tensor that a chip of k receives in an all-gather. */
static double share(double k, bool paper) { return k <= 1 ? 0 : paper ? 1 : 1 - 1 / k; }

static void volumes(const tn_partition_model *m, const tn_partition_job *job, const cut *c,
                    int64_t z_axis, double *v)
{
    bool paper = job->paper_volumes, ff = job->ff_only;
    double T = (double)job->batch * (double)job->tokens, heads = ff ? 0 : c->H * c->Q;
    double twice = m->parallel || ff ? 1
                                     : 2; /* a serial block gathers and scatters for each half */
    memset(v, 0, TN_PARTITION_TERMS * sizeof *v);
    if (c->N > 1) {
        double matrices = (c->g + 1) * c->F + 2 * heads;
        v[TN_GATHER_INPUT] = twice * T / c->N * c->E * share(c->rest, paper);
        v[TN_SCATTER_OUTPUT] = v[TN_GATHER_INPUT];
        v[TN_GATHER_WEIGHTS] = c->E * matrices / c->rest * share(c->N, paper);
        if (!ff) v[TN_GATHER_KV_WEIGHTS] = 2 * c->E * c->K * c->Q * share(c->X, paper);
        return;
    }
    double x = share(c->X, paper), yz = share(c->YZ, paper);
    v[TN_GATHER_INPUT] = twice * T * c->E / c->X * yz;
    v[TN_SCATTER_Q_WI] = T * (c->g * c->F + heads) / c->YZ * x;
    v[TN_GATHER_ATT_MLP] = T * (c->F + heads) / c->YZ * x;
    v[TN_SCATTER_OUTPUT] = v[TN_GATHER_INPUT];
    if (ff) return;
    bool by_z = job->batch % z_axis == 0; /* residual B_z L E_xy, else B L E_xyz */
    v[TN_NORM_STATISTICS] = twice * 2 * (by_z ? T / (double)z_axis : T) * x;
    double kv = 2 * c->K * c->Q;
    if (c->G == c->n) v[TN_KV] = T / c->YZ * kv * x;
    else if (c->K >= c->YZ && c->G == 1) v[TN_KV] = T * kv / c->YZ * x;
    else v[TN_KV] = 2 * T / c->G * kv / least(c->K, fmax(1, c->YZ / c->G)) * x;
    v[TN_ALL_TO_ALL] = 2 * T * heads / c->n * share(c->G, paper);
}

/* Axes of the mesh that a term's collective runs over, as bits x = 1, y = 2, z = 4. */
static int axes_of(tn_partition_term term, tn_partition_layout l)
{
    int gathered = l.ff == TN_WG_X ? 1 : l.ff == TN_WG_XY ? 3 : l.ff == TN_WG_XYZ ? 7 : 0;
    switch (term) {
    case TN_GATHER_INPUT:
    case TN_SCATTER_OUTPUT: return gathered ? 7 & ~gathered : l.ff == TN_WS1D ? 7 : 6;
    case TN_ALL_TO_ALL:
        return l.attention == TN_BY_BATCH_Z ? 4 : l.attention == TN_BY_BATCH_YZ ? 6 : 7;
    case TN_GATHER_WEIGHTS: return gathered;
    default: return 1;
    }
}

static double moving_time(const tn_partition_hardware *h, const tn_partition_job *job,
                          tn_partition_layout l, tn_partition_term term, double bytes)
{
    if (bytes <= 0) return 0;
    int axes = axes_of(term, l), used = 0;
    double hops = 0, bandwidth = h->link_bandwidth;
    for (int i = 0; i < 3; i++)
        if (axes >> i & 1 && l.mesh[i] > 1) hops += (double)(l.mesh[i] / 2), used++;
    if (!job->axis_links) return bytes / bandwidth; /* the paper's: bytes alone */
    bandwidth *= least(1, (double)used / h->axes);
    if (term == TN_NORM_STATISTICS || term == TN_KV) hops *= 2; /* reduce, then gather */
    return fmax(hops * h->hop_seconds, bytes / bandwidth);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static int bytes_or_bf16(int bytes) { return bytes ? bytes : 2; }

static double kv_bytes(const tn_partition_model *m, const tn_partition_job *job, const cut *c)
{
    double rows = ceil((double)job->batch / c->G), heads = ceil(c->K / c->kv_parts);
    return 2 * (double)m->layers * heads * c->Q * rows * bytes_or_bf16(job->cache_bytes);
}

double tn_partition_kv_bytes(const tn_partition_model *model, const tn_partition_job *job,
                             tn_partition_layout layout)
{
    cut c = cut_of(model, layout);
    return kv_bytes(model, job, &c);
}

int64_t tn_partition_max_context(const tn_partition_model *model, const tn_partition_job *job,
                                 tn_partition_layout layout, double bytes)
{
    return bytes <= 0 ? 0 : (int64_t)(bytes / tn_partition_kv_bytes(model, job, layout));
}

static void memory(const tn_partition_model *m, const tn_partition_job *job, const cut *c,
                   tn_partition_estimate *e)
{
    double w = bytes_or_bf16(job->weight_bytes), a = bytes_or_bf16(job->activation_bytes),
           T = (double)job->batch * (double)job->tokens / c->N, X = c->N > 1 ? 1 : c->X,
           parts = c->N > 1 ? c->rest : c->YZ, heads = c->H * c->Q;
    /* every chip of a plane of y and z has the same part of the K/V matrices, unless K is split */
    double kv_copies = 2 * (double)m->layers * c->E * c->K * c->Q *
                       (1 / (c->X * least(c->K, c->YZ)) - 1 / c->n);
    e->weight_memory = w * (e->padded_parameters / c->n + kv_copies);
    e->kv_memory = kv_bytes(m, job, c) * (double)job->context;
    e->gathered_memory = c->N > 1 ? 2 * w * c->E * c->P / c->rest : 0; /* this layer and the next */
    e->activation_memory =
        a * T * (c->E / parts + c->E / X + (c->g * c->F + heads) / parts + (c->F + heads) / parts) +
        4 * (double)job->batch * (double)m->vocabulary / c->n;
    e->memory = e->weight_memory + e->kv_memory + e->gathered_memory + e->activation_memory;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void times(const tn_partition_model *m, const tn_partition_hardware *h,
                  const tn_partition_job *job, const cut *c, tn_partition_estimate *e)
{
    double T = (double)job->batch * (double)job->tokens, D = (double)m->layers;
    bool int8 = job->weight_bytes == 1 && job->activation_bytes == 1;
    double peak = c->n * (int8 ? h->peak_int8 : h->peak_bf16);
    double positions = (double)job->context -
                       ((double)job->tokens - 1) / 2; /* causal, on average */
    e->compute = 2 * e->padded_parameters * T / peak;
    e->attention = 4 * c->H * c->Q * positions * D * T / peak;
    double each = c->N > 1 ? c->rest : c->n;
    e->weights = e->padded_parameters * bytes_or_bf16(job->weight_bytes) / each /
                 h->memory_bandwidth;
    e->kv = kv_bytes(m, job, c) * (double)job->context / h->memory_bandwidth;
    e->communication = 0;
    for (int term = 0; term < TN_PARTITION_TERMS; term++)
        e->communication += D *
                            moving_time(h, job, e->layout, (tn_partition_term)term, e->bytes[term]);
    e->fixed = D * h->constants.layer_seconds;
    e->latency = fmax((e->compute + e->attention) / h->constants.compute,
                      (e->weights + e->kv) / h->constants.memory) +
                 e->communication / h->constants.network + e->fixed;
    double nominal = m->nominal > 0 ? m->nominal : tn_partition_parameters(m);
    e->mfu = 2 * nominal * T / (e->latency * peak);
    e->chip_seconds = c->n * e->latency / T;
}

static void judge(const tn_partition_model *m, const tn_partition_hardware *h,
                  const tn_partition_job *job, const cut *c, tn_partition_estimate *e)
{
    size_t used = 0;
    e->possible = c->N <= (double)job->batch;
    e->fits = e->possible && e->memory <= h->memory_bytes;
    if (!e->possible) {
        snprintf(e->reason, sizeof e->reason,
                 "splits the batch %.0f ways, but it has %lld sequences", c->N,
                 (long long)job->batch);
        return;
    }
    if (!e->fits) {
        snprintf(e->reason, sizeof e->reason,
                 "needs %.1f GB of %.1f: weights %.1f, cache %.1f, gathered %.1f, activations %.1f",
                 e->memory / 1e9, h->memory_bytes / 1e9, e->weight_memory / 1e9, e->kv_memory / 1e9,
                 e->gathered_memory / 1e9, e->activation_memory / 1e9);
        return;
    }
    if (e->padded_heads != m->heads)
        used += (size_t)snprintf(e->reason, sizeof e->reason, "heads padded from %lld to %lld",
                                 (long long)m->heads, (long long)e->padded_heads);
    double over = fmod((double)job->batch, c->G);
    if (c->N <= 1 && over > 0)
        snprintf(e->reason + used, sizeof e->reason - used,
                 "%sbatch padded from %lld to %.0f for attention", used ? ", " : "",
                 (long long)job->batch, (double)job->batch + c->G - over);
}

void tn_partition_estimate_layout(const tn_partition_model *model,
                                  const tn_partition_hardware *hardware,
                                  const tn_partition_job *job, tn_partition_layout layout,
                                  tn_partition_estimate *out)
{
    cut c = cut_of(model, layout);
    *out = (tn_partition_estimate){.layout = layout, .padded_heads = (int64_t)c.H};
    out->padded_parameters = padded_parameters(model, &c);
    volumes(model, job, &c, layout.mesh[2], out->volume);
    double a = bytes_or_bf16(job->activation_bytes), w = bytes_or_bf16(job->weight_bytes);
    for (int term = 0; term < TN_PARTITION_TERMS; term++) {
        double each = term == TN_NORM_STATISTICS                                  ? 4
                      : term == TN_GATHER_WEIGHTS || term == TN_GATHER_KV_WEIGHTS ? w
                                                                                  : a;
        out->bytes[term] = out->volume[term] * each;
        out->volume_sum += out->volume[term];
        out->bytes_sum += out->bytes[term];
    }
    memory(model, job, &c, out);
    times(model, hardware, job, &c, out);
    judge(model, hardware, job, &c, out);
}
