# pyright: basic
"""Neurons of snnTorch in every option, and how the tests drive them."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any, TypeAlias

import snntorch
import torch
from torch import Tensor

from snncompile.frontends.snntorch import FRONTEND
from snncompile.frontends.snntorch_neurons import states_of
from tests.frontends.eager import EagerLowering

snn: Any = snntorch
"""Without types: checkers take those of its default values, such as bool for a decay."""
Neuron: TypeAlias = Any
"""A neuron of snnTorch."""
Make: TypeAlias = Callable[[], Neuron]

TIME, BATCH, WIDTH = 14, 5, 6
RESETS = ("subtract", "zero", "none")
DELAYED: dict[str, Callable[..., Any]] = {
    "leaky": lambda **options: snn.Leaky(0.9, **options),
    "synaptic": lambda **options: snn.Synaptic(0.5, 0.8, **options),
    "rleaky": lambda **options: snn.RLeaky(0.9, V=-0.4, all_to_all=False, **options),
    "rsynaptic": lambda **options: snn.RSynaptic(0.5, 0.8, V=-0.4, all_to_all=False, **options),
}
LEARNED = {"learn_beta": True, "learn_threshold": True, "threshold": 0.75}
OPTIONS: dict[str, Make] = {
    "lapicque subtract": lambda: snn.Lapicque(0.5, R=3.0),
    "lapicque zero": lambda: snn.Lapicque(R=5.1, C=3e-1, time_step=0.7, reset_mechanism="zero"),
    "lapicque none": lambda: snn.Lapicque(0.6, R=2.3, reset_mechanism="none"),
    "leaky learned": lambda: snn.Leaky(torch.linspace(0.2, 1.2, WIDTH), **LEARNED),
    "leaky learned at once": lambda: snn.Leaky(
        torch.linspace(-0.2, 0.9, WIDTH), reset_delay=False, **LEARNED
    ),
    "leaky graded": lambda: snn.Leaky(
        0.9, graded_spikes_factor=0.7, learn_graded_spikes_factor=True, reset_delay=False
    ),
    "leaky graded vector": lambda: snn.Leaky(
        0.9, graded_spikes_factor=torch.linspace(0.5, 2, WIDTH), learn_graded_spikes_factor=True
    ),
    "leaky thresholds": lambda: snn.Leaky(0.9, torch.linspace(0.3, 1.5, WIDTH)),
    "synaptic learned": lambda: snn.Synaptic(
        torch.linspace(0.2, 0.6, WIDTH), 0.7, learn_alpha=True, **LEARNED
    ),
    "rleaky learned": lambda: snn.RLeaky(
        0.8, V=torch.linspace(-0.5, 0.5, WIDTH), all_to_all=False, **LEARNED
    ),
    "rsynaptic learned": lambda: snn.RSynaptic(
        0.4, 0.8, V=0.2, all_to_all=False, learn_alpha=True, reset_mechanism="zero", **LEARNED
    ),
}
OPTIONS |= {
    f"{name} {reset} {'later' if delay else 'at once'}": partial(
        make, reset_mechanism=reset, reset_delay=delay
    )
    for (name, make), reset, delay in product(DELAYED.items(), RESETS, (True, False))
}
ALL_TO_ALL: dict[str, Make] = {
    "rleaky linear": lambda: snn.RLeaky(0.9, linear_features=WIDTH),
    "rleaky linear zero": lambda: snn.RLeaky(0.9, linear_features=WIDTH, reset_mechanism="zero"),
    "rsynaptic linear": lambda: snn.RSynaptic(0.5, 0.9, linear_features=WIDTH),
}


def currents(dtype: torch.dtype = torch.float32, shape: Sequence[int] = (WIDTH,)) -> Tensor:
    """Random currents, [T, N, ...]."""
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(TIME, BATCH, *shape, generator=generator, dtype=torch.float64)
    return (values * 1.7 - 0.45).to(dtype)


def made(make: Make, dtype: torch.dtype = torch.float32) -> Neuron:
    """A neuron with reproducible weights."""
    torch.manual_seed(0)
    return make().to(dtype)


def lowered(neuron: Neuron, lowering: EagerLowering) -> Callable[..., Any]:
    """What the frontend emits for a neuron, as a function, from the start of a capture on."""
    FRONTEND.begin(neuron)
    return lambda *args, **kwargs: FRONTEND.lower(neuron, lowering, *args, **kwargs)


def explicit(call: Callable[..., Any], neuron: Neuron, inputs: Tensor) -> list[tuple[Tensor, ...]]:
    """Every step's (spikes, states...), the states passed by hand from zeros."""
    states = [torch.zeros_like(inputs[0]) for _ in states_of(neuron)]
    outputs = []
    for current in inputs:
        outputs.append(call(current, *states))
        states = outputs[-1][-len(states) :]
    return outputs


def assert_fires(spikes: Tensor) -> None:
    """Equality of spikes says nothing when none or all are there."""
    assert 0.05 < spikes.bool().double().mean() < 0.95


def assert_same(found: Sequence[Any], expected: Sequence[Any]) -> None:
    """Bit-equal spikes and states, with equal dtypes, at every step."""
    assert_fires(torch.stack([step[0].detach() for step in expected]))
    for step, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for value, reference in zip(ours, theirs, strict=True):
            assert value.dtype == reference.dtype
            assert torch.equal(value, reference), step


def gradients(call: Callable[..., Any], neuron: Neuron, inputs: Tensor) -> dict[str, Tensor]:
    """Gradients of a weighted sum of all outputs, by parameter name, and of the currents."""
    inputs = inputs.clone().requires_grad_()
    generator = torch.Generator().manual_seed(2)
    loss = torch.zeros((), dtype=inputs.dtype)
    for value in (value for step in explicit(call, neuron, inputs) for value in step):
        loss = loss + (value * torch.randint(1, 5, value.shape, generator=generator)).sum()
    torch.autograd.backward(loss)
    assert inputs.grad is not None
    return {"current": inputs.grad} | {n: p.grad for n, p in neuron.named_parameters()}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Equal up to `tolerance` times the largest entry of each expected tensor."""
    assert found.keys() == expected.keys()
    for name, reference in expected.items():
        difference = (found[name] - reference).abs().max()
        assert difference <= tolerance * reference.abs().max(), name


class Exact(torch.autograd.Function):
    """A spike function that stays in the membrane's dtype, as snnTorch's own do not."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (distance,) = ctx.saved_tensors
        return gradients[0].div((1 + 2 * distance.abs()) ** 2)
