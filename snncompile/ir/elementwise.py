# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
"""Which calls act on every element by itself, so that no axis, time included, matters to them."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from snncompile.ir.accumulation import difference, settled, shifted
from snncompile.ir.neurons import ELEMENTWISE
from snncompile.ir.surrogates import fire

_FUNCTIONS: frozenset[Callable[..., Any]] = frozenset(
    (
        operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv,
        operator.mod, operator.pow, operator.neg, operator.invert, operator.and_, operator.or_,
        operator.xor, operator.gt, operator.ge, operator.lt, operator.le, operator.eq,
        operator.ne, torch.add, torch.sub, torch.mul, torch.div, torch.abs, torch.exp, torch.log,
        torch.sqrt, torch.rsqrt, torch.square, torch.pow, torch.sin, torch.cos, torch.tanh,
        torch.sigmoid, torch.relu, torch.clamp, torch.clamp_min, torch.clamp_max, torch.round,
        torch.floor, torch.ceil, torch.sign, torch.where, torch.maximum, torch.minimum,
        torch.logical_and, torch.logical_or, torch.logical_not, torch.logical_xor, torch.detach,
        torch.zeros_like, torch.ones_like, torch.full_like, torch.erf, torch.reciprocal,
        torch.addcmul, torch.lerp, torch.heaviside, torch.rand_like, torch.bernoulli,
        functional.relu, functional.relu6, functional.leaky_relu, functional.gelu,
        functional.silu, functional.elu, functional.softplus, functional.sigmoid,
        functional.tanh, functional.hardtanh, functional.dropout, functional.hardsigmoid,
        functional.hardswish, fire, settled, shifted, difference, *ELEMENTWISE,
    )
)  # fmt: skip
_METHODS = frozenset(("to", "type_as", "masked_fill"))


def is_elementwise(node: fx.Node) -> bool:
    """Whether a call acts on every element by itself; operands may still broadcast.

    A user's torch.autograd.Function counts as elementwise: in these networks it is a surrogate.
    """
    if node.op == "call_method":
        return node.target in _METHODS
    if node.op != "call_function":
        return False
    return node.target in _FUNCTIONS or is_autograd_function(node)


def is_autograd_function(node: fx.Node) -> bool:
    """Whether a call applies a torch.autograd.Function."""
    owner = getattr(node.target, "__self__", None)
    return isinstance(owner, type) and issubclass(owner, torch.autograd.Function)
