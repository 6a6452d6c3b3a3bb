"""Every neuron by kernels of Triton, in its interpreter: the comparisons made for kernels in C."""

# pyright: basic

import pytest

from tests.kernels.interpreter import interpreter as interpreter  # noqa: PLC0414
from tests.kernels.test_every_neuron import *  # noqa: F403

pytestmark = pytest.mark.usefixtures("interpreter")
