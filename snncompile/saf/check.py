"""What spike accumulation forwarding cannot rewrite correctly, found before anything changes."""

from collections.abc import Container
from typing import Any, Protocol

from torch import fx

from snncompile.ir.accumulation import accumulating, is_leaky, subtracts
from snncompile.ir.affine import law
from snncompile.ir.neurons import multi_precision
from snncompile.ir.operations import is_part
from snncompile.ir.program import Program, State, is_neuron, is_spiking
from snncompile.saf.sources import SUBTRACTING, Sources, emission, emits, is_read_out


class Refuse(Protocol):
    """Refuses a program because of a node, by an error."""

    def __call__(self, node: fx.Node, problem: str, *, fix: str) -> Any:  # noqa: ANN401
        """See `snncompile.rewrite.Pass.refuse`."""


def check(
    program: Program, sources: Sources, refuse: Refuse, replaced: Container[fx.Node] = ()
) -> None:
    """Refuse a program that accumulations cannot flow through.

    Args:
        program: The program; it is not changed.
        sources: Where its values come from.
        refuse: Called with the first node that is in the way.
        replaced: Nodes that will be replaced before the rewrite, and may be anything.
    """
    checker = _Checker(program, sources, refuse, replaced)
    for neuron in program.neurons():
        if emits(neuron) and neuron.target is not accumulating:
            checker.neuron(neuron)


class _Checker:
    def __init__(
        self, program: Program, sources: Sources, refuse: Refuse, replaced: Container[fx.Node]
    ) -> None:
        self.program = program
        self.sources = sources
        self.refuse = refuse
        self.replaced = replaced
        self.states = {program.placeholder(state.name): state for state in program.states}
        self.seen: set[fx.Node] = set()

    def neuron(self, node: fx.Node) -> None:
        """A neuron that subtracts what it emits, charged by a fixed leak."""
        reset: Any = node.kwargs.get("reset")
        if node.target not in SUBTRACTING:
            fix = "Use a LIF or IF neuron"
            self.refuse(node, "does not just subtract what it emits from its membrane", fix=fix)
        if node.kwargs.get("levels") is not None and node.target is multi_precision:
            problem = "emits rounded values, but subtracts what it did not round"
            self.refuse(node, problem, fix="Leave out the number of bits")
        if node.target is not multi_precision and not subtracts(reset):
            fix = "Train it with reset by subtraction (a soft reset)"
            self.refuse(node, f"resets by {_reset_name(reset)}, not by subtraction", fix=fix)
        if node.kwargs.get("reset_now", "none") != "none":
            problem = "resets at once and one step later"
            self.refuse(node, problem, fix="Let it reset once")
        threshold = node.kwargs["threshold"]
        changes = isinstance(threshold, fx.Node) and self.sources[threshold] != "fixed"
        if changes and node.target is not multi_precision:
            problem = "has a threshold that changes from step to step"
            self.refuse(node, problem, fix="Use one threshold for all steps")
        self._charge(node)
        current, membrane = node.args
        self._starts_at_zero(membrane)  # type: ignore[arg-type]
        self._path(current)  # type: ignore[arg-type]

    def _charge(self, node: fx.Node) -> None:
        charge: Any = node.kwargs["charge"]
        if not is_leaky(charge):
            problem = "has a membrane that rests elsewhere than at 0, or is charged outside of it"
            self.refuse(node, problem, fix="Use a resting potential of 0 and a charge of its own")
        for field in charge._asdict().values():
            if isinstance(field, fx.Node):
                self._constant_scalar(node, field)

    def _constant_scalar(self, neuron: fx.Node, leak: fx.Node) -> None:
        if self.sources[leak] != "fixed" or leak.meta["val"].numel() != 1:
            problem = "has no single leak for all its neurons and steps"
            self.refuse(neuron, problem, fix="Give the layer one leak")
        if self.sources.learns(leak):
            problem = "learns its leak, which the accumulations of earlier steps contain"
            self.refuse(neuron, problem, fix="Call requires_grad_(False) on its parameter")

    def _starts_at_zero(self, placeholder: fx.Node) -> None:
        state: State = self.states[placeholder]
        if state.initial != 0.0:
            problem = "does not start at 0, which an accumulation must"
            self.refuse(placeholder, problem, fix="Start the sequence from a state of zeros")

    def _path(self, node: fx.Node) -> None:
        """Everything between spikes and a neuron's current, back through delays."""
        if node in self.seen or not self.sources.spiking(node):
            return
        self.seen.add(node)
        if node in self.states:
            self._starts_at_zero(node)
            self._path(self.sources.next[node.name])
        elif emission(node) is None:
            self._call(node)
            for operand in node.all_input_nodes:
                self._path(operand)

    def _call(self, node: fx.Node) -> None:
        source = node.args[0] if node.args else None
        if is_part(node) and isinstance(source, fx.Node) and is_neuron(source):
            what = "is a leaky integral of spikes" if is_read_out(node) else "is a membrane"
            if not is_spiking(source) and not is_read_out(node):
                what = "is a synaptic current, a second leak between spikes and membrane"
            self.refuse(
                node, what + " that another neuron reads", fix="Let spikes reach it directly"
            )
        varying = [o for o in node.all_input_nodes if self.sources[o] != "fixed"]
        found = law(self.program, node, varying)
        if found.problem and node not in self.replaced:
            self.refuse(node, f"{found.problem} between spikes and a neuron", fix=found.fix)


def _reset_name(reset: object) -> str:
    return repr(reset) if isinstance(reset, str) else type(reset).__name__
