"""The layer: what a backward pass belongs to, and what a refused call leaves."""

from __future__ import annotations

import copy
import pickle

import exactnorm
import numpy as np
import pytest
import torch

RNG = np.random.default_rng(50)


def data(shape=(9, 3, 4), dtype=np.float64):
    return RNG.normal(2, 3, shape).astype(dtype)


@pytest.mark.parametrize("momentum", [2.0, -0.1, np.nan])
def test_a_momentum_out_of_range_is_refused_before_anything_is_written(momentum):
    layer = exactnorm.BatchNorm(3, momentum=momentum)
    x, out = data(), np.full((9, 3, 4), 7.0)
    with pytest.raises(ValueError, match="momentum: is .*; expected 0 to 1"):
        layer(x, out=out)
    before = x.copy()
    with pytest.raises(ValueError, match="momentum"):
        layer(x, out=x)
    assert (out == 7).all()
    assert (x == before).all()
    assert layer.running.batches_tracked == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_backward_refuses_another_x(dtype):
    layer = exactnorm.BatchNorm(3)
    x, dy = data(dtype=dtype), data(dtype=dtype)
    y = layer(x)
    out = np.full_like(x, 7)
    for wrong in (data(dtype=dtype), x + 1, 2 * x, y, -x):
        with pytest.raises(ValueError, match="x: has a (mean|variance) of .* as x had in the latest forward pass"):
            layer.backward(dy, wrong.astype(dtype), out=out)
    with pytest.raises(ValueError, match=r"x: has shape \(8, 3, 4\); expected \(9, 3, 4\), as in the latest"):
        layer.backward(dy[:8], x[:8], out=out[:8])
    assert (out == 7).all()
    assert layer.dgamma is None
    expected = exactnorm.batch_norm_backward(dy, x, exactnorm.statistics(x))
    for same in (x, x.copy(), np.asfortranarray(x), torch.from_numpy(x)):
        assert (layer.backward(dy, same) == expected.dx).all()
    assert np.allclose(layer.dgamma, expected.dgamma, rtol=1e-6)
    assert np.allclose(layer.dbeta, expected.dbeta, rtol=1e-6)
    # The buffer of the batch before holds the next one.
    kept = x.copy()
    layer(x)
    x[:] = data(dtype=dtype)
    with pytest.raises(ValueError, match="as x had in the latest forward pass"):
        layer.backward(dy, x)
    layer.backward(dy, kept)
    layer(x, out=x)
    with pytest.raises(ValueError, match="as x had in the latest forward pass"):
        layer.backward(dy, x)


@pytest.mark.parametrize("training", [True, False])
def test_backward_has_the_settings_of_its_call(training):
    x, dy, other = data(), data(), data()
    layer = exactnorm.BatchNorm(3, epsilon=0.5, epsilon_placement="deviation")
    layer(other)
    layer.training = training
    layer.gamma = gamma = np.array([1.0, 2.0, 3.0])
    found = exactnorm.statistics(x, epsilon=0.5, epsilon_placement="deviation")
    if not training:
        found = layer.running.statistics(epsilon=0.5, epsilon_placement="deviation")
    layer(x)
    layer.gamma = 0
    layer.epsilon, layer.epsilon_placement, layer.channel_axes = 1e-5, "variance", 0
    layer.training = not training
    layer.running.mean = 9
    expected = exactnorm.batch_norm_backward(dy, x, found, gamma, frozen=not training)
    assert (layer.backward(dy, x) == expected.dx).all()
    assert (layer.dgamma == expected.dgamma).all()
    assert (layer.dbeta == expected.dbeta).all()


def test_parameters_are_changed_in_place_and_by_assignment():
    layer = exactnorm.BatchNorm(3)
    x = data()
    layer.gamma[:] = [1, 2, 3]
    layer.gamma *= 2
    layer.beta = np.array([4, 5, 6]).reshape(1, 3, 1)
    assert (layer(x) == exactnorm.batch_norm(x, [2, 4, 6], [4, 5, 6])).all()
    gamma = layer.gamma
    layer.gamma = layer.gamma - 1
    assert gamma.tolist() == [1, 3, 5]
    layer.beta = 0.5
    assert (layer(x) == exactnorm.batch_norm(x, [1, 3, 5], 0.5)).all()
    del layer
    assert gamma.tolist() == [1, 3, 5]
    layer = exactnorm.BatchNorm(3)
    with pytest.raises(ValueError, match=r"gamma: has shape \(2,\); expected a number, or one for each of 3 channels"):
        layer.gamma = [1, 2]
    with pytest.raises(TypeError, match="beta: is of type str"):
        layer.beta = "a"


def test_running_statistics_are_the_layers():
    layer = exactnorm.BatchNorm(3)
    running = layer.running
    layer(data())
    assert running.batches_tracked == 1
    running.mean = [1, 2, 3]
    assert layer.running.mean.tolist() == [1, 2, 3]
    kept = exactnorm.RunningStatistics.from_values(0, [4, 9, 16], momentum=None, batches_tracked=12)
    layer.running = kept
    kept.mean = 5
    assert running.variance.tolist() == [4, 9, 16]
    assert (running.momentum, running.batches_tracked) == (None, 12)
    assert running.mean.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="running: has 2 channels; expected 3"):
        layer.running = exactnorm.RunningStatistics(2)
    with pytest.raises(TypeError, match="running: is of type int"):
        layer.running = 3


def test_copies_have_values_of_their_own():
    layer = exactnorm.BatchNorm(3, channel_axes=-1, epsilon=0.1, variance_kind="biased")
    x = data((10, 3))
    layer(x)
    layer.gamma = [1, 2, 3]
    for other in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.running.variance_kind == "biased"
        other.training = layer.training = False
        assert (other(x) == layer(x)).all()
        other.gamma[:] = 0
        other.running.mean = 0
        assert layer.gamma.tolist() == [1, 2, 3]
        assert layer.running.mean.any()
    with pytest.raises(RuntimeError, match="forward first"):
        copy.copy(layer).backward(x, x)


def test_epsilon_is_that_of_the_statistics():
    x, dy = data((6, 2)), data((6, 2))
    x_torch = torch.tensor(x, requires_grad=True)
    deviation = x_torch.var(dim=0, correction=0).sqrt() + 0.5
    ((x_torch - x_torch.mean(dim=0)) / deviation).backward(torch.tensor(dy))
    _, found = exactnorm.batch_norm(x, epsilon=0.5, epsilon_placement="deviation", return_statistics=True)
    again = pickle.loads(pickle.dumps(found))
    for statistics in (found, again, exactnorm.statistics(x, epsilon=0.5, epsilon_placement="deviation")):
        assert (statistics.epsilon, statistics.epsilon_placement) == (0.5, "deviation")
        dx = exactnorm.batch_norm_backward(dy, x, statistics).dx
        assert np.allclose(dx, x_torch.grad, rtol=1e-12, atol=1e-13)
        assert (exactnorm.batch_norm_backward(dy, x, statistics, epsilon=0.5, epsilon_placement="deviation").dx == dx).all()
    with pytest.raises(ValueError, match=r"epsilon: is 1e-05; expected 0\.5, which is in statistics"):
        exactnorm.batch_norm_backward(dy, x, found, epsilon=1e-5)
    with pytest.raises(ValueError, match="epsilon_placement: is 'variance'; expected 'deviation', which is in statistics"):
        exactnorm.batch_norm_backward(dy, x, found, epsilon_placement="variance")
    running = exactnorm.RunningStatistics(2).statistics(epsilon=0.25, epsilon_placement="deviation")
    assert (running.epsilon, running.epsilon_placement) == (0.25, "deviation")
