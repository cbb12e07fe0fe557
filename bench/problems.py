"""What is computed, on which numbers, and what the right answers are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

OPERATIONS = ["training", "inference", "backward", "training+backward"]
LAYOUTS = ["nchw", "nhwc", "hwcn", "nc", "cn"]

Shape = tuple[int, ...]

RESNET50: list[Shape] = [
    (32, channels, height, height)
    for channels, height in [
        (64, 112), (64, 56), (256, 56), (128, 28), (512, 28), (256, 14), (1024, 14), (512, 7), (2048, 7),
    ]
]  # fmt: skip
DENSE: list[Shape] = [(256, 1024), (8192, 512), (64, 64)]
SETS: dict[str, list[tuple[Shape, str]]] = {
    "resnet50": [(shape, layout) for shape in RESNET50 for layout in ("nchw", "nhwc")],
    "dense": [(shape, "nc") for shape in DENSE],
    "notebook": [(shape, "hwcn") for shape in RESNET50] + [(shape, "cn") for shape in [(8192, 512), (1024, 256)]],
}

# Of the largest right value. Float32 sums of half a million elements in a simple order keep it; a wrong
# formula, axis or epsilon does not.
TOLERANCES = {"float32": 1e-4, "float64": 1e-10}


@dataclass(frozen=True)
class Epsilon:
    """Added to the variance, as every framework does, or to the deviation, as code written by hand does."""

    value: float = 1e-5
    beside_deviation: bool = False

    def inverse_deviation(self, variance: np.ndarray) -> np.ndarray:
        if self.beside_deviation:
            return 1 / (np.sqrt(variance) + self.value)
        return 1 / np.sqrt(variance + self.value)


@dataclass(frozen=True)
class Case:
    """One row of the results. `shape` is [N, C, H, W] or [N, C] whatever the layout; the layout's letters
    are the axes as they lie in memory, slowest first."""

    operation: str
    layout: str
    shape: tuple[int, ...]
    dtype: str
    threads: int

    @property
    def memory_shape(self) -> tuple[int, ...]:
        return tuple(self.shape["nchw".index(letter)] for letter in self.layout)

    @property
    def channel_axis(self) -> int:
        """The channels' axis in memory order."""
        return self.layout.index("c")

    @property
    def channels(self) -> int:
        return self.shape[1]

    @property
    def bytes_per_tensor(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @property
    def axes_as_shape(self) -> list[int]:
        """What a permutation of an array in memory order has to be given to have the axes of `shape`."""
        return [self.layout.index(letter) for letter in "nchw"[: len(self.shape)]]

    @property
    def axes_as_memory(self) -> list[int]:
        """The inverse of `axes_as_shape`."""
        return ["nchw".index(letter) for letter in self.layout]


class Problem:
    """Input, and the right answers: computed in float64 from the definition, mean first, deviations after."""

    def __init__(self, case: Case) -> None:
        random = np.random.default_rng(2015)
        dtype = np.dtype(case.dtype)
        self.case = case
        self.x = random.standard_normal(case.memory_shape, dtype) * dtype.type(2) + dtype.type(0.5)
        self.dy = random.standard_normal(case.memory_shape, dtype)
        self.gamma = random.uniform(-1, 1.5, case.channels).astype(dtype)
        self.beta = random.standard_normal(case.channels).astype(dtype)
        self.running_mean = random.standard_normal(case.channels).astype(dtype)
        self.running_variance = random.uniform(0.5, 4, case.channels).astype(dtype)

    def answers(self, operation: str, epsilon: Epsilon) -> dict[str, np.ndarray]:
        if operation == "inference":
            mean = self.running_mean.astype(np.float64)
            return {"y": self._normalized(mean, epsilon.inverse_deviation(self.running_variance.astype(np.float64)))}
        mean, variance = self._moments
        inverse_deviation = epsilon.inverse_deviation(variance)
        result = {}
        if "training" in operation:
            result["y"] = self._normalized(mean, inverse_deviation)
        if "backward" in operation:
            if epsilon.beside_deviation:
                raise ValueError("no peer has a backward pass with epsilon beside the deviation")
            result |= self._gradients(mean, inverse_deviation)
        return result

    def _blocks(self):
        """Channels a few at a time, so that wide copies of them stay small."""
        per_channel = self.x.size // self.case.channels
        step = max(16, 2**18 // per_channel)
        for first in range(0, self.case.channels, step):
            yield slice(first, first + step)

    def _by_channel(self, array: np.ndarray) -> np.ndarray:
        return np.moveaxis(array, self.case.channel_axis, 0)

    def _rows(self, array: np.ndarray, block: slice) -> np.ndarray:
        """One channel a row, in float64."""
        values = self._by_channel(array)[block]
        return values.reshape(len(values), -1).astype(np.float64)

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        means = []
        variances = []
        for block in self._blocks():
            x = self._rows(self.x, block)
            mean = x.mean(axis=1)
            x -= mean[:, None]
            means.append(mean)
            variances.append(np.square(x, out=x).mean(axis=1))
        return np.concatenate(means), np.concatenate(variances)

    def _normalized(self, mean: np.ndarray, inverse_deviation: np.ndarray) -> np.ndarray:
        result = np.empty(self.x.shape)
        for block in self._blocks():
            x = self._rows(self.x, block)
            x -= mean[block, None]
            x *= (inverse_deviation * self.gamma)[block, None]
            x += self.beta[block, None]
            target = self._by_channel(result)[block]
            target[...] = x.reshape(target.shape)
        return result

    def _gradients(self, mean: np.ndarray, inverse_deviation: np.ndarray) -> dict[str, np.ndarray]:
        dx = np.empty(self.x.shape)
        dgamma = np.empty(self.case.channels)
        dbeta = np.empty(self.case.channels)
        for block in self._blocks():
            normalized = self._rows(self.x, block)
            normalized -= mean[block, None]
            normalized *= inverse_deviation[block, None]
            dy = self._rows(self.dy, block)
            dbeta[block] = dy.sum(axis=1)
            dgamma[block] = np.einsum("ij,ij->i", dy, normalized)
            count = dy.shape[1]
            normalized *= (dgamma[block] / count)[:, None]
            dy -= normalized
            dy -= (dbeta[block] / count)[:, None]
            dy *= (self.gamma * inverse_deviation)[block, None]
            target = self._by_channel(dx)[block]
            target[...] = dy.reshape(target.shape)
        return {"dx": dx, "dgamma": dgamma, "dbeta": dbeta}


def largest_error(answers: dict[str, np.ndarray], results: dict[str, np.ndarray]) -> float:
    """Over all results, as a part of the largest right value of each; NaN if any is NaN."""
    errors = []
    for name, right in answers.items():
        difference = np.subtract(results[name], right)
        errors.append(np.max(np.abs(difference, out=difference)) / np.max(np.abs(right)))
    return float(np.max(errors))
