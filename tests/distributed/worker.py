"""What one of several processes does: trains wrapped networks on its share of the batch.

Run by torchrun as ``worker.py FILE``; process 0 writes what it measured to FILE as JSON.
"""

# pyright: basic

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import snncompile
from snncompile.module import Transformed
from tests.distributed.cases import DATA_PARALLEL, SHARDED, Case
from tests.distributed.networks import batch, loss, network

STEPS = 2
WRAPPED: dict[str, tuple[type[nn.Module], ...]] = {
    "whole": (), "blocks": (nn.Sequential,), "layers": (nn.Conv2d, nn.Linear)
}  # fmt: skip
"""Modules that are sharded before the network itself."""


def trained(fast: Transformed, wrapped: nn.Module, share: slice) -> dict[str, Tensor]:
    """Gradients of the first step of training, by name."""
    x, target = batch()
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    gradients: dict[str, Tensor] = {}
    for step in range(STEPS):
        fast.reset()
        optimizer.zero_grad()
        loss(wrapped(x[:, share]), target[share]).backward()  # type: ignore[no-untyped-call]
        if step == 0:
            gradients = {n: whole(p.grad).clone() for n, p in fast.named_parameters()}
        optimizer.step()
    return gradients


def whole(tensor: Any) -> Tensor:
    """A tensor of which this process may hold a part; a gradient that is missing is zero."""
    if tensor is None:
        return torch.zeros(())
    full: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach()


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest, relative to each tensor's largest element."""
    assert found.keys() == expected.keys()
    pairs = [(found[name], value) for name, value in expected.items()]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in pairs)


def compared(case: Case, wrap: Callable[[Transformed], nn.Module]) -> dict[str, Any]:
    """Training on this process's share, against training on the whole batch before wrapping."""
    x, target = batch()
    fast = snncompile.transform(
        network(case.network), list(case.passes), example_inputs=x, schedule=case.schedule
    )
    start = {name: value.clone() for name, value in fast.state_dict().items()}
    gradients = trained(fast, fast, slice(None))
    weights = {name: value.clone() for name, value in fast.state_dict().items()}
    fast.load_state_dict(start)
    fast.zero_grad()
    samples = len(target) // dist.get_world_size()
    first = dist.get_rank() * samples
    found = trained(fast, wrap(fast), slice(first, first + samples))
    after = {name: whole(value) for name, value in fast.state_dict().items()}
    fast.reset()
    held = [p.to_local() if isinstance(p, DTensor) else p for p in fast.parameters()]
    return {
        "gradients": difference(found, gradients),
        "weights": difference(after, weights),
        "moved": difference(weights, start),
        "spread": spread(after),
        "same": [
            p is q for p, q in zip(fast.parameters(), fast.original.parameters(), strict=True)
        ],
        "held": sum(part.numel() for part in held) / sum(p.numel() for p in fast.parameters()),
    }


def spread(weights: dict[str, Tensor]) -> float:
    """How far apart the weights of the processes are."""
    flat = torch.cat([value.flatten() for value in weights.values()])
    others = [torch.empty_like(flat) for _ in range(dist.get_world_size())]
    dist.all_gather(others, flat)
    return max(float((flat - other).abs().max()) for other in others)


def sharded(case: Case) -> Callable[[Transformed], nn.Module]:
    """Applies fully_shard to some modules, then to the network."""

    def wrap(fast: Transformed) -> nn.Module:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for module in fast.modules():
            if isinstance(module, WRAPPED[case.wrapped]):
                fully_shard(module, mesh=mesh)
        fully_shard(fast, mesh=mesh)
        return fast

    return wrap


def main(file: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {case.name: compared(case, DistributedDataParallel) for case in DATA_PARALLEL}
    found |= {case.name: compared(case, sharded(case)) for case in SHARDED}
    if dist.get_rank() == 0:
        file.write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
