/* Running sums and products, and linear recurrences, along one axis.
 *
 * x is seen as [outer, n, inner]. The recurrence goes along n; where inner is larger than 1
 * neighbours go along together, which is vector code. f32 and 16-bit floats are accumulated in
 * f64: a long running sum in f32 would drift away. */
#include "base/half.h"
#include "base/threads.h"
#include "cpu/simd/tile_set.h"

#define BLOCK 64 /* neighbours that go along together */

typedef struct scan_run {
    tn_op_id op;
    tn_dtype dtype;
    bool exclusive, reverse;
    int64_t n, inner, blocks;
    const unsigned char *a, *b; /* b: coefficients of a linear recurrence */
    unsigned char *out;
} scan_run;

/* state <- state + x, state * x, or x + c * state. */
#define SCAN(name, type, wide, read, write)                                                        \
    static void name(void *context, int64_t begin, int64_t end)                                    \
    {                                                                                              \
        const scan_run *r = context;                                                               \
        for (int64_t item = begin; item < end; item++) {                                           \
            int64_t k0 = item % r->blocks * BLOCK,                                                 \
                    count = r->inner - k0 < BLOCK ? r->inner - k0 : BLOCK;                         \
            int64_t start = item / r->blocks * r->n * r->inner + k0;                               \
            wide state[BLOCK];                                                                     \
            for (int64_t k = 0; k < BLOCK; k++) state[k] = r->op == TN_OP_CUMPROD;                 \
            for (int64_t i = 0; i < r->n; i++) {                                                   \
                int64_t at = start + (r->reverse ? r->n - 1 - i : i) * r->inner;                   \
                const type *x = (const type *)(const void *)r->a + at;                             \
                type *y = (type *)(void *)r->out + at;                                             \
                if (r->exclusive)                                                                  \
                    for (int64_t k = 0; k < count; k++) {                                          \
                        wide element = read(x[k]);                                                 \
                        y[k] = write(state[k]);                                                    \
                        state[k] = r->op == TN_OP_CUMSUM ? state[k] + element                      \
                                                         : state[k] * element;                     \
                    }                                                                              \
                else if (r->op == TN_OP_CUMSUM)                                                    \
                    for (int64_t k = 0; k < count; k++) y[k] = write(state[k] += read(x[k]));      \
                else if (r->op == TN_OP_CUMPROD)                                                   \
                    for (int64_t k = 0; k < count; k++) y[k] = write(state[k] *= read(x[k]));      \
                else {                                                                             \
                    const type *c = (const type *)(const void *)r->b + at;                         \
                    for (int64_t k = 0; k < count; k++)                                            \
                        y[k] = write(state[k] = read(x[k]) + read(c[k]) * state[k]);               \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

#define AS_WIDE(x) ((double)(x))
#define AS_F32(x) ((float)(x))
#define SAME(x) (x)
#define FROM_BF16(x) ((double)tn_f32_from_bf16(x))
#define TO_BF16(x) tn_bf16_from_f32((float)(x))
#define FROM_F16(x) ((double)tn_f32_from_f16(x))
#define TO_F16(x) tn_f16_from_f32((float)(x))
#define AS_UNSIGNED(x) ((uint64_t)(int64_t)(x)) /* integers wrap around */
#define TO_I32(x) ((int32_t)(x))
#define TO_I64(x) ((int64_t)(x))
#define TO_I8(x) ((int8_t)(x))
#define TO_U8(x) ((uint8_t)(x))

SCAN(scan_f32, float, double, AS_WIDE, AS_F32)
SCAN(scan_f64, double, double, SAME, SAME)
SCAN(scan_bf16, uint16_t, double, FROM_BF16, TO_BF16)
SCAN(scan_f16, uint16_t, double, FROM_F16, TO_F16)
SCAN(scan_i64, int64_t, uint64_t, AS_UNSIGNED, TO_I64)
SCAN(scan_i32, int32_t, uint64_t, AS_UNSIGNED, TO_I32)
SCAN(scan_i8, int8_t, uint64_t, AS_UNSIGNED, TO_I8)
SCAN(scan_u8, uint8_t, uint64_t, AS_UNSIGNED, TO_U8)

static tn_status run(const tn_step *step, void *const *in, void *const *out, void *workspace)
{
    (void)workspace;
    static void (*const body[TN_DTYPE_COUNT])(void *, int64_t, int64_t) = {
        [TN_F32] = scan_f32, [TN_F64] = scan_f64, [TN_BF16] = scan_bf16, [TN_F16] = scan_f16,
        [TN_I64] = scan_i64, [TN_I32] = scan_i32, [TN_I8] = scan_i8,     [TN_U8] = scan_u8};
    const tn_axis_attribute *a = step->attribute;
    const tn_operand *x = &step->in[0];
    scan_run r = {.op = step->op->id,
                  .dtype = x->dtype,
                  .exclusive = a->exclusive,
                  .reverse = a->reverse,
                  .n = x->dim[a->axis],
                  .inner = 1,
                  .a = in[0],
                  .b = step->in_count > 1 ? in[1] : NULL,
                  .out = out[0]};
    int64_t outer = 1;
    for (int i = 0; i < a->axis; i++) outer *= x->dim[i];
    for (int i = a->axis + 1; i < x->rank; i++) r.inner *= x->dim[i];
    r.blocks = (r.inner + BLOCK - 1) / BLOCK;
    int64_t items = outer * r.blocks;
    bool large = tn_operand_size(x) > 1 << 13;
    tn_parallel(items, large ? 1 : items + 1, body[x->dtype], &r);
    return TN_OK;
}

void TN_ISA(tn_cpu_scan)(tn_kernel_table *table);
void TN_ISA(tn_cpu_scan)(tn_kernel_table *table)
{
    static const tn_kernel kernel = {.in_place = 3, .run = run};
    table->kernel[TN_OP_CUMSUM] = table->kernel[TN_OP_CUMPROD] = table->kernel[TN_OP_LINEAR_SCAN] =
        &kernel;
}
