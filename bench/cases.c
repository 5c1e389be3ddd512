/* The benchmark's eight networks. Order of layers, widths, losses and optimisers are those of
 * peers/pytorch_cases.py.
 *
 * B batch, L length, E width, H heads, Q head width, V vocabulary; C, H, W and D space. */
#include "cases.h"

#include <stdlib.h>
#include <string.h>

#include "tenon/infer.h"
#include "tenon/nn.h"
#include "tenon/random.h"

/* ---- losses --------------------------------------------------------------------------------- */

/* output [..., V], target [...]: mean over all rows. */
static tn_node cross_entropy(tn_node output, tn_node target)
{
    int64_t classes = tn_dim(output, -1), rows = tn_shape_size(tn_shape_of(target));
    tn_node each = tn_cross_entropy(tn_reshape(output, TN_SHAPE(rows, classes)),
                                    tn_reshape(target, TN_SHAPE(rows)));
    return tn_mean(each, TN_ALL_AXES);
}

static tn_node binary_cross_entropy(tn_node output, tn_node target)
{
    return tn_mean(tn_bce_with_logits(tn_cast(output, TN_F32), target), TN_ALL_AXES);
}

/* ---- images --------------------------------------------------------------------------------- */

static tn_node mlp(tn_scope s, tn_node x) { return tn_mlp(s, x, TN_WIDTHS(1024, 1024, 10)); }

static tn_node resnet18(tn_scope s, tn_node x) { return tn_resnet(s, x, .classes = 10); }

/* Two 3x3 (3x3x3) convolutions, each with batch norm and ReLU. */
static tn_node double_conv(tn_scope s, tn_node x, int64_t width)
{
    for (int i = 0; i < 6; i += 3) {
        x = tn_conv(tn_in(s, "%d", i), x, width, .kernel = 3, .pad = 1);
        x = tn_relu(tn_batch_norm(tn_in(s, "%d", i + 1), x));
    }
    return x;
}

/* x [B, 1, S...] -> [B, 1, S...].  Source: Ronneberger et al. 2015, figure 1, with padding; Cicek
 * et al. 2016 in 3D. */
static tn_node unet(tn_scope s, tn_node x, int64_t base)
{
    enum { LEVELS = 4 };
    tn_node kept[LEVELS];
    for (int i = 0; i < LEVELS; i++) {
        if (i > 0)
            x = tn_max_pool(x, (tn_pool_geometry){.kernel = {2, 2, tn_rank(x) == 5 ? 2 : 0}});
        x = kept[i] = double_conv(tn_in(s, "down.%d", i), x, base << i);
    }
    for (int i = 0; i < LEVELS - 1; i++) {
        int64_t width = base << (LEVELS - 2 - i);
        tn_node up = tn_conv_transpose(tn_in(s, "up.%d", i), x, width, .kernel = 2, .stride = 2,
                                       .bias = true);
        x = tn_concat((tn_node[]){kept[LEVELS - 2 - i], up}, 2, 1);
        x = double_conv(tn_in(s, "join.%d", i), x, width);
    }
    return tn_conv(tn_in(s, "head"), x, 1, .kernel = 1, .bias = true);
}

static tn_node unet2d(tn_scope s, tn_node x) { return unet(s, x, 32); }
static tn_node unet3d(tn_scope s, tn_node x) { return unet(s, x, 16); }

/* ---- sequences ------------------------------------------------------------------------------ */

/* x [B, L, E], one matrix for queries, keys and values. */
static tn_node self_attention(tn_scope s, tn_node x, int64_t heads)
{
    int64_t B = tn_dim(x, 0), L = tn_dim(x, 1), E = tn_dim(x, 2);
    tn_node qkv = tn_linear(tn_in(s, "qkv"), x, 3 * E, .bias = true), part[3];
    tn_split(tn_reshape(qkv, TN_SHAPE(B, L, 3 * heads, E / heads)), 3, 2, part);
    tn_node y = tn_attention(part[0], part[1], part[2]);
    return tn_linear(tn_in(s, "out"), tn_reshape(y, TN_SHAPE(B, L, E)), E, .bias = true);
}

/* tokens [B, L] -> [B, 2]: post-norm blocks, mean pooling.  Source: Devlin et al. 2019; Vaswani et
 * al. 2017. */
static tn_node bert(tn_scope s, tn_node tokens)
{
    enum { LAYERS = 6, E = 384, HEADS = 6, F = 1536, V = 30522 };
    tn_node places = tn_parameter(tn_in(s, "places"), "weight", TN_SHAPE(tn_dim(tokens, 1), E),
                                  tn_init_normal(0, 1));
    tn_node x = tn_embedding(tn_in(s, "words"), tokens, V, E);
    x = tn_layer_norm_layer(tn_in(s, "norm"), tn_add(x, tn_to_compute(s, places)));
    for (int i = 0; i < LAYERS; i++) {
        tn_scope layer = tn_in(s, "layers.%d", i);
        x = tn_layer_norm_layer(tn_in(layer, "n1"), tn_add(x, self_attention(layer, x, HEADS)));
        tn_node inner = tn_gelu(tn_linear(tn_in(layer, "up"), x, F, .bias = true));
        x = tn_layer_norm_layer(tn_in(layer, "n2"),
                                tn_add(x, tn_linear(tn_in(layer, "down"), inner, E, .bias = true)));
    }
    return tn_linear(tn_in(s, "head"), tn_mean(x, TN_AXES(1)), 2, .bias = true);
}

/* y [L, B, N]: classes from the last step. */
static tn_node last_step(tn_scope s, tn_node y, int64_t classes)
{
    int64_t L = tn_dim(y, 0);
    return tn_linear(tn_in(s, "head"), tn_squeeze(tn_slice(y, 0, L - 1, L, 1), 0), classes,
                     .bias = true);
}

static tn_node lstm(tn_scope s, tn_node x)
{
    return last_step(s, tn_lstm(tn_in(s, "net"), x, 128).y, 10);
}
static tn_node gru(tn_scope s, tn_node x)
{
    return last_step(s, tn_gru(tn_in(s, "net"), x, 16).y, 2);
}

/* tokens [B, L] -> [B, L, 256].  Source: Chowdhery et al. 2022, section 2. */
static tn_node palm(tn_scope s, tn_node tokens)
{
    tn_infer_config c = {.family = TN_INFER_PALM,
                         .layers = 8,
                         .width = 512,
                         .feed_forward = 2048,
                         .heads = 8,
                         .kv_heads = 1,
                         .head_width = 64,
                         .vocabulary = 256,
                         .context = 512,
                         .norm_epsilon = 1e-6,
                         .rope_base = 10000,
                         .tied = true,
                         .bos = -1,
                         .eos = -1};
    tn_infer_pass pass = {.tokens = tokens};
    return tn_infer_logits(s, &c, &pass);
}

/* ---- the table ------------------------------------------------------------------------------ */

#define OPTIMIZER(...)                                                                             \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
#define SGD OPTIMIZER(.rule = TN_SGD, .learning_rate = 1e-3, .momentum = 0.9)
#define ADAM OPTIMIZER(.rule = TN_ADAM, .learning_rate = 1e-4)
/* PyTorch's defaults: everything decays */
#define ADAMW                                                                                      \
    OPTIMIZER(.rule = TN_ADAMW, .learning_rate = 1e-4, .weight_decay = 0.01,                       \
              .decay_scope = TN_DECAY_ALL)
#define DIMS(...)                                                                                  \
    {                                                                                              \
        .rank = (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), .dim = { __VA_ARGS__ }  \
    }

static const bench_case cases[] = {
    {"mlp",
     "MLP 784-1024-1024-10, B=256",
     {DIMS(256, 784), BENCH_NORMAL, 0},
     {DIMS(256), BENCH_BELOW, 10},
     mlp,
     cross_entropy,
     SGD},
    {"resnet18",
     "ResNet-18, 32x32, B=64",
     {DIMS(64, 3, 32, 32), BENCH_NORMAL, 0},
     {DIMS(64), BENCH_BELOW, 10},
     resnet18,
     cross_entropy,
     SGD},
    {"unet2d",
     "U-Net 2D, 4 levels, 32 channels, 256x256, B=4",
     {DIMS(4, 1, 256, 256), BENCH_NORMAL, 0},
     {DIMS(4, 1, 256, 256), BENCH_COIN, 0},
     unet2d,
     binary_cross_entropy,
     ADAM},
    {"unet3d",
     "U-Net 3D, 4 levels, 16 channels, 96^3, B=1",
     {DIMS(1, 1, 96, 96, 96), BENCH_NORMAL, 0},
     {DIMS(1, 1, 96, 96, 96), BENCH_COIN, 0},
     unet3d,
     binary_cross_entropy,
     ADAM},
    {"bert",
     "BERT encoder 6x384, L=180, B=16",
     {DIMS(16, 180), BENCH_BELOW, 30522},
     {DIMS(16), BENCH_BELOW, 2},
     bert,
     cross_entropy,
     ADAMW},
    {"lstm",
     "LSTM 128-128, 200 steps, B=64",
     {DIMS(200, 64, 128), BENCH_NORMAL, 0},
     {DIMS(64), BENCH_BELOW, 10},
     lstm,
     cross_entropy,
     ADAM},
    {"gru",
     "GRU 8-16, 4 steps, B=32",
     {DIMS(4, 32, 8), BENCH_NORMAL, 0},
     {DIMS(32), BENCH_BELOW, 2},
     gru,
     cross_entropy,
     SGD},
    {"palm",
     "PaLM decoder 8x512, L=512, B=4",
     {DIMS(4, 512), BENCH_BELOW, 256},
     {DIMS(4, 512), BENCH_BELOW, 256},
     palm,
     cross_entropy,
     ADAMW},
};

const bench_case *bench_case_at(int index)
{
    return index >= 0 && (size_t)index < sizeof cases / sizeof *cases ? &cases[index] : NULL;
}

const bench_case *bench_find_case(const char *name)
{
    for (int i = 0; bench_case_at(i); i++)
        if (strcmp(cases[i].name, name) == 0) return &cases[i];
    return NULL;
}

static tn_node feed_node(tn_graph *graph, const char *name, const bench_feed *feed)
{
    return tn_input(graph, name, feed->content == BENCH_BELOW ? TN_I32 : TN_F32, feed->shape);
}

bench_nodes bench_build(const bench_case *c, tn_graph *graph, bool training, tn_dtype compute)
{
    tn_scope root = tn_root(graph);
    root.training = training;
    root.compute = compute;
    bench_nodes n = {.input = feed_node(graph, "input", &c->input)};
    n.output = c->model(root, n.input);
    if (!training) return n;
    n.target = feed_node(graph, "target", &c->target);
    n.loss = c->loss(n.output, n.target);
    n.updates = tn_minimise(n.loss, &c->optimizer);
    return n;
}

void *bench_make_data(const bench_feed *feed, uint64_t stream)
{
    enum { SEED = 1 };
    int64_t count = tn_shape_size(feed->shape);
    void *data = aligned_alloc(64, ((size_t)count * 4 + 63) / 64 * 64);
    if (!data) return NULL;
    float *real = data;
    int32_t *whole = data;
    for (int64_t i = 0; i < count; i++) {
        uint64_t at = (uint64_t)i;
        if (feed->content == BENCH_NORMAL) real[i] = (float)tn_random_normal(SEED, stream, at);
        if (feed->content == BENCH_COIN) real[i] = (float)tn_random_below(SEED, stream, at, 2);
        if (feed->content == BENCH_BELOW)
            whole[i] = (int32_t)tn_random_below(SEED, stream, at, (uint64_t)feed->bound);
    }
    return data;
}
