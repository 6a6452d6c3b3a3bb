"""Folds quantised weights and BatchNorms into a scale and an offset per channel.

A synapse with weights alpha_c sign(W) and a bias, and a BatchNorm that alone reads it, become

    y = scale_c (sign(W) x) + offset_c,

one product of signs, which adds up integers where x holds integers, and one multiplication.
"""

from dataclasses import dataclass
from operator import add, mul
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from snncompile.deployment.frozen import Frozen
from snncompile.ir.program import Program, value_of
from snncompile.ir.quantised import binarized, binary_parts, ternary_parts
from snncompile.ir.weights import Synapse, synapses

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Affine:
    """scale * value + offset, per channel.

    Attributes:
        value: What is scaled.
        scale: [C], or [steps, C] where every step has its own; in float64.
        offset: Likewise.
        near: Where its buffers are put.
    """

    value: fx.Node
    scale: Tensor
    offset: Tensor
    near: str


def norms(program: Program) -> list[fx.Node]:
    """The BatchNorms of a step."""
    return [node for node in program.step.find_nodes(op="call_module") if is_norm(program, node)]


def is_norm(program: Program, node: fx.Node) -> bool:
    """Whether a node calls a layer that is exactly a BatchNorm of torch, in one step."""
    if node.op != "call_module":
        return False
    known: Any = program.single_step.get(str(node.target), type(program.module(node)))
    return known in _NORMS


def quantised(program: Program) -> list[Synapse]:
    """The synapses of a step whose weights have few bits."""
    return [synapse for synapse in synapses(program) if synapse.quantised is not None]


def fold_synapse(frozen: Frozen, synapse: Synapse) -> tuple[fx.Node, Affine]:
    """Fold a synapse with few bits, and the BatchNorm behind it.

    Returns:
        The node that took their place, and what it computes.
    """
    program, node = frozen.program, synapse.node
    signs, alpha = _parts(frozen, synapse)
    bias = node.kwargs.get("bias", node.args[2] if len(node.args) > 2 else None)  # noqa: PLR2004
    offset = frozen.wide(bias) if isinstance(bias, fx.Node) else torch.zeros_like(alpha)
    with program.step.inserting_before(node):
        weight = frozen.shared(cast("fx.Node", synapse.quantised), synapse.weight, "signs", signs)
        kept = {key: value for key, value in node.kwargs.items() if key != "bias"}
        given: tuple[Any, ...] = node.args
        args = (given[0], weight, None, *given[3:])[: len(given)]
        product = program.step.call_function(cast("Any", node.target), args, kept)
    product.meta.update(node.meta)
    affine = Affine(product, alpha, offset, synapse.weight)
    norm = next(iter(node.users))
    if len(node.users) == 1 and is_norm(program, norm) and value_of(node).dim() == signs.dim():
        scale, shift = _affine(program, norm)
        affine = Affine(product, scale * alpha, scale * offset + shift, synapse.weight)
        return _replace(frozen, norm, affine, value_of(norm)), affine
    return _replace(frozen, node, affine, _channels_second(node)), affine


def fold_norm(frozen: Frozen, norm: fx.Node) -> tuple[fx.Node, Affine]:
    """Fold a BatchNorm with no synapse before it that could take it; as `fold_synapse`."""
    scale, offset = _affine(frozen.program, norm)
    affine = Affine(norm.all_input_nodes[0], scale, offset, str(norm.target))
    return _replace(frozen, norm, affine, value_of(norm)), affine


def write(frozen: Frozen, affine: Affine, like: Tensor, step: fx.Node | None = None) -> fx.Node:
    """Write a scale and an offset at the insertion point.

    Args:
        frozen: The program.
        affine: What to write; an offset of zeros is left out.
        like: A value [N, C, ...], after whose channels the scale has axes.
        step: The number of the step, where there are rows to choose from.
    """
    graph = frozen.program.step
    plural = "s" if affine.scale.dim() > 1 else ""
    rows = [
        select(frozen, frozen.buffer(affine.near, name + plural, shaped(value, like)), step)
        for name, value in (("scale", affine.scale), ("offset", affine.offset))
        if name == "scale" or value.any()
    ]
    written = graph.call_function(mul, (affine.value, rows[0]))
    return graph.call_function(add, (written, rows[1])) if rows[1:] else written


def select(frozen: Frozen, rows: fx.Node, step: fx.Node | None) -> fx.Node:
    """The row of this step; all that there is without a step."""
    if step is None:
        return rows
    return frozen.program.step.call_function(torch.index_select, (rows, 0, step))


def shaped(value: Tensor, like: Tensor) -> Tensor:
    """[C] or [steps, C] with axes for the positions of [N, C, ...], in that value's dtype."""
    return value.reshape(*value.shape, *(1,) * (like.dim() - 2)).to(like.dtype)


def _channels_second(synapse: fx.Node) -> Tensor:
    """A synapse's value as [N, C, ...]; a linear map has its channels last."""
    value = value_of(synapse)
    return value.flatten(0, -2) if synapse.target is nn.functional.linear else value


def _replace(frozen: Frozen, node: fx.Node, affine: Affine, like: Tensor) -> fx.Node:
    """Put a scale and an offset in the place of a node."""
    with node.graph.inserting_before(node):
        written = write(frozen, affine, like)
    written.meta.update(node.meta)
    node.replace_all_uses_with(written)
    node.graph.erase_node(node)
    frozen.program.whole -= {node.name}
    return written


def _parts(frozen: Frozen, synapse: Synapse) -> tuple[Tensor, Tensor]:
    """The signs, in the weight's dtype, and the scale of every output channel, in float64."""
    source = cast("fx.Node", synapse.quantised)
    weight: Tensor = frozen.known[cast("fx.Node", source.args[0])]
    settings: Any = source.kwargs
    parts = binary_parts if source.target is binarized else ternary_parts
    signs, scale = parts(weight, **settings)
    ones = (1,) * (weight.dim() - 1)
    return signs, scale.double().expand(len(weight), *ones).flatten()


def _affine(program: Program, node: fx.Node) -> tuple[Tensor, Tensor]:
    """What a BatchNorm does in evaluation mode: scale and offset, [C], in float64."""
    norm: Any = program.module(node)
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = torch.rsqrt(variance + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight.detach().double()
    shift = 0.0 if norm.bias is None else norm.bias.detach().double()
    return scale, shift - scale * mean
