"""Accuracy on scikit-learn's digits: SAF-E, SAF-F, OTTT_A and BPTT from the same seeds.

A perceptron and a small convolutional network see a constant frame for T steps and are trained
with Adam; every rule gets the same parameters at birth and the same minibatches. All are tested
as the plain spiking network, on logits summed over time. `--help` lists the options.
"""

import argparse
import csv
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from measurement import machine
from online_contenders import Bptt, Contender, Ottt, SafFinal, SafSequence, saf
from online_networks import Pair, convnet, mlp
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from spikingjelly.activation_based import functional
from torch import Tensor

NETWORKS: dict[str, Callable[[], Pair]] = {
    "mlp": partial(mlp, (64, 128, 128, 10)),
    "conv": convnet,
}
BATCH, RATE = 64, 2e-3


class Digits(NamedTuple):
    """Images from 0 to 1, [N, 1, 8, 8], and labels, [N]; a fixed, stratified split."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def digits() -> Digits:
    """A quarter of the 1797 digits is for testing."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=0.25, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = parts
    return Digits(
        _images(train_images), torch.as_tensor(train_labels),
        _images(test_images), torch.as_tensor(test_labels),
    )  # fmt: skip


def _images(rows: object) -> Tensor:
    return torch.as_tensor(rows).float().reshape(-1, 1, 8, 8)


def _ottt(pair: Pair, optimizer: torch.optim.Optimizer) -> Contender:
    return Ottt("OTTT_A", pair.ottt, optimizer, online=False)


def _bptt(pair: Pair, optimizer: torch.optim.Optimizer) -> Contender:
    return Bptt("BPTT", pair.plain, optimizer)


def _saf_e(pair: Pair, optimizer: torch.optim.Optimizer) -> Contender:
    return SafSequence("SAF-E", saf(pair.plain, "layers"), optimizer)


def _saf_f(pair: Pair, optimizer: torch.optim.Optimizer) -> Contender:
    return SafFinal("SAF-F", saf(pair.plain, "layers", variant="final"), optimizer)


RULES = {"SAF-E": _saf_e, "OTTT_A": _ottt, "SAF-F": _saf_f, "BPTT": _bptt}


def accuracy_of(network: str, rule: str, seed: int, options: argparse.Namespace) -> float:
    """Train from the seed, in percent of the test digits."""
    torch.manual_seed(seed)
    pair, data = NETWORKS[network](), digits()
    trained = pair.ottt if rule == "OTTT_A" else pair.plain
    contender = RULES[rule](pair, torch.optim.Adam(trained.parameters(), lr=RATE))
    shuffle = torch.Generator().manual_seed(seed)
    for _ in range(options.epochs):
        for chosen in _minibatches(len(data.labels), shuffle):
            x = _sequence(data.images[chosen], pair, options.steps)
            contender.train(x, data.labels[chosen])
    pair.plain.load_state_dict(trained.state_dict())
    return _test(pair, data, options.steps)


def _minibatches(size: int, shuffle: torch.Generator) -> Iterator[Tensor]:
    order = torch.randperm(size, generator=shuffle)
    return iter(order.split(BATCH))


def _sequence(images: Tensor, pair: Pair, steps: int) -> Tensor:
    """The frame at every step, in the network's shape, [T, N, ...]."""
    frames = images.reshape(-1, *pair.shape)
    return frames.expand(steps, *frames.shape)


def _test(pair: Pair, data: Digits, steps: int) -> float:
    pair.plain.eval()
    functional.reset_net(pair.plain)
    with torch.no_grad():
        logits = pair.plain(_sequence(data.test_images, pair, steps)).sum(0)
    functional.reset_net(pair.plain)
    pair.plain.train()
    return 100 * (logits.argmax(1) == data.test_labels).double().mean().item()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rule", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=6, help="T")
    parser.add_argument("--out", type=Path, help="a CSV file of every run")
    return parser.parse_args()


def main() -> None:
    """Train everything, print the table, write every run."""
    options = arguments()
    print(f"# {machine()}; T = {options.steps}, {options.epochs} epochs, {options.seeds} seeds")
    print(f"{'network':8}{'rule':8}{'mean':>8}{'deviation':>11}{'lowest':>8}{'highest':>9}")
    rows: list[tuple[str, str, int, float]] = []
    for network in options.network:
        for rule in options.rule:
            seeds = range(options.seeds)
            scores = [accuracy_of(network, rule, seed, options) for seed in seeds]
            rows += [(network, rule, seed, score) for seed, score in enumerate(scores)]
            mean = statistics.mean(scores)
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            low, high = min(scores), max(scores)
            print(f"{network:8}{rule:8}{mean:8.2f}{spread:11.2f}{low:8.2f}{high:9.2f}", flush=True)
    if options.out is not None:
        with options.out.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(
                [("network", "rule", "seed", "accuracy"), *rows]
            )


if __name__ == "__main__":
    main()
