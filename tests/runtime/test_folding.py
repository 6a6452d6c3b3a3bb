"""What folds many steps into the batch, and that folding or not never changes a value."""

# pyright: basic

from collections.abc import Callable
from operator import getitem
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from snncompile.ir.dependence import components
from snncompile.ir.program import Program
from snncompile.runtime.schedule import Runner, ScheduleName
from tests.programs import Step
from tests.runtime.plain_loop import dyadic_input, plain_loop

ROUNDING = 1e-6
"""Of float32 matrix products and exponentials, whose order torch picks by the size."""

SCHEDULES: tuple[ScheduleName | int, ...] = ("steps", "layers", 2)

Body = Callable[[Step, fx.Node], fx.Node]


class Halve(torch.autograd.Function):
    """Someone's own function."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x / 2

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0] / 2


def sized_reshape(step: Step, x: fx.Node) -> fx.Node:
    batch = step.call(torch.ops.aten.sym_size.int, x, 0)
    return step.call(torch.reshape, x, (batch, 8, 3))


def merged_batch(step: Step, x: fx.Node) -> fx.Node:
    return step.call(torch.sin, step.call(torch.reshape, x, (-1, 3)))


def flat(step: Step, x: fx.Node) -> fx.Node:
    return step.call(torch.sin, step.call(torch.reshape, x, (-1,)))


def second_chunk(step: Step, x: fx.Node) -> fx.Node:
    return step.call(getitem, step.call(torch.chunk, x, 2, 1), 1)


def largest(step: Step, x: fx.Node) -> fx.Node:
    return step.call(getitem, step.call(torch.max, x, 2), 0)


def attention(step: Step, x: fx.Node) -> fx.Node:
    scores = step.call(torch.matmul, x, step.call(torch.transpose, x, 1, 2))
    return step.call(torch.matmul, step.call(torch.softmax, scores, -1), x)


def layer(module: nn.Module) -> Body:
    def body(step: Step, x: fx.Node) -> fx.Node:
        step.root.add_module("layer", module)
        return step.module("layer", x)

    return body


def call(function: Callable[..., Any], *args: object) -> Body:
    return lambda step, x: step.call(function, x, *args)


def method(name: str, *args: float) -> Body:
    return lambda step, x: step.graph.call_method(name, (x, *args))


def joined(axis: int) -> Body:
    return lambda step, x: step.call(torch.cat, (x, x), axis)


FOLDED: dict[str, Body] = {
    "sized_reshape": sized_reshape,
    "merged_batch": merged_batch,
    "flat": flat,
    "second_chunk": second_chunk,
    "largest": largest,
    "attention": attention,
    "own_function": call(Halve.apply),
    "join": joined(1),
    "mean": call(torch.mean, (1, 2)),
    "index": call(getitem, (slice(None), 1)),
    "permute": call(torch.permute, (0, 2, 1)),
    "unsqueeze": call(torch.unsqueeze, 1),
    "pad": call(functional.pad, (1, 1)),
    "method": method("clamp", -0.5, 0.5),
    "layer_norm": call(functional.layer_norm, (6,)),
    "linear": layer(nn.Linear(6, 3)),
    "group_norm": layer(nn.GroupNorm(2, 4)),
    "layer_norm_layer": layer(nn.LayerNorm([4, 6])),
    "flatten": layer(nn.Flatten()),
    "softmax": layer(nn.Softmax(-1)),
    "max_pool": layer(nn.MaxPool1d(2)),
    "instance_norm": layer(nn.InstanceNorm1d(4)),
}
STEPWISE: dict[str, Body] = {
    "softmax_over_the_batch": call(torch.softmax, 0),
    "mean_of_everything": call(torch.mean),
    "join_along_the_batch": joined(0),
    "first_of_the_batch": call(getitem, slice(0, 1)),
    "flip_of_the_batch": call(torch.flip, (0,)),
    "standard_deviation": call(torch.std, True),
    "batch_to_the_end": call(torch.permute, (1, 2, 0)),
    "softmax_layer_over_the_batch": layer(nn.Softmax(0)),
    "batchnorm": layer(nn.BatchNorm1d(4)),
    "batchnorm_without_memory": layer(nn.BatchNorm1d(4, track_running_stats=False).eval()),
    "unknown_module": layer(nn.Sequential(nn.ReLU())),
    "unknown_function": call(torch.roll, 1, 0),
}
BODIES = {**FOLDED, **STEPWISE}


def _program(body: Body) -> Program:
    torch.manual_seed(0)
    step = Step(nn.Module())
    return step.program(body(step, step.input("x", 4, 6)))


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_call_means_the_same_folded(name: str, batch: int) -> None:
    program = _program(BODIES[name])
    x = dyadic_input(5, batch, 4, 6) + 0.125
    expected = plain_loop(program, (x,), (), 5).outputs

    for schedule in SCHEDULES:
        found, _ = Runner(program, schedule).run((x,), (), 5)

        torch.testing.assert_close(found, expected, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("name", FOLDED)
def test_calls_that_keep_the_batch_apart_fold(name: str) -> None:
    kinds = {component.kind for component in components(_program(FOLDED[name]))}

    assert kinds <= {"batchwise", "invariant"}


@pytest.mark.parametrize("name", STEPWISE)
def test_calls_that_mix_the_batch_run_step_by_step(name: str) -> None:
    kinds = [component.kind for component in components(_program(STEPWISE[name]))]

    assert "stepwise" in kinds


def test_a_dropout_that_trains_folds() -> None:
    program = _program(layer(nn.Dropout(0.5)))

    (found,), _ = Runner(program, "layers").run((torch.ones(5, 3, 4, 6),), (), 5)

    assert components(program)[-1].kind == "batchwise"
    assert not torch.equal(found[0], found[1])


def test_a_layer_with_its_own_forward_is_not_taken_for_its_base() -> None:
    class Centred(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - x.mean())

    assert components(_program(layer(Centred(6, 6))))[-1].kind == "stepwise"


def test_a_parametrized_layer_is_still_its_base() -> None:
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))

    assert components(_program(layer(linear)))[-1].kind == "batchwise"
