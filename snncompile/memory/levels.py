"""Which values of a step take few levels: spikes, counts of them, and what keeps them so.

A value of levels is ``k * unit`` with a whole k from 0 to `number` - 1; it can be kept in as many
bits as k takes, and found again bit for bit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from torch import fx, nn

from snncompile.ir.layers import layer_class
from snncompile.ir.neurons import (
    GRADED,
    adaptive_lif,
    delayed_lif,
    integer_lif,
    lif,
    rectified_lif,
    single_spike,
)
from snncompile.ir.operations import call_name, is_part
from snncompile.ir.program import Program, is_neuron
from snncompile.ir.surrogates import Surrogate, spike


class Levels(NamedTuple):
    """The values 0, unit, 2 * unit, ..., (number - 1) * unit.

    Attributes:
        number: How many there are.
        unit: The distance between two.
        sure: They follow from the IR; else a user's function promises them, and whoever relies on
            it has to look.
    """

    number: int
    unit: float = 1.0
    sure: bool = True

    @property
    def bits(self) -> int:
        """How many bits tell them apart."""
        return max(1, (self.number - 1).bit_length())


MOST_BITS: Final = 8
"""Beyond, keeping levels gains little over keeping floats."""

_BINARY = frozenset((lif, rectified_lif, adaptive_lif, single_spike, spike))
_SAME_LAYERS = frozenset((
    nn.Identity, nn.Flatten, nn.Unflatten, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.ZeroPad1d, nn.ZeroPad2d,
    nn.ZeroPad3d, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle,
))  # fmt: skip
"""Layers whose every output is one of their inputs, or 0."""
_SAME = frozenset((
    "flatten", "reshape", "view", "permute", "transpose", "swapaxes", "contiguous", "clone",
    "detach", "unsqueeze", "squeeze", "getitem", "flip", "select", "narrow", "chunk", "split",
    "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d", "relu", "pixel_shuffle",
    "pixel_unshuffle", "amax",
))  # fmt: skip
"""The same for functions and methods of one tensor."""

_Known: TypeAlias = Mapping[fx.Node, Levels]


def levels(program: Program) -> dict[fx.Node, Levels]:
    """The values of a program's step that take few levels.

    Args:
        program: The program.

    Returns:
        By node, the levels of its value; nodes whose value may be any number are not in it.
    """
    found: dict[fx.Node, Levels] = {}
    for node in program.step.nodes:
        known = _of(program, node, found)
        if known is not None and known.bits <= MOST_BITS:
            found[node] = known
    return found


def _of(program: Program, node: fx.Node, found: _Known) -> Levels | None:
    if is_part(node):
        source: Any = node.args[0]
        if is_neuron(source) or source.target is spike:
            return _emitted(source) if node.args[1] == 0 else None
        if call_name(source) not in ("chunk", "split"):
            return None
    sources = node.all_input_nodes
    if not sources or any(source not in found for source in sources):
        return None
    given = [found[source] for source in sources]
    if node.op == "call_module":
        layer = layer_class(program, node)
        return given[0] if layer in _SAME_LAYERS else None
    return _called(node, given)


def _called(node: fx.Node, given: Sequence[Levels]) -> Levels | None:
    name = call_name(node) or ""
    rule = _RULES.get(name)
    if rule is not None:
        every: Any = node.args[0] if name in ("cat", "concat", "stack") else node.args
        tensors = [item for item in every if isinstance(item, fx.Node)]
        return rule(given) if len(tensors) == len(every) or rule is _widest else None
    return given[0] if name in _SAME and len(given) == 1 else None


def _sum(given: Sequence[Levels]) -> Levels | None:
    """A sum of two counts."""
    if len(given) != 2 or any(one.unit != 1.0 for one in given):  # noqa: PLR2004
        return None
    return Levels(given[0].number + given[1].number - 1, sure=all(one.sure for one in given))


def _product(given: Sequence[Levels]) -> Levels | None:
    """A product of two counts."""
    if len(given) != 2 or any(one.unit != 1.0 for one in given):  # noqa: PLR2004
        return None
    most = (given[0].number - 1) * (given[1].number - 1)
    return Levels(most + 1, sure=all(one.sure for one in given))


def _widest(given: Sequence[Levels]) -> Levels | None:
    """What holds the values of all, which have one unit."""
    if len({one.unit for one in given}) > 1:
        return None
    return Levels(max(given).number, given[0].unit, all(one.sure for one in given))


_RULES: Mapping[str, Callable[[Sequence[Levels]], Levels | None]] = {
    **dict.fromkeys(("add", "iadd"), _sum),
    **dict.fromkeys(("mul", "imul", "logical_and", "bitwise_and"), _product),
    **dict.fromkeys(("cat", "concat", "stack", "maximum"), _widest),
}


def _emitted(neuron: fx.Node) -> Levels | None:
    """What a neuron emits."""
    target: Any = neuron.target
    surrogate = neuron.kwargs.get("surrogate")
    sure = not (isinstance(surrogate, Surrogate) and surrogate.function is not None)
    if target in _BINARY:
        return Levels(2, sure=sure)
    if target is delayed_lif:
        gain = neuron.kwargs.get("gain", 1.0)
        return Levels(2, float(gain), sure) if isinstance(gain, (int, float)) else None
    count: Any = neuron.kwargs.get("levels")
    if target is integer_lif and isinstance(count, (int, float)):
        return Levels(int(count) + 1)
    if target in GRADED and isinstance(count, (int, float)):
        return Levels(int(count) + 1, float(neuron.kwargs.get("unit", 0.25)))  # type: ignore[arg-type]
    return None
