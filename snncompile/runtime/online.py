"""Runs programs whose gradient stays within a time step, in memory that does not grow with T.

Nothing that a step hands to the next one carries a gradient in such a program (online learning).
So a backward pass may run the steps again, one after the other, each with a graph of its own; and
where only the last step has a gradient, the others run without a graph.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snncompile.ir.effects import has_effect
from snncompile.ir.program import Output, Program
from snncompile.runtime.plan import Plan, begin
from snncompile.runtime.sequence import Value
from snncompile.runtime.stage import Execution, Gathering

Results: TypeAlias = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
"""The reduced outputs, and the states after the last step."""


@dataclass(frozen=True)
class Call:
    """One call of a planned program.

    Attributes:
        program: The program.
        plan: How it runs.
        inputs: Sequences [T, N, ...], and statics.
        states: Before the first step, each [N, ...]; `execute` takes them out of the list, so
            that they are freed as soon as their step has read them.
        steps: T.
        tile: Steps that run at once.
        chunk: Single steps that run again together in the backward pass; 0 keeps their values.
    """

    program: Program
    plan: Plan
    inputs: tuple[Tensor, ...]
    states: list[Tensor]
    steps: int
    tile: int
    chunk: int = 0

    def between(self, start: int, stop: int, states: list[Tensor]) -> "Call":
        """The call of some of its steps, from the states before them."""
        kinds = [spec.kind for spec in self.program.inputs]
        cut = (
            v[start:stop] if k == "sequence" else v for v, k in zip(self.inputs, kinds, strict=True)
        )
        return replace(self, inputs=tuple(cut), states=states, steps=stop - start)

    def execute(self) -> Execution:
        """Run all stages, once."""
        span = (self.steps, min(self.tile, self.steps), self.chunk)
        execution = begin(self.plan, self.program.root, self.inputs, self.states, span)
        self.states.clear()
        for stage in self.plan.stages:
            execution.run(stage)
        return execution

    def results(self, execution: Execution) -> Results:
        """What an execution gave."""
        outputs = tuple(
            execution.output(name, output, self.plan.gathering(output), self.steps)
            for name, output in self.plan.outputs
        )
        return outputs, tuple(execution.states[name] for name in self.plan.states)


def run(call: Call) -> Results:
    """Run a program as it is, with a graph of all its steps."""
    return call.results(call.execute())


def run_last_step(call: Call) -> Results:
    """Run a program whose gradient is that of its last step; the others leave no graph."""
    if call.steps == 1:
        return run(call)
    with torch.no_grad():
        first = call.between(0, call.steps - 1, call.states).execute()
    states = [first.states[name] for name in call.plan.states]
    keys: list[tuple[str, Gathering]] = [(n, call.plan.gathering(o)) for n, o in call.plan.outputs]
    earlier = {key: first.values[key] for key in keys}
    del first
    last = call.between(call.steps - 1, call.steps, states).execute()
    for key in keys:
        last.values[key] = _continued(earlier[key], last.values[key], key[1])
    return call.results(last)


def run_random_step(call: Call) -> Results:
    """Run up to a step drawn from torch's generator, which alone has a gradient; none runs after.

    The expected gradient is the mean of those of the steps (Hao et al., 2024, arXiv:2410.07547).

    Returns:
        The outputs, reduced over the drawn step alone, and the states after it.
    """
    drawn = int(torch.randint(call.steps, ()))
    states = call.states
    if drawn:
        with torch.no_grad():
            earlier = call.between(0, drawn, states).execute()
        states = [earlier.states[name] for name in call.plan.states]
    return run(call.between(drawn, drawn + 1, states))


def _continued(earlier: Value, later: Value, way: Gathering) -> Value:
    """What was gathered over all steps, from what was over those before the last and over it."""
    if way == "last":
        return later
    return torch.cat((earlier, later)) if way == "stack" else earlier + later  # type: ignore[arg-type, operator]


def runs_again(call: Call) -> bool:
    """Whether the steps of a call may be run a second time, for their gradients."""
    statistics = any(
        has_effect(call.program, node)
        and next(call.program.module(node).buffers(), None) is not None
        for node in call.program.step.find_nodes(op="call_module")
    )
    reduced = all(output.reduce != "max" for output in call.program.outputs)
    return reduced and not statistics and not call.program.whole


def run_each_step(call: Call) -> Results:
    """Run a program whose steps have gradients of their own, keeping no graph.

    The backward pass runs the steps again: its memory is that of one step, whatever T.
    """
    parameters = [p for p in call.program.root.parameters() if p.requires_grad]
    flat: tuple[Tensor, ...] = _EachStep.apply(call, *call.inputs, *parameters)  # type: ignore[no-untyped-call]
    count = len(call.plan.outputs)
    return flat[:count], flat[count:]  # pyright: ignore[reportUnknownVariableType]


class _EachStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        ctx.call = replace(call, states=list(call.states))
        ctx.again = _surroundings(call)
        ctx.save_for_backward(*tensors)
        outputs, states = call.results(call.execute())
        ctx.mark_non_differentiable(*states)
        return (*outputs, *states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401  # pyright: ignore[reportIncompatibleMethodOverride]
        call: Call = ctx.call
        count = len(call.inputs)
        wanted = ctx.needs_input_grad[1:]
        given = [t.detach().requires_grad_(n) for t, n in zip(call.inputs, wanted, strict=False)]
        with ctx.again(), torch.enable_grad():
            sums = _Sums([*given, *ctx.saved_tensors[count:]])
            again = replace(call, inputs=tuple(given))
            _backward(again, grad_outputs[: len(call.plan.outputs)], sums)
        return (None, *(g if n else None for g, n in zip(sums.found, wanted, strict=True)))


class _Sums:
    """Gradients of some tensors, added up step by step."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.found: list[Tensor | None] = [None] * len(tensors)
        self._asked = [i for i, tensor in enumerate(tensors) if tensor.requires_grad]

    def add(self, outputs: list[Tensor], gradients: list[Tensor]) -> None:
        """Add the gradients that outputs pass on."""
        asked = [self.tensors[i] for i in self._asked]
        carried = [(o, g) for o, g in zip(outputs, gradients, strict=True) if o.requires_grad]
        if not carried:
            return
        outs, grads = zip(*carried, strict=True)
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            outs, asked, grads, allow_unused=True
        )
        for i, gradient in zip(self._asked, found, strict=True):
            if gradient is not None:  # pyright: ignore[reportUnnecessaryComparison]
                known = self.found[i]
                self.found[i] = gradient.clone() if known is None else known.add_(gradient)


def _backward(call: Call, gradients: tuple[Tensor, ...], sums: _Sums) -> None:
    """Run every step with a graph of its own, and add up what it gives to the gradients."""
    reductions = [output for _, output in call.plan.outputs]
    states = list(call.states)
    for step in range(call.steps):
        outputs, after = single(call.plan, call.between(step, step + 1, states).execute())
        states = [state.detach() for state in after]
        del after
        pairs = zip(reductions, gradients, strict=True)
        sums.add(list(outputs), [_share(output, g, step, call.steps) for output, g in pairs])
        del outputs


def single(plan: Plan, execution: Execution) -> Results:
    """The outputs of a call of one step, not reduced over time, and the states after it."""
    outputs: list[Any] = []
    for name, output in plan.outputs:
        way = plan.gathering(output)
        value: Any = execution.values[name, way]
        outputs.append(value[0] if way == "stack" else value)
    return tuple(outputs), tuple(execution.states[name] for name in plan.states)


def _share(output: Output, gradient: Tensor, step: int, steps: int) -> Tensor:
    """What of an output's gradient one step's value gets."""
    match output.reduce:
        case "stack":
            return gradient.select(output.axis, step)
        case "mean":
            return gradient / steps
        case "last":
            return gradient if step == steps - 1 else torch.zeros_like(gradient)
        case _:
            return gradient


def _surroundings(call: Call) -> Callable[[], AbstractContextManager[None]]:
    """Makes a context like the present one: autocast, and the same random numbers."""
    device = call.inputs[0].device
    autocast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type)
    devices = [device] if device.type == "cuda" else []
    states = (torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in devices])

    @contextmanager
    def again() -> Generator[None]:
        with (
            torch.random.fork_rng(devices),  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            torch.autocast(device.type, dtype, enabled=autocast, cache_enabled=False),
        ):
            torch.set_rng_state(states[0])
            for cuda, state in zip(devices, states[1], strict=True):
                torch.cuda.set_rng_state(state, cuda)
            yield

    return again
