"""Where the weights of a step are: its linear maps and convolutions, layers or calls."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import fx, nn
from torch.nn import functional

from snncompile.ir.elementwise import is_autograd_function
from snncompile.ir.layers import layer_class
from snncompile.ir.program import Program, is_neuron
from snncompile.ir.quantised import QUANTISED
from snncompile.ir.spelling import is_tuple
from snncompile.ir.surrogates import fire, spike

Convolution: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d

FUNCTIONS: Mapping[type[nn.Module], Callable[..., Any]] = {
    nn.Linear: functional.linear,
    nn.Conv1d: torch.conv1d,
    nn.Conv2d: torch.conv2d,
    nn.Conv3d: torch.conv3d,
}
"""The function that does what a layer does; both have their output channels first in a weight."""


class Synapse(NamedTuple):
    """A product of what the step computes with a weight.

    Attributes:
        node: The call, of a layer or of one of `FUNCTIONS`.
        weight: Where the float weight is, on the root or among the constants.
        quantised: The node that makes few bits of that weight, if there is one.
    """

    node: fx.Node
    weight: str
    quantised: fx.Node | None = None

    @property
    def name(self) -> str:
        """The layer's name, or the weight's where there is no layer."""
        return self.weight.removesuffix(".weight")


def synapses(program: Program, graph: fx.Graph | None = None) -> Iterator[Synapse]:
    """The synapses of a graph, in order; transposed convolutions are none.

    Args:
        program: The program.
        graph: One of its graphs; its step if not given.
    """
    for node in graph.nodes if graph is not None else program.step.nodes:
        found = synapse_of(program, node)
        if found is not None:
            yield found


def synapse_of(program: Program, node: fx.Node) -> Synapse | None:
    """The synapse that a node is; None if it is none, or if its weight is computed in the step."""
    if node.op == "call_module":
        known = layer_class(program, node) in FUNCTIONS
        return Synapse(node, f"{node.target}.weight") if known else None
    if node.op != "call_function" or node.target not in FUNCTIONS.values():
        return None
    weight = node.args[1]
    if not isinstance(weight, fx.Node):
        return None
    if weight.op == "get_attr":
        return Synapse(node, str(weight.target))
    source = weight.args[0] if weight.target in QUANTISED else None
    if isinstance(source, fx.Node) and source.op == "get_attr":
        return Synapse(node, str(source.target), weight)
    return None


def inner(program: Program) -> list[Synapse]:
    """The synapses of the step that are neither stem nor classifier.

    A stem depends on an input of the step and on no neuron in it; on a classifier no other
    synapse depends, be it in the step or in the epilogue. What states bring does not count: it is
    of the step before.
    """
    found = list(synapses(program))
    sources = _sources(program.step)
    read = {source for synapse in found for source in sources[synapse.node]}
    last = program.epilogue is None or not any(synapses(program, program.epilogue))
    inputs = {program.placeholder(item.name) for item in program.inputs}

    def is_stem(synapse: Synapse) -> bool:
        before = sources[synapse.node]
        return not inputs.isdisjoint(before) and not any(map(_fires, before))

    def is_classifier(synapse: Synapse) -> bool:
        return last and synapse.node not in read

    return [s for s in found if not (is_stem(s) or is_classifier(s))]


def _sources(step: fx.Graph) -> dict[fx.Node, set[fx.Node]]:
    """For every node all those that it depends on within the step."""
    sources: dict[fx.Node, set[fx.Node]] = {}
    for node in step.nodes:
        direct = node.all_input_nodes
        sources[node] = set(direct).union(*(sources[source] for source in direct))
    return sources


def _fires(node: fx.Node) -> bool:
    """Whether a node is a neuron, or a threshold that was not recognised as part of one."""
    return is_neuron(node) or node.target in (fire, spike) or is_autograd_function(node)


def as_function(program: Program, node: fx.Node) -> fx.Node:
    """Spell a layer as a function of its parameters, in place.

    Args:
        program: The program; its modules stay as they are.
        node: A synapse that calls a layer.

    Returns:
        The call that took the node's place: its second argument is the weight.
    """
    layer = cast("nn.Linear | Convolution", program.module(node))
    known = cast("type[nn.Module]", layer_class(program, node))
    graph, target = node.graph, str(node.target)
    settings: dict[str, Any] = {}
    with graph.inserting_before(node):
        value, weight = node.args[0], graph.get_attr(f"{target}.weight")
        if layer.bias is not None:
            settings["bias"] = graph.get_attr(f"{target}.bias")
        if not isinstance(layer, nn.Linear):
            value, path = _path(graph, layer, value)
            settings |= path
        call = graph.call_function(FUNCTIONS[known], (value, weight), settings)
    for made in call.all_input_nodes[1:]:
        made.meta["module"] = target
    call.meta["module"] = target
    node.replace_all_uses_with(call)
    graph.erase_node(node)
    return call


def _path(graph: fx.Graph, layer: Convolution, value: Any) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401
    """How a convolution goes over its input; padding with other than zeros comes first.

    Returns:
        The value, padded if need be, and the settings that differ from the function's own.
    """
    padding: Any = layer.padding
    if layer.padding_mode != "zeros":
        around: Any = layer._reversed_padding_repeated_twice  # pyright: ignore[reportPrivateUsage]
        value = graph.call_function(
            functional.pad, (value, tuple(around)), {"mode": layer.padding_mode}
        )
        padding = 0
    given = {
        "stride": (layer.stride, 1),
        "padding": (padding, 0),
        "dilation": (layer.dilation, 1),
        "groups": (layer.groups, 1),
    }
    once = {key: (_single(setting), default) for key, (setting, default) in given.items()}
    return value, {key: setting for key, (setting, default) in once.items() if setting != default}


def _single(setting: Any) -> Any:  # noqa: ANN401
    """(3, 3) as 3."""
    return setting[0] if is_tuple(setting) and len(set(setting)) == 1 else setting
