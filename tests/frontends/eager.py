"""A lowering that runs at once on real tensors, so that a frontend can be tested by itself."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snncompile.frontends.lowering import Frontend


class EagerLowering:
    """Keeps hidden states in a dictionary; `calls` lists the neuron functions that were emitted."""

    def __init__(self) -> None:
        self.held: dict[tuple[int, str], Tensor] = {}
        self.keys: dict[int, tuple[int, str]] = {}
        self.alive: list[Tensor] = []
        self.calls: list[str] = []
        self.later: set[tuple[int, str]] | None = None

    def neuron(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        *tensors: Tensor,
        **settings: Any,
    ) -> tuple[Tensor, ...]:
        self.calls.append(function.__name__)
        return function(*tensors, **settings)

    def state(
        self,
        module: nn.Module,
        key: str,
        like: Tensor,
        initial: float | Tensor = 0.0,
        *,
        carried: bool,
    ) -> Tensor:
        place = (id(module), key)
        continues = carried or (self.later is not None and place in self.later)
        value = self.held.get(place) if continues else None
        if value is None:
            value = torch.zeros_like(like) + initial
        if self.later is not None:
            self.later.add(place)
        self.keys[id(value)] = place
        self.alive.append(value)
        return value

    def finish(self, state: Tensor, value: Tensor) -> None:
        self.held[self.keys[id(state)]] = value

    def over_time(self, step: Callable[..., Any], *sequences: Tensor) -> Any:
        self.later = set()
        outputs = [step(*values) for values in zip(*sequences, strict=True)]
        self.later = None
        leaves = [pytree.tree_flatten(output)[0] for output in outputs]
        spec = pytree.tree_flatten(outputs[0])[1]
        return pytree.tree_unflatten(
            [_stacked(list(values)) for values in zip(*leaves, strict=True)], spec
        )


def _stacked(values: list[Any]) -> Any:
    return torch.stack(values) if isinstance(values[0], Tensor) else values[0]


@contextmanager
def lowered_calls(frontend: Frontend, lowering: EagerLowering) -> Generator[None]:
    """Calls of modules that the frontend covers are lowered, as a capture does."""
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if frontend.covers(module):
            return frontend.lower(module, lowering, *args, **kwargs)
        return original(module, *args, **kwargs)

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]
