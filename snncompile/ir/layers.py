"""What the torch.nn layers of a step do along the batch: which treat its rows one by one.

See `snncompile.ir.operations` for what it means that a layer folds. A subclass counts as its base
when it keeps the base's forward, as parametrized layers do.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage]

from snncompile.ir.program import Program

Need: TypeAlias = int | Callable[[nn.Module], int]
"""How many dimensions a layer's input has when its first one is the batch, or more."""

_WATCHED = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def layer_class(program: Program, node: fx.Node) -> type[nn.Module] | None:
    """The known torch.nn class whose forward one step of a call_module node runs; else None."""
    module = program.module(node)
    if str(node.target) in program.single_step:
        declared = program.single_step[str(node.target)]
        return next((known for known in declared.__mro__ if known in _NEEDS), None)
    if "forward" in vars(module):
        return None
    forward: object = type(module).forward
    known = [base for base in _NEEDS if isinstance(module, base) and base.forward is forward]
    return known[0] if known else None


def layer_folds(program: Program, node: fx.Node, dimensions: int) -> bool:
    """Whether a layer treats the rows of a batched input one by one.

    Args:
        program: The program of the node.
        node: A call_module node.
        dimensions: How many dimensions its input has.
    """
    known = layer_class(program, node)
    if known is None or uses_batch_statistics(program.module(node)):
        return False
    need = _NEEDS[known]
    least = need if isinstance(need, int) else need(program.module(node))
    return dimensions >= least


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm of torch.nn, or of a library that builds on it."""
    return isinstance(module, _BatchNorm)


def uses_batch_statistics(module: nn.Module) -> bool:
    """Whether a normalization mixes the batch: a BatchNorm that trains or tracks nothing."""
    if not isinstance(module, _NormBase):
        return False
    if isinstance(module, _InstanceNorm):
        return module.training and module.track_running_stats
    return module.training or module.running_mean is None


def has_hooks(layer: nn.Module) -> bool:
    """Whether something watches the layer's calls, and wants to see spikes."""
    return any(getattr(layer, name) for name in _WATCHED)


def _beside(name: str) -> Callable[[nn.Module], int]:
    """The need of a layer that works along a dimension it names, which may not be the first."""

    def need(layer: nn.Module) -> int:
        dimension: object = getattr(layer, name)
        return abs(dimension) + 1 if isinstance(dimension, int) and dimension else _NEVER

    return need


_NEVER = 1000
"""More dimensions than any tensor has."""


def _spatial(*names: str, extra: int = 2) -> dict[type[nn.Module], Need]:
    found: dict[type[nn.Module], Need] = {}
    for name in names:
        for size in (1, 2, 3):
            layer = getattr(nn, f"{name}{size}d", None)
            if layer is not None:
                found[layer] = size + extra
    return found


def _elementwise(names: str) -> dict[type[nn.Module], Need]:
    return dict.fromkeys((getattr(nn, name) for name in names.split()), 1)


_NEEDS: Mapping[type[nn.Module], Need] = {
    **_elementwise(
        "Identity Dropout AlphaDropout ReLU ReLU6 LeakyReLU ELU SELU CELU GELU SiLU Mish Hardtanh "
        "Hardswish Hardsigmoid Sigmoid Tanh Softplus Softsign LogSigmoid Threshold RReLU "
        "Hardshrink Softshrink Tanhshrink Embedding"
    ),
    nn.Linear: 2,
    nn.PReLU: 2,
    nn.BatchNorm1d: 2,
    nn.BatchNorm2d: 4,
    nn.BatchNorm3d: 5,
    nn.SyncBatchNorm: 2,
    nn.GroupNorm: 2,
    nn.LayerNorm: lambda layer: len(layer.normalized_shape) + 1,  # type: ignore[arg-type]
    nn.RMSNorm: lambda layer: len(layer.normalized_shape) + 1,  # type: ignore[arg-type]
    nn.LocalResponseNorm: 3,
    nn.Softmax2d: 4,
    nn.Upsample: 3,
    nn.UpsamplingNearest2d: 4,
    nn.UpsamplingBilinear2d: 4,
    nn.PixelShuffle: 4,
    nn.PixelUnshuffle: 4,
    nn.ChannelShuffle: 3,
    nn.Unfold: 4,
    nn.Fold: 3,
    nn.FeatureAlphaDropout: 4,
    nn.Flatten: _beside("start_dim"),
    nn.Unflatten: _beside("dim"),
    nn.Softmax: _beside("dim"),
    nn.LogSoftmax: _beside("dim"),
    nn.Softmin: _beside("dim"),
    nn.GLU: _beside("dim"),
    **_spatial("Conv", "ConvTranspose", "MaxPool", "AvgPool", "LPPool", "Dropout"),
    **_spatial("AdaptiveAvgPool", "AdaptiveMaxPool", "InstanceNorm"),
    **_spatial("ZeroPad", "ConstantPad", "ReflectionPad", "ReplicationPad", "CircularPad"),
}
