/* tenon info: the machine, what of it is used, and the versions. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "tenon/machine.h"
#include "tenon/version.h"

typedef struct options {
    bool json;
} options;

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    (void)text;
    options *o = state->input;
    if (key == 'j') o->json = true;
    else if (key == ARGP_KEY_ARG)
        argp_error(state, "no argument is expected, but \"%s\" is given", text);
    else return ARGP_ERR_UNKNOWN;
    return 0;
}

static const struct argp_option option_rows[] = {
    {"json", 'j', NULL, 0, "Print one JSON object", 0},
    {0},
};

static const struct argp parser = {
    option_rows, parse_option, NULL, "Show the machine, what of it is used, and the versions.",
    NULL,        NULL,         NULL};

static const char *const systems[] = {
#ifdef TN_HAVE_INFER
    "infer",
#endif
    NULL,
};

static void print_text(const tn_machine *m, tn_isa isa)
{
    printf("tenon      %s (%s)\n", tn_version(), m->compiler);
    printf("system     %s\n", m->system);
    printf("processor  %s\n", m->processor);
    printf("kernels    level %s (the machine has %s)\n", tn_isa_name(isa), tn_isa_name(m->isa));
    printf("threads    %d of %d processors\n", m->threads, m->processors);
    printf("memory     %.1f GiB\n", (double)m->memory / (double)(1 << 30));
    printf("caches     L1 %lld KiB, L2 %lld KiB, L3 %lld KiB\n", (long long)m->l1 / 1024,
           (long long)m->l2 / 1024, (long long)m->l3 / 1024);
    printf("oneDNN     %s\n", m->onednn);
    printf("jansson    %s\n", m->jansson);
    printf("systems   ");
    for (const char *const *s = systems; *s; s++) printf(" %s", *s);
    printf("%s\n", systems[0] ? "" : " none");
}

static int print_json(const tn_machine *m, tn_isa isa)
{
    json_t *list = json_array();
    for (const char *const *s = systems; *s; s++) json_array_append_new(list, json_string(*s));
    json_t *all = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:I, s:I, s:I, s:I, s:s, s:s, s:o}", "tenon",
        tn_version(), "compiler", m->compiler, "system", m->system, "processor", m->processor,
        "isa_found", tn_isa_name(m->isa), "isa_used", tn_isa_name(isa), "processors", m->processors,
        "threads", m->threads, "memory_bytes", (json_int_t)m->memory, "l1_bytes", (json_int_t)m->l1,
        "l2_bytes", (json_int_t)m->l2, "l3_bytes", (json_int_t)m->l3, "onednn", m->onednn,
        "jansson", m->jansson, "systems", list);
    char *text = all ? json_dumps(all, JSON_INDENT(2)) : NULL;
    json_decref(all);
    if (!text) {
        fprintf(stderr, "tenon: the description of this machine cannot be written as JSON\n");
        return CLI_FAILED;
    }
    puts(text);
    free(text);
    return CLI_OK;
}

int cli_info(int argc, char **argv)
{
    options o = {0};
    cli_parse(&parser, argc, argv, &o);
    tn_isa isa;
    if (tn_isa_chosen(&isa) != TN_OK) return cli_fail();
    tn_machine machine;
    tn_machine_describe(&machine);
    if (o.json) return print_json(&machine, isa);
    print_text(&machine, isa);
    return CLI_OK;
}
