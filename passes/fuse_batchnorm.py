"""Fold a BatchNorm in evaluation mode into the layer before it.

In evaluation mode a BatchNorm is affine in every channel, with s = g / sqrt(v + eps) for its
weight g, bias b, running mean m and running variance v. A Linear or convolution before it, with
weight W and bias c, can do that itself:

    s (W x + c - m) + b  =  (s W) x + (s (c - m) + b),

where s scales the output channels of W. The products are rounded once, from float64.

Before::

    program steps=sequence
    input   %x: sequence [N, 1, 4, 4] float32
    state   %lif_membrane "lif.membrane": [N, 2, 4, 4] float32 = 0
    step:
      %conv = conv: Conv2d(1, 2, 3, padding=1, bias=False)(%x)  # [N, 2, 4, 4]
      %norm = norm: BatchNorm2d(2, eps=0)(%conv)  # [N, 2, 4, 4]
      %spikes, %membrane = lif(%norm, %lif_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 2, 4, 4], lif
    next    %lif_membrane <- %membrane
    output  out0 = stack(%spikes)

After::

    program steps=sequence
    input   %x: sequence [N, 1, 4, 4] float32
    state   %lif_membrane "lif.membrane": [N, 2, 4, 4] float32 = 0
    step:
      %conv = conv: Conv2d(1, 2, 3, padding=1)(%x)  # [N, 2, 4, 4]
      %spikes, %membrane = lif(%conv, %lif_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 2, 4, 4], lif
    next    %lif_membrane <- %membrane
    output  out0 = stack(%spikes)

A BatchNorm stays as it is where no such layer is before it, where others read that layer too, or
where its channels are not the layer's output channels. Only the step is rewritten.

The folded parameters live in a copy of the model's modules, where torch.nn.Identity takes the
BatchNorm's place: a checkpoint of the unfused model does not fit by mistake.

Keeps: the outputs, in real arithmetic; floating point can move a spike whose membrane lies
within rounding of the threshold.

Reference: Jacob et al. Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference. CVPR 2018, arXiv:1712.05877, section 3.2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import ClassVar, NamedTuple, TypeAlias, cast, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from snncompile.ir.names import value_name
from snncompile.ir.program import Program, value_of
from snncompile.rewrite import Keeps, Pass, own_root

BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
Transposed: TypeAlias = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Synapse: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | Transposed


class _Pair(NamedTuple):
    """A synapse and the BatchNorm that alone reads it."""

    synapse: fx.Node
    norm: fx.Node


@dataclass(frozen=True)
class FuseBatchNorm(Pass):
    """Fold every BatchNorm in evaluation mode into the Linear or convolution before it."""

    name: ClassVar[str] = "fuse-batchnorm"
    keeps: ClassVar[Keeps] = "outputs"

    def requires(self, program: Program) -> None:
        """A BatchNorm to fold is in evaluation mode; a layer that takes one is called once."""
        for pair in _pairs(program):
            norm = _norm(program, pair)
            if norm.running_mean is None:
                problem = "has no running statistics: it always normalises by those of the batch"
                self.refuse(pair.norm, problem, fix="Train it with track_running_stats=True")
            if norm.training:
                problem = "is in training mode, where it normalises by the statistics of the batch"
                self.refuse(pair.norm, problem, fix="Call model.eval() first")
            self._require_own_weight(program, pair.synapse)

    def _require_own_weight(self, program: Program, node: fx.Node) -> None:
        """The synapse's weight is a plain parameter that no other node uses."""
        layer = program.module(node)
        if "weight" not in dict(layer.named_parameters(recurse=False)):
            problem = "computes its weight anew in every call, so that a folded one would be lost"
            self.refuse(node, problem, fix="Remove the parametrization first")
        for other in _readers(program, layer):
            if other is not node:
                problem = f"has its parameters read by {value_name(other)} too"
                self.refuse(node, problem, fix="Give each of the two a layer of its own")

    def apply(self, program: Program) -> int:
        """Fold, read the synapse instead of the BatchNorm, and clear the BatchNorm's module."""
        pairs = list(_pairs(program))
        if pairs:
            own_root(program)
        for pair in pairs:
            _fold(_synapse(program, pair), _norm(program, pair))
            pair.norm.replace_all_uses_with(pair.synapse)
            program.step.erase_node(pair.norm)
            program.whole -= {pair.norm.name}
        for target in {str(pair.norm.target) for pair in pairs}:
            _clear(program, target)
        return len(pairs)


def _pairs(program: Program) -> Iterator[_Pair]:
    """Every synapse whose output channels are read by a BatchNorm and nothing else."""
    for norm in program.step.find_nodes(op="call_module"):
        node = norm.all_input_nodes[0] if norm.all_input_nodes else norm
        if node.op != "call_module" or len(node.users) > 1:
            continue
        if not (_is_one_of(BatchNorm, program, norm) and _is_one_of(Synapse, program, node)):
            continue
        pair = _Pair(node, norm)
        if value_of(node).dim() == _synapse(program, pair).weight.dim():
            yield pair


def _is_one_of(classes: UnionType, program: Program, node: fx.Node) -> bool:
    """Whether a module's step is exactly one of these; a subclass may compute something else."""
    module = program.module(node)
    layer = program.single_step.get(str(node.target), type_before_parametrizations(module))
    return layer in get_args(classes)


def _synapse(program: Program, pair: _Pair) -> Synapse:
    return cast("Synapse", program.module(pair.synapse))


def _norm(program: Program, pair: _Pair) -> BatchNorm:
    return cast("BatchNorm", program.module(pair.norm))


def _readers(program: Program, layer: nn.Module) -> Iterator[fx.Node]:
    """The nodes of all graphs that call the layer or read one of its parameters."""
    for graph in filter(None, (program.prologue, program.step, program.epilogue)):
        for node in graph.find_nodes(op="call_module"):
            if any(module is layer for module in program.module(node).modules()):
                yield node
        for node in graph.find_nodes(op="get_attr"):
            owner = str(node.target).rpartition(".")[0]
            if node.target not in program.constants and program.root.get_submodule(owner) is layer:
                yield node


def _fold(synapse: Synapse, norm: BatchNorm) -> None:
    """Give the synapse the scaled weight and the shifted bias, as new parameters."""
    mean, variance = _wide(norm.running_mean, 0.0), _wide(norm.running_var, 1.0)
    scale = _wide(norm.weight, 1.0) / torch.sqrt(variance + norm.eps)
    shifted = scale * (_wide(synapse.bias, 0.0) - mean) + _wide(norm.bias, 0.0)
    trained = synapse.weight.requires_grad
    for name, value in (("weight", _scaled(synapse, scale)), ("bias", shifted)):
        rounded = value.to(synapse.weight.dtype)
        setattr(synapse, name, nn.Parameter(rounded, requires_grad=trained))


def _scaled(synapse: Synapse, scale: Tensor) -> Tensor:
    """The weight, its output channels scaled; a transposed convolution has them second."""
    weight = synapse.weight.detach().double()
    ones = [1] * (weight.dim() - 2)
    if not isinstance(synapse, Transposed):
        return weight * scale.reshape(-1, 1, *ones)
    groups = synapse.groups
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return (grouped * scale.reshape(groups, 1, -1, *ones)).reshape(weight.shape)


def _wide(value: Tensor | None, missing: float) -> Tensor:
    """A parameter in float64, or what stands for one that is not there."""
    return torch.tensor(missing).double() if value is None else value.detach().double()


def _clear(program: Program, target: str) -> None:
    """Put an Identity where no node needs the module any more."""
    for graph in filter(None, (program.prologue, program.step, program.epilogue)):
        if any(f"{node.target}.".startswith(f"{target}.") for node in graph.nodes):
            return
    owner, _, name = target.rpartition(".")
    setattr(program.root.get_submodule(owner), name, nn.Identity())
    program.single_step.pop(target, None)
