"""How many bytes a graph of autograd keeps, as torch's own hooks see them."""

# pyright: basic

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def saved_bytes(run: Callable[[], Any], given: Iterable[Tensor]) -> tuple[int, Any]:
    """Bytes of the storages that a call keeps for its backward pass, each once.

    Args:
        run: The call.
        given: Parameters and inputs, which do not count.

    Returns:
        The bytes, and what the call returned, so that its graph lives.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in given}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    return sum(kept.values()), result
