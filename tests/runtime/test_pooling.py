"""Pooling in a tile: by kernels, the same as in torch."""

# pyright: basic

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from snncompile.ir.program import Program
from snncompile.runtime import pooling
from snncompile.runtime.schedule import Runner
from tests.programs import Step
from tests.runtime.plain_loop import plain_loop


def by_layer(layer: nn.Module) -> Program:
    step = Step(nn.ModuleDict({"pool": layer}))
    return step.program(step.module("pool", step.input("x", 3, 6, 6)))


def by_function(*arguments: object) -> Program:
    step = Step(nn.Module())
    return step.program(step.call(functional.max_pool2d, step.input("x", 3, 6, 6), *arguments))


@pytest.fixture(autouse=True)
def however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels pool maps of any size here."""
    monkeypatch.setattr(pooling, "WORTH_A_KERNEL", 1)


PROGRAMS = {
    "max": lambda: by_layer(nn.MaxPool2d(2)),
    "mean": lambda: by_layer(nn.AvgPool2d((2, 3))),
    "overlapping": lambda: by_layer(nn.MaxPool2d(3, 1)),
    "function": lambda: by_function(2),
    "function with a stride": lambda: by_function(2, 2),
    "function that overlaps": lambda: by_function(3, 1),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("switch", ["on", "off"])
def test_every_schedule_pools_the_same(
    name: str, switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNNCOMPILE_KERNELS", switch)
    program = PROGRAMS[name]()
    x = torch.randn(5, 2, 3, 6, 6)

    for schedule in ("steps", "layers", 2):
        found, _ = Runner(program, schedule).run((x,), (), 5)

        torch.testing.assert_close(found, plain_loop(program, (x,), (), 5).outputs, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "kernels"), [("max", 1), ("function", 1), ("overlapping", 0)])
def test_windows_side_by_side_are_pooled_by_a_kernel(
    name: str, kernels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def counted(x: Tensor, *window: Any) -> list[Tensor]:
        called.append(name)
        made: list[Tensor] = real(x, *window)
        return made

    real = torch.ops.snncompile.window_pool
    monkeypatch.setattr("snncompile.kernels.pooling.window_pool", counted)

    Runner(PROGRAMS[name](), "layers").run((torch.randn(5, 2, 3, 6, 6),), (), 5)

    assert len(called) == kernels


def test_a_layers_settings_may_change_between_calls() -> None:
    program = by_layer(nn.MaxPool2d(2))
    runner, x = Runner(program, "layers"), torch.randn(5, 2, 3, 6, 6)
    runner.run((x,), (), 5)

    pool = program.root.get_submodule("pool")
    pool.kernel_size = pool.stride = 3  # type: ignore[assignment]
    (found,), _ = runner.run((x,), (), 5)

    assert found.shape == (5, 2, 3, 2, 2)
