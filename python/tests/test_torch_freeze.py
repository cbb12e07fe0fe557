"""exactnorm.torch.freeze: normalizations that no training changes."""

from __future__ import annotations

import copy
import pickle

import exactnorm.torch
import pytest
import torch
from exactnorm.torch import BatchNormAct2d, freeze, unfreeze
from torch import nn


def network():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5),
        nn.BatchNorm1d(5),
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def state(model):
    norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return [value.clone() for norm in norms for value in norm.state_dict().values()]


def train(model, steps=3):
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    generator = torch.Generator().manual_seed(2)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 8, 8, generator=generator)).pow(2).mean().backward()
        optimizer.step()


def same(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def wrapped(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("change", [lambda m: m, copy.deepcopy, wrapped, exactnorm.torch.convert, exactnorm.torch.fuse])
def test_training_changes_nothing_of_them(change):
    model = change(freeze(network()))
    before, first = state(model), model[0].weight.detach().clone()
    train(model)
    assert same(before, state(model)) and not torch.equal(first, model[0].weight)
    expected = network()
    expected.load_state_dict(model.state_dict())
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(model.train()(x), expected.eval()(x), rtol=1e-4, atol=1e-5)


def test_parameters_may_be_trained():
    model = freeze(network(), parameters=False)
    before, gamma = model[1].running_mean.clone(), model[1].weight.detach().clone()
    train(model)
    assert torch.equal(before, model[1].running_mean) and not torch.equal(gamma, model[1].weight)


def test_gradients_are_those_of_constants():
    x = torch.randn(4, 6, 5, 5, dtype=torch.float64, requires_grad=True)
    norm = freeze(nn.BatchNorm2d(6).double()).train()
    norm.running_var.uniform_(0.5, 2)
    assert torch.autograd.gradcheck(norm, (x,))


def test_unfreezing():
    model = network()
    model[4].weight.requires_grad_(False)
    unfreeze(freeze(freeze(model.train(), parameters=False)))
    assert all(module.training for module in model.modules())
    assert [model[4].weight.requires_grad, model[4].bias.requires_grad, model[1].weight.requires_grad] == [False, True, True]
    before = state(model)
    train(model)
    assert not same(before, state(model))
    assert "train" not in model[1].__dict__


def test_every_class():
    class Own(nn.BatchNorm2d):
        pass

    model = nn.Sequential(Own(3), BatchNormAct2d(3, activation="relu"), nn.SyncBatchNorm(3), exactnorm.torch.SyncBatchNorm(3))
    freeze(model).train()
    assert model.training and not any(module.training for module in model)
    assert all(type(module) is kind for module, kind in zip(model, [Own, BatchNormAct2d, nn.SyncBatchNorm, exactnorm.torch.SyncBatchNorm], strict=True))


def test_it_folds_and_compiles():
    model = freeze(network())
    folded, report = exactnorm.torch.fold(model.eval(), (torch.randn(2, 3, 8, 8),))
    assert len(report.folded) == 3 and not report.refused
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(torch.compile(model.train(), backend="eager")(x), model(x))


def test_without_statistics_there_is_nothing_to_freeze():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)).train()
    with pytest.raises(ValueError, match="model: has no running statistics in 1"):
        freeze(model)
    assert all(module.training for module in model)


def test_nothing_is_frozen_where_one_cannot_be():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.LazyBatchNorm1d()).train()
    with pytest.raises(ValueError, match="model: 1 is not initialized yet"):
        freeze(model)
    assert model[0].training and model[0].weight.requires_grad
