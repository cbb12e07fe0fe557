"""exactnorm.torch's modules beside torch.nn's, with PyTorch's own samples of modules."""

from __future__ import annotations

import copy
import io
import pickle
import sys
import weakref

import exactnorm.torch
import pytest
import torch
from torch import nn
from torch.testing._internal.common_modules import module_db

NAMES = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]
SHAPES = {"BatchNorm1d": (6, 3, 5), "BatchNorm2d": (4, 3, 5, 2), "BatchNorm3d": (4, 3, 2, 3, 2)}


def both(name, *args, **kwargs):
    """The two modules with the same random parameters."""
    theirs = getattr(nn, name)(*args, **kwargs)
    ours = getattr(exactnorm.torch, name)(*args, **kwargs)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def assert_same_steps(ours, theirs, x):
    """Two training steps and one evaluation: outputs, gradients, buffers."""
    for training in (True, True, False):
        results = []
        for module in (ours, theirs):
            module.train(training)
            module.zero_grad()
            leaf = x.detach().clone().requires_grad_()
            y = module(leaf)
            y.backward(torch.cos(x))
            results.append([y.detach(), leaf.grad, *(p.grad for p in module.parameters()), *module.buffers()])
        for mine, other in zip(*results, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)
        x = x * 2 + 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_samples_of_pytorchs_own_tests(name, training):
    (info,) = [info for info in module_db if info.name == f"nn.{name}"]
    samples = info.module_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=False, training=training
    )
    compared = 0
    for sample in samples:
        arguments = sample.constructor_input
        ours, theirs = both(name, *arguments.args, **arguments.kwargs, dtype=torch.float64)
        (x,) = sample.forward_input.args
        if x.dim() < 2 or (training and x.numel() == x.shape[1]):
            continue
        assert_same_steps(ours, theirs, x)
        assert repr(ours) == repr(theirs)
        compared += 1
    assert compared > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "arguments",
    [{}, {"momentum": None}, {"momentum": 0.7}, {"track_running_stats": False}, {"affine": False}, {"eps": 0.3}],
    ids=str,
)
def test_settings(name, arguments):
    torch.manual_seed(8)
    ours, theirs = both(name, 3, dtype=torch.float64, **arguments)
    assert_same_steps(ours, theirs, torch.randn(SHAPES[name], dtype=torch.float64))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())


def test_tracking_turned_off_after_construction():
    torch.manual_seed(9)
    ours, theirs = both("BatchNorm1d", 3, dtype=torch.float64)
    ours.track_running_stats = theirs.track_running_stats = False
    assert_same_steps(ours, theirs, torch.randn(6, 3, dtype=torch.float64))
    assert ours.num_batches_tracked == 0


@pytest.mark.parametrize("name", NAMES)
def test_is_a_module_of_torch_nn(name):
    module = getattr(exactnorm.torch, name)(3)
    assert isinstance(module, getattr(nn, name))
    assert module._version == 2
    old = {key: value for key, value in module.state_dict().items() if key != "num_batches_tracked"}
    module.load_state_dict(old)  # files from before the counter
    assert module.double().weight.dtype == torch.float64
    assert module.to("meta").weight.is_meta


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_are_wrong(name):
    ours, theirs = both(name, 3)
    x = torch.ones(3)
    with pytest.raises(ValueError) as expected:
        theirs(x)
    with pytest.raises(ValueError) as raised:
        ours(x)
    assert str(raised.value) == str(expected.value)


def test_a_refused_batch_changes_nothing():
    module = exactnorm.torch.BatchNorm1d(3)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        module(torch.ones(1, 3))
    assert module.num_batches_tracked == 0


def test_copies_and_pickles():
    module = exactnorm.torch.BatchNorm2d(3)
    x = torch.randn(4, 3, 5, 5)
    module(x)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False)]
    module.eval()
    for other in copies:
        assert type(other) is exactnorm.torch.BatchNorm2d
        assert torch.equal(other.eval()(x), module(x))


def test_nothing_is_kept_alive():
    module = exactnorm.torch.BatchNorm2d(3)
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    references = sys.getrefcount(x), sys.getrefcount(module.weight), sys.getrefcount(module.running_mean)
    outputs = []
    for create_graph in (False, True) * 20:
        y = module(x)
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=create_graph)
        if create_graph:
            torch.autograd.grad(dx.square().sum(), module.weight)
        outputs += [weakref.ref(y), weakref.ref(dx)]
        del y, dx
    assert [output() for output in outputs] == [None] * len(outputs)
    after = sys.getrefcount(x), sys.getrefcount(module.weight), sys.getrefcount(module.running_mean)
    assert after == references


@pytest.mark.parametrize("name", NAMES)
def test_lazy(name):
    module = getattr(exactnorm.torch, f"Lazy{name}")(momentum=0.3)
    y = module(torch.randn(SHAPES[name]))
    assert type(module) is getattr(exactnorm.torch, name)
    assert module.num_features == 3
    assert module.momentum == 0.3
    assert y.shape == SHAPES[name]


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


def residual_network():
    torch.manual_seed(10)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        Block(8),
        Block(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
        nn.BatchNorm1d(4),
    )


def test_convert_and_revert():
    model = residual_network()
    x = torch.randn(6, 3, 9, 9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    theirs = copy.deepcopy(model)
    parameters = list(model.parameters())
    calls = []
    model[1].register_forward_hook(lambda *_: calls.append(1))
    assert exactnorm.torch.convert(model) is model
    ours = [m for m in model.modules() if type(m).__module__ == "exactnorm.torch"]
    assert len(ours) == 6
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert model.state_dict().keys() == theirs.state_dict().keys()
    y = model(x)
    torch.testing.assert_close(y, theirs(x), rtol=1e-4, atol=1e-4)
    y.square().sum().backward()
    optimizer.step()
    assert calls == [1]
    assert exactnorm.torch.revert(model) is model
    assert not [m for m in model.modules() if type(m).__module__.startswith("exactnorm")]
    assert [type(m) for m in model.modules()] == [type(m) for m in theirs.modules()]


def test_revert_of_synchronized():
    model = nn.Sequential(nn.BatchNorm2d(3))
    synchronized = exactnorm.torch.convert_sync_batchnorm(model)
    y = synchronized.eval()(x := torch.randn(2, 3, 4, 4))
    assert type(exactnorm.torch.revert(synchronized)[0]) is nn.SyncBatchNorm
    torch.testing.assert_close(synchronized(x), y)


def test_convert_leaves_derived_classes_alone():
    class Mine(nn.BatchNorm1d):
        def forward(self, x):
            return x

    model = nn.Sequential(Mine(3), nn.SyncBatchNorm(3), nn.LazyBatchNorm1d())
    exactnorm.torch.convert(model)
    assert [type(m) for m in model] == [Mine, nn.SyncBatchNorm, exactnorm.torch.LazyBatchNorm1d]
    assert type(exactnorm.torch.convert(nn.BatchNorm1d(2))) is exactnorm.torch.BatchNorm1d


def test_pytorchs_helpers():
    model = exactnorm.torch.convert(residual_network())
    model(torch.randn(6, 3, 9, 9))
    model.eval()
    fused = nn.utils.fusion.fuse_conv_bn_eval(model[0], model[1])
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(fused(x), model[1](model[0](x)), rtol=1e-4, atol=1e-5)
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(vector * 2, model.parameters())
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(synchronized[1], nn.SyncBatchNorm)
    average = torch.optim.swa_utils.AveragedModel(exactnorm.torch.convert(residual_network()))
    torch.optim.swa_utils.update_bn([torch.randn(4, 3, 9, 9)] * 2, average)
    assert average.module[1].num_batches_tracked == 2
