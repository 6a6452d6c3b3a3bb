"""Kernels of Triton without a GPU: interpreted on the CPU, or compiled for a GPU and not run."""

# pyright: basic

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton
from triton.backends.compiler import GPUTarget


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scans run in Triton's interpreter, whose numpy warns where torch is silent."""
    monkeypatch.setenv("SNNCOMPILE_KERNELS", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with np.errstate(all="ignore"):
        yield


class Hopper:
    """What Triton asks a driver for in order to compile; nothing can be launched."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Kernels are compiled for an H200, each test's anew."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    driver: Any = triton.runtime.driver
    monkeypatch.setattr(driver, "_active", Hopper())
