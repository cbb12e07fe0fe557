"""exactnorm.onnx.inspect, and the program exactnorm-onnx that has it."""

from __future__ import annotations

import json
import subprocess
import sys

import exactnorm.onnx
import numpy as np
import onnx
import pytest
from exactnorm._fold_report import FoldedNorm, RefusedNorm
from onnx import helper, numpy_helper


def model_of(nodes, constants, shape=("N", 3, 6, 6), outputs=("y",), dtype=np.float32):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind, [None] * len(shape)) for name in outputs],
        [numpy_helper.from_array(np.asarray(value, dtype), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def parameters(channels, seed, prefix):
    random = np.random.default_rng(seed)
    return {
        f"{prefix}s": random.uniform(-2, 2, channels),
        f"{prefix}b": random.normal(size=channels),
        f"{prefix}m": random.normal(size=channels),
        f"{prefix}v": random.uniform(0.1, 4, channels),
    }


def norm(source, target, prefix, name):
    inputs = [source, *(f"{prefix}{part}" for part in "sbmv")]
    return helper.make_node("BatchNormalization", inputs, [target], name=name, epsilon=1e-3)


def network(dtype=np.float32):
    """One normalization of the model's input, one behind a convolution, and one of a sum."""
    weight = np.random.default_rng(3).normal(size=(4, 3, 3, 3))
    nodes = [
        norm("x", "a", "i", "first"),
        helper.make_node("Conv", ["a", "W"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        norm("c", "n", "j", "second"),
        helper.make_node("Relu", ["n"], ["r"]),
        norm("r", "y", "k", "third"),
    ]
    constants = {"W": weight, **parameters(3, 1, "i"), **parameters(4, 2, "j"), **parameters(4, 4, "k")}
    return model_of(nodes, constants, dtype=dtype), constants


def batches(dtype=np.float32):
    random = np.random.default_rng(5)
    return [{"x": (random.normal(size=(size, 3, 6, 6)) + size).astype(dtype)} for size in (2, 1, 5)]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_statistics_of_the_values_that_reach_each_step(dtype):
    model, constants = network(dtype)
    found = exactnorm.onnx.inspect(model, batches(dtype))
    assert list(found.norms) == ["first", "second", "third"] and found.batches == 3 and found.title == "network"
    first = found.norms["first"]
    x = np.concatenate([batch["x"] for batch in batches(dtype)]).astype(np.float64).swapaxes(0, 1).reshape(3, -1)
    np.testing.assert_allclose(first.pooled_mean, x.mean(1), rtol=1e-12)
    deviation = np.sqrt(constants["iv"].astype(dtype).astype(float) + np.float64(np.float32(1e-3)))
    np.testing.assert_allclose(first.drift, (x.mean(1) - constants["im"].astype(dtype).astype(float)) / deviation, rtol=1e-12)
    # The third one gets what is not negative.
    assert found.norms["third"].inputs.low == 0 and found.norms["third"].count == x.shape[1]
    assert isinstance(found.norms["second"].fold, FoldedNorm) and found.norms["second"].fold.layer == "conv"
    assert isinstance(found.norms["third"].fold, RefusedNorm)


def test_the_model_is_not_changed():
    model, _ = network()
    before = model.SerializeToString(deterministic=True)
    exactnorm.onnx.inspect(model, batches())
    assert model.SerializeToString(deterministic=True) == before


def test_one_batch_and_none():
    model, _ = network()
    assert exactnorm.onnx.inspect(model, batches()[0]).batches == 1
    found = exactnorm.onnx.inspect(model)
    assert found.batches == 0 and found.norms["first"].pooled_mean is None and found.norms["second"].fold is not None


def test_steps_without_constants_are_named():
    nodes = [helper.make_node("Identity", ["is"], ["scale"]), helper.make_node("BatchNormalization", ["x", "scale", "ib", "im", "iv"], ["y"], name="n")]
    found = exactnorm.onnx.inspect(model_of(nodes, parameters(3, 1, "i")))
    assert found.untouched == {"n": "its parameters are not constants"} and not found.norms
    assert "n: its parameters are not constants" in str(found) and "Not all is known" in found.to_html()


def test_errors():
    model, _ = network()
    with pytest.raises(ValueError, match="inputs: cannot be run by ONNX Runtime: .*[Mm]issing|required"):
        exactnorm.onnx.inspect(model, [{"z": np.zeros((1, 3, 6, 6), np.float32)}])
    with pytest.raises(ValueError, match="inputs: have no batch; expected at least one"):
        exactnorm.onnx.inspect(model, [])
    with pytest.raises(ValueError, match="inputs: have a batch of type ndarray; expected arrays by name"):
        exactnorm.onnx.inspect(model, [np.zeros(3)])
    with pytest.raises(ValueError, match="model: has no BatchNormalization; expected at least one"):
        exactnorm.onnx.inspect(model_of([helper.make_node("Relu", ["x"], ["y"])], {}))
    with pytest.raises(ValueError, match="model: is not valid ONNX"):
        exactnorm.onnx.inspect(onnx.ModelProto())


def program(*arguments):
    command = [sys.executable, "-m", "exactnorm.onnx", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_program(tmp_path):
    model, _ = network()
    onnx.save(model, tmp_path / "model.onnx")
    for place, batch in enumerate(batches()):
        np.savez(tmp_path / f"{place}.npz", **batch)
    inputs = [part for place in range(3) for part in ("--inputs", tmp_path / f"{place}.npz")]
    outputs = [part for name in ("report.html", "report.json") for part in ("-o", tmp_path / name)]
    done = program("inspect", tmp_path / "model.onnx", *inputs, *outputs)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["normalization", "first", "second", "third"]
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["title"] == "model.onnx" and read["batches"] == 3
    assert read["norms"][0]["pooled_mean"] == exactnorm.onnx.inspect(model, batches()).norms["first"].pooled_mean.tolist()
    assert "Batch normalization of model.onnx" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.onnx"], "No such file"),
        (["model.onnx", "-o", "report.txt"], "output: is report.txt; expected a name that ends in .html or .json"),
        (["model.onnx", "-i", "model.onnx"], "inputs: model.onnx is no file of arrays"),
        (["model.onnx", "-i", "array.npy"], "inputs: array.npy has one array without a name"),
        (["model.onnx", "-i", "none.npz"], "No such file"),
        (["model.onnx", "-i", "other.npz", "-o", "report.html"], "inputs: cannot be run by ONNX Runtime"),
        (["array.npy"], "model: array.npy is not an ONNX model"),
    ],
)
def test_errors_of_the_program(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    onnx.save(network()[0], "model.onnx")
    np.save("array.npy", np.zeros(3))
    np.savez("other.npz", x=np.zeros((1, 2, 6, 6), np.float32))
    before = sorted(path.name for path in tmp_path.iterdir())
    done = program("inspect", *arguments)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("exactnorm inspect: error: ") and message in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_parameters_that_callers_may_replace():
    model, _ = network()
    kinds = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in model.graph.initializer}
    model.graph.input.extend(helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items())
    found = exactnorm.onnx.inspect(model, batches())
    assert list(found.untouched) == ["first", "second", "third"] and not found.norms
    assert "There is nothing to look at." in found.to_html()


def test_steps_of_one_name_and_in_subgraphs():
    inner = helper.make_graph([norm("x", "t", "i", "inner")], "then", [], [helper.make_tensor_value_info("t", 1, [None] * 4)])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "else", [], [helper.make_tensor_value_info("e", 1, [None] * 4)])
    nodes = [
        norm("x", "a", "i", "b"),
        norm("a", "b", "i", None),
        helper.make_node("If", ["condition"], ["c"], then_branch=inner, else_branch=other),
        helper.make_node("Add", ["b", "c"], ["y"]),
    ]
    model = model_of(nodes, parameters(3, 1, "i"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    found = exactnorm.onnx.inspect(model, batches())
    assert list(found.norms) == ["b", "b (2)"] and found.norms["b (2)"].count == 8 * 36
    assert found.untouched == {"inner": "it is in a subgraph"}


@pytest.mark.parametrize("length", [0, 30, 200])
def test_damaged_batches(tmp_path, length):
    onnx.save(network()[0], tmp_path / "model.onnx")
    np.savez(tmp_path / "whole.npz", x=np.zeros((1, 3, 6, 6), np.float32))
    (tmp_path / "part.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:length])
    done = program("inspect", tmp_path / "model.onnx", "-i", tmp_path / "part.npz")
    assert done.returncode == 1 and "Traceback" not in done.stderr and "part.npz is no file of arrays" in done.stderr


def test_folders_are_looked_for_first(tmp_path):
    onnx.save(network()[0], tmp_path / "model.onnx")
    done = program("inspect", tmp_path / "model.onnx", "-o", tmp_path / "a.json", "-o", tmp_path / "none" / "b.html")
    assert done.returncode == 1 and "output: " in done.stderr and "is no folder" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]
