/* The demo's language model: a small PaLM-shaped decoder learns the texts that are on the machine, and writes some. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/json.h"
#include "base/string.h"
#include "cli/demo.h"
#include "tenon/infer.h"

static const char config_text[] =
    "{\"model_type\": \"palm\", \"num_hidden_layers\": 4, \"hidden_size\": 192, "
    "\"intermediate_size\": 768, \"num_attention_heads\": 6,\n"
    " \"num_key_value_heads\": 1, \"head_dim\": 32, \"vocab_size\": 258, "
    "\"max_position_embeddings\": 512,\n"
    " \"training\": {\"batch\": 8, \"length\": 128, \"steps\": %d, \"learning_rate\": 0.004, "
    "\"evaluate_every\": %d}}\n";

/* The given files and folders as a folder of links to them, so that they are one corpus. */
static tn_status gather(const demo *d, const char *folder)
{
    char path[4200];
    TN_TRY(tn_make_directories(folder));
    for (int i = 0; i < d->text_count; i++) {
        tn_file_writer *writer;
        char *bytes;
        size_t size;
        struct stat info;
        if (stat(d->text[i], &info)) return tn_fail(TN_IO, "%s: no such text", d->text[i]);
        snprintf(path, sizeof path, "%s/%02d.txt", folder, i);
        char command[9000];
        if (S_ISDIR(info.st_mode)) {
            /* A copy of the folder's files, one after the other, in the order of their names. */
            snprintf(command, sizeof command,
                     "find -L '%s' -type f | LC_ALL=C sort | xargs cat > '%s' 2>/dev/null",
                     d->text[i], path);
            if (strchr(d->text[i], '\'') || strchr(path, '\'') || system(command))
                return tn_fail(TN_IO, "%s: cannot be gathered into %s", d->text[i], path);
            continue;
        }
        TN_TRY(tn_file_read(d->text[i], 64u << 20, &bytes, &size));
        tn_status status = tn_file_begin(path, &writer);
        if (status == TN_OK) {
            tn_file_write(writer, bytes, size);
            status = tn_file_commit(writer);
        }
        free(bytes);
        TN_TRY(status);
    }
    return TN_OK;
}

/* ---- the run's metrics as series --------------------------------------------------------------------- */

typedef struct curve {
    double *x, *y;
    int64_t count, capacity;
} curve;

static void add_point(curve *c, double x, double y)
{
    if (c->count == c->capacity) {
        int64_t capacity = c->capacity ? 2 * c->capacity : 256;
        double *xs = realloc(c->x, (size_t)capacity * sizeof *xs);
        if (xs) c->x = xs;
        double *ys = xs ? realloc(c->y, (size_t)capacity * sizeof *ys) : NULL;
        if (!ys) return;
        c->y = ys;
        c->capacity = capacity;
    }
    c->x[c->count] = x;
    c->y[c->count++] = y;
}

static void read_metrics(const char *path, curve *loss, curve *held_out)
{
    char *text;
    size_t size;
    if (tn_file_read(path, 64u << 20, &text, &size) != TN_OK) return;
    for (char *line = text, *end; *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end) *end++ = 0;
        json_t *row = json_loads(line, 0, NULL), *step = json_object_get(row, "step"), *value;
        if (json_is_number(step) && (value = json_object_get(row, "loss")) && json_is_number(value))
            add_point(loss, json_number_value(step), json_number_value(value));
        if (json_is_number(step) && (value = json_object_get(row, "held_out_loss")) &&
            json_is_number(value))
            add_point(held_out, json_number_value(step), json_number_value(value));
        json_decref(row);
    }
    free(text);
}

/* ---- the section ------------------------------------------------------------------------------------------ */

static void keep_last_sample(void *context, const char *line)
{
    char **sample = context;
    puts(line);
    fflush(stdout);
    if (strncmp(line, "step ", 5)) {
        free(*sample);
        *sample = strdup(line);
    }
}

tn_status demo_language(const demo *d)
{
    char folder[4096], config[4096], run[4096], metrics[4200], text[sizeof config_text + 64],
        command[9000];
    snprintf(folder, sizeof folder, "%s/text", d->out);
    snprintf(config, sizeof config, "%s/palm.json", d->out);
    snprintf(run, sizeof run, "%s/language", d->out);
    snprintf(metrics, sizeof metrics, "%s/metrics.jsonl", run);
    snprintf(command, sizeof command, "rm -rf '%s' '%s'", run, folder); /* an earlier demo's */
    if (strchr(d->out, '\'') || system(command))
        return tn_fail(TN_IO, "%s: the folder of an earlier demo cannot be removed", d->out);
    int steps = d->seconds < 10 ? 20 : (int)(d->seconds * 14);
    snprintf(text, sizeof text, config_text, steps, steps / 4);
    TN_TRY(gather(d, folder));
    TN_TRY(tn_file_save(config, text, strlen(text)));
    char *sample = NULL;
    tn_infer_train_result r;
    tn_status status = tn_infer_train(&(tn_infer_train_options){.config = config,
                                                                .text = folder,
                                                                .run = run,
                                                                .seconds = 2 * d->seconds,
                                                                .prompt = "static ",
                                                                .report = keep_last_sample,
                                                                .context = &sample},
                                      &r);
    if (status == TN_OK) {
        curve loss = {0}, held_out = {0};
        read_metrics(metrics, &loss, &held_out);
        tn_page_section(d->page, "Language: a PaLM-shaped decoder learns this machine's texts");
        tn_page_text(d->page,
                     "%lld parameters (parallel block, multiquery attention, SwiGLU, rotary "
                     "positions), bytes as tokens, trained for %lld steps in %.0f s: "
                     "%.0f tokens a second. Held-out loss %.3f, that is %.3f bits per byte. "
                     "Scratch memory %.1f MB and state %.1f MB were known before the first step.",
                     (long long)r.parameters, (long long)r.steps, r.seconds, r.tokens_per_second,
                     r.held_out_loss, r.bits_per_byte, (double)r.scratch_bytes / 1e6,
                     (double)r.state_bytes / 1e6);
        tn_series series[] = {{"training", loss.x, loss.y, loss.count},
                              {"held out", held_out.x, held_out.y, held_out.count}};
        tn_page_plot(d->page, "Loss while learning", "step", "nats per byte", TN_AXES_LINEAR,
                     series, 2);
        tn_page_text(d->page, "What it writes behind \"static \" (temperature 0.8, top-p 0.95):");
        if (sample) tn_page_sample(d->page, sample);
        free(loss.x), free(loss.y), free(held_out.x), free(held_out.y);
    }
    free(sample);
    return status;
}
