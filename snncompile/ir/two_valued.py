"""Which values of a step hold 0 and one other number only: spikes, and what leaves them so."""

from collections.abc import Iterable

from torch import fx, nn

from snncompile.ir.layers import layer_class
from snncompile.ir.neurons import adaptive_lif, delayed_lif, lif, rectified_lif, single_spike
from snncompile.ir.operations import call_name, is_part
from snncompile.ir.program import Program

BINARY = (lif, rectified_lif, delayed_lif, adaptive_lif, single_spike)
"""The neurons whose spikes are 0 or 1, whatever their settings."""

_LAYERS = (
    nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.ZeroPad2d,
)  # fmt: skip
_CALLS = frozenset(
    (
        "reshape", "view", "flatten", "unflatten", "permute", "transpose", "swapaxes", "unsqueeze",
        "squeeze", "getitem", "contiguous", "clone", "detach", "float", "double", "to", "select",
        "narrow", "flip", "dropout", "max_pool1d", "max_pool2d", "max_pool3d",
        "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    )
)  # fmt: skip


def two_valued(program: Program, given: Iterable[fx.Node] = ()) -> set[fx.Node]:
    """The nodes that hold 0 and one other number.

    Args:
        program: The program.
        given: Nodes that are taken to.

    Returns:
        These, the spikes of neurons that have no other sizes, and what follows from them alone.
    """
    found = set(given)
    for node in program.step.nodes:
        first = node.args[0] if node.args else None
        if not isinstance(first, fx.Node):
            continue
        fires = is_part(node) and node.args[1] == 0 and first.target in BINARY
        if fires or (first in found and _keeps(program, node)):
            found.add(node)
    return found


def _keeps(program: Program, node: fx.Node) -> bool:
    """Whether a call picks among the numbers of its first operand, or scales them all."""
    if node.op == "call_module":
        return node.name not in program.whole and layer_class(program, node) in _LAYERS
    return call_name(node) in _CALLS
