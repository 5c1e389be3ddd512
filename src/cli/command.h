/* Subcommands as rows of tables, and how all of them speak: exit codes, error lines, help. */
#ifndef TN_CLI_COMMAND_H
#define TN_CLI_COMMAND_H

#include <argp.h>
#include <stdbool.h>

#include "tenon/status.h"

/* Exit codes: 0 done; 1 something failed, with "tenon: message" on stderr; 2 the command line is
 * wrong. */
enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

/* One row. A command either runs or has verbs of its own (the table of rows below it); with neither
 * it was left out of this build, and says so. A table ends with a row without a name. */
typedef struct cli_command {
    const char *name;
    const char *help; /* one line, lower case, no full stop */
    /* argv[0] is the whole command ("tenon infer generate"): what argp shows. Returns an exit code.
     */
    int (*run)(int argc, char **argv);
    const struct cli_command *verbs;
    const char *examples; /* of a command with verbs: lines for its help, or NULL */
    const char *system;   /* of a left-out command: what TENON_SYSTEMS calls it */
} cli_command;

/* Finds argv[1] in the table and runs it; knows --help, --usage, `help`, and what was nearly meant.
 *   path      the command so far ("tenon", "tenon infer")
 *   about     one line for its help
 *   examples  lines for its help, or NULL
 *   top       whether this is the program itself, which has --version too
 * Returns the exit code. */
int cli_dispatch(const char *path, const char *about, const char *examples,
                 const cli_command *table, int argc, char **argv, bool top);

/* Prints "tenon: " and the library's message to stderr; returns CLI_FAILED, so that a command reads
 *     if (tn_something() != TN_OK) return cli_fail(); */
int cli_fail(void);

/* Reads options by argp; wrong ones end the program with CLI_USAGE, --help with CLI_OK. `input` is
 * what the parser finds in state->input. */
void cli_parse(const struct argp *argp, int argc, char **argv, void *input);

/* For argp parsers: the number that an option's text is, or a usage error that names the option
 * ("--steps") and the range. */
long long cli_integer(const struct argp_state *state, const char *option, const char *text,
                      long long low, long long high);
double cli_number(const struct argp_state *state, const char *option, const char *text, double low,
                  double high);

/* The tables of commands that have verbs, each in its own file. */
extern const cli_command cli_infer_verbs[];

int cli_info(int argc, char **argv);
int cli_demo(int argc, char **argv);

#endif
