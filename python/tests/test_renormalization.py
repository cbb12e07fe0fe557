"""Batch renormalization: against the paper's formula in PyTorch's operations, with r and d detached."""

import copy
import pickle

import numpy as np
import pytest
import torch

import exactnorm


def of_paper(x, gamma, beta, running_mean, running_variance, limits, epsilon):
    mean, deviation = x.mean((0, 2)), torch.sqrt(x.var((0, 2), correction=0) + epsilon)
    running_deviation = torch.sqrt(running_variance + epsilon)
    r_min = 1 / limits.r_max if limits.r_min is None else limits.r_min
    r = (deviation / running_deviation).clamp(r_min, limits.r_max).detach()
    d = ((mean - running_mean) / running_deviation).clamp(-limits.d_max, limits.d_max).detach()
    column = lambda values: values[:, None]  # noqa: E731
    normalized = (x - column(mean)) / column(deviation)
    return (normalized * column(r) + column(d)) * column(gamma) + column(beta)


@pytest.mark.parametrize(
    "limits",
    [
        exactnorm.RenormalizationLimits(),
        exactnorm.RenormalizationLimits(1.2, 0.3),
        exactnorm.RenormalizationLimits(3, 5),
        exactnorm.RenormalizationLimits.from_keras(),
        exactnorm.RenormalizationLimits.from_keras({"rmax": 1.1, "rmin": 0.5, "dmax": 0.1}),
    ],
)
def test_a_layer_is_the_papers(limits):
    generator = np.random.default_rng(1)
    layer = exactnorm.BatchNorm(3, momentum=0.3, renormalization=limits, epsilon=1e-3)
    layer.gamma, layer.beta = generator.normal(size=(2, 3))
    mean, variance = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for step in range(4):
        x, dy = generator.normal(step, 1 + step, (2, 8, 3, 5))
        y = layer(x)
        leaves = [torch.from_numpy(array.copy()).requires_grad_() for array in (x, layer.gamma, layer.beta)]
        theirs = of_paper(*leaves, mean, variance, limits, 1e-3)
        np.testing.assert_allclose(y, theirs.detach().numpy(), rtol=1e-12, atol=1e-12)
        theirs.backward(torch.from_numpy(dy))
        dx = layer.backward(dy, x)
        for mine, leaf in zip((dx, layer.dgamma, layer.dbeta), leaves, strict=True):
            np.testing.assert_allclose(mine, leaf.grad.numpy(), rtol=1e-11, atol=1e-11)
        mean = 0.7 * mean + 0.3 * leaves[0].detach().mean((0, 2))
        variance = 0.7 * variance + 0.3 * leaves[0].detach().var((0, 2))
        np.testing.assert_allclose(layer.running.variance, variance.numpy(), rtol=1e-12)


def test_no_limits_are_the_running_statistics():
    x = np.random.default_rng(2).normal(3, 2, (8, 3, 5))
    layer = exactnorm.BatchNorm(3, renormalization=exactnorm.RenormalizationLimits.from_keras())
    before = copy.deepcopy(layer)
    before.training = False
    np.testing.assert_allclose(layer(x), before(x), rtol=1e-13, atol=1e-13)


def test_schedules():
    schedule = exactnorm.RenormalizationSchedule()
    assert schedule.at(0) == exactnorm.RenormalizationLimits(1, 0)
    assert schedule.at(15_000) == exactnorm.RenormalizationLimits(1 + 2 * (10 / 35), 2.5)
    assert schedule.at(10**6) == exactnorm.RenormalizationLimits(3, 5)
    with pytest.raises(ValueError, match="r_end: is 3; expected 9 or more, as begin is"):
        exactnorm.RenormalizationSchedule(9, 3).at(1)
    with pytest.raises(ValueError, match="step: is -1; expected 0 or more"):
        schedule.at(-1)


def test_what_is_impossible_is_refused():
    x = np.ones((4, 3), np.float32)
    layer = exactnorm.BatchNorm(3, renormalization=exactnorm.RenormalizationLimits(0.5))
    with pytest.raises(ValueError, match=r"r_max: is 0\.5; expected 1 or more"):
        layer(x)
    assert layer.running.batches_tracked == 0
    layer.renormalization = 3
    with pytest.raises(TypeError, match="renormalization: is of type int; expected RenormalizationLimits or None"):
        layer(x)
    with pytest.raises(ValueError, match=r"clipping: has keys \['r_max'\]; expected 'rmax', 'rmin' and 'dmax' alone"):
        exactnorm.RenormalizationLimits.from_keras({"r_max": 3})


def test_copies_keep_limits():
    layer = exactnorm.BatchNorm(3, renormalization=exactnorm.RenormalizationLimits(3, 5))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.renormalization == layer.renormalization
