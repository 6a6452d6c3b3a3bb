"""The snnTorch frontend: hidden states, and what is refused.

`snntorch_neurons` says what each neuron does in one step, `snntorch_surrogates` how its gradient
passes the threshold. snnTorch keeps a neuron's states as buffers of the module, empty at first,
whether they are passed by hand or hidden; a call takes the passed value, else the buffer, and
starts from zero where the shape is not the current's. Parameters and other buffers stay tensors of
the graph, so that training and load_state_dict reach them.
"""

# pyright: basic
from typing import Any
from weakref import WeakKeyDictionary

import torch
from snntorch import SpikingNeuron, StateLeaky
from torch import Tensor, nn

from snncompile.errors import CaptureError
from snncompile.frontends.chains import Chains
from snncompile.frontends.lowering import Lowering
from snncompile.frontends.snntorch_neurons import (
    KEYS,
    STATES,
    LibraryModule,
    States,
    emitted_dtype,
    kind_of,
    state_leaky,
    states_of,
    step_of,
)
from snncompile.frontends.snntorch_surrogates import SPIKE_FUNCTIONS, surrogate_of

_COVERED = ", ".join(kind.__name__ for kind in STATES)


class SnnTorch:
    """The frontend of snnTorch 1; see `snncompile.frontends.lowering.Frontend`."""

    name = "snntorch"

    def __init__(self) -> None:
        self._marks: WeakKeyDictionary[nn.Module, States] = WeakKeyDictionary()
        self._chains = Chains()

    def covers(self, module: nn.Module) -> bool:
        """Whether it is a covered neuron with covered options."""
        return kind_of(module) is not None and self.refusal(module) is None

    def refusal(self, module: nn.Module) -> str | None:
        """Why a neuron of snnTorch is not covered, and what is; None where nothing is wrong."""
        if not isinstance(module, SpikingNeuron):
            return _refused_layer(module)
        name, kind = type(module).__name__, kind_of(module)
        if kind is None:
            return f"snnTorch's {name} is not covered; covered are {_COVERED}"
        changed = _overridden(type(module), kind)
        if changed:
            return f"{name} overrides {changed} of {kind.__name__}; covered are {_COVERED} as is"
        option = _refused_option(module)
        return option and f"{name} {option}"

    def begin(self, module: nn.Module) -> None:
        """Put a fresh empty tensor where each hidden state is, to see later who touched it."""
        self._chains.clear(module)
        marks = {name: torch.zeros(0) for name in states_of(module)}
        for name, mark in marks.items():
            setattr(module, name, mark)
        self._marks[module] = marks

    def lower(self, module: LibraryModule, lowering: Lowering, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Emit what calling a covered neuron means.

        Args:
            module: A module that `covers` accepts.
            lowering: The capture.
            *args: The current [N, ...] and then the states, as the module's forward takes them;
                for StateLeaky the currents [T, N, C].
            **kwargs: The same, by name.

        Returns:
            What the module's forward would return.

        Raises:
            CaptureError: The current is in half precision.
            TypeError: A state is passed although ``init_hidden=True``.
        """
        given = dict(zip(("input_", *states_of(module)), args, strict=False)) | kwargs
        current = given.pop("input_")
        _refuse_half(current)
        if isinstance(module, StateLeaky):
            return state_leaky(module, lowering, current)
        if module.init_hidden and any(value is not None for value in given.values()):
            raise TypeError("states cannot be passed as arguments while init_hidden=True")
        held: States = {
            name: self._held(module, lowering, name, (given.get(name), current))
            for name in states_of(module)
        }
        after = step_of(module)(module, lowering, current, held)
        for name, before in held.items():
            setattr(module, name, after[name])
            self._chains.advance(lowering, module, name, (before, after[name]))
        if module.init_hidden and not module.output:
            return after["spk"]
        return after["spk"], *(after[name] for name in held if name != "spk")

    def _held(
        self, module: nn.Module, lowering: Lowering, name: str, values: tuple[Tensor | None, Tensor]
    ) -> Tensor:
        """A state before this step: passed, left by the last call, or made where shapes differ."""
        given, like = values
        value = getattr(module, name) if given is None else given
        untouched = value is self._marks.get(module, {}).get(name)
        if value.shape == like.shape and not untouched:
            return value
        if name == "spk" and like.dtype != emitted_dtype(module, like):
            like = like.to(emitted_dtype(module, like))
        state = lowering.state(module, KEYS[name], like=like, carried=untouched)
        self._chains.start(module, name, state)
        return state

    def bystanders(self) -> list[nn.Module]:
        """Modules, of this model or not, that a forward can change: utils.reset clears them all."""
        return list(SpikingNeuron.instances)

    def end(self, module: nn.Module, lowering: Lowering) -> None:
        """After the model ran: its states are what it left in the buffers, a reset included."""
        for name, state in self._chains.started(module).items():
            left: Tensor = getattr(module, name)
            value = left if left.shape == state.shape else torch.zeros_like(state)
            lowering.finish(state, value)

    def stateless(self, module: nn.Module) -> type[nn.Module] | None:
        """None: snnTorch has no layers of its own that stand for one of torch."""
        return None

    def takes_sequences(self, module: nn.Module) -> bool:
        """False: see `stateless`."""
        return False

    def spikes(self, module: nn.Module, output: Any) -> Tensor | None:  # noqa: ANN401
        """The spikes in what a real call returned; the membrane of a StateLeaky without them."""
        spikes: Tensor = output[0] if isinstance(output, tuple) else output
        return spikes

    def membrane(self, module: LibraryModule, output: Any) -> Tensor | None:  # noqa: ANN401
        """The membrane after a real call's last step."""
        membrane: Tensor = module.mem if states_of(module) else _last(output)
        return membrane

    def reset(self, module: LibraryModule) -> None:
        """Clear a module's own hidden states (snnTorch's utils.reset clears every instance)."""
        if states_of(module):
            module.reset_mem()


def _last(output: Any) -> Tensor:  # noqa: ANN401
    membranes: Tensor = output[1] if isinstance(output, tuple) else output
    return membranes[-1]


def _refused_layer(module: nn.Module) -> str | None:
    """A neuron that does not derive from SpikingNeuron; None for synapses and other layers."""
    kind = type(module)
    neuron = kind.__module__.startswith("snntorch._neurons") and kind.__name__.startswith("Leaky")
    return f"snnTorch's {kind.__name__} is not covered; covered are {_COVERED}" if neuron else None


def _refused_option(module: LibraryModule) -> str | None:
    if module.inhibition:
        return "with inhibition=True lets one neuron of a layer fire alone; set inhibition=False"
    if module.state_quant:
        return "with state_quant rounds its states, which is not covered; set state_quant=False"
    if getattr(module, "kernel_truncation_steps", None) is not None:
        return "forgets after kernel_truncation_steps; set kernel_truncation_steps=None"
    if surrogate_of(module.spike_grad) is None:
        name = getattr(module.spike_grad, "__qualname__", repr(module.spike_grad))
        return (
            f"fires with spike_grad={name}, whose gradient cannot be read off it; use one of "
            f"snntorch.surrogate ({', '.join(SPIKE_FUNCTIONS)}) or the apply of a "
            "torch.autograd.Function"
        )
    return None


def _refuse_half(current: Tensor) -> None:
    if current.dtype not in {torch.float32, torch.float64}:
        raise CaptureError(
            f"snnTorch's neurons turn {current.dtype} membranes into float32 with the first "
            "spike; capture in float32 and run under torch.autocast"
        )


def _overridden(kind: type, covered: type) -> str | None:
    """A method of a covered class that a user's subclass of it replaces."""
    own = kind.__mro__[: kind.__mro__.index(covered)]
    library = {name for base in covered.__mro__[:-2] for name in vars(base) if name[:2] != "__"}
    return next((name for base in own for name in vars(base) if name in library), None)


FRONTEND = SnnTorch()
