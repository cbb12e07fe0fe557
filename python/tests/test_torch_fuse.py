"""exactnorm.torch.fuse: blocks of networks as they are written, before and after, and back."""

import copy
import pickle

import exactnorm.torch
import pytest
import torch
from torch import nn
from torch.nn import functional


class Basic(nn.Module):
    """A residual block whose one ReLU is called twice, in place, with an addition in place."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.downsample(x)
        return self.relu(out)


class Dense(nn.Module):
    """Normalization and activation before the convolution; other work in training than in evaluation."""

    def __init__(self, channels):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, 4, 1)
        self.rate = 0.5

    def forward(self, features):
        new = self.conv1(self.relu1(self.norm1(features)))
        new = functional.dropout(new, p=self.rate, training=self.training)
        return torch.cat([features, new], 1)


class Functions(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels) for _ in range(6)])
        self.lone = nn.BatchNorm2d(channels)

    def forward(self, x):
        x = torch.relu(self.norms[0](x))
        x = functional.leaky_relu(self.norms[1](x), 0.3)
        x = functional.silu(torch.add(x, self.norms[2](x)))
        x = (self.norms[3](x) + self.norms[4](x)).relu()
        x = functional.hardswish(self.norms[5](x))
        return self.lone(x)


class Untraceable(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        x = self.block(x)
        if x.sum() > 0:
            x = x + 1
        return functional.relu(self.norm(x))


def normal(model):
    torch.manual_seed(11)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "var" not in name and tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape) * 0.5)
    return model


MODELS = {
    "sequential": lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)),
    "hardtanh": lambda: nn.Sequential(nn.BatchNorm2d(8), nn.Hardtanh(0, 6), nn.BatchNorm2d(8), nn.LeakyReLU(0.2)),
    "basic": lambda: nn.Sequential(Basic(8), Basic(8)),
    "dense": lambda: nn.Sequential(Dense(8), nn.BatchNorm2d(12), nn.SiLU()),
    "functions": lambda: Functions(8),
    "untraceable": lambda: Untraceable(Basic(8)),
    "exactnorm's": lambda: exactnorm.torch.convert(nn.Sequential(Basic(8), nn.BatchNorm2d(8), nn.Hardswish())),
}
COUNTS = {"sequential": 1, "hardtanh": 2, "basic": 4, "dense": 2, "functions": 5, "untraceable": 2, "exactnorm's": 3}


def fused_layers(model):
    kinds = (exactnorm.torch.BatchNormAct1d, exactnorm.torch.BatchNormAct2d, exactnorm.torch.BatchNormAct3d)
    return sum(isinstance(module, kinds) for module in model.modules())


def steps(model, x):
    """Outputs, gradients and buffers of a training step, of one more, and of an evaluation."""
    results = []
    for training in (True, True, False):
        torch.manual_seed(5)
        model.train(training)
        model.zero_grad()
        leaf = x.clone().requires_grad_()
        y = model(leaf * 1)
        y.backward(torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape))
        results += [y.detach(), leaf.grad, *(p.grad.clone() for p in model.parameters()), *map(torch.clone, model.buffers())]
    return results


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_fused_model_does_the_same(name, memory_format):
    model = normal(MODELS[name]()).double().to(memory_format=memory_format)
    original = copy.deepcopy(model)
    names = list(model.state_dict())
    modules = list(model.modules())
    assert exactnorm.torch.fuse(model) is model
    assert fused_layers(model) == COUNTS[name]
    assert list(model.state_dict()) == names
    assert list(model.modules()) == modules
    x = torch.randn(6, 8, 5, 5, dtype=torch.float64).contiguous(memory_format=memory_format)
    for one, other in zip(steps(model, x), steps(original, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_unfuse_brings_all_back(name):
    model = normal(MODELS[name]())
    original = copy.deepcopy(model)
    before = [(type(module), set(module.__dict__)) for module in model.modules()]
    exactnorm.torch.unfuse(exactnorm.torch.fuse(model))
    assert [(type(module), set(module.__dict__)) for module in model.modules()] == before
    x = torch.randn(6, 8, 5, 5)
    for one, other in zip(steps(model, x), steps(original, x), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", MODELS)
def test_copies_pickles_and_exchanged_steps(name):
    model = exactnorm.torch.fuse(normal(MODELS[name]())).eval()
    x = torch.randn(6, 8, 5, 5)
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), expected)
        for module in other.modules():
            for tensor in module.parameters(recurse=False):
                tensor.data.mul_(2)
        assert not torch.equal(other(x), expected)
        exactnorm.torch.unfuse(other)
        assert fused_layers(other) == 0
    assert torch.equal(model(x), expected)


def test_steps_that_are_exchanged_later_take_part():
    model = exactnorm.torch.fuse(normal(Basic(8))).eval()
    x = torch.randn(2, 8, 5, 5)
    before = model(x)
    model.conv1 = nn.Conv2d(8, 8, 3, padding=1)
    assert not torch.equal(model(x), before)


def test_what_has_other_uses_is_left():
    shared = nn.BatchNorm2d(8)
    two_uses = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared, nn.ReLU()))
    with_hook = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU())
    with_hook[1].register_forward_hook(lambda *arguments: None)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x):
            y = self.norm(x)
            return torch.relu(y) + y

    class Subclass(nn.BatchNorm2d):
        pass

    for model in (two_uses, with_hook, Both(), nn.Sequential(Subclass(8), nn.ReLU()), nn.Sequential(nn.BatchNorm2d(8), nn.GELU())):
        exactnorm.torch.fuse(model)
        assert fused_layers(model) == 0
        assert "forward" not in model.__dict__


def test_outputs_that_differ_undo_it():
    class Flag(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(8)
            self.calls = 0

        def forward(self, x):
            self.calls += 1  # another forward() with each call
            return torch.relu(self.norm(x)) * self.calls

    model = Flag()
    with pytest.raises(ValueError, match="example_inputs: give other outputs"):
        exactnorm.torch.fuse(model, (torch.randn(4, 8, 3, 3),))
    assert fused_layers(model) == 0
    assert "forward" not in model.__dict__
    block = normal(Basic(8))
    block.bn1.eval()
    exactnorm.torch.fuse(block, (torch.randn(4, 8, 5, 5),))
    assert fused_layers(block) == 2
    assert not block.bn1.training
    assert block.bn2.training


def test_autocast_and_memory_of_a_step():
    model = exactnorm.torch.fuse(normal(nn.Sequential(nn.Conv2d(3, 8, 1), Basic(8), nn.Flatten(), nn.Linear(8 * 36, 2))))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.randn(4, 3, 6, 6)).float().square().mean()
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_a_compiled_model():
    model = normal(nn.Sequential(Basic(8), Basic(8)))
    original = copy.deepcopy(model)
    compiled = torch.compile(exactnorm.torch.fuse(model), backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 8, 5, 5)
    for training in (True, False):
        torch.testing.assert_close(compiled.train(training)(x), original.train(training)(x), rtol=1e-4, atol=1e-4)


def test_a_conversion_of_a_fused_model_leaves_nothing():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    before = set(model[1].__dict__)
    exactnorm.torch.unfuse(exactnorm.torch.convert(exactnorm.torch.fuse(model), compiled="exact"))
    assert type(model[1]) is nn.BatchNorm2d and set(model[1].__dict__) == before
