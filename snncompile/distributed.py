"""What torch.distributed asks of a transformed network.

`DistributedDataParallel` watches the parameters that it finds when it wraps a network, so there is
nothing to do unless a program comes with parameters of its own later.

FSDP2 (`torch.distributed.fsdp.fully_shard`) cuts a module's parameters into parts and puts them
together while that module is called. A program calls layers, so a sharded layer needs nothing. But
it does not call the blocks that layers lie in, and it reads parameters by itself: a learned leak, a
weight that a pass made binary. Those are put together before it runs. FSDP2 cuts them up again at
the end of the backward pass.
"""

import sys
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from snncompile.capture.modules import named_modules
from snncompile.errors import InputError
from snncompile.ir.program import Program


def _is_sharded(module: nn.Module) -> bool:
    """Whether `fully_shard` was applied to a module."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def gather(program: Program) -> None:
    """Put together the sharded parameters that a program reads without calling their module.

    Args:
        program: What is about to run.

    Raises:
        InputError: `fully_shard` was applied to the model instead of its transformed self.
    """
    if torch.compiler.is_compiling() or "torch.distributed.fsdp" not in sys.modules:
        return
    if _is_sharded(program.root):
        raise InputError("apply fully_shard to what transform returned, not to the model itself")
    sharded = {n: m for n, m in named_modules(program.root).items() if _is_sharded(m)}
    if not sharded:
        return
    called = _targets(program, "call_module") - {*program.single_step}
    read = {name.rpartition(".")[0] for name in _targets(program, "get_attr")}
    for name, module in sharded.items():
        if name not in called or name in read:
            cast("Any", module).set_reshard_after_forward(False, recurse=False)
            cast("Any", module).unshard()


def _targets(program: Program, op: str) -> set[str]:
    """What the nodes of a kind name."""
    graphs = [g for g in (program.prologue, program.step, program.epilogue) if g is not None]
    return {str(node.target) for graph in graphs for node in graph.find_nodes(op=op)}


def refuse_parts(module: nn.Module) -> None:
    """Refuse what reads a network's own parameters without calling it.

    Raises:
        InputError: `fully_shard` was applied to it.
    """
    if _is_sharded(module):
        raise InputError(
            "a sharded network can only be called: a call puts its parameters together"
        )


def refuse_sharded(model: nn.Module) -> None:
    """Refuse to capture a model whose parameters are in parts.

    Raises:
        InputError: `fully_shard` was applied to it or to one of its modules.
    """
    if any(_is_sharded(module) for module in model.modules()):
        raise InputError(
            "a sharded model cannot be captured. Transform it first, with example_inputs, and "
            "apply fully_shard to what transform returns; call that once in train and once in "
            "eval mode before, if you need both"
        )


def refuse_unknown_parameters(module: nn.Module) -> None:
    """Refuse a network that got parameters of its own after it was wrapped.

    Raises:
        InputError: The call comes from a `DistributedDataParallel` that does not know all of them.
    """
    wrapper: Any = DistributedDataParallel._active_ddp_module  # pyright: ignore[reportPrivateUsage]
    if wrapper is None or wrapper.module is not module:
        return
    known = {id(parameter) for parameter in wrapper._module_parameters}
    names = [n for n, p in module.named_parameters() if p.requires_grad and id(p) not in known]
    if names:
        raise InputError(
            f"{names[0]} belongs to a copy that a pass made in this call, and "
            "DistributedDataParallel would not synchronise its gradient. Give transform "
            "example_inputs, in the mode that you train in, before you wrap its result"
        )
