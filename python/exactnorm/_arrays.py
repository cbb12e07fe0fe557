"""What the functions share: arguments that become arrays, and arrays that are returned."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from operator import index
from typing import Any, Literal, SupportsIndex, TypeVar

import numpy as np
import numpy.typing as npt

from exactnorm import _core
from exactnorm._core import Segments, Statistics

Array = npt.NDArray[Any]
ArrayLike = Any  # NumPy's arrays, or objects with __dlpack__ (PyTorch's tensors, for example)
Axes = SupportsIndex | Sequence[SupportsIndex]
Parameter = Any  # an ArrayLike, a number or a sequence of numbers, nested or not
EpsilonPlacement = Literal["variance", "deviation"]
Nonfinite = Literal["propagate", "ignore"]
Activation = Literal["relu", "relu6", "leaky_relu", "silu", "hard_swish"]
Masked = Literal["zero", "normalized", "untouched"]
SegmentsLike = Segments | ArrayLike  # an integer for each row of the first axis
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
            return _from_dlpack(value)
        except (BufferError, RuntimeError, TypeError) as error:
            raise TypeError(f"{name}: cannot be shared by DLPack: {error}") from error
    raise TypeError(f"{name}: is of type {_type_name(value)}; expected a NumPy array or an object with DLPack")


def _from_dlpack(value: Any) -> Array:
    # NumPy has no bfloat16 of its own, and DLPack cannot bring one: PyTorch's tensors are shared as their bits.
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor) or value.dtype != torch.bfloat16:
        return np.from_dlpack(value)
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise TypeError("is bfloat16, which NumPy has from ml_dtypes alone; expected that installed") from None
    return np.from_dlpack(value.view(torch.int16)).view(bfloat16)


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether outputs may be of this dtype."""
    return dtype.isnative and dtype.name in ("float32", "float64", "bfloat16", "float16")


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


def _float64(value: Any) -> float:
    # NumPy makes floats of these, too; as a parameter, each is a mistake.
    if isinstance(value, (bool, np.bool_, np.complexfloating, np.character)):
        raise TypeError
    try:
        return float(value.__float__())
    except (ValueError, RuntimeError):
        raise TypeError from None


def _nested_numbers(value: Any) -> Any:
    if _is_sequence(value) or (isinstance(value, np.ndarray) and value.ndim > 0):
        return [_nested_numbers(element) for element in value]
    try:
        return _float64(value)
    except (AttributeError, TypeError):
        raise TypeError(_type_name(value)) from None


def as_parameter(name: str, value: Parameter) -> Array:
    """The same memory as a NumPy array; numbers, and lists of numbers, as new ones."""
    if isinstance(value, np.ndarray) or (hasattr(value, "__dlpack__") and not isinstance(value, np.generic)):
        return as_array(name, value)
    try:
        numbers = _nested_numbers(value)
    except TypeError as error:
        found = f"has an element of type {error}" if _is_sequence(value) else f"is of type {error}"
        raise TypeError(
            f"{name}: {found}; expected a number, a list of numbers, a NumPy array or an object with DLPack"
        ) from None
    except OverflowError:
        raise ValueError(f"{name}: has a number beyond float64's range; expected numbers within it") from None
    try:
        return np.array(numbers, np.float64)
    except ValueError:
        raise ValueError(f"{name}: has lists of different lengths; expected lists of one length") from None


def spread_parameter(name: str, value: Parameter | None, x: Array, axes: list[int]) -> Array | None:
    """A parameter of x's channels; a single number is that of each."""
    if value is None:
        return None
    array = as_parameter(name, value)
    if array.ndim > 0 or not axes_fit(x, axes):  # the library says which axis does not fit
        return array
    return np.broadcast_to(array, (math.prod(parameter_shape(x, axes)),))


def channel_values(name: str, value: Parameter, channels: int) -> Array:
    """One float64 per channel, of a number, or of an array with as many elements, in row-major order."""
    array = as_parameter(name, value)
    if array.dtype.kind not in "iuf" and not is_floating(array.dtype):
        raise TypeError(f"{name}: has dtype {array.dtype}; expected numbers")
    if array.ndim == 0:
        return np.full(channels, channel_values(name, array.reshape(1), 1)[0])
    if array.size != channels:
        raise ValueError(f"{name}: has shape {array.shape}; expected a number, or one for each of {channels} channels")
    values = array.reshape(-1)
    # NumPy converts in the caller's floating-point environment, which may flush subnormal numbers.
    is_narrow = is_floating(values.dtype) and values.dtype != np.float64
    return _core.float64_values(values) if is_narrow else values.astype(np.float64)


def axes_list(channel_axes: Axes) -> list[int]:
    axes = channel_axes if isinstance(channel_axes, Sequence) else [channel_axes]
    try:
        return [integer("channel_axes", axis) for axis in axes]
    except TypeError:
        raise TypeError(f"channel_axes: is {channel_axes!r}; expected an integer or a sequence of integers") from None


def number(name: str, value: Any) -> float:
    try:
        return float(value.__float__())  # a str has no such method
    except (AttributeError, TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: is {value!r}; expected a number") from None
    except OverflowError:
        raise ValueError(f"{name}: is {value!r}; expected a number within float64's range") from None


def integer(name: str, value: SupportsIndex) -> int:
    try:
        result = index(value)
    except TypeError:
        raise TypeError(f"{name}: is {value!r}; expected an integer") from None
    if not -(2**63) <= result < 2**63:
        raise ValueError(f"{name}: is {result}; expected an integer of 64 bits")
    return result


def of_class(name: str, value: Value, expected: type[Value]) -> Value:
    """The value itself, of which a caller may have thought otherwise."""
    if isinstance(value, expected):
        return value
    raise TypeError(f"{name}: is of type {type(value).__name__}; expected {expected.__name__}")


def named_activation(activation: Activation | None, slope: float) -> tuple[str, float]:
    """As the library takes it."""
    name = "none" if activation is None else of_class("activation", activation, str)
    return name, number("slope", slope)


def optional_array(name: str, value: ArrayLike | None) -> Array | None:
    return None if value is None else as_array(name, value)


def named_mask(mask: ArrayLike | None, masked: Masked) -> tuple[Array, str] | None:
    """As the library takes it."""
    name = of_class("masked", masked, str)
    return None if mask is None else (as_array("mask", mask), name)


def as_segments(segments: SegmentsLike) -> Segments:
    """Of an array of ids, as many segments as the largest one says, along the first axis."""
    if isinstance(segments, Segments):
        return segments
    ids = segments if isinstance(segments, (list, tuple)) else as_array("segments", segments)
    ids = np.asarray(ids)
    if ids.ndim != 1 or (ids.size > 0 and ids.dtype.kind not in "iu"):
        raise TypeError(
            f"segments: is of dtype {ids.dtype} and shape {ids.shape}; expected Segments, or an integer for each row"
        )
    return Segments(ids.tolist(), int(ids.max()) + 1 if ids.size > 0 else 0)


def list_of_statistics(statistics: Statistics | Sequence[Statistics], has_segments: bool) -> list[Statistics]:
    """Those of each segment, or the one of all rows."""
    if not has_segments:
        if isinstance(statistics, Statistics):
            return [statistics]
        raise TypeError(f"statistics: is of type {type(statistics).__name__}; expected Statistics")
    if isinstance(statistics, Sequence) and all(isinstance(found, Statistics) for found in statistics):
        return list(statistics)
    raise TypeError(f"statistics: is of type {_type_name(statistics)}; expected a list of Statistics, one per segment")


def output_like(x: Array, out: ArrayLike | None, masked: Masked) -> Array:
    """`out`, or an array for normalized x, which holds zeros where masked elements are not written."""
    if out is not None:
        return as_array("out", out)
    result = normalized_like(x)
    if masked == "untouched":
        result.fill(0)
    return result


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
    dtype = x.dtype if is_floating(x.dtype) else np.dtype(np.float32)
    return np.empty_like(x, dtype=dtype, subok=False)


def gradient_of(residual: Array | None, dy: Array, out: ArrayLike | None, masked: Masked) -> Array | None:
    """Where a residual's gradient goes: `out`, or an array of the residual's layout and dy's dtype, which holds zeros
    where masked elements are not written."""
    if residual is None:
        if out is not None:
            raise ValueError("out_residual: was given; expected none, as there is no residual")
        return None
    if out is not None:
        return as_array("out_residual", out)
    create = np.zeros_like if masked == "untouched" else np.empty_like
    return create(residual, dtype=dy.dtype, subok=False)


def axes_fit(x: Array, axes: list[int]) -> bool:
    return all(-x.ndim <= axis < x.ndim for axis in axes)


def parameter_shape(x: Array, axes: list[int]) -> tuple[int, ...]:
    """The shape of a parameter, as the channel axes stand in the list."""
    return tuple(x.shape[axis] for axis in axes)
