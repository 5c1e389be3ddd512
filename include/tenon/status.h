/* What a function that can fail returns, and where its message is.
 *
 * The library never prints, exits or aborts on bad input. A function that fails returns a code below and
 * leaves one sentence in thread-local storage: what failed, where (file:line, tensor, shape), what to do. */
#ifndef TENON_STATUS_H
#define TENON_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tn_status {
    TN_OK = 0,
    TN_INVALID,     /* an argument, option or shape that cannot be right */
    TN_FORMAT,      /* a file whose bytes contradict its format */
    TN_IO,          /* the operating system said no: missing file, full disk, no permission */
    TN_MEMORY,      /* out of memory, or a size that no machine has */
    TN_UNSUPPORTED, /* right, but not something this build can do */
    TN_INTERRUPTED, /* a caller asked to stop */
} tn_status;

/* The message of the last failure on this thread; "" if there was none. Valid until the next failure. */
const char *tn_message(void);

/* "ok", "invalid", ...: the code as a word. */
const char *tn_status_name(tn_status status);

#ifdef __cplusplus
}
#endif
#endif
