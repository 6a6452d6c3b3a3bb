"""Prints the two sweeps of a kernel as C.

    for every block of elements        one block's states stay in the cache over all steps
        for every step
            for every element          independent of each other: the compiler vectorises

Both functions take ``size`` (steps, width, block, first block, last block), then for every array
its address, the distance between two steps, and whether blocks lie one after the other in it (1) or
share it (0). The classes below say which arrays, in which order.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import fx

from snncompile.kernels import arithmetic
from snncompile.kernels.sweep import Sweeps, asked, needed

CHUNK = 1024
"""Elements over which a scalar setting's gradient is summed before it leaves the sweep; what it sums
to does not depend on blocks, which hold whole chunks."""

_PREAMBLE = """\
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define INDEPENDENT _Pragma("GCC ivdep")
#else
#define INDEPENDENT
#endif
#define real(x) ((real_t)(x))
#define select(c, a, b) ((c) ? (a) : (b))
"""
_FUNCTIONS = {
    "abs": "fabs", "round": "rint", "sqrt": "sqrt", "floor": "floor", "ceil": "ceil",
    "trunc": "trunc", "exp": "exp", "log": "log", "sin": "sin", "cos": "cos", "tanh": "tanh",
    "atan": "atan", "erf": "erf", "pow": "pow",
}  # fmt: skip
_VECTOR = """\
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC_PREREQ)
#if __GLIBC_PREREQ(2, 35)
#define VECTOR __attribute__((simd("notinbranch")))
VECTOR real_t {exp}(real_t); VECTOR real_t {log}(real_t); VECTOR real_t {sin}(real_t);
VECTOR real_t {cos}(real_t); VECTOR real_t {tanh}(real_t); VECTOR real_t {atan}(real_t);
VECTOR real_t {erf}(real_t); VECTOR real_t {pow}(real_t, real_t);
#endif
#endif
"""
"""Tells gcc that glibc has these functions for vectors too (to 4 units in the last place)."""

_TOTALS = f"""\
static void totals(const double *x, int64_t n, double *sums) {{
  for (int64_t begin = 0; begin < n; begin += {CHUNK}) {{
    const int64_t end = n - begin < {CHUNK} ? n : begin + {CHUNK};
    double lane[16] = {{0}};
    int64_t i = begin;
    for (; i + 16 <= end; i += 16)
      for (int j = 0; j < 16; j++) lane[j] += x[i + j];
    for (; i < end; i++) lane[i % 16] += x[i];
    for (int half = 8; half; half /= 2)
      for (int j = 0; j < half; j++) lane[j] += lane[j + half];
    sums[begin / {CHUNK}] = lane[0];
  }}
}}
"""
_FLUSH = """\
#if defined(__SSE2__)
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(mode | 0x8040); /* denormal gradients count as 0: they cost a hundred times more */
#endif
"""
_RESTORE = """\
#if defined(__SSE2__)
  _mm_setcsr(mode);
#endif
"""


def source(sweeps: Sweeps) -> str:
    """The C source of a kernel: ``forward`` and, if anything needs a gradient, ``backward``.

    Raises:
        NotElementwiseError: An operation has no expression.
    """
    suffix, real = ("f", "float") if sweeps.definition.dtype == torch.float32 else ("", "double")
    functions = {name: f"{c}{suffix}" for name, c in _FUNCTIONS.items()}
    shorthands = (f"#define {name}_ {c}\n" for name, c in functions.items())
    parts = [
        _PREAMBLE,
        f"typedef {real} real_t;\ntypedef unsigned char truth_t;\n",
        *shorthands,
        _VECTOR.format_map(functions),
        _Forward(sweeps).text(),
    ]
    if sweeps.step.gradients:
        parts += [_TOTALS, _Backward(sweeps).text()]
    return "\n".join(parts)


class _Loops:
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
                f"void {self.name}(const int64_t *size, void *const *at, const int64_t *stride,"
                " const int64_t *own) {",
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

    def write(self) -> None:
        raise NotImplementedError

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
        self.before.append(_FLUSH)
        for k, kept in enumerate(sweeps.kept):
            self.keep(k)
        self.settings()
        self.gradients()
        self.compute(asked(sweeps.definition, step))
        self.derivatives()

    def keep(self, k: int) -> None:
        """Declare a kept value; a state before the first step is the initial one."""
        kept = self.sweeps.kept[k]
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
        """Sum a setting's derivative over time in double precision; a scalar's also over a block."""
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
        return (_RESTORE,)


def _type(node: fx.Node) -> str:
    return "int" if node.meta["val"].dtype == torch.bool else "real_t"


def _stored(node: fx.Node) -> str:
    return "truth_t" if node.meta["val"].dtype == torch.bool else "real_t"
