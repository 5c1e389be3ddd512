/* Loads from memory of any dtype into tile registers, and stores back. */
#include <string.h>

#include "base/half.h"
#include "cpu/simd/tile_set.h"

/* Neighbours, one element for all, or any stride. */
#define LOAD(name, from_type, to_type, convert)                                                    \
    static void name(void *out, const void *from, int64_t n, int64_t stride)                       \
    {                                                                                              \
        to_type *to = out;                                                                         \
        const from_type *u = from;                                                                 \
        if (stride == 1) {                                                                         \
            TN_SIMD for (int64_t i = 0; i < n; i++) to[i] = convert(u[i]);                         \
        } else if (stride == 0) {                                                                  \
            const to_type x = convert(u[0]);                                                       \
            TN_SIMD for (int64_t i = 0; i < n; i++) to[i] = x;                                     \
        } else {                                                                                   \
            for (int64_t i = 0; i < n; i++) to[i] = convert(u[i * stride]);                        \
        }                                                                                          \
    }

#define AS_FLOAT(x) ((float)(x))
#define AS_DOUBLE(x) ((double)(x))
#define AS_INTEGER(x) ((int64_t)(x))

LOAD(f32_from_f32, float, float, AS_FLOAT)
LOAD(f32_from_bf16, uint16_t, float, tn_f32_from_bf16)
LOAD(f32_from_f16, uint16_t, float, tn_f32_from_f16)
LOAD(f32_from_u8, uint8_t, float, AS_FLOAT)
LOAD(f32_from_i8, int8_t, float, AS_FLOAT)
LOAD(f32_from_i32, int32_t, float, AS_FLOAT)
LOAD(f32_from_i64, int64_t, float, AS_FLOAT)
LOAD(f32_from_f64, double, float, AS_FLOAT)
LOAD(f64_from_f64, double, double, AS_DOUBLE)
LOAD(i64_from_u8, uint8_t, int64_t, AS_INTEGER)
LOAD(i64_from_i8, int8_t, int64_t, AS_INTEGER)
LOAD(i64_from_i32, int32_t, int64_t, AS_INTEGER)
LOAD(i64_from_i64, int64_t, int64_t, AS_INTEGER)

#define STORE(name, to_type, from_type, convert)                                                   \
    static void name(void *to, const void *from, int64_t n)                                        \
    {                                                                                              \
        to_type *y = to;                                                                           \
        const from_type *u = from;                                                                 \
        TN_SIMD for (int64_t i = 0; i < n; i++) y[i] = (to_type)convert(u[i]);                     \
    }

#define IS_TRUE(x) ((x) != 0.0F)
#define AS_IT_IS(x) (x)

STORE(bf16_from_f32, uint16_t, float, tn_bf16_from_f32)
STORE(f16_from_f32, uint16_t, float, tn_f16_from_f32)
STORE(bool_from_f32, uint8_t, float, IS_TRUE)
STORE(i32_from_i64, int32_t, int64_t, AS_IT_IS)
STORE(i8_from_i64, int8_t, int64_t, AS_IT_IS)
STORE(u8_from_i64, uint8_t, int64_t, AS_IT_IS)

static void copy_4(void *to, const void *from, int64_t n) { memcpy(to, from, (size_t)n * 4); }

static void copy_8(void *to, const void *from, int64_t n) { memcpy(to, from, (size_t)n * 8); }

void TN_ISA(tn_tile_add_memory)(tn_tile_set *set)
{
    set->load[TN_F32][TN_TILE_F32] = f32_from_f32;
    set->load[TN_BF16][TN_TILE_F32] = f32_from_bf16;
    set->load[TN_F16][TN_TILE_F32] = f32_from_f16;
    set->load[TN_BOOL][TN_TILE_F32] = f32_from_u8;
    set->load[TN_U8][TN_TILE_F32] = f32_from_u8;
    set->load[TN_I8][TN_TILE_F32] = f32_from_i8;
    set->load[TN_I32][TN_TILE_F32] = f32_from_i32;
    set->load[TN_I64][TN_TILE_F32] = f32_from_i64;
    set->load[TN_F64][TN_TILE_F32] = f32_from_f64;
    set->load[TN_F64][TN_TILE_F64] = f64_from_f64;
    set->load[TN_U8][TN_TILE_I64] = i64_from_u8;
    set->load[TN_I8][TN_TILE_I64] = i64_from_i8;
    set->load[TN_I32][TN_TILE_I64] = i64_from_i32;
    set->load[TN_I64][TN_TILE_I64] = i64_from_i64;
    set->store[TN_F32][TN_TILE_F32] = copy_4;
    set->store[TN_BF16][TN_TILE_F32] = bf16_from_f32;
    set->store[TN_F16][TN_TILE_F32] = f16_from_f32;
    set->store[TN_BOOL][TN_TILE_F32] = bool_from_f32;
    set->store[TN_F64][TN_TILE_F64] = copy_8;
    set->store[TN_I64][TN_TILE_I64] = copy_8;
    set->store[TN_I32][TN_TILE_I64] = i32_from_i64;
    set->store[TN_I8][TN_TILE_I64] = i8_from_i64;
    set->store[TN_U8][TN_TILE_I64] = u8_from_i64;
}
