"""One thread a test process, one seed a test, and a torchvision that imports."""

import torch

from tests import torchvision_shim as torchvision_shim  # noqa: PLC0414

torch.set_num_threads(1)


def pytest_runtest_setup() -> None:
    """Every test draws the same numbers, in whatever order and process it runs."""
    torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
