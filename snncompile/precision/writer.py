"""Writes multi-precision neurons in the place of others."""

from collections.abc import Callable
from operator import add, mul
from typing import Any, cast

import torch
from torch import fx, nn

from snncompile.ir.graded import multi_precision, stateless_multi_precision
from snncompile.ir.neurons import Charged, Decay
from snncompile.ir.program import Program, State, value_of
from snncompile.nn.attention import SECA
from snncompile.precision.learned import MembraneNorm, StepParameters
from snncompile.precision.options import Options
from snncompile.precision.sites import Site, items_of, shape_of
from snncompile.rewrite import add_state, drop_state, extend_root, set_next

COUNTER = "multi_precision.step"
"""The label of the state that counts steps."""


class Writer:
    """Replaces the neurons of one program; what they learn goes into modules of a new root.

    Args:
        options: What the neurons are to be.
        program: The program.
        without: The states of those neurons that are to have no membrane.
    """

    def __init__(self, options: Options, program: Program, without: set[str]) -> None:
        self.options, self.program, self.graph = options, program, program.step
        self.without = without
        self.modules = nn.ModuleDict().train(program.root.training)
        self.path = extend_root(program, "multi_precision", self.modules)
        self.levels = {} if options.bits is None else {"levels": 2.0**options.bits - 1}
        self.step = self._counter() if options.steps > 1 else None

    def _counter(self) -> fx.Node:
        """The number of the step, which stays at the last one that has its own parameters."""
        value = self.program.placeholders()[0].meta["val"]
        with value.fake_mode:
            zero = torch.zeros(1, dtype=torch.int64)
        carried = any(state.carried for state in self.program.states)
        state = State(COUNTER.replace(".", "_"), COUNTER, 0.0, (1,), carried)
        step = add_state(self.program, state, zero)
        with self.graph.inserting_before(self.graph.output_node()):
            following = self.graph.call_function(add, (step, 1))
            most = {"max": self.options.steps - 1}
            set_next(self.program, state.name, self._call(torch.clamp, following, **most))
        return step

    def replace(self, site: Site) -> None:
        """Put the new neuron in the place of the old one."""
        node, state = site
        stateless = state in self.without
        if state not in self.modules:
            self.modules[state] = self._learned(node, stateless=stateless)
        current, membrane = cast("tuple[fx.Node, fx.Node]", node.args)
        with self.graph.inserting_before(node):
            if _has(self.modules[state], "attention"):
                current = self._gated(state, current)
            threshold = self._number(state, "threshold")
            settings = {"threshold": threshold, **self.levels}
            if stateless:
                made = self._call(stateless_multi_precision, current, **settings)
            else:
                made = self._charged(state, current, membrane, settings)
        made.meta["module"] = node.meta.get("module")
        if stateless:
            _bypass(node, membrane)
        node.replace_all_uses_with(made)
        self.graph.erase_node(node)

    def finish(self) -> None:
        """Drop the states of neurons that have none any more; cut gradients at the others."""
        for name in self.without:
            drop_state(self.program, name)
        if self.options.online:
            for state in self.program.states:
                self._cut(self.program.placeholder(state.name))

    def _cut(self, state: fx.Node) -> None:
        """Let no gradient pass from this step to the one before, except where none does anyway."""
        reads = [user for user in state.users if not _is_cut(user)]
        if not reads or not value_of(state).is_floating_point():
            return
        with self.graph.inserting_after(self.program.placeholders()[-1]):
            held = self._call(torch.detach, state)
        for user in reads:
            user.replace_input_with(state, held)

    def _learned(self, node: fx.Node, *, stateless: bool) -> nn.Module:
        """The parameters of one neuron layer."""
        options, shape = self.options, shape_of(node)
        made = StepParameters(
            1 if stateless else options.steps, None if stateless else options.decay,
            options.threshold,
        )  # fmt: skip
        if options.norm and not stateless:
            made.add_module("norm", MembraneNorm(options.steps, int(shape[1])))
        if options.attention and len(shape) > 2:  # noqa: PLR2004
            made.add_module("attention", SECA())
        like = value_of(cast("fx.Node", node.args[1]))
        return made.to(like.device, like.dtype).train(self.program.root.training)

    def _charged(
        self, state: str, current: fx.Node, membrane: fx.Node, settings: dict[str, Any]
    ) -> fx.Node:
        """The neuron; its membrane is charged before it if it is normalised on the way."""
        decay, online = self._number(state, "decay"), self.options.online
        if not _has(self.modules[state], "norm"):
            settings |= {"detach_membrane": True} if online else {}
            return self._call(multi_precision, current, membrane, charge=Decay(decay), **settings)  # type: ignore[arg-type]
        held = self._call(torch.detach, membrane) if online else membrane
        charged = self._call(add, self._call(mul, decay, held), current)
        read = (charged,) if self.step is None else (charged, self.step)
        normed = self.graph.call_module(f"{self.path}.{state}.norm", read)
        return self._call(multi_precision, normed, membrane, charge=Charged(), **settings)

    def _number(self, state: str, name: str) -> fx.Node:
        """A decay or threshold: the sigmoid of its parameter, of this step if there are several."""
        value = self._call(torch.sigmoid, self.graph.get_attr(f"{self.path}.{state}.{name}"))
        if self.step is None or state in self.without:
            return value
        return self._call(torch.index_select, value, 0, self.step)

    def _gated(self, state: str, current: fx.Node) -> fx.Node:
        """What `SECA` does, as nodes that any schedule and exporter know."""
        axes = value_of(current).dim()
        pooled = self._call(torch.mean, current, dim=tuple(range(2, axes)))
        row = self._call(torch.unsqueeze, pooled, 1)
        row = self.graph.call_module(f"{self.path}.{state}.attention.conv", (row,))
        gate = self._call(torch.transpose, self._call(torch.sigmoid, row), 1, 2)
        for _ in range(axes - 3):
            gate = self._call(torch.unsqueeze, gate, -1)
        return self._call(mul, current, gate)

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:  # noqa: ANN401
        return self.graph.call_function(function, args, kwargs)


def _bypass(node: fx.Node, membrane: fx.Node) -> None:
    """Hand a membrane on as it is, past the neuron that had it."""
    for item in items_of(node, 1):
        item.replace_all_uses_with(membrane)
        node.graph.erase_node(item)


def _is_cut(user: fx.Node) -> bool:
    """Whether a reader of a state passes no gradient to it, or hands it on as the next one."""
    return user.op == "output" or user.target is torch.detach or "detach_membrane" in user.kwargs


def _has(module: nn.Module, name: str) -> bool:
    return name in module._modules  # pyright: ignore[reportPrivateUsage]
