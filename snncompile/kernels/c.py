"""Prints the two sweeps of a kernel as C.

    for every block of elements        one block's states stay in the cache over all steps
        for every step
            for every element          independent of each other: the compiler vectorises

Both functions run a part of the blocks (`snncompile.kernels.team`). They are given steps, width and
block, then for every array its address, the distance between two steps, and whether blocks lie one
after the other in it (1) or share it (0). `snncompile.kernels.loops` says which arrays, in which
order.
"""

from collections.abc import Callable

from torch import fx

from snncompile.kernels import loops
from snncompile.kernels.preamble import CHUNK, FLUSH, RESTORE, TOTALS, preamble
from snncompile.kernels.sweep import Sweeps


def source(sweeps: Sweeps) -> str:
    """The C source of a kernel: ``forward`` and, if anything needs a gradient, ``backward``.

    Raises:
        NotElementwiseError: An operation has no expression.
    """
    parts = [preamble(sweeps.definition.dtype), _Function(sweeps).text(loops.forward)]
    if sweeps.step.gradients:
        parts += [TOTALS, _Function(sweeps).text(loops.backward, back=True)]
    return "\n".join(parts)


class _Function(loops.Printer):
    def __init__(self, sweeps: Sweeps) -> None:
        super().__init__(sweeps)
        self.before: list[str] = []
        self.block: list[str] = []
        self.row: list[str] = []
        self.inner: list[str] = []
        self.after: list[str] = []
        self.arrays = 0

    def array(
        self, name: str, *, steps: bool = False, truth: bool = False, optional: bool = False
    ) -> None:
        self._row(name, "t", "truth_t" if truth else "real_t")

    def _row(self, name: str, step: str, kind: str = "real_t") -> None:
        k = self._next()
        self.row.append(
            f"{kind} *{name} = ({kind} *)AT({k}) + {step} * STRIDE({k}) + begin * OWN({k});"
        )

    def _next(self) -> int:
        self.arrays += 1
        return self.arrays - 1

    def element(self, name: str) -> str:
        return f"{name}[i]"

    def scalar(self, name: str) -> str:
        self.before.append(f"const real_t {name} = *(const real_t *)AT({self._next()});")
        return name

    def late(self, name: str, initial: str) -> str:
        self._row(name, "(t - 1)")
        self.array(initial)
        self.row.append(f"const real_t *late_{name} = t ? {name} : {initial};")
        return f"late_{name}[i]"

    def carry(self, first: str, last: str) -> str:
        self.row.append(f"const real_t *from_{last} = t != start ? {last} : {first};")
        return f"from_{last}[i]"

    def hand_on(self, last: str, text: str) -> None:
        self.store(last, text)

    def store(self, name: str, text: str) -> None:
        self.inner.append(f"{name}[i] = {text};")

    def let(self, node: fx.Node, text: str, *, once: bool) -> None:
        kind = "int" if loops.is_truth(node) else "real_t"
        (self.before if once else self.inner).append(f"const {kind} v_{node.name} = {text};")

    def total(self, j: int, text: str) -> None:
        name, k = f"sum{j}", self._next()
        if self.sweeps.definition.scalars[j]:
            self.block.append(f"double *{name} = (double *)AT({k});")
            sums = f"(double *)AT({self._next()}) + begin / {CHUNK}"
            self.after.append(f"totals({name}, n, {sums});")
        else:
            self.block.append(f"double *{name} = (double *)AT({k}) + begin;")
        self.block.append(f"memset({name}, 0, n * sizeof(double));")
        self.inner.append(f"{name}[i] += {text};")

    def text(self, write: Callable[[loops.Printer], None], *, back: bool = False) -> str:
        """The function that does what `write` writes."""
        write(self)
        order = "start; t >= 0; t--" if back else "start; t < steps; t++"
        return "\n".join(
            (
                f"int {write.__name__}(PARAMETERS) {{",
                "  const int64_t steps = given[0].n, width = given[1].n, block = given[2].n;",
                f"  const int64_t start = {'steps - 1' if back else 0};",
                *((FLUSH,) if back else ()),
                *(f"  {line}" for line in self.before),
                "  for (int64_t b = first; b < last; b++) {",
                "    const int64_t begin = b * block;",
                "    const int64_t n = width - begin < block ? width - begin : block;",
                *(f"    {line}" for line in self.block),
                f"    for (int64_t t = {order}) {{",
                *(f"      {line}" for line in self.row),
                "      INDEPENDENT",
                "      for (int64_t i = 0; i < n; i++) {",
                *(f"        {line}" for line in self.inner),
                "      }",
                "    }",
                *(f"    {line}" for line in self.after),
                "  }",
                *((RESTORE,) if back else ()),
                "  return 0;\n}\n",
            )
        )
