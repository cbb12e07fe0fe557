"""exactnorm.torch.fold where the given model, its classes or the arguments are unusual."""

from __future__ import annotations

import copy

import exactnorm.torch
import pytest
import torch
from torch import nn


def cancelling():
    """A layer whose outputs lose most of their digits before the mean is subtracted."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)).eval()
    model[0].weight.data *= 0.02
    model[0].bias.data.fill_(1000.0)
    model[1].running_mean.fill_(1000.0)
    model[1].running_var.fill_(1e-4)
    return model


def test_a_fold_that_removes_an_error_is_none():
    model, x = cancelling(), torch.randn(4, 8, 6, 6)
    folded, report = exactnorm.torch.fold(model, (x,))
    exact = copy.deepcopy(model).double()(x.double())
    given, found = (float((y - exact).abs().max() / exact.abs().max()) for y in (model(x), folded(x)))
    assert given > 1e-3 > 1e-5 > found
    assert report.errors == pytest.approx((given, found)) and report.difference > 1e-3
    assert "by float64 the given model's are off by 0.00" in str(report)


@pytest.mark.parametrize(
    ("layer", "norm"),
    [
        (nn.Conv2d(3, 5, 1), nn.BatchNorm1d(5)),
        (nn.Conv3d(3, 5, 1), nn.BatchNorm2d(5)),
        (nn.ConvTranspose2d(3, 5, 1), nn.BatchNorm1d(5)),
        (nn.Conv1d(3, 5, 1), nn.BatchNorm2d(5)),
        (nn.BatchNorm1d(3), nn.Conv2d(3, 5, 1)),
        (nn.BatchNorm2d(3), nn.Conv1d(3, 5, 1)),
    ],
)
def test_normalizations_for_other_numbers_of_axes_stay(layer, norm):
    _, report = exactnorm.torch.fold(nn.Sequential(layer, norm).eval())
    (refused,) = report.refused
    assert "is for other numbers of axes than" in refused.reason


def test_a_synchronized_normalization_takes_one_number_of_axes_when_it_is_folded():
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.SyncBatchNorm(5)).eval()
    model[1].running_mean.normal_()
    folded, report = exactnorm.torch.fold(model)
    assert len(report.folded) == 1
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(folded(x), model(x))
    with pytest.raises(RuntimeError, match="input: has 3 axes; expected 4"):
        folded(x[0])


def test_one_odd_layer_leaves_the_others():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1, dtype=torch.complex64), nn.BatchNorm2d(5)).eval()
    _, report = exactnorm.torch.fold(model)
    assert [norm.name for norm in report.folded] == ["1"]
    assert [norm.name for norm in report.refused] == ["4"]


def test_arguments_of_other_kinds():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    with pytest.raises(TypeError, match="example_inputs: is a tensor; expected a tuple"):
        exactnorm.torch.fold(model, torch.randn(1, 3, 4, 4))
    with pytest.raises(TypeError, match="model: is a torch.jit.ScriptModule"):
        exactnorm.torch.fold(torch.jit.script(model))
