"""How far a neuron's membranes were from its threshold when it decided to fire."""

from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from snncompile.ir.accumulation import accumulating, settled
from snncompile.ir.program import Program
from snncompile.ir.surrogates import Surrogate


class _Tap(torch.autograd.Function):
    """Fires like a neuron and keeps every distance it was asked about."""

    seen: ClassVar[list[Tensor]]

    @classmethod
    def apply(cls, distance: Tensor) -> Tensor:
        """Spikes where the distance is positive."""
        cls.seen.append(distance)
        return (distance > 0).to(distance.dtype)


def distances(program: Program, node: fx.Node, inputs: tuple[Tensor, ...]) -> Tensor | None:
    """Membrane minus threshold at every step, [T, N, ...].

    Args:
        program: The program the neuron is in.
        node: The neuron.
        inputs: Its current and its states before each step, each [T, N, ...].

    Returns:
        The distances, or None for a neuron without a threshold to compare with, or whose
        settings depend on the input.
    """
    if "surrogate" not in node.kwargs:
        return None
    settings = {key: value for key, value in node.kwargs.items() if key != "surrogate"}
    known: Any = map_arg(settings, lambda n: _constant(program, n))
    if any(leaf is None for leaf in pytree.tree_leaves(known)):
        return None
    steps: list[Tensor] = []
    for values in zip(*(value.unbind(0) for value in inputs), strict=True):
        tap = _tap()
        with torch.no_grad():
            node.target(*values, **known, surrogate=Surrogate("function", (), tap))  # type: ignore[operator]
        steps.append(tap.seen[-1])
    return torch.stack(steps)


def membranes(
    program: Program, node: fx.Node, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
) -> Tensor | None:
    """A neuron's membrane after every step, [T, N, ...].

    Args:
        program: The program the neuron is in.
        node: The neuron.
        inputs: Its current and its states before each step, each [T, N, ...].
        outputs: Its output and its states after each step, each [T, N, ...].

    Returns:
        The membranes; None where it has none, or where its settings depend on the input and they
        cannot be told.
    """
    if node.target is not accumulating:
        return outputs[1] if len(outputs) > 1 else None
    given = {name: node.kwargs.get(name) for name in ("charge", "threshold", "reset")}
    settings = {name: value for name, value in given.items() if value is not None}
    known: Any = map_arg(settings, lambda n: _constant(program, n))
    if any(leaf is None for leaf in pytree.tree_leaves(known)):
        return None
    potential, accumulation = inputs
    return settled(potential, accumulation, outputs[0], **known)


def _tap() -> type[_Tap]:
    class Tap(_Tap):
        seen: ClassVar[list[Tensor]] = []

    return Tap


def _constant(program: Program, node: fx.Node) -> Any:  # noqa: ANN401
    """The value of a node that reads parameters only; None when it reads the step's data."""
    if node.op == "get_attr":
        target = str(node.target)
        if target in program.constants:
            return program.constants[target]
        owner, _, name = target.rpartition(".")
        return getattr(program.root.get_submodule(owner), name)
    if node.op == "placeholder" or isinstance(node.target, str):
        return None
    args: Any = map_arg(node.args, lambda n: _constant(program, n))
    kwargs: Any = map_arg(node.kwargs, lambda n: _constant(program, n))
    return node.target(*args, **kwargs)
