/* Element-wise operations that stay alone: programs of one instruction. */
#include "cpu/simd/tile_set.h"

static tn_status prepare(tn_step *step)
{
    return tn_tile_prepare_op(step, TN_ISA(tn_tile_functions)());
}

void TN_ISA(tn_cpu_elementwise)(tn_kernel_table *table);
void TN_ISA(tn_cpu_elementwise)(tn_kernel_table *table)
{
    static const tn_kernel kernel = {.layouts = tn_tile_layouts,
                                     .in_place = ~0ull,
                                     .prepare = prepare,
                                     .run = tn_tile_run,
                                     .release = tn_tile_release};
    for (int id = TN_OP_NEG; id <= TN_OP_WHERE; id++) table->kernel[id] = &kernel;
}
