"""The synapses of a program: its linear maps and convolutions whose weights are known.

A layer of torch.nn and a call of its function are the same synapse; so is a call whose weight is
computed from parameters, such as their sign.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from snncompile.export.constants import known_values
from snncompile.ir.layers import layer_class
from snncompile.ir.program import Program, origin

_SETTINGS = ("stride", "padding", "dilation", "groups")
_CONVOLUTIONS: Mapping[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: torch.conv1d, nn.Conv2d: torch.conv2d, nn.Conv3d: torch.conv3d,
}  # fmt: skip
_FUNCTIONS: Mapping[Any, Callable[..., Tensor]] = {
    functional.linear: functional.linear,
    **{function: function for function in _CONVOLUTIONS.values()},
    functional.conv1d: torch.conv1d, functional.conv2d: torch.conv2d,
    functional.conv3d: torch.conv3d,
}  # fmt: skip
_PARAMETERS: Final = ("input", "weight", "bias", *_SETTINGS)


@dataclass(frozen=True)
class Synapse:
    """A linear map or convolution.

    Attributes:
        function: `functional.linear`, or torch's convolution.
        source: The node that it reads.
        name: Its weight's, in the state dict where it is a parameter.
        weight: Float32, [C, ...].
        bias: Float32, [C], or None.
        settings: Stride, padding, dilation and groups of a convolution.
    """

    function: Callable[..., Tensor]
    source: fx.Node
    name: str
    weight: Tensor
    bias: Tensor | None
    settings: Mapping[str, Any]

    @property
    def is_linear(self) -> bool:
        """Whether it is a linear map."""
        return self.function is functional.linear

    def sums(self, value: Tensor, weight: Tensor) -> Tensor:
        """What torch adds up with another weight, without the bias."""
        return self.function(value, weight, None, **self.settings)

    def over_channels(self, values: Tensor) -> Tensor:
        """[C] in the shape that broadcasts against the sums."""
        return values.reshape(-1, *(1,) * (self.weight.dim() - 2))


def synapses_of(program: Program) -> dict[fx.Node, Synapse]:
    """The synapses of all graphs of a program."""
    found: dict[fx.Node, Synapse] = {}
    for graph in (program.prologue, program.step, program.epilogue):
        if graph is None:
            continue
        known = known_values(program, graph)
        for node in graph.nodes:
            synapse = _of_layer(program, node) or _of_call(node, known)
            if synapse is not None and synapse.weight.dtype == torch.float32:
                found[node] = synapse
    return found


def _of_layer(program: Program, node: fx.Node) -> Synapse | None:
    kind = layer_class(program, node) if node.op == "call_module" else None
    if kind is not nn.Linear and kind not in _CONVOLUTIONS:
        return None
    module: Any = program.module(node)
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return None
    settings = {} if kind is nn.Linear else {name: getattr(module, name) for name in _SETTINGS}
    function = functional.linear if kind is nn.Linear else _CONVOLUTIONS[kind]  # type: ignore[index]
    with torch.no_grad():
        weight, bias = module.weight, module.bias
    return Synapse(
        function, node.all_input_nodes[0], f"{node.target}.weight", weight, bias, settings
    )


def _of_call(node: fx.Node, known: Mapping[fx.Node, Any]) -> Synapse | None:
    if node.op != "call_function" or node.target not in _FUNCTIONS:
        return None
    given = {**dict(zip(_PARAMETERS, node.args, strict=False)), **node.kwargs}
    source, weight, bias = (given.pop(name, None) for name in _PARAMETERS[:3])
    if not isinstance(source, fx.Node) or source in known or weight not in known:
        return None
    if bias is not None and bias not in known:
        return None
    function = _FUNCTIONS[node.target]
    offset = None if bias is None else known[bias]  # type: ignore[index]
    return Synapse(function, source, _name(weight), known[weight], offset, given)  # type: ignore[index, arg-type]


def _name(weight: fx.Node) -> str:
    """What a weight is called: the parameter it is computed from, if there is just one."""
    node = weight
    while node.op != "get_attr" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return str(node.target) if node.op == "get_attr" else f"{origin(weight)}.{weight.name}"
