"""Accuracy on scikit-learn's digits: float, ternary and binary weights, LIF and graded neurons.

A perceptron and a small convolutional network see a constant frame for T steps and are trained
with Adam on the cross-entropy of every step. Every row starts from the same seeds. What is tested
is the network that `deploy` leaves, on logits summed over time; the column `moved` counts digits
that it classifies otherwise than before, over all seeds. `--help` lists the options.
"""

import argparse
import csv
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from measurement import machine
from online_accuracy import Digits, digits
from torch import Tensor, nn
from torch.nn import functional

import snncompile
from snncompile.module import Transformed
from snncompile.nn import LIF, reset
from snncompile.passes.binarize import Binarize
from snncompile.passes.multi_precision import MultiPrecision
from snncompile.rewrite import Pass

STEPS, BATCH, RATE = 4, 64, 2e-3


class Network(nn.Module):
    """Layers that run once a step, on a frame that is the same at every step."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every step, [T, N, 10], of frames [T, N, 1, 8, 8]."""
        reset(self)
        return torch.stack([self.layers(x_t) for x_t in x])


def mlp() -> Network:
    """64-128-128-10 with BatchNorm."""
    layers: list[nn.Module] = [nn.Flatten()]
    for read in (64, 128):
        layers += [nn.Linear(read, 128, bias=False), nn.BatchNorm1d(128), LIF()]
    return Network(*layers, nn.Linear(128, 10))


def conv() -> Network:
    """Convolutions of 16, 32 and 32 channels with BatchNorm, two average poolings."""
    layers: list[nn.Module] = []
    for read, written in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(read, written, 3, padding=1, bias=False), nn.BatchNorm2d(written)]
        layers += [LIF(), *([nn.AvgPool2d(2)] if written == 32 else [])]  # noqa: PLR2004
    return Network(*layers, nn.Flatten(), nn.Linear(128, 10))


NETWORKS: dict[str, Callable[[], Network]] = {"mlp": mlp, "conv": conv}
NEURONS: dict[str, tuple[Pass, ...]] = {
    "LIF": (),
    "graded": (MultiPrecision(steps=STEPS),),
    "4 bits": (MultiPrecision(steps=STEPS, bits=4),),
    "4 bits, membrane norm": (MultiPrecision(steps=STEPS, bits=4, norm=True),),
    "4 bits, half stateless": (MultiPrecision(steps=STEPS, bits=4, stateless=0.5),),
    "4 bits, random step": (MultiPrecision(steps=STEPS, bits=4, random_step=True),),
}
WEIGHTS: dict[str, tuple[Pass, ...]] = {
    "float": (),
    "ternary": (Binarize(ternary=True),),
    "binary": (Binarize(),),
}


class Result(NamedTuple):
    """Correct test digits in percent, and how many `deploy` moved to another class."""

    accuracy: float
    moved: int


def frames(images: Tensor) -> Tensor:
    """The same frame at every step."""
    return images.expand(STEPS, *images.shape)


def train(fast: Transformed, data: Digits, epochs: int, generator: torch.Generator) -> None:
    """Minimise the cross-entropy, averaged over steps."""
    optimizer = torch.optim.Adam(fast.parameters(), lr=RATE)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.labels), generator=generator).split(BATCH):
            logits = fast(frames(data.images[rows]))
            labels = data.labels[rows].repeat(len(logits))
            loss = functional.cross_entropy(logits.flatten(0, 1), labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        plan.step()


def classes(fast: Transformed, images: Tensor) -> Tensor:
    """The class of every image."""
    with torch.no_grad():
        logits: Tensor = fast(frames(images))
    return logits.sum(0).argmax(1)


def result(
    network: str, passes: tuple[Pass, ...], seed: int, options: argparse.Namespace
) -> Result:
    """Train from a seed, deploy, test."""
    torch.manual_seed(seed)
    data = digits()
    fast = snncompile.transform(
        NETWORKS[network](), passes, example_inputs=frames(data.images), schedule="layers"
    )
    train(fast, data, options.epochs, torch.Generator().manual_seed(seed))
    fast.eval()
    before = classes(fast, data.test_images)
    after = classes(snncompile.transform(fast, "deploy"), data.test_images)
    correct = (after == data.test_labels).double().mean().item()
    return Result(100 * correct, int((before != after).sum()))


def rows(options: argparse.Namespace) -> Iterator[tuple[tuple[str, str, str], list[Result]]]:
    """Every network, kind of neuron and kind of weight, with the results of all seeds."""
    for network in options.network:
        for neurons in options.neurons:
            for weights in options.weights:
                passes = (*NEURONS[neurons], *WEIGHTS[weights])
                seeds = range(options.seeds)
                found = [result(network, passes, seed, options) for seed in seeds]
                yield (network, neurons, weights), found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--neurons", nargs="+", choices=NEURONS, default=list(NEURONS))
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--out", type=Path, help="a CSV file of every run")
    return parser.parse_args()


def main() -> None:
    """Train everything, print the table, write every run."""
    options = arguments()
    print(f"# {machine()}; T = {STEPS}, {options.epochs} epochs, {options.seeds} seeds")
    print(f"{'network':8}{'neurons':24}{'weights':9}{'mean':>7}{'deviation':>11}{'moved':>7}")
    runs: list[tuple[str, str, str, int, float]] = []
    for row, found in rows(options):
        scores = [one.accuracy for one in found]
        runs += [(*row, seed, score) for seed, score in enumerate(scores)]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        shown = f"{statistics.mean(scores):7.2f}{spread:11.2f}{sum(one.moved for one in found):7}"
        print(f"{row[0]:8}{row[1]:24}{row[2]:9}{shown}", flush=True)
    if options.out is not None:
        with options.out.open("w", encoding="utf-8", newline="") as file:
            header = ("network", "neurons", "weights", "seed", "accuracy")
            csv.writer(file, lineterminator="\n").writerows([header, *runs])


if __name__ == "__main__":
    main()
