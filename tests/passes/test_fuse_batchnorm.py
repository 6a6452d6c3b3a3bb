# pyright: basic
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from snncompile.errors import PassRefusedError
from snncompile.ir.program import Program
from snncompile.ir.text import text
from snncompile.passes.fuse_batchnorm import FuseBatchNorm
from snncompile.rewrite import copy_program
from tests.passes.plain_loop import double, run
from tests.programs import Step, convolutional

ROUNDING = 1e-12
"""Relative, in float64: folding multiplies in another order."""


def warm(norm: nn.Module) -> nn.Module:
    """Statistics and parameters as after training."""
    with torch.no_grad():
        for value in norm.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5)
    return norm


def chain(*layers: nn.Module, shape: tuple[int, ...] = (4,)) -> Program:
    """The layers one after the other, in float64, their value being the output."""
    torch.manual_seed(0)
    root = nn.Sequential(*(warm(layer) for layer in layers)).eval()
    step = Step(root)
    value = step.input("x", *shape)
    for index in range(len(layers)):
        value = step.module(str(index), value)
    return double(step.program(value))


def outputs_before_and_after(program: Program, *shape: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    fused = copy_program(program)
    FuseBatchNorm()(fused)
    return run(program, x)[0][0], run(fused, x)[0][0]


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Linear(4, 6), nn.BatchNorm1d(6)), (4,)),
        ((nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6, affine=False)), (4,)),
        ((nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)), (4, 9)),
        ((nn.Conv2d(4, 6, 3, groups=2, stride=2), nn.BatchNorm2d(6)), (4, 9, 9)),
        ((nn.Conv3d(4, 6, 3), nn.BatchNorm3d(6)), (4, 5, 5, 5)),
        ((nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6)), (4, 5)),
        ((nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (4, 5, 5)),
        ((nn.ConvTranspose3d(4, 6, 2, bias=False), nn.BatchNorm3d(6)), (4, 3, 3, 3)),
    ],
    ids=[
        "Linear",
        "Linear without bias",
        "Conv1d",
        "Conv2d in groups",
        "Conv3d",
        "ConvTranspose1d",
        "ConvTranspose2d in groups",
        "ConvTranspose3d without bias",
    ],
)
def test_a_batchnorm_is_folded_into_every_kind_of_layer(
    layers: tuple[nn.Module, ...], shape: tuple[int, ...]
) -> None:
    program = chain(*layers, shape=shape)

    before, after = outputs_before_and_after(program, *shape)

    torch.testing.assert_close(after, before, rtol=ROUNDING, atol=ROUNDING)
    assert FuseBatchNorm()(program) == 1


@settings(max_examples=20, deadline=None)
@given(
    widths=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    with_bias=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-3, 0.0]),
)
def test_random_chains_keep_their_outputs(widths: list[int], with_bias: bool, eps: float) -> None:
    layers: list[nn.Module] = []
    for read, written in pairwise(widths):
        layers += [nn.Linear(read, written, bias=with_bias), nn.BatchNorm1d(written, eps=eps)]
    program = chain(*layers, shape=(widths[0],))

    before, after = outputs_before_and_after(program, widths[0])

    torch.testing.assert_close(after, before, rtol=ROUNDING, atol=ROUNDING)


def test_a_checkpoint_of_the_unfused_model_does_not_fit() -> None:
    program = chain(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6))
    model = program.root

    FuseBatchNorm()(program)

    assert list(program.root.state_dict()) == ["0.weight", "0.bias"]
    assert isinstance(program.root.get_submodule("1"), nn.Identity)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        program.root.load_state_dict(model.state_dict())


def test_a_frozen_layer_stays_frozen() -> None:
    program = chain(nn.Linear(4, 6), nn.BatchNorm1d(6))
    program.root.requires_grad_(False)

    FuseBatchNorm()(program)

    assert not any(parameter.requires_grad for parameter in program.root.parameters())


class SequenceConv(nn.Conv2d):
    """A layer whose forward takes whole sequences, as multi-step libraries have."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        folded = super().forward(input.flatten(0, 1))
        return folded.reshape(*input.shape[:2], *folded.shape[1:])


class SequenceNorm(nn.BatchNorm2d):
    """The BatchNorm that goes with it."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        folded = super().forward(input.flatten(0, 1))
        return folded.reshape(*input.shape[:2], *folded.shape[1:])


def test_layers_that_take_sequences_are_folded_by_what_one_step_of_them_is() -> None:
    program = chain(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), shape=(1, 5, 5))
    root = nn.Sequential(SequenceConv(1, 2, 3), SequenceNorm(2)).eval().double()
    root.load_state_dict(program.root.state_dict())
    program.root, program.whole = root, frozenset({"_1"})
    program.single_step = {"0": nn.Conv2d, "1": nn.BatchNorm2d}

    before, after = outputs_before_and_after(program, 1, 5, 5)
    rewritten = FuseBatchNorm()(program)

    torch.testing.assert_close(after, before, rtol=ROUNDING, atol=ROUNDING)
    assert (rewritten, program.whole) == (1, frozenset())
    assert program.single_step == {"0": nn.Conv2d}


def test_one_batchnorm_behind_two_layers_is_folded_into_both() -> None:
    torch.manual_seed(0)
    root = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "norm": nn.BatchNorm1d(4)})
    warm(root["norm"])
    step = Step(root.eval())
    first = step.module("norm", step.module("a", step.input("x", 4)))
    program = double(step.program(step.module("norm", step.module("b", first))))

    before, after = outputs_before_and_after(program, 4)

    torch.testing.assert_close(after, before, rtol=ROUNDING, atol=ROUNDING)
    assert FuseBatchNorm()(program) == 2


def assert_left_alone(program: Program) -> None:
    before, root = text(program), program.root

    assert FuseBatchNorm()(program) == 0
    assert text(program) == before
    assert program.root is root


def test_a_batchnorm_without_such_a_layer_before_it_stays() -> None:
    assert_left_alone(chain(nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4)))


def test_a_batchnorm_in_training_mode_without_such_a_layer_stays() -> None:
    program = chain(nn.BatchNorm1d(4))
    program.root.train()

    assert_left_alone(program)


def test_a_layer_that_others_read_too_stays() -> None:
    step = Step(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval())
    current = step.module("0", step.input("x", 4))

    assert_left_alone(step.program(step.call(torch.add, step.module("1", current), current)))


def test_a_batchnorm_over_positions_stays() -> None:
    assert_left_alone(chain(nn.Linear(4, 6), nn.BatchNorm1d(5), shape=(5, 4)))


class Standardised(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return nn.functional.linear(input, self.weight - self.weight.mean(), self.bias)


def test_a_layer_that_computes_something_else_stays() -> None:
    assert_left_alone(chain(Standardised(4, 6), nn.BatchNorm1d(6)))


def test_training_mode_is_refused() -> None:
    program = convolutional()
    root, before = program.root, text(program)

    with pytest.raises(PassRefusedError) as caught:
        FuseBatchNorm()(program)

    assert str(caught.value) == (
        "fuse-batchnorm: %norm (module norm) is in training mode, where it normalises by the "
        "statistics of the batch. Call model.eval() first."
    )
    assert (program.root, text(program)) == (root, before)


def without_statistics() -> Program:
    return chain(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False))


def parametrised() -> Program:
    return chain(parametrizations.weight_norm(nn.Linear(4, 6)), nn.BatchNorm1d(6))


def called_twice() -> Program:
    step = Step(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval())
    first = step.module("1", step.module("0", step.input("x", 4)))
    return step.program(step.module("0", first))


def read_elsewhere() -> Program:
    step = Step(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval())
    normed = step.module("1", step.module("0", step.input("x", 4)))
    return step.program(step.call(torch.add, normed, step.graph.get_attr("0.bias")))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            without_statistics,
            "fuse-batchnorm: %1 (module 1) has no running statistics: it always normalises by those of the batch. Train it with track_running_stats=True.",
        ),
        (
            parametrised,
            "fuse-batchnorm: %0 (module 0) computes its weight anew in every call, so that a folded one would be lost. Remove the parametrization first.",
        ),
        (
            called_twice,
            "fuse-batchnorm: %0 (module 0) has its parameters read by %0_1 too. Give each of the two a layer of its own.",
        ),
        (
            read_elsewhere,
            "fuse-batchnorm: %0 (module 0) has its parameters read by %0_bias too. Give each of the two a layer of its own.",
        ),
    ],
)
def test_what_would_be_folded_wrongly_is_refused(make: Callable[[], Program], message: str) -> None:
    with pytest.raises(PassRefusedError) as caught:
        FuseBatchNorm()(make())

    assert str(caught.value) == message
