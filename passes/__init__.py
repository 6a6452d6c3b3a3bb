"""The passes: one file each, listed here in the order of the documentation."""

if __name__ != "snncompile.passes":
    raise ImportError("import snncompile.passes, not passes: one module must have one name")

from difflib import get_close_matches

from snncompile.errors import InputError
from snncompile.passes.binarize import Binarize
from snncompile.passes.channels_last import ChannelsLast
from snncompile.passes.deploy import Deploy
from snncompile.passes.event_driven import EventDriven
from snncompile.passes.fuse_batchnorm import FuseBatchNorm
from snncompile.passes.multi_precision import MultiPrecision
from snncompile.passes.one_step import OneStep
from snncompile.passes.parallel import Parallel
from snncompile.passes.recompute import Recompute
from snncompile.passes.reversible import Reversible
from snncompile.passes.saf import SAF
from snncompile.passes.single_spike import SingleSpike
from snncompile.passes.small_maps import SmallMaps
from snncompile.rewrite import Pass

PASSES: tuple[type[Pass], ...] = (
    FuseBatchNorm,
    SAF,
    Recompute,
    Reversible,
    SingleSpike,
    Parallel,
    OneStep,
    EventDriven,
    Binarize,
    MultiPrecision,
    Deploy,
    SmallMaps,
    ChannelsLast,
)
"""Every pass."""

BY_NAME: dict[str, type[Pass]] = {item.name: item for item in PASSES}


def find(name: str) -> type[Pass]:
    """The pass of that name.

    Args:
        name: A pass's name, in kebab-case.

    Raises:
        InputError: There is none; the message lists those that exist.
    """
    if name in BY_NAME:
        return BY_NAME[name]
    close = get_close_matches(name, BY_NAME, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise InputError(f"there is no pass {name!r}.{hint} The passes are: {', '.join(BY_NAME)}.")
