/* Saying something to whoever listens. */
#ifndef TN_BASE_LOG_H
#define TN_BASE_LOG_H

#include <stdbool.h>

#include "base/status.h"
#include "tenon/log.h"

/* Formats one line for the callback, if there is one for this level. Lines beyond 1023 bytes are
 * cut. Keeps errno and the thread's message. */
void tn_log_line(tn_log_level level, const char *format, ...) TN_PRINTF(2, 3);
/* Whether anybody would get it: for messages that are costly to make. */
bool tn_log_wanted(tn_log_level level);

#endif
