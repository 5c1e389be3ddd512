/* What tokenizers must know of Unicode: UTF-8, and what is a letter, a number, a space. */
#ifndef TN_DATA_UNICODE_H
#define TN_DATA_UNICODE_H

#include <stddef.h>
#include <stdint.h>

/* Bytes (1-4) of the UTF-8 character at the beginning of `text`, and its code point; 0 if there is
 * none: cut off, overlong, a surrogate, beyond U+10FFFF, or `size` 0. */
int tn_utf8_decode(const uint8_t *text, size_t size, uint32_t *point);

typedef enum tn_character {
    TN_CHARACTER_OTHER = 0,
    TN_CHARACTER_LETTER, /* general category L */
    TN_CHARACTER_NUMBER, /* general category N */
    TN_CHARACTER_SPACE,  /* property White_Space */
} tn_character;

tn_character tn_character_of(uint32_t point);

#endif
