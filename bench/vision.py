"""torchvision beside a PyTorch that it was not built for."""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch

_kept: list[torch.library.Library] = []


@functools.cache
def torchvision() -> Any:
    """PyPI's torchvision is built for a PyTorch with CUDA. Beside another one its operators are missing, of which its models
    need none; two have to exist by name when it is imported. timm can be imported after it."""
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        _kept.append(library)
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision
