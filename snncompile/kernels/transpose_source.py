"""The C that transposes matrices, in squares of vectors where the compiler can shuffle those.

A matrix transposed number by number is written a line of memory a number, which takes three times
as long.
"""

SOURCE = r"""
#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define BYTES 64
#else
#define BYTES 32
#endif
typedef real_t vec __attribute__((vector_size(BYTES), aligned(sizeof(real_t)), may_alias));
#define LANES (BYTES / REAL_BYTES)

/* to[j, i] = size * from[i, j], number by number: from row r and column c on, up to two others */
static void transpose_each(const real_t *from, int64_t r, int64_t last, int64_t c, int64_t end,
                           int64_t stride, real_t size, real_t *to, int64_t step) {
  for (int64_t i = r; i < last; i++)
    for (int64_t j = c; j < end; j++) to[j * step + i] = size * from[i * stride + j];
}

#if LANES == 16
#define LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif LANES == 8
#define LOW 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#endif
#define UNROLLED _Pragma("GCC unroll 16")

/* A square of vectors: every round moves each number's place, written as the bits of its row and
   then those of its column, one bit to the left around; half the rounds swap row and column. */
static void transpose_square(const real_t *from, int64_t stride, real_t size, real_t *to,
                             int64_t step) {
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SQUARES 1
  vec a[LANES], b[LANES];
  UNROLLED for (int i = 0; i < LANES; i++) a[i] = *(const vec *)(from + i * stride) * size;
  UNROLLED for (int round = 1; round < LANES; round *= 2) {
    UNROLLED for (int i = 0; i < LANES / 2; i++) {
      b[2 * i] = __builtin_shufflevector(a[i], a[i + LANES / 2], LOW);
      b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + LANES / 2], HIGH);
    }
    UNROLLED for (int i = 0; i < LANES; i++) a[i] = b[i];
  }
  UNROLLED for (int i = 0; i < LANES; i++) *(vec *)(to + i * step) = a[i];
#endif
#endif
#if !defined(SQUARES)
  transpose_each(from, 0, LANES, 0, LANES, stride, size, to, step);
#endif
}

/* to[j, i] = size * from[i, j] */
static void transpose(const real_t *from, int64_t rows, int64_t columns, int64_t stride,
                      real_t size, real_t *to, int64_t step) {
  const int64_t last = rows / LANES * LANES, end = columns / LANES * LANES;
  for (int64_t r = 0; r < last; r += LANES)
    for (int64_t c = 0; c < end; c += LANES)
      transpose_square(from + r * stride + c, stride, size, to + c * step + r, step);
  transpose_each(from, 0, last, end, columns, stride, size, to, step);
  transpose_each(from, last, rows, 0, columns, stride, size, to, step);
}
"""
