"""Follows a hidden state through a capture, from the value it started with to its latest one.

A library keeps its states on the module, or hands them out and takes them back; either way the
program needs to know which value a state ends with. A value belongs to a state's chain when it is
the very tensor that the module's last call left there.
"""

from weakref import WeakKeyDictionary

from torch import Tensor, nn

from snncompile.frontends.lowering import Lowering


class Chains:
    """For every module and key: the state a capture started with, and its latest value."""

    def __init__(self) -> None:
        self._links: WeakKeyDictionary[nn.Module, dict[str, tuple[Tensor, Tensor]]]
        self._links = WeakKeyDictionary()

    def clear(self, module: nn.Module) -> None:
        """Forget a module's chains: a new capture begins."""
        self._links.pop(module, None)

    def start(self, module: nn.Module, key: str, state: Tensor) -> None:
        """Begin a chain at a state that the lowering made."""
        self._links.setdefault(module, {})[key] = (state, state)

    def advance(
        self, lowering: Lowering, module: nn.Module, key: str, step: tuple[Tensor, Tensor]
    ) -> None:
        """Tell the lowering where a state has got to, if the step continues its chain.

        Args:
            lowering: The capture.
            module: The module that made the step.
            key: Which of its states.
            step: The state's value before and after the step, each [N, ...].
        """
        before, after = step
        links = self._links.get(module, {})
        if key in links and links[key][1] is before:
            links[key] = (links[key][0], after)
            lowering.finish(links[key][0], after)

    def started(self, module: nn.Module) -> dict[str, Tensor]:
        """The states that a module's chains started with, by key."""
        return {key: start for key, (start, _) in self._links.get(module, {}).items()}
