/* Clocks and how times are written. */
#include "base/clock.h"

#include <stdio.h>
#include <time.h>

static double seconds_of(clockid_t clock)
{
    struct timespec t = {0};
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double tn_clock_seconds(void) { return seconds_of(CLOCK_MONOTONIC); }

double tn_wall_clock(void) { return seconds_of(CLOCK_REALTIME); }

double tn_cpu_clock(void) { return seconds_of(CLOCK_PROCESS_CPUTIME_ID); }

const char *tn_time_text(double wall, char text[32])
{
    struct tm parts;
    time_t whole = wall > -1e11 && wall < 1e11 ? (time_t)wall : 0;
    if (!gmtime_r(&whole, &parts) || strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0)
        text[0] = '\0';
    return text;
}

const char *tn_duration_text(double seconds, char text[32])
{
    long long whole = seconds < 1e12 ? (long long)(seconds + 0.5) : 0; /* NaN: 0 */
    if (!(seconds >= 0 && seconds < 1e12)) snprintf(text, 32, "?");
    else if (seconds < 0.9995) snprintf(text, 32, "%.0f ms", seconds * 1e3);
    else if (seconds < 59.95) snprintf(text, 32, "%.1f s", seconds);
    else if (whole < 3600) snprintf(text, 32, "%lld:%02lld min", whole / 60, whole % 60);
    else snprintf(text, 32, "%lld:%02lld:%02lld h", whole / 3600, whole / 60 % 60, whole % 60);
    return text;
}
