/* A small network learns to tell the inside of a circle from the outside, in some twenty lines.
 *
 *     cc mlp.c $(pkg-config --cflags --libs tenon) -lm && ./a.out */
#include <stdio.h>

#include "tenon/nn.h"
#include "tenon/optimizer.h"
#include "tenon/plan.h"
#include "tenon/random.h"
#include "tenon/state.h"

enum { BATCH = 128, STEPS = 500 };

/* Points of a square; class 1 where the distance from the centre is less than 0.7. */
static void draw(int step, float point[BATCH][2], int32_t label[BATCH])
{
    for (int i = 0; i < BATCH; i++) {
        float squared = 0;
        for (int k = 0; k < 2; k++) {
            point[i][k] = 2 * tn_random_uniform(1, (uint64_t)step, (uint64_t)(2 * i + k)) - 1;
            squared += point[i][k] * point[i][k];
        }
        label[i] = squared < 0.49F;
    }
}

int main(void)
{
    tn_state *state = tn_state_create(1);
    tn_graph *graph = tn_graph_create(state);
    tn_node x = tn_input(graph, "x", TN_F32, TN_SHAPE(BATCH, 2)),
            y = tn_input(graph, "y", TN_I32, TN_SHAPE(BATCH));
    tn_node logits = tn_mlp(tn_root(graph), x, TN_WIDTHS(32, 32, 2));
    tn_node loss = tn_mean(tn_cross_entropy(logits, y), TN_ALL_AXES);
    tn_node right = tn_mean(tn_cast(tn_equal(tn_argmax(logits, 1), tn_cast(y, TN_I64)), TN_F32),
                            TN_ALL_AXES);
    tn_node update = tn_minimise(loss, &tn_adam(.learning_rate = 0.01));

    tn_plan *step = NULL;
    tn_status status = tn_compile(&step, .graph = graph, .feeds = TN_NODES(x, y),
                                  .fetches = TN_NODES(loss, right), .updates = update);
    for (int i = 0; i < STEPS && status == TN_OK; i++) {
        float point[BATCH][2], loss_now, right_now;
        int32_t label[BATCH];
        draw(i, point, label);
        status = tn_run(step, (const void *[]){point, label}, (void *[]){&loss_now, &right_now});
        if (status == TN_OK && (i + 1) % 100 == 0)
            printf("step %3d  loss %.4f  right %5.1f%%\n", i + 1, (double)loss_now,
                   100 * (double)right_now);
    }
    if (status != TN_OK) fprintf(stderr, "%s\n", tn_message());
    tn_plan_free(step);
    tn_graph_free(graph);
    tn_state_free(state);
    return status != TN_OK;
}
