"""Convolutions of 64, 128 and 256 channels with BatchNorm on images of 32 x 32, batch 16: P5.

One training step is forward and backward of spikes of the last layer. BatchNorm's statistics are
those of all steps where a contender has all steps at once, and of each step where it loops.

Averages of spikes are no events. Two more networks have convolutions that read spikes, a tenth of
them active: one with larger strides and no pooling, and one that pools by the maximum and fires so
much less.
"""

import argparse
from collections.abc import Iterable
from dataclasses import replace

import tables
import torch
from peers_contenders import OURS, PEERS, Contender
from peers_networks import Halving, convolutions

NETWORKS: dict[str, tuple[float, Halving]] = {
    "conv": (0.7, "mean"),
    "conv strided": (0.7, "stride"),
    "conv max-pooled": (0.45, "max"),
}
"""BatchNorm's scale, and what halves the maps."""

COMPILED = 4
"""The longest sequence for torch.compile."""

LAYOUTS = ("SpikingJelly multi-step", "eager time-batched", "torch.compile time-batched")
"""Peers that are shown in both layouts; ours is too."""


def layouts(contenders: Iterable[Contender]) -> Iterable[Contender]:
    """Those that are shown in channels-last as well, twice."""
    for contender in contenders:
        yield contender
        if contender.name in LAYOUTS or contender.passes is not None:
            yield replace(contender, name=f"{contender.name} channels-last", channels_last=True)


def cases(options: argparse.Namespace) -> Iterable[tables.Case]:
    """By length."""
    channels, batch, size, lengths = (64, 128, 256), 16, 32, (4, 16)
    if options.quick:
        channels, batch, size, lengths = (4, 8), 2, 8, (2,)
    for steps in options.steps or lengths:
        without = ("torch.compile", "single-step", "snnTorch", "Norse", "loop", "memopt")
        usual = ("LIF sequence", "memopt 8", "tile", "SpikingJelly torch.compile")
        if options.quick:
            usual = (*usual, "torch.compile")
        if steps > COMPILED:
            usual = (*usual, *without)
        for name, (scale, by) in NETWORKS.items():
            yield tables.Case(
                name,
                convolutions(channels, scale, by),
                torch.rand(steps, batch, 3, size, size),
                tables.chosen(layouts((*PEERS, *OURS)), options, *usual),
                width=channels[-1],
            )


if __name__ == "__main__":
    tables.main(__doc__, cases, "conv")
