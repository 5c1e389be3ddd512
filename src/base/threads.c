/* tn_parallel over OpenMP's pool. */
#include "base/threads.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_max_threads(void) { return 1; }
static int omp_get_num_procs(void) { return 1; }
static int omp_get_thread_num(void) { return 0; }
static int omp_in_parallel(void) { return 0; }
static void omp_set_num_threads(int count) { (void)count; }
#endif

/* ThreadSanitizer does not see libgomp's barriers: tn_parallel tells it of the fork and the join,
 * and is itself not watched, because the threads read its frame before they can tell. */
#if defined(__SANITIZE_THREAD__)
#define TELL_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TELL_SANITIZER 1
#endif
#endif
#ifdef TELL_SANITIZER
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#define UNWATCHED __attribute__((no_sanitize("thread"), noinline))
#else
#define UNWATCHED
static inline void __tsan_acquire(void *address) { (void)address; }
static inline void __tsan_release(void *address) { (void)address; }
#endif

static atomic_int wanted;        /* set by tn_set_thread_count; 0: the default */
static atomic_int default_count; /* 0: not yet found */
static _Thread_local int
    applied; /* what this thread told OpenMP, which keeps the number per thread */

/* Processors that the control group grants (rounded up), or 0 if it sets no limit: a container with
 * half a machine still shows all processors, and a thread more than granted costs a whole
 * scheduling period. */
static int control_group_limit(void)
{
    double quota = 0, period = 0;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r");
    bool found = file && fscanf(file, "%lf %lf", &quota, &period) == 2;
    if (file) fclose(file);
    if (!found) {
        file = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r");
        found = file && fscanf(file, "%lf", &quota) == 1;
        if (file) fclose(file);
        file = found ? fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r") : NULL;
        found = file && fscanf(file, "%lf", &period) == 1;
        if (file) fclose(file);
    }
    if (!found || quota <= 0 || period <= 0 || quota / period > 1e6) return 0;
    int whole = (int)(quota / period);
    return whole + ((double)whole < quota / period);
}

static int find_default(void)
{
    if (getenv("OMP_NUM_THREADS")) return omp_get_max_threads();
    int count = omp_get_num_procs(), limit = control_group_limit();
    return limit > 0 && limit < count ? limit : count;
}

int tn_thread_count(void)
{
    int count = atomic_load_explicit(&wanted, memory_order_relaxed);
    if (count == 0) count = atomic_load_explicit(&default_count, memory_order_relaxed);
    if (count == 0) {
        count = find_default();
        atomic_store_explicit(&default_count, count, memory_order_relaxed);
    }
    if (applied != count && !omp_in_parallel()) {
        omp_set_num_threads(count); /* so that oneDNN, called from this thread, uses as many */
        applied = count;
    }
    return count;
}

void tn_set_thread_count(int count)
{
    if (count < 1 && atomic_load(&default_count) == 0) atomic_store(&default_count, find_default());
    atomic_store(&wanted, count < 1 ? 0 : count);
    tn_thread_count();
}

int tn_one_thread_begin(void)
{
    int before = omp_get_max_threads();
    if (before != 1) omp_set_num_threads(1);
    return before;
}

void tn_one_thread_end(int before)
{
    if (before != 1) omp_set_num_threads(before);
}

int tn_thread_index(void) { return omp_get_thread_num(); }

/* Item where part `part` of `parts` begins: parts differ by at most one item. */
static int64_t part_begin(int64_t count, int part, int parts)
{
    int64_t each = count / parts, rest = count % parts;
    return part * each + (part < rest ? part : rest);
}

UNWATCHED
void tn_parallel(int64_t count, int64_t grain,
                 void (*body)(void *context, int64_t begin, int64_t end), void *context)
{
    if (count <= 0) return;
    int threads = tn_thread_count();
    if (count < grain || count == 1 || threads == 1 || omp_in_parallel()) {
        body(context, 0, count);
        return;
    }
    char fork = 0, join = 0; /* addresses for the sanitizer */
    __tsan_release(&fork);
    /* The whole pool even when there are fewer items: libgomp ends and restarts threads when the
     * size changes. */
#pragma omp parallel num_threads(threads) default(none) shared(fork, join)                         \
    firstprivate(count, threads, body, context)
    {
        __tsan_acquire(&fork);
#ifdef _OPENMP
        int parts = omp_get_num_threads(), part = omp_get_thread_num();
#else
        int parts = 1, part = 0;
#endif
        int64_t begin = part_begin(count, part, parts), end = part_begin(count, part + 1, parts);
        if (begin < end) body(context, begin, end);
        __tsan_release(&join);
    }
    __tsan_acquire(&join);
}
