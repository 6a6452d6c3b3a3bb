"""Encoded synapses as calls of local functions: ``binary_conv``, ``ternary_linear`` and the like.

A function unpacks the weight, adds up, rounds where the sums are proven to be integers, scales and
offsets, each as a node of its own: a runtime that fused them would add in another order.
"""

import onnx
from torch import Tensor

from snncompile.export.encoded_synapses import EncodedSynapse
from snncompile.export.graph import Attribute, GraphWriter, Value
from snncompile.export.integer_sums import integer_lines, matrix
from snncompile.export.neurons import FunctionLibrary
from snncompile.export.packing import packed, parsed, unpacking
from snncompile.export.synapses import convolution_attributes

_ATTRIBUTES = ("kernel_shape", "pads", "strides", "dilations", "group")


def call_synapse(
    functions: FunctionLibrary, graph: GraphWriter, synapse: EncodedSynapse, value: Value
) -> str:
    """Append the call that computes an encoded synapse.

    Args:
        functions: Of the model.
        graph: Where the call and the weights go.
        synapse: What to compute.
        value: What it reads.

    Returns:
        The name of the current.
    """
    stored = _stored(graph, synapse)
    scale, bias = synapse.scale, synapse.synapse.bias
    for role, numbers in (("scale", scale), ("bias", bias)):
        if numbers is not None:
            stored[role] = _over_channels(graph, synapse, role, numbers)
    attributes = _attributes(synapse)
    body = _function(functions, synapse, list(stored), list(attributes))
    return graph.call(body, [value.name, *stored.values()], attributes)[0]


def _stored(graph: GraphWriter, synapse: EncodedSynapse) -> dict[str, str]:
    """The initializers of the weight, by the function's input."""
    code, name = synapse.code, synapse.synapse.name
    as_matrix = synapse.synapse.is_linear or synapse.zero is not None
    levels = matrix(synapse) if as_matrix else code.levels
    if code.encoding in ("float32", "int8"):
        role = "weight" if code.encoding == "float32" else "levels"
        return {role: graph.weight(f"{name}.{role}", levels)}
    count = levels.numel()
    stored = {
        "bytes": graph.weight(
            f"{name}.{code.encoding}", packed(levels.contiguous(), code.encoding)
        ),
        "shape": graph.ints(*levels.shape),
    }
    return {**stored, "count": graph.ints(count)} if _is_part(code.encoding, count) else stored


def _is_part(encoding: str, count: int) -> bool:
    """Whether the last byte has room left."""
    return count % (8 if encoding == "binary" else 4) != 0


def _over_channels(graph: GraphWriter, synapse: EncodedSynapse, role: str, values: Tensor) -> str:
    name = synapse.synapse.name.removesuffix(".weight")
    return graph.weight(f"{name}.{role}", synapse.synapse.over_channels(values))


def _attributes(synapse: EncodedSynapse) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {}
    if not synapse.synapse.is_linear and synapse.zero is None:
        kernel = [int(size) for size in synapse.synapse.weight.shape[2:]]
        found.update(convolution_attributes(kernel, **synapse.synapse.settings))
    if synapse.units is not None and synapse.units > 1:
        found["units"] = float(synapse.units)
    if synapse.zero is not None:
        found["zero"] = float(synapse.zero)
    return found


def _function(
    functions: FunctionLibrary, synapse: EncodedSynapse, inputs: list[str], attributes: list[str]
) -> onnx.FunctionProto:
    """The local function of a synapse; equal ones are one."""
    lines = _weight_lines(functions, synapse, inputs)
    added, result = _sum_lines(synapse)
    lines += added
    for role, kind in (("scale", "Mul"), ("bias", "Add")):
        if role in inputs:
            lines.append(f"with_{role} = {kind}({result}, {role})")
            result = f"with_{role}"
    lines[-1] = f"current{lines[-1][len(result) :]}"
    listed = ["value", *inputs]
    body = parsed(functions.opset, listed, "current", lines, tuple(attributes))
    return functions.add(body, _name(synapse), _doc(synapse))


def _weight_lines(
    functions: FunctionLibrary, synapse: EncodedSynapse, inputs: list[str]
) -> list[str]:
    encoding = synapse.code.encoding
    if encoding == "float32":
        return []
    if encoding == "int8":
        return [f"weight = {'Identity' if synapse.zero is not None else 'Cast<to = 1>'}(levels)"]
    given = [name for name in inputs if name in ("bytes", "shape", "count")]
    integer = synapse.zero is not None
    name = unpacking(functions, encoding, part="count" in given, integer=integer).name
    return [f"weight = snn.{name}({', '.join(given)})"]


def _sum_lines(synapse: EncodedSynapse) -> tuple[list[str], str]:
    """What adds up, and the name of its result."""
    if synapse.zero is not None:
        return integer_lines(synapse), "counts"
    lines = [_product_line(synapse)]
    if synapse.units is None:
        return ([*lines, *_HELD], "held") if synapse.held else (lines, "sums")
    if synapse.units > 1:
        lines += ["one = Constant<value_float: float = @units>()", "grown = Mul(sums, one)"]
    return [*lines, f"counts = Round({'grown' if synapse.units > 1 else 'sums'})"], "counts"


def _product_line(synapse: EncodedSynapse) -> str:
    if synapse.synapse.is_linear:
        return "sums = MatMul(value, weight)"
    references = ", ".join(
        f"{name}: {'int' if name == 'group' else 'ints'} = @{name}" for name in _ATTRIBUTES
    )
    return f"sums = Conv<{references}>(value, weight)"


_HELD = [
    "lowest = Constant<value_float = -3.4028235e38>()",
    "held = Clip(sums, lowest)",
]
"""A node that changes no finite number and that runtimes do not fuse a scale over."""


def _name(synapse: EncodedSynapse) -> str:
    kind = "linear" if synapse.synapse.is_linear else "conv"
    how = "_of_reals" if synapse.units is None else "" if synapse.zero is None else "_in_integers"
    return f"{synapse.code.encoding}_{kind}{how}"


def _doc(synapse: EncodedSynapse) -> str:
    what = "A linear map" if synapse.synapse.is_linear else "A convolution"
    rounded = "integers, " if synapse.units is not None else ""
    return f"{what} with {synapse.code.encoding} weights: sums, {rounded}scale, bias."
