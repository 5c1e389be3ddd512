/* The one thread pool (OpenMP's, because oneDNN uses it too).
 *
 * A loop is cut into `count` items by its caller, from the shape alone and never from the number of threads; each
 * item writes its own part of the output. So results do not depend on how many threads there are. */
#ifndef TN_BASE_THREADS_H
#define TN_BASE_THREADS_H

#include <stdint.h>

/* Calls body(context, begin, end) for ranges that together cover [0, count) once, on the pool.
 * `grain`: below this many items all runs on the calling thread (no fork, < 20 ns overhead). Inside another
 * parallel loop it runs on the calling thread. */
void tn_parallel(int64_t count, int64_t grain,
                 void (*body)(void *context, int64_t begin, int64_t end), void *context);

/* Threads that tn_parallel may use (OMP_NUM_THREADS, else processors within the control group's limit). OpenMP keeps its
 * number per calling thread, and this call sets it: so call it once before a thread's first oneDNN primitive. */
int tn_thread_count(void);
void tn_set_thread_count(int count); /* < 1: back to the default */
/* oneDNN primitives that the calling thread makes or runs between these two use this thread alone. A few nanoseconds.
 *     int before = tn_one_thread_begin(); ...; tn_one_thread_end(before); */
int tn_one_thread_begin(void);
void tn_one_thread_end(int before);
int tn_thread_index(void); /* 0 .. tn_thread_count()-1 inside tn_parallel, else 0 */

#endif
