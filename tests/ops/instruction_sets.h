/* A test program that runs itself again on the lesser instruction sets: the choice is made once
 * a process, from TENON_ISA. */
#ifndef TN_TESTS_INSTRUCTION_SETS_H
#define TN_TESTS_INSTRUCTION_SETS_H

#include <sys/wait.h>
#include <unistd.h>

#include "graph_check.h"

/* With an argument the program runs its tests only once, which ends the recursion. */
static void test_other_instruction_sets(void **unused)
{
    (void)unused;
    static const char *const sets[] = {"v2", "v3"};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        pid_t child = fork();
        if (child == 0) {
            setenv("TENON_ISA", sets[i], 1);
            execl("/proc/self/exe", "again", "once", (char *)NULL);
            _exit(127);
        }
        int status;
        assert_true(child > 0 && waitpid(child, &status, 0) == child);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            fail_msg("the tests fail with TENON_ISA=%s", sets[i]);
    }
}

#endif
