/* Batches prepared by worker threads, in an order that does not depend on them.
 *
 * Slots stand in a ring; batch number n (counted from the last seek) lives in slot n modulo the
 * ring. Workers take the lowest item that nobody has taken, as long as its batch has a free slot;
 * the caller takes batches in order when all their items are filled. One lock guards the counters;
 * filling happens outside of it. */
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "tenon/data.h"
#include "tenon/random.h"

enum { ALIGNMENT = 64, AHEAD = 2, WORKERS_MOST = 1024, MESSAGE = 512 };

typedef struct slot {
    void *field[TN_LOADER_FIELDS];
    int64_t *sample; /* [batch] */
    int64_t step;
    int64_t taken;    /* items given to workers */
    int64_t filled;   /* items done, well or badly */
    int64_t failed;   /* lowest item that failed, or -1 */
    tn_status status; /* of that item */
    char message[MESSAGE];
} slot;

struct tn_loader {
    tn_loader_options o;
    int fields;
    int64_t batches; /* an epoch */
    slot *ring;
    int slots;
    int64_t *order; /* [samples]: the permutation of `epoch` */
    int64_t epoch;
    int64_t next_step; /* that the caller gets next */
    int64_t opened;    /* steps below this one have their slot set up */
    int64_t working;   /* the lowest step with items not taken; next_step <= working <= opened */
    bool stop;
    int busy; /* workers filling */
    pthread_t *thread;
    int threads;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
};

/* ---- the order ----------------------------------------------------------------------- */

static slot *slot_of(const tn_loader *l, int64_t step) { return &l->ring[step % l->slots]; }

/* Which samples a step has. */
static void set_up(tn_loader *l, int64_t step)
{
    slot *s = slot_of(l, step);
    int64_t epoch = step / l->batches, first = step % l->batches * l->o.batch;
    if (l->o.shuffle && epoch != l->epoch) {
        tn_random_permutation(l->o.seed, tn_random_stream("loader") + (uint64_t)epoch, l->o.samples,
                              l->order);
        l->epoch = epoch;
    }
    for (int64_t i = 0; i < l->o.batch; i++)
        s->sample[i] = l->o.shuffle ? l->order[first + i] : first + i;
    s->step = step;
    s->taken = s->filled = 0;
    s->failed = -1;
    s->status = TN_OK;
}

/* Sets up slots as far as the ring goes. Called when the caller's batch has gone back, so that all
 * steps before next_step are free; until the next call the batch that it then gets keeps its slot.
 */
static void open_slots(tn_loader *l)
{
    for (; l->opened < l->next_step + l->slots; l->opened++) set_up(l, l->opened);
}

/* ---- filling ------------------------------------------------------------------------- */

/* Takes the next item; false if there is none to do now. */
static bool take(tn_loader *l, slot **where, int64_t *index)
{
    while (l->working < l->opened && slot_of(l, l->working)->taken == l->o.batch) l->working++;
    if (l->working == l->opened) return false;
    *where = slot_of(l, l->working);
    *index = (*where)->taken++;
    return true;
}

/* Fills one item, without the lock. */
static tn_status fill(const tn_loader *l, const slot *s, int64_t index)
{
    tn_loader_item item = {.sample = s->sample[index], .draw = s->step * l->o.batch + index};
    for (int f = 0; f < l->fields; f++)
        item.field[f] = (char *)s->field[f] + (size_t)index * l->o.item_bytes[f];
    return l->o.fill(l->o.context, &item);
}

static void finish(slot *s, int64_t index, tn_status status)
{
    s->filled++;
    if (status == TN_OK || (s->failed >= 0 && s->failed < index)) return;
    s->failed = index;
    s->status = status;
    strncpy(s->message, tn_message(), MESSAGE - 1);
}

static void *work(void *context)
{
    tn_loader *l = context;
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        slot *s;
        int64_t index;
        if (!take(l, &s, &index)) {
            pthread_cond_wait(&l->work, &l->lock);
            continue;
        }
        l->busy++;
        pthread_mutex_unlock(&l->lock);
        tn_status status = fill(l, s, index);
        pthread_mutex_lock(&l->lock);
        l->busy--;
        finish(s, index, status);
        if (s->filled == l->o.batch || l->busy == 0) pthread_cond_broadcast(&l->done);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* ---- making -------------------------------------------------------------------------- */

static tn_status check(const tn_loader_options *o)
{
    if (!o->fill) return tn_fail(TN_INVALID, "a loader needs a function that fills items");
    if (o->batch < 1)
        return tn_fail(TN_INVALID, "a loader's batch of %" PRId64 " items; it must be 1 or more",
                       o->batch);
    if (o->samples < o->batch)
        return tn_fail(TN_INVALID,
                       "%" PRId64 " samples do not fill a batch of %" PRId64
                       ": give more data or a smaller batch",
                       o->samples, o->batch);
    if (o->item_bytes[0] == 0) return tn_fail(TN_INVALID, "a loader's items have no bytes");
    if (o->workers < 0 || o->workers > WORKERS_MOST || o->ahead < 0 || o->ahead > WORKERS_MOST)
        return tn_fail(TN_INVALID, "%d loader threads, %d batches ahead; both must be from 0 to %d",
                       o->workers, o->ahead, WORKERS_MOST);
    return TN_OK;
}

static bool allocate(tn_loader *l)
{
    size_t bytes;
    l->ring = calloc((size_t)l->slots, sizeof *l->ring);
    l->order = l->o.shuffle ? calloc((size_t)l->o.samples, sizeof *l->order) : NULL;
    if (!l->ring || (l->o.shuffle && !l->order)) return false;
    for (int i = 0; i < l->slots; i++) {
        l->ring[i].sample = calloc((size_t)l->o.batch, sizeof *l->ring[i].sample);
        if (!l->ring[i].sample) return false;
        for (int f = 0; f < l->fields; f++) {
            if (!tn_mul_size((size_t)l->o.batch, l->o.item_bytes[f], &bytes) ||
                bytes > SIZE_MAX - ALIGNMENT)
                return false;
            bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
            l->ring[i].field[f] = aligned_alloc(ALIGNMENT, bytes);
            if (!l->ring[i].field[f]) return false;
            memset(l->ring[i].field[f], 0, bytes);
        }
    }
    return true;
}

tn_status tn_loader_create(tn_loader_options options, tn_loader **out)
{
    *out = NULL;
    TN_TRY(check(&options));
    tn_loader *l = calloc(1, sizeof *l);
    if (!l) return tn_fail(TN_MEMORY, "out of memory for a loader");
    l->o = options;
    l->epoch = -1;
    l->batches = options.samples / options.batch;
    while (l->fields < TN_LOADER_FIELDS && options.item_bytes[l->fields] > 0) l->fields++;
    l->slots = options.workers == 0
                   ? 1
                   : 1 + (options.ahead ? options.ahead : AHEAD); /* one is in the caller's hands */
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->done, NULL);
    tn_status status = TN_OK;
    if (!allocate(l) || !(l->thread = calloc((size_t)options.workers + 1, sizeof *l->thread)))
        status = tn_fail(TN_MEMORY, "out of memory for %d batches of %" PRId64 " items", l->slots,
                         options.batch);
    if (status == TN_OK) open_slots(l);
    for (; status == TN_OK && l->threads < options.workers; l->threads++)
        if (pthread_create(&l->thread[l->threads], NULL, work, l) != 0) {
            status = tn_fail(TN_IO,
                             "the system gives no more threads (%d of %d loader threads started)",
                             l->threads, options.workers);
            break;
        }
    if (status == TN_OK) *out = l;
    else tn_loader_free(l);
    return status;
}

void tn_loader_free(tn_loader *l)
{
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->threads; i++) pthread_join(l->thread[i], NULL);
    for (int i = 0; l->ring && i < l->slots; i++) {
        for (int f = 0; f < l->fields; f++) free(l->ring[i].field[f]);
        free(l->ring[i].sample);
    }
    pthread_cond_destroy(&l->done);
    pthread_cond_destroy(&l->work);
    pthread_mutex_destroy(&l->lock);
    free(l->thread);
    free(l->order);
    free(l->ring);
    free(l);
}

/* ---- using --------------------------------------------------------------------------- */

int64_t tn_loader_batches(const tn_loader *l) { return l->batches; }

/* Without workers the caller fills the batch itself. */
static void fill_here(tn_loader *l, slot *s)
{
    for (int64_t i = 0; i < l->o.batch; i++) finish(s, i, fill(l, s, i));
}

tn_status tn_loader_next(tn_loader *l, tn_batch *batch)
{
    pthread_mutex_lock(&l->lock);
    open_slots(l); /* the batch before goes back into the ring */
    pthread_cond_broadcast(&l->work);
    slot *s = slot_of(l, l->next_step);
    if (l->threads == 0) fill_here(l, s);
    while (s->filled < l->o.batch) pthread_cond_wait(&l->done, &l->lock);
    *batch = (tn_batch){.step = s->step, .epoch = s->step / l->batches, .count = l->o.batch};
    memcpy(batch->field, s->field, sizeof batch->field);
    tn_status status = s->status;
    if (status != TN_OK)
        tn_fail(status, "sample %" PRId64 ": %s", s->sample[s->failed], s->message);
    l->next_step++;
    pthread_mutex_unlock(&l->lock);
    return status;
}

tn_status tn_loader_seek(tn_loader *l, int64_t step)
{
    if (step < 0) return tn_fail(TN_INVALID, "a loader cannot go to step %" PRId64, step);
    pthread_mutex_lock(&l->lock);
    l->working = l->opened; /* nobody begins another item */
    while (l->busy > 0) pthread_cond_wait(&l->done, &l->lock);
    l->next_step = l->opened = l->working = step;
    open_slots(l);
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    return TN_OK;
}
