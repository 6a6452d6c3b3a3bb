# pyright: basic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from snncompile.ir.charges import Charged, Decay
from snncompile.ir.graded import multi_precision, stateless_multi_precision
from tests.reference import multi_precision as reference

ROUNDING = 1e-12
"""In float64: m - (m - threshold) is the threshold up to rounding, and so are gradients."""

STEPS, WIDTH = 12, 16


def parameters() -> tuple[Tensor, Tensor, Tensor]:
    """Currents [T, N], decays [T] and thresholds [T], with gradients."""
    generator = torch.Generator().manual_seed(0)
    currents = torch.randn(STEPS, WIDTH, generator=generator, dtype=torch.float64) * 0.75
    decays = torch.rand(STEPS, generator=generator, dtype=torch.float64)
    thresholds = torch.rand(STEPS, generator=generator, dtype=torch.float64)
    return currents.requires_grad_(), decays.requires_grad_(), thresholds.requires_grad_()


def run(
    currents: Tensor, decays: Tensor, thresholds: Tensor, **options: float | bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Charged membranes, emissions and membranes after the reset, each [T, N]."""
    membrane = torch.zeros_like(currents[0])
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for t, current in enumerate(currents):
        charge = Decay(decays[t])
        charged = charge(current, membrane)
        emitted, membrane = multi_precision(
            current,
            membrane,
            charge=charge,
            threshold=thresholds[t],
            **options,  # type: ignore[arg-type]
        )
        rows.append((charged, emitted, membrane))
    charges, emissions, membranes = (torch.stack(column) for column in zip(*rows, strict=True))
    return charges, emissions, membranes


def columns(values: Tensor) -> list[list[float]]:
    return values.detach().T.tolist()


@pytest.mark.parametrize("levels", [None, 15.0])
def test_the_neuron_is_that_of_the_paper(levels: float | None) -> None:
    currents, decays, thresholds = parameters()

    _, emitted, membranes = run(currents, decays, thresholds, levels=levels)  # type: ignore[arg-type]

    settings_ = (decays.tolist(), thresholds.tolist())
    expected = [
        reference.run(column, *settings_, quantised=levels is not None)
        for column in columns(currents)
    ]
    assert 0.2 < (emitted > 0).double().mean() < 0.8
    for found, name in ((emitted, "emitted"), (membranes, "membranes")):
        wanted = torch.tensor([getattr(row, name) for row in expected], dtype=torch.float64).T
        torch.testing.assert_close(found.detach(), wanted, rtol=ROUNDING, atol=ROUNDING)


@settings(max_examples=100, deadline=None)
@given(
    charged=st.lists(st.integers(-64, 64), min_size=1, max_size=8),
    threshold=st.integers(0, 32),
    levels=st.sampled_from([None, 15.0]),
)
def test_what_stays_is_the_smaller_of_membrane_and_threshold(
    charged: list[int], threshold: int, levels: float | None
) -> None:
    m = torch.tensor(charged) / 16
    theta = torch.tensor(threshold) / 16

    emitted, after = multi_precision(m, m, charge=Charged(), threshold=theta, levels=levels)

    torch.testing.assert_close(after, torch.minimum(m, theta), rtol=0, atol=0)
    if levels is None:
        torch.testing.assert_close(m - emitted, after, rtol=0, atol=0)


def test_halves_go_to_the_even_quarter_and_sizes_beyond_four_bits_are_cut() -> None:
    above = torch.tensor([-1.0, 0.125, 0.375, 0.625, 0.3, 3.7, 3.75, 4.0, 100.0])

    emitted, after = multi_precision(above, above, charge=Charged(), threshold=0.0, levels=15.0)

    assert emitted.tolist() == [0, 0, 0.5, 0.5, 0.25, 3.75, 3.75, 3.75, 3.75]
    torch.testing.assert_close(after, above.clamp(max=0), rtol=0, atol=0)


def test_rounding_and_cutting_do_not_change_the_gradient() -> None:
    current = torch.tensor([-1.0, 0.3, 2.2, 100.0], requires_grad=True)
    loss = [
        multi_precision(current, current, charge=Charged(), threshold=0.5, levels=levels)[0].sum()
        for levels in (None, 15.0)
    ]

    plain, rounded = (torch.autograd.grad(value, current)[0] for value in loss)

    assert plain.tolist() == [0, 0, 1, 1]
    assert rounded.tolist() == plain.tolist()


@pytest.mark.parametrize("online", [False, True], ids=["full", "online"])
@pytest.mark.parametrize("levels", [None, 15.0])
def test_gradients_are_those_worked_out_by_hand(online: bool, levels: float | None) -> None:
    tensors = parameters()
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(STEPS, WIDTH, generator=generator, dtype=torch.float64)

    _, emitted, _ = run(*tensors, levels=levels, detach_membrane=online)  # type: ignore[arg-type]
    found = torch.autograd.grad(emitted, tensors, upstream)

    currents, *shared = (tensor.detach() for tensor in tensors)
    known = (shared[0].tolist(), shared[1].tolist())
    by_hand = [
        reference.gradients(reference.run(column, *known), *known, above, online=online)
        for column, above in zip(columns(currents), columns(upstream), strict=True)
    ]
    wanted = [torch.tensor(values, dtype=torch.float64) for values in zip(*by_hand, strict=True)]
    expected = (wanted[0].T, wanted[1].sum(0), wanted[2].sum(0))
    torch.testing.assert_close(found, expected, rtol=ROUNDING, atol=ROUNDING)


def full_and_online(upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both gradients by the currents, and where the neurons fire, each [T, N]."""
    tensors = parameters()
    found = []
    for online in (False, True):
        charged, emitted, _ = run(*tensors, detach_membrane=online)
        found.append(torch.autograd.grad(emitted, tensors[0], upstream)[0])
    return found[0], found[1], charged > tensors[2].unsqueeze(1)


def test_where_a_neuron_fires_the_online_gradient_is_the_full_one() -> None:
    generator = torch.Generator().manual_seed(2)
    upstream = torch.randn(STEPS, WIDTH, generator=generator, dtype=torch.float64)

    full, online, fires = full_and_online(upstream)

    assert 0.2 < fires.double().mean() < 0.8
    torch.testing.assert_close(online[fires], full[fires], rtol=ROUNDING, atol=ROUNDING)
    assert (online[~fires] == 0).all()
    assert (full[~fires] != 0).double().mean() > 0.2


def test_the_online_gradient_separates_into_the_full_one_and_the_papers_factor() -> None:
    full, online, _ = full_and_online(torch.ones(STEPS, WIDTH, dtype=torch.float64))

    currents, decays, thresholds = (tensor.detach() for tensor in parameters())
    known = (decays.tolist(), thresholds.tolist())
    factors = [
        [reference.factor(reference.run(column, *known), *known, t) for t in range(STEPS)]
        for column in columns(currents)
    ]
    expected = torch.tensor(factors, dtype=torch.float64).T * full
    torch.testing.assert_close(online, expected, rtol=ROUNDING, atol=ROUNDING)


def test_without_a_membrane_every_step_is_a_first_one() -> None:
    currents, _, thresholds = parameters()

    for levels in (None, 15.0):
        (emitted,) = stateless_multi_precision(currents, threshold=thresholds[0], levels=levels)
        first, _ = multi_precision(
            currents, currents, charge=Charged(), threshold=thresholds[0], levels=levels
        )
        torch.testing.assert_close(emitted, first, rtol=0, atol=0)
