/* label: slow
 * `tenon infer train`, killed with SIGKILL at several moments and resumed, ends with the same bytes as the run that nobody disturbed; and what a
 * user can get wrong. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "tenon/weights.h"

static char folder[] = "/tmp/tenon-resume-XXXXXX";

static const char config[] =
    "{\"model_type\": \"palm\", \"num_hidden_layers\": 2, \"hidden_size\": 32, "
    "\"intermediate_size\": 64, \"num_attention_heads\": 4, \"head_dim\": 8,\n"
    " \"vocab_size\": 258, \"max_position_embeddings\": 64,\n"
    " \"training\": {\"batch\": 4, \"length\": 32, \"steps\": 240, \"learning_rate\": 0.01, "
    "\"evaluate_every\": 60, \"checkpoint_every\": 20}}\n";

static const char *program(void)
{
    const char *path = getenv("TENON_PROGRAM");
    return path && !access(path, X_OK) ? path : NULL;
}

static pid_t start(const char *run, const char *resume)
{
    char config_path[128], text_path[128], run_path[128], log_path[160];
    snprintf(config_path, sizeof config_path, "%s/config.json", folder);
    snprintf(text_path, sizeof text_path, "%s/text.txt", folder);
    snprintf(run_path, sizeof run_path, "%s/%s", folder, run);
    snprintf(log_path, sizeof log_path, "%s.log", run_path);
    pid_t child = fork();
    if (child == 0) {
        if (!freopen(log_path, "a", stdout) || !freopen(log_path, "a", stderr)) _exit(9);
        execl(program(), program(), "infer", "train", "--config", config_path, "--text", text_path,
              "--run", run_path, "--seed", "5", resume, (char *)NULL);
        _exit(9);
    }
    return child;
}

static int finish(pid_t child)
{
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void compare(const char *a, const char *b, const char *name)
{
    char path[256], *x, *y;
    size_t n, m;
    snprintf(path, sizeof path, "%s/%s/%s", folder, a, name);
    if (tn_file_read(path, 1 << 26, &x, &n) != TN_OK) fail_msg("%s", tn_message());
    snprintf(path, sizeof path, "%s/%s/%s", folder, b, name);
    if (tn_file_read(path, 1 << 26, &y, &m) != TN_OK) fail_msg("%s", tn_message());
    if (n != m || memcmp(x, y, n)) fail_msg("%s differs", name);
    free(x);
    free(y);
}

/* The whole state: parameters, moments, counters. (The file's metadata also holds places in
 * metrics.jsonl, which tells the time.) */
static void compare_tensors(const char *a, const char *b, const char *name)
{
    tn_weights *x, *y;
    char path[256];
    snprintf(path, sizeof path, "%s/%s/%s", folder, a, name);
    if (tn_weights_open(path, &x) != TN_OK) fail_msg("%s", tn_message());
    snprintf(path, sizeof path, "%s/%s/%s", folder, b, name);
    if (tn_weights_open(path, &y) != TN_OK) fail_msg("%s", tn_message());
    assert_int_equal(tn_weights_count(x), tn_weights_count(y));
    for (int i = 0; i < tn_weights_count(x); i++) {
        const tn_weight *u = tn_weights_at(x, i), *v = tn_weights_find(y, u->name);
        if (!v || u->size != v->size || memcmp(u->bytes, v->bytes, u->size))
            fail_msg("%s: tensor %s differs", name, u->name);
    }
    tn_weights_free(x);
    tn_weights_free(y);
}

static void test_killed_and_resumed(void **unused)
{
    (void)unused;
    if (!program()) {
        printf("SKIPPED: TENON_PROGRAM is not set\n");
        skip();
    }
    assert_int_equal(finish(start("straight", NULL)), 0);
    int kills = 0;
    for (int attempt = 0;; attempt++) {
        pid_t child = start("killed", attempt ? "--resume" : NULL);
        int status = 0;
        struct timespec moment = {0, 150000000L + 70000000L * (attempt % 7)};
        nanosleep(&moment, NULL);
        if (waitpid(child, &status, WNOHANG) == child) {
            assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
            break;
        }
        if (kills < 4) {
            kill(child, SIGKILL);
            assert_int_equal(finish(child), 128 + SIGKILL);
            kills++;
        } else {
            assert_int_equal(finish(child), 0);
            break;
        }
    }
    assert_true(kills > 0);
    compare("straight", "killed", "model/model.safetensors");
    compare_tensors("straight", "killed", "checkpoint/step-00000240.safetensors");
    printf("killed %d times\n", kills);
}

static void refuse(const char *arguments, const char *part)
{
    char command[1024], output[4096] = "";
    snprintf(command, sizeof command, "'%s' infer train %s 2>&1", program(), arguments);
    FILE *pipe = popen(command, "r");
    size_t got = fread(output, 1, sizeof output - 1, pipe);
    int status = pclose(pipe);
    output[got] = 0;
    if (WEXITSTATUS(status) == 0 || !strstr(output, part))
        fail_msg("%s: exit %d, '%s' does not hold '%s'", arguments, WEXITSTATUS(status), output,
                 part);
}

static void test_wrong_use(void **unused)
{
    (void)unused;
    if (!program()) skip();
    char arguments[700], path[256];
    refuse("--config x.json --text y", "--run is missing");
    snprintf(arguments, sizeof arguments, "--config %s/none.json --text %s/text.txt --run %s/a",
             folder, folder, folder);
    refuse(arguments, "none.json");
    snprintf(arguments, sizeof arguments, "--config %s/config.json --text %s/none.txt --run %s/a",
             folder, folder, folder);
    refuse(arguments, "none.txt");
    snprintf(path, sizeof path, "%s/short.txt", folder);
    assert_int_equal(tn_file_save(path, "too short", 9), TN_OK);
    snprintf(arguments, sizeof arguments, "--config %s/config.json --text %s --run %s/a", folder,
             path, folder);
    refuse(arguments, "short.txt");
    snprintf(path, sizeof path, "%s/bad.json", folder);
    const char bad[] =
        "{\"num_hidden_layers\": 2, \"hidden_size\": 32, \"intermediate_size\": "
        "64,\n\"num_attention_heads\": 8,\n\"num_key_value_heads\": 5,\n\"vocab_size\": 258}\n";
    assert_int_equal(tn_file_save(path, bad, sizeof bad - 1), TN_OK);
    snprintf(arguments, sizeof arguments, "--config %s --text %s/text.txt --run %s/a", path, folder,
             folder);
    refuse(arguments, "bad.json:3:");
    snprintf(arguments, sizeof arguments,
             "--config %s/config.json --text %s/text.txt --run %s/straight", folder, folder,
             folder);
    refuse(arguments, "give --resume");
    snprintf(arguments, sizeof arguments,
             "--config %s/config.json --text %s/text.txt --run %s/straight --resume --batch 5",
             folder, folder, folder);
    refuse(arguments, "straight");
}

static int set_up(void **unused)
{
    (void)unused;
    char path[128];
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/config.json", folder);
    if (tn_file_save(path, config, sizeof config - 1) != TN_OK) return -1;
    char *text = malloc(60000);
    size_t size = 0;
    for (int i = 0; size < 50000; i++)
        size += (size_t)sprintf(text + size, "line %d: the %d-th square is %d\n", i, i,
                                i * i % 1000);
    snprintf(path, sizeof path, "%s/text.txt", folder);
    tn_status status = tn_file_save(path, text, size);
    free(text);
    return status == TN_OK ? 0 : -1;
}

static int tear_down(void **unused)
{
    (void)unused;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_killed_and_resumed),
                                       cmocka_unit_test(test_wrong_use)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
