"""Batch normalization for PyTorch models: `torch.nn`'s modules and function, computed by exactnorm.

The modules are subclasses of `torch.nn`'s, with the same constructors, parameters, buffers and state_dict; results are the
same bits for any number of threads and any memory format, and are right where the mean is large. The output, and the
gradient, has the memory layout of the input, whatever that is.

Float32, float64, bfloat16 and float16 tensors on the CPU are computed here. Everything else (other devices, other dtypes, DTensors,
torch.func's transforms, arguments that PyTorch refuses) goes to `torch.nn.functional.batch_norm`.

>>> import torch, exactnorm.torch
>>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
>>> exactnorm.torch.convert(model)[1]
BatchNorm2d(8, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
>>> type(model[1])
<class 'exactnorm.torch.BatchNorm2d'>
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("exactnorm.torch needs PyTorch, which is not installed: pip install torch") from error

from exactnorm.torch import functional
from exactnorm.torch._activated import BatchNormAct1d, BatchNormAct2d, BatchNormAct3d
from exactnorm.torch._convert import convert, revert
from exactnorm.torch._enable import disable, enable, is_enabled
from exactnorm.torch._fold import fold
from exactnorm._fold_report import FoldedNorm, FoldReport, RefusedNorm
from exactnorm._inspection import Finding, InspectedNorm, Inspection
from exactnorm.torch._freeze import freeze, unfreeze
from exactnorm.torch._fuse import fuse, unfuse
from exactnorm.torch._inspect import inspect
from exactnorm.torch._modules import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyBatchNorm3d,
)
from exactnorm.torch._recalibrate import recalibrate, update_bn
from exactnorm.torch._recalibration import RecalibratedNorm, Recalibration
from exactnorm.torch._synchronized import SyncBatchNorm, convert_sync_batchnorm

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormAct1d",
    "BatchNormAct2d",
    "BatchNormAct3d",
    "Finding",
    "FoldReport",
    "FoldedNorm",
    "InspectedNorm",
    "Inspection",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "RecalibratedNorm",
    "Recalibration",
    "RefusedNorm",
    "SyncBatchNorm",
    "convert",
    "convert_sync_batchnorm",
    "disable",
    "enable",
    "fold",
    "freeze",
    "functional",
    "fuse",
    "inspect",
    "is_enabled",
    "recalibrate",
    "revert",
    "unfreeze",
    "unfuse",
    "update_bn",
]
