"""Weighted moments: against rationals, and against elements that are repeated."""

import copy
import pickle
from fractions import Fraction

import numpy as np
import pytest

import exactnorm


def problem(dtype=np.float32, seed=1):
    generator = np.random.default_rng(seed)
    return generator.normal(1000, 1, (20, 3, 7)).astype(dtype), generator.random((20, 7)), generator


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32])
def test_means_and_variances_are_exact(dtype):
    x, weights, _ = problem(dtype)
    found = exactnorm.WeightedMoments(3).add(x, weights).statistics()
    for channel in range(3):
        values = [Fraction(float(value)) for value in x[:, channel].ravel()]
        of_values = [Fraction(float(weight)) for weight in weights.ravel()]
        total = sum(of_values)
        mean = sum(w * value for w, value in zip(of_values, values, strict=True)) / total
        variance = sum(w * (value - mean) ** 2 for w, value in zip(of_values, values, strict=True)) / total
        assert found.mean[channel] == float(mean)
        assert found.variance[channel] == float(variance)
    assert found.count == 140


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_whole_weights_repeat_elements(dtype):
    x, _, generator = problem(dtype)
    times = generator.integers(0, 4, 20)
    moments = exactnorm.WeightedMoments(3).add(x, times[:, None])
    repeated = exactnorm.Moments.of(np.repeat(x, times, axis=0))
    assert moments.count == repeated.count
    for ours, theirs in (
        (moments.statistics(), repeated.statistics()),
        (moments.normalizing_statistics(), repeated.normalizing_statistics()),
    ):
        np.testing.assert_array_equal(ours.mean, theirs.mean)
        np.testing.assert_array_equal(ours.variance, theirs.variance)
    y = exactnorm.batch_norm_inference(np.repeat(x, times, axis=0), moments.normalizing_statistics())
    np.testing.assert_array_equal(y, exactnorm.batch_norm(np.repeat(x, times, axis=0)))


def test_parts_merge_to_the_same_bits():
    x, weights, _ = problem()
    whole = exactnorm.WeightedMoments(3).add(x, weights)
    parts = [exactnorm.WeightedMoments(3).add(x[rows], weights[rows]) for rows in (slice(5, 20), slice(5))]
    assert parts[0] + parts[1] == whole
    assert pickle.loads(pickle.dumps(whole)) == whole
    assert copy.deepcopy(whole) == whole
    assert parts[0] != whole
    parts[0] += parts[1]
    assert parts[0] == whole
    assert repr(whole) == "<exactnorm.WeightedMoments of 3 channels over 140 elements each>"


def test_weights_of_zero_hide_elements():
    x, weights, _ = problem()
    weights[3:] = 0
    expected = exactnorm.WeightedMoments(3).add(x[:3], weights[:3]).statistics()
    x[3:] = np.nan
    found = exactnorm.WeightedMoments(3).add(x, weights).statistics()
    np.testing.assert_array_equal(found.variance, expected.variance)
    assert found.count == 21
    weights[5, 2] = 1e-300
    assert np.isnan(exactnorm.WeightedMoments(3).add(x, weights).statistics().mean).all()


def test_what_is_impossible_is_refused():
    x, weights, _ = problem()
    moments = exactnorm.WeightedMoments(3)
    with pytest.raises(ValueError, match=r"weights: have -1 as element 0; expected finite numbers, 0 or more"):
        moments.add(x, np.full((20, 7), -1.0))
    with pytest.raises(ValueError, match=r"weights: has shape \(7, 20\); expected \(20, 1, 7\) or \(20, 7\)"):
        moments.add(x, weights.T)
    with pytest.raises(ValueError, match="x: has 20 channels; expected 3"):
        moments.add(x, weights, channel_axes=0)
    with pytest.raises(TypeError, match="weights: is of type list"):
        moments.add(x, [1.0])
    assert moments == exactnorm.WeightedMoments(3)
    found = exactnorm.WeightedMoments(3).add(x, weights).statistics()
    with pytest.raises(ValueError, match="statistics: are of another number of elements in each channel"):
        exactnorm.batch_norm_backward(x, x, found)
