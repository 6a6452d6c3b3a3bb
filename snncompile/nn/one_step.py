"""The paper's network of one time step, in both of its versions.

Reference: Yao, Wu, Chen, Zhang. Training a General Spiking Neural Network with Improved Efficiency
and Minimum Latency. ACML 2023, arXiv:2401.10843, as its authors coded it. The LSTM's width is not
known: here each direction has half of the channels.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias, cast

from torch import Tensor, nn

from snncompile.ir.windows import Projection, Span
from snncompile.nn.windowed import Draws, WindowedConvolution, WindowedRecurrence

Version: TypeAlias = Literal["convolutional", "recurrent"]

_MLP_RATIO = 3


class _Block(nn.Module):
    """Windows, a linear layer and a shortcut; a perceptron at every position and a shortcut."""

    def __init__(self, windowed: WindowedConvolution | WindowedRecurrence, channels: int) -> None:
        super().__init__()
        self.windowed = windowed
        self.linear = nn.Conv2d(channels, channels, 1)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, _MLP_RATIO * channels, 1),
            nn.GELU(),
            nn.Conv2d(_MLP_RATIO * channels, channels, 1),
        )

    def forward(
        self, x: Tensor, below: Tensor | None, draws: Draws
    ) -> tuple[Tensor, Tensor | None]:
        if isinstance(self.windowed, WindowedRecurrence):
            spikes, membranes = self.windowed(x, below, draws)
        else:
            spikes, membranes = self.windowed(x, draws), None
        x = x + self.linear(spikes)
        return x + self.mlp(x), membranes


class _Stage(nn.Module):
    """Halves the sides of a map and of the membranes below, then goes through its blocks."""

    def __init__(self, channels: tuple[int, int], blocks: Sequence[_Block], *, first: bool) -> None:
        super().__init__()
        recurrent = isinstance(blocks[0].windowed, WindowedRecurrence)
        self.merge = nn.Conv2d(*channels, 2, stride=2, bias=first)
        merges = not first and recurrent
        self.membrane_merge = nn.Conv2d(*channels, 2, stride=2, bias=False) if merges else None
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self, x: Tensor, membranes: Tensor | None, draws: Draws
    ) -> tuple[Tensor, Tensor | None]:
        x = self.merge(x)
        if self.membrane_merge is not None:
            membranes = self.membrane_merge(membranes)
        for block in self.blocks:
            x, membranes = block(x, membranes, draws)
        return x, membranes

    def numbers(self, height: int, width: int) -> int:
        """How many drawn numbers a sample takes on a map that comes in with that size."""
        blocks = [cast("_Block", block) for block in self.blocks]
        return sum(block.windowed.numbers(height // 2, width // 2) for block in blocks)


class OneStepNet(nn.Module):
    """An image classifier of one time step.

    A patch embedding halves the sides; every stage but the first halves them again. Blocks of a
    stage take windows of half and of three quarters of the sides in turn, those of the last stage
    of half. What a block reads is encoded by drawn numbers: a call without them draws anew, in
    evaluation too. Everything between the windows computes with real numbers.

    Args:
        in_channels: Of the image.
        classes: How many scores come out.
        depths: Blocks of every stage.
        widths: Channels of every stage; even numbers for the recurrent version.
        version: "convolutional" or "recurrent".
        projection: Which function makes one membrane of two: "sine" or "mean".
    """

    def __init__(  # noqa: PLR0913
        self,
        in_channels: int = 3,
        classes: int = 10,
        *,
        depths: Sequence[int] = (2, 2, 6, 2),
        widths: Sequence[int] = (48, 96, 192, 384),
        version: Version = "convolutional",
        projection: Projection = "sine",
    ) -> None:
        super().__init__()
        kind = WindowedConvolution if version == "convolutional" else WindowedRecurrence
        stages: list[_Stage] = []
        for i, (before, after) in enumerate(pairwise((in_channels, *widths))):
            spans: list[Span] = [_span(k, last=i == len(widths) - 1) for k in range(depths[i])]
            windowed = [kind(after, span=span, projection=projection) for span in spans]
            blocks = [_Block(module, after) for module in windowed]
            stages.append(_Stage((before, after), blocks, first=i == 0))
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor, draw: Tensor | None = None) -> Tensor:
        """Class scores, [N, classes].

        Args:
            x: Images, [N, in_channels, H, W].
            draw: Numbers from [0, 1), [N, D], with D from `numbers`; drawn anew if not given.

        Raises:
            InputError: A map has sides that cannot be cut, or the draw is too short.
        """
        draws = Draws(draw)
        membranes: Tensor | None = None
        for stage in self.stages:
            x, membranes = stage(x, membranes, draws)
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores

    def numbers(self, height: int, width: int) -> int:
        """How many drawn numbers a sample takes, for images of that size."""
        stages = (cast("_Stage", stage) for stage in self.stages)
        return sum(s.numbers(height >> i, width >> i) for i, s in enumerate(stages))


def _span(position: int, *, last: bool) -> Span:
    """The windows of a block of a stage."""
    return "half" if last or position % 2 == 0 else "three-quarters"
