"""Finds what runs window by window: modules of one or two spiking layers on one feature map.

A module is a run of neurons on a map [N, C, H, W] with everything before each that only it reads
and that treats the map locally: convolutions that keep its size, normalisation over the batch,
what is elementwise. What else there is, poolings, strided convolutions, residual sums that several
read, runs on whole maps.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from snncompile.ir.elementwise import is_elementwise
from snncompile.ir.layers import layer_class
from snncompile.ir.operations import is_part
from snncompile.ir.program import Program, is_spiking, output_of
from snncompile.ir.spelling import is_tuple

_CONVOLUTIONS = (torch.conv2d, functional.conv2d)
_NORMALISATIONS = (nn.BatchNorm2d, nn.SyncBatchNorm)
_POINTWISE_LAYERS = frozenset(
    (
        nn.Identity, nn.Dropout, nn.Dropout2d, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU,
        nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardtanh,
    )
)  # fmt: skip


@dataclass(frozen=True)
class Module:
    """Nodes of a step that run four times, once a window.

    Attributes:
        nodes: In the order of the step.
        neurons: Its spiking neurons, in that order.
        size: Height and width of its feature map.
    """

    nodes: tuple[fx.Node, ...]
    neurons: tuple[fx.Node, ...]
    size: tuple[int, int]

    def entries(self) -> tuple[fx.Node, ...]:
        """What it reads from outside, in the order in which it does."""
        inside = set(self.nodes)
        read = (source for node in self.nodes for source in node.all_input_nodes)
        return tuple(dict.fromkeys(source for source in read if source not in inside))

    def exits(self) -> tuple[fx.Node, ...]:
        """Its nodes that are read outside within the step, or are outputs of it."""
        inside = set(self.nodes)
        return tuple(node for node in self.nodes if not readers(node) <= inside)


def find_modules(program: Program, depth: int) -> tuple[Module, ...]:
    """The modules of a program, in the order in which they run.

    Args:
        program: The program; its nodes hold ``meta["val"]``.
        depth: How many neurons in a row a module has at most.
    """
    order = {node: i for i, node in enumerate(program.step.nodes)}
    layers = {n: _layer(program, n) for n in program.neurons() if is_spiking(n) and on_a_map(n)}
    found: list[Module] = []
    while layers:
        neuron = next(iter(layers))
        neurons, nodes = [neuron], layers.pop(neuron)
        while len(neurons) < depth:
            following = _following(neurons[-1], layers)
            if following is None:
                break
            neurons.append(following)
            nodes |= layers.pop(following)
        ordered = tuple(sorted(nodes, key=order.__getitem__))
        found.append(Module(ordered, tuple(neurons), map_size(neuron) or (0, 0)))
    return tuple(found)


def map_size(node: fx.Node) -> tuple[int, int] | None:
    """Height and width of a value [N, C, H, W], or of the first value of a neuron; else None."""
    value: Any = node.meta.get("val")
    first: object = value[0] if is_tuple(value) else value
    if not isinstance(first, Tensor) or first.dim() != 4:  # noqa: PLR2004
        return None
    return (int(first.shape[2]), int(first.shape[3]))


def on_a_map(neuron: fx.Node) -> bool:
    """Whether a neuron's current is a feature map of more than one position."""
    return map_size(neuron) not in (None, (1, 1))


def is_convolution(program: Program, node: fx.Node) -> bool:
    """Whether a node is a two-dimensional convolution."""
    if node.op == "call_module":
        return layer_class(program, node) is nn.Conv2d
    return node.op == "call_function" and node.target in _CONVOLUTIONS


def fits_windows(node: fx.Node, size: tuple[int, int]) -> bool:
    """Whether an operand is a map of that size, or the same at every position of one."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.dim() == 0:
        return True
    return map_size(node) == size or all(side == 1 for side in value.shape[-2:])


def readers(node: fx.Node) -> set[fx.Node]:
    """Who reads a node within the step: the output counts for outputs only, not for states."""
    output = node.graph.output_node()
    users = set(node.users) - {output}
    return users | {output} if node in output_of(node.graph)[0] else users


def _layer(program: Program, neuron: fx.Node) -> set[fx.Node]:
    """A neuron and everything before it that it alone reads and that is local."""
    size = map_size(neuron)
    assert size is not None
    nodes = list(program.step.nodes)
    inside = _with_parts(neuron)
    for node in reversed(nodes[: nodes.index(neuron)]):
        if is_part(node) or not _is_local(program, node, size):
            continue
        together = _with_parts(node)
        reading = {reader for part in together for reader in readers(part)} - together
        if reading and reading <= inside:
            inside |= together
    return inside


def _with_parts(node: fx.Node) -> set[fx.Node]:
    return {node, *(user for user in node.users if is_part(user))}


def _following(neuron: fx.Node, layers: dict[fx.Node, set[fx.Node]]) -> fx.Node | None:
    """The neuron on the same map that alone reads what a neuron emits."""
    together = _with_parts(neuron)
    reading = {reader for part in together for reader in readers(part)} - together
    for other, layer in layers.items():
        if reading and reading <= layer and map_size(other) == map_size(neuron):
            return other
    return None


def _is_local(program: Program, node: fx.Node, size: tuple[int, int]) -> bool:
    """Whether a node makes a map of another of the same size, and sees only what is near."""
    if map_size(node) != size or node.op in ("placeholder", "get_attr", "output"):
        return False
    if is_convolution(program, node) or _is_normalisation(program, node):
        return map_size(node.all_input_nodes[0]) == size
    known = (
        layer_class(program, node) in _POINTWISE_LAYERS
        if node.op == "call_module"
        else (is_elementwise(node) or _joins_channels(node)) and not is_spiking(node)
    )
    return known and all(fits_windows(source, size) for source in node.all_input_nodes)


def _is_normalisation(program: Program, node: fx.Node) -> bool:
    if node.op == "call_module":
        return layer_class(program, node) in _NORMALISATIONS
    return node.target is functional.batch_norm


def _joins_channels(node: fx.Node) -> bool:
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    return node.target is torch.cat and axis in (1, -3)
