"""Writes one ONNX graph: the main graph, the body of a Scan, or the body of a local function.

Values are strings, as in ONNX; a `Value` pairs one with the fake tensor that torch has for it.
Names are unique across a model, since a Scan's body sees the graph around it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import SymInt, Tensor

from snncompile.errors import ExportError

Attribute: TypeAlias = int | float | str | Sequence[int] | onnx.GraphProto | onnx.TensorProto
Number: TypeAlias = bool | int | float

DOMAIN = "snn"
"""The domain of the local functions."""

_TYPES = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.int64: onnx.TensorProto.INT64,
    torch.int32: onnx.TensorProto.INT32,
    torch.int8: onnx.TensorProto.INT8,
    torch.uint8: onnx.TensorProto.UINT8,
    torch.bool: onnx.TensorProto.BOOL,
}
_REDUCES_BY_ATTRIBUTE = 17
"""The last opset in which only ReduceSum takes its axes as an input."""


@dataclass(frozen=True)
class Value:
    """A value of the ONNX graph and what torch knows about it.

    Attributes:
        name: Its name in the graph.
        like: A fake tensor of its dtype and shape; a symbolic int for a size, which is an int64
            tensor of one element.
    """

    name: str
    like: Tensor | SymInt

    @property
    def tensor(self) -> Tensor:
        """The fake tensor; a size stands for an int64 scalar."""
        return self.like if isinstance(self.like, Tensor) else torch.empty((), dtype=torch.int64)


def onnx_type(dtype: torch.dtype) -> int:
    """The ONNX element type of a torch dtype.

    Raises:
        ExportError: The dtype is not one that the exporter writes.
    """
    if dtype not in _TYPES:
        raise ExportError(
            f"a value of {dtype} cannot be exported; export writes float32: call float() on the "
            "model before it is captured"
        )
    return int(_TYPES[dtype])


class Names:
    """Hands out the names of a model, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, hint: str) -> str:
        """`hint`, or with the first free number behind it."""
        name, count = hint, 1
        while name in self._taken:
            count += 1
            name = f"{hint}_{count}"
        self._taken.add(name)
        return name


def identifier(label: str) -> str:
    """A label as a name that every runtime's language can spell: letters, digits, underscores."""
    return re.sub(r"\W", "_", label, flags=re.ASCII)


class GraphWriter:
    """Collects the nodes and initializers of one graph.

    Attributes:
        opset: The version of the operators.
        names: Shared by the graphs of one model.
        nodes: In execution order.
        initializers: Weights and constants, by name.
        scope: What the names of new nodes begin with: the user's module.
    """

    def __init__(self, opset: int, names: Names) -> None:
        self.opset = opset
        self.names = names
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], str] = {}
        self._weights: dict[str, str] = {}
        self.scope = ""

    def nested(self) -> "GraphWriter":
        """The writer of a subgraph."""
        return GraphWriter(self.opset, self.names)

    def op(self, kind: str, *inputs: str, **attributes: Attribute) -> str:
        """Append a node with one output; returns the output's name."""
        return self.ops(kind, inputs, 1, **attributes)[0]

    def ops(
        self, kind: str, inputs: Sequence[str], count: int, **attributes: Attribute
    ) -> tuple[str, ...]:
        """Append a node with `count` outputs; returns their names."""
        outputs = tuple(self.names.take(self._hint(kind.lower())) for _ in range(count))
        node = helper.make_node(kind, inputs, outputs, outputs[0])
        node.attribute.extend(helper.make_attribute(key, v) for key, v in attributes.items())
        self.nodes.append(node)
        return outputs

    def call(
        self,
        function: onnx.FunctionProto,
        inputs: Sequence[str],
        attributes: Mapping[str, Attribute],
    ) -> list[str]:
        """Append a call of a local function; returns the names of its outputs."""
        name = self.names.take(self._hint(function.name))
        outputs = [self.names.take(self._hint(output)) for output in function.output]
        node = helper.make_node(function.name, inputs, outputs, name, domain=DOMAIN)
        node.attribute.extend(helper.make_attribute(key, v) for key, v in attributes.items())
        self.nodes.append(node)
        return outputs

    def _hint(self, name: str) -> str:
        return f"{self.scope}.{name}" if self.scope else name

    def constant(self, value: Number | Sequence[int] | Tensor, dtype: torch.dtype) -> str:
        """A constant of the graph."""
        array = torch.as_tensor(value, dtype=dtype).numpy()
        key = (array.dtype.str, array.tobytes(), array.shape)
        if key not in self._constants:
            self._constants[key] = self._store("const", array)
        return self._constants[key]

    def weight(self, name: str, tensor: Tensor) -> str:
        """A parameter or buffer under its own name; equal names mean equal tensors."""
        if name not in self._weights:
            onnx_type(tensor.dtype)
            self._weights[name] = self._store(name, tensor.detach().cpu().contiguous().numpy())
        return self._weights[name]

    def _store(self, hint: str, array: np.ndarray) -> str:
        name = self.names.take(hint)
        self.initializers[name] = numpy_helper.from_array(array, name)
        return name

    def ints(self, *values: int) -> str:
        """A constant int64 vector: axes, shapes, pads."""
        return self.constant(torch.tensor(values, dtype=torch.int64), torch.int64)

    def shape(self, sizes: Sequence[int | Value]) -> str:
        """An int64 vector of sizes, some of which are only known when the graph runs."""
        if all(isinstance(size, int) for size in sizes):
            return self.ints(*(int(size) for size in sizes))  # type: ignore[arg-type]
        parts = [size.name if isinstance(size, Value) else self.ints(size) for size in sizes]
        return self.op("Concat", *parts, axis=0)

    def cast(self, value: str, before: torch.dtype, after: torch.dtype) -> str:
        """The value in another dtype; unchanged if that is its own."""
        return value if before == after else self.op("Cast", value, to=onnx_type(after))

    def reduce(self, kind: str, value: str, axes: Sequence[int], *, keep: bool = False) -> str:
        """A reduction over axes, in the spelling of the opset."""
        if kind != "ReduceSum" and self.opset <= _REDUCES_BY_ATTRIBUTE:
            return self.op(kind, value, axes=list(axes), keepdims=int(keep))
        return self.op(kind, value, self.ints(*axes), keepdims=int(keep))


def rename(nodes: Sequence[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Give values other names, in nodes and in the subgraphs they hold."""
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            rename(attribute.g.node, names)
            for output in attribute.g.output:
                output.name = names.get(output.name, output.name)


class FunctionWriter(GraphWriter):
    """Writes the body of a local function, where constants are nodes and numbers attributes."""

    def __init__(self, opset: int) -> None:
        super().__init__(opset, Names())

    def _store(self, hint: str, array: np.ndarray) -> str:
        name = self.names.take(hint)
        node = helper.make_node("Constant", [], [name], name)
        if array.dtype == np.float32 and array.ndim == 0:
            node.attribute.append(helper.make_attribute("value_float", float(array)))
        else:
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(array)))
        self.nodes.append(node)
        return name

    def attribute(self, name: str) -> str:
        """The value of one of the function's float attributes."""
        output = self.names.take(name)
        node = helper.make_node("Constant", [], [output], output)
        reference = onnx.AttributeProto(
            name="value_float", ref_attr_name=name, type=onnx.AttributeProto.FLOAT
        )
        node.attribute.append(reference)
        self.nodes.append(node)
        return output
