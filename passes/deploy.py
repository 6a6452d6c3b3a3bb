"""Leave of a trained network what inference needs: known numbers, folded into few.

A synapse with weights of few bits, alpha_c sign(W), and the BatchNorm behind it become a product
of signs, a scale and an offset per channel,

    y = scale_c (sign(W) x) + offset_c,

so that sums are over integers where x holds integers. Scales may be negative. The BatchNorm of a
float layer goes into its weights; any other becomes a scale and an offset, and that of a membrane
goes into the decay and into the scale and offset of the current. What is computed from parameters
alone is computed once, into a buffer. Dropout and nn.Identity go.

Before::

    program steps=sequence
    input   %x: sequence [N, 1, 4, 4] float32
    state   %lif_membrane "lif.membrane": [N, 2, 4, 4] float32 = 0
    step:
      %conv_weight = parameter conv.weight          # [2, 1, 3, 3], conv
      %binarized = binarized(%conv_weight, axis=0)  # [2, 1, 3, 3], conv
      %conv2d = conv2d(%x, %binarized, padding=1)   # [N, 2, 4, 4], conv
      %norm = norm: BatchNorm2d(2, eps=0)(%conv2d)  # [N, 2, 4, 4]
      %spikes, %membrane = lif(%norm, %lif_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 2, 4, 4], lif
    next    %lif_membrane <- %membrane
    output  out0 = stack(%spikes)

After::

    program steps=sequence
    input   %x: sequence [N, 1, 4, 4] float32
    state   %lif_membrane "lif.membrane": [N, 2, 4, 4] float32 = 0
    step:
      %conv_signs = buffer conv.signs               # [2, 1, 3, 3], conv
      %conv2d = conv2d(%x, %conv_signs, padding=1)  # [N, 2, 4, 4], conv
      %conv_scale = buffer conv.scale               # [2, 1, 1], conv
      %conv_offset = buffer conv.offset             # [2, 1, 1], conv
      %mul = mul(%conv2d, %conv_scale)              # [N, 2, 4, 4]
      %add = add(%mul, %conv_offset)                # [N, 2, 4, 4], norm
      %spikes, %membrane = lif(%add, %lif_membrane, Decay(0.5), Subtract(), atan(2), threshold=1)
        # [N, 2, 4, 4], lif
    next    %lif_membrane <- %membrane
    output  out0 = stack(%spikes)

All this is done on a copy of the model, of which only what is read is left, with parameters that
are not trained: a checkpoint of the model does not fit by mistake. Products are rounded once, from
float64.

Keeps: the outputs, in real arithmetic; floating point can move what lies within rounding of a
threshold.

Reference: Hao et al. Comprehensive Online Training and Deployment for Spiking Neural Networks.
2024, arXiv:2410.07547; of BatchNorm, Jacob et al. CVPR 2018, arXiv:1712.05877.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import fx, nn

from snncompile.deployment.channels import Affine, fold_norm, fold_synapse, norms, quantised
from snncompile.deployment.frozen import Frozen, computed, freeze, known_values
from snncompile.deployment.membranes import fold_membrane, membrane_norms, membrane_of
from snncompile.deployment.pruning import prune
from snncompile.errors import PassRefusedError
from snncompile.ir.effects import has_effect
from snncompile.ir.program import Program
from snncompile.passes.fuse_batchnorm import FuseBatchNorm
from snncompile.rewrite import Keeps, Pass, own_root

_IDLE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
"""Layers that do nothing in evaluation mode."""


@dataclass(frozen=True)
class Deploy(Pass):
    """Freeze a trained network, fold what scales its channels, drop what inference needs not."""

    name: ClassVar[str] = "deploy"
    keeps: ClassVar[Keeps] = "outputs"

    def requires(self, program: Program) -> None:
        """Nothing trains; BatchNorms have statistics; what is to be folded is known."""
        for node in program.step.find_nodes(op="call_module"):
            if program.module(node).training and has_effect(program, node):
                self.refuse(node, "is in training mode", fix="Call model.eval() first")
        for node in norms(program):
            if getattr(program.module(node), "running_mean", None) is None:
                problem = "has no running statistics: it always normalises by those of the batch"
                self.refuse(node, problem, fix="Train it with track_running_stats=True")
        self._require_known(program)

    def _require_known(self, program: Program) -> None:
        """Membranes are normalised where they charge; biases do not depend on the step's data."""
        for node in membrane_norms(program):
            if membrane_of(node) is None:
                problem = "is not between the charge and the threshold of one neuron"
                self.refuse(node, problem, fix="Apply deploy right after multi-precision")
        known = known_values(program)
        for synapse in quantised(program):
            for node in synapse.node.all_input_nodes[1:]:
                if node not in known:
                    problem = "has a bias that is computed in the step"
                    self.refuse(synapse.node, problem, fix="Add it behind the synapse")

    def apply(self, program: Program) -> int:
        """Fold on a copy, from the synapses to the membranes; prune what is left over."""
        trained = any(parameter.requires_grad for parameter in program.root.parameters())
        if not trained and not any(_work(program)):
            return 0
        own_root(program)
        rewritten = _fused(program)
        frozen, affines = Frozen(program), dict[fx.Node, Affine]()
        for synapse in quantised(program):
            affines.update([fold_synapse(frozen, synapse)])
        for node in norms(program):
            affines.update([fold_norm(frozen, node)])
        rewritten += len(affines)
        for node in membrane_norms(program):
            found = membrane_of(node)
            if found is not None:
                fold_membrane(frozen, found, affines)
                rewritten += 1
        rewritten += _bypass(program) + freeze(frozen)
        program.step.eliminate_dead_code(lambda node: has_effect(program, node))
        prune(program)
        return rewritten


def _work(program: Program) -> Iterator[object]:
    """What there is to fold, freeze or drop."""
    yield from quantised(program)
    yield from norms(program)
    yield from membrane_norms(program)
    yield from computed(program)
    yield from _idle(program)


def _fused(program: Program) -> int:
    """Fold BatchNorms into float layers; where one shares its layer they become scales later."""
    try:
        FuseBatchNorm().requires(program)
    except PassRefusedError:
        return 0
    return FuseBatchNorm().apply(program)


def _idle(program: Program) -> list[fx.Node]:
    calls = program.step.find_nodes(op="call_module")
    kinds = program.single_step
    return [n for n in calls if kinds.get(str(n.target), type(program.module(n))) in _IDLE]


def _bypass(program: Program) -> int:
    """Read past layers that do nothing."""
    idle = _idle(program)
    for node in idle:
        node.replace_all_uses_with(node.all_input_nodes[0])
        program.step.erase_node(node)
        program.whole -= {node.name}
    return len(idle)
