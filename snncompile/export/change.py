"""What encoding the weights changes: sizes, and spikes and results in torch before and after."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from snncompile.export.agreement import Threshold
from snncompile.export.connections import Synapse
from snncompile.export.encoded_synapses import EncodedSynapse
from snncompile.export.encodings import BITS, Encoding
from snncompile.export.reference import Run
from snncompile.export.report import EncodedWeights

_SCALE = 4
"""Bytes of a float32."""


def change(
    synapses: Mapping[fx.Node, Synapse],
    encoded: Mapping[fx.Node, EncodedSynapse],
    runs: tuple[Run, Run],
    found: Sequence[Threshold],
) -> EncodedWeights:
    """Compare a program with itself under encoded weights.

    Args:
        synapses: All of the program's.
        encoded: Those whose weights are encoded.
        runs: What torch computes with the float weights, and with the encoded ones.
        found: Where the program decides by a threshold.
    """
    plain, changed = runs
    moved = sum(
        int((before[t.decision] != after[t.decision]).sum())
        for before, after in zip(plain.watched, changed.watched, strict=True)
        for t in found
    )
    pairs = zip(plain.results, changed.results, strict=True)
    gaps = [_gap(before, after) for before, after in pairs]
    sizes = {synapse.name: _bytes(synapse, encoded.get(node)) for node, synapse in synapses.items()}
    floats = {synapse.name: synapse.weight.numel() * _SCALE for synapse in synapses.values()}
    layers: dict[str, Encoding] = {
        synapse.name: encoded[node].code.encoding if node in encoded else "float32"
        for node, synapse in synapses.items()
    }
    return EncodedWeights(
        layers, sum(sizes.values()), sum(floats.values()), moved, max(gaps, default=0.0)
    )


def _gap(before: Tensor, after: Tensor) -> float:
    equal = torch.equal(before, after) or not before.numel()
    return 0.0 if equal else float((before.double() - after.double()).abs().max())


def _bytes(synapse: Synapse, encoded: EncodedSynapse | None) -> int:
    bits = BITS[encoded.code.encoding if encoded else "float32"]
    scale = None if encoded is None else encoded.scale
    return -(-synapse.weight.numel() * bits // 8) + (0 if scale is None else scale.numel() * _SCALE)
