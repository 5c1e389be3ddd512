/* Attention, rotary positions and the cache write: shapes, gradients and their dense forms.
 *
 * The dense form stores the scores [B, K, G*L, M] and is what a backend without the kernel runs,
 * what second derivatives go through, and what the kernels are tested against. Letters: see
 * graph.h; G = H/K heads read one key head. */
#include "graph/attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- building -------------------------------------------------------------------------------- */

/* Appends an optional operand of the wanted kind and shape. False after an error. */
static bool take(tn_node *in, int *count, bool *has, tn_node operand, const char *what,
                 tn_dtype dtype, tn_shape shape)
{
    *has = !tn_is_none(operand);
    if (!*has) return true;
    if (tn_dtype_of(operand) != dtype || !tn_shape_equal(tn_shape_of(operand), shape)) {
        tn_graph_fail(in[0].graph, "attention: %s is %s %s; it must be %s %s here", what,
                      tn_dtype_name(tn_dtype_of(operand)), tn_shape_text(tn_shape_of(operand)),
                      tn_dtype_name(dtype), tn_shape_text(shape));
        return false;
    }
    in[(*count)++] = operand;
    return true;
}

static tn_node as_i32(tn_node x)
{
    return !tn_is_none(x) && tn_dtype_of(x) == TN_I64 ? tn_cast(x, TN_I32) : x;
}

static bool operands_fit(tn_node q, tn_node k, tn_node v, const tn_attention_options *o)
{
    bool packed = !tn_is_none(o->offsets);
    tn_shape qs = tn_shape_of(q), ks = tn_shape_of(k), vs = tn_shape_of(v);
    const char *form = packed ? "q [T, H, Q], k and v [T, K, Q]"
                              : "q [B, L, H, Q], k and v [B, M, K, Q]";
    int rank = packed ? 3 : 4;
    if (!tn_dtype_is_float(tn_dtype_of(q)) || tn_dtype_of(k) != tn_dtype_of(q) ||
        tn_dtype_of(v) != tn_dtype_of(q)) {
        tn_graph_fail(
            q.graph,
            "attention: q, k and v are %s, %s and %s; cast them to one floating-point type",
            tn_dtype_name(tn_dtype_of(q)), tn_dtype_name(tn_dtype_of(k)),
            tn_dtype_name(tn_dtype_of(v)));
        return false;
    }
    bool fits = qs.rank == rank && ks.rank == rank && tn_shape_equal(ks, vs) &&
                qs.dim[rank - 1] == ks.dim[rank - 1] && qs.dim[0] == ks.dim[0];
    if (!fits) {
        tn_graph_fail(q.graph, "attention: q %s, k %s, v %s do not fit; %s wants %s",
                      tn_shape_text(qs), tn_shape_text(ks), tn_shape_text(vs),
                      packed ? "the packed form" : "the dense form", form);
        return false;
    }
    int64_t heads = qs.dim[rank - 2], groups = ks.dim[rank - 2];
    if (groups == 0 ? heads != 0 : heads % groups != 0) {
        tn_graph_fail(q.graph, "attention: %lld heads are not a multiple of %lld key/value heads",
                      (long long)heads, (long long)groups);
        return false;
    }
    if (o->window < 0 || o->longest < 0 || !isfinite(o->scale)) {
        tn_graph_fail(
            q.graph,
            "attention: window %lld, longest %lld, scale %g; none may be negative or infinite",
            (long long)o->window, (long long)o->longest, o->scale);
        return false;
    }
    if (packed && (!tn_is_none(o->length) || !tn_is_none(o->bias))) {
        tn_graph_fail(
            q.graph,
            "attention: offsets (packed sequences) do not go together with length or bias");
        return false;
    }
    if (packed && (tn_rank(o->offsets) != 1 || tn_dim(o->offsets, 0) < 1)) {
        tn_graph_fail(q.graph, "attention: offsets is %s; it must be [segments + 1]",
                      tn_shape_text(tn_shape_of(o->offsets)));
        return false;
    }
    return true;
}

static tn_dtype compute_dtype(tn_node q) { return tn_dtype_of(q) == TN_F64 ? TN_F64 : TN_F32; }

tn_node tn_attention_with(tn_node q, tn_node k, tn_node v, tn_attention_options o)
{
    if (tn_is_none(q) || tn_is_none(k) || tn_is_none(v)) return TN_NONE;
    o.offsets = as_i32(o.offsets), o.length = as_i32(o.length);
    if (!operands_fit(q, k, v, &o)) return TN_NONE;
    bool packed = !tn_is_none(o.offsets);
    tn_attention_sizes s = tn_attention_sizes_of(tn_shape_of(q).dim, tn_shape_of(k).dim, packed);
    tn_attention_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.causal = o.causal;
    attribute.window = o.window;
    attribute.longest = packed ? o.longest : 0;
    attribute.scale = o.scale != 0 ? o.scale : s.Q ? 1 / sqrt((double)s.Q) : 1;

    tn_node in[7] = {q, k, v};
    int count = 3;
    if (!tn_is_none(o.bias)) {
        tn_shape scores = TN_SHAPE(s.B, s.H, s.L, s.M), both;
        if (!tn_shape_broadcast(tn_shape_of(o.bias), scores, &both) ||
            !tn_shape_equal(both, scores))
            return tn_graph_fail(
                q.graph, "attention: bias %s does not broadcast to the scores [B, H, L, M] = %s",
                tn_shape_text(tn_shape_of(o.bias)), tn_shape_text(scores));
        o.bias = tn_cast(o.bias, compute_dtype(q));
    }
    if (!take(in, &count, &attribute.has_bias, o.bias, "bias", compute_dtype(q),
              tn_shape_of(o.bias)) ||
        !take(in, &count, &attribute.has_key_mask, o.key_mask, "key_mask", TN_BOOL,
              packed ? TN_SHAPE(s.M) : TN_SHAPE(s.B, s.M)) ||
        !take(in, &count, &attribute.has_offsets, o.offsets, "offsets", TN_I32,
              tn_shape_of(o.offsets)) ||
        !take(in, &count, &attribute.has_length, o.length, "length", TN_I32, TN_SHAPE(s.B)))
        return TN_NONE;
    tn_dtype lse_dtype = compute_dtype(q);
    tn_shape lse_shape = packed ? TN_SHAPE(s.H, s.L) : TN_SHAPE(s.B, s.H, s.L);
    return tn_node_new(NULL, &(tn_new_node){.id = TN_OP_ATTENTION,
                                            .dtype = tn_dtype_of(q),
                                            .shape = tn_shape_of(q),
                                            .in = in,
                                            .in_count = count,
                                            .attribute = &attribute,
                                            .attribute_size = sizeof attribute,
                                            .more = 1,
                                            .more_dtype = &lse_dtype,
                                            .more_shape = &lse_shape});
}

/* ---- gradient -------------------------------------------------------------------------------- */

static void attention_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                          tn_node *d_in)
{
    /* Nobody outside reads lse, and the rules below write second derivatives without it. */
    if (tn_is_none(d_out[0])) return;
    const tn_value *self = tn_value_of(out[0]);
    const tn_attention_attribute *attribute = self->attribute;
    tn_node all[10] = {in[0], in[1], in[2], out[0], out[1], d_out[0]};
    for (int i = 3; i < self->in_count; i++) all[i + 3] = in[i];
    tn_new_node description = {.id = TN_OP_ATTENTION_GRAD,
                               .dtype = tn_dtype_of(in[0]),
                               .shape = tn_shape_of(in[0]),
                               .in = all,
                               .in_count = self->in_count + 3,
                               .attribute = attribute,
                               .attribute_size = sizeof *attribute,
                               .more = 2,
                               .more_dtype = (tn_dtype[]){tn_dtype_of(in[1]), tn_dtype_of(in[2])},
                               .more_shape = (tn_shape[]){tn_shape_of(in[1]), tn_shape_of(in[2])}};
    tn_node gradient = tn_node_new(NULL, &description);
    for (int i = 0; i < 3; i++) d_in[i] = tn_result(gradient, i);
    if (!attribute->has_bias) return;
    tn_node bias = in[3]; /* a node of its own: it drops out when nobody wants the bias' gradient */
    d_in[3] = tn_node_new(NULL, &(tn_new_node){.id = TN_OP_ATTENTION_BIAS_GRAD,
                                               .dtype = tn_dtype_of(bias),
                                               .shape = tn_shape_of(bias),
                                               .in = all,
                                               .in_count = self->in_count + 3,
                                               .attribute = attribute,
                                               .attribute_size = sizeof *attribute});
}

/* ---- dense forms ----------------------------------------------------------------------------- */

typedef struct dense_form {
    tn_attention_sizes s;
    tn_dtype compute;
    tn_node q, k, v;     /* [B, K, G*L, Q] and [B, K, M, Q] twice, in the dtype of computation */
    tn_node probability; /* [B, K, G*L, M] */
    tn_node lse;         /* [B, K, G*L] */
} dense_form;

/* [B, L, H, Q] or [T, H, Q] -> [B, K, H/K * L, Q], in the dtype of computation. */
static tn_node fold(const dense_form *f, tn_node x, int64_t length, int64_t heads)
{
    const tn_attention_sizes *s = &f->s;
    int64_t group = s->K ? heads / s->K : 0;
    x = tn_reshape(tn_cast(x, f->compute), TN_SHAPE(s->B, length, s->K, group, s->Q));
    x = tn_transpose(x, TN_PERMUTE(0, 2, 3, 1, 4));
    return tn_reshape(x, TN_SHAPE(s->B, s->K, group * length, s->Q));
}

/* The way back, to the dtype and shape of `like`. */
static tn_node unfold(const dense_form *f, tn_node x, int64_t length, int64_t heads, tn_node like)
{
    const tn_attention_sizes *s = &f->s;
    int64_t group = s->K ? heads / s->K : 0;
    x = tn_reshape(x, TN_SHAPE(s->B, s->K, group, length, s->Q));
    x = tn_transpose(x, TN_PERMUTE(0, 3, 1, 2, 4));
    return tn_cast(tn_reshape(x, tn_shape_of(like)), tn_dtype_of(like));
}

static tn_node both(tn_node a, tn_node b)
{
    return tn_is_none(a) ? b : tn_is_none(b) ? a : tn_and(a, b);
}

/* Segment of each token [T]: how many ends it has behind it; S for tokens behind the last
 * segment. */
static tn_node segment_of_token(tn_node offsets, int64_t tokens)
{
    int64_t segments = tn_dim(offsets, 0) - 1;
    tn_node end = tn_reshape(tn_slice(offsets, 0, 1, INT64_MAX, 1), TN_SHAPE(segments, 1));
    tn_node token = tn_iota(offsets.graph, TN_I32, TN_SHAPE(1, tokens), 1);
    return tn_sum(tn_cast(tn_less_equal(end, token), TN_F32), TN_AXES(0));
}

/* Which (query, key) pairs may meet: bool, broadcastable to [B, K, G, L, M]; empty when all may. */
static tn_node allowed_pairs(const tn_attention_sizes *s, const tn_attention_attribute *a,
                             const tn_node *in, int first)
{
    tn_graph *graph = in[0].graph;
    tn_attention_optional at = tn_attention_find(a, first);
    tn_node allowed = TN_NONE;
    tn_node key = tn_iota(graph, TN_I32, TN_SHAPE(1, 1, 1, 1, s->M), 4);
    tn_node query = tn_iota(graph, TN_I32, TN_SHAPE(1, 1, 1, s->L, 1), 3);
    if (at.length >= 0) {
        tn_node length = tn_reshape(in[at.length], TN_SHAPE(s->B, 1, 1, 1, 1));
        allowed = tn_less(key, length);
        query = tn_add(query, tn_subtract(length, tn_like(length, (double)s->L)));
    } else {
        query = tn_add(query, tn_like(query, (double)(s->M - s->L)));
    }
    if (a->causal) allowed = both(allowed, tn_less_equal(key, query));
    if (a->window > 0) {
        tn_node distance = tn_subtract(query, key);
        allowed = both(allowed, tn_less(tn_abs(tn_cast(distance, TN_F32)),
                                        tn_fill(graph, TN_F32, TN_SCALAR, (double)a->window)));
    }
    if (at.key_mask >= 0)
        allowed = both(allowed, tn_reshape(in[at.key_mask], TN_SHAPE(s->B, 1, 1, 1, s->M)));
    if (at.offsets >= 0) {
        tn_node segment = segment_of_token(in[at.offsets], s->L);
        tn_node of_query = tn_reshape(segment, TN_SHAPE(1, 1, 1, s->L, 1)),
                of_key = tn_reshape(segment, TN_SHAPE(1, 1, 1, 1, s->M));
        tn_node count = tn_fill(graph, TN_F32, TN_SCALAR, (double)(tn_dim(in[at.offsets], 0) - 1));
        allowed = both(allowed, both(tn_equal(of_query, of_key), tn_less(of_query, count)));
    }
    return allowed;
}

/* Bias of up to four dimensions -> [b, K or 1, G or 1, l, m]. */
static tn_node bias_by_group(const tn_attention_sizes *s, tn_node bias)
{
    int64_t d[4] = {1, 1, 1, 1};
    for (int i = 1; i <= tn_rank(bias); i++) d[4 - i] = tn_dim(bias, -i);
    bool per_head = d[1] != 1;
    return tn_reshape(bias, TN_SHAPE(d[0], per_head ? s->K : 1, per_head ? s->G : 1, d[2], d[3]));
}

static dense_form make_dense(const tn_node *in, const tn_attention_attribute *a, int first)
{
    dense_form f = {
        .s = tn_attention_sizes_of(tn_shape_of(in[0]).dim, tn_shape_of(in[1]).dim, a->has_offsets),
        .compute = compute_dtype(in[0])};
    const tn_attention_sizes *s = &f.s;
    f.q = fold(&f, in[0], s->L, s->H);
    f.k = fold(&f, in[1], s->M, s->K);
    f.v = fold(&f, in[2], s->M, s->K);
    tn_shape scores = TN_SHAPE(s->B, s->K, s->G, s->L, s->M),
             folded = TN_SHAPE(s->B, s->K, s->G * s->L, s->M);
    tn_node score = tn_matmul(f.q, f.k, .transpose_b = true);
    score = tn_reshape(tn_affine(score, a->scale, 0), scores);
    if (a->has_bias) score = tn_add(score, bias_by_group(s, in[first]));
    tn_node allowed = allowed_pairs(s, a, in, first), any = TN_NONE;
    if (!tn_is_none(allowed)) {
        score = tn_where(allowed, score, tn_fill(score.graph, f.compute, TN_SCALAR, -INFINITY));
        any = tn_max(tn_cast(tn_broadcast(allowed, scores), TN_F32), TN_AXES_KEEP(-1));
        any = tn_greater(any, tn_fill(score.graph, TN_F32, TN_SCALAR, 0));
    } else if (s->M == 0) {
        any = tn_fill(score.graph, TN_BOOL, TN_SHAPE(1, 1, 1, 1, 1), 0);
    }
    f.probability = tn_reshape(tn_softmax(score, -1), folded);
    if (s->M == 0) {
        f.lse = tn_fill(score.graph, f.compute, TN_SHAPE(s->B, s->K, s->G * s->L), INFINITY);
    } else if (tn_is_none(any)) {
        f.lse = tn_logsumexp(tn_reshape(score, folded), TN_AXES(-1));
    } else {
        tn_node finite = tn_where(any, score, tn_fill(score.graph, f.compute, TN_SCALAR, 0));
        tn_node lse = tn_logsumexp(finite, TN_AXES_KEEP(-1));
        lse = tn_where(any, lse, tn_fill(score.graph, f.compute, TN_SCALAR, INFINITY));
        f.lse = tn_reshape(lse, TN_SHAPE(s->B, s->K, s->G * s->L));
    }
    return f;
}

static void attention_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    dense_form f = make_dense(in, tn_value_of(self)->attribute, 3);
    out[0] = unfold(&f, tn_matmul(f.probability, f.v), f.s.L, f.s.H, in[0]);
    out[1] = tn_reshape(f.lse, tn_shape_of(tn_result(self, 1)));
}

/* Cotangent of the scores [B, K, G*L, M]: p * (dp - sum(p dp)), dp = d_y v^T. */
static tn_node score_cotangent(const dense_form *f, tn_node d_y)
{
    tn_node d_p = tn_matmul(d_y, f->v, .transpose_b = true);
    tn_node delta = tn_sum(tn_multiply(f->probability, d_p), TN_AXES_KEEP(-1));
    return tn_multiply(f->probability, tn_subtract(d_p, delta));
}

/* Written in q, k, v and d_y alone: y and lse are functions of q, k and v, so that differentiating
 * this form gives the whole second derivative. */
static void attention_grad_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    const tn_attention_attribute *a = tn_value_of(self)->attribute;
    dense_form f = make_dense(in, a, 6);
    tn_node d_y = fold(&f, in[5], f.s.L, f.s.H);
    tn_node d_score = tn_affine(score_cotangent(&f, d_y), a->scale, 0);
    out[0] = unfold(&f, tn_matmul(d_score, f.k), f.s.L, f.s.H, in[0]);
    out[1] = unfold(&f, tn_matmul(d_score, f.q, .transpose_a = true), f.s.M, f.s.K, in[1]);
    out[2] = unfold(&f, tn_matmul(f.probability, d_y, .transpose_a = true), f.s.M, f.s.K, in[2]);
}

static void attention_bias_grad_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    dense_form f = make_dense(in, tn_value_of(self)->attribute, 6);
    tn_node d_score = score_cotangent(&f, fold(&f, in[5], f.s.L, f.s.H));
    d_score = tn_reshape(d_score, TN_SHAPE(f.s.B, f.s.H, f.s.L, f.s.M));
    out[0] = tn_sum_to(d_score, in[6]);
}

/* ---- FLOP ------------------------------------------------------------------------------------ */

/* (query, key) pairs that meet. What only the run knows (segments, lengths, masks) counts at its
 * bound. */
static double pairs(const tn_attention_attribute *a, const tn_attention_sizes *s)
{
    int64_t keys = a->has_offsets && a->longest > 0 && a->longest < s->M ? a->longest : s->M;
    if (!a->causal && a->window == 0) return (double)s->L * (double)keys;
    double total = 0;
    for (int64_t i = 0; i < s->L; i++) {
        int64_t position = a->has_offsets ? i % (keys > 0 ? keys : 1) : i + keys - s->L;
        int64_t low = a->window > 0 ? position - a->window + 1 : 0;
        int64_t high = a->causal ? position + 1 : a->window > 0 ? position + a->window : keys;
        low = low < 0 ? 0 : low;
        high = high > keys ? keys : high;
        total += high > low ? (double)(high - low) : 0;
    }
    return total;
}

static double products(const tn_value *self, const tn_value *const *in, int count)
{
    const tn_attention_attribute *a = self->attribute;
    tn_attention_sizes s = tn_attention_sizes_of(in[0]->shape.dim, in[1]->shape.dim,
                                                 a->has_offsets);
    return 2.0 * count * (double)s.B * (double)s.H * (double)s.Q * pairs(a, &s);
}

static double attention_flop(const tn_value *self, const tn_value *const *in)
{
    return products(self, in, 2);
}

static double attention_grad_flop(const tn_value *self, const tn_value *const *in)
{
    return products(self, in, 5);
}

/* ---- rotary positions ------------------------------------------------------------------------ */

static tn_node rope(tn_node x, tn_node position, const tn_rope_attribute *attribute)
{
    return tn_node_new(NULL, &(tn_new_node){.id = TN_OP_ROPE,
                                            .dtype = tn_dtype_of(x),
                                            .shape = tn_shape_of(x),
                                            .in = (tn_node[]){x, position},
                                            .in_count = 2,
                                            .attribute = attribute,
                                            .attribute_size = sizeof *attribute});
}

tn_node tn_rope_with(tn_node x, tn_node position, tn_rope_options o)
{
    if (tn_is_none(x) || tn_is_none(position)) return TN_NONE;
    position = as_i32(position);
    tn_shape xs = tn_shape_of(x), ps = tn_shape_of(position);
    int64_t width = xs.rank ? xs.dim[xs.rank - 1] : 0, rotary = o.rotary ? o.rotary : width;
    if (!tn_dtype_is_float(tn_dtype_of(x)) || tn_dtype_of(position) != TN_I32)
        return tn_graph_fail(x.graph,
                             "rope: x is %s and position %s; they must be floating-point and i32",
                             tn_dtype_name(tn_dtype_of(x)), tn_dtype_name(tn_dtype_of(position)));
    /* position names every dimension of x before [H, Q], or the last of them alone */
    bool fits = xs.rank >= 3 && (ps.rank == xs.rank - 2 || ps.rank == 1);
    for (int i = 0; fits && i < ps.rank; i++)
        fits = ps.dim[ps.rank - 1 - i] == xs.dim[xs.rank - 3 - i];
    if (!fits)
        return tn_graph_fail(
            x.graph, "rope: position %s does not fit x %s; x [..., L, H, Q] wants [L] or [..., L]",
            tn_shape_text(ps), tn_shape_text(xs));
    if (rotary < 0 || rotary > width || rotary % 2)
        return tn_graph_fail(
            x.graph,
            "rope: %lld of %lld elements are to turn; it must be an even number up to %lld",
            (long long)rotary, (long long)width, (long long)width);
    if (o.base != 0 && !(o.base > 0 && isfinite(o.base)))
        return tn_graph_fail(x.graph, "rope: base %g is not positive", o.base);
    tn_rope_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.base = o.base != 0 ? o.base : 10000;
    attribute.rotary = rotary;
    attribute.interleaved = o.interleaved;
    return rope(x, position, &attribute);
}

static void rope_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out, tn_node *d_in)
{
    tn_rope_attribute attribute;
    memcpy(&attribute, tn_value_of(out[0])->attribute, sizeof attribute);
    attribute.inverse = !attribute.inverse;
    d_in[0] = rope(d_out[0], in[1], &attribute);
}

/* Angles in f64, because a position of 10^6 leaves f32 with 0.06 radians of doubt. */
static void rope_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    const tn_rope_attribute *a = tn_value_of(self)->attribute;
    tn_node x = in[0];
    tn_graph *graph = x.graph;
    tn_shape shape = tn_shape_of(x), ps = tn_shape_of(in[1]);
    int64_t half = a->rotary / 2, width = shape.dim[shape.rank - 1];
    tn_dtype dtype = tn_dtype_of(x), compute = dtype == TN_F64 ? TN_F64 : TN_F32;
    if (half == 0) {
        out[0] = x;
        return;
    }
    tn_shape column = {.rank = ps.rank + 2};
    for (int i = 0; i < ps.rank; i++) column.dim[i] = ps.dim[i];
    column.dim[ps.rank] = column.dim[ps.rank + 1] = 1;
    tn_node exponent = tn_affine(tn_iota(graph, TN_F64, TN_SHAPE(half), 0),
                                 -2 * log(a->base) / (double)a->rotary, 0);
    tn_node angle = tn_multiply(tn_reshape(tn_cast(in[1], TN_F64), column), tn_exp(exponent));
    tn_node cosine = tn_cast(tn_cos(angle), compute), sine = tn_cast(tn_sin(angle), compute);
    if (a->inverse) sine = tn_neg(sine);

    tn_node turned = tn_cast(tn_slice(x, -1, 0, a->rotary, 1), compute), first, second;
    tn_shape pairs_last = tn_shape_of(turned), halves = pairs_last;
    pairs_last.dim[pairs_last.rank - 1] = half;
    if (a->interleaved) {
        first = tn_slice(turned, -1, 0, INT64_MAX, 2);
        second = tn_slice(turned, -1, 1, INT64_MAX, 2);
    } else {
        first = tn_slice(turned, -1, 0, half, 1);
        second = tn_slice(turned, -1, half, INT64_MAX, 1);
    }
    tn_node pair[2] = {tn_subtract(tn_multiply(first, cosine), tn_multiply(second, sine)),
                       tn_add(tn_multiply(second, cosine), tn_multiply(first, sine))};
    turned = a->interleaved ? tn_reshape(tn_stack(pair, 2, -1), halves) : tn_concat(pair, 2, -1);
    turned = tn_cast(turned, dtype);
    out[0] = a->rotary == width
                 ? turned
                 : tn_concat((tn_node[]){turned, tn_slice(x, -1, a->rotary, INT64_MAX, 1)}, 2, -1);
}

static double rope_flop(const tn_value *self, const tn_value *const *in)
{
    const tn_rope_attribute *a = self->attribute;
    double width = (double)self->shape.dim[self->shape.rank - 1];
    (void)in;
    return width > 0 ? 3 * (double)tn_shape_size(self->shape) / width * (double)a->rotary : 0;
}

/* ---- cache ----------------------------------------------------------------------------------- */

tn_node tn_cache_write(tn_node base, tn_node values, tn_node start)
{
    if (tn_is_none(base) || tn_is_none(values) || tn_is_none(start)) return TN_NONE;
    start = as_i32(start);
    tn_shape bs = tn_shape_of(base), vs = tn_shape_of(values), expected = bs;
    if (vs.rank >= 2 && bs.rank >= 2) expected.dim[1] = vs.dim[1];
    if (bs.rank < 2 || !tn_shape_equal(vs, expected) || vs.dim[1] > bs.dim[1] ||
        tn_dtype_of(base) != tn_dtype_of(values))
        return tn_graph_fail(base.graph,
                             "cache_write: values %s %s do not fit into base %s %s; base [B, M, "
                             "...] wants [B, L, ...] with L <= M",
                             tn_dtype_name(tn_dtype_of(values)), tn_shape_text(vs),
                             tn_dtype_name(tn_dtype_of(base)), tn_shape_text(bs));
    if (tn_dtype_of(start) != TN_I32 || !tn_shape_equal(tn_shape_of(start), TN_SHAPE(bs.dim[0])))
        return tn_graph_fail(
            base.graph,
            "cache_write: start is %s %s; it must be i32 [%lld], one position a sequence",
            tn_dtype_name(tn_dtype_of(start)), tn_shape_text(tn_shape_of(start)),
            (long long)bs.dim[0]);
    return tn_node_new(NULL, &(tn_new_node){.id = TN_OP_CACHE_WRITE,
                                            .dtype = tn_dtype_of(base),
                                            .shape = bs,
                                            .in = (tn_node[]){base, values, start},
                                            .in_count = 3});
}

/* x with one entry a row [B] or a column [L] stretched over `shape` [B, L, ...]: a view. */
static tn_node along(tn_node x, int axis, tn_shape shape)
{
    tn_shape narrow = {.rank = shape.rank};
    for (int i = 0; i < shape.rank; i++) narrow.dim[i] = i == axis ? shape.dim[i] : 1;
    return tn_reshape(x, narrow);
}

/* Rows start[b] .. start[b]+L-1 of x [B, M, ...], in `like`'s shape [B, L, ...]. */
static tn_node rows_from(tn_node x, tn_node start, tn_node like)
{
    tn_shape shape = tn_shape_of(like);
    tn_node step = tn_iota(x.graph, TN_I32, TN_SHAPE(shape.dim[1]), 0);
    tn_node index = tn_add(along(start, 0, shape), along(step, 1, shape));
    return tn_take_along(x, tn_broadcast(index, shape), 1);
}

static void cache_write_vjp(const tn_node *in, const tn_node *out, const tn_node *d_out,
                            tn_node *d_in)
{
    (void)out;
    d_in[0] = tn_cache_write(d_out[0], tn_like(in[1], 0), in[2]);
    d_in[1] = rows_from(d_out[0], in[2], in[1]);
}

static void cache_write_decompose(const tn_node *in, const tn_node self, tn_node *out)
{
    (void)self;
    tn_shape shape = tn_shape_of(in[0]);
    int64_t length = tn_dim(in[1], 1);
    if (length == 0) {
        out[0] = in[0];
        return;
    }
    tn_node position = along(tn_iota(in[0].graph, TN_I32, TN_SHAPE(shape.dim[1]), 0), 1, shape);
    tn_node index = tn_subtract(position, along(in[2], 0, shape));
    tn_node zero = tn_fill(in[0].graph, TN_I32, TN_SCALAR, 0),
            last = tn_fill(in[0].graph, TN_I32, TN_SCALAR, (double)(length - 1));
    tn_node written = tn_and(tn_greater_equal(index, zero), tn_less_equal(index, last));
    tn_node inside = tn_broadcast(tn_minimum(tn_maximum(index, zero), last), shape);
    out[0] = tn_where(written, tn_take_along(in[1], inside, 1), in[0]);
}

static double no_flop(const tn_value *self, const tn_value *const *in)
{
    (void)self, (void)in;
    return 0;
}

const tn_op tn_attention_ops[] = {
    {.id = TN_OP_ATTENTION,
     .name = "attention",
     .vjp = attention_vjp,
     .decompose = attention_decompose,
     .flop = attention_flop},
    {.id = TN_OP_ATTENTION_GRAD,
     .name = "attention_grad",
     .decompose = attention_grad_decompose,
     .flop = attention_grad_flop},
    {.id = TN_OP_ATTENTION_BIAS_GRAD,
     .name = "attention_bias_grad",
     .decompose = attention_bias_grad_decompose,
     .flop = attention_flop},
    {.id = TN_OP_ROPE,
     .name = "rope",
     .flags = TN_LINEAR,
     .vjp = rope_vjp,
     .decompose = rope_decompose,
     .flop = rope_flop},
    {.id = TN_OP_CACHE_WRITE,
     .name = "cache_write",
     .vjp = cache_write_vjp,
     .decompose = cache_write_decompose,
     .flop = no_flop},
};
const int tn_attention_op_count = sizeof tn_attention_ops / sizeof *tn_attention_ops;
