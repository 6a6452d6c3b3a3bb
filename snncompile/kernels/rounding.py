"""Where eager torch rounds differently from device to device, and a kernel must do so too.

On CUDA, torch divides by a number by multiplying with its reciprocal, which is rounded first.
"""

import torch
from torch import fx

_DIVISIONS = (torch.ops.aten.div.Tensor, torch.ops.aten.div.Scalar)


def round_as_on(device: str, graph: fx.Graph, dtype: torch.dtype) -> None:
    """Rewrite a step's graph, in place, to what torch computes on a device.

    Args:
        device: The device's type, such as "cpu" or "cuda".
        graph: Of aten operations.
        dtype: Of its numbers.
    """
    if device != "cuda":
        return
    for node in graph.nodes:
        if node.target in _DIVISIONS and isinstance(node.args[1], (int, float)):
            reciprocal = torch.tensor(node.args[1], dtype=dtype, device="cpu").reciprocal().item()
            node.target = torch.ops.aten.mul.Tensor
            node.args = (node.args[0], reciprocal)
