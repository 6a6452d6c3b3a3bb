"""Which values of a step are leaky counts of spikes, and how they decay."""

from collections.abc import Collection
from typing import Any

from torch import fx, nn

from snncompile.ir.accumulation import accumulate, accumulating, is_leaky, leaky
from snncompile.ir.layers import layer_class
from snncompile.ir.operations import call_name, is_part
from snncompile.ir.program import Program
from snncompile.ir.two_valued import BINARY

_LAYERS = (nn.Identity, nn.Flatten, nn.Unflatten)
_CALLS = frozenset(("reshape", "view", "flatten", "unflatten"))


def traces(program: Program, spikes: Collection[fx.Node]) -> dict[fx.Node, float]:
    """The nodes that hold a[t] = decay * a[t-1] + s[t], where s are spikes, with their decays.

    Args:
        program: The program; decays that are learned, or differ between neurons, are left out.
        spikes: Nodes that hold 0 and one other number, beside what its neurons accumulate.
    """
    found: dict[fx.Node, float] = {}
    for node in program.step.nodes:
        first = node.args[0] if node.args else None
        if not isinstance(first, fx.Node):
            continue
        if is_part(node) and _accumulates(first, node.args[1], spikes):
            charge: Any = first.kwargs["charge"]
            decay = leaky(charge).decay if is_leaky(charge) else None
            if isinstance(decay, float):
                found[node] = decay
        elif first in found and _reshapes(program, node):
            found[node] = found[first]
    return found


def _accumulates(call: fx.Node, part: object, spikes: Collection[fx.Node]) -> bool:
    """Whether a part of a call is an accumulation of spikes."""
    if call.target is accumulate:
        return call.args[0] in spikes
    return part == 1 and call.target is accumulating and call.kwargs["neuron"] in BINARY


def _reshapes(program: Program, node: fx.Node) -> bool:
    if node.op == "call_module":
        return node.name not in program.whole and layer_class(program, node) in _LAYERS
    return call_name(node) in _CALLS
