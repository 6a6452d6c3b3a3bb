"""Watches the neurons of a user's model while it runs, through forward hooks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from snncompile.frontends import frontend_of


@dataclass
class Observed:
    """What one neuron module did.

    Attributes:
        spikes: Its output at every call: of one step, or of a whole sequence.
        membrane: Its membrane after the last call, if the library keeps one.
    """

    spikes: list[Tensor] = field(default_factory=list[Tensor])
    membrane: Tensor | None = None

    def steps(self, calls: int, position: int, *, multi_step: bool) -> Tensor:
        """The output of every step, [T, N, ...].

        Args:
            calls: How often the module is called in one step.
            position: Which of those calls.
            multi_step: One call covers all steps.
        """
        mine = self.spikes[position::calls]
        return mine[0] if multi_step else torch.stack(mine)


@contextmanager
def observed(model: nn.Module) -> Iterator[dict[str, Observed]]:
    """Record every covered neuron of the model, by module name, while the context lasts."""
    found: dict[str, Observed] = {}
    handles = [
        module.register_forward_hook(_hook(found.setdefault(name, Observed())))
        for name, module in model.named_modules()
        if (frontend := frontend_of(module)) is not None and frontend.covers(module)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _hook(seen: Observed) -> Any:  # noqa: ANN401
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401, ARG001
        frontend = frontend_of(module)
        assert frontend is not None
        spikes = frontend.spikes(module, output)
        if spikes is not None:
            seen.spikes.append(spikes.detach())
            membrane = frontend.membrane(module, output)
            seen.membrane = None if membrane is None else membrane.detach()

    return hook


def reset(model: nn.Module) -> None:
    """Clear the hidden states of every covered module, as its library would."""
    for module in model.modules():
        frontend = frontend_of(module)
        if frontend is not None and frontend.covers(module):
            frontend.reset(module)
