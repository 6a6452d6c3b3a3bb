# pyright: basic
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from snncompile.errors import ExportError
from snncompile.export import export_program
from snncompile.ir.program import Program
from tests.export.runtimes import File, of_function, run_torch
from tests.programs import Step, dyadic_

STEPS, BATCH = 3, 2
ROUNDING = 2e-6
"""Relative to the largest value: what another order of a sum of tens of terms, or another
approximation of a transcendental function, may change in float32."""


class Call(nn.Module):
    """One expression as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, y: Tensor) -> object:
        return self.function(x, y)


class Layer(nn.Module):
    """One layer, in eval mode, with dyadic parameters."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = dyadic_(layer, 4.0).eval()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result


WEIGHT = torch.linspace(-1, 1, 5 * 6).reshape(5, 6)
KERNEL = torch.linspace(-1, 1, 4 * 3 * 9).reshape(4, 3, 3, 3)

EXACT: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "add": lambda x, y: x + y,
    "add_scaled": lambda x, y: torch.add(x, y, alpha=2),
    "subtract": lambda x, y: 1 - x - y,
    "multiply": lambda x, y: x * y * 0.3,
    "divide": lambda x, y: x / (y + 3) / 7,
    "divided_by": lambda x, y: 2 / (x + 3) + y,
    "integers": lambda x, y: (x > y).sum(-1) / 3,
    "negate": lambda x, y: -x + y,
    "square": lambda x, y: x**2 + torch.square(y) + x.pow(2),
    "compare": lambda x, y: (x > y, x >= y, x < y, x <= y, x == y, x != y),
    "logic": lambda x, y: ((x > 0) & (y > 0)) | ~(x > 0.5) ^ (y < 0),
    "logical": lambda x, y: torch.logical_or(torch.logical_not(x), torch.logical_and(x, y)),
    "casts": lambda x, y: (x > y).float() + (x > 0).to(torch.float32) + y.to(x),
    "where": lambda x, y: torch.where(x > 0, x, 0.5) + torch.where(y > 0, 1.0, y),
    "masked": lambda x, y: x.masked_fill(y > 0, -1.0),
    "clamp": lambda x, y: x.clamp(-0.5, 0.5) + torch.clamp(y, min=0) + y.clamp(max=0.25),
    "extremes": lambda x, y: torch.maximum(x, y) - torch.minimum(x, y) + torch.max(x, y),
    "relu": lambda x, y: torch.relu(x) + functional.relu(y) + functional.relu6(x),
    "steps": lambda x, y: torch.round(x * 3) + torch.floor(y) + torch.ceil(y) + torch.sign(x),
    "magnitude": lambda x, y: x.abs() + torch.abs(y),
    "detach": lambda x, y: x.detach() + y,
    "fills": lambda x, y: torch.zeros_like(x) + torch.ones_like(y) + torch.full_like(x, 0.3),
    "reshape": lambda x, y: x.reshape(-1, 3, 2).flatten(1) + y.view(-1, 6),
    "axes": lambda x, y: x.unsqueeze(1).transpose(1, 2).squeeze(-1) + y[:, None].squeeze(1),
    "permute": lambda x, y: x.reshape(-1, 2, 3).permute(0, 2, 1).flatten(1) + y,
    "slices": lambda x, y: x[:, 1:5:2] + y[..., -2:] + x[:, 0:1],
    "picks": lambda x, y: x[:, 2] + y[..., -1],
    "joins": lambda x, y: torch.cat([x, y], 1) + torch.stack((x, y), dim=1).flatten(1),
    "chunks": lambda x, y: x.chunk(2, dim=1)[1] + torch.split(y, [3, 1, 2], dim=-1)[0],
    "pad": lambda x, y: functional.pad(x, (1, 2)) + functional.pad(y, (2, 1), value=0.5),
    "repeat": lambda x, y: x.repeat(1, 2) + torch.cat([y, y], -1),
    "reduce": lambda x, y: x.amax(1) + y.amin(-1, keepdim=True)[:, 0],
    "extreme": lambda x, y: x.max(1)[0] + torch.min(y, 1, keepdim=True)[0][:, 0],
    "positions": lambda x, y: (x.argmax(1), torch.argmin(y, 1)),
    "user_max": lambda x, y: x.max(1)[1].float() + y[:, 0],
}

ROUNDED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "sums": lambda x, y: x.sum(1) + torch.sum(y, dim=-1, keepdim=True)[:, 0],
    "means": lambda x, y: x.mean(1) + torch.mean(y, dim=(1,)),
    "softmax": lambda x, y: x.softmax(1) + torch.log_softmax(y, dim=-1),
    "functional_softmax": lambda x, y: functional.softmax(x, dim=1) + y,
    "cumulative": lambda x, y: x.cumsum(1) + y,
    "exponentials": lambda x, y: torch.exp(x) + torch.log(y.abs() + 1) + torch.sigmoid(x) + y.tanh(),
    "roots": lambda x, y: torch.sqrt(x.abs()) + y.abs() ** 0.5,
    "powers": lambda x, y: x.abs() ** 1.5 + torch.rsqrt(y.abs() + 1) + torch.reciprocal(y.abs() + 1),
    "waves": lambda x, y: torch.sin(x) + torch.cos(y) + torch.erf(x),
    "leaky": lambda x, y: functional.leaky_relu(x, 0.1) + functional.elu(y, 0.5),
    "smooth": lambda x, y: functional.silu(x) + functional.gelu(y) + functional.softplus(x * 9),
    "matmul": lambda x, y: x.reshape(-1, 2, 3) @ y.reshape(-1, 3, 2),
    "linear": lambda x, y: functional.linear(x, WEIGHT, torch.ones(5)) + y[:, :5],
}  # fmt: skip


def compare(program: Program, tmp_path: Path, tolerance: float, *values: Tensor) -> None:
    export_program(program, tmp_path / "step.onnx", form="step", check=values)
    export_program(program, tmp_path / "sequence.onnx", form="sequence", check=values)
    outputs, _ = run_torch(program, values, ())
    got = File(tmp_path / "sequence.onnx")(*values)
    steps = [File(tmp_path / "step.onnx")(*(v[t] for v in values)) for t in range(STEPS)]
    for i, by_step in enumerate(zip(*steps, strict=True)):
        wanted = torch.stack([made[i] for made in outputs]).numpy()
        for value in (got[i], np.stack(by_step)):
            assert value.dtype == wanted.dtype
            assert value.shape == wanted.shape
            scale = max(1.0, float(np.abs(wanted.astype(float)).max()))
            assert np.abs(value.astype(float) - wanted.astype(float)).max() <= tolerance * scale


def vectors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.randn(STEPS, BATCH, 6, generator=generator) for _ in range(2))
    y[:, :, 0] = x[:, :, 0]
    return x, y


@pytest.mark.parametrize("name", EXACT)
def test_elementwise_and_shape_functions_agree_bit_for_bit(name: str, tmp_path: Path) -> None:
    program = of_function(Call(EXACT[name]), (6,), (6,))

    compare(program, tmp_path, 0.0, *vectors())


@pytest.mark.parametrize("name", ROUNDED)
def test_sums_and_transcendental_functions_agree_up_to_rounding(name: str, tmp_path: Path) -> None:
    program = of_function(Call(ROUNDED[name]), (6,), (6,))

    compare(program, tmp_path, ROUNDING, *vectors())


LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(6, 4), (6,)),
    (nn.Linear(6, 4, bias=False), (3, 6)),
    (nn.Conv1d(2, 4, 3, stride=2, padding=1), (2, 9)),
    (nn.Conv2d(4, 6, (3, 2), padding=(1, 0), dilation=(2, 1), groups=2), (4, 8, 7)),
    (nn.Conv2d(2, 3, (3, 5), padding="same", bias=False), (2, 6, 6)),
    (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 6, 6)),
    (nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"), (2, 6, 6)),
    (nn.Conv3d(1, 2, 2), (1, 4, 4, 4)),
    (nn.ConvTranspose1d(2, 3, 3, stride=2), (2, 5)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 4, 4)),
    (nn.AvgPool1d(2), (2, 6)),
    (nn.AvgPool2d(2, stride=1, padding=1), (2, 5, 5)),
    (nn.AvgPool2d(2, padding=1, count_include_pad=False), (2, 4, 4)),
    (nn.MaxPool1d(2), (2, 6)),
    (nn.MaxPool2d(3, stride=2, padding=1), (2, 7, 7)),
    (nn.MaxPool2d(2, ceil_mode=True), (2, 6, 6)),
    (nn.AdaptiveAvgPool2d(1), (2, 4, 4)),
    (nn.AdaptiveAvgPool2d((2, None)), (2, 4, 4)),
    (nn.AdaptiveAvgPool2d((3, 6)), (2, 1, 2)),
    (nn.AdaptiveAvgPool2d(4), (2, 4, 4)),
    (nn.AdaptiveMaxPool2d(2), (2, 4, 4)),
    (nn.Upsample(scale_factor=2), (2, 3, 3)),
    (nn.Flatten(), (2, 3, 3)),
    (nn.Flatten(2), (2, 3, 3)),
    (nn.Identity(), (4,)),
    (nn.Dropout(0.5), (4,)),
    (nn.ReLU(), (4,)),
    (nn.Hardtanh(-0.5, 0.5), (4,)),
]  # fmt: skip
NORMS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.BatchNorm1d(4), (4,)),
    (nn.BatchNorm2d(3), (3, 4, 4)),
    (nn.BatchNorm2d(3, affine=False), (3, 4, 4)),
    (nn.BatchNorm3d(2), (2, 2, 2, 2)),
    (nn.LayerNorm(6), (6,)),
    (nn.LayerNorm([3, 4], elementwise_affine=False), (3, 4)),
    (nn.GroupNorm(2, 4), (4, 3, 3)),
    (nn.SiLU(), (4,)),
    (nn.GELU(), (4,)),
    (nn.LeakyReLU(0.2), (4,)),
    (nn.ELU(), (4,)),
    (nn.Sigmoid(), (4,)),
    (nn.Tanh(), (4,)),
    (nn.Softplus(), (4,)),
    (nn.ReLU6(), (4,)),
]


def described(case: object) -> str:
    return str(case).replace(" ", "").replace("(", "_").replace(")", "")


def layer_program(layer: nn.Module, shape: tuple[int, ...]) -> Program:
    step = Step(Layer(layer))
    return step.program(step.module("layer", step.input("x", *shape)))


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=described)
def test_layers_on_spikes_with_dyadic_weights_agree_bit_for_bit(
    layer: nn.Module, shape: tuple[int, ...], tmp_path: Path
) -> None:
    x = torch.randint(2, (STEPS, BATCH, *shape), generator=torch.Generator().manual_seed(1)).float()

    compare(layer_program(layer, shape), tmp_path, 0.0, x)


@pytest.mark.parametrize(("layer", "shape"), NORMS, ids=described)
def test_normalizations_and_smooth_layers_agree_up_to_rounding(
    layer: nn.Module, shape: tuple[int, ...], tmp_path: Path
) -> None:
    for buffer in layer.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    x = torch.randn(STEPS, BATCH, *shape, generator=torch.Generator().manual_seed(1))

    compare(layer_program(layer, shape), tmp_path, ROUNDING, x)


FUNCTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Any], tuple[int, ...]]] = {
    "conv2d": (lambda x, y: torch.conv2d(x, KERNEL, padding=1) + y[:, :1], (3, 4, 4)),
    "max_pool2d": (lambda x, y: functional.max_pool2d(x, 2) + y[..., :2, :2], (3, 4, 4)),
    "avg_pool2d": (lambda x, y: functional.avg_pool2d(x, 2) + y[..., :2, :2], (3, 4, 4)),
    "adaptive": (lambda x, y: functional.adaptive_avg_pool2d(x, 1) + y, (3, 4, 4)),
    "interpolate": (lambda x, y: functional.interpolate(x, scale_factor=2.0) + y[:, :, :1, :1], (3, 4, 2)),
    "dropout": (lambda x, y: functional.dropout(x, 0.5, training=False) + y, (3, 4, 4)),
    "batch_norm": (
        lambda x, y: functional.batch_norm(x, torch.zeros(3), torch.ones(3)) + y, (3, 4, 4)
    ),
    "layer_norm": (lambda x, y: functional.layer_norm(x, [4]) + y, (3, 4, 4)),
    "group_norm": (lambda x, y: functional.group_norm(x, 3) + y, (3, 4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_layers_called_as_functions_agree(name: str, tmp_path: Path) -> None:
    function, shape = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(2)
    values = [torch.randn(STEPS, BATCH, *shape, generator=generator) for _ in range(2)]

    compare(of_function(Call(function), shape, shape), tmp_path, ROUNDING, *values)


class Negated(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return -weight


def test_parametrized_weights_are_exported_as_the_layer_reads_them(tmp_path: Path) -> None:
    layer = nn.Linear(6, 4)
    parametrize.register_parametrization(layer, "weight", Negated())
    x = torch.randint(2, (STEPS, BATCH, 6), generator=torch.Generator().manual_seed(1)).float()

    compare(layer_program(layer, (6,)), tmp_path, 0.0, x)


def test_a_shared_layer_keeps_one_weight(tmp_path: Path) -> None:
    step = Step(Layer(nn.Linear(4, 4)))
    value = step.module("layer", step.module("layer", step.input("x", 4)))

    export_program(step.program(value), tmp_path / "net.onnx", form="step")

    assert (tmp_path / "net.onnx").read_bytes().count(b"layer.weight.transposed") == 3


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.MaxPool2d(2, ceil_mode=True), (2, 5, 5), "partial window"),
        (nn.AdaptiveAvgPool2d(3), (2, 4, 4), "windows of several sizes"),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 4, 4), "padding mode 'circular'"),
        (nn.GELU(approximate="tanh"), (4,), "approximate='none'"),
        (nn.PixelShuffle(2), (4, 2, 2), "PixelShuffle has no ONNX recipe"),
    ],
)  # fmt: skip
def test_what_has_no_exact_recipe_is_refused_with_the_layer(
    layer: nn.Module, shape: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    step = Step(Layer(layer))
    x = step.input("x", *shape)
    program = step.program(step.module("layer", x))

    with pytest.raises(ExportError, match=f"module layer.*{message}"):
        export_program(program, tmp_path / "net.onnx")

    assert list(tmp_path.iterdir()) == []
