/* tenon demo: every system that exists, on samples that need no download, and a page of what came out. */
#include "cli/demo.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "cli/command.h"
#include "tenon/machine.h"
#include "tenon/version.h"

enum { MOST_TEXTS = 32, KEY_OUT = 256, KEY_TEXT, KEY_SMOKE };

typedef struct options {
    const char *out, *text[MOST_TEXTS];
    int text_count;
    bool smoke;
    double seconds;
} options;

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case KEY_OUT: o->out = text; break;
    case KEY_TEXT:
        if (o->text_count == MOST_TEXTS) argp_error(state, "at most %d texts", MOST_TEXTS);
        o->text[o->text_count++] = text;
        break;
    case KEY_SMOKE: o->smoke = true; break;
    case 's': o->seconds = cli_number(state, "--seconds", text, 1, 86400); break;
    case ARGP_KEY_ARG:
        argp_error(state, "no argument is expected, but \"%s\" is given", text);
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp_option option_rows[] = {
    {"out", KEY_OUT, "DIR", 0, "Folder for index.html (default out/demo)", 0},
    {"text", KEY_TEXT, "PATH", 0,
     "File or folder to learn language from; several may be given (default "
     "/usr/share/common-licenses)",
     0},
    {"seconds", 's', "S", 0, "Time for each training (default 50)", 0},
    {"smoke", KEY_SMOKE, NULL, 0, "A few seconds only, to see that all of it runs", 0},
    {0},
};

static const struct argp parser = {
    option_rows, parse_option,
    NULL,        "Run every system on embedded samples and write a page of results.",
    NULL,        NULL,
    NULL};

static void machine_section(tn_page *page)
{
    tn_machine m;
    char memory[32], threads[64];
    tn_machine_describe(&m);
    snprintf(memory, sizeof memory, "%.1f GiB", (double)m.memory / (double)(1 << 30));
    snprintf(threads, sizeof threads, "%d of %d processors", m.threads, m.processors);
    const char *cell[] = {"What",      "Value",     "Tenon",    tn_version(),
                          "Processor", m.processor, "Kernels",  tn_isa_name(m.isa),
                          "Threads",   threads,     "Memory",   memory,
                          "System",    m.system,    "Compiler", m.compiler,
                          "oneDNN",    m.onednn};
    tn_page_section(page, "This machine");
    tn_page_table(page, cell, sizeof cell / sizeof *cell / 2, 2);
}

int cli_demo(int argc, char **argv)
{
    options o = {.out = "out/demo", .seconds = 50};
    cli_parse(&parser, argc, argv, &o);
    if (o.text_count == 0) o.text[o.text_count++] = "/usr/share/common-licenses";
    demo d = {.page = tn_page_create("Tenon: what it did on this machine"),
              .out = o.out,
              .text = o.text,
              .text_count = o.text_count,
              .seconds = o.smoke ? 2 : o.seconds};
    if (!d.page) return cli_fail();
    tn_status status = tn_make_directories(o.out);
    if (status == TN_OK) status = demo_language(&d);
    if (status == TN_OK) status = demo_images(&d);
    if (status == TN_OK) {
        char path[4096];
        machine_section(d.page);
        snprintf(path, sizeof path, "%s/index.html", o.out);
        status = tn_page_save(d.page, path);
        if (status == TN_OK) printf("wrote %s\n", path);
    }
    tn_page_free(d.page);
    return status == TN_OK ? CLI_OK : cli_fail();
}
