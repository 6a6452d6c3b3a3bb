"""A lowering that runs at once on real tensors, so that a frontend can be tested by itself."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


class EagerLowering:
    """Keeps hidden states in a dictionary; `calls` lists the neuron functions that were emitted."""

    def __init__(self) -> None:
        self.held: dict[tuple[int, str], Tensor] = {}
        self.keys: dict[int, tuple[int, str]] = {}
        self.alive: list[Tensor] = []
        self.calls: list[str] = []

    def neuron(
        self, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor, **settings: Any
    ) -> tuple[Tensor, ...]:
        self.calls.append(function.__name__)
        return function(*tensors, **settings)

    def state(
        self, module: nn.Module, key: str, like: Tensor, initial: float = 0.0, *, carried: bool
    ) -> Tensor:
        place = (id(module), key)
        value = self.held.get(place)
        if value is None or not carried:
            value = torch.full_like(like, initial)
        self.keys[id(value)] = place
        self.alive.append(value)
        return value

    def finish(self, state: Tensor, value: Tensor) -> None:
        self.held[self.keys[id(state)]] = value

    def over_time(self, step: Callable[..., Any], *sequences: Tensor) -> Any:
        outputs = [step(*values) for values in zip(*sequences, strict=True)]
        leaves = [pytree.tree_flatten(output)[0] for output in outputs]
        spec = pytree.tree_flatten(outputs[0])[1]
        return pytree.tree_unflatten(
            [torch.stack(list(values)) for values in zip(*leaves, strict=True)], spec
        )
