"""Pooling kernels give torch's own results, bit for bit, and its gradients."""

# pyright: basic

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from snncompile.errors import SnncompileError
from snncompile.kernels.pooling import Kind, Window, fits, pool
from snncompile.runtime.pooling import pooled_layer

SHAPES = [(3, 5, 8, 8), (2, 3, 7, 9), (1, 1, 2, 3), (2, 64, 4, 4), (1, 3, 40, 3)]
WINDOWS = [(2, 2), (2, 3), (1, 2), (2, 1)]
TORCH: dict[str, Callable[..., Tensor]] = {
    "max": functional.max_pool2d,
    "mean": functional.avg_pool2d,
}

kinds = pytest.mark.parametrize("kind", TORCH)
orders = pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)


def spikes(*shape: int, dtype: torch.dtype) -> Tensor:
    return (torch.randn(*shape, dtype=dtype) > 0.5).to(dtype)


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    result = function(x)
    torch.manual_seed(2)
    flowing = torch.randn(result.shape, dtype=x.dtype)
    return result.detach(), torch.autograd.grad(result, x, flowing)[0]


@kinds
@orders
@pytest.mark.parametrize("make", [torch.randn, spikes], ids=["real", "spikes"])
@pytest.mark.parametrize("size", WINDOWS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_and_gradients_are_those_of_torch(
    kind: str,
    order: torch.memory_format,
    make: Callable[..., Tensor],
    size: tuple[int, int],
    shape: tuple[int, ...],
) -> None:
    window = Window(kind, *size)  # type: ignore[arg-type]
    for dtype in (torch.float32, torch.float64):
        x = make(shape, dtype=dtype).contiguous(memory_format=order)
        assert fits(x, window)

        found = gradient(lambda x: pool(x, window), x)

        expected = gradient(lambda x: TORCH[kind](x, size), x)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert found[0].stride() == expected[0].stride()


@kinds
@orders
def test_nan_and_infinity_go_where_torch_sends_them(kind: str, order: torch.memory_format) -> None:
    values = torch.tensor([0.0, 1.0, -1.0, torch.nan, torch.inf, -torch.inf, -0.0])
    x = values[torch.randint(7, (4, 6, 8, 8))].contiguous(memory_format=order)
    window = Window(kind, 2, 2)  # type: ignore[arg-type]

    found = gradient(lambda x: pool(x, window), x)

    expected = gradient(lambda x: TORCH[kind](x, 2), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@kinds
def test_an_input_that_is_dense_in_no_order_is_pooled(kind: str) -> None:
    x = torch.randn(4, 6, 16, 8)[:, ::2, ::2]
    window = Window(kind, 2, 2)  # type: ignore[arg-type]

    torch.testing.assert_close(pool(x, window), TORCH[kind](x, 2), rtol=0, atol=0)


@kinds
def test_threads_share_the_images(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    x = torch.randn(7, 32, 32, 32)
    window = Window(kind, 2, 2)  # type: ignore[arg-type]

    found = gradient(lambda x: pool(x, window), x)

    torch.testing.assert_close(found, gradient(lambda x: TORCH[kind](x, 2), x), rtol=0, atol=0)


@kinds
def test_torch_knows_the_operator(kind: str) -> None:
    x = torch.randn(2, 3, 4, 6, requires_grad=True)

    torch.library.opcheck(torch.ops.snncompile.window_pool.default, (x, kind, 2, 2))


@kinds
def test_there_is_no_second_derivative(kind: str) -> None:
    x = torch.randn(2, 3, 4, 6, requires_grad=True)
    y = pool(x, Window(kind, 2, 2))  # type: ignore[arg-type]
    flowing = torch.ones_like(y, requires_grad=True)
    (first,) = torch.autograd.grad(y, x, flowing, create_graph=True)

    with pytest.raises(SnncompileError, match="no second derivative"):
        torch.autograd.grad(first.sum(), flowing)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, 4, 4),
        torch.zeros(0, 2, 4, 4),
        torch.zeros(1, 2, 1, 4),
        torch.zeros(1, 2, 4, 4, dtype=torch.bfloat16),
        torch.zeros(1, 2, 4, 4, device="meta"),
    ],
    ids=["three-dimensional", "empty", "smaller than a window", "bfloat16", "meta"],
)
def test_what_kernels_do_not_take(x: Tensor) -> None:
    assert not fits(x, Window("max", 2, 2))


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(3, 2),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, padding=1),
        nn.AvgPool2d(2, divisor_override=3),
        nn.AvgPool2d((2, 3), (2, 3)),
        nn.MaxPool2d(2),
    ],
    ids=repr,
)
def test_a_layer_of_any_settings_is_what_it_was(layer: nn.MaxPool2d | nn.AvgPool2d) -> None:
    x = torch.randn(64, 64, 7, 7)
    kind: Kind = "max" if isinstance(layer, nn.MaxPool2d) else "mean"

    found = pooled_layer(layer, None, kind, x)

    torch.testing.assert_close(found, layer(x), rtol=0, atol=0)


def test_hooks_of_a_layer_run() -> None:
    layer = nn.MaxPool2d(2)
    seen: list[int] = []
    layer.register_forward_hook(lambda *_: seen.append(1))

    pooled_layer(layer, None, "max", torch.randn(64, 128, 4, 4))

    assert seen == [1]
