/* Mapped reading and atomic writing: what happens when anything is in the way, and when the program
 * is killed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"

static char folder[64];

static const char *in_folder(const char *name)
{
    static char path[4][256];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, 256, "%s/%s", folder, name);
    return p;
}

/* Every test has a fresh folder of its own. */
static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/tenon-test-file-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

/* Entries of the folder, hidden ones too. */
static int entries(void)
{
    DIR *d = opendir(folder);
    int count = 0;
    for (struct dirent *e; (e = readdir(d));)
        count += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return count;
}

static void assert_content(const char *path, const char *expected)
{
    char *bytes;
    size_t size;
    assert_int_equal(tn_file_read(path, 1 << 20, &bytes, &size), TN_OK);
    assert_int_equal(size, strlen(expected));
    assert_string_equal(bytes, expected);
    free(bytes);
}

static void assert_message(const char *part)
{
    if (!strstr(tn_message(), part)) fail_msg("\"%s\" is not in \"%s\"", part, tn_message());
}

static void test_map(void **state)
{
    (void)state;
    const char *path = in_folder("data");
    assert_int_equal(tn_file_save(path, "hello", 5), TN_OK);
    tn_file file;
    assert_int_equal(tn_file_map(path, &file), TN_OK);
    assert_int_equal(file.size, 5);
    assert_memory_equal(file.bytes, "hello", 5);
    /* replacing the file leaves the view alone */
    assert_int_equal(tn_file_save(path, "other bytes", 11), TN_OK);
    assert_memory_equal(file.bytes, "hello", 5);
    tn_file_unmap(&file);
    assert_null(file.bytes);
    tn_file_unmap(&file);

    assert_int_equal(tn_file_save(path, "", 0), TN_OK);
    assert_int_equal(tn_file_map(path, &file), TN_OK);
    assert_int_equal(file.size, 0);
    assert_non_null(file.bytes);
    tn_file_unmap(&file);
}

static void test_map_errors(void **state)
{
    (void)state;
    tn_file file;
    assert_int_equal(tn_file_map(in_folder("nothing"), &file), TN_IO);
    assert_message("/nothing: No such file or directory");
    assert_int_equal(tn_file_map(folder, &file), TN_IO);
    assert_message("it is a directory");
    assert_int_equal(tn_file_map("/dev/null", &file), TN_IO);
    assert_message("/dev/null: it is not a regular file");
    assert_null(file.bytes);
    assert_false(tn_file_exists(in_folder("nothing")));
    assert_false(tn_file_exists(folder));
    assert_true(tn_directory_exists(folder));
    assert_false(tn_directory_exists("/dev/null"));
}

static void test_read_limit(void **state)
{
    (void)state;
    const char *path = in_folder("data");
    char *bytes;
    size_t size;
    assert_int_equal(tn_file_save(path, "0123456789", 10), TN_OK);
    assert_int_equal(tn_file_read(path, 10, &bytes, &size), TN_OK);
    assert_int_equal(size, 10);
    free(bytes);
    assert_int_equal(tn_file_read(path, 9, &bytes, &size), TN_FORMAT);
    assert_message("larger than the 9 bytes");
    assert_null(bytes);
    assert_int_equal(tn_file_read(path, SIZE_MAX, &bytes, &size), TN_OK);
    assert_int_equal(size, 10);
    free(bytes);
    assert_int_equal(tn_file_read("/dev/zero", 100000, &bytes, &size), TN_FORMAT); /* endless */
    assert_int_equal(tn_file_read(folder, 100, &bytes, &size), TN_IO);
    assert_message("Is a directory");
    assert_int_equal(tn_file_read(in_folder("nothing"), 100, &bytes, &size), TN_IO);
    assert_int_equal(tn_file_read("/dev/null", 100, &bytes, &size), TN_OK);
    assert_int_equal(size, 0);
    free(bytes);
}

static void test_read_pipe(void **state)
{
    (void)state;
    const char *path = in_folder("pipe");
    assert_int_equal(mkfifo(path, 0600), 0);
    pid_t child = fork();
    if (child == 0) {
        int fd = open(path, O_WRONLY);
        bool good = true;
        for (int i = 0; i < 2000; i++) good = good && write(fd, "0123456789", 10) == 10;
        _exit(good ? 0 : 1);
    }
    char *bytes;
    size_t size;
    assert_int_equal(tn_file_read(path, 1 << 20, &bytes, &size), TN_OK);
    assert_int_equal(size, 20000);
    assert_memory_equal(bytes + 19990, "0123456789", 10);
    free(bytes);
    waitpid(child, NULL, 0);
}

static void test_commit_and_abort(void **state)
{
    (void)state;
    const char *path = in_folder("model");
    tn_file_writer *writer;
    assert_int_equal(tn_file_begin(path, &writer), TN_OK);
    assert_int_equal(tn_file_write(writer, "one ", 4), TN_OK);
    assert_int_equal(tn_file_print(writer, "two %d", 3), TN_OK);
    assert_true(tn_file_position(writer) == 9);
    assert_false(tn_file_exists(path)); /* nobody sees it yet */
    assert_int_equal(tn_file_commit(writer), TN_OK);
    assert_content(path, "one two 3");

    assert_int_equal(tn_file_begin(path, &writer), TN_OK);
    assert_int_equal(tn_file_write(writer, "half", 4), TN_OK);
    tn_file_abort(writer);
    tn_file_abort(NULL);
    assert_content(path, "one two 3");
    assert_int_equal(entries(), 1);
}

/* Pieces around the size of the buffer come out in order. */
static void test_large_writes(void **state)
{
    (void)state;
    const char *path = in_folder("large");
    enum { TOTAL = 3000000 };
    unsigned char *bytes = malloc(TOTAL);
    assert_non_null(bytes);
    for (uint32_t i = 0; i < TOTAL; i++) bytes[i] = (unsigned char)(i * 2654435761U >> 24);
    static const size_t steps[] = {1, 1000, 262143, 262144, 262145, 7, 600000, 3};
    tn_file_writer *writer;
    assert_int_equal(tn_file_begin(path, &writer), TN_OK);
    size_t at = 0;
    for (int i = 0; at < TOTAL; i++) {
        size_t step = steps[i % 8] < TOTAL - at ? steps[i % 8] : TOTAL - at;
        assert_int_equal(tn_file_write(writer, bytes + at, step), TN_OK);
        at += step;
    }
    assert_true(tn_file_position(writer) == TOTAL);
    assert_int_equal(tn_file_commit(writer), TN_OK);
    tn_file file;
    assert_int_equal(tn_file_map(path, &file), TN_OK);
    assert_int_equal(file.size, TOTAL);
    assert_memory_equal(file.bytes, bytes, TOTAL);
    tn_file_unmap(&file);
    free(bytes);
}

static void test_begin_errors(void **state)
{
    (void)state;
    tn_file_writer *writer;
    assert_int_equal(tn_file_begin(in_folder("no/such/place"), &writer), TN_IO);
    assert_null(writer);
    assert_message("no/such/place: No such file or directory");
    assert_int_equal(tn_file_begin(folder, &writer), TN_IO);
    assert_message("it is a directory");
    assert_int_equal(tn_file_begin("/dev/null", &writer), TN_IO);
    assert_message("not a regular file");
    assert_int_equal(tn_file_begin("", &writer), TN_IO);
    assert_int_equal(tn_file_begin(in_folder("x/"), &writer), TN_IO);
    assert_message("name is missing");
    assert_int_equal(entries(), 0);
}

/* The system refuses to write more, as with a full disk: in a child, with a limit on file sizes. */
static void full_disk_child(const char *path)
{
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {100000, 100000};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(9);
    tn_file_writer *writer;
    if (tn_file_begin(path, &writer) != TN_OK) _exit(2);
    char block[1000] = {0};
    tn_status status = TN_OK;
    for (int i = 0; i < 1000; i++) status = tn_file_write(writer, block, sizeof block);
    if (status != TN_IO) _exit(3);
    if (!strstr(tn_message(), path) || !strstr(tn_message(), strerror(EFBIG))) _exit(4);
    if (!strstr(tn_message(), "the file is as it was before")) _exit(5);
    tn_fail(TN_INVALID, "something else happened meanwhile");
    if (tn_file_print(writer, "%d", 1) != TN_IO) _exit(6);
    tn_fail(TN_INVALID, "and again");
    if (tn_file_commit(writer) != TN_IO || !strstr(tn_message(), path)) _exit(7);
    _exit(0);
}

static void test_full_disk_keeps_the_old_file(void **state)
{
    (void)state;
    const char *path = in_folder("checkpoint");
    assert_int_equal(tn_file_save(path, "old", 3), TN_OK);
    pid_t child = fork();
    if (child == 0) full_disk_child(path);
    int result;
    waitpid(child, &result, 0);
    assert_true(WIFEXITED(result));
    assert_int_equal(WEXITSTATUS(result), 0);
    assert_content(path, "old");
    assert_int_equal(entries(), 1);
}

static void test_killed_writer_is_cleaned_up(void **state)
{
    (void)state;
    const char *path = in_folder("checkpoint");
    assert_int_equal(tn_file_save(path, "old", 3), TN_OK);
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        tn_file_writer *writer;
        if (tn_file_begin(path, &writer) != TN_OK) _exit(1);
        if (write(ready[1], "x", 1) != 1) _exit(1);
        pause();
        _exit(0);
    }
    char c;
    assert_int_equal(read(ready[0], &c, 1), 1);
    assert_int_equal(entries(), 2);
    /* a living writer's file is left alone */
    tn_file_writer *writer;
    assert_int_equal(tn_file_begin(path, &writer), TN_OK);
    assert_int_equal(entries(), 3);
    tn_file_abort(writer);
    assert_int_equal(entries(), 2);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ready[0]);
    close(ready[1]);
    assert_content(path, "old");
    assert_int_equal(entries(), 2);
    assert_int_equal(tn_file_save(path, "new", 3), TN_OK); /* a dead one's is removed */
    assert_content(path, "new");
    assert_int_equal(entries(), 1);
}

static void test_others_files_are_left_alone(void **state)
{
    (void)state;
    assert_int_equal(tn_file_save(in_folder(".model.backup.tmp"), "a", 1), TN_OK);
    assert_int_equal(tn_file_save(in_folder(".models.1-2.tmp"), "a", 1), TN_OK);
    assert_int_equal(tn_file_save(in_folder(".model.1-2.tmpx"), "a", 1), TN_OK);
    assert_int_equal(tn_file_save(in_folder("model"), "a", 1), TN_OK);
    assert_int_equal(entries(), 4);
}

static void test_link_and_permissions(void **state)
{
    (void)state;
    const char *path = in_folder("real"), *link = in_folder("link");
    struct stat info;
    mode_t mask = umask(022);
    assert_int_equal(tn_file_save(path, "a", 1), TN_OK);
    umask(mask);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0644);
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(symlink("real", link), 0);
    assert_int_equal(tn_file_save(link, "new", 3), TN_OK);
    assert_int_equal(lstat(link, &info), 0);
    assert_true(S_ISLNK(info.st_mode)); /* still a link, */
    assert_content(path, "new");        /* and what it points at was replaced */
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
}

static void test_relative_path(void **state)
{
    (void)state;
    char *here = getcwd(NULL, 0);
    assert_non_null(here);
    assert_int_equal(chdir(folder), 0);
    assert_int_equal(tn_file_save("plain", "x", 1), TN_OK);
    assert_content("plain", "x");
    assert_int_equal(tn_make_directories("a/b"), TN_OK);
    assert_int_equal(tn_file_save("a/b/c", "y", 1), TN_OK);
    assert_int_equal(chdir(here), 0);
    free(here);
    assert_content(in_folder("a/b/c"), "y");
}

static void test_make_directories(void **state)
{
    (void)state;
    assert_int_equal(tn_make_directories(in_folder("a/b//c/")), TN_OK);
    assert_true(tn_directory_exists(in_folder("a/b/c")));
    assert_int_equal(tn_make_directories(in_folder("a/b")), TN_OK);
    assert_int_equal(tn_make_directories("/"), TN_OK);
    assert_int_equal(tn_file_save(in_folder("file"), "", 0), TN_OK);
    assert_int_equal(tn_make_directories(in_folder("file/below")), TN_IO);
    assert_message("/file: Not a directory");
    assert_int_equal(tn_make_directories(""), TN_IO);
}

#define in_a_folder(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        in_a_folder(test_map),
        in_a_folder(test_map_errors),
        in_a_folder(test_read_limit),
        in_a_folder(test_read_pipe),
        in_a_folder(test_commit_and_abort),
        in_a_folder(test_large_writes),
        in_a_folder(test_begin_errors),
        in_a_folder(test_full_disk_keeps_the_old_file),
        in_a_folder(test_killed_writer_is_cleaned_up),
        in_a_folder(test_others_files_are_left_alone),
        in_a_folder(test_link_and_permissions),
        in_a_folder(test_relative_path),
        in_a_folder(test_make_directories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
