"""Moving digits as events: accuracy and spikes of single-spike against multi-spike networks.

scikit-learn's digits move along a triangle, as the camera of N-MNIST does, from places that differ
by a pixel; a pixel sends an event where its brightness rises or falls by enough between frames.
`python benchmarks/single_spike_accuracy.py --help`.
"""

import argparse
import copy
import csv
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measurement import machine
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import snncompile
from snncompile.module import Transformed
from snncompile.nn import LIF
from snncompile.passes.parallel import Parallel
from snncompile.passes.single_spike import SingleSpike
from snncompile.rewrite import Pass
from snncompile.runtime.schedule import Recording

FRAME, DIGIT = 13, 8
SIDE = 4
STEPS = 3 * SIDE * 2
THRESHOLD = 0.2
"""The change of brightness, of 1 at most, that sends an event."""

FORMS: Mapping[str, Pass] = {
    "multi-spike": Parallel(),
    "single-spike v2": SingleSpike(rule="v2", accept="first-spike-only"),
    "single-spike v1": SingleSpike(rule="v1", accept="first-spike-only"),
}


class Network(nn.Module):
    """A hidden layer that fires and a read-out that does not; the logits are reduced from that."""

    def __init__(self, hidden: int, reduce: str, gain: float) -> None:
        super().__init__()
        self.reduce = reduce
        self.hidden = nn.Linear(2 * FRAME**2, hidden)
        self.readout = nn.Linear(hidden, 10)
        self.lif = LIF(decay=0.9)
        with torch.no_grad():
            self.hidden.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of sequences of events, [T, N, 338]."""
        membrane = torch.zeros(x.shape[1], 10)
        values: list[Tensor] = []
        for events in x.unbind(0):
            membrane = 0.9 * membrane + self.readout(self.lif(self.hidden(events)))
            values.append(membrane)
        sequence = torch.stack(values)
        return sequence.amax(0) if self.reduce == "max" else sequence.mean(0)


def moving(images: np.ndarray, generator: np.random.Generator) -> Tensor:
    """Events of digits on their way, [T, N, 2 * frame * frame]; they move every other step."""
    moves = [(1, 0)] * SIDE + [(0, 1)] * SIDE + [(-1, -1)] * SIDE
    path = np.cumsum([(0, 0), *moves], 0).repeat(2, 0)[: STEPS + 1]
    start = generator.integers(0, 2, (len(images), 2))
    frames = np.zeros((STEPS + 1, len(images), FRAME, FRAME), dtype=np.float32)
    for n, image in enumerate(images):
        for t, (row, column) in enumerate(path + start[n]):
            frames[t, n, row : row + DIGIT, column : column + DIGIT] = image / 16
    change = np.diff(frames, axis=0)
    events = np.stack((change > THRESHOLD, change < -THRESHOLD), 2)
    return torch.from_numpy(events.reshape(STEPS, len(images), -1).astype(np.float32))


def trained(module: Transformed, x: Tensor, labels: Tensor, epochs: int, rate: float) -> float:
    """Train with Adam; returns the seconds that an epoch took."""
    optimizer = torch.optim.Adam(module.parameters(), rate)
    begun = time.perf_counter()
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(64):
            module.reset()
            optimizer.zero_grad()
            cross_entropy(module(x[:, batch]), labels[batch]).backward()
            optimizer.step()
    return (time.perf_counter() - begun) / epochs


@torch.no_grad()
def tested(module: Transformed, x: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """Accuracy, spikes of a sample, and the most spikes of any neuron."""
    module.reset()
    recording = Recording()
    logits = module.record(recording, x)
    spikes = [outputs[0] for outputs in recording.outputs.values() if outputs[0].shape[-1] != 10]  # noqa: PLR2004
    total = sum(float(value.sum()) for value in spikes) / len(labels)
    most = max(float(value.sum(0).max()) for value in spikes)
    return float((logits.argmax(1) == labels).float().mean()), total, most


def compare(
    kind: tuple[int, str, float], epochs: int, seeds: int, rate: float
) -> list[dict[str, Any]]:
    """Every form from the same parameters, on the same data, with the same minibatches."""
    digits = load_digits()
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        parts = train_test_split(digits.images, digits.target, test_size=0.25, random_state=seed)
        generator = np.random.default_rng(seed)
        train, test = (moving(images, generator) for images in parts[:2])
        answers, questions = (torch.from_numpy(labels) for labels in parts[2:])
        torch.manual_seed(seed)
        network = Network(*kind)
        for name, chosen in FORMS.items():
            model = copy.deepcopy(network)
            fast = snncompile.transform(
                model, chosen, schedule="layers", example_inputs=train[:4, :2]
            )
            torch.manual_seed(seed)
            seconds = trained(fast, train, answers, epochs, rate)
            accuracy, spikes, most = tested(fast, test, questions)
            rows.append({"seed": seed, "form": name, "accuracy": accuracy, "spikes": spikes,
                         "most of a neuron": most, "seconds an epoch": seconds})  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Run and print means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--readout", choices=("mean", "max"), default="mean")
    parser.add_argument("--rate", type=float, default=1e-3, help="of Adam")
    parser.add_argument("--gain", type=float, default=2, help="of the hidden weights at first")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"{machine()}, {chosen.threads} threads")
    kind = (chosen.hidden, chosen.readout, chosen.gain)
    rows = compare(kind, chosen.epochs, chosen.seeds, chosen.rate)
    for name in FORMS:
        own = [row for row in rows if row["form"] == name]
        means = {k: statistics.mean(row[k] for row in own) for k in list(rows[0])[2:]}
        print(f"{name:16} " + "  ".join(f"{key} {value:.4g}" for key, value in means.items()))
    if chosen.out:
        with chosen.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
