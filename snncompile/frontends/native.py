"""The frontend of snncompile's own neurons: they already call the neurons of the IR."""

from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from snncompile.frontends.lowering import UNTOUCHED, Lowering
from snncompile.nn import Neuron


class Native:
    """The frontend of `snncompile.nn`; see `snncompile.frontends.lowering.Frontend`."""

    name = "snncompile"

    def __init__(self) -> None:
        self._started: WeakKeyDictionary[nn.Module, list[Tensor]] = WeakKeyDictionary()

    def covers(self, module: nn.Module) -> bool:
        """Whether it is one of our neurons, or one that derives from them."""
        return isinstance(module, Neuron) and type(module).forward is Neuron.forward

    def refusal(self, module: nn.Module) -> str | None:
        """A neuron whose forward was replaced; everything else is plain torch."""
        if not isinstance(module, Neuron) or self.covers(module):
            return None
        return f"{type(module).__name__} overrides forward of snncompile.nn; override step instead"

    def begin(self, module: nn.Module) -> None:
        """Mark the membrane as untouched."""
        self._started.pop(module, None)
        vars(module)["membrane"] = UNTOUCHED

    def lower(self, module: Neuron, lowering: Lowering, current: Tensor) -> Tensor:
        """Emit one time step.

        Args:
            module: A module that `covers` accepts.
            lowering: The capture.
            current: Input current, [N, ...].

        Returns:
            What the module's forward would return, [N, ...].
        """
        before = vars(module)["membrane"]
        if before is None or before is UNTOUCHED:
            carried = before is UNTOUCHED
            before = lowering.state(module, "membrane", like=current, carried=carried)
            self._started.setdefault(module, []).append(before)
        step = module.step()
        output, after = lowering.neuron(step.func, current, before, **step.keywords)
        module.membrane = after
        if module in self._started:
            lowering.finish(self._started[module][-1], after)
        return output

    def end(self, module: Neuron, lowering: Lowering) -> None:
        """After the model ran: the membrane is what it left there, a reset included."""
        for state in self._started.pop(module, []):
            held = module.membrane
            lowering.finish(state, state.new_zeros(state.shape) if held is None else held)

    def stateless(self, module: nn.Module) -> type[nn.Module] | None:
        """None: there are no other layers here."""
        return None

    def takes_sequences(self, module: nn.Module) -> bool:
        """False: see `stateless`."""
        return False

    def spikes(self, module: nn.Module, output: Any) -> Tensor | None:  # noqa: ANN401
        """What a real call returned: spikes, or the membrane of a LeakyIntegrator."""
        spikes: Tensor | None = output
        return spikes

    def membrane(self, module: Neuron, output: Any) -> Tensor | None:  # noqa: ANN401
        """The membrane that a real call left."""
        return module.membrane

    def reset(self, module: Neuron) -> None:
        """Forget the membrane."""
        module.membrane = None


FRONTEND = Native()
