"""Replace LIF neurons by reversible ones, whose training keeps no membranes.

A reversible neuron splits its channels in two halves, each of which drives the other. With F for
the step of the LIF neuron that it replaces, from a current and a membrane to spikes S and the
membrane K after the reset,

    S1, K1 = F(X1, V1)        Y1 = S1 + beta X2        V1' = K1 + alpha V2
    S2, K2 = F(Y1, V1')       Y2 = S2 + beta X1        V2' = K2 + alpha V1.

Current X and membrane V follow from the output Y and the next membrane V', so that the backward
pass recovers them step by step from the last membrane and takes gradients in the same sweep.

Before::

    program steps=sequence
    input   %x: sequence [N, 4] float32
    state   %v: [N, 2] float32 = 0
    step:
      %w = w: Linear(4, 2)(%x)                    # [N, 2]
      %spikes, %membrane = lif(%w, %v, Leak(2), Hard(), atan(2), threshold=1)  # [N, 2], lif
    next    %v <- %membrane
    output  out0 = stack(%spikes)

After::

    program steps=sequence
    input   %x: sequence [N, 4] float32
    state   %v: [N, 2] float32 = 0
    step:
      %w = w: Linear(4, 2)(%x)                    # [N, 2]
      %output, %membrane = reversible_lif(%w, %v, Leak(2), Hard(), atan(2), Grid(8, 1), threshold=1)
        # [N, 2], lif
    next    %v <- %membrane
    output  out0 = stack(%output)

This is another network, to be trained as such: outputs are real-valued, not spikes. By default
alpha = beta = 1, currents and K are rounded to multiples of 2^-bits, and K saturates at the power
of two at or above the threshold. Then the inverse has the bits of the forward pass for as long as
outputs and membranes stay below 2^(24 - bits) in float32, which limits T to about that number;
beyond, the backward pass is refused. With other coefficients, or without rounding, an error in
the membranes grows in every step of the inverse; membranes are then kept every `anchors` steps, a
number chosen so that the error stays below `ERROR` of the largest one, unless a spike changes.

The memory is saved under the schedules that run several steps at once. One step at a time, in
feedback between neurons, and where something reads the membrane at every step, autograd keeps
what it always does.

Keeps: the interface; another function is trained.

Reference: Lei, Lin, Lin, Liao, Ding. Towards Zero Memory Footprint Spiking Neural Network
Training. 2023, arXiv:2308.08649. The equations are a reconstruction from what is public about
them; rounding and saturation are additions.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from operator import getitem
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from snncompile.errors import InputError
from snncompile.ir.charges import Charged
from snncompile.ir.grids import Grid
from snncompile.ir.names import value_name
from snncompile.ir.neurons import lif, reversible_lif
from snncompile.ir.program import Program, is_spiking, origin
from snncompile.ir.reversible import error_growth
from snncompile.rewrite import Keeps, Pass

ERROR = 1e-4
"""How far, relative to the largest membrane, rounding may take the inverse between two anchors."""

_LEAVE_OUT = "Leave it out with Reversible(skip=({!r},))"


@dataclass(frozen=True)
class Reversible(Pass):
    """Replace every LIF neuron by a reversible one.

    Attributes:
        alpha: The share of the other half's membrane, in (0, 1].
        beta: The share of the other half's current, in (0, 1].
        bits: Binary digits behind the point that are kept where alpha = beta = 1; None rounds
            nothing.
        anchors: Every how many steps membranes are kept where nothing is rounded; None chooses.
        skip: Modules whose neurons stay as they are; a neuron without one goes by its node's name.

    Raises:
        InputError: A coefficient or number is out of range.
    """

    name: ClassVar[str] = "reversible"
    keeps: ClassVar[Keeps] = "interface"

    alpha: float = 1.0
    beta: float = 1.0
    bits: int | None = 8
    anchors: int | None = None
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (0 < self.alpha <= 1 and 0 < self.beta <= 1):
            raise InputError(f"alpha and beta lie in (0, 1], not {self.alpha:g} and {self.beta:g}")
        if self.bits is not None and not 0 <= self.bits <= 20:  # noqa: PLR2004
            raise InputError(f"bits lie between 0 and 20, not {self.bits}")
        if self.anchors is not None and self.anchors < 1:
            raise InputError(f"anchors are at least 1 step apart, not {self.anchors}")

    @property
    def _rounds(self) -> bool:
        return self.bits is not None and self.alpha == self.beta == 1

    def requires(self, program: Program) -> None:
        """Every spiking neuron that is not skipped is a LIF that splits and can be inverted."""
        for node in self._neurons(program):
            self._require_lif(node)
            self._require_halves(node)
            self._require_real_readers(node)
            self._require_own_state(program, node)
            if self._rounds:
                self._require_start(program, node)

    def _require_lif(self, node: fx.Node) -> None:
        """A neuron whose step is known in closed form, with nothing learned inside."""
        if node.target is not lif:
            self._refuse(node, "is no lif, the neuron that has a reversible form")
        if any(isinstance(setting, Tensor) for setting in _settings(node)):
            self._refuse(node, "has a setting that is a tensor; the inverse wants numbers")
        learned = set(node.all_input_nodes) - set(node.args)
        if learned:
            what = value_name(min(learned))
            self._refuse(node, f"takes a setting from {what}; the inverse wants fixed numbers")
        if isinstance(node.kwargs["charge"], Charged):
            self._refuse(node, "is charged by other nodes, which have no inverse")
        if node.kwargs.get("detach_membrane"):
            problem = "cuts the gradient through time, which here runs through the other half too"
            self._refuse(node, problem)

    def _require_halves(self, node: fx.Node) -> None:
        """An even number of channels, of a dtype whose sums are exact enough to go back."""
        value = _spikes(node)
        channels: Any = value.shape[1] if value.dim() > 1 else 0
        if not isinstance(channels, int) or channels % 2 or not channels:
            shown = channels if value.dim() > 1 else "no"
            self._refuse(node, f"has {shown} channels, which do not split into two halves")
        if value.dtype not in (torch.float32, torch.float64):
            problem = f"computes in {value.dtype}, which is too coarse for an inverse"
            self.refuse(node, problem, fix="Call float() on the model")

    def _require_real_readers(self, node: fx.Node) -> None:
        """Nothing reads the spikes as truth values."""
        for part in node.users:
            for user in part.users if part.args[1] == 0 else ():
                read = user.meta.get("val")
                if isinstance(read, Tensor) and read.dtype == torch.bool:
                    what = f"has spikes that {value_name(user)} reads as true or false"
                    self._refuse(node, f"{what}; its outputs will be real numbers")

    def _require_own_state(self, program: Program, node: fx.Node) -> None:
        """The membrane goes straight from one step to the next."""
        following = program.next_states()
        held = node.args[1]
        after = following.get(held.name) if isinstance(held, fx.Node) else None
        if after is None or after.target is not getitem or after.args != (node, 1):
            self._refuse(node, "does not hand its membrane straight to its own next step")

    def _require_start(self, program: Program, node: fx.Node) -> None:
        """The membrane starts on the grid, if there is one."""
        start = next(s.initial for s in program.states if s.name == str(node.args[1]))
        if isinstance(start, str) or not (start * 2.0 ** (self.bits or 0)).is_integer():
            where = f"%{start}" if isinstance(start, str) else f"{start:g}"
            problem = f"starts from {where}, which may lie between multiples of 2^-{self.bits}"
            self.refuse(node, problem, fix="Start it from 0, or use Reversible(bits=None)")

    def apply(self, program: Program) -> int:
        """Call the reversible neuron instead."""
        found = list(self._neurons(program))
        for node in found:
            node.kwargs = {**node.kwargs, **self._coupling(node)}
            node.target = reversible_lif
        return len(found)

    def _coupling(self, node: fx.Node) -> dict[str, Any]:
        """The settings that a reversible neuron has beyond those of a LIF."""
        if self._rounds and self.bits is not None:
            threshold: Any = node.kwargs["threshold"]
            limit = 2.0 ** math.ceil(math.log2(max(abs(threshold), 2.0**-self.bits)))
            return {"grid": Grid(self.bits, limit)}
        growth = error_growth(node.kwargs["charge"], self.alpha)  # type: ignore[arg-type]
        reach = math.log(ERROR / torch.finfo(_spikes(node).dtype).eps)
        anchors = self.anchors or max(1, int(reach / math.log(growth)))
        return {"alpha": self.alpha, "beta": self.beta, "anchors": anchors}

    def _neurons(self, program: Program) -> Iterator[fx.Node]:
        return (n for n in program.neurons() if is_spiking(n) and origin(n) not in self.skip)

    def _refuse(self, node: fx.Node, problem: str) -> None:
        self.refuse(node, problem, fix=_LEAVE_OUT.format(origin(node)))


def _spikes(node: fx.Node) -> Tensor:
    """The fake tensor of a neuron's spikes, [N, C, ...]."""
    spikes: Tensor = node.meta["val"][0]
    return spikes


def _settings(node: fx.Node) -> list[Any]:
    """The numbers, tensors and names in a neuron's settings."""
    leaves: list[Any] = pytree.tree_leaves(node.kwargs)
    return leaves
