"""Sums in 8-bit integers: inputs as bytes times levels as signed bytes, exact on any processor.

A convolution reads its inputs with channels last, lays the values under its kernel side by side
and becomes one product of matrices. ONNX's own ConvInteger was measured to be slower than the
convolution in float32.
"""

from collections.abc import Mapping
from itertools import product

from torch import Tensor

from snncompile.export.encoded_synapses import EncodedSynapse
from snncompile.export.graph import Attribute
from snncompile.export.synapses import convolution_attributes

_END = 2**63 - 1
"""Where ONNX's Slice stops if it is to stop at the end."""


def matrix(synapse: EncodedSynapse) -> Tensor:
    """The levels as the right operand of the product, [inputs under the kernel, C]."""
    levels = synapse.code.levels
    kernel = range(2, levels.dim())
    return levels.permute(*kernel, 1, 0).reshape(-1, len(levels))


def integer_lines(synapse: EncodedSynapse) -> list[str]:
    """What adds up a synapse in integers, from `value` and the matrix `weight` to `counts`."""
    grown = synapse.units is not None and synapse.units > 1
    units = ["one = Constant<value_float: float = @units>()", "grown = Mul(value, one)"]
    laid, source = ([], "bytes_in") if synapse.synapse.is_linear else _laid_out(synapse)
    return [
        "offset = Constant<value_float: float = @zero>()",
        *(units if grown else []),
        f"raised = Add({'grown' if grown else 'value'}, offset)",
        "bytes_in = Cast<to = 2>(raised)",
        "zero_point = Cast<to = 2>(offset)",
        *laid,
        f"sums = MatMulInteger({source}, weight, zero_point)",
        *_back(synapse),
    ]


def _back(synapse: EncodedSynapse) -> list[str]:
    """The sums as float32, their channels where they belong."""
    if synapse.synapse.is_linear:
        return ["counts = Cast<to = 1>(sums)"]
    last = synapse.code.levels.dim() - 1
    order = _listed(0, last, *range(1, last))
    return ["floats = Cast<to = 1>(sums)", f"counts = Transpose<perm = {order}>(floats)"]


def _laid_out(synapse: EncodedSynapse) -> tuple[list[str], str]:
    """Lines after which all that a kernel reads at a place lies side by side, and their result."""
    kernel = [int(size) for size in synapse.code.levels.shape[2:]]
    settings = convolution_attributes(kernel, **synapse.synapse.settings)
    pads, strides, dilations = (_ints(settings, name) for name in ("pads", "strides", "dilations"))
    axes = range(1, len(kernel) + 1)
    lines = [f"last = Transpose<perm = {_listed(0, *(a + 1 for a in axes), 1)}>(bytes_in)"]
    source = "last"
    if any(pads):
        half = len(pads) // 2
        around = (0, *pads[:half], 0, 0, *pads[half:], 0)
        written = f"int64[{len(around)}] {{{', '.join(map(str, around))}}}"
        lines += [
            f"pads = Constant<value = {written}>()",  # onnxruntime 1.19 takes no value_ints here
            "padded = Pad(last, pads, zero_point)",
        ]
        source = "padded"
    lines += [
        f"axes = Constant<value_ints = {_listed(*axes)}>()",
        f"strides = Constant<value_ints = {_listed(*strides)}>()",
    ]
    parts: list[str] = []
    for i, place in enumerate(product(*map(range, kernel))):
        starts = [at * step for at, step in zip(place, dilations, strict=True)]
        left = [(at + 1 - size) * d for at, size, d in zip(place, kernel, dilations, strict=True)]
        lines += [
            f"start{i} = Constant<value_ints = {_listed(*starts)}>()",
            f"end{i} = Constant<value_ints = {_listed(*(rest or _END for rest in left))}>()",
            f"part{i} = Slice({source}, start{i}, end{i}, axes, strides)",
        ]
        parts.append(f"part{i}")
    return [*lines, f"laid_out = Concat<axis = -1>({', '.join(parts)})"], "laid_out"


def _listed(*numbers: int) -> str:
    return f"[{', '.join(map(str, numbers))}]"


def _ints(settings: Mapping[str, Attribute], name: str) -> list[int]:
    found = settings[name]
    assert isinstance(found, list)
    return [int(number) for number in found]
