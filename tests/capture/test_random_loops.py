"""Whatever the step, a loop over it in forward is captured to the same step."""

# pyright: basic

import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snncompile.capture import capture
from snncompile.ir.program import Program
from snncompile.ir.values import StepInterpreter
from tests.random_programs import WIDTH, programs
from tests.reference.runner import run_program
from tests.runtime.plain_loop import dyadic_input


class Unrolled(nn.Module):
    """Runs a random program's step in a Python loop, states passed by hand."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.root = program.root
        self.__dict__["program"] = program

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        program = self.__dict__["program"]
        kinds = [spec.kind for spec in program.inputs]
        batch = inputs[0].shape[1] if kinds[0] == "sequence" else inputs[0].shape[0]
        states = [torch.full((batch, WIDTH), state.initial) for state in program.states]
        rows = []
        for t in range(inputs[0].shape[0]):
            now = [x[t] if k == "sequence" else x for x, k in zip(inputs, kinds, strict=True)]
            outputs, states = StepInterpreter(program).run(*now, *states)
            rows.append(outputs)
        return tuple(torch.stack(values) for values in zip(*rows, strict=True))


@settings(
    max_examples=30,
    phases=[Phase.generate],
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(programs(), st.integers(2, 5), st.integers(1, 3))
def test_a_loop_over_any_step_is_rolled_up(program: Program, steps: int, batch: int) -> None:
    assume(program.inputs[0].kind == "sequence")
    shapes = {"sequence": (4, 2, WIDTH), "static": (2, WIDTH)}
    model = Unrolled(program)

    captured = capture(model, [torch.rand(shapes[spec.kind]) for spec in program.inputs])

    sizes = {"sequence": (steps, batch, WIDTH), "static": (batch, WIDTH)}
    inputs = [dyadic_input(*sizes[spec.kind]) for spec in program.inputs]
    assume(not captured.one_length)
    found = pytree.tree_leaves(run_program(captured, *inputs))
    for want, have in zip(model(*inputs), found, strict=True):
        assert torch.equal(want, have)
