"""Kernels of Triton in its interpreter: sizes, layouts, rounding, random steps, torch's operators."""

# pyright: basic

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from snncompile.ir import neurons
from snncompile.kernels import operators
from snncompile.runtime.scan import NeuronScan
from tests.kernels.comparison import assert_agree, fused, looped, operands
from tests.kernels.interpreter import interpreter as interpreter  # noqa: PLC0414
from tests.kernels.test_every_neuron import number
from tests.kernels.test_operators import LIF, layouts
from tests.kernels.test_random_neurons import Operation, dtypes, made, neuron_of, shapes, steps

pytestmark = pytest.mark.usefixtures("interpreter")

few_examples = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[
        HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture,
    ],
)  # fmt: skip


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_any_number_of_steps(steps: int) -> None:
    assert_agree(neurons.lif, operands(1, steps, 3, 5), LIF)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3), (33,), (517,)], ids=str)
def test_any_number_of_elements(shape: tuple[int, ...]) -> None:
    settings = {**LIF, "charge": neurons.Decay(number(0.5)), "threshold": number(0.9, *shape)}

    assert_agree(neurons.lif, operands(1, 3, *shape), settings)


@pytest.mark.parametrize("name", layouts(torch.zeros(4, 2, 3, 5, 6)))
def test_any_layout(name: str) -> None:
    current, membrane = operands(1, 4, 2, 3, 5, 6, grad=False)
    current = layouts(current)[name].detach().requires_grad_()
    bias = torch.rand(3, 1, 1, dtype=torch.float64, requires_grad=True)

    assert_agree(neurons.lif, [current, membrane], {**LIF, "threshold": bias}, (0, 1))


@pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)])
def test_gradients_are_computed_where_they_are_needed(needs: tuple[bool, bool]) -> None:
    given = operands(1, 4, 3)
    for value, need in zip(given, needs, strict=True):
        value.requires_grad_(need)
    decay = torch.tensor(0.5, dtype=torch.float64, requires_grad=needs == (False, False))

    assert_agree(neurons.lif, given, {**LIF, "charge": neurons.Decay(decay)})


@pytest.mark.parametrize("end", ["spikes", "membrane"])
def test_gradients_that_do_not_flow_in_are_zero(end: str) -> None:
    given = operands(1, 4, 35)
    found: list[tuple[Tensor, ...]] = []

    for scan in (fused, looped):
        (spikes, _), (membrane,) = scan(neurons.lif, given[0], given[1:], LIF, (0,))
        chosen = spikes if end == "spikes" else membrane
        found.append(torch.autograd.grad(chosen.sum(), given))

    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_truth_values_are_kept_as_bytes() -> None:
    def neuron(current: Tensor, membrane: Tensor) -> tuple[Tensor, Tensor]:
        charged = torch.where(membrane > 0.3, 0.25 * current, 3 * current)
        return charged, charged

    assert_agree(neuron, operands(1, 6, 40), {})

    kernel = list(operators._kernels.values())[-1]
    assert kernel.target.name == "triton"
    assert [node.meta["val"].dtype for node in kernel.sweeps.saved] == [torch.bool]


SPECIAL = [0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-3, -0.3, 2.0**23 + 1, 2.0**22 + 0.5, 1e30,
           2.0**52 + 1, -(2.0**51) - 0.5, float("inf"), float("-inf"), float("nan")]  # fmt: skip
EXACT: dict[str, Any] = {
    "round": torch.round, "floor": torch.floor, "ceil": torch.ceil, "trunc": torch.trunc,
    "neg": torch.neg, "abs": torch.abs, "sign": torch.sign, "relu": torch.relu,
    "thirds": lambda x: x / 3, "tenth": lambda x: x * 0.1,
    "inverse": lambda x: 1 / x, "square": torch.square, "clamp": lambda x: x.clamp(-0.5, 0.7),
    "minus zero": lambda x: torch.where(x > 0, x, -0.0), "infinite": lambda x: x + float("inf"),
    "maximum": lambda x: torch.maximum(x, 0.1 - x), "nothing": lambda x: x * float("nan"),
    "logic": lambda x: torch.where(~(x > 0) ^ (x < 1) | (x == 0.5) & (x != 2), x, 2 * x),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_bit_is_that_of_torch(dtype: torch.dtype) -> None:
    current = torch.cat((torch.tensor(SPECIAL), 3 * torch.randn(16))).to(dtype).reshape(1, -1)
    states = [torch.zeros_like(current[0])] * (len(EXACT) - 1)

    def neuron(current: Tensor, *before: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(current) for function in EXACT.values())

    results, _ = fused(neuron, current, states, {}, range(len(EXACT)))

    bits = torch.int32 if dtype == torch.float32 else torch.int64
    for (name, function), found in zip(EXACT.items(), results, strict=True):
        expected = function(current)
        same = (found.view(bits) == expected.view(bits)) | (found.isnan() & expected.isnan())
        assert bool(same.all()), name


@few_examples
@given(steps, st.integers(0, 3), shapes, dtypes, st.integers(0, 2))
def test_any_elementwise_step(
    operations: list[Operation], states: int, shape: tuple[int, ...], dtype: torch.dtype, kind: int
) -> None:
    scale = made(("learnable", 0.7, kind), shape[1:], dtype)
    neuron = neuron_of(operations, states)

    assert_agree(neuron, operands(states, *shape, dtype=dtype), {"scale": scale}, range(1 + states))


def test_gradients_through_torch_compile() -> None:
    neuron = NeuronScan(neurons.lif, tuple(LIF.items()))
    current, membrane = operands(1, 4, 3, 5)

    def step(current: Tensor, membrane: Tensor) -> Tensor:
        return neuron(2 * current, (membrane,), (), (0,))[0][0].sum(0)  # type: ignore[union-attr]

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")

    expected = torch.autograd.grad(step(current, membrane).sum(), (current, membrane))
    found = torch.autograd.grad(compiled(current, membrane).sum(), (current, membrane))
    assert all(map(torch.equal, found, expected))
