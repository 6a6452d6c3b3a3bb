"""Run the steps of integrate-and-fire neurons side by side, with the same spikes to the bit.

The sequence is cut into blocks of time. All blocks run at once from guessed membranes, then again
from the membranes that the blocks ahead of them ended with, until a sweep meets the one before it
in every block: that certifies every spike. A sweep is the neuron's own step, so that nothing
rounds differently, with a soft reset, a hard one or none; so does the backward pass, which is the
captured neuron's own surrogate gradient through time.

Before::

    program steps=sequence
    input   %x: sequence [N, 8] float32
    state   %lif0_membrane "lif0.membrane": [N, 16] float32 = 0
    step:
      %0 = 0: Linear(8, 16)(%x)                   # [N, 16]
      %spikes, %membrane = lif(%0, %lif0_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 16], lif0
    next    %lif0_membrane <- %membrane
    output  out0 = stack(%spikes)

After::

    program steps=sequence
    input   %x: sequence [N, 8] float32
    state   %lif0_membrane "lif0.membrane": [N, 16] float32 = 0
    step:
      %0 = 0: Linear(8, 16)(%x)                   # [N, 16]
      %spikes, %membrane = lif(%0, %lif0_membrane, Decay(0.5), Subtract(), atan(2), threshold=1,
        certificate=Certificate)  # [N, 16], lif0
    next    %lif0_membrane <- %membrane
    output  out0 = stack(%spikes)

At the first call of each length and batch both ways are timed, blocks and a loop over the steps
without a graph, and the faster one stays: sweeps pay where layers are narrow, sequences long, and
membranes leak; a membrane without a leak never forgets where it started. `certificates` says
which neuron was certified after how many sweeps. On a CPU with a C compiler neither is needed: the
fused kernel of `snncompile.kernels` is faster than both, and runs instead.

A neuron that takes part in feedback runs step by step as before, as do neurons other than lif,
and all of them under ``schedule="steps"``, where no layer sees more than one step. The backward
pass has no graph of its own: there is no gradient of the gradient.

Keeps: the outputs, bit for bit in float32 and float64. So are gradients behind the charges Decay
and Integrate with a soft reset, a hard one to 0 or none; the others, and those of learnable
settings, are the same up to the order of sums.

Reference: Feng et al. Efficient Parallel Training Methods for Spiking Neural Networks with
Constant Time Complexity. ICML 2025, arXiv:2506.12087, for the fixed point over all steps; the
blocks, their certificate and the backward pass are this project's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from snncompile.ir.certificates import Certificate
from snncompile.ir.dependence import components
from snncompile.ir.neurons import lif
from snncompile.ir.program import Program, origin
from snncompile.rewrite import Keeps, Pass


@dataclass(frozen=True)
class Parallel(Pass):
    """Let every lif without feedback run all its steps at once."""

    name: ClassVar[str] = "parallel"
    keeps: ClassVar[Keeps] = "outputs"

    def requires(self, program: Program) -> None:
        """Any program will do: what cannot run side by side stays as it is."""

    def apply(self, program: Program) -> int:
        """Give every such neuron a certificate."""
        found = list(_neurons(program))
        for node in found:
            node.kwargs = {**node.kwargs, "certificate": Certificate()}  # type: ignore[dict-item]
        return len(found)


def certificates(program: Program) -> dict[str, Certificate]:
    """How the neurons of a program ran over the last sequence, by the module they came from.

    Args:
        program: What the pass returned; of a transformed module, its `program`.
    """
    nodes = [node for node in program.neurons() if "certificate" in node.kwargs]
    return {origin(node): node.kwargs["certificate"] for node in nodes}  # type: ignore[misc]


def _neurons(program: Program) -> Iterator[fx.Node]:
    for component in components(program):
        if component.kind == "neuron":
            neurons = (n for n in component.nodes if n.target is lif)
            yield from (node for node in neurons if "certificate" not in node.kwargs)
