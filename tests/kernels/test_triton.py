"""Every neuron by kernels of Triton, in its interpreter: the comparisons made for kernels in C."""

# pyright: basic

from collections.abc import Iterator

import numpy as np
import pytest

from tests.kernels.test_every_neuron import *  # noqa: F403


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SNNCOMPILE_KERNELS", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with np.errstate(all="ignore"):
        yield
