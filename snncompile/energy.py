"""Counts what the synapses of a network do on given inputs, and estimates the energy it takes.

Every convolution and matrix product that a call runs is counted, on the values that it meets: where
its input is spikes, one accumulate for every spike and every synapse that it reaches; where it is
counts, or levels that are quarters, as many as the count or quarters; where it is real numbers, one
multiply-accumulate for every synapse, zeros included. Synapses that would read
the padding of a map do not count, nor do biases, normalisation and neurons.

Reference: the energies are those of 45 nm CMOS in Horowitz, Computing's Energy Problem, ISSCC 2014:
a 32-bit floating-point addition takes 0.9 pJ, a multiplication 3.7 pJ.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from snncompile.kernels import event_convolution as event_convolution  # noqa: PLC0414 (registers)
from snncompile.kernels import event_operators as event_operators  # noqa: PLC0414 (registers)

ACCUMULATE = 0.9
"""Picojoules of one accumulate, 45 nm."""

MULTIPLY_ACCUMULATE = 4.6
"""Picojoules of one multiply-accumulate, 45 nm."""

_UNITS = (1.0, 0.25)
"""What spikes, and the emissions of multi-precision neurons with few bits, are multiples of."""


@dataclass
class Operations:
    """What the synapses of a network did.

    Attributes:
        accumulates: Additions of a weight, one for every spike and synapse that it reaches.
        multiply_accumulates: Those of synapses that read real numbers.
        dense: The multiply-accumulates if every synapse had read a real number.
    """

    accumulates: int = 0
    multiply_accumulates: int = 0
    dense: int = 0

    @property
    def picojoules(self) -> float:
        """The energy of the synapses, by the figures of 45 nm."""
        return self.accumulates * ACCUMULATE + self.multiply_accumulates * MULTIPLY_ACCUMULATE

    @property
    def dense_picojoules(self) -> float:
        """The energy of as many synapses that all read real numbers."""
        return self.dense * MULTIPLY_ACCUMULATE


def operations(module: nn.Module, *args: Any, **kwargs: Any) -> Operations:  # noqa: ANN401
    """Call a network and count what its synapses do.

    Args:
        module: Any torch module: a spiking network, what `snncompile.transform` returned, or an
            artificial neural network.
        *args: Arguments of the call.
        **kwargs: Its keyword arguments.

    Returns:
        The operations of the whole call: divide by the batch for those of one sample.
    """
    counter = _Counter()
    with torch.no_grad(), _products_visible(), counter:
        module(*args, **kwargs)
    return counter.counted


@contextmanager
def _products_visible() -> Generator[None]:
    """Without oneDNN an LSTM is matrix products, with it one operator that hides them."""
    flags: Any = torch.backends.mkldnn
    before = flags.enabled
    flags.enabled = False
    try:
        yield
    finally:
        flags.enabled = before


def _convolution(args: Sequence[Any], values: Tensor) -> int:
    """The products of a convolution whose inputs are these; padding has none."""
    _, weight, _, *settings = args
    groups = settings[-1]
    transposed = settings[3]
    outputs = weight.shape[1] if transposed else weight.shape[0] // groups
    one = torch.ones_like(weight[:, :1] if transposed else weight[:groups])
    reached = torch.ops.aten.convolution.default(values, one.double(), None, *settings)
    return round(float(reached.sum())) * int(outputs)


def _product(args: Sequence[Any], values: Tensor) -> int:
    """The products of a matrix product whose left matrix is this."""
    return round(float(values.sum())) * int(args[-1].shape[-1])


def _event_linear(args: Sequence[Any], values: Tensor) -> int:
    """The products of a Linear that may add up events."""
    return round(float(values.sum())) * len(args[1])


def _event_convolution(args: Sequence[Any], values: Tensor) -> int:
    """The products of a convolution that may add up events."""
    _, weight, bias, moves, *_ = args
    stride, padding, dilation = moves[:2], moves[2:4], moves[4:]
    settings = (stride, padding, dilation, False, [0, 0], 1)
    return _convolution((values, weight, bias, *settings), values)


_PRODUCTS: Mapping[object, tuple[int, Callable[[Sequence[Any], Tensor], int]]] = {
    torch.ops.aten.convolution.default: (0, _convolution),
    torch.ops.aten.mm.default: (0, _product),
    torch.ops.aten.bmm.default: (0, _product),
    torch.ops.aten.addmm.default: (1, _product),
    torch.ops.aten.baddbmm.default: (1, _product),
    torch.ops.snncompile.event_linear.default: (0, _event_linear),
    torch.ops.snncompile.event_traces.default: (0, _event_linear),
    torch.ops.snncompile.event_convolution.default: (0, _event_convolution),
}
"""Where each operator has its input, and how the products that it adds up are counted."""


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted = Operations()

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func in _PRODUCTS:
            position, products = _PRODUCTS[func]
            self._count(args[position], lambda values: products(args, values))
        return func(*args, **(kwargs or {}))

    def _count(self, values: Tensor, products: Callable[[Tensor], int]) -> None:
        values = values.double()
        dense = products(torch.ones_like(values))
        self.counted.dense += dense
        for unit in _UNITS:
            levels = values / unit
            if bool(((levels >= 0) & (levels == levels.round())).all()):
                self.counted.accumulates += products(levels)
                return
        self.counted.multiply_accumulates += dense
