/* The kernels of FUSED nodes, and the set of tile functions that they and all element-wise
 * kernels run on. */
#include "cpu/simd/tile_set.h"

static tn_tile_set functions;

const tn_tile_set *TN_ISA(tn_tile_functions)(void) { return &functions; }

static tn_status prepare(tn_step *step)
{
    return tn_tile_prepare(step, step->attribute, &functions);
}

void TN_ISA(tn_cpu_fused)(tn_kernel_table *table);
void TN_ISA(tn_cpu_fused)(tn_kernel_table *table)
{
    static const tn_kernel kernel = {.layouts = tn_tile_layouts,
                                     .in_place = ~0ull,
                                     .prepare = prepare,
                                     .run = tn_tile_run,
                                     .release = tn_tile_release};
    TN_ISA(tn_tile_add_f32)(&functions);
    TN_ISA(tn_tile_add_wide)(&functions);
    TN_ISA(tn_tile_add_memory)(&functions);
    TN_ISA(tn_tile_add_folds)(&functions);
    table->kernel[TN_OP_FUSED] = &kernel;
}
