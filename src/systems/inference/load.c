/* Weights into state: every parameter that the graph declares is looked for in the file, under its own name or the name that another
 * family of files has for it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/graph.h"
#include "tenon/infer.h"

/* minGPT and GPT-2: our name's part -> theirs. Query, key and value are row blocks 0, 1, 2 of one matrix there. */
static const struct {
    const char *ours, *theirs;
    int block; /* -1: the whole tensor */
} gpt_names[] = {
    {"input_layernorm", "ln_1", -1},         {"self_attn.q_proj", "attn.c_attn", 0},
    {"self_attn.k_proj", "attn.c_attn", 1},  {"self_attn.v_proj", "attn.c_attn", 2},
    {"self_attn.o_proj", "attn.c_proj", -1}, {"post_attention_layernorm", "ln_2", -1},
    {"mlp.up_proj", "mlp.c_fc", -1},         {"mlp.down_proj", "mlp.c_proj", -1},
};
static const struct {
    const char *ours, *theirs;
} gpt_outside[] = {
    {"model.embed_tokens.weight", "transformer.wte.weight"},
    {"model.embed_positions.weight", "transformer.wpe.weight"},
    {"model.norm.weight", "transformer.ln_f.weight"},
    {"model.norm.bias", "transformer.ln_f.bias"},
    {"lm_head.weight", "lm_head.weight"},
};

/* Where parameter `name` is in a minGPT file. */
static bool gpt_name(const char *name, char theirs[128], int *block)
{
    *block = -1;
    for (size_t i = 0; i < sizeof gpt_outside / sizeof *gpt_outside; i++)
        if (!strcmp(name, gpt_outside[i].ours))
            return snprintf(theirs, 128, "%s", gpt_outside[i].theirs) > 0;
    int layer, used = 0;
    if (sscanf(name, "model.layers.%d.%n", &layer, &used) < 1 || !used) return false;
    for (size_t i = 0; i < sizeof gpt_names / sizeof *gpt_names; i++) {
        size_t length = strlen(gpt_names[i].ours);
        if (strncmp(name + used, gpt_names[i].ours, length) || name[used + (int)length] != '.')
            continue;
        *block = gpt_names[i].block;
        return snprintf(theirs, 128, "transformer.h.%d.%s%s", layer, gpt_names[i].theirs,
                        name + used + length) > 0;
    }
    return false;
}

static bool is_plain_f32(const tn_weight *weight)
{
    return weight->dtype == TN_F32 && weight->coding == TN_CODING_PLAIN &&
           (uintptr_t)weight->bytes % sizeof(float) == 0;
}

/* The whole tensor `theirs` becomes `name`. */
static tn_status take(tn_state *state, const tn_weights *weights, const char *name,
                      const char *theirs, tn_shape shape)
{
    const tn_weight *weight;
    TN_TRY(tn_weights_require(weights, theirs, shape, &weight));
    if (is_plain_f32(weight)) return tn_state_borrow(state, name, TN_F32, shape, weight->bytes);
    TN_TRY(tn_state_put(state, name, TN_F32, shape, NULL));
    return tn_weights_read_f32(weights, theirs, tn_state_find(state, name)->data,
                               tn_shape_size(shape));
}

/* Row block `block` of three. */
static tn_status take_block(tn_state *state, const tn_weights *weights, const char *name,
                            const char *theirs, int block, tn_shape shape)
{
    tn_shape whole = shape;
    whole.dim[0] *= 3;
    const tn_weight *weight;
    TN_TRY(tn_weights_require(weights, theirs, whole, &weight));
    int64_t count = tn_shape_size(whole);
    float *all = malloc((size_t)count * sizeof *all + 1);
    if (!all) return tn_fail(TN_MEMORY, "out of memory for tensor '%s'", theirs);
    tn_status status = tn_weights_read_f32(weights, theirs, all, count);
    if (status == TN_OK)
        status = tn_state_put(state, name, TN_F32, shape, all + block * (count / 3));
    free(all);
    return status;
}

tn_status tn_infer_load(tn_state *state, const tn_infer_config *config, const tn_weights *weights)
{
    TN_TRY(tn_weights_check_finite(weights));
    bool gpt = !strcmp(tn_weights_format(weights), "minGPT");
    tn_graph *graph = tn_graph_create(state); /* declares every parameter; nothing of it runs */
    if (!graph) return TN_MEMORY;
    tn_infer_pass pass = {.tokens = tn_input(graph, "tokens", TN_I32, TN_SHAPE(1, 1))};
    tn_infer_logits(tn_root(graph), config, &pass);
    tn_status status = tn_graph_status(graph);
    int count = tn_graph_parameters(graph, NULL, 0);
    tn_node *parameter = calloc((size_t)count + 1, sizeof *parameter);
    if (status == TN_OK && !parameter)
        status = tn_fail(TN_MEMORY, "out of memory for %d parameters", count);
    if (status == TN_OK) tn_graph_parameters(graph, parameter, count);
    for (int i = 0; i < count && status == TN_OK; i++) {
        const char *name = tn_value_of(parameter[i])->name;
        char theirs[128];
        int block = -1;
        if (!gpt || !gpt_name(name, theirs, &block)) snprintf(theirs, sizeof theirs, "%s", name);
        tn_shape shape = tn_shape_of(parameter[i]);
        status = block < 0 ? take(state, weights, name, theirs, shape)
                           : take_block(state, weights, name, theirs, block, shape);
    }
    free(parameter);
    tn_graph_free(graph);
    return status;
}
