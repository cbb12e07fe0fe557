"""What the functions share: arguments that become arrays, and arrays that are returned."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, Literal, SupportsIndex, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ArrayLike = Any  # NumPy's arrays, or objects with __dlpack__ (PyTorch's tensors, for example)
Axes = SupportsIndex | Sequence[SupportsIndex]
EpsilonPlacement = Literal["variance", "deviation"]
Value = TypeVar("Value")


def as_array(name: str, value: ArrayLike) -> Array:
    """The same memory as a NumPy array."""
    if isinstance(value, np.ndarray):
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{name}: is a masked array; expected one without a mask, as all elements count")
        return value
    if hasattr(value, "__dlpack__"):
        if getattr(value, "is_neg", bool)():  # PyTorch hands out the memory of -value, without saying so
            raise TypeError(f"{name}: is a negative view; expected a tensor in memory (resolve_neg())")
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError) as error:
            raise TypeError(f"{name}: cannot be shared by DLPack: {error}") from error
    raise TypeError(f"{name}: is of type {type(value).__name__}; expected a NumPy array or an object with DLPack")


def optional_array(name: str, value: ArrayLike | None) -> Array | None:
    return None if value is None else as_array(name, value)


def axes_list(channel_axes: Axes) -> list[int]:
    try:
        return [index(axis) for axis in (channel_axes if isinstance(channel_axes, Sequence) else [channel_axes])]
    except TypeError:
        raise TypeError(f"channel_axes: is {channel_axes!r}; expected an integer or a sequence of integers") from None


def number(name: str, value: Any) -> float:
    try:
        return float(value.__float__())  # a str has no such method
    except (AttributeError, TypeError):
        raise TypeError(f"{name}: is {value!r}; expected a number") from None


def integer(name: str, value: SupportsIndex) -> int:
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{name}: is {value!r}; expected an integer") from None


def of_class(name: str, value: Value, expected: type[Value]) -> Value:
    """The value itself, of which a caller may have thought otherwise."""
    if isinstance(value, expected):
        return value
    raise TypeError(f"{name}: is of type {type(value).__name__}; expected {expected.__name__}")


def thread_count(threads: int | None) -> int:
    """As the library takes it: 0 stands for its default."""
    if threads is None:
        return 0
    threads = integer("threads", threads)
    if threads < 1:
        raise ValueError(f"threads: is {threads}; expected 1 or more, or None")
    return min(threads, 2**31 - 1)


def normalized_like(x: Array) -> Array:
    """An array for normalized x: of its layout, and of its dtype if that is a floating one, else float32."""
    dtype = x.dtype if x.dtype in (np.float32, np.float64) else np.dtype(np.float32)
    return np.empty_like(x, dtype=dtype, subok=False)


def parameter_shape(x: Array, axes: list[int]) -> tuple[int, ...]:
    """The shape of a parameter, as the channel axes stand in the list."""
    return tuple(x.shape[axis] for axis in axes)
