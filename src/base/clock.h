/* Time. */
#ifndef TN_BASE_CLOCK_H
#define TN_BASE_CLOCK_H

/* Seconds since some fixed moment, never going back: for durations. */
double tn_clock_seconds(void);
/* Seconds since 1970-01-01 UTC: for dates. */
double tn_wall_clock(void);
/* Processor seconds of this process, all threads together. */
double tn_cpu_clock(void);
/* "2024-05-31T12:34:56Z" for a wall-clock time; `text` has room for 32 bytes. Returns `text`. */
const char *tn_time_text(double wall, char text[32]);
/* "850 ms", "12.3 s", "4:05 min", "2:03:45 h" for a duration; "?" for NaN and negative ones.
 * Returns `text`. */
const char *tn_duration_text(double seconds, char text[32]);

#endif
