/* The pieces of a tile_set, one file each. */
#ifndef TN_CPU_SIMD_TILE_SET_H
#define TN_CPU_SIMD_TILE_SET_H

#include "cpu/tile.h"

#define TN_SIMD _Pragma("omp simd")
#define TN_PRAGMA(text) _Pragma(#text)
#define TN_SIMD_SUM(variable) TN_PRAGMA(omp simd reduction(+ : variable))

void TN_ISA(tn_tile_add_f32)(tn_tile_set *set); /* tile_f32.c: instructions */
void TN_ISA(tn_tile_add_wide)(
    tn_tile_set *set); /* tile_wide.c: instructions of f64 and i64, casts */
void TN_ISA(tn_tile_add_memory)(tn_tile_set *set); /* tile_memory.c: loads and stores */
void TN_ISA(tn_tile_add_folds)(tn_tile_set *set);  /* tile_fold.c: reductions */

/* All of it. */
const tn_tile_set *TN_ISA(tn_tile_functions)(void);

#endif
