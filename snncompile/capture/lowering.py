"""The recorder as frontends see it: neurons, hidden states and the time axis."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snncompile.capture.canonical import Call
from snncompile.capture.recorder import Recorder
from snncompile.capture.states import RecordedState, placeholder_name
from snncompile.errors import CaptureError


def each_step(sequence: Tensor) -> Tensor:
    """Marks where a multi-step model hands a [T, N, ...] sequence to one step, [N, ...]."""
    return sequence[0]


def over_steps(value: Tensor, steps: int) -> Tensor:
    """Marks where the values of one step, [N, ...], become a [T, N, ...] sequence again."""
    return value.unsqueeze(0).expand(steps, *value.shape)


class LoweringRecorder(Recorder):
    """Implements `snncompile.frontends.lowering.Lowering`."""

    def neuron(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        *tensors: Tensor,
        **settings: Any,  # noqa: ANN401
    ) -> tuple[Tensor, ...]:
        """Emit one neuron; see `snncompile.frontends.lowering.Lowering`."""
        with self.paused():
            result = function(*tensors, **settings)
        seen: set[int] = {id(tensor) for tensor in tensors}
        distinct: list[Tensor] = []
        for item in result:
            with self.paused():
                distinct.append(item.view_as(item) if id(item) in seen else item)
            seen.add(id(distinct[-1]))
        self.emit(Call("call_function", function, tensors, settings), tuple(distinct))
        return tuple(distinct)

    def state(
        self,
        module: nn.Module,
        key: str,
        like: Tensor,
        initial: float | Tensor = 0.0,
        *,
        carried: bool,
    ) -> Tensor:
        """A state before the first step; see `snncompile.frontends.lowering.Lowering`."""
        label = f"{self.names.get(id(module), '')}.{key}".lstrip(".")
        start = self.node(initial) if isinstance(initial, Tensor) else float(initial)
        known = self.states.get(label)
        if known is not None and known.carried == carried and known.initial == start:
            before: Tensor = known.node.meta["val"]
            if before.shape == like.shape:
                return before
        while label in self.states:
            label += "'"
        with self.paused(), torch.no_grad():
            value = torch.zeros_like(like) + initial
        node = self.graph.placeholder(placeholder_name(label))
        node.meta["val"] = value
        self.bind(value, node)
        self.states[label] = RecordedState(node, label, start, carried)
        return value

    def finish(self, state: Tensor, value: Tensor) -> None:
        """Note a state's latest value; see `snncompile.frontends.lowering.Lowering`."""
        self.finished[self.node(state)] = self.node(value)

    def over_time(self, step: Callable[..., Any], *sequences: Tensor) -> Any:  # noqa: ANN401
        """Record `step` once for all steps; see `snncompile.frontends.lowering.Lowering`."""
        if self._per_step:
            raise CaptureError(f"{self._place()} runs over time inside another time loop")
        parts = [self._enter(sequence) for sequence in sequences]
        self._per_step = True
        try:
            result = step(*parts)
        finally:
            self._per_step = False
        steps = sequences[0].shape[0]
        return pytree.tree_map_only(Tensor, lambda value: self._leave(value, steps), result)

    def _enter(self, sequence: Tensor) -> Tensor:
        with self.paused():
            part = sequence[0]
        self.emit(Call("call_function", each_step, (sequence,), {}), part)
        return part

    def _leave(self, value: Tensor, steps: Any) -> Tensor:  # noqa: ANN401
        with self.paused():
            sequence = over_steps(value, steps)
        self.emit(Call("call_function", over_steps, (value, steps), {}), sequence)
        return sequence
