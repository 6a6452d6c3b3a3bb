# pyright: basic
import math

import numpy as np
import pytest
import torch

from snncompile.ir.windows import Projection, Span, cut, project, stitch, windows
from tests.reference import one_step as reference

spans = pytest.mark.parametrize("span", ["half", "three-quarters"])

ROUNDING = 1e-15
"""Absolute, in float64, for values up to 2: sines of two libraries."""


@spans
@pytest.mark.parametrize("size", [(8, 8), (4, 12), (16, 4)])
def test_stitched_windows_are_the_map(span: Span, size: tuple[int, int]) -> None:
    values = torch.randn(3, 2, *size)
    places = windows(*size, span)

    stitched = stitch([cut(values, place) for place in places], places)

    torch.testing.assert_close(stitched, values, rtol=0, atol=0)


@spans
def test_windows_are_those_of_the_reference(span: Span) -> None:
    values = torch.randn(2, 8, 12, dtype=torch.float64)
    places = windows(8, 12, span)

    pieces = [cut(values[None], place)[0] for place in places]

    for piece, expected in zip(pieces, reference.cut(values.numpy(), span), strict=True):
        np.testing.assert_array_equal(piece.numpy(), expected)


@spans
def test_overlaps_are_averaged(span: Span) -> None:
    places = windows(8, 8, span)
    sides = (places[0].height, places[0].width)
    pieces = [torch.randint(0, 2, (1, 2, *sides)).double() for _ in places]

    stitched = stitch(pieces, places)[0]

    expected = reference.stitch([piece[0].numpy() for piece in pieces], 8, 8)
    np.testing.assert_array_equal(stitched.numpy(), expected)


def test_windows_of_half_the_sides_do_not_overlap() -> None:
    assert windows(4, 6, "half") == ((0, 0, 2, 3), (0, 3, 2, 3), (2, 0, 2, 3), (2, 3, 2, 3))


def test_windows_of_three_quarters_overlap_by_half_the_sides() -> None:
    assert windows(8, 4, "three-quarters") == (
        (0, 0, 6, 3),
        (0, 1, 6, 3),
        (2, 0, 6, 3),
        (2, 1, 6, 3),
    )


@pytest.mark.parametrize(("span", "side"), [("half", 7), ("three-quarters", 6)])
def test_a_side_without_windows_is_refused(span: Span, side: int) -> None:
    with pytest.raises(ValueError, match=f"map of {side}x8 has no windows of {span}"):
        windows(side, 8, span)


@pytest.mark.parametrize("projection", ["sine", "mean"])
def test_the_projection_is_that_of_the_reference(projection: Projection) -> None:
    a, b = torch.randn(2, 500, dtype=torch.float64) * 3

    found = project(a, b, projection)

    expected = torch.tensor(
        [reference.project(x, y, projection) for x, y in zip(a.tolist(), b.tolist(), strict=True)],
        dtype=torch.float64,
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)


def test_the_sine_projection_is_bounded_and_ignores_the_first_where_the_second_is_two() -> None:
    a = torch.linspace(-20, 20, 401, dtype=torch.float64)
    zero, two = torch.zeros_like(a), torch.full_like(a, 2.0)

    torch.testing.assert_close(project(a, zero, "sine"), 2 * torch.sin(math.pi / 4 * a))
    assert project(a, a, "sine").abs().max() <= 2
    assert project(zero, a, "sine").abs().max() == 0
    torch.testing.assert_close(project(a, two, "sine"), zero, rtol=0, atol=1e-14)


def test_the_sine_projection_has_slope_half_pi_in_the_first_and_none_in_the_second() -> None:
    a = torch.zeros((), dtype=torch.float64, requires_grad=True)
    b = torch.zeros((), dtype=torch.float64, requires_grad=True)

    found = torch.autograd.grad(project(a, b, "sine"), (a, b))

    assert found[0].item() == pytest.approx(math.pi / 2)
    assert found[1].item() == 0
