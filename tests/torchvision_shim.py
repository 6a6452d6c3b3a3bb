"""Lets torchvision be imported beside a CPU build of torch; import this before a model zoo.

Its compiled operators are missing there, and it fails when it describes them. Two empty schemas
are enough: the zoo's networks call neither operator.
"""

# pyright: basic

import torch

LIBRARY = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
for operator in ("nms", "qnms"):
    LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
