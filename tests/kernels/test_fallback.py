"""Where there is no kernel, a scan is the loop that defines it."""

# pyright: basic

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from snncompile.ir import neurons
from snncompile.ir.surrogates import Surrogate
from snncompile.kernels import build
from snncompile.kernels.scan import FusedScan
from snncompile.runtime.scan import NeuronScan
from tests.kernels.comparison import assert_agree, fused, looped, operands
from tests.kernels.test_operators import LIF


def no_kernel(neuron: Callable[..., Any], *given: Tensor, **settings: Any) -> bool:
    current, *states = given
    return FusedScan(neuron, tuple(settings.items()))(current, tuple(states), (), (0,)) is None


def test_half_precision_runs_as_a_loop() -> None:
    current, membrane = operands(1, 4, 3, grad=False)
    expected = looped(neurons.lif, current.bfloat16(), (membrane.bfloat16(),), LIF, (0,))

    neuron = NeuronScan(neurons.lif, tuple(LIF.items()))
    found = neuron(current.bfloat16(), (membrane.bfloat16(),), (), (0,))

    assert no_kernel(neurons.lif, current.bfloat16(), membrane.bfloat16(), **LIF)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_two_dtypes_run_as_a_loop() -> None:
    assert no_kernel(neurons.lif, torch.rand(4, 3), torch.zeros(3, dtype=torch.float64), **LIF)


def test_a_state_that_broadcasts_runs_as_a_loop() -> None:
    assert no_kernel(neurons.lif, torch.rand(4, 2, 3), torch.zeros(3), **LIF)


def test_the_switch_turns_kernels_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNNCOMPILE_KERNELS", "off")

    assert no_kernel(neurons.lif, torch.rand(4, 3), torch.zeros(3), **LIF)


@pytest.mark.parametrize("rough", [torch.exp, torch.tanh, torch.sqrt])
def test_spikes_that_hang_on_rough_functions_run_as_a_loop(
    rough: Callable[[Tensor], Tensor],
) -> None:
    def neuron(current: Tensor, membrane: Tensor) -> tuple[Tensor, Tensor]:
        return rough(current), membrane

    assert no_kernel(neuron, torch.rand(4, 3), torch.zeros(3))


NOT_ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "mixes elements": lambda x: x.sum() + x,
    "draws numbers": lambda x: x + torch.rand_like(x),
    "moves elements": lambda x: x.roll(1, 0),
    "changes its operand": lambda x: x.add_(1.0),
    "leaves the dtype": lambda x: (2.0 * x.double()).float(),
    "counts": lambda x: x.int().float(),
    "holds a tensor": lambda x: x * torch.tensor([1.0, 2.0, 3.0]),
    "branches": lambda x: x if bool(x.sum() > 0) else -x,
}


@pytest.mark.parametrize("what", NOT_ELEMENTWISE)
def test_steps_that_are_not_elementwise_run_as_a_loop(what: str) -> None:
    def neuron(current: Tensor, membrane: Tensor) -> tuple[Tensor, Tensor]:
        return NOT_ELEMENTWISE[what](current), membrane

    assert no_kernel(neuron, torch.rand(4, 3), torch.zeros(3))


def test_a_step_that_changes_its_own_values_in_place_has_a_kernel() -> None:
    def neuron(current: Tensor, membrane: Tensor) -> tuple[Tensor, Tensor]:
        charged = membrane + current
        charged.mul_(0.5).masked_fill_(charged < 0, 0.25)
        return charged, charged

    assert_agree(neuron, operands(1, 4, 30, grad=False), {})


class Spike(torch.autograd.Function):
    """A surrogate of the user's own."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor, alpha: float) -> Tensor:
        ctx.save_for_backward(distance)
        ctx.alpha = alpha
        return (distance > 0).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (distance,) = ctx.saved_tensors
        return gradients[0] / (1 + ctx.alpha * distance.abs()) ** 2, None


def test_forward_mode_autograd_runs_as_a_loop() -> None:
    neuron = NeuronScan(neurons.integrator, (("charge", neurons.Decay(0.5)),))
    current = torch.rand(3, 2)

    with forward_ad.dual_level():
        dual = forward_ad.make_dual(current, torch.ones_like(current))  # type: ignore[no-untyped-call]
        outputs = neuron(dual, (torch.zeros(2),), (), (0,))[0][0]
        tangent = forward_ad.unpack_dual(outputs).tangent  # type: ignore[no-untyped-call]

    assert tangent is not None
    assert torch.equal(tangent[:, 0], torch.tensor([1.0, 1.5, 1.75]))


def test_torch_func_runs_as_a_loop() -> None:
    neuron = NeuronScan(neurons.lif, tuple(LIF.items()))
    current, membrane = operands(1, 4, 3, grad=False)

    def total(current: Tensor) -> Tensor:
        return neuron(current, (membrane,), (), (0,))[0][0].sum()  # type: ignore[union-attr]

    gradient = torch.func.grad(total)(current)
    batched = torch.func.vmap(total)(torch.stack((current, current + 1)))

    leaf = current.clone().requires_grad_()
    assert torch.equal(gradient, torch.autograd.grad(total(leaf), leaf)[0])
    assert torch.equal(batched, torch.stack((total(current), total(current + 1))))


def test_a_surrogate_of_the_users_own_has_a_kernel() -> None:
    surrogate = Surrogate("function", (10.0,), Spike)

    assert_agree(
        neurons.lif, operands(1, 6, 40, dtype=torch.float32), {**LIF, "surrogate": surrogate}
    )


def test_settings_that_compare_equal_have_kernels_of_their_own() -> None:
    current, membrane = operands(1, 4, 30)

    for charge in (neurons.Integrate(), neurons.Charged(), neurons.Decay(1), neurons.Decay(1.0)):
        assert_agree(neurons.lif, [current, membrane], {**LIF, "charge": charge})


def test_without_a_compiler_scans_are_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "there-is-no-such-compiler")
    build._compiler.cache_clear()
    settings = {**LIF, "threshold": 0.123}

    assert no_kernel(neurons.lif, torch.rand(4, 3), torch.zeros(3), **settings)
    monkeypatch.undo()
    build._compiler.cache_clear()


def test_a_compiler_that_fails_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    build._compiler.cache_clear()
    settings = {**LIF, "threshold": 0.1234}

    with pytest.warns(RuntimeWarning, match="scans run as loops"):
        assert no_kernel(neurons.lif, torch.rand(4, 3), torch.zeros(3), **settings)

    assert no_kernel(neurons.lif, torch.rand(4, 3), torch.zeros(3), **settings)
    monkeypatch.undo()
    build._compiler.cache_clear()


def test_the_next_run_has_the_kernel_of_the_first() -> None:
    current, membrane = operands(1, 4, 30)
    first = fused(neurons.lif, current, (membrane,), LIF, (0,))

    again = fused(neurons.lif, current, (membrane,), LIF, (0,))

    torch.testing.assert_close(again, first, rtol=0, atol=0)
