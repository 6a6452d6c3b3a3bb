"""Why membranes are found again from the first one, and not run backwards from the last."""

# pyright: basic

import torch
from torch import Tensor

DECAY, THRESHOLD, STEPS = 0.5, 1.0, 64


def share_of_equal_bits(currents: Tensor) -> list[float]:
    """For every step back from the last, how many membranes the inverse finds bit for bit."""
    membrane = torch.zeros_like(currents[0])
    before, spikes = [], []
    for current in currents:
        before.append(membrane)
        charged = DECAY * membrane + current
        spikes.append((charged >= THRESHOLD).to(currents.dtype))
        membrane = charged - spikes[-1] * THRESHOLD
    found = []
    for current, fired, expected in zip(
        reversed(currents), reversed(spikes), reversed(before), strict=True
    ):
        membrane = (membrane + fired * THRESHOLD - current) / DECAY
        found.append(membrane.eq(expected).float().mean().item())
    return found


def test_with_real_currents_the_inverse_loses_bits_at_once() -> None:
    torch.manual_seed(0)

    share = share_of_equal_bits(torch.randn(STEPS, 10_000))

    assert share[0] < 0.9
    assert max(share[8:]) < 0.1


def test_on_a_dyadic_grid_it_lasts_as_long_as_the_mantissa() -> None:
    torch.manual_seed(0)
    currents = torch.randint(-16, 17, (STEPS, 10_000)) / 16

    assert min(share_of_equal_bits(currents[:16])) == 1.0
    assert share_of_equal_bits(currents)[0] < 1.0
