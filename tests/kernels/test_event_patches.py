"""Maps as bits."""

# pyright: basic

import pytest
import torch

from snncompile.kernels.event_patches import pack, unpack

FORMS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 63, 5, 4), (2, 64, 17, 17), (2, 97, 3, 3)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1.0, -0.25])
def test_what_is_unpacked_is_what_was_packed(
    dtype: torch.dtype, shape: tuple[int, int, int, int], form: str, size: float
) -> None:
    spikes = ((torch.rand(shape) < 0.3).to(dtype) * size).contiguous(memory_format=FORMS[form])

    packed = pack(spikes)

    assert packed is not None
    assert packed.bits.shape == (shape[0], *shape[2:], -(-shape[1] // 64) * 8)
    assert torch.equal(unpack(packed, shape[1], dtype), spikes)


@pytest.mark.parametrize("where", [(0, 0, 0, 1), (1, 69, 5, 6), (1, 3, 0, 0)], ids=str)
@pytest.mark.parametrize("other", [2.0, float("nan"), float("inf")])
def test_maps_of_two_sizes_are_refused(where: tuple[int, ...], other: float) -> None:
    spikes = torch.zeros(2, 70, 6, 7)
    spikes[0, 0, 0, 0] = 1
    spikes[where] = other

    assert pack(spikes) is None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [float("nan"), float("inf")])
def test_a_size_that_is_not_finite_is_refused(form: str, size: float) -> None:
    assert pack(torch.full((1, 2, 2, 2), size).contiguous(memory_format=FORMS[form])) is None
