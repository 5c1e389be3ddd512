/* label: slow
 * A ResNet-18 for 32x32 images learns: generated shapes, and CIFAR-10 images where TENON_DATA has
 * them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tenon/images.h"
#include "tenon/nn.h"
#include "tenon/optimizer.h"
#include "tenon/plan.h"
#include "tenon/random.h"
#include "tenon/state.h"

enum { BATCH = 64, PIXELS = 3 * 32 * 32, WIDTH = 16, CLASSES = 10 };

typedef struct network {
    tn_state *state;
    tn_plan *step, *test;
} network;

static void require(tn_status status)
{
    if (status != TN_OK) fail_msg("%s", tn_message());
}

static network build(int64_t steps, double rate)
{
    network n = {.state = tn_state_create(7)};
    tn_graph *graph = tn_graph_create(n.state);
    tn_scope training = tn_root(graph), testing = tn_root(graph);
    training.training = true;
    tn_node images = tn_input(graph, "images", TN_F32, TN_SHAPE(BATCH, 3, 32, 32));
    tn_node labels = tn_input(graph, "labels", TN_I32, TN_SHAPE(BATCH));
    tn_node logits = tn_resnet(training, images, .classes = CLASSES, .width = WIDTH);
    tn_node loss = tn_mean(tn_cross_entropy(logits, labels), TN_ALL_AXES);
    tn_optimizer sgd = tn_sgd(.learning_rate = rate, .momentum = 0.9, .nesterov = true,
                              .weight_decay = 5e-4,
                              .schedule = {.kind = TN_COSINE, .warmup = 10, .steps = steps});
    tn_node update = tn_minimise(loss, &sgd);
    tn_node named = tn_argmax(tn_resnet(testing, images, .classes = CLASSES, .width = WIDTH), 1);
    require(tn_compile(&n.step, .graph = graph, .feeds = TN_NODES(images, labels),
                       .fetches = TN_NODES(loss), .updates = update));
    require(
        tn_compile(&n.test, .graph = graph, .feeds = TN_NODES(images), .fetches = TN_NODES(named)));
    tn_graph_free(graph);
    return n;
}

static void release(network *n)
{
    tn_plan_free(n->step);
    tn_plan_free(n->test);
    tn_state_free(n->state);
}

/* Share of `count` images that are named rightly. */
static double accuracy(const network *n, void (*draw)(void *, int64_t, float *, int32_t *),
                       void *context, int64_t count, float *pixels)
{
    int64_t right = 0, seen = 0;
    for (int64_t first = 0; first + BATCH <= count; first += BATCH) {
        int32_t label[BATCH];
        int64_t named[BATCH];
        for (int i = 0; i < BATCH; i++) draw(context, first + i, pixels + i * PIXELS, &label[i]);
        require(tn_run(n->test, (const void *[]){pixels}, (void *[]){named}));
        for (int i = 0; i < BATCH; i++) right += named[i] == label[i];
        seen += BATCH;
    }
    return (double)right / (double)seen;
}

static void draw_shape(void *seed, int64_t index, float *pixels, int32_t *label)
{
    tn_shapes_image(*(uint64_t *)seed, index, pixels, label);
    for (int i = 0; i < PIXELS; i++) pixels[i] = (pixels[i] - 0.5f) / 0.25f;
}

static void test_shapes(void **unused)
{
    (void)unused;
    enum { STEPS = 120 };
    network n = build(STEPS, 0.05);
    float *pixels = malloc((size_t)BATCH * PIXELS * sizeof *pixels), loss = 0;
    for (int step = 0; step < STEPS; step++) {
        int32_t label[BATCH];
        for (int i = 0; i < BATCH; i++)
            draw_shape(&(uint64_t){1}, (int64_t)step * BATCH + i, pixels + i * PIXELS, &label[i]);
        require(tn_run(n.step, (const void *[]){pixels, label}, (void *[]){&loss}));
        if (step % 40 == 39) printf("step %d: loss %.3f\n", step + 1, (double)loss);
    }
    double share = accuracy(&n, draw_shape, &(uint64_t){2}, 1024, pixels);
    printf("shapes: %.1f%% of 1024 new images after %d steps\n", 100 * share, STEPS);
    assert_true(share >= 0.97);
    free(pixels);
    release(&n);
}

/* Unpacks with xz; NULL if the file is not there. */
static unsigned char *unpack(const char *name, size_t *size)
{
    const char *folder = getenv("TENON_DATA");
    char path[4096], command[4200];
    snprintf(path, sizeof path, "%s/unlearning/cifar10-lossless/%s",
             folder ? folder : "../shared/data", name);
    FILE *file = fopen(path, "r");
    if (!file) {
        printf("SKIPPED: %s is missing; set TENON_DATA to the folder of real data\n", path);
        return NULL;
    }
    fclose(file);
    snprintf(command, sizeof command, "xz -dc '%s'", path);
    FILE *pipe = popen(command, "r");
    unsigned char *bytes = malloc(1 << 23);
    *size = fread(bytes, 1, 1 << 23, pipe);
    if (pclose(pipe) != 0) {
        printf("SKIPPED: xz cannot unpack %s\n", path);
        free(bytes);
        return NULL;
    }
    return bytes;
}

static void draw_cifar(void *cifar, int64_t index, float *pixels, int32_t *label)
{
    tn_cifar_image(cifar, index, pixels, label);
    for (int i = 0; i < PIXELS; i++) pixels[i] = (pixels[i] - 0.47f) / 0.25f;
}

/* The usual augmentation: a flip and a shift by up to four pixels. */
static void augment(float *pixels, uint64_t draw)
{
    float copy[PIXELS];
    bool flip = tn_random_below(4, 1, draw, 2);
    int dx = (int)tn_random_below(4, 2, draw, 9) - 4, dy = (int)tn_random_below(4, 3, draw, 9) - 4;
    memcpy(copy, pixels, sizeof copy);
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < 32; y++)
            for (int x = 0; x < 32; x++) {
                int from_x = (flip ? 31 - x : x) + dx, from_y = y + dy;
                bool inside = from_x >= 0 && from_x < 32 && from_y >= 0 && from_y < 32;
                pixels[(c * 32 + y) * 32 + x] = inside ? copy[(c * 32 + from_y) * 32 + from_x] : 0;
            }
}

static void test_cifar(void **unused)
{
    (void)unused;
    enum { FILES = 4, EPOCHS = 8 };
    tn_cifar part[FILES], test;
    unsigned char *bytes[FILES + 1];
    size_t size;
    int64_t count = 0;
    for (int i = 0; i <= FILES; i++) {
        char name[64];
        snprintf(name, sizeof name, i < FILES ? "data_batch_%d.bin.xz" : "test_batch.bin.xz",
                 i + 1);
        bytes[i] = unpack(name, &size);
        if (!bytes[i]) skip();
        require(tn_cifar_view(bytes[i], (int64_t)size, name, i < FILES ? &part[i] : &test));
        if (i < FILES) count += part[i].count;
    }
    int64_t batches = count / BATCH, *order = malloc((size_t)count * sizeof *order);
    network n = build(EPOCHS * batches, 0.1);
    float *pixels = malloc((size_t)BATCH * PIXELS * sizeof *pixels), loss = 0;
    for (int64_t step = 0; step < EPOCHS * batches; step++) {
        int32_t label[BATCH];
        if (step % batches == 0) tn_random_permutation(3, (uint64_t)(step / batches), count, order);
        for (int i = 0; i < BATCH; i++) {
            int64_t index = order[step % batches * BATCH + i];
            draw_cifar(&part[index % FILES], index / FILES % part[index % FILES].count,
                       pixels + i * PIXELS, &label[i]);
            augment(pixels + i * PIXELS, (uint64_t)(step * BATCH + i));
        }
        require(tn_run(n.step, (const void *[]){pixels, label}, (void *[]){&loss}));
    }
    double share = accuracy(&n, draw_cifar, &test, test.count, pixels);
    printf("CIFAR-10: %.1f%% of the test images after %d epochs of %lld\n", 100 * share, EPOCHS,
           (long long)count);
    assert_true(share >= 0.40);
    for (int i = 0; i <= FILES; i++) free(bytes[i]);
    free(order);
    free(pixels);
    release(&n);
}

static void test_wrong_files(void **unused)
{
    (void)unused;
    static unsigned char record[3073];
    tn_cifar cifar;
    assert_int_equal(tn_cifar_view(record, 3072, "short.bin", &cifar), TN_FORMAT);
    assert_non_null(strstr(tn_message(), "short.bin"));
    record[0] = 10;
    assert_int_equal(tn_cifar_view(record, 3073, "label.bin", &cifar), TN_FORMAT);
    assert_non_null(strstr(tn_message(), "record 0 has label 10"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_cifar),
                                       cmocka_unit_test(test_wrong_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
