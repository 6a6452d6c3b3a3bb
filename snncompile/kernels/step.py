"""One time step of a neuron as a graph of elementwise aten operations, with its derivative.

The neuron's function runs once on small tensors; make_fx writes down what it calls, and what
torch's own autograd calls for the gradient of its results. Surrogates, detached states and a
user's autograd.Function need no rule of their own: they are what autograd runs.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes  # pyright: ignore[reportPrivateUsage]

from snncompile.kernels.rounding import round_as_on
from snncompile.kernels.settings import Settings, fill


@dataclass(frozen=True)
class Definition:
    """What a kernel is generated from.

    Attributes:
        neuron: ``neuron(current, *states, **settings) -> (output, *next states)`` for one step.
        settings: Its settings, with holes for tensors.
        states: How many states it has.
        scalars: For every tensor among the settings, whether it is one number.
        dtype: Of all tensors.
        wanted: Which results are kept at every step: 0 is the output, then the states.
        differentiable: Which of the current, the states and the tensor settings need a gradient.
        device: The type of the device whose rounding is that of the kernel.
    """

    neuron: Callable[..., tuple[Tensor, ...]]
    settings: Settings
    states: int
    scalars: tuple[bool, ...]
    dtype: torch.dtype
    wanted: tuple[int, ...]
    differentiable: tuple[bool, ...]
    device: str = "cpu"

    @property
    def needs(self) -> tuple[bool, tuple[bool, ...], tuple[bool, ...]]:
        """`differentiable`, for the current, the states and the tensor settings."""
        current, *others = self.differentiable
        return current, tuple(others[: self.states]), tuple(others[self.states :])


@dataclass(frozen=True)
class Step:
    """The graph of one step.

    Attributes:
        graph: Its nodes; all values have one shape, as if every setting had one value an element.
        operands: Placeholders of the current, the states and the tensor settings.
        gradients: Placeholders of the gradients of the results; none without derivatives.
        results: The output, then the next states.
        derivatives: Gradients of the operands; None where no gradient flows.
        carrying: Which results depend, at some step, on what needs a gradient.
    """

    graph: fx.Graph
    operands: tuple[fx.Node, ...]
    gradients: tuple[fx.Node, ...]
    results: tuple[fx.Node, ...]
    derivatives: tuple[fx.Node | None, ...]
    carrying: tuple[bool, ...]


class NotElementwiseError(Exception):
    """A neuron has no kernel; the message says why."""


def trace(definition: Definition) -> Step:
    """Trace one step of a neuron, and its derivative if anything needs a gradient.

    Raises:
        NotElementwiseError: Its function cannot be traced, or a result is not shaped as the
            current.
    """
    count = 1 + definition.states + len(definition.scalars)
    flowing = 1 + definition.states if any(definition.differentiable) else 0
    with _on_its_own():
        ones = [torch.ones(2, dtype=definition.dtype) for _ in range(count + flowing)]
        graph = traced(_function(definition, count), ones)
        carrying = _carrying(definition, ones)
        round_as_on(definition.device, graph, definition.dtype)
    results, derivatives = _ends(graph, definition)
    placeholders = tuple(graph.find_nodes(op="placeholder"))
    operands, gradients = placeholders[:count], placeholders[count:]
    return Step(graph, operands, gradients, results, derivatives, carrying)


def traced(function: Callable[..., Any], ones: list[Tensor]) -> fx.Graph:
    """The aten operations of a function of tensors, without those that mutate.

    Args:
        function: What to trace; gradients that it takes are traced with it.
        ones: Its operands.

    Raises:
        NotElementwiseError: It cannot be traced.
    """
    with _on_its_own():
        return _without_mutation(make_fx(function)(*ones), ones).graph


@contextmanager
def _on_its_own() -> Generator[None]:
    """Keeps modes, hooks and autocast of the caller away from what is traced."""
    disabled = torch._C.DisableTorchFunction()  # pyright: ignore[reportPrivateUsage]
    unhooked = torch.autograd.graph.saved_tensors_hooks(_itself, _itself)
    with _disable_current_modes(), disabled, unhooked:
        try:
            with torch.autocast("cpu", enabled=False), torch.enable_grad():
                yield
        except NotElementwiseError:
            raise
        except Exception as error:  # a neuron is a user's code, which may raise anything
            raise NotElementwiseError(f"its function cannot be traced: {error}") from error


def _itself(tensor: Tensor) -> Tensor:
    """Keeps a caller's hooks, such as those of a checkpoint, away from what is traced."""
    return tensor


def _without_mutation(traced: fx.GraphModule, ones: list[Tensor]) -> fx.GraphModule:
    """The graph with in-place operations, which autograd's formulas contain, written otherwise."""
    if _mutates(traced.graph):
        traced = make_fx(torch.func.functionalize(traced))(*ones)
    if _mutates(traced.graph):
        raise NotElementwiseError("it changes its operands in place")
    return traced


def _mutates(graph: fx.Graph) -> bool:
    targets: list[Any] = [node.target for node in graph.nodes]
    return any(isinstance(t, OpOverload) and cast("Any", t)._schema.is_mutable for t in targets)


def _function(definition: Definition, count: int) -> Callable[..., Any]:
    """A step as a function of tensors alone: ``(*operands, *gradients) -> results, gradients``."""

    def joint(*tensors: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
        operands, gradients = tensors[:count], tensors[count:]
        if not gradients:
            return _results(definition, operands), ()
        operands = tuple(operand.detach().requires_grad_() for operand in operands)
        results = _results(definition, operands)
        reached = [pair for pair in zip(results, gradients, strict=True) if pair[0].requires_grad]
        if not reached:
            return results, (None,) * count
        ends, flowing = zip(*reached, strict=True)
        return results, torch.autograd.grad(ends, operands, flowing, allow_unused=True)

    return joint


def _results(definition: Definition, operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
    states = operands[1 : 1 + definition.states]
    settings = dict(fill(definition.settings, operands[1 + definition.states :]))
    return tuple(definition.neuron(operands[0], *states, **settings))


def _carrying(definition: Definition, ones: Sequence[Tensor]) -> tuple[bool, ...]:
    """Run as many steps as it takes for a gradient to reach every state that it can reach."""
    pairs = zip(ones, definition.differentiable, strict=False)
    operands = [one.detach().requires_grad_(needs) for one, needs in pairs]
    found = [False] * (1 + definition.states)
    for _ in found:
        results = _results(definition, operands)
        found = [a or b.requires_grad for a, b in zip(found, results, strict=True)]
        operands[1 : 1 + definition.states] = results[1:]
    return tuple(found)


def _ends(
    graph: fx.Graph, definition: Definition
) -> tuple[tuple[fx.Node, ...], tuple[fx.Node | None, ...]]:
    """The results and the derivatives that a traced graph returns."""
    output = next(iter(graph.find_nodes(op="output"))).args[0]
    found = cast("list[fx.Node | None]", pytree.tree_leaves(output, lambda leaf: leaf is None))
    results = tuple(node for node in found[: 1 + definition.states] if node is not None)
    wrong = [node for node in results if node.meta["val"].shape != torch.Size([2])]
    types = {node.meta["val"].dtype for node in graph.nodes if "val" in node.meta}
    if wrong or len(results) <= definition.states or not types <= {definition.dtype, torch.bool}:
        raise NotElementwiseError("not everything has the current's shape and dtype")
    return results, tuple(found[1 + definition.states :])
