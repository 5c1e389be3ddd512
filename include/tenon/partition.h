/* Planning partitioned transformer inference: which way to cut a model over X x Y x Z chips, what
 * every cut moves, holds and costs, and how that compares with what was measured.
 *
 * Source: Pope et al. 2022, "Efficiently Scaling Transformer Inference" (arXiv:2211.05102). Letters
 * as there: B sequences of L tokens in one pass (T = B L), E model width, F feed-forward width, H
 * query heads of width Q, K key/value heads, D layers, V vocabulary, n = X Y Z chips, g input
 * matrices of the feed-forward part, P = (g + 1) F + 2 H Q. Volumes are elements per chip and
 * layer; all else is bytes, seconds and FLOP. */
#ifndef TENON_PARTITION_H
#define TENON_PARTITION_H

#include <stdbool.h>
#include <stdint.h>

#include "tenon/status.h"

/* ---- models ---------------------------------------------------------------------------------- */

typedef struct tn_partition_model {
    char name[64];
    int64_t layers, width, feed_forward, heads, head_width, kv_heads, vocabulary;
    int64_t input_matrices; /* g: 2 for SwiGLU and GeGLU, 1 for GELU and ReLU */
    bool parallel;          /* attention and feed-forward side by side, one norm */
    bool untied;            /* a classifier of its own besides the embedding */
    double nominal;         /* parameters that MFU counts ("540B"); 0: all of them */
} tn_partition_model;

/* A built-in model ("palm-540b"); TN_INVALID with the list of names. */
tn_status tn_partition_model_named(const char *name, tn_partition_model *model);
/* The same, or a config.json, or a directory with one. */
tn_status tn_partition_model_load(const char *name_or_path, tn_partition_model *model);
/* Built-in names, one after the other; NULL behind the last. */
const char *tn_partition_model_name(int i);
/* Parameters of all matrices, norms and biases left out. */
double tn_partition_parameters(const tn_partition_model *model);

/* ---- hardware -------------------------------------------------------------------------------- */

/* What a chip reaches of its datasheet, and what nothing hides. 1, 1, 1, 0: the raw roofline. */
typedef struct tn_partition_constants {
    double compute, memory, network; /* fractions in (0, 1] */
    double layer_seconds;            /* fixed time of a layer in one pass */
} tn_partition_constants;

typedef struct tn_partition_hardware {
    char name[64];
    double peak_bf16, peak_int8; /* FLOP/s of a chip */
    double memory_bytes, memory_bandwidth;
    double link_bandwidth; /* bytes/s of a chip over all its links */
    double hop_seconds;    /* latency from neighbour to neighbour */
    int axes;              /* of the torus that link_bandwidth is shared by */
    tn_partition_constants constants;
} tn_partition_hardware;

tn_status tn_partition_hardware_named(const char *name, tn_partition_hardware *hardware);
/* The same, or a JSON file. */
tn_status tn_partition_hardware_load(const char *name_or_path, tn_partition_hardware *hardware);
tn_status tn_partition_hardware_save(const tn_partition_hardware *hardware, const char *path);
const char *tn_partition_hardware_name(int i);

/* ---- layouts --------------------------------------------------------------------------------- */

typedef enum tn_partition_ff {
    TN_WS1D,   /* 1D weight-stationary */
    TN_WS2D,   /* 2D weight-stationary */
    TN_WG_X,   /* weights gathered over x, batch split over x */
    TN_WG_XY,  /* ... over x and y */
    TN_WG_XYZ, /* ... over all: no activation moves */
    TN_PARTITION_FFS
} tn_partition_ff;

/* Over which axes queries and cache are split by batch; over the others by heads. */
typedef enum tn_partition_attention {
    TN_BY_HEADS,
    TN_BY_BATCH_Z,
    TN_BY_BATCH_YZ,
    TN_BY_BATCH_YZX,
    TN_PARTITION_ATTENTIONS
} tn_partition_attention;

typedef struct tn_partition_layout {
    int64_t mesh[3]; /* X, Y, Z */
    tn_partition_ff ff;
    tn_partition_attention attention; /* weight-gathered layouts split by batch by themselves */
} tn_partition_layout;

const char *tn_partition_ff_name(tn_partition_ff ff);                      /* "ws2d" */
const char *tn_partition_attention_name(tn_partition_attention attention); /* "batch-yz" */

/* ---- what is asked --------------------------------------------------------------------------- */

/* One pass: a prefill of L tokens a sequence, or a step of decoding (L = 1). */
typedef struct tn_partition_job {
    int64_t batch, tokens, context; /* B, L, and positions that attention reads at the end */
    int weight_bytes, activation_bytes, cache_bytes; /* of an element; 0: 2 (bf16) */
    bool paper_volumes; /* the paper's approximations, without the factors (1 - 1/k) */
    bool axis_links;    /* a collective has only the links of its own axes, and hops take time */
    bool ff_only;       /* volumes of the feed-forward part alone */
} tn_partition_job;

/* What moves between chips; names as in the byte report. */
typedef enum tn_partition_term {
    TN_GATHER_INPUT,
    TN_NORM_STATISTICS,
    TN_SCATTER_Q_WI,
    TN_KV,
    TN_ALL_TO_ALL,
    TN_GATHER_ATT_MLP,
    TN_SCATTER_OUTPUT,
    TN_GATHER_WEIGHTS,
    TN_GATHER_KV_WEIGHTS,
    TN_PARTITION_TERMS
} tn_partition_term;

const char *tn_partition_term_name(tn_partition_term term); /* "gather_input" */

typedef struct tn_partition_estimate {
    tn_partition_layout layout;
    bool possible, fits; /* possible: the layout exists for this job; fits: memory suffices */
    char reason[160];    /* why not; or what was padded, "" if nothing */
    int64_t padded_heads;
    double padded_parameters;          /* with padding, norms left out */
    double volume[TN_PARTITION_TERMS]; /* elements per chip and layer */
    double bytes[TN_PARTITION_TERMS];  /* per chip and layer */
    double volume_sum, bytes_sum;
    /* seconds of the pass, all layers; latency = max(compute + attention, weights + kv) +
     * communication + fixed, each over its constant */
    double compute, attention, weights, kv, communication, fixed, latency;
    double mfu;          /* 2 nominal T / (latency n peak) */
    double chip_seconds; /* per token */
    /* bytes of a chip */
    double weight_memory, kv_memory, gathered_memory, activation_memory, memory;
} tn_partition_estimate;

/* Everything about one layout. Sizes must be positive; mesh entries at least 1. */
void tn_partition_estimate_layout(const tn_partition_model *model,
                                  const tn_partition_hardware *hardware,
                                  const tn_partition_job *job, tn_partition_layout layout,
                                  tn_partition_estimate *out);

/* The lowest latency first, then what does not fit, then what is not possible. All layouts on all
 * factorisations of `chips`, or on `mesh` alone if it is not NULL. *list is the caller's (free).
 * TN_INVALID when chips < 1. */
tn_status tn_partition_search(const tn_partition_model *model,
                              const tn_partition_hardware *hardware, const tn_partition_job *job,
                              int64_t chips, const int64_t *mesh, tn_partition_estimate **list,
                              int *count);

/* A range of token counts in which one layout moves least. */
typedef struct tn_partition_crossover {
    double from; /* tokens; 0 for the first */
    tn_partition_ff ff;
} tn_partition_crossover;
/* The lower envelope of the five layouts' bytes over T on one mesh: at most TN_PARTITION_FFS
 * entries. Returns how many. */
int tn_partition_crossovers(const tn_partition_model *model, const tn_partition_job *job,
                            const int64_t *mesh, tn_partition_crossover *out);

/* The largest context at which the cache fits into `bytes` of each chip. */
int64_t tn_partition_max_context(const tn_partition_model *model, const tn_partition_job *job,
                                 tn_partition_layout layout, double bytes);

/* Bytes of cache on a chip for each position of context. */
double tn_partition_kv_bytes(const tn_partition_model *model, const tn_partition_job *job,
                             tn_partition_layout layout);

/* ---- calibration ----------------------------------------------------------------------------- */

/* A measured decode step or prefill. */
typedef struct tn_partition_point {
    tn_partition_model model;
    tn_partition_job job;
    tn_partition_layout layout;
    double seconds;
} tn_partition_point;

/* The latency of the point's layout with the constants of `hardware`. */
double tn_partition_predict(const tn_partition_hardware *hardware, const tn_partition_point *point);
/* Mean of |predicted / measured - 1|. */
double tn_partition_error(const tn_partition_hardware *hardware, const tn_partition_point *point,
                          int count);
/* Sets hardware->constants to those with the least mean square of log(predicted / measured) over the
 * points. `skip`: name of a model to leave out, or NULL. */
void tn_partition_fit(tn_partition_hardware *hardware, const tn_partition_point *point, int count,
                      const char *skip);

#endif
