"""CUDA's functions of real numbers for Triton's interpreter, which has none, by torch."""

# pyright: basic

from collections.abc import Callable
from typing import Any

import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import TensorHandle


def _interpreted(function: Callable[..., Tensor]) -> Callable[..., tl.tensor]:
    def call(*operands: tl.tensor) -> tl.tensor:
        result = function(*(torch.from_numpy(operand.handle.data) for operand in operands)).numpy()
        like = max(operands, key=lambda operand: operand.handle.data.size)
        type_: Any = like.type
        return tl.tensor(TensorHandle(result, like.handle.dtype), type_)

    return call


exp = _interpreted(torch.exp)
log = _interpreted(torch.log)
sin = _interpreted(torch.sin)
cos = _interpreted(torch.cos)
tanh = _interpreted(torch.tanh)
atan = _interpreted(torch.atan)
erf = _interpreted(torch.erf)
pow = _interpreted(torch.pow)  # noqa: A001
