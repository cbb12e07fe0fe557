"""How far statistics are from others."""

from __future__ import annotations

import numpy as np

from exactnorm._surds import Float64


def drift(mean: Float64, old_mean: Float64, old_variance: Float64, epsilon: float) -> Float64:
    """From the old mean to the new one, channel by channel, in old deviations, sqrt(variance + epsilon)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((mean - old_mean) / np.sqrt(old_variance + epsilon))


def deviation_ratio(variance: Float64, old_variance: Float64, epsilon: float) -> Float64:
    """Each channel's deviation by its old one, both with epsilon."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt((variance + epsilon) / (old_variance + epsilon)))
