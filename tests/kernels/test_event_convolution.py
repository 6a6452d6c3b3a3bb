"""Convolutions by events against torch's in float64, which is the reference."""

# pyright: basic

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from snncompile.errors import SnncompileError
from snncompile.ir.events import Events
from snncompile.kernels import event_costs
from snncompile.kernels.event_convolution import event_convolution
from snncompile.kernels.event_patches import Strides, is_last

ROUNDING = {torch.float32: 4e-6, torch.float64: 8e-15}
"""Of a sum, relative to the sum of its absolute values."""

FORMS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
DTYPES = [torch.float32, torch.float64]


class Sizes(NamedTuple):
    """Of a map, a kernel, and how it moves."""

    spikes: tuple[int, int, int, int]
    outputs: int
    kernel: tuple[int, int]
    strides: Strides

    def __str__(self) -> str:
        return f"{self.spikes}-{self.outputs}-{self.kernel}-{[*sum(self.strides, ())]}"


def sizes(
    spikes: tuple[int, int, int, int], outputs: int, kernel: Any, *strides: tuple[int, int]
) -> Sizes:
    plain = ((1, 1), (0, 0), (1, 1))
    return Sizes(spikes, outputs, kernel, Strides(*strides, *plain[len(strides) :]))


CASES = [
    sizes((1, 1, 1, 1), 1, (1, 1)),
    sizes((1, 3, 7, 5), 10, (3, 3), (1, 1), (1, 1)),
    sizes((3, 65, 6, 6), 7, (3, 3), (2, 2), (1, 1)),
    sizes((2, 128, 9, 8), 130, (1, 1), (2, 1)),
    sizes((2, 20, 13, 11), 64, (5, 5), (1, 1), (2, 2)),
    sizes((2, 70, 12, 12), 24, (5, 3), (2, 1), (3, 0), (1, 2)),
    sizes((2, 64, 8, 8), 65, (3, 3), (1, 1), (4, 4), (3, 3)),
    sizes((4, 5, 20, 19), 9, (2, 4), (3, 2), (1, 2), (2, 1)),
    sizes((9, 64, 16, 16), 32, (3, 3), (1, 1), (1, 1)),
]
"""Around a word of channels, a panel of outputs, a span of rows; kernels larger than the map."""


def operands(case: Sizes, dtype: torch.dtype, *, dyadic: bool = True) -> list[Tensor]:
    """Spikes, weight, bias and the gradient of the product."""
    spikes = (torch.rand(case.spikes) < 0.15).to(dtype)
    weight = torch.randn(case.outputs, case.spikes[1], *case.kernel, dtype=dtype)
    image = case.strides.image(spikes.shape, weight.shape)
    others = [weight, torch.randn(case.outputs, dtype=dtype)]
    others.append(torch.randn(len(spikes), case.outputs, *image, dtype=dtype))
    return [spikes, *((other * 16).round() / 16 if dyadic else other for other in others)]


def formed(given: list[Tensor], form: str) -> list[Tensor]:
    """With spikes and upstream gradient in a memory format."""
    spikes, weight, bias, upstream = given
    last = {"memory_format": FORMS[form]}
    return [spikes.contiguous(**last), weight, bias, upstream.contiguous(**last)]


def gradients(way: Any, given: list[Tensor]) -> list[Tensor]:
    """The product and its gradients by spikes, weight and bias."""
    *leaves, upstream = given
    fresh = [leaf.detach().requires_grad_() for leaf in leaves]
    out = way(*fresh)
    return [out, *torch.autograd.grad(out, fresh, upstream)]


def ways(case: Sizes, below: float | None = 1.0) -> tuple[Any, Any]:
    """By events, and torch's own."""
    numbers = [number for pair in case.strides for number in pair]

    def added(spikes: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        found: Tensor = event_convolution(spikes, weight, bias, numbers, below, -1)[0]
        return found

    def dense(spikes: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return conv2d(spikes, weight, bias, *case.strides)

    return added, dense


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_sums_of_dyadic_numbers_have_the_bits_of_float64(
    case: Sizes, dtype: torch.dtype, form: str
) -> None:
    given = operands(case, dtype)
    added, dense = ways(case)

    found = gradients(added, formed(given, form))
    expected = gradients(dense, [value.double() for value in given])

    torch.testing.assert_close([value.double() for value in found], expected, rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_are_those_of_float64_up_to_rounding(case: Sizes, dtype: torch.dtype) -> None:
    given = operands(case, dtype, dyadic=False)
    added, dense = ways(case)
    precise = [value.double() for value in given]
    expected, scales = gradients(dense, precise), gradients(dense, [v.abs() for v in precise])

    for found, wanted, scale in zip(gradients(added, given), expected, scales, strict=True):
        assert ((found - wanted).abs() <= ROUNDING[dtype] * scale).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit(count: int, form: str) -> None:
    case = sizes((16, 70, 16, 15), 130, (3, 3), (1, 1), (1, 1))
    given = formed(operands(case, torch.float32, dyadic=False), form)
    added, _ = ways(case)
    expected = gradients(added, given)

    torch.set_num_threads(count)
    found = gradients(added, given)

    torch.set_num_threads(1)
    torch.testing.assert_close([found[0], found[2]], [expected[0], expected[2]], rtol=0, atol=0)


@pytest.mark.parametrize("what", ["silent", "all active", "another size", "two sizes", "infinite"])
@pytest.mark.parametrize("form", FORMS)
def test_unusual_inputs(what: str, form: str) -> None:
    case = sizes((2, 33, 9, 6), 9, (3, 3), (2, 2), (1, 1))
    given = operands(case, torch.float64)
    match what:
        case "silent":
            given[0].zero_()
        case "all active":
            given[0].fill_(1)
        case "another size":
            given[0].mul_(0.25)
        case "two sizes":
            given[0][1, 3, 2, 2] = 2
        case _:
            given[0][1, 3, 2, 2] = float("inf")
    given = formed(given, form)
    added, dense = ways(case)

    torch.testing.assert_close(
        gradients(added, given), gradients(dense, given), rtol=0, atol=0, equal_nan=True
    )


def test_operands_that_are_not_contiguous() -> None:
    case = sizes((4, 40, 9, 9), 24, (3, 3), (1, 1), (1, 1))
    given = [value.flip(0).transpose(0, -1).contiguous().transpose(0, -1).flip(0)
             for value in operands(case, torch.float64)]  # fmt: skip
    added, dense = ways(case)

    torch.testing.assert_close(gradients(added, given), gradients(dense, given), rtol=0, atol=0)


@pytest.mark.parametrize("spikes", FORMS)
@pytest.mark.parametrize("weight", FORMS)
@pytest.mark.parametrize("below", [1.0, 0.0])
def test_the_output_has_the_memory_format_of_torchs(spikes: str, weight: str, below: float) -> None:
    case = sizes((2, 12, 9, 8), 24, (3, 3), (1, 1), (1, 1))
    given = formed(operands(case, torch.float32), spikes)
    given[1] = given[1].contiguous(memory_format=FORMS[weight])
    added, dense = ways(case, below)

    found, expected = added(*given[:3]), dense(*given[:3])

    assert found.stride() == expected.stride()
    assert is_last(found) is ("channels-last" in (spikes, weight))


def test_no_bias_and_gradients_of_a_part() -> None:
    case = sizes((4, 40, 9, 9), 24, (3, 3), (1, 1), (1, 1))
    spikes, weight, _, upstream = operands(case, torch.float64)
    weight.requires_grad_()
    added, dense = ways(case)

    found = torch.autograd.grad(added(spikes, weight, None), weight, upstream)

    assert torch.equal(
        found[0], torch.autograd.grad(dense(spikes, weight, None), weight, upstream)[0]
    )


@pytest.mark.parametrize("share", [0.02, 0.9])
@pytest.mark.parametrize("form", FORMS)
def test_the_operator_satisfies_torchs_own_checks(share: float, form: str) -> None:
    spikes = (torch.rand(3, 20, 6, 6) < share).double().contiguous(memory_format=FORMS[form])
    weight = torch.randn(10, 20, 3, 3, dtype=torch.float64)
    bias = torch.randn(10, dtype=torch.float64)
    moves = [1, 1, 1, 1, 1, 1]
    given = (spikes, weight.requires_grad_(), bias.requires_grad_(), moves, 0.5, -1)

    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.snncompile.event_convolution.default, given, test_utils=checks)


@pytest.mark.parametrize("below", [1.0, None])
@pytest.mark.parametrize("form", FORMS)
def test_torch_compile_runs_it_whole(below: float | None, form: str) -> None:
    case = sizes((8, 40, 9, 9), 24, (3, 3), (1, 1), (1, 1))
    given = formed(operands(case, torch.float32), form)
    added, _ = ways(case, below)

    def twice(*some: Tensor) -> Tensor:
        found: Tensor = added(*some) * 2
        return found

    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")

    torch.testing.assert_close(gradients(compiled, given), gradients(twice, given), rtol=0, atol=0)


def test_what_was_measured_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_costs, "_known", {})
    seen = Events()
    case = sizes((8, 64, 12, 12), 24, (3, 3), (1, 1), (1, 1))
    spikes, weight, bias, upstream = operands(case, torch.float32)
    dense = gradients(ways(case)[1], [spikes, weight, bias, upstream])

    def chosen(*given: Tensor) -> Tensor:
        found: Tensor = event_convolution(*given, [1] * 6, None, seen.number)[0]
        return found

    for row, unit, by_events in ((1.0, 1e-15, True), (1e-15, 1.0, False)):
        gradients(chosen, [spikes, weight, bias, upstream])
        for costs in event_costs._known.values():
            costs.row, costs.unit = row, unit
        found = gradients(chosen, [spikes, weight, bias, upstream])
        assert seen.by_events is by_events
        assert seen.rate == pytest.approx(0.15, abs=0.03)
        torch.testing.assert_close(found, dense, rtol=0, atol=0)


def test_a_forward_by_events_keeps_bits() -> None:
    case = sizes((8, 64, 12, 12), 24, (3, 3), (1, 1), (1, 1))
    spikes, weight, bias, _ = operands(case, torch.float32)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ways(case)[0](spikes, weight.requires_grad_(), bias)

    beside = [tensor for tensor in kept if tensor.shape != weight.shape]
    assert sum(tensor.nbytes for tensor in beside) <= spikes.nbytes / 25


def test_a_second_derivative_is_refused() -> None:
    case = sizes((2, 8, 6, 6), 5, (3, 3))
    spikes, weight, bias, _ = operands(case, torch.float32)
    weight.requires_grad_()
    scale = torch.ones((), requires_grad=True)

    out = ways(case)[0](spikes, weight, bias) * scale
    (found,) = torch.autograd.grad(out.square().sum(), weight, create_graph=True)

    with pytest.raises(SnncompileError, match="no second derivative"):
        torch.autograd.grad(found.sum(), scale)


def test_without_kernels_products_are_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    case = sizes((8, 40, 9, 9), 24, (3, 3), (1, 1), (1, 1))
    given = operands(case, torch.float32, dyadic=False)
    monkeypatch.setenv("SNNCOMPILE_KERNELS", "off")
    added, dense = ways(case)

    torch.testing.assert_close(gradients(added, given), gradients(dense, given), rtol=0, atol=0)
