# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""The synapses whose weights are encoded: which, with what, and what they compute.

An encoded synapse adds up levels, which are integers, then scales and then offsets every channel.
Where its inputs are proven to be spikes or counts the sums are integers too: they are rounded
before they are scaled, which changes nothing, and keeps a runtime from moving the scale into the
weights.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor, fx

from snncompile.errors import ExportError
from snncompile.export.connections import Synapse, synapses_of
from snncompile.export.encodings import Encoded, Encoding, encoded
from snncompile.export.exactness import INTEGERS, Analysis
from snncompile.export.grids import Known
from snncompile.ir.names import place
from snncompile.ir.program import Program

Target: TypeAlias = Literal["any", "x86-int8"]
TARGETS: Final[tuple[Target, ...]] = ("any", "x86-int8")

_WIDE, _WIDE_CONVOLUTION, _DEEP_CONVOLUTION = 64, 128, 512
"""For how many outputs of a linear map, and for how many outputs and inputs of a convolution,
integers were measured to be faster, with VNNI and without."""

_BYTE, _PAIR = 2**8 - 1, 2**15 - 1
_FUSED: Final = (
    operator.mul, torch.mul, operator.truediv, torch.div,
    operator.add, torch.add, operator.sub, torch.sub,
)  # fmt: skip


@dataclass(frozen=True)
class EncodedSynapse:
    """A synapse as the file computes it.

    Attributes:
        synapse: What the program has.
        code: Its weight's levels and scales.
        units: The sums are rounded to multiples of one over this power of two, which they are;
            None where that is not proven.
        zero: The inputs, in units, become bytes when this number is added, and 8-bit integers are
            added up; None where it is float32.
        held: The sums are kept apart from the scale although nothing is rounded: they are integers
            only if the file's inputs are.
    """

    synapse: Synapse
    code: Encoded
    units: int | None
    held: bool = False
    zero: int | None = None

    def compute(self, value: Tensor) -> Tensor:
        """The current, in torch, in the order of the file.

        Args:
            value: What the synapse reads, [N, ...].
        """
        synapse, scale, bias = self.synapse, self.scale, self.synapse.bias
        sums = synapse.sums(value, self.code.levels.float())
        if self.units is not None:
            sums = (sums * self.units).round()
        if scale is not None:
            sums = sums * synapse.over_channels(scale)
        return sums if bias is None else sums + synapse.over_channels(bias.detach())

    @property
    def scale(self) -> Tensor | None:
        """What multiplies the (rounded) sums, [C]; None for one."""
        scale, units = self.code.scale, self.units or 1
        if units == 1:
            return scale
        ones = torch.ones(len(self.code.levels))
        return (ones if scale is None else scale) / units


def encode(
    program: Program, weights: Encoding, target: Target = "any"
) -> dict[fx.Node, EncodedSynapse]:
    """Choose the encoded synapses of a program.

    Args:
        program: The program, in eval mode.
        weights: "binary" and "ternary" take the weights that are, and leave the others float32;
            "int8" rounds all; "float32" takes none.
        target: "x86-int8" adds up in integers where that is faster there.

    Returns:
        The synapses that need more than a product with float32 weights.

    Raises:
        ExportError: No weight fits the encoding, one is not finite, or a sum of integers is too
            large for float32.
    """
    synapses = synapses_of(program)
    for node, synapse in synapses.items():
        _check_finite(node, synapse)
    codes = {node: encoded(synapse.weight, weights) for node, synapse in synapses.items()}
    known = {node: code for node, code in codes.items() if code is not None}
    if weights != "float32" and not known:
        raise ExportError(_way_out(weights, synapses))
    proven = Analysis(program, synapses, known, None)
    assumed = Analysis(program, synapses, known, INTEGERS)
    for node in synapses:
        if node not in known and assumed.sums.get(node) is not None and _meets_a_constant(node):
            known[node] = Encoded("float32", synapses[node].weight.detach(), None)
    found = {
        node: _encoded(node, synapses[node], code, (proven, assumed))
        for node, code in known.items()
    }
    if target == "any":
        return found
    return {
        node: replace(synapse, zero=_zero(synapse, proven.grids.get(synapse.synapse.source)))
        for node, synapse in found.items()
    }


def _zero(synapse: EncodedSynapse, inputs: Known) -> int | None:
    """What makes a byte of an input, if a synapse is large enough for integers to be faster.

    Processors without VNNI add two products in 16 bits; these must not saturate.
    """
    if (
        not _is_large(synapse)
        or inputs is None
        or synapse.code.encoding == "float32"
        or synapse.units is None
    ):
        return None
    zero = int(inputs.bound * synapse.units)
    largest = int(synapse.code.levels.abs().max())
    fits = 2 * zero <= _BYTE and 2 * (2 * zero) * largest <= _PAIR
    return zero if fits else None


def _is_large(synapse: EncodedSynapse) -> bool:
    outputs, inputs = synapse.code.levels.flatten(1).shape
    if synapse.synapse.is_linear:
        return outputs >= _WIDE
    grouped = synapse.synapse.settings.get("groups", 1) != 1
    return not grouped and outputs >= _WIDE_CONVOLUTION and inputs >= _DEEP_CONVOLUTION


def _encoded(
    node: fx.Node, synapse: Synapse, code: Encoded, analyses: tuple[Analysis, Analysis]
) -> EncodedSynapse:
    proven, assumed = analyses
    sums = proven.sums.get(node)
    if sums is None and proven.grids.get(synapse.source) is not None and code.encoding != "float32":
        raise ExportError(
            f"export: {place(node)} adds up integers that may exceed 2^24, which float32 does not "
            "hold; export with weights='float32', or split the layer"
        )
    held = sums is None and assumed.sums.get(node) is not None
    return EncodedSynapse(synapse, code, None if sums is None else 2**sums.bits, held)


def _check_finite(node: fx.Node, synapse: Synapse) -> None:
    for name, value in (("weight", synapse.weight), ("bias", synapse.bias)):
        if value is not None and not bool(value.isfinite().all()):
            raise ExportError(
                f"export: {place(node)}: its {name} has values that are not finite; train the "
                "model again, or load other weights"
            )


def _meets_a_constant(node: fx.Node) -> bool:
    """Whether a factor or an offset follows that a runtime may move into the sum."""
    following = [user for user in node.users if user.target in _FUSED]
    return any(
        all(source is node or _is_constant(source) for source in user.all_input_nodes)
        for user in following
    )


def _is_constant(node: fx.Node) -> bool:
    sources = node.all_input_nodes
    return node.op == "get_attr" or (bool(sources) and all(_is_constant(s) for s in sources))


def _way_out(weights: Encoding, synapses: Mapping[fx.Node, Synapse]) -> str:
    levels = {"binary": "-a and a", "ternary": "-a, 0 and a"}
    if weights == "int8" or not synapses:
        return f"export: there is no linear layer or convolution to encode as {weights}"
    return (
        f"export: no layer has {weights} weights, {levels[weights]} in every output channel; apply "
        "the pass that makes them first, transform(model, 'binarize'), or export with "
        "weights='int8'"
    )
