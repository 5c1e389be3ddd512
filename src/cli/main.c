/* The program: one row a subcommand. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "tenon/log.h"

/* A command's row has what its file gives; the build defines TN_CLI_NAME for every file cli/name.c
 * that it has. */
#ifdef TN_CLI_INFER
#define INFER .verbs = cli_infer_verbs
#else
#define INFER .system = "infer"
#endif

static const cli_command commands[] = {
    {"infer", "train and run transformers, on one machine or partitioned over many", INFER},
#ifdef TN_CLI_DEMO
    {"demo", "run every system on embedded samples and write a page of results", .run = cli_demo},
#endif
    {"info", "show the machine, what of it is used, and the versions", .run = cli_info},
    {.name = NULL},
};

static const char about[] = "A small tensor compiler and machine-learning systems on it.";

static const char examples[] =
    "  tenon infer generate --model stories260K.bin --tokenizer tok512.bin --temperature 0\n"
    "  tenon infer train --help\n"
    "  tenon info --json\n";

/* Warnings and errors of the library go to stderr; TENON_LOG=info or debug shows more. */
static void print_log(void *context, tn_log_level level, const char *line)
{
    (void)context;
    fprintf(stderr, "tenon: %s: %s\n", tn_log_level_name(level), line);
}

static void listen(void)
{
    const char *wish = getenv("TENON_LOG");
    tn_log_level most = TN_LOG_WARNING;
    for (tn_log_level level = TN_LOG_ERROR; wish && level <= TN_LOG_DEBUG; level++)
        if (strcmp(wish, tn_log_level_name(level)) == 0) most = level;
    tn_log_to(print_log, NULL, most);
}

/* Output that did not arrive (a full disk behind a redirection) is a failure too. */
static int flush_output(int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return code;
    fprintf(stderr, "tenon: cannot write the output\n");
    return code == CLI_OK ? CLI_FAILED : code;
}

int main(int argc, char **argv)
{
    listen();
    return flush_output(cli_dispatch("tenon", about, examples, commands, argc, argv, true));
}
