# pyright: basic
"""Hidden states of SpikingJelly's neurons: carried, reset, written by the model, read after a call."""

import copy

import pytest
import torch
from spikingjelly.activation_based import functional

from snncompile.errors import CaptureError
from snncompile.frontends.spikingjelly import FRONTEND
from tests.frontends.eager import EagerLowering
from tests.frontends.spikingjelly_cases import (
    SETTINGS,
    STEPS,
    assert_same,
    currents,
    lower,
    make,
    run,
)


@pytest.mark.parametrize(("name", "mode", "reset"), SETTINGS)
def test_state_is_carried_from_call_to_call_until_it_is_reset(
    name: str, mode: str, reset: float | None
) -> None:
    module = make(name, mode, reset)
    twin, lowering = copy.deepcopy(module), EagerLowering()
    sequence = currents(name, torch.float32, STEPS + 1)
    first, second = sequence[:STEPS], sequence[STEPS:]

    fresh = run(module, module, first)
    assert_same(lower(twin, first, lowering), fresh)
    carried = run(module, module, second)
    assert_same(lower(twin, second, lowering), carried)
    FRONTEND.reset(module)
    lowering.held.clear()

    assert_same(run(module, module, first), fresh)
    assert_same(lower(twin, first, lowering), fresh)
    functional.reset_net(module)
    assert not torch.equal(run(module, module, second).membranes, carried.membranes)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_reset_at_the_end_of_a_forward_leaves_nothing_to_carry(mode: str) -> None:
    module, lowering = make("LIF", mode, -0.25), EagerLowering()
    sequence = currents("LIF")

    FRONTEND.begin(module)
    run(lambda x: FRONTEND.lower(module, lowering, x), module, sequence)
    functional.reset_net(module)
    FRONTEND.end(module, lowering)

    (held,) = lowering.held.values()
    assert torch.equal(held, torch.full_like(held, -0.25))


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_reset_at_the_start_of_a_forward_ignores_what_was_carried(mode: str) -> None:
    module, lowering = make("LIF", mode, -0.25), EagerLowering()
    sequence = currents("LIF")
    fresh = lower(module, sequence, lowering)

    FRONTEND.begin(module)
    functional.reset_net(module)
    again = run(lambda x: FRONTEND.lower(module, lowering, x), module, sequence)

    assert_same(again, fresh)


def test_a_membrane_written_by_the_model_is_used() -> None:
    module, twin, lowering = make("IF", "s", 0.0), make("IF", "s", 0.0), EagerLowering()
    current = torch.full((3, 5), 0.4)
    FRONTEND.begin(twin)
    module.v = twin.v = torch.full((3, 5), 0.3)

    assert torch.equal(FRONTEND.lower(twin, lowering, current), module(current))
    assert torch.equal(twin.v, module.v)
    assert not lowering.held


def test_a_sequence_that_starts_from_a_written_membrane_is_refused() -> None:
    module, lowering = make("LIF", "m", None), EagerLowering()
    lower(module, currents("LIF"), lowering)

    with pytest.raises(CaptureError, match="LIFNode starts a sequence from a state"):
        FRONTEND.lower(module, lowering, currents("LIF"))


def test_a_membrane_of_another_shape_is_made_anew() -> None:
    module = make("IF", "s", -0.25)
    twin, lowering = copy.deepcopy(module), EagerLowering()
    FRONTEND.begin(twin)

    for shape in ((3, 5), (2, 5)):
        current = torch.full(shape, 0.6)
        assert torch.equal(FRONTEND.lower(twin, lowering, current), module(current))
        assert torch.equal(twin.v, module.v)


def test_stored_membranes_change_nothing() -> None:
    module = make("LIF", "m", 0.0, store_v_seq=True)
    twin, sequence = copy.deepcopy(module), currents("LIF")

    assert_same(lower(twin, sequence, EagerLowering()), run(module, module, sequence))


def test_spikes_and_membrane_are_read_off_a_real_call() -> None:
    module = make("OTTT", "s", None)
    output = module(torch.ones(3, 5))

    assert FRONTEND.spikes(module, output) is output[0]
    assert FRONTEND.membrane(module, output) is module.v
    FRONTEND.reset(module)
    assert FRONTEND.membrane(module, output) is None
    plain = make("IF", "s", None)(torch.ones(3))
    assert FRONTEND.spikes(make("IF", "s", None), plain) is plain
