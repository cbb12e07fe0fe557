"""What compilers make of converted models: by default what they make of torch.nn's, exactnorm's results by choice."""

import copy

import exactnorm.torch
import pytest
import torch
from torch import nn

pytestmark = pytest.mark.compiled_by_default


def model():
    torch.manual_seed(4)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4, momentum=0.3))


def operators_of(network, x):
    """The names of the operators that a compiler is given."""
    return {str(node.target) for node in torch.export.export(network, (x,)).graph.nodes if node.op == "call_function"}


def step(network, x):
    leaf = x.clone().requires_grad_()
    y = network(leaf)
    y.backward(torch.cos(y.detach()))
    return [y.detach(), leaf.grad, *(parameter.grad for parameter in network.parameters()), *network.buffers()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backend", ["aot_eager_decomp_partition", "inductor"])
def test_by_default_compilers_get_what_torch_nn_gives_them(training, backend):
    x = torch.randn(6, 3, 12, 12)
    theirs = model().train(training)
    ours = exactnorm.torch.convert(copy.deepcopy(theirs))
    assert operators_of(copy.deepcopy(ours), x) == operators_of(copy.deepcopy(theirs), x)
    results = []
    for network in (ours, theirs):
        torch._dynamo.reset()
        results.append(step(torch.compile(network, backend=backend, fullgraph=True), x))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_by_choice_they_get_an_operator_of_the_same_bits(training):
    x = torch.randn(6, 3, 12, 12).add(100)
    network = exactnorm.torch.convert(model(), compiled="exact").train(training)
    assert any("exactnorm" in name for name in operators_of(copy.deepcopy(network), x))
    norm = exactnorm.torch.convert(nn.Sequential(nn.BatchNorm2d(3)), compiled="exact").train(training)
    compiled, eager = (copy.deepcopy(norm) for _ in range(2))
    for one, other in zip(step(torch.compile(compiled, backend="inductor"), x), step(eager, x), strict=True):
        assert torch.equal(one, other)


def test_fused_layers_follow_the_choice():
    x = torch.randn(6, 3, 4, 4).add(100)
    for choice in ("fast", "exact"):
        network = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
        network = exactnorm.torch.fuse(exactnorm.torch.convert(network, compiled=choice))
        assert any("exactnorm" in name for name in operators_of(copy.deepcopy(network), x)) == (choice == "exact")
        torch.testing.assert_close(torch.compile(network, backend="aot_eager")(x), network(x), rtol=1e-4, atol=1e-4)


class Residual(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.first = exactnorm.torch.BatchNormAct2d(3, activation=activation)
        self.second = exactnorm.torch.BatchNormAct2d(3, activation=activation)
        self.first.compiled = self.second.compiled = "exact"

    def forward(self, x):
        return self.second(self.first(x), x)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "leaky_relu", "silu", "hard_swish"])
def test_fused_layers_are_one_operator_of_the_same_bits(activation, channels_last):
    torch.manual_seed(8)
    x = torch.randn(6, 3, 5, 7).add(3)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    compiled, eager = Residual(activation), Residual(activation)
    names = operators_of(copy.deepcopy(eager), x)
    assert names == {"exactnorm.batch_norm_activated.default", "exactnorm.track.default", "<built-in function getitem>"}
    torch._dynamo.reset()
    results = step(torch.compile(compiled, backend="inductor", fullgraph=True), x)
    for one, other in zip(results, step(eager, x), strict=True):
        assert torch.equal(one, other)


def test_what_the_operator_is_not_for_is_compiled_one_after_the_other():
    x = torch.randn(6, 3, 5, 7)
    for change in ("eval", "residual"):
        layer = exactnorm.torch.BatchNormAct2d(3)
        layer.compiled = "exact"
        residual = torch.randn(3, 1, 1) if change == "residual" else torch.randn_like(x)
        layer.train(change != "eval")
        theirs = nn.BatchNorm2d(3).train(change != "eval")
        expected = torch.relu(theirs(x) + residual)
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(layer, backend="aot_eager")(x, residual), expected)


def test_an_average_of_all_batches_breaks_no_graph():
    network = exactnorm.torch.convert(nn.Sequential(nn.BatchNorm2d(3, momentum=None)))
    x = torch.randn(6, 3, 4, 4)
    torch.compile(network, backend="aot_eager", fullgraph=True)(x)
    assert network[0].num_batches_tracked == 1


def test_the_choice_is_of_a_model_and_ends_with_it():
    network = model()
    before = [set(module.__dict__) for module in network.modules()]
    exactnorm.torch.convert(network, compiled="exact")
    assert network[1].compiled == "exact"
    assert copy.deepcopy(network)[1].compiled == "exact"
    exactnorm.torch.convert(network)
    assert network[1].compiled == "fast"
    exactnorm.torch.revert(network)
    assert [set(module.__dict__) for module in network.modules()] == before
    with pytest.raises(ValueError, match="compiled: is 'slow'; expected 'fast' or 'exact'"):
        exactnorm.torch.convert(network, compiled="slow")
