"""Whole networks against themselves: SpikingJelly's VGG-11 and ResNet-18, snnTorch's tutorial's.

A training step is forward, backward and SGD, on images of 32 x 32. The original runs as its
authors wrote it, in eager torch and under torch.compile; ours is `transform(model, [])` of it.
Run it from the root of the repository with PYTHONPATH=. in the environment.
"""

import argparse
import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import snntorch
import tables
import torch
from measurement import Work, in_fresh_process, machine, peak_memory
from peers_contenders import OURS, Contender
from records import RESULTS, Row, merged, read, write
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

from tests import torchvision_shim as torchvision_shim  # noqa: PLC0414

STEPS, BATCH = 4, 16
ZOO = "spikingjelly.activation_based.model"
"""It imports torchvision, so the shim comes first."""


class Tutorial(nn.Module):
    """The convolutional network of snnTorch's tutorial 6, for images of 3 x 32 x 32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 12, 5), nn.Conv2d(12, 64, 5)
        self.fc = nn.Linear(64 * 5 * 5, 10)
        fast = snntorch.surrogate.fast_sigmoid(slope=25)
        self.lifs = nn.ModuleList(snntorch.Leaky(beta=0.5, spike_grad=fast) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Membranes of the last layer, summed over time, [N, 10]."""
        membranes = [lif.reset_mem() for lif in self.lifs]
        total = torch.zeros(x.size(1), 10)
        for value in x:
            current = nn.functional.max_pool2d(self.conv1(value), 2)
            spikes, membranes[0] = self.lifs[0](current, membranes[0])
            current = nn.functional.max_pool2d(self.conv2(spikes), 2)
            spikes, membranes[1] = self.lifs[1](current, membranes[1])
            _, membranes[2] = self.lifs[2](self.fc(spikes.flatten(1)), membranes[2])
            total = total + membranes[2]
        return total


class Summed(nn.Module):
    """Scores summed over time, [N, 10], of a network over sequences."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.network(x).sum(0)


def zoo(file: str, name: str) -> nn.Module:
    """A network of SpikingJelly's zoo with LIF neurons, over sequences."""
    model = getattr(import_module(f"{ZOO}.{file}"), name)(
        spiking_neuron=neuron.LIFNode,
        surrogate_function=surrogate.ATan(),
        detach_reset=True,
        num_classes=10,
    )
    functional.set_step_mode(model, "m")
    return Summed(model)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "spiking_vgg11_bn": (partial(zoo, "spiking_vgg", "spiking_vgg11_bn"), STEPS),
    "spiking_resnet18": (partial(zoo, "spiking_resnet", "spiking_resnet18"), STEPS),
    "snnTorch tutorial": (Tutorial, 25),
}


SMALL = Contender(
    "snncompile small-maps, event-driven, channels-last",
    passes=("small-maps", "event-driven", "channels-last"),
    schedule="layers",
)
UNLIKE = ("tile", "event-driven layers", "recompute layers")
"""Contenders that are left out."""


@dataclass
class Trainee:
    """A copy of a network in training, run by a contender."""

    model: nn.Module
    contender: Contender | None
    compiled: bool = False

    def __post_init__(self) -> None:
        """Make ready what is called."""
        self.model = copy.deepcopy(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4)
        self.called = self.contender.transformed(self.model) if self.contender else self.model
        if self.compiled:
            self.called = torch.compile(self.called, dynamic=False)

    def scores(self, x: Tensor) -> Tensor:
        """From rest, [N, 10]."""
        if self.contender:
            self.called.reset()
        else:
            functional.reset_net(self.model)
        return self.called(x)

    def train(self, x: Tensor, labels: Tensor) -> None:
        """One step."""
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.scores(x), labels).backward()
        self.optimizer.step()


def trainees(model: nn.Module, options: argparse.Namespace) -> dict[str, Callable[[], Trainee]]:
    """By contender's name, made when called."""
    found = {"original": partial(Trainee, model, None)}
    if any(part in "original torch.compile" for part in options.only):
        found["original torch.compile"] = partial(Trainee, model, None, compiled=True)
    for contender in tables.chosen((*OURS, SMALL), options, *UNLIKE):
        found[contender.name] = partial(Trainee, model, contender)
    return found


def memory_of(make: Callable[[], Trainee], x: Tensor, labels: Tensor) -> float:
    """MiB of a training step, the second."""
    trainee = make()
    trainee.train(x, labels)
    return peak_memory(lambda: trainee.train(x, labels))


@dataclass
class Case:
    """A network, its input, and who trains it."""

    network: str
    x: Tensor
    labels: Tensor
    made: dict[str, Callable[[], Trainee]]

    def peaks(self) -> dict[str, float]:
        """MiB of everyone's training step, each in a process of its own."""
        found: dict[str, float] = {}
        torch.set_num_threads(1)
        for who, make in self.made.items():
            try:
                found[who] = in_fresh_process(partial(memory_of, make, self.x, self.labels))
            except RuntimeError as error:
                print(f"  {self.network}, {who}: {str(error).splitlines()[0]}", flush=True)
        return found

    def rows(self, peaks: dict[str, float], options: argparse.Namespace) -> Iterable[Row]:
        """One a contender and number of threads."""
        ready = {who: self.made[who]() for who in peaks}
        scores = {who: trainee.scores(self.x).detach() for who, trainee in ready.items()}
        works: dict[str, Work] = {
            who: partial(trainee.train, self.x, self.labels) for who, trainee in ready.items()
        }
        for threads in options.threads:
            times = tables.timed(works, threads, options.seconds)
            for who, taken in times.items():
                row = {"network": self.network, "T": str(len(self.x)), "contender": who}
                row |= {"batch": str(len(self.labels)), "threads": str(threads)}
                row |= {"process ms": f"{1e3 * taken.process:.1f}"}
                row |= {"wall ms": f"{1e3 * taken.wall:.1f}", "peak MiB": f"{peaks[who]:.1f}"}
                row["moved"] = str(int((scores[who] != scores["original"]).sum()))
                print("  ".join(row.values()), flush=True)
                yield row


def case(name: str, options: argparse.Namespace) -> Case:
    """By the network's name."""
    make, steps = NETWORKS[name]
    steps, batch = (2, 2) if options.quick else (steps, BATCH)
    x = torch.rand(batch, 3, 32, 32).expand(steps, -1, -1, -1, -1).contiguous()
    return Case(name, x, torch.randint(0, 10, (batch,)), trainees(make(), options))


def main() -> None:
    """Measure and write."""
    parser = tables.parser(__doc__)
    parser.add_argument("--network", nargs="+", choices=NETWORKS)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    print(f"# {machine()}; threads {options.threads}")
    cases = [case(name, options) for name in options.network or list(NETWORKS)[options.quick :]]
    peaks = [one.peaks() for one in cases]
    for one, own in zip(cases, peaks, strict=True):
        rows = list(one.rows(own, options))
        if options.out or not options.quick:
            file = options.out or RESULTS / "networks.csv"
            write(merged(read(file), rows), file)


if __name__ == "__main__":
    main()
