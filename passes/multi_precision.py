"""Let neurons emit how far they are above threshold, with gradients that need no time.

A spiking neuron with one membrane becomes

    m = decay_t v + I,    s = max(m - threshold_t, 0),    v = m - s = min(m, threshold_t),

where I is the current, v the membrane that the step before left, and decay_t and threshold_t are
learnable, one pair a step and neuron layer for the first `steps` steps; later steps use the last.
Each is the sigmoid of a parameter. Charge, reset and surrogate of the old neuron are dropped.

Before::

    program steps=sequence
    input   %x: sequence [N, 4] float32
    state   %lif: [N, 8] float32 = 0
    step:
      %fc = fc: Linear(4, 8)(%x)                    # [N, 8]
      %spikes, %membrane = lif(%fc, %lif, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 8], lif
    next    %lif <- %membrane
    output  out0 = stack(%spikes)

After::

    program steps=sequence, gradient of each step
    input   %x: sequence [N, 4] float32
    state   %lif: [N, 8] float32 = 0
    step:
      %fc = fc: Linear(4, 8)(%x)                    # [N, 8]
      %multi_precision_lif_threshold = parameter multi_precision.lif.threshold  # [1]
      %sigmoid = sigmoid(%multi_precision_lif_threshold)  # [1]
      %multi_precision_lif_decay = parameter multi_precision.lif.decay  # [1]
      %sigmoid_1 = sigmoid(%multi_precision_lif_decay)  # [1]
      %output, %membrane = multi_precision(%fc, %lif, Decay(%sigmoid_1), threshold=%sigmoid,
          detach_membrane=True)
        # [N, 8], lif
    next    %lif <- %membrane
    output  out0 = stack(%output)

`online` makes what comes from the step before a constant in the backward pass. A neuron that fires
passes no gradient to its membrane in any case, so this changes what silent ones do.

There is no surrogate: a neuron that never reaches its threshold learns nothing. Currents want a
BatchNorm, as they have in the paper.

`bits` rounds what is emitted to quarters, at most 2^bits - 1 of them; the gradient does not see
that. `norm` adds a BatchNorm of the membrane before it fires, one a step. `stateless` is the share
of neuron layers without a membrane, spread evenly over the network, which emit
max(I - threshold, 0) and run over all steps at once. `attention` gates the channels of
convolutional currents (`snncompile.nn.SECA`). `random_step` ends the steps, in training mode, at
one that is drawn at random: outputs hold that step alone, and so does the gradient.

The parameters are in modules below `multi_precision`, which the transformed network has besides
the model's own modules: training it trains those too, keys of the model stay what they are, and
a checkpoint of the model loads with ``strict=False``. Give `transform` example inputs, so that
the parameters exist before an optimizer is made.

Keeps: the interface; the network computes something else and is to be trained.

Reference: Hao et al. Comprehensive Online Training and Deployment for Spiking Neural Networks.
2024, arXiv:2410.07547.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from snncompile.errors import PassRefusedError
from snncompile.ir.names import value_name
from snncompile.ir.program import Program
from snncompile.precision.options import Options
from snncompile.precision.sites import (
    Site,
    is_replaceable,
    neurons,
    readers,
    shape_of,
    sites,
    state_of,
)
from snncompile.precision.writer import Writer
from snncompile.rewrite import Keeps, Pass

_ROUNDING = 1e-9
"""So that a share like 0.29 of 100 layers is 29 of them."""


@dataclass(frozen=True)
class MultiPrecision(Options, Pass):
    """Spikes get a size, thresholds and decays are learned, gradients stay within their step."""

    name: ClassVar[str] = "multi-precision"
    keeps: ClassVar[Keeps] = "interface"

    def requires(self, program: Program) -> None:
        """Every spiking neuron has one membrane, a state; what loses it is not read elsewhere."""
        for node in neurons(program):
            if not is_replaceable(node):
                problem = "keeps more than a membrane, or another one than it fires by"
                self.refuse(node, problem, fix="Use a LIF, and this pass before others")
            if state_of(program, node) is None:
                problem = "reads a membrane that is no state of the step"
                self.refuse(node, problem, fix="Hand it the membrane of the step before")
        self._require_unread(program)
        self._require_channels(program)
        if self.random_step and program.one_length:
            raise PassRefusedError(
                f"{self.name}: the model treats steps by their number after its loop, so that it "
                "cannot end at a random one. Leave out random_step, or reduce over time alike."
            )

    def _require_unread(self, program: Program) -> None:
        """A membrane that is to go has no reader."""
        for site in self._without_state(program):
            for reader in readers(program, site):
                problem = f"is to lose its membrane, which {value_name(reader)} reads"
                self.refuse(site.node, problem, fix="Lower the share of stateless neurons")

    def _require_channels(self, program: Program) -> None:
        """What is to be normalised has channels of a known number."""
        for site in sites(program) if self.norm else ():
            shape = shape_of(site.node)
            if len(shape) < 2 or not isinstance(shape[1], int):  # noqa: PLR2004
                self.refuse(site.node, "has no channels to normalise", fix="Leave out norm")

    def apply(self, program: Program) -> int:
        """Replace every neuron; its parameters go into modules that the root did not have."""
        found = list(sites(program))
        if not found:
            return 0
        writer = Writer(self, program, {site.state for site in self._without_state(program)})
        for site in found:
            writer.replace(site)
        writer.finish()
        if self.random_step or self.online:
            program.gradient = "random-step" if self.random_step else "each-step"
        return len(found)

    def _without_state(self, program: Program) -> Iterator[Site]:
        """The neurons that get no membrane: every k-th layer if the share is 1 / k."""
        layers = dict.fromkeys(site.state for site in sites(program))
        share = [math.floor(i * self.stateless + _ROUNDING) for i in range(len(layers) + 1)]
        chosen = {state for i, state in enumerate(layers) if share[i + 1] > share[i]}
        return (site for site in sites(program) if site.state in chosen)
