/* Memory: which outputs overwrite dying inputs, and where in the block every buffer lies.
 *
 * Offsets: buffers in order of size, each at the lowest place free during its whole life (Pisarchyk and Lee 2020, "greedy by
 * size"); for very long plans, in order of birth from a list of free ranges, which is linear. */
#include <stdlib.h>
#include <string.h>

#include "exec/plan.h"

/* ---- in place ------------------------------------------------------------------------------------- */

static int32_t representative(const tn_plan *plan, int32_t buffer)
{
    while (plan->buffer[buffer].same_as >= 0) buffer = plan->buffer[buffer].same_as;
    return buffer;
}

static bool same_look(const tn_operand *a, const tn_operand *b)
{
    if (a->rank != b->rank || tn_dtype_size(a->dtype) != tn_dtype_size(b->dtype)) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i] || (a->dim[i] != 1 && a->stride[i] != b->stride[i]))
            return false;
    return true;
}

/* Other operands of the step that share the buffer would be overwritten under the kernel's feet, unless they look just the same. */
static bool only_identical_uses(const tn_plan *plan, const tn_plan_step *s, int32_t buffer,
                                const tn_operand *look)
{
    for (int i = 0; i < s->step.in_count; i++)
        if (s->in[i].home == TN_IN_SCRATCH && representative(plan, s->in[i].index) == buffer &&
            (s->in[i].offset != 0 || !same_look(&s->step.in[i], look)))
            return false;
    for (int r = 0; r < s->step.out_count; r++)
        if (s->out[r].home == TN_IN_SCRATCH && representative(plan, s->out[r].index) == buffer)
            return false;
    return true;
}

static void overwrite_inputs(tn_plan *plan, int32_t index)
{
    tn_plan_step *s = &plan->step[index];
    if (!s->step.kernel->in_place) return;
    int results = s->step.op->id == TN_OP_FUSED ? s->step.out_count : 1;
    for (int r = 0; r < results; r++) {
        if (s->out[r].home != TN_IN_SCRATCH) continue;
        tn_buffer *out = &plan->buffer[s->out[r].index];
        for (int i = 0; i < s->step.in_count && i < 64; i++) {
            if (!(s->step.kernel->in_place >> i & 1u) || s->in[i].home != TN_IN_SCRATCH ||
                s->in[i].offset != 0)
                continue;
            int32_t from = representative(plan, s->in[i].index);
            tn_buffer *in = &plan->buffer[from];
            if (in->last != index || in->size != out->size ||
                !same_look(&s->step.in[i], &s->step.out[r]) ||
                !only_identical_uses(plan, s, from, &s->step.in[i]))
                continue;
            out->same_as = from;
            in->last = out->last;
            break;
        }
    }
}

/* ---- offsets ------------------------------------------------------------------------------------------ */

typedef struct order_entry {
    size_t size;
    int32_t first, index;
} order_entry;

static int larger_first(const void *a, const void *b)
{
    const order_entry *x = a, *y = b;
    if (x->size != y->size) return x->size < y->size ? 1 : -1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static int earlier_first(const void *a, const void *b)
{
    const order_entry *x = a, *y = b;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    return larger_first(a, b);
}

/* placed[]: buffers with offsets, in order of offset. */
static size_t place_by_size(tn_plan *plan, order_entry *entry, int32_t count, int32_t *placed)
{
    size_t top = 0;
    qsort(entry, (size_t)count, sizeof *entry, larger_first);
    for (int32_t n = 0; n < count; n++) {
        tn_buffer *buffer = &plan->buffer[entry[n].index];
        size_t at = 0;
        for (int32_t i = 0; i < n; i++) {
            const tn_buffer *other = &plan->buffer[placed[i]];
            if (other->last < buffer->first || other->first > buffer->last) continue;
            if (other->offset >= at + buffer->size) break;
            if (other->offset + other->size > at) at = other->offset + other->size;
        }
        buffer->offset = at;
        int32_t slot = n;
        for (; slot > 0 && plan->buffer[placed[slot - 1]].offset > at; slot--)
            placed[slot] = placed[slot - 1];
        placed[slot] = entry[n].index;
        if (at + buffer->size > top) top = at + buffer->size;
    }
    return top;
}

typedef struct free_range {
    size_t offset, size;
} free_range;

static void give_back(free_range *range, int32_t *count, size_t offset, size_t size)
{
    int32_t at = *count;
    for (; at > 0 && range[at - 1].offset > offset; at--) range[at] = range[at - 1];
    range[at] = (free_range){offset, size};
    (*count)++;
    if (at + 1 < *count && range[at].offset + range[at].size == range[at + 1].offset) {
        range[at].size += range[at + 1].size;
        memmove(&range[at + 1], &range[at + 2], (size_t)(*count - at - 2) * sizeof *range);
        (*count)--;
    }
    if (at > 0 && range[at - 1].offset + range[at - 1].size == range[at].offset) {
        range[at - 1].size += range[at].size;
        memmove(&range[at], &range[at + 1], (size_t)(*count - at - 1) * sizeof *range);
        (*count)--;
    }
}

/* `dying`: count+1 entries of scratch for a heap of living buffers by death. */
static size_t place_by_birth(tn_plan *plan, order_entry *entry, int32_t count, int32_t *dying,
                             free_range *range)
{
    size_t top = 0;
    int32_t living = 0, ranges = 0;
    qsort(entry, (size_t)count, sizeof *entry, earlier_first);
    for (int32_t n = 0; n < count; n++) {
        tn_buffer *buffer = &plan->buffer[entry[n].index];
        for (int32_t i = 0; i < living;) { /* few live at once */
            const tn_buffer *dead = &plan->buffer[dying[i]];
            if (dead->last >= buffer->first) {
                i++;
                continue;
            }
            give_back(range, &ranges, dead->offset, dead->size);
            dying[i] = dying[--living];
        }
        int32_t best = -1;
        for (int32_t i = 0; i < ranges; i++)
            if (range[i].size >= buffer->size && (best < 0 || range[i].size < range[best].size))
                best = i;
        if (best >= 0) {
            buffer->offset = range[best].offset;
            range[best].offset += buffer->size;
            range[best].size -= buffer->size;
            if (range[best].size == 0)
                memmove(&range[best], &range[best + 1], (size_t)(--ranges - best) * sizeof *range);
        } else {
            size_t at = top;
            if (ranges && range[ranges - 1].offset + range[ranges - 1].size == top)
                at = range[--ranges].offset;
            buffer->offset = at;
            top = at + buffer->size;
        }
        dying[living++] = entry[n].index;
    }
    return top;
}

#define LONG_PLAN 4000

tn_status tn_place_buffers(tn_plan *plan)
{
    for (int32_t i = 0; i < plan->step_count; i++) overwrite_inputs(plan, i);
    size_t n = (size_t)plan->buffer_count;
    order_entry *entry = calloc(n + 1, sizeof *entry);
    int32_t *scratch = calloc(n + 1, sizeof *scratch), count = 0;
    free_range *range = calloc(n + 2, sizeof *range);
    if (entry && scratch && range) {
        for (int32_t i = 0; i < plan->buffer_count; i++) {
            const tn_buffer *buffer = &plan->buffer[i];
            if (buffer->same_as < 0 && buffer->size && buffer->last >= 0)
                entry[count++] = (order_entry){buffer->size, buffer->first, i};
        }
        plan->scratch = count <= LONG_PLAN ? place_by_size(plan, entry, count, scratch)
                                           : place_by_birth(plan, entry, count, scratch, range);
        for (int32_t i = 0; i < plan->buffer_count; i++)
            if (plan->buffer[i].same_as >= 0)
                plan->buffer[i].offset = plan->buffer[representative(plan, i)].offset;
    }
    bool ok = entry && scratch && range;
    free(entry);
    free(scratch);
    free(range);
    return ok ? TN_OK : tn_fail(TN_MEMORY, "out of memory while placing %zu buffers", n);
}

bool tn_buffers_are_disjoint(const tn_plan *plan)
{
    for (int32_t i = 0; i < plan->buffer_count; i++) {
        const tn_buffer *a = &plan->buffer[i];
        if (a->same_as >= 0 || a->size == 0 || a->last < 0) continue;
        if (a->offset + a->size > plan->scratch) return false;
        for (int32_t j = i + 1; j < plan->buffer_count; j++) {
            const tn_buffer *b = &plan->buffer[j];
            if (b->same_as >= 0 || b->size == 0 || b->last < 0 || a->last < b->first ||
                b->last < a->first)
                continue;
            if (a->offset < b->offset + b->size && b->offset < a->offset + a->size) return false;
        }
    }
    return true;
}
