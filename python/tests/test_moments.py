"""Sums in parts, running statistics and the layer."""

from __future__ import annotations

import copy
import pickle

import exactnorm
import numpy as np
import pytest
import torch


def test_any_cut_gives_the_same_sums(tmp_path):
    rng = np.random.default_rng(20)
    x = (rng.normal(size=(1000, 6)) * 10.0 ** rng.integers(-20, 20, size=(1000, 6))).astype(np.float32)
    whole = exactnorm.Moments.of(x)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    cuts = sorted(rng.integers(0, 1000, size=7))
    parts = [exactnorm.Moments(6).add(part) for part in np.split(mapped, cuts)]
    rng.shuffle(parts)
    merged = parts[0]
    for part in parts[1:]:
        merged += pickle.loads(pickle.dumps(part))
    assert merged == whole
    assert merged.count == 1000
    assert (merged.statistics().mean == exactnorm.statistics(x).mean).all()
    assert copy.deepcopy(merged) == whole
    assert merged != exactnorm.Moments(6)
    assert merged != 3


def test_dtypes_may_be_mixed():
    x = np.arange(12.0).reshape(6, 2)
    sums = exactnorm.Moments(2).add(x[:2].astype(np.float32)).add(x[2:4]).add(x[4:].astype(np.int64))
    assert (sums.statistics().mean == x.mean(axis=0)).all()
    assert (sums.statistics().variance == x.var(axis=0)).all()


def test_nonfinite_values_are_counted():
    sums = exactnorm.Moments.of(np.array([[1.0, np.nan], [np.inf, 2.0], [np.inf, 3.0]]))
    assert [sums.nonfinite_count(0), sums.nonfinite_count(1)] == [2, 1]
    assert np.isnan(sums.statistics().mean).all()


def test_errors_change_nothing():
    sums = exactnorm.Moments.of(np.ones((3, 2)))
    before = sums.copy()
    for wrong in (
        lambda: sums.add(np.ones((3, 4))),
        lambda: sums.merge(exactnorm.Moments(3)),
        lambda: exactnorm.Moments.from_bytes(b"nothing"),
        lambda: exactnorm.Moments(-1),
        lambda: exactnorm.Moments.of(np.ones((3, 2)), channel_axes=5),
    ):
        with pytest.raises(ValueError):
            wrong()
    with pytest.raises(TypeError):
        sums + 3
    assert sums == before


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_layer_follows_pytorchs(momentum):
    theirs = torch.nn.BatchNorm2d(3, momentum=momentum, dtype=torch.float64)
    ours = exactnorm.BatchNorm(3, momentum=momentum)
    rng = np.random.default_rng(21)
    ours.gamma[:] = rng.normal(size=3)
    ours.beta[:] = rng.normal(size=3)
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(ours.gamma))
        theirs.bias.copy_(torch.from_numpy(ours.beta))
    for mode in (True, True, False, True, False):
        theirs.train(mode)
        ours.training = mode
        x = rng.normal(2, 3, size=(4, 3, 5, 5))
        dy = rng.normal(size=x.shape)
        x_torch = torch.tensor(x, requires_grad=True)
        theirs.zero_grad()
        y_torch = theirs(x_torch)
        y_torch.backward(torch.from_numpy(dy))
        assert np.allclose(ours(x), y_torch.detach(), rtol=1e-12, atol=1e-12)
        assert np.allclose(ours.backward(dy, x), x_torch.grad, rtol=1e-12, atol=1e-12)
        assert np.allclose(ours.dgamma, theirs.weight.grad, rtol=1e-12, atol=1e-12)
        assert np.allclose(ours.dbeta, theirs.bias.grad, rtol=1e-12, atol=1e-12)
        assert np.allclose(ours.running.mean, theirs.running_mean, rtol=1e-12, atol=1e-14)
        assert np.allclose(ours.running.variance, theirs.running_var, rtol=1e-12, atol=1e-14)
    assert ours.running.batches_tracked == 3
    again = pickle.loads(pickle.dumps(ours))
    assert (again(x) == ours(x)).all()


def test_layer_refuses_one_value_per_channel():
    layer = exactnorm.BatchNorm(3)
    with pytest.raises(ValueError, match="x: has one value per channel"):
        layer(np.ones((1, 3), np.float32))
    with pytest.raises(RuntimeError, match="expected a forward first"):
        layer.backward(np.ones((2, 3)), np.ones((2, 3)))
    assert layer.running.batches_tracked == 0


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int32"])
def test_normalizing_statistics_are_those_of_training(dtype):
    x = (np.random.default_rng(33).normal(3, 20, (400, 3, 5))).astype(dtype)
    _, expected = exactnorm.batch_norm(x, epsilon=1e-3, return_statistics=True)
    parts = exactnorm.Moments(3).add(x[170:]) + exactnorm.Moments(3).add(x[:170])
    found = parts.normalizing_statistics(epsilon=1e-3)
    exact = parts.statistics(epsilon=1e-3)
    for name in ("mean", "mean_residual", "variance", "inverse_deviation"):
        assert (getattr(found, name) == getattr(expected, name)).all()
    assert (found.variance == exact.variance).all() == (dtype in ("float64", "int32"))


def test_running_statistics_refuse_what_is_not_finite():
    running = exactnorm.RunningStatistics(2)
    refused = running.update(exactnorm.statistics(np.array([[1.0, np.nan], [3.0, 1.0]])))
    assert list(refused) == [1]
    assert list(running.batches_refused) == [0, 1]
    assert running.mean[1] == 0


def test_nonfinite_values_are_left_out():
    x = np.array([[1, np.nan, np.inf], [2, 5, np.nan], [6, -3, -np.inf]])
    sums = exactnorm.Moments(3).add(x)
    found = sums.statistics(nonfinite="ignore")
    assert found.count == 3
    assert found.counts == [3, 2, 0]
    np.testing.assert_array_equal(found.mean, [3, 1, np.nan])
    np.testing.assert_array_equal(found.variance, [14 / 3, 16, np.nan])
    np.testing.assert_array_equal(exactnorm.statistics(x, nonfinite="ignore").mean, found.mean)
    np.testing.assert_array_equal(sums.normalizing_statistics(nonfinite="ignore").mean, found.mean)
    assert np.isnan(sums.statistics().mean[1])
    assert sums.statistics().counts == [3, 3, 3]
    assert pickle.loads(pickle.dumps(found)).counts == found.counts
    with pytest.raises(ValueError, match="nonfinite: is 'drop'; expected 'propagate' or 'ignore'"):
        sums.statistics(nonfinite="drop")
