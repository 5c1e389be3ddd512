/* UTF-8 and character classes.
 * Source: RFC 3629; Unicode Character Database (unicode_table.h says which version). */
#include "data/unicode.h"

enum { L = TN_CHARACTER_LETTER, N = TN_CHARACTER_NUMBER };

#include "data/unicode_table.h"

enum { RANGES = sizeof ranges / sizeof *ranges };

int tn_utf8_decode(const uint8_t *text, size_t size, uint32_t *point)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800,
                                      0x10000}; /* of each length: less would be overlong */
    if (size == 0) return 0;
    uint8_t lead = text[0];
    if (lead < 0x80) {
        *point = lead;
        return 1;
    }
    int length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || (size_t)length > size) return 0;
    uint32_t value = lead & (0xffU >> (length + 1));
    for (int i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) return 0;
        value = value << 6 | (text[i] & 0x3f);
    }
    if (value < least[length] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) return 0;
    *point = value;
    return length;
}

static int is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

tn_character tn_character_of(uint32_t point)
{
    if (point < 0x80) { /* nearly all of most texts */
        if ((point | 0x20) >= 'a' && (point | 0x20) <= 'z') return TN_CHARACTER_LETTER;
        if (point >= '0' && point <= '9') return TN_CHARACTER_NUMBER;
        return is_space(point) ? TN_CHARACTER_SPACE : TN_CHARACTER_OTHER;
    }
    if (is_space(point)) return TN_CHARACTER_SPACE;
    int low = 0, high = RANGES;
    while (low < high) {
        int middle = (low + high) / 2;
        if (point > ranges[middle].last) low = middle + 1;
        else high = middle;
    }
    return low < RANGES && point >= ranges[low].first ? (tn_character)ranges[low].class
                                                      : TN_CHARACTER_OTHER;
}
