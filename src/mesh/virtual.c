/* Ranks as threads of one process: members post where their bytes are, wait for each other, and
 * copy. For tests, for planning in numbers that no machine at hand has, and for `verify`. */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/threads.h"
#include "mesh/mesh.h"

enum { MOST_RANKS = 65536, AXES_SETS = 8 };

typedef struct group {
    pthread_cond_t all_here;
    int members, arrived;
    uint64_t turn;
    const void **posted; /* [members] */
} group;

typedef struct process {
    pthread_mutex_t lock;
    group *groups[AXES_SETS]; /* by set of axes, by number */
    int group_count[AXES_SETS];
    int failed_rank; /* -1: none */
    tn_status failed_status;
    char message[512];
} process;

static void wake_all(process *p)
{
    for (int axes = 1; axes < AXES_SETS; axes++)
        for (int i = 0; i < p->group_count[axes]; i++)
            pthread_cond_broadcast(&p->groups[axes][i].all_here);
}

/* Waits until every member is here. Fails when a rank has failed, unless the others are `certain` to
 * come: then nobody may leave, because they may still read what this rank posted. */
static tn_status meet(process *p, group *g, bool certain)
{
    pthread_mutex_lock(&p->lock);
    bool gone = !certain && p->failed_rank >= 0;
    if (!gone) {
        uint64_t turn = g->turn;
        if (++g->arrived == g->members) {
            g->arrived = 0;
            g->turn++;
            pthread_cond_broadcast(&g->all_here);
        }
        while (g->turn == turn && (certain || p->failed_rank < 0))
            pthread_cond_wait(&g->all_here, &p->lock);
        gone = g->turn == turn;
        g->arrived -= gone;
    }
    int failed = p->failed_rank;
    pthread_mutex_unlock(&p->lock);
    return gone ? tn_fail(TN_INTERRUPTED, "rank %d failed", failed) : TN_OK;
}

static group *group_of(const tn_mesh *m, int axes)
{
    process *p = m->shared;
    return &p->groups[axes][tn_mesh_group(m, axes)];
}

static tn_status gather(tn_mesh *m, int axes, const void *from, size_t each, void *to)
{
    group *g = group_of(m, axes);
    int me = tn_mesh_group_rank(m, axes);
    g->posted[me] = from;
    TN_TRY(meet(m->shared, g, false));
    for (int i = 0; i < g->members; i++)
        if (i != me) memcpy((unsigned char *)to + (size_t)i * each, g->posted[i], each);
    if ((const unsigned char *)to + (size_t)me * each != from)
        memcpy((unsigned char *)to + (size_t)me * each, from, each);
    return meet(m->shared, g, true);
}

static tn_status all_to_all(tn_mesh *m, int axes, const void *from, size_t each, void *to)
{
    group *g = group_of(m, axes);
    int me = tn_mesh_group_rank(m, axes);
    g->posted[me] = from;
    TN_TRY(meet(m->shared, g, false));
    for (int i = 0; i < g->members; i++)
        memcpy((unsigned char *)to + (size_t)i * each,
               (const unsigned char *)g->posted[i] + (size_t)me * each, each);
    return meet(m->shared, g, true);
}

static const tn_transport by_threads = {gather, all_to_all};

/* ---- running --------------------------------------------------------------------------------- */

typedef struct rank_thread {
    pthread_t thread;
    bool started;
    tn_mesh mesh;
    process *process;
    tn_status (*body)(tn_mesh *mesh, void *context);
    void *context;
    int threads;
} rank_thread;

static void note_failure(process *p, int rank, tn_status status)
{
    pthread_mutex_lock(&p->lock);
    if (p->failed_rank < 0) {
        p->failed_rank = rank;
        p->failed_status = status;
        snprintf(p->message, sizeof p->message, "%s", tn_message());
        wake_all(p);
    }
    pthread_mutex_unlock(&p->lock);
}

static void *run_rank(void *argument)
{
    rank_thread *r = argument;
    tn_set_thread_count(r->threads);
    tn_status status = r->body(&r->mesh, r->context);
    if (status != TN_OK) note_failure(r->process, tn_mesh_rank(&r->mesh), status);
    free(r->mesh.scratch);
    return NULL;
}

static void free_process(process *p)
{
    for (int axes = 1; axes < AXES_SETS; axes++) {
        for (int i = 0; i < p->group_count[axes]; i++) {
            pthread_cond_destroy(&p->groups[axes][i].all_here);
            free(p->groups[axes][i].posted);
        }
        free(p->groups[axes]);
    }
    pthread_mutex_destroy(&p->lock);
}

static bool make_groups(process *p, const int dim[3])
{
    tn_mesh m = {.dim = {dim[0], dim[1], dim[2]}};
    for (int axes = 1; axes < AXES_SETS; axes++) {
        int members = tn_mesh_group_size(&m, axes), count = tn_mesh_size(&m) / members;
        p->groups[axes] = calloc((size_t)count, sizeof(group));
        if (!p->groups[axes]) return false;
        for (int i = 0; i < count; i++) {
            group *g = &p->groups[axes][i];
            pthread_cond_init(&g->all_here, NULL);
            p->group_count[axes] = i + 1;
            g->members = members;
            g->posted = calloc((size_t)members, sizeof *g->posted);
            if (!g->posted) return false;
        }
    }
    return true;
}

/* A thread that could not be started fails in its rank's place. */
static void start_rank(rank_thread *r, int rank, const int dim[3])
{
    r->mesh = (tn_mesh){.dim = {dim[0], dim[1], dim[2]},
                        .at = {rank / (dim[1] * dim[2]), rank / dim[2] % dim[1], rank % dim[2]},
                        .transport = &by_threads,
                        .shared = r->process};
    r->started = pthread_create(&r->thread, NULL, run_rank, r) == 0;
    if (!r->started)
        note_failure(r->process, rank,
                     tn_fail(TN_MEMORY, "no thread could be started for it; use fewer ranks"));
}

tn_status tn_mesh_run_virtual(const int dim[3], tn_status (*body)(tn_mesh *mesh, void *context),
                              void *context)
{
    int64_t ranks = 1;
    for (int i = 0; i < 3; i++) {
        if (dim[i] < 1 || dim[i] > MOST_RANKS || (ranks *= dim[i]) > MOST_RANKS)
            return tn_fail(TN_INVALID,
                           "a mesh of %d x %d x %d ranks; sizes are from 1, and there "
                           "may be %d ranks in all",
                           dim[0], dim[1], dim[2], MOST_RANKS);
    }
    process p = {.lock = PTHREAD_MUTEX_INITIALIZER, .failed_rank = -1};
    rank_thread *rank = calloc((size_t)ranks, sizeof *rank);
    if (!rank || !make_groups(&p, dim)) {
        free(rank);
        free_process(&p);
        return tn_fail(TN_MEMORY, "out of memory for %lld ranks", (long long)ranks);
    }
    int threads = tn_thread_count() / (int)ranks;
    for (int64_t r = 0; r < ranks; r++) {
        rank[r].process = &p;
        rank[r].body = body;
        rank[r].context = context;
        rank[r].threads = threads > 1 ? threads : 1;
        start_rank(&rank[r], (int)r, dim);
    }
    for (int64_t r = 0; r < ranks; r++)
        if (rank[r].started) pthread_join(rank[r].thread, NULL);
    tn_status status = TN_OK;
    if (p.failed_rank >= 0)
        status = tn_fail(p.failed_status, "rank %d: %s", p.failed_rank, p.message);
    free(rank);
    free_process(&p);
    return status;
}
