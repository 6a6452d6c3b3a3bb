"""Spiking layers of one time step that go over the four windows of a feature map.

The neuron is that of the paper's code, with decay 0.4 and threshold 0.5, and no reset:

    membrane <- decay * membrane + current,    spikes = 1[membrane > threshold],

where the membrane is handed over from another window or another layer.

Reference: Yao, Wu, Chen, Zhang. Training a General Spiking Neural Network with Improved Efficiency
and Minimum Latency. ACML 2023, arXiv:2401.10843, as its authors coded it.
"""

import torch
from torch import Tensor, nn

from snncompile.errors import InputError
from snncompile.ir import neurons
from snncompile.ir.surrogates import Surrogate
from snncompile.ir.windows import SIDE, Projection, Span, Window, cut, project, stitch, windows

DECAY = 0.4
THRESHOLD = 0.5
_WIDTH = 1.0
"""The surrogate's derivative is 1 where the membrane is less than half of this from threshold."""


class Draws:
    """Drawn numbers, handed out in the shapes that are asked for.

    Args:
        numbers: [N, D], each from [0, 1); None draws them from torch's generator when asked.
    """

    def __init__(self, numbers: Tensor | None = None) -> None:
        self._numbers = numbers
        self._taken = 0

    def like(self, values: Tensor) -> Tensor:
        """The next numbers, in the shape of some values [N, ...].

        Raises:
            InputError: There are not so many.
        """
        if self._numbers is None:
            return torch.rand_like(values)
        count = values[0].numel()
        first, self._taken = self._taken, self._taken + count
        if self._taken > self._numbers.shape[1]:
            raise InputError(
                f"the draw holds {self._numbers.shape[1]} numbers a sample, which is too few; "
                "ask the network for numbers(height, width)"
            )
        return self._numbers[:, first : self._taken].reshape(values.shape)


class _Windowed(nn.Module):
    """Goes over the windows of a map, encoding each by drawn numbers."""

    def __init__(self, channels: int, span: Span, projection: Projection) -> None:
        super().__init__()
        self.channels = channels
        self.span: Span = span
        self.projection: Projection = projection

    def numbers(self, height: int, width: int) -> int:
        """How many drawn numbers a sample takes on a map of that size."""
        return sum(self.channels * w.height * w.width for w in self._places(height, width))

    def extra_repr(self) -> str:
        """The options, for ``print(model)``."""
        return f"{self.channels}, span={self.span!r}, projection={self.projection!r}"

    def _places(self, height: int, width: int) -> tuple[Window, ...]:
        side = SIDE[self.span]
        if height % side or width % side:
            raise InputError(
                f"{type(self).__name__} got a map of {height}x{width}; windows of {self.span} want "
                f"sides that are multiples of {side}: pad the map, or take the other span"
            )
        return windows(height, width, self.span)

    def _encoded(self, x: Tensor, place: Window, draws: Draws) -> Tensor:
        """1 where a value is above a drawn number; no gradient passes."""
        piece = cut(x, place)
        return (piece > draws.like(piece)).to(x.dtype)


class WindowedConvolution(_Windowed):
    """The convolutional module: convolution, neuron, convolution, neuron, over four windows.

    Membranes c1 and c2 start at zero; c1 goes to the next window as it is, c2 becomes P(c1, c2).

    Args:
        channels: Of the map, in and out.
        span: How much of each side of the map a window takes.
        projection: The function P.
    """

    def __init__(
        self, channels: int, *, span: Span = "half", projection: Projection = "sine"
    ) -> None:
        super().__init__(channels, span, projection)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        """Spikes, [N, C, H, W], averaged where windows overlap.

        Args:
            x: A map, [N, C, H, W]; what lies outside of [0, 1] fires always or never.
            draws: The numbers to encode it by; drawn anew if not given.

        Raises:
            InputError: The map has no such windows.
        """
        draws = draws or Draws()
        places = self._places(x.shape[2], x.shape[3])
        pieces: list[Tensor] = []
        c1 = c2 = torch.zeros_like(cut(x, places[0]))
        for place in places:
            spikes, c1 = _neuron(self.first(self._encoded(x, place, draws)), c1)
            spikes, c2 = _neuron(self.second(spikes), c2)
            c2 = project(c1, c2, self.projection)
            pieces.append(spikes)
        return stitch(pieces, places)


class WindowedRecurrence(_Windowed):
    """The recurrent module: a bidirectional LSTM over the positions of a window, and a neuron.

    With the membranes m1 ... m4 of the layer below and m1' ... those of this layer, the windows
    receive P(m1, m2), P(m1', m2), P(m3, m2') and P(m4, m3').

    Args:
        channels: Of the map, in and out; an even number.
        span: How much of each side of the map a window takes.
        projection: The function P.
    """

    def __init__(
        self, channels: int, *, span: Span = "half", projection: Projection = "sine"
    ) -> None:
        super().__init__(channels, span, projection)
        self.lstm = nn.LSTM(channels, channels // 2, batch_first=True, bidirectional=True)

    def forward(
        self, x: Tensor, below: Tensor | None = None, draws: Draws | None = None
    ) -> tuple[Tensor, Tensor]:
        """Spikes and membranes, each [N, C, H, W], averaged where windows overlap.

        Args:
            x: A map, [N, C, H, W].
            below: The membranes of the layer below, [N, C, H, W]; zeros if not given.
            draws: The numbers to encode the map by; drawn anew if not given.

        Raises:
            InputError: The map has no such windows.
        """
        draws = draws or Draws()
        places = self._places(x.shape[2], x.shape[3])
        under = [cut(torch.zeros_like(x) if below is None else below, place) for place in places]
        pieces: list[Tensor] = []
        membranes: list[Tensor] = []
        for k, place in enumerate(places):
            given = self._given(k, under, membranes)
            current = self._current(self._encoded(x, place, draws))
            spikes, membrane = _neuron(current, given)
            pieces.append(spikes)
            membranes.append(membrane)
        return stitch(pieces, places), stitch(membranes, places)

    def _given(self, window: int, under: list[Tensor], own: list[Tensor]) -> Tensor:
        if window == 0:
            return project(under[0], under[1], self.projection)
        pair = (own[0], under[1]) if window == 1 else (under[window], own[window - 1])
        return project(*pair, self.projection)

    def _current(self, spikes: Tensor) -> Tensor:
        """The LSTM's output for every position, row by row, [N, C, h, w]."""
        positions = spikes.flatten(2).transpose(1, 2)
        outputs: Tensor = self.lstm(positions)[0]
        return outputs.transpose(1, 2).reshape(spikes.shape)


def _neuron(current: Tensor, membrane: Tensor) -> tuple[Tensor, Tensor]:
    return neurons.lif(
        current,
        membrane,
        charge=neurons.Decay(DECAY),
        threshold=THRESHOLD,
        reset=neurons.Keep(),
        surrogate=Surrogate("rectangle", (_WIDTH,)),
        strict=True,
    )
