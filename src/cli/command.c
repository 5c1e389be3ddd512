/* The command table: dispatch, help, errors. */
#include "cli/command.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/string.h"
#include "tenon/version.h"

int cli_fail(void)
{
    const char *message = tn_message();
    fprintf(stderr, "tenon: %s\n", *message ? message : "failed without saying why");
    return CLI_FAILED;
}

void cli_parse(const struct argp *argp, int argc, char **argv, void *input)
{
    argp_err_exit_status = CLI_USAGE;
    argp_parse(argp, argc, argv, 0, NULL, input);
}

long long cli_integer(const struct argp_state *state, const char *option, const char *text,
                      long long low, long long high)
{
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (end == text || *end || errno || number < low || number > high)
        argp_error(state, "%s must be a whole number from %lld to %lld, not \"%s\"", option, low,
                   high, text);
    return number;
}

double cli_number(const struct argp_state *state, const char *option, const char *text, double low,
                  double high)
{
    char *end;
    double number = strtod(text, &end);
    if (end == text || *end || isnan(number) || number < low || number > high) {
        if (isinf(high) && high > 0)
            argp_error(state, "%s must be a number, %g or more, not \"%s\"", option, low, text);
        argp_error(state, "%s must be a number from %g to %g, not \"%s\"", option, low, high, text);
    }
    return number;
}

/* ---- help ----------------------------------------------------------------------------------- */

static size_t count_rows(const cli_command *table)
{
    size_t count = 0;
    while (table[count].name) count++;
    return count;
}

static void print_help(const char *path, const char *about, const char *examples,
                       const cli_command *table, bool top)
{
    int width = 0;
    for (const cli_command *row = table; row->name; row++)
        if ((int)strlen(row->name) > width) width = (int)strlen(row->name);
    printf("Usage: %s COMMAND [OPTION...]\n", path);
    if (top) printf("       %s --help | --version\n", path);
    printf("%s\n\nCommands:\n", about);
    for (const cli_command *row = table; row->name; row++)
        printf("  %-*s  %s%s\n", width, row->name, row->help,
               row->run || row->verbs ? "" : " (not in this build)");
    if (examples) printf("\nExamples:\n%s", examples);
    printf("\n%s COMMAND --help tells more of one.\n", path);
}

static int usage_error(const char *path, const char *problem, const char *word)
{
    fprintf(stderr, "%s: %s%s%s%s\n", path, problem, word ? " \"" : "", word ? word : "",
            word ? "\"" : "");
    fprintf(stderr, "Try `%s --help' for more information.\n", path);
    return CLI_USAGE;
}

/* ---- dispatch ------------------------------------------------------------------------------- */

static int unknown(const char *path, const cli_command *table, const char *word)
{
    const char *name[64];
    size_t count = count_rows(table);
    if (count > 64) count = 64;
    for (size_t i = 0; i < count; i++) name[i] = table[i].name;
    fprintf(stderr, "%s: no command \"%s\"", path, word);
    const char *meant = tn_closest(word, name, count);
    if (meant) fprintf(stderr, "; did you mean \"%s\"?", meant);
    fprintf(stderr, "\nTry `%s --help' for more information.\n", path);
    return CLI_USAGE;
}

static int run_row(const char *path, const cli_command *row, int argc, char **argv)
{
    tn_string name = {0};
    tn_string_format(&name, "%s %s", path, row->name);
    char *whole = tn_string_take(&name);
    int code;
    if (!whole) {
        code = usage_error(path, "out of memory", NULL);
    } else if (row->verbs) {
        code = cli_dispatch(whole, row->help, row->examples, row->verbs, argc, argv, false);
    } else if (row->run) {
        argv[0] = whole;
        code = row->run(argc, argv);
    } else {
        fprintf(stderr,
                "tenon: \"%s\" was left out of this build; configure it with "
                "-DTENON_SYSTEMS=\"...;%s\" (scripts/setup installs what it needs)\n",
                row->name, row->system ? row->system : row->name);
        code = CLI_FAILED;
    }
    free(whole);
    return code;
}

int cli_dispatch(const char *path, const char *about, const char *examples,
                 const cli_command *table, int argc, char **argv, bool top)
{
    if (argc < 2) return usage_error(path, "a command is missing", NULL);
    char *word = argv[1];
    bool help = strcmp(word, "--help") == 0 || strcmp(word, "-?") == 0 || strcmp(word, "-h") == 0;
    if (help || (strcmp(word, "help") == 0 && argc == 2)) {
        print_help(path, about, examples, table, top);
        return CLI_OK;
    }
    if (strcmp(word, "--usage") == 0) {
        printf("Usage: %s COMMAND [OPTION...]\n", path);
        return CLI_OK;
    }
    if (top && (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0)) {
        printf("tenon %s\n", tn_version());
        return CLI_OK;
    }
    if (strcmp(word, "help") == 0) { /* "help infer generate" is "infer generate --help" */
        memmove(argv + 1, argv + 2, (size_t)(argc - 2) * sizeof *argv);
        argv[argc - 1] = (char[]){"--help"};
        return cli_dispatch(path, about, examples, table, argc, argv, top);
    }
    if (word[0] == '-') return usage_error(path, "unknown option", word);
    for (const cli_command *row = table; row->name; row++)
        if (strcmp(word, row->name) == 0) return run_row(path, row, argc - 1, argv + 1);
    return unknown(path, table, word);
}
