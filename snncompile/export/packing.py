# pyright: reportUnknownMemberType=false
"""Levels of weights as bytes, and the local functions that unpack them in the file.

Eight binary or four ternary levels share a byte. A file unpacks them by a table of 256 rows: byte
to index, index to row, rows to weight. Runtimes that fold constants do it once, when they load.
"""

import numpy as np
import onnx
import torch
from onnx import numpy_helper, parser
from torch import Tensor

from snncompile.export.encodings import BITS, Encoding
from snncompile.export.neurons import FunctionLibrary


def packed(levels: Tensor, encoding: Encoding) -> Tensor:
    """Levels in the order of their elements as bytes, the first in the lowest bits.

    Args:
        levels: -1 and 1 for "binary"; -1, 0 and 1 for "ternary"; any shape.
        encoding: "binary" or "ternary".

    Returns:
        uint8, [ceil(count / levels a byte)]; what is left of the last byte is zero.
    """
    bits = BITS[encoding]
    flat = levels.flatten().numpy()
    codes = (flat > 0) if encoding == "binary" else flat % 3
    places = np.zeros((-(-len(flat) // (8 // bits)), 8 // bits), dtype=np.uint8)
    places.reshape(-1)[: len(flat)] = codes
    shifted = places << (np.arange(8 // bits, dtype=np.uint8) * bits)
    return torch.from_numpy(shifted.sum(1).astype(np.uint8))


def table(encoding: Encoding) -> np.ndarray:
    """For every byte the levels that it holds, int8, [256, levels a byte]."""
    bits = BITS[encoding]
    codes = np.arange(256)[:, None] >> (np.arange(8 // bits) * bits) & (2**bits - 1)
    levels = (-1, 1) if encoding == "binary" else (0, 1, -1, 0)
    rows: np.ndarray = np.array(levels, dtype=np.int8)[codes]
    return rows


def unpacking(
    functions: FunctionLibrary, encoding: Encoding, *, part: bool, integer: bool
) -> onnx.FunctionProto:
    """The local function that unpacks an encoding.

    Args:
        functions: Of the model.
        encoding: "binary" or "ternary".
        part: Not every level of the last byte is one: the function takes their count too.
        integer: The weight stays int8 and does not become float32.
    """
    cut = ["zero = Constant<value_ints = [0]>()", "kept = Slice(flat, zero, count, zero)"]
    lines = [
        "table = Constant<value = int8[1] {0}>()",
        "index = Cast<to = 6>(bytes)",
        "levels = Gather<axis = 0>(table, index)",
        *(["one = Constant<value_ints = [-1]>()", "flat = Reshape(levels, one)"] if part else []),
        *(cut if part else []),
        f"{'weight' if integer else 'shaped'} = Reshape({'kept' if part else 'levels'}, shape)",
        *([] if integer else ["weight = Cast<to = 1>(shaped)"]),
    ]
    inputs = ["bytes", "shape", *(["count"] if part else [])]
    body = parsed(functions.opset, inputs, "weight", lines)
    body.node[0].attribute[0].t.CopyFrom(numpy_helper.from_array(table(encoding)))
    doc = f"{encoding.capitalize()} weights, {8 // BITS[encoding]} of them a byte."
    return functions.add(body, f"unpack_{encoding}{'_integers' if integer else ''}", doc)


def parsed(
    opset: int, inputs: list[str], output: str, lines: list[str], attributes: tuple[str, ...] = ()
) -> onnx.FunctionProto:
    """A local function from ONNX's own text, without a name yet."""
    head = f'<opset_import: ["" : {opset}, "snn" : 1], domain: "snn">'
    listed = f"<{', '.join(attributes)}> " if attributes else ""
    body = "\n  ".join(lines)
    text = f"{head}\nunnamed {listed}({', '.join(inputs)}) => ({output}) {{\n  {body}\n}}"
    function = parser.parse_function(text)
    function.name = ""
    return function
