/* UTF-8 as RFC 3629 has it, and classes of characters. */
#include "data/byte_builder.h"

#include "data/unicode.h"

static void test_utf8(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        int length;
        uint32_t point;
    } cases[] = {
        {"a", 1, 1, 'a'},
        {"\0", 1, 1, 0},
        {"\x7f", 1, 1, 0x7f},
        {"\xc2\x80", 2, 2, 0x80},
        {"\xdf\xbf", 2, 2, 0x7ff},
        {"\xe0\xa0\x80", 3, 3, 0x800},
        {"\xed\x9f\xbf", 3, 3, 0xd7ff},
        {"\xee\x80\x80", 3, 3, 0xe000},
        {"\xef\xbf\xbf", 3, 3, 0xffff},
        {"\xf0\x90\x80\x80", 4, 4, 0x10000},
        {"\xf4\x8f\xbf\xbf", 4, 4, 0x10ffff},
        {"", 0, 0, 0},
        {"\x80", 1, 0, 0},             /* a continuation alone */
        {"\xc2", 1, 0, 0},             /* cut off */
        {"\xe2\x96", 2, 0, 0},         /* cut off */
        {"\xf0\x9f\x98", 3, 0, 0},     /* cut off */
        {"\xc2\x41", 2, 0, 0},         /* no continuation */
        {"\xe2\x96\xc1", 3, 0, 0},     /* no continuation */
        {"\xc0\x80", 2, 0, 0},         /* overlong */
        {"\xc1\xbf", 2, 0, 0},         /* overlong */
        {"\xe0\x9f\xbf", 3, 0, 0},     /* overlong */
        {"\xf0\x8f\xbf\xbf", 4, 0, 0}, /* overlong */
        {"\xed\xa0\x80", 3, 0, 0},     /* a surrogate */
        {"\xed\xbf\xbf", 3, 0, 0},     /* a surrogate */
        {"\xf4\x90\x80\x80", 4, 0, 0}, /* beyond U+10FFFF */
        {"\xf5\x80\x80\x80", 4, 0, 0},
        {"\xff", 1, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t point = 0;
        builder b = {0};
        put(&b, cases[i].bytes, cases[i].size);
        uint8_t *bytes = exact(&b, b.size);
        if (tn_utf8_decode(bytes, b.size, &point) != cases[i].length || point != cases[i].point)
            fail_msg("case %zu", i);
        free(bytes);
        builder_free(&b);
    }
}

static void test_classes(void **state)
{
    (void)state;
    static const struct {
        uint32_t point;
        tn_character class;
    } cases[] = {
        {'a', TN_CHARACTER_LETTER},     {'Z', TN_CHARACTER_LETTER},
        {'0', TN_CHARACTER_NUMBER},     {'9', TN_CHARACTER_NUMBER},
        {'/', TN_CHARACTER_OTHER},      {':', TN_CHARACTER_OTHER},
        {'@', TN_CHARACTER_OTHER},      {'[', TN_CHARACTER_OTHER},
        {'`', TN_CHARACTER_OTHER},      {'{', TN_CHARACTER_OTHER},
        {' ', TN_CHARACTER_SPACE},      {'\t', TN_CHARACTER_SPACE},
        {'\r', TN_CHARACTER_SPACE},     {'\x1f', TN_CHARACTER_OTHER},
        {0, TN_CHARACTER_OTHER},        {0x85, TN_CHARACTER_SPACE},
        {0xa0, TN_CHARACTER_SPACE},     {0xaa, TN_CHARACTER_LETTER},
        {0xb2, TN_CHARACTER_NUMBER},    {0xb5, TN_CHARACTER_LETTER},
        {0xbd, TN_CHARACTER_NUMBER},    {0xd7, TN_CHARACTER_OTHER},
        {0xe9, TN_CHARACTER_LETTER},    {0x301, TN_CHARACTER_OTHER},
        {0x416, TN_CHARACTER_LETTER},   {0x5d0, TN_CHARACTER_LETTER},
        {0x661, TN_CHARACTER_NUMBER},   {0x1680, TN_CHARACTER_SPACE},
        {0x17b6, TN_CHARACTER_OTHER},   {0x2003, TN_CHARACTER_SPACE},
        {0x200b, TN_CHARACTER_OTHER},   {0x2028, TN_CHARACTER_SPACE},
        {0x2160, TN_CHARACTER_NUMBER},  {0x3000, TN_CHARACTER_SPACE},
        {0x4e00, TN_CHARACTER_LETTER},  {0x9fff, TN_CHARACTER_LETTER},
        {0xac00, TN_CHARACTER_LETTER},  {0xd7a4, TN_CHARACTER_OTHER},
        {0xff5e, TN_CHARACTER_OTHER},   {0x1d7ff, TN_CHARACTER_NUMBER},
        {0x1f600, TN_CHARACTER_OTHER},  {0x2a6d6, TN_CHARACTER_LETTER},
        {0x3134a, TN_CHARACTER_LETTER}, {0x10ffff, TN_CHARACTER_OTHER},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (tn_character_of(cases[i].point) != cases[i].class)
            fail_msg("U+%04X is of class %d", (unsigned)cases[i].point,
                     (int)tn_character_of(cases[i].point));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_classes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
