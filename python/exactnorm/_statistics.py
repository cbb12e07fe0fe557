"""Statistics of NumPy arrays, or given ones."""

from __future__ import annotations

import math
from typing import overload

import numpy as np

from exactnorm import _core
from exactnorm._arrays import (
    ArrayLike,
    Axes,
    EpsilonPlacement,
    Nonfinite,
    Parameter,
    SegmentsLike,
    as_array,
    as_parameter,
    as_segments,
    axes_fit,
    axes_list,
    number,
    of_class,
    parameter_shape,
    thread_count,
)
from exactnorm._core import Statistics
from exactnorm._moments import Moments, WeightedMoments


@overload
def statistics(
    x: ArrayLike,
    *,
    channel_axes: Axes = 1,
    epsilon: float = 1e-5,
    epsilon_placement: EpsilonPlacement = "variance",
    nonfinite: Nonfinite = "propagate",
    mask: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    segments: None = None,
    threads: int | None = None,
) -> Statistics: ...
@overload
def statistics(
    x: ArrayLike,
    *,
    channel_axes: Axes = 1,
    epsilon: float = 1e-5,
    epsilon_placement: EpsilonPlacement = "variance",
    nonfinite: Nonfinite = "propagate",
    mask: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    segments: SegmentsLike,
    threads: int | None = None,
) -> list[Statistics]: ...
def statistics(
    x: ArrayLike,
    *,
    channel_axes: Axes = 1,
    epsilon: float = 1e-5,
    epsilon_placement: EpsilonPlacement = "variance",
    nonfinite: Nonfinite = "propagate",
    mask: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    segments: SegmentsLike | None = None,
    threads: int | None = None,
) -> Statistics | list[Statistics]:
    """The exact mean and biased variance of each channel of x, each rounded once to float64.

    With `nonfinite="ignore"`, NaN and infinity are left out, and `counts` of the result says how many elements each channel
    has. `mask` is that of `batch_norm`: the statistics are those of what it selects.
    `weights` are those of `batch_norm`, too, and `segments`: the result is a list then. None of the three has a place
    beside another one, nor has `nonfinite="ignore"` beside weights.

    >>> import numpy as np, exactnorm
    >>> exactnorm.statistics(np.array([[1e16, 1.0, -1e16, 3.0]]), channel_axes=0).mean
    array([1.])
    """
    x = as_array("x", x)
    axes = axes_list(channel_axes)
    for name, given in (("mask", mask), ("weights", weights)):
        if given is not None and segments is not None:
            raise ValueError(f"{name}: was given; expected none with segments")
    if weights is not None:
        if mask is not None or nonfinite == "ignore":
            other = "nonfinite='ignore'" if mask is None else "a mask"
            raise ValueError(f"weights: were given with {other}; expected weights of 0 where elements do not count")
        channels = math.prod(parameter_shape(x, axes)) if axes_fit(x, axes) else 0
        weighted = WeightedMoments(channels).add(x, weights, channel_axes=channel_axes, threads=threads)
        return weighted.statistics(epsilon=epsilon, epsilon_placement=epsilon_placement)
    if segments is not None:
        return _core.segmented_statistics(
            x,
            as_segments(segments),
            math.prod(parameter_shape(x, axes)) if axes_fit(x, axes) else 0,
            axes,
            number("epsilon", epsilon),
            of_class("epsilon_placement", epsilon_placement, str),
            of_class("nonfinite", nonfinite, str),
            thread_count(threads),
        )
    return Moments.of(x, channel_axes=channel_axes, mask=mask, threads=threads).statistics(
        epsilon=epsilon, epsilon_placement=epsilon_placement, nonfinite=nonfinite
    )


def given_statistics(
    mean: Parameter,
    variance: Parameter,
    *,
    epsilon: float = 1e-5,
    epsilon_placement: EpsilonPlacement = "variance",
) -> Statistics:
    """Statistics from somebody's running mean and variance, of one element per channel each.

    Arrays, or lists of numbers; a number beside an array is that of all channels. A variance below zero, as published
    networks have some, is taken as it is where variance + epsilon is more than zero.

    Raises ValueError when a mean or a variance is not finite, when variance + epsilon is not more than zero, or, with
    `epsilon_placement="deviation"`, when a variance is negative or both are zero.

    >>> import numpy as np, exactnorm
    >>> exactnorm.given_statistics(np.zeros(3), np.ones(3), epsilon=0).inverse_deviation
    array([1., 1., 1.])
    """
    means, variances = as_parameter("mean", mean), as_parameter("variance", variance)
    if means.ndim == 0:
        means = np.broadcast_to(means, variances.shape)
    elif variances.ndim == 0:
        variances = np.broadcast_to(variances, means.shape)
    return _core.given_statistics(
        means,
        variances,
        number("epsilon", epsilon),
        of_class("epsilon_placement", epsilon_placement, str),
    )
