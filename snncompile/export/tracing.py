"""Traces a Python function of tensors to an fx graph whose nodes carry fake values.

The bodies of the neurons are Python; so are the forwards of autograd Functions, the Heaviside
step among them. Tracing goes through both, so that the exporter needs no second description.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import Function
from torch.fx.node import map_aggregate
from torch.fx.proxy import GraphAppendingTracer, TraceError

from snncompile.errors import ExportError


def trace(function: Callable[..., Any], arguments: dict[str, Any]) -> fx.Graph:
    """Trace a function of tensors and numbers.

    Args:
        function: Called with one argument a placeholder, in order.
        arguments: Names of the placeholders, and for each the fake tensor or number that it
            stands for.

    Returns:
        The graph; every node's ``meta["val"]`` is its fake tensor, or the Python value of a node
        that computes none.

    Raises:
        ExportError: The function decides by the values of its tensors.
    """
    graph = fx.Graph()
    tracer = GraphAppendingTracer(graph)
    placeholders = [fx.Proxy(graph.placeholder(name), tracer) for name in arguments]
    try:
        with _functions_entered():
            result = function(*placeholders)
    except (TraceError, TypeError) as error:
        raise ExportError(
            f"its Python body cannot be written as a graph ({error}); write it with torch "
            "functions and without branches on tensors"
        ) from error
    graph.output(map_aggregate(result, lambda item: getattr(item, "node", item)))
    _infer(graph, list(arguments.values()))
    return graph


def forward_of(function: type[Function]) -> Callable[..., Any]:
    """The forward of an autograd Function as a plain function of its arguments."""
    if function.setup_context is not Function.setup_context:
        return function.forward

    def forward(*args: object) -> Any:  # noqa: ANN401
        return function.forward(_Context(), *args)

    return forward


class _Context:
    """Stands in for autograd's ctx, which the forward result does not depend on."""

    def save_for_backward(self, *tensors: object) -> None:
        """Nothing is kept: there is no backward pass."""

    def mark_non_differentiable(self, *tensors: object) -> None:
        """Nothing is differentiated."""

    def set_materialize_grads(self, value: bool) -> None:
        """Nothing is differentiated."""

    @property
    def needs_input_grad(self) -> tuple[bool, ...]:
        """No gradient is asked for, however many inputs there are."""
        return (False,) * 32


@contextmanager
def _functions_entered() -> Generator[None, None, None]:
    """Let ``Function.apply`` run its forward on proxies."""
    original = vars(Function)["apply"]

    def apply(cls: type[Function], *args: object) -> Any:  # noqa: ANN401
        return forward_of(cls)(*args)

    Function.apply = classmethod(apply)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Function.apply = original  # type: ignore[method-assign]


class _Recorder(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401
        n.meta["val"] = super().run_node(n)
        return n.meta["val"]


def _infer(graph: fx.Graph, values: Sequence[Any]) -> None:
    recorder = _Recorder(torch.nn.Module(), graph=graph)
    mode = next((v.fake_mode for v in values if isinstance(v, FakeTensor)), None)
    if mode is None:
        recorder.run(*values)
        return
    with mode, torch.no_grad():
        recorder.run(*values)


def is_function(target: object) -> bool:
    """Whether a call target is the ``apply`` of an autograd Function."""
    owner = getattr(target, "__self__", None)
    return isinstance(owner, type) and issubclass(owner, Function) and owner is not Function


def as_tensor(value: object) -> Tensor | None:
    """The fake tensor that a traced node holds; None for a Python value."""
    return value if isinstance(value, Tensor) else None
