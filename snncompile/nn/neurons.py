"""Three spiking neurons for people who start here; more live in the libraries that are read.

A neuron keeps its membrane from call to call until `reset`. The membrane is no part of the
state_dict, and a copy or a pickle of a neuron starts at rest.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from snncompile.errors import InputError
from snncompile.ir import neurons
from snncompile.ir.surrogates import Surrogate

ResetName: TypeAlias = Literal["subtract", "zero", "none"]
SurrogateName: TypeAlias = Literal["atan", "sigmoid", "fast_sigmoid", "rectangle", "triangle"]


class Neuron(nn.Module, ABC):
    """A neuron with one hidden state, its membrane.

    Attributes:
        membrane: [N, ...] after the last step; None after a reset.
    """

    membrane: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.membrane = None

    def forward(self, current: Tensor) -> Tensor:
        """One time step.

        Args:
            current: Input current, [N, ...].

        Returns:
            Spikes, or the membrane of a neuron that never fires, [N, ...].

        Raises:
            InputError: The membrane left by the last call has another shape.
        """
        before = torch.zeros_like(current) if self.membrane is None else self.membrane
        if before.shape != current.shape:
            raise InputError(
                f"{type(self).__name__} holds a membrane of shape {tuple(before.shape)} but got a "
                f"current of shape {tuple(current.shape)}; call snncompile.nn.reset(model) between "
                "sequences"
            )
        output, self.membrane = self.step()(current, before)
        return output

    @abstractmethod
    def step(self) -> partial[tuple[Tensor, Tensor]]:
        """One step of current and membrane: a neuron of the IR with its settings."""

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles start at rest: a membrane belongs to the sequence it came from."""
        return {**self.__dict__, "membrane": None}


class LIF(Neuron):
    """A leaky integrate-and-fire neuron.

    With membrane v, current x, threshold h and H the step function, one time step is

        v <- decay * v + x,    s = H(v - h),

    and then, where it fired (s = 1), "subtract" lowers v by h, "zero" sets it to 0, "none" leaves
    it. It fires at the threshold, not only above it.

    Args:
        decay: Share of the membrane that is left after one step.
        threshold: The firing threshold.
        reset: What a spike does to the membrane.
        surrogate: The derivative that stands for that of H in the backward pass.
        width: That derivative's parameter: the larger, the steeper.
        learn_decay: Train the decay, as the sigmoid of a parameter that starts at `decay`.
        detach_reset: Let no gradient pass through the reset.

    Raises:
        InputError: A decay outside of what is possible, or an unknown reset or surrogate.
    """

    def __init__(  # noqa: PLR0913
        self,
        *,
        decay: float = 0.5,
        threshold: float = 1.0,
        reset: ResetName = "subtract",
        surrogate: SurrogateName = "atan",
        width: float = 2.0,
        learn_decay: bool = False,
        detach_reset: bool = False,
    ) -> None:
        super().__init__()
        _check("reset", reset, get_args(ResetName))
        _check("surrogate", surrogate, get_args(SurrogateName))
        self.decay, self.logit = _decay(decay, learned=learn_decay)
        self.threshold = threshold
        self.reset = reset
        self.surrogate = surrogate
        self.width = width
        self.detach_reset = detach_reset

    def step(self) -> partial[tuple[Tensor, Tensor]]:
        """See the class."""
        return partial(
            neurons.lif,
            charge=neurons.Decay(_number(self.decay, self.logit)),
            threshold=self.threshold,
            reset=_RESETS[self.reset](self.detach_reset),
            surrogate=Surrogate(self.surrogate, (self.width,)),
        )

    def extra_repr(self) -> str:
        """The options, for ``print(model)``."""
        return f"decay={self.decay:g}, threshold={self.threshold:g}, reset={self.reset!r}"


class IF(LIF):
    """An integrate-and-fire neuron: `LIF` that forgets nothing, v <- v + x.

    Args:
        threshold: The firing threshold.
        reset: What a spike does to the membrane.
        surrogate: The derivative that stands for that of the step function.
        width: That derivative's parameter: the larger, the steeper.
        detach_reset: Let no gradient pass through the reset.

    Raises:
        InputError: An unknown reset or surrogate.
    """

    def __init__(
        self,
        *,
        threshold: float = 1.0,
        reset: ResetName = "subtract",
        surrogate: SurrogateName = "atan",
        width: float = 2.0,
        detach_reset: bool = False,
    ) -> None:
        super().__init__(
            decay=1.0,
            threshold=threshold,
            reset=reset,
            surrogate=surrogate,
            width=width,
            detach_reset=detach_reset,
        )


class LeakyIntegrator(Neuron):
    """A neuron that never fires, to read a network out: v <- decay * v + x, and v is the output.

    Args:
        decay: Share of the membrane that is left after one step; 1 forgets nothing.
        learn_decay: Train the decay, as the sigmoid of a parameter that starts at `decay`.

    Raises:
        InputError: A decay outside of what is possible.
    """

    def __init__(self, *, decay: float = 0.5, learn_decay: bool = False) -> None:
        super().__init__()
        self.decay, self.logit = _decay(decay, learned=learn_decay)

    def step(self) -> partial[tuple[Tensor, Tensor]]:
        """See the class."""
        return partial(neurons.integrator, charge=neurons.Decay(_number(self.decay, self.logit)))

    def extra_repr(self) -> str:
        """The options, for ``print(model)``."""
        return f"decay={self.decay:g}"


def reset(model: nn.Module) -> None:
    """Forget the membranes of every neuron of this file in a model: a new sequence begins."""
    for module in model.modules():
        if isinstance(module, Neuron):
            module.membrane = None


_RESETS: dict[str, Callable[[bool], neurons.Reset]] = {
    "subtract": neurons.Subtract,
    "zero": lambda detach: neurons.Hard(0.0, detach),
    "none": lambda _: neurons.Keep(),
}


def _check(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{option}={value!r} is not one of {', '.join(known)}")


def _decay(decay: float, *, learned: bool) -> tuple[float, nn.Parameter | None]:
    """The decay, and the parameter it is learned with."""
    if not 0 <= decay <= 1:
        raise InputError(f"decay={decay:g} is not between 0 and 1")
    if not learned:
        return decay, None
    if decay in {0.0, 1.0}:
        raise InputError(f"decay={decay:g} cannot be learned; start strictly between 0 and 1")
    return decay, nn.Parameter(torch.tensor(math.log(decay / (1 - decay))))


def _number(decay: float, logit: Tensor | None) -> neurons.Number:
    return decay if logit is None else torch.sigmoid(logit)
