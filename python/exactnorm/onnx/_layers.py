"""ONNX's layers and normalizations as exactnorm.fold takes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from exactnorm import Normalization
from exactnorm._arrays import is_floating
from exactnorm._fold import Layer
from exactnorm.onnx._graph import Array, Graph, attribute

_standard = ("", "ai.onnx")
least_opset = 7


class Unfit(Exception):
    """Why a normalization is left as it is."""


def is_op(node: onnx.NodeProto | None, *kinds: str) -> bool:
    return node is not None and node.domain in _standard and node.op_type in kinds


def name_of(node: onnx.NodeProto) -> str:
    """Its name, or that of its output where it has none."""
    name: str | bytes = node.name or node.output[0]
    return name if isinstance(name, str) else name.decode("utf-8", "replace")  # of damaged files


@dataclass
class LayerStep:
    """A layer whose parameters are constants. `weight` is as exactnorm.fold wants it."""

    node: onnx.NodeProto
    kind: Layer
    groups: int
    weight: Array
    bias: Array | None
    is_transposed: bool  # whether the node has the weight the other way round
    rank: int | None  # of its output

    @property
    def outputs(self) -> int:
        is_transposed = self.kind == "conv_transpose"
        return int(self.weight.shape[1] * self.groups if is_transposed else self.weight.shape[0])

    @property
    def inputs(self) -> int:
        is_transposed = self.kind == "conv_transpose"
        return int(self.weight.shape[0] if is_transposed else self.weight.shape[1] * self.groups)

    @property
    def has_channels_last(self) -> bool:
        return self.kind == "linear"


def layer_of(graph: Graph, node: onnx.NodeProto) -> LayerStep:
    """Raises Unfit for what is none."""
    if not is_op(node, "Conv", "ConvTranspose", "Gemm", "MatMul"):
        raise Unfit(f"{node.op_type} is no layer that it can be a part of")
    weight = graph.constant(node.input[1])
    if weight is None:
        raise Unfit(f"the weight of {name_of(node)} is not a constant")
    if not is_floating(weight.dtype):
        raise Unfit(f"the weight of {name_of(node)} is {weight.dtype}")
    bias = None
    if node.op_type != "MatMul" and len(node.input) > 2 and node.input[2]:
        bias = graph.constant(node.input[2])
        if bias is None:
            raise Unfit(f"the bias of {name_of(node)} is not a constant")
        if not is_floating(bias.dtype):
            raise Unfit(f"the bias of {name_of(node)} is {bias.dtype}")
    if node.op_type in ("Conv", "ConvTranspose"):
        if weight.ndim < 3:
            raise Unfit(f"the weight of {name_of(node)} has {weight.ndim} axes")
        kind: Layer = "conv" if node.op_type == "Conv" else "conv_transpose"
        return LayerStep(node, kind, int(attribute(node, "group", 1)), weight, bias, False, weight.ndim)
    if weight.ndim != 2:
        raise Unfit(f"the weight of {name_of(node)} has {weight.ndim} axes")
    is_transposed = node.op_type == "MatMul" or not attribute(node, "transB", 0)
    if is_transposed:
        weight = weight.T
    if node.op_type == "MatMul":
        return LayerStep(node, "linear", 1, weight, None, True, graph.ranks.get(node.output[0]))
    if attribute(node, "alpha", 1.0) != 1 or (bias is not None and attribute(node, "beta", 1.0) != 1):
        raise Unfit(f"{name_of(node)} has a factor of its own")
    if bias is not None:
        if bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1) or bias.shape[-1:] not in ((), (1,), weight.shape[:1]):
            raise Unfit(f"the bias of {name_of(node)} has shape {bias.shape}")
        bias = np.broadcast_to(bias.reshape(-1), weight.shape[:1])
    return LayerStep(node, "linear", 1, weight, bias, is_transposed, 2)


def batch_normalization(graph: Graph, node: onnx.NodeProto) -> Normalization:
    """Raises Unfit where it is not that of evaluation with constants."""
    if graph.opset < least_opset:
        raise Unfit(f"the model's opset is {graph.opset}; expected {least_opset} or later")
    if attribute(node, "training_mode", 0) or len([name for name in node.output if name]) > 1:
        raise Unfit("it is in training mode")
    if attribute(node, "spatial", 1) != 1:
        raise Unfit("it has statistics for each place")
    values = [graph.constant(name) for name in node.input[1:5]]
    for name, value in zip(("scale", "bias", "mean", "variance"), values, strict=True):
        if value is None:
            raise Unfit(f"its {name} is not a constant")
        if value.ndim != 1 or not is_floating(value.dtype):
            raise Unfit(f"its {name} has shape {value.shape} and is {value.dtype}")
    gamma, beta, mean, variance = values
    try:
        # The attribute is float32.
        return Normalization(mean, variance, gamma, beta, float(attribute(node, "epsilon", np.float32(1e-5))))
    except ValueError as error:
        raise Unfit(str(error)) from error


def disguised(graph: Graph, node: onnx.NodeProto, value: str, layer: LayerStep) -> Normalization | None:
    """What a multiplication, an addition or a subtraction with constants of a layer's channels is; None for other steps."""
    if not is_op(node, "Mul", "Add", "Sub") or len(node.input) != 2 or node.input[0] == node.input[1]:
        return None
    if node.op_type == "Sub" and node.input[0] != value:
        return None
    constant = graph.constant(node.input[1] if node.input[0] == value else node.input[0])
    if constant is None or not is_floating(constant.dtype):
        return None
    channels = layer.outputs
    if constant.size == 1:
        if layer.rank is None or constant.ndim > layer.rank:
            return None
        values = np.full(channels, constant.astype(np.float64).reshape(()))
    else:
        places = 1 if layer.has_channels_last else (layer.rank or 0) - 1
        shape = (1,) * max(places - constant.ndim, 0) + constant.shape
        expected = (channels,) if layer.has_channels_last else (channels, *(1,) * (places - 1))
        if shape[-places:] != expected or any(size != 1 for size in shape[:-places]):
            return None
        if len(constant.shape) > (layer.rank or 1):  # the result would have more axes
            return None
        values = constant.astype(np.float64).reshape(-1)
    if not np.isfinite(values).all():
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type == "Mul":
        return Normalization(zero, one, values, zero, 0.0)
    return Normalization(zero, one, one, values if node.op_type == "Add" else -values, 0.0)


def pads(node: onnx.NodeProto) -> bool:
    """Whether a convolution's input may be padded."""
    return attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or any(attribute(node, "pads", [0]))
