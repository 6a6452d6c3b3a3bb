"""Modules to build networks of: three neurons to start with, and networks of one time step.

A network is one time step of layers, and a loop::

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.lif = nn.Linear(4, 3), snncompile.nn.LIF(decay=0.9)

        def forward(self, x):  # [T, N, 4]
            snncompile.nn.reset(self)
            return torch.stack([self.lif(self.fc(x_t)) for x_t in x])
"""

from snncompile.nn.attention import SECA
from snncompile.nn.neurons import IF, LIF, LeakyIntegrator, Neuron, reset
from snncompile.nn.one_step import OneStepNet
from snncompile.nn.windowed import Draws, WindowedConvolution, WindowedRecurrence

__all__ = [
    "IF", "LIF", "SECA", "Draws", "LeakyIntegrator", "Neuron", "OneStepNet",
    "WindowedConvolution", "WindowedRecurrence", "reset",
]  # fmt: skip
