"""Leaves a model as it was, whatever its forward stored in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from snncompile.frontends import frontend_of


@contextmanager
def attributes_restored(*modules: nn.Module) -> Iterator[None]:
    """Restore every attribute of the given modules: a forward may store what it computed."""
    saved: list[tuple[dict[str, Any], dict[str, Any], list[tuple[Any, Any]]]] = []
    for module in modules:
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


def reachable(model: nn.Module) -> list[nn.Module]:
    """The modules that a forward of the model may change: its own, and its libraries' others."""
    frontends = {id(f): f for module in model.modules() if (f := frontend_of(module)) is not None}
    others = [m for f in frontends.values() for m in getattr(f, "bystanders", list)()]
    return list({id(module): module for module in [*model.modules(), *others]}.values())
