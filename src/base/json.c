/* Strict JSON with messages that know the line. */
#include "base/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/string.h"

/* ---- parsing ------------------------------------------------------------------------ */

/* The line where nesting passes the limit, or 0. Runs before the parser, whose own limit is far
 * higher. */
static int too_deep_line(const char *text, size_t size)
{
    int line = 1, depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (c == '\n') line++;
        if (in_string) {
            if (c == '\\') i++;
            else if (c == '"') in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > TN_JSON_MAX_DEPTH) return line;
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return 0;
}

/* Takes `text` (malloc'ed, NUL behind it) over. */
static tn_status parse_owned(const char *name, char *text, size_t size, tn_json *json)
{
    tn_status status = TN_OK;
    int line = too_deep_line(text, size);
    json_error_t error;
    *json = (tn_json){.name = strdup(name), .text = text, .size = size};
    if (!json->name) {
        status = tn_fail(TN_MEMORY, "%s: out of memory", name);
    } else if (memchr(text, '\0', size)) { /* jansson lets one pass behind a number */
        line = 1;
        for (const char *c = text; *c; c++) line += *c == '\n';
        status = tn_fail(TN_FORMAT, "%s:%d: not valid JSON: a NUL byte", name, line);
    } else if (line > 0) {
        status = tn_fail(TN_FORMAT, "%s:%d: JSON nested deeper than %d levels", name, line,
                         TN_JSON_MAX_DEPTH);
    } else {
        json->root = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
        if (!json->root && json_error_code(&error) == json_error_out_of_memory)
            status = tn_fail(TN_MEMORY, "%s: out of memory", name);
        else if (!json->root)
            status = tn_fail(TN_FORMAT, "%s:%d: not valid JSON: %s", name,
                             error.line > 0 ? error.line : 1, error.text);
    }
    if (status != TN_OK) tn_json_free(json);
    return status;
}

tn_status tn_json_parse(const char *name, const char *text, size_t size, tn_json *json)
{
    *json = (tn_json){0};
    char *copy = size < SIZE_MAX ? malloc(size + 1) : NULL;
    if (!copy) return tn_fail(TN_MEMORY, "%s: out of memory: %zu bytes wanted", name, size);
    if (size > 0) memcpy(copy, text, size);
    copy[size] = '\0';
    return parse_owned(name, copy, size, json);
}

tn_status tn_json_load(const char *path, size_t limit, tn_json *json)
{
    *json = (tn_json){0};
    char *text;
    size_t size;
    TN_TRY(tn_file_read(path, limit, &text, &size));
    return parse_owned(path, text, size, json);
}

void tn_json_free(tn_json *json)
{
    json_decref(json->root);
    free(json->name);
    free(json->text);
    *json = (tn_json){0};
}

/* ---- finding lines ------------------------------------------------------------------
 * A second walk over the text, side by side with the parsed values, until the wanted one is met.
 * The text is known to be valid, so that the walk needs no checks of its own. Depth is bounded by
 * TN_JSON_MAX_DEPTH. */

typedef struct walk {
    const char *at;
    const char *found;
    const json_t *object; /* wanted: this value, */
    const char *key;      /* or this key of it */
} walk;

static void skip_space(walk *w) { w->at += strspn(w->at, " \t\r\n"); }

static void skip_string(walk *w)
{
    for (w->at++; *w->at != '"'; w->at++)
        if (*w->at == '\\') w->at++;
    w->at++;
}

static void find(walk *w, const json_t *value);

static void find_in_object(walk *w, const json_t *value)
{
    for (w->at++;; w->at++) {
        skip_space(w);
        if (*w->at != '"') break; /* an empty object's brace */
        const char *start = w->at;
        skip_string(w);
        json_t *key = json_loadb(start, (size_t)(w->at - start), JSON_DECODE_ANY, NULL);
        const char *key_text = json_string_value(key);
        if (value == w->object && w->key && key_text && strcmp(key_text, w->key) == 0)
            w->found = start;
        const json_t *member = key_text ? json_object_get(value, key_text) : NULL;
        json_decref(key);
        skip_space(w);
        w->at++; /* the colon */
        skip_space(w);
        if (!w->found) find(w, member);
        if (w->found) return;
        skip_space(w);
        if (*w->at != ',') break;
    }
    w->at++;
}

static void find_in_array(walk *w, const json_t *value)
{
    w->at++;
    for (size_t i = 0; i < json_array_size(value); i++) {
        skip_space(w);
        find(w, json_array_get(value, i));
        if (w->found) return;
        skip_space(w);
        if (*w->at == ',') w->at++;
    }
    skip_space(w);
    w->at++;
}

static void find(walk *w, const json_t *value)
{
    skip_space(w);
    if (value == w->object && !w->key) {
        w->found = w->at;
        return;
    }
    switch (*w->at) {
    case '{': find_in_object(w, value); break;
    case '[': find_in_array(w, value); break;
    case '"': skip_string(w); break;
    default: w->at += strcspn(w->at, ",]} \t\r\n"); break;
    }
}

int tn_json_line(const tn_json *json, const json_t *object, const char *key)
{
    if (!json->text || !json->root || !object) return 0;
    walk w = {.at = json->text, .object = object, .key = key};
    find(&w, json->root);
    if (!w.found) return 0;
    int line = 1;
    for (const char *c = json->text; c < w.found; c++) line += *c == '\n';
    return line;
}

tn_status tn_json_fail(const tn_json *json, const json_t *object, const char *key,
                       const char *format, ...)
{
    tn_string text = {0};
    int line = tn_json_line(json, object, key);
    if (line == 0) line = tn_json_line(json, object, NULL);
    tn_string_add(&text, json->name ? json->name : "JSON");
    if (line > 0) tn_string_format(&text, ":%d", line);
    tn_string_add(&text, ": ");
    if (key) tn_string_format(&text, "field \"%s\" ", key);
    va_list arguments;
    va_start(arguments, format);
    tn_string_vformat(&text, format, arguments);
    va_end(arguments);
    tn_status status = tn_fail(TN_FORMAT, "%s", tn_string_text(&text));
    tn_string_free(&text);
    return status;
}

/* ---- getters ------------------------------------------------------------------------ */

/* A value for a message: short, on one line. `text` has room for 64 bytes. */
static const char *shown(const json_t *value, char *text)
{
    enum { ROOM = 64, LONGEST = 40 };
    if (json_is_object(value)) return "an object";
    if (json_is_array(value)) return "an array";
    char *dump = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    if (!dump) return "something else";
    size_t length = strlen(dump);
    snprintf(text, ROOM, "%.*s%s", LONGEST, dump, length > LONGEST ? "..." : "");
    free(dump);
    return text;
}

/* The member, or NULL with *status saying whether that is an error. */
static json_t *member(const tn_json *json, const json_t *object, const char *key, tn_json_need need,
                      const char *wanted, tn_status *status)
{
    *status = TN_OK;
    if (!json_is_object(object)) {
        *status = tn_json_fail(json, object, NULL, "an object with field \"%s\" must stand here",
                               key);
        return NULL;
    }
    json_t *value = json_object_get(object, key);
    if (value && !json_is_null(value)) return value;
    if (need == TN_JSON_REQUIRED)
        *status = tn_json_fail(json, object, key,
                               value ? "must be %s, not null" : "is missing; it must be %s",
                               wanted);
    return NULL;
}

static tn_status wrong(const tn_json *json, const json_t *object, const char *key,
                       const char *wanted, const json_t *value)
{
    char text[64];
    return tn_json_fail(json, object, key, "must be %s, not %s", wanted, shown(value, text));
}

tn_status tn_json_string(const tn_json *json, const json_t *object, const char *key,
                         tn_json_need need, const char **out)
{
    tn_status status;
    json_t *value = member(json, object, key, need, "a string", &status);
    if (!value) return status;
    if (!json_is_string(value)) return wrong(json, object, key, "a string", value);
    *out = json_string_value(value);
    return TN_OK;
}

tn_status tn_json_integer(const tn_json *json, const json_t *object, const char *key,
                          tn_json_need need, int64_t low, int64_t high, int64_t *out)
{
    tn_status status;
    char wanted[96];
    if (high == INT64_MAX && low == INT64_MIN) snprintf(wanted, sizeof wanted, "a whole number");
    else if (high == INT64_MAX)
        snprintf(wanted, sizeof wanted, "a whole number, %" PRId64 " or more", low);
    else snprintf(wanted, sizeof wanted, "a whole number from %" PRId64 " to %" PRId64, low, high);
    json_t *value = member(json, object, key, need, wanted, &status);
    if (!value) return status;
    int64_t number = json_integer_value(value);
    if (json_is_real(value)) {
        double real = json_real_value(value);
        if (!(fabs(real) <= 0x1p53) || real != floor(real))
            return wrong(json, object, key, wanted, value);
        number = (int64_t)real;
    } else if (!json_is_integer(value)) {
        return wrong(json, object, key, wanted, value);
    }
    if (number < low || number > high) return wrong(json, object, key, wanted, value);
    *out = number;
    return TN_OK;
}

tn_status tn_json_number(const tn_json *json, const json_t *object, const char *key,
                         tn_json_need need, double low, double high, double *out)
{
    tn_status status;
    char wanted[96];
    if (isinf(low) && isinf(high)) snprintf(wanted, sizeof wanted, "a number");
    else if (isinf(high)) snprintf(wanted, sizeof wanted, "a number, %g or more", low);
    else if (isinf(low)) snprintf(wanted, sizeof wanted, "a number, %g or less", high);
    else snprintf(wanted, sizeof wanted, "a number from %g to %g", low, high);
    json_t *value = member(json, object, key, need, wanted, &status);
    if (!value) return status;
    if (!json_is_number(value)) return wrong(json, object, key, wanted, value);
    double number = json_number_value(value);
    if (number < low || number > high) return wrong(json, object, key, wanted, value);
    *out = number;
    return TN_OK;
}

tn_status tn_json_boolean(const tn_json *json, const json_t *object, const char *key,
                          tn_json_need need, bool *out)
{
    tn_status status;
    json_t *value = member(json, object, key, need, "true or false", &status);
    if (!value) return status;
    if (!json_is_boolean(value)) return wrong(json, object, key, "true or false", value);
    *out = json_is_true(value);
    return TN_OK;
}

tn_status tn_json_object(const tn_json *json, const json_t *object, const char *key,
                         tn_json_need need, json_t **out)
{
    tn_status status;
    json_t *value = member(json, object, key, need, "an object", &status);
    if (!value) return status;
    if (!json_is_object(value)) return wrong(json, object, key, "an object", value);
    *out = value;
    return TN_OK;
}

tn_status tn_json_array(const tn_json *json, const json_t *object, const char *key,
                        tn_json_need need, json_t **out)
{
    tn_status status;
    json_t *value = member(json, object, key, need, "an array", &status);
    if (!value) return status;
    if (!json_is_array(value)) return wrong(json, object, key, "an array", value);
    *out = value;
    return TN_OK;
}

tn_status tn_json_choice(const tn_json *json, const json_t *object, const char *key,
                         tn_json_need need, const char *const *word, size_t count, int *out)
{
    tn_string wanted = {0};
    tn_string_add(&wanted, "one of");
    for (size_t i = 0; i < count; i++)
        tn_string_format(&wanted, "%s \"%s\"", i ? "," : "", word[i]);
    tn_status status;
    json_t *value = member(json, object, key, need, tn_string_text(&wanted), &status);
    const char *text = json_string_value(value);
    bool found = false;
    for (size_t i = 0; text && !found && i < count; i++) {
        found = strcmp(text, word[i]) == 0;
        if (found) *out = (int)i;
    }
    if (value && !found) status = wrong(json, object, key, tn_string_text(&wanted), value);
    tn_string_free(&wanted);
    return status;
}

tn_status tn_json_only(const tn_json *json, const json_t *object, const char *const *known,
                       size_t count)
{
    for (void *i = json_object_iter((json_t *)(uintptr_t)object); i;
         i = json_object_iter_next((json_t *)(uintptr_t)object, i)) {
        const char *key = json_object_iter_key(i);
        bool found = false;
        for (size_t k = 0; !found && k < count; k++) found = strcmp(key, known[k]) == 0;
        if (found) continue;
        const char *hint = tn_closest(key, known, count);
        if (hint) return tn_json_fail(json, object, key, "is unknown; did you mean \"%s\"?", hint);
        return tn_json_fail(json, object, key, "is unknown");
    }
    return TN_OK;
}

/* ---- writing ------------------------------------------------------------------------ */

tn_status tn_json_save(const char *path, const json_t *value)
{
    char *text = json_dumps(value, JSON_INDENT(2) | JSON_ENCODE_ANY);
    if (!text) return tn_fail(TN_INVALID, "cannot write %s: the value has no JSON form", path);
    tn_file_writer *writer;
    tn_status status = tn_file_begin(path, &writer);
    if (status == TN_OK) {
        tn_file_write(writer, text, strlen(text));
        tn_file_write(writer, "\n", 1);
        status = tn_file_commit(writer);
    }
    free(text);
    return status;
}
