"""Which node of a trace computes which tensor."""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor, fx

Maker: TypeAlias = Callable[[], fx.Node]
"""Makes a tensor's node when it is first read."""


class Bindings:
    """The nodes of tensors, by identity; keeps the tensors alive, so that no id is used twice."""

    def __init__(self) -> None:
        self._nodes: dict[int, fx.Node | Maker] = {}
        self._alive: list[object] = []

    def __contains__(self, tensor: object) -> bool:
        return id(tensor) in self._nodes

    def bind(self, tensor: object, node: fx.Node | Maker) -> None:
        """Say which node computes a tensor, or what makes that node."""
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)

    def share(self, tensor: Tensor, source: Tensor) -> None:
        """Say that a tensor is computed by the node of another, made or not."""
        self.bind(tensor, self._nodes[id(source)])

    def made(self, tensor: Tensor) -> fx.Node | None:
        """The node of a tensor, if it exists already."""
        found = self._nodes.get(id(tensor))
        return found if isinstance(found, fx.Node) else None

    def node(self, tensor: Tensor) -> fx.Node:
        """The node of a bound tensor; made now if this is the first time."""
        found = self._nodes[id(tensor)]
        node = found if isinstance(found, fx.Node) else found()
        self._nodes[id(tensor)] = node
        return node

    def spoil_aliases(self, changed: Tensor, refuse: Maker) -> None:
        """What shares memory with a written tensor changed unseen: let reading it be refused.

        Args:
            changed: The tensor that was written in place.
            refuse: Called when another tensor of its memory is read; raises.
        """
        memory = _memory(changed)
        for other in self._alive:
            if other is not changed and isinstance(other, Tensor) and _memory(other) == memory:
                self._nodes[id(other)] = refuse


def _memory(tensor: Tensor) -> int:
    """What tells the memory of a tensor, real or fake, from that of others."""
    address: int = tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]
    return address
