/* Hashes: FNV-1a for names, CRC32C for damage, SHA-256 for identity. */
#ifndef TN_BASE_HASH_H
#define TN_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* FNV-1a, 64 bits.  Source: Fowler, Noll, Vo; IETF draft-eastlake-fnv. */
uint64_t tn_fnv1a(const void *bytes, size_t size);
/* The same, continued from `hash` (start with TN_FNV1A_START). */
uint64_t tn_fnv1a_more(uint64_t hash, const void *bytes, size_t size);
#define TN_FNV1A_START UINT64_C(0xcbf29ce484222325)

/* CRC-32C (Castagnoli), continued from `crc` (0 to start): crc(a then b) = more(more(0, a), b).
 * Source: RFC 3720, appendix B.4. Uses SSE4.2's instruction where the processor has it. */
uint32_t tn_crc32c(uint32_t crc, const void *bytes, size_t size);
/* The same without special instructions: what the other is tested against. */
uint32_t tn_crc32c_portable(uint32_t crc, const void *bytes, size_t size);

/* SHA-256.  Source: FIPS 180-4. */
typedef struct tn_sha256 {
    uint32_t state[8];
    uint64_t size;      /* bytes so far */
    uint8_t buffer[64]; /* the unfinished block */
} tn_sha256;

void tn_sha256_begin(tn_sha256 *sha);
void tn_sha256_add(tn_sha256 *sha, const void *bytes, size_t size);
void tn_sha256_end(tn_sha256 *sha, uint8_t digest[32]);
/* 64 lower-case hexadecimal digits and a NUL. */
void tn_sha256_hex(const uint8_t digest[32], char text[65]);

#endif
