"""Packed values are found again bit for bit."""

# pyright: basic

import pytest
import torch
from torch import Tensor

from snncompile.memory.levels import Levels
from snncompile.runtime.packing import pack

SHAPES = [(1,), (7,), (64,), (3, 5), (4, 2, 129), (2, 3, 4, 8, 8), (0, 4)]
LEVELS = [Levels(2), Levels(2, 0.3), Levels(2, -1.5), Levels(5), Levels(16, 0.25), Levels(256)]


def values(shape: tuple[int, ...], levels: Levels, dtype: torch.dtype) -> Tensor:
    torch.manual_seed(0)
    return torch.randint(0, levels.number, shape).to(dtype) * levels.unit


def assert_found_again(value: Tensor, levels: Levels) -> int:
    found = pack(value, levels)
    assert found is not None
    how, packed = found
    again = how.unpack(packed)
    assert again.dtype == value.dtype
    assert torch.equal(again, value)
    return packed.numel()


@pytest.mark.parametrize("kernels", ["on", "off"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_level_is_found_again(
    shape: tuple[int, ...],
    levels: Levels,
    dtype: torch.dtype,
    kernels: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SNNCOMPILE_KERNELS", kernels)
    levels = levels._replace(unit=float(torch.tensor(levels.unit, dtype=dtype)))

    assert_found_again(values(shape, levels, dtype), levels)


def test_a_spike_takes_a_bit() -> None:
    assert assert_found_again(values((64, 4, 128), Levels(2), torch.float32), Levels(2)) == 4096


@pytest.mark.parametrize("levels", [Levels(2), Levels(4)], ids=str)
def test_strides_are_found_again(levels: Levels) -> None:
    value = values((4, 3, 8, 8), levels, torch.float32).to(memory_format=torch.channels_last)
    found = pack(value, levels)

    assert found is not None
    again = found[0].unpack(found[1])

    assert again.stride() == value.stride()
    assert torch.equal(again, value)


def test_slices_are_found_again() -> None:
    assert_found_again(values((6, 10), Levels(2), torch.float32)[:, ::2], Levels(2))


@pytest.mark.parametrize("value", [0.5, -1.0, float("nan"), float("inf")])
def test_what_a_user_promised_is_looked_at(value: float) -> None:
    spikes = values((4, 64), Levels(2), torch.float32)
    spikes[2, 3] = value

    assert pack(spikes, Levels(2, sure=False)) is None


def test_all_spikes_of_another_size_are_kept_as_they_are() -> None:
    spikes = values((4, 64), Levels(2, 3.0), torch.float32)

    assert pack(spikes, Levels(2, sure=False)) is None
