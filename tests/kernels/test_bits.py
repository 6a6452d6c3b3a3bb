# pyright: basic

import pytest
import torch
from torch import Tensor

from snncompile.kernels.bits import Packed, pack, row_bytes, unpack


def spikes(rows: int, width: int, size: float, dtype: torch.dtype) -> Tensor:
    return (torch.rand(rows, width) < 0.3).to(dtype) * size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (5, 63), (4, 64), (7, 65), (2, 1000)], ids=str)
@pytest.mark.parametrize("size", [1.0, 0.1, -3.0])
def test_what_is_unpacked_is_what_was_packed(
    dtype: torch.dtype, shape: tuple[int, int], size: float
) -> None:
    values = spikes(*shape, size, dtype)

    packed = pack(values)

    assert packed is not None
    assert packed.bits.shape == (shape[0], row_bytes(shape[1]))
    assert torch.equal(unpack(packed, shape[1], dtype), values)


def test_bit_i_of_byte_j_is_element_8_j_plus_i() -> None:
    values = torch.zeros(1, 70)
    values[0, [0, 9, 69]] = 1

    packed = pack(values)

    assert packed is not None
    assert packed.bits[0].nonzero().flatten().tolist() == [0, 1, 8]
    assert packed.bits[0, [0, 1, 8]].tolist() == [1, 2, 32]


def test_rows_that_are_not_contiguous_are_packed() -> None:
    values = spikes(90, 20, 1.0, torch.float32).t()

    packed = pack(values)

    assert packed is not None
    assert torch.equal(unpack(packed, 90, torch.float32), values)


def test_silence_is_packed_and_negative_zero_is_no_spike() -> None:
    packed = pack(torch.tensor([[0.0, -0.0], [0.0, 0.0]]))

    assert packed is not None
    assert packed.size == 1
    assert not packed.bits.any()


@pytest.mark.parametrize("where", [(0, 1), (0, 69), (3, 2)], ids=str)
@pytest.mark.parametrize("other", [2.0, float("nan"), float("inf")])
def test_two_sizes_are_refused(where: tuple[int, int], other: float) -> None:
    values = torch.zeros(4, 70)
    values[0, 0] = 1
    values[where] = other

    assert pack(values) is None


@pytest.mark.parametrize("size", [float("nan"), float("inf")])
def test_a_size_that_is_not_finite_is_refused(size: float) -> None:
    assert pack(torch.tensor([[0.0, size]])) is None


def test_no_rows_are_packed() -> None:
    packed = pack(torch.zeros(0, 5))

    assert packed is not None
    assert packed.bits.shape == (0, 8)


@pytest.mark.parametrize("count", [1, 2])
def test_threads_share_the_rows(count: int) -> None:
    torch.set_num_threads(count)
    values = spikes(4096, 129, 1.0, torch.float32)

    packed = pack(values)

    torch.set_num_threads(1)
    assert packed is not None
    assert torch.equal(unpack(packed, 129, torch.float32), values)


def test_bits_are_read_without_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    values = spikes(5, 77, 0.5, torch.float64)
    packed = pack(values)
    monkeypatch.setenv("SNNCOMPILE_KERNELS", "off")

    assert isinstance(packed, Packed)
    assert pack(values) is None
    assert torch.equal(unpack(packed, 77, torch.float64), values)
