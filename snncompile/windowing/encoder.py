"""Encodes what a module's convolutions read as spikes, by a threshold or by drawn numbers."""

import math
from operator import getitem
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from snncompile.ir.layers import layer_class
from snncompile.ir.neurons import adaptive_lif, lif, rectified_lif
from snncompile.ir.operations import is_part
from snncompile.ir.program import Program
from snncompile.ir.surrogates import Surrogate, fire
from snncompile.windowing.settings import Settings

DRAW = "draw"
"""The name of the input that holds the drawn numbers, [N, D], each from [0, 1)."""

HALF = 0.5
"""What the threshold encoding compares with."""

_BINARY = (lif, rectified_lif, adaptive_lif)


class Encoder:
    """Writes encodings into a step, and counts the numbers that they draw.

    Args:
        graph: Where to.
        settings: Which encoding.
        draw: The input with the drawn numbers, for an encoding that needs them.

    Attributes:
        drawn: How many numbers a sample has drawn so far.
    """

    def __init__(self, graph: fx.Graph, settings: Settings, draw: fx.Node | None) -> None:
        self.drawn = 0
        self._graph = graph
        self._draw = draw
        self._surrogate = Surrogate("straight_through" if settings.gradient else "none")

    def encode(self, piece: fx.Node, shape: tuple[int, int, int]) -> fx.Node:
        """Spikes [N, C, h, w]: 1 where a value is above its bound.

        Args:
            piece: What stands in a window.
            shape: Its shape without the batch.
        """
        bound = HALF if self._draw is None else self._numbers(self._draw, shape)
        distance = self._graph.call_function(torch.sub, (piece, bound))
        kwargs: dict[str, Any] = {"surrogate": self._surrogate, "strict": True}
        return self._graph.call_function(fire, (distance,), kwargs)

    def _numbers(self, draw: fx.Node, shape: tuple[int, int, int]) -> fx.Node:
        """The next drawn numbers, in the shape of a window."""
        first, self.drawn = self.drawn, self.drawn + math.prod(shape)
        columns = (slice(None), slice(first, self.drawn))
        numbers = self._graph.call_function(getitem, (draw, columns))
        return self._graph.call_function(torch.reshape, (numbers, (-1, *shape)))


def emits_spikes(node: fx.Node) -> bool:
    """Whether a value is the zeros and ones that a neuron emits."""
    first = is_part(node) and node.args[1:] == (0,)
    return first and node.all_input_nodes[0].target in _BINARY


def keeps_spikes(program: Program, node: fx.Node) -> bool:
    """Whether a node makes zeros and ones of zeros and ones: a maximum over a pool."""
    if node.op == "call_module":
        return layer_class(program, node) in (nn.MaxPool2d, nn.Identity)
    return node.target in (torch.max_pool2d, functional.max_pool2d)
