"""float16 and bfloat16 arrays: results are those of float32, rounded once by another library."""

from __future__ import annotations

import sys

import exactnorm
import ml_dtypes
import numpy as np
import pytest
import torch

HALVES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
LAYOUTS = {
    "nchw": ((4, 5, 6, 7), 1, lambda x: x),
    "nhwc": ((4, 6, 7, 5), -1, lambda x: x),
    "nc": ((50, 33), 1, lambda x: x),
    "a permuted view with steps": ((4, 5, 6, 14), 2, lambda x: x.transpose(2, 0, 1, 3)[..., ::2]),
}


def same(ours: np.ndarray, right: np.ndarray) -> bool:
    return ours.dtype == right.dtype and (ours.astype(np.float32) == right.astype(np.float32)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_results_are_those_of_float32_rounded_once(dtype, layout, threads):
    shape, axis, view = LAYOUTS[layout]
    rng = np.random.default_rng(4)
    x = view((3 + 2 * rng.normal(size=shape)).astype(dtype))
    dy = view(rng.normal(size=shape).astype(dtype))
    options = {"channel_axes": axis, "threads": threads}
    channels = x.shape[axis]
    gamma, beta = rng.normal(size=(2, channels)).astype(np.float32)
    y, found = exactnorm.batch_norm(x, gamma, beta, **options, return_statistics=True)
    wide_x, wide_dy = x.astype(np.float32), dy.astype(np.float32)
    wide, wide_found = exactnorm.batch_norm(wide_x, gamma, beta, **options, return_statistics=True)
    assert same(y, wide.astype(dtype))
    assert (found.mean == wide_found.mean).all() and (found.variance == wide_found.variance).all()
    assert y.strides == np.empty_like(x).strides
    inferred = exactnorm.batch_norm_inference(x, found, gamma, beta, **options)
    assert same(inferred, wide.astype(dtype))
    ours = exactnorm.batch_norm_backward(dy, x, found, gamma, **options)
    right = exactnorm.batch_norm_backward(wide_dy, wide_x, wide_found, gamma, **options)
    assert same(ours.dx, right.dx.astype(dtype))
    assert same(ours.dgamma, right.dgamma) and same(ours.dbeta, right.dbeta)
    in_place = exactnorm.batch_norm(x, gamma, beta, **options, out=x)
    assert in_place is x and same(x, y)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_parameters_moments_and_running_statistics(dtype):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(30, 3)).astype(dtype)
    moments = exactnorm.Moments(3).add(x).statistics()
    right = exactnorm.Moments(3).add(x.astype(np.float64)).statistics()
    assert (moments.mean == right.mean).all() and (moments.variance == right.variance).all()
    values = np.array([0.5, 1.5, -2], dtype)
    y = exactnorm.batch_norm(x, values, values)
    assert same(y, exactnorm.batch_norm(x, values.astype(np.float64), values.astype(np.float64)))
    given = exactnorm.given_statistics(values, np.abs(values))
    assert given.mean.tolist() == [0.5, 1.5, -2]


def test_pytorchs_bfloat16_is_shared():
    x = torch.randn(20, 3).bfloat16()
    y = exactnorm.batch_norm(x)
    assert y.dtype == ml_dtypes.bfloat16
    right = exactnorm.batch_norm(x.float()).astype(ml_dtypes.bfloat16)
    assert same(y, right)
    out = torch.empty(20, 3, dtype=torch.bfloat16)
    exactnorm.batch_norm(x, out=out)
    assert same(out.float().numpy().astype(ml_dtypes.bfloat16), right)


def test_bfloat16_of_pytorch_needs_ml_dtypes(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(TypeError, match="x: .*is bfloat16, which NumPy has from ml_dtypes alone"):
        exactnorm.batch_norm(torch.ones(2, 3, dtype=torch.bfloat16))
