/* Closeness that a NaN fails: cmocka's assert_float_equal lets one pass. */
#ifndef TN_TESTS_NEAR_H
#define TN_TESTS_NEAR_H

#include <math.h>

#define assert_near(a, b, tolerance)                                                               \
    do {                                                                                           \
        double a_ = (double)(a), b_ = (double)(b);                                                 \
        if (!(fabs(a_ - b_) <= (double)(tolerance)))                                               \
            fail_msg("%s is %.9g, but must be %.9g +- %g", #a, a_, b_, (double)(tolerance));       \
    } while (0)

#endif
