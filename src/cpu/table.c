/* The CPU backend: the own kernels of the chosen instruction set, and oneDNN's products. */
#include <pthread.h>

#include "graph/kernel.h"
#include "tenon/machine.h"

void tn_cpu_onednn_product(tn_kernel_table *table);

#if defined(__x86_64__)
void tn_cpu_all_v2(tn_kernel_table *table);
void tn_cpu_all_v3(tn_kernel_table *table);
void tn_cpu_all_v4(tn_kernel_table *table);
static void (*const fill_of[])(tn_kernel_table *) = {
    [TN_ISA_BASE] = tn_cpu_all_v2,
    [TN_ISA_V2] = tn_cpu_all_v2,
    [TN_ISA_V3] = tn_cpu_all_v3,
    [TN_ISA_V4] = tn_cpu_all_v4,
};
#else
void tn_cpu_all_base(tn_kernel_table *table);
static void (*const fill_of[])(tn_kernel_table *) = {[TN_ISA_BASE] = tn_cpu_all_base};
#endif

static tn_kernel_table table;

/* A TENON_ISA that makes no sense is reported where it is asked for (`tenon info`, tn_compile); here the base is safe. */
static void fill(void)
{
    tn_isa isa = TN_ISA_BASE;
    tn_isa_chosen(&isa);
    fill_of[isa](&table);
    tn_cpu_onednn_product(&table);
}

const tn_kernel_table *tn_cpu_kernels(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill);
    return &table;
}
