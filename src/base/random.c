/* Philox4x32-10 and what is drawn from it. */
#include "tenon/random.h"

#include <math.h>
#include <string.h>

#include "base/hash.h"

/* Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011;
 * constants from its table 2. Counter words: index low, index high, stream low, stream high; key
 * words: seed low, seed high. */
void tn_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t word[4])
{
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = UINT64_C(0xD2511F53) * c0;
        uint64_t p1 = UINT64_C(0xCD9E8D57) * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += UINT32_C(0x9E3779B9);
        k1 += UINT32_C(0xBB67AE85);
    }
    word[0] = c0, word[1] = c1, word[2] = c2, word[3] = c3;
}

uint32_t tn_random_u32(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t word[4];
    tn_philox(seed, stream, index / 4, word);
    return word[index % 4];
}

/* Words 2*index (low half) and 2*index+1 (high half) of the stream; 2*index is never formed, so it
 * cannot wrap. */
static uint64_t random_u64(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t word[4];
    tn_philox(seed, stream, index / 2, word);
    size_t first = index % 2 * 2;
    return word[first] | (uint64_t)word[first + 1] << 32;
}

float tn_random_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    return (float)(tn_random_u32(seed, stream, index) >> 8) * 0x1p-24F;
}

double tn_random_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    const double two_pi = 6.283185307179586476925;
    uint64_t bits = random_u64(seed, stream, index);
    double radius = sqrt(-2 *
                         log(((double)(uint32_t)bits + 1) * 0x1p-32)); /* (0, 1]: never log 0 */
    return radius * cos(two_pi * ((double)(bits >> 32) * 0x1p-32));
}

/* The high 64 bits of a*b. */
static uint64_t multiply_high(uint64_t a, uint64_t b)
{
    uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    uint64_t middle = a1 * b0 + (a0 * b0 >> 32);
    uint64_t carry = a0 * b1 + (uint32_t)middle;
    return a1 * b1 + (middle >> 32) + (carry >> 32);
}

uint64_t tn_random_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound)
{
    return multiply_high(random_u64(seed, stream, index), bound);
}

void tn_random_permutation(uint64_t seed, uint64_t stream, int64_t count, int64_t *permutation)
{
    for (int64_t i = 0; i < count; i++) permutation[i] = i;
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t j = (int64_t)tn_random_below(seed, stream, (uint64_t)i, (uint64_t)i + 1);
        int64_t t = permutation[i];
        permutation[i] = permutation[j];
        permutation[j] = t;
    }
}

int64_t tn_random_categorical(uint64_t seed, uint64_t stream, uint64_t index, const float *weight,
                              int64_t count)
{
    double total = 0;
    for (int64_t i = 0; i < count; i++) total += (double)weight[i];
    double rest = (double)(random_u64(seed, stream, index) >> 11) * 0x1p-53 * total;
    int64_t last =
        -1; /* the rounding of the sum can leave a rest: it belongs to the last possible index */
    for (int64_t i = 0; i < count; i++) {
        if (!(weight[i] > 0)) continue;
        last = i;
        rest -= (double)weight[i];
        if (rest < 0) break;
    }
    return last;
}

uint64_t tn_random_stream(const char *name) { return tn_fnv1a(name, strlen(name)); }
