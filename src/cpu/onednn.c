/* oneDNN's engine, and primitives with their memory objects. */
#include "cpu/onednn.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/threads.h"

enum { MOST_ARGUMENTS = 6, SLOTS = 8 };

/* One caller's memory objects. */
typedef struct binding {
    dnnl_exec_arg_t argument[MOST_ARGUMENTS];
} binding;

/* A memory object carries its data's address, so two callers cannot share one. Each slot holds a
 * binding that nobody uses at the moment; a caller takes one out and puts it back. */
struct tn_primitive {
    dnnl_primitive_t primitive;
    int count; /* scratch, if any, is the last argument */
    bool has_scratch, parallel;
    int argument[MOST_ARGUMENTS];
    dnnl_memory_desc_t layout[MOST_ARGUMENTS];
    size_t scratch;
    _Atomic(binding *) slot[SLOTS];
};

static dnnl_engine_t engine;
static dnnl_stream_t stream; /* on a CPU it has no state */
static dnnl_status_t started;

static void start(void)
{
    started = dnnl_engine_create(&engine, dnnl_cpu, 0);
    if (started == dnnl_success)
        started = dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
}

static const char *word(dnnl_status_t status)
{
    switch (status) {
    case dnnl_out_of_memory: return "out of memory";
    case dnnl_invalid_arguments: return "invalid arguments";
    case dnnl_unimplemented: return "not implemented";
    case dnnl_runtime_error: return "runtime error";
    default: return "error";
    }
}

dnnl_engine_t tn_onednn_engine(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start);
    if (started == dnnl_success) return engine;
    tn_fail(TN_UNSUPPORTED, "oneDNN does not start on this machine: %s", word(started));
    return NULL;
}

tn_status tn_onednn_fail(const tn_step *step, const char *doing, dnnl_status_t status)
{
    tn_dtype dtype = step->in_count ? step->in[0].dtype : TN_F32;
    if (status == dnnl_out_of_memory)
        return tn_fail(TN_MEMORY, "%s of %s: out of memory", step->op->name, tn_dtype_name(dtype));
    return tn_fail(TN_UNSUPPORTED, "%s of %s: oneDNN cannot %s: %s", step->op->name,
                   tn_dtype_name(dtype), doing, word(status));
}

bool tn_onednn_dtype(tn_dtype dtype, dnnl_data_type_t *out)
{
    switch (dtype) {
    case TN_F32: *out = dnnl_f32; return true;
    case TN_BF16: *out = dnnl_bf16; return true;
    case TN_I32: *out = dnnl_s32; return true;
    case TN_I8: *out = dnnl_s8; return true;
    default: return false;
    }
}

/* What every primitive here has: scratch memory from the caller. No post-operations: oneDNN's ReLU
 * makes 0 of a NaN. NULL when out of memory. */
static dnnl_primitive_attr_t new_attributes(void)
{
    dnnl_primitive_attr_t attributes;
    if (dnnl_primitive_attr_create(&attributes) != dnnl_success) return NULL;
    if (dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user) ==
        dnnl_success)
        return attributes;
    dnnl_primitive_attr_destroy(attributes);
    return NULL;
}

/* ---- making ---------------------------------------------------------------------------------- */

static void free_binding(const tn_primitive *p, binding *b)
{
    for (int i = 0; b && i < p->count; i++)
        if (b->argument[i].memory) dnnl_memory_destroy(b->argument[i].memory);
    free(b);
}

static binding *new_binding(const tn_primitive *p)
{
    binding *b = calloc(1, sizeof *b);
    for (int i = 0; b && i < p->count; i++) {
        b->argument[i].arg = p->argument[i];
        if (dnnl_memory_create(&b->argument[i].memory, &p->layout[i], engine, DNNL_MEMORY_NONE) ==
            dnnl_success)
            continue;
        b->argument[i].memory = NULL;
        free_binding(p, b);
        return NULL;
    }
    return b;
}

static void enter_argument(tn_primitive *p, const_dnnl_primitive_desc_t description,
                           dnnl_query_t query, int argument)
{
    const dnnl_memory_desc_t *layout = dnnl_primitive_desc_query_md(
        description, query, query == dnnl_query_exec_arg_md ? argument : 0);
    if (!layout || (argument == DNNL_ARG_SCRATCHPAD && dnnl_memory_desc_get_size(layout) == 0))
        return;
    p->argument[p->count] = argument;
    p->layout[p->count++] = *layout;
}

/* Consumes `description`. */
static tn_status finish(tn_primitive **out, const tn_step *step, dnnl_primitive_desc_t description,
                        const int *argument, int count, int callers, bool parallel)
{
    tn_primitive *p = calloc(1, sizeof *p);
    dnnl_status_t status = p ? dnnl_primitive_create(&p->primitive, description)
                             : dnnl_out_of_memory;
    if (status == dnnl_success) {
        p->parallel = parallel;
        for (int i = 0; i < count; i++)
            enter_argument(p, description, dnnl_query_exec_arg_md, argument[i]);
        if (p->count != count) status = dnnl_invalid_arguments;
        enter_argument(p, description, dnnl_query_scratchpad_md, DNNL_ARG_SCRATCHPAD);
        p->has_scratch = p->count > count;
        if (p->has_scratch)
            p->scratch = (dnnl_memory_desc_get_size(&p->layout[count]) + 63) / 64 * 64;
    }
    dnnl_primitive_desc_destroy(description);
    for (int i = 0; i < callers && i < SLOTS && status == dnnl_success; i++) {
        binding *b = new_binding(p);
        if (!b) status = dnnl_out_of_memory;
        atomic_store(&p->slot[i], b);
    }
    if (status == dnnl_success) {
        *out = p;
        return TN_OK;
    }
    tn_primitive_free(p);
    return tn_onednn_fail(step, "make it", status);
}

tn_status tn_primitive_create(tn_primitive **primitive, const tn_step *step,
                              const_dnnl_op_desc_t descriptor, const int *argument, int count,
                              int callers)
{
    *primitive = NULL;
    if (!tn_onednn_engine()) return TN_UNSUPPORTED;
    dnnl_primitive_attr_t attributes = new_attributes();
    if (!attributes) return tn_onednn_fail(step, "make attributes", dnnl_out_of_memory);
    int before = tn_one_thread_begin();
    dnnl_primitive_desc_t description;
    dnnl_status_t status = dnnl_primitive_desc_create(&description, descriptor, attributes, engine,
                                                      NULL);
    tn_status result = status == dnnl_success
                           ? finish(primitive, step, description, argument, count, callers, false)
                           : tn_onednn_fail(step, "do it with these sizes", status);
    tn_one_thread_end(before);
    dnnl_primitive_attr_destroy(attributes);
    return result;
}

tn_status tn_primitive_create_reorder(tn_primitive **primitive, const tn_step *step,
                                      const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *to,
                                      bool parallel)
{
    static const int argument[] = {DNNL_ARG_FROM, DNNL_ARG_TO};
    *primitive = NULL;
    if (!tn_onednn_engine()) return TN_UNSUPPORTED;
    dnnl_primitive_attr_t attributes = new_attributes();
    if (!attributes) return tn_onednn_fail(step, "make attributes", dnnl_out_of_memory);
    tn_thread_count();
    int before = parallel ? 1 : tn_one_thread_begin();
    dnnl_primitive_desc_t description;
    dnnl_status_t status = dnnl_reorder_primitive_desc_create(&description, from, engine, to,
                                                              engine, attributes);
    tn_status result = status == dnnl_success
                           ? finish(primitive, step, description, argument, 2, 1, parallel)
                           : tn_onednn_fail(step, "lay its weights out", status);
    tn_one_thread_end(before);
    dnnl_primitive_attr_destroy(attributes);
    return result;
}

void tn_primitive_free(tn_primitive *p)
{
    if (!p) return;
    for (int i = 0; i < SLOTS; i++) free_binding(p, atomic_load(&p->slot[i]));
    if (p->primitive) dnnl_primitive_destroy(p->primitive);
    free(p);
}

const dnnl_memory_desc_t *tn_primitive_layout(const tn_primitive *p, int argument)
{
    for (int i = 0; i < p->count; i++)
        if (p->argument[i] == argument) return &p->layout[i];
    return NULL;
}

size_t tn_primitive_bytes(const tn_primitive *p, int argument)
{
    return dnnl_memory_desc_get_size(tn_primitive_layout(p, argument));
}

size_t tn_primitive_scratch(const tn_primitive *p) { return p->scratch; }

/* ---- running --------------------------------------------------------------------------------- */

static binding *take(tn_primitive *p, int lane)
{
    for (int i = 0; i < SLOTS; i++) {
        _Atomic(binding *) *slot = &p->slot[(unsigned)(lane + i) % SLOTS];
        if (!atomic_load_explicit(slot, memory_order_relaxed)) continue;
        binding *b = atomic_exchange_explicit(slot, NULL, memory_order_acquire);
        if (b) return b;
    }
    return new_binding(p);
}

static void put_back(tn_primitive *p, int lane, binding *b)
{
    for (int i = 0; i < SLOTS && b; i++)
        b = atomic_exchange_explicit(&p->slot[(unsigned)(lane + i) % SLOTS], b,
                                     memory_order_acq_rel);
    free_binding(p, b);
}

tn_status tn_primitive_run(tn_primitive *p, int lane, void *const *data, void *scratch)
{
    binding *b = take(p, lane);
    if (!b) return tn_fail(TN_MEMORY, "out of memory in oneDNN");
    int own = p->count - p->has_scratch;
    for (int i = 0; i < own; i++) dnnl_memory_set_data_handle(b->argument[i].memory, data[i]);
    if (p->has_scratch) dnnl_memory_set_data_handle(b->argument[own].memory, scratch);
    if (p->parallel) tn_thread_count();
    int before = p->parallel ? 1 : tn_one_thread_begin();
    dnnl_status_t status = dnnl_primitive_execute(p->primitive, stream, p->count, b->argument);
    tn_one_thread_end(before);
    put_back(p, lane, b);
    return status == dnnl_success
               ? TN_OK
               : tn_fail(TN_UNSUPPORTED, "oneDNN failed while running: %s", word(status));
}
