"""Leaves a model as it was, whatever its forward stored in it."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def attributes_restored(*modules: nn.Module) -> Generator[None]:
    """Restore every attribute of the given modules: a forward may store what it computed."""
    saved: list[tuple[Any, Any]] = []
    for module in modules:
        held = vars(module)
        containers = (value for value in held.values() if type(value) in {dict, list})
        saved += [(container, container.copy()) for container in (held, *containers)]
    try:
        yield
    finally:
        for container, content in saved:
            container.clear()
            refill = container.update if isinstance(content, dict) else container.extend
            refill(content)
