"""Let every convolution over images read its input with the channels innermost in memory.

The values are the same, and so is their shape [N, C, H, W]; only the order in which they are
stored changes, N, H, W, C in place of N, C, H, W. What reads a convolution that was given such an
input (BatchNorm, neurons, pooling) stays in that order, so that the copy is made once, at the
first convolution; the next ones find their inputs in order. Weights stay in the model's own.

Before::

    program steps=sequence
    input   %x: sequence [N, 1, 4, 4] float32
    state   %lif_membrane "lif.membrane": [N, 2, 4, 4] float32 = 0
    step:
      %conv = conv: Conv2d(1, 2, 3, padding=1)(%x)  # [N, 2, 4, 4]
      %spikes, %membrane = lif(%conv, %lif_membrane, Decay(0.5), Keep(), atan(2), threshold=1)
        # [N, 2, 4, 4], lif
    next    %lif_membrane <- %membrane
    output  out0 = stack(%spikes)

After::

    program steps=sequence
    input   %x: sequence [N, 1, 4, 4] float32
    state   %lif_membrane "lif.membrane": [N, 2, 4, 4] float32 = 0
    step:
      %contiguous = %x.contiguous(memory_format=channels_last)  # [N, 1, 4, 4], conv
      %conv = conv: Conv2d(1, 2, 3, padding=1)(%contiguous)  # [N, 2, 4, 4]
      %spikes, %membrane = lif(%conv, %lif_membrane, Decay(0.5), Keep(), atan(2), threshold=1)
        # [N, 2, 4, 4], lif
    next    %lif_membrane <- %membrane
    output  out0 = stack(%spikes)

A convolution of 3 x 32 x 32 images with BatchNorm trains about 1.2 times as fast on a CPU. Run
this pass last: passes that look for a neuron right before a convolution do not look through it.
Transposed convolutions stay as they are.

Keeps: the outputs, in real arithmetic; a convolution may add in another order, and floating point
can then move a spike whose membrane lies within rounding of the threshold.

Reference: Georganas et al. Anatomy of High-Performance Deep Learning Convolutions on SIMD
Architectures. SC 2018, arXiv:1808.05567, on why convolutions vectorise over channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx, nn

from snncompile.ir.layers import layer_class
from snncompile.ir.program import Program
from snncompile.rewrite import Keeps, Pass

_OPTIONS: dict[str, Any] = {"memory_format": torch.channels_last}


@dataclass(frozen=True)
class ChannelsLast(Pass):
    """Put the input of every Conv2d channels last."""

    name: ClassVar[str] = "channels-last"
    keeps: ClassVar[Keeps] = "outputs"

    def requires(self, program: Program) -> None:
        """Any program will do."""

    def apply(self, program: Program) -> int:
        """Reorder in front of every convolution; a value that several read, once."""
        made: dict[fx.Node, fx.Node] = {}
        found = list(_convolutions(program))
        for node in found:
            source = node.all_input_nodes[0]
            if source not in made:
                with program.step.inserting_before(node):
                    made[source] = program.step.call_method("contiguous", (source,), _OPTIONS)
                made[source].meta["module"] = node.meta.get("module")
            node.replace_input_with(source, made[source])
        return len(found)


def _convolutions(program: Program) -> Iterator[fx.Node]:
    """Convolutions over images whose input is not reordered yet, layers and calls."""
    for node in program.step.nodes:
        layer = node.op == "call_module" and layer_class(program, node) is nn.Conv2d
        if (layer or node.target is torch.conv2d) and not _is_reordered(node.all_input_nodes[0]):
            yield node


def _is_reordered(node: fx.Node) -> bool:
    return node.target == "contiguous" and node.kwargs == _OPTIONS
