/* What the planning verbs share: their options, and points that were measured. */
#ifndef TN_CLI_INFER_PLAN_H
#define TN_CLI_INFER_PLAN_H

#include "base/csv.h"
#include "cli/table.h"
#include "tenon/partition.h"

/* A JSON value of an estimate; NULL when out of memory. */
typedef struct json_t json_t;
json_t *plan_estimate_json(const tn_partition_estimate *estimate);

/* Names by number, for choosing one. */
static inline const char *plan_ff_name(int i) { return tn_partition_ff_name((tn_partition_ff)i); }
static inline const char *plan_attention_name(int i)
{
    return tn_partition_attention_name((tn_partition_attention)i);
}

/* Decode points from a CSV with the columns model, chips, batch, ms_per_token, and perhaps weights
 * (bf16 or int8), context, layout, attention; rows without a time or a count are passed over. *points
 * is the caller's (free). */
tn_status plan_read_points(const char *path, tn_partition_point **points, int *count);
/* The mesh that the paper's code uses for so many chips, or the most cubic one. */
void plan_usual_mesh(int64_t chips, int64_t mesh[3]);
/* The most batch parts that the batch allows. */
tn_partition_attention plan_batch_attention(int64_t batch, const int64_t *mesh);
/* Error in sample and with each model left out in turn; rows of a table. */
void plan_calibration_table(const tn_partition_hardware *raw, const tn_partition_point *points,
                            int count, cli_table *table, tn_partition_hardware *fitted);

int cli_infer_plan(int argc, char **argv);
int cli_infer_explain(int argc, char **argv);
int cli_infer_sweep(int argc, char **argv);
int cli_infer_calibrate(int argc, char **argv);
int cli_infer_evaluate(int argc, char **argv);

#endif
