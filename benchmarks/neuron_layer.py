"""A Linear(512, N) and a layer of LIF neurons, batch 16, 500 steps, dense random input: P3.

The open-neuromorphic benchmark's layer. One training step is forward and backward. Norse's LIF and
sinabs select steps from a sequence, which costs T^2: they run at the smallest N, once a turn.
"""

import argparse
from collections.abc import Iterable

import tables
import torch
from peers_contenders import OURS, PEERS
from peers_networks import perceptron


def cases(options: argparse.Namespace) -> Iterable[tables.Case]:
    """By the number of neurons."""
    widths, steps, batch, into = (512, 4096), 500, 16, 512
    if options.quick:
        widths, steps, batch, into = (16,), 8, 2, 8
    for width in widths:
        without = (
            "torch.compile",
            "memopt",
            "channels-last",
            "tile",
            "recompute",
            "" if width == widths[0] else "LIF sequence",
        )
        yield tables.Case(
            "layer",
            perceptron((into, width), 1.0),
            torch.rand(steps, batch, into),
            tables.chosen((*PEERS, *OURS), options, *filter(None, without)),
            width=width,
        )


if __name__ == "__main__":
    tables.main(__doc__, cases, "neuron_layer")
