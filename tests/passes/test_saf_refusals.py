"""What spike accumulation forwarding refuses, what stands in for BatchNorm, and its costs."""
# pyright: basic

from collections.abc import Callable
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import snncompile
from snncompile.errors import ExportError, InputError, PassRefusedError
from snncompile.ir import neurons
from snncompile.ir.charges import Charged, Leak
from snncompile.ir.program import Program
from snncompile.ir.resets import Hard
from snncompile.ir.text import text
from snncompile.passes.saf import SAF
from snncompile.rewrite import copy_program
from tests.passes.plain_loop import assert_active, run
from tests.passes.saf_cases import PLAIN
from tests.programs import LIF, Step, convolutional


def two_layers(
    between: Callable[[Step, Any], Any], root: nn.Module | None = None, **settings: Any
) -> Program:
    """A neuron, something, another neuron with those settings; all [N, 4, 8, 8]."""
    step = Step(root or nn.ModuleDict())
    x = step.input("x", 4, 8, 8)
    first, second = (step.state(f"{label}.membrane", 4, 8, 8) for label in ("a", "b"))
    spikes = step.lif(x, first, "a")
    return step.program(step.lif(between(step, spikes), second, "b", **settings))


def layered(layer: nn.Module) -> Program:
    return two_layers(
        lambda step, spikes: step.module("layer", spikes), nn.ModuleDict({"layer": layer})
    )


REFUSED: dict[str, tuple[Callable[[], Program], str]] = {
    "max pooling": (
        lambda: layered(nn.MaxPool2d(3, 1, 1)),
        (
            "saf: %layer (module layer) takes a maximum between spikes and a neuron. "
            "Use average pooling, or a stride in the synapse."
        ),
    ),
    "a product": (
        lambda: two_layers(lambda step, spikes: step.call(torch.mul, spikes, spikes)),
        (
            "saf: %mul (mul) multiplies two values that change from step to step between spikes and a "
            "neuron. Add them, or multiply by a constant."
        ),
    ),
    "an activation": (
        lambda: layered(nn.ReLU()),
        (
            "saf: %layer (module layer) is not known to be an affine function of spikes between spikes "
            "and a neuron. Move it behind a neuron, or build it from linear layers, sums and average "
            "pooling."
        ),
    ),
    "BatchNorm in training": (
        lambda: layered(nn.BatchNorm2d(4)),
        (
            "saf: %layer (module layer) normalises with the statistics of each batch between spikes "
            "and a neuron. Call eval() on it, or use the option batchnorm='freeze' or 'standardise'."
        ),
    ),
    "dropout by step": (
        lambda: layered(nn.Dropout(0.5)),
        (
            "saf: %layer (module layer) draws another mask at every step between spikes and a neuron. "
            "Use a dropout with one mask for the sequence, such as SpikingJelly's layer.Dropout."
        ),
    ),
    "a hard reset": (
        lambda: two_layers(lambda step, spikes: spikes, reset=Hard()),
        (
            "saf: %spikes_1 (lif of b) resets by Hard, not by subtraction. Train it with reset by "
            "subtraction (a soft reset)."
        ),
    ),
    "a resting potential": (
        lambda: two_layers(lambda step, spikes: spikes, charge=Leak(2.0, -0.5)),
        (
            "saf: %spikes_1 (lif of b) has a membrane that rests elsewhere than at 0, or is charged "
            "outside of it. Use a resting potential of 0 and a charge of its own."
        ),
    ),
    "arithmetic in place of a charge": (
        lambda: two_layers(lambda step, spikes: spikes, charge=Charged()),
        (
            "saf: %spikes_1 (lif of b) has a membrane that rests elsewhere than at 0, or is charged "
            "outside of it. Use a resting potential of 0 and a charge of its own."
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_commute_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    program = make()
    before = text(program)

    with pytest.raises(PassRefusedError) as refusal:
        SAF()(program)

    assert str(refusal.value) == message
    assert text(program) == before


def test_another_neuron_is_refused() -> None:
    step = Step(nn.ModuleDict())
    x = step.input("x", 3)
    membrane = step.state("k.membrane", 3)
    node = step.call(neurons.rectified_lif, x, membrane, slope=1.0, **LIF)
    spikes, step.next["k_membrane"] = (step.call(getitem, node, i) for i in range(2))

    with pytest.raises(PassRefusedError, match="does not just subtract what it emits"):
        SAF()(step.program(spikes))


def test_a_leak_that_learns_is_refused_until_it_is_frozen() -> None:
    root = nn.ModuleDict()
    root.register_parameter("decay", nn.Parameter(torch.tensor(0.5)))
    step = Step(root)
    x = step.input("x", 3)
    membrane = step.state("lif.membrane", 3)
    decay: Any = step.graph.get_attr("decay")
    program = step.program(step.lif(x, membrane, "lif", charge=neurons.Decay(decay)))

    with pytest.raises(PassRefusedError, match=r"Call requires_grad_\(False\) on its parameter"):
        SAF()(copy_program(program))

    root.get_parameter("decay").requires_grad_(False)
    assert SAF()(program) == 1


def test_a_start_other_than_zero_is_refused() -> None:
    step = Step(nn.ModuleDict())
    x = step.input("x", 3)
    membrane = step.state("lif.membrane", 3, initial=0.25)

    with pytest.raises(PassRefusedError, match="does not start at 0"):
        SAF()(step.program(step.lif(x, membrane, "lif")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "each"}, "SAF has no variant='each'"),
        ({"batchnorm": "drop"}, "SAF has no batchnorm='drop'"),
        ({"variant": "final", "update": "online"}, "use update='sequence'"),
        ({"bias": "accumulated", "update": "online"}, "use bias='step'"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SAF(**options)


def test_a_final_step_has_no_steps_before_it() -> None:
    case = PLAIN[0]
    fast = snncompile.transform(case.model(), SAF(variant="final"))

    with pytest.raises(InputError, match="learns after its last step only"):
        fast.steps(case.input())


def test_the_model_that_was_trained_is_what_is_exported(tmp_path: Path) -> None:
    case = PLAIN[0]
    model, x = case.model(dyadic=True), case.input(dyadic=True)
    fast = snncompile.transform(model, SAF(), example_inputs=x)

    with pytest.raises(ExportError, match=r"Export its `\.original`"):
        snncompile.export(fast, tmp_path / "net.onnx")

    assert not list(tmp_path.iterdir())
    report = snncompile.export(fast.original, tmp_path / "net.onnx", example_inputs=x)
    assert report.agreement.moved == 0


# BatchNorm ----------------------------------------------------------------------------------------


def test_frozen_batchnorm_is_batchnorm_in_evaluation() -> None:
    program = convolutional()
    evaluated = copy_program(program)
    program.root.train()
    SAF(batchnorm="freeze")(program)
    x = torch.randint(-8, 9, (6, 3, 1, 8, 8)) / 4

    found, _ = run(program, x)
    program.root.eval()
    expected, _ = run(evaluated, x)

    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_standard_weights_have_mean_zero_and_batchnorms_scale_and_shift() -> None:
    program = convolutional()
    norm: Any = program.root.get_submodule("norm")
    conv: Any = program.root.get_submodule("conv1")
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-0.5, 0.5)
    SAF(batchnorm="standardise")(program)
    x = torch.randn(1, 3, 1, 8, 8)

    weights = conv.weight.detach().double()
    centred = weights - weights.mean((1, 2, 3), keepdim=True)
    standard = centred / (weights.var((1, 2, 3), keepdim=True) * 9 + 1e-4).sqrt()
    current = nn.functional.conv2d(x[0].double(), standard, padding=1)
    scaled = norm.weight[:, None, None] * current + norm.bias[:, None, None]
    _, spikes = run(program, x)

    assert_active(spikes)
    torch.testing.assert_close(spikes[0][0], (scaled >= 1.0).float(), rtol=0, atol=0)


def test_a_batchnorm_without_a_synapse_cannot_be_standardised() -> None:
    with pytest.raises(PassRefusedError, match="follows no Linear or convolution of its own"):
        SAF(batchnorm="standardise")(layered(nn.BatchNorm2d(4)))


# Cost ---------------------------------------------------------------------------------------------


def forward_operations(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("option", [SAF(), SAF(update="online"), SAF(variant="final")])
def test_forward_takes_one_synaptic_operation_a_step(option: SAF) -> None:
    """OTTT takes two for every synapse that reads spikes: the spikes' and the traces'."""
    case = PLAIN[0]
    model, x = case.model(), case.input()
    fast = snncompile.transform(model, option, example_inputs=x)

    operations = forward_operations(lambda: fast(x))

    weights = [layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert operations == 2 * x.shape[0] * x.shape[1] * sum(weights)


@pytest.mark.parametrize("option", [SAF(), SAF(update="online"), SAF(variant="final")])
def test_saved_memory_does_not_grow_with_the_steps(option: SAF) -> None:
    case = PLAIN[1]
    model = case.model()
    fast = snncompile.transform(model, option, schedule="steps")

    saved = []
    for steps in (2, 6):
        x = case.input()[:steps]
        fast(x)
        saved.append(bytes_saved(lambda: fast(x)))  # noqa: B023

    assert saved[0] == saved[1]


def bytes_saved(run: Callable[[], Tensor]) -> int:
    """Of the tensors that a graph of autograd holds after a forward pass."""
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(held.values())
