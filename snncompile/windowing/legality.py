"""What a program needs so that its steps can become one: who is to blame otherwise, and why."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from snncompile.ir.layers import is_batch_norm
from snncompile.ir.operations import is_part
from snncompile.ir.program import Program, State, is_neuron, is_spiking
from snncompile.ir.windows import SIDE
from snncompile.windowing.modules import (
    Module,
    find_modules,
    fits_windows,
    map_size,
    on_a_map,
    readers,
)
from snncompile.windowing.states import states_of


class Problem(NamedTuple):
    """Why a program is refused.

    Attributes:
        node: The node to blame.
        reason: What about it, to follow its name.
        fix: The way out, a clause that begins with a capital letter.
    """

    node: fx.Node
    reason: str
    fix: str


def problems(program: Program, depth: int) -> Iterator[Problem]:
    """Everything that keeps a program from being rewritten, worst first.

    Args:
        program: The program.
        depth: How many neurons in a row a module has at most.
    """
    yield from _over_time(program)
    neurons = [node for node in program.neurons() if is_spiking(node)]
    if not any(map(on_a_map, neurons)):
        blamed = neurons[0] if neurons else program.step.output_node()
        reason = "is on no feature map [N, C, H, W], so that there is nothing to cut into windows"
        yield Problem(blamed, reason, "Use the pass on a network with convolutional spiking layers")
        return
    modules = find_modules(program, depth)
    for module in modules:
        yield from _of_module(module)
    owner = {node: module for module in modules for node in module.nodes}
    for node, state in states_of(program).items():
        yield from _of_state(program, owner, node, state)


def _over_time(program: Program) -> Iterator[Problem]:
    """What needs more than one step."""
    for node in program.step.find_nodes(op="call_module"):
        if node.name in program.whole and not is_batch_norm(program.module(node)):
            reason = "reads the whole sequence at once and has no membrane to hand over"
            yield Problem(node, reason, "Use a neuron that runs step by step")
    if program.gradient != "through-time":
        reason = "belongs to a program whose gradient another pass cut between steps"
        yield Problem(program.step.output_node(), reason, "Leave that pass out")
    if program.one_length:
        reason = "treats steps by their number after its loop, and one step has no others"
        yield Problem(program.step.output_node(), reason, "Sum, average or stack over time")


def _of_module(module: Module) -> Iterator[Problem]:
    height, width = module.size
    if height % SIDE["half"] or width % SIDE["half"]:
        reason = f"is on a map of {height}x{width}, which has no four windows of one size"
        yield Problem(module.neurons[0], reason, "Pad or pool the map to even sides")
    for neuron in filter(is_neuron, module.nodes):
        settings = [n for n in neuron.all_input_nodes if n not in neuron.args]
        leaves = pytree.tree_leaves(dict(neuron.kwargs))
        fixed = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if any(map(_is_map, fixed)) or not all(
            fits_windows(node, module.size) for node in settings
        ):
            reason = "has a setting for every position of its map, but its windows share one neuron"
            yield Problem(neuron, reason, "Give it one setting a channel")


def _of_state(
    program: Program, owner: dict[fx.Node, Module], node: fx.Node, state: State
) -> Iterator[Problem]:
    following = program.next_states()[state.name]
    modules = {owner.get(reader) for reader in readers(node)}
    home = owner.get(following)
    if isinstance(state.initial, str):
        reason = "starts from a value that is computed before the steps"
        yield Problem(node, reason, "Start it from a number")
    elif home is not None and modules <= {home}:
        if map_size(node) != home.size:
            reason = "is no map of the size of its layer, so that no window can hand it on"
            yield Problem(node, reason, "Give it the shape of the layer")
    elif modules == {None} and not _is_own(node, following):
        reason = "feeds back where there is no feature map, so that no window hands it on"
        yield Problem(node, reason, "Take the feedback out, or make the layer convolutional")
    elif modules - {None}:
        reason = "feeds back beyond the layers that share their windows, which one step never sees"
        yield Problem(node, reason, "Take the feedback out, or keep it within one layer")


def _is_own(state: fx.Node, following: fx.Node) -> bool:
    """Whether a state belongs to one neuron, which alone reads it and makes its next value."""
    (neuron, *others) = readers(state)
    made = is_part(following) and following.all_input_nodes[0] is neuron
    return not others and is_neuron(neuron) and state in neuron.args[1:] and made


def _is_map(setting: Tensor) -> bool:
    return setting.dim() > 1 and any(side != 1 for side in setting.shape[-2:])
