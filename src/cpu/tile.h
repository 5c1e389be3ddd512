/* The tile engine: element-wise programs and their reductions, run piece by piece in L1.
 *
 * A program's iteration space is cut into tiles of about a thousand elements. For each tile the
 * inputs are loaded (or read where they are), every instruction runs over the whole tile by one
 * call, and results are stored: one pass over memory, whatever the number of instructions.
 * Values live in registers of one tile each, in one of three classes: f32 (also for bf16, f16
 * and bool, which is 0 or 1), f64, and i64 (all integers). */
#ifndef TN_CPU_TILE_H
#define TN_CPU_TILE_H

#include "graph/fuse.h"
#include "graph/kernel.h"

typedef enum tn_tile_class {
    TN_TILE_F32 = 0,
    TN_TILE_F64,
    TN_TILE_I64,
    TN_TILE_CLASSES
} tn_tile_class;

/* Constants of an instruction, as its class wants them. */
typedef struct tn_tile_scalars {
    float f[2];
    double d[2];
    int64_t i[2];
} tn_tile_scalars;

/* out[j] = op(a[j], b[j], c[j]) for j < n. In a scalar form some operands are one element for
 * all j. out may be the same memory as an operand of the same class. */
typedef void tn_tile_function(void *out, const void *a, const void *b, const void *c, int64_t n,
                              const tn_tile_scalars *s);

/* Which operands are scalars, as an index of tn_tile_row.form. */
enum { TN_TILE_SCALAR_A = 1, TN_TILE_SCALAR_B = 2, TN_TILE_SCALAR_C = 4, TN_TILE_FORMS = 8 };

typedef struct tn_tile_row {
    tn_op_id op;
    tn_tile_function *form[TN_TILE_FORMS]; /* NULL: there is no such form */
} tn_tile_row;

typedef enum tn_tile_cast {
    TN_CAST_ROUND_BF16 = 0, /* f32 -> f32 */
    TN_CAST_ROUND_F16,
    TN_CAST_F32_BOOL,
    TN_CAST_F64_BOOL,
    TN_CAST_I64_BOOL, /* 0 or 1 in f32 */
    TN_CAST_F32_F64,
    TN_CAST_F64_F32,
    TN_CAST_I64_F32,
    TN_CAST_I64_F64,
    TN_CAST_F32_I64,
    TN_CAST_F64_I64,
    TN_CAST_I64_I64, /* saturating to [i[0], i[1]] */
    TN_CAST_WRAP_I32,
    TN_CAST_WRAP_I8,
    TN_CAST_WRAP_U8, /* i64 -> i64: what arithmetic in the narrow type leaves */
    TN_CAST_COUNT
} tn_tile_cast;

typedef enum tn_tile_fold { TN_FOLD_SUM = 0, TN_FOLD_MAX, TN_FOLD_MIN, TN_FOLDS } tn_tile_fold;

/* `n` elements of a dtype, `stride` elements apart, into a register. */
typedef void tn_tile_load(void *out, const void *from, int64_t n, int64_t stride);
typedef void tn_tile_store(void *to, const void *from, int64_t n);
/* into[j] = fold(into[j], x[j]) */
typedef void tn_tile_accumulate(void *into, const void *x, int64_t n);
/* x [outer, count, inner] -> out [outer, inner]. */
typedef void tn_tile_reduce(void *out, const void *x, int64_t outer, int64_t count, int64_t inner);

/* Everything of it that is compiled once per instruction set. */
typedef struct tn_tile_set {
    const tn_tile_row *row[TN_TILE_CLASSES];
    int row_count[TN_TILE_CLASSES];
    tn_tile_function *cast[TN_CAST_COUNT];
    tn_tile_function *multiply_add[TN_TILE_FORMS]; /* f32: a * b + c */
    tn_tile_load *load[TN_DTYPE_COUNT][TN_TILE_CLASSES];
    tn_tile_store *store[TN_DTYPE_COUNT][TN_TILE_CLASSES];
    tn_tile_accumulate *accumulate[TN_FOLDS][TN_TILE_CLASSES];
    tn_tile_accumulate *widen[TN_FOLDS]; /* f32 into f64 */
    tn_tile_reduce *reduce[TN_FOLDS][TN_TILE_CLASSES];
} tn_tile_set;

/* tn_kernel's functions for a program: `attribute` lives only during the call. */
tn_status tn_tile_prepare(tn_step *step, const tn_fused_attribute *attribute,
                          const tn_tile_set *set);
tn_status tn_tile_run(const tn_step *step, void *const *in, void *const *out, void *workspace);
void tn_tile_release(tn_step *step);
/* Inputs as they lie; outputs channels-last if most of the input is, else rows. */
void tn_tile_layouts(const tn_step *step, tn_layout *in, tn_layout *out);

/* The same for the program that is just step->op: one instruction, or one reduction. */
tn_status tn_tile_prepare_op(tn_step *step, const tn_tile_set *set);

#endif
