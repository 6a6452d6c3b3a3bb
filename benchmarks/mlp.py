"""A perceptron of three layers of 512 neurons, trained through time: P4, P6, P7, P8.

Input spikes and every layer's at about 10 %, batch 64, firing rates as outputs. One training step
is forward and backward. torch.compile takes part up to T = 16; longer it compiles for minutes.
"""

import argparse
from collections.abc import Iterable

import tables
import torch
from peers_contenders import OURS, PEERS, Contender
from peers_networks import perceptron

GAIN = 4.0
"""By what weights at birth are multiplied: every layer fires at 10 %."""

COMPILED = 16
"""The longest sequence for torch.compile."""

FRUGAL = Contender(
    "snncompile event-driven, recompute tile 16", passes=("event-driven", "recompute"), schedule=16
)
"""For least memory: the tile that the compiler takes by itself is longer, and faster."""

KEPT = ("SpikingJelly multi-step", "eager time-batched", "snncompile")
UNLIKE = ("LIF sequence", "channels-last", "SpikingJelly torch.compile")
FEW = ("single-step", "snnTorch", "Norse", "eager loop", "torch.compile", "level 1")
LONG = (
    "snncompile tile 16",
    "snncompile recompute tile 16",
    "recompute layers",
    "event-driven layers",
)


def cases(options: argparse.Namespace) -> Iterable[tables.Case]:
    """By length; the longest is for memory, without those that loop over time."""
    lengths, width, batch = ((2, 4), 16, 4) if options.quick else ((4, 16, 64, 256, 1000), 512, 64)
    for steps in options.steps or lengths:
        x = (torch.rand(steps, batch, width) < 0.1).float()  # noqa: PLR2004
        without = () if steps <= COMPILED and not options.quick else ("torch.compile",)
        without = (*FEW, *LONG) if steps > 256 else without  # noqa: PLR2004
        yield tables.Case(
            "mlp",
            perceptron((width,) * 4, GAIN),
            x,
            tables.chosen((*PEERS, *OURS, FRUGAL), options, *UNLIKE, *without),
            rate=True,
            width=width,
            kept_denormals=KEPT if steps == 256 else (),  # noqa: PLR2004
        )


if __name__ == "__main__":
    tables.main(__doc__, cases, "mlp")
