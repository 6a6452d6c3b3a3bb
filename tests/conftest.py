"""One thread a test process, and a torchvision that imports."""

import torch

from tests import torchvision_shim as torchvision_shim  # noqa: PLC0414

torch.set_num_threads(1)
