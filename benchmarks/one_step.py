"""The one-step pass on scikit-learn's digits: accuracy, spikes in onnxruntime, energy.

A residual network of SpikingJelly and a recurrent one of plain torch are trained with T steps; the
same networks, from the same initial weights, are rewritten by `one-step` and trained with one. The
one-step network is exported, and its test digits are classified in onnxruntime too. Energy is that
of the synapses for one test digit, by counted operations; the artificial network is the same
layers, each fed with real numbers once.

    python benchmarks/one_step.py [--seeds 3] [--epochs 15]
"""

# pyright: basic

import argparse
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

import snncompile
from snncompile import nn as snn
from snncompile.energy import operations
from snncompile.passes.one_step import OneStep

TIME_STEPS = 6
CHANNELS = 16


class Block(nn.Module):
    """Two spiking convolutions and a shortcut around them that adds spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*_spiking(CHANNELS), *_spiking(CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        """Spike counts, [T, N, C, H, W]."""
        return self.body(x) + x


def _spiking(channels: int) -> tuple[nn.Module, ...]:
    return (
        layer.Conv2d(channels, CHANNELS, 3, padding=1, bias=False),
        layer.BatchNorm2d(CHANNELS),
        neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True),
    )


def residual() -> nn.Module:
    """Three residual blocks on maps of 8x8, 8x8 and 4x4, as SpikingJelly writes them."""
    network = nn.Sequential(
        *_spiking(1), Block(), Block(), layer.MaxPool2d(2), Block(), layer.Flatten(),
        layer.Linear(CHANNELS * 16, 10),
    )  # fmt: skip
    functional.set_step_mode(network, "m")
    return network


class Recurrent(nn.Module):
    """A spiking layer that convolves its own last spikes, another layer, a leaky read-out."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.back = (nn.Conv2d(c, CHANNELS, 3, padding=1) for c in (1, CHANNELS))
        self.next = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.first, self.second = snn.LIF(), snn.LIF()
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(CHANNELS * 16, 10)
        self.readout = snn.LeakyIntegrator(decay=0.9)

    def forward(self, x: Tensor) -> Tensor:
        """Membranes of the read-out, [T, N, 10]."""
        snn.reset(self)
        spikes = torch.zeros(x.size(1), CHANNELS, 8, 8)
        scores = []
        for x_t in x:
            spikes = self.first(self.into(x_t) + self.back(spikes))
            hidden = self.second(self.next(self.pool(spikes)))
            scores.append(self.readout(self.head(hidden.flatten(1))))
        return torch.stack(scores)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images [N, 1, 8, 8] in [0, 1], then their labels."""
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images, labels, test_size=360, random_state=0, stratify=labels)
    train_x, test_x, train_y, test_y = (torch.tensor(part) for part in split)
    shaped = ((x.float() / 16).reshape(-1, 1, 8, 8) for x in (train_x, test_x))
    return (*shaped, train_y, test_y)


def fed(images: Tensor, steps: int) -> Tensor:
    """The same image at every step: [T, N, 1, 8, 8]."""
    return images.unsqueeze(0).repeat(steps, 1, 1, 1, 1)


@dataclass
class Trainee:
    """A network and how many steps it runs."""

    network: nn.Module
    steps: int

    def scores(self, images: Tensor) -> Tensor:
        """Class scores, [N, 10], from cleared states."""
        self.clear()
        return self.network(fed(images, self.steps)).mean(0)

    def clear(self) -> None:
        """A new sequence begins."""
        functional.reset_net(self.network)

    def train(self, images: Tensor, labels: Tensor, epochs: int) -> None:
        """Adam with a falling rate."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for _ in range(epochs):
            for batch in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(self.scores(images[batch]), labels[batch]).backward()
                optimizer.step()
            schedule.step()
        self.network.eval()

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """The share of images that are classified right."""
        with torch.no_grad():
            return float((self.scores(images).argmax(1) == labels).float().mean())


def in_onnxruntime(trainee: Trainee, images: Tensor) -> tuple[Tensor, int, int]:
    """Scores of the exported network, and how many spikes were compared and how many moved."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        report = snncompile.export(trainee.network, path, example_inputs=fed(images, 1))
        session = onnxruntime.InferenceSession(path)
        feed = {session.get_inputs()[0].name: fed(images, 1).numpy()}
        scores = torch.from_numpy(session.run(None, feed)[0]).mean(0)
    return scores, report.agreement.spikes, report.agreement.moved


def one_seed(make: Callable[[], nn.Module], seed: int, epochs: int) -> dict[str, float]:
    """Train both networks from the same weights; returns what is printed."""
    train_x, test_x, train_y, test_y = digits()
    torch.manual_seed(seed)
    many, one = make(), make()
    one.load_state_dict(many.state_dict())
    stepped = Trainee(many, TIME_STEPS)
    single = Trainee(snncompile.transform(one, OneStep()), 1)
    found: dict[str, float] = {}
    for name, trainee in (("T", stepped), ("one", single)):
        started = time.perf_counter()
        trainee.train(train_x, train_y, epochs)
        found[f"{name} seconds"] = time.perf_counter() - started
        found[f"{name} accuracy"] = trainee.accuracy(test_x, test_y)
        trainee.clear()
        counted = operations(trainee.network, fed(test_x, trainee.steps))
        found[f"{name} nJ"] = counted.picojoules / len(test_x) / 1e3
        found[f"{name} AC"] = counted.accumulates / len(test_x)
        found[f"{name} MAC"] = counted.multiply_accumulates / len(test_x)
        if name == "T":
            found["ANN nJ"] = counted.dense_picojoules / TIME_STEPS / len(test_x) / 1e3
    scores, spikes, moved = in_onnxruntime(single, test_x)
    found["onnxruntime accuracy"] = float((scores.argmax(1) == test_y).float().mean())
    found["spikes"], found["moved"] = spikes, moved
    return found


def main() -> None:
    """Print one line a network and seed, then ratios of the means."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, 1 thread")
    for make in (residual, Recurrent):
        rows = [one_seed(make, seed, options.epochs) for seed in range(options.seeds)]
        print(f"\n{make.__name__.lower()}, T = {TIME_STEPS}, {options.epochs} epochs")
        for key in rows[0]:
            values = "  ".join(f"{row[key]:12.4g}" for row in rows)
            print(f"  {key:<22}{values}")
        mean = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
        print(f"  energy: {mean['T nJ'] / mean['one nJ']:.2f} times less than T steps,", end=" ")
        print(f"{mean['ANN nJ'] / mean['one nJ']:.2f} times less than the artificial network")


if __name__ == "__main__":
    main()
