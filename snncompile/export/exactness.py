# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
"""Whether every sum in a network is exact in float32, whatever order a runtime adds in.

A sum is, when its terms are multiples of a power of two and stay below 2^24 of these units. Spikes
are; weights are when they lie on a dyadic grid, and the levels of an encoded weight are integers.
What is done element by element rounds the same way everywhere. So a network is "exact" if all its
sums are and no function is a transcendental one; for inputs that are integers up to 255, which
spikes, counts and pixels are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from operator import getitem
from typing import Any, Final, Literal

import torch
from torch import fx, nn
from torch.fx.node import map_arg

from snncompile.export.connections import Synapse, synapses_of
from snncompile.export.encodings import Encoded
from snncompile.export.grids import PAIRS, ROUNDED_ONCE, RULES, Grid, InexactError, Known, grid_of
from snncompile.export.normalization import folded_batch_norm
from snncompile.ir.names import place
from snncompile.ir.neurons import GRADED, integer_lif
from snncompile.ir.program import Program, State, is_neuron, is_spiking, output_of

LARGEST_INPUT = 255
INTEGERS: Final = Grid(0, LARGEST_INPUT)
"""What the inputs of an "exact" file may be."""

_BEYOND = "adds up numbers of more than 24 bits"


def exactness(
    program: Program, encodings: Mapping[fx.Node, Encoded] | None = None
) -> tuple[Literal["exact", "tolerance"], str]:
    """The exactness class of a program's file, and why it is not "exact".

    Args:
        program: The program, in eval mode.
        encodings: Of the synapses whose weights are encoded.
    """
    analysis = Analysis(program, synapses_of(program), encodings or {}, INTEGERS)
    return ("tolerance", analysis.reason) if analysis.reason else ("exact", "")


class Analysis:
    """The grid of every value of a program.

    Attributes:
        grids: By node; a tuple for a node that has several values.
        sums: For every synapse the grid of what it adds up, before scale and bias; None if its
            inputs or weights are on no grid.
        reason: Why some sum or function is not exact, for the first; empty if all are.
    """

    def __init__(
        self,
        program: Program,
        synapses: Mapping[fx.Node, Synapse],
        encodings: Mapping[fx.Node, Encoded],
        inputs: Known,
    ) -> None:
        self.program = program
        self.grids: dict[fx.Node, Any] = {}
        self.sums: dict[fx.Node, Known] = {}
        self.reason = ""
        self._synapses = synapses
        self._encodings = encodings
        self._constants: set[fx.Node] = set()
        self._run(inputs)

    def _run(self, inputs: Known) -> None:
        program = self.program
        nexts = program.next_states()
        spikes = {s.name for s in program.states if _holds_spikes(s, nexts[s.name])}
        names = {spec.name for spec in program.inputs}
        if program.prologue is not None:
            self._graph(
                program.prologue, [inputs] * len(program.prologue.find_nodes(op="placeholder"))
            )
        known = [
            inputs if node.name in names else Grid(0, 1.0) if node.name in spikes else None
            for node in program.placeholders()
        ]
        self._graph(program.step, known)
        outputs = [self._over_time(i) for i in range(len(program.outputs))]
        if program.epilogue is not None:
            count = len(program.epilogue.find_nodes(op="placeholder"))
            self._graph(program.epilogue, [*outputs, *[None] * (count - len(outputs))])

    def _over_time(self, index: int) -> Known:
        spec, node = self.program.outputs[index], output_of(self.program.step)[0][index]
        grid: Known = self.grids.get(node)
        if spec.reduce in ("sum", "mean") and grid is None:
            self._inexact(node, "is summed over time and not on a dyadic grid")
        return grid if spec.reduce in ("stack", "last", "max") else None

    def _inexact(self, node: fx.Node, why: str) -> None:
        self.reason = self.reason or f"{place(node)} {why}"

    def _graph(self, graph: fx.Graph, placeholders: Sequence[Known]) -> None:
        self.grids.update(zip(graph.find_nodes(op="placeholder"), placeholders, strict=True))
        for node in graph.nodes:
            if not node.op.startswith("call") or self._is_constant(node):
                continue
            try:
                self.grids[node] = self._call(node)
            except InexactError as error:
                self._inexact(node, str(error))

    def _is_constant(self, node: fx.Node) -> bool:
        """Whether torch computes the node while the file is written."""
        sources = node.all_input_nodes
        if sources and all(s.op == "get_attr" or s in self._constants for s in sources):
            self._constants.add(node)
        return node in self._constants

    def _call(self, node: fx.Node) -> Any:  # noqa: ANN401
        if is_neuron(node):
            return _neuron(node)
        if node in self._synapses:
            return self._synapse(node, self._synapses[node])
        operands: list[Any] = []
        map_arg((node.args, node.kwargs), lambda source: operands.append(self.grids.get(source)))
        if node.op == "call_module":
            return self._layer(node, operands[0])
        if node.target is getitem and isinstance(operands[0], tuple):
            return operands[0][node.args[1]]  # type: ignore[index]
        return _function(node, operands)

    def _synapse(self, node: fx.Node, synapse: Synapse) -> Known:
        inputs: Known = self.grids.get(synapse.source)
        code = self._encodings.get(node)
        levels = Grid(0, 0) if code else grid_of(synapse.weight)
        largest = code.largest if code else _largest(synapse)
        self.sums[node] = _sums(inputs, levels, largest)
        scale = code.scale if code else None
        offset = synapse.bias if synapse.bias is not None else torch.zeros(())
        lattice = grid_of(offset) if scale is None else grid_of(scale, offset)
        if code is None and (levels is None or lattice is None):
            raise InexactError("adds up products, and its weights are not on a dyadic grid")
        if inputs is None:
            raise InexactError("adds up products, and its inputs are not on a dyadic grid")
        if self.sums[node] is None:
            raise InexactError(_BEYOND)
        result = _scaled(self.sums[node], scale, offset, lattice)
        if code is None and result is None:
            raise InexactError(_BEYOND)
        return result

    def _layer(self, node: fx.Node, grid: Known) -> Known:
        module = self.program.module(node)
        for kind, rule in _LAYERS.items():
            if isinstance(module, kind):
                return rule(module, grid)
        raise InexactError("is not known to be exact")


def _largest(synapse: Synapse) -> float:
    return float(synapse.weight.detach().double().abs().flatten(1).sum(1).max())


def _sums(inputs: Known, levels: Known, largest: float) -> Known:
    """Sums of products of grids, if they fit into 24 bits."""
    if inputs is None or levels is None:
        return None
    grid = Grid(inputs.bits + levels.bits, largest * inputs.bound)
    return grid if grid.fits else None


def _scaled(sums: Known, scale: torch.Tensor | None, offset: torch.Tensor, lattice: Known) -> Known:
    """Sums times the scale plus the bias, if that too fits into 24 bits."""
    if sums is None or lattice is None:
        return None
    factor = 1.0 if scale is None else float(scale.abs().max())
    bits = sums.bits + (0 if scale is None else lattice.bits)
    grid = Grid(max(bits, lattice.bits), sums.bound * factor + float(offset.detach().abs().max()))
    return grid if grid.fits else None


def _holds_spikes(state: State, following: fx.Node) -> bool:
    """Whether a state is the spikes of the step before, from the first step on."""
    source = following.args[0] if following.args else None
    first = following.target is getitem and following.args[1] == 0
    if not first or not isinstance(source, fx.Node) or state.initial not in (0, 1):
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


def _function(node: fx.Node, operands: Sequence[Known]) -> Known:
    rule = RULES.get(node.target)
    if rule is None:
        if node.target not in ROUNDED_ONCE:
            raise InexactError("is not known to be exact")
        return None
    numbers = [a for a in node.args if isinstance(a, (int, float))]
    if {"alpha", "value"} & set(node.kwargs) or (node.target not in PAIRS and _fill(numbers)):
        return None
    factors = [grid_of(torch.tensor(float(a))) for a in numbers] if node.target in PAIRS else []
    return rule([*operands, *factors])


def _fill(numbers: Sequence[float]) -> bool:
    """Whether a call that moves elements also writes some of its own."""
    return any(isinstance(number, float) for number in numbers)


def _checked(grid: Grid) -> Grid:
    if not grid.fits:
        raise InexactError(_BEYOND)
    return grid


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_SYNAPSES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


def _weighted(module: Any, grid: Known) -> Grid:  # noqa: ANN401
    """A layer with weights that is no `Synapse`: transposed, or with padding that is not zeros."""
    weight, bias = module.weight, module.bias
    lattice = grid_of(*(t for t in (weight, bias) if t is not None))
    if grid is None or lattice is None:
        what = "its inputs" if grid is None else "its weights"
        raise InexactError(f"adds up products, and {what} are not on a dyadic grid")
    out = 1 if isinstance(module, _TRANSPOSED) else 0
    sums = weight.detach().abs().transpose(0, out).flatten(1).sum(1).max()
    bound = float(sums) * grid.bound + (0.0 if bias is None else float(bias.detach().abs().max()))
    return _checked(Grid(grid.bits + lattice.bits, bound))


def _batch_norm(module: Any, grid: Known) -> Grid:  # noqa: ANN401
    if module.training:
        raise InexactError("trains")
    tensors = [module.running_mean, module.running_var, module.weight, module.bias]
    scale, offset = folded_batch_norm(tensors, module.eps)
    lattice = grid_of(scale, offset)
    if grid is None or lattice is None:
        raise InexactError("scales channels by numbers that are not on a dyadic grid")
    bound = grid.bound * float(scale.abs().max()) + float(offset.abs().max())
    return _checked(Grid(grid.bits + lattice.bits, bound))


def _average(module: Any, grid: Known) -> Grid:  # noqa: ANN401
    size = module.kernel_size
    dimensions = int(type(module).__name__[-2])
    window = size**dimensions if isinstance(size, int) else math.prod(size)
    bits = int(window).bit_length() - 1
    if grid is None or window != 2**bits:
        raise InexactError("averages a window whose size is no power of two")
    if module.ceil_mode or not module.count_include_pad:
        raise InexactError("averages fewer values at the edges")
    return _checked(Grid(grid.bits + bits, grid.bound))


def _same(module: nn.Module, grid: Known) -> Known:
    return grid


def _upsampled(module: nn.Upsample, grid: Known) -> Known:
    if module.mode != "nearest":
        raise InexactError("interpolates")
    return grid


_LAYERS: Mapping[type[nn.Module], Callable[[Any, Known], Known]] = {
    **dict.fromkeys(_SYNAPSES, _weighted),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _average),
    **dict.fromkeys(
        (
            nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
            nn.Flatten, nn.ReLU, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
        ),
        _same,
    ),
    nn.Upsample: _upsampled,
}  # fmt: skip
