"""Two networks of two libraries, trained on real digits, captured, verified, exported, run.

SpikingJelly's own MNIST network and a two-layer snnTorch network learn scikit-learn's handwritten
digits for some seconds. snncompile captures each as it is, compares its own run with the
library's, folds BatchNorm, writes an ONNX file and classifies the test digits with onnxruntime.
"""

# pyright: basic

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import snntorch
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from spikingjelly.activation_based import functional, neuron, surrogate
from spikingjelly.activation_based.model import parametric_lif_net
from torch import Tensor, nn

import snncompile

TIME_STEPS = 6
OUT = Path("out")


class TwoLayers(nn.Module):
    """An snnTorch network in its usual style: the loop in forward, membranes passed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(64, 100), snntorch.Leaky(beta=0.9)
        self.fc2, self.lif2 = nn.Linear(100, 10), snntorch.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and membranes of the last layer, [T, N, 10], for images [T, N, 1, 8, 8]."""
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, membranes = [], []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[step].flatten(1)), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack(spikes), torch.stack(membranes)


@dataclass(frozen=True)
class Case:
    """A network, its input size, and how its outputs become class scores."""

    name: str
    model: nn.Module
    size: int
    epochs: int
    scores: Callable[[Any], Tensor]
    reset: Callable[[nn.Module], None]


def cases() -> list[Case]:
    """The two networks, untrained."""
    jelly = parametric_lif_net.MNISTNet(
        channels=8, spiking_neuron=neuron.ParametricLIFNode, surrogate_function=surrogate.ATan()
    )
    functional.set_step_mode(jelly, "m")
    return [
        Case("SpikingJelly MNISTNet", jelly, 28, 6, lambda out: out.mean(0), functional.reset_net),
        Case("snnTorch two layers", TwoLayers(), 8, 20, lambda out: out[0].sum(0), lambda _: None),
    ]


def digits(size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images [N, 1, size, size] in [0, 1], then their labels."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    x = torch.nn.functional.interpolate(x, size=(size, size), mode="bilinear")
    split = train_test_split(x.numpy(), labels, test_size=360, random_state=0, stratify=labels)
    train_x, test_x, train_y, test_y = (torch.tensor(part) for part in split)
    return train_x, test_x, train_y, test_y


def repeated(images: Tensor) -> Tensor:
    """The same image at every step: [T, N, 1, H, W]."""
    return images.unsqueeze(0).repeat(TIME_STEPS, 1, 1, 1, 1)


def train(case: Case, network: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Plain torch training; `network` may be the library's model or its transformed self."""
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(case.epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            scores = case.scores(network(repeated(images[batch])))
            nn.functional.cross_entropy(scores * 5, labels[batch]).backward()
            optimizer.step()
            case.reset(network)


def accuracy(case: Case, run: Callable[[Tensor], object], images: Tensor, labels: Tensor) -> float:
    """The share of images that `run` classifies right."""
    with torch.no_grad():
        predicted = case.scores(run(repeated(images))).argmax(1)
    return float((predicted == labels).float().mean())


def in_onnxruntime(path: Path) -> Callable[[Tensor], object]:
    """A function that runs the file on a sequence, all states starting at their first value."""
    session = onnxruntime.InferenceSession(path)
    first, *states = session.get_inputs()

    def run(sequence: Tensor) -> object:
        feeds = {first.name: sequence.numpy()}
        for state in states:
            shape = [size if isinstance(size, int) else sequence.shape[1] for size in state.shape]
            feeds[state.name] = np.zeros(shape, np.float32)
        outputs = [torch.from_numpy(value) for value in session.run(None, feeds)]
        return outputs if len(outputs) > 1 + len(states) else outputs[0]

    return run


def main() -> None:
    """Train, transform, verify, export and run both networks; print what came out."""
    warnings.filterwarnings("ignore", category=UserWarning)
    torch.manual_seed(0)
    console, table = Console(), Table(title=f"Digits, {TIME_STEPS} time steps, 360 test images")
    for column in ("network", "library", "snncompile", "onnxruntime", "file", "verification"):
        table.add_column(column)
    OUT.mkdir(exist_ok=True)
    for case in cases():
        start = time.perf_counter()
        train_x, test_x, train_y, test_y = digits(case.size)
        network = snncompile.transform(case.model, [], example_inputs=repeated(train_x[:2]))
        with console.status(f"training {case.name} through snncompile"):
            train(case, network, train_x, train_y)
        case.model.eval()
        fused = snncompile.transform(case.model, "fuse-batchnorm")
        report = snncompile.verify(case.model, network.eval(), repeated(test_x[:32]))
        console.print(f"[bold]{case.name}[/bold], {time.perf_counter() - start:.0f} s\n{report}\n")
        written = snncompile.export(
            fused, OUT / f"{case.name.split()[0].lower()}.onnx", example_inputs=repeated(test_x[:2])
        )
        case.reset(case.model)
        fused.reset()
        runs = (case.model, fused, in_onnxruntime(Path(written.path)))
        found = [f"{accuracy(case, run, test_x, test_y):.1%}" for run in runs]
        verdict = "equal" if report.ok else f"{report.moved} spikes moved"
        table.add_row(case.name, *found, f"{written.bytes / 1024:.0f} KiB", verdict)
    console.print(table)


if __name__ == "__main__":
    main()
