/* Any bytes as GGUF. */
#include "weights_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return check_weights(data, size, "fuzz.gguf");
}
