/* The log callback. */
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static tn_log_callback listener;
static void *listener_context;
static atomic_int most_level =
    -1; /* read without the lock, so that an unwanted message costs one load */

void tn_log_to(tn_log_callback callback, void *context, tn_log_level most)
{
    pthread_mutex_lock(&lock);
    listener = callback;
    listener_context = context;
    atomic_store(&most_level, callback ? (int)most : -1);
    pthread_mutex_unlock(&lock);
}

const char *tn_log_level_name(tn_log_level level)
{
    switch (level) {
    case TN_LOG_ERROR: return "error";
    case TN_LOG_WARNING: return "warning";
    case TN_LOG_INFO: return "info";
    case TN_LOG_DEBUG: return "debug";
    }
    return "unknown";
}

bool tn_log_wanted(tn_log_level level)
{
    return (int)level <= atomic_load_explicit(&most_level, memory_order_relaxed);
}

void tn_log_line(tn_log_level level, const char *format, ...)
{
    if (!tn_log_wanted(level)) return;
    int saved = errno;
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    pthread_mutex_lock(&lock);
    if (n >= 0 && listener) listener(listener_context, level, line);
    pthread_mutex_unlock(&lock);
    errno = saved;
}
