"""Leaves of a model what a program reads."""

from torch import nn

from snncompile.ir.program import Program


def prune(program: Program) -> None:
    """Give the program a root that has what its graphs read, frozen, and nothing else.

    Layers that are called stay what they are; every other module becomes a plain container.
    """
    graphs = [g for g in (program.prologue, program.step, program.epilogue) if g is not None]
    nodes = [node for graph in graphs for node in graph.nodes]
    called = {str(node.target) for node in nodes if node.op == "call_module"}
    read = {str(node.target) for node in nodes if node.op == "get_attr"}
    program.root = _kept(program.root, "", called, read - program.constants.keys()) or nn.Module()
    program.root.eval().requires_grad_(False)
    program.single_step = {k: v for k, v in program.single_step.items() if k in called}


def _kept(module: nn.Module, path: str, called: set[str], read: set[str]) -> nn.Module | None:
    """What is left of a module; None if nothing is."""
    if path in called:
        return module
    result, prefix = nn.Module(), f"{path}." if path else ""
    for target in sorted(read):
        name = target.removeprefix(prefix)
        if target.startswith(prefix) and "." not in name:
            _move(module, result, name)
    for name, child in module.named_children():
        kept = _kept(child, prefix + name, called, read)
        if kept is not None:
            result.add_module(name, kept)
    return result if vars(result) != vars(nn.Module()) else None


def _move(source: nn.Module, result: nn.Module, name: str) -> None:
    """Let a module have an attribute of another, as the kind that it is there."""
    value = getattr(source, name)
    if name in dict(source.named_buffers(recurse=False)):
        result.register_buffer(name, value)
    else:
        setattr(result, name, value)
