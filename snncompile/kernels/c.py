"""Prints the two sweeps of a kernel as C.

    for every block of elements        one block's states stay in the cache over all steps
        for every step
            for every element          independent of each other: the compiler vectorises

Both functions take ``size`` (steps, width, block, first block, last block), then for every array
its address, the distance between two steps, and whether blocks lie one after the other in it (1) or
share it (0). The classes below say which arrays, in which order.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import fx

from snncompile.kernels import arithmetic
from snncompile.kernels.preamble import CHUNK, FLUSH, RESTORE, TOTALS, preamble
from snncompile.kernels.sweep import Kept, Sweeps, asked, needed


def source(sweeps: Sweeps) -> str:
    """The C source of a kernel: ``forward`` and, if anything needs a gradient, ``backward``.

    Raises:
        NotElementwiseError: An operation has no expression.
    """
    parts = [preamble(sweeps.definition.dtype), _Forward(sweeps).text()]
    if sweeps.step.gradients:
        parts += [TOTALS, _Backward(sweeps).text()]
    return "\n".join(parts)


PARAMETERS = "const int64_t *size, void *const *at, const int64_t *stride, const int64_t *own"
"""What every function takes; see above."""


class _Loops(ABC):
    """Writes one function; arrays are declared in the order in which callers hand them over."""

    name = ""
    order = "int64_t t = 0; t < steps; t++"

    def __init__(self, sweeps: Sweeps) -> None:
        self.sweeps = sweeps
        self.text_of: dict[fx.Node, str] = {}
        self.before: list[str] = []
        self.block: list[str] = []
        self.row: list[str] = []
        self.element: list[str] = []
        self.after: list[str] = []
        self.arrays = 0

    def array(self, name: str, *, late: bool = False, type_: str = "real_t") -> str:
        """Declare the next array: its row of this step, or of the step before if `late`."""
        k = self.arrays
        self.arrays += 1
        step = "(t - 1)" if late else "t"
        self.row.append(
            f"{type_} *{name} = ({type_} *)at[{k}] + {step} * stride[{k}] + begin * own[{k}];"
        )
        return f"{name}[i]"

    def settings(self) -> None:
        definition = self.sweeps.definition
        for j, node in enumerate(self.sweeps.settings):
            if definition.scalars[j]:
                k, self.arrays = self.arrays, self.arrays + 1
                self.before.append(f"const real_t setting{j} = *(const real_t *)at[{k}];")
                self.text_of[node] = f"setting{j}"
            else:
                self.load(node, self.array(f"settings{j}"))

    def load(self, node: fx.Node, text: str) -> None:
        if node in self.text_of:
            return
        self.text_of[node] = f"v_{node.name}"
        self.element.append(f"const {_type(node)} v_{node.name} = {text};")

    def compute(self, ends: Iterable[fx.Node | None]) -> None:
        """Write what `ends` need, outside of all loops where it is the same for all elements."""
        for node in needed(ends, self.text_of):
            if arithmetic.name_of(node) in arithmetic.IDENTITIES:
                self.text_of[node] = self.text_of[node.all_input_nodes[0]]
                continue
            lines = self.before if node in self.sweeps.uniform else self.element
            text = arithmetic.expression(node, self.text_of)
            lines.append(f"const {_type(node)} v_{node.name} = {text};")
            self.text_of[node] = f"v_{node.name}"

    def store(self, text: str, node: fx.Node) -> None:
        self.element.append(f"{text} = {self.text_of[node]};")

    def text(self) -> str:
        self.write()
        return "\n".join(
            (
                f"void {self.name}({PARAMETERS}) {{",
                "  const int64_t steps = size[0], width = size[1], block = size[2];",
                *(f"  {line}" for line in self.before),
                "  for (int64_t b = size[3]; b < size[4]; b++) {",
                "    const int64_t begin = b * block;",
                "    const int64_t n = width - begin < block ? width - begin : block;",
                *(f"    {line}" for line in self.block),
                f"    for ({self.order}) {{",
                *(f"      {line}" for line in self.row),
                "      INDEPENDENT",
                "      for (int64_t i = 0; i < n; i++) {",
                *(f"        {line}" for line in self.element),
                "      }",
                "    }",
                *(f"    {line}" for line in self.after),
                "  }",
                *self.last(),
                "}\n",
            )
        )

    @abstractmethod
    def write(self) -> None:
        """Write the lines of the loop's body."""

    def last(self) -> Sequence[str]:
        return ()


class _Forward(_Loops):
    """current, initial states, settings -> wanted results, final states, saved values."""

    name = "forward"

    def write(self) -> None:
        sweeps = self.sweeps
        self.load(sweeps.step.operands[0], self.array("current"))
        starts = [self.array(f"initial{i}") for i in range(1, 1 + len(sweeps.states))]
        self.settings()
        wanted = [(self.array(f"result{p}"), p) for p in sweeps.definition.wanted]
        states = [self.array(f"state{i}") for i in range(1, 1 + len(sweeps.states))]
        saved = [
            self.array(f"saved{k}", type_=_stored(node)) for k, node in enumerate(sweeps.saved)
        ]
        for i, (node, start) in enumerate(zip(sweeps.states, starts, strict=True), start=1):
            self.row.append(f"const real_t *before{i} = t ? state{i} : {start[:-3]};")
            self.load(node, f"before{i}[i]")
        self.compute((*sweeps.step.results, *sweeps.saved))
        for text, position in wanted:
            self.store(text, sweeps.step.results[position])
        for text, node in zip(states, sweeps.step.results[1:], strict=True):
            self.store(text, node)
        for text, node in zip(saved, sweeps.saved, strict=True):
            self.store(text, node)


class _Backward(_Loops):
    """kept values, settings, gradients of results -> gradients of operands, last step first."""

    name = "backward"
    order = "int64_t t = steps - 1; t >= 0; t--"

    def write(self) -> None:
        sweeps, step = self.sweeps, self.sweeps.step
        self.before.append(FLUSH)
        for k, kept in enumerate(sweeps.kept):
            self.keep(k, kept)
        self.settings()
        self.gradients()
        self.compute(asked(sweeps.definition, step))
        self.derivatives()

    def keep(self, k: int, kept: Kept) -> None:
        """Declare a kept value; a state before the first step is the initial one."""
        if kept.source != "before":
            self.load(kept.node, self.array(f"kept{k}", type_=_stored(kept.node)))
            return
        self.array(f"sequence{k}", late=True)
        self.array(f"initial{k}")
        self.row.append(f"const real_t *kept{k} = t ? sequence{k} : initial{k};")
        self.load(kept.node, f"kept{k}[i]")

    def gradients(self) -> None:
        """The gradient of a result: what flows in at this step, and from the step after it."""
        definition, step = self.sweeps.definition, self.sweeps.step
        flowing = {p: self.array(f"gradient{p}") for p in definition.wanted}
        states = range(1, 1 + definition.states)
        for name in (*(f"final{i}" for i in states), *(f"carried{i}" for i in states)):
            self.array(name)
        for i in states:
            self.row.append(f"const real_t *later{i} = t < steps - 1 ? carried{i} : final{i};")
        for position, node in enumerate(step.gradients):
            terms = [flowing[position]] if position in flowing else []
            terms += [f"later{position}[i]"] if position else []
            self.load(node, " + ".join(terms) or "real(0.0)")

    def derivatives(self) -> None:
        definition, step = self.sweeps.definition, self.sweeps.step
        current, *others = step.derivatives
        for i, node in enumerate(others[: definition.states], start=1):
            self.element.append(f"carried{i}[i] = {self.value(node)};")
        if definition.differentiable[0]:
            self.element.append(f"{self.array('derivative')} = {self.value(current)};")
        for j, node in enumerate(others[definition.states :]):
            if definition.differentiable[1 + definition.states + j]:
                self.accumulate(j, node)

    def accumulate(self, j: int, node: fx.Node | None) -> None:
        """Sum a setting's derivative over time, in double precision; a scalar's over chunks too."""
        name, k = f"sum{j}", self.arrays
        if self.sweeps.definition.scalars[j]:
            self.arrays += 2
            self.block.append(f"double *{name} = (double *)at[{k}];")
            self.after.append(f"totals({name}, n, (double *)at[{k + 1}] + begin / {CHUNK});")
        else:
            self.arrays += 1
            self.block.append(f"double *{name} = (double *)at[{k}] + begin;")
        self.block.append(f"memset({name}, 0, n * sizeof(double));")
        self.element.append(f"{name}[i] += {self.value(node)};")

    def value(self, node: fx.Node | None) -> str:
        return "real(0.0)" if node is None else self.text_of[node]

    def last(self) -> Sequence[str]:
        return (RESTORE,)


def _type(node: fx.Node) -> str:
    return "int" if node.meta["val"].dtype == torch.bool else "real_t"


def _stored(node: fx.Node) -> str:
    return "truth_t" if node.meta["val"].dtype == torch.bool else "real_t"
