"""Batch normalization for CPUs whose results depend on the data alone.

The same bits come out for any number of threads, any instruction set, any memory layout and any split of the data.
`statistics` and `Moments` give the exact mean and variance, rounded once. Arrays are NumPy's, or anything with DLPack, in any layout; nothing
is copied. All functions release the global interpreter lock and may be called from several threads at once, and threads
may share all objects; an array that one thread changes while another's call reads it is theirs to guard.

>>> import numpy as np
>>> import exactnorm
>>> x = np.random.default_rng(0).normal(1e6, 1, (32, 4, 28, 28)).astype(np.float32)
>>> y = exactnorm.batch_norm(x)  # channels on axis 1
>>> bool(abs(y.mean()) < 1e-6), bool(abs(y.std() - 1) < 1e-4)
(True, True)
"""

from exactnorm._core import Segments, Statistics, active_target, default_threads
from exactnorm._core import version as _version
from exactnorm._fold import FoldedLayer, fold
from exactnorm._functions import (
    Gradients,
    GradientsWithResidual,
    batch_norm,
    batch_norm_backward,
    batch_norm_inference,
)
from exactnorm._layer import BatchNorm
from exactnorm._moments import Moments, WeightedMoments
from exactnorm._renormalization import RenormalizationLimits, RenormalizationSchedule
from exactnorm._normalization import Normalization
from exactnorm._running import RunningStatistics
from exactnorm._statistics import given_statistics, statistics

__version__ = _version()

__all__ = [
    "BatchNorm",
    "FoldedLayer",
    "Gradients",
    "GradientsWithResidual",
    "Moments",
    "Normalization",
    "RenormalizationLimits",
    "RenormalizationSchedule",
    "RunningStatistics",
    "Segments",
    "Statistics",
    "WeightedMoments",
    "active_target",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "default_threads",
    "fold",
    "given_statistics",
    "statistics",
]
