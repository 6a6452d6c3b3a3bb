"""The rewrite for weights that change within a sequence.

A potential that keeps what old weights contributed follows the recurrence

    U[t] = decay * U[t-1] + W s[t] + b,

so that the synapse reads spikes, s[t] = a[t] - decay * a[t-1]. Its gradient is nevertheless taken
at the accumulation a[t]: of the recurrence itself it would be that of SLTT (Meng et al., 2023,
arXiv:2302.14311), not of OTTT.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import fx

from snncompile.ir.affine import is_linear, is_synapse
from snncompile.ir.charges import Charge
from snncompile.ir.program import Program
from snncompile.ir.synapses import convolution
from snncompile.ir.traced import exchanged, traced_convolution, traced_linear
from snncompile.saf.rewriting import Rewriting
from snncompile.saf.sequence import FirstLayer
from snncompile.saf.sources import Sources

Made: TypeAlias = Callable[[fx.Node, Charge], fx.Node]


class OnlineUpdate(Rewriting):
    """Puts spikes through the synapses, and takes gradients at accumulations.

    Args:
        program: The program.
        sources: Where its values come from.
        first_layer: "input": a synapse of the input learns from the input of the step; "trace":
            from the input's accumulation.
    """

    def __init__(self, program: Program, sources: Sources, first_layer: FirstLayer) -> None:
        super().__init__(program, sources)
        self.first_layer = first_layer
        self._read: dict[tuple[fx.Node, Charge], fx.Node] = {}

    def potential(self, current: fx.Node, charge: Charge) -> fx.Node:
        """The accumulated current: what old weights contributed stays."""
        return self.accumulated(current, self.read(current, charge), charge)

    def read(self, node: fx.Node, decay: Charge) -> fx.Node:
        """The value of a node; parameters before it learn from accumulations."""
        if self.stops(node) or node in self.states or not self.weighted(node):
            return self.value(node)
        if (node, decay) not in self._read:
            made = self._traced if self.learned(node) else self._copied
            self._read[node, decay] = made(node, decay)
        return self._read[node, decay]

    def stops(self, node: fx.Node) -> bool:
        """Whether accumulation begins here: at spikes, and in what comes from the input."""
        if self.first_layer == "trace" and self.sources[node] == "input":
            return node in self.writer.inputs
        return super().stops(node)

    def passed(self, node: fx.Node, decay: Charge) -> fx.Node:
        """The same call, of accumulations, its constants counted once."""
        return self.copy(node, lambda operand: self._operand(operand, decay, self.accumulation))

    def _copied(self, node: fx.Node, decay: Charge) -> fx.Node:
        return self.copy(node, lambda operand: self._operand(operand, decay, self.read))

    def _operand(self, operand: fx.Node, decay: Charge, made: Made) -> fx.Node:
        fixed = self.sources[operand] == "fixed"
        return self.value(operand) if fixed else made(operand, decay)

    def _traced(self, node: fx.Node, decay: Charge) -> fx.Node:
        """A call with a weight: its value from spikes, its gradient at accumulations."""
        settings = self._settings(node) if is_synapse(self.program, node) else None
        if settings is None:
            carrier = self.copy(node, lambda o: self._operand(o, decay, self.accumulation))
            return self.writer.call(exchanged, self._copied(node, decay), carrier)
        (source, *_) = node.all_input_nodes
        factor = self.factor(source)
        spikes = self.unscaled(source, lambda found: self.read(found, decay))
        accumulation = self.unscaled(source, lambda found: self.accumulation(found, decay))
        parameters = self.parameters(node, factor)
        function = traced_linear if is_linear(self.program, node) else traced_convolution
        made = self.writer.call(function, spikes, accumulation, *parameters, *settings)
        made.meta = dict(node.meta)
        return made

    def _settings(self, node: fx.Node) -> tuple[Any, ...] | None:
        """What a traced synapse takes after the bias; None where there is none for the call."""
        return () if is_linear(self.program, node) else convolution(self.program, node)
