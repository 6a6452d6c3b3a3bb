"""Channel attention for the currents of spiking layers."""

import torch
from torch import Tensor, nn

from snncompile.errors import InputError


class SECA(nn.Module):
    """Scales every channel by a gate that neighbouring channels decide.

    With p the mean of a channel over all positions, the channel is multiplied by
    sigmoid(conv1d(p)), the convolution running over the channels. It stands after a convolution
    and its BatchNorm, in front of a neuron.

    The spiking form of Wang et al., ECA-Net, CVPR 2020, arXiv:1910.03151, as Hao et al., 2024,
    arXiv:2410.07547, use it. Of their second form, which also mixes currents of two steps, no
    description precise enough was found; it is not offered.

    Args:
        reach: How many neighbouring channels decide, an odd number.

    Raises:
        InputError: The reach is even.
    """

    def __init__(self, reach: int = 5) -> None:
        super().__init__()
        if reach % 2 == 0:
            raise InputError(f"reach={reach} is even; a gate needs as many channels on both sides")
        self.conv = nn.Conv1d(1, 1, reach, padding=reach // 2, bias=False)

    def forward(self, current: Tensor) -> Tensor:
        """Gate the channels.

        Args:
            current: [N, C, ...], with at least one axis of positions.

        Returns:
            The gated current, of the same shape.
        """
        pooled = current.mean(dim=tuple(range(2, current.dim())))
        gate = torch.sigmoid(self.conv(pooled.unsqueeze(1))).transpose(1, 2)
        for _ in range(current.dim() - 3):
            gate = gate.unsqueeze(-1)
        return current * gate
