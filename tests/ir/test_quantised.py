# pyright: basic
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from snncompile.ir.quantised import binarized, binary_parts, ternarized, ternary_parts
from tests.reference import quantised as reference

SUMMED = 1e-14
"""Relative, in float64: a mean is summed in another order."""


def weights(*shape: int) -> Tensor:
    """Some beyond 1 in size, some 0."""
    torch.manual_seed(0)
    values = torch.randn(shape, dtype=torch.float64)
    return torch.where(values.abs() < 0.1, torch.zeros_like(values), values)


@pytest.mark.parametrize("shape", [(3, 4), (5, 2, 3), (4, 3, 3, 3), (2, 3, 2, 2, 2)])
@pytest.mark.parametrize("axis", [0, 1])
def test_binary_weights_are_those_of_the_paper(shape: tuple[int, ...], axis: int) -> None:
    weight = weights(*shape)

    found = binarized(weight, axis=axis)

    expected = reference.binary(weight.numpy(), axis)
    np.testing.assert_allclose(found.numpy(), expected, rtol=SUMMED)


@pytest.mark.parametrize("shape", [(6, 8), (4, 3, 3, 3)])
@pytest.mark.parametrize("threshold", [0.25, 0.7, 1.0])
def test_ternary_weights_are_those_of_the_paper(shape: tuple[int, ...], threshold: float) -> None:
    weight = weights(*shape)

    found = ternarized(weight, axis=None, threshold=threshold)

    expected = reference.ternary(weight.numpy(), threshold)
    np.testing.assert_allclose(found.numpy(), expected, rtol=SUMMED)
    assert set(found.sign().flatten().tolist()) == {-1, 0, 1}


def test_ternary_weights_may_have_a_scale_per_channel() -> None:
    weight = weights(4, 3, 3, 3)

    found = ternarized(weight, axis=0)

    each = [reference.ternary(channel.numpy(), 0.7) for channel in weight]
    np.testing.assert_allclose(found.numpy(), np.stack(each), rtol=SUMMED)


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=12))
def test_any_weights_are_quantised_as_in_the_paper(values: list[float]) -> None:
    weight = torch.tensor([values], dtype=torch.float64)

    size = weight.abs().clamp(max=1)
    assume(not torch.isclose(size, 0.7 * size.mean(), rtol=SUMMED, atol=0).any())

    binary, ternary = binarized(weight, axis=0), ternarized(weight, axis=None)

    expected = reference.binary(weight.numpy(), 0), reference.ternary(weight.numpy(), 0.7)
    np.testing.assert_allclose(binary.numpy(), expected[0], rtol=SUMMED)
    np.testing.assert_allclose(ternary.numpy(), expected[1], rtol=SUMMED)


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_zero_counts_as_plus(zero: float) -> None:
    weight = torch.tensor([[zero, -1.0, 0.5]])

    assert binarized(weight, axis=0).tolist() == [[0.5, -0.5, 0.5]]


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = torch.zeros(2, 3)

    assert binarized(weight, axis=0).abs().sum() == 0
    assert ternarized(weight, axis=None).abs().sum() == 0


@pytest.mark.parametrize(
    "quantise",
    [lambda w: binarized(w, axis=0), lambda w: ternarized(w, axis=None)],
    ids=["binary", "ternary"],
)
def test_the_gradient_goes_straight_through_up_to_size_one(
    quantise: Callable[[Tensor], Tensor],
) -> None:
    weight = weights(4, 5)
    weight[0, :2] = torch.tensor([1.0, -1.0])
    gradient = torch.randn(4, 5, dtype=torch.float64)
    held = weight.clone().requires_grad_()

    (passed,) = torch.autograd.grad(quantise(held), held, gradient)

    expected = torch.from_numpy(reference.through(weight.numpy(), gradient.numpy()))
    assert 0 < (weight.abs() > 1).sum() < weight.numel()
    torch.testing.assert_close(passed, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_quantised_weight_is_exactly_its_scale_times_its_signs(dtype: torch.dtype) -> None:
    weight = weights(4, 3, 3, 3).to(dtype)

    signs, scale = binary_parts(weight, axis=0)
    kept, common = ternary_parts(weight, axis=None)

    assert set(signs.flatten().tolist()) == {-1, 1}
    assert set(kept.flatten().tolist()) == {-1, 0, 1}
    assert (scale.shape, common.shape) == ((4, 1, 1, 1), (1, 1, 1, 1))
    torch.testing.assert_close(binarized(weight, axis=0), scale * signs, rtol=0, atol=0)
    torch.testing.assert_close(ternarized(weight, axis=None), common * kept, rtol=0, atol=0)


def test_weights_are_quantised_under_vmap() -> None:
    stacked = weights(2, 3, 4)

    found = torch.vmap(lambda weight: binarized(weight, axis=0))(stacked)

    each = torch.stack([binarized(weight, axis=0) for weight in stacked])
    torch.testing.assert_close(found, each, rtol=0, atol=0)
