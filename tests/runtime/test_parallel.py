"""A lif over a sequence in blocks of time: the spikes and gradients of plain loops."""

# pyright: basic

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from snncompile.ir.certificates import Certificate
from snncompile.ir.charges import Charge, Decay, Integrate, LeakRate, Relax
from snncompile.ir.neurons import lif
from snncompile.ir.resets import Hard, Keep, Reset, Subtract
from snncompile.ir.surrogates import Surrogate
from snncompile.runtime.parallel import lif_over_time
from tests.reference import lif_over_time as loops

ROUNDING = 1e-11
"""Relative, in float64: products and sums in another order over up to 1000 steps."""


class Always(dict[Any, int]):
    """Every kind of call has been met, and this many blocks were fastest."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: Any) -> int:
        return self.blocks


def settings_of(charge: Charge, reset: Reset, **others: Any) -> dict[str, Any]:
    surrogate = Surrogate("atan", (2.0,))
    return {"charge": charge, "reset": reset, "threshold": 1.0, "surrogate": surrogate, **others}


def in_blocks(
    current: Tensor, membrane: Tensor, settings: dict[str, Any], blocks: int
) -> tuple[Tensor, Tensor, Certificate]:
    certificate = Certificate(ways=Always(blocks))
    options = tuple({**settings, "certificate": certificate}.items())
    done = lif_over_time(current, (membrane,), options)
    assert done is not None
    return done[0], done[1][0], certificate


def step_by_step(current: Tensor, membrane: Tensor, settings: dict[str, Any]) -> Any:
    fired = []
    for value in current:
        spikes, membrane = lif(value, membrane, **settings)
        fired.append(spikes)
    return torch.stack(fired), membrane


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("steps", [1, 50, 1000])
@pytest.mark.parametrize("blocks", [1, 6])
@pytest.mark.parametrize("hard", [False, True])
def test_spikes_are_those_of_a_plain_loop(
    dtype: torch.dtype, steps: int, blocks: int, hard: bool
) -> None:
    current = torch.randn(steps, 40, dtype=dtype) * 0.7
    settings = settings_of(Decay(0.7), Hard() if hard else Subtract())

    spikes, _, certificate = in_blocks(current, torch.zeros(40, dtype=dtype), settings, blocks)
    expected, _ = loops.spikes(current.numpy(), 0.7, 1.0, hard=hard)

    assert steps == 1 or 0.01 < expected.mean() < 0.5
    assert np.array_equal(spikes.numpy(), expected)
    assert steps < 1000 or certificate.sweeps == (2 if blocks > 1 else 1)


@pytest.mark.parametrize("blocks", [1, 6])
@pytest.mark.parametrize("hard", [False, True])
def test_gradients_are_those_worked_out_by_hand(blocks: int, hard: bool) -> None:
    current = (torch.randn(600, 8, dtype=torch.float64) * 0.7).requires_grad_()
    decay = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(600, 8, dtype=torch.float64)
    settings = settings_of(Decay(decay), Hard() if hard else Subtract())

    spikes, _, _ = in_blocks(current, torch.zeros(8, dtype=torch.float64), settings, blocks)
    found = torch.autograd.grad((spikes * upstream).sum(), (current, decay))
    by_hand = loops.gradient(current.detach().numpy(), upstream.numpy(), 0.7, 1.0, hard=hard)

    assert np.abs(by_hand[0]).sum() > 0
    np.testing.assert_allclose(found[0].numpy(), by_hand[0], rtol=ROUNDING, atol=ROUNDING)
    np.testing.assert_allclose(found[1].item(), by_hand[1], rtol=ROUNDING)


CASES: list[dict[str, Any]] = [
    *(settings_of(Decay(0.5), reset) for reset in (Subtract(), Subtract(detach=True), Hard(), Keep())),
    settings_of(Decay(0.5), Hard(detach=True), strict=True),
    settings_of(Decay(0.5), Subtract(), threshold=0.75),
    settings_of(Decay(0.5), Subtract(), detach_membrane=True),
    settings_of(Integrate(), Hard()),
    settings_of(Integrate(), Subtract()),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("blocks", [1, 4])
@pytest.mark.parametrize("settings", CASES, ids=range(len(CASES)))
def test_gradients_have_the_bits_that_autograd_gives(
    settings: dict[str, Any], blocks: int, dtype: torch.dtype
) -> None:
    current = torch.randn(300, 3, 5, dtype=dtype).requires_grad_()
    membrane = torch.full((3, 5), 0.25, dtype=dtype).requires_grad_()
    weights = torch.randn(301, 3, 5, dtype=dtype)

    found = []
    for run in (
        lambda: step_by_step(current, membrane, settings),
        lambda: in_blocks(current, membrane, settings, blocks)[:2],
    ):
        spikes, last = run()
        loss = (spikes * weights[:-1]).sum() + (last * weights[-1]).sum()
        inputs = (current, membrane)
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        found.append((spikes, last, *gradients))

    assert 0 < found[0][0].mean() < 1
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


class Steep(torch.autograd.Function):
    """A surrogate as users write it, that fires above the threshold only."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (distance,) = ctx.saved_tensors
        return grad_outputs[0] / (1 + 25 * distance.abs()) ** 2


@pytest.mark.parametrize("charge", ["relax", "rate"])
@pytest.mark.parametrize("reset", [Subtract(), Hard(0.25)], ids=str)
def test_learnable_settings_and_surrogates_of_the_user(charge: str, reset: Reset) -> None:
    learned = torch.tensor([0.5, 0.75, 0.6], dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    made = Relax(1 / learned) if charge == "relax" else LeakRate(learned)
    surrogate = Surrogate("function", (), Steep)
    settings = settings_of(made, reset, threshold=threshold, surrogate=surrogate)
    current = torch.randn(200, 4, 3, dtype=torch.float64).mul(1.5).requires_grad_()
    membrane = torch.zeros(4, 3, dtype=torch.float64)

    found = []
    for run in (
        lambda: step_by_step(current, membrane, settings),
        lambda: in_blocks(current, membrane, settings, 3)[:2],
    ):
        spikes, _ = run()
        loss = (spikes * torch.linspace(-1, 2, spikes.numel()).view_as(spikes)).sum()
        inputs = (current, learned, threshold)
        found.append((spikes, torch.autograd.grad(loss, inputs, retain_graph=True)))

    assert 0 < found[0][0].mean() < 1
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=0)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=ROUNDING, atol=ROUNDING)


def test_the_faster_way_is_measured_once() -> None:
    current, certificate = torch.randn(400, 4), Certificate()
    options = tuple(settings_of(Decay(0.5), Subtract(), certificate=certificate).items())

    for _ in range(2):
        lif_over_time(current, (torch.zeros(4),), options)
    lif_over_time(current[:200], (torch.zeros(4),), options)

    assert len(certificate.ways) == 2
    assert certificate.blocks in certificate.ways.values()


def test_without_a_certificate_or_in_half_precision_the_steps_run_one_by_one() -> None:
    current = torch.randn(10, 4)
    plain = tuple(settings_of(Decay(0.5), Subtract()).items())
    half = tuple(settings_of(Decay(0.5), Subtract(), certificate=Certificate()).items())

    assert lif_over_time(current, (torch.zeros(4),), plain) is None
    assert lif_over_time(current.half(), (torch.zeros(4).half(),), half) is None
