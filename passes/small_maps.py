"""Leave out what layers made for larger maps do in vain on small ones.

Networks for large images end in layers that do not fit the maps of small images. In two kinds of
layers most of the work is then in vain:

- A convolution multiplies zeros. On a map of H pixels with P zeros on either side, tap k of a
  kernel reads, for output o, the pixel o * stride - P + k * dilation. Some taps of a kernel lie
  outside a small map for every o: of a 3 x 3 kernel on one pixel all but the middle one. The kernel
  is cut to the taps that meet the map, and the padding becomes as much smaller.
- An adaptive pooling to a multiple of its input's size repeats every pixel. A Linear that reads the
  repetitions multiplies a value as often as the sum of its weights would do once: the weights are
  summed, and the pooling is left out.

Before::

    program steps=sequence
    input   %x: sequence [N, 2, 1, 1] float32
    state   %lif_membrane "lif.membrane": [N, 3, 1, 1] float32 = 0
    step:
      %conv = conv: Conv2d(2, 3, 3, padding=1)(%x)  # [N, 3, 1, 1]
      %spikes, %membrane = lif(%conv, %lif_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 3, 1, 1], lif
      %pool = pool: AdaptiveAvgPool2d(2)(%spikes)  # [N, 3, 2, 2]
      %flatten = flatten(%pool, 1)                # [N, 12]
      %head = head: Linear(12, 2)(%flatten)       # [N, 2]
    next    %lif_membrane <- %membrane
    output  out0 = stack(%head)

After::

    program steps=sequence
    input   %x: sequence [N, 2, 1, 1] float32
    state   %lif_membrane "lif.membrane": [N, 3, 1, 1] float32 = 0
    step:
      %conv_bias = parameter conv.bias            # [3]
      %conv_weight = parameter conv.weight        # [3, 2, 3, 3]
      %getitem = %conv_weight[:, :, 1:2, 1:2]     # [3, 2, 1, 1], conv
      %conv2d = conv2d(%x, %getitem, %conv_bias, (1, 1), (0, 0), (1, 1), 1)  # [N, 3, 1, 1], conv
      %spikes, %membrane = lif(%conv2d, %lif_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 3, 1, 1], lif
      %head_bias = parameter head.bias            # [2]
      %head_weight = parameter head.weight        # [2, 12]
      %unflatten = unflatten(%head_weight, 1, [3, 1, 1, 2, 1, 2])  # [2, 3, 1, 1, 2, 1, 2], head
      %sum = sum(%unflatten, (2, 4, 6))           # [2, 3, 1, 1], head
      %flatten = flatten(%sum, 1)                 # [2, 3], head
      %flatten_1 = flatten(%spikes, 1)            # [N, 3], head
      %linear = linear(%flatten_1, %flatten, %head_bias)  # [N, 2], head
    next    %lif_membrane <- %membrane
    output  out0 = stack(%linear)

Weights stay the model's own, and so do their gradients: zero at a tap that is left out, and the
same for all weights of a sum. Where a layer's weight is computed anew in every call (as by
parametrizations), where hooks watch it, and where the size of a map is not fixed, all stays as it
is. Run this pass before `event-driven` and `channels-last`.

Keeps: the outputs, in real arithmetic and for finite weights; sums have fewer terms, or others, and
floating point can then move a spike whose membrane lies within rounding of the threshold.

Reference: none; it is arithmetic.
"""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeAlias, cast

import torch
from torch import fx, nn
from torch.nn import functional

from snncompile.ir.layers import has_hooks, layer_class
from snncompile.ir.operations import call_name, is_reshape
from snncompile.ir.program import Program, value_of
from snncompile.ir.synapses import convolution, functional_form
from snncompile.rewrite import Keeps, Pass

Layer: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_CONVOLUTIONS = {nn.Conv1d, nn.Conv2d, nn.Conv3d}
_POOLINGS = {nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d}


@dataclass(frozen=True)
class SmallMaps(Pass):
    """Cut kernels to what meets their map, and sum weights that multiply one value."""

    name: ClassVar[str] = "small-maps"
    keeps: ClassVar[Keeps] = "outputs"

    def requires(self, program: Program) -> None:
        """Any program will do: layers that fit their maps stay as they are."""

    def apply(self, program: Program) -> int:
        """Replace such layers by calls that take a part, or sums, of the weight."""
        convolutions = list(_convolutions(program))
        for node, axes in convolutions:
            _crop(program, node, [axis.cropped() for axis in axes])
        readers = list(_readers(program))
        for node, pool in readers:
            _sum(program, node, pool)
        return len(convolutions) + len(readers)


class _Axis(NamedTuple):
    """What a kernel does along one dimension of a map."""

    size: int
    taps: int
    stride: int
    padding: int
    dilation: int

    def made(self) -> int:
        """How many pixels it makes."""
        reach = self.dilation * (self.taps - 1) + 1
        return (self.size + 2 * self.padding - reach) // self.stride + 1

    def meets(self, tap: int) -> bool:
        """Whether a tap meets the map for any output."""
        first = tap * self.dilation - self.padding
        read = range(first, first + self.made() * self.stride, self.stride)
        return any(0 <= pixel < self.size for pixel in read)

    def cropped(self) -> tuple[range, int]:
        """The taps that are needed, and the padding with which they make the same; else all."""
        met = [tap for tap in range(self.taps) if self.meets(tap)]
        if met:
            kept = range(met[0], met[-1] + 1)
            padding = self.padding - kept.start * self.dilation
            less = self._replace(taps=len(kept), padding=padding)
            if padding >= 0 and less.made() == self.made():
                return kept, padding
        return range(self.taps), self.padding


def _convolutions(program: Program) -> Iterator[tuple[fx.Node, list[_Axis]]]:
    """The layers that can do with fewer taps, and what they do along each dimension of a map."""
    for node in program.step.find_nodes(op="call_module"):
        if layer_class(program, node) not in _CONVOLUTIONS or not _is_plain(program, node):
            continue
        settings, sizes = convolution(program, node), _sizes(node.all_input_nodes[0])
        if settings is None or sizes is None:
            continue
        taps = cast("nn.Conv2d", program.module(node)).kernel_size
        moves = settings.stride, settings.padding, settings.dilation
        axes = [_Axis(*axis) for axis in zip(sizes[1:], taps, *moves, strict=True)]
        if any(len(axis.cropped()[0]) < axis.taps for axis in axes):
            yield node, axes


def _crop(program: Program, node: fx.Node, kept: list[tuple[range, int]]) -> None:
    """Call a convolution with the kept taps and the padding that goes with them."""
    form = functional_form(program, node)
    assert form is not None
    function, (stride, _, dilation, groups) = form
    index = (slice(None), slice(None), *(slice(taps.start, taps.stop) for taps, _ in kept))
    padding = tuple(width for _, width in kept)
    graph = program.step
    with graph.inserting_before(node):
        weight, bias = _parameters(program, node)
        part = graph.call_function(operator.getitem, (weight, index))
        args = (node.args[0], part, bias, stride, padding, dilation, groups)
        _replace(node, graph.call_function(function, args), part)


def _readers(program: Program) -> Iterator[tuple[fx.Node, fx.Node]]:
    """The Linear layers that read repetitions, and the pooling that repeats."""
    for pool in program.step.find_nodes(op="call_module"):
        if layer_class(program, pool) not in _POOLINGS or not _repeats(pool):
            continue
        flat = [node for node in pool.users if _flattens(program, node)]
        for node in (reader for rows in flat for reader in rows.users):
            linear = node.op == "call_module" and layer_class(program, node) is nn.Linear
            if linear and _is_plain(program, node):
                yield node, pool


def _flattens(program: Program, node: fx.Node) -> bool:
    """Whether a call lays the features of every sample out in one row."""
    layer = node.op == "call_module" and layer_class(program, node) is nn.Flatten
    if not (layer or call_name(node) == "flatten" or is_reshape(node)):
        return False
    shape, rows = value_of(node.all_input_nodes[0]).shape, value_of(node).shape
    return len(rows) == 2 and rows[0] == shape[0]  # noqa: PLR2004


def _repeats(pool: fx.Node) -> bool:
    """Whether a pooling returns nothing but repetitions, of any pixel as many."""
    read, made = _sizes(pool.all_input_nodes[0]), _sizes(pool)
    if read is None or made is None or read == made:
        return False
    return all(large % small == 0 for small, large in zip(read, made, strict=True))


def _sum(program: Program, node: fx.Node, pool: fx.Node) -> None:
    """Let a Linear read what the pooling reads, with the sums of its weights."""
    source, graph = pool.all_input_nodes[0], program.step
    read, made = _sizes(source), _sizes(pool)
    assert read is not None
    assert made is not None
    split = [
        size for small, large in zip(read, made, strict=True) for size in (small, large // small)
    ]
    repeated = tuple(range(2, len(split) + 1, 2))
    with graph.inserting_before(node):
        weight, bias = _parameters(program, node)
        taps = graph.call_function(torch.unflatten, (weight, 1, split))
        summed = graph.call_function(torch.sum, (taps, repeated))
        rows = graph.call_function(torch.flatten, (summed, 1))
        features = graph.call_function(torch.flatten, (source, 1))
        new = graph.call_function(functional.linear, (features, rows, bias))
        _replace(node, new, taps, summed, rows, features)


def _sizes(node: fx.Node) -> tuple[int, ...] | None:
    """Channels and pixels of a batch of maps; None where a size is not fixed."""
    sizes = tuple(value_of(node).shape[1:])
    return sizes if all(type(size) is int for size in sizes) else None


def _is_plain(program: Program, node: fx.Node) -> bool:
    """Whether a layer does with parameters of its own what its class does, unwatched."""
    layer = program.module(node)
    own = "weight" in dict(layer.named_parameters(recurse=False))
    return own and not has_hooks(layer) and node.name not in program.whole


def _parameters(program: Program, node: fx.Node) -> tuple[fx.Node, fx.Node | None]:
    """A layer's weight, and its bias where it has one."""
    layer, graph = cast("Layer", program.module(node)), program.step
    bias = None if layer.bias is None else graph.get_attr(f"{node.target}.bias")
    return graph.get_attr(f"{node.target}.weight"), bias


def _replace(node: fx.Node, new: fx.Node, *others: fx.Node) -> None:
    """Read a new node in place of a layer, to which it and others still belong."""
    for made in (new, *others):
        made.meta["module"] = node.meta.get("module")
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)
