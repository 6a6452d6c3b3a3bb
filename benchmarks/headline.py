"""What binary weights and graded spikes cost and save: the README's headline table.

Digits (a constant frame, 4 steps) and moving digits as events (8 steps, of counts) by float,
ternary and binary weights, by LIF and multi-precision neurons with 4 bits, three seeds each. Every
number is that of the exported file: accuracy is what onnxruntime classifies right of the test
digits on logits summed over time, `moved` and `spikes` come of the export's comparison with torch
on all of them, and the energy is estimated from the operations that the synapses do for one.
Adds the runs that results/headline.csv lacks to it, a line each; headline_table.py puts the table
into the README.
"""

# pyright: basic

import argparse
import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from headline_table import RESULTS, rows
from headline_table import main as write_table
from measurement import machine
from online_accuracy import digits
from single_spike_accuracy import moving
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import snncompile
from snncompile.energy import operations
from snncompile.module import Transformed
from snncompile.nn import LIF, reset
from snncompile.passes.binarize import Binarize
from snncompile.passes.multi_precision import MultiPrecision

HEADER = ("data", "neurons", "weights", "seed", "accuracy", "bytes", "spikes", "moved",
          "accumulates", "multiply_accumulates", "nanojoules", "machine")  # fmt: skip
STEPS, HIDDEN, BATCH, RATE = 4, 256, 64, 2e-3
TOGETHER = 3
"""So many steps of events are counted in one."""

MOMENTUM = 0.01
"""Of the statistics of BatchNorm, which differ from step to step as a digit moves."""

WEIGHTS: dict[str, list[Any]] = {
    "float32": [], "ternary": [Binarize(ternary=True)], "binary": [Binarize()],
}  # fmt: skip
NEURONS = ("LIF", "multi-precision")


class Data(NamedTuple):
    """Sequences [T, N, ...] and labels [N], to train and to test on."""

    train: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor


def frames() -> Data:
    """scikit-learn's digits, the same frame at every step."""
    known = digits()
    train, test = (images.flatten(1).expand(STEPS, -1, -1) for images in known[::2])
    return Data(train, known.labels, test, known.test_labels)


def events() -> Data:
    """The same digits on the move, as events of pixels that turn brighter or darker."""
    known = digits()
    pixels = [16 * images.squeeze(1).numpy() for images in known[::2]]
    each = (moving(images, np.random.default_rng(0)) for images in pixels)
    train, test = (steps.unflatten(0, (-1, TOGETHER)).sum(1) for steps in each)
    return Data(train, known.labels, test, known.test_labels)


DATA: dict[str, tuple[Callable[[], Data], int]] = {"digits": (frames, 12), "events": (events, 12)}
"""What each is made by, and how many epochs it is trained."""


class Network(nn.Module):
    """Two hidden layers with BatchNorm and LIF neurons, and a read-out, once a step."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for read in (inputs, HIDDEN):
            linear = nn.Linear(read, HIDDEN, bias=False)
            layers += [linear, nn.BatchNorm1d(HIDDEN, momentum=MOMENTUM), LIF(decay=0.75)]
        self.layers = nn.Sequential(*layers, nn.Linear(HIDDEN, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every step, [T, N, 10], of inputs [T, N, ...]."""
        reset(self)
        return torch.stack([self.layers(x_t) for x_t in x])


def trained(data: Data, passes: list[Any], seed: int, epochs: int) -> Transformed:
    """Train from a seed with Adam, on the cross-entropy of logits averaged over time."""
    torch.manual_seed(seed)
    network = Network(data.train.shape[2])
    example = data.train[:, :BATCH].contiguous()
    fast = snncompile.transform(network, passes, example_inputs=example, schedule="layers")
    optimizer = torch.optim.Adam(fast.parameters(), lr=RATE)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.labels)).split(BATCH):
            logits = fast(data.train[:, batch])
            loss = cross_entropy(logits.mean(0), data.labels[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        plan.step()
    return fast.eval()


def run(data: Data, cell: tuple[str, str, str], seed: int) -> tuple[Any, ...]:
    """Train, deploy and export a network, and measure the file: a line of the CSV file."""
    name, neurons, weights = cell
    multi = [MultiPrecision(steps=len(data.train), bits=4)] if neurons != "LIF" else []
    fast = trained(data, [*multi, *WEIGHTS[weights]], seed, DATA[name][1])
    final = snncompile.transform(fast, "deploy")
    settings: Any = {"weights": weights, "example_inputs": data.test.contiguous()}
    with TemporaryDirectory() as folder:
        report = snncompile.export(final, Path(folder, "net.onnx"), **settings)
        logits = snncompile.Deployed(report.path, threads=1).run(data.test.numpy())
    right = logits.sum(0).argmax(1) == data.test_labels.numpy()
    done, count = operations(final, data.test), len(right)
    agreed = report.agreement
    return (
        *cell, seed, round(100 * float(right.mean()), 3), report.bytes, agreed.spikes, agreed.moved,
        done.accumulates // count, done.multiply_accumulates // count,
        round(done.picojoules / count / 1000, 3), machine(),
    )  # fmt: skip


def measured(names: list[str], seeds: int) -> Iterator[tuple[Any, ...]]:
    """A line for every run that the CSV file does not have yet."""
    done = {(r["data"], r["neurons"], r["weights"], int(r["seed"])) for r in rows()}
    for name in names:
        data = DATA[name][0]()
        for cell in ((name, n, w) for n in NEURONS for w in WEIGHTS):
            for seed in range(seeds):
                if (*cell, seed) not in done:
                    yield run(data, cell, seed)


def main() -> None:
    """Run what is missing of every cell, then write the README's table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--anew", action="store_true", help="forget what was measured before")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.anew or not RESULTS.exists():
        RESULTS.write_text(",".join(HEADER) + "\n", encoding="utf-8")
    for line in measured(options.data, options.seeds):
        print(*line[:-1], flush=True)
        with RESULTS.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(line)
    write_table()


if __name__ == "__main__":
    main()
