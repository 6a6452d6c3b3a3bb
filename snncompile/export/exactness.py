# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
"""Whether every sum in a network is exact in float32, whatever order a runtime adds in.

A sum is, when its terms are multiples of a power of two and stay below 2^24 of these units. Spikes
are; weights are when they lie on a dyadic grid. What is done element by element rounds the same
way everywhere. So a network is "exact" if all its sums are and no function is a transcendental
one; for inputs that are integers up to 255, which spikes, counts and pixels are.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from snncompile.export.normalization import folded_batch_norm
from snncompile.ir.names import place
from snncompile.ir.neurons import GRADED, integer_lif
from snncompile.ir.program import Program, is_neuron, is_spiking, output_of

LARGEST_INPUT = 255
_EXACT_INTEGERS = 2**24
_FINEST = 16
"""The most fractional bits that a grid may have."""


@dataclass(frozen=True)
class Grid:
    """Values that are multiples of 2^-bits, at most `bound` in magnitude."""

    bits: int
    bound: float

    @property
    def fits(self) -> bool:
        """Whether float32 holds every one of them."""
        return self.bound * 2.0**self.bits <= _EXACT_INTEGERS


Known: TypeAlias = Grid | None
"""None: any float."""


class _InexactError(Exception):
    """A sum or a function whose last bit depends on the runtime."""


def exactness(program: Program) -> tuple[Literal["exact", "tolerance"], str]:
    """The exactness class of a program's file, and why it is not "exact".

    Args:
        program: The program, in eval mode.
    """
    try:
        _Analysis(program).run()
    except _InexactError as error:
        return "tolerance", str(error)
    return "exact", ""


def grid_of(*tensors: Tensor) -> Known:
    """The coarsest dyadic grid that holds all elements; None if there is none."""
    values = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
    bound = float(values.abs().max()) if values.numel() else 0.0
    for bits in range(_FINEST + 1):
        scaled = values * 2.0**bits
        if torch.equal(scaled, scaled.round()):
            return Grid(bits, bound)
    return None


class _Analysis:
    """Finds the grid of every value, and stops at the first sum that is not exact."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.grids: dict[fx.Node, Any] = {}

    def run(self) -> None:
        program = self.program
        spikes = {name for name, node in program.next_states().items() if _is_spikes(node)}
        inputs = {spec.name for spec in program.inputs}
        if program.prologue is not None:
            given = [Grid(0, LARGEST_INPUT)] * len(program.prologue.find_nodes(op="placeholder"))
            self._graph(program.prologue, given)
        known = [_first_value(node.name, inputs, spikes) for node in program.placeholders()]
        self._graph(program.step, known)
        outputs = [self._over_time(i) for i in range(len(program.outputs))]
        if program.epilogue is not None:
            count = len(program.epilogue.find_nodes(op="placeholder"))
            self._graph(program.epilogue, [*outputs, *[None] * (count - len(outputs))])

    def _over_time(self, index: int) -> Known:
        spec, node = self.program.outputs[index], output_of(self.program.step)[0][index]
        grid: Known = self.grids.get(node)
        if spec.reduce in ("sum", "mean") and grid is None:
            raise _InexactError(f"{place(node)} is summed over time and not on a dyadic grid")
        return grid if spec.reduce in ("stack", "last", "max") else None

    def _graph(self, graph: fx.Graph, placeholders: Sequence[Known]) -> None:
        self.grids.update(zip(graph.find_nodes(op="placeholder"), placeholders, strict=True))
        for node in graph.nodes:
            if node.op == "get_attr":
                self.grids[node] = None
            elif node.op.startswith("call"):
                try:
                    self.grids[node] = self._call(node)
                except _InexactError as error:
                    raise _InexactError(f"{place(node)} {error}") from error

    def _call(self, node: fx.Node) -> Any:  # noqa: ANN401
        if is_neuron(node):
            return _neuron(node)
        grids = [self.grids.get(source) for source in node.all_input_nodes]
        if node.op == "call_module":
            return self._layer(node, grids[0])
        rule = _RULES.get(node.target)
        if rule is None:
            return _elementwise(node)
        if node.target is operator.getitem and isinstance(grids[0], tuple):
            return grids[0][node.args[1]]  # type: ignore[index]
        numbers = [
            grid_of(torch.tensor(float(a))) for a in node.args if isinstance(a, (int, float))
        ]
        scalars = numbers if node.target in _PAIRS else []
        return rule([*grids, *scalars])

    def _layer(self, node: fx.Node, grid: Known) -> Known:
        module = self.program.module(node)
        for kind, rule in _LAYERS.items():
            if isinstance(module, kind):
                return rule(module, grid)
        raise _InexactError("is not known to be exact")


def _first_value(name: str, inputs: set[str], spikes: set[str]) -> Known:
    if name in inputs:
        return Grid(0, LARGEST_INPUT)
    return Grid(0, 1.0) if name in spikes else None


def _is_spikes(node: fx.Node) -> bool:
    source = node.args[0] if node.args else None
    first = node.target is operator.getitem and node.args[1] == 0
    if not first or not isinstance(source, fx.Node):
        return False
    return _neuron(source)[0] == Grid(0, 1.0)


def _neuron(node: fx.Node) -> tuple[Known, ...]:
    states = (None,) * (len(node.meta["val"]) - 1)
    if not is_neuron(node) or not is_spiking(node):
        return (None, *states)
    if node.target in GRADED:
        unit: Any = node.kwargs.get("unit", 0.25)
        levels: Any = node.kwargs["levels"]
        return (grid_of(torch.tensor([unit, unit * levels])), *states)
    amplitude: Any = node.kwargs.get("gain", 1.0)
    if node.target is integer_lif:
        amplitude = node.kwargs["levels"]
    spikes = (
        grid_of(torch.tensor(float(amplitude))) if isinstance(amplitude, (int, float)) else None
    )
    return (spikes, *states)


def _checked(grid: Grid) -> Grid:
    if not grid.fits:
        raise _InexactError("adds up numbers of more than 24 bits")
    return grid


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _synapse(module: Any, grid: Known) -> Grid:  # noqa: ANN401
    weight, bias = module.weight, module.bias
    lattice = grid_of(*(t for t in (weight, bias) if t is not None))
    if grid is None or lattice is None:
        what = "its inputs" if grid is None else "its weights"
        raise _InexactError(f"adds up products, and {what} are not on a dyadic grid")
    out = 1 if isinstance(module, _TRANSPOSED) else 0
    sums = weight.detach().abs().transpose(0, out).flatten(1).sum(1).max()
    bound = float(sums) * grid.bound + (0.0 if bias is None else float(bias.detach().abs().max()))
    return _checked(Grid(grid.bits + lattice.bits, bound))


def _batch_norm(module: Any, grid: Known) -> Grid:  # noqa: ANN401
    if module.training:
        raise _InexactError("trains")
    tensors = [module.running_mean, module.running_var, module.weight, module.bias]
    scale, offset = folded_batch_norm(tensors, module.eps)
    lattice = grid_of(scale, offset)
    if grid is None or lattice is None:
        raise _InexactError("scales channels by numbers that are not on a dyadic grid")
    bound = grid.bound * float(scale.abs().max()) + float(offset.abs().max())
    return _checked(Grid(grid.bits + lattice.bits, bound))


def _average(module: Any, grid: Known) -> Grid:  # noqa: ANN401
    size = module.kernel_size
    dimensions = int(type(module).__name__[-2])
    window = size**dimensions if isinstance(size, int) else math.prod(size)
    bits = int(window).bit_length() - 1
    if grid is None or window != 2**bits:
        raise _InexactError("averages a window whose size is no power of two")
    return _checked(Grid(grid.bits + bits, grid.bound))


def _same(module: nn.Module, grid: Known) -> Known:
    return grid


_LAYERS: Mapping[type[nn.Module], Callable[[Any, Known], Known]] = {
    **dict.fromkeys((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED), _synapse),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _average),
    **dict.fromkeys(
        (
            nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
            nn.Flatten, nn.ReLU, nn.Identity, nn.Upsample, nn.Dropout,
            nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
        ),
        _same,
    ),
}  # fmt: skip


def _sum_of_all(grids: Sequence[Known]) -> Known:
    if any(grid is None for grid in grids):
        return None
    known = [grid for grid in grids if grid is not None]
    total = Grid(max(g.bits for g in known), sum(g.bound for g in known))
    return total if total.fits else None


def _product(grids: Sequence[Known]) -> Known:
    if any(grid is None for grid in grids):
        return None
    known = [grid for grid in grids if grid is not None]
    total = Grid(sum(g.bits for g in known), math.prod(g.bound for g in known))
    return total if total.fits else None


def _widest(grids: Sequence[Known]) -> Known:
    if any(grid is None for grid in grids):
        return None
    known = [grid for grid in grids if grid is not None]
    return Grid(max(g.bits for g in known), max(g.bound for g in known))


def _elementwise(node: fx.Node) -> None:
    if node.target not in _ROUNDED_ONCE:
        raise _InexactError("is not known to be exact")


_PAIRS = frozenset((operator.add, operator.sub, operator.mul, torch.add, torch.sub, torch.mul))
_RULES: Mapping[Callable[..., Any] | str, Callable[[Sequence[Known]], Known]] = {
    **dict.fromkeys((operator.add, operator.sub, torch.add, torch.sub), _sum_of_all),
    **dict.fromkeys((operator.mul, torch.mul), _product),
    **dict.fromkeys(
        (
            torch.reshape, torch.flatten, torch.permute, torch.transpose, torch.unsqueeze,
            torch.squeeze, operator.getitem, torch.cat, torch.stack, torch.relu, functional.relu,
            torch.maximum, torch.amax, torch.detach, operator.neg, functional.max_pool2d,
            torch.max_pool2d, functional.pad, "to", "expand", "repeat",
        ),
        _widest,
    ),
}  # fmt: skip
_ROUNDED_ONCE: frozenset[Any] = frozenset(
    (
        operator.truediv, torch.div, torch.clamp, torch.where, torch.abs, torch.round,
        torch.floor, torch.ceil, torch.sign, torch.minimum, operator.gt, operator.ge, operator.lt,
        operator.le, operator.eq, operator.ne, operator.and_, operator.or_, operator.invert,
        torch.zeros_like, torch.ones_like, torch.full_like, torch.argmax, torch.max,
        torch.ops.aten.sym_size.int,
    )
)  # fmt: skip
