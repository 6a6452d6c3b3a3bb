"""Which nodes must stay in a graph although nobody reads them."""

import torch
from torch import fx, nn

from snncompile.ir.program import Program
from snncompile.ir.spelling import function

_DRAWS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.RReLU,
)
"""Layers that draw random numbers while they are trained."""

_WRITES = frozenset({"setitem", "iadd", "isub", "imul", "itruediv", "ifloordiv", "imatmul"})
"""Functions of `operator` that write into their first argument."""


def has_effect(program: Program, node: fx.Node) -> bool:
    """Whether running a node does more than to compute its value.

    What draws random numbers counts, since without it later nodes would draw others; so does
    what writes into a tensor, and a layer that updates its statistics. A module of another
    package than torch is not judged: it counts.

    Args:
        program: The program of the node.
        node: A node of its step.
    """
    if node.op == "call_module":
        return _module_has_effect(program, node)
    if node.op in ("placeholder", "output", "get_attr"):
        return node.op != "get_attr"
    name = node.target if isinstance(node.target, str) else function(node.target)
    name = name.removeprefix("aten.").split(".")[0]
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name in _WRITES or _draws(name)


def _module_has_effect(program: Program, node: fx.Node) -> bool:
    module = program.module(node)
    layer = program.single_step.get(str(node.target), type(module))
    if not layer.__module__.startswith("torch.nn."):
        return True
    keeps_statistics = next(module.buffers(), None) is not None
    return module.training and (keeps_statistics or isinstance(module, _DRAWS))


def _draws(name: str) -> bool:
    """Whether torch says that the operator of that name draws random numbers."""
    operator = getattr(torch.ops.aten, name, None)
    if operator is None:
        return False
    overloads: list[str] = operator.overloads()
    return any(torch.Tag.nondeterministic_seeded in getattr(operator, o).tags for o in overloads)
