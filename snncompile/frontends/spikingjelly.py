# pyright: basic
"""The SpikingJelly frontend: what the modules of SpikingJelly 2 mean in the IR.

`spikingjelly_neurons` says what a neuron does in one step, `spikingjelly_surrogates` how its
gradient passes the threshold, `spikingjelly_layers` what the other layers are. Here they meet time
and hidden state: with ``step_mode='m'`` a module is one step run over a sequence, and its state,
which the library keeps in a dictionary of the module, becomes a state of the program.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from spikingjelly.activation_based import base, neuron, surrogate
from torch import Tensor, nn

from snncompile.errors import CaptureError
from snncompile.frontends.lowering import UNTOUCHED, Lowering
from snncompile.frontends.spikingjelly_layers import (
    dropout,
    is_dropout,
    one_step,
    torch_layer,
)
from snncompile.frontends.spikingjelly_neurons import (
    NEURONS,
    LibraryModule,
    Memory,
    Neuron,
    kind_of,
    neuron_of,
    problem,
)
from snncompile.frontends.spikingjelly_surrogates import surrogate_of
from snncompile.ir import surrogates

_WHOLE = (neuron.PSN, neuron.MaskedPSN, neuron.SlidingPSN)
"""Neurons whose every output reads many steps; they are kept as calls over the whole sequence."""


class SpikingJelly:
    """The frontend of SpikingJelly 2; see `snncompile.frontends.lowering.Frontend`."""

    name = "spikingjelly"

    def __init__(self) -> None:
        self._started: WeakKeyDictionary[nn.Module, dict[Memory, list[Tensor]]]
        self._started = WeakKeyDictionary()

    def covers(self, module: nn.Module) -> bool:
        """Whether it is a covered neuron, dropout, surrogate, or layer that repeats a step."""
        if isinstance(module, surrogate.SurrogateFunctionBase):
            return surrogate_of(module) is not None
        if kind_of(module) is not None:
            return problem(module) is None
        return is_dropout(module) or one_step(module) is not None

    def refusal(self, module: nn.Module) -> str | None:
        """Why a stateful module is not covered, and what is; None where nothing is wrong."""
        name = type(module).__name__
        if kind_of(module) is not None:
            reason = problem(module)
            return reason and f"{name} of SpikingJelly is not covered as it is set up: {reason}"
        if isinstance(module, _WHOLE):
            return None if self.whole(module) else _whole_refusal(name)
        if is_dropout(module) or not _is_stateful(module):
            return None
        covered = ", ".join(kind.__name__ for kind in NEURONS)
        return (
            f"{name} keeps a state that snncompile does not know; of SpikingJelly it covers "
            f"{covered}, and subclasses that leave their dynamics as they are. Use one of these, "
            "or write the step in plain torch operations on states passed by hand"
        )

    def whole(self, module: nn.Module) -> bool:
        """Whether a module reads the whole sequence at once: a parallel neuron in multi-step."""
        if not isinstance(module, _WHOLE):
            return False
        return isinstance(module, neuron.PSN) or module.step_mode == "m"

    def begin(self, module: nn.Module) -> None:
        """Mark the hidden states of a covered module as untouched."""
        self._started.pop(module, None)
        memories = getattr(module, "_memories", {})
        memories.update(dict.fromkeys(memories, UNTOUCHED))

    def lower(self, module: nn.Module, lowering: Lowering, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Emit what calling a covered module means.

        Args:
            module: A module that `covers` accepts.
            lowering: The capture.
            *args: What the module is called with: one tensor, [N, ...] or [T, N, ...].
            **kwargs: The same, by name.

        Returns:
            What the module's forward would return.

        Raises:
            CaptureError: A sequence starts from a state that was not there when the call began.
        """
        (inputs,) = (*args, *kwargs.values())
        found = surrogate_of(module)
        if found is not None:
            return lowering.neuron(surrogates.spike, inputs, surrogate=found, strict=False)[0]
        repeated = one_step(module)
        if repeated is not None:
            _refuse_held(module)
            return lowering.over_time(repeated, inputs)
        return self._lower_stateful(module, lowering, inputs)

    def _lower_stateful(self, module: LibraryModule, lowering: Lowering, inputs: Tensor) -> Any:  # noqa: ANN401
        if is_dropout(module) and not module.training:
            return inputs
        if module.step_mode == "m":
            _refuse_held(module)
        lowered = neuron_of(module) or dropout(module, inputs)

        def step(current: Tensor) -> Any:  # noqa: ANN401
            return self._step(module, lowering, lowered, current)

        return lowering.over_time(step, inputs) if module.step_mode == "m" else step(inputs)

    def _step(
        self, module: LibraryModule, lowering: Lowering, lowered: Neuron, current: Tensor
    ) -> Any:  # noqa: ANN401
        held = [self._held(module, lowering, memory, current) for memory in lowered.memories]
        output, *values = lowered.step(module, lowering, current, *held)
        for memory, value in zip(lowered.memories, values, strict=True):
            module._memories[memory.name] = value
            if started := self._started_of(module, memory):
                lowering.finish(started[-1], value)
        return output

    def _held(
        self, module: LibraryModule, lowering: Lowering, memory: Memory, like: Tensor
    ) -> Tensor:
        """A hidden state before this step, made as the library makes it where there is none."""
        value = module._memories[memory.name]
        if isinstance(value, Tensor) and value.shape == like.shape:
            return value if value.dtype == like.dtype else value.to(like.dtype)
        number = value if isinstance(value, (int, float)) else module.get_reset_value(memory.name)
        initial = number if isinstance(number, (int, float)) else memory.unset
        carried = value is UNTOUCHED
        state = lowering.state(module, memory.label, like, initial, carried=carried)
        self._started_of(module, memory).append(state)
        return state

    def _started_of(self, module: nn.Module, memory: Memory) -> list[Tensor]:
        """The program's states that stand for a memory in this capture, the latest last."""
        return self._started.setdefault(module, {}).setdefault(memory, [])

    def end(self, module: nn.Module, lowering: Lowering) -> None:
        """After the model ran: say what the hidden states hold, also where the model set them.

        A model may reset its neurons, or write their membranes, after their last step.
        """
        for memory, states in self._started.pop(module, {}).items():
            held = module._memories[memory.name]  # type: ignore[index]
            for state in states:
                number = held if isinstance(held, (int, float)) else memory.unset
                value = held if isinstance(held, Tensor) else torch.full_like(state, number)
                lowering.finish(state, value)

    def stateless(self, module: nn.Module) -> type[nn.Module] | None:
        """The torch.nn class that is one step of a layer."""
        return torch_layer(module)

    def takes_sequences(self, module: nn.Module) -> bool:
        """Whether a layer has ``step_mode='m'``."""
        return getattr(module, "step_mode", None) == "m"

    def spikes(self, module: nn.Module, output: Any) -> Tensor | None:  # noqa: ANN401
        """The spikes of a neuron or surrogate, from what its call returned."""
        if kind_of(module) is None and surrogate_of(module) is None:
            return None
        spikes: Tensor = output[0] if isinstance(output, list) else output
        return spikes

    def membrane(self, module: nn.Module, output: Any) -> Tensor | None:  # noqa: ANN401
        """The membrane of a neuron after its last step."""
        value = getattr(module, "v", None) if kind_of(module) is not None else None
        return value if isinstance(value, Tensor) else None

    def reset(self, module: nn.Module) -> None:
        """Clear the hidden states, as the library's reset_net would."""
        if isinstance(module, base.MemoryModule):
            module.reset()


def _is_stateful(module: nn.Module) -> bool:
    """Whether a module keeps memories, or is a neuron of the library of any other kind."""
    if isinstance(module, base.MemoryModule) and module._memories:
        return True
    package = neuron.__name__ + "."
    return any(kind.__module__.startswith(package) for kind in type(module).__mro__)


def _whole_refusal(name: str) -> str:
    return (
        f"{name} reads many steps for every output, so snncompile keeps it as one call over the "
        "whole sequence and does not run it step by step; set step_mode='m'"
    )


def _refuse_held(module: nn.Module) -> None:
    """A sequence may only start from the state that the call began with, or from a reset."""
    for inner in module.modules():
        memories = getattr(inner, "_memories", {})
        if any(isinstance(value, Tensor) for value in memories.values()):
            raise CaptureError(
                f"{type(inner).__name__} starts a sequence from a state that this forward made: "
                "it is called twice, or its state was written by hand. Give each call a module "
                "of its own, or reset it between the calls"
            )


FRONTEND = SpikingJelly()
