"""Segments: ghost batches and others, against what each array of rows gives alone, and against PyTorch."""

import numpy as np
import pytest
import torch

import exactnorm


def problem(rows=20, dtype=np.float32):
    generator = np.random.default_rng(3)
    x, dy = generator.normal(5, 2, (2, rows, 4, 6)).astype(dtype)
    gamma, beta = generator.normal(size=(2, 4)).astype(dtype)
    return x, dy, gamma, beta


@pytest.mark.parametrize("ids", [[0] * 7 + [1] * 3 + [2] * 10, [i * 7 % 3 for i in range(20)], [3] * 20])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_each_segment_is_an_array_of_its_own(ids, activation):
    x, dy, gamma, beta = problem()
    of = np.array(ids)
    y, found = exactnorm.batch_norm(
        x, gamma, beta, segments=of, activation=activation, return_statistics=True
    )
    again = exactnorm.batch_norm_inference(x, found, gamma, beta, segments=of, activation=activation)
    gradients = exactnorm.batch_norm_backward(dy, x, found, gamma, beta, segments=ids, activation=activation)
    exact = exactnorm.statistics(x, segments=of)
    assert len(found) == len(exact) == max(ids) + 1
    dgamma, dbeta = np.zeros((2, 4))
    for segment, of_segment in enumerate(found):
        rows = of == segment
        assert of_segment.count == 6 * rows.sum()
        if not rows.any():
            assert np.isnan(of_segment.mean).all()
            continue
        right, alone = exactnorm.batch_norm(
            x[rows], gamma, beta, activation=activation, return_statistics=True
        )
        np.testing.assert_array_equal(y[rows], right)
        np.testing.assert_array_equal(again[rows], right)
        np.testing.assert_array_equal(exact[segment].variance, exactnorm.statistics(x[rows]).variance)
        own = exactnorm.batch_norm_backward(dy[rows], x[rows], alone, gamma, beta, activation=activation)
        np.testing.assert_array_equal(gradients.dx[rows], own.dx)
        dgamma += own.dgamma
        dbeta += own.dbeta
    np.testing.assert_allclose(gradients.dgamma, dgamma, rtol=1e-5)
    np.testing.assert_allclose(gradients.dbeta, dbeta, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 9, 64, 127, 128, 129, 255, 1000])
@pytest.mark.parametrize("size", [1, 2, 50, 128])
def test_ghost_batches_are_tabnets(rows, size):
    segments = exactnorm.Segments.even(rows, size)
    x = torch.arange(rows, dtype=torch.float64)[:, None]
    chunks = x.chunk(int(np.ceil(rows / size)), 0)  # pytorch_tabnet's GBN
    found = exactnorm.statistics(x, segments=segments)
    assert [of_chunk.count for of_chunk in found] == [len(chunk) for chunk in chunks]
    np.testing.assert_allclose([of_chunk.mean[0] for of_chunk in found], [chunk.mean() for chunk in chunks])
    exact = [of_chunk.count for of_chunk in exactnorm.statistics(x, segments=exactnorm.Segments.exact(rows, size))]
    assert sum(exact) == rows
    assert all(count == size for count in exact[:-1])
    assert exact[-1] > 1 or rows == 1 or size == 1


def test_running_statistics_of_ghost_batches_are_pytorchs():
    x, *_ = problem(129, np.float64)
    layer = torch.nn.BatchNorm1d(4, momentum=0.01).double()
    right = torch.cat([layer(chunk) for chunk in torch.from_numpy(x).chunk(2)])
    y, found = exactnorm.batch_norm(x, segments=exactnorm.Segments.even(129, 128), return_statistics=True)
    np.testing.assert_allclose(y, right.detach().numpy(), rtol=1e-12, atol=1e-12)
    running = exactnorm.RunningStatistics(4, momentum=0.01)
    for of_batch in found:
        running.update(of_batch)
    np.testing.assert_allclose(running.mean, layer.running_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(running.variance, layer.running_var.numpy(), rtol=1e-12)


def test_a_mask_and_segments():
    x, _, _, _ = problem()
    mask = np.random.default_rng(8).random((20, 6)) < 0.5
    segments = exactnorm.Segments.exact(20, 7)
    y, found = exactnorm.batch_norm(x, mask=mask, segments=segments, return_statistics=True)
    assert [of_batch.count for of_batch in found] == [mask[:7].sum(), mask[7:14].sum(), mask[14:].sum()]
    np.testing.assert_array_equal(y[7:14], exactnorm.batch_norm(x[7:14], mask=mask[7:14]))


def test_what_does_not_fit_is_refused():
    x, dy, _, _ = problem()
    with pytest.raises(ValueError, match="segments: are of 3 rows; expected 20, as x has on axis 0"):
        exactnorm.batch_norm(x, segments=[0, 1, 1])
    with pytest.raises(ValueError, match="segments: have id -1 in row 0; expected 0 to 1"):
        exactnorm.batch_norm(x, segments=[-1, 1])
    with pytest.raises(TypeError, match=r"segments: is of dtype float64 and shape \(1,\); expected Segments, or"):
        exactnorm.batch_norm(x, segments=np.zeros(1))
    with pytest.raises(ValueError, match="segments: are along axis 1, a channel axis"):
        exactnorm.batch_norm(x, segments=exactnorm.Segments([0, 0, 1, 1], 2, axis=1))
    found = exactnorm.statistics(x)
    with pytest.raises(TypeError, match="statistics: is of type exactnorm._core.Statistics; expected a list"):
        exactnorm.batch_norm_inference(x, found, segments=[0] * 20)
    with pytest.raises(TypeError, match="statistics: is of type list; expected Statistics"):
        exactnorm.batch_norm_inference(x, [found])
    with pytest.raises(ValueError, match="statistics: are of 2 segments; expected 1"):
        exactnorm.batch_norm_inference(x, [found, found], segments=[0] * 20)
    with pytest.raises(ValueError, match="frozen: is True; expected False with segments"):
        exactnorm.batch_norm_backward(dy, x, [found], segments=[0] * 20, frozen=True)
    with pytest.raises(ValueError, match="mask: was given; expected none with segments"):
        exactnorm.statistics(x, mask=np.ones((20, 6), bool), segments=[0] * 20)


def test_how_they_look():
    segments = exactnorm.Segments([0, 1, 1], 3)
    assert (segments.count, segments.rows, segments.axis) == (3, 3, 0)
    assert repr(segments) == "<exactnorm.Segments: 3 of 3 rows along axis 0>"
