"""Folded layers and models beside the ones that they are made of."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from exactnorm import FoldedLayer
from exactnorm._comparison import TOLERANCE, Outputs, judged
from exactnorm.onnx._graph import Array, Graph, attribute, is_large
from exactnorm.onnx._layers import LayerStep

if TYPE_CHECKING:
    from exactnorm.onnx._fold import _Chain

# For axes of inputs whose size a model leaves open; the first one that the model can be run with.
_open_sizes = (2, 16, 64, 224)


def differences(graph: Graph, chain: _Chain, folded: FoldedLayer) -> tuple[float, float]:
    """The bound of the folded layer's coefficients, and what is measured in float64 on random values: the largest of all channels.

    Raises ValueError where that is beyond the bound.
    """
    random = np.random.default_rng(1)
    layer = chain.layer
    if chain.flattening is not None and chain.before:
        channels = chain.before[0][1].channels
        x = random.normal(size=(8, channels, layer.inputs // channels))
    elif layer.kind == "linear":
        x = random.normal(size=(8, layer.inputs))
    else:
        x = random.normal(size=(2, layer.inputs, *(size + 1 for size in layer.weight.shape[2:])))
    steps = [step for step, _ in chain.before]
    steps += [chain.flattening] if chain.flattening is not None else []
    expected = x
    for step in [*steps, layer.node, *(step for step, _ in chain.after)]:
        expected = _step(graph, step, expected, layer)
    flat = x.reshape(len(x), -1) if chain.flattening is not None else x
    found = _layer(layer, flat, folded.weight.astype(np.float64), folded.bias.astype(np.float64))
    return folded.checked(flat, found, expected)


def _step(graph: Graph, node: onnx.NodeProto, x: Array, layer: LayerStep) -> Array:
    """A step on its own, in float64, by its definition; layers without padding, strides and dilation, of which folds do not depend."""
    names = node.input[1:] if node.op_type == "BatchNormalization" else node.input
    constants = [graph.constant(name) for name in names if name]
    given = [constant.astype(np.float64) for constant in constants if constant is not None]
    if node.op_type == "BatchNormalization":
        scale, bias, mean, variance = (value.reshape(-1, *(1,) * (x.ndim - 2)) for value in given)
        normalized: Array = (x - mean) / np.sqrt(variance + float(attribute(node, "epsilon", np.float32(1e-5)))) * scale + bias
        return normalized
    if node.op_type == "Flatten":
        return x.reshape(len(x), -1)
    if node is layer.node:
        bias = np.zeros(layer.outputs) if layer.bias is None else layer.bias.astype(np.float64)
        return _layer(layer, x, layer.weight.astype(np.float64), bias)
    (constant,) = given
    return _operations[node.op_type](x, constant)


_operations: dict[str, Callable[[Array, Array], Array]] = {"Mul": np.multiply, "Add": np.add, "Sub": np.subtract}


def _layer(layer: LayerStep, x: Array, weight: Array, bias: Array) -> Array:
    if layer.kind == "linear":
        product: Array = x @ weight.T + bias
        return product
    kernel, groups = weight.shape[2:], layer.groups
    grouped = x.reshape(len(x), groups, -1, *x.shape[2:])
    # (groups, inputs or outputs, outputs or inputs, ...)
    parts = weight.reshape(groups, -1, *weight.shape[1:])
    is_transposed = layer.kind == "conv_transpose"
    sizes = [size + (k - 1 if is_transposed else 1 - k) for size, k in zip(x.shape[2:], kernel, strict=True)]
    y = np.zeros((len(x), groups, layer.outputs // groups, *sizes))
    for tap in np.ndindex(*kernel):
        of_tap = parts[(..., *tap)]
        if is_transposed:
            place = _slices(tap, x.shape[2:])
            y[place] += np.einsum("ngi...,gio->ngo...", grouped, of_tap)
        else:
            y += np.einsum("ngi...,goi->ngo...", grouped[_slices(tap, sizes)], of_tap)
    return y.reshape(len(x), layer.outputs, *sizes) + bias.reshape(-1, *(1,) * len(sizes))


def _slices(starts: tuple[int, ...], sizes: Sequence[int]) -> Any:
    """Of the last axes."""
    return (..., *(slice(start, start + size) for start, size in zip(starts, sizes, strict=True)))


def compare_models(
    model: onnx.ModelProto, folded: onnx.ModelProto, inputs: Mapping[str, Array] | None, dtypes: set[str]
) -> tuple[float | None, tuple[float, float] | None]:
    """The largest difference of outputs by the largest output, by ONNX Runtime, of models with layers of such dtypes; None where it
    is not installed or does not run the given model, and where no output is of floating-point numbers. Where the difference is more than
    rounding explains, the errors of both by float64, too. Raises ValueError where the folded model's is more than rounding explains, and the larger one."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None, None
    for given in [dict(inputs)] if inputs is not None else _random_inputs(model):
        try:
            expected = _run(model, given)
            break
        except Exception as error:
            if inputs is not None:
                raise ValueError(f"inputs: cannot be run by ONNX Runtime: {error}") from error
    else:
        return None, None
    try:
        found = _run(folded, given)
    except Exception as error:
        raise ValueError(f"model: is refused by ONNX Runtime when it is folded: {error}") from error
    for new, old in zip(found, expected, strict=True):
        if isinstance(old, np.ndarray) and new.shape != old.shape:
            raise ValueError(f"model: gives an output of shape {new.shape} when it is folded; expected {old.shape}")
    return judged(_outputs_in(found), _outputs_in(expected), dtypes, lambda: _outputs_in_float64(model, given), "model: gives")


def session_of(model: onnx.ModelProto) -> Any:
    """ONNX Runtime's, which computes each step as it stands."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Or it folds, too.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = {"sess_options": options, "providers": ["CPUExecutionProvider"]}
    if not is_large(model):
        return onnxruntime.InferenceSession(model.SerializeToString(), **given)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        copy = onnx.ModelProto()
        copy.CopyFrom(model)  # its tensors move to the file
        onnx.save_model(copy, path, save_as_external_data=True, location="model.data")
        return onnxruntime.InferenceSession(path, **given)


def _run(model: onnx.ModelProto, inputs: dict[str, Array]) -> list[Any]:
    outputs: list[Any] = session_of(model).run(None, inputs)
    return outputs


def _outputs_in(values: Sequence[Any]) -> Outputs:
    """All arrays of floating-point numbers."""
    return [
        (value.dtype.name, value.astype(np.float64))
        for value in values
        if isinstance(value, np.ndarray) and value.dtype.name in TOLERANCE
    ]


def _outputs_in_float64(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> Outputs:
    """By onnx's reference."""
    wide = {name: value.astype(np.float64) if value.dtype.name in TOLERANCE else value for name, value in inputs.items()}
    values: Any = ReferenceEvaluator(_in_float64(model)).run(None, wide)
    return _outputs_in(values)


def _in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """With constants, inputs and casts of floating-point numbers in float64."""
    narrow = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)

    def widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
        if tensor.data_type not in narrow:
            return tensor
        return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name)

    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.value_info[:]
    for tensor in wide.graph.initializer:
        tensor.CopyFrom(widened(tensor))
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type in narrow:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in wide.graph.node:
        for found in node.attribute:
            if node.op_type == "Constant" and found.name == "value":
                found.t.CopyFrom(widened(found.t))
            elif node.op_type == "Cast" and found.name == "to" and found.i in narrow:
                found.i = TensorProto.DOUBLE
    return wide


def _sizes(axes: Sequence[Any], open_size: int) -> list[int]:
    """A batch is small where its size is open."""
    return [axis.dim_value or (open_size if place else _open_sizes[0]) for place, axis in enumerate(axes)]


def _random_inputs(model: onnx.ModelProto) -> Iterator[dict[str, Array]]:
    """For a model whose inputs are all float tensors of a known rank, with several sizes for axes that are open."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    kinds = [value.type.tensor_type for value in inputs]
    if any(
        kind.elem_type not in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16) or not kind.HasField("shape")
        for kind in kinds
    ):
        return
    is_open = any(not size.dim_value for kind in kinds for size in kind.shape.dim)
    for open_size in _open_sizes if is_open else _open_sizes[:1]:
        random = np.random.default_rng(2)
        yield {
            value.name: random.normal(size=_sizes(kind.shape.dim, open_size)).astype(
                helper.tensor_dtype_to_np_dtype(kind.elem_type)
            )
            for value, kind in zip(inputs, kinds, strict=True)
        }
