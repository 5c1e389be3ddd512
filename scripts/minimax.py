#!/usr/bin/env python3
"""Prints the polynomials of src/cpu/simd/vector_math.h: minimax fits by Remez' exchange algorithm.

Needs mpmath (python3-mpmath). Each fit minimises the largest weighted error over its interval; the
weight turns the error of the polynomial into the relative error of the function. The last digits
depend on GRID and do not matter.
"""
import struct

from mpmath import atanh, cos, erf, erfc, exp, expm1, fabs, log, log1p, lu_solve
from mpmath import matrix, mp, mpf, pi, sin, sqrt

mp.dps = 60
GRID = 2000


def remez(f, weight, low, high, degree):
    """Coefficients, lowest first, and the largest of |weight (f - polynomial)| over [low, high]."""
    low, high, count = mpf(low), mpf(high), degree + 2
    middle, half = (low + high) / 2, (high - low) / 2
    at = [middle - half * cos(pi * mpf(2 * i + 1) / (2 * count)) for i in range(count)]
    grid = [middle - half * cos(pi * mpf(i) / GRID) for i in range(GRID + 1)]
    for _ in range(25):
        system, right = matrix(count, count), matrix(count, 1)
        for i, x in enumerate(at):
            for k in range(degree + 1):
                system[i, k] = x**k
            system[i, degree + 1] = (-1) ** i / weight(x)
            right[i] = f(x)
        coefficient = list(lu_solve(system, right))[: degree + 1]
        error = [weight(x) * (f(x) - sum(c * x**k for k, c in enumerate(coefficient))) for x in grid]
        extreme = extremes(error)
        while len(extreme) > count:
            extreme.pop(0 if fabs(error[extreme[0]]) < fabs(error[extreme[-1]]) else -1)
        if len(extreme) < count:
            break
        size = [fabs(error[i]) for i in extreme]
        at = [grid[i] for i in extreme]
        if max(size) < mpf("1.0005") * min(size):
            break
    return coefficient, max(fabs(e) for e in error)


def extremes(error):
    """Where |error| is largest in each stretch of one sign."""
    found, best = [], 0
    for i in range(1, len(error)):
        if (error[i] > 0) != (error[best] > 0):
            found.append(best)
            best = i
        elif fabs(error[i]) > fabs(error[best]):
            best = i
    return found + [best]


def as_f32(x):
    return "%.9g" % struct.unpack("f", struct.pack("f", float(x)))[0]


def show(name, fit, as_text):
    coefficient, error = fit
    print(f"{name}: relative error 2^{float(log(error, 2)):.1f}")
    for c in coefficient:
        print("    " + as_text(c))


def near_zero(f, limit, value):
    """f with its value at 0, where the formula is 0/0."""
    return lambda x: value if fabs(x) < limit else f(x)


TINY = mpf(10) ** -12
HALF_LN2 = log(mpf(2)) / 2 * mpf("1.0005")
QUARTER_PI = pi / 4 * mpf("1.001")


def main():
    # e^r = 1 + r + r^2 P(r)
    tail = near_zero(lambda r: (expm1(r) - r) / r**2, TINY, mpf(1) / 2)
    relative = lambda r: (r**2 + TINY) / exp(r)
    show("exp, expm1", remez(tail, relative, -HALF_LN2, HALF_LN2, 4), as_f32)
    show("exp in pow", remez(tail, relative, -HALF_LN2, HALF_LN2, 5), lambda c: "%.17g" % float(c))

    # log(1 + f) = f - f^2/2 + f^3 P(f)
    low, high = sqrt(mpf(1) / 2) - 1, sqrt(mpf(2)) - 1
    tail = near_zero(lambda f: (log1p(f) - f + f * f / 2) / f**3, mpf(10) ** -10, mpf(1) / 3)
    relative = near_zero(lambda f: fabs(f**3 / log1p(f)) + TINY, mpf(10) ** -10, TINY)
    show("log, log1p", remez(tail, relative, low, high, 8), as_f32)

    # log((1 + s)/(1 - s)) = s (2 + s^2 P(s^2))
    tail = near_zero(lambda z: (2 * atanh(sqrt(z)) / sqrt(z) - 2) / z, mpf(10) ** -20, mpf(2) / 3)
    show("log in pow", remez(tail, lambda z: z + TINY, 0, (high / (high + 2)) ** 2, 4),
         lambda c: "%.17g" % float(c))

    # sin r = r + r^3 S(r^2), cos r = 1 - r^2/2 + r^4 C(r^2)
    tail = near_zero(lambda z: (sin(sqrt(z)) - sqrt(z)) / sqrt(z) ** 3, TINY, -mpf(1) / 6)
    show("sin", remez(tail, lambda z: z + TINY, 0, QUARTER_PI**2, 2), as_f32)
    tail = near_zero(lambda z: (cos(sqrt(z)) - 1 + z / 2) / z**2, TINY, mpf(1) / 24)
    show("cos", remez(tail, lambda z: z**2 + TINY, 0, QUARTER_PI**2, 2), as_f32)

    # erf x = x P(x^2) below 1, 1 - exp(Q(x)) above
    ratio = near_zero(lambda z: erf(sqrt(z)) / sqrt(z), mpf(10) ** -20, 2 / sqrt(pi))
    show("erf below 1", remez(ratio, lambda z: 1 / ratio(z), 0, 1, 6), as_f32)
    show("log erfc above", remez(lambda x: log(erfc(x)), lambda x: erfc(x) / erf(x), 1, 4, 6), as_f32)


if __name__ == "__main__":
    main()
