"""The states that frontends ask for while a model is recorded."""

from dataclasses import dataclass

from torch import fx


@dataclass(frozen=True)
class RecordedState:
    """A state that a frontend asked for.

    Attributes:
        node: The placeholder that stands for its value before the first step.
        label: Module and key, e.g. ``layer1.lif.membrane``.
        initial: The number that fills it, or the node that computes it.
        carried: It survives the call.
    """

    node: fx.Node
    label: str
    initial: float | fx.Node
    carried: bool


def placeholder_name(label: str) -> str:
    """A state's label as the name of a node."""
    return label.replace(".", "_").replace("'", "_")
