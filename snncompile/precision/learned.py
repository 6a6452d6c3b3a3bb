"""What multi-precision neurons learn, each of them: decays, thresholds, a membrane BatchNorm.

Hao et al., 2024, arXiv:2410.07547. A step that comes after the last one with parameters of its
own uses that one's.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class StepParameters(nn.Module):
    """A decay and a threshold per step, each the sigmoid of a parameter.

    Attributes:
        decay: [steps], before the sigmoid; None for a neuron without a membrane.
        threshold: [steps], before the sigmoid.

    Args:
        steps: How many steps have their own.
        decay: Where every decay starts, between 0 and 1; None for none.
        threshold: Where every threshold starts, between 0 and 1.
    """

    decay: nn.Parameter | None

    def __init__(self, steps: int, decay: float | None, threshold: float) -> None:
        super().__init__()
        self.register_parameter("decay", None if decay is None else _logits(decay, steps))
        self.threshold = _logits(threshold, steps)


class MembraneNorm(nn.Module):
    """A share of the membrane plus a share of its BatchNorm, which every step has for itself.

    m becomes sigmoid(kept) m + sigmoid(normed) BatchNorm_t(m) at step t.

    Attributes:
        weight: Of the BatchNorms, [steps, C]; so are bias, running_mean and running_var.
        eps: Of the BatchNorms; so is momentum.

    Args:
        steps: How many steps have their own.
        channels: The size of the membrane's second axis, C.
    """

    eps = 1e-5
    momentum = 0.1
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, steps: int, channels: int) -> None:
        super().__init__()
        self.kept = nn.Parameter(torch.zeros(()))
        self.normed = nn.Parameter(torch.zeros(()))
        self.weight = nn.Parameter(torch.ones(steps, channels))
        self.bias = nn.Parameter(torch.zeros(steps, channels))
        self.register_buffer("running_mean", torch.zeros(steps, channels))
        self.register_buffer("running_var", torch.ones(steps, channels))

    def forward(self, membrane: Tensor, step: Tensor | None = None) -> Tensor:
        """Mix the membrane with its BatchNorm; in training mode that step's statistics move.

        Args:
            membrane: Before it fires, [N, C, ...].
            step: The number of the step, [1]; the first if not given.

        Returns:
            The mixed membrane, of the same shape.
        """
        row = (
            step if step is not None else torch.zeros(1, dtype=torch.int64, device=membrane.device)
        )
        mean, variance, weight, bias = (
            value.index_select(0, row).squeeze(0)
            for value in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        normed = functional.batch_norm(
            membrane, mean, variance, weight, bias, self.training, self.momentum, self.eps
        )
        if self.training:
            with torch.no_grad():
                self.running_mean.index_copy_(0, row, mean.unsqueeze(0))
                self.running_var.index_copy_(0, row, variance.unsqueeze(0))
        kept, share = torch.sigmoid(self.kept), torch.sigmoid(self.normed)
        return kept * membrane + share * normed

    def affine(self) -> tuple[Tensor, Tensor]:
        """What it is in evaluation mode: the scale and the offset of m, each [steps, C]."""
        share = torch.sigmoid(self.normed)
        scale = self.weight / torch.sqrt(self.running_var + self.eps)
        return torch.sigmoid(self.kept) + share * scale, share * (
            self.bias - scale * self.running_mean
        )


def _logits(value: float, steps: int) -> nn.Parameter:
    return nn.Parameter(torch.full((steps,), math.log(value / (1 - value))))
