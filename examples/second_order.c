/* The gradient of a gradient.
 *
 * Two things that need it: a Hessian-vector product, and gradient matching: finding an input whose
 * gradient points in a given direction, as in attacks on federated learning and in data poisoning.
 * Both are ordinary nodes, because a gradient is written in the same operations as everything
 * else. */
#include <stdio.h>

#include "tenon/nn.h"
#include "tenon/optimizer.h"
#include "tenon/plan.h"
#include "tenon/state.h"

enum { WIDTH = 3 };

/* f(x) = sum x^4 has the Hessian diag(12 x^2); the product with v is d<df/dx, v>/dx. */
static tn_status hessian_vector_product(void)
{
    tn_graph *graph = tn_graph_create(NULL);
    tn_node x = tn_input(graph, "x", TN_F64, TN_SHAPE(WIDTH)),
            v = tn_input(graph, "v", TN_F64, TN_SHAPE(WIDTH));
    tn_node f = tn_sum(tn_square(tn_square(x)), TN_ALL_AXES), gradient, product;
    tn_gradients(f, &x, 1, &gradient);
    tn_node along = tn_sum(tn_multiply(gradient, v), TN_ALL_AXES);
    tn_gradients(along, &x, 1, &product);

    tn_plan *plan = NULL;
    double at[WIDTH] = {1, 2, -3}, direction[WIDTH] = {1, 0.5, -1}, result[WIDTH];
    /* the reference backend calculates in f64 */
    tn_status status = tn_compile(&plan, .graph = graph, .feeds = TN_NODES(x, v),
                                  .fetches = TN_NODES(product), .backend = TN_REF);
    if (status == TN_OK) status = tn_run(plan, (const void *[]){at, direction}, (void *[]){result});
    if (status == TN_OK) {
        printf("Hessian times vector:");
        for (int i = 0; i < WIDTH; i++)
            printf("  %g (exact %g)", result[i], 12 * at[i] * at[i] * direction[i]);
        printf("\n");
    }
    tn_plan_free(plan);
    tn_graph_free(graph);
    return status;
}

/* The gradient that a small classifier's first weights get from an image [1, 8]. */
static tn_node weight_gradient(tn_scope s, tn_node image, tn_node label)
{
    tn_node weight = tn_parameter(s, "first.weight", TN_SHAPE(16, 8), tn_init_normal(0, 0.5)),
            gradient;
    tn_node hidden = tn_tanh(tn_matmul(image, weight, .transpose_b = true));
    tn_node logits = tn_linear(tn_in(s, "second"), hidden, 4);
    tn_gradients(tn_sum(tn_cross_entropy(logits, label), TN_ALL_AXES), &weight, 1, &gradient);
    return gradient;
}

/* Reconstructs a hidden image from its gradient alone.  Source: Zhu et al. 2019; Geiping et al.
 * 2020 (cosine distance). */
static tn_status gradient_matching(void)
{
    tn_state *state = tn_state_create(3);
    tn_graph *graph = tn_graph_create(state);
    tn_scope net = tn_in(tn_root(graph), "net"), guess = tn_in(tn_root(graph), "guess");
    tn_node secret = tn_input(graph, "secret", TN_F32, TN_SHAPE(1, 8)),
            label = tn_input(graph, "label", TN_I32, TN_SHAPE(1));
    tn_node image = tn_parameter(guess, "image", TN_SHAPE(1, 8), tn_init_normal(0, 1));
    tn_node seen = tn_stop_gradient(weight_gradient(net, secret, label)),
            tried = weight_gradient(net, image, label);
    tn_node distance = tn_affine(tn_cosine_similarity_list(&tried, &seen, 1, 1e-12), -1, 1);
    tn_node update = tn_minimise(
        distance, &tn_adam(.learning_rate = 0.05, TN_GROUPS({"net.*", .frozen = true})));
    tn_node alike = tn_mean(tn_cosine_similarity(image, secret, 1, 1e-12), TN_ALL_AXES);

    tn_plan *plan = NULL;
    float hidden[8] = {1, -1, 0.5F, 2, 0, -0.5F, 1, -2}, now[2];
    int32_t class = 2;
    tn_status status = tn_compile(&plan, .graph = graph, .feeds = TN_NODES(secret, label),
                                  .fetches = TN_NODES(distance, alike), .updates = update);
    for (int i = 0; i <= 400 && status == TN_OK; i++) {
        status = tn_run(plan, (const void *[]){hidden, &class}, (void *[]){&now[0], &now[1]});
        if (status == TN_OK && i % 100 == 0)
            printf("step %3d  distance of gradients %.6f  likeness of the image to the hidden one "
                   "%.4f\n",
                   i, (double)now[0], (double)now[1]);
    }
    tn_plan_free(plan);
    tn_graph_free(graph);
    tn_state_free(state);
    return status;
}

int main(void)
{
    tn_status status = hessian_vector_product();
    if (status == TN_OK) status = gradient_matching();
    if (status != TN_OK) fprintf(stderr, "%s\n", tn_message());
    return status != TN_OK;
}
