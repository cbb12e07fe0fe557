"""Running statistics: set by hand, of either variance, in whatever convention they were kept."""

from __future__ import annotations

import copy
import pickle
from fractions import Fraction

import exactnorm
import mpmath
import numpy as np
import pytest
import torch


def mean_and_variance(values, kind):
    """Of integers, as rationals."""
    n = len(values)
    mean = Fraction(sum(values), n)
    return mean, sum((value - mean) ** 2 for value in values) / (n - 1 if kind == "unbiased" else n)


@pytest.mark.parametrize("kind", ["unbiased", "biased"])
@pytest.mark.parametrize("momentum", [0.25, None])
def test_either_variance_is_kept(kind, momentum):
    rng = np.random.default_rng(40)
    running = exactnorm.RunningStatistics.from_values([2, 3], [4, 5], momentum=momentum, variance_kind=kind, batches_tracked=3)
    expected = [[Fraction(2), Fraction(4)], [Fraction(3), Fraction(5)]]
    for batch in range(4):
        x = rng.integers(-50, 50, (5 + batch, 2))
        assert running.update(exactnorm.statistics(x.astype(np.float32))) == []
        weight = Fraction(1, 4) if momentum else Fraction(1, 4 + batch)
        for channel in range(2):
            new = mean_and_variance([int(value) for value in x[:, channel]], kind)
            for i in range(2):
                expected[channel][i] = (1 - weight) * expected[channel][i] + weight * new[i]
    assert np.allclose(running.mean, [float(mean) for mean, _ in expected], rtol=1e-14)
    assert np.allclose(running.variance, [float(variance) for _, variance in expected], rtol=1e-14)
    assert running.batches_tracked == 7


def test_as_keras_keeps_them():
    x = np.random.default_rng(41).normal(3, 2, (20, 4))
    mean, variance = np.zeros(4), np.ones(4)
    layer = exactnorm.BatchNorm(4, momentum=1 - 0.99, epsilon=1e-3, variance_kind="biased")
    for _ in range(3):
        layer(x)
        mean = mean * 0.99 + x.mean(axis=0) * (1 - 0.99)
        variance = variance * 0.99 + x.var(axis=0) * (1 - 0.99)
    assert np.allclose(layer.running.mean, mean, rtol=1e-13)
    assert np.allclose(layer.running.variance, variance, rtol=1e-13)
    y = layer(x[:1])  # one value has a biased variance
    assert (y == 0).all()
    layer.running.variance_kind = "unbiased"
    with pytest.raises(ValueError, match="x: has one value per channel"):
        layer(x[:1])


def test_values_are_set_and_read():
    running = exactnorm.RunningStatistics(3)
    running.mean = [1, 2, 3]
    running.variance = torch.tensor([4.0, 5.0, 6.0])
    assert running.mean.tolist() == [1, 2, 3]
    assert running.variance.tolist() == [4, 5, 6]
    running.mean = 7
    assert running.statistics().mean.tolist() == [7, 7, 7]
    running.batches_tracked = 5
    running.batches_refused = (0, 1, 2)
    running.momentum = None
    again = pickle.loads(pickle.dumps(running))
    for other in (again, copy.copy(running), copy.deepcopy(running)):
        assert (other.mean == 7).all()
        assert (other.variance == running.variance).all()
        assert (other.batches_tracked, other.batches_refused, other.momentum) == (5, (0, 1, 2), None)
        assert other.variance_kind == "unbiased"
        other.mean = 0
        assert running.mean[0] == 7


def test_what_would_be_lost_cannot_be_written():
    running = exactnorm.RunningStatistics(2)
    found = exactnorm.statistics(np.ones((3, 2)))
    for array in (running.mean, running.variance, found.mean, found.mean_residual, found.variance, found.inverse_deviation):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 7
    with pytest.raises(TypeError):
        running.batches_refused[0] = 7
    layer = exactnorm.BatchNorm(2)
    with pytest.raises(ValueError, match="read-only"):
        layer.running.mean[:] = 7


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda r: setattr(r, "mean", [1, 2]), ValueError, "mean: has shape (2,); expected a number, or one for each of 3"),
        (lambda r: setattr(r, "mean", [1, 2, np.nan]), ValueError, "mean: is nan in channel 2; expected a finite number"),
        (lambda r: setattr(r, "variance", np.inf), ValueError, "variance: is inf in channel 0"),
        (lambda r: setattr(r, "variance", "1"), TypeError, "variance: is of type str"),
        (lambda r: setattr(r, "variance", [None] * 3), TypeError, "variance: has an element of type NoneType"),
        (lambda r: setattr(r, "variance", np.ones(3, complex)), TypeError, "variance: has dtype complex128"),
        (lambda r: setattr(r, "batches_tracked", -1), ValueError, "batches_tracked: is -1"),
        (lambda r: setattr(r, "batches_tracked", 1.5), TypeError, "batches_tracked: is 1.5"),
        (lambda r: setattr(r, "batches_refused", [1]), ValueError, "batches_refused: has 1 values; expected 3"),
        (lambda r: setattr(r, "batches_refused", [1, -1, 0]), ValueError, "batches_refused: are [1, -1, 0]"),
        (lambda r: setattr(r, "momentum", "a"), TypeError, "momentum: is 'a'"),
        (lambda r: setattr(r, "variance_kind", "b"), ValueError, "variance_kind: is 'b'; expected 'unbiased' or 'biased'"),
        (lambda r: setattr(r, "variance_kind", None), TypeError, "variance_kind: is of type NoneType"),
        (lambda r: r.update(3), TypeError, "batch: is of type int; expected Statistics"),
        (lambda r: exactnorm.RunningStatistics.from_values([1], [1, 2]), ValueError, "variance: has shape (2,)"),
        (lambda r: exactnorm.RunningStatistics(-1), ValueError, "channels: is -1"),
    ],
)  # fmt: skip
def test_errors_name_the_argument_and_change_nothing(change, error, message):
    running = exactnorm.RunningStatistics(3)
    before = pickle.dumps(running)
    with pytest.raises(error) as raised:
        change(running)
    assert message in str(raised.value)
    assert pickle.dumps(running) == before


VARIANCE = np.float32(-9.9998997e-06)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_variance_below_zero_that_epsilon_makes_good(dtype):
    mpmath.mp.prec = 200
    x = np.array([[0.25, -3.0], [1.5, 4.0], [0.75, 0.125]], dtype)
    running = exactnorm.RunningStatistics.from_values([0.5, 1.0], [VARIANCE, 4.0])
    y = exactnorm.batch_norm_inference(x, running.statistics(), [1.5, 1], [0.25, 0])
    exact = 1 / mpmath.sqrt(mpmath.mpf(float(VARIANCE)) + mpmath.mpf(1e-5))
    assert abs(running.statistics().inverse_deviation[0] / exact - 1) < 2.0**-52
    for i in range(3):
        right = (mpmath.mpf(float(x[i, 0])) - 0.5) * exact * 1.5 + 0.25
        assert abs(float(y[i, 0]) / right - 1) < (2.0**-21 if dtype == np.float32 else 2.0**-50)
    theirs = torch.nn.functional.batch_norm(
        torch.tensor(x).double(), torch.tensor([0.5, 1.0]).double(), torch.tensor([float(VARIANCE), 4.0]).double()
    )
    assert np.allclose(exactnorm.batch_norm_inference(x.astype(np.float64), running.statistics()), theirs, rtol=1e-10)


@pytest.mark.parametrize(
    ("variance", "epsilon", "placement", "message"),
    [
        (-1e-5, 1e-5, "variance", "variance: is -1e-05 in channel 0; expected more than -1e-05, so that"),
        (-1.0, 1e-5, "variance", "variance: is -1 in channel 0; expected more than -1e-05"),
        (-1e-9, 0, "variance", "variance: is -1e-09 in channel 0; expected more than 0, as epsilon is 0"),
        (-1e-9, 1e-5, "deviation", "variance: is -1e-09 in channel 0; expected 0 or more, as epsilon is added to its"),
        (np.nan, 1e-5, "variance", "variance: is nan in channel 0; expected a finite number"),
    ],
)
def test_other_variances_are_refused(variance, epsilon, placement, message):
    with pytest.raises(ValueError) as raised:
        exactnorm.given_statistics(0, variance, epsilon=epsilon, epsilon_placement=placement)
    assert message in str(raised.value)
