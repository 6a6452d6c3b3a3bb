"""What one time step of a program takes in memory."""

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from snncompile.ir.operations import is_part
from snncompile.ir.program import Program


def bytes_per_sample(program: Program) -> tuple[float, float]:
    """Bytes of all values that one step computes, and of the largest, for one sample of the batch.

    Found from the shapes of the capture; parameters do not count.
    """
    computed = [n for n in program.step.nodes if n.op.startswith("call_") and not is_part(n)]
    leaves = pytree.tree_leaves([node.meta.get("val") for node in computed])
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    sizes = [math.prod(_known(t.shape)) * t.element_size() for t in tensors]
    batch = _captured_batch(program)
    return sum(sizes) / batch, max(sizes, default=0) / batch


def batch_axis(program: Program) -> tuple[int | None, int]:
    """Which input, and which axis of it (time counted), has the batch size; None if none has."""
    for i, (spec, node) in enumerate(zip(program.inputs, program.placeholders(), strict=False)):
        for axis, size in enumerate(node.meta["val"].shape):
            if isinstance(size, torch.SymInt):
                return i, axis + (spec.kind == "sequence")
    return None, 0


def _captured_batch(program: Program) -> int:
    sizes = [size for node in program.placeholders() for size in node.meta["val"].shape]
    return next((_known([s])[0] for s in sizes if isinstance(s, torch.SymInt)), 1)


def _known(sizes: Iterable[int | torch.SymInt]) -> list[int]:
    """Sizes as numbers; the captured one where a size is symbolic."""
    return [_captured(s) if isinstance(s, torch.SymInt) else s for s in sizes]


def _captured(size: torch.SymInt) -> int:
    return int(cast("Any", size).node.hint)
