"""Those that give the mean and the variance of float32 arrays, each as its users call it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import version
from typing import Any

import numpy as np

# Mean and variance of each channel, in float64.
Moments = tuple[np.ndarray, np.ndarray]

# The channels of all arrays here lie last.
CHANNEL_AXIS = 1
# Elements that are converted to float64 at a time: they stay in the cache of the second level.
PIECE = 2**14


class Exactnorm:
    """Exact sums; mean and variance are their exact values, rounded once."""

    name = "Exactnorm"
    variant = "Moments"
    # Of the largest right value.
    tolerance = 0.0

    def __init__(self) -> None:
        self._exactnorm = importlib.import_module("exactnorm")
        self.version: str = self._exactnorm.__version__
        self.isa: str | None = self._exactnorm.active_target()

    def moments(self, x: np.ndarray) -> Moments:
        sums = self._exactnorm.Moments(x.shape[CHANNEL_AXIS])
        statistics = sums.add(x, channel_axes=CHANNEL_AXIS, threads=1).statistics()
        return statistics.mean, statistics.variance


class OneChannelAtATime:
    """Of what sums one sequence of numbers and knows no channels."""

    def moments(self, x: np.ndarray) -> Moments:
        count = x.shape[0]
        means, variances = np.empty(x.shape[CHANNEL_AXIS]), np.empty(x.shape[CHANNEL_AXIS])
        for channel in range(x.shape[CHANNEL_AXIS]):
            total, squares = self.sums(x[:, channel])
            means[channel] = total / count
            variances[channel] = squares / count - means[channel] ** 2
        return means, variances

    def sums(self, x: np.ndarray) -> tuple[float, float]:
        """Of x and of x * x, which float64 holds exactly."""
        raise NotImplementedError


class Xsum(OneChannelAtATime):
    """Radford Neal's superaccumulators, the large ones, which are the faster ones here."""

    name = "xsum"
    variant = "xsum_large"
    isa = None
    # The sums are exact, the variance is a difference of two of them.
    tolerance = 1e-13

    def __init__(self) -> None:
        self._accumulator = importlib.import_module("xsum").xsum_large
        self.version: str = version("xsum")

    def sums(self, x: np.ndarray) -> tuple[float, float]:
        total, squares = self._accumulator(), self._accumulator()
        for start in range(0, x.size, PIECE):
            piece = x[start : start + PIECE].astype(np.float64)
            total.add(piece)
            squares.add_sqnorm(piece)
        return total.round(), squares.round()


class Bitrep(OneChannelAtATime):
    """Exact sums in Rust, which take numbers of any Python sequence one by one."""

    name = "bitrep"
    variant = "FastSumF64 and DotF64"
    isa = None
    tolerance = 1e-13

    def __init__(self) -> None:
        self._bitrep = importlib.import_module("bitrep")
        self.version: str = version("bitrep")

    def sums(self, x: np.ndarray) -> tuple[float, float]:
        total, squares = self._bitrep.FastSumF64(), self._bitrep.DotF64()
        numbers = x.tolist()
        total.extend(numbers)
        squares.extend(numbers, numbers)
        return total.finish().value(), squares.value()


class Numpy:
    """numpy.mean and numpy.var, which round every partial sum to the data's own type."""

    name = "NumPy"
    variant = "mean and var"
    isa = None
    version = np.__version__
    tolerance = 1e-4

    def moments(self, x: np.ndarray) -> Moments:
        return np.asarray(np.mean(x, axis=0)), np.asarray(np.var(x, axis=0))


class NumpyDouble(Numpy):
    """The same in float64."""

    variant = "mean and var, dtype=float64"
    tolerance = 1e-12

    def moments(self, x: np.ndarray) -> Moments:
        return np.asarray(np.mean(x, axis=0, dtype=np.float64)), np.asarray(np.var(x, axis=0, dtype=np.float64))


def exact_moments(x: np.ndarray) -> Moments:
    """Computed in rationals, and rounded once."""
    means, variances = np.empty(x.shape[CHANNEL_AXIS]), np.empty(x.shape[CHANNEL_AXIS])
    for channel in range(x.shape[CHANNEL_AXIS]):
        total, squares = _exact_sums(x[:, channel])
        mean = total / x.shape[0]
        means[channel] = float(mean)
        variances[channel] = float(squares / x.shape[0] - mean**2)
    return means, variances


def _exact_sums(x: np.ndarray) -> tuple[Fraction, Fraction]:
    """Integers of one exponent at a time: a float32 is 24 bits of them, and half of its square's bits are, too, so that
    int64 holds the sums of more numbers than there are."""
    bits = 24
    fractions, exponents = np.frexp(x.astype(np.float64))
    integers = (fractions * 2**bits).astype(np.int64)
    total, squares = Fraction(0), Fraction(0)
    for exponent in np.unique(exponents).tolist():
        of_exponent = integers[exponents == exponent]
        unit = Fraction(2) ** (exponent - bits)
        products = of_exponent * of_exponent
        high, low = products >> bits, products & (2**bits - 1)
        total += int(of_exponent.sum()) * unit
        squares += (int(high.sum()) * 2**bits + int(low.sum())) * unit**2
    return total, squares


PEERS: dict[str, Callable[[], Any]] = {"xsum": Xsum, "bitrep": Bitrep, "numpy": Numpy, "numpy-float64": NumpyDouble}
