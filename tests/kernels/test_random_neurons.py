"""Whatever elementwise neuron is defined, its kernel computes what the definition says."""

# pyright: basic

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from snncompile.ir import neurons
from snncompile.ir.surrogates import DERIVATIVES, Surrogate, fire
from tests.kernels.comparison import assert_agree, operands
from tests.kernels.test_every_neuron import PARAMETERS

property_test = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

decimals = st.integers(-16, 16).map(lambda n: n / 10)
positive = st.integers(1, 20).map(lambda n: n / 10)
shapes = st.sampled_from([(1, 5), (4, 2, 3), (3, 70), (2, 1), (5, 3, 1, 2)])
dtypes = st.sampled_from([torch.float32, torch.float64])


@st.composite
def numbers(draw: st.DrawFn, values: st.SearchStrategy[float]) -> Any:
    """A setting: a number, or a learnable tensor to be cast and shaped (`made`)."""
    value = draw(values)
    return draw(st.sampled_from([value, ("learnable", value, draw(st.integers(0, 2)))]))


charges = st.one_of(
    st.just(neurons.Integrate()),
    st.builds(neurons.Decay, numbers(positive)),
    st.builds(neurons.Relax, numbers(positive), decimals),
    st.builds(neurons.Leak, numbers(positive), decimals),
    st.builds(neurons.RelaxRate, numbers(positive), decimals),
    st.builds(neurons.LeakRate, numbers(positive), decimals),
    st.builds(neurons.Euler, numbers(positive), numbers(decimals)),
    st.builds(neurons.EulerBox, numbers(positive), numbers(decimals)),
    st.builds(neurons.Blend, numbers(decimals), numbers(positive)),
)
resets = st.one_of(
    st.builds(neurons.Subtract, st.booleans()),
    st.builds(neurons.Hard, numbers(decimals), st.booleans()),
    st.just(neurons.Keep()),
)
surrogates = st.sampled_from(sorted(DERIVATIVES)).map(
    lambda name: Surrogate(name, PARAMETERS.get(name, (2.0,)))
)


def made(value: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    """A drawn setting, with tensors for what is learnable: of full, last or no axes."""
    if isinstance(value, tuple) and value[:1] == ("learnable",):
        sizes = ((), shape[-1:], shape)[value[2]]
        return torch.full(sizes, value[1], dtype=dtype, requires_grad=True)
    if isinstance(value, tuple) and not isinstance(value, Surrogate):
        return type(value)(*(made(item, shape, dtype) for item in value))
    return value


@property_test
@given(
    st.fixed_dictionaries(
        {
            "charge": charges,
            "threshold": numbers(positive),
            "reset": resets,
            "surrogate": surrogates,
            "strict": st.booleans(),
            "detach_membrane": st.booleans(),
        }
    ),
    shapes,
    dtypes,
    st.sets(st.integers(0, 1)),
)
def test_any_settings(
    drawn: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype, wanted: set[int]
) -> None:
    given = {name: made(value, shape[1:], dtype) for name, value in drawn.items()}

    assert_agree(neurons.lif, operands(1, *shape, dtype=dtype), given, sorted(wanted))


@settings(property_test, max_examples=8)  # its kernels take longer to build
@given(
    st.fixed_dictionaries(
        {
            "charge": charges,
            "threshold": numbers(positive),
            "reset": resets,
            "surrogate": surrogates,
            "rate": numbers(positive),
            "jump": numbers(decimals),
            "detach": st.booleans(),
        }
    ),
    shapes,
    dtypes,
    st.sets(st.integers(0, 2)),
)
def test_any_settings_of_a_neuron_with_two_states(
    drawn: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype, wanted: set[int]
) -> None:
    given = {name: made(value, shape[1:], dtype) for name, value in drawn.items()}

    assert_agree(neurons.adaptive_lif, operands(2, *shape, dtype=dtype), given, sorted(wanted))


class Operation(NamedTuple):
    """One operation of a random step, on values it has already."""

    function: Callable[..., Tensor]
    operands: tuple[int, ...]


UNARY: list[Callable[[Tensor], Tensor]] = [
    torch.neg, torch.abs, torch.relu, torch.square, torch.floor, torch.sign, Tensor.detach,
    lambda x: x**3, lambda x: x.clamp(-0.5, 1.5), lambda x: x.clamp(min=0.25), lambda x: 1 - x,
    lambda x: x / 3, lambda x: 0.3 * x, lambda x: x - 0.7,
    lambda x: 1 / (1 + x.abs()), lambda x: x.masked_fill(x < 0, 0.5), torch.round, torch.ones_like,
    lambda x: fire(x - 0.5, Surrogate("sigmoid", (4.0,)), strict=True),
]  # fmt: skip
BINARY: list[Callable[[Tensor, Tensor], Tensor]] = [
    torch.add, torch.sub, torch.mul, torch.maximum, torch.minimum,
    lambda x, y: torch.where(x > y, x, 0.5 * y), lambda x, y: x / (1 + y.abs()),
    lambda x, y: x * ((y > 0) & (x < 1)).to(x.dtype), lambda x, y: torch.add(x, y, alpha=-1),
]  # fmt: skip

steps = st.lists(
    st.one_of(
        st.builds(Operation, st.sampled_from(UNARY), st.tuples(st.integers(0, 30))),
        st.builds(
            Operation, st.sampled_from(BINARY), st.tuples(st.integers(0, 30), st.integers(0, 30))
        ),
    ),
    min_size=2,
    max_size=9,
)


def neuron_of(operations: list[Operation], states: int) -> Callable[..., tuple[Tensor, ...]]:
    """A neuron whose step is a list of operations; their last values are its results."""

    def neuron(current: Tensor, *before: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        values = [current, *before, scale * current]
        for function, chosen in operations:
            values.append(function(*(values[i % len(values)] for i in chosen)))
        return (values[-1], *(0.5 * value + 0.1 for value in values[-1 - states : -1]))

    return neuron


@property_test
@given(steps, st.integers(0, 3), shapes, dtypes, st.integers(0, 2))
def test_any_elementwise_step(
    operations: list[Operation], states: int, shape: tuple[int, ...], dtype: torch.dtype, kind: int
) -> None:
    scale = made(("learnable", 0.7, kind), shape[1:], dtype)
    neuron = neuron_of(operations, states)

    assert_agree(neuron, operands(states, *shape, dtype=dtype), {"scale": scale}, range(1 + states))
