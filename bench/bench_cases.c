/* One case of the benchmark in one process, so that the peak memory is its own. Prints one JSON
 * line with the fields of peers/pytorch_cases.py and some more. bench/run runs all of them beside
 * the peers. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/threads.h"
#include "cases.h"
#include "exec/plan.h"
#include "tenon/plan.h"
#include "tenon/state.h"
#include "tenon/version.h"

enum { WARM_UP = 3, LEAST_ROUNDS = 5, MOST_ROUNDS = 200 };

typedef struct request {
    const bench_case *c;
    bool training, bf16;
    double seconds;
    int threads;
    bool profile, describe, print;
    long check;               /* training steps to print the loss of; 0: measure instead */
    double gflops, gigabytes; /* the machine's limits; 0: unknown */
} request;

typedef struct measured {
    double build_ms, compile_ms, best_ms, median_ms;
    long runs;
    float first_loss, last_loss;
} measured;

typedef struct job {
    const request *r;
    tn_state *state;
    tn_plan *plan;
    void *input, *target, *output;
    float loss;
    tn_shape output_shape;
    tn_dtype output_dtype;
} job;

static const char usage[] =
    "usage: bench_cases CASE train|infer f32|bf16 [option...]\n"
    "  --seconds S      measure for so long (8)\n"
    "  --threads N      threads (all processors)\n"
    "  --limits G B     GFLOP/s and GB/s of the machine: adds limit_ms, the time that these alone "
    "would allow\n"
    "  --profile        also a table of time, FLOP and bytes per step and per operation\n"
    "  --print          also the plan's steps\n"
    "  --describe       parameters, shapes and FLOP instead of a measurement\n"
    "  --check N        the losses of N training steps instead of a measurement\n"
    "cases:\n";

static int explain(FILE *out, int code)
{
    fputs(usage, out);
    for (int i = 0; bench_case_at(i); i++)
        fprintf(out, "  %-10s %s\n", bench_case_at(i)->name, bench_case_at(i)->what);
    return code;
}

/* ---- the command line ----------------------------------------------------------------------- */

static bool number(const char *text, double low, double *out)
{
    char *end = NULL;
    errno = 0;
    double value = text ? strtod(text, &end) : 0;
    if (!text || end == text || *end || errno || !(value >= low)) return false;
    *out = value;
    return true;
}

static bool read_option(request *r, char **argument, int left, int *used)
{
    double value = 0;
    const char *name = argument[0], *next = left > 1 ? argument[1] : NULL;
    *used = 1;
    if (!strcmp(name, "--profile")) return r->profile = true;
    if (!strcmp(name, "--describe")) return r->describe = true;
    if (!strcmp(name, "--print")) return r->print = true;
    *used = 2;
    if (!strcmp(name, "--seconds")) return number(next, 0, &r->seconds);
    if (!strcmp(name, "--threads") && number(next, 1, &value)) return (r->threads = (int)value) > 0;
    if (!strcmp(name, "--check") && number(next, 1, &value)) return (r->check = (long)value) > 0;
    *used = 3;
    if (!strcmp(name, "--limits") && left > 2)
        return number(next, 1, &r->gflops) && number(argument[2], 1e-3, &r->gigabytes);
    return false;
}

static bool read_command(request *r, int count, char **argument)
{
    if (count < 4) return false;
    r->c = bench_find_case(argument[1]);
    r->training = !strcmp(argument[2], "train");
    r->bf16 = !strcmp(argument[3], "bf16");
    if (!r->c || (!r->training && strcmp(argument[2], "infer")) ||
        (!r->bf16 && strcmp(argument[3], "f32")))
        return false;
    for (int at = 4, used; at < count; at += used)
        if (!read_option(r, argument + at, count - at, &used)) return false;
    return true;
}

/* ---- building and running ------------------------------------------------------------------- */

static tn_status prepare(job *j, measured *m)
{
    const request *r = j->r;
    j->state = tn_state_create(1);
    tn_graph *graph = j->state ? tn_graph_create(j->state) : NULL;
    if (!graph) return tn_fail(TN_MEMORY, "out of memory");
    double start = tn_clock_seconds();
    bench_nodes n = bench_build(r->c, graph, r->training, r->bf16 ? TN_BF16 : TN_F32);
    double built = tn_clock_seconds();
    tn_status status = tn_graph_status(graph);
    if (status == TN_OK) {
        j->output_shape = tn_shape_of(n.output);
        j->output_dtype = tn_dtype_of(n.output);
        tn_node_list feeds = r->training ? TN_NODES(n.input, n.target) : TN_NODES(n.input);
        status = tn_compile(&j->plan, .graph = graph, .feeds = feeds,
                            .fetches = r->training ? TN_NODES(n.loss) : TN_NODES(n.output),
                            .updates = n.updates, .profile = r->profile);
    }
    m->build_ms = (built - start) * 1e3;
    m->compile_ms = (tn_clock_seconds() - built) * 1e3;
    tn_graph_free(graph);
    if (status != TN_OK) return status;
    j->input = bench_make_data(&r->c->input, 1);
    j->target = r->training ? bench_make_data(&r->c->target, 2) : NULL;
    j->output = malloc((size_t)tn_shape_size(j->output_shape) * tn_dtype_size(j->output_dtype));
    if (!j->input || !j->output || (r->training && !j->target))
        return tn_fail(TN_MEMORY, "out of memory");
    return TN_OK;
}

static tn_status run(job *j)
{
    return tn_run(j->plan, (const void *[]){j->input, j->target},
                  (void *[]){j->r->training ? (void *)&j->loss : j->output});
}

static void finish(job *j)
{
    tn_plan_free(j->plan);
    tn_state_free(j->state);
    free(j->input);
    free(j->target);
    free(j->output);
}

/* ---- measuring ------------------------------------------------------------------------------ */

static int rising(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The peer's way, to the letter: warm up, then rounds of at least 10 ms until the time is over. */
static tn_status measure(job *j, measured *m)
{
    double times[MOST_ROUNDS];
    int count = 0;
    for (int i = 0; i < WARM_UP; i++) {
        TN_TRY(run(j));
        if (i == 0) m->first_loss = j->loss;
    }
    double start = tn_clock_seconds();
    TN_TRY(run(j));
    double once = tn_clock_seconds() - start;
    long inner = once > 0.01 ? 1 : (long)(0.01 / (once > 1e-7 ? once : 1e-7));
    start = tn_clock_seconds();
    while (count < LEAST_ROUNDS ||
           (tn_clock_seconds() - start < j->r->seconds && count < MOST_ROUNDS)) {
        double begin = tn_clock_seconds();
        for (long i = 0; i < inner; i++) TN_TRY(run(j));
        times[count++] = (tn_clock_seconds() - begin) / (double)inner * 1e3;
    }
    qsort(times, (size_t)count, sizeof *times, rising);
    m->best_ms = times[0];
    m->median_ms = count % 2 ? times[count / 2] : (times[count / 2 - 1] + times[count / 2]) / 2;
    m->runs = count * inner;
    m->last_loss = j->loss;
    return TN_OK;
}

static double bytes_of(const tn_operand *x)
{
    double count = 1;
    for (int i = 0; i < x->rank; i++)
        count *= x->stride[i] ? (double)x->dim[i] : 1; /* broadcast: read once */
    return count * (double)tn_dtype_size(x->dtype);
}

/* Bytes that the steps read and write, and the time that the limits leave if no two steps overlap:
 * for each step the longer one of computing and moving. Data that stay in a cache may beat it. */
static double traffic(const tn_plan *plan, const request *r, double *limit_ms)
{
    double bytes = 0, seconds = 0;
    for (int32_t i = 0; i < plan->step_count; i++) {
        const tn_step *step = &plan->step[i].step;
        double moved = 0;
        for (int k = 0; k < step->in_count; k++) moved += bytes_of(&step->in[k]);
        for (int k = 0; k < step->out_count; k++) moved += bytes_of(&step->out[k]);
        double computing = plan->step[i].flop / (r->gflops * 1e9),
               moving = moved / (r->gigabytes * 1e9);
        seconds += computing > moving ? computing : moving;
        bytes += moved;
    }
    *limit_ms = r->gflops > 0 ? seconds * 1e3 : 0;
    return bytes;
}

static void print_begin(const request *r)
{
    printf("{\"case\": \"%s\", \"mode\": \"%s\", \"dtype\": \"%s\", \"variant\": \"tenon\"",
           r->c->name, r->training ? "train" : "infer", r->bf16 ? "bf16" : "f32");
}

static void print_measured(const job *j, const measured *m)
{
    struct rusage usage_now;
    getrusage(RUSAGE_SELF, &usage_now);
    double flop = tn_plan_flop(j->plan), limit_ms = 0, bytes = traffic(j->plan, j->r, &limit_ms);
    print_begin(j->r);
    printf(", \"best_ms\": %.6g, \"median_ms\": %.6g, \"runs\": %ld, \"peak_mb\": %.1f, \"tenon\": "
           "\"%s\", \"threads\": %d",
           m->best_ms, m->median_ms, m->runs, (double)usage_now.ru_maxrss / 1024, tn_version(),
           tn_thread_count());
    printf(", \"scratch_bytes\": %zu, \"state_bytes\": %zu, \"flop\": %.6g, \"bytes\": %.6g, "
           "\"gflops\": %.4g, \"gbytes_per_s\": %.4g",
           tn_plan_bytes(j->plan), tn_plan_state_bytes(j->plan), flop, bytes,
           flop / m->best_ms * 1e-6, bytes / m->best_ms * 1e-6);
    printf(", \"build_ms\": %.3f, \"compile_ms\": %.3f, \"steps\": %d", m->build_ms, m->compile_ms,
           tn_plan_step_count(j->plan));
    if (limit_ms > 0) printf(", \"limit_ms\": %.6g", limit_ms);
    if (j->r->training)
        printf(", \"first_loss\": %.6g, \"last_loss\": %.6g", (double)m->first_loss,
               (double)m->last_loss);
    printf("}\n");
}

static void print_shape(const char *key, tn_shape shape)
{
    printf(", \"%s\": [", key);
    for (int i = 0; i < shape.rank; i++) printf("%s%lld", i ? ", " : "", (long long)shape.dim[i]);
    printf("]");
}

static void describe(const job *j)
{
    int64_t parameters = 0;
    for (int i = 0; i < tn_state_count(j->state); i++)
        if (tn_state_at(j->state, i)->parameter)
            parameters += tn_shape_size(tn_state_at(j->state, i)->shape);
    print_begin(j->r);
    print_shape("input", j->r->c->input.shape);
    print_shape("output", j->output_shape);
    printf(", \"parameters\": %lld, \"gflop\": %.4f, \"steps\": %d}\n", (long long)parameters,
           tn_plan_flop(j->plan) * 1e-9, tn_plan_step_count(j->plan));
}

static tn_status check(job *j)
{
    print_begin(j->r);
    printf(", \"loss\": [");
    for (long i = 0; i < j->r->check; i++) {
        TN_TRY(run(j));
        printf("%s%.5f", i ? ", " : "", (double)j->loss);
    }
    printf("]}\n");
    return TN_OK;
}

int main(int count, char **argument)
{
    request r = {.seconds = 8};
    if (count == 2 && !strcmp(argument[1], "--help")) return explain(stdout, 0);
    if (!read_command(&r, count, argument) || (r.check && !r.training)) return explain(stderr, 2);
    if (r.threads) tn_set_thread_count(r.threads);
    job j = {.r = &r};
    measured m = {0};
    tn_status status = prepare(&j, &m);
    if (status == TN_OK && r.print) tn_plan_print(j.plan, stdout);
    if (status == TN_OK && r.describe) describe(&j);
    else if (status == TN_OK && r.check) status = check(&j);
    else if (status == TN_OK && (status = measure(&j, &m)) == TN_OK) print_measured(&j, &m);
    if (status == TN_OK && r.profile) tn_plan_print_profile(j.plan, stdout);
    if (status != TN_OK) {
        fprintf(stderr, "bench_cases: %s\n", tn_message());
        print_begin(&r);
        printf(", \"error\": \"failed; the message is on stderr\"}\n");
    }
    finish(&j);
    return status != TN_OK;
}
