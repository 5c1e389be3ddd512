/* The demo's image network: a ResNet-18 learns ten generated shapes and names new ones. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/demo.h"
#include "tenon/images.h"
#include "tenon/nn.h"
#include "tenon/optimizer.h"
#include "tenon/plan.h"
#include "tenon/state.h"

enum { BATCH = 64, PIXELS = 3 * 32 * 32, WIDTH = 16, SHOWN = 20, TESTS = 16, MOST_STEPS = 4000 };

typedef struct network {
    tn_state *state;
    tn_plan *step, *test;
} network;

static tn_status build(network *n, int steps)
{
    n->state = tn_state_create(7);
    tn_graph *graph = n->state ? tn_graph_create(n->state) : NULL;
    if (!graph) return TN_MEMORY;
    tn_scope training = tn_root(graph), testing = tn_root(graph);
    training.training = true;
    tn_node images = tn_input(graph, "images", TN_F32, TN_SHAPE(BATCH, 3, 32, 32)),
            labels = tn_input(graph, "labels", TN_I32, TN_SHAPE(BATCH));
    tn_node logits = tn_resnet(training, images, .classes = TN_SHAPES_CLASSES, .width = WIDTH);
    tn_node loss = tn_mean(tn_cross_entropy(logits, labels), TN_ALL_AXES);
    tn_optimizer sgd =
        tn_sgd(.learning_rate = 0.05, .momentum = 0.9, .nesterov = true, .weight_decay = 5e-4,
               .schedule = {.kind = TN_COSINE, .warmup = steps / 20, .steps = steps});
    tn_node update = tn_minimise(loss, &sgd);
    tn_node named = tn_argmax(
        tn_resnet(testing, images, .classes = TN_SHAPES_CLASSES, .width = WIDTH), 1);
    tn_status status = tn_compile(&n->step, .graph = graph, .feeds = TN_NODES(images, labels),
                                  .fetches = TN_NODES(loss), .updates = update);
    if (status == TN_OK)
        status = tn_compile(&n->test, .graph = graph, .feeds = TN_NODES(images),
                            .fetches = TN_NODES(named));
    tn_graph_free(graph);
    return status;
}

/* Pixels for the network are about -2 to 2. */
static void draw_batch(uint64_t seed, int64_t first, float *pixels, int32_t *labels)
{
    for (int i = 0; i < BATCH; i++)
        tn_shapes_image(seed, first + i, pixels + (size_t)i * PIXELS, &labels[i]);
    for (int i = 0; i < BATCH * PIXELS; i++) pixels[i] = (pixels[i] - 0.5f) / 0.25f;
}

static tn_status show(const demo *d, const network *n, float *pixels, int32_t *labels)
{
    int64_t named[BATCH];
    char text[SHOWN][64];
    const char *caption[SHOWN];
    draw_batch(3, 0, pixels, labels);
    TN_TRY(tn_run(n->test, (const void *[]){pixels}, (void *[]){named}));
    for (int i = 0; i < SHOWN; i++) {
        snprintf(text[i], sizeof text[i], named[i] == labels[i] ? "%s" : "%s (it is a %s)",
                 tn_shapes_class[named[i]], tn_shapes_class[labels[i]]);
        caption[i] = text[i];
    }
    tn_page_text(d->page, "New images and what the network calls them:");
    for (int i = 0; i < SHOWN * PIXELS; i++) pixels[i] = pixels[i] * 0.25f + 0.5f;
    tn_page_pictures(d->page, pixels, SHOWN, 32, 32, caption, 3);
    return TN_OK;
}

tn_status demo_images(const demo *d)
{
    network n = {0};
    float *pixels = malloc((size_t)BATCH * PIXELS * sizeof *pixels), loss;
    int32_t labels[BATCH];
    double step_x[MOST_STEPS], step_loss[MOST_STEPS];
    int steps = d->seconds < 10 ? 10 : 300, done = 0, right = 0;
    tn_status status = pixels ? build(&n, steps) : TN_MEMORY;
    double start = tn_clock_seconds();
    for (; status == TN_OK && done < steps && tn_clock_seconds() - start < 2 * d->seconds; done++) {
        draw_batch(1, (int64_t)done * BATCH, pixels, labels);
        status = tn_run(n.step, (const void *[]){pixels, labels}, (void *[]){&loss});
        step_x[done] = done;
        step_loss[done] = (double)loss;
    }
    double seconds = tn_clock_seconds() - start;
    for (int t = 0; t < TESTS && status == TN_OK; t++) {
        int64_t named[BATCH];
        draw_batch(2, (int64_t)t * BATCH, pixels, labels);
        status = tn_run(n.test, (const void *[]){pixels}, (void *[]){named});
        for (int i = 0; i < BATCH; i++) right += named[i] == labels[i];
    }
    if (status == TN_OK) {
        printf("images: %d of %d new ones named rightly after %d steps in %.1f s\n", right,
               TESTS * BATCH, done, seconds);
        tn_page_section(d->page, "Images: a ResNet-18 learns ten shapes");
        tn_page_text(d->page,
                     "A quarter-width ResNet-18 saw %d generated images of 32x32 in %.0f s (%.0f a "
                     "second) and names %.1f%% of %d new ones rightly.",
                     done * BATCH, seconds, done * BATCH / seconds, 100.0 * right / (TESTS * BATCH),
                     TESTS * BATCH);
        tn_series series = {"training", step_x, step_loss, done};
        tn_page_plot(d->page, "Loss while learning", "step", "cross-entropy", TN_AXES_LINEAR,
                     &series, 1);
        status = show(d, &n, pixels, labels);
    }
    free(pixels);
    tn_plan_free(n.step);
    tn_plan_free(n.test);
    tn_state_free(n.state);
    return status;
}
