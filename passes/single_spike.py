"""Let every neuron emit its first spike only, with one gradient rule over all of T.

A neuron that fires at most once has no reset, so that its membrane over the whole sequence is a
linear recurrence and its spike the first crossing. In the IR it is the neuron `single_spike`, one
step of which `snncompile.ir.single_spike` defines; where it runs over several steps at once, it
does so without a loop of autograd, and a Linear that reads its spikes adds one row of its weight
for every neuron that fired.

A neuron is single-spike already where the model multiplies its spikes with ``1 - fired``, `fired`
being a state that adds them up. Any other neuron may fire again, and then the network computes
another function afterwards: say so with ``SingleSpike(accept="first-spike-only")``.

Before::

    program steps=sequence
    input   %x: sequence [N, 8] float32
    state   %lif_membrane "lif.membrane": [N, 16] float32 = 0
    state   %lif_fired "lif.fired": [N, 16] float32 = 0
    step:
      %0 = 0: Linear(8, 16)(%x)                   # [N, 16]
      %spikes, %membrane = lif(%0, %lif_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 16], lif
      %sub = sub(1, %lif_fired)                   # [N, 16]
      %mul = mul(%spikes, %sub)                   # [N, 16]
      %add = add(%lif_fired, %mul)                # [N, 16]
    next    %lif_membrane <- %membrane
    next    %lif_fired <- %add
    output  out0 = stack(%mul)

After::

    program steps=sequence
    input   %x: sequence [N, 8] float32
    state   %lif_membrane "lif.membrane": [N, 16] float32 = 0
    state   %lif_fired "lif.fired": [N, 16] float32 = 0
    state   %lif_elapsed "lif.elapsed": [N, 16] float32 = 0
    step:
      %0 = 0: Linear(8, 16)(%x)                   # [N, 16]
      %spikes, %membrane, %fired, %elapsed = single_spike(%0, %lif_membrane, %lif_fired,
        %lif_elapsed, Decay(0.5), fast_sigmoid(10), threshold=1)  # [N, 16], lif
    next    %lif_membrane <- %membrane
    next    %lif_fired <- %fired
    next    %lif_elapsed <- %elapsed
    output  out0 = stack(%spikes)

The charge, its decay (learnable or not), the threshold and its comparison stay those of the
captured neuron, and so does the read-out. The surrogate is the rule's own, 1 / (k |d| + 1)^2 with
k = 100 for "v1" and 10 for "v2".

A state that a library carries from call to call is reset between sequences, as before.

Keeps: the interface. Every neuron's first spike is kept, bit for bit, as long as what it receives
is; a network that fires again afterwards receives something else in its next layer, and learns by
another gradient.

Reference: Taylor, King and Harper. Robust and accelerated single-spike spiking neural network
training with applicability to challenging temporal tasks. 2022, arXiv:2205.15286, versions 1, 2.
"""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from torch import fx

from snncompile.errors import InputError
from snncompile.ir.dependence import components
from snncompile.ir.neurons import lif, single_spike
from snncompile.ir.program import Program, State, is_spiking, output_of
from snncompile.ir.single_spike import Rule
from snncompile.ir.surrogates import Surrogate
from snncompile.rewrite import Keeps, Pass

_SLOPES = {"v1": 100.0, "v2": 10.0}
_ACCEPT = "Say SingleSpike(accept='first-spike-only') if its first spike is what counts"


class _Mask(NamedTuple):
    """What makes a neuron single-spike by hand.

    Attributes:
        fired: The placeholder of the state that adds its spikes up.
        nodes: The calls that do it, each before those that read it.
        spikes: The one among them that gives the first spike.
    """

    fired: fx.Node
    nodes: tuple[fx.Node, ...]
    spikes: fx.Node

    @property
    def all(self) -> tuple[fx.Node, ...]:
        """The state and the calls."""
        return (self.fired, *self.nodes)


@dataclass(frozen=True)
class SingleSpike(Pass):
    """Turn every lif into the neuron that emits its first spike only.

    Attributes:
        rule: The gradient rule, of the paper's first or second version.
        slope: k of the surrogate 1 / (k |d| + 1)^2; None takes the rule's own.
        accept: "first-spike-only" also takes neurons that may fire again.

    Raises:
        InputError: An option is none of these.
    """

    name: ClassVar[str] = "single-spike"
    keeps: ClassVar[Keeps] = "interface"

    rule: Rule = "v2"
    slope: float | None = None
    accept: Literal["first-spike-only"] | None = None

    def __post_init__(self) -> None:
        if self.rule not in _SLOPES:
            raise InputError(f"the rule is 'v1' or 'v2', not {self.rule!r}")
        if self.accept not in (None, "first-spike-only"):
            raise InputError(f"accept is None or 'first-spike-only', not {self.accept!r}")
        if self.slope is not None and not self.slope > 0:
            raise InputError(f"the slope is above 0, not {self.slope:g}")

    def requires(self, program: Program) -> None:
        """Every spiking neuron is a lif of its own, fired at most once or accepted as such."""
        cycles = {node: set(c.nodes) for c in components(program) for node in c.nodes}
        for node in _neurons(program):
            if node.target is not lif:
                self.refuse(node, "is no lif", fix="Only integrate-and-fire neurons are rewritten")
            if node.kwargs.get("detach_membrane"):
                problem = "cuts the gradient through time, which both rules need"
                self.refuse(node, problem, fix="Turn the online learning rule off")
            mask = _mask(program, node)
            own = {node, *node.users, *node.all_input_nodes[1:], *(mask.all if mask else ())}
            if not cycles[node] <= own:
                other = min(cycles[node] - own)
                problem = f"has feedback: its spikes come back to it through %{other.name}"
                self.refuse(node, problem, fix="Only feedforward layers run over all steps at once")
            if self.accept is None:
                self._require_single(program, node, mask)

    def _require_single(self, program: Program, node: fx.Node, mask: _Mask | None) -> None:
        """The neuron cannot fire again, and nothing sees what it would have fired."""
        if mask is None:
            self.refuse(node, "may fire more than once", fix=_ACCEPT)
        outputs = output_of(program.step)[0]
        following = [u for u in _users(node, 1) if u.op != "output" or {*node.users} & {*outputs}]
        before = [user for user in node.all_input_nodes[1].users if user is not node]
        others = [user for user in _users(node, 0) if user is not mask.spikes]
        if others + following + before:
            other = (others + following + before)[0]
            self.refuse(node, f"has %{other.name} read it beside its first spike", fix=_ACCEPT)
        carried = [_held(program, state).carried for state in (node.all_input_nodes[1], mask.fired)]
        if carried[0] and not carried[1]:
            problem = "keeps its membrane after a call, whose reset its next call would miss"
            self.refuse(node, problem, fix=_ACCEPT)

    def apply(self, program: Program) -> int:
        """Call `single_spike`, with a state that counts the time since its spike."""
        found = list(_neurons(program))
        slope = self.slope or _SLOPES[self.rule]
        settings = {"surrogate": Surrogate("fast_sigmoid", (slope,)), "rule": self.rule}
        for node in found:
            _rewrite(program, node, settings)
        return len(found)


def _neurons(program: Program) -> Iterator[fx.Node]:
    return (n for n in program.neurons() if is_spiking(n) and n.target is not single_spike)


def _users(node: fx.Node, item: int) -> list[fx.Node]:
    """What reads one of a neuron's values."""
    return [user for part in node.users if part.args[1] == item for user in part.users]


def _mask(program: Program, node: fx.Node) -> _Mask | None:
    """The product with ``1 - fired`` that hides later spikes, if the model has one."""
    unfired = {state.name for state in program.states if state.initial == 0}
    following = {v: name for name, v in program.next_states().items() if name in unfired}
    for product in _users(node, 0):
        if product.target not in (operator.mul, torch.mul):
            continue
        for waiting in product.all_input_nodes:
            for summed in product.users:
                state = following.get(summed)
                if state and _adds_up(program.placeholder(state), waiting, product, summed):
                    fired = program.placeholder(state)
                    return _Mask(fired, (waiting, product, summed), product)
    return None


def _adds_up(fired: fx.Node, waiting: fx.Node, product: fx.Node, summed: fx.Node) -> bool:
    """Whether waiting is ``1 - fired`` and summed is ``fired + product``."""
    first = waiting.target in (operator.sub, torch.sub) and tuple(waiting.args) == (1, fired)
    adds = summed.target in (operator.add, torch.add, torch.maximum)
    return first and adds and set(summed.args) == {fired, product} and not summed.kwargs


def _rewrite(program: Program, node: fx.Node, settings: dict[str, Any]) -> None:
    mask = _mask(program, node)
    membrane = cast("fx.Node", node.args[1])
    held = _held(program, membrane)
    fired = mask.fired if mask else _state(program, held, "fired")
    carried = _held(program, fired).carried
    states = (fired, _state(program, replace(held, carried=carried), "elapsed"))
    node.target = single_spike
    node.args = (*node.args, *states)
    kept = ("charge", "threshold", "strict")
    node.kwargs = {**{k: node.kwargs[k] for k in kept if k in node.kwargs}, **settings}
    value = node.meta["val"][0]
    node.meta["val"] = (value,) * len(node.args)
    if mask:
        _unmask(node, mask)
    with program.step.inserting_after(node):
        for item, state in enumerate(states, start=2):
            part = program.step.call_function(operator.getitem, (node, item))
            part.meta["val"] = value
            _hand_on(program, state, part)


def _unmask(node: fx.Node, mask: _Mask) -> None:
    """Read the neuron's own spikes where the masked ones were read."""
    spikes = next(part for part in node.users if part.args[1] == 0)
    mask.spikes.replace_all_uses_with(spikes, delete_user_cb=lambda user: user not in mask.nodes)


def _held(program: Program, placeholder: fx.Node) -> State:
    """The state of a placeholder."""
    return next(state for state in program.states if state.name == placeholder.name)


def _state(program: Program, like: State, name: str) -> fx.Node:
    """A new state shaped like another, 0 at first, carried as that is."""
    label = f"{like.label.removesuffix('.membrane')}.{name}"
    taken = {state.label for state in program.states}
    label = next(
        t for t in (label, *(f"{label}{i}" for i in range(len(taken) + 1))) if t not in taken
    )
    last, value = program.placeholders()[-1], program.placeholder(like.name).meta["val"]
    with program.step.inserting_after(last):
        node = program.step.placeholder(label.replace(".", "_"))
    with value.fake_mode:
        node.meta["val"] = torch.zeros_like(value)
    program.states = (*program.states, State(node.name, label, 0.0, like.shape, like.carried))
    outputs, following = output_of(program.step)
    program.step.output_node().args = ((outputs, (*following, node)),)
    return node


def _hand_on(program: Program, state: fx.Node, value: fx.Node) -> None:
    """Make a value the next one of a state."""
    outputs, following = output_of(program.step)
    names = [item.name for item in program.states]
    following = tuple(
        value if name == state.name else old for name, old in zip(names, following, strict=True)
    )
    program.step.output_node().args = ((outputs, following),)
