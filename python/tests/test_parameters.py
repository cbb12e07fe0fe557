"""gamma, beta, and given means and variances as numbers and lists, beside arrays."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import exactnorm
import numpy as np
import pytest
import torch

X = np.random.default_rng(30).normal(3, 2, (7, 3, 5)).astype(np.float32)


def with_parameters(gamma, beta):
    """y in training and in evaluation, and dx, dgamma and dbeta."""
    y, found = exactnorm.batch_norm(X, gamma, beta, return_statistics=True)
    return (
        y,
        exactnorm.batch_norm_inference(X, found, gamma, beta),
        *exactnorm.batch_norm_backward(y, X, found, gamma),
    )


@pytest.mark.parametrize(
    "number",
    [1.5, np.float64(1.5), np.float32(1.5), np.float16(1.5), Fraction(3, 2), Decimal("1.5"), np.array(1.5),
     torch.tensor(1.5)],
    ids=repr,
)  # fmt: skip
def test_a_number_is_that_of_all_channels(number):
    expected = with_parameters(np.full(3, 1.5), np.full(3, 1.5))
    for found, right in zip(with_parameters(number, number), expected, strict=True):
        assert (found == right).all()


@pytest.mark.parametrize(
    "values",
    [[1, 2.5, -3], (1, 2.5, -3), [np.float32(1), np.float64(2.5), -3], [[1], [2.5], [-3]], [[[1], [2.5], [-3]]],
     [np.array([1.0]), np.array([2.5]), np.array([-3.0])], [torch.tensor(1.0), 2.5, Fraction(-3)]],
    ids=repr,
)  # fmt: skip
def test_lists_of_numbers_are_as_arrays(values):
    if np.shape(values) == (3, 1):
        x = X[:, :, 0].T  # (channels, samples)
        found = exactnorm.batch_norm(x, values, values, channel_axes=0)
        assert (found == exactnorm.batch_norm(x, np.array([1, 2.5, -3]), np.array([1, 2.5, -3]), channel_axes=0)).all()
        return
    expected = with_parameters(np.array([1, 2.5, -3]), np.array([1, 2.5, -3]))
    for found, right in zip(with_parameters(values, values), expected, strict=True):
        assert (found == right).all()


def test_numbers_and_lists_where_channels_are_odd():
    x = np.arange(24.0).reshape(2, 3, 4)
    for axes in ((), (0, 2), -1, (2, 0, 1)):
        assert (exactnorm.batch_norm(x, 2, channel_axes=axes) == exactnorm.batch_norm(x, channel_axes=axes) * 2).all()
    gamma = np.arange(8.0).reshape(4, 2)
    expected = exactnorm.batch_norm(x, gamma, channel_axes=(2, 0))
    assert (exactnorm.batch_norm(x, gamma.tolist(), channel_axes=(2, 0)) == expected).all()
    assert exactnorm.batch_norm(np.zeros((4, 0)), 2, [], channel_axes=1).shape == (4, 0)


@pytest.mark.parametrize(
    ("gamma", "error", "message"),
    [
        ("1.5", TypeError, "gamma: is of type str; expected a number, a list of numbers, a NumPy array or an object"),
        (np.str_("1.5"), TypeError, "gamma: is of type numpy.str_; expected a number"),
        (b"1", TypeError, "gamma: is of type bytes"),
        (True, TypeError, "gamma: is of type bool"),
        (np.bool_(True), TypeError, "gamma: is of type numpy.bool"),
        (1j, TypeError, "gamma: is of type complex"),
        (np.complex64(1), TypeError, "gamma: is of type numpy.complex64"),
        ({1.0}, TypeError, "gamma: is of type set"),
        ([1, None, 2], TypeError, "gamma: has an element of type NoneType; expected a number"),
        ([1, "2", 3], TypeError, "gamma: has an element of type str"),
        ([1, [2], 3], ValueError, "gamma: has lists of different lengths"),
        ([[1, 2], [3]], ValueError, "gamma: has lists of different lengths"),
        ([1j, 2, 3], TypeError, "gamma: has an element of type complex"),
        ([1, 10**400, 2], ValueError, "gamma: has a number beyond float64's range"),
        ([1, 2], ValueError, "gamma: has shape (2,); expected one element for each of the 3 channels"),
        (np.ones(3, complex), TypeError, "gamma: has dtype complex128"),
        (np.ma.array([1.0, 2, 3], mask=[0, 1, 0]), TypeError, "gamma: is a masked array"),
    ],
)
def test_what_is_no_parameter_is_named(gamma, error, message):
    out = np.full_like(X, 7)
    for call in (
        lambda: exactnorm.batch_norm(X, gamma, out=out),
        lambda: exactnorm.batch_norm_inference(X, exactnorm.statistics(X), gamma, out=out),
        lambda: exactnorm.batch_norm_backward(X, X, exactnorm.statistics(X), gamma, out=out),
    ):
        with pytest.raises(error) as raised:
            call()
        assert message in str(raised.value)
    assert (out == 7).all()


def test_given_statistics_of_numbers_and_lists():
    arrays = exactnorm.given_statistics(np.array([1.0, 2.0]), np.array([4.0, 4.0]))
    for mean, variance in (([1, 2], [4, 4]), ((1, 2), 4), ([1.0, 2], np.float32(4)), (torch.tensor([1.0, 2]), 4)):
        found = exactnorm.given_statistics(mean, variance)
        assert (found.mean == arrays.mean).all()
        assert (found.variance == arrays.variance).all()
    assert exactnorm.given_statistics(1, [4, 9]).mean.tolist() == [1, 1]
    assert exactnorm.given_statistics(1, 4).channels == 1
    with pytest.raises(TypeError, match="variance: has an element of type NoneType"):
        exactnorm.given_statistics([1, 2], [4, None])
    with pytest.raises(ValueError, match=r"variance: has shape \(3,\); expected 2 elements"):
        exactnorm.given_statistics([1, 2], [4, 5, 6])


def test_arrays_of_data_are_never_lists():
    with pytest.raises(TypeError, match="x: is of type list; expected a NumPy array"):
        exactnorm.batch_norm([[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(TypeError, match=r"x: is of type numpy\.float64; expected a NumPy array"):
        exactnorm.batch_norm(np.float64(1.5))


def test_a_number_beyond_the_range_is_named():
    with pytest.raises(ValueError, match="epsilon: is 1000.*; expected a number within float64's range"):
        exactnorm.batch_norm(X, epsilon=10**400)
