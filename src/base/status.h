/* Setting the thread-local message. */
#ifndef TN_BASE_STATUS_H
#define TN_BASE_STATUS_H

#include "tenon/status.h"

#if defined(__GNUC__)
#define TN_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define TN_PRINTF(format_index, first)
#endif

/* Sets this thread's message and returns `status`, so that a failing line reads
 *     return tn_fail(TN_FORMAT, "%s:%d: ...", path, line); */
tn_status tn_fail(tn_status status, const char *format, ...) TN_PRINTF(2, 3);

/* Puts "`prefix`: " before the present message: for callers that know more of the place. Returns `status`. */
tn_status tn_fail_in(tn_status status, const char *format, ...) TN_PRINTF(2, 3);

/* Returns from the enclosing function when `call` fails. */
#define TN_TRY(call)                                                                               \
    do {                                                                                           \
        tn_status tn_try_status_ = (call);                                                         \
        if (tn_try_status_ != TN_OK) return tn_try_status_;                                        \
    } while (0)

#endif
