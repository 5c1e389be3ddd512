/* The demo's sections: each runs something real in a minute or less and writes what came out into the page. */
#ifndef TN_CLI_DEMO_H
#define TN_CLI_DEMO_H

#include "report/page.h"
#include "tenon/status.h"

typedef struct demo {
    tn_page *page;
    const char *out;         /* folder of the page; sections may keep files there */
    const char *const *text; /* files and folders to learn language from */
    int text_count;
    double seconds; /* per training */
} demo;

tn_status demo_language(const demo *d);
tn_status demo_images(const demo *d);

#endif
