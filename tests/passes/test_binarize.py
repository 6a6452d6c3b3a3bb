# pyright: basic
import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import functional as jelly
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import snncompile
from snncompile.errors import PassRefusedError
from snncompile.ir.program import Program
from snncompile.ir.quantised import QUANTISED, binarized, ternarized
from snncompile.ir.text import text
from snncompile.ir.weights import synapses
from snncompile.nn import LIF
from snncompile.passes.binarize import Binarize
from snncompile.rewrite import copy_program
from snncompile.runtime.schedule import ScheduleName
from tests.passes.networks import VGG, Network, Perceptron, PreActResNet18, lively_
from tests.passes.plain_loop import double, run
from tests.programs import Step, convolutional, feedforward
from tests.reference import quantised as reference

SUMMED = 1e-12
"""Relative, in float64: the mean size of a channel is summed in another order."""

EVERY = ("*",)


def quantised(program: Program) -> list[str]:
    """The names of the layers whose weights have few bits."""
    return [synapse.name for synapse in synapses(program) if synapse.quantised is not None]


def program_of(model: nn.Module, *shape: int) -> Program:
    return snncompile.capture(model, torch.rand(3, 2, *shape))


def alone(synapse: nn.Module, *shape: int) -> Program:
    """A program of one layer, in float64."""
    step = Step(nn.ModuleDict({"it": copy.deepcopy(synapse)}))
    return double(step.program(step.module("it", step.input("x", *shape))))


@pytest.mark.parametrize(
    ("synapse", "shape"),
    [
        (nn.Linear(4, 6), (4,)),
        (nn.Linear(4, 6, bias=False), (3, 4)),
        (nn.Conv1d(4, 6, 3, dilation=2), (4, 9)),
        (nn.Conv2d(4, 6, 3, groups=2, stride=(2, 1), padding=1), (4, 9, 9)),
        (nn.Conv2d(4, 6, (3, 1), padding="same", bias=False), (4, 5, 5)),
        (nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="reflect"), (4, 5, 5)),
        (nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"), (4, 5, 5)),
        (nn.Conv3d(4, 6, 3, padding=1), (4, 5, 5, 5)),
    ],
    ids=str,
)
@pytest.mark.parametrize("ternary", [False, True], ids=["binary", "ternary"])
def test_every_kind_of_layer_computes_with_the_papers_weights(
    synapse: nn.Module, shape: tuple[int, ...], ternary: bool
) -> None:
    torch.manual_seed(0)
    program = alone(synapse, *shape)
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    expected = copy_program(program)

    Binarize(ternary=ternary, layers=EVERY)(program)
    found = run(program, x)[0][0]

    weight = program.root.get_parameter("it.weight")
    values = weight.detach().numpy()
    by_hand = reference.ternary(values, 0.7) if ternary else reference.binary(values, 0)
    with torch.no_grad():
        weight.copy_(torch.from_numpy(by_hand))
    torch.testing.assert_close(found, run(expected, x)[0][0], rtol=SUMMED, atol=SUMMED)


def test_the_float_weights_are_trained_and_are_the_models() -> None:
    model = lively_(Perceptron())
    fast = snncompile.transform(model, Binarize())
    x = torch.rand(5, 3, 12)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.1)

    fast(x).square().sum().backward()
    optimizer.step()

    after = model.state_dict()
    assert list(fast.state_dict()) == list(after)
    assert all(not torch.equal(after[key], before[key]) for key in before)


def test_checkpoints_of_both_fit_each_other() -> None:
    torch.manual_seed(0)
    model, other = Perceptron(), Perceptron()
    x = torch.rand(5, 3, 12)
    fast = snncompile.transform(model, "binarize", example_inputs=x)
    expected = snncompile.transform(other, "binarize")(x)

    fast.load_state_dict(other.state_dict())
    other.load_state_dict(fast.state_dict())

    torch.testing.assert_close(fast(x), expected, rtol=0, atol=0)
    assert list(model.state_dict()) == list(Perceptron().state_dict())


def test_the_gradient_reaches_float_weights_straight_through() -> None:
    torch.manual_seed(0)
    model = Perceptron().double()
    weight = model.get_parameter("layers.2.weight")
    with torch.no_grad():
        weight[0, :5] = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    x = torch.rand(5, 3, 12, dtype=torch.float64)
    plain = Perceptron().double()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        plain.get_parameter("layers.2.weight").copy_(binarized(weight, axis=0))

    snncompile.transform(model, "binarize")(x).square().sum().backward()
    plain(x).square().sum().backward()

    by_hand = plain.get_parameter("layers.2.weight").grad
    assert by_hand is not None
    assert weight.grad is not None
    expected = reference.through(weight.detach().numpy(), by_hand.numpy())
    assert by_hand.abs().sum() > 0
    torch.testing.assert_close(weight.grad, torch.from_numpy(expected), rtol=SUMMED, atol=SUMMED)


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (Perceptron(), (12,), ["layers.2"]),
        (VGG(), (2, 8, 8), ["layers.3", "layers.7", "layers.10"]),
    ],
)
def test_stem_and_classifier_stay_float(
    model: nn.Module, shape: tuple[int, ...], expected: list[str]
) -> None:
    program = program_of(model, *shape)

    Binarize()(program)

    assert quantised(program) == expected


def test_in_a_resnet_all_but_the_two_ends_are_binary_shortcuts_too() -> None:
    program = program_of(PreActResNet18(width=4), 3, 32, 32)

    rewritten = Binarize()(program)

    floats = [s.name for s in synapses(program) if s.quantised is None]
    assert rewritten == 16 + 3
    assert floats == ["layers.0.0", "layers.12"]


class Averaged(Network):
    """The classifier runs once, on the mean of the spikes over time."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 2)
        self.layers = nn.Sequential(nn.Linear(4, 6), LIF(), nn.Linear(6, 6), LIF())

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(super().forward(x).mean(0))
        return result


def test_a_classifier_after_the_steps_leaves_none_in_them() -> None:
    program = program_of(Averaged(), 4)

    Binarize()(program)

    assert quantised(program) == ["layers.2"]


def test_patterns_choose_layers_and_kinds() -> None:
    program = program_of(VGG(), 2, 8, 8)

    Binarize(layers=("layers.?",), keep=("layers.0",))(program)
    Binarize(layers=("layers.10", "layers.1?"), ternary=True)(program)

    kinds = {s.name: getattr(s.quantised, "target", None) for s in synapses(program)}
    assert kinds == {
        "layers.0": None,
        "layers.3": binarized,
        "layers.7": binarized,
        "layers.10": ternarized,
        "layers.15": ternarized,
    }


def test_a_pattern_without_a_layer_is_refused() -> None:
    program = feedforward((8, 8, 8, 4))

    with pytest.raises(PassRefusedError) as caught:
        Binarize(keep=("conv*",))(program)

    assert str(caught.value) == ("binarize: no layer is called 'conv*'. The layers are: 0, 1, 2.")


def test_a_network_of_stem_and_classifier_alone_is_refused() -> None:
    program = feedforward()

    with pytest.raises(PassRefusedError) as caught:
        Binarize()(program)

    assert str(caught.value) == (
        "binarize: every layer is a stem or a classifier, and these stay float. Name those to "
        "quantise in layers; the layers are: 0, 1."
    )


def hooked() -> Program:
    synapse = nn.Linear(4, 4)
    synapse.register_forward_hook(lambda module, inputs, output: None)
    return alone(synapse, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: alone(parametrizations.weight_norm(nn.Linear(4, 4)), 4),
            "binarize: %it (module it) computes its weight anew in every call, from which nothing is trained. Remove the parametrization first.",
        ),
        (
            hooked,
            "binarize: %it (module it) has forward hooks, which would no longer run. Remove them, or name it in keep.",
        ),
    ],
)
def test_what_would_be_lost_is_refused(make: Callable[[], Program], message: str) -> None:
    program = make()
    before = text(program)

    with pytest.raises(PassRefusedError) as caught:
        Binarize(layers=EVERY)(program)

    assert str(caught.value) == message
    assert text(program) == before


def test_a_layer_called_twice_has_one_binary_weight() -> None:
    step = Step(nn.ModuleDict({"it": nn.Linear(4, 4)}))
    once = step.module("it", step.input("x", 4))
    program = step.program(step.module("it", once))

    rewritten = Binarize(layers=EVERY)(program)

    made = [node for node in program.step.nodes if node.target in QUANTISED]
    assert (rewritten, len(made)) == (2, 1)


class Functional(Network):
    """Weights as bare parameters, called by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(3, 2, 3))
        self.matrix = nn.Parameter(torch.randn(4, 12))
        self.lif = LIF()
        self.layers = self.once  # type: ignore[assignment]

    def once(self, x: Tensor) -> Tensor:
        current = functional.conv1d(x, self.kernel, padding=1)
        return functional.linear(self.lif(current).flatten(1), self.matrix)


def test_weights_that_functions_read_are_quantised_by_their_names() -> None:
    torch.manual_seed(0)
    model = Functional()
    x = torch.rand(5, 3, 2, 4)
    program = program_of(model, 2, 4)

    Binarize(layers=("matrix", "kernel"))(program)
    fast = snncompile.transform(model, Binarize(layers=("matrix", "kernel")))
    found = fast(x)

    with torch.no_grad():
        for name in ("matrix", "kernel"):
            weight = model.get_parameter(name)
            weight.copy_(binarized(weight, axis=0))
    assert quantised(program) == ["kernel", "matrix"]
    torch.testing.assert_close(found, model(x), rtol=0, atol=0)


def test_layers_that_take_sequences_are_binarized_by_their_single_step() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        layer.Linear(4, 8), neuron.IFNode(), layer.Linear(8, 8), neuron.IFNode(), layer.Linear(8, 2)
    )
    jelly.set_step_mode(model, "m")
    fast = snncompile.transform(model, "binarize")
    x = torch.rand(6, 3, 4) * 4

    found = fast(x)

    weight = model.get_parameter("2.weight")
    with torch.no_grad():
        weight.copy_(binarized(weight, axis=0))
    jelly.reset_net(model)
    torch.testing.assert_close(found, model(x), rtol=0, atol=0)


@pytest.mark.parametrize("schedule", ["layers", 2])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_every_schedule_computes_the_same(schedule: ScheduleName | int, train: bool) -> None:
    model = lively_(VGG()).double()
    x = torch.rand(5, 3, 2, 8, 8, dtype=torch.float64)
    model.train(train)
    networks = [snncompile.transform(model, "binarize", schedule=s) for s in ("steps", schedule)]

    outputs = [network(x) for network in networks]
    gradients = [torch.autograd.grad(o.square().sum(), list(model.parameters())) for o in outputs]

    torch.testing.assert_close(*outputs, rtol=SUMMED, atol=SUMMED)
    torch.testing.assert_close(*gradients, rtol=SUMMED, atol=SUMMED)


def test_a_resnet_18_runs_forward_and_takes_one_training_step() -> None:
    torch.manual_seed(0)
    model = PreActResNet18()
    fast = snncompile.transform(model, "binarize")
    before = model.get_parameter("layers.8.conv2.0.weight").clone()
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.1)

    out = fast(torch.rand(2, 1, 3, 32, 32))
    torch.autograd.backward(functional.cross_entropy(out.mean(0), torch.tensor([3])))
    optimizer.step()

    assert out.shape == (2, 1, 10)
    assert not torch.equal(model.get_parameter("layers.8.conv2.0.weight"), before)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_binarized_network_is_exported(tmp_path: Path) -> None:
    model = lively_(VGG()).eval()
    fast = snncompile.transform(model, "binarize")

    report = snncompile.export(
        fast, tmp_path / "net.onnx", form="sequence", example_inputs=torch.rand(4, 2, 2, 8, 8)
    )

    assert report.agreement.moved == 0


def test_a_layer_that_feeds_spikes_back_is_no_stem() -> None:
    step = Step(nn.ModuleDict({key: nn.Linear(4, 4) for key in ("into", "back", "head")}))
    x, membrane, before = step.input("x", 4), step.state("membrane", 4), step.state("spikes", 4)
    current = step.call(torch.add, step.module("into", x), step.module("back", before))
    spikes = step.lif(current, membrane, "lif")
    step.next["spikes"] = spikes
    program = step.program(step.module("head", spikes))

    Binarize()(program)

    assert quantised(program) == ["back"]


def test_other_layers_stay_as_they_are() -> None:
    program = convolutional()

    Binarize(layers=EVERY)(program)

    called = [str(node.target) for node in program.step.find_nodes(op="call_module")]
    assert called == ["norm", "pool", "flatten"]
