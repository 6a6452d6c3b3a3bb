"""Trains a small network with binary weights on moving digits, and exports one time step of it.

scikit-learn's handwritten digits drift over a field of 16 x 16 pixels. The file returns, besides
the scores of the step, the spikes of every layer, so that a page can draw them.
Usage: python examples/browser/train.py [folder for net.onnx]
"""

# pyright: basic

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.utils import parametrize

import snncompile
from snncompile.ir.quantised import binarized
from snncompile.nn import LIF, LeakyIntegrator, reset

STEPS, SIZE, DIGIT = 12, 16, 12
INK = 0.5
"""From which intensity on a pixel counts as drawn."""

EPOCHS, BATCH = 30, 64


class Binary(nn.Module):
    """A weight as its signs, times their mean size in every output channel."""

    def forward(self, weight: Tensor) -> Tensor:
        """The binary weight, with a gradient that goes straight through."""
        return binarized(weight, axis=0)


class MovingDigits(nn.Module):
    """Two convolutions and two linear layers; the two in the middle have binary weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.lif1 = nn.Conv2d(1, 8, 3, stride=2, padding=1), LIF(decay=0.75)
        self.conv, self.lif2 = nn.Conv2d(8, 16, 3, stride=2, padding=1), LIF(decay=0.75)
        self.hidden, self.lif3 = nn.Linear(256, 64), LIF(decay=0.75)
        self.head, self.scores = nn.Linear(64, 10), LeakyIntegrator(decay=0.875)
        for layer in (self.conv, self.hidden):
            parametrize.register_parametrization(layer, "weight", Binary())

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Scores and three layers' spikes of every step, for frames [T, N, 1, 16, 16]."""
        scores, first, second, third = [], [], [], []
        for frame in frames:
            first.append(self.lif1(self.stem(frame)))
            second.append(self.lif2(self.conv(first[-1])))
            third.append(self.lif3(self.hidden(second[-1].flatten(1))))
            scores.append(self.scores(self.head(third[-1])))
        return tuple(torch.stack(values) for values in (scores, first, second, third))


def moving(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images [N, 1, 12, 12] that drift across the field: [T, N, 1, 16, 16]."""
    count, room = len(images), SIZE - DIGIT
    frames = torch.zeros(STEPS, count, 1, SIZE, SIZE)
    start = torch.randint(room + 1, (count, 2), generator=generator)
    speed = torch.randint(-1, 2, (count, 2), generator=generator)
    for n in range(count):
        for step in range(STEPS):
            top, left = ((start[n] + speed[n] * (step // 2)) % (room + 1)).tolist()
            frames[step, n, :, top : top + DIGIT, left : left + DIGIT] = images[n]
    return frames


def digits() -> tuple[Tensor, Tensor]:
    """Images of zeros and ones, as a mouse draws them, [1797, 1, 12, 12], and labels."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    drawn = (nn.functional.interpolate(x, size=DIGIT, mode="bilinear") > INK).float()
    return drawn, torch.tensor(labels)


def interface(file: Path) -> dict[str, Any]:
    """Names and shapes for a batch of one: browsers do not show a file's metadata."""
    model = onnx.load(file)
    about = {item.key: item.value for item in model.metadata_props}
    shapes = {
        value.name: [size.dim_value or 1 for size in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    states = [{**state, "dims": shapes[state["input"]]} for state in json.loads(about["states"])]
    names = [value.name for value in model.graph.output]
    return {
        "input": model.graph.input[0].name,
        "states": states,
        "outputs": names[: len(names) - len(states)],
    }


def main(folder: Path) -> None:
    """Train, test, export."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    images, labels = digits()
    order = torch.randperm(len(images), generator=generator)
    train, test = order[:-360], order[-360:]
    model = MovingDigits()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(EPOCHS):
        for batch in train[torch.randperm(len(train))].split(BATCH):
            optimizer.zero_grad()
            reset(model)
            scores = model(moving(images[batch], generator))[0][-1]
            nn.functional.cross_entropy(scores, labels[batch]).backward()
            optimizer.step()
    frames = moving(images[test], generator)
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"weights": "binary", "form": "step"}
    reset(model)
    report = snncompile.export(
        model.eval(), folder / "net.onnx", example_inputs=frames[:, :8], **settings
    )
    (folder / "states.json").write_text(json.dumps(interface(folder / "net.onnx")))
    scores = snncompile.Deployed(folder / "net.onnx").run(frames)[0][-1]
    right = (torch.from_numpy(scores).argmax(1) == labels[test]).float().mean()
    print(report)
    print(f"{right:.1%} of 360 moving test digits right, from the file in onnxruntime")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/browser"))
