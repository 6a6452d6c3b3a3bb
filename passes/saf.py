"""Spike accumulation forwarding (SAF): send leaky counts of spikes between layers, not spikes.

A neuron that subtracts from its membrane what it emits, with decay d, threshold h and the
accumulation a[t] = d a[t-1] + s[t] of its spikes, has at every step

    u[t] = U[t] - h d a[t-1],    s[t] = H(u[t] - h),    U[t] = W a_in[t] + c[t] b,

where a_in is what it receives and c[t] = d c[t-1] + 1. With a[t-1] held constant, the gradient of
step t needs the quantities of step t only: it is that of OTTT, for half of its synaptic
operations forward (variant "each-step", SAF-E). With a gradient at the last step alone it is that
of the spike representation (variant "final", SAF-F).

Training is as usual, ``loss(fast(x), y).backward()``. Under schedule "layers" the gradients of all
steps come from one backward pass; under "steps" its memory does not grow with T. Where weights
change within a sequence, use update="online" and the iterator ``fast.steps(x)``. The user's model
has the same weights and infers with plain spikes: ``fast.original``.

Before::

    program steps=sequence
    input   %x: sequence [N, 3] float32
    state   %lif0_membrane "lif0.membrane": [N, 4] float32 = 0
    state   %lif1_membrane "lif1.membrane": [N, 2] float32 = 0
    step:
      %0 = 0: Linear(3, 4)(%x)  # [N, 4]
      %spikes, %membrane = lif(%0, %lif0_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 4], lif0
      %1 = 1: Linear(4, 2)(%spikes)  # [N, 2]
      %spikes_1, %membrane_1 = lif(%1, %lif1_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 2], lif1
    next    %lif0_membrane <- %membrane
    next    %lif1_membrane <- %membrane_1
    output  out0 = stack(%spikes_1)

After::

    program steps=sequence, gradient of each step
    input   %x: sequence [N, 3] float32
    state   %_0_accumulation "0.accumulation": [N, 4] float32 = 0
    state   %lif0_accumulation "lif0.accumulation": [N, 4] float32 = 0
    state   %count: [N, 1] float32 = 0
    state   %lif1_accumulation "lif1.accumulation": [N, 2] float32 = 0
    step:
      %0 = 0: Linear(3, 4)(%x)  # [N, 4]
      %output, %accumulation = accumulate(%0, %_0_accumulation, Decay(0.5))  # [N, 4]
      %spikes, %accumulation_1 = accumulating(%output, %lif0_accumulation, Decay(0.5), Subtract(),
        atan(2), neuron=lif, threshold=1)  # [N, 4], lif0
      %1 = 1: Linear(4, 2)(%accumulation_1)  # [N, 2]
      %1_bias = parameter 1.bias  # [2]
      %reshape = reshape(%1_bias, (1, -1))  # [1, 2]
      %detach = detach(%reshape)  # [1, 2]
      %one = constant one  # []
      %output_1, %accumulation_2 = accumulate(%one, %count, Decay(0.5))  # [N, 1]
      %shifted = shifted(%1, %detach, %count, charge=Decay(0.5))  # [N, 2]
      %spikes_1, %accumulation_3 = accumulating(%shifted, %lif1_accumulation, Decay(0.5),
        Subtract(), atan(2), neuron=lif, threshold=1)  # [N, 2], lif1
    next    %_0_accumulation <- %accumulation
    next    %lif0_accumulation <- %accumulation_1
    next    %count <- %accumulation_2
    next    %lif1_accumulation <- %accumulation_3
    output  out0 = stack(%spikes_1)

Keeps: every spike in real arithmetic; floating point can move one whose membrane lies within
rounding of the threshold. The gradient is its own. With variant "final" means and sums over time
become leaky ones, which is what the method's loss is of.

Reference: Saiin, Shirakawa, Yoshihara, Sawada, Kusumoto. Spike Accumulation Forwarding for
Effective Training of Spiking Neural Networks. TMLR 2024, arXiv:2310.02772. OTTT: Xiao et al.,
2022, arXiv:2210.04195. Spike representation: Meng et al., 2022, arXiv:2205.00459.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import fx

from snncompile.errors import InputError
from snncompile.ir.program import Output, Program, output_of
from snncompile.rewrite import Keeps, Pass
from snncompile.saf.check import check
from snncompile.saf.normalisation import check_standard, freeze, normalisations, standardise
from snncompile.saf.online import OnlineUpdate
from snncompile.saf.rewriting import Rewriting
from snncompile.saf.sequence import Bias, FirstLayer, SequenceUpdate
from snncompile.saf.sources import SUBTRACTING, Sources

_OPTIONS: Mapping[str, tuple[str | None, ...]] = {
    "variant": ("each-step", "final"),
    "update": ("sequence", "online"),
    "first_layer": (None, "input", "trace"),
    "bias": (None, "step", "accumulated"),
    "batchnorm": ("refuse", "freeze", "standardise"),
}


@dataclass(frozen=True)
class SAF(Pass):
    """Let accumulations flow where spikes did, with the gradient of online training.

    Attributes:
        variant: "each-step" (SAF-E) has a gradient at every step, that of OTTT; "final" (SAF-F)
            one at the last step, that of the spike representation.
        update: "sequence" when weights change between sequences; "online" when they may change
            after every step of one.
        first_layer: What the first synapse learns from: the "input" of the step, or its "trace".
        bias: How a step's gradient counts a bias: once, "step", or as often as the potential
            contains it, "accumulated".
        batchnorm: What becomes of BatchNorm. "refuse": one that trains between spikes and a neuron
            is refused; "freeze": all use their running statistics; "standardise": all give way to
            scaled weight standardisation, with their scale and shift, which is another function.
    """

    name: ClassVar[str] = "saf"
    keeps: ClassVar[Keeps] = "spikes"

    variant: Literal["each-step", "final"] = "each-step"
    update: Literal["sequence", "online"] = "sequence"
    first_layer: FirstLayer | None = None
    bias: Bias | None = None
    batchnorm: Literal["refuse", "freeze", "standardise"] = "refuse"

    def __post_init__(self) -> None:
        for name, known in _OPTIONS.items():
            if getattr(self, name) not in known:
                raise InputError(f"SAF has no {name}={getattr(self, name)!r}; use one of {known}")
        if self.update == "online" and self.variant == "final":
            raise InputError("SAF updates weights after a final step only: use update='sequence'")
        if self.update == "online" and self.bias == "accumulated":
            raise InputError("SAF with update='online' counts a bias once a step: use bias='step'")
        if self.variant == "final" or self.batchnorm != "refuse":
            object.__setattr__(self, "keeps", "interface")

    def requires(self, program: Program) -> None:
        """Refuse what does not commute with accumulation, and neurons that do not just subtract."""
        replaced = () if self.batchnorm == "refuse" else normalisations(program)
        check(program, Sources(program), self.refuse, replaced)
        if self.batchnorm == "standardise":
            check_standard(program, self.refuse)

    def apply(self, program: Program) -> int:
        """Write a step of accumulating neurons; returns how many there are."""
        targets = sum(node.target in SUBTRACTING for node in program.neurons())
        if not targets:
            return 0
        if self.batchnorm != "refuse":
            (freeze if self.batchnorm == "freeze" else standardise)(program)
        if self.variant == "each-step":
            rewriting = self._each_step(program)
            made = [rewriting.value(node) for node in output_of(program.step)[0]]
            program.gradient = "each-step"
        else:
            rewriting, made = self._final(program)
            program.gradient = "last-step"
        rewriting.writer.finish(tuple(made))
        return targets

    def _each_step(self, program: Program) -> Rewriting:
        sources, first_layer = Sources(program), self.first_layer or "input"
        if self.update == "online":
            return OnlineUpdate(program, sources, first_layer)
        return SequenceUpdate(program, sources, first_layer, self.bias or "step")

    def _final(self, program: Program) -> tuple[Rewriting, list[fx.Node]]:
        """Means and sums over time become leaky ones at the last step."""
        first_layer, bias = self.first_layer or "trace", self.bias or "accumulated"
        rewriting = SequenceUpdate(program, Sources(program), first_layer, bias)
        made: list[fx.Node] = []
        outputs: list[Output] = []
        for node, output in zip(output_of(program.step)[0], program.outputs, strict=True):
            if output.reduce in ("mean", "sum", "running_sum"):
                made.append(rewriting.averaged(node, summed=output.reduce != "mean"))
                outputs.append(replace(output, reduce="last"))
            else:
                made.append(rewriting.value(node))
                outputs.append(output)
        program.outputs = tuple(outputs)
        return rewriting, made
