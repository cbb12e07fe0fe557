"""Calls the C++ library on NumPy arrays in place, through the C interface of tests/driver."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import numpy as np

MAXIMUM_RANK = 8
# In the order of the library's DType.
DTYPES = [
    "float32", "float64", "bfloat16", "float16", "uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "bool",
]  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


class View(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * MAXIMUM_RANK),
        ("strides", ctypes.c_int64 * MAXIMUM_RANK),
    ]


class Options(ctypes.Structure):
    _fields_ = [
        ("channel_axes", ctypes.c_int64 * MAXIMUM_RANK),
        ("channel_axis_count", ctypes.c_int32),
        ("epsilon_beside_deviation", ctypes.c_int32),
        ("epsilon", ctypes.c_double),
        ("threads", ctypes.c_int32),
    ]


def _load() -> ctypes.CDLL:
    path = os.environ.get("EXACTNORM_DRIVER", ROOT / "build/release/exactnorm_driver.so")
    library = ctypes.CDLL(str(path))
    library.driver_new_statistics.restype = ctypes.c_void_p
    library.driver_new_running_statistics.restype = ctypes.c_void_p
    library.driver_statistics_channels.restype = ctypes.c_int64
    return library


LIBRARY = _load()


def _view(array: np.ndarray | None):
    if array is None:
        return None
    item = array.itemsize
    pad = [0] * (MAXIMUM_RANK - array.ndim)
    return ctypes.byref(
        View(
            array.ctypes.data,
            DTYPES.index(array.dtype.name),
            array.ndim,
            (ctypes.c_int64 * MAXIMUM_RANK)(*array.shape, *pad),
            (ctypes.c_int64 * MAXIMUM_RANK)(*(stride // item for stride in array.strides), *pad),
        )
    )


def options(channel_axes=1, epsilon=1e-5, epsilon_placement="variance", threads=0) -> Options:
    axes = (channel_axes,) if isinstance(channel_axes, int) else tuple(channel_axes)
    return Options(
        (ctypes.c_int64 * MAXIMUM_RANK)(*axes),
        len(axes),
        epsilon_placement == "deviation",
        epsilon,
        threads,
    )


def _double_pointer(array: np.ndarray):
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_double))


def _call(function, *arguments) -> None:
    error = ctypes.create_string_buffer(1024)
    if function(*arguments, error, ctypes.c_size_t(len(error))) != 0:
        raise ValueError(error.value.decode())


class Statistics:
    """The library's Statistics object, and its values as arrays."""

    def __init__(self) -> None:
        self.handle = ctypes.c_void_p(LIBRARY.driver_new_statistics())

    def __del__(self) -> None:
        LIBRARY.driver_delete_statistics(self.handle)

    def _read(self) -> list[np.ndarray]:
        channels = LIBRARY.driver_statistics_channels(self.handle)
        values = [np.empty(channels) for _ in range(3)]
        LIBRARY.driver_read_statistics(self.handle, *map(_double_pointer, values))
        return values

    @property
    def mean(self) -> np.ndarray:
        return self._read()[0]

    @property
    def variance(self) -> np.ndarray:
        return self._read()[1]


def training(x, y, gamma=None, beta=None, **settings) -> Statistics:
    statistics = Statistics()
    _call(
        LIBRARY.driver_training,
        _view(x),
        _view(y),
        _view(gamma),
        _view(beta),
        ctypes.byref(options(**settings)),
        statistics.handle,
    )
    return statistics


def given_statistics(mean, variance, **settings) -> Statistics:
    statistics = Statistics()
    _call(
        LIBRARY.driver_given_statistics,
        _view(mean),
        _view(variance),
        ctypes.byref(options(**settings)),
        statistics.handle,
    )
    return statistics


def inference(x, statistics, y, gamma=None, beta=None, **settings) -> None:
    _call(
        LIBRARY.driver_inference,
        _view(x),
        statistics.handle,
        _view(y),
        _view(gamma),
        _view(beta),
        ctypes.byref(options(**settings)),
    )


def backward(dy, x, statistics, gamma, dx, dgamma, dbeta, frozen=False, **settings) -> None:
    _call(
        LIBRARY.driver_backward,
        _view(dy),
        _view(x),
        statistics.handle,
        _view(gamma),
        _view(dx),
        _view(dgamma),
        _view(dbeta),
        ctypes.c_int32(frozen),
        ctypes.byref(options(**settings)),
    )


class RunningStatistics:
    """The library's RunningStatistics; momentum None is the cumulative average."""

    def __init__(self, channels: int, momentum: float | None) -> None:
        self.handle = ctypes.c_void_p(
            LIBRARY.driver_new_running_statistics(
                ctypes.c_int64(channels), ctypes.c_double(momentum or 0.0), momentum is None
            )
        )
        self.mean = np.zeros(channels)
        self.variance = np.ones(channels)

    def __del__(self) -> None:
        LIBRARY.driver_delete_running_statistics(self.handle)

    def update(self, statistics: Statistics) -> None:
        _call(
            LIBRARY.driver_update_running_statistics,
            self.handle,
            statistics.handle,
            _double_pointer(self.mean),
            _double_pointer(self.variance),
        )
