/* Transformer language models: load, generate, train.  (`tenon infer`)
 *
 * One graph-building function covers the decoder families by its configuration: Llama (serial block, grouped-query attention, RMS
 * norm, SwiGLU, rotary positions), GPT-2 (serial block, layer norm, biases, tanh GELU, learned positions) and PaLM (parallel block,
 * multiquery attention, SwiGLU, rotary positions, tied embeddings).
 * Sources: Pope et al. 2022, arXiv:2211.05102; Chowdhery et al. 2022 (PaLM); Touvron et al. 2023 (Llama); Radford et al. 2019. */
#ifndef TENON_INFER_H
#define TENON_INFER_H

#include <signal.h>

#include "tenon/graph.h"
#include "tenon/state.h"
#include "tenon/tokenizer.h"
#include "tenon/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the model --------------------------------------------------------------------------------------------- */

typedef enum tn_infer_family { TN_INFER_LLAMA = 0, TN_INFER_GPT2, TN_INFER_PALM } tn_infer_family;

typedef struct tn_infer_config {
    tn_infer_family family;
    int64_t layers, width, feed_forward, heads, kv_heads, head_width, vocabulary,
        context; /* D E F H K Q V, positions */
    double norm_epsilon, rope_base;
    bool rope_interleaved; /* pairs (2i, 2i+1): llama2.c; else halves: Hugging Face, PaLM */
    bool tied;             /* logits through the embedding table */
    int64_t bos, eos;      /* token ids, or -1 */
} tn_infer_config;

/* Reads `path` (a config.json) or, with weights given, their own metadata. Every number is checked (heads divide, sizes sane);
 * errors name file, line and field. */
tn_status tn_infer_config_load(const char *path, tn_infer_config *config);
tn_status tn_infer_config_of(const tn_weights *weights, tn_infer_config *config);
tn_status tn_infer_config_save(const tn_infer_config *config, const char *path);
/* Number of parameters, embeddings included once if tied. */
int64_t tn_infer_parameter_count(const tn_infer_config *config);

/* Puts weights into the state under the names that tn_infer_logits declares (Hugging Face's Llama names). f32 tensors are borrowed from the
 * mapped file, so `weights` must outlive the state; others are expanded. Every tensor's presence and shape is checked against the
 * configuration; NaN and infinities are refused with the tensor's name. */
tn_status tn_infer_load(tn_state *state, const tn_infer_config *config, const tn_weights *weights);

/* What a pass over the model reads and writes. */
typedef struct tn_infer_pass {
    tn_node tokens; /* [B, L] i32 */
    tn_node
        start; /* [B] i32: position of the first token of each row = entries already in the cache; TN_NONE: no cache */
    int64_t capacity; /* with start: positions the cache holds */
    bool last_only;   /* logits of the last position only: [B, V] instead of [B, L, V] */
    tn_node updates;  /* out, with start: the token that stores the new keys and values */
    /* Unless NULL: called with every intermediate value while building, named as in the code ("attention.q", "mlp.out", ...). */
    void (*tap)(void *context, int layer, const char *name, tn_node value);
    void *tap_context;
} tn_infer_pass;

/* The transformer: logits [B, L, V] f32. scope.compute chooses f32 or bf16 products. Cost 2*parameters FLOP a token and 4*H*Q*context for
 * attention. */
tn_node tn_infer_logits(tn_scope scope, const tn_infer_config *config, tn_infer_pass *pass);

/* ---- generation ------------------------------------------------------------------------------------------------ */

typedef struct tn_logit_bias {
    int32_t token;
    double bias; /* -INFINITY forbids the token */
} tn_logit_bias;

/* Done in this order: repetition penalty, bias, temperature, top-k, top-p, min-p. */
typedef struct tn_sampling {
    double temperature; /* 0: the most likely token (lowest id on ties) */
    int64_t top_k;      /* 0: all */
    double top_p;       /* the smallest set that holds this probability; 0 or 1: all */
    double min_p;       /* only tokens with at least this times the best one's probability; 0: all */
    const tn_logit_bias *bias; /* added to logits */
    int64_t bias_count;
    double
        repetition; /* divides (or multiplies, if negative) logits of tokens seen already; 0 or 1: off */
    uint64_t seed; /* a token depends on (seed, sample, position) alone */
    uint64_t sample;
} tn_sampling;

/* Draws one token from logits [vocabulary]. Source: Philox as everywhere; top-p after Holtzman et al. 2020. Cost: one or two looks at
 * every logit; no sort of the vocabulary. Errors: options out of range, NaN logits, no token possible. */
tn_status tn_sample(const float *logits, int64_t vocabulary, const tn_sampling *sampling,
                    uint64_t position, const int32_t *seen, int64_t seen_count, int32_t *token);

typedef struct tn_generator tn_generator;

typedef struct tn_generator_options {
    tn_dtype compute; /* TN_F32 or TN_BF16 */
    int64_t context;  /* cache positions; 0: the model's context */
} tn_generator_options;

/* One sequence at a time over a state: its cache is the state's "cache/..." entries. Prepares one sequence's plans (prefill in chunks, decode) over `state`, which must hold the model. Free before the state. */
tn_status tn_generator_create(tn_generator **generator, tn_state *state,
                              const tn_infer_config *config, tn_generator_options options);
void tn_generator_free(tn_generator *generator);
/* Forgets the sequence. */
void tn_generator_reset(tn_generator *generator);
/* Feeds `count` tokens behind what is there and gives the logits [V] after the last; they stay valid until the next call. Error when the
 * context is full (says both lengths), a token id is out of range, or the logits are not finite. */
tn_status tn_generator_feed(tn_generator *generator, const int32_t *tokens, int64_t count,
                            const float **logits);
int64_t tn_generator_position(const tn_generator *generator);
/* Bytes of scratch and cache. */
size_t tn_generator_bytes(const tn_generator *generator);

/* ---- converting ---- */

/* Writes a model as a directory in the Hugging Face layout: config.json, model.safetensors with floating-point tensors as `dtype` (f32, bf16,
 * f16; block codings are expanded), and tokenizer.json unless `tokenizer` is NULL. Rotary rows of llama2.c and GGUF files come in Hugging
 * Face's order. Each file appears whole or not at all. */
tn_status tn_infer_convert(const tn_weights *weights, const tn_tokenizer *tokenizer, tn_dtype dtype,
                           const char *directory);

/* ---- scoring ---- */

typedef struct tn_score_options {
    tn_dtype compute; /* TN_F32 (also 0) or TN_BF16 */
    int64_t window;   /* tokens that a pass sees; 0: the model's context */
    int64_t stride;   /* tokens that a later window adds; 0: half a window */
} tn_score_options;

/* loss[i] = -log p(tokens[i+1] | what the window has before it), natural, for i < count-1. `state` holds the model. Every token is
 * predicted once, behind at least window - stride others (at the beginning, behind all there are). Errors: fewer than two tokens,
 * ids out of range, a window beyond the context, losses that are not finite. */
tn_status tn_infer_score(tn_state *state, const tn_infer_config *config, const int32_t *tokens,
                         int64_t count, const tn_score_options *options, float *loss);

/* ---- training ---------------------------------------------------------------------------------------------------- */

typedef struct tn_infer_train_options {
    const char *
        config; /* JSON: the model (as config.json) and, under "training", any of the fields below */
    const char *text;      /* file or directory */
    const char *run;       /* run folder: config.json, metrics.jsonl, checkpoint/, model/ */
    const char *tokenizer; /* NULL: byte level */
    int64_t batch, length; /* sequences and tokens a step; 0: from the config, or 8 and 128 */
    int64_t steps;
    double learning_rate;
    int64_t warmup;
    double weight_decay, clip;
    double held_out; /* fraction of the text; 0: 0.05 */
    int64_t evaluate_every, checkpoint_every, sample_every;
    const char *prompt; /* of the samples */
    bool bf16;
    bool resume;
    uint64_t seed;
    double seconds; /* stop after so long; 0: no limit */
    const volatile sig_atomic_t
        *stop; /* set by a signal handler: checkpoint, then TN_INTERRUPTED */
    void (*report)(void *context,
                   const char *line); /* progress and samples for people; may be NULL */
    void *context;
} tn_infer_train_options;

typedef struct tn_infer_train_result {
    int64_t steps, parameters, tokens;
    double loss, held_out_loss, bits_per_byte, seconds, tokens_per_second;
    size_t scratch_bytes, state_bytes;
} tn_infer_train_result;

/* Trains a decoder from a text. Killed at any moment and called again with .resume it ends with the same bits as one uninterrupted run. */
tn_status tn_infer_train(const tn_infer_train_options *options, tn_infer_train_result *result);

#ifdef __cplusplus
}
#endif
#endif
