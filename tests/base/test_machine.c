/* Instruction set levels and the description of the machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "tenon/machine.h"

static void test_levels(void **state)
{
    (void)state;
    tn_isa found = tn_isa_found(), isa;
    assert_in_range(found, TN_ISA_BASE, TN_ISA_V4);
    static const char *const name[] = {NULL, "base", "v2", "v3", "v4"};
    for (int level = TN_ISA_BASE; level <= TN_ISA_V4; level++) {
        assert_string_equal(tn_isa_name((tn_isa)level), name[level]);
        setenv("TENON_ISA", name[level], 1);
        if (level <= (int)found) {
            assert_int_equal(tn_isa_chosen(&isa), TN_OK);
            assert_int_equal(isa, level);
        } else {
            assert_int_equal(tn_isa_chosen(&isa), TN_UNSUPPORTED);
            assert_non_null(strstr(tn_message(), "this machine has no more than"));
            assert_int_equal(isa, found);
        }
    }
    setenv("TENON_ISA", "avx2", 1);
    assert_int_equal(tn_isa_chosen(&isa), TN_INVALID);
    assert_string_equal(tn_message(),
                        "TENON_ISA=avx2 is no instruction set level; use base, v2, v3 or v4");
    setenv("TENON_ISA", "", 1);
    assert_int_equal(tn_isa_chosen(&isa), TN_OK);
    assert_int_equal(isa, found);
    unsetenv("TENON_ISA");
    assert_int_equal(tn_isa_chosen(&isa), TN_OK);
    assert_int_equal(isa, found);
    assert_string_equal(tn_isa_name((tn_isa)9), "unknown");
}

static void test_description(void **state)
{
    (void)state;
    tn_machine machine;
    tn_machine_describe(&machine);
    assert_true(machine.processors >= 1);
    assert_true(machine.threads >= 1);
    assert_true(machine.memory > 1 << 20);
    assert_int_equal(machine.isa, tn_isa_found());
    assert_true(strlen(machine.compiler) > 3);
    assert_true(strlen(machine.onednn) >= 5);
    assert_true(machine.l1 >= 0 && machine.l2 >= 0 && machine.l3 >= 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_description),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
