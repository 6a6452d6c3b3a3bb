"""What every registered pass must satisfy; a new pass is covered by its line in EXAMPLES."""
# pyright: basic

import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from snncompile.ir import neurons
from snncompile.ir.charges import Leak
from snncompile.ir.program import Program
from snncompile.ir.resets import Hard
from snncompile.ir.text import text
from snncompile.passes import PASSES
from snncompile.passes.binarize import Binarize
from snncompile.rewrite import Pass, copy_program
from tests.passes.plain_loop import assert_active, double, run
from tests.programs import Step, dyadic_, feedforward

ROOT = Path(__file__).parents[2]

GRADIENT_TOLERANCE = 1e-12
"""Relative, in float64: passes that keep outputs may round in another order, and no more."""


def normalised() -> Program:
    """A convolution, a BatchNorm whose folding is exact, a LIF neuron."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(2, eps=0.0)
    norm.running_mean = torch.tensor([0.25, -0.5])
    norm.running_var = torch.tensor([0.25, 4.0])
    root = nn.ModuleDict({"conv": nn.Conv2d(1, 2, 3, padding=1, bias=False), "norm": norm})
    dyadic_(root, 4.0).eval()
    step = Step(root)
    x = step.input("x", 1, 4, 4)
    membrane = step.state("lif.membrane", 2, 4, 4)
    return step.program(step.lif(step.module("norm", step.module("conv", x)), membrane, "lif"))


def hard_reset() -> Program:
    """A Linear layer and a LIF neuron that starts anew after a spike."""
    torch.manual_seed(0)
    root = dyadic_(nn.ModuleDict({"w": nn.Linear(4, 2)}), 4.0)
    step = Step(root)
    x, membrane = step.input("x", 4), step.state("v", 2)
    current = step.module("w", x)
    return step.program(step.lif(current, membrane, "lif", charge=Leak(2.0), reset=Hard()))


def layered() -> Program:
    """A stem, a layer between neurons, a classifier; a channel's weights have a mean of 1/2."""
    torch.manual_seed(0)
    widths = {"stem": 4, "inner": 4, "head": 2}
    root = dyadic_(nn.ModuleDict({key: nn.Linear(4, n) for key, n in widths.items()}), 4.0)
    with torch.no_grad():
        weight = root.get_parameter("inner.weight")
        weight.copy_(torch.tensor([0.25, 0.75, 0.5, 0.5]).copysign(weight))
    step = Step(root)
    value = step.input("x", 4)
    membranes = [step.state(label, 4) for label in "ab"]
    for key, label, membrane in zip(widths, "ab", membranes, strict=False):
        value = step.lif(step.module(key, value), membrane, label)
    return step.program(step.module("head", value))


def fed() -> Program:
    """A layer and its neuron."""
    torch.manual_seed(0)
    step = Step(dyadic_(nn.ModuleDict({"fc": nn.Linear(4, 8)}), 4.0))
    x, membrane = step.input("x", 4), step.state("lif", 8)
    return step.program(step.lif(step.module("fc", x), membrane, "lif"))


def binary() -> Program:
    """A binary convolution and a BatchNorm whose folding is exact, and a neuron."""
    program = normalised()
    weight = program.root.get_parameter("conv.weight")
    with torch.no_grad():
        weight.copy_(torch.full_like(weight, 0.5).copysign(weight))
    Binarize(layers=("conv",))(program)
    return program


def on_a_map() -> Program:
    """A convolution and a LIF neuron on a map of 4x4."""
    torch.manual_seed(0)
    root = nn.ModuleDict({"conv": nn.Conv2d(1, 2, 3, padding=1)})
    dyadic_(root, 4.0)
    step = Step(root)
    x = step.input("x", 1, 4, 4)
    membrane = step.state("lif.membrane", 2, 4, 4)
    current = step.module("conv", x)
    return step.program(step.lif(current, membrane, "lif", reset=neurons.Keep()))


def masked() -> Program:
    """A Linear and a LIF neuron whose spikes after the first are multiplied by 0."""
    torch.manual_seed(0)
    step = Step(dyadic_(nn.Sequential(nn.Linear(8, 16)), 4.0))
    x = step.input("x", 8)
    membrane, fired = step.state("lif.membrane", 16), step.state("lif.fired", 16)
    spikes = step.lif(step.module("0", x), membrane, "lif")
    first = step.call(torch.mul, spikes, step.call(torch.sub, 1, fired))
    step.next["lif_fired"] = step.call(torch.add, fired, first)
    return step.program(first)


def beside_a_pixel() -> Program:
    """A convolution, a LIF neuron, a pooling and a Linear, all for maps of more than one pixel."""
    torch.manual_seed(0)
    layers = {"conv": nn.Conv2d(2, 3, 3, padding=1), "pool": nn.AdaptiveAvgPool2d(2)}
    step = Step(dyadic_(nn.ModuleDict({**layers, "head": nn.Linear(12, 2)}), 4.0))
    x, membrane = step.input("x", 2, 1, 1), step.state("lif.membrane", 3, 1, 1)
    spikes = step.lif(step.module("conv", x), membrane, "lif")
    pooled = step.module("pool", spikes)
    return step.program(step.module("head", step.call(torch.flatten, pooled, 1)))


EXAMPLES: dict[str, Callable[[], Program]] = {
    "fuse-batchnorm": normalised,
    "reversible": hard_reset,
    "binarize": layered,
    "saf": lambda: feedforward((3, 4, 2)),
    "recompute": feedforward,
    "multi-precision": fed,
    "deploy": binary,
    "one-step": on_a_map,
    "small-maps": beside_a_pixel,
    "channels-last": on_a_map,
    "parallel": lambda: feedforward((8, 16)),
    "single-spike": masked,
    "event-driven": lambda: feedforward((3, 4, 2)),
}
"""The smallest program that each pass rewrites, with dyadic parameters."""

every_pass = pytest.mark.parametrize("kind", PASSES, ids=lambda kind: kind.name)


def documented(kind: type[Pass], title: str) -> list[str]:
    """A block of the pass's docstring, line by line; a line may go on in the next, deeper one."""
    docstring = inspect.getdoc(sys.modules[kind.__module__]) or ""
    found = re.search(rf"^{title}::\n\n(.*?)(?=^\S|\Z)", docstring, re.MULTILINE | re.DOTALL)
    assert found, f"the docstring has no block {title!r}"
    block = textwrap.dedent(found[1]).strip()
    joined = re.sub(r"\n {4,}", "  ", block)
    return squeezed(joined)


def squeezed(block: str) -> list[str]:
    return [" ".join(line.split()) for line in block.splitlines()]


def inputs_of(program: Program, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Random multiples of 1/4, [T, N, ...], one a sequence."""
    torch.manual_seed(1)
    shapes = [node.meta["val"].shape[1:] for node in program.placeholders()[: len(program.inputs)]]
    return [torch.randint(-8, 9, (6, 3, *shape)).to(dtype) / 4 for shape in shapes]


@every_pass
def test_the_docstring_shows_what_the_pass_does(kind: type[Pass]) -> None:
    program = EXAMPLES[kind.name]()
    before = text(program)

    rewritten = kind()(program)

    assert rewritten > 0
    assert documented(kind, "Before") == squeezed(before)
    assert documented(kind, "After") == squeezed(text(program))


@every_pass
def test_the_docstring_says_what_is_kept_and_where_it_is_from(kind: type[Pass]) -> None:
    docstring = sys.modules[kind.__module__].__doc__ or ""

    assert "\nKeeps: " in docstring
    assert "\nReference: " in docstring


@every_pass
def test_the_example_fires_the_same_spikes(kind: type[Pass]) -> None:
    before = EXAMPLES[kind.name]()
    after = copy_program(before)
    kind()(after)
    inputs = inputs_of(before)

    old_outputs, old_spikes = run(before, *inputs)
    new_outputs, new_spikes = run(after, *inputs)

    assert_active(old_spikes)
    if kind.keeps in ("outputs", "spikes"):
        torch.testing.assert_close(new_spikes, old_spikes, rtol=0, atol=0)
        torch.testing.assert_close(new_outputs, old_outputs, rtol=0, atol=0)
    assert [value.shape for value in new_outputs] == [value.shape for value in old_outputs]


@every_pass
def test_what_keeps_outputs_keeps_gradients(kind: type[Pass]) -> None:
    before = double(EXAMPLES[kind.name]())
    after = copy_program(before)
    kind()(after)

    gradients = []
    for program in (before, after):
        inputs = [value.requires_grad_() for value in inputs_of(before, torch.float64)]
        outputs, _ = run(program, *inputs)
        loss = torch.stack([(value**2).sum() for value in outputs]).sum()
        gradients.append(torch.autograd.grad(loss, inputs))

    if kind.keeps == "outputs":
        assert all(value.abs().sum() > 0 for value in gradients[0])
        torch.testing.assert_close(*gradients, rtol=GRADIENT_TOLERANCE, atol=GRADIENT_TOLERANCE)


@every_pass
def test_a_second_run_changes_nothing(kind: type[Pass]) -> None:
    program = EXAMPLES[kind.name]()
    kind()(program)
    once, root = text(program), program.root

    assert kind()(program) == 0
    assert text(program) == once
    assert program.root is root


@every_pass
def test_the_users_model_is_untouched(kind: type[Pass]) -> None:
    program = EXAMPLES[kind.name]()
    model = program.root
    before = {key: value.clone() for key, value in model.state_dict().items()}

    kind()(program)

    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


@every_pass
def test_file_pass_and_test_have_one_name(kind: type[Pass]) -> None:
    stem = kind.name.replace("-", "_")

    assert kind.__module__ == f"snncompile.passes.{stem}"
    assert (ROOT / "passes" / f"{stem}.py").is_file()
    assert (ROOT / "tests" / "passes" / f"test_{stem}.py").is_file()
    assert kind.keeps in ("outputs", "spikes", "interface")


def test_every_file_of_passes_is_listed() -> None:
    files = {path.stem for path in (ROOT / "passes").glob("*.py")} - {"__init__"}

    assert files == {kind.__module__.rpartition(".")[2] for kind in PASSES}
