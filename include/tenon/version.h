/* Version of the library; the build system reads it from here. */
#ifndef TENON_VERSION_H
#define TENON_VERSION_H

#define TN_VERSION_MAJOR 0
#define TN_VERSION_MINOR 1
#define TN_VERSION_PATCH 0
#define TN_VERSION "0.1.0"

#ifdef __cplusplus
extern "C" {
#endif

/* TN_VERSION of the library that is linked, which may differ from the header's. */
const char *tn_version(void);

#ifdef __cplusplus
}
#endif
#endif
