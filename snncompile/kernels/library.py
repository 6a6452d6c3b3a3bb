"""The compiled functions of a C source for one dtype, where there is a compiler."""

import ctypes
import functools
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch

from snncompile.kernels import build
from snncompile.kernels.operands import SWITCH
from snncompile.kernels.threads import each

Kernel = Callable[..., int]


def functions(source: str, dtype: torch.dtype) -> ctypes.CDLL | None:
    """Compile a source.

    Args:
        source: C11 in terms of ``real_t``.
        dtype: What ``real_t`` is, float32 or float64.

    Returns:
        The library; None without a compiler, where it fails (which is told once), and while
        SNNCOMPILE_KERNELS is "off".
    """
    if os.environ.get(SWITCH) == "off":
        return None
    return _compiled(source, "float" if dtype == torch.float32 else "double")


@functools.cache
def _compiled(source: str, real: str) -> ctypes.CDLL | None:
    try:
        return build.library(f"typedef {real} real_t;\n{source}")
    except build.BuildError as error:
        if "there is no" not in str(error):
            warnings.warn(f"spikes are treated as numbers: {error}", RuntimeWarning, stacklevel=2)
        return None


def share(kernel: Kernel, total: int, unit: int, arguments: tuple[Any, ...], workers: int) -> None:
    """Call ``kernel(first, last, *arguments)`` for parts of a range, one a thread.

    Args:
        kernel: Returns 0, or another number if it ran out of memory.
        total: The end of the range, which begins at 0.
        unit: Parts begin at multiples of it.
        arguments: ctypes values.
        workers: At most how many parts.

    Raises:
        MemoryError: A kernel found no memory.
    """
    units = -(-total // unit)
    workers = max(1, min(workers, units))
    failed = [0] * workers

    def work(worker: int) -> None:
        ends = (min(total, unit * (units * w // workers)) for w in (worker, worker + 1))
        failed[worker] = kernel(*(ctypes.c_int64(end) for end in ends), *arguments)

    each(work, workers)
    if any(failed):
        raise MemoryError("an event kernel found no memory")
