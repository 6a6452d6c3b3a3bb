"""What stands in for BatchNorm where accumulations flow: its frozen self, or standard weights.

Statistics of every batch do not commute with accumulation. The literature trains such networks
with frozen statistics, or with scaled weight standardisation (Brock et al., 2021,
arXiv:2101.08692; in spiking networks Xiao et al., 2022, arXiv:2210.04195).
"""

import math
from collections.abc import Iterator
from operator import add, mul, sub
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from snncompile.ir.affine import is_normalisation, is_synapse
from snncompile.ir.program import Program, value_of
from snncompile.ir.synapses import functional_form, is_transposed
from snncompile.saf.check import Refuse
from snncompile.saf.sources import Sources

GAIN = 2.74
"""One over the deviation of H(x - 1) for a standard normal x: what restores a variance of 1."""

EPSILON = 1e-4

_PARAMETERS = ("running_mean", "running_var", "weight", "bias")


def normalisations(program: Program) -> list[fx.Node]:
    """The BatchNorms of a step."""
    return [node for node in program.step.nodes if is_normalisation(program, node)]


def freeze(program: Program) -> None:
    """Let every BatchNorm use its running statistics, in training too."""
    for norm in normalisations(program):
        with program.step.inserting_before(norm):
            mean, variance, weight, bias = _parameters(program, norm)
            args = (norm.args[0], mean, variance, weight, bias, False, 0.0, _epsilon(program, norm))
            new = program.step.call_function(functional.batch_norm, args)
        _replace(program, norm, new)


def check_standard(program: Program, refuse: Refuse) -> None:
    """Refuse BatchNorms that do not directly follow a Linear or convolution of their own."""
    for norm in normalisations(program):
        synapse = norm.all_input_nodes[0]
        known = is_synapse(program, synapse) and len(synapse.users) == 1
        if (
            not known
            or functional_form(program, synapse) is None
            or is_transposed(program, synapse)
        ):
            problem = "follows no Linear or convolution of its own whose weight could be standard"
            refuse(norm, problem, fix="Use batchnorm='freeze'")


def standardise(program: Program) -> None:
    """Standardise the weight before every BatchNorm, whose scale and shift become its own."""
    sources = Sources(program)
    for norm in normalisations(program):
        synapse = norm.all_input_nodes[0]
        (source, *_) = synapse.all_input_nodes
        with program.step.inserting_before(norm):
            _, _, scale, shift = _parameters(program, norm)
            gain = GAIN if sources.spiking(source) else 1.0
            weight = _standard(program, _weight(program, synapse), scale, gain)
            new = _synapse(program, synapse, source, (weight, shift))
        _replace(program, norm, new)


def _standard(program: Program, weight: fx.Node, scale: fx.Node | None, gain: float) -> fx.Node:
    """The weight with mean 0 and variance 1 / fan-in for every output, times gain and scale."""
    call = program.step.call_function
    shape = value_of(weight).shape
    others = list(range(1, len(shape)))
    centred = call(sub, (weight, call(torch.mean, (weight, others, True))))
    variance = call(torch.var, (weight, others), {"keepdim": True})
    summed = call(add, (call(mul, (variance, math.prod(shape[1:]))), EPSILON))
    standard = call(mul, (call(torch.div, (centred, call(torch.sqrt, (summed,)))), gain))
    if scale is None:
        return standard
    return call(mul, (standard, call(torch.reshape, (scale, (-1, *(1,) * len(others))))))


def _synapse(
    program: Program, synapse: fx.Node, source: fx.Node, parameters: tuple[fx.Node | None, ...]
) -> fx.Node:
    """The synapse with another weight and bias."""
    call: Any = functional_form(program, synapse)
    function, settings = call
    new = program.step.call_function(function, (source, *parameters, *settings))
    new.meta["module"] = synapse.meta.get("module")
    return new


def _weight(program: Program, synapse: fx.Node) -> fx.Node:
    if synapse.op == "call_module":
        node = program.step.get_attr(f"{synapse.target}.weight")
        node.meta["val"] = program.module(synapse).weight
        return node
    given: Any = synapse.args[1] if len(synapse.args) > 1 else synapse.kwargs["weight"]
    return given  # type: ignore[no-any-return]


def _parameters(program: Program, norm: fx.Node) -> Iterator[fx.Node | None]:
    """Running mean and variance, weight and bias of a BatchNorm."""
    for position, name in enumerate(_PARAMETERS, start=1):
        if norm.op != "call_module":
            given = norm.args[position] if len(norm.args) > position else norm.kwargs.get(name)
            yield given if isinstance(given, fx.Node) else None
        elif getattr(program.module(norm), name) is None:
            yield None
        else:
            yield program.step.get_attr(f"{norm.target}.{name}")


def _epsilon(program: Program, norm: fx.Node) -> float:
    if norm.op == "call_module":
        return float(program.module(norm).eps)  # type: ignore[arg-type]
    given: Any = norm.args[7] if len(norm.args) > 7 else norm.kwargs.get("eps", 1e-5)  # noqa: PLR2004
    return float(given)


def _replace(program: Program, norm: fx.Node, new: fx.Node) -> None:
    new.meta.setdefault("module", norm.meta.get("module"))
    new.meta["val"] = norm.meta["val"]
    norm.replace_all_uses_with(new)
    program.step.erase_node(norm)
    program.whole -= {norm.name}
