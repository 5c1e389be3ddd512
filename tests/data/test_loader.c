/* The loader: the same batches from any number of threads, seeking, failures, and options that
 * cannot be right. */
#include "data/byte_builder.h"

#include <sched.h>
#include <stdatomic.h>

#include "base/status.h"
#include "tenon/data.h"

/* What an item is filled with: a function of the item alone. */
typedef struct source {
    int64_t broken;     /* this sample fails; -1: none */
    int64_t broken_too; /* and this one */
    atomic_int calls;
    atomic_int inside, most_inside; /* threads in fill at once */
} source;

static tn_status fill(void *context, const tn_loader_item *item)
{
    source *s = context;
    int inside = atomic_fetch_add(&s->inside, 1) + 1, most = atomic_load(&s->most_inside);
    while (inside > most && !atomic_compare_exchange_weak(&s->most_inside, &most, inside)) continue;
    atomic_fetch_add(&s->calls, 1);
    int64_t pair[2] = {item->sample, item->draw};
    memcpy(item->field[0], pair, sizeof pair);
    *(uint8_t *)item->field[1] = (uint8_t)item->sample;
    for (int i = 0; i < (int)(item->draw % 5); i++) sched_yield(); /* items end out of order */
    atomic_fetch_sub(&s->inside, 1);
    if (item->sample == s->broken || item->sample == s->broken_too)
        return tn_fail(TN_FORMAT, "image %d is damaged", (int)item->sample);
    return TN_OK;
}

static tn_loader_options options_of(source *s, int workers)
{
    *s = (source){.broken = -1, .broken_too = -1};
    return (tn_loader_options){.samples = 23,
                               .batch = 5,
                               .item_bytes = {16, 1},
                               .seed = 11,
                               .shuffle = true,
                               .workers = workers,
                               .fill = fill,
                               .context = s};
}

/* The samples of one batch; checks all that must hold of it. */
static void take(tn_loader *loader, int64_t step, int64_t *samples)
{
    tn_batch batch;
    assert_ok(tn_loader_next(loader, &batch));
    assert_int_equal(batch.step, step);
    assert_int_equal(batch.epoch, step / tn_loader_batches(loader));
    assert_int_equal(batch.count, 5);
    assert_int_equal((uintptr_t)batch.field[0] % 64, 0);
    assert_int_equal((uintptr_t)batch.field[1] % 64, 0);
    assert_null(batch.field[2]);
    const int64_t(*pair)[2] = batch.field[0];
    for (int i = 0; i < 5; i++) {
        samples[i] = pair[i][0];
        assert_int_equal(pair[i][1], step * 5 + i);
        assert_int_equal(((uint8_t *)batch.field[1])[i], pair[i][0]);
    }
}

enum { STEPS = 40 }; /* ten epochs of four batches */

static void test_same_batches(void **state)
{
    (void)state;
    source s;
    tn_loader *loader;
    int64_t wanted[STEPS][5], is[5];
    assert_ok(tn_loader_create(options_of(&s, 0), &loader));
    assert_int_equal(tn_loader_batches(loader), 4);
    for (int64_t step = 0; step < STEPS; step++) take(loader, step, wanted[step]);
    assert_int_equal(atomic_load(&s.calls), STEPS * 5); /* nothing ahead */
    tn_loader_free(loader);
    for (int workers = 1; workers <= 4; workers++) {
        for (int ahead = 0; ahead <= 7; ahead += 7) {
            tn_loader_options o = options_of(&s, workers);
            o.ahead = ahead;
            assert_ok(tn_loader_create(o, &loader));
            for (int64_t step = 0; step < STEPS; step++) {
                take(loader, step, is);
                assert_memory_equal(is, wanted[step], sizeof is);
            }
            /* and from anywhere, forwards and backwards, also twice at once */
            static const int64_t places[] = {17, 3, 3, 39, 0, 20};
            for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
                assert_ok(tn_loader_seek(loader, places[i]));
                assert_ok(tn_loader_seek(loader, places[i]));
                for (int64_t step = places[i]; step < places[i] + 3 && step < STEPS; step++) {
                    take(loader, step, is);
                    assert_memory_equal(is, wanted[step], sizeof is);
                }
            }
            assert_true(atomic_load(&s.most_inside) <= workers);
            tn_loader_free(loader);
        }
    }
}

static void test_order(void **state)
{
    (void)state;
    source s;
    tn_loader *loader;
    int64_t is[5], first[20];
    int same = 0;
    assert_ok(tn_loader_create(options_of(&s, 2), &loader));
    for (int epoch = 0; epoch < 6; epoch++) {
        bool seen[23] = {false};
        for (int64_t b = 0; b < 4; b++) {
            take(loader, epoch * 4 + b, is);
            for (int i = 0; i < 5; i++) {
                assert_true(is[i] >= 0 && is[i] < 23 && !seen[is[i]]); /* once an epoch */
                seen[is[i]] = true;
                if (epoch == 0) first[b * 5 + i] = is[i];
                else same += first[b * 5 + i] == is[i];
            }
        }
    }
    assert_true(same < 20); /* another order each epoch: 100 places, 1/23 agree by chance */
    tn_loader_free(loader);
    tn_loader_options o = options_of(&s, 1);
    o.shuffle = false;
    assert_ok(tn_loader_create(o, &loader));
    for (int64_t step = 0; step < 9; step++) {
        take(loader, step, is);
        for (int i = 0; i < 5; i++) assert_int_equal(is[i], step % 4 * 5 + i);
    }
    tn_loader_free(loader);
}

static void test_failures(void **state)
{
    (void)state;
    for (int workers = 0; workers <= 3; workers++) {
        source s;
        tn_loader *loader;
        tn_batch batch;
        int64_t is[5];
        tn_loader_options o = options_of(&s, workers);
        o.shuffle = false;
        s.broken = 7;
        s.broken_too = 9;
        assert_ok(tn_loader_create(o, &loader));
        take(loader, 0, is);
        /* the first item that failed is told of, whichever thread was faster */
        assert_fails(tn_loader_next(loader, &batch), TN_FORMAT, "sample 7: image 7 is damaged");
        take(loader, 2, is);
        take(loader, 3, is);
        take(loader, 4, is);
        assert_fails(tn_loader_next(loader, &batch), TN_FORMAT, "sample 7: image 7 is damaged");
        tn_loader_free(loader);
    }
}

/* Freed at once, with work under way. */
static void test_early_end(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++) {
        source s;
        tn_loader *loader;
        int64_t is[5];
        assert_ok(tn_loader_create(options_of(&s, 3), &loader));
        if (i % 2) take(loader, 0, is);
        tn_loader_free(loader);
        assert_int_equal(atomic_load(&s.inside), 0);
    }
    tn_loader_free(NULL);
}

static void test_bad_options(void **state)
{
    (void)state;
    source s;
    tn_loader *loader;
    tn_loader_options o = options_of(&s, 1);
    o.fill = NULL;
    assert_fails(tn_loader_create(o, &loader), TN_INVALID, "a loader needs a function");
    assert_null(loader);
    o = options_of(&s, 1), o.batch = 0;
    assert_fails(tn_loader_create(o, &loader), TN_INVALID, "a loader's batch of 0 items");
    o = options_of(&s, 1), o.batch = 24;
    assert_fails(tn_loader_create(o, &loader), TN_INVALID,
                 "23 samples do not fill a batch of 24: give more data or a smaller batch");
    o = options_of(&s, 1), o.item_bytes[0] = 0;
    assert_fails(tn_loader_create(o, &loader), TN_INVALID, "a loader's items have no bytes");
    o = options_of(&s, -1);
    assert_fails(tn_loader_create(o, &loader), TN_INVALID, "-1 loader threads, 0 batches ahead");
    o = options_of(&s, 1), o.ahead = 100000;
    assert_fails(tn_loader_create(o, &loader), TN_INVALID, "100000 batches ahead");
    o = options_of(&s, 1), o.item_bytes[1] = SIZE_MAX / 2;
    assert_fails(tn_loader_create(o, &loader), TN_MEMORY, "out of memory for 3 batches of 5 items");
    assert_ok(tn_loader_create(options_of(&s, 1), &loader));
    assert_fails(tn_loader_seek(loader, -1), TN_INVALID, "a loader cannot go to step -1");
    tn_loader_free(loader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_batches), cmocka_unit_test(test_order),
        cmocka_unit_test(test_failures),     cmocka_unit_test(test_early_end),
        cmocka_unit_test(test_bad_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
