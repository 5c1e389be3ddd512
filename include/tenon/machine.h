/* The machine and what of it is used: for reports, benchmarks and `tenon info`. */
#ifndef TENON_MACHINE_H
#define TENON_MACHINE_H

#include <stdint.h>

#include "tenon/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Instruction set levels that kernels are compiled for, in rising order. */
typedef enum tn_isa {
    TN_ISA_BASE = 1, /* what the compiler assumes of every machine of the kind */
    TN_ISA_V2,       /* x86-64-v2: SSE4.2 */
    TN_ISA_V3,       /* x86-64-v3: AVX2, FMA, F16C */
    TN_ISA_V4,       /* x86-64-v4: AVX-512 F, BW, CD, DQ, VL */
} tn_isa;

/* "base", "v2", "v3", "v4". */
const char *tn_isa_name(tn_isa isa);
/* The highest level of the running machine. */
tn_isa tn_isa_found(void);
/* The level to use: the found one, or what the environment's TENON_ISA says (base, v2, v3, v4).
 * TN_INVALID if that is no level; TN_UNSUPPORTED if the machine does not have it. */
tn_status tn_isa_chosen(tn_isa *isa);

typedef struct tn_machine {
    char processor[128]; /* the processor's name as the system gives it */
    char system[128];    /* name and release of the distribution */
    int processors;      /* that this process may run on */
    int threads;         /* that the library uses */
    tn_isa isa;          /* the highest level */
    int64_t memory;      /* bytes, within the control group's limit */
    int64_t l1, l2, l3;  /* data caches of one core, bytes; 0: unknown */
    char compiler[64];   /* that built the library */
    char onednn[32];     /* version that runs */
    char jansson[32];    /* version that was compiled against */
} tn_machine;

/* Looks at the machine. What cannot be found stays empty or 0. */
void tn_machine_describe(tn_machine *machine);

#ifdef __cplusplus
}
#endif
#endif
