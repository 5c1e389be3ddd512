/* The thread-local message behind tn_status. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tenon/version.h"

enum { MESSAGE_SIZE = 2048 };

static _Thread_local char message[MESSAGE_SIZE];

const char *tn_version(void) { return TN_VERSION; }

const char *tn_message(void) { return message; }

const char *tn_status_name(tn_status status)
{
    switch (status) {
    case TN_OK: return "ok";
    case TN_INVALID: return "invalid";
    case TN_FORMAT: return "format";
    case TN_IO: return "io";
    case TN_MEMORY: return "memory";
    case TN_UNSUPPORTED: return "unsupported";
    case TN_INTERRUPTED: return "interrupted";
    }
    return "unknown";
}

/* Names out of a hostile file end up in messages, and messages end up on terminals: no control
 * character passes. */
static void disarm(char *text)
{
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
}

/* Stores "prefixrest"; too long a text ends in "...". `prefix` and `rest` do not lie in `message`.
 */
static void store(const char *prefix, const char *rest)
{
    int n = snprintf(message, sizeof message, "%s%s", prefix, rest);
    if (n >= MESSAGE_SIZE) memcpy(message + MESSAGE_SIZE - 4, "...", 4);
    disarm(message);
}

tn_status tn_fail(tn_status status, const char *format, ...)
{
    char text[MESSAGE_SIZE]; /* apart, because an argument may be tn_message() itself */
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (n < 0) text[0] = '\0';
    store("", text);
    if (n >= MESSAGE_SIZE) memcpy(message + MESSAGE_SIZE - 4, "...", 4);
    return status;
}

tn_status tn_fail_in(tn_status status, const char *format, ...)
{
    char prefix[MESSAGE_SIZE], rest[MESSAGE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(prefix, sizeof prefix - 2, format, arguments);
    va_end(arguments);
    if (n < 0) prefix[0] = '\0';
    strcat(prefix, ": ");
    memcpy(rest, message, sizeof rest);
    store(prefix, rest);
    return status;
}
