"""The rewrite for weights that are constant over a sequence: synapses run on accumulations.

A potential is then what a synapse makes of the accumulations it receives, its bias once a step:

    tr(W s + b)[t] = (W a[t] + b) + decay * count[t-1] * b,   count[t] = decay * count[t-1] + 1.

There is one synaptic operation a step, and its gradient is that of OTTT (Xiao et al., 2022,
arXiv:2210.04195), which needs a second one for the traces.
"""

import operator
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, fx

from snncompile.ir.accumulation import difference, shifted
from snncompile.ir.affine import SUMS, is_linear, is_synapse, law
from snncompile.ir.charges import Charge, Decay
from snncompile.ir.operations import call_name, is_reshape
from snncompile.ir.program import Program, State, value_of
from snncompile.ir.synapses import functional_form
from snncompile.saf.rewriting import Rewriting, state_shape
from snncompile.saf.sources import Sources

Bias: TypeAlias = Literal["step", "accumulated"]
FirstLayer: TypeAlias = Literal["input", "trace"]


class SequenceUpdate(Rewriting):
    """Puts accumulations through the synapses.

    Args:
        program: The program.
        sources: Where its values come from.
        first_layer: "input": what comes from the input is accumulated where it meets a neuron, so
            that a synapse's gradient uses the input of the step; "trace": the input itself is.
        bias: Gradient of a bias from one step: "step" counts it once, "accumulated" as often as
            the potential contains it.
    """

    def __init__(
        self, program: Program, sources: Sources, first_layer: FirstLayer, bias: Bias
    ) -> None:
        super().__init__(program, sources)
        self.first_layer = first_layer
        self.bias = bias
        self._offsets: dict[fx.Node, fx.Node | None] = {}
        self._counts: dict[tuple[Charge, int], tuple[fx.Node, fx.Node]] = {}

    def potential(self, current: fx.Node, charge: Charge) -> fx.Node:
        """The accumulated current, complete with what its constants accumulate to."""
        return self._complete(current, charge, detached=self.bias == "step")

    def _complete(self, current: fx.Node, charge: Charge, *, detached: bool) -> fx.Node:
        received = self.accumulation(current, charge)
        offset = self.offset(current)
        if offset is None:
            return received
        if detached:
            offset = self.writer.call(torch.detach, offset)
        count = self.count(charge, value_of(current).dim())
        decay = self.setting(charge)
        return self.writer.call(shifted, received, offset, count, charge=decay)

    def read(self, node: fx.Node, decay: Charge) -> fx.Node:
        """What a step added to the accumulation of what is read, its bias counted once."""
        after = self._complete(node, decay, detached=True)
        state = State("", f"{node.name}.accumulation", 0.0, state_shape(node), self.carried)
        before = self.writer.state(state, lambda: after)
        return self.writer.call(difference, after, before, charge=self.setting(decay))

    def averaged(self, node: fx.Node, *, summed: bool) -> fx.Node:
        """The leaky mean of a value over the steps so far, or that times their number.

        It is the accumulation of the value over that of 1, whose gradient is the spike
        representation's (Meng et al., 2022, arXiv:2205.00459).
        """
        decay, dimensions = self.sources.decay_of(node), value_of(node).dim()
        accumulated = self._complete(node, decay, detached=self.bias == "step")
        mean = self.writer.call(torch.div, accumulated, self.count(decay, dimensions, 1))
        if not summed:
            return mean
        return self.writer.call(operator.mul, mean, self.count(Decay(1.0), dimensions, 1))

    def passed(self, node: fx.Node, decay: Charge) -> fx.Node:
        """The same call, of accumulations; a number they are multiplied by goes into the weight."""
        (source, *_) = node.all_input_nodes
        factor = self.factor(source) if is_synapse(self.program, node) else 1.0
        function = functional_form(self.program, node) if factor != 1.0 else None
        if function is not None:
            received = self.unscaled(source, lambda found: self.accumulation(found, decay))
            parameters = self.parameters(node, factor)
            made = self.writer.call(function[0], received, *parameters, *function[1])
            made.meta = dict(node.meta)
            return made
        return self.copy(node, lambda operand: self._received(operand, decay))

    def _received(self, operand: fx.Node, decay: Charge) -> fx.Node:
        return self.accumulation(operand, decay) if self._varies(operand) else self.value(operand)

    def stops(self, node: fx.Node) -> bool:
        """Whether accumulation begins here: at spikes, and in what comes from the input."""
        if self.sources[node] != "input" or self.first_layer == "input":
            return super().stops(node)
        operands = [operand for operand in node.all_input_nodes if self._varies(operand)]
        return not operands or law(self.program, node, operands).problem is not None

    def count(self, decay: Charge, dimensions: int, item: int = 0) -> fx.Node:
        """The accumulation of 1 before this step, or after it if `item` is 1, [N, 1, ...]."""
        if (decay, dimensions) not in self._counts:
            like = State("", "count", 0.0, ("N", *(1,) * (dimensions - 1)), self.carried)
            one, charge = self.writer.one(), self.setting(decay)
            self._counts[decay, dimensions] = self.writer.accumulated(one, like, charge)
        return self._counts[decay, dimensions][item]

    # Offsets --------------------------------------------------------------------------------------

    def offset(self, node: fx.Node) -> fx.Node | None:
        """The constant that a value contains at every step, [1, ...]; None if it is 0."""
        if node not in self._offsets:
            stops = self.stops(node) or node in self.states
            fixed = self.sources[node] == "fixed"
            self._offsets[node] = self._offset(node) if fixed or not stops else None
        return self._offsets[node]

    def _offset(self, node: fx.Node) -> fx.Node | None:
        if self.sources[node] == "fixed":
            return self.value(node)
        if call_name(node) in SUMS:
            return self._offset_of_sum(node)
        operands = [operand for operand in node.all_input_nodes if self._varies(operand)]
        known = [offset for offset in map(self.offset, operands) if offset is not None]
        if known:
            return self._offset_of_call(node, known[0])
        affine = law(self.program, node, operands).offset
        return self._own_offset(node) if affine else None

    def _varies(self, operand: fx.Node) -> bool:
        return self.sources[operand] != "fixed"

    def _offset_of_sum(self, node: fx.Node) -> fx.Node | None:
        """Of ``left + right`` or ``left - right``, either of which may be a number."""
        left, right = map(self._term, node.args[:2])
        subtracted = call_name(node) == "sub"
        if right is None:
            return left
        if left is None:
            return self.writer.call(operator.neg, right) if subtracted else right
        return self.writer.call(operator.sub if subtracted else operator.add, left, right)

    def _term(self, side: Any) -> fx.Node | None:  # noqa: ANN401
        if isinstance(side, fx.Node):
            return self.offset(side)
        return self.writer.call(operator.mul, self.writer.one(), side)

    def _offset_of_call(self, node: fx.Node, known: fx.Node) -> fx.Node:
        """The call on the offsets of its operands, one of which is known to have one."""

        def operand(source: fx.Node) -> fx.Node:
            if not self._varies(source):
                return self.value(source)
            return self._map(self.offset(source), value_of(source), known)

        copied = self.copy(node, operand)
        if is_reshape(node):
            sizes: Any = copied.args[1]
            copied.args = (copied.args[0], (1, *sizes[1:]))
        return copied

    def _map(self, offset: fx.Node | None, value: Tensor, known: fx.Node) -> fx.Node:
        """An offset at its full size, for calls that look at neighbours."""
        sizes = (1, *value.shape[1:])
        if offset is None:
            return self.writer.graph.call_method("new_zeros", (known, sizes))
        return self.writer.graph.call_method("expand", (offset, *sizes))

    def _own_offset(self, node: fx.Node) -> fx.Node:
        """What an affine call makes of zeros: a synapse its bias, a normalisation its shift."""
        synapse = is_synapse(self.program, node)
        constant = self._attribute(node, *(("bias", 2) if synapse else ("running_mean", 1)))
        ones = (1,) * (value_of(node).dim() - 2)
        last = is_linear(self.program, node)
        shape = (1, *ones, -1) if last else (1, -1, *ones)
        if synapse:
            return self.writer.call(torch.reshape, constant, shape)
        zeros = self.writer.call(torch.zeros_like, constant)
        shaped = self.writer.call(torch.reshape, zeros, shape)
        return self.copy(node, lambda o: shaped if self._varies(o) else self.value(o))

    def _attribute(self, node: fx.Node, name: str, position: int) -> fx.Node:
        """A parameter or buffer of a layer, or of the function that stands for it."""
        if node.op == "call_module":
            return self.writer.graph.get_attr(f"{node.target}.{name}")
        given = node.args[position] if len(node.args) > position else node.kwargs[name]
        assert isinstance(given, fx.Node)
        return self.value(given)
