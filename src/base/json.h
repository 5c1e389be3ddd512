/* JSON from files that may be wrong: typed getters over jansson whose messages read
 *     config.json:14: field "num_heads" must be a whole number from 1 to 1024, not "eight" */
#ifndef TN_BASE_JSON_H
#define TN_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* A parsed document with its text, which messages need to find lines. */
typedef struct tn_json {
    json_t *root; /* freed with the document */
    char *name;   /* the path, or what the text was called */
    char *text;
    size_t size;
} tn_json;

enum { TN_JSON_MAX_DEPTH = 64 };

/* Parses `size` bytes (copied) called `name` in messages. Errors, all TN_FORMAT with name:line:
 * bytes that are not strict UTF-8 JSON, duplicate keys, nesting deeper than TN_JSON_MAX_DEPTH,
 * anything behind the value. */
tn_status tn_json_parse(const char *name, const char *text, size_t size, tn_json *json);
/* The same from a file of at most `limit` bytes. */
tn_status tn_json_load(const char *path, size_t limit, tn_json *json);
/* A zeroed or freed document is left alone. */
void tn_json_free(tn_json *json);

/* The line (from 1) where `key` of `object` stands; key NULL: where `object` (or any value of the
 * document) begins. 0 if it is not there. Cost: a walk over the text; for messages only. */
int tn_json_line(const tn_json *json, const json_t *object, const char *key);

/* Fails with "name:line: field "key" " and the formatted rest (key NULL: without the field). A
 * missing key is reported at the line of its object. */
tn_status tn_json_fail(const tn_json *json, const json_t *object, const char *key,
                       const char *format, ...) TN_PRINTF(4, 5);

/* ---- getters ------------------------------------------------------------------------
 * Each looks up `key` in `object` and checks the type. A missing key (or null) is an error when
 * REQUIRED, and leaves *out alone when OPTIONAL. Strings and containers belong to the document.
 * Errors: TN_FORMAT. */
typedef enum tn_json_need { TN_JSON_OPTIONAL, TN_JSON_REQUIRED } tn_json_need;

tn_status tn_json_string(const tn_json *json, const json_t *object, const char *key,
                         tn_json_need need, const char **out);
/* A whole number in [low, high]; 3.0 counts as whole. */
tn_status tn_json_integer(const tn_json *json, const json_t *object, const char *key,
                          tn_json_need need, int64_t low, int64_t high, int64_t *out);
/* A number in [low, high]; whole or not. */
tn_status tn_json_number(const tn_json *json, const json_t *object, const char *key,
                         tn_json_need need, double low, double high, double *out);
tn_status tn_json_boolean(const tn_json *json, const json_t *object, const char *key,
                          tn_json_need need, bool *out);
tn_status tn_json_object(const tn_json *json, const json_t *object, const char *key,
                         tn_json_need need, json_t **out);
tn_status tn_json_array(const tn_json *json, const json_t *object, const char *key,
                        tn_json_need need, json_t **out);
/* One of the words; *out is its index. */
tn_status tn_json_choice(const tn_json *json, const json_t *object, const char *key,
                         tn_json_need need, const char *const *word, size_t count, int *out);

/* Fails on a key of `object` that is not among `known`, with the nearest known one as a hint. */
tn_status tn_json_only(const tn_json *json, const json_t *object, const char *const *known,
                       size_t count);

/* ---- writing ------------------------------------------------------------------------ */

/* Writes `value` indented by two, keys in their order, a newline at the end, by tn_file_save.
 * TN_INVALID if it cannot be written as JSON. */
tn_status tn_json_save(const char *path, const json_t *value);

#endif
