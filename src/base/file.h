/* Files: read-only views, and writes that either happen whole or not at all. Every message names
 * the path, what was tried and the system's reason. */
#ifndef TN_BASE_FILE_H
#define TN_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* ---- reading ------------------------------------------------------------------------ */

/* A file's bytes, mapped. An empty file has size 0 and a valid pointer. */
typedef struct tn_file {
    const uint8_t *bytes;
    size_t size;
} tn_file;

/* Maps a regular file read-only. The bytes stay valid until tn_file_unmap, also when the file is
 * replaced by tn_file_commit meanwhile (the old content lives on); but another program that
 * shortens it in place makes reading the lost pages fatal (SIGBUS), as for every mapping. Errors:
 * TN_IO. */
tn_status tn_file_map(const char *path, tn_file *file);
/* A zeroed or unmapped tn_file is left alone. */
void tn_file_unmap(tn_file *file);

/* Reads a whole file (a pipe too) into memory of the caller (free with free()), with a NUL behind
 * it. TN_FORMAT when it has more than `limit` bytes; TN_IO, TN_MEMORY. */
tn_status tn_file_read(const char *path, size_t limit, char **bytes, size_t *size);

bool tn_file_exists(const char *path);      /* a regular file or a link to one */
bool tn_directory_exists(const char *path); /* a directory or a link to one */

/* ---- writing ------------------------------------------------------------------------ */

/* A file being written under a temporary name beside its place. Nobody sees it until it is
 * committed: bytes on disk (fsync), renamed over the old file, and the rename on disk too. Until
 * then, and if anything fails or the program is killed, the old file stays as it was. What a killed
 * program leaves is removed by the next tn_file_begin for the same path. A symbolic link is
 * followed, and an existing file's permissions are kept. */
typedef struct tn_file_writer tn_file_writer;

/* Begins the new content of `path`, whose directory must exist. Errors: TN_IO, TN_MEMORY; *out is
 * NULL then. */
tn_status tn_file_begin(const char *path, tn_file_writer **out);
/* Appends. The first error stays: later writes do nothing and return it again, and so does the
 * commit. */
tn_status tn_file_write(tn_file_writer *writer, const void *bytes, size_t size);
tn_status tn_file_print(tn_file_writer *writer, const char *format, ...) TN_PRINTF(2, 3);
/* Bytes written so far. */
uint64_t tn_file_position(const tn_file_writer *writer);
/* Makes it the file, or fails and leaves the old one. Frees the writer either way. */
tn_status tn_file_commit(tn_file_writer *writer);
/* Forgets it; NULL is allowed. Keeps the thread's message. */
void tn_file_abort(tn_file_writer *writer);

/* begin, write, commit in one. */
tn_status tn_file_save(const char *path, const void *bytes, size_t size);

/* Makes a directory and those above it (mode 0777 less the umask); fine if it is there. */
tn_status tn_make_directories(const char *path);

#endif
