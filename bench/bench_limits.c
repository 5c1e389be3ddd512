/* The machine's ceilings, against which the cases are held: products of 2048x2048 matrices by
 * oneDNN itself (f32, bf16, int8), and how fast memory is read and copied. Prints one JSON line.
 * Best of many runs: a ceiling is what the machine can do, not what it does on average. */
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/threads.h"
#include "tenon/machine.h"

enum { N = 2048 };
static const double seconds_each = 1.5;

/* ---- products ------------------------------------------------------------------------------- */

typedef struct product {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c;
} product;

static void *const allocate = DNNL_MEMORY_ALLOCATE;

/* C [N, N] = A B, B in the layout that oneDNN likes best. */
static dnnl_status_t product_create(product *p, dnnl_data_type_t a, dnnl_data_type_t b,
                                    dnnl_data_type_t c)
{
    dnnl_dims_t dims = {N, N};
    dnnl_memory_desc_t of_a, of_b, of_c;
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_desc_t description = NULL;
    dnnl_status_t status = dnnl_engine_create(&p->engine, dnnl_cpu, 0);
    if (status == dnnl_success)
        status = dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags);
    if (status == dnnl_success) status = dnnl_memory_desc_init_by_tag(&of_a, 2, dims, a, dnnl_ab);
    if (status == dnnl_success)
        status = dnnl_memory_desc_init_by_tag(&of_b, 2, dims, b, dnnl_format_tag_any);
    if (status == dnnl_success) status = dnnl_memory_desc_init_by_tag(&of_c, 2, dims, c, dnnl_ab);
    if (status == dnnl_success) status = dnnl_matmul_desc_init(&matmul, &of_a, &of_b, NULL, &of_c);
    if (status == dnnl_success)
        status = dnnl_primitive_desc_create(&description, &matmul, NULL, p->engine, NULL);
    if (status == dnnl_success) status = dnnl_primitive_create(&p->primitive, description);
    if (status == dnnl_success) status = dnnl_memory_create(&p->a, &of_a, p->engine, allocate);
    if (status == dnnl_success)
        status = dnnl_memory_create(
            &p->b, dnnl_primitive_desc_query_md(description, dnnl_query_weights_md, 0), p->engine,
            allocate);
    if (status == dnnl_success) status = dnnl_memory_create(&p->c, &of_c, p->engine, allocate);
    if (description) dnnl_primitive_desc_destroy(description);
    return status;
}

static void product_free(product *p)
{
    if (p->c) dnnl_memory_destroy(p->c);
    if (p->b) dnnl_memory_destroy(p->b);
    if (p->a) dnnl_memory_destroy(p->a);
    if (p->primitive) dnnl_primitive_destroy(p->primitive);
    if (p->stream) dnnl_stream_destroy(p->stream);
    if (p->engine) dnnl_engine_destroy(p->engine);
}

static void clear(dnnl_memory_t memory)
{
    const dnnl_memory_desc_t *description;
    void *bytes;
    if (dnnl_memory_get_memory_desc(memory, &description) == dnnl_success &&
        dnnl_memory_get_data_handle(memory, &bytes) == dnnl_success)
        memset(bytes, 0, dnnl_memory_desc_get_size(description));
}

/* GFLOP/s (for integers: 1e9 multiplications and additions a second); 0 where this oneDNN or
 * machine cannot. */
static double product_rate(dnnl_data_type_t a, dnnl_data_type_t b, dnnl_data_type_t c)
{
    product p = {0};
    double best = 0;
    dnnl_status_t status = product_create(&p, a, b, c);
    if (status == dnnl_success) {
        clear(p.a), clear(p.b), clear(p.c);
        dnnl_exec_arg_t argument[] = {
            {DNNL_ARG_SRC, p.a}, {DNNL_ARG_WEIGHTS, p.b}, {DNNL_ARG_DST, p.c}};
        for (double start = tn_clock_seconds();
             status == dnnl_success && tn_clock_seconds() - start < seconds_each;) {
            double begin = tn_clock_seconds();
            status = dnnl_primitive_execute(p.primitive, p.stream, 3, argument);
            if (status == dnnl_success) status = dnnl_stream_wait(p.stream);
            double rate = 2.0 * N * N * N / (tn_clock_seconds() - begin) * 1e-9;
            if (rate > best) best = rate;
        }
    }
    product_free(&p);
    return status == dnnl_success ? best : 0;
}

/* ---- memory --------------------------------------------------------------------------------- */

enum { PIECE = 1 << 16 }; /* bytes a work item */

typedef struct memory {
    const uint64_t *from;
    uint64_t *to, *sum; /* sum: one a piece, so that reading is not optimised away */
} memory;

static void read_pieces(void *context, int64_t begin, int64_t end)
{
    const memory *m = context;
    for (int64_t piece = begin; piece < end; piece++) {
        const uint64_t *x = m->from + piece * (PIECE / 8);
        uint64_t sum[32] = {0};
        for (int i = 0; i < PIECE / 8; i += 32)
            for (int k = 0; k < 32; k++) sum[k] += x[i + k];
        for (int k = 1; k < 32; k++) sum[0] += sum[k];
        m->sum[piece] = sum[0];
    }
}

static void copy_pieces(void *context, int64_t begin, int64_t end)
{
    const memory *m = context;
    memcpy(m->to + begin * (PIECE / 8), m->from + begin * (PIECE / 8),
           (size_t)(end - begin) * PIECE);
}

/* GB/s; copying counts what is read and what is written. */
static double memory_rate(void (*body)(void *, int64_t, int64_t), memory *m, int64_t pieces,
                          double bytes)
{
    double best = 0;
    for (double start = tn_clock_seconds(); tn_clock_seconds() - start < seconds_each;) {
        double begin = tn_clock_seconds();
        tn_parallel(pieces, 1, body, m);
        double rate = bytes / (tn_clock_seconds() - begin) * 1e-9;
        if (rate > best) best = rate;
    }
    return best;
}

static int print_memory(int most_threads)
{
    size_t bytes = (size_t)512 << 20;
    int64_t pieces = (int64_t)(bytes / PIECE);
    uint64_t *from = aligned_alloc(4096, bytes), *to = aligned_alloc(4096, bytes),
             *sum = calloc((size_t)pieces, sizeof *sum);
    memory m = {from, to, sum};
    if (!from || !to || !sum) {
        fprintf(stderr, "bench_limits: needs 1 GB of memory\n");
        return 1;
    }
    memset(from, 1, bytes);
    memset(to, 2, bytes);
    printf(", \"memory\": [");
    for (int threads = 1; threads <= most_threads; threads++) {
        tn_set_thread_count(threads);
        double read = memory_rate(read_pieces, &m, pieces, (double)bytes),
               copy = memory_rate(copy_pieces, &m, pieces, 2.0 * (double)bytes);
        printf("%s{\"threads\": %d, \"read_gbs\": %.2f, \"copy_gbs\": %.2f}",
               threads > 1 ? ", " : "", threads, read, copy);
    }
    printf("]");
    free(from);
    free(to);
    free(sum);
    return 0;
}

int main(void)
{
    tn_machine machine;
    tn_machine_describe(&machine);
    int threads = machine.threads;
    tn_set_thread_count(threads);
    omp_set_num_threads(threads); /* oneDNN asks OpenMP itself */
    printf("{\"processor\": \"%s\", \"system\": \"%s\", \"memory_gb\": %.1f, \"threads\": %d, "
           "\"isa\": \"%s\", \"onednn\": \"%s\", \"compiler\": \"%s\"",
           machine.processor, machine.system, (double)machine.memory / 1e9, threads,
           tn_isa_name(machine.isa), machine.onednn, machine.compiler);
    printf(", \"f32_gflops\": %.1f", product_rate(dnnl_f32, dnnl_f32, dnnl_f32));
    printf(", \"bf16_gflops\": %.1f", product_rate(dnnl_bf16, dnnl_bf16, dnnl_bf16));
    printf(", \"int8_gops\": %.1f", product_rate(dnnl_u8, dnnl_s8, dnnl_s32));
    int code = print_memory(threads);
    printf("}\n");
    return code;
}
