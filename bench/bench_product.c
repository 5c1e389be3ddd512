/* Products alone: the library's kernels beside bare oneDNN primitives, at the shapes of the
 * benchmark cases.
 *
 * usage: bench_product [f32|bf16|all] [SECONDS] [NAME]     default: all, 0.2 s for each number;
 * only the shapes whose name has NAME in it
 *
 * "oneDNN" is one primitive on all threads with weights already in the layout it likes best,
 * which a training step cannot have for nothing; "ours" includes laying weights out and adding
 * up partial sums. A ratio above 1 means that ours takes less time. */
#include <dnnl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/half.h"
#include "base/threads.h"
#include "graph/kernel.h"
#include "tenon/random.h"

static double seconds_each = 0.2;
static const char *wanted_name = "";

/* ---- shapes ---------------------------------------------------------------------------------- */

typedef struct matmul_shape {
    const char *name;
    int64_t M, N, K;
} matmul_shape;

static const matmul_shape matmuls[] = {
    {"mlp in", 256, 1024, 784},     {"mlp hidden", 256, 1024, 1024},
    {"mlp out", 256, 10, 1024},     {"bert qkv", 2880, 1152, 384},
    {"bert out", 2880, 384, 384},   {"bert up", 2880, 1536, 384},
    {"bert down", 2880, 384, 1536}, {"palm up", 2048, 2048, 512},
    {"palm down", 2048, 512, 2048}, {"lstm gates", 12800, 512, 128},
    {"decode 1", 1, 2048, 512},     {"decode 8", 8, 2048, 512},
    {"gru gates", 32, 48, 16},      {"grad lstm", 512, 128, 12800},
    {"grad up", 1536, 384, 2880},   {"grad down", 384, 1536, 2880},
    {"grad palm", 2048, 512, 2048},
};

typedef struct conv_shape {
    const char *name;
    int space;
    int64_t B, C, F, S, k, stride, pad;
} conv_shape;

static const conv_shape convolutions[] = {
    {"resnet conv1", 2, 64, 3, 64, 32, 3, 1, 1},
    {"resnet 64", 2, 64, 64, 64, 32, 3, 1, 1},
    {"resnet 64-128 /2", 2, 64, 64, 128, 32, 3, 2, 1},
    {"resnet 1x1 /2", 2, 64, 64, 128, 32, 1, 2, 0},
    {"resnet 128", 2, 64, 128, 128, 16, 3, 1, 1},
    {"resnet 256", 2, 64, 256, 256, 8, 3, 1, 1},
    {"resnet 512", 2, 64, 512, 512, 4, 3, 1, 1},
    {"unet first", 2, 4, 1, 32, 256, 3, 1, 1},
    {"unet 32", 2, 4, 32, 32, 256, 3, 1, 1},
    {"unet 64", 2, 4, 64, 64, 128, 3, 1, 1},
    {"unet 256", 2, 4, 256, 256, 32, 3, 1, 1},
    {"unet up", 2, 4, 32, 64, 256, 2, 2, 0},
    {"unet last", 2, 4, 32, 1, 256, 1, 1, 0},
    {"unet3d first", 3, 1, 1, 16, 96, 3, 1, 1},
    {"unet3d 16", 3, 1, 16, 16, 96, 3, 1, 1},
    {"unet3d 32", 3, 1, 32, 32, 48, 3, 1, 1},
    {"unet3d 64", 3, 1, 64, 64, 24, 3, 1, 1},
    {"unet3d 128", 3, 1, 128, 128, 12, 3, 1, 1},
};

/* ---- operands -------------------------------------------------------------------------------- */

static tn_operand operand(tn_dtype dtype, int rank, const int64_t *dim, bool channels_last)
{
    tn_operand x = {.dtype = dtype, .rank = rank};
    int64_t stride = 1;
    if (channels_last) {
        x.stride[1] = 1;
        stride = dim[1];
    }
    for (int i = rank - 1; i >= 0; i--) {
        x.dim[i] = dim[i];
        if (channels_last && i == 1) continue;
        x.stride[i] = stride;
        stride *= dim[i];
    }
    return x;
}

/* Random numbers in [-1, 1). NULL when out of memory. */
static void *numbers(tn_dtype dtype, int64_t count)
{
    uint16_t *half = aligned_alloc(64, ((size_t)count * tn_dtype_size(dtype) + 63) / 64 * 64);
    float *single = (void *)half;
    for (int64_t i = 0; half && i < count; i++) {
        float x = (float)(2 * tn_random_uniform(1, 1, (uint64_t)(i % 4096)) - 1);
        if (dtype == TN_BF16) half[i] = tn_bf16_from_f32(x);
        else single[i] = x;
    }
    return half;
}

/* ---- timing ---------------------------------------------------------------------------------- */

typedef void body(void *context);

/* Least time of one call. */
static double time_of(body *run, void *context)
{
    double best = INFINITY, start = tn_clock_seconds();
    for (int calls = 1; tn_clock_seconds() - start < seconds_each;) {
        double before = tn_clock_seconds();
        for (int i = 0; i < calls; i++) run(context);
        double each = (tn_clock_seconds() - before) / calls;
        if (each < best) best = each;
        if (each * calls < 1e-4) calls *= 2;
    }
    return best;
}

typedef struct our_call {
    tn_step *step;
    void **in, **out;
    void *workspace;
} our_call;

static void run_ours(void *context)
{
    our_call *c = context;
    c->step->kernel->run(c->step, c->in, c->out, c->workspace);
}

/* Seconds of one run; NAN where there is no kernel. */
static double time_ours(tn_op_id id, const void *attribute, tn_operand a, tn_operand b,
                        tn_operand y)
{
    tn_operand in[2] = {a, b};
    tn_step step = {.op = tn_op_find(id),
                    .kernel = tn_cpu_kernels()->kernel[id],
                    .attribute = attribute,
                    .in_count = 2,
                    .out_count = 1,
                    .in = in,
                    .out = &y};
    if (step.kernel->prepare(&step) != TN_OK) return NAN;
    void *data[3] = {numbers(a.dtype, tn_operand_size(&a)), numbers(b.dtype, tn_operand_size(&b)),
                     numbers(y.dtype, tn_operand_size(&y))};
    void *workspace = aligned_alloc(64, (step.workspace + 127) / 64 * 64);
    our_call call = {&step, data, data + 2, workspace};
    double seconds = data[0] && data[1] && data[2] && workspace ? time_of(run_ours, &call)
                                                                : (double)NAN;
    if (step.kernel->release) step.kernel->release(&step);
    for (int i = 0; i < 3; i++) free(data[i]);
    free(workspace);
    return seconds;
}

typedef struct bare_call {
    dnnl_primitive_t primitive;
    dnnl_stream_t stream;
    int count;
    dnnl_exec_arg_t argument[4];
} bare_call;

static void run_bare(void *context)
{
    bare_call *c = context;
    dnnl_primitive_execute(c->primitive, c->stream, c->count, c->argument);
}

/* The same for a oneDNN primitive with three arguments. */
static double time_bare(const_dnnl_op_desc_t descriptor, const int *argument)
{
    static dnnl_engine_t engine;
    bare_call call = {.count = 3};
    dnnl_primitive_attr_t attributes;
    dnnl_primitive_desc_t description;
    double seconds = NAN;
    void *data[4] = {NULL};
    if (!engine && dnnl_engine_create(&engine, dnnl_cpu, 0) != dnnl_success) return NAN;
    if (dnnl_primitive_attr_create(&attributes) != dnnl_success) return NAN;
    dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user);
    dnnl_stream_create(&call.stream, engine, dnnl_stream_default_flags);
    if (dnnl_primitive_desc_create(&description, descriptor, attributes, engine, NULL) ==
        dnnl_success) {
        dnnl_primitive_create(&call.primitive, description);
        for (int i = 0; i < 4; i++) {
            const dnnl_memory_desc_t *md =
                i < 3
                    ? dnnl_primitive_desc_query_md(description, dnnl_query_exec_arg_md, argument[i])
                    : dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0);
            size_t bytes = dnnl_memory_desc_get_size(md);
            data[i] = aligned_alloc(64, (bytes + 127) / 64 * 64);
            if (data[i]) memset(data[i], 0, bytes);
            call.argument[i].arg = i < 3 ? argument[i] : DNNL_ARG_SCRATCHPAD;
            dnnl_memory_create(&call.argument[i].memory, md, engine, data[i]);
        }
        call.count = 4;
        seconds = time_of(run_bare, &call);
        for (int i = 0; i < 4; i++) {
            dnnl_memory_destroy(call.argument[i].memory);
            free(data[i]);
        }
        dnnl_primitive_destroy(call.primitive);
        dnnl_primitive_desc_destroy(description);
    }
    dnnl_stream_destroy(call.stream);
    dnnl_primitive_attr_destroy(attributes);
    return seconds;
}

static void print_row(const char *name, const char *what, tn_dtype dtype, double flop, double ours,
                      double bare)
{
    printf("%-18s %-8s %-5s %9.2f us %8.1f GFLOP/s   oneDNN %8.1f   ratio %.2f\n", name, what,
           tn_dtype_name(dtype), ours * 1e6, flop / ours * 1e-9, flop / bare * 1e-9, bare / ours);
    fflush(stdout);
}

/* ---- the rows -------------------------------------------------------------------------------- */

static dnnl_data_type_t type_of(tn_dtype dtype) { return dtype == TN_BF16 ? dnnl_bf16 : dnnl_f32; }

static void measure_matmul(const matmul_shape *s, tn_dtype dtype)
{
    static const char *const names[] = {"x w", "x w^T", "x^T d"};
    static const int argument[] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST};
    if (!strstr(s->name, wanted_name)) return;
    for (int way = 0; way < 3; way++) {
        bool turn_a = way == 2, turn_b = way == 1;
        tn_matmul_attribute attribute;
        memset(&attribute, 0, sizeof attribute);
        attribute.transpose_a = turn_a;
        attribute.transpose_b = turn_b;
        tn_operand a = operand(dtype, 2, turn_a ? (int64_t[]){s->K, s->M} : (int64_t[]){s->M, s->K},
                               false);
        tn_operand b = operand(dtype, 2, turn_b ? (int64_t[]){s->N, s->K} : (int64_t[]){s->K, s->N},
                               false);
        double ours = time_ours(TN_OP_MATMUL, &attribute, a, b,
                                operand(dtype, 2, (int64_t[]){s->M, s->N}, false));
        dnnl_memory_desc_t x, w, y;
        dnnl_matmul_desc_t descriptor;
        dnnl_memory_desc_init_by_tag(&x, 2, (dnnl_dims_t){s->M, s->K}, type_of(dtype),
                                     turn_a ? dnnl_ba : dnnl_ab);
        dnnl_memory_desc_init_by_tag(&w, 2, (dnnl_dims_t){s->K, s->N}, type_of(dtype),
                                     turn_b ? dnnl_ba : dnnl_ab);
        dnnl_memory_desc_init_by_tag(&y, 2, (dnnl_dims_t){s->M, s->N}, type_of(dtype), dnnl_ab);
        double bare = NAN;
        if (dnnl_matmul_desc_init(&descriptor, &x, &w, NULL, &y) == dnnl_success)
            bare = time_bare(&descriptor, argument);
        print_row(s->name, names[way], dtype, 2 * (double)s->M * (double)s->N * (double)s->K, ours,
                  bare);
    }
}

static void measure_convolution(const conv_shape *s, tn_dtype dtype)
{
    if (!strstr(s->name, wanted_name)) return;
    static const char *const names[] = {"forward", "d input", "d weight"};
    static const tn_op_id id[] = {TN_OP_CONVOLUTION, TN_OP_CONVOLUTION_INPUT,
                                  TN_OP_CONVOLUTION_WEIGHT};
    static const int argument[3][3] = {{DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST},
                                       {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST},
                                       {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST}};
    static const dnnl_format_tag_t last[] = {dnnl_nwc, dnnl_nhwc, dnnl_ndhwc};
    tn_conv_attribute attribute;
    memset(&attribute, 0, sizeof attribute);
    attribute.geometry.groups = 1;
    int64_t out = (s->S + 2 * s->pad - s->k) / s->stride + 1;
    dnnl_dims_t x_dim = {s->B, s->C}, w_dim = {s->F, s->C}, y_dim = {s->B, s->F};
    dnnl_dims_t stride, dilation = {0}, pad;
    double flop = 2 * (double)s->B * (double)s->C * (double)s->F;
    for (int i = 0; i < 3; i++) {
        bool present = i < s->space;
        attribute.geometry.stride[i] = present ? s->stride : 1;
        attribute.geometry.dilation[i] = 1;
        attribute.geometry.pad_before[i] = attribute.geometry.pad_after[i] = present ? s->pad : 0;
        stride[i] = s->stride;
        pad[i] = s->pad;
        if (!present) continue;
        x_dim[2 + i] = s->S;
        w_dim[2 + i] = s->k;
        y_dim[2 + i] = out;
        flop *= (double)(s->k * out);
    }
    int rank = 2 + s->space;
    tn_operand x = operand(dtype, rank, x_dim, true), w = operand(dtype, rank, w_dim, false),
               y = operand(dtype, rank, y_dim, true);
    dnnl_memory_desc_t mx, mw, my;
    dnnl_memory_desc_init_by_tag(&mx, rank, x_dim, type_of(dtype), last[s->space - 1]);
    dnnl_memory_desc_init_by_tag(&mw, rank, w_dim, type_of(dtype), dnnl_format_tag_any);
    dnnl_memory_desc_init_by_tag(&my, rank, y_dim, type_of(dtype), last[s->space - 1]);
    for (int way = 0; way < 3; way++) {
        double ours = time_ours(id[way], &attribute, way == 1 ? y : x, way == 2 ? y : w,
                                way == 0   ? y
                                : way == 1 ? x
                                           : w);
        dnnl_convolution_desc_t d;
        dnnl_status_t status =
            way == 0
                ? dnnl_dilated_convolution_forward_desc_init(&d, dnnl_forward_inference,
                                                             dnnl_convolution_direct, &mx, &mw,
                                                             NULL, &my, stride, dilation, pad, pad)
            : way == 1
                ? dnnl_dilated_convolution_backward_data_desc_init(
                      &d, dnnl_convolution_direct, &mx, &mw, &my, stride, dilation, pad, pad)
                : dnnl_dilated_convolution_backward_weights_desc_init(
                      &d, dnnl_convolution_direct, &mx, &mw, NULL, &my, stride, dilation, pad, pad);
        print_row(s->name, names[way], dtype, flop, ours,
                  status == dnnl_success ? time_bare(&d, argument[way]) : (double)NAN);
    }
}

int main(int argc, char **argv)
{
    bool only_f32 = argc > 1 && !strcmp(argv[1], "f32"),
         only_bf16 = argc > 1 && !strcmp(argv[1], "bf16");
    if (argc > 2) seconds_each = strtod(argv[2], NULL);
    if (argc > 3) wanted_name = argv[3];
    printf("%d threads\n", tn_thread_count());
    for (int bf16 = only_bf16; bf16 < (only_f32 ? 1 : 2); bf16++) {
        tn_dtype dtype = bf16 ? TN_BF16 : TN_F32;
        for (size_t i = 0; i < sizeof matmuls / sizeof *matmuls; i++)
            measure_matmul(&matmuls[i], dtype);
        for (size_t i = 0; i < sizeof convolutions / sizeof *convolutions; i++)
            measure_convolution(&convolutions[i], dtype);
    }
    return 0;
}
