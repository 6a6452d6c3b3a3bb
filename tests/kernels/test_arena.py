"""Memory of large results is used again, and never while anything still lies on it."""

# pyright: basic

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import snncompile
from snncompile import nn as own
from snncompile.ir import neurons
from snncompile.kernels import arena
from snncompile.kernels.arena import IDLE, LEAST, Arena
from tests.kernels.comparison import fused
from tests.kernels.test_operators import LIF


class Looped(nn.Module):
    """A network step by step over a sequence."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.model(x_t) for x_t in x])


LARGE = LEAST // 4
"""Numbers of float32 that the arena takes care of."""


def test_memory_is_used_again_once_its_tensor_is_gone() -> None:
    held = Arena()
    first = held.tensor((2, LARGE), torch.float32)
    place = first.data_ptr()
    del first

    again = held.tensor((LARGE,), torch.float64)

    assert again.data_ptr() == place
    assert held.idle() == 0


def test_memory_under_a_view_is_in_use() -> None:
    held = Arena()
    view = held.tensor((2, LARGE), torch.float32)[1, 5:]

    other = held.tensor((2, LARGE), torch.float32)
    other.fill_(1)
    view.zero_()

    assert other.eq(1).all()


def test_memory_that_autograd_saved_is_in_use() -> None:
    held = Arena()
    saved = held.tensor((LARGE,), torch.float32).fill_(3)
    x = torch.ones(LARGE, requires_grad=True)
    product = x * saved
    del saved

    held.tensor((LARGE,), torch.float32).fill_(0)
    (gradient,) = torch.autograd.grad(product.sum(), x)

    assert gradient.eq(3).all()


def test_a_block_much_larger_than_asked_for_is_left() -> None:
    held = Arena()
    held.tensor((2 * LARGE,), torch.float32)

    held.tensor((LARGE,), torch.float32)

    assert held.idle() == 12 * LARGE  # both


def test_no_more_waits_than_a_limit_and_the_oldest_goes_first() -> None:
    held = Arena()
    block = IDLE // 4
    tensors = [held.tensor((block,), torch.uint8) for _ in range(5)]
    places = [tensor.data_ptr() for tensor in tensors]
    while tensors:
        del tensors[0]

    assert held.idle() == IDLE
    assert {held.tensor((block,), torch.uint8).data_ptr()} <= set(places[1:])
    held.release()
    assert held.idle() == 0


def test_what_comes_back_while_the_arena_is_busy_is_found_later() -> None:
    held = Arena()
    tensor = held.tensor((LARGE,), torch.float32)
    with held._lock:
        del tensor

    assert held.idle() == 4 * LARGE


def test_tensors_that_die_on_other_threads_come_back() -> None:
    held = Arena()
    box = [held.tensor((LARGE,), torch.float32)]
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()

    assert held.idle() == 4 * LARGE


def test_small_and_fake_tensors_are_torchs_own() -> None:
    arena.release()
    arena.empty(torch.empty(0), (LARGE - 1,), torch.float32)
    with FakeTensorMode() as mode:
        fake = arena.empty(mode.from_tensor(torch.empty(1)), (LARGE,), torch.float32)

    assert type(fake) is not Tensor
    assert arena.empty(torch.empty(0), (0, LARGE), torch.float32).numel() == 0


def scanned(current: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes, and the gradient of their sum."""
    membrane = torch.zeros(current.shape[1:])
    (spikes, _), _ = fused(neurons.lif, current, (membrane,), LIF, (0,))
    return spikes, torch.autograd.grad(spikes.sum(), current)[0]


def test_a_call_leaves_what_calls_before_returned() -> None:
    currents = [torch.randn(4, LARGE // 2, requires_grad=True) for _ in range(3)]
    first = [scanned(current) for current in currents]
    copies = [(spikes.clone(), gradient.clone()) for spikes, gradient in first]

    gc.collect()
    again = [scanned(current) for current in currents]

    for found, copied, repeated in zip(first, copies, again, strict=True):
        for tensor, kept, same in zip(found, copied, repeated, strict=True):
            assert torch.equal(tensor, kept)
            assert torch.equal(tensor, same)


@pytest.mark.parametrize("workers", [4])
def test_threads_do_not_share_memory(workers: int) -> None:
    currents = [torch.randn(3, LARGE // 2, requires_grad=True) for _ in range(12)]
    expected = [scanned(current) for current in currents]

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(scanned, currents * 2))

    for (spikes, gradient), (same, equal) in zip(found, expected * 2, strict=True):
        assert torch.equal(spikes, same)
        assert torch.equal(gradient, equal)


def test_a_network_that_runs_parts_again_has_no_memory_wait() -> None:
    model = nn.Sequential(nn.Linear(64, 256), own.LIF())
    x = torch.rand(64, 64, 64)
    for passes, waits in (([], True), (["recompute"], False), ([], True)):
        arena.release()
        fast = snncompile.transform(Looped(model), passes, schedule="layers")
        fast(x).sum().backward()
        fast.reset()
        fast(x).sum().backward()

        assert (arena._arena.idle() > 0) is waits
