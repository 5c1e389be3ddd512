/* The planning verbs as a user calls them: JSON, tables, files, the paper's tables, wrong input. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
/* after the headers it needs */
#include <cmocka.h>
#include <jansson.h>

static char output[1 << 20];

/* Runs `tenon infer ARGUMENTS`, keeps both its outputs, gives its exit code. */
static int run(const char *arguments)
{
    const char *program = getenv("TENON_PROGRAM");
    char command[4096];
    if (!program || access(program, X_OK)) {
        printf("SKIPPED: TENON_PROGRAM does not name the program\n");
        skip();
    }
    snprintf(command, sizeof command, "'%s' infer %s 2>&1", program, arguments);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t size = fread(output, 1, sizeof output - 1, pipe);
    output[size] = 0;
    return WEXITSTATUS(pclose(pipe));
}

static void expect(const char *arguments, int code, const char *part)
{
    int got = run(arguments);
    if (got != code || !strstr(output, part))
        fail_msg("tenon infer %s: exit code %d, not %d, or no \"%s\" in:\n%s", arguments, got, code,
                 part, output);
}

static void test_plan(void **state)
{
    (void)state;
    expect("plan --model palm-540b --chips 64 --batch 512", 0, "heads padded from 48 to 64");
    expect("plan --model palm-540b --chips 8", 0, "Nothing fits; 64 chips are enough.");
    expect("plan --model palm-540b --batch 512 --max-context 0.3 --mesh 4x4x4 --layout ws2d "
           "--attention batch-yzx",
           0, "for the cache: 10663");
}

/* What `explain` prints adds up. */
static void test_explain(void **state)
{
    (void)state;
    assert_int_equal(run("explain --json --model palm-540b --mesh 4x4x4 --batch 64 --layout ws2d"),
                     0);
    json_error_t error;
    json_t *all = json_loads(output, 0, &error), *term;
    if (!all) fail_msg("%s in:\n%s", error.text, output);
    json_t *choice = json_object_get(all, "choice"), *volume = json_object_get(choice, "volume");
    const char *name;
    double sum = 0;
    json_object_foreach(volume, name, term) if (strcmp(name, "kv") && strcmp(name, "all_to_all") &&
                                                strcmp(name, "norm_statistics"))
        sum += json_number_value(term);
    assert_true(sum == 64.0 * 20544);
    assert_string_equal(json_string_value(json_object_get(choice, "mesh")), "4x4x4");
    json_decref(all);
}

static void test_sweep(void **state)
{
    (void)state;
    char path[] = "/tmp/tenon-sweep-XXXXXX", arguments[256];
    int file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
    snprintf(arguments, sizeof arguments,
             "sweep --model palm-62b --chips 8,16 --batch 32,512 --weights both --csv %s", path);
    assert_int_equal(run(arguments), 0);
    FILE *csv = fopen(path, "r");
    int lines = 0, c;
    while ((c = fgetc(csv)) != EOF) lines += c == '\n';
    fclose(csv);
    assert_int_equal(lines, 1 + 2 * 2 * 2);
    remove(path);
}

static void test_evaluate(void **state)
{
    (void)state;
    const char *data = getenv("TENON_DATA");
    char path[1024];
    snprintf(path, sizeof path, "%s/inference/paper/table1.csv", data ? data : "../shared/data");
    if (access(path, R_OK)) {
        printf("SKIPPED: %s is missing; set TENON_DATA to the folder of real data\n", path);
        skip();
    }
    expect("evaluate", 0, "statements hold, 0 do not");
    expect("evaluate fastertransformer", 0, "78 of 78 within 0.5 points");
    snprintf(path, sizeof path, "calibrate --points %s/inference/paper/figure1-left.csv",
             data ? data : "../shared/data");
    expect(path, 0, "all            37");
}

static void test_wrong_input(void **state)
{
    (void)state;
    expect("plan", 1, "--model is missing");
    expect("plan --model palm-5", 1, "known are palm-8b");
    expect("plan --model palm-8b --hardware tpu-v9", 1, "known are tpu-v4");
    expect("plan --model palm-8b --chips 0", 2, "--chips must be");
    expect("plan --model palm-8b --mesh 4x4", 2, "--mesh must be three sizes");
    expect("plan --model palm-8b --mesh 4x0x4", 2, "--mesh must be three sizes");
    expect("plan --model palm-8b --layout ws3d", 2, "must be one of ws1d, ws2d");
    expect("plan --model palm-8b --phase prefill --tokens 9 --context 4", 1, "--context only 4");
    expect("plan --model palm-8b --batch 1,x", 2, "--batch must be");
    expect("evaluate table9", 2, "unknown part");
    expect("evaluate --data /nonexistent", 1, "/nonexistent/");
    expect("calibrate", 1, "--points is missing");
    char path[] = "/tmp/tenon-points-XXXXXX", arguments[256];
    int file = mkstemp(path);
    static const char text[] = "model,chips,batch,ms_per_token\npalm-8b,8,64,5\npalm-8b,8,x,6\n";
    assert_int_equal(write(file, text, sizeof text - 1), sizeof text - 1);
    close(file);
    snprintf(arguments, sizeof arguments, "calibrate --points %s", path);
    expect(arguments, 1, ":3: column \"batch\" must be a number");
    remove(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan),        cmocka_unit_test(test_explain),
        cmocka_unit_test(test_sweep),       cmocka_unit_test(test_evaluate),
        cmocka_unit_test(test_wrong_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
