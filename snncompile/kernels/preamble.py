"""What the C of every kernel begins with: the functions that expressions call, and sums."""

import torch

from snncompile.kernels.team import GIVEN

CHUNK = 1024
"""Elements over which a scalar setting's gradient is summed inside a sweep. Blocks hold whole
chunks, so that the sums do not depend on blocks."""

PREAMBLE = """\
#include <math.h>
#include <string.h>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define INDEPENDENT _Pragma("GCC ivdep")
#else
#define INDEPENDENT
#endif
#define AT(k) given[3 * (k) + 3].p
#define STRIDE(k) given[3 * (k) + 4].n
#define OWN(k) given[3 * (k) + 5].n
#define real(x) ((real_t)(x))
#define select(c, a, b) ((c) ? (a) : (b))
"""
_FUNCTIONS = {
    "abs": "fabs", "round": "rint", "sqrt": "sqrt", "floor": "floor", "ceil": "ceil",
    "trunc": "trunc", "exp": "exp", "log": "log", "sin": "sin", "cos": "cos", "tanh": "tanh",
    "atan": "atan", "erf": "erf", "pow": "pow",
}  # fmt: skip
_VECTOR = """\
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC_PREREQ)
#if __GLIBC_PREREQ(2, 35)
#define VECTOR __attribute__((simd("notinbranch")))
VECTOR real_t {exp}(real_t); VECTOR real_t {log}(real_t); VECTOR real_t {sin}(real_t);
VECTOR real_t {cos}(real_t); VECTOR real_t {tanh}(real_t); VECTOR real_t {atan}(real_t);
VECTOR real_t {erf}(real_t); VECTOR real_t {pow}(real_t, real_t);
#endif
#endif
"""
"""Tells gcc that glibc has these functions for vectors too (to 4 units in the last place)."""

TOTALS = f"""\
static void totals(const double *x, int64_t n, double *sums) {{
  for (int64_t begin = 0; begin < n; begin += {CHUNK}) {{
    const int64_t end = n - begin < {CHUNK} ? n : begin + {CHUNK};
    double lane[16] = {{0}};
    int64_t i = begin;
    for (; i + 16 <= end; i += 16)
      for (int j = 0; j < 16; j++) lane[j] += x[i + j];
    for (; i < end; i++) lane[i % 16] += x[i];
    for (int half = 8; half; half /= 2)
      for (int j = 0; j < half; j++) lane[j] += lane[j + half];
    sums[begin / {CHUNK}] = lane[0];
  }}
}}
"""
FLUSH = """\
#if defined(__SSE2__)
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(mode | 0x8040); /* denormal gradients count as 0: they cost a hundred times more */
#endif
"""
RESTORE = """\
#if defined(__SSE2__)
  _mm_setcsr(mode);
#endif
"""


def preamble(dtype: torch.dtype) -> str:
    """Types and functions for a dtype."""
    suffix, real = ("f", "float") if dtype == torch.float32 else ("", "double")
    functions = {name: f"{c}{suffix}" for name, c in _FUNCTIONS.items()}
    shorthands = (f"#define {name}_ {c}" for name, c in functions.items())
    types = f"typedef {real} real_t;\ntypedef unsigned char truth_t;"
    return "\n".join((GIVEN, PREAMBLE, types, *shorthands, _VECTOR.format_map(functions)))
