"""The library, called through the C interface of the Python tests with everything prepared beforehand.

A call of it from Python then costs about a microsecond, which stays in the measured times.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from problems import Case, Epsilon, Problem

ROOT = Path(__file__).resolve().parents[1]
OUTPUTS = {
    "training": ["y"],
    "inference": ["y"],
    "backward": ["dx", "dgamma", "dbeta"],
    "training+backward": ["y", "dx", "dgamma", "dbeta"],
}


class Memory(Protocol):
    """Who allocates. Both competitors of a row use one allocator, the peer's own: allocators differ in
    whether large arrays come with huge pages, and in what a fresh array costs."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any: ...
    def address(self, tensor: Any) -> int: ...
    def as_array(self, tensor: Any) -> np.ndarray: ...


class NumpyMemory:
    def empty(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        return np.empty(shape, dtype)

    def address(self, tensor: np.ndarray) -> int:
        return tensor.ctypes.data

    def as_array(self, tensor: np.ndarray) -> np.ndarray:
        return tensor


class Tensors:
    """The input of a problem, and outputs that have been touched, in somebody's memory."""

    def __init__(self, problem: Problem, memory: Memory) -> None:
        self.case: Case = problem.case
        self.memory = memory
        channel_shape = (self.case.channels,)
        self.output_shapes = {
            "y": self.case.memory_shape,
            "dx": self.case.memory_shape,
            "dgamma": channel_shape,
            "dbeta": channel_shape,
        }
        self.inputs = {name: self._copy(getattr(problem, name)) for name in ("x", "dy")}
        self.outputs = {
            name: self._copy(np.zeros(shape, self.case.dtype)) for name, shape in self.output_shapes.items()
        }

    def fresh(self, name: str) -> Any:
        return self.memory.empty(self.output_shapes[name], self.case.dtype)

    def results(self) -> dict[str, np.ndarray]:
        return {name: self.memory.as_array(tensor) for name, tensor in self.outputs.items()}

    def _copy(self, values: np.ndarray) -> Any:
        tensor = self.memory.empty(values.shape, values.dtype.name)
        self.memory.as_array(tensor)[...] = values
        return tensor


class Library:
    """The loaded library and what it says of itself."""

    def __init__(self, path: Path) -> None:
        # The tests' module loads what this variable names when it is imported.
        os.environ["EXACTNORM_DRIVER"] = str(path)
        sys.path.append(str(ROOT / "tests/python"))
        import driver

        self.driver = driver
        # The command that was built with the library.
        command = [str(path.parent / "exactnorm"), "info", "--json"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        self.information: dict[str, Any] = json.loads(output)
        # What makes tensors cold.
        self.cold_module = path.parent / "exactnorm_bench_cold.so"

    def view(self, address: int, shape: tuple[int, ...], dtype: str) -> ctypes.Structure:
        """A row-major view."""
        rank = len(shape)
        pad = [0] * (self.driver.MAXIMUM_RANK - rank)
        strides = [int(np.prod(shape[axis + 1 :])) for axis in range(rank)]
        list_type = ctypes.c_int64 * self.driver.MAXIMUM_RANK
        return self.driver.View(
            address, self.driver.DTYPES.index(dtype), rank, list_type(*shape, *pad), list_type(*strides, *pad)
        )


class ExactnormCalls:
    """The library's part in one case."""

    def __init__(
        self, library: Library, problem: Problem, tensors: Tensors, epsilon: Epsilon, tracks_running_statistics: bool
    ) -> None:
        self._driver = library.driver
        self._tensors = tensors
        self._tracks_running_statistics = tracks_running_statistics
        case = problem.case
        self._views = {
            name: library.view(tensors.memory.address(tensor), tuple(tensor.shape), case.dtype)
            for name, tensor in (tensors.inputs | tensors.outputs).items()
        }
        self._parameters = [problem.gamma, problem.beta, problem.running_mean, problem.running_variance]
        for name, array in zip(("gamma", "beta", "mean", "variance"), self._parameters, strict=True):
            self._views[name] = library.view(array.ctypes.data, array.shape, case.dtype)
        self._options = self._driver.options(
            channel_axes=case.channel_axis,
            epsilon=epsilon.value,
            epsilon_placement="deviation" if epsilon.beside_deviation else "variance",
            threads=case.threads,
        )
        self._batch = self._driver.Statistics()
        self._running = self._driver.RunningStatistics(case.channels, 0.1)
        self._given = self._driver.Statistics()
        self._error = ctypes.create_string_buffer(1024)
        self._prepare_arguments()
        # What backward and inference start from.
        self._training()
        self._check(self._driver.LIBRARY.driver_given_statistics(*self._given_arguments))

    def into_outputs(self) -> Callable[[], None]:
        """The case's call, which writes the outputs of `tensors`."""
        return {
            "training": self._training,
            "inference": self._inference,
            "backward": self._backward,
            "training+backward": self._training_and_backward,
        }[self._tensors.case.operation]

    def into_fresh_outputs(self) -> Callable[[], list[Any]]:
        """The case's call, which returns new outputs, as most libraries do; `into_outputs` writes no longer to
        those of `tensors` once this has been called."""
        run = self.into_outputs()
        names = OUTPUTS[self._tensors.case.operation]
        views = [self._views[name] for name in names]

        def allocate_and_run() -> list[Any]:
            outputs = [self._tensors.fresh(name) for name in names]
            for view, output in zip(views, outputs, strict=True):
                view.data = self._tensors.memory.address(output)
            run()
            return outputs

        return allocate_and_run

    def _prepare_arguments(self) -> None:
        of = {name: ctypes.byref(view) for name, view in self._views.items()}
        options = ctypes.byref(self._options)
        error = (self._error, ctypes.c_size_t(len(self._error)))
        doubles = ctypes.POINTER(ctypes.c_double)
        batch, given, running = self._batch.handle, self._given.handle, self._running
        self._given_arguments = (of["mean"], of["variance"], options, given, *error)
        self._training_arguments = (of["x"], of["y"], of["gamma"], of["beta"], options, batch, *error)
        self._inference_arguments = (of["x"], given, of["y"], of["gamma"], of["beta"], options, *error)
        gradients = (of["dx"], of["dgamma"], of["dbeta"])
        is_frozen = ctypes.c_int32(0)
        self._backward_arguments = (of["dy"], of["x"], batch, of["gamma"], *gradients, is_frozen, options, *error)
        running_values = (running.mean.ctypes.data_as(doubles), running.variance.ctypes.data_as(doubles))
        self._running_arguments = (running.handle, batch, *running_values, *error)

    def _check(self, status: int) -> None:
        if status != 0:
            raise ValueError(self._error.value.decode())

    def _training(self) -> None:
        self._check(self._driver.LIBRARY.driver_training(*self._training_arguments))
        if self._tracks_running_statistics:
            self._check(self._driver.LIBRARY.driver_update_running_statistics(*self._running_arguments))

    def _inference(self) -> None:
        self._check(self._driver.LIBRARY.driver_inference(*self._inference_arguments))

    def _backward(self) -> None:
        self._check(self._driver.LIBRARY.driver_backward(*self._backward_arguments))

    def _training_and_backward(self) -> None:
        self._training()
        self._backward()
