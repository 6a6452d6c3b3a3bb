"""The slow independent reference: one step after the other, node by node, then a naive reduction."""

# pyright: basic

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from snncompile.ir.program import Output, Program, is_neuron
from snncompile.ir.values import StepInterpreter


@dataclass
class Observed:
    """What the plain loop computed."""

    outputs: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    received: dict[str, list[tuple[Tensor, ...]]] = field(default_factory=dict)
    emitted: dict[str, list[tuple[Tensor, ...]]] = field(default_factory=dict)


class _Watching(StepInterpreter):
    def __init__(self, program: Program, observed: Observed) -> None:
        super().__init__(program)
        self.observed = observed

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if is_neuron(n):
            operands = tuple(self.env[a] for a in n.args if isinstance(a, fx.Node))
            self.observed.received.setdefault(n.name, []).append(operands)
            self.observed.emitted.setdefault(n.name, []).append(value)
        return value


def plain_loop(
    program: Program, inputs: tuple[Tensor, ...], states: tuple[Tensor, ...], steps: int
) -> Observed:
    """Run a program without its schedule."""
    observed = Observed((), states)
    rows: list[tuple[Tensor, ...]] = []
    for t in range(steps):
        now = [
            value[t] if spec.kind == "sequence" else value
            for spec, value in zip(program.inputs, inputs, strict=True)
        ]
        row, observed.states = _Watching(program, observed).run(*now, *observed.states)
        rows.append(row)
    columns = zip(*rows, strict=True)
    observed.outputs = tuple(
        _reduce(list(values), output)
        for values, output in zip(columns, program.outputs, strict=True)
    )
    return observed


def _reduce(values: list[Tensor], output: Output) -> Tensor:
    if output.reduce == "last":
        return values[-1]
    if output.reduce == "running_sum":
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total
    stacked = torch.stack(values, output.axis if output.reduce == "stack" else 0)
    reductions: dict[str, Any] = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax}
    return reductions[output.reduce](stacked, 0) if output.reduce in reductions else stacked


def zero_states(
    program: Program, batch: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    """The states before the first step, filled as the program says."""
    return tuple(
        torch.full((batch, *state.shape[1:]), state.initial, dtype=dtype)  # type: ignore[arg-type]
        for state in program.states
    )


def dyadic_input(*shape: int, seed: int = 0) -> Tensor:
    """Multiples of 1/4 between -1 and 2: sums of such are exact."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 9, shape, generator=generator) / 4
