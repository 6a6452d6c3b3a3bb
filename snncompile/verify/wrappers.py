"""Looks through what torch wraps around a network: torch.compile and DistributedDataParallel."""

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(network: nn.Module) -> nn.Module:
    """The network itself."""
    inside = _inside(network)
    return network if inside is None else unwrapped(inside)


def as_compiled(network: nn.Module) -> nn.Module | None:
    """The network as torch.compile runs it; None if it is not compiled.

    A wrapper around that which synchronises processes is left out.
    """
    if isinstance(network, (DataParallel, DistributedDataParallel)):
        return as_compiled(network.get_submodule("module"))
    own = unwrapped(network)
    compiled = network is not own or getattr(own, "_compiled_call_impl", None) is not None
    return network if compiled else None


def _inside(network: nn.Module) -> nn.Module | None:
    if isinstance(network, (DataParallel, DistributedDataParallel)):
        return network.get_submodule("module")
    compiled: object = vars(network)["_modules"].get("_orig_mod")
    return compiled if isinstance(compiled, nn.Module) else None
