"""Neurons as ONNX local functions, generated from the Python functions that define them.

A neuron's function is traced under its settings. Numbers become attributes of the ONNX function,
tensors (learnable decays) its inputs, and what remains of the settings names it: a `lif` with
`Decay` and `Subtract` is ``snn.lif_decay_subtract``. Autograd Functions of the user, surrogates
or not, take the same way through their forward.
"""

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

import onnx
import torch
from onnx import helper
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from snncompile.export.graph import DOMAIN, FunctionWriter, GraphWriter, Value, rename
from snncompile.export.recipes import apply, recipe_of_call
from snncompile.export.simplified import simplified
from snncompile.export.tracing import forward_of, is_function, trace
from snncompile.ir.neurons import NEURONS, SPIKING
from snncompile.ir.program import is_neuron
from snncompile.ir.surrogates import Surrogate, fire

_BACKWARD_ONLY: Final = "detach"
"""How settings begin that change gradients only; they name no function."""


@dataclass(frozen=True)
class _Argument:
    """One leaf of a call's arguments: a tensor or number under a name, or a fixed setting."""

    name: str
    value: Any
    fixed: bool

    @property
    def varies(self) -> bool:
        return not self.fixed


class FunctionLibrary:
    """The local functions of one model, each written once.

    Attributes:
        opset: The version of the operators in their bodies.
        functions: In the order of their first call.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.functions: list[onnx.FunctionProto] = []
        self._by_body: dict[bytes, onnx.FunctionProto] = {}

    def call(
        self, graph: GraphWriter, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str | tuple[str, ...]:
        """Call a neuron, or an autograd Function, writing its function at the first call.

        Args:
            graph: Where the call is appended.
            node: The node that calls it.
            args: Its arguments, tensors as `Value`.
            kwargs: Its settings, tensors as `Value`.

        Returns:
            The names of what it returns; one name if that is not a tuple.

        Raises:
            ExportError: Its Python body cannot be traced or has an operation without a recipe.
        """
        function = _python_function(node)
        leaves, spec = pytree.tree_flatten_with_path((args, kwargs))
        arguments = _named(function, leaves)
        traced = _traced(function, arguments, spec)
        used = {str(p.target) for p in traced.find_nodes(op="placeholder") if p.users}
        body = self._body(traced, arguments, _outputs(node, function))
        doc = (inspect.getdoc(function) or "").partition("\n")[0]
        body = self.add(body, _name(node, args, kwargs), doc)
        tensors = {a.name: a.value.name for a in arguments if isinstance(a.value, Value)}
        numbers = {a.name: a.value for a in arguments if a.name in body.attribute}
        inputs = [value for key, value in tensors.items() if key in used]
        results = graph.call(body, inputs, numbers)
        return tuple(results) if isinstance(node.meta["val"], (tuple, list)) else results[0]

    def _body(
        self, traced: fx.Graph, arguments: list[_Argument], names: tuple[str, ...]
    ) -> onnx.FunctionProto:
        writer = _BodyWriter(self.opset, arguments, names)
        outputs = writer.write(traced)
        nodes = simplified(writer.nodes, outputs)
        inputs = [str(p.target) for p in traced.find_nodes(op="placeholder") if p.users]
        tensors = [name for name in inputs if name not in writer.numbers]
        return helper.make_function(
            DOMAIN, "", tensors, outputs, nodes, [helper.make_opsetid("", self.opset)],
            list(writer.read),
        )  # fmt: skip

    def add(self, body: onnx.FunctionProto, wanted: str, doc: str) -> onnx.FunctionProto:
        """The function of the model that has this body.

        Args:
            body: Without a name.
            wanted: The name it gets, with a number behind it if another body has it.
            doc: What it does, in one line.
        """
        key = wanted.encode() + body.SerializeToString(deterministic=True)
        if key not in self._by_body:
            taken = {known.name for known in self.functions}
            numbered = (f"{wanted}_{count}" for count in range(2, len(taken) + 3))
            name = next(n for n in (wanted, *numbered) if n not in taken)
            body.name = name
            body.doc_string = doc
            self.functions.append(body)
            self._by_body[key] = body
        return self._by_body[key]


class _BodyWriter(FunctionWriter):
    """Writes the body of one function from its trace."""

    def __init__(self, opset: int, arguments: list[_Argument], outputs: tuple[str, ...]) -> None:
        super().__init__(opset)
        self.numbers = {a.name for a in arguments if a.varies and isinstance(a.value, float)}
        self.read: dict[str, Value] = {}
        self._values: dict[fx.Node, Value] = {}
        self._outputs = outputs
        for name in (*(a.name for a in arguments if isinstance(a.value, Value)), *outputs):
            self.names.take(name)

    def write(self, traced: fx.Graph) -> list[str]:
        """Append the nodes of a trace; returns the names of the outputs."""
        for node in traced.nodes:
            if isinstance(node.meta.get("val"), Tensor) and node.op.startswith("call"):
                args = map_arg(node.args, self._argument)
                kwargs = map_arg(node.kwargs, self._argument)
                result = apply(recipe_of_call(node), self, args, kwargs)
                assert isinstance(result, str)
                self._values[node] = Value(result, node.meta["val"])
        returned = traced.output_node().args[0]
        items = returned if isinstance(returned, (tuple, list)) else (returned,)
        return self._named([self._argument(item) for item in items])

    def _argument(self, node: Any) -> Any:  # noqa: ANN401
        if node in self._values:
            return self._values[node]
        if node.op != "placeholder":
            return node.meta["val"]
        name = str(node.target)
        if name not in self.numbers:
            return Value(name, node.meta["val"])
        if name not in self.read:
            self.read[name] = Value(self.attribute(name), torch.empty(()))
        return self.read[name]

    def _named(self, values: list[Value]) -> list[str]:
        """Give the results the outputs' names; a result that is no new value is copied."""
        made = {output for node in self.nodes for output in node.output}
        names: dict[str, str] = {}
        outputs = [*self._outputs, *(f"output_{i}" for i in range(len(values)))][: len(values)]
        for value, output in zip(values, outputs, strict=True):
            if value.name in made and value.name not in names:
                names[value.name] = output
            else:
                self.nodes.append(helper.make_node("Identity", [value.name], [output], output))
        rename(self.nodes, names)
        return outputs


def _python_function(node: fx.Node) -> Callable[..., Any]:
    target: Any = node.target
    return forward_of(target.__self__) if is_function(target) else target


def _named(function: Callable[..., Any], leaves: Iterable[tuple[Any, Any]]) -> list[_Argument]:
    """Call every leaf after its parameter; where two agree, after the whole path to it."""
    parameters = list(inspect.signature(function).parameters)
    paths = [(_words(path, parameters), value) for path, value in leaves]
    last = [words[-1] for words, _ in paths]
    names = [words[-1] if last.count(words[-1]) == 1 else "_".join(words) for words, _ in paths]
    return [
        _Argument(name, value, _is_fixed(function, words[0], value))
        for name, (words, value) in zip(names, paths, strict=True)
    ]


def _is_fixed(function: Callable[..., Any], parameter: str, value: object) -> bool:
    """Numbers vary, but not zeros, which shorten the body, nor where Python may branch on them.

    Surrogates and the user's Functions may.
    """
    varies = function in NEURONS and parameter != "surrogate"
    number = isinstance(value, float) and value != 0.0 and varies
    return not number and not isinstance(value, Value)


def _words(path: tuple[Any, ...], parameters: list[str]) -> list[str]:
    words = [
        str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", "")))) for key in path
    ]
    if words[0] == "1":
        return words[1:]
    index = int(words[1])
    positional = index < len(parameters) and parameters[index] != "args"
    return [parameters[index] if positional else f"input_{index}", *words[2:]]


def _traced(
    function: Callable[..., Any], arguments: list[_Argument], spec: pytree.TreeSpec
) -> fx.Graph:
    varying = [a for a in arguments if a.varies]

    def run(*values: Any) -> Any:  # noqa: ANN401
        given = iter(values)
        leaves = [next(given) if a.varies else a.value for a in arguments]
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        return function(*args, **kwargs)

    fakes = {a.name: a.value.like if isinstance(a.value, Value) else a.value for a in varying}
    return trace(run, fakes)


def _outputs(node: fx.Node, function: Callable[..., Any]) -> tuple[str, ...]:
    """What the function returns, in words."""
    if not is_neuron(node):
        return ("spikes",) if function is fire else ("output",)
    parameters = inspect.signature(function).parameters.values()
    states = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
    return ("spikes" if node.target in SPIKING else "output", *(f"{s}_next" for s in states))


def _name(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The function's name and what sets this configuration apart from others."""
    target: Any = node.target
    if is_function(target):
        return _snake(target.__self__.__name__)
    words = [target.__name__]
    for key, value in [*enumerate(args), *kwargs.items()]:
        words += _configuration(str(key), value)
    return "_".join(words)


def _configuration(key: str, value: Any) -> list[str]:  # noqa: ANN401
    if isinstance(value, Surrogate):
        return [_snake(value.function.__name__)] if value.function else []
    if isinstance(value, tuple):
        return [_snake(str(type(cast("object", value)).__name__))]
    if isinstance(value, str):
        return [value]
    return [key] if value is True and not key.startswith(_BACKWARD_ONLY) else []


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip("_")).lower()
