"""Spikes as bits: a tensor of two values, 0 and one other, in a 32nd of its memory.

Bit i of byte j of a row is element 8 j + i. Rows are padded with zeros to whole words of 8 bytes,
so that rows can be read word by word.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from snncompile.kernels import arena
from snncompile.kernels.library import functions
from snncompile.kernels.threads import share

_SOURCE = r"""
#include <string.h>
#include <math.h>

/* Eight truth bytes become one byte of bits: the product moves each to its place. */
static uint64_t packed(const uint8_t *truth) {
  uint64_t word = 0;
  for (int i = 0; i < 8; i++) {
    uint64_t eight;
    memcpy(&eight, truth + 8 * i, 8);
    word |= (eight * 0x0102040810204080ull >> 56) << (8 * i);
  }
  return word;
}

/* As long as a number, so that comparisons need no narrowing. */
typedef __typeof__(__builtin_choose_expr(sizeof(real_t) == 4, (uint32_t)0, (uint64_t)0)) lane_t;

/* The ones of up to 64 numbers; odd where one is neither 0 nor the size. */
static inline uint64_t ones(const real_t *x, int64_t n, real_t size, lane_t *odd) {
  uint8_t truth[64] = {0};
  lane_t found = 0;
  for (int64_t i = 0; i < n; i++) truth[i] = x[i] != 0;
  for (int64_t i = 0; i < n; i++) found |= (lane_t)(x[i] != 0) & (lane_t)(x[i] != size);
  *odd |= found;
  return packed(truth);
}

/* sizes[r]: what is not 0 in a row; 0 where there is nothing, NAN where it is not one number. */
int pack(PARAMETERS) {
  const real_t *x = given[0].p;
  const int64_t width = given[1].n;
  uint8_t *bits = given[2].p;
  double *sizes = given[3].p;
  const int64_t stride = (width + 63) / 64 * 8;
  for (int64_t r = first; r < last; r++) {
    const real_t *row = x + r * width;
    real_t size = 0;
    lane_t odd = 0;
    for (int64_t k = 0; k < width && size == 0; k++) size = row[k];
    for (int64_t k = 0; k < width; k += 64) {
      const uint64_t word =
          width - k < 64 ? ones(row + k, width - k, size, &odd) : ones(row + k, 64, size, &odd);
      memcpy(bits + r * stride + k / 8, &word, 8);
    }
    sizes[r] = odd || !isfinite(size) ? NAN : size;
  }
  return 0;
}

/* What is counted up since `apart` rows before: 0 or 1 but for rounding, or else the row is odd. */
int pack_increments(PARAMETERS) {
  const real_t *x = given[0].p, decay = (real_t)given[3].x;
  const int64_t width = given[1].n, apart = given[2].n * width;
  uint8_t *bits = given[4].p, *odd = given[5].p;
  const int64_t stride = (width + 63) / 64 * 8;
  const real_t rounding = 4 * (sizeof(real_t) == 4 ? (real_t)0x1p-23 : (real_t)0x1p-52);
  for (int64_t r = first; r < last; r++) {
    lane_t others = 0;
    for (int64_t k = 0; k < width; k += 64) {
      uint8_t truth[64] = {0};
      const real_t *before = x + r * width + k, *now = before + apart;
      const int64_t n = width - k < 64 ? width - k : 64;
      for (int64_t i = 0; i < n; i++) truth[i] = now[i] - decay * before[i] > (real_t)0.5;
      for (int64_t i = 0; i < n; i++) {
        const real_t kept = decay * before[i], more = now[i] - kept;
        const real_t off = more - (more > (real_t)0.5 ? (real_t)1 : (real_t)0);
        const real_t most = rounding * (1 + (kept < 0 ? -kept : kept));
        others |= !((off < 0 ? -off : off) <= most);
      }
      const uint64_t word = packed(truth);
      memcpy(bits + r * stride + k / 8, &word, 8);
    }
    odd[r] = others != 0;
  }
  return 0;
}

int unpack(PARAMETERS) {
  const uint8_t *bits = given[0].p;
  const int64_t width = given[1].n;
  const real_t size = (real_t)given[2].x;
  real_t *x = given[3].p;
  const int64_t stride = (width + 63) / 64 * 8;
  lane_t one;
  memcpy(&one, &size, sizeof one);
  for (int64_t r = first; r < last; r++) {
    const uint8_t *from = bits + r * stride;
    lane_t *to = (lane_t *)(x + r * width);
    int64_t k = 0;
    for (; k + 8 <= width; k += 8)
      for (int i = 0; i < 8; i++) to[k + i] = -(lane_t)(from[k / 8] >> i & 1) & one;
    for (; k < width; k++) to[k] = -(lane_t)(from[k / 8] >> k % 8 & 1) & one;
  }
  return 0;
}
"""


class Packed(NamedTuple):
    """Rows of bits.

    Attributes:
        bits: uint8 [R, 8 ceil(M / 64)].
        size: What a 1 stands for; 1 where there is none.
    """

    bits: Tensor
    size: float


def row_bytes(width: int) -> int:
    """How many bytes a row of so many bits takes."""
    return -(-width // 64) * 8


def pack(values: Tensor) -> Packed | None:
    """Pack rows.

    Args:
        values: [R, M], float32 or float64 on the CPU.

    Returns:
        The bits; None where the values are not 0 and one finite other, or there is no kernel.
    """
    library = functions(_SOURCE, values.dtype)
    if library is None:
        return None
    values = values.contiguous()
    rows, width = values.shape
    bits = torch.empty(rows, row_bytes(width), dtype=torch.uint8)
    sizes = torch.empty(rows, dtype=torch.float64)
    share(library.pack, rows, (values, width, bits, sizes), values.numel())
    size = one_size(sizes)
    return None if size is None else Packed(bits, size)


def pack_increments(traces: Tensor, apart: int, decay: float) -> Packed | None:
    """Pack what rows of leaky counts add to those before them; a kernel `fits`.

    Args:
        traces: [R, M], float32 or float64 on the CPU: decay * (the row `apart` before it) + more.
        apart: How many rows before.
        decay: The counts'.

    Returns:
        The bits, [R - apart, ...]; None where more than rounding tells what is added from 0 and 1.
    """
    library: Any = functions(_SOURCE, traces.dtype)
    traces = traces.contiguous()
    rows, width = len(traces) - apart, traces.shape[1]
    bits = torch.empty(rows, row_bytes(width), dtype=torch.uint8)
    odd = torch.empty(rows, dtype=torch.uint8)
    given = (traces, width, apart, float(decay), bits, odd)
    share(library.pack_increments, rows, given, traces.numel())
    return None if bool(odd.any()) else Packed(bits, 1.0)


def one_size(sizes: Tensor) -> float | None:
    """What a 1 stands for, of all rows; 1 where they are silent, None where it differs."""
    if not len(sizes):
        return 1.0
    least, most = map(float, sizes.aminmax())
    size = most or least
    if least != most and not bool(((sizes == 0) | (sizes == size)).all()):
        return None
    return size or 1.0


def unpack(packed: Packed, width: int, dtype: torch.dtype) -> Tensor:
    """The rows that were packed.

    Args:
        packed: What `pack` returned.
        width: M.
        dtype: Theirs.

    Returns:
        [R, M], the values that were packed.
    """
    bits, size = packed
    library = functions(_SOURCE, dtype)
    if library is None:
        places = torch.arange(8, dtype=torch.uint8)
        found = (bits.unsqueeze(-1) >> places & 1).flatten(1)[:, :width].to(dtype)
        return found * size
    values = arena.empty(bits, (len(bits), width), dtype)
    share(library.unpack, len(bits), (bits, width, size, values), values.numel())
    return values
