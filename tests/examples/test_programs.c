/* The example programs do what they say. They lie beside the program, in examples/, when the
 * target of that name was built. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char output[65536];

/* Runs example `name` with `arguments` and leaves what it printed in `output`; returns the exit
 * code. */
static int run(const char *name, const char *arguments)
{
    const char *program = getenv("TENON_PROGRAM"), *slash = program ? strrchr(program, '/') : NULL;
    char path[4096], command[5000];
    snprintf(path, sizeof path, "%.*s/examples/%s", slash ? (int)(slash - program) : 0,
             program ? program : "", name);
    if (access(path, X_OK) != 0) {
        print_message("SKIPPED: example %s is not built (target \"examples\")\n", name);
        skip();
    }
    snprintf(command, sizeof command, "'%s' %s 2>&1", path, arguments);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t size = fread(output, 1, sizeof output - 1, pipe);
    output[size] = '\0';
    int code = pclose(pipe);
    assert_true(WIFEXITED(code));
    return WEXITSTATUS(code);
}

/* The number behind the last `key` of the output. */
static double last_number(const char *key)
{
    const char *found = NULL;
    for (const char *at = output; (at = strstr(at, key)) != NULL; at += strlen(key)) found = at;
    if (!found) fail_msg("\"%s\" is not in:\n%s", key, output);
    return found ? strtod(found + strlen(key), NULL) : 0;
}

static void test_mlp(void **state)
{
    (void)state;
    assert_int_equal(run("mlp", ""), 0);
    assert_true(last_number("right") > 95);
    assert_true(last_number("loss") < 0.2);
}

static void test_second_order(void **state)
{
    (void)state;
    assert_int_equal(run("second_order", ""), 0);
    assert_non_null(strstr(output, "12 (exact 12)  24 (exact 24)  -108 (exact -108)"));
    assert_true(last_number("hidden one") > 0.99);
}

static void test_resnet(void **state)
{
    (void)state;
    assert_int_equal(run("resnet", "20 4"), 0);
    assert_non_null(strstr(output, "images named rightly"));
    assert_int_equal(run("resnet", "none"), 2);
    assert_int_equal(run("resnet", "1 2 3"), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mlp),
        cmocka_unit_test(test_second_order),
        cmocka_unit_test(test_resnet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
