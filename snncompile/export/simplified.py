"""Makes the body of a neuron's function shorter, without another result.

Every operation of a neuron is a pass over its membranes, so three are taken out that no finite
number notices, up to the sign of a zero:

    a - b >= 0                ->  a >= b              differences keep their sign: gradual underflow
    s * a + (1 - s) * b       ->  where(s, a, b)      s a spike, 0 or 1
    a - 0                     ->  a
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from typing import TypeAlias

import onnx
from onnx import helper

from snncompile.export.graph import rename

_Made: TypeAlias = dict[str, onnx.NodeProto]
"""Nodes by the value that they make."""

_COMPARISONS = frozenset(("GreaterOrEqual", "Greater", "LessOrEqual", "Less"))


def simplified(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes of a body with shorter ones in place of some, and without those not read.

    Args:
        nodes: In execution order.
        outputs: What the body returns.
    """
    made = {output: node for node in nodes for output in node.output}
    kept: list[onnx.NodeProto] = []
    for node in nodes:
        source = _unchanged(node, made)
        if source is None or node.output[0] in outputs:
            shorter = _compared(node, made) or _chosen(node, made) or node
            made[node.output[0]] = shorter
            kept.append(shorter)
        else:
            rename(nodes, {node.output[0]: source})
    return _read(kept, outputs)


def _read(nodes: Iterable[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that outputs depend on."""
    read, kept = set(outputs), list[onnx.NodeProto]()
    for node in reversed(list(nodes)):
        if read & set(node.output):
            read |= set(node.input)
            kept.insert(0, node)
    return kept


def _unchanged(node: onnx.NodeProto, made: _Made) -> str | None:
    """What the node gives back as it is."""
    return node.input[0] if node.op_type == "Sub" and _is(0.0, node.input[1], made) else None


def _compared(node: onnx.NodeProto, made: _Made) -> onnx.NodeProto | None:
    """A difference compared with zero, as a comparison of its terms."""
    if node.op_type not in _COMPARISONS or not _is(0.0, node.input[1], made):
        return None
    difference = made.get(node.input[0])
    if difference is None or difference.op_type != "Sub":
        return None
    return _in_place_of(node, node.op_type, *difference.input)


def _chosen(node: onnx.NodeProto, made: _Made) -> onnx.NodeProto | None:
    """One of two values by a spike, as a choice."""
    if node.op_type != "Add":
        return None
    for first, second in permutations(node.input):
        for spike, fired in _factors(first, made):
            condition = _condition(spike, made)
            for rest, silent in _factors(second, made):
                if condition is not None and _is_opposite(rest, spike, made):
                    return _in_place_of(node, "Where", condition, fired, silent)
    return None


def _factors(name: str, made: _Made) -> Iterator[tuple[str, str]]:
    """The factors of a product, in both orders."""
    product = made.get(name)
    if product is not None and product.op_type == "Mul":
        left, right = product.input
        yield from ((left, right), (right, left))


def _condition(spike: str, made: _Made) -> str | None:
    """The decision that a spike is, if it is one."""
    cast = made.get(spike)
    decision = made.get(cast.input[0]) if cast is not None and cast.op_type == "Cast" else None
    return decision.output[0] if decision and decision.op_type in _COMPARISONS else None


def _is_opposite(name: str, spike: str, made: _Made) -> bool:
    """Whether a value is one minus the spike."""
    node = made.get(name)
    return (
        node is not None
        and node.op_type == "Sub"
        and _is(1.0, node.input[0], made)
        and node.input[1] == spike
    )


def _is(number: float, name: str, made: _Made) -> bool:
    """Whether a value is a constant of the body, and this number."""
    node = made.get(name)
    if node is None or node.op_type != "Constant":
        return False
    setting = node.attribute[0]
    return setting.name == "value_float" and not setting.ref_attr_name and setting.f == number


def _in_place_of(node: onnx.NodeProto, kind: str, *inputs: str) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, node.output, node.name)
