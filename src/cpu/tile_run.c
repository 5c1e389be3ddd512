/* Running a program of the tile engine. */
#include <string.h>

#include "base/half.h"
#include "base/threads.h"
#include "cpu/tile_program.h"

typedef struct tile_run {
    const tn_tile_program *p;
    void *const *in, *const *out;
    unsigned char *workspace;
    bool direct[TN_MAX_RESULTS]; /* by target */
} tile_run;

/* A reduction while a run of tiles is folded. */
typedef struct fold_state {
    int64_t summed, tiles; /* elements and tiles that are in the sum register */
    bool started;          /* the wide results hold something */
} fold_state;

static unsigned char *base_of(const tile_run *run, int operand)
{
    return operand < run->p->input_count ? run->in[operand]
                                         : run->out[operand - run->p->input_count];
}

/* ---- loading ----------------------------------------------------------------------------- */

static void load_box(const tile_source *s, int level, int64_t count, const unsigned char *from,
                     unsigned char *to)
{
    const tile_box *box = &s->box;
    if (level == box->rank - 1) {
        s->load(to, from, count, box->stride[level]);
        return;
    }
    int64_t inside = 1;
    for (int k = level + 1; k < box->rank; k++) inside *= box->count[k];
    size_t bytes = (size_t)inside * s->to_size;
    if (box->stride[level] == 0) { /* once, then copies of what is there, twice as many each time */
        load_box(s, level + 1, box->count[level + 1], from, to);
        size_t done = bytes, all = bytes * (size_t)count;
        while (done < all) {
            size_t next = done < all - done ? done : all - done;
            memcpy(to + done, to, next);
            done += next;
        }
        return;
    }
    int64_t step = box->stride[level] * (int64_t)s->from_size;
    for (int64_t i = 0; i < count; i++)
        load_box(s, level + 1, box->count[level + 1], from + i * step, to + (size_t)i * bytes);
}

static void load_input(const tile_source *s, int64_t units, const unsigned char *from,
                       unsigned char *to)
{
    load_box(s, 0, s->box.count[0] * (s->box.varies ? units : 1), from, to);
}

/* ---- results of reductions --------------------------------------------------------------- */

static void store_one(tn_dtype dtype, unsigned char *to, double x)
{
    switch (dtype) {
    case TN_F32: *(float *)(void *)to = (float)x; break;
    case TN_F64: *(double *)(void *)to = x; break;
    case TN_BF16: *(uint16_t *)(void *)to = tn_bf16_from_f32((float)x); break;
    case TN_F16: *(uint16_t *)(void *)to = tn_f16_from_f32((float)x); break;
    default: *to = x != 0; break; /* bool */
    }
}

static void store_integer(tn_dtype dtype, unsigned char *to, int64_t x)
{
    switch (dtype) {
    case TN_I64: *(int64_t *)(void *)to = x; break;
    case TN_I32: *(int32_t *)(void *)to = (int32_t)x; break;
    default: *to = (unsigned char)x; break; /* i8, u8 */
    }
}

/* One line of results: from f32 (narrow), else from the wide type of the class. */
static void store_line(const tile_fold *f, unsigned char *to, int64_t stride, const void *from,
                       int64_t n, bool narrow)
{
    int64_t step = stride * (int64_t)tn_dtype_size(f->dtype);
    if (f->class == TN_TILE_I64) {
        for (int64_t i = 0; i < n; i++)
            store_integer(f->dtype, to + i * step, ((const int64_t *)from)[i]);
    } else if (narrow && f->dtype == TN_F32 && stride == 1) {
        float scale = (float)f->scale;
        for (int64_t i = 0; i < n; i++) ((float *)(void *)to)[i] = ((const float *)from)[i] * scale;
    } else if (narrow) {
        for (int64_t i = 0; i < n; i++)
            store_one(f->dtype, to + i * step, (double)((const float *)from)[i] * f->scale);
    } else {
        for (int64_t i = 0; i < n; i++)
            store_one(f->dtype, to + i * step, ((const double *)from)[i] * f->scale);
    }
}

static void store_box(const tile_fold *f, int level, int64_t count, unsigned char *to,
                      const unsigned char *from, bool narrow)
{
    const tile_box *box = &f->box;
    if (level == box->rank - 1) {
        store_line(f, to, box->stride[level], from, count, narrow);
        return;
    }
    int64_t inside = 1;
    for (int k = level + 1; k < box->rank; k++) inside *= box->count[k];
    for (int64_t i = 0; i < count; i++)
        store_box(f, level + 1, box->count[level + 1],
                  to + i * box->stride[level] * (int64_t)tn_dtype_size(f->dtype),
                  from + i * inside * (narrow ? 4 : 8), narrow);
}

static void store_results(const tile_fold *f, int64_t units, unsigned char *to, const void *from,
                          bool narrow)
{
    store_box(f, 0, f->box.count[0] * (f->box.varies ? units : 1), to, from, narrow);
}

/* ---- folding ----------------------------------------------------------------------------- */

/* Folds a tile of `units` units over its reduced groups, innermost first. Returns where the
 * results are. */
static const void *fold_tile(const tn_tile_program *p, const tile_fold *f, const void *x,
                             int64_t units, unsigned char *area, int64_t *kept)
{
    int64_t size[TN_TILE_MOST_LOOPS], outer = 1, inner = 1;
    int turn = 0;
    for (int g = 0; g < p->groups.count; g++) {
        size[g] = p->groups.size[g] * (g == 0 && p->groups.varies ? units : 1);
        outer *= size[g];
    }
    for (int g = p->groups.count - 1; g >= 0; g--) {
        outer /= size[g];
        if (!p->groups.reduced[g]) {
            inner *= size[g];
        } else if (size[g] > 1) {
            unsigned char *out = area + p->temporary[turn];
            f->reduce(out, x, outer, size[g], inner);
            x = out;
            turn = !turn;
        }
    }
    *kept = inner;
    return x;
}

static void add_wide(const tile_fold *f, fold_state *state, unsigned char *area, const void *x,
                     int64_t n)
{
    unsigned char *wide = area + f->wide_offset;
    if (state->started) {
        f->widen(wide, x, n);
    } else if (f->class == TN_TILE_F32) {
        for (int64_t i = 0; i < n; i++) ((double *)(void *)wide)[i] = (double)((const float *)x)[i];
    } else {
        memcpy(wide, x, (size_t)n * 8);
    }
    state->started = true;
}

static void flush(const tn_tile_program *p, const tile_fold *f, fold_state *state,
                  unsigned char *area)
{
    if (!state->tiles) return;
    int64_t kept, units = state->summed / p->inner;
    const void *x = fold_tile(p, f, area + f->sum_offset, units, area, &kept);
    add_wide(f, state, area, x, kept);
    state->tiles = state->summed = 0;
}

#define TILES_PER_FLUSH 32 /* f32 sums stay this short */

static void add_tile(const tn_tile_program *p, const tile_fold *f, fold_state *state, const void *x,
                     int64_t n, unsigned char *area)
{
    if (!p->by_element) {
        int64_t kept;
        const void *folded = fold_tile(p, f, x, n / p->inner, area, &kept);
        add_wide(f, state, area, folded, kept);
        return;
    }
    unsigned char *sum = area + f->sum_offset;
    size_t size = f->class == TN_TILE_F32 ? 4 : 8;
    int64_t both = n < state->summed ? n : state->summed;
    if (both) f->accumulate(sum, x, both);
    if (n > both) {
        memcpy(sum + (size_t)both * size, (const unsigned char *)x + (size_t)both * size,
               (size_t)(n - both) * size);
        state->summed = n;
    }
    if (++state->tiles == TILES_PER_FLUSH) flush(p, f, state, area);
}

/* A tile that is a whole run: its results are final. */
static void store_tile(const tn_tile_program *p, const tile_fold *f, const void *x, int64_t units,
                       unsigned char *to, unsigned char *area)
{
    int64_t kept;
    store_results(f, units, to, fold_tile(p, f, x, units, area, &kept), f->class == TN_TILE_F32);
}

/* ---- tiles ------------------------------------------------------------------------------- */

typedef struct tile_walk {
    const void *where[TN_FUSED_MOST_VALUES + TN_FUSED_MOST_INSTRUCTIONS];
    unsigned char *at[TN_TILE_MOST_OPERANDS];
    const unsigned char *loaded[TN_FUSED_MOST_INPUTS]; /* by source: what its register holds */
    int64_t loaded_units[TN_FUSED_MOST_INPUTS];
    int64_t index[TN_TILE_MOST_LOOPS];
    int64_t units; /* of the present tile */
    fold_state fold[TN_MAX_RESULTS];
} tile_walk;

static void begin_walk(const tile_run *run, tile_walk *w, unsigned char *area)
{
    const tn_tile_program *p = run->p;
    for (int v = 0; v < p->value_count; v++)
        w->where[v] = p->place[v].constant ? p->place[v].constant : area + p->place[v].offset;
    for (int i = 0; i < p->spread_count; i++)
        p->spread[i].load(area + p->spread[i].offset, p->spread[i].from, p->most, 0);
    for (int i = 0; i < p->source_count; i++) w->loaded[i] = NULL;
}

static void go_to(const tile_run *run, tile_walk *w, int64_t tile)
{
    const tn_tile_program *p = run->p;
    for (int o = 0; o < p->operand_count; o++) w->at[o] = base_of(run, o);
    for (int l = p->loop_count - 1; l >= 0; l--) {
        w->index[l] = tile % p->loop[l];
        tile /= p->loop[l];
        for (int o = 0; o < p->operand_count; o++)
            w->at[o] += w->index[l] * p->move[l * p->operand_count + o];
    }
}

static void go_on(const tn_tile_program *p, tile_walk *w)
{
    for (int l = p->loop_count - 1; l >= 0; l--) {
        if (++w->index[l] < p->loop[l]) {
            for (int o = 0; o < p->operand_count; o++)
                w->at[o] += p->advance[l * p->operand_count + o];
            return;
        }
        w->index[l] = 0;
    }
}

static inline int64_t units_of(const tn_tile_program *p, const tile_walk *w)
{
    if (p->piece_loop < 0) return p->piece;
    int64_t left = p->extent - w->index[p->piece_loop] * p->piece;
    return left < p->piece ? left : p->piece;
}

static inline void work_on_tile(const tile_run *run, tile_walk *w, unsigned char *area)
{
    const tn_tile_program *p = run->p;
    int64_t units = units_of(p, w), n = units * p->inner;
    w->units = units;
    for (int i = 0; i < p->direct_count; i++) w->where[p->direct[i]] = w->at[p->direct[i]];
    for (int t = 0; t < p->target_count; t++)
        if (run->direct[t]) w->where[p->target[t].value] = w->at[p->target[t].operand];
    for (int k = 0; k < p->action_count; k++) {
        const tile_action *a = &p->action[k];
        if (a->run) {
            a->run((void *)(uintptr_t)w->where[a->out], w->where[a->a],
                   a->b < 0 ? NULL : w->where[a->b], a->c < 0 ? NULL : w->where[a->c], n,
                   &a->scalars);
            continue;
        }
        int i = a->a;
        const tile_source *s = &p->source[i];
        const unsigned char *from = w->at[s->input];
        if (s->cached && w->loaded[i] == from && w->loaded_units[i] >= units) continue;
        load_input(s, units, from, (void *)(uintptr_t)w->where[a->out]);
        w->loaded[i] = from;
        w->loaded_units[i] = units;
    }
    for (int f = 0; f < p->fold_count; f++) {
        const void *x = w->where[p->fold[f].value];
        if (p->at_once) store_tile(p, &p->fold[f], x, units, w->at[p->fold[f].operand], area);
        else add_tile(p, &p->fold[f], &w->fold[f], x, n, area);
    }
    for (int t = 0; t < p->target_count; t++)
        if (!run->direct[t])
            p->target[t].store(w->at[p->target[t].operand], w->where[p->target[t].value], n);
}

static void walk_tiles(const tile_run *run, int64_t begin, int64_t end, unsigned char *area)
{
    tile_walk w;
    begin_walk(run, &w, area);
    go_to(run, &w, begin);
    for (int64_t tile = begin;;) {
        work_on_tile(run, &w, area);
        if (++tile == end) break;
        go_on(run->p, &w);
    }
}

static unsigned char *partial(const tile_run *run, int64_t item, int fold)
{
    return run->workspace + (item * run->p->fold_count + fold) * run->p->most_kept * 8;
}

static void walk_runs(const tile_run *run, int64_t begin, int64_t end, unsigned char *area)
{
    const tn_tile_program *p = run->p;
    tile_walk w;
    begin_walk(run, &w, area);
    for (int64_t item = begin; item < end; item++) {
        int64_t first = item / p->segments * p->run_length,
                tile = first + item % p->segments * p->segment_length;
        int64_t last = tile + p->segment_length;
        if (last > first + p->run_length) last = first + p->run_length;
        for (int f = 0; f < p->fold_count; f++) w.fold[f] = (fold_state){0};
        go_to(run, &w, tile);
        for (;;) {
            work_on_tile(run, &w, area);
            if (++tile == last) break;
            go_on(p, &w);
        }
        for (int i = 0; i < p->fold_count; i++) {
            const tile_fold *f = &p->fold[i];
            unsigned char *wide = area + f->wide_offset;
            if (p->by_element) flush(p, f, &w.fold[i], area);
            if (p->combine) /* all tiles of a run are at the same place in the result */
                memcpy(partial(run, item, i), wide, (size_t)p->most_kept * 8);
            else store_results(f, w.units, w.at[f->operand], wide, false);
        }
    }
}

/* Adds up the segments of each run, in order. */
static void combine_segments(const tile_run *run)
{
    const tn_tile_program *p = run->p;
    tile_walk w;
    for (int64_t item = 0; item < p->items; item += p->segments) {
        go_to(run, &w, item / p->segments * p->run_length);
        int64_t units = units_of(p, &w);
        for (int i = 0; i < p->fold_count; i++) {
            const tile_fold *f = &p->fold[i];
            unsigned char *sum = partial(run, item, i);
            for (int64_t s = 1; s < p->segments; s++)
                f->combine(sum, partial(run, item + s, i), p->most_kept);
            store_results(f, units, w.at[f->operand], sum, false);
        }
    }
}

/* ---- work -------------------------------------------------------------------------------- */

static inline void walk(const tile_run *run, int64_t begin, int64_t end, unsigned char *area)
{
    if (!run->p->fold_count || run->p->at_once) walk_tiles(run, begin, end, area);
    else walk_runs(run, begin, end, area);
}

static __attribute__((noinline)) void walk_large(void *context, int64_t begin, int64_t end)
{
    _Alignas(64) unsigned char area[TN_TILE_LARGE_AREA];
    walk(context, begin, end, area);
}

static __attribute__((noinline)) void walk_small(void *context, int64_t begin, int64_t end)
{
    _Alignas(64) unsigned char area[TN_TILE_SMALL_AREA];
    walk(context, begin, end, area);
}

/* Sums over nothing. */
static void fill_empty(const tn_step *step, void *const *out)
{
    const tn_tile_program *p = step->prepared;
    for (int i = 0; i < p->fold_count; i++) {
        const tile_fold *f = &p->fold[i];
        int r = f->operand - p->input_count;
        int64_t n = tn_operand_size(&step->out[r]), size = (int64_t)tn_dtype_size(f->dtype);
        for (int64_t k = 0; k < n; k++) {
            unsigned char *to = (unsigned char *)out[r] + k * size;
            if (f->class == TN_TILE_I64) store_integer(f->dtype, to, 0);
            else store_one(f->dtype, to, f->scale);
        }
    }
}

tn_status tn_tile_run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    const tn_tile_program *p = step->prepared;
    if (p->empty) {
        fill_empty(step, out);
        return TN_OK;
    }
    tile_run run = {.p = p, .in = in, .out = out, .workspace = workspace};
    for (int t = 0; t < p->target_count; t++) run.direct[t] = p->target[t].may_be_direct;
    for (int h = 0; h < p->hazard_count; h++) {
        const tile_hazard *hazard = &p->hazard[h];
        if (base_of(&run, p->target[hazard->target].operand) == in[hazard->input])
            run.direct[hazard->target] = false;
    }
    void (*body)(void *, int64_t, int64_t) = p->area > TN_TILE_SMALL_AREA ? walk_large : walk_small;
    if (p->serial) body(&run, 0, p->items);
    else tn_parallel(p->items, 1, body, &run);
    if (p->combine) combine_segments(&run);
    return TN_OK;
}
