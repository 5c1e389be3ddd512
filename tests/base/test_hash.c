/* Hashes against published values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "tenon/random.h"

static void sha_of(const void *bytes, size_t size, char text[65])
{
    tn_sha256 sha;
    uint8_t digest[32];
    tn_sha256_begin(&sha);
    tn_sha256_add(&sha, bytes, size);
    tn_sha256_end(&sha, digest);
    tn_sha256_hex(digest, text);
}

/* FIPS 180-4 examples of NIST. */
static void test_sha256(void **state)
{
    (void)state;
    char text[65];
    sha_of("", 0, text);
    assert_string_equal(text, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    sha_of("abc", 3, text);
    assert_string_equal(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, text);
    assert_string_equal(text, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    char *million = malloc(1000000);
    assert_non_null(million);
    memset(million, 'a', 1000000);
    sha_of(million, 1000000, text);
    assert_string_equal(text, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    free(million);
}

/* The same bytes in pieces of any sizes, around every block border. */
static void test_sha256_in_pieces(void **state)
{
    (void)state;
    uint8_t bytes[300];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)tn_random_u32(1, 2, i);
    for (size_t size = 0; size <= sizeof bytes; size++) {
        tn_sha256 sha;
        uint8_t digest[32];
        char whole[65], pieces[65];
        sha_of(bytes, size, whole);
        tn_sha256_begin(&sha);
        for (size_t at = 0, step; at < size; at += step) {
            step = 1 + (size_t)tn_random_below(3, size, at, 70);
            if (step > size - at) step = size - at;
            tn_sha256_add(&sha, bytes + at, step);
        }
        tn_sha256_end(&sha, digest);
        tn_sha256_hex(digest, pieces);
        assert_string_equal(whole, pieces);
    }
}

/* RFC 3720, appendix B.4. */
static void test_crc32c(void **state)
{
    (void)state;
    uint8_t bytes[32];
    memset(bytes, 0, 32);
    assert_int_equal(tn_crc32c(0, bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, 32);
    assert_int_equal(tn_crc32c(0, bytes, 32), 0x62a8ab43);
    for (size_t i = 0; i < 32; i++) bytes[i] = (uint8_t)i;
    assert_int_equal(tn_crc32c(0, bytes, 32), 0x46dd794e);
    for (size_t i = 0; i < 32; i++) bytes[i] = (uint8_t)(31 - i);
    assert_int_equal(tn_crc32c(0, bytes, 32), 0x113fdb5c);
    assert_int_equal(tn_crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(tn_crc32c_portable(0, "123456789", 9), 0xe3069283);
    assert_int_equal(tn_crc32c(0, "", 0), 0);
}

static void test_crc32c_pieces_and_portable(void **state)
{
    (void)state;
    uint8_t bytes[257];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)tn_random_u32(5, 6, i);
    uint32_t whole = tn_crc32c(0, bytes, sizeof bytes);
    for (size_t cut = 0; cut <= sizeof bytes; cut++) {
        uint32_t first = tn_crc32c(0, bytes, cut);
        assert_int_equal(first, tn_crc32c_portable(0, bytes, cut));
        assert_int_equal(tn_crc32c(first, bytes + cut, sizeof bytes - cut), whole);
    }
    bytes[100] ^= 1;
    assert_int_not_equal(tn_crc32c(0, bytes, sizeof bytes), whole);
}

/* Test vectors of the FNV page. */
static void test_fnv1a(void **state)
{
    (void)state;
    assert_true(tn_fnv1a("", 0) == UINT64_C(0xcbf29ce484222325));
    assert_true(tn_fnv1a("a", 1) == UINT64_C(0xaf63dc4c8601ec8c));
    assert_true(tn_fnv1a("foobar", 6) == UINT64_C(0x85944171f73967e8));
    assert_true(tn_fnv1a_more(tn_fnv1a("foo", 3), "bar", 3) == tn_fnv1a("foobar", 6));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256), cmocka_unit_test(test_sha256_in_pieces),
        cmocka_unit_test(test_crc32c), cmocka_unit_test(test_crc32c_pieces_and_portable),
        cmocka_unit_test(test_fnv1a),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
