/* Shape operations: values and gradients against the reference, odd sizes, strided inputs, every
 * element size, channels-last; the copy engine at every instruction set. */
#include "graph_check.h"

#include "graph/kernel.h"

/* ---- gradients and backends ------------------------------------------------------------------ */

typedef struct shape_option {
    int64_t a[TN_MAX_RANK], b[TN_MAX_RANK];
    int n, mode;
    tn_shape shape;
} shape_option;

static int build_reshape(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    out[0] = tn_reshape(in[0], ((const shape_option *)option)->shape);
    return 1;
}

/* A reshape of a transpose: cannot be a view. */
static int build_transpose(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const shape_option *o = option;
    int permutation[TN_MAX_RANK];
    for (int i = 0; i < tn_rank(in[0]); i++) permutation[i] = (int)o->a[i];
    tn_node turned = tn_transpose(in[0], permutation);
    out[0] = turned;
    out[1] = tn_reshape(turned, TN_SHAPE(-1));
    return 2;
}

static int build_broadcast(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    out[0] = tn_broadcast(in[0], ((const shape_option *)option)->shape);
    out[1] = tn_reshape(out[0], TN_SHAPE(-1));
    return 2;
}

static int build_slice(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const shape_option *o = option;
    out[0] = tn_slice(in[0], o->n, o->a[0], o->a[1], o->a[2]);
    out[1] = tn_reshape(tn_multiply(out[0], out[0]), TN_SHAPE(-1));
    return 2;
}

static int build_concat(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const shape_option *o = option;
    out[0] = tn_concat(in, o->n, (int)o->a[0]);
    out[1] = tn_square(out[0]);
    return 2;
}

static int build_stack_split(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph, (void)option;
    tn_node stacked = tn_stack(in, 2, 1), part[3];
    tn_split(stacked, 3, 0, part);
    out[0] = tn_multiply(part[0], part[2]);
    return 1;
}

static int build_pad(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const shape_option *o = option;
    out[0] = tn_pad(in[0], o->a, o->b, (tn_pad_mode)o->mode, 0.5);
    out[1] = tn_square(out[0]);
    return 2;
}

static int build_flip(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const shape_option *o = option;
    out[0] = tn_multiply(tn_flip(in[0], o->n), in[0]);
    return 1;
}

static int build_roll(tn_graph *graph, const tn_node *in, tn_node *out, const void *option)
{
    (void)graph;
    const shape_option *o = option;
    out[0] = tn_multiply(tn_roll(in[0], o->n, o->a[0]), in[0]);
    return 1;
}

static void run_case(const char *name, tn_shape shape,
                     int (*build)(tn_graph *, const tn_node *, tn_node *, const void *),
                     shape_option option, bool second)
{
    check_case c = {.name = name,
                    .in = {{.shape = shape}},
                    .in_count = 1,
                    .build = build,
                    .option = &option,
                    .second_order = second,
                    .bf16 = true};
    check_run(&c, 11);
}

static void test_views(void **state)
{
    (void)state;
    run_case("reshape", TN_SHAPE(4, 6), build_reshape, (shape_option){.shape = TN_SHAPE(3, -1, 2)},
             false);
    run_case("reshape of nothing", TN_SHAPE(0, 6), build_reshape,
             (shape_option){.shape = TN_SHAPE(2, 0)}, false);
    run_case("transpose 2", TN_SHAPE(5, 7), build_transpose, (shape_option){.a = {1, 0}}, false);
    run_case("transpose 3", TN_SHAPE(9, 17, 3), build_transpose, (shape_option){.a = {2, 0, 1}},
             false);
    run_case("transpose 4", TN_SHAPE(2, 9, 8, 11), build_transpose,
             (shape_option){.a = {0, 2, 3, 1}}, false);
    run_case("transpose 5", TN_SHAPE(2, 1, 3, 4, 5), build_transpose,
             (shape_option){.a = {4, 1, 0, 3, 2}}, false);
    run_case("broadcast scalar", TN_SCALAR, build_broadcast,
             (shape_option){.shape = TN_SHAPE(3, 5)}, false);
    run_case("broadcast rows", TN_SHAPE(3, 1), build_broadcast,
             (shape_option){.shape = TN_SHAPE(2, 3, 7)}, false);
    run_case("broadcast columns", TN_SHAPE(4, 1, 5), build_broadcast,
             (shape_option){.shape = TN_SHAPE(4, 3, 5)}, false);
    run_case("slice", TN_SHAPE(4, 9), build_slice, (shape_option){.n = 1, .a = {2, 7, 1}}, true);
    run_case("slice step", TN_SHAPE(9, 4), build_slice,
             (shape_option){.n = 0, .a = {1, INT64_MAX, 3}}, true);
    run_case("slice step inner", TN_SHAPE(3, 10), build_slice,
             (shape_option){.n = -1, .a = {-9, -1, 2}}, true);
    run_case("slice to nothing", TN_SHAPE(3, 10), build_slice,
             (shape_option){.n = 1, .a = {4, 4, 1}}, false);
}

static void test_concat(void **state)
{
    (void)state;
    for (int axis = 0; axis < 4; axis++)
        for (int count = 1; count <= 4; count += 3) {
            shape_option option = {.n = count, .a = {axis - 4 * (axis % 2)}};
            check_case c = {.name = "concat",
                            .in_count = count,
                            .build = build_concat,
                            .option = &option,
                            .second_order = true,
                            .bf16 = true};
            for (int i = 0; i < count; i++) {
                c.in[i].shape = TN_SHAPE(2, 3, 5, 4);
                c.in[i].shape.dim[axis] = 3 * i % 4 + (i == 1 ? 0 : 1); /* 1, 3, 3, 2: */
            }
            if (count > 1) c.in[1].shape.dim[axis] = 0;
            check_run(&c, (uint64_t)axis);
        }
    check_case c = {.name = "stack and split",
                    .in = {{.shape = TN_SHAPE(3, 5)}, {.shape = TN_SHAPE(3, 5)}},
                    .in_count = 2,
                    .build = build_stack_split,
                    .second_order = true};
    check_run(&c, 3);
}

static void test_pad(void **state)
{
    (void)state;
    for (int mode = 0; mode < 3; mode++) {
        run_case("pad 1", TN_SHAPE(5), build_pad, (shape_option){.a = {3}, .b = {4}, .mode = mode},
                 true);
        run_case("pad 2", TN_SHAPE(4, 5), build_pad,
                 (shape_option){.a = {0, 2}, .b = {3, 1}, .mode = mode}, true);
        run_case("pad 4", TN_SHAPE(2, 3, 4, 5), build_pad,
                 (shape_option){.a = {0, 0, 1, 2}, .b = {0, 0, 2, 2}, .mode = mode}, true);
        run_case("pad outer", TN_SHAPE(3, 2, 6), build_pad,
                 (shape_option){.a = {2, 0, 0}, .b = {1, 0, 0}, .mode = mode}, true);
        run_case("pad long row", TN_SHAPE(2, 700), build_pad,
                 (shape_option){.a = {1, 300}, .b = {0, 299}, .mode = mode}, false);
        if (mode != TN_PAD_REFLECT)
            run_case("pad one", TN_SHAPE(1, 1), build_pad,
                     (shape_option){.a = {3, 1}, .b = {1, 2}, .mode = mode}, true);
    }
    run_case("pad empty", TN_SHAPE(0, 3), build_pad, (shape_option){.a = {2, 0}, .b = {0, 1}},
             false);
}

static void test_flip_and_roll(void **state)
{
    (void)state;
    for (int axis = 0; axis < 3; axis++) {
        run_case("flip", TN_SHAPE(3, 4, 5), build_flip, (shape_option){.n = axis}, true);
        run_case("roll", TN_SHAPE(3, 4, 5), build_roll, (shape_option){.n = axis, .a = {-8}}, true);
    }
    run_case("roll far", TN_SHAPE(11), build_roll, (shape_option){.n = 0, .a = {1000003}}, true);
    run_case("flip of nothing", TN_SHAPE(3, 0), build_flip, (shape_option){.n = 0}, false);
}

/* ---- element sizes --------------------------------------------------------------------------- */

/* Everything with integers of each size: bytes must come through unchanged. */
static void test_every_dtype(void **state)
{
    (void)state;
    static const tn_dtype dtypes[] = {TN_F32, TN_F64, TN_BF16, TN_F16, TN_I64,
                                      TN_I32, TN_I8,  TN_U8,   TN_BOOL};
    for (size_t t = 0; t < sizeof dtypes / sizeof *dtypes; t++) {
        tn_dtype dtype = dtypes[t];
        tn_graph *graph = tn_graph_create(NULL);
        tn_shape shape = TN_SHAPE(3, 18, 21);
        tn_node x = tn_input(graph, "x", dtype, shape);
        tn_node turned = tn_transpose(x, TN_PERMUTE(2, 1, 0));
        tn_node out[] = {
            turned,
            tn_concat((tn_node[]){x, tn_flip(x, 2), x}, 3, 1),
            tn_pad(x, (int64_t[]){1, 0, 2}, (int64_t[]){0, 3, 1}, TN_PAD_CONSTANT, 1),
            tn_pad(x, (int64_t[]){1, 0, 2}, (int64_t[]){0, 3, 1}, TN_PAD_REFLECT, 0),
            tn_roll(tn_slice(x, 1, 1, INT64_MAX, 2), 2, 5),
            tn_flip(turned, 1),
            tn_broadcast(tn_slice(x, 2, 4, 5, 1), TN_SHAPE(3, 18, 4)),
            tn_concat((tn_node[]){turned, tn_slice(turned, 2, 0, 2, 1)}, 2, 2),
        };
        enum { OUTPUTS = sizeof out / sizeof *out };
        int64_t count = tn_shape_size(shape);
        double *value = calloc((size_t)count, sizeof *value);
        for (int64_t i = 0; i < count; i++)
            value[i] = dtype == TN_BOOL ? (double)(i * 7 % 3 == 0) : (double)(i * 37 % 127);
        void *feed = check_typed(dtype, value, count), *result[2][OUTPUTS];
        for (int b = 0; b < 2; b++) {
            tn_plan *plan;
            tn_compile_options options = {.graph = graph,
                                          .feeds = {&x, 1},
                                          .fetches = {out, OUTPUTS},
                                          .backend = b ? TN_REF : TN_CPU};
            if (tn_compile_with(&plan, &options) != TN_OK)
                fail_msg("%s: %s", tn_dtype_name(dtype), tn_message());
            for (int i = 0; i < OUTPUTS; i++)
                result[b][i] = calloc((size_t)tn_shape_size(tn_shape_of(out[i])) + 8, 8);
            if (tn_run(plan, (const void *[]){feed}, result[b]) != TN_OK)
                fail_msg("%s: %s", tn_dtype_name(dtype), tn_message());
            tn_plan_free(plan);
        }
        for (int i = 0; i < OUTPUTS; i++) {
            if (memcmp(result[0][i], result[1][i],
                       (size_t)tn_shape_size(tn_shape_of(out[i])) * tn_dtype_size(dtype)))
                fail_msg("%s: output %d differs", tn_dtype_name(dtype), i);
            free(result[0][i]);
            free(result[1][i]);
        }
        free(feed);
        free(value);
        tn_graph_free(graph);
    }
}

/* ---- the copy engine ------------------------------------------------------------------------- */

static tn_status run_kernel(const tn_kernel *kernel, tn_op_id id, const void *attribute,
                            tn_operand *in, tn_operand *out, void *x, void *y)
{
    tn_step step = {.op = tn_op_find(id),
                    .kernel = kernel,
                    .attribute = attribute,
                    .in_count = 1,
                    .out_count = 1,
                    .in = in,
                    .out = out};
    tn_status status = kernel->prepare(&step);
    if (status == TN_OK) status = kernel->run(&step, (void *[]){x}, (void *[]){y}, NULL);
    if (kernel->release) kernel->release(&step);
    return status;
}

static int64_t below(uint64_t *at, int64_t bound)
{
    return (int64_t)tn_random_below(99, 5, (*at)++, (uint64_t)bound);
}

/* Dense strides in a random order of dimensions, with gaps if asked; returns the number of elements
 * spanned. */
static int64_t random_strides(tn_operand *x, uint64_t *at, bool gaps)
{
    int order[TN_MAX_RANK];
    for (int i = 0; i < x->rank; i++) {
        int k = (int)below(at, i + 1);
        order[i] = order[k];
        order[k] = i;
    }
    int64_t stride = gaps && below(at, 3) == 0 ? 2 : 1;
    for (int i = 0; i < x->rank; i++) {
        x->stride[order[i]] = stride;
        stride *= x->dim[order[i]] + (gaps ? below(at, 3) : 0);
    }
    return stride;
}

static int64_t offset_of(const tn_operand *x, int64_t flat)
{
    int64_t offset = 0;
    for (int i = x->rank - 1; i >= 0; i--) {
        offset += flat % x->dim[i] * x->stride[i];
        flat /= x->dim[i];
    }
    return offset;
}

/* Any strides to any strides, element by element; nothing else is written. */
static void test_random_copies(void **state)
{
    (void)state;
    static const tn_dtype by_size[] = {TN_U8, TN_BF16, TN_F32, TN_F64};
    const tn_kernel *copy = tn_cpu_kernels()->kernel[TN_OP_BROADCAST];
    uint64_t at = 0;
    for (int round = 0; round < 1500; round++) {
        tn_operand from = {.dtype = by_size[below(&at, 4)], .rank = (int)below(&at, 6)}, to;
        int64_t size = (int64_t)tn_dtype_size(from.dtype), count = 1;
        for (int i = 0; i < from.rank; i++) {
            static const int64_t limit[] = {2, 5, 9, 20, 70};
            from.dim[i] = 1 + below(&at, limit[below(&at, from.rank > 3 ? 3 : 5)]);
            count *= from.dim[i];
        }
        to = from;
        int64_t in_size = random_strides(&from, &at, below(&at, 2)),
                out_size = random_strides(&to, &at, below(&at, 2));
        for (int i = 0; i < from.rank; i++)
            if (below(&at, 8) == 0) from.stride[i] = 0; /* broadcast */
        unsigned char *x = malloc((size_t)(in_size * size)), *y = malloc((size_t)(out_size * size)),
                      *expected = malloc((size_t)(out_size * size));
        for (int64_t i = 0; i < in_size * size; i++) x[i] = (unsigned char)(i * 131 + i / 251);
        memset(y, 0xee, (size_t)(out_size * size));
        memcpy(expected, y, (size_t)(out_size * size));
        for (int64_t i = 0; i < count; i++)
            memcpy(expected + offset_of(&to, i) * size, x + offset_of(&from, i) * size,
                   (size_t)size);
        assert_int_equal(run_kernel(copy, TN_OP_BROADCAST, NULL, &from, &to, x, y), TN_OK);
        if (memcmp(y, expected, (size_t)(out_size * size)))
            fail_msg("round %d: the copy differs", round);
        free(x);
        free(y);
        free(expected);
    }
}

/* Large enough to be shared between threads. */
static void test_large_copies(void **state)
{
    (void)state;
    const tn_kernel *copy = tn_cpu_kernels()->kernel[TN_OP_BROADCAST];
    static const int64_t dims[][4] = {
        {2, 64, 100, 101}, {1, 3, 301, 299}, {5, 700, 9, 8}, {1, 1, 1, 1000003}};
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (int back = 0; back < 2; back++) {
            const int64_t *n = dims[d];
            tn_operand rows = {.dtype = TN_F32,
                               .rank = 4,
                               .dim = {n[0], n[1], n[2], n[3]},
                               .stride = {n[1] * n[2] * n[3], n[2] * n[3], n[3], 1}};
            tn_operand last = rows;
            last.stride[0] = n[1] * n[2] * n[3], last.stride[1] = 1, last.stride[2] = n[3] * n[1],
            last.stride[3] = n[1];
            tn_operand *from = back ? &last : &rows, *to = back ? &rows : &last;
            int64_t count = n[0] * n[1] * n[2] * n[3];
            float *x = malloc((size_t)count * sizeof *x), *y = calloc((size_t)count, sizeof *y);
            for (int64_t i = 0; i < count; i++) x[i] = (float)i;
            assert_int_equal(run_kernel(copy, TN_OP_BROADCAST, NULL, from, to, x, y), TN_OK);
            for (int64_t i = 0; i < count; i++)
                if (y[offset_of(to, i)] != x[offset_of(from, i)])
                    fail_msg("shape %zu, direction %d: element %lld", d, back, (long long)i);
            free(x);
            free(y);
        }
}

/* A skip connection in channels-last stays in channels-last, and pad and flip as well. */
static void test_channels_last_stays(void **state)
{
    (void)state;
    tn_operand in[2] = {
        {.dtype = TN_F32, .rank = 4, .dim = {2, 8, 5, 6}, .stride = {240, 1, 48, 8}},
        {.dtype = TN_F32, .rank = 4, .dim = {2, 4, 5, 6}, .stride = {120, 30, 6, 1}}};
    static const tn_op_id ids[] = {TN_OP_CONCAT, TN_OP_PAD,     TN_OP_FLIP,
                                   TN_OP_ROLL,   TN_OP_UNSLICE, TN_OP_PAD_GRAD};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        tn_layout wanted[2] = {TN_ROWS, TN_ROWS}, out = TN_ROWS;
        tn_step step = {.in_count = ids[i] == TN_OP_CONCAT ? 2 : 1, .in = in};
        tn_cpu_kernels()->kernel[ids[i]]->layouts(&step, wanted, &out);
        assert_int_equal(out, TN_CHANNELS_LAST);
        assert_int_equal(wanted[0], TN_ANY);
    }
    /* and the values are right when one input lies in rows */
    tn_operand y = {.dtype = TN_F32, .rank = 4, .dim = {2, 12, 5, 6}, .stride = {360, 1, 72, 12}};
    float a[480], b[240], result[720];
    for (int i = 0; i < 480; i++) a[i] = (float)i;
    for (int i = 0; i < 240; i++) b[i] = (float)-i;
    tn_axis_attribute axis = {.axis = 1};
    const tn_kernel *concat = tn_cpu_kernels()->kernel[TN_OP_CONCAT];
    tn_step step = {.op = tn_op_find(TN_OP_CONCAT),
                    .kernel = concat,
                    .attribute = &axis,
                    .in_count = 2,
                    .out_count = 1,
                    .in = in,
                    .out = &y};
    assert_int_equal(concat->prepare(&step), TN_OK);
    assert_int_equal(concat->run(&step, (void *[]){a, b}, (void *[]){result}, NULL), TN_OK);
    concat->release(&step);
    for (int64_t i = 0; i < 720; i++) {
        int64_t batch = i / 360, c = i / 30 % 12, pixel = i % 30;
        float expected = c < 8 ? a[offset_of(&in[0], batch * 240 + c * 30 + pixel)]
                               : b[offset_of(&in[1], batch * 120 + (c - 8) * 30 + pixel)];
        if (result[offset_of(&y, i)] != expected)
            fail_msg("element %lld is %g, not %g", (long long)i, (double)result[offset_of(&y, i)],
                     (double)expected);
    }
}

/* The mapped operations on channels-last and strided inputs against the reference. */
static void test_mapped_strides(void **state)
{
    (void)state;
    tn_pad_attribute reflect = {.before = {0, 0, 1, 2},
                                .after = {0, 0, 3, 1},
                                .mode = TN_PAD_REFLECT},
                     edge = reflect, constant = reflect;
    edge.mode = TN_PAD_EDGE;
    constant.mode = TN_PAD_CONSTANT, constant.value = 7;
    tn_axis_attribute flip = {.axis = 1};
    tn_roll_attribute roll = {.axis = 3, .shift = 2};
    tn_slice_attribute slice = {.axis = 3, .start = 1, .step = 2, .size = 14};
    struct {
        tn_op_id id;
        const void *attribute;
        bool backwards;
        int64_t dim[4];
    } cases[] = {
        {TN_OP_PAD, &reflect, false, {2, 5, 8, 9}},
        {TN_OP_PAD, &edge, false, {2, 5, 8, 9}},
        {TN_OP_PAD, &constant, false, {2, 5, 8, 9}},
        {TN_OP_PAD_GRAD, &reflect, true, {2, 5, 8, 9}},
        {TN_OP_PAD_GRAD, &edge, true, {2, 5, 8, 9}},
        {TN_OP_PAD_GRAD, &constant, true, {2, 5, 8, 9}},
        {TN_OP_FLIP, &flip, false, {2, 5, 4, 6}},
        {TN_OP_ROLL, &roll, false, {2, 5, 4, 6}},
        {TN_OP_UNSLICE, &slice, true, {2, 5, 4, 14}},
    };
    uint64_t at = 0;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        for (int round = 0; round < 20; round++) {
            tn_operand x = {.dtype = TN_F32, .rank = 4, .dim = {2, 5, 4, 6}}, y = x;
            memcpy(cases[k].backwards ? y.dim : x.dim,
                   cases[k].id == TN_OP_UNSLICE ? (int64_t[]){2, 5, 4, 14}
                                                : (int64_t[]){2, 5, 4, 6},
                   4 * sizeof(int64_t));
            memcpy(cases[k].backwards ? x.dim : y.dim,
                   cases[k].id == TN_OP_UNSLICE ? (int64_t[]){2, 5, 4, 6} : cases[k].dim,
                   4 * sizeof(int64_t));
            int64_t span = random_strides(&x, &at, round % 2), in_count = tn_operand_size(&x),
                    out_count = tn_operand_size(&y);
            bool last = round % 3 == 0;
            y.stride[3] = last ? y.dim[1] : 1;
            y.stride[2] = y.dim[3] * y.stride[3];
            y.stride[1] = last ? 1 : y.dim[2] * y.stride[2];
            y.stride[0] = y.dim[1] * y.dim[2] * y.dim[3];
            float *strided = calloc((size_t)span, sizeof *strided),
                  *got = calloc((size_t)out_count, sizeof *got);
            double *plain = calloc((size_t)in_count, sizeof *plain),
                   *expected = calloc((size_t)out_count, sizeof *expected);
            for (int64_t i = 0; i < in_count; i++) {
                plain[i] = (double)(i * 29 % 97);
                strided[offset_of(&x, i)] = (float)plain[i];
            }
            assert_int_equal(run_kernel(tn_cpu_kernels()->kernel[cases[k].id], cases[k].id,
                                        cases[k].attribute, &x, &y, strided, got),
                             TN_OK);
            tn_step step = {.op = tn_op_find(cases[k].id),
                            .attribute = cases[k].attribute,
                            .in_count = 1,
                            .out_count = 1,
                            .in = &x,
                            .out = &y};
            assert_int_equal(tn_ref_kernels()->kernel[cases[k].id]->run(&step, (void *[]){plain},
                                                                        (void *[]){expected}, NULL),
                             TN_OK);
            for (int64_t i = 0; i < out_count; i++)
                if ((double)got[offset_of(&y, i)] != expected[i])
                    fail_msg("%s, case %zu, round %d: element %lld is %g, not %g", step.op->name, k,
                             round, (long long)i, (double)got[offset_of(&y, i)], expected[i]);
            free(strided);
            free(got);
            free(plain);
            free(expected);
        }
}

/* ---- messages -------------------------------------------------------------------------------- */

#define REFUSED(part, expression)                                                                  \
    do {                                                                                           \
        tn_graph *graph = tn_graph_create(NULL);                                                   \
        tn_node x = tn_input(graph, "x", TN_F32, TN_SHAPE(3, 4)),                                  \
                y = tn_input(graph, "y", TN_I32, TN_SHAPE(3, 4));                                  \
        (void)x, (void)y;                                                                          \
        (void)(expression);                                                                        \
        check_refused(graph, part);                                                                \
        tn_graph_free(graph);                                                                      \
    } while (0)

static void test_messages(void **state)
{
    (void)state;
    REFUSED("reshape [3, 4] (12 elements) to [5, 2]", tn_reshape(x, TN_SHAPE(5, 2)));
    REFUSED("only one dimension may be -1", tn_reshape(x, TN_SHAPE(-1, -1)));
    REFUSED("entry 1 of the permutation is 0", tn_transpose(x, TN_PERMUTE(0, 0)));
    REFUSED("broadcast [3, 4] to [3, 5]", tn_broadcast(x, TN_SHAPE(3, 5)));
    REFUSED("slice [5, 9) step 1 along axis 1", tn_slice(x, 1, 5, 9, 1));
    REFUSED("step 0", tn_slice(x, 0, 0, 2, 0));
    REFUSED("operand 1 is i32 [3, 4]", tn_concat((tn_node[]){x, y}, 2, 0));
    REFUSED("2 of a tensor of rank 2", tn_concat((tn_node[]){x, x}, 2, 2));
    REFUSED("at most 3 fits here",
            tn_pad(x, (int64_t[]){0, 4}, (int64_t[]){0, 0}, TN_PAD_REFLECT, 0));
    REFUSED("use -2 to 1", tn_flip(x, 7));
    REFUSED("use -2 to 1", tn_roll(x, -3, 1));
    REFUSED("squeeze: axis 0 of [3, 4] is not 1", tn_squeeze(x, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_concat),
        cmocka_unit_test(test_pad),
        cmocka_unit_test(test_flip_and_roll),
        cmocka_unit_test(test_every_dtype),
        cmocka_unit_test(test_random_copies),
        cmocka_unit_test(test_large_copies),
        cmocka_unit_test(test_channels_last_stays),
        cmocka_unit_test(test_mapped_strides),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
