"""exactnorm.onnx.fold where the given model is inexact, old, or none."""

from __future__ import annotations

import exactnorm.onnx
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper


def test_a_fold_that_removes_an_error_is_none():
    random = np.random.default_rng(1)
    weight = (0.001 * random.normal(size=(8, 8, 3, 3))).astype(np.float32)
    constants = {"W": weight, "B": np.full(8, 1000.0), "s": np.ones(8), "b": np.zeros(8), "m": np.full(8, 1000.0), "v": np.full(8, 1e-4)}
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Conv", ["x", "W", "B"], ["z"]),
                helper.make_node("BatchNormalization", ["z", "s", "b", "m", "v"], ["y"], name="norm"),
            ],
            "cancelling",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 8, "H", "W"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 8, None, None])],
            [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    _, report = exactnorm.onnx.fold(model)  # with sizes that the convolution takes
    assert len(report.folded) == 1 and report.difference > 1e-3
    given, found = report.errors
    assert given > 1e-3 > 1e-5 > found


def test_old_opsets_are_left():
    """Mul had an attribute for the axis then."""
    nodes = [
        helper.make_node("Gemm", ["x", "W", "C"], ["z"], broadcast=1),
        helper.make_node("Mul", ["z", "f"], ["y"], broadcast=1, axis=0),
    ]
    random = np.random.default_rng(1)
    constants = {"W": random.normal(size=(4, 4)), "C": random.normal(size=4), "f": random.normal(size=4)}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "old",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 4])],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 6)],
        ir_version=8,
    )
    folded, report = exactnorm.onnx.fold(model)
    assert [node.op_type for node in folded.graph.node] == ["Gemm", "Mul"] and not report.folded


def test_a_path_is_no_model():
    with pytest.raises(TypeError, match="model: is a str; expected an onnx.ModelProto"):
        exactnorm.onnx.fold("model.onnx")


def test_models_beyond_one_message(tmp_path, monkeypatch):
    """As they are read, run and written, with a smaller limit."""
    monkeypatch.setattr(exactnorm.onnx._graph, "_largest_message", 2**24 + 100)
    random = np.random.default_rng(1)
    constants = {"W": random.normal(size=(64, 3, 3, 3)), "s": np.ones(64), "b": np.zeros(64), "m": random.normal(size=64), "v": np.ones(64)}
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Conv", ["x", "W"], ["z"]),
                helper.make_node("BatchNormalization", ["z", "s", "b", "m", "v"], ["y"], name="norm"),
            ],
            "large",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 6, 6])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 64, 4, 4])],
            [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save_model(model, tmp_path / "model.onnx", save_as_external_data=True, location="model.data", size_threshold=0)
    report = exactnorm.onnx.fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert len(report.folded) == 1 and report.difference < 1e-5
    assert {"folded.onnx", "folded.onnx.data"} <= {path.name for path in tmp_path.iterdir()}
    x = {"x": random.normal(size=(2, 3, 6, 6)).astype(np.float32)}
    (found,) = onnxruntime.InferenceSession(tmp_path / "folded.onnx").run(None, x)
    (expected,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert exactnorm.onnx.inspect(onnx.load(tmp_path / "model.onnx"), x).norms["norm"].count == 2 * 16
