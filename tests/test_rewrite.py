# pyright: basic
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from snncompile.errors import InputError, InvalidProgramError, PassRefusedError
from snncompile.ir.program import Program
from snncompile.ir.text import text
from snncompile.passes import PASSES, find
from snncompile.passes.fuse_batchnorm import FuseBatchNorm
from snncompile.rewrite import Keeps, Pass, copy_program, own_root, run_passes
from tests.programs import Step, convolutional, feedforward


@dataclass(frozen=True)
class Nothing(Pass):
    """Rewrites nothing."""

    name: ClassVar[str] = "nothing"
    keeps: ClassVar[Keeps] = "outputs"

    def requires(self, program: Program) -> None:
        """Take every program."""

    def apply(self, program: Program) -> int:
        return 0


@dataclass(frozen=True)
class Breaking(Nothing):
    """Leaves a program that is none: its first layer calls itself."""

    name: ClassVar[str] = "breaking"

    def apply(self, program: Program) -> int:
        layer = program.step.find_nodes(op="call_module")[0]
        layer.target = "nowhere"
        return 1


def dead(*modules: nn.Module) -> Program:
    """Modules whose values nobody reads, before an identity."""
    root = nn.ModuleDict({"end": nn.Identity(), **{f"m{i}": m for i, m in enumerate(modules)}})
    step = Step(root)
    x = step.input("x", 4)
    for index in range(len(modules)):
        step.module(f"m{index}", x)
    return step.program(step.module("end", x))


def names(program: Program) -> list[str]:
    return [str(node.target) for node in program.step.find_nodes(op="call_module")]


def test_dead_nodes_are_cleared() -> None:
    program = dead(nn.Linear(4, 4), nn.Flatten(), nn.Dropout(0.5).eval())

    Nothing()(program)

    assert names(program) == ["end"]


def test_what_draws_or_keeps_statistics_stays_although_nobody_reads_it() -> None:
    program = dead(nn.Dropout(0.5), nn.BatchNorm1d(4))
    statistics = program.root.get_buffer("m1.running_mean")
    before = statistics.clone()

    Nothing()(program)

    assert names(program) == ["m0", "m1", "end"]
    torch.testing.assert_close(statistics, before, rtol=0, atol=0)


def test_random_and_writing_functions_stay_although_nobody_reads_them() -> None:
    step = Step(nn.Identity())
    x = step.input("x", 4)
    step.call(torch.rand_like, x)
    step.call(torch.relu, x)
    step.graph.call_method("zero_", (step.call(torch.clone, x),))
    program = step.program(x)

    Nothing()(program)

    kept = [node.name for node in program.step.nodes]
    assert kept == ["x", "rand_like", "clone", "zero_", "output"]


def test_a_state_that_nobody_reads_stays_a_placeholder() -> None:
    step = Step(nn.Identity())
    x, state = step.input("x", 4), step.state("unread", 4)
    step.next["unread"] = x
    program = step.program(x)

    Nothing()(program)

    assert [node.name for node in program.placeholders()] == ["x", state.name]


def test_a_refusal_says_which_pass_it_was_and_marks_the_node() -> None:
    program = convolutional()

    with pytest.raises(PassRefusedError) as caught:
        run_passes(program, [Nothing(), FuseBatchNorm()])

    place, marked = caught.value.__notes__
    lines = marked.splitlines()
    assert place == "in pass 2 of 2: fuse-batchnorm"
    assert lines[lines.index("  ^^^^^") - 1].startswith("  %norm = norm: BatchNorm2d(4)(%conv1)")


def test_a_pass_that_breaks_a_rule_is_named() -> None:
    with pytest.raises(InvalidProgramError, match="calls module 'nowhere'") as caught:
        run_passes(feedforward(), [Breaking()])

    assert caught.value.__notes__[-1] == "in pass 1 of 1: breaking"


def test_a_list_of_passes_runs_in_place_and_in_order() -> None:
    program = convolutional()
    program.root.eval()

    run_passes(program, [FuseBatchNorm(), Nothing()])

    assert "BatchNorm" not in text(program)


def test_a_copy_is_rewritten_alone_and_shares_the_model() -> None:
    program = convolutional()
    program.root.eval()
    before = text(program)
    copied = copy_program(program)

    assert copied.root is program.root
    FuseBatchNorm()(copied)

    assert text(program) == before != text(copied)
    assert copied.root is not program.root


def test_an_own_root_keeps_keys_and_sharing() -> None:
    program = feedforward((4, 4, 4))
    model = program.root
    model.get_submodule("1").weight = model.get_submodule("0").weight

    own_root(program)

    assert list(program.root.state_dict()) == list(model.state_dict())
    assert program.root.get_submodule("1").weight is program.root.get_submodule("0").weight
    assert program.root.get_submodule("0").weight is not model.get_submodule("0").weight


def test_an_own_root_copies_hidden_states_without_their_graph() -> None:
    program = feedforward()
    layer = program.root.get_submodule("0")
    membrane = layer(torch.ones(1, 8))
    vars(layer)["hidden"] = {"membrane": membrane}

    own_root(program)

    copied = vars(program.root.get_submodule("0"))["hidden"]["membrane"]
    assert membrane.requires_grad
    assert not copied.requires_grad
    torch.testing.assert_close(copied, membrane.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", PASSES)
def test_every_pass_is_found_by_its_name(kind: type[Pass]) -> None:
    assert find(kind.name) is kind


def test_a_misspelled_pass_is_guessed() -> None:
    with pytest.raises(InputError) as caught:
        find("fuse-batchnrom")

    assert str(caught.value).startswith(
        "there is no pass 'fuse-batchnrom'. Did you mean 'fuse-batchnorm'? The passes are: "
    )


def test_an_unknown_pass_is_answered_with_those_that_exist() -> None:
    with pytest.raises(InputError, match=r"there is no pass 'x'\. The passes are: fuse-batchnorm"):
        find("x")
