# pyright: basic
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron

import snncompile
from snncompile.errors import InputError, PassRefusedError
from snncompile.ir.neurons import lif, rectified_lif, single_spike
from snncompile.ir.program import Program
from snncompile.ir.text import text
from snncompile.passes.single_spike import SingleSpike
from snncompile.rewrite import copy_program
from snncompile.runtime.schedule import Recording
from tests.passes.plain_loop import assert_active, run
from tests.passes.test_contract import inputs_of, masked
from tests.programs import Step, convolutional, feedforward, recurrent

ACCEPTED = SingleSpike(accept="first-spike-only")


def first_spikes(spikes: torch.Tensor) -> torch.Tensor:
    return spikes * (spikes.cumsum(0) == 1)


@pytest.mark.parametrize("make", [feedforward, convolutional])
def test_the_first_layer_emits_the_first_spikes_of_the_lif_it_came_from(
    make: Callable[[], Program],
) -> None:
    before = make()
    after = copy_program(before)
    rewritten = ACCEPTED(after)
    inputs = inputs_of(before)

    _, old = run(before, *inputs)
    _, new = run(after, *inputs)

    assert_active(old)
    assert (old[0].sum(0) > 1).any()
    torch.testing.assert_close(new[0], first_spikes(old[0]), rtol=0, atol=0)
    assert all(layer.sum(0).max() == 1 for layer in new)
    assert rewritten == 2
    assert [n.target for n in after.neurons()] == [single_spike] * 2


def test_a_neuron_that_may_fire_again_is_refused() -> None:
    program = feedforward()
    before = text(program)

    with pytest.raises(PassRefusedError) as caught:
        SingleSpike()(program)

    assert str(caught.value) == (
        "single-spike: %spikes (lif of lif0) may fire more than once. "
        "Say SingleSpike(accept='first-spike-only') if its first spike is what counts."
    )
    assert text(program) == before


def test_feedback_is_refused() -> None:
    with pytest.raises(
        PassRefusedError, match=r"has feedback: its spikes come back .* %lif_spikes"
    ):
        ACCEPTED(recurrent())


def test_another_neuron_is_refused() -> None:
    step = Step(torch.nn.Module())
    x, membrane = step.input("x", 4), step.state("lif.membrane", 4)
    spikes = step.lif(x, membrane, "lif")
    program = step.program(spikes)
    node = next(program.neurons())
    node.target = rectified_lif
    node.kwargs = {**node.kwargs, "slope": 1.0}

    with pytest.raises(PassRefusedError, match=r"is no lif\. Only integrate-and-fire neurons"):
        ACCEPTED(program)


def test_spikes_that_are_read_unmasked_too_are_refused() -> None:
    program = masked()
    spikes = next(n for n in program.step.nodes if n.name == "getitem")
    returned: Any = program.step.output_node().args[0]
    program.step.output_node().args = (((spikes,), returned[1]),)

    with pytest.raises(PassRefusedError, match="has %output read it beside its first spike"):
        SingleSpike()(program)


@pytest.mark.parametrize(
    "options", [{"rule": "v3"}, {"accept": "all"}, {"slope": 0.0}], ids=lambda o: next(iter(o))
)
def test_unknown_options_are_input_errors(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        SingleSpike(**options)


def test_online_learning_is_refused() -> None:
    program = feedforward()
    for node in program.neurons():
        assert node.target is lif
        node.kwargs = {**node.kwargs, "detach_membrane": True}

    with pytest.raises(PassRefusedError, match="cuts the gradient through time"):
        ACCEPTED(program)


def test_a_membrane_that_is_carried_without_its_mask_is_refused_and_can_be_accepted() -> None:
    program = masked()
    program.states = tuple(
        replace(state, carried=state.label.endswith("membrane")) for state in program.states
    )

    with pytest.raises(PassRefusedError, match="keeps its membrane after a call"):
        SingleSpike()(program)
    ACCEPTED(program)

    carried = {state.label: state.carried for state in program.states}
    assert carried == {"lif.membrane": True, "lif.fired": False, "lif.elapsed": False}


def test_a_membrane_that_is_read_elsewhere_is_refused() -> None:
    program = masked()
    returned: Any = program.step.output_node().args[0]
    program.step.output_node().args = ((returned[1][:1], returned[1]),)

    with pytest.raises(PassRefusedError, match="has %output read it beside its first spike"):
        SingleSpike()(program)


def test_a_model_of_a_library_emits_first_spikes_only_and_learns_its_decay() -> None:
    network = torch.nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1), neuron.ParametricLIFNode(v_reset=None), layer.Flatten(),
        layer.Linear(144, 12), neuron.LIFNode(),
    )  # fmt: skip
    with torch.no_grad():
        network[0].weight.mul_(3)  # type: ignore[operator]
        network[3].weight.mul_(12)  # type: ignore[operator]
    functional.set_step_mode(network, "m")
    x = torch.randn(40, 3, 1, 6, 6)
    fast = snncompile.transform(network, ACCEPTED, schedule="layers", example_inputs=x[:4])
    recording = Recording()

    spikes = fast(x)
    gradients = torch.autograd.grad(spikes.sum(), list(network.parameters()))
    fast.reset()
    fast.record(recording, x)

    assert 0 < spikes.sum() < spikes[0].numel() + 1
    assert all(outputs[0].sum(0).max() == 1 for outputs in recording.outputs.values())
    torch.testing.assert_close(list(recording.outputs.values())[-1][0], spikes, rtol=0, atol=0)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
