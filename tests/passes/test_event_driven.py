# pyright: basic
import copy
from operator import getitem
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import snncompile
from snncompile.errors import InputError
from snncompile.ir.charges import Decay
from snncompile.ir.events import Events
from snncompile.ir.neurons import multi_precision
from snncompile.ir.program import Program
from snncompile.module import Transformed
from snncompile.nn import LIF
from snncompile.passes.event_driven import EventDriven, synapses
from snncompile.rewrite import copy_program
from snncompile.runtime.events import by_events
from snncompile.runtime.schedule import Runner
from tests.programs import Step, dyadic_, feedforward, recurrent

STEPS, BATCH = 40, 6


def events(*shape: int, rate: float = 0.2) -> Tensor:
    return (torch.rand(*shape) < rate).float()


def results(program: Program, schedule: Any = "layers") -> Any:
    """Outputs, last states and gradients of a random sequence of events."""
    torch.manual_seed(1)
    x = events(STEPS, BATCH, *program.placeholders()[0].meta["val"].shape[1:]).requires_grad_()
    sizes = [[int(size) for size in state.shape[1:]] for state in program.states]
    outputs, last = Runner(program, schedule).run(
        (x,), tuple(torch.zeros(BATCH, *size) for size in sizes), STEPS
    )
    weights = torch.arange(outputs[0].numel()).remainder(5) / 4
    loss = (outputs[0].flatten() * weights).sum()
    assert 0 < outputs[0].count_nonzero() < outputs[0].numel()
    return outputs, last, torch.autograd.grad(loss, (x, *program.root.parameters()))


@pytest.mark.parametrize("below", [None, 1.0, 0.0])
@pytest.mark.parametrize("schedule", ["layers", 16, "steps"])
def test_dyadic_weights_keep_every_bit_forward(below: float | None, schedule: Any) -> None:
    before = feedforward((8, 80, 12, 4))
    after = copy_program(before)

    assert EventDriven(below=below)(after) == 3
    found, expected = results(after, schedule), results(before, schedule)

    torch.testing.assert_close(found[:2], expected[:2], rtol=0, atol=0)
    torch.testing.assert_close(found[2], expected[2], rtol=1e-5, atol=1e-5)


def test_synapses_say_what_they_did() -> None:
    program = feedforward((8, 80, 12))
    EventDriven(below=1.0)(program)

    assert [seen.rate for seen in synapses(program).values()] == [None, None]
    results(program)

    seen = synapses(program)
    assert set(seen) == {"0", "1"}
    assert all(found.by_events and 0 < (found.rate or 0) < 1 for found in seen.values())


def test_layers_that_read_the_input_can_be_left_out() -> None:
    program = feedforward((8, 16, 4))

    assert EventDriven(inputs=False)(program) == 1
    assert set(synapses(program)) == {"1"}


def test_a_synapse_in_feedback_runs_step_by_step_as_before() -> None:
    before = recurrent()
    after = copy_program(before)

    EventDriven(below=1.0, inputs=False)(after)

    torch.testing.assert_close(results(after), results(before), rtol=0, atol=0)


def test_what_comes_between_neuron_and_synapse() -> None:
    root = nn.ModuleDict(
        {
            "pool": nn.MaxPool2d(2),
            "average": nn.AvgPool2d(2),
            "drop": nn.Dropout(0.5),
            "norm": nn.LayerNorm(8),
            **{name: nn.Linear(8, 3) for name in ("a", "b", "c", "d", "e")},
        }
    )
    step = Step(dyadic_(root, 4.0))
    x, v = step.input("x", 2, 4, 4), step.state("v", 2, 4, 4)
    spikes = step.lif(x, v, "lif")
    flat = step.call(torch.flatten, step.module("pool", spikes), 1)
    averaged = step.call(torch.flatten, step.module("average", spikes), 1)
    made = (
        step.module("a", flat),
        step.module("b", averaged),
        step.module("c", step.module("drop", flat)),
        step.module("d", step.call(torch.mul, flat, flat)),
        step.module("e", step.module("norm", flat)),
    )
    program = step.program(*made)

    EventDriven()(program)

    assert set(synapses(program)) == {"a", "c"}


def test_spikes_of_several_sizes_are_no_events() -> None:
    step = Step(nn.ModuleDict({"fc": nn.Linear(8, 3)}))
    x, v = step.input("x", 8), step.state("v", 8)
    node = step.call(multi_precision, x, v, charge=Decay(0.5), threshold=1.0, levels=4.0)
    spikes = step.call(getitem, node, 0)
    step.next["v"] = step.call(getitem, node, 1)
    program = step.program(step.module("fc", spikes))

    assert EventDriven()(program) == 0


class Net(nn.Module):
    """Two layers over whole sequences, with dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop = nn.Linear(40, 70), nn.Dropout(0.5)
        self.second, self.lif = nn.Linear(70, 10), LIF()
        dyadic_(self, 6.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(
            [self.second(self.drop(self.lif(self.first(value)))) for value in x.unbind(0)]
        )


def fast(model: nn.Module, chosen: EventDriven, x: Tensor) -> Transformed:
    return snncompile.transform(model, chosen, schedule="layers", example_inputs=x[:4, :2])


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_module_with_dropout(training: bool) -> None:
    model, x = Net().train(training), events(STEPS, BATCH, 40)
    plain = snncompile.transform(model, [], schedule="layers", example_inputs=x[:4, :2])
    found = []
    for module in (plain, fast(model, EventDriven(below=1.0), x)):
        torch.manual_seed(3)
        found.append(module(x))

    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_verify_says_that_nothing_moved() -> None:
    x = events(STEPS, BATCH, 40)
    model = Net().eval()

    report = snncompile.verify(model, fast(model, EventDriven(below=1.0), x), x)

    assert report.ok
    assert all(compared.moved == 0 for compared in report.neurons)


def test_torch_compile_runs_it_whole() -> None:
    model, x = Net().eval(), events(STEPS, BATCH, 40)
    module = fast(model, EventDriven(below=1.0), x)
    expected = module(x)
    module.reset()

    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")

    torch.testing.assert_close(compiled(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("why", ["hooks", "autocast", "float16", "no kernels", "torch.func"])
def test_where_it_multiplies_as_before(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Net().eval(), events(STEPS, BATCH, 40)
    module = fast(model, EventDriven(below=1.0), x)
    seen = synapses(module.program)["first"]
    match why:
        case "hooks":
            called: list[Tensor] = []
            for linear in (model.first, model.second):
                linear.register_forward_hook(lambda *given: called.append(given[2]))
            module(x)
            assert len(called) == 2
        case "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                module(x)
        case "float16":
            module.bfloat16()(x.bfloat16())
        case "no kernels":
            monkeypatch.setenv("SNNCOMPILE_KERNELS", "off")
            module(x)
        case _:
            torch.func.grad(lambda value: module(value).sum())(x)
    assert not seen.by_events


def test_a_layer_that_multiplies_looks_at_its_inputs_soon_at_first_then_every_16th_call() -> None:
    layer, spikes = nn.Linear(512, 256), (torch.rand(300, 512) < 0.9).float()
    seen, looks = Events(), list[bool]()

    for _ in range(60):
        seen.rate = None
        assert torch.equal(by_events(layer, spikes, seen), layer(spikes))
        looks.append(seen.rate is not None)

    assert [i for i, looked in enumerate(looks) if looked] == [0, 1, 4, 11, 26, 42, 58]


def test_a_small_product_is_never_looked_at() -> None:
    seen = Events()

    by_events(nn.Linear(64, 32), torch.zeros(100, 64), seen)

    assert seen.rate is None


def test_a_copy_reports_for_itself() -> None:
    x = events(STEPS, BATCH, 40)
    module = fast(Net().eval(), EventDriven(below=1.0), x)
    copied = copy.deepcopy(module)

    copied(x)

    assert synapses(copied.program)["first"].by_events
    assert not synapses(module.program)["first"].by_events


def test_layers_of_a_library() -> None:
    network = nn.Sequential(
        layer.Linear(40, 70), neuron.LIFNode(), layer.Linear(70, 12), neuron.IFNode()
    )
    dyadic_(network, 6.0)
    functional.set_step_mode(network, "m")
    x = events(STEPS, BATCH, 40)
    module = fast(network, EventDriven(below=1.0), x)

    expected, found = network(x), module(x)

    assert 0 < expected.mean() < 1
    assert [seen.by_events for seen in synapses(module.program).values()] == [True, True]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("below", [-0.1, 1.5])
def test_a_share_is_between_0_and_1(below: float) -> None:
    with pytest.raises(InputError, match="below is a share"):
        EventDriven(below=below)
