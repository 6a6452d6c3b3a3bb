"""Operators: what calls past torch's dispatcher and calls through it have in common."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from snncompile.kernels.operator import operator


@operator("snncompile_tests::weighted")
def weighted(x: Tensor, others: Sequence[Tensor], shift: Tensor | None, by: float) -> list[Tensor]:
    """The weighted sum of tensors, and which of its elements are above 0."""
    total = by * x
    for i, other in enumerate(others, start=1):
        total = total + i * other
    total = total if shift is None else total + shift
    return [total, (total > 0).float()]


@weighted.register_fake
def _(x: Tensor, others: Sequence[Tensor], shift: Tensor | None, by: float) -> list[Tensor]:
    return [torch.empty_like(x), torch.empty_like(x)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    _, others, shift, ctx.by = inputs
    ctx.count, ctx.shifted = len(others), shift is not None
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _differentiate(ctx: Any, gradients: list[Tensor]) -> tuple[Any, ...]:
    of_others = [i * gradients[0] for i in range(1, 1 + ctx.count)]
    return ctx.by * gradients[0], of_others, gradients[0] if ctx.shifted else None, None


weighted.register_autograd(_differentiate, _keep)


def _doubled(x: Tensor) -> Tensor:
    doubled: Tensor = weighted(x, [x], None, 1.0)[0]
    return doubled


class Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def operands(count: int) -> tuple[Tensor, list[Tensor], nn.Parameter]:
    x, *others = (torch.randn(4, 3, requires_grad=True) for _ in range(1 + count))
    return x, others, nn.Parameter(torch.randn(4, 3))


def learned(x: Tensor, others: list[Tensor], shift: Tensor | None) -> tuple[Tensor, ...]:
    total, signs = weighted(x, others, shift, 0.5)
    assert not signs.requires_grad
    given = (x, *others) if shift is None else (x, *others, shift)
    return total, signs, *torch.autograd.grad((total * torch.arange(3.0)).sum(), given)


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_both_ways_give_the_same_results_and_gradients(count: int, shifted: bool) -> None:
    x, others, parameter = operands(count)
    shift = parameter if shifted else None

    direct = learned(x, others, shift)
    with Seen() as seen:
        dispatched = learned(x, others, shift)

    assert seen.names.count("snncompile_tests::weighted") == 1
    assert all(map(torch.equal, direct, dispatched))


def test_ordinary_tensors_do_not_meet_the_dispatcher() -> None:
    x, others, shift = operands(2)

    found = weighted(x, others, shift, 0.5)[0]

    assert type(found.grad_fn).__name__ == "weightedBackward"
    with torch.no_grad():
        assert weighted(x, others, shift, 0.5)[0].grad_fn is None
    assert weighted(x.detach(), [], None, 0.5)[0].grad_fn is None


def test_tools_that_watch_operators_see_them_by_name() -> None:
    x, others, shift = operands(1)

    with torch.profiler.profile() as profile:
        weighted(x, others, shift, 0.5)
    graph = make_fx(_doubled)(x.detach()).graph

    assert "snncompile_tests::weighted" in str(profile.key_averages())
    assert "snncompile_tests.weighted.default" in {str(node.target) for node in graph.nodes}


def test_what_is_kept_goes_through_hooks_for_saved_tensors() -> None:
    x, others, shift = operands(1)
    kept: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _, signs = weighted(x, others, shift, 0.5)

    assert len(kept) == 1
    assert torch.equal(kept[0], signs)


def test_torchs_own_check_of_operators() -> None:
    x, others, shift = operands(2)

    weighted_default = torch.ops.snncompile_tests.weighted.default
    torch.library.opcheck(weighted_default, (x, others, shift, 0.5))  # pyright: ignore[reportUnknownMemberType]
