"""exactnorm.torch.fuse on networks of torchvision and timm, as these packages write them."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import exactnorm.torch
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
from vision import torchvision

torchvision()
import timm  # noqa: E402 - after torchvision, which it imports
from timm.layers import BatchNormAct2d  # noqa: E402


def of_torchvision(name):
    return lambda: getattr(torchvision().models, name)(num_classes=5)


def of_timm(name):
    return lambda: timm.create_model(name, num_classes=5)


# What makes the model, how many normalizations it has, and how many of them an activation follows.
NETWORKS = {
    "resnet18": (of_torchvision("resnet18"), 20, 17),
    "resnet50": (of_torchvision("resnet50"), 53, 49),
    "mobilenet_v2": (of_torchvision("mobilenet_v2"), 52, 35),
    "mobilenet_v3_small": (of_torchvision("mobilenet_v3_small"), 34, 23),
    "densenet121": (of_torchvision("densenet121"), 121, 120),
    "timm's resnet18": (of_timm("resnet18"), 20, 17),
    "timm's efficientnet_b0": (of_timm("efficientnet_b0"), 49, 49),
    "timm's densenet121": (of_timm("densenet121"), 121, 121),
}


def norms_of(model):
    return [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_packages(name):
    make, norms, fused = NETWORKS[name]
    torch.manual_seed(0)
    model = make().double()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for norm in norms_of(model):
        torch.nn.init.uniform_(norm.weight, -1.0, 1.0)
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    theirs = copy.deepcopy(model)
    classes = [type(module) for module in model.modules()]
    exactnorm.torch.fuse(model, (x,))
    found = [norm for norm in norms_of(model) if isinstance(norm, exactnorm.torch._activated._BatchNormAct)]
    assert (len(norms_of(model)), len(found)) == (norms, fused)
    assert list(model.state_dict()) == list(theirs.state_dict())
    y, expected = model(x), theirs(x)
    torch.testing.assert_close(y, expected, rtol=1e-8, atol=1e-9)
    for output in (y, expected):
        output.square().mean().backward()
    for (where, mine), other in zip(model.named_parameters(), theirs.parameters(), strict=True):
        scale = float(other.grad.abs().max())
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-6, atol=1e-8 * max(scale, 1.0), msg=where)
    for (where, mine), other in zip(model.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11, msg=where)
    exactnorm.torch.unfuse(model)
    assert [type(module) for module in model.modules()] == classes


@pytest.mark.parametrize(
    ("options", "activation"),
    [
        ({}, "relu"),
        ({"act_layer": torch.nn.SiLU}, "silu"),
        ({"act_layer": torch.nn.LeakyReLU, "act_kwargs": {"negative_slope": 0.2}}, "leaky_relu"),
        ({"apply_act": False}, "none"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_timms_layer(options, activation, training):
    torch.manual_seed(1)
    layer = BatchNormAct2d(4, dtype=torch.float64, **options).train(training)
    theirs = copy.deepcopy(layer)
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    exactnorm.torch.fuse(layer)
    assert type(layer) is exactnorm.torch.BatchNormAct2d
    assert layer.activation == activation
    torch.testing.assert_close(layer(x), theirs(x), rtol=1e-11, atol=1e-12)
    assert str(layer.act) == str(theirs.act)
    exactnorm.torch.unfuse(layer)
    assert type(layer) is BatchNormAct2d
    torch.testing.assert_close(layer(x), theirs(x), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"act_layer": torch.nn.GELU}, {"drop_layer": torch.nn.Dropout}])
def test_timms_layers_that_are_left_alone(options):
    layer = BatchNormAct2d(4, **options)
    exactnorm.torch.fuse(layer)
    assert type(layer) is BatchNormAct2d
