/* Models and machines that are known by name, and those that a file describes. */
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "tenon/infer.h"
#include "tenon/partition.h"

/* ---- models ---------------------------------------------------------------------------------- */

/* Shapes: Chowdhery et al. 2022 (PaLM), Smith et al. 2022 (Megatron-Turing). */
static const tn_partition_model models[] = {
    {"palm-8b", 32, 4096, 16384, 16, 256, 1, 256128, 2, true, false, 8.6e9},
    {"palm-62b", 64, 8192, 32768, 32, 256, 1, 256128, 2, true, false, 62e9},
    {"palm-540b", 118, 18432, 73728, 48, 256, 1, 256128, 2, true, false, 540e9},
    {"mt-nlg-530b", 105, 20480, 81920, 128, 160, 128, 51200, 1, false, false, 530e9},
};
enum { MODELS = sizeof models / sizeof *models };

const char *tn_partition_model_name(int i) { return i < MODELS ? models[i].name : NULL; }

double tn_partition_parameters(const tn_partition_model *m)
{
    double heads = (double)(m->heads * m->head_width), kv = (double)(m->kv_heads * m->head_width);
    double block = (double)m->width *
                   ((double)(m->input_matrices + 1) * (double)m->feed_forward + 2 * heads + 2 * kv);
    return (double)m->layers * block +
           (double)m->vocabulary * (double)m->width * (m->untied ? 2 : 1);
}

static tn_status unknown(const char *what, const char *name, const char *(*known)(int))
{
    char list[512] = "";
    size_t used = 0;
    for (int i = 0; known(i) && used < sizeof list - 80; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", known(i));
    return tn_fail(TN_INVALID, "unknown %s \"%s\"; known are %s, or give the path of a file", what,
                   name, list);
}

tn_status tn_partition_model_named(const char *name, tn_partition_model *model)
{
    for (int i = 0; i < MODELS; i++)
        if (!strcmp(models[i].name, name)) {
            *model = models[i];
            return TN_OK;
        }
    return unknown("model", name, tn_partition_model_name);
}

static bool exists(const char *path) { return tn_file_exists(path) || tn_directory_exists(path); }

/* What the file is called without folders. */
static void name_from_path(char *name, size_t size, const char *path)
{
    char copy[512];
    snprintf(copy, sizeof copy, "%s", path);
    for (size_t end = strlen(copy); end > 1 && copy[end - 1] == '/';) copy[--end] = 0;
    const char *slash = strrchr(copy, '/');
    snprintf(name, size, "%.*s", (int)size - 1, slash ? slash + 1 : copy);
}

tn_status tn_partition_model_load(const char *name_or_path, tn_partition_model *model)
{
    if (!exists(name_or_path)) return tn_partition_model_named(name_or_path, model);
    char path[512];
    snprintf(path, sizeof path, "%s", name_or_path);
    if (tn_directory_exists(path))
        snprintf(path, sizeof path, "%s/config.json", name_or_path);
    tn_infer_config c;
    TN_TRY(tn_infer_config_load(path, &c));
    *model = (tn_partition_model){
        .layers = c.layers,
        .width = c.width,
        .feed_forward = c.feed_forward,
        .heads = c.heads,
        .head_width = c.head_width,
        .kv_heads = c.kv_heads,
        .vocabulary = c.vocabulary,
        .input_matrices = c.family == TN_INFER_GPT2 ? 1 : 2,
        .parallel = c.family == TN_INFER_PALM,
        .untied = !c.tied,
    };
    name_from_path(model->name, sizeof model->name, name_or_path);
    return TN_OK;
}

/* ---- hardware -------------------------------------------------------------------------------- */

#define GIB 1073741824.0

/* Datasheets. TPU v4: the paper's figures; its constants are fitted to the 37 points of the paper's
 * Figure 1 (tenon infer evaluate figure1). GPUs: NVLink as one axis; no constants were measured. */
static const tn_partition_hardware machines[] = {
    {"tpu-v4", 275e12, 275e12, 32 * GIB, 1200e9, 270e9, 1e-6, 3, {0.988, 0.763, 0.151, 84.1e-6}},
    {"a100-80g", 312e12, 624e12, 80e9, 2039e9, 300e9, 2e-6, 1, {1, 1, 1, 0}},
    {"h100", 989e12, 1979e12, 80e9, 3350e9, 450e9, 2e-6, 1, {1, 1, 1, 0}},
    {"h200", 989e12, 1979e12, 141e9, 4800e9, 450e9, 2e-6, 1, {1, 1, 1, 0}},
};
enum { MACHINES = sizeof machines / sizeof *machines };

const char *tn_partition_hardware_name(int i) { return i < MACHINES ? machines[i].name : NULL; }

tn_status tn_partition_hardware_named(const char *name, tn_partition_hardware *hardware)
{
    for (int i = 0; i < MACHINES; i++)
        if (!strcmp(machines[i].name, name)) {
            *hardware = machines[i];
            return TN_OK;
        }
    return unknown("hardware", name, tn_partition_hardware_name);
}

static const char *const hardware_keys[] = {"name",
                                            "peak_bf16",
                                            "peak_int8",
                                            "memory_bytes",
                                            "memory_bandwidth",
                                            "link_bandwidth",
                                            "hop_seconds",
                                            "axes",
                                            "compute_efficiency",
                                            "memory_efficiency",
                                            "network_efficiency",
                                            "layer_seconds"};

static tn_status read_hardware(const tn_json *json, const json_t *root, tn_partition_hardware *h)
{
    if (!json_is_object(root))
        return tn_json_fail(json, root, NULL, "a hardware profile must be a JSON object");
    TN_TRY(tn_json_only(json, root, hardware_keys, sizeof hardware_keys / sizeof *hardware_keys));
    const char *name = "hardware";
    int64_t axes = 1;
    *h = (tn_partition_hardware){.constants = {1, 1, 1, 0}};
    TN_TRY(tn_json_string(json, root, "name", TN_JSON_OPTIONAL, &name));
    snprintf(h->name, sizeof h->name, "%s", name);
    TN_TRY(tn_json_number(json, root, "peak_bf16", TN_JSON_REQUIRED, 1, 1e21, &h->peak_bf16));
    h->peak_int8 = h->peak_bf16;
    TN_TRY(tn_json_number(json, root, "peak_int8", TN_JSON_OPTIONAL, 1, 1e21, &h->peak_int8));
    TN_TRY(tn_json_number(json, root, "memory_bytes", TN_JSON_REQUIRED, 1, 1e18, &h->memory_bytes));
    TN_TRY(tn_json_number(json, root, "memory_bandwidth", TN_JSON_REQUIRED, 1, 1e18,
                          &h->memory_bandwidth));
    TN_TRY(tn_json_number(json, root, "link_bandwidth", TN_JSON_REQUIRED, 1, 1e18,
                          &h->link_bandwidth));
    TN_TRY(tn_json_number(json, root, "hop_seconds", TN_JSON_OPTIONAL, 0, 1, &h->hop_seconds));
    TN_TRY(tn_json_integer(json, root, "axes", TN_JSON_OPTIONAL, 1, 3, &axes));
    h->axes = (int)axes;
    tn_partition_constants *c = &h->constants;
    TN_TRY(
        tn_json_number(json, root, "compute_efficiency", TN_JSON_OPTIONAL, 0.001, 1, &c->compute));
    TN_TRY(tn_json_number(json, root, "memory_efficiency", TN_JSON_OPTIONAL, 0.001, 1, &c->memory));
    TN_TRY(
        tn_json_number(json, root, "network_efficiency", TN_JSON_OPTIONAL, 0.001, 1, &c->network));
    return tn_json_number(json, root, "layer_seconds", TN_JSON_OPTIONAL, 0, 1, &c->layer_seconds);
}

tn_status tn_partition_hardware_load(const char *name_or_path, tn_partition_hardware *hardware)
{
    if (!exists(name_or_path)) return tn_partition_hardware_named(name_or_path, hardware);
    tn_json json = {0};
    tn_status status = tn_json_load(name_or_path, 1u << 20, &json);
    if (status == TN_OK) status = read_hardware(&json, json.root, hardware);
    tn_json_free(&json);
    return status;
}

tn_status tn_partition_hardware_save(const tn_partition_hardware *h, const char *path)
{
    json_t *root = json_pack(
        "{s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:i, s:f, s:f, s:f, s:f}", "name", h->name,
        "peak_bf16", h->peak_bf16, "peak_int8", h->peak_int8, "memory_bytes", h->memory_bytes,
        "memory_bandwidth", h->memory_bandwidth, "link_bandwidth", h->link_bandwidth, "hop_seconds",
        h->hop_seconds, "axes", h->axes, "compute_efficiency", h->constants.compute,
        "memory_efficiency", h->constants.memory, "network_efficiency", h->constants.network,
        "layer_seconds", h->constants.layer_seconds);
    if (!root) return tn_fail(TN_MEMORY, "%s: out of memory", path);
    tn_status status = tn_json_save(path, root);
    json_decref(root);
    return status;
}
