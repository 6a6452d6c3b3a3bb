"""Lets torchvision be imported beside a CPU build of torch; import this before a model zoo.

Its compiled operators are missing there, and it fails when it describes them. Two empty schemas
are enough: the zoo's networks call neither operator.
"""

import torch

LIBRARY = torch.library.Library("torchvision", "DEF")
LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
LIBRARY.define(
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
)
