/* oneDNN as the kernels see it: one engine, and primitives that run on the calling thread.
 *
 * oneDNN's own threading cuts some sums by the number of threads, so that results would depend
 * on it. Here every primitive is made for one thread; a kernel cuts its work into pieces by
 * shape alone, runs a primitive for each, and hands the pieces to the pool. That also keeps a
 * piece's data in one core's cache: measured faster than one primitive on two threads. */
#ifndef TN_CPU_ONEDNN_H
#define TN_CPU_ONEDNN_H

#include <dnnl.h>

#include "graph/kernel.h"

/* A primitive that is ready to run, from any number of threads at once. */
typedef struct tn_primitive tn_primitive;

/* NULL (with the message set) if oneDNN cannot start. */
dnnl_engine_t tn_onednn_engine(void);

/* TN_UNSUPPORTED with the op, the dtype and oneDNN's word for `status`, as it failed at `doing`. */
tn_status tn_onednn_fail(const tn_step *step, const char *doing, dnnl_status_t status);

/* oneDNN's name of a dtype; false where it has none. */
bool tn_onednn_dtype(tn_dtype dtype, dnnl_data_type_t *out);

/* Makes the primitive of oneDNN descriptor `descriptor`, with arguments `argument`
 * (DNNL_ARG_SRC, ...; at most 5; scratch is added). `callers`: how many threads will probably run
 * it at once. Free with tn_primitive_free. */
tn_status tn_primitive_create(tn_primitive **primitive, const tn_step *step,
                              const_dnnl_op_desc_t descriptor, const int *argument, int count,
                              int callers);
/* The same for a copy from one memory layout to another. Runs on all threads when `parallel`. */
tn_status tn_primitive_create_reorder(tn_primitive **primitive, const tn_step *step,
                                      const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *to,
                                      bool parallel);
void tn_primitive_free(tn_primitive *primitive);

/* The layout that oneDNN chose for an argument, and its bytes. */
const dnnl_memory_desc_t *tn_primitive_layout(const tn_primitive *primitive, int argument);
size_t tn_primitive_bytes(const tn_primitive *primitive, int argument);
/* Bytes of scratch that one run needs, rounded up to whole cache lines. */
size_t tn_primitive_scratch(const tn_primitive *primitive);

/* Runs on the calling thread with data[i] for argument[i]. `lane` tells apart callers that
 * probably run at once. Overhead of about 60 ns beside oneDNN's own. */
tn_status tn_primitive_run(tn_primitive *primitive, int lane, void *const *data, void *scratch);

#endif
