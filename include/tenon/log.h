/* Messages while something long runs. The library itself prints nothing: without a callback they go
 * nowhere. */
#ifndef TENON_LOG_H
#define TENON_LOG_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tn_log_level {
    TN_LOG_ERROR = 0, /* goes on, but the result will not be what was asked for */
    TN_LOG_WARNING,   /* a remedy exists and the user should know it */
    TN_LOG_INFO,      /* a milestone: loaded, resumed, saved */
    TN_LOG_DEBUG,
} tn_log_level;

/* Receives one line without a newline. Called on the thread that logs; calls never overlap. Must
 * not log itself. */
typedef void (*tn_log_callback)(void *context, tn_log_level level, const char *line);

/* From now on messages up to `most` (inclusive) go to `callback`; NULL: nowhere, which is the
 * default. For the whole process. `context` must live until the next call. */
void tn_log_to(tn_log_callback callback, void *context, tn_log_level most);

/* "error", "warning", "info", "debug". */
const char *tn_log_level_name(tn_log_level level);

#ifdef __cplusplus
}
#endif
#endif
