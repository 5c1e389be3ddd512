/* The program as its users meet it: help, versions, wrong command lines, exit codes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "tenon/version.h"

static char out[65536], err[65536];

static void read_all(const char *path, char *text, size_t room)
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t n = fread(text, 1, room - 1, file);
    text[n] = '\0';
    fclose(file);
    remove(path);
}

/* Runs the program with `arguments` behind what `before` sets; returns the exit code. */
static int run_with(const char *before, const char *arguments)
{
    const char *program = getenv("TENON_PROGRAM");
    if (!program) {
        print_message("SKIPPED: TENON_PROGRAM does not name the program\n");
        skip();
    }
    char base[] = "/tmp/tenon-test-cli-XXXXXX";
    int fd = mkstemp(base);
    assert_true(fd >= 0);
    char command[2048], out_path[64], err_path[64];
    snprintf(out_path, sizeof out_path, "%s.out", base);
    snprintf(err_path, sizeof err_path, "%s.err", base);
    snprintf(command, sizeof command, "%s '%s' %s >%s 2>%s", before, program, arguments, out_path,
             err_path);
    int code = system(command);
    read_all(out_path, out, sizeof out);
    read_all(err_path, err, sizeof err);
    remove(base);
    assert_true(WIFEXITED(code));
    return WEXITSTATUS(code);
}

static int run(const char *arguments) { return run_with("", arguments); }

static void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part)) fail_msg("\"%s\" is not in:\n%s", part, text);
}

static void test_version(void **state)
{
    (void)state;
    assert_int_equal(run("--version"), 0);
    assert_string_equal(out, "tenon " TN_VERSION "\n");
    assert_string_equal(err, "");
}

static void test_help(void **state)
{
    (void)state;
    assert_int_equal(run("--help"), 0);
    assert_has(out, "Usage: tenon COMMAND");
    assert_has(out, "  info ");
    assert_has(out, "  infer ");
    assert_has(out, "Examples:");
    assert_string_equal(err, "");
    assert_int_equal(run("help"), 0);
    assert_has(out, "Usage: tenon COMMAND");
    assert_int_equal(run("--usage"), 0);
    assert_int_equal(run("info --help"), 0);
    assert_has(out, "Usage: tenon info");
    assert_int_equal(run("help info"), 0);
    assert_has(out, "Usage: tenon info");
}

static void test_wrong_commands(void **state)
{
    (void)state;
    assert_int_equal(run(""), 2);
    assert_string_equal(out, "");
    assert_has(err, "tenon: a command is missing");
    assert_int_equal(run("ifno"), 2);
    assert_has(err, "tenon: no command \"ifno\"; did you mean \"info\"?");
    assert_int_equal(run("zzzzzzzz"), 2);
    assert_has(err, "tenon: no command \"zzzzzzzz\"\n");
    assert_int_equal(run("''"), 2);
    assert_int_equal(run("--nonsense"), 2);
    assert_has(err, "tenon: unknown option \"--nonsense\"");
    assert_int_equal(run("info --jsn"), 2);
    assert_has(err, "tenon info: unrecognized option");
    assert_int_equal(run("info extra"), 2);
    assert_has(err, "\"extra\"");
}

static void test_info(void **state)
{
    (void)state;
    assert_int_equal(run("info"), 0);
    assert_has(out, "processor");
    assert_has(out, "tenon      " TN_VERSION);
    assert_int_equal(run_with("OMP_NUM_THREADS=3 TENON_ISA=base", "info --json"), 0);
    json_t *info = json_loads(out, 0, NULL);
    assert_non_null(info);
    assert_string_equal(json_string_value(json_object_get(info, "tenon")), TN_VERSION);
    assert_string_equal(json_string_value(json_object_get(info, "isa_used")), "base");
    assert_int_equal(json_integer_value(json_object_get(info, "threads")), 3);
    assert_true(json_integer_value(json_object_get(info, "memory_bytes")) > 1 << 20);
    json_decref(info);
}

static void test_wrong_level(void **state)
{
    (void)state;
    assert_int_equal(run_with("TENON_ISA=v9", "info"), 1);
    assert_string_equal(
        err, "tenon: TENON_ISA=v9 is no instruction set level; use base, v2, v3 or v4\n");
}

static void test_full_output(void **state)
{
    (void)state;
    const char *program = getenv("TENON_PROGRAM");
    if (!program) skip();
    char command[512];
    snprintf(command, sizeof command, "'%s' --help >/dev/full 2>/dev/null", program);
    int code = system(command);
    assert_int_equal(WEXITSTATUS(code), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_version),        cmocka_unit_test(test_help),
        cmocka_unit_test(test_wrong_commands), cmocka_unit_test(test_info),
        cmocka_unit_test(test_wrong_level),    cmocka_unit_test(test_full_output),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
