"""Which tensors kernels take, and where they run at all."""

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from snncompile.kernels.build import BuildError, library
from snncompile.kernels.scan import SWITCH

Function = TypeVar("Function", bound=Callable[..., Any])


def while_tracing(function: Function) -> Function:
    """Have torch.compile run a function for real while it traces, and keep its result."""
    return cast("Function", cast("Any", torch.compiler).assume_constant_result(function))


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is strided memory of float32 or float64 on the CPU, and nothing else.

    Within torch.func (vmap, grad, ...) no tensor is.
    """
    known = type(tensor) in (Tensor, torch.nn.Parameter, FakeTensor)
    return (
        known
        and tensor.dtype in (torch.float32, torch.float64)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not _is_transformed()
    )


def _is_transformed() -> bool:
    if torch.compiler.is_compiling():
        return False
    functions: Any = cast("Any", torch)._C._functorch
    return functions.maybe_current_level() is not None


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
