"""Marks for torch.compile, set without importing what it consists of: that takes over a second."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def while_tracing(function: Function) -> Function:
    """Have torch.compile run a function for real while it traces, and keep its result.

    For what makes code, which cannot be traced itself; the result must be a number or a string.
    This is `torch.compiler.assume_constant_result`, which imports the compiler first.
    """
    cast("Any", function)._dynamo_marked_constant = True
    return function


def untraced(function: Function) -> Function:
    """Have torch.compile leave a function alone: it breaks its graph there and calls it.

    This is `torch.compiler.disable`, which is imported at the first call.
    """
    disabled: Function = cast("Any", torch)._disable_dynamo(function)
    return disabled
