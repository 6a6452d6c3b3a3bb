"""Scans of neurons whose two halves of the channels drive each other, either way through time.

    for every sample                   its states stay in the cache over all steps
        for every step                 first to last, or last to first
            for every channel of a half    independent of each other: the compiler vectorises

A step is a function of halves, as torch traces it: ``step(*sequences, *states) -> (*sequences,
*states)``, where each sequence and each state stands for its first and its second half.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from snncompile.kernels import arithmetic, build
from snncompile.kernels.operands import SWITCH
from snncompile.kernels.preamble import FLUSH, RESTORE, preamble
from snncompile.kernels.step import NotElementwiseError, traced
from snncompile.kernels.sweep import needed
from snncompile.kernels.threads import Array, Division, division, run


@dataclass(frozen=True)
class Form:
    """What a step of halves is.

    Attributes:
        step: ``step(*halves of sequences, *halves of states) -> (*halves of written, ...)``, the
            halves of the states after the step last.
        read: How many sequences it reads.
        states: How many states it has.
        written: How many sequences it writes.
        backwards: Whether it runs from the last step to the first.
        exact: How many of the states have to have the bits of torch's own operations.
    """

    step: Callable[..., Sequence[Tensor]]
    read: int
    states: int
    written: int
    backwards: bool
    exact: int

    @property
    def arrays(self) -> int:
        """How many tensors a scan is given and writes."""
        return self.read + self.written + self.states


class PairedScan:
    """A compiled scan.

    Args:
        form: Its step.
        dtype: Of all tensors, float32 or float64.

    Raises:
        NotElementwiseError: The step is no elementwise arithmetic of fixed rounding.
        BuildError: There is no compiler.
    """

    def __init__(self, form: Form, dtype: torch.dtype) -> None:
        self.form = form
        self.function = build.library(_source(form, dtype)).scan

    def __call__(self, sequences: Sequence[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
        """Run over steps.

        Args:
            sequences: What it reads, each [T, N, C, ...].
            states: Before the first step it runs, each [N, C, ...] and contiguous; changed to those
                after the last.

        Returns:
            What it writes, each [T, N, C, ...].
        """
        steps, samples, *rest = sequences[0].shape
        size = prod(rest)
        dense = [sequence.contiguous() for sequence in sequences]
        written = [torch.empty_like(dense[0]) for _ in range(self.form.written)]
        arrays = [Array(value, samples * size) for value in (*dense, *written)]
        arrays += [Array(state) for state in states]
        workers = division(steps, samples * size).workers
        blocks = Division(size // 2, samples, max(1, min(workers, samples)))
        if steps and samples:
            run(self.function, (steps, samples * size), blocks, arrays)
        return written


def paired_scan(form: Form, dtype: torch.dtype) -> PairedScan | None:
    """A compiled scan; None where there can be none, or SNNCOMPILE_KERNELS is "off"."""
    if os.environ.get(SWITCH) == "off" or dtype not in (torch.float32, torch.float64):
        return None
    try:
        return PairedScan(form, dtype)
    except (NotElementwiseError, build.BuildError):
        return None


def _source(form: Form, dtype: torch.dtype) -> str:
    """A function of the form that `snncompile.kernels.threads.run` calls."""
    ones = [torch.ones(2, dtype=dtype) for _ in range(2 * (form.read + form.states))]
    graph = traced(form.step, ones)
    results = _results(graph, dtype)
    exact = results[2 * form.written :][: 2 * form.exact]
    rough = [node for node in needed(exact, ()) if not arithmetic.is_exact(node)]
    if rough:
        raise NotElementwiseError(f"the rounding of {rough[0].target} is not fixed")
    addresses = [
        f"real_t *a{k} = (real_t *)AT({k}) + t * STRIDE({k}) + b * 2 * n;"
        for k in range(form.arrays)
    ]
    order = "t = steps - 1; t >= 0; t--" if form.backwards else "t = 0; t < steps; t++"
    lines = (
        "int scan(PARAMETERS) {",
        "  const int64_t steps = given[0].n, n = given[2].n;",
        *([FLUSH] if form.backwards else []),
        "  for (int64_t b = first; b < last; b++) {",
        f"    for (int64_t {order}) {{",
        *(f"      {line}" for line in addresses),
        "      INDEPENDENT",
        "      for (int64_t i = 0; i < n; i++) {",
        *(f"        {line}" for line in _element(form, graph, results)),
        "      }\n    }\n  }",
        *([RESTORE] if form.backwards else []),
        "  return 0;\n}",
    )
    return "\n".join((preamble(dtype), *lines))


def _element(form: Form, graph: fx.Graph, results: Sequence[fx.Node]) -> list[str]:
    """What is done to one channel of a half: read, compute, write."""
    read, states = range(form.read), range(form.read + form.written, form.arrays)
    written = range(form.read, form.arrays)
    given = [f"a{k}[i{half}]" for k in (*read, *states) for half in ("", " + n")]
    into = [f"a{k}[i{half}]" for k in written for half in ("", " + n")]
    text: dict[fx.Node, str] = {}
    lines: list[str] = []

    def declare(node: fx.Node, value: str) -> None:
        kind = "int" if node.meta["val"].dtype == torch.bool else "real_t"
        text[node] = f"v_{node.name}"
        lines.append(f"const {kind} v_{node.name} = {value};")

    for node, value in zip(graph.find_nodes(op="placeholder"), given, strict=True):
        declare(node, value)
    for node in needed(results, text):
        if arithmetic.name_of(node) in arithmetic.IDENTITIES:
            text[node] = text[node.all_input_nodes[0]]
        else:
            declare(node, arithmetic.expression(node, text))
    return lines + [f"{place} = {text[node]};" for place, node in zip(into, results, strict=True)]


def _results(graph: fx.Graph, dtype: torch.dtype) -> list[fx.Node]:
    returned = next(iter(graph.find_nodes(op="output"))).args[0]
    results: list[Any] = pytree.tree_leaves(returned)
    shapes = {node.meta["val"].shape for node in results}
    types = {node.meta["val"].dtype for node in graph.nodes if "val" in node.meta}
    if shapes != {torch.Size([2])} or not types <= {dtype, torch.bool}:
        raise NotElementwiseError("not everything has the current's shape and dtype")
    return results
