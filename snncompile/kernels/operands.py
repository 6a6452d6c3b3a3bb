"""Which tensors kernels take, and where they run at all."""

import functools
import os
import warnings
from typing import Any, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from snncompile.kernels.build import BuildError, library

SWITCH = "SNNCOMPILE_KERNELS"
"""The environment variable that, set to "off", has every scan run as a loop in torch.

Set to "triton" it has kernels printed for Triton on every device, for tests in its interpreter."""


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is strided memory of float32 or float64 on the CPU, and nothing else.

    Within torch.func (vmap, grad, ...) no tensor is.
    """
    floats = tensor.dtype in (torch.float32, torch.float64) and tensor.device.type == "cpu"
    return floats and is_strided(tensor) and not is_transformed()


def is_strided(tensor: Tensor) -> bool:
    """Whether a tensor is strided memory and of no class that means more than that."""
    known = type(tensor) in (Tensor, torch.nn.Parameter, FakeTensor)
    return known and tensor.layout == torch.strided


def is_transformed() -> bool:
    """Whether torch.func or forward-mode autograd is at work, which kernels know nothing of."""
    if torch.compiler.is_compiling():
        return False
    whole = cast("Any", torch)
    forward = whole.autograd.forward_ad._current_level >= 0
    return forward or whole._C._functorch.maybe_current_level() is not None


def compiles(source: str) -> bool:
    """Whether kernels are wanted and this machine can compile one of this source."""
    return os.environ.get(SWITCH) != "off" and _compiled(source)


@functools.cache
def _compiled(source: str) -> bool:
    try:
        library(source)
    except BuildError as error:
        if "there is no" not in str(error):
            warnings.warn(f"layers run in torch: {error}", RuntimeWarning, stacklevel=2)
        return False
    return True
