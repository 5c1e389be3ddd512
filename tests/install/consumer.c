/* A program of somebody else's: against the installed headers and library only. */
#include <stdio.h>
#include <string.h>

#include "tenon/machine.h"
#include "tenon/random.h"
#include "tenon/version.h"

int main(void)
{
    uint32_t word[4];
    tn_machine machine;
    tn_philox(0, 0, 0, word);
    tn_machine_describe(&machine);
    printf("tenon %s, %d threads\n", tn_version(), machine.threads);
    return strcmp(tn_version(), TN_VERSION) == 0 && word[0] == 0x6627e8d5 ? 0 : 1;
}
