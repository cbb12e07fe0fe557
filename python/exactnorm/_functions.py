"""Batch normalization of NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, overload

import numpy as np

from exactnorm import _core
from exactnorm._arrays import (
    Activation,
    Array,
    ArrayLike,
    Axes,
    EpsilonPlacement,
    Masked,
    Parameter,
    SegmentsLike,
    as_array,
    as_segments,
    axes_fit,
    axes_list,
    gradient_of,
    list_of_statistics,
    named_activation,
    named_mask,
    number,
    of_class,
    optional_array,
    output_like,
    parameter_shape,
    spread_parameter,
    thread_count,
)
from exactnorm._core import Statistics


class Gradients(NamedTuple):
    """What `batch_norm_backward` returns. dgamma and dbeta have the shape of the channel axes."""

    dx: Array
    dgamma: Array
    dbeta: Array


class GradientsWithResidual(NamedTuple):
    """The same where there is a residual."""

    dx: Array
    dgamma: Array
    dbeta: Array
    d_residual: Array


@overload
def batch_norm(
    x: ArrayLike,
    gamma: Parameter | None = None,
    beta: Parameter | None = None,
    *,
    channel_axes: Axes = 1,
    epsilon: float = 1e-5,
    epsilon_placement: EpsilonPlacement = "variance",
    activation: Activation | None = None,
    slope: float = 0.01,
    residual: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    masked: Masked = "zero",
    weights: ArrayLike | None = None,
    segments: SegmentsLike | None = None,
    out: ArrayLike | None = None,
    return_statistics: Literal[False] = False,
    threads: int | None = None,
) -> Array: ...
@overload
def batch_norm(
    x: ArrayLike,
    gamma: Parameter | None = None,
    beta: Parameter | None = None,
    *,
    channel_axes: Axes = 1,
    epsilon: float = 1e-5,
    epsilon_placement: EpsilonPlacement = "variance",
    activation: Activation | None = None,
    slope: float = 0.01,
    residual: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    masked: Masked = "zero",
    weights: ArrayLike | None = None,
    segments: None = None,
    out: ArrayLike | None = None,
    return_statistics: Literal[True],
    threads: int | None = None,
) -> tuple[Array, Statistics]: ...
@overload
def batch_norm(
    x: ArrayLike,
    gamma: Parameter | None = None,
    beta: Parameter | None = None,
    *,
    channel_axes: Axes = 1,
    epsilon: float = 1e-5,
    epsilon_placement: EpsilonPlacement = "variance",
    activation: Activation | None = None,
    slope: float = 0.01,
    residual: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    masked: Masked = "zero",
    weights: ArrayLike | None = None,
    segments: SegmentsLike,
    out: ArrayLike | None = None,
    return_statistics: Literal[True],
    threads: int | None = None,
) -> tuple[Array, list[Statistics]]: ...
def batch_norm(
    x: ArrayLike,
    gamma: Parameter | None = None,
    beta: Parameter | None = None,
    *,
    channel_axes: Axes = 1,
    epsilon: float = 1e-5,
    epsilon_placement: EpsilonPlacement = "variance",
    activation: Activation | None = None,
    slope: float = 0.01,
    residual: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    masked: Masked = "zero",
    weights: ArrayLike | None = None,
    segments: SegmentsLike | None = None,
    out: ArrayLike | None = None,
    return_statistics: bool = False,
    threads: int | None = None,
) -> Array | tuple[Array, Statistics] | tuple[Array, list[Statistics]]:
    """Normalizes x by its own mean and biased variance: a training step's forward pass.

    y = gamma * (x - mean) / sqrt(variance + epsilon) + beta, with mean and variance over all axes but `channel_axes`;
    with an activation or a residual, activation(that + residual).

    x
        float32, float64, float16, ml_dtypes' bfloat16, integers or bool, of up to 8 dimensions, in any layout,
        read-only or not. Results of 16-bit x are those of x cast to float32, rounded once.
        Never a list: an array made of it would be a copy of all the data.
    gamma, beta
        One value per channel, of any of these dtypes: of the shape of the channel axes, of shape (channels,), or of as
        many dimensions as x with 1 on every other axis, as (hidden, 1) or (1, 1, c, 1). Lists of numbers have shapes,
        too; a number is that of all channels. By default 1 and 0.
    channel_axes
        The axis, or axes, that keep their own statistics: 1 for (N, C), (N, C, H, W); -1 for (N, H, W, C); 0 for
        (hidden, m); 2 for (h, w, c, m); () for one channel of everything.
    epsilon, epsilon_placement
        "variance": sqrt(variance + epsilon), as in frameworks; "deviation": sqrt(variance) + epsilon.
    activation, slope
        "relu", "relu6", "leaky_relu" (of negative slope `slope`), "silu" or "hard_swish", as PyTorch's functions of these
        names are; None for none. y is, bit for bit, what the operations give one after the other.
    residual
        An array of x's shape that is added before the activation.
    mask
        A bool array, true for the elements that count: of x's shape with 1 on the channel axes, as (n, 1, t), or of the
        other axes alone, as (n, t); 1 on an axis stands for all of it. Statistics and y are, bit for bit, those of an array
        that holds these alone, whatever the others hold, NaN included.
    masked
        What y is where the mask is false: "zero", "normalized" by the others' statistics, or "untouched", what `out` held.
    weights
        How much elements count for mean and variance, 0 or more, of any dtype and of a mask's shapes: a weight of 3 is the
        element three times. All of y is written; mask and segments have no place beside them.
    segments
        Rows that have statistics of their own: `Segments`, or an integer for each row of the first axis. Each segment
        becomes, bit for bit, what an array of its rows alone does. With a mask the rows of each follow each other.
    out
        Where to write: of x's shape, of any floating dtype and layout; x itself normalizes in place. By default
        a new array of x's layout, of its dtype if that is a floating one, else float32.
    threads
        At most so many; None for one per core. No result depends on it.

    Returns y, and with `return_statistics` a pair of y and `Statistics`, of segments a list of these.

    Raises ValueError or TypeError, with nothing written, where an argument does not fit.

    >>> import numpy as np, exactnorm
    >>> z = np.array([[1.0, 2.0, 3.0], [10.0, 10.0, 40.0]])  # (hidden, m): features first
    >>> exactnorm.batch_norm(z, channel_axes=0).round(3)
    array([[-1.225,  0.   ,  1.225],
           [-0.707, -0.707,  1.414]])
    """
    x = as_array("x", x)
    target = output_like(x, out, masked)
    axes = axes_list(channel_axes)
    inputs = (
        spread_parameter("gamma", gamma, x, axes),
        spread_parameter("beta", beta, x, axes),
        optional_array("residual", residual),
        named_mask(mask, masked),
        axes,
        number("epsilon", epsilon),
        of_class("epsilon_placement", epsilon_placement, str),
        named_activation(activation, slope),
        thread_count(threads),
    )
    _check_alone("weights", weights, segments)
    if segments is None:
        found = (
            _core.training(x, target, *inputs)
            if weights is None
            else _core.weighted_training(x, as_array("weights", weights), target, *inputs)
        )
        return (target, found) if return_statistics else target
    of_segments = _core.segmented_training(x, as_segments(segments), target, *inputs)
    return (target, of_segments) if return_statistics else target


def batch_norm_inference(
    x: ArrayLike,
    statistics: Statistics | Sequence[Statistics],
    gamma: Parameter | None = None,
    beta: Parameter | None = None,
    *,
    channel_axes: Axes = 1,
    activation: Activation | None = None,
    slope: float = 0.01,
    residual: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    masked: Masked = "zero",
    segments: SegmentsLike | None = None,
    out: ArrayLike | None = None,
    threads: int | None = None,
) -> Array:
    """Normalizes x by given statistics.

    `statistics` are those of `given_statistics`, `RunningStatistics.statistics`, `statistics` or an earlier
    `batch_norm`, with segments one for each; epsilon is in them already. All else is as in `batch_norm`. NaN and infinity in x reach their own
    elements only.

    >>> import numpy as np, exactnorm
    >>> running = exactnorm.given_statistics(np.array([1.0, 2.0]), np.array([4.0, 9.0]), epsilon=0)
    >>> exactnorm.batch_norm_inference(np.array([[3.0, 2.0], [1.0, 8.0]]), running)
    array([[1., 0.],
           [0., 2.]])
    """
    x = as_array("x", x)
    target = output_like(x, out, masked)
    axes = axes_list(channel_axes)
    inputs = (
        target,
        spread_parameter("gamma", gamma, x, axes),
        spread_parameter("beta", beta, x, axes),
        optional_array("residual", residual),
        named_mask(mask, masked),
        axes,
        named_activation(activation, slope),
        thread_count(threads),
    )
    of_segments = list_of_statistics(statistics, segments is not None)
    if segments is None:
        _core.inference(x, of_segments[0], *inputs)
    else:
        _core.segmented_inference(x, as_segments(segments), of_segments, *inputs)
    return target


def _check_alone(name: str, given: object, segments: object) -> None:
    if given is not None and segments is not None:
        raise ValueError(f"{name}: was given; expected none with segments")


def _check_same(name: str, given: object, expected: object) -> None:
    if given != expected:
        raise ValueError(f"{name}: is {given!r}; expected {expected!r}, which is in statistics")


@overload
def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    statistics: Statistics | Sequence[Statistics],
    gamma: Parameter | None = None,
    beta: Parameter | None = None,
    *,
    channel_axes: Axes = 1,
    epsilon: float | None = None,
    epsilon_placement: EpsilonPlacement | None = None,
    frozen: bool = False,
    activation: Activation | None = None,
    slope: float = 0.01,
    residual: None = None,
    mask: ArrayLike | None = None,
    masked: Masked = "zero",
    weights: ArrayLike | None = None,
    segments: SegmentsLike | None = None,
    out: ArrayLike | None = None,
    out_residual: None = None,
    threads: int | None = None,
) -> Gradients: ...
@overload
def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    statistics: Statistics | Sequence[Statistics],
    gamma: Parameter | None = None,
    beta: Parameter | None = None,
    *,
    channel_axes: Axes = 1,
    epsilon: float | None = None,
    epsilon_placement: EpsilonPlacement | None = None,
    frozen: bool = False,
    activation: Activation | None = None,
    slope: float = 0.01,
    residual: ArrayLike,
    mask: ArrayLike | None = None,
    masked: Masked = "zero",
    weights: ArrayLike | None = None,
    segments: SegmentsLike | None = None,
    out: ArrayLike | None = None,
    out_residual: ArrayLike | None = None,
    threads: int | None = None,
) -> GradientsWithResidual: ...
def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    statistics: Statistics | Sequence[Statistics],
    gamma: Parameter | None = None,
    beta: Parameter | None = None,
    *,
    channel_axes: Axes = 1,
    epsilon: float | None = None,
    epsilon_placement: EpsilonPlacement | None = None,
    frozen: bool = False,
    activation: Activation | None = None,
    slope: float = 0.01,
    residual: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    masked: Masked = "zero",
    weights: ArrayLike | None = None,
    segments: SegmentsLike | None = None,
    out: ArrayLike | None = None,
    out_residual: ArrayLike | None = None,
    threads: int | None = None,
) -> Gradients | GradientsWithResidual:
    """Gradients of x, gamma and beta, and of the residual where there is one, from that of y.

    dy
        Of a floating dtype and of x's shape.
    statistics
        What `batch_norm` returned for this x. Epsilon and its placement are in them.
    beta, residual
        Those of the forward pass; they matter where there is an activation, which is taken back at what it was taken
        of. That is computed again: no mask is kept.
    epsilon, epsilon_placement
        To make sure: where given, they have to be those of `statistics`.
    frozen
        Whether mean and variance are constants, as after `batch_norm_inference`, rather than functions of x.
    activation, slope
        Those of the forward pass.
    mask, masked
        Those of the forward pass. dx and d_residual are 0 where y was, and are not written where it was not; dy of what was
        "normalized" has its part in all gradients.
    weights
        Those of the forward pass. The sums behind dgamma and dbeta know no weights: a loss that has them gives dy with them.
    segments
        Those of the forward pass, of which `statistics` are a list then; `frozen` has no place beside them. dgamma and
        dbeta are sums over the segments.
    out
        Where to write dx; x, dy or the residual themselves are allowed. By default a new array of x's layout.
    out_residual
        Where to write d_residual, of dy's dtype; dy or the residual themselves are allowed. By default a new array of the
        residual's layout.

    Returns dx, dgamma and dbeta, the latter two as float32 where dx is of 16 bits, and with a residual d_residual, of
    dy's dtype. Each depends on the exact sums behind it alone; `docs/semantics.md` has the bounds.

    >>> import numpy as np, exactnorm
    >>> x = np.array([[1.0], [2.0], [4.0]])
    >>> y, found = exactnorm.batch_norm(x, return_statistics=True)
    >>> exactnorm.batch_norm_backward(np.array([[1.0], [0.0], [1.0]]), x, found).dbeta
    array([2.])
    """
    dy = as_array("dy", dy)
    x = as_array("x", x)
    of_segments = list_of_statistics(statistics, segments is not None)
    _check_alone("weights", weights, segments)
    if frozen and (segments is not None or weights is not None):
        raise ValueError(f"frozen: is True; expected False with {'weights' if segments is None else 'segments'}")
    for found in of_segments:
        if epsilon is not None:
            _check_same("epsilon", number("epsilon", epsilon), found.epsilon)
        if epsilon_placement is not None:
            _check_same("epsilon_placement", epsilon_placement, found.epsilon_placement)
    axes = axes_list(channel_axes)
    dx = output_like(x, out, masked)
    shape = parameter_shape(x, axes) if axes_fit(x, axes) else ()
    of_parameters = np.float32 if dx.dtype.itemsize == 2 else dx.dtype
    dgamma = np.empty(shape, of_parameters)
    dbeta = np.empty(shape, of_parameters)
    residual = optional_array("residual", residual)
    d_residual = gradient_of(residual, dy, out_residual, masked)
    inputs = (
        spread_parameter("gamma", gamma, x, axes),
        spread_parameter("beta", beta, x, axes),
        residual,
        named_mask(mask, masked),
        dx,
        dgamma,
        dbeta,
        d_residual,
    )
    options = (axes, named_activation(activation, slope), thread_count(threads))
    if weights is not None:
        _core.weighted_backward(dy, x, as_array("weights", weights), of_segments[0], *inputs, *options)
    elif segments is None:
        _core.backward(dy, x, of_segments[0], *inputs, bool(frozen), *options)
    else:
        _core.segmented_backward(dy, x, as_segments(segments), of_segments, *inputs, *options)
    if d_residual is None:
        return Gradients(dx, dgamma, dbeta)
    return GradientsWithResidual(dx, dgamma, dbeta, d_residual)
