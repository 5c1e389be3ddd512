/* Any bytes as a llama2.c model (or whatever else a .bin turns out to be). */
#include "weights_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return check_weights(data, size, "fuzz.bin");
}
