"""What a frontend may ask of the capture while it lowers a library's module.

A frontend is plain Python on tensors. While a model is captured its tensors are fake (shapes and
dtypes, no data) and every torch call is recorded, so a frontend that writes
``torch.sigmoid(module.w)`` or calls ``module.recurrent(spikes)`` has emitted those nodes. Only
neurons, hidden states and the time axis need the calls below.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol, runtime_checkable

from torch import Tensor, nn


class Untouched:
    """Stands for a hidden state that nobody has set since the capture began."""

    def __repr__(self) -> str:
        return "UNTOUCHED"

    def __deepcopy__(self, memo: dict[int, Any]) -> "Untouched":
        return self


UNTOUCHED: Final = Untouched()


class Lowering(Protocol):
    """One capture, seen from a frontend."""

    def neuron(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        *tensors: Tensor,
        **settings: Any,  # noqa: ANN401
    ) -> tuple[Tensor, ...]:
        """Emit one neuron of `snncompile.ir.neurons`; returns its output and next states.

        Settings may be numbers, strings, the value types of `ir.neurons` and `ir.surrogates`,
        and tensors (parameters and what was computed from them), also inside those values.
        """
        ...

    def state(
        self,
        module: nn.Module,
        key: str,
        like: Tensor,
        initial: float | Tensor = 0.0,
        *,
        carried: bool,
    ) -> Tensor:
        """A state of the program: its value before the first step, filled with `initial`.

        Args:
            module: The module it belongs to; names the state together with `key`.
            key: What it is: "membrane", "current", "adaptation", "spikes".
            like: A tensor whose shape and dtype it has.
            initial: The number that fills it, or a tensor that broadcasts to its shape.
            carried: It survives from call to call until it is reset.
        """
        ...

    def finish(self, state: Tensor, value: Tensor) -> None:
        """Say that `value` is what `state` (made by `state`) holds after the latest call."""
        ...

    def over_time(self, step: Callable[..., Any], *sequences: Tensor) -> Any:  # noqa: ANN401
        """Run `step` on one time step of each [T, N, ...] sequence; its outputs become sequences.

        `step` is called once; what it emits belongs to every step. It may return a tensor, a
        tuple or a list of tensors.
        """
        ...


class Frontend(Protocol):
    """What one library's modules mean."""

    name: str
    """The library's import name."""

    def covers(self, module: nn.Module) -> bool:
        """Whether `lower` knows this module."""
        ...

    def refusal(self, module: nn.Module) -> str | None:
        """Why a stateful module of this library cannot be lowered, and what can; else None."""
        ...

    def begin(self, module: nn.Module) -> None:
        """Mark the hidden states of a covered module as `UNTOUCHED` before the capture runs."""
        ...

    def end(self, module: nn.Module, lowering: Lowering) -> None:
        """After the model ran: finish hidden states that it changed after their neuron's call."""
        ...

    def lower(self, module: nn.Module, lowering: Lowering, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Emit what calling the module means; returns what its forward would return."""
        ...

    def stateless(self, module: nn.Module) -> type[nn.Module] | None:
        """For a stateless layer of the library: the torch.nn class that is one step of it."""
        ...

    def takes_sequences(self, module: nn.Module) -> bool:
        """Whether such a layer is called with whole [T, N, ...] sequences."""
        ...

    def spikes(self, module: nn.Module, output: Any) -> Tensor | None:  # noqa: ANN401
        """After a real call: the spikes (or output) of a covered neuron, to verify against."""
        ...

    def membrane(self, module: nn.Module, output: Any) -> Tensor | None:  # noqa: ANN401
        """After a real call: a covered neuron's membrane after its last step, if it has one."""
        ...

    def reset(self, module: nn.Module) -> None:
        """Clear the hidden states of a covered module, as its library would."""
        ...


@runtime_checkable
class WholeSequences(Protocol):
    """A frontend whose library has modules that read a whole sequence at once."""

    def whole(self, module: nn.Module) -> bool:
        """Whether a module does; it is one call over the sequence, whose shape it keeps."""
        ...


@runtime_checkable
class Instances(Protocol):
    """A frontend whose library keeps track of its modules and may change any of them."""

    def bystanders(self) -> list[nn.Module]:
        """Modules, of this model or not, that a forward can change."""
        ...
