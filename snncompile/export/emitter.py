"""Writes the nodes of an fx graph as ONNX: looks up recipes, calls neurons, folds constants."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from torch import Tensor, fx
from torch.fx.node import map_aggregate, map_arg

from snncompile.errors import ExportError
from snncompile.export.constants import known_values
from snncompile.export.encoded_synapses import EncodedSynapse
from snncompile.export.graph import GraphWriter, Value
from snncompile.export.neurons import FunctionLibrary
from snncompile.export.recipes import LAYS_OUT_WEIGHTS, apply, recipe_of_call, recipe_of_layer
from snncompile.export.synapse_functions import call_synapse
from snncompile.export.synapses import Weight
from snncompile.export.tracing import is_function
from snncompile.ir.names import place
from snncompile.ir.operations import is_part
from snncompile.ir.program import Program, is_neuron, origin
from snncompile.ir.surrogates import fire

Written: TypeAlias = Value | tuple[Value, ...]
"""What a node became: one value, or one for each item of a tuple."""

Lookup: TypeAlias = Callable[[fx.Node], Any]


class Emitter:
    """Writes nodes of the graphs of one program.

    Attributes:
        program: Whose modules, parameters and constants the nodes refer to.
        functions: The local functions of the model.
        encoded: The synapses whose weights are encoded.
    """

    def __init__(
        self,
        program: Program,
        functions: FunctionLibrary,
        encoded: Mapping[fx.Node, EncodedSynapse],
    ) -> None:
        self.program = program
        self.functions = functions
        self.encoded = encoded
        self._known: dict[fx.Node, Any] = {}

    def fold(self, graph: fx.Graph) -> None:
        """Compute what depends on parameters and constants alone."""
        self._known.update(known_values(self.program, graph))

    def is_known(self, node: fx.Node) -> bool:
        """Whether `fold` computed the node."""
        return node in self._known

    def known(self, node: fx.Node) -> Any:  # noqa: ANN401
        """A folded node as an argument: a weight, or a Python value."""
        value: Any = self._known[node]
        if isinstance(value, Tensor):
            name = str(node.target) if node.op == "get_attr" else f"{origin(node)}.{node.name}"
            return Weight(name, value)
        if not isinstance(value, (tuple, list)):
            return value
        items = enumerate(cast("Sequence[Tensor]", value))
        return tuple(Weight(f"{node.name}.{i}", item) for i, item in items)

    def write(self, graph: GraphWriter, node: fx.Node, lookup: Lookup) -> Written:
        """Append the nodes that compute one call.

        Args:
            graph: Where to append them.
            node: A call; its ``meta["val"]`` is set.
            lookup: The argument that stands for an input node.

        Returns:
            What the node became.

        Raises:
            ExportError: There is no recipe; names the node, the reason and the way out.
        """
        graph.scope = origin(node)
        if node in self.encoded:
            synapse = self.encoded[node]
            current = call_synapse(self.functions, graph, synapse, lookup(synapse.synapse.source))
            return _typed(current, node)
        args = map_arg(node.args, lookup)
        kwargs = map_arg(node.kwargs, lookup)
        try:
            args, kwargs = _stored(graph, args, node), _stored(graph, kwargs, node)
            return _typed(self._result(graph, node, args, kwargs), node)
        except ExportError as error:
            raise ExportError(f"export: {place(node)}: {error}") from error

    def _result(
        self, graph: GraphWriter, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str | tuple[str, ...]:
        if node.op == "call_module":
            recipe = recipe_of_layer(self.program, node)
            module = self.program.module(node)
            return apply(recipe, graph, (str(node.target), module, *args), kwargs)
        if is_neuron(node) or node.target is fire or is_function(node.target):
            return self.functions.call(graph, node, args, kwargs)
        if is_part(node):
            return str(args[0][args[1]].name)
        return apply(recipe_of_call(node), graph, args, kwargs)


def _stored(graph: GraphWriter, arguments: Any, node: fx.Node) -> Any:  # noqa: ANN401
    """Write weights as initializers, except where a recipe lays them out itself."""
    if node.op == "call_module" or node.target in LAYS_OUT_WEIGHTS:
        return arguments
    return map_aggregate(arguments, lambda item: _as_value(graph, item))


def _as_value(graph: GraphWriter, item: Any) -> Any:  # noqa: ANN401
    return (
        Value(graph.weight(item.name, item.data), item.data) if isinstance(item, Weight) else item
    )


def _typed(result: str | tuple[str, ...], node: fx.Node) -> Written:
    value = node.meta["val"]
    if isinstance(result, str):
        return Value(result, value)
    return tuple(Value(name, item) for name, item in zip(result, value, strict=True))
