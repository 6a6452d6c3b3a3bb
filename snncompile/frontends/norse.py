"""The Norse frontend: explicit states, sequences, and what is refused.

`norse_neurons` says what each neuron does in one step, `norse_parameters` which of its parameters
are numbers. A cell takes [N, ...] and a state or None, and returns its output with Norse's own
NamedTuple of the next states; LIF, LI, LSNN and their like do that over [T, N, ...]. `Lift` runs
any module over time. `SequentialState` needs nothing here: its Python is traced.
"""

# pyright: basic
from collections.abc import Mapping
from ctypes import c_float
from inspect import signature
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from norse.torch.module.leaky_integrator import LI
from norse.torch.module.lif import LIF, LIFRecurrent, LIFRecurrentCell
from norse.torch.module.lift import Lift
from norse.torch.module.regularization import RegularizationCell
from norse.torch.module.sequential import RecurrentSequential, SequentialState
from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from snncompile.errors import CaptureError
from snncompile.frontends import norse_parameters
from snncompile.frontends.chains import Chains
from snncompile.frontends.lowering import Lowering
from snncompile.frontends.norse_neurons import NEURONS, States
from snncompile.frontends.norse_parameters import LibraryModule, Numbers, Parameters

_RECURRENT = (SNNRecurrentCell, SNNRecurrent)
_SEQUENCES = (SNN, SNNRecurrent)
_NEURON_MODULES = (SNNCell, SNN, *_RECURRENT)
_FLOAT32 = (LIF, LIFRecurrent, LIFRecurrentCell, LI)
"""They make their initial membrane in float32, whatever dtype ``v_leak`` has."""
_TRACED = (SequentialState, RecurrentSequential, Lift)
_KEYS = {"v": "membrane", "i": "current", "z": "spikes", "b": "adaptation"}
Initial: TypeAlias = Mapping[str, float | Tensor]
"""What a neuron's states are before the first step, by Norse's names."""
Shape: TypeAlias = tuple[int, ...]

_COVERED = (
    "covered are LIF, LIFRecurrent, LI, LSNN, LSNNRecurrent, each also as a Cell, "
    "IAF, IAFCell, LIFBoxCell, LIBoxCell, SequentialState, RecurrentSequential and Lift"
)


class Norse:
    """The frontend of Norse 1.1; see `snncompile.frontends.lowering.Frontend`."""

    name = "norse"

    def __init__(self) -> None:
        self._numbers: WeakKeyDictionary[nn.Module, Numbers] = WeakKeyDictionary()
        self._chains = Chains()

    def covers(self, module: nn.Module) -> bool:
        """Whether it is a covered neuron with covered parameters, or a Lift."""
        if isinstance(module, Lift):
            return True
        return _is_neuron(module) and _problem(module) is None

    def refusal(self, module: nn.Module) -> str | None:
        """Why a stateful module of Norse is not covered, and what is; None if nothing is wrong."""
        name = type(module).__name__
        if _is_neuron(module):
            reason = _problem(module)
            return reason and f"Norse's {name} {reason}"
        if isinstance(module, (*_TRACED, *_NEURON_MODULES)):
            return None
        library = type(module).__module__.startswith("norse.")
        stateful = "state" in signature(module.forward).parameters
        if library and (stateful or isinstance(module, RegularizationCell)):
            return f"Norse's {name} is not covered; {_COVERED}"
        return None

    def begin(self, module: nn.Module) -> None:
        """Read a neuron's numbers, which cannot be read while the model is captured."""
        self._chains.clear(module)
        if not isinstance(module, Lift):
            self._numbers[module] = norse_parameters.read(module)

    def lower(self, module: LibraryModule, lowering: Lowering, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Emit what calling a covered module means.

        Args:
            module: A module that `covers` accepts.
            lowering: The capture.
            *args: The current [N, ...] (or [T, N, ...]) and a state or None, as the module's
                forward takes them.
            **kwargs: The same, by name.

        Returns:
            The output and the next states: what the module's forward would return.

        Raises:
            CaptureError: A Lift over a stateful module is given a state.
        """
        if isinstance(module, Lift):
            return _lift(module, lowering, *args, **kwargs)
        given = dict(zip(("input_tensor", "state"), args, strict=False)) | kwargs
        current, states = given["input_tensor"], given.get("state")
        if isinstance(module, _SEQUENCES):
            return self._sequence(module, lowering, current, states)
        shape = _shape(module, current)
        if states is None:
            return self._started_step(module, lowering, current, self._initial(module, shape))
        return self._step(module, lowering, _driven(module, current), _passed(states, shape))

    def _sequence(
        self,
        module: LibraryModule,
        lowering: Lowering,
        currents: Tensor,
        states: Any,  # noqa: ANN401
    ) -> tuple[Tensor, Any]:
        shape = _shape(module, currents)[1:]
        initial = self._initial(module, shape) if states is None else _passed(states, shape)

        def step(current: Tensor) -> tuple[Tensor, Any]:
            return self._started_step(module, lowering, current, initial)

        outputs, after = lowering.over_time(step, currents)
        if module.record_states:
            return outputs, after
        return outputs, type(after)(*(values[-1] for values in after))

    def _initial(self, module: LibraryModule, shape: Shape) -> Initial:
        """Every state where none is passed: a number, or a learned parameter's present value."""
        neuron, parameters = NEURONS[module.activation], self._read(module)
        values: dict[str, float | Tensor] = dict.fromkeys(neuron.states._fields, 0.0)
        for name, source in neuron.initial.items():
            value = parameters.number(source)
            if isinstance(value, Tensor):
                value = value if source == "v_reset" else value.detach()
                value = value.expand(shape)
            values[name] = _rounded(value) if isinstance(module, _FLOAT32) else value
        return values

    def _read(self, module: LibraryModule) -> Parameters:
        numbers = self._numbers.get(module)
        return Parameters(module, norse_parameters.read(module) if numbers is None else numbers)

    def _started_step(
        self,
        module: LibraryModule,
        lowering: Lowering,
        current: Tensor,
        initial: Initial,
    ) -> tuple[Tensor, Any]:
        """A step from states that the lowering keeps."""
        driven, held = _driven(module, current), {}
        for name, value in initial.items():
            key = _KEYS[name]
            held[name] = lowering.state(module, key, driven, value, carried=False)  # pyright: ignore[reportArgumentType]
            self._chains.start(module, name, held[name])
        return self._step(module, lowering, driven, held)

    def _step(
        self, module: LibraryModule, lowering: Lowering, driven: Tensor, held: States
    ) -> tuple[Tensor, Any]:
        neuron = NEURONS[module.activation]
        output, after = neuron.step(self._read(module), lowering, driven, held)
        for name, value in after.items():
            self._chains.advance(lowering, module, name, (held[name], value))
        return output, neuron.states(**after)

    def end(self, module: nn.Module, lowering: Lowering) -> None:
        """Nothing to do: a model cannot change what Norse does not keep."""

    def stateless(self, module: nn.Module) -> type[nn.Module] | None:
        """None: Norse has no layers of its own that stand for one of torch."""
        return None

    def takes_sequences(self, module: nn.Module) -> bool:
        """False: see `stateless`."""
        return False

    def spikes(self, module: nn.Module, output: Any) -> Tensor | None:  # noqa: ANN401
        """The spikes in what a real call returned; the membrane of LI and its like."""
        spikes: Tensor | None = output[0] if _is_neuron(module) else None
        return spikes

    def membrane(self, module: LibraryModule, output: Any) -> Tensor | None:  # noqa: ANN401
        """The membrane after a real call's last step."""
        if not _is_neuron(module):
            return None
        membrane: Tensor = output[1].v
        return membrane[-1] if getattr(module, "record_states", False) else membrane

    def reset(self, module: nn.Module) -> None:
        """Nothing to clear: Norse keeps no hidden states."""


def _is_neuron(module: nn.Module) -> bool:
    """Whether it steps through a function of Norse; one of the user's own is traced."""
    if not isinstance(module, _NEURON_MODULES):
        return False
    owner: str = module.activation.__module__
    return owner.startswith("norse.")


def _problem(module: LibraryModule) -> str | None:
    if module.activation not in NEURONS:
        name = module.activation.__name__
        way_out = "use method='super' and adjoint=False; " if "adjoint" in name else ""
        return f"steps with {name}, which is not covered; {way_out}{_COVERED}"
    if not type(module).forward.__module__.startswith("norse."):
        return f"overrides the forward of Norse's modules; {_COVERED}, as they are"
    if not module.state_fallback.__module__.startswith("norse."):
        return "makes its own initial state; pass the state by hand instead"
    return norse_parameters.problem(module)


def _driven(module: LibraryModule, current: Tensor) -> Tensor:
    """The current that reaches the neuron: through the input weights where it has them."""
    if not isinstance(module, _RECURRENT):
        return current
    return functional.linear(current, module.input_weights)


def _shape(module: LibraryModule, current: Tensor) -> Shape:
    """The shape of the driven current, from that of the current, time included where it is."""
    if not isinstance(module, _RECURRENT):
        return tuple(current.shape)
    return (*current.shape[:-1], module.input_weights.shape[0])


def _rounded(value: float | Tensor) -> float | Tensor:
    return value.to(torch.float32) if isinstance(value, Tensor) else c_float(value).value


def _passed(states: Any, shape: Shape) -> States:  # noqa: ANN401
    """States passed by hand; Norse lets a 0-dim tensor stand for all neurons."""
    return {
        name: value if value.shape == shape else value.expand(shape)
        for name, value in states._asdict().items()
    }


def _lift(module: LibraryModule, lowering: Lowering, x: Any) -> Any:  # noqa: ANN401
    """A module applied to every step; a stateful one hands its states on."""
    currents, states = x if isinstance(x, tuple) else (x, None)
    if not module.is_stateful:
        return lowering.over_time(module.lifted_module, currents)
    if states is not None:
        raise CaptureError(
            "Lift of Norse is given a state for a stateful module, which is not covered; pass the "
            "sequence alone, or loop over time yourself"
        )
    outputs, after = lowering.over_time(module.lifted_module, currents)
    return outputs, pytree.tree_map_only(Tensor, lambda values: values[-1], after)


FRONTEND = Norse()
