"""How values, functions and layers are spelled in the text of a program.

A spelling depends on what a thing is, never on addresses, on the names fx gives or on the
version of torch: two captures of one model read the same.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn

from snncompile.ir.surrogates import Surrogate

_Layers = tuple[type[nn.Module], ...]

_CONVOLUTIONS: _Layers = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_NORMS: _Layers = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_AVERAGES: _Layers = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_MAXIMA: _Layers = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_ADAPTIVE: _Layers = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)
_DROPOUTS: _Layers = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)

_SHOWN: tuple[tuple[_Layers, tuple[str, ...]], ...] = (
    ((nn.Linear,), ("in_features", "out_features")),
    (_CONVOLUTIONS, ("in_channels", "out_channels", "kernel_size")),
    (_NORMS, ("num_features",)),
    (_AVERAGES + _MAXIMA, ("kernel_size", "stride")),
    (_ADAPTIVE, ("output_size",)),
    ((nn.GroupNorm,), ("num_groups", "num_channels")),
    ((nn.LayerNorm,), ("normalized_shape",)),
    ((nn.Flatten,), ()),
    (_DROPOUTS, ("p",)),
    ((nn.LeakyReLU,), ("negative_slope",)),
)
"""The settings that are always shown; a layer of no such kind shows none."""

_DEFAULTS: Mapping[str, object] = {
    "padding": 0,
    "output_padding": 0,
    "dilation": 1,
    "groups": 1,
    "bias": True,
    "padding_mode": "zeros",
    "eps": 1e-5,
    "momentum": 0.1,
    "affine": True,
    "elementwise_affine": True,
    "track_running_stats": True,
    "ceil_mode": False,
    "count_include_pad": True,
    "divisor_override": None,
    "return_indices": False,
    "start_dim": 1,
    "end_dim": -1,
    "stride": 1,
}
"""The settings that are shown where they differ from this."""


class Symbols:
    """Names for symbolic sizes, in the order they are met: N is the batch, then N1, N2, ..."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def dimension(self, size: int | torch.SymInt | str) -> str:
        """A size: ``16``, ``N``, ``4*N``."""
        if isinstance(size, torch.SymInt):
            return re.sub(r"\b[su]\d+\b", self._name, str(size))
        return str(size)

    def shape(self, sizes: Sequence[int | torch.SymInt | str]) -> str:
        """A shape: ``[N, 16]``."""
        return f"[{', '.join(self.dimension(size) for size in sizes)}]"

    def _name(self, symbol: re.Match[str]) -> str:
        fresh = f"N{len(self._names) or ''}"
        return self._names.setdefault(symbol[0], fresh)


def dtype(value: torch.dtype | torch.memory_format) -> str:
    """``float32``, ``channels_last``."""
    return str(value).removeprefix("torch.")


def plain(value: object) -> str:
    """A number, string or tuple of them; ``1`` for 1.0, for what is equal should read the same."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else repr(value)


def function(target: Callable[..., object]) -> str:
    """The short name of a function: ``add``, ``aten.add.Tensor``, ``Round.apply``."""
    owner = getattr(target, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        return f"{owner.__name__}.apply"
    if hasattr(target, "overloadpacket"):
        return str(target)
    return getattr(target, "__name__", type(target).__name__)


def layer(module: nn.Module) -> str:
    """A layer with its shape-giving settings and those that are not the default's.

    ``Conv2d(1, 4, 3, padding=1)``; a class that is not in the table shows its name only.
    """
    for classes, shown in _SHOWN:
        if isinstance(module, classes):
            rest = [name for name in _DEFAULTS if name not in shown and hasattr(module, name)]
            others = {name: _setting(module, name) for name in rest}
            parts = [plain(_setting(module, name)) for name in shown]
            parts += [f"{k}={plain(v)}" for k, v in others.items() if v != _DEFAULTS[k]]
            return f"{type(module).__name__}({', '.join(parts)})"
    return f"{type(module).__name__}()"


def _setting(module: nn.Module, name: str) -> object:
    """A layer's setting, with (3, 3) as 3 and a bias as whether there is one."""
    value = getattr(module, name)
    if name == "bias":
        return value is not None
    return value[0] if is_tuple(value) and len(set(value)) == 1 else value


class Spelling:
    """Spells arguments of nodes.

    Args:
        name: The name of a node's value.
        symbols: The names of symbolic sizes.
    """

    def __init__(self, name: Callable[[fx.Node], str], symbols: Symbols) -> None:
        self._name = name
        self._symbols = symbols

    def __call__(self, value: object) -> str:
        """One argument: a node, a number, a neuron's value type, or a structure of them."""
        if isinstance(value, fx.Node):
            return self._name(value)
        if isinstance(value, Surrogate):
            name = value.function.__name__ if value.function else value.name
            return f"{name}({self.items(value.parameters)})"
        if is_value_type(value):
            return self._value_type(value)
        if is_tuple(value):
            return f"({self.items(value)}{',' if len(value) == 1 else ''})"
        if _is_list(value):
            return f"[{self.items(value)}]"
        return self._slice(value) if type(value) is slice else self._leaf(value)

    def items(self, values: Sequence[object]) -> str:
        """Arguments, separated by commas."""
        return ", ".join(self(value) for value in values)

    def index(self, value: object) -> str:
        """What stands between the brackets of ``x[...]``."""
        return self.items(value) if is_tuple(value) and value else self(value)

    def call(self, args: Sequence[object], kwargs: Mapping[str, object]) -> str:
        """The arguments of a call, positional ones first."""
        return ", ".join([*map(self, args), *(f"{k}={self(v)}" for k, v in kwargs.items())])

    def _value_type(self, value: Any) -> str:  # noqa: ANN401
        """``Relax(2, rest=-1)``: what has a default is named, and left out if it is that."""
        defaults: dict[str, object] = value._field_defaults
        fields = [(name, getattr(value, name)) for name in value._fields]
        required = [self(field) for name, field in fields if name not in defaults]
        named = [
            f"{name}={self(field)}"
            for name, field in fields
            if name in defaults and not same(field, defaults[name])
        ]
        return f"{type(value).__name__}({', '.join(required + named)})"

    def _slice(self, value: Any) -> str:  # noqa: ANN401
        ends = ["" if end is None else self(end) for end in (value.start, value.stop)]
        return ":".join(ends if value.step is None else [*ends, self(value.step)])

    def _leaf(self, value: object) -> str:
        if isinstance(value, torch.SymInt):
            return self._symbols.dimension(value)
        if isinstance(value, Tensor):
            single = value.numel() == 1
            return f"tensor({self(value.item())})" if single else f"tensor{list(value.shape)}"
        if isinstance(value, (torch.dtype, torch.memory_format)):
            return dtype(value)
        if isinstance(value, int | float | str | None):
            return plain(value)
        if isinstance(value, torch.device) or value is ...:
            return "..." if value is ... else str(value)
        return function(value) if callable(value) else type(value).__name__


def is_tuple(value: object) -> TypeGuard[tuple[Any, ...]]:
    """Whether a value is a tuple."""
    return isinstance(value, tuple)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def is_value_type(value: object) -> bool:
    """Whether a neuron's setting is one of the named value types: a charge, a reset, ..."""
    return isinstance(value, tuple) and hasattr(value, "_fields")  # pyright: ignore[reportUnknownArgumentType]


def same(value: object, default: object) -> bool:
    """Whether a setting is its default; a tensor or a node never is."""
    return type(value) is type(default) and value == default


def is_getitem(node: fx.Node) -> bool:
    """Whether a node takes an item of another value."""
    return node.op == "call_function" and node.target is operator.getitem
