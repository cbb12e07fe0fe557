"""Training with weights: against PyTorch's autograd of the definition, and against elements that are repeated."""

import numpy as np
import pytest
import torch

import exactnorm


def torch_batch_norm(x, weights, gamma, beta, epsilon, placement):
    """The definition, over all axes but the second."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [1, -1] + [1] * (x.ndim - 2)
    spread = weights.expand_as(x)
    total = spread.sum(axes, keepdim=True)
    mean = (spread * x).sum(axes, keepdim=True) / total
    variance = (spread * (x - mean) ** 2).sum(axes, keepdim=True) / total
    divisor = (variance + epsilon).sqrt() if placement == "variance" else variance.sqrt() + epsilon
    return gamma.view(shape) * (x - mean) / divisor + beta.view(shape)


@pytest.mark.parametrize("placement", ["variance", "deviation"])
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("shape", [(7, 5), (6, 3, 11), (5, 4, 3, 2), (9, 3, 101, 67)])
def test_gradients_are_those_of_autograd(shape, with_residual, activation, placement):
    generator = np.random.default_rng(len(shape))
    channels = shape[1]
    x = generator.normal(3, 2, shape)
    dy = generator.normal(size=shape)
    weights = generator.random((shape[0], 1, *shape[2:])) * (generator.random((shape[0], 1, *shape[2:])) < 0.8)
    gamma, beta = generator.normal(size=channels), generator.normal(size=channels)
    residual = generator.normal(size=shape) if with_residual else None
    keywords = {"activation": activation, "residual": residual, "weights": weights}
    y, found = exactnorm.batch_norm(
        x, gamma, beta, epsilon=1e-3, epsilon_placement=placement, return_statistics=True, **keywords
    )
    gradients = exactnorm.batch_norm_backward(dy, x, found, gamma, beta, **keywords)

    leaves = [torch.tensor(values, requires_grad=True) for values in (x, gamma, beta)]
    expected = torch_batch_norm(leaves[0], torch.tensor(weights), *leaves[1:], 1e-3, placement)
    if with_residual:
        leaves.append(torch.tensor(residual, requires_grad=True))
        expected = expected + leaves[-1]
    if activation is not None:
        expected = getattr(torch.nn.functional, activation)(expected)
    expected.backward(torch.tensor(dy))
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-11, atol=1e-12)
    for ours, leaf in zip(gradients, leaves, strict=True):
        scale = float(leaf.grad.abs().max())
        np.testing.assert_allclose(ours, leaf.grad.numpy(), rtol=1e-10, atol=1e-12 * scale)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_whole_weights_repeat_rows(dtype):
    generator = np.random.default_rng(3)
    x = generator.normal(50, 2, (40, 3, 5)).astype(dtype)
    times = 2 ** generator.integers(0, 3, 40)  # dy of a row shared out among its copies is exact
    dy = generator.normal(size=x.shape).astype(dtype)
    gamma = generator.normal(size=3)
    y, found = exactnorm.batch_norm(x, gamma, weights=times[:, None], return_statistics=True)
    repeated = np.repeat(x, times, axis=0)
    of_repeated, expected = exactnorm.batch_norm(repeated, gamma, return_statistics=True)
    np.testing.assert_array_equal(np.repeat(y, times, axis=0), of_repeated)
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.variance, expected.variance)
    assert found.count == expected.count == 5 * times.sum()

    shared = np.repeat(dy / times.astype(dtype)[:, None, None], times, axis=0)
    ours = exactnorm.batch_norm_backward(dy, x, found, gamma, weights=times[:, None])
    theirs = exactnorm.batch_norm_backward(shared, repeated, expected, gamma)
    first = np.concatenate([[0], np.cumsum(times)[:-1]])
    tolerance = {np.float32: 1e-6, np.float64: 1e-13, np.float16: 2e-3}[dtype]
    np.testing.assert_allclose(ours.dx, theirs.dx[first] * times[:, None, None], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(ours.dbeta, theirs.dbeta, rtol=1e-6)


def test_weights_of_one_are_no_weights():
    generator = np.random.default_rng(4)
    x = generator.normal(1000, 1, (16, 4, 9)).astype(np.float32)
    dy = generator.normal(size=x.shape).astype(np.float32)
    y, found = exactnorm.batch_norm(x, weights=np.ones(1, np.uint8)[:, None], return_statistics=True)
    np.testing.assert_array_equal(y, exactnorm.batch_norm(x))
    plain = exactnorm.batch_norm_backward(dy, x, exactnorm.batch_norm(x, return_statistics=True)[1])
    ours = exactnorm.batch_norm_backward(dy, x, found, weights=np.ones((1, 1, 1), np.uint8))
    np.testing.assert_array_equal(ours.dgamma, plain.dgamma)
    np.testing.assert_array_equal(ours.dbeta, plain.dbeta)
    np.testing.assert_allclose(ours.dx, plain.dx, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(
        exactnorm.statistics(x, weights=np.ones((16, 1, 1))).variance, exactnorm.statistics(x).variance
    )


def test_gradients_may_take_the_place_of_inputs():
    generator = np.random.default_rng(5)
    x, dy, residual = generator.normal(size=(3, 8, 2, 70, 300))
    weights = generator.random((8, 70, 300))
    keywords = {"activation": "relu", "weights": weights}
    found = exactnorm.batch_norm(x, residual=residual, return_statistics=True, **keywords)[1]
    expected = exactnorm.batch_norm_backward(dy, x, found, residual=residual, **keywords)
    ours = exactnorm.batch_norm_backward(
        dy, x, found, residual=residual, out=x, out_residual=dy, threads=1, **keywords
    )
    assert ours.dx is x
    assert ours.d_residual is dy
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_impossible_is_refused():
    x = np.ones((4, 2, 3), np.float32)
    weights = np.ones((4, 3), np.float32)
    found = exactnorm.batch_norm(x, weights=weights, return_statistics=True)[1]
    ids = np.array([0, 0, 1, 1])
    for arguments, message in (
        ({"weights": -weights}, r"weights: have -1 as element 0; expected finite numbers, 0 or more"),
        ({"weights": weights[:3]}, r"weights: has shape \(3, 3\); expected \(4, 1, 3\) or \(4, 3\)"),
        ({"weights": weights, "mask": weights == 1}, "mask: was given; expected none with weights"),
        ({"weights": weights, "segments": ids}, "weights: was given; expected none with segments"),
    ):
        y = np.full_like(x, 7)
        with pytest.raises(ValueError, match=message):
            exactnorm.batch_norm(x, out=y, **arguments)
        assert (y == 7).all()
        with pytest.raises(ValueError, match=message):
            exactnorm.batch_norm_backward(
                x, x, [found, found] if "segments" in arguments else found, out=y, **arguments
            )
        assert (y == 7).all()
    for arguments, message in (
        ({"mask": weights == 1}, "weights: were given with a mask; expected weights of 0"),
        ({"nonfinite": "ignore"}, "weights: were given with nonfinite='ignore'; expected weights of 0"),
        ({"segments": ids}, "weights: was given; expected none with segments"),
    ):
        with pytest.raises(ValueError, match=message):
            exactnorm.statistics(x, weights=weights, **arguments)
    with pytest.raises(ValueError, match="frozen: is True; expected False with weights"):
        exactnorm.batch_norm_backward(x, x, found, weights=weights, frozen=True)
    with pytest.raises(ValueError, match="statistics: are of a count of 12; expected 9, as of weights"):
        exactnorm.batch_norm_backward(x, x, found, weights=np.repeat([[1], [1], [1], [0]], 3, axis=1))
    with pytest.raises(ValueError, match="out: overlaps weights"):
        exactnorm.batch_norm(x[:, :1].copy(), weights=weights, out=weights[:, None])
