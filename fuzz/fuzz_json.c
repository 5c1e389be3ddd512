/* Any bytes as JSON: parsed, every line found, every getter asked. */
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(const tn_json *json, json_t *value)
{
    const char *key;
    json_t *member;
    size_t i;
    int64_t n;
    double d;
    const char *s;
    static const char *const known[] = {"alpha", "beta"};
    /* every key has a line, and every refusal a message */
    json_object_foreach(value, key, member)
    {
        if (tn_json_line(json, value, key) < 1) __builtin_trap();
        tn_fail(TN_OK, "%s", "");
        if (tn_json_integer(json, value, key, TN_JSON_REQUIRED, 0, 10, &n) != TN_OK &&
            !*tn_message())
            __builtin_trap();
        tn_fail(TN_OK, "%s", "");
        if (tn_json_number(json, value, key, TN_JSON_REQUIRED, 0, 10, &d) != TN_OK &&
            !*tn_message())
            __builtin_trap();
        tn_json_string(json, value, key, TN_JSON_OPTIONAL, &s);
        walk(json, member);
    }
    json_array_foreach(value, i, member) walk(json, member);
    tn_json_only(json, value, known, 2);
}
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 4096) return 0; /* finding lines is quadratic here, as every key is asked */
    tn_json json;
    if (tn_json_parse("fuzz.json", (const char *)data, size, &json) != TN_OK) return 0;
    walk(&json, json.root);
    tn_json_free(&json);
    return 0;
}
