"""Models that loop over time themselves."""

# pyright: basic

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import snncompile.nn as own
from snncompile.capture import capture
from snncompile.errors import CaptureError, InputError
from snncompile.ir.neurons import lif
from snncompile.ir.program import Program
from snncompile.ir.text import text
from snncompile.module import Transformed
from tests.capture.networks import (
    BatchFirst,
    Delayed,
    Fire,
    HandWritten,
    NumbersFirst,
    Reductions,
    Residual,
    fire,
)
from tests.reference.runner import run_program

MODELS: list[tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = [
    (HandWritten, (5, 3, 6), (9, 2, 6)),
    (NumbersFirst, (3, 6), (5, 6)),
    (BatchFirst, (3, 5, 6), (2, 8, 6)),
    (Residual, (4, 3, 1, 6, 6), (7, 2, 1, 6, 6)),
    (Delayed, (5, 3, 6), (7, 4, 6)),
    (Reductions, (5, 3, 6), (3, 4, 6)),
]
"""A model, the shape it is captured with, another shape it is called with."""


def same(model: nn.Module, program: Program, *args: Any) -> None:
    """The program returns bit for bit what the model does."""
    wanted, spec = pytree.tree_flatten(model(*args))
    found, other = pytree.tree_flatten(run_program(program, *args))
    assert spec == other
    for want, have in zip(wanted, found, strict=True):
        assert torch.equal(want, have) if isinstance(want, Tensor) else want == have


@pytest.mark.parametrize(("make", "shape", "other"), MODELS)
def test_a_program_returns_what_the_model_returns(
    make: Callable[[], nn.Module], shape: tuple[int, ...], other: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    model = make().eval()

    program = capture(model, torch.rand(shape))

    same(model, program, 2 * torch.rand(shape))
    same(model, program, 2 * torch.rand(other))


@pytest.mark.parametrize("make", [HandWritten, Residual])
def test_gradients_pass_a_surrogate_bound_at_import(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().double()
    x = torch.rand(4, 3, 6) if make is HandWritten else torch.rand(4, 3, 1, 6, 6)
    x = x.double()
    program = capture(model, x)
    reference = copy.deepcopy(model)

    runs: list[tuple[nn.Module, Callable[[Tensor], Any]]] = [
        (reference, reference),
        (model, lambda x: run_program(program, x)),
    ]
    for network, run in runs:
        loss: Any = sum(leaf.square().sum() for leaf in pytree.tree_leaves(run(x)))
        loss.backward()
        assert all(p.grad is not None for p in network.parameters())

    for want, have in zip(reference.parameters(), model.parameters(), strict=True):
        assert want.grad is not None
        assert want.grad.abs().max() > 0
        torch.testing.assert_close(have.grad, want.grad, rtol=1e-12, atol=1e-12)


def test_time_follows_the_input_only_where_the_model_reads_its_length() -> None:
    assert capture(HandWritten(), torch.rand(5, 2, 6)).time is None
    assert capture(NumbersFirst(6), torch.rand(2, 6)).time == 6


def test_reductions_are_recognised() -> None:
    program = capture(Reductions(), torch.rand(5, 3, 6))

    kinds = {output.reduce for output in program.outputs}

    assert kinds == {"stack", "sum", "mean", "max", "last", "running_sum"}


def test_a_sum_over_steps_inside_the_loop_is_a_running_sum() -> None:
    program = capture(NumbersFirst(), torch.rand(2, 6))

    assert [output.reduce for output in program.outputs] == ["running_sum"]
    assert [state.label for state in program.states] != []


def test_a_capture_leaves_the_model_as_it_was() -> None:
    model = Residual()
    before = copy.deepcopy(model.state_dict())
    attributes = {name: dict(vars(module)) for name, module in model.named_modules()}

    capture(model, torch.rand(4, 2, 1, 6, 6))

    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert {n: dict(vars(m)) for n, m in model.named_modules()} == attributes
    assert Fire.apply(torch.ones(1)) == 1  # type: ignore[no-untyped-call]


def test_one_batch_and_one_step_leave_sizes_free() -> None:
    torch.manual_seed(0)
    model = HandWritten()

    program = capture(model, torch.rand(1, 1, 6))

    same(model, program, 2 * torch.rand(6, 3, 6))


class _Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_a_branch_on_data_is_refused_with_its_line() -> None:
    with pytest.raises(CaptureError, match=re.escape("if x.sum() > 0:")):
        capture(_Branches(), torch.rand(3, 4))


class _Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        membrane = torch.zeros(x.size(1), 6)
        for t, x_t in enumerate(x):
            membrane = 0.5 * membrane + x_t
            if t == 2:
                membrane = torch.relu(membrane)
        return membrane


def test_steps_that_differ_are_shown_with_their_neighbours() -> None:
    with pytest.raises(CaptureError) as caught:
        capture(_Odd(), torch.rand(5, 3, 6))

    message = str(caught.value)
    assert "of step 2" in message
    assert "relu" in message
    assert "step 1:" in message
    assert "step 3:" in message


class _Shapes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        scale = 2.0 if x.shape[-1] > 4 else 3.0
        membrane = torch.zeros(x.shape[1:])
        half = x.shape[-1] // 2
        for x_t in x:
            membrane = membrane * 0.5 + scale * x_t
        return membrane[:, :half]


def test_python_may_branch_and_compute_on_shapes() -> None:
    model = _Shapes()

    program = capture(model, torch.rand(4, 3, 6))

    same(model, program, torch.rand(5, 2, 6))


class _Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for x_t in x:
            with torch.no_grad():
                features = torch.tanh(self.first(x_t))
            rows.append(fire(self.second(features)))
        return torch.stack(rows)


def test_what_runs_without_gradients_stays_without() -> None:
    model = _Frozen()
    program = capture(model, torch.rand(4, 3, 6))

    run_program(program, torch.rand(4, 3, 6)).sum().backward()

    assert model.first.weight.grad is None
    assert model.second.weight.grad is not None


def test_capture_without_inputs_says_what_it_needs() -> None:
    with pytest.raises(InputError, match="example inputs"):
        capture(HandWritten())


def test_time_steps_that_contradict_the_model_are_refused() -> None:
    with pytest.raises(InputError, match="6 time steps"):
        capture(NumbersFirst(6), torch.rand(3, 6), time_steps=4)


def test_a_hand_written_neuron_is_raised_and_reported() -> None:
    program = capture(HandWritten(), torch.rand(5, 3, 6))

    assert [node.target for node in program.neurons()] == [lif]
    assert any("raised" in note for note in program.notes)


def test_a_neuron_whose_charged_membrane_is_read_stays_arithmetic() -> None:
    class Watched(HandWritten):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            membrane = torch.zeros(x.size(1), 8)
            seen = []
            for x_t in x:
                charged = self.decay * membrane + self.layer(x_t)
                spike = fire(charged - 1.0)
                membrane = charged - spike
                seen.append(charged)
            return torch.stack(seen), membrane

    torch.manual_seed(0)
    model = Watched()
    program = capture(model, torch.rand(5, 3, 6))

    assert list(program.neurons()) == []
    same(model, program, 2 * torch.rand(4, 2, 6))


class _Picky(nn.Module):
    """Weights each step by its number after the loop, and records membranes before each step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        membrane = torch.zeros(x.size(1), 8)
        before, after = [], []
        for x_t in x:
            before.append(membrane)
            membrane = torch.tanh(membrane + self.layer(x_t))
            after.append(membrane)
        weighted: Any = sum(value / (t + 1) for t, value in enumerate(after))
        return torch.stack(before), weighted


def test_states_recorded_before_their_step_are_a_stack() -> None:
    program = capture(_Picky(), torch.rand(5, 3, 6))

    assert program.outputs[0].reduce == "stack"
    assert program.epilogue is not None


@pytest.mark.parametrize("captured", [1, 2, 5])
def test_steps_treated_by_number_are_captured_once_a_length(captured: int) -> None:
    torch.manual_seed(0)
    model = _Picky()
    fast = Transformed(model, (), "steps", None)

    for steps in (captured, 4, 1, 3, captured):
        x = torch.rand(steps, 2, 6)
        for want, have in zip(model(x), fast(x), strict=True):
            assert torch.equal(want, have)


class OneLayer(nn.Module):
    """A layer with a time loop of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.neuron = nn.Linear(4, 4), own.LIF()

    def forward(self, x: Tensor) -> Tensor:
        own.reset(self)
        return torch.stack([self.neuron(self.layer(x_t)) for x_t in x])


def test_a_second_loop_over_time_is_refused() -> None:
    with pytest.raises(CaptureError, match="loops over time twice, one loop after the other"):
        capture(nn.Sequential(OneLayer(), OneLayer()), torch.rand(5, 2, 4))


class ByNumpy(nn.Module):
    """Computes a setting with numpy, as libraries do with the size of a weight."""

    def forward(self, x: Tensor) -> Tensor:
        size: Any = np.prod((3, 9))
        return torch.stack([x_t * size for x_t in x])


def test_numbers_of_numpy_are_numbers() -> None:
    program = capture(ByNumpy(), torch.rand(5, 2, 4))

    assert "mul(%x, 27)" in text(program)
    same(ByNumpy(), program, torch.rand(3, 2, 4))
