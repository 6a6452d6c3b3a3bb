"""Sums over events against dense products in float64, which is the reference."""

# pyright: basic

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from snncompile.errors import SnncompileError
from snncompile.ir.events import Events
from snncompile.kernels import build, event_costs, library
from snncompile.kernels.event_operators import event_linear

SHAPES = [(1, 1, 1), (3, 5, 7), (300, 513, 65), (1030, 257, 200), (700, 64, 128), (260, 1000, 10)]
"""Rows, inputs, outputs: below and above a panel's width, a block's depth and a span's length."""

ROUNDING = {torch.float32: 2e-6, torch.float64: 4e-15}
"""Of a sum, relative to the sum of its absolute values."""


def operands(shape: tuple[int, int, int], dtype: torch.dtype, *, dyadic: bool) -> list[Tensor]:
    """Spikes, weight, bias and the gradient of the product."""
    rows, inputs, outputs = shape
    spikes = (torch.rand(rows, inputs) < 0.1).to(dtype)
    spikes[rows // 2] = 0
    others = [torch.randn(*size, dtype=dtype) for size in ((outputs, inputs), (outputs,))]
    others.append(torch.randn(rows, outputs, dtype=dtype))
    return [spikes, *((other * 16).round() / 16 if dyadic else other for other in others)]


def gradients(way: Any, given: list[Tensor]) -> list[Tensor]:
    """The product and its gradients by spikes, weight and bias."""
    *leaves, upstream = given
    fresh = [leaf.detach().requires_grad_() for leaf in leaves]
    out = way(*fresh)
    return [out, *torch.autograd.grad(out, fresh, upstream)]


def added(spikes: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = event_linear(spikes, weight, bias, 1.0, -1)[0]
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sums_of_dyadic_numbers_have_the_bits_of_the_dense_product(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    given = operands(shape, dtype, dyadic=True)

    torch.testing.assert_close(gradients(added, given), gradients(linear, given), rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sums_are_those_of_float64_up_to_rounding(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    given = operands(shape, dtype, dyadic=False)
    precise = [value.double() for value in given]
    expected = gradients(linear, precise)
    scales = gradients(linear, [value.abs() for value in precise])

    for found, wanted, scale in zip(gradients(added, given), expected, scales, strict=True):
        assert ((found - wanted).abs() <= ROUNDING[dtype] * scale).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit(count: int) -> None:
    given = operands((3000, 300, 200), torch.float32, dyadic=False)
    expected = gradients(added, given)

    torch.set_num_threads(count)
    found = gradients(added, given)

    torch.set_num_threads(1)
    torch.testing.assert_close([found[0], found[2]], [expected[0], expected[2]], rtol=0, atol=0)


def test_spikes_of_another_size_scale_the_sums() -> None:
    given = operands((100, 70, 40), torch.float32, dyadic=True)
    given[0] = given[0] * 0.25

    torch.testing.assert_close(gradients(added, given), gradients(linear, given), rtol=0, atol=0)


@pytest.mark.parametrize("what", ["silent", "all active", "two sizes", "not finite"])
def test_unusual_inputs(what: str) -> None:
    given = operands((50, 33, 9), torch.float64, dyadic=True)
    match what:
        case "silent":
            given[0].zero_()
        case "all active":
            given[0].fill_(1)
        case "two sizes":
            given[0][7, 3] = 2
        case _:
            given[0][7, 3] = float("inf")

    torch.testing.assert_close(
        gradients(added, given), gradients(linear, given), rtol=0, atol=0, equal_nan=True
    )


def test_operands_that_are_not_contiguous() -> None:
    spikes, weight, bias, upstream = operands((64, 40, 24), torch.float64, dyadic=True)
    given = [spikes.t().contiguous().t(), weight.t().contiguous().t(), bias]
    strided = [*given, upstream.t().contiguous().t()]

    expected = gradients(linear, strided)

    torch.testing.assert_close(gradients(added, strided), expected, rtol=0, atol=0)


def test_no_bias_and_gradients_of_a_part() -> None:
    spikes, weight, _, upstream = operands((64, 40, 24), torch.float64, dyadic=True)
    weight.requires_grad_()

    found = torch.autograd.grad(added(spikes, weight, None), weight, upstream)

    assert torch.equal(found[0], torch.autograd.grad(linear(spikes, weight), weight, upstream)[0])


@pytest.mark.parametrize("share", [0.02, 0.9])
def test_the_operator_satisfies_torchs_own_checks(share: float) -> None:
    spikes = (torch.rand(30, 20) < share).double()
    weight, bias = torch.randn(10, 20, dtype=torch.float64), torch.randn(10, dtype=torch.float64)
    given = (spikes, weight.requires_grad_(), bias.requires_grad_(), 0.5, -1)

    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.snncompile.event_linear.default, given, test_utils=checks)


@pytest.mark.parametrize("below", [1.0, None])
def test_torch_compile_runs_it_whole(below: float | None) -> None:
    given = operands((300, 70, 40), torch.float32, dyadic=True)

    def twice(spikes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        found: Tensor = event_linear(spikes, weight, bias, below, -1)[0]
        return found * 2

    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")

    torch.testing.assert_close(gradients(compiled, given), gradients(twice, given), rtol=0, atol=0)


def test_what_was_measured_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_costs, "_known", {})
    seen = Events()
    spikes, weight, bias, _ = operands((400, 300, 128), torch.float32, dyadic=True)
    dense = linear(spikes, weight, bias)

    for row, unit, by_events in ((1.0, 1e-15, True), (1e-15, 1.0, False)):
        event_linear(spikes, weight, bias, None, seen.number)
        for costs in event_costs._known.values():
            costs.row, costs.unit = row, unit
        found = event_linear(spikes, weight, bias, None, seen.number)[0]
        assert seen.by_events is by_events
        assert seen.rate == pytest.approx(0.1, abs=0.02)
        assert torch.equal(found, dense)


def test_a_share_above_the_limit_is_multiplied() -> None:
    seen = Events()
    spikes, weight, bias, _ = operands((400, 300, 16), torch.float32, dyadic=False)

    found = event_linear(spikes, weight, bias, 0.01, seen.number)[0]

    assert not seen.by_events
    assert torch.equal(found, linear(spikes, weight, bias))


def test_a_forward_by_events_keeps_bits() -> None:
    spikes, weight, bias, _ = operands((400, 300, 16), torch.float32, dyadic=False)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        added(spikes, weight.requires_grad_(), bias)

    beside = [tensor for tensor in kept if tensor.shape != weight.shape]
    assert sum(tensor.nbytes for tensor in beside) <= spikes.nbytes / 25


def test_a_second_derivative_is_refused() -> None:
    spikes, weight, bias, _ = operands((40, 30, 16), torch.float32, dyadic=False)
    weight.requires_grad_()
    scale = torch.ones((), requires_grad=True)

    out = added(spikes, weight, bias) * scale
    (found,) = torch.autograd.grad(out.square().sum(), weight, create_graph=True)

    with pytest.raises(SnncompileError, match="no second derivative"):
        torch.autograd.grad(found.sum(), scale)


def test_without_a_compiler_products_are_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "there-is-no-such-compiler")
    build._compiler.cache_clear()
    library._compiled.cache_clear()
    given = operands((300, 70, 40), torch.float32, dyadic=False)

    torch.testing.assert_close(gradients(added, given), gradients(linear, given), rtol=0, atol=0)

    monkeypatch.undo()
    build._compiler.cache_clear()
    library._compiled.cache_clear()


def test_a_compiler_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    build._compiler.cache_clear()
    library._compiled.cache_clear()
    spikes, weight, bias, _ = operands((30, 7, 4), torch.float32, dyadic=False)

    with pytest.warns(RuntimeWarning, match="spikes are treated as numbers"):
        found = added(spikes, weight, bias)

    assert torch.equal(found, linear(spikes, weight, bias))
    monkeypatch.undo()
    build._compiler.cache_clear()
    library._compiled.cache_clear()
