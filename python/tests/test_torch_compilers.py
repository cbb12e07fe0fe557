"""torch.compile, torch.export, torch.jit.trace, torch.fx, ONNX and profilers on exactnorm.torch."""

from __future__ import annotations

import copy
import warnings

import exactnorm.torch
import onnx
import pytest
import torch
from test_torch_modules import residual_network

OPERATORS = torch.ops.exactnorm


@pytest.mark.parametrize("affine", [True, False])
def test_operators_by_pytorchs_own_checks(affine):
    torch.manual_seed(11)
    x = torch.randn(4, 3, 5, requires_grad=True)
    weight, bias = torch.randn(2, 3).requires_grad_() if affine else (None, None)
    mean, variance = torch.randn(3), torch.rand(3)
    _, statistics = OPERATORS.batch_norm(x, weight, bias, 1e-5)
    mask = [True, affine, affine]
    residual = torch.randn_like(x).requires_grad_() if affine else None
    activated, output = ("relu", 0.0), residual.detach().relu() if affine else None
    for operator, arguments in (
        (OPERATORS.batch_norm, (x, weight, bias, 1e-5)),
        (OPERATORS.batch_norm_inference, (x, mean, variance, weight, bias, 1e-5)),
        (OPERATORS.given_statistics, (mean, variance, 1e-5)),
        (OPERATORS.batch_norm_backward, (torch.randn_like(x), x, statistics, weight, 1e-5, False, mask)),
        (OPERATORS.batch_norm_activated, (x, residual, weight, bias, 1e-5, *activated)),
        (
            OPERATORS.batch_norm_activated_backward,
            (torch.randn_like(x), x.detach(), None, output, statistics, None, None, 1e-5, False, *activated, [True, *[affine] * 3]),
        ),
        (OPERATORS.track, (statistics, mean, variance, None, 0.1)),
        (OPERATORS.track, (statistics, mean, variance, torch.tensor(3), None)),
        (OPERATORS.track, (statistics, None, None, torch.tensor(3), 0.1)),
    ):
        results = torch.library.opcheck(operator.default, arguments)
        assert set(results.values()) == {"SUCCESS"}


def train(model, x):
    y = model(x)
    y.square().sum().backward()
    return [y.detach(), *(p.grad for p in model.parameters()), *model.buffers()]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_without_graph_breaks(backend):
    model = exactnorm.torch.convert(residual_network())
    model[1].momentum = None
    x = torch.randn(6, 3, 9, 9)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend=backend)
    for _ in range(2):
        torch.testing.assert_close(train(compiled, x), train(model, x), rtol=1e-3, atol=1e-3)
        x = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(x), model.eval()(x), rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


def test_compile_with_sizes_that_change():
    module = exactnorm.torch.BatchNorm1d(3)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for samples in (4, 9, 23):
        x = torch.randn(samples, 3)
        torch.testing.assert_close(compiled(x), exactnorm.torch.BatchNorm1d(3)(x))
    torch._dynamo.reset()


@pytest.mark.parametrize("training", [True, False])
def test_export(training):
    model = exactnorm.torch.convert(residual_network()).train(training)
    x = torch.randn(6, 3, 9, 9)
    exported = torch.export.export(copy.deepcopy(model), (x,))
    targets = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    expected = "exactnorm.batch_norm.default" if training else "exactnorm.batch_norm_inference.default"
    assert targets.count(expected) == 6
    again = exported.module()
    for _ in range(2):
        assert torch.equal(again(x), model(x))
    for name, buffer in model.named_buffers():
        assert torch.equal(again.get_buffer(name), buffer)


def test_trace():
    model = exactnorm.torch.convert(residual_network()).eval()
    x = torch.randn(6, 3, 9, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(model, (x,))
    assert "exactnorm::batch_norm_inference" in str(traced.inlined_graph)
    other = torch.randn(2, 3, 8, 8)
    assert torch.equal(traced(other), model(other))


@pytest.mark.parametrize("training", [True, False])
def test_symbolic_trace(training):
    model = exactnorm.torch.convert(residual_network()).train(training)
    x = torch.randn(6, 3, 9, 9)
    traced = torch.fx.symbolic_trace(copy.deepcopy(model))
    assert torch.equal(traced(x), model(x))
    # Buffers that no step reads are left out of the traced module.
    buffers = dict(model.named_buffers())
    assert len(dict(traced.named_buffers())) >= 12
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in traced.named_buffers())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, True])
def test_onnx_has_pytorchs_operator(dynamo, tmp_path):
    model = exactnorm.torch.convert(torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.ReLU())).eval()
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (torch.randn(2, 3, 5, 5),), path, dynamo=dynamo, verbose=False)
    operators = [node.op_type for node in onnx.load(path).graph.node]
    # One exporter shares constants that are equal.
    assert [name for name in operators if name != "Identity"] == ["BatchNormalization", "Relu"]


def test_profilers_see_what_runs():
    module = exactnorm.torch.BatchNorm2d(3)
    x = torch.randn(2, 3, 5, 5)

    def names_in(call):
        with torch.profiler.profile() as profile:
            call()
        return {event.key for event in profile.key_averages()}

    assert {"aten::native_batch_norm", "aten::native_batch_norm_backward"} <= names_in(lambda: module(x).sum().backward())
    module.eval()
    assert {"exactnorm::batch_norm_inference", "exactnorm::batch_norm_backward"} <= names_in(
        lambda: module(x).sum().backward()
    )
    function = exactnorm.torch.functional.batch_norm
    assert "exactnorm::batch_norm" in names_in(lambda: function(x, None, None, training=True))
