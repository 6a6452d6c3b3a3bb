"""Folds the BatchNorm of a membrane into the decay and into what scales the current.

With m = decay v + I, where I = scale x + offset, and A m + B what the norm does to it at a step,

    A m + B = (A decay) v + (A scale) x + (A offset + B).
"""

import copy
from operator import add, mul
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.nn import functional

from snncompile.deployment.channels import Affine, select, shaped, write
from snncompile.deployment.frozen import Frozen
from snncompile.ir.graded import multi_precision
from snncompile.ir.neurons import Charged, Decay
from snncompile.ir.program import Program, value_of
from snncompile.precision.learned import MembraneNorm


class Membrane(NamedTuple):
    """A normalised membrane, from its charge to the neuron that fires.

    Attributes:
        norm: The node that normalises.
        neuron: The one that fires.
        decay: What the membrane of the step before is multiplied by.
        held: That membrane, possibly detached.
        current: What is added.
        step: The number of the step; None where there is one row of parameters.
    """

    norm: fx.Node
    neuron: fx.Node
    decay: fx.Node
    held: fx.Node
    current: fx.Node
    step: fx.Node | None


def membrane_norms(program: Program) -> list[fx.Node]:
    """The nodes of a step that normalise a membrane."""
    calls = program.step.find_nodes(op="call_module")
    return [node for node in calls if isinstance(program.module(node), MembraneNorm)]


def membrane_of(norm: fx.Node) -> Membrane | None:
    """The membrane that a norm stands in; None where it is not charged and fired as usual."""
    charged, *step = norm.args
    neuron = next(iter(norm.users))
    match charged:
        case fx.Node(target=target, args=(fx.Node() as leak, fx.Node() as current)):
            usual = target is add and leak.target is mul and len(charged.users) == 1
        case _:
            return None
    fires = len(norm.users) == 1 and neuron.target is multi_precision
    if not (usual and fires and neuron.kwargs["charge"] == Charged()):
        return None
    decay, held = leak.args
    assert isinstance(decay, fx.Node)
    assert isinstance(held, fx.Node)
    return Membrane(norm, neuron, decay, held, current, _node(step))


def _node(step: list[Any]) -> fx.Node | None:
    return step[0] if step else None


def fold_membrane(frozen: Frozen, found: Membrane, affines: dict[fx.Node, Affine]) -> None:
    """Charge and fire without a norm.

    Args:
        frozen: The program.
        found: The membrane.
        affines: The nodes that scale and shift what they read, and how.
    """
    program, norm, neuron = frozen.program, found.norm, found.neuron
    near, like = str(norm.target).rpartition(".")[0], value_of(norm)
    module = copy.deepcopy(program.module(norm)).double()
    assert isinstance(module, MembraneNorm)
    scale, offset = (rows.detach() for rows in module.affine())
    decay = _decays(frozen, found)[:, None] * scale
    behind = affines.get(found.current)
    if behind is None or len(found.current.users) > 1 or not _channels(behind, like):
        affine = Affine(found.current, scale, offset, near)
    else:
        shifted = scale * behind.offset + offset
        affine = Affine(behind.value, scale * behind.scale, shifted, behind.near)
    with program.step.inserting_before(neuron):
        current = write(frozen, affine, like, found.step)
        decays = frozen.buffer(near, "decays", shaped(decay, like))
        settings = {**neuron.kwargs, "charge": Decay(select(frozen, decays, found.step))}  # type: ignore[arg-type]
        if found.held.target is torch.detach:
            settings["detach_membrane"] = True
        fired = program.step.call_function(multi_precision, (current, neuron.args[1]), settings)
    fired.meta.update(neuron.meta)
    neuron.replace_all_uses_with(fired)
    for node in (neuron, norm):
        program.step.erase_node(node)


def _channels(behind: Affine, like: Tensor) -> bool:
    """Whether a current is scaled along the axis that the norm has its channels on."""
    return like.dim() == 2 or behind.value.target is not functional.linear  # noqa: PLR2004


def _decays(frozen: Frozen, found: Membrane) -> Tensor:
    """The decay of every step, [steps]."""
    source = found.decay.args[0] if found.decay.target is torch.index_select else found.decay
    assert isinstance(source, fx.Node)
    return frozen.wide(source)
