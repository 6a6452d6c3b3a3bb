"""The reversible neuron by its compiled scans, next to the sweeps in torch."""

# pyright: basic

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from snncompile.runtime.reversible import coupling_of
from snncompile.runtime.reversible_kernels import _compiled, _Same
from tests.runtime.test_reversible import CASES, EXACT, currents, gradient, over_time, relative

KERNEL_TOLERANCE = 1e-5
"""Relative, in float32: the same gradients from the same bits, added in another order."""


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Switches kernels off when called."""

    def switch() -> None:
        monkeypatch.setenv("SNNCOMPILE_KERNELS", "off")
        _compiled.cache_clear()

    yield switch
    _compiled.cache_clear()


@pytest.mark.parametrize("settings", CASES, ids=range(len(CASES)))
def test_a_kernel_gives_the_bits_of_torch_forward_and_its_gradients_back(
    settings: dict[str, Any], without_kernels: Callable[[], None]
) -> None:
    x = currents(7)

    found, derivative = over_time(x, settings), gradient(x, settings)
    without_kernels()
    expected, wanted = over_time(x, settings), gradient(x, settings)

    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert relative(derivative, wanted) < KERNEL_TOLERANCE


def test_the_paper_s_neuron_has_kernels_both_ways_through_time() -> None:
    coupling = coupling_of(tuple(EXACT.items()))
    assert coupling is not None

    assert _compiled(_Same(coupling), torch.float32, "forward") is not None
    assert _compiled(_Same(coupling), torch.float32, "back") is not None
    assert _compiled(_Same(coupling), torch.float16, "back") is None


def test_a_kernel_reads_sequences_that_are_not_contiguous() -> None:
    x = currents(5)
    turned = x.transpose(1, 3).contiguous().transpose(1, 3)

    assert not turned.is_contiguous()
    assert torch.equal(over_time(turned, EXACT)[0], over_time(x, EXACT)[0])
    assert torch.equal(gradient(turned, EXACT), gradient(x, EXACT))
