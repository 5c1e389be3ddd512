/* Collectives over every set of axes of odd meshes against sums and copies done by hand, counted
 * bytes, the same bits every time, and ranks that fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the headers it needs */
#include <cmocka.h>

#include "mesh/mesh.h"
#include "tenon/random.h"

/* Number i that rank r contributes. */
static float number_of(int rank, int64_t i)
{
    return 2 * tn_random_uniform(9, (uint64_t)rank, (uint64_t)i) - 1;
}

/* The rank of member `member` of this rank's group. */
static int member_rank(const tn_mesh *m, int axes, int member)
{
    int at[3];
    for (int i = 2; i >= 0; i--) {
        at[i] = m->at[i];
        if (axes >> i & 1) at[i] = member % m->dim[i], member /= m->dim[i];
    }
    return (at[0] * m->dim[1] + at[1]) * m->dim[2] + at[2];
}

enum { COUNT = 7, MOST = 64 };

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return tn_fail(TN_FORMAT, "line %d, axes %d: %s", __LINE__, axes, #condition);         \
    } while (0)

static tn_status one_set(tn_mesh *m, int axes)
{
    int k = tn_mesh_group_size(m, axes), me = tn_mesh_group_rank(m, axes), rank = tn_mesh_rank(m);
    float part[COUNT], whole[MOST * COUNT], to[MOST * COUNT];
    CHECK(member_rank(m, axes, me) == rank);
    uint64_t before[TN_COLLECTIVES];
    memcpy(before, m->received, sizeof before);

    for (int i = 0; i < COUNT; i++) part[i] = number_of(rank, i);
    TN_TRY(tn_mesh_all_gather(m, axes, part, sizeof part, whole));
    for (int j = 0; j < k; j++)
        for (int i = 0; i < COUNT; i++)
            CHECK(whole[j * COUNT + i] == number_of(member_rank(m, axes, j), i));
    CHECK(m->received[TN_ALL_GATHER] - before[TN_ALL_GATHER] == (uint64_t)(k - 1) * sizeof part);

    for (int i = 0; i < k * COUNT; i++) whole[i] = number_of(rank, i);
    TN_TRY(tn_mesh_reduce_scatter(m, axes, whole, COUNT, part));
    for (int i = 0; i < COUNT; i++) {
        float sum = 0;
        for (int j = 0; j < k; j++) {
            float x = number_of(member_rank(m, axes, j), me * COUNT + i);
            sum = j ? sum + x : x;
        }
        CHECK(part[i] == sum); /* in the order of members: the same bits */
    }
    CHECK(m->received[TN_REDUCE_SCATTER] - before[TN_REDUCE_SCATTER] ==
          (uint64_t)(k - 1) * sizeof part);

    for (int i = 0; i < COUNT; i++) part[i] = number_of(rank, i);
    TN_TRY(tn_mesh_all_reduce(m, axes, part, COUNT));
    for (int i = 0; i < COUNT; i++) {
        float sum = 0;
        for (int j = 0; j < k; j++) {
            float x = number_of(member_rank(m, axes, j), i);
            sum = j ? sum + x : x;
        }
        CHECK(part[i] == sum);
    }
    CHECK(m->received[TN_ALL_REDUCE] - before[TN_ALL_REDUCE] ==
          2 * (uint64_t)(k - 1) * (uint64_t)((COUNT + k - 1) / k) * sizeof(float));

    for (int i = 0; i < k * COUNT; i++) whole[i] = number_of(rank, i);
    TN_TRY(tn_mesh_all_to_all(m, axes, whole, sizeof part, to));
    for (int j = 0; j < k; j++)
        for (int i = 0; i < COUNT; i++)
            CHECK(to[j * COUNT + i] == number_of(member_rank(m, axes, j), me * COUNT + i));
    CHECK(m->received[TN_MESH_ALL_TO_ALL] - before[TN_MESH_ALL_TO_ALL] ==
          (uint64_t)(k - 1) * sizeof part);
    return TN_OK;
}

static tn_status every_set(tn_mesh *m, void *context)
{
    (void)context;
    for (int turn = 0; turn < 3; turn++)
        for (int axes = 1; axes <= TN_AXES_ALL; axes++) TN_TRY(one_set(m, axes));
    return TN_OK;
}

static void test_meshes(void **state)
{
    (void)state;
    static const int meshes[][3] = {{1, 1, 1}, {2, 1, 1}, {1, 3, 1}, {1, 1, 2},
                                    {2, 2, 2}, {3, 1, 5}, {2, 3, 2}, {4, 4, 4}};
    for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i++)
        if (tn_mesh_run_virtual(meshes[i], every_set, NULL) != TN_OK)
            fail_msg("%d x %d x %d: %s", meshes[i][0], meshes[i][1], meshes[i][2], tn_message());
}

static tn_status empty(tn_mesh *m, void *context)
{
    (void)context;
    float nothing[1] = {0};
    TN_TRY(tn_mesh_all_gather(m, TN_AXIS_X, nothing, 0, nothing));
    TN_TRY(tn_mesh_reduce_scatter(m, TN_AXIS_X, nothing, 0, nothing));
    TN_TRY(tn_mesh_all_reduce(m, TN_AXIS_X, nothing, 0));
    return tn_mesh_all_to_all(m, TN_AXIS_X, nothing, 0, nothing + 1);
}

static void test_empty(void **state)
{
    (void)state;
    assert_int_equal(tn_mesh_run_virtual((int[]){3, 1, 1}, empty, NULL), TN_OK);
}

/* One rank fails while the others wait for it: all end, and the message says which. */
static tn_status failing(tn_mesh *m, void *context)
{
    float x[4] = {1, 2, 3, 4};
    TN_TRY(tn_mesh_all_reduce(m, TN_AXES_ALL, x, 4));
    if (tn_mesh_rank(m) == *(const int *)context) return tn_fail(TN_IO, "the disk is gone");
    return tn_mesh_all_reduce(m, TN_AXES_ALL, x, 4);
}

static void test_failure(void **state)
{
    (void)state;
    for (int rank = 0; rank < 6; rank++) {
        char wanted[64];
        snprintf(wanted, sizeof wanted, "rank %d: the disk is gone", rank);
        assert_int_equal(tn_mesh_run_virtual((int[]){1, 2, 3}, failing, &rank), TN_IO);
        assert_string_equal(tn_message(), wanted);
    }
}

static void test_sizes(void **state)
{
    (void)state;
    assert_int_equal(tn_mesh_run_virtual((int[]){0, 1, 1}, empty, NULL), TN_INVALID);
    assert_int_equal(tn_mesh_run_virtual((int[]){1, -1, 1}, empty, NULL), TN_INVALID);
    assert_int_equal(tn_mesh_run_virtual((int[]){65536, 65536, 65536}, empty, NULL), TN_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_meshes),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_failure),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
