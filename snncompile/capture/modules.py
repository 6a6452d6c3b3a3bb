"""The modules that a model is made of, and those that it can change from afar."""

from typing import cast

from torch import nn

from snncompile.frontends import frontend_of
from snncompile.frontends.lowering import Frontend, Instances

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module of a model by its qualified name; the model itself is ''."""
    return dict(cast("list[tuple[str, nn.Module]]", [*model.named_modules()]))


def covering(module: nn.Module) -> Frontend | None:
    """The frontend that lowers a module; None for a layer, a container or a user's module."""
    frontend = frontend_of(module)
    return frontend if frontend is not None and frontend.covers(module) else None


def reachable(model: nn.Module) -> list[nn.Module]:
    """The modules that a forward of the model may change: its own, and its libraries' others."""
    own = list(model.modules())
    frontends = {id(f): f for module in own if (f := frontend_of(module)) is not None}
    others = [m for f in frontends.values() if isinstance(f, Instances) for m in f.bystanders()]
    return list({id(module): module for module in [*own, *others]}.values())


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a layer of torch itself: recorded as one call; others are entered."""
    kind = type(module)
    if kind.__module__.startswith("torch.nn.utils.parametrize"):
        kind = kind.__mro__[1]
    return kind.__module__.startswith("torch.nn.modules") and not isinstance(module, _CONTAINERS)
