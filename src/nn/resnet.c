/* Residual networks.  Source: He et al. 2016 ("Deep residual learning"), table 1; names and the
 * stride's place in the bottleneck (on the 3x3 convolution) are torchvision's.
 *
 * B batch, C channels, H W space. */
#include "graph/op.h"
#include "tenon/nn.h"

typedef struct network {
    const tn_resnet_options *options;
    bool bottleneck;
} network;

static tn_node conv(tn_scope s, tn_node x, int64_t width, int64_t kernel, int64_t stride)
{
    tn_shape weight = TN_SHAPE(width, tn_dim(x, 1), kernel, kernel);
    return tn_conv(s, x, width, .kernel = kernel, .stride = stride, .same = true,
                   .init = tn_init_kaiming_normal_out(weight));
}

/* The norm that ends a block's own path: at 0 the block begins as the identity.  Source: Goyal et
 * al. 2017, section 5.1. */
static tn_node last_norm(const network *n, tn_scope s, tn_node x)
{
    if (n->options->zero_last)
        tn_parameter(s, "weight", TN_SHAPE(tn_dim(x, 1)), tn_init_constant(0));
    return tn_batch_norm(s, x);
}

static tn_node shortcut(tn_scope s, tn_node x, int64_t width, int64_t stride)
{
    if (stride == 1 && tn_dim(x, 1) == width) return x;
    return tn_batch_norm(tn_in(s, "downsample.1"),
                         conv(tn_in(s, "downsample.0"), x, width, 1, stride));
}

/* x [B, C, H, W] -> [B, width, H/stride, W/stride].  Figure 5, left. */
static tn_node basic_block(const network *n, tn_scope s, tn_node x, int64_t width, int64_t stride)
{
    tn_node y = conv(tn_in(s, "conv1"), x, width, 3, stride);
    y = tn_relu(tn_batch_norm(tn_in(s, "bn1"), y));
    y = conv(tn_in(s, "conv2"), y, width, 3, 1);
    y = last_norm(n, tn_in(s, "bn2"), y);
    return tn_relu(tn_add(y, shortcut(s, x, width, stride)));
}

/* x [B, C, H, W] -> [B, 4*width, H/stride, W/stride].  Figure 5, right. */
static tn_node bottleneck_block(const network *n, tn_scope s, tn_node x, int64_t width,
                                int64_t stride)
{
    tn_node y = conv(tn_in(s, "conv1"), x, width, 1, 1);
    y = tn_relu(tn_batch_norm(tn_in(s, "bn1"), y));
    y = conv(tn_in(s, "conv2"), y, width, 3, stride);
    y = tn_relu(tn_batch_norm(tn_in(s, "bn2"), y));
    y = conv(tn_in(s, "conv3"), y, 4 * width, 1, 1);
    y = last_norm(n, tn_in(s, "bn3"), y);
    return tn_relu(tn_add(y, shortcut(s, x, 4 * width, stride)));
}

static tn_node stem(const network *n, tn_scope s, tn_node images, int64_t width)
{
    bool large = n->options->large_images;
    tn_node x = conv(tn_in(s, "conv1"), images, width, large ? 7 : 3, large ? 2 : 1);
    x = tn_relu(tn_batch_norm(tn_in(s, "bn1"), x));
    tn_pool_geometry pool = {
        .kernel = {3, 3}, .stride = {2, 2}, .pad_before = {1, 1}, .pad_after = {1, 1}};
    return large ? tn_max_pool(x, pool) : x;
}

tn_node tn_resnet_with(tn_scope s, tn_node images, tn_resnet_options o)
{
    static const struct {
        int depth, blocks[4];
        bool bottleneck;
    } table[] = {
        {18, {2, 2, 2, 2}, false},  {34, {3, 4, 6, 3}, false},  {50, {3, 4, 6, 3}, true},
        {101, {3, 4, 23, 3}, true}, {152, {3, 8, 36, 3}, true},
    };
    const int *blocks = NULL;
    network n = {.options = &o};
    if (tn_is_none(images)) return images;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].depth == (o.depth ? o.depth : 18))
            blocks = table[i].blocks, n.bottleneck = table[i].bottleneck;
    if (!blocks)
        return tn_graph_fail(s.graph, "resnet: depth %d; choose 18, 34, 50, 101 or 152", o.depth);
    if (tn_rank(images) != 4)
        return tn_graph_fail(s.graph, "resnet: images are %s, but must be [B, C, H, W]",
                             tn_shape_text(tn_shape_of(images)));

    int64_t width = o.width ? o.width : 64;
    tn_node x = stem(&n, s, images, width);
    for (int stage = 0; stage < 4; stage++, width *= 2)
        for (int i = 0; i < blocks[stage]; i++) {
            tn_scope block = tn_in(s, "layer%d.%d", stage + 1, i);
            int64_t stride = stage > 0 && i == 0 ? 2 : 1;
            x = n.bottleneck ? bottleneck_block(&n, block, x, width, stride)
                             : basic_block(&n, block, x, width, stride);
        }
    x = tn_mean(x, TN_AXES(2, 3));
    return o.classes ? tn_linear(tn_in(s, "fc"), x, o.classes, .bias = true) : x;
}
