"""Runs a part of a program now, and once more in the backward pass, instead of keeping its values.

What the part read is kept: spikes as bits, other values as they are. `torch.utils.checkpoint` runs
it again, from the same random numbers and under the same autocast; statistics that layers learn are
put by meanwhile, so that they are updated once. The graph of autograd is the one that the part has
anyway, so that gradients have the same bits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import checkpoint

from snncompile.ir.program import Program
from snncompile.memory.levels import Levels
from snncompile.runtime.choices import Choices
from snncompile.runtime.packing import Packing, pack
from snncompile.runtime.sequence import Value

Part: TypeAlias = Callable[[nn.Module, list[Any]], Any]
"""``part(root, [*operands]) -> results``; it empties the list."""


_checkpoint: Callable[..., Any] = cast("Any", checkpoint).checkpoint


class Packed(NamedTuple):
    """A tensor that is kept in fewer bits: how, and in what."""

    how: Packing
    planes: Tensor


def run_again(
    part: Part,
    root: nn.Module,
    operands: list[Any],
    packed: Mapping[int, Packed],
    learning: Sequence[str],
) -> Any:  # noqa: ANN401
    """Run a part, so that the backward pass runs it again.

    Args:
        part: The part.
        root: Where its modules live.
        operands: What it reads; emptied, so that they can be freed.
        packed: By position, the operands that are kept packed.
        learning: Names of the modules in it that have buffers.

    Returns:
        What the part returns.
    """
    if not torch.is_grad_enabled():
        return part(root, operands)
    if torch.compiler.is_compiling():
        return _checkpoint(_traceable(part, root), *operands, use_reentrant=False)
    kept = [packed[i].planes if i in packed else value for i, value in enumerate(operands)]
    run = _Run(part, root, operands, {i: value.how for i, value in packed.items()})
    modules = [root.get_submodule(name) for name in learning]

    def surroundings() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _StatisticsPutBy(modules)

    return _checkpoint(run, *kept, use_reentrant=False, context_fn=surroundings)


def _traceable(part: Part, root: nn.Module) -> Callable[..., Any]:
    def run(*given: Any) -> Any:  # noqa: ANN401
        return part(root, list(given))

    return run


class _Run:
    """A part with its operands: first as they are, then as they are found in what was kept."""

    def __init__(
        self, part: Part, root: nn.Module, operands: list[Any], ways: Mapping[int, Packing]
    ) -> None:
        self.part = part
        self.root = root
        self.ways = ways
        self.flowing = [isinstance(v, Tensor) and v.requires_grad for v in operands]
        self.waiting = [list(operands)]
        self.choices = Choices()
        operands.clear()

    def __call__(self, *given: Any) -> Any:  # noqa: ANN401
        with self.choices:
            return self.part(self.root, self.waiting.pop() if self.waiting else self._found(given))

    def _found(self, given: Sequence[Any]) -> list[Any]:
        """The operands, from what was kept of them."""
        ways = self.ways
        found = [ways[i].unpack(value) if i in ways else value for i, value in enumerate(given)]
        for value, flows in zip(found, self.flowing, strict=True):
            if flows and not value.requires_grad:
                value.requires_grad_()
        return found


class PackedValues:
    """Values of few levels, packed once for all that read them."""

    def __init__(self, known: dict[str, Levels]) -> None:
        self.known = known
        self.found: dict[str, Packed | None] = {}

    def of(self, names: Sequence[str], values: dict[str, Any]) -> dict[int, Packed]:
        """The packed ones among the reads of a part, by position among its operands."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return {}
        for name in names:
            if name in self.known and name not in self.found:
                self.found[name] = _packed(values[name], self.known[name])
        reads = ((i, self.found.get(name)) for i, name in enumerate(names, start=1))
        return {i: value for i, value in reads if value is not None}


def _packed(value: Value, known: Levels) -> Packed | None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    found = pack(value, known)
    return None if found is None else Packed(*found)


class _StatisticsPutBy(AbstractContextManager[None]):
    """Lets modules that train write into copies of their buffers; may be entered many times."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules
        self.own: list[tuple[dict[str, Any], dict[str, Tensor | None]]] = []

    def __enter__(self) -> None:
        trained = [vars(module) for module in self.modules if module.training]
        self.own = [(attributes, attributes["_buffers"]) for attributes in trained]
        for attributes, buffers in self.own:
            copies = {k: None if b is None else b.clone() for k, b in buffers.items()}
            attributes["_buffers"] = copies

    def __exit__(self, *error: object) -> None:
        for attributes, buffers in self.own:
            attributes["_buffers"] = buffers


def learning_modules(program: Program, nodes: Sequence[fx.Node]) -> tuple[str, ...]:
    """Names of the modules that nodes call and that have buffers, each once."""
    found: dict[str, None] = {}
    for node in nodes:
        owner = program.module(node) if node.op == "call_module" else nn.Module()
        for name, module in cast("Iterator[tuple[str, nn.Module]]", owner.named_modules()):
            if next(module.buffers(recurse=False), None) is not None:
                found[f"{node.target}.{name}" if name else str(node.target)] = None
    return tuple(found)
