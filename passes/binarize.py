"""Give synapses weights of one bit, or of three values, with a scale; float weights are trained.

A synapse reads, in place of its weight W,

    alpha_c sign(W)    with alpha_c the mean of |W| over output channel c, and sign(0) = 1,

or, with `ternary`, alpha times the signs of those weights that are larger than 0.7 of the mean
|W|, and 0 for the others, alpha being the mean size of those that are left. The gradient goes
through unchanged to the float weight where that is at most 1 in size; scales are constants in it.

Before::

    program steps=sequence
    input   %x: sequence [N, 4] float32
    state   %a: [N, 4] float32 = 0
    state   %b: [N, 4] float32 = 0
    step:
      %stem = stem: Linear(4, 4)(%x)                # [N, 4]
      %spikes, %membrane = lif(%stem, %a, Decay(0.5), Subtract(), atan(2), threshold=1)  # [N, 4], a
      %inner = inner: Linear(4, 4)(%spikes)         # [N, 4]
      %spikes_1, %membrane_1 = lif(%inner, %b, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 4], b
      %head = head: Linear(4, 2)(%spikes_1)         # [N, 2]
    next    %a <- %membrane
    next    %b <- %membrane_1
    output  out0 = stack(%head)

After::

    program steps=sequence
    input   %x: sequence [N, 4] float32
    state   %a: [N, 4] float32 = 0
    state   %b: [N, 4] float32 = 0
    step:
      %stem = stem: Linear(4, 4)(%x)                # [N, 4]
      %spikes, %membrane = lif(%stem, %a, Decay(0.5), Subtract(), atan(2), threshold=1)  # [N, 4], a
      %inner_weight = parameter inner.weight        # [4, 4], inner
      %binarized = binarized(%inner_weight, axis=0)  # [4, 4], inner
      %inner_bias = parameter inner.bias            # [4], inner
      %linear = linear(%spikes, %binarized, bias=%inner_bias)  # [N, 4], inner
      %spikes_1, %membrane_1 = lif(%linear, %b, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 4], b
      %head = head: Linear(4, 2)(%spikes_1)         # [N, 2]
    next    %a <- %membrane
    next    %b <- %membrane_1
    output  out0 = stack(%head)

The layer becomes a function of its parameters, which stay the model's own: training the program
trains the model, and the keys of the state dict are those of the model.

By default the stem and the classifier stay float: a stem depends on an input of the step and on
no neuron in it, and on a classifier no other synapse depends. Patterns of names choose other
layers; for layers of both kinds run the pass twice. Transposed convolutions stay float.

Keeps: the interface; the network computes something else and is to be trained.

Reference: Hao et al. Comprehensive Online Training and Deployment for Spiking Neural Networks.
2024, arXiv:2410.07547; the weights are those of Rastegari et al. XNOR-Net. ECCV 2016,
arXiv:1603.05279, and of Li et al. Ternary Weight Networks. 2016, arXiv:1605.04711.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from torch import Tensor, fx

from snncompile.errors import PassRefusedError
from snncompile.ir.program import Program
from snncompile.ir.quantised import binarized, ternarized
from snncompile.ir.weights import Synapse, as_function, inner, synapses
from snncompile.rewrite import Keeps, Pass


@dataclass(frozen=True)
class Binarize(Pass):
    """Weights become a sign and a scale per output channel; the float weights stay trainable.

    Attributes:
        ternary: Weights near zero become zero, and a layer has one scale.
        layers: Patterns of layer names, as ``block1.*``; None is all but stem and classifier.
        keep: Patterns of names of layers that stay float in any case.
    """

    name: ClassVar[str] = "binarize"
    keeps: ClassVar[Keeps] = "interface"

    ternary: bool = False
    layers: tuple[str, ...] | None = None
    keep: tuple[str, ...] = ()

    def requires(self, program: Program) -> None:
        """Every pattern matches a layer; a weight to quantise is a plain parameter."""
        self._require_some(program)
        for synapse in self._chosen(program):
            weight = _plain(program, synapse.weight)
            if weight is None:
                problem = "computes its weight anew in every call, from which nothing is trained"
                self.refuse(synapse.node, problem, fix="Remove the parametrization first")
            if not weight.is_floating_point():
                problem = f"has a weight of dtype {weight.dtype}, which cannot be trained"
                self.refuse(synapse.node, problem, fix="Convert it with model.float()")
            if synapse.node.op == "call_module" and _has_hooks(program, synapse.node):
                problem = "has forward hooks, which would no longer run"
                self.refuse(synapse.node, problem, fix="Remove them, or name it in keep")

    def apply(self, program: Program) -> int:
        """Put a quantised weight in front of every chosen synapse; one that is shared, once."""
        chosen = list(self._chosen(program))
        made: dict[str, fx.Node] = {}
        for synapse in chosen:
            node = synapse.node
            node = as_function(program, node) if node.op == "call_module" else node
            weight: Any = node.args[1]
            if synapse.weight not in made:
                made[synapse.weight] = self._quantised(program, weight)
            node.update_arg(1, made[synapse.weight])
        return len(chosen)

    def _quantised(self, program: Program, weight: fx.Node) -> fx.Node:
        function: Callable[..., Tensor] = ternarized if self.ternary else binarized
        with program.step.inserting_after(weight):
            axis = None if self.ternary else 0
            node = program.step.call_function(function, (weight,), {"axis": axis})
        node.meta["module"] = weight.meta.get("module")
        return node

    def _chosen(self, program: Program) -> Iterator[Synapse]:
        """The float synapses to quantise, in the order of the step."""
        found = list(synapses(program))
        between = inner(program)
        for synapse in found:
            named = synapse in between if self.layers is None else _matches(synapse, self.layers)
            if named and synapse.quantised is None and not _matches(synapse, self.keep):
                yield synapse

    def _require_some(self, program: Program) -> None:
        """There are layers to choose from, and every pattern matches one."""
        found = list(synapses(program))
        names = ", ".join(dict.fromkeys(synapse.name for synapse in found)) or "none"
        if self.layers is None and not inner(program):
            raise PassRefusedError(
                f"{self.name}: every layer is a stem or a classifier, and these stay float. Name "
                f"those to quantise in layers; the layers are: {names}."
            )
        for pattern in (*(self.layers or ()), *self.keep):
            if not any(_matches(synapse, (pattern,)) for synapse in found):
                raise PassRefusedError(
                    f"{self.name}: no layer is called {pattern!r}. The layers are: {names}."
                )


def _matches(synapse: Synapse, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(synapse.name, pattern) for pattern in patterns)


def _plain(program: Program, target: str) -> Tensor | None:
    """A weight that is held; None for one that a parametrization computes."""
    if target in program.constants:
        return program.constants[target]
    owner, _, name = target.rpartition(".")
    held = vars(program.root.get_submodule(owner))
    value: Tensor | None = {**held["_buffers"], **held["_parameters"]}.get(name)
    return value


def _has_hooks(program: Program, node: fx.Node) -> bool:
    held = vars(program.module(node))
    return bool(held["_forward_hooks"] or held["_forward_pre_hooks"])
