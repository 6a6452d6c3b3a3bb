"""Who takes part: one line a contender, of the peers and of snncompile."""

# pyright: basic

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch._dynamo
from peers_networks import (
    EagerBatched,
    EagerLoop,
    NorseBox,
    NorseSequence,
    Rate,
    SnnTorch,
    SpikingJelly,
    Stages,
    Stateless,
)
from torch import Tensor, nn

import snncompile
from snncompile.passes import BY_NAME
from snncompile.runtime.schedule import ScheduleName

Make = Callable[[Stages, Tensor], nn.Module]


@dataclass(frozen=True)
class Contender:
    """A way to run the stages.

    Attributes:
        name: For the tables.
        make: The network, [T, N, ...] to [T, N, ...], from the stages and an input.
        same: Its dynamics are those of the hand-written neuron: outputs are compared before times
            are taken.
        whole: Stateless modules see all steps at once, which batch statistics depend on.
        channels_last: Parameters and inputs are put in that layout.
        compiled: By torch.compile.
        passes: Of snncompile, if it is ours; None for a peer.
        options: Of the first of these passes.
        schedule: Of snncompile.
    """

    name: str
    make: Make = lambda stages, _: SpikingJelly(stages)
    same: bool = True
    whole: bool = True
    channels_last: bool = False
    compiled: bool = False
    passes: tuple[str, ...] | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    schedule: ScheduleName | int = "auto"

    @property
    def rounds(self) -> bool:
        """Whether other kernels run than those of the hand-written network."""
        return self.channels_last or self.compiled or bool(self.passes)

    def network(self, stages: Stages, x: Tensor, *, rate: bool) -> "Network":
        """Ready to be called.

        Args:
            stages: What every peer is made of; copied.
            x: [T, N, ...].
            rate: Return firing rates, [N, ...], and not spikes, [T, N, ...].
        """
        module = self.make(stages, x)
        if self.channels_last:
            module = module.to(memory_format=torch.channels_last)
        called: nn.Module = Rate(module) if rate else module
        if self.passes is not None:
            called = self.transformed(called)
        if self.compiled:
            called = torch.compile(called, dynamic=False)
        rests = called.reset if self.passes is not None else getattr(module, "rest", _nothing)
        return Network(called, rests, self.channels_last)

    def transformed(self, module: nn.Module) -> nn.Module:
        """The module through the passes."""
        passes = [BY_NAME[name]() for name in self.passes or ()]
        if self.options:
            passes[0] = type(passes[0])(**self.options)
        return snncompile.transform(module, passes, schedule=self.schedule)


@dataclass(frozen=True)
class Network:
    """What is timed."""

    module: nn.Module
    rest: Callable[[], None]
    channels_last: bool

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs, from rest."""
        self.rest()
        return self.module(x)

    def placed(self, x: Tensor) -> Tensor:
        """The input, [T, N, ...], in the layout that the network wants."""
        if not self.channels_last:
            return x
        flat = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return flat.unflatten(0, x.shape[:2])

    def train(self, x: Tensor, upstream: Tensor) -> None:
        """Forward and backward; gradients are new."""
        for parameter in self.module.parameters():
            parameter.grad = None
        self(x).backward(upstream)


def _nothing() -> None:
    """For networks whose every call begins at rest."""


OURS = (
    Contender("snncompile", passes=()),
    Contender("snncompile layers", passes=(), schedule="layers"),
    Contender("snncompile tile 16", passes=(), schedule=16),
    Contender("snncompile recompute", passes=("recompute",)),
    Contender("snncompile recompute tile 16", passes=("recompute",), schedule=16),
    Contender("snncompile pass channels-last", passes=("channels-last",)),
    Contender("snncompile event-driven", passes=("event-driven",)),
    Contender("snncompile event-driven layers", passes=("event-driven",), schedule="layers"),
    Contender("snncompile event-driven, recompute", passes=("event-driven", "recompute")),
    Contender("snncompile recompute layers", passes=("recompute",), schedule="layers"),
)
"""One line each; those whose passes this version does not have stay out."""

PEERS = (
    Contender("SpikingJelly multi-step"),
    Contender("SpikingJelly single-step", lambda stages, _: SpikingJelly(stages, "s"), whole=False),
    Contender("SpikingJelly torch.compile", compiled=True),
    Contender("SpikingJelly memopt level 1", lambda stages, x: SpikingJelly(stages).optimized(x)),
    Contender("SpikingJelly memopt 8 chunks", lambda stages, x: SpikingJelly(stages).chunked(x)),
    Contender("snnTorch", lambda stages, _: SnnTorch(stages), same=False, whole=False),
    Contender("Norse box cell", lambda stages, _: NorseBox(stages), whole=False),
    Contender("Norse LIF sequence", lambda stages, _: NorseSequence(stages), same=False),
    Contender("eager loop", lambda stages, _: EagerLoop(stages), whole=False),
    Contender("eager time-batched", lambda stages, _: EagerBatched(stages)),
    Contender("torch.compile time-batched", lambda stages, _: EagerBatched(stages), compiled=True),
    Contender("layers without neurons", lambda stages, _: Stateless(stages), same=False),
)  # fmt: skip
