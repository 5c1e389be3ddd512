/* Mapped reading and atomic writing. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/string.h"

static tn_status io_error(const char *action, const char *path)
{
    return tn_fail(errno == ENOMEM ? TN_MEMORY : TN_IO, "cannot %s %s: %s", action, path,
                   strerror(errno));
}

/* ---- reading ------------------------------------------------------------------------ */

static tn_status map_open_file(int fd, const char *path, tn_file *file)
{
    struct stat info;
    if (fstat(fd, &info) != 0) return io_error("look at", path);
    if (S_ISDIR(info.st_mode)) return tn_fail(TN_IO, "cannot read %s: it is a directory", path);
    if (!S_ISREG(info.st_mode))
        return tn_fail(TN_IO, "cannot map %s: it is not a regular file", path);
    if ((uintmax_t)info.st_size > SIZE_MAX)
        return tn_fail(TN_MEMORY, "cannot map %s: too large", path);
    static const uint8_t empty[1];
    *file = (tn_file){empty, (size_t)info.st_size};
    if (file->size == 0) return TN_OK;
    void *bytes = mmap(NULL, file->size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED) {
        *file = (tn_file){0};
        return io_error("map", path);
    }
    file->bytes = bytes;
    return TN_OK;
}

tn_status tn_file_map(const char *path, tn_file *file)
{
    *file = (tn_file){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return io_error("open", path);
    tn_status status = map_open_file(fd, path, file);
    close(fd);
    return status;
}

void tn_file_unmap(tn_file *file)
{
    if (file->size > 0) munmap((void *)(uintptr_t)file->bytes, file->size);
    *file = (tn_file){0};
}

/* read() that goes on after signals; fewer bytes only at the end of the file; -1 on error. */
static ssize_t read_fully(int fd, char *bytes, size_t size)
{
    size_t done = 0;
    while (done < size) {
        size_t step = size - done < (size_t)1 << 30 ? size - done : (size_t)1 << 30;
        ssize_t n = read(fd, bytes + done, step);
        if (n == 0) break;
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

/* Reads to the end or until `most` bytes are there; *text may be left allocated when it fails. */
static tn_status read_open_file(int fd, const char *path, size_t most, char **text, size_t *length)
{
    struct stat info;
    if (fstat(fd, &info) != 0) return io_error("look at", path);
    size_t capacity = 4096;
    if (S_ISREG(info.st_mode) && (uintmax_t)info.st_size < most)
        capacity = (size_t)info.st_size + 1;
    for (;;) {
        if (capacity > most) capacity = most;
        char *larger = realloc(*text, capacity + 1);
        if (!larger)
            return tn_fail(TN_MEMORY, "cannot read %s: out of memory at %zu bytes", path, capacity);
        *text = larger;
        ssize_t n = read_fully(fd, larger + *length, capacity - *length);
        if (n < 0) return io_error("read", path);
        *length += (size_t)n;
        larger[*length] = '\0';
        if (*length < capacity || capacity == most) return TN_OK;
        capacity = capacity <= most / 2 ? capacity * 2 : most;
    }
}

tn_status tn_file_read(const char *path, size_t limit, char **bytes, size_t *size)
{
    *bytes = NULL;
    *size = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return io_error("open", path);
    char *text = NULL;
    size_t length = 0;
    size_t most = limit < SIZE_MAX / 2 ? limit + 1
                                       : SIZE_MAX / 2; /* one too many is enough to know */
    tn_status status = read_open_file(fd, path, most, &text, &length);
    close(fd);
    if (status == TN_OK && length > limit)
        status = tn_fail(TN_FORMAT, "%s is larger than the %zu bytes allowed here", path, limit);
    if (status != TN_OK) {
        free(text);
        return status;
    }
    *bytes = text;
    *size = length;
    return TN_OK;
}

bool tn_file_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

bool tn_directory_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* ---- writing ------------------------------------------------------------------------ */

enum { BUFFER_SIZE = 1 << 18 };

struct tn_file_writer {
    int fd;
    char *path;      /* where it will be, links followed */
    char *temporary; /* where it is */
    char *directory;
    tn_status status;
    char *message; /* of the first error; NULL: out of memory */
    uint64_t position;
    size_t filled;
    char buffer[BUFFER_SIZE];
};

static char *format_text(const char *format, ...) TN_PRINTF(1, 2);
static char *format_text(const char *format, ...)
{
    tn_string text = {0};
    va_list arguments;
    va_start(arguments, format);
    tn_string_vformat(&text, format, arguments);
    va_end(arguments);
    return tn_string_take(&text);
}

/* The last part of a path: what stands behind the last slash. */
static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Removes what writers of the same file left when they were killed. A living writer holds a lock on
 * its temporary file, so that a lock that can be had is proof that the writer is gone. */
static void remove_abandoned(const char *directory, const char *name)
{
    DIR *folder = opendir(directory);
    if (!folder) return;
    char *pattern = format_text(".%s.", name);
    size_t start = pattern ? strlen(pattern) : 0;
    for (struct dirent *entry; pattern && (entry = readdir(folder));) {
        const char *digit = entry->d_name + start;
        if (strncmp(entry->d_name, pattern, start) != 0) continue;
        if (strspn(digit, "0123456789-") == 0) continue;
        if (strcmp(digit + strspn(digit, "0123456789-"), ".tmp") != 0) continue;
        int fd = openat(dirfd(folder), entry->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0) continue;
        if (flock(fd, LOCK_EX | LOCK_NB) == 0) unlinkat(dirfd(folder), entry->d_name, 0);
        close(fd);
    }
    free(pattern);
    closedir(folder);
}

/* A new locked file ".NAME.PID-N.tmp" in `directory`; -1 with errno on failure. */
static int create_temporary(const char *directory, const char *name, char **path)
{
    static atomic_uint counter;
    for (int attempt = 0; attempt < 100; attempt++) {
        char *candidate = format_text("%s/.%s.%ld-%u.tmp", directory, name, (long)getpid(),
                                      atomic_fetch_add(&counter, 1));
        if (!candidate) {
            errno = ENOMEM;
            return -1;
        }
        int fd = open(candidate, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        struct stat info;
        /* Between open and flock somebody else's remove_abandoned may take the file for abandoned:
         * try again. */
        bool lost = fd >= 0 && ((flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) ||
                                fstat(fd, &info) != 0 || info.st_nlink == 0);
        if (fd >= 0 && !lost) {
            *path = candidate;
            return fd;
        }
        int reason = errno;
        if (fd >= 0) close(fd);
        free(candidate);
        if (!lost && reason != EEXIST) {
            errno = reason;
            return -1;
        }
    }
    errno = EEXIST;
    return -1;
}

static void writer_free(tn_file_writer *writer)
{
    if (writer->fd >= 0) close(writer->fd);
    free(writer->path);
    free(writer->temporary);
    free(writer->directory);
    free(writer->message);
    free(writer);
}

/* Keeps the thread's present message as the writer's. */
static tn_status stick(tn_file_writer *writer, tn_status status)
{
    writer->status = status;
    writer->message = format_text("%s", tn_message());
    return status;
}

static tn_status again(const tn_file_writer *writer)
{
    return tn_fail(writer->status, "%s", writer->message ? writer->message : "out of memory");
}

tn_status tn_file_begin(const char *path, tn_file_writer **out)
{
    *out = NULL;
    if (*file_name(path) == '\0')
        return tn_fail(TN_IO, "cannot write \"%s\": the file's name is missing", path);
    tn_file_writer *writer = malloc(sizeof *writer);
    if (!writer) return tn_fail(TN_MEMORY, "cannot write %s: out of memory", path);
    memset(writer, 0, offsetof(tn_file_writer, buffer));
    writer->fd = -1;

    struct stat old;
    bool exists = stat(path, &old) == 0;
    writer->path = exists ? realpath(path, NULL) : format_text("%s", path);
    tn_status status = TN_OK;
    if (!writer->path) {
        status = io_error("resolve", path);
    } else if (exists && S_ISDIR(old.st_mode)) {
        status = tn_fail(TN_IO, "cannot write %s: it is a directory", path);
    } else if (exists && !S_ISREG(old.st_mode)) {
        status = tn_fail(TN_IO, "cannot write %s: it is not a regular file", path);
    } else {
        const char *name = file_name(writer->path);
        size_t prefix = (size_t)(name - writer->path);
        writer->directory = prefix == 0   ? format_text(".")
                            : prefix == 1 ? format_text("/")
                                          : format_text("%.*s", (int)(prefix - 1), writer->path);
        if (!writer->directory) {
            status = tn_fail(TN_MEMORY, "cannot write %s: out of memory", path);
        } else {
            remove_abandoned(writer->directory, name);
            writer->fd = create_temporary(writer->directory, name, &writer->temporary);
            if (writer->fd < 0) status = io_error("write", path);
            /* a failure here means a file system without permissions */
            else if (exists && fchmod(writer->fd, old.st_mode & 07777) != 0) status = TN_OK;
        }
    }
    if (status != TN_OK) {
        writer_free(writer);
        return status;
    }
    *out = writer;
    return TN_OK;
}

static tn_status write_fully(tn_file_writer *writer, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t n = write(writer->fd, bytes, size < (size_t)1 << 30 ? size : (size_t)1 << 30);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            tn_fail(TN_IO, "cannot write %s: %s; the file is as it was before", writer->path,
                    strerror(errno));
            return stick(writer, TN_IO);
        }
        bytes += n;
        size -= (size_t)n;
    }
    return TN_OK;
}

static tn_status flush(tn_file_writer *writer)
{
    size_t size = writer->filled;
    writer->filled = 0;
    return write_fully(writer, writer->buffer, size);
}

tn_status tn_file_write(tn_file_writer *writer, const void *bytes, size_t size)
{
    if (writer->status != TN_OK) return again(writer);
    writer->position += size;
    if (size > sizeof writer->buffer - writer->filled) TN_TRY(flush(writer));
    if (size >= sizeof writer->buffer) return write_fully(writer, bytes, size);
    if (size > 0) memcpy(writer->buffer + writer->filled, bytes, size);
    writer->filled += size;
    return TN_OK;
}

tn_status tn_file_print(tn_file_writer *writer, const char *format, ...)
{
    if (writer->status != TN_OK) return again(writer);
    tn_string text = {0};
    va_list arguments;
    va_start(arguments, format);
    tn_string_vformat(&text, format, arguments);
    va_end(arguments);
    tn_status status = tn_string_status(&text);
    status = status == TN_OK ? tn_file_write(writer, tn_string_text(&text), text.length)
                             : stick(writer, status);
    tn_string_free(&text);
    return status;
}

uint64_t tn_file_position(const tn_file_writer *writer) { return writer->position; }

/* After the rename: the directory's entry must reach the disk too. File systems without fsync for
 * directories say EINVAL; there is nothing more to do there. */
static tn_status sync_directory(const char *directory, const char *path)
{
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    tn_status status = TN_OK;
    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL && errno != EROFS))
        status = tn_fail(TN_IO, "%s is written, but its directory cannot be synchronised: %s", path,
                         strerror(errno));
    if (fd >= 0) close(fd);
    return status;
}

tn_status tn_file_commit(tn_file_writer *writer)
{
    tn_status status = writer->status != TN_OK ? again(writer) : flush(writer);
    if (status == TN_OK && fsync(writer->fd) != 0)
        status = tn_fail(TN_IO, "cannot write %s: %s; the file is as it was before", writer->path,
                         strerror(errno));
    if (status == TN_OK && rename(writer->temporary, writer->path) != 0)
        status = tn_fail(TN_IO, "cannot replace %s: %s", writer->path, strerror(errno));
    if (status == TN_OK) status = sync_directory(writer->directory, writer->path);
    else unlink(writer->temporary);
    writer_free(writer);
    return status;
}

void tn_file_abort(tn_file_writer *writer)
{
    if (!writer) return;
    unlink(writer->temporary);
    writer_free(writer);
}

tn_status tn_file_save(const char *path, const void *bytes, size_t size)
{
    tn_file_writer *writer;
    tn_status status = tn_file_begin(path, &writer);
    if (!writer) return status;
    tn_file_write(writer, bytes, size); /* an error stays and comes back from the commit */
    return tn_file_commit(writer);
}

tn_status tn_make_directories(const char *path)
{
    char *copy = format_text("%s", path);
    if (!copy) return tn_fail(TN_MEMORY, "cannot make directory %s: out of memory", path);
    tn_status status = *copy ? TN_OK : tn_fail(TN_IO, "cannot make a directory: its name is empty");
    for (char *end = copy; status == TN_OK && *end;) {
        end += strspn(end, "/");
        end += strcspn(end, "/");
        char rest = *end;
        *end = '\0';
        if (mkdir(copy, 0777) != 0 && !tn_directory_exists(copy)) {
            if (errno == EEXIST || errno == ENOENT)
                errno = ENOTDIR; /* a file, or a link to nowhere, stands in the way */
            status = io_error("make directory", copy);
        }
        *end = rest;
    }
    free(copy);
    return status;
}
