#include "cpu/tile_space.h"

#include <string.h>

/* ---- describing -------------------------------------------------------------------------- */

static void describe_broadcast(const tn_operand *x, int rank, int64_t *stride)
{
    for (int d = 0; d < rank; d++) {
        int k = d - (rank - x->rank);
        stride[d] = k < 0 || x->dim[k] == 1 ? 0 : x->stride[k];
    }
}

/* The result has the kept dimensions only, or all with size 1 where reduced. */
static void describe_reduced(const tn_operand *x, const tn_fused_attribute *a, int64_t *stride)
{
    for (int d = 0, k = 0; d < a->rank; d++) {
        bool gone = a->axes >> d & 1u;
        stride[d] = gone ? 0 : x->stride[k];
        if (!gone || x->rank == a->rank) k++;
    }
}

static void remove_dimension(tile_space *s, int d)
{
    s->rank--;
    for (int i = d; i < s->rank; i++) {
        s->dim[i] = s->dim[i + 1];
        s->reduced[i] = s->reduced[i + 1];
        for (int o = 0; o < s->operand_count; o++) s->stride[o][i] = s->stride[o][i + 1];
    }
}

static void swap_dimensions(tile_space *s, int d, int e)
{
    int64_t dim = s->dim[d];
    bool reduced = s->reduced[d];
    s->dim[d] = s->dim[e], s->reduced[d] = s->reduced[e];
    s->dim[e] = dim, s->reduced[e] = reduced;
    for (int o = 0; o < s->operand_count; o++) {
        int64_t stride = s->stride[o][d];
        s->stride[o][d] = s->stride[o][e];
        s->stride[o][e] = stride;
    }
}

/* The operand whose memory order the loops follow: the first output that is stored whole, else
 * the largest input. */
static int leader(const tile_space *s, const tn_fused_attribute *a)
{
    const tn_fused_output *output = tn_fused_outputs(a);
    for (int r = 0; r < a->output_count; r++)
        if (!output[r].reduction) return a->input_count + r;
    int best = 0;
    int64_t most = -1;
    for (int i = 0; i < a->input_count; i++) {
        int64_t elements = 1;
        for (int d = 0; d < s->rank; d++)
            if (s->stride[i][d] != 0) elements *= s->dim[d];
        if (elements > most) most = elements, best = i;
    }
    return best;
}

static bool joins(const tile_space *s, int d)
{
    if (s->reduced[d] != s->reduced[d + 1]) return false;
    for (int o = 0; o < s->operand_count; o++)
        if (s->stride[o][d] != s->stride[o][d + 1] * s->dim[d + 1]) return false;
    return true;
}

void tile_space_describe(tile_space *s, const tn_step *step, const tn_fused_attribute *a)
{
    const tn_fused_output *output = tn_fused_outputs(a);
    s->operand_count = a->input_count + a->output_count;
    s->rank = a->rank;
    bool folds = false;
    for (int r = 0; r < a->output_count; r++) folds = folds || output[r].reduction;
    for (int d = 0; d < a->rank; d++) {
        s->dim[d] = a->dim[d];
        s->reduced[d] = folds && a->axes >> d & 1u;
    }
    for (int o = 0; o < s->operand_count; o++) {
        int r = o - a->input_count;
        const tn_operand *x = r < 0 ? &step->in[o] : &step->out[r];
        s->size[o] = tn_dtype_size(x->dtype);
        if (r >= 0 && output[r].reduction) describe_reduced(x, a, s->stride[o]);
        else describe_broadcast(x, a->rank, s->stride[o]);
    }
    for (int d = s->rank - 1; d >= 0; d--)
        if (s->dim[d] == 1) remove_dimension(s, d);
    int lead = leader(s, a);
    for (int end = s->rank - 1; end > 0; end--)
        for (int d = 0; d < end; d++)
            if (s->stride[lead][d] != 0 && s->stride[lead][d] < s->stride[lead][d + 1])
                swap_dimensions(s, d, d + 1);
    for (int d = s->rank - 2; d >= 0; d--) {
        if (!joins(s, d)) continue;
        s->dim[d + 1] *= s->dim[d];
        remove_dimension(s, d);
    }
}

/* ---- cutting ----------------------------------------------------------------------------- */

static void add_loop(tile_space *s, tn_tile_program *p, int d)
{
    bool pieces = d == s->split;
    int64_t count = pieces ? (p->extent + p->piece - 1) / p->piece : s->dim[d];
    if (count <= 1) return;
    int l = p->loop_count++;
    p->loop[l] = count;
    if (pieces) p->piece_loop = l;
    for (int o = 0; o < s->operand_count; o++)
        p->move[l * p->operand_count + o] = s->stride[o][d] * (pieces ? p->piece : 1) *
                                            (int64_t)s->size[o];
}

void tile_space_cut(tile_space *s, int64_t most, tn_tile_program *p)
{
    p->inner = 1;
    s->split = s->rank - 1;
    while (s->split > 0 && p->inner * s->dim[s->split] <= most) p->inner *= s->dim[s->split--];
    p->extent = s->rank ? s->dim[s->split] : 1;
    p->piece = most / p->inner;
    if (p->piece < p->extent) { /* pieces of about the same size */
        int64_t pieces = (p->extent + p->piece - 1) / p->piece;
        p->piece = (p->extent + pieces - 1) / pieces;
        if (p->inner == 1) p->piece = (p->piece + 15) / 16 * 16;
    }
    if (p->piece > p->extent) p->piece = p->extent;
    p->most = p->piece * p->inner;

    p->loop_count = 0;
    p->piece_loop = -1;
    for (int reduced = 0; reduced < 2; reduced++)
        for (int d = 0; d <= s->split && s->rank; d++)
            if (s->reduced[d] == reduced) add_loop(s, p, d);
    p->tiles = p->run_length = 1;
    for (int l = 0; l < p->loop_count; l++) p->tiles *= p->loop[l];
    for (int d = 0; d <= s->split && s->rank; d++)
        if (s->reduced[d])
            p->run_length *= d == s->split ? (p->extent + p->piece - 1) / p->piece : s->dim[d];
    for (int l = 0; l < p->loop_count; l++)
        for (int o = 0; o < s->operand_count; o++) {
            int64_t *advance = &p->advance[l * p->operand_count + o];
            *advance = p->move[l * p->operand_count + o];
            for (int k = l + 1; k < p->loop_count; k++)
                *advance -= p->move[k * p->operand_count + o] * (p->loop[k] - 1);
        }
}

/* ---- boxes ------------------------------------------------------------------------------- */

static tile_box box_of(const tile_space *s, int o, const tn_tile_program *p, bool only_kept)
{
    tile_box box = {0};
    for (int d = s->split; d < s->rank && s->rank; d++) {
        bool pieces = d == s->split;
        int64_t count = pieces ? 1 : s->dim[d], stride = s->stride[o][d];
        if (only_kept && s->reduced[d]) continue;
        if (pieces && p->piece == 1 && s->rank > s->split + 1) continue;
        bool first = pieces && p->piece > 1;
        if (box.rank > 0 && box.stride[box.rank - 1] == stride * count) {
            box.count[box.rank - 1] *= count;
            box.stride[box.rank - 1] = stride;
            continue;
        }
        box.count[box.rank] = count;
        box.stride[box.rank++] = stride;
        box.varies = box.varies || first;
    }
    if (box.rank == 0) box.rank = 1, box.count[0] = 1, box.stride[0] = 1;
    return box;
}

tile_box tile_space_box(const tile_space *space, int o, const tn_tile_program *program)
{
    return box_of(space, o, program, false);
}

tile_box tile_space_kept_box(const tile_space *space, int o, const tn_tile_program *program)
{
    return box_of(space, o, program, true);
}

tile_groups tile_space_groups(const tile_space *s)
{
    tile_groups g = {0};
    for (int d = s->split; d < s->rank && s->rank; d++) {
        bool pieces = d == s->split;
        int64_t count = pieces ? 1 : s->dim[d];
        if (pieces) g.varies = true;
        if (g.count > 0 && g.reduced[g.count - 1] == s->reduced[d]) {
            g.size[g.count - 1] *= count;
        } else {
            g.size[g.count] = count;
            g.reduced[g.count++] = s->reduced[d];
        }
    }
    if (g.count == 0) g.count = 1, g.size[0] = 1;
    return g;
}
