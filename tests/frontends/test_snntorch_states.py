# pyright: basic
"""Where snnTorch's states begin, what carries them on, and what resets them."""

import copy

import pytest
import torch
from snntorch import utils
from torch import nn

from snncompile.frontends.snntorch import FRONTEND
from snncompile.frontends.snntorch_neurons import states_of
from tests.frontends.eager import EagerLowering
from tests.frontends.snntorch_cases import (
    BATCH,
    DELAYED,
    WIDTH,
    Neuron,
    assert_fires,
    assert_same,
    currents,
    explicit,
    lowered,
    snn,
)

KINDS = [*DELAYED, "lapicque"]


@pytest.fixture(autouse=True)
def _no_other_neurons() -> None:
    """utils.reset touches every neuron that was ever made, in other tests too."""
    snn.SpikingNeuron.init()


def hidden(kind: str, **options: bool) -> Neuron:
    if kind == "lapicque":
        return snn.Lapicque(0.5, R=3.0, init_hidden=True, **options)
    return DELAYED[kind](init_hidden=True, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("output", [True, False])
def test_hidden_states_survive_from_call_to_call(kind: str, output: bool) -> None:
    library = hidden(kind, output=output)
    ours, lowering = copy.deepcopy(library), EagerLowering()

    expected = [library(current) for current in (*currents(), *currents())]
    found = [lowered(ours, lowering)(current) for current in currents()]
    call = lowered(ours, lowering)
    found += [call(current) for current in currents()]

    if output:
        assert_same(found, expected)
    else:
        assert_fires(torch.stack(expected))
        assert torch.equal(torch.stack(found), torch.stack(expected))


def test_an_unused_hidden_state_is_carried_without_init_hidden_too() -> None:
    library = snn.Leaky(0.9)
    ours, lowering = copy.deepcopy(library), EagerLowering()

    expected = [library(current) for current in currents()]
    found = [lowered(ours, lowering)(current) for current in currents()]

    assert_same(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_inside_forward_clears_what_the_library_clears(kind: str) -> None:
    """RSynaptic of snnTorch 1.0 keeps its spikes through utils.reset; so does the frontend."""
    library, ours = (nn.Sequential(hidden(kind, output=True)) for _ in range(2))
    ours.load_state_dict(library.state_dict())
    lowering = EagerLowering()

    expected, found = [], []
    for _ in range(2):
        utils.reset(library)
        expected += [library[0](current) for current in currents()]
    for _ in range(2):
        call = lowered(ours[0], lowering)
        utils.reset(ours)
        found += [call(current) for current in currents()]

    assert_same(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_states_by_hand_start_from_zero(kind: str) -> None:
    neuron = DELAYED[kind]() if kind in DELAYED else snn.Lapicque(0.5, R=3.0)
    lowering = EagerLowering()
    expected = explicit(lowered(neuron, lowering), neuron, currents())

    call = lowered(neuron, lowering)
    empty = neuron.reset_mem()
    states = empty if isinstance(empty, tuple) else (empty,)
    found = []
    for current in currents():
        found.append(call(current, *states))
        states = found[-1][-len(states) :]

    assert_same(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_lowering_learns_where_a_state_ends(kind: str) -> None:
    neuron, lowering = hidden(kind), EagerLowering()

    call = lowered(neuron, lowering)
    for current in currents():
        call(current)

    keys = {"mem": "membrane", "syn": "current", "spk": "spikes"}
    for name in states_of(neuron):
        assert lowering.held[id(neuron), keys[name]] is getattr(neuron, name)


def test_a_reset_after_the_last_call_is_what_the_state_ends_with() -> None:
    net, lowering = nn.Sequential(hidden("synaptic")), EagerLowering()

    lowered(net[0], lowering)(currents()[-1])
    utils.reset(net)
    FRONTEND.end(net[0], lowering)

    assert lowering.held[id(net[0]), "membrane"] is net[0].mem
    assert not lowering.held[id(net[0]), "current"].any()


def test_every_neuron_ever_made_is_a_bystander_of_a_reset() -> None:
    neuron, other = hidden("leaky"), hidden("leaky")
    other(currents()[-1])

    utils.reset(nn.Sequential(neuron))

    assert not other.mem.any()
    assert other in FRONTEND.bystanders()


def test_a_state_of_another_shape_ends_at_zero() -> None:
    neuron, lowering = hidden("leaky"), EagerLowering()

    lowered(neuron, lowering)(currents()[-1])
    neuron.mem = torch.zeros(0)
    FRONTEND.end(neuron, lowering)

    assert torch.equal(lowering.held[id(neuron), "membrane"], torch.zeros(BATCH, WIDTH))


def test_states_cannot_be_passed_where_they_are_hidden() -> None:
    with pytest.raises(TypeError, match="init_hidden=True"):
        lowered(hidden("leaky"), EagerLowering())(currents()[0], torch.zeros(BATCH, WIDTH))


def test_states_may_be_passed_by_name() -> None:
    neuron, membrane = snn.Leaky(0.9), torch.full((BATCH, WIDTH), 0.5)

    found = lowered(copy.deepcopy(neuron), EagerLowering())(mem=membrane, input_=currents()[0])

    assert torch.equal(found[1], neuron(currents()[0], membrane)[1])


@pytest.mark.parametrize("mechanism", ["zero", "none"])
def test_a_reset_mechanism_changed_at_run_time_changes_the_immediate_reset_only(
    mechanism: str,
) -> None:
    library = snn.Leaky(0.9, reset_delay=False)
    library.reset_mechanism = mechanism
    ours = copy.deepcopy(library)

    expected = explicit(library, library, currents())
    found = explicit(lowered(ours, EagerLowering()), ours, currents())

    assert_same(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_spikes_and_membrane_of_a_real_call_are_found_and_reset(kind: str) -> None:
    neuron = hidden(kind, output=True)
    for current in currents():
        output = neuron(current)

    assert FRONTEND.spikes(neuron, output) is output[0]
    assert FRONTEND.membrane(neuron, output) is output[-1]
    FRONTEND.reset(neuron)
    assert not neuron.mem.any()


def test_the_membrane_of_a_state_leaky_is_its_last_steps() -> None:
    neuron = snn.StateLeaky(0.5, WIDTH)
    output = neuron(currents())

    membrane = FRONTEND.membrane(neuron, output)

    assert membrane is not None
    assert torch.equal(membrane, output[1][-1])
    FRONTEND.reset(neuron)
