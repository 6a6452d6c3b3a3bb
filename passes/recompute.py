"""Keep spikes as bits, and run the rest again in the backward pass.

For every neuron and step, training keeps its current or its membrane, and what the next layer
reads: 4 to 20 bytes. All of it follows from the spikes that a layer received, one bit each. So the
step is cut into segments, as a rule a synapse, its normalisation and its neuron. Of a segment only
what it reads is kept, and it runs again when its gradients are due.

Before::

    program steps=sequence
    input   %x: sequence [N, 8] float32
    state   %lif0_membrane "lif0.membrane": [N, 16] float32 = 0
    state   %lif1_membrane "lif1.membrane": [N, 4] float32 = 0
    step:
      %0 = 0: Linear(8, 16)(%x)                   # [N, 16]
      %spikes, %membrane = lif(%0, %lif0_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 16], lif0
      %1 = 1: Linear(16, 4)(%spikes)              # [N, 4]
      %spikes_1, %membrane_1 = lif(%1, %lif1_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 4], lif1
    next    %lif0_membrane <- %membrane
    next    %lif1_membrane <- %membrane_1
    output  out0 = stack(%spikes_1)

After::

    program steps=sequence
    input   %x: sequence [N, 8] float32
    state   %lif0_membrane "lif0.membrane": [N, 16] float32 = 0
    state   %lif1_membrane "lif1.membrane": [N, 4] float32 = 0
    step:
      %0 = 0: Linear(8, 16)(%x)                   # [N, 16]
      %spikes, %membrane = lif(%0, %lif0_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 16], lif0
      %1 = 1: Linear(16, 4)(%spikes)              # [N, 4]
      %spikes_1, %membrane_1 = lif(%1, %lif1_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 4], lif1
    next    %lif0_membrane <- %membrane
    next    %lif1_membrane <- %membrane_1
    again   %0, %spikes, %membrane from inputs
    again   %1, %spikes_1, %membrane_1 from %spikes (1 bit)
    output  out0 = stack(%spikes_1)

Counts take the bits that their levels take, other values their own; what the user gave is not
copied. Where the cuts are is chosen by what they cost: a cut keeps what crosses it for as long as
the call lasts, a segment holds all it computes while it runs back. With a budget of kept bytes,
segments that spare most work for their bytes keep what autograd keeps, as far as the budget goes.

Under "layers" a segment runs over all steps; under tiles it keeps its states before each tile as
well; under "steps" as many steps as take the least memory run again together from the states before
them, and so does what has feedback under any schedule. Random numbers, autocast and the statistics
of BatchNorm are those of the first run. A BatchNorm with statistics over all steps wants "layers".

Keeps: outputs and gradients, bit for bit those of the same schedule without the pass.

Reference: Griewank, Walther. Algorithm 799: revolve. ACM TOMS 26, 2000. Chen, Xu, Zhang, Guestrin.
Training Deep Nets with Sublinear Memory Cost. 2016, arXiv:1604.06174.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from snncompile.errors import InputError
from snncompile.ir.program import Program, Recomputation
from snncompile.memory.segments import least_memory
from snncompile.rewrite import Keeps, Pass

_UNITS = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30,
}  # fmt: skip


@dataclass(frozen=True)
class Recompute(Pass):
    """Run segments of the step again instead of keeping their values.

    Attributes:
        budget: How many bytes a call may keep for its backward pass, as a number or as text such
            as "64MiB"; None keeps as few as can be.

    Raises:
        InputError: The budget is no size.
    """

    name: ClassVar[str] = "recompute"
    keeps: ClassVar[Keeps] = "outputs"

    budget: int | str | None = None

    def __post_init__(self) -> None:
        _ = self.bytes

    @property
    def bytes(self) -> int | None:
        """The budget as a number."""
        if self.budget is None:
            return None
        found = re.fullmatch(r"\s*([\d.]+)\s*([A-Za-z]*)\s*", str(self.budget))
        if not found or found[2].upper() not in _UNITS or found[1].count(".") > 1:
            raise InputError(
                f"the budget {self.budget!r} is no size; give bytes, or text such as '64MiB'"
            )
        return int(float(found[1]) * _UNITS[found[2].upper()])

    def requires(self, program: Program) -> None:
        """Any program will do."""

    def apply(self, program: Program) -> int:
        """Note what runs again; the step itself stays as it is."""
        before, found = program.recompute, Recomputation(self.bytes, least_memory(program))
        program.recompute = found
        return 0 if found == before else len(found.segments)
