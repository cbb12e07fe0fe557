"""exactnorm.torch.fold on torchvision's and timm's networks."""

from __future__ import annotations

import sys
from pathlib import Path

import exactnorm.torch
import pytest
import torch
from test_torch_fold import assert_folds, trained
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
from vision import torchvision  # noqa: E402


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121"])
def test_networks_of_torchvision(name):
    torch.manual_seed(10)
    model, x = trained(getattr(torchvision().models, name)()), torch.randn(2, 3, 64, 64)
    folded, report = exactnorm.torch.fold(model, (x,))
    left = {"resnet18": 0, "mobilenet_v3_small": 0, "densenet121": 62}[name]
    assert len(report.refused) == left and report.difference < 1e-4
    assert str(report).splitlines()[0].startswith(f"{len(report.folded)} of {len(report.folded) + left} batch normalizations folded")
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == left


def test_frozen_and_activated_norms_of_packages():
    torchvision()
    import timm
    from torchvision.ops.misc import FrozenBatchNorm2d

    torch.manual_seed(11)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), FrozenBatchNorm2d(4), nn.ReLU())
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(1, 2)
    assert_folds(model.eval(), torch.randn(2, 3, 5, 5), ["1"])
    model, x = trained(timm.create_model("efficientnet_b0")), torch.randn(1, 3, 64, 64)
    folded, report = exactnorm.torch.fold(model, (x,))
    assert not report.refused and len(report.folded) == 49


def test_norms_that_timm_has_frozen():
    torchvision()
    import timm
    from timm.layers.norm_act import freeze_batch_norm_2d

    torch.manual_seed(13)
    model = trained(timm.create_model("efficientnet_b0"))
    model, x = freeze_batch_norm_2d(model).train(), torch.randn(2, 3, 64, 64)
    model.eval()
    assert type(model.bn1).__name__ == "FrozenBatchNormAct2d"
    folded, report = exactnorm.torch.fold(model, (x,))
    assert not report.refused and len(report.folded) == 49
    torch.testing.assert_close(folded(x), model(x), rtol=1e-3, atol=1e-4)
    found = exactnorm.torch.inspect(model, [x])
    assert len(found.norms) == 49 and not found.untouched


def test_they_are_inspected_and_frozen():
    torchvision()
    import timm
    from torchvision.ops.misc import FrozenBatchNorm2d

    torch.manual_seed(12)
    x = torch.randn(3, 4, 5, 5)
    model = nn.Sequential(FrozenBatchNorm2d(4), nn.BatchNorm2d(4)).eval()
    norm = exactnorm.torch.inspect(model, [x]).norms["0"]
    torch.testing.assert_close(torch.from_numpy(norm.drift), x.double().mean((0, 2, 3)) / (1 + 1e-5) ** 0.5)
    model, x = trained(timm.create_model("efficientnet_b0")), torch.randn(2, 3, 64, 64)
    found = exactnorm.torch.inspect(model, [x])
    assert len(found.norms) == 49 == len(found.folds.folded) and not found.untouched
    exactnorm.torch.freeze(model).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(x).sum().backward()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(not module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d))
