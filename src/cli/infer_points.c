/* Measured decode steps, and how well a hardware profile explains them. */
#include <stdlib.h>
#include <string.h>

#include "cli/infer_plan.h"

void plan_usual_mesh(int64_t chips, int64_t mesh[3])
{
    /* arrangements of the authors' code */
    static const int64_t known[][4] = {{4, 2, 1, 2},   {8, 2, 2, 2},  {16, 2, 4, 2},
                                       {32, 4, 2, 4},  {64, 4, 4, 4}, {128, 8, 4, 4},
                                       {256, 4, 8, 8}, {512, 8, 8, 8}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i][0] == chips) {
            memcpy(mesh, known[i] + 1, 3 * sizeof *mesh);
            return;
        }
    mesh[0] = 1, mesh[1] = 1, mesh[2] = chips;
    int64_t least = 2 + chips;
    for (int64_t x = 1; x <= chips; x++)
        for (int64_t y = 1; chips % x == 0 && y <= chips / x; y++)
            if (chips / x % y == 0 && x + y + chips / x / y < least) {
                mesh[0] = x, mesh[1] = y, mesh[2] = chips / x / y;
                least = x + y + chips / x / y;
            }
}

tn_partition_attention plan_batch_attention(int64_t batch, const int64_t *mesh)
{
    if (batch >= mesh[0] * mesh[1] * mesh[2]) return TN_BY_BATCH_YZX;
    if (batch >= mesh[1] * mesh[2]) return TN_BY_BATCH_YZ;
    return batch >= mesh[2] ? TN_BY_BATCH_Z : TN_BY_HEADS;
}

static tn_status read_name(const tn_csv *csv, int row, const char *column, const char *(*name)(int),
                           int count, int *out)
{
    const char *text;
    TN_TRY(tn_csv_text(csv, row, column, &text));
    for (int i = 0; i < count; i++)
        if (!strcmp(text, name(i))) {
            *out = i;
            return TN_OK;
        }
    return tn_fail(TN_FORMAT, "%s:%d: column \"%s\": \"%s\" is none of %s .. %s", csv->path,
                   csv->line[row + 1], column, text, name(0), name(count - 1));
}

static tn_status read_point(const tn_csv *csv, int row, tn_partition_point *p)
{
    double chips, batch, ms, context = 2048;
    const char *model, *weights = "bf16";
    *p = (tn_partition_point){0};
    TN_TRY(tn_csv_text(csv, row, "model", &model));
    TN_TRY(tn_csv_number(csv, row, "chips", 1, 1 << 20, &chips));
    TN_TRY(tn_csv_number(csv, row, "batch", 1, 1 << 24, &batch));
    TN_TRY(tn_csv_number(csv, row, "ms_per_token", 1e-6, 1e9, &ms));
    if (tn_csv_column(csv, "context") >= 0)
        TN_TRY(tn_csv_number(csv, row, "context", 1, 1 << 30, &context));
    if (tn_csv_column(csv, "weights") >= 0) TN_TRY(tn_csv_text(csv, row, "weights", &weights));
    if (strcmp(weights, "bf16") && strcmp(weights, "int8"))
        return tn_fail(TN_FORMAT, "%s:%d: column \"weights\" must be bf16 or int8, not \"%s\"",
                       csv->path, csv->line[row + 1], weights);
    tn_status status = tn_partition_model_load(model, &p->model);
    if (status != TN_OK) return tn_fail_in(status, "%s:%d", csv->path, csv->line[row + 1]);
    p->job = (tn_partition_job){.batch = (int64_t)batch,
                                .tokens = 1,
                                .context = (int64_t)context,
                                .weight_bytes = strcmp(weights, "int8") ? 2 : 1};
    plan_usual_mesh((int64_t)chips, p->layout.mesh);
    int ff = TN_WS2D, attention = (int)plan_batch_attention((int64_t)batch, p->layout.mesh);
    p->seconds = ms / 1e3;
    if (tn_csv_column(csv, "layout") >= 0)
        TN_TRY(read_name(csv, row, "layout", plan_ff_name, TN_PARTITION_FFS, &ff));
    if (tn_csv_column(csv, "attention") >= 0)
        TN_TRY(read_name(csv, row, "attention", plan_attention_name, TN_PARTITION_ATTENTIONS,
                         &attention));
    p->layout.ff = (tn_partition_ff)ff;
    p->layout.attention = (tn_partition_attention)attention;
    return TN_OK;
}

tn_status plan_read_points(const char *path, tn_partition_point **points, int *count)
{
    tn_csv csv = {0};
    *points = NULL;
    TN_TRY(tn_csv_load(path, 16u << 20, &csv));
    tn_status status = TN_OK;
    tn_partition_point *list = calloc((size_t)csv.rows + 1, sizeof *list);
    if (!list) status = tn_fail(TN_MEMORY, "%s: out of memory", path);
    *count = 0;
    for (int row = 0; row < csv.rows && status == TN_OK; row++) {
        const char *chips, *ms;
        status = tn_csv_text(&csv, row, "chips", &chips);
        if (status == TN_OK) status = tn_csv_text(&csv, row, "ms_per_token", &ms);
        if (status != TN_OK || !*chips || !*ms) continue; /* nothing measured here */
        status = read_point(&csv, row, &list[(*count)++]);
    }
    if (status == TN_OK && *count < 4)
        status = tn_fail(TN_FORMAT, "%s: %d points; four constants need at least four", path,
                         *count);
    tn_csv_free(&csv);
    if (status == TN_OK) *points = list;
    else free(list);
    return status;
}

static double error_of_model(const tn_partition_hardware *h, const tn_partition_point *points,
                             int count, const char *model, int *used)
{
    double sum = 0;
    *used = 0;
    for (int i = 0; i < count; i++)
        if (!model || !strcmp(points[i].model.name, model)) {
            sum += tn_partition_error(h, &points[i], 1);
            (*used)++;
        }
    return *used ? sum / *used : 0;
}

void plan_calibration_table(const tn_partition_hardware *raw, const tn_partition_point *points,
                            int count, cli_table *t, tn_partition_hardware *fitted)
{
    static const char *const head[] = {"model",       "points",     "raw error %",
                                       "in sample %", "left out %", "compute",
                                       "memory",      "network",    "us/layer"};
    tn_partition_hardware uncalibrated = *raw;
    uncalibrated.constants = (tn_partition_constants){1, 1, 1, 0};
    *fitted = uncalibrated;
    tn_partition_fit(fitted, points, count, NULL);
    for (size_t i = 0; i < sizeof head / sizeof *head; i++) cli_table_add(t, "%s", head[i]);
    cli_table_end(t);
    for (int i = 0; i <= count; i++) {
        const char *model = i < count ? points[i].model.name : NULL;
        bool seen = false;
        for (int j = 0; j < i && model; j++) seen = seen || !strcmp(points[j].model.name, model);
        if (seen) continue;
        int used;
        tn_partition_hardware without = *fitted;
        double sample = error_of_model(fitted, points, count, model, &used),
               plain = error_of_model(&uncalibrated, points, count, model, &used);
        cli_table_add(t, "%s", model ? model : "all");
        cli_table_add(t, "%d", used);
        cli_table_add(t, "%.1f", 100 * plain);
        cli_table_add(t, "%.1f", 100 * sample);
        if (model && used < count) {
            without = uncalibrated;
            tn_partition_fit(&without, points, count, model);
            cli_table_add(t, "%.1f", 100 * error_of_model(&without, points, count, model, &used));
        } else {
            cli_table_add(t, "%s", "");
        }
        cli_table_add(t, "%.3f", without.constants.compute);
        cli_table_add(t, "%.3f", without.constants.memory);
        cli_table_add(t, "%.3f", without.constants.network);
        cli_table_add(t, "%.1f", 1e6 * without.constants.layer_seconds);
        cli_table_end(t);
    }
}
