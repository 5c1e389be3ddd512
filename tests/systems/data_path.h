/* Where the real data of this system are. */
#ifndef TN_TESTS_SYSTEMS_DATA_PATH_H
#define TN_TESTS_SYSTEMS_DATA_PATH_H

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"

/* A file of the inference data, or NULL with a loud line. Valid for the next seven calls. */
static inline const char *data_path(const char *name)
{
    static char path[8][4096];
    static int turn;
    const char *folder = getenv("TENON_DATA");
    turn = (turn + 1) % 8;
    snprintf(path[turn], sizeof path[turn], "%s/inference/%s", folder ? folder : "../shared/data",
             name);
    if (tn_file_exists(path[turn])) return path[turn];
    printf("SKIPPED: %s is missing; set TENON_DATA to the folder of real data\n", path[turn]);
    return NULL;
}

#endif
