/* FNV-1a, CRC32C and SHA-256. */
#include "base/hash.h"

#include <string.h>

#ifdef __x86_64__
#include <nmmintrin.h>
#endif

uint64_t tn_fnv1a_more(uint64_t hash, const void *bytes, size_t size)
{
    const unsigned char *p = bytes;
    for (size_t i = 0; i < size; i++) hash = (hash ^ p[i]) * UINT64_C(0x100000001b3);
    return hash;
}

uint64_t tn_fnv1a(const void *bytes, size_t size)
{
    return tn_fnv1a_more(TN_FNV1A_START, bytes, size);
}

/* ---- CRC32C ------------------------------------------------------------------------- */

/* Where the processor has the instruction (x86-64-v2 and up) it is used; found out at every call,
 * which costs a load. */
#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_INSTRUCTION __attribute__((target("sse4.2")))
#endif

#ifdef HAVE_INSTRUCTION
HAVE_INSTRUCTION
static uint32_t by_instruction(uint32_t crc, const unsigned char *p, size_t size)
{
    uint64_t c = crc;
    for (; size >= 8; size -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        c = _mm_crc32_u64(c, word);
    }
    crc = (uint32_t)c;
    for (; size > 0; size--, p++) crc = _mm_crc32_u8(crc, *p);
    return crc;
}
#endif

/* The reflected polynomial 0x82f63b78, half a byte at a time: 64 bytes of table, no initialisation,
 * no threads to keep apart. */
static const uint32_t crc_of_nibble[16] = {
    0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
    0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
};

static uint32_t by_table(uint32_t crc, const unsigned char *p, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        crc ^= p[i];
        crc = (crc >> 4) ^ crc_of_nibble[crc & 15];
        crc = (crc >> 4) ^ crc_of_nibble[crc & 15];
    }
    return crc;
}

uint32_t tn_crc32c_portable(uint32_t crc, const void *bytes, size_t size)
{
    return ~by_table(~crc, bytes, size);
}

uint32_t tn_crc32c(uint32_t crc, const void *bytes, size_t size)
{
#ifdef HAVE_INSTRUCTION
    if (__builtin_cpu_supports("sse4.2")) return ~by_instruction(~crc, bytes, size);
#endif
    return tn_crc32c_portable(crc, bytes, size);
}

/* ---- SHA-256 ------------------------------------------------------------------------ */

static const uint32_t round_constant[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate(uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }

static void compress(uint32_t state[8], const uint8_t *block)
{
    uint32_t w[64];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | (uint32_t)block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ (w[i - 15] >> 3);
        uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ (w[i - 2] >> 10);
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i++) {
        uint32_t s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
        uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + round_constant[i] + w[i];
        uint32_t s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
        uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1;
        d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

void tn_sha256_begin(tn_sha256 *sha)
{
    *sha = (tn_sha256){.state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f,
                                 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
}

void tn_sha256_add(tn_sha256 *sha, const void *bytes, size_t size)
{
    const uint8_t *p = bytes;
    size_t filled = sha->size % 64;
    sha->size += size;
    if (filled > 0) {
        size_t take = size < 64 - filled ? size : 64 - filled;
        memcpy(sha->buffer + filled, p, take);
        p += take, size -= take;
        if (filled + take < 64) return;
        compress(sha->state, sha->buffer);
    }
    for (; size >= 64; p += 64, size -= 64) compress(sha->state, p);
    if (size > 0) memcpy(sha->buffer, p, size);
}

void tn_sha256_end(tn_sha256 *sha, uint8_t digest[32])
{
    uint64_t bits = sha->size * 8;
    uint8_t padding[72] = {0x80};
    size_t filled = sha->size % 64;
    size_t zeros = (filled < 56 ? 56 : 120) - filled;
    for (size_t i = 0; i < 8; i++) padding[zeros + i] = (uint8_t)(bits >> (56 - 8 * i));
    tn_sha256_add(sha, padding, zeros + 8);
    for (size_t i = 0; i < 32; i++) digest[i] = (uint8_t)(sha->state[i / 4] >> (24 - 8 * (i % 4)));
}

void tn_sha256_hex(const uint8_t digest[32], char text[65])
{
    static const char digit[] = "0123456789abcdef";
    for (size_t i = 0; i < 32; i++) {
        text[2 * i] = digit[digest[i] >> 4];
        text[2 * i + 1] = digit[digest[i] & 15];
    }
    text[64] = '\0';
}
