"""Runs a program's step in a plain time loop, for tests of passes."""

import torch
from torch import Tensor, fx

from snncompile.ir.program import Program, is_spiking
from snncompile.ir.values import StepInterpreter, refresh


class _Recording(StepInterpreter):
    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.spikes: list[Tensor] = []

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if is_spiking(n):
            self.spikes.append(value[0])
        return value


def run(program: Program, *sequences: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and spikes of every neuron, each stacked to [T, N, ...]; states start as filled."""
    dtype, batch = sequences[0].dtype, sequences[0].shape[1]
    states = [
        torch.full((batch, *(int(size) for size in state.shape[1:])), float(state.initial)).to(
            dtype
        )
        for state in program.states
    ]
    outputs: list[list[Tensor]] = []
    spikes: list[list[Tensor]] = []
    for inputs in zip(*sequences, strict=True):
        step = _Recording(program)
        returned, states = step.run(*inputs, *states)
        outputs.append(returned)
        spikes.append(step.spikes)
    return _stacked(outputs), _stacked(spikes)


def _stacked(steps: list[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(values) for values in zip(*steps, strict=True)]


def double(program: Program) -> Program:
    """The program with its parameters, inputs and states turned to float64, in place."""
    program.root.double()
    for node in program.placeholders():
        value = node.meta["val"]
        with value.fake_mode:
            node.meta["val"] = value.double()
    refresh(program)
    return program


def assert_active(spikes: list[Tensor]) -> None:
    """Every neuron fires sometimes, and not always: a comparison of spikes means something."""
    for layer in spikes:
        assert 0 < layer.mean().item() < 1
