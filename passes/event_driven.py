"""Let synapses add up the weights of active inputs where few inputs are active.

A Linear whose inputs are 0 or 1 multiplies most of its weights with 0. Where few inputs are active
it is faster to add, for every sample, the columns of the weight at which there is a 1; likewise for
the weight's gradient, which is the sum of the output's gradients over the samples in which an
input was active. A Conv2d is a Linear on the patches that its kernel reads. The gradient of the
spikes is no such sum and stays a dense product.

Before::

    program steps=sequence
    input   %x: sequence [N, 3] float32
    state   %lif0_membrane "lif0.membrane": [N, 4] float32 = 0
    state   %lif1_membrane "lif1.membrane": [N, 2] float32 = 0
    step:
      %0 = 0: Linear(3, 4)(%x)                    # [N, 4]
      %spikes, %membrane = lif(%0, %lif0_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 4], lif0
      %1 = 1: Linear(4, 2)(%spikes)               # [N, 2]
      %spikes_1, %membrane_1 = lif(%1, %lif1_membrane, Decay(0.5), Subtract(), atan(2),
        threshold=1)  # [N, 2], lif1
    next    %lif0_membrane <- %membrane
    next    %lif1_membrane <- %membrane_1
    output  out0 = stack(%spikes_1)

After::

    program steps=sequence
    input   %x: sequence [N, 3] float32
    state   %lif0_membrane "lif0.membrane": [N, 4] float32 = 0
    state   %lif1_membrane "lif1.membrane": [N, 2] float32 = 0
    step:
      %0 = 0: Linear(3, 4)(%x)                    # [N, 4], by events
      %spikes, %membrane = lif(%0, %lif0_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 4], lif0
      %1 = 1: Linear(4, 2)(%spikes)               # [N, 2], by events
      %spikes_1, %membrane_1 = lif(%1, %lif1_membrane, Decay(0.5), Subtract(), atan(2),
        threshold=1)  # [N, 2], lif1
    next    %lif0_membrane <- %membrane
    next    %lif1_membrane <- %membrane_1
    output  out0 = stack(%spikes_1)

Marked are layers that read spikes, or spikes of one size behind reshapes, pooling by a maximum and
dropout, and those that read an input of the network, which may be events. What a marked layer does
is decided call by call, forward and backward by itself: it looks at a sample of its inputs, and
adds up events where that is expected to be faster than the dense product, by times measured at the
first calls and since. Where it is not, the next look is a few calls later, up to 16; products that
take less than half a millisecond are never looked at. ``EventDriven(below=0.1)`` decides by the
share of active inputs alone, the same way in every run.

A Linear that reads accumulations, as after the pass `saf`, is marked too: its product is one, so
that it adds up the events and accumulates the sums, one step after the other; backward it
multiplies.

Inputs that are not all 0 or one other number are multiplied as ever; so are all of them one time
step at a time (``schedule="steps"``), without a C compiler, and on a GPU. Between forward and
backward the spikes are kept as bits. `synapses` says what every layer did.

Keeps: the outputs up to rounding, in no fixed way: a sum of events has the order of its inputs, a
dense product the library's order. With weights whose sums round nowhere the bits are the same. A
spike moves where a membrane lies within rounding of its threshold; `snncompile.verify` counts them.

Reference: none; that spikes turn products into sums is common knowledge in neuromorphic hardware.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, cast

from torch import fx, nn

from snncompile.errors import InputError
from snncompile.ir.events import Events
from snncompile.ir.layers import layer_class
from snncompile.ir.program import Program, origin
from snncompile.ir.traces import traces
from snncompile.ir.two_valued import two_valued
from snncompile.rewrite import Keeps, Pass


@dataclass(frozen=True)
class EventDriven(Pass):
    """Mark the layers that may add up events.

    Attributes:
        below: Add up events where at most this share of the inputs is active; None measures which
            way is faster.
        inputs: Also mark layers that read an input of the network.

    Raises:
        InputError: A share is not between 0 and 1.
    """

    name: ClassVar[str] = "event-driven"
    keeps: ClassVar[Keeps] = "outputs"

    below: float | None = None
    inputs: bool = True

    def __post_init__(self) -> None:
        if self.below is not None and not 0 <= self.below <= 1:
            raise InputError(f"below is a share of the inputs in [0, 1], not {self.below:g}")

    def requires(self, program: Program) -> None:
        """Any program will do: what reads no spikes stays as it is."""

    def apply(self, program: Program) -> int:
        """Mark every such layer."""
        found = list(_synapses(program, inputs=self.inputs))
        for node, decay in found:
            node.meta["events"] = Events(self.below, decay=decay)
        return len(found)


def synapses(program: Program) -> dict[str, Events]:
    """What the marked layers of a program did in their last call, by the module.

    Args:
        program: What the pass returned; of a transformed module, its `program`.
    """
    return {origin(n): n.meta["events"] for n in program.step.nodes if "events" in n.meta}


def _synapses(program: Program, *, inputs: bool) -> Iterator[tuple[fx.Node, float | None]]:
    """The layers to mark, with the decay of their inputs where these are leaky counts of spikes."""
    given = program.placeholders()[: len(program.inputs)] if inputs else []
    spikes = two_valued(program, given)
    counts = traces(program, spikes)
    for node in program.step.find_nodes(op="call_module"):
        known = _adds_up(program, node) and node.name not in program.whole
        if not known or not node.args or "events" in node.meta:
            continue
        if node.args[0] in spikes:
            yield node, None
        elif node.args[0] in counts and layer_class(program, node) is nn.Linear:
            yield node, counts[cast("fx.Node", node.args[0])]


def _adds_up(program: Program, node: fx.Node) -> bool:
    """Whether a layer is a Linear, or a Conv2d of one group with zeros around its maps."""
    known = layer_class(program, node)
    if known is not nn.Conv2d:
        return known is nn.Linear
    layer = cast("nn.Conv2d", program.module(node))
    return layer.groups == 1 and layer.padding_mode == "zeros"
