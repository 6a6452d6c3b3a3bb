"""Leaves a model as it was, whatever its forward stored in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def attributes_restored(model: nn.Module) -> Iterator[None]:
    """Restore every attribute of every module: a forward may store what it computed."""
    saved: list[tuple[dict[str, Any], dict[str, Any], list[tuple[Any, Any]]]] = []
    for module in model.modules():
        held = vars(module)
        containers = [(v, v.copy()) for v in held.values() if type(v) in {dict, list}]
        saved.append((held, held.copy(), containers))
    try:
        yield
    finally:
        for held, attributes, containers in saved:
            held.clear()
            held.update(attributes)
            for container, content in containers:
                container.clear()
                (container.update if isinstance(container, dict) else container.extend)(content)
