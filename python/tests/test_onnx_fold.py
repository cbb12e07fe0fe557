"""exactnorm.onnx.fold: each kind of place, by ONNX Runtime; random graphs; files that are no models."""

from __future__ import annotations

import subprocess
import sys

import exactnorm.onnx
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

KINDS = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE, np.dtype(np.float16): TensorProto.FLOAT16}


class Builder:
    """A graph, step by step; parameters are random, as training leaves them."""

    def __init__(self, shape, dtype=np.float32, seed=0, opset=17):
        self.random, self.dtype, self.opset = np.random.default_rng(seed), np.dtype(dtype), opset
        self.nodes, self.constants, self.shape = [], {}, shape
        self.value = "x"

    def constant(self, values):
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(values).astype(self.dtype)
        return name

    def add(self, kind, *inputs, outputs=1, **attributes):
        output = f"v{len(self.nodes)}"
        names = [output, *(f"{output}_{number}" for number in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, [self.value, *inputs], names, name=f"n{len(self.nodes)}", **attributes))
        self.value = output
        return self

    def normal(self, *shape):
        return self.random.normal(size=shape)

    def norm(self, channels, **attributes):
        values = (self.normal(channels), self.normal(channels), self.normal(channels) * 2, self.random.uniform(0.2, 3, channels))
        return self.add("BatchNormalization", *map(self.constant, values), **attributes)

    def conv(self, outputs, inputs, *kernel, group=1, bias=True, **attributes):
        constants = [self.constant(self.normal(outputs, inputs // group, *kernel))]
        constants += [self.constant(self.normal(outputs))] if bias else []
        return self.add("Conv", *constants, group=group, **attributes)

    def model(self, outputs=(), inputs=(), ir_version=8):
        kind = KINDS[self.dtype]
        initializers = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        shape = ["N", *self.shape[1:]]
        graph = helper.make_graph(
            self.nodes, "graph", [helper.make_tensor_value_info("x", kind, shape), *inputs],
            [helper.make_tensor_value_info(name, kind, None) for name in (*outputs, self.value)], initializers,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=ir_version)
        # The checker wants shapes of outputs.
        model = onnx.shape_inference.infer_shapes(model)
        for output in model.graph.output:
            if not output.type.tensor_type.HasField("shape"):
                output.CopyFrom(helper.make_tensor_value_info(output.name, kind, [None] * len(shape)))
        return model


def run(model, x):
    """By ONNX Runtime, which does not fold by itself then; it has convolutions of float32 alone."""
    if x.dtype != np.float32:
        return ReferenceEvaluator(model).run(None, {"x": x})
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def assert_folds(builder, folded=(), refused=(), left=(), model=None):
    """Names that are folded and refused, and the steps that are left."""
    model = model or builder.model()
    before = model.SerializeToString()
    new, report = exactnorm.onnx.fold(model)
    assert model.SerializeToString() == before
    assert [norm.name for norm in report.folded] == list(folded), str(report)
    assert [(norm.name, norm.reason) for norm in report.refused] == list(refused)
    assert [node.op_type for node in new.graph.node] == list(left)
    x = builder.random.normal(size=builder.shape).astype(builder.dtype)
    unit = {"float32": 2e-5, "float64": 1e-13, "float16": 3e-2}[builder.dtype.name]
    for found, expected in zip(run(new, x), run(model, x), strict=True):
        assert np.abs(found.astype(float) - expected).max() <= unit * np.abs(expected.astype(float)).max()
    used = {name for node in new.graph.node for name in node.input}
    assert {tensor.name for tensor in new.graph.initializer} <= used
    return new, report


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_convolutions(group, bias, dtype):
    builder = Builder((2, 4, 6, 6), dtype).conv(8, 4, 3, 3, group=group, bias=bias, pads=[1, 1, 1, 1]).norm(8).add("Relu")
    assert_folds(builder, ["n1"], left=["Conv", "Relu"])


@pytest.mark.parametrize("group", [1, 2, 4])
def test_transposed_convolutions(group):
    builder = Builder((2, 4, 5))
    builder.add("ConvTranspose", builder.constant(builder.normal(4, 8 // group, 3)), group=group, strides=[2]).norm(8)
    assert_folds(builder, ["n1"], left=["ConvTranspose"])


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("shape", [None, (), (1,), (5,), (1, 5)])
def test_gemm(transposed, shape):
    builder = Builder((3, 4))
    weight = builder.constant(builder.normal(*((5, 4) if transposed else (4, 5))))
    constants = [weight] if shape is None else [weight, builder.constant(builder.normal(*shape))]
    builder.norm(4).add("Gemm", *constants, transB=transposed).norm(5)
    assert_folds(builder, ["n0", "n2"], left=["Gemm"])


def test_gemm_without_a_bias_has_a_factor_for_it():
    builder = Builder((3, 4))
    builder.add("Gemm", builder.constant(builder.normal(4, 5)), beta=0.0).norm(5)
    assert_folds(builder, ["n1"], left=["Gemm"])


def test_steps_on_both_sides_of_a_flattening():
    builder = Builder((2, 4, 3, 2)).add("Relu").norm(4).add("Dropout").add("Flatten").add("Identity").add("Dropout")
    builder.add("Gemm", builder.constant(builder.normal(24, 5)))
    assert_folds(builder, ["n1"], left=["Relu", "Flatten", "Gemm"])


def test_constants_that_add_an_axis():
    builder = Builder((3, 4)).add("Reshape", "shape")
    builder.constants["shape"] = np.array([3, 4], np.int64)
    builder.add("MatMul", builder.constant(builder.normal(4, 5))).add("Mul", builder.constant(builder.normal(1, 1, 5)))
    assert_folds(builder, left=["Reshape", "MatMul", "Mul"])


def test_an_addition_alone_is_no_normalization():
    builder = Builder((3, 4)).add("MatMul", "w").add("Add", "b")
    builder.constants |= {"w": builder.normal(4, 5).astype(np.float32), "b": builder.normal(5).astype(np.float32)}
    assert_folds(builder, left=["MatMul", "Add"])


def test_matmul_and_additions():
    builder = Builder((3, 4))
    builder.add("MatMul", builder.constant(builder.normal(4, 5))).add("Add", builder.constant(builder.normal(5))).norm(5)
    assert_folds(builder, ["n1", "n2"], left=["MatMul", "Add"])
    builder = Builder((3, 7, 4))
    builder.add("MatMul", builder.constant(builder.normal(4, 5))).add("Mul", builder.constant(builder.normal(5)))
    assert_folds(builder, ["n1"], left=["MatMul"])


def test_normalizations_in_disguise():
    builder = Builder((2, 4, 6, 6)).conv(3, 4, 1, 1)
    builder.add("Mul", builder.constant(builder.normal(3, 1, 1))).add("Sub", builder.constant(builder.normal(1, 3, 1, 1)))
    builder.add("Identity").add("Add", builder.constant(2.5)).add("Relu").add("Mul", builder.constant(builder.normal(3, 1, 1)))
    assert_folds(builder, ["n1", "n2", "n4"], left=["Conv", "Relu", "Mul"])
    # Not along the channels.
    builder = Builder((2, 4, 3, 3)).conv(3, 4, 1, 1).add("Mul", "last")
    builder.constants["last"] = builder.normal(3).astype(np.float32)
    assert_folds(builder, left=["Conv", "Mul"])


def test_before_layers():
    builder = Builder((2, 4, 6, 6)).norm(4).add("Dropout").norm(4).conv(6, 4, 3, 3, group=2)
    assert_folds(builder, ["n0", "n2"], left=["Conv"])
    builder = Builder((2, 4, 3, 2)).norm(4).add("Flatten")
    builder.add("Gemm", builder.constant(builder.normal(24, 5)))
    assert_folds(builder, ["n0"], left=["Flatten", "Gemm"])
    builder = Builder((2, 4, 6, 6)).norm(4).conv(6, 4, 3, 3, pads=[1, 1, 1, 1])
    reason = "its input is the model's; n1 pads its output with zeros (exactnorm.fold has pad values for it)"
    assert_folds(builder, refused=[("n0", reason)], left=["BatchNormalization", "Conv"])
    builder = Builder((2, 4, 6)).norm(4).add("ConvTranspose", "w")
    builder.constants["w"] = builder.normal(4, 2, 3).astype(np.float32)
    reason = "its input is the model's; the outputs of n1 meet different numbers of its taps"
    assert_folds(builder, refused=[("n0", reason)], left=["BatchNormalization", "ConvTranspose"])


def test_shared_weights_and_constant_nodes():
    builder = Builder((2, 4, 6, 6)).conv(4, 4, 1, 1).norm(4).add("Relu")
    builder.add("Conv", *builder.nodes[0].input[1:]).norm(4)
    new, _ = assert_folds(builder, ["n1", "n4"], left=["Conv", "Relu", "Conv"])
    assert len(new.graph.initializer) == 4
    builder = Builder((2, 4, 6, 6)).conv(4, 4, 1, 1, bias=False).norm(4)
    model = builder.model()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == builder.nodes[0].input[1])
    model.graph.initializer.remove(weight)
    model.graph.node.insert(0, helper.make_node("Constant", [], [weight.name], value=weight))
    assert_folds(builder, ["n1"], left=["Conv"], model=model)


def listed(builder):
    """All constants, as inputs."""
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in builder.constants.items()]


def reasons_of(builder, **more):
    model = builder.model(**more)
    new, report = exactnorm.onnx.fold(model)
    assert not report.folded and [n.op_type for n in new.graph.node] == [n.op_type for n in model.graph.node]
    return [norm.reason for norm in report.refused]


def test_reasons():
    def conv():
        return Builder((2, 4, 6, 6)).conv(4, 4, 1, 1)

    last = "its output has 1 uses, or is the model's"
    assert reasons_of(conv().norm(4), outputs=["v0"]) == [f"its input has 2 uses; {last}"]
    assert reasons_of(conv().norm(4, outputs=3, training_mode=1)) == ["it is in training mode"]
    assert reasons_of(conv().add("Relu").norm(4)) == [f"its input comes from Relu; {last}"]
    model = conv().norm(4).model()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == model.graph.node[0].input[2])
    bias.CopyFrom(numpy_helper.from_array(np.zeros(4, np.int32), bias.name))
    _, report = exactnorm.onnx.fold(model)
    assert [norm.reason for norm in report.refused] == [f"the bias of n0 is int32; {last}"]
    old = conv()
    old.opset = 6
    assert reasons_of(old.norm(4), ir_version=3, inputs=listed(old)) == ["the model's opset is 6; expected 7 or later"]
    builder = conv().norm(4)
    builder.constants[builder.nodes[1].input[4]][2] = -1
    assert "variance: is -1.0 in channel 2" in reasons_of(builder)[0]
    weight = builder.nodes[0].input[1]
    builder = conv().norm(4)
    replaceable = helper.make_tensor_value_info(weight, TensorProto.FLOAT, [4, 4, 1, 1])
    assert reasons_of(builder, inputs=[replaceable]) == [f"the weight of n0 is not a constant; {last}"]
    builder = Builder((2, 4, 6)).add("MatMul", "w").norm(4)
    builder.constants["w"] = builder.normal(6, 4).astype(np.float32)
    assert reasons_of(builder) == [f"n0 is over the last axis, and the normalization over the second; {last}"]


def test_values_that_subgraphs_use():
    builder = conv = Builder((2, 4, 6, 6)).conv(4, 4, 1, 1)
    conv.norm(4)
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Relu", ["v0"], [f"{name}_out"])], name, [], [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)]
        )
        for name in ("then", "else")
    }
    builder.constants["condition"] = np.array(1.0, np.float32)
    builder.nodes.append(helper.make_node("Cast", ["condition"], ["flag"], to=TensorProto.BOOL))
    builder.nodes.append(helper.make_node("If", ["flag"], ["other"], **branches))
    model = builder.model(outputs=["other"])
    _, report = exactnorm.onnx.fold(model)
    assert [norm.reason.split(";")[0] for norm in report.refused] == ["its input has 3 uses"]


def test_old_models_have_initializers_among_their_inputs():
    builder = Builder((2, 4, 6, 6), opset=8).conv(4, 4, 1, 1).norm(4)
    model = builder.model(inputs=listed(builder), ir_version=3)
    new, _ = assert_folds(builder, ["n1"], left=["Conv"], model=model)
    assert {value.name for value in new.graph.input} == {"x", *(tensor.name for tensor in new.graph.initializer)}


@pytest.mark.parametrize("seed", range(150))
def test_random_graphs(seed):
    random = np.random.default_rng(seed)
    channels, builder = 4, Builder((2, 4, 8, 8), seed=seed)
    for _ in range(random.integers(2, 10)):
        kind, new, group = random.integers(0, 10), int(random.choice([2, 4, 6])), int(random.choice([1, 2]))
        if kind < 2:
            builder.conv(new, channels, 1, 1, group=group, bias=bool(random.integers(2)))
        elif kind == 2:
            builder.conv(new, channels, 3, 3, group=group, pads=[1, 1, 1, 1])
        elif kind == 3:
            weight = builder.constant(builder.normal(channels, new // group, 2, 2))
            builder.add("ConvTranspose", weight, group=group)
        elif kind == 4:
            builder.add(str(random.choice(["Relu", "Identity", "Dropout"])))
        elif kind == 5:
            shape = [(channels, 1, 1), (1, channels, 1, 1), (), (1,)][random.integers(4)]
            builder.add(str(random.choice(["Mul", "Add", "Sub"])), builder.constant(builder.normal(*shape)))
        else:
            builder.norm(channels, epsilon=float(random.choice([1e-5, 1e-3, 0.0])))
        channels = new if kind < 4 else channels
    outputs = [f"v{random.integers(len(builder.nodes))}"] if random.random() < 0.3 else []
    model = builder.model(outputs=[name for name in outputs if name != builder.value])
    new, report = exactnorm.onnx.fold(model)
    x = random.normal(size=builder.shape).astype(np.float32)
    for found, expected in zip(run(new, x), run(model, x), strict=True):
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max() + 1e-30
    norms = [node.name for node in model.graph.node if node.op_type == "BatchNormalization"]
    named = [norm.name for norm in (*report.folded, *report.refused)]
    assert set(norms) <= set(named) and len(named) == len(set(named))


def test_a_network_that_pytorch_has_exported(tmp_path):
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU6(),
        torch.nn.ConvTranspose2d(8, 4, 2, groups=4, bias=False), torch.nn.BatchNorm2d(4), torch.nn.Flatten(),
        torch.nn.Linear(196, 5), torch.nn.BatchNorm1d(5),
    ).eval()  # fmt: skip
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 8, 8)
    kept = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}  # or the exporter folds by itself
    torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=False, input_names=["x"], **kept)
    report = exactnorm.onnx.fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert len(report.folded) == 3 and not report.refused and report.difference < 1e-5
    with torch.no_grad():
        expected = model(x).numpy()
    (found,) = run(onnx.load(tmp_path / "folded.onnx"), x.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_files(tmp_path):
    model = Builder((2, 4, 6, 6)).conv(4, 4, 1, 1).norm(4).model()
    source, output = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    onnx.save(model, source)
    command = [sys.executable, "-m", "exactnorm.onnx", "fold"]
    done = subprocess.run([*command, source, "--output", output], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1 of 1 batch normalizations folded")
    assert [node.op_type for node in onnx.load(output).graph.node] == ["Conv"]
    bad = tmp_path / "bad.onnx"
    valid = source.read_bytes()
    output.unlink()
    for content in (b"", b"hello", valid[: len(valid) // 2], valid[100:]):
        bad.write_bytes(content)
        done = subprocess.run([*command, bad, "--output", output], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "Traceback" not in done.stderr and "error: model: " in done.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.onnx", "model.onnx"]
    done = subprocess.run([*command, source, "-o", tmp_path / "none" / "y"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "is no folder" in done.stderr


@pytest.mark.parametrize("seed", range(20))
def test_damaged_models_are_errors_or_models(seed):
    """Bytes that changed, anywhere: a named error, or a valid model."""
    random = np.random.default_rng(seed)
    content = bytearray(Builder((2, 4, 6, 6)).conv(4, 4, 1, 1).norm(4).model().SerializeToString())
    for _ in range(30):
        damaged = bytearray(content)
        for _ in range(random.integers(1, 4)):
            damaged[random.integers(len(damaged))] = random.integers(256)
        model = onnx.ModelProto()
        try:
            model.ParseFromString(bytes(damaged))
        except Exception:  # noqa: BLE001 - protobuf's own refusal
            continue
        try:
            exactnorm.onnx.fold(model)
        except ValueError as error:
            assert str(error).split(":")[0] in ("model", "inputs")  # noqa: PT017
