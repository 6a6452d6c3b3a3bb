"""Turn a network of T time steps into one of a single step that goes over windows of its maps.

Time steps are replaced by space. Every feature map [N, C, H, W] is cut into four windows, top left,
top right, bottom left, bottom right, and one module goes over them in this order: what a neuron
handed to its next time step it now hands to the next window. A module is one or two spiking layers
with the convolutions and normalisations before them; windows are padded as the map was. Modules
take in turn windows of half of each side and of three quarters, where what overlaps is averaged;
the last takes halves, and so does a map whose sides are no multiples of four. What is not local,
poolings and strided convolutions and residual sums, runs on whole maps between modules.

Membranes start from their initial value. With v1 and v2 the membranes of the two layers of a
module, the first receives v1 of the window before, and the second P(v1, v2), P being

    sine: P(a, b) = 2 sin(pi/4 a cos(pi/4 b)),    mean: P(a, b) = (a + b) / 2.

With handover="layers" modules have one layer, and membranes go from layer to layer too: see
`snncompile.windowing.handover`. Feedback within a layer goes from window to window as it is.

Before::

    program steps=sequence
    input   %x: sequence [N, 1, 4, 4] float32
    state   %lif_membrane "lif.membrane": [N, 2, 4, 4] float32 = 0
    step:
      %conv = conv: Conv2d(1, 2, 3, padding=1)(%x)  # [N, 2, 4, 4]
      %spikes, %membrane = lif(%conv, %lif_membrane, Decay(0.5), Keep(), atan(2), threshold=1)
        # [N, 2, 4, 4], lif
    next    %lif_membrane <- %membrane
    output  out0 = stack(%spikes)

After::

    program steps=1
    # one step over windows: of a longer sequence the first step is read
    input   %x: sequence [N, 1, 4, 4] float32
    step:
      %getitem = %x[:, :, 0:2, 0:2]  # [N, 1, 2, 2]
      %conv = conv: Conv2d(1, 2, 3, padding=1)(%getitem)  # [N, 2, 2, 2]
      %full_like = full_like(%conv, 0)  # [N, 2, 2, 2]
      %spikes, %membrane = lif(%conv, %full_like, Decay(0.5), Keep(), atan(2), threshold=1)
        # [N, 2, 2, 2], lif
      %getitem_1 = %x[:, :, 0:2, 2:4]  # [N, 1, 2, 2]
      %conv_1 = conv: Conv2d(1, 2, 3, padding=1)(%getitem_1)  # [N, 2, 2, 2]
      %spikes_1, %membrane_1 = lif(%conv_1, %membrane, Decay(0.5), Keep(), atan(2), threshold=1)
        # [N, 2, 2, 2], lif
      %getitem_2 = %x[:, :, 2:4, 0:2]  # [N, 1, 2, 2]
      %conv_2 = conv: Conv2d(1, 2, 3, padding=1)(%getitem_2)  # [N, 2, 2, 2]
      %spikes_2, %membrane_2 = lif(%conv_2, %membrane_1, Decay(0.5), Keep(), atan(2), threshold=1)
        # [N, 2, 2, 2], lif
      %getitem_3 = %x[:, :, 2:4, 2:4]  # [N, 1, 2, 2]
      %conv_3 = conv: Conv2d(1, 2, 3, padding=1)(%getitem_3)  # [N, 2, 2, 2]
      %spikes_3, %membrane_3 = lif(%conv_3, %membrane_2, Decay(0.5), Keep(), atan(2), threshold=1)
        # [N, 2, 2, 2], lif
      %cat = cat([%spikes, %spikes_1], 3)  # [N, 2, 2, 4]
      %cat_1 = cat([%spikes_2, %spikes_3], 3)  # [N, 2, 2, 4]
      %cat_2 = cat([%cat, %cat_1], 2)  # [N, 2, 4, 4]
    output  out0 = stack(%cat_2)

What a module's convolutions read is encoded, unless it is spikes already or the network's own
input: 1 above 1/2, else 0 (encoding="threshold"), or 1 above a number from [0, 1) (encoding=
"bernoulli"). Those numbers are an input of their own: call the network with the keyword `draw`, a
tensor [N, D] (`torch.rand` of the shape that the program's text shows, with your own generator).
Gradients pass the encoding as if it were not there, which the paper's code does not let them
(gradient=False).

A BatchNorm that trains normalises every window by itself; to fold one that does not, run
`fuse-batchnorm` before this pass, after which its convolution is called once a window. Outputs keep
their reduction over time, now of one step; of a longer sequence the first step is read.

Keeps: the interface: shapes, dtypes and parameters. It is another function, to be trained; with the
weights of the network of T steps it computes nothing in particular.

Reference: Yao, Wu, Chen, Zhang. Training a General Spiking Neural Network with Improved Efficiency
and Minimum Latency. ACML 2023, arXiv:2401.10843. Windows, projections and handover are those of the
authors' code; the paper's text was not at hand.
"""

from dataclasses import dataclass
from operator import getitem
from typing import ClassVar

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from snncompile.ir.program import Arguments, Input, Program, output_of
from snncompile.ir.windows import Projection
from snncompile.rewrite import Keeps, Pass
from snncompile.windowing.encoder import DRAW
from snncompile.windowing.legality import problems
from snncompile.windowing.modules import find_modules
from snncompile.windowing.settings import Encoding, Handover, Settings, Spans
from snncompile.windowing.writer import windowed_step


@dataclass(frozen=True)
class OneStep(Pass):
    """One time step over four windows of every feature map, in place of T steps.

    Attributes:
        windows: "alternating" gives every second module overlapping windows of three quarters of
            the sides of its map, "half" gives all of them halves.
        projection: "sine" or "mean": which function makes one membrane of two.
        handover: "windows" hands membranes from window to window, within modules of up to two
            layers; "layers" hands them from layer to layer as well.
        encoding: "threshold" compares what a module's convolutions read with 1/2, "bernoulli" with
            a drawn number, "none" leaves it.
        gradient: Let gradients pass the encoding unchanged; the paper's code lets none pass.
    """

    name: ClassVar[str] = "one-step"
    keeps: ClassVar[Keeps] = "interface"
    keywords: ClassVar[tuple[str, ...]] = (DRAW,)

    windows: Spans = "alternating"
    projection: Projection = "sine"
    handover: Handover = "windows"
    encoding: Encoding = "threshold"
    gradient: bool = True

    def requires(self, program: Program) -> None:
        """There is a feature map of even sides, and every state can be handed over."""
        if _is_done(program):
            return
        for node, reason, fix in problems(program, self._settings.depth):
            self.refuse(node, reason, fix=fix)

    def apply(self, program: Program) -> int:
        """Write the step anew, without states; returns how many neurons it goes over."""
        if _is_done(program):
            return 0
        neurons = sum(len(m.neurons) for m in find_modules(program, self._settings.depth))
        step, drawn = windowed_step(program, self._settings)
        like = next(n.meta["val"] for n in program.placeholders() if n.meta["val"].dim())
        program.step, program.states = step, ()
        program.time, program.whole = 1, frozenset()
        if program.prologue is not None:
            _first_step_only(program, program.prologue)
        if drawn:
            _take_draw(program, like, drawn)
        program.notes.append("one step over windows: of a longer sequence the first step is read")
        return neurons

    @property
    def _settings(self) -> Settings:
        return Settings(self.windows, self.projection, self.handover, self.encoding, self.gradient)


def _is_done(program: Program) -> bool:
    """Whether a program is one step without states already."""
    return program.time == 1 and not program.states


def _first_step_only(program: Program, prologue: fx.Graph) -> None:
    """Cut the sequences that a prologue makes to their first step."""
    values = list(output_of(prologue))
    with prologue.inserting_before(prologue.output_node()):
        for i, spec in enumerate(program.inputs):
            if spec.kind == "sequence":
                first = (*(slice(None),) * spec.axis, slice(0, 1))
                whole = values[i].meta["val"]
                values[i] = prologue.call_function(getitem, (values[i], first))
                values[i].meta["val"] = whole[first]
    prologue.output_node().args = (tuple(values),)


def _take_draw(program: Program, like: Tensor, count: int) -> None:
    """Make the drawn numbers an input of the step and a keyword argument of the call."""
    node = program.step.find_nodes(op="placeholder")[-1]
    node.meta["val"] = _numbers(like, count)
    if program.prologue is not None:
        _pass_through(program.prologue, len(program.inputs), node)
    program.inputs = (*program.inputs, Input(DRAW, "static"))
    given = program.arguments
    args, kwargs = pytree.tree_unflatten([None] * len(given.constants), given.spec)
    spec = pytree.tree_structure((args, {**kwargs, DRAW: None}))
    last = len(given.constants)
    program.arguments = Arguments(spec, (*given.constants, None), (*given.tensors, last))


def _numbers(like: Tensor, count: int) -> Tensor:
    """A fake tensor [N, D] with the batch and the dtype of another."""
    with like.fake_mode:  # type: ignore[attr-defined]
        return like.new_empty((like.shape[0], count))


def _pass_through(prologue: fx.Graph, position: int, node: fx.Node) -> None:
    """Let a prologue hand on an argument as an input of the step."""
    last = prologue.find_nodes(op="placeholder")[-1]
    with prologue.inserting_after(last):
        argument = prologue.placeholder(DRAW)
    argument.meta["val"] = node.meta["val"]
    output = prologue.output_node()
    values = output_of(prologue)
    output.args = ((*values[:position], argument, *values[position:]),)
