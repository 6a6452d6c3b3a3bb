"""Marks for torch.compile, set without importing what it consists of: that takes over a second."""

import functools
import sys
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


def untraced(function: Function, reason: str | None = None) -> Function:
    """Have torch.compile leave a function alone: it breaks its graph there and calls it.

    This is `torch.compiler.disable` as soon as something has imported the compiler; before that
    there is nothing to leave it alone.

    Args:
        function: The function.
        reason: What torch.compile says where a graph may not be broken.
    """
    compiler = cast("Any", torch).compiler

    @functools.wraps(function)
    def called(*args: Any, **keywords: Any) -> Any:  # noqa: ANN401
        if "torch._dynamo" not in sys.modules:
            return function(*args, **keywords)
        return compiler.disable(function, reason=reason)(*args, **keywords)

    marked = cast("Any", called)
    marked._torchdynamo_disable, marked._torchdynamo_disable_msg = True, reason
    return cast("Function", called)
