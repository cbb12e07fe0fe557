"""ONNX models whose batch normalization becomes part of the layers around it; needs onnx (`pip install onnx`).

    exactnorm-onnx fold model.onnx --output folded.onnx
    exactnorm-onnx inspect model.onnx --output report.html

>>> import numpy as np
>>> from onnx import TensorProto, helper, numpy_helper
>>> import exactnorm.onnx
>>> values = {"W": np.ones((2, 2, 1, 1)), "s": np.ones(2), "b": np.zeros(2), "m": np.ones(2), "v": np.full(2, 4.0)}
>>> graph = helper.make_graph(
...     [helper.make_node("Conv", ["x", "W"], ["z"]),
...      helper.make_node("BatchNormalization", ["z", "s", "b", "m", "v"], ["y"], name="norm", epsilon=0.0)],
...     "example",
...     [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 4, 4])],
...     [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, 4, 4])],
...     [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()],
... )
>>> folded, report = exactnorm.onnx.fold(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
>>> [node.op_type for node in folded.graph.node], [norm.name for norm in report.folded]
(['Conv'], ['norm'])
"""

from __future__ import annotations

try:
    import onnx as _onnx  # noqa: F401
except ImportError as error:
    raise ImportError("exactnorm.onnx needs onnx, which is not installed: pip install onnx") from error

from exactnorm._fold_report import FoldedNorm, FoldReport, RefusedNorm
from exactnorm._inspection import Finding, InspectedNorm, Inspection
from exactnorm.onnx._files import fold_file, load
from exactnorm.onnx._fold import fold
from exactnorm.onnx._inspect import inspect

__all__ = [
    "Finding",
    "FoldReport",
    "FoldedNorm",
    "InspectedNorm",
    "Inspection",
    "RefusedNorm",
    "fold",
    "fold_file",
    "inspect",
    "load",
]
