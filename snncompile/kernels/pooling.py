"""Pooling over windows that do not overlap, channels last or not, as compiled loops.

torch's own max pooling keeps an index of eight bytes a window, fills the gradient with zeros
before it scatters into it, and is slow where channels are not innermost. Here a window's place is
one byte, and the sweep back writes every element once. Results are bit-equal to torch's: of equal
elements the first one wins, a NaN wins over all, and a mean adds rows first to last.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from snncompile.errors import SnncompileError
from snncompile.kernels import build
from snncompile.kernels.operands import compiles, is_plain
from snncompile.kernels.operator import operator
from snncompile.kernels.pages import request_large_pages
from snncompile.kernels.preamble import preamble
from snncompile.kernels.team import Function
from snncompile.kernels.threads import Array, rows, run
from snncompile.kernels.tracing import while_tracing

Kind: TypeAlias = Literal["max", "mean"]

_LARGEST = 256
"""Places in a window that one byte can tell apart."""
_TOGETHER = 2**18
"""Elements that make what is pooled together at most: it lies on a stack."""

_PROGRAM = """
/* An image is `planes` planes of H rows of W columns of `inner` elements. What is pooled together
   makes `out` results: all of a plane, or channels last, where that is enough, a row of them. */
#define BEGIN \\
  const int64_t *s = AT(0), planes = s[0], H = s[1], W = s[2], inner = s[3], row = W * inner; \\
  const int64_t OH = H / KH, OW = W / KW, tall = LAST ? 1 : OH, out = tall * OW * inner; \\
  for (int64_t p = first * planes; p < last * planes; p++) \\
    for (int64_t u = 0; u < OH / tall; u++) {
#define END } return 0;
#define WIDE(a) ((real_t *)AT(a) + (p * H + u * KH) * row)
#define NARROW(a) ((real_t *)AT(a) + (p * OH / tall + u) * out)
#define PLACE(a) ((truth_t *)AT(a) + (p * OH / tall + u) * out)
#define PLACES for (int k = 0; k < KH * KW; k++)
#define EACH INDEPENDENT for (int64_t j = 0; j < out; j++)
#define TAKEN x[(k / KW) * row + (k % KW) * inner + WINDOW]

static void clear(PARAMETERS) {
  const int64_t *s = AT(0), image = s[0] * s[1] * s[2] * s[3];
  if (s[1] % KH || s[2] % KW)
    memset((real_t *)AT(1) + first * image, 0, (last - first) * image * sizeof(real_t));
}
int max_forward(PARAMETERS) {
  BEGIN
    const real_t *x = WIDE(1); real_t *y = NARROW(2); truth_t *place = PLACE(3);
    real_t v[out]; truth_t seen[out];
    PLACES {
      COLUMNS v[COLUMN] = TAKEN;
      EACH y[j] = (k == 0) | (v[j] > y[j]) | (v[j] != v[j]) ? v[j] : y[j];
    }
    memset(seen, 0, out);
    for (int k = KH * KW - 1; k >= 0; k--) {
      COLUMNS v[COLUMN] = TAKEN;
      EACH {
        const truth_t nan = (v[j] != v[j]) & !seen[j];
        place[j] = (v[j] == y[j]) | nan ? k : place[j];
        seen[j] |= nan;
      }
    }
  END
}
int max_backward(PARAMETERS) {
  clear(first, last, given);
  BEGIN
    real_t *x = WIDE(1); const real_t *g = NARROW(2); const truth_t *place = PLACE(3);
    real_t v[out];
    PLACES {
      EACH v[j] = place[j] == k ? g[j] : 0;
      COLUMNS TAKEN = v[COLUMN];
    }
  END
}
int mean_forward(PARAMETERS) {
  BEGIN
    const real_t *x = WIDE(1); real_t *y = NARROW(2);
    PLACES COLUMNS y[COLUMN] = k ? y[COLUMN] + TAKEN : TAKEN;
    EACH y[j] /= KH * KW;
  END
}
int mean_backward(PARAMETERS) {
  clear(first, last, given);
  BEGIN
    real_t *x = WIDE(1); const real_t *g = NARROW(2);
    PLACES COLUMNS TAKEN = g[COLUMN] / (KH * KW);
  END
}
"""
_LOOPS = {
    False: """
#define LAST 0
#define COLUMNS for (int64_t r = 0; r < OH; r++) INDEPENDENT for (int64_t w = 0; w < OW; w++)
#define COLUMN r * OW + w
#define WINDOW r * KH * W + w * KW
""",
    True: """
#define LAST 1
#define COLUMNS for (int64_t w = 0; w < OW; w++) INDEPENDENT for (int64_t c = 0; c < inner; c++)
#define COLUMN w * inner + c
#define WINDOW w * KW * inner + c
""",
}
"""Over the windows of a plane, and, channels last, of a row."""


class Window(NamedTuple):
    """What is pooled: the kind, and the rows and columns of a window."""

    kind: Kind
    height: int
    width: int


def _source(window: Window, dtype: torch.dtype, last: bool) -> str:
    sizes = f"#define KH {window.height}\n#define KW {window.width}"
    return "\n".join((preamble(dtype), sizes, _LOOPS[last], _PROGRAM))


@while_tracing
def pools(kind: Kind, height: int, width: int, double: bool) -> bool:
    """Whether there are kernels for a window on this machine."""
    window, dtype = Window(kind, height, width), torch.float64 if double else torch.float32
    small = height * width <= _LARGEST
    return small and all(compiles(_source(window, dtype, last)) for last in (False, True))


def fits(x: Tensor, window: Window) -> bool:
    """Whether kernels pool an input: [N, C, H, W] with at least one window."""
    if not is_plain(x) or x.dim() != 4 or x.numel() == 0:  # noqa: PLR2004
        return False
    _, channels, height, width = x.shape
    holds = height >= window.height and width >= window.width
    return (
        holds
        and max(height, channels) * width <= _TOGETHER
        and pools(*window, x.dtype == torch.float64)
    )


def pool(x: Tensor, window: Window) -> Tensor:
    """The largest elements or the means of windows that lie side by side.

    Args:
        x: [N, C, H, W], such that it `fits`; rows and columns that fill no window are left out.
        window: What is pooled.

    Returns:
        [N, C, H // height, W // width].
    """
    pooled: Tensor = window_pool(x, *window)[0]
    return pooled


@operator("snncompile::window_pool")
def window_pool(x: Tensor, kind: str, height: int, width: int) -> list[Tensor]:
    """`pool`; a maximum is returned with its place in every window."""
    last, x = _ordered(x)
    made = _results(x, kind, (height, width))
    for result in made:
        request_large_pages(result)
    _run(f"{kind}_forward", _Call((kind, height, width), last, x.shape), (x, *made), x.dtype)
    return made


@window_pool.register_fake
def _(x: Tensor, kind: str, height: int, width: int) -> list[Tensor]:
    return _results(_ordered(x)[1], kind, (height, width))


@operator("snncompile::window_pool_backward")
def window_pool_backward(
    gradient: Tensor, places: Tensor | None, shape: Sequence[int], last: bool, window: Sequence[int]
) -> Tensor:
    """The gradient of a pooled input.

    Args:
        gradient: Of the result.
        places: Of the largest elements; None for means.
        shape: Of the input.
        last: Whether the input is channels last.
        window: Rows and columns.

    Returns:
        The gradient of the input, of that shape.
    """
    gradient = gradient.contiguous(memory_format=_format(last))
    found = _like(gradient, shape, last)
    request_large_pages(found)
    kind = "mean" if places is None else "max"
    arrays = (found, gradient) if places is None else (found, gradient, places)
    call = _Call((kind, window[0], window[1]), last, tuple(shape))
    _run(f"{kind}_backward", call, arrays, gradient.dtype)
    return found


@window_pool_backward.register_fake
def _(
    gradient: Tensor, places: Tensor | None, shape: Sequence[int], last: bool, window: Sequence[int]
) -> Tensor:
    return _like(gradient, shape, last)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:  # noqa: ANN401
    x, _, *ctx.window = inputs
    ctx.shape, ctx.last = tuple(x.shape), _is_last(x)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])


def _differentiate(ctx: Any, gradients: list[Tensor | None]) -> tuple[Any, ...]:  # noqa: ANN401
    if gradients[0] is None:
        return None, None, None, None
    saved = ctx.saved_tensors  # once: what checkpoints run again can be taken once
    places = saved[0] if saved else None
    found = window_pool_backward(gradients[0], places, ctx.shape, ctx.last, ctx.window)
    return found, None, None, None


def _refuse(ctx: Any, *gradients: Any) -> None:  # noqa: ANN401
    raise SnncompileError(
        "a pooling kernel has no second derivative; set SNNCOMPILE_KERNELS=off to pool in torch"
    )


window_pool.register_autograd(_differentiate, _keep)
window_pool_backward.register_autograd(_refuse)


class _Call(NamedTuple):
    window: tuple[str, int, int]
    last: bool
    shape: Sequence[int]


def _run(name: str, call: _Call, arrays: Sequence[Tensor], dtype: torch.dtype) -> None:
    images, channels, height, width = call.shape
    planes, inner = (1, channels) if call.last else (channels, 1)
    sizes = torch.tensor([planes, height, width, inner])
    divided = rows(images, channels * height * width)
    run(_function(name, call.window, call.last, dtype), (1, 1), divided, [
        Array(tensor) for tensor in (sizes, *arrays)
    ])  # fmt: skip


@functools.cache
def _function(name: str, window: tuple[Any, int, int], last: bool, dtype: torch.dtype) -> Function:
    found: Function = getattr(build.library(_source(Window(*window), dtype, last)), name)
    return found


def _is_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _format(last: bool) -> torch.memory_format:
    return torch.channels_last if last else torch.contiguous_format


def _ordered(x: Tensor) -> tuple[bool, Tensor]:
    """Whether an input is channels last, and the input, dense in one order or the other."""
    last = _is_last(x)
    return last, x.contiguous(memory_format=_format(last))


def _like(x: Tensor, shape: Sequence[int], last: bool) -> Tensor:
    return torch.empty(tuple(shape), dtype=x.dtype, device=x.device, memory_format=_format(last))


def _results(x: Tensor, kind: str, window: tuple[int, int]) -> list[Tensor]:
    """New tensors: the result, and the places of maxima."""
    shape = (*x.shape[:2], x.shape[2] // window[0], x.shape[3] // window[1])
    made = _like(x, shape, _is_last(x))
    return [made] if kind == "mean" else [made, torch.empty_like(made, dtype=torch.uint8)]
