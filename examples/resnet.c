/* A ResNet-18 learns to name generated shapes of 32x32 pixels; prints its accuracy on images that
 * it has not seen.
 *
 *     resnet [STEPS [WIDTH]]     400 steps; first stage of 16 channels (the full network has 64) */
#include <stdio.h>
#include <stdlib.h>

#include "tenon/images.h"
#include "tenon/nn.h"
#include "tenon/optimizer.h"
#include "tenon/plan.h"
#include "tenon/state.h"

enum {
    BATCH = 64,
    PIXELS = 3 * TN_SHAPES_SIDE * TN_SHAPES_SIDE,
    TEST_BATCHES = 16,
    TRAINING = 1,
    TESTING = 2
};

/* The two plans share the state: what one learns, the other uses. */
typedef struct network {
    tn_state *state;
    tn_plan *train, *test;
} network;

static tn_status build(network *n, int64_t width, int64_t steps)
{
    n->state = tn_state_create(1);
    tn_graph *graph = tn_graph_create(n->state);
    tn_node images = tn_input(graph, "images", TN_F32,
                              TN_SHAPE(BATCH, 3, TN_SHAPES_SIDE, TN_SHAPES_SIDE));
    tn_node labels = tn_input(graph, "labels", TN_I32, TN_SHAPE(BATCH));

    /* two networks over the same parameters: names decide */
    tn_scope learning = tn_root(graph), looking = tn_root(graph);
    learning.training = true; /* batch norm uses this batch's statistics */
    tn_node logits = tn_resnet(learning, images, .classes = TN_SHAPES_CLASSES, .width = width);
    tn_node loss = tn_mean(tn_cross_entropy(logits, labels), TN_ALL_AXES);
    tn_node update = tn_minimise(
        loss, &tn_sgd(.learning_rate = 0.1, .momentum = 0.9, .nesterov = true, .weight_decay = 5e-4,
                      .schedule = {.kind = TN_COSINE, .warmup = 10, .steps = steps}));
    tn_node named = tn_argmax(
        tn_resnet(looking, images, .classes = TN_SHAPES_CLASSES, .width = width), 1);

    tn_status status = tn_compile(&n->train, .graph = graph, .feeds = TN_NODES(images, labels),
                                  .fetches = TN_NODES(loss), .updates = update);
    if (status == TN_OK)
        status = tn_compile(&n->test, .graph = graph, .feeds = TN_NODES(images),
                            .fetches = TN_NODES(named));
    tn_graph_free(graph);
    return status;
}

static void draw(uint64_t set, int64_t batch, float *pixels, int32_t *label)
{
    for (int64_t i = 0; i < BATCH; i++)
        tn_shapes_image(set, batch * BATCH + i, pixels + i * PIXELS, &label[i]);
}

static tn_status learn(const network *n, float *pixels, int64_t steps)
{
    int32_t label[BATCH];
    float loss = 0;
    for (int64_t step = 0; step < steps; step++) {
        draw(TRAINING, step, pixels, label);
        tn_status status = tn_run(n->train, (const void *[]){pixels, label}, (void *[]){&loss});
        if (status != TN_OK) return status;
        if ((step + 1) % 50 == 0)
            printf("step %lld  loss %.3f\n", (long long)step + 1, (double)loss);
    }
    return TN_OK;
}

static tn_status examine(const network *n, float *pixels)
{
    int32_t label[BATCH];
    int64_t named[BATCH];
    int right = 0;
    for (int64_t batch = 0; batch < TEST_BATCHES; batch++) {
        draw(TESTING, batch, pixels, label);
        tn_status status = tn_run(n->test, (const void *[]){pixels}, (void *[]){named});
        if (status != TN_OK) return status;
        for (int i = 0; i < BATCH; i++) right += named[i] == label[i];
    }
    printf("%d of %d new images named rightly: %.1f%%\n", right, TEST_BATCHES * BATCH,
           100.0 * right / (TEST_BATCHES * BATCH));
    return TN_OK;
}

int main(int count, char **argument)
{
    long long steps = count > 1 ? atoll(argument[1]) : 400,
              width = count > 2 ? atoll(argument[2]) : 16;
    if (steps < 1 || width < 1 || count > 3) {
        fprintf(stderr, "usage: resnet [STEPS [WIDTH]]\n");
        return 2;
    }
    network n = {0};
    float *pixels = malloc(sizeof(float) * BATCH * PIXELS);
    tn_status status = build(&n, width, steps);
    if (status == TN_OK)
        printf("training plan: %.1f MB of scratch, %d steps\n",
               (double)tn_plan_bytes(n.train) / 1e6, tn_plan_step_count(n.train));
    if (status == TN_OK) status = learn(&n, pixels, steps);
    if (status == TN_OK) status = examine(&n, pixels);
    if (status != TN_OK) fprintf(stderr, "%s\n", tn_message());
    tn_plan_free(n.train);
    tn_plan_free(n.test);
    tn_state_free(n.state);
    free(pixels);
    return status != TN_OK;
}
