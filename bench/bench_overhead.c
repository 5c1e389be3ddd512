/* What is not arithmetic: building and compiling a graph, going from step to step of a plan,
 * starting the program.
 *
 * usage: bench_overhead [PROGRAM]     PROGRAM: tenon; default $TENON_PROGRAM, else ../tenon from
 * here Prints one JSON line. Targets: ResNet-18 with gradient built and compiled in less than 50
 * ms, less than 1 us a step, `tenon --version` in less than 10 ms. */
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "cases.h"
#include "tenon/ops.h"
#include "tenon/plan.h"
#include "tenon/state.h"

enum { COMPILES = 9, NODES = 1000, RUNS = 2000, STARTS = 51 };

static int rising(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *x, int count)
{
    qsort(x, (size_t)count, sizeof *x, rising);
    return x[count / 2];
}

/* ---- building and compiling ----------------------------------------------------------------- */

typedef struct compiled {
    double build_ms, compile_ms;
    int nodes, steps;
} compiled;

static tn_status compile_resnet(tn_state *state, tn_backend backend, compiled *c)
{
    tn_graph *graph = tn_graph_create(state);
    if (!graph) return TN_MEMORY;
    double start = tn_clock_seconds();
    bench_nodes n = bench_build(bench_find_case("resnet18"), graph, true, TN_F32);
    double built = tn_clock_seconds();
    tn_plan *plan = NULL;
    tn_status status = tn_compile(&plan, .graph = graph, .feeds = TN_NODES(n.input, n.target),
                                  .fetches = TN_NODES(n.loss), .updates = n.updates,
                                  .backend = backend);
    c->build_ms = (built - start) * 1e3;
    c->compile_ms = (tn_clock_seconds() - built) * 1e3;
    if (status == TN_OK) {
        c->nodes = tn_graph_node_count(graph);
        c->steps = tn_plan_step_count(plan);
    }
    tn_plan_free(plan);
    tn_graph_free(graph);
    return status;
}

/* Three numbers, because the first plan of a process does more than the next: drawing the
 * parameters' first values (here by a reference plan, which does little else), making oneDNN's
 * primitives (which it keeps for plans to come), and compiling itself. */
static tn_status print_compiling(void)
{
    tn_state *state = tn_state_create(1);
    double total[COMPILES];
    compiled drawing = {0}, first = {0}, c = {0};
    tn_status status = state ? compile_resnet(state, TN_REF, &drawing) : TN_MEMORY;
    if (status == TN_OK) status = compile_resnet(state, TN_CPU, &first);
    for (int i = 0; i < COMPILES && status == TN_OK; i++) {
        status = compile_resnet(state, TN_CPU, &c);
        total[i] = c.build_ms + c.compile_ms;
    }
    tn_state_free(state);
    if (status != TN_OK) return status;
    printf("\"resnet18_nodes\": %d, \"resnet18_steps\": %d, \"resnet18_draw_ms\": %.2f, "
           "\"resnet18_first_ms\": %.2f, \"resnet18_median_ms\": %.2f, "
           "\"resnet18_build_ms\": %.2f",
           c.nodes, c.steps, drawing.compile_ms, first.build_ms + first.compile_ms,
           median(total, COMPILES), c.build_ms);
    return TN_OK;
}

/* ---- going from step to step ---------------------------------------------------------------- */

/* A chain of operations on `width` numbers, none fused: what a step costs when its arithmetic is
 * nothing. */
static tn_status time_chain(int64_t width, double *nanoseconds)
{
    tn_graph *graph = tn_graph_create(NULL);
    if (!graph) return TN_MEMORY;
    tn_node x = tn_input(graph, "x", TN_F32, TN_SHAPE(width)), y = x;
    for (int i = 0; i < NODES; i++) y = i % 2 ? tn_add(y, x) : tn_affine(y, 0.5, i);
    tn_plan *plan = NULL;
    tn_status status = tn_compile(&plan, .graph = graph, .feeds = TN_NODES(x),
                                  .fetches = TN_NODES(y), .no_fusion = true);
    tn_graph_free(graph);
    float in[16] = {0}, out[16];
    double best = 1e9;
    for (int i = 0; i < RUNS && status == TN_OK; i++) {
        double start = tn_clock_seconds();
        status = tn_run(plan, (const void *[]){in}, (void *[]){out});
        double one = (tn_clock_seconds() - start) * 1e9 / tn_plan_step_count(plan);
        if (one < best) best = one;
    }
    tn_plan_free(plan);
    *nanoseconds = best;
    return status;
}

/* ---- starting ------------------------------------------------------------------------------- */

extern char **environ;

static double start_once(const char *program)
{
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    char *argument[] = {"tenon", "--version", NULL};
    pid_t child;
    int code = -1;
    double start = tn_clock_seconds();
    if (posix_spawn(&child, program, &actions, NULL, argument, environ) == 0)
        waitpid(child, &code, 0);
    double time = tn_clock_seconds() - start;
    posix_spawn_file_actions_destroy(&actions);
    return code == 0 ? time * 1e3 : -1;
}

static void print_start(const char *program)
{
    double times[STARTS];
    for (int i = 0; i < STARTS; i++) {
        times[i] = start_once(program);
        if (times[i] < 0) {
            fprintf(stderr,
                    "bench_overhead: SKIPPED: the program's start: %s --version does not run\n",
                    program);
            return;
        }
    }
    double middle = median(times, STARTS);
    printf(", \"start_best_ms\": %.2f, \"start_median_ms\": %.2f", times[0], middle);
}

static const char *find_program(const char *self, char *path, size_t size)
{
    const char *given = getenv("TENON_PROGRAM"), *slash = strrchr(self, '/');
    if (given) return given;
    snprintf(path, size, "%.*s../tenon", slash ? (int)(slash - self + 1) : 0, self);
    return path;
}

int main(int count, char **argument)
{
    char path[4096];
    double scalar = 0, vector = 0;
    printf("{");
    tn_status status = print_compiling();
    if (status == TN_OK) status = time_chain(1, &scalar);
    if (status == TN_OK) status = time_chain(16, &vector);
    if (status == TN_OK) printf(", \"step_1_ns\": %.1f, \"step_16_ns\": %.1f", scalar, vector);
    if (status == TN_OK)
        print_start(count > 1 ? argument[1] : find_program(argument[0], path, sizeof path));
    printf("}\n");
    if (status != TN_OK) fprintf(stderr, "bench_overhead: %s\n", tn_message());
    return status != TN_OK;
}
