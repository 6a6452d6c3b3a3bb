"""The rules by which a call of one step runs on many steps laid end to end along its batch.

Every rule answers one question for a call whose operands are either sequences (one value a step)
or invariant (one value for all steps): which invariant operands must be repeated once a step
before the call runs on [T * N, ...]? None is the answer "this call does not fold".
"""

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, fx

Repeats: TypeAlias = frozenset[fx.Node] | None
Rule: TypeAlias = Callable[[fx.Node, Container[fx.Node]], Repeats]


def first_value(node: fx.Node) -> Tensor | None:
    """The fake tensor of a call's first positional operand, if it is a tensor."""
    return _value(node.args[0]) if node.args else None


def aligned(node: fx.Node, invariant: Container[fx.Node]) -> Repeats:
    """Elementwise: first dimensions agree, or an invariant broadcasts from the right."""
    return _align(node, node.all_input_nodes, invariant)


def rows(node: fx.Node, invariant: Container[fx.Node]) -> Repeats:
    """The first operand is a batch of independent rows; all others hold for every step."""
    first = first_value(node)
    if first is None or first.dim() == 0 or _result(node) is None:
        return None
    if any(other not in invariant for other in node.all_input_nodes if other is not node.args[0]):
        return None
    source = node.all_input_nodes[0]
    return frozenset((source,)) if source in invariant else frozenset()


def ranked(least: int) -> Rule:
    """Rows, when the first operand has at least `least` dimensions: fewer means no batch."""

    def rule(node: fx.Node, invariant: Container[fx.Node]) -> Repeats:
        first = first_value(node)
        return rows(node, invariant) if first is not None and first.dim() >= least else None

    return rule


def along(position: int, keyword: str = "dim", *, inserts: bool = False) -> Rule:
    """A call along dimensions given as its argument, none of which may be the first.

    Args:
        position: Where the dimensions are among the positional arguments.
        keyword: Their name otherwise.
        inserts: The dimension is a new one.
    """

    def rule(node: fx.Node, invariant: Container[fx.Node]) -> Repeats:
        given, first = _argument(node, position, keyword), first_value(node)
        dims = _integers(given)
        if first is None or not dims:
            return None
        return (
            None if any(d % (first.dim() + inserts) == 0 for d in dims) else rows(node, invariant)
        )

    return rule


def extreme(node: fx.Node, invariant: Container[fx.Node]) -> Repeats:
    """``max`` and ``min``: of two tensors, or along a dimension."""
    if isinstance(_argument(node, 1, "other"), fx.Node):
        return aligned(node, invariant)
    return along(1)(node, invariant)


def swap(node: fx.Node, invariant: Container[fx.Node]) -> Repeats:
    """``transpose`` of two dimensions, neither of them the first."""
    first = first_value(node)
    dims = _integers((_argument(node, 1, "dim0"), _argument(node, 2, "dim1")))
    if first is None or not dims or any(dim % first.dim() == 0 for dim in dims):
        return None
    return rows(node, invariant)


def permute(node: fx.Node, invariant: Container[fx.Node]) -> Repeats:
    """A permutation of dimensions that leaves the first in place."""
    given = _argument(node, 1, "dims")
    dims = _integers(node.args[1:] if _listed(given) is None else given)
    return rows(node, invariant) if dims and dims[0] == 0 else None


def join(node: fx.Node, invariant: Container[fx.Node]) -> Repeats:
    """Concatenation along a later dimension: every piece needs the full batch."""
    result, dims = _result(node), _integers(_argument(node, 1, "dim"))
    if result is None or not dims or dims[0] % result.dim() == 0:
        return None
    values = [_value(piece) for piece in node.all_input_nodes]
    if any(v is None or v.dim() == 0 or _size(v) != _size(result) for v in values):
        return None
    return frozenset(piece for piece in node.all_input_nodes if piece in invariant)


def reshape(node: fx.Node, invariant: Container[fx.Node]) -> Repeats:
    """Elements keep their order, so steps laid end to end stay so; the first size grows by T."""
    sizes = _listed(node.args[1]) if len(node.args) == 2 else None  # noqa: PLR2004
    return rows(node, invariant) if sizes else None


def matmul(node: fx.Node, invariant: Container[fx.Node]) -> Repeats:
    """Rows times an invariant matrix, or one product for every item of the batch."""
    other = _argument(node, 1, "other")
    left, right = first_value(node), _value(other)
    if left is None or right is None or left.dim() < 2:  # noqa: PLR2004
        return None
    if isinstance(other, fx.Node) and other in invariant and right.dim() <= 2:  # noqa: PLR2004
        return rows(node, invariant)
    return aligned(node, invariant) if min(left.dim(), right.dim()) > 2 else None  # noqa: PLR2004


def index(node: fx.Node, invariant: Container[fx.Node]) -> Repeats:
    """``x[:, ...]``: the first dimension is kept whole, the others are sliced or indexed."""
    given = node.args[1]
    plain = (int, slice, type(None), type(Ellipsis))
    if not isinstance(given, tuple) or not given or given[0] != slice(None):
        return None
    whole = all(isinstance(part, plain) for part in given)
    return rows(node, invariant) if whole and not node.all_input_nodes[1:] else None


def pad(node: fx.Node, invariant: Container[fx.Node]) -> Repeats:
    """Padding of dimensions other than the first."""
    first, widths = first_value(node), _listed(_argument(node, 1, "pad"))
    if first is None or widths is None or len(widths) >= 2 * first.dim():
        return None
    return rows(node, invariant)


def batch_norm(node: fx.Node, invariant: Container[fx.Node]) -> Repeats:
    """The function, with running statistics only."""
    training, running = _argument(node, 5, "training"), _argument(node, 1, "running_mean")
    return None if training or running is None else rows(node, invariant)


def layer_norm(node: fx.Node, invariant: Container[fx.Node]) -> Repeats:
    """The function, over dimensions other than the first."""
    first, shape = first_value(node), _listed(_argument(node, 1, "normalized_shape"))
    if first is None or shape is None or len(shape) >= first.dim():
        return None
    return rows(node, invariant)


def _align(node: fx.Node, operands: Iterable[fx.Node], invariant: Container[fx.Node]) -> Repeats:
    result = _result(node)
    repeated: set[fx.Node] = set()
    for operand in operands:
        value = _value(operand)
        if value is None and operand in invariant:
            continue
        if value is None or result is None:
            return None
        full = value.dim() == result.dim() and _size(value) == _size(result)
        if full and operand in invariant and _size(value) != 1:
            repeated.add(operand)
        elif not full and (operand not in invariant or not _broadcasts(value, result)):
            return None
    return frozenset(repeated)


def _broadcasts(value: Tensor, result: Tensor) -> bool:
    return value.dim() < result.dim() or (value.dim() == result.dim() and _size(value) == 1)


def _value(argument: object) -> Tensor | None:
    value = argument.meta.get("val") if isinstance(argument, fx.Node) else None
    return value if isinstance(value, Tensor) else None


def _result(node: fx.Node) -> Tensor | None:
    """The tensor that a call returns, or the first of several; None without a dimension."""
    value = node.meta.get("val")
    items = _listed(value)
    first = items[0] if items else value
    return first if isinstance(first, Tensor) and first.dim() > 0 else None


def _size(value: Tensor) -> object:
    """The first size, as something that compares without adding a guard to a symbolic size."""
    if value.dim() == 0:
        return None
    size = value.shape[0]
    if not isinstance(size, torch.SymInt):
        return size
    symbol = cast("Any", size).node
    known = symbol.maybe_as_int()
    return symbol.expr if known is None else known


def _argument(node: fx.Node, position: int, keyword: str) -> object:
    return node.args[position] if len(node.args) > position else node.kwargs.get(keyword)


def _listed(given: object) -> list[object] | None:
    """The items of a tuple or list; None for anything else."""
    return list(cast("Sequence[object]", given)) if isinstance(given, (tuple, list)) else None


def _integers(given: object) -> list[int]:
    """The dimensions that an argument names; empty when it names none, or not by number."""
    listed = _listed(given)
    dims = [given] if listed is None else listed
    numbers = [dim for dim in dims if isinstance(dim, int) and not isinstance(dim, bool)]
    return numbers if len(numbers) == len(dims) else []
