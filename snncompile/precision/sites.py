"""Which neurons of a step can become multi-precision neurons."""

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import fx

from snncompile.ir.neurons import (
    GRADED,
    SPIKING,
    delayed_lif,
    integer_lif,
    lif,
    rectified_lif,
)
from snncompile.ir.program import Program, value_of
from snncompile.ir.spelling import is_getitem

_FIRING = (lif, rectified_lif, integer_lif, delayed_lif)


class Site(NamedTuple):
    """A neuron to replace, and the state that its membrane comes from."""

    node: fx.Node
    state: str


def sites(program: Program) -> Iterator[Site]:
    """The neurons to replace, in the order of the step."""
    for node in neurons(program):
        state = state_of(program, node) if is_replaceable(node) else None
        if state is not None:
            yield Site(node, state)


def neurons(program: Program) -> Iterator[fx.Node]:
    """The spiking neurons whose spikes have no size yet."""
    return (n for n in program.neurons() if n.target in SPIKING and n.target not in GRADED)


def is_replaceable(node: fx.Node) -> bool:
    """Whether a neuron has a membrane that is charged and fires within its step."""
    return node.target in _FIRING


def state_of(program: Program, node: fx.Node) -> str | None:
    """The state that a neuron's membrane comes from, be it through another call of that neuron."""
    membrane = node.args[1]
    while isinstance(membrane, fx.Node) and is_getitem(membrane) and membrane.args[1] == 1:
        source = membrane.args[0]
        if not isinstance(source, fx.Node) or source.target not in _FIRING:
            return None
        membrane = source.args[1]
    known = {state.name for state in program.states}
    return membrane.name if isinstance(membrane, fx.Node) and membrane.name in known else None


def readers(program: Program, site: Site) -> Iterator[fx.Node]:
    """Who reads a neuron's membrane, before or after the step, besides the neuron itself."""
    outputs: Any = program.step.output_node().args[0]
    values = [program.placeholder(site.state), *items_of(site.node, 1)]
    for value in values:
        if value in outputs[0]:
            yield value
        for user in value.users:
            if user.op != "output" and not (user.target in _FIRING and value is user.args[1]):
                yield user


def items_of(node: fx.Node, item: int) -> list[fx.Node]:
    """The nodes that take an item of what a neuron returns."""
    return [user for user in node.users if is_getitem(user) and user.args[1] == item]


def shape_of(node: fx.Node) -> tuple[int | torch.SymInt, ...]:
    """The shape of a neuron's current, [N, ...]."""
    return tuple(value_of(cast("fx.Node", node.args[0])).shape)
