"""One thread a test process, one seed a test, and a torchvision that imports."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import torchvision_shim as torchvision_shim  # noqa: PLC0414

torch.set_num_threads(1)


def pytest_runtest_setup() -> None:
    """Every test draws the same numbers, in whatever order and process it runs."""
    torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]


_GROUPS: list[object] = []
"""Held for good: a group of gloo that ends holds Python's lock and waits for a thread, which may
itself be waiting for that lock, to let go of what a collective held."""


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """torch.distributed in this process alone."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    _GROUPS.append(torch.distributed.group.WORLD)
    yield
    torch.distributed.destroy_process_group()
