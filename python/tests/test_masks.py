"""Masks: values and gradients against PyTorch in float64, over the selected elements alone."""

import copy

import numpy as np
import pytest
import torch

import exactnorm

SHAPES = {  # x, channel axes, mask
    "nct": ((4, 3, 9), 1, (4, 9)),
    "nct, keepdims": ((4, 3, 9), 1, (4, 1, 9)),
    "ntc": ((4, 9, 3), -1, (4, 9, 1)),
    "nchw, mask of images": ((6, 3, 4, 5), 1, (6, 1, 1)),
    "nc": ((20, 3), 1, (20,)),
}


def problem(shape, axis, mask_shape, dtype=np.float64):
    generator = np.random.default_rng(5)
    x, dy, residual = (generator.normal(2, 3, shape).astype(dtype) for _ in range(3))
    gamma, beta = generator.normal(size=(2, 3)).astype(dtype)
    mask = generator.random(mask_shape) < 0.6
    full = mask if mask.ndim == x.ndim else np.expand_dims(mask, axis)
    return x, dy, residual, gamma, beta, mask, np.broadcast_to(full, shape)


def of_pytorch(x, gamma, beta, residual, full, axis, masked, activation):
    """Batch normalization by the definition, in PyTorch's operations on leaves that require gradients."""
    leaves = [torch.from_numpy(array.copy()).requires_grad_() for array in (x, gamma, beta, residual)]
    selected = torch.from_numpy(full.copy())
    moved = leaves[0].movedim(axis, 0)
    columns = [channel[chosen] for channel, chosen in zip(moved, selected.movedim(axis, 0), strict=True)]
    mean = torch.stack([column.mean() for column in columns])
    variance = torch.stack([column.var(correction=0) for column in columns])
    along = [1] * x.ndim
    along[axis] = 3
    spread = lambda values: values.reshape(along)  # noqa: E731
    normalized = (leaves[0] - spread(mean)) / torch.sqrt(spread(variance) + 1e-5)
    y = normalized * spread(leaves[1]) + spread(leaves[2]) + leaves[3]
    y = torch.relu(y) if activation else y
    return leaves, y if masked == "normalized" else torch.where(selected, y, torch.zeros_like(y))


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("masked", ["zero", "normalized"])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_values_and_gradients_are_pytorchs(layout, masked, activation):
    shape, axis, mask_shape = SHAPES[layout]
    x, dy, residual, gamma, beta, mask, full = problem(shape, axis, mask_shape)
    given = {"channel_axes": axis, "mask": mask, "masked": masked, "activation": activation, "residual": residual}
    y, found = exactnorm.batch_norm(x, gamma, beta, return_statistics=True, **given)
    leaves, theirs = of_pytorch(x, gamma, beta, residual, full, axis, masked, activation)
    np.testing.assert_allclose(y, theirs.detach().numpy(), rtol=1e-12, atol=1e-13)
    theirs.backward(torch.from_numpy(dy))
    for mine, leaf in zip(exactnorm.batch_norm_backward(dy, x, found, gamma, beta, **given), leaves, strict=True):
        np.testing.assert_allclose(mine, leaf.grad.numpy(), rtol=1e-11, atol=1e-12)


def test_masked_elements_may_be_anything():
    x, dy, _, gamma, beta, mask, full = problem(*SHAPES["nct"])
    y, found = exactnorm.batch_norm(x, gamma, beta, mask=mask, return_statistics=True)
    right = exactnorm.batch_norm_backward(dy, x, found, gamma, mask=mask)
    x[~full], dy[~full] = np.nan, np.inf
    again, of_again = exactnorm.batch_norm(x, gamma, beta, mask=mask, return_statistics=True)
    np.testing.assert_array_equal(again, y)
    assert not again[~full].any()
    np.testing.assert_array_equal(of_again.variance, found.variance)
    for mine, expected in zip(exactnorm.batch_norm_backward(dy, x, found, gamma, mask=mask), right, strict=True):
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int16, np.uint8])
def test_statistics_are_those_of_what_is_selected(dtype):
    generator = np.random.default_rng(8)
    x = generator.integers(0, 250, (50, 7, 3)).astype(dtype)
    mask = generator.random((50, 7)) < 0.3
    found = exactnorm.statistics(x, channel_axes=2, mask=mask)
    expected = exactnorm.statistics(x[mask], channel_axes=1)
    assert found.count == mask.sum()
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.variance, expected.variance)
    parts = exactnorm.Moments(3)
    for rows in (slice(20), slice(20, 50)):
        parts.add(x[rows], channel_axes=2, mask=mask[rows])
    assert parts == exactnorm.Moments.of(x[mask])


def test_untouched_elements_stay():
    x, dy, _, gamma, beta, mask, full = problem(*SHAPES["ntc"])
    out = np.full_like(x, 7)
    assert exactnorm.batch_norm(x, channel_axes=-1, mask=mask, masked="untouched", out=out) is out
    assert (out[~full] == 7).all()
    np.testing.assert_array_equal(out[full], exactnorm.batch_norm(x, channel_axes=-1, mask=mask)[full])
    # A new array has zeros there.
    assert not exactnorm.batch_norm(x, channel_axes=-1, mask=mask, masked="untouched")[~full].any()


def test_a_layer_with_a_mask():
    generator = np.random.default_rng(9)
    layer = exactnorm.BatchNorm(3, activation="relu")
    x, dy = generator.normal(size=(2, 6, 3, 8)).astype(np.float32)
    mask = generator.random((6, 8)) < 0.5
    before = copy.deepcopy(layer.running)
    y = layer(x, mask=mask)
    right, found = exactnorm.batch_norm(x, mask=mask, activation="relu", return_statistics=True)
    np.testing.assert_array_equal(y, right)
    before.update(found)
    np.testing.assert_array_equal(layer.running.variance, before.variance)
    dx = layer.backward(dy, x, mask=mask)
    np.testing.assert_array_equal(
        dx, exactnorm.batch_norm_backward(dy, x, found, mask=mask, activation="relu").dx
    )
    # Nothing selected: running statistics stay, y is 0.
    assert not layer(x, mask=np.zeros((6, 8), bool)).any()
    np.testing.assert_array_equal(layer.running.variance, before.variance)
    assert layer.running.batches_tracked == 1


def test_what_does_not_fit_is_refused():
    x = np.zeros((4, 3, 9), np.float32)
    with pytest.raises(ValueError, match=r"mask: has shape \(4, 3, 9\); expected \(4, 1, 9\) or \(4, 9\)"):
        exactnorm.batch_norm(x, mask=np.ones((4, 3, 9), bool))
    with pytest.raises(ValueError, match="mask: has dtype uint8; expected bool"):
        exactnorm.batch_norm(x, mask=np.ones((4, 9), np.uint8))
    with pytest.raises(ValueError, match="masked: is 'none'; expected 'zero', 'normalized' or 'untouched'"):
        exactnorm.batch_norm(x, mask=np.ones((4, 9), bool), masked="none")
    with pytest.raises(TypeError, match="mask: is of type list"):
        exactnorm.batch_norm(x, mask=[True])
    with pytest.raises(TypeError, match="masked: is of type bool; expected str"):
        exactnorm.batch_norm(x, masked=True)
