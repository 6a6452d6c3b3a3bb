"""The compiled functions of a C source for one dtype, where there is a compiler."""

import ctypes
import functools
import os
import warnings

import torch

from snncompile.kernels import build
from snncompile.kernels.operands import SWITCH
from snncompile.kernels.team import GIVEN


def functions(source: str, dtype: torch.dtype) -> ctypes.CDLL | None:
    """Compile a source.

    Args:
        source: C11 in terms of ``real_t``, of ``REAL_BYTES`` bytes.
        dtype: What ``real_t`` is, float32 or float64.

    Returns:
        The library; None without a compiler, where it fails (which is told once), and while
        SNNCOMPILE_KERNELS is "off".
    """
    if os.environ.get(SWITCH) == "off":
        return None
    return _compiled(source, "float" if dtype == torch.float32 else "double", dtype.itemsize)


@functools.cache
def _compiled(source: str, real: str, size: int) -> ctypes.CDLL | None:
    try:
        types = f"typedef {real} real_t;\n#define REAL_BYTES {size}\n"
        return build.library(f"{GIVEN}{types}{source}")
    except build.BuildError as error:
        if "there is no" not in str(error):
            warnings.warn(f"spikes are treated as numbers: {error}", RuntimeWarning, stacklevel=2)
        return None
