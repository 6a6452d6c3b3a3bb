"""Encodings of weights: a few levels, and one scale an output channel.

A weight is ``scale[c] * levels[c, ...]`` with levels -1 and 1 (binary: one bit each), -1, 0 and 1
(ternary: two bits), or -127 to 127 (int8). Binary and ternary are read off the numbers, whatever
made them, and lose nothing; int8 rounds, unless the weights already are such multiples.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Encoding: TypeAlias = Literal["float32", "int8", "ternary", "binary"]

ENCODINGS: tuple[Encoding, ...] = ("float32", "int8", "ternary", "binary")
BITS: dict[Encoding, int] = {"float32": 32, "int8": 8, "ternary": 2, "binary": 1}
"""How many bits a weight takes in the file."""

_LARGEST = 127
_FINEST = 16
"""The most fractional bits for which int8 weights are recognised as such."""


@dataclass(frozen=True)
class Encoded:
    """A weight as levels and scales.

    Attributes:
        encoding: How the levels are stored.
        levels: Integers as int8, [C, ...] as the weight; the weight itself for "float32".
        scale: Float32, [C]; None when every channel's is one.
    """

    encoding: Encoding
    levels: Tensor
    scale: Tensor | None

    @property
    def largest(self) -> float:
        """The largest sum of magnitudes that reaches an output channel."""
        return float(self.levels.double().abs().flatten(1).sum(1).max())


def encoded(weight: Tensor, wanted: Encoding) -> Encoded | None:
    """A weight in an encoding, or in a smaller one that holds it.

    Args:
        weight: Float32, [C, ...], finite.
        wanted: The encoding.

    Returns:
        Levels and scales; None when the weight has more levels than the encoding.
    """
    if wanted == "float32" or not weight.numel():
        return None
    weight = weight.detach()
    largest = weight.abs().flatten(1).amax(1)
    same = weight.abs() == _over_channels(largest, weight)
    if wanted != "int8" and bool(same.all()):
        signs = torch.where(weight < 0, -1, 1)
        return _encoded("binary", signs, largest)
    if bool((same | (weight == 0)).all()) and wanted != "binary":
        return _encoded(wanted, weight.sign(), largest)
    return _rounded(weight, largest) if wanted == "int8" else None


def _encoded(encoding: Encoding, levels: Tensor, scale: Tensor) -> Encoded:
    ones = bool((scale == 1).all())
    return Encoded(encoding, levels.to(torch.int8), None if ones else scale.float())


def _rounded(weight: Tensor, largest: Tensor) -> Encoded:
    """The nearest of 255 levels a channel; the weights themselves if a power of two gives them."""
    scale = torch.where(largest > 0, largest / _LARGEST, 1.0)
    for bits in range(_FINEST + 1):
        multiples = weight * 2.0**bits
        if float(multiples.abs().max()) > _LARGEST:
            break
        if torch.equal(multiples, multiples.round()):
            scale = torch.full_like(largest, 2.0**-bits)
            break
    return _encoded("int8", (weight / _over_channels(scale, weight)).round(), scale)


def _over_channels(values: Tensor, weight: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (weight.dim() - 1))
