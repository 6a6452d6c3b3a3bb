"""The paper's network of one time step, in both of its versions.

Reference: Yao, Wu, Chen, Zhang. Training a General Spiking Neural Network with Improved Efficiency
and Minimum Latency. ACML 2023, arXiv:2401.10843, as its authors coded it. The LSTM's width is not
known: here each direction has half of the channels.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import Tensor, nn

from snncompile.ir.windows import Projection, Span
from snncompile.nn.windowed import Draws, WindowedConvolution, WindowedRecurrence

Version: TypeAlias = Literal["convolutional", "recurrent"]

_MLP_RATIO = 3


class _Block(nn.Module):
    """Windows, a linear layer and a shortcut; a perceptron at every position and a shortcut."""

    def __init__(
        self, windowed: WindowedConvolution | WindowedRecurrence, channels: int
    ) -> None:
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
        before = (in_channels, *widths)
        self.merges = nn.ModuleList(
            nn.Conv2d(a, b, 2, stride=2, bias=i == 0)
            for i, (a, b) in enumerate(zip(before, widths, strict=False))
        )
        self.membrane_merges = nn.ModuleList(
            nn.Conv2d(a, b, 2, stride=2, bias=False)
            for a, b in zip(widths, widths[1:], strict=False)
            if version == "recurrent"
        )
        kind = WindowedConvolution if version == "convolutional" else WindowedRecurrence
        self.stages = nn.ModuleList(
            nn.ModuleList(
                _Block(kind(width, span=_span(i, last), projection=projection), width)
                for i in range(depth)
            )
            for width, depth, last in _stages(widths, depths)
        )
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor, draw: Tensor | None = None) -> Tensor:
        """Class scores, [N, classes].

        Args:
            x: Images, [N, in_channels, H, W].
            draw: Numbers from [0, 1), [N, D], with D from `numbers`; drawn anew if not given.

        Raises:
            InputError: A map has sides that cannot be cut, or the draw is too short.
        """
        draws, membranes = Draws(draw), None
        for i, (merge, stage) in enumerate(zip(self.merges, self.stages, strict=True)):
            x = merge(x)
            if membranes is not None:
                membranes = self.membrane_merges[i - 1](membranes)
            for block in stage:
                x, membranes = block(x, membranes, draws)
        return self.head(x.mean((2, 3)))

    def numbers(self, height: int, width: int) -> int:
        """How many drawn numbers a sample takes, for images of that size."""
        total = 0
        for stage in self.stages:
            height, width = height // 2, width // 2
            total += sum(block.windowed.numbers(height, width) for block in stage)
        return total


def _stages(widths: Sequence[int], depths: Sequence[int]) -> list[tuple[int, int, bool]]:
    """Width and depth of every stage, and whether it is the last."""
    last = len(widths) - 1
    pairs = zip(widths, depths, strict=True)
    return [(width, depth, i == last) for i, (width, depth) in enumerate(pairs)]


def _span(position: int, last: bool) -> Span:
    """The windows of a block of a stage."""
    return "half" if last or position % 2 == 0 else "three-quarters"
